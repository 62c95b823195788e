//! The rules for who should keep the ledger and vote: the next change, and why. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{KnownNode, NodeState};
use crate::{
    ledger::{Change, Member},
    op::NodeId,
};

/// The number of entries by which a learner may lag behind the end of the log and still be made a voter.
const CAUGHT_UP_ENTRIES: u64 = 1_000;
/// The time within which a member must have answered to count as there.
const THERE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoterPolicy {
    /// The largest number of voters; there are as many as there are nodes for, up to this.
    pub voters_max: usize,
    /// The time after which a voter that is away is replaced by a learner, if there is one.
    pub replace_after: Duration,
}

impl Default for VoterPolicy {
    fn default() -> Self {
        Self { voters_max: 3, replace_after: Duration::from_secs(600) }
    }
}

/// All that the leader knows.
pub struct Seen<'a> {
    pub me: NodeId,
    pub nodes: &'a [KnownNode],
    pub members: &'a [Member],
    pub log_last: u64,
    /// The time for which each member has not answered; none while it has not answered in this term yet.
    pub away: BTreeMap<u64, Duration>,
}

impl Seen<'_> {
    fn is_there(&self, member: &Member) -> bool {
        member.node == Some(self.me) || self.away.get(&member.id).is_some_and(|away| *away <= THERE)
    }

    fn state(&self, member: &Member) -> Option<NodeState> {
        let node = member.node?;
        self.nodes.iter().find(|known| known.node == node).map(|known| known.state)
    }

    fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.voter)
    }

    /// Checks that the voters that would be left can agree; the error says why they could not.
    fn without(&self, gone: &BTreeSet<u64>) -> Result<(), String> {
        let left: Vec<_> = self.voters().filter(|member| !gone.contains(&member.id)).collect();
        let there = left.iter().filter(|member| self.is_there(member)).count();
        if there > left.len() / 2 {
            return Ok(());
        }
        Err(format!("of the {} voters that would be left {there} answer, and that is no quorum", left.len()))
    }

    /// Lists the learners that can take a voter's place, those that have most first.
    fn candidates(&self) -> Vec<&Member> {
        let fit = self.members.iter().filter(|member| {
            !member.voter
                && self.is_there(member)
                && self.state(member) == Some(NodeState::Up)
                && member.matched.is_some_and(|matched| matched + CAUGHT_UP_ENTRIES >= self.log_last)
        });
        let mut fit: Vec<_> = fit.collect();
        fit.sort_by_key(|member| (std::cmp::Reverse(member.matched), member.id));
        fit
    }
}

/// Checks whether `node` may go for good: no quorum may be lost by that.
pub fn removable(seen: &Seen<'_>, node: NodeId) -> Result<(), String> {
    let Some(member) = seen.members.iter().find(|member| member.node == Some(node)) else { return Ok(()) };
    if !member.voter {
        return Ok(());
    }
    if seen.voters().count() == 1 {
        return Err("it is the only voter".into());
    }
    seen.without(&BTreeSet::from([member.id]))
}

/// Returns the next change to make, with its reason; none when all is as it should be.
pub fn next(policy: &VoterPolicy, seen: &Seen<'_>) -> Option<(Change, String)> {
    let member_of = |node: NodeId| seen.members.iter().find(|member| member.node == Some(node));
    for known in seen.nodes.iter().filter(|known| known.state != NodeState::Removed) {
        let change = match member_of(known.node) {
            None => Change::AddLearner { id: known.raft_id, node: known.node, address: known.address.clone() },
            Some(member) if member.address != known.address && !known.address.is_empty() => {
                Change::Address { id: member.id, node: known.node, address: known.address.clone() }
            }
            Some(_) => continue,
        };
        let why = format!("{} is a node of the cluster, at {:?}", known.node, known.address);
        return Some((change, why));
    }
    for member in seen.members.iter().filter(|member| seen.state(member) == Some(NodeState::Removed)) {
        if !member.voter || seen.without(&BTreeSet::from([member.id])).is_ok() {
            return Some((Change::Remove { ids: vec![member.id] }, "its node was removed".into()));
        }
    }
    let voters = seen.voters().count();
    // Together, where there are several: two voters are less than one, for neither may be lost.
    let ids: Vec<u64> = seen.candidates().iter().take(policy.voters_max.saturating_sub(voters)).map(|member| member.id).collect();
    if !ids.is_empty() {
        let why = format!("there are {voters} voters, up to {} are wanted, and they have caught up", policy.voters_max);
        return Some((Change::Promote { ids }, why));
    }
    for voter in seen.voters().filter(|voter| voter.node != Some(seen.me)) {
        let away = seen.away.get(&voter.id).copied().unwrap_or_default();
        let leaves = matches!(seen.state(voter), Some(NodeState::Draining | NodeState::Drained));
        if (away < policy.replace_after && !leaves) || seen.candidates().is_empty() {
            continue;
        }
        if seen.without(&BTreeSet::from([voter.id])).is_ok() {
            let why = if leaves {
                "it is being drained, and a learner takes its place".into()
            } else {
                format!("it has been away for {} s, and a learner takes its place", away.as_secs())
            };
            return Some((Change::Demote { ids: vec![voter.id] }, why));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene {
        nodes: Vec<KnownNode>,
        members: Vec<Member>,
        away: BTreeMap<u64, Duration>,
    }

    impl Scene {
        fn of(voters: u64, learners: u64) -> Self {
            let mut scene = Self { nodes: Vec::new(), members: Vec::new(), away: BTreeMap::new() };
            for n in 1..=voters + learners {
                let (node, address) = (NodeId::from_u128(n.into()), format!("h{n}:7701"));
                scene.nodes.push(KnownNode {
                    node,
                    raft_id: n,
                    address: address.clone(),
                    state: NodeState::Up,
                    generation: 1,
                    key: None,
                });
                scene.members.push(Member {
                    id: n,
                    node: Some(node),
                    address,
                    voter: n <= voters,
                    matched: Some(100),
                    answered: None,
                });
                scene.away.insert(n, Duration::ZERO);
            }
            scene
        }

        fn seen(&self) -> Seen<'_> {
            Seen { me: NodeId::from_u128(1), nodes: &self.nodes, members: &self.members, log_last: 100, away: self.away.clone() }
        }

        fn next(&self) -> Option<Change> {
            next(&VoterPolicy::default(), &self.seen()).map(|(change, _)| change)
        }

        fn lose(&mut self, id: u64, seconds: u64) {
            self.away.insert(id, Duration::from_secs(seconds));
        }
    }

    #[test]
    fn the_second_and_third_node_become_voters_and_later_ones_stay_learners() {
        assert_eq!(Scene::of(1, 1).next(), Some(Change::Promote { ids: vec![2] }));
        assert_eq!(Scene::of(2, 2).next(), Some(Change::Promote { ids: vec![3] }));
        assert_eq!(Scene::of(1, 3).next(), Some(Change::Promote { ids: vec![2, 3] }), "both at once, if both are there");
        assert_eq!(Scene::of(3, 2).next(), None);
        let mut behind = Scene::of(1, 1);
        behind.members[1].matched = None;
        assert_eq!(behind.next(), None, "it has nothing yet");
    }

    #[test]
    fn a_node_that_joined_is_taken_in_and_a_removed_one_goes() {
        let mut scene = Scene::of(3, 0);
        scene.members.pop();
        assert!(matches!(scene.next(), Some(Change::AddLearner { id: 3, .. })));
        let mut scene = Scene::of(3, 1);
        scene.nodes[1].state = NodeState::Removed;
        assert_eq!(scene.next(), Some(Change::Remove { ids: vec![2] }));
    }

    #[test]
    fn a_voter_that_stays_away_is_replaced_only_by_a_learner_that_is_there() {
        let mut scene = Scene::of(3, 1);
        scene.lose(2, 60);
        assert_eq!(scene.next(), None, "not for long enough");
        scene.lose(2, 601);
        assert_eq!(scene.next(), Some(Change::Demote { ids: vec![2] }));
        scene.members[1].voter = false;
        assert_eq!(scene.next(), Some(Change::Promote { ids: vec![4] }));
        let mut nobody = Scene::of(3, 0);
        nobody.lose(2, 601);
        assert_eq!(nobody.next(), None);
    }

    #[test]
    fn a_change_that_would_lose_the_quorum_is_refused_with_the_reason() {
        let mut scene = Scene::of(3, 1);
        scene.lose(3, 60);
        let refused = removable(&scene.seen(), NodeId::from_u128(2)).unwrap_err();
        assert!(refused.contains("no quorum"), "{refused}");
        removable(&scene.seen(), NodeId::from_u128(3)).unwrap();
        removable(&scene.seen(), NodeId::from_u128(4)).unwrap();
        scene.nodes[1].state = NodeState::Removed;
        assert_eq!(scene.next(), None);
        assert!(removable(&Scene::of(1, 1).seen(), NodeId::from_u128(1)).unwrap_err().contains("only voter"));
    }
}
