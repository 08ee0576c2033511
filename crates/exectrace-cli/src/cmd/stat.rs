//! `exectrace stat`: how much is in a trace, and how much is known to be missing.
//!
//! It reads batches in the order of the file and merges nothing, so that a trace of any length
//! takes the time of reading it and the memory of its tables. Only where some events are selected
//! it reads these one by one.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::ops::ControlFlow;

use clap::Args;
use serde::Serialize;
use serde::Serializer;
use trace::encode::schema;
use trace_decode::Event;
use trace_decode::Item;
use trace_decode::ScanItem;
use trace_decode::Session;
use trace_decode::Timed;
use trace_decode::scan;
use trace_symbolize::Names;
use trace_symbolize::Status;

use crate::args::Common;
use crate::args::Symbols;
use crate::cmd;
use crate::cmd::Keep;
use crate::coverage::Coverage;
use crate::failure::Failure;
use crate::filter;
use crate::filter::Pattern;
use crate::filter::Window;
use crate::input::Input;
use crate::json;
use crate::kinds::is_kind;
use crate::lengths;
use crate::memory::Memory;
use crate::output::Out;
use crate::output::Style;
use crate::output::push_safe;
use crate::stacks::Named;
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
notes, clock, coverage, memory (of looks from outside: looks, first_bytes, max_bytes, last_bytes,
last_shared_bytes, first_at_ns, last_at_ns, minor_faults, major_faults; or null), modules (path,
base, size, build_id), and sessions with the same for each session of the trace. With --symbols,
modules have found (debug_information, separate_debug_file, symbol_table, mini_debug,
dynamic_symbols or missing), file, reason, addresses (in stacks) and addresses_named as well, and
addresses_outside are those in stacks that lie in no module.

With --thread, --kind, --name, --from or --to, everything is still said of the whole trace, and the
selected events are counted beside it: selected (events, threads, by_kind) in JSON.

Examples:
  exectrace stat trace.bin
  exectrace stat --json trace.bin | jq .lost
  exectrace stat --from 1.2s --to 1.5s trace.bin
  exectrace stat --symbols trace.bin           do stacks have names here?";

/// Kinds shown to people who did not say how many.
const KINDS_SHOWN: usize = 20;

/// Said of a trace in which nothing could stand.
const NOTHING: &str = "no thread was registered and no event was recorded: \
                       this trace could hold nothing";

/// What to print.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Also tell for each module where names come from, and how many addresses in stacks have one
    #[arg(long)]
    symbols: bool,
    /// Also count the events of this thread, by its number in the trace (may be repeated)
    #[arg(long, value_name = "N")]
    thread: Vec<u32>,
    /// Also count the events of this kind: SpanEnd, log, span:read_file (may be repeated)
    #[arg(long, value_name = "NAME")]
    kind: Vec<String>,
    /// Also count the events of this name; * and ? stand for other characters (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    name: Vec<Pattern>,
    #[command(flatten)]
    window: Window,
    /// How many kinds to show; 20 for people, all in JSON
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
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
    /// Addresses in stacks that lie in no module, where they were looked for.
    outside: Option<u64>,
    selected: Option<Selected>,
    coverage: Coverage,
    memory: Memory,
}

/// Counts of the events that were asked for.
#[derive(Clone, Debug, Default)]
struct Selected {
    events: u64,
    threads: u64,
    by_kind: BTreeMap<String, u64>,
}

/// The same while events go by.
#[derive(Default)]
struct Selecting {
    threads: BTreeSet<u32>,
    by_kind: Kinds,
}

/// Events by table epoch and kind.
type Kinds = HashMap<(u32, u64), u64>;

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
    named: Option<Named>,
}

impl Options {
    fn selects(&self) -> bool {
        let all = self.thread.is_empty() && self.kind.is_empty() && self.name.is_empty();
        !all || !self.window.is_all()
    }

    fn is_selected(&self, event: &Timed<'_>) -> bool {
        (self.thread.is_empty() || self.thread.contains(&event.thread))
            && self.window.holds(event.ts_ns)
            && (self.kind.is_empty() || self.kind.iter().any(|k| is_kind(event, k)))
            && filter::is_named(&self.name, event.name().map(|name| name.bytes))
    }
}

/// Runs the command.
pub fn run(options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    options.window.check()?;
    let mut input = Input::open(&options.common.file)?;
    let mut verdict = Verdict::new(input.name());
    let symbols = Symbols { no_symbols: false, debug_dir: options.debug_dir.clone() };
    let mut found = Found {
        stacks: options.symbols.then(|| Stacks::new(&symbols, true)),
        selecting: options.selects().then(Selecting::default),
        by_kind: Kinds::new(),
        memory: Memory::default(),
        sessions: Vec::new(),
    };
    if options.selects() {
        cmd::merged(&mut input, &mut verdict, out, Keep::stacks(options.symbols), |item, _| {
            match item {
                Item::Event(event) => found.event(event, options),
                Item::SessionEnd(session) => found.session_ends(session),
                _ => {}
            }
            Ok(ControlFlow::Continue(()))
        })?;
    } else {
        let mut reading = scan::Options::default();
        reading.keep_stacks = options.symbols;
        cmd::scanned(&mut input, &mut verdict, out, reading, |item| {
            match item {
                ScanItem::Batch(batch) if batch.is_events() => {
                    for (kind, count) in batch.counts {
                        *found.by_kind.entry((batch.header.epoch, *kind)).or_default() += count;
                    }
                    for (ticks, memory) in batch.memory {
                        found.memory.add(batch.session.clock().ns(*ticks), memory);
                    }
                }
                ScanItem::SessionEnd(session) => found.session_ends(session),
                _ => {}
            }
            Ok(())
        })?;
    }
    let sessions = found.sessions;
    let mut all = total(&sessions);
    all.bytes = input.bytes_read();
    all.damaged_bytes = verdict.damaged_bytes();
    all.damages = verdict.damages();
    match options.common.json {
        true => json(&all, &sessions, out)?,
        false => people(options, &input, &all, &sessions, out)?,
    }
    Ok(verdict)
}

/// What was read so far.
struct Found {
    /// Where names are asked for.
    stacks: Option<Stacks>,
    /// Where some events are asked for.
    selecting: Option<Selecting>,
    by_kind: Kinds,
    memory: Memory,
    sessions: Vec<Summary>,
}

impl Found {
    fn event(&mut self, event: &Timed<'_>, options: &Options) {
        let key = (event.tables().epoch(), event.kind);
        *self.by_kind.entry(key).or_default() += 1;
        if let Event::Memory(m) = event.event() {
            self.memory.add(event.ts_ns, &m);
        }
        if let Some(selecting) = self.selecting.as_mut().filter(|_| options.is_selected(event)) {
            selecting.threads.insert(event.thread);
            *selecting.by_kind.entry(key).or_default() += 1;
        }
    }

    fn session_ends(&mut self, session: &Session) {
        let mut summary = summarize(session);
        summary.by_kind = named(session, &self.by_kind);
        summary.memory = std::mem::take(&mut self.memory);
        let number = self.sessions.len() + 1;
        (summary.modules, summary.outside) = modules(self.stacks.as_mut(), number, session);
        if let Some(selecting) = &mut self.selecting {
            summary.selected = Some(Selected {
                events: selecting.by_kind.values().sum(),
                threads: selecting.threads.len() as u64,
                by_kind: named(session, &selecting.by_kind),
            });
            *selecting = Selecting::default();
        }
        self.sessions.push(summary);
        self.by_kind.clear();
    }
}

/// Counts by the name of the kind.
fn named(session: &Session, by_kind: &Kinds) -> BTreeMap<String, u64> {
    let mut out = BTreeMap::new();
    for ((epoch, kind), count) in by_kind {
        let key = match session.tables(*epoch) {
            Some(tables) => value::kind_key(session, tables, *kind),
            None => format!("?{kind}"),
        };
        *out.entry(key).or_default() += count;
    }
    out
}

fn summarize(session: &Session) -> Summary {
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
        coverage: Coverage::of(session),
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

fn modules(
    mut stacks: Option<&mut Stacks>,
    number: usize,
    session: &Session,
) -> (Vec<ModuleRow>, Option<u64>) {
    let (mut rows, mut outside) = (Vec::new(), None);
    for tables in session.epochs() {
        let mut names = stacks.as_mut().map(|stacks| {
            let (names, others) = stacks.modules(number, tables);
            *outside.get_or_insert(0) += others;
            names.into_iter()
        });
        for module in tables.modules() {
            rows.push(ModuleRow {
                path: json::lossy(&module.path).into_owned(),
                base: module.base,
                size: module.size,
                build_id: value::hex(&module.build_id),
                named: names.as_mut().and_then(Iterator::next),
            });
        }
    }
    (rows, outside)
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
        all.coverage.all.add(&s.coverage.all);
        // Threads of different sessions have the same numbers.
        all.coverage.threads.clear();
        // Each session has its own.
        all.memory = Memory::default();
        all.faults.extend_from_slice(&s.faults);
        all.notes.extend_from_slice(&s.notes);
        all.modules.extend_from_slice(&s.modules);
        all.outside = all.outside.zip(s.outside).map(|(a, b)| a + b);
        if let (Some(all), Some(s)) = (&mut all.selected, &s.selected) {
            all.events += s.events;
            all.threads += s.threads;
            for (name, count) in &s.by_kind {
                *all.by_kind.entry(name.clone()).or_default() += count;
            }
        }
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

    /// Kinds, of the selected events where some were selected, the most frequent first.
    fn kinds(&self) -> Vec<(&str, u64)> {
        let by_kind = self.selected.as_ref().map_or(&self.by_kind, |s| &s.by_kind);
        let mut kinds: Vec<_> = by_kind.iter().map(|(k, n)| (k.as_str(), *n)).collect();
        kinds.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        kinds
    }
}

fn json(all: &Summary, sessions: &[Summary], out: &mut Out) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    json::object(&mut bytes, |o| {
        for (key, value) in entries(all) {
            o.put(key, value);
        }
        let each: Vec<Entries> = sessions.iter().map(|s| Entries(entries(s))).collect();
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

fn entries(s: &Summary) -> Vec<(&'static str, serde_json::Value)> {
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
        ("coverage", s.coverage.json()),
        ("memory", s.memory.json()),
        ("could_hold_nothing", json!(s.holds_nothing())),
    ];
    out.push(("modules", s.modules.iter().map(module_json).collect()));
    if let Some(outside) = s.outside {
        out.push(("addresses_outside", json!(outside)));
    }
    if let Some(s) = &s.selected {
        let selected = json!({ "events": s.events, "threads": s.threads, "by_kind": s.by_kind });
        out.push(("selected", selected));
    }
    out
}

fn module_json(module: &ModuleRow) -> serde_json::Value {
    let mut row = serde_json::json!({
        "path": module.path,
        "base": format!("{:#x}", module.base),
        "size": module.size,
        "build_id": module.build_id,
    });
    let Some(named) = &module.named else { return row };
    let (source, why) = match &named.status {
        Status::Found(source) => (Some(source), source.partial.clone()),
        Status::Missing(why) => (None, Some(why.to_string())),
    };
    row["found"] = match source {
        Some(source) => match source.names {
            Names::DebugInformation if is_own(module, named) => "debug_information",
            Names::DebugInformation => "separate_debug_file",
            Names::SymbolTable => "symbol_table",
            Names::MiniDebug => "mini_debug",
            Names::DynamicSymbols => "dynamic_symbols",
            _ => "other",
        },
        None => "missing",
    }
    .into();
    row["symbols"] = source.is_some().into();
    row["lines"] = source.is_some_and(|s| s.lines).into();
    row["file"] = source.map(|s| s.file.to_string_lossy()).into();
    row["reason"] = why.into();
    row["addresses"] = named.addresses.into();
    row["addresses_named"] = named.named.into();
    row
}

/// Whether the names come from the module's own file.
fn is_own(module: &ModuleRow, named: &Named) -> bool {
    match &named.status {
        Status::Found(source) => source.file.to_string_lossy() == module.path.as_str(),
        Status::Missing(_) => false,
    }
}

fn people(
    options: &Options,
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
        people_session(options, session, bytes, out)?;
    }
    Ok(())
}

fn people_session(
    options: &Options,
    s: &Summary,
    bytes: u64,
    out: &mut Out,
) -> Result<(), Failure> {
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
    let covered = s.coverage.text();
    if !covered.is_empty() {
        row(out, "coverage", &format!("recorded waits explain {covered}, by estimate"))?;
    }
    if let Some(memory) = s.memory.text() {
        row(out, "memory", &memory)?;
    }
    for (name, text) in &s.notes {
        row(out, "note", &format!("{}: {}", safe(name), safe(text)))?;
    }
    people_modules(s, out)?;
    people_kinds(options, s, out)
}

/// Where names come from, the modules with most addresses in stacks first.
fn people_modules(s: &Summary, out: &mut Out) -> Result<(), Failure> {
    let known = s.modules.iter().filter_map(|module| Some((module, module.named.as_ref()?)));
    let mut known: Vec<(&ModuleRow, &Named)> = known.collect();
    known.sort_by_key(|(_, named)| std::cmp::Reverse(named.addresses));
    for (module, named) in known {
        row(out, "module", &module_text(module, named))?;
    }
    match s.outside.unwrap_or(0) {
        0 => Ok(()),
        n => row(out, "no module", &format!("{} in stacks", counted(n, "address"))),
    }
}

fn people_kinds(options: &Options, s: &Summary, out: &mut Out) -> Result<(), Failure> {
    if let Some(s) = &s.selected {
        let (events, threads) = (counted(s.events, "event"), counted(s.threads, "thread"));
        row(out, "selected", &format!("{events} of {threads}"))?;
    }
    let kinds = s.kinds();
    if !kinds.is_empty() {
        out.styled(Style::Dim, &format!("\n{:>15}  kind\n", "events"))?;
    }
    let shown = kinds.len().min(options.limit.unwrap_or(KINDS_SHOWN));
    for (kind, n) in &kinds[..shown] {
        out.put(format_args!("{:>15}  {}\n", count(*n), safe(kind)))?;
    }
    lengths::left_out(kinds.len(), shown, "kind", out)
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

fn module_text(module: &ModuleRow, named: &Named) -> String {
    let mut text = safe(&module.path);
    let source = match &named.status {
        Status::Found(source) => source,
        Status::Missing(why) => {
            text.push_str(&format!(": no names, {}", safe(&why.to_string())));
            if named.addresses > 0 {
                text.push_str(&format!("; {} in stacks", counted(named.addresses, "address")));
            }
            return text;
        }
    };
    if named.addresses > 0 {
        let (some, all) = (count(named.named), counted(named.addresses, "address"));
        text.push_str(&format!(": {some} of {all} named by "));
    } else {
        text.push_str(": no address in stacks; ");
    }
    text.push_str(match source.names {
        Names::DebugInformation => "debug information",
        Names::SymbolTable => "a symbol table only",
        Names::MiniDebug => "the packed symbol table only",
        Names::DynamicSymbols => "exported symbols only",
        _ => "symbols",
    });
    if !is_own(module, named) {
        text.push_str(&format!(" in {}", safe(&source.file.to_string_lossy())));
    }
    if let Some(why) = &source.partial {
        text.push_str(&format!(" ({})", safe(why)));
    }
    text
}
