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
        let w = self.0;
        if w & CLASS != STEP {
            return if w & CLASS == ROOT { Outcome::Root } else { Outcome::Lost };
        }
        // SAFETY: the caller's promise.
        match unsafe { caller(w, r, stack, code_bits) } {
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
unsafe fn caller(w: u64, r: &mut Registers, stack: &Readable, code_bits: u64) -> Option<usize> {
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
    if w & FP_SAVED != 0 {
        let from = if w & FP_FROM_BASE != 0 { base } else { sp };
        // SAFETY: as above.
        r.fp = unsafe { stack.word(from.wrapping_add_signed(saved)) }?;
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
