//! Sessions without a writer: the caller takes the trace, in time, late, or never.

mod support;

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use support::Attempted;
use trace::Config;
use trace::Outcome;
use trace::Overflow;
use trace::ReadError;
use trace::StartError;
use trace::encode::schema::Cause;

fn wait(ms: u64) -> Overflow {
    Overflow::Wait { at_most: Duration::from_millis(ms) }
}

/// One thread starts, works, stops and then reads: it must not wait for itself.
#[test]
fn one_thread_does_everything() {
    let _alone = support::alone();
    let _watch = support::watch("one_thread_does_everything", 30);
    for overflow in [Overflow::Count, wait(60_000)] {
        for (events, lossy) in [(0, false), (1, false), (10_000, false), (1_500_000, true)] {
            let config = Config::new().memory_bytes(3 << 20).overflow(overflow);
            config.start_reading().unwrap();
            let mut a = Attempted::default();
            for n in 0..events {
                a.probe(n << 20);
                if a.lost > 1000 {
                    break;
                }
            }
            let summary = trace::stop().unwrap();
            assert!(!trace::is_enabled());
            assert_eq!(summary.undelivered, summary.bytes);
            let bytes = support::read_all();
            assert_eq!(bytes.len() as u64, summary.undelivered);
            support::assert_valid(&bytes);
            support::assert_exact(&bytes, &[(support::tid(), a)].into());
            assert_eq!(a.lost > 0, lossy, "{overflow:?} {a:?}");
            for _ in 0..3 {
                assert!(matches!(trace::read_trace(), Ok(None)), "the end stays the end");
            }
        }
    }
}

#[test]
fn what_was_not_read_keeps_the_next_session_out() {
    let _alone = support::alone();
    let _watch = support::watch("what_was_not_read_keeps_the_next_session_out", 20);
    Config::new().start_reading().unwrap();
    trace::emit_probe(5);
    trace::stop().unwrap();
    assert!(matches!(trace::start(support::Capture::default()), Err(StartError::Undelivered)));
    assert!(matches!(Config::new().start_reading(), Err(StartError::Undelivered)));
    assert!(matches!(trace::stop(), Err(trace::StopError::NotStarted)));
    let mut bytes = trace::read_trace().unwrap().expect("the beginning").to_vec();
    assert!(matches!(Config::new().start_reading(), Err(StartError::Undelivered)));
    bytes.extend(support::read_all());
    support::assert_valid(&bytes);
    Config::new().start_reading().unwrap();
    trace::stop().unwrap();
    support::assert_valid(&support::read_all());
}

#[test]
fn nothing_to_read() {
    // In a process of its own: another test's session leaves an end behind that can be read.
    if support::scenario().is_none() {
        support::in_child("nothing_to_read", "alone");
        return;
    }
    for _ in 0..3 {
        assert!(matches!(trace::read_trace(), Err(ReadError::NotStarted)));
    }
    trace::start(std::io::sink()).unwrap();
    assert!(matches!(trace::read_trace(), Err(ReadError::NotStarted)));
    trace::stop().unwrap();
    assert!(matches!(trace::read_trace(), Err(ReadError::NotStarted)));
}

/// A reader beside four emitters; another thread that tries to read gets an error and no data.
#[test]
fn a_second_reader_is_refused_and_disturbs_nothing() {
    let _alone = support::alone();
    let _watch = support::watch("a_second_reader_is_refused", 60);
    for overflow in [Overflow::Count, wait(10_000)] {
        let config = Config::new().memory_bytes(4 << 20).overflow(overflow);
        // So long that the reader sleeps inside when the emitters are done.
        config.generation(Duration::from_secs(60)).start_reading().unwrap();
        let (bytes, attempted) = std::thread::scope(|s| {
            let reader = s.spawn(move || {
                let mut bytes = Vec::new();
                loop {
                    match trace::read_trace() {
                        Ok(Some(batch)) => bytes.extend_from_slice(&batch),
                        Ok(None) => return bytes,
                        Err(ReadError::Busy) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
            });
            let emitters: Vec<_> = (0..4u64)
                .map(|me| {
                    s.spawn(move || {
                        let mut a = Attempted::default();
                        for n in 0..20_000 {
                            a.probe(me << 40 | n);
                        }
                        (support::tid(), a)
                    })
                })
                .collect();
            let attempted: std::collections::BTreeMap<_, _> =
                emitters.into_iter().map(|t| t.join().unwrap()).collect();
            std::thread::sleep(Duration::from_millis(100));
            assert_busy_once();
            trace::stop().unwrap();
            (reader.join().unwrap(), attempted)
        });
        support::assert_valid(&bytes);
        let c = support::contents(&bytes);
        for (tid, a) in &attempted {
            let h = c.of_tid(*tid);
            assert_eq!((h.probes, h.sum), (a.kept, a.sum), "{overflow:?}");
            // The end of the thread is an event too.
            assert_eq!(h.lost() + h.kind("ThreadEnd"), a.lost + 1, "{overflow:?}");
            if overflow != Overflow::Count {
                assert_eq!(a.lost, 0, "the reader kept up");
            }
        }
    }
}

/// Whether somebody is inside `read_trace`.
fn registry_reading() -> bool {
    trace::registry::switch().reading.load(Relaxed) != 0
}

/// The reader sleeps inside `read_trace`, as nothing is emitted: a second one is refused at once.
fn assert_busy_once() {
    let until = Instant::now() + Duration::from_secs(10);
    while !registry_reading() {
        assert!(Instant::now() < until, "the reader is not there");
        std::thread::yield_now();
    }
    match trace::read_trace() {
        Err(ReadError::Busy) => {}
        other => panic!("a second reader got {other:?}"),
    }
}

/// A reader that never comes: memory stays within the bound, and the loss is exact.
#[test]
fn a_reader_that_never_comes() {
    let _alone = support::alone();
    let _watch = support::watch("a_reader_that_never_comes", 60);
    for (overflow, cause) in [(Overflow::Count, Cause::PoolEmpty), (wait(20), Cause::WaitTimeout)] {
        let before = support::rss_kib();
        let config = Config::new().memory_bytes(4 << 20).overflow(overflow);
        config.start_reading().unwrap();
        let attempted: std::collections::BTreeMap<u32, Attempted> = std::thread::scope(|s| {
            let flood = |me: u64| {
                let mut a = Attempted::default();
                for n in 0..10_000_000u64 {
                    a.probe(me << 40 | n << 16);
                    let enough = if overflow == Overflow::Count { 20_000 } else { 5 };
                    if a.lost >= enough {
                        break;
                    }
                }
                (support::tid(), a)
            };
            let threads: Vec<_> = (0..4).map(|me| s.spawn(move || flood(me))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let grown = support::rss_kib().saturating_sub(before);
        assert!(grown < (4 + 6) << 10, "memory grew by {grown} KiB");
        let summary = trace::stop().unwrap();
        let bytes = support::read_all();
        assert!(bytes.len() > 1 << 20 && bytes.len() < 5 << 20, "{} bytes", bytes.len());
        support::assert_valid(&bytes);
        let c = support::contents(&bytes);
        for (tid, a) in &attempted {
            let h = c.of_tid(*tid);
            assert_eq!((h.probes, h.sum), (a.kept, a.sum), "{overflow:?}");
            assert_eq!(h.lost() + h.kind("ThreadEnd"), a.lost + 1, "{overflow:?}");
            assert!(h.losses.get(&(cause as u64)).is_some_and(|n| *n >= a.lost), "{h:?}");
        }
        assert_eq!(summary.lost, c.lost());
    }
}

#[test]
fn a_request_ends_what_is_read() {
    let _alone = support::alone();
    let _watch = support::watch("a_request_ends_what_is_read", 20);
    Config::new().start_reading().unwrap();
    let reader = std::thread::spawn(support::read_all);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(trace::emit_probe(3), Outcome::Recorded);
    trace::request_stop();
    let bytes = reader.join().unwrap();
    assert!(!trace::is_enabled());
    support::assert_valid(&bytes);
    let c = support::contents(&bytes);
    assert_eq!(c.threads.values().map(|t| t.probes).sum::<u64>(), 1);
    let summary = trace::stop().unwrap();
    assert_eq!((summary.events, summary.undelivered), (c.events, 0));
    assert!(matches!(trace::read_trace(), Ok(None)));
    Config::new().start_reading().unwrap();
    trace::stop().unwrap();
    support::assert_valid(&support::read_all());
}

/// Batches that the reader keeps are not overwritten, and count against the bound.
#[test]
fn batches_are_the_readers_until_dropped() {
    let _alone = support::alone();
    let _watch = support::watch("batches_are_the_readers_until_dropped", 30);
    Config::new().memory_bytes(3 << 20).start_reading().unwrap();
    let (mut kept, mut copies) = (Vec::new(), Vec::new());
    let mut a = Attempted::default();
    let mut n = 0u64;
    while a.lost < 100 {
        for _ in 0..20_000 {
            n += 1;
            a.probe(n << 30);
        }
        // A generation's end is far: only full buffers stand ready.
        if kept.len() < 20
            && let Some(batch) = trace::read_trace().unwrap()
        {
            copies.push(batch.to_vec());
            kept.push(batch);
        }
    }
    for (batch, copy) in kept.iter().zip(&copies) {
        assert!(**batch == copy[..], "a batch changed in the reader's hands");
    }
    assert!(kept.len() >= 5);
    drop(kept);
    trace::stop().unwrap();
    copies.push(support::read_all());
    let bytes = copies.concat();
    support::assert_valid(&bytes);
    support::assert_exact(&bytes, &[(support::tid(), a)].into());
}

/// Ends that are lost are ends all the same: once there is room again, the thread's next batch says
/// what is open.
#[test]
fn a_lost_end_does_not_stay_open() {
    let _alone = support::alone();
    let _watch = support::watch("a_lost_end_does_not_stay_open", 30);
    Config::new().memory_bytes(2 << 20).start_reading().unwrap();
    let task = trace::task!("job");
    let entered = task.enter();
    let (outer, inner) = (trace::span!("outer"), trace::span!("inner"));
    let mut a = Attempted::default();
    let mut n = 0u64;
    while a.lost < 100 {
        n += 1;
        a.probe(n << 40);
    }
    // All four are lost.
    drop(inner);
    drop(entered);
    drop(outer);
    drop(task);
    let mut bytes = Vec::new();
    for _ in 0..8 {
        bytes.extend_from_slice(&trace::read_trace().unwrap().expect("full buffers"));
    }
    trace::instant!("room again");
    let span = trace::span!("fresh");
    trace::instant!("inside");
    drop(span);
    let summary = trace::stop().unwrap();
    bytes.extend(support::read_all());
    assert_eq!(summary.lost, a.lost + 4);
    support::assert_valid(&bytes);
    let mut decoder = trace_decode::Decoder::new();
    decoder.push(&bytes);
    decoder.finish();
    let mut seen = Vec::new();
    while let Some(item) = decoder.next_item().unwrap() {
        if let trace_decode::Item::Event(e) = item
            && let Some(name) = e.name().filter(|n| n.bytes != b"probe")
        {
            seen.push((String::from_utf8(name.bytes.to_vec()).unwrap(), e.depth, e.task != 0));
        }
    }
    let expected = [
        ("job", 0, false),
        ("outer", 0, true),
        ("inner", 1, true),
        ("room again", 0, false),
        ("fresh", 0, false),
        ("inside", 1, false),
        ("fresh", 1, false),
    ];
    assert_eq!(seen, expected.map(|(name, depth, task)| (name.to_owned(), depth, task)));
}

/// A reader whose thread ends in a panic, with batches in its hands: another thread goes on where
/// it was, and in the end every buffer is free again.
#[test]
fn readers_that_end() {
    let _alone = support::alone();
    let _watch = support::watch("readers_that_end", 60);
    for taken in 0..5 {
        Config::new().memory_bytes(4 << 20).start_reading().unwrap();
        let mut a = Attempted::default();
        (0..100_000).for_each(|n| {
            a.probe(n << 32);
        });
        assert_eq!(a.lost, 0);
        let reader = std::thread::spawn(move || {
            let mut copies = Vec::new();
            let held: Vec<_> = (0..taken).map(|_| trace::read_trace().unwrap().unwrap()).collect();
            held.iter().for_each(|batch| copies.extend_from_slice(batch));
            std::panic::resume_unwind(Box::new(copies));
        });
        let payload = reader.join().unwrap_err();
        let mut bytes = *payload.downcast::<Vec<u8>>().unwrap();
        assert_eq!(bytes.is_empty(), taken == 0);
        trace::stop().unwrap();
        bytes.extend(support::read_all());
        support::assert_valid(&bytes);
        support::assert_exact(&bytes, &[(support::tid(), a)].into());
        let m = trace::registry::mapping().unwrap();
        assert_eq!(m.front().pool.0.free(), m.committed(), "buffers that are gone");
    }
}

/// Start, read and stop in three threads, many times.
#[test]
fn many_sessions_are_read() {
    let _alone = support::alone();
    let _watch = support::watch("many_sessions_are_read", 60);
    for round in 0..60 * support::multiplier() {
        let config = Config::new().memory_bytes(4 << 20).generation(Duration::from_millis(1));
        config.start_reading().unwrap();
        let reader = std::thread::spawn(support::read_all);
        let mut a = Attempted::default();
        let until = Instant::now() + Duration::from_micros(round % 10 * 300);
        while Instant::now() < until {
            a.probe(round);
        }
        trace::stop().unwrap();
        let bytes = reader.join().unwrap();
        support::assert_valid(&bytes);
        support::assert_exact(&bytes, &[(support::tid(), a)].into());
    }
}
