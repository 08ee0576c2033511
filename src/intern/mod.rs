//! Bytes to ids, append-only: what the tables of stacks and of strings are made of.
//!
//! ```text
//! slots  | 0 | tag << 32 | at | 0 | ..        open addressing, a power of two
//! words  | - | id << 32 | meta | word 0 | word 1 | .. | id << 32 | meta | ..
//!              ^ at
//! ```
//!
//! The table is private memory of the process that the caller gives, zeroed, with fixed bounds:
//! an insert allocates nothing, waits for nobody and may interrupt another one of its own thread.
//! What an id means stands in the definition [`log`], which others read.
//!
//! 1. An entry MUST be defined in the log, and its words stored, before its slot is (Release).
//!    Otherwise a thread uses an id that no scan is bound to find (Rule D).
//! 2. A slot is stored once, from 0, and an entry never changes. Otherwise a look-up, which takes
//!    no lock, compares half of one key and half of another.
//! 3. Keys are compared whole; the hash only says where to look. One key may get two ids, when two
//!    threads are first with it; an id never gets two keys. 0 is no id.

#[cfg(not(loom))]
mod body;
pub mod log;

use crate::encode::wire::FRAMES_MAX;
use crate::encode::wire::TEXT_BYTES_MAX;
use crate::intern::log::Log;
use crate::intern::log::Place;
use crate::intern::log::Segments;
use crate::sync::AtomicBool;
use crate::sync::AtomicU32;
use crate::sync::AtomicU64;
use crate::sync::Mutant;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;
use crate::sync::Ordering::Release;
use crate::sync::order;
use crate::sync::planted;

/// Most words of a key: the longest stack, the longest text.
pub const KEY_WORDS_MAX: usize = 128;
const _: () = assert!(FRAMES_MAX <= KEY_WORDS_MAX && TEXT_BYTES_MAX.div_ceil(8) <= KEY_WORDS_MAX);

/// Slots that a look-up tries. With slots for twice the entries a longer run does not happen, and
/// a table that was given fewer is full before it is slow.
const PROBES_MAX: usize = 64;

/// Random odd multipliers, one for each position of a key.
///
/// The hash is the sum of the words, each multiplied by its position's number: the products do
/// not wait for each other, so that a stack walk hashes while it waits for memory.
#[derive(Debug)]
pub struct Keys([u64; KEY_WORDS_MAX]);

impl Keys {
    /// Multipliers from a random seed.
    pub const fn new(seed: u64) -> Keys {
        let mut keys = [0; KEY_WORDS_MAX];
        let mut state = seed;
        let mut i = 0;
        while i < KEY_WORDS_MAX {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            keys[i] = (z ^ (z >> 31)) | 1;
            i += 1;
        }
        Keys(keys)
    }

    /// What the word at this position adds to the hash, modulo 2^64.
    #[inline(always)]
    pub fn step(&self, position: usize, word: u64) -> u64 {
        word.wrapping_mul(self.0[position % KEY_WORDS_MAX])
    }

    /// The steps of all words, added.
    #[inline]
    pub fn sum(&self, words: impl Iterator<Item = u64>) -> u64 {
        words.zip(&self.0).fold(0, |sum, (word, key)| sum.wrapping_add(word.wrapping_mul(*key)))
    }

    /// The hash of a key with this sum. A sum of products carries differences upwards only; the
    /// upper half of a long product brings them down again.
    #[inline(always)]
    pub fn finish(sum: u64, meta: u32) -> u64 {
        fold(sum ^ u64::from(meta))
    }
}

/// Both halves of a long product, so that every bit of `v` reaches every part of the result.
#[inline(always)]
pub fn fold(v: u64) -> u64 {
    let product = u128::from(v) * 0x9fb2_1c65_1e98_df25;
    product as u64 ^ (product >> 64) as u64
}

/// What a table finds ids for: up to [`KEY_WORDS_MAX`] words and a number.
pub trait Key {
    /// Part of the key; keys of the same `meta` have the same number of words.
    fn meta(&self) -> u32;
    /// How many words it has.
    fn words(&self) -> usize;
    /// Whether its words are these; they are as many.
    ///
    /// # Safety
    /// * The words are those of an entry whose slot was seen (Acquire): they do not change.
    unsafe fn equals(&self, words: &[AtomicU64]) -> bool;
    /// Stores its words; there is room for as many.
    fn store(&self, words: &[AtomicU64]);
}

/// Where the tables of one epoch define their ids.
#[derive(Debug)]
pub struct Definitions<'m, S: Segments> {
    /// The log of the epoch.
    pub log: &'m Log,
    /// Where its segments stand and come from.
    pub segments: &'m S,
    /// Most segments that the log may have.
    pub segments_max: u32,
}

impl<S: Segments> Clone for Definitions<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S: Segments> Copy for Definitions<'_, S> {}

impl<S: Segments> Definitions<'_, S> {
    /// Appends a record of `len` bytes, see [`Log::insert`].
    pub fn insert(&self, len: usize, write: impl FnOnce(&mut [u8]) -> bool) -> Option<Place> {
        let len = u32::try_from(len).ok()?;
        self.log.insert(self.segments, self.segments_max, len, write)
    }
}

/// Slots that suffice for so many entries: a power of two, at least twice as many.
pub const fn slots_for(entries: u32) -> usize {
    (entries as usize * 2).next_power_of_two()
}

/// A table of one epoch.
#[derive(Debug)]
pub struct Table<'a> {
    slots: &'a [AtomicU64],
    words: &'a [AtomicU64],
    entries_max: u32,
    growth: Growth,
}

/// The run of a hash ends: no key of it is in the table.
struct End;

/// What inserts change, away from what look-ups read.
#[derive(Debug)]
#[repr(align(64))]
struct Growth {
    /// Words given out.
    used: AtomicU32,
    /// Entries that can be found.
    entries: AtomicU32,
    /// The newest id.
    ids: AtomicU32,
    /// An insert met a bound of the table.
    full: AtomicBool,
}

impl<'a> Table<'a> {
    /// A table in zeroed memory; `slots` is a power of two long, or nothing can be kept.
    pub fn new(slots: &'a [AtomicU64], words: &'a [AtomicU64], entries_max: u32) -> Table<'a> {
        let growth = Growth {
            used: AtomicU32::new(1), // 0 as a reference is the empty slot.
            entries: AtomicU32::new(0),
            ids: AtomicU32::new(0),
            full: AtomicBool::new(false),
        };
        let slots = if slots.len().is_power_of_two() { slots } else { &[] };
        let words = &words[..words.len().min(u32::MAX as usize / 2)];
        Table { slots, words, entries_max, growth }
    }

    /// How many keys can be found.
    pub fn len(&self) -> u32 {
        self.growth.entries.load(Relaxed)
    }

    /// Whether no key can be found.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a key was refused because a bound of the table is reached.
    pub fn is_full(&self) -> bool {
        self.growth.full.load(Relaxed)
    }

    /// The id of a key. A new one is defined by `define`, which says whether it could; 0 where
    /// the key can not be kept. Lock-free, signal-safe, also within `define`.
    #[inline(always)]
    pub fn id<K: Key>(&self, key: &K, hash: u64, define: impl FnOnce(u32) -> bool) -> u32 {
        // Nearly always the first slot is the one.
        if let Ok(Some(id)) = self.probe(key, hash, 0) {
            return id;
        }
        self.find_or_insert(key, hash, define)
    }

    /// What a slot of the run says: `Err` where the run ends, `None` where it is of another key.
    #[inline(always)]
    fn probe<K: Key>(&self, key: &K, hash: u64, probe: usize) -> Result<Option<u32>, End> {
        let slot = self.slot(hash, probe).ok_or(End)?;
        // Acquire: pairs with Release in `publish`: words and definition are there.
        match slot.load(order(Acquire, Mutant::TableFindOrder)) {
            0 => Err(End),
            slot => Ok(self.matches(slot, key, hash)),
        }
    }

    #[cold]
    #[inline(never)]
    fn find_or_insert<K: Key>(&self, key: &K, hash: u64, define: impl FnOnce(u32) -> bool) -> u32 {
        for probe in 0..PROBES_MAX {
            match self.probe(key, hash, probe) {
                Ok(Some(id)) => return id,
                Ok(None) => {}
                Err(End) => return self.insert(key, hash, probe, define),
            }
        }
        self.growth.full.store(true, Relaxed);
        0
    }

    #[inline(always)]
    fn slot(&self, hash: u64, probe: usize) -> Option<&AtomicU64> {
        let mask = self.slots.len().wrapping_sub(1);
        self.slots.get((hash as usize).wrapping_add(probe) & mask)
    }

    /// The id of the entry in a slot, if it is of this key.
    #[inline(always)]
    fn matches<K: Key>(&self, slot: u64, key: &K, hash: u64) -> Option<u32> {
        if slot >> 32 != hash >> 32 {
            return None;
        }
        let (head, rest) = self.words.get(slot as u32 as usize..)?.split_first()?;
        let head = head.load(Relaxed);
        if head as u32 != key.meta() {
            return None;
        }
        let words = rest.get(..key.words())?;
        // SAFETY: the slot was loaded with Acquire and refers to this entry, which was complete
        // before the slot was stored and never changes (intern#1, intern#2).
        unsafe { key.equals(words) }.then_some((head >> 32) as u32)
    }

    fn insert<K: Key>(
        &self,
        key: &K,
        hash: u64,
        probe: usize,
        define: impl FnOnce(u32) -> bool,
    ) -> u32 {
        let growth = &self.growth;
        let need = 1 + key.words();
        let bound = growth.entries.load(Relaxed) >= self.entries_max
            || growth.used.load(Relaxed) as usize + need > self.words.len()
            || self.slots.is_empty();
        if bound {
            growth.full.store(true, Relaxed);
            return 0;
        }
        let id = growth.ids.fetch_add(1, Relaxed) + 1;
        if planted(Mutant::TableFindableFirst) {
            let found = self.publish(key, hash, probe, id);
            return if define(id) { found } else { 0 };
        }
        if !define(id) {
            // So that small numbers are not spent on a log without room.
            let _ = growth.ids.compare_exchange(id, id - 1, Relaxed, Relaxed);
            return 0;
        }
        self.publish(key, hash, probe, id)
    }

    /// Makes an id findable; gives the one that is, or 0 where none can be.
    fn publish<K: Key>(&self, key: &K, hash: u64, first: usize, id: u32) -> u32 {
        let need = 1 + key.words();
        let at = self.growth.used.fetch_add(need as u32, Relaxed);
        let Some((head, rest)) =
            self.words.get(at as usize..at as usize + need).and_then(|w| w.split_first())
        else {
            self.growth.full.store(true, Relaxed);
            return 0;
        };
        head.store(u64::from(id) << 32 | u64::from(key.meta()), Relaxed);
        key.store(rest);
        let new = hash >> 32 << 32 | u64::from(at);
        for probe in first..PROBES_MAX {
            let Some(slot) = self.slot(hash, probe) else { break };
            // Release: pairs with Acquire in `find` (intern#1). Acquire: with another's Release.
            let release = order(Release, Mutant::TableFindableOrder);
            match slot.compare_exchange(0, new, release, Acquire) {
                Ok(_) => {
                    self.growth.entries.fetch_add(1, Relaxed);
                    return id;
                }
                Err(there) => {
                    if let Some(id) = self.matches(there, key, hash) {
                        return id;
                    }
                }
            }
        }
        self.growth.full.store(true, Relaxed);
        0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::collections::HashSet;

    struct Bare<'a>(&'a [u64]);

    impl Key for Bare<'_> {
        fn meta(&self) -> u32 {
            self.0.len() as u32
        }
        fn words(&self) -> usize {
            self.0.len()
        }
        unsafe fn equals(&self, words: &[AtomicU64]) -> bool {
            words.iter().zip(self.0).all(|(w, mine)| w.load(Relaxed) == *mine)
        }
        fn store(&self, words: &[AtomicU64]) {
            words.iter().zip(self.0).for_each(|(w, mine)| w.store(*mine, Relaxed));
        }
    }

    fn zeroed(n: usize) -> Vec<AtomicU64> {
        (0..n).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn equal_hashes_do_not_make_equal_keys() {
        let (slots, words) = (zeroed(16), zeroed(100));
        let t = Table::new(&slots, &words, 8);
        let keys: Vec<Vec<u64>> = vec![vec![], vec![1], vec![2], vec![1, 2], vec![2, 1], vec![0]];
        for (i, k) in keys.iter().enumerate() {
            assert_eq!(t.id(&Bare(k), 7, |_| true), i as u32 + 1);
        }
        for (i, k) in keys.iter().enumerate() {
            assert_eq!(t.id(&Bare(k), 7, |_| panic!("known")), i as u32 + 1);
        }
        assert_eq!(t.len(), 6);
    }

    #[test]
    fn every_bound_gives_no_id_and_no_definition() {
        let key = |n: u64| [n, n, n];
        for (slots, words, max, fit) in
            [(64, 1000, 5, 5), (64, 1 + 4 * 7 + 3, 50, 7), (4, 1000, 50, 4), (0, 1000, 9, 0)]
        {
            let (slots, words) = (zeroed(slots), zeroed(words));
            let t = Table::new(&slots, &words, max);
            let mut defined = 0;
            let kept = (1..30)
                .filter(|n| {
                    let define = |_| {
                        defined += 1;
                        true
                    };
                    t.id(&Bare(&key(*n)), *n << 32 | *n, define) != 0
                })
                .count();
            assert_eq!((kept, t.len(), t.is_full()), (fit, fit as u32, true));
            assert_eq!(defined, fit, "what can not be kept is not defined");
        }
    }

    #[test]
    fn no_definition_no_id() {
        let (slots, words) = (zeroed(16), zeroed(100));
        let t = Table::new(&slots, &words, 8);
        for _ in 0..1000 {
            assert_eq!(t.id(&Bare(&[5]), 5, |_| false), 0);
        }
        assert!(!t.is_full(), "the table has room, the log had none");
        assert_eq!(t.id(&Bare(&[5]), 5, |_| true), 1, "no number was spent");
    }

    #[test]
    fn a_handler_inside_an_insert_is_first_with_the_same_key() {
        let (slots, words) = (zeroed(16), zeroed(100));
        let t = Table::new(&slots, &words, 8);
        let outer = t.id(&Bare(&[5]), 5, |mine| {
            assert_eq!(mine, 1);
            assert_eq!(t.id(&Bare(&[5]), 5, |_| true), 2);
            assert_eq!(t.id(&Bare(&[6]), 5, |_| true), 3, "another key in the same run");
            true
        });
        assert_eq!(outer, 2, "the id that can be found, not the one that was too late");
        assert_eq!(t.id(&Bare(&[6]), 5, |_| panic!("known")), 3);
        assert_eq!(t.len(), 2);
    }

    #[test]
    fn hashes_of_likely_stacks_differ() {
        let keys = Keys::new(42);
        let mut tags = HashSet::new();
        let mut slots = HashSet::new();
        let n = if cfg!(miri) { 200 } else { 100_000u64 };
        for i in 0..n {
            // Addresses a few bytes apart, equal but for one frame; only the place differs.
            let mut frames = [0x5555_0000_1000u64; 16];
            frames[i as usize % 16] += 4 * (1 + i / 16);
            let h = Keys::finish(keys.sum(frames.iter().copied()), 16);
            tags.insert(h >> 32);
            slots.insert(h & 0x3_ffff);
        }
        assert!(tags.len() as u64 >= n - n / 1000, "{} tags of {n}", tags.len());
        // Thrown at random, 100,000 keys take about 83,000 of 262,144 slots.
        assert!(slots.len() as u64 > n * 4 / 5, "{} slots of {n}", slots.len());
    }

    /// A key that counts how often it was compared.
    struct Counted<'a>(Bare<'a>, &'a Cell<u64>);

    impl Key for Counted<'_> {
        fn meta(&self) -> u32 {
            self.0.meta()
        }
        fn words(&self) -> usize {
            self.0.words()
        }
        unsafe fn equals(&self, words: &[AtomicU64]) -> bool {
            self.1.set(self.1.get() + 1);
            // SAFETY: the caller's duty is the same.
            unsafe { self.0.equals(words) }
        }
        fn store(&self, words: &[AtomicU64]) {
            self.0.store(words);
        }
    }

    /// Keys that all have one hash, made by someone who knows the numbers: a look-up tries so many
    /// slots and no more, and keys of other hashes are found. Under numbers that nobody knows they
    /// are as good as any.
    #[test]
    fn keys_that_collide() {
        let n = if cfg!(miri) { 200 } else { 100_000u64 };
        let known = Keys::new(1);
        // The inverse of an odd number modulo 2^64, by doubling the bits that are right.
        let odd = known.0[1];
        let inverse =
            (0..6).fold(odd, |x, _| x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x))));
        assert_eq!(inverse.wrapping_mul(odd), 1);
        let made = |i: u64| {
            let first = 0x5555_0000_1000 + 16 * i;
            let rest = 0x1234_5678u64.wrapping_sub(known.step(0, first));
            [first, rest.wrapping_mul(inverse)]
        };
        let made: Vec<[u64; 2]> = (0..n).map(made).collect();
        for (keys, fit) in [(&known, PROBES_MAX as u64), (&Keys::new(2), n)] {
            let hash = |k: &[u64]| Keys::finish(keys.sum(k.iter().copied()), k.len() as u32);
            let (slots, words) = (zeroed(slots_for(n as u32 + 1)), zeroed(n as usize * 3 + 9));
            let t = Table::new(&slots, &words, n as u32 + 1);
            let compared = Cell::new(0);
            let id = |k: &[u64]| t.id(&Counted(Bare(k), &compared), hash(k), |_| true);
            let kept = made.iter().filter(|k| id(&k[..]) != 0).count() as u64;
            assert_eq!((kept, t.is_full()), (fit, fit < n));
            let most = if fit < n { n * (PROBES_MAX as u64 + 1) } else { n / 100 };
            assert!(compared.get() <= most, "{} comparisons", compared.get());
            let other = id(&[1, 2, 3]);
            assert!(other != 0 && id(&[1, 2, 3]) == other);
            assert!(made.iter().take(fit as usize).zip(1..).all(|(k, first)| id(&k[..]) == first));
        }
    }

    #[test]
    fn steps_add_up_to_the_sum() {
        let keys = Keys::new(1);
        let words: Vec<u64> = (0..KEY_WORDS_MAX as u64).map(|i| i * i + 3).collect();
        let by_steps =
            words.iter().enumerate().fold(0u64, |sum, (i, w)| sum.wrapping_add(keys.step(i, *w)));
        assert_eq!(by_steps, keys.sum(words.iter().copied()));
        assert_ne!(Keys::new(2).sum(words.iter().copied()), by_steps);
    }
}
