//! The same for the names that C11 gave to locks and threads. In glibc they are the same objects;
//! the results have numbers of their own.

use std::ffi::c_int;
use std::ffi::c_void;

use trace::encode::op::Op;

use crate::c::Start11;
use crate::c::pthread_cond_t;
use crate::c::pthread_mutex_t;
use crate::c::pthread_t;
use crate::c::timespec;
use crate::locks;
use crate::real;
use crate::settings;
use crate::settings::Classes;
use crate::thread;

/// Results of C11's functions in glibc.
const BUSY: c_int = 1;
const TIMED_OUT: c_int = 4;

unsafe extern "C" {
    fn mtx_trylock(mutex: *mut pthread_mutex_t) -> c_int;
}

/// The `errno` that says the same.
pub(crate) fn error(result: c_int) -> c_int {
    match result {
        0 => 0,
        BUSY => libc::EBUSY,
        TIMED_OUT => libc::ETIMEDOUT,
        _ => libc::EINVAL,
    }
}

/// Runs a call that gives a result of C11 inside `around`, which wants an `errno`.
fn inside(
    around: impl FnOnce(&mut dyn FnMut() -> c_int) -> c_int,
    call: impl Fn() -> c_int,
) -> c_int {
    let mut result = 0;
    around(&mut || {
        result = call();
        error(result)
    });
    result
}

fn take(mutex: *mut pthread_mutex_t, lock: impl Fn() -> c_int) -> c_int {
    if !settings::wants(Classes::LOCKS) {
        return lock();
    }
    // SAFETY: the caller of the hook gave a mutex.
    match unsafe { mtx_trylock(mutex) } {
        BUSY => {
            let object = mutex.addr() as u64;
            let taken = || libc::EBUSY;
            inside(|call| locks::wait(Op::MutexLock, object, 0, taken, call), lock)
        }
        r => r,
    }
}

/// # Safety
/// - As `mtx_lock`.
pub unsafe fn mtx_lock(mutex: *mut pthread_mutex_t) -> c_int {
    // SAFETY: the caller's promise.
    take(mutex, || unsafe { real::mtx_lock(mutex) })
}

/// # Safety
/// - As `mtx_timedlock`.
pub unsafe fn mtx_timedlock(mutex: *mut pthread_mutex_t, limit: *const timespec) -> c_int {
    // SAFETY: the caller's promise.
    take(mutex, || unsafe { real::mtx_timedlock(mutex, limit) })
}

/// # Safety
/// - As `mtx_unlock`.
pub unsafe fn mtx_unlock(mutex: *mut pthread_mutex_t) -> c_int {
    // SAFETY: the caller's promise.
    let call = || unsafe { real::mtx_unlock(mutex) };
    locks::unlock(Op::MutexUnlock, mutex.addr() as u64, call)
}

/// # Safety
/// - As `cnd_wait`.
pub unsafe fn cnd_wait(cond: *mut pthread_cond_t, mutex: *mut pthread_mutex_t) -> c_int {
    let (c, m) = (cond.addr() as u64, mutex.addr() as u64);
    // SAFETY: the caller's promise.
    inside(|call| locks::wait_at(c, m, call), || unsafe { real::cnd_wait(cond, mutex) })
}

/// # Safety
/// - As `cnd_timedwait`.
pub unsafe fn cnd_timedwait(
    cond: *mut pthread_cond_t,
    mutex: *mut pthread_mutex_t,
    limit: *const timespec,
) -> c_int {
    let (c, m) = (cond.addr() as u64, mutex.addr() as u64);
    // SAFETY: the caller's promise.
    let call = || unsafe { real::cnd_timedwait(cond, mutex, limit) };
    inside(|call| locks::wait_at(c, m, call), call)
}

/// # Safety
/// - As `cnd_signal`.
pub unsafe fn cnd_signal(cond: *mut pthread_cond_t) -> c_int {
    // SAFETY: the caller's promise.
    locks::release(Op::CondSignal, cond.addr() as u64, || unsafe { real::cnd_signal(cond) })
}

/// # Safety
/// - As `cnd_broadcast`.
pub unsafe fn cnd_broadcast(cond: *mut pthread_cond_t) -> c_int {
    // SAFETY: the caller's promise.
    locks::release(Op::CondBroadcast, cond.addr() as u64, || unsafe { real::cnd_broadcast(cond) })
}

/// # Safety
/// - As `thrd_create`.
pub unsafe fn thrd_create(thread: *mut pthread_t, start: Start11, argument: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { thread::create_c11(thread, start, argument) }
}

/// # Safety
/// - As `thrd_join`.
pub unsafe fn thrd_join(joined: pthread_t, value: *mut c_int) -> c_int {
    // SAFETY: the caller's promise.
    let call = || unsafe { real::thrd_join(joined, value) };
    inside(|call| thread::join(joined, call), call)
}
