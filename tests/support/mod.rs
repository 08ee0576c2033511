//! What the tests that record share: a capturing writer, accounts of what was attempted and of what
//! a trace holds, a watchdog, and ways to be alone in the process.
//!
//! 1. Sessions belong to the process: a test that starts one holds [`alone`] or runs [`in_child`].
//! 2. An account is exact: for each thread, what was recorded is decoded, value by value, and what
//!    was lost is declared.

#![allow(dead_code)] // Each test binary uses its part.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use trace::Outcome;
use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Validate;
use trace_decode::Value;
use trace_decode::tables::End;
use trace_decode::validate::Problem;
use trace_decode::validate::What;

/// Holds the process's one session for a test. A test that failed leaves no mark on the next one,
/// which ends a session that is still there.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = trace::stop();
    while let Ok(Some(_)) = trace::read_trace() {}
    // The thread of the test before may still be on its way out: its end would be an event here.
    let until = Instant::now() + Duration::from_secs(2);
    while others_are_registered() && Instant::now() < until {
        std::thread::sleep(Duration::from_micros(100));
    }
    guard
}

fn others_are_registered() -> bool {
    let Some(m) = trace::registry::mapping() else { return false };
    trace::registry::live(m).any(|(_, r)| r.tid.load(Relaxed) != tid())
}

/// Aborts the process unless it is dropped in time: a hang becomes a message.
pub struct Watchdog(Arc<AtomicBool>);

/// Watches the test `name` for `seconds`.
pub fn watch(name: &'static str, seconds: u64) -> Watchdog {
    let done = Arc::new(AtomicBool::new(false));
    let seen = done.clone();
    let patience = if sanitized() { 20 } else { 1 };
    let until = Instant::now() + Duration::from_secs(seconds * multiplier() * patience);
    std::thread::spawn(move || {
        while !seen.load(Relaxed) {
            if Instant::now() > until {
                tell(&format!("watchdog: {name} hangs; threads:"));
                for line in threads() {
                    tell(&format!("  {line}"));
                }
                std::process::abort();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    Watchdog(done)
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Says this on standard error. What a test prints by macros is kept until the test ends, which one
/// that aborts never does.
pub fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Every thread of the process with its name, state and wait channel.
fn threads() -> Vec<String> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let one = |task: std::fs::DirEntry| {
        let stat = read(task.path().join("stat"));
        let state = stat.rsplit(')').next().unwrap_or("").trim().chars().next();
        let wait = read(task.path().join("wchan"));
        let name = read(task.path().join("comm"));
        format!("{:?} {} {state:?} {wait}", task.file_name(), name.trim())
    };
    tasks.flatten().map(one).collect()
}

/// `EXECTRACE_TEST_SCALE`: how much longer than usual the heavy tests run.
pub fn multiplier() -> u64 {
    std::env::var("EXECTRACE_TEST_SCALE").ok().and_then(|v| v.parse().ok()).unwrap_or(1)
}

/// `EXECTRACE_TEST_SANITIZED`: whether everything takes many times as long, and memory is a
/// sanitizer's too.
pub fn sanitized() -> bool {
    std::env::var_os("EXECTRACE_TEST_SANITIZED").is_some()
}

/// A writer that keeps what it gets.
#[derive(Clone, Default)]
pub struct Capture(Arc<Mutex<Vec<u8>>>);

impl Capture {
    /// What was written, which is forgotten here.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// What was written.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }

    /// How much was written.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a thread attempted, as `emit_probe` said it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempted {
    /// In the thread's buffer, or in its side ring.
    pub kept: u64,
    /// Sum of the numbers of the kept ones, modulo 2^64.
    pub sum: u64,
    /// Counted as lost.
    pub lost: u64,
    /// Nothing was recorded.
    pub off: u64,
}

impl Attempted {
    /// Emits the probe `n` and takes its outcome into the account.
    pub fn probe(&mut self, n: u64) -> Outcome {
        let outcome = trace::emit_probe(n);
        self.add(n, outcome);
        outcome
    }

    /// Takes an outcome into the account.
    pub fn add(&mut self, n: u64, outcome: Outcome) {
        match outcome {
            Outcome::Off => self.off += 1,
            Outcome::Recorded | Outcome::Nested => {
                self.kept += 1;
                self.sum = self.sum.wrapping_add(n);
            }
            Outcome::Lost(_) => self.lost += 1,
            _ => panic!("an outcome that the account does not know"),
        }
    }

    /// Another account of the same thread.
    pub fn merge(&mut self, other: &Attempted) {
        self.kept += other.kept;
        self.sum = self.sum.wrapping_add(other.sum);
        self.lost += other.lost;
        self.off += other.off;
    }
}

/// What a trace holds of one thread.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// The kernel's number.
    pub tid: u32,
    /// Probes.
    pub probes: u64,
    /// Sum of their numbers, modulo 2^64.
    pub sum: u64,
    /// Events by the name of their kind: of sites the class.
    pub kinds: BTreeMap<String, u64>,
    /// Losses by cause, those above 32 included.
    pub losses: BTreeMap<u64, u64>,
}

impl Held {
    /// Lost events.
    pub fn lost(&self) -> u64 {
        self.losses.range(..32).map(|(_, n)| n).sum()
    }

    /// Events of this kind.
    pub fn kind(&self, name: &str) -> u64 {
        self.kinds.get(name).copied().unwrap_or(0)
    }
}

/// What a trace holds.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// By the number in the trace; 0 for losses of threads that have none.
    pub threads: BTreeMap<u64, Held>,
    /// Timed events.
    pub events: u64,
    /// The end mark.
    pub end: Option<End>,
    /// Bytes that were skipped.
    pub damaged: u64,
    /// Sessions.
    pub sessions: u64,
}

impl Contents {
    /// All losses of events.
    pub fn lost(&self) -> u64 {
        self.threads.values().map(Held::lost).sum()
    }

    /// Events of this kind, of all threads.
    pub fn kind(&self, name: &str) -> u64 {
        self.threads.values().map(|t| t.kind(name)).sum()
    }

    /// All losses of one cause.
    pub fn cause(&self, cause: trace::encode::schema::Cause) -> u64 {
        self.threads.values().filter_map(|t| t.losses.get(&(cause as u64))).sum()
    }

    /// What is held of all threads with this kernel number together.
    pub fn of_tid(&self, tid: u32) -> Held {
        let mut all = Held { tid, ..Held::default() };
        for t in self.threads.values().filter(|t| t.tid == tid) {
            all.probes += t.probes;
            all.sum = all.sum.wrapping_add(t.sum);
            for (kind, n) in &t.kinds {
                *all.kinds.entry(kind.clone()).or_default() += n;
            }
            for (cause, n) in &t.losses {
                *all.losses.entry(*cause).or_default() += n;
            }
        }
        all
    }
}

/// Decodes a trace and counts what is in it.
pub fn contents(bytes: &[u8]) -> Contents {
    let mut c = Contents::default();
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    decoder.finish();
    let mut last: BTreeMap<u32, u64> = BTreeMap::new();
    while let Some(item) = decoder.next_item().expect("a trace") {
        match item {
            Item::SessionBegin(_) => last.clear(),
            Item::Event(e) => {
                c.events += 1;
                let t = c.threads.entry(e.thread.into()).or_default();
                let before = last.insert(e.thread, e.ts_ns).unwrap_or(0);
                assert!(e.ts_ns >= before, "time of thread {} goes back", e.thread);
                let name = e.kind_name();
                let name = std::str::from_utf8(name.bytes).expect("a name of ours");
                match t.kinds.get_mut(name) {
                    Some(n) => *n += 1,
                    None => drop(t.kinds.insert(name.to_owned(), 1)),
                }
                if name == "instant" && e.name().is_some_and(|n| n.bytes == b"probe") {
                    let Some((_, Value::U64(n))) = e.fields().next() else { panic!("no number") };
                    t.probes += 1;
                    t.sum = t.sum.wrapping_add(n);
                }
            }
            Item::Damage(d) => c.damaged += d.len,
            Item::SessionEnd(s) => {
                c.sessions += 1;
                c.end = s.end().copied();
                for t in s.threads() {
                    c.threads.entry(t.number).or_default().tid = t.tid as u32;
                }
                for l in s.losses() {
                    c.threads.entry(l.thread).or_default().losses.insert(l.cause, l.count);
                }
            }
            _ => {}
        }
    }
    c
}

/// Everything that does not make sense in a trace.
pub fn problems(bytes: &[u8]) -> Vec<Problem> {
    let mut v = Validate::new();
    v.push(bytes).expect("a trace");
    v.finish().expect("a trace");
    v.problems().to_vec()
}

/// The trace is whole and makes sense.
#[track_caller]
pub fn assert_valid(bytes: &[u8]) {
    let found = problems(bytes);
    if !found.is_empty() {
        let path = keep(bytes);
        let first: Vec<String> = found.iter().take(20).map(Problem::to_string).collect();
        panic!("{} problems: {first:#?} in {}", found.len(), path.display());
    }
}

/// The trace makes sense as far as it goes: it may lack its end.
#[track_caller]
pub fn assert_valid_prefix(bytes: &[u8]) {
    let cut = |p: &Problem| {
        p.what == What::Session && p.text.contains("no end")
            || p.what == What::Damage && p.text.contains("input ended")
    };
    let found: Vec<_> = problems(bytes).into_iter().filter(|p| !cut(p)).collect();
    if !found.is_empty() {
        let path = keep(bytes);
        panic!("{} problems: {:#?} in {}", found.len(), &found[..1], path.display());
    }
}

/// Each thread's account agrees with the trace: probes one by one, losses in number; nobody else
/// has any. Threads are named by the kernel's number.
#[track_caller]
pub fn assert_exact(bytes: &[u8], attempted: &BTreeMap<u32, Attempted>) -> Contents {
    let c = contents(bytes);
    let mut wrong = Vec::new();
    for (tid, a) in attempted {
        let h = c.of_tid(*tid);
        if (a.kept, a.sum, a.lost) != (h.probes, h.sum, h.lost()) {
            wrong.push(format!("tid {tid}: attempted {a:?}, found {h:?}"));
        }
    }
    for (number, t) in c.threads.iter().filter(|t| !attempted.contains_key(&t.1.tid)) {
        if (t.probes, t.lost()) != (0, 0) {
            wrong.push(format!("thread {number} attempted nothing, found {t:?}"));
        }
    }
    if c.damaged != 0 {
        wrong.push(format!("{} damaged bytes", c.damaged));
    }
    let attempts: u64 = attempted.values().map(|a| a.kept + a.lost).sum();
    if c.events + c.lost() < attempts {
        wrong.push("fewer events than probes".into());
    }
    if !wrong.is_empty() {
        panic!("{wrong:#?} in {}", keep(bytes).display());
    }
    c
}

/// Puts a trace where a person can look at it.
pub fn keep(bytes: &[u8]) -> PathBuf {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Relaxed);
    let name = format!("failed-{}-{n}.trace", std::process::id());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, bytes).expect("the folder of test outputs");
    path
}

/// The calling thread's kernel number.
pub fn tid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}

/// Resident memory of the process, in KiB; 0 where it says nothing of the recorder.
pub fn rss_kib() -> u64 {
    if sanitized() {
        return 0;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("a number");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Names the scenario that a child of this test binary is to run.
const SCENARIO: &str = "EXECTRACE_TEST_SCENARIO";

/// The scenario of this process; `None` in the parent.
pub fn scenario() -> Option<String> {
    std::env::var(SCENARIO).ok()
}

/// A command that runs the test `test` of this binary alone, as `scenario`.
pub fn child(test: &str, scenario: &str) -> Command {
    let mut c = Command::new(std::env::current_exe().unwrap());
    c.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(SCENARIO, scenario);
    c
}

/// Runs the test `test` of this binary in a process of its own, as `scenario`; it must succeed.
#[track_caller]
pub fn in_child(test: &str, scenario: &str) -> Output {
    let out = child(test, scenario).output().unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    assert!(
        out.status.success() && text(&out.stdout).contains("1 passed"),
        "{scenario}: {}\n{}\n{}",
        out.status,
        text(&out.stdout),
        text(&out.stderr)
    );
    out
}

/// Takes the rest of a reading session.
pub fn read_all() -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(batch) = trace::read_trace().unwrap() {
        bytes.extend_from_slice(&batch);
    }
    bytes
}
