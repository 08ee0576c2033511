//! What the kernel saw of threads, on its way into the trace: a lane of its own for each thread.
//!
//! Whoever drains a process from outside may know when its threads got and lost a CPU. Such events
//! name the kernel's number of a thread; the trace names threads by numbers of its own, which the
//! threads take when they first meet the recorder. So events are held until the definitions that
//! were written meanwhile have been seen, at the latest until the generation ends.
//!
//! 1. Events come in the order of time. One that comes too late for its place (the kernel was still
//!    writing it) gets the earliest time that is left.
//! 2. A thread that never met the recorder gets a number here, and a definition before its events.
//! 3. Stacks that the kernel walked get ids here, apart from those of the process itself
//!    ([`STACK_FIRST`]), and are defined before their use.
//! 4. Numbers of the kernel are used again: the end of a thread divides its events from those of
//!    the next one of that number.

use std::collections::HashMap;
use std::collections::HashSet;

use crate::encode::field::Writer;
use crate::encode::schema;
use crate::encode::wire::BATCH_BYTES_MAX;
use crate::encode::wire::FRAMES_MAX;
use crate::encode::wire::HEADER_BYTES;

/// What was seen of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It lost its CPU; `true`: it could have gone on.
    Out(bool),
    /// It got this CPU.
    In(u32),
    /// It ran on this CPU in code of its own, with this stack: an id of [`Lanes::stack`].
    Sample(u32, u64),
    /// Nanoseconds on a CPU, nanoseconds without one though it could run, how often it got one.
    Delay([u64; 3]),
    /// Of its process: bytes resident, of them shared, the most that were resident so far, minor
    /// and major page faults so far.
    Memory([u64; 5]),
    /// It has ended.
    Exit,
}

/// Events of one thread that go into the trace together.
#[derive(Debug, Default)]
pub struct Batch {
    /// The thread's number.
    pub thread: u32,
    /// Counts the batches of the lane.
    pub sequence: u32,
    /// The time of the first event.
    pub first: u64,
    /// The time of the last event.
    pub last: u64,
    /// How many events.
    pub count: u32,
    /// The events.
    pub body: Vec<u8>,
}

/// So many events are held at most before they are written, whatever generation it is.
pub const HELD_MAX: usize = 1 << 16;

/// Room for one event: kind, up to five numbers, delta.
const EVENT_BYTES_MAX: usize = 64;

/// The first id of a stack that the kernel walked. The process counts its own from 1, and has room
/// for far fewer than come before this.
pub const STACK_FIRST: u64 = 1 << 31;

/// Most distinct stacks. 65,536: some 10 MiB.
const STACKS_MAX: usize = 1 << 16;

/// All threads of a process.
#[derive(Debug, Default)]
pub struct Lanes {
    threads: HashMap<u32, Held>,
    lanes: HashMap<u32, Lane>,
    stacks: HashMap<Box<[u64]>, u64>,
    /// Stacks that are still to be defined: id and frames.
    new_stacks: Vec<(u64, Box<[u64]>)>,
    held: usize,
    /// Before this time everything was seen.
    until: u64,
    /// Nothing before this time may be written any more.
    floor: u64,
}

/// What is held of one number of the kernel.
#[derive(Debug, Default)]
struct Held {
    /// When threads of this number were registered, and their numbers in the trace; oldest first.
    known: Vec<(u64, u32)>,
    seen: Vec<(u64, Seen)>,
}

/// A lane of the trace.
#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    sequence: u32,
    last: u64,
}

impl Lanes {
    /// A thread was defined.
    pub fn define(&mut self, tid: u32, thread: u32, registered: u64) {
        let known = &mut self.threads.entry(tid).or_default().known;
        if !known.iter().any(|k| k.1 == thread) {
            known.push((registered, thread));
            known.sort_unstable();
        }
    }

    /// Something was seen at this time.
    pub fn add(&mut self, tid: u32, ticks: u64, seen: Seen) {
        self.threads.entry(tid).or_default().seen.push((ticks, seen));
        self.held += 1;
    }

    /// The id of a stack: where the thread was, then return addresses. 0 where no more stacks are
    /// kept.
    pub fn stack(&mut self, frames: &[u64]) -> u64 {
        let mut frames: Box<[u64]> = frames[..frames.len().min(FRAMES_MAX)].into();
        if let Some(innermost) = frames.first_mut() {
            // As if it were a return address: whoever looks it up takes one off.
            *innermost = innermost.saturating_add(1);
        }
        if let Some(id) = self.stacks.get(&frames) {
            return *id;
        }
        if self.stacks.len() >= STACKS_MAX {
            return 0;
        }
        let id = STACK_FIRST + self.stacks.len() as u64;
        self.stacks.insert(frames.clone(), id);
        self.new_stacks.push((id, frames));
        id
    }

    /// The stacks that batches taken from here on may name, and that were not given out yet.
    pub fn take_stacks(&mut self) -> Vec<(u64, Box<[u64]>)> {
        std::mem::take(&mut self.new_stacks)
    }

    /// At this time the process had these threads. Others that were known before have ended.
    pub fn alive(&mut self, ticks: u64, tids: &HashSet<u32>) {
        for (tid, held) in &mut self.threads {
            let is_older = held.known.iter().all(|k| k.0 < ticks);
            if is_older && !tids.contains(tid) {
                held.seen.push((ticks, Seen::Exit));
            }
        }
    }

    /// Everything before this time was added.
    pub fn seen_until(&mut self, ticks: u64) {
        self.until = self.until.max(ticks);
    }

    /// Whether so much is held that it should be taken.
    pub fn is_full(&self) -> bool {
        self.held >= HELD_MAX
    }

    /// The time up to which a generation that ends now can be given out: no event before it comes
    /// any more.
    pub fn close(&mut self, at: u64) -> u64 {
        self.floor = self.until.min(at).max(self.floor);
        self.floor
    }

    /// What is held, in batches. `number` gives a thread that was never defined a number and
    /// defines it, by its number of the kernel's and the time of its first event.
    pub fn take(&mut self, mut number: impl FnMut(u32, u64) -> u32) -> Vec<Batch> {
        let mut done = Vec::new();
        self.held = 0;
        let (lanes, floor) = (&mut self.lanes, self.floor);
        self.threads.retain(|tid, held| {
            let seen = std::mem::take(&mut held.seen);
            let mut rest = seen.into_iter().peekable();
            while let Some((first, _)) = rest.peek() {
                let first = *first;
                let mut life = Vec::new();
                let mut ended = None;
                for (ticks, seen) in rest.by_ref() {
                    if seen == Seen::Exit {
                        ended = Some(ticks);
                        break;
                    }
                    life.push((ticks, seen));
                }
                let end = ended.unwrap_or(u64::MAX);
                if !life.is_empty() && held.known.first().is_none_or(|k| k.0 > end) {
                    held.known.insert(0, (first, number(*tid, first)));
                }
                write(&held.known, end, &life, floor, lanes, &mut done);
                if ended.is_some() {
                    let behind = held.known.partition_point(|k| k.0 <= end);
                    held.known.drain(..behind).for_each(|k| _ = lanes.remove(&k.1));
                }
            }
            !held.known.is_empty()
        });
        done
    }
}

/// Writes what was seen in one thread's life, which ended at `end`. A thread that said goodbye to
/// the recorder and met it again has several numbers: each holds from its registration on.
fn write(
    known: &[(u64, u32)],
    end: u64,
    life: &[(u64, Seen)],
    floor: u64,
    lanes: &mut HashMap<u32, Lane>,
    done: &mut Vec<Batch>,
) {
    let own = &known[..known.partition_point(|k| k.0 <= end)];
    let mut batch = Batch::default();
    for (ticks, seen) in life {
        let behind = own.partition_point(|k| k.0 <= *ticks);
        let Some((_, thread)) = own.get(behind.saturating_sub(1)) else { continue };
        let lane = lanes.entry(*thread).or_default();
        let is_full = batch.body.len() + EVENT_BYTES_MAX > BATCH_BYTES_MAX - HEADER_BYTES;
        if batch.thread != *thread || is_full {
            flush(std::mem::take(&mut batch), done);
            batch = Batch { thread: *thread, sequence: lane.sequence, ..batch };
            lane.sequence = lane.sequence.wrapping_add(1);
        }
        let ticks = (*ticks).max(lane.last).max(floor);
        batch.add(ticks, seen);
        lane.last = ticks;
    }
    flush(batch, done);
}

fn flush(batch: Batch, done: &mut Vec<Batch>) {
    if batch.count > 0 {
        done.push(batch);
    }
}

impl Batch {
    fn add(&mut self, ticks: u64, seen: &Seen) {
        if self.count == 0 {
            (self.first, self.last) = (ticks, ticks);
        }
        let mut room = [0u8; EVENT_BYTES_MAX];
        let mut w = Writer::new(&mut room);
        let delta = ticks.saturating_sub(self.last);
        let put = match seen {
            Seen::Out(preempted) => schema::SwitchOut::put(&mut w, delta, (*preempted).into()),
            Seen::In(cpu) => schema::SwitchIn::put(&mut w, delta, (*cpu).into()),
            Seen::Sample(cpu, stack) => schema::Sample::put(&mut w, delta, (*cpu).into(), *stack),
            Seen::Delay([ran, waited, turns]) => {
                schema::RunDelay::put(&mut w, delta, *ran, *waited, *turns)
            }
            Seen::Memory([resident, shared, peak, minor, major]) => {
                schema::Memory::put(&mut w, delta, *resident, *shared, *peak, *minor, *major)
            }
            Seen::Exit => None,
        };
        let len = w.len();
        if put.is_some() {
            self.body.extend_from_slice(&room[..len]);
            self.count += 1;
            self.last = ticks;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Threads without a definition get numbers from 100 up, in the order of their need.
    fn taken(lanes: &mut Lanes) -> Vec<(u32, u32, u64, u64, u32)> {
        let mut next = 100;
        let mut number = |_, _| {
            next += 1;
            next - 1
        };
        let mut all: Vec<_> = lanes
            .take(&mut number)
            .iter()
            .map(|b| (b.thread, b.sequence, b.first, b.last, b.count))
            .collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn events_go_to_the_thread_that_had_the_number_then() {
        let mut l = Lanes::default();
        // The thread ran before it met the recorder; it said goodbye and met it again at 50.
        l.add(7, 10, Seen::In(0));
        l.define(7, 3, 20);
        l.define(7, 4, 50);
        l.define(7, 3, 20);
        l.add(7, 30, Seen::Out(false));
        l.add(7, 60, Seen::In(1));
        l.add(7, 70, Seen::Exit);
        // Another thread of that number, which is never defined.
        l.add(7, 80, Seen::In(0));
        l.add(7, 90, Seen::Out(true));
        assert_eq!(taken(&mut l), [(3, 0, 10, 30, 2), (4, 0, 60, 60, 1), (100, 0, 80, 90, 2)]);
        // It goes on with its number, and so do batches of its lane.
        l.add(7, 95, Seen::In(0));
        assert_eq!(taken(&mut l), [(100, 1, 95, 95, 1)]);
        l.add(7, 96, Seen::Exit);
        assert_eq!(taken(&mut l), []);
        assert!(l.threads.is_empty() && l.lanes.is_empty(), "what has ended is forgotten");
    }

    #[test]
    fn threads_that_are_gone_are_forgotten_and_young_ones_are_not() {
        let mut l = Lanes::default();
        l.define(7, 1, 10);
        l.define(8, 2, 10);
        l.define(9, 3, 60);
        l.add(7, 20, Seen::Delay([1, 2, 3]));
        l.alive(50, &HashSet::from([8]));
        assert_eq!(taken(&mut l), [(1, 0, 20, 20, 1)]);
        let mut left: Vec<u32> = l.threads.keys().copied().collect();
        left.sort_unstable();
        assert_eq!(left, [8, 9]);
    }

    #[test]
    fn nothing_is_written_before_what_was_given_out() {
        let mut l = Lanes::default();
        l.define(5, 1, 0);
        l.seen_until(40);
        assert_eq!(l.close(100), 40, "what the kernel saw between is still to come");
        l.add(5, 39, Seen::Out(true));
        l.add(5, 60, Seen::In(1));
        assert_eq!(taken(&mut l), [(1, 0, 40, 60, 2)]);
        l.seen_until(200);
        assert_eq!(l.close(150), 150);
        assert_eq!(l.close(120), 150, "it never goes back");
    }

    #[test]
    fn batches_are_no_longer_than_a_batch() {
        let mut l = Lanes::default();
        l.define(5, 1, 0);
        for at in 0..40_000 {
            l.add(5, at, Seen::Memory([u64::MAX; 5]));
        }
        assert!(!l.is_full());
        let all = l.take(|_, _| unreachable!());
        let room = BATCH_BYTES_MAX - HEADER_BYTES;
        assert!(all.len() > 3 && all.iter().all(|b| b.body.len() <= room));
        assert_eq!(all.iter().map(|b| b.count).sum::<u32>(), 40_000);
        assert!(all.iter().enumerate().all(|(i, b)| b.sequence == i as u32));
        (0..HELD_MAX as u64).for_each(|at| l.add(5, at, Seen::In(0)));
        assert!(l.is_full());
    }

    #[test]
    fn a_stack_has_one_id_and_is_defined_once() {
        let mut l = Lanes::default();
        let ids = [&[10, 20][..], &[11, 20], &[10, 20], &[]].map(|frames| l.stack(frames));
        assert_eq!(ids, [STACK_FIRST, STACK_FIRST + 1, STACK_FIRST, STACK_FIRST + 2]);
        let new: Vec<_> = l.take_stacks().into_iter().map(|(id, f)| (id, f.to_vec())).collect();
        let first = STACK_FIRST;
        assert_eq!(new, [(first, vec![11, 20]), (first + 1, vec![12, 20]), (first + 2, vec![])]);
        assert!(l.take_stacks().is_empty());
        assert_eq!(l.stack(&[u64::MAX; 500]), first + 3);
        assert_eq!(l.take_stacks()[0].1.len(), FRAMES_MAX);
        (0..STACKS_MAX as u64).for_each(|i| _ = l.stack(&[i, 1, 2]));
        assert_eq!(l.stack(&[7, 7]), 0, "no more are kept");
        assert_eq!(l.stack(&[10, 20]), first, "and the known ones are");
    }
}
