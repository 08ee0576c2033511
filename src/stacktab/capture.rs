//! The walk over the calling thread's stack by frame pointers, and the sum of the stack's hash on
//! the way. 16 frames take about 14 ns.
//!
//! A frame pointer is followed where the code has one; code without may leave any number in that
//! register, which ends the walk or adds a wrong frame, and no more. Whoever knows another way to
//! walk hands it in by [`set_unwind`].
//!
//! 1. The walk reads inside `sp..top` only, and only upwards: each frame begins above the one
//!    before. Otherwise a wrong number makes it fault, or not end.

use crate::encode::schema::STACK_TRUNCATED;
use crate::intern::Keys;
use crate::sync::AtomicPtr;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Release;
use crate::sys::arch;
use std::mem::MaybeUninit;

/// What a frame pointer points at: the caller's frame pointer, then the return address.
const FRAME_BYTES: usize = 16;

/// The outcome of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// How many return addresses were written, innermost first.
    pub frames: usize,
    /// The flags of the event that defines the stack.
    pub flags: u64,
    /// The steps of `Keys` over the frames, added.
    pub sum: u64,
}

/// Walks from the frame that `fp` points at, and writes at most `out.len()` return addresses; those
/// into functions whose stack pointer is below `from` are left out.
/// Async-signal-safe.
///
/// # Safety
/// - `sp..top` is readable and stays so: `sp` is the stack pointer of the calling thread, or an
///   address above it, and `StackBounds::holds(sp)` of that thread's bounds, whose top is `top`.
#[inline(always)]
pub unsafe fn walk(
    keys: &Keys,
    fp: usize,
    sp: usize,
    top: usize,
    from: usize,
    out: &mut [MaybeUninit<u64>],
) -> Walk {
    let mut bounds = Rest { low: sp, last: top.saturating_sub(FRAME_BYTES) };
    let (mut at, mut frames, mut sum) = (fp, 0, 0u64);
    while at.saturating_add(FRAME_BYTES) < from {
        // SAFETY: the caller's duty; `bounds` only shrinks.
        let Some((next, _)) = (unsafe { bounds.frame(at) }) else { break };
        at = next;
    }
    for place in out {
        // SAFETY: the caller's duty; `bounds` only shrinks.
        let Some((next, address)) = (unsafe { bounds.frame(at) }) else {
            return Walk { frames, flags: 0, sum };
        };
        place.write(address);
        sum = sum.wrapping_add(keys.step(frames, address));
        frames += 1;
        at = next;
    }
    // SAFETY: as above.
    let truncated = unsafe { bounds.frame(at) }.is_some();
    Walk { frames, flags: if truncated { STACK_TRUNCATED } else { 0 }, sum }
}

/// Where a walk begins, and what it may read.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// The frame pointer.
    pub fp: usize,
    /// The lowest address that may be read.
    pub sp: usize,
    /// The first address above that may not.
    pub top: usize,
    /// Functions whose stack pointer is below this are left out.
    pub from: usize,
}

/// Another way to walk, for code that keeps no frame pointers: takes the part of the stack and the
/// place for return addresses.
///
/// It MUST be async-signal-safe, and read nothing of the stack but that part.
///
/// # Safety
///
/// - The part is memory of the calling thread's own stack, and stays for the call.
pub type Unwind = unsafe fn(&Part, &mut [MaybeUninit<u64>]) -> Unwound;

/// What such a walk has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unwound {
    /// How many return addresses were written, innermost first.
    pub frames: usize,
    /// The flags of the event that defines the stack.
    pub flags: u64,
}

static UNWIND: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Has all stacks of the process from here on walked so.
pub fn set_unwind(unwind: Unwind) {
    // Release: pairs with the Acquire in `unwind`: what it needs is there.
    UNWIND.store(unwind as *mut (), Release);
}

/// The other way to walk, where there is one.
#[inline(always)]
pub fn unwind() -> Option<Unwind> {
    // Acquire: pairs with the Release in `set_unwind`.
    let unwind = UNWIND.load(Acquire);
    if unwind.is_null() {
        return None;
    }
    // SAFETY: stored by `set_unwind` from a function of this type.
    Some(unsafe { std::mem::transmute::<*mut (), Unwind>(unwind) })
}

/// [`walk`] in the other way.
///
/// # Safety
/// - As [`walk`].
#[inline(never)]
pub unsafe fn walk_by(
    unwind: Unwind,
    keys: &Keys,
    part: &Part,
    out: &mut [MaybeUninit<u64>],
) -> Walk {
    // SAFETY: the caller's promise.
    let Unwound { frames, flags } = unsafe { unwind(part, out) };
    let mut sum = 0u64;
    for (i, frame) in out.iter().take(frames).enumerate() {
        // SAFETY: so many were written.
        sum = sum.wrapping_add(keys.step(i, unsafe { frame.assume_init() }));
    }
    Walk { frames: frames.min(out.len()), flags, sum }
}

/// Where the next frame may stand: from `low` to `last`.
struct Rest {
    low: usize,
    last: usize,
}

impl Rest {
    /// The frame at this address: the next frame's, and the return address. `None` where no frame
    /// can be, or the return address is 0, as at a thread's first frame.
    ///
    /// # Safety
    /// - `low..last + FRAME_BYTES` is readable.
    #[inline(always)]
    unsafe fn frame(&mut self, at: usize) -> Option<(usize, u64)> {
        if at < self.low || at > self.last || !at.is_multiple_of(8) {
            return None;
        }
        self.low = at + FRAME_BYTES;
        let frame: *const usize = std::ptr::with_exposed_provenance(at);
        // SAFETY: capture#1: `at` was tested above. Volatile, since these are words of functions
        // that run: the compiler knows nothing of what stands in them.
        let next = unsafe { frame.read_volatile() };
        // SAFETY: as above: FRAME_BYTES hold two words.
        let address = unsafe { frame.wrapping_add(1).read_volatile() };
        let address = address as u64 & arch::CODE_BITS;
        (address != 0).then_some((next, address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::thread::stack_bounds;
    use std::ffi::CString;
    use std::ffi::c_void;
    use std::path::Path;
    use std::process::Command;

    static KEYS: Keys = Keys::new(7);

    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^ (z >> 27)
    }

    /// The addresses of a walk, after its hash was compared.
    fn walked(fp: usize, sp: usize, top: usize, max: usize) -> (Vec<u64>, bool) {
        let mut out = vec![MaybeUninit::new(0); max];
        // SAFETY: each caller gives a range that it owns.
        let walk = unsafe { walk(&KEYS, fp, sp, top, 0, &mut out) };
        let all = out.iter().take(walk.frames);
        // SAFETY: all were written, by the walk or at the start.
        let all: Vec<u64> = all.map(|a| unsafe { a.assume_init() }).collect();
        let steps = all.iter().enumerate().map(|(i, a)| KEYS.step(i, *a));
        assert_eq!(walk.sum, steps.fold(0, u64::wrapping_add));
        (all, walk.flags == STACK_TRUNCATED)
    }

    /// A made-up stack: words at addresses that are known.
    struct Made {
        words: Vec<usize>,
    }

    impl Made {
        fn new(words: usize) -> Self {
            let made = Made { words: vec![0; words] };
            made.words.as_ptr().expose_provenance();
            made
        }

        fn at(&self, word: usize) -> usize {
            self.words.as_ptr().addr() + word * 8
        }

        /// A frame at a word, that points at another word.
        fn frame(&mut self, word: usize, next: usize, address: usize) {
            self.words[word] = self.at(next);
            self.words[word + 1] = address;
        }

        fn walked(&self, from: usize, max: usize) -> (Vec<u64>, bool) {
            let sp = std::hint::black_box(&self.words).as_ptr().expose_provenance();
            walked(self.at(from), sp, self.at(self.words.len()), max)
        }
    }

    #[test]
    fn long_chains() {
        for depth in [1usize, 2, 127, 128, 129, 10_000, 100_000] {
            let mut made = Made::new(depth * 4 + 2);
            for i in 0..depth {
                made.frame(4 * i, 4 * (i + 1), i + 1);
            }
            let (all, truncated) = made.walked(0, 128);
            let expect: Vec<u64> = (1..=128.min(depth as u64)).collect();
            assert_eq!((all, truncated), (expect, depth > 128), "{depth}");
            assert_eq!(made.walked(0, depth).0.len(), depth);
        }
    }

    #[test]
    fn stops_where_it_must() {
        let mut made = Made::new(40);
        let top = made.at(40);
        made.frame(4, 8, 0x11);
        let good = |made: &Made| made.walked(4, 16).0;
        // The frame that follows, and what a walk from word 4 gives.
        made.frame(8, 12, 0);
        assert_eq!(good(&made), [0x11], "return address 0");
        made.frame(8, 8, 0x22);
        assert_eq!(good(&made), [0x11, 0x22], "a frame that is its own caller");
        made.frame(8, 4, 0x22);
        assert_eq!(good(&made), [0x11, 0x22], "downwards");
        made.frame(8, 9, 0x22);
        assert_eq!(good(&made), [0x11, 0x22], "into itself");
        made.frame(8, 38, 0x22);
        made.words[39] = 0x33;
        assert_eq!(good(&made), [0x11, 0x22, 0x33], "the last place for a frame");
        for bad in [0, 1, 7, made.at(12) + 4, top - 8, top, top + 8, usize::MAX, usize::MAX & !7] {
            made.words[8] = bad;
            assert_eq!(good(&made), [0x11, 0x22], "next {bad:#x}");
            let sp = made.at(0);
            assert_eq!(walked(bad, sp, top, 16), (vec![], false), "first {bad:#x}");
        }
        let sp = made.at(0);
        assert_eq!(walked(made.at(4), made.at(5), top, 16).0, [], "below the stack pointer");
        assert_eq!(walked(sp, sp, 0, 16).0, []);
        assert_eq!(walked(made.at(4), sp, sp, 16).0, []);
        assert_eq!(walked(made.at(4), sp, top, 0), (vec![], true));
    }

    /// One page of random words, many of which point into it or next to it, between pages that
    /// fault.
    #[test]
    fn never_leaves_its_bounds() {
        let page = crate::sys::page_bytes();
        let prot = libc::PROT_NONE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), 3 * page, prot, flags, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED);
        let low = base.expose_provenance() + page;
        let both = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the middle page of the mapping above.
        assert_eq!(unsafe { libc::mprotect(base.wrapping_byte_add(page), page, both) }, 0);
        let first: *mut u64 = std::ptr::with_exposed_provenance_mut(low);
        // SAFETY: the page is ours and writable, words fill it.
        let words = unsafe { std::slice::from_raw_parts_mut(first, page / 8) };
        let mut state = 1;
        let (mut frames, mut most) = (0, 0);
        for _ in 0..2000 {
            for (i, word) in words.iter_mut().enumerate() {
                let r = random(&mut state);
                *word = match r % 8 {
                    0 => r,
                    1 => 0,
                    2 => low as u64 + r % page as u64,
                    3 => (low + page - 32) as u64 + (r >> 8) % 64,
                    4 => (low as u64).wrapping_sub(32) + (r >> 8) % 64,
                    _ => (low + 8 * i) as u64 + 16 + (r >> 8) % 64 / 8 * 8,
                };
            }
            for _ in 0..50 {
                let r = random(&mut state);
                let sp = low + (r as usize % page) / 8 * 8;
                let fp = match r >> 60 {
                    0..4 => r.rotate_left(20) as usize,
                    _ => sp + (r >> 20) as usize % page / 8 * 8,
                };
                let (all, _) = walked(fp, sp, low + page, 128);
                frames += all.len();
                most = most.max(all.len());
            }
        }
        assert!(frames > 30_000 && most > 5, "{frames} {most}");
    }

    #[test]
    fn garbage_on_the_real_stack() {
        let bounds = stack_bounds().unwrap();
        let mut state = 3;
        let mut inside = 0;
        for i in 0..100_000 {
            let sp = arch::sp();
            assert!(bounds.holds(sp));
            let r = random(&mut state) as usize;
            let fp = if i % 2 == 0 { r } else { sp + r % (bounds.top - sp) / 8 * 8 };
            inside += walked(fp, sp, bounds.top, 128).0.len();
        }
        assert!(inside > 1000, "{inside}");
    }

    /// `with` keeps frame pointers, `without` uses the register for one of its numbers.
    const SOURCE: &str = "
        typedef unsigned long word;
        typedef void (*call)(void *, word);
        #ifdef WITH
        word with(word depth, call f, void *to) {
            volatile word here = depth;
            if (depth <= 1) f(to, (word)__builtin_frame_address(0));
            else here += with(depth - 1, f, to);
            return here;
        }
        #else
        word without(call f, void *to, word a, word b, word c, word d) {
            word e = a * b, g = c * d;
            f(to, 0);
            return a + 3 * b + 5 * c + 7 * d + 11 * e + 13 * g;
        }
        #endif
        ";

    /// Builds and loads the C source; `None` without a compiler.
    fn load(dir: &Path, name: &str, flags: &[&str]) -> Option<*mut c_void> {
        let source = dir.join("frames.c");
        let object = dir.join(format!("{name}.so"));
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(&source, SOURCE).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-fno-optimize-sibling-calls", "-shared", "-fPIC"]).args(flags);
        match cc.arg("-o").arg(&object).arg(&source).status() {
            Ok(status) => assert!(status.success()),
            Err(_) => {
                eprintln!("skipped: no C compiler");
                return None;
            }
        }
        let path = CString::new(object.to_str().unwrap()).unwrap();
        let name = CString::new(name).unwrap();
        // SAFETY: a library without constructors.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!library.is_null());
        // SAFETY: the handle is open, the name ends in a zero.
        let function = unsafe { libc::dlsym(library, name.as_ptr()) };
        assert!(!function.is_null());
        Some(function)
    }

    type Seen = Option<(Vec<u64>, bool)>;

    extern "C" fn see(to: *mut c_void, fp: usize) {
        let sp = arch::sp();
        let bounds = stack_bounds().unwrap();
        let fp = if fp == 0 { arch::fp() } else { fp };
        let seen = walked(fp, sp, bounds.top, 128);
        // SAFETY: the caller's place, which nobody else uses.
        unsafe { *to.cast::<Seen>() = Some(seen) };
    }

    #[test]
    fn c_with_and_without_frame_pointers() {
        let dir = std::env::temp_dir().join(format!("exectrace-frames-{}", std::process::id()));
        let with = load(&dir, "with", &["-DWITH", "-fno-omit-frame-pointer"]);
        let without = load(&dir, "without", &["-fomit-frame-pointer"]);
        let (Some(with), Some(without)) = (with, without) else { return };
        std::fs::remove_dir_all(&dir).unwrap();
        type With = extern "C" fn(usize, extern "C" fn(*mut c_void, usize), *mut Seen) -> usize;
        // SAFETY: the C function's type, but for the type of a pointer that it hands on.
        let with: With = unsafe { std::mem::transmute(with) };
        type Without = extern "C" fn(
            extern "C" fn(*mut c_void, usize),
            *mut Seen,
            usize,
            usize,
            usize,
            usize,
        ) -> usize;
        // SAFETY: as above.
        let without: Without = unsafe { std::mem::transmute(without) };
        let run = move || {
            let mut seen: Seen = None;
            for depth in [20usize, 10_000, 100_000] {
                assert_eq!(with(depth, see, &mut seen), depth * (depth + 1) / 2);
                let (all, truncated) = seen.take().unwrap();
                let same = all.iter().take_while(|a| **a == all[0]).count();
                assert_eq!(same, 128.min(depth - 1), "one address for each call of itself");
                assert!(truncated || depth == 20);
            }
            let sp = arch::sp();
            for odd in [0, 1, 8, sp, sp + 64, sp & !0xfff, usize::MAX - 7, 0x5555_5555_5550] {
                without(see, &mut seen, odd, odd, odd, odd);
                assert!(seen.take().unwrap().0.len() <= 128);
            }
        };
        let big = std::thread::Builder::new().stack_size(64 << 20);
        big.spawn(run).unwrap().join().unwrap();
    }
}
