//! The rules that are known, for all threads: a table of fixed size in which a newer rule takes the
//! place of an older one.
//!
//! 1. An entry is two words that are stored one after the other, by anybody at any time. The first
//!    is the key, changed by the second: of a pair from two different stores neither key is found.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;

use crate::rule::Rule;

const LOG: u32 = 13;

#[repr(align(16))]
struct Entry {
    key: AtomicU64,
    rule: AtomicU64,
}

static ENTRIES: [Entry; 1 << LOG] =
    [const { Entry { key: AtomicU64::new(0), rule: AtomicU64::new(0) } }; 1 << LOG];

/// Which modules the rules are about: a rule of other modules is not found.
static AGE: AtomicU32 = AtomicU32::new(1);

/// Modules have gone, and those that are left are published: rules from here on are of these.
pub fn renew() {
    // Release: pairs with the Acquire in `age`.
    AGE.fetch_add(1, Release);
    ENTRIES.iter().for_each(|e| e.rule.store(0, Relaxed));
}

/// To be asked once for each walk, before its first address.
#[inline(always)]
pub fn age() -> u64 {
    // Acquire: pairs with the Release in `renew`, so that modules of this age are found. 0 would
    // make the key of address 0 an empty entry's.
    u64::from(AGE.load(Acquire) as u16 | 1 << 15) << 48
}

#[inline(always)]
fn places(at: usize) -> (&'static Entry, &'static Entry) {
    let i = ((at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - LOG)) as usize;
    (&ENTRIES[i], &ENTRIES[i ^ 1])
}

/// The rule of an address, where it is known.
#[inline(always)]
pub fn find(at: usize, age: u64) -> Option<Rule> {
    let key = at as u64 ^ age;
    let (one, other) = places(at);
    let rule = one.rule.load(Relaxed);
    if one.key.load(Relaxed) ^ rule == key {
        return (rule != 0).then_some(Rule::from_word(rule));
    }
    let rule = other.rule.load(Relaxed);
    (other.key.load(Relaxed) ^ rule == key && rule != 0).then_some(Rule::from_word(rule))
}

/// Keeps a rule.
pub fn keep(at: usize, age: u64, rule: Rule) {
    let (one, other) = places(at);
    let is_free = |e: &Entry| e.rule.load(Relaxed) == 0;
    // Where both are taken, one of them by a bit that does not choose the place.
    let place = if is_free(one) || (!is_free(other) && at & 1 == 0) { one } else { other };
    place.rule.store(rule.word(), Relaxed);
    place.key.store((at as u64 ^ age) ^ rule.word(), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// Rules that can be told apart, a different one for each address.
    fn rule_of(at: usize) -> Rule {
        Rule::from_word((at as u64).wrapping_mul(0x2545_f491_4f6c_dd1d) | 1)
    }

    #[test]
    fn a_rule_is_of_its_address_and_its_age() {
        let age = age();
        assert_eq!(find(0x7000, age), None);
        keep(0x7000, age, rule_of(0x7000));
        assert_eq!(find(0x7000, age), Some(rule_of(0x7000)));
        assert_eq!(find(0x7001, age), None);
        renew();
        let newer = self::age();
        assert_ne!(newer, age);
        assert_eq!(find(0x7000, newer), None);
        // A walk that began before stores what no later walk finds.
        keep(0x7000, age, rule_of(0x7000));
        assert_eq!(find(0x7000, newer), None);

        // Threads that store over each other: what is found is what was stored for it.
        let threads: Vec<_> = (0..3)
            .map(|n| {
                thread::spawn(move || {
                    let (mut found, mut state) = (0, n + 1u64);
                    for _ in 0..200_000 {
                        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(n | 1);
                        let at = 0x55_0000_0000 + (state >> 48) as usize;
                        match find(at, newer) {
                            Some(rule) => {
                                assert_eq!(rule, rule_of(at));
                                found += 1;
                            }
                            None => keep(at, newer, rule_of(at)),
                        }
                    }
                    found
                })
            })
            .collect();
        let found: Vec<u32> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        assert!(found.iter().all(|n| *n > 1000), "{found:?}");
    }
}
