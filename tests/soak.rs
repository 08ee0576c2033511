//! A soak: random starts, stops, reads, events of every sort, forks, signals, threads that come and
//! go, writers that fail, against a model that accounts for every event.
//!
//! Each round derives from one seed, which is printed when the round fails, with the command that
//! repeats it: the same things in the same order on each thread, as far as scheduling allows.
//! `ci/soak [SECONDS] [SEED]` runs it for longer; here it takes some seconds.
//!
//! 1. The model is held against the traces event by event: `soak/check.rs`.
//! 2. A round that takes too long is a deadlock: every thread's state is printed.

mod signals_support;
mod support;

mod soak {
    pub mod births;
    pub mod check;
    pub mod children;
    pub mod ledger;
    pub mod plugin;
    pub mod random;
    pub mod round;
    pub mod signals;
    pub mod watch;
    pub mod work;
    pub mod writers;

    use std::path::PathBuf;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::Relaxed;
    use std::time::Duration;
    use std::time::Instant;

    /// The seed of the round that runs.
    pub static SEED: AtomicU64 = AtomicU64::new(0);

    /// The command that repeats a round.
    pub fn command() -> String {
        format!("ci/soak 0 {:#x}", SEED.load(Relaxed))
    }

    /// Puts traces where a person can look at them.
    pub fn keep(traces: &[Vec<u8>], what: &str) -> PathBuf {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../soak");
        std::fs::create_dir_all(&folder).expect("a folder for what failed");
        let seed = SEED.load(Relaxed);
        for (i, bytes) in traces.iter().enumerate() {
            let path = folder.join(format!("{seed:016x}-{what}-{i}.trace"));
            std::fs::write(path, bytes).expect("a folder for what failed");
        }
        folder
    }

    /// Ends the process: something cannot be right.
    pub fn fail(what: &str) -> ! {
        crate::support::tell(&format!("soak: {what}\nagain: {}", command()));
        std::process::abort();
    }

    /// Names the calling thread, for the kernel.
    pub fn set_thread_name(name: &str) {
        let mut bytes = [0u8; 16];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: the name ends in a zero.
        unsafe { libc::prctl(libc::PR_SET_NAME, bytes.as_ptr()) };
    }

    /// When the session of a trace began, in ticks.
    pub fn started_at(bytes: &[u8]) -> u64 {
        let mut decoder = trace_decode::Decoder::new();
        decoder.push(bytes);
        decoder.finish();
        while let Ok(Some(item)) = decoder.next_item() {
            if let trace_decode::Item::SessionEnd(s) = item {
                return s.info().map_or(0, |i| i.start);
            }
        }
        0
    }

    /// Waits until the threads of a round are gone, to their very ends.
    pub fn threads_end(seed: u64) {
        let until = Instant::now() + Duration::from_secs(20);
        while watch::others() != 0 {
            if Instant::now() > until {
                watch::print_threads();
                fail(&format!("threads of the round {seed:#x} do not end"));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

use std::alloc::GlobalAlloc;
use std::alloc::Layout;
use std::alloc::System;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use soak::check::Account;
use trace::encode::schema::Cause;

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|t| !t.is_empty())?;
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    Some(parsed.unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Counts the bytes that Rust code holds. What the C library keeps of threads that vanish, or of
/// libraries that come and go, is not among them.
struct Counting;

static IN_USE: AtomicI64 = AtomicI64::new(0);

// SAFETY: the system's allocator, with a sum beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size() as i64, Relaxed);
        // SAFETY: the caller's duty is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size() as i64, Relaxed);
        // SAFETY: the caller's duty is the same.
        unsafe { System.dealloc(p, layout) }
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        IN_USE.fetch_add(size as i64 - layout.size() as i64, Relaxed);
        // SAFETY: the caller's duty is the same.
        unsafe { System.realloc(p, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Memory in KiB: resident, beside what the recorder has reserved; and what Rust code holds.
fn memory() -> [u64; 2] {
    // SAFETY: gives free memory back to the system.
    unsafe { libc::malloc_trim(0) };
    let m = trace::registry::mapping().expect("a session was started");
    let own = u64::from(m.committed()) * 64 + u64::from(m.made()) * 5;
    let in_use = IN_USE.load(Relaxed).max(0) as u64 / 1024;
    [support::rss_kib().saturating_sub(own), in_use]
}

/// Growth after the warm-up that is a leak: of resident memory, which the allocator's holes make
/// larger, and of what is held.
const GROWTH_KIB: [u64; 2] = [64 << 10, 64];

#[test]
fn soak_for_a_while() {
    let _alone = support::alone();
    let seconds = number("EXECTRACE_SOAK_SECONDS").unwrap_or(4);
    let first = number("EXECTRACE_SOAK_SEED").unwrap_or(1);
    // Holes in the heaps of many threads would look like a leak.
    // SAFETY: a number for a number, before the heaps are made.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
    soak::random::prepare();
    soak::plugin::prepare();
    soak::signals::install();
    let watch = soak::watch::start();
    let (began, mut rounds, mut sessions) = (Instant::now(), 0u64, 0);
    let mut account = Account::default();
    let (mut seed, mut memories) = (first, Vec::new());
    loop {
        soak::SEED.store(seed, Relaxed);
        watch.beat();
        let done = soak::round::run(seed);
        if let Some(wrong) = &done.wrong {
            let folder = soak::keep(&done.traces, "session");
            panic!(
                "round {rounds}, seed {seed:#x}: {wrong}\n{:?}\ntraces in {}\nagain: {}",
                done.plan,
                folder.display(),
                soak::command()
            );
        }
        rounds += 1;
        sessions += done.sessions;
        account.add(&done.account);
        drop(done);
        memories.push(memory());
        if began.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
        seed = soak::random::mix(seed.wrapping_add(1));
    }
    drop(watch);
    soak::plugin::clean_up();
    report(first, rounds, sessions, &account);
    check_memory(&memories, seconds);
    assert_eq!(soak::children::BAD.load(Relaxed), 0, "children of handlers went wrong");
    assert_eq!(soak::signals::ERRNO_CHANGED.load(Relaxed), 0, "handlers found another errno");
    assert!(account.decoded > 0, "nothing was recorded");
}

fn report(first: u64, rounds: u64, sessions: u64, a: &Account) {
    let lost: Vec<String> = Cause::ALL
        .iter()
        .filter(|c| a.lost.of(**c) != 0)
        .map(|c| format!("{}:{}", c.name(), a.lost.of(*c)))
        .collect();
    println!(
        "seed={first:#x} rounds={rounds} sessions={sessions} attempted={} off={} decoded={} \
         undelivered={} lost={{{}}} forks={} signals={} exact=yes",
        a.attempted,
        a.off,
        a.decoded,
        a.undelivered,
        lost.join(","),
        soak::children::FORKS.load(Relaxed),
        soak::signals::TAKEN.load(Relaxed),
    );
}

/// The least memory of the first rounds after the warm-up, and of the last ones.
fn check_memory(all: &[[u64; 2]], seconds: u64) {
    let (warm, rest) = all.split_at(all.len() / 5);
    let (early, late) = rest.split_at(rest.len() / 2);
    let least = |of: &[[u64; 2]], i: usize| of.iter().map(|m| m[i]).min().unwrap_or(0);
    for (i, what) in ["resident", "held"].into_iter().enumerate() {
        let [a, b, c] = [warm, early, late].map(|of| least(of, i));
        println!("memory {what}: {a} KiB in warming up, {b} then, {c} at last");
        let grown = c.saturating_sub(b);
        let leaks = all.len() > 50 && grown > GROWTH_KIB[i];
        assert!(!leaks, "memory {what} grew by {grown} KiB in {seconds} s");
    }
}

/// A bound that changes from session to session gives back what the one before was given.
#[test]
fn bounds_that_change_leave_nothing() {
    let _alone = support::alone();
    let held = || IN_USE.load(Relaxed);
    let session = |i: u64| {
        trace::Config::new().memory_bytes((2 + i % 2) << 20).start(std::io::sink()).unwrap();
        trace::emit_probe(i);
        trace::stop().unwrap();
    };
    (0..10).for_each(session);
    let before = held();
    (0..100).for_each(session);
    let grown = held() - before;
    assert!(grown < 10 << 10, "{grown} bytes over 100 sessions");
}
