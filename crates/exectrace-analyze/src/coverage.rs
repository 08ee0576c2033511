//! How much of the waiting of threads is in a trace: the kernel's counts beside those of the
//! recorded waits.
//!
//! Two estimates and an exact figure. By time: the kernel says how long a thread was blocked, the
//! trace how much of that lay in recorded waits. By switches: the kernel says how often a thread
//! asked for one, the trace how many waits slept. A wait for a lock is one switch; a call on a file
//! may be any number of them, though no more than there is room for in its time, or none. So this
//! estimate has two ends: the least and the most that the recorded waits explain. Where every
//! switch is in the trace, each either lies in a recorded wait or not.
//!
//! 1. Nothing counts as unexplained that recorded waits might explain.
//! 2. What was blocked in one thread's waits explains nothing of another's.

use trace_decode::tables;

use crate::sched::Cpu;

/// Below this share, in percent, what is not in the trace may be what mattered.
pub const GOOD_PERCENT: u64 = 90;
/// What the estimate by time leaves to each thread: clocks and counts are read one after the other,
/// and threads wait for pages and for locks of the kernel's.
pub const TOLERANCE_NS: u64 = 5_000_000;
/// Of a shorter time nothing is said.
const OVER_MIN_NS: u64 = 20_000_000;
/// A thread cannot sleep more often than once in so long.
const SWITCH_NS: u64 = trace::block::SLEPT_NS;
/// So many switches more than waits are of no account: threads meet at locks of the kernel's as
/// they begin, end, and get memory.
const SWITCHES_FREE: u64 = 64;
/// What is not explained is of no account below this part of the time.
const PART_FREE: u64 = 100;

/// A share of a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// The part.
    pub part: u64,
    /// The whole.
    pub whole: u64,
}

impl Share {
    /// Whether it is below [`GOOD_PERCENT`].
    pub fn is_low(self) -> bool {
        u128::from(self.part) * 100 < u128::from(self.whole) * u128::from(GOOD_PERCENT)
    }

    /// What is missing from the whole.
    pub fn rest(self) -> u64 {
        self.whole.saturating_sub(self.part)
    }
}

/// What recorded waits explain of what the kernel counted, of a thread or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Switches that threads asked for.
    pub switches: u64,
    /// Recorded waits that slept once each.
    pub slept: u64,
    /// Other recorded calls that took as long as a sleep.
    pub longer: u64,
    /// The least that these explain of the switches.
    pub least: u64,
    /// The most that they may explain, with the pages that threads waited for.
    pub most: u64,
    /// The time of which the rest is known.
    pub over_ns: u64,
    /// How long threads were blocked.
    pub blocked_ns: u64,
    /// How much of that recorded waits explain.
    pub waited_ns: u64,
    /// Of `switches` and of `most` those of threads whose time is not known.
    pub untimed: Share,
    /// The tolerance of the times.
    pub tolerance_ns: u64,
}

impl Estimate {
    /// Of one thread.
    pub fn of(c: &tables::Coverage) -> Estimate {
        let often = match c.longer {
            0 => 0,
            n => n.max(c.longer_ns / SWITCH_NS),
        };
        let most = c.slept.saturating_add(often).saturating_add(c.faults).min(c.switches);
        let is_timed = c.over_ns >= OVER_MIN_NS;
        let known = |ns: u64| if is_timed { ns } else { 0 };
        let untimed = Share { part: most, whole: c.switches };
        Estimate {
            switches: c.switches,
            slept: c.slept,
            longer: c.longer,
            least: c.slept.min(c.switches),
            most,
            over_ns: known(c.over_ns),
            blocked_ns: known(c.blocked_ns),
            waited_ns: known(c.waited_ns.min(c.blocked_ns)),
            untimed: if is_timed { Share::default() } else { untimed },
            tolerance_ns: known(TOLERANCE_NS),
        }
    }

    /// Adds another thread's.
    pub fn add(&mut self, o: &Estimate) {
        for (sum, part) in [
            (&mut self.switches, o.switches),
            (&mut self.slept, o.slept),
            (&mut self.longer, o.longer),
            (&mut self.least, o.least),
            (&mut self.most, o.most),
            (&mut self.over_ns, o.over_ns),
            (&mut self.blocked_ns, o.blocked_ns),
            (&mut self.waited_ns, o.waited_ns),
            (&mut self.untimed.part, o.untimed.part),
            (&mut self.untimed.whole, o.untimed.whole),
            (&mut self.tolerance_ns, o.tolerance_ns),
        ] {
            *sum = sum.saturating_add(part);
        }
    }

    /// Of the time that threads were blocked, at most; `None` where no time is known.
    pub fn by_time(&self) -> Option<Share> {
        let share = Share { part: self.waited_ns, whole: self.blocked_ns };
        (self.over_ns > 0).then_some(share)
    }

    /// The least and the most of the switches that threads asked for; `None` where there were none.
    pub fn by_switches(&self) -> Option<[Share; 2]> {
        let share = |part| Share { part, whole: self.switches };
        (self.switches > 0).then(|| [share(self.least), share(self.most)])
    }

    /// The share that counts: of the time where that is known, else of the switches.
    pub fn share(&self) -> Option<Share> {
        let of_switches = || self.by_switches().map(|[_, most]| most);
        self.by_time().filter(|s| s.whole > 0).or_else(of_switches)
    }

    /// Whether waits that are not in the trace may be what mattered: too little is explained, and
    /// what is not is no trifle.
    pub fn is_poor(&self) -> bool {
        let of_time = self.by_time().is_some_and(|time| {
            let free = self.tolerance_ns.max(self.over_ns / PART_FREE);
            time.is_low() && time.rest() > free
        });
        of_time || (self.untimed.is_low() && self.untimed.rest() > SWITCHES_FREE)
    }
}

/// Of the time that a thread was blocked, by its switches.
pub fn exact(cpu: &Cpu) -> Share {
    Share { part: cpu.blocked_ns, whole: cpu.off_ns() }
}

/// Whether too little of it is explained, and the rest is no trifle.
pub fn is_poor(cpu: &Cpu) -> bool {
    let share = exact(cpu);
    let lived = cpu.running_ns.saturating_add(cpu.waiting_ns()).saturating_add(cpu.off_ns());
    share.is_low() && share.rest() > lived / PART_FREE
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn timed(over_ms: u64, blocked_ms: u64, waited_ms: u64) -> Estimate {
        Estimate::of(&tables::Coverage {
            over_ns: over_ms * MS,
            blocked_ns: blocked_ms * MS,
            waited_ns: waited_ms * MS,
            ..tables::Coverage::default()
        })
    }

    fn switched(switches: u64, slept: u64, longer: u64, longer_ns: u64) -> Estimate {
        let all = tables::Coverage { switches, slept, longer, longer_ns, ..Default::default() };
        Estimate::of(&all)
    }

    #[test]
    fn time_that_no_wait_explains_is_found_and_trifles_are_not() {
        assert!(!timed(1_000, 900, 890).is_poor());
        assert!(timed(1_000, 900, 100).is_poor());
        // It ran nearly all the time: 9 ms of a second are no matter, 15 are.
        assert!(!timed(1_000, 9, 0).is_poor());
        assert!(timed(1_000, 15, 0).is_poor());
        // More time in waits than blocked: it ran in them.
        let e = timed(100, 50, 80);
        assert_eq!(e.by_time(), Some(Share { part: 50 * MS, whole: 50 * MS }));
        // What one thread waited more does not make up for another.
        let mut both = timed(1_000, 500, 1_000);
        both.add(&timed(1_000, 500, 0));
        assert_eq!(both.by_time(), Some(Share { part: 500 * MS, whole: 1_000 * MS }));
        assert!(both.is_poor());
        // So short a look says nothing.
        assert_eq!((timed(15, 10, 0).by_time(), timed(15, 10, 0).is_poor()), (None, false));
    }

    #[test]
    fn calls_on_files_may_be_many_switches_and_no_more_than_fit_their_time() {
        let at = |e: &Estimate| e.by_switches().map(|[least, most]| (least.part, most.part));
        // Ten syncs of 10 ms: 2,000 switches each, if need be.
        let e = switched(5_000, 0, 10, 100 * MS);
        assert_eq!((at(&e), e.is_poor()), (Some((0, 5_000)), false));
        // One of 100 us: twenty.
        let e = switched(5_000, 0, 1, MS / 10);
        assert_eq!((at(&e), e.is_poor()), (Some((0, 20)), true));
        // More waits than switches: some did not sleep.
        assert_eq!(at(&switched(100, 150, 0, 0)), Some((100, 100)));
        // Some at the beginning and the end of a thread.
        assert!(!switched(60, 0, 0, 0).is_poor());
        assert!(switched(6_000, 5_000, 0, 0).is_poor());
        assert!(!switched(6_000, 5_500, 0, 0).is_poor());
        assert_eq!(switched(0, 5, 0, 0).by_switches(), None);
        // Pages that it waited for are known.
        let faults = tables::Coverage { switches: 500, faults: 490, ..Default::default() };
        assert!(!Estimate::of(&faults).is_poor());
    }

    #[test]
    fn the_share_that_counts_is_that_of_time_where_it_is_known() {
        let mut e = timed(1_000, 400, 300);
        assert_eq!(e.share(), Some(Share { part: 300 * MS, whole: 400 * MS }));
        e.add(&switched(1_000, 10, 0, 0));
        assert_eq!(e.share().unwrap().part, 300 * MS);
        assert_eq!(switched(1_000, 10, 0, 0).share(), Some(Share { part: 10, whole: 1_000 }));
        // Switches of threads whose time is known do not count against it.
        let mut known = tables::Coverage { switches: 9_000, ..Default::default() };
        (known.over_ns, known.blocked_ns, known.waited_ns) = (1_000 * MS, 100 * MS, 99 * MS);
        assert!(!Estimate::of(&known).is_poor());
        assert_eq!(Estimate::default().share(), None);
    }

    #[test]
    fn the_exact_share_is_of_blocked_time() {
        let cpu = |running, blocked, unknown| Cpu {
            running_ns: running,
            blocked_ns: blocked,
            unknown_ns: unknown,
            ..Cpu::default()
        };
        assert_eq!(exact(&cpu(9, 80, 20)), Share { part: 80, whole: 100 });
        assert!(is_poor(&cpu(9, 80, 20)) && !is_poor(&cpu(9, 95, 5)));
        assert!(!is_poor(&cpu(100_000, 0, 20)), "a trifle");
    }
}
