//! The nodes of the cluster: which there are, tokens to join with, draining and removing.

use std::{collections::BTreeMap, time::Duration};

use hiveward_access::{resource::ResourceKind, verb::Verb};
use hiveward_agents::gauge::ResourcesSample;
use hiveward_catalogue::{directory::NodeStatus, roster::message::asks as roster};
use hiveward_kernel::{entity::Entity, id::AgentId};
use hiveward_runtime::{
    clock::WallMs,
    error::{Code, Refused},
    id::Key,
    net::identity::JoinToken,
    op::{NodeId, Op},
    supervise::TreeNode,
};

use super::{ControlPlane, Done, command::operation};
use crate::client::access::Sought;
use crate::{report::NodeReport, retention::report::StorageReport};

/// How long one try to make this node known may take.
const ANNOUNCE_WITHIN: Duration = Duration::from_secs(5);
pub const TOKEN_TTL_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// A node as the ledger knows it.
#[derive(Clone, Debug)]
pub struct NodeView {
    pub node: NodeId,
    pub raft_id: u64,
    pub address: String,
    /// The address at which browsers reach its gateway.
    pub gateway: Option<String>,
    /// Whether it ends VMs that come back elsewhere before its lease is over, whatever becomes of its process.
    pub fences: bool,
    /// Whether its machine is reset if what it must end in time is not ended.
    pub watchdog: bool,
    pub labels: BTreeMap<String, String>,
    pub zone: String,
    pub cores: u32,
    pub status: NodeStatus,
    /// The reason why it was declared lost.
    pub why: Option<String>,
    /// The number of its present start, as far as it is known.
    pub generation: u64,
    /// The number of agents and coordinators that are placed on it.
    pub entities: u32,
    pub drain: Option<DrainView>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainView {
    pub since: WallMs,
    /// The time at which what is left is stopped.
    pub until: WallMs,
    pub entities_at_start: u32,
    pub entities_left: u32,
}

impl ControlPlane {
    /// Lists the nodes in the order of their ids, including removed ones.
    pub fn nodes(&self) -> Vec<NodeView> {
        if !self.sees(Sought::Cluster(ResourceKind::Node)) {
            return Vec::new();
        }
        let me = self.house.me.node;
        self.house.directory.read(|known| {
            let view = |entry: &hiveward_catalogue::directory::NodeEntry| NodeView {
                node: entry.record.node,
                raft_id: entry.record.raft_id,
                address: entry.record.address.clone(),
                gateway: entry.record.gateway.clone(),
                fences: entry.record.fences,
                watchdog: entry.record.watchdog,
                labels: entry.record.labels.clone(),
                zone: entry.record.zone.clone(),
                cores: entry.record.cores,
                status: entry.status,
                why: entry.why.clone(),
                generation: if entry.record.node == me { self.house.generation } else { entry.generation },
                entities: entry.entities,
                drain: entry.drain.map(|drain| DrainView {
                    since: drain.since,
                    until: drain.since.plus(Duration::from_millis(drain.within_ms)),
                    entities_at_start: drain.entities,
                    entities_left: entry.entities,
                }),
            };
            known.nodes.values().map(view).collect()
        })
    }

    /// Makes a token that lets one node in for as long as `ttl`, and returns its text, shown this once: the cluster keeps only
    /// its hash.
    pub async fn create_join_token(&self, op: Op, ttl: Duration) -> Result<Done<String>, Refused> {
        let op = self.may(op, Verb::CreateJoinToken, Sought::Cluster(ResourceKind::Node)).await?;
        self.takes_writes()?;
        self.admitted(&op)?;
        let identity = self.house.identity.as_ref().ok_or_else(|| {
            Refused::new(Code::Refused, "this node has no cluster identity: start it with a cluster address first")
        })?;
        if ttl.is_zero() || ttl > TOKEN_TTL_MAX {
            return Err(Refused::invalid("ttl", format!("a join token lasts up to {} hours", TOKEN_TTL_MAX.as_secs() / 3600)));
        }
        let internal = |error: hiveward_runtime::net::identity::IdentityError| Refused::new(Code::Internal, error.to_string());
        let token = JoinToken::create(identity.cluster(), identity.fingerprint()).map_err(internal)?;
        let expires_at = self.house.clock.now().plus(ttl);
        let token = token.reveal();
        let issued = self.ask_roster(&op, roster::IssueToken { token: token.clone(), expires_at }).await?;
        Ok(Done { value: token, cursor: issued.cursor })
    }

    /// Moves what the node holds elsewhere; what has not gone after `within` is stopped. Answers when it has begun.
    pub async fn drain_node(&self, op: Op, node: NodeId, within: Duration) -> Result<Done<NodeView>, Refused> {
        let op = self.may(op, Verb::DrainNode, node).await?;
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let operation = operation(&op, &("drain", node, within_ms));
        let done = self.declare(&op, roster::DrainNode { node, within_ms, operation }).await?;
        self.node_done(&op, node, done.cursor).await
    }

    /// Lets the node take entities again; what has gone does not come back by itself.
    pub async fn cancel_drain(&self, op: Op, node: NodeId) -> Result<Done<NodeView>, Refused> {
        let op = self.may(op, Verb::DrainNode, node).await?;
        let operation = operation(&op, &("cancel-drain", node));
        let done = self.declare(&op, roster::CancelDrain { node, operation }).await?;
        self.node_done(&op, node, done.cursor).await
    }

    /// Removes a node that is drained or lost. With `force` it removes any other, too: what it held is placed elsewhere at once.
    pub async fn remove_node(&self, op: Op, node: NodeId, force: bool) -> Result<Done<NodeView>, Refused> {
        let op = self.may(op, Verb::RemoveNode, node).await?;
        let operation = operation(&op, &("remove-node", node, force));
        let done = self.declare(&op, roster::RemoveNode { node, force, operation }).await?;
        self.node_done(&op, node, done.cursor).await
    }

    /// Makes the cluster know of this node what the node knows of itself; returns true once it does.
    pub(crate) async fn announce(&self) -> Result<bool, Refused> {
        let me = &self.house.me;
        let known = self.house.directory.read(|known| known.nodes.get(&me.node).map(|entry| entry.record == **me));
        match known {
            Some(true) => Ok(true),
            // A joiner that does not know of itself yet lags behind.
            None => Ok(false),
            Some(false) => {
                let op = Op::internal(ANNOUNCE_WITHIN);
                let done = self.ask_roster(&op, roster::NodeJoined { record: (**me).clone() }).await?;
                self.known_at(&op, done.cursor).await?;
                Ok(true)
            }
        }
    }

    /// Returns the digests of the tokens that the cluster's nodes accept, as they wrote them.
    pub fn token_digests(&self) -> Vec<String> {
        self.house.directory.read(|known| {
            let accepted = known.nodes.values().filter(|entry| entry.status != NodeStatus::Removed);
            accepted.flat_map(|entry| entry.record.token_digests.iter().cloned()).collect()
        })
    }

    /// Returns where browsers reach the gateways of the cluster's nodes, including those that are lost.
    pub fn gateways(&self) -> Vec<String> {
        self.house.directory.read(|known| {
            let members = known.nodes.values().filter(|entry| entry.status != NodeStatus::Removed);
            members.filter_map(|entry| entry.record.gateway.clone()).collect()
        })
    }

    /// Asks each node for its own figures now; an error says why there are none.
    pub async fn reports(&self, within: Duration) -> BTreeMap<NodeId, Result<NodeReport, String>> {
        let nodes = self.house.directory.read(|known| {
            let there = known.nodes.values().filter(|entry| entry.status != NodeStatus::Removed);
            there.map(|entry| entry.record.node).collect::<Vec<_>>()
        });
        match &self.reports {
            Some(reports) => reports.of(nodes, within).await,
            None => BTreeMap::new(),
        }
    }

    /// Asks each node that was not removed what it keeps on its disk; an error says why one does not tell.
    pub async fn storage(&self, within: Duration) -> BTreeMap<NodeId, Result<Box<StorageReport>, String>> {
        let nodes = self.house.directory.read(|known| {
            let there = known.nodes.values().filter(|entry| entry.status != NodeStatus::Removed);
            there.map(|entry| entry.record.node).collect::<Vec<_>>()
        });
        match &self.reports {
            Some(reports) => reports.storage(nodes, within).await,
            None => BTreeMap::new(),
        }
    }

    /// Returns the node that an entity is placed on.
    pub fn whereabouts(&self, key: &Key) -> Option<NodeId> {
        Some(self.house.directory.location(Entity::of(key)?)?.node)
    }

    /// Returns the supervision tree of a node, below `root`; `None` if nothing is there.
    pub async fn tree_of(&self, op: &Op, node: NodeId, root: Option<&str>, depth: usize) -> Result<Option<TreeNode>, Refused> {
        if node == self.house.me.node {
            return Ok(self.tree.snapshot(root, depth));
        }
        let Some(reports) = &self.reports else { return Err(Refused::not_found(node)) };
        reports.tree(node, root, depth, op.deadline).await.map_err(|why| Refused::new(Code::Unavailable, why))
    }

    /// Returns what the processes of an agent used, as the node that has it measured: see
    /// [`Gauges`](hiveward_agents::gauge::Gauges).
    pub async fn agent_resources(
        &self,
        op: &Op,
        agent: AgentId,
        between: (WallMs, WallMs),
        points: u32,
    ) -> Result<Vec<ResourcesSample>, Refused> {
        if self.agent(agent)?.is_none() {
            return Err(Refused::not_found(agent));
        }
        // Placed nowhere, or a node that does not tell: nothing was measured.
        let (Some(node), Some(reports)) = (self.whereabouts(&agent.key()), &self.reports) else { return Ok(Vec::new()) };
        let asked = reports.resources(node, agent, between, points, op.deadline).await;
        asked.map_err(|why| Refused::new(Code::Unavailable, format!("the agent is on {node}: {why}")))
    }

    async fn node_done(
        &self,
        op: &Op,
        node: NodeId,
        cursor: hiveward_runtime::ledger::Cursor,
    ) -> Result<Done<NodeView>, Refused> {
        self.known_at(op, cursor).await?;
        let view = self.nodes().into_iter().find(|view| view.node == node).ok_or_else(|| Refused::not_found(node))?;
        Ok(Done { value: view, cursor })
    }
}
