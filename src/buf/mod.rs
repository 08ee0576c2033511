//! Who owns a buffer when, and the list links that move it.
//!
//! ```text
//!            pop (a thread, or control)            exchange (the owner, or the
//!   Free ------------------------------> Owned --------------------------------> Queued
//!    ^                                                controller past the gate)     |
//!    |   push (the drainer, once written                                            | take_all
//!    +------------------- and not pinned) --------------- Reading <---------------+ (the drainer)
//! ```
//!
//! A buffer is 64 KiB; in memory its first 64 bytes are the [`Head`], in a trace the batch header.
//!
//! 1. A buffer MUST be in one state: in the pool, in one thread's slot, in the queue, or in the
//!    drainer's hands. Otherwise two write into it, or one writes what another reads.
//! 2. Only the owner stores into an owned buffer, and only above the published position. What
//!    lies below it is immutable and may be copied at any time by whoever pins the buffer.
//! 3. All links are indexes and MUST be compared with [`Arena::len`] before they are followed.
//!    Otherwise a broken mapping of another process leads a reader out of its own memory.

pub mod pool;
pub mod queue;

#[cfg(all(test, not(loom)))]
pub(crate) mod test_arena;

use crate::encode::wire::BATCH_BYTES_MAX;
use crate::encode::wire::HEADER_BYTES;
use crate::sync::AtomicU32;
use crate::sync::AtomicU64;

/// Bytes of a buffer, head included: the longest batch.
pub const BUFFER_BYTES: u32 = BATCH_BYTES_MAX as u32;
/// Bytes of the head, which stands where the batch header will.
pub const HEAD_BYTES: u32 = HEADER_BYTES as u32;

/// What a buffer says of itself. All zero is a valid head.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), repr(C, align(64)))]
pub struct Head {
    /// count << 32 | position: events published, and where they end, counted from the buffer's
    /// start. The owner stores it, everybody reads it.
    pub publish: AtomicU64,
    /// Scaled ticks of the newest event.
    pub last_ticks: AtomicU64,
    /// Scaled ticks to which the first delta is added.
    pub first_ticks: AtomicU64,
    /// Generation in which the buffer was begun.
    pub generation: AtomicU32,
    /// Table epoch of the ids in it.
    pub epoch: AtomicU32,
    /// Number of the owner.
    pub thread: AtomicU32,
    /// Number of the batch in its (thread, lane).
    pub sequence: AtomicU32,
    /// Lane of the events.
    pub lane: AtomicU32,
    /// The next buffer of the list that this one is in: index + 1, 0 at the end.
    pub next: AtomicU32,
    /// Readers that copy published bytes; a pinned buffer does not go to the pool.
    pub pins: AtomicU32,
    /// Flags of the batch header.
    pub flags: AtomicU32,
    /// Session of the events.
    pub session: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Head>() == HEADER_BYTES);

/// The heads of all buffers: of a mapping, or of a model.
pub trait Arena {
    /// The head of a buffer; the caller has compared `index` with [`len`](Arena::len).
    fn head(&self, index: u32) -> &Head;
    /// How many buffers there are; only grows.
    fn len(&self) -> u32;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Buffers as memory.
///
/// # Safety
/// For each `index` below `len()`, `start(index)`
/// * is aligned to 64 and valid for reads and writes of [`BUFFER_BYTES`] while `self` lives,
/// * overlaps no other buffer,
/// * begins with the 64 bytes that `head(index)` refers to.
pub unsafe trait Buffers: Arena {
    /// The first byte of a buffer; the caller has compared `index` with `len()`.
    fn start(&self, index: u32) -> *mut u8;
}

/// The index that a link word stands for, if it stands for a buffer of this arena.
pub(crate) fn target(arena: &impl Arena, link: u32) -> Option<u32> {
    let index = link.checked_sub(1)?;
    (index < arena.len()).then_some(index)
}
