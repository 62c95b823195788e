//! The list of nodes that may be linked with this one, as its book says: it names who is in, and never who is out.
//!
//! A list of those that may not come in is empty before it is read and can grow too long; either would let everybody in.
//! This one is empty before it is read, and lets nobody in.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arc_swap::ArcSwap;

use super::{KeyPin, NodeCertificate};
use crate::op::NodeId;

/// The largest number of removed nodes that are told so by name. The newest are kept; any other is refused as a stranger is.
pub const REMOVED_TOLD_MAX: usize = 65_536;

/// The reason why a node is not let in. Its certificate may be in order: that is the authority's word, and the book decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAllowed {
    /// The node was in the cluster, and was removed.
    Removed,
    /// The book does not name it, or does not name it yet.
    Unknown,
    /// The book names it with another key.
    OtherKey,
}

#[derive(Default)]
struct Lists {
    known: BTreeMap<NodeId, Option<KeyPin>>,
    removed: BTreeSet<NodeId>,
}

/// The list, read at each handshake. Empty until it is set for the first time: nobody is let in before.
#[derive(Default)]
pub struct Allowed(ArcSwap<Lists>);

impl Allowed {
    /// Replaces the list. A node whose key is not known yet is let in with any that the authority signed for it.
    pub fn set(&self, known: BTreeMap<NodeId, Option<KeyPin>>, removed: impl IntoIterator<Item = NodeId>) {
        let mut removed: BTreeSet<NodeId> = removed.into_iter().collect();
        while removed.len() > REMOVED_TOLD_MAX {
            removed.pop_first();
        }
        self.0.store(Arc::new(Lists { known, removed }));
    }

    /// Checks whether the node of this certificate is let in, with the key that the certificate is for.
    pub fn check(&self, certificate: &NodeCertificate) -> Result<(), NotAllowed> {
        self.check_key(certificate.node, &certificate.key)
    }

    /// Checks whether `node` is let in with a certificate for this key; the error says why not.
    pub fn check_key(&self, node: NodeId, key: &KeyPin) -> Result<(), NotAllowed> {
        let lists = self.0.load();
        match lists.known.get(&node) {
            _ if lists.removed.contains(&node) => Err(NotAllowed::Removed),
            None => Err(NotAllowed::Unknown),
            Some(Some(wanted)) if wanted != key => Err(NotAllowed::OtherKey),
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u128) -> NodeId {
        NodeId::from_u128(n)
    }

    #[test]
    fn nobody_is_let_in_before_the_book_is_read_and_only_those_it_names_after() {
        let (allowed, key) = (Allowed::default(), KeyPin::of(b"a key"));
        assert_eq!(allowed.check_key(node(1), &key), Err(NotAllowed::Unknown));
        allowed.set([(node(1), None), (node(2), Some(key))].into(), [node(3)]);
        assert_eq!(allowed.check_key(node(1), &key), Ok(()));
        assert_eq!(allowed.check_key(node(2), &key), Ok(()));
        assert_eq!(allowed.check_key(node(2), &KeyPin::of(b"another")), Err(NotAllowed::OtherKey));
        assert_eq!(allowed.check_key(node(3), &key), Err(NotAllowed::Removed));
        assert_eq!(allowed.check_key(node(4), &key), Err(NotAllowed::Unknown));
    }

    #[test]
    fn more_removed_nodes_than_are_kept_are_refused_all_the_same() {
        let (allowed, key) = (Allowed::default(), KeyPin::of(b"a key"));
        let many = REMOVED_TOLD_MAX as u128 + 100;
        allowed.set([(node(0), None)].into(), (1..=many).map(node));
        assert!((1..=many).all(|n| allowed.check_key(node(n), &key).is_err()));
        assert_eq!(allowed.check_key(node(many), &key), Err(NotAllowed::Removed));
        assert_eq!(allowed.check_key(node(1), &key), Err(NotAllowed::Unknown));
        assert_eq!(allowed.check_key(node(0), &key), Ok(()));
    }
}
