//! Scaled ticks to nanoseconds since the session's start.
//!
//! 1. Between two snapshots time is the line between them; before the first and while there is
//!    only one, the session's estimated rate is the slope; after the last, the slope before it.
//! 2. Within what is known at one moment, more ticks never give fewer nanoseconds.
//! 3. All arithmetic is on 128-bit integers and ends in a clamp: no input divides by zero, wraps
//!    or panics. A snapshot that does not advance is counted and has no effect.

/// Times beyond this many nanoseconds (146 years) are shown as this.
const NS_MAX: i64 = 1 << 62;

/// The clocks of the recorded machine, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Scaled ticks.
    pub at: u64,
    /// The monotonic clock.
    pub mono_ns: u64,
    /// The wall clock, since 1970.
    pub wall_ns: u64,
    /// The boot clock.
    pub boot_ns: u64,
    /// How far apart the reads of ticks stood.
    pub error: u64,
    /// Nanoseconds since the session's start.
    since_start_ns: i64,
}

/// Nanoseconds for a tick: `whole + part / 2^64`.
#[derive(Clone, Copy, Debug, Default)]
struct Slope {
    whole: u64,
    part: u64,
}

impl Slope {
    /// `ns` nanoseconds in `ticks` ticks.
    fn new(ns: u64, ticks: u64) -> Option<Slope> {
        let whole = ns.checked_div(ticks)?;
        let part = (u128::from(ns - whole * ticks) << 64) / u128::from(ticks);
        Some(Slope { whole, part: part as u64 })
    }

    #[inline(always)]
    fn part_ns(self, ticks: u64) -> u64 {
        ((u128::from(ticks) * u128::from(self.part)) >> 64) as u64
    }

    fn ns(self, ticks: u64) -> i64 {
        let ns = u128::from(ticks) * u128::from(self.whole) + u128::from(self.part_ns(ticks));
        i64::try_from(ns).map_or(NS_MAX, |ns| ns.min(NS_MAX))
    }
}

/// A stretch of ticks with one slope; it ends where the next begins.
#[derive(Clone, Copy, Debug)]
struct Segment {
    from: u64,
    from_ns: i64,
    slope: Slope,
}

impl Segment {
    fn ns(&self, ticks: u64) -> i64 {
        self.from_ns.saturating_add(self.slope.ns(ticks.saturating_sub(self.from))).min(NS_MAX)
    }
}

/// The stretch that was used last: what of it needs no clamps. None at first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Near {
    from: u64,
    len: u64,
    from_ns: u64,
    slope: Slope,
}

/// The rule from ticks to nanoseconds of one session.
#[derive(Clone, Debug)]
pub struct Clock {
    start: u64,
    rate: u64,
    snapshots: Vec<Snapshot>,
    segments: Vec<Segment>,
    ignored: u64,
}

impl Clock {
    /// A clock that was at `start` when the session began and makes about `rate` ticks a second;
    /// 0 where that is not known.
    pub fn new(start: u64, rate: u64) -> Clock {
        let slope = Slope::new(1_000_000_000, rate);
        let slope = slope.unwrap_or(Slope { whole: 1, part: 0 });
        let segments = vec![Segment { from: start, from_ns: 0, slope }];
        Clock { start, rate, snapshots: Vec::new(), segments, ignored: 0 }
    }

    /// Takes a snapshot that the trace carries.
    pub fn add(&mut self, at: u64, mono_ns: u64, wall_ns: u64, boot_ns: u64, error: u64) {
        let mut new = Snapshot { at, mono_ns, wall_ns, boot_ns, error, since_start_ns: 0 };
        let first = self.segments.first().copied();
        let (Some(segment), Some(newest)) = (first, self.segments.last().copied()) else { return };
        match self.snapshots.last().copied() {
            None if at <= self.start => {
                new.since_start_ns = -segment.slope.ns(self.start - at);
                self.segments.clear();
            }
            None => new.since_start_ns = segment.ns(at),
            Some(last) if at <= last.at || mono_ns < last.mono_ns => {
                self.ignored += 1;
                return;
            }
            Some(last) => {
                let passed = mono_ns - last.mono_ns;
                let ns = last.since_start_ns.saturating_add_unsigned(passed).min(NS_MAX);
                new.since_start_ns = ns;
                let ns = ns.saturating_sub(last.since_start_ns) as u64;
                if let Some(segment) = self.segments.last_mut() {
                    segment.slope = Slope::new(ns, at - last.at).unwrap_or(segment.slope);
                }
            }
        }
        let slope = self.segments.last().map_or(newest.slope, |s| s.slope);
        self.segments.push(Segment { from: at, from_ns: new.since_start_ns, slope });
        self.snapshots.push(new);
    }

    /// Nanoseconds since the session's start.
    pub fn ns(&self, ticks: u64) -> u64 {
        self.ns_near(ticks, &mut Near::default())
    }

    /// The same; `near` remembers the stretch for the next call.
    #[inline(always)]
    pub(crate) fn ns_near(&self, ticks: u64, near: &mut Near) -> u64 {
        let passed = ticks.wrapping_sub(near.from);
        if passed < near.len {
            return near.from_ns + passed * near.slope.whole + near.slope.part_ns(passed);
        }
        self.ns_far(ticks, near)
    }

    #[inline(never)]
    fn ns_far(&self, ticks: u64, near: &mut Near) -> u64 {
        let after = self.segments.partition_point(|s| s.from <= ticks);
        let end = self.segments.get(after).map_or(u64::MAX, |s| s.from);
        let Some(s) = after.checked_sub(1).and_then(|at| self.segments.get(at)) else { return 0 };
        *near = Near::default();
        // Near is what can neither be negative nor overflow.
        let room = (1 << 61) / s.slope.whole.saturating_add(1);
        if let Ok(from_ns @ ..=0x1fff_ffff_ffff_ffff) = u64::try_from(s.from_ns) {
            *near = Near { from: s.from, len: room.min(end - s.from), from_ns, slope: s.slope };
        }
        s.ns(ticks).max(0) as u64
    }

    /// The wall clock, nanoseconds since 1970, at this many nanoseconds since the session's start;
    /// `None` without a snapshot.
    pub fn wall_ns(&self, since_start_ns: u64) -> Option<u64> {
        let ns = i64::try_from(since_start_ns).unwrap_or(NS_MAX);
        let after = self.snapshots.partition_point(|s| s.since_start_ns <= ns);
        let near = self.snapshots.get(after.saturating_sub(1))?;
        Some(near.wall_ns.saturating_add_signed(ns.saturating_sub(near.since_start_ns)))
    }

    /// The wall clock at the session's start.
    pub fn start_wall_ns(&self) -> Option<u64> {
        self.wall_ns(0)
    }

    /// Scaled ticks at the session's start.
    pub fn start_ticks(&self) -> u64 {
        self.start
    }

    /// Whether anything tells how long a tick is; otherwise one is shown as a nanosecond.
    pub fn is_known(&self) -> bool {
        self.rate > 0 || self.snapshots.len() > 1
    }

    /// The snapshots that count, in order.
    pub fn snapshots(&self) -> &[Snapshot] {
        &self.snapshots
    }

    /// Snapshots without effect: their ticks or their monotonic clock did not advance.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_snapshot_uses_the_rate() {
        let mut c = Clock::new(1000, 2_000_000_000);
        assert_eq!(c.ns(3000), 1000);
        c.add(2000, 77_000, 1_000_000, 0, 0);
        assert_eq!((c.ns(2000), c.ns(4000), c.ns(0)), (500, 1500, 0));
        assert_eq!((c.wall_ns(500), c.start_wall_ns()), (Some(1_000_000), Some(999_500)));
    }

    #[test]
    fn between_snapshots_the_line_between_them() {
        let mut c = Clock::new(0, 1_000_000_000);
        c.add(0, 5_000, 100, 0, 0);
        c.add(1000, 8_000, 3_100, 0, 0);
        c.add(2000, 9_000, 4_100, 0, 0);
        // 3 ns a tick, then 1, and on at 1.
        assert_eq!((c.ns(500), c.ns(1000), c.ns(1500), c.ns(5000)), (1500, 3000, 3500, 7000));
        assert_eq!(c.wall_ns(1500), Some(1600));
        c.add(1999, 10_000, 0, 0, 0);
        c.add(3000, 8_999, 0, 0, 0);
        assert_eq!((c.ignored(), c.snapshots().len()), (2, 3));
    }

    #[test]
    fn a_snapshot_before_the_start_counts_from_the_start() {
        let mut c = Clock::new(1000, 1_000_000_000);
        c.add(900, 0, 50_000, 0, 0);
        c.add(1900, 1000, 51_000, 0, 0);
        assert_eq!((c.ns(900), c.ns(1000), c.ns(1900)), (0, 0, 900));
        assert_eq!(c.start_wall_ns(), Some(50_100));
    }

    #[test]
    fn hostile_values_are_clamped_and_times_stay_in_order() {
        let edges = [0, 1, 2, 1 << 31, 1 << 62, 1 << 63, u64::MAX - 1, u64::MAX];
        let mut checked = 0;
        for start in edges {
            for rate in edges {
                for a in edges {
                    for b in edges {
                        let mut c = Clock::new(start, rate);
                        c.add(a, b, b, b, a);
                        c.add(b, a, a, a, b);
                        c.add(u64::MAX, u64::MAX, a, b, 0);
                        let times: Vec<u64> = edges.iter().map(|t| c.ns(*t)).collect();
                        assert!(times.is_sorted(), "{start} {rate} {a} {b}: {times:?}");
                        let walls = edges.iter().filter(|t| c.wall_ns(**t).is_some()).count();
                        assert!(walls == edges.len());
                        checked += 1;
                    }
                }
            }
        }
        assert_eq!(checked, 4096);
    }

    #[test]
    fn a_day_is_exact_to_a_nanosecond() {
        let day: u64 = 86_400_000_000_000;
        let mut c = Clock::new(0, 0);
        c.add(0, 0, 0, 0, 0);
        // 1.2984 ns a tick, as a counter of 3.0807 GHz shifted by two has it.
        let ticks = 66_543_120_000_003;
        c.add(ticks, day, 0, 0, 0);
        assert_eq!(c.ns(ticks), day);
        let half = u128::from(ticks / 2) * u128::from(day) / u128::from(ticks);
        assert!(u128::from(c.ns(ticks / 2)).abs_diff(half) <= 1);
    }
}
