//! Waiting on a word. Never with the PRIVATE flag: the word may stand in a mapping that another
//! process shares, and a private wake would not reach its waiters.

use crate::sys::Errno;
#[cfg(not(exectrace_preload))]
use crate::sys::errno;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Somebody woke this thread (or the kernel did so without a reason: look at the word).
    Woken,
    /// The word did not have the expected value; did not sleep.
    Changed,
    /// The time was over.
    TimedOut,
    /// A signal handler ran.
    Interrupted,
}

/// Sleeps while `word` is `expected`, at most for `timeout`. Async-signal-safe; keeps `errno`.
pub fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Wait {
    let _keep = Errno::save();
    let limit = timeout.map(|t| libc::timespec {
        tv_sec: t.as_secs().min(i64::MAX as u64) as libc::time_t,
        tv_nsec: t.subsec_nanos() as libc::c_long,
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the word and the limit are valid for the call, the kernel only reads them.
    let (r, error) = unsafe { call(word, libc::FUTEX_WAIT, expected, limit) };
    if r == 0 {
        return Wait::Woken;
    }
    match error {
        libc::EAGAIN => Wait::Changed,
        libc::ETIMEDOUT => Wait::TimedOut,
        _ => Wait::Interrupted,
    }
}

/// Wakes at most `n` waiters of `word`; gives how many woke. Async-signal-safe; keeps `errno`.
pub fn wake(word: &AtomicU32, n: u32) -> u32 {
    let _keep = Errno::save();
    let n = n.min(i32::MAX as u32);
    // SAFETY: the kernel uses the address as a key and does not touch the word.
    let (r, _) = unsafe { call(word, libc::FUTEX_WAKE, n, std::ptr::null()) };
    r.max(0) as u32
}

/// The system call: what it returned, and `errno`.
///
/// # Safety
/// - As the operation wants them: word and limit are valid for the call.
unsafe fn call(
    word: &AtomicU32,
    operation: libc::c_int,
    value: u32,
    limit: *const libc::timespec,
) -> (i64, libc::c_int) {
    #[cfg(not(exectrace_preload))]
    {
        let (address, number) = (word.as_ptr(), libc::SYS_futex);
        // SAFETY: the caller's promise.
        let r = unsafe { libc::syscall(number, address, operation, value, limit, 0, 0) };
        (r, errno())
    }
    // The preloaded library stands in for libc's `syscall` and would record its own waits.
    #[cfg(exectrace_preload)]
    {
        let address = word.as_ptr().addr();
        let arguments = [address, operation as usize, value as usize, limit.addr(), 0, 0];
        // SAFETY: the caller's promise.
        let r = unsafe { crate::sys::arch::system_call(libc::SYS_futex as usize, arguments) };
        (if r < 0 { -1 } else { r as i64 }, if r < 0 { -r as libc::c_int } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn changed_timed_out_woken() {
        static WORD: AtomicU32 = AtomicU32::new(3);
        assert_eq!(wait(&WORD, 4, None), Wait::Changed);
        assert_eq!(wait(&WORD, 3, Some(Duration::from_millis(1))), Wait::TimedOut);
        assert_eq!(wake(&WORD, 1), 0);
        let waiter = std::thread::spawn(|| {
            let mut last = Wait::TimedOut;
            // Release in the other thread: the value 9 ends the loop.
            while WORD.load(Ordering::Acquire) == 3 {
                last = wait(&WORD, 3, None);
            }
            last
        });
        let mut woken = 0;
        while woken == 0 {
            woken = wake(&WORD, u32::MAX);
            std::thread::yield_now();
        }
        assert_eq!(woken, 1);
        // Release: pairs with the waiter's Acquire.
        WORD.store(9, Ordering::Release);
        wake(&WORD, u32::MAX);
        assert!(matches!(waiter.join(), Ok(Wait::Woken | Wait::Changed)));
    }

    #[test]
    fn errno_is_kept() {
        let word = AtomicU32::new(0);
        // SAFETY: close of no descriptor, to set errno.
        unsafe { libc::close(-1) };
        assert_eq!(errno(), libc::EBADF);
        assert_eq!(wait(&word, 1, None), Wait::Changed);
        assert_eq!(errno(), libc::EBADF);
    }
}
