//! The lengths of a trace made by hand, against what stands in its description.

use std::collections::BTreeMap;

use trace::encode::schema;
use trace::encode::schema::Class;
use trace_analyze::Latencies;
use trace_analyze::NameId;
use trace_analyze::Names;
use trace_analyze::Percentile;
use trace_analyze::Run;
use trace_analyze::Span;
use trace_analyze::Spans;
use trace_analyze::Task;
use trace_analyze::Tasks;
use trace_analyze::names::NAMES_MAX;
use trace_decode::Decoder;
use trace_decode::Item;
use trace_testkit::TraceBuilder;
use trace_testkit::work;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;

/// Spans by name, tasks by name, in the order in which they ended.
struct Followed {
    spans: BTreeMap<String, Vec<Span>>,
    tasks: BTreeMap<String, Vec<Task>>,
    ends_unknown: (u64, u64),
    events: u64,
}

fn name(names: &Names, id: trace_analyze::NameId) -> String {
    let text = names.get(id).text.as_deref();
    text.map_or("?".to_owned(), |text| String::from_utf8_lossy(text).into_owned())
}

fn follow(bytes: &[u8]) -> Followed {
    let (mut decoder, mut spans, mut tasks) =
        (Decoder::new(), Spans::default(), Tasks::with_runs());
    let (mut by_span, mut by_task) = (BTreeMap::new(), BTreeMap::new());
    let mut events = 0;
    decoder.push(bytes);
    decoder.finish();
    let mut span = |names: &Names, span: Span| {
        by_span.entry(name(names, span.name)).or_insert_with(Vec::new).push(span);
    };
    let mut task = |names: &Names, task: Task| {
        by_task.entry(name(names, task.name)).or_insert_with(Vec::new).push(task);
    };
    while let Some(item) = decoder.next_item().unwrap() {
        match item {
            Item::SessionBegin(_) => {
                spans.begin_session();
                tasks.begin_session();
            }
            Item::Event(event) => {
                events += 1;
                spans.event(&event, &mut span);
                tasks.event(&event, &mut task);
            }
            Item::SessionEnd(session) => {
                spans.end_session(&mut span);
                tasks.end_session(session.duration_ns(), &mut task);
            }
            Item::Damage(damage) => panic!("{damage}"),
            _ => {}
        }
    }
    let ends_unknown = (spans.ends_unknown(), tasks.ends_unknown());
    Followed { spans: by_span, tasks: by_task, ends_unknown, events }
}

fn lengths(spans: &[Span]) -> Vec<u64> {
    spans.iter().filter_map(Span::duration_ns).collect()
}

#[test]
fn spans_have_the_lengths_that_were_written() {
    let found = follow(&work::work().bytes);
    assert_eq!(found.events, work::EVENTS);
    let names: Vec<&str> = found.spans.keys().map(String::as_str).collect();
    assert_eq!(names, ["handle", "lock_a", "lock_b", "on_signal", "read"]);

    let handle = &found.spans["handle"];
    let want: Vec<u64> = (1..=10).map(|i| 50 * US * i).collect();
    assert_eq!(lengths(handle), want);
    // Within each stood a read of 20 us and i us.
    for (i, span) in (1..=10).zip(handle) {
        assert_eq!(span.self_ns, 50 * US * i - 20 * US - i * US, "handle {i}");
        assert_eq!((span.thread, span.lane), (2, 0));
    }
    let open = handle[10];
    assert_eq!((open.began_ns, open.ended_ns), (Some(12 * MS + 100 * US), None));
    assert_eq!(handle.len(), 11);

    let read = &found.spans["read"];
    assert_eq!(lengths(read), (1..=10).map(|i| 20 * US + i * US).collect::<Vec<_>>());
    assert!(read[..10].iter().all(|s| Some(s.self_ns) == s.duration_ns()));
    let unseen = read[10];
    assert_eq!((unseen.began_ns, unseen.ended_ns), (None, Some(20 * MS + 500 * US)));
    assert_eq!((unseen.thread, read.len()), (4, 11));
    assert_eq!(found.ends_unknown, (1, 0));

    // They overlap: the first is innermost for 10 us only, the second from then to its end.
    let of = |name: &str| {
        let [span] = found.spans[name][..] else { panic!("{name}") };
        (span.duration_ns(), span.self_ns, span.lane)
    };
    assert_eq!(of("lock_a"), (Some(30 * US), 10 * US, 0));
    assert_eq!(of("lock_b"), (Some(50 * US), 50 * US, 0));
    assert_eq!(of("on_signal"), (Some(7 * US), 7 * US, 1));
}

#[test]
fn tasks_have_the_latencies_that_were_written_and_ran_where_they_did() {
    let found = follow(&work::work().bytes);
    assert_eq!(found.tasks.keys().collect::<Vec<_>>(), ["flush", "request"]);
    let requests = &found.tasks["request"];
    let latencies: Vec<Option<u64>> = requests.iter().map(Task::latency_ns).collect();
    let want: Vec<Option<u64>> = (1..=10).map(|i| Some(i * MS)).chain([None]).collect();
    assert_eq!(latencies, want);
    for (i, task) in (1..=10).zip(requests) {
        assert_eq!((task.id, task.parent, task.began_on, task.ended_on), (i, 0, 1, 3));
        let worker =
            Run { thread: 2, first_ns: i * MS + 100 * US, entered_ns: 50 * US * i, times: 1 };
        let sender =
            Run { thread: 3, first_ns: 2 * i * MS - 30 * US, entered_ns: 20 * US, times: 1 };
        assert_eq!(task.runs, [worker, sender], "request {i}");
        assert_eq!(task.entered_ns, 50 * US * i + 20 * US);
    }
    let open = &requests[10];
    assert_eq!((open.id, open.began_ns, open.ended_ns), (12, Some(12 * MS), None));
    // The worker is in it until the session ends at 40 ms.
    assert_eq!(open.entered_ns, 40 * MS - 12 * MS - 100 * US);

    let [flush] = &found.tasks["flush"][..] else { panic!("one flush") };
    assert_eq!((flush.parent, flush.latency_ns(), flush.began_on), (3, Some(250 * US), 3));
    assert!(flush.runs.is_empty());

    let mut all = Latencies::default();
    requests.iter().filter_map(Task::latency_ns).for_each(|ns| all.add(ns));
    // Places 5, 9 and ceil(9.9) = 10 of 1 to 10 ms.
    let asked = [Percentile::P50, Percentile::P90, Percentile::P99];
    assert_eq!(all.percentiles(asked), Some([5 * MS, 9 * MS, 10 * MS]));
    assert_eq!((all.total_ns(), all.max_ns()), (55 * MS, Some(10 * MS)));
}

#[test]
fn spans_go_on_over_a_new_table_epoch() {
    let mut t = TraceBuilder::new(5);
    t.session(0, 1_000_000_000);
    t.definitions(|d| {
        d.string(1, "outer").string(2, "inner");
        d.define(64, Class::Span, 1, &[]).define(65, Class::Span, 2, &[]);
    });
    t.events(1, 0, |e| {
        e.site(64, 10, &[]).site(65, 10, &[]);
    });
    // The number of the first span means another one from here on.
    t.next.epoch = 2;
    t.definitions(|d| {
        d.string(1, "other").define(64, Class::Span, 1, &[]);
    });
    t.next.epoch = 2;
    t.events(1, 30, |e| {
        e.timed(0, |w, d| schema::State::put(w, d, 0, &[0, 0], 0));
        e.site(64, 10, &[]);
        e.timed(10, schema::SpanEnd::put);
        e.timed(10, schema::SpanEnd::put);
        e.timed(10, schema::SpanEnd::put);
    });
    t.end(100);
    let found = follow(&t.bytes);
    let of = |name: &str| {
        let [span] = found.spans[name][..] else { panic!("{name}") };
        (span.began_ns, span.ended_ns, span.self_ns)
    };
    assert_eq!(of("other"), (Some(40), Some(50), 10));
    assert_eq!(of("inner"), (Some(20), Some(60), 30));
    assert_eq!(of("outer"), (Some(10), Some(70), 20));
    assert_eq!(found.spans.len(), 3);
}

#[test]
fn names_beyond_the_limit_share_one() {
    let mut t = TraceBuilder::new(6);
    t.session(0, 1_000_000_000);
    let names = NAMES_MAX as u64 + 10;
    for from in (0..names).step_by(500) {
        t.definitions(|d| {
            for i in from..(from + 500).min(names) {
                d.string(i + 1, &format!("n{i}")).define(64 + i, Class::Span, i + 1, &[]);
            }
        });
        t.events(1, from, |e| {
            for i in from..(from + 500).min(names) {
                e.site(64 + i, 0, &[]).timed(1, schema::SpanEnd::put);
            }
        });
    }
    t.end(names);
    let found = follow(&t.bytes);
    // What is beyond has no name of its own.
    assert_eq!(found.spans.len(), NAMES_MAX + 1);
    assert_eq!(found.spans["?"].len(), 10);
    assert!(found.spans["?"].iter().all(|s| s.name == NameId::BEYOND));
    assert!(found.spans.values().flatten().all(|s| s.duration_ns() == Some(1)));
}

#[test]
fn a_prefix_has_a_part_of_it_and_nothing_else() {
    let whole = work::work();
    let want = follow(&whole.bytes);
    let mut seen = 0;
    for &end in &whole.offsets[1..] {
        let found = follow(&whole.bytes[..end]);
        for (name, spans) in &found.spans {
            let known = lengths(&want.spans[name]);
            assert!(lengths(spans).iter().all(|ns| known.contains(ns)), "{name} to {end}");
            seen += spans.len();
        }
    }
    assert!(seen > 20, "{seen}");
}
