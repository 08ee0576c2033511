//! The gate, a thread's busy word and its slot: who may write events now, and who owns a buffer.
//!
//! Three words make the protocol, all of them indexes and numbers, since they stand in a mapping
//! that another process may read:
//!
//! - *gate*, one per mapping: 0 = off, else a generation, with [`PAUSED`] on top while paused.
//!   Turned by the session, read by every event.
//! - *busy*, one per record: 0 = out, else the stack pointer of the thread inside its section.
//!   Stored by the owner, read by the controller.
//! - *slot*, one per record: `generation << 32 | buffer index + 1`, 0 = empty. Exchanged by the
//!   owner, taken by the controller.
//!
//! ```text
//!   owner                               controller
//!   busy  = sp          (plain)         gate = next        (Release)
//!   light barrier       (nothing)       heavy barrier      (membarrier)
//!   gate  == mine?      (Acquire)       busy == 0 ?        (Acquire)
//!   .. write ..                         .. take the slot, or leave it to the late list ..
//!   busy  = 0           (Release)
//! ```
//!
//! The owner pays no fence: the controller makes every running thread execute one instead. Either
//! that fence comes after the owner's gate load, then its busy word is visible to the controller,
//! or before it, then the owner sees the new gate. `tests/gate_model.rs` checks the protocol with
//! all its interleavings and a store buffer; `loom_tests` here checks these orderings.
//!
//! Invariants:
//! 1. A thread MUST test its busy word before [`enter`] and never overwrite one that is set.
//!    Otherwise a signal handler writes into a half-written event.
//! 2. A thread MUST NOT wait while its busy word is set, and a nested event never waits.
//!    Otherwise the controller and the thread wait for each other.
//! 3. Buffer bytes are written only between an [`enter`] that said true and [`leave`], into the
//!    buffer that the owner put into its slot for that generation. Otherwise a taken buffer is
//!    written.
//! 4. The controller takes a slot only after the heavy barrier and after [`is_out`] said true
//!    behind it, only by [`take_slot`] with the number that it turned the gate to. A thread that
//!    is not out goes on the late list. Otherwise it takes what is being written. At a stop's
//!    deadline it takes a late thread's buffer as well, before it copies what is published there,
//!    and keeps it aside until the thread is out.
//! 5. Generation numbers MUST be monotone for the life of the process, also over sessions.
//!    Otherwise a thread that slept through a stop writes into a buffer of the session before.
//! 6. A nested event looks at the gate too, and is counted where that is paused. Its outer event
//!    may have set the busy word after the controller looked. Otherwise it writes to the side
//!    buffer during the snapshot, or after the side buffer was read for the last time.
//! 7. Only the session turns the gate. Otherwise two turns race for one number.

use crate::sync::AtomicU32;
use crate::sync::AtomicU64;
use crate::sync::Ordering;

#[cfg(loom)]
#[path = "gate/barrier_loom.rs"]
pub mod barrier;
#[cfg(not(loom))]
pub mod barrier;

#[cfg(all(test, loom))]
mod loom_tests;

/// The bit of the gate that says paused; generation numbers stand below it.
pub const PAUSED: u32 = 1 << 31;

/// The gate's word while nothing is recorded.
pub const OFF: u32 = 0;

/// What the gate's word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is recorded.
    Off,
    /// Events of this generation may be written.
    Running(u32),
    /// All threads are kept out; the word is this generation's with [`PAUSED`] set.
    Paused(u32),
}

/// The meaning of a gate word.
#[inline]
pub const fn state(word: u32) -> State {
    if word & PAUSED != 0 {
        State::Paused(word & !PAUSED)
    } else if word == OFF {
        State::Off
    } else {
        State::Running(word)
    }
}

/// The orderings of the protocol. Constants of a trait, so that loom runs the functions below
/// with each of them weakened in turn and sees every weakened one fail.
trait Orders {
    /// Pairs with [`Orders::GATE_LOAD`]: what the session did before it turned the gate is seen
    /// by every section of the new generation.
    const GATE_STORE: Ordering;
    const GATE_LOAD: Ordering;
    /// Pairs with [`Orders::OUT_LOAD`]: the bytes of a section are seen by who saw it left.
    const LEAVE_STORE: Ordering;
    const OUT_LOAD: Ordering;
}

/// The orderings that hold.
struct Sound;

impl Orders for Sound {
    const GATE_STORE: Ordering = Ordering::Release;
    const GATE_LOAD: Ordering = Ordering::Acquire;
    const LEAVE_STORE: Ordering = Ordering::Release;
    const OUT_LOAD: Ordering = Ordering::Acquire;
}

/// Beside the stack pointer in the busy word: the thread is inside, and writes no event. Where it
/// never comes out, as at the end of its process, none is missing.
pub const NO_EVENT: u64 = 1;

/// Owner: opens a section; true when the gate says `generation`.
///
/// Busy is set in both cases: on false the caller is inside as well, and goes on in the cold path
/// or calls [`leave`]. The caller saw `busy == 0` before (invariant 1). `sp` is not 0.
#[inline(always)]
pub fn enter(busy: &AtomicU64, gate: &AtomicU32, generation: u32, sp: u64) -> bool {
    enter_with::<Sound>(busy, gate, generation, sp)
}

/// [`enter`] where the heavy barrier of the other side is a plain fence: for machines and
/// sandboxes without membarrier, in the cold path only.
#[inline]
pub fn enter_fenced(busy: &AtomicU64, gate: &AtomicU32, generation: u32, sp: u64) -> bool {
    // Relaxed: the fence below orders it before the load, and the other side's fence pairs.
    busy.store(sp, Ordering::Relaxed);
    barrier::full();
    // Acquire: pairs with the Release in `turn`.
    gate.load(Ordering::Acquire) == generation
}

/// Owner: closes a section.
#[inline(always)]
pub fn leave(busy: &AtomicU64) {
    leave_with::<Sound>(busy)
}

/// The session: turns the gate to `word`. The heavy barrier must follow before any busy word is
/// looked at.
#[inline]
pub fn turn(gate: &AtomicU32, word: u32) {
    turn_with::<Sound>(gate, word)
}

/// Controller: whether the record's thread is outside its section.
///
/// Behind a turn of the gate and a heavy barrier, true means that all bytes of older generations
/// are visible and that none will be written any more.
#[inline]
pub fn is_out(busy: &AtomicU64) -> bool {
    is_out_with::<Sound>(busy)
}

#[inline(always)]
fn enter_with<O: Orders>(busy: &AtomicU64, gate: &AtomicU32, generation: u32, sp: u64) -> bool {
    debug_assert!(sp != 0);
    // Relaxed: the heavy barrier of the other side orders it before the load below.
    busy.store(sp, Ordering::Relaxed);
    barrier::light();
    // Acquire: pairs with the Release in `turn`.
    gate.load(O::GATE_LOAD) == generation
}

#[inline(always)]
fn leave_with<O: Orders>(busy: &AtomicU64) {
    barrier::light();
    // Release: pairs with the Acquire in `is_out`.
    busy.store(0, O::LEAVE_STORE);
}

#[inline]
fn turn_with<O: Orders>(gate: &AtomicU32, word: u32) {
    // Release: pairs with the Acquire in `enter`.
    gate.store(word, O::GATE_STORE);
}

#[inline]
fn is_out_with<O: Orders>(busy: &AtomicU64) -> bool {
    // Acquire: pairs with the Release in `leave`.
    busy.load(O::OUT_LOAD) == 0
}

/// What a slot holds: whose generation the buffer belongs to, and its index.
pub type Tagged = (u32, u32);

#[inline]
const fn slot_word(generation: u32, buffer: u32) -> u64 {
    debug_assert!(buffer != u32::MAX);
    (generation as u64) << 32 | (buffer as u64 + 1)
}

/// The meaning of a slot's word: generation and buffer index, `None` = empty.
#[inline]
pub const fn slot_content(word: u64) -> Option<Tagged> {
    match word as u32 {
        0 => None,
        above => Some(((word >> 32) as u32, above - 1)),
    }
}

/// Controller: takes the buffer of a slot if its generation is older than `older_than`.
///
/// `None`: empty, of a newer generation, or the owner exchanged it in this moment and has handed
/// it over itself. See invariant 4 for when this may be called.
#[inline]
pub fn take_slot(slot: &AtomicU64, older_than: u32) -> Option<Tagged> {
    // Relaxed: only a guess, the exchange below decides.
    let seen = slot.load(Ordering::Relaxed);
    let (generation, buffer) = slot_content(seen)?;
    if generation >= older_than {
        return None;
    }
    // AcqRel: pairs with itself and with `exchange_slot`, so that who holds a buffer next has
    // seen everything done to it before. A failure means that the owner was first, at most once:
    // behind the barrier an owner can put in nothing older than the gate.
    slot.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed).ok()?;
    Some((generation, buffer))
}

/// Owner: puts `buffer` of `generation` into its slot (`None` = empties it), and gets what it
/// must hand over: `None` when the controller has taken it.
#[inline]
pub fn exchange_slot(slot: &AtomicU64, generation: u32, buffer: Option<u32>) -> Option<Tagged> {
    let word = match buffer {
        Some(index) => slot_word(generation, index),
        None => 0,
    };
    // AcqRel: pairs with itself and with `take_slot`.
    slot_content(slot.swap(word, Ordering::AcqRel))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn gate_word_says_off_running_or_paused() {
        assert_eq!(state(0), State::Off);
        assert_eq!(state(7), State::Running(7));
        assert_eq!(state(0x8000_0007), State::Paused(7));
        assert_eq!(state(0x7fff_ffff), State::Running(0x7fff_ffff));
    }

    #[test]
    fn a_section_is_seen_until_it_is_left() {
        let (busy, gate) = (AtomicU64::new(0), AtomicU32::new(OFF));
        turn(&gate, 3);
        assert!(is_out(&busy));
        assert!(enter(&busy, &gate, 3, 0x1000));
        assert!(!is_out(&busy));
        assert_eq!(busy.load(Ordering::Relaxed), 0x1000);
        leave(&busy);
        assert!(is_out(&busy));
        // Another generation, a pause and off all send the caller to its cold path, still inside.
        for word in [4, 3 | PAUSED, OFF] {
            turn(&gate, word);
            assert!(!enter(&busy, &gate, 3, 0x1000));
            assert!(!is_out(&busy));
            leave(&busy);
            assert!(!enter_fenced(&busy, &gate, 3, 0x1000));
            leave(&busy);
        }
        turn(&gate, 3);
        assert!(enter_fenced(&busy, &gate, 3, 0x1000));
    }

    #[test]
    fn slot_is_taken_once_and_only_when_older() {
        let slot = AtomicU64::new(0);
        assert_eq!(take_slot(&slot, u32::MAX), None);
        assert_eq!(exchange_slot(&slot, 5, Some(0)), None);
        assert_eq!(slot.load(Ordering::Relaxed), 5 << 32 | 1);
        assert_eq!(take_slot(&slot, 4), None);
        assert_eq!(take_slot(&slot, 5), None);
        assert_eq!(take_slot(&slot, 6), Some((5, 0)));
        assert_eq!(take_slot(&slot, 6), None);
        assert_eq!(exchange_slot(&slot, 6, Some(9)), None);
        assert_eq!(exchange_slot(&slot, 7, Some(u32::MAX - 1)), Some((6, 9)));
        assert_eq!(exchange_slot(&slot, 7, None), Some((7, u32::MAX - 1)));
        assert_eq!(slot.load(Ordering::Relaxed), 0);
    }
}
