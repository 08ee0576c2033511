//! Holds the traces of a round against what its threads attempted.
//!
//! 1. Thread by thread, in order: what a ledger says was recorded is decoded, once, with the values
//!    that its number implies; nothing else is.
//! 2. Losses by cause: what was told is declared. The recorder's own events, whose outcome nobody
//!    is told (a thread's end, the creation of another), may be lost besides, at most once each.
//! 3. A writer that failed leaves a prefix: what is missing is no more than the summary counts.
//! 4. A thread that was stuck at a stop's deadline may miss what it was just writing; each such
//!    event is declared as `stop_timeout`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use trace::Summary;
use trace::encode::schema::CAUSES;
use trace::encode::schema::Cause;
use trace_decode::Decoder;
use trace_decode::Event;
use trace_decode::Item;
use trace_decode::Timed;
use trace_decode::Validate;
use trace_decode::Value;
use trace_decode::tables::Session;
use trace_decode::validate::What;

use super::ledger;
use super::ledger::Ledger;
use super::ledger::Op;
use super::ledger::Told;
use super::random;
use super::random::log_of;
use super::random::text_of;

/// One session's trace and what is known of it.
pub struct Trace {
    pub bytes: Vec<u8>,
    /// Its writer may have ended before the trace did.
    pub cut: bool,
    /// Most frames of a stack.
    pub stack_depth: usize,
}

/// Counts by cause.
#[derive(Clone, Copy, Debug)]
pub struct Lost(pub [u64; CAUSES]);

impl Default for Lost {
    fn default() -> Lost {
        Lost([0; CAUSES])
    }
}

impl Lost {
    pub fn of(&self, cause: Cause) -> u64 {
        self.0[cause as usize]
    }

    fn add(&mut self, other: &Lost) {
        for (to, from) in self.0.iter_mut().zip(other.0) {
            *to += from;
        }
    }
}

/// What a round came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Account {
    pub attempted: u64,
    pub off: u64,
    pub decoded: u64,
    /// Recorded, and not in what a failed writer took.
    pub undelivered: u64,
    pub lost: Lost,
}

impl Account {
    pub fn add(&mut self, other: &Account) {
        self.attempted += other.attempted;
        self.off += other.off;
        self.decoded += other.decoded;
        self.undelivered += other.undelivered;
        self.lost.add(&other.lost);
    }
}

/// An event without what its number implies: the number, the task, or nothing.
type Found = (Op, u64);

/// What all traces of a round hold of one ledger.
#[derive(Default)]
struct Held {
    own: Vec<Found>,
    handlers: Vec<Found>,
    nested: Vec<Found>,
    /// Spans of handlers that are open in the main lane, in the side lane.
    open: [Vec<u64>; 2],
    lost: Lost,
    ends: u64,
    creates: u64,
}

struct Check<'a> {
    ledgers: HashMap<u32, &'a Ledger>,
    held: HashMap<u32, Held>,
    /// Losses of threads that never registered.
    nobodys: Lost,
    events: u64,
    stuck: u64,
    /// Events that a summary counts and a writer did not take that failed after it.
    failed_late: u64,
}

/// The traces of a round, in the order of their sessions, with all summaries in any order. `late`:
/// events in those summaries that were told before the writer was done.
pub fn all(
    ledgers: &[Arc<Ledger>],
    summaries: &[Summary],
    late: u64,
    traces: &[Trace],
) -> Result<Account, String> {
    let mut c = Check {
        ledgers: ledgers.iter().map(|l| (l.number, &**l)).collect(),
        held: HashMap::new(),
        nobodys: Lost::default(),
        events: 0,
        stuck: summaries.iter().map(|s| s.stuck_threads).sum(),
        failed_late: 0,
    };
    for (i, t) in traces.iter().enumerate() {
        c.trace(t).map_err(|e| format!("trace {i} of {}: {e}", traces.len()))?;
    }
    let said: u64 = summaries.iter().map(|s| s.events).sum();
    let cut = traces.iter().any(|t| t.cut);
    match said.checked_sub(c.events) {
        Some(missing) if missing == 0 || (cut && missing <= late) => c.failed_late = missing,
        _ => return Err(format!("the summaries say {said} events, decoded {}", c.events)),
    }
    c.judge(summaries, cut)
}

/// The one trace of a forked child.
pub fn of_child(
    ledgers: &[Arc<Ledger>],
    summary: &Summary,
    bytes: &[u8],
) -> Result<Account, String> {
    let trace = Trace { bytes: bytes.to_vec(), cut: false, stack_depth: 128 };
    all(ledgers, std::slice::from_ref(summary), 0, &[trace])
}

/// Everything in the trace that does not make sense, but the end that a cut one lacks.
fn problems(t: &Trace) -> Result<(), String> {
    let mut v = Validate::new();
    v.push(&t.bytes).map_err(|e| e.to_string())?;
    v.finish().map_err(|e| e.to_string())?;
    let excused = |p: &&trace_decode::validate::Problem| {
        let end = p.what == What::Session && p.text.contains("no end");
        let torn = p.what == What::Damage && p.text.contains("input ended");
        !(t.cut && (end || torn))
    };
    let found: Vec<String> =
        v.problems().iter().filter(excused).take(5).map(|p| p.to_string()).collect();
    if found.is_empty() { Ok(()) } else { Err(format!("{found:#?}")) }
}

impl Check<'_> {
    fn trace(&mut self, t: &Trace) -> Result<(), String> {
        if t.cut && t.bytes.len() < 64 {
            return Ok(());
        }
        problems(t)?;
        let mut decoder = Decoder::new();
        decoder.push(&t.bytes);
        decoder.finish();
        // Whose thread a number is; None: not one of the soak's.
        let mut whose: HashMap<u32, Option<u32>> = HashMap::new();
        let mut events = 0;
        while let Some(item) = decoder.next_item().map_err(|e| e.to_string())? {
            match item {
                Item::Event(e) => {
                    events += 1;
                    let of = whose.entry(e.thread).or_insert_with(|| owner(e.session(), e.thread));
                    self.event(&e, *of, t.stack_depth)
                        .map_err(|w| format!("thread {} of {of:?}: {w}", e.thread))?;
                }
                Item::Damage(d) if !t.cut => return Err(format!("damage: {d:?}")),
                Item::SessionEnd(s) => self.end(s, t, events)?,
                _ => {}
            }
        }
        // Guards of a session are silent in the next.
        self.held.values_mut().for_each(|h| h.open = Default::default());
        self.events += events;
        Ok(())
    }

    fn end(&mut self, s: &Session, t: &Trace, events: u64) -> Result<(), String> {
        if let Some(end) = s.end()
            && !t.cut
            && (end.events, end.lost) != (events, s.lost())
        {
            return Err(format!("{end:?}, but {events} events, {} lost", s.lost()));
        }
        if s.end().is_none() && !t.cut {
            return Err("no end mark".into());
        }
        for l in s.losses() {
            let Some(cause) = Cause::from_u64(l.cause) else {
                return Err(format!("an unknown cause: {l:?}"));
            };
            let lost = match owner(s, l.thread as u32) {
                Some(of) => &mut self.held.entry(of).or_default().lost,
                None => &mut self.nobodys,
            };
            lost.0[cause as usize] += l.count;
        }
        Ok(())
    }

    fn event(&mut self, e: &Timed<'_>, of: Option<u32>, depth: usize) -> Result<(), String> {
        let own = matches!(
            e.event(),
            Event::State(_) | Event::ThreadStart(_) | Event::ThreadEnd(_) | Event::ThreadCreate(_)
        );
        let Some((of, l)) = of.and_then(|of| Some((of, *self.ledgers.get(&of)?))) else {
            return if own { Ok(()) } else { Err("not one of the soak's".into()) };
        };
        let h = self.held.entry(of).or_default();
        match e.event() {
            Event::ThreadEnd(_) => h.ends += 1,
            Event::ThreadCreate(_) => h.creates += 1,
            _ => {}
        }
        if own {
            return Ok(());
        }
        let found = identify(e, depth)?;
        h.take(l, e.lane != 0, found)
    }

    fn judge(&self, summaries: &[Summary], cut: bool) -> Result<Account, String> {
        let mut a = Account::default();
        let sum = |cause: Cause| -> u64 {
            let of =
                |s: &Summary| s.lost_by_cause.iter().find(|l| l.0 == cause.name()).map(|l| l.1);
            summaries.iter().filter_map(of).sum()
        };
        let (mut told_all, mut untold) = (Lost::default(), 0);
        let nothing = Held::default();
        for l in self.ledgers.values() {
            let h = self.held.get(&l.number).unwrap_or(&nothing);
            let told = Lost(l.lost());
            let wrong = |w| format!("{}: {w}", l.name());
            let untold_of = l.lives.load(Relaxed) + l.creates.load(Relaxed);
            let Some(spare) = u64::from(untold_of).checked_sub(h.ends + h.creates) else {
                let (ends, creates) = (h.ends, h.creates);
                return Err(wrong(format!("{ends} ends, {creates} creations, of {untold_of}")));
            };
            untold += spare;
            losses(&told, &h.lost, spare, cut).map_err(wrong)?;
            a.undelivered += sequences(l, h, &mut a).map_err(wrong)?;
            told_all.add(&told);
        }
        let stuck = sum(Cause::StopTimeout);
        let sink = sum(Cause::Sink) + self.failed_late;
        if a.undelivered > sink + stuck || (!cut && a.undelivered > self.stuck) {
            let n = a.undelivered;
            return Err(format!("{n} events are missing; sink {sink}, stop_timeout {stuck}"));
        }
        for cause in Cause::ALL.iter().filter(|c| c.is_event()) {
            let (told, said) = (told_all.of(*cause), sum(*cause));
            let quiet = matches!(cause, Cause::Sink | Cause::StopTimeout);
            let most = if is_buffers(*cause) { told + untold } else { told };
            // Of a thread that stood inside an event at the deadline: counted there.
            let least = told.saturating_sub(stuck);
            if !quiet && !(least..=most).contains(&said) {
                return Err(format!("{cause:?}: told {told}, the summaries say {said}"));
            }
        }
        a.lost = told_all;
        Ok(a)
    }
}

/// Causes for which the recorder's own events are lost too.
fn is_buffers(cause: Cause) -> bool {
    matches!(cause, Cause::PoolEmpty | Cause::WaitTimeout)
}

/// The losses of one thread.
fn losses(told: &Lost, said: &Lost, spare: u64, cut: bool) -> Result<(), String> {
    let (mut more, mut less) = (0, 0);
    // An event that its thread stood in at a stop's deadline is counted there, and may have been
    // told another cause when it ended.
    let stood = said.of(Cause::StopTimeout);
    for cause in Cause::ALL.iter().filter(|c| c.is_event()) {
        let (told, said) = (told.of(*cause), said.of(*cause));
        match cause {
            Cause::StopTimeout => continue,
            // Of a thread without a number: the summaries have them.
            Cause::Unregistered if said == 0 => continue,
            _ => {}
        }
        if is_buffers(*cause) && said > told {
            more += said - told;
        } else if said < told && !cut && less + (told - said) <= stood {
            less += told - said;
        } else if said > told || (said < told && !cut) {
            return Err(format!("{cause:?}: told {told}, declared {said}"));
        }
    }
    match more <= spare {
        true => Ok(()),
        false => Err(format!("{more} losses that nobody was told of, at most {spare} explained")),
    }
}

/// The order of events, lane by lane; gives how many are missing.
fn sequences(l: &Ledger, h: &Held, a: &mut Account) -> Result<u64, String> {
    let key = |at: usize, e: &ledger::Entry, bit: u64| match e.op {
        Op::SpanEnd => (e.op, 0),
        Op::TaskEnd | Op::TaskSwitch => (e.op, e.task),
        _ => (e.op, u64::from(l.number) << 32 | bit | at as u64),
    };
    let own: Vec<_> = l.own.all().collect();
    let handlers: Vec<_> = l.handlers.all().collect();
    for (_, e) in own.iter().chain(&handlers) {
        a.attempted += 1;
        a.off += u64::from(e.outcome == Told::Off);
    }
    let of = |from: &[(usize, ledger::Entry)], told: Told, bit: u64| -> Vec<Found> {
        let those = from.iter().filter(|(_, e)| e.outcome == told);
        those.map(|(at, e)| key(*at, e, bit)).collect()
    };
    if let Some((at, _)) = own.iter().find(|(_, e)| e.outcome == Told::Nested) {
        return Err(format!("event {at} was nested, outside handlers"));
    }
    let mut missing = 0;
    for (what, told, found) in [
        ("own", of(&own, Told::Recorded, 0), &h.own),
        ("handlers'", of(&handlers, Told::Recorded, 1 << 31), &h.handlers),
        ("nested", of(&handlers, Told::Nested, 1 << 31), &h.nested),
    ] {
        // Handlers that interrupt handlers take their numbers in one order and emit in another.
        let sorted = what != "own";
        missing += missing_of(told, found.clone(), sorted).map_err(|w| format!("{what}: {w}"))?;
        a.decoded += found.len() as u64;
    }
    Ok(missing)
}

/// How many of the told events were not found; an error where another was found in their place.
fn missing_of(mut told: Vec<Found>, mut found: Vec<Found>, sort: bool) -> Result<u64, String> {
    if sort {
        told.sort_unstable_by_key(|f| (f.1, f.0 as u8));
        found.sort_unstable_by_key(|f| (f.1, f.0 as u8));
    }
    let mut next = told.iter();
    for (i, f) in found.iter().enumerate() {
        if !next.any(|t| t == f) {
            let before = i.checked_sub(1).map(|b| found[b]);
            return Err(format!("found {f:x?} after {before:x?}, of {} told", told.len()));
        }
    }
    Ok((told.len() - found.len()) as u64)
}

/// Whose thread it is: that stands in its name.
fn owner(s: &Session, thread: u32) -> Option<u32> {
    let name = &s.thread(thread.into())?.name;
    std::str::from_utf8(name).ok()?.strip_prefix("soak-")?.parse().ok()
}

impl Held {
    fn take(&mut self, l: &Ledger, side: bool, found: Found) -> Result<(), String> {
        let (op, n) = found;
        let open = &mut self.open[usize::from(side)];
        if matches!(op, Op::SpanEnd | Op::TaskEnd | Op::TaskSwitch) {
            // A handler has ended before its thread goes on.
            match open.pop().filter(|_| op == Op::SpanEnd) {
                Some(_) if side => self.nested.push((op, 0)),
                Some(_) => self.handlers.push((op, 0)),
                None if side => return Err(format!("{op:?} in the side lane")),
                None => self.own.push(found),
            }
            return Ok(());
        }
        if ledger::ledger_of(n) != l.number {
            return Err(format!("{op:?} {n:x} is another's, not {}", l.name()));
        }
        let places = if ledger::is_handlers(n) { &l.handlers } else { &l.own };
        let Some(entry) = places.at(ledger::place(n)) else {
            return Err(format!("{op:?} {n:x} was not attempted"));
        };
        if entry.op != op {
            return Err(format!("{op:?} {n:x} was attempted as {entry:?}"));
        }
        if ledger::is_handlers(n) && op == Op::Span {
            let end = l.handlers.at(ledger::place(n) + 1).map(|e| e.outcome);
            let told = if side { Told::Nested } else { Told::Recorded };
            if end == Some(told) {
                open.push(n);
            }
        }
        match (side, ledger::is_handlers(n)) {
            (true, true) => self.nested.push(found),
            (false, true) => self.handlers.push(found),
            (false, false) => self.own.push(found),
            (true, false) => return Err(format!("{op:?} {n:x} in the side lane")),
        }
        Ok(())
    }
}

/// Which attempt an event is, by its number; its values are those that the number implies.
fn identify(e: &Timed<'_>, stack_depth: usize) -> Result<Found, String> {
    if let Some(stack) = e.stack().filter(|s| *s != 0) {
        let frames = e.tables().stack(stack).ok_or("a stack that is not defined")?.len();
        if frames == 0 || frames > stack_depth as u64 {
            return Err(format!("a stack of {frames} frames; at most {stack_depth}"));
        }
    }
    match e.event() {
        Event::SpanEnd(_) | Event::SpanEndAt(_) => return Ok((Op::SpanEnd, 0)),
        Event::TaskEnd(t) => return Ok((Op::TaskEnd, t.task)),
        Event::TaskSwitch(t) => return Ok((Op::TaskSwitch, t.task)),
        Event::Site(_) => {}
        other => return Err(format!("an event that nobody attempted: {other:?}")),
    }
    let name = e.name().map_or(&b""[..], |n| n.bytes);
    let op = match name {
        b"probe" => Op::Probe,
        b"soak fields" => Op::Fields,
        b"soak count" => Op::Count,
        b"soak" => Op::Log,
        b"soak span" => Op::Span,
        b"soak task" => Op::Task,
        other => return Err(format!("an event of the name {other:?}")),
    };
    let field = |name: &[u8]| e.fields().find(|f| f.0 == name).map(|f| f.1);
    let number = |name: &str| match field(name.as_bytes()) {
        Some(Value::U64(n)) => Ok(n),
        other => Err(format!("{op:?}: the field {name} is {other:?}")),
    };
    let n = match op {
        Op::Log => return log(field(b"text")).map(|n| (op, n)),
        Op::Count => number("value")?,
        _ => number("n")?,
    };
    if op == Op::Fields {
        let h = random::mix(n);
        let text = match field(b"text") {
            Some(Value::Text(t)) => is_text(t.bytes, t.cut_from, text_of(n).as_bytes(), 1 << 10),
            _ => false,
        };
        let rest = (field(b"i"), field(b"f"), field(b"b"), field(b"small"));
        let told = (
            Some(Value::I64(h as i64)),
            Some(Value::F64(h as f64)),
            Some(Value::Bool(h & 1 == 1)),
            Some(Value::U64(h & 0xff)),
        );
        if !text || rest != told {
            return Err(format!("the fields of {n:x}: {rest:?}, text {text}"));
        }
    }
    Ok((op, n))
}

/// The number with which a log begins; the rest is what the number implies.
fn log(text: Option<Value<'_>>) -> Result<u64, String> {
    let Some(Value::Text(t)) = text else { return Err("a log without a text".into()) };
    let digits = t.bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    let n = std::str::from_utf8(&t.bytes[..digits]).ok().and_then(|d| d.parse().ok());
    let n: u64 = n.ok_or("a log without its number")?;
    let whole = format!("{n} {}", log_of(n));
    // Where no buffer was free for it, a text is cut earlier.
    match is_text(t.bytes, t.cut_from, whole.as_bytes(), 1 << 10) {
        true => Ok(n),
        false => Err(format!("the text of {n:x}: {} bytes of {:?}", t.bytes.len(), t.cut_from)),
    }
}

/// Whether it is the text, or the beginning of one that is longer than `short`.
fn is_text(found: &[u8], cut_from: Option<u64>, whole: &[u8], short: usize) -> bool {
    match cut_from {
        None => found == whole,
        Some(n) => n == whole.len() as u64 && whole.starts_with(found) && found.len() + 4 > short,
    }
}
