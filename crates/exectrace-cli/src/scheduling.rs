//! What a report says of who had a CPU: the table of threads, the facts, the JSON.
//!
//! With the kernel's switches a thread's time is divided by them, and only what it was blocked in
//! comes from recorded waits. Where the kernel only counted, its counts divide the time outside of
//! recorded waits. With neither, all of that is running or runnable.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::rc::Rc;

use serde_json::Value;
use serde_json::json;
use trace_analyze::Sched;
use trace_analyze::sched::Cpu;

use crate::failure::Failure;
use crate::output::Out;
use crate::places;
use crate::places::Cause;
use crate::stacks::Stack;
use crate::table;
use crate::table::Table;
use crate::time;

/// The columns of the table of threads behind its name and its life.
const COLUMNS: [&str; 8] =
    ["running", "CPU wait", "lock", "I/O", "others", "idle", "sleep", "unknown"];
/// Those of them that only the kernel's word fills.
const SWITCHED: [&str; 2] = ["CPU wait", "unknown"];

/// A thread's line.
#[derive(Debug)]
pub struct Row {
    name: String,
    wall_ns: u64,
    ns: [u64; COLUMNS.len()],
    /// Its time was divided by switches.
    is_divided: bool,
}

impl Row {
    /// Of a thread that lived for so long and spent so much in waits, by cause: by the waits alone,
    /// and what of that it was blocked by the switches.
    pub fn new(
        name: String,
        wall_ns: u64,
        waited: &BTreeMap<Cause, u64>,
        blocked: &BTreeMap<Cause, u64>,
        sched: &Sched,
        (thread, began_ns): (u32, u64),
    ) -> Row {
        let cpu = sched.cpu(thread);
        let by = if cpu.is_some() { blocked } else { waited };
        let cause = |c| by.get(&c).copied().unwrap_or(0);
        let outside = wall_ns.saturating_sub(waited.values().sum());
        let (running, waiting, unknown) = match (cpu, sched.counted(thread)) {
            (Some(cpu), _) => (cpu.running_ns, cpu.waiting_ns(), cpu.unknown_ns + cpu.unseen_ns),
            // Read a while before the thread's end: the rest of its life is taken to be alike.
            (None, Some(c)) => {
                let age = u128::from(c.at_ns.saturating_sub(began_ns).max(1));
                let part = |ns: u64| (u128::from(ns) * u128::from(wall_ns) / age) as u64;
                divide(outside, part(c.ran_ns), part(c.waited_ns), wall_ns)
            }
            (None, None) => (outside, 0, 0),
        };
        let causes = [Cause::Lock, Cause::Io, Cause::Other, Cause::Idle, Cause::Sleep].map(cause);
        let [lock, io, others, idle, sleep] = causes;
        let ns = [running, waiting, lock, io, others, idle, sleep, unknown];
        Row { name, wall_ns, ns, is_divided: cpu.is_some() }
    }

    /// On a CPU, or, where the kernel says nothing, running or runnable.
    pub fn running_ns(&self) -> u64 {
        self.ns[0]
    }

    /// Without a CPU that it could have used.
    pub fn waiting_ns(&self) -> u64 {
        self.ns[1]
    }
}

/// Divides what lay outside of recorded waits into running, waiting for a CPU and unknown, where
/// the kernel only counted both of them over the whole life. A part of either count may have been
/// inside of waits, such as the time from a wake to the CPU: so running is at most this, and
/// waiting for a CPU at least. Less than a fiftieth of the life is too little to be called unknown,
/// since the counts were not read at the end: it may have run then.
fn divide(outside: u64, ran: u64, waited: u64, wall: u64) -> (u64, u64, u64) {
    let running = ran.min(outside);
    let waiting = waited.min(outside - running);
    let unknown = outside - running - waiting;
    if unknown > wall / 50 { (running, waiting, unknown) } else { (outside - waiting, waiting, 0) }
}

/// The table of threads. A column that is empty in every row is left out: all of them do not fit a
/// terminal, and seldom are all of them used.
pub fn table(rows: &[Row]) -> Table<{ COLUMNS.len() + 2 }> {
    let divided = rows.iter().any(|r| r.is_divided);
    let is_shown: [bool; COLUMNS.len()] = std::array::from_fn(|i| {
        let always = if divided { i == 0 } else { !SWITCHED.contains(&COLUMNS[i]) };
        always || rows.iter().any(|r| r.ns[i] > 0)
    });
    let mut table = Table::new(std::array::from_fn(|i| match i {
        0 => table::text("thread", 12),
        1 => table::number("lived"),
        _ => table::number(COLUMNS[i - 2]),
    }));
    for row in rows {
        let share = |i: usize| match row.ns[i] {
            _ if !is_shown[i] => String::new(),
            0 if i > 0 => "-".to_owned(),
            ns => format!("{} %", time::percent(ns, row.wall_ns)),
        };
        table.row(std::array::from_fn(|i| match i {
            0 => row.name.clone(),
            1 => time::short(row.wall_ns),
            _ => share(i - 2),
        }));
    }
    table
}

/// Where running threads were, by samples: the function, and the program's own call around it.
#[derive(Debug, Default)]
pub struct Samples {
    by_place: HashMap<(String, String), u64>,
    all: u64,
}

/// Distinct places of samples that are kept; more are put together.
const PLACES_MAX: usize = 4096;

impl Samples {
    /// A thread was there.
    pub fn add(&mut self, stack: Option<&Rc<Stack>>) {
        let mut key = places::functions(stack);
        if self.by_place.len() >= PLACES_MAX && !self.by_place.contains_key(&key) {
            key = ("elsewhere".into(), String::new());
        }
        *self.by_place.entry(key).or_default() += 1;
        self.all += 1;
    }

    /// The most frequent first.
    fn sorted(&self) -> Vec<(&(String, String), u64)> {
        let mut all: Vec<_> = self.by_place.iter().map(|(place, n)| (place, *n)).collect();
        all.sort_by_key(|(place, n)| (Reverse(*n), *place));
        all
    }

    /// The first rows of them as a table; nothing where there are none.
    pub fn print(&self, rows: usize, out: &mut Out) -> Result<(), Failure> {
        if self.all == 0 {
            return Ok(());
        }
        let head = [table::number("CPU"), table::number("samples"), table::text("in", 16)];
        let [share, count, place] = head;
        let mut table = Table::new([share, count, place, table::text("called by", 16)]);
        for ((place, own), n) in self.sorted().into_iter().take(rows) {
            let caller = if own == place { String::new() } else { own.clone() };
            let share = format!("{} %", time::percent(n, self.all));
            table.row([share, time::count(n), table::shortened(place), table::shortened(&caller)]);
        }
        out.text("\n")?;
        table.print(out)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let places: Vec<Value> = self
            .sorted()
            .into_iter()
            .take(64)
            .map(|((place, own), n)| json!({"in": place, "called_by": own, "count": n}))
            .collect();
        json!({"count": self.all, "places": places})
    }
}

/// What the line of facts adds: how much of what threads were blocked for is in the trace, and
/// which threads got around the hooks.
pub fn facts(sched: &Sched, threads: impl Iterator<Item = u32>) -> String {
    let mut facts = String::new();
    let Some(cpu) = sched.all() else { return facts };
    if cpu.asked > 0 {
        facts.push_str(&format!(
            "; by the kernel's switches, recorded waits explain {} % of {} times that threads \
             blocked, and {} % of that time",
            time::percent(cpu.explained, cpu.asked),
            time::count(cpu.asked),
            time::percent(cpu.off_ns() - cpu.unknown_ns, cpu.off_ns()),
        ));
    }
    let unmet = threads.filter(|t| sched.is_unmet(*t)).count();
    if unmet > 0 {
        let threads = time::counted(unmet as u64, "thread");
        facts.push_str(&format!("; {threads} got around the hooks"));
    }
    facts
}

/// What the switches say, for programs.
pub fn json(cpu: Option<&Cpu>) -> Value {
    let Some(c) = cpu else { return Value::Null };
    json!({"running_ns": c.running_ns, "preempted_ns": c.preempted_ns, "woken_ns": c.woken_ns,
        "blocked_ns": c.blocked_ns, "unknown_ns": c.unknown_ns, "unseen_ns": c.unseen_ns,
        "switches": c.asked, "explained_switches": c.explained, "preempted": c.preempted,
        "migrations": c.migrations})
}

/// What the kernel has counted for a thread, for programs.
pub fn counted(sched: &Sched, thread: u32) -> Value {
    match sched.counted(thread) {
        Some(c) => json!({"ran_ns": c.ran_ns, "waited_ns": c.waited_ns, "at_ns": c.at_ns}),
        None => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::divide;

    #[test]
    fn counts_divide_no_more_than_was_lived() {
        // Lived 100, of which 40 in waits; by the kernel 50 on a CPU and 30 waiting for one.
        assert_eq!(divide(60, 50, 30, 100), (50, 10, 0));
        // All of it ran, and more: a part was inside of calls.
        assert_eq!(divide(60, 90, 30, 100), (60, 0, 0));
        // It neither ran nor waited for a CPU: it was blocked where no hook saw it.
        assert_eq!(divide(60, 10, 5, 100), (10, 5, 45));
        // What is left over is too little to be called unknown, and no less a part of its life.
        assert_eq!(divide(60, 50, 8, 100), (52, 8, 0));
    }
}
