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
use crate::last;
use crate::last::Held;
use crate::modules;
use crate::rule::Outcome;
use crate::rule::Read;
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
    let mut found = Found { out, from, frames: 0, flags: 0 };
    if !found.push(&r) {
        return found.with(STACK_TRUNCATED);
    }
    let mut last = last::hold(top, age);
    if let Some(last) = &mut last
        && last.is_apart()
    {
        // SAFETY: the caller's promise.
        if let Some(end) = unsafe { found.along(last, &mut r, &stack, age) } {
            return found.with(end);
        }
    }
    let mut note = |r: &Registers, read| {
        if let Some(last) = &mut last {
            last.note(r, read);
        }
    };
    // Each step goes up the stack by a word at least, so this ends.
    loop {
        // SAFETY: as above.
        if let Some(end) = unsafe { found.step(&mut r, &stack, age, &mut note) } {
            return found.with(end);
        }
    }
}

/// What a walk has found so far.
struct Found<'o> {
    out: &'o mut [MaybeUninit<u64>],
    /// Frames below this are left out.
    from: usize,
    frames: usize,
    flags: u64,
}

impl Found<'_> {
    /// Adds a frame, unless it is to be left out; `false` where there is no room.
    #[inline(always)]
    fn push(&mut self, r: &Registers) -> bool {
        if is_own(r.at) || r.sp < self.from {
            return true;
        }
        let Some(place) = self.out.get_mut(self.frames) else { return false };
        place.write(r.address as u64);
        self.frames += 1;
        true
    }

    /// Goes to the caller, by the rule of the frame; where the walk ends, gives the flag that says
    /// why.
    ///
    /// # Safety
    /// - As [`Readable::word`].
    #[inline(always)]
    unsafe fn step(
        &mut self,
        r: &mut Registers,
        stack: &Readable,
        age: u64,
        note: impl FnOnce(&Registers, Read),
    ) -> Option<u64> {
        let rule = rules::find(r.at, age).unwrap_or_else(|| modules::work_out(r.at, age));
        self.flags |= if rule.is_guess() { STACK_GUESSED } else { STACK_TABLES };
        let (frame, mut read) = (*r, Read::default());
        // SAFETY: the caller's promise.
        let outcome = unsafe { rule.step(r, stack, arch::CODE_BITS, &mut read) };
        note(&frame, read);
        match outcome {
            Outcome::Caller if self.push(r) => None,
            Outcome::Caller => Some(STACK_TRUNCATED),
            Outcome::Root => Some(0),
            Outcome::Lost => Some(STACK_LOST),
        }
    }

    /// Goes up to a frame that the last walk had, and on through that one's frames; where the walk
    /// ends, gives the flag that says why.
    ///
    /// # Safety
    /// - As [`Readable::word`].
    #[inline(always)]
    unsafe fn along(
        &mut self,
        last: &mut Held,
        r: &mut Registers,
        stack: &Readable,
        age: u64,
    ) -> Option<u64> {
        while !last.joins(r) {
            // SAFETY: the caller's promise.
            let end = unsafe { self.step(r, stack, age, |r, read| last.note(r, read)) };
            if end.is_some() {
                return end;
            }
        }
        let (joined, from) = (r.sp, self.from);
        let out = &mut self.out[self.frames..];
        let (written, has_room);
        // SAFETY: as above.
        (*r, written, has_room) = unsafe { last.follow(*stack, arch::CODE_BITS, from, out) };
        self.frames += written;
        // Callers that are remembered were found by tables.
        self.flags |= if r.sp > joined { STACK_TABLES } else { 0 };
        (!has_room).then_some(STACK_TRUNCATED)
    }

    #[inline(always)]
    fn with(self, flag: u64) -> Unwound {
        Unwound { frames: self.frames, flags: self.flags | flag }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::FramePointer;
    use crate::rule::Place;
    use crate::rule::Step;
    use std::cell::Cell;

    /// The walk without a memory of the one before.
    fn plainly(part: &Part, most: usize) -> (Vec<u64>, u64) {
        let Part { fp, sp, top, from } = *part;
        let stack = Readable::new(sp, top).unwrap();
        let mut r = Registers { address: 0, at: 0, sp, fp };
        // SAFETY: the caller's stack, here and below.
        let first = unsafe { Rule::GUESS.apply(&mut r, &stack, arch::CODE_BITS) };
        assert_eq!(first, Outcome::Caller);
        let (mut frames, mut flags) = (Vec::new(), 0);
        loop {
            if r.sp >= from {
                if frames.len() == most {
                    return (frames, flags | STACK_TRUNCATED);
                }
                frames.push(r.address as u64);
            }
            let rule = rules::find(r.at, rules::age());
            let rule = rule.unwrap_or_else(|| modules::work_out(r.at, rules::age()));
            flags |= if rule.is_guess() { STACK_GUESSED } else { STACK_TABLES };
            // SAFETY: as above.
            match unsafe { rule.apply(&mut r, &stack, arch::CODE_BITS) } {
                Outcome::Caller => {}
                Outcome::Root => return (frames, flags),
                Outcome::Lost => return (frames, flags | STACK_LOST),
            }
        }
    }

    /// Numbers that look like chance, always the same.
    struct Chance(Cell<u64>);

    impl Chance {
        fn below(&self, n: usize) -> usize {
            let mut x = self.0.get();
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            self.0.set(x);
            (x >> 20) as usize % n
        }
    }

    /// Return addresses into code that is nowhere, with rules of all forms.
    const CODE: usize = 0x5_0000_1000;
    const FUNCTIONS: usize = 40;

    fn rules_for(chance: &Chance) -> Vec<Step> {
        let one_in = |n: usize| chance.below(n) == 0;
        (0..FUNCTIONS)
            .map(|n| {
                let words = 3 + chance.below(6) as i64;
                let by_fp = one_in(4);
                let saved = Place::FromCaller(-8 * (2 + chance.below(words as usize - 2) as i64));
                let step = Step {
                    by_fp,
                    offset: 8 * words,
                    loads: false,
                    return_address: Place::FromCaller(-8),
                    fp: match chance.below(20) {
                        0 if !by_fp => FramePointer::Gone,
                        1..12 if !by_fp => FramePointer::Kept,
                        _ => FramePointer::Saved(saved),
                    },
                    is_signal: one_in(9),
                    is_guess: one_in(20),
                };
                for at in [CODE + 16 * n, CODE + 16 * n - 1] {
                    rules::keep(at, rules::age(), Rule::of(&step));
                }
                step
            })
            .collect()
    }

    /// A program's stack, downwards from its top: of each call its function, where its frame
    /// begins, and the frame pointer of its caller.
    struct Program {
        words: Vec<usize>,
        steps: Vec<Step>,
        calls: Vec<(usize, usize, usize)>,
        fp: usize,
    }

    impl Program {
        fn at(&self, word: usize) -> usize {
            self.words.as_ptr().expose_provenance() + 8 * word
        }

        fn place(&self) -> usize {
            self.calls.last().map_or(self.words.len() - 2, |call| call.1)
        }

        fn call(&mut self, n: usize, chance: &Chance) {
            let (above, step) = (self.place(), self.steps[n]);
            let begin = above - (step.offset / 8) as usize;
            let caller = self.calls.last().map_or(0, |call| CODE + 16 * call.0);
            self.words[begin..above].fill_with(|| CODE + 16 * chance.below(FUNCTIONS));
            self.words[above - 1] = caller;
            self.calls.push((n, begin, self.fp));
            if let FramePointer::Saved(Place::FromCaller(bytes)) = step.fp {
                self.words[(above as i64 + bytes / 8) as usize] = self.fp;
                self.fp = if step.by_fp { self.at(begin) } else { chance.below(1 << 40) };
            }
        }

        fn back(&mut self) {
            if let Some((_, _, fp)) = self.calls.pop() {
                self.fp = fp;
            }
        }

        /// Walks as the library's own function does, which the innermost one has called.
        fn look(&mut self, most: usize, from: usize) -> usize {
            let Some(&(n, begin, _)) = self.calls.last() else { return 0 };
            let own = begin - 2;
            (self.words[own], self.words[own + 1]) = (self.fp, CODE + 16 * n);
            let (own, top) = (self.at(own), self.at(self.words.len()));
            let from = if from == 0 { 0 } else { self.at(begin + from) };
            let part = Part { fp: own, sp: own, top, from };
            let expected = plainly(&part, most);
            let mut out = vec![MaybeUninit::uninit(); most];
            for _ in 0..2 {
                // SAFETY: the words are a stack that nobody else touches.
                let found = unsafe { walk(&part, &mut out) };
                // SAFETY: so many were written.
                let frames = out[..found.frames].iter().map(|f| unsafe { f.assume_init() });
                assert_eq!((frames.collect(), found.flags), expected);
            }
            expected.0.len()
        }
    }

    #[test]
    fn what_stands_above_may_change_between_walks() {
        let chance = Chance(Cell::new(0x1234_5678_9abc_def1));
        let steps = rules_for(&chance);
        let mut p = Program { words: vec![0; 2000], steps, calls: Vec::new(), fp: 0 };
        let (mut deep, mut most_calls) = (0, 0);
        for round in 0..30_000 {
            // Now and then all returns, so that there are calls of all depths.
            let back = if round % 200 == 0 { 200 } else { chance.below(5) };
            (0..back).for_each(|_| p.back());
            for _ in 0..chance.below(6) {
                if p.calls.len() < 150 {
                    p.call(chance.below(FUNCTIONS), &chance);
                }
            }
            if chance.below(20) == 0 {
                // Whatever stands there: another place of the stack, other code.
                let word = p.place() + chance.below(p.words.len() - p.place());
                let to = p.at(chance.below(p.words.len()));
                p.words[word] = if round % 2 == 0 { to } else { CODE + 16 * chance.below(40) };
            }
            let most = if chance.below(10) == 0 { 5 } else { 100 };
            let from = if chance.below(10) == 0 { chance.below(60) } else { 0 };
            deep += usize::from(p.look(most, from) > 20);
            most_calls = most_calls.max(p.calls.len());
        }
        assert!(deep > 3_000 && most_calls > 100, "{deep} {most_calls}");
    }
}
