//! What a lane of a thread is doing while its events go by: its open spans.
//!
//! 1. Levels beyond `OPEN_MAX` are counted, not kept by name, so that neither memory nor the end
//!    of a span amid others depends on how deep an input claims to be.
//! 2. `levels[..count]` are the open spans, outermost first; into the next level goes the span that
//!    an event begins or has ended. So whether an event begins a span, ends one or does neither,
//!    which nothing can predict, is no branch; only where there is no next level things go slowly.
//! 3. Each lane has its own: what begins in a handler amid an event ends there. The task is the
//!    thread's, so its owner keeps it and lends it to `Open::apply`.

use trace::encode::field::List;
use trace::encode::field::Reader;
use trace::encode::varint;

use crate::ahead::Ahead;
use crate::shape::Action;

/// Most open spans of a lane that are known by name. 4,096: a hundred times what a snapshot
/// lists, and moving that many takes microseconds.
const OPEN_MAX: usize = 4096;

/// A span that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenSpan {
    /// Its site's kind.
    pub kind: u64,
    /// When it began, in scaled ticks; `None` where that is not in the trace.
    pub began: Option<u64>,
    pub(crate) tables: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Level {
    kind: u64,
    began: u64,
    tables: u32,
    began_known: bool,
}

/// The open spans of a lane of a thread.
#[derive(Debug, Default)]
pub(crate) struct Open {
    levels: Vec<Level>,
    count: usize,
    /// Open spans that are not in `levels`.
    deeper: u64,
    /// All open spans, `u32::MAX` at most.
    depth: u32,
    /// Whether the last event ended the span in the level above the open ones.
    ended: bool,
}

impl Open {
    #[inline(always)]
    pub(crate) fn depth(&self) -> u32 {
        self.depth
    }

    /// The span that the last event ended.
    pub(crate) fn ended(&self) -> Option<OpenSpan> {
        let level = self.levels.get(self.count).filter(|_| self.ended)?;
        let Level { kind, began, tables, began_known } = *level;
        Some(OpenSpan { kind, began: began_known.then_some(began), tables })
    }

    /// Takes in an event of this body, which may change the thread's task.
    #[inline(always)]
    pub(crate) fn apply(&mut self, event: &Ahead, tables: u32, body: &[u8], task: &mut u64) {
        let action = event.meaning.action;
        if action == Action::TaskSwitch {
            let fields = body.get(event.fields as usize..).unwrap_or_default();
            *task = varint::read(fields).map_or(*task, |read| read.0);
        } else if action > Action::SpanEnd {
            return self.apply_slow(event, tables, body, task);
        }
        let begins = u64::from(action == Action::SpanBegin);
        let ends = action == Action::SpanEnd;
        if self.deeper > 0 {
            self.deeper = self.deeper.saturating_add(begins) - u64::from(ends);
            self.ended = false;
            self.depth = clamped(self.deeper.saturating_add(self.count as u64));
            return;
        }
        let Some(level) = self.levels.get_mut(self.count) else {
            return self.apply_slow(event, tables, body, task);
        };
        *level = Level { kind: event.kind, began: event.ticks, tables, began_known: true };
        self.ended = ends & (self.count > 0);
        self.count = self.count + begins as usize - usize::from(self.ended);
        self.depth = self.count as u32;
    }

    #[inline(never)]
    fn apply_slow(&mut self, event: &Ahead, tables: u32, body: &[u8], task: &mut u64) {
        self.ended = false;
        self.make_room();
        // A value that is not there cannot be: all were checked.
        let _ = self.effect(event, tables, body, task);
        self.depth = clamped(self.deeper.saturating_add(self.count as u64));
    }

    fn effect(&mut self, event: &Ahead, tables: u32, body: &[u8], task: &mut u64) -> Option<()> {
        let Ahead { kind, ticks: began, .. } = *event;
        let mut r = Reader::new(body.get(event.fields as usize..)?);
        match event.meaning.action {
            Action::None => {}
            Action::SpanBegin => {
                self.begin(Level { kind, began, tables, began_known: true });
            }
            Action::SpanEnd if self.deeper > 0 => self.deeper -= 1,
            Action::SpanEnd => self.end(self.count.checked_sub(1)?),
            Action::SpanEndAt => {
                let depth = r.varint()?;
                match usize::try_from(depth).ok().filter(|d| *d < self.count) {
                    Some(depth) => self.end(depth),
                    None => self.deeper = self.deeper.saturating_sub(1),
                }
            }
            Action::State => {
                *task = r.varint()?;
                self.state(r.list()?, r.varint()?, tables);
            }
            Action::TaskSwitch => *task = r.varint()?,
        }
        Some(())
    }

    fn begin(&mut self, level: Level) {
        self.make_room();
        match self.levels.get_mut(self.count).filter(|_| self.deeper == 0) {
            Some(free) => {
                *free = level;
                self.count += 1;
            }
            None => self.deeper = self.deeper.saturating_add(1),
        }
    }

    fn make_room(&mut self) {
        let len = self.levels.len();
        if self.count == len && len < OPEN_MAX {
            let more = (len * 2).clamp(4, OPEN_MAX) - len;
            self.levels.reserve_exact(more);
            self.levels.resize(len + more, Level::default());
        }
    }

    /// Takes a level out, to where the ended one stands.
    fn end(&mut self, depth: usize) {
        if let Some(above) = self.levels.get_mut(depth..self.count) {
            above.rotate_left(1);
            self.count -= 1;
            self.ended = true;
        }
    }

    /// Begins anew where the trace tells all; keeps when spans began where it agrees with that.
    ///
    /// A kind of 0 is a span of an earlier table epoch: what is known at its place holds, if that
    /// is of an earlier epoch too.
    fn state(&mut self, spans: List<'_>, deeper: u64, tables: u32) {
        let total = spans.len().saturating_add(deeper);
        let mine = self.deeper.saturating_add(self.count as u64);
        let open = self.levels.get(..self.count).unwrap_or_default();
        let agrees = |(kind, own): &(u64, &Level)| match own.tables == tables {
            true => *kind == own.kind,
            false => *kind == 0,
        };
        let agreed = spans.iter().zip(open).take_while(agrees).count();
        if total == mine && agreed as u64 == spans.len().min(self.count as u64) {
            return;
        }
        (self.count, self.deeper) = (agreed, 0);
        for kind in spans.iter().take(OPEN_MAX).skip(agreed) {
            self.begin(Level { kind, began: 0, tables, began_known: false });
        }
        self.deeper = total.saturating_sub(self.count as u64);
    }
}

fn clamped(depth: u64) -> u32 {
    u32::try_from(depth).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Meaning;

    fn apply(open: &mut Open, action: Action, kind: u64, ticks: u64, fields: &[u8]) -> u64 {
        let mut task = 0;
        let meaning = Meaning { steps: 0, action };
        let event = Ahead { ticks, kind, meaning, at: 0, fields: 0 };
        open.apply(&event, 0, fields, &mut task);
        task
    }

    #[test]
    fn spans_nest_and_end_amid_others() {
        let mut o = Open::default();
        for (kind, ticks) in [(64, 1), (65, 2), (66, 3), (67, 4), (68, 5)] {
            apply(&mut o, Action::SpanBegin, kind, ticks, &[]);
            assert_eq!(o.ended(), None);
        }
        assert_eq!(o.depth(), 5);
        apply(&mut o, Action::SpanEndAt, 34, 9, &[1]);
        assert_eq!(o.ended(), Some(OpenSpan { kind: 65, began: Some(2), tables: 0 }));
        apply(&mut o, Action::None, 70, 9, &[]);
        assert_eq!(o.ended(), None);
        for (kind, ticks) in [(68, 5), (67, 4), (66, 3), (64, 1)] {
            apply(&mut o, Action::SpanEnd, 33, 10, &[]);
            assert_eq!(o.ended(), Some(OpenSpan { kind, began: Some(ticks), tables: 0 }));
        }
        apply(&mut o, Action::SpanEnd, 33, 10, &[]);
        assert_eq!((o.ended(), o.depth()), (None, 0));
    }

    #[test]
    fn a_state_that_agrees_keeps_when_spans_began() {
        let mut o = Open::default();
        apply(&mut o, Action::SpanBegin, 64, 1, &[]);
        apply(&mut o, Action::SpanBegin, 65, 2, &[]);
        // Task 7; spans 64 and 65; none deeper.
        let state = [7, 2, 0x80, 1, 2, 0];
        let task = apply(&mut o, Action::State, 32, 3, &state);
        assert_eq!((task, o.depth()), (7, 2));
        apply(&mut o, Action::SpanEnd, 33, 4, &[]);
        assert_eq!(o.ended().unwrap().began, Some(2));
        // The same again disagrees now: the inner span began where nothing was recorded.
        apply(&mut o, Action::State, 32, 5, &state);
        apply(&mut o, Action::SpanEnd, 33, 6, &[]);
        assert_eq!(o.ended(), Some(OpenSpan { kind: 65, began: None, tables: 0 }));
        apply(&mut o, Action::SpanEnd, 33, 6, &[]);
        assert_eq!(o.ended().unwrap().began, Some(1));
    }

    #[test]
    fn spans_of_an_earlier_epoch_keep_their_names() {
        let mut o = Open::default();
        let mut at = |action, kind, tables, fields: &[u8]| {
            let meaning = Meaning { steps: 0, action };
            let event = Ahead { ticks: 1, kind, meaning, at: 0, fields: 0 };
            o.apply(&event, tables, fields, &mut 0);
            (o.depth(), o.ended().map(|e| (e.kind, e.tables, e.began)))
        };
        at(Action::SpanBegin, 64, 0, &[]);
        at(Action::SpanBegin, 65, 0, &[]);
        // Epoch 1 opens: both are of the one before; then one begins that has the first's number.
        assert_eq!(at(Action::State, 32, 1, &[0, 2, 0, 0, 0]), (2, None));
        at(Action::SpanBegin, 64, 1, &[]);
        assert_eq!(at(Action::State, 32, 1, &[0, 3, 0, 0, 0x80, 1, 0]), (3, None));
        assert_eq!(at(Action::SpanEnd, 33, 1, &[]), (2, Some((64, 1, Some(1)))));
        assert_eq!(at(Action::SpanEnd, 33, 1, &[]), (1, Some((65, 0, Some(1)))));
        // What stands there is of this epoch, so it is another span: its name is not known.
        at(Action::SpanBegin, 66, 1, &[]);
        assert_eq!(at(Action::State, 32, 1, &[0, 2, 0, 0, 0]), (2, None));
        assert_eq!(at(Action::SpanEnd, 33, 1, &[]), (1, Some((0, 1, None))));
        assert_eq!(at(Action::SpanEnd, 33, 1, &[]), (0, Some((64, 0, Some(1)))));
    }

    #[test]
    fn deep_nesting_is_counted() {
        let mut o = Open::default();
        let deep = OPEN_MAX as u64 + 1000;
        for i in 0..deep {
            apply(&mut o, Action::SpanBegin, 64, i, &[]);
        }
        assert_eq!(u64::from(o.depth()), deep);
        assert!(o.levels.capacity() <= OPEN_MAX);
        for i in (0..deep).rev() {
            apply(&mut o, Action::SpanEnd, 33, deep, &[]);
            let known = (i < OPEN_MAX as u64).then_some(i);
            assert_eq!(o.ended().and_then(|e| e.began), known);
        }
        assert_eq!(o.depth(), 0);
    }
}
