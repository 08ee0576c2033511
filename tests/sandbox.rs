//! Where the kernel refuses something: the cycle counter, the barrier. The recorder does without,
//! exactly, and the trace says so.

mod signals_support;
mod support;

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use signals_support::assert_exact;
use signals_support::sessions;
use signals_support::tally;
use signals_support::total;
use support::Capture;
use trace::Config;
use trace::Outcome;
use trace_decode::Decoder;
use trace_decode::Item;

/// Runs `body` in a process of its own, for at most `seconds`.
fn alone(test: &'static str, seconds: u64, body: impl FnOnce()) {
    if support::scenario().is_none() {
        support::in_child(test, "alone");
        return;
    }
    let _watchdog = support::watch(test, seconds);
    body();
}

/// What a session says of itself.
#[derive(Debug, Default)]
struct Facts {
    clock: u64,
    mode: u64,
    notes: Vec<(String, String)>,
    duration_ns: u64,
}

fn facts(bytes: &[u8]) -> Facts {
    let mut facts = Facts::default();
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    decoder.finish();
    while let Some(item) = decoder.next_item().unwrap() {
        let Item::SessionEnd(s) = item else { continue };
        let info = s.info().unwrap();
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        facts.notes.extend(s.notes().map(|(name, t)| (text(name), text(t))));
        (facts.clock, facts.mode) = (info.clock, info.mode);
        facts.duration_ns = s.duration_ns();
    }
    facts
}

const COUNTER: u64 = 1;
const MONOTONIC: u64 = 3;
const MEMBARRIER: u64 = 1;
const FENCE: u64 = 2;

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

/// A program that may not read the counter has the monotonic clock, and still the right times.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_counter_is_refused() {
    alone("the_counter_is_refused", 60, || {
        // Threads inherit it. From here on a read of the counter is a SIGSEGV.
        // SAFETY: numbers only.
        let done = unsafe { libc::prctl(libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV, 0, 0, 0) };
        if done != 0 {
            println!("skipped: PR_SET_TSC is refused");
            return;
        }
        let loads = load(2);
        let capture = Capture::default();
        Config::new().start(capture.clone()).unwrap();
        let _span = trace::span!("span", n = 1);
        std::thread::sleep(Duration::from_millis(20));
        let summary = trace::stop().unwrap();
        let bytes = capture.take();
        let facts = facts(&bytes);
        assert_eq!((facts.clock, facts.mode), (MONOTONIC, MEMBARRIER), "{facts:?}");
        assert!(facts.notes.iter().any(|(name, _)| name == "clock"), "{facts:?}");
        assert!(summary.duration >= Duration::from_millis(20));
        assert!(facts.duration_ns >= 20_000_000 && facts.duration_ns < 20_000_000_000);
        let mut traces = sessions(20, Duration::from_millis(2), &Config::new(), || true);
        traces.push(bytes);
        end(loads);
        assert_exact(&traces, 0);
        assert!(total(|t| &t.recorded) > 1000);
    });
}

/// Lets membarrier fail with `error` from now on, in all threads of the process. False: filters are
/// refused here.
fn refuse_membarrier(error: i32) -> bool {
    filter_membarrier(libc::SECCOMP_RET_ERRNO | error as u32)
}

/// What a filter answers to membarrier from now on, in all threads of the process.
fn filter_membarrier(answer: u32) -> bool {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let give = libc::BPF_RET | libc::BPF_K;
    let mut filter = [
        // The number of the system call stands first in what a filter sees.
        step(load, 0, 0, 0),
        step(equal, 0, 1, libc::SYS_membarrier as u32),
        step(give, 0, 0, answer),
        step(give, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: numbers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return false;
    }
    let (set, all) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
    // SAFETY: the program is valid for the length of the call.
    unsafe { libc::syscall(libc::SYS_seccomp, set, all, &program) == 0 }
}

fn membarrier_is_refused_before_the_start(error: i32) {
    if !refuse_membarrier(error) {
        println!("skipped: seccomp filters are refused");
        return;
    }
    let loads = load(3);
    let config = Config::new().generation(Duration::from_millis(1));
    let enough = || total(|t| &t.recorded) > 20_000;
    let traces = sessions(60 * support::multiplier(), Duration::from_millis(4), &config, enough);
    end(loads);
    let facts = facts(&traces[0]);
    assert_eq!((facts.clock <= MONOTONIC, facts.mode), (true, FENCE), "{facts:?}");
    let note = ("mode".to_owned(), "membarrier is refused here: every event fences".to_owned());
    assert!(facts.notes.contains(&note), "{facts:?}");
    let events = assert_exact(&traces, 0);
    assert!(events > 20_000 && total(|t| &t.nested) + total(|t| &t.lost) == 0, "{events}");
}

#[test]
fn membarrier_is_unknown() {
    alone("membarrier_is_unknown", 60, || membarrier_is_refused_before_the_start(libc::ENOSYS));
}

#[test]
fn membarrier_is_forbidden() {
    alone("membarrier_is_forbidden", 60, || membarrier_is_refused_before_the_start(libc::EPERM));
}

/// A thread that emits once in each session, and is idle otherwise: it holds a buffer of the time
/// before the barrier failed.
fn idle() -> JoinHandle<()> {
    std::thread::spawn(|| {
        let t = tally();
        while !END.load(Relaxed) {
            if trace::is_enabled() {
                t.probe(1);
            }
            while trace::is_enabled() && !END.load(Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    })
}

/// A program that locks itself in after the start: the barrier fails in the middle of a session.
/// What was written before is there, and what comes after is exact; nobody is taken for stuck.
fn membarrier_is_forbidden_later(test: &'static str, generation: Duration) {
    alone(test, 60, || {
        let mut loads = load(3);
        loads.push(idle());
        let config = Config::new().generation(Duration::from_millis(2));
        let mut traces = sessions(3, Duration::from_millis(5), &config, || true);
        assert_eq!(facts(&traces[0]).mode, MEMBARRIER);
        let capture = Capture::default();
        config.clone().generation(generation).start(capture.clone()).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        if !refuse_membarrier(libc::EPERM) {
            println!("skipped: seccomp filters are refused");
            end(loads);
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
        let summary = trace::stop().unwrap();
        assert_eq!((summary.lost, summary.stuck_threads), (0, 0));
        let bytes = capture.take();
        let facts_then = facts(&bytes);
        assert_eq!(facts_then.mode, MEMBARRIER, "the session began with it");
        assert!(facts_then.notes.iter().any(|(name, _)| name == "mode"), "{facts_then:?}");
        traces.push(bytes);
        traces.extend(sessions(20, Duration::from_millis(4), &config, || true));
        end(loads);
        assert_eq!(facts(traces.last().unwrap()).mode, FENCE);
        assert_exact(&traces, 0);
        assert!(total(|t| &t.recorded) > 1000);
        assert!([COUNTER, MONOTONIC].contains(&facts_then.clock));
    });
}

#[test]
fn membarrier_is_forbidden_in_the_middle_of_a_session() {
    const TEST: &str = "membarrier_is_forbidden_in_the_middle_of_a_session";
    membarrier_is_forbidden_later(TEST, Duration::from_millis(2));
}

/// As above, and it is noticed at the stop only: all threads hold buffers of the time before.
#[test]
fn membarrier_is_forbidden_when_the_session_stops() {
    const TEST: &str = "membarrier_is_forbidden_when_the_session_stops";
    membarrier_is_forbidden_later(TEST, Duration::from_secs(3600));
}

/// A sandbox that ends whoever asks for membarrier: it is not asked for where the environment says
/// so.
#[test]
fn membarrier_is_punished() {
    alone("membarrier_is_punished", 60, || {
        if !filter_membarrier(libc::SECCOMP_RET_KILL_PROCESS) {
            println!("skipped: seccomp filters are refused");
            return;
        }
        // SAFETY: no other thread of this process uses the environment.
        unsafe { std::env::set_var("EXECTRACE_FENCE", "1") };
        let loads = load(2);
        let traces = sessions(10, Duration::from_millis(3), &Config::new(), || true);
        end(loads);
        assert_eq!(facts(&traces[0]).mode, FENCE);
        assert!(assert_exact(&traces, 0) > 100);
    });
}

/// Asked for by hand: for sandboxes that punish the call instead of refusing it.
#[test]
fn fence_mode_by_hand() {
    alone("fence_mode_by_hand", 60, || {
        let loads = load(3);
        let config = Config::new().fence_mode(true).generation(Duration::from_millis(1));
        // In turns with sessions that have the barrier.
        let mut traces = Vec::new();
        for _ in 0..20 * support::multiplier() {
            traces.extend(sessions(1, Duration::from_millis(3), &config, || true));
            assert_eq!(facts(traces.last().unwrap()).mode, FENCE);
            traces.extend(sessions(1, Duration::from_millis(3), &Config::new(), || true));
        }
        end(loads);
        assert!(assert_exact(&traces, 0) > 10_000);
    });
}
