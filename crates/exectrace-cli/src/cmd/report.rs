//! `exectrace report`: where the time of a program's threads went, in one screen.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;
use serde_json::json;
use trace::encode::op::Object;
use trace::encode::op::Op;
use trace::encode::op::Step;
use trace_analyze::Sched;
use trace_analyze::Wait;
use trace_analyze::Waits;
use trace_analyze::waits::Counts;
use trace_analyze::waits::Ending;
use trace_analyze::waits::Explained;
use trace_analyze::waits::Piece;
use trace_analyze::waits::StackKey;
use trace_analyze::waits::Waker;
use trace_decode::Event;
use trace_decode::Item;
use trace_decode::Session;
use trace_decode::Timed;

use crate::args::Common;
use crate::args::Symbols;
use crate::cmd;
use crate::cmd::Keep;
use crate::cmd::waits;
use crate::coverage;
use crate::coverage::Coverage;
use crate::deadlock::Known;
use crate::deadlock::Stuck;
use crate::failure::Failure;
use crate::input::Input;
use crate::json;
use crate::memory::Memory;
use crate::output::Out;
use crate::output::Style;
use crate::output::safe;
use crate::places;
use crate::places::Cause;
use crate::raw_calls;
use crate::scheduling;
use crate::scheduling::Row;
use crate::scheduling::Samples;
use crate::stacks::Stacks;
use crate::table;
use crate::table::Table;
use crate::table::shortened;
use crate::time;
use crate::unnamed::Unnamed;
use crate::verdict::Verdict;

const HELP: &str = "\
Where the kernel's switches are in the trace (record --classes ..,sched), a thread's time is divided
by them: running, waiting for a CPU (preempted, or woken and not yet on), blocked in a recorded
wait, blocked for an unknown cause. Where not, time in which a thread does not wait in a recorded
call counts as running or runnable, or is divided by what the kernel has counted for the thread:
\"CPU wait\" is then the least that it can be, since a thread that was woken and has no CPU yet has
not returned from its wait, and \"running\" the most.

Waits for work (at a queue, a poll, a socket) count as idle and are not ranked, but where a program
has next to nothing to do: then the report says first where it waits. \"released by\" is
the thread whose wake let the waiter go on; it nearly always held the lock, but a trace of wakes
does not prove that.

Where threads wait for each other when the recording ends, or for a lock for a second and more, the
first lines say so: who waits where, and who holds it. A pthread mutex names its holder; other locks
do not, then the last to release it is named. The JSON object has the same under stuck.

The JSON object has wall_ns, threads, causes, objects, files, waits {count, explained}, lost,
complete; cpu, for all and for each thread, has what the switches say, or null: running_ns,
preempted_ns, woken_ns, blocked_ns, unknown_ns, unseen_ns, switches, explained_switches, preempted,
migrations. A thread's blocked_ns divides its blocked time by cause; around_hooks: it never met the
recorder; counted is what the kernel has counted for it where it gave no switches. samples has the
functions in which running threads were (record --cpu-samples). memory is that of `stat --json`.
not_recorded names programs that the process started or became and that ran beside the recording,
each with the reason. unnamed has the modules of which functions have no names, and why.";

/// What to print.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub symbols: Symbols,
}

/// A wait that is less than one such part of its threads' time is not what slows a program.
const SMALL: u64 = 8;
/// Calls a second that neither sleep nor wake: more of them are what a report says first.
const STORM: f64 = 20_000.0;
/// A program whose work is less than one such part of its threads' lives has next to nothing to do,
/// unless it is held up for more than one part of these of its time.
const IDLE: u64 = 10;
const SHORT: u64 = 100;
/// Rows of each table.
const ROWS: usize = 5;
/// Objects of a place that are told apart.
const OBJECTS_MAX: usize = 64;
/// Threads that are listed one by one.
const THREADS: usize = 8;
/// How descriptors begin from which a thread reads what others have to say.
const STREAMS: [&str; 7] = ["socket:", "pipe:", "fifo ", "tcp ", "udp ", "unix ", "anon_inode:"];
/// Distinct places that are kept; more are put together.
const PLACES_MAX: usize = 4096;

/// What a thread did with its time.
#[derive(Clone, Debug, Default)]
struct ThreadTime {
    name: String,
    tid: u64,
    began_ns: u64,
    ended_ns: Option<u64>,
    by_cause: BTreeMap<Cause, u64>,
    /// Time blocked in recorded waits, by the kernel's switches.
    blocked: BTreeMap<Cause, u64>,
}

impl ThreadTime {
    fn wall_ns(&self, end_ns: u64) -> u64 {
        self.ended_ns.unwrap_or(end_ns).saturating_sub(self.began_ns)
    }

    fn waited_ns(&self) -> u64 {
        self.by_cause.values().sum()
    }
}

/// A place where threads waited.
#[derive(Clone, Debug)]
struct Group {
    op: Op,
    primitive: &'static str,
    cause: Cause,
    place: String,
    count: u64,
    total_ns: u64,
    max_ns: u64,
    threads: BTreeMap<u32, u64>,
    objects: BTreeMap<u64, u64>,
    /// Who released, and from where.
    releasers: HashMap<(u32, String), Released>,
    never: u64,
}

impl Group {
    /// What is waited for here: nearly always one thing, or several.
    fn objects_in_words(&self) -> String {
        let most = self.objects.values().max().copied().unwrap_or(0);
        let several = match self.primitive {
            "mutex" => "mutexes",
            "rwlock" => "rwlocks",
            "semaphore" => "semaphores",
            _ => return format!("the {}", self.primitive),
        };
        match self.objects.len() {
            OBJECTS_MAX.. => format!("{OBJECTS_MAX} and more {several}"),
            n @ 2.. if most < self.total_ns / 5 * 4 => format!("{n} {several}"),
            _ => format!("the {}", self.primitive),
        }
    }

    /// The one thing that is waited for.
    fn object_name(&self) -> &'static str {
        if self.primitive == Op::FutexWait.name() { "futex" } else { self.primitive }
    }
}

/// What is charged to one who released.
#[derive(Clone, Debug, Default)]
struct Released {
    /// Time of waits.
    ns: u64,
    /// Of it, time in which it is known what the one who released did.
    seen_ns: u64,
    /// Of that, in no call that blocks.
    running_ns: u64,
    /// And in calls that block.
    blocked: BTreeMap<Op, u64>,
}

impl Released {
    fn add(&mut self, other: &Released) {
        self.ns = self.ns.saturating_add(other.ns);
        self.seen_ns = self.seen_ns.saturating_add(other.seen_ns);
        self.running_ns = self.running_ns.saturating_add(other.running_ns);
        for (op, ns) in &other.blocked {
            *self.blocked.entry(*op).or_default() += ns;
        }
    }

    fn piece(piece: &Piece) -> Released {
        let did = &piece.meanwhile;
        Released {
            ns: piece.to_ns.saturating_sub(piece.from_ns),
            seen_ns: did.ns,
            running_ns: did.running_ns,
            blocked: did.blocked().map(|b| (b.op, b.ns)).collect(),
        }
    }

    /// What it did meanwhile, in words; the two that took longest, and nothing below a tenth.
    fn meanwhile(&self) -> String {
        let mut did: Vec<(u64, String)> =
            self.blocked.iter().map(|(op, ns)| (*ns, format!("in {}", op.name()))).collect();
        did.push((self.running_ns, "running or runnable".into()));
        did.sort_by_key(|(ns, _)| std::cmp::Reverse(*ns));
        did.retain(|(ns, _)| *ns >= self.seen_ns / 10 && *ns > 0);
        let text: Vec<String> = did
            .iter()
            .take(2)
            .map(|(ns, what)| format!("{what} ({})", percent(*ns, self.seen_ns)))
            .collect();
        text.join(" and ")
    }
}

/// A share with its sign.
fn percent(part: u64, whole: u64) -> String {
    format!("{} %", time::percent(part, whole))
}

/// Threads by what their names have in common, numbers aside: "the 4 threads `worker`".
fn together(names: &[&str]) -> String {
    let bare = |name: &str| {
        let end = |c: char| c.is_ascii_digit() || matches!(c, ' ' | '-' | '_' | '#' | ':' | '/');
        name.trim_end_matches(end).to_owned()
    };
    // One name for all is said whole: `python3`.
    let is_one = names.windows(2).all(|two| two[0] == two[1]);
    let bare = |name: &&str| if is_one { (*name).to_owned() } else { bare(name) };
    let mut bares: Vec<String> = names.iter().map(bare).collect();
    bares.dedup();
    match (names, bares.as_slice()) {
        ([one], _) if !one.is_empty() => format!("the thread `{}`", shortened(one)),
        (_, [all]) if !all.is_empty() => {
            format!("the {} `{}`", time::counted(names.len() as u64, "thread"), shortened(all))
        }
        _ => time::counted(names.len() as u64, "thread"),
    }
}

/// Everything that the report says.
#[derive(Debug, Default)]
struct Sums {
    threads: BTreeMap<u32, ThreadTime>,
    groups: HashMap<(Cause, &'static str, String), Group>,
    /// How long each thread waited for each lock, wherever it did.
    locks: HashMap<u64, BTreeMap<u32, u64>>,
    files: HashMap<String, (u64, u64, u64)>,
    descriptors: HashMap<u64, String>,
    /// Programs that the process started or became, and that are not recorded, with the reason.
    alone: Vec<String>,
    end_ns: u64,
    lost: u64,
    explained: Explained,
    objects: Vec<(u64, Counts)>,
    unplaced: u64,
    sched: Sched,
    samples: Samples,
    coverage: Coverage,
    /// Code of the program that enters the kernel by itself; looked for where too little is seen.
    raw_calls: Vec<raw_calls::Named>,
    stuck: Stuck,
    memory: Memory,
    unnamed: Unnamed,
}

/// Runs the command.
pub fn run(options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    let mut input = Input::open(&options.common.file)?;
    let mut verdict = Verdict::new(input.name());
    let mut stacks = Stacks::new(&options.symbols, false);
    let (mut waits, mut sums) = (Waits::new(), Sums::default());
    let mut number = 0;
    cmd::merged(&mut input, &mut verdict, out, Keep::Stacks, |item, _| {
        let session = match item {
            Item::SessionBegin(_) => {
                number += 1;
                (waits, sums) = (Waits::new(), Sums::default());
                return Ok(ControlFlow::Continue(()));
            }
            Item::Event(event) => {
                sums.event(event);
                sums.sched.event(event);
                if let Event::Sample(s) = event.event() {
                    let key = StackKey { epoch: event.tables().epoch(), id: s.stack };
                    let found = waits::stack(&mut stacks, number, event.session(), key);
                    sums.samples.add(found.as_ref());
                }
                waits.add(event);
                event.session()
            }
            Item::SessionEnd(session) => {
                waits.finish(session);
                let end = session.end().map(|end| session.clock().ns(end.at));
                sums.sched.end(end.unwrap_or(sums.end_ns));
                *session
            }
            _ => return Ok(ControlFlow::Continue(())),
        };
        while let Some(wait) = waits.next_wait() {
            if wait.ending == Ending::Never {
                let last = waits.last_wake(wait.op, wait.object).copied();
                sums.never(&wait, last, &mut |key| waits::stack(&mut stacks, number, session, key));
            }
            sums.wait(&wait, &mut |key| waits::stack(&mut stacks, number, session, key));
        }
        if let Item::SessionEnd(session) = item {
            sums.end(session, &waits, &options.symbols.debug_dir);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    sums.unnamed = Unnamed::of(&stacks);
    match options.common.json {
        true => sums.json(&verdict, out)?,
        false => sums.people(&options.common.file.display().to_string(), out)?,
    }
    Ok(verdict)
}

impl Sums {
    fn event(&mut self, e: &Timed<'_>) {
        let t = self
            .threads
            .entry(e.thread)
            .or_insert_with(|| ThreadTime { began_ns: e.ts_ns, ..ThreadTime::default() });
        match e.event() {
            Event::ThreadEnd(_) => t.ended_ns = Some(e.ts_ns),
            Event::Process(p)
                if p.step == Step::NotFollowed as u64 && self.alone.len() < PLACES_MAX =>
            {
                self.alone.push(safe(p.text.bytes));
            }
            Event::Memory(m) => self.memory.add(e.ts_ns, &m),
            Event::Descriptor(d) if self.descriptors.len() < PLACES_MAX => {
                self.descriptors.insert(d.fd, safe(d.text.bytes));
            }
            _ => {}
        }
        self.end_ns = self.end_ns.max(e.ts_ns);
    }

    fn wait(&mut self, wait: &Wait, stack: &mut dyn FnMut(StackKey) -> waits::StackOf) {
        let found = stack(wait.stack);
        let mut place = places::place(wait.op, found.as_ref());
        let ns = wait.duration_ns();
        let of = wait.op.descriptor(wait.object);
        if let Some(file) = of.and_then(|fd| self.descriptors.get(&fd)) {
            let is_stream = STREAMS.iter().any(|k| file.starts_with(k));
            if is_stream && matches!(wait.op, Op::Read | Op::Receive | Op::Accept) {
                place.cause = Cause::Idle;
            }
            if wait.ending != Ending::Never && place.cause == Cause::Io {
                let f = self.files.entry(file.clone()).or_default();
                *f = (f.0 + 1, f.1.saturating_add(ns), f.2.max(ns));
            }
        }
        let t = self.threads.entry(wait.thread).or_default();
        let sum = t.by_cause.entry(place.cause).or_default();
        *sum = sum.saturating_add(ns);
        if let Some(part) = self.sched.wait(wait) {
            let blocked = t.blocked.entry(place.cause).or_default();
            *blocked = blocked.saturating_add(part.blocked_ns);
        }
        let mut key = (place.cause, place.primitive, place.text);
        if self.groups.len() >= PLACES_MAX && !self.groups.contains_key(&key) {
            self.unplaced += 1;
            key.2 = "elsewhere".into();
        }
        let group = self.groups.entry(key.clone()).or_insert_with(|| Group {
            op: wait.op,
            primitive: key.1,
            cause: key.0,
            place: key.2,
            count: 0,
            total_ns: 0,
            max_ns: 0,
            threads: BTreeMap::new(),
            objects: BTreeMap::new(),
            releasers: HashMap::new(),
            never: 0,
        });
        group.count += 1;
        group.total_ns = group.total_ns.saturating_add(ns);
        group.max_ns = group.max_ns.max(ns);
        group.never += u64::from(wait.ending == Ending::Never);
        *group.threads.entry(wait.thread).or_default() += ns;
        if group.objects.len() < OBJECTS_MAX || group.objects.contains_key(&wait.object) {
            *group.objects.entry(wait.object).or_default() += ns;
        }
        if place.cause == Cause::Lock
            && (self.locks.len() < PLACES_MAX || self.locks.contains_key(&wait.object))
        {
            *self.locks.entry(wait.object).or_default().entry(wait.thread).or_default() += ns;
        }
        for piece in &wait.pieces {
            if let Some(by) = &piece.by
                && group.releasers.len() < 256
            {
                let from = places::own_call(stack(by.stack).as_ref());
                let who = group.releasers.entry((by.thread, from)).or_default();
                who.add(&Released::piece(piece));
            }
        }
    }

    /// A wait that never ended, and the last wake on its object.
    fn never(
        &mut self,
        wait: &Wait,
        last: Option<Waker>,
        stack: &mut dyn FnMut(StackKey) -> waits::StackOf,
    ) {
        let place = places::place(wait.op, stack(wait.stack).as_ref());
        let last = last.map(|wake| (wake, places::own_call(stack(wake.stack).as_ref())));
        self.stuck.add(wait, &place, last);
    }

    fn end(&mut self, session: &Session, waits: &Waits, debug_dirs: &[PathBuf]) {
        for t in session.threads() {
            let row = self.threads.entry(t.number as u32).or_default();
            (row.name, row.tid) = (safe(&t.name), t.tid);
            if t.registered != 0 {
                row.began_ns = session.clock().ns(t.registered);
            }
        }
        if let Some(end) = session.end() {
            self.end_ns = self.end_ns.max(session.clock().ns(end.at));
            self.lost = end.lost;
        }
        self.sched.settle();
        self.coverage = Coverage::of(session);
        if coverage::is_poor(&self.coverage, &self.sched) {
            self.raw_calls = raw_calls::in_session(session, debug_dirs);
        }
        self.settle_stuck();
        self.explained = waits.explained();
        self.objects = waits.objects().map(|(object, counts)| (object, *counts)).collect();
        // What burns calls without sleeping ranks beside what sleeps.
        self.objects.sort_by_key(|(_, c)| std::cmp::Reverse((c.at_once + c.of_nobody, c.wakes)));
        self.objects.retain(|(_, c)| c.at_once + c.of_nobody > 0);
    }

    /// Finds who waits for whom at the end.
    fn settle_stuck(&mut self) {
        let mut stuck = std::mem::take(&mut self.stuck);
        // Of threads that had one number one after the other, the last that had begun by then.
        let thread_of = |tid: u64, at: u64| {
            let with = self.threads.iter().filter(|(_, t)| t.tid == tid && t.began_ns <= at);
            with.max_by_key(|(number, t)| (t.began_ns, **number)).map(|(number, _)| *number)
        };
        let known = |thread: u32| {
            let ended = self.threads.get(&thread).is_some_and(|t| t.ended_ns.is_some());
            Known { name: self.thread_name(thread), ended }
        };
        stuck.settle(thread_of, known);
        self.stuck = stuck;
    }

    /// The places that hold the program up, the longest first.
    fn ranked(&self) -> Vec<&Group> {
        let held = |g: &&Group| matches!(g.cause, Cause::Lock | Cause::Io | Cause::Other);
        let mut groups: Vec<&Group> = self.groups.values().filter(held).collect();
        let rank = |g: &Group| if g.cause == Cause::Other { 1 } else { 0 };
        groups.sort_by_key(|g| (rank(g), std::cmp::Reverse(g.total_ns)));
        groups
    }

    fn thread_name(&self, thread: u32) -> String {
        match self.threads.get(&thread) {
            Some(t) if !t.name.is_empty() => format!("{} ({thread})", shortened(&t.name)),
            _ => format!("thread {thread}"),
        }
    }

    /// The sentence that people want.
    fn sentence(&self) -> String {
        self.stuck.sentence().unwrap_or_else(|| self.sentence_of_waits())
    }

    /// What a program does that has next to nothing to do: what held it up was nothing either.
    fn sentence_of_idleness(&self) -> Option<String> {
        let lives: u64 = self.threads.values().map(|t| t.wall_ns(self.end_ns)).sum();
        let (_, _, work) = self.work();
        let held = self.ranked().first().filter(|g| g.cause != Cause::Other).map(|g| g.total_ns);
        if work > lives / IDLE || held.unwrap_or(0) > self.end_ns / SHORT {
            return None;
        }
        // Who waits for other threads does so because of these.
        let groups = self.groups.values().filter(|g| matches!(g.cause, Cause::Idle | Cause::Sleep));
        let most = groups.max_by_key(|g| (g.total_ns, &g.place))?;
        let threads: Vec<(u32, &ThreadTime)> =
            most.threads.keys().filter_map(|n| Some((*n, self.threads.get(n)?))).collect();
        let all: u64 = threads.iter().map(|(_, t)| t.wall_ns(self.end_ns)).sum();
        let verb = match (most.cause, most.op.object()) {
            (Cause::Sleep, _) => "asleep in".to_owned(),
            (_, Object::Address) => format!("waiting for the {} in", most.primitive),
            _ => format!("in {} by", most.primitive),
        };
        let place = if most.place.is_empty() { "unknown code" } else { &most.place };
        let object = most.objects.iter().max_by_key(|(object, ns)| (**ns, **object));
        let file = object.and_then(|(object, _)| most.op.descriptor(*object));
        let file = file.and_then(|fd| self.descriptors.get(&fd));
        let mut text = format!(
            "The program had next to nothing to do: {} of the time of {} is {verb} {}",
            percent(most.total_ns, all),
            self.who(&threads),
            shortened(place),
        );
        if let Some(file) = file {
            text.push_str(&format!(", from {}", shortened(file)));
        }
        if most.never > 0 {
            text.push_str(", and had not ended when the recording did");
        }
        text.push('.');
        Some(text)
    }

    /// The same where no thread hangs.
    fn sentence_of_waits(&self) -> String {
        if let Some(idle) = self.sentence_of_idleness() {
            return idle;
        }
        let Some(first) = self.ranked().into_iter().find(|g| g.cause != Cause::Other) else {
            return self.without_waits();
        };
        let lock = self.spread_lock(first.total_ns);
        let (groups, threads) = match &lock {
            Some((groups, threads)) => (groups.as_slice(), *threads),
            None => (&[first][..], &first.threads),
        };
        // Those who wait much: one that waits a little would only thin out the share.
        let most = threads.values().max().copied().unwrap_or(0);
        let held = threads.iter().filter(|(_, ns)| **ns >= most / 10);
        let held: Vec<(u32, &ThreadTime, u64)> =
            held.filter_map(|(n, ns)| self.threads.get(n).map(|t| (*n, t, *ns))).collect();
        let all: u64 = held.iter().map(|(_, t, _)| t.wall_ns(self.end_ns)).sum();
        let idle = |t: &ThreadTime| t.by_cause.get(&Cause::Idle).copied().unwrap_or(0);
        let idle: u64 = held.iter().map(|(_, t, _)| idle(t)).sum();
        // Of a pool that mostly waits for work the share of its work tells.
        let who = self.who(&held.iter().map(|(n, t, _)| (*n, *t)).collect::<Vec<_>>());
        let (of, of_what) = match idle > all / 2 {
            true => (all.saturating_sub(idle), format!("the time in which {who} had work")),
            false => (all, format!("the time of {who}")),
        };
        let waited: u64 = held.iter().map(|(_, _, ns)| ns).sum();
        let begin = self.before_a_wait(waited, waited < of / SMALL);
        let first = groups[0];
        let what = match (groups.len(), first.cause) {
            (2.., _) => {
                format!("waiting for one {} at {} places, most in", first.primitive, groups.len())
            }
            (_, Cause::Lock) => format!("waiting for {} in", first.objects_in_words()),
            _ => format!("in {} by", first.primitive),
        };
        let mut text = format!(
            "{begin}{} of {of_what} is {what} {}",
            percent(waited, of),
            if first.place.is_empty() { "unknown code".into() } else { shortened(&first.place) },
        );
        text.push_str(&self.released_by(groups));
        text.push('.');
        text
    }

    /// Who released most of what was waited for here, as the end of a sentence: the call that did,
    /// or the thread where there are no stacks.
    fn released_by(&self, groups: &[&Group]) -> String {
        let total: u64 = groups.iter().map(|g| g.total_ns).sum();
        let mut by: BTreeMap<String, Released> = BTreeMap::new();
        for ((thread, from), released) in groups.iter().flat_map(|g| &g.releasers) {
            let who = if from.is_empty() { self.thread_name(*thread) } else { shortened(from) };
            by.entry(who).or_default().add(released);
        }
        let Some((from, released)) = by.into_iter().max_by_key(|(_, r)| r.ns) else {
            return String::new();
        };
        let mut text =
            format!(", {} of it until `{from}` released it", percent(released.ns, total));
        let did = released.meanwhile();
        if !did.is_empty() {
            text.push_str(&format!(", which was {did} meanwhile"));
        }
        text
    }

    /// These threads in words; one that shares its name with others, by its number.
    fn who(&self, threads: &[(u32, &ThreadTime)]) -> String {
        if let [(number, t)] = threads {
            let same = self.threads.values().filter(|other| other.name == t.name).count();
            if same > 1 && !t.name.is_empty() {
                return format!("the thread `{}`", self.thread_name(*number));
            }
        }
        together(&threads.iter().map(|(_, t)| t.name.as_str()).collect::<Vec<_>>())
    }

    /// What burns calls without sleeping, so many that it is the first thing to know.
    fn storm_in_words(&self) -> Option<String> {
        let seconds = (self.end_ns as f64 / 1e9).max(1e-9);
        let (object, c) = self.storms().next()?;
        let a_second = (c.at_once + c.of_nobody) as f64 / seconds;
        (a_second > STORM).then(|| {
            format!(
                "{} burns {} calls a second that neither sleep nor wake. ",
                self.burning(object),
                time::count(a_second as u64)
            )
        })
    }

    /// Objects of which calls are burnt, the worst first.
    fn storms(&self) -> impl Iterator<Item = (u64, &Counts)> {
        let seconds = (self.end_ns as f64 / 1e9).max(1e-9);
        let storm = move |c: &Counts| {
            let burnt = c.at_once + c.of_nobody;
            burnt as f64 / seconds > 1000.0 && burnt > 4 * (c.waits - c.at_once)
        };
        self.objects.iter().filter(move |(_, c)| storm(c)).map(|(object, c)| (*object, c))
    }

    /// An object of which calls are burnt, by the place that waits for it most.
    fn burning(&self, object: u64) -> String {
        let by = |g: &Group| g.objects.get(&object).copied().unwrap_or(0);
        let most = self.groups.values().max_by_key(|g| (by(g), &g.place));
        match most.filter(|g| by(g) > 0 && !g.place.is_empty()) {
            Some(g) => format!("The {} in {}", g.object_name(), shortened(&g.place)),
            None => "A lock".into(),
        }
    }

    /// The sentence where no wait stands out.
    fn without_waits(&self) -> String {
        if let Some(storm) = self.storm_in_words() {
            return format!("{storm}No lock and no I/O held anything up otherwise.");
        }
        let (on, none, all) = self.work();
        let (running, waiting) = (percent(on, all), percent(none, all));
        match none {
            none if none > all / 4 => format!(
                "There are too few CPUs: of the time in which threads had work, {waiting} was \
                 waiting for one and {running} running. No lock and no I/O held anything up."
            ),
            _ => {
                let known = self.threads.keys().any(|t| self.is_divided(*t));
                let what = if known { "running" } else { "running or runnable" };
                format!(
                    "No lock and no I/O held anything up: {running} of the time in which \
                     threads had work was {what}."
                )
            }
        }
    }

    /// A lock that is waited for at several places, together for much longer than at the worst
    /// single place: its groups, the longest first, and how long each thread waited for it.
    fn spread_lock(&self, longest: u64) -> Option<(Vec<&Group>, &BTreeMap<u32, u64>)> {
        let sum = |threads: &BTreeMap<u32, u64>| threads.values().sum::<u64>();
        let (object, threads) = self.locks.iter().max_by_key(|(o, t)| (sum(t), **o))?;
        if sum(threads) <= longest.saturating_add(longest / 4) {
            return None;
        }
        let of_it = |g: &&Group| {
            let ns = g.objects.get(object).copied().unwrap_or(0);
            g.cause == Cause::Lock && ns > g.total_ns / 2
        };
        let mut groups: Vec<&Group> = self.groups.values().filter(of_it).collect();
        groups.sort_by_key(|g| (std::cmp::Reverse(g.total_ns), &g.place));
        (groups.len() > 1).then_some((groups, threads))
    }

    /// Of the time in which threads had work: running, waiting for a CPU, and all of it.
    fn work(&self) -> (u64, u64, u64) {
        let (mut on, mut none, mut all) = (0, 0, 0);
        for (number, t) in &self.threads {
            let row = self.row(*number, t);
            let held = [Cause::Lock, Cause::Io].map(|c| t.by_cause.get(&c).copied().unwrap_or(0));
            on += row.running_ns();
            none += row.waiting_ns();
            all += row.running_ns() + row.waiting_ns() + held.iter().sum::<u64>();
        }
        (on, none, all)
    }

    /// Whether the kernel told when a thread had a CPU, or for how long.
    fn is_divided(&self, thread: u32) -> bool {
        self.sched.cpu(thread).is_some() || self.sched.counted(thread).is_some()
    }

    /// What comes before the longest wait, where that is a small part of what its threads did, or
    /// threads waited for CPUs for longer.
    fn before_a_wait(&self, waited: u64, is_small: bool) -> String {
        if let Some(storm) = self.storm_in_words().filter(|_| is_small) {
            return storm;
        }
        let (on, none, all) = self.work();
        let (running, waiting) = (percent(on, all), percent(none, all));
        let work = "of the time in which threads had work";
        match (none, is_small) {
            (none, _) if none > waited && none > all / 4 => format!(
                "There are too few CPUs: {work}, {waiting} was waiting for one and {running} \
                 running. "
            ),
            (0, true) => format!("No wait stands out: {work}, {running} was running. "),
            (_, true) => format!(
                "No wait stands out: {work}, {running} was running, {waiting} waiting for a CPU. "
            ),
            (_, false) => String::new(),
        }
    }

    fn people(&self, file: &str, out: &mut Out) -> Result<(), Failure> {
        self.print_warning(out)?;
        out.put(format_args!("{}\n", self.sentence()))?;
        for line in self.stuck.lines() {
            out.put(format_args!("  {line}\n"))?;
        }
        let e = self.explained;
        let mut facts = format!(
            "{} over {}",
            time::counted(self.threads.len() as u64, "thread"),
            time::short(self.end_ns),
        );
        if e.waits > 0 {
            let (share, waits) = (percent(e.woken, e.waits), time::counted(e.waits, "lock wait"));
            facts.push_str(&format!("; {share} of {waits} have their waker in the trace"));
        }
        let covered = self.coverage.text();
        if !covered.is_empty() && self.sched.all().is_none() {
            facts.push_str(&format!("; recorded waits explain, by estimate, {covered}"));
        }
        facts.push_str(&scheduling::facts(&self.sched, self.threads.keys().copied()));
        // All together may be well explained, by threads that wait for those that are not.
        let worst = coverage::poor_threads(&self.coverage, &self.sched);
        if let Some((thread, share)) = worst.first()
            && !coverage::is_poor(&self.coverage, &self.sched)
        {
            let (share, thread) = (coverage::percent(*share), self.thread_name(*thread as u32));
            facts.push_str(&format!("; only {share} of {thread}"));
        }
        if self.lost > 0 {
            facts.push_str(&format!("; {} lost", time::counted(self.lost, "event")));
        }
        out.styled(Style::Dim, &format!("{facts}\n\n"))?;
        self.print_places(out)?;
        self.print_threads(out)?;
        self.samples.print(ROWS, out)?;
        self.print_files(out)?;
        self.print_storms(out)?;
        if let Some(news) = self.memory.news() {
            out.put(format_args!("\n{news}\n"))?;
        }
        self.print_alone(out)?;
        let unnamed = self.unnamed.text();
        if !unnamed.is_empty() {
            out.styled(Style::Dim, &format!("\n{unnamed}\n"))?;
        }
        let commands = ["waits", "threads", "stacks"].map(|c| format!("exectrace {c} {file}"));
        let more = format!("\nMore: {}\n", commands.join(" | "));
        out.styled(Style::Dim, &more)
    }

    /// Where too little of the waiting is in the trace: how little, of which threads, and the code
    /// that may have waited unseen.
    fn print_warning(&self, out: &mut Out) -> Result<(), Failure> {
        if !coverage::is_poor(&self.coverage, &self.sched) {
            return Ok(());
        }
        out.styled(Style::Bad, &coverage::warning(&self.coverage, &self.sched))?;
        let threads = coverage::poor_threads(&self.coverage, &self.sched);
        let named: Vec<String> = threads
            .iter()
            .take(ROWS)
            .map(|(n, share)| {
                format!("{} {}", self.thread_name(*n as u32), coverage::percent(*share))
            })
            .collect();
        if !named.is_empty() {
            let more = threads.len().saturating_sub(named.len());
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            out.put(format_args!("Waits unseen, by threads: {}{more}.\n", named.join(", ")))?;
        }
        for line in raw_calls::lines(&self.raw_calls, ROWS) {
            out.put(format_args!("{line}\n"))?;
        }
        out.text("What follows tells of the rest, and may not be what matters.\n\n")
    }

    fn print_places(&self, out: &mut Out) -> Result<(), Failure> {
        let mut ranked = self.ranked();
        if self.sentence_of_idleness().is_some() {
            let idle = |g: &&Group| matches!(g.cause, Cause::Idle | Cause::Sleep);
            ranked.extend(self.groups.values().filter(idle));
            ranked.sort_by_key(|g| (std::cmp::Reverse(g.total_ns), &g.place));
        }
        if ranked.is_empty() {
            return Ok(());
        }
        let mut table = Table::new([
            table::number("waited"),
            table::number("waits"),
            table::number("longest"),
            table::text("on", 8),
            table::text("where", 24),
            table::text("released by", 16),
        ]);
        for g in ranked.iter().take(ROWS) {
            let by = g.releasers.iter().max_by_key(|(who, r)| (r.ns, std::cmp::Reverse(who.0)));
            let mut on = g.primitive.to_owned();
            if g.never > 0 {
                on.push_str(", never ended");
            }
            table.row([
                time::short(g.total_ns),
                time::count(g.count),
                time::short(g.max_ns),
                on,
                shortened(&g.place),
                by.map_or(String::new(), |((t, from), released)| {
                    let did = released.meanwhile();
                    let did = if did.is_empty() { did } else { format!("; {did}") };
                    // A thread that ended released whoever joined it from nowhere.
                    let from = match from.as_str() {
                        "" => String::new(),
                        from => format!(" in {}", shortened(from)),
                    };
                    format!("{}{from}{did}", self.thread_name(*t))
                }),
            ]);
        }
        table.print(out)?;
        if ranked.len() > ROWS {
            let rest: u64 = ranked[ROWS..].iter().map(|g| g.total_ns).sum();
            let places = time::counted((ranked.len() - ROWS) as u64, "more place");
            out.styled(Style::Dim, &format!("and {places}, {} in all\n", time::short(rest)))?;
        }
        out.text("\n")
    }

    /// How a thread's time is divided.
    fn row(&self, number: u32, t: &ThreadTime) -> Row {
        let (name, wall) = (self.thread_name(number), t.wall_ns(self.end_ns));
        let who = (number, t.began_ns);
        Row::new(name, wall, &t.by_cause, &t.blocked, &self.sched, who)
    }

    fn print_threads(&self, out: &mut Out) -> Result<(), Failure> {
        let mut threads: Vec<(&u32, &ThreadTime)> = self.threads.iter().collect();
        let held = |t: &ThreadTime| {
            let by = |c| t.by_cause.get(&c).copied().unwrap_or(0);
            by(Cause::Lock) + by(Cause::Io)
        };
        threads.sort_by_key(|(n, t)| (std::cmp::Reverse(held(t)), **n));
        let shown = threads.iter().take(THREADS);
        let rows: Vec<Row> = shown.map(|(number, t)| self.row(**number, t)).collect();
        scheduling::table(&rows).print(out)?;
        if threads.len() > THREADS {
            let more = time::counted((threads.len() - THREADS) as u64, "more thread");
            out.styled(Style::Dim, &format!("and {more}\n"))?;
        }
        Ok(())
    }

    fn print_files(&self, out: &mut Out) -> Result<(), Failure> {
        let mut files: Vec<_> = self.files.iter().collect();
        if files.is_empty() {
            return Ok(());
        }
        files.sort_by_key(|(name, f)| (std::cmp::Reverse(f.1), (*name).clone()));
        let mut table = Table::new([
            table::number("I/O"),
            table::number("calls"),
            table::number("longest"),
            table::text("file", 24),
        ]);
        for (name, (count, total, max)) in files.iter().take(ROWS) {
            let (total, max) = (time::short(*total), time::short(*max));
            table.row([total, time::count(*count), max, shortened(name)]);
        }
        out.text("\n")?;
        table.print(out)
    }

    fn print_storms(&self, out: &mut Out) -> Result<(), Failure> {
        for (object, c) in self.storms().take(3) {
            out.put(format_args!(
                "\n{} (at {object:#x}) burns calls: {} waits that returned at once, {} wakes of \
                 nobody, {} waits that slept.\n",
                self.burning(object),
                time::count(c.at_once),
                time::count(c.of_nobody),
                time::count(c.waits - c.at_once),
            ))?;
        }
        Ok(())
    }

    /// Programs that run beside the recording.
    fn print_alone(&self, out: &mut Out) -> Result<(), Failure> {
        if self.alone.is_empty() {
            return Ok(());
        }
        let shown: Vec<String> = self.alone.iter().take(3).map(|text| shortened(text)).collect();
        let more = match self.alone.len() - shown.len() {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        out.put(format_args!("\nNot recorded: {}{more}.\n", shown.join("; ")))
    }

    fn json(&self, verdict: &Verdict, out: &mut Out) -> Result<(), Failure> {
        let threads: Vec<Value> =
            self.threads.iter().map(|(n, t)| self.thread_json(*n, t)).collect();
        let causes: Vec<Value> = self.ranked().iter().map(|g| self.group_json(g)).collect();
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_by_key(|(name, f)| (std::cmp::Reverse(f.1), (*name).clone()));
        let files: Vec<Value> = files
            .iter()
            .map(|(name, f)| json!({"file": name, "calls": f.0, "total_ns": f.1, "max_ns": f.2}))
            .collect();
        let objects: Vec<Value> = self
            .objects
            .iter()
            .take(64)
            .map(|(object, c)| {
                json!({"object": object, "waits": c.waits, "at_once": c.at_once,
                    "timeouts": c.timeouts, "wakes": c.wakes, "of_nobody": c.of_nobody,
                    "waited_ns": c.waited_ns})
            })
            .collect();
        let mut bytes = Vec::new();
        json::object(&mut bytes, |o| {
            o.put("complete", verdict.is_complete());
            o.put("sentence", self.sentence());
            o.put("stuck", self.stuck.json());
            o.put("wall_ns", self.end_ns);
            o.put("lost", self.lost);
            let e = self.explained;
            o.put("waits", json!({"by_wake": e.waits, "explained": e.woken}));
            o.put("coverage", self.coverage_json());
            o.put("cpu", scheduling::json(self.sched.all().as_ref()));
            o.put("memory", self.memory.json());
            o.put("samples", self.samples.json());
            o.put("not_recorded", json!(self.alone));
            o.put("unnamed", self.unnamed.json());
            o.put("threads", json!(threads));
            o.put("causes", json!(causes));
            o.put("files", json!(files));
            o.put("objects", json!(objects));
        });
        bytes.push(b'\n');
        out.bytes(&bytes)
    }

    fn coverage_json(&self) -> Value {
        let mut all = coverage::estimate(&self.coverage.all);
        let (c, sched) = (&self.coverage, &self.sched);
        if let Some(share) = coverage::share(c, sched).filter(|_| sched.all().is_some()) {
            all["share"] = json!(share.part as f64 / share.whole as f64);
        }
        all["exact"] = json!(sched.all().is_some());
        all["poor"] = json!(coverage::is_poor(c, sched));
        let name = |n: u64| self.threads.get(&(n as u32)).map_or("", |t| &t.name);
        all["poor_threads"] = coverage::poor_threads(c, sched)
            .iter()
            .map(|(n, s)| json!({"thread": n, "name": name(*n), "part": s.part, "whole": s.whole}))
            .collect();
        all["raw_calls"] = self.raw_calls.iter().map(raw_calls::Named::json).collect();
        all
    }

    fn thread_json(&self, number: u32, t: &ThreadTime) -> Value {
        let wall = t.wall_ns(self.end_ns);
        let waited: BTreeMap<&str, u64> =
            t.by_cause.iter().map(|(c, ns)| (c.name(), *ns)).collect();
        let blocked: BTreeMap<&str, u64> =
            t.blocked.iter().map(|(c, ns)| (c.name(), *ns)).collect();
        json!({"thread": number, "tid": t.tid, "name": t.name, "wall_ns": wall,
            "running_ns": wall.saturating_sub(t.waited_ns()), "waited_ns": waited,
            "cpu": scheduling::json(self.sched.cpu(number)), "blocked_ns": blocked,
            "counted": scheduling::counted(&self.sched, number),
            "coverage": self.coverage.threads.get(&number.into()).map(coverage::estimate),
            "around_hooks": self.sched.is_unmet(number)})
    }

    fn group_json(&self, g: &Group) -> Value {
        let mut by: Vec<_> = g.releasers.iter().collect();
        by.sort_by_key(|(who, r)| (std::cmp::Reverse(r.ns), (*who).clone()));
        let by: Vec<Value> = by
            .iter()
            .take(ROWS)
            .map(|((thread, from), r)| {
                let blocked: BTreeMap<&str, u64> =
                    r.blocked.iter().map(|(op, ns)| (op.name(), *ns)).collect();
                json!({"thread": thread, "from": from, "ns": r.ns, "meanwhile": {
                    "seen_ns": r.seen_ns, "running_ns": r.running_ns, "blocked_ns": blocked}})
            })
            .collect();
        json!({"cause": g.cause.name(), "on": g.primitive, "where": g.place, "count": g.count,
            "total_ns": g.total_ns, "max_ns": g.max_ns, "threads": g.threads.len(),
            "objects": g.objects.len(), "never_ended": g.never, "released_by": by})
    }
}
