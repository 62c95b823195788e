//! Every noun's id type, declared once.

hiveward_runtime::id! {
    /// One unit of work a client asked for.
    TaskId => "task",
    /// One agent; survives restarts, moves and new incarnations.
    AgentId => "agent",
    /// Agents with a coordinator and its queue of tasks.
    SwarmId => "swarm",
    /// One question of an agent's program whether it may do something.
    ApprovalId => "approval",
    /// One budget: what calls of models for one agent, swarm or label may use; the same for the same scope.
    BudgetId => "budget",
    /// One hypervisor host: a machine that runs virtual machines, reached through a driver.
    HostId => "host",
    /// One virtual machine; its bits are also the UUID that its hypervisor knows it by.
    VmId => "vm",
    /// The image that disks of VMs begin as.
    ImageId => "image",
    /// A network that VMs are connected by.
    NetworkId => "network",
    /// A project: what belongs to some people and programs, and to nobody else.
    ProjectId => "project",
    /// The key of a program that asks, without the secret part.
    ApiKeyId => "apikey",
}

impl ProjectId {
    /// The project of all that was declared without naming one, and of all that is older than projects.
    pub const DEFAULT: Self = Self::from_u128(0);
}

/// The bits of a swarm's id that say which of its shards is meant.
const SHARD_BITS: u128 = 0xff;

/// A swarm with several shards has a coordinator for each: their ids differ in the last byte alone, which is 0 for the
/// first, the head, whose id is the swarm's own. So they sort together, and nobody has to look one up from the other.
///
/// Swarms from before there were shards have any last byte. They have one shard, and none of their ids reaches another.
impl SwarmId {
    /// Returns a new id that leaves room for shards.
    pub fn new_head() -> Self {
        Self::new().head()
    }

    /// Returns the id of the swarm that this is a shard of. Ask the spec first whether it is one.
    pub const fn head(self) -> Self {
        Self::from_u128(self.as_u128() & !SHARD_BITS)
    }

    /// Returns the id of the shard with this number, of the swarm that this id is the head of.
    pub const fn shard(self, number: u16) -> Self {
        Self::from_u128(self.head().as_u128() | (number as u128 & SHARD_BITS))
    }

    /// Tells whether `other` is this swarm or, if this is a head, one of its shards.
    pub const fn covers(self, other: Self) -> bool {
        let low = self.as_u128();
        low == other.as_u128() || (low & SHARD_BITS == 0 && other.head().as_u128() == low)
    }

    /// Returns all ids for which [`covers`](Self::covers) holds, as a range.
    pub const fn covered(self) -> std::ops::RangeInclusive<u128> {
        let low = self.as_u128();
        low..=if low & SHARD_BITS == 0 { low | SHARD_BITS } else { low }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_covers_its_shards_and_an_id_from_before_shards_only_itself() {
        let head = SwarmId::new_head();
        assert_eq!((head.head(), head.shard(0)), (head, head));
        let third = head.shard(3);
        assert!(head.covers(third) && !third.covers(head) && third.covers(third) && !third.covers(head.shard(2)));
        assert_eq!(third.head(), head);
        assert!(head.covered().contains(&third.as_u128()) && !third.covered().contains(&head.as_u128()));
        let before = SwarmId::from_u128(head.as_u128() | 0x17);
        assert!(before.covers(before) && !before.covers(head) && !SwarmId::new_head().covers(before));
    }
}
