//! The cluster as this node sees it.

use async_graphql::{Context, ID, Object};
use hiveward_actors::client::{ClusterView, Page};
use hiveward_runtime::op::NodeId;

use super::{
    Result, door,
    page::{self, Pages},
    scalars::{BigInt, Cursor},
};

/// One `hiveward` process on one host.
#[derive(Clone)]
pub struct ClusterNode {
    id: NodeId,
    generation: Option<u64>,
    leader: bool,
    voter: bool,
}

#[Object]
impl ClusterNode {
    pub(super) async fn id(&self) -> ID {
        self.id.to_string().into()
    }
    /// Grows at each start; known for this node only, until it has joined others.
    async fn generation(&self) -> Option<BigInt> {
        self.generation.map(BigInt)
    }
    async fn leader(&self) -> bool {
        self.leader
    }
    async fn voter(&self) -> bool {
        self.voter
    }
}

impl ClusterNode {
    pub fn find(view: &ClusterView, id: NodeId) -> Option<Self> {
        let known = id == view.node || view.voters.contains(&id) || view.leader == Some(id);
        known.then(|| Self {
            id,
            generation: (id == view.node).then_some(view.generation),
            leader: view.leader == Some(id),
            voter: view.voters.contains(&id),
        })
    }

    fn all(view: &ClusterView) -> Vec<Self> {
        let mut ids = view.voters.clone();
        ids.push(view.node);
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().filter_map(|id| Self::find(view, id)).collect()
    }
}

pub struct Cluster(ClusterView);

#[Object]
impl Cluster {
    async fn nodes(&self) -> Vec<ClusterNode> {
        ClusterNode::all(&self.0)
    }
    /// None while an election is under way.
    async fn leader(&self) -> Option<ClusterNode> {
        ClusterNode::find(&self.0, self.0.leader?)
    }
    async fn voters(&self) -> Vec<ClusterNode> {
        self.0.voters.iter().filter_map(|id| ClusterNode::find(&self.0, *id)).collect()
    }
    async fn term(&self) -> BigInt {
        BigInt(self.0.term)
    }
    /// The ledger's last event.
    async fn cursor(&self) -> Cursor {
        self.0.cursor.into()
    }
    /// Events that the views of this node have not taken in yet.
    async fn view_lag(&self) -> BigInt {
        BigInt(self.0.view_lag)
    }
    /// The state of the ledger's disk, in words.
    async fn disk(&self) -> &str {
        &self.0.disk
    }
}

#[derive(Default)]
pub struct ClusterQuery;

#[Object]
impl ClusterQuery {
    async fn cluster(&self, ctx: &Context<'_>) -> Result<Cluster> {
        Ok(Cluster(door(ctx)?.cluster()))
    }

    async fn nodes(&self, ctx: &Context<'_>, first: Option<i32>, after: Option<String>) -> Result<Pages<ClusterNode>> {
        let first = page::first(first)?;
        let mut nodes: Vec<_> =
            ClusterNode::all(&door(ctx)?.cluster()).into_iter().map(|node| (node.id.to_string(), node)).collect();
        if let Some(after) = &after {
            nodes.retain(|(key, _)| key > after);
        }
        let has_next = nodes.len() > first;
        nodes.truncate(first);
        Ok(page::connection(Page { items: nodes, has_next, last_seen: None }, after.as_deref()))
    }
}
