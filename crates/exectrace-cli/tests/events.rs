//! `exectrace events` from the outside.

mod made;

use made::*;
use serde_json::Value;
use serde_json::json;

const WHOLE: &str = r#"session 1: /bin/prog, pid 4242
           ms  thread            kind         name and fields
        1.000  T1 main           ThreadStart
        1.250  T1 main           ThreadCreate thread=T2
        1.500  T2 worker         ThreadStart
        1.600  T2 worker         TaskBegin    request task=5 parent=none
        1.700  T2 worker         TaskSwitch   task=5
        1.800  T2 worker         Counter      queued value=-3 [task 5]
        1.900  T2 worker         Instant      tick ratio=0.5 ok=true kind="read_file" [task 5]
        2.000  T2 worker         TaskEnd      task=5 [task 5]
        2.250  T1 main           SpanBegin    read_file path="a b.txt" size=300
        2.750  T1 main           Log            http text="got \"it\""
        3.000  T1 main           SpanEnd      read_file (750.000 us)
        3.500  T2 worker         ThreadEnd    [task 5]
"#;

#[test]
fn people_read_a_line_for_each_event() {
    assert_eq!(run_on(&whole().bytes, "people", &["events"]).complete(), WHOLE);
}

#[test]
fn standard_input_gives_the_same() {
    assert_eq!(run_with_input(&whole().bytes, &["events", "-"]).complete(), WHOLE);
}

#[test]
fn programs_read_an_object_for_each_event() {
    let out = run_on(&whole().bytes, "json", &["events", "--json"]).complete();
    let lines = json_lines(&out);
    assert_eq!(lines.len(), 12);
    let begin = json!({
        "ts_ns": 2_250_000, "session": 1, "thread": 1, "tid": 4242, "kind": "SpanBegin",
        "name": "read_file", "depth": 0, "fields": { "path": "a b.txt", "size": 300 },
        "path": "a b.txt", "size": 300,
    });
    assert_eq!(lines[8], begin);
    let log = json!({
        "ts_ns": 2_750_000, "session": 1, "thread": 1, "tid": 4242, "kind": "Log",
        "name": "http", "fields": { "text": "got \"it\"" }, "text": "got \"it\"",
        "stack": [
            { "function": null, "file": null, "line": null, "addr": "0x1000", "module": null },
            { "function": null, "file": null, "line": null, "addr": "0x2000", "module": null },
        ],
    });
    assert_eq!(lines[9], log);
    let end = json!({
        "ts_ns": 3_000_000, "session": 1, "thread": 1, "tid": 4242, "kind": "SpanEnd",
        "name": "read_file", "depth": 0, "duration_ns": 750_000,
    });
    assert_eq!(lines[10], end);
    // Its own field `kind` has no place beside the kind of the event.
    let instant = json!({
        "ts_ns": 1_900_000, "session": 1, "thread": 2, "tid": 4243, "kind": "Instant",
        "name": "tick", "task": 5, "fields": { "ratio": 0.5, "ok": true, "kind": "read_file" },
        "ratio": 0.5, "ok": true,
    });
    assert_eq!(lines[6], instant);
    let create = &lines[1];
    assert_eq!(create["fields"], json!({ "thread": 2 }));
    assert_eq!(create["thread"], 1);
    assert_eq!(create["stack"], Value::Null);
    assert_eq!(lines[3]["fields"], json!({ "task": 5, "parent": null }));
    let kinds: Vec<&str> = lines.iter().map(|l| l["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds[2..6], ["ThreadStart", "TaskBegin", "TaskSwitch", "Counter"]);
}

/// Times in nanoseconds of the events that these options leave.
fn times(options: &[&str]) -> Vec<u64> {
    let mut args = vec!["events", "--json"];
    args.extend(options);
    let name = options.join("-").replace([':', '/'], "");
    let out = run_on(&whole().bytes, &name, &args).complete();
    json_lines(&out).iter().map(|l| l["ts_ns"].as_u64().unwrap() / 1_000).collect()
}

#[test]
fn filters() {
    assert_eq!(times(&["--limit", "2"]), [1_000, 1_250]);
    assert_eq!(times(&["--limit", "0"]), [0; 0]);
    assert_eq!(times(&["--thread", "1"]), [1_000, 1_250, 2_250, 2_750, 3_000]);
    assert_eq!(times(&["--thread", "1", "--thread", "2"]).len(), 12);
    assert_eq!(times(&["--thread", "3"]), [0; 0]);
    assert_eq!(times(&["--kind", "spanbegin"]), [2_250]);
    assert_eq!(times(&["--kind", "span"]), [2_250]);
    assert_eq!(times(&["--kind", "span:read_file"]), [2_250]);
    assert_eq!(times(&["--kind", "span:other"]), [0; 0]);
    assert_eq!(times(&["--kind", "log", "--kind", "TaskEnd"]), [2_000, 2_750]);
    assert_eq!(times(&["--name", "read_file"]), [2_250, 3_000]);
    assert_eq!(times(&["--name", "read_file", "--kind", "SpanEnd", "--limit", "5"]), [3_000]);
}

#[test]
fn spans_stand_under_those_that_hold_them() {
    let mut made = Made::session(9);
    define(&mut made, &[]);
    made.timed(1, 0, 0, |b| {
        for _ in 0..3 {
            b.site(SPAN, 1_000, |w| {
                w.text("x".into())?;
                w.varint(1)
            });
        }
        // The outermost ends first.
        b.add(|w| trace::encode::schema::SpanEndAt::put(w, 1_000, 0));
        b.add(|w| trace::encode::schema::SpanEnd::put(w, 1_000));
        b.add(|w| trace::encode::schema::SpanEnd::put(w, 1_000));
    });
    made.end(10_000, 2);
    let out = run_on(&made.bytes, "nest", &["events", "--json"]).complete();
    let depths: Vec<_> = json_lines(&out)
        .iter()
        .map(|l| (l["depth"].as_u64().unwrap(), l["duration_ns"].as_u64()))
        .collect();
    let ends = [(0, Some(3_000)), (1, Some(3_000)), (0, Some(3_000))];
    assert_eq!(depths[..3], [(0, None), (1, None), (2, None)]);
    assert_eq!(depths[3], ends[0]);
    assert_eq!(depths[4].1, Some(2_000));
    assert_eq!(depths[5].1, Some(4_000));
}

#[test]
fn several_sessions_are_told_apart() {
    let mut bytes = whole().bytes;
    let mut second = Made::session(77);
    define(&mut second, &[]);
    second.timed(1, 0, 0, |b| {
        b.add(|w| trace::encode::schema::ThreadStart::put(w, 500_000));
    });
    second.end(1_000_000, 2);
    bytes.extend_from_slice(&second.bytes);
    let out = run_on(&bytes, "two", &["events"]).complete();
    let tail = r#"
session 2: /bin/prog, pid 4242
           ms  thread            kind         name and fields
        0.500  T1 main           ThreadStart
"#;
    assert_eq!(out, format!("{WHOLE}{tail}"));
    let out = run_on(&bytes, "two-json", &["events", "--json"]).complete();
    let sessions: Vec<_> = json_lines(&out).iter().map(|l| l["session"].clone()).collect();
    assert_eq!(sessions.len(), 13);
    assert!(sessions[..12].iter().all(|s| *s == 1) && sessions[12] == 2);
}

#[test]
fn numbers_that_json_has_no_word_for() {
    let mut made = Made::session(9);
    define(&mut made, &[]);
    made.timed(1, 0, 0, |b| {
        for ratio in [f64::NAN, f64::INFINITY, -1.5e300] {
            b.site(INSTANT, 0, |w| {
                w.bytes(&ratio.to_le_bytes())?;
                w.varint(0)?;
                w.varint(999)
            });
        }
    });
    made.end(10_000, 2);
    let out = run_on(&made.bytes, "nan", &["events", "--json"]).complete();
    let lines = json_lines(&out);
    assert_eq!(lines[0]["ratio"], "NaN");
    assert_eq!(lines[1]["ratio"], "inf");
    assert_eq!(lines[2]["ratio"], -1.5e300);
    assert_eq!(lines[2]["fields"]["kind"], "?999");
}
