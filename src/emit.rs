//! One event, from the test of the switch to the publication: the function that a user's thread
//! runs.
//!
//! Two halves: the hot one is inlined into the caller and goes straight through; the cold one does
//! everything rare. All state is touched inside the *section*, between `busy = stack pointer` and
//! `busy = 0`; `registry::gate` has the protocol.
//!
//! 1. Nothing of the user's runs inside the section, and nothing in it allocates, locks or waits.
//! 2. Room is checked before the first byte is written; an event is published whole or not at all.
//! 3. Whoever waits has left the section before.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::time::Duration;

use crate::buf::Arena;
use crate::buf::Head;
use crate::clock;
use crate::clock::Clock;
use crate::encode::schema;
use crate::encode::schema::Cause;
use crate::encode::schema::Kind;
use crate::encode::varint;
use crate::encode::wire;
use crate::encode::wire::BATCH_BYTES_MAX;
use crate::encode::wire::FRAMES_MAX;
use crate::encode::wire::HEADER_BYTES;
use crate::encode::wire::SPANS_MAX;
use crate::mapping::Mapping;
use crate::mapping::RESERVED;
use crate::mapping::record::HOLES;
use crate::mapping::record::Record;
use crate::mapping::record::SIDE_BYTES;
use crate::owner;
use crate::owner::Answer;
use crate::registry;
use crate::registry::gate;
use crate::registry::local;
use crate::registry::local::Local;
use crate::site::Site;
use crate::site::Types;
use crate::stacktab::capture;
use crate::sync::AtomicU32;
use crate::sync::AtomicU64;
use crate::sync::Ordering;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;
use crate::sync::Ordering::Release;
use crate::sys;
use crate::sys::thread::SignalStack;
use crate::tables;

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Nothing is recorded now, or the thread is the recorder's own.
    Off,
    /// It stands in the thread's buffer.
    Recorded,
    /// It was nested in another event and stands in the side ring.
    Nested,
    /// It is counted as lost.
    Lost(Cause),
    /// The copy that owns the recording has it, and no session of this copy's own.
    Delegated,
}

/// Bytes that may be written beyond an event's end, since fields are stored as whole words.
const SLACK: usize = 8;
/// Kind and delta.
const PREFIX_MAX: usize = 3 + 8;
/// Longest nested event.
const NESTED_MAX: usize = 1536;

/// An event to be written: its kind, its fields, and what changes with it in the thread's state.
///
/// Everything in it was evaluated before the section.
pub trait Emission {
    /// Most bytes that `put` writes.
    fn len_max(&self) -> usize;
    /// The kind: its varint and the length of that; `None` sends the event to the cold half.
    fn kind(&self, l: &Local) -> Option<(u32, usize)>;
    /// Writes the fields at `p` and returns the end.
    ///
    /// # Safety
    ///
    /// - `p` has room for `len_max()` bytes and `SLACK` more.
    unsafe fn put(&self, p: *mut u8) -> *mut u8;
    /// Changes the thread's state, after publication, inside the section.
    fn after(&self, l: &Local);
    /// The site, and the types of the fields, where the kind is a dynamic one.
    fn site(&self) -> Option<(&'static Site, Types)>;
    /// The kind, of an event whose site has a stack and is defined.
    fn stacked_kind(&self, l: &Local) -> Option<(u32, usize)> {
        self.site().and_then(|(site, _)| site.stacked_kind(l.tag.get()))
    }
    /// The kind where the hot path cannot go on, for events without a site.
    fn cold_kind(&self, l: &Local) -> Option<(u32, usize)> {
        self.kind(l)
    }
    /// Whether an event without a site has a stack as its last field.
    fn wants_stack(&self) -> bool {
        false
    }
    /// The session whose span or task it ends or changes; that is so also where the event is lost.
    fn changes(&self) -> Option<u32> {
        None
    }
    /// Whether nothing is written but what a fresh buffer opens with: then nothing can be lost.
    fn is_nothing(&self) -> bool {
        false
    }
    /// Whether the event belongs to a session that is over: it is dropped in silence.
    fn is_stale(&self, _l: &Local) -> bool {
        false
    }
    /// Where the program's own frames begin: others below this stack pointer are left out.
    fn from(&self) -> usize {
        0
    }
    /// Hands it to the owner in its own way; `None`: it goes there as an event of its site.
    fn hand(&self, _l: &Local, _by: &Hand) -> Option<Outcome> {
        None
    }
}

/// An event on its way to the copy of the recorder that owns the recording.
#[derive(Clone, Copy, Debug)]
pub struct Hand {
    /// The owner.
    pub to: &'static owner::Table,
    /// The program's stack pointer.
    pub sp: usize,
    /// What became of it in the session of this copy's own, where there is one, and how many
    /// places of spans there were before.
    pub own: Option<(Outcome, u32)>,
}

impl Hand {
    /// The owner's session.
    pub fn session(&self) -> u32 {
        self.to.session.load(Relaxed)
    }

    /// Counts a loss at the owner.
    pub fn lose(&self, cause: Cause) -> Answer {
        Answer::from_word((self.to.lose)(cause as u32))
    }
}

/// Emits an event while the switch is on.
#[inline(always)]
pub fn emit<E: Emission + Copy>(e: E) -> Outcome {
    let l = local::here();
    let sp = sys::sp() as u64;
    if l.busy().load(Relaxed) != 0 {
        return cold(l, &{ e }, sp);
    }
    if !gate::enter(l.busy(), l.gate(), l.generation.get(), sp) {
        return inside(l, &{ e }, sp);
    }
    let base = l.buffer.get();
    // SAFETY: gate#3: the gate matched, so `base` is the buffer in this thread's slot.
    let head = unsafe { &*base.cast::<Head>() };
    let word = head.publish.load(Relaxed);
    let at = word as u32 as usize;
    let Some((kind, kind_len)) = e.kind(l) else {
        return match e.stacked_kind(l) {
            Some((kind, kind_len)) => stacked(l, e, kind, kind_len, sp),
            None => inside(l, &{ e }, sp),
        };
    };
    if at > BATCH_BYTES_MAX - PREFIX_MAX - SLACK - e.len_max() {
        return inside(l, &{ e }, sp);
    }
    let now = clock::raw() >> l.shift.get();
    let delta = now.wrapping_sub(head.last_ticks.load(Relaxed));
    if delta >= varint::SHORT_LIMIT {
        return inside(l, &{ e }, sp);
    }
    head.last_ticks.store(now, Relaxed);
    // SAFETY: emit#2: `at` is a position in the buffer.
    let p = unsafe { base.add(at) };
    // SAFETY: emit#2: room was just checked.
    let end = unsafe { write(p, kind, kind_len, varint::pack_short(delta), &e, None) };
    publish(head, word, p, end);
    e.after(l);
    gate::leave(l.busy());
    Outcome::Recorded
}

/// The rest of [`emit`] for an event with a stack. A function of its own, so that the walk begins
/// at the frame of its caller, the program's.
#[inline(never)]
fn stacked<E: Emission + Copy>(l: &Local, e: E, kind: u32, kind_len: usize, sp: u64) -> Outcome {
    let fp = sys::fp();
    let Some(r) = l.record() else { return inside(l, &{ e }, sp) };
    let base = l.buffer.get();
    // SAFETY: gate#3: the gate matched, so `base` is the buffer in this thread's slot.
    let head = unsafe { &*base.cast::<Head>() };
    let word = head.publish.load(Relaxed);
    let at = word as u32 as usize;
    if at > BATCH_BYTES_MAX - PREFIX_MAX - SLACK - varint::LEN_MAX - e.len_max() {
        return inside(l, &{ e }, sp);
    }
    let stack = capture_stack(l, r, (l.tag.get() >> 1) as u32, (fp, sp), e.from());
    let now = clock::raw() >> l.shift.get();
    let delta = now.wrapping_sub(head.last_ticks.load(Relaxed));
    if delta >= varint::SHORT_LIMIT {
        return inside(l, &{ e }, sp);
    }
    head.last_ticks.store(now, Relaxed);
    // SAFETY: emit#2: `at` is a position in the buffer.
    let p = unsafe { base.add(at) };
    // SAFETY: emit#2: room was just checked.
    let end = unsafe { write(p, kind, kind_len, varint::pack_short(delta), &e, Some(stack)) };
    publish(head, word, p, end);
    e.after(l);
    gate::leave(l.busy());
    Outcome::Recorded
}

/// Writes kind, fields, the stack's id and the delta, which is packed; returns the end.
///
/// # Safety
///
/// - `p` has room for `PREFIX_MAX + SLACK + e.len_max()` bytes.
#[inline(always)]
unsafe fn write<E: Emission + ?Sized>(
    p: *mut u8,
    kind: u32,
    kind_len: usize,
    (ticks, ticks_len): (u64, usize),
    e: &E,
    stack: Option<u32>,
) -> *mut u8 {
    // SAFETY: the caller has checked room for the whole event.
    unsafe { p.cast::<u32>().write_unaligned(kind.to_le()) };
    // SAFETY: as above.
    let p = unsafe { p.add(kind_len) };
    // SAFETY: as above.
    let mut p = unsafe { e.put(p) };
    if let Some(id) = stack {
        // SAFETY: as above.
        p = unsafe { put_varint(p, u64::from(id)) };
    }
    // The ticks last: every address above is known before the counter is read. With the ticks
    // first, an event cost 17 ns instead of 10, since the next read of the counter waited for the
    // addresses of these stores.
    // SAFETY: as above.
    unsafe { p.cast::<u64>().write_unaligned(ticks.to_le()) };
    // SAFETY: as above.
    unsafe { p.add(ticks_len) }
}

/// Makes the event from `begin` to `end` part of the batch: one more event, and the position behind
/// it, in one store. The position stays below 2^32, since a buffer has 64 KiB.
#[inline(always)]
fn publish(head: &Head, word: u64, begin: *mut u8, end: *mut u8) {
    let len = end.addr() - begin.addr();
    // Release: pairs with the Acquire of whoever copies what is published; the bytes come first.
    head.publish.store(word + (1 << 32) + len as u64, Release);
}

/// The section could not be opened: no record yet, muted, or inside another event.
#[cold]
#[inline(never)]
fn cold(l: &Local, e: &dyn Emission, sp: u64) -> Outcome {
    let to = owner::table();
    if let Some(to) = to
        && owner::alone(e.changes())
    {
        return hand(l, e, &Hand { to, sp: sp as usize, own: None });
    }
    let Some(m) = registry::mapping() else { return Outcome::Off };
    if registry::is_forked_child() || l.has(local::MUTED) {
        return Outcome::Off;
    }
    if !l.registered() {
        let now = Clock::get().now().0;
        if let Err(cause) = registry::register(l, m, now) {
            // Acquire: pairs with the Release with which the session turns the gate.
            if m.front().gate.0.load(Acquire) == gate::OFF {
                return Outcome::Off;
            }
            m.lose(cause);
            return Outcome::Lost(cause);
        }
        l.busy().store(sp, Relaxed);
        return inside(l, e, sp);
    }
    let Some(r) = l.record() else { return Outcome::Off };
    let outer = r.busy.load(Relaxed);
    if outer == 0 {
        // A handler has registered the thread, which was seen without a record just before.
        r.busy.store(sp, Relaxed);
        return inside(l, e, sp);
    }
    if was_abandoned(l, (outer & !gate::NO_EVENT) as usize, sp as usize) {
        abandon(l, m, r, outer, sp);
        return inside(l, e, sp);
    }
    let outcome = nested(l, m, r, e);
    if let Some(to) = to {
        hand(l, e, &Hand { to, sp: sp as usize, own: Some((outcome, 0)) });
    }
    outcome
}

/// Gives an event to the copy that owns the recording. The thread is outside its section.
#[cold]
fn hand(l: &Local, e: &dyn Emission, by: &Hand) -> Outcome {
    match e.changes() {
        // What was begun in a session of this copy's own that is over.
        Some(session) if by.own.is_none() && !registry::is_delegated(session) => {
            return Outcome::Off;
        }
        _ => {}
    }
    if let Some(done) = e.hand(l, by) {
        return done;
    }
    let Some((site, types)) = e.site() else { return Outcome::Off };
    let Some(site) = owner::site(by.to, site, types) else {
        return Outcome::Lost(Cause::SiteTable);
    };
    let event = event(&e, by.sp);
    // SAFETY: the owner's own name for the site; `put` is good until the call returns.
    told(Answer::from_word(unsafe { (by.to.event)(site, &event) }))
}

/// An event as the owner takes it. `e` lives as long as what is made of it.
pub fn event(e: &&dyn Emission, sp: usize) -> owner::Event {
    /// # Safety
    ///
    /// - Both as `owner::Event::put` says; `of` is the reference below.
    unsafe extern "C" fn put(of: *const c_void, p: *mut u8) -> *mut u8 {
        // SAFETY: the caller's promise.
        let e = unsafe { *of.cast::<&dyn Emission>() };
        // SAFETY: the owner has checked room for `len_max` bytes and eight more.
        unsafe { e.put(p) }
    }
    owner::Event { len_max: e.len_max(), put, of: std::ptr::from_ref(e).cast(), sp }
}

/// What the owner says of an event that is no span.
pub fn told(answer: Answer) -> Outcome {
    match answer {
        Answer::Off => Outcome::Off,
        Answer::Recorded(_) => Outcome::Recorded,
        Answer::Nested => Outcome::Nested,
        Answer::Lost(cause) => Outcome::Lost(cause),
    }
}

/// Takes over the section of an event that the thread has left by longjmp: what that had written
/// beyond the published position goes with its buffer.
fn abandon(l: &Local, m: &Mapping, r: &Record, outer: u64, sp: u64) {
    if outer & gate::NO_EVENT == 0 {
        r.lose(Cause::Abandoned);
    }
    r.side_busy.store(0, Relaxed);
    r.busy.store(sp, Relaxed);
    l.empty_handed();
    registry::hand_over(m, gate::exchange_slot(&r.slot, 0, None));
}

/// Whether the calling thread is inside an event. One that it has left by longjmp is put in order:
/// otherwise the thread could not end the session that its own next event would go on with.
pub fn is_inside(l: &Local) -> bool {
    let (Some(m), Some(r)) = (registry::mapping(), l.record()) else { return false };
    let outer = r.busy.load(Relaxed);
    let sp = sys::sp();
    if outer == 0 || !was_abandoned(l, (outer & !gate::NO_EVENT) as usize, sp) {
        return outer != 0;
    }
    abandon(l, m, r, outer, sp as u64);
    gate::leave(&r.busy);
    false
}

/// Whether a thread that is seen inside the section with the stack pointer `outer` can no longer
/// be there: it now runs at or above that place on its own stack, or has left the signal stack.
///
/// Whatever interrupts an event runs below it, but on a signal stack, which may lie higher, even
/// inside the thread's own.
fn was_abandoned(l: &Local, outer: usize, sp: usize) -> bool {
    if sp < outer && (l.stack_top.get() == 0 || on_own_stack(l, outer)) {
        return false;
    }
    match sys::thread::signal_stack() {
        SignalStack::Here => return false,
        SignalStack::At { low, end } if (low..end).contains(&outer) => return true,
        _ => {}
    }
    (on_own_stack(l, sp) || ask_stack(l, sp)) && on_own_stack(l, outer) && sp >= outer
}

/// Writes an event that interrupted another one of its thread to the side ring. Never waits: in a
/// pause it is counted, since the event that it interrupted may not have seen the gate yet.
fn nested(l: &Local, m: &Mapping, r: &Record, e: &dyn Emission) -> Outcome {
    match gate::state(look(l)) {
        gate::State::Off => return Outcome::Off,
        gate::State::Paused(_) => {
            r.lose(Cause::InPause);
            return Outcome::Lost(Cause::InPause);
        }
        gate::State::Running(_) => {}
    }
    if r.side_busy.load(Relaxed) != 0 {
        r.lose(Cause::Nested);
        return Outcome::Lost(Cause::Nested);
    }
    r.side_busy.store(1, Relaxed);
    crate::sync::compiler_fence(Ordering::SeqCst);
    let done = nested_write(l, m, r, e);
    crate::sync::compiler_fence(Ordering::SeqCst);
    r.side_busy.store(0, Relaxed);
    match done {
        Ok(()) => Outcome::Nested,
        Err(cause) => {
            r.lose(cause);
            Outcome::Lost(cause)
        }
    }
}

/// Bytes before the event in an entry of the side ring: length, length of the kind, epoch, ticks.
pub const ENTRY_BYTES: usize = 16;
/// Length that says: the ring goes on at its start.
pub const ENTRY_WRAP: u16 = u16::MAX;

fn nested_write(l: &Local, m: &Mapping, r: &Record, e: &dyn Emission) -> Result<(), Cause> {
    if e.len_max() > NESTED_MAX - PREFIX_MAX - SLACK {
        return Err(Cause::TooBig);
    }
    let epoch = m.front().epoch.load(Relaxed);
    let (kind, kind_len) = match e.site() {
        Some((site, types)) => define(m, site, types, epoch).ok_or(Cause::SiteTable)?,
        None => e.cold_kind(l).ok_or(Cause::Nested)?,
    };
    let mut bytes = [MaybeUninit::<u8>::uninit(); NESTED_MAX];
    let p = bytes.as_mut_ptr().cast::<u8>();
    // SAFETY: the array has room for kind, fields and slack, as was checked above.
    unsafe { p.cast::<u32>().write_unaligned(kind.to_le()) };
    // SAFETY: as above.
    let fields = unsafe { p.add(kind_len) };
    // SAFETY: as above.
    let mut end = unsafe { e.put(fields) };
    if e.wants_stack() || e.site().is_some_and(|(site, _)| site.has_stack(epoch)) {
        // A handler's stack is not walked; the field says "none".
        // SAFETY: as above.
        unsafe { end.write(0) };
        // SAFETY: as above.
        end = unsafe { end.add(1) };
    }
    let len = end.addr() - p.addr();
    let ticks = Clock::get().now().0;
    let side = m.side(l.index.get());
    let need = ENTRY_BYTES + len;
    let head = r.side_head.load(Relaxed);
    // Acquire: pairs with the controller's Release, so that it has read what is overwritten.
    let tail = r.side_tail.load(Acquire);
    let at = head as usize % SIDE_BYTES;
    let wrap = if at + need > SIDE_BYTES { SIDE_BYTES - at } else { 0 };
    if head.wrapping_sub(tail) as usize + wrap + need > SIDE_BYTES - 2 {
        return Err(Cause::Nested);
    }
    if wrap >= 2 {
        // SAFETY: `at` is even and below SIDE_BYTES, so two bytes fit.
        let to = unsafe { side.add(at) };
        // SAFETY: as above.
        unsafe { to.cast::<u16>().write_unaligned(ENTRY_WRAP) };
    }
    let at = (at + wrap) % SIDE_BYTES;
    let mut entry = [0u8; ENTRY_BYTES];
    entry[..2].copy_from_slice(&(len as u16).to_ne_bytes());
    entry[2] = kind_len as u8;
    entry[4..8].copy_from_slice(&epoch.to_ne_bytes());
    entry[8..].copy_from_slice(&ticks.to_ne_bytes());
    // SAFETY: at + need <= SIDE_BYTES, and the controller does not read above the head.
    let to = unsafe { side.add(at) };
    // SAFETY: as above; the entry is ENTRY_BYTES long.
    unsafe { std::ptr::copy_nonoverlapping(entry.as_ptr(), to, ENTRY_BYTES) };
    // SAFETY: as above.
    let to = unsafe { to.add(ENTRY_BYTES) };
    // SAFETY: as above; the `len` bytes were initialised by `put`.
    unsafe { std::ptr::copy_nonoverlapping(p, to, len) };
    let head = head.wrapping_add((wrap + need.next_multiple_of(2)) as u32);
    // Release: pairs with the controller's Acquire; the entry is there before the head says so.
    r.side_head.store(head, Release);
    Ok(())
}

/// Inside the section, but something is in the way: another generation, no room, a site that is
/// not defined yet, a stack to be captured. Leaves the section in every case.
#[cold]
#[inline(never)]
fn inside(l: &Local, e: &dyn Emission, sp: u64) -> Outcome {
    let fp = sys::fp();
    let mut by = owner::table().map(|to| Hand { to, sp: sp as usize, own: None });
    if let Some(by) = &by
        && owner::alone(e.changes())
    {
        gate::leave(l.busy());
        return hand(l, e, by);
    }
    let places = l.record().map_or(0, |r| r.depth.load(Relaxed) & !HOLES);
    let outcome = write_out(l, e, fp, sp);
    if let Some(by) = &mut by
        && (outcome != Outcome::Off || e.is_nothing())
    {
        by.own = Some((outcome, places));
        hand(l, e, by);
    }
    outcome
}

/// [`inside`] for the session of this copy's own.
#[inline(always)]
fn write_out(l: &Local, e: &dyn Emission, fp: usize, sp: u64) -> Outcome {
    let (mut at_gate, mut for_buffer) = (None, None);
    loop {
        let step = match attempt(l, e, fp, sp) {
            Step::AwaitGate(word) if l.gave_up.get() == word || waits(l, sp) => {
                Step::Lose(Cause::InPause)
            }
            Step::AwaitBuffer if waits(l, sp) => Step::Lose(Cause::PoolEmpty),
            step => step,
        };
        match step {
            Step::Done(outcome) => {
                gate::leave(l.busy());
                return outcome;
            }
            Step::Lose(cause) => {
                let outcome = count_loss(l, e, cause);
                gate::leave(l.busy());
                return outcome;
            }
            // emit#3: whoever waits has left the section before.
            Step::AwaitGate(word) => {
                gate::leave(l.busy());
                let deadline = *at_gate.get_or_insert_with(|| deadline_in(GATE_WAIT_NS));
                if !waiting(l, sp, || await_gate(l, word, deadline)) {
                    l.gave_up.set(word);
                    return lost_waiting(l, e, sp, Cause::InPause);
                }
            }
            Step::AwaitBuffer => {
                gate::leave(l.busy());
                let deadline = *for_buffer.get_or_insert_with(|| deadline_in(wait_ns()));
                if !waiting(l, sp, || await_buffer(deadline)) {
                    return lost_waiting(l, e, sp, Cause::WaitTimeout);
                }
            }
        }
        if !registry::is_on() {
            return Outcome::Off;
        }
        // The gate is looked at again by `attempt`.
        gate::enter(l.busy(), l.gate(), local::NEVER, sp);
    }
}

/// Runs what waits, and lets a handler see meanwhile that its thread does.
fn waiting(l: &Local, sp: u64, wait: impl FnOnce() -> bool) -> bool {
    let outer = l.waits.replace(sp as usize);
    let done = wait();
    l.waits.set(outer);
    done
}

/// Whether the thread waits already: then this event is a handler's that interrupted it, and does
/// not wait in its turn. A wait that was left by longjmp is over.
fn waits(l: &Local, sp: u64) -> bool {
    let outer = l.waits.get();
    if outer != 0 && was_abandoned(l, outer, sp as usize) {
        l.waits.set(0);
    }
    l.waits.get() != 0
}

/// Counts a loss, inside the section. What the event ended has ended all the same: the thread's
/// next buffer says what is open.
fn count_loss(l: &Local, e: &dyn Emission, cause: Cause) -> Outcome {
    let (Some(m), Some(r)) = (registry::mapping(), l.record()) else { return Outcome::Off };
    if e.is_nothing() {
        return Outcome::Off;
    }
    if let Some(session) = e.changes() {
        if session != m.front().ordinal.load(Relaxed) {
            return Outcome::Off;
        }
        e.after(l);
        l.set(local::RESTATES, true);
        l.empty_handed();
    }
    r.lose(cause);
    Outcome::Lost(cause)
}

/// What an attempt to write an event came to.
enum Step {
    Done(Outcome),
    Lose(Cause),
    AwaitGate(u32),
    AwaitBuffer,
}

/// The gate's word, inside the section: where there is no membarrier, behind a fence.
///
/// Whether there is one is asked after the gate was seen: that was stored before the gate was
/// turned. The thread's own `SLOW` is of the session before until its first exchange.
fn look(l: &Local) -> u32 {
    // Acquire: pairs with the Release with which the session turns the gate.
    let word = l.gate().load(Acquire);
    if registry::mapping().is_none_or(|m| m.front().fence.load(Relaxed) == 0) {
        return word;
    }
    // Pairs with the fence between the turn of the gate and the look at the busy word.
    crate::sync::fence(Ordering::SeqCst);
    // Acquire: as above.
    l.gate().load(Acquire)
}

fn attempt(l: &Local, e: &dyn Emission, fp: usize, sp: u64) -> Step {
    let Some(m) = registry::mapping() else { return Step::Done(Outcome::Off) };
    let Some(r) = l.record() else { return Step::Done(Outcome::Off) };
    let word = look(l);
    let generation = match gate::state(word) {
        gate::State::Off => return Step::Done(Outcome::Off),
        gate::State::Paused(_) if l.has(local::PAUSES) => return Step::Lose(Cause::InPause),
        gate::State::Paused(_) => return Step::AwaitGate(word),
        gate::State::Running(g) => g,
    };
    let epoch = m.front().epoch.load(Relaxed);
    if r.defined.load(Relaxed) != epoch {
        // Before the first event and the first loss of the session.
        registry::define_thread(m, r, l.function.get().unwrap_or(""), l.entry.get());
        r.defined.store(epoch, Relaxed);
    }
    let room = PREFIX_MAX + SLACK + e.len_max() + varint::LEN_MAX;
    if room > BATCH_BYTES_MAX - OPENING_MAX {
        return Step::Lose(Cause::TooBig);
    }
    if (l.holds.get() != generation || position(l) > BATCH_BYTES_MAX - room)
        && let Err(step) = exchange(l, m, r, generation)
    {
        return step;
    }
    if e.is_stale(l) {
        return Step::Done(Outcome::Off);
    }
    let epoch = (l.tag.get() >> 1) as u32;
    let mut stack = None;
    let (kind, kind_len) = match e.site() {
        Some((site, types)) => {
            let Some(kind) = define(m, site, types, epoch) else {
                return Step::Lose(Cause::SiteTable);
            };
            if site.has_stack(epoch) {
                stack = Some(capture_stack(l, r, epoch, (fp, sp), e.from()));
            }
            kind
        }
        None => match e.cold_kind(l) {
            Some(kind) => {
                stack = e.wants_stack().then(|| capture_stack(l, r, epoch, (fp, sp), 0));
                kind
            }
            None => return Step::Done(Outcome::Off),
        },
    };
    append(l, r, kind, kind_len, e, stack);
    e.after(l);
    Step::Done(Outcome::Recorded)
}

/// Where the next event goes in the buffer in hand.
fn position(l: &Local) -> usize {
    in_hand(l).publish.load(Relaxed) as u32 as usize
}

/// The head of the buffer in hand.
fn in_hand(l: &Local) -> &Head {
    // SAFETY: `holds` is not 0, so `buffer` is the one in this thread's slot.
    unsafe { &*l.buffer.get().cast::<Head>() }
}

/// Writes an event into the buffer in hand, which has room for it.
#[inline]
fn append(l: &Local, r: &Record, kind: u32, kind_len: usize, e: &dyn Emission, stack: Option<u32>) {
    let head = in_hand(l);
    let base = l.buffer.get();
    let word = head.publish.load(Relaxed);
    let last = head.last_ticks.load(Relaxed);
    let mut now = scaled_now(l);
    if now < last || now - last >= varint::PACK_LIMIT {
        if now < last {
            r.lose(Cause::ClockBack);
        }
        now = last;
    }
    head.last_ticks.store(now, Relaxed);
    // SAFETY: emit#2: the caller has checked room.
    let p = unsafe { base.add(word as u32 as usize) };
    // SAFETY: as above.
    let end = unsafe { write(p, kind, kind_len, varint::pack(now - last), e, stack) };
    publish(head, word, p, end);
}

/// The time now, also where the counter cannot be trusted.
fn scaled_now(l: &Local) -> u64 {
    if l.has(local::SLOW) { Clock::get().now().0 } else { clock::raw() >> l.shift.get() }
}

/// Writes a varint of any size.
///
/// # Safety
///
/// - `p` has room for `varint::LEN_MAX` bytes.
#[inline(always)]
pub(crate) unsafe fn put_varint(p: *mut u8, v: u64) -> *mut u8 {
    if v >= varint::SHORT_LIMIT {
        // SAFETY: the caller's duty is the same.
        return unsafe { put_long(p, v) };
    }
    let (word, len) = varint::pack_short(v);
    // SAFETY: the caller has checked room for ten bytes.
    unsafe { p.cast::<u64>().write_unaligned(word.to_le()) };
    // SAFETY: as above.
    unsafe { p.add(len) }
}

/// The same for the values that are not packed so quickly.
#[cold]
#[inline(never)]
unsafe fn put_long(p: *mut u8, v: u64) -> *mut u8 {
    if v < varint::PACK_LIMIT {
        let (word, len) = varint::pack(v);
        // SAFETY: the caller has checked room for ten bytes.
        unsafe { p.cast::<u64>().write_unaligned(word.to_le()) };
        // SAFETY: as above.
        return unsafe { p.add(len) };
    }
    let mut bytes = [0u8; varint::LEN_MAX];
    let len = varint::write(&mut bytes, v).unwrap_or(0);
    // SAFETY: the caller has checked room for ten bytes.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), p, len) };
    // SAFETY: as above.
    unsafe { p.add(len) }
}

/// Most bytes with which a batch opens before its first event.
const OPENING_MAX: usize = HEADER_BYTES + 2 + 2 + 10 + 10 + 10 * SPANS_MAX + 10;

/// Hands the buffer in hand over and takes a fresh one of this generation.
fn exchange(l: &Local, m: &Mapping, r: &Record, generation: u32) -> Result<(), Step> {
    l.empty_handed();
    registry::hand_over(m, gate::exchange_slot(&r.slot, 0, None));
    let Some(index) = take_buffer(m) else {
        let reads = l.reads.get() == m.front().ordinal.load(Relaxed);
        let wait = wait_ns() != 0 && !reads && !l.has(local::NEVER_WAITS | local::PAUSES);
        return Err(if wait { Step::AwaitBuffer } else { Step::Lose(Cause::PoolEmpty) });
    };
    // Ordinal and epoch were stored before the gate was turned to this generation.
    let session = m.front().ordinal.load(Relaxed);
    if l.session.get() != session {
        r.join_session();
        l.forget_ended();
        l.shift.set(Clock::get().shift());
        // Last: whoever leaves this by longjmp begins it again.
        crate::sync::compiler_fence(Ordering::SeqCst);
        l.session.set(session);
    }
    l.set(local::SLOW, is_slow(m));
    let epoch = m.front().epoch.load(Relaxed);
    open(l, m, r, index, generation, epoch);
    gate::exchange_slot(&r.slot, generation, Some(index));
    l.holds.set(generation);
    // Through the cold half, where the owner is told too.
    let never = l.has(local::SLOW) || owner::table().is_some();
    l.generation.set(if never { local::NEVER } else { generation });
    Ok(())
}

/// Fills in the head of a fresh buffer and the events with which it opens.
fn open(l: &Local, m: &Mapping, r: &Record, index: u32, generation: u32, epoch: u32) {
    let head = m.head(index);
    let now = scaled_now(l);
    let sequence = r.sequence[0].load(Relaxed);
    r.sequence[0].store(sequence.wrapping_add(1), Relaxed);
    head.generation.store(generation, Relaxed);
    head.epoch.store(epoch, Relaxed);
    head.thread.store(r.thread.load(Relaxed), Relaxed);
    head.sequence.store(sequence, Relaxed);
    head.lane.store(wire::LANE_MAIN.into(), Relaxed);
    head.flags.store(0, Relaxed);
    head.first_ticks.store(now, Relaxed);
    head.last_ticks.store(now, Relaxed);
    let base = (head as *const Head).cast_mut().cast::<u8>();
    l.buffer.set(base);
    l.tag.set(u64::from(epoch) << 1);
    let mut at = HEADER_BYTES;
    let mut count = 0u64;
    // SAFETY: a buffer is longer than its head.
    let first = unsafe { base.add(HEADER_BYTES) };
    // SAFETY: the buffer is this thread's alone and OPENING_MAX bytes of it are free. The head is
    // left out: a slow pop of the pool may still look at its link.
    let out = unsafe { std::slice::from_raw_parts_mut(first, OPENING_MAX - HEADER_BYTES) };
    let mut w = crate::encode::field::Writer::new(out);
    if l.has(local::STARTS) && schema::ThreadStart::put(&mut w, 0).is_some() {
        l.set(local::STARTS, false);
        count += 1;
    }
    let places = r.depth.load(Relaxed) & !HOLES;
    let task = r.task.load(Relaxed);
    if places != 0 || task != 0 || l.has(local::RESTATES) {
        l.set(local::RESTATES, false);
        let mut spans = [0u64; SPANS_MAX];
        let listed = r.open_spans(&mut spans);
        for word in &mut spans[..listed] {
            *word = crate::site::kind_in(*word, epoch);
        }
        let open = places - l.ended_below(places);
        let deeper = u64::from(open).saturating_sub(listed as u64);
        if schema::State::put(&mut w, 0, task, &spans[..listed], deeper).is_some() {
            count += 1;
        }
    }
    at += w.len();
    // Release: pairs with the Acquire of whoever copies what is published.
    head.publish.store(count << 32 | at as u64, Release);
}

/// A free buffer: from the pool, or committed afresh below the cap.
fn take_buffer(m: &Mapping) -> Option<u32> {
    let index = m.pop(RESERVED).or_else(|| m.grow(RESERVED));
    if index.is_none() {
        // Once until the controller has looked: a writer that blocks would cost every lost event a
        // system call.
        if m.front().wanted.swap(2, Relaxed) != 2 {
            m.ring();
        }
    } else if m.obtainable(RESERVED) < m.front().buffers_cap.load(Relaxed) / 8 {
        // The controller collects partly filled buffers before the pool is empty.
        let _ = m.front().wanted.compare_exchange(0, 1, Relaxed, Relaxed);
    }
    index
}

/// How long an emitter may wait for a free buffer, in nanoseconds; 0: it counts a loss at once.
pub static WAIT_NS: AtomicU64 = AtomicU64::new(0);

/// Most frames of a stack in this session.
pub static STACK_DEPTH: AtomicU32 = AtomicU32::new(FRAMES_MAX as u32);

fn wait_ns() -> u64 {
    WAIT_NS.load(Relaxed)
}

fn is_slow(m: &Mapping) -> bool {
    m.front().fence.load(Relaxed) != 0 || !Clock::get().is_counter()
}

/// Longest wait of a thread at a paused gate, its further events included. A pause lasts
/// microseconds; it is longer only where the thread that pauses stands still, under a debugger or
/// for want of a CPU.
const GATE_WAIT_NS: u64 = 1_000_000_000;

fn deadline_in(ns: u64) -> u64 {
    sys::mono_ns().saturating_add(ns)
}

/// Waits while the gate shows `word`; false at the deadline. The thread is outside the section.
fn await_gate(l: &Local, word: u32, deadline: u64) -> bool {
    let now = sys::mono_ns();
    if now < deadline {
        sys::futex::wait(l.gate(), word, Some(Duration::from_nanos(deadline - now)));
    }
    now < deadline
}

/// Waits until a buffer may be free; false at the deadline. The thread is outside the section.
fn await_buffer(deadline: u64) -> bool {
    let Some(m) = registry::mapping() else { return false };
    let front = m.front();
    // SeqCst: pairs with the fence in `wake_waiting`: either the giver sees the announcement, or
    // the look below sees what was given.
    front.waiting.fetch_add(1, Ordering::SeqCst);
    crate::sync::fence(Ordering::SeqCst);
    // Acquire: pairs with the Release of the giver.
    let seen = front.freed.load(Acquire);
    let now = sys::mono_ns();
    let worth = now < deadline && registry::is_on();
    if worth && m.spare(RESERVED) == 0 {
        m.ring();
        sys::futex::wait(&front.freed, seen, Some(Duration::from_nanos(deadline - now)));
    }
    front.waiting.fetch_sub(1, Relaxed);
    worth
}

/// Counts an event that waited in vain.
#[cold]
fn lost_waiting(l: &Local, e: &dyn Emission, sp: u64, cause: Cause) -> Outcome {
    // The counters are read for the last time when the gate is shut and the owner was seen outside.
    gate::enter(l.busy(), l.gate(), local::NEVER, sp);
    let outcome = match gate::state(look(l)) {
        gate::State::Off => Outcome::Off,
        _ => count_loss(l, e, cause),
    };
    gate::leave(l.busy());
    outcome
}

/// The kind of a site in this epoch, defining it where that was not done yet.
fn define(m: &Mapping, site: &'static Site, types: Types, epoch: u32) -> Option<(u32, usize)> {
    if let Some(kind) = site.kind(epoch) {
        return Some(kind);
    }
    tables::define_site(m, site, types, epoch)?;
    site.kind(epoch)
}

/// Captures the stack and gives its id; 0 where it is not known or cannot be kept.
#[inline]
fn capture_stack(l: &Local, r: &Record, epoch: u32, (fp, sp): (usize, u64), from: usize) -> u32 {
    // Only the preloaded library owns others.
    let from = if cfg!(exectrace_preload) { from } else { 0 };
    let sp = sp as usize;
    if !on_own_stack(l, sp) && !find_stack(l, sp) {
        return 0;
    }
    let mut frames = [MaybeUninit::<u64>::uninit(); FRAMES_MAX];
    let depth = (STACK_DEPTH.load(Relaxed) as usize).min(FRAMES_MAX);
    let Some(keys) = tables::stack_keys(epoch) else { return 0 };
    let below = sys::sp();
    let (top, out) = (l.stack_top.get(), &mut frames[..depth]);
    let walk = match capture::unwind() {
        // SAFETY: the stack pointer was just seen to lie inside the bounds of this thread's stack,
        // and this function runs below it.
        None => unsafe { capture::walk(keys, fp, below, top, from, out) },
        // SAFETY: as above.
        Some(unwind) => unsafe {
            let part = capture::Part { fp, sp: below, top, from };
            capture::walk_by(unwind, keys, &part, out)
        },
    };
    if walk.frames == 0 {
        return 0;
    }
    // The stack of the event before, nearly always: 64 bits of a keyed hash and the depth agree.
    let shape = (walk.frames as u64) << 36 | walk.flags << 32 | u64::from(epoch);
    if l.stack_sum.get() == walk.sum && l.stack_shape.get() == shape {
        return l.stack_id.get();
    }
    // SAFETY: the walk has written so many frames.
    let frames = unsafe { std::slice::from_raw_parts(frames.as_ptr().cast::<u64>(), walk.frames) };
    match tables::stack_id(registry::mapping(), frames, walk.sum, walk.flags, epoch) {
        Some(id) => {
            l.stack_sum.set(walk.sum);
            l.stack_shape.set(shape);
            l.stack_id.set(id);
            id
        }
        None => {
            r.lose(Cause::StackTable);
            0
        }
    }
}

fn on_own_stack(l: &Local, sp: usize) -> bool {
    (l.stack_low.get()..l.stack_top.get()).contains(&sp)
}

/// Asks for the bounds of the thread's stack. Where they do not hold the stack pointer (a signal's
/// stack, a coroutine's, a deeper stack than was seen), asks again only some events later.
#[cold]
fn find_stack(l: &Local, sp: usize) -> bool {
    let skip = l.stack_skip.get();
    if skip != 0 {
        l.stack_skip.set(skip - 1);
        return false;
    }
    l.stack_skip.set(STACK_SKIP);
    let own = ask_stack(l, sp);
    l.stack_skip.set(if own { 0 } else { STACK_SKIP });
    own
}

/// Asks for the bounds of the thread's stack; whether they hold `sp`.
fn ask_stack(l: &Local, sp: usize) -> bool {
    let Some(b) = sys::thread::stack_bounds() else { return false };
    l.stack_low.set(b.low);
    l.stack_top.set(b.top);
    on_own_stack(l, sp)
}

/// Events without a stack before its bounds, which cost some microseconds, are asked for again.
const STACK_SKIP: u32 = 1024;

/// An event of a static kind without site.
#[derive(Clone, Copy, Debug)]
pub struct Plain<const FIELDS: usize> {
    /// The kind.
    pub kind: Kind,
    /// Its fields, all varints.
    pub fields: [u64; FIELDS],
}

impl<const FIELDS: usize> Emission for Plain<FIELDS> {
    #[inline(always)]
    fn len_max(&self) -> usize {
        FIELDS * varint::LEN_MAX
    }

    #[inline(always)]
    fn kind(&self, _l: &Local) -> Option<(u32, usize)> {
        Some((self.kind as u32, 1))
    }

    #[inline(always)]
    unsafe fn put(&self, mut p: *mut u8) -> *mut u8 {
        for v in self.fields {
            // SAFETY: the caller has checked room for all fields.
            p = unsafe { put_varint(p, v) };
        }
        p
    }

    #[inline(always)]
    fn after(&self, _l: &Local) {}

    fn site(&self) -> Option<(&'static Site, Types)> {
        None
    }
}

/// The rounds of destructors that `thread_exits` lets pass.
const ROUNDS: &[u32] =
    if cfg!(exectrace_preload) { &[local::GOES, local::GOES_ON] } else { &[local::GOES] };

/// The pthread key's destructor: the thread says goodbye, hands over what it has and gives its
/// record up. An event after this registers the thread again.
///
/// It does so in the second round of destructors: in the first one keys that were made later have
/// theirs called after it, and std's wakes whoever joins a scoped thread. A preloaded recorder does
/// so in the third: one that the program itself is linked with hands over its buffers in the
/// second, and wakes its reader. glibc has four.
pub extern "C" fn thread_exits(value: *mut c_void) {
    local::with(|l| {
        let (Some(m), Some(r)) = (registry::mapping(), l.record()) else { return };
        if registry::is_forked_child() || registry::is_vfork_child(m) {
            return;
        }
        if let Some(round) = ROUNDS.iter().find(|round| !l.has(**round)) {
            l.set(*round, true);
            if sys::thread::set_exit_value(value) {
                return;
            }
        }
        if registry::is_on() {
            emit(Plain { kind: Kind::ThreadEnd, fields: [] });
        }
        let index = l.index.get();
        gate::enter(&r.busy, l.gate(), local::NEVER, sys::sp() as u64 | gate::NO_EVENT);
        l.empty_handed();
        // A shut gate means that the session takes the buffer itself: from here it could come to
        // the queue behind the end.
        if look(l) != gate::OFF {
            registry::hand_over(m, gate::exchange_slot(&r.slot, 0, None));
        }
        gate::leave(&r.busy);
        l.detach();
        m.end_record(index);
    });
}

/// Counts a loss that was found outside the section. Signal-safe.
pub fn lose(cause: Cause) -> Outcome {
    if let Some(to) = owner::table()
        && owner::alone(None)
    {
        return told(Answer::from_word((to.lose)(cause as u32)));
    }
    let Some(m) = registry::mapping() else { return Outcome::Off };
    local::with(|l| match l.record() {
        Some(r) if r.is_out() => {
            gate::enter(&r.busy, l.gate(), local::NEVER, sys::sp() as u64 | gate::NO_EVENT);
            // With the gate shut the session's account is closed, or soon to be.
            let open = look(l) != gate::OFF;
            if open {
                r.lose(cause);
            }
            gate::leave(&r.busy);
            if open { Outcome::Lost(cause) } else { Outcome::Off }
        }
        _ => {
            m.lose(cause);
            Outcome::Lost(cause)
        }
    })
}

/// The running session's ordinal as this thread last saw it, its open spans and its task.
#[inline(always)]
pub fn standing(l: &Local) -> (u32, u32, u64) {
    match l.record() {
        Some(r) => (l.session.get(), r.depth.load(Relaxed), r.task.load(Relaxed)),
        None => (0, 0, 0),
    }
}

/// Writes nothing of its own: makes the thread known, with its start.
#[derive(Clone, Copy)]
struct Announcement;

impl Emission for Announcement {
    // The start itself is not lost: it opens the thread's first buffer, whenever that is.
    fn is_nothing(&self) -> bool {
        true
    }

    fn len_max(&self) -> usize {
        0
    }

    fn kind(&self, _l: &Local) -> Option<(u32, usize)> {
        None
    }

    unsafe fn put(&self, p: *mut u8) -> *mut u8 {
        p
    }

    fn after(&self, _l: &Local) {}

    fn site(&self) -> Option<(&'static Site, Types)> {
        None
    }

    fn hand(&self, l: &Local, by: &Hand) -> Option<Outcome> {
        if let Some(name) = l.function.get() {
            // SAFETY: a text that lives for as long as the module does.
            unsafe { (by.to.runs)(owner::Text::new(name)) };
        }
        Some(Outcome::Off)
    }
}

/// What a thread has said of the wait that it begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Blocking {
    /// When it began, in scaled ticks; 0: nothing was recorded.
    pub since: u64,
    /// From which stack; 0 none.
    pub stack: u32,
    /// The table epoch of the stack.
    pub epoch: u32,
}

/// Says in the thread's record what it is about to wait for, with its stack where `walk` says so.
/// Whoever looks at the record meanwhile, also when the process was killed, finds it there.
///
/// Nothing is said inside another event, nor while the recorder is off.
#[inline(never)]
pub fn block(op: u32, object: u64, walk: bool) -> Blocking {
    let (fp, sp) = (sys::fp(), sys::sp());
    let l = local::here();
    for _ in 0..2 {
        if l.busy().load(Relaxed) == 0 {
            let generation = l.generation.get();
            let word = sp as u64 | gate::NO_EVENT;
            let mine = gate::enter(l.busy(), l.gate(), generation, word) || runs_on(l);
            if mine && let Some(r) = l.record() {
                let epoch = (l.tag.get() >> 1) as u32;
                let stack = if walk { capture_stack(l, r, epoch, (fp, sp as u64), 0) } else { 0 };
                let since = scaled_now(l);
                r.block(op, object, since, epoch, stack);
                gate::leave(l.busy());
                return Blocking { since, stack, epoch };
            }
            gate::leave(l.busy());
        } else if l.registered() {
            return Blocking::default();
        }
        // It has no record yet, or no buffer of this generation.
        announce();
    }
    Blocking::default()
}

/// Puts the thread's name into the log, where it has changed since that was looked at. One system
/// call.
#[cold]
#[inline(never)]
pub fn rename() {
    let l = local::here();
    let mut bytes = [0u8; 16];
    let name = sys::thread::name(&mut bytes);
    let (Some(m), Some(r)) = (registry::mapping(), l.record()) else { return };
    if r.busy.load(Relaxed) != 0 {
        return;
    }
    l.set(local::NAMED, true);
    let mut known = [0u8; 16];
    let len = r.name(&mut known);
    if &known[..len] == name {
        return;
    }
    // Inside the section: nobody exchanges the tables or ends the session meanwhile.
    gate::enter(l.busy(), l.gate(), local::NEVER, sys::sp() as u64 | gate::NO_EVENT);
    if matches!(gate::state(look(l)), gate::State::Running(_)) {
        r.set_name(name);
        let mut bytes = [0u8; 64];
        let mut w = crate::encode::field::Writer::new(&mut bytes);
        let at = Clock::get().now().0;
        let text = crate::encode::field::Text { bytes: name, cut_from: None };
        let put = schema::ThreadName::put(&mut w, r.thread.load(Relaxed).into(), at, text);
        let len = w.len();
        if put.is_some() {
            let _ = tables::define(m, m.front().epoch.load(Relaxed), &bytes[..len]);
        }
    }
    gate::leave(l.busy());
}

/// Says which function the calling thread runs, where that was not known.
#[cold]
#[inline(never)]
pub fn runs(name: &'static str) {
    let l = local::here();
    l.function.set(Some(name));
    announce();
    let (Some(m), Some(r)) = (registry::mapping(), l.record()) else { return };
    if r.busy.load(Relaxed) != 0 {
        return;
    }
    // Inside the section, as for a name.
    gate::enter(l.busy(), l.gate(), local::NEVER, sys::sp() as u64 | gate::NO_EVENT);
    if matches!(gate::state(look(l)), gate::State::Running(_)) {
        registry::define_thread(m, r, name, l.entry.get());
    }
    gate::leave(l.busy());
}

/// Whether the thread, inside its section, holds a buffer of the generation that runs: so too where
/// every event fences.
fn runs_on(l: &Local) -> bool {
    matches!(gate::state(look(l)), gate::State::Running(g) if g == l.holds.get())
}

/// The wait is over: the thread runs.
pub fn unblock(l: &Local) {
    if let Some(r) = l.record() {
        r.block_op.store(0, Relaxed);
    }
}

/// The time now, in scaled ticks. Not before a session has chosen the clock.
pub fn now(l: &Local) -> u64 {
    scaled_now(l)
}

/// Makes the calling thread known to the session, with its start.
pub fn announce() {
    emit(Announcement);
}
