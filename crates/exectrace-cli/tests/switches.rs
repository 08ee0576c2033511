//! The kernel's records of switches in a trace, against what the kernel itself has counted: each
//! thread of the recorded program reads its own counts at its end.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
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
    let stat = json_of(&["stat", "--json", trace.to_str().unwrap()]);
    assert_eq!((&stat["complete"], &stat["lost"]), (&Value::Bool(true), &Value::from(0)));
    the_report_divides_by_them(&json_of(&["report", "--json", trace.to_str().unwrap()]), &seen);
}

fn json_of(args: &[&str]) -> Value {
    serde_json::from_slice(&exectrace(args).stdout).unwrap()
}

/// The parts of a thread's life make up the whole, and the counts are those of the events.
fn the_report_divides_by_them(report: &Value, seen: &BTreeMap<u64, [u64; 3]>) {
    let mut checked = 0;
    for thread in report["threads"].as_array().unwrap() {
        let number = |of: &Value| of.as_u64().unwrap();
        let (tid, cpu) = (number(&thread["tid"]), &thread["cpu"]);
        let [outs, preempted, _] = seen[&tid];
        assert_eq!((number(&cpu["switches"]), number(&cpu["preempted"])), (outs, preempted));
        assert_eq!(
            (&thread["around_hooks"], &thread["counted"]),
            (&Value::Bool(false), &Value::Null)
        );
        let parts =
            ["running_ns", "preempted_ns", "woken_ns", "blocked_ns", "unknown_ns", "unseen_ns"];
        let sum: u64 = parts.map(|part| number(&cpu[part])).iter().sum();
        let wall = number(&thread["wall_ns"]);
        // It runs a little before it meets the recorder and after it has said goodbye; on a busy
        // machine that may take a turn of the others.
        assert!(sum <= wall + 1_000_000_000 && sum + 1_000_000_000 >= wall, "{thread}");
        let blocked: u64 = thread["blocked_ns"].as_object().unwrap().values().map(number).sum();
        assert_eq!(blocked, number(&cpu["blocked_ns"]));
        let explained = number(&cpu["explained_switches"]);
        // The rest are pages that come from disk, and locks of the kernel.
        assert!(explained <= outs && outs - explained <= 50, "{thread}");
        checked += 1;
    }
    assert!(checked >= 3, "{report}");
}

/// Compiles a C program of this test; `None`, and a word of it, where there is no compiler.
fn compiled(folder: &Path, name: &str, source: &str) -> Option<String> {
    let program = folder.join(name);
    let file = program.with_extension("c");
    fs::write(&file, source).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-fno-omit-frame-pointer", "-pthread", "-o"]).arg(&program).arg(&file);
    match cc.output() {
        Ok(out) => assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr)),
        Err(e) => {
            println!("skipped: no C compiler: {e}");
            return None;
        }
    }
    Some(program.to_str().unwrap().to_owned())
}

/// A thread made by `clone`, which sleeps by instructions of its own: no hook sees it.
const AROUND: &str = r#"
#define _GNU_SOURCE
#include <sched.h>
#include <stdlib.h>
#include <time.h>
static volatile int ended;
static long enter(long number, const void *a, void *b) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(number), "D"(a), "S"(b) : "rcx", "r11", "memory");
    return r;
}
static int sleeps(void *none) {
    struct timespec ms = {0, 1000000};
    for (int i = 0; i < 20; i++) enter(35, &ms, none);
    ended = 1;
    enter(60, none, none);
    return 0;
}
int main(void) {
    char *stack = malloc(65536);
    int shared = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    if (clone(sleeps, stack + 65536, shared, NULL) < 0) return 2;
    struct timespec ms = {0, 1000000};
    while (!ended) nanosleep(&ms, NULL);
    return 0;
}
"#;

#[test]
fn a_thread_that_gets_around_the_hooks_is_seen() {
    if !can_watch() {
        return;
    }
    if cfg!(not(target_arch = "x86_64")) {
        return println!("skipped: the program enters the kernel by x86-64's instruction");
    }
    let folder = folder("around");
    let Some(program) = compiled(&folder, "around", AROUND) else { return };
    let (program, trace) = (program.as_str(), folder.join("around.trace"));
    let trace = trace.to_str().unwrap();
    let out = exectrace(&["record", "--classes", "sleep,sched", "-o", trace, "--", program]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && said.contains("1 thread got around the hooks"), "{said}");
    let report = json_of(&["report", "--json", trace]);
    let threads = report["threads"].as_array().unwrap();
    let around: Vec<&Value> = threads.iter().filter(|t| t["around_hooks"] == true).collect();
    let [thread] = around[..] else { panic!("{report}") };
    // Twenty sleeps of a millisecond, each of them a switch that nothing explains.
    assert!(thread["cpu"]["switches"].as_u64().unwrap() >= 20, "{thread}");
    assert!(thread["cpu"]["unknown_ns"].as_u64().unwrap() >= 20_000_000, "{thread}");
    assert_eq!(thread["cpu"]["explained_switches"], 0);
    let main = threads.iter().find(|t| t["around_hooks"] == false).unwrap();
    assert!(main["cpu"]["explained_switches"].as_u64().unwrap() > 0, "{main}");
}

/// Nine parts of its time in one function, one part in another, in two threads; says how many
/// microseconds of CPU time that took in the program itself.
const BURNS: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <sys/resource.h>
static volatile unsigned long sink;
__attribute__((noinline)) void often(unsigned n) { for (unsigned i = 0; i < n; i++) sink += i; }
__attribute__((noinline)) void seldom(unsigned n) { for (unsigned i = 0; i < n; i++) sink += i; }
static void *burns(void *none) {
    for (int i = 0; i < 100; i++) { often(900000); seldom(100000); }
    return none;
}
int main(void) {
    pthread_t other;
    pthread_create(&other, 0, burns, 0);
    burns(0);
    pthread_join(other, 0);
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    printf("%ld\n", u.ru_utime.tv_sec * 1000000 + u.ru_utime.tv_usec);
    return 0;
}
"#;

#[test]
fn samples_of_running_threads_are_as_many_as_their_time_and_where_it_went() {
    if !can_watch() {
        return;
    }
    let folder = folder("samples");
    let Some(program) = compiled(&folder, "burns", BURNS) else { return };
    let trace = folder.join("burns.trace");
    let trace = trace.to_str().unwrap();
    let out = exectrace(&["record", "--cpu-samples", "500", "-o", trace, "--", &program]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let user_us: u64 = String::from_utf8_lossy(&out.stdout).trim().parse().unwrap();
    let folded = exectrace(&["stacks", "--folded", "--kind", "Sample", trace]).stdout;
    let (mut all, mut often, mut seldom) = (0, 0, 0);
    for line in String::from_utf8_lossy(&folded).lines() {
        let (stack, count) = line.rsplit_once(' ').unwrap();
        let count: u64 = count.parse().unwrap();
        all += count;
        match stack.rsplit(';').next().unwrap() {
            "often" => often += count,
            "seldom" => seldom += count,
            _ => {}
        }
    }
    // Of 500 a second: a third to twice as many. The kernel counts user time by its own ticks, and
    // where the machine itself gets no CPU, timers are late.
    let expected = user_us / 2_000;
    println!("{all} of {expected}, {often} and {seldom}");
    assert!(all * 3 >= expected && all <= expected * 2 + 10, "{all} of {expected}");
    let report = json_of(&["report", "--json", trace]);
    assert_eq!(report["samples"]["count"], all);
    let first = &report["samples"]["places"][0];
    assert!(first["in"].as_str().unwrap().starts_with("often"), "{first}");
    assert!(often > 3 * seldom && often * 10 > all * 7, "{often} and {seldom} of {all}");
}

/// Becomes another program for which `perf_event_open` is refused, as in a container.
const REFUSES: &str = r#"
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int argc, char **argv) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_perf_event_open, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog all = {4, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, 2, &all)) return 99;
    execv(argv[1], argv + 1);
    return 98;
}
"#;

#[test]
fn where_the_kernel_refuses_it_is_said_and_nothing_fails() {
    let folder = folder("refused");
    let Some(refuses) = compiled(&folder, "refuses", REFUSES) else { return };
    let trace = folder.join("sh.trace");
    let trace = trace.to_str().unwrap();
    let under = |args: &[&str]| {
        let mut command = Command::new(&refuses);
        command.arg(env!("CARGO_BIN_EXE_exectrace")).args(args).output().unwrap()
    };
    let doctor = under(&["doctor", "--json"]);
    if doctor.status.code() == Some(99) {
        return println!("skipped: no filter of system calls can be set here");
    }
    let doctor: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let findings = doctor["findings"].as_array().unwrap();
    let found = findings.iter().find(|f| f["what"] == "kernel's switches").unwrap();
    assert_eq!(found["good"], false);
    assert!(found["says"].as_str().unwrap().contains("perf_event_open is refused"), "{found}");
    if doctor["good"] == false {
        return println!("skipped: {doctor}");
    }
    let script =
        ["record", "--classes", "locks,process,sched", "--cpu-samples", "100", "-o", trace];
    let out = under(&[&script[..], &["--", "sh", "-c", "exit 7"]].concat());
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(7), "{said}");
    let first = said.lines().next().unwrap();
    assert!(first.contains("no switches of threads: perf_event_open is refused"), "{said}");
    let stat = exectrace(&["stat", trace]);
    let stat = String::from_utf8_lossy(&stat.stdout).into_owned();
    assert!(stat.contains("read now and then: perf_event_open is refused"), "{stat}");
    assert!(stat.contains("not here: kernel's switches: perf_event_open is refused"), "{stat}");
}

#[test]
fn without_switches_the_kernels_counts_are_in_the_trace() {
    let folder = folder("counts");
    let trace = folder.join("sleep.trace");
    let trace = trace.to_str().unwrap();
    let out = exectrace(&["record", "--no-report", "-o", trace, "--", "sleep", "1"]);
    let stat = json_of(&["stat", "--json", trace]);
    let counted = exectrace(&["events", "--json", "--kind", "RunDelay", trace]).stdout;
    let counted = String::from_utf8_lossy(&counted).into_owned();
    if !out.status.success() || fs::read("/proc/self/schedstat").is_err() {
        return println!("skipped: {stat} {}", String::from_utf8_lossy(&out.stderr));
    }
    let first: Value = serde_json::from_str(counted.lines().next().unwrap()).unwrap();
    assert!(first["ran"].as_u64().unwrap() > 0, "{first}");
    let report = json_of(&["report", "--json", trace]);
    assert_eq!(report["cpu"], Value::Null);
    assert!(report["threads"][0]["counted"]["ran_ns"].as_u64().unwrap() > 0, "{report}");
}
