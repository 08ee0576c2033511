//! A static that reads as zero in a forked child, whichever way it was forked: `fork`, `_Fork`, raw
//! `clone`. So the load that asks whether tracing is on is also the test for a fork.

use crate::sys::Errno;
use std::ops::Deref;

/// A static alone on its pages. 64 KiB, the largest page of the machines we know; in `.bss` it
/// costs neither file nor memory beyond the page that is touched. `T` MUST be all zero at first.
/// Otherwise the static lands in `.data`, a mapping of a file, which the kernel refuses to wipe.
#[repr(C, align(65536))]
pub struct Page<T>(T);

impl<T> Page<T> {
    /// For a static.
    pub const fn new(value: T) -> Self {
        const { assert!(size_of::<T>() <= 65536) };
        Page(value)
    }
}

impl<T> Deref for Page<T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// Makes `page` zero in every child forked from now on. False: refused (before kernel 4.14, or the
/// static is not in `.bss`). Async-signal-safe; keeps `errno`.
pub fn wipe_on_fork<T: Sync>(page: &'static Page<T>) -> bool {
    let _keep = Errno::save();
    let addr = std::ptr::from_ref(page).cast_mut().cast();
    // SAFETY: the range is exactly the static, whose type is a whole number of pages; the advice
    // changes nothing in this process.
    unsafe { libc::madvise(addr, size_of::<Page<T>>(), libc::MADV_WIPEONFORK) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering;

    static ZERO: Page<[AtomicU32; 2]> = Page::new([AtomicU32::new(0), AtomicU32::new(0)]);
    static SET: Page<AtomicU32> = Page::new(AtomicU32::new(1));

    #[test]
    fn child_reads_zero_and_parent_keeps() {
        assert!(wipe_on_fork(&ZERO));
        ZERO[1].store(7, Ordering::Relaxed);
        // SAFETY: the child only reads a static and leaves by _exit.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let sum = ZERO[0].load(Ordering::Relaxed) + ZERO[1].load(Ordering::Relaxed);
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(10 + sum as i32) };
        }
        let mut status = 0;
        // SAFETY: our own child, a valid place for the status.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(libc::WEXITSTATUS(status), 10);
        assert_eq!(ZERO[1].load(Ordering::Relaxed), 7);
    }

    #[test]
    fn data_is_refused() {
        assert_eq!(SET.load(Ordering::Relaxed), 1);
        assert!(!wipe_on_fork(&SET));
    }
}
