//! What the kernel says of a program's threads: when each got a CPU and when it lost it, and where
//! it ran. Beside that, what the kernel had this process ignore when it began.
//!
//! The events of `perf_event_open` are opened by the recording process on itself, one for each CPU,
//! asleep; the program inherits them when it is forked off, and they wake up as it executes. Its
//! threads and children inherit them in turn. The kernel writes what it sees into a ring for each
//! CPU, which only the recording process reads: the program has no descriptor and no memory of it.
//!
//! Nothing of the kernel's own is asked for, so that an unprivileged user may do it where
//! `/proc/sys/kernel/perf_event_paranoid` is 2 or less.
//!
//! 1. What stands in a ring is checked before it is believed, although the kernel wrote it.
//! 2. Records are given out in the order of time, over all CPUs.
//! 3. A ring that has filled up is noticed: what was lost is counted, or known to be unknown.

mod attr;
mod begun;
mod record;
mod ring;
mod sys;
mod watch;

pub use begun::pipe_was_ignored;
pub use record::Record;
pub use record::What;
pub use watch::Options;
pub use watch::Watch;
pub use watch::is_allowed;
pub use watch::refusal;
