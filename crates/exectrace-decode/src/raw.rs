//! The raw text form: one line for each batch and event, in the order of the input, unmerged.
//!
//! It is exact and has no choices in it, so that two decoders can be compared byte by byte. Grammar
//! (`N` is decimal; names, texts and labels are escaped as [`crate::text`] does):
//!
//! ```text
//! line    = batch | event | damage
//! batch   = "batch " N " offset=" N " length=" N " kind=" ("session" | "definitions" | "events" |
//!           "control" | N) " lane=" N " version=" N " session=" 16 hex digits " epoch=" N
//!           " generation=" N " thread=" N " sequence=" N " first=" N " last=" N " count=" N
//!           " flags=" N
//! event   = "  " ["+" delta " "] (static name | "site " kind " " label | "kind " kind " " label)
//!           {" " field name "=" value}
//! label   = '"' escaped '"' | "-" for string 0 | "?" id for a string that nothing defines
//! value   = shape 0: N; of type addr "0x" hex digits; of type bool "false" or "true" for 0 and 1
//!         | shape 1: N with its sign
//!         | shape 2: "0x" 16 hex digits
//!         | shape 3: of type text '"' escaped '"', others "#" hex digits; cut: ".." N behind
//!         | shape 4: "[" numbers separated by "," "]"; of type frames as addr
//!         | shape 5: "{" name ":" type, separated by "," "}"; a type by its name, or its number
//! damage  = "damage offset=" N " length=" N " " word
//! ```
//!
//! The delta stands in timed events only. Tables are those met so far in the session; a batch of
//! kind 1, and one of another session than the batch before it, begin with empty ones.

use std::fmt::Write as _;

use trace::encode::field::Fields as FieldList;
use trace::encode::field::Reader;
use trace::encode::field::Text;
use trace::encode::field::type_name;
use trace::encode::wire::BatchKind;
use trace::encode::wire::HEADER_BYTES;
use trace::encode::wire::Header;

use crate::batch::BatchReader;
use crate::batch::Found;
use crate::error::Damage;
use crate::error::DamageKind;
use crate::error::Error;
use crate::event::FieldTypes;
use crate::event::Fields;
use crate::event::Structural;
use crate::event::Value;
use crate::scan;
use crate::structural;
use crate::tables::Session;
use crate::text;

/// Writes the raw text form. Feed it with [`Dump::push`], then ask [`Dump::next_line`] until it
/// gives `None`.
#[derive(Debug, Default)]
pub struct Dump {
    reader: BatchReader,
    session: Option<Session>,
    header: Option<Header>,
    batches: u64,
    /// The body of the batch whose events are written, and how far.
    body: Vec<u8>,
    at: usize,
    offset: u64,
    line: String,
}

impl Dump {
    /// A dump of an input from its start.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the input.
    pub fn push(&mut self, bytes: &[u8]) {
        self.reader.push(bytes);
    }

    /// Says that the input ends here.
    pub fn finish(&mut self) {
        self.reader.finish();
    }

    /// The header of the batch that the last line belongs to.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// The session as far as it was read, without its stacks.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// The next line, without its line feed; `None` where more input is needed, and at the end.
    pub fn next_line(&mut self) -> Result<Option<&str>, Error> {
        self.line.clear();
        if self.at < self.body.len() {
            if let Err(kind) = self.event() {
                let (offset, len) = (self.offset + self.at as u64, self.body.len() - self.at);
                self.at = self.body.len();
                self.damage(Damage { offset, len: len as u64, kind });
            }
            return Ok(Some(&self.line));
        }
        match self.reader.find()? {
            None => return Ok(None),
            Some(Found::Damage(damage)) => self.damage(damage),
            Some(Found::Batch(place)) => {
                let batch = self.reader.view(&place);
                self.body.clear();
                if BatchKind::from_u8(batch.header.kind).is_some() {
                    self.body.extend_from_slice(batch.body());
                }
                self.at = 0;
                self.offset = batch.offset + HEADER_BYTES as u64;
                self.batch(place.offset, place.header);
            }
        }
        Ok(Some(&self.line))
    }

    fn damage(&mut self, damage: Damage) {
        let Damage { offset, len, kind } = damage;
        if let Some(session) = &mut self.session {
            session.totals.damages += 1;
            session.totals.damaged_bytes += len;
        }
        let _ = write!(self.line, "damage offset={offset} length={len} {}", kind.word());
    }

    fn batch(&mut self, offset: u64, h: Header) {
        let begins = h.kind == BatchKind::Session as u8;
        if begins || self.session.as_ref().is_none_or(|s| s.id() != h.session) {
            self.session = Some(Session::new(h.session, offset, h.first_ticks).without_stacks());
        }
        let _ =
            write!(self.line, "batch {} offset={offset} length={} kind=", self.batches, h.length);
        let _ = match BatchKind::from_u8(h.kind) {
            Some(BatchKind::Session) => self.line.write_str("session"),
            Some(BatchKind::Definitions) => self.line.write_str("definitions"),
            Some(BatchKind::Events) => self.line.write_str("events"),
            Some(BatchKind::Control) => self.line.write_str("control"),
            None => write!(self.line, "{}", h.kind),
        };
        let Header { lane, version, session, epoch, generation, thread, sequence, .. } = h;
        let _ = write!(
            self.line,
            " lane={lane} version={version} session={session:016x} epoch={epoch} \
             generation={generation} thread={thread} sequence={sequence} first={} last={} \
             count={} flags={}",
            h.first_ticks, h.last_ticks, h.count, h.flags
        );
        self.batches += 1;
        self.header = Some(h);
    }

    fn event(&mut self) -> Result<(), DamageKind> {
        let lost = DamageKind::Event { kind: 0 };
        let (session, header) = (self.session.as_mut().ok_or(lost)?, self.header.ok_or(lost)?);
        let rest = self.body.get(self.at..).ok_or(lost)?;
        if header.kind == BatchKind::Events as u8 {
            self.at += timed(session, header.epoch, rest, &mut self.line)?;
        } else {
            structural(session, rest, &mut self.line)?;
            self.at += structural::apply(session, header.epoch, rest)?.1;
        }
        Ok(())
    }
}

fn timed(
    session: &mut Session,
    epoch: u32,
    rest: &[u8],
    line: &mut String,
) -> Result<usize, DamageKind> {
    let index = session.epoch(epoch);
    let lost = DamageKind::Event { kind: 0 };
    let tables = session.tables_at(index).ok_or(lost)?;
    let (head, len) = scan::step_slow(session, tables, rest)?;
    let (kind, bytes) = (head.kind, rest.get(head.fields as usize..len).ok_or(lost)?);
    let _ = write!(line, "  +{} ", head.delta);
    if let Some(site) = tables.site(kind) {
        let _ = write!(line, "site {kind} ");
        match (site.name, tables.string(site.name)) {
            (0, _) => line.push('-'),
            (id, None) => drop(write!(line, "?{id}")),
            (_, Some(name)) => text::quote(Text { cut_from: None, ..name }, line),
        }
        fields(Fields::new(site.types(), bytes), line);
    } else if let Some(spec) = crate::shape::timed_spec(kind) {
        line.push_str(spec.name);
        fields(Fields::new(FieldTypes::of_static(kind), bytes), line);
    } else if let Some(def) = session.schema(kind) {
        described(kind, &def.name, line);
        fields(Fields::new(FieldTypes::Defined(&def.fields), bytes), line);
    }
    Ok(len)
}

fn structural(session: &Session, rest: &[u8], line: &mut String) -> Result<(), DamageKind> {
    let (event, _) = structural::read(session, rest)?;
    line.push_str("  ");
    if let Structural::Other(other) = event {
        described(other.kind, other.def.map_or(&[], |d| &*d.name), line);
        fields(other.fields(), line);
        return Ok(());
    }
    line.push_str(event.kind_name().unwrap_or_default());
    let mut r = Reader::new(rest);
    let kind = r.varint().unwrap_or_default();
    fields(Fields::new(FieldTypes::of_static(kind), r.rest()), line);
    Ok(())
}

fn described(kind: u64, name: &[u8], line: &mut String) {
    let _ = write!(line, "kind {kind} ");
    text::quote(Text { bytes: name, cut_from: None }, line);
}

fn fields(fields: Fields<'_>, line: &mut String) {
    for (name, v) in fields {
        line.push(' ');
        text::escape(name, line);
        line.push('=');
        value(v, line);
    }
}

/// Appends a value as the raw text form has it.
pub fn value(value: Value<'_>, line: &mut String) {
    // Writing to a string cannot fail.
    let _ = match value {
        Value::U64(v) | Value::String(v) | Value::Stack(v) | Value::Task(v) => {
            write!(line, "{v}")
        }
        Value::Thread(v) | Value::Ticks(v) | Value::Kind(v) | Value::Nanos(v) | Value::Flags(v) => {
            write!(line, "{v}")
        }
        Value::I64(v) => write!(line, "{v}"),
        Value::Addr(v) => write!(line, "{v:#x}"),
        Value::Bool(v) => write!(line, "{v}"),
        Value::F64(v) => write!(line, "{:#018x}", v.to_bits()),
        Value::Fixed(v) => write!(line, "{v:#018x}"),
        Value::Text(t) => {
            text::quote(t, line);
            Ok(())
        }
        Value::Bytes(t) => {
            text::hex(t, line);
            Ok(())
        }
        Value::Frames(l) => {
            list(l.iter(), line, |v, line| write!(line, "{v:#x}"));
            Ok(())
        }
        Value::List(l) => {
            list(l.iter(), line, |v, line| write!(line, "{v}"));
            Ok(())
        }
        Value::Fields(f) => {
            types(f, line);
            Ok(())
        }
    };
}

fn list(
    numbers: impl Iterator<Item = u64>,
    line: &mut String,
    one: impl Fn(u64, &mut String) -> std::fmt::Result,
) {
    line.push('[');
    for (i, v) in numbers.enumerate() {
        if i > 0 {
            line.push(',');
        }
        let _ = one(v, line);
    }
    line.push(']');
}

fn types(fields: FieldList<'_>, line: &mut String) {
    line.push('{');
    for (i, (name, ty)) in fields.iter().enumerate() {
        if i > 0 {
            line.push(',');
        }
        text::escape(name.bytes, line);
        line.push(':');
        match type_name(ty) {
            Some(name) => line.push_str(name),
            None => drop(write!(line, "{ty}")),
        }
    }
    line.push('}');
}
