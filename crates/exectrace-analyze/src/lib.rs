//! What the events of a trace add up to: spans and tasks from their beginning to their end, how
//! long they took, and where they ran.
//!
//! Sans-I/O and streaming: it is fed with the events that a [`Decoder`](trace_decode::Decoder)
//! gives out, in the order of time, and tells of a span or a task when it ends. What is selected
//! and what is printed is the caller's.
//!
//! 1. Memory does not grow with the number of events: it is bounded by what is open at one moment
//!    and by distinct names, each with a limit here. What is beyond a limit is counted, never
//!    dropped in silence.
//! 2. Unknown is `None`, and a counted case: an end without a beginning, a beginning without an
//!    end.
//! 3. Names are bytes of the trace: they are untrusted, and whoever prints them escapes them.
#![forbid(unsafe_code)]

pub mod coverage;
pub mod latency;
pub mod meanwhile;
pub mod names;
pub mod sched;
pub mod spans;
mod streams;
pub mod stuck;
pub mod tasks;
pub mod waits;

pub use crate::coverage::Estimate;
pub use crate::latency::Bucket;
pub use crate::latency::Latencies;
pub use crate::latency::Percentile;
pub use crate::meanwhile::Meanwhile;
pub use crate::names::Name;
pub use crate::names::NameId;
pub use crate::names::Names;
pub use crate::sched::Sched;
pub use crate::spans::Span;
pub use crate::spans::Spans;
pub use crate::tasks::Run;
pub use crate::tasks::Task;
pub use crate::tasks::Tasks;
pub use crate::waits::Wait;
pub use crate::waits::Waits;
