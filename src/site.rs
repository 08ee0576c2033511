//! A place in the source that emits: a static of the program's, and a kind of its own in the trace.
//!
//! The word caches the site's kind for one table epoch, as the bytes that an event begins with, so
//! that the hot path encodes nothing for it. It is read inside the section only.

use crate::encode::schema::Class;
use crate::encode::varint;
use crate::sync::AtomicPtr;
use crate::sync::AtomicU64;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;
use crate::sync::Ordering::Release;
use std::ffi::c_void;

/// Types of a site's fields, as numbers of `encode::field::ty`.
pub type Types = &'static [u64];

/// `Meta::flags`: the first field names the task.
pub const EXPLICIT_TASK: u64 = 2;

/// What the source says of a site.
#[derive(Debug)]
pub struct Meta {
    /// What it emits.
    pub class: Class,
    /// Its name; a log's category.
    pub name: &'static str,
    /// The module that it stands in.
    pub module: &'static str,
    /// The source file.
    pub file: &'static str,
    /// The line.
    pub line: u32,
    /// `EXPLICIT_TASK`.
    pub flags: u64,
    /// Names of all fields, the implicit ones first.
    pub fields: &'static [&'static str],
}

/// A place in the source that emits.
#[derive(Debug)]
pub struct Site {
    /// epoch << 32 | has a stack << 31 | length of the kind << 24 | the kind's bytes. Written by
    /// whoever defines the site, read by its events.
    word: AtomicU64,
    /// What the copy of the recorder that owns the recording calls it; see `owner`.
    pub owned: AtomicPtr<c_void>,
    /// What the source says of it.
    pub meta: Meta,
}

const STACK: u64 = 1 << 31;
const KIND_BYTES: u64 = (1 << 24) - 1;

/// The first kind that does not fit three bytes.
pub const KIND_LIMIT: u32 = 1 << 21;

impl Site {
    /// A site that is not defined in any epoch yet.
    pub const fn new(meta: Meta) -> Site {
        Site { word: AtomicU64::new(0), owned: AtomicPtr::new(std::ptr::null_mut()), meta }
    }

    /// The kind, where it is defined in the epoch of this tag and has no stack: the hot path.
    #[inline(always)]
    pub fn plain_kind(&self, tag: u64) -> Option<(u32, usize)> {
        // Acquire: pairs with the Release in `set`; the definition is in the log before.
        let word = self.word.load(Acquire);
        (word >> 31 == tag).then_some((word as u32, (word >> 24) as usize & 3))
    }

    /// The kind, where it is defined in the epoch of this tag and has a stack.
    #[inline(always)]
    pub fn stacked_kind(&self, tag: u64) -> Option<(u32, usize)> {
        // Acquire: as above.
        let word = self.word.load(Acquire);
        (word >> 31 == tag | 1).then_some((word as u32, (word >> 24) as usize & 3))
    }

    /// The kind, where it is defined in this epoch.
    pub fn kind(&self, epoch: u32) -> Option<(u32, usize)> {
        // Acquire: as above.
        let word = self.word.load(Acquire);
        let is = (word >> 32) as u32 == epoch;
        is.then_some(((word & KIND_BYTES) as u32, (word >> 24) as usize & 3))
    }

    /// Whether events of this site have a stack in this epoch.
    pub fn has_stack(&self, epoch: u32) -> bool {
        // Acquire: as above.
        let word = self.word.load(Acquire);
        (word >> 32) as u32 == epoch && word & STACK != 0
    }

    /// The word as it stands; [`kind_in`] reads it.
    #[inline(always)]
    pub fn word(&self) -> u64 {
        // Acquire: as above.
        self.word.load(Acquire)
    }

    /// Says that the site is `kind` in `epoch`; its definition is in the log. Of several threads
    /// that define it at once the first is believed: an event must not begin as one kind and be
    /// remembered as another.
    pub fn set(&self, epoch: u32, kind: u32, stack: bool) {
        debug_assert!(kind < KIND_LIMIT);
        let (bytes, len) = varint::pack(u64::from(kind));
        let stack = if stack { STACK } else { 0 };
        let word = u64::from(epoch) << 32 | stack | (len as u64) << 24 | bytes;
        let mut now = self.word.load(Relaxed);
        while ((now >> 32) as u32) < epoch {
            // Release: pairs with the Acquire of the site's events.
            match self.word.compare_exchange(now, word, Release, Relaxed) {
                Ok(_) => return,
                Err(newer) => now = newer,
            }
        }
    }
}

/// The number of the kind that a site's word names in this epoch; 0 for a word of another one,
/// whose numbers mean something else.
pub fn kind_in(word: u64, epoch: u32) -> u64 {
    if (word >> 32) as u32 == epoch { kind_number(word) } else { 0 }
}

fn kind_number(word: u64) -> u64 {
    let (bytes, len) = (word & KIND_BYTES, (word >> 24) & 3);
    let kept = bytes & ((1 << (8 * len)) - 1);
    (kept & 0x7f) | (kept >> 1 & 0x3f80) | (kept >> 2 & 0x1f_c000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> Site {
        Site::new(Meta {
            class: Class::Instant,
            name: "n",
            module: "m",
            file: "f",
            line: 1,
            flags: 0,
            fields: &[],
        })
    }

    /// Two threads that define a site at once write the same kind, and remember it of their spans.
    #[test]
    fn the_first_kind_of_an_epoch_stays() {
        let site = site();
        site.set(2, 66, true);
        site.set(2, 67, true);
        // One that was late with an epoch before.
        site.set(1, 68, true);
        assert_eq!(kind_in(site.word(), 2), 66);
        site.set(3, 64, false);
        assert_eq!((kind_in(site.word(), 2), kind_in(site.word(), 3)), (0, 64));
    }

    #[test]
    fn the_word_holds_kind_epoch_and_stack() {
        assert_eq!(site().kind(1), None);
        for kind in [64, 127, 128, 16_383, 16_384, KIND_LIMIT - 1] {
            for epoch in [1u32, 2, u32::MAX] {
                let plain = site();
                plain.set(epoch, kind, false);
                let (bytes, len) = plain.kind(epoch).unwrap();
                let mut b = bytes.to_le_bytes().to_vec();
                b.truncate(len);
                assert_eq!(varint::read(&b), Some((u64::from(kind), len)));
                assert_eq!(kind_in(plain.word(), epoch), u64::from(kind));
                assert_eq!(kind_in(plain.word(), epoch ^ 1), 0);
                let (hot, hot_len) = plain.plain_kind(u64::from(epoch) << 1).unwrap();
                assert_eq!((hot & 0xff_ffff, hot_len), (bytes, len));
                assert_eq!(plain.plain_kind(u64::from(epoch ^ 1) << 1), None);
                let site = site();
                site.set(epoch, kind, true);
                assert!(site.has_stack(epoch) && !site.has_stack(epoch ^ 1));
                assert_eq!(site.plain_kind(u64::from(epoch) << 1), None);
                assert_eq!(site.stacked_kind(u64::from(epoch ^ 1) << 1), None);
                let (hot, hot_len) = site.stacked_kind(u64::from(epoch) << 1).unwrap();
                assert_eq!((hot & 0xff_ffff, hot_len), (bytes, len));
                assert_eq!(kind_in(site.word(), epoch), u64::from(kind));
            }
        }
    }
}
