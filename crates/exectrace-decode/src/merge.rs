//! Many streams of events to one order in time.
//!
//! A stream is a lane of a thread: its batches, in the order of their sequence. A tournament over
//! the streams' next events names the one to give out. It keeps the winner of each pair, with its
//! time, so that going up from a stream reads the other half of each pair at an address known
//! beforehand; while a stream stays ahead of all others, one comparison is enough.
//!
//! 1. An event has a place in the tournament only after all its values were checked.
//! 2. Events of a stream keep their order. Equal times: the lower thread first, main lane first.
//! 3. Held bytes are counted; the owner keeps them bounded.

use std::collections::HashMap;
use std::collections::VecDeque;

use trace::encode::wire::HEADER_BYTES;
use trace::encode::wire::Header;

use crate::batch::Batch;
use crate::clock::Near;
use crate::decoder::Stamp;
use crate::error::Damage;
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
    slot: Slot,
}

/// Events that a stream looks ahead. 32: so many at once that stepping over them is a loop of its
/// own, which costs half of what a step between two turns of the tournament does.
const AHEAD_MAX: usize = 32;

/// A lane of a thread.
#[derive(Debug)]
struct Stream {
    track: u32,
    rank: u64,
    /// The next events; the one at `next` has its place in the tournament.
    ahead: Vec<Ahead>,
    next: usize,
    /// Up to where the body was looked at, and the time there.
    at: usize,
    ticks: u64,
    held: Held,
    queue: VecDeque<Held>,
}

/// When a stream's next event is, and which stream: thread, lane and index from the highest bit
/// down, so that equal times have an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    ticks: u64,
    rank: u64,
}

/// The key of a stream without a next event.
const NOBODY: Key = Key { ticks: u64::MAX, rank: u64::MAX };

impl Key {
    #[inline(always)]
    fn is_before(self, other: Key) -> bool {
        let whole = |k: Key| u128::from(k.ticks) << 64 | u128::from(k.rank);
        whole(self) < whole(other)
    }

    /// The earlier of two. Which one that is cannot be predicted, so it must not be a branch.
    #[inline(always)]
    fn min(self, other: Key) -> Key {
        let first = self.is_before(other);
        Key {
            ticks: std::hint::select_unpredictable(first, self.ticks, other.ticks),
            rank: std::hint::select_unpredictable(first, self.rank, other.rank),
        }
    }

    #[inline(always)]
    fn stream(self) -> usize {
        (self.rank & 0x7fff_ffff) as usize
    }
}

/// The winner of each pair; leaves from the middle on.
#[derive(Debug, Default)]
struct Tournament {
    nodes: Vec<Key>,
}

impl Tournament {
    fn leaves(&self) -> usize {
        self.nodes.len() / 2
    }

    #[inline(always)]
    fn winner(&self) -> Key {
        self.nodes.get(1).copied().unwrap_or(NOBODY)
    }

    /// Puts a stream's next event in; gives the winner and the best of all other streams.
    #[inline(always)]
    fn set(&mut self, stream: usize, key: Key) -> (Key, Key) {
        let mut at = self.leaves() + stream;
        let (mut best, mut others) = (key, NOBODY);
        let nodes = &mut self.nodes[..];
        while at > 1 && at < nodes.len() {
            nodes[at] = best;
            let other = nodes.get(at ^ 1).copied().unwrap_or(NOBODY);
            others = others.min(other);
            best = best.min(other);
            at /= 2;
        }
        if let Some(root) = nodes.get_mut(1) {
            *root = best;
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
        let mut nodes = vec![NOBODY; leaves * 2];
        nodes[leaves..leaves + old].copy_from_slice(&self.nodes[old..]);
        for at in (1..leaves).rev() {
            nodes[at] = nodes[at * 2].min(nodes[at * 2 + 1]);
        }
        self.nodes = nodes;
    }
}

/// Before every other key: it has no stream.
const FIRST: Key = Key { ticks: 0, rank: 0 };

#[derive(Debug, Default)]
struct ThreadTrack {
    open: Open,
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
    /// The key of the event to give out next. What the tournament has of its stream may be older.
    lead: Key,
    /// The best of all streams but the leading one; [`FIRST`] where that is not known.
    others: Key,
    /// The latest time given out.
    given: u64,
    given_events: u64,
    stamp: Stamp,
    ended: Option<OpenSpan>,
    held_bytes: usize,
    near: Near,
    spare: Vec<Vec<u8>>,
    pub(crate) damages: VecDeque<Damage>,
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
            let (kind, slot, fields) = (head.kind, head.slot, at + head.fields);
            self.ahead.push(Ahead { ticks, kind, at, fields, slot });
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
                let (ticks, kind, slot) = (self.ticks, head.kind, head.slot);
                self.ahead.push(Ahead { ticks, kind, at, fields, slot });
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
        let next = self.queue.pop_front();
        let is_last = next.is_none();
        let old = std::mem::replace(&mut self.held, next.unwrap_or_default());
        self.begin();
        if is_last { Err(old.body) } else { Ok(old.body) }
    }

    #[inline(always)]
    fn key(&self) -> Key {
        match self.ahead.get(self.next) {
            Some(a) => Key { ticks: a.ticks, rank: self.rank },
            None => NOBODY,
        }
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
            others: FIRST,
            given: 0,
            given_events: 0,
            stamp: Stamp::default(),
            ended: None,
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
        let is_idle = stream.key() == NOBODY;
        if stream.is_fresh() && stream.held.sequence > held.sequence {
            let younger = std::mem::replace(&mut stream.held, held);
            stream.queue.push_front(younger);
            stream.begin();
        } else {
            let older = stream.queue.iter().rev().take_while(|q| q.sequence > held.sequence);
            let at = stream.queue.len() - older.count();
            stream.queue.insert(at, held);
            if !is_idle {
                return;
            }
        }
        if self.lead != NOBODY {
            self.tournament.set(self.lead.stream(), self.lead);
        }
        let key = self.look_ahead(session, index);
        (self.lead, self.others) = (self.tournament.set(index, key).0, FIRST);
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
            rank: u64::from(h.thread) << 32 | u64::from(h.lane & 1) << 31 | index as u64,
            queue: VecDeque::new(),
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
    #[inline]
    pub(crate) fn advance(&mut self, session: &Session) {
        let index = self.lead.stream();
        let key = self.next_key(session, index);
        if key.is_before(self.others) {
            self.lead = key;
            return;
        }
        let (winner, others) = self.tournament.set(index, key);
        self.lead = winner;
        let first = winner.rank == key.rank;
        self.others = Key {
            ticks: std::hint::select_unpredictable(first, others.ticks, FIRST.ticks),
            rank: std::hint::select_unpredictable(first, others.rank, FIRST.rank),
        };
    }

    /// Goes on by an event; gives the key of the stream's next one.
    #[inline(always)]
    fn next_key(&mut self, session: &Session, index: usize) -> Key {
        let Some(stream) = self.streams.get_mut(index) else { return NOBODY };
        stream.next += 1;
        match stream.ahead.get(stream.next) {
            Some(a) => Key { ticks: a.ticks, rank: stream.rank },
            None => self.look_ahead(session, index),
        }
    }

    /// Looks at the next events of a stream that has given out all that it had ahead.
    #[inline(never)]
    fn look_ahead(&mut self, session: &Session, index: usize) -> Key {
        let Some(stream) = self.streams.get_mut(index) else { return NOBODY };
        loop {
            if stream.look(session) {
                return stream.key();
            }
            if stream.at < stream.held.body.len() {
                let Some(damage) = stream.look_slow(session) else { return stream.key() };
                self.damages.push_back(damage);
            }
            let next = stream.next_batch();
            let is_last = next.is_err();
            let (Ok(body) | Err(body)) = next;
            self.held_bytes -= body.capacity();
            if self.spare.len() < SPARE_MAX {
                self.spare.push(body);
            }
            if is_last {
                return NOBODY;
            }
        }
    }

    /// The time of the event to give out next.
    pub(crate) fn next_ticks(&self) -> Option<u64> {
        (self.lead.rank != NOBODY.rank).then_some(self.lead.ticks)
    }

    /// Gives out the next event: what it does to its thread is taken in.
    #[inline(always)]
    pub(crate) fn pick(&mut self, session: &Session) -> bool {
        let Some(stream) = self.streams.get(self.lead.stream()) else { return false };
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
            task: track.open.task(),
            thread: stream.held.thread,
            depth: track.open.depth(),
            lane: stream.held.lane,
            late: ticks < self.given,
        };
        self.given = self.given.max(ticks);
        self.given_events += 1;
        self.ended = match ahead.slot.action {
            Action::None => None,
            action => {
                let fields = stream.held.body.get(ahead.fields as usize..).unwrap_or_default();
                track.open.apply(action, ahead.kind, ticks, stream.held.tables, fields)
            }
        };
        true
    }

    /// The event that was picked.
    #[inline]
    pub(crate) fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// The span that it ended.
    pub(crate) fn ended(&self) -> Option<OpenSpan> {
        self.ended
    }

    /// What it is of, and the bytes from its fields to the end of its batch; the index of its
    /// tables.
    #[inline]
    pub(crate) fn current(&self) -> Option<(Slot, &[u8], u32)> {
        let stream = self.streams.get(self.lead.stream())?;
        let ahead = stream.ahead.get(stream.next)?;
        Some((ahead.slot, stream.held.body.get(ahead.fields as usize..)?, stream.held.tables))
    }

    /// How many events were given out, and the latest time of one.
    pub(crate) fn given(&self) -> (u64, u64) {
        (self.given_events, self.given)
    }
}
