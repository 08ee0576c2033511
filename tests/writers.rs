//! Writers that fail, dawdle, block, panic and call back: the program goes on, `stop` says what
//! happened, memory stays bounded, and what the writer took is a trace.

mod support;

use std::io;
use std::io::ErrorKind;
use std::io::Write;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use support::Attempted;
use support::Capture;
use trace::Config;
use trace::Outcome;
use trace::Overflow;
use trace::StartError;
use trace::StopError;

/// A writer made of a function.
struct Odd<F>(F);

impl<F: FnMut(&[u8]) -> io::Result<usize>> Write for Odd<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn small() -> Config {
    Config::new().memory_bytes(4 << 20).generation(Duration::from_millis(2))
}

/// Emits for some generations; gives what became of it.
fn work(events: u64) -> Attempted {
    let mut a = Attempted::default();
    for n in 0..events {
        a.probe(n);
        if n % 1000 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    a
}

/// Keeps what fits before byte `k`, then fails for ever.
fn fails_at(k: usize, out: Capture) -> impl Write + Send {
    let mut left = k;
    Odd(move |bytes: &[u8]| {
        if left == 0 {
            return Err(io::Error::other("the disk is gone"));
        }
        let n = bytes.len().min(left);
        left -= n;
        out.clone().write(&bytes[..n])
    })
}

#[test]
fn an_error_at_any_byte() {
    let _alone = support::alone();
    let _watch = support::watch("an_error_at_any_byte", 60);
    let whole = Capture::default();
    small().start(whole.clone()).unwrap();
    work(20_000);
    trace::stop().unwrap();
    // Four bytes at least for each number above 127, whatever else the next traces hold.
    let least = 4 * 19_000;
    assert!(whole.len() > least);
    let whole = least;
    let near = [0, 1, 63, 64, 65, 100, 1000, 2000, 3000, 4095, 4096, 4097, 65_535, 65_536];
    let spread = (1..25).map(|i| whole * i / 25);
    for k in near.into_iter().chain(spread).filter(|k| *k + 2000 < whole) {
        let out = Capture::default();
        small().start(fails_at(k, out.clone())).unwrap();
        let a = work(20_000);
        let error = trace::stop().unwrap_err();
        let StopError::Write { error: cause, .. } = &error else { panic!("{k}: {error:?}") };
        assert_eq!(cause.to_string(), "the disk is gone");
        let summary = error.summary().unwrap();
        let bytes = out.take();
        assert_eq!(bytes.len(), k, "everything before the error was written");
        assert!(summary.bytes <= k as u64 && summary.bytes + 65_536 > k as u64);
        assert!(summary.undelivered > 0);
        if k < 64 {
            continue;
        }
        support::assert_valid_prefix(&bytes);
        // What was recorded is in the trace, or counted as not taken by the writer.
        let c = support::contents(&bytes);
        let cut: u64 = c.damaged;
        assert!(cut < 65_536, "only the batch at the error is cut");
        let sink = summary.lost_by_cause.iter().find(|l| l.0 == "sink").map_or(0, |l| l.1);
        let probes: u64 = c.threads.values().map(|t| t.probes).sum();
        assert!(probes + sink >= a.kept, "{probes} decoded, {sink} not taken, {a:?}");
        assert_eq!(summary.events, c.events, "k = {k}");
    }
    assert!(!trace::is_enabled());
}

#[test]
fn after_an_error_nothing_is_recorded() {
    let _alone = support::alone();
    let _watch = support::watch("after_an_error_nothing_is_recorded", 20);
    small().start(fails_at(10, Capture::default())).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while trace::emit_probe(1) != Outcome::Off {
        assert!(Instant::now() < until, "the error was not noticed");
        std::thread::sleep(Duration::from_micros(100));
    }
    assert!(!trace::is_enabled());
    assert!(matches!(trace::start(Capture::default()), Err(StartError::AlreadyStarted)));
    assert!(matches!(trace::stop(), Err(StopError::Write { .. })));
    assert!(matches!(trace::stop(), Err(StopError::NotStarted)));
}

/// One byte at a time, interrupted, would block: the same bytes as ever.
#[test]
fn little_by_little() {
    let _alone = support::alone();
    let _watch = support::watch("little_by_little", 60);
    for (name, every) in [("one byte", 0), ("interrupted", 2), ("would block", 400)] {
        let out = Capture::default();
        let (to, mut calls, mut refused) = (out.clone(), 0u64, false);
        let seen = Arc::new(AtomicU64::new(0));
        let refusals = seen.clone();
        let config = Config::new().memory_bytes(4 << 20);
        config
            .start(Odd(move |bytes: &[u8]| {
                calls += 1;
                if every != 0 && calls % every == 0 && !refused {
                    refused = true;
                    refusals.fetch_add(1, Relaxed);
                    let would_block = every > 2;
                    let kind =
                        if would_block { ErrorKind::WouldBlock } else { ErrorKind::Interrupted };
                    return Err(kind.into());
                }
                refused = false;
                let n = if every == 0 { 1 } else { bytes.len().min(7) };
                to.clone().write(&bytes[..n])
            }))
            .unwrap();
        let a = work(5_000);
        let summary = trace::stop().unwrap();
        assert_eq!(every == 0, seen.load(Relaxed) == 0, "{name}");
        let bytes = out.take();
        assert_eq!(summary.bytes, bytes.len() as u64);
        support::assert_valid(&bytes);
        support::assert_exact(&bytes, &[(support::tid(), a)].into());
        assert_eq!(a.kept, 5_000);
    }
}

#[test]
fn a_writer_that_takes_nothing_or_too_much() {
    let _alone = support::alone();
    let _watch = support::watch("a_writer_that_takes_nothing_or_too_much", 20);
    for (answer, kind) in [(0, ErrorKind::WriteZero), (usize::MAX, ErrorKind::InvalidData)] {
        small().start(Odd(move |_: &[u8]| Ok(answer))).unwrap();
        work(100);
        let Err(StopError::Write { error, summary }) = trace::stop() else { panic!("no error") };
        assert_eq!(error.kind(), kind);
        assert_eq!(summary.bytes, 0);
    }
}

/// A door that a writer waits behind.
#[derive(Default)]
struct Door(Mutex<bool>, Condvar);

impl Door {
    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    fn pass(&self) {
        let open = self.1.wait_while(self.0.lock().unwrap(), |open| !*open);
        drop(open.unwrap());
    }
}

/// A writer that blocks: the threads go on, losses are exact, memory stays within the bound.
#[test]
fn a_writer_that_blocks_for_a_while() {
    let _alone = support::alone();
    let _watch = support::watch("a_writer_that_blocks_for_a_while", 60);
    for length in [Duration::from_secs(1)] {
        let out = Capture::default();
        let (to, mut blocked) = (out.clone(), false);
        let before = support::rss_kib();
        small()
            .start(Odd(move |bytes: &[u8]| {
                if !blocked && to.len() > 10_000 {
                    blocked = true;
                    std::thread::sleep(length);
                }
                to.clone().write(bytes)
            }))
            .unwrap();
        let mut a = Attempted::default();
        let began = Instant::now();
        for n in 0..u64::MAX {
            a.probe(n << 40);
            if n % 256 == 0 && (began.elapsed() > length * 2 || a.lost > 1000) {
                break;
            }
        }
        // Before the trace is decoded, which takes more.
        let grown = support::rss_kib().saturating_sub(before);
        assert!(grown < (4 + 8) << 10, "memory grew by {grown} KiB");
        let summary = trace::stop().unwrap();
        let bytes = out.take();
        println!("{a:?} {summary:?}");
        support::assert_valid(&bytes);
        support::assert_exact(&bytes, &[(support::tid(), a)].into());
        assert_eq!(summary.lost, a.lost);
        assert!(a.kept > 0 && a.lost > 0);
    }
}

/// A writer that does not come back: `stop` does, says how much is left, and the next start works
/// as soon as the writer lets go.
#[test]
fn a_writer_that_blocks_for_ever() {
    let _alone = support::alone();
    let _watch = support::watch("a_writer_that_blocks_for_ever", 60);
    let door = Arc::new(Door::default());
    let (out, behind) = (Capture::default(), door.clone());
    let to = out.clone();
    small()
        .stop_timeout(Duration::from_millis(200))
        .start(Odd(move |bytes: &[u8]| {
            behind.pass();
            to.clone().write(bytes)
        }))
        .unwrap();
    let a = work(30_000);
    let began = Instant::now();
    let Err(StopError::Timeout(summary)) = trace::stop() else { panic!("no timeout") };
    assert!(began.elapsed() >= Duration::from_millis(150));
    assert!(summary.undelivered > 0 && summary.events > 0, "{summary:?}");
    assert!(!trace::is_enabled());
    assert_eq!(trace::emit_probe(0), Outcome::Off);
    assert!(matches!(trace::start(Capture::default()), Err(StartError::AlreadyStarted)));
    assert!(matches!(trace::stop(), Err(StopError::NotStarted)));
    door.open();
    let next = Capture::default();
    while let Err(e) = trace::start(next.clone()) {
        assert!(matches!(e, StartError::AlreadyStarted));
        std::thread::sleep(Duration::from_millis(1));
    }
    // The first writer got everything after all.
    let bytes = out.bytes();
    support::assert_valid(&bytes);
    support::assert_exact(&bytes, &[(support::tid(), a)].into());
    assert_eq!(trace::emit_probe(1), Outcome::Recorded);
    trace::stop().unwrap();
    support::assert_valid(&next.bytes());
}

/// Panics in write, in flush, in drop.
#[test]
fn writers_that_panic() {
    struct Panics {
        place: u32,
        out: Capture,
        dropped: Arc<AtomicBool>,
    }
    impl Write for Panics {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            assert!(self.place != 0 || self.out.len() < 3_000, "no more");
            self.out.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            assert!(self.place != 1, "no flush");
            Ok(())
        }
    }
    impl Drop for Panics {
        fn drop(&mut self) {
            self.dropped.store(true, Relaxed);
            assert!(self.place != 2, "no end");
        }
    }
    let _alone = support::alone();
    let _watch = support::watch("writers_that_panic", 30);
    for place in 0..3u32 {
        let (out, dropped) = (Capture::default(), Arc::new(AtomicBool::new(false)));
        small().start(Panics { place, out: out.clone(), dropped: dropped.clone() }).unwrap();
        work(10_000);
        let Err(StopError::Write { error, .. }) = trace::stop() else { panic!("no error") };
        let text = ["no more", "no flush", "no end"][place as usize];
        assert!(error.to_string().contains(text), "{error}");
        assert!(dropped.load(Relaxed), "the writer was dropped");
        match place {
            0 => support::assert_valid_prefix(&out.bytes()),
            _ => support::assert_valid(&out.bytes()),
        }
        assert!(out.len() >= 3_000);
    }
}

/// A writer that emits, starts, stops and reads: nothing of it is recorded, nothing hangs.
#[test]
fn a_writer_that_calls_back() {
    let _alone = support::alone();
    let _watch = support::watch("a_writer_that_calls_back", 30);
    let out = Capture::default();
    let (to, calls) = (out.clone(), Arc::new(AtomicU64::new(0)));
    let counted = calls.clone();
    small()
        .start(Odd(move |bytes: &[u8]| {
            counted.fetch_add(1, Relaxed);
            assert_eq!(trace::emit_probe(u64::MAX), Outcome::Off);
            let _span = trace::span!("of the writer");
            trace::log!(writer, "{} bytes", bytes.len());
            assert!(matches!(trace::stop(), Err(StopError::WouldDeadlock)));
            assert!(matches!(trace::start(io::sink()), Err(StartError::WouldDeadlock)));
            let read = trace::read_trace();
            assert!(matches!(read, Err(trace::ReadError::WouldDeadlock)));
            to.clone().write(bytes)
        }))
        .unwrap();
    let a = work(10_000);
    trace::stop().unwrap();
    assert!(calls.load(Relaxed) > 3);
    let bytes = out.take();
    support::assert_valid(&bytes);
    let c = support::assert_exact(&bytes, &[(support::tid(), a)].into());
    assert_eq!((c.kind("span"), c.kind("log")), (0, 0));
}

#[test]
fn a_writer_that_asks_for_the_end() {
    let _alone = support::alone();
    let _watch = support::watch("a_writer_that_asks_for_the_end", 30);
    let out = Capture::default();
    let mut to = out.clone();
    small()
        .start(Odd(move |bytes: &[u8]| {
            trace::request_stop();
            to.write(bytes)
        }))
        .unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while trace::is_enabled() {
        assert!(Instant::now() < until, "the request was not heard");
        trace::emit_probe(1);
    }
    trace::stop().unwrap();
    support::assert_valid(&out.bytes());
}

/// Floods from several threads, and a writer that is slower than they.
#[test]
fn floods() {
    let _alone = support::alone();
    let _watch = support::watch("floods", 120);
    let wait = |ms| Overflow::Wait { at_most: Duration::from_millis(ms) };
    // Policy, what the writer sleeps for each batch, events of a thread, whether some are lost.
    let long = 40_000 * support::multiplier();
    for (overflow, pause_us, events, losses) in [
        (Overflow::Count, 4_000, long, true),
        (wait(10_000), 500, long, false),
        (wait(1), 50_000, 100_000, true),
    ] {
        let out = Capture::default();
        let to = out.clone();
        Config::new()
            .memory_bytes(2 << 20)
            .overflow(overflow)
            .start(Odd(move |bytes: &[u8]| {
                std::thread::sleep(Duration::from_micros(pause_us));
                to.clone().write(bytes)
            }))
            .unwrap();
        let began = Instant::now();
        let flood = |me: u64| {
            let mut a = Attempted::default();
            for n in 0..events * 10 {
                let enough = n > events && (!losses || a.lost > 0);
                if a.lost > 50 || enough {
                    break;
                }
                a.probe(me << 32 | n << 8);
            }
            (support::tid(), a)
        };
        let attempted: std::collections::BTreeMap<u32, Attempted> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..4).map(|me| s.spawn(move || flood(me))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        trace::stop().unwrap();
        let bytes = out.take();
        support::assert_valid(&bytes);
        let lost: u64 = attempted.values().map(|a| a.lost).sum();
        println!("{overflow:?}: {} bytes, {lost} lost, {:?}", bytes.len(), began.elapsed());
        // A thread's end is an event too, and may be lost: the accounts of these threads have it.
        let c = support::contents(&bytes);
        assert_eq!(lost > 0, losses, "{overflow:?}");
        for (tid, a) in &attempted {
            let h = c.of_tid(*tid);
            assert_eq!((h.probes, h.sum), (a.kept, a.sum));
            assert_eq!(h.lost() + h.kind("ThreadEnd"), a.lost + 1);
            let cause = match overflow {
                Overflow::Count => trace::encode::schema::Cause::PoolEmpty,
                _ => trace::encode::schema::Cause::WaitTimeout,
            };
            assert_eq!(h.lost(), h.losses.get(&(cause as u64)).copied().unwrap_or(0));
        }
    }
}
