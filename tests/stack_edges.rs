//! Stacks at their edges: the last KiB before the guard page, the first thread's stack while it
//! grows, coroutines that move between threads, the frame of a signal, and many threads that are
//! first with the same stacks.

#![cfg(target_arch = "x86_64")]

mod signals_support;
mod support;

use std::arch::global_asm;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::c_int;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::sync::Barrier;

use support::Capture;
use trace::Config;
use trace::StackKind;
use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Value;

/// Runs `body` in a process of its own, for at most `seconds`.
fn alone(test: &'static str, seconds: u64, body: impl FnOnce()) {
    if support::scenario().is_none() {
        support::in_child(test, "alone");
        return;
    }
    let _watchdog = support::watch(test, seconds);
    body();
}

/// An event of this file.
#[derive(Debug)]
struct Seen {
    n: u64,
    thread: u32,
    id: u64,
    frames: Vec<u64>,
    truncated: bool,
}

/// Records what `body` does and gives its instants.
fn record(config: Config, body: impl FnOnce()) -> Vec<Seen> {
    let out = Capture::default();
    config.stacks([StackKind::Instant]).start(out.clone()).unwrap();
    body();
    let summary = trace::stop().unwrap();
    assert_eq!((summary.lost, summary.stuck_threads), (0, 0));
    let bytes = out.take();
    support::assert_valid(&bytes);
    let mut seen = Vec::new();
    let mut decoder = Decoder::new();
    decoder.push(&bytes);
    decoder.finish();
    while let Some(item) = decoder.next_item().unwrap() {
        let Item::Event(e) = item else { continue };
        if e.name().is_none_or(|n| n.bytes != b"edge") {
            continue;
        }
        let Some((_, Value::U64(n))) = e.fields().next() else { panic!("no number") };
        let id = e.stack().expect("instants have stacks");
        let stack = (id != 0).then(|| e.tables().stack(id).expect("a definition"));
        seen.push(Seen {
            n,
            thread: e.thread,
            id,
            frames: stack.iter().flat_map(|s| s.frames()).collect(),
            truncated: stack.is_some_and(|s| s.is_truncated()),
        });
    }
    seen
}

#[inline(never)]
#[unsafe(link_section = "emits_edge")]
fn emit(n: u64) {
    trace::instant!("edge", n = n);
    black_box(());
}

fn sp() -> usize {
    let here = 0u8;
    black_box(&raw const here).addr()
}

/// The lowest address of the calling thread's stack, above its guard.
fn stack_low() -> usize {
    let mut attr = MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: no arguments, cannot fail.
    let me = unsafe { libc::pthread_self() };
    // SAFETY: the calling thread, and a place for its attributes.
    let asked = unsafe { libc::pthread_getattr_np(me, attr.as_mut_ptr()) };
    assert_eq!(asked, 0);
    let (mut low, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: filled in above; both places are valid.
    unsafe { libc::pthread_attr_getstack(attr.as_ptr(), &mut low, &mut size) };
    // SAFETY: filled in above, used no more.
    unsafe { libc::pthread_attr_destroy(attr.as_mut_ptr()) };
    low.addr()
}

/// Calls itself until less than `room` is left above `low`, and emits on the way down below
/// `from`; gives how often.
#[inline(never)]
fn down(low: usize, from: usize, room: usize) -> u64 {
    let frame = black_box([1u8; 1024]);
    let left = sp() - low;
    if left < room {
        return 0;
    }
    if left < from {
        emit(left as u64);
    }
    black_box(down(low, from, room)) + u64::from(left < from) * u64::from(frame[7])
}

/// What an event may take of the stack: `tests/signals.rs` measures it.
const EVENT_STACK: usize = if cfg!(debug_assertions) { 24 << 10 } else { 8 << 10 };

#[test]
fn recursion_to_the_guard_page() {
    alone("recursion_to_the_guard_page", 60, || {
        for stack in [1 << 20, 16 << 20] {
            let mut emitted = 0;
            let seen = record(Config::new(), || {
                let run = move || {
                    let low = stack_low();
                    // The first event of a thread is like any other here.
                    down(low, 96 << 10, EVENT_STACK)
                };
                let thread = std::thread::Builder::new().stack_size(stack);
                emitted = thread.spawn(run).unwrap().join().unwrap();
            });
            assert_eq!(seen.len() as u64, emitted);
            assert!(emitted > 20, "{emitted} events in the last 96 KiB");
            let least = seen.iter().map(|s| s.n).min().unwrap() as usize;
            assert!(least < EVENT_STACK + 4096, "{least} bytes were left at the deepest event");
            assert!(seen.iter().all(|s| s.frames.len() == 128 && s.truncated));
        }
    });
}

/// The harness runs tests on threads of its own; this runs on the first one, before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = {
    extern "C" fn before_main() {
        if support::scenario().as_deref() == Some(FIRST) {
            grow_the_first_stack();
            println!("{FIRST}: 1 passed");
            std::process::exit(0);
        }
    }
    before_main
};

const FIRST: &str = "on the first thread";

/// The first thread's stack grows under the recorder, up to its limit and, where that is raised,
/// beyond what it was at the start.
#[test]
fn the_first_threads_stack_grows() {
    support::in_child("the_first_threads_stack_grows", FIRST);
}

fn grow_the_first_stack() {
    let _watchdog = support::watch("the_first_threads_stack_grows", 60);
    assert_eq!(std::process::id(), support::tid());
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid place.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_STACK, &mut limit) }, 0);
    let raised = libc::rlimit { rlim_cur: (64 << 20).min(limit.rlim_max), ..limit };
    let top = sp();
    let mut emitted = [0; 3];
    let seen = record(Config::new(), || {
        emit(1 << 40);
        let usable = limit.rlim_cur.min(8 << 20) as usize - (512 << 10);
        emitted[0] = down(top - usable, usize::MAX, 1 << 10);
        // SAFETY: a limit below the hard one.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_STACK, &raised) }, 0);
        let more = raised.rlim_cur as usize / 2;
        emitted[1] = down(top - more, usize::MAX, 1 << 10);
        emitted[2] = down(top - (100 << 10), usize::MAX, 1 << 10);
    });
    assert_eq!(seen.len() as u64, 1 + emitted.iter().sum::<u64>());
    assert!(emitted[0] > 1000 && emitted[1] > emitted[0] * 3, "{emitted:?}");
    // Up to the limit of the start each event has its stack.
    let (within, beyond) = seen.split_at(1 + emitted[0] as usize);
    assert!(within.iter().all(|s| s.id != 0));
    assert!(within[200..].iter().all(|s| s.frames.len() == 128 && s.truncated));
    // Beyond it the bounds are found again: at most some events have none.
    let (deep, back) = beyond.split_at(emitted[1] as usize);
    let without = deep.iter().filter(|s| s.id == 0).count();
    assert!(without * 4 < deep.len(), "{without} of {} are without a stack", deep.len());
    assert!(deep.last().unwrap().frames.len() == 128);
    assert!(back.iter().all(|s| s.id != 0));
    println!("{emitted:?} events, {without} without a stack");
}

/// A coroutine: made by the C library, resumed and left by exchanging contexts.
#[derive(Clone, Copy)]
struct Coroutine {
    /// Both contexts, and its stack, are there for the life of the process.
    own: *mut libc::ucontext_t,
    caller: *mut libc::ucontext_t,
}

thread_local! {
    /// The coroutine that the thread runs.
    static RUNS: Cell<Option<Coroutine>> = const { Cell::new(None) };
}

// SAFETY: nothing else points to its contexts; one thread at a time resumes it.
unsafe impl Send for Coroutine {}

const STEPS: u64 = 40;

extern "C" fn steps() {
    for step in 0..STEPS {
        emit(step);
        leave();
    }
    loop {
        leave();
    }
}

/// Goes back to who resumed the calling coroutine.
#[inline(never)]
fn leave() {
    let c = RUNS.get().expect("a coroutine");
    // SAFETY: both contexts are filled in; the caller's is that of `resume`.
    assert_eq!(unsafe { libc::swapcontext(c.own, c.caller) }, 0);
}

impl Coroutine {
    fn new() -> Coroutine {
        let context = || {
            // SAFETY: plain numbers and pointers.
            let zeroed: libc::ucontext_t = unsafe { std::mem::zeroed() };
            Box::leak(Box::new(zeroed))
        };
        let (own, caller) = (context(), context());
        let stack = Box::leak(vec![0u8; 256 << 10].into_boxed_slice());
        // SAFETY: a valid place.
        assert_eq!(unsafe { libc::getcontext(own) }, 0);
        own.uc_stack.ss_sp = stack.as_mut_ptr().cast();
        own.uc_stack.ss_size = stack.len();
        // SAFETY: filled in, with a stack that is never freed; `steps` never returns.
        unsafe { libc::makecontext(own, steps, 0) };
        Coroutine { own, caller }
    }

    #[inline(never)]
    fn resume(&self) {
        RUNS.set(Some(*self));
        // SAFETY: both contexts are filled in, by `new` or where the coroutine left.
        assert_eq!(unsafe { libc::swapcontext(self.caller, self.own) }, 0);
    }
}

/// Coroutines are resumed by one thread after the other; between their steps the threads emit on
/// their own stacks.
#[test]
fn coroutines_that_move_between_threads() {
    alone("coroutines_that_move_between_threads", 60, || {
        const THREADS: u64 = 3;
        let all: Vec<Coroutine> = (0..8).map(|_| Coroutine::new()).collect();
        let mut tids = Vec::new();
        let seen = record(Config::new(), || {
            for round in 0..THREADS * 4 {
                std::thread::scope(|s| {
                    let all = all.clone();
                    let run = move || {
                        // Threads of a few events, and some that have asked for their bounds.
                        (0..round * 100).for_each(|n| emit(1000 + n));
                        all.iter().for_each(|c| {
                            emit(5000);
                            c.resume();
                            emit(6000);
                        });
                        support::tid()
                    };
                    tids.push(s.spawn(run).join().unwrap());
                });
            }
        });
        let rounds = THREADS * 4;
        let on_coroutine: Vec<&Seen> = seen.iter().filter(|s| s.n < STEPS).collect();
        assert_eq!(on_coroutine.len() as u64, 8 * rounds);
        // Nothing is known of that stack, and nothing of it is read.
        assert!(on_coroutine.iter().all(|s| s.id == 0), "{on_coroutine:?}");
        // Step n of each coroutine was taken by the thread of round n.
        let mut by_step: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
        on_coroutine.iter().for_each(|s| _ = by_step.entry(s.n).or_default().insert(s.thread));
        assert_eq!(by_step.len() as u64, rounds);
        assert!(by_step.values().all(|threads| threads.len() == 1), "{by_step:?}");
        // A thread that had found its own stack still has it after a coroutine was resumed.
        let own = seen.iter().filter(|s| s.n == 5000 || s.n == 6000);
        let late_rounds = own.filter(|s| s.thread != seen[0].thread);
        let known = late_rounds.filter(|s| s.id != 0).count();
        assert!(known as u64 > 8 * rounds, "{known}");
        assert!(seen.iter().filter(|s| s.n >= 1000 && s.n < 5000).all(|s| s.id != 0));
    });
}

// A function with a frame, interrupted at a known place by a signal of its own.
global_asm!(".globl edge_trap", "edge_trap: push rbp", "mov rbp, rsp", "int3", "pop rbp", "ret");

unsafe extern "C" {
    fn edge_trap();
    #[link_name = "__start_calls_trap"]
    static CALLS_FIRST: u8;
    #[link_name = "__stop_calls_trap"]
    static CALLS_END: u8;
    #[link_name = "__start_emits_edge"]
    static EMITS_FIRST: u8;
    #[link_name = "__stop_emits_edge"]
    static EMITS_END: u8;
}

/// The addresses of a section.
fn part(first: *const u8, end: *const u8) -> std::ops::Range<u64> {
    let part = first.addr() as u64..end.addr() as u64;
    assert!(!part.is_empty());
    part
}

#[inline(never)]
#[unsafe(link_section = "calls_trap")]
fn calls_trap() {
    // SAFETY: it breaks into the handler and returns.
    unsafe { edge_trap() };
    black_box(());
}

extern "C" fn on_trap(_signal: c_int) {
    emit(7);
}

/// A walk in a handler goes through the frame of the signal: the function that was interrupted had
/// set up its frame, so its caller is the next one after the C library's trampoline.
#[test]
fn through_the_frame_of_a_signal() {
    alone("through_the_frame_of_a_signal", 30, || {
        signals_support::handle(libc::SIGTRAP, 0, on_trap);
        let seen = record(Config::new(), || (0..100).for_each(|_| calls_trap()));
        assert_eq!(seen.len(), 100);
        if !cfg!(debug_assertions) {
            assert!(seen.iter().all(|s| s.frames.len() > 1));
            println!("skipped: optimised handlers may have no frame of their own");
            return;
        }
        let calls = part(&raw const CALLS_FIRST, &raw const CALLS_END);
        let handler = on_trap as *const () as u64;
        for s in &seen {
            let at = s.frames.iter().position(|f| calls.contains(f)).expect("the interrupted one");
            let own = s.frames.iter().rposition(|f| (handler..handler + 64).contains(f));
            // The handler, the trampoline, the caller of the function that was interrupted.
            assert_eq!(own.map(|own| own + 2), Some(at), "{:x?}", s.frames);
            assert!(s.frames.len() > at + 3, "and on to the thread's first frames");
        }
    });
}

#[inline(never)]
fn branch(bits: u64, left: u32) {
    if left == 0 {
        return emit(bits);
    }
    match bits >> (left - 1) & 1 {
        0 => branch(bits, left - 1),
        _ => {
            branch(bits, left - 1);
            black_box(1);
        }
    }
    black_box(left);
}

/// All begin at the same moment, with stacks that the session has not seen: whoever is first, each
/// event has the stack that it was captured with.
#[test]
fn eight_threads_are_first_with_the_same_stacks() {
    alone("eight_threads_are_first_with_the_same_stacks", 60, || {
        const THREADS: usize = 8;
        const BITS: u32 = 9;
        for round in 0..10 {
            let seen = record(Config::new(), || {
                let begin = Barrier::new(THREADS);
                std::thread::scope(|s| {
                    for t in 0..THREADS as u64 {
                        let begin = &begin;
                        s.spawn(move || {
                            begin.wait();
                            for i in 0..1u64 << BITS {
                                // Half of them in the same order, the others against them.
                                branch(if t % 2 == 0 { i } else { i ^ ((1 << BITS) - 1) }, BITS);
                            }
                        });
                    }
                });
            });
            assert_eq!(seen.len(), THREADS << BITS);
            let emits = part(&raw const EMITS_FIRST, &raw const EMITS_END);
            let mut frames: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
            let mut ids: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
            for s in &seen {
                assert!(s.id != 0);
                // Before them may be the recorder's own, and the emitter's two ways into it; what
                // is outermost differs by thread.
                let last = s.frames.iter().rposition(|f| emits.contains(f)).expect("the emitter");
                let own = s.frames[last + 1..][..BITS as usize + 1].to_vec();
                let first = frames.entry(s.n).or_insert_with(|| own.clone());
                assert_eq!(*first, own, "round {round}, stack {}", s.n);
                ids.entry(s.n).or_default().insert(s.id);
            }
            let distinct: BTreeSet<&Vec<u64>> = frames.values().collect();
            assert_eq!(distinct.len(), 1 << BITS, "each number has a stack of its own");
            let most = ids.values().map(BTreeSet::len).max().unwrap();
            // Its outermost frames are of two places in the test, and it is captured by two paths.
            assert!(most <= 4 * THREADS, "{most} ids of one stack");
        }
    });
}
