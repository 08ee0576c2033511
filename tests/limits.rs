//! What is too long, too deep or too many: cut, counted and said, never a fault.

mod support;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::Duration;

use support::Capture;
use trace::Config;
use trace::StackKind;
use trace::encode::schema::Cause;
use trace::encode::wire::FRAMES_MAX;
use trace::encode::wire::SPANS_MAX;
use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Timed;
use trace_decode::Value;

/// Calls `each` with every event and `done` with the session at its end.
fn events(bytes: &[u8], mut each: impl FnMut(&Timed<'_>)) {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    decoder.finish();
    while let Some(item) = decoder.next_item().unwrap() {
        if let Item::Event(e) = item {
            each(&e);
        }
    }
}

#[test]
fn a_mebibyte_of_text() {
    let _alone = support::alone();
    let _watch = support::watch("a_mebibyte_of_text", 30);
    // Three bytes a character, so that a cut at any byte would fall into one.
    let text = "\u{20ac}".repeat((1 << 20) / 3 + 1);
    let out = Capture::default();
    trace::start(out.clone()).unwrap();
    for len in [0, 1, 1022, 1023, 1024, 1025, 4096, 1 << 20] {
        let part = &text[..text.floor_char_boundary(len)];
        trace::instant!("long", text = part);
        trace::log!(long, "{}", part);
        trace::log!(long, "{}{}", part, part);
    }
    let summary = trace::stop().unwrap();
    assert_eq!(summary.lost, 0);
    let bytes = out.take();
    support::assert_valid(&bytes);
    let mut seen = Vec::new();
    events(&bytes, |e| {
        for (_, value) in e.fields() {
            let Value::Text(t) = value else { continue };
            let is_log = e.kind_name().bytes == b"log";
            let kept = std::str::from_utf8(t.bytes).expect("cut between characters");
            assert!(text.starts_with(kept));
            seen.push((is_log, t.bytes.len(), t.cut_from));
        }
    });
    let mut expected = Vec::new();
    for len in [0, 1, 1022, 1023, 1024, 1025, 4096, 1 << 20usize] {
        let len = len / 3 * 3;
        let cut = |len: usize, max: usize| match len <= max {
            true => (len, None),
            false => (max / 3 * 3, Some(len as u64)),
        };
        for (is_log, len, max) in [(false, len, 1024), (true, len, 32_768), (true, 2 * len, 32_768)]
        {
            let (kept, from) = cut(len, max);
            expected.push((is_log, kept, from));
        }
    }
    assert_eq!(seen, expected);
}

/// Names of threads are bytes: what the kernel has is kept.
#[test]
fn a_thread_name_that_is_no_text() {
    let _alone = support::alone();
    let _watch = support::watch("a_thread_name_that_is_no_text", 30);
    let name = b"\xff\xfe\x1b[31m\x80x";
    let out = Capture::default();
    trace::start(out.clone()).unwrap();
    std::thread::spawn(move || {
        let mut named = name.to_vec();
        named.push(0);
        // SAFETY: a string that ends with zero.
        unsafe { libc::prctl(libc::PR_SET_NAME, named.as_ptr()) };
        trace::emit_probe(1);
    })
    .join()
    .unwrap();
    trace::stop().unwrap();
    let bytes = out.take();
    support::assert_valid(&bytes);
    let mut decoder = Decoder::new();
    decoder.push(&bytes);
    decoder.finish();
    let mut found = 0;
    while let Some(item) = decoder.next_item().unwrap() {
        if let Item::SessionEnd(s) = item {
            found = s.threads().filter(|t| *t.name == *name).count();
        }
    }
    assert_eq!(found, 1);
}

/// Two places that call the same function, chosen by the bits of a number: as many stacks as
/// numbers.
#[inline(never)]
fn branch(bits: u64, left: u32) {
    if left == 0 {
        trace::instant!("leaf", bits = bits);
        return;
    }
    if bits >> (left - 1) & 1 == 0 {
        branch(bits, left - 1);
        black_box(());
    } else {
        branch(bits, left - 1);
        black_box(1);
    }
    black_box(left);
}

/// More stacks than a table holds: every event is there. When the table is full a new epoch opens,
/// so more are kept than fit one table; those that come before it does have stack 0, and the trace
/// says how many.
#[test]
fn a_million_stacks() {
    let _alone = support::alone();
    let _watch = support::watch("a_million_stacks", 120);
    let depth = 20;
    let out = Capture::default();
    let before = support::rss_kib();
    Config::new()
        .memory_bytes(16 << 20)
        .stacks([StackKind::Instant])
        .overflow(trace::Overflow::Wait { at_most: Duration::from_secs(20) })
        .start(out.clone())
        .unwrap();
    let total = 1u64 << depth;
    for bits in 0..total {
        branch(bits, depth);
    }
    let summary = trace::stop().unwrap();
    let grown = support::rss_kib().saturating_sub(before + out.len() as u64 / 1024);
    assert!(grown < (16 + 8) << 10, "memory grew by {grown} KiB");
    let bytes = out.take();
    support::assert_valid(&bytes);
    let (mut leaves, mut sum, mut none) = (0, 0u64, 0);
    let mut ids = BTreeSet::new();
    let mut stacks: BTreeMap<u64, u64> = BTreeMap::new();
    events(&bytes, |e| {
        if e.name().is_none_or(|n| n.bytes != b"leaf") {
            return;
        }
        let Some((_, Value::U64(bits))) = e.fields().next() else { panic!("no number") };
        leaves += 1;
        sum += bits;
        match e.stack().expect("a stack or none") {
            0 => none += 1,
            id => {
                ids.insert((e.tables().epoch(), id));
                if stacks.len() < 1000 {
                    let stack = e.tables().stack(id).expect("defined");
                    assert!(stack.len() > u64::from(depth), "{} frames", stack.len());
                    stacks.insert(bits, stack.frames().fold(0, |h: u64, f| h.rotate_left(9) ^ f));
                }
            }
        }
    });
    assert_eq!((leaves, sum, summary.lost), (total, total * (total - 1) / 2, 0));
    let distinct: BTreeSet<u64> = stacks.values().copied().collect();
    assert_eq!(distinct.len(), stacks.len(), "each number has a stack of its own");
    let c = support::contents(&bytes);
    assert_eq!(c.cause(Cause::StackTable), none);
    assert_eq!(ids.len() as u64 + none, total);
    let epochs = ids.iter().map(|i| i.0).collect::<BTreeSet<u32>>().len();
    // A sixteenth of the bound holds 131,072 words, a stack of more than 18 frames takes 20.
    let one_table = (16 << 20) / 16 / 8 / 20;
    assert!(ids.len() > one_table && epochs > 1, "{} stacks of {epochs} epochs", ids.len());
    println!("{} stacks of {epochs} epochs, {none} without, {grown} KiB", ids.len());
}

#[inline(never)]
fn deep(left: u32) -> u32 {
    if left == 0 {
        trace::log!(deep, "at the bottom");
        return 0;
    }
    black_box(deep(left - 1)) + 1
}

/// A stack is cut at 128 frames, and says so; at the depth that was asked for, where less was.
#[test]
fn a_hundred_thousand_frames() {
    let _alone = support::alone();
    let _watch = support::watch("a_hundred_thousand_frames", 30);
    for asked in [FRAMES_MAX, 10] {
        let out = Capture::default();
        Config::new().stack_depth(asked).start(out.clone()).unwrap();
        let thread = std::thread::Builder::new().stack_size(256 << 20);
        let thread = thread.spawn(|| deep(100_000)).unwrap();
        assert_eq!(thread.join().unwrap(), 100_000);
        std::thread::spawn(|| deep(2)).join().unwrap();
        trace::stop().unwrap();
        let bytes = out.take();
        support::assert_valid(&bytes);
        let mut seen = Vec::new();
        events(&bytes, |e| {
            if e.kind_name().bytes == b"log" {
                let stack = e.tables().stack(e.stack().unwrap()).expect("a stack");
                seen.push((stack.len(), stack.is_truncated()));
            }
        });
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0], (asked as u64, true));
        let (frames, cut) = seen[1];
        assert_eq!(cut, frames >= asked as u64);
        assert!(frames >= 4 && frames <= asked as u64, "{frames} frames");
    }
}

/// Forty open spans: `State` lists the first 32 and counts the rest, and the ends agree.
#[test]
fn forty_open_spans() {
    let _alone = support::alone();
    let _watch = support::watch("forty_open_spans", 30);
    fn nested(left: u32) {
        let _span = trace::span!("level", left = left);
        if left > 1 {
            nested(left - 1);
        } else {
            // Enough for some batches, each of which opens with a State.
            for n in 0..60_000u64 {
                trace::emit_probe(n << 20);
            }
        }
    }
    let out = Capture::default();
    trace::start(out.clone()).unwrap();
    nested(40);
    let summary = trace::stop().unwrap();
    assert_eq!(summary.lost, 0);
    let bytes = out.take();
    support::assert_valid(&bytes);
    let mut states = 0;
    let mut depth = 0;
    events(&bytes, |e| {
        depth = depth.max(e.depth);
        if e.kind_name().bytes != b"State" {
            return;
        }
        let fields: Vec<_> = e.fields().map(|f| f.1).collect();
        let [Value::Task(0), Value::List(spans), Value::U64(deeper)] = fields[..] else {
            panic!("{fields:?}")
        };
        assert_eq!((spans.len(), deeper), (SPANS_MAX as u64, 8));
        let sites: BTreeSet<u64> = spans.iter().collect();
        assert_eq!(sites.len(), 1, "all of one site");
        states += 1;
    });
    assert!(states >= 3, "{states} batches");
    assert_eq!(depth, 40);
    let c = support::contents(&bytes);
    assert_eq!((c.kind("span"), c.kind("SpanEnd"), c.kind("SpanEndAt")), (40, 40, 0));
    assert_eq!(c.cause(Cause::SpanDepth), 8, "what the snapshot cannot list is counted");
}

/// More live tasks than the table of the live ones holds: all of them are in the trace.
#[test]
fn more_live_tasks_than_can_be_listed() {
    let _alone = support::alone();
    let _watch = support::watch("more_live_tasks_than_can_be_listed", 60);
    let out = Capture::default();
    Config::new()
        .stacks([])
        .overflow(trace::Overflow::Wait { at_most: Duration::from_secs(20) })
        .start(out.clone())
        .unwrap();
    let count = 70_000u64;
    let tasks: Vec<_> = (0..count).map(|n| trace::task!("job", n = n)).collect();
    let ids: BTreeSet<u64> = tasks.iter().map(trace::Task::id).collect();
    assert_eq!(ids.len() as u64, count);
    assert!(!ids.contains(&0));
    drop(tasks);
    // The entries are free again.
    let more: Vec<_> = (0..1000u64).map(|n| trace::task!("more", n = n)).collect();
    drop(more);
    let summary = trace::stop().unwrap();
    assert_eq!(summary.lost, 0);
    let bytes = out.take();
    support::assert_valid(&bytes);
    let (mut begun, mut ended) = (BTreeSet::new(), BTreeSet::new());
    events(&bytes, |e| match e.kind_name().bytes {
        b"task" => {
            let Some((_, Value::Task(id))) = e.fields().next() else { panic!("no id") };
            assert!(begun.insert(id));
        }
        b"TaskEnd" => {
            let Some((_, Value::Task(id))) = e.fields().next() else { panic!("no id") };
            assert!(ended.insert(id));
        }
        _ => {}
    });
    assert_eq!((begun.len() as u64, ended.len() as u64), (count + 1000, count + 1000));
    assert!(ids.is_subset(&begun) && begun == ended);
    let c = support::contents(&bytes);
    let unlisted = c.cause(Cause::TaskTable);
    assert!(unlisted >= count - 65_536 && unlisted < count, "{unlisted}");
}
