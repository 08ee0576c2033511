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

/// A lane of a thread.
#[derive(Debug)]
struct Stream {
    track: u32,
    rank: u64,
    queue: VecDeque<Held>,
    held: Held,
    /// The next event: where it begins, its fields and its end in the body.
    at: usize,
    fields: usize,
    end: usize,
    kind: u64,
    slot: Slot,
    ticks: u64,
    /// Whether there is a next event.
    ready: bool,
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

/// An event that is to be given out now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picked {
    pub(crate) ts_ns: u64,
    pub(crate) late: bool,
    pub(crate) depth: u32,
    pub(crate) task: u64,
    pub(crate) ended: Option<OpenSpan>,
}

/// The event that a stream stands at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Current<'a> {
    pub(crate) offset: u64,
    pub(crate) thread: u32,
    pub(crate) lane: u8,
    pub(crate) tables: u32,
    pub(crate) kind: u64,
    pub(crate) slot: Slot,
    pub(crate) ticks: u64,
    /// From the fields to the end of the batch.
    pub(crate) fields: &'a [u8],
}

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
    held_bytes: usize,
    near: Near,
    spare: Vec<Vec<u8>>,
    pub(crate) damages: VecDeque<Damage>,
}

/// Buffers kept for the next batches: a bound, so that they do not add to a small input's memory.
const SPARE_MAX: usize = 8;

impl Stream {
    fn begin(&mut self) {
        (self.at, self.end, self.ticks) = (0, 0, self.held.first_ticks);
    }

    /// Stands at the event at `at`; `false` where it is not a short one.
    #[inline(always)]
    fn quick(&mut self, session: &Session) -> bool {
        let Some(rest) = self.held.body.get(self.at..) else { return false };
        let Some(tables) = session.tables_at(self.held.tables) else { return false };
        let Some(head) = shape::head(rest, tables.slots()) else { return false };
        self.stand(&head, head.end as usize);
        true
    }

    #[inline(always)]
    fn stand(&mut self, head: &shape::Head, len: usize) {
        self.fields = self.at + head.fields as usize;
        self.end = self.at + len;
        self.kind = head.kind;
        self.slot = head.slot;
        self.ticks = self.ticks.saturating_add(head.delta);
        self.ready = true;
    }

    /// The same for events of any size, and over the end of the batch; `Some` where the rest of
    /// the batch cannot be read.
    fn slow(&mut self, session: &Session) -> Option<Damage> {
        let rest = self.held.body.get(self.at..).unwrap_or_default();
        let tables = session.tables_at(self.held.tables)?;
        match scan::step_slow(session, tables, rest) {
            Ok((head, len)) => {
                self.stand(&head, len);
                None
            }
            Err(kind) => {
                let offset = self.held.offset + (HEADER_BYTES + self.at) as u64;
                Some(Damage { offset, len: rest.len() as u64, kind })
            }
        }
    }

    /// Goes over to the next batch; gives the body of the one before.
    fn next_batch(&mut self) -> Vec<u8> {
        let next = self.queue.pop_front();
        self.ready = next.is_some();
        let old = std::mem::replace(&mut self.held, next.unwrap_or_default());
        self.begin();
        old.body
    }

    #[inline(always)]
    fn key(&self) -> Key {
        Key { ticks: self.ticks, rank: self.rank }
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
        if stream.ready && stream.at == 0 && stream.held.sequence > held.sequence {
            let younger = std::mem::replace(&mut stream.held, held);
            stream.queue.push_front(younger);
            stream.begin();
        } else {
            let older = stream.queue.iter().rev().take_while(|q| q.sequence > held.sequence);
            let at = stream.queue.len() - older.count();
            stream.queue.insert(at, held);
            if stream.ready {
                return;
            }
        }
        if self.lead != NOBODY {
            self.tournament.set(self.lead.stream(), self.lead);
        }
        let key = self.next_key(session, index);
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
            at: 0,
            fields: 0,
            end: 0,
            kind: 0,
            slot: Slot::UNKNOWN,
            ticks: 0,
            ready: false,
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

    /// The key of the stream's next event.
    #[inline]
    fn next_key(&mut self, session: &Session, index: usize) -> Key {
        let Some(stream) = self.streams.get_mut(index) else { return NOBODY };
        stream.at = stream.end;
        if stream.quick(session) {
            return stream.key();
        }
        self.next_key_slow(session, index)
    }

    #[inline(never)]
    fn next_key_slow(&mut self, session: &Session, index: usize) -> Key {
        let Some(stream) = self.streams.get_mut(index) else { return NOBODY };
        loop {
            if stream.at < stream.held.body.len() {
                let Some(damage) = stream.slow(session) else { return stream.key() };
                self.damages.push_back(damage);
            }
            let body = stream.next_batch();
            self.held_bytes -= body.capacity();
            if self.spare.len() < SPARE_MAX {
                self.spare.push(body);
            }
            if !stream.ready {
                return NOBODY;
            }
            if stream.quick(session) {
                return stream.key();
            }
        }
    }

    /// The time of the event to give out next.
    pub(crate) fn next_ticks(&self) -> Option<u64> {
        (self.lead.rank != NOBODY.rank).then_some(self.lead.ticks)
    }

    /// Gives out the next event: what it does to its thread is taken in.
    #[inline]
    pub(crate) fn pick(&mut self, session: &mut Session) -> Option<Picked> {
        let index = self.lead.stream();
        let stream = self.streams.get(index)?;
        let track = self.tracks.get_mut(stream.track as usize)?;
        let ticks = stream.ticks;
        let ts_ns = session.clock().ns_near(ticks, &mut self.near).max(track.last_ns);
        track.last_ns = ts_ns;
        let late = ticks < self.given;
        self.given = self.given.max(ticks);
        session.totals.events += 1;
        let (depth, task) = (track.open.depth(), track.open.task());
        let ended = match stream.slot.action {
            Action::None => None,
            action => {
                let fields = stream.held.body.get(stream.fields..).unwrap_or_default();
                track.open.apply(action, stream.kind, ticks, stream.held.tables, fields)
            }
        };
        Some(Picked { ts_ns, late, depth, task, ended })
    }

    /// The event that was picked.
    #[inline]
    pub(crate) fn current(&self) -> Option<Current<'_>> {
        let stream = self.streams.get(self.lead.stream())?;
        Some(Current {
            offset: stream.held.offset + (HEADER_BYTES + stream.at) as u64,
            thread: stream.held.thread,
            lane: stream.held.lane,
            tables: stream.held.tables,
            kind: stream.kind,
            slot: stream.slot,
            ticks: stream.ticks,
            fields: stream.held.body.get(stream.fields..)?,
        })
    }
}
