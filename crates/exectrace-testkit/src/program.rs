//! Programs of events, read from arbitrary bytes: the trace that they make, and what a reader must
//! give out for it. A fuzzer's input, or a generator's numbers, become sites of random fields, and
//! events of several threads, lanes, generations and table epochs.
//!
//! 1. Whatever the input, the trace is valid.
//! 2. What is expected comes from the program, never from a decoder.

use std::collections::BTreeMap;

use trace::encode::field::ty;
use trace::encode::schema::Class;
use trace::encode::wire::BATCH_BYTES_MAX;
use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Validate;
use trace_decode::Value;
use trace_decode::raw::Dump;

use crate::build::Body;
use crate::build::Field;
use crate::build::TraceBuilder;

/// A value of an event.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // As in docs/format.md.
pub enum Val {
    U64(u64),
    I64(i64),
    /// The bits: numbers that are none differ in them.
    F64(u64),
    Bool(bool),
    Text(Vec<u8>, Option<u64>),
    List(Vec<u64>),
    Stack(u64),
}

/// An event: its time in ticks, its name and its values.
pub type Event = (u64, Vec<u8>, Vec<Val>);

/// A trace and what is in it.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// The trace.
    pub bytes: Vec<u8>,
    /// The events of each thread's lane, in their order.
    pub events: BTreeMap<(u32, u8), Vec<Event>>,
}

/// The input, read from its start; zeros behind its end.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, n: u8) -> u8 {
        self.byte() % n
    }

    /// A number of any size: the first byte says how many bytes it has.
    fn number(&mut self) -> u64 {
        let bytes = self.below(9);
        (0..bytes).fold(0, |n, _| n << 8 | u64::from(self.byte()))
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.byte()).collect()
    }

    fn value(&mut self, of: u64) -> Val {
        match of {
            ty::U64 => Val::U64(self.number()),
            ty::I64 => Val::I64(self.number() as i64),
            ty::F64 => Val::F64(self.number().rotate_left(32)),
            ty::BOOL => Val::Bool(self.byte() & 1 != 0),
            ty::STACK => Val::Stack(u64::from(self.below(4))),
            ty::LIST => {
                let n = self.below(5);
                Val::List((0..n).map(|_| self.number()).collect())
            }
            _ => {
                let n = usize::from(self.byte() & 0x3f);
                let cut = (self.byte() & 7 == 0).then(|| self.number());
                Val::Text(self.bytes(n), cut)
            }
        }
    }
}

const TYPES: [u64; 7] = [ty::U64, ty::I64, ty::F64, ty::BOOL, ty::TEXT, ty::LIST, ty::STACK];
const FIELDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// A program that is being written down.
struct Maker<'a> {
    from: Source<'a>,
    t: TraceBuilder,
    /// Types of the fields of each site of the epoch.
    sites: Vec<Vec<u64>>,
    name: Vec<u8>,
    /// The time of each lane.
    times: BTreeMap<(u32, u8), u64>,
    /// No event comes before it any more.
    floor: u64,
    lane: (u32, u8),
    first: u64,
    body: Body,
    made: Program,
}

/// The program that the input stands for.
pub fn program(input: &[u8]) -> Program {
    let mut m = Maker {
        from: Source(input),
        t: TraceBuilder::new(77),
        sites: Vec::new(),
        name: Vec::new(),
        times: BTreeMap::new(),
        floor: 0,
        lane: (1, 0),
        first: 0,
        body: Body::default(),
        made: Program::default(),
    };
    m.t.session(0, 1_000_000_000);
    m.t.control(|c| {
        c.clock(0, 0, 0);
    });
    m.epoch();
    while !m.from.0.is_empty() {
        match m.from.below(16) {
            0 => m.turn(),
            1 => m.generation(),
            2 => {
                m.flush();
                m.t.next.epoch += 1;
                m.epoch();
            }
            _ => m.event(),
        }
    }
    m.flush();
    let end = m.times.values().copied().max().unwrap_or(0).max(m.floor);
    m.t.end(end);
    m.made.bytes = m.t.bytes;
    m.made
}

impl Maker<'_> {
    /// Begins a table epoch: sites of random fields, all of one name, and three stacks.
    fn epoch(&mut self) {
        let n = 1 + self.from.below(4);
        self.name = format!("epoch {}", self.t.next.epoch).into_bytes();
        self.sites.clear();
        for _ in 0..n {
            let fields = self.from.below(7);
            let types = (0..fields).map(|_| TYPES[usize::from(self.from.below(7))]).collect();
            self.sites.push(types);
        }
        let (sites, name) = (&self.sites, &self.name);
        self.t.definitions(|d| {
            d.string(1, std::str::from_utf8(name).unwrap_or("")).thread(1, 1, "").thread(2, 2, "");
            (1..4).for_each(|id| _ = d.stack(id, &[id, id * 1000]));
            for (i, types) in sites.iter().enumerate() {
                let fields: Vec<_> = FIELDS.into_iter().zip(types.iter().copied()).collect();
                d.define(64 + i as u64 * 40, Class::Instant, 1, &fields);
            }
        });
    }

    /// Goes over to another lane.
    fn turn(&mut self) {
        self.flush();
        let which = self.from.byte();
        self.lane = (1 + u32::from(which & 1), which >> 1 & 1);
        self.begin();
    }

    fn begin(&mut self) {
        let time = self.times.entry(self.lane).or_default();
        *time = (*time).max(self.floor).saturating_add(u64::from(self.from.byte()));
        self.first = *time;
    }

    fn event(&mut self) {
        if self.body.count == 0 {
            self.begin();
        }
        let site = usize::from(self.from.byte()) % self.sites.len();
        let values: Vec<Val> = self.sites[site].iter().map(|of| self.from.value(*of)).collect();
        // Far from where times end, so that generations have room.
        let delta = match self.from.below(8) {
            0 => self.from.number() >> 24,
            _ => u64::from(self.from.byte()),
        };
        let time = self.times.entry(self.lane).or_default();
        if *time > 1 << 60 {
            return;
        }
        *time += delta;
        put(&mut self.body, 64 + site as u64 * 40, delta, &values);
        let event = (*time, self.name.clone(), values);
        self.made.events.entry(self.lane).or_default().push(event);
        if self.body.bytes.len() > BATCH_BYTES_MAX - 4096 {
            self.flush();
        }
    }

    fn generation(&mut self) {
        self.flush();
        let end = self.times.values().copied().max().unwrap_or(0).max(self.floor) + 1;
        let generation = u64::from(self.t.next.generation);
        self.t.control(|c| {
            c.clock(end, end * 2, end).generation_end(generation, end, &[]);
        });
        self.t.next.generation += 1;
        self.floor = end;
    }

    fn flush(&mut self) {
        let body = std::mem::take(&mut self.body);
        if body.count > 0 {
            let (thread, lane) = self.lane;
            self.t.events += u64::from(body.count);
            self.t.next.first_ticks = self.first;
            self.t.next.last_ticks = self.first + body.ticks;
            self.t.batch(3, thread, lane, &body);
        }
    }
}

fn put(body: &mut Body, kind: u64, delta: u64, values: &[Val]) {
    let fields: Vec<Field<'_>> = values
        .iter()
        .map(|v| match v {
            Val::U64(n) | Val::Stack(n) => Field::U64(*n),
            Val::I64(n) => Field::I64(*n),
            Val::F64(bits) => Field::F64(f64::from_bits(*bits)),
            Val::Bool(b) => Field::Bool(*b),
            Val::Text(bytes, Some(from)) => Field::Cut(bytes, *from),
            Val::Text(bytes, None) => Field::Bytes(bytes),
            Val::List(list) => Field::List(list),
        })
        .collect();
    body.site(kind, delta, &fields);
}

/// What the decoder gives out.
fn decoded(bytes: &[u8], piece: usize) -> BTreeMap<(u32, u8), Vec<Event>> {
    let mut all: BTreeMap<(u32, u8), Vec<Event>> = BTreeMap::new();
    let (mut decoder, mut last) = (Decoder::new(), 0);
    for piece in bytes.chunks(piece.max(1)).map(Some).chain([None]) {
        match piece {
            Some(piece) => decoder.push(piece),
            None => decoder.finish(),
        }
        while let Some(item) = decoder.next_item().expect("a trace") {
            let Item::Event(e) = item else {
                assert!(!matches!(item, Item::Damage(_)), "{item:?}");
                continue;
            };
            assert!(e.ticks >= last && !e.late, "all are in the order of time");
            last = e.ticks;
            let values = e.fields().map(|(_, v)| value(v)).collect();
            let name = e.name().expect("a name").bytes.to_vec();
            if let Some(id @ 1..) = e.stack() {
                let frames: Vec<u64> =
                    e.tables().stack(id).expect("a definition").frames().collect();
                assert_eq!(frames, [id, id * 1000]);
            }
            all.entry((e.thread, e.lane)).or_default().push((e.ticks, name, values));
        }
    }
    all
}

fn value(v: Value<'_>) -> Val {
    match v {
        Value::U64(n) => Val::U64(n),
        Value::I64(n) => Val::I64(n),
        Value::F64(n) => Val::F64(n.to_bits()),
        Value::Bool(b) => Val::Bool(b),
        Value::Text(t) => Val::Text(t.bytes.to_vec(), t.cut_from),
        Value::List(l) => Val::List(l.iter().collect()),
        Value::Stack(id) => Val::Stack(id),
        other => panic!("no value of a program: {other:?}"),
    }
}

/// Holds every reader to the program; gives how many events it has.
///
/// # Panics
/// Where one of them says something else.
pub fn hold_to(p: &Program, piece: usize) -> usize {
    assert_eq!(decoded(&p.bytes, piece), p.events);
    let events: usize = p.events.values().map(Vec::len).sum();
    let mut v = Validate::new();
    for piece in p.bytes.chunks(piece.max(1)) {
        v.push(piece).expect("a trace");
    }
    v.finish().expect("a trace");
    assert!(v.problems().is_empty(), "{:#?}", v.problems());
    assert_eq!(v.events(), events as u64);
    let mut dump = Dump::new();
    dump.push(&p.bytes);
    dump.finish();
    let mut lines = 0;
    while let Some(line) = dump.next_line().expect("a trace") {
        lines += usize::from(line.starts_with("  +"));
    }
    assert_eq!(lines, events);
    events
}
