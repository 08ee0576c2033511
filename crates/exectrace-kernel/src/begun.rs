//! What this process had when it began: the standard library ignores SIGPIPE in every program
//! before `main`, so whether somebody else did is asked for before that.

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

#[used]
// SAFETY: what the loader finds there it calls once, as a function of this type; it needs nothing
// that is there from `main` on only.
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

static PIPE_IGNORED: AtomicBool = AtomicBool::new(false);

extern "C" fn begin() {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: changes nothing, and the answer has a place.
    let asked = unsafe { libc::sigaction(libc::SIGPIPE, ptr::null(), now.as_mut_ptr()) };
    // SAFETY: numbers, for which zero is a value too.
    let now = unsafe { now.assume_init() };
    PIPE_IGNORED.store(asked == 0 && now.sa_sigaction == libc::SIG_IGN, Relaxed);
}

/// Whether SIGPIPE was ignored when this process began.
pub fn pipe_was_ignored() -> bool {
    PIPE_IGNORED.load(Relaxed)
}
