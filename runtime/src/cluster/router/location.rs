//! The places of keys: the caller's directory, and what was learnt from it.

use std::{collections::HashMap, hash::BuildHasher, sync::Arc};

use futures_util::future::BoxFuture;
use parking_lot::RwLock;

use crate::{error::Refused, id::Key, op::NodeId};

/// The number of keys whose place is remembered. A key not asked for lately is forgotten first; then the directory is asked
/// again.
pub const LOCATIONS_MAX: usize = 65_536;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    pub node: NodeId,
    /// The life of the entity that is meant; an older one is refused there.
    pub incarnation: u64,
}

/// The directory that knows where each key is: the ledger's, in the end.
pub trait Directory: Send + Sync + 'static {
    /// Finds the place of a key; `None` if it is placed nowhere. The router bounds the wait with the caller's deadline.
    fn locate<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Location>, Refused>>;
}

/// A map with a fast hash and a seed of this process. Keys come from members, so that speed is what is needed.
type Map = HashMap<Arc<str>, Location, foldhash::fast::RandomState>;

/// The two halves of the memory: a full young half becomes the old one, and what the old one held is forgotten.
#[derive(Default)]
struct Halves {
    young: Map,
    old: Map,
}

#[derive(Default)]
pub(super) struct Locations(RwLock<Halves>, foldhash::fast::RandomState);

impl Locations {
    #[inline]
    pub(super) fn get(&self, key: &str) -> Option<Location> {
        let halves = self.0.read();
        if let Some(found) = halves.young.get(key) {
            return Some(*found);
        }
        let found = *halves.old.get(key)?;
        drop(halves);
        // Used again: it survives the next change of halves.
        self.put(key, found);
        Some(found)
    }

    /// Returns a number that is the same for the same key, in this process.
    #[inline]
    pub(super) fn number(&self, key: &str) -> u16 {
        // The low bits of it.
        self.1.hash_one(key) as u16
    }

    pub(super) fn put(&self, key: &str, location: Location) {
        let mut halves = self.0.write();
        if halves.young.len() >= LOCATIONS_MAX / 2 {
            halves.old = std::mem::take(&mut halves.young);
        }
        halves.young.insert(key.into(), location);
    }

    pub(super) fn forget(&self, key: &str) {
        let mut halves = self.0.write();
        halves.young.remove(key);
        halves.old.remove(key);
    }

    pub(super) fn len(&self) -> usize {
        let halves = self.0.read();
        halves.young.len() + halves.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_keeps_to_its_bound_and_forgets_what_is_not_asked_for() {
        let (cache, location) = (Locations::default(), Location { node: NodeId::new(), incarnation: 1 });
        cache.put("kept", location);
        for number in 0..3 * LOCATIONS_MAX {
            cache.put(&number.to_string(), location);
            assert!(cache.get("kept").is_some());
        }
        assert!(cache.len() <= LOCATIONS_MAX);
        assert_eq!(cache.get("0"), None);
        cache.forget("kept");
        assert_eq!(cache.get("kept"), None);
    }
}
