//! What each thread attempted, event by event: the model against which traces are held.
//!
//! 1. Each attempt is entered, with its outcome, by the thread that made it. Its handlers have
//!    places of their own, since they may come between a place and what is entered there.
//! 2. Nothing here allocates or locks once a ledger is made, so that handlers may use it.
//! 3. The number of an event says where it is entered: `ledger << 32 | handler << 31 | place`.

use std::cell::Cell;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use trace::Outcome;
use trace::encode::schema::CAUSES;

/// What was attempted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Op {
    Probe = 1,
    Fields,
    Count,
    Log,
    Span,
    Task,
    // From here on the event does not bear its number.
    SpanEnd,
    TaskEnd,
    TaskSwitch,
}

const OPS: [Op; 9] = [
    Op::Probe,
    Op::Fields,
    Op::Count,
    Op::Log,
    Op::Span,
    Op::Task,
    Op::SpanEnd,
    Op::TaskEnd,
    Op::TaskSwitch,
];

/// An entry: what, what became of it, and the task that an end or a switch names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub op: Op,
    pub outcome: Told,
    pub task: u64,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Off,
    Recorded,
    Nested,
    Lost(usize),
}

pub struct Ledger {
    pub number: u32,
    pub own: Places,
    pub handlers: Places,
    /// Threads that this one has created by `trace::thread`, while it may have recorded.
    pub creates: AtomicU32,
    /// How often its thread is registered, at most, and ends: again where it emits once more at its
    /// very end.
    pub lives: AtomicU32,
}

/// Entries in the order of the attempts.
pub struct Places {
    entries: Box<[AtomicU64]>,
    next: AtomicU32,
}

const HANDLER: u64 = 1 << 31;

impl Ledger {
    pub fn new(number: u32, own: usize, handlers: usize) -> Ledger {
        let places = |n| Places {
            entries: (0..n).map(|_| AtomicU64::new(0)).collect(),
            next: AtomicU32::new(0),
        };
        Ledger {
            number,
            own: places(own),
            handlers: places(handlers),
            creates: AtomicU32::new(0),
            lives: AtomicU32::new(1),
        }
    }

    /// The thread's name, by which a trace tells whose events they are.
    pub fn name(&self) -> String {
        format!("soak-{}", self.number)
    }

    /// Numbers for the next `n` attempts, or nothing when the ledger is full.
    pub fn claim(&self, handler: bool, n: u32) -> Option<u64> {
        let (places, bit) = if handler { (&self.handlers, HANDLER) } else { (&self.own, 0) };
        // One addition, so that a handler that comes now gets other places.
        let at = places.next.fetch_add(n, Relaxed);
        let end = at.checked_add(n)? as usize;
        (end <= places.entries.len()).then(|| u64::from(self.number) << 32 | bit | u64::from(at))
    }

    /// Enters what became of the attempt `n`.
    pub fn enter(&self, n: u64, op: Op, task: u64, outcome: Outcome) {
        let told = match outcome {
            Outcome::Off => 1,
            Outcome::Recorded => 2,
            Outcome::Nested => 3,
            Outcome::Lost(cause) => 4 + cause as u64,
            _ => panic!("an outcome that the model does not know"),
        };
        assert!(task < 1 << 48);
        let places = if n & HANDLER != 0 { &self.handlers } else { &self.own };
        places.entries[place(n)].store(task << 16 | told << 8 | op as u64, Relaxed);
    }

    /// Losses that were told, by cause.
    pub fn lost(&self) -> [u64; CAUSES] {
        let mut lost = [0; CAUSES];
        for (_, e) in self.own.all().chain(self.handlers.all()) {
            if let Told::Lost(cause) = e.outcome {
                lost[cause] += 1;
            }
        }
        lost
    }
}

/// Whether the event `n` is a handler's.
pub fn is_handlers(n: u64) -> bool {
    n & HANDLER != 0
}

/// The number of the ledger of the event `n`.
pub fn ledger_of(n: u64) -> u32 {
    (n >> 32) as u32
}

/// The place of the event `n` in its ledger.
pub fn place(n: u64) -> usize {
    (n & (HANDLER - 1)) as usize
}

impl Places {
    /// The entry at a place; `None` where nothing was entered.
    pub fn at(&self, place: usize) -> Option<Entry> {
        let word = self.entries.get(place)?.load(Relaxed);
        let outcome = match word >> 8 & 0xff {
            0 => return None,
            1 => Told::Off,
            2 => Told::Recorded,
            3 => Told::Nested,
            cause => Told::Lost(cause as usize - 4),
        };
        Some(Entry { op: OPS[(word & 0xff) as usize - 1], outcome, task: word >> 16 })
    }

    /// All entries with their places, in the order of the attempts.
    pub fn all(&self) -> impl Iterator<Item = (usize, Entry)> {
        let n = (self.next.load(Relaxed) as usize).min(self.entries.len());
        (0..n).filter_map(|i| Some((i, self.at(i)?)))
    }
}

thread_local! {
    static MINE: Cell<Option<&'static Ledger>> = const { Cell::new(None) };
}

/// The calling thread's ledger, for handlers.
pub fn mine() -> Option<&'static Ledger> {
    MINE.get()
}

/// Makes the ledger the calling thread's, or takes it away.
///
/// # Safety
///
/// - The ledger lives until it is taken away, or the thread has ended.
pub unsafe fn set_mine(ledger: Option<&Ledger>) {
    // SAFETY: the caller's duty.
    MINE.set(unsafe { std::mem::transmute::<Option<&Ledger>, Option<&'static Ledger>>(ledger) });
}
