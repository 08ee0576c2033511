//! Signals at random instants: a handler that emits, forks, asks for the end.
//!
//! 1. A handler uses its thread's ledger only, and does nothing where there is none.

use std::ffi::c_int;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::children;
use super::ledger;
use super::random::mix;
use super::work;
use crate::signals_support::swap_errno;

/// Handlers that ran on a thread with a ledger.
pub static TAKEN: AtomicU64 = AtomicU64::new(0);
/// Handlers after which `errno` was another.
pub static ERRNO_CHANGED: AtomicU64 = AtomicU64::new(0);
/// Whether handlers may ask for the session's end.
pub static MAY_STOP: AtomicBool = AtomicBool::new(false);
/// Whether handlers may fork.
pub static MAY_FORK: AtomicBool = AtomicBool::new(false);

/// For timers, with all other signals blocked meanwhile.
pub const TIMED: c_int = libc::SIGPROF;
/// From other threads; the timers interrupt its handler.
pub const SENT: c_int = libc::SIGUSR1;

extern "C" fn handler(_signal: c_int) {
    let Some(l) = ledger::mine() else { return };
    const ODD: c_int = 12_345;
    let errno = swap_errno(ODD);
    let what = mix(TAKEN.fetch_add(1, Relaxed));
    match what % 64 {
        0..8 => _ = work::handler_span(l, what >> 8),
        8 if MAY_STOP.load(Relaxed) && what >> 8 & 31 == 0 => trace::request_stop(),
        9 if MAY_FORK.load(Relaxed) && what >> 8 & 31 == 0 => children::of_handler(),
        // Until the side ring is full.
        10..12 => _ = (0..100).all(|i| work::emit_one(l, true, i)),
        _ => _ = work::emit_one(l, true, what >> 8),
    }
    if swap_errno(errno) != ODD {
        ERRNO_CHANGED.fetch_add(1, Relaxed);
    }
}

/// Installs the handler for both signals.
pub fn install() {
    for (signal, masks_all) in [(TIMED, true), (SENT, false)] {
        // SAFETY: plain numbers, a mask and a pointer.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        if masks_all {
            // SAFETY: the mask is the action's own.
            unsafe { libc::sigfillset(&mut action.sa_mask) };
        }
        // SAFETY: the action is filled in; the handler is a function for the life of the process.
        assert_eq!(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) }, 0);
    }
}

/// Sends the signal to a thread of this process, which may be gone.
pub fn send(tid: u32) {
    let (pid, tid) = (std::process::id() as c_int, tid as c_int);
    // SAFETY: plain numbers; a thread that is gone is an error, which is as good.
    unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, SENT) };
}

/// An alternate stack for the calling thread's signals, or none, until it is dropped. The one that
/// a thread has by itself is too small for handlers that are interrupted in turn.
pub struct Alternate {
    before: libc::stack_t,
    _bytes: Vec<u8>,
}

impl Alternate {
    /// `len` 0: none.
    pub fn of(len: usize) -> Alternate {
        let mut bytes = vec![0u8; len];
        let ss_flags = if len == 0 { libc::SS_DISABLE } else { 0 };
        let stack = libc::stack_t { ss_sp: bytes.as_mut_ptr().cast(), ss_flags, ss_size: len };
        // SAFETY: plain numbers and a pointer.
        let mut before: libc::stack_t = unsafe { std::mem::zeroed() };
        // SAFETY: the bytes live as long as this value, which takes the stack away again.
        assert_eq!(unsafe { libc::sigaltstack(&stack, &mut before) }, 0);
        Alternate { before, _bytes: bytes }
    }
}

impl Drop for Alternate {
    fn drop(&mut self) {
        // SAFETY: what stood there before, as the system gave it.
        unsafe { libc::sigaltstack(&self.before, std::ptr::null_mut()) };
    }
}
