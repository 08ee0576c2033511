//! Time as events carry it: the machine's counter where it can be trusted, else the monotonic
//! clock; and the snapshots that tie it to nanoseconds.
//!
//! The counter is trusted where the machine says that its rate does not change, the kernel keeps
//! its own time by it (so that it is one time on all CPUs), and the program may read it.
//!
//! 1. The choice and the shift MUST NOT change in the life of a process. Otherwise a thread that
//!    read them before writes times that another session cannot read.
//! 2. `raw` is one instruction without a test. A caller MUST look at `Clock::is_counter` first.
//!    Otherwise a program that forbade the counter (PR_SET_TSC) dies by SIGSEGV.

#[cfg(all(target_arch = "aarch64", not(miri)))]
#[path = "aarch64.rs"]
mod machine;
#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
#[path = "fallback.rs"]
mod machine;
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[path = "x86_64.rs"]
mod machine;

pub use machine::raw;
pub use machine::raw_ordered;

use crate::encode::schema;
use crate::sys;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

const SECOND_NS: u64 = 1_000_000_000;

/// A time in scaled ticks: the counter shifted right by `Clock::shift`, as the format has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticks(pub u64);

/// What is read; the numbers are those of `Session::clock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The time stamp counter of x86-64.
    Tsc = schema::CLOCK_TSC as u8,
    /// The virtual counter of aarch64.
    Cntvct = schema::CLOCK_CNTVCT as u8,
    /// CLOCK_MONOTONIC in nanoseconds.
    Monotonic = schema::CLOCK_MONOTONIC as u8,
}

/// The process's clock. A copy of two words; `get` is one load after the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    kind: Kind,
    shift: u32,
}

/// The clocks read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The middle between the reads of ticks around the others.
    pub ticks: Ticks,
    /// CLOCK_MONOTONIC.
    pub mono_ns: u64,
    /// CLOCK_REALTIME.
    pub wall_ns: u64,
    /// CLOCK_BOOTTIME.
    pub boot_ns: u64,
    /// How far apart the reads of ticks around the monotonic clock stood.
    pub error: Ticks,
}

/// The choice: kind in the low byte, shift above; 0 = not chosen yet. Written by whoever chooses
/// first; it publishes nothing but itself.
static CHOSEN: AtomicU64 = AtomicU64::new(0);

/// The rate of the counter itself (before the shift) as best known; 0 = not known.
static RATE_HZ: AtomicU64 = AtomicU64::new(0);

/// Set in `RATE_HZ` where the rate is only the short estimate of the start.
const ROUGH: u64 = 1 << 63;

impl Clock {
    /// The process's clock. The first call chooses it, which may take 0.1 ms; later ones are one
    /// load and can be made in any context.
    #[inline]
    pub fn get() -> Clock {
        match Clock::unpack(CHOSEN.load(Ordering::Relaxed)) {
            Some(clock) => clock,
            None => Clock::choose(),
        }
    }

    #[cold]
    #[inline(never)]
    fn choose() -> Clock {
        // Before any clock is read: where the counter is forbidden, the vDSO would fault too.
        let counter = sys::tsc_allowed().then(machine::trusted).flatten();
        let kind = counter.unwrap_or(Kind::Monotonic);
        let rate = match kind {
            Kind::Monotonic => SECOND_NS,
            _ => machine::stated_hz().unwrap_or_else(|| measure_hz() | ROUGH),
        };
        let mine = Clock { kind, shift: shift_for(rate & !ROUGH) };
        // Two threads may come here together; the first choice holds (clock#1).
        let packed = u64::from(mine.shift) << 8 | mine.kind as u64;
        match CHOSEN.compare_exchange(0, packed, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => {
                let _ = RATE_HZ.compare_exchange(0, rate, Ordering::Relaxed, Ordering::Relaxed);
                mine
            }
            Err(first) => Clock::unpack(first).unwrap_or(mine),
        }
    }

    fn unpack(packed: u64) -> Option<Clock> {
        let kind = match packed & 0xff {
            schema::CLOCK_TSC => Kind::Tsc,
            schema::CLOCK_CNTVCT => Kind::Cntvct,
            schema::CLOCK_MONOTONIC => Kind::Monotonic,
            _ => return None,
        };
        Some(Clock { kind, shift: (packed >> 8) as u32 & 63 })
    }

    /// What is read.
    #[inline(always)]
    pub fn kind(self) -> Kind {
        self.kind
    }

    /// How far the counter is shifted right to give ticks; below 64.
    #[inline(always)]
    pub fn shift(self) -> u32 {
        self.shift
    }

    /// Whether `raw` may be used; else `slow_raw` is the time.
    #[inline(always)]
    pub fn is_counter(self) -> bool {
        self.kind != Kind::Monotonic
    }

    /// The counter or the clock, not shifted.
    #[inline(always)]
    pub fn raw(self) -> u64 {
        if self.is_counter() { raw() } else { slow_raw() }
    }

    /// Ticks of a counter value.
    #[inline(always)]
    pub fn scale(self, raw: u64) -> Ticks {
        Ticks(raw >> (self.shift & 63))
    }

    /// The time. May be read a little early, before loads that stand before it have their values.
    #[inline(always)]
    pub fn now(self) -> Ticks {
        self.scale(self.raw())
    }

    /// The time, read after all loads before it have their values: the receiving side of an edge
    /// between threads. Costs about 10 ns more than `now`.
    #[inline(always)]
    pub fn now_ordered(self) -> Ticks {
        self.scale(if self.is_counter() { raw_ordered() } else { slow_raw() })
    }

    /// Ticks a second as best known; never 0.
    pub fn rate(self) -> u64 {
        ((RATE_HZ.load(Ordering::Relaxed) & !ROUGH) >> self.shift).max(1)
    }

    /// False where `rate` is only the estimate of the start, good to about half a percent.
    pub fn rate_is_known(self) -> bool {
        RATE_HZ.load(Ordering::Relaxed) & ROUGH == 0
    }

    /// Reads all clocks together: the best of five. Async-signal-safe.
    pub fn snapshot(self) -> Snapshot {
        best_of_five(|| self.now_ordered().0, sys::mono_ns, sys::wall_ns, sys::boot_ns)
    }
}

/// CLOCK_MONOTONIC in nanoseconds: the time where the counter cannot be trusted.
#[cold]
#[inline(never)]
pub fn slow_raw() -> u64 {
    sys::mono_ns()
}

/// Keeps a rate in ticks a second that was measured over a session, for the next one's header.
pub fn remember_rate(ticks_per_second: u64) {
    let clock = Clock::get();
    let raw_hz = ticks_per_second.checked_mul(1 << clock.shift()).unwrap_or(0);
    if clock.is_counter() && plausible(raw_hz) {
        RATE_HZ.store(raw_hz, Ordering::Relaxed);
    }
}

/// The shift for a counter of this rate: a tick is the largest power of two of counts that takes at
/// most 2 ns.
pub const fn shift_for(raw_hz: u64) -> u32 {
    let counts = (raw_hz as u128 * 2 / SECOND_NS as u128) as u64;
    if counts == 0 { 0 } else { counts.ilog2() }
}

/// Ticks a second by two snapshots; `None` where they are less than 1 ms apart, or ticks do not
/// rise between them.
pub fn estimate(a: &Snapshot, b: &Snapshot) -> Option<u64> {
    let ns = b.mono_ns.checked_sub(a.mono_ns).filter(|ns| *ns >= 1_000_000)?;
    let ticks = b.ticks.0.checked_sub(a.ticks.0)?;
    let rate = u128::from(ticks) * u128::from(SECOND_NS) / u128::from(ns);
    u64::try_from(rate).ok().filter(|rate| *rate > 0)
}

/// Of five readings the one whose reads of ticks stand closest around the monotonic clock. Wall and
/// boot clock are brought to the same moment by a second look at the monotonic one.
fn best_of_five(
    ticks: impl Fn() -> u64,
    mono: impl Fn() -> u64,
    wall: impl Fn() -> u64,
    boot: impl Fn() -> u64,
) -> Snapshot {
    let read = || {
        let before = ticks();
        let mono_ns = mono();
        // A counter may step back when a virtual machine moves.
        let apart = ticks().saturating_sub(before);
        let (boot_ns, wall_ns, then) = (boot(), wall(), mono());
        let passed = then.saturating_sub(mono_ns);
        Snapshot {
            ticks: Ticks(before.saturating_add(apart / 2)),
            mono_ns,
            wall_ns: wall_ns.saturating_sub(passed),
            boot_ns: boot_ns.saturating_sub(passed),
            error: Ticks(apart),
        }
    };
    let mut best = read();
    for _ in 1..5 {
        let this = read();
        if this.error < best.error {
            best = this;
        }
    }
    best
}

/// Whether a counter may run at this rate: 1 MHz to 100 GHz (aarch64 has 1 GHz and less).
fn plausible(raw_hz: u64) -> bool {
    (1_000_000..100 * SECOND_NS).contains(&raw_hz)
}

/// The counter's rate against the monotonic clock over 20 us: enough to choose a power of two. The
/// best of three, since a thread may lose its CPU between two reads.
fn measure_hz() -> u64 {
    // A reading of both, and how many counts it took.
    let read = || {
        let before = raw_ordered();
        let ns = sys::mono_ns();
        let after = raw_ordered();
        (before / 2 + after / 2, ns, after.saturating_sub(before))
    };
    let tight = || {
        let first = (read(), read());
        if first.0.2 <= first.1.2 { first.0 } else { first.1 }
    };
    let mut best = (u64::MAX, SECOND_NS);
    for _ in 0..3 {
        let start = tight();
        while sys::mono_ns().saturating_sub(start.1) < 20_000 {
            std::hint::spin_loop();
        }
        let end = tight();
        let counts = end.0.saturating_sub(start.0);
        let ns = end.1.saturating_sub(start.1).max(1);
        let hz = (u128::from(counts) * u128::from(SECOND_NS) / u128::from(ns)) as u64;
        let error = start.2.saturating_add(end.2);
        if error < best.0 && plausible(hz) {
            best = (error, hz);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn shifts() {
        // rate in Hz, shift: worked by hand from "at most 2 ns".
        let table = [
            (0, 0),
            (19_200_000, 0),
            (499_999_999, 0),
            (500_000_000, 0),
            (1_000_000_000, 1),
            (1_999_999_999, 1),
            (2_000_000_000, 2),
            (2_600_000_000, 2),
            (3_999_999_999, 2),
            (4_000_000_000, 3),
            (5_000_000_000, 3),
            (u64::MAX, 35),
        ];
        for (hz, shift) in table {
            assert_eq!(shift_for(hz), shift, "{hz}");
        }
    }

    #[test]
    fn the_choice_holds() {
        let clock = Clock::get();
        assert_eq!(clock, Clock::get());
        assert!((1..=3).contains(&(clock.kind() as u8)));
        let others: Vec<_> = (0..4).map(|_| std::thread::spawn(Clock::get)).collect();
        for other in others {
            assert_eq!(other.join().unwrap(), clock);
        }
        if !sys::clocksource_is_tsc() {
            assert_ne!(clock.kind(), Kind::Tsc);
        }
        // Half of 2 ns to 2 ns a tick, but for slow counters; half a percent of doubt.
        let rate = clock.rate();
        assert!(rate > 497_000_000 || clock.shift() == 0, "{rate}");
        assert!(rate < 1_005_000_000, "{rate}");
    }

    #[test]
    fn snapshots_rise_and_give_the_rate() {
        let clock = Clock::get();
        let a = clock.snapshot();
        std::thread::sleep(std::time::Duration::from_millis(30));
        let b = clock.snapshot();
        assert!(a.ticks < b.ticks && a.mono_ns < b.mono_ns && a.boot_ns < b.boot_ns);
        let rate = estimate(&a, &b).unwrap();
        let known = clock.rate();
        assert!(rate.abs_diff(known) < known / 20, "{rate} {known}");
        assert_eq!(estimate(&a, &a), None);
        assert_eq!(estimate(&b, &a), None);
    }

    #[test]
    fn rates_that_cannot_be_are_not_kept() {
        let before = Clock::get().rate();
        for odd in [0, 1, u64::MAX, u64::MAX >> 2] {
            remember_rate(odd);
            assert_eq!(Clock::get().rate(), before, "{odd}");
        }
        let near = before + 1;
        remember_rate(near);
        let kept = if Clock::get().is_counter() { near } else { before };
        assert_eq!(Clock::get().rate(), kept);
        assert!(Clock::get().rate_is_known());
    }

    #[test]
    fn estimates_by_hand() {
        let at = |ticks, mono_ns| Snapshot {
            ticks: Ticks(ticks),
            mono_ns,
            wall_ns: 0,
            boot_ns: 0,
            error: Ticks(0),
        };
        assert_eq!(estimate(&at(0, 0), &at(650_000, 1_000_000)), Some(650_000_000));
        assert_eq!(estimate(&at(0, 0), &at(650_000, 999_999)), None);
        assert_eq!(estimate(&at(5, 0), &at(4, 2_000_000)), None);
        assert_eq!(estimate(&at(5, 0), &at(5, 2_000_000)), None);
        assert_eq!(estimate(&at(0, 0), &at(u64::MAX, 1_000_000)), None);
    }

    /// A made-up machine: every read of anything takes the next number of nanoseconds.
    struct Made {
        now: Cell<u64>,
        costs: &'static [u64],
        reads: Cell<usize>,
    }

    impl Made {
        fn read(&self, factor: u64, offset: u64) -> u64 {
            let n = self.reads.get();
            self.reads.set(n + 1);
            self.now.set(self.now.get() + self.costs[n % self.costs.len()]);
            self.now.get() * factor + offset
        }
    }

    #[test]
    fn the_tightest_reading_is_taken() {
        // Six reads a round: ticks, mono, ticks, boot, wall, mono. The third round is the tightest.
        const COSTS: &[u64] = &[
            10, 900, 10, 10, 10, 10, // apart 910
            10, 50, 40, 10, 10, 10, // apart 90
            10, 6, 6, 10, 10, 1000, // apart 12
            10, 10, 10, 10, 10, 10, // apart 20
            10, 500, 500, 10, 10, 10, // apart 1000
        ];
        let made = Made { now: Cell::new(0), costs: COSTS, reads: Cell::new(0) };
        let best = best_of_five(
            || made.read(2, 0),
            || made.read(1, 100),
            || made.read(1, 5_000_000),
            || made.read(1, 300),
        );
        assert_eq!(made.reads.get(), 30);
        // Rounds one and two take 950 and 130 ns; ticks at 1090, mono at 1096.
        assert_eq!(best.ticks, Ticks(2 * 1096));
        assert_eq!(best.error, Ticks(24));
        assert_eq!(best.mono_ns, 1096 + 100);
        // boot at 1112, wall at 1122, mono again at 2122: 1026 passed, taken off both.
        assert_eq!(best.boot_ns, 1112 + 300 - 1026);
        assert_eq!(best.wall_ns, 1122 + 5_000_000 - 1026);
    }

    #[test]
    fn a_counter_that_steps_back_gives_no_negative() {
        let reads = Cell::new(1_000_000u64);
        let back = || {
            reads.set(reads.get() - 1000);
            reads.get()
        };
        let best = best_of_five(back, || 5, || 6, || 7);
        assert_eq!(best.error, Ticks(0));
        assert_eq!((best.mono_ns, best.wall_ns, best.boot_ns), (5, 6, 7));
    }

    #[test]
    fn measured_rate_is_near_the_stated_one() {
        if !Clock::get().is_counter() {
            eprintln!("skipped: the counter is not trusted here");
            return;
        }
        let measured = measure_hz();
        let known = Clock::get().rate() << Clock::get().shift();
        assert!(measured.abs_diff(known) < known / 10, "{measured} {known}");
    }

    #[test]
    fn a_forbidden_counter_is_not_read() {
        // A child process, since the prohibition cannot be seen from other threads' tests.
        const ALONE: &str = "EXECTRACE_TEST_NO_TSC";
        if std::env::var_os(ALONE).is_none() {
            let mut test = std::process::Command::new(std::env::current_exe().unwrap());
            test.args(["--test-threads=1", "--nocapture", "a_forbidden_counter_is_not_read"]);
            let out = test.env(ALONE, "1").output().unwrap();
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(text.contains("chosen without the counter"), "{out:?}");
            return;
        }
        // SAFETY: from here on only code runs that reads no counter; the process ends below.
        let r = unsafe { libc::prctl(libc::PR_SET_TSC, 2) };
        let clock = Clock::get();
        let fine = clock.kind() == Kind::Monotonic && clock.shift() == 1;
        let a = clock.snapshot();
        let b = clock.snapshot();
        let rises = a.mono_ns < b.mono_ns && a.ticks < b.ticks && clock.rate() == 500_000_000;
        if r != 0 || (fine && rises) {
            println!("chosen without the counter");
        }
        std::process::exit(0);
    }
}
