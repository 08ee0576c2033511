//! Bytes to typed events in the order of time.
//!
//! Events are held until the generation that they belong to has ended: then everything before that
//! moment is given out. Where threads were late to hand over, for their batches or until the next
//! generation ends, whichever comes first.
//!
//! 1. Memory: tables, and the held batches up to [`Options::held_bytes_max`].
//! 2. A thread's times never go back in the output, whatever the input says.
//! 3. Every byte of the input is in an event that was given out, in the tables, or in a [`Damage`].

use std::collections::BTreeSet;

use trace::encode::field::Text;
use trace::encode::schema::Class;
use trace::encode::wire::BatchKind;
use trace::encode::wire::FLAG_LATE;
use trace::encode::wire::HEADER_BYTES;
use trace::encode::wire::KIND_DYNAMIC;

use crate::error::Damage;
use crate::error::Error;
use crate::event::Event;
use crate::event::FieldTypes;
use crate::event::Fields;
use crate::event::Other;
use crate::event::SiteEvent;
use crate::event::Structural;
use crate::event::Value;
use crate::merge::Current;
use crate::merge::Merge;
use crate::merge::Picked;
use crate::open::OpenSpan;
use crate::source::Source;
use crate::source::Unit;
use crate::structural;
use crate::tables::Session;
use crate::tables::Site;
use crate::tables::Tables;

/// How a [`Decoder`] works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Most bytes of batches to hold for the merge; beyond it the oldest events are given out and
    /// [`Item::Overflow`] says so.
    pub held_bytes_max: usize,
}

impl Default for Options {
    /// 256 MiB: four generations of the size at which a recorder ends one.
    fn default() -> Self {
        Options { held_bytes_max: 256 << 20 }
    }
}

/// What a [`Decoder`] gives out.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// A session begins.
    SessionBegin(&'a Session),
    /// A timed event, in the order of time.
    Event(Timed<'a>),
    /// An event of a control batch, as it was met in the input.
    Control(Control<'a>),
    /// Bytes were skipped.
    Damage(Damage),
    /// The bound on held bytes was met: events are given out before it is sure that none is older.
    Overflow {
        /// How many bytes were held.
        held_bytes: usize,
    },
    /// The session has ended, with or without its end mark.
    SessionEnd(&'a Session),
}

/// An event of a control batch.
#[derive(Clone, Copy, Debug)]
pub struct Control<'a> {
    /// Its session.
    pub session: &'a Session,
    /// Where it begins in the input.
    pub offset: u64,
    /// The event.
    pub event: Structural<'a>,
}

/// A timed event.
#[derive(Clone, Copy, Debug)]
pub struct Timed<'a> {
    /// Nanoseconds since the session's start.
    pub ts_ns: u64,
    /// The same in scaled ticks of the session's clock.
    pub ticks: u64,
    /// Its thread's number in the trace.
    pub thread: u32,
    /// 0 main, 1 side.
    pub lane: u8,
    /// Whether an event that is younger was already given out.
    pub late: bool,
    /// Open spans of its thread before it.
    pub depth: u32,
    /// What its thread worked for before it; 0 none.
    pub task: u64,
    /// Its kind.
    pub kind: u64,
    /// Where it begins in the input.
    pub offset: u64,
    /// What it says.
    pub event: Event<'a>,
    /// Its session.
    pub session: &'a Session,
    /// The tables that its ids belong to.
    pub tables: &'a Tables,
    ended: Option<OpenSpan>,
    bytes: &'a [u8],
}

impl<'a> Timed<'a> {
    /// The name of its kind: of a static kind its own, of a site that of its class.
    pub fn kind_name(&self) -> Text<'a> {
        match self.event {
            Event::Site(s) => s.site.class().map_or("site", Class::name).into(),
            Event::Other(o) => match o.def {
                Some(def) => Text { bytes: &def.name, cut_from: None },
                None => "?".into(),
            },
            _ => self.event.kind_name().unwrap_or("?").into(),
        }
    }

    /// The name of its site; of the end of a span, the name of that span.
    pub fn name(&self) -> Option<Text<'a>> {
        match (self.event, self.ended) {
            (Event::Site(s), _) => self.tables.string(s.site.name),
            (_, Some(span)) => {
                let tables = self.session.tables_at(span.tables)?;
                tables.string(tables.site(span.kind)?.name)
            }
            _ => None,
        }
    }

    /// The place in the program's source that it comes from; of the end of a span, where that
    /// span began.
    pub fn site(&self) -> Option<&'a Site> {
        match (self.event, self.ended) {
            (Event::Site(s), _) => Some(s.site),
            (_, Some(span)) => self.session.tables_at(span.tables)?.site(span.kind),
            _ => None,
        }
    }

    /// Its fields: name and value of each.
    pub fn fields(&self) -> Fields<'a> {
        match self.event {
            Event::Site(s) => s.fields(),
            Event::Other(o) => o.fields(),
            _ => Fields::new(FieldTypes::of_static(self.kind), self.bytes),
        }
    }

    /// Id of its stack; 0 where it could not be kept, `None` where the event has none.
    pub fn stack(&self) -> Option<u64> {
        self.fields().find_map(|(_, value)| match value {
            Value::Stack(id) => Some(id),
            _ => None,
        })
    }

    /// The span that it ends; `None` for other events and where that span is not known.
    pub fn ended_span(&self) -> Option<OpenSpan> {
        self.ended
    }

    /// How long the span took that it ends.
    pub fn duration_ns(&self) -> Option<u64> {
        let began = self.session.clock().ns(self.ended?.began?);
        Some(self.ts_ns.saturating_sub(began))
    }
}

/// What was found, without borrowing.
enum Ready {
    Begin,
    Event(Picked),
    Control { at: usize, offset: u64 },
    Damage(Damage),
    Overflow(usize),
    End,
}

/// How far events may be given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Release {
    #[default]
    Nothing,
    Before(u64),
    /// Until fewer bytes than this are held.
    Down(usize),
    Everything,
}

/// Decodes a trace: typed events of all threads in the order of time. Feed it with
/// [`Decoder::push`], then ask [`Decoder::next_item`] until it gives `None`.
#[derive(Debug, Default)]
pub struct Decoder {
    options: Options,
    source: Source,
    session: Option<Session>,
    merge: Merge,
    release: Release,
    /// A generation that waits for its late threads.
    waiting: Option<(u64, BTreeSet<u64>)>,
    /// The body of the control batch that is given out, and how far.
    control: Vec<u8>,
    control_at: usize,
    control_offset: u64,
    /// An event was given out and its stream stands at it.
    lent: bool,
    ending: bool,
    ended: bool,
}

impl Decoder {
    /// A decoder of an input from its start.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, with other bounds.
    pub fn with(options: Options) -> Self {
        Decoder { options, ..Self::default() }
    }

    /// Takes the next bytes of the input.
    pub fn push(&mut self, bytes: &[u8]) {
        self.source.push(bytes);
    }

    /// Says that the input ends here.
    pub fn finish(&mut self) {
        self.source.finish();
    }

    /// Bytes of batches that wait for the merge.
    pub fn held_bytes(&self) -> usize {
        self.merge.held_bytes()
    }

    /// What comes next; `None` where more input is needed, and at the end.
    #[inline]
    pub fn next_item(&mut self) -> Result<Option<Item<'_>>, Error> {
        if self.lent {
            self.lent = false;
            if let Some(session) = &self.session {
                self.merge.advance(session);
            }
        }
        if let Some(picked) = self.pick() {
            return Ok(self.event(&picked));
        }
        self.next_slow()
    }

    #[inline(never)]
    fn next_slow(&mut self) -> Result<Option<Item<'_>>, Error> {
        let ready = self.next_ready()?;
        Ok(ready.and_then(|r| self.view(r)))
    }

    /// The next event, where one may be given out.
    #[inline]
    fn pick(&mut self) -> Option<Picked> {
        if self.release == Release::Nothing || !self.merge.damages.is_empty() {
            return None;
        }
        let ticks = self.merge.next_ticks()?;
        let may = match self.release {
            Release::Nothing => false,
            Release::Before(end) => ticks < end,
            Release::Down(bytes) => self.merge.held_bytes() > bytes,
            Release::Everything => true,
        };
        if !may {
            return None;
        }
        self.lent = true;
        self.merge.pick(self.session.as_mut()?)
    }

    #[inline(never)]
    fn next_ready(&mut self) -> Result<Option<Ready>, Error> {
        loop {
            if let Some(damage) = self.merge.damages.pop_front() {
                return Ok(Some(self.damaged(damage)));
            }
            if std::mem::take(&mut self.ended) {
                self.session = None;
                self.merge = Merge::default();
                self.waiting = None;
            }
            if let Some(ready) = self.next_control() {
                return Ok(Some(ready));
            }
            if let Some(picked) = self.pick() {
                return Ok(Some(Ready::Event(picked)));
            }
            if !self.merge.damages.is_empty() {
                continue;
            }
            self.release = Release::Nothing;
            if std::mem::take(&mut self.ending) {
                self.ended = true;
                return Ok(Some(Ready::End));
            }
            let Some(unit) = self.source.next()? else { return Ok(None) };
            if let Some(ready) = self.take(unit) {
                return Ok(Some(ready));
            }
        }
    }

    fn take(&mut self, unit: Unit) -> Option<Ready> {
        match unit {
            Unit::Damage(damage) => return Some(self.damaged(damage)),
            Unit::Begin { id, offset, first_ticks } => {
                self.session = Some(Session::new(id, offset, first_ticks));
                return Some(Ready::Begin);
            }
            Unit::End => {
                self.release = Release::Everything;
                self.ending = true;
            }
            Unit::Batch(held) => {
                let batch = self.source.view(&held);
                let session = self.session.as_mut()?;
                let h = &batch.header;
                session.totals.batches += 1;
                session.totals.bytes += u64::from(h.length);
                match BatchKind::from_u8(h.kind) {
                    None => {}
                    Some(BatchKind::Events) => {
                        let first = session.totals.first_ticks.unwrap_or(u64::MAX);
                        session.totals.first_ticks = Some(first.min(h.first_ticks));
                        self.merge.add(session, &batch);
                        let late = (h.flags & FLAG_LATE != 0).then_some(u64::from(h.thread));
                        return self.added(late);
                    }
                    Some(kind) => {
                        let (offset, epoch) = (batch.offset, h.epoch);
                        self.control.clear();
                        self.control.extend_from_slice(batch.body());
                        return self.structural(kind, offset, epoch);
                    }
                }
            }
        }
        None
    }

    /// A batch of events was added.
    fn added(&mut self, late: Option<u64>) -> Option<Ready> {
        if let (Some(thread), Some((at, threads))) = (late, &mut self.waiting) {
            threads.remove(&thread);
            if threads.is_empty() {
                self.release = Release::Before(*at);
                self.waiting = None;
            }
        }
        let (held_bytes, max) = (self.merge.held_bytes(), self.options.held_bytes_max);
        if held_bytes > max {
            self.release = Release::Down(max / 2);
            return Some(Ready::Overflow(held_bytes));
        }
        None
    }

    /// Takes in a structural batch, whose body stands in `control`.
    fn structural(&mut self, kind: BatchKind, offset: u64, epoch: u32) -> Option<Ready> {
        let session = self.session.as_mut()?;
        self.control_offset = offset + HEADER_BYTES as u64;
        self.control_at = 0;
        let mut at = 0;
        while let Some(rest) = self.control.get(at..).filter(|r| !r.is_empty()) {
            match structural::apply(session, epoch, rest) {
                Ok((_, len)) => at += len,
                Err(kind) => {
                    let (offset, len) = (self.control_offset + at as u64, rest.len() as u64);
                    self.merge.damages.push_back(Damage { offset, len, kind });
                    break;
                }
            }
        }
        self.merge.clock_changed();
        if session.end().is_some() {
            self.source.close();
        }
        self.control.truncate(at);
        if kind != BatchKind::Control {
            self.control.clear();
        }
        None
    }

    /// The next event of the control batch.
    fn next_control(&mut self) -> Option<Ready> {
        let rest = self.control.get(self.control_at..).filter(|r| !r.is_empty())?;
        let at = self.control_at;
        let (event, len) = structural::read(self.session.as_ref()?, rest).ok()?;
        if let Structural::GenerationEnd(end) = &event {
            let before = self.waiting.take().map_or(0, |w| w.0);
            let late: BTreeSet<u64> = end.late.iter().collect();
            match late.is_empty() {
                true => self.release = Release::Before(before.max(end.at)),
                false => {
                    self.release = Release::Before(before);
                    self.waiting = Some((end.at, late));
                }
            }
        }
        self.control_at += len;
        Some(Ready::Control { at, offset: self.control_offset + at as u64 })
    }

    fn damaged(&mut self, damage: Damage) -> Ready {
        if let Some(session) = &mut self.session {
            session.totals.damages += 1;
            session.totals.damaged_bytes += damage.len;
        }
        Ready::Damage(damage)
    }

    fn view(&self, ready: Ready) -> Option<Item<'_>> {
        let session = match ready {
            Ready::Damage(damage) => return Some(Item::Damage(damage)),
            Ready::Overflow(held_bytes) => return Some(Item::Overflow { held_bytes }),
            _ => self.session.as_ref()?,
        };
        Some(match ready {
            Ready::Event(picked) => return self.event(&picked),
            Ready::Begin => Item::SessionBegin(session),
            Ready::Control { at, offset } => {
                let event = structural::read(session, self.control.get(at..)?).ok()?.0;
                Item::Control(Control { session, offset, event })
            }
            _ => Item::SessionEnd(session),
        })
    }

    /// The event that was picked.
    #[inline(always)]
    fn event(&self, picked: &Picked) -> Option<Item<'_>> {
        let session = self.session.as_ref()?;
        let c = self.merge.current()?;
        let tables = session.tables_at(c.tables)?;
        Some(Item::Event(Timed {
            ts_ns: picked.ts_ns,
            ticks: c.ticks,
            thread: c.thread,
            lane: c.lane,
            late: picked.late,
            depth: picked.depth,
            task: picked.task,
            kind: c.kind,
            offset: c.offset,
            event: typed(session, tables, &c),
            session,
            tables,
            ended: picked.ended,
            bytes: c.fields,
        }))
    }
}

/// The event that a stream stands at: its values were checked.
#[inline(always)]
fn typed<'a>(session: &'a Session, tables: &'a Tables, c: &Current<'a>) -> Event<'a> {
    let (kind, bytes) = (c.kind, c.fields);
    if kind >= KIND_DYNAMIC
        && let Some(site) = tables.site_of(c.slot)
    {
        return Event::Site(SiteEvent { site, bytes });
    }
    let mut r = trace::encode::field::Reader::new(bytes);
    match Event::read(kind, &mut r) {
        Some(event) => event,
        None => Event::Other(Other { kind, def: session.schema(kind), bytes }),
    }
}
