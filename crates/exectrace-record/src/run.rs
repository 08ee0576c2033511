//! Starts a program with the preloaded recorder, drains it until it has ended, and says how.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use signal_hook::consts::SIGHUP;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGQUIT;
use signal_hook::consts::SIGTERM;
use signal_hook::consts::SIGUSR1;
use signal_hook::consts::SIGUSR2;
use signal_hook::iterator::Signals;
use trace::encode::wire;

use crate::check;
use crate::check::Refused;
use crate::cost;
use crate::drains::Drains;
use crate::drains::Traced;
use crate::folder::Folder;
use crate::library::Library;
use crate::scheduling::Scheduling;

/// The variables by which the preloaded library knows what to do. It takes them out of the
/// program's environment before `main`.
const DIR: &str = "EXECTRACE_PRELOAD_DIR";
const OPTIONS: &str = "EXECTRACE_PRELOAD_OPTIONS";
const FORMER: &str = "EXECTRACE_PRELOAD_FORMER";
const PRELOAD: &str = "LD_PRELOAD";

/// How a program is recorded.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// The trace of the first process.
    pub output: PathBuf,
    /// Classes of calls, comma separated; see `trace::encode::op`.
    pub classes: String,
    /// Whether waits and wakes have stacks.
    pub stacks: bool,
    /// Most frames of a stack.
    pub depth: u32,
    /// Most memory for buffers and tables in each process, in bytes.
    pub memory: u64,
    /// Whether children are recorded too.
    pub follow: bool,
    /// Whether to stay until every process of the tree has ended.
    pub wait: bool,
    /// Whether the kernel's records of switches are taken, where it gives them.
    pub switches: bool,
    /// Stacks of running threads, so often a second of their time on a CPU; 0 none. Has the
    /// switches too.
    pub samples_hz: u32,
    /// Facts for people, written into every trace.
    pub notes: Vec<(String, String)>,
}

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It returned this status.
    Status(u8),
    /// This signal ended it.
    Signal(i32),
}

impl Ended {
    /// The status that a shell would show.
    pub fn code(self) -> u8 {
        match self {
            Ended::Status(code) => code,
            Ended::Signal(signal) => 128u8.saturating_add(signal as u8),
        }
    }
}

/// What came of a recording.
#[derive(Debug)]
pub struct Recorded {
    /// How the program ended.
    pub ended: Ended,
    /// How long it ran.
    pub took: Duration,
    /// The traces, the first process's first. None where nothing was recorded.
    pub traces: Vec<Traced>,
    /// Processes that run on and are recorded no more.
    pub left: usize,
    /// CPU time of the recording process.
    pub own_cpu: Duration,
    /// CPU time of the program and of its children that it waited for, hooks included; to 10 ms.
    pub program_cpu: Option<Duration>,
}

/// Records a program with the preloaded `library`, the bytes of a shared object, from its start to
/// its end.
///
/// # Errors
///
/// What is in the way, before the program was started. Later nothing is: the program runs on.
pub fn record(options: &Options, library: &[u8]) -> Result<Recorded, Refused> {
    if std::env::var_os(DIR).is_some() {
        return Err(Refused::Nested);
    }
    let program = check::program(&options.program)?;
    prepare_output(&options.output).map_err(|e| Refused::Output(options.output.clone(), e))?;
    let folder = Folder::on_tmpfs().map_err(Refused::NoTmpfs)?;
    let library = Library::unpack(library).map_err(Refused::Library)?;
    let mut command = Command::new(&program);
    prepare(&mut command, options, &folder, &library);
    let signals = Signals::new([SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2]);
    let (scheduling, says) = watch(options);
    let mut notes = options.notes.clone();
    notes.push(("kernel".into(), says));
    let mut drains = Drains::new(folder.path(), &options.output, notes, scheduling);
    let began = Instant::now();
    let mut child = command.spawn().map_err(|e| Refused::Start(program, e))?;
    let mut signals = signals.ok();
    let status = loop {
        drains.step();
        if let Some(signals) = &mut signals {
            signals.pending().for_each(|signal| pass_on(&child, signal));
        }
        match child.try_wait() {
            Ok(None) => drains.sleep(),
            Ok(Some(status)) => break status,
            // Somebody else has taken its status: nothing more is known.
            Err(_) => break ExitStatus::from_raw(0),
        }
    };
    let took = began.elapsed();
    drains.step();
    while options.wait && drains.running() > 0 {
        drains.sleep();
        drains.step();
    }
    let traces_before = drains.running();
    let left = still_there(&mut drains, traces_before);
    let ended = match status.signal() {
        Some(signal) => Ended::Signal(signal),
        None => Ended::Status(status.code().unwrap_or(0) as u8),
    };
    let traces = drains.finish();
    let (own_cpu, program_cpu) = (cost::own(), cost::of_children());
    Ok(Recorded { ended, took, traces, left, own_cpu, program_cpu })
}

/// What the kernel is asked for, and what to say of it. The calling thread starts the program.
fn watch(options: &Options) -> (Scheduling, String) {
    if !options.switches && options.samples_hz == 0 {
        return (Scheduling::none(), "its counts of each thread, read now and then".into());
    }
    let asked = trace_kernel::Options {
        samples_hz: options.samples_hz,
        depth: options.depth.min(127) as u16,
    };
    let samples = match options.samples_hz {
        0 => String::new(),
        hz => format!("; samples of running threads, {hz} a second"),
    };
    match Scheduling::watch(&asked) {
        Ok(scheduling) => (scheduling, format!("switches: when each thread had a CPU{samples}")),
        Err(e) => {
            let why = trace_kernel::refusal(&e);
            (Scheduling::none(), format!("its counts of each thread, read now and then: {why}"))
        }
    }
}

/// Processes that live on a moment after the first one has ended; the last ones of a pipe do for a
/// moment.
fn still_there(drains: &mut Drains, running: usize) -> usize {
    let until = Instant::now() + Duration::from_millis(300);
    let mut running = running;
    while running > 0 && Instant::now() < until {
        drains.sleep();
        drains.step();
        running = drains.running();
    }
    running
}

/// Tries the output before the program runs. A trace is overwritten, and no other file.
fn prepare_output(path: &Path) -> io::Result<()> {
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    let about = file.metadata()?;
    if about.is_file() && about.len() > 0 {
        let mut magic = [0u8; wire::MAGIC.len()];
        if file.read_exact(&mut magic).is_err() || magic != wire::MAGIC {
            let what = "exists and is no trace: it is not overwritten";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        file.set_len(0)?;
    }
    Ok(())
}

fn prepare(command: &mut Command, options: &Options, folder: &Folder, library: &Library) {
    use std::os::unix::process::CommandExt;
    command.arg0(&options.program).args(&options.arguments);
    let mut preload = OsString::from(library.path());
    if let Some(former) = std::env::var_os(PRELOAD).filter(|v| !v.is_empty()) {
        command.env(FORMER, &former);
        preload.push(":");
        preload.push(former);
    }
    let settings = format!(
        "classes={};stacks={};depth={};memory={};follow={}",
        options.classes,
        u8::from(options.stacks),
        options.depth,
        options.memory,
        u8::from(options.follow)
    );
    command.env(PRELOAD, preload).env(DIR, folder.path()).env(OPTIONS, settings);
}

/// Gives a signal to the program. Those of the terminal reach it from there.
fn pass_on(child: &Child, signal: i32) {
    let from_terminal = matches!(signal, SIGINT | SIGQUIT) && is_foreground();
    let (pid, signal) = (Pid::from_child(child), Signal::from_named_raw(signal));
    if let Some(signal) = signal.filter(|_| !from_terminal) {
        // It may have ended just now.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether this process and the program stand in the foreground of a terminal.
fn is_foreground() -> bool {
    let own = rustix::process::getpgrp();
    let foreground = |group: rustix::io::Result<Pid>| group.is_ok_and(|group| group == own);
    foreground(rustix::termios::tcgetpgrp(io::stdin()))
        || foreground(rustix::termios::tcgetpgrp(io::stderr()))
}
