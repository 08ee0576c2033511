//! Which stream is first: a tournament over the streams' next events, in groups of eight.
//!
//! A group's first is found by comparing all its eight times, which is shorter than three rounds
//! of pairs and has no branch: who wins cannot be predicted. Up to eight streams are one group.
//!
//! 1. At equal times the stream with the lower number is first.
//! 2. A stream's place is what was set last for it; one that was never set is not there.
//! 3. Group 0 is the last round; the first of group n stands in group `(n - 1) / 8`.

use std::hint::select_unpredictable;

/// When a stream's next event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// At most [`TICKS_MAX`]; above it where the stream has no next event.
    pub(crate) ticks: u64,
    pub(crate) stream: u32,
}

/// The last time that has an order: what is later comes out as the input has it.
pub(crate) const TICKS_MAX: u64 = u64::MAX - 1;

/// The time of a stream without a next event.
pub(crate) const NEVER: u64 = u64::MAX;

const WIDTH: usize = 8;

/// Streams, or the firsts of groups further out.
#[derive(Clone, Copy, Debug)]
struct Group {
    ticks: [u64; WIDTH],
    /// Of streams, the times of the events after those.
    after: [u64; WIDTH],
    /// Of firsts of groups, whose they are.
    streams: [u32; WIDTH],
}

impl Group {
    const EMPTY: Group =
        Group { ticks: [NEVER; WIDTH], after: [NEVER; WIDTH], streams: [0; WIDTH] };

    /// The place that is first, and its time.
    #[inline(always)]
    fn first(&self) -> (usize, u64) {
        let pick = |a: (usize, u64), b: (usize, u64)| {
            let wins = b.1 < a.1;
            (select_unpredictable(wins, b.0, a.0), select_unpredictable(wins, b.1, a.1))
        };
        let [a, b, c, d, e, f, g, h] = self.ticks;
        let low = pick(pick((0, a), (1, b)), pick((2, c), (3, d)));
        let high = pick(pick((4, e), (5, f)), pick((6, g), (7, h)));
        pick(low, high)
    }
}

/// The streams' next events.
#[derive(Debug)]
pub(crate) struct Tournament {
    groups: Vec<Group>,
    /// The group of the first eight streams.
    leaves: usize,
}

impl Default for Tournament {
    fn default() -> Self {
        Tournament { groups: vec![Group::EMPTY], leaves: 0 }
    }
}

impl Tournament {
    /// Puts a stream's next event in, and when the one after it is; gives the first of all.
    #[inline(always)]
    pub(crate) fn set(&mut self, place: Place, after: u64) -> Place {
        let stream = place.stream as usize;
        if let Some(group) = self.groups.get_mut(self.leaves + stream / WIDTH) {
            group.after[stream % WIDTH] = place.ticks;
        }
        self.go_on(place.stream, after)
    }

    /// The same for a stream that goes on to the event whose time came with its last one. Who is
    /// next does not wait for a look into that stream then.
    #[inline(always)]
    pub(crate) fn go_on(&mut self, stream: u32, after: u64) -> Place {
        let slot = stream as usize % WIDTH;
        let Some(group) = self.groups.get_mut(self.leaves + stream as usize / WIDTH) else {
            return Place { ticks: NEVER, stream };
        };
        let ticks = std::mem::replace(&mut group.after[slot], after);
        group.ticks[slot] = ticks;
        let (first, ticks) = group.first();
        if self.leaves > 0 {
            let place = Place { ticks, stream: (stream as usize / WIDTH * WIDTH + first) as u32 };
            return self.rounds(place);
        }
        Place { ticks, stream: first as u32 }
    }

    /// The rounds after the first.
    #[inline(never)]
    fn rounds(&mut self, mut place: Place) -> Place {
        let mut at = self.leaves + place.stream as usize / WIDTH;
        while let Some(slot) = at.checked_sub(1)
            && let Some(group) = self.groups.get_mut(slot / WIDTH)
        {
            group.ticks[slot % WIDTH] = place.ticks;
            group.streams[slot % WIDTH] = place.stream;
            let (first, ticks) = group.first();
            place = Place { ticks, stream: group.streams[first % WIDTH] };
            at = slot / WIDTH;
        }
        place
    }

    /// The earliest time of all streams but this one, which is the first of all.
    #[inline(never)]
    pub(crate) fn second(&self, stream: u32) -> u64 {
        let mut at = self.leaves * WIDTH + stream as usize;
        let mut second = NEVER;
        loop {
            let Some(group) = self.groups.get(at / WIDTH) else { return 0 };
            let others = group.ticks.iter().enumerate().filter(|other| other.0 != at % WIDTH);
            second = others.fold(second, |second, other| second.min(*other.1));
            match at / WIDTH {
                0 => return second,
                group => at = group - 1,
            }
        }
    }

    /// Makes room for this many streams.
    pub(crate) fn grow(&mut self, streams: usize) {
        let groups = streams.div_ceil(WIDTH);
        let (mut leaves, mut width) = (0, 1);
        while width < groups {
            leaves = leaves * WIDTH + 1;
            width *= WIDTH;
        }
        if leaves > self.leaves {
            let old = std::mem::take(self);
            (self.groups, self.leaves) = (vec![Group::EMPTY; leaves], leaves);
            self.groups.extend(&old.groups[old.leaves..]);
            for at in leaves..self.groups.len() {
                let (first, ticks) = self.groups[at].first();
                self.rounds(Place { ticks, stream: ((at - leaves) * WIDTH + first) as u32 });
            }
        }
        self.groups.resize(self.groups.len().max(leaves + groups), Group::EMPTY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a sort, for as many streams as make one, two and three rounds.
    #[test]
    fn the_earliest_is_first_and_the_second_is_known() {
        let mut seconds = 0;
        for streams in [1, 2, 7, 8, 9, 64, 65, 600] {
            let mut t = Tournament::default();
            let mut times = vec![NEVER; streams];
            let mut x = 88_172_645_463_325_252_u64;
            for turn in 0..streams * 20 {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                // Every stream comes once first; few different times, so that many are equal.
                let stream = if turn < streams { turn } else { x as usize % streams };
                let ticks = if x >> 60 == 0 { NEVER } else { (x >> 32) % 50 };
                t.grow(times.len().min(turn + 1));
                times[stream] = ticks;
                // Half of them in two steps.
                let place = Place { ticks, stream: stream as u32 };
                let first = if x & 64 == 0 {
                    t.set(place, 7)
                } else {
                    t.set(Place { ticks: 3, ..place }, ticks);
                    t.go_on(place.stream, 7)
                };
                let mut sorted: Vec<_> = times.iter().zip(0u32..).collect();
                sorted.sort();
                assert_eq!(first.ticks, *sorted[0].0);
                if first.ticks < NEVER {
                    assert_eq!(first.stream, sorted[0].1, "{streams} streams, turn {turn}");
                    let second = sorted.get(1).map_or(NEVER, |s| *s.0);
                    assert_eq!(t.second(first.stream), second);
                    seconds += 1;
                }
            }
        }
        assert!(seconds > 10_000);
    }
}
