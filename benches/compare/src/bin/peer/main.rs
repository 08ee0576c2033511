//! One tracer at work in a process of its own, so that no other disturbs it: does one job of
//! `compare`, prints what it measured as lines of a word and a number, and ends.
//!
//! 1. A binary holds one peer, chosen by a feature; without one it holds a peer that does nothing.
//! 2. What is measured is written once, in `job.rs`, for all peers: a peer only says how it is
//!    started, how an event and a span are written with it, and what its file holds.
//! 3. Counts of events come from the file that the peer wrote, not from what the peer says of it.

mod job;
mod measure;

#[cfg(feature = "dial9")]
#[path = "dial9.rs"]
mod chosen;
#[cfg(feature = "exectrace")]
#[path = "exectrace.rs"]
mod chosen;
#[cfg(feature = "fastrace")]
#[path = "fastrace.rs"]
mod chosen;
#[cfg(feature = "lttng")]
#[path = "lttng.rs"]
mod chosen;
#[cfg(feature = "perfetto")]
#[path = "perfetto.rs"]
mod chosen;
#[cfg(feature = "puffin")]
#[path = "puffin.rs"]
mod chosen;
#[cfg(feature = "tracing")]
#[path = "tracing.rs"]
mod chosen;
#[cfg(feature = "tracy")]
#[path = "tracy.rs"]
mod chosen;
#[cfg(not(any(
    feature = "dial9",
    feature = "exectrace",
    feature = "fastrace",
    feature = "lttng",
    feature = "perfetto",
    feature = "puffin",
    feature = "tracing",
    feature = "tracy",
)))]
#[path = "nothing.rs"]
mod chosen;

use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

/// What went wrong, in words.
type Failure = Box<dyn Error>;

/// Which of the two things a job writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Events without a length, with one number.
    Instant,
    /// Stretches of time, begun and ended.
    Span,
}

/// What stands in a peer's file.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// Instants or spans.
    events: u64,
    /// Their bytes before the peer packed them, where it packs.
    unpacked: Option<u64>,
}

/// How a recording ended.
#[derive(Clone, Copy, Debug, Default)]
struct Finished {
    /// When the file was complete, where that was before `finish` gave back.
    complete: Option<Instant>,
    /// How many events were lost, by the peer's own account.
    lost: Option<u64>,
}

/// Reads a peer's file by its own reader; gives how many events it saw.
type Read = fn(&Path) -> Result<u64, Failure>;

/// A tracer.
trait Peer: Sync + Sized {
    /// Compiled in, ready, and off.
    fn off() -> Result<Self, Failure>;

    /// Recording to files in `dir`. `how` is what `compare` says of the peer's set-up.
    fn on(dir: &Path, how: &str) -> Result<Self, Failure>;

    /// Does work that emits, inside what the peer wants to stand around a stretch of it.
    fn inside(&self, work: &mut dyn FnMut()) {
        work();
    }

    /// Emits `n` instants with one small number.
    fn instants(&self, n: u64);

    /// Begins and ends `n` spans.
    fn spans(&self, n: u64);

    /// Ends the recording, and gives back when its file is complete.
    fn finish(self) -> Result<Finished, Failure>;

    /// Counts what the file holds.
    fn count(dir: &Path, kind: Kind) -> Result<Found, Failure>;

    /// The peer's own readers, by what they do.
    fn readers() -> &'static [(&'static str, Read)] {
        &[]
    }
}

/// What `compare` asks for.
struct Task {
    job: String,
    /// An empty folder.
    dir: PathBuf,
    how: String,
    /// How many events a flood has.
    events: u64,
    /// How long the time of an event is measured.
    millis: u64,
}

impl Task {
    fn parse() -> Result<Task, Failure> {
        let mut args = std::env::args().skip(1);
        let mut next = || args.next().ok_or("usage: peer JOB DIR HOW EVENTS MILLIS");
        Ok(Task {
            job: next()?,
            dir: next()?.into(),
            how: next()?,
            events: next()?.parse()?,
            millis: next()?.parse()?,
        })
    }
}

fn main() {
    let done = Task::parse().and_then(|task| job::run::<chosen::Recorder>(&task));
    let code = match done {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("{e}");
            1
        }
    };
    let _ = std::io::stdout().flush();
    // SAFETY: ends the process at once. Nothing is left to be done at exit, and some peers never
    // return from what they do there.
    unsafe { libc::_exit(code) }
}
