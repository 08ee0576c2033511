//! What a trace says, as lines that a test can state beforehand.

use std::fmt::Write as _;

use trace_decode::Decoder;
use trace_decode::Error;
use trace_decode::Item;
use trace_decode::Value;
use trace_decode::event::Fields;

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
