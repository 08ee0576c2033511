//! Lengths of time: how many, how long in all, percentiles, and how they are spread.
//!
//! 1. Count, sum, least and greatest are exact, and so are the buckets.
//! 2. A percentile is the *nearest rank*: the p-th of n lengths is the one that stands at place
//!    `ceil(n * p)` when they are sorted. It is one of the lengths, never a value between two.
//! 3. It is exact for up to [`EXACT_MAX`] lengths. Beyond, it is rounded up by less than 1/1000, so
//!    that the memory for a name does not depend on how often the name occurs.

use hdrhistogram::Histogram;

/// Most lengths that are kept one by one. 1,024: 8 KiB a name, and more than anybody counts by
/// hand.
pub const EXACT_MAX: usize = 1024;

/// Significant digits that are kept beyond [`EXACT_MAX`].
const DIGITS: u8 = 3;

/// A longer length is taken for this one, 146 years: the decoder's times end there.
const NS_MAX: u64 = 1 << 62;

/// Edges of buckets lie at 1, 2 and 5 times each power of ten.
const STEPS: [u64; 3] = [1, 2, 5];

/// Buckets of 0 ns, and three of each power of ten that 64 bits have.
const BUCKETS: usize = 1 + 3 * 20;

/// Which percentile, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percentile(u32);

impl Percentile {
    /// Half of the lengths are not longer.
    pub const P50: Percentile = Percentile(500);
    /// Nine of ten are not longer.
    pub const P90: Percentile = Percentile(900);
    /// 99 of 100 are not longer.
    pub const P99: Percentile = Percentile(990);

    /// Any, in thousandths; 1000 is the longest.
    pub fn of_thousandths(thousandths: u32) -> Percentile {
        Percentile(thousandths.min(1000))
    }

    /// The place of it among `count` sorted lengths, from 1.
    fn rank(self, count: u64) -> u64 {
        let rank = (u128::from(count) * u128::from(self.0)).div_ceil(1000);
        (rank as u64).max(1)
    }
}

/// Lengths between two edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The shortest length that belongs to it.
    pub from_ns: u64,
    /// The shortest one that is too long for it.
    pub to_ns: u64,
    /// How many there are.
    pub count: u64,
}

/// The lengths themselves, as far as they are kept.
#[derive(Clone, Debug)]
enum Kept {
    Exact(Vec<u64>),
    Rounded(Box<Histogram<u32>>),
}

/// Lengths of time.
#[derive(Clone, Debug)]
pub struct Latencies {
    count: u64,
    total_ns: u64,
    min_ns: u64,
    max_ns: u64,
    kept: Kept,
    buckets: Box<[u64; BUCKETS]>,
}

impl Default for Latencies {
    fn default() -> Self {
        Latencies {
            count: 0,
            total_ns: 0,
            min_ns: u64::MAX,
            max_ns: 0,
            kept: Kept::Exact(Vec::new()),
            buckets: Box::new([0; BUCKETS]),
        }
    }
}

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, ns: u64) {
        let ns = ns.min(NS_MAX);
        self.count += 1;
        self.total_ns = self.total_ns.saturating_add(ns);
        self.min_ns = self.min_ns.min(ns);
        self.max_ns = self.max_ns.max(ns);
        if let Some(bucket) = self.buckets.get_mut(bucket_of(ns)) {
            *bucket += 1;
        }
        match &mut self.kept {
            Kept::Exact(all) if all.len() < EXACT_MAX => return all.push(ns),
            Kept::Exact(all) => {
                // Three digits are within what the library takes: it cannot refuse.
                let Ok(mut histogram) = Histogram::new(DIGITS) else { return };
                all.iter().for_each(|ns| record(&mut histogram, *ns));
                self.kept = Kept::Rounded(Box::new(histogram));
            }
            Kept::Rounded(_) => {}
        }
        if let Kept::Rounded(histogram) = &mut self.kept {
            record(histogram, ns);
        }
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    pub fn total_ns(&self) -> u64 {
        self.total_ns
    }

    /// The shortest; `None` where there are none.
    pub fn min_ns(&self) -> Option<u64> {
        (self.count > 0).then_some(self.min_ns)
    }

    /// The longest; `None` where there are none.
    pub fn max_ns(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max_ns)
    }

    /// Whether percentiles are exact; otherwise they are rounded up by less than 1/1000.
    pub fn is_exact(&self) -> bool {
        matches!(self.kept, Kept::Exact(_))
    }

    /// The percentiles that are asked for; `None` where there are no lengths.
    pub fn percentiles<const N: usize>(&self, asked: [Percentile; N]) -> Option<[u64; N]> {
        if self.count == 0 {
            return None;
        }
        let ranks = asked.map(|p| p.rank(self.count));
        Some(match &self.kept {
            Kept::Exact(all) => {
                let mut sorted = all.clone();
                sorted.sort_unstable();
                ranks.map(|rank| sorted.get(rank as usize - 1).copied().unwrap_or(self.max_ns))
            }
            Kept::Rounded(histogram) => {
                ranks.map(|rank| at_rank(histogram, rank).unwrap_or(u64::MAX).min(self.max_ns))
            }
        })
    }

    /// The buckets from the first to the last one that is not empty.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> {
        let first = self.buckets.iter().position(|n| *n > 0).unwrap_or(BUCKETS);
        let last = self.buckets.iter().rposition(|n| *n > 0).map_or(0, |i| i + 1);
        let bucket = |i: usize| Bucket {
            from_ns: edge(i),
            to_ns: edge(i + 1),
            count: self.buckets.get(i).copied().unwrap_or(0),
        };
        (first..last).map(bucket)
    }
}

fn record(histogram: &mut Histogram<u32>, ns: u64) {
    // It grows by itself. Where it cannot, the longest that it knows is counted.
    if histogram.record(ns).is_err() {
        histogram.saturating_record(ns);
    }
}

/// The greatest length that cannot be told from the one at this place.
fn at_rank(histogram: &Histogram<u32>, rank: u64) -> Option<u64> {
    let mut met = 0;
    for step in histogram.iter_recorded() {
        met += step.count_since_last_iteration();
        if met >= rank {
            return Some(histogram.highest_equivalent(step.value_iterated_to()));
        }
    }
    None
}

/// The bucket that a length belongs to.
fn bucket_of(ns: u64) -> usize {
    let Some(decade) = ns.checked_ilog10() else { return 0 };
    let power = 10u64.pow(decade);
    let step = STEPS.iter().rposition(|s| s.checked_mul(power).is_some_and(|edge| edge <= ns));
    1 + 3 * decade as usize + step.unwrap_or(0)
}

/// Where a bucket begins.
fn edge(bucket: usize) -> u64 {
    let Some(at) = bucket.checked_sub(1) else { return 0 };
    let power = 10u64.checked_pow((at / 3) as u32);
    power.and_then(|p| p.checked_mul(STEPS[at % 3])).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Percentile; 4] =
        [Percentile::P50, Percentile::P90, Percentile::P99, Percentile(1000)];

    fn of(lengths: impl IntoIterator<Item = u64>) -> Latencies {
        let mut all = Latencies::default();
        lengths.into_iter().for_each(|ns| all.add(ns));
        all
    }

    #[test]
    fn nearest_ranks_by_hand() {
        // The textbook's example: of 15, 20, 35, 40, 50 the 30th percentile is 20 (place 2 of 5).
        let five = of([40, 15, 50, 20, 35]);
        let asked = [50, 300, 400, 500, 1000].map(Percentile::of_thousandths);
        assert_eq!(five.percentiles(asked), Some([15, 20, 20, 35, 50]));
        assert_eq!((five.count(), five.total_ns()), (5, 160));
        assert_eq!((five.min_ns(), five.max_ns()), (Some(15), Some(50)));
        assert_eq!(of([7]).percentiles(ALL), Some([7; 4]));
        assert_eq!(of(1..=100).percentiles(ALL), Some([50, 90, 99, 100]));
        let none = Latencies::default();
        assert_eq!((none.percentiles(ALL), none.min_ns(), none.max_ns()), (None, None, None));
        assert_eq!(none.buckets().count(), 0);
    }

    #[test]
    fn many_are_rounded_up_by_less_than_a_thousandth() {
        let mut checked = 0;
        for (scale, n) in [(1, 1_025), (1_003, 5_000), (1_000_003, 20_000), (1 << 40, 3_000)] {
            let all = of((1..=n).rev().map(|i| i * scale));
            assert!(!all.is_exact());
            let ranks = [n.div_ceil(2), (n * 9).div_ceil(10), (n * 99).div_ceil(100), n];
            for (got, rank) in all.percentiles(ALL).unwrap().into_iter().zip(ranks) {
                let want = rank * scale;
                assert!(got >= want && got - want <= want / 1000, "{got} {want}");
                checked += 1;
            }
            assert_eq!((all.min_ns(), all.max_ns()), (Some(scale), Some(n * scale)));
            assert_eq!(all.total_ns(), scale * n * (n + 1) / 2);
        }
        assert_eq!(checked, 16);
        assert!(of(1..=1024).is_exact());
    }

    #[test]
    fn extremes_neither_panic_nor_vanish() {
        let all = of([0, 1, u64::MAX].into_iter().cycle().take(3 * 1024));
        assert_eq!(all.percentiles(ALL), Some([1, NS_MAX, NS_MAX, NS_MAX]));
        assert_eq!(all.total_ns(), u64::MAX);
        let counts: Vec<u64> = all.buckets().map(|b| b.count).filter(|n| *n > 0).collect();
        assert_eq!(counts, [1024; 3]);
        let ends: Vec<Bucket> = all.buckets().collect();
        assert_eq!((ends[0].from_ns, ends[0].to_ns), (0, 1));
        assert_eq!(ends[ends.len() - 1].from_ns, 2_000_000_000_000_000_000);
        assert_eq!(ends[ends.len() - 1].to_ns, 5_000_000_000_000_000_000);
    }

    #[test]
    fn every_length_lies_between_the_edges_of_its_bucket() {
        let near = |n: u64| [n.saturating_sub(1), n, n.saturating_add(1)];
        let powers = (0..20).map(|e| 10u64.pow(e));
        let edges = powers.flat_map(|p| STEPS.map(|s| s.saturating_mul(p))).flat_map(near);
        let mut checked = 0;
        for ns in edges.chain([0, u64::MAX]) {
            let i = bucket_of(ns);
            assert!(edge(i) <= ns && (ns < edge(i + 1) || ns == u64::MAX), "{ns}: bucket {i}");
            checked += 1;
        }
        assert_eq!(checked, 182);
        let all = of([150, 199, 200, 1_000]);
        let shown: Vec<_> = all.buckets().map(|b| (b.from_ns, b.to_ns, b.count)).collect();
        assert_eq!(shown, [(100, 200, 2), (200, 500, 1), (500, 1_000, 0), (1_000, 2_000, 1)]);
    }
}
