//! The kernel's records of switches in a trace, against what the kernel itself has counted: each
//! thread of the recorded program reads its own counts at its end.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;

use serde_json::Value;

const PROGRAM: &str = "EXECTRACE_TEST_HANDS_OVER";
const ROUNDS: u32 = 500;
/// Switches behind a thread's look at its own counts: it prints them and ends.
const BEHIND: u64 = 100;

fn folder(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("switches-{name}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

fn exectrace(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_exectrace")).args(args).output().unwrap()
}

/// Whether the kernel's records can be had here; says why not.
fn can_watch() -> bool {
    let doctor: Value = serde_json::from_slice(&exectrace(&["doctor", "--json"]).stdout).unwrap();
    let findings = doctor["findings"].as_array().unwrap();
    let missing = findings.iter().find(|f| {
        let needed = ["kernel's switches", "buffers", "library"];
        needed.iter().any(|n| f["what"] == **n) && f["good"] == false
    });
    if let Some(missing) = missing {
        println!("skipped: {missing}");
    }
    missing.is_none()
}

/// What the kernel has counted for the calling thread: tid, switches asked for, switches not.
fn counts() -> [u64; 3] {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    ["Pid:", "voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse().unwrap()
    })
}

/// The recorded program: two threads hand a turn back and forth, then say what was counted.
#[test]
fn hands_over() {
    if std::env::var_os(PROGRAM).is_none() {
        return;
    }
    let turn = Arc::new((Mutex::new(0u32), Condvar::new()));
    let play = |me: u32| {
        let turn = turn.clone();
        move || {
            let (lock, changed) = &*turn;
            for _ in 0..ROUNDS {
                let mut whose = lock.lock().unwrap();
                while *whose != me {
                    whose = changed.wait(whose).unwrap();
                }
                *whose = 1 - me;
                changed.notify_one();
            }
            let [tid, asked, not_asked] = counts();
            println!("counted {tid} {asked} {not_asked}");
        }
    };
    let threads = [0, 1].map(|me| std::thread::spawn(play(me)));
    threads.into_iter().for_each(|t| t.join().unwrap());
}

#[test]
fn every_switch_that_the_kernel_counts_is_in_the_trace() {
    if !can_watch() {
        return;
    }
    let trace = folder("count").join("hands-over.trace");
    let own = std::env::current_exe().unwrap();
    let mut record = Command::new(env!("CARGO_BIN_EXE_exectrace"));
    record.args(["record", "--no-report", "--classes", "locks,sched", "-o"]).arg(&trace).arg("--");
    record.arg(own).args(["--exact", "hands_over", "--nocapture", "--test-threads=1"]);
    let out = record.env(PROGRAM, "1").output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let counted: Vec<Vec<u64>> = said
        .lines()
        .filter_map(|line| line.split_once("counted ").map(|l| l.1))
        .map(|line| line.split(' ').map(|n| n.parse().unwrap()).collect())
        .collect();
    assert_eq!(counted.len(), 2, "{said}");

    // By tid: outs that were asked for, outs that were not, ins; and the order of a thread's own.
    let mut seen: BTreeMap<u64, [u64; 3]> = BTreeMap::new();
    let mut has_cpu: BTreeMap<u64, bool> = BTreeMap::new();
    let events = exectrace(&["events", "--json", trace.to_str().unwrap()]);
    for line in String::from_utf8_lossy(&events.stdout).lines() {
        let e: Value = serde_json::from_str(line).unwrap();
        let is_in = match e["kind"].as_str() {
            Some("SwitchIn") => true,
            Some("SwitchOut") => false,
            _ => continue,
        };
        assert_eq!(e["lane"], "kernel");
        let tid = e["tid"].as_u64().unwrap();
        let preempted = e["preempted"] == true;
        seen.entry(tid).or_default()[if is_in { 2 } else { usize::from(preempted) }] += 1;
        if let Some(before) = has_cpu.insert(tid, is_in) {
            assert_ne!(before, is_in, "in and out take turns: {line}");
        }
    }
    for of in counted {
        let [tid, asked, not_asked] = of[..] else { panic!("{of:?}") };
        let [outs, preempted, ins] = seen[&tid];
        // Each round but the first waits, unless the other was quicker; on one CPU nearly all do.
        println!("thread {tid}: {asked} {not_asked} counted, {outs} {preempted} recorded");
        assert!(outs >= asked && outs <= asked + BEHIND, "{outs} {asked}");
        assert!(preempted >= not_asked && preempted <= not_asked + BEHIND);
        assert!(ins.abs_diff(outs + preempted) <= 1, "{ins}");
        assert!(outs + preempted > 0, "something was looked at");
    }
    let stat = exectrace(&["stat", "--json", trace.to_str().unwrap()]);
    let stat: Value = serde_json::from_slice(&stat.stdout).unwrap();
    assert_eq!((&stat["complete"], &stat["lost"]), (&Value::Bool(true), &Value::from(0)));
}
