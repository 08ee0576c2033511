//! Waits, and who ended them.
//!
//! A wait is divided at every wake on its object: each piece is charged to the thread whose wake
//! ended it. Charging the whole wait to its last waker would be wrong wherever others took the lock
//! in between. What a piece proves is said with it (`docs/wake-semantics.md`).
//!
//! A wake is written when its call returns, which may be after the thread that it woke has run and
//! written the end of its wait. So a wait is given out [`LATE_NS`] of the trace's time after its
//! end, when every wake that can have ended it has been seen. On a busy object it is looked at
//! earlier, when half of the wakes that are kept came after it.
//!
//! Others are released too: who joins a thread by that thread's end, who waits at a barrier by the
//! last one to come, who reads a pipe, an eventfd or a socket by the first write of this process to
//! its other end since.
//!
//! 1. A wake ends no more waits than it says it woke.
//! 2. A wait whose waker was not seen says so; nobody is guessed.
//! 3. Memory is bounded: by objects ([`OBJECTS_MAX`]), wakes kept for each ([`WAKES_MAX`]) and the
//!    waits of [`LATE_NS`]. What is beyond is counted.
//! 4. What a waker did while it was waited for is told from its own waits ([`Meanwhile`]).

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::VecDeque;

use trace::encode::op::Op;
use trace_decode::Event;
use trace_decode::Session;
use trace_decode::Timed;

use crate::meanwhile::Histories;
use crate::meanwhile::Meanwhile;
use crate::meanwhile::Past;
use crate::streams::Streams;

/// Most objects whose wakes are kept. 65,536: more locks than a program contends for at a time.
pub const OBJECTS_MAX: usize = 1 << 16;
/// Most wakes of an object that are kept: of a longer wait's pieces the oldest are one.
pub const WAKES_MAX: usize = 256;
/// The same of a stream: the first of them is what releases.
const WRITES_MAX: usize = 32;
/// How long after a wait's end a wake that ended it may still be written: the waker may lose its
/// CPU to the thread that it woke. On two busy CPUs it took up to 160 ms.
pub const LATE_NS: u64 = 200_000_000;

const EAGAIN: u64 = 11;
const ETIMEDOUT: u64 = 110;

/// A stack of the trace: table epoch and id; id 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StackKey {
    /// The table epoch.
    pub epoch: u32,
    /// The id in it.
    pub id: u64,
}

/// Who woke, when and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waker {
    /// The thread.
    pub thread: u32,
    /// When its call began, since the session's start.
    pub began_ns: u64,
    /// When it returned.
    pub ended_ns: u64,
    /// From which stack.
    pub stack: StackKey,
    /// What it called: of a thread that ended, the call that waited for that.
    pub op: Op,
}

impl Waker {
    /// What it did that released, in words.
    pub fn did(&self) -> &'static str {
        match self.op {
            Op::Join => "thread end",
            Op::BarrierWait => "last at barrier",
            op => op.name(),
        }
    }
}

/// What is known of the lock's holder in a piece of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The lock itself named it: the kernel's number of the thread.
    Known(u64),
    /// The first to wake on a contended lock nearly always held it.
    Likely(u32),
    /// Another may have taken it unseen.
    Unknown,
}

/// A part of a wait, up to a wake on its object or to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Since the session's start.
    pub from_ns: u64,
    /// Since the session's start.
    pub to_ns: u64,
    /// Whose wake ended the piece; `None` for what is behind the last one.
    pub by: Option<Waker>,
    /// Who held the lock.
    pub holder: Holder,
    /// What that waker did in this time; nothing where there is none.
    pub meanwhile: Meanwhile,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The call succeeded.
    Done,
    /// There was nothing to wait for: it returned at once.
    AtOnce,
    /// Its time was over.
    TimedOut,
    /// It failed with this `errno`, for example since a signal came.
    Failed(u64),
    /// It had not ended when the recording did.
    Never,
}

/// A call that may block, from its beginning to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The thread that waited.
    pub thread: u32,
    /// What it worked for; 0 none.
    pub task: u64,
    /// What it called.
    pub op: Op,
    /// On which object, as [`Op::object`] says.
    pub object: u64,
    /// When, since the session's start.
    pub began_ns: u64,
    /// When it was over, since the session's start; of one that never ended the recording's end.
    pub ended_ns: u64,
    /// What it returned. Of a mutex the kernel's number of the thread that held it as the wait
    /// began, of a join the number of the thread; also where the wait never ended.
    pub result: u64,
    /// How it ended.
    pub ending: Ending,
    /// From which stack.
    pub stack: StackKey,
    /// Its parts, oldest first; one without a waker where no wake was seen.
    pub pieces: Vec<Piece>,
    /// The wake that let it go on.
    pub released_by: Option<Waker>,
}

impl Wait {
    /// How long it took.
    pub fn duration_ns(&self) -> u64 {
        self.ended_ns.saturating_sub(self.began_ns)
    }
}

/// What happened on one object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Waits that were over.
    pub waits: u64,
    /// Those that returned at once.
    pub at_once: u64,
    /// Those whose time was over.
    pub timeouts: u64,
    /// Calls that wake.
    pub wakes: u64,
    /// Those that woke nobody, as far as they say how many.
    pub of_nobody: u64,
    /// All time of waits, in nanoseconds.
    pub waited_ns: u64,
}

/// How much of the waits was explained by wakes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explained {
    /// Waits on locks that ended by success, neither at once nor by time, nor before the thread
    /// slept.
    pub waits: u64,
    /// Those of them whose wake was seen.
    pub woken: u64,
    /// Objects that were beyond [`OBJECTS_MAX`]: their wakes were not kept.
    pub unkept: u64,
}

/// Which wakes end which waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Family {
    Futex,
    Mutex,
    Rwlock,
    Condvar,
    Semaphore,
    Barrier,
    /// What is read at one end of it, and written to at the other.
    Stream,
    /// What waits for the ends of streams.
    Poll,
}

impl Family {
    /// Whether the first wake nearly always comes from who holds what is waited for.
    fn is_held(self) -> bool {
        matches!(self, Family::Futex | Family::Mutex)
    }

    /// Whether the wakes on it are writes, of which the first one releases.
    fn is_written(self) -> bool {
        matches!(self, Family::Stream | Family::Poll)
    }

    /// Most wakes that are kept.
    fn wakes_max(self) -> usize {
        if self.is_written() { WRITES_MAX } else { WAKES_MAX }
    }
}

/// What waits and wakes of one object have in common: its address, or its number as a stream.
type Key = (Family, u64);

fn family(op: Op) -> Option<Family> {
    Some(match op {
        Op::FutexWait | Op::FutexWake => Family::Futex,
        Op::MutexLock | Op::MutexUnlock => Family::Mutex,
        Op::RwlockRead | Op::RwlockWrite | Op::RwlockUnlock => Family::Rwlock,
        Op::CondWait | Op::CondSignal | Op::CondBroadcast => Family::Condvar,
        Op::SemWait | Op::SemPost => Family::Semaphore,
        Op::BarrierWait => Family::Barrier,
        _ => return None,
    })
}

/// A wake, and how many waits it may still have ended.
#[derive(Clone, Copy, Debug)]
struct Seen {
    waker: Waker,
    left: u64,
}

#[derive(Debug, Default)]
struct Object {
    wakes: VecDeque<Seen>,
    /// Its waits in `pending` that are not divided yet, oldest end first.
    undivided: VecDeque<Undivided>,
    counts: Counts,
}

/// A wait that is not divided yet.
#[derive(Clone, Copy, Debug)]
struct Undivided {
    /// What it is kept by in `pending`: its end, and a number.
    of: (u64, u64),
    thread: u32,
    began_ns: u64,
    /// Somebody woke it.
    is_done: bool,
}

/// A wait that is over and not given out.
#[derive(Debug)]
struct Pending {
    wait: Wait,
    key: Option<Key>,
    divided: bool,
}

/// Pairs waits with wakes. Feed it every event of a session in the order of time.
#[derive(Debug, Default)]
pub struct Waits {
    objects: HashMap<Key, Object>,
    streams: Streams,
    /// When threads ended.
    ends: HashMap<u64, u64>,
    /// Waits that are over, by when; the number keeps those of one moment apart.
    pending: BTreeMap<(u64, u64), Pending>,
    numbered: u64,
    ready: VecDeque<Wait>,
    explained: Explained,
    histories: Histories,
    /// Writes to descriptors of which nothing was said yet.
    untold: Vec<(u64, Waker)>,
}

/// Such writes that are kept.
const UNTOLD_MAX: usize = 64;

impl Waits {
    /// Nothing seen yet.
    pub fn new() -> Waits {
        Waits::default()
    }

    /// Takes an event in.
    pub fn add(&mut self, e: &Timed<'_>) {
        match e.event() {
            Event::Wait(w) => {
                let Some(op) = Op::from_u64(w.op) else { return };
                let began_ns = e.session().clock().ns(e.ticks.saturating_sub(w.began));
                let ending = match w.error {
                    0 => Ending::Done,
                    EAGAIN if op == Op::FutexWait => Ending::AtOnce,
                    ETIMEDOUT => Ending::TimedOut,
                    error => Ending::Failed(error),
                };
                self.wait(Wait {
                    thread: e.thread,
                    task: e.task,
                    op,
                    object: w.object,
                    began_ns: began_ns.min(e.ts_ns),
                    ended_ns: e.ts_ns,
                    result: w.result,
                    ending,
                    stack: StackKey { epoch: e.tables().epoch(), id: w.stack },
                    pieces: Vec::new(),
                    released_by: None,
                });
            }
            Event::Descriptor(d) => {
                self.streams.tell(d.fd, &String::from_utf8_lossy(d.text.bytes));
                self.told(d.fd, e.ts_ns);
            }
            Event::ThreadEnd(_) => {
                self.ends.insert(e.thread.into(), e.ts_ns);
            }
            Event::Wake(w) => {
                let Some(op) = Op::from_u64(w.op) else { return };
                let began_ns = e.session().clock().ns(e.ticks.saturating_sub(w.began));
                let waker = Waker {
                    thread: e.thread,
                    began_ns: began_ns.min(e.ts_ns),
                    ended_ns: e.ts_ns,
                    stack: StackKey { epoch: e.tables().epoch(), id: w.stack },
                    op,
                };
                let left = match op {
                    Op::FutexWake => w.woken,
                    // One that wrote lets all in who want to read.
                    Op::CondBroadcast | Op::RwlockUnlock => u64::MAX,
                    _ => 1,
                };
                if let Some(family) = family(op) {
                    self.wake((family, w.object), left, waker);
                }
            }
            _ => {}
        }
        self.settle(e.ts_ns.saturating_sub(LATE_NS));
    }

    /// The session is over: gives out what is held, and what threads were waiting for at its end.
    pub fn finish(&mut self, session: &Session) {
        self.settle(u64::MAX);
        let end_ns = session.end().map_or(0, |end| session.clock().ns(end.at));
        for b in session.blocked() {
            let Some(op) = Op::from_u64(b.op) else { continue };
            let began_ns = session.clock().ns(b.since);
            let wait = Wait {
                thread: b.thread as u32,
                task: 0,
                op,
                object: b.object,
                began_ns,
                ended_ns: end_ns.max(began_ns),
                result: b.by,
                ending: Ending::Never,
                stack: StackKey { epoch: b.epoch, id: b.stack },
                pieces: Vec::new(),
                released_by: None,
            };
            let key = self.key(&wait);
            self.ready.push_back(wait);
            if let Some(last) = self.ready.back_mut() {
                let object = key.and_then(|key| Some((key, self.objects.get_mut(&key)?)));
                divide(object, &self.histories, &mut self.explained, last);
            }
        }
    }

    /// The next wait of which all is known.
    pub fn next_wait(&mut self) -> Option<Wait> {
        self.ready.pop_front()
    }

    /// The last wake on the object of a wait by `op` that is in the trace.
    pub fn last_wake(&self, op: Op, object: u64) -> Option<&Waker> {
        self.objects.get(&(family(op)?, object))?.wakes.back().map(|seen| &seen.waker)
    }

    /// What happened on each object that locks or wakes: its call, its address.
    pub fn objects(&self) -> impl Iterator<Item = (u64, &Counts)> {
        let locks = self.objects.iter().filter(|((family, _), _)| !family.is_written());
        locks.map(|((_, object), o)| (*object, &o.counts))
    }

    /// How much was explained.
    pub fn explained(&self) -> Explained {
        self.explained
    }

    /// What the wakes that end such a wait are kept by.
    fn key(&self, wait: &Wait) -> Option<Key> {
        match wait.op {
            Op::Read | Op::Receive => Some((Family::Stream, self.streams.read_at(wait.object)?)),
            Op::Poll | Op::Select => {
                let ready = wait.op.descriptor(wait.object)?;
                Some((Family::Stream, self.streams.read_at(ready)?))
            }
            Op::EpollWait => Some((Family::Poll, wait.object)),
            op => Some((family(op)?, wait.object)),
        }
    }

    fn object(&mut self, key: Key) -> Option<&mut Object> {
        if self.objects.len() >= OBJECTS_MAX && !self.objects.contains_key(&key) {
            self.explained.unkept += 1;
            return None;
        }
        Some(self.objects.entry(key).or_default())
    }

    fn wait(&mut self, wait: Wait) {
        let (at_once, duration) = (wait.ending == Ending::AtOnce, wait.duration_ns());
        let timed_out = wait.ending == Ending::TimedOut;
        self.numbered += 1;
        let of = (wait.ended_ns, self.numbered);
        let key = self.key(&wait);
        if let Some(object) = key.and_then(|key| self.object(key)) {
            let c = &mut object.counts;
            c.waits += 1;
            c.at_once += u64::from(at_once);
            c.timeouts += u64::from(timed_out);
            c.waited_ns = c.waited_ns.saturating_add(duration);
            let Wait { thread, began_ns, .. } = wait;
            let is_done = wait.ending == Ending::Done;
            object.undivided.push_back(Undivided { of, thread, began_ns, is_done });
        }
        self.releases(&wait);
        let Wait { began_ns, ended_ns, op, object, stack, .. } = wait;
        self.histories.add(wait.thread, Past { began_ns, ended_ns, op, object, stack });
        self.pending.insert(of, Pending { wait, key, divided: false });
    }

    /// A call that may itself release others: a write, the last one at a barrier.
    fn releases(&mut self, wait: &Wait) {
        let Wait { thread, began_ns, ended_ns, stack, op, .. } = *wait;
        let waker = Waker { thread, began_ns, ended_ns, stack, op };
        match op {
            _ if wait.ending != Ending::Done || wait.result == 0 => {}
            Op::Write | Op::Send => self.written(wait.object, waker),
            // Its result tells who came last.
            Op::BarrierWait => self.wake((Family::Barrier, wait.object), u64::MAX, waker),
            _ => {}
        }
    }

    /// A write to this descriptor. Another thread may have taken it upon itself to say what that
    /// is, and have lost its CPU before it did.
    fn written(&mut self, fd: u64, waker: Waker) {
        let Some(end) = self.streams.written_by(fd) else {
            if self.untold.len() == UNTOLD_MAX {
                self.untold.remove(0);
            }
            return self.untold.push((fd, waker));
        };
        self.wake((Family::Stream, end), 1, waker);
        let polls: Vec<u64> = self.streams.polls(end).collect();
        for poll in polls {
            self.wake((Family::Poll, poll), 1, waker);
        }
    }

    /// It is said now what this descriptor is: a little before, it was the same.
    fn told(&mut self, fd: u64, at_ns: u64) {
        let is_late = |(of, w): &mut (u64, Waker)| *of == fd && w.ended_ns + LATE_NS >= at_ns;
        let late: Vec<_> = self.untold.extract_if(.., is_late).collect();
        self.untold.retain(|(of, _)| *of != fd);
        late.into_iter().for_each(|(fd, waker)| self.written(fd, waker));
    }

    fn wake(&mut self, key: Key, left: u64, waker: Waker) {
        let Some(object) = self.object(key) else { return };
        object.counts.wakes += 1;
        object.counts.of_nobody += u64::from(left == 0);
        let most = key.0.wakes_max();
        if object.wakes.len() == most {
            let half_ns = object.wakes[most / 2].waker.began_ns;
            self.divide_until(key, half_ns);
        }
        let Some(object) = self.objects.get_mut(&key) else { return };
        if object.wakes.len() == most {
            object.wakes.pop_front();
        }
        // A waker that lost its CPU within the call writes its wake late: they stand by when they
        // began, so that each piece of a wait goes to the wake at its end.
        let at = object.wakes.iter().rposition(|s| s.waker.began_ns <= waker.began_ns);
        object.wakes.insert(at.map_or(0, |at| at + 1), Seen { waker, left });
    }

    /// Divides the waits on an object that were over by this time, before its oldest wakes go.
    fn divide_until(&mut self, key: Key, until_ns: u64) {
        loop {
            let Some(object) = self.objects.get_mut(&key) else { return };
            let over = object.undivided.front().filter(|w| w.of.0 <= until_ns);
            let Some(Undivided { of, .. }) = over.copied() else { return };
            object.undivided.pop_front();
            if let Some(pending) = self.pending.get_mut(&of) {
                pending.divided = true;
                let object = Some((key, object));
                divide(object, &self.histories, &mut self.explained, &mut pending.wait);
            }
        }
    }

    /// Gives out the waits that were over by this time.
    fn settle(&mut self, until_ns: u64) {
        while let Some(entry) = self.pending.first_entry() {
            if entry.key().0 > until_ns {
                return;
            }
            let (of, mut pending) = entry.remove_entry();
            if !pending.divided {
                // What it waited for may have been said by another thread, and later.
                let key = pending.key.or_else(|| self.key(&pending.wait));
                let mut object = key.and_then(|key| Some((key, self.objects.get_mut(&key)?)));
                if let Some((_, object)) = &mut object
                    && object.undivided.front().is_some_and(|w| w.of == of)
                {
                    object.undivided.pop_front();
                }
                match pending.wait.op {
                    Op::Join => join(&self.ends, &self.histories, &mut pending.wait),
                    _ => divide(object, &self.histories, &mut self.explained, &mut pending.wait),
                }
            }
            self.ready.push_back(pending.wait);
        }
    }
}

/// A thread joined another one: that one's end let it go on.
fn join(ends: &HashMap<u64, u64>, histories: &Histories, wait: &mut Wait) {
    let end = ends.get(&wait.result).filter(|_| wait.ending == Ending::Done && wait.result != 0);
    let (from_ns, ended_ns) = (wait.began_ns, wait.ended_ns);
    let mut piece = |from_ns, to_ns, by: Option<Waker>| {
        let did = |by: Waker| histories.between(by.thread, from_ns, to_ns, |_, _| false);
        let (holder, meanwhile) = (Holder::Unknown, by.map(did).unwrap_or_default());
        wait.pieces.push(Piece { from_ns, to_ns, by, holder, meanwhile });
    };
    let Some(end_ns) = end else { return piece(from_ns, ended_ns, None) };
    let thread = wait.result as u32;
    let by = Waker {
        thread,
        began_ns: *end_ns,
        ended_ns: *end_ns,
        stack: StackKey::default(),
        op: Op::Join,
    };
    let to_ns = end_ns.clamp(&from_ns, &ended_ns);
    piece(from_ns, *to_ns, Some(by));
    if *to_ns < ended_ns {
        piece(*to_ns, ended_ns, None);
    }
    wait.released_by = Some(by);
}

/// Most waits behind the one that is divided which are looked at.
const AHEAD_MAX: usize = 64;

/// Whether a wake came while a thread waited from then until then.
fn is_inside(wake: &Waker, thread: u32, began_ns: u64, ended_ns: u64) -> bool {
    wake.thread != thread && wake.ended_ns >= began_ns && wake.began_ns <= ended_ns
}

/// The wake that let a wait at a futex go on. The kernel wakes first who has slept longest, and
/// says how many it woke: so the first that has one left to give when those have had theirs that
/// began earlier, and were over later for want of a CPU.
fn woken_by(object: &Object, wait: &Wait) -> Option<usize> {
    let next = object.undivided.iter().take(AHEAD_MAX);
    let mut ahead: Vec<&Undivided> =
        next.filter(|w| w.is_done && w.began_ns < wait.began_ns).collect();
    ahead.sort_by_key(|w| w.began_ns);
    for (i, Seen { waker, left }) in object.wakes.iter().enumerate() {
        let mut left = *left;
        ahead.retain(|w| {
            let takes = left > 0 && is_inside(waker, w.thread, w.began_ns, w.of.0);
            left -= u64::from(takes);
            !takes
        });
        if left > 0 && is_inside(waker, wait.thread, wait.began_ns, wait.ended_ns) {
            return Some(i);
        }
    }
    None
}

/// Of the wakes on an object those that lie inside the wait of a thread, and the one among them
/// that let it go on.
fn wakes_of(key: Key, object: &Object, wait: &Wait) -> (Vec<usize>, Option<usize>) {
    let (began, ended) = (wait.began_ns, wait.ended_ns);
    let inside = |s: &Seen| is_inside(&s.waker, wait.thread, began, ended);
    let all: Vec<usize> = (0..object.wakes.len()).filter(|i| inside(&object.wakes[*i])).collect();
    let mut can = all.iter().copied().filter(|i| object.wakes[*i].left > 0);
    let of = match key.0 {
        _ if wait.ending != Ending::Done => None,
        Family::Stream | Family::Poll if wait.result == 0 => None,
        // Who comes last waits for nobody.
        Family::Barrier if wait.result != 0 => None,
        // There was nothing to read when it began: the first write since is what it read. One that
        // had begun before is it where there is no other.
        Family::Stream | Family::Poll => {
            let first = can.next();
            let since = |i: &usize| object.wakes[*i].waker.began_ns >= began;
            first.into_iter().chain(can).find(since).or(first)
        }
        Family::Futex => woken_by(object, wait).or_else(|| can.next_back()),
        // A call of the C library may sleep several times, and is over at the last wake.
        _ => can.next_back(),
    };
    (all, of)
}

/// Divides a wait at the wakes on its object and finds the one that let it go on.
fn divide(
    object: Option<(Key, &mut Object)>,
    histories: &Histories,
    explained: &mut Explained,
    wait: &mut Wait,
) {
    let is_lock = family(wait.op).is_some_and(|f| f != Family::Barrier);
    // A lock that was taken and then free before the thread slept: nobody had to wake it.
    let slept = match wait.op {
        Op::MutexLock | Op::RwlockRead | Op::RwlockWrite | Op::SpinLock => {
            wait.ended_ns.saturating_sub(wait.began_ns) >= trace::block::SLEPT_NS
        }
        _ => true,
    };
    let counted = is_lock && slept && wait.ending == Ending::Done;
    let of = (family(wait.op), wait.object);
    let mut from_ns = wait.began_ns;
    let mut holder = match (wait.op, wait.result) {
        (Op::MutexLock, owner) if owner != 0 => Some(Holder::Known(owner)),
        _ => None,
    };
    if wait.ending != Ending::AtOnce
        && let Some((key, object)) = object
    {
        let (inside, releases) = wakes_of(key, object, wait);
        for i in inside {
            let only = key.0.is_written() && releases != Some(i);
            if only || releases.is_some_and(|r| i > r) {
                continue;
            }
            let Some(seen) = object.wakes.get_mut(i) else { continue };
            let to_ns = seen.waker.began_ns.clamp(from_ns, wait.ended_ns);
            let held = holder.take().unwrap_or(match wait.pieces.is_empty() && key.0.is_held() {
                true => Holder::Likely(seen.waker.thread),
                false => Holder::Unknown,
            });
            let meanwhile = histories.between(seen.waker.thread, from_ns, to_ns, |op, object| {
                (family(op), object) == of
            });
            let by = Some(seen.waker);
            wait.pieces.push(Piece { from_ns, to_ns, by, holder: held, meanwhile });
            from_ns = to_ns;
            if releases == Some(i) {
                seen.left = seen.left.saturating_sub(1);
                wait.released_by = Some(seen.waker);
            }
        }
    }
    if from_ns < wait.ended_ns || wait.pieces.is_empty() {
        let holder = holder.unwrap_or(Holder::Unknown);
        let (to_ns, by, meanwhile) = (wait.ended_ns, None, Meanwhile::default());
        wait.pieces.push(Piece { from_ns, to_ns, by, holder, meanwhile });
    }
    explained.waits += u64::from(counted);
    explained.woken += u64::from(counted && wait.released_by.is_some());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(thread: u32, began_ns: u64, ended_ns: u64, ending: Ending) -> Wait {
        let op = Op::FutexWait;
        let stack = StackKey::default();
        let (pieces, released_by) = (Vec::new(), None);
        let (task, object, result) = (0, 64, 0);
        Wait {
            thread,
            task,
            op,
            object,
            began_ns,
            ended_ns,
            result,
            ending,
            stack,
            pieces,
            released_by,
        }
    }

    fn waker(thread: u32, at: u64) -> Waker {
        let (began_ns, ended_ns) = (at, at + 2);
        Waker { thread, began_ns, ended_ns, stack: StackKey::default(), op: Op::FutexWake }
    }

    fn all(w: &mut Waits) -> Vec<Wait> {
        w.settle(u64::MAX);
        std::iter::from_fn(|| w.next_wait()).collect()
    }

    #[test]
    fn who_slept_longest_is_woken_first() {
        let by = |waits: &[Wait]| -> Vec<(u32, u32)> {
            waits.iter().map(|w| (w.thread, w.released_by.unwrap().thread)).collect()
        };
        // Thread 7 is woken at 100 and has no CPU before 210; thread 8 is woken at 200.
        let mut w = Waits::new();
        w.wake((Family::Futex, 64), 1, waker(1, 100));
        w.wake((Family::Futex, 64), 1, waker(2, 200));
        w.wait(wait(7, 10, 210, Ending::Done));
        w.wait(wait(8, 150, 211, Ending::Done));
        assert_eq!(by(&all(&mut w)), [(7, 1), (8, 2)]);
        // Both wait from the beginning, and who was woken first is over last.
        let mut w = Waits::new();
        w.wake((Family::Futex, 64), 1, waker(1, 100));
        w.wake((Family::Futex, 64), 1, waker(2, 200));
        w.wait(wait(8, 20, 210, Ending::Done));
        w.wait(wait(7, 10, 220, Ending::Done));
        assert_eq!(by(&all(&mut w)), [(8, 2), (7, 1)]);
        // One whose time was over took none.
        let mut w = Waits::new();
        w.wake((Family::Futex, 64), 1, waker(1, 100));
        w.wait(wait(8, 20, 110, Ending::Done));
        w.wait(wait(7, 10, 220, Ending::TimedOut));
        let waits = all(&mut w);
        assert_eq!(waits[0].released_by.map(|by| by.thread), Some(1));
        assert_eq!(waits[1].released_by, None);
        // One call wakes two.
        let mut w = Waits::new();
        w.wake((Family::Futex, 64), 2, waker(1, 100));
        w.wake((Family::Futex, 64), 1, waker(2, 200));
        w.wait(wait(9, 30, 205, Ending::Done));
        w.wait(wait(8, 20, 210, Ending::Done));
        w.wait(wait(7, 10, 220, Ending::Done));
        assert_eq!(by(&all(&mut w)), [(9, 2), (8, 1), (7, 1)]);
    }

    #[test]
    fn a_wait_is_divided_at_every_wake() {
        let mut w = Waits::new();
        // Thread 9 waits from 100 to 400. At 200 thread 2 wakes somebody else, at 390 thread 3
        // wakes thread 9, whose end is written before that wake is.
        w.wake((Family::Futex, 64), 0, waker(1, 50));
        w.wake((Family::Futex, 64), 0, waker(2, 200));
        w.wait(wait(9, 100, 391, Ending::Done));
        w.wake((Family::Futex, 64), 1, waker(3, 390));
        let waits = all(&mut w);
        let pieces: Vec<_> =
            waits[0].pieces.iter().map(|p| (p.from_ns, p.to_ns, p.holder)).collect();
        assert_eq!(
            pieces,
            [
                (100, 200, Holder::Likely(2)),
                (200, 390, Holder::Unknown),
                (390, 391, Holder::Unknown),
            ]
        );
        assert_eq!(waits[0].released_by.map(|r| r.thread), Some(3));
        assert_eq!(w.explained(), Explained { waits: 1, woken: 1, unkept: 0 });
        let (_, counts) = w.objects().next().unwrap();
        assert_eq!((counts.waits, counts.wakes, counts.of_nobody), (1, 3, 2));
    }

    #[test]
    fn a_busy_object_has_a_waker_for_every_wait() {
        let mut w = Waits::new();
        // A hundred times the wakes that are kept, in a fiftieth of the time for which waits are
        // held back; each ends one wait, and some of the waits are written before their wake.
        let rounds = 100 * WAKES_MAX as u64;
        for n in 0..rounds {
            let at = 100 + n * 40;
            let (over, woken) = (wait(2, at, at + 5, Ending::Done), waker(1, at + 4));
            if n % 3 == 0 {
                w.wait(over);
                w.wake((Family::Futex, 64), 1, woken);
            } else {
                w.wake((Family::Futex, 64), 1, woken);
                w.wait(over);
            }
        }
        assert!(rounds * 40 < LATE_NS);
        let waits = all(&mut w);
        assert_eq!(waits.len() as u64, rounds);
        assert!(waits.is_sorted_by_key(|w| w.ended_ns));
        let own = |w: &Wait| w.released_by.is_some_and(|by| by.began_ns == w.began_ns + 4);
        assert!(waits.iter().all(own));
        assert_eq!(w.explained(), Explained { waits: rounds, woken: rounds, unkept: 0 });
    }

    #[test]
    fn a_wake_ends_as_many_waits_as_it_woke() {
        let mut w = Waits::new();
        w.wait(wait(8, 100, 203, Ending::Done));
        w.wait(wait(9, 110, 205, Ending::Done));
        w.wait(wait(7, 120, 207, Ending::Done));
        w.wake((Family::Futex, 64), 2, waker(1, 200));
        let by: Vec<_> = all(&mut w).iter().map(|w| (w.thread, w.released_by.is_some())).collect();
        assert_eq!(by, [(8, true), (9, true), (7, false)]);
        assert_eq!(w.explained(), Explained { waits: 3, woken: 2, unkept: 0 });
    }

    #[test]
    fn a_wake_that_is_written_late_ends_its_piece() {
        let mut w = Waits::new();
        // Thread 1 wakes thread 8 at 300, which takes its CPU, and wakes thread 9 at 303. Only
        // then can thread 1 write its wake.
        let late = Waker { ended_ns: 350, ..waker(1, 300) };
        w.wait(wait(8, 100, 301, Ending::Done));
        w.wake((Family::Futex, 64), 1, waker(8, 303));
        w.wait(wait(9, 110, 306, Ending::Done));
        w.wake((Family::Futex, 64), 1, late);
        let waits = all(&mut w);
        let by = |w: &Wait| w.released_by.map(|r| r.thread);
        assert_eq!((by(&waits[0]), by(&waits[1])), (Some(1), Some(8)));
        let pieces: Vec<_> =
            waits[1].pieces.iter().map(|p| (p.to_ns, p.by.map(|by| by.thread))).collect();
        assert_eq!(pieces, [(300, Some(1)), (303, Some(8)), (306, None)]);
    }

    #[test]
    fn what_was_not_woken_has_no_waker() {
        let mut w = Waits::new();
        w.wake((Family::Futex, 64), 1, waker(1, 150));
        w.wait(wait(2, 100, 160, Ending::TimedOut));
        w.wait(wait(3, 100, 101, Ending::AtOnce));
        w.wait(wait(1, 100, 170, Ending::Done));
        let waits = all(&mut w);
        assert!(waits.iter().all(|w| w.released_by.is_none()), "{waits:#?}");
        assert_eq!(w.explained(), Explained { waits: 1, woken: 0, unkept: 0 });
        let (_, counts) = w.objects().next().unwrap();
        assert_eq!((counts.at_once, counts.timeouts), (1, 1));
    }

    #[test]
    fn a_lock_that_names_its_owner_makes_it_known() {
        let mut w = Waits::new();
        let lock = Wait { op: Op::MutexLock, result: 77, ..wait(5, 100, 300, Ending::Done) };
        w.wait(lock);
        w.wake((Family::Mutex, 64), 1, Waker { op: Op::MutexUnlock, ..waker(6, 250) });
        let waits = all(&mut w);
        assert_eq!(waits[0].pieces[0].holder, Holder::Known(77));
        assert_eq!(waits[0].released_by.map(|r| r.thread), Some(6));
    }

    /// A call on a descriptor that succeeded with this result.
    fn call(thread: u32, op: Op, fd: u64, began_ns: u64, ended_ns: u64, result: u64) -> Wait {
        Wait { op, object: fd, result, ..wait(thread, began_ns, ended_ns, Ending::Done) }
    }

    #[test]
    fn the_first_write_since_releases_a_reader() {
        let mut w = Waits::new();
        w.streams.tell(3, "pipe:[7]");
        w.streams.tell(4, "pipe:[7]");
        w.streams.tell(5, "pipe:[8]");
        // One write before the first read began, one to another pipe, two while it waits: it goes
        // on at the first of these. The second reader has the second, the third reader nothing.
        w.wait(call(1, Op::Write, 4, 50, 60, 1));
        w.wait(call(2, Op::Write, 5, 150, 160, 1));
        w.wait(call(2, Op::Write, 4, 200, 203, 1));
        w.wait(call(9, Op::Read, 3, 100, 210, 1));
        w.wait(call(1, Op::Write, 4, 205, 206, 1));
        w.wait(call(8, Op::Read, 3, 110, 230, 1));
        w.wait(call(7, Op::Read, 3, 120, 240, 1));
        // The end of the stream is not what somebody wrote.
        w.wait(call(1, Op::Write, 4, 300, 301, 1));
        w.wait(call(6, Op::Read, 3, 290, 310, 0));
        let waits: Vec<Wait> = all(&mut w).into_iter().filter(|w| w.op == Op::Read).collect();
        let by = |w: &Wait| w.released_by.map(|by| (by.thread, by.began_ns));
        let found: Vec<_> = waits.iter().map(|w| (w.thread, by(w))).collect();
        let (first, second) = (Some((2, 200)), Some((1, 205)));
        assert_eq!(found, [(9, first), (8, second), (7, None), (6, None)]);
        let piece = |p: &Piece| (p.from_ns, p.to_ns, p.by.map(|by| by.thread), p.holder);
        let pieces: Vec<_> = waits[0].pieces.iter().map(piece).collect();
        let unknown = Holder::Unknown;
        assert_eq!(pieces, [(100, 200, Some(2), unknown), (200, 210, None, unknown)]);
        // They are no locks.
        assert_eq!((w.explained(), w.objects().count()), (Explained::default(), 0));
    }

    /// Who says what a descriptor is may lose its CPU before it has said so.
    #[test]
    fn what_descriptors_are_may_be_said_a_little_late() {
        let mut w = Waits::new();
        let tell = |w: &mut Waits, fd, at_ns| {
            w.streams.tell(fd, "pipe:[7]");
            w.told(fd, at_ns);
        };
        // Long ago the number was another thing's.
        w.wait(call(3, Op::Write, 4, 10, 20, 1));
        let later = 20 + LATE_NS;
        w.wait(call(9, Op::Read, 3, 15, later + 210, 1));
        w.wait(call(2, Op::Write, 4, later + 200, later + 203, 1));
        tell(&mut w, 4, later + 250);
        tell(&mut w, 3, later + 260);
        let waits: Vec<Wait> = all(&mut w).into_iter().filter(|w| w.op == Op::Read).collect();
        let by = waits[0].released_by.map(|by| (by.thread, by.began_ns));
        assert_eq!((waits.len(), by), (1, Some((2, later + 200))));
        assert_eq!(w.untold.len(), 0);
    }

    #[test]
    fn a_write_that_its_reader_overtakes_releases_it() {
        let mut w = Waits::new();
        w.streams.tell(3, "anon_inode:[eventfd]");
        // The writer loses its CPU within its call, to the reader that it woke. The next one had
        // begun to write before the next read began.
        w.wait(call(9, Op::Read, 3, 100, 202, 8));
        w.wait(call(1, Op::Write, 3, 200, 290, 8));
        w.wait(call(2, Op::Write, 3, 300, 340, 8));
        w.wait(call(9, Op::Read, 3, 310, 330, 8));
        let waits = all(&mut w);
        let by: Vec<_> = waits.iter().filter(|w| w.op == Op::Read).map(|w| w.released_by).collect();
        assert_eq!(
            by.iter().map(|by| by.map(|by| by.thread)).collect::<Vec<_>>(),
            [Some(1), Some(2)]
        );
    }

    #[test]
    fn memory_for_a_stream_that_nobody_reads_here_is_bounded() {
        let mut w = Waits::new();
        w.streams.tell(4, "pipe:[7]");
        for n in 0..10_000 {
            w.wait(call(1, Op::Write, 4, 10 * n, 10 * n + 5, 1));
        }
        assert!(w.objects.values().all(|o| o.wakes.len() <= WRITES_MAX));
    }

    #[test]
    fn the_last_at_a_barrier_releases_the_others_of_its_round() {
        let mut w = Waits::new();
        let at = |thread, began, ended, last| call(thread, Op::BarrierWait, 64, began, ended, last);
        // Thread 3 comes last and is last to leave: thread 1 is back by then, and waits for 2.
        w.wait(at(1, 100, 205, 0));
        w.wait(at(2, 110, 206, 0));
        w.wait(at(3, 200, 330, 1));
        w.wait(at(2, 320, 321, 1));
        w.wait(at(1, 210, 325, 0));
        let waits = all(&mut w);
        let by: Vec<_> =
            waits.iter().map(|w| (w.thread, w.released_by.map(|by| by.thread))).collect();
        assert_eq!(by, [(1, Some(3)), (2, Some(3)), (2, None), (1, Some(2)), (3, None)]);
        assert_eq!(w.explained().waits, 0);
    }

    #[test]
    fn who_joins_is_released_by_the_end_of_the_other() {
        let mut w = Waits::new();
        w.ends.extend([(5, 180), (6, 90)]);
        let join = |thread, began, ended, of| call(thread, Op::Join, 0x7000, began, ended, of);
        w.wait(join(1, 100, 200, 5));
        // That one had ended before; of this one nothing is known.
        w.wait(join(2, 100, 201, 6));
        w.wait(join(3, 100, 202, 0));
        let waits = all(&mut w);
        let piece = |p: &Piece| (p.from_ns, p.to_ns, p.by.map(|by| by.thread));
        let pieces =
            |n: usize| waits[n].pieces.iter().map(piece).collect::<Vec<(u64, u64, Option<u32>)>>();
        assert_eq!(pieces(0), [(100, 180, Some(5)), (180, 200, None)]);
        assert_eq!(pieces(1), [(100, 100, Some(6)), (100, 201, None)]);
        assert_eq!(pieces(2), [(100, 202, None)]);
        let by: Vec<_> = waits.iter().map(|w| w.released_by.map(|by| by.thread)).collect();
        assert_eq!(by, [Some(5), Some(6), None]);
    }
}
