//! A memory of what was used of late, which does not grow beyond a bound.
//!
//! Two generations: what is asked for moves to the young one; when that has half of the bound, the
//! old one is forgotten and the young one is old. So an entry that is in use stays, at the price of
//! a look-up, and nothing is kept in an order.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// Values by key, the rarely used ones forgotten.
#[derive(Debug)]
pub struct Recent<K, V> {
    young: HashMap<K, (V, usize)>,
    old: HashMap<K, (V, usize)>,
    young_cost: usize,
    cost_max: usize,
}

impl<K: Hash + Eq, V: Clone> Recent<K, V> {
    /// Keeps values whose costs are at most `cost_max` together, and the newest in any case.
    pub fn new(cost_max: usize) -> Self {
        Recent { young: HashMap::new(), old: HashMap::new(), young_cost: 0, cost_max }
    }

    /// The value of a key.
    pub fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if let Some((value, _)) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, (value, cost)) = self.old.remove_entry(key)?;
        self.put(key, value.clone(), cost);
        Some(value)
    }

    /// Remembers a value, in place of what the key had.
    pub fn put(&mut self, key: K, value: V, cost: usize) {
        self.grow(cost);
        if let Some((_, before)) = self.young.insert(key, (value, cost)) {
            self.young_cost -= before;
        }
    }

    /// A value became larger.
    pub fn grew<Q: Hash + Eq + ?Sized>(&mut self, key: &Q, by: usize)
    where
        K: Borrow<Q>,
    {
        if let Some((_, cost)) = self.young.get_mut(key) {
            *cost += by;
            self.young_cost += by;
        }
    }

    /// Forgets what `keep` does not want.
    pub fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.old.retain(|key, _| keep(key));
        self.young.retain(|key, _| keep(key));
        self.young_cost = self.young.values().map(|(_, cost)| cost).sum();
    }

    fn grow(&mut self, by: usize) {
        if self.young_cost + by > self.cost_max / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_cost = 0;
        }
        self.young_cost += by;
    }

    #[cfg(test)]
    fn cost(&self) -> usize {
        self.young.values().chain(self.old.values()).map(|(_, cost)| cost).sum()
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
            assert_eq!(recent.get(&key), Some('b'));
            assert!(recent.cost() <= 100, "{}", recent.cost());
        }
        assert_eq!(recent.get(&1), None);
        assert_eq!(recent.get(&1_000), None);
    }

    #[test]
    fn costs_change() {
        let mut recent = Recent::new(100);
        recent.put(1, 'a', 10);
        recent.put(1, 'b', 20);
        assert_eq!((recent.get(&1), recent.cost(), recent.young_cost), (Some('b'), 20, 20));
        recent.grew(&1, 35);
        assert_eq!((recent.cost(), recent.young_cost), (55, 55));
        recent.put(2, 'c', 1);
        assert_eq!((recent.get(&2), recent.cost(), recent.young_cost), (Some('c'), 56, 1));
        // A value larger than the bound stands alone until the next one comes.
        recent.put(3, 'd', 500);
        assert_eq!(recent.get(&3), Some('d'));
        recent.retain(|key| *key != 3);
        assert_eq!((recent.get(&3), recent.young_cost), (None, 0));
        assert_eq!(recent.get(&2), Some('c'));
    }
}
