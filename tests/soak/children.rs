//! Forked children: off and clean; with a session of their own, which is exact too; no harm to
//! their parent.
//!
//! 1. A child of a thread among others takes no lock of the soak's.
//! 2. A child that hangs is ended by an alarm, which its parent sees.

use std::ffi::c_int;
use std::ffi::c_void;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use trace::Outcome;

use super::check;
use super::ledger;
use super::ledger::Ledger;
use super::random::Rng;
use super::work::emit_one;

pub static FORKS: AtomicU64 = AtomicU64::new(0);

const WELL: c_int = 42;
const SECONDS: u32 = 40;

unsafe extern "C" {
    fn _Fork() -> libc::pid_t;
}

fn leave(code: c_int) -> ! {
    // SAFETY: ends the child.
    unsafe { libc::_exit(code) }
}

/// Whether nothing is recorded here. Signal-safe.
fn is_off() -> bool {
    !trace::is_enabled() && trace::emit_probe(1) == Outcome::Off
}

/// A child of a handler, which has interrupted anything at all: it is off, and ends.
pub fn of_handler() {
    // SAFETY: runs no handlers of ours or of the allocator's; the child calls what is signal-safe.
    let pid = unsafe { _Fork() };
    if pid == 0 {
        leave(if is_off() { WELL } else { 1 });
    }
    FORKS.fetch_add(1, Relaxed);
    let mut status = 0;
    // SAFETY: our own child, a valid place.
    while unsafe { libc::waitpid(pid, &mut status, 0) } == -1 {
        if std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
            return;
        }
    }
    if !(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == WELL) {
        BAD.fetch_add(1, Relaxed);
    }
}

/// Children of handlers that did not end well.
pub static BAD: AtomicU64 = AtomicU64::new(0);

/// Forks; the child does what `rng` says. What was wrong with it, if anything.
pub fn fork(rng: &mut Rng) -> Result<(), String> {
    let bare = rng.one_in(4);
    let mut rng = rng.fork(1);
    FORKS.fetch_add(1, Relaxed);
    let pid = match bare {
        // SAFETY: runs no handlers; the child does what is signal-safe.
        true => unsafe { _Fork() },
        // SAFETY: the child takes no lock that another thread may have held, but the allocator's,
        // which fork puts in order.
        false => unsafe { libc::fork() },
    };
    if pid == 0 {
        // SAFETY: ends a child that hangs.
        unsafe { libc::alarm(SECONDS) };
        let done = match bare {
            true => is_off(),
            false => catch_unwind(AssertUnwindSafe(|| child(&mut rng))).is_ok(),
        };
        leave(if done { WELL } else { 1 });
    }
    if pid < 0 {
        return Err(format!("fork: {}", std::io::Error::last_os_error()));
    }
    let mut status = 0;
    // SAFETY: our own child, a valid place.
    while unsafe { libc::waitpid(pid, &mut status, 0) } != pid {
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(format!("waitpid: {error}"));
        }
    }
    if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == WELL {
        return Ok(());
    }
    Err(format!("child {pid} (bare: {bare}) ended with status {status:#x}"))
}

fn child(rng: &mut Rng) {
    assert!(is_off(), "a child records");
    // The parent's ledger is not this process's.
    // SAFETY: takes it away.
    unsafe { ledger::set_mine(None) };
    if rng.one_in(3) {
        return;
    }
    for _ in 0..1 + rng.below(2) {
        own_session(rng);
    }
    if rng.one_in(8) {
        fork(rng).unwrap();
    }
}

fn work(l: &Ledger, n: u64) {
    super::set_thread_name(&l.name());
    (0..n).for_each(|what| assert!(emit_one(l, false, what)));
}

/// Runs a second thread to its end. Not one of the standard library's, which begins with a lock
/// that may have been shut as the child was forked.
fn second_thread(l: &Ledger, n: u64) {
    extern "C" fn works(arg: *mut c_void) -> *mut c_void {
        // SAFETY: what the lines below give, alive until the thread was joined.
        let (l, n) = unsafe { &*arg.cast::<(&Ledger, u64)>() };
        work(l, *n);
        std::ptr::null_mut()
    }
    let (mut id, what) = (0, (l, n));
    let arg = (&raw const what).cast_mut().cast();
    // SAFETY: the argument lives until the thread was joined.
    let made = unsafe { libc::pthread_create(&mut id, std::ptr::null(), works, arg) };
    assert_eq!(made, 0);
    // SAFETY: our thread, joined once.
    assert_eq!(unsafe { libc::pthread_join(id, std::ptr::null_mut()) }, 0);
}

/// A session of the child's own, with a second thread.
fn own_session(rng: &mut Rng) {
    let out = Arc::new(Mutex::new(Vec::new()));
    let ledgers: Vec<Arc<Ledger>> = (0..2).map(|n| Arc::new(Ledger::new(n, 2000, 0))).collect();
    struct Out(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Out {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (mine, other) = (1 + rng.below(1000), rng.below(300));
    // Before the start: the thread may have a name already, which the definition would bear.
    super::set_thread_name(&ledgers[0].name());
    let memory = rng.pick(&[4 << 20, 16 << 20]);
    trace::Config::new().memory_bytes(memory).start(Out(out.clone())).unwrap();
    work(&ledgers[0], mine);
    second_thread(&ledgers[1], other);
    let summary = trace::stop().unwrap();
    let bytes = std::mem::take(&mut *out.lock().unwrap());
    let found = check::of_child(&ledgers, &summary, &bytes);
    if let Err(wrong) = found {
        super::keep(&[bytes], "child");
        panic!("in a child: {wrong}");
    }
}
