//! What `exectrace record` writes is read alike by `tests/decoder.py`, which was written from
//! docs/format.md alone, and by `exectrace dump`. Skipped where there is no python3.

mod recording;

use std::collections::BTreeSet;
use std::process::Command;

use recording::can_record;
use recording::exectrace;
use recording::folder;
use recording::text;

#[test]
fn a_recorded_program_is_read_alike_by_both() {
    let folder = folder("second-decoder");
    if !can_record(&folder) {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/decoder.py");
    let second = |trace: &str| {
        Command::new("python3").args(["-B", script, trace]).current_dir(&folder).output()
    };
    if second("/dev/null").is_err() {
        return println!("skipped: no python3");
    }
    let mut kinds = BTreeSet::new();
    for classes in ["locks,io,net,sleep,process", "locks,io,sleep,process,sched"] {
        let program = ["sh", "-c", "(sleep 0.01; echo 1) | cat; sleep 0.1"];
        let args = ["record", "--no-report", "--no-follow", "-o", "x.trace", "--classes", classes];
        let out = exectrace(&folder, &[&args[..], &["--"], &program].concat()).output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        let first = exectrace(&folder, &["dump", "x.trace"]).output().unwrap();
        let second = second("x.trace").unwrap();
        assert!(second.status.success(), "{}", text(&second.stderr));
        let (first, second) = (text(&first.stdout), text(&second.stdout));
        assert_eq!(first, second, "{classes}");
        // Timed events begin with their time.
        let words = |line: &str| -> Option<String> {
            let mut words = line.strip_prefix("  ")?.split(' ').filter(|w| !w.starts_with('+'));
            words.next().map(str::to_owned)
        };
        kinds.extend(first.lines().filter_map(words));
    }
    // Of both phases, from the program's threads and from outside.
    for kind in ["Session", "Module", "Coverage", "Wait", "Process", "Memory", "End"] {
        assert!(kinds.contains(kind), "{kind} {kinds:?}");
    }
}
