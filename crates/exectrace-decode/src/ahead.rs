//! The next events of a stream, looked at before their turn comes.
//!
//! Stepping over many events at once is a loop of its own, which costs half of what a step between
//! two turns of the merge does.
//!
//! 1. An event stands here only after all its values were stepped over.
//! 2. Behind the last event stands [`END`]: its time is above every bound, so that going on to the
//!    next event and seeing that there is none are one comparison.

use crate::shape;
use crate::shape::Head;
use crate::shape::Meaning;
use crate::shape::Short;
use crate::shape::Slot;

/// An event that was checked and waits for its turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    pub(crate) ticks: u64,
    pub(crate) kind: u64,
    pub(crate) meaning: Meaning,
    /// Where it begins in the body.
    pub(crate) at: u32,
    /// Where its fields begin.
    pub(crate) fields: u32,
}

impl Ahead {
    /// The short event that stands at `at`.
    #[inline(always)]
    fn of_short(short: &Short<'_>, at: u32, ticks: u64) -> Ahead {
        let Short { kind, fields, slot, .. } = *short;
        Ahead { ticks, kind: u64::from(kind), meaning: slot.meaning, at, fields: at + fields }
    }
}

/// No event.
const END: Ahead =
    Ahead { ticks: u64::MAX, kind: 0, meaning: Slot::UNKNOWN.meaning, at: 0, fields: 0 };

/// Most events that a stream looks ahead. 63: so many that what going over to the next ones costs
/// is a small part of each, and all of a dozen threads fit the nearest cache.
const AHEAD_MAX: usize = 63;

/// How far a body was looked at, and the time there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reached {
    pub(crate) at: usize,
    pub(crate) ticks: u64,
}

/// The next events of a stream.
#[derive(Debug, Default)]
pub(crate) struct Window {
    next: usize,
    len: usize,
    /// The events, and behind them [`END`]. No more places than the largest body could fill.
    places: Vec<Ahead>,
}

impl Window {
    /// When the next event is and the one after it; the first of them without an event is at the
    /// end of time.
    #[inline(always)]
    pub(crate) fn next(&self) -> [u64; 2] {
        let ticks = |place: usize| self.places.get(place).map_or(END.ticks, |a| a.ticks);
        [ticks(self.next), ticks(self.next + 1)]
    }

    /// Goes over the next event, which is there; gives its place.
    #[inline(always)]
    pub(crate) fn take(&mut self) -> u32 {
        self.next += 1;
        self.next as u32 - 1
    }

    /// The event with this place.
    #[inline(always)]
    pub(crate) fn at(&self, place: u32) -> &Ahead {
        self.places.get(place as usize).unwrap_or(&END)
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.next >= self.len
    }

    /// Whether the first event of a body stands here and was not gone over.
    pub(crate) fn is_at_start(&self) -> bool {
        self.next == 0 && self.len > 0 && self.at(0).at == 0
    }

    pub(crate) fn clear(&mut self) {
        self.end(0);
    }

    /// Ends after so many events.
    fn end(&mut self, len: usize) {
        (self.next, self.len) = (0, len);
        if let Some(place) = self.places.get_mut(len) {
            *place = END;
        }
    }

    /// Makes places for what so many bytes may have: two at least make an event.
    fn make_room(&mut self, bytes: usize) {
        let places = AHEAD_MAX.min(bytes / 2) + 1;
        if self.places.len() < places {
            self.places.reserve_exact(places - self.places.len());
            self.places.resize(places, END);
        }
    }

    /// Looks at short events for as long as there is room.
    #[inline(never)]
    pub(crate) fn look(&mut self, body: &[u8], slots: &[Slot], reached: &mut Reached) {
        let Some(mut rest) = body.get(reached.at..) else { return };
        self.make_room(rest.len());
        let mut ticks = reached.ticks;
        let mut len = 0;
        for place in self.places.iter_mut().take(AHEAD_MAX) {
            let Some(short) = shape::short(rest, slots) else { break };
            let Some(after) = rest.get(short.end as usize..) else { break };
            ticks = ticks.saturating_add(short.delta);
            *place = Ahead::of_short(&short, (body.len() - rest.len()) as u32, ticks);
            len += 1;
            rest = after;
        }
        self.end(len);
        *reached = Reached { at: body.len() - rest.len(), ticks };
    }

    /// Takes one event of any size, which was looked at elsewhere and is the only one.
    pub(crate) fn put(&mut self, head: &Head, len: usize, reached: &mut Reached) {
        let ticks = reached.ticks.saturating_add(head.delta);
        let Head { kind, fields, meaning, .. } = *head;
        let at = reached.at as u32;
        if let Some(place) = self.places.first_mut() {
            *place = Ahead { ticks, kind, meaning, at, fields: at + fields };
            self.end(1);
        }
        *reached = Reached { at: reached.at + len, ticks };
    }
}
