//! All registered threads, the words that say whether to record, and how a thread comes and goes.
//!
//! 1. Registration takes no lock and allocates nothing: any context may emit its first event.
//! 2. Every thread that holds a buffer has a record. Otherwise stop() loses its last events.
//! 3. `ON` is non-zero only between the end of start() and the end of stop(), and only in the
//!    process that started: it stands on a page that a forked child finds zeroed.

use std::ffi::c_void;
use std::path::Path;
use std::path::PathBuf;

pub mod gate;
pub mod local;

use crate::encode::field::Writer;
use crate::encode::schema;
use crate::encode::schema::Cause;
use crate::mapping::Mapping;
use crate::mapping::record;
use crate::mapping::record::Record;
use crate::registry::local::Local;
use crate::sync::AtomicPtr;
use crate::sync::AtomicU32;
use crate::sync::AtomicU64;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;
use crate::sync::Ordering::Release;
use crate::sync::Ordering::SeqCst;
use crate::sys;
use crate::sys::loader;

/// The words that a forked child finds zeroed.
#[derive(Debug)]
pub struct Switch {
    /// Ordinal of the running session; 0: off. Written by the session, read by every event.
    pub on: AtomicU32,
    /// Not 0 in the process that started a session: a child finds 0 here.
    pub canary: AtomicU32,
    /// What the session is doing; see `session`.
    pub state: AtomicU32,
    /// The lock of the session's controller.
    pub lock: AtomicU32,
    /// Whether somebody is inside `read_trace()`.
    pub reading: AtomicU32,
    /// Whether an end was asked for by `request_stop()`.
    pub asked: AtomicU32,
    /// Not 0 where another copy of the recorder owns the recording; see `owner`.
    pub delegated: AtomicU32,
}

/// In place of a session's ordinal: the events belong to the session of the copy that owns the
/// recording. Ordinals are smaller.
pub const DELEGATED: u32 = 1 << 31;

static SWITCH: sys::wipe::Page<Switch> = sys::wipe::Page::new(Switch {
    on: AtomicU32::new(0),
    canary: AtomicU32::new(0),
    state: AtomicU32::new(0),
    lock: AtomicU32::new(0),
    reading: AtomicU32::new(0),
    asked: AtomicU32::new(0),
    delegated: AtomicU32::new(0),
});

/// The mapping and where it was asked for; never freed.
struct Made {
    mapping: Mapping,
    dir: Option<PathBuf>,
}

/// Null until it is made, by start() alone. No `OnceLock`: a child that is forked while another
/// thread makes it would wait for that thread.
static MADE: AtomicPtr<Made> = AtomicPtr::new(std::ptr::null_mut());

fn made() -> Option<&'static Made> {
    // Acquire: pairs with the Release in `prepare`.
    // SAFETY: null, or leaked by `prepare`.
    unsafe { MADE.load(Acquire).as_ref() }
}

/// The words that a forked child finds zeroed.
#[inline(always)]
pub fn switch() -> &'static Switch {
    &SWITCH
}

/// Whether events are recorded now. One relaxed load.
#[inline(always)]
pub fn is_on() -> bool {
    SWITCH.on.load(Relaxed) != 0
}

/// Whether this copy of the recorder has a session now.
#[inline(always)]
pub fn has_session() -> bool {
    SWITCH.on.load(Relaxed).wrapping_sub(1) < DELEGATED - 1
}

/// Whether this guard, or this switch, is of the session of the copy that owns the recording.
#[inline(always)]
pub const fn is_delegated(session: u32) -> bool {
    session & DELEGATED != 0
}

/// The session is over. Where another copy owns the recording, events are its from here on.
pub fn turn_off() {
    // SeqCst: pairs with `delegate`: one of both sees what the other has stored.
    SWITCH.on.store(0, SeqCst);
    if SWITCH.delegated.load(SeqCst) != 0 {
        let _ = SWITCH.on.compare_exchange(0, DELEGATED, SeqCst, Relaxed);
    }
}

/// Another copy owns the recording from here on, while there is no session of this one's own.
/// Allocates nothing, takes no lock. Gives the number of task ids that this copy has given out.
pub fn delegate() -> u64 {
    sys::wipe::wipe_on_fork(&SWITCH);
    if mapping().is_some() && is_forked_child() {
        // Before this copy's own handler of the fork: what the thread holds is the parent's.
        local::with(Local::detach);
    }
    // SeqCst: pairs with `turn_off`.
    SWITCH.delegated.store(1, SeqCst);
    let _ = SWITCH.on.compare_exchange(0, DELEGATED, SeqCst, Relaxed);
    mapping().map_or(0, |m| m.front().tasks.load(Relaxed))
}

/// The mapping, once a session was started.
#[inline]
pub fn mapping() -> Option<&'static Mapping> {
    made().map(|made| &made.mapping)
}

/// What `prepare` found.
#[derive(Debug)]
pub enum Prepare {
    /// The mapping could not be reserved.
    Mapping(std::io::Error),
    /// The mapping exists already, and not as a file in the directory asked for.
    Elsewhere,
}

/// Makes every child that is forked from here on find the words of the switch zeroed. Before the
/// first of them is set: a child of the moment in between would be starting for ever.
pub fn arm() {
    static ARMED: AtomicU32 = AtomicU32::new(0);
    // Two threads may both do it; a second handler does nothing that the first has not done.
    if ARMED.load(Relaxed) == 0 {
        sys::wipe::wipe_on_fork(&SWITCH);
        sys::process::at_fork(loader::before_fork, loader::after_fork, child_after_fork);
        ARMED.store(1, Relaxed);
    }
}

/// Makes the mapping and the hook of the threads' ends, once; renews the mapping in a forked child.
///
/// Called by start() alone, while it holds the session's state.
/// `exits` is called on each registered thread as it ends.
pub fn prepare(
    dir: Option<&Path>,
    exits: extern "C" fn(*mut c_void),
) -> Result<&'static Mapping, Prepare> {
    let m = match made() {
        Some(made) => {
            if dir.is_some() && made.dir.as_deref() != dir {
                return Err(Prepare::Elsewhere);
            }
            if SWITCH.canary.load(Relaxed) == 0 {
                // After a fork without handlers the thread still holds what is replaced here; after
                // one inside an event, that event's end has opened the record of nobody.
                local::with(Local::detach);
                keep_task_ids(&made.mapping);
                match dir {
                    Some(dir) => made.mapping.renew_in(dir),
                    None => made.mapping.renew(),
                }
                .map_err(Prepare::Mapping)?;
                made.mapping.front().tasks.store(TASK_IDS.load(Relaxed), Relaxed);
            }
            &made.mapping
        }
        None => {
            let mapping = Mapping::reserve(dir).map_err(Prepare::Mapping)?;
            sys::thread::exit_key(exits);
            let made = Box::leak(Box::new(Made { mapping, dir: dir.map(Into::into) }));
            // Release: pairs with the Acquire in `made`.
            MADE.store(made, Release);
            &made.mapping
        }
    };
    SWITCH.canary.store(1, Relaxed);
    Ok(m)
}

/// The task ids that the parent of a forked child had given out: some of them are still in the
/// hands of the child's thread, so that its own begin behind them.
static TASK_IDS: AtomicU64 = AtomicU64::new(0);

fn keep_task_ids(m: &Mapping) {
    TASK_IDS.fetch_max(m.front().tasks.load(Relaxed), Relaxed);
}

/// In a forked child: lets go of the parent's pages, so that the tail of an event that the fork
/// interrupted cannot reach them, and is off also where the kernel does not wipe.
extern "C" fn child_after_fork() {
    loader::after_fork_in_child();
    let s = &SWITCH;
    for word in [&s.on, &s.canary, &s.state, &s.lock, &s.reading, &s.asked] {
        word.store(0, Relaxed);
    }
    // The owner's handler may have been first.
    turn_off();
    if let Some(m) = mapping() {
        keep_task_ids(m);
        let _ = m.forsake();
    }
    local::with(|l| {
        l.detach();
        // Also where the recorder's own thread has forked, in the writer: it is the program's here.
        l.set(local::MUTED, false);
    });
}

/// Whether this is a process that was forked from the one that started.
pub fn is_forked_child() -> bool {
    SWITCH.canary.load(Relaxed) == 0
}

/// Whether this is a child that shares the memory of the process that started, as vfork makes it.
pub fn is_vfork_child(m: &Mapping) -> bool {
    m.front().pid.load(Relaxed) != sys::thread::pid_raw()
}

/// Sets a number aside for a thread that is about to be created.
pub fn next_number(m: &Mapping) -> u32 {
    m.front().threads.fetch_add(1, Relaxed) + 1
}

/// Gives the calling thread a record. Takes no lock, allocates nothing; signal-safe.
#[cold]
#[inline(never)]
pub fn register(l: &Local, m: &Mapping, now: u64) -> Result<(), Cause> {
    if l.has(local::REGISTERS) {
        // A handler interrupted the registration of its own thread.
        return Err(Cause::Unregistered);
    }
    l.set(local::REGISTERS, true);
    crate::sync::compiler_fence(crate::sync::Ordering::SeqCst);
    if l.registered() {
        // A handler has done it just before the flag was set.
        l.set(local::REGISTERS, false);
        return Ok(());
    }
    if is_vfork_child(m) {
        // The record would bear the number of a thread that is about to end.
        l.set(local::REGISTERS, false);
        return Err(Cause::Unregistered);
    }
    let taken = m.take_record();
    if let Some((index, r)) = taken {
        fill(l, m, r, now);
        l.set(local::STARTS, true);
        l.attach(index, r, &m.front().gate.0);
        sys::thread::set_exit_value(std::ptr::from_ref(l).cast_mut().cast::<c_void>());
    }
    l.set(local::REGISTERS, false);
    taken.map(drop).ok_or(Cause::Unregistered)
}

fn fill(l: &Local, m: &Mapping, r: &Record, now: u64) {
    let number = match l.number.get() {
        0 => next_number(m),
        set_aside => set_aside,
    };
    l.number.set(number);
    let mut name = [0u8; 16];
    r.set_name(sys::thread::name(&mut name));
    r.thread.store(number, Relaxed);
    r.tid.store(sys::thread::tid(), Relaxed);
    r.creator.store(l.creator.get(), Relaxed);
    r.registered.store(now, Relaxed);
    r.busy.store(0, Relaxed);
    r.slot.store(0, Relaxed);
    r.side_busy.store(0, Relaxed);
    r.side_tail.store(r.side_head.load(Relaxed), Relaxed);
    r.join_session();
    r.reset_loss();
    // Not in the log yet: here nothing keeps the session from ending, and its log with it.
    r.defined.store(0, Relaxed);
    // Release: pairs with the Acquire of the controller, which then reads the rest.
    r.state.store(record::LIVE, Release);
}

/// Puts a thread's definition into the log: inside the section, or while the gate is shut by the
/// caller. Signal-safe.
pub fn define_thread(m: &Mapping, r: &Record, function: &str, entry: u64) {
    let mut name = [0u8; 16];
    let n = r.name(&mut name);
    let name = crate::encode::field::Text { bytes: &name[..n], cut_from: None };
    let function = crate::encode::field::Text {
        bytes: &function.as_bytes()[..function.len().min(256)],
        cut_from: (function.len() > 256).then_some(function.len() as u64),
    };
    let mut bytes = [0u8; 384];
    let mut w = Writer::new(&mut bytes);
    let (thread, tid) = (r.thread.load(Relaxed), r.tid.load(Relaxed));
    let put = schema::Thread::put(
        &mut w,
        thread.into(),
        tid.into(),
        r.creator.load(Relaxed).into(),
        name,
        function,
        entry,
        r.registered.load(Relaxed),
    );
    let len = w.len();
    if put.is_some() {
        let epoch = m.front().epoch.load(Relaxed);
        let _ = crate::tables::define(m, epoch, &bytes[..len]);
    }
}

/// Puts a buffer that was taken out of a slot on the queue, and wakes the controller if it sleeps.
pub fn hand_over(m: &Mapping, taken: Option<gate::Tagged>) {
    let Some((_, buffer)) = taken else { return };
    if m.front().queue.0.push(m, buffer) {
        m.ring();
    }
}

/// Frees the records of threads that have ended since the last session: what they hold and lost is
/// not the next one's. The gate is shut.
pub fn forget_ended(m: &Mapping) {
    m.take_ended(|index, r| {
        if let Some((_, buffer)) = gate::take_slot(&r.slot, u32::MAX) {
            m.push_free(buffer);
        }
        r.thread.store(0, Relaxed);
        // Release: pairs with the Acquire of whoever takes the record.
        r.state.store(record::FREE, Release);
        m.free_record(index);
    });
}

/// All records in use, as the controller sees them.
pub fn live(m: &Mapping) -> impl Iterator<Item = (u32, &Record)> {
    // Acquire: pairs with the Release of registration and of a thread's end.
    m.records().filter(|(_, r)| r.state.load(Acquire) == record::LIVE)
}
