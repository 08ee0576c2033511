//! Hostile texts, from each place of a trace that has text, through everything that the library
//! writes for people: none of them acts, none adds a line, and all of them come back whole.

use trace::encode::field::Text;
use trace::encode::field::ty;
use trace::encode::schema;
use trace::encode::schema::Class;
use trace_decode::Validate;
use trace_decode::text;
use trace_testkit::Field;
use trace_testkit::TraceBuilder;
use trace_testkit::expect::dump;
use trace_testkit::expect::everything;
use trace_testkit::expect::session_of;
use trace_testkit::hostile;

/// The characters that docs/format.md has written as `\u{..}`.
fn listed() -> Vec<std::ops::RangeInclusive<u32>> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/format.md");
    let page = std::fs::read_to_string(page).unwrap();
    let from = page.find("hex digits `}` the characters").expect("the list of escapes");
    let list = page[from..].split_once("characters").unwrap().1;
    let list = &list[..list.find("\n\n").unwrap()];
    let words: Vec<&str> =
        list.split([' ', '\n', ',', '.', ':']).filter(|w| !w.is_empty()).collect();
    let hex = |w: &str| u32::from_str_radix(w, 16).ok();
    let mut ranges: Vec<std::ops::RangeInclusive<u32>> = Vec::new();
    let mut to = false;
    for word in words {
        match (hex(word), to) {
            (Some(end), true) => {
                let start = *ranges.pop().unwrap().start();
                ranges.push(start..=end);
            }
            (Some(one), false) => ranges.push(one..=one),
            (None, _) => {}
        }
        to = word == "to";
    }
    ranges
}

#[test]
fn every_character_is_escaped_as_the_format_says() {
    let listed = listed();
    assert!(listed.len() > 20, "{listed:x?}");
    let (mut plain, mut escaped) = (0, 0);
    let mut out = String::new();
    for c in '\0'..=char::MAX {
        let code = u32::from(c);
        let want = match c {
            '\\' | '"' => format!("\\{c}"),
            '\n' => "\\n".into(),
            '\r' => "\\r".into(),
            '\t' => "\\t".into(),
            c if c < ' ' || c == '\x7f' => format!("\\x{code:02x}"),
            _ if listed.iter().any(|r| r.contains(&code)) => format!("\\u{{{code:x}}}"),
            c => c.to_string(),
        };
        out.clear();
        text::escape(c.to_string().as_bytes(), &mut out);
        assert_eq!(out, want, "{code:x}");
        assert_eq!(hostile::unsafe_char(&out), None);
        *(if out.len() == c.len_utf8() { &mut plain } else { &mut escaped }) += 1;
    }
    assert!(plain > 1_000_000 && escaped > 4000, "{plain} plain, {escaped} escaped");
}

/// The bytes that an escaped text stands for.
fn unescaped(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c != '\\' {
            out.extend(c.to_string().bytes());
            continue;
        }
        let (sort, after) = rest.split_at(1);
        rest = after;
        let hex = |digits: &str| u32::from_str_radix(digits, 16).unwrap();
        match sort {
            "n" => out.push(b'\n'),
            "r" => out.push(b'\r'),
            "t" => out.push(b'\t'),
            "x" => {
                out.push(hex(&rest[..2]) as u8);
                rest = &rest[2..];
            }
            "u" => {
                let (digits, after) = rest[1..].split_once('}').unwrap();
                out.extend(char::from_u32(hex(digits)).unwrap().to_string().bytes());
                rest = after;
            }
            other => out.extend(other.bytes()),
        }
    }
    out
}

#[test]
fn escapes_are_exact() {
    let all = hostile::strings();
    for bytes in &all {
        let mut out = String::new();
        text::escape(bytes, &mut out);
        assert_eq!(hostile::unsafe_char(&out), None, "{out}");
        assert_eq!(unescaped(&out), *bytes, "{out}");
        let mut quoted = String::new();
        text::quote(Text { bytes, cut_from: Some(7) }, &mut quoted);
        assert_eq!(quoted, format!("\"{out}\"..7"));
        // The quote that ends it is the first one that no backslash belongs to.
        let inner = quoted[1..].replace("\\\\", "__").replace("\\\"", "__");
        assert_eq!(inner.find('"'), Some(out.len()));
    }
    assert!(all.len() >= 300);
}

/// A trace with `bytes` in each place that has text.
fn everywhere(bytes: &[u8]) -> TraceBuilder {
    let any = Text { bytes, cut_from: None };
    let cut = Text { bytes, cut_from: Some(99_999) };
    let mut t = TraceBuilder::new(1);
    let mut first = trace_testkit::Body::default();
    first.put(|w| schema::Session::put(w, 1, any, 0, 1, 1, 0, 1, any, any, 1));
    t.batch(1, 0, 0, &first);
    t.definitions(|d| {
        // Written by hand where the encoder takes names as `str` only.
        let text = |out: &mut Vec<u8>| {
            let mut head = [0; 10];
            let n = trace::encode::varint::write(&mut head, (bytes.len() as u64) << 1).unwrap();
            out.extend(&head[..n]);
            out.extend(bytes);
        };
        let mut schema = vec![60];
        text(&mut schema);
        schema.push(1);
        text(&mut schema);
        schema.push(1);
        text(&mut schema);
        schema.push(ty::TEXT as u8);
        d.raw(&[&[2][..], &schema].concat());
        d.put(|w| schema::String::put(w, 1, any)).put(|w| schema::String::put(w, 2, cut));
        let mut site = vec![5, 64, Class::Log as u8, 0, 1, 1, 1, 7, 2];
        site.extend([8]);
        site.extend(b"text");
        site.push(ty::TEXT as u8);
        text(&mut site);
        site.push(ty::TEXT as u8);
        d.raw(&site);
        d.put(|w| schema::Thread::put(w, 1, 1, 0, any, cut, 0, 0));
        d.put(|w| schema::Module::put(w, 0x4000, 1, 0, any, any, 0, 0));
    });
    t.events(1, 0, |e| {
        e.site(64, 0, &[Field::Cut(bytes, 99_999), Field::Cut(bytes, 0)]);
        let mut later = vec![60];
        let mut head = [0; 10];
        let n = trace::encode::varint::write(&mut head, (bytes.len() as u64) << 1).unwrap();
        later.extend(&head[..n]);
        later.extend(bytes);
        later.push(1);
        e.raw(&later);
    });
    t.control(|c| {
        c.put(|w| schema::ThreadName::put(w, 1, 0, any));
        c.put(|w| schema::ThreadState::put(w, 0, 9, any, 0, 1, 0, &[]));
        c.put(|w| schema::Note::put(w, any, any));
    });
    t.end(9);
    t
}

/// Lines of the raw text form, and the texts in quotes in them.
fn shown(t: &TraceBuilder) -> (Vec<String>, usize) {
    let lines = dump(&t.bytes);
    let inner: String = lines.join("\n").replace("\\\\", "__").replace("\\\"", "__");
    let quotes = inner.matches('"').count();
    (lines, quotes)
}

#[test]
fn every_place_of_a_trace() {
    let (plain_lines, plain_quotes) = shown(&everywhere(b"plain"));
    // Five batches with 13 events, in which 19 texts stand in quotes.
    assert_eq!((plain_lines.len(), plain_quotes), (5 + 13, 2 * 19), "{plain_lines:#?}");
    for bytes in hostile::strings() {
        let t = everywhere(&bytes);
        let (lines, quotes) = shown(&t);
        let harmful = lines.iter().find(|l| hostile::unsafe_char(l).is_some());
        assert_eq!(harmful, None, "of {:?}", bytes.escape_ascii().to_string());
        assert_eq!((lines.len(), quotes), (plain_lines.len(), plain_quotes));
        let mut escaped = String::new();
        text::escape(&bytes, &mut escaped);
        let of_text = format!(" text=\"{escaped}\"..99999 {escaped}=\"{escaped}\"..0");
        assert!(lines.iter().any(|l| l.ends_with(&of_text)), "{of_text} in {lines:#?}");

        let s = session_of(&t.bytes);
        assert_eq!(s.thread(1).unwrap().name[..], bytes);
        assert_eq!(s.thread(1).unwrap().function[..], bytes);
        assert_eq!(s.unregistered().next().unwrap().name, bytes);
        assert_eq!(s.info().unwrap().program[..], bytes);
        assert_eq!(s.notes().next().unwrap(), (&bytes[..], &bytes[..]));
        let tables = s.tables(1).unwrap();
        assert_eq!(tables.string(1).unwrap().bytes, bytes);
        assert_eq!(tables.module_of(0x4000).unwrap().path[..], bytes);
        assert_eq!(tables.site(64).unwrap().fields().nth(1).unwrap().0, bytes);

        let mut v = Validate::new();
        v.push(&t.bytes).unwrap();
        v.finish().unwrap();
        for p in v.problems() {
            assert_eq!(hostile::unsafe_char(&p.to_string()), None);
        }
        everything(&t.bytes, 333);
    }
}

/// What the library says of bytes that are no trace, or a damaged one.
#[test]
fn refusals_and_damage() {
    let good = everywhere(b"x").bytes;
    let (mut refused, mut damaged) = (0, 0);
    for bytes in hostile::strings() {
        let mut d = trace_decode::Decoder::new();
        d.push(&bytes);
        d.finish();
        if let Err(e) = d.next_item() {
            assert_eq!(hostile::unsafe_char(&e.to_string()), None);
            refused += 1;
        }
        let mut d = trace_decode::Decoder::new();
        d.push(&[&good[..], &bytes, &good].concat());
        d.finish();
        while let Some(item) = d.next_item().unwrap() {
            if let trace_decode::Item::Damage(damage) = item {
                assert_eq!(hostile::unsafe_char(&damage.to_string()), None);
                assert_eq!(damage.len, bytes.len() as u64);
                damaged += 1;
            }
        }
    }
    let all = hostile::strings().len();
    // The empty one is no damage; the magic alone is a cut trace.
    assert_eq!((refused, damaged), (all - 1, all - 1));
}
