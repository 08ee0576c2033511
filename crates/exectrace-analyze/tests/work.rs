//! The lengths of a trace made by hand, against what stands in its description.

use std::collections::BTreeMap;

use trace::encode::field::ty;
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
use trace_analyze::spans::OPEN_MAX;
use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Structural;
use trace_testkit::Field;
use trace_testkit::TraceBuilder;
use trace_testkit::sample;
use trace_testkit::work;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;

/// Spans by name, tasks by name, in the order in which they ended.
struct Followed {
    spans: BTreeMap<String, Vec<Span>>,
    tasks: BTreeMap<String, Vec<Task>>,
    ends_unknown: (u64, u64),
    beyond: (u64, u64),
    events: u64,
    states: u64,
}

fn name(names: &Names, id: trace_analyze::NameId) -> String {
    let text = names.get(id).text.as_deref();
    text.map_or("?".to_owned(), |text| String::from_utf8_lossy(text).into_owned())
}

fn follow(bytes: &[u8]) -> Followed {
    follow_by(bytes, Tasks::with_runs())
}

/// The same, whatever the input is; `tasks` as they are to be followed.
fn follow_by(bytes: &[u8], mut tasks: Tasks) -> Followed {
    let (mut decoder, mut spans) = (Decoder::new(), Spans::default());
    let (mut by_span, mut by_task) = (BTreeMap::new(), BTreeMap::new());
    let (mut events, mut states) = (0, 0);
    decoder.push(bytes);
    decoder.finish();
    let mut span = |names: &Names, span: Span| {
        by_span.entry(name(names, span.name)).or_insert_with(Vec::new).push(span);
    };
    let mut task = |names: &Names, task: Task| {
        by_task.entry(name(names, task.name)).or_insert_with(Vec::new).push(task);
    };
    while let Ok(Some(item)) = decoder.next_item() {
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
            Item::Control(control) => {
                if let Structural::TaskState(state) = control.event() {
                    states += 1;
                    tasks.state(control.session(), &state);
                }
            }
            _ => {}
        }
    }
    let ends_unknown = (spans.ends_unknown(), tasks.ends_unknown());
    let beyond = (spans.too_deep(), tasks.beyond());
    Followed { spans: by_span, tasks: by_task, ends_unknown, beyond, events, states }
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

#[test]
fn tasks_and_spans_beyond_the_limits_are_counted() {
    let mut t = TraceBuilder::new(8);
    t.session(0, 1_000_000_000);
    t.definitions(|d| {
        d.string(1, "job").string(2, "deep");
        d.define(64, Class::Task, 1, &[("task", ty::TASK), ("parent", ty::TASK)]);
        d.define(65, Class::Span, 2, &[]);
    });
    let deep = OPEN_MAX as u64 + 7;
    t.events(1, 0, |e| {
        for id in 1..=15 {
            e.site(64, 1, &[Field::U64(id), Field::U64(0)]);
        }
        for id in 1..=15 {
            e.timed(1, |w, d| schema::TaskEnd::put(w, d, id));
        }
        // There is room again.
        e.site(64, 1, &[Field::U64(16), Field::U64(0)]);
        e.timed(5, |w, d| schema::TaskEnd::put(w, d, 16));
        for _ in 0..deep {
            e.site(65, 1, &[]);
        }
        for _ in 0..deep {
            e.timed(1, schema::SpanEnd::put);
        }
    });
    t.end(100_000);
    let found = follow_by(&t.bytes, Tasks::new().at_most(10));
    let ids: Vec<u64> = found.tasks["job"].iter().map(|task| task.id).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 16]);
    assert_eq!((found.beyond.1, found.ends_unknown.1), (5, 5));
    assert_eq!(found.spans["deep"].len(), OPEN_MAX);
    assert_eq!((found.beyond.0, found.ends_unknown.0), (7, 0));
    // The outermost one had all others in it: 2 * deep - 1 ns, of which 2 are its own.
    let outermost = found.spans["deep"].last().unwrap();
    assert_eq!((outermost.duration_ns(), outermost.self_ns), (Some(2 * deep - 1), 2));
}

#[test]
fn tasks_of_snapshots_and_of_threads_that_end() {
    let mut t = TraceBuilder::new(9);
    t.session(0, 1_000_000_000);
    t.definitions(|d| {
        d.string(1, "job");
        d.define(64, Class::Task, 1, &[("task", ty::TASK), ("parent", ty::TASK)]);
    });
    t.control(|c| {
        c.put(|w| schema::TaskState::put(w, 7, 3, 64, 5));
    });
    t.events(1, 10, |e| {
        e.timed(10, |w, d| schema::State::put(w, d, 7, &[], 0));
        e.timed(30, schema::ThreadEnd::put);
    });
    t.events(2, 10, |e| {
        e.timed(20, |w, d| schema::TaskSwitch::put(w, d, 7));
        e.timed(30, |w, d| schema::TaskSwitch::put(w, d, 9));
        // It still works for 9 when that one ends, and for nothing that is known afterwards.
        e.timed(10, |w, d| schema::TaskEnd::put(w, d, 9));
        e.timed(10, |w, d| schema::State::put(w, d, 9, &[], 0));
        e.timed(10, |w, d| schema::TaskEnd::put(w, d, 7));
    });
    t.end(1_000);
    let found = follow(&t.bytes);
    let [seven] = &found.tasks["job"][..] else { panic!("one job") };
    assert_eq!((seven.id, seven.parent, seven.began_ns, seven.ended_ns), (7, 3, Some(5), Some(90)));
    // From 20 to 50 on thread 1, from 30 to 60 on thread 2.
    let runs: Vec<(u32, u64)> = seven.runs.iter().map(|r| (r.thread, r.entered_ns)).collect();
    assert_eq!((runs, seven.entered_ns), (vec![(1, 30), (2, 30)], 60));
    let [nine] = &found.tasks["?"][..] else { panic!("one without a name") };
    assert_eq!((nine.id, nine.began_ns, nine.ended_ns, nine.entered_ns), (9, None, Some(70), 10));
}

#[test]
fn no_input_makes_it_panic_or_tell_of_more_than_there_was() {
    let samples = [sample::hostile(), sample::small(), work::work()];
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let (mut checked, mut told) = (0, 0);
    for sample in &samples {
        let plain = sample::unsealed(sample);
        for round in 0..600 {
            let mut changed = plain.clone();
            for _ in 0..round % 12 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                let at = (seed >> 8) as usize % changed.len();
                changed[at] = seed as u8;
            }
            let found = follow(&sample::sealed_from(&changed));
            let spans: usize = found.spans.values().map(Vec::len).sum();
            let tasks: usize = found.tasks.values().map(Vec::len).sum();
            // A State event may open as many spans as it lists, each a byte at least; one event may
            // tell of a task and of its parent.
            assert!(spans <= changed.len(), "{round}");
            assert!(tasks as u64 <= 2 * (found.events + found.states), "{round}");
            told += spans + tasks;
            checked += 1;
        }
    }
    assert!(checked == 1800 && told > 10_000, "{checked} {told}");
}
