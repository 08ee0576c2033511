//! A thread's entry in the mapping: the half of its state that others may read.
//!
//! 1. Only the owning thread writes a live record, except `slot`, which the controller may empty
//!    by a tagged compare-and-swap, and `side_tail`, which is the controller's.
//! 2. A record MUST stay with its thread until the thread was seen to be gone. Otherwise two
//!    threads write one buffer.
//! 3. All zero is the initial state; there are indexes and no pointers.

use crate::encode::schema::CAUSES;
use crate::encode::schema::Cause;
use crate::encode::wire::SPANS_MAX;
use crate::mapping::account::Account;
use crate::sync::AtomicU8;
use crate::sync::AtomicU32;
use crate::sync::AtomicU64;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;
use crate::sync::Ordering::Release;

/// `Record::state`: in the free list, or never used.
pub const FREE: u32 = 0;
/// `Record::state`: a thread owns it.
pub const LIVE: u32 = 1;
/// `Record::state`: its thread said goodbye; the controller takes it apart.
pub const ENDED: u32 = 2;

/// `Record::depth`: a span has ended before one that was begun after it. A guard knows its span by
/// the place, so the place stays until it is the last one.
pub const HOLES: u32 = 1 << 31;

/// Bytes of the ring in which nested events wait for the controller.
pub const SIDE_BYTES: usize = 4096;

/// The shared half of a thread's state.
#[repr(C, align(64))]
pub struct Record {
    /// 0: outside the section. Otherwise the stack pointer with which the thread entered, and in
    /// its lowest bit whether no event is written there (`gate::NO_EVENT`).
    pub busy: AtomicU64,
    /// The buffer in hand: generation << 32 | buffer index + 1; 0 none.
    pub slot: AtomicU64,
    /// The thread's number in the format; 0 while free.
    pub thread: AtomicU32,
    /// The kernel's id of the thread.
    pub tid: AtomicU32,
    /// `FREE`, `LIVE` or `ENDED`.
    pub state: AtomicU32,
    /// Link of the free list or of the list of ended records: index + 1.
    pub next: AtomicU32,
    /// Next sequence number of the main and of the side lane.
    pub sequence: [AtomicU32; 2],
    /// Places of the open spans of this session, and `HOLES`; may be more than `spans` holds.
    pub depth: AtomicU32,
    /// Whether a handler is writing into the side ring.
    pub side_busy: AtomicU32,
    /// The current task; 0 none.
    pub task: AtomicU64,
    /// Where the handler writes next in the side ring; counts on for ever, modulo 2^32.
    pub side_head: AtomicU32,
    /// Where the controller reads next in the side ring.
    pub side_tail: AtomicU32,
    /// Number of the thread that created this one; 0 unknown.
    pub creator: AtomicU32,
    /// Length of `name`.
    pub name_len: AtomicU32,
    /// The name at registration, as the kernel had it.
    pub name: [AtomicU8; 16],
    /// The table epoch in whose log the thread has defined itself.
    pub defined: AtomicU32,
    /// When the thread was registered, in scaled ticks.
    pub registered: AtomicU64,
    /// The words of the open spans' sites, outermost first; `site::kind_in` reads them. 0: the
    /// span at this place has ended, one above it has not.
    pub spans: [AtomicU64; SPANS_MAX],
    /// What the thread waits for, a number of `encode::op`; 0: it runs. Stored after the four
    /// below, cleared when the wait is over.
    pub block_op: AtomicU32,
    /// The table epoch of `block_stack`.
    pub block_epoch: AtomicU32,
    /// The object that it waits for.
    pub block_object: AtomicU64,
    /// Since when, in scaled ticks.
    pub block_since: AtomicU64,
    /// From which stack.
    pub block_stack: AtomicU32,
    /// Who has what it waits for, where that is known: said behind `block_op`, and 0 until then.
    pub block_by: AtomicU64,
    /// Its waits, and what the kernel has counted for it.
    pub account: Account,
    /// Events lost by this thread since the session began, by cause.
    pub loss: [AtomicU64; CAUSES],
}

const _: () = assert!(
    size_of::<Record>().is_multiple_of(64)
        && size_of::<Record>() <= 1024
        && align_of::<Record>() == 64
);

impl Record {
    /// Counts a loss. Only the owner calls this, but a handler may do so in the middle of it: one
    /// addition, not a load and a store.
    pub fn lose(&self, cause: Cause) {
        self.loss[cause as usize].fetch_add(1, Relaxed);
    }

    /// Whether the owner is outside the section. Pairs with the Release that leaves it.
    pub fn is_out(&self) -> bool {
        self.busy.load(Acquire) == 0
    }

    /// The words of the open spans, as far as there is room for them, and how many those are.
    pub fn open_spans(&self, into: &mut [u64; SPANS_MAX]) -> usize {
        let places = (self.depth.load(Relaxed) & !HOLES) as usize;
        let words = self.spans[..places.min(SPANS_MAX)].iter().map(|s| s.load(Relaxed));
        let mut listed = 0;
        for (to, word) in into.iter_mut().zip(words.filter(|w| *w != 0)) {
            *to = word;
            listed += 1;
        }
        listed
    }

    /// Says what the thread is about to wait for. The owner calls this.
    pub fn block(&self, op: u32, object: u64, since: u64, epoch: u32, stack: u32) {
        self.block_object.store(object, Relaxed);
        self.block_since.store(since, Relaxed);
        self.block_epoch.store(epoch, Relaxed);
        self.block_stack.store(stack, Relaxed);
        self.block_by.store(0, Relaxed);
        // Release: pairs with the Acquire of whoever looks what it waits for.
        self.block_op.store(op, Release);
    }

    /// The name, copied.
    pub fn name(&self, into: &mut [u8; 16]) -> usize {
        for (to, from) in into.iter_mut().zip(&self.name) {
            *to = from.load(Relaxed);
        }
        (self.name_len.load(Relaxed) as usize).min(16)
    }

    /// Sets the name.
    pub fn set_name(&self, name: &[u8]) {
        for (to, from) in self.name.iter().zip(name) {
            to.store(*from, Relaxed);
        }
        self.name_len.store(name.len().min(16) as u32, Relaxed);
    }

    /// Forgets the spans, the task and the sequence of an ended session. The owner calls this.
    pub fn join_session(&self) {
        self.depth.store(0, Relaxed);
        self.task.store(0, Relaxed);
        self.block_op.store(0, Relaxed);
        self.sequence[0].store(0, Relaxed);
        self.account.clear();
    }

    /// Begins a new account of losses. Only where no event of the thread can be under way.
    pub fn reset_loss(&self) {
        self.sequence[1].store(0, Relaxed);
        for c in &self.loss {
            c.store(0, Relaxed);
        }
    }

    /// Ends the life of the record; the controller may take it apart from here on.
    pub fn end(&self) {
        // Release: pairs with the Acquire of whoever finds the record ended.
        self.state.store(ENDED, Release);
    }
}
