//! A process-wide execution tracer for Rust programs.
pub mod encode;
#[doc(hidden)]
pub mod sync;

#[cfg(doctest)]
#[doc = include_str!("../docs/format.md")]
mod format_md {}
