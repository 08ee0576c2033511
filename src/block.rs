//! What hooks of blocking calls say: a wait before it begins and when it is over, a wake, what a
//! descriptor is, threads that are made and processes.
//!
//! A wait is said twice: before it, in words of the thread's record, where whoever looks finds what
//! every thread is waiting for, also after SIGKILL; and when it is over, as one event with the
//! ticks since it began. Nothing here allocates, locks, or changes `errno`; safe in signal
//! handlers, inside events (a wake is then written to the side ring, a wait is not recorded) and in
//! children of vfork.

use std::cell::Cell;

use crate::clock::Clock;
use crate::emit;
use crate::emit::Blocking;
use crate::emit::Emission;
use crate::encode::op::Op;
use crate::encode::op::Step;
use crate::encode::schema::Kind;
use crate::encode::varint;
use crate::registry;
use crate::registry::local;
use crate::registry::local::Local;
use crate::site::Site;
use crate::site::Types;
use crate::sync::Ordering::Relaxed;
use crate::sys;

/// A call that took so long, in nanoseconds, may have slept; a shorter one has not.
pub const SLEPT_NS: u64 = 5_000;

/// Whether something is recorded now, and of this thread.
#[inline]
fn is_on() -> bool {
    registry::has_session() && local::with(|l| !l.has(local::SILENT))
}

/// Nothing that the calling thread does is said here until the guard goes: for what hooks do
/// themselves.
pub fn silent() -> local::Flagged {
    local::flagged(local::SILENT)
}

/// Has who drains the process from outside look at once, who may sleep for long: at something that
/// no event tells it. One system call.
pub fn wake_drain() {
    if let Some(m) = registry::mapping() {
        m.ring();
    }
}

/// A wait that has begun.
#[must_use]
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    op: Op,
    object: u64,
    begun: Blocking,
    /// The stack is captured at its end.
    walks_late: bool,
}

/// Says what the calling thread is about to wait for; `None` while nothing is recorded.
///
/// `walk` says whether to capture the stack: 14 ns for 16 frames, and finding its id.
#[inline]
pub fn begin(op: Op, object: u64, walk: bool) -> Option<Wait> {
    if !is_on() {
        return None;
    }
    let _errno = sys::Errno::save();
    let begun = emit::block(op as u32, object, walk);
    if begun.since != 0 && local::with(|l| !l.has(local::NAMED)) {
        emit::rename();
        count_from_here();
    }
    (begun.since != 0).then_some(Wait { op, object, begun, walks_late: false })
}

/// The same where the call waits for no other thread (a plain file's): its stack is captured as it
/// ends, and only where that is written, so that nobody finds it meanwhile.
#[inline]
pub fn begin_late(op: Op, object: u64, walk: bool) -> Option<Wait> {
    begin(op, object, false).map(|wait| Wait { walks_late: walk, ..wait })
}

impl Wait {
    /// The wait is over, with this result or this `errno`. One event.
    #[inline]
    pub fn end(self, result: u64, error: u32) {
        let _errno = sys::Errno::save();
        let fields = [self.op as u64, self.object, result, error.into()];
        let (stack, epoch) = (Cell::new(self.begun.stack), self.begun.epoch);
        let began = Cell::new(0);
        let since = self.begun.since;
        let over = Over { kind: Kind::Wait, fields, since, began, stack, epoch, ends: true };
        if self.walks_late {
            emit::emit(&LateOver(&over));
        } else {
            emit::emit(&over);
        }
        local::with(|l| {
            account(l, self.op, error, over.began.get());
            // Also where that was lost, or recording has ended meanwhile.
            emit::unblock(l);
        });
    }

    /// Says who has what is waited for, where that is known as the wait begins: what `end` is given
    /// as the result where all goes well. A wait without an end has it in the trace.
    #[inline]
    pub fn is_for(&self, by: u64) {
        local::with(|l| {
            if let Some(r) = l.record() {
                r.block_by.store(by, Relaxed);
            }
        });
    }

    /// The same wait with another object: what a call waited for may be known only at its end.
    pub fn of(self, object: u64) -> Wait {
        Wait { object, ..self }
    }

    /// The same wait, which began earlier, at this time in scaled ticks.
    pub fn since(self, ticks: u64) -> Wait {
        let since = ticks.clamp(1, self.begun.since);
        Wait { begun: Blocking { since, ..self.begun }, ..self }
    }

    /// The wait is over, and was of no interest: nothing is written.
    #[inline]
    pub fn forget(self) {
        local::with(emit::unblock);
    }

    /// How long it has lasted, in scaled ticks.
    pub fn age(&self) -> u64 {
        local::with(emit::now).saturating_sub(self.begun.since)
    }
}

/// Counts a wait of so many ticks, where the thread slept.
fn account(l: &Local, op: Op, error: u32, ticks: u64) {
    let Some(r) = l.record() else { return };
    let at_once = op == Op::FutexWait && error == sys::EAGAIN;
    let slept = op == Op::FutexWait && !at_once;
    if slept || (!at_once && ticks >= Clock::get().rate() / (1_000_000_000 / SLEPT_NS)) {
        r.account.wait(op.sleeps_once(), ticks);
    }
}

/// A call that wakes others, of which the time before it is to be kept.
#[must_use]
#[derive(Clone, Copy, Debug)]
pub struct Wake {
    op: Op,
    object: u64,
    since: u64,
    walk: bool,
}

/// Notes the time before a call that wakes others; `None` while nothing is recorded.
///
/// `walk` says whether the event is to have the stack.
#[inline]
pub fn wake(op: Op, object: u64, walk: bool) -> Option<Wake> {
    is_on().then(|| {
        let since = crate::clock::Clock::get().now().0;
        Wake { op, object, since, walk }
    })
}

impl Wake {
    /// The call has returned and says that it woke so many. One event.
    #[inline]
    pub fn end(self, woken: u64) {
        let _errno = sys::Errno::save();
        let fields = [self.op as u64, self.object, woken];
        emit::emit(&WakeOver { fields, since: self.since, walk: self.walk });
    }
}

/// Ticks from `since` until the event that is being written.
fn ticks_since(l: &Local, since: u64) -> u64 {
    emit::now(l).saturating_sub(since)
}

/// The event of a wait that is over: its stack was captured when it began.
struct Over {
    kind: Kind,
    fields: [u64; 4],
    since: u64,
    began: Cell<u64>,
    stack: Cell<u32>,
    epoch: u32,
    ends: bool,
}

impl Emission for &Over {
    #[inline(always)]
    fn len_max(&self) -> usize {
        6 * varint::LEN_MAX
    }

    #[inline(always)]
    fn kind(&self, l: &Local) -> Option<(u32, usize)> {
        if (l.tag.get() >> 1) as u32 != self.epoch {
            // The tables have begun anew meanwhile.
            self.stack.set(0);
        }
        self.began.set(ticks_since(l, self.since));
        Some((self.kind as u32, 1))
    }

    #[inline(always)]
    unsafe fn put(&self, mut p: *mut u8) -> *mut u8 {
        for v in self.fields {
            // SAFETY: the caller has checked room for all fields.
            p = unsafe { emit::put_varint(p, v) };
        }
        // SAFETY: as above.
        p = unsafe { emit::put_varint(p, self.began.get()) };
        // SAFETY: as above.
        unsafe { emit::put_varint(p, self.stack.get().into()) }
    }

    #[inline(always)]
    fn after(&self, l: &Local) {
        if self.ends {
            emit::unblock(l);
        }
    }

    fn site(&self) -> Option<(&'static Site, Types)> {
        None
    }
}

/// The same of a wait whose stack is captured as it is written.
struct LateOver<'o>(&'o Over);

impl Emission for &LateOver<'_> {
    fn len_max(&self) -> usize {
        self.0.len_max()
    }

    fn kind(&self, _l: &Local) -> Option<(u32, usize)> {
        None
    }

    fn stacked_kind(&self, l: &Local) -> Option<(u32, usize)> {
        self.0.kind(l)
    }

    fn cold_kind(&self, l: &Local) -> Option<(u32, usize)> {
        self.0.kind(l)
    }

    fn wants_stack(&self) -> bool {
        true
    }

    unsafe fn put(&self, mut p: *mut u8) -> *mut u8 {
        for v in self.0.fields {
            // SAFETY: the caller has checked room for all fields.
            p = unsafe { emit::put_varint(p, v) };
        }
        // As in `WakeOver`: the walk has lasted until the event's own time.
        self.0.began.set(local::with(|l| ticks_since(l, self.0.since)));
        // Who captures a stack writes it behind this.
        // SAFETY: as above.
        unsafe { emit::put_varint(p, self.0.began.get()) }
    }

    fn after(&self, l: &Local) {
        self.0.after(l);
    }

    fn site(&self) -> Option<(&'static Site, Types)> {
        None
    }
}

/// The event of a wake; its stack, where it is to have one, is captured as it is written.
struct WakeOver {
    fields: [u64; 3],
    since: u64,
    walk: bool,
}

impl Emission for &WakeOver {
    fn len_max(&self) -> usize {
        5 * varint::LEN_MAX
    }

    fn kind(&self, l: &Local) -> Option<(u32, usize)> {
        if self.walk { None } else { self.cold_kind(l) }
    }

    fn stacked_kind(&self, l: &Local) -> Option<(u32, usize)> {
        self.cold_kind(l)
    }

    fn cold_kind(&self, _l: &Local) -> Option<(u32, usize)> {
        Some((Kind::Wake as u32, 1))
    }

    fn wants_stack(&self) -> bool {
        self.walk
    }

    unsafe fn put(&self, mut p: *mut u8) -> *mut u8 {
        for v in self.fields {
            // SAFETY: the caller has checked room for all fields.
            p = unsafe { emit::put_varint(p, v) };
        }
        // Here, when the event's own time has been read: the stack, which is captured before that,
        // takes microseconds where it is new, by which the call would seem to have begun later
        // than those it woke were on their way.
        let began = local::with(|l| ticks_since(l, self.since));
        // SAFETY: as above.
        p = unsafe { emit::put_varint(p, began) };
        // Who captures a stack writes it behind this.
        // SAFETY: as above.
        if self.walk { p } else { unsafe { emit::put_varint(p, 0) } }
    }

    fn after(&self, _l: &Local) {}

    fn site(&self) -> Option<(&'static Site, Types)> {
        None
    }
}

/// Longest text of the events below; a longer one is cut and says so.
const TEXT_MAX: usize = 512;

/// An event with numbers and a text.
struct Told<'t, const N: usize> {
    kind: Kind,
    fields: [u64; N],
    text: &'t [u8],
}

impl<const N: usize> Emission for &Told<'_, N> {
    fn len_max(&self) -> usize {
        (N + 2) * varint::LEN_MAX + self.text.len().min(TEXT_MAX)
    }

    fn kind(&self, _l: &Local) -> Option<(u32, usize)> {
        Some((self.kind as u32, 1))
    }

    unsafe fn put(&self, mut p: *mut u8) -> *mut u8 {
        for v in self.fields {
            // SAFETY: the caller has checked room for all fields.
            p = unsafe { emit::put_varint(p, v) };
        }
        let len = self.text.len().min(TEXT_MAX);
        let cut = len < self.text.len();
        // SAFETY: as above.
        p = unsafe { emit::put_varint(p, (len as u64) << 1 | u64::from(cut)) };
        // SAFETY: as above; the text does not stand in the buffer.
        unsafe { std::ptr::copy_nonoverlapping(self.text.as_ptr(), p, len) };
        // SAFETY: as above.
        p = unsafe { p.add(len) };
        match cut {
            // SAFETY: as above.
            true => unsafe { emit::put_varint(p, self.text.len() as u64) },
            false => p,
        }
    }

    fn after(&self, _l: &Local) {}

    fn site(&self) -> Option<(&'static Site, Types)> {
        None
    }
}

/// Says what a descriptor is from here on.
pub fn descriptor(fd: u64, text: &[u8]) {
    if is_on() {
        let _errno = sys::Errno::save();
        emit::emit(&Told { kind: Kind::Descriptor, fields: [fd], text });
    }
}

/// Says what becomes of a process.
pub fn process(step: Step, pid: u32, text: &[u8]) {
    if is_on() {
        let _errno = sys::Errno::save();
        emit::emit(&Told { kind: Kind::Process, fields: [step as u64, pid.into()], text });
    }
}

/// Says what the kernel has counted for the calling thread, and its name where that is new. Two
/// system calls.
pub fn usage() {
    if !is_on() {
        return;
    }
    let _errno = sys::Errno::save();
    emit::rename();
    if let Some(u) = sys::thread::usage() {
        let fields = [u.voluntary, u.involuntary, u.user_ns, u.system_ns];
        emit::emit(emit::Plain { kind: Kind::Usage, fields });
        local::with(|l| {
            if let Some(r) = l.record() {
                r.account.end(emit::now(l), [u.voluntary, u.faults]);
            }
        });
    }
}

/// Switches of the calling thread count from here on, if they did not yet. One system call.
fn count_from_here() {
    local::with(|l| {
        if let Some(r) = l.record().filter(|r| !r.account.has_begun())
            && let Some(u) = sys::thread::usage()
        {
            r.account.begin([u.voluntary, u.faults]);
        }
    });
}

/// Says that the calling thread makes another one. Gives the number that was set aside for it and
/// the caller's own, for [`begins`] on the new thread; 0 while nothing is recorded.
pub fn makes_thread() -> (u32, u32) {
    let _errno = sys::Errno::save();
    crate::annotate::thread::announce_creation()
}

/// Says on a new thread, before it does anything, who made it and which function it runs.
pub fn begins(number: u32, creator: u32, entry: u64) {
    let _errno = sys::Errno::save();
    local::with(|l| {
        if number != 0 && !l.registered() {
            l.number.set(number);
            l.creator.set(creator);
        }
        l.entry.set(entry);
    });
    if registry::has_session() {
        emit::announce();
        count_from_here();
    }
}

/// Whether the calling thread is known to the recorder; one load.
pub fn is_known() -> bool {
    local::with(|l| l.record().is_some_and(|r| r.thread.load(Relaxed) != 0))
}
