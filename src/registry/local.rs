//! The private half of a thread's state: thread-local, without a destructor, read by every event.
//!
//! It may hold pointers, since nobody else reads it. Everything in it but `busy` is touched inside
//! the section or by the cold path only, so that a handler that interrupts an event finds it whole.

use std::cell::Cell;
use std::ptr;

use crate::mapping::record::Record;
use crate::sync::AtomicU32;
use crate::sync::AtomicU64;
use crate::sync::Ordering::Relaxed;

/// Stands in for the record of a thread that has none: always busy, so that the one test of the
/// hot path sends it to the cold one.
static NOBODY: AtomicU64 = AtomicU64::new(u64::MAX);

/// A gate that never matches, for threads without a record.
static SHUT: AtomicU32 = AtomicU32::new(0);

/// The thread does not record: the controller's own thread.
pub const MUTED: u32 = 1;
/// The thread never waits for a free buffer: it is the one that makes them free.
pub const NEVER_WAITS: u32 = 2;
/// The thread is pausing the others.
pub const PAUSES: u32 = 4;
/// The thread is being registered.
pub const REGISTERS: u32 = 8;
/// The next buffer begins with `ThreadStart`.
pub const STARTS: u32 = 16;
/// Events go through the cold path: fence mode, or a clock without a counter.
pub const SLOW: u32 = 32;
/// The thread is ending the session, or holds the lock of its controller, or waits for that.
pub const CONTROLS: u32 = 64;

/// The next buffer begins with `State` in any case: an event that changed the state was lost.
pub const RESTATES: u32 = 128;

/// Hooks say nothing of what the thread does: it is inside one.
pub const SILENT: u32 = 256;

/// The thread's name was looked at since it was registered.
pub const NAMED: u32 = 512;

/// The destructor of the exit key has run once; twice.
pub const GOES: u32 = 1024;
/// As above.
pub const GOES_ON: u32 = 2048;

/// Places of spans below which an end out of order is known by its place.
const PLACES_MAX: u32 = 256;

/// Places of spans that can be in another copy's session too.
pub const ELSEWHERE_MAX: usize = 64;

/// A generation that the gate never shows, so that the hot path never goes on.
pub const NEVER: u32 = u32::MAX;

/// The private half of a thread's state. In this order: what each event reads stands first, in one
/// line of the cache.
#[derive(Debug)]
#[repr(C)]
pub struct Local {
    /// The record's busy word, or `NOBODY`.
    pub busy: Cell<*const AtomicU64>,
    /// The gate in the mapping.
    pub gate: Cell<*const AtomicU32>,
    /// The buffer in hand.
    pub buffer: Cell<*mut u8>,
    /// Epoch of the buffer << 1; what the word of a defined site without a stack shows.
    pub tag: Cell<u64>,
    /// Generation of the buffer, or `NEVER`.
    pub generation: Cell<u32>,
    /// The session's tick shift.
    pub shift: Cell<u32>,
    /// Ordinal of the session in which the thread last took a buffer.
    pub session: Cell<u32>,
    /// Flags: `MUTED`, ...
    pub flags: AtomicU32,
    /// The record; null without one.
    pub record: Cell<*const Record>,
    /// Generation of the buffer also where `generation` says `NEVER`; 0 without a buffer.
    pub holds: Cell<u32>,
    /// Index of the record.
    pub index: Cell<u32>,
    /// Highest and lowest address of the thread's own stack; 0 not asked yet.
    pub stack_top: Cell<usize>,
    /// See `stack_top`.
    pub stack_low: Cell<usize>,
    /// Events for which the stack's bounds are not asked for again.
    pub stack_skip: Cell<u32>,
    /// One bit for each place of a span that has ended before one above it.
    pub ended: [Cell<u64>; PLACES_MAX as usize / 64],
    /// Next task id and the end of the block that was handed to this thread.
    pub task_next: AtomicU64,
    /// See `task_next`.
    pub task_end: AtomicU64,
    /// Number of the thread that created this one, and the number set aside for this one.
    pub creator: Cell<u32>,
    /// See `creator`.
    pub number: Cell<u32>,
    /// Address of the function that this thread runs, where it is known.
    pub entry: Cell<u64>,
    /// Name of the function that this thread runs, where it is known.
    pub function: Cell<Option<&'static str>>,
    /// The stack of the event before: the sum of its hash.
    pub stack_sum: Cell<u64>,
    /// Its depth, whether it was cut, and its epoch.
    pub stack_shape: Cell<u64>,
    /// Its id.
    pub stack_id: Cell<u32>,
    /// Ordinal of the session that the thread reads: in that one it never waits for a buffer.
    pub reads: Cell<u32>,
    /// The stack pointer of an event that waits, for a buffer or at a paused gate; 0 none.
    pub waits: Cell<usize>,
    /// The paused gate at which the thread has waited in vain; it does not wait there again.
    pub gave_up: Cell<u32>,
    /// For places of spans that are in another copy's session too: their places there and one
    /// more; 0 none.
    pub elsewhere: [Cell<u32>; ELSEWHERE_MAX],
}

impl Local {
    const fn new() -> Self {
        Local {
            busy: Cell::new(&raw const NOBODY),
            gate: Cell::new(&raw const SHUT),
            buffer: Cell::new(ptr::null_mut()),
            tag: Cell::new(0),
            generation: Cell::new(NEVER),
            shift: Cell::new(0),
            session: Cell::new(0),
            flags: AtomicU32::new(0),
            record: Cell::new(ptr::null()),
            holds: Cell::new(0),
            index: Cell::new(0),
            stack_top: Cell::new(0),
            stack_low: Cell::new(0),
            stack_skip: Cell::new(0),
            ended: [const { Cell::new(0) }; PLACES_MAX as usize / 64],
            task_next: AtomicU64::new(0),
            task_end: AtomicU64::new(0),
            creator: Cell::new(0),
            number: Cell::new(0),
            entry: Cell::new(0),
            function: Cell::new(None),
            stack_sum: Cell::new(0),
            stack_shape: Cell::new(0),
            stack_id: Cell::new(0),
            reads: Cell::new(0),
            waits: Cell::new(0),
            gave_up: Cell::new(0),
            elsewhere: [const { Cell::new(0) }; ELSEWHERE_MAX],
        }
    }

    /// The busy word.
    #[inline(always)]
    pub fn busy(&self) -> &AtomicU64 {
        let busy = self.busy.get();
        // In a preloaded library a thread begins with a block of zeros, not with `new`.
        let busy = if cfg!(exectrace_preload) && busy.is_null() { &raw const NOBODY } else { busy };
        // SAFETY: points to NOBODY or into the mapping, neither of which ever goes away.
        unsafe { &*busy }
    }

    /// The gate.
    #[inline(always)]
    pub fn gate(&self) -> &AtomicU32 {
        let gate = self.gate.get();
        let gate = if cfg!(exectrace_preload) && gate.is_null() { &raw const SHUT } else { gate };
        // SAFETY: points to SHUT or into the mapping, neither of which ever goes away.
        unsafe { &*gate }
    }

    /// The record, where there is one.
    #[inline(always)]
    pub fn record(&self) -> Option<&Record> {
        // SAFETY: null, or points into the mapping, which never goes away.
        unsafe { self.record.get().as_ref() }
    }

    /// Whether the thread has a record, all of it: `attach` is through.
    #[inline]
    pub fn registered(&self) -> bool {
        let busy = self.busy.get();
        !busy.is_null() && !ptr::eq(busy, &raw const NOBODY)
    }

    /// Whether this flag is set.
    #[inline]
    pub fn has(&self, flag: u32) -> bool {
        self.flags.load(Relaxed) & flag != 0
    }

    /// Sets or clears a flag; by one instruction, since a handler may change another flag.
    pub fn set(&self, flag: u32, on: bool) {
        match on {
            true => self.flags.fetch_or(flag, Relaxed),
            false => self.flags.fetch_and(!flag, Relaxed),
        };
    }

    /// Joins the thread to a record.
    pub fn attach(&self, index: u32, record: &Record, gate: &AtomicU32) {
        self.record.set(record);
        self.index.set(index);
        self.gate.set(gate);
        self.set(NAMED, false);
        self.generation.set(NEVER);
        self.holds.set(0);
        self.session.set(0);
        self.buffer.set(ptr::null_mut());
        // Last: from here on a handler finds the thread registered.
        crate::sync::compiler_fence(crate::sync::Ordering::SeqCst);
        self.busy.set(&raw const record.busy);
    }

    /// Parts the thread from its record. A handler that comes in between is not registered, and
    /// does not register: what it set would be undone by the rest of this.
    pub fn detach(&self) {
        let registers = self.has(REGISTERS);
        self.set(REGISTERS, true);
        crate::sync::compiler_fence(crate::sync::Ordering::SeqCst);
        NOBODY.store(u64::MAX, Relaxed);
        self.busy.set(&raw const NOBODY);
        crate::sync::compiler_fence(crate::sync::Ordering::SeqCst);
        self.record.set(ptr::null());
        self.gate.set(&raw const SHUT);
        self.generation.set(NEVER);
        self.holds.set(0);
        self.number.set(0);
        crate::sync::compiler_fence(crate::sync::Ordering::SeqCst);
        self.set(REGISTERS, registers);
    }

    /// Whether the span at this place has ended.
    pub fn has_ended(&self, place: u32) -> bool {
        let word = self.ended.get(place as usize / 64);
        word.is_some_and(|w| w.get() >> (place % 64) & 1 != 0)
    }

    /// Says whether the span at this place has ended; false where that cannot be kept.
    pub fn set_ended(&self, place: u32, ended: bool) -> bool {
        let Some(word) = self.ended.get(place as usize / 64) else { return false };
        let bit = 1 << (place % 64);
        word.set(if ended { word.get() | bit } else { word.get() & !bit });
        true
    }

    /// How many of the places below this one have ended.
    pub fn ended_below(&self, place: u32) -> u32 {
        (0..place.min(PLACES_MAX)).filter(|p| self.has_ended(*p)).count() as u32
    }

    /// No place has ended: there are none.
    pub fn forget_ended(&self) {
        self.ended.iter().for_each(|w| w.set(0));
    }

    /// Lets go of the buffer in hand, as far as this half knows of it.
    pub fn empty_handed(&self) {
        self.generation.set(NEVER);
        self.holds.set(0);
        self.buffer.set(ptr::null_mut());
    }
}

#[cfg(not(exectrace_preload))]
thread_local! {
    static LOCAL: Local = const { Local::new() };
}

#[cfg(exectrace_preload)]
const _: () = {
    // All zero is a thread without a record: its busy word is looked for in `busy`.
    assert!(size_of::<Local>() <= crate::sys::tls::BLOCK_BYTES && align_of::<Local>() <= 64);
    let _ = Local::new;
};

/// The calling thread's state. One addition to the thread pointer in an executable.
///
/// The reference is good while the thread runs, destructors included, and cannot leave it, since
/// `Local` is not `Sync`.
#[inline(always)]
pub fn here() -> &'static Local {
    #[cfg(not(exectrace_preload))]
    let l = LOCAL.with(ptr::from_ref);
    #[cfg(exectrace_preload)]
    let l = crate::sys::tls::block().cast::<Local>().cast_const();
    // SAFETY: without a destructor the state is there for as long as its thread runs.
    unsafe { &*l }
}

/// Runs `f` with the calling thread's state.
#[inline(always)]
pub fn with<R>(f: impl FnOnce(&Local) -> R) -> R {
    f(here())
}

/// Holds a flag on the calling thread for as long as it lives.
#[must_use]
#[derive(Debug)]
pub struct Flagged {
    flag: u32,
    was: bool,
}

/// Sets a flag on the calling thread until the guard goes.
pub fn flagged(flag: u32) -> Flagged {
    with(|l| {
        let was = l.has(flag);
        l.set(flag, true);
        Flagged { flag, was }
    })
}

impl Drop for Flagged {
    fn drop(&mut self) {
        with(|l| l.set(self.flag, self.was));
    }
}
