//! The command on a trace that the recorder made: this very process is recorded.

mod made;

use std::fs::File;

use made::*;
use serde_json::Value;

/// The line of the log, for the stack to be compared with.
const LOG_LINE: u32 = line!() + 4;

#[inline(never)]
fn work(number: u64) -> u64 {
    trace::log!("http", "got {}", number); // LOG_LINE
    let _span = trace::span!("work", number = number);
    trace::counter!("queued", number as i64);
    number + 1
}

fn record(path: &std::path::Path) -> trace::Summary {
    trace::start(File::create(path).unwrap()).unwrap();
    let task = trace::task!("request", size = 7);
    let entered = task.enter();
    assert_eq!(work(1), 2);
    drop(entered);
    let other = trace::thread::Builder::new().name("other".into()).spawn(|| work(5)).unwrap();
    assert_eq!(other.join().unwrap(), 6);
    drop(task);
    trace::stop().unwrap()
}

/// Lengths by name are those that stand in the events.
fn sums_agree_with_events(bytes: &[u8], events: &[Value]) {
    let of = |kind: &str| events.iter().filter(|e| e["kind"] == kind).collect::<Vec<_>>();
    let out = run_on(bytes, "spans", &["spans", "--json"]).complete();
    let spans: Value = serde_json::from_str(&out).unwrap();
    let work = &spans["spans"][0];
    let lengths: Vec<u64> =
        of("SpanEnd").iter().map(|e| e["duration_ns"].as_u64().unwrap()).collect();
    assert_eq!((&work["name"], &work["count"]), (&Value::from("work"), &Value::from(2)));
    assert_eq!(work["total_ns"], lengths.iter().sum::<u64>());
    assert_eq!(work["self_ns"], work["total_ns"], "none is in another");
    let (least, most) = (lengths.iter().min().unwrap(), lengths.iter().max().unwrap());
    // Of two the first is the median, and the second all that is beyond.
    assert_eq!((&work["p50_ns"], &work["p90_ns"]), (&(*least).into(), &(*most).into()));

    let out = run_on(bytes, "tasks", &["tasks", "--list", "--json"]).complete();
    let [task] = &json_lines(&out)[..] else { panic!("one task: {out}") };
    let at = |kind: &str| of(kind)[0]["ts_ns"].as_u64().unwrap();
    assert_eq!((&task["name"], &task["began_ns"]), (&"request".into(), &at("TaskBegin").into()));
    assert_eq!(task["latency_ns"], at("TaskEnd") - at("TaskBegin"));
    let switches: Vec<u64> =
        of("TaskSwitch").iter().map(|e| e["ts_ns"].as_u64().unwrap()).collect();
    let [entered, left] = switches[..] else { panic!("in and out: {switches:?}") };
    assert_eq!(task["ran_on"].as_array().unwrap().len(), 1);
    assert_eq!(task["ran_on"][0]["entered_ns"], left - entered);
    let logs = run_on(bytes, "logs", &["logs", "--grep", "got 5", "--json"]).complete();
    assert_eq!(json_lines(&logs)[0]["text"], "got 5");
}

/// What is said of where the names of this program come from.
fn names_of_this_program(bytes: &[u8]) {
    let own = std::env::current_exe().unwrap();
    let module = |out: &str| {
        let stat: Value = serde_json::from_str(out).unwrap();
        let all = stat["modules"].as_array().unwrap().clone();
        all.into_iter().find(|m| m["path"].as_str() == own.to_str()).expect("this program")
    };
    let this = module(&run_on(bytes, "names", &["stat", "--symbols", "--json"]).complete());
    assert_eq!((&this["found"], &this["lines"]), (&"debug_information".into(), &true.into()));
    let addresses = this["addresses"].as_u64().unwrap();
    assert!(addresses > 2, "{this}");
    assert_eq!(this["addresses_named"], addresses);

    let stacks = run_on(bytes, "stacks", &["stacks", "--kind", "log", "--json"]).complete();
    // Of two threads, so of two callers, each once.
    let counts: Vec<Value> = json_lines(&stacks).iter().map(|s| s["count"].clone()).collect();
    assert_eq!(counts, [1, 1]);
    for stack in json_lines(&stacks) {
        assert_eq!(stack["stack"][0]["function"], "recorded::work");
        assert_eq!(stack["stack"][0]["line"], LOG_LINE);
    }
    let folded = run_on(bytes, "folded", &["stacks", "--kind", "log", "--folded"]).complete();
    let both = folded.lines().filter(|l| l.ends_with(";recorded::work 1")).count();
    assert_eq!(both, 2, "{folded}");
}

#[test]
fn what_was_done_is_told() {
    let path = std::env::temp_dir().join(format!("exectrace-recorded-{}", std::process::id()));
    let summary = record(&path);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();

    let out = run_on(&bytes, "stat", &["stat", "--json"]).complete();
    let stat: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(stat["events"], summary.events);
    assert_eq!(stat["lost"], 0);
    assert_eq!(stat["bytes"], bytes.len());
    assert_eq!(stat["by_kind"]["span:work"], 2);
    assert_eq!(stat["by_kind"]["SpanEnd"], 2);
    assert_eq!(stat["by_kind"]["log:http"], 2);
    assert_eq!(stat["by_kind"]["task:request"], 1);
    assert_eq!(stat["pid"], std::process::id());

    let out = run_on(&bytes, "threads", &["threads", "--json"]).complete();
    let threads = json_lines(&out);
    let other = threads.iter().find(|t| t["name"] == "other").expect("the spawned thread");
    assert_eq!((&other["spans"], &other["ended"]), (&Value::from(1), &Value::from(true)));

    let out = run_on(&bytes, "events", &["events", "--json"]).complete();
    let events = json_lines(&out);
    assert_eq!(events.len() as u64, summary.events);
    let times: Vec<u64> = events.iter().map(|e| e["ts_ns"].as_u64().unwrap()).collect();
    assert!(times.is_sorted());
    let logs: Vec<&Value> = events.iter().filter(|e| e["kind"] == "Log").collect();
    let texts: Vec<&Value> = logs.iter().map(|l| &l["text"]).collect();
    assert_eq!(texts, ["got 1", "got 5"]);
    assert!(logs[0]["task"].is_u64() && logs[1]["task"].is_null(), "{logs:?}");
    assert_eq!(logs[1]["tid"], other["tid"]);
    let spans: Vec<&Value> = events.iter().filter(|e| e["kind"] == "SpanBegin").collect();
    assert_eq!((&spans[0]["name"], &spans[1]["number"]), (&Value::from("work"), &Value::from(5)));

    sums_agree_with_events(&bytes, &events);
    if !cfg!(target_arch = "x86_64") {
        println!("stacks were not looked at: frame pointers are known on x86-64 only");
        return;
    }
    for (log, caller) in logs.iter().zip(["recorded::record", "recorded::record::{{closure}}"]) {
        let stack = log["stack"].as_array().unwrap();
        assert_eq!(stack[0]["function"], "recorded::work", "{stack:#?}");
        assert!(stack[0]["file"].as_str().unwrap().ends_with("tests/recorded.rs"));
        assert_eq!(stack[0]["line"], LOG_LINE);
        assert_eq!(stack[1]["function"], caller);
    }
    names_of_this_program(&bytes);
    let all = run_on(&bytes, "all", &["events", "--json", "--all-frames"]).complete();
    let own = |e: &Value| e["stack"][0]["function"].as_str().is_some_and(|f| f.contains("trace::"));
    assert!(json_lines(&all).iter().any(own), "the recorder's frames are there when asked for");
    let bare = run_on(&bytes, "bare", &["events", "--json", "--no-symbols"]).complete();
    let log = json_lines(&bare).into_iter().find(|e| e["kind"] == "Log").unwrap();
    let call = &log["stack"][0];
    assert_eq!(call["function"], Value::Null);
    assert!(call["addr"].as_str().unwrap().starts_with("0x"));
    let own = std::env::current_exe().unwrap();
    assert_eq!(call["module"].as_str(), own.to_str());
}
