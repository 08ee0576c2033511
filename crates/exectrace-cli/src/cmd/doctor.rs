//! `exectrace doctor`: what can be recorded here, of this program, and what is missing and why.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use serde_json::json;
use trace_record::Refused;

use crate::failure::Failure;
use crate::json;
use crate::output::Out;
use crate::output::safe;
use crate::raw_calls;
use crate::time;

/// Places that are listed for people; in JSON all of them are.
const CALLS: usize = 6;

/// What to look at.
#[derive(Args, Debug)]
pub struct Options {
    /// The program that is to be recorded
    #[arg(value_name = "PROGRAM")]
    program: Option<OsString>,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Something that was looked at.
struct Finding {
    what: &'static str,
    good: bool,
    says: String,
    /// Code that the hooks do not see.
    calls: Vec<raw_calls::Named>,
}

/// The environment as notes for a trace: what can be recorded here and what not.
pub fn notes() -> Vec<(String, String)> {
    let text = |f: &Finding| format!("{}: {}", f.what, f.says);
    // A recording that does not ask for the kernel's records is not to be slowed by them.
    let found = environment(trace_record::may_watch());
    let (good, missing): (Vec<_>, Vec<_>) = found.into_iter().partition(|f| f.good);
    let note = |name: &str, found: &[Finding]| {
        let all: Vec<String> = found.iter().map(text).collect();
        (!all.is_empty()).then(|| (name.to_owned(), all.join("; ")))
    };
    [note("here", &good), note("not here", &missing)].into_iter().flatten().collect()
}

/// Runs the command; true where nothing is in the way.
pub fn run(options: &Options, out: &mut Out) -> Result<bool, Failure> {
    let mut found = environment(trace_record::can_watch());
    if let Some(program) = &options.program {
        found.extend(program_findings(program));
    }
    let good = found.iter().all(|f| f.good || f.what.starts_with("kernel"));
    if options.json {
        let mut bytes = Vec::new();
        json::object(&mut bytes, |o| {
            o.put("good", good);
            let list = found.iter();
            let list = list.map(|f| {
                let mut one = json!({"what": f.what, "good": f.good, "says": f.says});
                if !f.calls.is_empty() {
                    one["calls"] = f.calls.iter().map(raw_calls::Named::json).collect();
                }
                one
            });
            o.put("findings", json!(list.collect::<Vec<_>>()));
        });
        bytes.push(b'\n');
        out.bytes(&bytes)?;
        return Ok(good);
    }
    for f in &found {
        let mark = if f.good { "ok " } else { "NO " };
        out.put(format_args!("{mark} {:<20} {}\n", f.what, f.says))?;
        for line in raw_calls::lines(&f.calls, CALLS) {
            out.put(format_args!("       {line}\n"))?;
        }
    }
    Ok(good)
}

fn environment(switches: Result<(), String>) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add =
        |what, good, says: String| found.push(Finding { what, good, says, calls: Vec::new() });
    let barrier = trace::sys::membarrier::register_everywhere();
    let says = match barrier {
        true => "membarrier works: an event costs no fence",
        false => "membarrier is refused: every event fences, about 20 ns more",
    };
    add("barrier", true, says.into());
    let counter = trace::clock::Clock::get().is_counter();
    let says = match counter {
        true => "the cycle counter can be trusted",
        false => "no trustworthy cycle counter: the monotonic clock is used, about 20 ns more",
    };
    add("clock", true, says.into());
    match trace_record::can_hold_buffers() {
        Ok(path) => add("buffers", true, format!("a tmpfs for them: {}", path.display())),
        Err(e) => add("buffers", false, format!("{e}")),
    }
    let inside = crate::preload::LIBRARY.len();
    match inside {
        0 => add("library", false, "this build has no library to preload inside".into()),
        n => add("library", true, format!("to be preloaded, {} KiB, inside this command", n >> 10)),
    }
    let (good, says) = match switches {
        Ok(()) => (true, "recorded with --classes ..,sched: when each thread had a CPU".to_owned()),
        Err(why) => {
            let instead = "a thread that does not wait is \"running or runnable\"";
            (false, format!("{why}; {instead}"))
        }
    };
    add("kernel's switches", good, says);
    found
}

fn program_findings(program: &OsString) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add =
        |what, good, says: String| found.push(Finding { what, good, says, calls: Vec::new() });
    let path = match trace_record::program(program) {
        Ok(path) => path,
        Err(why) => {
            let mut says = safe(why.to_string().as_bytes());
            if matches!(why, Refused::Static(_)) && raw_calls::is_go(Path::new(program)) {
                says.push_str(
                    "; it is written in Go, whose programs enter the kernel by themselves",
                );
            }
            add("program", false, says);
            return found;
        }
    };
    add("program", true, format!("{} can be recorded", safe(path.as_os_str().as_encoded_bytes())));
    let Some((files, calls)) = raw_calls_of(&path) else {
        add("hooks", false, "the program's file cannot be read".into());
        return found;
    };
    let files = match files {
        1 => "its code".to_owned(),
        n => format!(
            "its code and that of {}",
            match n {
                2 => "1 library".into(),
                n => format!("{} libraries", n - 1),
            }
        ),
    };
    match calls.iter().filter(|c| c.site.may_wait()).count() as u64 {
        0 => add("hooks", true, format!("{files}: the kernel is entered by the C library only")),
        n => add(
            "hooks",
            false,
            format!(
                "in {files}, {} around the C library, where waits are not seen",
                time::counted(n, "call")
            ),
        ),
    }
    if let Some(last) = found.last_mut() {
        last.calls = calls;
    }
    found
}

/// The program's file: of a script the one that runs it.
fn binary(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..4 {
        let mut head = [0u8; 256];
        let read = File::open(&path).and_then(|mut file| file.read(&mut head)).unwrap_or(0);
        let Some(line) = head[..read].strip_prefix(b"#!") else { break };
        let line = line.split(|b| *b == b'\n').next().unwrap_or_default().trim_ascii();
        let word = line.split(|b| b.is_ascii_whitespace()).next().unwrap_or_default();
        path = PathBuf::from(OsStr::from_bytes(word));
    }
    path
}

/// The libraries that the loader would put beside a program, as the loader itself says. Nothing of
/// the program runs.
fn libraries(path: &Path) -> Vec<PathBuf> {
    let loader = fs::read(path).ok().and_then(|bytes| raw_calls::loader(&bytes));
    let Some(loader) = loader else { return Vec::new() };
    let listed = Command::new(loader).arg("--list").arg(path).output();
    let text = listed.map(|out| out.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| line.split_once("=> ")?.1.rsplit_once(" (").map(|(path, _)| path))
        .map(PathBuf::from)
        .collect()
}

/// Code of the program and of its libraries that enters the kernel by itself.
fn raw_calls_of(path: &Path) -> Option<(usize, Vec<raw_calls::Named>)> {
    let path = binary(path);
    let mut all = raw_calls::in_file(&path, &[], None)?;
    let libraries = libraries(&path);
    let beside = libraries.iter().filter(|l| !raw_calls::is_left_out(l));
    let mut files = 1;
    for library in beside {
        all.extend(raw_calls::in_file(library, &[], None).unwrap_or_default());
        files += 1;
    }
    Some((files, all))
}
