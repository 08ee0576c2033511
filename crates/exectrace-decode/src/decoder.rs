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
use std::ops::Deref;

use trace::encode::field::Reader;
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
use crate::merge::Given;
use crate::merge::Merge;
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
    /// Whether to keep stacks, so that [`Tables::stack`] finds them: they are the largest of a
    /// session's tables, and who only follows spans needs none.
    pub keep_stacks: bool,
}

impl Default for Options {
    /// 256 MiB: four generations of the size at which a recorder ends one.
    fn default() -> Self {
        Options { held_bytes_max: 256 << 20, keep_stacks: true }
    }
}

/// What a [`Decoder`] gives out. Two words, so that it comes back in registers: what it tells stays
/// in the decoder, and is read from there when it is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// A session begins.
    SessionBegin(&'a Session),
    /// A timed event, in the order of time.
    Event(Timed<'a>),
    /// An event of a control batch, as it was met in the input.
    Control(Control<'a>),
    /// Bytes were skipped.
    Damage(&'a Damage),
    /// The bound on held bytes was met: events are given out before it is sure that none is older.
    Overflow {
        /// How many bytes were held.
        held_bytes: usize,
    },
    /// The session has ended, with or without its end mark.
    SessionEnd(&'a Session),
}

const _: () = assert!(size_of::<Result<Option<Item<'_>>, Error>>() == 16);

/// An event of a control batch.
#[derive(Clone, Copy, Debug)]
pub struct Control<'a> {
    decoder: &'a Decoder,
}

impl<'a> Control<'a> {
    /// Its session.
    pub fn session(&self) -> &'a Session {
        &self.decoder.session
    }

    /// Where it begins in the input.
    pub fn offset(&self) -> u64 {
        self.decoder.control_offset + self.decoder.control_from as u64
    }

    /// The event.
    pub fn event(&self) -> Structural<'a> {
        let rest = self.decoder.control.get(self.decoder.control_from..).unwrap_or_default();
        match structural::read(&self.decoder.session, rest) {
            Ok((event, _)) => event,
            Err(_) => Structural::Other(Other { kind: 0, def: None, bytes: &[] }),
        }
    }
}

/// What every timed event has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Nanoseconds since the session's start.
    pub ts_ns: u64,
    /// The same in scaled ticks of the session's clock.
    pub ticks: u64,
    /// Its kind.
    pub kind: u64,
    /// Where it begins in the input.
    pub offset: u64,
    /// What its thread worked for before it; 0 none.
    pub task: u64,
    /// Its thread's number in the trace.
    pub thread: u32,
    /// Open spans of its lane of the thread before it.
    pub depth: u32,
    /// 0 main, 1 side.
    pub lane: u8,
    /// Whether an event that is younger was already given out.
    pub late: bool,
}

/// A timed event. Its [`Stamp`] is read as its fields: `timed.ts_ns`.
#[derive(Clone, Copy, Debug)]
pub struct Timed<'a> {
    decoder: &'a Decoder,
}

impl Deref for Timed<'_> {
    type Target = Stamp;

    #[inline]
    fn deref(&self) -> &Stamp {
        self.decoder.merge.stamp()
    }
}

impl<'a> Timed<'a> {
    /// Its session.
    #[inline]
    pub fn session(&self) -> &'a Session {
        &self.decoder.session
    }

    /// The tables that its ids belong to.
    #[inline]
    pub fn tables(&self) -> &'a Tables {
        self.tables_at(self.decoder.merge.given().tables)
    }

    #[inline]
    fn tables_at(&self, index: u32) -> &'a Tables {
        let session = self.session();
        session.tables_at(index).unwrap_or_else(|| session.blank())
    }

    /// What it says. Its values were checked before it was given out.
    #[inline]
    pub fn event(&self) -> Event<'a> {
        let Given { fields: bytes, steps, tables } = self.decoder.merge.given();
        let kind = self.kind;
        if kind >= KIND_DYNAMIC
            && let Some(site) = self.tables_at(tables).site_at(steps)
        {
            return Event::Site(SiteEvent { site, bytes });
        }
        let mut r = Reader::new(bytes);
        match Event::read(kind, &mut r) {
            Some(event) => event,
            None => Event::Other(Other { kind, def: self.session().schema(kind), bytes }),
        }
    }

    /// The name of its kind: of a static kind its own, of a site that of its class.
    pub fn kind_name(&self) -> Text<'a> {
        match self.event() {
            Event::Site(s) => s.site.class().map_or("site", Class::name).into(),
            Event::Other(o) => match o.def {
                Some(def) => Text { bytes: &def.name, cut_from: None },
                None => "?".into(),
            },
            event => event.kind_name().unwrap_or("?").into(),
        }
    }

    /// The name of its site; of the end of a span, the name of that span.
    pub fn name(&self) -> Option<Text<'a>> {
        match (self.event(), self.ended_span()) {
            (Event::Site(s), _) => self.tables().string(s.site.name),
            (_, Some(span)) => {
                let tables = self.session().tables_at(span.tables)?;
                tables.string(tables.site(span.kind)?.name)
            }
            _ => None,
        }
    }

    /// The place in the program's source that it comes from; of the end of a span, where that
    /// span began.
    pub fn site(&self) -> Option<&'a Site> {
        match (self.event(), self.ended_span()) {
            (Event::Site(s), _) => Some(s.site),
            (_, Some(span)) => self.session().tables_at(span.tables)?.site(span.kind),
            _ => None,
        }
    }

    /// Its fields: name and value of each.
    pub fn fields(&self) -> Fields<'a> {
        match self.event() {
            Event::Site(s) => s.fields(),
            Event::Other(o) => o.fields(),
            _ => Fields::new(FieldTypes::of_static(self.kind), self.decoder.merge.given().fields),
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
        self.decoder.merge.ended()
    }

    /// How long the span took that it ends.
    pub fn duration_ns(&self) -> Option<u64> {
        let began = self.session().clock().ns(self.ended_span()?.began?);
        Some(self.ts_ns.saturating_sub(began))
    }
}

/// What was found, without borrowing.
enum Ready {
    Begin,
    Event,
    Control,
    Damage,
    Overflow(usize),
    End,
}

/// Decodes a trace: typed events of all threads in the order of time. Feed it with
/// [`Decoder::push`], then ask [`Decoder::next_item`] until it gives `None`.
#[derive(Debug, Default)]
pub struct Decoder {
    options: Options,
    source: Source,
    /// The open session; a blank one where none is.
    session: Session,
    merge: Merge,
    /// A generation that waits for its late threads.
    waiting: Option<(u64, BTreeSet<u64>)>,
    /// The body of the control batch that is given out, and how far.
    control: Vec<u8>,
    control_at: usize,
    /// Where the event of it begins that is given out.
    control_from: usize,
    control_offset: u64,
    damage: Damage,
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
        if self.next_event() {
            return Ok(Some(Item::Event(Timed { decoder: self })));
        }
        self.next_slow()
    }

    #[inline(never)]
    fn next_slow(&mut self) -> Result<Option<Item<'_>>, Error> {
        let Some(ready) = self.next_ready()? else { return Ok(None) };
        Ok(Some(match ready {
            Ready::Begin => Item::SessionBegin(&self.session),
            Ready::Event => Item::Event(Timed { decoder: self }),
            Ready::Control => Item::Control(Control { decoder: self }),
            Ready::Damage => Item::Damage(&self.damage),
            Ready::Overflow(held_bytes) => Item::Overflow { held_bytes },
            Ready::End => Item::SessionEnd(&self.session),
        }))
    }

    /// Goes on to the next event, where one may be given out.
    #[inline(never)]
    fn next_event(&mut self) -> bool {
        self.merge.go_on(&self.session)
    }

    fn next_ready(&mut self) -> Result<Option<Ready>, Error> {
        loop {
            if let Some(damage) = self.merge.next_damage() {
                return Ok(Some(self.damaged(damage)));
            }
            if std::mem::take(&mut self.ended) {
                self.session = Session::default();
                self.merge = Merge::default();
                self.waiting = None;
            }
            if self.next_control() {
                return Ok(Some(Ready::Control));
            }
            if self.next_event() {
                return Ok(Some(Ready::Event));
            }
            if let Some(damage) = self.merge.next_damage() {
                return Ok(Some(self.damaged(damage)));
            }
            if std::mem::take(&mut self.ending) {
                self.ended = true;
                self.count();
                return Ok(Some(Ready::End));
            }
            let Some(unit) = self.source.next()? else { return Ok(None) };
            if let Some(ready) = self.take(unit) {
                return Ok(Some(ready));
            }
        }
    }

    /// Brings the session's totals up to what was given out.
    fn count(&mut self) {
        let (events, last) = self.merge.counts();
        self.session.totals.events = events;
        if events > 0 {
            self.session.saw_ticks(last);
        }
    }

    fn take(&mut self, unit: Unit) -> Option<Ready> {
        match unit {
            Unit::Damage(damage) => return Some(self.damaged(damage)),
            Unit::Begin { id, offset, first_ticks } => {
                let session = Session::new(id, offset, first_ticks);
                self.session = match self.options.keep_stacks {
                    true => session,
                    false => session.without_stacks(),
                };
                return Some(Ready::Begin);
            }
            Unit::End => {
                self.merge.release(u64::MAX);
                self.ending = true;
            }
            Unit::Batch(held) => {
                let batch = self.source.view(&held);
                let session = &mut self.session;
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
                        self.structural(kind, offset, epoch);
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
                self.merge.release(*at);
                self.waiting = None;
            }
        }
        let (held_bytes, max) = (self.merge.held_bytes(), self.options.held_bytes_max);
        if held_bytes > max {
            self.merge.release_down_to(max / 2 + 1);
            return Some(Ready::Overflow(held_bytes));
        }
        None
    }

    /// Takes in a structural batch, whose body stands in `control`.
    fn structural(&mut self, kind: BatchKind, offset: u64, epoch: u32) {
        self.count();
        self.control_offset = offset + HEADER_BYTES as u64;
        self.control_at = 0;
        let mut at = 0;
        while let Some(rest) = self.control.get(at..).filter(|r| !r.is_empty()) {
            match structural::apply(&mut self.session, epoch, rest) {
                Ok((_, len)) => at += len,
                Err(kind) => {
                    let (offset, len) = (self.control_offset + at as u64, rest.len() as u64);
                    self.merge.damaged(Damage { offset, len, kind });
                    break;
                }
            }
        }
        self.merge.clock_changed();
        if self.session.end().is_some() {
            self.source.close();
        }
        self.control.truncate(at);
        if kind != BatchKind::Control {
            self.control.clear();
        }
    }

    /// Goes on to the next event of the control batch.
    fn next_control(&mut self) -> bool {
        let rest = self.control.get(self.control_at..).unwrap_or_default();
        if rest.is_empty() {
            return false;
        }
        let Ok((event, len)) = structural::read(&self.session, rest) else { return false };
        if let Structural::GenerationEnd(end) = &event {
            let before = self.waiting.take().map_or(0, |w| w.0);
            let late: BTreeSet<u64> = end.late.iter().collect();
            match late.is_empty() {
                true => self.merge.release(before.max(end.at)),
                false => {
                    self.merge.release(before);
                    self.waiting = Some((end.at, late));
                }
            }
        }
        self.control_from = self.control_at;
        self.control_at += len;
        true
    }

    fn damaged(&mut self, damage: Damage) -> Ready {
        self.session.totals.damages += 1;
        self.session.totals.damaged_bytes += damage.len;
        self.damage = damage;
        Ready::Damage
    }
}
