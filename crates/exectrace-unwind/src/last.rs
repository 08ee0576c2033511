//! The frames of the last walk on each stack. The upper part of a stack is nearly always what it
//! was: where a walk comes to a frame that the last one had, it goes on through that one's frames
//! for as long as the words of the stack from which they were found are the same.
//!
//! 1. What follows from a frame is decided by its three registers, its rule and the words that the
//!    rule names. Where registers and words are those of the last walk and the rules are of the
//!    same age, so is the caller.
//! 2. One walk at a time uses a place, for which it never waits: a walk in a signal handler that
//!    interrupts another one, and one on another stack with the same place, do without.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;

use crate::is_own;
use crate::rule::Read;
use crate::rule::Readable;
use crate::rule::Registers;

const PLACES_LOG: u32 = 6;
/// Frames below the one at which a walk joins the last one.
const NEW_MAX: usize = 24;
const FRAMES_MAX: usize = NEW_MAX + 72;
const WORD: usize = 8;

/// A frame, and where its caller's registers were read.
#[derive(Clone, Copy)]
struct Frame {
    address: usize,
    sp: usize,
    fp: usize,
    /// Words from `sp` to the return address; [`NOWHERE`]: the caller must be found by the rule.
    returns: u16,
    /// Words from `sp` to the frame pointer of the caller, where it was read.
    saved: u16,
    /// The address was interrupted.
    is_exact: bool,
    is_own: bool,
}

const NOWHERE: u16 = u16::MAX;

impl Frame {
    const NONE: Frame = Frame {
        address: 0,
        sp: 0,
        fp: 0,
        returns: NOWHERE,
        saved: NOWHERE,
        is_exact: false,
        is_own: false,
    };

    /// Of these registers, whose caller was found by what was read.
    #[inline(always)]
    fn of(r: &Registers, read: Read) -> Frame {
        let words = |at: usize| {
            let words = at.wrapping_sub(r.sp) / WORD;
            if words < usize::from(NOWHERE) { words as u16 } else { NOWHERE }
        };
        let saved = if read.saved == 0 { NOWHERE } else { words(read.saved) };
        // What is too far away is not looked at again, nor what is beside it.
        let is_far = read.returns == 0 || (read.saved != 0 && saved == NOWHERE);
        let is_odd = !r.sp.is_multiple_of(WORD);
        let returns = if is_far || is_odd { NOWHERE } else { words(read.returns) };
        let (is_exact, is_own) = (r.address == r.at, is_own(r.at));
        Frame { address: r.address, sp: r.sp, fp: r.fp, returns, saved, is_exact, is_own }
    }

    #[inline(always)]
    fn registers(&self) -> Registers {
        let at = self.address.wrapping_sub(usize::from(!self.is_exact));
        Registers { address: self.address, at, sp: self.sp, fp: self.fp }
    }

    /// The word that stands so many above the stack pointer.
    ///
    /// # Safety
    /// - As [`Readable::word`].
    #[inline(always)]
    unsafe fn word(&self, words: u16, stack: &Readable) -> Option<usize> {
        // SAFETY: the caller's promise.
        unsafe { stack.word(self.sp.wrapping_add(usize::from(words) * WORD)) }
    }

    /// Whether what its rule reads of the stack still says that `next` is its caller, as it was.
    ///
    /// # Safety
    /// - As [`Readable::word`].
    #[inline(always)]
    unsafe fn is_called_by(&self, next: &Frame, stack: &Readable, code_bits: u64) -> bool {
        if self.returns == NOWHERE {
            return false;
        }
        // SAFETY: the caller's promise.
        let Some(address) = (unsafe { self.word(self.returns, stack) }) else { return false };
        if address as u64 & code_bits != next.address as u64 {
            return false;
        }
        // SAFETY: as above.
        self.saved == NOWHERE || unsafe { self.word(self.saved, stack) } == Some(next.fp)
    }
}

/// The last walk on a stack.
struct Last {
    top: usize,
    age: u64,
    begin: usize,
    end: usize,
    /// From `begin` to `end`, innermost first.
    frames: [Frame; FRAMES_MAX],
    /// Frames of the walk that goes on, until it joins the last one.
    new: [Frame; NEW_MAX],
}

struct Place {
    is_taken: AtomicBool,
    last: UnsafeCell<Last>,
}

// SAFETY: who has set `is_taken` is alone with the rest.
unsafe impl Sync for Place {}

static PLACES: [Place; 1 << PLACES_LOG] = [const {
    Place {
        is_taken: AtomicBool::new(false),
        last: UnsafeCell::new(Last {
            top: 0,
            age: 0,
            begin: 0,
            end: 0,
            frames: [Frame::NONE; FRAMES_MAX],
            new: [Frame::NONE; NEW_MAX],
        }),
    }
}; 1 << PLACES_LOG];

/// In a forked child: walks of the parent's threads do not end here.
pub fn forget_parent() {
    for place in &PLACES {
        if place.is_taken.load(Relaxed) {
            // SAFETY: last#2: the thread that took it is not in this process, which has one thread.
            unsafe { (*place.last.get()).top = 0 };
            place.is_taken.store(false, Relaxed);
        }
    }
}

/// The last walk on the stack of the walk that goes on.
pub struct Held {
    place: &'static Place,
    /// It has not joined the last one yet, looks from `next` on, and has so many new frames.
    is_apart: bool,
    next: usize,
    new: usize,
}

/// That of the stack with this top, by rules of this age.
#[inline(always)]
pub fn hold(top: usize, age: u64) -> Option<Held> {
    let i = ((top >> 12) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - PLACES_LOG);
    let place = &PLACES[i as usize];
    // Acquire: pairs with the Release of `drop`: what the walk before wrote is there.
    if place.is_taken.swap(true, Acquire) {
        return None;
    }
    let mut held = Held { place, is_apart: true, next: 0, new: 0 };
    let last = held.last();
    // An age is never 0.
    if (last.top, last.age) != (top, age) || last.begin == last.end {
        (last.top, last.age, last.begin, last.end) = (top, age, NEW_MAX, NEW_MAX);
        held.is_apart = false;
    } else {
        held.next = last.begin;
    }
    Some(held)
}

impl Held {
    #[inline(always)]
    fn last(&mut self) -> &mut Last {
        // SAFETY: last#2: taken by this walk, which holds one reference at a time.
        unsafe { &mut *self.place.last.get() }
    }

    /// Whether the walk may still come to a frame of the last one.
    #[inline(always)]
    pub fn is_apart(&self) -> bool {
        self.is_apart
    }

    /// Whether the last walk had the frame with these registers; it goes on from there.
    #[inline(always)]
    pub fn joins(&mut self, r: &Registers) -> bool {
        let (mut next, new) = (self.next, self.new);
        let last = self.last();
        let frames = &last.frames[..last.end];
        while frames.get(next).is_some_and(|frame| frame.sp < r.sp) {
            next += 1;
        }
        let joins = frames.get(next).is_some_and(|frame| frame.registers() == *r);
        if joins {
            match next.checked_sub(new) {
                Some(begin) => {
                    last.begin = begin;
                    // A few at most: no call of `memcpy`.
                    for i in 0..new {
                        last.frames[begin + i] = last.new[i];
                    }
                }
                // There is no room below: the next walk writes all of its frames.
                None => (last.begin, last.age) = (next, 0),
            }
        }
        self.next = next;
        self.is_apart = !joins;
        joins
    }

    /// Goes on from the frame at which the walk has joined the last one, for as long as the callers
    /// are what they were, and writes their addresses, those below `low` left out. Gives the
    /// registers of the last one, how many were written, and whether there was room.
    ///
    /// # Safety
    /// - As [`Readable::word`].
    #[inline(never)]
    pub unsafe fn follow(
        &mut self,
        stack: Readable,
        code_bits: u64,
        low: usize,
        out: &mut [MaybeUninit<u64>],
    ) -> (Registers, usize, bool) {
        let from = self.next;
        let last = self.last();
        let mut frame = &last.frames[from];
        let (mut passed, mut written) = (0, 0);
        for next in &last.frames[from + 1..last.end] {
            // SAFETY: the caller's promise.
            if !unsafe { frame.is_called_by(next, &stack, code_bits) } {
                break;
            }
            if !next.is_own && next.sp >= low {
                let Some(place) = out.get_mut(written) else {
                    return (next.registers(), written, false);
                };
                place.write(next.address as u64);
                written += 1;
            }
            (frame, passed) = (next, passed + 1);
        }
        let r = frame.registers();
        // What comes above is written anew, from this frame on.
        last.end = from + passed;
        (r, written, true)
    }

    /// The walk has found the caller of this frame by its rule, by reading this.
    #[inline(always)]
    pub fn note(&mut self, r: &Registers, read: Read) {
        let (is_apart, new) = (self.is_apart, self.new);
        let last = self.last();
        if !is_apart {
            if let Some(place) = last.frames.get_mut(last.end) {
                *place = Frame::of(r, read);
                last.end += 1;
            }
        } else if let Some(place) = last.new.get_mut(new) {
            *place = Frame::of(r, read);
            self.new += 1;
        } else {
            // Another stack altogether: the next walk writes all of its frames.
            last.age = 0;
        }
    }
}

impl Drop for Held {
    #[inline(always)]
    fn drop(&mut self) {
        let (is_apart, new) = (self.is_apart, self.new);
        let last = self.last();
        if is_apart {
            (last.begin, last.end) = (NEW_MAX, NEW_MAX + new);
            last.frames[NEW_MAX..NEW_MAX + new].copy_from_slice(&last.new[..new]);
        }
        // Release: pairs with the Acquire in `hold`.
        self.place.is_taken.store(false, Release);
    }
}
