//! `exectrace waits`: every wait, with its parts and who ended each.

use std::ops::ControlFlow;

use clap::Args;
use serde_json::Value;
use serde_json::json;
use trace::encode::op::Object;
use trace::encode::op::Op;
use trace_analyze::Meanwhile;
use trace_analyze::Sched;
use trace_analyze::Wait;
use trace_analyze::Waits;
use trace_analyze::sched::Part;
use trace_analyze::waits::Ending;
use trace_analyze::waits::Holder;
use trace_analyze::waits::StackKey;
use trace_analyze::waits::Waker;
use trace_decode::Item;
use trace_decode::Session;

use crate::args::Common;
use crate::args::Symbols;
use crate::cmd;
use crate::cmd::Keep;
use crate::failure::Failure;
use crate::filter::Window;
use crate::input::Input;
use crate::output::Out;
use crate::places;
use crate::places::Cause;
use crate::stacks::Stacks;
use crate::time;
use crate::verdict::Verdict;

const HELP: &str = "\
A wait is a call that may block: on a lock, for I/O, for another thread, for time. It is divided at
every wake on its object; each piece is charged to the thread whose wake ended it: a lock's release,
a signal, the last arrival at a barrier, the end of the thread that is joined, the first write to
the other end of the pipe, eventfd or socket that is read, in this process. holder says what is
known of who held the lock: known (the lock named its owner), likely (the first to wake on a
contended lock), unknown.

JSON lines: thread, kind, class, object (of poll and select the descriptor that could be read, or
null), began_ns, ended_ns, duration_ns, ending (done, at once, timed out, failed, never), result,
errno, stack, stack_walk (how that was walked: frame pointers,
tables, guesses where there were no tables; cut and lost: there are more frames),
released_by {thread, kind, began_ns, ended_ns, stack} or null,
blocked_ns and woken_ns (null where the kernel's switches are not in the trace): of the wait,
blocked without a CPU, and woken without one yet; pieces: from_ns, to_ns, by {thread, stack} or
null, holder, holder_of, meanwhile {ns, running_ns, blocked [{kind, object, ns}]}: what that waker
did in this time, as far as it was seen and did not itself wait for the same object.

Examples:
  exectrace waits app.trace                         the longest waits
  exectrace waits --thread 3 --min 1ms app.trace
  exectrace waits --json app.trace | jq -c 'select(.kind == \"futex wait\")'";

/// What to print.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    symbols: Symbols,
    /// Only waits of this thread, by its number in the trace (may be repeated)
    #[arg(long, value_name = "N")]
    thread: Vec<u32>,
    /// Only waits of this class: locks, io, net, sleep, sched, process (may be repeated)
    #[arg(long, value_name = "CLASS")]
    class: Vec<String>,
    /// Only waits of this length or longer, as 5us, 1ms, 2s
    #[arg(long, value_name = "TIME", value_parser = crate::filter::time)]
    min: Option<u64>,
    #[command(flatten)]
    window: Window,
    /// How many waits to show: the longest 20 for people, all in JSON
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// Longest waits shown to people who did not say how many.
const LIMIT: usize = 20;

/// Runs the command.
pub fn run(options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    options.window.check()?;
    let mut input = Input::open(&options.common.file)?;
    let mut verdict = Verdict::new(input.name());
    let mut stacks = Stacks::new(&options.symbols, false);
    let (mut waits, mut sched) = (Waits::new(), Sched::new());
    let (mut session_number, mut shown) = (0, 0);
    let mut longest: Vec<(u64, String)> = Vec::new();
    let (mut count, mut total_ns) = (0u64, 0u64);
    cmd::merged(&mut input, &mut verdict, out, Keep::Stacks, |item, out| {
        let session = match item {
            Item::SessionBegin(_) => {
                session_number += 1;
                (waits, sched) = (Waits::new(), Sched::new());
                return Ok(ControlFlow::Continue(()));
            }
            Item::Event(event) => {
                waits.add(event);
                sched.event(event);
                event.session()
            }
            Item::SessionEnd(session) => {
                waits.finish(session);
                sched.end(session.end().map_or(0, |end| session.clock().ns(end.at)));
                *session
            }
            _ => return Ok(ControlFlow::Continue(())),
        };
        while let Some(wait) = waits.next_wait() {
            let part = sched.wait(&wait);
            if !is_wanted(options, &wait) {
                continue;
            }
            count += 1;
            total_ns = total_ns.saturating_add(wait.duration_ns());
            let mut stack = |key| stack(&mut stacks, session_number, session, key);
            if options.common.json {
                if options.limit.is_some_and(|most| shown >= most) {
                    return Ok(ControlFlow::Break(()));
                }
                shown += 1;
                out.put(format_args!("{}\n", wait_json(&wait, part, &mut stack)))?;
                continue;
            }
            let most = options.limit.unwrap_or(LIMIT);
            let shortest = longest.last().map_or(0, |l| l.0);
            if longest.len() < most || wait.duration_ns() > shortest {
                let at = longest.partition_point(|l| l.0 >= wait.duration_ns());
                longest.insert(at, (wait.duration_ns(), wait_text(&wait, &mut stack)));
                longest.truncate(most);
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if !options.common.json {
        for (_, text) in &longest {
            out.text(text)?;
        }
        let rest = count.saturating_sub(longest.len() as u64);
        let waits = time::counted(count, "wait");
        let more = match rest {
            0 => String::new(),
            n => format!("; {} not shown, see --limit and --json", time::count(n)),
        };
        out.put(format_args!("{waits}, {} in all{more}\n", time::short(total_ns)))?;
    }
    Ok(verdict)
}

/// A stack, where the trace has it.
pub type StackOf = Option<std::rc::Rc<crate::stacks::Stack>>;

/// The stack of a wait or of a wake.
pub fn stack(stacks: &mut Stacks, number: usize, session: &Session, key: StackKey) -> StackOf {
    let tables = session.tables(key.epoch)?;
    if key.id == 0 { None } else { stacks.get(number, tables, key.id, None) }
}

fn is_wanted(options: &Options, wait: &Wait) -> bool {
    let thread = options.thread.is_empty() || options.thread.contains(&wait.thread);
    let class = options.class.is_empty() || options.class.iter().any(|c| c == wait.op.class());
    thread
        && class
        && options.min.is_none_or(|min| wait.duration_ns() >= min)
        && options.window.overlaps(wait.began_ns, wait.ended_ns)
}

/// How a wait ended, in a word.
pub fn ending(ending: Ending) -> &'static str {
    match ending {
        Ending::Done => "done",
        Ending::AtOnce => "at once",
        Ending::TimedOut => "timed out",
        Ending::Failed(_) => "failed",
        Ending::Never => "never",
    }
}

/// An object as people read it.
pub fn object(op: Op, object: u64) -> String {
    match op.object() {
        Object::Address => format!("{object:#x}"),
        Object::Descriptor | Object::Ready => {
            op.descriptor(object).map_or_else(String::new, |fd| format!("fd {fd}"))
        }
        Object::Thread => format!("thread {object:#x}"),
        Object::Process => format!("process {object}"),
        Object::Nanos => time::short(object),
        Object::None => String::new(),
    }
}

/// The same for programs: of a call that waits for several descriptors the ready one, or null.
fn object_json(op: Op, object: u64) -> Value {
    match op.object() {
        Object::Ready => json!(op.descriptor(object)),
        _ => json!(object),
    }
}

/// What the waker of a piece did in that time.
fn meanwhile(did: &Meanwhile) -> Value {
    let blocked: Vec<Value> = did
        .blocked()
        .map(|b| json!({"kind": b.op.name(), "object": object_json(b.op, b.object), "ns": b.ns}))
        .collect();
    json!({"ns": did.ns, "running_ns": did.running_ns, "blocked": blocked})
}

fn wait_json(
    wait: &Wait,
    part: Option<Part>,
    stack: &mut impl FnMut(StackKey) -> StackOf,
) -> Value {
    let found = stack(wait.stack);
    let place = places::place(wait.op, found.as_ref());
    let mut waker = |w: &Waker| {
        json!({
            "thread": w.thread,
            "kind": w.did(),
            "began_ns": w.began_ns,
            "ended_ns": w.ended_ns,
            "stack": places::stack_json(stack(w.stack).as_ref()),
        })
    };
    let released_by = wait.released_by.as_ref().map(&mut waker);
    let pieces: Vec<Value> = wait
        .pieces
        .iter()
        .map(|p| {
            let (holder, of) = match p.holder {
                Holder::Known(tid) => ("known", json!({ "tid": tid })),
                // A futex may be of something that nobody holds.
                Holder::Likely(thread) if place.cause == Cause::Lock || !place.is_named() => {
                    ("likely", json!({ "thread": thread }))
                }
                Holder::Likely(_) | Holder::Unknown => ("unknown", Value::Null),
            };
            json!({
                "from_ns": p.from_ns,
                "to_ns": p.to_ns,
                "by": p.by.as_ref().map(&mut waker),
                "holder": holder,
                "holder_of": of,
                "meanwhile": meanwhile(&p.meanwhile),
            })
        })
        .collect();
    json!({
        "thread": wait.thread,
        "task": wait.task,
        "kind": wait.op.name(),
        "class": wait.op.class(),
        "primitive": place.primitive,
        "cause": place.cause.name(),
        "object": object_json(wait.op, wait.object),
        "began_ns": wait.began_ns,
        "ended_ns": wait.ended_ns,
        "duration_ns": wait.duration_ns(),
        "blocked_ns": part.map(|p| p.blocked_ns),
        "woken_ns": part.map(|p| p.woken_ns),
        "ending": ending(wait.ending),
        "result": wait.result,
        "errno": if let Ending::Failed(e) = wait.ending { e } else { 0 },
        "stack": places::stack_json(found.as_ref()),
        "stack_walk": found.as_ref().map(|s| &s.walk),
        "released_by": released_by,
        "pieces": pieces,
    })
}

fn wait_text(wait: &Wait, stack: &mut impl FnMut(StackKey) -> StackOf) -> String {
    let found = stack(wait.stack);
    let place = places::place(wait.op, found.as_ref());
    let mut text = format!(
        "{:>9}  at {}  thread {}  {} {}  {}",
        time::short(wait.duration_ns()),
        time::ms(wait.began_ns),
        wait.thread,
        place.primitive,
        object(wait.op, wait.object),
        place.text,
    );
    if wait.ending != Ending::Done {
        text.push_str(&format!("  ({})", ending(wait.ending)));
    }
    text.push('\n');
    if let Some(by) = &wait.released_by {
        let from = places::own_call(stack(by.stack).as_ref());
        let by = match by.op {
            Op::Join => format!("the end of thread {}", by.thread),
            _ => format!("thread {} in {from}", by.thread),
        };
        text.push_str(&format!("           released by {by}\n"));
    }
    text
}
