//! `exectrace stat`: how much is in a trace, and how much is known to be missing.
//!
//! It reads batches in the order of the file and merges nothing, so that a trace of any length
//! takes the time of reading it and the memory of its tables.

use std::collections::BTreeMap;
use std::collections::HashMap;

use clap::Args;
use serde::Serialize;
use serde::Serializer;
use trace::encode::schema;
use trace_decode::ScanItem;
use trace_decode::Session;
use trace_symbolize::Status;

use crate::args::Common;
use crate::args::Symbols;
use crate::cmd;
use crate::failure::Failure;
use crate::input::Input;
use crate::json;
use crate::output::Out;
use crate::output::Style;
use crate::output::push_safe;
use crate::stacks::Stacks;
use crate::time;
use crate::time::count;
use crate::time::counted;
use crate::value;
use crate::verdict;
use crate::verdict::Verdict;

const HELP: &str = "\
The JSON object has events, lost, lost_by_cause, threads, bytes, duration_ns, generations, batches,
by_kind (name to count), damaged_bytes, start_wall, start_wall_ns, pause_max_ns, complete, faults,
notes, clock, and sessions with the same for each session of the trace.

Examples:
  exectrace stat trace.bin
  exectrace stat --json trace.bin | jq .lost
  exectrace stat --symbols trace.bin           do stacks have names here?";

/// Said of a trace in which nothing could stand.
const NOTHING: &str = "no thread was registered and no event was recorded: \
                       this trace could hold nothing";

/// What to print.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Also tell for each module whether its functions can be named
    #[arg(long)]
    symbols: bool,
    /// Look for programs and debug files of the right build id here first (may be repeated)
    #[arg(long, value_name = "DIR")]
    debug_dir: Vec<std::path::PathBuf>,
}

/// Counts of a session, or of all sessions of a trace.
#[derive(Clone, Debug, Default)]
struct Summary {
    program: Option<String>,
    pid: Option<u64>,
    arch: Option<String>,
    recorder: Option<String>,
    clock: Option<Clock>,
    start_wall_ns: Option<u64>,
    duration_ns: u64,
    events: u64,
    batches: u64,
    bytes: u64,
    threads: u64,
    generations: u64,
    pause_max_ns: Option<u64>,
    lost: BTreeMap<String, u64>,
    less_known: BTreeMap<String, u64>,
    by_kind: BTreeMap<String, u64>,
    damages: u64,
    damaged_bytes: u64,
    faults: Vec<String>,
    notes: Vec<(String, String)>,
    modules: Vec<ModuleRow>,
}

#[derive(Clone, Debug)]
struct Clock {
    source: &'static str,
    ticks_per_second: u64,
    snapshots: u64,
}

#[derive(Clone, Debug)]
struct ModuleRow {
    path: String,
    base: u64,
    size: u64,
    build_id: String,
    status: Status,
}

/// Runs the command.
pub fn run(options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    let mut input = Input::open(&options.common.file)?;
    let mut verdict = Verdict::new(input.name());
    let symbols = Symbols { no_symbols: false, debug_dir: options.debug_dir.clone() };
    let mut stacks = options.symbols.then(|| Stacks::new(&symbols, true));
    let mut sessions: Vec<Summary> = Vec::new();
    let mut by_kind: HashMap<(u32, u64), u64> = HashMap::new();
    cmd::scanned(&mut input, &mut verdict, out, |item| {
        match item {
            ScanItem::Batch(batch) if batch.is_events() => {
                for (kind, count) in batch.counts {
                    *by_kind.entry((batch.header.epoch, *kind)).or_default() += count;
                }
            }
            ScanItem::SessionEnd(session) => {
                let number = sessions.len() + 1;
                let mut summary = summarize(session, &by_kind);
                if let Some(stacks) = &mut stacks {
                    summary.modules = modules(stacks, number, session);
                }
                sessions.push(summary);
                by_kind.clear();
            }
            _ => {}
        }
        Ok(())
    })?;
    let mut all = total(&sessions);
    all.bytes = input.bytes_read();
    all.damaged_bytes = verdict.damaged_bytes();
    all.damages = verdict.damages();
    match options.common.json {
        true => json(&all, &sessions, options.symbols, out)?,
        false => people(&input, &all, &sessions, out)?,
    }
    Ok(verdict)
}

fn summarize(session: &Session, by_kind: &HashMap<(u32, u64), u64>) -> Summary {
    let totals = session.totals();
    let lossy = |bytes: &[u8]| json::lossy(bytes).into_owned();
    let mut s = Summary {
        start_wall_ns: session.clock().start_wall_ns(),
        duration_ns: session.duration_ns(),
        events: totals.events,
        batches: totals.batches,
        bytes: totals.bytes,
        threads: session.threads().count() as u64,
        generations: totals.generations,
        pause_max_ns: session.end().map(|end| end.pause_max),
        damages: totals.damages,
        damaged_bytes: totals.damaged_bytes,
        faults: verdict::faults(session),
        notes: session.notes().map(|(name, text)| (lossy(name), lossy(text))).collect(),
        ..Summary::default()
    };
    if let Some(info) = session.info() {
        s.program = Some(lossy(&info.program));
        s.pid = Some(info.pid);
        s.arch = Some(lossy(&info.arch));
        s.recorder = Some(lossy(&info.recorder));
        s.clock = Some(Clock {
            source: clock_name(info.clock),
            ticks_per_second: info.tick_rate,
            snapshots: session.clock().snapshots().len() as u64,
        });
    }
    for loss in session.losses() {
        let name = loss.cause_name().map_or_else(|| format!("?{}", loss.cause), str::to_owned);
        let to = if loss.is_event() { &mut s.lost } else { &mut s.less_known };
        let sum = to.entry(name).or_default();
        *sum = sum.saturating_add(loss.count);
    }
    for ((epoch, kind), count) in by_kind {
        let key = match session.tables(*epoch) {
            Some(tables) => value::kind_key(session, tables, *kind),
            None => format!("?{kind}"),
        };
        *s.by_kind.entry(key).or_default() += count;
    }
    s
}

fn clock_name(number: u64) -> &'static str {
    match number {
        schema::CLOCK_TSC => "tsc",
        schema::CLOCK_CNTVCT => "cntvct",
        schema::CLOCK_MONOTONIC => "monotonic",
        _ => "unknown",
    }
}

fn modules(stacks: &mut Stacks, number: usize, session: &Session) -> Vec<ModuleRow> {
    let mut rows = Vec::new();
    for tables in session.epochs() {
        let statuses = stacks.modules(number, tables);
        for (module, status) in tables.modules().zip(statuses) {
            rows.push(ModuleRow {
                path: json::lossy(&module.path).into_owned(),
                base: module.base,
                size: module.size,
                build_id: value::hex(&module.build_id),
                status,
            });
        }
    }
    rows
}

/// All sessions of a trace as one: counts are added, the first one's start is the start.
fn total(sessions: &[Summary]) -> Summary {
    let mut all = sessions.first().cloned().unwrap_or_default();
    for s in sessions.iter().skip(1) {
        all.duration_ns = all.duration_ns.saturating_add(s.duration_ns);
        all.events += s.events;
        all.batches += s.batches;
        all.threads += s.threads;
        all.generations += s.generations;
        all.pause_max_ns = all.pause_max_ns.max(s.pause_max_ns);
        for (from, to) in [
            (&s.lost, &mut all.lost),
            (&s.less_known, &mut all.less_known),
            (&s.by_kind, &mut all.by_kind),
        ] {
            for (name, count) in from {
                let sum = to.entry(name.clone()).or_default();
                *sum = sum.saturating_add(*count);
            }
        }
        all.faults.extend_from_slice(&s.faults);
        all.notes.extend_from_slice(&s.notes);
        all.modules.extend_from_slice(&s.modules);
    }
    all
}

impl Summary {
    fn lost(&self) -> u64 {
        self.lost.values().fold(0, |sum, n| sum.saturating_add(*n))
    }

    fn holds_nothing(&self) -> bool {
        self.threads == 0 && self.events == 0
    }

    fn is_complete(&self) -> bool {
        self.damages == 0 && self.faults.is_empty()
    }

    /// Kinds, the most frequent first.
    fn kinds(&self) -> Vec<(&str, u64)> {
        let mut kinds: Vec<_> = self.by_kind.iter().map(|(k, n)| (k.as_str(), *n)).collect();
        kinds.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        kinds
    }
}

fn json(all: &Summary, sessions: &[Summary], symbols: bool, out: &mut Out) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    json::object(&mut bytes, |o| {
        for (key, value) in entries(all, symbols) {
            o.put(key, value);
        }
        let each: Vec<Entries> = sessions.iter().map(|s| Entries(entries(s, symbols))).collect();
        o.put("sessions", each);
    });
    bytes.push(b'\n');
    out.bytes(&bytes)
}

struct Entries(Vec<(&'static str, serde_json::Value)>);

impl Serialize for Entries {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

fn entries(s: &Summary, symbols: bool) -> Vec<(&'static str, serde_json::Value)> {
    use serde_json::json;
    let map = |m: &BTreeMap<String, u64>| json!(m);
    let clock = s.clock.as_ref().map(|c| {
        json!({ "source": c.source, "ticks_per_second": c.ticks_per_second,
                "snapshots": c.snapshots })
    });
    let notes: Vec<_> = s.notes.iter().map(|(n, t)| json!({ "name": n, "text": t })).collect();
    let mut out = vec![
        ("complete", json!(s.is_complete())),
        ("events", json!(s.events)),
        ("lost", json!(s.lost())),
        ("lost_by_cause", map(&s.lost)),
        ("less_known_by_cause", map(&s.less_known)),
        ("threads", json!(s.threads)),
        ("bytes", json!(s.bytes)),
        ("batches", json!(s.batches)),
        ("duration_ns", json!(s.duration_ns)),
        ("generations", json!(s.generations)),
        ("by_kind", map(&s.by_kind)),
        ("damaged_bytes", json!(s.damaged_bytes)),
        ("damaged_ranges", json!(s.damages)),
        ("start_wall", json!(s.start_wall_ns.map(time::rfc3339))),
        ("start_wall_ns", json!(s.start_wall_ns)),
        ("pause_max_ns", json!(s.pause_max_ns)),
        ("program", json!(s.program)),
        ("pid", json!(s.pid)),
        ("arch", json!(s.arch)),
        ("recorder", json!(s.recorder)),
        ("clock", json!(clock)),
        ("notes", json!(notes)),
        ("faults", json!(s.faults)),
        ("could_hold_nothing", json!(s.holds_nothing())),
    ];
    if symbols {
        out.push(("modules", s.modules.iter().map(module_json).collect()));
    }
    out
}

fn module_json(module: &ModuleRow) -> serde_json::Value {
    let (found, lines, why) = match &module.status {
        Status::Found(source) => (Some(&source.file), source.lines, source.partial.clone()),
        Status::Missing(why) => (None, false, Some(why.to_string())),
    };
    serde_json::json!({
        "path": module.path,
        "base": format!("{:#x}", module.base),
        "size": module.size,
        "build_id": module.build_id,
        "symbols": found.is_some(),
        "lines": lines,
        "file": found.map(|f| f.to_string_lossy()),
        "reason": why,
    })
}

fn people(
    input: &Input,
    all: &Summary,
    sessions: &[Summary],
    out: &mut Out,
) -> Result<(), Failure> {
    out.styled(Style::Strong, input.name())?;
    if sessions.len() != 1 {
        out.put(format_args!(": {}", counted(sessions.len() as u64, "session")))?;
    }
    match all.is_complete() {
        true => out.text(", complete\n")?,
        false => out.styled(Style::Bad, ", not complete\n")?,
    }
    if all.damages > 0 {
        let (bytes, places) = (counted(all.damaged_bytes, "byte"), counted(all.damages, "place"));
        row(out, "damaged", &format!("{bytes} skipped in {places}"))?;
    }
    for (i, session) in sessions.iter().enumerate() {
        if sessions.len() > 1 {
            out.styled(Style::Strong, &format!("\nsession {}\n", i + 1))?;
        }
        let bytes = if sessions.len() == 1 { all.bytes } else { session.bytes };
        people_session(session, bytes, out)?;
    }
    Ok(())
}

fn people_session(s: &Summary, bytes: u64, out: &mut Out) -> Result<(), Failure> {
    for fault in &s.faults {
        row(out, "missing", &format!("this session {fault}"))?;
    }
    if s.holds_nothing() {
        row(out, "empty", NOTHING)?;
    }
    if let (Some(program), Some(pid), Some(arch)) = (&s.program, s.pid, &s.arch) {
        row(out, "program", &format!("{}, pid {pid}, {}", safe(program), safe(arch)))?;
    }
    if let Some(recorder) = &s.recorder {
        row(out, "recorder", &safe(recorder))?;
    }
    if let Some(ns) = s.start_wall_ns {
        row(out, "start", &time::rfc3339(ns))?;
    }
    let generations = counted(s.generations, "generation");
    row(out, "duration", &format!("{}, {generations}", time::duration(s.duration_ns)))?;
    row(out, "events", &format!("{} of {}", count(s.events), counted(s.threads, "thread")))?;
    let mut size = format!("{} in {}", count(bytes), counted(s.batches, "batch"));
    if let Some(tenths) = (bytes.saturating_mul(10)).checked_div(s.events) {
        size.push_str(&format!(", {}.{} an event", count(tenths / 10), tenths % 10));
    }
    row(out, "bytes", &size)?;
    let causes = |m: &BTreeMap<String, u64>| {
        m.iter().map(|(name, n)| format!("{name} {}", count(*n))).collect::<Vec<_>>().join(", ")
    };
    match s.lost() {
        0 => row(out, "lost", "nothing")?,
        n => row(out, "lost", &format!("{}: {}", counted(n, "event"), causes(&s.lost)))?,
    }
    if s.less_known.values().any(|n| *n > 0) {
        row(out, "less known", &causes(&s.less_known))?;
    }
    if let Some(ns) = s.pause_max_ns {
        row(out, "pauses", &format!("{} at the longest", time::duration(ns)))?;
    }
    if let Some(c) = &s.clock {
        let rate = count(c.ticks_per_second);
        let snapshots = counted(c.snapshots, "snapshot");
        row(out, "clock", &format!("{}, {rate} ticks a second, {snapshots}", c.source))?;
    }
    for (name, text) in &s.notes {
        row(out, "note", &format!("{}: {}", safe(name), safe(text)))?;
    }
    for module in &s.modules {
        row(out, "module", &module_text(module))?;
    }
    if !s.by_kind.is_empty() {
        out.styled(Style::Dim, &format!("\n{:>15}  kind\n", "events"))?;
    }
    for (kind, n) in s.kinds() {
        out.put(format_args!("{:>15}  {}\n", count(n), safe(kind)))?;
    }
    Ok(())
}

fn row(out: &mut Out, name: &str, text: &str) -> Result<(), Failure> {
    out.styled(Style::Dim, &format!("  {name:<11}"))?;
    out.text(text)?;
    out.text("\n")
}

fn safe(text: &str) -> String {
    let mut out = String::new();
    push_safe(text.as_bytes(), &mut out);
    out
}

fn module_text(module: &ModuleRow) -> String {
    let path = safe(&module.path);
    match &module.status {
        Status::Found(source) => {
            let what = if source.lines { "functions and lines" } else { "functions" };
            let file = source.file.to_string_lossy();
            let mut text = format!("{path}: {what}");
            if file != module.path.as_str() {
                text.push_str(&format!(" from {}", safe(&file)));
            }
            if let Some(why) = &source.partial {
                text.push_str(&format!(" ({})", safe(why)));
            }
            text
        }
        Status::Missing(why) => format!("{path}: no names, {}", safe(&why.to_string())),
    }
}
