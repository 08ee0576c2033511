//! The memory of a recorded process over time, against what the program did.

mod recording;

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use recording::can_record;
use recording::exectrace;
use recording::folder;
use recording::text;
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// What the program touches at each step, and how many steps there are.
const STEP: u64 = 32 * MIB;
const STEPS: u64 = 2;
/// The kernel sums up pages by CPU now and then only: it may know of some of them later.
const LATER: u64 = 4 * MIB;
/// What else the program and the recorder inside it may come to have meanwhile.
const BESIDE: u64 = 24 * MIB;

/// Touches as much as it was told for each byte that it reads, page by page, and says when it has.
const TOUCHES: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv) {
    size_t step = strtoul(argv[1], 0, 10), steps = strtoul(argv[2], 0, 10);
    long page = sysconf(_SC_PAGESIZE);
    char *all = mmap(0, step * steps, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (argc != 3 || all == MAP_FAILED) return 2;
    madvise(all, step * steps, MADV_NOHUGEPAGE);
    printf("%ld\n", page);
    fflush(stdout);
    char byte;
    for (size_t i = 0; i < steps && read(0, &byte, 1) == 1; i++) {
        for (size_t at = 0; at < step; at += page) ((volatile char *)all)[i * step + at] = 1;
        printf("touched\n");
        fflush(stdout);
    }
    return read(0, &byte, 1) == 0 ? 0 : 3;
}
"#;

fn json_of(folder: &Path, args: &[&str]) -> Value {
    serde_json::from_slice(&exectrace(folder, args).output().unwrap().stdout).unwrap()
}

/// The looks at the process that stand in the trace by now: bytes resident, minor faults.
fn looks(folder: &Path) -> Vec<(u64, u64)> {
    let events = exectrace(folder, &["events", "--json", "--kind", "Memory", "touches.trace"]);
    let said = text(&{ events }.output().unwrap().stdout);
    let look = |line: &str| {
        let e: Value = serde_json::from_str(line).unwrap();
        assert_eq!(e["lane"], "kernel");
        let of = |name: &str| e[name].as_u64().unwrap();
        assert!(of("shared") <= of("resident") && of("resident") <= of("peak"), "{line}");
        (of("resident"), of("minor_faults"))
    };
    said.lines().map(look).collect()
}

/// Waits for a look that found so much; the program does nothing meanwhile.
fn found(folder: &Path, at_least: u64) -> (u64, u64) {
    let since = Instant::now();
    loop {
        let all = looks(folder);
        if let Some(look) = all.iter().rev().find(|look| look.0 >= at_least) {
            return *look;
        }
        assert!(since.elapsed() < Duration::from_secs(120), "{at_least}: {all:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Records a program that touches its memory step by step, each one when the one before was seen.
fn steps_are_seen(name: &str, classes: &str) {
    let folder = folder(name);
    if !can_record(&folder) {
        return;
    }
    let source = folder.join("touches.c");
    fs::write(&source, TOUCHES).unwrap();
    let mut cc = Command::new("cc");
    match cc.arg("-O1").arg("-o").arg(folder.join("touches")).arg(&source).output() {
        Ok(out) => assert!(out.status.success(), "{}", text(&out.stderr)),
        Err(e) => return println!("skipped: no C compiler: {e}"),
    }
    let (step, steps) = (STEP.to_string(), STEPS.to_string());
    let record =
        ["record", "--no-report", "--classes", classes, "-o", "touches.trace", "--", "./touches"];
    let mut record = exectrace(&folder, &[&record[..], &[&step, &steps]].concat());
    let piped = record.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let page: u64 = lines.next().unwrap().unwrap().parse().unwrap();
    let (before, faults_before) = found(&folder, 1);
    let mut last = (before, faults_before);
    for touched in (1..=STEPS).map(|i| i * STEP) {
        input.write_all(b"x").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "touched");
        last = found(&folder, before + touched - LATER);
        let grown = last.0 - before;
        assert!(grown <= touched + BESIDE, "{grown} of {touched}");
    }
    drop(input);
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let pages = STEP * STEPS / page;
    assert!(last.1 - faults_before >= pages, "{last:?} after {faults_before}, {pages} pages");

    let all = looks(&folder);
    let said = json_of(&folder, &["stat", "--json", "touches.trace"]);
    assert_eq!(said["complete"], true, "{said}");
    let memory = &said["memory"];
    let of = |name: &str| memory[name].as_u64().unwrap();
    assert_eq!((of("looks"), of("first_bytes")), (all.len() as u64, all[0].0));
    assert_eq!((of("last_bytes"), of("minor_faults")), *all.last().unwrap());
    assert!(of("max_bytes") >= before + STEP * STEPS - LATER, "{memory}");
    assert!(of("first_at_ns") < of("last_at_ns"), "{memory}");
    assert_eq!(json_of(&folder, &["report", "--json", "touches.trace"])["memory"]["looks"], {
        memory["looks"].clone()
    });
    // What was read by merging, too.
    let some = json_of(&folder, &["stat", "--json", "--thread", "1", "touches.trace"]);
    assert_eq!(some["memory"]["last_bytes"], memory["last_bytes"]);
    for (command, says) in
        [("stat", "resident at first"), ("report", "Memory: "), ("events", "page faults")]
    {
        let out = exectrace(&folder, &[command, "touches.trace"]).output().unwrap();
        assert!(text(&out.stdout).contains(says), "{command}: {}", text(&out.stdout));
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).unwrap();
    let notes = said["notes"].as_array().unwrap();
    let cpus = notes.iter().find(|note| note["name"] == "cpus").unwrap();
    let begin = format!("may run on {} of ", allowed.trim());
    assert!(cpus["text"].as_str().unwrap().starts_with(&begin), "{cpus} {begin}");
}

#[test]
fn what_a_program_touches_is_seen_step_by_step() {
    steps_are_seen("memory", "locks");
}

#[test]
fn beside_the_kernels_switches_too() {
    steps_are_seen("memory-sched", "locks,sched");
}

#[test]
fn a_program_that_ends_at_once_may_have_no_look() {
    let folder = folder("memory-short");
    if !can_record(&folder) {
        return;
    }
    let out = exectrace(&folder, &["record", "--no-report", "-o", "true.trace", "--", "true"]);
    let out = { out }.output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let said = json_of(&folder, &["stat", "--json", "true.trace"]);
    assert_eq!(said["complete"], true, "{said}");
    let memory = &said["memory"];
    assert!(memory.is_null() || memory["looks"].as_u64() > Some(0), "{memory}");
}
