//! `errno`, kept: a guard that gives the traced program its value back.

use std::ffi::c_int;

/// The error of a futex wait that returned at once: the word had changed.
pub const EAGAIN: u32 = libc::EAGAIN as u32;

/// The value of `errno` when it was saved; puts it back when dropped. Async-signal-safe.
#[must_use = "errno is put back when the guard is dropped"]
pub struct Errno(c_int);

impl Errno {
    /// Remembers `errno`. One thread-local load.
    #[inline]
    pub fn save() -> Self {
        Errno(errno())
    }
}

impl Drop for Errno {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: libc gives the address of this thread's errno, valid while the thread runs.
        let place = unsafe { libc::__errno_location() };
        // SAFETY: as above; an int of this thread, which nobody else touches.
        unsafe { *place = self.0 };
    }
}

/// The calling thread's `errno`.
#[inline]
pub fn errno() -> c_int {
    // SAFETY: libc gives the address of this thread's errno, valid while the thread runs.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *place }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guard_puts_the_value_back() {
        let set = |v| drop(Errno(v));
        set(77);
        {
            let _keep = Errno::save();
            set(5);
            assert_eq!(errno(), 5);
        }
        assert_eq!(errno(), 77);
    }
}
