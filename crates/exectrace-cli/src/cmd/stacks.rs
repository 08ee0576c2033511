//! `exectrace stacks`: where in the program events came from, the most frequent stacks first.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::ControlFlow;

use clap::Args;
use trace_decode::Item;
use trace_decode::Session;
use trace_decode::Timed;
use trace_symbolize::Status;

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
use crate::kinds::task_of;
use crate::lengths;
use crate::output::Out;
use crate::output::Style;
use crate::output::push_safe;
use crate::output::safe;
use crate::stacks::Stack;
use crate::stacks::Stacks;
use crate::stacks::print_calls;
use crate::time;
use crate::time::count;
use crate::time::counted;
use crate::value;
use crate::verdict::Verdict;

/// Stacks shown to people who did not say how many.
const LIMIT: usize = 3;

/// Most distinct stacks of a session that are counted one by one. 1,048,576: some 100 MiB.
const DISTINCT_MAX: usize = 1 << 20;

const HELP: &str = "\
Events have stacks where they were asked for when they were recorded; those of two places in the
source, or of two kinds, are two stacks. At most 1,048,576 are told apart; more are only counted.

Each JSON line has session, count, kind (as in stat), stack (a list of {function, file, line,
inlined}, innermost first), truncated where there were more frames, and lost where the walk did not
find them. With --folded, each line has the functions from the outermost to the innermost, with ;
between, and the count: what tools for flame graphs read.

Examples:
  exectrace stacks trace.bin                   the most frequent ones
  exectrace stacks --kind log:http --limit 50 trace.bin
  exectrace stacks --folded --kind task trace.bin > tasks.folded
  exectrace stacks --json trace.bin | jq -r '[.count, .stack[0].function] | @tsv'";

/// What to print.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Only stacks of events of this kind: log, task, log:http (may be repeated)
    #[arg(long, value_name = "NAME")]
    kind: Vec<String>,
    /// Only stacks of events of this name; * and ? stand for other characters (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    name: Vec<Pattern>,
    /// Only stacks of events of this thread, by its number in the trace (may be repeated)
    #[arg(long, value_name = "N")]
    thread: Vec<u32>,
    /// Only stacks of events of the task with this id (may be repeated)
    #[arg(long, value_name = "ID")]
    task: Vec<u64>,
    #[command(flatten)]
    window: Window,
    /// How many stacks of a session; 3 for people, all in JSON and folded
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print a line for each stack, for tools that draw flame graphs
    #[arg(long, conflicts_with = "json")]
    folded: bool,
    /// Keep the recorder's own functions, and what runs threads
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
    let mut counts = Counts::default();
    let mut printer = Printer {
        options,
        stacks: Stacks::new(&options.symbols, options.all_frames),
        session: 0,
        shown: 0,
    };
    cmd::merged(&mut input, &mut verdict, out, Keep::Stacks, |item, out| {
        match item {
            Item::SessionBegin(_) => {
                printer.session += 1;
                counts = Counts::default();
            }
            Item::Event(event) => {
                if let Some(id) = event.stack().filter(|_| is_wanted(options, event)) {
                    counts.add(event, id);
                }
            }
            Item::SessionEnd(session) => printer.session(session, &counts, out)?,
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if !options.common.json && !options.folded {
        printer.missing(out)?;
    }
    Ok(verdict)
}

fn is_wanted(options: &Options, event: &Timed<'_>) -> bool {
    (options.thread.is_empty() || options.thread.contains(&event.thread))
        && options.window.holds(event.ts_ns)
        && (options.kind.is_empty() || options.kind.iter().any(|k| is_kind(event, k)))
        && filter::is_named(&options.name, event.name().map(|name| name.bytes))
        && (options.task.is_empty() || options.task.contains(&task_of(event)))
}

/// Table epoch, id, and kind of the event.
type Key = (u32, u64, u64);

/// How often each stack of a session occurred.
#[derive(Default)]
struct Counts {
    by_stack: HashMap<Key, u64>,
    events: u64,
    /// Events whose stack could not be kept.
    not_kept: u64,
    /// Events of stacks beyond the limit.
    beyond: u64,
}

impl Counts {
    fn add(&mut self, event: &Timed<'_>, id: u64) {
        self.events += 1;
        if id == 0 {
            self.not_kept += 1;
            return;
        }
        let is_full = self.by_stack.len() >= DISTINCT_MAX;
        match self.by_stack.entry((event.tables().epoch(), id, event.kind)) {
            Entry::Occupied(mut known) => *known.get_mut() += 1,
            Entry::Vacant(_) if is_full => self.beyond += 1,
            Entry::Vacant(new) => _ = new.insert(1),
        }
    }

    /// The most frequent first.
    fn sorted(&self) -> Vec<(Key, u64)> {
        let mut all: Vec<(Key, u64)> = self.by_stack.iter().map(|(key, n)| (*key, *n)).collect();
        all.sort_unstable_by_key(|(key, n)| (Reverse(*n), *key));
        all
    }
}

struct Printer<'o> {
    options: &'o Options,
    stacks: Stacks,
    /// Number of the session, from 1.
    session: usize,
    /// Stacks printed so far.
    shown: usize,
}

impl Printer<'_> {
    fn session(
        &mut self,
        session: &Session,
        counts: &Counts,
        out: &mut Out,
    ) -> Result<(), Failure> {
        let options = self.options;
        let for_people = !options.common.json && !options.folded;
        let sorted = counts.sorted();
        let most = if for_people { LIMIT } else { usize::MAX };
        let shown = sorted.len().min(options.limit.unwrap_or(most));
        if for_people {
            self.heading(counts, sorted.len(), out)?;
        }
        for (key, n) in &sorted[..shown] {
            let (epoch, id, kind) = *key;
            let Some(tables) = session.tables(epoch) else { continue };
            let stack = self.stacks.get(self.session, tables, id, tables.site(kind));
            let kind = value::kind_key(session, tables, kind);
            let stack = stack.as_deref();
            self.shown += 1;
            match (options.common.json, options.folded) {
                (true, _) => self.json(&kind, *n, stack, out)?,
                (_, true) => folded(*n, stack, options.all_frames, out)?,
                _ => self.people(&kind, *n, counts.events, stack, out)?,
            }
        }
        if for_people {
            lengths::left_out(sorted.len(), shown, "stack", out)?;
            declare(counts, out)?;
        }
        Ok(())
    }

    fn heading(&self, counts: &Counts, distinct: usize, out: &mut Out) -> Result<(), Failure> {
        let mut line = String::new();
        if self.session > 1 {
            line.push_str(&format!("\nsession {}: ", self.session));
        }
        let (events, distinct) =
            (counted(counts.events, "event"), counted(distinct as u64, "stack"));
        match counts.events {
            0 => line.push_str("no event with a stack\n"),
            _ => line.push_str(&format!("{events} with a stack, {distinct}\n")),
        }
        out.styled(Style::Dim, &line)
    }

    fn people(
        &self,
        kind: &str,
        n: u64,
        all: u64,
        stack: Option<&Stack>,
        out: &mut Out,
    ) -> Result<(), Failure> {
        out.styled(Style::Strong, &format!("{:>9}", count(n)))?;
        out.put(format_args!("  {:>5} %  ", time::percent(n, all)))?;
        out.text(&safe(kind.as_bytes()))?;
        out.text("\n")?;
        match stack {
            Some(stack) => print_calls(stack, self.options.all_frames, 11, out),
            None => out.styled(Style::Dim, "           (the trace does not define this stack)\n"),
        }
    }

    fn json(
        &self,
        kind: &str,
        n: u64,
        stack: Option<&Stack>,
        out: &mut Out,
    ) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        json::object(&mut bytes, |o| {
            o.put("session", self.session);
            o.put("count", n);
            o.put("kind", kind);
            o.put("stack", stack.map(|stack| &stack.json));
            if stack.is_some_and(|stack| stack.truncated) {
                o.put("truncated", true);
            }
            if stack.is_some_and(|stack| stack.lost) {
                o.put("lost", true);
            }
        });
        bytes.push(b'\n');
        out.bytes(&bytes)
    }

    /// Says of each module which of the names that were looked for it did not have.
    fn missing(&self, out: &mut Out) -> Result<(), Failure> {
        for report in self.stacks.reports() {
            let without = report.asked.saturating_sub(report.resolved);
            if without == 0 {
                continue;
            }
            let mut line =
                format!("{} of {} in ", count(without), counted(report.asked, "address"));
            push_safe(report.module.path.as_os_str().as_encoded_bytes(), &mut line);
            line.push_str(" without a name");
            match report.status {
                Some(Status::Missing(why)) => {
                    line.push_str(": ");
                    push_safe(why.to_string().as_bytes(), &mut line);
                }
                Some(Status::Found(source)) => {
                    line.push_str(", names from ");
                    push_safe(source.file.as_os_str().as_encoded_bytes(), &mut line);
                }
                None => {}
            }
            line.push('\n');
            out.styled(Style::Dim, &line)?;
        }
        Ok(())
    }
}

/// Says what the list cannot show.
fn declare(counts: &Counts, out: &mut Out) -> Result<(), Failure> {
    for (n, what) in [
        (counts.not_kept, "had a stack that could not be kept"),
        (counts.beyond, "had stacks beyond 1,048,576: counted only here"),
    ] {
        if n > 0 {
            out.styled(Style::Dim, &format!("{} {what}\n", counted(n, "event")))?;
        }
    }
    Ok(())
}

/// A stack on one line. What separates functions cannot stand in one.
fn folded(n: u64, stack: Option<&Stack>, all_frames: bool, out: &mut Out) -> Result<(), Failure> {
    let mut line = String::new();
    for call in stack.iter().flat_map(|stack| stack.shown(all_frames).iter().rev()) {
        if !line.is_empty() {
            line.push(';');
        }
        let name = match &call.function {
            Some(function) => function.replace(';', ":"),
            None => format!("{:#x}", call.address),
        };
        push_safe(name.as_bytes(), &mut line);
    }
    if line.is_empty() {
        line.push_str("(unknown)");
    }
    out.text(&format!("{line} {n}\n"))
}
