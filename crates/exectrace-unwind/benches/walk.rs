//! What a walk over 20 frames without frame pointers costs: with rules that are known, and at first
//! sight of the code; beside it libgcc's unwinder from the same place. Medians, in nanoseconds.
//!
//! `cargo bench -p exectrace-unwind --bench walk`

use std::cell::Cell;
use std::cell::RefCell;
use std::ffi::CStr;
use std::ffi::CString;
use std::ffi::c_int;
use std::ffi::c_void;
use std::fmt::Write;
use std::fs;
use std::mem::MaybeUninit;
use std::process::Command;
use std::time::Instant;

use trace::stacktab::capture::Part;
use trace::sys;
use trace::sys::stack::stack_bounds;

// SAFETY of callers: room for as many addresses as they say.
unsafe extern "C" {
    /// glibc's, which asks libgcc's unwinder.
    fn backtrace(to: *mut *mut c_void, most: c_int) -> c_int;
}

const FRAMES: usize = 20;
const ROUNDS: usize = 2000;

fn source() -> String {
    let mut text = String::from(
        "typedef unsigned long word;\ntypedef void (*call)(void);\nstatic volatile word sink;\n\
         #define APART static __attribute__((noinline, noclone))\n\
         APART word f0(call f, word n) { f(); return n + sink; }\n",
    );
    for i in 1..FRAMES {
        let room = i * 24;
        let _ = writeln!(
            text,
            "APART word f{i}(call f, word n) {{ volatile char room[{room}]; room[n % {room}] = 1; \
             word a = n * {i}, b = n ^ sink, c = n - sink; \
             word r = f{}(f, n + 1); sink += r; return r + a * b + c + room[0]; }}",
            i - 1
        );
    }
    let _ = writeln!(text, "word begin(call f) {{ return f{}(f, 1) + 1; }}", FRAMES - 1);
    text
}

/// Nanoseconds of each kind of walk.
#[derive(Default)]
struct Times {
    known: Vec<f64>,
    first: Vec<f64>,
    libgcc: Vec<f64>,
    frames: usize,
}

thread_local! {
    static TIMES: RefCell<Times> = RefCell::default();
    static OTHER: Cell<&'static CStr> = const { Cell::new(c"") };
}

fn walk(fp: usize, sp: usize, top: usize, out: &mut [MaybeUninit<u64>]) -> usize {
    // SAFETY: the calling thread's own stack, from its pointer to its top.
    unsafe { trace_unwind::walk(&Part { fp, sp, top, from: 0 }, out) }.frames
}

extern "C" fn measure() {
    const REPEATED: usize = 100;
    let (fp, sp) = (sys::fp(), sys::sp());
    let top = stack_bounds().expect("the thread's own stack").top;
    let mut out = [MaybeUninit::<u64>::uninit(); FRAMES];
    let mut theirs = [std::ptr::null_mut(); FRAMES + 1];
    let mut t = Times::default();
    let other = OTHER.get();
    for _ in 0..ROUNDS {
        forget(other);
        let begun = Instant::now();
        t.frames = walk(fp, sp, top, &mut out);
        t.first.push(begun.elapsed().as_nanos() as f64);
        let begun = Instant::now();
        for _ in 0..REPEATED {
            std::hint::black_box(walk(fp, sp, top, std::hint::black_box(&mut out)));
        }
        t.known.push(begun.elapsed().as_nanos() as f64 / REPEATED as f64);
        let begun = Instant::now();
        // SAFETY: room for so many.
        unsafe { backtrace(theirs.as_mut_ptr(), theirs.len() as c_int) };
        t.libgcc.push(begun.elapsed().as_nanos() as f64);
    }
    TIMES.set(t);
}

/// Has all rules forgotten, as when a module goes.
fn forget(other: &CStr) {
    // SAFETY: a library without constructors, of which nothing is used.
    let library = unsafe { libc::dlopen(other.as_ptr(), libc::RTLD_NOW) };
    assert!(!library.is_null());
    // SAFETY: opened above.
    unsafe { libc::dlclose(library) };
    trace_unwind::look();
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let source_file = std::env::temp_dir().join(format!("walk-{}.c", std::process::id()));
    let object = source_file.with_extension("so");
    fs::write(&source_file, source()).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-fomit-frame-pointer", "-shared", "-fPIC", "-o"]);
    let status = cc.arg(&object).arg(&source_file).status();
    let _ = fs::remove_file(&source_file);
    assert!(status.expect("a C compiler").success());
    trace_unwind::begin(0);
    // The same code at another place, to be loaded and dropped.
    let other = object.with_extension("other");
    fs::copy(&object, &other).unwrap();
    let path = CString::new(other.to_str().unwrap()).unwrap();
    OTHER.set(Box::leak(path.into_boxed_c_str()));
    let path = CString::new(object.to_str().unwrap()).unwrap();
    // SAFETY: a library without constructors.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    let _ = fs::remove_file(&object);
    assert!(!library.is_null());
    // SAFETY: the handle is open.
    let begin = unsafe { libc::dlsym(library, c"begin".as_ptr()) };
    // SAFETY: the function has this type.
    let begin: extern "C" fn(extern "C" fn()) -> u64 = unsafe { std::mem::transmute(begin) };
    trace_unwind::look();
    begin(measure);
    let _ = fs::remove_file(&other);
    let t = TIMES.take();
    assert_eq!(t.frames, FRAMES);
    println!("{FRAMES} frames, median of {ROUNDS}");
    println!("  rules known   {:8.0} ns", median(t.known));
    println!("  first sight   {:8.0} ns", median(t.first));
    println!("  libgcc        {:8.0} ns", median(t.libgcc));
}
