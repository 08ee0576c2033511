//! A round: threads at work, sessions one after the other among them, and whatever else the seed
//! says; at its end everything is quiet, and the account is made.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use trace::Config;
use trace::Overflow;
use trace::ReadError;
use trace::StackKind;
use trace::StartError;
use trace::StopError;
use trace::Summary;
use trace::Task;

use super::births;
use super::check;
use super::check::Account;
use super::children;
use super::ledger;
use super::ledger::Ledger;
use super::plugin;
use super::random::Rng;
use super::signals;
use super::work;
use super::work::Others;
use super::work::Worker;
use super::writers::Bytes;
use super::writers::Door;
use super::writers::Fault;
use super::writers::Odd;
use crate::signals_support::Timer;

/// What happens in a round.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    threads: u64,
    sessions: u64,
    /// Any thread starts, stops, asks for the end.
    racing: bool,
    timers: bool,
    sent: bool,
    forks: bool,
    births: bool,
    plugins: bool,
    /// Events of one thread, at most.
    events: usize,
}

impl Plan {
    fn random(rng: &mut Rng) -> Plan {
        let most = if cfg!(debug_assertions) { 1 << 12 } else { 1 << 15 };
        let forks = rng.one_in(3);
        Plan {
            threads: 1 + rng.below(7),
            sessions: 1 + rng.below(6) * rng.below(2),
            racing: rng.one_in(3),
            timers: rng.one_in(2),
            sent: rng.one_in(2),
            forks,
            births: rng.one_in(2),
            // A child that was forked while the loader was at work finds the loader's lock shut.
            plugins: !forks && rng.one_in(4),
            events: most << rng.below(3),
        }
    }
}

/// A session that was started.
struct Run {
    /// Ticks of its start, by which sessions are put in order, stand in its trace.
    bytes: Bytes,
    door: Arc<Door>,
    cut: bool,
    stack_depth: usize,
}

pub struct Round {
    plan: Plan,
    end: AtomicBool,
    ledgers: Mutex<Vec<Arc<Ledger>>>,
    runs: Mutex<Vec<Run>>,
    summaries: Mutex<Vec<Summary>>,
    /// Events of sessions whose stop did not wait for the writer: it may fail later.
    late: AtomicU64,
    tasks: Mutex<Vec<Task>>,
    /// Threads whose ends nobody waits for, and readers.
    pub loose: AtomicU32,
    threads: Mutex<Vec<JoinHandle<()>>>,
    tids: Mutex<BTreeMap<u32, ()>>,
    /// Largest bound of memory so far.
    most: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Others for Round {
    fn give(&self, task: Task) -> Option<Task> {
        let mut tasks = self.tasks.lock().unwrap();
        if tasks.len() > 100 {
            return Some(task);
        }
        tasks.push(task);
        None
    }

    fn take(&self) -> Option<Task> {
        self.tasks.lock().unwrap().pop()
    }
}

/// What a round came to.
pub struct Outcome {
    pub account: Account,
    pub sessions: u64,
    pub traces: Vec<Vec<u8>>,
    pub wrong: Option<String>,
    pub plan: Plan,
}

/// Does the round of this seed.
pub fn run(seed: u64) -> Outcome {
    let mut rng = Rng::new(seed);
    let plan = Plan::random(&mut rng);
    signals::MAY_STOP.store(plan.racing, Relaxed);
    signals::MAY_FORK.store(plan.forks, Relaxed);
    let round = Arc::new(Round {
        plan,
        end: AtomicBool::new(false),
        ledgers: Mutex::default(),
        runs: Mutex::default(),
        summaries: Mutex::default(),
        late: AtomicU64::new(0),
        tasks: Mutex::default(),
        loose: AtomicU32::new(0),
        threads: Mutex::default(),
        tids: Mutex::default(),
        most: AtomicU64::new(0),
        wrong: Mutex::default(),
    });
    let workers: Vec<JoinHandle<()>> = (0..plan.threads)
        .map(|n| {
            let (round, rng) = (round.clone(), rng.fork(100 + n));
            std::thread::spawn(move || worker(&round, rng))
        })
        .collect();
    conduct(&round, &mut rng);
    round.end.store(true, Relaxed);
    // As a rule a session runs while its threads end.
    if rng.one_in(4) {
        round.quiet();
    }
    for w in workers {
        if w.join().is_err() {
            round.is_wrong("a worker panicked".into());
        }
    }
    round.finish(seed)
}

/// Sessions one after the other, and signals meanwhile.
fn conduct(round: &Arc<Round>, rng: &mut Rng) {
    for _ in 0..round.plan.sessions {
        let mut start = rng.fork(7);
        let _ = rng.next();
        while !round.start(&mut start) && round.is_busy() {
            round.stop();
            std::thread::sleep(Duration::from_micros(50));
        }
        for _ in 0..1 + rng.below(6) {
            let us = rng.pick(&[0, 50, 300, 1000, 4000, 12_000]);
            std::thread::sleep(Duration::from_micros(us));
            if round.plan.sent {
                let tids: Vec<u32> = round.tids.lock().unwrap().keys().copied().collect();
                for tid in tids {
                    signals::send(tid);
                }
            }
        }
        if rng.one_in(10) {
            trace::request_stop();
            std::thread::sleep(Duration::from_micros(rng.below(2000)));
        }
        if rng.one_in(3) {
            // Of many that stop it, one is told what it came to.
            let round = &round;
            std::thread::scope(|s| (0..3).for_each(|_| drop(s.spawn(|| round.stop()))));
        }
        round.stop();
    }
}

fn worker(round: &Arc<Round>, mut rng: Rng) {
    let l = round.ledger(round.plan.events, 1 << 12);
    let _in = Inside::new(round, &l);
    let _stack = signals::Alternate::of(rng.pick(&[0, 0, 32 << 10, 64 << 10]));
    let period = Duration::from_micros(100 + rng.below(3000));
    let timer = round.plan.timers.then(|| Timer::every(signals::TIMED, period));
    let mut w = Worker::new(&l, rng.fork(0));
    let mut forks = 2;
    while !round.end.load(Relaxed) {
        let some = rng.below(200);
        // Full, or off: then there is little to be learned.
        if !w.some(some, &**round) || !trace::is_enabled() {
            std::thread::sleep(Duration::from_micros(200));
        }
        match rng.below(24) {
            0 if round.plan.racing => drop(round.start(&mut rng)),
            1 | 2 if round.plan.racing => round.stop(),
            3 if round.plan.racing && rng.one_in(4) => trace::request_stop(),
            4 | 5 if round.plan.births => births::birth(round, &l, &mut rng),
            6 if round.plan.plugins => plugin::visit(&l, &mut rng),
            7 if round.plan.forks && forks > 0 => {
                forks -= 1;
                if let Err(e) = children::fork(&mut rng) {
                    round.is_wrong(e);
                }
            }
            _ => {}
        }
    }
    w.end();
    drop(timer);
}

/// A thread is the ledger's while this lives.
pub struct Inside<'a> {
    round: &'a Round,
    tid: u32,
    /// What a thread has by itself is enough for an event of optimised code only.
    _stack: Option<signals::Alternate>,
}

impl<'a> Inside<'a> {
    pub fn new(round: &'a Round, l: &'a Ledger) -> Inside<'a> {
        super::set_thread_name(&l.name());
        // SAFETY: the ledger outlives this value, which takes it away.
        unsafe { ledger::set_mine(Some(l)) };
        let tid = crate::support::tid();
        let stack = cfg!(debug_assertions).then(|| signals::Alternate::of(64 << 10));
        round.tids.lock().unwrap().insert(tid, ());
        Inside { round, tid, _stack: stack }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.round.tids.lock().unwrap().remove(&self.tid);
        // SAFETY: takes it away.
        unsafe { ledger::set_mine(None) };
    }
}

impl Round {
    /// A new ledger.
    pub fn ledger(&self, own: usize, handlers: usize) -> Arc<Ledger> {
        let mut all = self.ledgers.lock().unwrap();
        let l = Arc::new(Ledger::new(all.len() as u32, own, handlers));
        all.push(l.clone());
        l
    }

    pub fn is_wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    /// Whether there is a session, in whatever state.
    fn is_busy(&self) -> bool {
        trace::registry::switch().state.load(Relaxed) != 0
    }

    /// Starts a session of some sort; false where another one is there.
    fn start(self: &Arc<Round>, rng: &mut Rng) -> bool {
        let (config, memory, stack_depth) = config(rng);
        let (bytes, door) = (Bytes::default(), Arc::new(Door::default()));
        let reads = rng.one_in(3);
        let fault = if reads { Fault::None } else { Fault::random(rng) };
        let done = match reads {
            true => config.start_reading(),
            false => {
                let (out, door) = (bytes.clone(), door.clone());
                config.start(Odd { fault, rng: rng.fork(3), out, door, taken: 0 })
            }
        };
        match done {
            Ok(()) => {}
            Err(StartError::AlreadyStarted | StartError::Undelivered) => return false,
            Err(e) => {
                self.is_wrong(format!("start: {e:?}"));
                return false;
            }
        }
        self.most.fetch_max(memory, Relaxed);
        let run = Run { bytes: bytes.clone(), door, cut: fault.cuts(), stack_depth };
        self.runs.lock().unwrap().push(run);
        if reads {
            let (round, rng) = (self.clone(), rng.fork(4));
            let reader = std::thread::spawn(move || read(&round, rng, &bytes));
            self.threads.lock().unwrap().push(reader);
        }
        true
    }

    /// Stops the session, where there is one, and keeps what it came to.
    fn stop(&self) {
        let summary = match trace::stop() {
            Ok(s) => s,
            Err(StopError::Write { summary, .. }) => summary,
            Err(StopError::Timeout(summary)) => {
                self.late.fetch_add(summary.events, Relaxed);
                summary
            }
            Err(StopError::NotStarted) => return,
            Err(e) => return self.is_wrong(format!("stop: {e:?}")),
        };
        self.summaries.lock().unwrap().push(summary);
        for run in self.runs.lock().unwrap().iter() {
            run.door.open();
        }
    }

    /// Waits until no session is there.
    fn quiet(&self) {
        while self.is_busy() {
            self.stop();
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Everything is over: the account.
    fn finish(&self, seed: u64) -> Outcome {
        while self.loose.load(Relaxed) != 0 {
            std::thread::sleep(Duration::from_micros(100));
        }
        self.quiet();
        for t in self.threads.lock().unwrap().drain(..) {
            if t.join().is_err() {
                self.is_wrong("a reader panicked".into());
            }
        }
        self.tasks.lock().unwrap().clear();
        super::threads_end(seed);
        let runs = std::mem::take(&mut *self.runs.lock().unwrap());
        let trace = |r: Run| check::Trace {
            bytes: std::mem::take(&mut *r.bytes.lock().unwrap()),
            cut: r.cut,
            stack_depth: r.stack_depth,
        };
        let mut traces: Vec<check::Trace> = runs.into_iter().map(trace).collect();
        // Who started a session may have been slow to say so.
        traces.sort_by_key(|t| super::started_at(&t.bytes));
        let summaries = self.summaries.lock().unwrap();
        let mut wrong = std::mem::take(&mut *self.wrong.lock().unwrap());
        if summaries.len() != traces.len() {
            wrong.push(format!("{} sessions, {} ends", traces.len(), summaries.len()));
        }
        wrong.extend(self.memory(&summaries));
        let late = self.late.load(Relaxed);
        let checked = check::all(&self.ledgers.lock().unwrap(), &summaries, late, &traces);
        let account = checked.unwrap_or_else(|e| {
            wrong.push(e);
            Account::default()
        });
        Outcome {
            account,
            sessions: traces.len() as u64,
            traces: traces.into_iter().map(|t| t.bytes).collect(),
            wrong: (!wrong.is_empty()).then(|| wrong.join("\n")),
            plan: self.plan,
        }
    }

    /// Every buffer is back in the pool, and there are no more than the bound allows.
    fn memory(&self, summaries: &[Summary]) -> Option<String> {
        static MOST: AtomicU64 = AtomicU64::new(0);
        let stuck: u64 = summaries.iter().map(|s| s.stuck_threads).sum();
        if stuck != 0 {
            // What stuck threads held comes back at the next start.
            trace::start(std::io::sink()).ok()?;
            trace::stop().ok()?;
        }
        let m = trace::registry::mapping()?;
        let (free, committed) = (m.front().pool.0.free(), m.committed());
        // Of all rounds: buffers are kept.
        let most = MOST.fetch_max(self.most.load(Relaxed), Relaxed).max(self.most.load(Relaxed));
        if stuck == 0 && u64::from(committed) << 16 > most {
            return Some(format!("{committed} buffers are more than {most} bytes"));
        }
        (free != committed).then(|| {
            let missing = committed.wrapping_sub(free) as i32;
            format!("{missing} of {committed} buffers are nowhere, {stuck} threads were stuck")
        })
    }
}

fn config(rng: &mut Rng) -> (Config, u64, usize) {
    let ms = Duration::from_millis;
    let memory = rng.pick(&[2, 2, 3, 4, 8, 16, 32]) << 20;
    let stack_depth = rng.pick(&[1, 2, 16, 64, 127, 128]);
    let overflow = match rng.below(3) {
        0 => Overflow::Wait { at_most: ms(1 + rng.below(20)) },
        _ => Overflow::Count,
    };
    let kinds =
        [StackKind::Instant, StackKind::Counter, StackKind::Log, StackKind::Span, StackKind::Task];
    let mut config = Config::new()
        .memory_bytes(memory)
        .overflow(overflow)
        .stack_depth(stack_depth)
        .generation(ms(rng.pick(&[1, 1, 2, 5, 20, 1000])))
        .thread_snapshot(rng.one_in(2))
        .fence_mode(rng.one_in(6));
    if rng.one_in(2) {
        let bits = rng.next();
        config = config.stacks(
            kinds
                .into_iter()
                .enumerate()
                .filter_map(move |(i, k)| (bits >> i & 1 == 1).then_some(k)),
        );
    }
    if rng.one_in(8) {
        config = config.stop_timeout(ms(5 + rng.below(50)));
    }
    (config, memory, stack_depth)
}

/// Takes a reading session's trace to its end, with pauses, and emits itself.
fn read(round: &Round, mut rng: Rng, bytes: &Bytes) {
    let l = round.ledger(1 << 12, 1 << 10);
    let _in = Inside::new(round, &l);
    let slow = rng.one_in(3);
    loop {
        match trace::read_trace() {
            Ok(Some(batch)) => {
                if slow {
                    std::thread::sleep(Duration::from_micros(rng.below(3000)));
                }
                bytes.lock().unwrap().extend_from_slice(&batch);
                work::emit_one(&l, false, rng.next());
            }
            Ok(None) => return,
            Err(ReadError::Busy) => std::thread::yield_now(),
            Err(e) => return round.is_wrong(format!("read_trace: {e:?}")),
        }
    }
}
