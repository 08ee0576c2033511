//! The bar of a long read: on standard error where a person looks at it, gone at the end, and never
//! where a pager or a program may own the terminal.

mod made;

use std::process::Command;
use std::process::Stdio;

use made::*;

/// What a terminal is given by a command line in which `FEED` is a trace that comes slowly, in
/// three pieces within more than a second, and `TRACE` the command; `None` without `script`.
fn on_terminal(line: &str, file: &File, term: &str) -> Option<String> {
    let size = std::fs::metadata(&file.0).unwrap().len();
    let (path, third) = (file.path(), size / 3);
    let piece = |from: u64| format!("tail -c +{} '{path}' | head -c {third}", from * third + 1);
    let rest = format!("tail -c +{} '{path}'", 2 * third + 1);
    let feed = format!("({}; sleep 1.3; {}; sleep 0.6; {rest})", piece(0), piece(1));
    let line = line.replace("FEED", &feed);
    let line = line.replace("TRACE", &format!("'{}'", env!("CARGO_BIN_EXE_exectrace")));
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null());
    script.env_remove("NO_COLOR").env_remove("COLUMNS").env("TERM", term);
    script.output().ok().map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
}

/// What is left to see: a line that is begun anew, or cleared, loses what stood in it.
fn seen(output: &str) -> Vec<String> {
    let plain = |line: &str| line.rsplit(['\r']).next().unwrap_or_default().to_owned();
    output.replace("\r\n", "\n").replace("\u{1b}[2K", "\r").lines().map(plain).collect()
}

#[test]
fn a_bar_comes_after_a_second_and_goes() {
    let file = File::new("slow", &whole().bytes);
    let got = |line: &str, term: &str| on_terminal(line, &file, term);
    std::thread::scope(|scope| {
        let stat = scope.spawn(|| got("FEED | TRACE stat -", "xterm"));
        let json = scope.spawn(|| got("FEED | TRACE stat --json - > /dev/null", "xterm"));
        let events = scope.spawn(|| got("FEED | TRACE events -", "xterm"));
        let piped = scope.spawn(|| got("FEED | TRACE stat - | cat", "xterm"));
        let dumb = scope.spawn(|| got("FEED | TRACE stat -", "dumb"));
        let Some(stat) = stat.join().unwrap() else {
            println!("skipped: there is no `script` here to make a terminal");
            return;
        };
        assert!(stat.contains("reading "), "{stat:?}");
        let lines = seen(&stat);
        assert!(!lines.iter().any(|l| l.contains("reading ")), "it is gone: {stat:?}");
        assert!(lines.iter().any(|l| l.contains("standard input")), "{stat:?}");
        // Nothing of standard output is on this terminal, and the bar is.
        let json = json.join().unwrap().unwrap();
        assert!(json.contains("reading "), "{json:?}");
        assert!(seen(&json).iter().all(|l| l.trim().is_empty()), "{json:?}");
        // Output that comes while it is read has the terminal for itself from its first line on.
        let events = events.join().unwrap().unwrap();
        let lines = seen(&events);
        assert!(lines.iter().any(|l| l.contains("read_file")), "{events:?}");
        assert!(!lines.iter().any(|l| l.contains("reading ")), "{events:?}");
        for quiet in [piped, dumb] {
            let quiet = quiet.join().unwrap().unwrap();
            assert!(quiet.contains("standard input") && !quiet.contains("reading "), "{quiet:?}");
        }
    });
}
