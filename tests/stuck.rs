//! Threads that stand still inside an event, as under a debugger, while sessions stop and start
//! around them; and emitters while the thread that stops stands still.

mod signals_support;
mod support;

use std::ffi::c_int;
use std::os::unix::thread::JoinHandleExt as _;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use signals_support::Timer;
use signals_support::handle;
use signals_support::mine;
use signals_support::tally;
use signals_support::total;
use support::Attempted;
use support::Capture;
use trace::Config;
use trace::Outcome;
use trace::Overflow;
use trace::buf::Arena as _;
use trace::encode::schema::Cause;
use trace::registry::gate;

/// Runs `body` in a process of its own, for at most `seconds`.
fn alone(test: &'static str, seconds: u64, body: impl FnOnce()) {
    if support::scenario().is_none() {
        support::in_child(test, "alone");
        return;
    }
    let _watchdog = support::watch(test, seconds);
    body();
}

const ARMED: u32 = 1;
const HELD: u32 = 2;
const RELEASED: u32 = 3;
static HOLD: AtomicU32 = AtomicU32::new(0);
static END: AtomicBool = AtomicBool::new(false);

/// Whether the thread has a buffer in its hands: not where it is about to exchange one.
fn has_buffer() -> bool {
    let Some(m) = trace::registry::mapping() else { return false };
    let tid = support::tid();
    trace::registry::live(m)
        .find(|(_, r)| r.tid.load(Relaxed) == tid)
        .is_some_and(|(_, r)| gate::slot_content(r.slot.load(Relaxed)).is_some())
}

/// Where it has interrupted an event that is not the first: stands still until it is released.
extern "C" fn holds(_signal: c_int) {
    let Some(t) = mine() else { return };
    if HOLD.load(Relaxed) != ARMED || t.probe(1 << 32) != Outcome::Nested {
        return;
    }
    if t.recorded.load(Relaxed) == 0 || !has_buffer() {
        return;
    }
    HOLD.store(HELD, Relaxed);
    while HOLD.load(Relaxed) == HELD {
        std::hint::spin_loop();
        // SAFETY: gives the CPU away, no more.
        unsafe { libc::sched_yield() };
    }
}

/// A thread that is held inside one of its events, and emits on when it is released.
fn held() -> JoinHandle<()> {
    HOLD.store(ARMED, Relaxed);
    let thread = std::thread::spawn(|| {
        let t = tally();
        let timer = Timer::every(libc::SIGPROF, Duration::from_micros(100));
        let mut n = 0;
        while HOLD.load(Relaxed) != RELEASED {
            n += 1;
            t.probe(n);
        }
        drop(timer);
        while !END.load(Relaxed) {
            n += 1;
            if t.probe(n) == Outcome::Off || n % 32 == 0 {
                std::thread::yield_now();
            }
        }
    });
    while HOLD.load(Relaxed) != HELD {
        std::thread::yield_now();
    }
    thread
}

/// Buffers that are not in the pool.
fn out_of_the_pool() -> u32 {
    let m = trace::registry::mapping().unwrap();
    m.committed() - m.front().pool.0.free()
}

/// The last segment of the definition log that has one.
fn last_segment() -> u32 {
    let m = trace::registry::mapping().unwrap();
    let last = [0, 1].into_iter().find_map(|epoch| m.log(epoch).segments(m).last());
    last.expect("a session defines its threads")
}

/// What a thread does late that stands still in the middle of a definition: it links a segment
/// behind the one that was the last, or a log's first.
fn link_late_segments(last: u32) {
    let m = trace::registry::mapping().unwrap();
    let late = m.pop(0).expect("a free buffer");
    m.head(late).next.store(0, Relaxed);
    let before = m.head(last).next.swap(late + 1, Relaxed);
    assert_eq!(before, 0, "it was the last one");
    for epoch in [0, 1] {
        assert_eq!(m.log(epoch).segments(m).count(), 0, "the session has ended");
        assert!(m.log(epoch).insert(m, 1, 8, |_| true).is_some());
        assert_eq!(m.log(epoch).segments(m).count(), 1);
    }
}

/// `stop` ends with what the thread has published, and says that it stands there; sessions beside
/// it are exact; when it is out it records again, and what it might have touched is free.
#[test]
fn a_thread_stands_still_inside_an_event() {
    alone("a_thread_stands_still_inside_an_event", 60, || {
        handle(libc::SIGPROF, 0, holds);
        let config = Config::new().stop_timeout(Duration::from_millis(400));
        let capture = Capture::default();
        config.clone().start(capture.clone()).unwrap();
        let thread = held();
        let last = last_segment();
        let summary = trace::stop().unwrap();
        assert_eq!((summary.stuck_threads, summary.undelivered), (1, 0));
        link_late_segments(last);
        let first = capture.take();
        support::assert_valid(&first);
        assert_eq!(support::contents(&first).cause(Cause::StopTimeout), 1);
        assert!(out_of_the_pool() > 1, "its buffer and its session's definitions are set aside");
        let c = support::contents(&first);
        let there: u64 = c.threads.values().map(|t| t.probes).sum();
        assert!(there > 0, "what it had published");

        // It stands there still: other threads are recorded, and it is said again.
        for _ in 0..2 {
            config.clone().start(capture.clone()).unwrap();
            let mut a = Attempted::default();
            for n in 0..10_000 {
                a.probe(n);
            }
            let summary = trace::stop().unwrap();
            let bytes = capture.take();
            support::assert_valid(&bytes);
            support::assert_exact(&bytes, &[(support::tid(), a)].into());
            assert_eq!((summary.stuck_threads, summary.lost), (1, 0), "it was lost once");
        }

        HOLD.store(RELEASED, Relaxed);
        let m = trace::registry::mapping().unwrap();
        while !trace::registry::live(m).all(|(_, r)| r.is_out()) {
            std::thread::yield_now();
        }
        let before = total(|t| &t.recorded);
        config.start(capture.clone()).unwrap();
        while total(|t| &t.recorded) < before + 100 {
            std::thread::yield_now();
        }
        END.store(true, Relaxed);
        thread.join().unwrap();
        let summary = trace::stop().unwrap();
        assert_eq!((summary.stuck_threads, summary.lost), (0, 0));
        let last = capture.take();
        support::assert_valid(&last);
        assert_eq!(out_of_the_pool(), 0, "all is free again");
        let c = support::contents(&last);
        let later: u64 = c.threads.values().map(|t| t.probes).sum();
        assert!(later >= 100, "it goes on recording");
    });
}

/// Somebody reads while `stop` waits for a thread that stands inside an event: the reader waits as
/// well, gets everything, and then the end.
#[test]
fn a_reader_beside_a_stop_that_waits() {
    alone("a_reader_beside_a_stop_that_waits", 60, || {
        handle(libc::SIGPROF, 0, holds);
        let config = Config::new().stop_timeout(Duration::from_millis(600));
        config.start_reading().unwrap();
        let thread = held();
        let reader = std::thread::spawn(support::read_all);
        while trace::registry::switch().reading.load(Relaxed) == 0 {
            std::thread::yield_now();
        }
        let summary = trace::stop().unwrap();
        assert_eq!(summary.stuck_threads, 1);
        let bytes = reader.join().unwrap();
        HOLD.store(RELEASED, Relaxed);
        END.store(true, Relaxed);
        thread.join().unwrap();
        support::assert_valid(&bytes);
        let c = support::contents(&bytes);
        assert_eq!((c.events, c.sessions), (summary.events, 1));
        let kept = total(|t| &t.recorded) + total(|t| &t.nested);
        let there: u64 = c.threads.values().map(|t| t.probes).sum();
        // The event in which it stood may have been published already.
        assert!(there == kept || there + 1 == kept, "{there} of {kept}");
        assert_eq!(c.cause(Cause::StopTimeout), 1);
    });
}

/// The thread that stops stands still in the middle of its pause: emitters wait for a second, then
/// their events are counted, and they go on.
#[test]
fn the_gate_stays_paused() {
    alone("the_gate_stays_paused", 60, || {
        let capture = Capture::default();
        Config::new().generation(Duration::from_secs(3600)).start(capture.clone()).unwrap();
        let mut a = Attempted::default();
        assert_eq!(a.probe(1), Outcome::Recorded);
        let gate = &trace::registry::mapping().unwrap().front().gate.0;
        let word = gate.load(Relaxed);
        gate::turn(gate, word | gate::PAUSED);
        let began = Instant::now();
        assert_eq!(a.probe(2), Outcome::Lost(Cause::InPause));
        assert!(began.elapsed() >= Duration::from_millis(900), "a pause is waited for");
        for n in 3..1003 {
            assert_eq!(a.probe(n), Outcome::Lost(Cause::InPause), "not a second time");
        }
        gate::turn(gate, word);
        assert_eq!(a.probe(3), Outcome::Recorded);
        let summary = trace::stop().unwrap();
        assert_eq!(summary.lost, 1001);
        let bytes = capture.take();
        support::assert_valid(&bytes);
        support::assert_exact(&bytes, &[(support::tid(), a)].into());
    });
}

/// What became of a handler's event: 0 not known yet, 1 not recorded for want of a buffer, 2 other.
static BECAME: AtomicU32 = AtomicU32::new(0);

extern "C" fn emits_once(_signal: c_int) {
    let Some(t) = mine() else { return };
    let lost = t.probe(1 << 32) == Outcome::Lost(Cause::PoolEmpty);
    BECAME.store(if lost { 1 } else { 2 }, Relaxed);
}

/// A thread that waits for a buffer is interrupted by a handler that emits: what may stand inside
/// the allocator does not wait in its turn.
#[test]
fn a_handler_interrupts_a_wait_and_does_not_wait() {
    alone("a_handler_interrupts_a_wait_and_does_not_wait", 60, || {
        handle(libc::SIGUSR1, 0, emits_once);
        let hour = Duration::from_secs(3600);
        let config = Config::new().memory_bytes(2 << 20).generation(hour);
        config.overflow(Overflow::Wait { at_most: hour }).start_reading().unwrap();
        // More than the buffers hold.
        let thread = std::thread::spawn(|| {
            let t = tally();
            for n in 0..1 << 20 {
                t.probe(n);
            }
        });
        let waiting = &trace::registry::mapping().unwrap().front().waiting;
        for _ in 0..3 {
            while waiting.load(Relaxed) == 0 {
                std::thread::yield_now();
            }
            BECAME.store(0, Relaxed);
            // SAFETY: the thread is there: it is joined below.
            unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1) };
            while BECAME.load(Relaxed) == 0 {
                std::thread::yield_now();
            }
            assert_eq!(BECAME.load(Relaxed), 1);
        }
        let mut bytes = Vec::new();
        while !thread.is_finished() {
            bytes.extend_from_slice(&trace::read_trace().unwrap().unwrap());
        }
        thread.join().unwrap();
        trace::stop().unwrap();
        bytes.extend(support::read_all());
        signals_support::assert_exact(&[bytes], 0);
    });
}
