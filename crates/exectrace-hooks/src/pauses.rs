//! Sleeps and waits whose results are not those of other calls: an error number in place of -1, or
//! the seconds that are left.

use std::ffi::c_char;
use std::ffi::c_int;
use std::ffi::c_uint;
use std::ffi::c_void;

use trace::encode::op::Op;

use crate::c::addrinfo;
use crate::c::clockid_t;
use crate::c::sigset_t;
use crate::c::size_t;
use crate::c::timespec;
use crate::calls;
use crate::raw;
use crate::real;
use crate::settings::Classes;
use crate::waiting::Waiting;

/// The object of a sleep until a time is 0: how long that is the clock knows.
///
/// # Safety
/// - As `clock_nanosleep`.
pub unsafe fn clock_nanosleep(
    clock: clockid_t,
    flags: c_int,
    time: *const timespec,
    left: *mut timespec,
) -> c_int {
    let relative = flags & libc::TIMER_ABSTIME == 0;
    // SAFETY: the caller's promise.
    let nanos = if relative { unsafe { calls::nanos(time) } } else { 0 };
    let wait = Waiting::begin(Classes::SLEEP, Op::Sleep, nanos);
    // SAFETY: the caller's promise.
    let r = unsafe { real::clock_nanosleep(clock, flags, time, left) };
    wait.end(0, r);
    r
}

/// # Safety
/// - As `sleep`.
pub unsafe fn sleep(seconds: c_uint) -> c_uint {
    let wait = Waiting::begin(Classes::SLEEP, Op::Sleep, u64::from(seconds) * 1_000_000_000);
    // SAFETY: the caller's promise.
    let left = unsafe { real::sleep(seconds) };
    wait.end(left.into(), if left == 0 { 0 } else { libc::EINTR });
    left
}

/// The result is the signal.
///
/// # Safety
/// - As `sigwait`.
pub unsafe fn sigwait(set: *const sigset_t, signal: *mut c_int) -> c_int {
    let wait = Waiting::begin(Classes::PROCESS, Op::WaitSignal, 0);
    // SAFETY: the caller's promise.
    let r = unsafe { real::sigwait(set, signal) };
    if r == 0 {
        // SAFETY: the call has filled it.
        wait.end(unsafe { *signal } as u64, 0);
    } else {
        wait.end(0, r);
    }
    r
}

/// # Safety
/// - As `msync`.
pub unsafe fn msync(at: *mut c_void, n: size_t, flags: c_int) -> c_int {
    let wait = Waiting::begin(Classes::IO, Op::Sync, 0);
    // SAFETY: the caller's promise.
    let r = unsafe { real::msync(at, n, flags) };
    wait.end_if_slept(0, if r == 0 { 0 } else { raw::errno() });
    r
}

/// Its own errors, which are no `errno`, are EIO in the trace.
///
/// # Safety
/// - As `getaddrinfo`.
pub unsafe fn getaddrinfo(
    node: *const c_char,
    service: *const c_char,
    hints: *const addrinfo,
    found: *mut *mut addrinfo,
) -> c_int {
    let wait = Waiting::begin(Classes::NET, Op::Resolve, 0);
    // SAFETY: the caller's promise.
    let r = unsafe { real::getaddrinfo(node, service, hints, found) };
    wait.end_if_slept(0, if r == 0 { 0 } else { libc::EIO });
    r
}
