//! What a thread does: events of every sort, each entered into its ledger.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use trace::__private::Arg;
use trace::__private::mark;
use trace::Outcome;
use trace::Span;
use trace::Task;

use super::ledger::Ledger;
use super::ledger::Op;
use super::random::Rng;
use super::random::log_of;
use super::random::mix;
use super::random::text_of;

/// A site of its own, and its address.
macro_rules! site {
    ($class:ident, $name:expr, [$($field:expr),*]) => {{
        trace::__site!($class, $name, 0, [$($field),*]);
        &__SITE
    }};
}

fn when_on(emit: impl FnOnce() -> Outcome) -> Outcome {
    if trace::is_enabled() { emit() } else { Outcome::Off }
}

/// Emits one event that bears its number, and enters what became of it. False: the ledger is full.
/// Signal-safe.
pub fn emit_one(l: &Ledger, handler: bool, what: u64) -> bool {
    let Some(n) = l.claim(handler, 1) else { return false };
    let (op, outcome) = match what % 4 {
        0 | 1 => (Op::Probe, trace::emit_probe(n)),
        2 => (Op::Fields, when_on(|| fields(n))),
        _ => (Op::Count, when_on(|| mark(site!(Counter, "soak count", ["value"]), (n.ready(),)))),
    };
    l.enter(n, op, 0, outcome);
    true
}

fn fields(n: u64) -> Outcome {
    let site = site!(Instant, "soak fields", ["n", "text", "i", "f", "b", "small"]);
    let h = mix(n);
    let values = (
        n.ready(),
        text_of(n).ready(),
        (h as i64).ready(),
        (h as f64).ready(),
        (h & 1 == 1).ready(),
        (h as u8).ready(),
    );
    mark(site, values)
}

/// A span of a handler with an event in it. Its end is entered behind its begin.
pub fn handler_span(l: &Ledger, what: u64) -> bool {
    let Some(n) = l.claim(true, 2) else { return false };
    let (span, begun) = begin_span(n);
    l.enter(n, Op::Span, 0, begun);
    emit_one(l, true, what);
    l.enter(n + 1, Op::SpanEnd, 0, span.end_told());
    true
}

fn begin_span(n: u64) -> (Span, Outcome) {
    match trace::is_enabled() {
        true => Span::begin_told(site!(Span, "soak span", ["n"]), (n.ready(),)),
        false => (Span::OFF, Outcome::Off),
    }
}

/// A thread at work.
pub struct Worker<'a> {
    pub ledger: &'a Ledger,
    pub rng: Rng,
    spans: Vec<Span>,
    pub tasks: Vec<Task>,
}

/// What a worker asks of others.
pub trait Others {
    /// Gives a task away; gives it back where nobody wants it.
    fn give(&self, task: Task) -> Option<Task>;
    /// Takes a task of another thread.
    fn take(&self) -> Option<Task>;
}

const SPANS: usize = 40;

impl<'a> Worker<'a> {
    pub fn new(ledger: &'a Ledger, rng: Rng) -> Worker<'a> {
        Worker { ledger, rng, spans: Vec::with_capacity(SPANS), tasks: Vec::new() }
    }

    /// Does `n` things. False: the ledger is full.
    pub fn some(&mut self, n: u64, others: &dyn Others) -> bool {
        (0..n).all(|_| self.one(others))
    }

    fn one(&mut self, others: &dyn Others) -> bool {
        match self.rng.below(100) {
            0..40 => {
                let what = self.rng.next();
                emit_one(self.ledger, false, what)
            }
            40..50 => self.log(),
            50..66 => self.open_span(),
            66..80 => self.close_span(),
            80..85 => self.begin_task(),
            85..91 => self.hand_task(others),
            91..94 => self.in_task(others),
            94..97 => {
                let depth = self.rng.below(160);
                dive(depth, &mut || emit_one(self.ledger, false, depth) && log(self.ledger, None))
            }
            97 => self.flurry(),
            _ => {
                std::thread::sleep(Duration::from_micros(self.rng.below(300)));
                true
            }
        }
    }

    /// Fills buffers, so that there are exchanges.
    fn flurry(&mut self) -> bool {
        let n = if trace::is_enabled() { self.rng.below(3000) } else { 0 };
        (0..n).all(|i| emit_one(self.ledger, false, i))
    }

    fn log(&mut self) -> bool {
        let i = self.rng.next() as usize % (self.tasks.len() + 1);
        log(self.ledger, self.tasks.get(i).map(Task::id))
    }

    fn open_span(&mut self) -> bool {
        if self.spans.len() == SPANS {
            return self.close_span();
        }
        let Some(n) = self.ledger.claim(false, 1) else { return false };
        let (span, outcome) = begin_span(n);
        self.ledger.enter(n, Op::Span, 0, outcome);
        self.spans.push(span);
        true
    }

    fn close_span(&mut self) -> bool {
        if self.spans.is_empty() {
            return true;
        }
        let Some(n) = self.ledger.claim(false, 1) else { return false };
        let last = self.spans.len() - 1;
        // As a rule the innermost first.
        let at = if self.rng.one_in(8) { self.rng.next() as usize % (last + 1) } else { last };
        self.ledger.enter(n, Op::SpanEnd, 0, self.spans.remove(at).end_told());
        true
    }

    fn begin_task(&mut self) -> bool {
        if self.tasks.len() > 50 {
            return self.end_task();
        }
        let Some(n) = self.ledger.claim(false, 1) else { return false };
        let (task, outcome) = match trace::is_enabled() {
            true => {
                let site = site!(Task, "soak task", ["task", "parent", "n"]);
                let parent = self.tasks.first().filter(|_| n % 2 == 0).map(Task::id);
                trace::__private::begin_task_told(site, parent, (n.ready(),))
            }
            false => (Task::OFF, Outcome::Off),
        };
        self.ledger.enter(n, Op::Task, 0, outcome);
        self.tasks.push(task);
        true
    }

    fn end_task(&mut self) -> bool {
        let Some(task) = self.tasks.pop() else { return true };
        let Some(n) = self.ledger.claim(false, 1) else {
            self.tasks.push(task);
            return false;
        };
        let id = task.id();
        self.ledger.enter(n, Op::TaskEnd, id, task.end_told());
        true
    }

    /// A task changes hands, or ends on a thread that may not have begun it.
    fn hand_task(&mut self, others: &dyn Others) -> bool {
        if self.rng.one_in(2) {
            if let Some(task) = self.tasks.pop() {
                self.tasks.extend(others.give(task));
            }
        } else {
            self.tasks.extend(others.take());
        }
        self.rng.one_in(3) || self.end_task()
    }

    /// Works for a task for a while.
    fn in_task(&mut self, others: &dyn Others) -> bool {
        let Some(task) = self.tasks.pop() else { return true };
        let Some(n) = self.ledger.claim(false, 1) else {
            self.tasks.push(task);
            return false;
        };
        let (entered, outcome) = task.enter_told();
        self.ledger.enter(n, Op::TaskSwitch, task.id(), outcome);
        let some = self.rng.below(8);
        let went_on = self.some(some, others);
        let Some(n) = self.ledger.claim(false, 1) else {
            // Without a place for it the guard must not end in an event of its own.
            std::mem::forget(entered);
            self.tasks.push(task);
            return false;
        };
        let (before, outcome) = entered.leave_told();
        self.ledger.enter(n, Op::TaskSwitch, before, outcome);
        self.tasks.push(task);
        went_on
    }

    /// Ends what is open. What finds no place any more is left open for ever.
    pub fn end(mut self) {
        while !self.spans.is_empty() && self.close_span() {}
        while !self.tasks.is_empty() && self.end_task() {}
        self.spans.drain(..).for_each(std::mem::forget);
        self.tasks.drain(..).for_each(std::mem::forget);
    }
}

fn log(l: &Ledger, task: Option<u64>) -> bool {
    let Some(n) = l.claim(false, 1) else { return false };
    let text = log_of(n);
    let outcome = when_on(|| match task {
        Some(_) => {
            trace::__site!(Log, "soak", 2, ["task", "text"]);
            trace::__private::log(&__SITE, task, format_args!("{n} {text}"))
        }
        None => {
            trace::__site!(Log, "soak", 0, ["text"]);
            trace::__private::log(&__SITE, None, format_args!("{n} {text}"))
        }
    });
    l.enter(n, Op::Log, 0, outcome);
    true
}

/// Calls itself so often, and `f` there.
#[inline(never)]
pub fn dive(depth: u64, f: &mut dyn FnMut() -> bool) -> bool {
    match depth {
        0 => f(),
        // Not the last thing that it does, so that it keeps its frame.
        _ => std::hint::black_box(dive(depth - 1, f)),
    }
}

/// Counts a thread that is created with the recorder's knowledge.
pub fn count_create(l: &Ledger) {
    l.creates.fetch_add(1, Relaxed);
}
