//! Handlers that interrupt what the recorder must not wait for: the allocator, a full buffer, an
//! event with a long text.

mod signals_support;
mod support;

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use signals_support::Timer;
use signals_support::handle;
use signals_support::mine;
use signals_support::tally;
use signals_support::total;
use support::Capture;
use trace::Config;
use trace::Outcome;
use trace::StackKind;
use trace::encode::schema::Cause;

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

/// Emits one of each, enough of them to fill buffers.
extern "C" fn emits_one_of_each(_signal: c_int) {
    let Some(t) = mine() else { return };
    let n = t.signals.fetch_add(1, Relaxed);
    for i in 0..20 {
        t.probe(n << 32 | i);
    }
    trace::log!(handler, "a number {n}");
    let task = trace::task!("task", n = n);
    let _current = task.enter();
    let _span = trace::span!("span", text = "in a handler");
}

/// Allocates and frees in sizes for which the system's allocator takes its lock.
fn allocate() {
    tally();
    let _timer = Timer::every(libc::SIGPROF, Duration::from_micros(60));
    let mut map = BTreeMap::new();
    let mut n = 0usize;
    while !END.load(Relaxed) {
        n += 1;
        map.insert(n, vec![0u8; 1100 + n % 60 * 997]);
        if map.len() > 40 {
            map.remove(&(n - 37));
        }
        if map.len() > 60 {
            map.clear();
        }
    }
}

/// A thread that stands inside the allocator, with its lock, is interrupted by events that need a
/// new buffer, a stack, a task, a formatted text: none of them allocates or takes a lock.
#[test]
fn handlers_interrupt_the_allocator() {
    alone("handlers_interrupt_the_allocator", 60, || {
        handle(libc::SIGPROF, 0, emits_one_of_each);
        let loads: Vec<_> = (0..2).map(|_| std::thread::spawn(allocate)).collect();
        let all = [StackKind::Instant, StackKind::Log, StackKind::Task, StackKind::Span];
        let config = Config::new().memory_bytes(2 << 20).stacks(all);
        let traces = signals_support::sessions(20, Duration::from_millis(10), &config, || {
            total(|t| &t.signals) > 3000
        });
        END.store(true, Relaxed);
        loads.into_iter().for_each(|l| l.join().unwrap());
        let kept: u64 = traces.iter().map(|bytes| support::contents(bytes).kind("log")).sum();
        traces.iter().for_each(|bytes| support::assert_valid(bytes));
        assert!(total(|t| &t.signals) > 1000 && kept > 200, "too little to tell: {kept}");
    });
}

static SHORT: AtomicU64 = AtomicU64::new(0);
static LONG: AtomicU64 = AtomicU64::new(0);

/// Where it has interrupted an event: a text that fits the side buffer, and one that does not.
extern "C" fn logs_inside_an_event(_signal: c_int) {
    static TEXT: [u8; 4000] = [b'x'; 4000];
    let Some(t) = mine() else { return };
    if t.probe(1 << 32) != Outcome::Nested {
        return;
    }
    let (Ok(short), Ok(long)) = (std::str::from_utf8(&TEXT[..1000]), std::str::from_utf8(&TEXT))
    else {
        return;
    };
    SHORT.fetch_add(1, Relaxed);
    trace::log!(inside, "{short}");
    LONG.fetch_add(1, Relaxed);
    trace::log!(inside, "{long}");
}

/// What does not fit the side buffer is counted, as what it is.
#[test]
fn long_texts_inside_another_event() {
    alone("long_texts_inside_another_event", 60, || {
        handle(libc::SIGPROF, 0, logs_inside_an_event);
        let capture = Capture::default();
        trace::start(capture.clone()).unwrap();
        let t = tally();
        let timer = Timer::every(libc::SIGPROF, Duration::from_micros(60));
        let mut n = 0;
        while LONG.load(Relaxed) < 12 {
            n += 1;
            t.probe(n);
        }
        drop(timer);
        trace::stop().unwrap();
        let bytes = capture.take();
        support::assert_valid(&bytes);
        let c = support::contents(&bytes);
        assert_eq!(c.cause(Cause::TooBig), LONG.load(Relaxed));
        let full = c.cause(Cause::Nested) - t.causes[Cause::Nested as usize].load(Relaxed);
        assert_eq!(c.kind("log") + full, SHORT.load(Relaxed));
        assert!(c.kind("log") > 0);
    });
}
