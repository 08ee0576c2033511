//! Tasks from their beginning to their end, and the threads that worked for them.
//!
//! 1. The *latency* of a task is the time from its `TaskBegin` to its `TaskEnd`, on whatever
//!    threads these are. Time *entered* is the time in which a thread had it as its current task;
//!    of two threads at once it counts twice.
//! 2. At most [`LIVE_MAX`] tasks are followed at one moment, and [`RUNS_MAX`] threads of a task are
//!    known one by one. What is beyond is counted.
//! 3. A task is held from the first event that names it to its end, and no longer.

use std::collections::HashMap;

use trace::encode::schema::Class;
use trace::encode::schema::TaskState;
use trace_decode::Event;
use trace_decode::Session;
use trace_decode::Timed;
use trace_decode::Value;

use crate::names::NameId;
use crate::names::Names;

/// Most tasks that are followed at one moment. 1,048,576: some 100 MiB.
pub const LIVE_MAX: usize = 1 << 20;

/// Most threads of a task that are known one by one.
pub const RUNS_MAX: usize = 64;

/// What a thread did for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The thread.
    pub thread: u32,
    /// When the task was first its current one.
    pub first_ns: u64,
    /// How long the task was its current one, in all.
    pub entered_ns: u64,
    /// How often it became the current one.
    pub times: u64,
}

/// A task that has ended, or that was alive when its session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its id in the session.
    pub id: u64,
    /// Its name.
    pub name: NameId,
    /// The task that it was begun for; 0 where there is none, or it is not known.
    pub parent: u64,
    /// When it began, since the session's start; `None` where that is not in the trace.
    pub began_ns: Option<u64>,
    /// The thread that began it; 0 where that is not in the trace.
    pub began_on: u32,
    /// When it ended; `None` where it did not.
    pub ended_ns: Option<u64>,
    /// The thread that ended it; 0 where it did not end.
    pub ended_on: u32,
    /// How long it was the current task of threads, in all.
    pub entered_ns: u64,
    /// The threads that had it as their current task, the first first. Empty where they were not
    /// asked for.
    pub runs: Vec<Run>,
    /// Time entered on threads beyond [`RUNS_MAX`].
    pub other_ns: u64,
}

impl Task {
    /// From its beginning to its end; `None` where one of them is not known.
    pub fn latency_ns(&self) -> Option<u64> {
        Some(self.ended_ns?.saturating_sub(self.began_ns?))
    }
}

/// What a thread works for.
#[derive(Clone, Copy, Debug)]
struct Current {
    task: u64,
    since_ns: u64,
}

/// A task that has not ended.
#[derive(Debug)]
struct Live {
    task: Task,
    /// Threads that have it as their current task.
    inside: u32,
}

/// Follows the tasks of a trace.
#[derive(Debug)]
pub struct Tasks {
    /// The names that tasks have.
    pub names: Names,
    keeps_runs: bool,
    live_max: usize,
    live: HashMap<u64, Live>,
    current: HashMap<u32, Current>,
    beyond: u64,
    ends_unknown: u64,
}

impl Default for Tasks {
    fn default() -> Self {
        Tasks::new()
    }
}

impl Tasks {
    /// Without the threads of each task.
    pub fn new() -> Tasks {
        Tasks {
            names: Names::default(),
            keeps_runs: false,
            live_max: LIVE_MAX,
            live: HashMap::new(),
            current: HashMap::new(),
            beyond: 0,
            ends_unknown: 0,
        }
    }

    /// With the threads of each task.
    pub fn with_runs() -> Tasks {
        Tasks { keeps_runs: true, ..Tasks::new() }
    }

    /// The same, following fewer tasks at one moment than [`LIVE_MAX`].
    pub fn at_most(self, live_max: usize) -> Tasks {
        Tasks { live_max: live_max.min(LIVE_MAX), ..self }
    }

    /// Tasks that began while as many as are followed were alive.
    pub fn beyond(&self) -> u64 {
        self.beyond
    }

    /// Ends of tasks of which nothing else is in the trace.
    pub fn ends_unknown(&self) -> u64 {
        self.ends_unknown
    }

    /// A session begins.
    pub fn begin_session(&mut self) {
        self.names.begin_session();
        self.live.clear();
        self.current.clear();
    }

    /// Takes in an event, and tells of a task that ends with it.
    #[inline]
    pub fn event(&mut self, event: &Timed<'_>, each: &mut impl FnMut(&Names, Task)) {
        match event.event() {
            Event::Site(site) if site.site.class() == Some(Class::Task) => {
                let name = self.names.of_site(event.tables(), site.site);
                let mut fields = site.fields();
                let (Some((_, Value::Task(id @ 1..))), Some((_, Value::Task(parent)))) =
                    (fields.next(), fields.next())
                else {
                    return;
                };
                match self.known(id) {
                    Some(Live { task, .. }) => {
                        (task.name, task.parent) = (name, parent);
                        (task.began_ns, task.began_on) = (Some(event.ts_ns), event.thread);
                    }
                    None => self.beyond += 1,
                }
            }
            Event::TaskSwitch(switch) => self.switch(event, switch.task),
            Event::State(state) => self.switch(event, state.task),
            Event::TaskEnd(end) => {
                self.leave_all(end.task, event.ts_ns);
                match self.live.remove(&end.task) {
                    Some(Live { mut task, .. }) => {
                        (task.ended_ns, task.ended_on) = (Some(event.ts_ns), event.thread);
                        each(&self.names, task);
                    }
                    None => self.ends_unknown += 1,
                }
            }
            Event::ThreadEnd(_) => {
                if let Some(current) = self.current.remove(&event.thread) {
                    self.left(event.thread, current, event.ts_ns);
                }
            }
            _ => {}
        }
    }

    /// Takes in a task that was alive when a snapshot was taken.
    pub fn state(&mut self, session: &Session, state: &TaskState<'_>) {
        let (began_ns, parent) = (session.clock().ns(state.begun), state.parent);
        let name = match session.epochs().filter(|t| t.site(state.kind).is_some()).last() {
            Some(tables) => self.names.of_kind(tables, state.kind),
            None => NameId::UNKNOWN,
        };
        match self.known(state.task) {
            Some(Live { task, .. }) if task.began_ns.is_none() => {
                (task.name, task.parent, task.began_ns) = (name, parent, Some(began_ns));
            }
            Some(_) => {}
            None => self.beyond += 1,
        }
    }

    /// The session has ended: tells of the tasks that are alive, in the order of their ids.
    pub fn end_session(&mut self, at_ns: u64, each: &mut impl FnMut(&Names, Task)) {
        for (thread, current) in std::mem::take(&mut self.current) {
            self.left(thread, current, at_ns);
        }
        let live = std::mem::take(&mut self.live).into_values();
        let mut left: Vec<Task> = live.map(|live| live.task).collect();
        left.sort_unstable_by_key(|task| task.id);
        left.into_iter().for_each(|task| each(&self.names, task));
    }

    /// The task with this id, which is followed from here on where it was not.
    fn known(&mut self, id: u64) -> Option<&mut Live> {
        if self.live.len() >= self.live_max && !self.live.contains_key(&id) {
            return None;
        }
        let task = Task {
            id,
            name: NameId::UNKNOWN,
            parent: 0,
            began_ns: None,
            began_on: 0,
            ended_ns: None,
            ended_on: 0,
            entered_ns: 0,
            runs: Vec::new(),
            other_ns: 0,
        };
        Some(self.live.entry(id).or_insert(Live { task, inside: 0 }))
    }

    fn switch(&mut self, event: &Timed<'_>, task: u64) {
        let thread = event.thread;
        let before = self.current.get(&thread).copied();
        if before.is_some_and(|c| c.task == task) || (before.is_none() && task == 0) {
            return;
        }
        if let Some(current) = before {
            self.left(thread, current, event.ts_ns);
        }
        if task == 0 {
            self.current.remove(&thread);
            return;
        }
        self.current.insert(thread, Current { task, since_ns: event.ts_ns });
        let keeps_runs = self.keeps_runs;
        let Some(live) = self.known(task) else { return };
        live.inside += 1;
        let runs = &mut live.task.runs;
        if let Some(run) = runs.iter_mut().find(|run| run.thread == thread) {
            run.times += 1;
        } else if keeps_runs && runs.len() < RUNS_MAX {
            runs.push(Run { thread, first_ns: event.ts_ns, entered_ns: 0, times: 1 });
        }
    }

    /// A thread has left a task: the time since it entered belongs to the task.
    fn left(&mut self, thread: u32, current: Current, now_ns: u64) {
        let Some(Live { task, inside }) = self.live.get_mut(&current.task) else { return };
        *inside = inside.saturating_sub(1);
        let ns = now_ns.saturating_sub(current.since_ns);
        task.entered_ns = task.entered_ns.saturating_add(ns);
        if !self.keeps_runs {
            return;
        }
        match task.runs.iter_mut().find(|run| run.thread == thread) {
            Some(run) => run.entered_ns = run.entered_ns.saturating_add(ns),
            None => task.other_ns = task.other_ns.saturating_add(ns),
        }
    }

    /// A task ends: threads that still have it as their current one leave it now. In all but
    /// broken programs there are none, since the guard keeps the task alive.
    fn leave_all(&mut self, task: u64, now_ns: u64) {
        if self.live.get(&task).is_none_or(|live| live.inside == 0) {
            return;
        }
        let inside = |(_, c): &(&u32, &Current)| c.task == task;
        let threads: Vec<(u32, Current)> =
            self.current.iter().filter(inside).map(|(thread, c)| (*thread, *c)).collect();
        for (thread, current) in threads {
            self.left(thread, current, now_ns);
        }
    }
}
