//! The definition log: what ids mean, append-only, written before an id can be found.
//!
//! ```text
//! segment (a buffer of the pool)
//! 0        64                                                             65,536
//! | head   | record 0 | record 1 | ..  -->     <--  .. | entry 1 | entry 0 |
//!
//! head.publish   closed (1 bit) << 63 | entries << 32 | bytes of records
//! head.next      the segment after this one: index + 1, 0 none yet
//! head.sequence  number of the segment in its log
//! entry          offset << 32 | length: 0 until the record is complete
//! ```
//!
//! A record is a structural event as it stands in a definitions batch, so that the drainer copies
//! it and nothing else. Entries have a fixed size and a place of their own, so that a scan steps
//! over a record that is not complete.
//!
//! Room is reserved by compare-and-swap and not by one addition: an addition that does not fit has
//! already happened, and a scan that comes before the segment is marked as closed would take
//! record bytes for entries. Here the word never says more than there is.
//!
//! **Rule D.** A batch can need a definition only if it was complete before its id was findable:
//!
//! 1. An entry MUST be stored (Release) after the record's bytes. Otherwise half a record is read.
//! 2. An id MUST become findable after its entry is stored, and the drainer MUST scan after it
//!    took a batch (Acquire). Otherwise a batch is written before what it needs.
//! 3. A scan looks at entries downwards and hands them out upwards. A record that names another
//!    one has the higher entry; if it is seen complete, the other one, looked at later, is too.
//! 4. A segment that had no room for a record is closed before the next one is looked at, and a
//!    closed one gets no more entries. Otherwise the cursor, which is past it, misses some.
//! 5. A scan checks every index, offset and length: the log may stand in a broken mapping.

use crate::buf::Arena;
use crate::buf::BUFFER_BYTES;
use crate::buf::HEAD_BYTES;
use crate::buf::target;
use crate::sync::AtomicU32;
use crate::sync::AtomicU64;
use crate::sync::Mutant;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;
use crate::sync::Ordering::Release;
use crate::sync::order;
use crate::sync::planted;

/// Longest record, in bytes: half a segment, so that a long one wastes at most half of one.
pub const RECORD_BYTES_MAX: u32 = BUFFER_BYTES / 2;

pub(super) const ENTRY_BYTES: u32 = 8;
const CLOSED: u64 = 1 << 63;

/// The contents of segments: of a mapping, or of a model.
pub trait Body: Arena {
    /// Bytes of a segment, head included.
    fn segment_bytes(&self) -> u32 {
        BUFFER_BYTES
    }

    /// Entry `n` of a segment, counted from its end. The caller has compared `index` with
    /// [`Arena::len`] and `n` with [`entries_max`].
    fn entry(&self, index: u32, n: u32) -> &AtomicU64;

    /// Copies `len` bytes at `offset`, a multiple of 8, to `into`, replacing what is there. The
    /// caller has checked that the bytes, up to the next multiple of 8, lie in the segment.
    fn copy(&self, index: u32, offset: u32, len: u32, into: &mut Vec<u8>);

    /// Hands out `len` bytes at `offset` to be written; says what `write` said.
    ///
    /// # Safety
    /// * The bytes are reserved by the caller and no entry stands for them: nobody else reads or
    ///   writes them until this returns.
    /// * They lie inside the segment, behind its head.
    unsafe fn fill(
        &self,
        index: u32,
        offset: u32,
        len: u32,
        write: impl FnOnce(&mut [u8]) -> bool,
    ) -> bool;

    /// Sets all bytes behind the head to zero.
    ///
    /// # Safety
    /// * The caller owns the buffer, and it is in no list.
    unsafe fn wipe(&self, index: u32);
}

/// Where segments come from.
pub trait Segments: Body {
    /// A buffer for a new segment. Signal-safe.
    fn take(&self) -> Option<u32>;
    /// Gives back a buffer that another segment was faster than. Signal-safe.
    fn give_back(&self, index: u32);
}

/// Most entries of a segment.
pub fn entries_max(segment_bytes: u32) -> u32 {
    (segment_bytes - HEAD_BYTES) / ENTRY_BYTES
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Buffer index of the segment.
    pub segment: u32,
    /// Number of the entry in it.
    pub entry: u32,
    /// Offset of the record in it, in bytes.
    pub offset: u32,
    /// Length of the record.
    pub len: u32,
}

/// The log of one table epoch. All zero is the empty log.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), repr(C))]
pub struct Log {
    /// The first segment: index + 1.
    first: AtomicU32,
    /// A segment near the last one: index + 1. Saves walking, says nothing.
    current: AtomicU32,
}

impl Log {
    /// Appends a record of `len` bytes (1 to [`RECORD_BYTES_MAX`]), which `write` fills exactly,
    /// saying whether it did.
    ///
    /// `None` where there is no room: `segments_max` are in use or no buffer is free. Lock-free,
    /// signal-safe, also within an insert of the same thread.
    pub fn insert<S: Segments>(
        &self,
        segments: &S,
        segments_max: u32,
        len: u32,
        write: impl FnOnce(&mut [u8]) -> bool,
    ) -> Option<Place> {
        if len == 0 || len > RECORD_BYTES_MAX.min(segments.segment_bytes() / 2) {
            return None;
        }
        // Acquire: pairs with Release in `link` and below: the segment was wiped.
        let mut index = match target(segments, self.current.load(Acquire)) {
            Some(index) => index,
            None => self.link(segments, None, segments_max)?,
        };
        loop {
            if let Some((entry, offset)) = reserve(segments, index, len.next_multiple_of(8)) {
                let place = Place { segment: index, entry, offset, len };
                return put(segments, place, write).then_some(place);
            }
            let next = self.link(segments, Some(index), segments_max)?;
            // Release: pairs with Acquire above. Failing leaves a hint that is as good.
            let _ = self.current.compare_exchange(index + 1, next + 1, Release, Relaxed);
            index = next;
        }
    }

    /// The segment after `last`, or the first one; linked now if there is none yet.
    fn link<S: Segments>(&self, segments: &S, last: Option<u32>, max: u32) -> Option<u32> {
        let (link, number) = match last {
            None => (&self.first, 0),
            Some(index) => {
                let head = segments.head(index);
                (&head.next, head.sequence.load(Relaxed).saturating_add(1))
            }
        };
        // Acquire: pairs with Release below: the segment was wiped.
        let there = link.load(Acquire);
        let new = if there != 0 {
            target(segments, there)?
        } else if number >= max {
            return None;
        } else {
            let fresh = segments.take()?;
            // SAFETY: the buffer was just taken out of the pool and is linked below.
            unsafe { segments.wipe(fresh) };
            let head = segments.head(fresh);
            head.publish.store(0, Relaxed);
            head.next.store(0, Relaxed);
            head.sequence.store(number, Relaxed);
            // Release: pairs with Acquire above and in `Cursor::collect`.
            match link.compare_exchange(0, fresh + 1, Release, Acquire) {
                Ok(_) => fresh,
                Err(now) => {
                    segments.give_back(fresh);
                    target(segments, now)?
                }
            }
        };
        if last.is_none() {
            // Release: pairs with Acquire in `insert`.
            let _ = self.current.compare_exchange(0, new + 1, Release, Relaxed);
        }
        Some(new)
    }

    /// The segments of the log, first to last.
    pub fn segments<'a, B: Body>(&self, body: &'a B) -> impl Iterator<Item = u32> + use<'a, B> {
        // Acquire, here and below: pairs with Release in `link`.
        let mut link = self.first.load(Acquire);
        // No chain is longer than the arena, unless a broken mapping has made a ring of it.
        (0..body.len()).map_while(move |_| {
            let index = target(body, link)?;
            link = body.head(index).next.load(Acquire);
            Some(index)
        })
    }

    /// Forgets all segments; the caller has collected them, and nobody inserts or scans.
    pub fn clear(&self) {
        self.first.store(0, Relaxed);
        self.current.store(0, Relaxed);
    }
}

/// Reserves an entry and `bytes`, a multiple of 8, in a segment; closes it where they do not fit.
fn reserve(segments: &impl Body, index: u32, bytes: u32) -> Option<(u32, u32)> {
    let room = u64::from(segments.segment_bytes() - HEAD_BYTES);
    let word = &segments.head(index).publish;
    let mut now = word.load(Relaxed);
    loop {
        let (entries, used) = split(now);
        if now & CLOSED != 0 {
            return None;
        }
        let end = u64::from(used) + u64::from(bytes);
        let fits = end + u64::from(ENTRY_BYTES) * (u64::from(entries) + 1) <= room;
        let new = if fits { u64::from(entries + 1) << 32 | end } else { now | CLOSED };
        // Relaxed: a scan that needs the entry comes after the insert by Rule D.
        match word.compare_exchange_weak(now, new, Relaxed, Relaxed) {
            Ok(_) => return fits.then_some((entries, HEAD_BYTES + used)),
            Err(seen) => now = seen,
        }
    }
}

/// Entries and bytes of a segment's word.
fn split(word: u64) -> (u32, u32) {
    (((word & !CLOSED) >> 32) as u32, word as u32)
}

/// Writes a record to its reserved place and makes it count.
fn put<S: Segments>(segments: &S, p: Place, write: impl FnOnce(&mut [u8]) -> bool) -> bool {
    let entry = segments.entry(p.segment, p.entry);
    let value = u64::from(p.offset) << 32 | u64::from(p.len);
    if planted(Mutant::LogCommitFirst) {
        entry.store(value, Release);
    }
    // SAFETY: `reserve` gave these bytes to this call alone, and the entry is 0 until below.
    if !unsafe { segments.fill(p.segment, p.offset, p.len, write) } {
        return false;
    }
    // Release: pairs with Acquire in `Cursor::scan` (log#1).
    entry.store(value, order(Release, Mutant::LogCommitOrder));
    true
}

/// A reader's way through a log. Allocates; for the drainer and for recovery.
#[derive(Debug, Default)]
pub struct Cursor {
    /// The segment that was reached: index + 1.
    segment: u32,
    /// Entries of it that were seen.
    entries: u32,
    /// Segments that were left behind.
    passed: u32,
    /// Entries that were seen and not handed out, oldest first.
    spots: Vec<Spot>,
    record: Vec<u8>,
    damaged: u64,
}

#[derive(Clone, Copy, Debug)]
struct Spot {
    segment: u32,
    entry: u32,
    value: u64,
}

impl Cursor {
    /// Hands out every record that is complete and was not handed out before, each once; one that
    /// names another comes after it.
    pub fn scan(&mut self, log: &Log, body: &impl Body, mut f: impl FnMut(&[u8])) {
        self.collect(log, body);
        let look = |spot: &mut Spot| {
            // Acquire: pairs with Release in `put` (log#1).
            let acquire = order(Acquire, Mutant::LogScanOrder);
            spot.value = body.entry(spot.segment, spot.entry).load(acquire);
        };
        if planted(Mutant::LogScanUpward) {
            self.spots.iter_mut().for_each(look);
        } else {
            self.spots.iter_mut().rev().for_each(look);
        }
        let Cursor { spots, record, damaged, .. } = self;
        spots.retain(|spot| {
            if spot.value == 0 {
                return true;
            }
            match extent(body.segment_bytes(), spot) {
                Some((offset, len)) => {
                    body.copy(spot.segment, offset, len, record);
                    f(record);
                }
                None => *damaged += 1,
            }
            false
        });
    }

    /// Notes the entries that were added since the last call.
    fn collect(&mut self, log: &Log, body: &impl Body) {
        if self.segment == 0 {
            // Acquire: pairs with Release in `Log::link`.
            self.segment = log.first.load(Acquire);
        }
        while let Some(segment) = target(body, self.segment) {
            let head = body.head(segment);
            let word = head.publish.load(Relaxed);
            let (entries, bytes) = split(word);
            let room = u64::from(body.segment_bytes() - HEAD_BYTES);
            let sound = u64::from(bytes) + u64::from(entries) * u64::from(ENTRY_BYTES) <= room;
            if sound {
                let new = self.entries..entries;
                self.spots.extend(new.map(|entry| Spot { segment, entry, value: 0 }));
                self.entries = self.entries.max(entries);
            }
            // Acquire: pairs with Release in `Log::link`.
            let next = head.next.load(Acquire);
            let closed = word & CLOSED != 0 || planted(Mutant::LogClose);
            let on = sound && closed && target(body, next).is_some();
            if !on || self.passed >= body.len() {
                self.damaged += u64::from(!sound);
                return;
            }
            self.passed += 1;
            self.segment = next;
            self.entries = 0;
        }
    }

    /// How many segments of the log were reached.
    pub fn reached(&self) -> u32 {
        self.passed + u32::from(self.segment != 0)
    }

    /// Records that were begun before the last scan and not complete by then.
    pub fn holes(&self) -> usize {
        self.spots.len()
    }

    /// Entries and segments that were stepped over because they cannot be right.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }
}

/// Offset and length of a record, if an insert can have left this entry.
fn extent(segment_bytes: u32, spot: &Spot) -> Option<(u32, u32)> {
    let (offset, len) = ((spot.value >> 32) as u32, spot.value as u32);
    let end = u64::from(offset) + u64::from(len).next_multiple_of(8);
    let limit = segment_bytes - ENTRY_BYTES * (spot.entry + 1);
    let sound = offset.is_multiple_of(8)
        && offset >= HEAD_BYTES
        && (1..=RECORD_BYTES_MAX).contains(&len)
        && end <= u64::from(limit);
    sound.then_some((offset, len))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::buf::Buffers;
    use crate::buf::test_arena::TestArena;
    use crate::sync::thread;

    fn add(log: &Log, a: &TestArena, max: u32, bytes: &[u8]) -> Option<Place> {
        log.insert(a, max, bytes.len() as u32, |to| {
            to.copy_from_slice(bytes);
            true
        })
    }

    fn all(cursor: &mut Cursor, log: &Log, a: &TestArena) -> Vec<Vec<u8>> {
        let mut v = Vec::new();
        cursor.scan(log, a, |r| v.push(r.to_vec()));
        v
    }

    #[test]
    fn records_come_out_once_in_order_over_segments() {
        let a = TestArena::new(4, 0xaa);
        let (log, mut cursor) = (Log::default(), Cursor::default());
        assert!(all(&mut cursor, &log, &a).is_empty());
        let records: Vec<Vec<u8>> =
            (0..300u32).map(|i| vec![i as u8; 1 + (i as usize * 37) % 900]).collect();
        let mut seen = Vec::new();
        for (i, r) in records.iter().enumerate() {
            assert!(add(&log, &a, 4, r).is_some());
            if i % 7 == 0 {
                seen.extend(all(&mut cursor, &log, &a));
            }
        }
        seen.extend(all(&mut cursor, &log, &a));
        assert_eq!(seen, records);
        assert!(all(&mut cursor, &log, &a).is_empty(), "each once");
        assert_eq!((cursor.holes(), cursor.damaged()), (0, 0));
        let used: Vec<u32> = log.segments(&a).collect();
        assert!(used.len() >= 2, "135,000 bytes take more than one segment");
        assert_eq!(a.pool.free(), 4 - used.len() as u32);
        assert_eq!(all(&mut Cursor::default(), &log, &a), records, "a late reader gets all");
    }

    #[test]
    fn a_record_that_was_given_up_is_a_hole_and_nothing_more() {
        let a = TestArena::new(1, 0xaa);
        let (log, mut cursor) = (Log::default(), Cursor::default());
        assert!(log.insert(&a, 1, 5, |_| false).is_none());
        assert!(add(&log, &a, 1, b"after").is_some());
        assert_eq!(all(&mut cursor, &log, &a), [b"after"]);
        assert_eq!(cursor.holes(), 1);
        assert!(all(&mut cursor, &log, &a).is_empty());
    }

    #[test]
    fn a_hole_is_handed_out_once_it_is_filled_and_before_what_is_newer() {
        let a = TestArena::new(1, 0xaa);
        let (log, mut cursor) = (Log::default(), Cursor::default());
        // While the first record is written, a handler inserts one, and the drainer scans.
        log.insert(&a, 1, 5, |to| {
            assert!(add(&log, &a, 1, b"inner").is_some());
            assert_eq!(all(&mut cursor, &log, &a), [b"inner"]);
            assert_eq!(cursor.holes(), 1);
            to.copy_from_slice(b"outer");
            true
        })
        .unwrap();
        add(&log, &a, 1, b"later").unwrap();
        assert_eq!(all(&mut cursor, &log, &a), [b"outer", b"later"]);
        assert_eq!(cursor.holes(), 0);
    }

    #[test]
    fn bounds_are_kept() {
        let a = TestArena::new(3, 0xaa);
        let log = Log::default();
        assert!(add(&log, &a, 2, b"").is_none());
        assert!(add(&log, &a, 2, &vec![1; RECORD_BYTES_MAX as usize + 1]).is_none());
        let big = vec![7; RECORD_BYTES_MAX as usize];
        assert!(add(&log, &a, 2, &big).is_some());
        assert!(add(&log, &a, 2, &big).is_some(), "the second needs a second segment");
        assert!(add(&log, &a, 2, &big).is_none(), "a third segment is not allowed");
        assert_eq!(a.pool.free(), 1);
        assert!(add(&log, &a, 3, &big).is_some(), "until it is");
        assert!(add(&log, &a, 9, &big).is_none(), "and then no buffer is free");
        assert_eq!(a.pool.free(), 0);
        assert_eq!(all(&mut Cursor::default(), &log, &a).len(), 3);
    }

    #[test]
    fn segments_fill_to_the_last_byte() {
        let a = TestArena::new(2, 0xaa);
        let log = Log::default();
        // 65,472 bytes behind the head, 16 bytes for the shortest record with its entry.
        for i in 0..4092u32 {
            assert_eq!(add(&log, &a, 1, &[i as u8]).map(|p| p.entry), Some(i));
        }
        assert!(add(&log, &a, 1, &[0]).is_none());
        assert_eq!(all(&mut Cursor::default(), &log, &a).len(), 4092);
    }

    #[test]
    fn a_broken_mapping_costs_records_and_never_bounds() {
        let mut checked = 0;
        for seed in 0..if cfg!(miri) { 2 } else { 400u64 } {
            let a = TestArena::new(3, 0xaa);
            let (log, mut cursor) = (Log::default(), Cursor::default());
            for i in 0..200u32 {
                let _ = add(&log, &a, 3, &vec![i as u8; 1 + (i as usize * 53) % 800]);
            }
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut random = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            for _ in 0..if cfg!(miri) { 4 } else { 1 + random() % 40 } {
                let index = (random() % 3) as u32;
                match random() % 6 {
                    0 => a.head(index).publish.store(random(), Relaxed),
                    1 => a.head(index).next.store(random() as u32 % 5, Relaxed),
                    2 => log.first.store(random() as u32 % 5, Relaxed),
                    _ => a.entry(index, random() as u32 % 150).store(random(), Relaxed),
                }
                cursor.scan(&log, &a, |r| {
                    assert!((1..=RECORD_BYTES_MAX as usize).contains(&r.len()));
                    checked += 1;
                });
            }
            assert!(log.segments(&a).count() <= 3);
        }
        assert!(checked > 100);
    }

    #[test]
    fn entries_that_point_outside_are_counted() {
        let a = TestArena::new(1, 0xaa);
        let log = Log::default();
        for _ in 0..4 {
            add(&log, &a, 1, b"12345678").unwrap();
        }
        let wild = [(0u64, 8u64), (60, 8), (65_536 - 8, 8), (64, 40_000)];
        for (n, (offset, len)) in wild.into_iter().enumerate() {
            a.entry(0, n as u32).store(offset << 32 | len, Relaxed);
        }
        let mut cursor = Cursor::default();
        assert!(all(&mut cursor, &log, &a).is_empty());
        assert_eq!(cursor.damaged(), 4);
    }

    #[test]
    fn writers_and_a_reader_at_the_same_time() {
        const EACH: u64 = if cfg!(miri) { 40 } else { 20_000 };
        let a = TestArena::new(40, 0xaa);
        let (log, mut cursor) = (Log::default(), Cursor::default());
        let mut seen = [0u64; 3];
        thread::scope(|s| {
            for writer in 0..3u64 {
                let (a, log) = (&a, &log);
                s.spawn(move || {
                    for n in 0..EACH {
                        let len = 16 + (n % 5) as usize;
                        let mut r = vec![writer as u8; len];
                        r[..8].copy_from_slice(&n.to_le_bytes());
                        add(log, a, 40, &r).unwrap();
                    }
                });
            }
            while seen.iter().sum::<u64>() < 3 * EACH {
                cursor.scan(&log, &a, |r| {
                    let n = u64::from_le_bytes(*r.first_chunk().unwrap());
                    let writer = r[8];
                    assert!(r[8..].iter().all(|b| *b == writer), "half a record");
                    assert_eq!(r.len(), 16 + (n % 5) as usize);
                    assert_eq!(n, seen[writer as usize], "out of order or twice");
                    seen[writer as usize] += 1;
                });
            }
        });
        assert_eq!(cursor.holes(), 0);
        assert_eq!(
            a.pool.free() as usize,
            40 - log.segments(&a).count(),
            "losers gave theirs back"
        );
        assert!(!a.start(0).is_null());
    }
}
