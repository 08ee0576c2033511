//! Many streams of events to one order in time.
//!
//! A stream is a lane of a thread: its batches, in the order of their sequence. A tournament over
//! the streams' next events names the one to give out. It keeps the winner of each pair, with its
//! time, so that going up from a stream reads the other half of each pair at an address known
//! beforehand; while a stream stays ahead of all others, one comparison is enough.
//!
//! 1. An event has a place in the tournament only after all its values were checked.
//! 2. Events of a stream keep their order. At equal times the stream that was met first is first.
//! 3. Held bytes are counted; the owner keeps them bounded.
//! 4. Open spans are a lane's; the task and the last time are its thread's.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::VecDeque;

use trace::encode::wire::HEADER_BYTES;
use trace::encode::wire::Header;

use crate::batch::Batch;
use crate::clock::Near;
use crate::decoder::Stamp;
use crate::error::Damage;
use crate::open::Change;
use crate::open::Open;
use crate::open::OpenSpan;
use crate::scan;
use crate::shape;
use crate::shape::Action;
use crate::shape::Slot;
use crate::tables::Session;

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

/// An event that was checked and waits for its turn.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    ticks: u64,
    kind: u64,
    /// Where it begins in the body.
    at: u32,
    /// Where its fields begin.
    fields: u32,
    /// As in [`Slot`].
    steps: u32,
    action: Action,
}

/// Events that a stream looks ahead. 32: so many at once that stepping over them is a loop of its
/// own, which costs half of what a step between two turns of the tournament does.
const AHEAD_MAX: usize = 32;

/// A lane of a thread.
#[derive(Debug)]
struct Stream {
    track: u32,
    open: Open,
    /// The next events; the one at `next` has its place in the tournament.
    ahead: Vec<Ahead>,
    next: usize,
    /// Up to where the body was looked at, and the time there.
    at: usize,
    ticks: u64,
    held: Held,
    /// By sequence, then by offset: a late batch may come after younger ones.
    queue: BTreeMap<(u32, u64), Held>,
}

/// When a stream's next event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// At most [`TICKS_MAX`]; above it where the stream has no next event.
    ticks: u64,
    stream: usize,
}

/// The last time that has an order: what is later comes out as the input has it.
const TICKS_MAX: u64 = u64::MAX - 1;

/// The place of a stream without a next event.
const NOBODY: Place = Place { ticks: u64::MAX, stream: 0 };

/// The winner of each pair, leaves from the middle on: those of pair n stand at 2n and 2n + 1.
#[derive(Debug, Default)]
struct Tournament {
    nodes: Vec<Place>,
}

impl Tournament {
    fn leaves(&self) -> usize {
        self.nodes.len() / 2
    }

    /// Puts a stream's next event in; gives the winner and the earliest time of all others.
    /// Which of a pair wins cannot be predicted, so it must not be a branch.
    #[inline(always)]
    fn set(&mut self, place: Place) -> (Place, u64) {
        let mut at = self.leaves() + place.stream;
        let (mut best, mut others) = (place, u64::MAX);
        let (pairs, _) = self.nodes.as_chunks_mut::<2>();
        while at > 1
            && let Some(pair) = pairs.get_mut(at / 2)
        {
            let side = at & 1;
            pair[side] = best;
            let other = pair[side ^ 1];
            others = others.min(other.ticks);
            // The left one wins at equal times.
            let wins = other.ticks < best.ticks.saturating_add(side as u64);
            best.ticks = std::hint::select_unpredictable(wins, other.ticks, best.ticks);
            best.stream = std::hint::select_unpredictable(wins, other.stream, best.stream);
            at /= 2;
        }
        (best, others)
    }

    /// Makes room for one more stream.
    fn grow(&mut self, streams: usize) {
        let old = self.leaves();
        if streams <= old {
            return;
        }
        let leaves = streams.next_power_of_two().max(8);
        let mut grown = Tournament { nodes: vec![NOBODY; leaves * 2] };
        for place in &self.nodes[old..] {
            if *place != NOBODY {
                grown.set(*place);
            }
        }
        self.nodes = grown.nodes;
    }
}

/// What was given out last, but what its [`Stamp`] has.
#[derive(Clone, Copy, Debug, Default)]
struct Given {
    stream: usize,
    fields: usize,
    steps: u32,
    tables: u32,
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
    /// The event to give out next. What the tournament has of its stream may be older.
    lead: Place,
    /// The earliest time of all streams but the leading one; 0 where that is not known.
    others: u64,
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
    given: Given,
    held_bytes: usize,
    near: Near,
    spare: Vec<Vec<u8>>,
    damages: VecDeque<Damage>,
}

/// Buffers kept for the next batches: a bound, so that they do not add to a small input's memory.
const SPARE_MAX: usize = 8;

impl Stream {
    fn begin(&mut self) {
        self.ahead.clear();
        (self.next, self.at, self.ticks) = (0, 0, self.held.first_ticks);
    }

    /// Whether no event of its batch was given out.
    fn is_fresh(&self) -> bool {
        self.next == 0 && self.ahead.first().is_some_and(|a| a.at == 0)
    }

    /// Looks ahead over short events; `false` where the next one is none.
    fn look(&mut self, session: &Session) -> bool {
        self.ahead.clear();
        self.next = 0;
        let Some(mut rest) = self.held.body.get(self.at..) else { return false };
        // Two bytes at least make an event, so that small batches take no more than their share.
        self.ahead.reserve_exact(AHEAD_MAX.min(rest.len() / 2));
        let Some(tables) = session.tables_at(self.held.tables) else { return false };
        let slots = tables.slots();
        let (mut at, mut ticks) = (self.at as u32, self.ticks);
        while self.ahead.len() < AHEAD_MAX
            && let Some(head) = shape::head(rest, slots)
            && let Some(after) = rest.get(head.end as usize..)
        {
            ticks = ticks.saturating_add(head.delta);
            let Slot { steps, action, .. } = head.slot;
            let (kind, fields) = (head.kind, at + head.fields);
            self.ahead.push(Ahead { ticks, kind, at, fields, steps, action });
            at += head.end;
            rest = after;
        }
        (self.at, self.ticks) = (at as usize, ticks);
        !self.ahead.is_empty()
    }

    /// The same for one event of any size; `Some` where the rest of the batch cannot be read.
    fn look_slow(&mut self, session: &Session) -> Option<Damage> {
        let rest = self.held.body.get(self.at..).unwrap_or_default();
        let tables = session.tables_at(self.held.tables)?;
        match scan::step_slow(session, tables, rest) {
            Ok((head, len)) => {
                self.ticks = self.ticks.saturating_add(head.delta);
                let (at, fields) = (self.at as u32, self.at as u32 + head.fields);
                let Slot { steps, action, .. } = head.slot;
                let (ticks, kind) = (self.ticks, head.kind);
                self.ahead.push(Ahead { ticks, kind, at, fields, steps, action });
                self.at += len;
                None
            }
            Err(kind) => {
                let offset = self.held.offset + (HEADER_BYTES + self.at) as u64;
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

    /// The time of the next event, as the tournament has it.
    #[inline(always)]
    fn next_ticks(&self) -> u64 {
        self.ahead.get(self.next).map_or(NOBODY.ticks, |a| a.ticks.min(TICKS_MAX))
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
            lead: NOBODY,
            others: 0,
            limit: 0,
            limit_after: 0,
            enough: 0,
            latest: 0,
            events: 0,
            stamp: Stamp::default(),
            given: Given::default(),
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

    /// Takes a batch of events.
    pub(crate) fn add(&mut self, session: &mut Session, batch: &Batch<'_>) {
        let tables = session.epoch(batch.header.epoch);
        let held = self.hold(batch, tables);
        let index = self.stream(&batch.header);
        let Some(stream) = self.streams.get_mut(index) else { return };
        let is_idle = stream.next_ticks() > TICKS_MAX;
        if stream.is_fresh() && stream.held.sequence > held.sequence {
            let younger = std::mem::replace(&mut stream.held, held);
            stream.queue.insert((younger.sequence, younger.offset), younger);
            stream.begin();
        } else {
            stream.queue.insert((held.sequence, held.offset), held);
            if !is_idle {
                return;
            }
        }
        if self.lead != NOBODY {
            self.tournament.set(self.lead);
        }
        let ticks = self.look_ahead(session, index);
        (self.lead, self.others) = (self.tournament.set(Place { ticks, stream: index }).0, 0);
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

    fn stream(&mut self, h: &Header) -> usize {
        if let Some(index) = self.by_lane.get(&(h.thread, h.lane)) {
            return *index as usize;
        }
        let tracks = &mut self.tracks;
        let track = *self.by_thread.entry(h.thread).or_insert_with(|| {
            tracks.push(ThreadTrack::default());
            tracks.len() as u32 - 1
        });
        let index = self.streams.len();
        self.by_lane.insert((h.thread, h.lane), index as u32);
        self.streams.push(Stream {
            track,
            open: Open::default(),
            queue: BTreeMap::new(),
            held: Held::default(),
            ahead: Vec::new(),
            next: 0,
            at: 0,
            ticks: 0,
        });
        self.tournament.grow(self.streams.len());
        index
    }

    /// Goes on from the event that was given out last, which is of the leading stream.
    #[inline(always)]
    pub(crate) fn advance(&mut self, session: &Session) {
        let index = self.lead.stream;
        let Some(stream) = self.streams.get_mut(index) else { return };
        stream.next += 1;
        let ticks = match stream.ahead.get(stream.next) {
            Some(a) => a.ticks.min(TICKS_MAX),
            None => self.look_ahead(session, index),
        };
        if ticks < self.others {
            self.lead.ticks = ticks;
            return;
        }
        let (winner, others) = self.tournament.set(Place { ticks, stream: index });
        self.lead = winner;
        self.others = std::hint::select_unpredictable(winner.stream == index, others, 0);
    }

    /// Looks at the next events of a stream that has given out all that it had ahead.
    #[inline(never)]
    fn look_ahead(&mut self, session: &Session, index: usize) -> u64 {
        let Some(stream) = self.streams.get_mut(index) else { return NOBODY.ticks };
        loop {
            if stream.look(session) {
                return stream.next_ticks();
            }
            if stream.at < stream.held.body.len() {
                let Some(damage) = stream.look_slow(session) else { return stream.next_ticks() };
                self.damages.push_back(damage);
                self.limit = 0;
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
                return NOBODY.ticks;
            }
        }
    }

    /// Lets events before `limit` out; with `u64::MAX` all of them.
    pub(crate) fn release(&mut self, limit: u64) {
        (self.limit, self.limit_after, self.enough) = (limit, limit, 0);
    }

    /// Lets the oldest events out, until fewer than `enough` bytes are held.
    pub(crate) fn release_down_to(&mut self, enough: usize) {
        (self.limit, self.limit_after, self.enough) = (u64::MAX, u64::MAX, enough);
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

    /// Gives out the next event, where one may be: what it does to its thread is taken in.
    #[inline(always)]
    pub(crate) fn pick(&mut self, session: &Session) -> bool {
        if self.lead.ticks >= self.limit {
            return false;
        }
        let Some(stream) = self.streams.get_mut(self.lead.stream) else { return false };
        let Some(ahead) = stream.ahead.get(stream.next) else { return false };
        let Some(track) = self.tracks.get_mut(stream.track as usize) else { return false };
        let ticks = ahead.ticks;
        let ts_ns = session.clock().ns_near(ticks, &mut self.near).max(track.last_ns);
        track.last_ns = ts_ns;
        self.stamp = Stamp {
            ts_ns,
            ticks,
            kind: ahead.kind,
            offset: stream.held.offset + HEADER_BYTES as u64 + u64::from(ahead.at),
            task: track.task,
            thread: stream.held.thread,
            depth: stream.open.depth(),
            lane: stream.held.lane,
            late: ticks < self.latest,
        };
        self.given = Given {
            stream: self.lead.stream,
            fields: ahead.fields as usize,
            steps: ahead.steps,
            tables: stream.held.tables,
        };
        self.latest = self.latest.max(ticks);
        self.events += 1;
        let change = Change {
            action: ahead.action,
            kind: ahead.kind,
            ticks,
            tables: stream.held.tables,
            fields: stream.held.body.get(ahead.fields as usize..).unwrap_or_default(),
        };
        stream.open.apply(change, &mut track.task);
        true
    }

    /// The event that was picked.
    #[inline(always)]
    pub(crate) fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// The span that it ended.
    pub(crate) fn ended(&self) -> Option<OpenSpan> {
        self.streams.get(self.given.stream)?.open.ended()
    }

    /// From its fields to the end of its batch.
    #[inline(always)]
    pub(crate) fn fields(&self) -> &[u8] {
        let stream = self.streams.get(self.given.stream);
        stream.and_then(|s| s.held.body.get(self.given.fields..)).unwrap_or_default()
    }

    /// The steps of its kind, as a [`Slot`] has them.
    #[inline(always)]
    pub(crate) fn steps(&self) -> u32 {
        self.given.steps
    }

    /// The index of its tables.
    #[inline(always)]
    pub(crate) fn tables(&self) -> u32 {
        self.given.tables
    }

    /// How many events were given out, and the latest time of one.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.events, self.latest)
    }
}
