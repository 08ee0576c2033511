//! What the tests share: the library, built once; programs that run under it; their traces, drained
//! from outside as `exectrace record` does, and decoded.

#![allow(dead_code)] // Each test binary uses its part.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use trace::encode::op::Op;
use trace::encode::schema;
use trace::outside::Drain;
use trace::outside::DrainOptions;
use trace::outside::Drained;
use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Timed;
use trace_decode::Value;

#[path = "../../build-support/nested.rs"]
mod nested;

/// Where tests of this crate put what they make.
fn target() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// The library, built at the first call. A build that fails is a failure of the test.
pub fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        nested::build(&root, &target().join("preload")).expect("the library")
    })
}

/// A file of its own for each call: a program that runs cannot be written to.
fn made(name: &str) -> PathBuf {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let n = MADE.fetch_add(1, Relaxed);
    target().join(format!("{name}-{}-{n}", std::process::id()))
}

/// A C program of `tests/programs`, compiled; `None` where there is no compiler.
pub fn compiled(name: &str, flags: &[&str]) -> Option<PathBuf> {
    let kept = ["-O1", "-fno-omit-frame-pointer"];
    compiled_as(name, &[&kept, flags].concat())
}

/// The same with no flags but these.
pub fn compiled_as(name: &str, flags: &[&str]) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name);
    let program = made(name);
    let mut cc = Command::new("cc");
    cc.args(["-pthread", "-o"]).arg(&program).arg(source);
    match cc.args(flags).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{text}");
            Some(program)
        }
        Err(e) => {
            println!("skipped: no C compiler: {e}");
            None
        }
    }
}

/// A Rust program of `tests/programs`, compiled by the compiler that is on the path.
pub fn compiled_rust(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name);
    let program = made(name);
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition=2024", "-O", "-Cforce-frame-pointers=yes", "-o"]).arg(&program);
    let output = rustc.arg(source).output().expect("rustc");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

/// A folder on tmpfs, removed with everything in it.
pub struct Folder(pub PathBuf);

impl Folder {
    /// A new one; `None` where there is no tmpfs.
    pub fn new(name: &str) -> Option<Folder> {
        let path = PathBuf::from(format!("/dev/shm/exectrace-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        match fs::create_dir(&path) {
            Ok(()) => Some(Folder(path)),
            Err(e) => {
                println!("skipped: no tmpfs at /dev/shm: {e}");
                None
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a program did.
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    /// One for each program of each process, in the order in which they were found.
    pub traces: Vec<Trace>,
    /// Why processes were refused.
    pub refused: Vec<String>,
}

/// Has the library loaded into what `command` starts.
pub fn preload(command: &mut Command, dir: &Path, options: &str) {
    command.env("LD_PRELOAD", library());
    command.env("EXECTRACE_PRELOAD_DIR", dir);
    command.env("EXECTRACE_PRELOAD_OPTIONS", options);
}

/// Runs a command under the library; `None` where there is no tmpfs.
pub fn run(name: &str, mut command: Command, options: &str) -> Option<Ran> {
    let folder = Folder::new(name)?;
    preload(&mut command, &folder.0, options);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let text = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            from.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let stdout = text(Box::new(child.stdout.take().unwrap()));
    let stderr = text(Box::new(child.stderr.take().unwrap()));
    let traces = drain_all(&folder.0, &mut child);
    let status = child.wait().unwrap();
    let names = fs::read_dir(&folder.0).unwrap().map(|e| e.unwrap().path());
    let refused = names.filter(|p| p.to_string_lossy().contains("refused."));
    let refused = refused.map(|p| fs::read_to_string(p).unwrap()).collect();
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    Some(Ran { status, stdout, stderr, traces, refused })
}

/// Drains every mapping that appears in `dir` until the child has ended and all are at their end.
fn drain_all(dir: &Path, child: &mut Child) -> Vec<Trace> {
    let mut seen = BTreeSet::new();
    let mut drains: Vec<(Drain, Vec<u8>)> = Vec::new();
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let over = child.try_wait().unwrap().is_some();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy();
            if seen.contains(&path) || name.starts_with("refused.") || name.starts_with("young-") {
                continue;
            }
            if let Some(mut drain) = Drain::adopt(&path, &DrainOptions::default()).unwrap() {
                drain.open(&[("drained", "by a test")]);
                drains.push((drain, Vec::new()));
                seen.insert(path);
            }
        }
        for (drain, bytes) in &mut drains {
            take(drain, bytes);
        }
        if over {
            break;
        }
        if Instant::now() > until {
            let _ = child.kill();
            panic!("the program hangs");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    for (drain, bytes) in &mut drains {
        let summary = drain.finish(schema::END_EXIT);
        take(drain, bytes);
        assert_eq!(summary.lost, 0, "{summary:?}");
    }
    drains.iter().map(|(d, bytes)| Trace::new(d.pid(), bytes)).collect()
}

fn take(drain: &mut Drain, bytes: &mut Vec<u8>) {
    while let Drained::Batch(batch) = drain.take() {
        bytes.extend_from_slice(&batch);
    }
}

/// A `Wait` or `Wake`.
#[derive(Clone, Debug)]
pub struct Event {
    pub thread: u32,
    pub op: Op,
    pub object: u64,
    /// Of a wake how many it woke.
    pub result: u64,
    pub error: u64,
    pub stack: Vec<u64>,
    /// How it was walked.
    pub stack_flags: u64,
    /// Where the library's own frames end, or none: the module of each frame.
    pub modules: Vec<String>,
    pub ts_ns: u64,
}

/// A thread of a trace.
#[derive(Clone, Debug)]
pub struct Thread {
    pub number: u64,
    pub creator: u64,
    pub entry: u64,
    pub tid: u64,
    pub function: String,
}

/// What the program said of itself: an event of a site, or one that ends or changes such a thing.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    pub thread: u32,
    /// The class of a site, else the kind of event.
    pub what: String,
    /// Of the site; of the end of a span, of that.
    pub name: String,
    /// Names and values of the fields, but for the stack.
    pub fields: Vec<(String, String)>,
    /// The modules of the frames of its stack.
    pub modules: Vec<String>,
}

impl Said {
    /// The field with this name.
    pub fn field(&self, name: &str) -> &str {
        let field = self.fields.iter().find(|(n, _)| n == name);
        field.map_or_else(|| panic!("{name}: {self:?}"), |(_, v)| v)
    }
}

/// What stands in a trace.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    pub pid: u32,
    pub waits: Vec<Event>,
    pub wakes: Vec<Event>,
    /// Descriptors with their texts.
    pub descriptors: Vec<(u64, String)>,
    /// Steps of processes: step, pid, text.
    pub processes: Vec<(u64, u64, String)>,
    pub threads: Vec<Thread>,
    /// What the program said of itself, in the order of time.
    pub said: Vec<Said>,
    /// Facts for people: names and texts.
    pub notes: Vec<(String, String)>,
    /// How often each kind of event stands in it.
    pub kinds: BTreeMap<String, u64>,
    /// What threads were waiting for at the end.
    pub blocked: Vec<(u64, u64)>,
    /// The voluntary switches of each thread that has ended.
    pub voluntary: BTreeMap<u32, u64>,
}

fn number(e: &Timed<'_>, field: &str) -> u64 {
    match e.fields().find(|(name, _)| *name == field.as_bytes()) {
        Some((_, Value::U64(v) | Value::Stack(v) | Value::Nanos(v) | Value::Thread(v))) => v,
        other => panic!("{field}: {other:?}"),
    }
}

fn text(e: &Timed<'_>) -> String {
    let text = e.fields().find_map(|(_, v)| match v {
        Value::Text(t) => Some(String::from_utf8_lossy(t.bytes).into_owned()),
        _ => None,
    });
    text.unwrap_or_default()
}

/// The frames of a stack, and the modules that they are in.
fn stack_of(e: &Timed<'_>, id: u64) -> (Vec<u64>, Vec<String>) {
    let stack: Vec<u64> = e.tables().stack(id).map_or(Vec::new(), |s| s.frames().collect());
    let modules = stack.iter().map(|a| {
        let path = e.tables().module_of(*a).map(|m| m.path.clone()).unwrap_or_default();
        String::from_utf8_lossy(&path).into_owned()
    });
    let modules = modules.collect();
    (stack, modules)
}

fn said_by(e: &Timed<'_>, what: String) -> Said {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut modules = Vec::new();
    let fields = e.fields().filter_map(|(name, value)| {
        let value = match value {
            Value::U64(v) | Value::Task(v) => v.to_string(),
            Value::I64(v) => v.to_string(),
            Value::F64(v) => v.to_string(),
            Value::Bool(v) => v.to_string(),
            Value::Text(v) => lossy(v.bytes),
            Value::Stack(id) => {
                modules = stack_of(e, id).1;
                return None;
            }
            other => panic!("{other:?}"),
        };
        Some((lossy(name), value))
    });
    let fields = fields.collect();
    let name = e.name().map(|n| lossy(n.bytes)).unwrap_or_default();
    Said { thread: e.thread, what, name, fields, modules }
}

impl Trace {
    /// The trace of these bytes.
    pub fn new(pid: u32, bytes: &[u8]) -> Trace {
        let mut t = Trace { pid, ..Trace::default() };
        let mut decoder = Decoder::new();
        decoder.push(bytes);
        decoder.finish();
        let mut ended = false;
        while let Some(item) = decoder.next_item().expect("a trace") {
            match item {
                Item::Event(e) => t.add(&e),
                Item::Damage(d) => panic!("{d}"),
                Item::SessionEnd(s) => {
                    ended = s.end().is_some();
                    t.threads = s
                        .threads()
                        .map(|t| Thread {
                            number: t.number,
                            creator: t.creator,
                            entry: t.entry,
                            tid: t.tid,
                            function: String::from_utf8_lossy(&t.function).into_owned(),
                        })
                        .collect();
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    t.notes = s.notes().map(|(n, v)| (text(n), text(v))).collect();
                    t.blocked = s.blocked().iter().map(|b| (b.op, b.object)).collect();
                }
                _ => {}
            }
        }
        assert!(ended, "the trace of {pid} has no end");
        t
    }

    fn add(&mut self, e: &Timed<'_>) {
        let name = String::from_utf8_lossy(e.kind_name().bytes).into_owned();
        *self.kinds.entry(name.clone()).or_default() += 1;
        match name.as_str() {
            "Wait" => {
                let event = self.event(e, number(e, "result"), number(e, "error"));
                self.waits.push(event);
            }
            "Wake" => {
                let event = self.event(e, number(e, "woken"), 0);
                self.wakes.push(event);
            }
            "Descriptor" => self.descriptors.push((number(e, "fd"), text(e))),
            "Process" => self.processes.push((number(e, "step"), number(e, "pid"), text(e))),
            "Usage" => {
                self.voluntary.insert(e.thread, number(e, "voluntary"));
            }
            "SpanEnd" | "SpanEndAt" | "TaskEnd" | "TaskSwitch" => self.said.push(said_by(e, name)),
            _ if e.site().is_some() => self.said.push(said_by(e, name)),
            _ => {}
        }
    }

    fn event(&self, e: &Timed<'_>, result: u64, error: u64) -> Event {
        let id = number(e, "stack");
        let stack_flags = e.tables().stack(id).map_or(0, |s| s.flags);
        let (stack, modules) = stack_of(e, id);
        Event {
            thread: e.thread,
            op: Op::from_u64(number(e, "op")).expect("a call of the table"),
            object: number(e, "object"),
            result,
            error,
            modules,
            stack,
            stack_flags,
            ts_ns: e.ts_ns,
        }
    }

    /// The waits of a call.
    pub fn waits(&self, op: Op) -> Vec<&Event> {
        self.waits.iter().filter(|w| w.op == op).collect()
    }

    /// The wakes of a call.
    pub fn wakes(&self, op: Op) -> Vec<&Event> {
        self.wakes.iter().filter(|w| w.op == op).collect()
    }
}

impl Event {
    /// The first module above the library: that of the direct caller.
    pub fn caller(&self) -> &str {
        let own = |m: &&String| !m.contains("libexectrace_preload");
        self.modules.iter().find(own).map_or("", String::as_str)
    }
}

/// The numbers that a program printed behind this name, one line each.
pub fn said(ran: &Ran, name: &str) -> Vec<u64> {
    let of = |line: &str| {
        let rest = line.strip_prefix(name)?.strip_prefix(' ')?;
        rest.trim().parse::<u64>().ok()
    };
    ran.stdout.lines().filter_map(of).collect()
}

/// The same command without the library says and returns the same, but for lines that begin so.
pub fn same_without(ran: &Ran, mut command: Command, changing: &[&str]) {
    let plain = command.output().unwrap();
    let lines = |text: &str| -> Vec<String> {
        let same = |l: &&str| !changing.iter().any(|c| l.starts_with(c));
        text.lines().filter(same).map(str::to_owned).collect()
    };
    assert_eq!(ran.status.code(), plain.status.code());
    assert_eq!(lines(&ran.stdout), lines(&String::from_utf8_lossy(&plain.stdout)));
    assert_eq!(ran.stderr, String::from_utf8_lossy(&plain.stderr));
    assert!(!ran.stdout.is_empty());
}
