//! What a trace says, as lines that a test can state beforehand.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use trace_decode::Decoder;
use trace_decode::Error;
use trace_decode::ErrorKind;
use trace_decode::Event;
use trace_decode::Item;
use trace_decode::Scan;
use trace_decode::ScanItem;
use trace_decode::Session;
use trace_decode::Timed;
use trace_decode::Validate;
use trace_decode::Value;
use trace_decode::event::Fields;
use trace_decode::raw;
use trace_decode::raw::Dump;
use trace_decode::text;
use trace_decode::validate::What;

/// Everything that the decoder gives out, a line for each item: `events`, and what is not an event
/// in `others`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// `ts_ns thread/lane kind [name] field=value ..`
    pub events: Vec<String>,
    /// Sessions, damage, control events.
    pub others: Vec<String>,
    /// Why the input was refused.
    pub error: Option<Error>,
    /// Bytes in damage.
    pub damaged_bytes: u64,
}

/// Decodes `bytes`, pushed in pieces of `piece` bytes.
pub fn decode(bytes: &[u8], piece: usize) -> Decoded {
    let mut decoder = Decoder::new();
    let mut out = Decoded::default();
    for piece in bytes.chunks(piece.max(1)) {
        decoder.push(piece);
        if !drain(&mut decoder, &mut out) {
            return out;
        }
    }
    decoder.finish();
    drain(&mut decoder, &mut out);
    out
}

fn drain(decoder: &mut Decoder, out: &mut Decoded) -> bool {
    loop {
        match decoder.next_item() {
            Ok(Some(item)) => add(item, out),
            Ok(None) => return true,
            Err(error) => {
                out.error = Some(error);
                return false;
            }
        }
    }
}

fn add(item: Item<'_>, out: &mut Decoded) {
    match item {
        Item::Event(e) => {
            let mut line = format!("{} {}/{} ", e.ts_ns, e.thread, e.lane);
            line += &String::from_utf8_lossy(e.kind_name().bytes);
            if let Some(name) = e.name() {
                let _ = write!(line, " [{}]", String::from_utf8_lossy(name.bytes));
            }
            if let Some(ns) = e.duration_ns() {
                let _ = write!(line, " took={ns}");
            }
            fields(e.fields(), &mut line);
            if e.late {
                line.push_str(" late");
            }
            out.events.push(line);
        }
        Item::SessionBegin(s) => out.others.push(format!("session {:x}", s.id())),
        Item::SessionEnd(s) => {
            let end = s.end().map_or("cut".into(), |e| format!("end events={}", e.events));
            out.others.push(format!("{end}: {} events", s.totals().events));
        }
        Item::Control(c) => out.others.push(c.event().kind_name().unwrap_or("?").into()),
        Item::Damage(d) => {
            out.damaged_bytes += d.len;
            out.others.push(d.to_string());
        }
        Item::Overflow { .. } => out.others.push("overflow".into()),
    }
}

fn fields(fields: Fields<'_>, line: &mut String) {
    for (name, value) in fields {
        let _ = write!(line, " {}=", String::from_utf8_lossy(name));
        let _ = match value {
            Value::Text(t) | Value::Bytes(t) => {
                let cut = t.cut_from.map(|n| format!("..{n}")).unwrap_or_default();
                write!(line, "{}{cut}", t.bytes.escape_ascii())
            }
            Value::List(l) | Value::Frames(l) => {
                write!(line, "{:?}", l.iter().collect::<Vec<_>>())
            }
            Value::U64(v) => write!(line, "{v}"),
            Value::I64(v) => write!(line, "{v}"),
            Value::F64(v) => write!(line, "{v:?}"),
            Value::Bool(v) => write!(line, "{v}"),
            other => write!(line, "{other:?}"),
        };
    }
}

/// What every reader of the decoder says of an input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Timed events.
    pub events: u64,
    /// Events flagged as late.
    pub late: u64,
    /// What each skipped range is, in the words of the raw text form.
    pub damage: Vec<&'static str>,
    /// Sessions, and how many of them have an end.
    pub sessions: (u64, u64),
    /// Why the input was refused.
    pub error: Option<ErrorKind>,
    /// What the validator found, but damage.
    pub problems: Vec<What>,
}

/// Runs every reader over the input, calls every accessor of what they give out, and holds them to
/// what must be so for any input: they agree, no byte is unaccounted for, no thread's time goes
/// back.
///
/// # Panics
/// Where one of these does not hold.
pub fn everything(bytes: &[u8], piece: usize) -> Verdict {
    let mut verdict = merged(bytes, piece);
    let (events, damage, error) = scanned(bytes, piece);
    assert_eq!(error, verdict.error, "scan and merge agree on the refusal");
    // The merge holds batches back: a definition that comes too late may still be there for them.
    if damage.contains(&"kind") {
        assert!(events <= verdict.events, "{events} scanned, {} merged", verdict.events);
    } else {
        assert_eq!(events, verdict.events, "scan and merge agree");
        let sorted = |mut words: Vec<&'static str>| {
            words.sort_unstable();
            words
        };
        assert_eq!(sorted(damage.clone()), sorted(verdict.damage.clone()));
    }
    let (lines, refused) = dumped(bytes, piece);
    assert_eq!(refused, error, "raw text form and scan agree on the refusal");
    if !damage.contains(&"session") && verdict.sessions.0 < 2 {
        assert_eq!(lines, events, "raw text form and scan agree");
    }
    let mut v = Validate::new();
    let mut refused = None;
    for piece in bytes.chunks(piece.max(1)) {
        refused = refused.or(v.push(piece).err());
    }
    refused = refused.or(v.finish().err());
    assert_eq!(refused.map(|e| e.kind()), error, "validator and scan agree");
    assert_eq!(v.events(), events, "validator and scan agree");
    assert_eq!(v.count(What::Damage), damage.len() as u64, "validator and scan agree on damage");
    let kinds: BTreeSet<What> = v.problems().iter().map(|p| p.what).collect();
    verdict.problems = kinds.into_iter().filter(|w| *w != What::Damage).collect();
    for p in v.problems() {
        assert!(!p.to_string().is_empty());
    }
    verdict
}

/// What the decoder alone says of the input; calls every accessor of what it gives out.
///
/// # Panics
/// Where a thread's time goes back, or an offset lies outside the input.
pub fn merged(bytes: &[u8], piece: usize) -> Verdict {
    let mut v = Verdict::default();
    let mut decoder = Decoder::new();
    let mut last = BTreeMap::new();
    let mut last_damage = 0;
    for piece in bytes.chunks(piece.max(1)).map(Some).chain([None]) {
        match piece {
            Some(piece) => decoder.push(piece),
            None => decoder.finish(),
        }
        loop {
            let item = match decoder.next_item() {
                Ok(Some(item)) => item,
                Ok(None) => break,
                Err(e) => {
                    assert!(!e.to_string().is_empty() && e.offset() <= bytes.len() as u64);
                    v.error = Some(e.kind());
                    return v;
                }
            };
            match item {
                Item::Event(e) => {
                    let before = last.insert(e.thread, e.ts_ns).unwrap_or(0);
                    assert!(e.ts_ns >= before, "time of thread {} goes back", e.thread);
                    v.events += 1;
                    v.late += u64::from(e.late);
                    event(&e, bytes.len() as u64);
                }
                Item::Damage(d) => {
                    assert!(d.len > 0 && d.offset + d.len <= bytes.len() as u64, "{d}");
                    assert!(!d.to_string().is_empty());
                    last_damage = last_damage.max(d.offset);
                    v.damage.push(d.kind.word());
                }
                Item::Control(c) => {
                    assert!(c.offset() < bytes.len() as u64);
                    let _ = format!("{:?}", c.event());
                }
                Item::SessionBegin(_) => {
                    last.clear();
                    v.sessions.0 += 1;
                }
                Item::SessionEnd(s) => {
                    v.sessions.1 += u64::from(s.end().is_some());
                    session(s);
                }
                Item::Overflow { .. } => {}
            }
        }
    }
    v
}

/// Calls every accessor of an event.
fn event(e: &Timed<'_>, input_len: u64) {
    assert!(e.offset < input_len);
    assert!(!e.kind_name().bytes.is_empty() || e.kind < 64);
    let (mut line, mut values) = (String::new(), 0);
    for (name, value) in e.fields() {
        text::escape(name, &mut line);
        raw::value(value, &mut line);
        values += 1;
        if let Value::Stack(id) = value {
            let frames = e.tables().stack(id).map_or(0, |s| s.frames().count());
            assert!(frames <= 65_536);
        }
        if let Value::String(id) = value {
            let _ = e.tables().string(id);
        }
    }
    if let Event::Site(s) = e.event() {
        assert_eq!(values, s.site.fields().count(), "all fields of a checked event are there");
    }
    assert!(!line.bytes().any(|b| b < b' ' || b == 0x7f));
    let _ = (e.name(), e.site(), e.stack(), e.ended_span(), e.duration_ns());
    let _ = e.session().clock().wall_ns(e.ts_ns);
    let _ = format!("{:?}", e.event());
}

/// Calls every accessor of a session.
fn session(s: &Session) {
    let _ = (s.id(), s.offset(), s.info(), s.lost(), s.duration_ns(), s.totals());
    let _ = (s.threads().count(), s.unregistered().count());
    let _ = (s.losses().count(), s.notes().count());
    for loss in s.losses() {
        let _ = (loss.cause_name(), loss.is_event());
    }
    for kind in 0..64 {
        let _ = s.schema(kind).map(|d| d.fields().count());
    }
    for t in s.epochs() {
        let _ = (t.modules().count(), t.counts(), t.repeated(), t.module_of(u64::MAX));
        for site in t.sites() {
            let _ = (site.class(), site.fields().count(), t.string(site.name));
        }
    }
}

fn scanned(bytes: &[u8], piece: usize) -> (u64, Vec<&'static str>, Option<ErrorKind>) {
    let (mut scan, mut events, mut seen) = (Scan::new(), 0, 0);
    let mut damage = Vec::new();
    for piece in bytes.chunks(piece.max(1)).map(Some).chain([None]) {
        match piece {
            Some(piece) => scan.push(piece),
            None => scan.finish(),
        }
        loop {
            match scan.next_item() {
                Ok(Some(ScanItem::Batch(b))) => {
                    seen += u64::from(b.header.length);
                    let by_kind: u64 = b.counts.iter().map(|c| c.1).sum();
                    assert_eq!(by_kind, b.events);
                    events += if b.is_events() { b.events } else { 0 };
                }
                Ok(Some(ScanItem::Damage(d))) => {
                    let is_within = matches!(d.kind.word(), "event" | "kind");
                    seen += if is_within { 0 } else { d.len };
                    damage.push(d.kind.word());
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(e) => return (events, damage, Some(e.kind())),
            }
        }
    }
    assert_eq!(seen, bytes.len() as u64, "every byte is in a batch or in damage");
    (events, damage, None)
}

fn dumped(bytes: &[u8], piece: usize) -> (u64, Option<ErrorKind>) {
    let (mut dump, mut events) = (Dump::new(), 0);
    for piece in bytes.chunks(piece.max(1)).map(Some).chain([None]) {
        match piece {
            Some(piece) => dump.push(piece),
            None => dump.finish(),
        }
        loop {
            match dump.next_line() {
                Ok(Some(line)) => {
                    assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
                    events += u64::from(line.starts_with("  +"));
                }
                Ok(None) => break,
                Err(e) => return (events, Some(e.kind())),
            }
        }
    }
    (events, None)
}

/// The first session of an input, as it is at its end.
///
/// # Panics
/// Where the input is refused.
pub fn session_of(bytes: &[u8]) -> Session {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    decoder.finish();
    while let Some(item) = decoder.next_item().expect("the input is a trace") {
        if let Item::SessionEnd(session) = item {
            return session.clone();
        }
    }
    panic!("a trace has a session");
}

/// The raw text form of an input, a line for each batch and event.
///
/// # Panics
/// Where the input is refused.
pub fn dump(bytes: &[u8]) -> Vec<String> {
    let mut dump = Dump::new();
    dump.push(bytes);
    dump.finish();
    let mut lines = Vec::new();
    while let Some(line) = dump.next_line().expect("the input is a trace") {
        lines.push(line.to_owned());
    }
    lines
}
