//! What every command prints of one trace, to the letter, at 80 and at 200 columns and as JSON.
//!
//! The texts stand in `tests/golden`. One that differs is written anew, for a person to look at,
//! and the test fails; with `CI` set nothing is written. The numbers in them are held against what
//! the trace was made of in `tests/spans_tasks.rs`.

mod made;

use std::fs;
use std::path::Path;

use made::run_wide;
use trace_testkit::work;
use unicode_width::UnicodeWidthStr;

/// Name, arguments, and whether there is a table, which keeps to its width.
const CASES: [(&str, &[&str], bool); 16] = [
    ("stat", &["stat"], false),
    ("stat-some", &["stat", "--thread", "3", "--from", "20ms", "--limit", "3"], false),
    ("stat-symbols", &["stat", "--symbols"], false),
    ("events", &["events", "--limit", "20"], false),
    ("threads", &["threads"], true),
    ("threads-some", &["threads", "--name", "*er", "--from", "20ms", "--to", "1s"], true),
    ("logs", &["logs"], false),
    ("logs-some", &["logs", "--grep", "item/1", "--wall"], false),
    ("stacks", &["stacks"], false),
    ("stacks-some", &["stacks", "--kind", "log", "--limit", "1", "--no-symbols"], false),
    ("dump", &["dump", "--thread", "3", "--limit", "8"], false),
    ("spans", &["spans"], true),
    ("spans-limit", &["spans", "--limit", "2"], true),
    ("tasks", &["tasks"], true),
    ("tasks-name", &["tasks", "--name", "re*", "--limit", "4"], true),
    ("tasks-task", &["tasks", "--task", "13"], true),
];

fn check(name: &str, got: &str, wrong: &mut Vec<String>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let want = fs::read_to_string(&path).unwrap_or_default();
    if want == got {
        return;
    }
    if std::env::var_os("CI").is_none() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, got).unwrap();
    }
    wrong.push(format!("{name}: expected\n{want}got\n{got}"));
}

#[test]
fn output_is_what_it_was() {
    let bytes = work::work().bytes;
    let mut wrong = Vec::new();
    let mut widest = 0;
    for (name, args, is_table) in CASES {
        for columns in [80, 200] {
            let ran = run_wide(&bytes, &format!("{name}-{columns}"), columns, args);
            let out = ran.complete();
            if is_table {
                let width = out.lines().map(UnicodeWidthStr::width).max().unwrap();
                assert!(width <= columns as usize, "{name} is {width} wide of {columns}:\n{out}");
                widest = widest.max(width);
            }
            check(&format!("{name}.{columns}.txt"), &out, &mut wrong);
        }
        let mut args = args.to_vec();
        args.push("--json");
        let out = run_wide(&bytes, &format!("{name}-json"), 80, &args).complete();
        assert!(!made::json_lines(&out).is_empty());
        check(&format!("{name}.json"), &out, &mut wrong);
    }
    assert!(widest > 80, "200 columns are made use of");
    assert!(wrong.is_empty(), "{} texts differ:\n{}", wrong.len(), wrong.join("\n"));
}
