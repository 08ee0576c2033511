//! Many streams of events to one order in time.
//!
//! A stream is a lane of a thread: its batches, in the order of their sequence. A tournament over
//! the streams' next events names the one to give out; while a stream stays ahead of all others,
//! one comparison is enough.
//!
//! 1. An event has a place in the tournament only after all its values were checked.
//! 2. Events of a stream keep their order. At equal times the stream that was met first is first.
//! 3. Held bytes are counted; the owner keeps them bounded.
//! 4. Open spans are a lane's; the task and the last time are its thread's.
//! 5. What was given out last stays where it is until the call after it: only then may its stream
//!    look further ahead.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::hint::select_unpredictable;

use trace::encode::wire::HEADER_BYTES;
use trace::encode::wire::Header;

use crate::ahead::Reached;
use crate::ahead::Window;
use crate::batch::Batch;
use crate::clock::Near;
use crate::decoder::Stamp;
use crate::error::Damage;
use crate::open::Open;
use crate::open::OpenSpan;
use crate::scan;
use crate::tables::Session;
use crate::tournament::NEVER;
use crate::tournament::Place;
use crate::tournament::TICKS_MAX;
use crate::tournament::Tournament;

/// A batch of events that waits for its turn.
#[derive(Debug, Default)]
struct Held {
    offset: u64,
    thread: u32,
    lane: u8,
    sequence: u32,
    tables: u32,
    first_ticks: u64,
    body: Vec<u8>,
}

/// A lane of a thread.
#[derive(Debug)]
struct Stream {
    track: u32,
    open: Open,
    /// The next events; the first of them has its place in the tournament.
    ahead: Window,
    reached: Reached,
    held: Held,
    /// By sequence, then by offset: a late batch may come after younger ones.
    queue: BTreeMap<(u32, u64), Held>,
}

/// What was given out last, but what its [`Stamp`] has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Given<'a> {
    /// From its fields to the end of its batch.
    pub(crate) fields: &'a [u8],
    /// The steps of its kind, as a [`Meaning`](crate::shape::Meaning) has them.
    pub(crate) steps: u32,
    /// The index of its tables.
    pub(crate) tables: u32,
}

#[derive(Debug, Default)]
struct ThreadTrack {
    task: u64,
    last_ns: u64,
}

/// The merge of one session.
#[derive(Debug)]
pub(crate) struct Merge {
    streams: Vec<Stream>,
    by_lane: HashMap<(u32, u8), u32>,
    tournament: Tournament,
    tracks: Vec<ThreadTrack>,
    by_thread: HashMap<u32, u32>,
    /// What was given out last.
    given: Turn,
    /// Whose event is next, and when it is. The time is [`NEVER`] where there is none, and where
    /// that stream must look further ahead first.
    next: Place,
    /// Before this time no stream has an event but the one that is next, of which the tournament
    /// knows an older one. 0 where no such time is known.
    bound: u64,
    /// How often in a row that stream was first.
    streak: u32,
    /// Events before this time may be given out.
    limit: u64,
    /// What `limit` is once `damages` were told.
    limit_after: u64,
    /// Where fewer bytes than this are held, nothing more may be given out.
    enough: usize,
    /// The latest time given out.
    latest: u64,
    events: u64,
    stamp: Stamp,
    held_bytes: usize,
    near: Near,
    spare: Vec<Vec<u8>>,
    damages: VecDeque<Damage>,
}

/// An event of a stream's window.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    stream: u32,
    place: u32,
}

/// A stream that was first so often in a row is taken to stay first for a while: what comes after
/// it is asked for, and from then on its events are compared with that alone. More than one, since
/// where streams take turns singly this would be asked for in vain, and guessed wrong.
const STREAK: u32 = 2;

/// Buffers kept for the next batches: a bound, so that they do not add to a small input's memory.
const SPARE_MAX: usize = 8;

impl Stream {
    fn begin(&mut self) {
        self.ahead.clear();
        self.reached = Reached { at: 0, ticks: self.held.first_ticks };
    }

    /// Looks at the next events; `Some` where the rest of the batch cannot be read.
    fn look(&mut self, session: &Session) -> Option<Damage> {
        let tables = session.tables_at(self.held.tables)?;
        self.ahead.look(&self.held.body, tables.slots(), &mut self.reached);
        let rest = self.held.body.get(self.reached.at..)?;
        if !self.ahead.is_empty() || rest.is_empty() {
            return None;
        }
        match scan::step_slow(session, tables, rest) {
            Ok((head, len)) => {
                self.ahead.put(&head, len, &mut self.reached);
                None
            }
            Err(kind) => {
                let offset = self.held.offset + (HEADER_BYTES + self.reached.at) as u64;
                Some(Damage { offset, len: rest.len() as u64, kind })
            }
        }
    }

    /// Goes over to the next batch; gives the body of the one before, `Err` where it was the last.
    fn next_batch(&mut self) -> Result<Vec<u8>, Vec<u8>> {
        let next = self.queue.pop_first().map(|q| q.1);
        let is_last = next.is_none();
        let old = std::mem::replace(&mut self.held, next.unwrap_or_default());
        self.begin();
        if is_last { Err(old.body) } else { Ok(old.body) }
    }
}

impl Default for Merge {
    fn default() -> Self {
        Merge {
            streams: Vec::new(),
            by_lane: HashMap::new(),
            tournament: Tournament::default(),
            tracks: Vec::new(),
            by_thread: HashMap::new(),
            given: Turn::default(),
            next: Place { ticks: NEVER, stream: 0 },
            bound: 0,
            streak: 0,
            limit: 0,
            limit_after: 0,
            enough: 0,
            latest: 0,
            events: 0,
            stamp: Stamp::default(),
            held_bytes: 0,
            near: Near::default(),
            spare: Vec::new(),
            damages: VecDeque::new(),
        }
    }
}

impl Merge {
    /// Bytes of batches that wait.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Says that the clock has new snapshots.
    pub(crate) fn clock_changed(&mut self) {
        self.near = Near::default();
    }

    /// Takes a batch of events, after [`Merge::go_on`] found none that may be given out: what is
    /// next is known then.
    pub(crate) fn add(&mut self, session: &mut Session, batch: &Batch<'_>) {
        let tables = session.epoch(batch.header.epoch);
        let held = self.hold(batch, tables);
        let index = self.stream(&batch.header);
        let Some(stream) = self.streams.get_mut(index as usize) else { return };
        let is_idle = stream.ahead.is_empty();
        if stream.ahead.is_at_start() && stream.held.sequence > held.sequence {
            let younger = std::mem::replace(&mut stream.held, held);
            stream.queue.insert((younger.sequence, younger.offset), younger);
            stream.begin();
        } else {
            stream.queue.insert((held.sequence, held.offset), held);
            if !is_idle {
                return;
            }
        }
        if self.next.ticks < NEVER {
            self.put(self.next.stream);
        }
        self.look_ahead(session, index);
        self.put(index);
    }

    fn hold(&mut self, batch: &Batch<'_>, tables: u32) -> Held {
        let (h, bytes) = (&batch.header, batch.body());
        // A large spare would make many small batches take more memory than their input may.
        let spare = self.spare.pop().filter(|s| s.capacity() <= 2 * bytes.len());
        let mut body = spare.unwrap_or_default();
        body.clear();
        body.reserve_exact(bytes.len());
        body.extend_from_slice(bytes);
        self.held_bytes += body.capacity();
        Held {
            offset: batch.offset,
            thread: h.thread,
            lane: h.lane,
            sequence: h.sequence,
            tables,
            first_ticks: h.first_ticks,
            body,
        }
    }

    fn stream(&mut self, h: &Header) -> u32 {
        if let Some(index) = self.by_lane.get(&(h.thread, h.lane)) {
            return *index;
        }
        let tracks = &mut self.tracks;
        let track = *self.by_thread.entry(h.thread).or_insert_with(|| {
            tracks.push(ThreadTrack::default());
            tracks.len() as u32 - 1
        });
        let index = self.streams.len() as u32;
        self.by_lane.insert((h.thread, h.lane), index);
        self.streams.push(Stream {
            track,
            open: Open::default(),
            queue: BTreeMap::new(),
            held: Held::default(),
            ahead: Window::default(),
            reached: Reached::default(),
        });
        self.tournament.grow(self.streams.len());
        index
    }

    /// Looks at the next events of a stream that has given out all that it had ahead.
    #[inline(never)]
    fn look_ahead(&mut self, session: &Session, index: u32) {
        let Some(stream) = self.streams.get_mut(index as usize) else { return };
        loop {
            if let Some(damage) = stream.look(session) {
                self.damages.push_back(damage);
                self.limit = 0;
            }
            if !stream.ahead.is_empty() {
                return;
            }
            let next = stream.next_batch();
            let is_last = next.is_err();
            let (Ok(body) | Err(body)) = next;
            self.held_bytes -= body.capacity();
            if self.spare.len() < SPARE_MAX {
                self.spare.push(body);
            }
            if self.held_bytes < self.enough {
                (self.limit, self.limit_after, self.enough) = (0, 0, 0);
            }
            if is_last {
                return;
            }
        }
    }

    /// Lets events before `limit` out; with `u64::MAX` all of them.
    pub(crate) fn release(&mut self, limit: u64) {
        (self.limit, self.limit_after, self.enough) = (limit, limit, 0);
    }

    /// Lets the oldest events out, until fewer than `enough` bytes are held.
    pub(crate) fn release_down_to(&mut self, enough: usize) {
        self.release(u64::MAX);
        self.enough = enough;
    }

    /// Notes a range of the input that could not be read.
    pub(crate) fn damaged(&mut self, damage: Damage) {
        self.damages.push_back(damage);
        self.limit = 0;
    }

    /// The next range of a batch that could not be read.
    pub(crate) fn next_damage(&mut self) -> Option<Damage> {
        let damage = self.damages.pop_front();
        if self.damages.is_empty() {
            self.limit = self.limit_after;
        }
        damage
    }

    /// Goes on to the next event, where one may be given out. Which one comes after it is found at
    /// the same time: the processor need not wait for that before it goes on with this one.
    #[inline(always)]
    pub(crate) fn go_on(&mut self, session: &Session) -> bool {
        if self.next.ticks >= self.limit && !self.settle(session) {
            return false;
        }
        let index = self.next.stream;
        let Some(stream) = self.streams.get_mut(index as usize) else { return false };
        let Some(track) = self.tracks.get_mut(stream.track as usize) else { return false };
        self.given = Turn { stream: index, place: stream.ahead.take() };
        let [after, after_that] = stream.ahead.next();
        let (held, event) = (&stream.held, stream.ahead.at(self.given.place));
        let ticks = event.ticks;
        let ts_ns = session.clock().ns_near(ticks, &mut self.near).max(track.last_ns);
        track.last_ns = ts_ns;
        self.stamp = Stamp {
            ts_ns,
            ticks,
            kind: event.kind,
            offset: held.offset + HEADER_BYTES as u64 + u64::from(event.at),
            task: track.task,
            thread: held.thread,
            depth: stream.open.depth(),
            lane: held.lane,
            late: ticks < self.latest,
        };
        self.latest = self.latest.max(ticks);
        self.events += 1;
        stream.open.apply(event, held.tables, &held.body, &mut track.task);
        match after < self.bound {
            true => self.next.ticks = after,
            false => self.turn(after, after_that),
        }
        true
    }

    /// Finds whose event is next, where the stream of the one that was goes on with events at
    /// these times.
    #[inline(never)]
    fn turn(&mut self, after: u64, after_that: u64) {
        let stream = self.next.stream;
        if after > TICKS_MAX {
            return self.turn_at_end(after_that);
        }
        self.next = match self.bound {
            0 => self.tournament.go_on(stream, after_that),
            _ => self.tournament.set(Place { ticks: after, stream }, after_that),
        };
        self.bound = 0;
        self.streak = select_unpredictable(self.next.stream == stream, self.streak + 1, 0);
        if self.streak == STREAK {
            self.streak = 0;
            self.bound = self.tournament.second(stream);
        }
    }

    /// The same for a stream that must look further ahead first, or has come to the end of time.
    #[cold]
    fn turn_at_end(&mut self, after_that: u64) {
        let stream = self.next.stream;
        self.bound = 0;
        match self.streams.get(stream as usize).is_none_or(|s| s.ahead.is_empty()) {
            true => self.next.ticks = NEVER,
            false => {
                let place = Place { ticks: TICKS_MAX, stream };
                self.next = self.tournament.set(place, after_that);
            }
        }
    }

    /// Makes sure of what is next, where its stream has given out all that it had ahead; tells
    /// whether it may be given out.
    #[inline(never)]
    fn settle(&mut self, session: &Session) -> bool {
        let stream = self.next.stream;
        let is_done = |s: &Stream| s.held.body.is_empty();
        if self.next.ticks == NEVER && !self.streams.get(stream as usize).is_none_or(is_done) {
            self.look_ahead(session, stream);
            self.put(stream);
        }
        self.next.ticks < self.limit
    }

    /// Gives a stream that has looked ahead its place in the tournament.
    fn put(&mut self, stream: u32) {
        let Some(window) = self.streams.get(stream as usize).map(|s| &s.ahead) else { return };
        let [ticks, after] = window.next();
        let ticks = if window.is_empty() { NEVER } else { ticks.min(TICKS_MAX) };
        self.next = self.tournament.set(Place { ticks, stream }, after);
        self.bound = 0;
    }

    /// The event that was given out last.
    #[inline(always)]
    pub(crate) fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// The span that it ended.
    pub(crate) fn ended(&self) -> Option<OpenSpan> {
        self.streams.get(self.given.stream as usize)?.open.ended()
    }

    /// What else is known of it.
    #[inline(always)]
    pub(crate) fn given(&self) -> Given<'_> {
        let Some(stream) = self.streams.get(self.given.stream as usize) else {
            return Given::default();
        };
        let (held, event) = (&stream.held, stream.ahead.at(self.given.place));
        let fields = held.body.get(event.fields as usize..).unwrap_or_default();
        Given { fields, steps: event.meaning.steps, tables: held.tables }
    }

    /// How many events were given out, and the latest time of one.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.events, self.latest)
    }
}
