//! The end of a process that records to the file named by its environment: complete where the
//! process ends in an ordinary way, a valid prefix where it does not.

mod names;
mod support;

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use support::Contents;

/// Ends a session at the end of the process.
const END_EXIT: u64 = 2;

/// Events that `work` emits on each of two threads.
const EVENTS: u64 = 50_000;

/// A file that is not there yet.
fn file(name: &str) -> PathBuf {
    let name = format!("exit-{}-{name}.trace", std::process::id());
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Runs a program that must end within 30 s.
fn ends(c: &mut Command) -> Output {
    let mut child = c.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            child.kill().unwrap();
            panic!("{c:?}: the process does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Runs the program in one of its ways; `None` where it cannot be built.
fn run(way: &str, out: Option<&OsStr>) -> Option<Output> {
    let mut c = Command::new(names::program("exits")?);
    c.args([way, &EVENTS.to_string()]).env_remove("EXECTRACE_OUT").env("RUST_BACKTRACE", "0");
    if let Some(out) = out {
        c.env("EXECTRACE_OUT", out);
    }
    Some(ends(&mut c))
}

/// Runs the program with a file; gives how it ended and what the file holds.
fn recorded(way: &str) -> Option<(Output, Vec<u8>)> {
    let path = file(&way.replace(' ', "-"));
    let out = run(way, Some(path.as_os_str()))?;
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    Some((out, bytes))
}

fn instants(c: &Contents) -> u64 {
    c.kind("instant")
}

/// Nothing is lost on any of the ordinary ways, and the end mark says what it was.
#[test]
fn ordinary_ends_write_everything() {
    let ways = [
        ("return", Some(0)),
        ("exit", Some(3)),
        ("exit from a thread", Some(3)),
        ("panic", Some(101)),
    ];
    for (way, code) in ways {
        let Some((out, bytes)) = recorded(way) else { return };
        assert_eq!(out.status.code(), code, "{way}: {out:?}");
        assert_eq!(out.stdout, format!("emitted {}\n", 2 * EVENTS + 1).as_bytes(), "{way}");
        support::assert_valid(&bytes);
        let c = support::contents(&bytes);
        assert_eq!((instants(&c), c.kind("span"), c.lost()), (2 * EVENTS, 1, 0), "{way}");
        assert_eq!(c.end.unwrap().reason, END_EXIT, "{way}");
    }
    let Some((out, bytes)) = recorded("stop and return") else { return };
    assert!(out.status.success());
    support::assert_valid(&bytes);
    let c = support::contents(&bytes);
    assert_eq!((instants(&c), c.end.unwrap().reason), (2 * EVENTS, 1));
}

/// What the writer had accepted is a valid prefix: only the end is missing.
#[test]
fn violent_ends_leave_a_valid_prefix() {
    let signal = |n: i32| (n.to_string(), Some(n), None);
    let ways = [
        ("abort".into(), Some(libc::SIGABRT), None),
        ("_exit".into(), None, Some(3)),
        ("quick_exit".into(), None, Some(3)),
        ("exit inside an event".into(), None, Some(3)),
        signal(libc::SIGTERM),
        signal(libc::SIGKILL),
        ("fault".into(), Some(libc::SIGSEGV), None),
    ];
    for (way, by, code) in ways {
        let Some((out, bytes)) = recorded(&way) else { return };
        assert_eq!((out.status.signal(), out.status.code()), (by, code), "{way}");
        support::assert_valid_prefix(&bytes);
        let c = support::contents(&bytes);
        assert!(c.end.is_none() && c.sessions == 1, "{way}");
        // Of the 400 KiB all but the two last buffers were full.
        let probes: u64 = c.threads.values().map(|t| t.probes).sum();
        let there = instants(&c) - probes;
        assert!(there > EVENTS && (there < 2 * EVENTS || probes > 0), "{way}: {there}");
    }
}

/// The main thread ends, and another one goes on: recording goes on, and what ends the process then
/// ends the trace.
#[test]
fn the_main_thread_ends_first() {
    let Some(program) = names::program("main_ends") else { return };
    for (argument, code) in [(None, 0), (Some("exit"), 3)] {
        let path = file(&format!("main-{code}"));
        let mut c = Command::new(&program);
        let out = ends(c.args(argument).env("EXECTRACE_OUT", &path));
        assert_eq!(out.status.code(), Some(code), "{out:?}");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        support::assert_valid(&bytes);
        let c = support::contents(&bytes);
        assert_eq!((instants(&c), c.lost(), c.end.unwrap().reason), (2000, 0, END_EXIT));
        let each: Vec<u64> = c.threads.values().map(|t| t.kind("instant")).collect();
        assert_eq!(each, [1000, 1000]);
    }
}

#[test]
fn a_writer_that_takes_nothing_does_not_hold_the_end_up() {
    let Some(out) = run("blocked", None) else { return };
    assert!(out.status.success(), "{out:?}");
}

#[test]
fn without_the_variable_nothing_is_recorded() {
    for empty in [None, Some(OsStr::new(""))] {
        let Some(out) = run("return", empty) else { return };
        assert!(out.status.success(), "{out:?}");
        assert_eq!(out.stdout, b"off\n");
    }
}

/// The file is the program's own: new, readable by its owner alone, named after the process.
#[test]
fn files_are_new_private_and_named_after_the_process() {
    let path = file("there-already");
    std::fs::write(&path, "somebody's").unwrap();
    let link = file("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for there in [&path, &link] {
        let Some(out) = run("return", Some(there.as_os_str())) else { return };
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && text.contains("File"), "{text}");
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody's");
    }
    let nowhere = path.with_file_name("no such folder/x");
    assert!(!run("return", Some(nowhere.as_os_str())).unwrap().status.success());
    std::fs::remove_file(&link).unwrap();
    std::fs::remove_file(&path).unwrap();

    let folder = file("folder");
    std::fs::create_dir(&folder).unwrap();
    let out = run("return", Some(folder.join("a %p b%p%").as_os_str())).unwrap();
    assert!(out.status.success());
    let made: Vec<_> = std::fs::read_dir(&folder).unwrap().flatten().collect();
    assert_eq!(made.len(), 1);
    let name = made[0].file_name().into_string().unwrap();
    let pid = name.strip_prefix("a ").and_then(|n| n.split(' ').next()).unwrap();
    assert!(pid.parse::<u32>().is_ok());
    assert_eq!(name, format!("a {pid} b{pid}%"));
    assert_eq!(made[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A session that cannot start leaves no file behind.
#[test]
fn init_from_env_beside_another_session() {
    const TEST: &str = "init_from_env_beside_another_session";
    if support::scenario().is_none() {
        support::in_child(TEST, "alone");
        return;
    }
    let _watchdog = support::watch(TEST, 20);
    let path = file("beside");
    // SAFETY: no other thread of this process uses the environment.
    unsafe { std::env::set_var("EXECTRACE_OUT", &path) };
    trace::start(std::io::sink()).unwrap();
    assert!(matches!(trace::init_from_env(), Err(trace::StartError::AlreadyStarted)));
    assert!(!path.exists());
    trace::stop().unwrap();
    assert!(trace::init_from_env().unwrap());
    assert!(matches!(trace::init_from_env(), Err(trace::StartError::File(_))));
    assert!(trace::is_enabled() && path.exists());
    trace::stop().unwrap();
    support::assert_valid(&std::fs::read(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
}
