//! A memory of what was used of late, which does not grow beyond a bound.
//!
//! A clock: what is to be forgotten is looked for in a circle, and what was asked for since the
//! hand passed it by is spared once. So a look-up changes one bit, and what is in use stays.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// Values by key, the rarely used ones forgotten.
#[derive(Debug)]
pub struct Recent<K, V> {
    places: HashMap<K, usize>,
    slots: Vec<Option<Slot<K, V>>>,
    free: Vec<usize>,
    hand: usize,
    cost: usize,
    cost_max: usize,
}

#[derive(Debug)]
struct Slot<K, V> {
    key: K,
    value: V,
    cost: usize,
    is_used: bool,
}

impl<K: Hash + Eq + Clone, V: Clone> Recent<K, V> {
    /// Keeps values whose costs are at most `cost_max` together, and the newest in any case.
    pub fn new(cost_max: usize) -> Self {
        let (places, slots, free) = (HashMap::new(), Vec::new(), Vec::new());
        Recent { places, slots, free, hand: 0, cost: 0, cost_max }
    }

    /// The value of a key.
    pub fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let slot = self.slots.get_mut(*self.places.get(key)?)?.as_mut()?;
        slot.is_used = true;
        Some(slot.value.clone())
    }

    /// Remembers a value, in place of what the key had.
    pub fn put(&mut self, key: K, value: V, cost: usize) {
        if let Some(at) = self.places.remove(&key) {
            self.empty(at);
        }
        self.make_room(cost);
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.places.insert(key.clone(), at);
        self.slots[at] = Some(Slot { key, value, cost, is_used: false });
        self.cost += cost;
    }

    /// A value became larger.
    pub fn grew<Q: Hash + Eq + ?Sized>(&mut self, key: &Q, by: usize)
    where
        K: Borrow<Q>,
    {
        let slot = self.places.get(key).and_then(|at| self.slots.get_mut(*at)?.as_mut());
        if let Some(slot) = slot {
            slot.cost += by;
            self.cost += by;
        }
    }

    /// Forgets what `keep` does not want.
    pub fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        for at in 0..self.slots.len() {
            if self.slots[at].as_ref().is_some_and(|slot| !keep(&slot.key)) {
                self.forget(at);
            }
        }
    }

    fn make_room(&mut self, cost: usize) {
        while self.cost + cost > self.cost_max && !self.places.is_empty() {
            self.hand = if self.hand + 1 < self.slots.len() { self.hand + 1 } else { 0 };
            match &mut self.slots[self.hand] {
                Some(slot) if slot.is_used => slot.is_used = false,
                Some(_) => self.forget(self.hand),
                None => {}
            }
        }
    }

    fn forget(&mut self, at: usize) {
        if let Some(slot) = &self.slots[at] {
            self.places.remove(&slot.key);
        }
        self.empty(at);
    }

    fn empty(&mut self, at: usize) {
        if let Some(slot) = self.slots[at].take() {
            self.cost -= slot.cost;
            self.free.push(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let mut recent = Recent::new(100);
        recent.put(0, 'a', 1);
        for key in 1..1_000 {
            recent.put(key, 'b', 5);
            assert_eq!(recent.get(&0), Some('a'), "{key}");
            assert!(recent.cost <= 100, "{}", recent.cost);
            let sum: usize = recent.slots.iter().flatten().map(|slot| slot.cost).sum();
            assert_eq!(
                (sum, recent.slots.len() - recent.free.len()),
                (recent.cost, recent.places.len())
            );
        }
        assert_eq!(recent.get(&1), None);
        assert_eq!(recent.get(&1_000), None);
        assert_eq!((1..1_000).filter(|key| recent.get(key).is_some()).count(), 19);
    }

    #[test]
    fn what_fits_is_never_forgotten() {
        let mut recent = Recent::new(100);
        for round in 0..10 {
            for key in 0..20 {
                assert_eq!(recent.get(&key).is_some(), round > 0);
                if round == 0 {
                    recent.put(key, round, 5);
                }
            }
        }
    }

    #[test]
    fn costs_change() {
        let mut recent = Recent::new(100);
        recent.put(1, 'a', 10);
        recent.put(1, 'b', 20);
        assert_eq!((recent.get(&1), recent.cost), (Some('b'), 20));
        recent.grew(&1, 70);
        assert_eq!(recent.cost, 90);
        recent.put(2, 'c', 10);
        assert_eq!((recent.get(&1), recent.cost), (Some('b'), 100));
        recent.put(3, 'd', 1);
        assert_eq!((recent.get(&3), recent.cost <= 100), (Some('d'), true));
        // A value larger than the bound stands alone until the next one comes.
        recent.put(4, 'e', 500);
        assert_eq!((recent.get(&4), recent.places.len()), (Some('e'), 1));
        recent.put(5, 'f', 5);
        assert_eq!((recent.get(&4), recent.get(&5), recent.cost), (None, Some('f'), 5));
        recent.retain(|key| *key != 5);
        assert_eq!((recent.get(&5), recent.cost, recent.places.len()), (None, 0, 0));
        recent.grew(&5, 7);
        assert_eq!(recent.cost, 0);
    }
}
