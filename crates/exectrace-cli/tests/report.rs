//! A report is a screen or two, whatever the program is called and wherever it waits; and a lock
//! that is taken at many places is one lock.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Instant;

use serde_json::Value;

/// Most bytes of a report.
const REPORT_MAX: usize = 8 << 10;
/// Places at which the lock is taken, each in a function of its own.
const PLACES: usize = 12;
const THREADS: usize = 9;

/// The program: functions and a file with names that are far too long. Whoever has the lock sleeps,
/// so that all others wait for it nearly all the time.
fn source(folder: &Path) -> String {
    let deep = folder.join(vec!["d".repeat(200); 12].join("/"));
    fs::create_dir_all(&deep).unwrap();
    let file = deep.join("file");
    let mut source = String::from(
        "#include <fcntl.h>\n#include <pthread.h>\n#include <unistd.h>\n\
         static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;\n",
    );
    let name = |i| format!("takes_{i}_{}", "x".repeat(4000));
    for i in 0..PLACES {
        source.push_str(&format!(
            "__attribute__((noinline)) void {}(void) {{ pthread_mutex_lock(&lock); usleep(2000); \
             pthread_mutex_unlock(&lock); int f = open(\"{}\", O_RDWR | O_CREAT, 0600); \
             if (f >= 0) {{ if (write(f, \"x\", 1) == 1) fsync(f); close(f); }} }}\n",
            name(i),
            file.display(),
        ));
    }
    let calls: String = (0..PLACES).map(|i| format!("{}();", name(i))).collect();
    source.push_str(&format!(
        "static void *works(void *p) {{ for (int i = 0; i < 3; i++) {{ {calls} }} return p; }}\n\
         int main(void) {{ pthread_t t[{THREADS}]; \
         for (int i = 0; i < {THREADS}; i++) pthread_create(t + i, 0, works, 0); \
         for (int i = 0; i < {THREADS}; i++) pthread_join(t[i], 0); return 0; }}\n"
    ));
    source
}

fn exectrace(folder: &Path, args: &[&str]) -> (Vec<u8>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_exectrace"));
    let out = command.args(args).current_dir(folder).env_remove("COLUMNS").output().unwrap();
    (out.stdout, String::from_utf8_lossy(&out.stderr).into_owned())
}

/// A folder with the program in it, where it can be made and recorded.
fn made(name: &str, source: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let source = if source.is_empty() { self::source(&folder) } else { source.to_owned() };
    fs::write(folder.join("long.c"), source).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-g", "-fno-omit-frame-pointer", "-o", "long", "long.c", "-lpthread"]);
    if !cc.current_dir(&folder).status().is_ok_and(|s| s.success()) {
        println!("skipped: no C compiler");
        return None;
    }
    let (doctor, _) = exectrace(&folder, &["doctor", "--json"]);
    if serde_json::from_slice::<Value>(&doctor).unwrap()["good"] != true {
        println!("skipped: {}", String::from_utf8_lossy(&doctor));
        return None;
    }
    Some(folder)
}

#[test]
fn it_has_a_bound_and_knows_a_lock_that_is_taken_at_many_places() {
    let Some(folder) = made("report", "") else { return };
    let (_, said) = exectrace(&folder, &["record", "--no-report", "-o", "a.trace", "--", "./long"]);
    let (report, _) = exectrace(&folder, &["report", "a.trace"]);
    let report = String::from_utf8(report).unwrap();
    assert!(report.len() <= REPORT_MAX, "{}", report.len());
    // What names a place stands at its ends.
    let first = report.lines().next().unwrap_or_default();
    let at = format!("waiting for one mutex at {PLACES} places, most in takes_");
    assert!(first.contains(&at) && first.contains("at report/long.c:"), "{first}\n{said}");
    let threads = format!("of the {THREADS} threads `long`");
    assert!(first.contains(&threads), "{first}");
    assert!(report.contains(&format!("{}..", "d".repeat(20))), "{report}");
    // Without stacks nobody knows where, but who is known.
    let without = ["record", "--no-report", "--no-stacks", "-o", "b.trace", "--", "./long"];
    exectrace(&folder, &without);
    let (bare, _) = exectrace(&folder, &["report", "b.trace"]);
    let bare = String::from_utf8(bare).unwrap();
    assert!(bare.lines().next().unwrap_or_default().contains(" until `long ("), "{bare}");
    // For programs nothing is cut.
    let (json, _) = exectrace(&folder, &["report", "--json", "a.trace"]);
    let json: Value = serde_json::from_slice(&json).unwrap();
    let causes = json["causes"].as_array().unwrap();
    let whole = |c: &Value| c["where"].as_str().is_some_and(|p| p.len() > 4000);
    assert!(causes.iter().filter(|c| whole(c)).count() >= PLACES, "{causes:?}");
}

#[test]
fn threads_without_cpus_are_what_a_report_says_first() {
    let Some(folder) = made("report-spin", include_str!("programs/spin.c")) else { return };
    if fs::metadata("/proc/self/schedstat").is_err() {
        println!("skipped: this kernel does not count how long threads wait for a CPU");
        return;
    }
    let (_, said) = exectrace(&folder, &["record", "--no-report", "-o", "a.trace", "--", "./long"]);
    let (report, _) = exectrace(&folder, &["report", "a.trace"]);
    let report = String::from_utf8(report).unwrap();
    let first = report.lines().next().unwrap_or_default();
    assert!(first.starts_with("There are too few CPUs: "), "{report}\n{said}");
    // Of four that share one CPU each runs for a quarter of the time, or less on a busy machine.
    let share = first.split("had work, ").nth(1).unwrap().split(' ').next().unwrap();
    let share: f64 = share.parse().unwrap();
    assert!((65.0..=100.0).contains(&share), "{first}");
}

/// What is called and never sleeps: each call says that there is nothing to wait for, or wakes
/// nobody.
const STORM: &str = "
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>
static int word = 1;
__attribute__((noinline)) void *burns(void *none) {
    for (int i = 0; i < 50000; i++) {
        syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, 0, 0, 0);
        syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
    }
    return none;
}
int main(void) {
    pthread_t one, other;
    pthread_create(&one, 0, burns, 0);
    pthread_create(&other, 0, burns, 0);
    pthread_join(one, 0);
    pthread_join(other, 0);
    return 0;
}
";

#[test]
fn a_lock_that_burns_calls_and_never_sleeps_is_what_a_report_says_first() {
    let Some(folder) = made("report-storm", STORM) else { return };
    let (_, said) = exectrace(&folder, &["record", "--no-report", "-o", "a.trace", "--", "./long"]);
    let (report, _) = exectrace(&folder, &["report", "a.trace"]);
    let report = String::from_utf8(report).unwrap();
    let first = report.lines().next().unwrap_or_default();
    let begins = "The futex in burns at report-storm/long.c:";
    assert!(first.starts_with(begins) && first.contains(" calls a second"), "{report}\n{said}");
    let last = report.lines().find(|l| l.contains("waits that returned at once")).unwrap();
    assert!(last.contains("burns calls: 100,000 waits"), "{report}");
    assert!(last.contains(", 100,000 wakes of nobody, 0 waits that slept."), "{report}");
    let without = ["record", "--no-report", "--no-stacks", "-o", "b.trace", "--", "./long"];
    exectrace(&folder, &without);
    let (bare, _) = exectrace(&folder, &["report", "b.trace"]);
    let bare = String::from_utf8(bare).unwrap();
    assert!(bare.starts_with("A lock burns "), "{bare}");
    assert!(bare.contains("\nA lock (at 0x"), "{bare}");
    let (json, _) = exectrace(&folder, &["report", "--json", "a.trace"]);
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["lost"], 0);
    let storm = &json["objects"][0];
    let counts = ["waits", "at_once", "wakes", "of_nobody", "timeouts"].map(|c| storm[c].as_u64());
    assert_eq!(counts, [100_000, 100_000, 100_000, 100_000, 0].map(Some), "{json}");
    let burns = |c: &&Value| c["where"].as_str().is_some_and(|place| place.starts_with("burns"));
    let ranks = json["causes"].as_array().unwrap().iter().find(burns).expect("a rank");
    assert_eq!(ranks["count"], 100_000);
}

/// Two threads that wait for what never comes: one at a connection, the other for that one.
const STUCK: &str = "
#include <arpa/inet.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
static int ends[2];
__attribute__((noinline)) void *asks(void *none) {
    char byte;
    if (write(1, \"ready\\n\", 6) != 6) exit(4);
    if (recv(ends[0], &byte, 1, 0) < 0) exit(3);
    return none;
}
int main(void) {
    pthread_t other;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) return 2;
    pthread_create(&other, 0, asks, 0);
    pthread_join(other, 0);
    return 0;
}
";

#[test]
fn what_a_program_waits_for_that_does_nothing_is_what_a_report_says_first() {
    let Some(folder) = made("report-stuck", STUCK) else { return };
    let began = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_exectrace"));
    command.args(["record", "--no-report", "-o", "a.trace", "--", "./long"]);
    command.current_dir(&folder).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"ready\n");
    // However long it took to get there, that becomes a small part of its life.
    thread::sleep(20 * began.elapsed());
    let kill = format!("kill -TERM {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(128 + 15), "{said}");
    let (report, _) = exectrace(&folder, &["report", "a.trace"]);
    let report = String::from_utf8(report).unwrap();
    let first = report.lines().next().unwrap_or_default();
    assert!(first.starts_with("The program had next to nothing to do: "), "{report}\n{said}");
    let waits =
        " of the time of the thread `long (2)` is in receive by asks at report-stuck/long.c:";
    assert!(first.contains(waits), "{first}");
    assert!(first.contains(", from unix pair:"), "{first}");
    assert!(first.ends_with(", and had not ended when the recording did."), "{first}");
    // Its place is in the table too.
    let row = |l: &&str| l.contains("receive, never ended  asks at report-stuck/long.c:");
    assert_eq!(report.lines().filter(row).count(), 1, "{report}");
}
