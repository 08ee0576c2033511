//! Settings at their ends, places where a session is ended from, and what must come back to where
//! it was: buffers, memory, the right to start again.

mod signals_support;
mod support;

use std::cell::Cell;
use std::ffi::c_int;
use std::ffi::c_void;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use signals_support::Library;
use signals_support::Timer;
use signals_support::handle;
use support::Attempted;
use support::Capture;
use trace::Config;
use trace::Outcome;
use trace::Overflow;
use trace::StopError;

/// The least memory: 27 buffers, of which emitters get 23.
const SMALL: u64 = 2 << 20;

/// A writer that is slow with its first bytes.
struct Slow(Capture, bool);

impl std::io::Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if !std::mem::replace(&mut self.1, true) {
            std::thread::sleep(Duration::from_millis(100));
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The longest durations are as good as any: nothing overflows, nothing is due at once.
#[test]
fn durations_without_end() {
    let _alone = support::alone();
    let _watch = support::watch("durations_without_end", 60);
    for longest in [Duration::MAX, Duration::from_secs(1 << 40), Duration::from_nanos(u64::MAX)] {
        let out = Capture::default();
        let config = Config::new().memory_bytes(SMALL).generation(longest).stop_timeout(longest);
        let config = config.overflow(Overflow::Wait { at_most: longest });
        config.start(Slow(out.clone(), false)).unwrap();
        let mut a = Attempted::default();
        // More than the buffers hold, so that some must wait for the writer.
        for n in 0..SMALL / 4 {
            a.probe(n);
        }
        let summary = trace::stop().unwrap();
        let bytes = out.take();
        support::assert_valid(&bytes);
        support::assert_exact(&bytes, &[(support::tid(), a)].into());
        assert_eq!((a.lost, a.off, summary.lost), (0, 0, 0));
    }
}

/// The reader of a session never waits in it, but in the next one like any other thread.
#[test]
fn who_has_read_waits_in_the_next_session() {
    let _alone = support::alone();
    let _watch = support::watch("who_has_read_waits_in_the_next_session", 60);
    Config::new().start_reading().unwrap();
    assert_eq!(trace::emit_probe(7), Outcome::Recorded);
    trace::stop().unwrap();
    assert!(!support::read_all().is_empty());
    let out = Capture::default();
    let config = Config::new().memory_bytes(SMALL);
    let config = config.overflow(Overflow::Wait { at_most: Duration::from_secs(30) });
    config.start(Slow(out.clone(), false)).unwrap();
    let lost = (0..SMALL / 4).filter(|n| matches!(trace::emit_probe(*n), Outcome::Lost(_)));
    assert_eq!(lost.count(), 0);
    assert_eq!(trace::stop().unwrap().lost, 0);
    assert!(out.len() as u64 > SMALL, "the buffers held all");
}

/// More threads than buffers, all but one of them idle: what they hold is collected for the other
/// one, though the generation lasts for an hour.
#[test]
fn idle_threads_do_not_keep_the_last_buffers() {
    let _alone = support::alone();
    let _watch = support::watch("idle_threads_do_not_keep_the_last_buffers", 60);
    let out = Capture::default();
    let config = Config::new().memory_bytes(SMALL).generation(Duration::from_secs(3600));
    config.start(out.clone()).unwrap();
    let (held, end) = (Barrier::new(41), Barrier::new(41));
    let recorded = std::thread::scope(|s| {
        for _ in 0..40 {
            s.spawn(|| {
                trace::emit_probe(0);
                held.wait();
                end.wait();
            });
        }
        held.wait();
        let until = Instant::now() + Duration::from_secs(10);
        let mut recorded = false;
        while !recorded && Instant::now() < until {
            recorded = trace::emit_probe(1) == Outcome::Recorded;
            std::thread::sleep(Duration::from_millis(1));
        }
        end.wait();
        recorded
    });
    trace::stop().unwrap();
    support::assert_valid(&out.take());
    assert!(recorded, "buffers with one event each were kept from a thread that needs one");
}

/// Many sessions with bounds in turn: the tables of one bound do not stay when another one comes.
#[test]
fn bounds_in_turn_take_no_memory() {
    let _alone = support::alone();
    let _watch = support::watch("bounds_in_turn_take_no_memory", 60);
    let mapped = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
    };
    let both = || {
        for mib in [64, 128] {
            trace::Config::new().memory_bytes(mib << 20).start(std::io::sink()).unwrap();
            assert_eq!(trace::emit_probe(mib), Outcome::Recorded);
            trace::stop().unwrap();
        }
    };
    (0..3).for_each(|_| both());
    let before = mapped();
    (0..30).for_each(|_| both());
    let grown = mapped().saturating_sub(before);
    // The tables of one such session are 12 MiB and more.
    assert!(grown < 100 << 20, "{} MiB were mapped by 60 sessions", grown >> 20);
}

/// A reader that was told of the end by a request is not asked again after `stop`.
#[test]
fn an_end_that_was_read_before_stop() {
    let _alone = support::alone();
    let _watch = support::watch("an_end_that_was_read_before_stop", 30);
    for _ in 0..3 {
        Config::new().start_reading().unwrap();
        assert_eq!(trace::emit_probe(7), Outcome::Recorded);
        trace::request_stop();
        let bytes = support::read_all();
        support::assert_valid(&bytes);
        assert_eq!(support::contents(&bytes).kind("instant"), 1);
        assert_eq!(trace::stop().unwrap().undelivered, 0);
    }
    assert!(trace::read_trace().unwrap().is_none());
}

/// Emits in sessions of its own until the pool has gone round; exact.
fn child_records() {
    for _ in 0..3 {
        Config::new().memory_bytes(SMALL).start_reading().unwrap();
        let mut bytes = Vec::new();
        let mut a = Attempted::default();
        for round in 0..40 {
            (0..20_000).for_each(|n| {
                a.probe(round << 32 | n);
            });
            bytes.extend_from_slice(&trace::read_trace().unwrap().unwrap());
        }
        trace::stop().unwrap();
        bytes.extend(support::read_all());
        support::assert_exact(&bytes, &[(support::tid(), a)].into());
    }
}

/// A batch that a child inherits names a buffer of its parent's pool, not of its own.
#[test]
fn a_batch_is_dropped_in_a_child() {
    const NAME: &str = "a_batch_is_dropped_in_a_child";
    if support::scenario().is_none() {
        support::in_child(NAME, "fork");
        return;
    }
    let _watch = support::watch(NAME, 60);
    Config::new().memory_bytes(SMALL).start_reading().unwrap();
    for n in 0..200_000 {
        trace::emit_probe(n);
    }
    let mut batches = Vec::new();
    while batches.len() < 8 {
        batches.push(trace::read_trace().unwrap().unwrap());
    }
    // SAFETY: the child goes on with the one thread that it has, whose locks are free.
    match unsafe { libc::fork() } {
        0 => {
            Config::new().memory_bytes(SMALL).start_reading().unwrap();
            drop(batches);
            trace::stop().unwrap();
            support::read_all();
            let done = std::panic::catch_unwind(child_records).is_ok();
            // SAFETY: ends the child and nothing else.
            unsafe { libc::_exit(if done { 0 } else { 7 }) }
        }
        child => {
            assert!(child > 0);
            let mut status = 0;
            // SAFETY: our child, waited for once.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:#x}");
            let mut bytes: Vec<u8> = batches.iter().flat_map(|b| b.to_vec()).collect();
            drop(batches);
            trace::stop().unwrap();
            bytes.extend(support::read_all());
            support::assert_valid(&bytes);
        }
    }
}

thread_local! {
    static LEAVE: Cell<Option<extern "C" fn()>> = const { Cell::new(None) };
}
static ARMED: AtomicBool = AtomicBool::new(false);
static VANISH: AtomicBool = AtomicBool::new(false);
static NESTED: AtomicU64 = AtomicU64::new(0);

/// Leaves an event that it has interrupted: by longjmp, or with its whole thread.
extern "C" fn leaves(_signal: c_int) {
    if !ARMED.load(Relaxed) || trace::emit_probe(0) != Outcome::Nested {
        return;
    }
    ARMED.store(false, Relaxed);
    NESTED.fetch_add(1, Relaxed);
    if VANISH.load(Relaxed) {
        // SAFETY: ends this thread alone; it holds nothing.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
    if let Some(leave) = LEAVE.get() {
        leave();
    }
}

extern "C" fn emit_until_left(_: *mut c_void) {
    // The events that are left stand far below those that come after them.
    std::hint::black_box(&mut [0u8; 16 << 10]);
    ARMED.store(true, Relaxed);
    while ARMED.load(Relaxed) {
        trace::instant!("left");
    }
}

/// A thread that has left an event by longjmp can stop the session, before any further event.
#[test]
fn stop_after_longjmp() {
    type Call = extern "C" fn(extern "C" fn(*mut c_void), *mut c_void) -> c_int;
    const NAME: &str = "stop_after_longjmp";
    if support::scenario().is_none() {
        support::in_child(NAME, "jump");
        return;
    }
    let _watch = support::watch(NAME, 60);
    let Some(c) = Library::of("jump.c", &[]) else { return };
    // SAFETY: the C function's type.
    let call: Call = unsafe { std::mem::transmute(c.address("call_and_come_back")) };
    // SAFETY: as above.
    let leave: extern "C" fn() = unsafe { std::mem::transmute(c.address("leave")) };
    LEAVE.set(Some(leave));
    handle(libc::SIGPROF, 0, leaves);
    for _ in 0..20 {
        let out = Capture::default();
        trace::start(out.clone()).unwrap();
        let timer = Timer::every(libc::SIGPROF, Duration::from_micros(50));
        assert_eq!(call(emit_until_left, std::ptr::null_mut()), 1);
        drop(timer);
        let summary = match trace::stop() {
            Err(StopError::WouldDeadlock) => panic!("the thread is inside no event any more"),
            other => other.unwrap(),
        };
        assert_eq!(summary.stuck_threads, 0);
        let c = support::contents(&out.take());
        assert_eq!(c.cause(trace::encode::schema::Cause::Abandoned), 1);
    }
}

extern "C" fn emit_until_gone(_: *mut c_void) -> *mut c_void {
    let _timer = Timer::every(libc::SIGPROF, Duration::from_micros(50));
    emit_until_left(std::ptr::null_mut());
    unreachable!()
}

/// A thread that ended inside an event is not waited for, and its event is counted.
#[test]
fn stop_beside_a_thread_that_vanished_in_an_event() {
    const NAME: &str = "stop_beside_a_thread_that_vanished_in_an_event";
    if support::scenario().is_none() {
        support::in_child(NAME, "vanish");
        return;
    }
    let _watch = support::watch(NAME, 60);
    handle(libc::SIGPROF, 0, leaves);
    VANISH.store(true, Relaxed);
    for round in 1..=5 {
        let out = Capture::default();
        // Whoever waited for it would wait for an hour.
        let hour = Duration::from_secs(3600);
        Config::new().generation(hour).stop_timeout(hour).start(out.clone()).unwrap();
        let mut id = 0;
        let null = std::ptr::null_mut();
        // SAFETY: the function does not look at its argument.
        let r = unsafe { libc::pthread_create(&mut id, std::ptr::null(), emit_until_gone, null) };
        assert_eq!(r, 0);
        // SAFETY: our thread, joined once.
        assert_eq!(unsafe { libc::pthread_join(id, std::ptr::null_mut()) }, 0);
        assert_eq!(NESTED.load(Relaxed), round);
        let summary = trace::stop().unwrap();
        assert_eq!(summary.stuck_threads, 0);
        let c = support::contents(&out.take());
        assert_eq!(c.cause(trace::encode::schema::Cause::Abandoned), 1);
        assert!(c.kind("instant") > 0);
    }
}
