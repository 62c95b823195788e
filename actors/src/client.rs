//! The gateway's only door: commands go to the entity that owns the answer, queries read the views.
//!
//! Owns nothing. Every command answers by `op.deadline`. One that answers has been committed; one that fails with
//! `UnknownOutcome` may have been, and the same operation id tells which.

pub(crate) mod access;
mod api_key;
mod attach;
mod check;
mod coding;
mod command;
mod connector;
mod fault_points;
mod host;
mod image;
mod network;
mod nodes;
mod part;
mod policy;
mod project;
mod query;
pub(crate) mod route;
mod rows;
mod scale;
mod scatter;
mod shard;
mod storage;
mod turns;
mod usage;
mod vm;

use std::sync::Arc;

use hiveward_access::policy::{BadPolicy, PolicySource};
use hiveward_runtime::{call::Door, ledger::Cursor, op::NodeId, supervise::Tree};

use crate::{house::House, report::Reports, roster::RosterMsg, terminals::Terminals, transcripts::Transcripts, tree::Running};

pub use crate::event::{EventFilter, EventRecord, EventTail};
pub use api_key::{API_KEY_BEGINS, API_KEY_TTL_MAX, NewApiKey};
pub(crate) use attach::Keys;
pub use attach::{Said, Terminal};
pub use check::{DependsOn, NewAgent, NewSwarm, NewTask, NewWork, SwarmRef, TaskEdit};
pub use fault_points::FAULT_POINTS;
pub use hiveward_agents::{
    approval::{ApprovalRecord, ApprovalStatus},
    approvals_table::ApprovalFilter,
    message::{PauseMode, StopMode},
    table::AgentFilter,
};
pub use hiveward_catalogue::{agent::coding::Permission, directory::NodeStatus};
pub use hiveward_kernel::page::Page;
pub use hiveward_machines::vm::table::VmFilter;
pub use hiveward_work::{
    swarm::table::SwarmFilter,
    task::search::{TaskFilter, TaskOrder},
};
pub use host::NewHost;
pub use image::NewImage;
pub use network::{NewKind, NewNetwork, VmCard};
pub use nodes::{DrainView, NodeView, TOKEN_TTL_MAX};
pub use project::{Decision, ProjectView};
pub(crate) use query::resident_bytes;
pub use query::{ClusterView, MetricsSample, OutputChunk, OutputReader, OutputStream, Why};
pub use scatter::{NewHedge, NewScatter, Over};
pub use shard::ShardView;
pub use storage::Looked;
pub use usage::BudgetView;
pub use vm::{
    BalanceRules, BalanceView, Begun, CheckedBackup, ConsoleReader, GuestExec, HOLD_MAX, HostSelection, KeptBackup, Metered,
    NewClone, NewGuestExec, NewMove, NewSchedule, NewSize, NewVm, PackedHost, PackingPlan, PackingSolver, PlannedMove,
    Rebalanced, Restore, Verdict,
};

/// The control plane of one node, through which the gateway reads and commands. It is cheap to clone.
#[derive(Clone)]
pub struct ControlPlane {
    house: House,
    tree: Tree,
    roster: Door<RosterMsg>,
    node: NodeId,
    faults_allowed: bool,
    /// Transcripts of other nodes; absent on a node that has no peers.
    transcripts: Option<Transcripts>,
    reports: Option<Reports>,
    terminals: Option<Terminals>,
    turns: turns::Turns,
    court: Arc<access::Court>,
    /// The one for whom it asks.
    asking: Arc<access::Asking>,
}

/// An answer that is in the ledger, with the place where it is.
#[derive(Clone, Debug)]
pub struct Done<T> {
    pub value: T,
    pub cursor: Cursor,
}

impl ControlPlane {
    /// Makes the control plane of `node`, which asks for the node itself, with the policies of its configuration. It reads
    /// nothing of other nodes until it is given what they lend. Errors: a policy does not fit.
    pub fn new(
        house: House,
        tree: Tree,
        roster: Door<RosterMsg>,
        node: NodeId,
        faults_allowed: bool,
        policies: Vec<PolicySource>,
    ) -> Result<Self, BadPolicy> {
        let court = access::Court::new(policies)?;
        Ok(Self {
            house,
            tree,
            roster,
            node,
            faults_allowed,
            transcripts: None,
            reports: None,
            terminals: None,
            turns: turns::Turns::default(),
            court,
            asking: access::Asking::node(),
        })
    }

    /// Makes the control plane of a node of which these are the parts. Errors: as for [`Self::new`].
    pub(crate) fn of_node(
        house: &House,
        running: &Running,
        node: NodeId,
        faults_allowed: bool,
        policies: Vec<PolicySource>,
    ) -> Result<Self, BadPolicy> {
        Self::new(house.clone(), running.tree.clone(), running.roster.clone(), node, faults_allowed, policies)
    }

    /// Adds the way to what ran on other nodes, and to what nodes say of themselves.
    pub(crate) fn with_others(self, transcripts: Option<Transcripts>, reports: Reports) -> Self {
        Self { transcripts, reports: Some(reports), ..self }
    }

    /// Adds the way to terminals on other nodes.
    pub(crate) fn with_terminals(self, terminals: Terminals) -> Self {
        Self { terminals: Some(terminals), ..self }
    }

    /// Returns the supervision tree of this node.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Returns the cursor of the last committed event that this node has.
    pub fn head(&self) -> Cursor {
        self.house.ledger.head()
    }
}

type Text = Arc<str>;
