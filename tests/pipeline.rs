//! The example over a tree that is known: what its trace says is what was in the tree, and each
//! file's task goes from the walker over a worker to the indexer.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use trace_decode::Decoder;
use trace_decode::Event;
use trace_decode::Item;
use trace_decode::Value;

/// Path in the tree, and content; `again` has that of `first`.
const FILES: [(&str, &[u8]); 5] = [
    ("first", b"the same content twice"),
    ("deep/er/again", b"the same content twice"),
    ("deep/empty", b""),
    ("deep/other", &[7; 100_000]),
    ("name with spaces", b"x"),
];
/// Larger than what the example reads, and without a byte on the disk.
const TOO_LARGE: (&str, u64) = ("deep/large", (64 << 20) + 1);
/// Not entered.
const ASIDE: &str = "target/no";

/// What became of a task, step by step.
#[derive(Debug, Default, PartialEq, Eq)]
struct Way {
    path: String,
    /// Names of the threads that began it, had it as their current task, and ended it.
    steps: Vec<(&'static str, String)>,
}

/// What a trace says.
#[derive(Debug, Default)]
struct Seen {
    events: u64,
    tasks: BTreeMap<u64, Way>,
    /// Spans, counters, instants, by name.
    names: BTreeMap<String, u64>,
    logs: Vec<String>,
    complete: bool,
}

fn text(v: Option<Value<'_>>) -> String {
    match v {
        Some(Value::Text(t)) => String::from_utf8_lossy(t.bytes).into_owned(),
        other => panic!("expected a text, found {other:?}"),
    }
}

fn read(bytes: &[u8]) -> Seen {
    let mut seen = Seen::default();
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    decoder.finish();
    while let Some(item) = decoder.next_item().unwrap() {
        match item {
            Item::Event(t) => {
                seen.events += 1;
                let thread = t.session().thread(t.thread.into()).expect("a known thread");
                let on = String::from_utf8_lossy(&thread.name).into_owned();
                let name = t.name().map(|n| String::from_utf8_lossy(n.bytes).into_owned());
                match t.event() {
                    Event::Site(site) => match (site.field("task"), site.field("text")) {
                        (Some(Value::Task(id)), _) => {
                            let way =
                                Way { path: text(site.field("path")), steps: vec![("begin", on)] };
                            assert!(seen.tasks.insert(id, way).is_none(), "task {id} begins twice");
                        }
                        (_, Some(log)) => seen.logs.push(text(Some(log))),
                        _ => *seen.names.entry(name.expect("a name")).or_default() += 1,
                    },
                    Event::TaskSwitch(s) if s.task != 0 => {
                        seen.tasks.get_mut(&s.task).expect("begun").steps.push(("enter", on));
                    }
                    Event::TaskEnd(e) => {
                        seen.tasks.get_mut(&e.task).expect("begun").steps.push(("end", on));
                    }
                    _ => {}
                }
            }
            Item::Damage(d) => panic!("{d}"),
            Item::SessionEnd(s) => seen.complete = s.end().is_some(),
            _ => {}
        }
    }
    seen
}

/// Makes the tree, lets the example read it, and gives what it printed and its trace.
fn run(dir: &Path) -> (String, Vec<u8>) {
    let tree = dir.join("tree");
    for (path, content) in FILES.iter().chain([&(ASIDE, &b"no"[..])]) {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    fs::File::create(tree.join(TOO_LARGE.0)).unwrap().set_len(TOO_LARGE.1).unwrap();
    let out = dir.join("out.trace");

    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["run", "--quiet", "--example", "pipeline"]);
    cargo.arg("--target-dir").arg(Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap());
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.arg("--").arg(&tree).arg("--out").arg(&out).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let left = fs::read_dir(dir).unwrap().count();
    assert_eq!(left, 2, "the tree and the trace, and nothing half-written");
    (String::from_utf8(output.stdout).unwrap(), fs::read(out).unwrap())
}

#[test]
fn the_trace_says_what_was_in_the_tree() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pipeline");
    let _ = fs::remove_dir_all(&dir);
    let (printed, trace) = run(&dir);
    let seen = read(&trace);
    fs::remove_dir_all(&dir).unwrap();

    assert!(printed.starts_with("5 files, 97 KiB, compressed to "), "{printed}");
    assert!(printed.contains("; 1 with a content seen before, 1 skipped\n"), "{printed}");
    let recorded = format!("\nrecorded {} events of ", seen.events);
    assert!(printed.contains(&recorded) && printed.contains(" 0 lost\n"), "{printed}");
    assert!(seen.complete);

    let mut paths: Vec<_> = seen.tasks.values().map(|w| w.path.as_str()).collect();
    let mut expected: Vec<_> = FILES.iter().map(|f| f.0).chain([TOO_LARGE.0]).collect();
    paths.sort_unstable();
    expected.sort_unstable();
    assert_eq!(paths, expected);
    for way in seen.tasks.values() {
        let steps: Vec<_> =
            way.steps.iter().map(|(s, on)| (*s, on.split('-').next().unwrap())).collect();
        let expected =
            [("begin", "pipeline"), ("enter", "worker"), ("enter", "indexer"), ("end", "indexer")];
        assert_eq!(steps, expected, "{}", way.path);
    }

    let counted = |name: &str| seen.names.get(name).copied().unwrap_or(0);
    // tree, deep, deep/er
    assert_eq!(counted("walk"), 3);
    assert_eq!((counted("read"), counted("hash"), counted("compress")), (6, 5, 4));
    assert_eq!((counted("index"), counted("seen before")), (6, 1));
    assert_eq!(counted("files waiting"), 12);
    let skipped = seen.logs.iter().filter(|l| l.starts_with("skipped ")).count();
    assert_eq!(skipped, 1, "{:?}", seen.logs);
}
