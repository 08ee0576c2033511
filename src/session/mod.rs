//! Idle, starting, running, stopping, sealed: the only one who turns the switch.
//!
//! ```text
//! Idle --start--> Starting --> Running --stop--> Stopping --> Idle            (with a writer)
//!                                                Stopping --> Sealed --> Idle (read to the end)
//! ```
//!
//! 1. Each change of the state is one compare-and-swap, so that of many callers one wins and the
//!    others get an error at once.
//! 2. The state stands on the page that a forked child finds zeroed: a child is Idle.
//! 3. Generations and epochs are monotone for the life of the process, children included.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::AtomicPtr;
use std::time::Duration;

pub mod config;
pub mod error;
mod lock;
#[doc(hidden)]
pub mod outside;
mod writing;

pub use config::Config;
pub use config::Overflow;
pub use config::StackKind;
pub use error::ReadError;
pub use error::StartError;
pub use error::StopError;
pub use error::Summary;

use crate::buf::Arena as _;
use crate::buf::target;
use crate::clock::Clock;
use crate::controller::Aside;
use crate::controller::COLLECT_NS;
use crate::controller::Controller;
use crate::controller::GENERATION_BYTES;
use crate::controller::Of;
use crate::controller::Piece;
use crate::controller::Plan;
use crate::controller::Shots;
use crate::emit;
use crate::encode::schema;
use crate::encode::schema::Cause;
use crate::mapping::Mapping;
use crate::registry;
use crate::registry::Prepare;
use crate::registry::gate;
use crate::registry::local;
use crate::sync::AtomicU32;
use crate::sync::Ordering::AcqRel;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;
use crate::sync::Ordering::Release;
use crate::sys;
use crate::tables;
use lock::Locked;

const IDLE: u32 = 0;
const STARTING: u32 = 1;
const RUNNING: u32 = 2;
const STOPPING: u32 = 3;
const SEALED: u32 = 4;

/// The next generation; never reset, so that no number is used twice.
static NEXT_GENERATION: AtomicU32 = AtomicU32::new(1);
/// Whether a reading session has ended in this process: then `read_trace` says `None`.
static READ_TO_END: AtomicU32 = AtomicU32::new(0);
/// Changes when a session has been brought to its end.
static DONE: AtomicU32 = AtomicU32::new(0);

/// The session in being.
#[derive(Debug)]
struct Session {
    controller: Controller,
    writes: bool,
    sealed: bool,
    /// The reader was told of the end, before `stop`.
    read: bool,
    stop_timeout: Duration,
    reason: u64,
    /// What the writer's thread came to: its error, and the events and bytes it did not deliver.
    result: Option<writing::Outcome>,
    /// Nobody waits for the writer any more: its thread cleans up.
    abandoned: bool,
}

#[derive(Debug, Default)]
struct Shared {
    session: Option<Box<Session>>,
    memory: Option<tables::Memory>,
    /// What threads may still touch that were stuck when a session ended.
    kept: Vec<Kept>,
    /// The process that made these; a forked child forgets them.
    pid: u32,
}

/// What a session leaves behind for as long as one of its threads stands inside an event.
#[derive(Debug)]
struct Kept {
    by: Vec<Aside>,
    segments: Vec<u32>,
    memory: Option<tables::Memory>,
}

static SHARED: Locked<Shared> =
    Locked::new(Shared { session: None, memory: None, kept: Vec::new(), pid: 0 });
/// The writer between `start` and its thread, which takes it.
static WRITER: AtomicPtr<Box<dyn Write + Send>> = AtomicPtr::new(std::ptr::null_mut());

fn change(from: u32, to: u32) -> Result<(), u32> {
    // AcqRel: who wins has seen what the one before did, and is seen by the next.
    registry::switch().state.compare_exchange(from, to, AcqRel, Acquire).map(drop)
}

fn set_state(to: u32) {
    // Release: pairs with the Acquire in `change`.
    registry::switch().state.store(to, Release);
}

/// Whether the calling thread may not wait for the recorder: it is its own, inside an event, or
/// interrupted while it controls the session.
fn would_deadlock() -> bool {
    if registry::is_forked_child() {
        return false;
    }
    local::with(|l| l.has(local::MUTED | local::CONTROLS) || emit::is_inside(l))
}

/// Starts a session.
pub(crate) fn begin(
    config: Config,
    writer: Option<Box<dyn Write + Send>>,
) -> Result<(), StartError> {
    let _errno = sys::Errno::save();
    let budget = config.budget()?;
    if would_deadlock() {
        return Err(StartError::WouldDeadlock);
    }
    if registry::mapping()
        .is_some_and(|m| !registry::is_forked_child() && registry::is_vfork_child(m))
    {
        return Err(StartError::InVforkChild);
    }
    registry::arm();
    change(IDLE, STARTING).map_err(|now| match now {
        SEALED => StartError::Undelivered,
        _ => StartError::AlreadyStarted,
    })?;
    let done = start_now(config, budget, writer);
    if done.is_err() {
        let mut shared = SHARED.lock();
        // In a child it may still be the parent's; one of its own has begun the log.
        shared.forget_parent();
        shared.clean_up();
        drop(shared);
        set_state(IDLE);
    }
    done
}

fn start_now(
    config: Config,
    budget: config::Budget,
    writer: Option<Box<dyn Write + Send>>,
) -> Result<(), StartError> {
    let _never_waits = local::flagged(local::NEVER_WAITS);
    let membarrier = !config.fence && sys::membarrier::register() && sys::membarrier::barrier();
    let m =
        registry::prepare(config.mapping_dir.as_deref(), emit::thread_exits).map_err(
            |e| match e {
                Prepare::Mapping(e) => StartError::Memory(e),
                Prepare::Elsewhere => StartError::Config("the mapping exists already, elsewhere"),
            },
        )?;
    let clock = Clock::get();
    let plan = plan(&config, &budget, membarrier);
    {
        let mut shared = SHARED.lock();
        shared.forget_parent();
        prepare_mapping(m, &plan, &mut shared, &config, &budget, FIRST_BUFFERS)?;
        let memory = shared.memory.take();
        let mut controller = Controller::new(m, plan.clone(), clock.snapshot(), memory);
        let stood = shared.kept.iter().flat_map(|kept| &kept.by).filter(|a| a.is_held(m));
        controller.stood = stood.copied().collect();
        controller.open(&notes(&config, membarrier));
        if config.snapshot {
            snapshot_at_start(m, &mut controller);
        }
        shared.session = Some(Box::new(Session {
            controller,
            writes: writer.is_some(),
            sealed: false,
            read: false,
            stop_timeout: config.stop_timeout,
            reason: schema::END_STOP,
            result: None,
            abandoned: false,
        }));
    }
    registry::switch().asked.store(0, Relaxed);
    READ_TO_END.store(0, Relaxed);
    match writer {
        Some(writer) => writing::spawn(writer).map_err(StartError::Thread)?,
        None => local::with(|l| l.reads.set(plan.epoch)),
    }
    open_gate(m, &plan);
    set_state(RUNNING);
    Ok(())
}

fn plan(config: &Config, budget: &config::Budget, membarrier: bool) -> Plan {
    Plan {
        session: sys::random_u64(),
        epoch: tables::next_epoch(),
        first_generation: NEXT_GENERATION.load(Relaxed),
        generation_ns: nanos(config.generation),
        generation_bytes: GENERATION_BYTES,
        membarrier,
        snapshot: config.snapshot,
        buffers_cap: budget.buffers_cap,
        bounds: tables::Bounds {
            segments_max: budget.segments_max,
            stack_classes: config.stack_classes,
        },
        of: Of::Own,
    }
}

/// A duration in nanoseconds; a longer one than 584 years is that.
fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

fn notes(config: &Config, membarrier: bool) -> Vec<(&'static str, &'static str)> {
    let mut notes = Vec::new();
    if config.fence {
        notes.push(("mode", "fence mode was asked for: every event fences"));
    } else if !membarrier {
        notes.push(("mode", "membarrier is refused here: every event fences"));
    }
    if !Clock::get().is_counter() {
        notes.push(("clock", "no trustworthy cycle counter: the monotonic clock is used"));
    }
    notes
}

/// Makes the mapping and the tables ready. The gate is shut, so no thread is inside.
fn prepare_mapping(
    m: &'static Mapping,
    plan: &Plan,
    shared: &mut Shared,
    config: &Config,
    budget: &config::Budget,
    first_buffers: u32,
) -> Result<(), StartError> {
    let no_memory = || StartError::Memory(std::io::ErrorKind::OutOfMemory.into());
    let front = m.front();
    shared.give_back(m);
    front.session.store(plan.session, Relaxed);
    front.epoch.store(plan.epoch, Relaxed);
    front.ordinal.store(plan.epoch, Relaxed);
    front.tick_shift.store(Clock::get().shift(), Relaxed);
    front.buffers_cap.store(plan.buffers_cap, Relaxed);
    for c in &front.loss {
        c.store(0, Relaxed);
    }
    if !shared.memory.as_ref().is_some_and(|x| x.fits(budget.stacks_max, budget.stack_words)) {
        if let Some(other) = shared.memory.take() {
            other.release();
        }
        let memory = tables::Memory::reserve(budget.stacks_max, budget.stack_words);
        shared.memory = Some(memory.ok_or_else(no_memory)?);
    }
    tables::withdraw();
    shared.empty_logs(m);
    if let Some(memory) = &mut shared.memory {
        memory.fill(plan.epoch, plan.bounds);
        memory.publish(plan.epoch);
    }
    while front.pool.0.free() < first_buffers.min(plan.buffers_cap) {
        match m.grow(0) {
            Some(index) => m.push_free(index),
            None if front.pool.0.free() >= crate::mapping::RESERVED => break,
            None => return Err(no_memory()),
        }
    }
    m.forget_tasks();
    front.wanted.store(0, Relaxed);
    emit::STACK_DEPTH.store(config.stack_depth as u32, Relaxed);
    front.fence.store((!plan.membarrier).into(), Relaxed);
    let wait = match config.overflow {
        Overflow::Count => 0,
        Overflow::Wait { at_most } => nanos(at_most).max(1),
    };
    emit::WAIT_NS.store(wait, Relaxed);
    registry::forget_ended(m);
    for (_, r) in m.records() {
        // Of threads that are just ending too: they belong to no session yet.
        r.reset_loss();
        r.depth.store(0, Relaxed);
        r.task.store(0, Relaxed);
    }
    for (_, r) in registry::live(m) {
        registry::define_thread(m, r, "", 0);
    }
    Ok(())
}

/// Buffers that are committed before the first event.
const FIRST_BUFFERS: u32 = 32;

/// Lists the threads that are there: those with a record, and those that the kernel knows.
fn snapshot_at_start(m: &Mapping, controller: &mut Controller) {
    let mut shots = Shots::with_capacity(m.made() as usize);
    shots.take(m);
    for shot in &shots.0 {
        controller.thread_state(shot);
    }
    let at = Clock::get().now().0;
    sys::thread::list(|tid, name| {
        if !shots.0.iter().any(|s| s.tid == tid) {
            controller.thread_state(&crate::controller::unregistered(tid, name, at));
        }
    });
}

/// Lets the events in: the generation, the barrier, and the switch last.
fn open_gate(m: &Mapping, plan: &Plan) {
    gate::turn(&m.front().gate.0, plan.first_generation);
    let mut shared = SHARED.lock();
    if let Some(s) = &mut shared.session {
        s.controller.barrier();
    }
    drop(shared);
    registry::switch().on.store(plan.epoch, Release);
}

/// Starts a session for the whole process: every thread's events go to `writer`, from a thread of
/// the recorder's own, until [`stop`].
///
/// The writer gets whole batches of up to 64 KiB, so it needs no buffer. Costs about a millisecond
/// the first time, mostly for memory; up to 10 ms more where threads exist already and membarrier
/// was not registered before.
///
/// # Errors
///
/// [`StartError::AlreadyStarted`] while a session runs; otherwise what could not be had. Nothing is
/// left half-started. Never panics.
///
/// # Examples
///
/// ```
/// let path = std::env::temp_dir().join("start-doc.trace");
/// trace::start(std::fs::File::create(&path).unwrap()).unwrap();
/// trace::instant!("ready", workers = 4);
/// let summary = trace::stop().unwrap();
/// assert!(summary.events >= 1);
/// # std::fs::remove_file(path).unwrap();
/// ```
pub fn start(writer: impl Write + Send + 'static) -> Result<(), StartError> {
    Config::new().start(writer)
}

/// Whether events are recorded now. One relaxed load.
#[inline]
pub fn is_enabled() -> bool {
    registry::is_on()
}

/// Stops the session; returns when the writer has accepted and flushed the last byte.
///
/// Threads are kept out of the recorder for some microseconds meanwhile. In reading mode it seals
/// the trace and returns; [`read_trace`] gives the rest, [`Summary::undelivered`] says how much.
///
/// May be called from any thread, inside spans and from destructors of thread-locals. In a signal
/// handler that interrupted an event, and in the session's own writer, it is refused; other
/// handlers should call [`request_stop`], which is safe in them.
///
/// # Errors
///
/// [`StopError::NotStarted`] when nothing runs or another thread is stopping it;
/// [`StopError::Write`] with the writer's first error; [`StopError::Timeout`] when the writer had
/// not let go before the deadline of [`Config::stop_timeout`]. Recording is off in all of these.
///
/// Threads that stand inside an event for half of that time are no error: what they have published
/// is in the trace, and [`Summary::stuck_threads`] counts them.
pub fn stop() -> Result<Summary, StopError> {
    stop_within(None, schema::END_STOP)
}

fn stop_within(at_most: Option<Duration>, reason: u64) -> Result<Summary, StopError> {
    let _errno = sys::Errno::save();
    if would_deadlock() {
        return Err(StopError::WouldDeadlock);
    }
    if registry::mapping()
        .is_some_and(|m| !registry::is_forked_child() && registry::is_vfork_child(m))
    {
        return Err(StopError::InVforkChild);
    }
    // A handler that interrupts this must not wait for it, nor read until it is done.
    let _controls = local::flagged(local::CONTROLS);
    change(RUNNING, STOPPING).map_err(|_| StopError::NotStarted)?;
    let _never_waits = local::flagged(local::NEVER_WAITS);
    let Some(m) = registry::mapping() else { return Err(StopError::NotStarted) };
    let (writes, deadline, mut summary) = {
        let mut shared = SHARED.lock();
        let Some(s) = &mut shared.session else {
            set_state(IDLE);
            return Err(StopError::NotStarted);
        };
        // Threads inside an event have half of the time, so that one that never leaves it keeps
        // none from the writer.
        let timeout = nanos(at_most.unwrap_or(s.stop_timeout));
        let now = sys::mono_ns();
        let deadline = now.saturating_add(timeout);
        s.seal(now.saturating_add(timeout / 2), reason);
        (s.writes, deadline, s.summary())
    };
    m.ring();
    if !writes {
        let mut shared = SHARED.lock();
        let read = shared.session.as_ref().is_some_and(|s| s.read);
        if read {
            // The reader was told of the end already, and need not ask again.
            READ_TO_END.store(1, Relaxed);
            shared.clean_up();
        } else {
            summary.undelivered = shared.session.as_mut().map_or(0, |s| s.undelivered());
        }
        drop(shared);
        set_state(if read { IDLE } else { SEALED });
        m.ring();
        return Ok(summary);
    }
    await_writer(deadline, summary)
}

/// Waits for the writer's thread and takes what it came to.
fn await_writer(deadline: u64, summary: Summary) -> Result<Summary, StopError> {
    loop {
        // Before the look at the result: it changes after that was put there.
        let seen = DONE.load(Acquire);
        let mut shared = SHARED.lock();
        let Some(s) = &mut shared.session else { return Ok(summary) };
        if let Some(outcome) = s.result.take() {
            shared.clean_up();
            drop(shared);
            set_state(IDLE);
            return outcome.judge(summary);
        }
        let now = sys::mono_ns();
        if now >= deadline {
            s.abandoned = true;
            let mut summary = summary;
            summary.undelivered = s.undelivered();
            return Err(StopError::Timeout(summary));
        }
        drop(shared);
        sys::futex::wait(&DONE, seen, Some(Duration::from_nanos(deadline - now)));
    }
}

/// Asks for the session's end without waiting for it. Safe in signal handlers and in the writer.
///
/// The writer's thread, or the next [`read_trace`], brings the end about; [`stop`] then returns
/// what the session came to.
pub fn request_stop() {
    registry::switch().asked.store(1, Relaxed);
    if let Some(m) = registry::mapping() {
        m.ring();
    }
}

impl Session {
    /// Shuts the gate and writes the end, once.
    fn seal(&mut self, deadline_ns: u64, reason: u64) {
        if self.sealed {
            return;
        }
        self.sealed = true;
        self.reason = reason;
        let _pauses = local::flagged(local::PAUSES);
        self.controller.shut(deadline_ns);
        self.controller.finish(reason);
        NEXT_GENERATION.store(self.controller.generation() + 1, Relaxed);
    }

    fn seal_if_asked(&mut self) {
        if registry::switch().asked.load(Relaxed) != 0 {
            let deadline = sys::mono_ns().saturating_add(nanos(self.stop_timeout));
            self.seal(deadline, schema::END_REQUEST);
        }
    }

    fn summary(&self) -> Summary {
        Summary::new(&self.controller.totals, self.controller.duration_ns())
    }

    fn undelivered(&self) -> u64 {
        self.controller.waiting_bytes()
    }
}

impl Shared {
    /// In a forked child: what stands here is the parent's, and is left alone for ever.
    fn forget_parent(&mut self) {
        let pid = sys::thread::pid_raw();
        if self.pid != pid {
            std::mem::forget(self.session.take());
            // Memory has no destructor: what it names stays mapped.
            self.memory = None;
            std::mem::forget(std::mem::take(&mut self.kept));
            self.pid = pid;
        }
    }

    /// Gives back what the session held.
    fn clean_up(&mut self) {
        let Some(session) = self.session.take() else { return };
        let Some(m) = registry::mapping() else { return };
        let Controller { memory, aside, .. } = session.controller;
        if aside.is_empty() {
            self.memory = memory;
            m.retire_log(0);
            m.retire_log(1);
            return;
        }
        let segments = [0, 1].into_iter().flat_map(|epoch| m.clear_log(epoch)).collect();
        self.kept.push(Kept { by: aside, segments, memory });
    }

    /// Empties the logs of segments that came after the end of their session: a thread that stood
    /// still in an insert has linked them, and may stand there again.
    fn empty_logs(&mut self, m: &Mapping) {
        for epoch in [0, 1] {
            let late = m.clear_log(epoch);
            match self.kept.last_mut() {
                // Whoever stood still at the end before stood still at the last one, or is out.
                Some(kept) => kept.segments.extend(late),
                None => late.into_iter().for_each(|index| m.push_free(index)),
            }
        }
    }

    /// Gives back what sessions have left behind whose threads are all outside by now.
    fn give_back(&mut self, m: &Mapping) {
        for kept in std::mem::take(&mut self.kept) {
            if kept.by.iter().any(|a| a.is_held(m)) {
                self.kept.push(kept);
                continue;
            }
            kept.by.iter().for_each(|a| a.give_back(m));
            with_late(m, kept.segments).into_iter().for_each(|index| m.push_free(index));
            if let Some(memory) = kept.memory {
                memory.release();
            }
        }
    }
}

/// These segments of logs, and those that were linked behind them since they were set aside.
fn with_late(m: &Mapping, mut segments: Vec<u32>) -> Vec<u32> {
    let mut at = 0;
    while let Some(&index) = segments.get(at) {
        // Acquire: pairs with the Release of whoever linked it.
        if let Some(next) = target(m, m.head(index).next.load(Acquire))
            && !segments.contains(&next)
        {
            segments.push(next);
        }
        at += 1;
    }
    segments
}

/// A batch of the trace: its bytes, given back to the pool when dropped.
#[derive(Debug)]
pub struct Batch {
    piece: Piece,
    /// The process in whose mapping its buffer stands: a forked child has another one.
    pid: u32,
}

impl std::ops::Deref for Batch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.piece.bytes()
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let mine = registry::mapping().is_some_and(|m| m.front().pid.load(Relaxed) == self.pid);
        if mine && !registry::is_forked_child() {
            self.piece.release();
        }
    }
}

impl Piece {
    /// The bytes of the batch.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Piece::Bytes { bytes, .. } => bytes,
            Piece::Buffer { index, len, .. } => {
                let base = registry::mapping().and_then(|m| m.buffer(*index));
                let Some(base) = base else { return &[] };
                // SAFETY: buf: a taken buffer is its holder's alone until it is given back, and
                // the mapping never goes away.
                unsafe { std::slice::from_raw_parts(base, *len as usize) }
            }
        }
    }

    /// Timed events in it.
    pub fn events(&self) -> u64 {
        match self {
            Piece::Bytes { events, .. } | Piece::Buffer { events, .. } => (*events).into(),
        }
    }

    /// Gives its buffer back. Called once.
    fn release(&mut self) {
        let bytes = Piece::Bytes { bytes: Vec::new(), events: 0 };
        if let Piece::Buffer { index, .. } = std::mem::replace(self, bytes)
            && let Some(m) = registry::mapping()
        {
            m.push_free(index);
        }
    }
}

/// Gives up the right to read.
struct Reading;

impl Drop for Reading {
    fn drop(&mut self) {
        // Release: pairs with the Acquire of the next reader.
        registry::switch().reading.store(0, Release);
    }
}

/// Takes the next batch of the trace, without copying it; waits until there is one. `None` after
/// [`stop`], once everything was handed out.
///
/// For sessions of [`Config::start_reading`]. The batches in their order are the trace.
///
/// # Errors
///
/// [`ReadError::Busy`] while another thread is inside; [`ReadError::NotStarted`] without such a
/// session.
///
/// # Examples
///
/// ```
/// trace::Config::new().start_reading().unwrap();
/// trace::instant!("hello");
/// trace::stop().unwrap();
/// let mut bytes = Vec::new();
/// while let Some(batch) = trace::read_trace().unwrap() {
///     bytes.extend_from_slice(&batch);
/// }
/// assert!(bytes.len() > 64);
/// ```
pub fn read_trace() -> Result<Option<Batch>, ReadError> {
    let _errno = sys::Errno::save();
    if would_deadlock() {
        return Err(ReadError::WouldDeadlock);
    }
    let reading = &registry::switch().reading;
    // Acquire: pairs with the Release of the reader before.
    if reading.compare_exchange(0, 1, Acquire, Relaxed).is_err() {
        return Err(ReadError::Busy);
    }
    let _reading = Reading;
    loop {
        // Acquire: pairs with the Release of `set_state`.
        if !matches!(registry::switch().state.load(Acquire), RUNNING | STOPPING | SEALED) {
            let ended = READ_TO_END.load(Relaxed) != 0;
            return if ended { Ok(None) } else { Err(ReadError::NotStarted) };
        }
        let Some(m) = registry::mapping() else { return Err(ReadError::NotStarted) };
        let mut shared = SHARED.lock();
        let Some(s) = shared.session.as_mut().filter(|s| !s.writes) else {
            return Err(ReadError::NotStarted);
        };
        // Until its end: in a later session the thread waits like any other.
        local::with(|l| l.reads.set(m.front().ordinal.load(Relaxed)));
        s.seal_if_asked();
        match s.next() {
            Next::Piece(piece) => {
                return Ok(Some(Batch { piece, pid: m.front().pid.load(Relaxed) }));
            }
            Next::End if change(SEALED, STOPPING).is_ok() => {
                READ_TO_END.store(1, Relaxed);
                shared.clean_up();
                drop(shared);
                set_state(IDLE);
                return Ok(None);
            }
            // Sealed by request: the end of the stream, while stop() was not called yet.
            Next::End if registry::switch().asked.load(Relaxed) != 0 => {
                s.read = true;
                return Ok(None);
            }
            Next::End => {
                drop(shared);
                std::thread::yield_now();
            }
            Next::At(deadline) => {
                drop(shared);
                sleep_until(m, deadline, || {
                    registry::switch().state.load(Acquire) != RUNNING
                        || registry::switch().asked.load(Relaxed) != 0
                });
            }
        }
    }
}

/// What the stream has next.
enum Next {
    /// A batch.
    Piece(Piece),
    /// Nothing before this time, unless the bell rings.
    At(u64),
    /// Nothing any more.
    End,
}

impl Session {
    fn next(&mut self) -> Next {
        if self.sealed {
            // What comes to the queue now is no part of the session.
            return self.controller.ready().map_or(Next::End, Next::Piece);
        }
        if let Some(piece) = self.controller.next_piece() {
            return Next::Piece(piece);
        }
        let deadline = self.controller.step(sys::mono_ns());
        match self.controller.next_piece() {
            Some(piece) => Next::Piece(piece),
            None => Next::At(deadline),
        }
    }
}

/// Sleeps until the bell rings, something is queued, or the time has come.
fn sleep_until(m: &Mapping, deadline_ns: u64, stop: impl Fn() -> bool) {
    let queue = &m.front().queue.0;
    let Some(ticket) = queue.prepare_sleep() else { return };
    let now = sys::mono_ns();
    if !stop() && deadline_ns > now {
        // A bell that was rung for want of buffers before the ticket was read is not rung again.
        let wanted = m.front().wanted.load(Relaxed) != 0;
        let most = if wanted { COLLECT_NS } else { u64::MAX };
        let left = Duration::from_nanos((deadline_ns - now).min(most));
        sys::futex::wait(queue.bell(), ticket, Some(left));
    }
    queue.awake();
}

/// Records to the file named by the environment variable `EXECTRACE_OUT` until the program exits;
/// without the variable it does nothing and returns `false`.
///
/// On return from `main` and on `exit` what was recorded is written, for a second at most. On
/// `_exit`, abort and signals the file holds what was written until then, a valid trace without an
/// end mark. The file must not exist yet, and is made readable by its owner alone; `%p` in the name
/// stands for the process's id.
///
/// # Errors
///
/// [`StartError::File`] where the file cannot be made or exists already; otherwise as [`start`].
pub fn init_from_env() -> Result<bool, StartError> {
    let Some(path) = std::env::var_os("EXECTRACE_OUT").filter(|p| !p.is_empty()) else {
        return Ok(false);
    };
    let name = file_name(&path);
    let file = create_private(&name).map_err(StartError::File)?;
    if let Err(e) = begin(Config::new(), Some(Box::new(file))) {
        // Nothing is left half-started: the file is new and empty.
        let _ = std::fs::remove_file(&name);
        return Err(e);
    }
    Ok(true)
}

/// The name with the process's id for `%p`.
fn file_name(path: &OsStr) -> OsString {
    let mut name = Vec::new();
    let mut rest = path.as_bytes();
    while let Some(at) = rest.windows(2).position(|w| w == b"%p") {
        name.extend_from_slice(&rest[..at]);
        name.extend_from_slice(std::process::id().to_string().as_bytes());
        rest = &rest[at + 2..];
    }
    name.extend_from_slice(rest);
    OsString::from_vec(name)
}

/// Makes a file that did not exist, for its owner alone.
fn create_private(name: &OsStr) -> std::io::Result<std::fs::File> {
    // create_new neither overwrites nor follows a link.
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(name)
}

/// At the process's exit: what is queued and published is written, for a second at most.
extern "C" fn at_exit() {
    let _ = stop_within(Some(Duration::from_secs(1)), schema::END_EXIT);
}

/// Counts events that the writer did not take.
fn count_undelivered(summary: &mut Summary, events: u64) {
    if events != 0 {
        summary.events = summary.events.saturating_sub(events);
        summary.lost += events;
        summary.lost_by_cause.push((Cause::Sink.name(), events));
    }
}
