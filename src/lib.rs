//! A process-wide execution tracer for Rust programs.
#[doc(hidden)]
pub mod buf;
#[doc(hidden)]
pub mod clock;
pub mod encode;
#[doc(hidden)]
pub mod intern;
#[doc(hidden)]
pub mod stacktab;
#[doc(hidden)]
pub mod stringtab;
#[doc(hidden)]
pub mod sync;
#[doc(hidden)]
pub mod sys;

#[cfg(doctest)]
#[doc = include_str!("../docs/format.md")]
mod format_md {}
