//! A stream of bytes to validated batches.
//!
//! 1. A batch is given out only when its magic, length, version and CRC agree.
//! 2. After damage the next batch is searched by its magic; every byte of the input belongs to a
//!    batch that was given out or to exactly one [`Damage`].
//! 3. [`BatchReader`] holds at most one batch and what was pushed last.

use trace::encode::wire::BATCH_BYTES_MAX;
use trace::encode::wire::CRC_AT;
use trace::encode::wire::HEADER_BYTES;
use trace::encode::wire::Header;
use trace::encode::wire::MAGIC;
use trace::encode::wire::VERSION;

use crate::error::Damage;
use crate::error::DamageKind;
use crate::error::Error;
use crate::error::ErrorKind;

/// An input without a batch in its first MiB is refused: a longer search would read whole disks
/// before it says that they are no trace.
const SEARCH_BYTES_MAX: u64 = 1 << 20;

/// A batch whose CRC agreed.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Where it begins in the input.
    pub offset: u64,
    /// Its header.
    pub header: Header,
    /// All its bytes, header included.
    pub bytes: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The events.
    pub fn body(&self) -> &'a [u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }
}

/// What comes next in the input.
#[derive(Clone, Copy, Debug)]
pub enum Next<'a> {
    /// A batch.
    Batch(Batch<'a>),
    /// Bytes that are none.
    Damage(Damage),
}

/// The CRC of a whole batch, the four bytes of its own CRC taken as zero.
pub fn batch_crc(bytes: &[u8]) -> u32 {
    let (head, rest) = bytes.split_at(bytes.len().min(CRC_AT));
    let crc = crc32c::crc32c_append(crc32c::crc32c(head), &[0; 4]);
    crc32c::crc32c_append(crc, rest.get(4..).unwrap_or_default())
}

/// Where a batch stands in what a [`BatchReader`] holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) header: Header,
    at: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Found {
    Batch(Place),
    Damage(Damage),
}

enum Check {
    Batch(Header),
    More,
    Future(Header),
    Bad(DamageKind),
}

/// Whether a batch stands at the start of `input`.
fn check(input: &[u8], at_end: bool) -> Check {
    let cut = |need: u32| match at_end {
        true => Check::Bad(DamageKind::Truncated { need }),
        false => Check::More,
    };
    let seen = &input[..input.len().min(MAGIC.len())];
    if !MAGIC.starts_with(seen) {
        let mut found = [0; 4];
        found[..seen.len()].copy_from_slice(seen);
        return Check::Bad(DamageKind::Magic { found });
    }
    let Some(header) = input.first_chunk().and_then(Header::from_bytes) else {
        return cut(HEADER_BYTES as u32);
    };
    let length = header.length as usize;
    if !(HEADER_BYTES..=BATCH_BYTES_MAX).contains(&length) {
        return Check::Bad(DamageKind::Length { found: header.length });
    }
    let Some(bytes) = input.get(..length) else { return cut(header.length) };
    let computed = batch_crc(bytes);
    if computed != header.crc {
        return Check::Bad(DamageKind::Crc { found: header.crc, computed });
    }
    match header.version {
        VERSION => Check::Batch(header),
        0 => Check::Bad(DamageKind::Version { found: 0 }),
        _ => Check::Future(header),
    }
}

/// Where the next batch may begin after the first byte of `input`: at a magic, or at the end in a
/// piece of one.
fn next_magic(input: &[u8]) -> usize {
    let mut at = 1;
    while let Some(skip) = input.get(at..).and_then(|r| r.iter().position(|b| *b == MAGIC[0])) {
        at += skip;
        let seen = &input[at..input.len().min(at + MAGIC.len())];
        if MAGIC.starts_with(seen) {
            return at;
        }
        at += 1;
    }
    input.len()
}

enum Step {
    Batch(Header),
    Damage(Damage),
    More,
    End,
}

/// The search for batches, over an input that its owner holds.
#[derive(Debug, Default)]
struct Finder {
    /// Offset of the first byte that the owner still holds.
    offset: u64,
    /// Where damage began and what was found there.
    bad: Option<(u64, DamageKind)>,
    /// Whether a batch was met.
    any: bool,
    /// The first bytes of the input.
    first: Vec<u8>,
    /// A version above ours in a first header that is no batch of ours.
    future: Option<u16>,
    refused: bool,
}

impl Finder {
    /// Looks at the start of `input`; tells how many of its bytes are done with before the step.
    fn step(&mut self, input: &[u8], at_end: bool) -> Result<(usize, Step), Error> {
        if self.refused {
            return Ok((input.len(), Step::End));
        }
        let mut at = 0;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            if rest.is_empty() {
                return self.out_of_input(at, at_end);
            }
            if self.first.is_empty() && rest.len() < HEADER_BYTES && !at_end {
                return Ok((at, Step::More));
            }
            let found = check(rest, at_end);
            if self.first.is_empty() {
                self.first = rest[..rest.len().min(8)].to_vec();
                let header = rest.first_chunk().and_then(Header::from_bytes);
                self.future = header.map(|h| h.version).filter(|v| *v > VERSION);
            }
            match found {
                Check::Batch(header) => {
                    self.any = true;
                    return Ok((at, self.end_damage().map_or(Step::Batch(header), Step::Damage)));
                }
                Check::More => return Ok((at, Step::More)),
                Check::Future(header) => match self.end_damage() {
                    Some(damage) => return Ok((at, Step::Damage(damage))),
                    None => return Err(self.refuse(header.version)),
                },
                Check::Bad(kind) => {
                    self.bad.get_or_insert((self.offset, kind));
                    let skip = next_magic(rest);
                    at += skip;
                    self.offset += skip as u64;
                    self.give_up()?;
                }
            }
        }
    }

    fn out_of_input(&mut self, at: usize, at_end: bool) -> Result<(usize, Step), Error> {
        if !at_end {
            return Ok((at, Step::More));
        }
        if self.any {
            return Ok((at, self.end_damage().map_or(Step::End, Step::Damage)));
        }
        match self.bad {
            Some((_, DamageKind::Magic { .. })) => Err(self.refuse_all()),
            Some(_) if self.future.is_some() => Err(self.refuse_all()),
            Some(_) => {
                self.any = true;
                Ok((at, self.end_damage().map_or(Step::End, Step::Damage)))
            }
            None => {
                self.refused = true;
                Err(Error::new(ErrorKind::Empty, 0, &[]))
            }
        }
    }

    fn end_damage(&mut self) -> Option<Damage> {
        let (offset, kind) = self.bad.take()?;
        Some(Damage { offset, len: self.offset - offset, kind })
    }

    fn give_up(&mut self) -> Result<(), Error> {
        match self.bad {
            Some((from, DamageKind::Magic { .. }))
                if !self.any && self.offset - from > SEARCH_BYTES_MAX =>
            {
                Err(self.refuse_all())
            }
            _ => Ok(()),
        }
    }

    /// Nothing in the input is a batch, and it does not begin like one of ours.
    fn refuse_all(&mut self) -> Error {
        self.refused = true;
        match self.future {
            Some(found) => Error::new(ErrorKind::Version { found }, 0, &self.first),
            None => Error::new(ErrorKind::NotATrace, 0, &self.first),
        }
    }

    fn refuse(&mut self, found: u16) -> Error {
        self.refused = true;
        Error::new(ErrorKind::Version { found }, self.offset, &[])
    }
}

/// Splits bytes that come in pieces into batches.
#[derive(Debug, Default)]
pub struct BatchReader {
    held: Vec<u8>,
    start: usize,
    ended: bool,
    finder: Finder,
}

impl BatchReader {
    /// A reader at offset 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the input. Ask [`BatchReader::next_batch`] until it gives `None`
    /// before the next push; otherwise what is held grows.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.drain(..self.start);
        self.start = 0;
        self.held.extend_from_slice(bytes);
    }

    /// Says that the input ends here.
    pub fn finish(&mut self) {
        self.ended = true;
    }

    /// The next batch or damage; `None` where more input is needed, and at the end.
    pub fn next_batch(&mut self) -> Result<Option<Next<'_>>, Error> {
        Ok(match self.find()? {
            None => None,
            Some(Found::Damage(damage)) => Some(Next::Damage(damage)),
            Some(Found::Batch(place)) => Some(Next::Batch(self.view(&place))),
        })
    }

    /// The same, without borrowing from `self`: the place is good until the next push or find.
    pub(crate) fn find(&mut self) -> Result<Option<Found>, Error> {
        let input = self.held.get(self.start..).unwrap_or_default();
        let (skip, step) = self.finder.step(input, self.ended)?;
        self.start += skip;
        Ok(match step {
            Step::More | Step::End => None,
            Step::Damage(damage) => Some(Found::Damage(damage)),
            Step::Batch(header) => {
                let place = Place { offset: self.finder.offset, header, at: self.start };
                self.start += header.length as usize;
                self.finder.offset += u64::from(header.length);
                Some(Found::Batch(place))
            }
        })
    }

    pub(crate) fn view(&self, place: &Place) -> Batch<'_> {
        let end = place.at + place.header.length as usize;
        let bytes = self.held.get(place.at..end).unwrap_or_default();
        Batch { offset: place.offset, header: place.header, bytes }
    }

    /// Bytes of memory that it holds.
    pub fn held_bytes(&self) -> usize {
        self.held.capacity()
    }
}

/// The batches of an input that is in memory as a whole, without copying.
#[derive(Debug)]
pub struct Batches<'a> {
    input: &'a [u8],
    finder: Finder,
}

impl<'a> Batches<'a> {
    /// Reads `input` from its start.
    pub fn new(input: &'a [u8]) -> Self {
        Batches { input, finder: Finder::default() }
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<Next<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let (skip, step) = match self.finder.step(self.input, true) {
            Ok(found) => found,
            Err(e) => return Some(Err(e)),
        };
        self.input = self.input.get(skip..).unwrap_or_default();
        match step {
            Step::More | Step::End => None,
            Step::Damage(damage) => Some(Ok(Next::Damage(damage))),
            Step::Batch(header) => {
                let (bytes, rest) = self.input.split_at_checked(header.length as usize)?;
                self.input = rest;
                let offset = self.finder.offset;
                self.finder.offset += u64::from(header.length);
                Some(Ok(Next::Batch(Batch { offset, header, bytes })))
            }
        }
    }
}
