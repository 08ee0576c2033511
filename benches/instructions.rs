//! How many instructions does one event take? Run under callgrind by `ci/instructions`, which
//! counts what stands in the functions whose names begin with `count_`.

use std::hint::black_box;
use std::io::Write;

/// Takes everything.
struct Sink;

impl Write for Sink {
    fn write(&mut self, b: &[u8]) -> std::io::Result<usize> {
        Ok(b.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Few enough for one buffer, so that no exchange is counted.
const EVENTS: u64 = 1_000;

#[inline(never)]
fn count_empty(n: u64) {
    for i in 0..n {
        black_box(i);
    }
}

#[inline(never)]
fn count_instant(n: u64) {
    for i in 0..n {
        trace::instant!("count", n = black_box(i) & 0x3f);
    }
}

#[inline(never)]
fn count_span(n: u64) {
    for i in 0..n {
        black_box(i);
        let _span = trace::span!("count");
    }
}

#[inline(never)]
fn count_log(n: u64) {
    for i in 0..n {
        trace::log!(count, "number {}", black_box(i));
    }
}

#[inline(never)]
fn count_stack(n: u64) {
    for i in 0..n {
        trace::instant!("count stack", n = black_box(i) & 0x3f);
    }
}

/// Calls `f` from sixteen frames further down.
#[inline(never)]
fn deeper(frames: u32, f: fn(u64)) {
    match frames {
        0 => f(EVENTS),
        _ => deeper(black_box(frames - 1), f),
    }
    black_box(frames);
}

fn main() {
    let which = std::env::args().nth(1).unwrap_or_default();
    let f: fn(u64) = match which.as_str() {
        "instant" | "off-instant" => count_instant,
        "span" | "off-span" => count_span,
        "log" | "off-log" => count_log,
        "stack" => count_stack,
        // `cargo test` and `cargo bench` pass other words.
        _ => count_empty,
    };
    if which.starts_with("off-") || which == "empty" {
        return f(EVENTS);
    }
    let config = trace::Config::new().memory_bytes(4 << 20);
    let config = match which.as_str() {
        "stack" => config.stacks([trace::StackKind::Instant]).stack_depth(16),
        _ => config.stacks([]),
    };
    config.start(Sink).unwrap();
    // The first events register the thread and define the site; twice the same number is run, so
    // that `ci/instructions` can take the difference.
    deeper(16, f);
    if std::env::var_os("TWICE").is_some() {
        deeper(16, f);
    }
    let summary = trace::stop().unwrap();
    assert_eq!(summary.lost, 0);
}
