//! What can go wrong with a session, and what it came to.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::controller::Totals;
use crate::encode::schema::Cause;

/// What a session came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Events in the trace.
    pub events: u64,
    /// Bytes that the writer accepted, or that stand ready for the reader.
    pub bytes: u64,
    /// Events lost, all causes together; the trace says which threads lost how many and why.
    pub lost: u64,
    /// The same by cause: names as in `docs/format.md`. Causes below the line of "event is
    /// missing" only.
    pub lost_by_cause: Vec<(&'static str, u64)>,
    /// Threads that were registered at some time of the session.
    pub threads: u64,
    /// Generations.
    pub generations: u64,
    /// From start to stop.
    pub duration: Duration,
    /// Longest time for which threads were kept out of the recorder.
    pub pause_max: Duration,
    /// Bytes that stand ready for the reader (reading mode), or that the writer did not take.
    pub undelivered: u64,
    /// Threads that stood inside an event when the stop reached its deadline; each lost one event.
    pub stuck_threads: u64,
}

impl Summary {
    pub(crate) fn new(t: &Totals, duration_ns: u64) -> Summary {
        let by = |c: &&Cause| c.is_event() && t.lost[**c as usize] != 0;
        Summary {
            events: t.events,
            bytes: t.bytes,
            lost: t.lost_events(),
            lost_by_cause: Cause::ALL
                .iter()
                .filter(by)
                .map(|c| (c.name(), t.lost[*c as usize]))
                .collect(),
            threads: t.threads,
            generations: t.generations,
            duration: Duration::from_nanos(duration_ns),
            pause_max: Duration::from_nanos(t.pause_max_ns),
            undelivered: 0,
            stuck_threads: t.stuck,
        }
    }
}

/// Why a session did not start. Nothing is left half-started.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A session is running, or one is just being started or stopped.
    AlreadyStarted,
    /// The last session was sealed and [`read_trace`](crate::read_trace) has not given out its end.
    Undelivered,
    /// A setting is out of its range.
    Config(&'static str),
    /// Memory could not be reserved.
    Memory(io::Error),
    /// The thread that writes could not be started.
    Thread(io::Error),
    /// The file could not be made.
    File(io::Error),
    /// Called where it would wait for itself: the writer, or inside an event.
    WouldDeadlock,
    /// Called in a child that shares its parent's memory (`vfork`).
    InVforkChild,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyStarted => f.write_str("a trace session is already running"),
            Self::Undelivered => f.write_str("the last trace session was not read to its end"),
            Self::Config(what) => write!(f, "trace configuration: {what}"),
            Self::Memory(e) => write!(f, "trace memory could not be reserved: {e}"),
            Self::Thread(e) => write!(f, "the trace's writing thread could not be started: {e}"),
            Self::File(e) => write!(f, "the trace file could not be made: {e}"),
            Self::WouldDeadlock => f.write_str("called from the trace's writer or from an event"),
            Self::InVforkChild => f.write_str("called in a vfork child"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Memory(e) | Self::Thread(e) | Self::File(e) => Some(e),
            _ => None,
        }
    }
}

/// Why a session did not stop, or did not stop cleanly.
#[derive(Debug)]
#[non_exhaustive]
pub enum StopError {
    /// No session is running.
    NotStarted,
    /// Called from the session's writer or from inside an event;
    /// [`request_stop`](crate::request_stop) may be called there.
    WouldDeadlock,
    /// Called in a child that shares its parent's memory (`vfork`).
    InVforkChild,
    /// The writer had not taken everything before the deadline. Recording is off; the writer's
    /// thread goes on by itself, and a new session can start when it is done.
    Timeout(Summary),
    /// The writer failed, or panicked. Recording is off; what it accepted is a valid trace without
    /// an end mark.
    Write {
        /// The first error.
        error: io::Error,
        /// What the session came to.
        summary: Summary,
    },
}

impl StopError {
    /// What the session came to, where it was stopped all the same.
    pub fn summary(&self) -> Option<&Summary> {
        match self {
            Self::Timeout(summary) | Self::Write { summary, .. } => Some(summary),
            _ => None,
        }
    }
}

impl fmt::Display for StopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted => f.write_str("no trace session is running"),
            Self::WouldDeadlock => f.write_str("called from the trace's writer or from an event"),
            Self::InVforkChild => f.write_str("called in a vfork child"),
            Self::Timeout(s) => {
                write!(f, "the trace's writer did not take {} bytes in time", s.undelivered)
            }
            Self::Write { error, .. } => write!(f, "the trace's writer failed: {error}"),
        }
    }
}

impl std::error::Error for StopError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Write { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Why nothing can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// Another thread is reading; it is not disturbed.
    Busy,
    /// No session was started with [`Config::start_reading`](crate::Config::start_reading).
    NotStarted,
    /// Called from inside an event.
    WouldDeadlock,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "another thread is reading the trace",
            Self::NotStarted => "no trace session is there to be read",
            Self::WouldDeadlock => "called from inside an event",
        })
    }
}

impl std::error::Error for ReadError {}
