//! Threads that come and go: many, short, at once, without a goodbye, with late words.

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Barrier;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::time::Duration;

use support::Attempted;
use support::Capture;
use trace::Config;
use trace::Outcome;
use trace::encode::schema::Cause;

/// Adds the accounts of threads that had the same kernel number one after the other.
fn add(all: &mut BTreeMap<u32, Attempted>, tid: u32, a: &Attempted) {
    all.entry(tid).or_default().merge(a);
}

#[test]
fn ten_thousand_short_threads() {
    let _alone = support::alone();
    let _watch = support::watch("ten_thousand_short_threads", 120);
    let out = Capture::default();
    Config::new().memory_bytes(16 << 20).start(out.clone()).unwrap();
    let threads = 10_000 * support::multiplier();
    let mut attempted = BTreeMap::new();
    let mut rss = 0;
    for i in 0..threads / 10 {
        let ten: Vec<_> = (0..10u64)
            .map(|j| {
                std::thread::spawn(move || {
                    let mut a = Attempted::default();
                    for n in 0..=(i + j) % 7 {
                        a.probe(i << 24 | j << 16 | n);
                    }
                    (support::tid(), a)
                })
            })
            .collect();
        for thread in ten {
            let (tid, a) = thread.join().unwrap();
            add(&mut attempted, tid, &a);
        }
        if i == threads / 100 {
            rss = support::rss_kib().saturating_sub(out.len() as u64 / 1024);
        }
    }
    let grown = support::rss_kib().saturating_sub(rss + out.len() as u64 / 1024);
    let summary = trace::stop().unwrap();
    // A buffer of each thread that were not given back would be 600 MiB.
    assert!(grown < 48 << 10, "memory grew by {grown} KiB");
    assert_eq!(summary.threads, threads);
    let bytes = out.take();
    support::assert_valid(&bytes);
    let c = support::contents(&bytes);
    for (tid, a) in &attempted {
        let h = c.of_tid(*tid);
        assert_eq!((h.probes, h.sum), (a.kept, a.sum), "tid {tid}");
    }
    // Each thread's end is an event too, which may be lost as well.
    let lost: u64 = attempted.values().map(|a| a.lost).sum();
    assert_eq!(c.lost() + c.kind("ThreadEnd"), lost + threads);
    assert_eq!(summary.lost, c.lost());
    let kept: u64 = attempted.values().map(|a| a.kept).sum();
    println!("{kept} kept, {lost} lost, {} bytes", bytes.len());
    assert!(kept > 3 * threads);
    let numbers = c.threads.iter().filter(|t| *t.0 != 0 && t.1.tid != 0).count() as u64;
    assert_eq!(numbers, summary.threads, "each thread has a number of its own");
}

#[test]
fn five_thousand_threads_at_once() {
    let _alone = support::alone();
    let _watch = support::watch("five_thousand_threads_at_once", 120);
    const THREADS: usize = 5000;
    let out = Capture::default();
    let bound = 16 << 20;
    Config::new().memory_bytes(bound).start(out.clone()).unwrap();
    let barrier = Barrier::new(THREADS + 1);
    let attempted = Mutex::new(BTreeMap::new());
    let mut with_records = 0;
    std::thread::scope(|s| {
        let mut threads = Vec::new();
        for me in 0..THREADS as u64 {
            let (barrier, attempted) = (&barrier, &attempted);
            let body = move || {
                let mut a = Attempted::default();
                for n in 0..10 {
                    a.probe(me << 8 | n);
                }
                barrier.wait();
                barrier.wait();
                for n in 10..20 {
                    a.probe(me << 8 | n);
                }
                attempted.lock().unwrap().insert(support::tid(), a);
            };
            let made = std::thread::Builder::new().stack_size(64 << 10).spawn_scoped(s, body);
            threads.push(made.expect("the system allows 5,000 threads"));
        }
        barrier.wait();
        let m = trace::registry::mapping().unwrap();
        with_records = trace::registry::live(m).count();
        assert!(m.committed() as u64 * 65_536 <= bound, "{} buffers", m.committed());
        barrier.wait();
        // To their very ends: a scope waits for what they run only.
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
    let summary = trace::stop().unwrap();
    assert!(with_records >= THREADS);
    let bytes = out.take();
    support::assert_valid(&bytes);
    let c = support::contents(&bytes);
    let attempted = attempted.into_inner().unwrap();
    assert_eq!(attempted.len(), THREADS);
    let (mut kept, mut lost) = (0, 0);
    for (tid, a) in &attempted {
        let h = c.of_tid(*tid);
        assert_eq!((h.probes, h.sum), (a.kept, a.sum), "tid {tid}");
        assert_eq!(h.lost() + h.kind("ThreadEnd"), a.lost + 1, "tid {tid}");
        assert_eq!(a.kept + a.lost, 20);
        kept += a.kept;
        lost += a.lost;
    }
    println!("{kept} kept, {lost} lost, {summary:?}");
    assert!(kept > 0, "256 buffers, 5,000 threads");
    assert_eq!(summary.lost, c.lost());
}

thread_local! {
    static FIRST: RefCell<Option<Late>> = const { RefCell::new(None) };
    static SECOND: RefCell<Option<Late>> = const { RefCell::new(None) };
}

/// Emits as it is dropped, and tells what became of it.
struct Late(mpsc::Sender<(u32, Attempted)>, u64);

impl Drop for Late {
    fn drop(&mut self) {
        let mut a = Attempted::default();
        for n in 0..5 {
            a.probe(self.1 + n);
            trace::log!(late, "a text of {} words", 5);
        }
        let _ = self.0.send((support::tid(), a));
    }
}

/// A key whose destructor runs after the recorder's own, and sets itself again.
unsafe extern "C" fn again(value: *mut c_void) {
    trace::emit_probe(value.addr() as u64);
    let left = value.addr() - 1;
    if left > 0 {
        set_key(left);
    }
}

fn set_key(value: usize) {
    static KEY: std::sync::OnceLock<libc::pthread_key_t> = std::sync::OnceLock::new();
    let key = KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: the place is writable, and the destructor a function.
        assert_eq!(unsafe { libc::pthread_key_create(&mut key, Some(again)) }, 0);
        key
    });
    let value = std::ptr::without_provenance::<c_void>(value);
    // SAFETY: libc keeps the value and does not look there.
    assert_eq!(unsafe { libc::pthread_setspecific(*key, value) }, 0);
}

/// Destructors of thread-locals that were set before and after the thread's first event, and of a
/// key that comes after the recorder's: all of their events are there, or counted.
#[test]
fn events_of_destructors() {
    let _alone = support::alone();
    let _watch = support::watch("events_of_destructors", 30);
    let out = Capture::default();
    Config::new().memory_bytes(8 << 20).start(out.clone()).unwrap();
    let mut attempted = BTreeMap::new();
    let threads = 200;
    for i in 0..threads {
        let (send, receive) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            FIRST.with(|l| *l.borrow_mut() = Some(Late(send.clone(), i << 16)));
            let mut a = Attempted::default();
            if i % 3 != 0 {
                a.probe(1);
            }
            SECOND.with(|l| *l.borrow_mut() = Some(Late(send.clone(), i << 24)));
            if i % 2 == 0 {
                set_key(3);
                // Three rounds of the destructor emit 3, 2 and 1.
                (a.kept, a.sum) = (a.kept + 3, a.sum + 6);
            }
            let _ = send.send((support::tid(), a));
        });
        thread.join().unwrap();
        let mut parts = 0;
        for (tid, a) in receive {
            add(&mut attempted, tid, &a);
            parts += 1;
        }
        assert_eq!(parts, 3, "both destructors ran");
    }
    trace::stop().unwrap();
    let bytes = out.take();
    support::assert_valid(&bytes);
    let c = support::assert_exact(&bytes, &attempted);
    assert_eq!((c.kind("log"), c.lost()), (threads * 10, 0));
}

/// Ends the thread as no library sees it.
extern "C" fn vanishes(number: *mut c_void) -> *mut c_void {
    for n in 0..10 {
        assert_eq!(trace::emit_probe((number.addr() as u64) << 8 | n), Outcome::Recorded);
    }
    // SAFETY: ends this thread alone; it holds nothing.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!()
}

/// Threads that end by the bare system call: their last buffers are in the trace all the same, and
/// their records are used again.
#[test]
fn threads_that_vanish() {
    let _alone = support::alone();
    let _watch = support::watch("threads_that_vanish", 30);
    let out = Capture::default();
    let config = Config::new().memory_bytes(8 << 20).generation(Duration::from_millis(5));
    config.start(out.clone()).unwrap();
    let made = trace::registry::mapping().unwrap().made();
    let threads = 100usize;
    for i in 0..threads {
        let mut id = 0;
        let number = std::ptr::without_provenance_mut(i);
        // SAFETY: the function gets a number for a pointer and does not look there.
        let r = unsafe { libc::pthread_create(&mut id, std::ptr::null(), vanishes, number) };
        assert_eq!(r, 0);
        // SAFETY: our thread, joined once.
        assert_eq!(unsafe { libc::pthread_join(id, std::ptr::null_mut()) }, 0);
        if i % 10 == 9 {
            std::thread::sleep(Duration::from_millis(12));
        }
    }
    let summary = trace::stop().unwrap();
    let bytes = out.take();
    support::assert_valid(&bytes);
    let c = support::contents(&bytes);
    let probes: u64 = c.threads.values().map(|t| t.probes).sum();
    let sum: u64 = c.threads.values().map(|t| t.sum).sum();
    let expected: u64 = (0..threads as u64).map(|i| (0..10).map(|n| i << 8 | n).sum::<u64>()).sum();
    assert_eq!((probes, sum, c.lost()), (10 * threads as u64, expected, 0));
    assert_eq!(summary.threads, threads as u64);
    assert_eq!(c.kind("ThreadEnd"), 0, "nobody said goodbye");
    let now = trace::registry::mapping().unwrap().made();
    assert!(now < made + 60, "records are not used again: {made}, now {now}");
}

/// A thread that stands in a span at stop, and in the next session drops its guards.
#[test]
fn guards_of_a_session_before_are_silent() {
    let _alone = support::alone();
    let _watch = support::watch("guards_of_a_session_before_are_silent", 30);
    let out = Capture::default();
    let (to_thread, wait) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel::<()>();
    trace::start(out.clone()).unwrap();
    let thread = std::thread::spawn(move || {
        let outer = trace::span!("outer");
        let task = trace::task!("job");
        let entered = task.enter();
        let inner = trace::span!("inner");
        tell.send(()).unwrap();
        wait.recv().unwrap();
        // In the second session.
        let fresh = trace::span!("fresh");
        drop(outer);
        drop(entered);
        drop(inner);
        drop(task);
        trace::emit_probe(1);
        drop(fresh);
        tell.send(()).unwrap();
    });
    told.recv().unwrap();
    trace::stop().unwrap();
    let first = out.take();
    trace::start(out.clone()).unwrap();
    to_thread.send(()).unwrap();
    told.recv().unwrap();
    trace::stop().unwrap();
    thread.join().unwrap();
    let second = out.take();
    for (bytes, spans, ends, tasks) in [(&first, 2, 0, 1), (&second, 1, 1, 0)] {
        support::assert_valid(bytes);
        let c = support::contents(bytes);
        assert_eq!((c.kind("span"), c.kind("SpanEnd")), (spans, ends));
        assert_eq!((c.kind("task"), c.kind("TaskSwitch")), (tasks, tasks));
        assert_eq!((c.kind("TaskEnd"), c.kind("SpanEndAt")), (0, 0));
    }
}

/// Guards that are dropped while a panic unwinds, a thousand times, some of them by a second panic.
#[test]
fn panics_unwind_through_spans() {
    struct Emits;
    impl Drop for Emits {
        fn drop(&mut self) {
            let _span = trace::span!("while unwinding");
            trace::emit_probe(7);
            let _ = catch_unwind(|| {
                let _inner = trace::span!("a panic in a panic");
                std::panic::resume_unwind(Box::new(()));
            });
        }
    }
    let _alone = support::alone();
    let _watch = support::watch("panics_unwind_through_spans", 30);
    let out = Capture::default();
    trace::start(out.clone()).unwrap();
    let rounds = 1000;
    for i in 0..rounds {
        let done = catch_unwind(AssertUnwindSafe(|| {
            let _outer = trace::span!("outer", round = i);
            let task = trace::task!("job");
            let _entered = task.enter();
            let _emits = Emits;
            let _inner = trace::span!("inner");
            std::panic::resume_unwind(Box::new(()));
        }));
        assert!(done.is_err());
    }
    trace::stop().unwrap();
    let bytes = out.take();
    support::assert_valid(&bytes);
    let c = support::contents(&bytes);
    assert_eq!((c.kind("span"), c.kind("SpanEnd")), (4 * rounds, 4 * rounds));
    assert_eq!((c.kind("task"), c.kind("TaskEnd")), (rounds, rounds));
    assert_eq!((c.kind("TaskSwitch"), c.kind("SpanEndAt")), (2 * rounds, 0));
    assert_eq!(c.threads.values().map(|t| t.probes).sum::<u64>(), rounds);
    assert_eq!(c.lost(), 0);
}

/// A text whose formatting panics is counted, and the next event is whole.
#[test]
fn a_panic_while_formatting_is_a_loss() {
    struct Bad;
    impl std::fmt::Display for Bad {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("half of it")?;
            std::panic::resume_unwind(Box::new(()))
        }
    }
    let _alone = support::alone();
    let _watch = support::watch("a_panic_while_formatting_is_a_loss", 30);
    let out = Capture::default();
    trace::start(out.clone()).unwrap();
    for _ in 0..100 {
        trace::log!(net, "this fails: {}", Bad);
        trace::log!(net, "this does not: {}", 1);
    }
    let summary = trace::stop().unwrap();
    let bytes = out.take();
    support::assert_valid(&bytes);
    let c = support::contents(&bytes);
    assert_eq!(c.kind("log"), 100);
    assert_eq!(c.cause(trace::encode::schema::Cause::Panicked), 100);
    assert_eq!((summary.lost, c.lost()), (100, 100));
}

/// What a thread's handlers write, or lose, before its own first event of the session is done: the
/// trace says whose it is all the same.
#[test]
fn handlers_come_before_the_first_event() {
    let _alone = support::alone();
    let _watch = support::watch("handlers_come_before_the_first_event", 30);
    for pauses in [false, true] {
        let out = Capture::default();
        Config::new().memory_bytes(4 << 20).thread_snapshot(false).start(out.clone()).unwrap();
        let m = trace::registry::mapping().unwrap();
        let gate = &m.front().gate.0;
        let (done, end) = (Barrier::new(2), Barrier::new(2));
        let tid = std::thread::scope(|s| {
            let thread = s.spawn(|| {
                let l = trace::registry::local::here();
                trace::registry::register(l, m, 0).unwrap();
                // As where the handler comes: the thread is inside an event that it has just begun.
                let here = 0u64;
                l.busy().store((&raw const here).addr() as u64 + 4096, Relaxed);
                let open = gate.load(Relaxed);
                if pauses {
                    gate.store(open | trace::registry::gate::PAUSED, Relaxed);
                }
                let expected = match pauses {
                    false => Outcome::Nested,
                    true => Outcome::Lost(Cause::InPause),
                };
                assert_eq!(trace::emit_probe(7), expected);
                gate.store(open, Relaxed);
                l.busy().store(0, Relaxed);
                done.wait();
                end.wait();
                support::tid()
            });
            done.wait();
            trace::stop().unwrap();
            end.wait();
            thread.join().unwrap()
        });
        let bytes = out.take();
        support::assert_valid(&bytes);
        let h = support::contents(&bytes).of_tid(tid);
        assert_eq!((h.probes, h.lost()), if pauses { (0, 1) } else { (1, 0) }, "{h:?}");
    }
}
