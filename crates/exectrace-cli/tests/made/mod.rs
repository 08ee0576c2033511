//! Traces made by hand, byte by byte where it matters, and the command run on them.

#![allow(dead_code)] // Each test file uses a part of it.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use trace::encode::crc::crc32c;
use trace::encode::field::Writer;
use trace::encode::field::ty;
use trace::encode::schema;
use trace::encode::wire::CRC_AT;
use trace::encode::wire::HEADER_BYTES;
use trace::encode::wire::Header;
use trace::encode::wire::VERSION;

/// Scaled ticks at the session's start. One tick is a nanosecond.
pub const START: u64 = 5_000_000;

/// Wall clock at the session's start: 2001-09-09T01:46:40.123456789Z.
pub const WALL_NS: u64 = 1_000_000_000_123_456_789;

/// The body of a batch.
#[derive(Default)]
pub struct Body {
    bytes: Vec<u8>,
    count: u32,
}

impl Body {
    /// Adds one event.
    pub fn add(&mut self, write: impl FnOnce(&mut Writer<'_>) -> Option<()>) -> &mut Body {
        let mut room = vec![0; 60_000];
        let mut writer = Writer::new(&mut room);
        write(&mut writer).expect("room for an event");
        let len = writer.len();
        self.bytes.extend_from_slice(&room[..len]);
        self.count += 1;
        self
    }

    /// Adds a timed event whose kind only the trace describes; `fields` writes its fields.
    pub fn site(
        &mut self,
        kind: u64,
        delta: u64,
        fields: impl FnOnce(&mut Writer<'_>) -> Option<()>,
    ) -> &mut Body {
        self.add(|w| {
            w.varint(kind)?;
            fields(w)?;
            w.varint(delta)
        })
    }
}

/// A trace in the making.
#[derive(Default)]
pub struct Made {
    pub bytes: Vec<u8>,
    session: u64,
    sequences: HashMap<(u32, u8), u32>,
    /// Timed events so far.
    pub events: u64,
    pub batches: u64,
}

impl Made {
    /// A trace with the first batch of a session.
    pub fn session(id: u64) -> Made {
        let mut made = Made { session: id, ..Made::default() };
        made.begin("/bin/prog");
        made
    }

    fn begin(&mut self, program: &str) {
        self.structural(1, |b| {
            b.add(|w| {
                let rate = 1_000_000_000;
                let (clock, mode) = (schema::CLOCK_TSC, schema::MODE_MEMBARRIER);
                schema::Session::put(
                    w,
                    1,
                    "exectrace 0.1.0".into(),
                    2,
                    rate,
                    clock,
                    START,
                    4242,
                    program.into(),
                    "x86_64".into(),
                    mode,
                )
            });
            for spec in schema::SPECS {
                b.add(|w| {
                    let kind = spec.kind as u64;
                    let (phase, pair) = (spec.phase.code(), spec.phase.pair());
                    schema::Schema::put(w, kind, spec.name.into(), phase, pair.into(), spec.fields)
                });
            }
        });
        self.structural(4, |b| {
            b.add(|w| schema::ClockSnapshot::put(w, START, 77_000, WALL_NS, 88_000, 12));
        });
    }

    /// Adds a batch of structural events.
    pub fn structural(&mut self, kind: u8, fill: impl FnOnce(&mut Body)) -> &mut Made {
        let mut body = Body::default();
        fill(&mut body);
        self.batch(kind, 0, 0, START, START, &body);
        self
    }

    /// Adds a batch of timed events of a thread; the first one's delta counts from `first_ns`.
    pub fn timed(
        &mut self,
        thread: u32,
        lane: u8,
        first_ns: u64,
        fill: impl FnOnce(&mut Body),
    ) -> &mut Made {
        let mut body = Body::default();
        fill(&mut body);
        self.events += u64::from(body.count);
        let first = START + first_ns;
        self.batch(3, thread, lane, first, first + 1_000_000_000, &body);
        self
    }

    fn batch(&mut self, kind: u8, thread: u32, lane: u8, first: u64, last: u64, body: &Body) {
        let sequence = self.sequences.entry((thread, lane)).or_default();
        let header = Header {
            length: (HEADER_BYTES + body.bytes.len()) as u32,
            kind,
            lane,
            version: VERSION,
            crc: 0,
            session: self.session,
            epoch: 1,
            generation: 1,
            thread,
            sequence: *sequence,
            first_ticks: first,
            last_ticks: last,
            count: body.count,
            flags: 0,
        };
        *sequence += 1;
        self.batches += 1;
        let from = self.bytes.len();
        self.bytes.extend_from_slice(&header.to_bytes());
        self.bytes.extend_from_slice(&body.bytes);
        seal(&mut self.bytes[from..]);
    }

    /// Ends the generation and the session, with its true counts.
    pub fn end(&mut self, at_ns: u64, threads: u64) -> &mut Made {
        let (events, batches) = (self.events, self.batches + 1);
        self.structural(4, |b| {
            b.add(|w| schema::GenerationEnd::put(w, 1, START + at_ns, &[]));
            b.add(|w| {
                let at = START + at_ns;
                let reason = schema::END_STOP;
                schema::End::put(w, at, events, 0, threads, 1, batches, 18_200, reason)
            });
        })
    }
}

/// Writes the CRC into a batch.
pub fn seal(batch: &mut [u8]) {
    batch[CRC_AT..CRC_AT + 4].fill(0);
    let crc = crc32c(batch);
    batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Kind of the span `read_file` with the fields `path` and `size`.
pub const SPAN: u64 = 64;
/// Kind of the log of the category `http` with a stack.
pub const LOG: u64 = 65;
/// Kind of the counter `queued`.
pub const COUNTER: u64 = 66;
/// Kind of the task `request`.
pub const TASK: u64 = 67;
/// Kind of the instant `tick` with a number of each type.
pub const INSTANT: u64 = 68;

/// Defines sites and two threads. `stack` is the stack 7.
pub fn define(made: &mut Made, stack: &[u64]) {
    let strings = ["read_file", "http", "queued", "request", "tick", "prog::main", "src/main.rs"];
    made.structural(2, |b| {
        for (i, text) in strings.iter().enumerate() {
            b.add(|w| schema::String::put(w, i as u64 + 1, (*text).into()));
        }
        b.add(|w| schema::Stack::put(w, 7, 0, stack));
        let mut site = |kind, class, flags, name, fields: &[(&str, u64)]| {
            b.add(|w| schema::Site::put(w, kind, class, flags, name, 6, 7, 10, fields));
        };
        site(SPAN, 4, 0, 1, &[("path", ty::TEXT), ("size", ty::U64)]);
        site(LOG, 3, 1, 2, &[("text", ty::TEXT), ("stack", ty::STACK)]);
        site(COUNTER, 2, 0, 3, &[("value", ty::I64)]);
        site(TASK, 5, 0, 4, &[("task", ty::TASK), ("parent", ty::TASK)]);
        site(INSTANT, 1, 0, 5, &[("ratio", ty::F64), ("ok", ty::BOOL), ("kind", ty::STRING)]);
        b.add(|w| {
            let (name, function) = ("main".into(), "prog::main".into());
            schema::Thread::put(w, 1, 4242, 0, name, function, 0, START)
        });
        b.add(|w| {
            let (name, function) = ("worker".into(), "prog::work".into());
            schema::Thread::put(w, 2, 4243, 1, name, function, 0, START + 1_500_000)
        });
    });
}

/// A complete trace with an event of every sort, of two threads.
pub fn whole() -> Made {
    let mut made = Made::session(0x1122_3344);
    define(&mut made, &[0x1000, 0x2000]);
    made.timed(1, 0, 1_000_000, |b| {
        b.add(|w| schema::ThreadStart::put(w, 0));
        b.add(|w| schema::ThreadCreate::put(w, 250_000, 2, 0));
        b.site(SPAN, 1_000_000, |w| {
            w.text("a b.txt".into())?;
            w.varint(300)
        });
        b.site(LOG, 500_000, |w| {
            w.text("got \"it\"".into())?;
            w.varint(7)
        });
        b.add(|w| schema::SpanEnd::put(w, 250_000));
    });
    made.timed(2, 0, 1_500_000, |b| {
        b.add(|w| schema::ThreadStart::put(w, 0));
        b.site(TASK, 100_000, |w| {
            w.varint(5)?;
            w.varint(0)
        });
        b.add(|w| schema::TaskSwitch::put(w, 100_000, 5));
        b.site(COUNTER, 100_000, |w| {
            w.varint(5) // zigzag of -3
        });
        b.site(INSTANT, 100_000, |w| {
            w.bytes(&0.5f64.to_le_bytes())?;
            w.varint(1)?;
            w.varint(1)
        });
        b.add(|w| schema::TaskEnd::put(w, 100_000, 5));
        b.add(|w| schema::ThreadEnd::put(w, 1_500_000));
    });
    made.end(4_000_000, 2);
    made
}

/// A file that goes away with the test.
pub struct File(pub PathBuf);

impl File {
    pub fn new(name: &str, bytes: &[u8]) -> File {
        let name = format!("exectrace-cli-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        File(path)
    }

    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What a run of the command gave.
#[derive(Debug)]
pub struct Ran {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    fn of(output: Output) -> Ran {
        for bytes in [&output.stdout, &output.stderr] {
            assert_no_command_of_a_terminal(bytes);
        }
        Ran {
            status: output.status.code().expect("the command was not killed"),
            out: String::from_utf8(output.stdout).expect("output is UTF-8"),
            err: String::from_utf8(output.stderr).expect("errors are UTF-8"),
        }
    }

    /// Output of a run that found the trace complete and had nothing to say.
    pub fn complete(self) -> String {
        assert_eq!((self.status, self.err.as_str()), (0, ""), "{}", self.out);
        self.out
    }
}

fn assert_no_command_of_a_terminal(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for c in text.chars() {
        let bidi = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}')
            || matches!(c, '\u{2066}'..='\u{2069}');
        assert!(c == '\n' || !(c.is_control() || bidi), "{c:?} in {text:?}");
    }
}

pub fn exectrace() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_exectrace"));
    command.env_remove("NO_COLOR").env_remove("COLUMNS").stdin(Stdio::null());
    command
}

/// Runs the command on a trace with a terminal's width.
pub fn run_wide(bytes: &[u8], name: &str, columns: u32, args: &[&str]) -> Ran {
    let file = File::new(name, bytes);
    let output = exectrace().args(args).arg(&file.0).env("COLUMNS", columns.to_string()).output();
    let mut ran = Ran::of(output.unwrap());
    ran.out = ran.out.replace(file.path(), "FILE");
    ran.err = ran.err.replace(file.path(), "FILE");
    ran
}

pub fn run(args: &[&str]) -> Ran {
    Ran::of(exectrace().args(args).output().unwrap())
}

pub fn run_on(bytes: &[u8], name: &str, args: &[&str]) -> Ran {
    let file = File::new(name, bytes);
    let mut all = args.to_vec();
    all.push(file.path());
    let mut ran = run(&all);
    // The name of the file is the only thing that differs from run to run.
    ran.out = ran.out.replace(file.path(), "FILE");
    ran.err = ran.err.replace(file.path(), "FILE");
    ran
}

pub fn run_with_input(bytes: &[u8], args: &[&str]) -> Ran {
    let mut child = exectrace()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    // The command may have seen enough before it has read everything.
    let feeder = std::thread::spawn(move || drop(input.write_all(&bytes)));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    Ran::of(output)
}

/// The lines of JSON output.
pub fn json_lines(out: &str) -> Vec<serde_json::Value> {
    out.lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect()
}
