//! Calls that make descriptors or give them back: their numbers are unknown from then on. Those
//! that may take long (`open`, `accept`) are recorded where they did.

use std::ffi::c_char;
use std::ffi::c_int;
use std::ffi::c_uint;

use trace::encode::op::Op;

use crate::c::epoll_event;
use crate::c::mode_t;
use crate::c::sockaddr;
use crate::c::socklen_t;
use crate::calls;
use crate::descriptors;
use crate::raw;
use crate::real;
use crate::settings;
use crate::settings::Classes;
use crate::waiting::Waiting;

/// An open: what it waited for is the new descriptor.
///
/// # Safety
/// - `path` is what the call opens.
#[inline(always)]
unsafe fn opens(path: *const c_char, call: impl FnOnce() -> c_int) -> c_int {
    if !settings::wants(Classes::IO) {
        let r = call();
        // SAFETY: the caller's promise.
        unsafe { descriptors::opened(r, path) };
        return r;
    }
    let wait = Waiting::begin(Classes::IO, Op::Open, 0);
    let r = call();
    // SAFETY: the caller's promise.
    unsafe { descriptors::opened(r, path) };
    if !wait.is_kept(false) {
        wait.forget();
    } else if r < 0 {
        wait.end(0, raw::errno());
    } else {
        descriptors::describe(r as u64);
        wait.of(r as u64).end(r as u64, 0);
    }
    r
}

macro_rules! openers { ($(
    $name:ident($($at:ident)? | $path:ident $(, $arg:ident: $type:ty)*);
)*) => { $(
    /// # Safety
    /// - As the function of this name. A mode that was not given is any number, as in libc.
    pub unsafe fn $name($($at: c_int,)? $path: *const c_char $(, $arg: $type)*) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { opens($path, || real::$name($($at,)? $path $(, $arg)*)) }
    }
)* } }

openers! {
    open(| path, flags: c_int, mode: mode_t);
    open64(| path, flags: c_int, mode: mode_t);
    openat(at | path, flags: c_int, mode: mode_t);
    openat64(at | path, flags: c_int, mode: mode_t);
    creat(| path, mode: mode_t);
    creat64(| path, mode: mode_t);
    __open_2(| path, flags: c_int);
    __open64_2(| path, flags: c_int);
    __openat_2(at | path, flags: c_int);
    __openat64_2(at | path, flags: c_int);
}

macro_rules! makers { ($( $name:ident($($arg:ident: $type:ty),*); )*) => { $(
    /// # Safety
    /// - As the function of this name.
    pub unsafe fn $name($($arg: $type),*) -> c_int {
        // SAFETY: the caller's promise.
        let r = unsafe { real::$name($($arg),*) };
        descriptors::forget(r);
        r
    }
)* } }

makers! {
    socket(domain: c_int, kind: c_int, protocol: c_int);
    eventfd(value: c_uint, flags: c_int);
    timerfd_create(clock: c_int, flags: c_int);
    epoll_create(size: c_int);
    epoll_create1(flags: c_int);
    dup(fd: c_int);
    dup2(from: c_int, to: c_int);
    dup3(from: c_int, to: c_int, flags: c_int);
}

/// The two descriptors that a call has made here are unknown.
///
/// # Safety
/// - `fds` can be read where `r` is 0.
unsafe fn made_two(r: c_int, fds: *const c_int) {
    if r == 0 {
        for fd in [fds, fds.wrapping_add(1)] {
            // SAFETY: the caller's promise.
            descriptors::forget(unsafe { *fd });
        }
    }
}

/// # Safety
/// - As `pipe`.
pub unsafe fn pipe(fds: *mut c_int) -> c_int {
    // SAFETY: the caller's promise.
    let r = unsafe { real::pipe(fds) };
    // SAFETY: the call has filled them.
    unsafe { made_two(r, fds) };
    r
}

/// # Safety
/// - As `pipe2`.
pub unsafe fn pipe2(fds: *mut c_int, flags: c_int) -> c_int {
    // SAFETY: the caller's promise.
    let r = unsafe { real::pipe2(fds, flags) };
    // SAFETY: the call has filled them.
    unsafe { made_two(r, fds) };
    r
}

/// # Safety
/// - As `socketpair`.
pub unsafe fn socketpair(domain: c_int, kind: c_int, protocol: c_int, fds: *mut c_int) -> c_int {
    // SAFETY: the caller's promise.
    let r = unsafe { real::socketpair(domain, kind, protocol, fds) };
    // SAFETY: the call has filled them.
    unsafe { made_two(r, fds) };
    if r == 0 && (settings::wants(Classes::IO) || settings::wants(Classes::NET)) {
        // SAFETY: as above.
        descriptors::describe_pair(unsafe { *fds.cast::<[c_int; 2]>() });
    }
    r
}

/// # Safety
/// - As `epoll_ctl`.
pub unsafe fn epoll_ctl(poll: c_int, change: c_int, fd: c_int, event: *mut epoll_event) -> c_int {
    // SAFETY: the caller's promise.
    let r = unsafe { real::epoll_ctl(poll, change, fd, event) };
    if r == 0 && change == libc::EPOLL_CTL_ADD && settings::wants(Classes::NET) {
        descriptors::describe_watched(poll, fd);
    }
    r
}

/// # Safety
/// - As `accept`.
pub unsafe fn accept(fd: c_int, from: *mut sockaddr, len: *mut socklen_t) -> c_int {
    // SAFETY: the caller's promise.
    let call = || unsafe { real::accept(fd, from, len) };
    let r = calls::short(Classes::NET, Op::Accept, calls::fd(fd), call);
    descriptors::forget(r);
    r
}

/// # Safety
/// - As `accept4`.
pub unsafe fn accept4(fd: c_int, from: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int {
    // SAFETY: the caller's promise.
    let call = || unsafe { real::accept4(fd, from, len, flags) };
    let r = calls::short(Classes::NET, Op::Accept, calls::fd(fd), call);
    descriptors::forget(r);
    r
}

/// Before the call: after it another thread may have the number already.
///
/// # Safety
/// - As `close`.
pub unsafe fn close(fd: c_int) -> c_int {
    descriptors::forget(fd);
    // SAFETY: the caller's promise.
    unsafe { real::close(fd) }
}

/// # Safety
/// - As `close_range`.
pub unsafe fn close_range(from: c_uint, to: c_uint, flags: c_int) -> c_int {
    descriptors::forget_range(from, to);
    // SAFETY: the caller's promise.
    unsafe { real::close_range(from, to, flags) }
}

/// # Safety
/// - As `closefrom`.
pub unsafe fn closefrom(from: c_int) {
    descriptors::forget_range(from.max(0) as u32, u32::MAX);
    // SAFETY: the caller's promise.
    unsafe { real::closefrom(from) }
}

#[inline(always)]
fn controls(fd: c_int, command: c_int, call: impl FnOnce() -> c_int) -> c_int {
    match command {
        libc::F_SETLKW | libc::F_OFD_SETLKW => {
            calls::short(Classes::IO, Op::FileLock, calls::fd(fd), call)
        }
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
            let r = call();
            descriptors::forget(r);
            r
        }
        _ => call(),
    }
}

/// # Safety
/// - As `fcntl`. An argument that was not given is any number, as in libc.
pub unsafe fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int {
    // SAFETY: the caller's promise.
    controls(fd, command, || unsafe { real::fcntl(fd, command, argument) })
}

/// # Safety
/// - As `fcntl64`.
pub unsafe fn fcntl64(fd: c_int, command: c_int, argument: usize) -> c_int {
    // SAFETY: the caller's promise.
    controls(fd, command, || unsafe { real::fcntl64(fd, command, argument) })
}
