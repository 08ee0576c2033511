//! Programs that hang: `exectrace record` says in the first lines of its report who waits for whom.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::Value;

mod recording;

use recording::can_record;
use recording::exectrace;
use recording::folder;
use recording::text;

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name)
}

/// Threads of this process that sleep, by their names; `None` once it is gone.
fn asleep(pid: u32) -> Option<Vec<String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let stats = tasks.flatten().filter_map(|t| fs::read_to_string(t.path().join("stat")).ok());
    let asleep = stats.filter_map(|stat| {
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        rest.trim_start().starts_with('S').then(|| name.to_owned())
    });
    Some(asleep.collect())
}

/// A process that this one has made.
fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// The program, when these threads of it have slept for a while: the command has made the process
/// that records, and that one the program.
fn hung(command: &Child, threads: &[&str]) -> u32 {
    let mut seen = 0;
    loop {
        thread::sleep(Duration::from_millis(50));
        let Some(pid) = child_of(command.id()).and_then(child_of) else { continue };
        let asleep = asleep(pid).unwrap_or_default();
        let all = threads.iter().all(|t| asleep.iter().any(|a| a == t));
        seen = if all { seen + 1 } else { 0 };
        // Longer than the second from which on a wait for a lock is said.
        if seen == 26 {
            return pid;
        }
    }
}

fn kill(signal: &str, pid: u32) {
    let done = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status();
    assert!(done.unwrap().success());
}

/// Records a program that hangs, ends it by a signal, and gives what was said.
fn said_of(folder: &Path, program: &str, threads: &[&str], end: impl Fn(&Child, u32)) -> String {
    let mut command = exectrace(folder, &["record", "-o", "x.trace", "--", program]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let pid = hung(&child, threads);
    end(&child, pid);
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    said
}

/// Without times.
fn without_times(line: &str) -> String {
    let (head, tail) = line.split_once(" since ").unwrap_or((line, ""));
    let rest = tail.split_once(": ").map_or("", |(_, rest)| rest);
    format!("{}: {rest}", head.trim())
}

#[test]
fn mutexes_that_name_their_holders() {
    let folder = folder("deadlock-known");
    if !can_record(&folder) {
        return;
    }
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-fno-omit-frame-pointer", "-pthread", "-o", "deadlock"]);
    match cc.arg(source("deadlock.c")).current_dir(&folder).output() {
        Ok(out) => assert!(out.status.success(), "{}", text(&out.stderr)),
        Err(e) => {
            println!("skipped: no C compiler: {e}");
            return;
        }
    }
    let threads = ["deadlock", "first", "second", "third"];
    let said = said_of(&folder, "./deadlock", &threads, |_, pid| kill("KILL", pid));
    let lines: Vec<&str> = said.lines().skip_while(|l| !l.contains("Deadlock")).collect();
    // Numbers are given in the order in which threads are first seen.
    let number = |name: &str| {
        let at = lines[1..].iter().find_map(|l| l.trim().strip_prefix(&format!("{name} (")));
        at.unwrap_or_else(|| panic!("{said}")).split(')').next().unwrap().to_owned()
    };
    let [first, second, third] =
        ["first", "second", "third"].map(|n| format!("{n} ({})", number(n)));
    let told: Vec<String> = lines[1..5].iter().map(|l| without_times(l)).collect();
    assert!(lines[0].starts_with("Deadlock: "), "{said}");
    assert!(lines[0].contains("when the recording ended. And 1 more deadlock."), "{said}");
    for line in [
        format!("{first} waits: mutex in take_b, held by {second}"),
        format!("{second} waits: mutex in take_a, held by {first}"),
        format!("{third} waits: mutex in again, held by {third}"),
        format!("deadlock (1) waits: join in main, of {first}"),
    ] {
        assert!(told.contains(&line), "{line}: {said}");
    }
    let report = exectrace(&folder, &["report", "--json", "x.trace"]).output().unwrap();
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    let mut cycles: Vec<usize> = report["stuck"]["cycles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c.as_array().unwrap().len())
        .collect();
    cycles.sort_unstable();
    assert_eq!(cycles, [1, 2], "{}", report["stuck"]);
    for wait in report["stuck"]["waits"].as_array().unwrap() {
        assert!(wait["duration_ns"].as_u64().unwrap() >= 1_000_000_000, "{wait}");
    }
}

#[test]
fn mutexes_that_do_not() {
    let folder = folder("deadlock-unknown");
    if !can_record(&folder) {
        return;
    }
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut rustc = Command::new(rustc);
    rustc.args(["--edition", "2021", "-O", "-C", "debuginfo=1", "-o", "deadlock"]);
    let built = rustc.arg(source("deadlock.rs")).current_dir(&folder).output().unwrap();
    assert!(built.status.success(), "{}", text(&built.stderr));
    // The command is asked to end; it gives that to the program.
    let threads = ["deadlock", "first", "second"];
    let said = said_of(&folder, "./deadlock", &threads, |own, _| kill("TERM", own.id()));
    assert!(said.contains("was ended by signal 15"), "{said}");
    let lines: Vec<&str> = said.lines().skip_while(|l| !l.contains("still waiting")).collect();
    let first =
        "2 threads were still waiting for a lock when the recording ended, the longest for ";
    assert!(lines[0].starts_with(first), "{said}");
    for (name, function) in [("first", "deadlock::take_b at "), ("second", "deadlock::take_a at ")]
    {
        let line = lines[1..3].iter().find(|l| l.trim().starts_with(name));
        let line = without_times(line.unwrap_or_else(|| panic!("{said}")));
        assert!(line.contains(&format!(": mutex in {function}")), "{line}");
        assert!(line.ends_with(", held by nobody known"), "{line}");
    }
}
