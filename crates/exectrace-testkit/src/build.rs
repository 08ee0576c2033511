//! Batches with right lengths, sequence numbers and CRCs, or with wrong ones on request.

use std::collections::BTreeMap;

use trace::encode::crc::crc32c;
use trace::encode::field::Text;
use trace::encode::field::Writer;
use trace::encode::field::ty;
use trace::encode::schema;
use trace::encode::schema::Class;
use trace::encode::schema::SPECS;
use trace::encode::varint::zigzag;
use trace::encode::wire::BATCH_BYTES_MAX;
use trace::encode::wire::BatchKind;
use trace::encode::wire::CRC_AT;
use trace::encode::wire::HEADER_BYTES;
use trace::encode::wire::Header;
use trace::encode::wire::VERSION;

/// A value of an event of a site.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)] // As in docs/format.md.
pub enum Field<'a> {
    U64(u64),
    I64(i64),
    F64(f64),
    Bool(bool),
    Text(&'a str),
    /// Text that need not be UTF-8.
    Bytes(&'a [u8]),
    /// Kept bytes and the length before the text was cut.
    Cut(&'a [u8], u64),
    List(&'a [u64]),
}

impl Field<'_> {
    fn put(&self, w: &mut Writer<'_>) -> Option<()> {
        match *self {
            Field::U64(v) => w.varint(v),
            Field::I64(v) => w.varint(zigzag(v)),
            Field::F64(v) => w.bytes(&v.to_bits().to_le_bytes()),
            Field::Bool(v) => w.varint(u64::from(v)),
            Field::Text(s) => w.text(s.into()),
            Field::Bytes(bytes) => w.text(Text { bytes, cut_from: None }),
            Field::Cut(bytes, from) => w.text(Text { bytes, cut_from: Some(from) }),
            Field::List(list) => w.list(list),
        }
    }
}

/// The events of a batch.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// Their bytes.
    pub bytes: Vec<u8>,
    /// How many there are.
    pub count: u32,
    /// The sum of the deltas that were given to [`Body::site`] and [`Body::timed`].
    pub ticks: u64,
    /// Ends of generations among them.
    pub generations: u64,
    room: Vec<u8>,
}

impl Body {
    /// An event written by `write`, which gives `None` where it has no room.
    pub fn put(&mut self, write: impl FnOnce(&mut Writer<'_>) -> Option<()>) -> &mut Self {
        self.room.resize(BATCH_BYTES_MAX, 0);
        let mut w = Writer::new(&mut self.room);
        write(&mut w).expect("an event fits a batch");
        let len = w.len();
        self.bytes.extend_from_slice(&self.room[..len]);
        self.count += 1;
        self
    }

    /// A timed event of a static kind.
    pub fn timed(
        &mut self,
        delta: u64,
        write: impl FnOnce(&mut Writer<'_>, u64) -> Option<()>,
    ) -> &mut Self {
        self.ticks = self.ticks.saturating_add(delta);
        self.put(|w| write(w, delta))
    }

    /// An event of a site.
    pub fn site(&mut self, kind: u64, delta: u64, fields: &[Field<'_>]) -> &mut Self {
        self.ticks = self.ticks.saturating_add(delta);
        self.put(|w| {
            w.varint(kind)?;
            fields.iter().try_for_each(|f| f.put(w))?;
            w.varint(delta)
        })
    }

    /// Bytes as they are, counted as one event.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.count += 1;
        self
    }

    /// The definition of a string.
    pub fn string(&mut self, id: u64, text: &str) -> &mut Self {
        self.put(|w| schema::String::put(w, id, text.into()))
    }

    /// The definition of a stack.
    pub fn stack(&mut self, id: u64, frames: &[u64]) -> &mut Self {
        self.put(|w| schema::Stack::put(w, id, 0, frames))
    }

    /// The definition of a site whose name is the string `name`; module, file and line are made up
    /// from its kind.
    pub fn define(
        &mut self,
        kind: u64,
        class: Class,
        name: u64,
        fields: &[(&str, u64)],
    ) -> &mut Self {
        let flags = u64::from(fields.last().is_some_and(|f| *f == ("stack", ty::STACK)));
        self.put(|w| schema::Site::put(w, kind, class as u64, flags, name, 0, 0, kind, fields))
    }

    /// The definition of a thread.
    pub fn thread(&mut self, number: u64, tid: u64, name: &str) -> &mut Self {
        self.put(|w| schema::Thread::put(w, number, tid, 0, name.into(), "".into(), 0, 0))
    }

    /// Clocks read together.
    pub fn clock(&mut self, at: u64, mono_ns: u64, wall_ns: u64) -> &mut Self {
        self.put(|w| schema::ClockSnapshot::put(w, at, mono_ns, wall_ns, mono_ns, 1))
    }

    /// The end of a generation.
    pub fn generation_end(&mut self, generation: u64, at: u64, late: &[u64]) -> &mut Self {
        self.generations += 1;
        self.put(|w| schema::GenerationEnd::put(w, generation, at, late))
    }
}

/// A batch with this header and body: length and CRC are put right, all else is kept.
pub fn sealed(mut header: Header, body: &[u8]) -> Vec<u8> {
    header.length = (HEADER_BYTES + body.len()) as u32;
    header.crc = 0;
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend_from_slice(body);
    let crc = crc32c(&bytes);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Writes a trace batch by batch.
#[derive(Clone, Debug)]
pub struct TraceBuilder {
    /// The header of the next batch, but what each kind of batch sets itself.
    pub next: Header,
    /// The trace.
    pub bytes: Vec<u8>,
    /// Where each batch begins.
    pub offsets: Vec<usize>,
    /// Timed events so far.
    pub events: u64,
    /// Ends of generations so far.
    pub generations: u64,
    sequences: BTreeMap<(u32, u8), u32>,
}

impl TraceBuilder {
    /// A trace without any batch.
    pub fn new(session: u64) -> Self {
        let next = Header {
            length: 0,
            kind: 0,
            lane: 0,
            version: VERSION,
            crc: 0,
            session,
            epoch: 1,
            generation: 1,
            thread: 0,
            sequence: 0,
            first_ticks: 0,
            last_ticks: 0,
            count: 0,
            flags: 0,
        };
        TraceBuilder {
            next,
            bytes: Vec::new(),
            offsets: Vec::new(),
            events: 0,
            generations: 0,
            sequences: BTreeMap::new(),
        }
    }

    /// A batch of any kind as `next` has it, with the sequence number that is its turn.
    pub fn batch(&mut self, kind: u8, thread: u32, lane: u8, body: &Body) -> &mut Self {
        let sequence = self.sequences.entry((thread, lane)).or_default();
        let (count, next) = (body.count, self.next);
        let header = Header { kind, thread, lane, count, sequence: *sequence, ..next };
        *sequence += 1;
        self.generations += body.generations;
        self.offsets.push(self.bytes.len());
        self.bytes.extend(sealed(header, &body.bytes));
        (self.next.first_ticks, self.next.last_ticks, self.next.flags) = (0, 0, 0);
        self
    }

    /// The first batch of a session: what it is, and the schema of all static kinds.
    pub fn session(&mut self, start: u64, tick_rate: u64) -> &mut Self {
        let mut b = Body::default();
        b.put(|w| {
            let (recorder, program) = ("testkit".into(), "by hand".into());
            schema::Session::put(
                w,
                1,
                recorder,
                0,
                tick_rate,
                1,
                start,
                4711,
                program,
                "none".into(),
                1,
            )
        });
        for s in SPECS {
            let (kind, name) = (s.kind as u64, s.name.into());
            let (phase, pair) = (s.phase.code(), s.phase.pair().into());
            b.put(|w| schema::Schema::put(w, kind, name, phase, pair, s.fields));
        }
        self.batch(BatchKind::Session as u8, 0, 0, &b)
    }

    /// A batch of definitions.
    pub fn definitions(&mut self, write: impl FnOnce(&mut Body)) -> &mut Self {
        self.structural(BatchKind::Definitions, write)
    }

    /// A control batch.
    pub fn control(&mut self, write: impl FnOnce(&mut Body)) -> &mut Self {
        self.structural(BatchKind::Control, write)
    }

    fn structural(&mut self, kind: BatchKind, write: impl FnOnce(&mut Body)) -> &mut Self {
        let mut body = Body::default();
        write(&mut body);
        self.batch(kind as u8, 0, 0, &body)
    }

    /// A batch of events of a thread's main lane.
    pub fn events(
        &mut self,
        thread: u32,
        first_ticks: u64,
        write: impl FnOnce(&mut Body),
    ) -> &mut Self {
        self.events_of(thread, 0, first_ticks, write)
    }

    /// A batch of events of a lane of a thread.
    pub fn events_of(
        &mut self,
        thread: u32,
        lane: u8,
        first_ticks: u64,
        write: impl FnOnce(&mut Body),
    ) -> &mut Self {
        let mut body = Body::default();
        write(&mut body);
        self.events += u64::from(body.count);
        self.next.first_ticks = first_ticks;
        self.next.last_ticks = first_ticks.saturating_add(body.ticks);
        self.batch(BatchKind::Events as u8, thread, lane, &body)
    }

    /// The end of the session, with the counts of what was written.
    pub fn end(&mut self, at: u64) -> &mut Self {
        let (events, generations) = (self.events, self.generations);
        let batches = self.offsets.len() as u64 + 1;
        self.control(|b| {
            b.put(|w| schema::End::put(w, at, events, 0, 0, generations, batches, 0, 1));
        })
    }
}
