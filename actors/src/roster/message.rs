//! The messages that the roster is asked and told.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use hiveward_catalogue::{
    agent::spec::AgentSpec,
    budget::{Budget, Scope},
    host::event::FleetChange,
    roster::event::NodeRecord,
    swarm::SwarmSpec,
};
use hiveward_kernel::{
    commit::Committed,
    id::{AgentId, SwarmId},
    operation::Operation,
};
use hiveward_runtime::{
    call::Reply,
    clock::WallMs,
    cluster::identity::{JoinToken, TokenBook},
    error::Refused,
    id::Key,
    ledger::Cursor,
    op::NodeId,
};

pub type Answer<T> = Reply<Result<Committed<T>, Refused>>;

/// A decision about a joiner, on a copy of the open tokens, knowing the members and the nodes that are gone for good. A record
/// takes it in, and the tokens as they are then are kept with it; nothing refuses it, and nothing is kept.
pub type Admit = Box<dyn FnOnce(&mut TokenBook, &[NodeRecord], &BTreeSet<NodeId>) -> Option<NodeRecord> + Send>;

pub enum RosterMsg {
    AddSwarm {
        spec: Arc<SwarmSpec>,
        operation: Option<Operation>,
        reply: Answer<Key>,
    },
    RemoveSwarm {
        swarm: SwarmId,
        operation: Option<Operation>,
        reply: Answer<Key>,
    },
    /// Adds all of the agents or none, of one swarm. Answers with the first when they are in the ledger and placed; their actors
    /// start after that.
    AddAgents {
        specs: Vec<Arc<AgentSpec>>,
        operation: Option<Operation>,
        reply: Answer<Key>,
    },
    RemoveAgent {
        agent: AgentId,
        operation: Option<Operation>,
        reply: Answer<Key>,
    },
    /// Answers how far the ledger was when this was handled: a directory that has come there knows all that was answered before.
    Head {
        reply: Reply<Result<Cursor, Refused>>,
    },
    /// Opens a join token, of which only the hash is kept.
    IssueToken {
        token: JoinToken,
        expires_at: WallMs,
        reply: Answer<()>,
    },
    DrainNode {
        node: NodeId,
        within: Duration,
        operation: Option<Operation>,
        reply: Answer<Key>,
    },
    CancelDrain {
        node: NodeId,
        operation: Option<Operation>,
        reply: Answer<Key>,
    },
    RemoveNode {
        node: NodeId,
        force: bool,
        operation: Option<Operation>,
        reply: Answer<Key>,
    },
    /// These agents of a node that drains hold nothing and take nothing new, in these placements.
    Movable {
        agents: Vec<(AgentId, u64)>,
    },

    /// The coordinator of a swarm fails again and again on this node, in this placement of it. It is said as long as it does.
    GivenUp {
        swarm: SwarmId,
        node: NodeId,
        placement: u64,
        why: String,
    },

    // These come from this node's membership, while it leads.
    Admit {
        decide: Admit,
        reply: Reply<Result<(), Refused>>,
    },
    /// A node has joined, or the record of a member has changed.
    NodeJoined {
        record: NodeRecord,
        reply: Answer<Key>,
    },
    /// A node is lost; its lease is over by now.
    NodeLost {
        node: NodeId,
        why: String,
        reply: Answer<Key>,
    },
    /// A node's process does not run: what it coordinated is coordinated elsewhere; its agents wait for its lease.
    NodeDown {
        node: NodeId,
        reply: Answer<Key>,
    },
    NodeBack {
        node: NodeId,
        generation: u64,
        reply: Answer<Key>,
    },

    SetBudget {
        scope: Scope,
        budget: Budget,
        operation: Option<Operation>,
        reply: Answer<Key>,
    },
    RemoveBudget {
        scope: Scope,
        operation: Option<Operation>,
        reply: Answer<Key>,
    },

    /// Changes hosts and VMs. Answers when it is in the ledger; what runs follows.
    Fleet {
        change: FleetChange,
        operation: Option<Operation>,
        reply: Answer<Key>,
    },

    // These come from the roster itself.
    /// Decides about the hosts and VMs that wait, and commits it.
    CommitFleet,
    /// Checks whether a budget has come to what it warns at.
    LookAtBudgets,
    Leadership,
    Tick,
    CommitFailed {
        message: String,
    },
}
