//! `exectrace record`: runs a program and records it, then says where its time went.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use trace_record::Behind;
use trace_record::Ended;
use trace_record::Front;
use trace_record::Part;
use trace_record::Recorded;
use trace_record::Traced;
use trace_record::Waited;

use crate::args::Common;
use crate::args::Symbols;
use crate::cmd::doctor;
use crate::cmd::report;
use crate::failure;
use crate::failure::Failure;
use crate::failure::REFUSED;
use crate::output::Out;
use crate::output::safe;
use crate::table::shortened;
use crate::time;

const HELP: &str = "\
The program is not changed and needs no privileges: a library is preloaded that stands in for the
calls by which programs wait, and another process, this one, writes the trace. Children are recorded
too, each into a file beside the first with its process number in the name.

The report goes to standard error, so that the program's output stays what it is. The program's exit
status is passed on; 128 + N where signal N ended it; 1 where it could not be recorded at all. A
signal that this command is sent is passed on too. When the program has ended, processes of it that
still run are recorded on behind: the command says so, and by which process, and ends. With --wait
it stays until the last of them has ended, and the report is of all of them.

Examples:
  exectrace record -- ./server --port 8080
  exectrace record -o slow.trace --classes locks,io -- make -j4
  exectrace record --no-report -- ./program && exectrace waits program.trace";

/// What to record.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Options {
    /// The trace; by default the program's name with .trace, here
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Which calls: any of locks, io, net, sleep, sched, process; sched has the kernel's records of
    /// switches too
    #[arg(long, value_name = "LIST", default_value = "locks,io,net,sleep,process")]
    classes: String,
    /// Do not capture the stacks of waits and wakes
    #[arg(long)]
    no_stacks: bool,
    /// Most frames of a stack
    #[arg(long, value_name = "N", default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(1..=128))]
    depth: u32,
    /// Most memory for buffers in each process, in MiB; by default 64, or a sixteenth of what the
    /// process's control group may have
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(2..=65_536))]
    memory: Option<u64>,
    /// Take the stacks of running threads, so often a second of their time on a CPU, by frame
    /// pointers; with them come the kernel's records of switches
    #[arg(long, value_name = "HZ", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    cpu_samples: Option<u32>,
    /// Record the program alone, not its children
    #[arg(long)]
    no_follow: bool,
    /// Stay until every process of the tree has ended
    #[arg(long)]
    wait: bool,
    /// Say nothing at the end but where the trace is
    #[arg(long)]
    no_report: bool,
    /// The program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM"
    )]
    command: Vec<OsString>,
}

impl Options {
    /// The defaults, for this program.
    pub fn of(command: Vec<OsString>, output: PathBuf) -> Options {
        Options {
            output: Some(output),
            classes: "locks,io,net,sleep,process".into(),
            no_stacks: false,
            depth: 64,
            memory: None,
            cpu_samples: None,
            no_follow: false,
            wait: false,
            no_report: false,
            command,
        }
    }
}

/// Classes that there are.
const CLASSES: [&str; 6] = ["locks", "io", "net", "sleep", "sched", "process"];

/// Runs the command; gives the program's own status. Where it need not stay it is divided in two,
/// so that one can end before the other.
pub fn run(options: &Options) -> ExitCode {
    if options.wait {
        return run_here(options);
    }
    match trace_record::divide() {
        Part::Front(Waited::Status(code)) => ExitCode::from(code),
        Part::Front(Waited::Lost { back, signal }) => {
            failure::say(&format!(
                "the process that recorded, {back}, was ended by signal {signal}: the program runs \
                 on, and its trace is not complete"
            ));
            ExitCode::from(Ended::Signal(signal).code())
        }
        Part::Back(front) => run_as(options, Some(front)),
        Part::Both => run_here(options),
    }
}

/// Runs the command in this process.
pub fn run_here(options: &Options) -> ExitCode {
    run_as(options, None)
}

fn run_as(options: &Options, front: Option<Front>) -> ExitCode {
    match record(options, front) {
        Ok((recorded, behind)) => {
            let code = recorded.ended.code();
            match behind {
                None => say(options, &recorded, &[]),
                Some(mut behind) => {
                    let traces = behind.traces();
                    // A trace may be long, and its report take a while.
                    behind.meanwhile(|| say(options, &recorded, &traces));
                    behind.go_on(code);
                }
            }
            ExitCode::from(code)
        }
        Err(why) => {
            failure::say(&why);
            ExitCode::from(REFUSED)
        }
    }
}

type Done = (Recorded, Option<Behind>);

fn record(options: &Options, front: Option<Front>) -> Result<Done, String> {
    if let Some(other) = options.classes.split(',').find(|c| !CLASSES.contains(c)) {
        return Err(format!("--classes: there is no class `{other}`: {}", CLASSES.join(", ")));
    }
    let (program, arguments) = options.command.split_first().ok_or("no program")?;
    let output = options.output.clone().unwrap_or_else(|| {
        let name = Path::new(program).file_name().unwrap_or(program);
        let mut name = name.to_owned();
        name.push(".trace");
        PathBuf::from(name)
    });
    let line: Vec<String> = options.command.iter().map(|a| a.to_string_lossy().into()).collect();
    let plan = trace_record::Options {
        program: program.clone(),
        arguments: arguments.to_vec(),
        output,
        classes: options.classes.clone(),
        stacks: !options.no_stacks,
        depth: options.depth,
        memory: options.memory.map_or(0, |mib| mib << 20),
        follow: !options.no_follow,
        wait: options.wait,
        switches: options.classes.split(',').any(|c| c == "sched"),
        samples_hz: options.cpu_samples.unwrap_or(0),
        notes: notes(options, line.join(" ")),
    };
    let what = recorded_here(options, plan.switches || plan.samples_hz > 0);
    let prepared = trace_record::prepare(plan, &library()?, front).map_err(|e| e.to_string())?;
    failure::say(&what);
    prepared.record().map_err(|e| e.to_string())
}

/// What is recorded, by which means, and what not.
fn recorded_here(options: &Options, by_kernel: bool) -> String {
    let stacks = if options.no_stacks { "without stacks" } else { "with stacks" };
    let kernel = match by_kernel.then(trace_record::can_watch) {
        None => String::new(),
        Some(Ok(())) => ", and by the kernel's records of switches".into(),
        Some(Err(why)) => format!("; no switches of threads: {why}"),
    };
    format!("recording {} {stacks}, by hooks of the C library{kernel}", options.classes)
}

/// What every trace says of the recording: the command, what was asked for, who saw what, and what
/// can be recorded here at all.
fn notes(options: &Options, command: String) -> Vec<(String, String)> {
    let note = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let mut notes = vec![note("command", &command), note("classes", &options.classes)];
    for class in CLASSES {
        let says = match options.classes.split(',').any(|c| c == class) {
            true => "hooks of the C library",
            false => "nobody: not asked for",
        };
        notes.push(note("observer", &format!("{}: {says}", observed(class))));
    }
    notes.push(note("observer", "threads, processes, descriptors: hooks of the C library"));
    notes.push(note("observer", "what the lane of the kernel holds: the kernel, see its note"));
    notes.extend(doctor::notes());
    notes
}

/// What hooks see of a class of calls.
fn observed(class: &str) -> String {
    let what = if class == "locks" { "waits and wakes" } else { "waits" };
    let of = if class == "sched" { "sched (yields)" } else { class };
    format!("{what} of {of}")
}

/// The library that is preloaded: the one inside, unless another one is named.
fn library() -> Result<Cow<'static, [u8]>, String> {
    let Some(path) = std::env::var_os("EXECTRACE_PRELOAD_LIBRARY") else {
        return Ok(crate::preload::LIBRARY.into());
    };
    let read = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(read.into())
}

/// Says what came of it, and which processes are recorded on.
fn say(options: &Options, recorded: &Recorded, behind: &[(u32, PathBuf)]) {
    let how = match recorded.ended {
        Ended::Status(code) => format!("ended with status {code}"),
        Ended::Signal(signal) => format!("was ended by signal {signal}"),
    };
    let ns = |d: std::time::Duration| time::short(d.as_nanos() as u64);
    let beside = match recorded.program_cpu {
        Some(cpu) if !cpu.is_zero() => format!(" beside the program's {}", ns(cpu)),
        _ => String::new(),
    };
    let (took, own) = (ns(recorded.took), ns(recorded.own_cpu));
    let _ = writeln!(std::io::stderr());
    failure::say(&format!("the program {how} after {took}; recording took {own} of CPU{beside}"));
    for (pid, why) in recorded.refused.iter().take(TRACES) {
        let why = safe(why.as_bytes());
        failure::say(&format!("process {pid} ran without being recorded: {why}"));
    }
    say_traces(options, &recorded.traces, behind.is_empty());
    if recorded.left > 0 {
        let left = time::counted(recorded.left as u64, "process");
        failure::say(&format!(
            "still running, and recorded no more: {left}; --wait stays with them"
        ));
    }
    if !behind.is_empty() {
        say_behind(behind);
    }
}

/// The report of the most active one, and where all are.
fn say_traces(options: &Options, traces: &[Traced], is_all: bool) {
    let mut traces: Vec<&Traced> = traces.iter().collect();
    // A wrapper, a shell or `make` is seldom what is asked about: the most active one is first.
    traces.sort_by_key(|t| Reverse(t.summary.events));
    let Some(most) = traces.first() else {
        if is_all {
            failure::say("nothing was recorded: the recorder did not start in the program");
        }
        return;
    };
    let something = std::fs::metadata(&most.path).is_ok_and(|f| f.is_file() && f.len() > 0);
    if !options.no_report && something {
        if traces.len() > 1 {
            let (count, path) = (time::count(traces.len() as u64), most.path.display());
            failure::say(&format!("of {count} traces the one with the most events, {path}:\n"));
        }
        print_report(&most.path);
    }
    for trace in traces.iter().take(TRACES) {
        failure::say(&said_of(trace));
    }
    if let more @ 1.. = traces.len().saturating_sub(TRACES) {
        failure::say(&format!("and {}", time::counted(more as u64, "more trace")));
    }
}

/// Processes that outlive the first one, the one that records them, and how to end that.
fn say_behind(behind: &[(u32, PathBuf)]) {
    let count = time::counted(behind.len() as u64, "process");
    let own = std::process::id();
    failure::say(&format!(
        "still running, and recorded on behind by process {own}: {count}; `kill {own}` ends the \
         recording, not them; --wait stays with them"
    ));
    for (pid, path) in behind.iter().take(TRACES) {
        let path = path.display();
        failure::say(&format!("{path} is complete when process {pid} has ended"));
    }
    if let more @ 1.. = behind.len().saturating_sub(TRACES) {
        failure::say(&format!("and {} like this", time::counted(more as u64, "more trace")));
    }
}

/// Traces that are named one by one.
const TRACES: usize = 4;

fn said_of(trace: &Traced) -> String {
    let (s, path) = (&trace.summary, trace.path.display());
    let lost = if s.lost > 0 { format!(", {} LOST", time::count(s.lost)) } else { String::new() };
    let events = time::count(s.events);
    let program = shortened(&safe(trace.program.rsplit(|b| *b == b'/').next().unwrap_or_default()));
    match &trace.error {
        None => format!("{path} ({events} events{lost}, {program}, process {})", trace.pid),
        Some(e) => format!(
            "{path}: {e}; {} bytes, the end of the trace, could not be written ({events} events in \
             all{lost}, {program}, process {})",
            time::count(trace.unwritten),
            trace.pid
        ),
    }
}

fn print_report(path: &Path) {
    let mut out = Out::stderr();
    let symbols = Symbols { no_symbols: false, debug_dir: Vec::new() };
    let common = Common { file: path.to_path_buf(), json: false };
    let done = report::run(&report::Options { common, symbols }, &mut out);
    match done.and_then(|_| out.finish()) {
        Ok(()) | Err(Failure::NobodyReads) => {}
        Err(Failure::Refused(why)) => failure::say(&why),
    }
    let _ = std::io::stderr().flush();
}
