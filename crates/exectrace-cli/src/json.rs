//! JSON for programs: a stream of objects, whatever bytes stand in the trace.
//!
//! Beyond what JSON demands, everything that a terminal could take for a command or that hides
//! text from the eye (DEL, C1, bidirectional marks, line separators) is written as `\uXXXX`.

use std::io;
use std::io::Write;

use serde::Serialize;
use serde::Serializer;
use serde::ser::SerializeMap;
use serde_json::ser::Formatter;
use trace::encode::field::Text;
use trace_decode::text::is_hidden;

/// Writes strings so that they can be looked at.
#[derive(Clone, Copy, Debug)]
pub struct Safe;

impl Formatter for Safe {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_hidden(*c)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

/// What the library writes an object with.
type Compound<'s, 'v> =
    <&'s mut serde_json::Serializer<&'v mut Vec<u8>, Safe> as Serializer>::SerializeMap;

/// The entries of an object.
pub struct Entries<'s, 'v> {
    map: Compound<'s, 'v>,
}

impl Entries<'_, '_> {
    /// Adds an entry.
    pub fn put(&mut self, key: &str, value: impl Serialize) {
        let _ = self.map.serialize_entry(key, &value);
    }
}

/// Appends an object to `out`; `fill` adds its entries.
///
/// Writing to memory does not fail and no key is other than a string, so errors cannot occur; one
/// that did would show as a cut object.
pub fn object(out: &mut Vec<u8>, fill: impl FnOnce(&mut Entries<'_, '_>)) {
    let mut serializer = serde_json::Serializer::with_formatter(out, Safe);
    if let Ok(map) = Serializer::serialize_map(&mut serializer, None) {
        let mut entries = Entries { map };
        fill(&mut entries);
        let _ = entries.map.end();
    }
}

/// A value as JSON text, to be put into objects later.
pub fn raw(value: &impl Serialize) -> Box<serde_json::value::RawValue> {
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, Safe);
    let written = value.serialize(&mut serializer).is_ok();
    let text = if written { String::from_utf8(out).ok() } else { None };
    text.and_then(|t| serde_json::value::RawValue::from_string(t).ok()).unwrap_or_default()
}

/// Text of a trace as a JSON string: what is no UTF-8 becomes U+FFFD.
pub fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// The same of a text that may have been cut.
pub fn text(text: Text<'_>) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(text.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_acts_is_written_as_it_is() {
        let mut out = Vec::new();
        let hostile = "a\u{1b}[31m\u{7f}\u{9b}2J\u{202e}\u{e0041}\n\"\\\u{e9}";
        object(&mut out, |o| o.put("k\u{1b}", hostile));
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "{\"k\\u001b\":\"a\\u001b[31m\\u007f\\u009b2J\\u202e\\udb40\\udc41\\n\\\"\\\\\u{e9}\"}"
        );
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back["k\u{1b}"], hostile);
    }
}
