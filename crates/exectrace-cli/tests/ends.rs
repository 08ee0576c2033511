//! Signals to the recording command and to the program, commands that are killed or stopped,
//! programs that outlive what started them.

use std::fs;
use std::io::BufReader;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;

mod recording;
mod steering;

use recording::can_record;
use recording::exectrace;
use recording::text;
use steering::folder;
use steering::kill;
use steering::line;

/// A command that records a script, and the script's output.
fn recording(folder: &Path, script: &str) -> (Child, BufReader<ChildStdout>) {
    let args = ["record", "--no-report", "-o", "x.trace", "--", "bash", "-c", script];
    let mut command = exectrace(folder, &args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

/// It answers each signal, and ends when its input does.
const ANSWERS: &str = "for s in INT QUIT TERM HUP USR1 USR2; do trap \"echo got $s\" $s; done
    echo ready; read word; while [ $? -gt 128 ]; do read word; done; exit 5";

/// Signals that this test was begun with as ignored, a bit each.
fn ignored_here() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap()
}

#[test]
fn signals_to_the_command_reach_the_program() {
    let (folder, _alone) = folder("ends-signals");
    if !can_record(&folder) {
        return;
    }
    let (mut child, mut out) = recording(&folder, ANSWERS);
    assert_eq!(line(&mut out), "ready");
    let ignored = ignored_here();
    for (signal, number) in
        [("INT", 2), ("QUIT", 3), ("TERM", 15), ("HUP", 1), ("USR1", 10), ("USR2", 12)]
    {
        // A shell cannot trap what was ignored as it began, as in the background or by `nohup`.
        if ignored >> (number - 1) & 1 != 0 {
            println!("skipped: {signal} is ignored here");
            continue;
        }
        kill(signal, child.id());
        assert_eq!(line(&mut out), format!("got {signal}"));
    }
    drop(child.stdin.take());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("", Some(5)));
}

#[test]
fn what_was_ignored_stays_ignored() {
    let (folder, _alone) = folder("ends-ignored");
    if !can_record(&folder) {
        return;
    }
    let own = env!("CARGO_BIN_EXE_exectrace");
    let shows = "grep SigIgn /proc/self/status";
    let of = |script: String| {
        let mut sh = Command::new("sh");
        let out = sh.args(["-c", &script]).current_dir(&folder).output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        let mask = text(&out.stdout);
        u64::from_str_radix(mask.trim_start_matches("SigIgn:").trim(), 16).unwrap()
    };
    for ignored in ["", "trap '' HUP; ", "trap '' INT QUIT USR1; "] {
        let without = of(format!("{ignored}{shows}"));
        let with = of(format!("{ignored}{own} record --no-report -o x.trace -- {shows}"));
        assert_eq!(with, without, "{ignored:?}");
    }
}

/// Those that the command has to change for itself: the program finds them as without it, and no
/// status is lost.
#[test]
fn ignored_ends_of_children_and_pipes() {
    let (folder, _alone) = folder("ends-ignored-own");
    if !can_record(&folder) {
        return;
    }
    let own = env!("CARGO_BIN_EXE_exectrace");
    let run = |ignored: &str, wait: &[&str], program: &[&str]| {
        let mut env = Command::new("env");
        if !ignored.is_empty() {
            env.arg(format!("--ignore-signal={ignored}"));
        }
        if let [how] = wait {
            env.args([own, "record", how, "--no-report", "-o", "x.trace", "--"]);
        }
        env.args(program).current_dir(&folder).output().unwrap()
    };
    if !run("CHLD", &[], &["true"]).status.success() {
        println!("skipped: this env cannot ignore signals");
        return;
    }
    for ignored in ["", "CHLD", "PIPE", "CHLD,PIPE"] {
        let shows = ["grep", "SigIgn", "/proc/self/status"];
        let without = text(&run(ignored, &[], &shows).stdout);
        assert!(without.starts_with("SigIgn:"), "{without}");
        for how in ["--wait", "--no-stacks"] {
            let out = run(ignored, &[how], &shows);
            assert_eq!(text(&out.stdout), without, "{ignored} {how}: {}", text(&out.stderr));
            let out = run(ignored, &[how], &["sh", "-c", "exit 7"]);
            assert_eq!(out.status.code(), Some(7), "{ignored} {how}: {}", text(&out.stderr));
        }
    }
}

/// The program runs on, and neither it nor what it starts is recorded from then on; what was
/// written is a trace, and the next command removes the folders of the killed one.
#[test]
fn a_command_that_is_killed() {
    let (folder, _alone) = folder("ends-killed");
    if !can_record(&folder) {
        return;
    }
    let script = "echo $PPID $$; read word; for i in 1 2 3 4 5; do sleep 0.01; done; echo done";
    let (mut child, mut out) = recording(&folder, script);
    let said = line(&mut out);
    // The process that records is the program's parent, and the command's own process is its.
    let (command, first) = said.split_once(' ').unwrap();
    let command: u32 = command.parse().unwrap();
    let stat = fs::read_to_string(format!("/proc/{command}/stat")).unwrap();
    let parent = stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap();
    assert_eq!(parent, child.id().to_string());
    let folders = || {
        let all = fs::read_dir("/dev/shm").unwrap().flatten();
        let ours = all.filter(|e| {
            let name = e.file_name().into_string().unwrap_or_default();
            name.strip_prefix("exectrace-").is_some_and(|n| n.len() == 16)
        });
        ours.map(|e| e.path()).collect::<Vec<_>>()
    };
    // Of all such folders the one in which this command keeps its file open.
    let links = fs::read_dir(format!("/proc/{command}/fd")).unwrap().flatten();
    let open: Vec<PathBuf> = links.filter_map(|l| fs::read_link(l.path()).ok()).collect();
    let own: Vec<PathBuf> =
        folders().into_iter().filter(|f| open.iter().any(|o| o.starts_with(f))).collect();
    assert_eq!(own.len(), 1, "{open:?}");
    // `wait` would close it, and the program go on before the command has ended.
    let input = child.stdin.take();
    kill("KILL", command);
    assert_eq!(child.wait().unwrap().code(), Some(128 + 9));
    drop(input);
    assert_eq!(line(&mut out), "done");
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    // Children that came later have put nothing there. What the first process had put there may
    // have been nobody's yet.
    let left: Vec<_> = fs::read_dir(&own[0]).into_iter().flatten().flatten().collect();
    let names = left.iter().map(|e| e.file_name().to_string_lossy().into_owned());
    let later: Vec<_> =
        names.filter(|n| n != "owner" && !n.starts_with(&format!("{first}-"))).collect();
    assert!(later.is_empty(), "{said} {later:?}");
    // It may have been killed before it wrote anything.
    if fs::metadata(folder.join("x.trace")).unwrap().len() > 0 {
        let stat = exectrace(&folder, &["stat", "--json", "x.trace"]).output().unwrap();
        let stat: Value = serde_json::from_slice(&stat.stdout).unwrap();
        let (complete, damaged) = (&stat["complete"], &stat["damaged_bytes"]);
        assert_eq!((complete, damaged), (&Value::from(false), &Value::from(0)));
    }
    let next = ["record", "--no-report", "-o", "y.trace", "--", "true"];
    assert!(exectrace(&folder, &next).output().unwrap().status.success());
    assert!(!own[0].exists(), "{}", own[0].display());
}

/// The command stands still for a while, and then goes on where it was.
#[test]
fn a_command_that_is_stopped() {
    let (folder, _alone) = folder("ends-stopped");
    if !can_record(&folder) {
        return;
    }
    let script = "echo $PPID; read a; echo $a; read b; echo $b; exit 3";
    let (mut child, mut out) = recording(&folder, script);
    // Both of its processes: the one that was started, and the one that records.
    let both = [child.id(), line(&mut out).parse().unwrap()];
    let mut to = child.stdin.take().unwrap();
    let mut write = |word: &str| std::io::Write::write_all(&mut to, word.as_bytes()).unwrap();
    both.iter().for_each(|pid| kill("STOP", *pid));
    write("one\n");
    assert_eq!(line(&mut out), "one", "the program runs meanwhile");
    both.iter().for_each(|pid| kill("CONT", *pid));
    write("two\n");
    assert_eq!(line(&mut out), "two");
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let stat = exectrace(&folder, &["stat", "--json", "x.trace"]).output().unwrap();
    let stat: Value = serde_json::from_slice(&stat.stdout).unwrap();
    assert_eq!((&stat["complete"], &stat["lost"]), (&Value::from(true), &Value::from(0)));
}

/// Its child goes on in a session of its own, with no descriptor of the terminal's: the command
/// stays where it is told to. `tests/behind.rs` has what it does else.
#[test]
fn a_program_that_daemonizes() {
    let (folder, _alone) = folder("ends-daemon");
    if !can_record(&folder) {
        return;
    }
    // Until the first process has ended.
    let daemon = "touch up; while kill -0 $0; do sleep 0.02; done; echo alive > daemon.out";
    let script = format!(
        "setsid bash -c '{daemon}' $$ < /dev/null > /dev/null 2>&1 &
        until [ -e up ]; do sleep 0.01; done; exit 6"
    );
    let args = ["-o", "x.trace", "--no-report", "--", "bash", "-c", &script];
    // With --wait the command stays until it has ended.
    let args = [&["record", "--wait"][..], &args].concat();
    let out = exectrace(&folder, &args).output().unwrap();
    let said = text(&out.stderr);
    assert_eq!((out.status.code(), said.contains("still running")), (Some(6), false), "{said}");
    assert_eq!(fs::read_to_string(folder.join("daemon.out")).unwrap(), "alive\n");
}

/// It becomes itself again and again: each time is a trace of its own, in the same process.
#[test]
fn a_program_that_becomes_itself() {
    let (folder, _alone) = folder("ends-itself");
    if !can_record(&folder) {
        return;
    }
    let script = "[ $0 = 20 ] && exit 9; exec bash -c \"$S\" $(($0 + 1))";
    let args = ["record", "--no-report", "-o", "x.trace", "--", "bash", "-c", "eval \"$S\"", "0"];
    let out = exectrace(&folder, &args).env("S", script).output().unwrap();
    assert_eq!(out.status.code(), Some(9), "{}", text(&out.stderr));
    let traces = fs::read_dir(&folder).unwrap().count();
    assert_eq!(traces, 21, "{}", text(&out.stderr));
}

/// As a build does: many children at once, and a trace of each.
#[test]
fn many_children_at_once() {
    let (folder, _alone) = folder("ends-many");
    if !can_record(&folder) {
        return;
    }
    // Each waits for a line of its own; all of them are there before the first line is.
    let script = "mkfifo go; exec 9<>go; all=
        for i in $(seq 60); do (read word <&9; exit 3) & all=\"$all $!\"; done
        for i in $(seq 60); do echo >&9; done; n=0
        for p in $all; do wait $p; [ $? = 3 ] && n=$((n + 1)); done; echo $n; exit 2";
    let args = ["record", "--no-report", "-o", "x.trace", "--", "bash", "-c", script];
    let out = exectrace(&folder, &args).output().unwrap();
    assert_eq!((text(&out.stdout).trim(), out.status.code()), ("60", Some(2)));
    let names = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name());
    let traces = names.filter(|n| n.to_string_lossy().ends_with(".trace")).count();
    assert!(traces > 60, "{traces}: {}", text(&out.stderr));
}
