//! A thread's account of its waits, and what the kernel had counted for it at its beginning and at
//! its end: held against each other they say how much of its waiting is in the trace.
//!
//! 1. Only the owning thread writes. A handler of its own may do so in the middle of an addition,
//!    of which one is then lost: these are estimates.

use crate::sync::AtomicU64;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;
use crate::sync::Ordering::Release;

/// The account, in the thread's record. All zero is the initial state.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Account {
    slept: AtomicU64,
    longer: AtomicU64,
    longer_ticks: AtomicU64,
    waited_ticks: AtomicU64,
    /// The kernel's counts at the thread's beginning, each + 1; 0: not known.
    first: [AtomicU64; 2],
    /// Its counts at the thread's end.
    last: [AtomicU64; 2],
    /// When they were read; 0: not yet.
    ended: AtomicU64,
}

/// What the kernel has counted: switches that a thread asked for, and pages that it waited for.
pub type Kernel = [u64; 2];

/// What an account says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Waits that slept, once each.
    pub slept: u64,
    /// Other calls that took as long as a sleep does, and may have slept any number of times.
    pub longer: u64,
    /// The ticks that these took.
    pub longer_ticks: u64,
    /// The ticks that all of them took.
    pub waited_ticks: u64,
}

fn add(to: &AtomicU64, n: u64) {
    to.store(to.load(Relaxed).wrapping_add(n), Relaxed);
}

impl Account {
    /// A wait is over that took so many ticks. `once`: it slept, and nearly always that is one
    /// switch.
    #[inline]
    pub fn wait(&self, once: bool, ticks: u64) {
        if once {
            add(&self.slept, 1);
        } else {
            add(&self.longer, 1);
            add(&self.longer_ticks, ticks);
        }
        add(&self.waited_ticks, ticks);
    }

    /// Whether it is known what the kernel had counted before.
    pub fn has_begun(&self) -> bool {
        self.first[0].load(Relaxed) != 0
    }

    /// The kernel has counted this before the thread's waits were.
    pub fn begin(&self, counted: Kernel) {
        for (to, n) in self.first.iter().zip(counted) {
            to.store(n.wrapping_add(1), Relaxed);
        }
    }

    /// The kernel has counted this until now, shortly before the thread's end.
    pub fn end(&self, at: u64, counted: Kernel) {
        for (to, n) in self.last.iter().zip(counted) {
            to.store(n, Relaxed);
        }
        // Release: pairs with the Acquire in `last`.
        self.ended.store(at, Release);
    }

    /// The waits so far.
    pub fn waits(&self) -> Waits {
        Waits {
            slept: self.slept.load(Relaxed),
            longer: self.longer.load(Relaxed),
            longer_ticks: self.longer_ticks.load(Relaxed),
            waited_ticks: self.waited_ticks.load(Relaxed),
        }
    }

    /// What the kernel had counted before, where that is known.
    pub fn first(&self) -> Option<Kernel> {
        let [switches, faults] = [0, 1].map(|i| self.first[i].load(Relaxed));
        Some([switches.checked_sub(1)?, faults.checked_sub(1)?])
    }

    /// What the kernel had counted at the thread's end, and when that was.
    pub fn last(&self) -> Option<(u64, Kernel)> {
        // Acquire: pairs with the Release in `end`.
        let at = self.ended.load(Acquire);
        (at != 0).then(|| (at, [0, 1].map(|i| self.last[i].load(Relaxed))))
    }

    /// Begins anew.
    pub fn clear(&self) {
        let counts = [&self.slept, &self.longer, &self.longer_ticks, &self.waited_ticks];
        let all = counts.into_iter().chain(&self.first).chain(&self.last).chain([&self.ended]);
        all.for_each(|n| n.store(0, Relaxed));
    }
}
