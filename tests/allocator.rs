//! A global allocator that emits at every call, in a test binary of its own: no recursion, no
//! deadlock with starts and stops, every event accounted for.
//!
//! Where the recorder itself allocates, the allocator's event interrupts the recorder.

mod signals_support;
mod support;

use std::alloc::GlobalAlloc;
use std::alloc::Layout;
use std::alloc::System;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use signals_support::assert_exact;
use signals_support::mine;
use signals_support::tally;
use signals_support::total;
use support::Capture;
use trace::Outcome;

/// Emits at every call, on threads that have a tally.
struct Emits;

#[global_allocator]
static ALLOCATOR: Emits = Emits;

static EMITTED: AtomicU64 = AtomicU64::new(0);
static DEEPEST: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static DEPTH: Cell<u64> = const { Cell::new(0) };
    /// There is no memory for this thread.
    static EMPTY: Cell<bool> = const { Cell::new(false) };
    /// The thread has begun what it is there for.
    static RUNS: Cell<bool> = const { Cell::new(false) };
}

/// Whether a thread that allocates before it runs stands still there, and whether one does.
static STAND: AtomicBool = AtomicBool::new(false);
static STANDS: AtomicBool = AtomicBool::new(false);

fn stand() {
    while STAND.load(Relaxed) && !RUNS.get() {
        STANDS.store(true, Relaxed);
        std::hint::spin_loop();
    }
}

fn emit(n: usize) {
    let Some(t) = mine() else { return };
    let depth = DEPTH.get() + 1;
    DEPTH.set(depth);
    DEEPEST.fetch_max(depth, Relaxed);
    if t.probe(n as u64) != Outcome::Off {
        EMITTED.fetch_add(1, Relaxed);
    }
    DEPTH.set(depth - 1);
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Emits {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if EMPTY.get() {
            return std::ptr::null_mut();
        }
        stand();
        emit(layout.size());
        // SAFETY: the caller's duty is the same.
        let p = unsafe { System.alloc(layout) };
        emit(layout.size() + 1);
        p
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        emit(layout.size() + 2);
        // SAFETY: the caller's duty is the same.
        unsafe { System.dealloc(p, layout) };
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        emit(size);
        // SAFETY: the caller's duty is the same.
        unsafe { System.realloc(p, layout, size) }
    }
}

/// Runs `body` in a process of its own, for at most `seconds`.
fn alone(test: &'static str, seconds: u64, body: impl FnOnce()) {
    if support::scenario().is_none() {
        support::in_child(test, "alone");
        return;
    }
    let _watchdog = support::watch(test, seconds);
    body();
}

static END: AtomicBool = AtomicBool::new(false);

/// Allocates and frees in many sizes until the end.
fn allocate() {
    tally();
    let mut map = BTreeMap::new();
    let mut n = 0u64;
    while !END.load(Relaxed) {
        n += 1;
        map.insert(n, n.to_string());
        if n.is_multiple_of(3) {
            map.pop_first();
        }
        if map.len() > 100 {
            map.clear();
            std::thread::yield_now();
        }
        trace::log!(alloc, "text that allocates: {}", format!("{n}"));
    }
}

/// A writer that allocates too.
struct Writer(Capture);

impl std::io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let copy = bytes.to_vec();
        self.0.write(&copy)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn allocations_emit_while_sessions_start_and_stop() {
    alone("allocations_emit_while_sessions_start_and_stop", 90, || {
        let loads: Vec<_> = (0..2).map(|_| std::thread::spawn(allocate)).collect();
        // The thread that starts and stops allocates as well: also between the turns of the gate.
        tally();
        let mut traces = Vec::new();
        for n in 0..300 * support::multiplier() {
            let capture = Capture::default();
            trace::start(Writer(capture.clone())).unwrap();
            if n % 16 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::yield_now();
            let summary = trace::stop().unwrap();
            assert_eq!(summary.stuck_threads, 0);
            traces.push(capture.take());
        }
        END.store(true, Relaxed);
        loads.into_iter().for_each(|l| l.join().unwrap());
        assert!(!trace::is_enabled());
        assert_exact(&traces, 0);
        let (recorded, nested) = (total(|t| &t.recorded), total(|t| &t.nested));
        let lost = total(|t| &t.lost);
        println!("{} sessions: {recorded} recorded, {nested} nested, {lost} lost", traces.len());
        assert!(recorded > 10_000, "{recorded}");
        assert_eq!(EMITTED.load(Relaxed), recorded + nested + lost);
        assert_eq!(DEEPEST.load(Relaxed), 1, "an event allocates");
        assert_eq!(total(|t| &t.errno_changed), 0);
    });
}

/// A thread that gets no memory, from its first event on: each event that allocated would end the
/// process.
#[test]
fn events_where_there_is_no_memory() {
    alone("events_where_there_is_no_memory", 60, || {
        let capture = Capture::default();
        let all = [trace::StackKind::Instant, trace::StackKind::Log, trace::StackKind::Task];
        let config = trace::Config::new().memory_bytes(2 << 20).stacks(all);
        config.start(Writer(capture.clone())).unwrap();
        let (tid, a) = std::thread::spawn(|| {
            let mut a = support::Attempted::default();
            EMPTY.set(true);
            for n in 0..200_000u64 {
                a.probe(n << 32);
            }
            for n in 0..10 {
                let task = trace::task!("task", n = n);
                let _current = task.enter();
                let _span = trace::span!("span", text = "a text");
                trace::log!(alloc, "a number {n}");
                trace::log!(alloc, "{:2000}", n);
            }
            EMPTY.set(false);
            (support::tid(), a)
        })
        .join()
        .unwrap();
        trace::stop().unwrap();
        let bytes = capture.take();
        support::assert_valid(&bytes);
        let h = support::contents(&bytes).of_tid(tid);
        assert_eq!((h.probes, h.sum), (a.kept, a.sum));
        assert!(h.lost() >= a.lost && a.kept > 10_000, "{a:?}");
    });
}

/// As above, where the caller reads the trace: all the recorder's allocations are on its thread.
#[test]
fn allocations_emit_on_the_thread_that_reads() {
    alone("allocations_emit_on_the_thread_that_reads", 60, || {
        tally();
        let mut traces = Vec::new();
        for _ in 0..100 * support::multiplier() {
            trace::Config::new().generation(Duration::from_millis(1)).start_reading().unwrap();
            let mut bytes = Vec::new();
            for n in 0..20 {
                let text = format!("{n}");
                trace::log!(alloc, "{text}");
                if n % 5 == 0 {
                    // Nothing waits: the batches come as generations end.
                    std::thread::sleep(Duration::from_millis(1));
                    bytes.extend_from_slice(&trace::read_trace().unwrap().unwrap());
                }
            }
            trace::stop().unwrap();
            bytes.extend_from_slice(&support::read_all());
            traces.push(bytes);
        }
        let events = assert_exact(&traces, 0);
        assert!(events > 5000, "{events}");
        assert_eq!(DEEPEST.load(Relaxed), 1);
    });
}

/// Forks; whether the child has recorded a session, within 20 seconds.
fn child_records() -> bool {
    // SAFETY: the child allocates, which fork allows, and leaves by _exit.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        STAND.store(false, Relaxed);
        // SAFETY: a number for a number; ends a child that hangs.
        unsafe { libc::alarm(20) };
        let well = std::panic::catch_unwind(|| {
            trace::start(std::io::sink()).unwrap();
            assert_eq!(trace::emit_probe(1), Outcome::Recorded);
            trace::stop().unwrap();
        });
        // SAFETY: ends the child.
        unsafe { libc::_exit(if well.is_ok() { 42 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: our own child, a valid place.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 42
}

/// A child that is forked while another thread begins: the standard library holds a lock then, in
/// which it allocates, and no thread of `std::thread` comes to run in that child. A session does.
#[test]
fn a_child_that_is_forked_while_a_thread_begins() {
    alone("a_child_that_is_forked_while_a_thread_begins", 60, || {
        let begun = std::sync::Arc::new(AtomicU64::new(0));
        let (mut threads, mut stood, mut failed) = (Vec::new(), 0, Vec::new());
        // What the library keeps under its lock needs another piece of memory now and then.
        for n in 1..=30 {
            let begins = begun.clone();
            STAND.store(true, Relaxed);
            RUNS.set(true);
            threads.push(std::thread::spawn(move || {
                RUNS.set(true);
                begins.fetch_add(1, Relaxed);
                while !END.load(Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }));
            while begun.load(Relaxed) != n && !STANDS.load(Relaxed) {
                std::thread::yield_now();
            }
            if STANDS.swap(false, Relaxed) {
                stood += 1;
                failed.extend((!child_records()).then_some(n));
            }
            STAND.store(false, Relaxed);
            while begun.load(Relaxed) != n {
                std::thread::yield_now();
            }
            STANDS.store(false, Relaxed);
        }
        END.store(true, Relaxed);
        threads.into_iter().for_each(|t| t.join().unwrap());
        println!("{stood} of {} threads allocated before they ran", begun.load(Relaxed));
        assert!(failed.is_empty(), "children that were forked at the threads {failed:?}");
    });
}
