//! Where threads had a CPU and where not, by the kernel's records of switches.
//!
//! A thread without a CPU either could go on and waits for one (it was preempted, or a wake has
//! come and it has not run since), or is blocked. What it was blocked in is known where that
//! stretch lies within a wait that was recorded; else it is blocked for an unknown cause: a page
//! that was read from disk, a lock of the kernel's, or a call that got around the hooks.
//!
//! Waits are told of at their ends, and given out later still ([`Waits`](crate::Waits)): so
//! stretches are held until the thread's next wait is known, or there is none any more.
//!
//! 1. Each moment of a thread's life counts once: running, preempted, woken, blocked, unknown; what
//!    lies between two records that do not fit each other (some were lost) is unseen.
//! 2. When a thread was woken is known by the wake that was recorded: its call began then. Without
//!    one the whole stretch counts as blocked.
//! 3. Memory is bounded: so many stretches of a thread are held ([`HELD_MAX`]); the oldest ones
//!    beyond count as unknown.

use std::collections::HashMap;
use std::collections::VecDeque;

use trace::encode::wire::LANE_KERNEL;
use trace_decode::Event;
use trace_decode::Timed;

use crate::waits::Wait;

/// Most stretches without a CPU that are held of one thread.
pub const HELD_MAX: usize = 1 << 16;
/// How far the times of switches and those of waits may disagree: they come from two clocks that
/// were tied together.
const TOLERANCE_NS: u64 = 1_000;

/// How a thread's life was divided, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// It had a CPU.
    pub running_ns: u64,
    /// It could have gone on, and another one had the CPU.
    pub preempted_ns: u64,
    /// It was woken, and had no CPU yet.
    pub woken_ns: u64,
    /// It was blocked in a recorded wait.
    pub blocked_ns: u64,
    /// It was blocked, and no recorded wait says in what.
    pub unknown_ns: u64,
    /// The records do not tell.
    pub unseen_ns: u64,
    /// How often it lost its CPU by waiting for something.
    pub asked: u64,
    /// How many of those were within a recorded wait.
    pub explained: u64,
    /// How often it was preempted.
    pub preempted: u64,
    /// How often it went on at another CPU.
    pub migrations: u64,
}

impl Cpu {
    /// It could run and had no CPU.
    pub fn waiting_ns(&self) -> u64 {
        self.preempted_ns.saturating_add(self.woken_ns)
    }

    /// It was blocked, whatever for.
    pub fn off_ns(&self) -> u64 {
        self.blocked_ns.saturating_add(self.unknown_ns)
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: &Cpu) {
        let pairs = [
            (&mut self.running_ns, other.running_ns),
            (&mut self.preempted_ns, other.preempted_ns),
            (&mut self.woken_ns, other.woken_ns),
            (&mut self.blocked_ns, other.blocked_ns),
            (&mut self.unknown_ns, other.unknown_ns),
            (&mut self.unseen_ns, other.unseen_ns),
            (&mut self.asked, other.asked),
            (&mut self.explained, other.explained),
            (&mut self.preempted, other.preempted),
            (&mut self.migrations, other.migrations),
        ];
        for (sum, part) in pairs {
            *sum = sum.saturating_add(part);
        }
    }
}

/// What of a wait was spent without a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Blocked.
    pub blocked_ns: u64,
    /// Woken, and without a CPU yet.
    pub woken_ns: u64,
    /// How often the thread lost its CPU in the wait by waiting for something.
    pub switches: u64,
}

/// What the kernel has counted, where it gives no records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Time on a CPU since the thread began.
    pub ran_ns: u64,
    /// Time in which it could run and had no CPU.
    pub waited_ns: u64,
    /// When that was read.
    pub at_ns: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    On { since_ns: u64 },
    Off { since_ns: u64, preempted: bool },
}

/// A stretch without a CPU, by the thread's own wish.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    from_ns: u64,
    to_ns: u64,
}

#[derive(Debug, Default)]
struct Track {
    cpu: Cpu,
    counted: Option<Counted>,
    state: Option<State>,
    on: Option<u64>,
    held: VecDeque<Stretch>,
    /// It has met the recorder; else its last switch is the last that is known of it.
    is_met: bool,
    ended_ns: Option<u64>,
}

/// Divides the lives of threads. Feed it every event of a session in the order of time, every wait
/// as it is given out, and the end.
#[derive(Debug, Default)]
pub struct Sched {
    threads: HashMap<u32, Track>,
}

impl Sched {
    /// Nothing seen yet.
    pub fn new() -> Sched {
        Sched::default()
    }

    /// Takes an event in.
    pub fn event(&mut self, e: &Timed<'_>) {
        let at = e.ts_ns;
        let track = self.threads.entry(e.thread).or_default();
        if e.lane != LANE_KERNEL {
            track.is_met = true;
            if let Event::ThreadEnd(_) = e.event() {
                track.ended_ns = Some(at);
            }
            return;
        }
        match e.event() {
            Event::SwitchIn(s) => track.gets_cpu(at, s.cpu),
            Event::SwitchOut(s) => track.loses_cpu(at, s.preempted != 0),
            Event::RunDelay(d) => {
                track.counted = Some(Counted { ran_ns: d.ran, waited_ns: d.waited, at_ns: at });
            }
            _ => {}
        }
    }

    /// Takes a wait in, in the order in which they are given out; says what of it the thread spent
    /// without a CPU. `None` where its switches are not in the trace.
    pub fn wait(&mut self, wait: &Wait) -> Option<Part> {
        let track = self.threads.get_mut(&wait.thread)?;
        track.state?;
        let woken = wait.released_by.map(|by| by.began_ns);
        Some(track.wait(wait.began_ns, wait.ended_ns, woken))
    }

    /// The session has ended at this time. Waits may still come.
    pub fn end(&mut self, end_ns: u64) {
        for track in self.threads.values_mut() {
            let end_ns = track.ended_ns.unwrap_or(end_ns);
            match track.state {
                Some(State::On { since_ns }) if track.is_met => {
                    track.cpu.running_ns += end_ns.saturating_sub(since_ns);
                }
                Some(State::Off { since_ns, preempted: true }) => {
                    track.cpu.preempted_ns += end_ns.saturating_sub(since_ns);
                }
                Some(State::Off { since_ns, preempted: false }) => {
                    track.hold(since_ns, end_ns.max(since_ns));
                }
                _ => {}
            }
        }
    }

    /// All waits have come: what they do not explain is unknown.
    pub fn settle(&mut self) {
        self.threads.values_mut().for_each(|track| track.unknown_before(u64::MAX));
    }

    /// How a thread's life was divided; `None` where its switches are not in the trace.
    pub fn cpu(&self, thread: u32) -> Option<&Cpu> {
        self.threads.get(&thread).filter(|t| t.state.is_some()).map(|t| &t.cpu)
    }

    /// The threads whose switches are in the trace.
    pub fn threads(&self) -> impl Iterator<Item = (u32, &Cpu)> {
        let known = self.threads.iter().filter(|(_, t)| t.state.is_some());
        known.map(|(thread, t)| (*thread, &t.cpu))
    }

    /// What the kernel has counted for a thread, where it gave no records.
    pub fn counted(&self, thread: u32) -> Option<Counted> {
        self.threads.get(&thread).and_then(|t| t.counted)
    }

    /// Whether a thread never met the recorder: what it waited for could not be seen.
    pub fn is_unmet(&self, thread: u32) -> bool {
        self.threads.get(&thread).is_some_and(|t| !t.is_met)
    }

    /// All threads together; `None` where no switches are in the trace.
    pub fn all(&self) -> Option<Cpu> {
        let mut sum: Option<Cpu> = None;
        for track in self.threads.values().filter(|t| t.state.is_some()) {
            sum.get_or_insert_default().add(&track.cpu);
        }
        sum
    }
}

impl Track {
    fn gets_cpu(&mut self, at: u64, cpu: u64) {
        match self.state.replace(State::On { since_ns: at }) {
            Some(State::Off { since_ns, preempted: true }) => {
                self.cpu.preempted_ns += at.saturating_sub(since_ns);
            }
            Some(State::Off { since_ns, preempted: false }) => self.hold(since_ns, at),
            // It lost the CPU meanwhile, and the record of that was lost.
            Some(State::On { since_ns }) => self.cpu.unseen_ns += at.saturating_sub(since_ns),
            None => {}
        }
        self.cpu.migrations += u64::from(self.on.replace(cpu).is_some_and(|before| before != cpu));
    }

    fn loses_cpu(&mut self, at: u64, preempted: bool) {
        match self.state.replace(State::Off { since_ns: at, preempted }) {
            Some(State::On { since_ns }) => self.cpu.running_ns += at.saturating_sub(since_ns),
            Some(State::Off { since_ns, .. }) => {
                self.cpu.unseen_ns += at.saturating_sub(since_ns);
            }
            // It had the CPU as the recording began: a thread that begins later gets it first.
            None => self.cpu.running_ns += at,
        }
        self.cpu.preempted += u64::from(preempted);
        self.cpu.asked += u64::from(!preempted);
    }

    fn hold(&mut self, from_ns: u64, to_ns: u64) {
        if self.held.len() >= HELD_MAX
            && let Some(oldest) = self.held.pop_front()
        {
            self.cpu.unknown_ns += oldest.to_ns.saturating_sub(oldest.from_ns);
        }
        self.held.push_back(Stretch { from_ns, to_ns });
    }

    /// No wait that has not come yet began before this.
    fn unknown_before(&mut self, at: u64) {
        while let Some(stretch) = self.held.front().copied().filter(|s| s.from_ns < at) {
            self.cpu.unknown_ns += stretch.to_ns.saturating_sub(stretch.from_ns);
            self.held.pop_front();
        }
    }

    fn wait(&mut self, began: u64, ended: u64, woken: Option<u64>) -> Part {
        self.unknown_before(began.saturating_sub(TOLERANCE_NS));
        let mut part = Part::default();
        let until = ended.saturating_add(TOLERANCE_NS);
        while let Some(s) = self.held.front().copied().filter(|s| s.from_ns <= until) {
            self.held.pop_front();
            let whole = s.to_ns.saturating_sub(s.from_ns);
            // Only the stretch in which the wake came ended by it.
            let woken = woken.filter(|w| *w > s.from_ns && *w <= s.to_ns);
            let ready = woken.map_or(0, |w| s.to_ns - w);
            part.woken_ns += ready;
            part.blocked_ns += whole - ready;
            part.switches += 1;
        }
        self.cpu.woken_ns += part.woken_ns;
        self.cpu.blocked_ns += part.blocked_ns;
        self.cpu.explained += part.switches;
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1_000;

    /// A thread's life: it ran, waited for a lock until it was woken, waited for a CPU, ran, was
    /// preempted, ran on at another CPU, was blocked by nobody knows what, and ended.
    fn life() -> Track {
        let mut t = Track { is_met: true, ..Track::default() };
        t.gets_cpu(100 * US, 0);
        t.loses_cpu(110 * US, false);
        t.gets_cpu(150 * US, 0);
        t.loses_cpu(160 * US, true);
        t.gets_cpu(163 * US, 1);
        t.loses_cpu(170 * US, false);
        t.gets_cpu(190 * US, 1);
        t
    }

    #[test]
    fn a_life_is_divided_as_it_was_lived() {
        let mut t = life();
        let part = t.wait(109 * US, 151 * US, Some(140 * US));
        assert_eq!(part, Part { blocked_ns: 30 * US, woken_ns: 10 * US, switches: 1 });
        let mut sched = Sched::new();
        sched.threads.insert(1, t);
        sched.end(200 * US);
        sched.settle();
        let expected = Cpu {
            running_ns: (10 + 10 + 7 + 10) * US,
            preempted_ns: 3 * US,
            woken_ns: 10 * US,
            blocked_ns: 30 * US,
            unknown_ns: 20 * US,
            unseen_ns: 0,
            asked: 2,
            explained: 1,
            preempted: 1,
            migrations: 1,
        };
        let cpu = *sched.cpu(1).unwrap();
        assert_eq!(cpu, expected);
        assert_eq!(cpu.running_ns + cpu.waiting_ns() + cpu.off_ns(), 100 * US);
        assert_eq!(sched.all(), Some(expected));
        assert_eq!((sched.cpu(2), sched.counted(1)), (None, None));
    }

    #[test]
    fn a_wake_counts_for_the_stretch_in_which_it_came() {
        for (woken, ready) in [(None, 0), (Some(100), 0), (Some(111 * US), 39 * US)] {
            let mut t = life();
            let part = t.wait(109 * US, 151 * US, woken);
            assert_eq!((part.woken_ns, part.blocked_ns), (ready, 40 * US - ready), "{woken:?}");
        }
        // A waker that was slow to return does not make it wait for less than nothing.
        assert_eq!(life().wait(109 * US, 151 * US, Some(150 * US + 1)).woken_ns, 0);
        // The whole life as one wait: two stretches, one of them after the wake.
        let part = life().wait(100 * US, 195 * US, Some(140 * US));
        assert_eq!(part, Part { blocked_ns: 50 * US, woken_ns: 10 * US, switches: 2 });
    }

    #[test]
    fn what_does_not_fit_is_unseen_and_what_had_begun_had_the_cpu() {
        let mut t = Track::default();
        t.loses_cpu(5 * US, false);
        t.loses_cpu(9 * US, true);
        t.gets_cpu(10 * US, 0);
        t.gets_cpu(14 * US, 0);
        assert_eq!((t.cpu.running_ns, t.cpu.preempted_ns), (5 * US, US));
        assert_eq!(t.cpu.unseen_ns, 8 * US);
    }

    #[test]
    fn stretches_that_no_wait_explains_are_not_held_for_ever() {
        let mut t = Track::default();
        let count = HELD_MAX as u64 + 10;
        for i in 0..count {
            t.gets_cpu(i * 10, 0);
            t.loses_cpu(i * 10 + 4, false);
        }
        assert!(t.held.len() <= HELD_MAX);
        t.unknown_before(u64::MAX);
        assert_eq!(t.cpu.unknown_ns, 6 * (count - 1));
    }
}
