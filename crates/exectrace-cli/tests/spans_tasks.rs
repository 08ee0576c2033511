//! `exectrace spans` and `exectrace tasks` against what the trace was made of.

mod made;

use made::*;
use serde_json::Value;
use serde_json::json;
use trace_testkit::work;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;

fn object(name: &str, args: &[&str]) -> Value {
    let mut args = args.to_vec();
    args.push("--json");
    let out = run_on(&work::work().bytes, name, &args).complete();
    assert_eq!(out.lines().count(), 1, "{out}");
    serde_json::from_str(&out).unwrap()
}

fn lines(name: &str, args: &[&str]) -> Vec<Value> {
    let mut args = args.to_vec();
    args.push("--json");
    json_lines(&run_on(&work::work().bytes, name, &args).complete())
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let all = list.as_array().unwrap();
    all.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name} in {list}"))
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect()
}

#[test]
fn spans_are_summed_up_by_name() {
    let all = object("spans", &["spans"]);
    assert_eq!((&all["complete"], &all["names"]), (&json!(true), &json!(5)));
    assert_eq!((&all["ends_unknown"], &all["too_deep"]), (&json!(1), &json!(0)));
    // Sums: 2,750 us; 255 us; 50 us; 30 us; 7 us.
    assert_eq!(names(&all["spans"]), ["handle", "read", "lock_b", "lock_a", "on_signal"]);
    let handle = named(&all["spans"], "handle");
    // 50, 100 .. 500 us: places 5, 9 and 10 of 10.
    for (key, want) in [
        ("count", 10),
        ("total_ns", 2_750 * US),
        ("self_ns", (2_750 - 255) * US),
        ("min_ns", 50 * US),
        ("p50_ns", 250 * US),
        ("p90_ns", 450 * US),
        ("p99_ns", 500 * US),
        ("max_ns", 500 * US),
        ("open", 1),
        ("began_unseen", 0),
        ("line", 66),
        ("sites", 1),
    ] {
        assert_eq!(handle[key], want, "{key}");
    }
    assert_eq!(
        (&handle["percentiles"], &handle["file"]),
        (&json!("exact"), &json!("src/server.rs"))
    );
    // Below 100 us is one, below 200 two, below 500 six, and 500 itself is the last.
    let want = json!([
        [50 * US, 100 * US, 1],
        [100 * US, 200 * US, 2],
        [200 * US, 500 * US, 6],
        [500 * US, MS, 1]
    ]);
    assert_eq!(handle["buckets"], want);
    let read = named(&all["spans"], "read");
    assert_eq!((&read["count"], &read["began_unseen"]), (&json!(10), &json!(1)));
    assert_eq!((&read["p50_ns"], &read["max_ns"]), (&json!(25 * US), &json!(30 * US)));
    let lock = named(&all["spans"], "lock_a");
    assert_eq!((&lock["total_ns"], &lock["self_ns"]), (&json!(30 * US), &json!(10 * US)));

    let out = run_on(&work::work().bytes, "spans-text", &["spans"]).complete();
    let row = out.lines().nth(1).unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    let want = "10 1 2.75 ms 2.50 ms 88.6 50.0 us 250 us 450 us 500 us 500 us handle";
    assert_eq!(words.join(" "), format!("{want} src/server.rs:66"));
    assert!(out.contains("\n1 span without an end (open)"), "{out}");
    assert!(out.contains("\n1 span that began before the trace"), "{out}");
    assert!(out.contains("\n1 end of spans that the trace does not know\n"), "{out}");
}

#[test]
fn spans_by_name_thread_and_time() {
    let count = |all: &Value, name: &str| named(&all["spans"], name)["count"].clone();
    let all = object("spans-name", &["spans", "--name", "lock_?", "--name", "read"]);
    assert_eq!(names(&all["spans"]), ["read", "lock_b", "lock_a"]);
    let all = object("spans-thread", &["spans", "--thread", "3", "--thread", "1"]);
    assert_eq!(names(&all["spans"]), ["lock_b", "lock_a", "on_signal"]);
    // From 3 ms on until 6.1 ms began and ended handle 3, 4 and 5; handle 6 begins at 6.1 ms.
    let all = object("spans-time", &["spans", "--from", "3ms", "--to", "6.1ms"]);
    assert_eq!(count(&all, "handle"), 3);
    let all = object("spans-time-1", &["spans", "--from", "3ms", "--to", "6100001ns"]);
    assert_eq!(count(&all, "handle"), 4);
    // Handle 3 is 3.1 to 3.25 ms: both ends count.
    let all = object("spans-within", &["spans", "--from", "0.0032", "--to", "3.21ms"]);
    assert_eq!(count(&all, "handle"), 1);
    let all = object("spans-end", &["spans", "--from", "3250us", "--to", "3251us"]);
    assert_eq!(count(&all, "handle"), 1);
    let all = object("spans-none", &["spans", "--from", "3251us", "--to", "3252us"]);
    // But for what nobody saw begin, and what ends later.
    assert_eq!(names(&all["spans"]), ["read"]);
    let out = run_on(&work::work().bytes, "no-spans", &["spans", "--name", "none"]).complete();
    assert_eq!(out, "no spans\n");
}

#[test]
fn tasks_are_summed_up_by_name() {
    let all = object("tasks", &["tasks"]);
    assert_eq!((&all["complete"], &all["beyond"]), (&json!(true), &json!(0)));
    assert_eq!(names(&all["tasks"]), ["request", "flush"]);
    let request = named(&all["tasks"], "request");
    for (key, want) in [
        ("count", 10),
        ("total_ns", 55 * MS),
        // 50 us * i on the worker and 20 us on the sender, and the open one: 12.1 to 40 ms.
        ("entered_ns", 2_750 * US + 200 * US + 27_900 * US),
        ("min_ns", MS),
        ("p50_ns", 5 * MS),
        ("p90_ns", 9 * MS),
        ("p99_ns", 10 * MS),
        ("max_ns", 10 * MS),
        ("open", 1),
    ] {
        assert_eq!(request[key], want, "{key}");
    }
    let flush = named(&all["tasks"], "flush");
    assert_eq!((&flush["count"], &flush["p99_ns"]), (&json!(1), &json!(250 * US)));
    // Tasks 4, 5 and 6 are alive at 7 ms: they end at 8, 10 and 12; 7 begins just then.
    let alive = object("alive", &["tasks", "--from", "7ms", "--to", "7000001ns"]);
    assert_eq!(named(&alive["tasks"], "request")["count"], 4);
    let on = object("tasks-thread", &["tasks", "--thread", "2"]);
    assert_eq!(names(&on["tasks"]), ["request"]);
}

#[test]
fn each_task_is_listed_with_where_it_ran() {
    let all = lines("list", &["tasks", "--list"]);
    assert_eq!(all.len(), 12);
    // In the order in which they end: 13 (flush) at 15.25 ms, and 12 not at all.
    let ids: Vec<u64> = all.iter().map(|t| t["task"].as_u64().unwrap()).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7, 13, 8, 9, 10, 12]);
    let want = json!({
        "session": 1, "task": 4, "name": "request", "parent": null,
        "began_ns": 4 * MS, "began_on": 1, "ended_ns": 8 * MS, "ended_on": 3,
        "latency_ns": 4 * MS, "entered_ns": 220 * US,
        "ran_on": [
            { "thread": 2, "name": "worker", "first_ns": 4_100 * US, "entered_ns": 200 * US,
              "times": 1 },
            { "thread": 3, "name": "sender", "first_ns": 7_970 * US, "entered_ns": 20 * US,
              "times": 1 },
        ]
    });
    assert_eq!(all[3], want);
    assert_eq!((&all[7]["parent"], &all[7]["ran_on"]), (&json!(3), &json!([])));
    assert_eq!((&all[11]["ended_ns"], &all[11]["latency_ns"]), (&Value::Null, &Value::Null));

    // With a limit the longest first; the open one has lasted for 28 ms.
    let longest = lines("longest", &["tasks", "--name", "request", "--limit", "3"]);
    let ids: Vec<&Value> = longest.iter().map(|t| &t["task"]).collect();
    assert_eq!(ids, [12, 10, 9]);
    assert_eq!(longest[1]["ran_on"][1]["name"], "sender");
    let one = lines("one", &["tasks", "--task", "13", "--task", "99"]);
    assert_eq!((one.len(), &one[0]["name"]), (1, &json!("flush")));

    let out = run_wide(&work::work().bytes, "text", 200, &["tasks", "--task", "10"]).complete();
    let row = out.lines().find(|l| l.trim_start().starts_with("10  ")).unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    let want = "10 10.000 20.000 10.0 ms 520 us request T2 worker: 500 us, T3 sender: 20.0 us";
    assert_eq!(words.join(" "), format!("{want} T1 main T3 sender"));
}

#[test]
fn filters_that_hold_nothing_or_do_not_apply_are_refused() {
    let file = File::new("refused", &work::work().bytes);
    for args in [
        &["spans", "--from", "2s", "--to", "1s"][..],
        &["spans", "--from", "soon"],
        &["spans", "--kind", "SpanEnd"],
        &["tasks", "--task", "0"],
        &["tasks", "--kind", "x"],
        &["tasks", "--to", "0"],
    ] {
        let mut args = args.to_vec();
        args.push(file.path());
        let ran = run(&args);
        assert_eq!((ran.status, ran.out.as_str()), (1, ""), "{args:?}");
        assert!(!ran.err.is_empty(), "{args:?}");
    }
}
