//! Text of a trace, made safe to show.
//!
//! Text in a trace is untrusted: what the recorded program was given may end up in it. Characters
//! that move a terminal's cursor, end a line, reorder text or hide in it are written as escapes, so
//! are bytes that are no UTF-8. The escapes are the same in every output.
//!
//! What hides is what Unicode calls default-ignorable: of these characters nothing is seen, and
//! whole messages have been hidden in runs of them.

use std::fmt::Write as _;

use trace::encode::field::Text;

/// Whether the character acts on the text around it or hides in it, in place of being seen: a
/// control, a separator of lines, a mark that reorders text, or one that Unicode has nothing shown
/// for.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Appends text with escapes, without quotes around it.
pub fn escape(bytes: &[u8], out: &mut String) {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            // Writing to a string cannot fail.
            let _ = match c {
                '\\' => out.write_str("\\\\"),
                '"' => out.write_str("\\\""),
                '\n' => out.write_str("\\n"),
                '\r' => out.write_str("\\r"),
                '\t' => out.write_str("\\t"),
                c if c < ' ' || c == '\u{7f}' => write!(out, "\\x{:02x}", c as u32),
                c if is_hidden(c) => write!(out, "\\u{{{:x}}}", c as u32),
                c => out.write_char(c),
            };
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
}

/// Appends text in quotes, with escapes; where it was cut, `..` and its original length.
pub fn quote(text: Text<'_>, out: &mut String) {
    out.push('"');
    escape(text.bytes, out);
    out.push('"');
    cut(text, out);
}

/// Appends bytes as hexadecimal digits after a `#`; where they were cut, as [`quote`].
pub fn hex(text: Text<'_>, out: &mut String) {
    out.push('#');
    for byte in text.bytes {
        let _ = write!(out, "{byte:02x}");
    }
    cut(text, out);
}

fn cut(text: Text<'_>, out: &mut String) {
    if let Some(length) = text.cut_from {
        let _ = write!(out, "..{length}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_text_is_escaped() {
        for (input, want) in [
            (&b"plain text, caf\xc3\xa9 \xe2\x9c\x93"[..], "plain text, caf\u{e9} \u{2713}"),
            (b"a\"b\\c", "a\\\"b\\\\c"),
            (b"\n\r\t\0\x1b[31m\x7f", "\\n\\r\\t\\x00\\x1b[31m\\x7f"),
            (
                "\u{85}\u{202e}\u{2066}\u{feff}\u{2028}\u{e0041}\u{fe0f}".as_bytes(),
                "\\u{85}\\u{202e}\\u{2066}\\u{feff}\\u{2028}\\u{e0041}\\u{fe0f}",
            ),
            (b"\xff\xc3(\xe2\x82", "\\xff\\xc3(\\xe2\\x82"),
            (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
        ] {
            let mut out = String::new();
            escape(input, &mut out);
            assert_eq!(out, want);
        }
        let mut out = String::new();
        quote(Text { bytes: b"cu", cut_from: Some(90) }, &mut out);
        hex(Text { bytes: b"\x0a\xff", cut_from: None }, &mut out);
        assert_eq!(out, "\"cu\"..90#0aff");
    }
}
