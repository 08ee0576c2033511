//! Recording that another process drains: whatever the recorded process does at its end, the trace
//! has every event that was published, and a forked child has a trace of its own.

mod support;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Stdio;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use support::Attempted;
use trace::Config;
use trace::encode::op::Op;
use trace::encode::schema;
use trace::outside::Drain;
use trace::outside::DrainOptions;
use trace::outside::Drained;
use trace::outside::begin_outside;
use trace::registry::gate;

/// A folder on tmpfs, removed with everything in it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Option<Folder> {
        let path = PathBuf::from(format!("/dev/shm/exectrace-{name}-{}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => Some(Folder(path)),
            Err(e) => {
                println!("skipped: no tmpfs at /dev/shm: {e}");
                None
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const THREADS: u64 = 3;
const EACH: u64 = 40_000;

/// What the recorded process does, by the scenario's name behind the folder's.
fn recorded(scenario: &str) -> ! {
    let (dir, ending) = scenario.split_once(' ').unwrap();
    let config = Config::new().memory_bytes(32 << 20);
    begin_outside(&config, Path::new(dir)).expect("a session");
    assert!(begin_outside(&config, Path::new(dir)).is_err(), "one at a time");
    let before = threads_of_this_process();
    emit_and_say();
    assert_eq!(before, 1 + usize::from(cfg!(test)), "no thread of the recorder's");
    match ending {
        "exit" => std::process::exit(0),
        // SAFETY: ends the process.
        "_exit" => unsafe { libc::_exit(0) },
        "abort" => std::process::abort(),
        "kill" => {
            let pid = std::process::id() as libc::pid_t;
            // SAFETY: a signal to this process.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        "fork" => {
            // SAFETY: the child uses what a single thread may.
            let child = unsafe { libc::fork() };
            if child == 0 {
                assert_eq!(trace::emit_probe(1), trace::Outcome::Off, "a child is off");
                begin_outside(&config, Path::new(dir)).expect("a session of the child's");
                emit_and_say();
                // SAFETY: ends the process.
                unsafe { libc::_exit(0) };
            }
            let mut status = 0;
            // SAFETY: waits for the child.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert_eq!(status, 0);
            std::process::exit(0);
        }
        other => panic!("no scenario {other}"),
    }
    unreachable!("the process has ended");
}

fn threads_of_this_process() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// Emits from several threads and prints an account of each: pid, tid, kept, sum, lost.
fn emit_and_say() {
    let accounts: Vec<(u32, Attempted)> = std::thread::scope(|s| {
        let work = |t: u64| {
            move || {
                let mut a = Attempted::default();
                let _span = trace::span!("work", thread = t);
                for n in 0..EACH {
                    a.probe(t * EACH + n);
                }
                (support::tid(), a)
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|t| s.spawn(work(t))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let mut text = String::new();
    for (tid, a) in accounts {
        assert_eq!(a.off, 0);
        text += &format!("@ {} {tid} {} {} {}\n", std::process::id(), a.kept, a.sum, a.lost);
    }
    // SAFETY: the text is as long as it says; one call, so that two processes do not mix.
    unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
}

/// Drains every mapping that appears in `dir` until the child has ended and all are at their end.
fn drain_all(dir: &Path, child: &mut Child, lost: u64) -> BTreeMap<u32, Vec<u8>> {
    let mut seen = BTreeSet::new();
    let mut drains: Vec<(Drain, Vec<u8>)> = Vec::new();
    loop {
        let over = child.try_wait().unwrap().is_some();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if seen.contains(&path) {
                continue;
            }
            if let Some(mut drain) = Drain::adopt(&path, &DrainOptions::default()).unwrap() {
                drain.open(&[("drained", "by a test")]);
                drains.push((drain, Vec::new()));
                seen.insert(path);
            }
        }
        for (drain, bytes) in &mut drains {
            take(drain, bytes);
        }
        if over {
            break;
        }
        if let Some((drain, _)) = drains.first() {
            let now = trace::sys::mono_ns();
            drain.sleep(now + 5_000_000);
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    for (drain, bytes) in &mut drains {
        let summary = drain.finish(schema::END_EXIT);
        take(drain, bytes);
        assert_eq!(summary.lost, lost, "{summary:?}");
        assert!(matches!(drain.take(), Drained::End));
    }
    drains.iter().map(|(d, bytes)| (d.pid(), bytes.clone())).collect()
}

fn take(drain: &mut Drain, bytes: &mut Vec<u8>) {
    while let Drained::Batch(batch) = drain.take() {
        bytes.extend_from_slice(&batch);
    }
}

/// Runs a scenario; gives the accounts that its processes have printed, and their traces.
fn run(test: &str, folder: &Folder, ending: &str) {
    let scenario = format!("{} {ending}", folder.0.display());
    let mut command = support::child(test, &scenario);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).map(|_| text).unwrap()
    });
    let traces = drain_all(&folder.0, &mut child, 0);
    let text = reader.join().unwrap();
    let mut accounts: BTreeMap<u32, BTreeMap<u32, Attempted>> = BTreeMap::new();
    for line in text.lines().filter_map(|l| l.split_once("@ ").map(|(_, rest)| rest)) {
        let n: Vec<u64> = line.split(' ').map(|v| v.parse().unwrap()).collect();
        let [pid, tid, kept, sum, lost] = n[..] else { panic!("{line}") };
        let account = Attempted { kept, sum, lost, off: 0 };
        accounts.entry(pid as u32).or_default().insert(tid as u32, account);
    }
    let processes = if ending == "fork" { 2 } else { 1 };
    assert_eq!(accounts.len(), processes, "{ending}: {text}");
    assert_eq!(traces.keys().collect::<Vec<_>>(), accounts.keys().collect::<Vec<_>>());
    for (pid, account) in &accounts {
        let bytes = &traces[pid];
        assert_eq!(account.len() as u64, THREADS);
        support::assert_valid(bytes);
        let c = support::assert_exact(bytes, account);
        assert!(c.end.is_some() && c.sessions == 1, "{ending}");
        assert_eq!(c.kind("span"), THREADS, "{ending}");
        assert_eq!(c.kind("SpanEnd"), THREADS, "{ending}");
        assert_eq!(c.kind("ThreadEnd"), THREADS, "{ending}: each has ended before the process");
    }
}

#[test]
fn every_way_to_end_leaves_a_whole_trace() {
    if let Some(scenario) = support::scenario() {
        recorded(&scenario);
    }
    let _alone = support::alone();
    let _watch = support::watch("every_way_to_end_leaves_a_whole_trace", 120);
    for ending in ["exit", "_exit", "abort", "kill", "fork"] {
        let Some(folder) = Folder::new(&format!("outside-{ending}")) else { return };
        run("every_way_to_end_leaves_a_whole_trace", &folder, ending);
    }
}

/// The process is killed while its thread is inside the recorder: an event is missing only where
/// one was being written.
#[test]
fn killed_inside_the_recorder() {
    if let Some(scenario) = support::scenario() {
        let (dir, word) = scenario.split_once(' ').unwrap();
        begin_outside(&Config::new().memory_bytes(32 << 20), Path::new(dir)).expect("a session");
        assert_eq!(trace::emit_probe(1), trace::Outcome::Recorded);
        // A stack pointer is even.
        let busy = trace::sys::sp() as u64 & !1 | word.parse::<u64>().unwrap();
        trace::registry::local::with(|l| l.busy().store(busy, Relaxed));
        let pid = std::process::id() as libc::pid_t;
        // SAFETY: a signal to this process.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    let _alone = support::alone();
    for (word, lost) in [(0, 1), (gate::NO_EVENT, 0)] {
        let Some(folder) = Folder::new(&format!("outside-inside-{word}")) else { return };
        let scenario = format!("{} {word}", folder.0.display());
        let mut command = support::child("killed_inside_the_recorder", &scenario);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let traces = drain_all(&folder.0, &mut child, lost);
        assert_eq!(traces.len(), 1);
        traces.values().for_each(|bytes| support::assert_valid(bytes));
    }
}

/// The process was killed while its thread waited, and the drain takes some generations to notice:
/// what the thread waited for is in the trace all the same.
#[test]
fn a_wait_that_a_kill_ended_is_said() {
    if let Some(dir) = support::scenario() {
        begin_outside(&Config::new().memory_bytes(32 << 20), Path::new(&dir)).expect("a session");
        let wait = trace::block::begin(Op::MutexLock, 0x4000, false).expect("recording is on");
        wait.is_for(77);
        let pid = std::process::id() as libc::pid_t;
        // SAFETY: a signal to this process.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    let _alone = support::alone();
    let Some(folder) = Folder::new("outside-waits") else { return };
    let scenario = folder.0.display().to_string();
    let mut command = support::child("a_wait_that_a_kill_ended_is_said", &scenario);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    child.wait().unwrap();
    let file = fs::read_dir(&folder.0).unwrap().next().expect("its mapping").unwrap().path();
    let options = DrainOptions { generation_ns: 1_000_000 };
    let mut drain = Drain::adopt(&file, &options).unwrap().expect("a session");
    drain.open(&[]);
    let mut bytes = Vec::new();
    for _ in 0..5 {
        take(&mut drain, &mut bytes);
        std::thread::sleep(Duration::from_millis(2));
    }
    let summary = drain.finish(schema::END_EXIT);
    take(&mut drain, &mut bytes);
    assert!(summary.generations > 2, "{summary:?}");
    let mut decoder = trace_decode::Decoder::new();
    decoder.push(&bytes);
    decoder.finish();
    let mut blocked = Vec::new();
    while let Some(item) = decoder.next_item().expect("a trace") {
        if let trace_decode::Item::SessionEnd(session) = item {
            blocked.extend(session.blocked().iter().map(|b| (b.op, b.object, b.by)));
        }
    }
    assert_eq!(blocked, [(Op::MutexLock as u64, 0x4000, 77)]);
}
