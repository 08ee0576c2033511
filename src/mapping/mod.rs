//! The one mapping of a process: gate, records, side rings, live tasks, buffers.
//!
//! 1. Inside it stand indexes, never pointers, so that the same bytes serve the program, a reader
//!    in another process, and recovery after SIGKILL.
//! 2. All zero is the initial state of everything but the front page's constants.
//! 3. Whoever follows an index checks it first: the contents may come from another process.
//! 4. It is reserved once and never unmapped; pages are committed as they are needed.
//!
//! ```text
//! 0          front: magic, layout, gate, pool, queue, definition log, counters
//! records    one Record for each registered thread
//! sides      4 KiB for each record: the ring of nested events
//! tasks      one entry for each live task
//! buffers    64 KiB each, up to the end
//! ```

pub mod account;
pub mod record;

use std::io;
use std::path::Path;

use crate::buf::Arena;
use crate::buf::Buffers;
use crate::buf::Head;
use crate::buf::pool::Pool;
use crate::buf::queue::Queue;
use crate::encode::schema::CAUSES;
use crate::encode::schema::Cause;
use crate::encode::wire::BATCH_BYTES_MAX;
use crate::intern::log::Log;
use crate::intern::log::Segments;
use crate::mapping::record::Record;
use crate::mapping::record::SIDE_BYTES;
use crate::sync::AtomicU8;
use crate::sync::AtomicU32;
use crate::sync::AtomicU64;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;
use crate::sync::Ordering::Release;
use crate::sys;

/// First bytes of the front page.
pub const MAGIC: u64 = u64::from_le_bytes(*b"XTMAP\0\0\x01");
/// Version of the layout; whoever maps it from outside refuses another.
pub const LAYOUT: u32 = 4;

/// Most threads that are registered at the same time.
pub const RECORDS_MAX: u32 = 16_384;
/// Most live tasks that a checkpoint can list.
pub const TASKS_MAX: u32 = 65_536;
/// Buffers that only control takes (definitions, the controller's own batches).
pub const RESERVED: u32 = 4;

const FRONT_BYTES: usize = 64 << 10;
const RECORDS_AT: usize = FRONT_BYTES;
const SIDES_AT: usize = RECORDS_AT + RECORDS_MAX as usize * size_of::<Record>();
const TASKS_AT: usize = SIDES_AT + RECORDS_MAX as usize * SIDE_BYTES;
const TASKS_BYTES: usize = TASKS_MAX as usize * size_of::<LiveTask>();
const BUFFERS_AT: usize = TASKS_AT + TASKS_BYTES;
/// What one process reserves; of address space, not of memory.
const RESERVE_BYTES: usize = 16 << 30;
const RESERVE_BYTES_MIN: usize = BUFFERS_AT + (4 << 20);

const _: () = assert!(BUFFERS_AT.is_multiple_of(BATCH_BYTES_MAX));
const _: () = assert!(size_of::<Front>() <= 4096);

/// A live task, for checkpoints.
#[repr(C)]
pub struct LiveTask {
    /// The task's id; 0: the entry is free. Written first and cleared last.
    pub id: AtomicU64,
    /// Its parent's id.
    pub parent: AtomicU64,
    /// epoch << 32 | kind.
    pub kind: AtomicU64,
    /// When it began, in scaled ticks.
    pub begun: AtomicU64,
}

impl Facts {
    /// The program's name, copied.
    pub fn program_name<'t>(&self, into: &'t mut [u8; 128]) -> &'t [u8] {
        for (to, from) in into.iter_mut().zip(&self.program) {
            *to = from.load(Relaxed);
        }
        &into[..(self.program_len.load(Relaxed) as usize).min(128)]
    }
}

/// Keeps a word on a cache line of its own.
#[repr(C, align(64))]
pub struct Line<T>(pub T);

/// The front page.
#[repr(C)]
pub struct Front {
    /// `MAGIC`, stored last.
    pub magic: AtomicU64,
    /// `LAYOUT`.
    pub layout: AtomicU32,
    /// The process that owns the mapping.
    pub pid: AtomicU32,
    /// Offsets and sizes: records, bytes of one, sides, tasks, buffers, bytes in all.
    pub offsets: [AtomicU64; 6],
    /// The running session's id; 0 none.
    pub session: AtomicU64,
    /// The table epoch that goes with the gate's generation; written before the gate.
    pub epoch: AtomicU32,
    /// The session's tick shift.
    pub tick_shift: AtomicU32,
    /// The session's ordinal in this process, as guards carry it; written before the gate.
    pub ordinal: AtomicU32,
    /// The gate: generation, paused bit; 0 off.
    pub gate: Line<AtomicU32>,
    /// Free buffers.
    pub pool: Line<Pool>,
    /// Full buffers.
    pub queue: Line<Queue>,
    /// The definition logs of the even and of the odd epoch; see [`Mapping::log`].
    pub logs: [Line<Log>; 2],
    /// Records ever made; those below exist.
    pub records: Line<AtomicU32>,
    /// Free records: tag << 32 | index + 1.
    pub record_free: AtomicU64,
    /// Ended records: index + 1; taken whole.
    pub record_ended: AtomicU32,
    /// Buffers that are committed.
    pub committed: AtomicU32,
    /// Most buffers that may be out of the pool in this session.
    pub buffers_cap: AtomicU32,
    /// Emitters that wait for a free buffer.
    pub waiting: AtomicU32,
    /// Futex word: changes when a buffer was given back while somebody waits.
    pub freed: AtomicU32,
    /// Not 0 when free buffers run short, 2 when there were none and the bell was rung; the
    /// controller clears it.
    pub wanted: AtomicU32,
    /// Whether every event takes the cold half and fences there: membarrier is not to be had.
    pub fence: AtomicU32,
    /// What a controller in another process has to know of the session.
    pub facts: Facts,
    /// The next thread's number, less one.
    pub threads: AtomicU32,
    /// The next block of task ids.
    pub tasks: AtomicU64,
    /// Not 0: the entries of live tasks are committed.
    pub tasks_there: AtomicU32,
    /// Losses of threads without a record.
    pub loss: [AtomicU64; CAUSES],
}

/// What the process that records itself from outside says of its session; written before the gate
/// is turned for the first time.
#[repr(C)]
pub struct Facts {
    /// Not 0: a controller in another process drains this mapping.
    pub outside: AtomicU32,
    /// The first generation of the session.
    pub first_generation: AtomicU32,
    /// `schema::CLOCK_*`.
    pub clock: AtomicU32,
    /// Length of `program`.
    pub program_len: AtomicU32,
    /// The clocks at the start: scaled ticks, monotonic, wall, boot, error.
    pub first: [AtomicU64; 5],
    /// Scaled ticks a second, as first estimated.
    pub rate: AtomicU64,
    /// The program's name.
    pub program: [AtomicU8; 128],
}

/// The mapping.
#[derive(Debug)]
pub struct Mapping {
    base: *mut u8,
    bytes: usize,
    file: bool,
}

// SAFETY: everything inside is reached through atomics or by the owner rules of `buf`.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Reserves the range: anonymous, or a file in `dir`, which is a tmpfs.
    pub fn reserve(dir: Option<&Path>) -> io::Result<Mapping> {
        let region = sys::mapping::reserve(RESERVE_BYTES, RESERVE_BYTES_MIN, dir)?;
        let file = region.path().is_some();
        let m = Mapping { base: region.base(), bytes: region.bytes(), file };
        // No session does with less: where there is no room for it, nothing stays in the folder.
        let buffers = RESERVED as usize * BATCH_BYTES_MAX;
        let done = m.populate(0, FRONT_BYTES).and_then(|()| m.populate(BUFFERS_AT, buffers));
        if let Err(e) = done {
            region.discard();
            return Err(e);
        }
        m.stamp();
        Ok(m)
    }

    /// Maps the file of another process, for reading only: what stores or populates must not be
    /// called. Refuses a file of another layout.
    pub fn open(path: &Path) -> io::Result<Mapping> {
        Self::open_as(path, false)
    }

    /// The same for the process that runs the controller.
    pub fn adopt(path: &Path) -> io::Result<Mapping> {
        Self::open_as(path, true)
    }

    fn open_as(path: &Path, writable: bool) -> io::Result<Mapping> {
        let other = || io::Error::new(io::ErrorKind::InvalidData, "not a mapping of this layout");
        let (base, bytes) = sys::mapping::map_file(path, writable)?;
        if bytes < RESERVE_BYTES_MIN {
            return Err(other());
        }
        let m = Mapping { base, bytes, file: true };
        let f = m.front();
        // Acquire: pairs with the Release in `stamp`.
        if f.magic.load(Acquire) != MAGIC || f.layout.load(Relaxed) != LAYOUT {
            return Err(other());
        }
        let same = f.offsets.iter().zip(m.layout()).all(|(o, v)| o.load(Relaxed) == v as u64);
        if same { Ok(m) } else { Err(other()) }
    }

    /// Offsets and sizes as the front page has them.
    fn layout(&self) -> [usize; 6] {
        [RECORDS_AT, size_of::<Record>(), SIDES_AT, TASKS_AT, BUFFERS_AT, self.bytes]
    }

    /// Replaces all pages by fresh zero ones: in a forked child, which shares the parent's.
    pub fn renew(&self) -> io::Result<()> {
        self.forsake()?;
        self.begin_anew()
    }

    fn begin_anew(&self) -> io::Result<()> {
        self.populate(0, FRONT_BYTES)?;
        self.stamp();
        Ok(())
    }

    /// The same in a file of this process's own, which another process will drain.
    pub fn renew_in(&self, dir: &Path) -> io::Result<()> {
        // SAFETY: mapping#4: the range is ours for the life of the process.
        unsafe { sys::mapping::replace_with_file(self.base, self.bytes, dir) }?;
        self.begin_anew()
    }

    /// Unmaps what `adopt` has mapped.
    ///
    /// # Safety
    ///
    /// - Nothing that refers to the mapping is used any more.
    pub unsafe fn unmap(self) {
        // SAFETY: the caller's promise; the range is this mapping's.
        unsafe { sys::mapping::release_private(self.base, self.bytes) };
    }

    /// Lets go of the pages that a forked child shares with its parent. Signal-safe.
    pub fn forsake(&self) -> io::Result<()> {
        // SAFETY: mapping#4: the range is ours for the life of the process.
        let done = unsafe { sys::mapping::replace_with_fresh(self.base, self.bytes) };
        if done { Ok(()) } else { Err(io::ErrorKind::OutOfMemory.into()) }
    }

    fn stamp(&self) {
        let f = self.front();
        f.layout.store(LAYOUT, Relaxed);
        f.pid.store(sys::thread::pid_raw(), Relaxed);
        for (to, v) in f.offsets.iter().zip(self.layout()) {
            to.store(v as u64, Relaxed);
        }
        // Release: pairs with the Acquire of whoever maps the file from outside.
        f.magic.store(MAGIC, Release);
    }

    fn populate(&self, at: usize, len: usize) -> io::Result<()> {
        assert!(at + len <= self.bytes);
        // SAFETY: the range was just checked to lie inside the mapping.
        let addr = unsafe { self.base.add(at) };
        // SAFETY: as above.
        let done = unsafe { sys::mapping::populate(addr, len, self.file) };
        done.map_err(io::Error::from_raw_os_error)
    }

    /// The front page.
    #[inline]
    pub fn front(&self) -> &Front {
        // SAFETY: mapping#2: the front is zeroed memory of sufficient size, all of it atomics.
        unsafe { &*self.base.cast::<Front>() }
    }

    /// The definition log of an epoch: of the one that runs, or of the one before while its last
    /// definitions are written out.
    #[inline]
    pub fn log(&self, epoch: u32) -> &Log {
        &self.front().logs[epoch as usize & 1].0
    }

    /// Empties the log of an epoch that nobody inserts into or scans; its segments go to the pool.
    pub fn retire_log(&self, epoch: u32) {
        for index in self.clear_log(epoch) {
            self.push_free(index);
        }
    }

    /// Empties the log of an epoch and gives its segments to the caller.
    pub fn clear_log(&self, epoch: u32) -> Vec<u32> {
        let log = self.log(epoch);
        let segments = log.segments(self).filter(|i| *i < self.len()).collect();
        log.clear();
        segments
    }

    /// A record; `None` beyond those that were made.
    #[inline]
    pub fn record(&self, index: u32) -> Option<&Record> {
        (index < self.made()).then(|| self.record_unchecked(index))
    }

    fn record_unchecked(&self, index: u32) -> &Record {
        let at = RECORDS_AT + index as usize * size_of::<Record>();
        // SAFETY: index is below RECORDS_MAX, so the place lies inside the range.
        let p = unsafe { self.base.add(at) };
        // SAFETY: mapping#2: zeroed memory is a record, all of it atomics.
        unsafe { &*p.cast::<Record>() }
    }

    /// How many records were made.
    pub fn made(&self) -> u32 {
        self.front().records.0.load(Acquire).min(RECORDS_MAX)
    }

    /// All records that were made, with their indexes.
    pub fn records(&self) -> impl Iterator<Item = (u32, &Record)> {
        (0..self.made()).map(|i| (i, self.record_unchecked(i)))
    }

    /// The side ring of a record. Its owner's handlers write below the head, the controller reads
    /// below the head and above the tail.
    pub fn side(&self, index: u32) -> *mut u8 {
        assert!(index < RECORDS_MAX);
        // SAFETY: index is below RECORDS_MAX, so the place lies inside the range.
        unsafe { self.base.add(SIDES_AT + index as usize * SIDE_BYTES) }
    }

    /// Commits the entries of live tasks, of which few programs have any. Signal-safe.
    ///
    /// # Errors
    ///
    /// Without memory.
    #[inline]
    pub fn commit_tasks(&self) -> io::Result<()> {
        if self.front().tasks_there.load(Relaxed) == 0 {
            self.populate(TASKS_AT, TASKS_BYTES)?;
            // Release: pairs with the Acquire in `tasks`; the pages are there before it is.
            self.front().tasks_there.store(1, Release);
        }
        Ok(())
    }

    /// The entries of live tasks, once they are committed.
    pub fn tasks(&self) -> &[LiveTask] {
        // Acquire: pairs with the Release in `commit_tasks`.
        if self.front().tasks_there.load(Acquire) == 0 {
            return &[];
        }
        // SAFETY: TASKS_AT lies inside the range.
        let p = unsafe { self.base.add(TASKS_AT) };
        // SAFETY: mapping#2: zeroed, committed memory, all of it atomics.
        unsafe { std::slice::from_raw_parts(p.cast::<LiveTask>(), TASKS_MAX as usize) }
    }

    /// Frees the entries of tasks that outlived their session. The gate is shut.
    pub fn forget_tasks(&self) {
        // Entries stand near the id, so those above the newest one were never used.
        let used = self.front().tasks.load(Relaxed).saturating_add(2048);
        for t in self.tasks().iter().take(used.min(u64::from(TASKS_MAX)) as usize) {
            if t.id.load(Relaxed) != 0 {
                // Release: pairs with the Acquire of the entry's next holder.
                t.id.store(0, Release);
            }
        }
    }

    /// Pops a free record or makes one; `None` when there are too many or no memory. Signal-safe.
    pub fn take_record(&self) -> Option<(u32, &Record)> {
        let front = self.front();
        // Acquire: pairs with the Release in `free_record`.
        let mut head = front.record_free.load(Acquire);
        while let Some(index) = (head as u32).checked_sub(1) {
            let r = self.record(index)?;
            let next = u64::from(r.next.load(Relaxed)) | (head >> 32).wrapping_add(1) << 32;
            match front.record_free.compare_exchange_weak(head, next, Acquire, Acquire) {
                Ok(_) => return Some((index, r)),
                Err(now) => head = now,
            }
        }
        self.make_record()
    }

    fn make_record(&self) -> Option<(u32, &Record)> {
        let made = &self.front().records.0;
        let mut index = made.load(Acquire);
        loop {
            if index >= RECORDS_MAX {
                return None;
            }
            let at = RECORDS_AT + index as usize * size_of::<Record>();
            self.populate(at & !4095, 8192).ok()?;
            self.populate(SIDES_AT + index as usize * SIDE_BYTES, SIDE_BYTES).ok()?;
            // Release: pairs with the Acquire in `made`; the record is zeroed before it is seen.
            match made.compare_exchange_weak(index, index + 1, Release, Acquire) {
                Ok(_) => return Some((index, self.record_unchecked(index))),
                Err(now) => index = now,
            }
        }
    }

    /// Gives a record back that nobody uses any more.
    pub fn free_record(&self, index: u32) {
        let Some(r) = self.record(index) else { return };
        let free = &self.front().record_free;
        let mut head = free.load(Relaxed);
        loop {
            r.next.store(head as u32, Relaxed);
            let new = u64::from(index + 1) | (head >> 32).wrapping_add(1) << 32;
            // Release: pairs with the Acquire in `take_record`.
            match free.compare_exchange_weak(head, new, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Puts an ended record on the list that the controller takes whole. Signal-safe.
    pub fn end_record(&self, index: u32) {
        let Some(r) = self.record(index) else { return };
        r.end();
        let ended = &self.front().record_ended;
        let mut head = ended.load(Relaxed);
        loop {
            r.next.store(head, Relaxed);
            // Release: pairs with the Acquire in `take_ended`.
            match ended.compare_exchange_weak(head, index + 1, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes all ended records. Only the controller calls this.
    pub fn take_ended(&self, mut each: impl FnMut(u32, &Record)) {
        let mut link = self.front().record_ended.swap(0, Acquire);
        for _ in 0..RECORDS_MAX {
            let Some(index) = link.checked_sub(1) else { return };
            let Some(r) = self.record(index) else { return };
            link = r.next.load(Relaxed);
            each(index, r);
        }
    }

    /// Buffers that fit into the range.
    pub fn buffers_max(&self) -> u32 {
        ((self.bytes - BUFFERS_AT) / BATCH_BYTES_MAX).min(u32::MAX as usize >> 1) as u32
    }

    /// Start of a committed buffer.
    pub fn buffer(&self, index: u32) -> Option<*mut u8> {
        (index < self.committed()).then(|| self.buffer_at(index))
    }

    fn buffer_at(&self, index: u32) -> *mut u8 {
        let at = BUFFERS_AT + index as usize * BATCH_BYTES_MAX;
        assert!(at + BATCH_BYTES_MAX <= self.bytes);
        // SAFETY: the place was just checked to lie inside the range.
        unsafe { self.base.add(at) }
    }

    /// How many buffers are committed.
    pub fn committed(&self) -> u32 {
        self.front().committed.load(Acquire).min(self.buffers_max())
    }

    /// Commits one more buffer, not in the pool, keeping `reserve` of the cap back; `None` at the
    /// cap or without memory. Signal-safe.
    pub fn grow(&self, reserve: u32) -> Option<u32> {
        let front = self.front();
        let cap = front.buffers_cap.load(Relaxed).min(self.buffers_max()).saturating_sub(reserve);
        let mut index = front.committed.load(Acquire);
        loop {
            if index >= cap {
                return None;
            }
            self.populate(BUFFERS_AT + index as usize * BATCH_BYTES_MAX, BATCH_BYTES_MAX).ok()?;
            // Release: pairs with the Acquire in `committed`; its pages are there before it is.
            match front.committed.compare_exchange_weak(index, index + 1, Release, Acquire) {
                Ok(_) => return Some(index),
                Err(now) => index = now,
            }
        }
    }

    /// Takes a free buffer, keeping `reserve` back. Signal-safe.
    pub fn pop(&self, reserve: u32) -> Option<u32> {
        self.front().pool.0.pop(self, reserve + self.over())
    }

    /// How many buffers of an older session's larger bound stay in the pool.
    fn over(&self) -> u32 {
        self.committed().saturating_sub(self.front().buffers_cap.load(Relaxed))
    }

    /// How many buffers of the pool could be popped now, keeping `reserve` back.
    pub fn spare(&self, reserve: u32) -> u32 {
        self.front().pool.0.free().saturating_sub(reserve + self.over())
    }

    /// How many buffers could be had now, those included that are not committed yet.
    pub fn obtainable(&self, reserve: u32) -> u32 {
        let cap = self.front().buffers_cap.load(Relaxed).min(self.buffers_max());
        let more = cap.saturating_sub(self.committed());
        (self.front().pool.0.free() + more).saturating_sub(reserve + self.over())
    }

    /// Gives a buffer back and wakes whoever waits for one. Signal-safe.
    pub fn push_free(&self, index: u32) {
        let front = self.front();
        front.pool.0.push(self, index);
        self.wake_waiting();
    }

    /// Wakes the emitters that wait for a free buffer.
    pub fn wake_waiting(&self) {
        let front = self.front();
        // SeqCst: pairs with the fence of a waiter between its announcement and its last look.
        crate::sync::fence(crate::sync::Ordering::SeqCst);
        if front.waiting.load(Relaxed) != 0 {
            front.freed.fetch_add(1, Release);
            sys::futex::wake(&front.freed, u32::MAX);
        }
    }

    /// Counts the loss of an event of a thread without a record. Signal-safe.
    pub fn lose(&self, cause: Cause) {
        self.front().loss[cause as usize].fetch_add(1, Relaxed);
    }

    /// Wakes the controller.
    pub fn ring(&self) {
        let queue = &self.front().queue.0;
        queue.bell().fetch_add(1, Release);
        sys::futex::wake(queue.bell(), 1);
    }
}

// SAFETY: a committed buffer is 64 KiB of the mapping, 64 KiB aligned to its start, which is page
// aligned, and never goes away; its first bytes are its head.
unsafe impl Buffers for Mapping {
    fn start(&self, index: u32) -> *mut u8 {
        self.buffer_at(index)
    }
}

impl Segments for Mapping {
    fn take(&self) -> Option<u32> {
        self.pop(0).or_else(|| self.grow(0))
    }

    fn give_back(&self, index: u32) {
        self.push_free(index);
    }
}

impl Arena for Mapping {
    fn head(&self, index: u32) -> &Head {
        let p = self.buffer_at(index);
        // SAFETY: mapping#2: a buffer's first bytes are atomics, valid whatever they hold.
        unsafe { &*p.cast::<Head>() }
    }

    fn len(&self) -> u32 {
        self.committed()
    }
}
