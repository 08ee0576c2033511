//! Spans from their beginning to their end, with the time that is their own.
//!
//! 1. *Self time* of a span is the time in which it was the innermost open span of its lane. So the
//!    self times of a lane's spans never overlap, also where a span ends amid others.
//! 2. The lanes of a thread are apart: what a signal handler opens is no child of what it met.
//! 3. At most [`OPEN_MAX`] spans of a lane are known one by one; deeper ones are counted, as the
//!    decoder does.
//! 4. What is open is held for as long as its thread lives, and no longer.

use std::collections::HashMap;

use trace::encode::field::List;
use trace::encode::schema::Class;
use trace_decode::Event;
use trace_decode::Timed;

use crate::names::NameId;
use crate::names::Names;

/// Most open spans of a lane that are known one by one: as many as the decoder names.
pub const OPEN_MAX: usize = 4096;

/// A span that has ended, or that will not end any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its name.
    pub name: NameId,
    /// Its thread.
    pub thread: u32,
    /// 0 main, 1 side.
    pub lane: u8,
    /// When it began, since the session's start; `None` where that is not in the trace.
    pub began_ns: Option<u64>,
    /// When it ended; `None` where it did not, or where that is not in the trace.
    pub ended_ns: Option<u64>,
    /// How long it was the innermost one, as far as it was seen.
    pub self_ns: u64,
}

impl Span {
    /// How long it took; `None` where an end of it is not known.
    pub fn duration_ns(&self) -> Option<u64> {
        Some(self.ended_ns?.saturating_sub(self.began_ns?))
    }
}

#[derive(Clone, Copy, Debug)]
struct Level {
    kind: u64,
    epoch: u32,
    name: NameId,
    began_ns: Option<u64>,
    self_ns: u64,
}

/// The open spans of a lane.
#[derive(Debug, Default)]
struct Lane {
    open: Vec<Level>,
    /// Open spans that are not in `open`.
    deeper: u64,
    /// The newest event that changed what is open.
    last_ns: u64,
}

impl Lane {
    /// Gives the time since the last change to the innermost span.
    fn pass(&mut self, now_ns: u64) {
        if let Some(top) = self.open.last_mut().filter(|_| self.deeper == 0) {
            top.self_ns = top.self_ns.saturating_add(now_ns.saturating_sub(self.last_ns));
        }
        self.last_ns = now_ns;
    }

    fn begin(&mut self, level: Level) {
        match self.open.len() < OPEN_MAX && self.deeper == 0 {
            true => self.open.push(level),
            false => self.deeper = self.deeper.saturating_add(1),
        }
    }
}

/// Follows the spans of a trace.
#[derive(Debug, Default)]
pub struct Spans {
    /// The names that spans have.
    pub names: Names,
    lanes: HashMap<(u32, u8), Lane>,
    ends_unknown: u64,
    too_deep: u64,
}

impl Spans {
    /// Ends of spans whose beginning is not in the trace.
    pub fn ends_unknown(&self) -> u64 {
        self.ends_unknown
    }

    /// Spans that were too deep to be known one by one.
    pub fn too_deep(&self) -> u64 {
        self.too_deep
    }

    /// A session begins.
    pub fn begin_session(&mut self) {
        self.names.begin_session();
        self.lanes.clear();
    }

    /// Takes in an event, and tells of spans that end with it.
    #[inline]
    pub fn event(&mut self, event: &Timed<'_>, each: &mut impl FnMut(&Names, Span)) {
        match event.event() {
            Event::Site(site) if site.site.class() == Some(Class::Span) => {
                let name = self.names.of_site(event.tables(), site.site);
                let lane = self.lane(event);
                lane.pass(event.ts_ns);
                let (began_ns, epoch) = (Some(event.ts_ns), event.tables().epoch());
                lane.begin(Level { kind: event.kind, epoch, name, began_ns, self_ns: 0 });
            }
            Event::SpanEnd(_) => self.end(event, None, each),
            Event::SpanEndAt(end) => self.end(event, Some(end.depth), each),
            Event::State(state) => self.state(event, state.spans, state.deeper, each),
            Event::ThreadEnd(_) => self.thread_end(event.thread, each),
            _ => {}
        }
    }

    /// The session has ended: tells of the spans that are open.
    pub fn end_session(&mut self, each: &mut impl FnMut(&Names, Span)) {
        let mut left: Vec<(u32, u8)> = self.lanes.keys().copied().collect();
        left.sort_unstable();
        for (thread, lane) in left {
            self.close(thread, lane, each);
        }
    }

    fn lane(&mut self, event: &Timed<'_>) -> &mut Lane {
        self.lanes.entry((event.thread, event.lane)).or_default()
    }

    fn end(&mut self, event: &Timed<'_>, depth: Option<u64>, each: &mut impl FnMut(&Names, Span)) {
        let lane = self.lane(event);
        lane.pass(event.ts_ns);
        let known = match depth {
            _ if lane.open.is_empty() => None,
            None if lane.deeper > 0 => None,
            None => Some(lane.open.len() - 1),
            Some(depth) => usize::try_from(depth).ok().filter(|d| *d < lane.open.len()),
        };
        let Some(at) = known else {
            let was_deep = lane.deeper > 0;
            lane.deeper = lane.deeper.saturating_sub(1);
            match was_deep {
                true => self.too_deep += 1,
                false => self.ends_unknown += 1,
            }
            return;
        };
        let level = lane.open.remove(at);
        each(&self.names, span(level, event.thread, event.lane, Some(event.ts_ns)));
    }

    /// Takes in what the trace says is open: levels that it confirms go on, the others ended
    /// unseen. A kind of 0 is a span of an earlier table epoch.
    fn state(
        &mut self,
        event: &Timed<'_>,
        spans: List<'_>,
        deeper: u64,
        each: &mut impl FnMut(&Names, Span),
    ) {
        let lane = self.lanes.entry((event.thread, event.lane)).or_default();
        let total = spans.len().saturating_add(deeper);
        let mine = lane.deeper.saturating_add(lane.open.len() as u64);
        let epoch = event.tables().epoch();
        let agrees = |(kind, own): &(u64, &Level)| match own.epoch == epoch {
            true => *kind == own.kind,
            false => *kind == 0,
        };
        let agreed = spans.iter().zip(&lane.open).take_while(agrees).count();
        if total == mine && agreed as u64 == spans.len().min(lane.open.len() as u64) {
            return;
        }
        lane.pass(event.ts_ns);
        for level in lane.open.drain(agreed..).rev() {
            each(&self.names, span(level, event.thread, event.lane, None));
        }
        lane.deeper = 0;
        for kind in spans.iter().skip(agreed).take(OPEN_MAX) {
            let name = self.names.of_kind(event.tables(), kind);
            lane.begin(Level { kind, epoch, name, began_ns: None, self_ns: 0 });
        }
        lane.deeper = total.saturating_sub(lane.open.len() as u64);
    }

    fn thread_end(&mut self, thread: u32, each: &mut impl FnMut(&Names, Span)) {
        self.close(thread, 0, each);
        self.close(thread, 1, each);
    }

    /// Forgets a lane, and tells of what is open on it.
    fn close(&mut self, thread: u32, lane: u8, each: &mut impl FnMut(&Names, Span)) {
        let Some(closed) = self.lanes.remove(&(thread, lane)) else { return };
        self.too_deep = self.too_deep.saturating_add(closed.deeper);
        for level in closed.open.into_iter().rev() {
            each(&self.names, span(level, thread, lane, None));
        }
    }
}

fn span(level: Level, thread: u32, lane: u8, ended_ns: Option<u64>) -> Span {
    let Level { name, began_ns, self_ns, .. } = level;
    Span { name, thread, lane, began_ns, ended_ns, self_ns }
}
