//! What a thread did while others waited for it: in which calls it was blocked, how long in none.
//!
//! 1. Memory is bounded: [`EACH_MAX`] waits of a thread, [`ALL_MAX`] of all. What a thread did
//!    before the oldest one that is kept is not seen, and is not counted as running.
//! 2. Nothing is said of the time in which the thread itself waited for the same object: it did not
//!    have it then.

use std::collections::HashMap;
use std::collections::VecDeque;

use trace::encode::op::Op;

use crate::waits::StackKey;

/// Most waits of a thread that are kept: some 200 ms of a thread that blocks without pause.
pub const EACH_MAX: usize = 1 << 14;
/// Most waits that are kept in all; 48 MiB.
pub const ALL_MAX: usize = 1 << 20;
/// A wait below this is running: a call that had nothing to wait for.
const SHORT_NS: u64 = 1_000;
/// Kinds of calls that are told apart in one stretch of time.
const KINDS: usize = 4;

/// Calls of one kind that blocked a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// What it called.
    pub op: Op,
    /// The object of the longest one.
    pub object: u64,
    /// The stack of the longest one.
    pub stack: StackKey,
    /// How long, in all.
    pub ns: u64,
    longest_ns: u64,
}

/// What a thread did in a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meanwhile {
    /// The time that is told of.
    pub ns: u64,
    /// Of it in no call that blocks: running, or waiting for a CPU.
    pub running_ns: u64,
    /// In which calls it was blocked.
    blocked: [Option<Blocked>; KINDS],
}

impl Meanwhile {
    /// In which calls it was blocked, the longest first.
    pub fn blocked(&self) -> impl Iterator<Item = &Blocked> {
        self.blocked.iter().flatten()
    }

    fn add(&mut self, past: &Past, ns: u64) {
        let one =
            Blocked { op: past.op, object: past.object, stack: past.stack, ns, longest_ns: ns };
        let same = |b: &&mut Option<Blocked>| b.is_none_or(|b| b.op == past.op);
        // Beyond so many kinds a call is part of none; the time is not running either.
        let Some(place) = self.blocked.iter_mut().find(same) else { return };
        *place = Some(match *place {
            Some(b) if b.longest_ns >= ns => Blocked { ns: b.ns + ns, ..b },
            Some(b) => Blocked { ns: b.ns + ns, ..one },
            None => one,
        });
    }
}

/// A wait that is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Past {
    pub began_ns: u64,
    pub ended_ns: u64,
    pub op: Op,
    pub object: u64,
    pub stack: StackKey,
}

/// The last waits of a thread, oldest first. All that ended after `seen_from_ns` are here.
#[derive(Debug, Default)]
struct History {
    waits: VecDeque<Past>,
    seen_from_ns: u64,
}

/// The last waits of every thread.
#[derive(Debug, Default)]
pub(crate) struct Histories {
    threads: HashMap<u32, History>,
    kept: usize,
}

impl Histories {
    /// Takes in a wait that is over; those of a thread in the order of their ends.
    pub fn add(&mut self, thread: u32, past: Past) {
        if past.ended_ns.saturating_sub(past.began_ns) < SHORT_NS {
            return;
        }
        let h = self.threads.entry(thread).or_default();
        if h.waits.len() >= EACH_MAX || self.kept >= ALL_MAX {
            match h.waits.pop_front() {
                Some(oldest) => h.seen_from_ns = oldest.ended_ns,
                None => {
                    h.seen_from_ns = past.ended_ns;
                    return;
                }
            }
        } else {
            self.kept += 1;
        }
        h.waits.push_back(past);
    }

    /// What the thread did from `from_ns` to `to_ns`, as far as it was not waiting for `object` by
    /// one of the calls that `same` tells.
    pub fn between(
        &self,
        thread: u32,
        from_ns: u64,
        to_ns: u64,
        same: impl Fn(Op, u64) -> bool,
    ) -> Meanwhile {
        let whole = Meanwhile {
            ns: to_ns.saturating_sub(from_ns),
            running_ns: to_ns.saturating_sub(from_ns),
            ..Meanwhile::default()
        };
        let Some(h) = self.threads.get(&thread) else { return whole };
        let mut from_ns = from_ns.max(h.seen_from_ns);
        let inside = |p: &&Past| p.began_ns < to_ns;
        let after = h.waits.partition_point(|p| p.ended_ns <= from_ns);
        let own = h.waits.range(after..).rfind(|p| inside(p) && same(p.op, p.object));
        from_ns = own.map_or(from_ns, |p| p.ended_ns.max(from_ns));
        let ns = to_ns.saturating_sub(from_ns);
        let mut did = Meanwhile { ns, ..Meanwhile::default() };
        let mut blocked = 0u64;
        let after = h.waits.partition_point(|p| p.ended_ns <= from_ns);
        for p in h.waits.range(after..).take_while(inside) {
            let part = p.ended_ns.min(to_ns).saturating_sub(p.began_ns.max(from_ns));
            blocked = blocked.saturating_add(part);
            did.add(p, part);
        }
        did.running_ns = ns.saturating_sub(blocked);
        did.blocked.sort_by_key(|b| std::cmp::Reverse(b.map_or(0, |b| b.ns)));
        did
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(op: Op, object: u64, began_us: u64, ended_us: u64) -> Past {
        let stack = StackKey::default();
        Past { began_ns: began_us * 1000, ended_ns: ended_us * 1000, op, object, stack }
    }

    fn parts(m: &Meanwhile) -> Vec<(Op, u64)> {
        m.blocked().map(|b| (b.op, b.ns / 1000)).collect()
    }

    #[test]
    fn calls_are_cut_to_the_time_asked_for() {
        let mut h = Histories::default();
        h.add(1, past(Op::Sync, 3, 0, 120));
        h.add(1, past(Op::Sleep, 0, 130, 180));
        h.add(1, past(Op::Sync, 3, 190, 300));
        let did = h.between(1, 100_000, 200_000, |_, _| false);
        assert_eq!(parts(&did), [(Op::Sleep, 50), (Op::Sync, 30)]);
        assert_eq!((did.ns, did.running_ns), (100_000, 20_000));
        // Of a thread that never waited: it was running.
        let did = h.between(2, 100_000, 200_000, |_, _| false);
        assert_eq!((parts(&did).len(), did.running_ns), (0, 100_000));
    }

    #[test]
    fn before_it_had_the_object_nothing_is_said() {
        let mut h = Histories::default();
        h.add(1, past(Op::Sleep, 0, 0, 50));
        h.add(1, past(Op::FutexWait, 64, 60, 100));
        h.add(1, past(Op::Sleep, 0, 110, 140));
        let same = |op: Op, object: u64| op == Op::FutexWait && object == 64;
        let did = h.between(1, 0, 150_000, same);
        assert_eq!(parts(&did), [(Op::Sleep, 30)]);
        assert_eq!((did.ns, did.running_ns), (50_000, 20_000));
    }

    #[test]
    fn what_is_no_longer_kept_is_not_running() {
        let mut h = Histories::default();
        for i in 0..EACH_MAX as u64 + 10 {
            h.add(1, past(Op::Read, 3, i * 10, i * 10 + 4));
        }
        let did = h.between(1, 0, 1_000_000, |_, _| false);
        // The first ten are gone; the tenth ended at 94 us.
        assert_eq!(did.ns, 1_000_000 - 94_000);
        assert_eq!(parts(&did), [(Op::Read, 90 * 4)]);
        assert_eq!(did.running_ns, did.ns - 360_000);
    }
}
