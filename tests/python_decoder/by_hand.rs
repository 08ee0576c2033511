//! Traces laid out byte by byte from docs/format.md: nothing of the recorder but its CRC.

use std::ops::Range;

use trace::encode::crc::crc32c;

/// What stands in a batch behind its header.
#[derive(Default)]
struct Body {
    bytes: Vec<u8>,
    events: u32,
}

impl Body {
    /// An event begins: its kind, and fields that are numbers; a timed one ends with its delta.
    fn event(&mut self, numbers: &[u64]) -> &mut Self {
        self.events += 1;
        self.numbers(numbers)
    }

    fn numbers(&mut self, numbers: &[u64]) -> &mut Self {
        for &number in numbers {
            let mut rest = number;
            while rest >= 128 {
                self.bytes.push(rest as u8 | 128);
                rest >>= 7;
            }
            self.bytes.push(rest as u8);
        }
        self
    }

    fn zigzag(&mut self, number: i64) -> &mut Self {
        self.numbers(&[(number as u64) << 1 ^ (number >> 63) as u64])
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn text(&mut self, text: &[u8]) -> &mut Self {
        self.numbers(&[(text.len() as u64) << 1]).bytes(text)
    }

    fn cut(&mut self, text: &[u8], original: u64) -> &mut Self {
        self.numbers(&[(text.len() as u64) << 1 | 1]).bytes(text).numbers(&[original])
    }

    fn list(&mut self, numbers: &[u64]) -> &mut Self {
        self.numbers(&[numbers.len() as u64]);
        let mut before = 0u64;
        for &number in numbers {
            self.zigzag(number.wrapping_sub(before) as i64);
            before = number;
        }
        self
    }

    fn fields(&mut self, fields: &[(&[u8], u64)]) -> &mut Self {
        self.numbers(&[fields.len() as u64]);
        for &(name, ty) in fields {
            self.text(name).numbers(&[ty]);
        }
        self
    }

    /// Defines a site whose name is the string `name`.
    fn site(&mut self, kind: u64, class: u64, name: u64, fields: &[(&[u8], u64)]) -> &mut Self {
        self.event(&[5, kind, class, 0, name, 0, 0, 17]).fields(fields)
    }

    fn string(&mut self, id: u64, text: &[u8]) -> &mut Self {
        self.event(&[3, id]).text(text)
    }
}

/// A trace, and where its batches stand.
#[derive(Default)]
pub struct Trace {
    pub bytes: Vec<u8>,
    pub batches: Vec<Range<usize>>,
}

/// What differs between the headers here.
#[derive(Clone, Copy)]
struct Head {
    kind: u8,
    lane: u8,
    session: u64,
    epoch: u32,
    thread: u32,
    sequence: u32,
}

impl Trace {
    fn batch(&mut self, head: Head, write: impl FnOnce(&mut Body)) {
        let mut body = Body::default();
        write(&mut body);
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&[0xeb, 0x58, 0x54, 0xf1]);
        self.bytes.extend_from_slice(&(64 + body.bytes.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&[head.kind, head.lane, 1, 0, 0, 0, 0, 0]);
        self.bytes.extend_from_slice(&head.session.to_le_bytes());
        for word in [head.epoch, 1, head.thread, head.sequence] {
            self.bytes.extend_from_slice(&word.to_le_bytes());
        }
        for ticks in [1000u64, 5000] {
            self.bytes.extend_from_slice(&ticks.to_le_bytes());
        }
        for word in [body.events, 0] {
            self.bytes.extend_from_slice(&word.to_le_bytes());
        }
        self.bytes.extend_from_slice(&body.bytes);
        self.batches.push(begin..self.bytes.len());
        seal(&mut self.bytes[begin..]);
    }
}

/// Puts the CRC of a batch right.
pub fn seal(batch: &mut [u8]) {
    batch[12..16].fill(0);
    let crc = crc32c(batch);
    batch[12..16].copy_from_slice(&crc.to_le_bytes());
}

const SESSION: Head =
    Head { kind: 1, lane: 0, session: 0x1234_5678_9abc_def0, epoch: 1, thread: 0, sequence: 0 };

/// A type that no version has yet, of a known shape.
const UNKNOWN_MEANING: u64 = 900 << 3;

/// Fields of every type, in the order of [`every_value`].
const EVERY: [(&[u8], u64); 19] = [
    (b"u64", 8),
    (b"i64", 9),
    (b"f64", 10),
    (b"bool", 16),
    (b"text", 11),
    (b"string", 24),
    (b"stack", 32),
    (b"task", 40),
    (b"thread", 48),
    (b"ticks", 56),
    (b"addr", 64),
    (b"kind", 72),
    (b"bytes", 19),
    (b"frames", 12),
    (b"list", 20),
    (b"fields", 13),
    (b"nanos", 80),
    (b"flags", 88),
    (b"unknown", UNKNOWN_MEANING),
];

/// Text that no terminal should see: controls, a quote, a reordering mark, what is no UTF-8.
const HARD: &[u8] = b"a\x00\x1b[0m\"\\\n\r\t\x7f\xc2\x85 \xe2\x80\xae \xc3\xa4 \xff\xe2\x82 z";

fn every_value(body: &mut Body, bool_value: u64) {
    body.numbers(&[u64::MAX]).zigzag(i64::MIN);
    body.bytes(&(-1.5f64).to_le_bytes()).numbers(&[bool_value]).cut(HARD, 5000);
    body.numbers(&[1, 2, 3, 4, 5, 0xffff_8000_0000_0000, 64]);
    body.cut(&[0, 1, 0xab], 70).list(&[0x5000, 0x4ff0, u64::MAX, 0]).list(&[]);
    body.fields(&[(b"x", 8), (HARD, UNKNOWN_MEANING | 3)]).numbers(&[10, 255, 77]);
}

fn session(trace: &mut Trace, head: Head) {
    trace.batch(head, |b| {
        b.event(&[1, 1]).text(b"by hand").numbers(&[2, 500_000_000, 1, 1000, 42]);
        b.text(HARD).text(b"x86_64").numbers(&[1]);
        // A kind of a later version, which only its description makes readable.
        b.event(&[2, 50]).text(b"Later").numbers(&[2]).text(b"").fields(&[(b"what", 11)]);
    });
}

fn definitions(trace: &mut Trace, head: Head, second_name: &[u8]) {
    trace.batch(Head { kind: 2, ..head }, |b| {
        b.string(1, b"every").string(2, second_name);
        b.event(&[4, 1, 0]).list(&[0x5010, 0x5008, 0x4000]);
        b.site(64, 1, 1, &EVERY).site(65, 4, 2, &[]).site(66, 1, 9, &[(b"n", 8)]);
        b.site(67, 1, 0, &[]);
        b.event(&[6, 1, 100, 0]).text(b"main").cut(b"f", 9).numbers(&[0x1000, 990]);
        b.event(&[7, 0x4000, 0x2000, 0x3000]).text(&[0xde, 0xad]).text(b"/bin/x").numbers(&[9, 8]);
    });
}

/// Every static kind, every type, both lanes, two table epochs, an unknown kind of batch.
pub fn sample() -> Trace {
    let mut trace = Trace::default();
    session(&mut trace, SESSION);
    definitions(&mut trace, Head { sequence: 1, ..SESSION }, b"two");
    let events = Head { kind: 3, thread: 1, ..SESSION };
    trace.batch(events, |b| {
        b.event(&[16, 0]).event(&[18, 2, 1, 3]).event(&[32, 7]).list(&[65, 65]).numbers(&[4, 1]);
        b.event(&[65, 200]).event(&[64]);
        every_value(b, 1);
        b.numbers(&[1 << 40]).event(&[64]);
        every_value(b, 2);
        b.numbers(&[5])
            .event(&[66, 300, 1])
            .event(&[67, 1])
            .event(&[50])
            .text(b"new")
            .numbers(&[6]);
        b.event(&[33, 1]).event(&[34, 2, 1]).event(&[35, 7, 1]).event(&[36, 7, 1]).event(&[17, 1]);
    });
    trace.batch(Head { lane: 1, ..events }, |b| {
        // A varint padded with zero groups is legal.
        b.event(&[65]).bytes(&[0x85, 0x80, 0x00]);
    });
    trace.batch(Head { kind: 77, sequence: 2, ..SESSION }, |b| {
        b.event(&[]).bytes(b"from a later version");
    });
    // The same ids mean something else in another epoch, and 64 is not defined there.
    let epoch = Head { epoch: 2, sequence: 3, ..SESSION };
    trace.batch(Head { kind: 2, ..epoch }, |b| {
        b.string(2, b"second").string(2, b"not this one").site(65, 4, 2, &[(b"k", 9)]);
    });
    trace.batch(Head { kind: 3, thread: 1, sequence: 1, ..epoch }, |b| {
        b.event(&[65]).zigzag(-3).numbers(&[9]).event(&[64, 1]).bytes(b"unreadable");
    });
    trace.batch(Head { kind: 4, sequence: 4, ..SESSION }, |b| {
        b.event(&[8, 1, 1200]).text(b"renamed").event(&[9, 1000, 1, 2, 3, 4]);
        b.event(&[10, 1, 6000]).list(&[3, 1, 2]).event(&[11, 0, 4, 12]);
        b.event(&[12, 1, 100]).text(b"main").numbers(&[6000, 1, 7]).list(&[65]);
        b.event(&[13, 7, 0, 68, 1100]).event(&[15]).text(b"kernel").text(HARD);
        b.event(&[14, 6000, 14, 12, 1, 1, 9, 150, 1]);
    });
    trace
}

/// A trace that a later version wrote, behind one of this version.
pub fn later() -> Trace {
    let mut trace = sample();
    let begin = trace.bytes.len();
    session(&mut trace, Head { session: 5, ..SESSION });
    trace.bytes[begin + 10] = 2;
    seal(&mut trace.bytes[begin..]);
    trace
}
