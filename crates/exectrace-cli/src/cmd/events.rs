//! `exectrace events`: what happened, in the order of time.

use std::borrow::Cow;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::rc::Rc;

use clap::Args;
use serde::Serialize;
use serde::Serializer;
use serde::ser::SerializeMap;
use trace::encode::field::Text;
use trace::encode::op::Object;
use trace::encode::op::Op;
use trace::encode::schema::Class;
use trace::encode::wire::LANE_KERNEL;
use trace::encode::wire::LANE_MAIN;
use trace_decode::Event;
use trace_decode::Item;
use trace_decode::Session;
use trace_decode::Timed;
use trace_decode::Value;

use crate::args::Common;
use crate::args::Symbols;
use crate::cmd;
use crate::cmd::Keep;
use crate::failure::Failure;
use crate::filter;
use crate::filter::Pattern;
use crate::filter::Window;
use crate::input::Input;
use crate::json;
use crate::kinds::is_kind;
use crate::kinds::kind_name;
use crate::kinds::site_of;
use crate::kinds::task_of;
use crate::memory;
use crate::output::Out;
use crate::output::Style;
use crate::output::push_safe;
use crate::stacks::Stack;
use crate::stacks::Stacks;
use crate::stacks::print_calls;
use crate::time;
use crate::value;
use crate::value::Json;
use crate::verdict::Verdict;

/// Widest indentation by depth: deeper spans stand under each other.
const INDENT_MAX: u32 = 12;

/// Width of the column of threads; longer names push the line to the right.
const THREAD_WIDTH: usize = 16;

/// Width of the column of kinds: the longest static one.
const KIND_WIDTH: usize = 12;

/// Keys of a line that are not an event's own.
const FIXED: &[&str] = &[
    "ts_ns",
    "session",
    "thread",
    "tid",
    "lane",
    "late",
    "kind",
    "name",
    "task",
    "depth",
    "duration_ns",
    "fields",
    "cut",
    "stack",
    "stack_truncated",
    "stack_lost",
];

const HELP: &str = "\
Each JSON line has ts_ns (since the session's start), session, thread (the trace's number), tid
(the kernel's), kind and name, and where they are known task, depth, duration_ns (of what ends),
fields, stack (a list of {function, file, line}, innermost first). An event's own fields stand at
the top level as well where their names are free.

Examples:
  exectrace events trace.bin | head -50
  exectrace events --kind SpanEnd --thread 3 --limit 10 trace.bin
  exectrace events --kind span:read_file --stacks trace.bin
  exectrace events --json trace.bin | jq -c 'select(.duration_ns > 1e6) | [.name, .duration_ns]'";

/// What to print.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Only events of this thread, by its number in the trace (may be repeated)
    #[arg(long, value_name = "N")]
    thread: Vec<u32>,
    /// Only events of this kind: SpanEnd, log, span:read_file (may be repeated)
    #[arg(long, value_name = "NAME")]
    kind: Vec<String>,
    /// Only events of this name: of a site, of the span that ends, a log's category; * and ? stand
    /// for other characters (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    name: Vec<Pattern>,
    /// Only events of the task with this id (may be repeated)
    #[arg(long, value_name = "ID")]
    task: Vec<u64>,
    #[command(flatten)]
    window: Window,
    /// Stop after so many events
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print stacks below their events (JSON has them always)
    #[arg(long)]
    stacks: bool,
    /// Keep the recorder's own functions in stacks
    #[arg(long)]
    all_frames: bool,
    #[command(flatten)]
    symbols: Symbols,
}

/// Runs the command.
pub fn run(options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    options.window.check()?;
    let mut input = Input::open(&options.common.file)?;
    let mut verdict = Verdict::new(input.name());
    let mut printer = Printer {
        options,
        stacks: Stacks::new(&options.symbols, options.all_frames),
        session: 0,
        headed: true,
        printed: 0,
        line: String::new(),
        bytes: Vec::new(),
    };
    if options.limit == Some(0) {
        return Ok(verdict);
    }
    cmd::merged(
        &mut input,
        &mut verdict,
        out,
        Keep::stacks(options.stacks || options.common.json),
        |item, out| printer.item(item, out),
    )?;
    Ok(verdict)
}

struct Printer<'o> {
    options: &'o Options,
    stacks: Stacks,
    /// Number of the session, from 1.
    session: usize,
    /// Whether the heading of the session was printed.
    headed: bool,
    printed: u64,
    line: String,
    bytes: Vec<u8>,
}

impl Printer<'_> {
    fn item(&mut self, item: &Item<'_>, out: &mut Out) -> Result<ControlFlow<()>, Failure> {
        match item {
            Item::SessionBegin(_) => {
                self.session += 1;
                self.headed = self.options.common.json;
            }
            // What the recorder says of the session comes behind its beginning.
            Item::SessionEnd(session) => self.heading(session, out)?,
            Item::Event(event) if self.is_wanted(event) => {
                match self.options.common.json {
                    true => self.json(event, out)?,
                    false => {
                        self.heading(event.session(), out)?;
                        self.text(event, out)?;
                    }
                }
                self.printed += 1;
                if self.options.limit.is_some_and(|limit| self.printed >= limit) {
                    return Ok(ControlFlow::Break(()));
                }
            }
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    }

    fn is_wanted(&self, event: &Timed<'_>) -> bool {
        let options = self.options;
        let thread = options.thread.is_empty() || options.thread.contains(&event.thread);
        let kind = || options.kind.is_empty() || options.kind.iter().any(|k| is_kind(event, k));
        let name = || filter::is_named(&options.name, event.name().map(|name| name.bytes));
        let task = || options.task.is_empty() || options.task.contains(&task_of(event));
        options.window.holds(event.ts_ns) && thread && kind() && name() && task()
    }

    fn heading(&mut self, session: &Session, out: &mut Out) -> Result<(), Failure> {
        if std::mem::replace(&mut self.headed, true) {
            return Ok(());
        }
        self.line.clear();
        if self.session > 1 {
            self.line.push('\n');
        }
        let _ = write!(self.line, "session {}", self.session);
        if let Some(info) = session.info() {
            self.line.push_str(": ");
            push_safe(&info.program, &mut self.line);
            let _ = write!(self.line, ", pid {}", info.pid);
        }
        let (time, thread, kind) = ("ms", "thread", "kind");
        let _ = write!(
            self.line,
            "\n{time:>13}  {thread:<THREAD_WIDTH$}  {kind:<KIND_WIDTH$} name and fields"
        );
        out.styled(Style::Dim, &self.line)?;
        out.text("\n")
    }

    fn text(&mut self, event: &Timed<'_>, out: &mut Out) -> Result<(), Failure> {
        let line = &mut self.line;
        line.clear();
        let _ = write!(line, "{:>13}  ", time::ms(event.ts_ns));
        let from = line.len();
        let _ = write!(line, "T{}", event.thread);
        if let Some(known) = event.session().thread(u64::from(event.thread))
            && !known.name.is_empty()
        {
            line.push(' ');
            push_safe(&known.name, line);
        }
        pad(line, from, THREAD_WIDTH);
        line.push_str("  ");
        out.begin(Style::Dim, line);
        let from = line.len();
        push_safe(kind_name(event).as_bytes(), line);
        pad(line, from, KIND_WIDTH);
        out.end(Style::Dim, line);
        line.push(' ');
        for _ in 0..depth(event).unwrap_or(event.depth).min(INDENT_MAX) {
            line.push_str("  ");
        }
        if let Some(name) = event.name() {
            out.begin(Style::Strong, line);
            push_safe(name.bytes, line);
            out.end(Style::Strong, line);
            line.push(' ');
        }
        push_rest(line, event);
        line.truncate(line.trim_end_matches(' ').len());
        line.push('\n');
        out.text(line)?;
        if self.options.stacks
            && let Some(id) = event.stack()
        {
            self.stack_text(event, id, out)?;
        }
        Ok(())
    }

    fn stack_text(&mut self, event: &Timed<'_>, id: u64, out: &mut Out) -> Result<(), Failure> {
        let Some(stack) = self.stacks.get(self.session, event.tables(), id, site_of(event)) else {
            return out.styled(Style::Dim, "                 (no stack was kept)\n");
        };
        print_calls(&stack, self.options.all_frames, 17, out)
    }

    fn json(&mut self, event: &Timed<'_>, out: &mut Out) -> Result<(), Failure> {
        let stack: Option<Option<Rc<Stack>>> = event
            .stack()
            .map(|id| self.stacks.get(self.session, event.tables(), id, site_of(event)));
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        json::object(&mut bytes, |o| {
            o.put("ts_ns", event.ts_ns);
            o.put("session", self.session);
            o.put("thread", event.thread);
            let thread = event.session().thread(u64::from(event.thread));
            o.put("tid", thread.map(|t| t.tid).filter(|tid| *tid != 0));
            o.put("kind", kind_name(event));
            o.put("name", event.name().map(json::text));
            if event.task != 0 {
                o.put("task", event.task);
            }
            if let Some(lane) = lane(event) {
                o.put("lane", lane);
            }
            if event.late {
                o.put("late", true);
            }
            if let Some(depth) = depth(event) {
                o.put("depth", depth);
            }
            if let Some(ns) = event.duration_ns() {
                o.put("duration_ns", ns);
            }
            put_fields(o, event);
            match &stack {
                Some(Some(stack)) => {
                    o.put("stack", &stack.json);
                    if stack.truncated {
                        o.put("stack_truncated", true);
                    }
                    if stack.lost {
                        o.put("stack_lost", true);
                    }
                }
                // It has a stack, which could not be kept.
                Some(None) => o.put("stack", ()),
                None => {}
            }
        });
        bytes.push(b'\n');
        let written = out.bytes(&bytes);
        self.bytes = bytes;
        written
    }
}

/// Which lane, where it is not the main one.
fn lane(event: &Timed<'_>) -> Option<&'static str> {
    match event.lane {
        LANE_MAIN => None,
        LANE_KERNEL => Some("kernel"),
        _ => Some("side"),
    }
}

/// How many spans of its lane are around the one that begins or ends here.
fn depth(event: &Timed<'_>) -> Option<u32> {
    match &event.event() {
        Event::Site(site) if site.site.class() == Some(Class::Span) => Some(event.depth),
        Event::SpanEnd(_) => Some(event.depth.saturating_sub(1)),
        Event::SpanEndAt(end) => Some(u32::try_from(end.depth).unwrap_or(u32::MAX)),
        _ => None,
    }
}

/// Adds the event's own fields, as an object and, where their names are free, beside it.
fn put_fields(o: &mut json::Entries<'_, '_>, event: &Timed<'_>) {
    let (session, tables) = (event.session(), event.tables());
    let mut fields: Vec<(Cow<'_, str>, Json<'_>)> = Vec::new();
    let mut cut: Vec<(Cow<'_, str>, u64)> = Vec::new();
    for (name, value) in event.fields() {
        let name = json::lossy(name);
        // Of two fields of one name the first counts: JSON has no place for both.
        if matches!(value, Value::Stack(_)) || fields.iter().any(|(n, _)| *n == name) {
            continue;
        }
        if let Value::Text(Text { cut_from: Some(length), .. })
        | Value::Bytes(Text { cut_from: Some(length), .. }) = value
        {
            cut.push((name.clone(), length));
        }
        fields.push((name, Json { value, session, tables }));
    }
    if fields.is_empty() {
        return;
    }
    o.put("fields", Map(&fields));
    if !cut.is_empty() {
        o.put("cut", Map(&cut));
    }
    for (name, value) in &fields {
        if !FIXED.contains(&&**name) {
            o.put(name, value);
        }
    }
}

struct Map<'a, V>(&'a [(Cow<'a, str>, V)]);

impl<V: Serialize> Serialize for Map<'_, V> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0 {
            map.serialize_entry(&**name, value)?;
        }
        map.end()
    }
}

/// Fills a column up to its width, by what is seen of it.
fn pad(line: &mut String, from: usize, width: usize) {
    let seen = line.get(from..).map_or(0, |column| column.chars().count());
    line.extend(std::iter::repeat_n(' ', width.saturating_sub(seen)));
}

/// A wait or a wake in words: the call, its object, how long it took and what came of it.
fn push_call(line: &mut String, event: &Timed<'_>) -> bool {
    let (op, object, began) = match event.event() {
        Event::Wait(w) => (w.op, w.object, w.began),
        Event::Wake(w) => (w.op, w.object, w.began),
        _ => return false,
    };
    let Some(op) = Op::from_u64(op) else { return false };
    line.push_str(op.name());
    let _ = match op.object() {
        Object::Address => write!(line, " of {object:#x}"),
        Object::Nanos => write!(line, " of {}", time::duration(object)),
        Object::None => Ok(()),
        Object::Ready => op.descriptor(object).map_or(Ok(()), |fd| write!(line, " of {fd}")),
        what => write!(line, " of {} {object}", what.name()),
    };
    let clock = event.session().clock();
    let begun = clock.ns(event.ticks.saturating_sub(began));
    let _ = write!(line, " ({}) ", time::duration(event.ts_ns.saturating_sub(begun)));
    match event.event() {
        Event::Wait(w) if w.error != 0 => _ = write!(line, "errno {} ", w.error),
        Event::Wake(w) => _ = write!(line, "woke {} ", w.woken),
        _ => {}
    }
    true
}

/// What a look at the process's memory found, in words.
fn push_memory(line: &mut String, event: &Timed<'_>) -> bool {
    let Event::Memory(m) = event.event() else { return false };
    let [now, shared, peak] = [m.resident, m.shared, m.peak].map(memory::bytes);
    let (minor, major) = (time::count(m.minor_faults), time::count(m.major_faults));
    let faults = format!("page faults {minor} without and {major} with a read from disk");
    let _ = write!(line, "{now} resident, {shared} of it shared, {peak} at most; {faults} ");
    true
}

/// What a line says behind the name, a space behind each word.
fn push_rest(line: &mut String, event: &Timed<'_>) {
    if let Some(ns) = event.duration_ns() {
        let _ = write!(line, "({}) ", time::duration(ns));
    }
    let is_told = push_call(line, event) || push_memory(line, event);
    for (name, value) in event.fields() {
        if !is_told && !matches!(value, Value::Stack(_)) {
            push_safe(name, line);
            line.push('=');
            value::push(line, &value, event.session(), event.tables());
            line.push(' ');
        }
    }
    if event.task != 0 {
        let _ = write!(line, "[task {}] ", event.task);
    }
    match lane(event) {
        Some("side") => line.push_str("[nested] "),
        Some(other) => _ = write!(line, "[{other}] "),
        None => {}
    }
    if event.late {
        line.push_str("[late] ");
    }
}
