//! A map of what was lately, with a bound in entries and in bytes.

use std::{
    borrow::Borrow,
    collections::{HashMap, VecDeque},
    hash::Hash,
};

/// A map that keeps the newest entries and forgets the oldest.
#[derive(Clone, Debug)]
pub struct Recent<K, V> {
    /// The entries, each with the turn at which it came, and its weight.
    map: HashMap<K, (u64, usize, V)>,
    /// The keys by turn. Those that were forgotten by name are passed over, and removed when they are most of it.
    order: VecDeque<(u64, K)>,
    turns: u64,
    weight: usize,
    kept_max: usize,
    weight_max: usize,
}

/// The number of places of forgotten entries that are kept before they are cleared away.
const STALE_MAX: usize = 1024;

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    /// Makes a map that keeps the `kept_max` newest entries.
    pub fn new(kept_max: usize) -> Self {
        Self::weighed(kept_max, usize::MAX)
    }

    /// Makes a map whose entries also weigh at most `weight_max` together, in the unit in which the caller weighs them.
    pub fn weighed(kept_max: usize, weight_max: usize) -> Self {
        Self { map: HashMap::new(), order: VecDeque::new(), turns: 0, weight: 0, kept_max, weight_max }
    }

    /// Inserts an entry that weighs nothing, as [`insert_weighing`](Self::insert_weighing) does.
    pub fn insert(&mut self, key: K, value: V) {
        self.insert_weighing(key, value, 0);
    }

    /// Inserts or replaces an entry, and forgets the oldest until the bounds hold; the newest stays, whatever it weighs.
    /// An entry that is there already keeps its place in the order.
    pub fn insert_weighing(&mut self, key: K, value: V, weight: usize) {
        self.weight += weight;
        match self.map.get_mut(&key) {
            Some((_, weighed, there)) => {
                self.weight -= std::mem::replace(weighed, weight);
                *there = value;
            }
            None => {
                self.turns += 1;
                self.order.push_back((self.turns, key.clone()));
                self.map.insert(key, (self.turns, weight, value));
            }
        }
        // The newest stays, whatever it weighs.
        while self.map.len() > self.kept_max || (self.weight > self.weight_max && self.map.len() > 1) {
            let Some((turn, oldest)) = self.order.pop_front() else { break };
            if self.map.get(&oldest).is_some_and(|(of, ..)| *of == turn) {
                self.remove(&oldest);
            }
        }
    }

    /// Returns the value of a key, if it is remembered.
    pub fn get<Q: ?Sized + Eq + Hash>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.map.get(key).map(|(.., value)| value)
    }

    /// Returns what all entries weigh together.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Counts the entries.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Tells whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Returns how many entries have come so far under new keys, forgotten ones included.
    pub fn turns(&self) -> u64 {
        self.turns
    }

    /// Forgets all that came up to a turn.
    pub fn forget_up_to(&mut self, turn: u64) {
        while let Some((_, oldest)) = self.order.front().filter(|(came, _)| *came <= turn) {
            let (came, oldest) = (self.order[0].0, oldest.clone());
            self.order.pop_front();
            if self.map.get(&oldest).is_some_and(|(of, ..)| *of == came) {
                self.remove(&oldest);
            }
        }
    }

    /// Forgets one entry.
    pub fn remove(&mut self, key: &K) {
        let Some((_, weight, _)) = self.map.remove(key) else { return };
        self.weight -= weight;
        if self.order.len() > 2 * self.map.len() + STALE_MAX {
            let map = &self.map;
            self.order.retain(|(turn, key)| map.get(key).is_some_and(|(of, ..)| of == turn));
        }
    }

    /// Iterates over the entries, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.order.iter().filter_map(|(turn, key)| {
            let (of, _, value) = self.map.get(key)?;
            (of == turn).then_some((key, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_within_both_bounds_and_what_is_forgotten_by_name_leaves_nothing() {
        let mut recent = Recent::weighed(3, 10);
        for n in 1..=5 {
            recent.insert_weighing(n, n * 100, 2);
        }
        assert_eq!(recent.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [3, 4, 5]);
        recent.insert_weighing(6, 600, 7);
        assert_eq!((recent.iter().map(|(key, _)| *key).collect::<Vec<_>>(), recent.weight()), (vec![5, 6], 9));
        recent.insert_weighing(7, 700, 11);
        assert_eq!((recent.len(), recent.get(&7)), (1, Some(&700)), "the newest stays, whatever it weighs");
        recent.remove(&7);
        recent.insert_weighing(7, 701, 1);
        assert_eq!((recent.iter().collect::<Vec<_>>(), recent.weight()), (vec![(&7, &701)], 1));
    }

    #[test]
    fn what_came_up_to_a_turn_can_be_forgotten_and_nothing_that_came_later() {
        let mut recent = Recent::weighed(usize::MAX, usize::MAX);
        for n in 1..=5 {
            recent.insert_weighing(n, (), 2);
        }
        recent.remove(&2);
        recent.insert_weighing(2, (), 2);
        assert_eq!(recent.turns(), 6);
        recent.forget_up_to(4);
        assert_eq!((recent.iter().map(|(key, ())| *key).collect::<Vec<_>>(), recent.weight()), (vec![5, 2], 4));
        recent.forget_up_to(0);
        assert_eq!(recent.len(), 2);
    }

    #[test]
    fn forgetting_each_by_name_takes_no_longer_than_there_are() {
        let mut recent = Recent::new(100_000);
        for n in 0..100_000 {
            recent.insert(n, ());
        }
        for n in 0..100_000 {
            recent.remove(&n);
        }
        assert!(recent.order.len() <= STALE_MAX + 1 && recent.is_empty());
    }
}
