//! A trace of some work whose lengths are known beforehand: one tick is a nanosecond, and every
//! length is written here.
//!
//! ```text
//! T1 main     begins the tasks request 1..=10, the i-th at i ms; at 12 ms one that never ends
//! T2 worker   works for request i from i ms + 100 us on, for 50 us * i, in a span handle; within
//!             it a span read of 20 us + i us, and a log http: GET /item/i
//! T3 sender   has request i as its current task for 20 us, 30 us before it ends it at 2i ms;
//!             begins the task flush at 15 ms, for request 3, and ends it at 15.25 ms;
//!             two spans that overlap: lock_a 30 to 30.03 ms, lock_b 30.01 to 30.06 ms
//! T4 late     its beginning is lost: a span read ends that nobody saw begin, and a span that the
//!             trace does not know
//! ```
//!
//! On the side lane of T1 a span `on_signal` of 7 us. The session lasts 40 ms and has an end.

use trace::encode::field::ty;
use trace::encode::schema;
use trace::encode::schema::Class;

use crate::build::Body;
use crate::build::Field;
use crate::build::TraceBuilder;

/// Scaled ticks when the session begins.
pub const START: u64 = 1_000_000;
/// How many of the tasks `request` end.
pub const REQUESTS: u64 = 10;
/// How many timed events there are.
pub const EVENTS: u64 = 1 + 11 + 2 + 1 + 10 * 7 + 2 + 1 + 10 * 3 + 6 + 3;

const REQUEST: u64 = 64;
const FLUSH: u64 = 65;
const HANDLE: u64 = 66;
const READ: u64 = 67;
const HTTP: u64 = 68;
const LOCK_A: u64 = 69;
const LOCK_B: u64 = 70;
const ON_SIGNAL: u64 = 71;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;

/// The events of a lane, in any order.
#[derive(Default)]
struct Lane {
    events: Vec<(u64, Body)>,
}

impl Lane {
    /// An event at this time since the session's start; `write` is given its delta.
    fn at(&mut self, ns: u64, write: impl FnOnce(&mut Body)) -> &mut Self {
        let mut body = Body::default();
        write(&mut body);
        self.events.push((ns, body));
        self
    }

    /// Puts the events into a batch. Each was written with a delta of 0, which is one byte, and
    /// stands last.
    fn write(mut self, trace: &mut TraceBuilder, thread: u32, lane: u8) {
        self.events.sort_by_key(|e| e.0);
        let first = START + self.events.first().map_or(0, |e| e.0);
        trace.events_of(thread, lane, first, |batch| {
            let mut now = first;
            for (ns, event) in &self.events {
                let (fields, _) = event.bytes.split_at(event.bytes.len() - 1);
                let delta = START + ns - now;
                batch.ticks += delta;
                batch.put(|w| {
                    w.bytes(fields)?;
                    w.varint(delta)
                });
                now = START + ns;
            }
        });
    }
}

fn definitions(t: &mut TraceBuilder) {
    t.definitions(|d| {
        let names = ["request", "flush", "handle", "read", "http", "lock_a", "lock_b", "on_signal"];
        for (i, name) in names.into_iter().chain(["src/server.rs", "server"]).enumerate() {
            d.string(i as u64 + 1, name);
        }
        d.stack(1, &[0x1040, 0x1080]).stack(2, &[0x2040]).stack(3, &[0x3040, 0x3080, 0x30c0]);
        let task = [("task", ty::TASK), ("parent", ty::TASK), ("stack", ty::STACK)];
        let http = [("text", ty::TEXT), ("status", ty::U64), ("stack", ty::STACK)];
        let mut site = |kind, class: Class, fields: &[(&str, u64)]| {
            let flags = u64::from(fields.last().is_some_and(|f| f.0 == "stack"));
            let (name, class, line) = (kind - 63, class as u64, kind);
            d.put(|w| schema::Site::put(w, kind, class, flags, name, 10, 9, line, fields));
        };
        site(REQUEST, Class::Task, &task);
        site(FLUSH, Class::Task, &task[..2]);
        site(HANDLE, Class::Span, &[]);
        site(READ, Class::Span, &[("bytes", ty::U64)]);
        site(HTTP, Class::Log, &http);
        site(LOCK_A, Class::Span, &[]);
        site(LOCK_B, Class::Span, &[]);
        site(ON_SIGNAL, Class::Span, &[]);
        d.put(|w| {
            let (id, path) = ("\x01\x02\x03".into(), "/nowhere/server".into());
            schema::Module::put(w, 0x1000, 0x1000, 0, id, path, 0, 0)
        });
        d.thread(1, 101, "main").thread(2, 102, "worker").thread(3, 103, "sender");
        d.thread(4, 104, "late");
    });
}

/// The trace.
pub fn work() -> TraceBuilder {
    let mut t = TraceBuilder::new(0x3011_0001);
    // Without descriptions of the static kinds: the trace is the same when there are more of them.
    let mut first = Body::default();
    first.put(|w| {
        let (recorder, program, arch) = ("testkit".into(), "by hand".into(), "none".into());
        let rate = 1_000_000_000;
        schema::Session::put(w, 1, recorder, 0, rate, 1, START, 4711, program, arch, 1)
    });
    t.batch(1, 0, 0, &first);
    t.control(|c| {
        c.clock(START, 50_000, 1_700_000_000_000_000_000);
    });
    definitions(&mut t);
    let (mut main, mut side) = (Lane::default(), Lane::default());
    main.at(0, |e| _ = e.timed(0, schema::ThreadStart::put));
    for i in (1..=REQUESTS).chain([12]) {
        main.at(i * MS, |e| {
            e.site(REQUEST, 0, &[Field::U64(i), Field::U64(0), Field::U64(3)]);
        });
    }
    side.at(5 * MS + 500, |e| _ = e.site(ON_SIGNAL, 0, &[]));
    side.at(5 * MS + 500 + 7 * US, |e| _ = e.timed(0, schema::SpanEnd::put));
    main.write(&mut t, 1, 0);
    side.write(&mut t, 1, 1);
    worker().write(&mut t, 2, 0);
    sender().write(&mut t, 3, 0);
    let mut late = Lane::default();
    late.at(20 * MS, |e| _ = e.timed(0, |w, d| schema::State::put(w, d, 0, &[READ], 0)));
    late.at(20 * MS + 500 * US, |e| _ = e.timed(0, schema::SpanEnd::put));
    late.at(21 * MS, |e| _ = e.timed(0, schema::SpanEnd::put));
    late.write(&mut t, 4, 0);
    t.control(|c| {
        let at = START + 40 * MS;
        c.clock(at, 50_000 + 40 * MS, 1_700_000_000_000_000_000 + 40 * MS);
        c.generation_end(1, at, &[]);
    });
    t.end(START + 40 * MS);
    t
}

fn worker() -> Lane {
    let mut lane = Lane::default();
    lane.at(0, |e| _ = e.timed(0, schema::ThreadStart::put));
    for i in 1..=REQUESTS {
        let from = i * MS + 100 * US;
        lane.at(from, |e| _ = e.timed(0, |w, d| schema::TaskSwitch::put(w, d, i)));
        lane.at(from, |e| _ = e.site(HANDLE, 0, &[]));
        lane.at(from + 5 * US, |e| {
            let (text, status) = (format!("GET /item/{i}"), if i == 7 { 500 } else { 200 });
            let stack = Field::U64(2 - i % 2);
            e.site(HTTP, 0, &[Field::Text(&text), Field::U64(status), stack]);
        });
        lane.at(from + 10 * US, |e| _ = e.site(READ, 0, &[Field::U64(i * 100)]));
        lane.at(from + 30 * US + i * US, |e| _ = e.timed(0, schema::SpanEnd::put));
        lane.at(from + 50 * US * i, |e| _ = e.timed(0, schema::SpanEnd::put));
        lane.at(from + 50 * US * i, |e| {
            e.timed(0, |w, d| schema::TaskSwitch::put(w, d, 0));
        });
    }
    lane.at(12 * MS + 100 * US, |e| _ = e.timed(0, |w, d| schema::TaskSwitch::put(w, d, 12)));
    lane.at(12 * MS + 100 * US, |e| _ = e.site(HANDLE, 0, &[]));
    lane
}

fn sender() -> Lane {
    let mut lane = Lane::default();
    lane.at(0, |e| _ = e.timed(0, schema::ThreadStart::put));
    for i in 1..=REQUESTS {
        let end = 2 * i * MS;
        lane.at(end - 30 * US, |e| _ = e.timed(0, |w, d| schema::TaskSwitch::put(w, d, i)));
        lane.at(end - 10 * US, |e| _ = e.timed(0, |w, d| schema::TaskSwitch::put(w, d, 0)));
        lane.at(end, |e| _ = e.timed(0, |w, d| schema::TaskEnd::put(w, d, i)));
    }
    lane.at(15 * MS, |e| _ = e.site(FLUSH, 0, &[Field::U64(13), Field::U64(3)]));
    lane.at(15 * MS + 250 * US, |e| _ = e.timed(0, |w, d| schema::TaskEnd::put(w, d, 13)));
    lane.at(30 * MS, |e| _ = e.site(LOCK_A, 0, &[]));
    lane.at(30 * MS + 10 * US, |e| _ = e.site(LOCK_B, 0, &[]));
    lane.at(30 * MS + 30 * US, |e| _ = e.timed(0, |w, d| schema::SpanEndAt::put(w, d, 0)));
    lane.at(30 * MS + 60 * US, |e| _ = e.timed(0, schema::SpanEnd::put));
    lane
}
