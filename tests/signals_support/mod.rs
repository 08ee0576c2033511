//! What the tests with signals share: timers that interrupt one thread, tallies that a handler may
//! write, many sessions under load, and C sources compiled at test time.
//!
//! 1. A tally is written by its own thread only, handlers included, each time by one instruction
//!    that a handler cannot split; so the sums over all sessions are exact.

#![allow(dead_code)] // Each test binary uses its part.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::ffi::c_int;
use std::ffi::c_void;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use trace::Outcome;
use trace::encode::schema::CAUSES;

use crate::support;
use crate::support::Capture;
use crate::support::Held;

/// What one thread attempted, its handlers included.
pub struct Tally {
    pub recorded: AtomicU64,
    pub nested: AtomicU64,
    pub sum: AtomicU64,
    pub lost: AtomicU64,
    /// Lost events by the number of their cause.
    pub causes: [AtomicU64; CAUSES],
    pub off: AtomicU64,
    /// Calls of a handler.
    pub signals: AtomicU64,
    /// Public calls that changed `errno`.
    pub errno_changed: AtomicU64,
}

impl Tally {
    fn new() -> Tally {
        let zero = || AtomicU64::new(0);
        Tally {
            recorded: zero(),
            nested: zero(),
            sum: zero(),
            lost: zero(),
            causes: [const { AtomicU64::new(0) }; CAUSES],
            off: zero(),
            signals: zero(),
            errno_changed: zero(),
        }
    }

    /// Emits the probe `n`, looks at `errno`, and takes the outcome in.
    pub fn probe(&self, n: u64) -> Outcome {
        const ODD: c_int = 12_345;
        let before = swap_errno(ODD);
        let outcome = trace::emit_probe(n);
        if swap_errno(before) != ODD {
            self.errno_changed.fetch_add(1, Relaxed);
        }
        let word = match outcome {
            Outcome::Recorded => &self.recorded,
            Outcome::Nested => &self.nested,
            Outcome::Lost(cause) => {
                self.causes[cause as usize].fetch_add(1, Relaxed);
                &self.lost
            }
            _ => &self.off,
        };
        if matches!(outcome, Outcome::Recorded | Outcome::Nested) {
            self.sum.fetch_add(n, Relaxed);
        }
        word.fetch_add(1, Relaxed);
        outcome
    }

    fn by_cause(&self) -> Vec<(usize, u64)> {
        let all = self.causes.iter().map(|c| c.load(Relaxed)).enumerate();
        all.filter(|(_, n)| *n != 0).collect()
    }

    fn all(&self) -> [u64; 3] {
        let kept = self.recorded.load(Relaxed) + self.nested.load(Relaxed);
        [kept, self.sum.load(Relaxed), self.lost.load(Relaxed)]
    }
}

/// Sets the calling thread's `errno` and gives what it was.
pub fn swap_errno(to: c_int) -> c_int {
    // SAFETY: the calling thread's own place.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above; valid while the thread lives.
    unsafe { std::ptr::replace(place, to) }
}

thread_local! {
    static MINE: Cell<Option<&'static Tally>> = const { Cell::new(None) };
}

/// All tallies with the kernel's number of their thread.
static TALLIES: Mutex<Vec<(u32, &'static Tally)>> = Mutex::new(Vec::new());

/// Gives the calling thread a tally.
pub fn tally() -> &'static Tally {
    if let Some(t) = mine() {
        return t;
    }
    let t: &'static Tally = Box::leak(Box::new(Tally::new()));
    TALLIES.lock().unwrap().push((support::tid(), t));
    MINE.set(Some(t));
    t
}

/// The calling thread's tally, for handlers.
pub fn mine() -> Option<&'static Tally> {
    MINE.get()
}

/// One field of all tallies, added.
pub fn total(of: impl Fn(&Tally) -> &AtomicU64) -> u64 {
    TALLIES.lock().unwrap().iter().map(|(_, t)| of(t).load(Relaxed)).sum()
}

/// Every event that the tallies attempted over all these traces is decoded once or declared lost,
/// thread by thread; each trace makes sense. `extra`: losses that no caller was told of, such as
/// events left by longjmp. Gives the traces' events together.
#[track_caller]
pub fn assert_exact(traces: &[Vec<u8>], extra: u64) -> u64 {
    let mut held: BTreeMap<u32, Held> = BTreeMap::new();
    let mut events = 0;
    for bytes in traces {
        support::assert_valid(bytes);
        let c = support::contents(bytes);
        assert_eq!(c.damaged, 0);
        events += c.events;
        for (number, t) in &c.threads {
            // Number 0 stands for all threads without one.
            let tid = if *number == 0 { 0 } else { t.tid };
            let h = held.entry(tid).or_default();
            h.probes += t.probes;
            h.sum = h.sum.wrapping_add(t.sum);
            for (cause, n) in &t.losses {
                *h.losses.entry(*cause).or_default() += n;
            }
        }
    }
    let mut unknown = held.get(&0).map_or(0, Held::lost);
    for (tid, t) in TALLIES.lock().unwrap().iter() {
        let h = held.remove(tid).unwrap_or_default();
        let [kept, sum, lost] = t.all();
        assert_eq!((h.probes, h.sum), (kept, sum), "tid {tid}: decoded, attempted; {h:?}");
        if lost != h.lost() {
            unknown = unknown
                .checked_add_signed(h.lost() as i64 - lost as i64)
                .unwrap_or_else(|| panic!("tid {tid}: {:?} lost, {h:?}", t.by_cause()));
        }
    }
    assert_eq!(unknown, extra, "losses that nobody was told of");
    held.remove(&0);
    for (tid, h) in &held {
        assert_eq!(h.probes, 0, "tid {tid} attempted nothing: {h:?}");
    }
    events
}

/// A timer that interrupts the calling thread, until it is dropped.
pub struct Timer(libc::timer_t);

impl Timer {
    /// `signal` every `period`.
    pub fn every(signal: c_int, period: Duration) -> Timer {
        // SAFETY: plain numbers and a union of them.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        event.sigev_notify_thread_id = support::tid() as c_int;
        let mut timer: libc::timer_t = std::ptr::null_mut();
        // SAFETY: both places are valid.
        let made = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) };
        assert_eq!(made, 0);
        let period = libc::timespec {
            tv_sec: period.as_secs() as libc::time_t,
            tv_nsec: period.subsec_nanos().into(),
        };
        let spec = libc::itimerspec { it_interval: period, it_value: period };
        // SAFETY: the timer was made above.
        let set = unsafe { libc::timer_settime(timer, 0, &spec, std::ptr::null_mut()) };
        assert_eq!(set, 0);
        Timer(timer)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: made in `every`, deleted once.
        unsafe { libc::timer_delete(self.0) };
    }
}

/// Installs a handler.
pub fn handle(signal: c_int, flags: c_int, handler: extern "C" fn(c_int)) {
    // SAFETY: plain numbers, a mask and a pointer.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = flags | libc::SA_RESTART;
    // SAFETY: the action is filled in; the handler is a function for the life of the process.
    assert_eq!(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) }, 0);
}

/// Makes `bytes` the calling thread's alternate signal stack.
///
/// # Safety
///
/// - `bytes` stay valid until the thread ends or sets another one.
pub unsafe fn alternate_stack(bytes: *mut u8, len: usize) {
    let stack = libc::stack_t { ss_sp: bytes.cast(), ss_flags: 0, ss_size: len };
    // SAFETY: the caller's duty.
    assert_eq!(unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) }, 0);
}

/// The calling thread has no alternate signal stack any more.
pub fn no_alternate_stack() {
    let stack =
        libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    // SAFETY: takes the stack away; nobody runs on it.
    assert_eq!(unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) }, 0);
}

/// Runs `sessions` sessions of `length` each, and more until `enough`, and gives their traces.
pub fn sessions(
    sessions: u64,
    length: Duration,
    config: &trace::Config,
    enough: impl Fn() -> bool,
) -> Vec<Vec<u8>> {
    let one = |_| {
        let capture = Capture::default();
        config.clone().start(capture.clone()).unwrap();
        std::thread::sleep(length);
        let summary = trace::stop().unwrap();
        let bytes = capture.take();
        assert_eq!(summary.bytes, bytes.len() as u64);
        assert_eq!(summary.stuck_threads, 0);
        bytes
    };
    let mut n = 0;
    let more = || {
        n += 1;
        (n <= sessions || n < 20 * sessions && !enough()).then_some(n)
    };
    std::iter::from_fn(more).map(one).collect()
}

/// A library that was compiled from a file of `tests/c`.
pub struct Library(*mut c_void);

impl Library {
    /// Compiles and loads `file`; `None`, with the reason printed, where there is no C compiler.
    pub fn of(file: &str, flags: &[&str]) -> Option<Library> {
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/c").join(file);
        let name = format!("{file}-{}.so", std::process::id());
        let object = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-shared", "-fPIC", "-pthread"]).args(flags);
        match cc.arg("-o").arg(&object).arg(&source).status() {
            Ok(status) => assert!(status.success(), "cc refused {file}"),
            Err(e) => {
                println!("skipped: no C compiler: {e}");
                return None;
            }
        }
        let path = CString::new(object.to_str().unwrap()).unwrap();
        // SAFETY: a library of ours, without constructors.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!library.is_null());
        std::fs::remove_file(&object).unwrap();
        Some(Library(library))
    }

    /// The address of a function.
    pub fn address(&self, function: &str) -> *mut c_void {
        let name = CString::new(function).unwrap();
        // SAFETY: the handle is open and the name ends in a zero.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!found.is_null(), "no {function}");
        found
    }
}
