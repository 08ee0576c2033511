//! What does it cost to read an event? In multiples of a bare counter read, which is printed first;
//! one question per group:
//!
//! - `rdtsc`: the unit, back to back.
//! - `scan`: one core, checked, unmerged: one kind; eight kinds at random.
//! - `merge`: typed and in the order of time over eight threads: bursts of 16; singly interleaved.

use std::hint::black_box;

use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;
use trace::encode::field::ty;
use trace::encode::schema;
use trace::encode::schema::Class;
use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Scan;
use trace_decode::ScanItem;
use trace_testkit::Field;
use trace_testkit::TraceBuilder;

/// Events of each input: 64 batches or so, more than the caches next to the core hold.
const EVENTS: u64 = 1 << 20;

/// A batch has about as many events of a few bytes.
const BATCH_EVENTS: u64 = 10_000;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    /// A number of one to three bytes.
    fn mixed(&mut self) -> u64 {
        let bits = 1 + self.below(20);
        self.below(1 << bits)
    }
}

fn begin() -> TraceBuilder {
    let mut t = TraceBuilder::new(9);
    t.session(0, 1_000_000_000);
    t.control(|c| {
        c.clock(0, 0, 0);
    });
    t.definitions(|d| {
        d.string(1, "site");
        d.define(64, Class::Instant, 1, &[("n", ty::U64)]);
        d.define(65, Class::Span, 1, &[]);
        d.define(66, Class::Span, 1, &[("n", ty::U64)]);
        d.define(67, Class::Instant, 1, &[("a", ty::U64), ("b", ty::I64)]);
        d.define(68, Class::Instant, 1, &[("a", ty::U64), ("b", ty::U64), ("c", ty::BOOL)]);
        d.define(69, Class::Instant, 1, &[]);
        for thread in 1..=8 {
            d.thread(thread, 100 + thread, "bench");
        }
    });
    t
}

/// Writes one event, of kind 0 to 7.
fn event(b: &mut trace_testkit::Body, kind: u64, delta: u64, r: &mut Random) {
    match kind {
        0 => b.site(64, delta, &[Field::U64(r.mixed())]),
        1 => b.site(65, delta, &[]),
        2 => b.site(66, delta, &[Field::U64(r.mixed())]),
        3 => b.site(67, delta, &[Field::U64(r.mixed()), Field::I64(-5)]),
        4 => b.site(68, delta, &[Field::U64(r.mixed()), Field::U64(1), Field::Bool(true)]),
        5 => b.site(69, delta, &[]),
        6 => b.timed(delta, schema::SpanEnd::put),
        _ => b.timed(delta, |w, d| schema::TaskSwitch::put(w, d, 3)),
    };
}

/// One thread; kinds 0 to `kinds`, at random.
fn one_thread(kinds: u64) -> Vec<u8> {
    let mut t = begin();
    let mut r = Random(88_172_645_463_325_252);
    let (mut ticks, mut left) = (0, EVENTS);
    while left > 0 {
        let n = left.min(BATCH_EVENTS);
        let first = ticks;
        t.events(1, first, |b| {
            for _ in 0..n {
                let (kind, delta) = (r.below(kinds), r.mixed());
                event(b, kind, delta, &mut r);
            }
            ticks += b.ticks;
        });
        left -= n;
    }
    t.end(ticks);
    t.bytes
}

/// Eight threads that take turns of `burst` events; a generation of about 32 batches.
fn eight_threads(burst: u64) -> Vec<u8> {
    let mut t = begin();
    let mut r = Random(88_172_645_463_325_252);
    let (mut now, mut generation) = (1, 1);
    while t.events < EVENTS {
        let mut events: [Vec<u64>; 8] = Default::default();
        for _ in 0..4 * 8 * BATCH_EVENTS / burst {
            let thread = r.below(8) as usize;
            for _ in 0..burst {
                now += 1 + r.mixed() / 64;
                events[thread].push(now);
            }
        }
        for (thread, times) in events.iter().enumerate() {
            for times in times.chunks(BATCH_EVENTS as usize) {
                let mut last = times[0];
                t.events(thread as u32 + 1, last, |b| {
                    for time in times {
                        let kind = r.below(8);
                        event(b, kind, time - last, &mut r);
                        last = *time;
                    }
                });
            }
        }
        now += 1;
        t.control(|c| {
            c.clock(now, now * 2, 0).generation_end(generation, now, &[]);
        });
        generation += 1;
    }
    t.end(now);
    t.bytes
}

/// Pushes in pieces as a file is read.
fn scan(bytes: &[u8]) -> (u64, u64) {
    let (mut scan, mut events, mut kinds) = (Scan::new(), 0, 0);
    for piece in bytes.chunks(1 << 18).map(Some).chain([None]) {
        match piece {
            Some(piece) => scan.push(piece),
            None => scan.finish(),
        }
        while let Some(item) = scan.next_item().expect("the input is a trace") {
            if let ScanItem::Batch(batch) = item {
                events += if batch.is_events() { batch.events } else { 0 };
                kinds += batch.counts.len() as u64;
            }
        }
    }
    (events, kinds)
}

fn merge(bytes: &[u8]) -> (u64, u64) {
    let (mut decoder, mut events, mut sum) = (Decoder::new(), 0, 0u64);
    for piece in bytes.chunks(1 << 18).map(Some).chain([None]) {
        match piece {
            Some(piece) => decoder.push(piece),
            None => decoder.finish(),
        }
        while let Some(item) = decoder.next_item().expect("the input is a trace") {
            if let Item::Event(e) = item {
                events += 1;
                sum = sum.wrapping_add(e.ts_ns ^ u64::from(e.depth));
                black_box(&e.event());
            }
        }
    }
    (events, sum)
}

/// The machine's counter.
#[cfg(target_arch = "x86_64")]
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and no bench runs where it is forbidden.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Stands in where the counter is another: the unit is a read of the clock then.
#[cfg(not(target_arch = "x86_64"))]
fn counter() -> std::time::Instant {
    std::time::Instant::now()
}

fn unit(c: &mut Criterion) {
    let mut g = c.benchmark_group("rdtsc");
    g.throughput(Throughput::Elements(1000));
    g.bench_function("1000", |b| {
        b.iter(|| {
            for _ in 0..1000 {
                black_box(counter());
            }
        })
    });
    g.finish();
}

fn scans(c: &mut Criterion) {
    let mut g = c.benchmark_group("scan");
    for (name, kinds) in [("one_kind", 1), ("eight_kinds", 8)] {
        let bytes = one_thread(kinds);
        let (events, found) = scan(&bytes);
        assert!(events == EVENTS && found > kinds, "{events} events, {found} kinds");
        g.throughput(Throughput::Elements(events));
        g.bench_function(name, |b| b.iter(|| scan(black_box(&bytes))));
    }
    g.finish();
}

fn merges(c: &mut Criterion) {
    let mut g = c.benchmark_group("merge");
    for (name, burst) in [("bursts_of_16", 16), ("singly", 1)] {
        let bytes = eight_threads(burst);
        let (events, _) = merge(&bytes);
        assert!(events >= EVENTS);
        g.throughput(Throughput::Elements(events));
        g.bench_function(name, |b| b.iter(|| merge(black_box(&bytes))));
    }
    g.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = unit, scans, merges, unit
}
criterion_main!(benches);
