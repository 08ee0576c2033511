//! The `exectrace` command.
#![forbid(unsafe_code)]
fn main() {}
