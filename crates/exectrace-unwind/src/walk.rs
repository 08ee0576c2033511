//! The walk.

use std::mem::MaybeUninit;

use trace::encode::schema::STACK_GUESSED;
use trace::encode::schema::STACK_LOST;
use trace::encode::schema::STACK_TABLES;
use trace::encode::schema::STACK_TRUNCATED;
use trace::stacktab::capture::Part;
use trace::stacktab::capture::Unwound;
use trace::sys::arch;

use crate::is_own;
use crate::modules;
use crate::rule::Outcome;
use crate::rule::Readable;
use crate::rule::Registers;
use crate::rule::Rule;
use crate::rules;

/// Writes the return addresses of the frames above `fp`, innermost first, those of the own library
/// left out, and those of functions whose stack pointer is below `from`. Async-signal-safe.
///
/// `fp` is the frame pointer of a function of the own library, which runs on the calling thread.
///
/// # Safety
/// - `sp..top` is readable and stays so; `sp` is at or above the thread's stack pointer.
pub unsafe fn walk(part: &Part, out: &mut [MaybeUninit<u64>]) -> Unwound {
    let Part { fp, sp, top, from } = *part;
    let Some(stack) = Readable::new(sp.next_multiple_of(8), top) else { return Unwound::default() };
    let mut r = Registers { address: 0, at: 0, sp, fp };
    let age = rules::age();
    // The own library keeps frame pointers.
    loop {
        // SAFETY: the caller's promise.
        match unsafe { Rule::GUESS.apply(&mut r, &stack, arch::CODE_BITS) } {
            Outcome::Caller if is_own(r.at) => {}
            Outcome::Caller => break,
            Outcome::Root | Outcome::Lost => return Unwound::default(),
        }
    }
    let (mut frames, mut flags) = (0, 0);
    // Each step goes up the stack by a word at least, so this ends.
    loop {
        if !is_own(r.at) && r.sp >= from {
            let Some(place) = out.get_mut(frames) else {
                return Unwound { frames, flags: flags | STACK_TRUNCATED };
            };
            place.write(r.address as u64);
            frames += 1;
        }
        let rule = rules::find(r.at, age).unwrap_or_else(|| modules::work_out(r.at, age));
        flags |= if rule.is_guess() { STACK_GUESSED } else { STACK_TABLES };
        // SAFETY: the caller's promise.
        match unsafe { rule.apply(&mut r, &stack, arch::CODE_BITS) } {
            Outcome::Caller => {}
            Outcome::Root => return Unwound { frames, flags },
            Outcome::Lost => return Unwound { frames, flags: flags | STACK_LOST },
        }
    }
}
