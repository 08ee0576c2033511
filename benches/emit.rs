//! What does one event cost, beside a bare read of the cycle counter in the same run?

use std::hint::black_box;
use std::io::Write;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use criterion::Criterion;
use criterion::criterion_group;
use criterion::criterion_main;
use trace::Overflow;

/// A writer that takes everything at once: the cost of the disk is another question.
struct Sink;

impl Write for Sink {
    fn write(&mut self, b: &[u8]) -> std::io::Result<usize> {
        Ok(b.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const EVENTS: u64 = 100_000;

/// Events of a burst. The exchange of a buffer, one in 16,000 events, is the sustained bench's.
const BURST: u64 = 2_000;

/// Measures `f` outside a session.
fn off(c: &mut Criterion, name: &str, f: fn(u64)) {
    c.bench_function(name, |b| b.iter_custom(|rounds| timed(rounds, f)));
}

/// Measures inside a session.
fn on(c: &mut Criterion, name: &str, config: trace::Config, measure: impl Fn(u64) -> Duration) {
    config.start(Sink).unwrap();
    c.bench_function(name, |b| b.iter_custom(&measure));
    let s = trace::stop().unwrap();
    assert!(s.events > EVENTS, "the session recorded what was measured");
}

/// Time of `rounds` events: the median of many bursts, each shorter than a time slice, so that what
/// else runs on the machine is not counted.
fn timed(rounds: u64, f: fn(u64)) -> Duration {
    let bursts = (rounds / BURST).clamp(11, 2_001);
    let mut times: Vec<u128> = (0..bursts)
        .map(|_| {
            let began = Instant::now();
            f(BURST);
            began.elapsed().as_nanos()
        })
        .collect();
    times.sort_unstable();
    let median = times[times.len() / 2] as f64;
    Duration::from_nanos((median * rounds as f64 / BURST as f64) as u64)
}

#[inline(never)]
fn rdtsc(n: u64) {
    for _ in 0..n {
        black_box(trace::clock::raw());
    }
}

#[inline(never)]
fn empty(n: u64) {
    for i in 0..n {
        black_box(i);
    }
}

#[inline(never)]
fn instant(n: u64) {
    let m = black_box(0x3f);
    for i in 0..n {
        trace::instant!("bench", n = i & m);
    }
}

/// Arguments of one to three bytes, and gaps of mixed length, at random.
#[inline(never)]
fn instant_mixed(n: u64) {
    let mut x = black_box(0x9e37_79b9_7f4a_7c15u64);
    for _ in 0..n {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        trace::instant!("bench", n = x >> 43 >> (x & 15));
    }
}

/// The random numbers alone.
#[inline(never)]
fn mixed_alone(n: u64) {
    let mut x = black_box(0x9e37_79b9_7f4a_7c15u64);
    for _ in 0..n {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        black_box(x >> 43 >> (x & 15));
    }
}

#[inline(never)]
fn span(n: u64) {
    for _ in 0..n {
        let _span = trace::span!("bench");
    }
}

#[inline(never)]
fn log(n: u64) {
    for i in 0..n {
        trace::log!(bench, "number {}", i);
    }
}

/// Two callers in turn, so that no event has the stack of the one before it.
#[inline(never)]
fn two_callers(n: u64) {
    for i in 0..n / 2 {
        one_caller(i);
        other_caller(i);
    }
}

#[inline(never)]
fn one_caller(i: u64) {
    trace::instant!("bench", n = i & 0x3f);
    black_box(i);
}

#[inline(never)]
fn other_caller(i: u64) {
    trace::instant!("bench", n = i & 0x3f);
    black_box(i);
}

/// Calls `f` from `frames` frames further down.
#[inline(never)]
fn deeper<R>(frames: u32, f: &dyn Fn() -> R) -> R {
    let r = if frames == 0 { f() } else { deeper(black_box(frames - 1), f) };
    black_box(frames);
    r
}

/// Measures `f` at a depth of sixteen frames and more; `stack_depth(16)` cuts the rest.
fn at_depth(rounds: u64, f: fn(u64)) -> Duration {
    deeper(16, &|| timed(rounds, f))
}

/// Measures `f` while another thread does the same.
fn beside_another(rounds: u64, f: fn(u64)) -> Duration {
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !done.load(Relaxed) {
                f(BURST);
            }
        });
        let time = timed(rounds, f);
        done.store(true, Relaxed);
        time
    })
}

fn benches(c: &mut Criterion) {
    off(c, "rdtsc", rdtsc);
    off(c, "off/empty loop", empty);
    off(c, "off/instant", instant);
    off(c, "off/span", span);
    off(c, "off/log", log);
    let wait = Overflow::Wait { at_most: Duration::from_secs(5) };
    let config = || trace::Config::new().memory_bytes(32 << 20).overflow(wait);
    on(c, "on/instant", config(), |n| timed(n, instant));
    off(c, "off/mixed numbers", mixed_alone);
    on(c, "on/instant mixed", config(), |n| timed(n, instant_mixed));
    on(c, "on/span", config(), |n| timed(n, span));
    on(c, "on/span two threads", config(), |n| beside_another(n, span));
    let stacks = config().stacks([trace::StackKind::Instant]).stack_depth(16);
    on(c, "on/instant with 16 frames", stacks, |n| at_depth(n, instant));
    let stacks = config().stacks([trace::StackKind::Instant]).stack_depth(16);
    on(c, "on/two stacks of 16 frames in turn", stacks, |n| at_depth(n, two_callers));
    on(c, "on/log", config().stacks([]), |n| timed(n, log));
    off(c, "rdtsc again", rdtsc);
}

criterion_group! {
    name = emit;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30);
    targets = benches
}
criterion_main!(emit);
