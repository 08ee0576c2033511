//! `exectrace dump` from the outside. What the text means is tested where it is made, in the
//! decoder; here it is that all of it arrives, and what is left by filters.

mod made;

use made::*;
use serde_json::json;
use trace_decode::raw::Dump;

/// The raw text form of a trace, from the decoder itself.
fn raw(bytes: &[u8]) -> String {
    let mut dump = Dump::new();
    dump.push(bytes);
    dump.finish();
    let mut out = String::new();
    while let Some(line) = dump.next_line().unwrap() {
        out.push_str(line);
        out.push('\n');
    }
    out
}

#[test]
fn every_line_arrives() {
    let bytes = whole().bytes;
    let out = run_on(&bytes, "all", &["dump"]).complete();
    assert_eq!(out, raw(&bytes));
    assert_eq!(run_with_input(&bytes, &["dump", "-"]).complete(), out);
    let events = "\
  +0 ThreadStart
  +250000 ThreadCreate thread=2 stack=0
  +1000000 site 64 \"read_file\" path=\"a b.txt\" size=300
  +500000 site 65 \"http\" text=\"got \\\"it\\\"\" stack=7
  +250000 SpanEnd
";
    assert!(out.contains(events), "{out}");
    assert_eq!(out.lines().filter(|l| l.starts_with("batch ")).count(), 6);
    assert_eq!(out.lines().filter(|l| l.starts_with("  +")).count(), 12);
}

#[test]
fn filters() {
    let bytes = whole().bytes;
    let lines = |options: &[&str]| {
        let mut args = vec!["dump"];
        args.extend(options);
        let out = run_on(&bytes, &args.concat(), &args).complete();
        out.lines().map(|l| l.split(" offset").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(lines(&["--limit", "2"]).len(), 2);
    assert_eq!(lines(&["--limit", "0"]).len(), 0);
    let thread = lines(&["--thread", "1"]);
    assert_eq!(thread[..2], ["batch 3", "  +0 ThreadStart"]);
    assert_eq!(thread.len(), 6);
    assert_eq!(lines(&["--kind", "SpanEnd"]), ["  +250000 SpanEnd"]);
    assert_eq!(lines(&["--kind", "queued"]), ["  +100000 site 66 \"queued\" value=-3"]);
    assert_eq!(lines(&["--kind", "queue"]).len(), 0);
    assert_eq!(lines(&["--kind", "taskend", "--kind", "End"]).len(), 2);
    assert_eq!(lines(&["--kind", "Schema"]).len(), trace::encode::schema::SPECS.len());
}

#[test]
fn programs_read_an_object_for_each_line() {
    let mut bytes = whole().bytes;
    let text = raw(&bytes);
    let out = run_on(&bytes, "json", &["dump", "--json"]).complete();
    let lines = json_lines(&out);
    assert_eq!(lines.len(), text.lines().count());
    for (object, line) in lines.iter().zip(text.lines()) {
        let text = object["text"].as_str().unwrap();
        assert!(line.ends_with(text), "{object} for {line}");
        assert_eq!(object["type"] == "batch", line.starts_with("batch "));
    }
    let batch = lines.iter().find(|l| l["batch"] == 4).unwrap();
    assert_eq!(batch["thread"], 2);
    assert_eq!(batch["session"], "0000000011223344");
    assert_eq!(batch["first"], START + 1_500_000);
    assert_eq!(batch["count"], 7);
    let event = lines.iter().find(|l| l["text"] == "SpanEnd").unwrap();
    assert_eq!(event, &json!({ "type": "event", "batch": 3, "thread": 1, "text": "SpanEnd" }));
    // Damage is a line of its own, and the status says so.
    let at = batch["offset"].as_u64().unwrap() as usize;
    bytes[at + 65] ^= 1;
    let ran = run_on(&bytes, "damaged", &["dump", "--json"]);
    assert_eq!(ran.status, 2);
    let damage: Vec<_> =
        json_lines(&ran.out).into_iter().filter(|l| l["type"] == "damage").collect();
    let text = format!("damage offset={at} length={} crc", batch["length"]);
    assert_eq!(damage, [json!({ "type": "damage", "text": text })]);
}
