//! What the tables say of one return address, in 64 bits: how to find the caller's registers.
//!
//! 1. No rule is the word 0.

/// The stack pointer, the frame pointer and the return address: what a walk carries on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// The address to which the function returns, or at which it was interrupted.
    pub address: usize,
    /// Where to look it up: inside the instruction that called.
    pub at: usize,
    /// The stack pointer.
    pub sp: usize,
    /// The frame pointer, or whatever the register holds.
    pub fp: usize,
}

/// A place of the stack that the tables name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Bytes from the caller's stack pointer.
    FromCaller(i64),
    /// Bytes from the register on which the rule is based.
    FromBase(i64),
}

/// What becomes of the frame pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramePointer {
    /// It was not touched.
    Kept,
    /// It was put here.
    Saved(Place),
    /// Nobody knows.
    Gone,
}

/// How to find the caller, to be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The register from which the caller's stack pointer is found is the frame pointer, not the
    /// stack pointer.
    pub by_fp: bool,
    /// Bytes from that register.
    pub offset: i64,
    /// The caller's stack pointer was put there; else it is that address.
    pub loads: bool,
    /// Where the return address stands.
    pub return_address: Place,
    /// The frame pointer.
    pub fp: FramePointer,
    /// The frame is a signal's: the address before it is one that was interrupted.
    pub is_signal: bool,
    /// No table says so.
    pub is_guess: bool,
}

/// A packed rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule(u64);

const STEP: u64 = 1;
const ROOT: u64 = 2;
const LOST: u64 = 3;
const CLASS: u64 = 3;
const BY_FP: u64 = 1 << 2;
const LOADS: u64 = 1 << 3;
const RETURN_FROM_BASE: u64 = 1 << 4;
const FP_SAVED: u64 = 1 << 5;
const FP_FROM_BASE: u64 = 1 << 6;
const FP_GONE: u64 = FP_FROM_BASE;
const SIGNAL: u64 = 1 << 7;
const GUESS: u64 = 1 << 8;
const OFFSET_SHIFT: u32 = 9;

/// Bytes of a word of the stack, of which all offsets are multiples.
const WORD: i64 = 8;

/// The words of the stack that a rule has named; 0: none, or not these alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Where the return address stood.
    pub returns: usize,
    /// Where the frame pointer was saved.
    pub saved: usize,
}

/// What a rule comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The registers are the caller's.
    Caller,
    /// There is no caller: the thread began here.
    Root,
    /// There is one, and it cannot be found.
    Lost,
}

/// The part of the stack that may be read.
#[derive(Clone, Copy, Debug)]
pub struct Readable {
    /// The lowest word.
    low: usize,
    /// From there to the highest word.
    span: usize,
}

impl Readable {
    /// From `low`, a multiple of 8, up to `top`; `None` where not even a word has room.
    pub fn new(low: usize, top: usize) -> Option<Readable> {
        let span = top.checked_sub(low)?.checked_sub(WORD as usize)?;
        low.is_multiple_of(WORD as usize).then_some(Readable { low, span })
    }

    /// The word at this address, where it lies inside.
    ///
    /// # Safety
    /// - All from `low` to `top` is readable.
    #[inline(always)]
    pub unsafe fn word(&self, at: usize) -> Option<usize> {
        let offset = at.wrapping_sub(self.low);
        if offset > self.span || !offset.is_multiple_of(WORD as usize) {
            return None;
        }
        let word: *const usize = std::ptr::with_exposed_provenance(at);
        // SAFETY: inside, as was just tested. Volatile: words of functions that run.
        Some(unsafe { word.read_volatile() })
    }
}

fn packed(bytes: i64, bits: u32) -> Option<u64> {
    let words = (bytes % WORD == 0).then_some(bytes / WORD)?;
    let half = 1i64 << (bits - 1);
    (-half..half).contains(&words).then_some(words as u64 & ((1 << bits) - 1))
}

impl Rule {
    /// The thread began in this function.
    pub const ROOT: Rule = Rule(ROOT);
    /// What the tables say cannot be followed.
    pub const LOST: Rule = Rule(LOST);
    /// For code without tables: as if it kept a frame pointer.
    pub const GUESS: Rule = Rule(
        STEP | BY_FP
            | GUESS
            | FP_SAVED
            | 2 << OFFSET_SHIFT
            | (-2i16 as u16 as u64) << 32
            | (-1i16 as u16 as u64) << 48,
    );

    /// The rule of this step; [`LOST`](Rule::LOST) where it is none that compilers make.
    pub fn of(step: &Step) -> Rule {
        Self::pack(step).unwrap_or(Rule::LOST)
    }

    fn pack(step: &Step) -> Option<Rule> {
        let mut word = STEP | packed(step.offset, 23)? << OFFSET_SHIFT;
        for (is, bit) in [
            (step.by_fp, BY_FP),
            (step.loads, LOADS),
            (step.is_signal, SIGNAL),
            (step.is_guess, GUESS),
        ] {
            word |= if is { bit } else { 0 };
        }
        let (fp, fp_bits) = match step.fp {
            FramePointer::Kept => (0, 0),
            FramePointer::Gone => (0, FP_GONE),
            FramePointer::Saved(Place::FromCaller(bytes)) => (bytes, FP_SAVED),
            FramePointer::Saved(Place::FromBase(bytes)) => (bytes, FP_SAVED | FP_FROM_BASE),
        };
        let (at, at_bits) = match step.return_address {
            Place::FromCaller(bytes) => (bytes, 0),
            Place::FromBase(bytes) => (bytes, RETURN_FROM_BASE),
        };
        Some(Rule(word | fp_bits | at_bits | packed(fp, 16)? << 32 | packed(at, 16)? << 48))
    }

    /// The word that stands for it.
    #[inline(always)]
    pub fn word(self) -> u64 {
        self.0
    }

    /// The rule of a word that [`word`](Rule::word) gave.
    #[inline(always)]
    pub fn from_word(word: u64) -> Rule {
        Rule(word)
    }

    /// Whether no table says so.
    #[inline(always)]
    pub fn is_guess(self) -> bool {
        self.0 & GUESS != 0
    }

    /// Changes the registers into the caller's.
    ///
    /// # Safety
    /// - As [`Readable::word`].
    #[inline(always)]
    pub unsafe fn apply(self, r: &mut Registers, stack: &Readable, code_bits: u64) -> Outcome {
        // SAFETY: the caller's promise.
        unsafe { self.step(r, stack, code_bits, &mut Read::default()) }
    }

    /// [`apply`](Rule::apply), and what it has read.
    ///
    /// # Safety
    /// - As [`Readable::word`].
    #[inline(always)]
    pub unsafe fn step(
        self,
        r: &mut Registers,
        stack: &Readable,
        code_bits: u64,
        read: &mut Read,
    ) -> Outcome {
        let w = self.0;
        if w & CLASS != STEP {
            return if w & CLASS == ROOT { Outcome::Root } else { Outcome::Lost };
        }
        // SAFETY: the caller's promise.
        match unsafe { caller(w, r, stack, code_bits, read) } {
            Some(0) => Outcome::Root,
            Some(_) => Outcome::Caller,
            None => Outcome::Lost,
        }
    }
}

/// The return address, after the registers were changed.
///
/// # Safety
/// - As [`Readable::word`].
#[inline(always)]
unsafe fn caller(
    w: u64,
    r: &mut Registers,
    stack: &Readable,
    code_bits: u64,
    read: &mut Read,
) -> Option<usize> {
    let offset = ((w as u32 as i32) >> OFFSET_SHIFT) as isize * WORD as isize;
    let saved = (w >> 32) as u16 as i16 as isize * WORD as isize;
    let returns = (w >> 48) as u16 as i16 as isize * WORD as isize;
    let base = if w & BY_FP != 0 { r.fp } else { r.sp };
    let mut sp = base.wrapping_add_signed(offset);
    if w & LOADS != 0 {
        // SAFETY: the caller's promise, here and below.
        sp = unsafe { stack.word(sp) }?;
    }
    if sp <= r.sp {
        return None;
    }
    let from = if w & RETURN_FROM_BASE != 0 { base } else { sp };
    // SAFETY: as above.
    let address = unsafe { stack.word(from.wrapping_add_signed(returns)) }?;
    // A third word decides where the stack pointer itself was read; a guess may be known better.
    let is_two = w & (LOADS | GUESS) == 0;
    read.returns = if is_two { from.wrapping_add_signed(returns) } else { 0 };
    if w & FP_SAVED != 0 {
        let from = if w & FP_FROM_BASE != 0 { base } else { sp };
        read.saved = from.wrapping_add_signed(saved);
        // SAFETY: as above.
        r.fp = unsafe { stack.word(read.saved) }?;
    } else if w & FP_GONE != 0 {
        r.fp = 0;
    }
    r.sp = sp;
    let address = (address as u64 & code_bits) as usize;
    r.address = address;
    // Inside the call, which may be a function's last instruction; an interrupted address is exact.
    r.at = if w & SIGNAL != 0 { address } else { address.wrapping_sub(1) };
    Some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = u64::MAX;

    /// A stack of words at its own addresses.
    fn made(words: &[usize]) -> (usize, Readable) {
        let low = words.as_ptr().expose_provenance();
        (low, Readable::new(low, low + size_of_val(words)).unwrap())
    }

    fn plain() -> Step {
        Step {
            by_fp: false,
            offset: 32,
            loads: false,
            return_address: Place::FromCaller(-8),
            fp: FramePointer::Kept,
            is_signal: false,
            is_guess: false,
        }
    }

    fn applied(step: &Step, words: &[usize], sp: usize, fp: usize) -> (Outcome, Registers) {
        let (low, stack) = made(words);
        let mut r = Registers { address: 0, at: 0, sp: low + 8 * sp, fp: low + 8 * fp };
        // SAFETY: `stack` holds the words.
        let outcome = unsafe { Rule::of(step).apply(&mut r, &stack, ALL) };
        (outcome, Registers { sp: (r.sp.wrapping_sub(low)) / 8, ..r })
    }

    #[test]
    fn each_form_of_frame() {
        let mut words = vec![0usize; 40];
        (words[5], words[2], words[30]) = (0x1005, 0x22, 0x300);
        let saved = FramePointer::Saved(Place::FromCaller(-32));
        let (o, r) = applied(&Step { fp: saved, ..plain() }, &words, 2, 7);
        assert_eq!((o, r.address, r.at, r.sp, r.fp), (Outcome::Caller, 0x1005, 0x1004, 6, 0x22));
        // By the frame pointer, at word 4; the stack pointer says nothing.
        let by_fp = Step { by_fp: true, offset: 16, fp: FramePointer::Gone, ..plain() };
        let (o, r) = applied(&by_fp, &words, 0, 4);
        assert_eq!((o, r.address, r.sp, r.fp), (Outcome::Caller, 0x1005, 6, 0));
        // The caller's stack pointer stands in word 3, as for frames that are aligned.
        let at = words.as_ptr().addr();
        words[3] = at + 8 * 31;
        let loads = Step { loads: true, offset: 8, ..plain() };
        let (o, r) = applied(&loads, &words, 2, 7);
        assert_eq!((o, r.address, r.sp), (Outcome::Caller, 0x300, 31));
        assert_eq!(r.fp, at + 8 * 7);
        // A signal's frame: all three in its record, and the address is exact.
        let place = |words: i64| Place::FromBase(8 * words);
        let signal = Step {
            return_address: place(4),
            fp: FramePointer::Saved(place(1)),
            is_signal: true,
            ..loads
        };
        words[4] = 0x77;
        let (o, r) = applied(&Step { offset: 8, ..signal }, &words, 2, 7);
        assert_eq!((o, r.sp), (Outcome::Root, 31), "word 6 is 0: no caller");
        words[6] = 0x2000;
        let (o, r) = applied(&signal, &words, 2, 7);
        assert_eq!((o, r.address, r.at, r.fp), (Outcome::Caller, 0x2000, 0x2000, words[3]));
    }

    #[test]
    fn what_is_out_of_bounds_is_lost() {
        let words = vec![0x1000usize; 16];
        let outcome = |step: &Step, sp, fp| applied(step, &words, sp, fp).0;
        assert_eq!(outcome(&plain(), 2, 0), Outcome::Caller);
        assert_eq!(outcome(&Step { offset: 8 * 14, ..plain() }, 2, 0), Outcome::Caller, "the last");
        assert_eq!(outcome(&Step { offset: 8 * 15, ..plain() }, 2, 0), Outcome::Lost, "above it");
        assert_eq!(outcome(&Step { offset: 0, ..plain() }, 2, 0), Outcome::Lost, "not upwards");
        assert_eq!(outcome(&Step { offset: -8, ..plain() }, 2, 0), Outcome::Lost, "downwards");
        let far = FramePointer::Saved(Place::FromCaller(-8 * 100));
        assert_eq!(outcome(&Step { fp: far, ..plain() }, 2, 0), Outcome::Lost);
        let by_fp = Step { by_fp: true, ..plain() };
        assert_eq!(outcome(&by_fp, 2, 1000), Outcome::Lost);
        // What cannot be packed.
        for offset in [4, 8 << 22, -8 << 23, i64::MAX, i64::MIN] {
            assert_eq!(Rule::of(&Step { offset, ..plain() }), Rule::LOST, "{offset}");
        }
        for at in [12, 8 << 15, i64::MIN] {
            let place = Place::FromCaller(at);
            assert_eq!(Rule::of(&Step { return_address: place, ..plain() }), Rule::LOST);
            assert_eq!(Rule::of(&Step { fp: FramePointer::Saved(place), ..plain() }), Rule::LOST);
        }
        for (rule, is) in [(Rule::ROOT, Outcome::Root), (Rule::LOST, Outcome::Lost)] {
            let (low, stack) = made(&words);
            let mut r = Registers { sp: low, ..Registers::default() };
            // SAFETY: `stack` holds the words.
            assert_eq!(unsafe { rule.apply(&mut r, &stack, ALL) }, is);
        }
    }

    #[test]
    fn a_guess_is_a_frame_pointer() {
        let step = Step {
            by_fp: true,
            offset: 16,
            fp: FramePointer::Saved(Place::FromCaller(-16)),
            is_guess: true,
            ..plain()
        };
        assert_eq!(Rule::of(&step), Rule::GUESS);
        assert!(Rule::GUESS.is_guess() && !Rule::of(&plain()).is_guess());
        assert_eq!(Rule::from_word(Rule::GUESS.word()), Rule::GUESS);
    }

    #[test]
    fn bounds_are_kept_at_both_ends() {
        let words = [1usize, 2, 3];
        let (low, stack) = made(&words);
        // SAFETY: `stack` holds the words.
        let word = |at: usize| unsafe { stack.word(at) };
        assert_eq!([0, 8, 16].map(|at| word(low + at)), [Some(1), Some(2), Some(3)]);
        for at in [low - 8, low - 1, low + 1, low + 4, low + 17, low + 24, 0, usize::MAX - 7] {
            assert_eq!(word(at), None, "{at:#x}");
        }
        assert!(Readable::new(low, low + 7).is_none() && Readable::new(low, low - 1).is_none());
        assert!(Readable::new(low + 4, low + 24).is_none());
    }
}
