//! Batches to sessions: where one begins and ends.
//!
//! 1. A batch of kind 1 begins a session. So does a batch of another session where none is open,
//!    after the open one's `End`, and where a second one follows: its first batch is missing then.
//! 2. A single batch of another session amid an open one is damage: the open one goes on.
//! 3. A refused input still ends the session that is open before it gives the error.

use std::collections::VecDeque;

use trace::encode::wire::BatchKind;
use trace::encode::wire::Header;

use crate::batch::Batch;
use crate::batch::BatchReader;
use crate::batch::Found;
use crate::batch::Place;
use crate::error::Damage;
use crate::error::DamageKind;
use crate::error::Error;

/// What comes next.
#[derive(Debug)]
pub(crate) enum Unit {
    /// A session begins; its first batch is next.
    Begin {
        id: u64,
        offset: u64,
        first_ticks: u64,
    },
    Batch(Held),
    Damage(Damage),
    /// The session ends: another begins, or the input ends.
    End,
}

/// A batch: ask [`Source::view`] for it.
#[derive(Debug)]
pub(crate) enum Held {
    InReader(Place),
    Own(u64, Header, Vec<u8>),
}

impl Held {
    fn header(&self) -> &Header {
        match self {
            Held::InReader(place) => &place.header,
            Held::Own(_, header, _) => header,
        }
    }

    fn offset(&self) -> u64 {
        match self {
            Held::InReader(place) => place.offset,
            Held::Own(offset, ..) => *offset,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Source {
    reader: BatchReader,
    input_ended: bool,
    open: Option<u64>,
    /// Whether the open session's `End` was met.
    closed: bool,
    /// A single batch of another session.
    foreign: Option<Held>,
    queue: VecDeque<Unit>,
    error: Option<Error>,
}

impl Source {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        // A push moves what the reader holds: a batch that was not asked for yet keeps its bytes.
        for unit in &mut self.queue {
            if let Unit::Batch(Held::InReader(place)) = unit {
                let bytes = self.reader.view(place).bytes.to_vec();
                *unit = Unit::Batch(Held::Own(place.offset, place.header, bytes));
            }
        }
        self.reader.push(bytes);
    }

    pub(crate) fn finish(&mut self) {
        self.input_ended = true;
        self.reader.finish();
    }

    /// Says that the open session's `End` was met.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    pub(crate) fn view<'a>(&'a self, held: &'a Held) -> Batch<'a> {
        match held {
            Held::InReader(place) => self.reader.view(place),
            Held::Own(offset, header, bytes) => Batch { offset: *offset, header: *header, bytes },
        }
    }

    /// The next unit; `None` where more input is needed, and at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Unit>, Error> {
        loop {
            if let Some(unit) = self.queue.pop_front() {
                return Ok(Some(unit));
            }
            if let Some(error) = self.error.take() {
                return Err(error);
            }
            match self.reader.find() {
                Ok(Some(Found::Batch(place))) => {
                    if self.foreign.is_none() && self.is_open(&place.header) {
                        return Ok(Some(Unit::Batch(Held::InReader(place))));
                    }
                    self.arrange(place);
                }
                Ok(Some(Found::Damage(damage))) => return Ok(Some(Unit::Damage(damage))),
                Ok(None) if !self.input_ended => return Ok(None),
                Ok(None) => match self.end() {
                    true => continue,
                    false => return Ok(None),
                },
                Err(error) => {
                    self.end();
                    self.error = Some(error);
                }
            }
        }
    }

    fn is_open(&self, header: &Header) -> bool {
        Some(header.session) == self.open && header.kind != BatchKind::Session as u8
    }

    /// A batch that is not simply the next one of the open session.
    fn arrange(&mut self, place: Place) {
        let (session, begins) =
            (place.header.session, place.header.kind == BatchKind::Session as u8);
        let held = self.foreign.take();
        let second = held.as_ref().is_some_and(|f| f.header().session == session) && !begins;
        if second {
            self.begin(held.as_ref().unwrap_or(&Held::InReader(place)));
            self.queue.extend(held.map(Unit::Batch));
        } else {
            self.queue.extend(held.map(|f| Unit::Damage(foreign_damage(&f))));
        }
        if begins || self.open.is_none() || (self.closed && Some(session) != self.open) {
            self.begin(&Held::InReader(place));
        } else if Some(session) != self.open {
            let bytes = self.reader.view(&place).bytes.to_vec();
            self.foreign = Some(Held::Own(place.offset, place.header, bytes));
            return;
        }
        self.queue.push_back(Unit::Batch(Held::InReader(place)));
    }

    fn begin(&mut self, first: &Held) {
        if self.open.is_some() {
            self.queue.push_back(Unit::End);
        }
        let Header { session: id, first_ticks, .. } = *first.header();
        self.queue.push_back(Unit::Begin { id, offset: first.offset(), first_ticks });
        self.open = Some(id);
        self.closed = false;
    }

    /// Ends what is open; `false` where nothing is.
    fn end(&mut self) -> bool {
        if let Some(held) = self.foreign.take() {
            self.begin(&held);
            self.queue.push_back(Unit::Batch(held));
        }
        let open = self.open.take().is_some();
        if open {
            self.queue.push_back(Unit::End);
        }
        open
    }
}

fn foreign_damage(held: &Held) -> Damage {
    let header = held.header();
    Damage {
        offset: held.offset(),
        len: u64::from(header.length),
        kind: DamageKind::Session { found: header.session },
    }
}
