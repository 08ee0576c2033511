//! `exectrace threads`: who ran, who made whom, and what each left in the trace.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use clap::Args;
use trace::encode::schema::Class;
use trace::encode::schema::Kind;
use trace_decode::ScanItem;
use trace_decode::Session;
use trace_decode::scan::ScanBatch;
use trace_decode::tables::Unregistered;

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
use crate::verdict::Verdict;

const HELP: &str = "\
Each JSON line has session, thread (the trace's number), registered, tid (the kernel's), name,
creator, function, first_ns, last_ns, events, lost, spans, batches, ended. Threads that were there
but never met the recorder come last, as thread 0 and not registered.

Examples:
  exectrace threads trace.bin
  exectrace threads --json trace.bin | jq -c 'select(.lost > 0)'";

/// What to print.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Only this thread, by its number in the trace, 0 for those without one (may be repeated)
    #[arg(long, value_name = "N")]
    thread: Vec<u64>,
    /// Stop after so many threads
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    #[command(flatten)]
    symbols: Symbols,
}

/// What the batches of a thread hold.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    events: u64,
    batches: u64,
    spans: u64,
    ended: bool,
    first_ticks: Option<u64>,
    last_ticks: Option<u64>,
}

/// A thread as it is printed.
#[derive(Default)]
struct Row {
    session: usize,
    /// 0 where it is not registered.
    thread: u64,
    tid: u64,
    name: String,
    creator: u64,
    function: Option<Arc<str>>,
    first_ns: Option<u64>,
    last_ns: Option<u64>,
    lost: u64,
    seen: Seen,
}

/// Runs the command.
pub fn run(options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    let mut input = Input::open(&options.common.file)?;
    let mut verdict = Verdict::new(input.name());
    let mut stacks = Stacks::new(&options.symbols, true);
    let mut seen: BTreeMap<u64, Seen> = BTreeMap::new();
    let mut rows: Vec<Row> = Vec::new();
    let mut session_number = 1;
    cmd::scanned(&mut input, &mut verdict, out, |item| {
        match item {
            ScanItem::Batch(batch) if batch.is_events() => {
                add(seen.entry(u64::from(batch.header.thread)).or_default(), batch);
            }
            ScanItem::SessionEnd(session) => {
                let numbers: BTreeSet<u64> =
                    session.threads().map(|t| t.number).chain(seen.keys().copied()).collect();
                let wanted = |n: &u64| options.thread.is_empty() || options.thread.contains(n);
                for number in numbers.into_iter().filter(|n| *n != 0).filter(wanted) {
                    let seen = seen.get(&number).copied().unwrap_or_default();
                    rows.push(row(session_number, session, number, seen, &mut stacks));
                }
                if wanted(&0) {
                    rows.extend(session.unregistered().map(|u| not_registered(session_number, u)));
                }
                seen.clear();
                session_number += 1;
            }
            _ => {}
        }
        Ok(())
    })?;
    let limit = options.limit.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    rows.truncate(limit);
    match options.common.json {
        true => rows.iter().try_for_each(|row| json(row, out))?,
        false => people(&rows, session_number > 2, out)?,
    }
    Ok(verdict)
}

fn add(seen: &mut Seen, batch: &ScanBatch<'_>) {
    seen.batches += 1;
    seen.events += batch.events;
    if batch.events > 0 {
        let first = batch.header.first_ticks;
        seen.first_ticks = Some(seen.first_ticks.map_or(first, |t| t.min(first)));
        seen.last_ticks = seen.last_ticks.max(Some(batch.last_ticks));
    }
    for (kind, count) in batch.counts {
        let site = batch.tables.and_then(|tables| tables.site(*kind));
        if site.and_then(|s| s.class()) == Some(Class::Span) {
            seen.spans += count;
        }
        seen.ended |= *kind == Kind::ThreadEnd as u64;
    }
}

fn row(number: usize, session: &Session, thread: u64, seen: Seen, stacks: &mut Stacks) -> Row {
    let known = session.thread(thread).cloned().unwrap_or_default();
    let registered = Some(known.registered).filter(|t| *t != 0);
    let first = match (seen.first_ticks, registered) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let mut function =
        (!known.function.is_empty()).then(|| Arc::from(json::lossy(&known.function).into_owned()));
    if function.is_none() && known.entry != 0 {
        let mut epochs = session.epochs();
        let tables = epochs.find(|tables| tables.module_of(known.entry).is_some());
        function = tables.and_then(|tables| stacks.function(number, tables, known.entry));
    }
    let losses = session.losses().filter(|l| l.thread == thread && l.is_event());
    Row {
        session: number,
        thread,
        tid: known.tid,
        name: json::lossy(&known.name).into_owned(),
        creator: known.creator,
        function,
        first_ns: first.map(|t| session.clock().ns(t)),
        last_ns: seen.last_ticks.or(registered).map(|t| session.clock().ns(t)),
        lost: losses.fold(0, |sum, l| sum.saturating_add(l.count)),
        seen,
    }
}

fn not_registered(number: usize, thread: Unregistered<'_>) -> Row {
    let name = json::lossy(thread.name).into_owned();
    Row { session: number, tid: thread.tid, name, ..Row::default() }
}

fn json(row: &Row, out: &mut Out) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    json::object(&mut bytes, |o| {
        let known = |n: u64| (n != 0).then_some(n);
        o.put("session", row.session);
        o.put("thread", row.thread);
        o.put("registered", row.thread != 0);
        o.put("tid", known(row.tid));
        o.put("name", &row.name);
        o.put("creator", known(row.creator));
        o.put("function", row.function.as_deref());
        o.put("first_ns", row.first_ns);
        o.put("last_ns", row.last_ns);
        o.put("events", row.seen.events);
        o.put("lost", row.lost);
        o.put("spans", row.seen.spans);
        o.put("batches", row.seen.batches);
        o.put("ended", row.seen.ended);
    });
    bytes.push(b'\n');
    out.bytes(&bytes)
}

const HEAD: [&str; 12] = [
    "thread", "tid", "by", "first ms", "last ms", "events", "lost", "spans", "batches", "end",
    "name", "function",
];

/// The first columns are numbers and stand to the right.
const NUMBERS: usize = 9;

fn people(rows: &[Row], sessions: bool, out: &mut Out) -> Result<(), Failure> {
    let mut cells: Vec<[String; 12]> = vec![HEAD.map(str::to_owned)];
    cells.extend(rows.iter().map(|row| cells_of(row, sessions)));
    let width = |column: usize| cells.iter().map(|c| c[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 12] = std::array::from_fn(width);
    for (i, cells) in cells.iter().enumerate() {
        let mut line = String::new();
        for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
            match column {
                0 => line.push_str(&format!("{cell:>width$}")),
                1..NUMBERS => line.push_str(&format!("  {cell:>width$}")),
                _ => line.push_str(&format!("  {cell:<width$}")),
            }
        }
        let line = format!("{}\n", line.trim_end());
        out.styled(if i == 0 { Style::Dim } else { Style::Plain }, &line)?;
    }
    Ok(())
}

fn cells_of(row: &Row, sessions: bool) -> [String; 12] {
    let known = |n: u64| if n == 0 { "?".to_owned() } else { n.to_string() };
    let ms = |ns: Option<u64>| ns.map_or("?".to_owned(), time::ms);
    let safe = |text: &str| {
        let mut out = String::new();
        push_safe(text.as_bytes(), &mut out);
        out
    };
    let thread = match (row.thread, sessions) {
        (0, true) => format!("{}:-", row.session),
        (0, false) => "-".to_owned(),
        (n, true) => format!("{}:T{n}", row.session),
        (n, false) => format!("T{n}"),
    };
    let function = row.function.as_deref().unwrap_or_default();
    [
        thread,
        known(row.tid),
        if row.creator == 0 { "?".to_owned() } else { format!("T{}", row.creator) },
        ms(row.first_ns),
        ms(row.last_ns),
        count(row.seen.events),
        count(row.lost),
        count(row.seen.spans),
        count(row.seen.batches),
        if row.seen.ended { "yes" } else { "-" }.to_owned(),
        safe(&row.name),
        safe(if row.thread == 0 { "(not registered)" } else { function }),
    ]
}
