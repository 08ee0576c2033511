//! The locks of libc: mutexes, condition variables, read-write locks, semaphores, barriers, spin
//! locks.
//!
//! 1. What is free is taken by the call that never waits, which is exact for every type of lock but
//!    one (a mutex that raises its holder's priority goes straight through); only a wait is an
//!    event.
//! 2. A release is an event only where a hook has seen a thread begin to wait for it. Who waits
//!    says so and tries once more, and who unlocks looks before and after.
//! 3. An unlocked lock is not looked at again: its memory may be gone.

use std::ffi::c_int;

use trace::block;
use trace::encode::op::Op;

use crate::c::clockid_t;
use crate::c::pthread_barrier_t;
use crate::c::pthread_cond_t;
use crate::c::pthread_mutex_t;
use crate::c::pthread_rwlock_t;
use crate::c::pthread_spinlock_t;
use crate::c::sem_t;
use crate::c::timespec;
use crate::raw;
use crate::real;
use crate::settings;
use crate::settings::Classes;
use crate::waiters;
use crate::waiters::Waiter;
use crate::waiting::Waiting;

unsafe extern "C-unwind" {
    fn pthread_testcancel();
}

/// The beginning of glibc's mutex, on 64-bit machines.
#[repr(C)]
struct Mutex {
    lock: c_int,
    count: u32,
    owner: c_int,
    users: u32,
    kind: c_int,
}

/// `PTHREAD_MUTEX_PRIO_PROTECT_NP` of glibc.
const PRIORITY_PROTECT: c_int = 64;

/// A number of a mutex that its threads change meanwhile: the int at this place of it. Who calls a
/// hook has promised that the mutex is there.
#[inline(always)]
fn word(mutex: *mut pthread_mutex_t, at: usize) -> c_int {
    let place = mutex.cast::<c_int>().wrapping_byte_add(at);
    // SAFETY: inside the mutex; `at` is the place of an int.
    unsafe { place.read_volatile() }
}

fn address<T>(object: *mut T) -> u64 {
    object.addr() as u64
}

/// A wait for a lock that was found taken: an event, whatever it comes to, unless it is to be had
/// by now, by the call that never waits.
#[cold]
#[inline(never)]
pub(crate) fn wait(
    op: Op,
    object: u64,
    result: u64,
    attempt: impl FnOnce() -> c_int,
    call: impl FnOnce() -> c_int,
) -> c_int {
    let waiter = Waiter::at(object);
    match attempt() {
        libc::EBUSY => {}
        r => return r,
    }
    let wait = Waiting::begin(Classes::LOCKS, op, object);
    wait.is_for(result);
    let r = call();
    wait.end(if r == 0 { result } else { 0 }, r);
    drop(waiter);
    r
}

/// A release. It is an event where somebody waits.
#[inline(always)]
pub(crate) fn release(op: Op, object: u64, call: impl FnOnce() -> c_int) -> c_int {
    if waiters::any(object) { wake(op, object, call) } else { call() }
}

/// The release of a lock, of which somebody may have begun to wait while it went on.
#[inline(always)]
pub(crate) fn unlock(op: Op, object: u64, call: impl FnOnce() -> c_int) -> c_int {
    if waiters::any(object) {
        return wake(op, object, call);
    }
    let r = call();
    if waiters::any(object) { wake(op, object, || r) } else { r }
}

#[cold]
#[inline(never)]
fn wake(op: Op, object: u64, call: impl FnOnce() -> c_int) -> c_int {
    let wants = settings::wants(Classes::LOCKS);
    let wake = wants.then(|| block::wake(op, object, settings::stacks())).flatten();
    let r = call();
    if let Some(wake) = wake {
        wake.end(0);
    }
    r
}

/// Takes a mutex, which is there. The wait's result is the kernel's number of the thread that held
/// it as the wait began.
#[inline(always)]
fn take(mutex: *mut pthread_mutex_t, lock: impl FnOnce() -> c_int) -> c_int {
    let kind = word(mutex, std::mem::offset_of!(Mutex, kind));
    if !settings::wants(Classes::LOCKS) || kind & PRIORITY_PROTECT != 0 {
        return lock();
    }
    // libc takes a free mutex without atomic operations then; to try it costs 15 ns more.
    let is_free = word(mutex, std::mem::offset_of!(Mutex, lock)) == 0;
    if is_free && real::is_single_threaded() {
        return lock();
    }
    // SAFETY: the promise of the hook's caller.
    let attempt = || unsafe { libc::pthread_mutex_trylock(mutex) };
    match attempt() {
        libc::EBUSY => {
            let owner = word(mutex, std::mem::offset_of!(Mutex, owner));
            wait(Op::MutexLock, address(mutex), owner.max(0) as u64, attempt, lock)
        }
        r => r,
    }
}

/// # Safety
/// - As `pthread_mutex_lock`.
#[inline]
pub unsafe fn pthread_mutex_lock(m: *mut pthread_mutex_t) -> c_int {
    // SAFETY: the caller's promise.
    take(m, || unsafe { real::pthread_mutex_lock(m) })
}

/// # Safety
/// - As `pthread_mutex_timedlock`.
pub unsafe fn pthread_mutex_timedlock(m: *mut pthread_mutex_t, limit: *const timespec) -> c_int {
    // SAFETY: the caller's promise.
    take(m, || unsafe { real::pthread_mutex_timedlock(m, limit) })
}

/// # Safety
/// - As `pthread_mutex_clocklock`.
pub unsafe fn pthread_mutex_clocklock(
    m: *mut pthread_mutex_t,
    clock: clockid_t,
    limit: *const timespec,
) -> c_int {
    // SAFETY: the caller's promise.
    take(m, || unsafe { real::pthread_mutex_clocklock(m, clock, limit) })
}

/// # Safety
/// - As `pthread_mutex_unlock`.
#[inline]
pub unsafe fn pthread_mutex_unlock(m: *mut pthread_mutex_t) -> c_int {
    // SAFETY: the caller's promise.
    unlock(Op::MutexUnlock, address(m), || unsafe { real::pthread_mutex_unlock(m) })
}

/// A wait at a condition variable: the mutex that it gives up inside is released in the trace just
/// before the call; that it is taken again is part of the wait.
pub(crate) fn wait_at(cond: u64, mutex: u64, call: impl FnOnce() -> c_int) -> c_int {
    let waiter = Waiter::at(cond);
    let wait = Waiting::begin(Classes::LOCKS, Op::CondWait, cond);
    release(Op::MutexUnlock, mutex, || 0);
    let r = call();
    wait.end(0, r);
    drop(waiter);
    r
}

/// # Safety
/// - As `pthread_cond_wait`.
pub unsafe fn pthread_cond_wait(c: *mut pthread_cond_t, m: *mut pthread_mutex_t) -> c_int {
    // SAFETY: the caller's promise.
    wait_at(address(c), address(m), || unsafe { real::pthread_cond_wait(c, m) })
}

/// # Safety
/// - As `pthread_cond_timedwait`.
pub unsafe fn pthread_cond_timedwait(
    c: *mut pthread_cond_t,
    m: *mut pthread_mutex_t,
    limit: *const timespec,
) -> c_int {
    // SAFETY: the caller's promise.
    wait_at(address(c), address(m), || unsafe { real::pthread_cond_timedwait(c, m, limit) })
}

/// # Safety
/// - As `pthread_cond_clockwait`.
pub unsafe fn pthread_cond_clockwait(
    c: *mut pthread_cond_t,
    m: *mut pthread_mutex_t,
    clock: clockid_t,
    limit: *const timespec,
) -> c_int {
    // SAFETY: the caller's promise.
    let call = || unsafe { real::pthread_cond_clockwait(c, m, clock, limit) };
    wait_at(address(c), address(m), call)
}

/// # Safety
/// - As `pthread_cond_signal`.
#[inline]
pub unsafe fn pthread_cond_signal(c: *mut pthread_cond_t) -> c_int {
    // SAFETY: the caller's promise.
    release(Op::CondSignal, address(c), || unsafe { real::pthread_cond_signal(c) })
}

/// # Safety
/// - As `pthread_cond_broadcast`.
#[inline]
pub unsafe fn pthread_cond_broadcast(c: *mut pthread_cond_t) -> c_int {
    // SAFETY: the caller's promise.
    release(Op::CondBroadcast, address(c), || unsafe { real::pthread_cond_broadcast(c) })
}

/// Takes a read-write lock, for reading or for writing.
#[inline(always)]
fn take_rw(
    op: Op,
    object: u64,
    attempt: impl Fn() -> c_int,
    lock: impl FnOnce() -> c_int,
) -> c_int {
    if !settings::wants(Classes::LOCKS) {
        return lock();
    }
    match attempt() {
        libc::EBUSY => wait(op, object, 0, attempt, lock),
        r => r,
    }
}

macro_rules! rwlocks { ($(
    $name:ident $op:ident $attempt:ident ($($arg:ident: $type:ty),*);
)*) => { $(
    /// # Safety
    /// - As the function of this name.
    #[inline]
    pub unsafe fn $name(lock: *mut pthread_rwlock_t, $($arg: $type),*) -> c_int {
        // SAFETY: the caller's promise.
        let attempt = || unsafe { libc::$attempt(lock) };
        // SAFETY: the caller's promise.
        take_rw(Op::$op, address(lock), attempt, || unsafe { real::$name(lock, $($arg),*) })
    }
)* } }

rwlocks! {
    pthread_rwlock_rdlock RwlockRead pthread_rwlock_tryrdlock ();
    pthread_rwlock_wrlock RwlockWrite pthread_rwlock_trywrlock ();
    pthread_rwlock_timedrdlock RwlockRead pthread_rwlock_tryrdlock (limit: *const timespec);
    pthread_rwlock_timedwrlock RwlockWrite pthread_rwlock_trywrlock (limit: *const timespec);
    pthread_rwlock_clockrdlock RwlockRead pthread_rwlock_tryrdlock
        (clock: clockid_t, limit: *const timespec);
    pthread_rwlock_clockwrlock RwlockWrite pthread_rwlock_trywrlock
        (clock: clockid_t, limit: *const timespec);
}

/// # Safety
/// - As `pthread_rwlock_unlock`.
#[inline]
pub unsafe fn pthread_rwlock_unlock(lock: *mut pthread_rwlock_t) -> c_int {
    // SAFETY: the caller's promise.
    unlock(Op::RwlockUnlock, address(lock), || unsafe { real::pthread_rwlock_unlock(lock) })
}

/// A wait for a semaphore that sets `errno`.
fn wait_sem(sem: *mut sem_t, call: impl FnOnce() -> c_int) -> c_int {
    let waiter = Waiter::at(address(sem));
    let wait = Waiting::begin(Classes::LOCKS, Op::SemWait, address(sem));
    let r = call();
    if r == 0 {
        wait.end_if_slept(0, 0);
    } else {
        wait.end(0, raw::errno());
    }
    drop(waiter);
    r
}

/// # Safety
/// - As `sem_wait`.
pub unsafe fn sem_wait(sem: *mut sem_t) -> c_int {
    if settings::wants(Classes::LOCKS) {
        // It is a cancellation point also where it does not wait.
        // SAFETY: no arguments; unwinds where the thread was cancelled.
        unsafe { pthread_testcancel() };
        let errno = raw::errno();
        // SAFETY: the caller's promise.
        if unsafe { libc::sem_trywait(sem) } == 0 {
            return 0;
        }
        raw::set_errno(errno);
    }
    // SAFETY: the caller's promise.
    wait_sem(sem, || unsafe { real::sem_wait(sem) })
}

/// # Safety
/// - As `sem_timedwait`.
pub unsafe fn sem_timedwait(sem: *mut sem_t, limit: *const timespec) -> c_int {
    // SAFETY: the caller's promise.
    wait_sem(sem, || unsafe { real::sem_timedwait(sem, limit) })
}

/// # Safety
/// - As `sem_clockwait`.
pub unsafe fn sem_clockwait(sem: *mut sem_t, clock: clockid_t, limit: *const timespec) -> c_int {
    // SAFETY: the caller's promise.
    wait_sem(sem, || unsafe { real::sem_clockwait(sem, clock, limit) })
}

/// # Safety
/// - As `sem_post`.
#[inline]
pub unsafe fn sem_post(sem: *mut sem_t) -> c_int {
    // SAFETY: the caller's promise.
    release(Op::SemPost, address(sem), || unsafe { real::sem_post(sem) })
}

/// The wait's result is 1 for the thread that came last, which woke the others.
///
/// # Safety
/// - As `pthread_barrier_wait`.
pub unsafe fn pthread_barrier_wait(barrier: *mut pthread_barrier_t) -> c_int {
    let wait = Waiting::begin(Classes::LOCKS, Op::BarrierWait, address(barrier));
    // SAFETY: the caller's promise.
    let r = unsafe { real::pthread_barrier_wait(barrier) };
    match r {
        libc::PTHREAD_BARRIER_SERIAL_THREAD => wait.end(1, 0),
        r => wait.end(0, r),
    }
    r
}

/// # Safety
/// - As `pthread_spin_lock`.
#[inline]
pub unsafe fn pthread_spin_lock(lock: *mut pthread_spinlock_t) -> c_int {
    if settings::wants(Classes::LOCKS) {
        // SAFETY: the caller's promise.
        let attempt = || unsafe { libc::pthread_spin_trylock(lock) };
        let r = attempt();
        if r != libc::EBUSY {
            return r;
        }
        // SAFETY: the caller's promise.
        let call = || unsafe { real::pthread_spin_lock(lock) };
        return wait(Op::SpinLock, address(lock), 0, attempt, call);
    }
    // SAFETY: the caller's promise.
    unsafe { real::pthread_spin_lock(lock) }
}
