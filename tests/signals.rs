//! Events in signal handlers, most of which interrupt an event: kept or counted, never torn.
//!
//! Each scenario runs in a process of its own, since handlers, timers and sessions belong to it.

mod signals_support;
mod support;

use std::cell::Cell;
use std::ffi::c_int;
use std::ffi::c_void;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use signals_support::Library;
use signals_support::Timer;
use signals_support::assert_exact;
use signals_support::handle;
use signals_support::mine;
use signals_support::sessions;
use signals_support::swap_errno;
use signals_support::tally;
use signals_support::total;
use support::Capture;
use trace::Config;
use trace::Outcome;
use trace::StartError;
use trace::StopError;
use trace::encode::schema::Cause;
use trace_decode::validate::What;

/// Runs `body` in a process of its own, for at most `seconds`.
fn alone(test: &'static str, seconds: u64, body: impl FnOnce()) {
    if support::scenario().is_none() {
        support::in_child(test, "alone");
        return;
    }
    let _watchdog = support::watch(test, seconds);
    body();
}

/// Numbers of events that a handler emits.
const HANDLER: u64 = 1 << 32;

/// A handler that emits two events.
extern "C" fn emits(_signal: c_int) {
    let Some(t) = mine() else { return };
    let n = t.signals.fetch_add(1, Relaxed);
    t.probe(HANDLER | n);
    t.probe(HANDLER | n << 1);
}

static END: AtomicBool = AtomicBool::new(false);

/// Emits until the end, interrupted every `period`.
fn emit_interrupted(period: Duration) {
    let t = tally();
    let _timer = Timer::every(libc::SIGPROF, period);
    let mut n = 0;
    while !END.load(Relaxed) {
        n += 1;
        if t.probe(n) == Outcome::Off || n % 64 == 0 {
            std::thread::yield_now();
        }
    }
}

/// `threads` emit and are interrupted, through many sessions; with `stopper`, so is the thread that
/// starts and stops. Says what became of the events.
fn storm(threads: u64, period: Duration, stopper: bool, config: &Config) {
    let one = |_| std::thread::spawn(move || emit_interrupted(period));
    storm_with((0..threads).map(one).collect(), period, stopper, config);
}

/// As `storm`, with threads that are there already and go on until the end.
fn storm_with(loads: Vec<JoinHandle<()>>, period: Duration, stopper: bool, config: &Config) {
    let timer = stopper.then(|| (tally(), Timer::every(libc::SIGPROF, period)));
    let enough = || {
        let events = total(|t| &t.recorded) + total(|t| &t.nested);
        events > 10_000 && total(|t| &t.signals) > 2000 && total(|t| &t.nested) > 200
    };
    let traces = sessions(40 * support::multiplier(), Duration::from_millis(8), config, enough);
    drop(timer);
    END.store(true, Relaxed);
    loads.into_iter().for_each(|l| l.join().unwrap());
    let events = assert_exact(&traces, 0);
    let (recorded, nested) = (total(|t| &t.recorded), total(|t| &t.nested));
    let (lost, signals) = (total(|t| &t.lost), total(|t| &t.signals));
    println!(
        "{events} events: {recorded} recorded, {nested} nested, {lost} lost, {signals} signals"
    );
    assert!(enough(), "too little to tell");
    assert_eq!(total(|t| &t.errno_changed), 0);
}

#[test]
fn handlers_interrupt_events_of_two_threads() {
    alone("handlers_interrupt_events_of_two_threads", 60, || {
        handle(libc::SIGPROF, 0, emits);
        storm(2, Duration::from_micros(50), false, &Config::new());
    });
}

#[test]
fn handlers_interrupt_events_of_eight_threads_and_the_stopping_one() {
    alone("handlers_interrupt_events_of_eight_threads_and_the_stopping_one", 60, || {
        handle(libc::SIGPROF, 0, emits);
        storm(8, Duration::from_micros(200), true, &Config::new());
    });
}

#[test]
fn handlers_where_the_pool_is_empty() {
    alone("handlers_where_the_pool_is_empty", 60, || {
        handle(libc::SIGPROF, 0, emits);
        let config = Config::new().memory_bytes(2 << 20).thread_snapshot(false);
        storm(4, Duration::from_micros(100), true, &config);
    });
}

/// A handler that is itself interrupted, by timers and since it raises its signal again. On a busy
/// machine timers fire faster than this returns: beyond a depth it does nothing.
extern "C" fn raises(signal: c_int) {
    thread_local! {
        static DEPTH: Cell<u32> = const { Cell::new(0) };
    }
    let depth = DEPTH.get();
    let (Some(t), true) = (mine(), depth < 6) else { return };
    DEPTH.set(depth + 1);
    let n = t.signals.fetch_add(1, Relaxed);
    t.probe(HANDLER | n);
    if depth < 3 {
        // SAFETY: a signal to the calling thread, whose handler is this function.
        unsafe { libc::raise(signal) };
    }
    t.probe(HANDLER | n << 1);
    DEPTH.set(depth);
}

#[test]
fn handlers_interrupt_handlers() {
    alone("handlers_interrupt_handlers", 60, || {
        handle(libc::SIGPROF, libc::SA_NODEFER, raises);
        // Two timers with one signal, so that a handler is interrupted inside its event too.
        let big = || std::thread::Builder::new().stack_size(64 << 20);
        let extra = big().spawn(|| {
            let _other = Timer::every(libc::SIGPROF, Duration::from_micros(170));
            emit_interrupted(Duration::from_micros(150));
        });
        let other = big().spawn(|| emit_interrupted(Duration::from_micros(60)));
        storm_with(
            vec![extra.unwrap(), other.unwrap()],
            Duration::from_micros(60),
            false,
            &Config::new(),
        );
    });
}

/// Bytes of the signal stacks here. Those that std makes have 8 KiB, too few for an event in a
/// handler of a debug build.
const SIGNAL_STACK: usize = 64 << 10;

/// Gives the calling thread a signal stack on the heap.
fn signal_stack_on_the_heap() {
    let bytes = Box::leak(vec![0u8; SIGNAL_STACK].into_boxed_slice());
    // SAFETY: never freed.
    unsafe { signals_support::alternate_stack(bytes.as_mut_ptr(), bytes.len()) };
}

#[test]
fn handlers_on_an_alternate_stack() {
    alone("handlers_on_an_alternate_stack", 60, || {
        handle(libc::SIGPROF, libc::SA_ONSTACK, emits);
        signal_stack_on_the_heap();
        let heap = std::thread::spawn(|| {
            signal_stack_on_the_heap();
            // The bounds of the stack become known here.
            trace::log!(test, "from {}", "a thread");
            emit_interrupted(Duration::from_micros(50));
            signals_support::no_alternate_stack();
        });
        // One thread has its signal stack in a frame of its own stack, above the events that are
        // interrupted.
        let inside = std::thread::spawn(|| {
            let mut bytes = [0u8; SIGNAL_STACK];
            // SAFETY: taken away below, before the array goes.
            unsafe { signals_support::alternate_stack(bytes.as_mut_ptr(), bytes.len()) };
            below(|| {
                trace::log!(test, "from {}", "a thread");
                emit_interrupted(Duration::from_micros(50));
            });
            signals_support::no_alternate_stack();
            std::hint::black_box(&bytes);
        });
        let config = Config::new().stacks([trace::StackKind::Instant, trace::StackKind::Log]);
        storm_with(vec![heap, inside], Duration::from_micros(150), true, &config);
    });
}

/// Runs `f` in a frame of its own.
#[inline(never)]
fn below(f: impl FnOnce()) {
    f();
    std::hint::black_box(());
}

extern "C" fn first_events(_signal: c_int) {
    trace::log!(handler, "a number {}", 7);
    let _task = trace::task!("task", text = "in a handler");
    trace::instant!("instant", n = 1, text = "in a handler");
}

/// How much stack a thread's first events need, in a handler: registration, tables, stacks, text.
#[test]
fn events_in_handlers_need_little_stack() {
    alone("events_in_handlers_need_little_stack", 20, || {
        const PAINT: u8 = 0xa5;
        let all = [trace::StackKind::Instant, trace::StackKind::Log, trace::StackKind::Task];
        let capture = Capture::default();
        Config::new().stacks(all).start(capture.clone()).unwrap();
        let mut most = 0;
        for handler in [first_events as extern "C" fn(c_int), nothing] {
            handle(libc::SIGUSR1, libc::SA_ONSTACK, handler);
            let used = std::thread::spawn(|| {
                let stack = Box::leak(vec![PAINT; SIGNAL_STACK].into_boxed_slice());
                // SAFETY: never freed.
                unsafe { signals_support::alternate_stack(stack.as_mut_ptr(), stack.len()) };
                // SAFETY: a signal to the calling thread, with a handler.
                unsafe { libc::raise(libc::SIGUSR1) };
                signals_support::no_alternate_stack();
                stack.len() - stack.iter().take_while(|b| **b == PAINT).count()
            });
            let used = used.join().unwrap();
            most = if handler as *const () == nothing as *const () { most - used } else { used };
        }
        let summary = trace::stop().unwrap();
        support::assert_valid(&capture.take());
        println!("{most} bytes of stack");
        assert!(summary.events >= 5);
        let bound = if cfg!(debug_assertions) { 24 << 10 } else { 8 << 10 };
        assert!(most > 500 && most <= bound, "{most} bytes");
    });
}

extern "C" fn nothing(_signal: c_int) {}

/// Every public call that may be made in a handler; `errno` must not change.
extern "C" fn calls_everything(_signal: c_int) {
    let Some(t) = mine() else { return };
    t.signals.fetch_add(1, Relaxed);
    let before = swap_errno(4321);
    trace::instant!("instant", n = 1, text = "in a handler");
    trace::counter!("counter", 2.5);
    trace::log!(handler, "a number {}", 7);
    {
        let _span = trace::span!("span", n = 3);
        let task = trace::task!("task", n = 4);
        let _current = task.enter();
        trace::log!(task: task, handler, "in a task");
        trace::instant!("inside", id = task.id());
    }
    std::hint::black_box((trace::is_enabled(), trace::current_task()));
    if swap_errno(before) != 4321 {
        t.errno_changed.fetch_add(1, Relaxed);
    }
}

#[test]
fn every_call_in_handlers_keeps_errno() {
    alone("every_call_in_handlers_keeps_errno", 60, || {
        handle(libc::SIGPROF, 0, calls_everything);
        let busy = |n: u64| {
            let _timer = Timer::every(libc::SIGPROF, Duration::from_micros(150 + 10 * n));
            let t = tally();
            let mut i = 0;
            while !END.load(Relaxed) {
                i += 1;
                let _span = trace::span!("outer", n = i);
                trace::instant!("inner", n = i);
                trace::log!(outer, "{i}");
                if i % 16 == 0 {
                    std::thread::yield_now();
                }
            }
            assert!(t.signals.load(Relaxed) > 100);
        };
        let loads: Vec<_> = (0..2).map(|n| std::thread::spawn(move || busy(n))).collect();
        let traces = sessions(20, Duration::from_millis(10), &Config::new(), || {
            total(|t| &t.signals) > 2000
        });
        END.store(true, Relaxed);
        loads.into_iter().for_each(|l| l.join().unwrap());
        assert_eq!(total(|t| &t.errno_changed), 0);
        let mut seen = std::collections::BTreeMap::<String, u64>::new();
        for bytes in &traces {
            support::assert_valid(bytes);
            for t in support::contents(bytes).threads.values() {
                for (kind, n) in &t.kinds {
                    *seen.entry(kind.clone()).or_default() += n;
                }
            }
        }
        for kind in ["instant", "counter", "log", "span", "SpanEnd", "task", "TaskEnd"] {
            assert!(seen.get(kind).is_some_and(|n| *n > 20), "{kind}: {seen:?}");
        }
        println!("{seen:?}");
    });
}

static REFUSED: AtomicU64 = AtomicU64::new(0);
static ODD: AtomicU64 = AtomicU64::new(0);

/// Calls the control functions where it has interrupted an event: all but one are refused.
extern "C" fn controls(_signal: c_int) {
    let Some(t) = mine() else { return };
    let n = t.signals.fetch_add(1, Relaxed);
    if t.probe(HANDLER | n) != Outcome::Nested {
        return;
    }
    let stop = matches!(trace::stop(), Err(StopError::WouldDeadlock));
    let start = matches!(trace::start(std::io::sink()), Err(StartError::WouldDeadlock));
    let read = matches!(trace::read_trace(), Err(trace::ReadError::WouldDeadlock));
    if stop && start && read {
        REFUSED.fetch_add(1, Relaxed);
    } else {
        ODD.fetch_add(1, Relaxed);
    }
}

#[test]
fn control_calls_inside_an_event_are_refused() {
    alone("control_calls_inside_an_event_are_refused", 60, || {
        handle(libc::SIGPROF, 0, controls);
        storm(2, Duration::from_micros(60), false, &Config::new());
        assert_eq!(ODD.load(Relaxed), 0);
        assert!(REFUSED.load(Relaxed) > 10, "{REFUSED:?}");
    });
}

extern "C" fn asks_for_the_end(_signal: c_int) {
    trace::request_stop();
}

extern "C" fn stops(_signal: c_int) {
    ODD.store(if trace::stop().is_ok() { 1 } else { 2 }, Relaxed);
}

#[test]
fn a_handler_outside_events_may_end_the_session() {
    alone("a_handler_outside_events_may_end_the_session", 20, || {
        let capture = Capture::default();
        for round in 0..50u64 {
            handle(libc::SIGUSR1, 0, asks_for_the_end);
            trace::start(capture.clone()).unwrap();
            assert_eq!(trace::emit_probe(round), Outcome::Recorded);
            // SAFETY: a signal to the calling thread, with a handler.
            unsafe { libc::raise(libc::SIGUSR1) };
            let summary = trace::stop().unwrap();
            assert!(summary.events >= 1);
            let bytes = capture.take();
            support::assert_valid(&bytes);
            assert_eq!(
                support::contents(&bytes).threads.values().map(|t| t.probes).sum::<u64>(),
                1
            );

            handle(libc::SIGUSR1, 0, stops);
            trace::start(capture.clone()).unwrap();
            assert_eq!(trace::emit_probe(round), Outcome::Recorded);
            // SAFETY: as above.
            unsafe { libc::raise(libc::SIGUSR1) };
            assert_eq!(ODD.swap(0, Relaxed), 1, "stop() in a handler");
            assert!(matches!(trace::stop(), Err(StopError::NotStarted)));
            support::assert_valid(&capture.take());
        }
    });
}

/// Ends the session now and then, whatever the thread was doing.
extern "C" fn stops_sometimes(_signal: c_int) {
    let Some(t) = mine() else { return };
    let n = t.signals.fetch_add(1, Relaxed);
    t.probe(HANDLER | n);
    if n % 8 == 7 {
        match trace::stop() {
            Ok(_) => REFUSED.fetch_add(1, Relaxed),
            Err(_) => ODD.fetch_add(1, Relaxed),
        };
    }
}

/// The thread that reads is in the recorder's own lock most of the time; a handler there that stops
/// the session must not wait for it. All allocations of this thread are the recorder's, and none of
/// them stands under a lock of the allocator that another thread could hold.
#[test]
fn a_handler_stops_what_its_thread_reads() {
    alone("a_handler_stops_what_its_thread_reads", 60, || {
        handle(libc::SIGPROF, 0, stops_sometimes);
        let t = tally();
        let mut traces = Vec::new();
        for _ in 0..60 * support::multiplier() {
            Config::new().generation(Duration::from_millis(1)).start_reading().unwrap();
            let mut bytes = Vec::with_capacity(64 << 20);
            let timer = Timer::every(libc::SIGPROF, Duration::from_micros(100));
            loop {
                let mut n = 0;
                while t.probe(n) != Outcome::Off && n < 100 {
                    n += 1;
                }
                match trace::read_trace() {
                    Ok(Some(batch)) => bytes.extend_from_slice(&batch),
                    Ok(None) => break,
                    Err(e) => panic!("{e}"),
                }
            }
            drop(timer);
            traces.push(bytes);
        }
        assert_exact(&traces, 0);
        let (stopped, not) = (REFUSED.load(Relaxed), ODD.load(Relaxed));
        println!("{stopped} sessions were stopped by a handler, {not} times it was refused");
        assert_eq!(stopped, traces.len() as u64);
    });
}

thread_local! {
    static LEAVE: Cell<Option<extern "C" fn()>> = const { Cell::new(None) };
}
static ARMED: AtomicBool = AtomicBool::new(false);
static LEFT: AtomicU64 = AtomicU64::new(0);

/// Leaves an event that it has interrupted for ever.
extern "C" fn jumps(_signal: c_int) {
    let (Some(t), Some(leave)) = (mine(), LEAVE.get()) else { return };
    let n = t.signals.fetch_add(1, Relaxed);
    if ARMED.load(Relaxed) && t.probe(HANDLER | n) == Outcome::Nested {
        ARMED.store(false, Relaxed);
        LEFT.fetch_add(1, Relaxed);
        leave();
    }
}

/// Emits until it is interrupted inside an event; the number stands in `n`.
extern "C" fn emit_until_left(n: *mut c_void) {
    // SAFETY: the test's own counter, which nobody else uses meanwhile.
    let n = unsafe { &*n.cast::<AtomicU64>() };
    // The events that are left stand far below those that come after them.
    std::hint::black_box(&mut [0u8; 16 << 10]);
    ARMED.store(true, Relaxed);
    while ARMED.load(Relaxed) {
        // What becomes of this event is told to nobody.
        trace::instant!("left", n = n.fetch_add(1, Relaxed));
    }
}

/// Events that are left by siglongjmp are counted, and the thread goes on recording.
#[test]
fn siglongjmp_out_of_events() {
    type Call = extern "C" fn(extern "C" fn(*mut c_void), *mut c_void) -> c_int;
    alone("siglongjmp_out_of_events", 60, || {
        let Some(c) = Library::of("jump.c", &[]) else { return };
        // SAFETY: the C function's type.
        let call: Call = unsafe { std::mem::transmute(c.address("call_and_come_back")) };
        // SAFETY: as above.
        let leave: extern "C" fn() = unsafe { std::mem::transmute(c.address("leave")) };
        handle(libc::SIGPROF, 0, jumps);
        let (mut traces, mut events, mut lost) = (Vec::new(), 0, 0);
        let n = AtomicU64::new(0);
        let t = tally();
        LEAVE.set(Some(leave));
        let _timer = Timer::every(libc::SIGPROF, Duration::from_micros(50));
        let jumps = 1_000 * support::multiplier();
        for session in 1..=10 {
            let capture = Capture::default();
            trace::start(capture.clone()).unwrap();
            while LEFT.load(Relaxed) < session * jumps / 10 {
                assert_eq!(call(emit_until_left, (&raw const n).cast_mut().cast()), 1);
                assert_eq!(t.probe(1), Outcome::Recorded, "the event after one that was left");
                trace::instant!("here");
            }
            let summary = trace::stop().unwrap();
            assert_eq!(summary.stuck_threads, 0);
            let bytes = capture.take();
            let c = support::contents(&bytes);
            events += c.kind("instant");
            lost += c.cause(Cause::Abandoned);
            traces.push(bytes);
        }
        let left = LEFT.load(Relaxed);
        assert_eq!(lost, left, "each event that was left is counted");
        // An event that was left may have been published already: then it is there and counted. One
        // that was left while it exchanged its buffer may take that buffer with it.
        let probes = t.recorded.load(Relaxed) + t.nested.load(Relaxed);
        let emitted = n.load(Relaxed) + left + probes;
        assert!(events <= emitted && events + left >= emitted - emitted / 20, "{events} {emitted}");
        let mut gone = 0;
        for bytes in &traces {
            for p in support::problems(bytes) {
                assert!(matches!(p.what, What::Sequence), "{p}");
                gone += 1;
            }
        }
        assert!(gone <= left / 20, "{gone} buffers are gone with {left} events");
        println!("{left} events were left, {gone} with their buffer");
    });
}

/// Reads while the thread that it has interrupted is ending the session.
extern "C" fn reads_in_a_stop(_signal: c_int) {
    const STOPPING: u32 = 3;
    if trace::registry::switch().state.load(Relaxed) != STOPPING {
        return;
    }
    match trace::read_trace() {
        Err(trace::ReadError::WouldDeadlock) => REFUSED.fetch_add(1, Relaxed),
        // The end of reading is a change of the state too.
        Err(trace::ReadError::Busy) => 0,
        _ => ODD.fetch_add(1, Relaxed),
    };
}

/// What a handler reads in the middle of `stop` would come only when the handler has returned.
#[test]
fn a_handler_that_reads_where_its_thread_stops_is_refused() {
    alone("a_handler_that_reads_where_its_thread_stops_is_refused", 30, || {
        handle(libc::SIGPROF, 0, reads_in_a_stop);
        let _timer = Timer::every(libc::SIGPROF, Duration::from_micros(20));
        let mut sessions = 0;
        while sessions < 60 || REFUSED.load(Relaxed) < 20 {
            sessions += 1;
            Config::new().memory_bytes(4 << 20).start_reading().unwrap();
            assert_eq!(trace::emit_probe(sessions), Outcome::Recorded);
            trace::stop().unwrap();
            support::assert_valid(&support::read_all());
        }
        assert_eq!(ODD.load(Relaxed), 0);
    });
}
