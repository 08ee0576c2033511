//! The table of all functions of libc that are stood in for: one line each, with the signature.
//!
//! From it come the symbols that [`hooks`](crate::hooks) defines, and the functions of libc behind
//! them in [`real`](crate::real). The bodies have the same names in [`bodies`](crate::bodies).

/// Hands the table to the macro that is named.
#[doc(hidden)]
#[macro_export]
macro_rules! each_hook { ($($then:tt)*) => { $($then)*! {
    syscall "": fn(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize)
        -> c_long;
    pthread_create "": fn(thread: *mut pthread_t, attr: *const pthread_attr_t, start: Start,
        argument: *mut c_void) -> c_int;
    pthread_join "": fn(thread: pthread_t, value: *mut *mut c_void) -> c_int;
    pthread_timedjoin_np "": fn(thread: pthread_t, value: *mut *mut c_void, limit: *const timespec)
        -> c_int;
    pthread_clockjoin_np "": fn(thread: pthread_t, value: *mut *mut c_void, clock: c_int,
        limit: *const timespec) -> c_int;
    pthread_mutex_lock "": fn(m: *mut pthread_mutex_t) -> c_int;
    pthread_mutex_timedlock "": fn(m: *mut pthread_mutex_t, limit: *const timespec) -> c_int;
    pthread_mutex_clocklock "": fn(m: *mut pthread_mutex_t, clock: clockid_t,
        limit: *const timespec) -> c_int;
    pthread_mutex_unlock "": fn(m: *mut pthread_mutex_t) -> c_int;
    pthread_cond_wait "GLIBC_2.3.2": fn(c: *mut pthread_cond_t, m: *mut pthread_mutex_t) -> c_int;
    pthread_cond_timedwait "GLIBC_2.3.2": fn(c: *mut pthread_cond_t, m: *mut pthread_mutex_t,
        limit: *const timespec) -> c_int;
    pthread_cond_clockwait "": fn(c: *mut pthread_cond_t, m: *mut pthread_mutex_t,
        clock: clockid_t, limit: *const timespec) -> c_int;
    pthread_cond_signal "GLIBC_2.3.2": fn(c: *mut pthread_cond_t) -> c_int;
    pthread_cond_broadcast "GLIBC_2.3.2": fn(c: *mut pthread_cond_t) -> c_int;
    pthread_rwlock_rdlock "": fn(lock: *mut pthread_rwlock_t) -> c_int;
    pthread_rwlock_wrlock "": fn(lock: *mut pthread_rwlock_t) -> c_int;
    pthread_rwlock_timedrdlock "": fn(lock: *mut pthread_rwlock_t, limit: *const timespec)
        -> c_int;
    pthread_rwlock_timedwrlock "": fn(lock: *mut pthread_rwlock_t, limit: *const timespec)
        -> c_int;
    pthread_rwlock_clockrdlock "": fn(lock: *mut pthread_rwlock_t, clock: clockid_t,
        limit: *const timespec) -> c_int;
    pthread_rwlock_clockwrlock "": fn(lock: *mut pthread_rwlock_t, clock: clockid_t,
        limit: *const timespec) -> c_int;
    pthread_rwlock_unlock "": fn(lock: *mut pthread_rwlock_t) -> c_int;
    sem_wait "": fn(sem: *mut sem_t) -> c_int;
    sem_timedwait "": fn(sem: *mut sem_t, limit: *const timespec) -> c_int;
    sem_clockwait "": fn(sem: *mut sem_t, clock: clockid_t, limit: *const timespec) -> c_int;
    sem_post "": fn(sem: *mut sem_t) -> c_int;
    pthread_barrier_wait "": fn(barrier: *mut pthread_barrier_t) -> c_int;
    pthread_spin_lock "": fn(lock: *mut pthread_spinlock_t) -> c_int;
    mtx_lock "": fn(mutex: *mut pthread_mutex_t) -> c_int;
    mtx_timedlock "": fn(mutex: *mut pthread_mutex_t, limit: *const timespec) -> c_int;
    mtx_unlock "": fn(mutex: *mut pthread_mutex_t) -> c_int;
    cnd_wait "": fn(cond: *mut pthread_cond_t, mutex: *mut pthread_mutex_t) -> c_int;
    cnd_timedwait "": fn(cond: *mut pthread_cond_t, mutex: *mut pthread_mutex_t,
        limit: *const timespec) -> c_int;
    cnd_signal "": fn(cond: *mut pthread_cond_t) -> c_int;
    cnd_broadcast "": fn(cond: *mut pthread_cond_t) -> c_int;
    thrd_create "": fn(thread: *mut pthread_t, start: Start11, argument: *mut c_void) -> c_int;
    thrd_join "": fn(thread: pthread_t, value: *mut c_int) -> c_int;
} } }

/// The symbols: each calls its body.
#[doc(hidden)]
#[macro_export]
macro_rules! define_symbols { ($(
    $name:ident $version:literal: fn($($arg:ident: $type:ty),* $(,)?) -> $result:ty;
)*) => {
    const _: () = {
        #[allow(unused_imports)]
        use $crate::c::*;
        $(
            #[allow(missing_docs, clippy::missing_safety_doc, clippy::too_many_arguments)]
            #[unsafe(no_mangle)]
            pub unsafe extern "C-unwind" fn $name($($arg: $type),*) -> $result {
                // SAFETY: the caller keeps to libc's contract for this function.
                unsafe { $crate::bodies::$name($($arg),*) }
            }
        )*
    };
} }
