//! Start and stop at the wrong time, from the wrong place and from many places at once.

mod support;

use std::sync::Barrier;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use support::Capture;
use trace::Config;
use trace::ReadError;
use trace::StartError;
use trace::StopError;

#[test]
fn one_session_at_a_time() {
    let _alone = support::alone();
    let _watch = support::watch("one_session_at_a_time", 20);
    assert!(!trace::is_enabled());
    assert!(matches!(trace::stop(), Err(StopError::NotStarted)));
    assert_eq!(trace::emit_probe(1), trace::Outcome::Off);
    let (first, second) = (Capture::default(), Capture::default());
    trace::start(first.clone()).unwrap();
    assert!(trace::is_enabled());
    trace::emit_probe(2);
    assert!(matches!(trace::start(second.clone()), Err(StartError::AlreadyStarted)));
    assert!(matches!(Config::new().start_reading(), Err(StartError::AlreadyStarted)));
    assert!(matches!(trace::read_trace(), Err(ReadError::NotStarted)));
    trace::emit_probe(3);
    let summary = trace::stop().unwrap();
    assert!(!trace::is_enabled());
    assert!(matches!(trace::stop(), Err(StopError::NotStarted)));
    let c = support::contents(&first.bytes());
    support::assert_valid(&first.bytes());
    let probes: u64 = c.threads.values().map(|t| t.probes).sum();
    assert_eq!((probes, summary.events), (2, c.events), "the refused start changed nothing");
    assert_eq!(second.len(), 0);
    trace::start(second.clone()).unwrap();
    trace::stop().unwrap();
    support::assert_valid(&second.bytes());
}

#[test]
fn a_refused_configuration_starts_nothing() {
    let _alone = support::alone();
    for config in [
        Config::new().memory_bytes((2 << 20) - 1),
        Config::new().stack_depth(0),
        Config::new().stack_depth(129),
        Config::new().generation(Duration::from_micros(999)),
    ] {
        let out = Capture::default();
        assert!(matches!(config.start(out.clone()), Err(StartError::Config(_))));
        assert!(!trace::is_enabled() && out.len() == 0);
        assert!(matches!(trace::stop(), Err(StopError::NotStarted)));
    }
}

/// Eight threads start at once, then stop at once: one wins each time, the others are told so.
#[test]
fn of_many_one_wins() {
    let _alone = support::alone();
    let _watch = support::watch("of_many_one_wins", 60);
    let rounds = 650 * support::multiplier();
    let barrier = Barrier::new(8);
    let (started, stopped) = (AtomicU32::new(0), AtomicU32::new(0));
    let out = Capture::default();
    std::thread::scope(|s| {
        for me in 0..8 {
            let (barrier, started, stopped, out) = (&barrier, &started, &stopped, &out);
            s.spawn(move || {
                for _ in 0..rounds {
                    barrier.wait();
                    match Config::new().memory_bytes(8 << 20).start(out.clone()) {
                        Ok(()) => drop(started.fetch_add(1, Relaxed)),
                        Err(StartError::AlreadyStarted) => {}
                        Err(e) => panic!("{e}"),
                    }
                    trace::emit_probe(me);
                    barrier.wait();
                    match trace::stop() {
                        Ok(_) => drop(stopped.fetch_add(1, Relaxed)),
                        Err(StopError::NotStarted) => {}
                        Err(e) => panic!("{e}"),
                    }
                    if barrier.wait().is_leader() {
                        assert_eq!(started.swap(0, Relaxed), 1, "winners of start");
                        assert_eq!(stopped.swap(0, Relaxed), 1, "winners of stop");
                        assert!(!trace::is_enabled());
                        support::assert_valid(&out.take());
                    }
                }
            });
        }
    });
}

/// Starts and stops of eight threads without any order: the winners' counts agree, nothing hangs.
#[test]
fn starts_and_stops_in_any_order() {
    let _alone = support::alone();
    let _watch = support::watch("starts_and_stops_in_any_order", 60);
    let rounds = 1250 * support::multiplier();
    let (started, stopped) = (AtomicU32::new(0), AtomicU32::new(0));
    let out = Capture::default();
    std::thread::scope(|s| {
        for me in 0..8 {
            let (started, stopped, out) = (&started, &stopped, &out);
            s.spawn(move || {
                for i in 0..rounds {
                    if (me + i) % 2 == 0 {
                        match Config::new().memory_bytes(8 << 20).start(out.clone()) {
                            Ok(()) => drop(started.fetch_add(1, Relaxed)),
                            Err(StartError::AlreadyStarted) => {}
                            Err(e) => panic!("{e}"),
                        }
                    } else {
                        match trace::stop() {
                            Ok(_) => drop(stopped.fetch_add(1, Relaxed)),
                            Err(StopError::NotStarted) => {}
                            Err(e) => panic!("{e}"),
                        }
                    }
                    trace::emit_probe(i);
                }
            });
        }
    });
    if trace::stop().is_ok() {
        stopped.fetch_add(1, Relaxed);
    }
    let (started, stopped) = (started.into_inner(), stopped.into_inner());
    assert_eq!(started, stopped);
    assert!(started > 10, "only {started} sessions");
    let bytes = out.take();
    support::assert_valid(&bytes);
    assert_eq!(support::contents(&bytes).sessions, started.into());
}

#[test]
fn a_request_ends_the_session_and_stop_gives_its_result() {
    let _alone = support::alone();
    let _watch = support::watch("a_request_ends_the_session", 20);
    let out = Capture::default();
    trace::start(out.clone()).unwrap();
    trace::emit_probe(7);
    trace::request_stop();
    while trace::is_enabled() {
        std::thread::yield_now();
    }
    assert!(matches!(trace::start(Capture::default()), Err(StartError::AlreadyStarted)));
    assert_eq!(trace::emit_probe(8), trace::Outcome::Off);
    let summary = trace::stop().unwrap();
    assert_eq!((summary.undelivered, summary.lost), (0, 0));
    support::assert_valid(&out.bytes());
    let c = support::contents(&out.bytes());
    assert_eq!(c.end.unwrap().reason, trace::encode::schema::END_REQUEST);
    assert_eq!(c.threads.values().map(|t| t.probes).sum::<u64>(), 1);
    // A request without a session does nothing to the next one.
    trace::request_stop();
    trace::start(out.clone()).unwrap();
    assert!(trace::is_enabled());
    trace::stop().unwrap();
}

/// Inside a span, in the destructor of a thread-local, in a span of another session: no hang, and
/// the guards that are left over are silent.
#[test]
fn stop_inside_spans_and_destructors() {
    struct Last(Capture);
    impl Drop for Last {
        fn drop(&mut self) {
            trace::emit_probe(2);
            trace::stop().unwrap();
            support::assert_valid(&self.0.bytes());
        }
    }
    thread_local!(static LAST: std::cell::RefCell<Option<Last>> = const {
        std::cell::RefCell::new(None)
    });
    let _alone = support::alone();
    let _watch = support::watch("stop_inside_spans_and_destructors", 20);
    let out = Capture::default();
    trace::start(out.clone()).unwrap();
    let outer = trace::span!("outer");
    let inner = trace::span!("inner");
    trace::stop().unwrap();
    let first = out.take();
    trace::start(out.clone()).unwrap();
    let here = trace::span!("of the second session");
    drop(inner);
    drop(outer);
    let kept = out.clone();
    std::thread::spawn(move || {
        LAST.with(|l| *l.borrow_mut() = Some(Last(kept)));
        trace::emit_probe(1);
    })
    .join()
    .unwrap();
    drop(here);
    let second = out.take();
    for (bytes, begun) in [(&first, 2), (&second, 1)] {
        support::assert_valid(bytes);
        let c = support::contents(bytes);
        assert_eq!((c.kind("span"), c.kind("SpanEnd"), c.kind("SpanEndAt")), (begun, 0, 0));
    }
    assert_eq!(support::contents(&second).threads.values().map(|t| t.probes).sum::<u64>(), 2);
}

/// Threads that start while a session is being stopped are in it whole or not at all.
#[test]
fn threads_that_start_during_a_stop() {
    let _alone = support::alone();
    let _watch = support::watch("threads_that_start_during_a_stop", 60);
    let out = Capture::default();
    let (mut inside, mut outside) = (0, 0);
    for round in 0..100 * support::multiplier() {
        Config::new().memory_bytes(8 << 20).start(out.clone()).unwrap();
        let kept: u64 = std::thread::scope(|s| {
            let spawner = s.spawn(move || {
                let one = |i: u64| {
                    s.spawn(move || {
                        let mut a = support::Attempted::default();
                        for n in 0..20u64 {
                            a.probe(i << 32 | n);
                        }
                        a
                    })
                };
                (0..10).map(one).collect::<Vec<_>>()
            });
            std::thread::sleep(Duration::from_micros(round % 20 * 40));
            trace::stop().unwrap();
            let mut kept = 0;
            for thread in spawner.join().unwrap() {
                let a = thread.join().unwrap();
                assert_eq!(a.lost, 0);
                outside += a.off;
                kept += a.kept;
            }
            kept
        });
        let bytes = out.take();
        support::assert_valid(&bytes);
        let c = support::contents(&bytes);
        assert_eq!(c.threads.values().map(|t| t.probes).sum::<u64>(), kept);
        assert_eq!(c.lost(), 0);
        inside += kept;
    }
    println!("{inside} inside, {outside} outside");
    assert!(inside > 0 && outside > 0, "no thread met a stop");
}
