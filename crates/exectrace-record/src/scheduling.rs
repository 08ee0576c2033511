//! What the kernel says of the recorded threads: its records of switches where it gives them, else
//! what it has counted for each thread, asked for now and then.
//!
//! The records are stamped by the monotonic clock; each is put on the trace's clock by the line
//! between the two moments, at most a look apart, at which both clocks were read together.

use std::io;

use trace::kernel::Seen;
use trace::outside::Tie;
use trace::outside::clocks;
use trace_kernel::Options;
use trace_kernel::Record;
use trace_kernel::Watch;
use trace_kernel::What;

/// Where what the kernel says comes from.
#[derive(Debug)]
pub struct Scheduling {
    watch: Option<Watch>,
    tie: Tie,
    taken: Vec<Record>,
    said_lost: u64,
}

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
        Scheduling { watch: None, tie: Tie(now, now), taken: Vec::new(), said_lost: 0 }
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

    /// Gives out what was taken: process, thread, time in ticks, what. In the order of time.
    pub fn each(&mut self, mut each: impl FnMut(u32, u32, u64, Seen)) {
        let tie = self.tie;
        for record in self.taken.drain(..) {
            let seen = match record.what {
                What::In => Seen::In(record.cpu),
                What::Out { preempted } => Seen::Out(preempted),
                What::Sample { frames } => Seen::Sample(record.cpu, frames),
                What::Exit => Seen::Exit,
            };
            each(record.pid, record.tid, tie.ticks(record.mono_ns), seen);
        }
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

/// Whether the kernel's records of switches can be had here.
///
/// # Errors
///
/// Why not, in words.
pub fn can_watch() -> Result<(), String> {
    let options = Options::default();
    Watch::open(&options).map(drop).map_err(|e| trace_kernel::refusal(&e))
}
