//! `exectrace stat` from the outside.

mod made;

use std::io::Write;

use made::*;
use serde_json::json;
use trace::encode::schema;

#[test]
fn people_read_a_page() {
    let made = whole();
    let bytes = made.bytes.len();
    let want = format!(
        "FILE, complete
  program    /bin/prog, pid 4242, x86_64
  recorder   exectrace 0.1.0
  start      2001-09-09T01:46:40.123456789Z
  duration   4.000 ms, 1 generation
  events     12 of 2 threads
  bytes      {},{:03} in 6 batches, {}.{} an event
  lost       nothing
  pauses     18.200 us at the longest
  clock      tsc, 1,000,000,000 ticks a second, 1 snapshot

         events  kind
              2  ThreadStart
              1  SpanEnd
              1  TaskEnd
              1  TaskSwitch
              1  ThreadCreate
              1  ThreadEnd
              1  counter:queued
              1  instant:tick
              1  log:http
              1  span:read_file
              1  task:request
",
        bytes / 1000,
        bytes % 1000,
        bytes / 12,
        bytes * 10 / 12 % 10,
    );
    assert_eq!(run_on(&made.bytes, "people", &["stat"]).complete(), want);
    let from_input = run_with_input(&made.bytes, &["stat", "-"]).complete();
    assert_eq!(from_input, want.replace("FILE", "standard input"));
}

#[test]
fn programs_read_one_object() {
    let made = whole();
    let out = run_on(&made.bytes, "json", &["stat", "--json"]).complete();
    assert_eq!(out.lines().count(), 1);
    let stat: serde_json::Value = serde_json::from_str(&out).unwrap();
    let want = json!({
        "complete": true, "events": 12, "lost": 0, "lost_by_cause": {}, "less_known_by_cause": {},
        "threads": 2, "bytes": made.bytes.len(), "batches": 6, "duration_ns": 4_000_000,
        "generations": 1, "damaged_bytes": 0, "damaged_ranges": 0,
        "by_kind": {
            "ThreadStart": 2, "SpanEnd": 1, "TaskEnd": 1, "TaskSwitch": 1, "ThreadCreate": 1,
            "ThreadEnd": 1, "counter:queued": 1, "instant:tick": 1, "log:http": 1,
            "span:read_file": 1, "task:request": 1,
        },
        "start_wall": "2001-09-09T01:46:40.123456789Z", "start_wall_ns": WALL_NS,
        "pause_max_ns": 18_200, "program": "/bin/prog", "pid": 4242, "arch": "x86_64",
        "recorder": "exectrace 0.1.0",
        "clock": { "source": "tsc", "ticks_per_second": 1_000_000_000, "snapshots": 1 },
        "notes": [], "faults": [], "could_hold_nothing": false,
    });
    for (key, value) in want.as_object().unwrap() {
        assert_eq!(&stat[key], value, "{key}");
        assert_eq!(&stat["sessions"][0][key], value, "sessions[0].{key}");
    }
    assert_eq!(stat["sessions"].as_array().unwrap().len(), 1);
}

#[test]
fn losses_and_notes() {
    let mut made = Made::session(9);
    define(&mut made, &[]);
    made.structural(4, |b| {
        // Cumulative: the newest counts.
        b.add(|w| schema::Loss::put(w, 1, schema::Cause::PoolEmpty as u64, 5));
        b.add(|w| schema::Loss::put(w, 1, schema::Cause::PoolEmpty as u64, 1_200));
        b.add(|w| schema::Loss::put(w, 2, schema::Cause::PoolEmpty as u64, 34));
        b.add(|w| schema::Loss::put(w, 0, schema::Cause::Unregistered as u64, 1));
        b.add(|w| schema::Loss::put(w, 2, schema::Cause::StackTable as u64, 7));
        b.add(|w| schema::Note::put(w, "membarrier".into(), "refused".into()));
    });
    made.end(1_000, 2);
    let out = run_on(&made.bytes, "loss", &["stat"]).complete();
    assert!(
        out.contains("\n  lost       1,235 events: pool_empty 1,234, unregistered 1\n"),
        "{out}"
    );
    assert!(out.contains("\n  less known stack_table 7\n"), "{out}");
    assert!(out.contains("\n  note       membarrier: refused\n"), "{out}");
    let out = run_on(&made.bytes, "loss-json", &["stat", "--json"]).complete();
    let stat: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(stat["lost"], 1_235);
    assert_eq!(stat["lost_by_cause"], json!({ "pool_empty": 1_234, "unregistered": 1 }));
    assert_eq!(stat["less_known_by_cause"], json!({ "stack_table": 7 }));
    assert_eq!(stat["notes"], json!([{ "name": "membarrier", "text": "refused" }]));
}

#[test]
fn a_trace_that_could_hold_nothing_says_so() {
    let mut made = Made::session(9);
    made.end(1_000, 0);
    let out = run_on(&made.bytes, "nothing", &["stat"]).complete();
    assert!(out.contains("no thread was registered and no event was recorded"), "{out}");
    let out = run_on(&made.bytes, "nothing-json", &["stat", "--json"]).complete();
    assert!(out.contains("\"could_hold_nothing\":true"), "{out}");
    // A thread that did nothing is another matter.
    let mut made = Made::session(9);
    define(&mut made, &[]);
    made.end(1_000, 2);
    let out = run_on(&made.bytes, "idle", &["stat"]).complete();
    assert!(out.contains("events     0 of 2 threads") && !out.contains("could hold"), "{out}");
}

#[test]
fn sessions_are_added_up() {
    let mut bytes = whole().bytes;
    let second = {
        let mut made = Made::session(3);
        define(&mut made, &[]);
        made.timed(2, 0, 0, |b| {
            b.add(|w| schema::ThreadStart::put(w, 500_000));
        });
        made.end(1_000_000, 2);
        made.bytes
    };
    bytes.extend_from_slice(&second);
    let out = run_on(&bytes, "two", &["stat", "--json"]).complete();
    let stat: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(stat["events"], 13);
    assert_eq!(stat["by_kind"]["ThreadStart"], 3);
    assert_eq!(stat["duration_ns"], 5_000_000);
    assert_eq!(stat["bytes"], bytes.len());
    assert_eq!(stat["sessions"].as_array().unwrap().len(), 2);
    assert_eq!(stat["sessions"][1]["events"], 1);
    let out = run_on(&bytes, "two-people", &["stat"]).complete();
    assert!(out.starts_with("FILE: 2 sessions, complete\n\nsession 1\n  program"), "{out}");
}

#[test]
fn modules_tell_whether_they_have_names() {
    let mut made = Made::session(9);
    made.structural(2, |b| {
        b.add(|w| {
            let (id, path) = ((&b"\x01\xab"[..]), "/nowhere/prog");
            let id = trace::encode::field::Text { bytes: id, cut_from: None };
            schema::Module::put(w, 0x1000, 0x2000, 0x1000, id, path.into(), 10, 20)
        });
        // Two distinct addresses of the module, and one of none.
        b.add(|w| schema::Stack::put(w, 1, 0, &[0x1100, 0x1200, 0x9000]));
        b.add(|w| schema::Stack::put(w, 2, 0, &[0x1100]));
    });
    made.end(1_000, 0);
    let out = run_on(&made.bytes, "modules", &["stat", "--symbols"]).complete();
    let want = "module     /nowhere/prog: no names, its file is not there; 2 addresses in stacks\n";
    assert!(out.contains(want) && out.contains("\n  no module  1 address in stacks\n"), "{out}");
    let out = run_on(&made.bytes, "modules-json", &["stat", "--symbols", "--json"]).complete();
    let stat: serde_json::Value = serde_json::from_str(&out).unwrap();
    let want = json!([{
        "path": "/nowhere/prog", "base": "0x1000", "size": 0x2000, "build_id": "01ab",
        "found": "missing", "symbols": false, "lines": false, "file": null,
        "reason": "its file is not there", "addresses": 2, "addresses_named": 0,
    }]);
    assert_eq!((&stat["modules"], &stat["addresses_outside"]), (&want, &json!(1)));
    // Without a look at its file, the module is known all the same.
    let out = run_on(&made.bytes, "modules-plain", &["stat", "--json"]).complete();
    let stat: serde_json::Value = serde_json::from_str(&out).unwrap();
    let want = json!([{
        "path": "/nowhere/prog", "base": "0x1000", "size": 0x2000, "build_id": "01ab",
    }]);
    assert_eq!(stat["modules"], want);
}

#[test]
fn memory_does_not_grow_with_the_trace() {
    let mut head = Made::session(9);
    define(&mut head, &[]);
    let mut batch = Made::session(9);
    let before = batch.bytes.len();
    batch.timed(1, 0, 0, |b| {
        for _ in 0..2 {
            b.site(LOG, 1, |w| {
                w.text("x".repeat(30_000).as_str().into())?;
                w.varint(0)
            });
        }
    });
    let batch = batch.bytes.split_off(before);
    let count = (128 << 20) / batch.len();
    let stat = in_mib(64, "stat", move |input| {
        input.write_all(&head.bytes)?;
        (0..count).try_for_each(|_| input.write_all(&batch))
    });
    let stat: serde_json::Value = serde_json::from_str(&stat).unwrap();
    assert_eq!(stat["by_kind"]["log:http"], 2 * count);
    assert!(stat["bytes"].as_u64().unwrap() > 127 << 20);
}

/// Runs a command that reads what `feed` writes, a trace without an end mark, in so many MiB of
/// address space; gives its output.
fn in_mib(
    mib: u32,
    args: &str,
    feed: impl FnOnce(&mut dyn Write) -> std::io::Result<()> + Send + 'static,
) -> String {
    let mut child = std::process::Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -v {} && exec \"$0\" {args} --json -", mib * 1024))
        .arg(env!("CARGO_BIN_EXE_exectrace"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || feed(&mut input));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert_eq!(output.status.code(), Some(2), "it has no end mark");
    String::from_utf8(output.stdout).unwrap()
}

/// 60,000 tasks, each with a span and a log. Were they kept, they would take some 25 MiB; the
/// command itself takes 20.
#[test]
fn memory_does_not_grow_with_spans_and_tasks() {
    const TASKS: u64 = 60_000;
    for args in ["spans", "tasks", "tasks --list --limit 3", "logs --grep nothing", "stat --to 1s"]
    {
        let out = in_mib(32, args, move |input| {
            let mut made = Made::session(9);
            define(&mut made, &[]);
            for part in 0..TASKS / 1000 {
                made.timed(1, 0, part * 1_000_000, |b| a_thousand_tasks(b, 1 + part * 1000));
                made.structural(4, |b| {
                    let at = START + (part + 1) * 1_000_000;
                    b.add(|w| schema::GenerationEnd::put(w, part + 1, at, &[]));
                });
                input.write_all(&std::mem::take(&mut made.bytes))?;
            }
            Ok(())
        });
        let lines = json_lines(&out);
        match args {
            "spans" => assert_eq!(lines[0]["spans"][0]["count"], TASKS),
            "tasks" => assert_eq!(lines[0]["tasks"][0]["count"], TASKS),
            "stat --to 1s" => assert_eq!(lines[0]["selected"]["by_kind"]["log:http"], TASKS),
            _ => assert_eq!(lines.len(), if args.starts_with("logs") { 0 } else { 3 }),
        }
    }
}

fn a_thousand_tasks(b: &mut Body, first: u64) {
    for task in first..first + 1000 {
        b.site(TASK, 10, |w| {
            w.varint(task)?;
            w.varint(0)
        });
        b.site(SPAN, 10, |w| {
            w.text("path".into())?;
            w.varint(1)
        });
        b.site(LOG, 10, |w| {
            w.text("said".into())?;
            w.varint(7)
        });
        b.add(|w| schema::SpanEnd::put(w, 10));
        b.add(|w| schema::TaskEnd::put(w, 10, task));
    }
}

/// 600,000 stacks of 20 frames; kept, they would take more than 64 MiB.
#[test]
fn memory_does_not_grow_with_stacks() {
    let frames: Vec<u64> = (0..20).map(|n| 0x5555_0000_0000 + n * 0x1234).collect();
    for command in ["stat", "threads", "spans"] {
        let frames = frames.clone();
        let out = in_mib(64, command, move |input| {
            let mut made = Made::session(9);
            define(&mut made, &[]);
            for part in 0..1000 {
                made.structural(2, |b| {
                    for n in 0..600 {
                        b.add(|w| schema::Stack::put(w, 1000 + part * 600 + n, 0, &frames));
                    }
                });
                input.write_all(&std::mem::take(&mut made.bytes))?;
            }
            Ok(())
        });
        let lines = json_lines(&out);
        if command == "stat" {
            assert!(lines[0]["bytes"].as_u64().unwrap() > 25 << 20);
            assert_eq!(lines[0]["batches"], 1003);
        } else {
            assert_eq!(lines.len(), if command == "threads" { 2 } else { 1 });
        }
    }
}
