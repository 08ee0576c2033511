//! What a session is told: bounds, overflow, stacks.

use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::encode::schema::Class;
use crate::encode::wire::BATCH_BYTES_MAX;
use crate::encode::wire::FRAMES_MAX;
use crate::session::StartError;
use crate::sys;

/// What an emitting thread does when the memory bound is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// The event is not recorded; it is counted, and the count stands in the trace.
    Count,
    /// The thread waits until a buffer is free, for so long at most; then as `Count`.
    ///
    /// The writer's thread, the thread that reads with [`read_trace`](crate::read_trace) and
    /// events inside other events never wait.
    Wait {
        /// Longest wait of one event.
        at_most: Duration,
    },
}

/// How a session records. Build one, then call [`start`](Config::start) or
/// [`start_reading`](Config::start_reading).
///
/// ```
/// let trace = std::fs::File::create(std::env::temp_dir().join("config-doc.trace")).unwrap();
/// trace::Config::new().memory_bytes(32 << 20).stack_depth(64).start(trace).unwrap();
/// let summary = trace::stop().unwrap();
/// assert_eq!(summary.lost, 0);
/// # std::fs::remove_file(std::env::temp_dir().join("config-doc.trace")).unwrap();
/// ```
#[derive(Clone, Debug)]
#[must_use = "a Config does nothing until it is started"]
pub struct Config {
    pub(crate) memory_bytes: u64,
    pub(crate) overflow: Overflow,
    pub(crate) stack_depth: usize,
    pub(crate) stack_classes: u64,
    pub(crate) generation: Duration,
    pub(crate) snapshot: bool,
    pub(crate) stop_timeout: Duration,
    pub(crate) fence: bool,
    pub(crate) mapping_dir: Option<PathBuf>,
}

/// A kind of event that may capture the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StackKind {
    /// `instant!`.
    Instant,
    /// `counter!`.
    Counter,
    /// `log!`.
    Log,
    /// `span!` and `span()`.
    Span,
    /// `task!`.
    Task,
}

impl StackKind {
    fn bit(self) -> u64 {
        let class = match self {
            StackKind::Instant => Class::Instant,
            StackKind::Counter => Class::Counter,
            StackKind::Log => Class::Log,
            StackKind::Span => Class::Span,
            StackKind::Task => Class::Task,
        };
        1 << class as u64
    }
}

/// The least memory with which a session can work.
const MEMORY_BYTES_MIN: u64 = 2 << 20;
/// The bound unless another is set: this, or a sixteenth of the control group's memory limit. Of
/// each process of a recorded tree it is less.
const MEMORY_BYTES: u64 = if cfg!(exectrace_preload) { 64 << 20 } else { 256 << 20 };

impl Default for Config {
    fn default() -> Self {
        let _errno = sys::Errno::save();
        let limit = sys::cgroup_memory_limit().unwrap_or(u64::MAX);
        Config {
            memory_bytes: (limit / 16).clamp(MEMORY_BYTES_MIN, MEMORY_BYTES),
            overflow: Overflow::Count,
            stack_depth: FRAMES_MAX,
            stack_classes: StackKind::Task.bit() | StackKind::Log.bit(),
            generation: Duration::from_secs(1),
            snapshot: true,
            stop_timeout: Duration::from_secs(10),
            fence: std::env::var_os("EXECTRACE_FENCE").is_some_and(|v| v == "1"),
            mapping_dir: None,
        }
    }
}

impl Config {
    /// The defaults: at most 256 MiB (or a sixteenth of the control group's limit), events beyond
    /// that counted, stacks of up to 128 frames at tasks and logs, generations of one second.
    pub fn new() -> Config {
        Config::default()
    }

    /// Most memory that the recorder uses, in bytes: buffers and tables. At least 2 MiB.
    ///
    /// Beside it stand 5 KiB for each thread alive at the same time, and 2 MiB for live tasks,
    /// from the first one on.
    pub fn memory_bytes(mut self, bytes: u64) -> Config {
        self.memory_bytes = bytes;
        self
    }

    /// What an emitting thread does when the memory bound is reached.
    pub fn overflow(mut self, overflow: Overflow) -> Config {
        self.overflow = overflow;
        self
    }

    /// Most frames of a stack: 1 to 128. A deeper one is cut and says so.
    pub fn stack_depth(mut self, frames: usize) -> Config {
        self.stack_depth = frames;
        self
    }

    /// Which kinds of event capture the stack, instead of tasks and logs. A stack of 16 frames
    /// costs about three times the event without it.
    pub fn stacks(mut self, kinds: impl IntoIterator<Item = StackKind>) -> Config {
        self.stack_classes = kinds.into_iter().fold(0, |bits, k| bits | k.bit());
        self
    }

    /// Length of a generation: how often partly filled buffers are collected, at least 1 ms.
    pub fn generation(mut self, length: Duration) -> Config {
        self.generation = length;
        self
    }

    /// Whether start and stop write down what each thread is doing (on by default).
    pub fn thread_snapshot(mut self, on: bool) -> Config {
        self.snapshot = on;
        self
    }

    /// How long [`stop`](crate::stop) waits (10 s unless set): at most half of it for threads that
    /// stand inside an event, under a debugger for instance, and then for the writer.
    pub fn stop_timeout(mut self, at_most: Duration) -> Config {
        self.stop_timeout = at_most;
        self
    }

    /// Does without membarrier: every event costs a fence more. For sandboxes that punish the
    /// system call; where it is merely refused, this happens by itself.
    #[doc(hidden)]
    pub fn fence_mode(mut self, on: bool) -> Config {
        self.fence = on;
        self
    }

    /// Puts the mapping into a file in `dir`, on a tmpfs, so that another process can read it.
    #[doc(hidden)]
    pub fn mapping_dir(mut self, dir: impl AsRef<Path>) -> Config {
        self.mapping_dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Starts a session that writes to `writer`, from a thread of its own, until
    /// [`stop`](crate::stop).
    ///
    /// # Errors
    ///
    /// As [`start`](crate::start).
    pub fn start(self, writer: impl Write + Send + 'static) -> Result<(), StartError> {
        crate::session::begin(self, Some(Box::new(writer)))
    }

    /// Starts a session without a writer: the caller takes the trace with
    /// [`read_trace`](crate::read_trace). No thread is started.
    ///
    /// # Errors
    ///
    /// As [`start`](crate::start).
    pub fn start_reading(self) -> Result<(), StartError> {
        crate::session::begin(self, None)
    }

    /// How the bound is divided.
    pub(crate) fn budget(&self) -> Result<Budget, StartError> {
        let bad = |what| Err(StartError::Config(what));
        if self.memory_bytes < MEMORY_BYTES_MIN {
            return bad("memory_bytes must be at least 2 MiB");
        }
        if !(1..=FRAMES_MAX).contains(&self.stack_depth) {
            return bad("stack_depth must be 1 to 128");
        }
        if self.generation < Duration::from_millis(1) {
            return bad("generation must be at least 1 ms");
        }
        // A sixteenth for the stacks of each of two epochs; 12 words hold a stack of ten frames.
        let stack_words = (self.memory_bytes / 16 / 8).min(1 << 24) as usize;
        let stacks_max = (stack_words / 12).clamp(64, 1 << 20) as u32;
        let tables = 2 * (stack_words as u64 + 2 * u64::from(stacks_max)) * 8;
        let buffers = self.memory_bytes.saturating_sub(tables) / BATCH_BYTES_MAX as u64;
        let buffers_cap = buffers.clamp(16, 1 << 17) as u32;
        Ok(Budget { buffers_cap, segments_max: (buffers_cap / 4).max(2), stacks_max, stack_words })
    }
}

/// The memory bound, divided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub buffers_cap: u32,
    pub segments_max: u32,
    pub stacks_max: u32,
    pub stack_words: usize,
}
