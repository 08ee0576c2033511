//! `docs/format.md` is true: its generated blocks are what the code says, released rows are frozen.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use trace::encode::field;
use trace::encode::op::Op;
use trace::encode::schema::Cause;
use trace::encode::schema::EventSpec;
use trace::encode::schema::Phase;
use trace::encode::schema::SPECS;
use trace::encode::wire;

fn types() -> String {
    let mut s = String::from("| type | number | shape | value |\n|---|---|---|---|\n");
    for (number, name, shape, doc) in field::TYPES {
        writeln!(s, "| {name} | {number} | {} |{doc} |", *shape as u8).unwrap();
    }
    s
}

fn header() -> String {
    let mut s = String::from("| offset | bytes | field | value |\n|---|---|---|---|\n");
    for (name, at, size, doc) in wire::HEADER_FIELDS {
        writeln!(s, "| {at} | {size} | {name} | {doc} |").unwrap();
    }
    s
}

fn fields(e: &EventSpec) -> String {
    let one = |(name, ty): &(&str, u64)| format!("{name}: {}", field::type_name(*ty).unwrap());
    e.fields.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn phase(p: Phase) -> String {
    match p {
        Phase::Structure => "Structure".into(),
        Phase::Instant => "Instant".into(),
        Phase::Begin(pair) => format!("Begin {pair}"),
        Phase::End(pair) => format!("End {pair}"),
    }
}

fn events() -> String {
    let mut s = String::from("| kind | name | phase | fields | meaning |\n|---|---|---|---|---|\n");
    for e in SPECS {
        let (kind, phase) = (e.kind as u8, phase(e.phase));
        writeln!(s, "| {kind} | {} | {phase} | {} |{} |", e.name, fields(e), e.doc).unwrap();
    }
    s
}

fn causes() -> String {
    let mut s = String::from("| cause | name |\n|---|---|\n");
    for c in Cause::ALL {
        writeln!(s, "| {} | {} |", *c as u8, c.name()).unwrap();
    }
    s
}

fn ops() -> String {
    let mut s = String::from("| op | call | class | object |\n|---|---|---|---|\n");
    for op in Op::ALL {
        let (name, class, object) = (op.name(), op.class(), op.object().name());
        writeln!(s, "| {} | {name} | {class} | {object} |", *op as u8).unwrap();
    }
    s
}

fn limits() -> String {
    let mut s = String::from("| what | limit |\n|---|---|\n");
    for (what, n) in [
        ("bytes of a batch, header included", wire::BATCH_BYTES_MAX),
        ("bytes of a text in an event", wire::TEXT_BYTES_MAX),
        ("bytes of the text of a log", wire::LOG_BYTES_MAX),
        ("frames of a stack", wire::FRAMES_MAX),
        ("spans listed by `State` and `ThreadState`", wire::SPANS_MAX),
        ("first dynamic kind", wire::KIND_DYNAMIC as usize),
    ] {
        writeln!(s, "| {what} | {n} |").unwrap();
    }
    s
}

fn splice(text: &str, block: &str, new: &str) -> String {
    let open = format!("<!-- generated: {block} -->\n");
    let start = text.find(&open).unwrap_or_else(|| panic!("no block {block}")) + open.len();
    let end = start + text[start..].find("<!-- /generated -->").expect("block is closed");
    format!("{}{new}{}", &text[..start], &text[end..])
}

#[test]
fn format_md_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/format.md");
    let have = fs::read_to_string(&path).unwrap();
    let mut want = have.clone();
    let blocks = [
        ("types", types()),
        ("header", header()),
        ("events", events()),
        ("causes", causes()),
        ("ops", ops()),
        ("limits", limits()),
    ];
    for (block, new) in blocks {
        assert!(new.lines().count() > 3, "{block} is empty");
        want = splice(&want, block, &new);
    }
    if have != want {
        if std::env::var_os("CI").is_none() {
            fs::write(&path, want).unwrap();
        }
        panic!("docs/format.md was not up to date with the event table; rewritten now, commit it");
    }
}

fn row(e: &EventSpec) -> String {
    format!("{:#04x} {} since={} {}: {}", e.kind as u8, e.name, e.since, phase(e.phase), fields(e))
}

#[test]
fn released_rows_are_frozen() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/schema-v1.txt");
    let now: Vec<String> = SPECS.iter().map(row).collect();
    let frozen = fs::read_to_string(&path).unwrap_or_default();
    if frozen.is_empty() && std::env::var_os("CI").is_none() {
        fs::write(&path, now.join("\n") + "\n").unwrap();
        panic!("tests/golden/schema-v1.txt was missing; it has been written, commit it");
    }
    assert!(frozen.lines().count() > 20, "the frozen list is empty");
    for line in frozen.lines() {
        assert!(now.iter().any(|r| r == line), "a released row is gone or changed: {line}");
    }
}
