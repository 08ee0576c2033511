//! A second opinion: does what was decoded make sense?
//!
//! The validator shares the batch reader and the tables with the decoder, but neither the merge nor
//! the fast steps: it reads every event by its fields and keeps accounts of its own.
//!
//! 1. It never stops at a problem; it keeps the first [`PROBLEMS_MAX`] and counts all.
//! 2. What a thread's losses may explain waits for the session's end, since the trace tells of a
//!    loss behind the gap that it leaves. A loss explains open spans and the task, nothing else.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;

use trace::encode::field::Reader;
use trace::encode::schema;
use trace::encode::schema::Class;
use trace::encode::schema::Kind;
use trace::encode::wire::BatchKind;
use trace::encode::wire::FLAG_LATE;
use trace::encode::wire::HEADER_BYTES;
use trace::encode::wire::Header;
use trace::encode::wire::KIND_DYNAMIC;
use trace::encode::wire::LANE_MAIN;

use crate::batch::Batch;
use crate::error::Error;
use crate::event::FieldTypes;
use crate::event::Fields;
use crate::event::Structural;
use crate::event::Value;
use crate::source::Source;
use crate::source::Unit;
use crate::structural;
use crate::tables::Session;
use crate::tables::Tables;

/// Most problems that are kept. 1,000: more than anyone reads, less than memory notices.
pub const PROBLEMS_MAX: usize = 1000;

/// Open spans of a lane beyond this many are counted, not compared.
const SPANS_MAX: usize = 4096;

/// Most problems of a thread's spans that are kept until its losses are known. 16: a thread whose
/// account is wrong shows it in the first ones.
const SPANS_WRONG_MAX: usize = 16;

/// Something that does not make sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where in the input: the batch or event concerned.
    pub offset: u64,
    /// What sort of problem it is.
    pub what: What,
    /// In words.
    pub text: String,
}

/// What sort of [`Problem`] it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum What {
    /// Bytes were skipped.
    Damage,
    /// A batch is missing or stands twice.
    Sequence,
    /// A time goes back within a thread, or beyond the header's last time.
    Time,
    /// A batch has another number of events than its header says.
    Count,
    /// An id is used that nothing before it defines.
    Undefined,
    /// An id or a kind is defined twice, or other than the format has it.
    Definition,
    /// Open spans disagree with a `State` event, or more of them end than began, on a thread that
    /// has lost no event: where some are lost, beginnings and ends may be among them.
    Spans,
    /// The counts of the session's end do not agree with what was decoded.
    End,
    /// The session has no beginning or no end, or one of its batches a wrong place.
    Session,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offset {}: {}", self.offset, self.text)
    }
}

/// The open spans of a lane.
#[derive(Debug, Default)]
struct Spans {
    /// Kind and table epoch of each.
    open: Vec<(u64, u32)>,
    deeper: u64,
    /// Whether the account began where nothing was open, or at a `State` event. No thread has open
    /// spans in its side lane when a session begins; of its main lane only its start says that.
    known: bool,
}

/// What is known of a lane of a thread.
#[derive(Debug, Default)]
struct LaneAccount {
    next_sequence: u64,
    missing: Missing,
    last_ticks: u64,
    spans: Spans,
}

/// Numbers of batches that did not come, as ranges: a batch of 64 bytes may claim that four billion
/// are missing before it, and adds one range at most.
#[derive(Debug, Default)]
struct Missing {
    /// First and last of each range.
    ranges: BTreeMap<u32, u32>,
}

impl Missing {
    /// Those from `first` to before `next`.
    fn add(&mut self, first: u64, next: u32) {
        if let Ok(first) = u32::try_from(first) {
            self.ranges.insert(first, next.saturating_sub(1));
        }
    }

    /// Takes one out; whether it was in.
    fn remove(&mut self, number: u32) -> bool {
        let before = self.ranges.range(..=number).next_back();
        let Some((&first, &last)) = before.filter(|r| number <= *r.1) else { return false };
        self.ranges.remove(&first);
        if first < number {
            self.ranges.insert(first, number - 1);
        }
        if number < last {
            self.ranges.insert(number + 1, last);
        }
        true
    }
}

/// What is wrong with a thread's spans, unless it has lost events.
#[derive(Debug, Default)]
struct SpansWrong {
    first: Vec<(u64, String)>,
    total: u64,
}

/// The accounts of one session.
#[derive(Debug, Default)]
struct Accounts {
    /// The current task of each thread.
    tasks: BTreeMap<u32, u64>,
    spans_wrong: BTreeMap<u32, SpansWrong>,
    lanes: BTreeMap<(u32, u8), LaneAccount>,
    events: u64,
    batches: u64,
    generations: u64,
    ended_at: Option<u64>,
}

/// The list of problems, bounded.
#[derive(Debug, Default)]
struct Problems {
    kept: Vec<Problem>,
    total: u64,
    by_what: BTreeMap<What, u64>,
}

impl Problems {
    fn add(&mut self, offset: u64, what: What, text: impl FnOnce() -> String) {
        self.total += 1;
        *self.by_what.entry(what).or_default() += 1;
        if self.kept.len() < PROBLEMS_MAX {
            self.kept.push(Problem { offset, what, text: text() });
        }
    }

    fn add_spans(&mut self, wrong: &SpansWrong) {
        for (offset, text) in &wrong.first {
            self.add(*offset, What::Spans, || text.clone());
        }
        let more = wrong.total - wrong.first.len() as u64;
        self.total += more;
        *self.by_what.entry(What::Spans).or_default() += more;
    }
}

/// Checks a trace. Push all of it, then call [`Validate::finish`].
#[derive(Debug, Default)]
pub struct Validate {
    source: Source,
    session: Option<Session>,
    accounts: Accounts,
    problems: Problems,
    events: u64,
}

impl Validate {
    /// A check of an input from its start.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the input.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.source.push(bytes);
        self.work()
    }

    /// Says that the input ends here.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.source.finish();
        self.work()
    }

    /// The first problems.
    pub fn problems(&self) -> &[Problem] {
        &self.problems.kept
    }

    /// How many problems there are.
    pub fn problems_total(&self) -> u64 {
        self.problems.total
    }

    /// How many problems of a sort there are.
    pub fn count(&self, what: What) -> u64 {
        self.problems.by_what.get(&what).copied().unwrap_or(0)
    }

    /// How many timed events were looked at.
    pub fn events(&self) -> u64 {
        self.events
    }

    fn work(&mut self) -> Result<(), Error> {
        while let Some(unit) = self.source.next()? {
            match unit {
                Unit::Damage(damage) => {
                    self.problems.add(damage.offset, What::Damage, || damage.to_string());
                }
                Unit::Begin { id, offset, first_ticks } => {
                    self.session = Some(Session::new(id, offset, first_ticks));
                    self.accounts = Accounts::default();
                }
                Unit::Batch(held) => {
                    let batch = self.source.view(&held);
                    let Some(session) = &mut self.session else { continue };
                    let mut look = Look {
                        accounts: &mut self.accounts,
                        problems: &mut self.problems,
                        offset: batch.offset,
                    };
                    self.events += look.batch(session, &batch);
                    if session.end().is_some() {
                        self.source.close();
                    }
                }
                Unit::End => self.end_session(),
            }
        }
        Ok(())
    }

    fn end_session(&mut self) {
        let Some(session) = self.session.take() else { return };
        let (a, p) = (&self.accounts, &mut self.problems);
        for (&(thread, lane), l) in &a.lanes {
            for (first, last) in &l.missing.ranges {
                p.add(session.offset(), What::Sequence, || match first == last {
                    true => format!("batch {first} of thread {thread}, lane {lane} is missing"),
                    false => format!(
                        "batches {first} to {last} of thread {thread}, lane {lane} are missing"
                    ),
                });
            }
        }
        let lossy: BTreeSet<u64> =
            session.losses().filter(|l| l.is_event() && l.count > 0).map(|l| l.thread).collect();
        let wrong = a.spans_wrong.iter().filter(|w| !lossy.contains(&u64::from(*w.0)));
        wrong.for_each(|w| p.add_spans(w.1));
        if session.info().is_none() {
            p.add(session.offset(), What::Session, || {
                "the session's first batch is missing".into()
            });
        }
        let Some(end) = session.end() else {
            p.add(session.offset(), What::Session, || "the session has no end".into());
            return;
        };
        for (name, said, found) in [
            ("events", end.events, a.events),
            ("lost", end.lost, session.lost()),
            ("batches", end.batches, a.batches),
            ("generations", end.generations, a.generations),
        ] {
            if said != found {
                p.add(a.ended_at.unwrap_or(0), What::End, || {
                    format!("the end says {said} {name}, the trace has {found}")
                });
            }
        }
    }
}

/// A look at one batch.
struct Look<'a> {
    accounts: &'a mut Accounts,
    problems: &'a mut Problems,
    /// Where the batch or the event concerned begins.
    offset: u64,
}

impl Look<'_> {
    fn problem(&mut self, what: What, text: impl FnOnce() -> String) {
        self.problems.add(self.offset, what, text);
    }

    /// Gives the number of timed events.
    fn batch(&mut self, session: &mut Session, batch: &Batch<'_>) -> u64 {
        let h = &batch.header;
        self.accounts.batches += 1;
        if self.accounts.ended_at.is_some() {
            self.problem(What::Session, || "a batch after the session's end".into());
        }
        self.sequence(h);
        let events = match BatchKind::from_u8(h.kind) {
            None => return 0,
            Some(BatchKind::Events) => self.timed_batch(session, batch),
            Some(_) => self.structural_batch(session, batch),
        };
        self.offset = batch.offset;
        if events != u64::from(h.count) {
            self.problem(What::Count, || {
                format!("the header says {} events, the batch has {events}", h.count)
            });
        }
        match h.kind == BatchKind::Events as u8 {
            true => {
                self.accounts.events += events;
                events
            }
            false => 0,
        }
    }

    fn sequence(&mut self, h: &Header) {
        let (thread, lane, sequence) = (h.thread, h.lane, h.sequence);
        let account = self.accounts.lanes.entry((thread, lane)).or_default();
        account.spans.known |= lane != LANE_MAIN && sequence == 0;
        let (next, late) = (account.next_sequence, h.flags & FLAG_LATE != 0);
        match u64::from(sequence) {
            s if s == next => account.next_sequence += 1,
            s if s > next => {
                account.missing.add(next, sequence);
                account.next_sequence = s + 1;
            }
            _ => {
                let was_missing = account.missing.remove(sequence);
                if !was_missing || !(late || thread == 0) {
                    self.problem(What::Sequence, || {
                        format!(
                            "batch {sequence} of thread {thread}, lane {lane} stands after {next}"
                        )
                    });
                }
            }
        }
    }

    fn structural_batch(&mut self, session: &mut Session, batch: &Batch<'_>) -> u64 {
        let (body, epoch) = (batch.body(), batch.header.epoch);
        let (mut at, mut events) = (0, 0);
        while let Some(rest) = body.get(at..).filter(|r| !r.is_empty()) {
            self.offset = batch.offset + (HEADER_BYTES + at) as u64;
            let read = structural::read(session, rest);
            let len = match read {
                Ok((event, len)) => {
                    self.structural(session, &batch.header, events, &event);
                    len
                }
                Err(kind) => {
                    self.problem(What::Damage, || kind.to_string());
                    return events;
                }
            };
            if structural::apply(session, epoch, rest).is_err() {
                return events;
            }
            at += len;
            events += 1;
        }
        events
    }

    fn structural(&mut self, session: &Session, h: &Header, at: u64, event: &Structural<'_>) {
        let tables = session.tables(h.epoch);
        match event {
            Structural::Session(_) if at > 0 || h.kind != BatchKind::Session as u8 => {
                self.problem(What::Session, || "a session begins within a batch".into());
            }
            Structural::Schema(s) => self.schema(s),
            Structural::String(s) if tables.is_some_and(|t| t.string(s.id).is_some()) => {
                self.problem(What::Definition, || format!("string {} is defined twice", s.id));
            }
            Structural::Stack(s) if tables.is_some_and(|t| t.stack(s.id).is_some()) => {
                self.problem(What::Definition, || format!("stack {} is defined twice", s.id));
            }
            Structural::Site(s) => self.site(tables, s),
            Structural::GenerationEnd(_) => self.accounts.generations += 1,
            Structural::End(_) => self.accounts.ended_at = Some(self.offset),
            _ => {}
        }
    }

    fn schema(&mut self, s: &schema::Schema<'_>) {
        let Some(ours) = crate::shape::spec(s.kind) else { return };
        let theirs = s.fields.iter().map(|f| (f.0.bytes, f.1));
        let same = theirs.eq(ours.fields.iter().map(|f| (f.0.as_bytes(), f.1)));
        if !same || s.name.bytes != ours.name.as_bytes() || s.phase != ours.phase.code() {
            self.problem(What::Definition, || {
                format!(
                    "the schema has kind {} other than the format, where it is {}",
                    s.kind, ours.name
                )
            });
        }
    }

    fn site(&mut self, tables: Option<&Tables>, s: &schema::Site<'_>) {
        if s.kind < KIND_DYNAMIC || tables.is_some_and(|t| t.site(s.kind).is_some()) {
            self.problem(What::Definition, || {
                format!("site {} is defined twice or static", s.kind)
            });
        }
        for id in [s.name, s.module, s.file] {
            self.defined("string", id, tables.is_some_and(|t| t.string(id).is_some()));
        }
        let implicit: &[&[u8]] = match Class::from_u64(s.class) {
            Some(Class::Counter) => &[b"value"],
            Some(Class::Log) => &[b"text"],
            Some(Class::Task) => &[b"task", b"parent"],
            _ => &[],
        };
        let names: Vec<&[u8]> = s.fields.iter().take(4).map(|f| f.0.bytes).collect();
        let skip = usize::from(s.flags & 2 != 0 && s.class != Class::Task as u64);
        if !names.get(skip..).is_some_and(|n| n.starts_with(implicit)) {
            self.problem(What::Definition, || {
                format!("site {} lacks a field that its class has", s.kind)
            });
        }
    }

    fn defined(&mut self, table: &str, id: u64, found: bool) {
        if id != 0 && !found {
            self.problem(What::Undefined, || format!("nothing defines {table} {id}"));
        }
    }

    fn timed_batch(&mut self, session: &mut Session, batch: &Batch<'_>) -> u64 {
        let (h, body) = (&batch.header, batch.body());
        let index = session.epoch(h.epoch);
        let Some(tables) = session.tables_at(index) else { return 0 };
        let (mut at, mut events, mut ticks) = (0, 0, h.first_ticks);
        if h.flags & FLAG_LATE == 0 {
            let last = self.accounts.lanes.entry((h.thread, h.lane)).or_default().last_ticks;
            if ticks < last {
                self.problem(What::Time, || format!("begins at {ticks}, after {last}"));
            }
        }
        if h.thread == 0 || session.thread(u64::from(h.thread)).is_none() {
            self.defined("thread", u64::from(h.thread).max(1), false);
        }
        while let Some(rest) = body.get(at..).filter(|r| !r.is_empty()) {
            self.offset = batch.offset + (HEADER_BYTES + at) as u64;
            let (delta, len) = match self.timed(session, tables, h, rest) {
                Ok(found) => found,
                Err(text) => {
                    self.problem(What::Damage, || text);
                    break;
                }
            };
            match ticks.checked_add(delta) {
                Some(sum) => ticks = sum,
                None => self.problem(What::Time, || "the time passes 2^64".into()),
            }
            at += len;
            events += 1;
        }
        self.offset = batch.offset;
        if h.last_ticks != 0 && ticks > h.last_ticks {
            let last = h.last_ticks;
            self.problem(What::Time, || format!("its last event is at {ticks}, after {last}"));
        }
        let account = self.accounts.lanes.entry((h.thread, h.lane)).or_default();
        account.last_ticks = account.last_ticks.max(ticks);
        events
    }

    /// Looks at a timed event; gives its delta and length.
    fn timed(
        &mut self,
        session: &Session,
        tables: &Tables,
        h: &Header,
        rest: &[u8],
    ) -> Result<(u64, usize), String> {
        let mut r = Reader::new(rest);
        let cut = || "an event is cut off".to_string();
        let kind = r.varint().ok_or_else(cut)?;
        let types = match (tables.site(kind), crate::shape::timed_spec(kind)) {
            (Some(site), _) => site.types(),
            (None, Some(_)) => FieldTypes::of_static(kind),
            (None, None) => match session.schema(kind).filter(|d| d.phase > 0 && !is_ours(kind)) {
                Some(def) => FieldTypes::Defined(&def.fields),
                None => return Err(format!("nothing describes kind {kind}")),
            },
        };
        let mut fields = Fields::new(types, r.rest());
        let mut values = 0;
        for (_, value) in fields.by_ref() {
            values += 1;
            self.value(tables, value);
        }
        if values != types.len() {
            return Err(format!("field {values} of an event of kind {kind} is cut off"));
        }
        let bytes = &r.rest()[..r.rest().len() - fields.rest().len()];
        self.effect(tables, h, kind, bytes);
        let mut last = Reader::new(fields.rest());
        let delta = last.varint().ok_or_else(cut)?;
        Ok((delta, rest.len() - last.rest().len()))
    }

    fn value(&mut self, tables: &Tables, value: Value<'_>) {
        match value {
            Value::String(id) => self.defined("string", id, tables.string(id).is_some()),
            Value::Stack(id) => self.defined("stack", id, tables.stack(id).is_some()),
            // A thread that was created may be known later, or never.
            Value::Thread(_) => {}
            Value::Kind(kind) if kind >= KIND_DYNAMIC => {
                self.defined("site", kind, tables.site(kind).is_some());
            }
            _ => {}
        }
    }

    /// What the event does to its lane and its thread.
    fn effect(&mut self, tables: &Tables, h: &Header, kind: u64, fields: &[u8]) {
        let mut r = Reader::new(fields);
        let site = tables.site(kind).and_then(|s| s.class());
        let task = self.accounts.tasks.entry(h.thread).or_default();
        let spans = &mut self.accounts.lanes.entry((h.thread, h.lane)).or_default().spans;
        let wrong = match (Kind::from_u64(kind), site) {
            (_, Some(Class::Span)) => spans.begin(kind, h.epoch),
            (Some(Kind::ThreadStart), _) => {
                spans.known = true;
                None
            }
            (Some(Kind::SpanEnd), _) => spans.end(),
            (Some(Kind::SpanEndAt), _) => spans.end_at(r.varint().unwrap_or(0)),
            (Some(Kind::State), _) => spans.state(task, h.epoch, &mut r),
            (Some(Kind::TaskSwitch), _) => {
                *task = r.varint().unwrap_or(0);
                None
            }
            _ => None,
        };
        if let Some(text) = wrong {
            let wrong = self.accounts.spans_wrong.entry(h.thread).or_default();
            wrong.total += 1;
            if wrong.first.len() < SPANS_WRONG_MAX {
                wrong.first.push((self.offset, text));
            }
        }
    }
}

fn is_ours(kind: u64) -> bool {
    crate::shape::spec(kind).is_some()
}

impl Spans {
    fn begin(&mut self, kind: u64, epoch: u32) -> Option<String> {
        match self.open.len() < SPANS_MAX && self.deeper == 0 {
            true => self.open.push((kind, epoch)),
            false => self.deeper += 1,
        }
        None
    }

    fn end(&mut self) -> Option<String> {
        match self.deeper.checked_sub(1) {
            Some(fewer) => self.deeper = fewer,
            None if self.open.pop().is_some() => {}
            None => return self.known.then(|| "a span ends where none is open".into()),
        }
        None
    }

    fn end_at(&mut self, depth: u64) -> Option<String> {
        let open = self.open.len() as u64;
        if depth < open {
            self.open.remove(depth as usize);
            return None;
        }
        if self.deeper > 0 {
            self.deeper -= 1;
            return None;
        }
        self.known.then(|| format!("span {depth} ends where {open} are open"))
    }

    /// Compares the account with what the trace says, which holds from here on.
    ///
    /// A kind of 0 is any span of an earlier epoch.
    fn state(&mut self, own_task: &mut u64, epoch: u32, r: &mut Reader<'_>) -> Option<String> {
        let (task, spans, deeper) = (r.varint()?, r.list()?, r.varint()?);
        let said = spans.len().saturating_add(deeper);
        let counted = self.deeper.saturating_add(self.open.len() as u64);
        let here = |(kind, of): &(u64, u32)| if *of == epoch { *kind } else { 0 };
        let same = spans.iter().zip(&self.open).all(|(said, own)| said == here(own));
        let wrong = match self.known {
            true if said != counted => Some(format!("{said} spans are open, {counted} had begun")),
            true if !same => Some("other spans are open than those that began".into()),
            true if task != *own_task => Some(format!("works for task {task}, not for {own_task}")),
            _ => None,
        };
        let of = |kind| if kind == 0 { 0 } else { epoch };
        self.open = spans.iter().take(SPANS_MAX).map(|kind| (kind, of(kind))).collect();
        self.deeper = said.saturating_sub(self.open.len() as u64);
        (*own_task, self.known) = (task, true);
        wrong
    }
}
