//! Programs that restrict their own system calls. Such a filter may end the process at the first
//! call that is not on its list, and the recorder's own calls are on nobody's list: so the process
//! is recorded until it asks for one, and from there on runs as if nobody recorded.

use std::ffi::c_int;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use trace::block;
use trace::encode::op::Step;

use crate::process;
use crate::real;
use crate::thread;

static CONFINED: AtomicBool = AtomicBool::new(false);

/// Whether the process has asked for a filter of its system calls, or one that it is a child of.
pub fn is_confined() -> bool {
    CONFINED.load(Relaxed)
}

/// The calling thread is about to ask for a filter.
#[cold]
#[inline(never)]
pub(crate) fn begins() {
    if CONFINED.swap(true, Relaxed) || !trace::registry::is_on() {
        return;
    }
    thread::thread_ends();
    let text = b"it restricts its own system calls: what it does from here on is not recorded";
    block::process(Step::NotFollowed, process::pid(), text);
    trace::outside::leave();
}

/// The same for a `prctl`, where this option asks for a filter.
#[inline]
pub(crate) fn prctl_begins(option: c_int) {
    if option == libc::PR_SET_SECCOMP {
        begins();
    }
}

/// Arguments that were not given are any numbers, as in libc.
///
/// # Safety
/// - As `prctl`.
pub unsafe fn prctl(option: c_int, a: usize, b: usize, c: usize, d: usize) -> c_int {
    prctl_begins(option);
    // SAFETY: the caller's promise.
    unsafe { real::prctl(option, a, b, c, d) }
}
