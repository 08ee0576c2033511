//! What the kernel says of the recorded threads: its records of switches where it gives them, else
//! what it has counted for each thread, asked for now and then.
//!
//! The records are stamped by the monotonic clock; each is put on the trace's clock by the line
//! between the two moments, at most a look apart, at which both clocks were read together.

use std::fs;
use std::io;

use trace::outside::Tie;
use trace::outside::clocks;
use trace_kernel::Options;
use trace_kernel::Record;
use trace_kernel::Watch;

/// Where what the kernel says comes from.
#[derive(Debug)]
pub struct Scheduling {
    watch: Option<Watch>,
    tie: Tie,
    taken: Vec<Record>,
    said_lost: u64,
    counts: u32,
    count_at_ns: u64,
}

/// What the kernel has counted for a thread: its number, nanoseconds on a CPU, nanoseconds without
/// one though it could run, and how often it got one.
pub type Count = (u32, [u64; 3]);

/// How often counts are asked for: a few times soon, since many programs end soon, then now and
/// then. Some twenty microseconds for each thread.
const COUNT_NS: u64 = 1_000_000_000;
const COUNT_FIRST_NS: u64 = 30_000_000;

impl Scheduling {
    /// Watches whatever the calling thread starts from here on.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn watch(options: &Options) -> io::Result<Scheduling> {
        let watch = Watch::open(options)?;
        Ok(Scheduling { watch: Some(watch), ..Scheduling::none() })
    }

    /// Watches nothing.
    pub fn none() -> Scheduling {
        let now = clocks();
        Scheduling {
            watch: None,
            tie: Tie(now, now),
            taken: Vec::new(),
            said_lost: 0,
            counts: 0,
            count_at_ns: 0,
        }
    }

    /// Takes what was seen until now.
    pub fn take(&mut self) {
        let now = clocks();
        self.tie = Tie(self.tie.1, now);
        if let Some(watch) = &mut self.watch {
            let taken = &mut self.taken;
            watch.read(now.1, |record| taken.push(record));
        }
    }

    /// Gives out what was taken, with its time in ticks. In the order of time.
    pub fn each(&mut self, mut each: impl FnMut(u64, Record)) {
        let tie = self.tie;
        self.taken.drain(..).for_each(|record| each(tie.ticks(record.mono_ns), record));
    }

    /// The time in ticks up to which records were taken.
    pub fn now(&self) -> u64 {
        self.tie.1.0
    }

    /// Whether there are records of switches, which say more than counts.
    pub fn has_records(&self) -> bool {
        self.watch.is_some()
    }

    /// Whether it is time to ask for counts.
    pub fn is_count_due(&mut self) -> bool {
        let Tie(_, (_, now_ns)) = self.tie;
        if now_ns < self.count_at_ns {
            return false;
        }
        let wait = COUNT_FIRST_NS.checked_shl(self.counts).unwrap_or(COUNT_NS).min(COUNT_NS);
        self.count_at_ns = now_ns.saturating_add(wait);
        self.counts = self.counts.saturating_add(1).min(32);
        true
    }

    /// The time in ticks up to which everything was taken.
    pub fn until(&self) -> u64 {
        match self.watch {
            Some(_) => self.tie.1.0,
            None => u64::MAX,
        }
    }

    /// How many records were lost since this was last asked.
    pub fn take_lost(&mut self) -> u64 {
        let lost = self.watch.as_ref().map_or(0, Watch::lost);
        lost - std::mem::replace(&mut self.said_lost, lost)
    }

    /// Records that may be missing at the end, of which the kernel tells nothing.
    pub fn full(&self) -> u64 {
        self.watch.as_ref().map_or(0, Watch::full)
    }
}

/// What the kernel has counted for each thread of a process; nothing where that cannot be read.
pub fn counts(pid: u32) -> Vec<Count> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let count = |thread: fs::DirEntry| {
        let tid = thread.file_name().to_str()?.parse().ok()?;
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        Some((tid, three(&text)?))
    };
    threads.flatten().filter_map(count).collect()
}

/// The same with the switches that the thread asked for, at a moment at which it slept: what the
/// kernel has counted is up to date then, and not before a running thread's next switch. `None`
/// where it did not sleep.
pub fn counted(pid: u32, tid: u32) -> Option<(u32, trace::coverage::Count)> {
    let folder = format!("/proc/{pid}/task/{tid}");
    let read = |name: &str| fs::read_to_string(format!("{folder}/{name}")).ok();
    let before = read("schedstat")?;
    let ticks = trace::clock::Clock::get().now().0;
    let switches = asked_asleep(&read("status")?)?;
    // It has not run meanwhile: it slept from the first look to the second.
    let [ran_ns, delayed_ns, _] = three(&read("schedstat").filter(|now| *now == before)?)?;
    Some((tid, trace::coverage::Count { ticks, ran_ns, delayed_ns, switches }))
}

/// The switches that a thread asked for, in the text of its status, where it says that it sleeps.
fn asked_asleep(status: &str) -> Option<u64> {
    let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let state = value("State:")?.trim_start();
    let asked = || value("voluntary_ctxt_switches:")?.trim().parse().ok();
    state.starts_with(['S', 'D']).then(asked)?
}

fn three(text: &str) -> Option<[u64; 3]> {
    let mut numbers = text.split_whitespace().map(|n| n.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

/// Whether the kernel's records of switches can be had here: asks for them for a moment.
///
/// # Errors
///
/// Why not, in words.
pub fn can_watch() -> Result<(), String> {
    let options = Options::default();
    Watch::open(&options).map(drop).map_err(|e| trace_kernel::refusal(&e))
}

/// The same without asking for any, which makes the switches of all threads dearer for a second, so
/// that a lock's hand-over takes 5 % longer. Whether there is memory for them stays open.
///
/// # Errors
///
/// Why not, in words.
pub fn may_watch() -> Result<(), String> {
    trace_kernel::is_allowed().map_err(|e| trace_kernel::refusal(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_this_process_are_there_and_rise() {
        assert_eq!(three("12 34 5\n"), Some([12, 34, 5]));
        assert_eq!((three("12 34"), three("12 x 5")), (None, None));
        let status = |state: &str| {
            let counts = "nonvoluntary_ctxt_switches:\t5\nvoluntary_ctxt_switches:\t7\n";
            asked_asleep(&format!("Name:\tx\nState:\t{state}\n{counts}"))
        };
        let states = ["S (sleeping)", "D (disk sleep)", "R (running)", "t (tracing stop)"];
        assert_eq!(states.map(status), [Some(7), Some(7), None, None]);
        assert_eq!(asked_asleep(""), None);
        let pid = std::process::id();
        let before = counts(pid);
        if before.is_empty() {
            return println!("skipped: this kernel does not count");
        }
        let sum = |counts: &[Count]| counts.iter().map(|(_, c)| c[0]).sum::<u64>();
        // This thread runs until its time is seen.
        while sum(&counts(pid)) <= sum(&before) {
            std::hint::spin_loop();
        }
        assert!(counts(u32::MAX).is_empty());
    }

    #[test]
    fn counts_are_asked_for_soon_and_then_seldom() {
        let mut s = Scheduling::none();
        let mut asked = Vec::new();
        for ms in 0..10_000u64 {
            s.tie = Tie((0, 0), (0, ms * 1_000_000));
            if s.is_count_due() {
                asked.push(ms);
            }
        }
        assert_eq!(asked[..6], [0, 30, 90, 210, 450, 930]);
        assert_eq!(asked[6..], [1890, 2890, 3890, 4890, 5890, 6890, 7890, 8890, 9890]);
    }
}
