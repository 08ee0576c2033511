//! Starts a program with the preloaded recorder, drains it until it has ended, and says how.

use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::time::Duration;
use std::time::Instant;

use signal_hook::consts::SIGCHLD;
use signal_hook::consts::SIGPIPE;
use trace::encode::wire;

use crate::behind::Behind;
use crate::check;
use crate::check::Refused;
use crate::cost;
use crate::drains::Drains;
use crate::drains::Traced;
use crate::folder::Folder;
use crate::front;
use crate::front::Front;
use crate::library;
use crate::library::Library;
use crate::scheduling::Scheduling;
use crate::signals;
use crate::signals::Passing;

/// The variables by which the preloaded library knows what to do. It takes them out of the
/// program's environment before `main`.
const DIR: &str = "EXECTRACE_PRELOAD_DIR";
const OPTIONS: &str = "EXECTRACE_PRELOAD_OPTIONS";
const FORMER: &str = "EXECTRACE_PRELOAD_FORMER";
const IGNORED: &str = "EXECTRACE_PRELOAD_IGNORED";
const PRELOAD: &str = "LD_PRELOAD";

/// What runs a script that names no interpreter.
const SHELL: &str = "/bin/sh";

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
    /// Most memory for buffers and tables in each process, in bytes; 0: what the recorder takes
    /// unless it is told, which minds the limit of its control group.
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
    /// Processes that could not be recorded, and why.
    pub refused: Vec<(u32, String)>,
    /// Processes that run on and are recorded no more.
    pub left: usize,
    /// CPU time of the recording process.
    pub own_cpu: Duration,
    /// CPU time of the program and of its children that it waited for, hooks included; to 10 ms.
    pub program_cpu: Option<Duration>,
}

/// A process that was just made may not have begun to record when the one that made it ends; so
/// long is one waited for, where all are.
pub(crate) const YOUNG: Duration = Duration::from_millis(100);

/// A program that can be recorded, with all that this takes in place.
#[derive(Debug)]
pub struct Prepared {
    options: Options,
    program: PathBuf,
    folder: Folder,
    library: Library,
    signals: Passing,
}

/// Makes everything ready to record a program with the preloaded `library`, the bytes of a shared
/// object. Nothing of the program has run yet. The `front` is the one for which this process is the
/// back.
///
/// # Errors
///
/// What is in the way.
pub fn prepare(
    options: Options,
    library: &[u8],
    front: Option<Front>,
) -> Result<Prepared, Refused> {
    if is_recorded() {
        return Err(Refused::Nested);
    }
    let program = check::program(&options.program)?;
    let signals = Passing::begin(front);
    prepare_output(&options.output).map_err(|e| Refused::Output(options.output.clone(), e))?;
    let folder = Folder::on_tmpfs().map_err(Refused::NoTmpfs)?;
    let library = Library::unpack(library).map_err(Refused::Library)?;
    Ok(Prepared { options, program, folder, library, signals })
}

impl Prepared {
    /// Records the program from its start to its end. Beside what came of it: processes that run on
    /// and are recorded on, where the command can end before this process does.
    ///
    /// # Errors
    ///
    /// The program cannot be started. Later nothing is in the way: it runs on.
    pub fn record(self) -> Result<(Recorded, Option<Behind>), Refused> {
        let Prepared { options, program, folder, library, mut signals } = self;
        let (scheduling, says) = watch(&options);
        let mut notes = options.notes.clone();
        notes.push(("kernel".into(), says));
        let mut drains = Drains::new(folder.path(), &options.output, notes, scheduling);
        let began = Instant::now();
        let mut child = start(&program, &options, &folder, &library)?;
        let status = loop {
            drains.step();
            signals.pass_on(&child);
            match child.try_wait() {
                Ok(None) => drains.sleep(),
                Ok(Some(status)) => break status,
                // Somebody else has taken its status: nothing more is known.
                Err(_) => break ExitStatus::from_raw(0),
            }
        };
        let took = began.elapsed();
        let ended = match status.signal() {
            Some(signal) => Ended::Signal(signal),
            None => Ended::Status(status.code().unwrap_or(0) as u8),
        };
        drains.look_now();
        drains.step();
        let mut seen = Instant::now();
        while options.wait && seen.elapsed() < YOUNG {
            if drains.running() + drains.expected() > 0 {
                seen = Instant::now();
            }
            drains.sleep();
            drains.step();
        }
        let left = still_there(&mut drains);
        let goes_on = left > 0 && signals.is_back();
        let (left, (traces, refused), behind) = if goes_on {
            (0, drains.take_ended(), Some(Behind { drains, signals, folder, library }))
        } else {
            (left, drains.finish(), None)
        };
        let (own_cpu, program_cpu) = (cost::own(), cost::of_children());
        Ok((Recorded { ended, took, traces, refused, left, own_cpu, program_cpu }, behind))
    }
}

/// Whether another command has put the recorder into this process.
fn is_recorded() -> bool {
    let maps = fs::read("/proc/self/maps").unwrap_or_default();
    String::from_utf8_lossy(&maps).contains(&format!("/{}", library::NAME))
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
/// moment. Children that are about to begin are waited for.
fn still_there(drains: &mut Drains) -> usize {
    let until = Instant::now() + Duration::from_millis(300);
    // Their announcements go when they have begun: who was between the two is found now.
    drains.step();
    while drains.expected() > 0 || drains.running() > 0 && Instant::now() < until {
        drains.sleep();
        drains.step();
    }
    drains.running()
}

/// Tries the output before the program runs. A trace is overwritten, and no other file.
fn prepare_output(path: &Path) -> io::Result<()> {
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    let about = file.metadata()?;
    if about.is_file() && about.len() > 0 {
        let mut magic = [0u8; wire::MAGIC.len()];
        if file.read_exact(&mut magic).is_err() || magic != wire::MAGIC {
            let what = "it is there, is no trace, and is not overwritten";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        file.set_len(0)?;
    }
    Ok(())
}

/// Starts the program. As `execvp` does, what the kernel knows no way to run is given to a shell.
fn start(
    program: &Path,
    options: &Options,
    folder: &Folder,
    library: &Library,
) -> Result<Child, Refused> {
    let mut command = Command::new(program);
    command.arg0(&options.program).args(&options.arguments);
    arrange(&mut command, options, folder, library);
    match command.spawn() {
        Err(e) if e.raw_os_error() == Some(check::ENOEXEC) => {
            let shell = check::program(SHELL.as_ref())?;
            let mut command = Command::new(&shell);
            command.arg(program).args(&options.arguments);
            arrange(&mut command, options, folder, library);
            command.spawn().map_err(|e| Refused::Start(shell, e))
        }
        started => started.map_err(|e| Refused::Start(program.into(), e)),
    }
}

fn arrange(command: &mut Command, options: &Options, folder: &Folder, library: &Library) {
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
    command.env_remove(front::VARIABLE);
    let ignored = [SIGCHLD, SIGPIPE].into_iter().filter(|signal| signals::was_ignored(*signal));
    let ignored: Vec<String> = ignored.map(|signal| signal.to_string()).collect();
    if !ignored.is_empty() {
        command.env(IGNORED, ignored.join(","));
    }
    command.env(PRELOAD, preload).env(DIR, folder.path()).env(OPTIONS, settings);
}
