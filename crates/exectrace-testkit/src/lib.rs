//! Traces built by hand, from the definitions of the format alone, and what tests expect of them.
//!
//! The builder shares nothing with the recorder but `trace::encode`, and nothing with the decoder:
//! what it writes is a third opinion on docs/format.md.
#![forbid(unsafe_code)]

pub mod build;
pub mod expect;
pub mod hostile;
pub mod program;
pub mod sample;
pub mod work;

pub use crate::build::Body;
pub use crate::build::Field;
pub use crate::build::TraceBuilder;
pub use crate::build::sealed;
