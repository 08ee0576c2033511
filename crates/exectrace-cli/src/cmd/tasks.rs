//! `exectrace tasks`: how long tasks took by their names, and where each of them ran.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::ops::ControlFlow;

use clap::Args;
use serde_json::json;
use trace_analyze::Name;
use trace_analyze::NameId;
use trace_analyze::Names;
use trace_analyze::Task;
use trace_analyze::Tasks;
use trace_decode::Item;
use trace_decode::Session;
use trace_decode::Structural;

use crate::args::Common;
use crate::cmd;
use crate::cmd::Keep;
use crate::failure::Failure;
use crate::filter::Pattern;
use crate::filter::Window;
use crate::input::Input;
use crate::json;
use crate::lengths;
use crate::lengths::ByName;
use crate::lengths::Row;
use crate::output::Out;
use crate::output::Style;
use crate::output::push_safe;
use crate::table;
use crate::table::Table;
use crate::time;
use crate::time::count;
use crate::time::counted;
use crate::verdict::Verdict;

/// Names shown to people who did not say how many.
const NAMES_SHOWN: usize = 10;

/// Width from which the threads that a task ran on have their names.
const NAMES_FROM: usize = 100;

/// Tasks listed for people who did not say how many.
const TASKS_SHOWN: usize = 20;

const HELP: &str = "\
The latency of a task is the time from its beginning to its end, on whatever threads these were;
entered is the time in which threads had it as their current task, so what is missing is waiting.
With --from and --to, tasks count that were alive at some time between, with their whole latency.

With --name, --task or --list, each task is listed with the threads that it ran on, the longest
first; one that has not ended counts as long as the session went on.

The JSON of the summary is an object: tasks, a list of {name, count, total_ns, entered_ns, min_ns,
p50_ns, p90_ns, p99_ns, max_ns, open, began_unseen, buckets (from, to, count), file, line, sites},
and ends_unknown, beyond, complete. The JSON of a list is a line for each task, in the order in
which they ended, with --limit the longest, longest first: {session, task, name, parent, began_ns,
began_on, ended_ns, ended_on, latency_ns, entered_ns, ran_on}, ran_on a list of {thread, name,
first_ns, entered_ns, times}.

Examples:
  exectrace tasks trace.bin                    latencies by name
  exectrace tasks --name request trace.bin     the slowest requests, and where they ran
  exectrace tasks --task 17 trace.bin
  exectrace tasks --list --json trace.bin | jq -c 'select(.latency_ns > 1e6)'";

/// What to print.
#[derive(Args, Debug)]
#[command(after_help = format!("{}\n\n{HELP}", lengths::PERCENTILES))]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Only tasks of this name, each listed; * and ? stand for other characters (repeatable)
    #[arg(long, value_name = "PATTERN")]
    name: Vec<Pattern>,
    /// Only the task with this id, listed (may be repeated)
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    task: Vec<u64>,
    /// Only tasks that this thread began, ended or worked for, by its number (may be repeated)
    #[arg(long, value_name = "N")]
    thread: Vec<u32>,
    /// List each task
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    window: Window,
    /// How many names, or tasks of a list; 10 names and 20 tasks for people, all in JSON
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

impl Options {
    fn lists(&self) -> bool {
        self.list || !self.name.is_empty() || !self.task.is_empty()
    }
}

/// Runs the command.
pub fn run(options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    options.window.check()?;
    let mut input = Input::open(&options.common.file)?;
    let mut verdict = Verdict::new(input.name());
    let with_runs = options.lists() || !options.thread.is_empty();
    let mut tasks = if with_runs { Tasks::with_runs() } else { Tasks::new() };
    let mut found = Found::new(options);
    cmd::merged(&mut input, &mut verdict, out, Keep::NoStacks, |item, out| {
        let mut failed = Ok(());
        match item {
            Item::SessionBegin(_) => {
                found.session += 1;
                tasks.begin_session();
            }
            Item::Control(control) => {
                if let Structural::TaskState(state) = control.event() {
                    tasks.state(control.session(), &state);
                }
            }
            Item::Event(event) => {
                let session = event.session();
                tasks.event(event, &mut |names, task| {
                    failed = found.take(names, task, session, out);
                });
            }
            Item::SessionEnd(session) => {
                tasks.end_session(session.duration_ns(), &mut |names, task| {
                    if failed.is_ok() {
                        failed = found.take(names, task, session, out);
                    }
                });
                found.session_ends(session);
            }
            _ => {}
        }
        failed.map(|()| ControlFlow::Continue(()))
    })?;
    match (options.common.json, options.lists()) {
        (true, true) => found.list_json(&tasks.names, out)?,
        (true, false) => found.summary_json(&tasks, &verdict, out)?,
        (false, _) => found.people(&tasks, out)?,
    }
    Ok(verdict)
}

/// The tasks that are asked for.
struct Found<'o> {
    options: &'o Options,
    /// Number of the session, from 1.
    session: usize,
    by_name: ByName,
    /// Tasks to be listed, the shortest on top.
    longest: BinaryHeap<Reverse<Listed>>,
    listed_max: usize,
    all: usize,
    threads: BTreeMap<(usize, u32), String>,
}

/// A task in the list. Ordered by its length so far, then the earlier and smaller first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Listed {
    ns: u64,
    place: (Reverse<usize>, Reverse<u64>),
    task: Kept,
}

/// The task itself says nothing about the order.
struct Kept(Task);

impl PartialEq for Kept {
    fn eq(&self, _: &Kept) -> bool {
        true
    }
}

impl Eq for Kept {}

impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Kept) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Kept {
    fn cmp(&self, _: &Kept) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl<'o> Found<'o> {
    fn new(options: &'o Options) -> Found<'o> {
        let listed_max = match (options.lists(), options.common.json) {
            (false, _) => 0,
            (true, true) => options.limit.unwrap_or(0),
            (true, false) => options.limit.unwrap_or(TASKS_SHOWN),
        };
        Found {
            options,
            session: 0,
            by_name: ByName::new(&options.name),
            longest: BinaryHeap::new(),
            listed_max,
            all: 0,
            threads: BTreeMap::new(),
        }
    }

    fn is_wanted(&mut self, names: &Names, task: &Task) -> bool {
        let options = self.options;
        let has = |n: &u32| {
            [task.began_on, task.ended_on].contains(n) || task.runs.iter().any(|r| r.thread == *n)
        };
        let (from, to) = (task.began_ns.unwrap_or(0), task.ended_ns.unwrap_or(u64::MAX));
        (options.task.is_empty() || options.task.contains(&task.id))
            && (options.thread.is_empty() || options.thread.iter().any(has))
            && options.window.overlaps(from, to)
            && self.by_name.wants(names, task.name)
    }

    /// Takes in a task that has ended, or will not end any more.
    fn take(
        &mut self,
        names: &Names,
        task: Task,
        session: &Session,
        out: &mut Out,
    ) -> Result<(), Failure> {
        if !self.is_wanted(names, &task) {
            return Ok(());
        }
        self.all += 1;
        let row = self.by_name.row(task.name);
        row.own_ns = row.own_ns.saturating_add(task.entered_ns);
        match (task.latency_ns(), task.ended_ns) {
            (Some(ns), _) => row.lengths.add(ns),
            (None, Some(_)) => row.began_unseen += 1,
            (None, None) => row.open += 1,
        }
        if self.options.lists() && self.options.common.json && self.options.limit.is_none() {
            let name_of = |thread| thread_name(session, thread);
            return print_json(self.session, &task, names, name_of, out);
        }
        if self.listed_max > 0 {
            let end = task.ended_ns.unwrap_or_else(|| session.duration_ns());
            let ns = end.saturating_sub(task.began_ns.unwrap_or(0));
            let place = (Reverse(self.session), Reverse(task.id));
            self.longest.push(Reverse(Listed { ns, place, task: Kept(task) }));
            if self.longest.len() > self.listed_max {
                self.longest.pop();
            }
        }
        Ok(())
    }

    /// Keeps the names of threads that will be printed: they are gone with their session.
    fn session_ends(&mut self, session: &Session) {
        for Reverse(Listed { place, task: Kept(task), .. }) in &self.longest {
            if place.0.0 == self.session {
                for thread in threads_of(task) {
                    let name = || thread_name(session, thread);
                    self.threads.entry((self.session, thread)).or_insert_with(name);
                }
            }
        }
    }

    /// The listed tasks with the number of their session, the longest first.
    fn listed(&mut self) -> Vec<(usize, u64, Task)> {
        let sorted = std::mem::take(&mut self.longest).into_sorted_vec();
        sorted.into_iter().map(|Reverse(l)| (l.place.0.0, l.ns, l.task.0)).collect()
    }

    fn thread(&self, session: usize, thread: u32) -> String {
        self.threads.get(&(session, thread)).cloned().unwrap_or_default()
    }

    fn list_json(&mut self, names: &Names, out: &mut Out) -> Result<(), Failure> {
        for (session, _, task) in self.listed() {
            print_json(session, &task, names, |thread| self.thread(session, thread), out)?;
        }
        Ok(())
    }

    fn summary_json(&self, tasks: &Tasks, verdict: &Verdict, out: &mut Out) -> Result<(), Failure> {
        let rows = self.by_name.sorted(&tasks.names);
        let shown = rows.iter().take(self.options.limit.unwrap_or(usize::MAX));
        let list: Vec<_> =
            shown.map(|(name, id, row)| lengths::row_json(name, *id, row, "entered_ns")).collect();
        let mut bytes = Vec::new();
        json::object(&mut bytes, |o| {
            o.put("complete", verdict.is_complete());
            o.put("names", rows.len());
            o.put("ends_unknown", tasks.ends_unknown());
            o.put("beyond", tasks.beyond());
            o.put("tasks", json!(list));
        });
        bytes.push(b'\n');
        out.bytes(&bytes)
    }

    fn people(&mut self, tasks: &Tasks, out: &mut Out) -> Result<(), Failure> {
        let rows = self.by_name.sorted(&tasks.names);
        if rows.is_empty() {
            return out.text("no tasks\n");
        }
        let limit = if self.options.lists() { None } else { self.options.limit };
        let shown = rows.len().min(limit.unwrap_or(NAMES_SHOWN));
        print_names(&rows[..shown], out)?;
        lengths::left_out(rows.len(), shown, "name", out)?;
        if let Some((name, id, row)) = rows.first().filter(|(_, _, row)| row.lengths.count() > 1) {
            let name = lengths::name_text(name, *id);
            let what = format!("\nlatency of {name}, {}\n", counted(row.lengths.count(), "task"));
            out.styled(Style::Dim, &what)?;
            lengths::histogram(&row.lengths, out)?;
        }
        declare(tasks, &rows, out)?;
        if self.options.lists() { self.list_people(&tasks.names, out) } else { Ok(()) }
    }

    fn list_people(&mut self, names: &Names, out: &mut Out) -> Result<(), Failure> {
        let listed = self.listed();
        let shown = listed.len();
        let mut table = Table::new([
            table::number("session"),
            table::number("task"),
            table::number("begin ms"),
            table::number("end ms").spare(2),
            table::number("latency"),
            table::number("entered"),
            table::number("parent").spare(1),
            table::text("name", 12),
            table::list("ran on", 24),
            table::text("begun by", 12).spare(4),
            table::text("ended by", 12).spare(3),
        ]);
        let is_wide = out.width().is_none_or(|width| width >= NAMES_FROM);
        let ms = |ns: Option<u64>, none: &str| ns.map_or(none.to_owned(), time::ms);
        for (session, ns, task) in &listed {
            let latency = match task.latency_ns() {
                Some(ns) => time::short(ns),
                None => format!(">{}", time::short(*ns)),
            };
            let by = |thread: u32| match thread {
                0 => "-".to_owned(),
                _ => thread_text(thread, &self.thread(*session, thread)),
            };
            table.row([
                if self.session > 1 { session.to_string() } else { String::new() },
                task.id.to_string(),
                ms(task.began_ns, "?"),
                ms(task.ended_ns, "open"),
                latency,
                time::short(task.entered_ns),
                if task.parent == 0 { String::new() } else { task.parent.to_string() },
                lengths::name_text(names.get(task.name), task.name),
                self.ran_on(*session, task, is_wide),
                by(task.began_on),
                by(task.ended_on),
            ]);
        }
        let what = if shown < self.all { "the longest tasks" } else { "the tasks" };
        let what = format!("\n{what}, and how long threads worked for them\n");
        out.styled(Style::Dim, &what)?;
        table.print(out)?;
        lengths::left_out(self.all, shown, "task", out)
    }

    /// Where a task ran, the thread that worked longest for it first.
    fn ran_on(&self, session: usize, task: &Task, with_names: bool) -> String {
        let mut runs = task.runs.clone();
        runs.sort_by_key(|run| Reverse(run.entered_ns));
        let one = |run: &trace_analyze::Run| {
            let name = if with_names { self.thread(session, run.thread) } else { String::new() };
            let thread = thread_text(run.thread, &name);
            let mut text = format!("{thread}: {}", time::short(run.entered_ns));
            if run.times > 1 {
                text.push_str(&format!(" in {}", count(run.times)));
            }
            text
        };
        let mut all: Vec<String> = runs.iter().map(one).collect();
        if task.other_ns > 0 {
            all.push(format!("others: {}", time::short(task.other_ns)));
        }
        if all.is_empty() { "-".to_owned() } else { all.join(", ") }
    }
}

fn threads_of(task: &Task) -> impl Iterator<Item = u32> + '_ {
    let ends = [task.began_on, task.ended_on].into_iter().filter(|thread| *thread != 0);
    ends.chain(task.runs.iter().map(|run| run.thread))
}

/// The name of a thread, as it is in the trace but for what is no UTF-8.
fn thread_name(session: &Session, thread: u32) -> String {
    let known = session.thread(u64::from(thread));
    known.map_or_else(String::new, |known| json::lossy(&known.name).into_owned())
}

fn thread_text(thread: u32, name: &str) -> String {
    let mut text = format!("T{thread}");
    if !name.is_empty() {
        text.push(' ');
        push_safe(name.as_bytes(), &mut text);
    }
    text
}

fn print_json(
    session: usize,
    task: &Task,
    names: &Names,
    thread_name: impl Fn(u32) -> String,
    out: &mut Out,
) -> Result<(), Failure> {
    let some = |n: u32| (n != 0).then_some(n);
    let runs = task.runs.iter().map(|run| {
        json!({ "thread": run.thread, "name": thread_name(run.thread), "first_ns": run.first_ns,
                "entered_ns": run.entered_ns, "times": run.times })
    });
    let runs: Vec<_> = runs.collect();
    let mut bytes = Vec::new();
    json::object(&mut bytes, |o| {
        o.put("session", session);
        o.put("task", task.id);
        o.put("name", names.get(task.name).text.as_deref().map(json::lossy));
        o.put("parent", (task.parent != 0).then_some(task.parent));
        o.put("began_ns", task.began_ns);
        o.put("began_on", some(task.began_on));
        o.put("ended_ns", task.ended_ns);
        o.put("ended_on", some(task.ended_on));
        o.put("latency_ns", task.latency_ns());
        o.put("entered_ns", task.entered_ns);
        o.put("ran_on", runs);
        if task.other_ns > 0 {
            o.put("entered_on_others_ns", task.other_ns);
        }
    });
    bytes.push(b'\n');
    out.bytes(&bytes)
}

fn print_names(rows: &[(&Name, NameId, &Row)], out: &mut Out) -> Result<(), Failure> {
    let mut table = Table::new([
        table::number("count"),
        table::number("open"),
        table::number("unseen"),
        table::number("total"),
        table::number("entered"),
        table::number("min").spare(4),
        table::number("p50"),
        table::number("p90").spare(1),
        table::number("p99"),
        table::number("max"),
        table::text("task", 16),
        table::text("where", 24).spare(5),
    ]);
    let some = |n: u64| if n > 0 { count(n) } else { String::new() };
    for (name, id, row) in rows {
        let quantile = |i: usize| row.quantiles().map_or("-".to_owned(), |q| time::short(q[i]));
        table.row([
            count(row.lengths.count()),
            some(row.open),
            some(row.began_unseen),
            time::short(row.lengths.total_ns()),
            time::short(row.own_ns),
            row.lengths.min_ns().map_or("-".to_owned(), time::short),
            quantile(0),
            quantile(1),
            quantile(2),
            quantile(3),
            lengths::name_text(name, *id),
            lengths::place_text(name),
        ]);
    }
    table.print(out)
}

/// Says what the table cannot show.
fn declare(tasks: &Tasks, rows: &[(&Name, NameId, &Row)], out: &mut Out) -> Result<(), Failure> {
    let sum = |of: fn(&Row) -> u64| rows.iter().fold(0u64, |all, r| all.saturating_add(of(r.2)));
    let mut say = |n: u64, what: &str, rest: &str| match n {
        0 => Ok(()),
        _ => out.styled(Style::Dim, &format!("{} {rest}\n", counted(n, what))),
    };
    say(sum(|row| row.open), "task", "without an end (open): no latency, not in the percentiles")?;
    let rest = "that began before the trace or in what was lost (unseen): no latency";
    say(sum(|row| row.began_unseen), "task", rest)?;
    say(tasks.ends_unknown(), "end", "of tasks that the trace does not know")?;
    say(tasks.beyond(), "task", "beyond 1,048,576 alive at once: counted only here")
}
