//! Children of a process that records: off and clean, with a session of their own if they want one,
//! and no harm to their parent, however and wherever they are made.

mod signals_support;
mod support;

use std::cell::Cell;
use std::ffi::CStr;
use std::ffi::c_char;
use std::ffi::c_int;
use std::ffi::c_void;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use signals_support::Library;
use signals_support::Timer;
use signals_support::assert_exact;
use signals_support::handle;
use signals_support::mine;
use signals_support::tally;
use signals_support::total;
use support::Capture;
use trace::Outcome;
use trace::StartError;
use trace::StopError;
use trace::encode::schema::Cause;

/// Runs `body` in a process of its own, for at most `seconds`.
fn alone(test: &'static str, seconds: u64, body: impl FnOnce()) {
    if support::scenario().is_none() {
        support::in_child(test, "alone");
        return;
    }
    let _watchdog = support::watch(test, seconds);
    body();
}

static END: AtomicBool = AtomicBool::new(false);

/// Threads that emit until the end.
fn load(threads: u64) -> Vec<JoinHandle<()>> {
    let one = || {
        let t = tally();
        let mut n = 0;
        while !END.load(Relaxed) {
            n += 1;
            if t.probe(n) == Outcome::Off || n % 32 == 0 {
                std::thread::yield_now();
            }
        }
    };
    (0..threads).map(|_| std::thread::spawn(one)).collect()
}

fn end(loads: Vec<JoinHandle<()>>) {
    END.store(true, Relaxed);
    loads.into_iter().for_each(|l| l.join().unwrap());
}

/// Ways to make a child that has memory of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Fork,
    /// Runs no handlers.
    ForkAlone,
    /// What a program does that knows no libc.
    Clone,
}

impl Way {
    /// 0 in the child.
    fn fork(self) -> libc::pid_t {
        unsafe extern "C" {
            fn _Fork() -> libc::pid_t;
        }
        match self {
            // SAFETY: the child calls what the test is about, and leaves by _exit or exit.
            Way::Fork => unsafe { libc::fork() },
            // SAFETY: as above; no other thread of these tests is inside the allocator.
            Way::ForkAlone => unsafe { _Fork() },
            // SAFETY: as above; without a stack of its own the child goes on with a copy of this.
            Way::Clone => unsafe {
                libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as libc::pid_t
            },
        }
    }
}

/// How a child says that all was well.
const WELL: c_int = 42;

/// Runs `body` in a forked child, which ends here.
fn child_does(exits: bool, body: impl FnOnce() + std::panic::UnwindSafe) -> ! {
    let code = if catch_unwind(body).is_ok() { WELL } else { 1 };
    if exits {
        // SAFETY: runs the handlers of the process's exit, of which ours must do nothing.
        unsafe { libc::exit(code) }
    }
    // SAFETY: ends the child.
    unsafe { libc::_exit(code) }
}

#[track_caller]
fn wait_for(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: our own child, a valid place.
    while unsafe { libc::waitpid(pid, &mut status, 0) } != pid {
        assert_eq!(std::io::Error::last_os_error().kind(), std::io::ErrorKind::Interrupted);
    }
    assert!(libc::WIFEXITED(status), "child {pid}: status {status:#x}");
    assert_eq!(libc::WEXITSTATUS(status), WELL, "child {pid}");
}

/// The child records nothing until it starts a session of its own, which holds just its own events.
fn child_is_off_then_records(own_session: bool) {
    assert!(!trace::is_enabled());
    assert_eq!(trace::emit_probe(1), Outcome::Off);
    trace::log!(child, "nobody reads this {}", 1);
    drop(trace::span!("nor this"));
    assert!(matches!(trace::stop(), Err(StopError::NotStarted)));
    assert!(matches!(trace::read_trace(), Err(trace::ReadError::NotStarted)));
    if !own_session {
        return;
    }
    let capture = Capture::default();
    for round in 0..2 {
        trace::start(capture.clone()).unwrap();
        for n in 0..100 {
            assert_eq!(trace::emit_probe(n), Outcome::Recorded, "{round} {n}");
        }
        let other = std::thread::spawn(|| {
            for n in 0..100 {
                assert_eq!(trace::emit_probe(n), Outcome::Recorded);
            }
        });
        other.join().unwrap();
        let summary = trace::stop().unwrap();
        assert_eq!(summary.lost, 0);
        let bytes = capture.take();
        support::assert_valid(&bytes);
        let c = support::contents(&bytes);
        assert_eq!(c.threads.values().map(|t| (t.probes, t.sum)).max(), Some((100, 4950)));
        assert_eq!(c.threads.values().map(|t| t.probes).sum::<u64>(), 200);
    }
}

fn fork_under_load(way: Way, forks: u64) {
    let capture = Capture::default();
    trace::start(capture.clone()).unwrap();
    let loads = load(4);
    let t = tally();
    for n in 0..forks * support::multiplier() {
        assert_eq!(t.probe(n), Outcome::Recorded);
        let pid = way.fork();
        if pid == 0 {
            child_does(n % 2 == 1, || child_is_off_then_records(n % 8 == 3));
        }
        t.probe(n);
        wait_for(pid);
    }
    let summary = trace::stop().unwrap();
    end(loads);
    assert_eq!((summary.lost, summary.stuck_threads), (0, 0));
    assert!(assert_exact(&[capture.take()], 0) > 2 * forks);
}

#[test]
fn children_of_fork() {
    alone("children_of_fork", 90, || fork_under_load(Way::Fork, 200));
}

#[test]
fn children_of_fork_without_handlers() {
    alone("children_of_fork_without_handlers", 60, || fork_under_load(Way::ForkAlone, 60));
}

#[test]
fn children_of_raw_clone() {
    alone("children_of_raw_clone", 60, || fork_under_load(Way::Clone, 60));
}

thread_local! {
    static IS_CHILD: Cell<bool> = const { Cell::new(false) };
    static CHILDREN: Cell<[libc::pid_t; 60]> = const { Cell::new([0; 60]) };
}
static FORKED: AtomicU64 = AtomicU64::new(0);

/// Forks where it has interrupted an event.
extern "C" fn forks(_signal: c_int) {
    let Some(t) = mine() else { return };
    if IS_CHILD.get() || t.signals.fetch_add(1, Relaxed) % 4 != 0 {
        return;
    }
    let at = FORKED.load(Relaxed) as usize;
    let mut children = CHILDREN.get();
    if at < children.len() && t.probe(1 << 32) == Outcome::Nested {
        children[at] = Way::Fork.fork();
        IS_CHILD.set(children[at] == 0);
        CHILDREN.set(children);
        FORKED.fetch_add(1, Relaxed);
    }
}

/// The child finishes the event that was interrupted; then it is off, and records for itself.
#[test]
fn fork_in_a_handler_that_interrupted_an_event() {
    alone("fork_in_a_handler_that_interrupted_an_event", 60, || {
        handle(libc::SIGPROF, 0, forks);
        let capture = Capture::default();
        trace::start(capture.clone()).unwrap();
        let loads = load(2);
        let t = tally();
        let timer = Timer::every(libc::SIGPROF, Duration::from_micros(200));
        let most = CHILDREN.get().len() as u64;
        let mut n = 0;
        while FORKED.load(Relaxed) < most {
            n += 1;
            let outcome = trace::emit_probe(n);
            if IS_CHILD.get() {
                std::mem::forget(timer);
                child_does(false, || child_is_off_then_records(true));
            }
            assert_eq!(outcome, Outcome::Recorded);
            t.recorded.fetch_add(1, Relaxed);
            t.sum.fetch_add(n, Relaxed);
        }
        drop(timer);
        trace::stop().unwrap();
        end(loads);
        CHILDREN.get().into_iter().for_each(wait_for);
        assert_exact(&[capture.take()], 0);
        assert_eq!(total(|t| &t.nested), most);
    });
}

/// Forks while another thread holds the recorder's control: in the middle of starts and stops.
#[test]
fn fork_while_sessions_start_and_stop() {
    alone("fork_while_sessions_start_and_stop", 90, || {
        let loads = load(2);
        let control = std::thread::spawn(|| {
            let mut traces = Vec::new();
            while !END.load(Relaxed) {
                let capture = Capture::default();
                trace::start(capture.clone()).unwrap();
                std::thread::yield_now();
                trace::stop().unwrap();
                traces.push(capture.take());
            }
            traces
        });
        while !trace::is_enabled() {
            std::thread::yield_now();
        }
        for n in 0..100 * support::multiplier() {
            let pid = Way::Fork.fork();
            if pid == 0 {
                child_does(false, || child_is_off_then_records(n % 2 == 0));
            }
            wait_for(pid);
        }
        end(loads);
        let traces = control.join().unwrap();
        assert!(assert_exact(&traces, 0) > 0 && traces.len() > 20);
    });
}

/// Whatever a child does and however it ends, not a byte of its parent's file is its own.
#[test]
fn a_child_leaves_the_file_alone() {
    alone("a_child_leaves_the_file_alone", 30, || {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("fork-{}.trace", std::process::id()));
        // SAFETY: no other thread reads or writes the environment now.
        unsafe { std::env::set_var("EXECTRACE_OUT", &path) };
        assert!(trace::init_from_env().unwrap());
        let t = tally();
        for n in 0..20 {
            t.probe(n);
            let before = std::fs::read(&path).unwrap();
            let way = [Way::Fork, Way::ForkAlone, Way::Clone][n as usize % 3];
            let pid = way.fork();
            if pid == 0 {
                child_does(n % 2 == 0, || child_is_off_then_records(n % 4 == 0));
            }
            wait_for(pid);
            // The parent's own thread may have written on.
            assert!(std::fs::read(&path).unwrap().starts_with(&before), "{way:?}");
        }
        let summary = trace::stop().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, summary.bytes, "nobody else wrote a byte");
        std::fs::remove_file(&path).unwrap();
        assert_exact(&[bytes], 0);
        assert_eq!(t.recorded.load(Relaxed), 20);
    });
}

type Vfork = extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, *const c_char) -> c_int;

/// In the child that shares its parent's memory: events are its parent's, control is refused.
extern "C" fn emits_as_parent(odd: *mut c_void) {
    let t = mine().unwrap();
    for n in 0..50 {
        t.probe(n);
    }
    let start = matches!(trace::start(std::io::sink()), Err(StartError::InVforkChild));
    let stop = matches!(trace::stop(), Err(StopError::InVforkChild));
    if !(start && stop) {
        // SAFETY: the test's own counter.
        unsafe { &*odd.cast::<AtomicU64>() }.fetch_add(1, Relaxed);
    }
}

#[test]
fn children_of_vfork() {
    alone("children_of_vfork", 60, || {
        let Some(c) = Library::of("vfork.c", &[]) else { return };
        // SAFETY: the C function's type.
        let vfork_and: Vfork = unsafe { std::mem::transmute(c.address("vfork_and")) };
        let odd = AtomicU64::new(0);
        let go = |path: Option<&CStr>| {
            let arg = (&raw const odd).cast_mut().cast();
            vfork_and(emits_as_parent, arg, path.map_or(std::ptr::null(), CStr::as_ptr))
        };
        let capture = Capture::default();
        trace::start(capture.clone()).unwrap();
        let loads = load(3);
        // A thread whose first event is the child's: it has no record of its own yet, and gets one
        // with its own number afterwards.
        let first = std::thread::spawn(move || {
            let t = tally();
            let mut refused = AtomicU64::new(0);
            let arg = (&raw mut refused).cast();
            assert_eq!(vfork_and(emits_as_parent, arg, std::ptr::null()), 7);
            assert_eq!(t.causes[Cause::Unregistered as usize].load(Relaxed), 50);
            assert_eq!(refused.into_inner(), 0);
            for n in 0..50 {
                assert_eq!(t.probe(n), Outcome::Recorded);
            }
        });
        first.join().unwrap();
        let t = tally();
        t.probe(1);
        for _ in 0..20 * support::multiplier() {
            assert_eq!(go(None), 7);
            assert_eq!(go(Some(c"/bin/true")), 0);
            assert_eq!(go(Some(c"/nowhere/true")), 7);
            assert!(std::process::Command::new("/bin/true").status().unwrap().success());
            assert_eq!(t.probe(2), Outcome::Recorded);
        }
        let summary = trace::stop().unwrap();
        end(loads);
        assert_eq!((summary.stuck_threads, odd.load(Relaxed)), (0, 0));
        assert_eq!(summary.lost, 50);
        assert_exact(&[capture.take()], 0);
        assert_eq!(t.recorded.load(Relaxed), 1 + 20 * support::multiplier() * 151);
    });
}

/// Forks while another thread starts the first session of the process, wherever that is then.
#[test]
fn fork_while_the_first_session_starts() {
    alone("fork_while_the_first_session_starts", 90, || {
        let mut children = 0;
        for _ in 0..12 * support::multiplier() {
            // A process in which nothing was started yet.
            let pid = Way::Fork.fork();
            if pid == 0 {
                child_does(false, fork_beside_a_first_start);
            }
            wait_for(pid);
            children += 1;
        }
        assert!(children >= 12);
    });
}

fn fork_beside_a_first_start() {
    static STARTED: AtomicBool = AtomicBool::new(false);
    // Whoever hangs is killed, and so are its children, which have an alarm of their own.
    let hangs_after = |seconds| {
        // SAFETY: a number.
        unsafe { libc::alarm(seconds) }
    };
    hangs_after(40);
    let starter = std::thread::spawn(|| {
        trace::start(std::io::sink()).unwrap();
        STARTED.store(true, Relaxed);
    });
    let mut children = Vec::new();
    while !STARTED.load(Relaxed) && children.len() < 50 {
        let pid = Way::Fork.fork();
        if pid == 0 {
            hangs_after(20);
            child_does(true, || child_is_off_then_records(true));
        }
        children.push(pid);
    }
    starter.join().unwrap();
    children.into_iter().for_each(wait_for);
    trace::stop().unwrap();
}

/// The descriptors of the process `pid`, with what they are.
fn descriptors(pid: &str) -> Vec<(u32, PathBuf)> {
    let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let one = |e: std::fs::DirEntry| {
        Some((e.file_name().to_str()?.parse().ok()?, std::fs::read_link(e.path()).ok()?))
    };
    let mut all: Vec<_> = folder.flatten().filter_map(one).collect();
    all.sort();
    all
}

/// Programs that are started while a session writes to a file, from a mapping that is a file too,
/// find none of the two open; and the recorder keeps none open but the program's own.
#[test]
fn other_programs_inherit_nothing() {
    alone("other_programs_inherit_nothing", 60, || {
        let folder = PathBuf::from("/dev/shm").join(format!("fork-{}", std::process::id()));
        if std::fs::create_dir(&folder).is_err() {
            println!("skipped: no tmpfs at /dev/shm");
            return;
        }
        let path = folder.join("trace");
        let before = descriptors("self").len();
        let file = std::fs::File::create(&path).unwrap();
        trace::Config::new().mapping_dir(&folder).start(file).unwrap();
        let t = tally();
        t.probe(1);
        let ours = |all: &[(u32, PathBuf)]| all.iter().filter(|d| d.1.starts_with(&folder)).count();
        let here = descriptors("self");
        assert_eq!((here.len(), ours(&here)), (before + 1, 1), "the writer's file: {here:?}");

        // Each says what it has open, in a file of its own: sh itself, opened by number.
        let said = folder.join("said");
        let script = format!("ls -l /proc/$$/fd > {}", said.display());
        let c_script = std::ffi::CString::new(script.clone()).unwrap();
        let mut seen = 0;
        for way in 0..4 {
            match way {
                // SAFETY: a string that ends with zero.
                0 => assert_eq!(unsafe { libc::system(c_script.as_ptr()) }, 0),
                // posix_spawn.
                1 => {
                    assert!(std::process::Command::new("sh").args(["-c", &script]).status().is_ok())
                }
                _ => {
                    let way = [Way::Fork, Way::Clone][way - 2];
                    let (sh, c) = (c"/bin/sh".as_ptr(), c"-c".as_ptr());
                    let args = [sh, c, c_script.as_ptr(), std::ptr::null()];
                    let pid = way.fork();
                    if pid == 0 {
                        // SAFETY: strings that end with zero, in an array that ends with null.
                        unsafe { libc::execv(sh, args.as_ptr()) };
                        // SAFETY: ends the child.
                        unsafe { libc::_exit(1) };
                    }
                    let mut status = 0;
                    // SAFETY: our own child, a valid place.
                    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
                }
            }
            let open = std::fs::read_to_string(&said).unwrap();
            std::fs::remove_file(&said).unwrap();
            assert!(open.contains("said"), "{way}: its own output: {open}");
            let inherited = open.lines().filter(|l| l.contains(folder.to_str().unwrap()));
            assert_eq!(inherited.filter(|l| !l.ends_with("said")).count(), 0, "{way}: {open}");
            assert_eq!(t.probe(2), Outcome::Recorded);
            seen += 1;
        }
        assert_eq!(seen, 4);
        trace::stop().unwrap();
        assert_exact(&[std::fs::read(&path).unwrap()], 0);
        std::fs::remove_dir_all(&folder).unwrap();
    });
}

/// The C library's fork leaves the lock of the loader's list as it is, and the recorder takes that
/// lock in threads of its own.
#[test]
fn children_never_find_the_loaders_lock_shut() {
    alone("children_never_find_the_loaders_lock_shut", 120, || {
        trace::start(Capture::default()).unwrap();
        let look = || {
            while !END.load(Relaxed) {
                trace::sys::loader::counters();
            }
        };
        let looks: Vec<_> = (0..2).map(|_| std::thread::spawn(look)).collect();
        for round in 0..300 {
            // SAFETY: the child looks at the list, and leaves.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: ends a child that hangs.
                unsafe { libc::alarm(20) };
                let adds = trace::sys::loader::counters().adds;
                // SAFETY: ends the child.
                unsafe { libc::_exit(if adds > 0 { 42 } else { 1 }) };
            }
            let mut status = 0;
            // SAFETY: our own child, a valid place.
            assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
            assert!(libc::WIFEXITED(status), "child {round} hung: {status:#x}");
            assert_eq!(libc::WEXITSTATUS(status), 42);
        }
        END.store(true, Relaxed);
        looks.into_iter().for_each(|t| t.join().unwrap());
        trace::stop().unwrap();
    });
}
