//! What a program emits is what a reader decodes: every macro, every type of field, spans and tasks
//! in and out of order, threads, snapshots and clocks.

mod support;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use support::Capture;
use trace::Config;
use trace::StackKind;
use trace::encode::schema;
use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Structural;
use trace_decode::Value;

/// An event, as a reader sees it.
#[derive(Debug)]
struct Seen {
    ts_ns: u64,
    thread: u32,
    kind: String,
    name: String,
    fields: Vec<(String, String)>,
    depth: u32,
    task: u64,
    frames: Option<u64>,
    line: u64,
    file: String,
}

impl Seen {
    fn is(&self, kind: &str, name: &str) -> bool {
        self.kind == kind && self.name == name
    }

    fn field(&self, name: &str) -> &str {
        &self.fields.iter().find(|f| f.0 == name).expect(name).1
    }

    fn number(&self, name: &str) -> u64 {
        self.field(name).parse().expect("a number")
    }
}

#[derive(Debug, Default)]
struct Thread {
    number: u64,
    tid: u64,
    creator: u64,
    name: String,
    function: String,
}

#[derive(Default)]
struct Trace {
    events: Vec<Seen>,
    threads: Vec<Thread>,
    /// Thread states: number, kernel number, name, state, task, open spans.
    states: Vec<(u64, u64, String, u64, u64, u64)>,
    /// Clock snapshots: ticks, monotonic, wall.
    clocks: Vec<(u64, u64, u64)>,
    pid: u64,
    program: String,
    tick_shift: u64,
}

impl Trace {
    fn of(&self, kind: &str, name: &str) -> Vec<&Seen> {
        self.events.iter().filter(|e| e.is(kind, name)).collect()
    }

    #[track_caller]
    fn one(&self, kind: &str, name: &str) -> &Seen {
        let found = self.of(kind, name);
        assert_eq!(found.len(), 1, "{kind} {name}");
        found[0]
    }

    /// The kinds and names of a thread's events, in their order.
    fn order(&self, thread: u32) -> Vec<String> {
        let of = self.events.iter().filter(|e| e.thread == thread);
        of.map(|e| format!("{} {}", e.kind, e.name)).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).expect("text").to_owned()
}

fn show(value: Value<'_>) -> String {
    match value {
        Value::U64(v) | Value::Task(v) | Value::Stack(v) | Value::Thread(v) => v.to_string(),
        Value::I64(v) => v.to_string(),
        Value::F64(v) => format!("{v:?}"),
        Value::Bool(v) => v.to_string(),
        Value::Text(t) => match t.cut_from {
            Some(len) => format!("{} of {len}", text(t.bytes)),
            None => text(t.bytes),
        },
        Value::List(l) => format!("{:?}", l.iter().collect::<Vec<_>>()),
        other => panic!("no field of the program: {other:?}"),
    }
}

fn decode(bytes: &[u8]) -> Trace {
    support::assert_valid(bytes);
    let mut trace = Trace::default();
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    decoder.finish();
    while let Some(item) = decoder.next_item().unwrap() {
        match item {
            Item::Event(e) => {
                let tables = e.tables();
                let site = e.site();
                let string = |id| tables.string(id).map_or(String::new(), |t| text(t.bytes));
                trace.events.push(Seen {
                    ts_ns: e.ts_ns,
                    thread: e.thread,
                    kind: text(e.kind_name().bytes),
                    name: e.name().map_or(String::new(), |n| text(n.bytes)),
                    fields: e.fields().map(|(n, v)| (text(n), show(v))).collect(),
                    depth: e.depth,
                    task: e.task,
                    frames: e.stack().and_then(|id| tables.stack(id)).map(|s| s.len()),
                    line: site.map_or(0, |s| s.line),
                    file: site.map_or(String::new(), |s| string(s.file)),
                });
            }
            Item::Control(c) => match c.event() {
                Structural::ThreadState(s) => trace.states.push((
                    s.thread,
                    s.tid,
                    text(s.name.bytes),
                    s.state,
                    s.task,
                    s.spans.len(),
                )),
                Structural::ClockSnapshot(s) => trace.clocks.push((s.at, s.mono_ns, s.wall_ns)),
                _ => {}
            },
            Item::SessionEnd(s) => {
                let info = s.info().expect("a beginning");
                (trace.pid, trace.tick_shift) = (info.pid, info.tick_shift);
                trace.program = text(&info.program);
                let one = |t: &trace_decode::tables::Thread| Thread {
                    number: t.number,
                    tid: t.tid,
                    creator: t.creator,
                    name: text(&t.name),
                    function: text(&t.function),
                };
                trace.threads = s.threads().map(one).collect();
            }
            Item::Damage(d) => panic!("{d}"),
            _ => {}
        }
    }
    trace
}

/// Records what `f` does, and decodes it.
fn record(config: Config, f: impl FnOnce()) -> Trace {
    let out = Capture::default();
    config.start(out.clone()).unwrap();
    f();
    let summary = trace::stop().unwrap();
    let t = decode(&out.bytes());
    assert_eq!((summary.events, summary.lost), (t.events.len() as u64, 0));
    t
}

#[test]
fn every_type_of_field() {
    let _alone = support::alone();
    let owned = String::from("owned");
    let t = record(Config::new(), || {
        trace::instant!("u", a = 0u8, b = u16::MAX, c = u32::MAX, d = u64::MAX, e = usize::MAX);
        trace::instant!("i", a = -1i8, b = i16::MIN, c = i32::MIN, d = i64::MIN, e = isize::MAX);
        trace::instant!("f", a = 1.5f64, b = -0.0f64, c = f64::INFINITY, d = 0.1f32);
        trace::instant!("nan", a = f64::NAN);
        trace::instant!("b", yes = true, no = false);
        trace::instant!("s", a = "", b = "text", c = owned, d = &owned, e = owned.as_str());
        trace::instant!("none");
        trace::counter!("level", 12);
        trace::counter!("level f", 0.25);
        for v in [0u64, 127, 128, 16_383, 16_384, 1 << 56, (1 << 56) - 1, u64::MAX] {
            trace::instant!("widths", v = v, w = v as i64);
        }
    });
    let fields = |name: &str| -> Vec<String> {
        let seen = &t.one("instant", name).fields;
        seen.iter().map(|(n, v)| format!("{n}={v}")).collect()
    };
    let max = u64::MAX;
    assert_eq!(
        fields("u"),
        ["a=0", "b=65535", "c=4294967295", &format!("d={max}"), &format!("e={max}")]
    );
    let (low, high) = (i64::MIN, i64::MAX);
    assert_eq!(
        fields("i"),
        ["a=-1", "b=-32768", "c=-2147483648", &format!("d={low}"), &format!("e={high}")]
    );
    assert_eq!(fields("f"), ["a=1.5", "b=-0.0", "c=inf", "d=0.10000000149011612"]);
    assert_eq!(fields("nan"), ["a=NaN"]);
    assert_eq!(fields("b"), ["yes=true", "no=false"]);
    assert_eq!(fields("s"), ["a=", "b=text", "c=owned", "d=owned", "e=owned"]);
    assert!(fields("none").is_empty());
    assert_eq!(t.one("counter", "level").field("value"), "12");
    assert_eq!(t.one("counter", "level f").field("value"), "0.25");
    let widths: Vec<(u64, i64)> = t
        .of("instant", "widths")
        .iter()
        .map(|e| (e.number("v"), e.field("w").parse().unwrap()))
        .collect();
    let given = [0u64, 127, 128, 16_383, 16_384, 1 << 56, (1 << 56) - 1, u64::MAX];
    assert_eq!(widths, given.map(|v| (v, v as i64)));
}

#[test]
fn a_site_says_where_it_stands() {
    let _alone = support::alone();
    let line = line!() + 2;
    let t = record(Config::new().stacks([StackKind::Instant]), || {
        trace::instant!("here");
        trace::log!(net, "without a stack");
        trace::span("made at run time", || ());
    });
    let here = t.one("instant", "here");
    assert_eq!((here.line, here.file.as_str()), (line.into(), file!()));
    assert!(here.frames.is_some_and(|n| n >= 3), "{here:?}");
    let log = t.one("log", "net");
    assert_eq!((log.line, log.frames), (u64::from(line) + 1, None));
    let made = t.one("span", "made at run time");
    assert_eq!((made.line, made.file.as_str()), (u64::from(line) + 2, file!()));
}

#[test]
fn arguments_are_evaluated_once_and_only_while_on() {
    let _alone = support::alone();
    let mut calls = 0;
    let mut count = |n: u64| {
        calls += n;
        calls
    };
    trace::instant!("off", n = count(1));
    trace::log!(off, "{}", count(1));
    let _span = trace::span!("off", n = count(1));
    let _task = trace::task!("off", n = count(1));
    trace::counter!("off", count(1));
    assert_eq!(count(0), 0);
    let t = record(Config::new(), || trace::instant!("on", n = count(1)));
    assert_eq!(calls, 1);
    assert_eq!(t.one("instant", "on").number("n"), 1);
    assert!(t.events.iter().all(|e| e.name != "off"));
}

/// A macro call expands to an expression of the value that it says, in any place.
#[test]
fn span_returns_the_value_of_its_closure() {
    let _alone = support::alone();
    assert_eq!(trace::span("off", || 3), 3);
    let t = record(Config::new(), || {
        let s = trace::span("on", || String::from("moved out"));
        assert_eq!(s, "moved out");
    });
    let (begin, end) = (t.one("span", "on"), t.one("SpanEnd", "on"));
    assert!(begin.ts_ns <= end.ts_ns);
    assert_eq!((begin.depth, end.depth), (0, 1));
}

#[test]
fn spans_nested_and_out_of_order() {
    let _alone = support::alone();
    let t = record(Config::new(), || {
        let a = trace::span!("a");
        let b = trace::span!("b", n = 1);
        let c = trace::span!("c");
        drop(a);
        let d = trace::span!("d");
        drop(c);
        drop(d);
        drop(b);
        for n in 0..3 {
            let _outer = trace::span!("outer", n = n);
            let _inner = trace::span!("inner");
        }
    });
    let order = t.order(t.one("span", "a").thread);
    let mut expected = vec![
        "ThreadStart ",
        "span a",
        "span b",
        "span c",
        "SpanEndAt a",
        "span d",
        "SpanEndAt c",
        "SpanEnd d",
        "SpanEnd b",
    ];
    for _ in 0..3 {
        expected.extend(["span outer", "span inner", "SpanEnd inner", "SpanEnd outer"]);
    }
    let expected = expected.split_off(usize::from(order[0] != "ThreadStart "));
    assert_eq!(order, expected);
    let depths = |kind: &str, name: &str| t.of(kind, name)[0].depth;
    assert_eq!((depths("SpanEndAt", "a"), depths("span", "d")), (3, 2));
    assert_eq!(t.one("SpanEndAt", "a").number("depth"), 0);
    assert_eq!(t.one("SpanEndAt", "c").number("depth"), 1);
}

/// Spans that begin and end in any order, up to forty open at once: each end names its own span.
#[test]
fn spans_in_any_order() {
    fn begin(n: u64) -> trace::Span {
        match n {
            0 => trace::span!("s0"),
            1 => trace::span!("s1"),
            2 => trace::span!("s2"),
            3 => trace::span!("s3"),
            _ => trace::span!("s4"),
        }
    }
    let _alone = support::alone();
    let mut seed = 88_172_645_463_325_252u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 33) as usize % below
    };
    let mut expected = Vec::new();
    let t = record(Config::new().generation(Duration::from_millis(2)), || {
        let mut open = Vec::new();
        for round in 0..4000 {
            let most = [3, 40, 1, 12][round / 100 % 4];
            if open.len() < most && random(3) > 0 {
                let n = random(5) as u64;
                open.push((n, begin(n)));
                expected.push(format!("span s{n}"));
            } else if !open.is_empty() {
                let (n, span) = open.remove(random(open.len()));
                drop(span);
                expected.push(format!("end s{n}"));
            }
            if round % 500 == 0 {
                std::thread::sleep(Duration::from_millis(4));
            }
        }
        for (n, span) in open.drain(..) {
            drop(span);
            expected.push(format!("end s{n}"));
        }
        trace::instant!("none open");
    });
    let mut seen = Vec::new();
    for e in &t.events {
        match e.kind.as_str() {
            "span" => seen.push(format!("span {}", e.name)),
            "SpanEnd" | "SpanEndAt" => seen.push(format!("end {}", e.name)),
            _ => {}
        }
    }
    assert!(seen.len() > 2000);
    let differ = seen.iter().zip(&expected).position(|(a, b)| a != b);
    assert_eq!(differ, None);
    assert_eq!(seen.len(), expected.len());
    assert_eq!(t.one("instant", "none open").depth, 0);
}

#[test]
fn a_task_crosses_threads() {
    let _alone = support::alone();
    let t = record(Config::new(), || {
        let task = trace::task!("request", path = "/index");
        assert_eq!(trace::current_task(), 0);
        let parent = task.id();
        {
            let _entered = task.enter();
            assert_eq!(trace::current_task(), parent);
            trace::instant!("in the task");
            let child = trace::task!("child");
            {
                let _entered = child.enter();
                trace::instant!("in the child");
            }
            trace::instant!("in the task again");
            child.end();
        }
        trace::instant!("outside");
        let worker = std::thread::spawn(move || {
            trace::log!(task: task, http, "for {}", 1);
            let _span = trace::span!(task: task, "explicit", n = 2);
            {
                let _entered = task.enter();
                trace::instant!("on the other thread");
            }
            task
        });
        let task = worker.join().unwrap();
        trace::task!(parent: task, "named parent").end();
    });
    let (task, child) = (t.one("task", "request"), t.one("task", "child"));
    let (id, child_id) = (task.number("task"), child.number("task"));
    assert_eq!(task.field("path"), "/index");
    assert_eq!((task.number("parent"), child.number("parent")), (0, id));
    assert!(id != 0 && child_id != 0 && id != child_id);
    assert_eq!(t.one("task", "named parent").number("parent"), id);
    let of = |name: &str| t.one("instant", name).task;
    assert_eq!(of("in the task"), id);
    assert_eq!(of("in the child"), child_id);
    assert_eq!(of("in the task again"), id);
    assert_eq!(of("outside"), 0);
    assert_eq!(of("on the other thread"), id);
    let log = t.one("log", "http");
    assert_eq!((log.number("task"), log.task, log.field("text")), (id, 0, "for 1"));
    let span = t.one("span", "explicit");
    assert_eq!((span.number("task"), span.number("n")), (id, 2));
    assert_ne!(span.thread, task.thread);
    let ended: BTreeSet<u64> = t.of("TaskEnd", "").iter().map(|e| e.number("task")).collect();
    let begun: BTreeSet<u64> =
        t.events.iter().filter(|e| e.kind == "task").map(|e| e.number("task")).collect();
    assert_eq!((ended.len(), ended), (3, begun));
    assert!(task.frames.is_some_and(|n| n > 3), "tasks have stacks: {task:?}");
}

/// Texts of logs from nothing to 64 KiB, formatted and literal: whole up to 32 KiB.
#[test]
fn logs_of_every_length() {
    let _alone = support::alone();
    let long: String = (0..65_536u32).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
    let lengths: Vec<usize> = (0..66)
        .map(|i| i * 1000)
        .chain([1, 2, 1023, 1024, 1025, 1026, 32_767, 32_768, 32_769, 65_535, 65_536])
        .collect();
    let config = Config::new().stacks([]);
    let t = record(config, || {
        for len in &lengths {
            trace::log!(long, "{}", &long[..*len]);
            // In pieces of different size.
            let (a, b) = long[..*len].split_at(len / 3);
            trace::log!("in pieces", "{a}{b}{:>4}", 7);
        }
        trace::log!(literal, "no arguments");
    });
    for (name, tail) in [("long", ""), ("in pieces", "   7")] {
        let seen = t.of("log", name);
        assert_eq!(seen.len(), lengths.len());
        for (log, len) in seen.iter().zip(&lengths) {
            let whole = format!("{}{tail}", &long[..*len]);
            let expected = match whole.len() > 32_768 {
                true => format!("{} of {}", &whole[..32_768], whole.len()),
                false => whole,
            };
            assert!(log.field("text") == expected, "{name} of {len}");
        }
    }
    assert_eq!(t.one("log", "literal").field("text"), "no arguments");
}

/// What a thread is in the middle of stands at the beginning of each of its batches.
#[test]
fn batches_open_with_the_state() {
    let _alone = support::alone();
    let config = Config::new().generation(Duration::from_millis(5));
    let t = record(config, || {
        let task = trace::task!("job");
        let _entered = task.enter();
        let _outer = trace::span!("outer");
        let _inner = trace::span!("inner");
        for n in 0..20 {
            trace::emit_probe(n);
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let id = t.one("task", "job").number("task");
    let states = t.of("State", "");
    assert!(states.len() >= 3, "{} batches", states.len());
    for s in &states {
        assert_eq!((s.number("task"), s.number("deeper")), (id, 0));
        assert_eq!((s.field("spans").split(',').count(), s.depth, s.task), (2, 2, id));
    }
    assert_eq!(t.of("instant", "probe").len(), 20);
}

#[test]
fn threads_say_who_made_them_and_what_they_run() {
    fn works() -> u32 {
        trace::instant!("work");
        7
    }
    let _alone = support::alone();
    let mut tid = 0;
    let t = record(Config::new(), || {
        let named = trace::thread::Builder::new().name("compressor".into());
        assert_eq!(named.spawn(works).unwrap().join().unwrap(), 7);
        let inner = || trace::thread::spawn(support::tid).join().unwrap();
        tid = trace::thread::spawn(inner).join().unwrap();
        // One that is not told to the recorder before it emits.
        let plain = std::thread::Builder::new().name("plain".into());
        plain.spawn(|| trace::emit_probe(3)).unwrap().join().unwrap();
    });
    let by_name = |name: &str| t.threads.iter().find(|x| x.name == name).expect(name);
    let compressor = by_name("compressor");
    assert!(compressor.function.ends_with("works"), "{compressor:?}");
    let work = t.one("instant", "work");
    assert_eq!(u64::from(work.thread), compressor.number);
    let plain = by_name("plain");
    assert_eq!((plain.creator, plain.function.as_str()), (0, ""));
    let innermost = t.threads.iter().find(|x| x.tid == u64::from(tid)).expect("registered");
    let middle = t.threads.iter().find(|x| x.number == innermost.creator).expect("its creator");
    assert_eq!(middle.creator, compressor.creator, "both by the test's thread");
    let creates = t.of("ThreadCreate", "");
    assert_eq!(creates.len(), 3);
    for (create, made) in creates.iter().zip([compressor, middle, innermost]) {
        assert_eq!(create.number("thread"), made.number);
        assert_eq!(u64::from(create.thread), made.creator);
        assert!(create.frames.is_some_and(|n| n > 2), "{create:?}");
    }
    for made in [compressor, middle, innermost, plain] {
        let order = t.order(made.number as u32);
        assert_eq!(order.first().map(String::as_str), Some("ThreadStart "));
        assert_eq!(order.last().map(String::as_str), Some("ThreadEnd "));
    }
}

/// Start and stop list the threads that are there, with what they are doing.
#[test]
fn snapshots_at_start_and_stop() {
    let _alone = support::alone();
    let (send, wait) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel::<u32>();
    let idle = std::thread::Builder::new().name("idle".into());
    let idle = idle
        .spawn(move || {
            tell.send(support::tid()).unwrap();
            let _ = wait.recv();
        })
        .unwrap();
    let idle_tid = told.recv().unwrap();
    let mut id = 0;
    let mut job = None;
    let t = record(Config::new(), || {
        let task = trace::task!("job");
        id = task.id();
        std::mem::forget(task.enter());
        std::mem::forget(trace::span!("one"));
        std::mem::forget(trace::span!("two"));
        job = Some(task);
    });
    let states = &t.states;
    let unregistered = states.iter().find(|s| s.1 == u64::from(idle_tid)).expect("listed");
    let expected = (0, u64::from(idle_tid), "idle".into(), schema::STATE_UNREGISTERED, 0, 0);
    assert_eq!(*unregistered, expected);
    let me = states.iter().rfind(|s| s.1 == u64::from(support::tid())).expect("listed");
    assert_eq!((me.3, me.4, me.5), (schema::STATE_RUNNING, id, 2));
    let without = record(Config::new().thread_snapshot(false), || ());
    assert!(without.states.is_empty());
    drop((send, job));
    idle.join().unwrap();
}

/// Clocks go forward, agree with each other, and with the time of day; a sleep takes its time.
#[test]
fn clocks_and_times() {
    let _alone = support::alone();
    let wall = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let before = wall();
    let nap = Duration::from_millis(40);
    let t = record(Config::new().generation(Duration::from_millis(5)), || {
        trace::instant!("before");
        std::thread::sleep(nap);
        trace::instant!("after");
    });
    let after = wall();
    assert!(t.clocks.len() >= 4, "{} snapshots", t.clocks.len());
    assert!(t.clocks.windows(2).all(|w| w[0].0 <= w[1].0 && w[0].1 <= w[1].1));
    assert!(t.clocks.iter().all(|c| (before..=after).contains(&c.2)));
    let slept = t.one("instant", "after").ts_ns - t.one("instant", "before").ts_ns;
    assert!(slept >= nap.as_nanos() as u64 * 99 / 100, "{slept} ns");
    assert!(slept <= after - before, "{slept} ns");
    let mut last = BTreeMap::new();
    for e in &t.events {
        assert!(e.ts_ns >= last.insert(e.thread, e.ts_ns).unwrap_or(0));
    }
    assert_eq!(t.pid, u64::from(std::process::id()));
    assert!(t.program.contains("round_trip"), "{}", t.program);
    assert!(t.tick_shift < 8);
}

/// Two sessions behind each other in one writer are two sessions of one trace.
#[test]
fn sessions_in_a_row() {
    let _alone = support::alone();
    let out = Capture::default();
    for n in 0..3 {
        trace::start(out.clone()).unwrap();
        trace::emit_probe(n);
        trace::stop().unwrap();
    }
    let bytes = out.take();
    support::assert_valid(&bytes);
    let c = support::contents(&bytes);
    assert_eq!((c.sessions, c.threads.values().map(|t| t.sum).sum::<u64>()), (3, 3));
}
