//! Every event is in the trace or counted as lost, thread by thread, over many sessions under load.
//!
//! `recorded == decoded` value by value, `lost == declared`, at the edges of start and stop too.

mod support;

use std::collections::BTreeMap;
use std::io;
use std::io::Write;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;
use std::thread::JoinHandle;
use std::time::Duration;

use support::Attempted;
use support::Capture;
use trace::Config;
use trace::Outcome;
use trace::Overflow;

/// Threads that emit whenever something is recorded, and tell what became of it.
struct Load {
    threads: Vec<(JoinHandle<()>, Arc<Shared>)>,
    end: Arc<AtomicBool>,
}

#[derive(Default)]
struct Shared {
    asked: AtomicU64,
    answered: AtomicU64,
    account: Mutex<(u32, Attempted)>,
}

impl Load {
    /// `rest`: events after which a thread lets the others run.
    fn new(threads: u64, rest: u64) -> Load {
        let end = Arc::new(AtomicBool::new(false));
        let one = |number: u64| {
            let shared = Arc::new(Shared::default());
            let (s, end) = (shared.clone(), end.clone());
            (std::thread::spawn(move || emit_until(&end, &s, number, rest)), shared)
        };
        Load { threads: (0..threads).map(one).collect(), end }
    }

    /// What the threads attempted since the last call. Nothing is recorded now.
    fn accounts(&self) -> BTreeMap<u32, Attempted> {
        for (_, s) in &self.threads {
            s.asked.fetch_add(1, Release);
        }
        let take = |s: &Shared| {
            while s.answered.load(Acquire) != s.asked.load(Relaxed) {
                std::thread::sleep(Duration::from_micros(20));
            }
            let mut account = s.account.lock().unwrap();
            (account.0, std::mem::take(&mut account.1))
        };
        self.threads.iter().map(|(_, s)| take(s)).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end.store(true, Relaxed);
        for (thread, _) in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn emit_until(end: &AtomicBool, s: &Shared, number: u64, rest: u64) {
    let mut account = Attempted::default();
    let mut i = number << 48;
    while !end.load(Relaxed) {
        let asked = s.asked.load(Acquire);
        if asked != s.answered.load(Relaxed) {
            *s.account.lock().unwrap() = (support::tid(), std::mem::take(&mut account));
            s.answered.store(asked, Release);
        }
        i += 1;
        if account.probe(i) == Outcome::Off {
            std::thread::sleep(Duration::from_micros(30));
        } else if i.is_multiple_of(rest) {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Runs at least `n` sessions one after the other, and checks each, until the load has reached them
/// with so many events: who runs when is the machine's business. Gives sessions, events and losses.
fn cycles(
    load: &Load,
    n: u64,
    least: u64,
    each: impl Fn(u64) -> (Config, Duration),
) -> (u64, u64, u64) {
    let each = |cycle| {
        let (config, length) = each(cycle);
        (config, length, Duration::ZERO)
    };
    cycles_to(load, n, |events, _| events > least, each)
}

/// A writer that sleeps before each batch.
struct Slow(Capture, Duration);

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.1.is_zero() {
            std::thread::sleep(self.1);
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The same until events and losses are enough, with a writer that sleeps so long (the last of what
/// `each` gives) before each batch.
fn cycles_to(
    load: &Load,
    n: u64,
    enough: impl Fn(u64, u64) -> bool,
    each: impl Fn(u64) -> (Config, Duration, Duration),
) -> (u64, u64, u64) {
    let out = Capture::default();
    let (mut cycle, mut events, mut lost, mut rss) = (0, 0, 0, 0);
    while cycle < n || !enough(events, lost) {
        let (config, length, slow) = each(cycle);
        config.start(Slow(out.clone(), slow)).unwrap();
        std::thread::sleep(length);
        let summary = trace::stop().unwrap();
        let attempted = load.accounts();
        let bytes = out.take();
        let c = support::assert_exact(&bytes, &attempted);
        if cycle % 10 == 0 {
            support::assert_valid(&bytes);
        }
        let end = c.end.expect("an end mark");
        assert_eq!((summary.events, summary.lost), (c.events, c.lost()), "cycle {cycle}");
        assert_eq!((end.events, end.lost), (c.events, c.lost()));
        assert_eq!((summary.bytes, summary.undelivered), (bytes.len() as u64, 0));
        events += c.events;
        lost += c.lost();
        if cycle == 100 {
            rss = support::rss_kib();
        }
        cycle += 1;
    }
    if n > 500 {
        let grown = support::rss_kib().saturating_sub(rss);
        assert!(grown < 6 << 10, "memory grew by {grown} KiB over {cycle} sessions");
    }
    (cycle, events, lost)
}

#[test]
fn a_thousand_sessions_under_load() {
    let _alone = support::alone();
    let _watch = support::watch("a_thousand_sessions_under_load", 120);
    let load = Load::new(8, 50);
    let n = 1000 * support::multiplier();
    let (sessions, events, lost) = cycles(&load, n, 20 * n, |cycle| {
        let config = Config::new().memory_bytes(16 << 20);
        (config, Duration::from_micros(cycle % 7 * 100))
    });
    println!("{sessions} sessions, {events} events, {lost} lost");
}

#[test]
fn fence_mode_accounts_as_well() {
    let _alone = support::alone();
    let _watch = support::watch("fence_mode_accounts_as_well", 60);
    let load = Load::new(8, 50);
    let n = 100 * support::multiplier();
    cycles(&load, n, 20 * n, |cycle| {
        let config = Config::new().memory_bytes(16 << 20).fence_mode(true);
        let config = config.generation(Duration::from_millis(1 + cycle % 3));
        (config, Duration::from_millis(cycle % 5))
    });
}

#[test]
fn generations_of_a_millisecond() {
    let _alone = support::alone();
    let _watch = support::watch("generations_of_a_millisecond", 60);
    let load = Load::new(8, 500);
    let n = 20 * support::multiplier();
    cycles(&load, n, 100 * n, |cycle| {
        let config = Config::new().memory_bytes(32 << 20);
        (config.generation(Duration::from_millis(1 + cycle % 2)), Duration::from_millis(60))
    });
}

#[test]
fn two_mebibytes_of_memory() {
    let _alone = support::alone();
    let _watch = support::watch("two_mebibytes_of_memory", 60);
    let load = Load::new(8, 100_000);
    let n = 8 * support::multiplier();
    for overflow in [Overflow::Count, Overflow::Wait { at_most: Duration::from_millis(50) }] {
        // A writer that takes its time. Where threads are slow, sessions get longer and it takes
        // more of it, until memory was short.
        let enough = |events, lost| events > 100 * n && (overflow != Overflow::Count || lost > 0);
        let (sessions, events, lost) = cycles_to(&load, n, enough, |cycle| {
            let config = Config::new().memory_bytes(2 << 20).overflow(overflow);
            let more = cycle.saturating_sub(n - 1).min(8);
            let length = Duration::from_millis((5 + cycle.min(n)) << more);
            (
                config.generation(Duration::from_millis(2)),
                length,
                Duration::from_millis(3 + 3 * more),
            )
        });
        println!("{overflow:?}: {sessions} sessions, {events} events, {lost} lost");
    }
}
