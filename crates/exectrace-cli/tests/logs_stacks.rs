//! `exectrace logs`, `exectrace stacks`, and the filters of every command, against what the trace
//! was made of.

mod made;

use made::*;
use serde_json::Value;
use serde_json::json;
use trace_testkit::work;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;

fn text(args: &[&str]) -> String {
    run_on(&work::work().bytes, &args.concat().replace('/', "-"), args).complete()
}

fn lines(args: &[&str]) -> Vec<Value> {
    let mut args = args.to_vec();
    args.push("--json");
    json_lines(&text(&args))
}

fn texts(args: &[&str]) -> Vec<String> {
    lines(args).iter().map(|log| log["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn logs_are_listed_in_order() {
    let all = lines(&["logs"]);
    assert_eq!(all.len(), 10);
    // The seventh is at 7 ms + 105 us, of task 7, and has the status 500.
    let want = json!({
        "ts_ns": 7 * MS + 105 * US, "wall": "2023-11-14T22:13:20.007105000Z", "session": 1,
        "thread": 2, "tid": 102, "thread_name": "worker", "category": "http",
        "text": "GET /item/7", "task": 7, "fields": { "status": 500 },
        "file": "src/server.rs", "line": 68,
    });
    assert_eq!(all[6], want);
    let out = text(&["logs"]);
    let want = "       7.105  T2 worker              7  http          GET /item/7 status=500";
    assert_eq!(out.lines().nth(6), Some(want));
    let out = text(&["logs", "--wall", "--limit", "1"]);
    assert!(out.starts_with("2023-11-14T22:13:20.001105000Z  T2 worker  "), "{out}");
    assert_eq!(out.lines().count(), 1);
}

#[test]
fn logs_by_category_text_thread_task_and_time() {
    assert_eq!(texts(&["logs", "--grep", "item/1"]), ["GET /item/1", "GET /item/10"]);
    assert_eq!(texts(&["logs", "--grep", "item/1$"]), ["GET /item/1"]);
    let two = texts(&["logs", "--grep", "(?i)get .*/2", "--grep", "/3"]);
    assert_eq!(two, ["GET /item/2", "GET /item/3"]);
    assert_eq!(texts(&["logs", "--category", "h*"]).len(), 10);
    assert_eq!(texts(&["logs", "--name", "http"]).len(), 10);
    assert_eq!(texts(&["logs", "--category", "db"]).len(), 0);
    assert_eq!(texts(&["logs", "--thread", "3"]).len(), 0);
    assert_eq!(texts(&["logs", "--task", "4", "--task", "5"]), ["GET /item/4", "GET /item/5"]);
    let some = texts(&["logs", "--from", "2.105ms", "--to", "4105us"]);
    assert_eq!(some, ["GET /item/2", "GET /item/3"]);
    let file = File::new("grep", &work::work().bytes);
    let ran = run(&["logs", "--grep", "a(b", file.path()]);
    assert_eq!((ran.status, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("unclosed group"), "{}", ran.err);
}

#[test]
fn stacks_are_counted() {
    let all = lines(&["stacks"]);
    let count = |i: usize| (&all[i]["count"], &all[i]["kind"]);
    // 11 tasks with stack 3; of 10 logs the odd ones have stack 1 and the even ones stack 2.
    assert_eq!(count(0), (&json!(11), &json!("task:request")));
    assert_eq!(count(1), (&json!(5), &json!("log:http")));
    assert_eq!(count(2), (&json!(5), &json!("log:http")));
    assert_eq!(all.len(), 3);
    let call = |addr: &str, module: Value| {
        let none = Value::Null;
        json!({ "function": none, "file": none, "line": none, "addr": addr, "module": module })
    };
    let outside = ["0x3040", "0x3080", "0x30c0"].map(|addr| call(addr, Value::Null));
    assert_eq!(all[0]["stack"], json!(outside));
    let inside = ["0x1040", "0x1080"].map(|addr| call(addr, json!("/nowhere/server")));
    assert_eq!(all[1]["stack"], json!(inside));

    let out = text(&["stacks"]);
    // 11 of 21 are 52.38 %.
    assert!(
        out.starts_with("21 events with a stack, 3 stacks\n       11   52.4 %  task:request\n")
    );
    let missing = "\n2 of 2 addresses in /nowhere/server without a name: its file is not there\n";
    assert!(out.ends_with(missing), "{out}");
    let folded = text(&["stacks", "--folded"]);
    let want = ["0x30c0;0x3080;0x3040 11", "0x1080;0x1040 5", "0x2040 5"];
    assert_eq!(folded.lines().collect::<Vec<_>>(), want);
}

#[test]
fn stacks_by_kind_name_thread_task_and_time() {
    let counts = |args: &[&str]| -> Vec<u64> {
        let mut all = vec!["stacks"];
        all.extend(args);
        lines(&all).iter().map(|s| s["count"].as_u64().unwrap()).collect()
    };
    assert_eq!(counts(&["--kind", "log"]), [5, 5]);
    assert_eq!(counts(&["--kind", "task:request"]), [11]);
    assert_eq!(counts(&["--name", "re*"]), [11]);
    assert_eq!(counts(&["--thread", "1"]), [11]);
    // Tasks 3 and 4 and their logs.
    assert_eq!(counts(&["--task", "3", "--task", "4"]), [2, 1, 1]);
    // Tasks 1 to 3, logs 1 and 2.
    assert_eq!(counts(&["--to", "3000001ns"]), [3, 1, 1]);
    assert_eq!(counts(&["--limit", "1"]), [11]);
    assert_eq!(counts(&["--thread", "3"]).len(), 0);
    let file = File::new("folded", &work::work().bytes);
    assert_eq!(run(&["stacks", "--folded", "--json", file.path()]).status, 1);
}

#[test]
fn stat_counts_what_is_selected_beside_all() {
    let stat = |args: &[&str]| -> Value {
        let mut all = vec!["stat", "--json"];
        all.extend(args);
        serde_json::from_str(&text(&all)).unwrap()
    };
    let whole = stat(&[]);
    assert_eq!((&whole["events"], &whole["selected"]), (&json!(work::EVENTS), &Value::Null));
    let some = stat(&["--thread", "3", "--from", "15ms", "--to", "16ms"]);
    // Of the sender: flush from its beginning to its end, and nothing of a request: the eighth
    // ends at 16 ms, for which it enters the task at 15.97 and leaves it at 15.99.
    let want = json!({
        "events": 4, "threads": 1, "by_kind": { "TaskEnd": 1, "TaskSwitch": 2, "task:flush": 1 },
    });
    assert_eq!(some["selected"], want);
    for key in ["events", "by_kind", "threads", "bytes", "batches", "duration_ns", "complete"] {
        assert_eq!(some[key], whole[key], "{key}");
    }
    let ends = stat(&["--kind", "SpanEnd", "--name", "handle"]);
    assert_eq!(ends["selected"]["by_kind"], json!({ "SpanEnd": 10 }));
    let both = stat(&["--name", "read", "--name", "lock_*"]);
    // The read that nobody saw begin ends as well; lock_a ends amid others.
    let want = json!({
        "SpanEnd": 12, "SpanEndAt": 1, "span:read": 10, "span:lock_a": 1, "span:lock_b": 1,
    });
    assert_eq!(both["selected"]["by_kind"], want);
    let out = text(&["stat", "--limit", "2"]);
    assert!(out.ends_with("more kinds; --limit 14 shows all\n"), "{out}");
}

#[test]
fn threads_by_name_and_time() {
    let numbers = |args: &[&str]| -> Vec<(u64, u64)> {
        let mut all = vec!["threads"];
        all.extend(args);
        let of = |t: &Value| (t["thread"].as_u64().unwrap(), t["events"].as_u64().unwrap());
        lines(&all).iter().map(of).collect()
    };
    assert_eq!(numbers(&["--name", "*er"]), [(2, 73), (3, 37)]);
    assert_eq!(numbers(&["--name", "main"]), [(1, 14)]);
    // Thread 4 has three events from 20 ms on; the sender ends request 10 at 20 ms, and has four
    // more for its locks.
    assert_eq!(numbers(&["--from", "20ms"]), [(3, 5), (4, 3)]);
    let late = &lines(&["threads", "--from", "20ms", "--thread", "4"])[0];
    assert_eq!((&late["first_ns"], &late["last_ns"]), (&json!(20 * MS), &json!(21 * MS)));
    assert_eq!((&late["batches"], &late["lost"]), (&Value::Null, &json!(0)));
}

#[test]
fn events_by_pattern_task_and_time() {
    let kinds = |args: &[&str]| -> Vec<String> {
        let mut all = vec!["events", "--no-symbols"];
        all.extend(args);
        lines(&all).iter().map(|e| e["kind"].as_str().unwrap().to_owned()).collect()
    };
    let want = ["SpanBegin", "SpanBegin", "SpanEndAt", "SpanEnd"];
    assert_eq!(kinds(&["--name", "lock_?"]), want);
    assert_eq!(kinds(&["--from", "30.03ms", "--to", "40ms"]), want[2..]);
    // The task itself, the switches to it and back, and all that its threads did for it meanwhile.
    let of_task = kinds(&["--task", "2"]);
    let want = [
        "TaskBegin",
        "TaskSwitch",
        "SpanBegin",
        "Log",
        "SpanBegin",
        "SpanEnd",
        "SpanEnd",
        "TaskSwitch",
        "TaskSwitch",
        "TaskSwitch",
        "TaskEnd",
    ];
    assert_eq!(of_task, want);
}

#[test]
fn dump_by_name_and_time() {
    let dump = |args: &[&str]| -> Vec<String> {
        let mut all = vec!["dump"];
        all.extend(args);
        text(&all).lines().map(str::to_owned).collect()
    };
    let locks = dump(&["--name", "lock_*"]);
    assert_eq!(locks.len(), 2);
    assert!(locks[0].ends_with(" site 69 \"lock_a\"") && locks[1].ends_with(" 70 \"lock_b\""));
    let some = dump(&["--from", "30ms", "--to", "30.03ms"]);
    assert_eq!(some, locks);
    assert_eq!(dump(&["--from", "30.03ms"]), ["  +20000 SpanEndAt depth=0", "  +30000 SpanEnd"]);
    let ran = run_with_input(&work::work().bytes, &["dump", "--from", "1s", "-"]);
    assert_eq!((ran.status, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("expected a file"), "{}", ran.err);
}

#[test]
fn filters_that_do_not_apply_are_refused() {
    let file = File::new("refused", &work::work().bytes);
    let refused: [&[&str]; 14] = [
        &["logs", "--kind", "log"],
        &["logs", "--to", "1ms", "--from", "1ms"],
        &["logs", "--from", "-1s"],
        &["stacks", "--grep", "x"],
        &["stacks", "--category", "x"],
        &["stacks", "--from", "2", "--to", "1"],
        &["stat", "--task", "1"],
        &["stat", "--from", "x"],
        &["threads", "--kind", "log"],
        &["threads", "--from", "2", "--to", "1"],
        &["events", "--grep", "x"],
        &["events", "--from", "2", "--to", "1"],
        &["dump", "--task", "1"],
        &["dump", "--from", "2", "--to", "1"],
    ];
    for args in refused {
        let mut args = args.to_vec();
        args.push(file.path());
        let ran = run(&args);
        assert_eq!((ran.status, ran.out.as_str()), (1, ""), "{args:?}");
        assert!(!ran.err.is_empty(), "{args:?}");
    }
}
