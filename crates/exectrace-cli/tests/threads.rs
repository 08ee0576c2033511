//! `exectrace threads` from the outside.

mod made;

use made::*;
use serde_json::json;
use trace::encode::schema;

#[test]
fn people_read_a_table() {
    let want = "\
thread   tid  by  first ms  last ms  events  lost  spans  batches  end  name    function
    T1  4242   ?     0.000    3.000       5     0      1        1  -    main    prog::main
    T2  4243  T1     1.500    3.500       7     0      0        1  yes  worker  prog::work
";
    assert_eq!(run_on(&whole().bytes, "people", &["threads"]).complete(), want);
    assert_eq!(run_with_input(&whole().bytes, &["threads", "-"]).complete(), want);
}

#[test]
fn programs_read_an_object_for_each_thread() {
    let out = run_on(&whole().bytes, "json", &["threads", "--json"]).complete();
    let want = [
        json!({
            "session": 1, "thread": 1, "registered": true, "tid": 4242, "name": "main",
            "creator": null, "function": "prog::main", "first_ns": 0, "last_ns": 3_000_000,
            "events": 5, "lost": 0, "spans": 1, "batches": 1, "ended": false,
        }),
        json!({
            "session": 1, "thread": 2, "registered": true, "tid": 4243, "name": "worker",
            "creator": 1, "function": "prog::work", "first_ns": 1_500_000, "last_ns": 3_500_000,
            "events": 7, "lost": 0, "spans": 0, "batches": 1, "ended": true,
        }),
    ];
    assert_eq!(json_lines(&out), want);
    let out = run_on(&whole().bytes, "json-2", &["threads", "--json", "--thread", "2"]).complete();
    assert_eq!(json_lines(&out), want[1..]);
    let out = run_on(&whole().bytes, "json-3", &["threads", "--json", "--limit", "1"]).complete();
    assert_eq!(json_lines(&out), want[..1]);
}

#[test]
fn losses_belong_to_their_thread_and_threads_without_a_definition_are_there() {
    let mut made = Made::session(9);
    define(&mut made, &[]);
    made.timed(77, 0, 10_000, |b| {
        b.add(|w| schema::ThreadStart::put(w, 5_000));
    });
    made.structural(4, |b| {
        b.add(|w| schema::Loss::put(w, 2, schema::Cause::Nested as u64, 12));
        b.add(|w| schema::Loss::put(w, 2, schema::Cause::StackTable as u64, 500));
        b.add(|w| schema::Loss::put(w, 0, schema::Cause::Unregistered as u64, 3));
    });
    made.end(100_000, 2);
    let out = run_on(&made.bytes, "loss", &["threads", "--json"]).complete();
    let lines = json_lines(&out);
    let numbers: Vec<_> = lines.iter().map(|l| l["thread"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 77]);
    assert_eq!(lines[1]["lost"], 12);
    let want = json!({
        "session": 1, "thread": 77, "registered": true, "tid": null, "name": "", "creator": null,
        "function": null,
        "first_ns": 10_000, "last_ns": 15_000, "events": 1, "lost": 0, "spans": 0, "batches": 1,
        "ended": false,
    });
    assert_eq!(lines[2], want);
}

/// A trace whose snapshots met three threads without a number: two of them at both snapshots, one
/// of which has a number later.
fn with_idle_threads() -> Made {
    let mut made = Made::session(9);
    let idle = |b: &mut Body, tid, name: &str| {
        b.add(|w| schema::ThreadState::put(w, 0, tid, name.into(), START, 3, 0, &[]));
    };
    made.structural(4, |b| {
        idle(b, 5001, "idle");
        idle(b, 4243, "not yet");
        idle(b, 5000, "\u{1b}[2J");
    });
    define(&mut made, &[]);
    made.timed(1, 0, 0, |b| {
        b.add(|w| schema::ThreadStart::put(w, 1_000_000));
    });
    made.structural(4, |b| idle(b, 5001, "renamed"));
    made.end(2_000_000, 2);
    made
}

#[test]
fn threads_that_are_not_registered_are_there_and_have_no_number() {
    let made = with_idle_threads();
    let out = run_on(&made.bytes, "idle", &["threads", "--json"]).complete();
    let lines = json_lines(&out);
    let told: Vec<_> =
        lines.iter().map(|l| (l["thread"].as_u64(), l["registered"].as_bool())).collect();
    let (yes, no) = (Some(true), Some(false));
    assert_eq!(told, [(Some(1), yes), (Some(2), yes), (Some(0), no), (Some(0), no)]);
    let want = json!({
        "session": 1, "thread": 0, "registered": false, "tid": 5001, "name": "renamed",
        "creator": null, "function": null, "first_ns": null, "last_ns": null, "events": 0,
        "lost": 0, "spans": 0, "batches": 0, "ended": false,
    });
    assert_eq!(lines[3], want);
    assert_eq!(lines[2]["tid"], 5000);
    let only = run_on(&made.bytes, "idle-0", &["threads", "--json", "--thread", "0"]).complete();
    assert_eq!(json_lines(&only), lines[2..]);
    let other = run_on(&made.bytes, "idle-1", &["threads", "--json", "--thread", "1"]).complete();
    assert_eq!(json_lines(&other), lines[..1]);
    let stat = run_on(&made.bytes, "idle-stat", &["stat", "--json"]).complete();
    assert_eq!(json_lines(&stat)[0]["threads"], 2);
    let people = run_on(&made.bytes, "idle-people", &["threads"]).complete();
    let rows: Vec<&str> = people.lines().skip(3).collect();
    assert_eq!(rows.len(), 2, "{people}");
    assert_eq!(
        rows[1],
        "     -  5001   ?         ?        ?       0     0      0        0  -    renamed  \
         (not registered)"
    );
}
