//! Traces that several tests use.

use trace::encode::crc::crc32c;
use trace::encode::field::Text;
use trace::encode::field::ty;
use trace::encode::schema;
use trace::encode::schema::Class;
use trace::encode::wire::BATCH_BYTES_MAX;
use trace::encode::wire::CRC_AT;
use trace::encode::wire::FLAG_LATE;
use trace::encode::wire::HEADER_BYTES;
use trace::encode::wire::Header;
use trace::encode::wire::MAGIC;
use trace::encode::wire::VERSION;

use crate::build::Body;
use crate::build::Field;
use crate::build::TraceBuilder;

/// The kinds of sites in [`small`] and [`many_batches`].
pub mod kinds {
    /// An instant with one number.
    pub const HIT: u64 = 64;
    /// A span without fields.
    pub const WORK: u64 = 65;
    /// A log with a text and a number.
    pub const SAY: u64 = 66;
    /// A counter with a floating-point number.
    pub const LOAD: u64 = 67;
    /// A task.
    pub const JOB: u64 = 68;
}

fn definitions(t: &mut TraceBuilder) {
    t.definitions(|d| {
        d.string(1, "hit").string(2, "work").string(3, "say").string(4, "load").string(5, "job");
        d.stack(1, &[0x5010, 0x5008, 0x4000]);
        d.define(kinds::HIT, Class::Instant, 1, &[("n", ty::U64)]);
        d.define(kinds::WORK, Class::Span, 2, &[]);
        d.define(
            kinds::SAY,
            Class::Log,
            3,
            &[("text", ty::TEXT), ("by", ty::I64), ("stack", ty::STACK)],
        );
        d.define(kinds::LOAD, Class::Counter, 4, &[("value", ty::F64)]);
        let job = [("task", ty::TASK), ("parent", ty::TASK), ("name", ty::STRING)];
        d.define(kinds::JOB, Class::Task, 5, &job);
        d.thread(1, 101, "main").thread(2, 102, "worker");
    });
}

/// A whole session of two threads, both lanes, every form of value, two generations: 20 events,
/// well below 2 KiB.
pub fn small() -> TraceBuilder {
    let mut t = TraceBuilder::new(0x5e55_1001);
    t.session(1000, 1_000_000_000);
    t.control(|c| {
        c.clock(1000, 50_000, 1_700_000_000_000_000_000);
        c.put(|w| schema::Note::put(w, "kernel".into(), "none".into()));
    });
    definitions(&mut t);
    t.events(1, 1010, |e| {
        e.timed(0, schema::ThreadStart::put);
        e.site(kinds::JOB, 5, &[Field::U64(7), Field::U64(0), Field::U64(1)]);
        e.timed(1, |w, d| schema::TaskSwitch::put(w, d, 7));
        e.site(kinds::WORK, 10, &[]);
        e.site(kinds::HIT, 300, &[Field::U64(1 << 40)]);
        e.timed(2, |w, d| schema::ThreadCreate::put(w, d, 2, 1));
        e.site(kinds::SAY, 8, &[Field::Text("hello"), Field::I64(-5), Field::U64(1)]);
        e.timed(20, schema::SpanEnd::put);
    });
    t.events(2, 1020, |e| {
        e.timed(0, schema::ThreadStart::put);
        e.site(kinds::LOAD, 4, &[Field::F64(0.5)]);
        e.site(kinds::HIT, 400, &[Field::U64(3)]);
    });
    t.control(|c| {
        c.clock(2000, 51_000, 1_700_000_000_000_001_000).generation_end(1, 2000, &[]);
    });
    t.next.generation = 2;
    t.events(1, 2100, |e| {
        e.timed(0, |w, d| schema::State::put(w, d, 7, &[], 0));
        e.site(kinds::WORK, 1, &[]);
        e.site(kinds::WORK, 1, &[]);
        e.timed(1, |w, d| schema::SpanEndAt::put(w, d, 0));
        e.timed(1, schema::SpanEnd::put);
        e.timed(1, |w, d| schema::TaskEnd::put(w, d, 7));
        e.timed(1, schema::ThreadEnd::put);
    });
    t.events_of(1, 1, 2101, |e| {
        e.site(kinds::HIT, 0, &[Field::U64(9)]);
        e.site(kinds::SAY, 1, &[Field::Cut(b"cu\xfft", 90), Field::I64(0), Field::U64(0)]);
    });
    t.control(|c| {
        c.put(|w| schema::Loss::put(w, 2, 1, 0));
        c.clock(3000, 52_000, 1_700_000_000_000_002_000).generation_end(2, 3000, &[]);
    });
    t.end(3000);
    t
}

/// The numbers of [`hostile`]'s kinds that only its `Schema` events describe.
pub const LATER_TIMED: u64 = 50;
/// A structural one.
pub const LATER_STRUCTURAL: u64 = 51;

/// A trace that is valid and uses every freedom of the format: two epochs, kinds of a later
/// version, sites far apart, late batches, a table of every sort, an unknown batch kind.
pub fn hostile() -> TraceBuilder {
    let mut t = TraceBuilder::new(u64::MAX);
    t.session(u64::MAX >> 1, 0);
    t.definitions(|d| {
        let fields = [("a", ty::U64), ("b", ty::TEXT), ("c", ty::LIST)];
        let (name, pair) = ("LaterTimed".into(), "".into());
        d.put(|w| schema::Schema::put(w, LATER_TIMED, name, 1, pair, &fields));
        let (name, pair) = ("LaterTable".into(), "".into());
        d.put(|w| schema::Schema::put(w, LATER_STRUCTURAL, name, 0, pair, &fields[..2]));
        d.string(1, "one").string(u64::MAX, "\u{202e}far\n\"");
        d.stack(3, &[u64::MAX, 0, 1 << 63]);
        let all = [
            ("u", ty::U64),
            ("i", ty::I64),
            ("f", ty::F64),
            ("o", ty::BOOL),
            ("t", ty::TEXT),
            ("l", ty::LIST),
            ("later", 12 << 3 | 2),
            ("stack", ty::STACK),
        ];
        d.define(1 << 62, Class::Instant, u64::MAX, &all);
        d.define(130, Class::Span, 77, &[]);
        d.put(|w| schema::Site::put(w, 131, 99, 0, 1, 0, 0, 0, &[]));
        let (id, path) = (Text { bytes: &[1, 2, 255], cut_from: None }, "/bin/none".into());
        d.put(|w| schema::Module::put(w, 0x4000, 0x2000, 0, id, path, 9, 8));
        d.raw(&[LATER_STRUCTURAL as u8, 5, 2, b'x']);
        d.thread(u64::from(u32::MAX), 0, "");
    });
    let start = u64::MAX >> 1;
    t.events(u32::MAX, start, |e| {
        e.raw(&[LATER_TIMED as u8, 1, 4, b'h', b'i', 2, 1, 2, 3]);
        let values = [
            Field::U64(u64::MAX),
            Field::I64(i64::MIN),
            Field::F64(f64::NAN),
            Field::Bool(true),
            Field::Text("a\tb"),
            Field::List(&[5, 0, u64::MAX]),
            Field::F64(1.0),
            Field::U64(3),
        ];
        e.site(1 << 62, 1, &values).site(130, 128, &[]).site(131, 1, &[]);
        e.timed(1 << 20, |w, d| schema::State::put(w, d, 1, &[130, 130, 1 << 62], 4));
        e.timed(0, |w, d| schema::SpanEndAt::put(w, d, 1));
        for _ in 0..8 {
            e.timed(1, schema::SpanEnd::put);
        }
    });
    let mut later = Body::default();
    t.batch(200, 0, 0, later.raw(&[0xff; 30]));
    t.control(|c| {
        c.clock(start, 5, 6).clock(start, 4, 4).generation_end(1, start + 10, &[3, 9]);
        c.put(|w| schema::TaskState::put(w, 1, 0, 130, 0));
        c.put(|w| schema::ThreadState::put(w, 9, 10, "n".into(), 0, 1, 1, &[130]));
        c.put(|w| schema::ThreadName::put(w, 9, 0, "later".into()));
        c.put(|w| schema::Loss::put(w, 0, 39, u64::MAX)).put(|w| schema::Loss::put(w, 9, 1, 7));
    });
    t.next.epoch = 2;
    t.definitions(|d| {
        d.string(1, "other epoch").define(130, Class::Counter, 1, &[("value", ty::I64)]);
    });
    t.next.flags = FLAG_LATE;
    t.events(9, start + 2, |e| {
        e.site(130, 0, &[Field::I64(-1)]);
    });
    t.end(start);
    t
}

/// `n` batches of events of two threads in turn, so that parts of them can be cut out.
pub fn many_batches(n: u64) -> TraceBuilder {
    let mut t = TraceBuilder::new(3);
    t.session(0, 1_000_000_000);
    definitions(&mut t);
    for i in 0..n {
        t.events(1 + (i % 2) as u32, i * 100, |e| {
            for k in 0..20 {
                e.site(kinds::HIT, k % 3, &[Field::U64(i * k)]);
            }
        });
    }
    t.end(n * 100);
    t
}

/// Small traces of every sort, by name: what is done to each byte and bit of a trace is done to all
/// of them.
pub fn all() -> Vec<(&'static str, TraceBuilder)> {
    vec![
        ("small", small()),
        ("hostile", hostile()),
        ("many batches", many_batches(4)),
        ("nothing recorded", brief(|_| {})),
        ("one event", brief(|t| one_event(t, 1))),
        ("without its first batch", {
            let mut t = TraceBuilder::new(9);
            definitions(&mut t);
            one_event(&mut t, 1);
            t
        }),
        ("two sessions", {
            let mut t = brief(|t| one_event(t, 1));
            t.next.session += 1;
            begin_brief(&mut t);
            definitions(&mut t);
            one_event(&mut t, 2);
            t.end(9);
            t
        }),
        ("two epochs", brief(two_epochs)),
        ("late batches", brief(late_batches)),
        ("lanes", brief(lanes)),
        ("spans and tasks", brief(spans_and_tasks)),
        ("texts and lists", brief(texts_and_lists)),
        ("control events", brief(control_events)),
        ("empty batches", brief(empty_batches)),
    ]
}

/// A session of one event.
fn begin_brief(t: &mut TraceBuilder) {
    let mut b = Body::default();
    b.put(|w| {
        let (recorder, program) = ("kit".into(), "p".into());
        schema::Session::put(w, 1, recorder, 0, 1 << 30, 3, 0, 1, program, "a".into(), 2)
    });
    t.batch(1, 0, 0, &b);
}

/// A session with a short beginning and an end.
fn brief(middle: impl FnOnce(&mut TraceBuilder)) -> TraceBuilder {
    let mut t = TraceBuilder::new(9);
    begin_brief(&mut t);
    definitions(&mut t);
    middle(&mut t);
    t.end(1000);
    t
}

fn one_event(t: &mut TraceBuilder, n: u64) {
    t.events(1, 5, |e| {
        e.site(kinds::HIT, 1, &[Field::U64(n)]);
    });
}

fn two_epochs(t: &mut TraceBuilder) {
    one_event(t, 1);
    t.next.epoch = 2;
    t.definitions(|d| {
        d.string(1, "again").define(kinds::HIT, Class::Counter, 1, &[("value", ty::I64)]);
    });
    t.events(1, 9, |e| {
        e.site(kinds::HIT, 1, &[Field::I64(-7)]);
        e.timed(0, |w, d| schema::State::put(w, d, 0, &[0, 0], 0));
    });
}

fn late_batches(t: &mut TraceBuilder) {
    one_event(t, 1);
    t.control(|c| {
        c.clock(10, 10, 10).generation_end(1, 10, &[2]);
    });
    t.next.generation = 2;
    one_event(t, 2);
    t.next.flags = FLAG_LATE;
    t.events(2, 1, |e| {
        e.site(kinds::LOAD, 2, &[Field::F64(-0.0)]);
    });
    t.control(|c| {
        c.clock(20, 21, 20).generation_end(2, 20, &[]);
    });
}

fn lanes(t: &mut TraceBuilder) {
    for lane in [1, 0, 1, 0] {
        t.events_of(1, lane, 5, |e| {
            e.site(kinds::WORK, 0, &[]).timed(0, schema::SpanEnd::put);
        });
    }
}

fn spans_and_tasks(t: &mut TraceBuilder) {
    t.events(1, 5, |e| {
        for depth in 0..40 {
            e.site(kinds::WORK, depth, &[]);
        }
        e.site(kinds::JOB, 1, &[Field::U64(3), Field::U64(0), Field::U64(5)]);
        e.timed(0, |w, d| schema::TaskSwitch::put(w, d, 3));
    });
    t.events(1, 900, |e| {
        e.timed(0, |w, d| schema::State::put(w, d, 3, &[kinds::WORK; 32], 8));
        for depth in (0..40).rev() {
            e.timed(1, |w, d| schema::SpanEndAt::put(w, d, depth));
        }
        e.timed(0, |w, d| schema::TaskEnd::put(w, d, 3)).timed(0, schema::SpanEnd::put);
    });
}

fn texts_and_lists(t: &mut TraceBuilder) {
    let (later, later_list) = (14 << 3 | 3, 15 << 3 | 4);
    t.definitions(|d| {
        let fields =
            [("t", ty::TEXT), ("l", ty::LIST), ("x", later), ("y", later_list), ("b", ty::BOOL)];
        d.define(70, Class::Log, 3, &fields).stack(2, &[u64::MAX, 0, 7]).stack(3, &[]);
    });
    t.events(1, 5, |e| {
        for text in ["", "a", "\u{20ac}\u{202e}", "a text of some length, beyond a word"] {
            let lists = [Field::List(&[]), Field::List(&[1, 0, u64::MAX])];
            e.site(70, 1, &[Field::Text(text), lists[1], Field::Text(text), lists[0], NO]);
            e.site(70, 1 << 40, &[Field::Cut(b"\xff", 9), lists[0], NONE, lists[1], NO]);
        }
    });
}

const NO: Field<'_> = Field::Bool(false);
const NONE: Field<'_> = Field::Text("");

fn control_events(t: &mut TraceBuilder) {
    t.control(|c| {
        c.clock(1, 2, 3).generation_end(1, 1, &[1, 5]);
        c.put(|w| schema::Loss::put(w, 1, 1, 5)).put(|w| schema::Loss::put(w, 0, 77, 1));
        c.put(|w| schema::ThreadName::put(w, 1, 5, "renamed".into()));
        c.put(|w| schema::ThreadState::put(w, 1, 101, "n".into(), 5, 1, 7, &[kinds::WORK, 0]));
        c.put(|w| schema::TaskState::put(w, 7, 0, kinds::JOB, 5));
        c.put(|w| schema::Note::put(w, "a fact".into(), "of two lines\n\u{1b}".into()));
    });
}

fn empty_batches(t: &mut TraceBuilder) {
    t.events(1, 5, |_| {}).control(|_| {}).definitions(|_| {});
    t.batch(77, 3, 1, &Body::default());
}

/// Puts the length and the CRC of the batches right that begin at `offsets`.
pub fn reseal(bytes: &mut [u8], offsets: &[usize]) {
    for (i, &at) in offsets.iter().enumerate() {
        let end = offsets.get(i + 1).map_or(bytes.len(), |e| (*e).min(bytes.len()));
        let Some(batch) = bytes.get_mut(at..end).filter(|b| b.len() >= HEADER_BYTES) else {
            continue;
        };
        batch[..4].copy_from_slice(&MAGIC);
        batch[4..8].copy_from_slice(&((end - at) as u32).to_le_bytes());
        batch[10..12].copy_from_slice(&VERSION.to_le_bytes());
        batch[CRC_AT..CRC_AT + 4].fill(0);
        let crc = crc32c(batch);
        batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// A trace from bytes without any headers: each batch is its kind, lane, thread and flags, a byte
/// each, the time of its first event and the length of its body, two bytes each, then its body.
/// What [`unsealed`] gives comes back, and a fuzzer's changes to it reach the events.
pub fn sealed_from(mut input: &[u8]) -> Vec<u8> {
    let mut t = TraceBuilder::new(1);
    while let Some((&[kind, lane, thread, flags, t0, t1, l0, l1], rest)) = input.split_first_chunk()
    {
        let len = usize::from(u16::from_le_bytes([l0, l1])).min(rest.len());
        let (body, rest) = rest.split_at(len.min(BATCH_BYTES_MAX - HEADER_BYTES));
        t.next.first_ticks = u64::from(u16::from_le_bytes([t0, t1]));
        t.next.flags = u32::from(flags & 7);
        t.next.epoch = u32::from(flags >> 5);
        // The low bits of a kind are one that we know, seven times of eight.
        let kind = if kind & 0xe0 == 0xe0 { kind } else { kind & 3 };
        let kind = if kind == 0 { 4 } else { kind };
        t.batch(kind, u32::from(thread), lane & 1, Body::default().raw(body));
        input = rest;
    }
    t.bytes
}

/// A trace in the form that [`sealed_from`] reads.
pub fn unsealed(t: &TraceBuilder) -> Vec<u8> {
    let mut out = Vec::new();
    for (i, &at) in t.offsets.iter().enumerate() {
        let end = t.offsets.get(i + 1).copied().unwrap_or(t.bytes.len());
        let Some(batch) = t.bytes.get(at..end) else { continue };
        let Some(h) = batch.first_chunk().and_then(Header::from_bytes) else { continue };
        let body = &batch[HEADER_BYTES..];
        out.extend([h.kind & 3, h.lane, h.thread as u8, (h.flags as u8 & 7) | 1 << 5]);
        out.extend((h.first_ticks as u16).to_le_bytes());
        out.extend((body.len() as u16).to_le_bytes());
        out.extend(body);
    }
    out
}
