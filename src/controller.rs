//! The controller: a state machine without thread or I/O that brings what the threads wrote into
//! the order of the stream.
//!
//! `step(now)` advances generations, collects, polls late threads, takes ended ones apart, grows
//! the pool; `next()` gives the next piece of the stream. Whoever drives it (the thread of
//! `start(writer)`, or `read_trace()`) writes these pieces out in their order.
//!
//! 1. Definitions are scanned after a buffer was taken and stand before it (Rule D).
//! 2. A buffer is taken from a slot only after its thread was seen outside, behind the barrier.
//! 3. A buffer of an older session goes to the pool, not into the stream.

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::time::Duration;

use crate::buf::Arena;
use crate::buf::Head;
use crate::clock::Clock;
use crate::clock::Snapshot;
use crate::coverage::Count;
use crate::coverage::Looks;
use crate::emit::ENTRY_BYTES;
use crate::emit::ENTRY_WRAP;
use crate::encode::field::Reader;
use crate::encode::field::Text;
use crate::encode::field::Writer;
use crate::encode::schema;
use crate::encode::schema::CAUSES;
use crate::encode::schema::Cause;
use crate::encode::wire;
use crate::encode::wire::BATCH_BYTES_MAX;
use crate::encode::wire::BatchKind;
use crate::encode::wire::HEADER_BYTES;
use crate::encode::wire::Header;
use crate::intern::log::Cursor;
use crate::kernel::Lanes;
use crate::mapping::Mapping;
use crate::mapping::account::Account;
use crate::mapping::record;
use crate::mapping::record::Record;
use crate::mapping::record::SIDE_BYTES;
use crate::registry;
use crate::registry::gate;
use crate::site::kind_in;
use crate::stacktab::modules;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;
use crate::sync::Ordering::Release;
use crate::sys;
use crate::tables;

/// A piece of the stream: one batch.
#[derive(Debug)]
pub enum Piece {
    /// A buffer of the mapping, its header written over; goes back to the pool afterwards.
    Buffer {
        /// Index of the buffer.
        index: u32,
        /// Bytes of the batch.
        len: u32,
        /// Events in it.
        events: u32,
    },
    /// Bytes of the controller's own.
    Bytes {
        /// The batch.
        bytes: Vec<u8>,
        /// Timed events in it.
        events: u32,
    },
}

/// Whose mapping a controller works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// This process's own.
    Own,
    /// That of the process with this id, which may be dead, and whose bytes are not trusted. Its
    /// threads are never paused, its pages are not committed from here, and its modules and tables
    /// are its own affair.
    Other(u32),
}

/// What a session is to do; fixed at its start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Random, not 0.
    pub session: u64,
    /// The first table epoch.
    pub epoch: u32,
    /// The first generation.
    pub first_generation: u32,
    /// Length of a generation, in nanoseconds.
    pub generation_ns: u64,
    /// Bytes after which a generation ends all the same.
    pub generation_bytes: u64,
    /// Whether membarrier works; otherwise every event fences.
    pub membarrier: bool,
    /// Whether the snapshot at stop lists what each thread was doing.
    pub snapshot: bool,
    /// Most buffers.
    pub buffers_cap: u32,
    /// What holds for the tables.
    pub bounds: tables::Bounds,
    /// Whose session it is.
    pub of: Of,
}

/// A generation ends after so many bytes, so that a streaming reader's memory is bounded.
pub const GENERATION_BYTES: u64 = 64 << 20;
/// No generation after this one, so that the gate's number never reaches the bit that says paused,
/// and some numbers are left for sessions: with one each millisecond that is after 24 days.
const GENERATION_LAST: u32 = gate::PAUSED - (1 << 20);
/// How often late threads are polled.
const LATE_POLL_NS: u64 = 10_000_000;
/// How often partly filled buffers are collected at most.
pub const COLLECT_NS: u64 = 10_000_000;

/// How often a new table epoch is opened at most: each takes a pause.
const EPOCH_NS: u64 = 10_000_000;

/// A batch of the controller's own that is being filled.
#[derive(Debug, Default)]
struct Page {
    body: Vec<u8>,
    count: u32,
}

/// The controller of one session.
#[derive(Debug)]
pub struct Controller {
    m: &'static Mapping,
    plan: Plan,
    /// The tables' memory; `None` where they are not this process's to exchange.
    pub memory: Option<tables::Memory>,
    /// The table epoch that runs.
    epoch: u32,
    /// The epoch whose tables are filled and wait for a pause.
    next_epoch: Option<u32>,
    /// When an epoch was last opened, or tried to.
    epoch_tried_ns: u64,
    /// A module was unloaded: ids of stacks may name what stands there now.
    unloaded: bool,
    cursor: Cursor,
    out: VecDeque<Piece>,
    definitions: Page,
    control: Page,
    sequence: u32,
    generation: u32,
    generation_began_ns: u64,
    generation_bytes: u64,
    collected_ns: u64,
    late: Vec<(u32, u32)>,
    ended_generation: u32,
    modules: modules::Modules,
    modules_ns: u64,
    /// Threads that were stuck at the end, with their buffers.
    pub aside: Vec<Aside>,
    /// Threads that have stood inside since a session before: their event was counted there.
    pub stood: Vec<Aside>,
    first: Snapshot,
    last: Snapshot,
    /// Losses that were already said, by thread and cause.
    said: HashMap<(u32, u8), u64>,
    /// Buffers of this generation and later belong to threads that fence in every event.
    fence_since: u32,
    /// Whether the trace is still to say that membarrier was refused in mid-session.
    says_refused: bool,
    seen_threads: u64,
    /// Threads that were defined here.
    introduced: HashSet<u32>,
    /// What threads waited for that vanished: their process was killed, or became another program.
    vanished: Vec<BlockedShot>,
    /// What the kernel saw, where somebody says it.
    pub kernel: Option<Lanes>,
    /// How long threads were blocked, where somebody looks at them.
    looks: Looks,
    /// Threads that never met the recorder, by the kernel's number.
    unmet: HashMap<u32, u32>,
    /// What stands in the stream so far.
    pub totals: Totals,
}

/// A thread that stood inside the section when its session ended, and the buffer that it had.
#[derive(Clone, Copy, Debug)]
pub struct Aside {
    record: u32,
    thread: u32,
    buffer: Option<u32>,
}

impl Aside {
    /// Whether the thread stands there still: then it may touch all that it could touch then.
    pub fn is_held(&self, m: &Mapping) -> bool {
        let mine = |r: &&Record| r.thread.load(Relaxed) == self.thread;
        m.record(self.record).filter(mine).is_some_and(|r| !r.is_out())
    }

    /// Gives the buffer back. The thread is outside.
    pub fn give_back(&self, m: &Mapping) {
        if let Some(index) = self.buffer {
            m.push_free(index);
        }
    }
}

/// Counts of a session.
#[derive(Clone, Copy, Debug)]
pub struct Totals {
    /// Timed events in the stream.
    pub events: u64,
    /// Batches in the stream.
    pub batches: u64,
    /// Bytes in the stream.
    pub bytes: u64,
    /// Events lost, by cause.
    pub lost: [u64; CAUSES],
    /// Threads that were registered at some time.
    pub threads: u64,
    /// Generations.
    pub generations: u64,
    /// Longest pause, in nanoseconds.
    pub pause_max_ns: u64,
    /// Threads that did not let go of their buffers before the deadline.
    pub stuck: u64,
}

impl Default for Totals {
    fn default() -> Self {
        Totals {
            events: 0,
            batches: 0,
            bytes: 0,
            lost: [0; CAUSES],
            threads: 0,
            generations: 0,
            pause_max_ns: 0,
            stuck: 0,
        }
    }
}

impl Totals {
    /// Events lost in all.
    pub fn lost_events(&self) -> u64 {
        let is_event = |c: &&Cause| c.is_event();
        Cause::ALL.iter().filter(is_event).map(|c| self.lost[*c as usize]).sum()
    }
}

impl Controller {
    /// A controller for a session whose gate is not open yet.
    pub fn new(
        m: &'static Mapping,
        plan: Plan,
        first: Snapshot,
        memory: Option<tables::Memory>,
    ) -> Controller {
        let now = sys::mono_ns();
        Controller {
            m,
            memory,
            epoch: plan.epoch,
            next_epoch: None,
            epoch_tried_ns: now,
            unloaded: false,
            cursor: Cursor::default(),
            out: VecDeque::with_capacity(64),
            definitions: Page::default(),
            control: Page::default(),
            sequence: 0,
            generation: plan.first_generation,
            generation_began_ns: now,
            generation_bytes: 0,
            collected_ns: now,
            late: Vec::with_capacity(64),
            ended_generation: 0,
            modules: modules::Modules::new(),
            modules_ns: now,
            aside: Vec::new(),
            stood: Vec::new(),
            first,
            last: first,
            said: HashMap::new(),
            fence_since: if plan.membarrier { u32::MAX } else { plan.first_generation },
            says_refused: false,
            seen_threads: 0,
            introduced: HashSet::new(),
            vanished: Vec::new(),
            kernel: None,
            looks: Looks::default(),
            unmet: HashMap::new(),
            totals: Totals::default(),
            plan,
        }
    }

    /// The current generation.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    // ---- the beginning

    /// Writes the session's first batches: header, schema, clocks, facts.
    pub fn open(&mut self, notes: &[(&str, &str)]) {
        let mut page = Page::default();
        page.put(|w| self.put_session(w));
        for spec in schema::SPECS {
            page.put(|w| {
                schema::Schema::put(
                    w,
                    spec.kind as u64,
                    spec.name.into(),
                    spec.phase.code(),
                    spec.phase.pair().into(),
                    spec.fields,
                )
            });
        }
        self.finish_page(page, BatchKind::Session, wire::FLAG_CHECKPOINT);
        let first = self.first;
        self.put_control(|w| put_clock(w, &first));
        for (name, text) in notes {
            self.put_control(|w| schema::Note::put(w, (*name).into(), (*text).into()));
        }
        self.poll_modules();
    }

    fn put_session(&self, w: &mut Writer<'_>) -> Option<()> {
        let front = self.m.front();
        let clock = Clock::get();
        let mut text = [0u8; 128];
        let (kind, rate, pid, own);
        let program = match self.plan.of {
            Of::Own => {
                own = sys::program_name();
                (kind, rate) = (clock.kind() as u64, clock.rate());
                pid = sys::thread::pid_raw();
                Text { bytes: &own, cut_from: None }
            }
            Of::Other(other) => {
                let facts = &front.facts;
                (kind, rate) = (facts.clock.load(Relaxed).into(), facts.rate.load(Relaxed));
                pid = other;
                Text { bytes: facts.program_name(&mut text), cut_from: None }
            }
        };
        let mode = if self.plan.membarrier { schema::MODE_MEMBARRIER } else { schema::MODE_FENCE };
        schema::Session::put(
            w,
            wire::VERSION.into(),
            concat!("exectrace ", env!("CARGO_PKG_VERSION")).into(),
            front.tick_shift.load(Relaxed).into(),
            rate,
            kind,
            self.first.ticks.0,
            pid.into(),
            program,
            std::env::consts::ARCH.into(),
            mode,
        )
    }

    /// Says what a thread is doing, for the snapshot at start and stop.
    pub fn thread_state(&mut self, t: &ThreadShot) {
        let name = Text { bytes: &t.name[..t.name_len], cut_from: None };
        let kinds = t.spans[..t.listed].iter().map(|word| kind_in(*word, self.epoch));
        let spans: Vec<u64> = kinds.collect();
        self.put_control(|w| {
            schema::ThreadState::put(
                w,
                t.thread.into(),
                t.tid.into(),
                name,
                t.at,
                t.state,
                t.task,
                &spans,
            )
        });
    }

    /// Defines modules that came. Once one has gone, an address of this epoch may be of what stood
    /// there before: what came then is defined in the next epoch only, and unknown in this one.
    fn poll_modules(&mut self) {
        if self.plan.of != Of::Own {
            return;
        }
        match self.modules.poll() {
            modules::Change::Same => {}
            modules::Change::Added if self.unloaded => {}
            modules::Change::Added => self.define_modules(),
            modules::Change::Removed => {
                self.unloaded = true;
                self.put_control(|w| {
                    let text = "one was unloaded: addresses of this epoch may name what followed";
                    schema::Note::put(w, "modules".into(), text.into())
                });
            }
        }
    }

    /// Writes the loaded modules as definitions of the epoch that runs.
    fn define_modules(&mut self) {
        let mut pages = vec![std::mem::take(&mut self.definitions)];
        modules::for_each(|module| {
            if pages.last().is_none_or(|p| p.body.len() > BATCH_BYTES_MAX / 2) {
                pages.push(Page::default());
            }
            let Some(page) = pages.last_mut() else { return };
            let build_id = Text { bytes: &module.build_id, cut_from: None };
            let path = Text { bytes: &module.path, cut_from: None };
            page.put(|w| {
                schema::Module::put(
                    w,
                    module.base,
                    module.size,
                    module.bias,
                    build_id,
                    path,
                    module.file_size,
                    module.mtime,
                )
            });
        });
        for page in pages {
            self.finish_page(page, BatchKind::Definitions, 0);
        }
    }

    // ---- the stream

    /// The next piece, in the order of the stream.
    pub fn next_piece(&mut self) -> Option<Piece> {
        if let Some(piece) = self.out.pop_front() {
            return Some(piece);
        }
        self.drain();
        self.out.pop_front()
    }

    /// The next piece of those that stand ready.
    pub fn ready(&mut self) -> Option<Piece> {
        self.out.pop_front()
    }

    /// Takes what is queued and puts it, definitions first, into the stream.
    fn drain(&mut self) {
        let m = self.m;
        loop {
            self.reap();
            // The whole list at once, in the order in which it was handed over.
            let mut taken: Vec<u32> = m.front().queue.0.take_all(m).collect();
            if taken.is_empty() {
                return;
            }
            // A thread may have handed over its next buffer between our taking one out of its slot
            // and handing that one over: both are in this list then.
            taken.sort_by_key(|index| {
                let head = m.head(*index);
                (head.thread.load(Relaxed), head.sequence.load(Relaxed))
            });
            self.scan_definitions();
            for index in taken {
                self.take_in(index, 0);
            }
        }
    }

    /// Writes every committed definition that stands before the entry count read now.
    fn scan_definitions(&mut self) {
        let mut page = std::mem::take(&mut self.definitions);
        let mut full = Vec::new();
        let kernel = &mut self.kernel;
        self.cursor.scan(self.m.log(self.epoch), self.m, |bytes| {
            if let Some(lanes) = kernel {
                note_thread(lanes, bytes);
            }
            if page.body.len() + bytes.len() > BATCH_BYTES_MAX - HEADER_BYTES {
                full.push(std::mem::take(&mut page));
            }
            page.body.extend_from_slice(bytes);
            page.count += 1;
        });
        for page in full {
            self.finish_page(page, BatchKind::Definitions, 0);
        }
        self.definitions = page;
        self.flush_definitions();
    }

    fn flush_definitions(&mut self) {
        let page = std::mem::take(&mut self.definitions);
        self.finish_page(page, BatchKind::Definitions, 0);
    }

    fn flush_control(&mut self) {
        let page = std::mem::take(&mut self.control);
        self.finish_page(page, BatchKind::Control, 0);
    }

    /// Makes a batch of the controller's own.
    fn finish_page(&mut self, page: Page, kind: BatchKind, flags: u32) {
        if page.count == 0 {
            return;
        }
        let header =
            Header { sequence: self.sequence, count: page.count, flags, ..self.header(kind, 0) };
        self.sequence = self.sequence.wrapping_add(1);
        self.push_bytes(header, &page.body, 0);
    }

    /// The header of an empty batch of now, of no thread.
    fn header(&self, kind: BatchKind, lane: u8) -> Header {
        Header {
            length: 0,
            kind: kind as u8,
            lane,
            version: wire::VERSION,
            crc: 0,
            session: self.plan.session,
            epoch: self.epoch,
            generation: self.generation,
            thread: 0,
            sequence: 0,
            first_ticks: 0,
            last_ticks: 0,
            count: 0,
            flags: 0,
        }
    }

    fn push_bytes(&mut self, mut header: Header, body: &[u8], events: u32) {
        let len = HEADER_BYTES + body.len();
        debug_assert!(len <= BATCH_BYTES_MAX);
        header.length = len as u32;
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&header.to_bytes());
        bytes.extend_from_slice(body);
        let crc = sys::crc32c(&bytes);
        bytes[wire::CRC_AT..wire::CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        self.count_in(len, events);
        self.out.push_back(Piece::Bytes { bytes, events });
    }

    fn count_in(&mut self, len: usize, events: u32) {
        self.totals.batches += 1;
        self.totals.bytes += len as u64;
        self.totals.events += u64::from(events);
        self.generation_bytes += len as u64;
    }

    /// Makes a batch of a thread's buffer.
    fn take_in(&mut self, index: u32, flags: u32) {
        let m = self.m;
        let head = m.head(index);
        let generation = head.generation.load(Relaxed);
        if generation < self.plan.first_generation {
            m.push_free(index);
            return;
        }
        let (header, len) = self.header_of(head, flags);
        let Some(base) = m.buffer(index) else { return };
        if self.plan.of != Of::Own {
            // Whoever else has the mapping may write there all the same: into a copy.
            // SAFETY: a buffer is 64 KiB long and stays mapped.
            let body = unsafe { copied(base, len) };
            m.push_free(index);
            return self.push_bytes(header, &body, header.count);
        }
        // SAFETY: buf: a taken buffer is the controller's alone, 64 KiB, and begins with `head`.
        unsafe { put_header(base, head, &header.to_bytes()) };
        // SAFETY: nobody stores into it now.
        let crc = sys::crc32c(unsafe { std::slice::from_raw_parts(base, len) }).to_le_bytes();
        // SAFETY: the place lies in the header.
        let at = unsafe { base.add(wire::CRC_AT) };
        // SAFETY: so do the four bytes, which are not the link.
        unsafe { std::ptr::copy_nonoverlapping(crc.as_ptr(), at, crc.len()) };
        self.count_in(len, header.count);
        self.out.push_back(Piece::Buffer { index, len: len as u32, events: header.count });
    }

    fn header_of(&self, head: &Head, flags: u32) -> (Header, usize) {
        // Acquire: pairs with the Release of the owner's publication.
        let word = head.publish.load(Acquire);
        let len = (word as u32 as usize).clamp(HEADER_BYTES, BATCH_BYTES_MAX);
        let generation = head.generation.load(Relaxed);
        let late = if generation <= self.ended_generation { wire::FLAG_LATE } else { 0 };
        let header = Header {
            length: len as u32,
            epoch: head.epoch.load(Relaxed),
            generation,
            thread: head.thread.load(Relaxed),
            sequence: head.sequence.load(Relaxed),
            first_ticks: head.first_ticks.load(Relaxed),
            last_ticks: head.last_ticks.load(Relaxed),
            count: (word >> 32) as u32,
            flags: flags | late,
            ..self.header(BatchKind::Events, head.lane.load(Relaxed) as u8)
        };
        (header, len)
    }

    // ---- steps

    /// Does what is due at `now` (monotonic, nanoseconds) and says when something is due next.
    pub fn step(&mut self, now: u64) -> u64 {
        self.drain();
        if !self.late.is_empty() {
            self.poll_late();
        }
        let wanted = self.m.front().wanted.load(Relaxed) != 0;
        let age = now.saturating_sub(self.generation_began_ns);
        let due =
            age >= self.plan.generation_ns || self.generation_bytes >= self.plan.generation_bytes;
        let starved = wanted && now.saturating_sub(self.collected_ns) >= COLLECT_NS;
        if now.saturating_sub(self.modules_ns) >= COLLECT_NS {
            self.modules_ns = now;
            self.poll_modules();
        }
        if due || starved || self.wants_epoch(now) {
            self.m.front().wanted.store(0, Relaxed);
            self.collected_ns = now;
            self.advance(now);
        }
        self.grow();
        let next = self.generation_began_ns.saturating_add(self.plan.generation_ns);
        if !self.late.is_empty() {
            next.min(now + LATE_POLL_NS)
        } else if wanted && !starved {
            next.min(self.collected_ns + COLLECT_NS)
        } else {
            next
        }
    }

    /// Commits buffers ahead of need, so that the cold path finds them.
    fn grow(&mut self) {
        if self.plan.of != Of::Own {
            return;
        }
        let front = self.m.front();
        let committed = self.m.committed();
        let want = (committed / 4).clamp(8, 64);
        let mut free = front.pool.0.free();
        while free < want {
            let Some(index) = self.m.grow(0) else { return };
            self.m.push_free(index);
            free += 1;
        }
    }

    /// Ends the current generation: turns the gate, collects, accounts.
    fn advance(&mut self, now: u64) {
        if self.generation >= GENERATION_LAST {
            self.generation_began_ns = now;
            return;
        }
        let ended = self.generation;
        if !(self.wants_epoch(now) && self.open_epoch(now)) {
            // The time is read before the turn: nothing of the next generation is older.
            self.last = Clock::get().snapshot();
            self.generation += 1;
            gate::turn(&self.m.front().gate.0, self.generation);
            self.barrier();
        }
        self.collect(self.generation);
        self.reap_vanished();
        self.end_generation(ended);
        self.generation_began_ns = now;
        self.generation_bytes = 0;
    }

    /// Whether the tables are to begin anew, and it is not too early for that.
    fn wants_epoch(&self, now: u64) -> bool {
        if self.memory.is_none() || now.saturating_sub(self.epoch_tried_ns) < EPOCH_NS {
            return false;
        }
        self.unloaded
            || match tables::full(self.epoch) {
                None => false,
                Some(tables::Full::Tables) => true,
                // A log that is short of free buffers would be so in the next epoch too.
                Some(tables::Full::Log) => self.cursor.reached() >= self.plan.bounds.segments_max,
            }
    }

    /// Opens a new table epoch together with a generation, in a pause: with every thread outside
    /// its section nobody is in the tables or the log. False: a thread stayed inside, and nothing
    /// has changed.
    fn open_epoch(&mut self, now: u64) -> bool {
        self.epoch_tried_ns = now;
        let m = self.m;
        let Some(memory) = &mut self.memory else { return false };
        // Tables that were filled for a pause that came to nothing are still empty.
        let next = *self.next_epoch.get_or_insert_with(|| {
            let next = tables::next_epoch();
            memory.fill(next, self.plan.bounds);
            next
        });
        let word = &m.front().gate.0;
        let _pauses = registry::local::flagged(registry::local::PAUSES);
        let began = sys::mono_ns();
        gate::turn(word, self.generation | gate::PAUSED);
        self.barrier();
        let mut out = registry::live(m).all(|(_, r)| self.fences(r));
        see_out(m, self.plan.of, began + PAUSE_NS, |_| out = false);
        if out && let Some(memory) = &self.memory {
            memory.publish(next);
            // Before the gate, with which the threads see it.
            m.front().epoch.store(next, Relaxed);
            self.last = Clock::get().snapshot();
            self.generation += 1;
        }
        gate::turn(word, self.generation);
        self.totals.pause_max_ns = self.totals.pause_max_ns.max(sys::mono_ns() - began);
        sys::futex::wake(word, u32::MAX);
        if out {
            self.close_epoch(next);
        }
        out
    }

    /// Writes what the epoch before has defined, to the last record, and makes `next` the current
    /// one. Batches of the old one may still come: what they need is in the stream then.
    fn close_epoch(&mut self, next: u32) {
        let old = self.epoch;
        self.scan_definitions();
        self.m.retire_log(old);
        if let Some(memory) = &mut self.memory {
            memory.empty(old);
        }
        self.cursor = Cursor::default();
        self.epoch = next;
        self.next_epoch = None;
        self.unloaded = false;
        self.define_modules();
    }

    /// Makes every thread's next look at the gate see the turn.
    pub fn barrier(&mut self) {
        let barrier = match self.plan.of {
            Of::Own => sys::membarrier::barrier,
            Of::Other(_) => sys::membarrier::barrier_everywhere,
        };
        if self.plan.membarrier && !barrier() {
            // Refused from here on: records stop matching the gate, so every event fences.
            self.plan.membarrier = false;
            self.fence_since = self.generation + 1;
            self.m.front().fence.store(1, Relaxed);
            self.says_refused = true;
        }
        crate::sync::fence(crate::sync::Ordering::SeqCst);
    }

    /// Takes the buffers of all threads that are out; the others go on the late list.
    fn collect(&mut self, older_than: u32) {
        let m = self.m;
        for (index, r) in registry::live(m) {
            if !self.proved_out(r) {
                self.be_late(index, r);
                continue;
            }
            registry::hand_over(m, gate::take_slot(&r.slot, older_than));
            self.drain_side(index, r);
        }
        self.drain();
    }

    /// Whether the thread is outside, and will see the gate as it is now before it is inside.
    ///
    /// Behind membarrier, and behind the fence where the thread fences too. Where membarrier failed
    /// in mid-session, threads that have not exchanged their buffer since are not proved.
    fn proved_out(&self, r: &Record) -> bool {
        self.fences(r) && gate::is_out(&r.busy)
    }

    /// Whether a look at the thread's busy word proves something.
    fn fences(&self, r: &Record) -> bool {
        let held = gate::slot_content(r.slot.load(Acquire));
        self.plan.membarrier || held.is_none_or(|(generation, _)| generation >= self.fence_since)
    }

    fn be_late(&mut self, index: u32, r: &Record) {
        let thread = r.thread.load(Relaxed);
        if !self.late.iter().any(|l| l.1 == thread) {
            self.late.push((index, thread));
        }
    }

    /// Takes the buffers of late threads that are out by now.
    fn poll_late(&mut self) {
        let m = self.m;
        let late = std::mem::take(&mut self.late);
        self.barrier();
        for (index, thread) in late {
            let Some(r) = m.record(index) else { continue };
            if r.thread.load(Relaxed) != thread || r.state.load(Acquire) != record::LIVE {
                continue;
            }
            if self.proved_out(r) {
                registry::hand_over(m, gate::take_slot(&r.slot, self.generation));
                self.drain_side(index, r);
            } else {
                self.late.push((index, thread));
            }
        }
        self.drain();
    }

    /// Writes the accounts of a generation whose batches are all in the stream.
    fn end_generation(&mut self, ended: u32) {
        self.poll_modules();
        if std::mem::take(&mut self.says_refused) {
            let text = "membarrier was refused from here on: every event fences";
            self.control.put(|w| schema::Note::put(w, "mode".into(), text.into()));
        }
        self.write_kernel();
        self.say_losses();
        let last = self.last;
        self.put_control(|w| put_clock(w, &last));
        let at = self.kernel.as_mut().map_or(last.ticks.0, |lanes| lanes.close(last.ticks.0));
        let mut late: Vec<u64> = self.late.iter().map(|l| l.1.into()).collect();
        late.truncate(4096);
        self.put_control(|w| schema::GenerationEnd::put(w, ended.into(), at, &late));
        self.flush_control();
        self.ended_generation = ended;
        self.totals.generations += 1;
    }

    /// Writes what the kernel saw so far, each thread's in its lane.
    pub fn write_kernel(&mut self) {
        if self.kernel.is_none() {
            return;
        }
        // With the definitions that were made meanwhile it is known who is who.
        self.scan_definitions();
        let Some(mut lanes) = self.kernel.take() else { return };
        let batches = lanes.take(|tid, first| self.define_unmet(tid, first));
        for (id, frames) in lanes.take_stacks() {
            // The longest stack takes less than a quarter of a batch.
            if self.definitions.body.len() > BATCH_BYTES_MAX / 2 {
                self.flush_definitions();
            }
            self.definitions.put(|w| schema::Stack::put(w, id, 0, &frames));
        }
        self.flush_definitions();
        for b in batches {
            let header = Header {
                epoch: self.epoch,
                thread: b.thread,
                sequence: b.sequence,
                first_ticks: b.first,
                last_ticks: b.last,
                count: b.count,
                ..self.header(BatchKind::Events, wire::LANE_KERNEL)
            };
            self.push_bytes(header, &b.body, b.count);
        }
        self.kernel = Some(lanes);
    }

    /// Defines a thread that has never met the recorder, and gives its number.
    fn define_unmet(&mut self, tid: u32, first: u64) -> u32 {
        let thread = registry::next_number(self.m);
        let name = match self.plan.of {
            Of::Own => None,
            Of::Other(pid) => sys::thread::name_in(pid, tid),
        };
        let name = name.unwrap_or_default();
        let name = Text { bytes: &name[..name.len().min(64)], cut_from: None };
        if self.definitions.body.len() > BATCH_BYTES_MAX / 2 {
            self.flush_definitions();
        }
        let none = Text { bytes: &[], cut_from: None };
        self.definitions
            .put(|w| schema::Thread::put(w, thread.into(), tid.into(), 0, name, none, 0, first));
        self.seen_threads += 1;
        self.unmet.insert(tid, thread);
        thread
    }

    /// The kernel has counted this for threads, by their numbers of the kernel's.
    pub fn counted(&mut self, counts: &[(u32, Count)]) {
        let m = self.m;
        let records: HashMap<u32, &Record> =
            registry::live(m).map(|(_, r)| (r.tid.load(Relaxed), r)).collect();
        for (tid, count) in counts {
            if let Some(r) = records.get(tid) {
                self.look(*tid, r, *count);
            } else if let Some(thread) = self.unmet.get(tid) {
                self.looks.add(*thread, *count, None, None, 0);
            }
        }
    }

    fn look(&mut self, tid: u32, r: &Record, count: Count) {
        let waits = BlockedShot::of(r).map_or(0, |b| count.ticks.saturating_sub(b.since));
        let registered = r.registered.load(Relaxed);
        // The first thread ran before it was registered, others are registered as they begin.
        let first = self.plan.of == Of::Other(tid) || registered <= self.first.ticks.0;
        let thread = r.thread.load(Relaxed);
        let born = (!first && r.creator.load(Relaxed) != 0).then_some(registered);
        self.looks.add(thread, count, Some(&r.account), born, waits);
    }

    /// Writes how much of a thread's waiting is in the trace, where that is known.
    fn say_coverage(&mut self, thread: u32, account: Option<&Account>) {
        let rate = match self.plan.of {
            Of::Own => Clock::get().rate(),
            Of::Other(_) => self.m.front().facts.rate.load(Relaxed),
        };
        let Some(c) = self.looks.take(thread, account, rate) else { return };
        let longer = u128::from(c.waits.longer_ticks) * 1_000_000_000 / u128::from(rate.max(1));
        self.put_control(|w| {
            schema::Coverage::put(
                w,
                thread.into(),
                c.at,
                c.switches,
                c.faults,
                c.waits.slept,
                c.waits.longer,
                longer as u64,
                c.over_ns,
                c.blocked_ns,
                c.waited_ns,
            )
        });
    }

    /// Says that of all threads that have not ended.
    fn say_all_coverage(&mut self) {
        let m = self.m;
        for (_, r) in known(m) {
            self.say_coverage(r.thread.load(Relaxed), Some(&r.account));
        }
        for thread in self.looks.left() {
            self.say_coverage(thread, None);
        }
    }

    /// Writes the counters that have changed since they were said.
    fn say_losses(&mut self) {
        let m = self.m;
        let mut changed = Vec::new();
        for (_, r) in known(m) {
            let thread = r.thread.load(Relaxed);
            if r.loss.iter().any(|n| n.load(Relaxed) != 0) {
                self.introduce(r);
            }
            for cause in Cause::ALL {
                changed.push((thread, *cause, r.loss[*cause as usize].load(Relaxed)));
            }
        }
        for cause in Cause::ALL {
            changed.push((0, *cause, m.front().loss[*cause as usize].load(Relaxed)));
        }
        for (thread, cause, count) in changed {
            self.say_loss(thread, cause, count);
        }
    }

    /// Defines a thread that has not done so itself: its handlers may have written, or lost, before
    /// its own first event of the session was done.
    fn introduce(&mut self, r: &Record) {
        let thread = r.thread.load(Relaxed);
        if r.defined.load(Relaxed) < self.plan.epoch && self.introduced.insert(thread) {
            registry::define_thread(self.m, r, "", 0);
            self.scan_definitions();
        }
    }

    fn say_loss(&mut self, thread: u32, cause: Cause, count: u64) {
        if count == 0 {
            return;
        }
        let before = self.said.insert((thread, cause as u8), count).unwrap_or(0);
        if before == count {
            return;
        }
        // What the end says is what the trace has said, also where a thread ends meanwhile.
        self.totals.lost[cause as usize] += count.saturating_sub(before);
        self.put_control(|w| schema::Loss::put(w, thread.into(), cause as u64, count));
    }

    fn put_control(&mut self, put: impl Fn(&mut Writer<'_>) -> Option<()>) {
        if self.control.body.len() > BATCH_BYTES_MAX / 2 {
            self.flush_control();
        }
        self.control.put(put);
    }

    /// Takes the records of ended threads apart.
    fn reap(&mut self) {
        let m = self.m;
        let mut ended = Vec::new();
        m.take_ended(|index, _| ended.push(index));
        for index in ended {
            if let Some(r) = m.record(index) {
                self.take_apart(index, r);
            }
        }
    }

    /// The thread is gone: its last words, its losses, its record.
    fn take_apart(&mut self, index: u32, r: &Record) {
        let m = self.m;
        // The generation above all: whatever is in the slot is nobody's any more.
        registry::hand_over(m, gate::take_slot(&r.slot, u32::MAX));
        self.drain_side(index, r);
        let thread = r.thread.load(Relaxed);
        if r.loss.iter().any(|n| n.load(Relaxed) != 0) {
            self.introduce(r);
        }
        self.introduced.remove(&thread);
        self.say_coverage(thread, Some(&r.account));
        for cause in Cause::ALL {
            let count = r.loss[*cause as usize].load(Relaxed);
            self.say_loss(thread, *cause, count);
        }
        for cause in Cause::ALL {
            self.said.remove(&(thread, *cause as u8));
        }
        self.seen_threads += 1;
        free(m, index, r);
    }

    /// Finds threads that vanished without a goodbye and takes their records apart.
    fn reap_vanished(&mut self) {
        let m = self.m;
        let gone: Vec<u32> = registry::live(m)
            .filter(|(_, r)| !self.plan.of.has(r.tid.load(Relaxed)))
            .map(|(i, _)| i)
            .collect();
        for index in gone {
            let Some(r) = m.record(index) else { continue };
            // It may have said goodbye in this moment: then it is on the list of ended ones.
            let was = r.state.compare_exchange(record::LIVE, record::ENDED, Acquire, Relaxed);
            if was.is_ok() {
                let shot = BlockedShot::of(r).filter(|_| self.vanished.len() < VANISHED_MAX);
                self.vanished.extend(shot);
                let busy = r.busy.load(Relaxed);
                if busy != 0 && busy & gate::NO_EVENT == 0 {
                    r.lose(Cause::Abandoned);
                }
                self.take_apart(index, r);
            }
        }
        self.drain();
    }

    /// Makes a batch of what waits in a side ring.
    fn drain_side(&mut self, index: u32, r: &Record) {
        let ring = self.m.side(index);
        // Acquire: pairs with the handler's Release.
        let head = r.side_head.load(Acquire);
        let mut tail = r.side_tail.load(Relaxed);
        if head == tail {
            return;
        }
        let mut batch = SideBatch::default();
        let mut pages = Vec::new();
        while tail != head {
            let at = tail as usize % SIDE_BYTES;
            let left = (head.wrapping_sub(tail) as usize).min(SIDE_BYTES);
            let mut word = [0u8; ENTRY_BYTES];
            copy_out(ring, at, &mut word[..2]);
            let len = usize::from(u16::from_ne_bytes([word[0], word[1]]));
            if len == usize::from(ENTRY_WRAP) || SIDE_BYTES - at < ENTRY_BYTES {
                tail = tail.wrapping_add((SIDE_BYTES - at) as u32);
                continue;
            }
            let need = (ENTRY_BYTES + len).next_multiple_of(2);
            if need > left || at + need > SIDE_BYTES + 1 {
                tail = head;
                break;
            }
            copy_out(ring, at, &mut word);
            let mut body = vec![0u8; len];
            copy_out(ring, at + ENTRY_BYTES, &mut body);
            if let Some(done) = batch.add(&word, &body) {
                pages.push(done);
            }
            tail = tail.wrapping_add(need as u32);
        }
        // Release: pairs with the handler's Acquire: what it may overwrite was read.
        r.side_tail.store(tail, Release);
        pages.push(batch);
        self.scan_definitions();
        for page in pages {
            self.finish_side(r, page);
        }
    }

    fn finish_side(&mut self, r: &Record, page: SideBatch) {
        // Entries of an older session belong nowhere. Those of an older epoch of this one do: its
        // definitions are in the stream.
        if page.count == 0 || page.epoch < self.plan.epoch {
            return;
        }
        self.introduce(r);
        let sequence = r.sequence[1].load(Relaxed);
        r.sequence[1].store(sequence.wrapping_add(1), Relaxed);
        let header = Header {
            epoch: page.epoch,
            thread: r.thread.load(Relaxed),
            sequence,
            first_ticks: page.first,
            last_ticks: page.last,
            count: page.count,
            ..self.header(BatchKind::Events, wire::LANE_SIDE)
        };
        self.push_bytes(header, &page.body, page.count);
    }

    // ---- the end

    /// Pauses all threads, takes the snapshot, closes the gate, sees them out and collects.
    ///
    /// Returns once the gate is shut; `finish` writes the rest. Nothing of the user's runs here.
    pub fn shut(&mut self, deadline_ns: u64) {
        let m = self.m;
        let mut shots = Shots::with_capacity(m.made() as usize);
        let word = &m.front().gate.0;
        let began = sys::mono_ns();
        gate::turn(word, self.generation | gate::PAUSED);
        self.barrier();
        see_out(m, self.plan.of, began + PAUSE_NS, |_| ());
        if self.plan.snapshot {
            shots.take(m);
        }
        self.last = Clock::get().snapshot();
        gate::turn(word, gate::OFF);
        self.totals.pause_max_ns = self.totals.pause_max_ns.max(sys::mono_ns() - began);
        registry::turn_off();
        sys::futex::wake(word, u32::MAX);
        m.wake_waiting();
        self.barrier();
        let mut stuck = Vec::new();
        see_out(m, self.plan.of, deadline_ns, |index| stuck.push(index));
        self.generation += 1;
        self.collect_last(&stuck);
        for shot in shots.0 {
            self.thread_state(&shot);
        }
    }

    /// Shuts the gate of another process, or of what is left of it, sees its threads out and
    /// collects. Its threads go on, and find the recorder off.
    pub fn shut_other(&mut self, deadline_ns: u64) {
        let m = self.m;
        let word = &m.front().gate.0;
        self.last = Clock::get().snapshot();
        gate::turn(word, gate::OFF);
        m.front().facts.outside.store(0, Relaxed);
        sys::futex::wake(word, u32::MAX);
        m.wake_waiting();
        self.barrier();
        let mut stuck = Vec::new();
        see_out(m, self.plan.of, deadline_ns, |index| stuck.push(index));
        self.generation += 1;
        let mut blocked = std::mem::take(&mut self.vanished);
        blocked.extend(known(m).filter_map(|(_, r)| BlockedShot::of(r)));
        self.collect_last(&stuck);
        for b in blocked {
            // Ids of an epoch before mean nothing here.
            let stack = if b.epoch == self.epoch { b.stack } else { 0 };
            let (thread, op) = (b.thread.into(), b.op.into());
            self.put_control(|w| {
                schema::Blocked::put(w, thread, op, b.object, b.since, stack.into(), b.by)
            });
        }
    }

    /// Takes everything that is left; threads that are stuck leave a copy of what they published.
    ///
    /// Others may be inside again by now, to look at the gate and leave: that is not stuck.
    fn collect_last(&mut self, stuck: &[u32]) {
        let m = self.m;
        self.reap_vanished();
        if known(m).any(|(_, r)| !self.fences(r)) {
            // So long after its last look at an open gate a thread's busy word is seen by all.
            std::thread::sleep(Duration::from_millis(1));
        }
        // Those too that are just ending, and found the gate shut before they could hand over.
        for (index, r) in known(m) {
            if self.fences(r) && !stuck.contains(&index) {
                registry::hand_over(m, gate::take_slot(&r.slot, u32::MAX));
                self.drain_side(index, r);
            } else {
                self.quarantine(index, r);
            }
        }
        self.drain();
    }

    /// Copies what a stuck thread has published. Its buffer is set aside: the thread may still
    /// write into it.
    fn quarantine(&mut self, index: u32, r: &Record) {
        let m = self.m;
        // What its handlers have written is whole, whatever the event that they interrupted is.
        self.drain_side(index, r);
        // Taken first: a thread that is late in its cold half would hand it over once more.
        let taken = gate::take_slot(&r.slot, u32::MAX);
        let thread = r.thread.load(Relaxed);
        // Where membarrier failed in mid-session a thread that is outside may not be proved so.
        if !r.is_out() {
            self.totals.stuck += 1;
            if taken.is_some() || !self.stood.iter().any(|a| a.thread == thread) {
                r.lose(Cause::StopTimeout);
            }
        }
        let buffer = taken.map(|(_, buffer)| buffer);
        self.aside.push(Aside { record: index, thread, buffer });
        let Some((generation, buffer)) = taken else { return };
        let Some(base) = m.buffer(buffer) else { return };
        if generation < self.plan.first_generation {
            return;
        }
        let (header, len) = self.header_of(m.head(buffer), wire::FLAG_PREFIX);
        // SAFETY: bytes below the published position are immutable as long as the buffer is not in
        // the pool, where it comes only when its thread was seen outside.
        let body = unsafe { copied(base, len) };
        self.scan_definitions();
        self.push_bytes(header, &body, header.count);
    }

    /// Writes the last accounts and the end mark.
    pub fn finish(&mut self, reason: u64) {
        self.drain();
        self.scan_definitions();
        let ended = self.generation - 1;
        if let Some(lanes) = &mut self.kernel {
            // What was not seen by now is not in this trace.
            lanes.seen_until(u64::MAX);
        }
        self.say_all_coverage();
        self.end_generation(ended);
        let m = self.m;
        self.totals.threads = self.seen_threads + known(m).count() as u64;
        let t = self.totals;
        let at = self.last.ticks.0;
        self.put_control(|w| {
            schema::End::put(
                w,
                at,
                t.events,
                t.lost_events(),
                t.threads,
                t.generations,
                t.batches + 1,
                t.pause_max_ns,
                reason,
            )
        });
        self.flush_control();
        if let Some(rate) = crate::clock::estimate(&self.first, &self.last) {
            crate::clock::remember_rate(rate);
        }
    }

    /// Bytes of the pieces that stand ready.
    pub fn waiting_bytes(&self) -> u64 {
        self.out.iter().map(|p| p.bytes().len() as u64).sum()
    }

    /// How long the session has lasted, in nanoseconds.
    pub fn duration_ns(&self) -> u64 {
        self.last.mono_ns.saturating_sub(self.first.mono_ns)
    }
}

impl Of {
    /// Whether the process has a thread of this number.
    fn has(self, tid: u32) -> bool {
        match self {
            Of::Own => sys::thread::alive(tid),
            Of::Other(pid) => sys::thread::alive_in(pid, tid),
        }
    }
}

/// Notes which thread of the kernel's a definition names, where it defines one.
fn note_thread(lanes: &mut Lanes, definition: &[u8]) {
    let mut r = Reader::new(definition);
    if r.varint() != Some(schema::Kind::Thread as u64) {
        return;
    }
    if let Some(t) = schema::Thread::read(&mut r) {
        lanes.define(t.tid as u32, t.thread as u32, t.registered);
    }
}

/// Puts a batch's header where the head of its buffer was, the link as the atomic that it is: a pop
/// that was interrupted may still look at it (pool#1), and at nothing else.
///
/// # Safety
///
/// - `base` is the start of a buffer that the caller alone may write, `head` its head.
unsafe fn put_header(base: *mut u8, head: &Head, header: &[u8; HEADER_BYTES]) {
    let (before, rest) = header.split_at(LINK_AT);
    let (link, after) = rest.split_at(size_of::<u32>());
    // SAFETY: the place behind the link, in the head.
    let behind = unsafe { base.add(LINK_AT + link.len()) };
    // SAFETY: the caller's promise, for the bytes behind the link, which end with the header.
    unsafe { std::ptr::copy_nonoverlapping(after.as_ptr(), behind, after.len()) };
    head.next.store(link.try_into().map_or(0, u32::from_ne_bytes), Relaxed);
    // Whoever reads the mapping of a process that was killed here takes the magic for the whole.
    crate::sync::compiler_fence(Release);
    // SAFETY: the caller's promise, for the bytes before the link.
    unsafe { std::ptr::copy_nonoverlapping(before.as_ptr(), base, before.len()) };
}

/// Where the link of a buffer stands.
const LINK_AT: usize = std::mem::offset_of!(Head, next);
const _: () = assert!(wire::CRC_AT + 4 <= LINK_AT || LINK_AT + 4 <= wire::CRC_AT);

/// The bytes behind the head of a batch that ends at `len`.
///
/// # Safety
///
/// - `base` is a buffer of a mapping, `len` is `HEADER_BYTES` to `BATCH_BYTES_MAX`.
unsafe fn copied(base: *const u8, len: usize) -> Vec<u8> {
    let mut body = vec![0u8; len - HEADER_BYTES];
    // SAFETY: the caller's promise.
    let from = unsafe { base.add(HEADER_BYTES) };
    // SAFETY: the source has `len` bytes.
    unsafe { std::ptr::copy_nonoverlapping(from, body.as_mut_ptr(), body.len()) };
    body
}

/// A pause goes on without the threads that are still busy after this time.
const PAUSE_NS: u64 = 100_000;

/// Waits until every live thread was seen outside the section, or the deadline has come; names the
/// threads that were not.
fn see_out(m: &Mapping, of: Of, deadline_ns: u64, mut inside: impl FnMut(u32)) {
    let mut rounds = 0u32;
    for (index, r) in registry::live(m) {
        while !r.is_out() {
            rounds += 1;
            if rounds.is_multiple_of(64) {
                if sys::mono_ns() >= deadline_ns {
                    inside(index);
                    break;
                }
                // Whoever has ended inside an event never leaves it; its record is found later.
                if rounds.is_multiple_of(4096) && !of.has(r.tid.load(Relaxed)) {
                    break;
                }
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

/// All records of threads that live or have just ended.
fn known(m: &Mapping) -> impl Iterator<Item = (u32, &Record)> {
    // Acquire: pairs with the Release of registration.
    m.records().filter(|(_, r)| r.state.load(Acquire) != record::FREE)
}

/// Makes a record of a thread that is gone a free one.
fn free(m: &Mapping, index: u32, r: &Record) {
    r.reset_loss();
    r.thread.store(0, Relaxed);
    r.state.store(record::FREE, Release);
    m.free_record(index);
}

fn put_clock(w: &mut Writer<'_>, s: &Snapshot) -> Option<()> {
    schema::ClockSnapshot::put(w, s.ticks.0, s.mono_ns, s.wall_ns, s.boot_ns, s.error.0)
}

/// Copies bytes out of a side ring; none beyond its end.
fn copy_out(ring: *const u8, at: usize, to: &mut [u8]) {
    let n = to.len().min(SIDE_BYTES.saturating_sub(at));
    // SAFETY: at + n <= SIDE_BYTES, and the handler writes only above the head.
    let from = unsafe { ring.add(at) };
    // SAFETY: as above.
    unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), n) };
}

impl Page {
    /// Adds one structural event. One that is too long for a batch is left out.
    fn put(&mut self, put: impl Fn(&mut Writer<'_>) -> Option<()>) {
        let mut room = 512;
        loop {
            let at = self.body.len();
            self.body.resize(at + room, 0);
            let mut w = Writer::new(&mut self.body[at..]);
            let done = put(&mut w).map(|()| w.len());
            self.body.truncate(at + done.unwrap_or(0));
            if done.is_some() {
                // A batch that is too long would cost the reader all that is in it.
                match self.body.len() <= BATCH_BYTES_MAX - HEADER_BYTES {
                    true => self.count += 1,
                    false => self.body.truncate(at),
                }
                return;
            }
            if at + room >= BATCH_BYTES_MAX - HEADER_BYTES {
                return;
            }
            room = (room * 4).min(BATCH_BYTES_MAX - HEADER_BYTES - at);
        }
    }
}

/// A batch of nested events while it is put together.
#[derive(Debug, Default)]
struct SideBatch {
    body: Vec<u8>,
    epoch: u32,
    first: u64,
    last: u64,
    count: u32,
}

impl SideBatch {
    /// Adds an entry of the ring; gives the batch back when the entry begins another one.
    fn add(&mut self, entry: &[u8; ENTRY_BYTES], body: &[u8]) -> Option<SideBatch> {
        let epoch = u32::from_ne_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let mut ticks = [0u8; 8];
        ticks.copy_from_slice(&entry[8..]);
        let ticks = u64::from_ne_bytes(ticks);
        let done = (self.count != 0 && epoch != self.epoch).then(|| std::mem::take(self));
        if self.count == 0 {
            (self.epoch, self.first, self.last) = (epoch, ticks, ticks);
        }
        let mut delta = [0u8; 10];
        let n = crate::encode::varint::write(&mut delta, ticks.saturating_sub(self.last));
        self.body.extend_from_slice(body);
        self.body.extend_from_slice(&delta[..n.unwrap_or(0)]);
        self.last = self.last.max(ticks);
        self.count += 1;
        done
    }
}

/// What a thread was doing at the snapshot.
#[derive(Clone, Copy, Debug)]
pub struct ThreadShot {
    /// Number; 0 for a thread that never registered.
    pub thread: u32,
    /// The kernel's id.
    pub tid: u32,
    /// Name and its length.
    pub name: [u8; 16],
    /// See `name`.
    pub name_len: usize,
    /// When it was looked at, in scaled ticks.
    pub at: u64,
    /// `schema::STATE_*`.
    pub state: u64,
    /// Its task.
    pub task: u64,
    /// Its open spans and how many of them are listed.
    pub spans: [u64; wire::SPANS_MAX],
    /// See `spans`.
    pub listed: usize,
}

/// A thread that the kernel knows and the recorder does not.
pub fn unregistered(tid: u32, name: &[u8], at: u64) -> ThreadShot {
    let mut bytes = [0u8; 16];
    let name_len = name.len().min(16);
    bytes[..name_len].copy_from_slice(&name[..name_len]);
    ThreadShot {
        thread: 0,
        tid,
        name: bytes,
        name_len,
        at,
        state: schema::STATE_UNREGISTERED,
        task: 0,
        spans: [0; wire::SPANS_MAX],
        listed: 0,
    }
}

/// Most threads that vanished in their waits of which these are kept: as many as a mapping knows at
/// a time.
const VANISHED_MAX: usize = 1 << 14;

/// What a thread was waiting for.
#[derive(Clone, Copy, Debug)]
struct BlockedShot {
    thread: u32,
    op: u32,
    object: u64,
    since: u64,
    stack: u32,
    epoch: u32,
    by: u64,
}

impl BlockedShot {
    fn of(r: &Record) -> Option<BlockedShot> {
        // Acquire: pairs with the Release of the owner's `block`.
        let op = r.block_op.load(Acquire);
        (op != 0).then(|| BlockedShot {
            thread: r.thread.load(Relaxed),
            op,
            object: r.block_object.load(Relaxed),
            since: r.block_since.load(Relaxed),
            stack: r.block_stack.load(Relaxed),
            epoch: r.block_epoch.load(Relaxed),
            by: r.block_by.load(Relaxed),
        })
    }
}

/// The shots of one snapshot; room is made before the pause.
#[derive(Debug)]
pub struct Shots(pub Vec<ThreadShot>);

impl Shots {
    /// Makes room for `n` threads, and lists those that have never registered.
    pub fn with_capacity(n: usize) -> Shots {
        Shots(Vec::with_capacity(n + 16))
    }

    /// Looks at every record. Allocates nothing: called while the threads are paused.
    pub fn take(&mut self, m: &Mapping) {
        let at = Clock::get().now().0;
        for (_, r) in registry::live(m) {
            if self.0.len() == self.0.capacity() {
                return;
            }
            let mut name = [0u8; 16];
            let name_len = r.name(&mut name);
            let mut spans = [0u64; wire::SPANS_MAX];
            let listed = r.open_spans(&mut spans);
            let state = if r.is_out() { schema::STATE_RUNNING } else { schema::STATE_LATE };
            self.0.push(ThreadShot {
                thread: r.thread.load(Relaxed),
                tid: r.tid.load(Relaxed),
                name,
                name_len,
                at,
                state,
                task: r.task.load(Relaxed),
                spans,
                listed,
            });
        }
    }
}
