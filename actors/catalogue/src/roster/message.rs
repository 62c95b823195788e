//! The messages that the roster is asked and told.

use std::{collections::BTreeSet, sync::Arc};

use hiveward_kernel::{
    asks,
    commit::{CommitReply, Committed},
    id::{AgentId, ProjectId, SwarmId},
    operation::Operation,
};
use hiveward_runtime::{
    call::Reply,
    clock::WallMs,
    cluster::router::{Inbound, NotDelivered},
    error::Refused,
    id::Key,
    ledger::Cursor,
    net::identity::TokenBook,
    op::NodeId,
};

use super::event::NodeRecord;
use crate::{
    agent::AgentSpec,
    budget::{Budget, Scope},
    host::event::FleetChange,
    part::Declaration,
    swarm::SwarmSpec,
};

/// A decision about a joiner, on a copy of the open tokens, knowing the members and the nodes that are gone for good. A record
/// takes it in, and the tokens as they are then are kept with it; nothing refuses it, and nothing is kept.
pub type Admit = Box<dyn FnOnce(&mut TokenBook, &[NodeRecord], &BTreeSet<NodeId>) -> Option<NodeRecord> + Send>;

asks! {
    /// A message to the roster.
    pub enum RosterMsg;
    /// A message to the roster, as it travels.
    pub enum RosterWire;

    asks {
        AddSwarm { spec: Arc<SwarmSpec>, operation: Option<Operation> } -> Result<Committed<Key>, Refused>;
        RemoveSwarm { swarm: SwarmId, operation: Option<Operation> } -> Result<Committed<Key>, Refused>;
        /// Adds all of the agents or none, of one swarm. Answers with the first when they are in the ledger and placed; their
        /// actors start after that.
        AddAgents { specs: Vec<Arc<AgentSpec>>, operation: Option<Operation> } -> Result<Committed<Key>, Refused>;
        RemoveAgent { agent: AgentId, operation: Option<Operation> } -> Result<Committed<Key>, Refused>;
        /// Answers how far the ledger was when this was handled: a directory that has come there knows all that was answered
        /// before.
        Head -> Result<Cursor, Refused>;
        /// Opens a join token, of which only the hash is kept.
        IssueToken { token: String, expires_at: WallMs } -> Result<Committed<()>, Refused>;
        DrainNode { node: NodeId, within_ms: u64, operation: Option<Operation> } -> Result<Committed<Key>, Refused>;
        CancelDrain { node: NodeId, operation: Option<Operation> } -> Result<Committed<Key>, Refused>;
        RemoveNode { node: NodeId, force: bool, operation: Option<Operation> } -> Result<Committed<Key>, Refused>;
        SetBudget { scope: Scope, budget: Budget, operation: Option<Operation> } -> Result<Committed<Key>, Refused>;
        RemoveBudget { scope: Scope, operation: Option<Operation> } -> Result<Committed<Key>, Refused>;
        /// Changes a part of the catalogue. Answers when it is in the ledger.
        Declare { declaration: Declaration, operation: Option<Operation> } -> Result<Committed<Key>, Refused>;
        /// Adds a swarm to a project. Older versions know only swarms of `default`.
        AddSwarmIn { project: ProjectId, spec: Arc<SwarmSpec>, operation: Option<Operation> } -> Result<Committed<Key>, Refused>;
        /// Changes hosts and VMs. Answers when it is in the ledger; what runs follows.
        Fleet { change: FleetChange, operation: Option<Operation> } -> Result<Committed<Key>, Refused>;
        /// Says that a node has joined, or that the record of a member has changed, as it says of itself.
        NodeJoined { record: NodeRecord } -> Result<Committed<Key>, Refused>;
    }

    wire {
        Movable { agents: Vec<(AgentId, u64)> },
        GivenUp { swarm: SwarmId, node: NodeId, placement: u64, why: String },
    }

    own {
        /// Says that these agents of a node that drains hold nothing and take nothing new, in these placements.
        Movable { agents: Vec<(AgentId, u64)> },
        /// Says that the coordinator of a swarm fails again and again on this node, in this placement of it. It is said as long
        /// as it does.
        GivenUp { swarm: SwarmId, node: NodeId, placement: u64, why: String },

        // These come from this node's membership, while it leads.
        Admit { decide: Admit, reply: Reply<Result<(), Refused>> },
        /// Says that a node is lost; its lease is over by now.
        NodeLost { node: NodeId, why: String, reply: CommitReply<Key> },
        /// Says that a node's process does not run: what it coordinated is coordinated elsewhere; its agents wait for its lease.
        NodeDown { node: NodeId, reply: CommitReply<Key> },
        NodeBack { node: NodeId, generation: u64, reply: CommitReply<Key> },

        // These come from the roster itself.
        /// Decides about the hosts and VMs that wait, and commits it.
        CommitFleet,
        /// Checks whether a budget has come to what it warns at.
        LookAtBudgets,
        Leadership,
        Tick,
        CommitFailed { message: String },
    }
}

impl RosterWire {
    /// Reads what came in as the message that it is. Errors: the body is of no message that this version knows.
    pub fn message(inbound: &Inbound<'_>) -> Result<RosterMsg, NotDelivered> {
        Self::read(inbound, |told| {
            Some(match told {
                Self::Movable { agents } => RosterMsg::Movable { agents },
                Self::GivenUp { swarm, node, placement, why } => RosterMsg::GivenUp { swarm, node, placement, why },
                _ => return None,
            })
        })
    }
}
