//! Time and memory of this process.
//!
//! The time of an event is the median of many bursts that are shorter than a time slice, so that
//! what else runs on the machine is not counted. A burst of something known, mostly of bare counter
//! reads, stands between any two of them: the ratio of the medians holds even where the machine
//! changes its speed.

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use crate::Failure;

/// Events of a burst.
pub const BURST: u64 = 1_000;

/// Bursts before anything is counted.
const WARM_UP: u32 = 20;

/// Fewer give no median.
const BURSTS_MIN: usize = 21;

/// The time of one event, and that of what was measured beside it, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct PerEvent {
    /// Of the median burst.
    pub ns: f64,
    /// What the thread spent on all bursts, per event: with buffers that are exchanged, memory that
    /// is touched for the first time, and all else that the median does not see.
    pub cpu_ns: f64,
    /// Of the median burst of the other thing.
    pub beside_ns: f64,
}

/// Nanoseconds for which the calling thread has run, in the program and in the kernel.
pub fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The same of all threads of the process together.
pub fn process_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// The same of the processes that this one has started and waited for.
pub fn children_cpu_ns() -> u64 {
    // SAFETY: all zeroes are a value of this type, which consists of numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the place is valid for the call.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage) };
    let micros = |t: libc::timeval| t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64;
    (micros(usage.ru_utime) + micros(usage.ru_stime)) * 1_000
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists for every thread, and the place is valid for the call.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The machine's counter.
#[cfg(target_arch = "x86_64")]
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and no bench runs where it is forbidden.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Stands in where the counter is another: the unit is a read of the clock then.
#[cfg(not(target_arch = "x86_64"))]
fn counter() -> Instant {
    Instant::now()
}

/// Bare reads of the counter: the unit.
#[inline(never)]
pub fn reads(n: u64) {
    for _ in 0..n {
        black_box(counter());
    }
}

/// Rounds of the other work, each waiting for the one before.
const WORK_ROUNDS: u32 = 16;

/// Some tens of nanoseconds of a program's own work: random numbers, each made from the last.
#[inline(never)]
pub fn work(mut x: u64) -> u64 {
    for _ in 0..WORK_ROUNDS {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    black_box(x)
}

/// A loop that does nothing, for what a peer costs while it is off.
#[inline(never)]
pub fn empty(n: u64) {
    for i in 0..n {
        black_box(i);
    }
}

/// Nanoseconds of one call of `f` for a burst.
fn burst(f: &dyn Fn(u64)) -> u64 {
    let began = Instant::now();
    f(BURST);
    began.elapsed().as_nanos() as u64
}

fn median(times: &mut [u64]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, |t| *t as f64 / BURST as f64)
}

/// Measures `f` for about so long, in turns with `beside`.
pub fn per_event(millis: u64, f: &dyn Fn(u64), beside: &dyn Fn(u64)) -> PerEvent {
    for _ in 0..WARM_UP {
        burst(f);
        burst(beside);
    }
    let until = Instant::now() + Duration::from_millis(millis);
    let (mut ours, mut others, mut cpu) = (Vec::new(), Vec::new(), 0);
    while ours.len() < BURSTS_MIN || Instant::now() < until {
        let before = thread_cpu_ns();
        ours.push(burst(f));
        cpu += thread_cpu_ns() - before;
        others.push(burst(beside));
    }
    PerEvent {
        ns: median(&mut ours),
        cpu_ns: cpu as f64 / (ours.len() as u64 * BURST) as f64,
        beside_ns: median(&mut others),
    }
}

/// When a file below `dir` was last written, as far as the file system says.
#[allow(dead_code, reason = "for the peer whose files are written by another process")]
pub fn last_write(dir: &Path) -> Result<Instant, Failure> {
    let ago = last_write_ago(dir, SystemTime::now())?.ok_or("no file was written")?;
    Instant::now().checked_sub(ago).ok_or_else(|| "written before the machine was".into())
}

fn last_write_ago(dir: &Path, now: SystemTime) -> Result<Option<Duration>, Failure> {
    let mut least = None;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        let ago = match meta.is_dir() {
            true => last_write_ago(&entry.path(), now)?,
            false => Some(now.duration_since(meta.modified()?).unwrap_or_default()),
        };
        least = least.into_iter().chain(ago).min();
    }
    Ok(least)
}

/// A line of /proc/self/status that counts KiB.
fn status(name: &str) -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|l| l.strip_prefix(name)).ok_or("no such line in status")?;
    let number = line.trim_start_matches(':').split_whitespace().next().ok_or("no number")?;
    Ok(number.parse()?)
}

/// Most memory beyond what was there at the beginning.
pub struct Memory {
    before_kib: u64,
}

impl Memory {
    /// Begins: forgets the high water mark up to now.
    pub fn begin() -> Result<Memory, Failure> {
        std::fs::write("/proc/self/clear_refs", "5")?;
        Ok(Memory { before_kib: status("VmRSS")? })
    }

    /// The high water mark since, less what was there before, in MiB.
    pub fn most_mib(&self) -> Result<f64, Failure> {
        Ok(status("VmHWM")?.saturating_sub(self.before_kib) as f64 / 1024.0)
    }
}
