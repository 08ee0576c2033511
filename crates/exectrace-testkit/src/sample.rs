//! Traces that several tests use.

use trace::encode::field::ty;
use trace::encode::schema;
use trace::encode::schema::Class;

use crate::build::Field;
use crate::build::TraceBuilder;

/// The kinds of sites in [`small`] and [`mixed`].
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
