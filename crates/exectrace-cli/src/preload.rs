//! The library that `exectrace record` preloads: built by the build script, inside the command, so
//! that one file installs it all.

/// Its bytes; none where it was not built.
pub static LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libexectrace_preload.so"));
