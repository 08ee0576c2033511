//! `syscall`, by which Rust's standard library and parking_lot reach the kernel's futex; every
//! other call goes on to libc.

use std::ffi::c_int;
use std::ffi::c_long;

use trace::block;
use trace::encode::op::Op;

use crate::confined;
use crate::raw;
use crate::real;
use crate::settings;
use crate::settings::Classes;
use crate::waiting::Waiting;

/// What a futex operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Waits,
    Wakes,
    Other,
}

fn does(operation: c_int) -> Does {
    match operation & libc::FUTEX_CMD_MASK {
        libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET => Does::Waits,
        libc::FUTEX_LOCK_PI | libc::FUTEX_LOCK_PI2 | libc::FUTEX_WAIT_REQUEUE_PI => Does::Waits,
        libc::FUTEX_WAKE | libc::FUTEX_WAKE_BITSET | libc::FUTEX_WAKE_OP => Does::Wakes,
        libc::FUTEX_REQUEUE | libc::FUTEX_CMP_REQUEUE => Does::Wakes,
        libc::FUTEX_UNLOCK_PI | libc::FUTEX_CMP_REQUEUE_PI => Does::Wakes,
        _ => Does::Other,
    }
}

/// libc's `syscall`. Its parameters beyond the number are where a variadic caller leaves them: with
/// integers only, both conventions are one, and a parameter that was not given is any number, as in
/// libc.
///
/// # Safety
/// - As `syscall`.
#[inline]
pub unsafe fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    if number == libc::SYS_futex && settings::wants(Classes::LOCKS) {
        // SAFETY: the caller's promise.
        return unsafe { futex([a, b, c, d, e, f]) };
    }
    if number == libc::SYS_seccomp {
        confined::begins();
    }
    if number == libc::SYS_prctl {
        confined::prctl_begins(a as c_int);
    }
    if !real::is_resolved() {
        // Before the lookup, which itself may get here.
        // SAFETY: the caller's promise.
        let r = unsafe { raw::system_call(number as usize, [a, b, c, d, e, f]) };
        return raw::returned(r) as c_long;
    }
    // SAFETY: the caller's promise.
    unsafe { real::syscall(number, a, b, c, d, e, f) }
}

/// A futex call while locks are recorded. Its frame keeps the caller of `syscall` in the stack.
///
/// # Safety
/// - As the system call.
#[inline(never)]
unsafe fn futex(a: [usize; 6]) -> c_long {
    let address = a[0] as u64;
    // SAFETY: the caller's promise.
    let call = || unsafe { raw::system_call(libc::SYS_futex as usize, a) };
    let r = match does(a[1] as c_int) {
        Does::Waits => {
            let wait = Waiting::begin(Classes::LOCKS, Op::FutexWait, address);
            let r = call();
            wait.end(r.max(0) as u64, -r.min(0) as i32);
            r
        }
        Does::Wakes => {
            let wake = block::wake(Op::FutexWake, address, settings::stacks());
            let r = call();
            if let Some(wake) = wake {
                wake.end(r.max(0) as u64);
            }
            r
        }
        Does::Other => call(),
    };
    raw::returned(r) as c_long
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_known_with_and_without_its_flags() {
        // The numbers of linux/futex.h.
        let waits = [0, 6, 9, 11, 13];
        let wakes = [1, 3, 4, 5, 7, 10, 12];
        for operation in 0..16 {
            let expected = match operation {
                o if waits.contains(&o) => Does::Waits,
                o if wakes.contains(&o) => Does::Wakes,
                _ => Does::Other,
            };
            for flags in [0, 128, 256, 384] {
                assert_eq!(does(operation | flags), expected, "{operation} {flags}");
            }
        }
    }

    #[test]
    fn a_call_before_the_lookup_is_exact() {
        // SAFETY: no arguments, cannot fail.
        let pid = unsafe { syscall(libc::SYS_getpid, 0, 0, 0, 0, 0, 0) };
        assert_eq!(pid, c_long::from(std::process::id()));
        // SAFETY: closes no descriptor.
        let r = unsafe { syscall(libc::SYS_close, usize::MAX, 0, 0, 0, 0, 0) };
        assert_eq!((r, raw::errno()), (-1, libc::EBADF));
    }
}
