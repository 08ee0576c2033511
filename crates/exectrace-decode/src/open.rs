//! What a thread is doing while its events go by: its open spans and its task.
//!
//! 1. The newest [`OPEN_MAX`] levels are not kept by name but counted, so that neither memory nor
//!    the end of a span amid others depends on how deep an input claims to be.

use trace::encode::field::List;
use trace::encode::field::Reader;

use crate::shape::Action;

/// Most open spans of a thread that are known by name. 4,096: a hundred times what a snapshot
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

/// The open spans and the task of a thread.
#[derive(Debug, Default)]
pub(crate) struct Open {
    spans: Vec<OpenSpan>,
    /// Open spans that are not in `spans`.
    deeper: u64,
    task: u64,
}

impl Open {
    pub(crate) fn depth(&self) -> u32 {
        u32::try_from(self.deeper.saturating_add(self.spans.len() as u64)).unwrap_or(u32::MAX)
    }

    pub(crate) fn task(&self) -> u64 {
        self.task
    }

    /// Takes in an event with these fields; gives the span that it ended.
    pub(crate) fn apply(
        &mut self,
        action: Action,
        kind: u64,
        ticks: u64,
        tables: u32,
        fields: &[u8],
    ) -> Option<OpenSpan> {
        let mut r = Reader::new(fields);
        match action {
            Action::None => None,
            Action::SpanBegin => {
                if self.spans.len() < OPEN_MAX && self.deeper == 0 {
                    self.spans.push(OpenSpan { kind, began: Some(ticks), tables });
                } else {
                    self.deeper = self.deeper.saturating_add(1);
                }
                None
            }
            Action::SpanEnd => match self.deeper {
                0 => self.spans.pop(),
                _ => {
                    self.deeper -= 1;
                    None
                }
            },
            Action::SpanEndAt => self.end_at(r.varint()?),
            Action::State => {
                self.state(r.varint()?, r.list()?, r.varint()?, tables);
                None
            }
            Action::TaskSwitch => {
                self.task = r.varint()?;
                None
            }
        }
    }

    fn end_at(&mut self, depth: u64) -> Option<OpenSpan> {
        match usize::try_from(depth).ok().filter(|d| *d < self.spans.len()) {
            Some(depth) => Some(self.spans.remove(depth)),
            None => {
                self.deeper = self.deeper.saturating_sub(1);
                None
            }
        }
    }

    /// Begins anew where the trace tells all; keeps when spans began where it agrees with that.
    fn state(&mut self, task: u64, spans: List<'_>, deeper: u64, tables: u32) {
        self.task = task;
        let total = spans.len().saturating_add(deeper);
        let mine = self.deeper.saturating_add(self.spans.len() as u64);
        let mut agreed = 0;
        for (kind, own) in spans.iter().zip(&self.spans) {
            if kind != own.kind {
                break;
            }
            agreed += 1;
        }
        if total == mine && agreed as u64 == spans.len().min(self.spans.len() as u64) {
            return;
        }
        self.spans.truncate(agreed);
        for kind in spans.iter().take(OPEN_MAX).skip(agreed) {
            self.spans.push(OpenSpan { kind, began: None, tables });
        }
        self.deeper = total.saturating_sub(self.spans.len() as u64);
    }
}
