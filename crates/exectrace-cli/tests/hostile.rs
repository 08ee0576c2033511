//! A trace whose every text was made to be harmful, through every command: nothing acts, no line is
//! broken, every text is still there, and the JSON says the same to two parsers.

mod made;

use std::collections::BTreeSet;
use std::io::Write;
use std::process::Command;
use std::process::Stdio;

use made::*;
use serde_json::Value;
use trace::encode::field::Text;
use trace::encode::field::ty;
use trace::encode::schema;
use trace::encode::schema::Class;
use trace_decode::text;
use trace_testkit::Body;
use trace_testkit::Field;
use trace_testkit::TraceBuilder;
use trace_testkit::hostile;

/// What one text is the name of: a span, a task, a log, an instant.
const SITES: u64 = 4;

/// Events of each text.
const EVENTS: usize = 8;

fn any(bytes: &[u8]) -> Text<'_> {
    Text { bytes, cut_from: None }
}

/// The `i`th text as a string, and what has it for a name.
fn definitions(d: &mut Body, i: u64, bytes: &[u8]) {
    let (id, kind) = (i + 1, 64 + SITES * i);
    d.put(|w| schema::String::put(w, id, any(bytes)));
    let task = [("task", ty::TASK), ("parent", ty::TASK)];
    // Names of fields are `str`.
    let field = std::str::from_utf8(bytes).unwrap_or("field");
    let log = [("text", ty::TEXT), (field, ty::TEXT), ("stack", ty::STACK)];
    let mut site = |kind, class: Class, fields: &[(&str, u64)]| {
        let flags = u64::from(class == Class::Log);
        d.put(|w| schema::Site::put(w, kind, class as u64, flags, id, id, id, 7, fields));
    };
    site(kind, Class::Span, &[]);
    site(kind + 1, Class::Task, &task);
    site(kind + 2, Class::Log, &log);
    site(kind + 3, Class::Instant, &[("bytes", ty::BYTES), ("text", ty::STRING)]);
    let base = 0x10_0000 * (i + 1);
    d.put(|w| schema::Module::put(w, base, 0x1000, 0, any(b"\x01"), any(bytes), 1, 1));
    d.stack(id, &[base + 0x10]);
    d.put(|w| schema::Thread::put(w, id, id, 0, any(bytes), any(bytes), 0, 0));
}

fn events(e: &mut Body, i: u64, bytes: &[u8]) {
    let (id, kind) = (i + 1, 64 + SITES * i);
    let text = Field::Cut(bytes, bytes.len() as u64 + 1);
    e.timed(0, schema::ThreadStart::put);
    e.site(kind + 1, 1, &[Field::U64(id), Field::U64(0)]);
    e.timed(1, |w, d| schema::TaskSwitch::put(w, d, id));
    e.site(kind, 1, &[]);
    e.site(kind + 2, 1, &[text, text, Field::U64(id)]);
    e.site(kind + 3, 1, &[text, Field::U64(id)]);
    e.timed(1, schema::SpanEnd::put);
    e.timed(1, |w, d| schema::TaskEnd::put(w, d, id));
}

fn hostile_trace(texts: &[Vec<u8>]) -> Vec<u8> {
    let mut t = TraceBuilder::new(7);
    let all = texts.concat();
    let program = &all[..all.len().min(20_000)];
    let (recorder, arch) = program.split_at(program.len() / 3);
    let mut first = Body::default();
    first.put(|w| {
        let (recorder, arch) = (any(recorder), any(&arch[..4_000.min(arch.len())]));
        schema::Session::put(w, 1, recorder, 0, 1_000_000_000, 1, 0, 1, any(program), arch, 1)
    });
    t.batch(1, 0, 0, &first);
    for (i, bytes) in texts.iter().enumerate() {
        t.definitions(|d| definitions(d, i as u64, bytes));
        t.events(i as u32 + 1, 10 * i as u64, |e| events(e, i as u64, bytes));
        t.control(|c| {
            c.put(|w| schema::Note::put(w, any(bytes), any(bytes)));
            c.put(|w| {
                let tid = 100_000 + i as u64;
                schema::ThreadState::put(w, 0, tid, any(bytes), 0, 1, 0, &[])
            });
        });
    }
    t.end(10 * texts.len() as u64 + 100);
    t.bytes
}

/// As it stands in output for people.
fn escaped(bytes: &[u8]) -> String {
    let mut out = String::new();
    text::escape(bytes, &mut out);
    out
}

/// How many lines of output there are for each text, and how many beside these.
type Lines = Option<(usize, usize)>;

/// Commands in whose output for people each text stands.
const FOR_PEOPLE: [(&[&str], Lines); 9] = [
    (&["stat", "--limit", "100000"], None),
    (&["stat", "--symbols"], None),
    (&["events"], Some((EVENTS, 2))),
    (&["events", "--stacks", "--kind", "log"], Some((2, 2))),
    (&["threads"], Some((2, 1))),
    (&["spans", "--limit", "100000"], Some((1, 1))),
    (&["tasks", "--list", "--limit", "100000"], None),
    (&["stacks", "--limit", "100000"], None),
    (&["dump"], None),
];

#[test]
fn people_see_every_text_and_nothing_acts() {
    let texts = hostile::strings();
    assert!(texts.len() >= 200);
    // Apart, so that not every short one is looked for in the output of all long ones.
    let (short, long): (Vec<_>, Vec<_>) = texts.into_iter().partition(|t| t.len() < 200);
    assert!(short.len() >= 200 && long.len() >= 10);
    people_see(&short);
    people_see(&long);
}

fn people_see(texts: &[Vec<u8>]) {
    let bytes = hostile_trace(texts);
    for (args, lines) in FOR_PEOPLE {
        let out = run_on(&bytes, &args.concat(), args).complete();
        for line in out.lines() {
            assert_eq!(hostile::unsafe_char(line), None, "{args:?}: {line}");
        }
        // Some commands have what is no UTF-8 as U+FFFD.
        let has = |t: &&Vec<u8>| {
            let lossy = String::from_utf8_lossy(t).into_owned();
            out.contains(&escaped(t)) || out.contains(&escaped(lossy.as_bytes()))
        };
        let missing = texts.iter().filter(|t| !has(t));
        assert_eq!(missing.count(), 0, "{args:?} does not show every text");
        if let Some((each, once)) = lines {
            assert_eq!(out.lines().count(), each * texts.len() + once, "{args:?}");
        }
    }
    // A text that stands for itself has its quotes as they are.
    let out = run_on(&bytes, "logs", &["logs"]).complete();
    assert_eq!(out.lines().count(), texts.len());
    for (line, bytes) in out.lines().zip(texts) {
        assert_eq!(hostile::unsafe_char(line), None, "{line}");
        let prose = escaped(bytes).replace("\\\"", "\"");
        assert!(line.contains(&format!("  {prose}..{} ", bytes.len() + 1)), "{prose} in {line}");
    }
    let folded = run_on(&bytes, "folded", &["stacks", "--folded"]).complete();
    assert_eq!(folded.lines().count(), texts.len());
}

#[test]
fn tables_keep_their_width_and_their_lines_with_every_text() {
    let texts = hostile::strings();
    let bytes = hostile_trace(&texts);
    let mut checked = 0;
    for columns in [40, 80, 200] {
        for args in [
            &["threads"][..],
            &["spans", "--limit", "100000"],
            &["tasks", "--limit", "100000"],
            &["tasks", "--list", "--limit", "100000"],
        ] {
            let out = run_wide(&bytes, "wide", columns, args).complete();
            for line in out.lines() {
                assert_eq!(hostile::unsafe_char(line), None, "{args:?}: {line}");
                let width = unicode_width::UnicodeWidthStr::width(line);
                // The least that threads have is wider than the narrowest terminal.
                let most = (columns as usize).max(if args == ["threads"] { 80 } else { 72 });
                assert!(width <= most || line.starts_with("latency"), "{args:?}: {width} {line}");
                checked += 1;
            }
        }
    }
    assert!(checked > 12 * 200, "{checked}");
}

/// Commands whose JSON has every text.
const FOR_PROGRAMS: [&[&str]; 9] = [
    &["stat", "--json"],
    &["stat", "--json", "--symbols"],
    &["events", "--json"],
    &["threads", "--json"],
    &["spans", "--json"],
    &["tasks", "--json"],
    &["tasks", "--list", "--json"],
    &["logs", "--json"],
    &["stacks", "--json"],
];

/// Every string of a value, keys too.
fn strings(value: &Value, to: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => _ = to.insert(text.clone()),
        Value::Array(all) => all.iter().for_each(|v| strings(v, to)),
        Value::Object(all) => {
            for (key, value) in all {
                to.insert(key.clone());
                strings(value, to);
            }
        }
        _ => {}
    }
}

/// What another parser makes of lines of JSON: the strings in hexadecimal, sorted.
const PYTHON: &str = "
import json, sys
met = set()
def walk(v):
    if isinstance(v, str): met.add(v)
    elif isinstance(v, list): [walk(x) for x in v]
    elif isinstance(v, dict):
        for k, x in v.items(): met.add(k); walk(x)
for line in sys.stdin.buffer.read().decode('utf-8').split('\\n'):
    if line: walk(json.loads(line))
print('\\n'.join(sorted(s.encode('utf-8').hex() for s in met)))
";

fn by_python(out: &str) -> Option<BTreeSet<String>> {
    let python = Command::new("python3")
        .args(["-c", PYTHON])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut python) = python else {
        println!("skipped: there is no python3 here to read the JSON");
        return None;
    };
    python.stdin.take().unwrap().write_all(out.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "python3 refuses the JSON");
    let hex = String::from_utf8(output.stdout).unwrap();
    let text = |line: &str| {
        let byte = |i: usize| u8::from_str_radix(&line[i..i + 2], 16).unwrap();
        String::from_utf8((0..line.len()).step_by(2).map(byte).collect()).unwrap()
    };
    Some(hex.lines().map(text).collect())
}

#[test]
fn programs_read_every_text_back() {
    let texts = hostile::strings();
    let bytes = hostile_trace(&texts);
    let want: BTreeSet<String> =
        texts.iter().map(|t| String::from_utf8_lossy(t).into_owned()).collect();
    let mut checked = 0;
    for args in FOR_PROGRAMS {
        let out = run_on(&bytes, &args.concat(), args).complete();
        for line in out.lines() {
            assert_eq!(hostile::unsafe_char(line), None, "{args:?}: {line}");
        }
        let mut met = BTreeSet::new();
        json_lines(&out).iter().for_each(|value| strings(value, &mut met));
        let missing: Vec<_> = want.difference(&met).collect();
        assert!(missing.is_empty(), "{args:?}: {missing:?}");
        if let Some(mut other) = by_python(&out) {
            // Of the empty text there is nothing to see in what python prints.
            met.insert(String::new());
            other.insert(String::new());
            assert_eq!(other, met, "{args:?}");
        }
        checked += 1;
    }
    assert_eq!(checked, FOR_PROGRAMS.len());
    // The text of a dump is the raw form in a string.
    let out = run_on(&bytes, "dump-json", &["dump", "--json"]).complete();
    for (line, value) in out.lines().zip(json_lines(&out)) {
        assert_eq!(hostile::unsafe_char(line), None, "{line}");
        assert_eq!(hostile::unsafe_char(value["text"].as_str().unwrap()), None, "{line}");
    }
}

#[test]
fn names_that_are_asked_for_are_found_whatever_they_are() {
    let texts = hostile::texts();
    let bytes = hostile_trace(&texts.iter().map(|t| t.clone().into_bytes()).collect::<Vec<_>>());
    let file = File::new("asked", &bytes);
    // What an argument of a program cannot have in it, or what clap takes for an option.
    let can = |t: &&String| !t.contains('\0') && !t.is_empty() && t.len() < 10_000;
    let mut checked = 0;
    for text in texts.iter().filter(can).step_by(7) {
        let mut pattern = String::from("--name=");
        for c in text.chars() {
            if matches!(c, '*' | '?' | '\\') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        let out = run(&["spans", "--json", &pattern, file.path()]).complete();
        let value: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(value["names"], 1, "{pattern}");
        assert_eq!(value["spans"][0]["name"], text.as_str());
        checked += 1;
    }
    assert!(checked > 20, "{checked}");
}
