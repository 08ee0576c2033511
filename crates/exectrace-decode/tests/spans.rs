//! Open spans: which lane they belong to, and what a lost end does to them.

use trace::encode::schema;
use trace::encode::schema::Cause;
use trace::encode::schema::Class;
use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Validate;
use trace_decode::validate::What;
use trace_testkit::Body;
use trace_testkit::TraceBuilder;
use trace_testkit::expect::everything;

const OUTER: u64 = 64;
const HANDLER: u64 = 65;
const HIT: u64 = 66;

fn begin() -> TraceBuilder {
    let mut t = TraceBuilder::new(7);
    t.session(0, 1_000_000_000);
    t.control(|c| {
        c.clock(0, 0, 0);
    });
    t.definitions(|d| {
        d.string(1, "outer").string(2, "handler").string(3, "hit").thread(1, 101, "one");
        d.define(OUTER, Class::Span, 1, &[]).define(HANDLER, Class::Span, 2, &[]);
        d.define(HIT, Class::Instant, 3, &[]);
    });
    t
}

/// Time, lane, kind or name, depth and task before it, and how long it took.
type Line = (u64, u8, String, u32, u64, Option<u64>);

fn lines(bytes: &[u8]) -> Vec<Line> {
    let mut d = Decoder::new();
    d.push(bytes);
    d.finish();
    let mut lines = Vec::new();
    while let Some(item) = d.next_item().unwrap() {
        let Item::Event(e) = item else { continue };
        let name = e.name().unwrap_or(e.kind_name()).bytes;
        let name = String::from_utf8(name.to_vec()).unwrap();
        lines.push((e.ts_ns, e.lane, name, e.depth, e.task, e.duration_ns()));
    }
    lines
}

/// A handler's span, begun and ended while the thread has one open, and one that the thread ends
/// while the handler's is open.
#[test]
fn each_lane_has_its_own() {
    let mut t = begin();
    t.events(1, 10, |e| {
        e.timed(0, schema::ThreadStart::put);
        e.timed(1, |w, d| schema::TaskSwitch::put(w, d, 9));
        e.site(OUTER, 9, &[]).site(OUTER, 10, &[]);
        e.timed(20, schema::SpanEnd::put); // at 50
        e.timed(50, schema::SpanEnd::put); // at 100
    });
    t.events_of(1, 1, 25, |e| {
        e.site(HANDLER, 0, &[]).site(HIT, 1, &[]);
        e.timed(1, schema::SpanEnd::put); // at 27
        e.site(HANDLER, 13, &[]); // at 40
        e.site(HANDLER, 2, &[]);
        e.timed(18, schema::SpanEnd::put); // at 60
        e.timed(5, schema::SpanEnd::put); // at 65
    });
    t.end(200);
    let line = |at, lane, name: &str, depth, task, took| (at, lane, name.into(), depth, task, took);
    let want: Vec<Line> = vec![
        line(10, 0, "ThreadStart", 0, 0, None),
        line(11, 0, "TaskSwitch", 0, 0, None),
        line(20, 0, "outer", 0, 9, None),
        line(25, 1, "handler", 0, 9, None),
        line(26, 1, "hit", 1, 9, None),
        line(27, 1, "handler", 1, 9, Some(2)),
        line(30, 0, "outer", 1, 9, None),
        line(40, 1, "handler", 0, 9, None),
        line(42, 1, "handler", 1, 9, None),
        line(50, 0, "outer", 2, 9, Some(20)),
        line(60, 1, "handler", 2, 9, Some(18)),
        line(65, 1, "handler", 1, 9, Some(25)),
        line(100, 0, "outer", 1, 9, Some(80)),
    ];
    assert_eq!(lines(&t.bytes), want);
    assert_eq!(everything(&t.bytes, 100).problems, []);
}

#[test]
fn an_end_in_one_lane_ends_nothing_in_the_other() {
    let mut t = begin();
    t.events(1, 10, |e| {
        e.timed(0, schema::ThreadStart::put);
        e.site(OUTER, 1, &[]);
    });
    t.events_of(1, 1, 20, |e| {
        e.timed(0, schema::SpanEnd::put);
    });
    t.events(1, 30, |e| {
        e.timed(0, |w, d| schema::State::put(w, d, 0, &[OUTER], 0));
        e.timed(5, schema::SpanEnd::put);
    });
    t.end(200);
    let ends: Vec<Line> = lines(&t.bytes).into_iter().filter(|l| l.0 == 20 || l.0 == 35).collect();
    let want = [(20, 1, "SpanEnd".into(), 0, 0, None), (35, 0, "outer".into(), 1, 0, Some(24))];
    assert_eq!(ends, want);
    // The lane began with this session, so nothing can be open there.
    assert_eq!(everything(&t.bytes, 100).problems, [What::Spans]);
}

/// A span whose end is not there: the next batch says that nothing is open. Then an end too many.
fn unbalanced(losses: impl FnOnce(&mut Body)) -> TraceBuilder {
    let mut t = begin();
    t.events(1, 10, |e| {
        e.timed(0, schema::ThreadStart::put);
        e.site(OUTER, 1, &[]);
    });
    t.events(1, 20, |e| {
        e.timed(0, |w, d| schema::State::put(w, d, 0, &[], 0));
        e.timed(0, schema::SpanEnd::put);
    });
    t.control(losses);
    t
}

fn problems(bytes: &[u8]) -> Vec<String> {
    let mut v = Validate::new();
    v.push(bytes).unwrap();
    v.finish().unwrap();
    assert_eq!(v.problems_total(), v.problems().len() as u64);
    v.problems().iter().map(|p| format!("{:?}: {}", p.what, p.text)).collect()
}

#[test]
fn a_loss_explains_ends_that_are_not_there() {
    let wrong = ["Spans: 0 spans are open, 1 had begun", "Spans: a span ends where none is open"];
    let put = |c: &mut Body, thread, cause: Cause, count| {
        c.put(|w| schema::Loss::put(w, thread, cause as u64, count));
    };
    // Nothing is lost, nothing of this thread, nothing but what is known of an event.
    for (thread, cause, count) in
        [(1, Cause::PoolEmpty, 0), (2, Cause::PoolEmpty, 5), (1, Cause::StackTable, 5)]
    {
        let t = unbalanced(|c| put(c, thread, cause, count));
        let want = [&wrong[..], &["Session: the session has no end"]].concat();
        assert_eq!(problems(&t.bytes), want, "{cause:?} {thread} {count}");
    }
    for cause in [Cause::PoolEmpty, Cause::Nested] {
        let t = unbalanced(|c| put(c, 1, cause, 1));
        assert_eq!(problems(&t.bytes), ["Session: the session has no end"], "{cause:?}");
    }
    // What is lost in one session explains nothing in another.
    let lossy = unbalanced(|c| put(c, 1, Cause::PoolEmpty, 1));
    let next = unbalanced(|_| {});
    let both = [&lossy.bytes[..], &next.bytes].concat();
    let found = problems(&both);
    assert_eq!(found.iter().filter(|p| p.starts_with("Spans")).collect::<Vec<_>>(), wrong);
}

#[test]
fn all_that_is_wrong_with_spans_is_counted() {
    let mut t = begin();
    t.events(1, 10, |e| {
        e.timed(0, schema::ThreadStart::put);
        for _ in 0..5000 {
            e.timed(0, schema::SpanEnd::put);
        }
    });
    let mut v = Validate::new();
    v.push(&t.bytes).unwrap();
    assert_eq!(v.count(What::Spans), 0, "its losses are not known yet");
    v.finish().unwrap();
    assert_eq!(v.count(What::Spans), 5000);
    let kept = v.problems().iter().filter(|p| p.what == What::Spans).count();
    assert_eq!(kept, 16);
}
