//! `exectrace threads`: who ran, who made whom, and what each left in the trace.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use clap::Args;
use trace::encode::schema::Class;
use trace::encode::schema::Kind;
use trace_decode::Event;
use trace_decode::Item;
use trace_decode::ScanItem;
use trace_decode::Session;
use trace_decode::Timed;
use trace_decode::scan;
use trace_decode::scan::ScanBatch;
use trace_decode::tables::Unregistered;

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
use crate::output::Out;
use crate::output::push_safe;
use crate::stacks::Stacks;
use crate::table;
use crate::table::Column;
use crate::table::Table;
use crate::time;
use crate::time::count;
use crate::verdict::Verdict;

const HELP: &str = "\
Each JSON line has session, thread (the trace's number), registered, tid (the kernel's), name,
creator, function, first_ns, last_ns, events, lost, spans, batches, ended. Threads that were there
but never met the recorder come last, as thread 0 and not registered.

With --from and --to, threads are listed that have events between, with what they did then; what
they lost is that of the whole session, and batches are not known.

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
    /// Only threads of this name; * and ? stand for other characters (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    name: Vec<Pattern>,
    #[command(flatten)]
    window: Window,
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
    /// Not known where only a stretch of time is looked at.
    batches: Option<u64>,
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
    options.window.check()?;
    let mut input = Input::open(&options.common.file)?;
    let mut verdict = Verdict::new(input.name());
    let mut threads = Threads {
        options,
        stacks: Stacks::new(&options.symbols, true),
        seen: BTreeMap::new(),
        rows: Vec::new(),
        sessions: 0,
    };
    match options.window.is_all() {
        true => cmd::scanned(&mut input, &mut verdict, out, scan::Options::default(), |item| {
            match item {
                ScanItem::Batch(batch) if batch.is_events() => threads.batch(batch),
                ScanItem::SessionEnd(session) => threads.session_ends(session),
                _ => {}
            }
            Ok(())
        })?,
        false => cmd::merged(&mut input, &mut verdict, out, Keep::NoStacks, |item, _| {
            match item {
                Item::Event(event) if options.window.holds(event.ts_ns) => threads.event(event),
                Item::SessionEnd(session) => threads.session_ends(session),
                _ => {}
            }
            Ok(ControlFlow::Continue(()))
        })?,
    }
    let Threads { mut rows, sessions, .. } = threads;
    let limit = options.limit.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    rows.truncate(limit);
    match options.common.json {
        true => rows.iter().try_for_each(|row| json(row, out))?,
        false => people(&rows, sessions > 1, out)?,
    }
    Ok(verdict)
}

/// The threads met so far.
struct Threads<'o> {
    options: &'o Options,
    stacks: Stacks,
    seen: BTreeMap<u64, Seen>,
    rows: Vec<Row>,
    sessions: usize,
}

impl Threads<'_> {
    fn batch(&mut self, batch: &ScanBatch<'_>) {
        let seen = self.seen.entry(u64::from(batch.header.thread)).or_default();
        *seen.batches.get_or_insert(0) += 1;
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

    fn event(&mut self, event: &Timed<'_>) {
        let seen = self.seen.entry(u64::from(event.thread)).or_default();
        seen.events += 1;
        seen.first_ticks.get_or_insert(event.ticks);
        seen.last_ticks = seen.last_ticks.max(Some(event.ticks));
        match event.event() {
            Event::Site(site) if site.site.class() == Some(Class::Span) => seen.spans += 1,
            Event::ThreadEnd(_) => seen.ended = true,
            _ => {}
        }
    }

    fn session_ends(&mut self, session: &Session) {
        self.sessions += 1;
        let options = self.options;
        let number = |n: u64| options.thread.is_empty() || options.thread.contains(&n);
        let named = |name: &[u8]| filter::is_named(&options.name, Some(name));
        let mut numbers: BTreeSet<u64> = self.seen.keys().copied().collect();
        if options.window.is_all() {
            numbers.extend(session.threads().map(|t| t.number));
        }
        for thread in numbers.into_iter().filter(|n| *n != 0 && number(*n)) {
            if named(session.thread(thread).map_or(b"", |t| &t.name)) {
                let mut seen = self.seen.get(&thread).copied().unwrap_or_default();
                if options.window.is_all() {
                    seen.batches.get_or_insert(0);
                }
                let row = self.row(session, thread, seen);
                self.rows.push(row);
            }
        }
        if number(0) && options.window.is_all() {
            let others = session.unregistered().filter(|u| named(u.name));
            self.rows.extend(others.map(|u| not_registered(self.sessions, u)));
        }
        self.seen.clear();
    }

    fn row(&mut self, session: &Session, thread: u64, seen: Seen) -> Row {
        let number = self.sessions;
        let known = session.thread(thread).cloned().unwrap_or_default();
        // Within a stretch of time only events count.
        let is_all = self.options.window.is_all();
        let registered = Some(known.registered).filter(|t| *t != 0 && is_all);
        let first = match (seen.first_ticks, registered) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let mut function = (!known.function.is_empty())
            .then(|| Arc::from(json::lossy(&known.function).into_owned()));
        if function.is_none() && known.entry != 0 {
            let mut epochs = session.epochs();
            let tables = epochs.find(|tables| tables.module_of(known.entry).is_some());
            function = tables.and_then(|tables| self.stacks.function(number, tables, known.entry));
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
}

fn not_registered(number: usize, thread: Unregistered<'_>) -> Row {
    let name = json::lossy(thread.name).into_owned();
    let seen = Seen { batches: Some(0), ..Seen::default() };
    Row { session: number, tid: thread.tid, name, seen, ..Row::default() }
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

const COLUMNS: [Column; 12] = [
    table::number("thread"),
    table::number("tid"),
    table::number("by").spare(1),
    table::number("first ms"),
    table::number("last ms"),
    table::number("events"),
    table::number("lost"),
    table::number("spans").spare(2),
    table::number("batches").spare(3),
    table::text("end", 0),
    table::text("name", 8),
    table::text("function", 16),
];

fn people(rows: &[Row], sessions: bool, out: &mut Out) -> Result<(), Failure> {
    let mut table = Table::new(COLUMNS);
    rows.iter().for_each(|row| table.row(cells_of(row, sessions)));
    table.print(out)
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
        row.seen.batches.map_or("-".to_owned(), count),
        if row.seen.ended { "yes" } else { "-" }.to_owned(),
        safe(&row.name),
        safe(if row.thread == 0 { "(not registered)" } else { function }),
    ]
}
