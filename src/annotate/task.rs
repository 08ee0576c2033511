//! Tasks: logical operations that may begin and end on different threads.

use std::marker::PhantomData;

use crate::annotate::value::Ready;
use crate::annotate::value::TaskId;
use crate::annotate::value::Values;
use crate::emit;
use crate::emit::Emission;
use crate::emit::Hand;
use crate::emit::Outcome;
use crate::encode::schema::Cause;
use crate::encode::schema::Kind;
use crate::encode::varint;
use crate::mapping::LiveTask;
use crate::mapping::TASKS_MAX;
use crate::owner;
use crate::owner::Answer;
use crate::registry;
use crate::registry::local;
use crate::registry::local::Local;
use crate::site::Site;
use crate::site::Types;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;
use crate::sync::Ordering::Release;

/// A logical operation: begun by [`task!`](crate::task!), ended by [`end`](Task::end) or by being
/// dropped, on any thread. Its latency is the time between.
///
/// Work for it on a thread by [`enter`](Task::enter), or name it in `span!(task: t, ..)` and
/// `log!(task: t, ..)`.
#[must_use = "a task ends when it is dropped"]
#[derive(Debug)]
pub struct Task {
    id: u64,
    /// Ordinal of the session; 0: is not recorded.
    session: u32,
}

/// Task ids are handed to threads in blocks, so that threads do not share a counter.
const BLOCK: u64 = 64;

impl Task {
    /// The task of a place that is not recorded now. Its id is 0.
    pub const OFF: Task = Task { id: 0, session: 0 };

    /// Its id: unique in the session, never 0 while it is recorded, 0 otherwise.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Makes this the calling thread's current task until the guard is dropped: spans, logs and
    /// other events of the thread belong to it meanwhile. Without effect in a signal handler that
    /// has interrupted an event, which keeps its own task.
    pub fn enter(&self) -> Entered<'_> {
        self.enter_told().0
    }

    /// The same, and what became of the event: for tests that account for every event.
    #[doc(hidden)]
    pub fn enter_told(&self) -> (Entered<'_>, Outcome) {
        let off = Entered { before: 0, session: 0, _life: PhantomData };
        if registry::is_delegated(self.session) {
            return self.enter_at_owner();
        }
        let inside = local::with(|l| l.registered() && l.busy().load(Relaxed) != 0);
        if self.session == 0 || !registry::is_on() || inside {
            return (off, Outcome::Off);
        }
        let before = local::with(|l| emit::standing(l).2);
        let outcome = emit::emit(Switch { task: self.id, session: self.session });
        let entered = match outcome {
            // Lost: the thread works for it all the same, and its next buffer says so.
            Outcome::Recorded | Outcome::Lost(_) => {
                Entered { before, session: self.session, _life: PhantomData }
            }
            _ => off,
        };
        (entered, outcome)
    }

    /// A task of another copy's.
    pub(crate) fn from_parts(session: u32, id: u64) -> Task {
        Task { id, session }
    }

    /// Makes it the current one of the owner's.
    #[cold]
    fn enter_at_owner(&self) -> (Entered<'_>, Outcome) {
        let before = owner::table().map_or(0, |to| (to.task_now)());
        let outcome = emit::emit(Switch { task: self.id, session: self.session });
        let session = match outcome {
            Outcome::Recorded | Outcome::Lost(_) => self.session,
            _ => 0,
        };
        (Entered { before, session, _life: PhantomData }, outcome)
    }

    /// Ends it. The same as dropping it.
    pub fn end(self) {}

    /// Ends it and says what became of the event.
    #[doc(hidden)]
    pub fn end_told(self) -> Outcome {
        std::mem::ManuallyDrop::new(self).end_now()
    }

    fn end_now(&self) -> Outcome {
        match self.session != 0 && registry::is_on() {
            true => emit::emit(End { task: self.id, session: self.session }),
            false => Outcome::Off,
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.end_now();
    }
}

/// Begins a task with these fields. The switch was seen on.
#[doc(hidden)]
pub fn begin_task<V: Values>(site: &'static Site, parent: Option<u64>, values: V) -> Task {
    begin_task_told(site, parent, values).0
}

/// The same, and what became of the event: for tests that account for every event.
#[doc(hidden)]
#[inline(always)]
pub fn begin_task_told<V: Values>(
    site: &'static Site,
    parent: Option<u64>,
    values: V,
) -> (Task, Outcome) {
    let Some(id) = next_id() else { return (Task::OFF, Outcome::Off) };
    let given = parent;
    let parent = parent.unwrap_or_else(|| local::with(|l| emit::standing(l).2));
    let values = (TaskId(id), TaskId(parent), values);
    commit_table();
    let outcome = emit::emit(Begin { site, values, id, parent, given });
    let task = match outcome {
        Outcome::Off => Task::OFF,
        Outcome::Delegated => Task { id, session: owner::table().map_or(0, owner::session) },
        _ => Task { id, session: local::with(|l| l.session.get()) },
    };
    (task, outcome)
}

/// The id of the calling thread's current task; 0 without one.
pub fn current_task() -> u64 {
    match owner::table().filter(|_| owner::alone(None)) {
        Some(to) => (to.task_now)(),
        None => local::with(|l| emit::standing(l).2),
    }
}

/// The first of a block of ids. All copies of the recorder in the process have theirs from one
/// counter, where there is an owner.
#[cold]
pub(crate) fn ids(count: u64) -> Option<u64> {
    let counter = registry::mapping().map(|m| &m.front().tasks);
    if let Some(to) = owner::table() {
        let first = (to.task_ids)(count);
        if first != 0 {
            // Tells how far the table of live tasks is in use.
            let _ = counter.map(|counter| counter.fetch_max(first + count, Relaxed));
            return Some(first);
        }
    }
    Some(counter?.fetch_add(count, Relaxed) + 1)
}

/// Begins a task of another copy's, with an id and a parent of its own.
pub(crate) fn begin_with<V: Values>(site: &'static Site, v: V, id: u64, parent: u64) -> Outcome {
    let values = (TaskId(id), TaskId(parent), v);
    commit_table();
    emit::emit(Begin { site, values, id, parent, given: Some(parent) })
}

/// Changes the current task in this session.
pub(crate) fn switch(session: u32, task: u64) -> Outcome {
    match registry::has_session() {
        true => emit::emit(Switch { task, session }),
        false => Outcome::Off,
    }
}

fn next_id() -> Option<u64> {
    local::with(|l| {
        // fetch_add, so that a handler that begins a task here cannot get the same id.
        let id = l.task_next.fetch_add(1, Relaxed);
        if id != 0 && id < l.task_end.load(Relaxed) {
            return Some(id);
        }
        let block = ids(BLOCK)?;
        l.task_next.store(block + 1, Relaxed);
        // The end last: a handler that saw it beside the old next one would take ids of others.
        crate::sync::compiler_fence(crate::sync::Ordering::SeqCst);
        l.task_end.store(block + BLOCK, Relaxed);
        Some(block)
    })
}

/// Makes a task the current one of a thread while it lives.
#[must_use = "the task is the thread's current one until this guard is dropped"]
#[derive(Debug)]
pub struct Entered<'a> {
    before: u64,
    session: u32,
    /// Belongs to its thread, and keeps the task from ending meanwhile.
    _life: PhantomData<(&'a Task, *const ())>,
}

impl Entered<'_> {
    /// Leaves the task and says which one was entered again and what became of the event.
    #[doc(hidden)]
    pub fn leave_told(self) -> (u64, Outcome) {
        let entered = std::mem::ManuallyDrop::new(self);
        (entered.before, entered.leave())
    }

    fn leave(&self) -> Outcome {
        match self.session != 0 && registry::is_on() {
            true => emit::emit(Switch { task: self.before, session: self.session }),
            false => Outcome::Off,
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The event that begins a task.
#[derive(Clone, Copy)]
struct Begin<V> {
    site: &'static Site,
    values: (TaskId, TaskId, V),
    id: u64,
    parent: u64,
    /// The parent that the program has named.
    given: Option<u64>,
}

impl<V: Values> Emission for Begin<V> {
    fn len_max(&self) -> usize {
        2 * varint::LEN_MAX + self.values.2.len_max()
    }

    fn kind(&self, l: &Local) -> Option<(u32, usize)> {
        self.site.plain_kind(l.tag.get())
    }

    unsafe fn put(&self, p: *mut u8) -> *mut u8 {
        // SAFETY: the caller has checked room for all of them.
        let p = unsafe { self.values.0.put(p) };
        // SAFETY: as above.
        let p = unsafe { self.values.1.put(p) };
        // SAFETY: as above.
        unsafe { self.values.2.put(p) }
    }

    fn after(&self, l: &Local) {
        let kind = self.site.word();
        if !keep(self.id, self.parent, kind)
            && let Some(r) = l.record()
        {
            r.lose(Cause::TaskTable);
        }
    }

    fn site(&self) -> Option<(&'static Site, Types)> {
        Some((self.site, self.values.2.types_of_task()))
    }

    fn from(&self) -> usize {
        self.values.2.from()
    }

    fn hand(&self, _l: &Local, by: &Hand) -> Option<Outcome> {
        let own = &Own(self.values.2);
        Some(begin_at_owner(by, self.site, self.values.2.types_of_task(), own, self.id, self.given))
    }
}

/// The fields of a task that are the program's own.
#[derive(Clone, Copy)]
struct Own<V>(V);

impl<V: Values> Emission for Own<V> {
    fn len_max(&self) -> usize {
        self.0.len_max()
    }

    fn kind(&self, _l: &Local) -> Option<(u32, usize)> {
        None
    }

    // SAFETY of callers: as `Emission::put` says.
    unsafe fn put(&self, p: *mut u8) -> *mut u8 {
        // SAFETY: the caller's duty is the same.
        unsafe { self.0.put(p) }
    }

    fn after(&self, _l: &Local) {}

    fn site(&self) -> Option<(&'static Site, Types)> {
        None
    }
}

/// Begins a task at the owner. Without a session of this copy's own the owner knows the parent.
#[cold]
fn begin_at_owner(
    by: &Hand,
    site: &'static Site,
    types: Types,
    own: &dyn Emission,
    id: u64,
    parent: Option<u64>,
) -> Outcome {
    let Some(site) = owner::site(by.to, site, types) else {
        return Outcome::Lost(Cause::SiteTable);
    };
    let event = emit::event(&own, by.sp);
    let parent = parent.unwrap_or_else(|| (by.to.task_now)());
    // SAFETY: the owner's own name for the site; the event is good until the call returns.
    let answer = Answer::from_word(unsafe { (by.to.task_begin)(site, &event, id, parent) });
    match (emit::told(answer), by.own) {
        (Outcome::Off, _) => Outcome::Off,
        (_, None) => Outcome::Delegated,
        (done, _) => done,
    }
}

/// Has the table of live tasks there, outside the section. Where there is no memory for it, each
/// task counts as lost to it.
#[inline]
fn commit_table() {
    if let Some(m) = registry::mapping() {
        let _ = m.commit_tasks();
    }
}

/// Entries that are tried for a task.
const TRIES: u64 = 16;

fn entries(id: u64) -> impl Iterator<Item = &'static LiveTask> {
    let tasks = registry::mapping().map(|m| m.tasks()).unwrap_or_default();
    (0..TRIES).filter_map(move |i| tasks.get(((id + i * BLOCK) % u64::from(TASKS_MAX)) as usize))
}

/// Puts a task into the table of live ones.
fn keep(id: u64, parent: u64, kind: u64) -> bool {
    for t in entries(id) {
        // Acquire: pairs with the Release of the entry's last holder.
        if t.id.compare_exchange(0, id, Acquire, Relaxed).is_ok() {
            t.parent.store(parent, Relaxed);
            t.kind.store(kind, Relaxed);
            t.begun.store(crate::clock::Clock::get().now().0, Relaxed);
            return true;
        }
    }
    false
}

fn forget(id: u64) {
    if let Some(t) = entries(id).find(|t| t.id.load(Relaxed) == id) {
        // Release: pairs with the Acquire of the entry's next holder.
        t.id.store(0, Release);
    }
}

macro_rules! task_event {
    ($(#[doc = $doc:literal])* $name:ident, $kind:ident, $at_owner:ident,
        |$e:ident, $l:ident| $after:expr) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy)]
        struct $name {
            task: u64,
            session: u32,
        }

        impl Emission for $name {
            fn len_max(&self) -> usize {
                varint::LEN_MAX
            }

            fn kind(&self, l: &Local) -> Option<(u32, usize)> {
                (l.session.get() == self.session).then_some((Kind::$kind as u32, 1))
            }

            unsafe fn put(&self, p: *mut u8) -> *mut u8 {
                // SAFETY: the caller has checked room for a varint.
                unsafe { emit::put_varint(p, self.task) }
            }

            fn after(&self, $l: &Local) {
                let $e = self;
                $after
            }

            fn site(&self) -> Option<(&'static Site, Types)> {
                None
            }

            fn changes(&self) -> Option<u32> {
                Some(self.session)
            }

            fn is_stale(&self, l: &Local) -> bool {
                l.session.get() != self.session
            }

            fn hand(&self, _l: &Local, by: &Hand) -> Option<Outcome> {
                let own = self.session & !registry::DELEGATED;
                let session = if by.own.is_none() { own } else { by.session() };
                Some(emit::told(Answer::from_word((by.to.$at_owner)(session, self.task))))
            }
        }
    };
}

task_event!(
    /// The event that ends a task.
    End, TaskEnd, task_end, |e, _l| forget(e.task)
);
task_event!(
    /// The event that changes a thread's current task.
    Switch, TaskSwitch, task_switch, |e, l| if let Some(r) = l.record() {
        r.task.store(e.task, Relaxed);
    }
);
