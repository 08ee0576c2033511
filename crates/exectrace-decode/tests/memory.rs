//! The memory law: for n bytes of input, of whatever content, at most 64 n + 1 MiB; a scan of any
//! number of events stays within a few hundred KiB.

use std::alloc::GlobalAlloc;
use std::alloc::Layout;
use std::alloc::System;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use trace::encode::field::ty;
use trace::encode::schema;
use trace::encode::schema::Class;
use trace::encode::wire::BATCH_BYTES_MAX;
use trace::encode::wire::Header;
use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Scan;
use trace_decode::ScanItem;
use trace_decode::Validate;
use trace_decode::raw::Dump;
use trace_testkit::Body;
use trace_testkit::Field;
use trace_testkit::TraceBuilder;
use trace_testkit::sealed;

/// Counts what is allocated now, and the most that ever was.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn add(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: every call goes to the system allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's duties are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's duties are the same.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Both stand for a moment, as far as anyone can tell.
        add(new_size);
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's duties are the same.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One measurement at a time.
static TURN: Mutex<()> = Mutex::new(());

/// The most that `work` has allocated at once.
fn most(work: impl FnOnce()) -> usize {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    work();
    MOST.load(Ordering::Relaxed) - before
}

/// Ends a closure that gives nothing.
fn ok<T>(_: &mut T) {}

fn decode(bytes: &[u8]) -> u64 {
    let (mut decoder, mut items) = (Decoder::new(), 0);
    for piece in bytes.chunks(1 << 16).map(Some).chain([None]) {
        match piece {
            Some(piece) => decoder.push(piece),
            None => decoder.finish(),
        }
        while let Some(item) = decoder.next_item().expect("it is a trace") {
            if let Item::Event(e) = item {
                items += e.fields().count() as u64;
            }
            items += 1;
        }
    }
    items
}

fn validate(bytes: &[u8]) -> u64 {
    let mut v = Validate::new();
    bytes.chunks(1 << 16).for_each(|piece| v.push(piece).expect("it is a trace"));
    v.finish().expect("it is a trace");
    v.events() + 1
}

fn scan(bytes: &[u8]) -> u64 {
    let mut options = trace_decode::scan::Options::default();
    options.keep_stacks = true;
    let (mut scan, mut items) = (Scan::with(options), 0);
    for piece in bytes.chunks(1 << 16).map(Some).chain([None]) {
        match piece {
            Some(piece) => scan.push(piece),
            None => scan.finish(),
        }
        while scan.next_item().expect("it is a trace").is_some() {
            items += 1;
        }
    }
    items
}

fn dump(bytes: &[u8]) -> u64 {
    let (mut dump, mut lines) = (Dump::new(), 0);
    for piece in bytes.chunks(1 << 16).map(Some).chain([None]) {
        match piece {
            Some(piece) => dump.push(piece),
            None => dump.finish(),
        }
        while dump.next_line().expect("it is a trace").is_some() {
            lines += 1;
        }
    }
    lines
}

/// A reader, and how it is called.
type Reading = (&'static str, fn(&[u8]) -> u64);

const READERS: [Reading; 4] =
    [("decode", decode), ("validate", validate), ("scan", scan), ("dump", dump)];

#[track_caller]
fn law(bytes: &[u8]) {
    law_with(bytes, 1 << 20);
}

/// The law, with another number of bytes that are free.
#[track_caller]
fn law_with(bytes: &[u8], free: usize) {
    let bound = 64 * bytes.len() + free;
    for (name, read) in READERS {
        let mut items = 0;
        let used = most(|| items = read(bytes));
        assert!(items > 0);
        assert!(used <= bound, "{name}: {used} bytes for {} of input", bytes.len());
    }
}

/// Fills definitions batches with as many of `one` as fit; about 256 KiB.
fn filled(mut one: impl FnMut(&mut Body, u64)) -> Vec<u8> {
    let mut t = TraceBuilder::new(1);
    let mut id = 1;
    while t.bytes.len() < 1 << 18 {
        t.definitions(|d| {
            while d.bytes.len() < BATCH_BYTES_MAX - 1000 {
                one(d, id);
                id += 1;
            }
        });
    }
    t.bytes
}

#[test]
fn tables_of_the_smallest_definitions() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    law(&filled(|d, id| ok(d.string(id, ""))));
    law(&filled(|d, id| ok(d.stack(id, &[]))));
    law(&filled(|d, id| ok(d.stack(id, &[0; 100]))));
    let site = |d: &mut Body, kind, fields: &[(&str, u64)]| {
        d.put(|w| schema::Site::put(w, kind, 1, 0, 0, 0, 0, 0, fields));
    };
    law(&filled(|d, id| site(d, 63 + id, &[])));
    law(&filled(|d, id| site(d, id * 1000, &[])));
    law(&filled(|d, id| site(d, 63 + id, &[("", ty::U64), ("", ty::TEXT), ("", ty::F64)])));
    law(&filled(|d, id| ok(d.thread(id, 0, ""))));
    law(&filled(|d, id| {
        let none = trace::encode::field::Text { bytes: &[], cut_from: None };
        d.put(|w| schema::Module::put(w, id, 0, 0, none, none, 0, 0));
    }));
    law(&filled(|d, id| ok(d.put(|w| schema::Loss::put(w, id, 1, 1)))));
    law(&filled(|d, tid| {
        d.put(|w| schema::ThreadState::put(w, 0, tid, "".into(), 0, 0, 0, &[]));
    }));
    law(&filled(|d, _| ok(d.put(|w| schema::Note::put(w, "".into(), "".into())))));
    law(&filled(|d, id| ok(d.clock(id, id, 0))));
}

#[test]
fn many_small_batches() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    // A thread each; an epoch each; a session each.
    let mut t = TraceBuilder::new(1);
    t.definitions(|d| ok(d.define(64, Class::Span, 0, &[])));
    for thread in 1..2_000 {
        t.events(thread, u64::from(thread), |e| ok(e.site(64, 0, &[])));
    }
    law(&t.bytes);
    let mut t = TraceBuilder::new(1);
    for epoch in 1..2_000 {
        t.next.epoch = epoch;
        t.definitions(|d| ok(d.define(64, Class::Span, 0, &[]).string(1, "")));
    }
    law(&t.bytes);
    let mut t = TraceBuilder::new(1);
    for session in 1..300 {
        t.next.session = session;
        t.session(0, 0);
    }
    law(&t.bytes);
}

/// Values that claim to be large where a few bytes stand: none is believed. The free bytes are far
/// below the smallest of these claims, so that no reader makes room for one.
#[test]
fn declared_sizes() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let varint = |mut v: u64| {
        let mut out = Vec::new();
        while v >= 0x80 {
            out.push(v as u8 | 0x80);
            v >>= 7;
        }
        out.push(v as u8);
        out
    };
    let mut checked = 0;
    for claim in [1 << 20, 1 << 32, 1 << 40, (1 << 62) - 1, 1 << 62, 1 << 63, u64::MAX] {
        for few in [0, 3] {
            let claim = [&varint(claim)[..], &vec![2; few]].concat();
            let after = |head: &[u8]| [head, &claim].concat();
            // Schema, String, Stack, Site, Thread, Module, ThreadName, GenerationEnd, ThreadState,
            // Note, each up to its first text or list.
            for raw in [
                after(&[2, 60]),
                after(&[3, 1]),
                after(&[4, 1, 0]),
                after(&[5, 64, 1, 0, 0, 0, 0, 0]),
                after(&[6, 1, 1, 0]),
                after(&[7, 0, 0, 0]),
                after(&[8, 1, 1]),
                after(&[10, 1, 1]),
                after(&[12, 1, 1]),
                after(&[15]),
            ] {
                let mut t = TraceBuilder::new(1);
                t.definitions(|d| ok(d.raw(&raw))).control(|c| ok(c.raw(&raw)));
                law_with(&t.bytes, 64 << 10);
                checked += 1;
            }
            let mut t = TraceBuilder::new(1);
            t.definitions(|d| {
                d.define(64, Class::Log, 0, &[("text", ty::TEXT)]);
                d.define(65, Class::Instant, 0, &[("l", ty::LIST)]);
                d.define(66, Class::Instant, 0, &[("f", ty::FIELDS), ("b", ty::BYTES)]);
            });
            // The sites above, and State, whose list stands second.
            for raw in [after(&[64]), after(&[65]), after(&[66]), after(&[66, 0]), after(&[32, 0])]
            {
                t.events(1, 0, |e| ok(e.raw(&raw)));
                checked += 1;
            }
            law_with(&t.bytes, 64 << 10);
        }
    }
    assert_eq!(checked, 7 * 2 * 15);
}

/// Batches without a body, each of which names something new: nothing is cheaper to claim.
#[test]
fn headers_alone() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let made = |each: fn(&mut TraceBuilder, u32)| {
        let mut t = TraceBuilder::new(1);
        (1..4_000).for_each(|n| each(&mut t, n));
        t.bytes
    };
    let empty = Body::default();
    law(&made(|t, n| ok(t.events(n, 0, |_| {}))));
    law(&made(|t, n| {
        t.next.epoch = n;
        t.events(n, 0, |_| {});
    }));
    law(&made(|t, n| {
        t.next.epoch = n;
        t.events_of(1, n as u8, 0, |_| {});
    }));
    for body in [&empty, Body::default().raw(&[33, 0])] {
        for gap in [2, 4095, 4096, u32::MAX] {
            let mut t = TraceBuilder::new(1);
            for thread in 1..2_000 {
                // A batch that says that all before it are missing.
                let header = Header { kind: 3, thread, sequence: gap - 1, ..t.next };
                t.bytes.extend(sealed(header, &body.bytes));
            }
            law(&t.bytes);
            let mut t = TraceBuilder::new(1);
            for n in 1..2_000 {
                let sequence = gap.wrapping_mul(n);
                let header = Header { kind: 3, thread: 1, sequence, ..t.next };
                t.bytes.extend(sealed(header, &body.bytes));
            }
            law(&t.bytes);
        }
    }
}

/// Late threads, tasks and clocks without number.
#[test]
fn lists_that_all_differ() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let all: Vec<u64> = (0..60_000).collect();
    let mut t = TraceBuilder::new(1);
    t.definitions(|d| ok(d.define(64, Class::Span, 0, &[])));
    for thread in 1..8 {
        t.control(|c| ok(c.generation_end(1, 0, &all)));
        t.events(thread, 0, |e| ok(e.timed(0, |w, d| schema::State::put(w, d, 0, &all, 0))));
    }
    law(&t.bytes);
}

#[test]
fn open_spans_and_lists() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let mut t = TraceBuilder::new(1);
    t.definitions(|d| ok(d.define(64, Class::Span, 0, &[])));
    for thread in 1..20 {
        t.events(thread, 0, |e| {
            for _ in 0..10_000 {
                e.site(64, 0, &[]);
            }
        });
        t.events(thread, 0, |e| {
            e.timed(0, |w, d| schema::State::put(w, d, 0, &[64; 20_000], u64::MAX));
        });
        t.control(|c| ok(c.generation_end(1, 0, &[3; 20_000])));
    }
    law(&t.bytes);
}

#[test]
fn held_bytes_are_bounded_and_it_is_said() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let mut t = TraceBuilder::new(1);
    t.definitions(|d| ok(d.define(64, Class::Instant, 0, &[("n", ty::U64)])));
    for i in 0..200 {
        t.events(1 + i % 4, u64::from(i) * 1000, |e| {
            for n in 0..10_000 {
                e.site(64, 0, &[Field::U64(n % 100)]);
            }
        });
    }
    let mut options = trace_decode::Options::default();
    options.held_bytes_max = 1 << 20;
    let (mut events, mut overflows, mut last) = (0, 0, 0);
    let used = most(|| {
        let mut d = Decoder::with(options);
        for piece in t.bytes.chunks(1 << 16).map(Some).chain([None]) {
            match piece {
                Some(piece) => d.push(piece),
                None => d.finish(),
            }
            while let Some(item) = d.next_item().unwrap() {
                match item {
                    Item::Event(e) => {
                        assert!(e.ts_ns >= last);
                        last = e.ts_ns;
                        events += 1;
                    }
                    Item::Overflow { held_bytes } => {
                        assert!(held_bytes > 1 << 20);
                        overflows += 1;
                    }
                    _ => {}
                }
            }
        }
    });
    assert_eq!(events, 2_000_000);
    assert!(overflows > 3, "{overflows}");
    assert!(used < 3 << 20, "{used} bytes");
}

#[test]
fn a_scan_does_not_grow() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let mut t = TraceBuilder::new(1);
    t.session(0, 1);
    t.definitions(|d| ok(d.define(64, Class::Instant, 0, &[("n", ty::U64)])));
    let head = t.bytes.clone();
    t.bytes.clear();
    t.events(1, 0, |e| {
        for n in 0..15_000 {
            e.site(64, 1, &[Field::U64(n % 100)]);
        }
    });
    let mut events = 0;
    let used = most(|| {
        let mut scan = Scan::new();
        scan.push(&head);
        for _ in 0..100 {
            scan.push(&t.bytes);
            while let Some(item) = scan.next_item().unwrap() {
                if let ScanItem::Batch(b) = item {
                    events += if b.is_events() { b.events } else { 0 };
                }
            }
        }
    });
    assert_eq!(events, 1_500_000);
    assert!(used < 1 << 19, "{used} bytes");
}

/// 600,000 stacks, as a program makes that keeps making new ones.
#[test]
fn a_scan_counts_stacks_and_does_not_keep_them() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let piece = |batch: u64| {
        let mut t = TraceBuilder::new(1);
        t.definitions(|d| {
            for n in 0..5_000 {
                d.stack(batch * 5_000 + n + 1, &[0x4000, 0x5000]);
            }
        });
        t.bytes
    };
    let bytes: Vec<u8> = (0..120).flat_map(piece).collect();
    let mut defined = 0;
    let used = most(|| {
        let mut scan = Scan::new();
        for part in bytes.chunks(1 << 16) {
            scan.push(part);
            while let Some(item) = scan.next_item().unwrap() {
                if let ScanItem::Batch(b) = item {
                    let tables = b.tables.unwrap();
                    defined = tables.counts().1;
                    assert!(tables.stack(1).is_none());
                }
            }
        }
    });
    assert_eq!(defined, 600_000);
    assert!(used < 1 << 19, "{used} bytes");
}

#[test]
fn a_scan_keeps_stacks_where_it_is_told_to() {
    let mut t = TraceBuilder::new(1);
    t.definitions(|d| ok(d.stack(1, &[0x4000, 0x5000]).stack(1, &[3]).stack(2, &[])));
    let mut options = trace_decode::scan::Options::default();
    options.keep_stacks = true;
    for (mut scan, count) in [(Scan::with(options), 2), (Scan::new(), 3)] {
        scan.push(&t.bytes);
        scan.finish();
        let mut met = 0;
        while let Some(item) = scan.next_item().unwrap() {
            if let ScanItem::Batch(b) = item {
                let tables = b.tables.unwrap();
                let frames = tables.stack(1).map(|s| s.frames().collect::<Vec<_>>());
                assert_eq!(frames, (count == 2).then(|| vec![0x4000, 0x5000]));
                assert_eq!(tables.counts(), (0, count));
                met += 1;
            }
        }
        assert_eq!(met, 1);
    }
}
