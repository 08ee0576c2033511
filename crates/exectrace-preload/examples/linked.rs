//! A program that links the library, for the tests of recording: it says everything that the
//! library has words for, on several threads, beside waits. Built and run by `tests/copies.rs`.
//!
//! `linked all` has no session of its own; `linked own FILE` has one around the same work; `linked
//! fork` does the work in a child; `linked own-fork FILE` in a child that is forked from a session;
//! `linked deep FILE` opens many spans in its own; `linked signals` emits in a handler that
//! interrupts events.

use std::sync::Arc;
use std::sync::Barrier;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Emits as its thread ends.
struct Goodbye;

impl Drop for Goodbye {
    fn drop(&mut self) {
        trace::instant!("goodbye");
    }
}

thread_local! {
    static GOODBYE: Goodbye = const { Goodbye };
}

/// Threads that work.
const THREADS: u64 = 4;
/// How often each of them does.
const ROUNDS: u64 = 5;

fn main() {
    let mut args = std::env::args().skip(1);
    let what = args.next();
    match what.as_deref() {
        Some("all") => all(),
        Some("own") => {
            let file = std::fs::File::create(args.next().expect("a file")).expect("the file");
            before();
            trace::start(file).expect("a session of its own");
            all();
            let summary = trace::stop().expect("its end");
            println!("own {}", summary.events);
            after();
        }
        Some("fork") => drop(fork()),
        Some("own-fork") => {
            let file = std::fs::File::create(args.next().expect("a file")).expect("the file");
            trace::start(file).expect("a session of its own");
            if !fork() {
                trace::stop().expect("its end");
            }
        }
        Some("deep") => {
            let file = std::fs::File::create(args.next().expect("a file")).expect("the file");
            trace::start(file).expect("a session of its own");
            deep(DEEP);
            trace::stop().expect("its end");
        }
        Some("signals") => signals(),
        _ => panic!("all, own FILE, fork, own-fork FILE, deep FILE or signals"),
    }
}

/// Before the own session: of the recording only. Its end comes in the session, and after it.
fn before() {
    assert!(trace::is_enabled());
    trace::instant!("before", n = 1);
}

fn after() {
    let _span = trace::span!("after");
    trace::instant!("after", n = 2);
}

/// When `main` is over.
extern "C" fn at_exit() {
    trace::instant!("at exit");
}

fn all() {
    // SAFETY: a function for the life of the process.
    unsafe { libc::atexit(at_exit) };
    let enabled = trace::is_enabled();
    println!("enabled {}", u64::from(enabled));
    let root = trace::task!("root", threads = THREADS);
    println!("root {}", u64::from(root.id() != 0));
    let together = Arc::new(Barrier::new(THREADS as usize));
    let work = |n: u64| {
        let together = together.clone();
        let task = trace::task!(parent: root, "work", n = n);
        move || {
            together.wait();
            worker(n, &task);
            drop(task);
        }
    };
    let threads: Vec<_> = (0..THREADS)
        .map(|n| match n % 2 {
            0 => std::thread::spawn(work(n)),
            _ => trace::thread::spawn(work(n)),
        })
        .collect();
    for thread in threads {
        thread.join().expect("a worker");
    }
    let _main = trace::span!(task: root, "main", threads = THREADS);
    trace::log!(task: root, end, "all {} are done", THREADS);
    drop(root);
}

fn tid() -> u64 {
    // SAFETY: no arguments, no effect.
    u64::try_from(unsafe { libc::gettid() }).expect("a number")
}

fn worker(n: u64, task: &trace::Task) {
    GOODBYE.with(|_| ());
    let entered = task.enter();
    assert_eq!(trace::current_task(), task.id());
    for round in 0..ROUNDS {
        let outer = trace::span!("outer", round = round, name = "of the round");
        {
            let _inner = trace::span!("inner");
            trace::instant!("mark", tid = tid(), minus = -5, half = 0.5, yes = true, text = "é");
            trace::counter!("count", n * 100 + round);
            std::thread::sleep(Duration::from_millis(1));
        }
        trace::log!(work, "thread {n} round {round}");
        let crossed = trace::span!("crossed");
        // The outer one ends first.
        drop(outer);
        drop(crossed);
        trace::span("closure", || trace::instant!("in closure"));
    }
    trace::log!("long", "{}", "x".repeat(5000));
    drop(entered);
    assert_eq!(trace::current_task(), 0);
}

static HANDLED: AtomicU64 = AtomicU64::new(0);

extern "C" fn handler(_: libc::c_int) {
    let n = HANDLED.fetch_add(1, Relaxed);
    let _span = trace::span!("handler");
    trace::instant!("handled", n = n);
}

/// Until the handler has run so often: also when each time interrupts an event, the side ring has
/// room for all.
const HANDLED_MIN: u64 = 40;

fn signals() {
    // SAFETY: a handler for the life of the process.
    unsafe { libc::signal(libc::SIGALRM, handler as *const () as libc::sighandler_t) };
    let often = libc::timeval { tv_sec: 0, tv_usec: 300 };
    let timer = libc::itimerval { it_interval: often, it_value: often };
    // SAFETY: a time, and no place for the one before.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    let mut emitted = 0u64;
    while HANDLED.load(Relaxed) < HANDLED_MIN {
        let _span = trace::span!("interrupted");
        trace::instant!("emitted", n = emitted);
        emitted += 1;
    }
    let never = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let timer = libc::itimerval { it_interval: never, it_value: never };
    // SAFETY: as above.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    println!("emitted {emitted}");
    println!("handled {}", HANDLED.load(Relaxed));
}

/// Spans that are open at once.
const DEEP: u64 = 70;

fn deep(more: u64) {
    if more > 0 {
        let _span = trace::span!("deep", more = more);
        deep(more - 1);
    }
}

/// Whether this is the child.
fn fork() -> bool {
    let task = trace::task!("parent's");
    let span = trace::span!("over the fork");
    // SAFETY: this process has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // Begun in the parent: they end there only.
        drop(span);
        drop(task);
        all();
        trace::instant!("child's last");
        return true;
    }
    let mut status = 0;
    // SAFETY: the child made above, and a place for its status.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    drop(span);
    drop(task);
    trace::instant!("parent's last", status = status);
    false
}
