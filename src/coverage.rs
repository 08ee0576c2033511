//! How much of a thread's waiting is in the trace: the kernel's counts of it beside the thread's
//! own account.
//!
//! The kernel counts the switches that a thread asks for, and the time that it had a CPU or waited
//! for one; the rest of the time it was blocked. A thread knows the first count of itself. The
//! second must be read from outside, now and then: what lies between two such looks is compared.
//!
//! 1. Both sides are of the same stretch of time, at both ends of which the thread slept or began:
//!    of a running thread the kernel's counts are those of its last switch.
//! 2. A wait that has begun and is not over counts until the look.

use std::collections::HashMap;

use crate::mapping::account::Account;
use crate::mapping::account::Waits;

/// What the kernel has counted for a thread, as whoever looks from outside can read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// When it was read, in ticks.
    pub ticks: u64,
    /// Time on a CPU, in nanoseconds.
    pub ran_ns: u64,
    /// Time in which it could run and had none.
    pub delayed_ns: u64,
    /// Switches that it asked for.
    pub switches: u64,
}

/// A look at a thread: the kernel's side and its own.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    count: Count,
    waits: Waits,
}

/// What is known of a thread at its end, or at the end of the session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Until when, in ticks.
    pub at: u64,
    /// Switches that the thread asked for.
    pub switches: u64,
    /// Pages that it waited for.
    pub faults: u64,
    /// The thread's own account of the same time.
    pub waits: Waits,
    /// The time between the first and the last look.
    pub over_ns: u64,
    /// Of that, blocked.
    pub blocked_ns: u64,
    /// Of that, in recorded waits.
    pub waited_ns: u64,
}

/// The looks at all threads of a process: the first one and the last, by the thread's number.
#[derive(Debug, Default)]
pub struct Looks(HashMap<u32, (Look, Look)>);

impl Looks {
    /// A thread was looked at. `born`: when it began, where that was in this session and it began
    /// with the recorder's knowledge; `waiting`: ticks of the wait that it is in.
    pub fn add(
        &mut self,
        thread: u32,
        count: Count,
        account: Option<&Account>,
        born: Option<u64>,
        waiting: u64,
    ) {
        let mut waits = account.map(Account::waits).unwrap_or_default();
        waits.waited_ticks += waiting;
        let look = Look { count, waits };
        let begin = || match born {
            Some(ticks) => Look { count: Count { ticks, ..Count::default() }, ..Look::default() },
            None => look,
        };
        self.0.entry(thread).or_insert_with(|| (begin(), look)).1 = look;
    }

    /// What is known of a thread; nothing is kept of it. `rate`: ticks a second.
    pub fn take(&mut self, thread: u32, account: Option<&Account>, rate: u64) -> Option<Row> {
        let looks = self.0.remove(&thread);
        let (mut row, mut is_known) = (Row::default(), false);
        if let Some((first, last)) = looks {
            row = between(&first, &last, rate);
            is_known = row.over_ns > 0;
            if let Some([before, _]) = account.and_then(Account::first) {
                // Since its beginning, then.
                row.switches = last.count.switches.saturating_sub(before);
                row.waits = last.waits;
                is_known = true;
            }
        }
        let ended = account.and_then(|a| Some((a.first()?, a.last()?, a.waits())));
        if let Some((before, (at, counted), waits)) = ended {
            row.switches = counted[0].saturating_sub(before[0]);
            row.faults = counted[1].saturating_sub(before[1]);
            (row.at, row.waits, is_known) = (at, waits, true);
        }
        is_known.then_some(row)
    }

    /// The threads that were looked at and not taken.
    pub fn left(&self) -> Vec<u32> {
        self.0.keys().copied().collect()
    }
}

fn between(first: &Look, last: &Look, rate: u64) -> Row {
    let ns = |ticks: u64| (u128::from(ticks) * 1_000_000_000 / u128::from(rate.max(1))) as u64;
    let over_ns = ns(last.count.ticks.saturating_sub(first.count.ticks));
    let ran = last.count.ran_ns.saturating_sub(first.count.ran_ns);
    let delayed = last.count.delayed_ns.saturating_sub(first.count.delayed_ns);
    let since = |of: fn(&Waits) -> u64| of(&last.waits).saturating_sub(of(&first.waits));
    Row {
        at: last.count.ticks,
        switches: last.count.switches.saturating_sub(first.count.switches),
        faults: 0,
        waits: Waits {
            slept: since(|w| w.slept),
            longer: since(|w| w.longer),
            longer_ticks: since(|w| w.longer_ticks),
            waited_ticks: since(|w| w.waited_ticks),
        },
        over_ns,
        blocked_ns: over_ns.saturating_sub(ran).saturating_sub(delayed),
        waited_ns: ns(since(|w| w.waited_ticks)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One tick a nanosecond.
    const RATE: u64 = 1_000_000_000;

    fn account() -> Account {
        // All zero is its initial state, as in a fresh mapping.
        Account::default()
    }

    fn count(ticks: u64, ran_ns: u64, delayed_ns: u64, switches: u64) -> Count {
        Count { ticks, ran_ns, delayed_ns, switches }
    }

    #[test]
    fn a_thread_that_began_here_is_known_from_its_beginning() {
        let (mut looks, a) = (Looks::default(), account());
        a.begin([3, 1]);
        a.wait(true, 600);
        // Born at 1,000, looked at after 2,000: 300 on a CPU, 100 without one, and so 1,600
        // blocked; 600 in a wait that is over and 700 in one that is not.
        looks.add(7, count(3_000, 300, 100, 9), Some(&a), Some(1_000), 700);
        a.wait(false, 50);
        a.end(4_000, [12, 3]);
        let row = looks.take(7, Some(&a), RATE).unwrap();
        assert_eq!((row.over_ns, row.blocked_ns, row.waited_ns), (2_000, 1_600, 1_300));
        assert_eq!((row.at, row.switches, row.faults), (4_000, 9, 2));
        let waits = Waits { slept: 1, longer: 1, longer_ticks: 50, waited_ticks: 650 };
        assert_eq!(row.waits, waits);
        assert_eq!(looks.take(7, None, RATE), None, "nothing is kept of it");
    }

    #[test]
    fn of_another_the_time_between_two_looks_is_known() {
        let (mut looks, a) = (Looks::default(), account());
        a.wait(true, 10_000);
        looks.add(1, count(50_000, 40_000, 0, 100), Some(&a), None, 5_000);
        assert_eq!(looks.left(), [1]);
        a.wait(true, 8_000);
        looks.add(1, count(60_000, 41_000, 500, 104), Some(&a), None, 0);
        let row = looks.take(1, Some(&a), RATE).unwrap();
        assert_eq!((row.over_ns, row.blocked_ns), (10_000, 8_500));
        assert_eq!(row.waited_ns, 3_000, "5,000 of its 8,000 were before the first look");
        assert_eq!((row.at, row.switches, row.waits.slept), (60_000, 4, 1));
        // One look, and nothing that the thread says: nothing is known.
        looks.add(2, count(50_000, 1, 1, 1), None, None, 0);
        assert_eq!(looks.take(2, None, RATE), None);
    }

    #[test]
    fn a_thread_that_was_never_looked_at_knows_its_switches() {
        let a = account();
        a.begin([0, 0]);
        a.wait(true, 10);
        assert_eq!(Looks::default().take(1, Some(&a), RATE), None, "it has not ended");
        a.end(99, [5, 0]);
        let row = Looks::default().take(1, Some(&a), RATE).unwrap();
        assert_eq!((row.at, row.switches, row.waits.slept, row.over_ns), (99, 5, 1, 0));
        a.clear();
        assert_eq!((a.first(), a.last(), a.waits()), (None, None, Waits::default()));
    }
}
