//! A process-wide execution tracer for Rust programs.
pub mod encode;

#[cfg(doctest)]
#[doc = include_str!("../docs/format.md")]
mod format_md {}
