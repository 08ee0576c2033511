//! Who released whom, where that is known: two, three and eight threads wait for one thing, and the
//! program that does it prints which thread let which one go. `exectrace waits` says the same, and
//! divides each wait at the same calls (`docs/wake-semantics.md`).

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

mod recording;

use recording::can_record;
use recording::exectrace;
use recording::folder;
use recording::text;

/// A wait, as the program tells it.
struct Truth {
    what: String,
    threads: u64,
    waiter: u64,
    /// Whose calls came while it waited; the last of them let it go.
    by: Vec<u64>,
}

/// What a program says of itself, and what its trace says.
struct Run {
    truths: Vec<Truth>,
    /// Waits that ended by success, by the kernel's number of the thread.
    waits: Vec<(u64, Value)>,
    /// The kernel's numbers of the trace's threads.
    tids: BTreeMap<u64, u64>,
}

fn truths(said: &str) -> Vec<Truth> {
    let truth = |line: &str| {
        let parts: Vec<&str> = line.split(':').collect();
        let [what, threads, waiter, by] = parts[..] else { panic!("{line}") };
        let by = by.split_whitespace().map(|tid| tid.parse().unwrap()).collect();
        let (threads, waiter) = (threads.parse().unwrap(), waiter.parse().unwrap());
        Truth { what: what.into(), threads, waiter, by }
    };
    said.lines().map(truth).collect()
}

fn lines(folder: &Path, args: &[&str]) -> Vec<Value> {
    let out = exectrace(folder, args).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    text(&out.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn recorded(folder: &Path, program: &str) -> Run {
    let args = ["record", "--no-report", "-o", "x.trace", "--", program];
    let out = exectrace(folder, &args).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let tids: BTreeMap<u64, u64> = lines(folder, &["threads", "--json", "x.trace"])
        .iter()
        .filter_map(|t| Some((t["thread"].as_u64()?, t["tid"].as_u64()?)))
        .collect();
    let waits = lines(folder, &["waits", "--json", "x.trace"]);
    let done = waits.into_iter().filter(|w| w["ending"] == "done");
    let waits = done.map(|w| (tids[&w["thread"].as_u64().unwrap()], w)).collect();
    Run { truths: truths(&text(&out.stdout)), waits, tids }
}

/// Each wait of which the program tells is there once, with those calls and that release. `of` is
/// the name of what it waits by.
fn held_against_the_truth(run: &Run, of: &str, rounds: usize) {
    let Run { truths, waits, tids } = run;
    // Rounds of two, three and eight threads.
    assert_eq!(truths.len(), 13 * rounds);
    for truth in truths {
        let own = |w: &&(u64, Value)| w.0 == truth.waiter && w.1[of] == truth.what.as_str();
        // What a condition variable waits for after its signal is its lock.
        let found = waits.iter().filter(own).min_by_key(|(_, w)| w["began_ns"].as_u64());
        let told = format!("{} of {}: thread {}", truth.what, truth.threads, truth.waiter);
        let (_, wait) = found.unwrap_or_else(|| panic!("{told}: no such wait"));
        let tid = |by: &Value| by["thread"].as_u64().map(|number| tids[&number]);
        let pieces = wait["pieces"].as_array().unwrap();
        let by: Vec<u64> = pieces.iter().filter_map(|p| tid(&p["by"])).collect();
        assert_eq!(by, truth.by, "{told}: {wait}");
        assert_eq!(tid(&wait["released_by"]), truth.by.last().copied(), "{told}: {wait}");
        // The pieces are the wait, whole and without overlap.
        let ends = |p: &Value| [p["from_ns"].as_u64().unwrap(), p["to_ns"].as_u64().unwrap()];
        let ends: Vec<u64> = pieces.iter().flat_map(ends).collect();
        let own = [&wait["began_ns"], &wait["ended_ns"]].map(|at| at.as_u64().unwrap());
        assert_eq!([ends[0], ends[ends.len() - 1]], own, "{told}: {wait}");
        assert!(ends.is_sorted() && ends[1..ends.len() - 1].chunks(2).all(|at| at[0] == at[1]));
        // Beyond the first piece nobody can tell who had it.
        assert!(pieces[1..].iter().all(|p| p["holder"] == "unknown"), "{told}: {wait}");
        let holder = match truth.what.as_str() {
            "mutex lock" => "known",
            "mutex" | "rwlock" | "once" => "likely",
            _ => "unknown",
        };
        assert_eq!(pieces[0]["holder"], holder, "{told}: {wait}");
        let of = &pieces[0]["holder_of"];
        match holder {
            "known" => assert_eq!(of["tid"], truth.by[0], "{told}: {wait}"),
            "likely" => assert_eq!(tid(of), truth.by.first().copied(), "{told}: {wait}"),
            _ => assert!(of.is_null(), "{told}: {wait}"),
        }
    }
}

#[test]
fn each_way_to_wait_of_the_c_library() {
    let folder = folder("contenders-c");
    if !can_record(&folder) {
        return;
    }
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/contenders.c");
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-pthread", "-o", "contenders", source]);
    match cc.current_dir(&folder).output() {
        Ok(out) => assert!(out.status.success(), "{}", text(&out.stderr)),
        Err(e) => return println!("skipped: no C compiler: {e}"),
    }
    let run = recorded(&folder, "./contenders");
    let kinds: BTreeSet<&str> = run.truths.iter().map(|t| t.what.as_str()).collect();
    let locks = ["mutex lock", "rwlock write", "rwlock read", "condvar wait", "semaphore wait"];
    let others = ["barrier wait", "join", "read", "receive", "epoll wait", "poll", "select"];
    assert_eq!(kinds, locks.into_iter().chain(others).collect());
    // Without a network one round is missing.
    let rounds = if run.truths.len() == 14 * 13 { 14 } else { 15 };
    held_against_the_truth(&run, "kind", rounds);
}

#[test]
fn each_way_to_wait_of_the_standard_library() {
    let folder = folder("contenders-rust");
    if !can_record(&folder) {
        return;
    }
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/contenders.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut rustc = Command::new(rustc);
    rustc.args(["--edition", "2024", "-O", "-C", "debuginfo=1", "-o", "contenders", source]);
    let out = rustc.current_dir(&folder).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let run = recorded(&folder, "./contenders");
    let kinds: BTreeSet<&str> = run.truths.iter().map(|t| t.what.as_str()).collect();
    let expected = ["mutex", "rwlock", "condvar", "barrier", "once", "park", "channel"];
    assert_eq!(kinds, expected.into_iter().collect());
    held_against_the_truth(&run, "primitive", 9);
}
