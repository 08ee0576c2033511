//! Clocks that cannot be trusted: a counter that steps back under a thread, a kernel that does not
//! keep its own time by it, or does not say.

mod confined;
mod support;

use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use support::Capture;
use trace::Config;
use trace::Outcome;
use trace::buf::Arena;
use trace::encode::schema::Cause;
use trace::registry::gate;
use trace_decode::Decoder;
use trace_decode::Item;

/// Runs `body` in a process of its own, for at most `seconds`.
fn alone(test: &'static str, seconds: u64, body: impl FnOnce()) {
    if support::scenario().is_none() {
        support::in_child(test, "alone");
        return;
    }
    let _watchdog = support::watch(test, seconds);
    body();
}

const MONOTONIC: u64 = 3;

/// The clock that a trace says it has, whether a note says why, and how long it lasted.
fn clock_of(bytes: &[u8]) -> (u64, bool, u64) {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    decoder.finish();
    while let Some(item) = decoder.next_item().unwrap() {
        if let Item::SessionEnd(s) = item {
            let noted = s.notes().any(|(name, _)| name == b"clock");
            return (s.info().unwrap().clock, noted, s.duration_ns());
        }
    }
    panic!("no session");
}

/// Times of the probes, in their order in the thread's stream.
fn times(bytes: &[u8]) -> Vec<u64> {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    decoder.finish();
    let mut times = Vec::new();
    while let Some(item) = decoder.next_item().unwrap() {
        if let Item::Event(e) = item
            && e.name().is_some_and(|n| n.bytes == b"probe")
        {
            times.push(e.ts_ns);
        }
    }
    times
}

/// Makes the calling thread's last event later than it was, by so many ticks: what it looks like to
/// a thread that goes on where the counter is behind.
fn set_back(ticks: u64) {
    let m = trace::registry::mapping().unwrap();
    let (_, r) =
        trace::registry::live(m).find(|(_, r)| r.tid.load(Relaxed) == support::tid()).unwrap();
    let (_, buffer) = gate::slot_content(r.slot.load(Relaxed)).unwrap();
    m.head(buffer).last_ticks.fetch_add(ticks, Relaxed);
}

/// Events whose clock went back have the time of the event before, and each is counted.
#[test]
fn a_counter_that_steps_back() {
    for fence in [false, true] {
        let _alone = support::alone();
        let _watch = support::watch("a_counter_that_steps_back", 30);
        let out = Capture::default();
        let config = Config::new().generation(Duration::from_secs(3600)).fence_mode(fence);
        config.start(out.clone()).unwrap();
        let rate = trace::clock::Clock::get().rate();
        for n in 0..10 {
            assert_eq!(trace::emit_probe(n), Outcome::Recorded);
        }
        // A minute, so that none of what follows is later by itself.
        set_back(60 * rate);
        for n in 10..30 {
            assert_eq!(trace::emit_probe(n), Outcome::Recorded);
        }
        trace::stop().unwrap();
        let bytes = out.take();
        let c = support::contents(&bytes);
        assert_eq!((c.cause(Cause::ClockBack), c.lost()), (20, 0));
        let times = times(&bytes);
        assert_eq!(times.len(), 30);
        assert!(times.is_sorted(), "{times:?}");
        assert!(times[10..].iter().all(|t| *t == times[10]), "{times:?}");
    }
}

/// Mounts of its own, on a machine whose counter the kernel may distrust.
fn may_lie_about_the_clock() -> bool {
    if cfg!(target_arch = "x86_64") {
        return confined::own_mounts();
    }
    println!("skipped: the counter of this machine is always the kernel's");
    false
}

/// A kernel that keeps time by something else has a reason not to trust the counter.
#[test]
fn the_kernel_keeps_time_by_something_else() {
    alone("the_kernel_keeps_time_by_something_else", 30, || {
        let says = Path::new("/sys/devices/system/clocksource/clocksource0/current_clocksource");
        if !may_lie_about_the_clock() {
            return;
        }
        let other = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let other = other.join(format!("clocksource-{}", std::process::id()));
        std::fs::write(&other, "hpet\n").unwrap();
        confined::put_over(&other, says);
        std::fs::remove_file(&other).unwrap();
        assert_eq!(std::fs::read(says).unwrap(), b"hpet\n");
        the_monotonic_clock_is_used();
    });
}

/// Nor does one trust it that does not say: a container without /sys, or without /proc and /sys.
#[test]
fn the_kernel_does_not_say() {
    const TEST: &str = "the_kernel_does_not_say";
    let Some(scenario) = support::scenario() else {
        support::in_child(TEST, "/sys");
        support::in_child(TEST, "/sys /proc");
        return;
    };
    let _watchdog = support::watch(TEST, 30);
    if may_lie_about_the_clock() {
        scenario.split(' ').for_each(|folder| confined::hide(Path::new(folder)));
        the_monotonic_clock_is_used();
    }
}

fn the_monotonic_clock_is_used() {
    let capture = Capture::default();
    trace::start(capture.clone()).unwrap();
    let times_of_std = (0..100).map(|n| {
        assert_eq!(trace::emit_probe(n), Outcome::Recorded);
        std::time::Instant::now()
    });
    let times_of_std: Vec<_> = times_of_std.collect();
    std::thread::sleep(Duration::from_millis(20));
    trace::stop().unwrap();
    let bytes = capture.take();
    support::assert_valid(&bytes);
    let (clock, noted, duration_ns) = clock_of(&bytes);
    assert_eq!((clock, noted), (MONOTONIC, true));
    assert!((20_000_000..20_000_000_000).contains(&duration_ns), "{duration_ns}");
    // From the first to the last event it is the same time as the program's own.
    let times = times(&bytes);
    let (here, there) = (times_of_std[99] - times_of_std[0], times[99] - times[0]);
    let slack = Duration::from_millis(1000);
    assert!(here.abs_diff(Duration::from_nanos(there)) < slack, "{here:?} {there}");
}
