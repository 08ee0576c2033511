//! The command is a front and a back: programs that leave something behind are recorded on when
//! the command has ended; signals, kills and stops of either.
//!
//! Nothing here waits for a time: programs and tests wait for each other by named pipes, and for
//! processes until they have ended.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::Value;

mod recording;
mod steering;

use recording::can_record;
use recording::exectrace;
use recording::text;
use steering::folder;
use steering::kill;
use steering::line;

/// A field of a process's status after its name, from the state on; `None` where it is no more.
fn field(pid: &str, number: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.split(' ').nth(number).map(str::to_owned)
}

/// Waits until the process is in one of these states; minutes, since another end is a fault.
fn until(pid: &str, states: &[Option<&str>]) {
    let mut left = 40_000;
    while !states.contains(&field(pid, 0).as_deref()) {
        left -= 1;
        assert!(left > 0, "{pid} is {:?}", field(pid, 0));
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until the process has ended. Where nobody waits for it it stays as a zombie.
fn until_ended(pid: &str) {
    until(pid, &[None, Some("Z")]);
}

fn stat(folder: &Path, trace: &str) -> Value {
    let out = exectrace(folder, &["stat", "--json", trace]).output().unwrap();
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{trace}: {e}"))
}

fn is_complete(folder: &Path, trace: &str) -> bool {
    let stat = stat(folder, trace);
    (&stat["complete"], &stat["lost"]) == (&Value::from(true), &Value::from(0))
}

/// The first process ends with 6 when the daemon it has made is there; that one lets go of
/// everything, and reads a word from each of two pipes. It makes a child before, and two after.
const DAEMON: &str = "mkfifo up one two got
    setsid bash -c '(:); echo $$ > up; read a < one; (:); echo $a > got; read b < two; (:);
        echo $a $b > out' < /dev/null > /dev/null 2>&1 &
    read pid < up; echo started $pid; exit 6";

/// What the command says of the process that goes on behind, and of the daemon's trace.
fn said_behind(said: &str, daemon: &str) -> (String, String) {
    let after = |words: &str| said.split_once(words).unwrap_or_else(|| panic!("{said}")).1;
    let back = after("recorded on behind by process ").split(':').next().unwrap();
    assert!(said.contains(&format!("`kill {back}`")) && said.contains("--wait stays"), "{said}");
    let ending = format!(" is complete when process {daemon} has ended");
    let line = said.lines().find(|line| line.ends_with(&ending));
    let line = line.unwrap_or_else(|| panic!("{daemon}: {said}"));
    let trace = line.trim_start_matches("exectrace: ").trim_end_matches(&ending);
    (back.to_owned(), trace.to_owned())
}

/// Records the daemon until the command has ended: what it said, by its pipes, and the daemon's
/// process, which still runs.
fn daemon(folder: &Path, mut command: Command) -> (String, String) {
    // Returns when all ends of both pipes are closed: neither the daemon nor the back has one.
    let out = command.current_dir(folder).output().unwrap();
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(6), "{said}");
    let daemon = text(&out.stdout).trim().strip_prefix("started ").unwrap().to_owned();
    assert!(!folder.join("out").exists());
    (said, daemon)
}

const RECORD: [&str; 7] = ["record", "--no-report", "-o", "x.trace", "--", "bash", "-c"];

#[test]
fn a_daemon_is_recorded_to_its_end() {
    let (folder, _alone) = folder("behind-daemon");
    if !can_record(&folder) {
        return;
    }
    let command = exectrace(&folder, &[&RECORD[..], &[DAEMON]].concat());
    let (said, daemon) = daemon(&folder, command);
    let (back, trace) = said_behind(&said, &daemon);
    assert!(is_complete(&folder, "x.trace"));
    // It leads a session of its own, and holds nothing of whoever began it.
    assert_eq!(field(&back, 3).as_deref(), Some(&*back), "the session of the back");
    for fd in 0..3 {
        let open = fs::read_link(format!("/proc/{back}/fd/{fd}")).unwrap();
        assert_eq!(open, Path::new("/dev/null"));
    }
    // The command that made it is no more; a signal that hangs up does not concern it.
    kill("HUP", &back);
    fs::write(folder.join("one"), "before\n").unwrap();
    assert_eq!(fs::read_to_string(folder.join("got")).unwrap(), "before\n");
    fs::write(folder.join("two"), "after\n").unwrap();
    until_ended(&back);
    assert_eq!(fs::read_to_string(folder.join("out")).unwrap(), "before after\n");
    assert!(is_complete(&folder, &trace), "{trace}");
    let events = exectrace(&folder, &["events", &trace]).output().unwrap();
    let events = text(&events.stdout);
    // One before the command had ended, two when nobody waited for it any more.
    assert_eq!(events.matches("text=\"fork\"").count(), 3, "{events}");
}

/// The daemon goes on, and its trace has an end.
#[test]
fn a_back_that_is_asked_to_end() {
    let (folder, _alone) = folder("behind-asked");
    if !can_record(&folder) || !can_signal() {
        return;
    }
    let command = exectrace(&folder, &[&RECORD[..], &[DAEMON]].concat());
    let (said, daemon) = daemon(&folder, command);
    let (back, trace) = said_behind(&said, &daemon);
    fs::write(folder.join("one"), "before\n").unwrap();
    assert_eq!(fs::read_to_string(folder.join("got")).unwrap(), "before\n");
    let own = folder_of(&back);
    kill("TERM", &back);
    until_ended(&back);
    assert!(is_complete(&folder, &trace), "{trace}");
    assert!(!own.exists(), "{}", own.display());
    fs::write(folder.join("two"), "after\n").unwrap();
    until_ended(&daemon);
    assert_eq!(fs::read_to_string(folder.join("out")).unwrap(), "before after\n");
}

/// Where the mappings of a back stand: its lock there is open.
fn folder_of(back: &str) -> PathBuf {
    let links = fs::read_dir(format!("/proc/{back}/fd")).unwrap().flatten();
    let open: Vec<PathBuf> = links.filter_map(|l| fs::read_link(l.path()).ok()).collect();
    let own = open.iter().find(|path| path.starts_with("/dev/shm") && path.ends_with("owner"));
    own.unwrap_or_else(|| panic!("{open:?}")).parent().unwrap().to_owned()
}

/// The first process ends before the one that it leaves has begun, in each way to make one.
#[test]
fn processes_that_are_left_at_once() {
    let (folder, _alone) = folder("behind-at-once");
    if !can_record(&folder) {
        return;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/leaves.c");
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-o", "leaves"]).arg(source).current_dir(&folder);
    match cc.output() {
        Ok(out) => assert!(out.status.success(), "{}", text(&out.stderr)),
        Err(e) => return println!("skipped: no C compiler: {e}"),
    }
    assert!(Command::new("mkfifo").arg("go").current_dir(&folder).status().unwrap().success());
    for how in ["daemon", "spawn", "vfork"].repeat(3) {
        let args = ["record", "--no-report", "-o", "x.trace", "--", "./leaves", how];
        let out = exectrace(&folder, &args).output().unwrap();
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(0), "{how}: {said}");
        let left = said.lines().find_map(|l| l.split_once(" is complete when process "));
        let left = left.unwrap_or_else(|| panic!("{how}: {said}")).1;
        let (back, trace) = said_behind(&said, left.split(' ').next().unwrap());
        fs::write(folder.join("go"), "!").unwrap();
        until_ended(&back);
        assert!(is_complete(&folder, &trace), "{how}: {trace}");
    }
}

/// A shell has what the command's program printed, and goes on.
#[test]
fn in_a_command_substitution() {
    let (folder, _alone) = folder("behind-substitution");
    if !can_record(&folder) {
        return;
    }
    let own = env!("CARGO_BIN_EXE_exectrace");
    let args = "--no-report -o x.trace -- bash -c";
    let script = format!("said=$({own} record {args} \"$DAEMON\" 2>&1); status=$?; echo \"$said\"");
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("{script}; exit $status")]).env("DAEMON", DAEMON);
    let out = shell.current_dir(&folder).output().unwrap();
    let said = text(&out.stdout);
    assert_eq!(out.status.code(), Some(6), "{said}");
    let daemon = said.lines().find_map(|l| l.strip_prefix("started ")).unwrap();
    let (back, trace) = said_behind(&said, daemon);
    fs::write(folder.join("one"), "1\n").unwrap();
    assert_eq!(fs::read_to_string(folder.join("got")).unwrap(), "1\n");
    fs::write(folder.join("two"), "2\n").unwrap();
    until_ended(&back);
    assert!(is_complete(&folder, &trace), "{trace}");
}

/// One process does both, and says that what it leaves is recorded no more.
#[test]
fn where_there_can_be_no_front() {
    let (folder, _alone) = folder("behind-both");
    if !can_record(&folder) {
        return;
    }
    let script = format!("env | grep EXECTRACE_RECORD; {DAEMON}");
    let mut command = exectrace(&folder, &[&RECORD[..], &[&script]].concat());
    command.env("EXECTRACE_RECORD_FRONT", "nobody");
    let (said, daemon) = daemon(&folder, command);
    assert!(said.contains("still running, and recorded no more: 1 process"), "{said}");
    fs::write(folder.join("one"), "1\n").unwrap();
    assert_eq!(fs::read_to_string(folder.join("got")).unwrap(), "1\n");
    fs::write(folder.join("two"), "2\n").unwrap();
    until_ended(&daemon);
    assert_eq!(fs::read_to_string(folder.join("out")).unwrap(), "1 2\n");
}

/// It answers signals, and ends when its input does.
const ANSWERS: &str = "trap 'echo got TERM' TERM; trap 'echo got USR1' USR1; echo $PPID $$
    read word; while [ $? -gt 128 ]; do read word; done; echo word $word; exit 5";

/// Whether the signals of these tests can be told of; a shell cannot trap what was ignored as it
/// began. Says so where not.
fn can_signal() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:")).unwrap();
    let ignored = u64::from_str_radix(mask.trim(), 16).unwrap();
    let is_free = ignored & (1 << (15 - 1) | 1 << (10 - 1)) == 0;
    if !is_free {
        println!("skipped: SIGTERM or SIGUSR1 is ignored here");
    }
    is_free
}

/// A command that records this script in a group of its own; the script's output, the back and the
/// program.
fn answering(folder: &Path) -> (Child, BufReader<ChildStdout>, String, String) {
    let mut command = exectrace(folder, &[&RECORD[..], &[ANSWERS]].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut front = command.spawn().unwrap();
    let mut out = BufReader::new(front.stdout.take().unwrap());
    let said = line(&mut out);
    let (back, program) = said.split_once(' ').unwrap();
    assert_eq!(field(back, 1), Some(front.id().to_string()), "the back is made by the front");
    (front, out, back.to_owned(), program.to_owned())
}

fn rest(mut out: BufReader<ChildStdout>) -> String {
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    rest
}

/// Signals to the front reach the program, once each.
#[test]
fn signals_to_the_front() {
    let (folder, _alone) = folder("behind-front");
    if !can_record(&folder) || !can_signal() {
        return;
    }
    let (mut front, mut out, _, _) = answering(&folder);
    for signal in ["TERM", "USR1", "TERM", "TERM", "USR1"] {
        kill(signal, front.id());
        assert_eq!(line(&mut out), format!("got {signal}"));
    }
    front.stdin.take().unwrap().write_all(b"end\n").unwrap();
    assert_eq!(rest(out), "word end\n");
    assert_eq!(front.wait().unwrap().code(), Some(5));
    assert!(is_complete(&folder, "x.trace"));
}

/// The back goes on: signals that it is sent itself reach the program, and the trace is complete.
#[test]
fn a_front_that_is_killed() {
    let (folder, _alone) = folder("behind-no-front");
    if !can_record(&folder) || !can_signal() {
        return;
    }
    let (mut front, mut out, back, _) = answering(&folder);
    let mut input = front.stdin.take().unwrap();
    kill("KILL", front.id());
    assert_eq!(front.wait().unwrap().code(), None);
    kill("TERM", &back);
    assert_eq!(line(&mut out), "got TERM");
    input.write_all(b"end\n").unwrap();
    assert_eq!(rest(out), "word end\n");
    until_ended(&back);
    assert!(is_complete(&folder, "x.trace"));
    let said = std::io::read_to_string(front.stderr.take().unwrap()).unwrap();
    assert!(said.contains("the program ended with status 5"), "{said}");
}

/// The front says so, and ends as the back did; the program goes on.
#[test]
fn a_back_that_is_killed() {
    let (folder, _alone) = folder("behind-no-back");
    if !can_record(&folder) || !can_signal() {
        return;
    }
    let (mut front, out, back, program) = answering(&folder);
    let mut input = front.stdin.take().unwrap();
    kill("KILL", &back);
    assert_eq!(front.wait().unwrap().code(), Some(128 + 9));
    // The program has the other end of the same pipe: only a line of it is read.
    let mut said = BufReader::new(front.stderr.take().unwrap()).lines().map_while(Result::ok);
    let ended = format!("{back}, was ended by signal 9: the program runs on");
    assert!(said.any(|line| line.contains(&ended)), "{ended}");
    input.write_all(b"end\n").unwrap();
    assert_eq!(rest(out), "word end\n");
    until_ended(&program);
}

/// As by the terminal: all of the group stand still, and then all go on.
#[test]
fn a_group_that_is_stopped() {
    let (folder, _alone) = folder("behind-stopped");
    if !can_record(&folder) || !can_signal() {
        return;
    }
    let (mut front, mut out, back, program) = answering(&folder);
    let group = front.id();
    let all = [group.to_string(), back, program];
    kill("STOP", format!("-{group}"));
    all.iter().for_each(|pid| until(pid, &[Some("T")]));
    kill("CONT", format!("-{group}"));
    all.iter().for_each(|pid| until(pid, &[Some("S"), Some("R"), Some("D")]));
    kill("USR1", group);
    assert_eq!(line(&mut out), "got USR1");
    front.stdin.take().unwrap().write_all(b"end\n").unwrap();
    assert_eq!(rest(out), "word end\n");
    assert_eq!(front.wait().unwrap().code(), Some(5));
    assert!(is_complete(&folder, "x.trace"));
}
