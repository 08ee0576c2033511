//! Walks through code that is compiled for it: libgcc's unwinder sees the same frames, and no
//! library that goes meanwhile, nor any number on a stack, does harm.

use std::cell::RefCell;
use std::ffi::CString;
use std::ffi::c_int;
use std::ffi::c_void;
use std::fmt::Write;
use std::fs;
use std::mem::MaybeUninit;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use trace::encode::schema::STACK_GUESSED;
use trace::encode::schema::STACK_LOST;
use trace::encode::schema::STACK_TABLES;
use trace::encode::schema::STACK_TRUNCATED;
use trace::stacktab::capture::Part;
use trace::sys;
use trace::sys::stack::stack_bounds;

// SAFETY of callers: room for as many addresses as they say.
unsafe extern "C" {
    /// glibc's, which asks libgcc's unwinder.
    fn backtrace(to: *mut *mut c_void, most: c_int) -> c_int;
}

const MOST: usize = 128;

// SAFETY of callers: what the made code does with the two is the test's to know.
type Begin = unsafe extern "C" fn(extern "C" fn(), usize) -> usize;

/// What both unwinders saw.
#[derive(Clone, Debug, Default)]
struct Seen {
    ours: Vec<u64>,
    theirs: Vec<u64>,
    flags: u64,
}

thread_local! {
    static SEEN: RefCell<Seen> = RefCell::default();
}

/// The frames from `fp`, on a stack from `sp` to `top`.
///
/// # Safety
/// - That stack is readable.
unsafe fn walked(fp: usize, sp: usize, top: usize) -> (Vec<u64>, u64) {
    let mut out = [MaybeUninit::<u64>::uninit(); MOST];
    // SAFETY: the caller's promise.
    let found = unsafe { trace_unwind::walk(&Part { fp, sp, top, from: 0 }, &mut out) };
    let frames = out[..found.frames].iter();
    // SAFETY: so many were written.
    (frames.map(|f| unsafe { f.assume_init() }).collect(), found.flags)
}

/// What the compiled code calls in its depth.
extern "C" fn look_around() {
    let (fp, sp) = (sys::fp(), sys::sp());
    let top = stack_bounds().expect("the thread's own stack").top;
    // SAFETY: from the stack pointer to the top of the stack.
    let (ours, flags) = unsafe { walked(fp, sp, top) };
    let mut theirs = [std::ptr::null_mut(); 2 * MOST];
    // SAFETY: room for so many.
    let n = unsafe { backtrace(theirs.as_mut_ptr(), theirs.len() as c_int) };
    let theirs = theirs[..n as usize].iter().map(|a| a.addr() as u64).collect();
    SEEN.set(Seen { ours, theirs, flags });
}

/// Tests share the process's list of modules.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn random(state: &mut u64) -> usize {
    *state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
    (*state >> 30) as usize
}

/// C code of a chain of functions, each with a frame of another shape.
fn source(seed: u64, functions: usize) -> String {
    let mut state = seed;
    let mut text = String::from(
        "#include <alloca.h>\n#include <string.h>\ntypedef unsigned long word;\n\
         typedef void (*call)(void);\nextern volatile word sink;\nvolatile word sink;\n\
         #define APART __attribute__((noinline, noclone))\n\
         APART static word f0(call f, word n) { f(); sink += n; return n + sink; }\n",
    );
    for i in 1..=functions {
        let _ = writeln!(text, "APART static word f{i}(call f, word n) {{ word r = 1;");
        for k in 0..random(&mut state) % 7 {
            let _ = writeln!(text, "  word k{k} = n * {} + sink;", random(&mut state) % 99);
            text.push_str(&format!("  r ^= k{k};\n"));
        }
        let room = random(&mut state) % 3000 + 1;
        let align = 1 << (random(&mut state) % 8);
        match random(&mut state) % 5 {
            0 => text.push_str(&format!(
                "  volatile char room[{room}] __attribute__((aligned({align})));\n  \
                 room[n % {room}] = 1; r += room[0] + ((word)room & 1);\n"
            )),
            1 => text.push_str(&format!(
                "  char *room = alloca(n % 100 + {align}); memset(room, 1, n % 100);\n  \
                 r += room[n % 100 / 2];\n"
            )),
            2 => text.push_str("  if (sink == 99) return f(), 3;\n"),
            _ => {}
        }
        let _ = writeln!(text, "  r += f{}(f, n + r % 3); sink += r;", i - 1);
        // Used after the call, so that they live across it.
        let _ = writeln!(text, "  return r * n + sink;\n}}");
    }
    let _ = writeln!(text, "word begin(call f, word n) {{ return f{functions}(f, n) + 1; }}");
    text
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// Compiles it to a library; `None` without a compiler.
fn library(name: &str, text: &str, compiler: &str, flags: &[&str]) -> Option<PathBuf> {
    let source = folder().join(format!("{name}-{}.c", std::process::id()));
    let object = source.with_extension("so");
    fs::write(&source, text).unwrap();
    let mut cc = Command::new(compiler);
    cc.args(["-shared", "-fPIC", "-o"]).arg(&object).arg(&source).args(flags);
    match cc.output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(object)
        }
        Err(e) => {
            println!("skipped: no {compiler}: {e}");
            None
        }
    }
}

fn open(object: &Path) -> (*mut c_void, Begin) {
    let path = CString::new(object.to_str().unwrap()).unwrap();
    // SAFETY: a library without constructors.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!handle.is_null());
    // SAFETY: the handle is open.
    let begin = unsafe { libc::dlsym(handle, c"begin".as_ptr()) };
    assert!(!begin.is_null());
    // SAFETY: the function has this type.
    (handle, unsafe { std::mem::transmute::<*mut c_void, Begin>(begin) })
}

/// Both unwinders, from the same depth of the same code.
fn seen(begin: Begin, n: usize) -> Seen {
    // SAFETY: compiled for this.
    unsafe { begin(look_around, n) };
    SEEN.take()
}

#[test]
fn libgcc_sees_the_same_frames() {
    let _alone = alone();
    trace_unwind::begin(0);
    let mut libraries = 0;
    for (seed, flags) in [
        (1, &["-O2", "-fomit-frame-pointer"][..]),
        (2, &["-O3", "-fomit-frame-pointer"]),
        (3, &["-Os", "-fomit-frame-pointer"]),
        (4, &["-O1", "-fno-omit-frame-pointer"]),
        (5, &["-O2", "-fomit-frame-pointer", "-mavx2", "-mstackrealign"]),
        (6, &["-O0"]),
    ] {
        if cfg!(not(target_arch = "x86_64")) && flags.contains(&"-mavx2") {
            continue;
        }
        let name = format!("chain{seed}");
        let Some(object) = library(&name, &source(seed, 40), "cc", flags) else { return };
        let (handle, begin) = open(&object);
        trace_unwind::look();
        for n in [0, 1, 77] {
            let Seen { ours, theirs, flags: how } = seen(begin, n);
            // Theirs begins with the frame that asked.
            let from = theirs.iter().position(|a| *a == ours[0]).expect("the same caller");
            let theirs = &theirs[from..];
            // To the end, but for what lies below the thread's first function.
            assert!(theirs.len() > 45, "{theirs:x?}");
            assert_eq!(ours[..45], theirs[..45], "{flags:?}");
            assert_eq!(ours, theirs[..ours.len()], "{flags:?}");
            assert!(theirs.len() - ours.len() <= 1, "{} {}", theirs.len(), ours.len());
            assert_eq!(how, STACK_TABLES, "{flags:?}");
        }
        libraries += 1;
        // SAFETY: nothing of the library is used any more.
        unsafe { libc::dlclose(handle) };
    }
    println!("{libraries} libraries");
    assert!(libraries >= 5);
}

/// A stack of words that are addresses of the code of `begin`, or near it, or of nothing.
fn made_stack(state: &mut u64, begin: usize, stack: &mut [usize]) {
    let low = stack.as_ptr().expose_provenance();
    for word in stack.iter_mut() {
        *word = match random(state) % 4 {
            0 => begin.wrapping_sub(random(state) % 4096),
            1 => low + random(state) % 4096 / 8 * 8,
            2 => random(state) % 64,
            _ => begin + random(state) % 256,
        };
    }
    // A first frame.
    stack[0] = low + 64;
    stack[1] = begin + 8;
}

#[test]
fn libraries_come_and_go_while_others_walk() {
    let _alone = alone();
    let flags = ["-O2", "-fomit-frame-pointer"];
    let Some(object) = library("goes", &source(9, 12), "cc", &flags) else { return };
    let Some(other) = library("comes", &source(10, 25), "cc", &flags) else { return };
    trace_unwind::begin(0);
    let begin_at = {
        let (handle, begin) = open(&object);
        // SAFETY: opened above.
        unsafe { libc::dlclose(handle) };
        begin as *const () as usize
    };
    let over = AtomicBool::new(false);
    let (walks, changes) = thread::scope(|s| {
        let walker = s.spawn(|| {
            let (mut state, mut walks) = (3, 0u64);
            let mut stack = vec![0usize; 600];
            while !over.load(Relaxed) || walks < 2000 {
                made_stack(&mut state, begin_at, &mut stack);
                let sp = stack.as_ptr().expose_provenance();
                // SAFETY: the stack is the vector.
                let (frames, flags) = unsafe { walked(sp, sp, sp + 4800) };
                assert!(!frames.is_empty() && flags & (STACK_TABLES | STACK_GUESSED) != 0);
                walks += 1;
            }
            walks
        });
        let mut changes = 0;
        for _ in 0..300 {
            let (handle, begin) = open(if changes % 3 == 0 { &other } else { &object });
            trace_unwind::look();
            let Seen { ours, theirs, flags } = seen(begin, changes);
            let from = theirs.iter().position(|a| *a == ours[0]).expect("the same caller");
            assert_eq!(ours[..12], theirs[from..from + 12], "round {changes}");
            assert_eq!(flags & (STACK_LOST | STACK_GUESSED), 0, "round {changes}");
            // SAFETY: nothing of the library is used any more.
            unsafe { libc::dlclose(handle) };
            // Sometimes nobody sees that it goes.
            if changes % 2 == 0 {
                trace_unwind::look();
            }
            changes += 1;
        }
        over.store(true, Relaxed);
        (walker.join().unwrap(), changes)
    });
    println!("{walks} walks, {changes} changes");
}

#[test]
fn any_numbers_on_the_stack() {
    let _alone = alone();
    trace_unwind::begin(0);
    let (mut state, mut flags) = (11, 0);
    let mut stack = vec![0usize; 1024];
    let (mut frames, mut cut) = (0, 0);
    for round in 0..20_000 {
        let near = [made_stack as *const (), libc::qsort as *const (), libc::getpid as *const ()];
        if round % 50 == 0 {
            let near = near[random(&mut state) % 3].addr();
            made_stack(&mut state, near, &mut stack);
        }
        let sp = stack.as_ptr().expose_provenance();
        let from = random(&mut state) % 1000;
        let top = sp + 8 * (from + random(&mut state) % (1024 - from));
        let fp = [sp + 8 * from, random(&mut state), sp, top][random(&mut state) % 4];
        // SAFETY: the stack lies inside the vector.
        let (found, how) = unsafe { walked(fp, sp + 8 * from, top) };
        frames += found.len();
        cut += usize::from(how & STACK_TRUNCATED != 0);
        flags |= how;
    }
    println!("{frames} frames, {cut} cut, flags {flags}");
    assert!(frames > 5_000);
    assert_eq!(flags & (STACK_TABLES | STACK_GUESSED | STACK_LOST), 14);
}
