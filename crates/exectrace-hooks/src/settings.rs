//! What is recorded: classes of calls, with or without stacks.

use std::fmt;
use std::ops::BitOr;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use trace::block::SLEPT_NS;

/// A set of classes of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes(u32);

impl Classes {
    /// None.
    pub const NONE: Classes = Classes(0);
    /// Locks, condition variables, semaphores, joins.
    pub const LOCKS: Classes = Classes(1);
    /// Files and pipes.
    pub const IO: Classes = Classes(2);
    /// Sockets, polling, name resolution.
    pub const NET: Classes = Classes(4);
    /// Sleeps.
    pub const SLEEP: Classes = Classes(8);
    /// Yields.
    pub const SCHED: Classes = Classes(16);
    /// Waits for processes and signals.
    pub const PROCESS: Classes = Classes(32);
    /// What is recorded unless it is said otherwise: all but yields.
    pub const DEFAULT: Classes = Classes(1 | 2 | 4 | 8 | 32);

    const NAMES: [(&'static str, Classes); 6] = [
        ("locks", Classes::LOCKS),
        ("io", Classes::IO),
        ("net", Classes::NET),
        ("sleep", Classes::SLEEP),
        ("sched", Classes::SCHED),
        ("process", Classes::PROCESS),
    ];

    /// The class with this name.
    pub fn named(name: &str) -> Option<Classes> {
        Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, class)| *class)
    }

    /// Whether all of `other` are among them.
    pub fn has(self, other: Classes) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Classes {
    type Output = Classes;

    fn bitor(self, other: Classes) -> Classes {
        Classes(self.0 | other.0)
    }
}

/// How the preloaded library records, as its environment variable says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Which calls.
    pub classes: Classes,
    /// Whether waits have stacks.
    pub stacks: bool,
    /// Most frames of a stack; 0: as many as there may be.
    pub depth: usize,
    /// Most memory of the recorder; 0: its own default.
    pub memory_bytes: u64,
    /// Whether children are recorded too.
    pub follow: bool,
    /// Whether stacks are walked by unwind tables; else by frame pointers.
    pub tables: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            classes: Classes::DEFAULT,
            stacks: true,
            depth: 0,
            memory_bytes: 0,
            follow: true,
            tables: true,
        }
    }
}

/// The options that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseOptionsError(String);

impl fmt::Display for ParseOptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not understood: {:?}", self.0)
    }
}

impl std::error::Error for ParseOptionsError {}

impl Options {
    /// Reads `classes=locks,io;stacks=1;depth=64;memory=67108864;follow=1;tables=1`, any part of
    /// it.
    ///
    /// # Errors
    ///
    /// A part has another name or another value.
    pub fn parse(text: &str) -> Result<Options, ParseOptionsError> {
        let mut options = Options::default();
        for part in text.split(';').filter(|p| !p.is_empty()) {
            let wrong = || ParseOptionsError(part.to_owned());
            let (name, value) = part.split_once('=').ok_or_else(wrong)?;
            let number = || value.parse::<u64>().map_err(|_| wrong());
            match name {
                "classes" => {
                    options.classes = Classes::NONE;
                    for class in value.split(',').filter(|c| !c.is_empty()) {
                        options.classes =
                            options.classes | Classes::named(class).ok_or_else(wrong)?;
                    }
                }
                "stacks" => options.stacks = number()? != 0,
                "follow" => options.follow = number()? != 0,
                "tables" => options.tables = number()? != 0,
                "depth" => options.depth = number()? as usize,
                "memory" => options.memory_bytes = number()?,
                _ => return Err(wrong()),
            }
        }
        Ok(options)
    }
}

static CLASSES: AtomicU32 = AtomicU32::new(Classes::DEFAULT.0);
static STACKS: AtomicU32 = AtomicU32::new(1);
static SLEPT_TICKS: AtomicU64 = AtomicU64::new(0);

/// Sets what is recorded from here on; without it the defaults hold.
pub fn set(options: &Options) {
    CLASSES.store(options.classes.0, Relaxed);
    STACKS.store(options.stacks.into(), Relaxed);
}

/// Whether this class is recorded.
#[inline(always)]
pub(crate) fn wants(class: Classes) -> bool {
    CLASSES.load(Relaxed) & class.0 != 0
}

/// Whether waits have stacks.
#[inline(always)]
pub(crate) fn stacks() -> bool {
    STACKS.load(Relaxed) != 0
}

/// The age, in scaled ticks, from which a call counts as one that slept.
#[inline]
pub(crate) fn slept_ticks() -> u64 {
    match SLEPT_TICKS.load(Relaxed) {
        0 => {
            let rate = trace::clock::Clock::get().rate();
            let ticks = (u128::from(rate) * u128::from(SLEPT_NS) / 1_000_000_000).max(1) as u64;
            SLEPT_TICKS.store(ticks, Relaxed);
            ticks
        }
        ticks => ticks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_refused() {
        assert_eq!(Options::parse(""), Ok(Options::default()));
        let all = "classes=locks,sched;stacks=0;depth=64;memory=67108864;follow=0;tables=0";
        let expected = Options {
            classes: Classes::LOCKS | Classes::SCHED,
            stacks: false,
            depth: 64,
            memory_bytes: 64 << 20,
            follow: false,
            tables: false,
        };
        assert_eq!(Options::parse(all), Ok(expected));
        assert_eq!(Options::parse("classes=").map(|o| o.classes), Ok(Classes::NONE));
        for wrong in ["classes=lock", "stacks", "stacks=yes", "depth=-1", "colour=1"] {
            assert!(Options::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Classes::DEFAULT.has(Classes::IO) && !Classes::DEFAULT.has(Classes::SCHED));
    }
}
