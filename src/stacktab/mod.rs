//! Stacks to ids: the table of one epoch.
//!
//! A stack is defined in the log, as the structural event of the format, before its id can be
//! found. A look-up of a stack that was seen before touches one slot and one entry.

pub mod capture;
pub mod modules;

use crate::encode::field::Writer;
use crate::encode::schema::Kind;
use crate::encode::schema::STACK_FLAGS;
use crate::encode::schema::STACK_TRUNCATED;
use crate::encode::schema::Stack;
use crate::encode::varint;
use crate::encode::wire::FRAMES_MAX;
use crate::intern::Definitions;
use crate::intern::Key;
use crate::intern::Keys;
use crate::intern::Table;
use crate::intern::log::Segments;
use crate::sync::AtomicU64;
use crate::sync::Ordering::Relaxed;
use crate::sync::equal;

/// The stacks of one table epoch.
#[derive(Debug)]
pub struct StackTable<'a> {
    keys: &'a Keys,
    table: Table<'a>,
}

impl<'a> StackTable<'a> {
    /// A table in zeroed memory, see [`Table::new`]; a stack takes its frames and a word.
    pub fn new(
        keys: &'a Keys,
        slots: &'a [AtomicU64],
        words: &'a [AtomicU64],
        entries_max: u32,
    ) -> StackTable<'a> {
        StackTable { keys, table: Table::new(slots, words, entries_max) }
    }

    /// The multipliers: whoever walks a stack adds `keys().step(i, frame)` for each frame.
    #[inline(always)]
    pub fn keys(&self) -> &'a Keys {
        self.keys
    }

    /// The sum that [`id`](StackTable::id) wants, for frames that were not hashed while walking.
    pub fn sum(&self, frames: &[u64]) -> u64 {
        self.keys.sum(frames.iter().copied())
    }

    /// The id of a stack, innermost frame first; `sum` is [`sum`](StackTable::sum) of the frames,
    /// `flags` the event's. 0 for no frames, and where it can not be kept, which the
    /// caller counts. Lock-free, signal-safe.
    #[inline]
    pub fn id<S: Segments>(
        &self,
        frames: &[u64],
        sum: u64,
        flags: u64,
        to: &Definitions<'_, S>,
    ) -> u32 {
        if frames.is_empty() || frames.len() > FRAMES_MAX {
            return self.unusual(frames, to);
        }
        let key = Walk { frames, flags };
        self.table.id(&key, Keys::finish(sum, key.meta()), |id| define(id, frames, flags, to))
    }

    #[cold]
    fn unusual<S: Segments>(&self, frames: &[u64], to: &Definitions<'_, S>) -> u32 {
        match frames.get(..FRAMES_MAX) {
            Some(inner) => self.id(inner, self.sum(inner), STACK_TRUNCATED, to),
            None => 0,
        }
    }

    /// How many stacks can be found.
    pub fn len(&self) -> u32 {
        self.table.len()
    }

    /// Whether no stack can be found.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Whether a stack was refused because a bound of the table is reached: time for a new epoch.
    pub fn is_full(&self) -> bool {
        self.table.is_full()
    }
}

struct Walk<'f> {
    frames: &'f [u64],
    flags: u64,
}

impl Key for Walk<'_> {
    #[inline(always)]
    fn meta(&self) -> u32 {
        (self.frames.len() as u32) << 4 | (self.flags & STACK_FLAGS) as u32
    }

    #[inline(always)]
    fn words(&self) -> usize {
        self.frames.len()
    }

    #[inline(always)]
    unsafe fn equals(&self, words: &[AtomicU64]) -> bool {
        // SAFETY: the caller says that the words are complete and do not change.
        unsafe { equal(words, self.frames) }
    }

    fn store(&self, words: &[AtomicU64]) {
        words.iter().zip(self.frames).for_each(|(w, f)| w.store(*f, Relaxed));
    }
}

#[cold]
fn define<S: Segments>(id: u32, frames: &[u64], flags: u64, to: &Definitions<'_, S>) -> bool {
    let mut len = varint::len(Kind::Stack as u64) + varint::len(id.into()) + varint::len(flags);
    len += varint::len(frames.len() as u64);
    let mut last = 0u64;
    for &frame in frames {
        len += varint::len(varint::zigzag(frame.wrapping_sub(last) as i64));
        last = frame;
    }
    let write = |bytes: &mut [u8]| {
        let mut w = Writer::new(bytes);
        Stack::put(&mut w, id.into(), flags, frames).is_some() && w.len() == len
    };
    to.insert(len, write).is_some()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::buf::Arena;
    use crate::buf::test_arena::TestArena;
    use crate::encode::field::Reader;
    use crate::intern::log::Cursor;
    use crate::intern::log::Log;
    use crate::intern::slots_for;
    use crate::sync::thread;
    use std::collections::HashMap;

    const SEED: Keys = Keys::new(0x1234_5678_9abc_def0);

    fn zeroed(n: usize) -> Vec<AtomicU64> {
        (0..n).map(|_| AtomicU64::new(0)).collect()
    }

    /// What the log says: id to (frames, truncated).
    fn defined(log: &Log, a: &TestArena) -> HashMap<u64, (Vec<u64>, bool)> {
        let mut map = HashMap::new();
        Cursor::default().scan(log, a, |record| {
            let mut r = Reader::new(record);
            assert_eq!(r.varint(), Some(Kind::Stack as u64));
            let s = Stack::read(&mut r).expect("a stack");
            assert!(r.rest().is_empty(), "the record is exactly as long as the event");
            let old = map.insert(s.id, (s.frames.iter().collect(), s.flags == STACK_TRUNCATED));
            assert!(old.is_none(), "an id has one meaning");
        });
        map
    }

    #[test]
    fn ids_mean_what_the_log_says() {
        let a = TestArena::new(4, 0xaa);
        let log = Log::default();
        let to = Definitions { log: &log, segments: &a, segments_max: 4 };
        let (slots, words) = (zeroed(64), zeroed(1000));
        let t = StackTable::new(&SEED, &slots, &words, 32);
        let id = |f: &[u64], cut| t.id(f, t.sum(f), u64::from(cut), &to);
        assert_eq!(id(&[], false), 0);
        assert!(t.is_empty() && !t.is_full());
        let long: Vec<u64> = (0..200).map(|i| 0x7fff_0000_0000 - i * 0x123_4567).collect();
        let stacks: [(&[u64], bool); 6] = [
            (&[0x1000], false),
            (&[0x1000, 0x2000], false),
            (&[0x2000, 0x1000], false),
            (&[0x1000], true),
            (&[u64::MAX, 0, 1, u64::MAX], false),
            (&long[..128], false),
        ];
        let ids: Vec<u32> = stacks.iter().map(|(f, cut)| id(f, *cut)).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5, 6]);
        assert_eq!(stacks.map(|(f, cut)| id(f, cut)).to_vec(), ids, "found again");
        assert_eq!(id(&long, false), 7, "cut at 128 and flagged");
        assert_eq!(id(&long[..128], true), 7);
        let map = defined(&log, &a);
        assert_eq!(map.len(), 7);
        for ((frames, cut), id) in stacks.iter().zip(ids) {
            assert_eq!(map[&u64::from(id)], (frames.to_vec(), *cut));
        }
        assert_eq!(map[&7], (long[..128].to_vec(), true));
    }

    #[test]
    fn a_million_stacks_meet_the_bound_and_nothing_else_happens() {
        let (all, max) = if cfg!(miri) { (60, 20) } else { (1_000_000, 50_000) };
        let a = TestArena::new(80, 0xaa);
        let log = Log::default();
        let to = Definitions { log: &log, segments: &a, segments_max: 60 };
        let (slots, words) = (zeroed(slots_for(max)), zeroed(max as usize * 9 + 1));
        let t = StackTable::new(&SEED, &slots, &words, max);
        let mut kept = 0;
        for i in 0..all {
            let frames = [i, 1, 2, 3, 4, 5, 6, 7 + i * 16].map(|x| 0x5555_5555_0000 + x * 4);
            let id = t.id(&frames, t.sum(&frames), 0, &to);
            kept += u32::from(id != 0);
            assert_eq!(id != 0, kept == i as u32 + 1, "once full, always full");
        }
        assert_eq!((kept, t.len(), t.is_full()), (max, max, true));
        let frames = [0, 1, 2, 3, 4, 5, 6, 7].map(|x| 0x5555_5555_0000 + x * 4);
        assert_eq!(t.id(&frames, t.sum(&frames), 0, &to), 1, "what is there is found");
        assert_eq!(defined(&log, &a).len(), max as usize);
        assert!(log.segments(&a).count() < a.len() as usize);
    }

    #[test]
    fn threads_agree() {
        const ROUNDS: u64 = if cfg!(miri) { 30 } else { 20_000 };
        let a = TestArena::new(60, 0xaa);
        let log = Log::default();
        let to = Definitions { log: &log, segments: &a, segments_max: 60 };
        let (slots, words) = (zeroed(4096), zeroed(20_000));
        let t = StackTable::new(&SEED, &slots, &words, 2000);
        let lists: Vec<HashMap<u64, Vec<u32>>> = thread::scope(|s| {
            let spawn = |_| {
                s.spawn(|| {
                    let mut ids: HashMap<u64, Vec<u32>> = HashMap::new();
                    for i in 0..ROUNDS {
                        let key = i * 7919 % 1000;
                        let frames = [key * 3, 17, key + 5];
                        let id = t.id(&frames, t.sum(&frames), 0, &to);
                        assert_ne!(id, 0);
                        let list = ids.entry(key).or_default();
                        if list.last() != Some(&id) {
                            list.push(id);
                        }
                    }
                    ids
                })
            };
            let threads: Vec<_> = (0..3).map(spawn).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let map = defined(&log, &a);
        let mut checked = 0;
        for (key, ids) in lists.iter().flatten() {
            assert_eq!(ids.len(), 1, "a thread keeps to one id");
            assert_eq!(map[&u64::from(ids[0])].0, [key * 3, 17, key + 5]);
            assert_eq!(ids, &lists[0][key], "what all use later is what was findable first");
            checked += 1;
        }
        assert_eq!(checked, 3 * lists[0].len());
    }
}
