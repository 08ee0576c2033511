//! Recording that another process drains: what the recorded process does at its start, and the
//! drain itself.
//!
//! The recorded process gets no thread, no open descriptor and no file but the mapping, which lies
//! on a tmpfs in a folder of the drain's. The drain runs the controller over that mapping, so it
//! needs nothing of the process: how that ends makes no difference to the trace.
//!
//! 1. The facts in the front page are written before the gate is turned: a drain that sees the
//!    gate's generation knows the session.
//! 2. Nobody is ever paused from outside, and no table of the process is exchanged.
//! 3. What stands in the mapping is the word of a stranger: indexes are checked, bytes are copied.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use crate::clock;
use crate::clock::Clock;
use crate::clock::Snapshot;
use crate::clock::Ticks;
use crate::controller::Controller;
use crate::controller::Of;
use crate::controller::Plan;
use crate::controller::Totals;
use crate::coverage::Count;
use crate::emit;
use crate::encode::schema;
use crate::encode::schema::Cause;
use crate::kernel::Lanes;
use crate::kernel::Seen;
use crate::mapping::Mapping;
use crate::registry;
use crate::registry::Prepare;
use crate::registry::gate;
use crate::session::Config;
use crate::session::NEXT_GENERATION;
use crate::session::Piece;
use crate::session::SHARED;
use crate::session::StartError;
use crate::session::Summary;
use crate::stacktab::modules;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;
use crate::sync::Ordering::Release;
use crate::sys;
use crate::tables;

/// Begins a session whose trace another process takes from a file in `dir`, a folder on a tmpfs,
/// until the process ends. In a forked child it begins the child's own, in a file of its own.
///
/// For preloaded libraries: called once, before the program's `main`, and in forked children.
/// Costs a millisecond or two, mostly for memory.
///
/// # Errors
///
/// As [`start`](crate::start); the process is then not recorded.
pub fn begin_outside(config: &Config, dir: &Path) -> Result<(), StartError> {
    let _errno = sys::Errno::save();
    let budget = config.budget()?;
    registry::arm();
    super::change(super::IDLE, super::STARTING).map_err(|_| StartError::AlreadyStarted)?;
    let membarrier = !config.fence && sys::membarrier::register_everywhere();
    let prepared = registry::prepare(Some(dir), emit::thread_exits);
    let m = prepared.map_err(|e| {
        super::set_state(super::IDLE);
        match e {
            Prepare::Mapping(e) => StartError::Memory(e),
            Prepare::Elsewhere => StartError::Config("the mapping exists already, elsewhere"),
        }
    })?;
    let plan = super::plan(config, &budget, membarrier);
    let mut shared = SHARED.lock();
    shared.forget_parent();
    if let Err(e) = super::prepare_mapping(m, &plan, &mut shared, config, &budget, FIRST_BUFFERS) {
        drop(shared);
        super::set_state(super::IDLE);
        return Err(e);
    }
    drop(shared);
    write_facts(m, &plan);
    define_modules(m, plan.epoch);
    super::set_state(super::RUNNING);
    registry::switch().asked.store(0, Relaxed);
    gate::turn(&m.front().gate.0, plan.first_generation);
    if membarrier {
        sys::membarrier::barrier_everywhere();
    }
    NEXT_GENERATION.store(plan.first_generation + 1, Relaxed);
    // Release: pairs with the Acquire of whoever finds recording on.
    registry::switch().on.store(plan.epoch, Release);
    Ok(())
}

/// The process is recorded no more, from here to its end: for one that may make no calls of ours
/// any longer. What there is is drained.
pub fn leave() {
    registry::switch().on.store(0, Relaxed);
}

/// Buffers that are committed before the first event: a program that runs for a moment needs one or
/// two, and 64 KiB take some ten microseconds.
const FIRST_BUFFERS: u32 = 8;

fn write_facts(m: &Mapping, plan: &Plan) {
    let (facts, clock) = (&m.front().facts, Clock::get());
    let first = clock.snapshot();
    let clocks = [first.ticks.0, first.mono_ns, first.wall_ns, first.boot_ns, first.error.0];
    for (to, v) in facts.first.iter().zip(clocks) {
        to.store(v, Relaxed);
    }
    facts.rate.store(clock.rate(), Relaxed);
    facts.clock.store(clock.kind() as u32, Relaxed);
    let name = sys::program_name();
    for (to, byte) in facts.program.iter().zip(&name) {
        to.store(*byte, Relaxed);
    }
    facts.program_len.store(name.len().min(128) as u32, Relaxed);
    facts.first_generation.store(plan.first_generation, Relaxed);
    facts.outside.store(1, Relaxed);
}

/// Puts the loaded modules into the log. At the start, and whenever some were loaded: who calls
/// this has seen them come.
pub fn define_modules(m: &Mapping, epoch: u32) {
    define_new_modules(m, epoch, |_| true);
}

/// The same for those of which `is_new` says so.
pub fn define_new_modules(
    m: &Mapping,
    epoch: u32,
    mut is_new: impl FnMut(&modules::Module) -> bool,
) {
    modules::for_each(|module| {
        if !is_new(module) {
            return;
        }
        let build_id = crate::encode::field::Text { bytes: &module.build_id, cut_from: None };
        let path = crate::encode::field::Text { bytes: &module.path, cut_from: None };
        let mut bytes = vec![0u8; 128 + module.build_id.len() + module.path.len()];
        let mut w = crate::encode::field::Writer::new(&mut bytes);
        let put = schema::Module::put(
            &mut w,
            module.base,
            module.size,
            module.bias,
            build_id,
            path,
            module.file_size,
            module.mtime,
        );
        let len = w.len();
        if put.is_some() {
            let _ = tables::define(m, epoch, &bytes[..len]);
        }
    });
}

/// How the drain of a mapping divides its time; the defaults are those of [`Config`].
#[derive(Clone, Debug)]
pub struct DrainOptions {
    /// Length of a generation, in nanoseconds.
    pub generation_ns: u64,
}

impl Default for DrainOptions {
    fn default() -> Self {
        DrainOptions { generation_ns: 1_000_000_000 }
    }
}

/// The controller of another process's session, run from outside.
///
/// Feed `take` to the trace's file whenever the bell rings or the deadline has come, and `finish`
/// when the process has ended; then `take` to its end.
#[derive(Debug)]
pub struct Drain {
    controller: Option<Controller>,
    m: &'static Mapping,
    pid: u32,
    finished: bool,
}

/// What a drain has next.
#[derive(Debug)]
pub enum Drained {
    /// A batch of the trace.
    Batch(Vec<u8>),
    /// Nothing before this time (monotonic clock, nanoseconds), unless the bell rings.
    At(u64),
    /// Nothing any more.
    End,
}

impl Drain {
    /// Adopts the mapping in this file; `None` while the process has not begun its session.
    ///
    /// # Errors
    ///
    /// The file cannot be mapped, or is none of this version.
    pub fn adopt(path: &Path, options: &DrainOptions) -> io::Result<Option<Drain>> {
        let mapping = match Mapping::adopt(path) {
            Ok(mapping) => mapping,
            // It is being made: its length is set after its name, its magic is stored last.
            Err(e) if is_young(path) && is_of_youth(&e) => return Ok(None),
            Err(e) => return Err(e),
        };
        // Acquire: pairs with the Release with which the gate is turned (outside#1).
        let word = mapping.front().gate.0.load(Acquire);
        if word == gate::OFF && mapping.front().facts.outside.load(Relaxed) == 0 {
            // SAFETY: mapped above, and nothing refers to it.
            unsafe { mapping.unmap() };
            return Ok(None);
        }
        let m: &'static Mapping = Box::leak(Box::new(mapping));
        let front = m.front();
        let pid = front.pid.load(Relaxed);
        let plan = Plan {
            session: front.session.load(Relaxed).max(1),
            epoch: front.epoch.load(Relaxed),
            first_generation: front.facts.first_generation.load(Relaxed),
            generation_ns: options.generation_ns,
            generation_bytes: crate::controller::GENERATION_BYTES,
            membarrier: front.fence.load(Relaxed) == 0,
            snapshot: false,
            buffers_cap: front.buffers_cap.load(Relaxed),
            // Of no use from outside.
            bounds: tables::Bounds { segments_max: 0, stack_classes: 0 },
            of: Of::Other(pid),
        };
        let first = |i: usize| front.facts.first[i].load(Relaxed);
        let snapshot = Snapshot {
            ticks: Ticks(first(0)),
            mono_ns: first(1),
            wall_ns: first(2),
            boot_ns: first(3),
            error: Ticks(first(4)),
        };
        let controller = Controller::new(m, plan, snapshot, None);
        Ok(Some(Drain { controller: Some(controller), m, pid, finished: false }))
    }

    /// Writes the session's first batches. `notes` are facts for people: name and text.
    pub fn open(&mut self, notes: &[(&str, &str)]) {
        if let Some(c) = &mut self.controller {
            c.open(notes);
        }
    }

    /// Announces that [`Drain::saw`] and [`Drain::saw_until`] will say what the kernel sees of the
    /// process. False where the process has a clock of its own, to which nothing is tied.
    pub fn expect_kernel(&mut self) -> bool {
        let (front, clock) = (self.m.front(), Clock::get());
        let same = front.facts.clock.load(Relaxed) == clock.kind() as u32
            && front.tick_shift.load(Relaxed) == clock.shift();
        if let Some(c) = self.controller.as_mut().filter(|_| same) {
            c.kernel = Some(Lanes::default());
        }
        same
    }

    /// The kernel saw this of a thread, by its number of the kernel's, at this time in ticks.
    /// In the order of time.
    pub fn saw(&mut self, tid: u32, ticks: u64, seen: Seen) {
        let Some(c) = &mut self.controller else { return };
        let Some(lanes) = &mut c.kernel else { return };
        lanes.add(tid, ticks, seen);
        if lanes.is_full() {
            c.write_kernel();
        }
    }

    /// The id of a stack that the kernel walked, for [`Seen::Sample`]; 0 where it is not kept.
    pub fn stack(&mut self, frames: &[u64]) -> u64 {
        let lanes = self.controller.as_mut().and_then(|c| c.kernel.as_mut());
        let id = lanes.map_or(0, |lanes| lanes.stack(frames));
        if id == 0 {
            self.m.front().loss[Cause::StackTable as usize].fetch_add(1, Relaxed);
        }
        id
    }

    /// The kernel has counted this for threads, by their numbers of the kernel's.
    pub fn counted(&mut self, counts: &[(u32, Count)]) {
        if let Some(c) = self.controller.as_mut().filter(|c| c.kernel.is_some()) {
            c.counted(counts);
        }
    }

    /// At this time the process had these threads and no others, by their numbers of the kernel's.
    pub fn alive(&mut self, ticks: u64, tids: &HashSet<u32>) {
        if let Some(lanes) = self.controller.as_mut().and_then(|c| c.kernel.as_mut()) {
            lanes.alive(ticks, tids);
        }
    }

    /// Everything before this time was said.
    pub fn saw_until(&mut self, ticks: u64) {
        if let Some(lanes) = self.controller.as_mut().and_then(|c| c.kernel.as_mut()) {
            lanes.seen_until(ticks);
        }
    }

    /// The kernel has lost so many records, some of which may have been of this process.
    pub fn missed(&mut self, count: u64) {
        self.m.front().loss[Cause::KernelRing as usize].fetch_add(count, Relaxed);
    }

    /// When the session began, in ticks.
    pub fn first_ticks(&self) -> u64 {
        self.m.front().facts.first[0].load(Relaxed)
    }

    /// The process that is drained, as it knows itself.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The program's name, as it has told it: bytes that may be anything, at most 128.
    pub fn program(&self) -> Vec<u8> {
        self.m.front().facts.program_name(&mut [0; 128]).to_vec()
    }

    /// The next batch, or when to ask again. Takes steps of the controller where they are due.
    pub fn take(&mut self) -> Drained {
        let Some(c) = &mut self.controller else { return Drained::End };
        let mut piece = if self.finished { c.ready() } else { c.next_piece() };
        let mut deadline = 0;
        if piece.is_none() && !self.finished {
            deadline = c.step(sys::mono_ns());
            piece = c.next_piece();
        }
        match piece {
            Some(Piece::Bytes { bytes, .. }) => Drained::Batch(bytes),
            // A controller of another process copies.
            Some(Piece::Buffer { .. }) | None if self.finished => Drained::End,
            _ => Drained::At(deadline),
        }
    }

    /// Sleeps until the bell of the mapping rings or `deadline_ns` has come.
    pub fn sleep(&self, deadline_ns: u64) {
        super::sleep_until(self.m, deadline_ns, || false);
    }

    /// Ends the session, whatever the process does, and writes the accounts and the end mark.
    /// Threads that are inside an event get 100 ms to leave it.
    pub fn finish(&mut self, reason: u64) -> Summary {
        let Some(c) = &mut self.controller else { return Summary::new(&Totals::default(), 0) };
        if !self.finished {
            self.finished = true;
            c.shut_other(sys::mono_ns().saturating_add(100_000_000));
            c.finish(reason);
        }
        Summary::new(&c.totals, c.duration_ns())
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.controller = None;
        // SAFETY: leaked by `adopt`, and the controller, which alone refers to it, is gone.
        let mapping = unsafe { Box::from_raw(std::ptr::from_ref(self.m).cast_mut()) };
        // SAFETY: as above.
        unsafe { mapping.unmap() };
    }
}

/// Whether this error is what a file gives that is in the making: no magic yet, or no byte.
fn is_of_youth(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
}

/// Whether the file may still be in the making.
fn is_young(path: &Path) -> bool {
    let age =
        std::fs::metadata(path).and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
    age.is_none_or(|a| a.as_secs() < 10)
}

/// Clocks that are read together, for whoever ties another clock to the trace's.
pub fn clocks() -> (u64, u64) {
    let s = clock::Clock::get().snapshot();
    (s.ticks.0, s.mono_ns)
}

/// Two moments at which ticks and the monotonic clock were read together, the older one first.
#[derive(Clone, Copy, Debug)]
pub struct Tie(pub (u64, u64), pub (u64, u64));

impl Tie {
    /// The ticks at a time of the monotonic clock: on the line through both moments.
    pub fn ticks(&self, mono_ns: u64) -> u64 {
        let Tie((ticks, at), (ticks_then, then)) = *self;
        let (rise, run) = (ticks_then.saturating_sub(ticks), then.saturating_sub(at).max(1));
        let part = |ns: u64| (u128::from(ns) * u128::from(rise) / u128::from(run)) as u64;
        match mono_ns.checked_sub(at) {
            Some(ns) => ticks.saturating_add(part(ns)),
            None => ticks.saturating_sub(part(at - mono_ns)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_between_two_moments_is_on_the_line_between_them() {
        // 1.3 ticks a nanosecond.
        let tie = Tie((13_000, 50_000), (26_000, 60_000));
        for (mono_ns, ticks) in
            [(50_000, 13_000), (60_000, 26_000), (55_000, 19_500), (40_000, 0), (70_000, 39_000)]
        {
            assert_eq!(tie.ticks(mono_ns), ticks, "{mono_ns}");
        }
        assert_eq!(Tie((5, 9), (5, 9)).ticks(9), 5);
        assert_eq!(Tie((5, u64::MAX), (5, 0)).ticks(0), 5);
        assert_eq!(Tie((0, 0), (u64::MAX, 1)).ticks(1), u64::MAX);
        let (a, b) = (clocks(), clocks());
        assert!(a.0 <= b.0 && a.1 <= b.1);
    }
}
