//! Calls that may block on files, sockets, time and processes, one by one in the table `each_call`:
//! how each is recorded, and the hooks made from the table.
//!
//! A call that came back at once did not sleep and is of no interest (`short`), unless it may have
//! released somebody: what is written to a pipe, an eventfd or a socket is an event in any case
//! (`writes`). Sleeps always are (`long`). What moves bytes to or from a plain file (`moves`, and
//! `writes` too) waits for the kernel alone: its stack is captured as it ends, where it slept. Any
//! other call may be one that never ends, of which the stack is to be known.

use std::ffi::c_int;
use std::ffi::c_short;

use trace::encode::op::Object;
use trace::encode::op::Op;

use crate::descriptors;
use crate::raw;
use crate::real;
use crate::settings;
use crate::settings::Classes;
use crate::waiting::Waiting;

/// What a call of libc returns: -1 is a failure, which `errno` names.
pub(crate) trait Returned: Copy {
    /// As a number.
    fn number(self) -> i64;
}

impl Returned for c_int {
    fn number(self) -> i64 {
        self.into()
    }
}

impl Returned for isize {
    fn number(self) -> i64 {
        self as i64
    }
}

/// A descriptor as an object.
pub(crate) fn fd(fd: c_int) -> u64 {
    fd.max(0) as u64
}

/// A process as an object; 0: any.
fn process(pid: libc::pid_t) -> u64 {
    pid.max(0) as u64
}

/// A length of time as an object.
///
/// # Safety
/// - `time` is null or can be read, as the call wants it.
pub(crate) unsafe fn nanos(time: *const libc::timespec) -> u64 {
    // SAFETY: the caller's promise.
    let time = unsafe { time.as_ref() };
    time.map_or(0, |t| (t.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(t.tv_nsec as u64))
}

/// Says how the wait ended; `always`, or where the thread slept.
#[inline]
fn over(wait: Waiting, op: Op, object: u64, r: i64, always: bool) {
    if !wait.is_kept(always) {
        return wait.forget();
    }
    if op.object() == Object::Descriptor {
        descriptors::describe(object);
    }
    if r < 0 { wait.end(0, raw::errno()) } else { wait.end(r as u64, 0) }
}

#[inline(always)]
pub(crate) fn short<R: Returned>(
    class: Classes,
    op: Op,
    object: u64,
    call: impl FnOnce() -> R,
) -> R {
    if !settings::wants(class) {
        return call();
    }
    let wait = Waiting::begin(class, op, object);
    let r = call();
    over(wait, op, object, r.number(), false);
    r
}

/// A wait that begins, of a call that moves bytes to or from what is plain, or may block.
#[inline(always)]
fn begin_to_move(class: Classes, op: Op, fd: u64, is_plain: impl Fn(u64) -> bool) -> Waiting {
    // What is copied may come from a pipe.
    match op != Op::Copy && is_plain(fd) {
        true => Waiting::begin_late(class, op, fd),
        false => Waiting::begin(class, op, fd),
    }
}

#[inline(always)]
fn moves<R: Returned>(class: Classes, op: Op, object: u64, call: impl FnOnce() -> R) -> R {
    if !settings::wants(class) {
        return call();
    }
    let wait = begin_to_move(class, op, object, descriptors::is_plain_so_far);
    let r = call();
    over(wait, op, object, r.number(), false);
    r
}

#[inline(always)]
fn long<R: Returned>(class: Classes, op: Op, object: u64, call: impl FnOnce() -> R) -> R {
    if !settings::wants(class) {
        return call();
    }
    let wait = Waiting::begin(class, op, object);
    let r = call();
    over(wait, op, object, r.number(), true);
    r
}

#[inline(always)]
pub(crate) fn writes<R: Returned>(
    class: Classes,
    op: Op,
    object: u64,
    call: impl FnOnce() -> R,
) -> R {
    if !settings::wants(class) {
        return call();
    }
    let wait = begin_to_move(class, op, object, descriptors::is_plain);
    let r = call();
    let released = r.number() > 0 && wait.is_on() && descriptors::releases(object);
    over(wait, op, object, r.number(), released);
    r
}

/// What a call looks at that waits for one of several descriptors.
#[derive(Clone, Copy, Debug)]
enum Polled {
    /// A list, and its length.
    List(*const pollfd, nfds_t),
    /// Those to be read of so many, a bit each, in words of the machine; may be null.
    Set(*const fd_set, c_int),
}

/// What `poll` says of a descriptor that can be read, or is at its end.
const CAN_BE_READ: c_short = libc::POLLIN
    | libc::POLLPRI
    | libc::POLLRDNORM
    | libc::POLLRDBAND
    | libc::POLLRDHUP
    | libc::POLLHUP
    | libc::POLLERR;

impl Polled {
    /// The first descriptor that can be read, or is at its end. To the kernel it is all one how
    /// the program has aligned what it passes.
    ///
    /// # Safety
    /// - The call has written its answers, and found some.
    unsafe fn ready(self) -> Option<u64> {
        match self {
            Polled::List(list, n) => {
                // SAFETY: the caller's promise.
                let one = |i| unsafe { list.wrapping_add(i).read_unaligned() };
                let ready = (0..n as usize).map(one).find(|p| p.revents & CAN_BE_READ != 0);
                ready.and_then(|p| u64::try_from(p.fd).ok())
            }
            Polled::Set(set, n) => {
                let words = set.cast::<usize>();
                let bits = usize::BITS as usize;
                // SAFETY: the caller's promise.
                let word = |at| unsafe { words.wrapping_add(at).read_unaligned() };
                let n = if set.is_null() { 0 } else { usize::try_from(n).unwrap_or(0) };
                (0..n).find(|i| word(i / bits) >> (i % bits) & 1 != 0).map(|i| i as u64)
            }
        }
    }
}

/// A wait for one of several descriptors: its object is the one that was ready.
#[inline(always)]
fn polls(class: Classes, op: Op, polled: Polled, call: impl FnOnce() -> c_int) -> c_int {
    if !settings::wants(class) {
        return call();
    }
    let wait = Waiting::begin(class, op, 0);
    let r = call();
    if r > 0 && wait.is_kept(false) {
        // SAFETY: so the call has said.
        if let Some(fd) = unsafe { polled.ready() } {
            descriptors::describe(fd);
            wait.of(fd + 1).end(r as u64, 0);
            return r;
        }
    }
    over(wait, op, 0, r.number(), false);
    r
}

macro_rules! define_calls { ($(
    $name:ident: $class:ident $op:ident $how:ident($object:expr)
    fn($($arg:ident: $type:ty),* $(,)?) -> $result:ty;
)*) => { $(
    /// # Safety
    /// - As the function of this name.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn $name($($arg: $type),*) -> $result {
        #[allow(unused_unsafe)]
        // SAFETY: the caller's promise, for objects that are read from memory.
        let object = unsafe { $object };
        // SAFETY: the caller's promise.
        $how(Classes::$class, Op::$op, object, || unsafe { real::$name($($arg),*) })
    }
)* } }

#[allow(clippy::wildcard_imports)] // The signatures' types.
use crate::c::*;
each_call!(define_calls);

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(polled: Polled) -> Option<u64> {
        // SAFETY: what the tests pass is there, as long as they say.
        unsafe { polled.ready() }
    }

    #[test]
    fn the_ready_descriptor_is_the_first_that_can_be_read() {
        let one = |fd, revents| pollfd { fd, events: 0, revents };
        let written = libc::POLLOUT | libc::POLLWRNORM | libc::POLLWRBAND;
        let list = [one(-1, 0), one(3, 0), one(4, written), one(5, libc::POLLNVAL)];
        assert_eq!(ready(Polled::List(list.as_ptr(), 4)), None);
        for can in [libc::POLLIN, libc::POLLHUP, libc::POLLERR | libc::POLLOUT, libc::POLLRDNORM] {
            let list = [list[2], one(0, can), one(7, libc::POLLIN)];
            assert_eq!(ready(Polled::List(list.as_ptr(), 3)), Some(0), "{can}");
        }
        assert_eq!(ready(Polled::List(std::ptr::null(), 0)), None);
    }

    #[test]
    fn sets_are_looked_at_up_to_their_length_however_they_are_aligned() {
        let mut bytes = [0u8; 129];
        let set = bytes[1..].as_mut_ptr();
        // SAFETY: within the array: the bit 70.
        unsafe { *set.wrapping_add(70 / 8) = 1 << (70 % 8) };
        let of = |n| ready(Polled::Set(set.cast_const().cast(), n));
        assert_eq!(
            (of(1024), of(71), of(70), of(0), of(-1)),
            (Some(70), Some(70), None, None, None)
        );
        assert_eq!(ready(Polled::Set(std::ptr::null(), 1024)), None);
    }
}
