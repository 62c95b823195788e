//! What was lately: a map with a bound.

use std::collections::{HashMap, VecDeque};

/// A map that keeps the newest entries and forgets the oldest.
#[derive(Clone, Debug)]
pub struct Recent<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
    kept_max: usize,
}

impl<K: Clone + Eq + std::hash::Hash, V> Recent<K, V> {
    pub fn new(kept_max: usize) -> Self {
        Self { map: HashMap::new(), order: VecDeque::new(), kept_max }
    }

    pub fn insert(&mut self, key: K, value: V) {
        if self.map.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > self.kept_max {
            if let Some(oldest) = self.order.pop_front() {
                self.map.remove(&oldest);
            }
        }
    }

    pub fn get<Q: ?Sized + Eq + std::hash::Hash>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.map.get(key)
    }

    /// Forgets one entry; its place in the order is passed over later.
    pub fn remove(&mut self, key: &K) {
        if self.map.remove(key).is_some() {
            self.order.retain(|other| other != key);
        }
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.order.iter().filter_map(|key| Some((key, self.map.get(key)?)))
    }
}
