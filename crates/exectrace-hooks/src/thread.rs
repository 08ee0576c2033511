//! Threads: who made them, what they run, who waits for their end, what the kernel counted.

use std::ffi::c_int;
use std::ffi::c_void;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;

use trace::block;
use trace::encode::op::Op;

use crate::c::Start;
use crate::c::Start11;
use crate::c::pthread_attr_t;
use crate::c::pthread_t;
use crate::c::timespec;
use crate::raw;
use crate::real;
use crate::settings::Classes;
use crate::waiting::Waiting;

// SAFETY of callers: attributes that were initialised, and a place for a number.
unsafe extern "C" {
    fn pthread_attr_getdetachstate(attr: *const pthread_attr_t, state: *mut c_int) -> c_int;
}

/// Threads that were asked for and have not begun; one more begins unannounced.
const YOUNG_MAX: usize = 1024;

/// What a thread is to run, handed to it without an allocation.
struct Young {
    taken: AtomicU32,
    number: AtomicU32,
    creator: AtomicU32,
    start: AtomicPtr<c_void>,
    argument: AtomicPtr<c_void>,
}

static YOUNG: [Young; YOUNG_MAX] = [const {
    Young {
        taken: AtomicU32::new(0),
        number: AtomicU32::new(0),
        creator: AtomicU32::new(0),
        start: AtomicPtr::new(std::ptr::null_mut()),
        argument: AtomicPtr::new(std::ptr::null_mut()),
    }
}; YOUNG_MAX];

/// A free place; it is the caller's.
fn take_young() -> Option<&'static Young> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let from = NEXT.fetch_add(1, Relaxed) as usize;
    let places = (0..YOUNG_MAX).map(|i| &YOUNG[(from + i) % YOUNG_MAX]);
    // Acquire: pairs with the Release with which its last thread gave it back.
    places.into_iter().find(|y| y.taken.compare_exchange(0, 1, Acquire, Relaxed).is_ok())
}

/// The threads' numbers by what libc calls the threads: whoever joins one says which it was.
const KNOWN: usize = 2048;
static KNOWN_AS: [AtomicU64; KNOWN] = [const { AtomicU64::new(0) }; KNOWN];
static KNOWN_NUMBER: [AtomicU32; KNOWN] = [const { AtomicU32::new(0) }; KNOWN];
/// Places at which a thread may stand.
const PROBES: usize = 8;

fn places(thread: pthread_t) -> impl Iterator<Item = usize> {
    let hash = (thread >> 6).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    (0..PROBES).map(move |i| (hash as usize + i) % KNOWN)
}

/// Where all places are taken, the first one is lost: that join does not say the number.
fn remember(thread: pthread_t, number: u32) {
    let own = |i: &usize| KNOWN_AS[*i].load(Relaxed) == thread;
    let free = |i: &usize| KNOWN_AS[*i].compare_exchange(0, thread, Relaxed, Relaxed).is_ok();
    let found = places(thread).find(own).or_else(|| places(thread).find(free));
    let at = found.or_else(|| places(thread).next()).unwrap_or(0);
    KNOWN_NUMBER[at].store(number, Relaxed);
    // Release: pairs with the Acquire in `number_of`.
    KNOWN_AS[at].store(thread, Release);
}

/// The thread's number; 0: not known.
fn number_of(thread: pthread_t) -> u32 {
    // Acquire: pairs with the Release in `remember`.
    let at = places(thread).find(|i| KNOWN_AS[*i].load(Acquire) == thread);
    at.map_or(0, |at| KNOWN_NUMBER[at].load(Relaxed))
}

/// The name that libc has put at `place` for a new thread. That may have ended by now and its
/// memory, with this place, be gone: so the kernel reads it.
fn name_at(place: *const pthread_t) -> Option<pthread_t> {
    let mut name: pthread_t = 0;
    let size = size_of::<pthread_t>();
    let to = libc::iovec { iov_base: (&raw mut name).cast(), iov_len: size };
    let from = libc::iovec { iov_base: place.cast_mut().cast(), iov_len: size };
    let (to, from) = (&raw const to, &raw const from);
    // SAFETY: no arguments, cannot fail.
    let pid = unsafe { raw::system_call(libc::SYS_getpid as usize, [0; 6]) } as usize;
    let arguments = [pid, to.expose_provenance(), 1, from.expose_provenance(), 1, 0];
    // SAFETY: writes into `name` only.
    let read = unsafe { raw::system_call(libc::SYS_process_vm_readv as usize, arguments) };
    (read == size as isize && name != 0).then_some(name)
}

/// Announces a thread that is to run this, by `make`; `None`: it is made as if nobody recorded.
/// Its name is kept here already, where it is one that can be joined: that may be done before it
/// has begun, and the name have been another thread's before.
fn announce(
    name: Option<*const pthread_t>,
    start: *mut c_void,
    argument: *mut c_void,
    make: impl FnOnce(*mut c_void) -> c_int,
) -> Option<c_int> {
    let young = trace::registry::has_session().then(take_young).flatten()?;
    let (number, creator) = block::makes_thread();
    // Read by the new thread, after its creation.
    young.number.store(number, Relaxed);
    young.creator.store(creator, Relaxed);
    young.start.store(start, Relaxed);
    young.argument.store(argument, Relaxed);
    let r = make(std::ptr::from_ref(young).cast_mut().cast());
    if r != 0 {
        young.taken.store(0, Release);
    } else if number != 0
        && let Some(name) = name.and_then(name_at)
    {
        remember(name, number);
    }
    Some(r)
}

/// # Safety
/// - As `pthread_create`.
pub unsafe fn pthread_create(
    thread: *mut pthread_t,
    attr: *const pthread_attr_t,
    start: Start,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise; `run` gets the place that it is made for.
    let make = |young| unsafe { real::pthread_create(thread, attr, run, young) };
    let mut state = libc::PTHREAD_CREATE_JOINABLE;
    if !attr.is_null() {
        // SAFETY: the caller's promise; a place for a number.
        unsafe { pthread_attr_getdetachstate(attr, &raw mut state) };
    }
    let name = (state == libc::PTHREAD_CREATE_JOINABLE).then_some(thread.cast_const());
    announce(name, start as *mut c_void, argument, make).unwrap_or_else(|| {
        // SAFETY: the caller's promise.
        unsafe { real::pthread_create(thread, attr, start, argument) }
    })
}

/// # Safety
/// - As `thrd_create`.
pub(crate) unsafe fn create_c11(
    thread: *mut pthread_t,
    start: Start11,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise; `run_c11` gets the place that it is made for.
    let make = |young| unsafe { real::thrd_create(thread, run_c11, young) };
    let name = Some(thread.cast_const());
    announce(name, start as *mut c_void, argument, make).unwrap_or_else(|| {
        // SAFETY: the caller's promise.
        unsafe { real::thrd_create(thread, start, argument) }
    })
}

/// Says what the kernel counted when the thread ends, by return, `pthread_exit` or cancellation.
struct Ending;

impl Drop for Ending {
    fn drop(&mut self) {
        thread_ends();
    }
}

/// Says what the kernel has counted for the calling thread, which is about to end.
pub fn thread_ends() {
    let Some(m) = trace::registry::mapping() else { return };
    // A child of vfork shares the memory and is no thread of this process.
    if !trace::registry::is_forked_child() && !trace::registry::is_vfork_child(m) {
        block::usage();
    }
}

/// What a new thread runs first.
unsafe extern "C-unwind" fn run(young: *mut c_void) -> *mut c_void {
    // SAFETY: `pthread_create` gave a place of `YOUNG`, which is this thread's until it is freed.
    let (start, argument) = begin(unsafe { &*young.cast::<Young>() });
    let _ending = Ending;
    // SAFETY: stored by `pthread_create` from a function of this type.
    let start = unsafe { std::mem::transmute::<*mut c_void, Start>(start) };
    // SAFETY: what the program asked to be called so.
    unsafe { start(argument) }
}

/// The same for a thread of C11, whose value is a number.
unsafe extern "C-unwind" fn run_c11(young: *mut c_void) -> c_int {
    // SAFETY: `thrd_create` gave a place of `YOUNG`, which is this thread's until it is freed.
    let (start, argument) = begin(unsafe { &*young.cast::<Young>() });
    let _ending = Ending;
    // SAFETY: stored by `thrd_create` from a function of this type.
    let start = unsafe { std::mem::transmute::<*mut c_void, Start11>(start) };
    // SAFETY: what the program asked to be called so.
    unsafe { start(argument) }
}

/// Says that the new thread has begun; gives what it is to run.
fn begin(young: &Young) -> (*mut c_void, *mut c_void) {
    let (number, creator) = (young.number.load(Relaxed), young.creator.load(Relaxed));
    let (start, argument) = (young.start.load(Relaxed), young.argument.load(Relaxed));
    // Release: pairs with the Acquire of whoever takes the place.
    young.taken.store(0, Release);
    block::begins(number, creator, start.addr() as u64);
    if number != 0 {
        // SAFETY: no arguments, cannot fail.
        remember(unsafe { libc::pthread_self() }, number);
    }
    (start, argument)
}

/// A join: the wait's result is the number of the thread that has ended, 0 where it is not known.
pub(crate) fn join(thread: pthread_t, call: impl FnOnce() -> c_int) -> c_int {
    let known = number_of(thread);
    let wait = Waiting::begin(Classes::LOCKS, Op::Join, thread);
    wait.is_for(known.into());
    let r = call();
    let number = if known == 0 { number_of(thread) } else { known };
    wait.end(if r == 0 { number.into() } else { 0 }, r);
    r
}

/// # Safety
/// - As `pthread_join`.
pub unsafe fn pthread_join(thread: pthread_t, value: *mut *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    join(thread, || unsafe { real::pthread_join(thread, value) })
}

/// # Safety
/// - As `pthread_timedjoin_np`.
pub unsafe fn pthread_timedjoin_np(
    thread: pthread_t,
    value: *mut *mut c_void,
    limit: *const timespec,
) -> c_int {
    // SAFETY: the caller's promise.
    join(thread, || unsafe { real::pthread_timedjoin_np(thread, value, limit) })
}

/// # Safety
/// - As `pthread_clockjoin_np`.
pub unsafe fn pthread_clockjoin_np(
    thread: pthread_t,
    value: *mut *mut c_void,
    clock: c_int,
    limit: *const timespec,
) -> c_int {
    // SAFETY: the caller's promise.
    join(thread, || unsafe { real::pthread_clockjoin_np(thread, value, clock, limit) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_name_means_the_younger_thread() {
        assert_eq!(number_of(0x7f00_1234_5640), 0);
        remember(0x7f00_1234_5640, 7);
        assert_eq!(number_of(0x7f00_1234_5640), 7);
        remember(0x7f00_1234_5640, 8);
        assert_eq!(number_of(0x7f00_1234_5640), 8);
        for i in 0..10_000u64 {
            remember(0x7e00_0000_0040 + i * 4096, i as u32 + 100);
            assert_eq!(number_of(0x7e00_0000_0040 + i * 4096), i as u32 + 100);
        }
    }

    #[test]
    fn places_come_back() {
        for _ in 0..3 {
            let taken: Vec<_> = std::iter::from_fn(take_young).collect();
            assert_eq!(taken.len(), YOUNG_MAX);
            assert!(take_young().is_none());
            taken.iter().for_each(|y| y.taken.store(0, Release));
        }
    }
}
