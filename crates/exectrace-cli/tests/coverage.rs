//! Coverage: programs whose waits are known to go through the C library, or around it; the counts
//! of `/proc` and the calls that strace sees, of the same run.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde_json::Value;

/// Rounds of the program that waits around the library; in each its first thread sleeps.
const ROUNDS: u64 = 2_000;
const PLAIN: &str = "locks,io,net,sleep,process";
const SWITCHES: &str = "locks,io,net,sleep,process,sched";

fn exectrace(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_exectrace")).args(args).output().unwrap()
}

fn json(args: &[&str]) -> Value {
    let out = exectrace(args);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text} {out:?}"))
}

/// Whether this can be had here; says why not.
fn has(what: &str) -> bool {
    let doctor = json(&["doctor", "--json"]);
    let findings = doctor["findings"].as_array().unwrap();
    let missing = findings.iter().find(|f| f["what"] == what && f["good"] == false);
    if let Some(missing) = missing {
        println!("skipped: {missing}");
    }
    missing.is_none()
}

/// A program of this folder, compiled; `None`, said, without a compiler or on another machine.
fn program(name: &str) -> Option<PathBuf> {
    if !has("buffers") || !has("library") {
        return None;
    }
    static MADE: AtomicU32 = AtomicU32::new(0);
    let folder = format!("coverage-{}-{name}", MADE.fetch_add(1, Relaxed));
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let source = format!("{}/tests/programs/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let program = folder.join(name);
    let mut cc = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    cc.args(["-O1", "-g", "-Wall", "-Werror", "-pthread", "-o"]).arg(&program).arg(source);
    match cc.output() {
        Ok(out) if out.status.success() => Some(program),
        Ok(out) => panic!("{}", String::from_utf8_lossy(&out.stderr)),
        Err(e) => {
            println!("skipped: no C compiler: {e}");
            None
        }
    }
}

/// Records; gives the trace, and what the report says of it to people and to programs.
fn recorded(program: &Path, argument: &str, classes: &str) -> (PathBuf, String, Value) {
    let trace = program.with_extension("trace");
    let name = trace.to_str().unwrap();
    let program = program.to_str().unwrap();
    let line = ["record", "--no-report", "--classes", classes, "-o", name, "--", program, argument];
    let out = exectrace(&line);
    assert!(out.status.success() && out.stdout == b"done\n", "{out:?}");
    let text = String::from_utf8(exectrace(&["report", name]).stdout).unwrap();
    let report = json(&["report", "--json", name]);
    (trace, text, report)
}

fn opens_with_little(text: &str, report: &Value) {
    let coverage = &report["coverage"];
    assert_eq!(coverage["poor"], true, "{coverage}");
    assert!(coverage["share"].as_f64().unwrap() < 0.9, "{coverage}");
    // The sentence comes after it.
    assert!(text.starts_with("COVERAGE IS ONLY "), "{text}");
    let sentence = report["sentence"].as_str().unwrap();
    assert!(text.find(sentence).unwrap() > text.find("around the hooks").unwrap(), "{text}");
    assert!(
        text.contains("around the hooks: futex by enter in hidden_wait at around.c:"),
        "{text}"
    );
    assert!(
        text.contains("around the hooks: nanosleep by enter in hidden_sleep at around.c:"),
        "{text}"
    );
    let poor: Vec<&str> =
        coverage["poor_threads"].as_array().unwrap().iter().map(|t| str_of(&t["name"])).collect();
    assert!(poor.contains(&"around") && poor.contains(&"follower"), "{coverage}");
    let calls = coverage["raw_calls"].as_array().unwrap();
    let mut calls: Vec<(&str, &str)> =
        calls.iter().map(|c| (function(c), str_of(&c["call"]))).collect();
    calls.sort_unstable();
    let expected =
        [("hidden_sleep", "nanosleep"), ("hidden_wait", "futex"), ("hidden_wake", "futex")];
    assert_eq!(calls, expected);
}

/// The least switches of so many short sleeps: one whose time is over before the thread has left
/// its CPU, which something else may have had meanwhile, is none.
fn switches_of(sleeps: u64) -> u64 {
    sleeps / 10 * 9
}

fn str_of(v: &Value) -> &str {
    v.as_str().unwrap_or_default()
}

/// The function of the program that a call stands in, into which the rest is inlined.
fn function(call: &Value) -> &str {
    call["frames"].as_array().and_then(|f| f.last()).map_or("", |f| str_of(&f["function"]))
}

#[test]
fn a_program_that_waits_around_the_library_is_known_by_the_kernels_counts() {
    if !cfg!(target_arch = "x86_64") {
        return println!("skipped: the program has system calls of x86-64");
    }
    let Some(program) = program("around") else { return };
    let (trace, text, report) = recorded(&program, &ROUNDS.to_string(), PLAIN);
    opens_with_little(&text, &report);
    let coverage = &report["coverage"];
    assert_eq!(coverage["exact"], false);
    // The first thread sleeps in each round; the library saw a join and a write.
    let first = coverage["poor_threads"].as_array().unwrap().iter();
    let first = first.filter(|t| t["name"] == "around").map(|t| t["thread"].as_u64().unwrap());
    let first = first.min().unwrap();
    let thread = report["threads"].as_array().unwrap().iter().find(|t| t["thread"] == first);
    let switches = &thread.unwrap()["coverage"]["switches"];
    assert!(switches["switches"].as_u64().unwrap() >= switches_of(ROUNDS), "{switches}");
    assert!(switches["least"].as_u64().unwrap() <= 1, "{switches}");
    // The trace says it itself, by its end.
    let stat = json(&["stat", "--json", trace.to_str().unwrap()]);
    assert_eq!(stat["coverage"]["voluntary_switches"], coverage["voluntary_switches"]);
    assert_eq!(stat["coverage"]["threads"].as_array().unwrap().len(), 2, "{}", stat["coverage"]);
    assert_eq!(stat["coverage"]["poor"], true);
    let people = String::from_utf8(exectrace(&["stat", trace.to_str().unwrap()]).stdout).unwrap();
    assert!(people.contains("coverage   recorded waits explain"), "{people}");
    // Who wanted locks only is not told that sleeps are missing.
    let (_, text, report) = recorded(&program, &ROUNDS.to_string(), "locks");
    assert_eq!(report["coverage"]["poor"], false);
    assert!(!text.contains("COVERAGE IS ONLY"), "{text}");
    assert!(text.contains("not every class"), "{text}");
}

#[test]
fn and_exactly_by_its_switches() {
    if !cfg!(target_arch = "x86_64") {
        return println!("skipped: the program has system calls of x86-64");
    }
    if !has("kernel's switches") {
        return;
    }
    let Some(program) = program("around") else { return };
    let (_, text, report) = recorded(&program, &ROUNDS.to_string(), SWITCHES);
    opens_with_little(&text, &report);
    assert_eq!(report["coverage"]["exact"], true);
    // Of 2,000 sleeps of 100 us and more.
    assert!(report["cpu"]["unknown_ns"].as_u64().unwrap() >= ROUNDS * 100_000, "{}", report["cpu"]);
}

#[test]
fn a_program_that_waits_by_the_library_is_covered() {
    let Some(program) = program("through") else { return };
    let file = program.with_extension("data");
    let ways = [PLAIN, SWITCHES];
    for classes in &ways[..if has("kernel's switches") { 2 } else { 1 }] {
        let (trace, text, report) = recorded(&program, file.to_str().unwrap(), classes);
        let coverage = &report["coverage"];
        assert_eq!(coverage["poor"], false, "{classes}: {coverage}\n{text}");
        assert!(!text.contains("COVERAGE IS ONLY") && !text.contains("around the hooks"), "{text}");
        // It slept 300 times in each thread, and handed 300 bytes there and back.
        assert!(coverage["slept"].as_u64().unwrap() >= 600, "{coverage}");
        assert!(coverage["voluntary_switches"].as_u64().unwrap() >= 600, "{coverage}");
        let stat = json(&["stat", "--json", trace.to_str().unwrap()]);
        assert_eq!(stat["coverage"]["slept"], coverage["slept"]);
    }
}

#[test]
fn who_saw_what_and_what_can_be_seen_here_is_in_the_trace() {
    let Some(program) = program("through") else { return };
    let file = program.with_extension("data");
    let (trace, ..) = recorded(&program, file.to_str().unwrap(), "locks,sleep");
    let stat = json(&["stat", "--json", trace.to_str().unwrap()]);
    let notes = |name: &str| -> Vec<String> {
        let all = stat["notes"].as_array().unwrap().iter().filter(|n| n["name"] == name);
        all.map(|n| str_of(&n["text"]).to_owned()).collect()
    };
    let observers = notes("observer");
    let of = |what: &str| observers.iter().find(|o| o.starts_with(what)).unwrap();
    assert!(of("waits and wakes of locks").ends_with(": hooks of the C library"), "{observers:?}");
    assert!(of("waits of io").ends_with(": nobody: not asked for"), "{observers:?}");
    // What doctor says of this machine stands in the trace, word by word.
    let said = [notes("here"), notes("not here")].concat().join("; ");
    let doctor = json(&["doctor", "--json"]);
    for finding in doctor["findings"].as_array().unwrap() {
        let text = format!("{}: {}", str_of(&finding["what"]), str_of(&finding["says"]));
        assert!(said.contains(&text), "{text}\n{said}");
    }
}

#[test]
fn doctor_names_the_calls_beforehand() {
    if !cfg!(target_arch = "x86_64") {
        return println!("skipped: the program has system calls of x86-64");
    }
    let (Some(around), Some(through)) = (program("around"), program("through")) else { return };
    let find = |program: &Path| {
        let doctor = json(&["doctor", "--json", program.to_str().unwrap()]);
        let findings = doctor["findings"].as_array().unwrap();
        findings.iter().find(|f| f["what"] == "hooks").unwrap().clone()
    };
    let hooks = find(&around);
    assert_eq!(hooks["good"], false);
    let calls = hooks["calls"].as_array().unwrap();
    let mut functions: Vec<&str> = calls.iter().map(function).collect();
    functions.sort_unstable();
    assert_eq!(functions, ["hidden_sleep", "hidden_wait", "hidden_wake"]);
    let source =
        fs::read_to_string(format!("{}/tests/programs/around.c", env!("CARGO_MANIFEST_DIR")));
    let source = source.unwrap();
    let line = 1 + source.lines().position(|l| l.contains("\"syscall\"")).unwrap() as u64;
    for call in calls {
        // The instruction's own line, in the function that is inlined.
        let inner = &call["frames"][0];
        assert_eq!(inner["function"], "enter");
        assert!(inner["line"].as_u64().unwrap().abs_diff(line) <= 1, "{call}");
    }
    let hooks = find(&through);
    assert_eq!((&hooks["good"], hooks.get("calls")), (&Value::Bool(true), None));
}

/// The recorded program of the next test: its threads sleep, then say what the kernel has counted
/// for them.
#[test]
fn naps() {
    if std::env::var_os(NAPS).is_none() {
        return;
    }
    let nap = |naps: u32| {
        move || {
            (0..naps).for_each(|_| std::thread::sleep(Duration::from_micros(100)));
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            let number = |name: &str| -> u64 {
                let value = status.lines().find_map(|line| line.strip_prefix(name));
                value.unwrap().trim().parse().unwrap()
            };
            println!("counted {} {} {naps}", number("Pid:"), number("voluntary_ctxt_switches:"));
        }
    };
    let threads = [50, 100, 200].map(|naps| std::thread::spawn(nap(naps)));
    threads.into_iter().for_each(|t| t.join().unwrap());
}

const NAPS: &str = "EXECTRACE_TEST_NAPS";

#[test]
fn the_traces_counts_are_those_of_proc() {
    if !has("buffers") || !has("library") {
        return;
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("coverage-naps");
    fs::create_dir_all(&folder).unwrap();
    let trace = folder.join("naps.trace");
    let trace = trace.to_str().unwrap();
    let own = std::env::current_exe().unwrap();
    let mut record = Command::new(env!("CARGO_BIN_EXE_exectrace"));
    record.args(["record", "--no-report", "-o", trace, "--"]).arg(own);
    record.args(["--exact", "naps", "--nocapture", "--test-threads=1"]).env(NAPS, "1");
    let out = record.output().unwrap();
    assert!(out.status.success(), "{out:?}");
    let report = json(&["report", "--json", trace]);
    let threads = report["threads"].as_array().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let counted = said.lines().filter_map(|line| line.split_once("counted ").map(|l| l.1));
    let mut checked = 0;
    for line in counted {
        let numbers: Vec<u64> = line.split(' ').map(|n| n.parse().unwrap()).collect();
        let [tid, switches, naps] = numbers[..] else { panic!("{line}") };
        let thread = threads.iter().find(|t| t["tid"] == tid).unwrap();
        let coverage = &thread["coverage"];
        let in_trace = coverage["voluntary_switches"].as_u64().unwrap();
        // What stands between the thread's own look and its end: the line that it prints, for
        // which it may have to wait, and its last switches in the kernel.
        // And before it was known to the recorder, few.
        let before = switches.saturating_sub(20);
        assert!((before..=switches + 100).contains(&in_trace), "{line}: {coverage}");
        // Each nap is a wait that slept once.
        let slept = coverage["slept"].as_u64().unwrap();
        assert!(slept >= naps && switches >= switches_of(naps), "{line}: {coverage}");
        checked += 1;
    }
    assert_eq!(checked, 3, "{said}");
}

#[test]
fn each_call_that_strace_sees_is_in_the_trace() {
    if !has("buffers") || !has("library") {
        return;
    }
    let script = format!("{}/../../ci/witness", env!("CARGO_MANIFEST_DIR"));
    let witness = |classes: &str| {
        let mut python = Command::new("python3");
        python.args([&script, "--quick", "--classes", classes, "--command"]);
        python.arg(env!("CARGO_BIN_EXE_exectrace")).output()
    };
    let out = match witness(SWITCHES) {
        Ok(out) => out,
        Err(e) => return println!("skipped: no python3: {e}"),
    };
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    if said.contains("skipped: ") {
        return println!("{said}");
    }
    assert!(out.status.success(), "{said}{out:?}");
    // In 20 rounds a byte goes there and back; in one of them a file is emptied, written, synced
    // and read, and a folder comes and goes; at the end a line is written. Both threads sleep in
    // each round.
    let calls = [("read", 41), ("write", 42), ("sync", 1), ("sleep", 40)];
    let on_names = ["resize", "mkdir", "rename", "remove"].map(|call| (call, 1));
    for (call, count) in calls.into_iter().chain(on_names) {
        let row = format!("| {call} | {count} | {count} | {count} | - |");
        assert!(said.contains(&row), "{row}\n{said}");
    }
    // Whoever records locks alone misses the rest, and that is seen.
    let out = witness("locks").unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("| read | 41 | 0 | 0 | 41 MISSED (read from through("), "{said}");
}

/// A program without a loader, and one with the section that Go's compiler writes.
#[test]
fn a_static_program_is_refused_beforehand_and_go_is_known() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("coverage-static");
    fs::create_dir_all(&folder).unwrap();
    let section =
        "__attribute__((section(\".go.buildinfo\"), used)) static const char go[] = \"go\";";
    for (name, text, is_go) in [("plain", "", false), ("go", section, true)] {
        let (source, program) = (folder.join(format!("{name}.c")), folder.join(name));
        fs::write(&source, format!("{text}\nvoid _start(void) {{ for (;;); }}\n")).unwrap();
        let mut cc = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        match cc.args(["-static", "-nostdlib", "-o"]).arg(&program).arg(&source).output() {
            Ok(out) => assert!(out.status.success(), "{out:?}"),
            Err(e) => return println!("skipped: no C compiler: {e}"),
        }
        let out = exectrace(&["doctor", program.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(said.contains("statically linked, so nothing can be preloaded"), "{said}");
        assert_eq!(said.contains("written in Go"), is_go, "{said}");
    }
}
