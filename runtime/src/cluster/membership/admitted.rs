//! The list of nodes that are let in, made from all that this node knows of the cluster. Pure.
//!
//! The book has the first word and the last: a node that it calls removed is out whatever else names it. What it cannot know yet
//! is taken from the group that keeps the ledger, from members whose book is newer, and, by a joiner, from its grant.

use std::collections::{BTreeMap, BTreeSet};

use super::{KnownNode, NodeState};
use crate::{
    net::{
        identity::KeyPin,
        link::{Lane, Member, PeerSpec},
    },
    op::NodeId,
};

const LANES: [Lane; 3] = [Lane::Router, Lane::Raft, Lane::Bulk];

/// All that this node knows.
pub struct Sources<'a> {
    pub me: NodeId,
    pub book: &'a [KnownNode],
    /// The nodes that keep the ledger, as the newest entries of its log say.
    pub keepers: &'a [(NodeId, String)],
    /// The members that this node was told of when it joined.
    pub first: &'a [Member],
    /// The books of other members that are newer than ours, by who showed them.
    pub told: &'a [(NodeId, Vec<KnownNode>)],
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    pub peers: BTreeMap<NodeId, PeerSpec>,
    pub removed: BTreeSet<NodeId>,
}

/// Works out who is let in and who was removed. Another member's book is believed only if this node itself lets that member in.
pub fn admitted(sources: &Sources<'_>) -> Admitted {
    let Sources { me, book, keepers, first, told } = sources;
    let (gone, here): (Vec<_>, Vec<_>) = book.iter().partition(|known| known.state == NodeState::Removed);
    let mut all = Admitted { peers: BTreeMap::new(), removed: gone.iter().map(|known| known.node).collect() };
    let named = here.iter().any(|known| known.node == *me);
    for known in here {
        all.add(*me, known.node, &known.address, known.key);
    }
    // A book that names this node is at least as new as the grant that this node came in with.
    for member in first.iter().filter(|_| !named) {
        all.add(*me, member.node, &member.address, member.key);
    }
    // A node that lags behind in the book still knows the group it votes in.
    let by_itself: BTreeSet<NodeId> = all.peers.keys().copied().chain(keepers.iter().map(|(node, _)| *node)).collect();
    // Only who is let in by what this node knows itself is believed.
    for (teller, nodes) in told.iter().filter(|(teller, _)| by_itself.contains(teller) && !all.removed.contains(teller)) {
        tracing::trace!(%teller, nodes = nodes.len(), "a newer book is believed");
        for known in nodes.iter().filter(|known| known.state != NodeState::Removed) {
            Admitted::add_to(&mut all.peers, &all.removed, *me, known.node, &known.address, known.key);
        }
    }
    for (node, address) in *keepers {
        all.add(*me, *node, address, None);
    }
    all
}

impl Admitted {
    fn add(&mut self, me: NodeId, node: NodeId, address: &str, key: Option<KeyPin>) {
        Self::add_to(&mut self.peers, &self.removed, me, node, address, key);
    }

    fn add_to(
        peers: &mut BTreeMap<NodeId, PeerSpec>,
        removed: &BTreeSet<NodeId>,
        me: NodeId,
        node: NodeId,
        address: &str,
        key: Option<KeyPin>,
    ) {
        if node == me || removed.contains(&node) {
            return;
        }
        let known = peers.entry(node).or_insert_with(|| PeerSpec::new("", LANES));
        if known.address.is_empty() {
            known.address = address.to_owned();
        }
        known.key = known.key.or(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u128) -> NodeId {
        NodeId::from_u128(n)
    }

    fn known(n: u128, state: NodeState) -> KnownNode {
        let key = Some(KeyPin::of(&n.to_be_bytes()));
        KnownNode { node: node(n), raft_id: n as u64, address: format!("h{n}:7701"), state, generation: 1, key }
    }

    fn up(numbers: impl IntoIterator<Item = u128>) -> Vec<KnownNode> {
        numbers.into_iter().map(|n| known(n, NodeState::Up)).collect()
    }

    fn granted(n: u128) -> Member {
        Member { node: node(n), address: format!("h{n}:7701"), key: None }
    }

    fn names(sources: &Sources<'_>) -> Vec<u128> {
        admitted(sources).peers.keys().map(|node| node.as_u128()).collect()
    }

    #[test]
    fn whom_the_book_names_is_let_in_with_its_key_and_whom_it_removed_never() {
        let mut book = up(1..=4);
        book[2].state = NodeState::Removed;
        // Still in the group, still in the grant, still in another's book.
        let keepers = [(node(2), "h2:1".to_owned()), (node(3), "h3:1".to_owned())];
        let sources = Sources {
            me: node(1),
            book: &book,
            keepers: &keepers,
            first: &[granted(3)],
            told: &[(node(2), up([3])), (node(3), up([9]))],
        };
        let all = admitted(&sources);
        assert_eq!(names(&sources), [2, 4]);
        assert_eq!(all.removed, [node(3)].into());
        assert_eq!(all.peers[&node(2)].key, book[1].key);
        assert_eq!(all.peers[&node(2)].address, "h2:7701");
    }

    #[test]
    fn a_joiner_lets_in_whom_its_grant_named_until_its_own_book_names_it() {
        let first = [granted(2), granted(3)];
        let with = |book: &[KnownNode]| names(&Sources { me: node(1), book, keepers: &[], first: &first, told: &[] });
        assert_eq!(with(&[]), [2, 3]);
        // It has the beginning of the book only: whom the grant named may be further on.
        assert_eq!(with(&up([2])), [2, 3]);
        assert_eq!(with(&up([1, 2])), [2], "node 3 was removed and is not even named any more");
    }

    #[test]
    fn a_member_whose_book_is_old_lets_in_whom_another_member_vouches_for_and_no_stranger_does() {
        let book = up(1..=3);
        let told = [(node(3), up(1..=4)), (node(8), up([9]))];
        let sources = Sources { me: node(1), book: &book, keepers: &[], first: &[], told: &told };
        assert_eq!(names(&sources), [2, 3, 4]);
        assert_eq!(admitted(&sources).peers[&node(4)].key, known(4, NodeState::Up).key);
    }

    #[test]
    fn nobody_is_let_in_by_an_empty_book() {
        assert_eq!(names(&Sources { me: node(1), book: &[], keepers: &[], first: &[], told: &[] }), [0u128; 0]);
    }
}
