//! Holds what a client said a swarm is.

use std::collections::BTreeMap;

use hiveward_kernel::id::SwarmId;
use hiveward_runtime::op::NodeId;
use serde::{Deserialize, Serialize};

use crate::placement::{Strategy, Weights};

/// The way in which the agents of a swarm work together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Topology {
    #[default]
    Hierarchical,
}

/// A swarm as a client declared it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SwarmSpec {
    pub id: SwarmId,
    /// The name, unique in the cluster.
    pub name: String,
    pub topology: Topology,
    pub strategy: Strategy,
    pub weights: Weights,
    /// The most tasks that have not ended; a submission that would pass it is refused with `LIMIT`.
    pub queued_max: u32,
    /// The most attempts at the same time over all its agents; if absent, as many as the agents can hold.
    pub running_max: Option<u32>,
    /// The labels of which a node must have all to hold its coordinator.
    #[serde(default)]
    pub node_labels: BTreeMap<String, String>,
    /// The only node that may hold its coordinator, if one is named.
    #[serde(default)]
    pub node: Option<NodeId>,
    /// The number of coordinators that share the swarm's tasks. This field and the next are last, and absent from what is stored
    /// when there is one: older versions read such swarms as they always did.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub shards: u16,
    /// The number of this coordinator among them; 0 is the head.
    #[serde(default, skip_serializing_if = "is_head")]
    pub shard: u16,
}

const fn one() -> u16 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // The shape that serde wants.
const fn is_one(shards: &u16) -> bool {
    *shards == 1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // The shape that serde wants.
const fn is_head(shard: &u16) -> bool {
    *shard == 0
}

impl SwarmSpec {
    pub const QUEUED_MAX_DEFAULT: u32 = 100_000;
    /// The most coordinators of one swarm; more are refused.
    pub const SHARDS_MAX: u16 = 64;

    /// Tells whether the swarm has more than one coordinator.
    pub const fn is_sharded(&self) -> bool {
        self.shards > 1
    }

    /// Returns the swarm's own id, which is that of its head.
    pub const fn head(&self) -> SwarmId {
        if self.is_sharded() { self.id.head() } else { self.id }
    }

    /// Iterates over the ids of the swarm's coordinators, this one included, in the order of their numbers.
    pub fn shard_ids(&self) -> impl DoubleEndedIterator<Item = SwarmId> + use<> {
        let (head, sharded) = (self.head(), self.is_sharded());
        (0..self.shards).map(move |number| if sharded { head.shard(number) } else { head })
    }

    /// Tells whether `other` is another coordinator of the same swarm.
    pub fn is_sibling(&self, other: SwarmId) -> bool {
        other != self.id && self.shard_ids().any(|id| id == other)
    }

    /// Returns the spec of the same swarm as its shard with this number has it.
    pub fn of_shard(&self, number: u16) -> Self {
        let id = if self.is_sharded() { self.head().shard(number) } else { self.id };
        Self { id, shard: number, ..self.clone() }
    }

    /// Returns the name by which a person would call this coordinator.
    pub fn shown(&self) -> String {
        if self.is_sharded() { format!("{} (shard {})", self.name, self.shard) } else { self.name.clone() }
    }

    /// Returns this shard's part of `queued_max`; the parts add up to the whole.
    pub fn queued_max_here(&self) -> u32 {
        self.part_of(self.queued_max)
    }

    /// Returns this shard's part of `running_max`; the parts add up to the whole.
    pub fn running_max_here(&self) -> Option<u32> {
        self.running_max.map(|max| self.part_of(max))
    }

    fn part_of(&self, whole: u32) -> u32 {
        let shards = u32::from(self.shards.max(1));
        whole / shards + u32::from(u32::from(self.shard) < whole % shards)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A swarm as it was stored before there were shards.
    #[derive(Serialize)]
    struct Before {
        id: SwarmId,
        name: String,
        topology: Topology,
        strategy: Strategy,
        weights: Weights,
        queued_max: u32,
        running_max: Option<u32>,
        node_labels: BTreeMap<String, String>,
        node: Option<NodeId>,
    }

    fn before() -> Before {
        Before {
            id: SwarmId::from_u128(0x17),
            name: "team".into(),
            topology: Topology::Hierarchical,
            strategy: Strategy::default(),
            weights: Weights::default(),
            queued_max: 10,
            running_max: Some(3),
            node_labels: BTreeMap::new(),
            node: None,
        }
    }

    #[test]
    fn a_swarm_of_one_shard_is_stored_as_it_was_before_there_were_shards_and_one_of_several_keeps_its_number() {
        let old = rmp_serde::to_vec(&before()).unwrap();
        let read: SwarmSpec = rmp_serde::from_slice(&old).unwrap();
        assert_eq!((read.shards, read.shard, read.head()), (1, 0, read.id));
        assert_eq!(rmp_serde::to_vec(&read).unwrap(), old);
        for number in [0, 2] {
            let several = SwarmSpec { id: SwarmId::new_head(), shards: 3, ..read.clone() }.of_shard(number);
            let again: SwarmSpec = rmp_serde::from_slice(&rmp_serde::to_vec(&several).unwrap()).unwrap();
            assert_eq!(again, several);
        }
    }

    #[test]
    fn the_shards_parts_of_a_limit_add_up_to_it() {
        let old: SwarmSpec = rmp_serde::from_slice(&rmp_serde::to_vec(&before()).unwrap()).unwrap();
        for shards in [1, 2, 3, 7] {
            let parts = (0..shards).map(|number| SwarmSpec { shards, ..old.clone() }.of_shard(number));
            let (queued, running): (u32, u32) =
                parts.fold((0, 0), |(q, r), part| (q + part.queued_max_here(), r + part.running_max_here().unwrap()));
            assert_eq!((queued, running), (10, 3));
        }
    }
}
