//! Counts of events by kind, batch by batch, at the speed of a bare decode.
//!
//! Every event is stepped over and checked, its time is summed up, nothing is merged or kept but
//! the session's tables, of stacks only how many there are. Memory does not depend on how many
//! events there are.

use trace::encode::field::Reader;
use trace::encode::schema::Kind;
use trace::encode::schema::Memory;
use trace::encode::wire::BatchKind;
use trace::encode::wire::Header;

use crate::error::Damage;
use crate::error::DamageKind;
use crate::error::Error;
use crate::shape;
use crate::shape::Slot;
use crate::source::Source;
use crate::source::Unit;
use crate::structural;
use crate::tables::Session;
use crate::tables::Tables;

/// How a [`Scan`] works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Whether to keep stacks, so that [`Tables::stack`] finds them. A program with many has tens
    /// of megabytes of them, and counts need none.
    pub keep_stacks: bool,
}

/// What a [`Scan`] meets.
#[derive(Clone, Copy, Debug)]
pub enum ScanItem<'a> {
    /// A session begins.
    SessionBegin(&'a Session),
    /// A batch was read.
    Batch(ScanBatch<'a>),
    /// Bytes were skipped.
    Damage(Damage),
    /// The session has ended, with or without its end mark.
    SessionEnd(&'a Session),
}

/// A batch that a [`Scan`] has read.
#[derive(Clone, Copy, Debug)]
pub struct ScanBatch<'a> {
    /// Its session.
    pub session: &'a Session,
    /// The tables of its epoch; `None` for a batch without any use of them.
    pub tables: Option<&'a Tables>,
    /// Its header.
    pub header: &'a Header,
    /// Where it begins in the input.
    pub offset: u64,
    /// How many events decoded, timed or structural. Fewer than the header's `count` where the
    /// batch is damaged.
    pub events: u64,
    /// How many of each kind.
    pub counts: &'a [(u64, u64)],
    /// What was seen of the process's memory, with its time in ticks: seldom, and so the one kind
    /// of timed event that is not only counted.
    pub memory: &'a [(u64, Memory<'static>)],
    /// The time of its last event; that of the header's `first_ticks` without one.
    pub last_ticks: u64,
}

impl ScanBatch<'_> {
    /// Whether its events are timed ones.
    pub fn is_events(&self) -> bool {
        self.header.kind == BatchKind::Events as u8
    }
}

/// Counts of events by kind. Feed it with [`Scan::push`], then ask [`Scan::next_item`] until it
/// gives `None`.
#[derive(Debug, Default)]
pub struct Scan {
    options: Options,
    source: Source,
    session: Option<Session>,
    counts: Counts,
    found: Vec<(u64, u64)>,
    memory: Vec<(u64, Memory<'static>)>,
    damage: Option<Damage>,
    header: Option<Header>,
    ended: bool,
}

impl Scan {
    /// A scan of an input from its start.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, working otherwise.
    pub fn with(options: Options) -> Self {
        Scan { options, ..Self::default() }
    }

    /// Takes the next bytes of the input.
    pub fn push(&mut self, bytes: &[u8]) {
        self.source.push(bytes);
    }

    /// Says that the input ends here.
    pub fn finish(&mut self) {
        self.source.finish();
    }

    /// What comes next; `None` where more input is needed, and at the end.
    pub fn next_item(&mut self) -> Result<Option<ScanItem<'_>>, Error> {
        if let Some(damage) = self.damage.take() {
            return Ok(Some(self.damaged(damage)));
        }
        if std::mem::take(&mut self.ended) {
            self.session = None;
        }
        match self.source.next()? {
            None => Ok(None),
            Some(Unit::Damage(damage)) => Ok(Some(self.damaged(damage))),
            Some(Unit::Begin { id, offset, first_ticks }) => {
                let session = Session::new(id, offset, first_ticks);
                self.session = Some(match self.options.keep_stacks {
                    true => session,
                    false => session.without_stacks(),
                });
                Ok(self.session.as_ref().map(ScanItem::SessionBegin))
            }
            Some(Unit::End) => {
                self.ended = true;
                Ok(self.session.as_ref().map(ScanItem::SessionEnd))
            }
            Some(Unit::Batch(held)) => {
                let batch = self.source.view(&held);
                let Some(session) = &mut self.session else { return Ok(None) };
                let (header, offset) = (batch.header, batch.offset);
                let read = read_batch(session, &header, batch.body(), &mut self.counts);
                self.counts.take(&mut self.found);
                self.memory.clear();
                if header.kind == BatchKind::Events as u8
                    && self.found.iter().any(|(kind, _)| *kind == Kind::Memory as u64)
                    && let Some(tables) = session.tables(header.epoch)
                {
                    let body = batch.body().get(..read.bytes).unwrap_or_default();
                    read_memory(session, tables, header.first_ticks, body, &mut self.memory);
                }
                if let Some(kind) = read.damage {
                    let at = 64 + read.bytes as u64;
                    let len = u64::from(header.length) - at;
                    self.damage = Some(Damage { offset: offset + at, len, kind });
                }
                if session.end().is_some() {
                    self.source.close();
                }
                self.header = Some(header);
                Ok(self.batch(offset, &read))
            }
        }
    }

    fn batch(&self, offset: u64, read: &Read) -> Option<ScanItem<'_>> {
        let (session, header) = (self.session.as_ref()?, self.header.as_ref()?);
        Some(ScanItem::Batch(ScanBatch {
            session,
            tables: session.tables(header.epoch),
            header,
            offset,
            events: read.events,
            counts: &self.found,
            memory: &self.memory,
            last_ticks: read.last_ticks,
        }))
    }

    fn damaged(&mut self, damage: Damage) -> ScanItem<'_> {
        if let Some(session) = &mut self.session {
            session.totals.damages += 1;
            session.totals.damaged_bytes += damage.len;
        }
        ScanItem::Damage(damage)
    }
}

/// What was read of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) events: u64,
    /// Bytes of the body that these events have.
    pub(crate) bytes: usize,
    pub(crate) last_ticks: u64,
    /// What is wrong with the rest.
    pub(crate) damage: Option<DamageKind>,
}

/// How often each kind occurred in a batch.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// By kind, as the epoch's slots.
    near: Vec<u32>,
    /// The kinds in `near` that are not zero.
    met: Vec<u32>,
    far: Vec<u64>,
}

impl Counts {
    fn add(&mut self, kind: u64) {
        match usize::try_from(kind).ok().and_then(|k| self.near.get_mut(k)) {
            Some(count) => {
                if *count == 0 {
                    self.met.push(kind as u32);
                }
                *count += 1;
            }
            None => self.far.push(kind),
        }
    }

    fn take(&mut self, out: &mut Vec<(u64, u64)>) {
        out.clear();
        self.met.sort_unstable();
        for kind in self.met.drain(..) {
            if let Some(count) = self.near.get_mut(kind as usize) {
                out.push((u64::from(kind), u64::from(std::mem::take(count))));
            }
        }
        self.far.sort_unstable();
        for kind in self.far.drain(..) {
            match out.last_mut() {
                Some((last, count)) if *last == kind => *count += 1,
                _ => out.push((kind, 1)),
            }
        }
    }
}

/// Reads all events of a batch: counts them, and takes in what structural ones say.
pub(crate) fn read_batch(
    session: &mut Session,
    header: &Header,
    body: &[u8],
    counts: &mut Counts,
) -> Read {
    session.totals.batches += 1;
    session.totals.bytes += u64::from(header.length);
    let none = Read { events: 0, bytes: body.len(), last_ticks: header.first_ticks, damage: None };
    match BatchKind::from_u8(header.kind) {
        Some(BatchKind::Events) => {
            let index = session.epoch(header.epoch);
            let read = match session.tables_at(index) {
                Some(tables) => read_events(session, tables, header.first_ticks, body, counts),
                None => return none,
            };
            session.totals.events += read.events;
            session.saw_ticks(read.last_ticks);
            let first = session.totals.first_ticks.unwrap_or(u64::MAX).min(header.first_ticks);
            session.totals.first_ticks = Some(first);
            read
        }
        Some(_) => read_structural(session, header, body, counts),
        None => none,
    }
}

fn read_structural(
    session: &mut Session,
    header: &Header,
    body: &[u8],
    counts: &mut Counts,
) -> Read {
    let mut read = Read { events: 0, bytes: 0, last_ticks: header.first_ticks, damage: None };
    if counts.near.len() < 64 {
        counts.near.resize(64, 0);
    }
    while let Some(rest) = body.get(read.bytes..).filter(|r| !r.is_empty()) {
        match structural::apply(session, header.epoch, rest) {
            Ok((kind, len)) => {
                counts.add(kind);
                read.bytes += len;
                read.events += 1;
            }
            Err(kind) => {
                read.damage = Some(kind);
                break;
            }
        }
    }
    read
}

/// Steps over the events of a body.
pub(crate) fn read_events(
    session: &Session,
    tables: &Tables,
    first_ticks: u64,
    body: &[u8],
    counts: &mut Counts,
) -> Read {
    let slots = tables.slots();
    if counts.near.len() < slots.len() {
        counts.near.resize(slots.len(), 0);
    }
    let mut read = Read { events: 0, bytes: 0, last_ticks: first_ticks, damage: None };
    loop {
        read_quick(&mut read, slots, body, counts);
        let Some(rest) = body.get(read.bytes..).filter(|r| !r.is_empty()) else { return read };
        match step_slow(session, tables, rest) {
            Ok((head, len)) => {
                counts.add(head.kind);
                read.bytes += len;
                read.events += 1;
                read.last_ticks = read.last_ticks.saturating_add(head.delta);
            }
            Err(kind) => {
                read.damage = Some(kind);
                return read;
            }
        }
    }
}

/// Reads the events of one kind in a body that was stepped over before.
fn read_memory(
    session: &Session,
    tables: &Tables,
    first_ticks: u64,
    body: &[u8],
    out: &mut Vec<(u64, Memory<'static>)>,
) {
    let (mut rest, mut ticks) = (body, first_ticks);
    while let Ok((head, len)) = step_slow(session, tables, rest) {
        ticks = ticks.saturating_add(head.delta);
        let fields = rest.get(head.fields as usize..).unwrap_or_default();
        if head.kind == Kind::Memory as u64
            && let Some(m) = Memory::read(&mut Reader::new(fields))
        {
            let Memory { resident, shared, peak, minor_faults, major_faults, _life } = m;
            let _life = trace::encode::schema::LIFE;
            let own = Memory { resident, shared, peak, minor_faults, major_faults, _life };
            out.push((ticks, own));
        }
        rest = rest.get(len..).unwrap_or_default();
    }
}

/// Steps over events for as long as each fits a word.
fn read_quick(read: &mut Read, slots: &[Slot], body: &[u8], counts: &mut Counts) {
    let Some(mut rest) = body.get(read.bytes..) else { return };
    let (mut ticks, mut events) = (read.last_ticks, 0);
    let Some(near) = counts.near.get_mut(..slots.len()) else { return };
    while let Some(short) = shape::short(rest, slots) {
        let Some(after) = rest.get(short.end as usize..) else { break };
        rest = after;
        ticks = ticks.saturating_add(short.delta);
        events += 1;
        let count = &mut near[short.kind as usize];
        if *count == 0 {
            counts.met.push(short.kind);
        }
        *count += 1;
    }
    read.last_ticks = ticks;
    read.events += events;
    read.bytes = body.len() - rest.len();
}

/// Steps over an event of any size; gives its beginning and its length.
#[inline(never)]
pub(crate) fn step_slow(
    session: &Session,
    tables: &Tables,
    rest: &[u8],
) -> Result<(shape::Head, usize), DamageKind> {
    let mut head =
        shape::head(rest, |kind| tables.slot(kind)).ok_or(DamageKind::Event { kind: 0 })?;
    let end = end_slow(session, tables, rest, &mut head)?;
    Ok((head, end))
}

/// Where the event with this beginning ends; reads its delta, which stands last.
pub(crate) fn end_slow(
    session: &Session,
    tables: &Tables,
    rest: &[u8],
    head: &mut shape::Head,
) -> Result<usize, DamageKind> {
    let kind = head.kind;
    let steps = session.steps(tables, head).ok_or(DamageKind::Kind { kind })?;
    let cut = DamageKind::Event { kind };
    let mut r = trace::encode::field::Reader::new(rest.get(head.fields as usize..).ok_or(cut)?);
    shape::skip(&mut r, steps).ok_or(cut)?;
    head.delta = r.varint().ok_or(cut)?;
    Ok(rest.len() - r.rest().len())
}
