//! The cluster: its nodes, who leads, how they are; tokens to join with, draining and removing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_graphql::{Context, Enum, ID, InputObject, Object, SimpleObject};
use hiveward_actors::{
    client::{ClusterView, ControlPlane, NodeView},
    report::NodeReport,
};
use hiveward_catalogue::directory::NodeStatus as Status;
use hiveward_kernel::page::Page;
use hiveward_runtime::op::NodeId;
use tokio::sync::OnceCell;

use super::{
    Result, door, op,
    page::{self, Pages},
    parse,
    scalars::{BigInt, Cursor, DateTime},
    task::Label,
};
use crate::origin::is_origin;

/// How long nodes may take to say how they are; who does not is shown as not answering.
const REPORT_WITHIN: Duration = Duration::from_millis(800);
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);
const DRAIN_WITHIN: Duration = Duration::from_secs(600);

#[derive(Enum, Clone, Copy, PartialEq, Eq)]
pub enum NodeStatus {
    Up,
    /// It is being emptied.
    Draining,
    /// It is empty, and takes nothing new.
    Drained,
    /// Its lease ran out; what it held is elsewhere.
    Lost,
    Removed,
}

impl From<Status> for NodeStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Up => Self::Up,
            Status::Draining => Self::Draining,
            Status::Drained => Self::Drained,
            Status::Lost => Self::Lost,
            Status::Removed => Self::Removed,
        }
    }
}

type Reports = BTreeMap<NodeId, std::result::Result<NodeReport, String>>;

/// What all nodes said, asked once for one request and only if a field needs it.
#[derive(Clone, Default)]
struct Asked(Arc<OnceCell<Reports>>);

impl Asked {
    async fn all(&self, ctx: &Context<'_>) -> Result<&Reports> {
        let control = door(ctx)?;
        Ok(self.0.get_or_init(|| control.reports(REPORT_WITHIN)).await)
    }
}

/// One `hiveward` process on one host.
#[derive(Clone)]
pub struct ClusterNode {
    view: Arc<NodeView>,
    cluster: Arc<ClusterView>,
    asked: Asked,
}

/// How a drain goes on.
#[derive(SimpleObject)]
pub struct Drain {
    since: DateTime,
    /// What is left then is stopped.
    until: DateTime,
    entities_at_start: u32,
    entities_left: u32,
}

/// An actor that was given up after a crash loop, or that takes none of its messages.
#[derive(SimpleObject)]
pub struct Troubled {
    /// Names from the root, joined by `/`.
    path: String,
    key: Option<ID>,
    /// What is wrong, and what happens next.
    why: String,
}

/// A connection of a node to another, as it sees it.
#[derive(SimpleObject)]
pub struct NodeLink {
    peer: ID,
    /// `router`, `raft` or `bulk`.
    lane: String,
    up: bool,
    since: DateTime,
    round_trip_us: Option<BigInt>,
    /// How far the peer's wall clock is ahead.
    clock_offset_ms: Option<f64>,
    queued_bytes: BigInt,
    /// Why it is down.
    why_down: Option<String>,
}

impl ClusterNode {
    async fn said(&self, ctx: &Context<'_>) -> Result<Option<&NodeReport>> {
        Ok(self.asked.all(ctx).await?.get(&self.view.node).and_then(|said| said.as_ref().ok()))
    }

    fn all(control: &ControlPlane, asked: &Asked) -> Vec<Self> {
        let cluster = Arc::new(control.cluster());
        let there = control.nodes().into_iter().filter(|view| view.status != Status::Removed);
        there.map(|view| Self { view: Arc::new(view), cluster: cluster.clone(), asked: asked.clone() }).collect()
    }

    /// Also one that was removed.
    pub fn find(control: &ControlPlane, id: NodeId) -> Option<Self> {
        let view = control.nodes().into_iter().find(|view| view.node == id)?;
        Some(Self { view: Arc::new(view), cluster: Arc::new(control.cluster()), asked: Asked::default() })
    }
}

#[Object]
impl ClusterNode {
    pub(super) async fn id(&self) -> ID {
        self.view.node.to_string().into()
    }
    async fn status(&self) -> NodeStatus {
        self.view.status.into()
    }
    /// Why it was declared lost.
    async fn why(&self) -> Option<&str> {
        self.view.why.as_deref()
    }
    /// Why it does not seem to live, though it was not declared lost: it does not answer, or its lease runs out.
    async fn suspected(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        if matches!(self.view.status, Status::Lost | Status::Removed) {
            return Ok(None);
        }
        let said = self.asked.all(ctx).await?.get(&self.view.node);
        Ok(match said {
            Some(Err(why)) => Some(why.clone()),
            Some(Ok(report)) if report.lease != "held" => Some(format!("its lease is {}", report.lease)),
            Some(Ok(_)) => None,
            None => Some("it was not asked".into()),
        })
    }
    /// Milliseconds before it is declared lost unless it asks for its lease again; known while a leader answers.
    async fn lease_left_ms(&self, ctx: &Context<'_>) -> Result<Option<BigInt>> {
        let all = self.asked.all(ctx).await?;
        let mut granted = all.values().filter_map(|said| said.as_ref().ok()).flat_map(|report| &report.leases);
        let left = granted.find(|(node, _)| *node == self.view.node).and_then(|(_, left)| *left);
        Ok(left.map(BigInt))
    }
    /// Where its peers reach it.
    async fn address(&self) -> &str {
        &self.view.address
    }
    /// Where browsers reach its gateway; absent if it has not said.
    async fn gateway_url(&self) -> Option<&str> {
        self.view.gateway.as_deref().filter(|url| is_origin(url))
    }
    /// What ends VMs on its own hypervisors that come back elsewhere, before its lease is over.
    async fn fence(&self) -> &str {
        match (self.view.fences, self.view.watchdog) {
            (true, true) => "a keeper process and the machine's watchdog",
            (true, false) => "a keeper process; no watchdog",
            (false, _) => "none: VMs of its hypervisors come back elsewhere by a person's word alone",
        }
    }
    async fn zone(&self) -> Option<&str> {
        Some(&*self.view.zone).filter(|zone| !zone.is_empty())
    }
    async fn labels(&self) -> Vec<Label> {
        self.view.labels.iter().map(|(name, value)| Label { key: name.clone(), value: value.clone() }).collect()
    }
    async fn cores(&self) -> u32 {
        self.view.cores
    }
    /// Grows at each start; absent if the node does not answer.
    async fn generation(&self, ctx: &Context<'_>) -> Result<Option<BigInt>> {
        if self.view.node == self.cluster.node {
            return Ok(Some(BigInt(self.cluster.generation)));
        }
        Ok(self.said(ctx).await?.map(|report| BigInt(report.generation)))
    }
    /// The program's.
    async fn version(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        Ok(self.said(ctx).await?.map(|report| report.version.clone()))
    }
    async fn leader(&self) -> bool {
        self.cluster.leader == Some(self.view.node)
    }
    async fn voter(&self) -> bool {
        self.cluster.voters.contains(&self.view.node)
    }
    /// Agents and coordinators that are placed on it.
    async fn entities(&self) -> u32 {
        self.view.entities
    }
    async fn drain(&self) -> Option<Drain> {
        self.view.drain.map(|drain| Drain {
            since: drain.since.into(),
            until: drain.until.into(),
            entities_at_start: drain.entities_at_start,
            entities_left: drain.entities_left,
        })
    }
    /// Of the system, over one minute.
    async fn load_average(&self, ctx: &Context<'_>) -> Result<Option<f64>> {
        Ok(self.said(ctx).await?.and_then(|report| report.load_average))
    }
    async fn resident_bytes(&self, ctx: &Context<'_>) -> Result<Option<BigInt>> {
        Ok(self.said(ctx).await?.and_then(|report| report.resident_bytes).map(BigInt))
    }
    /// The ledger's last event on it.
    async fn cursor(&self, ctx: &Context<'_>) -> Result<Option<Cursor>> {
        Ok(self.said(ctx).await?.map(|report| hiveward_runtime::ledger::Cursor(report.cursor).into()))
    }
    /// Events that its views have not taken in yet.
    async fn view_lag(&self, ctx: &Context<'_>) -> Result<Option<BigInt>> {
        Ok(self.said(ctx).await?.map(|report| BigInt(report.view_lag)))
    }
    /// How far its wall clock is ahead of the asked node's, at half a round trip's precision.
    async fn clock_offset_ms(&self, ctx: &Context<'_>) -> Result<Option<f64>> {
        let all = self.asked.all(ctx).await?;
        let own = all.get(&self.cluster.node).and_then(|said| said.as_ref().ok());
        let link = own.and_then(|report| report.links.iter().find(|link| link.peer == self.view.node && link.up));
        Ok(link.and_then(|link| link.clock_offset_ms).map(|ms| ms as f64))
    }
    /// Its connections, as it sees them; none if it does not answer.
    async fn links(&self, ctx: &Context<'_>) -> Result<Vec<NodeLink>> {
        let said = self.said(ctx).await?;
        let links = said.into_iter().flat_map(|report| &report.links).map(|link| NodeLink {
            peer: link.peer.to_string().into(),
            lane: link.lane.clone(),
            up: link.up,
            since: link.since.into(),
            round_trip_us: link.round_trip_us.map(BigInt),
            clock_offset_ms: link.clock_offset_ms.map(|ms| ms as f64),
            queued_bytes: BigInt(link.queued_bytes),
            why_down: link.why_down.clone(),
        });
        Ok(links.collect())
    }
    /// Actors on it that do not do what they are there for, the first sixteen; none if it does not answer.
    async fn troubled(&self, ctx: &Context<'_>) -> Result<Vec<Troubled>> {
        let said = self.said(ctx).await?;
        let troubled = said.into_iter().flat_map(|report| &report.troubled).map(|trouble| Troubled {
            path: trouble.path.clone(),
            key: trouble.key.clone().map(Into::into),
            why: trouble.why.clone(),
        });
        Ok(troubled.collect())
    }
    /// Until when its certificate is good; it is renewed at two thirds.
    async fn certificate_until(&self, ctx: &Context<'_>) -> Result<Option<DateTime>> {
        Ok(self.said(ctx).await?.and_then(|report| report.certificate_until).map(Into::into))
    }
}

pub struct Cluster {
    view: Arc<ClusterView>,
    nodes: Vec<ClusterNode>,
}

#[Object]
impl Cluster {
    /// Without those that were removed.
    async fn nodes(&self) -> &[ClusterNode] {
        &self.nodes
    }
    /// None while an election is under way, and on a node that is cut off from it.
    async fn leader(&self) -> Option<&ClusterNode> {
        if self.view.no_quorum.is_some() {
            return None;
        }
        self.nodes.iter().find(|node| Some(node.view.node) == self.view.leader)
    }
    async fn voters(&self) -> Vec<&ClusterNode> {
        self.nodes.iter().filter(|node| self.view.voters.contains(&node.view.node)).collect()
    }
    async fn term(&self) -> BigInt {
        BigInt(self.view.term)
    }
    /// The ledger's last event.
    async fn cursor(&self) -> Cursor {
        self.view.cursor.into()
    }
    /// Events that the views of this node have not taken in yet.
    async fn view_lag(&self) -> BigInt {
        BigInt(self.view.view_lag)
    }
    /// The state of the ledger's disk, in words.
    async fn disk(&self) -> &str {
        &self.view.disk
    }
    /// Why no write can be agreed on now, as this node knows.
    async fn no_quorum(&self) -> Option<&str> {
        self.view.no_quorum.as_deref()
    }
    /// The set of voters is being changed.
    async fn changing(&self) -> bool {
        self.view.changing
    }
}

#[derive(Default)]
pub struct ClusterQuery;

#[Object]
impl ClusterQuery {
    async fn cluster(&self, ctx: &Context<'_>) -> Result<Cluster> {
        let control = door(ctx)?;
        Ok(Cluster { view: Arc::new(control.cluster()), nodes: ClusterNode::all(control, &Asked::default()) })
    }

    async fn nodes(&self, ctx: &Context<'_>, first: Option<i32>, after: Option<String>) -> Result<Pages<ClusterNode>> {
        let first = page::first(first)?;
        let nodes = ClusterNode::all(door(ctx)?, &Asked::default());
        let mut nodes: Vec<_> = nodes.into_iter().map(|node| (node.view.node.to_string(), node)).collect();
        if let Some(after) = &after {
            nodes.retain(|(key, _)| key > after);
        }
        let has_next = nodes.len() > first;
        nodes.truncate(first);
        Ok(page::connection(Page { items: nodes, has_next, last_seen: None }, after.as_deref()))
    }
}

#[derive(InputObject)]
pub struct CreateJoinTokenInput {
    pub operation_id: Option<ID>,
    /// How long it can be used; a day unless given, a week at most.
    pub ttl_ms: Option<i32>,
}

#[derive(SimpleObject)]
pub struct CreateJoinTokenPayload {
    /// Shown this once. Good for one node.
    token: String,
    cursor: Cursor,
}

#[derive(InputObject)]
pub struct DrainNodeInput {
    pub operation_id: Option<ID>,
    pub node: ID,
    /// What has not moved or finished by then is stopped; ten minutes unless given.
    pub within_ms: Option<i32>,
    /// Instead, ends a drain: the node takes entities again.
    #[graphql(default)]
    pub cancel: bool,
}

#[derive(SimpleObject)]
pub struct DrainNodePayload {
    node: ClusterNode,
    cursor: Cursor,
}

#[derive(InputObject)]
pub struct RemoveNodeInput {
    pub operation_id: Option<ID>,
    pub node: ID,
    /// Also one that is neither drained nor lost: what it holds is stopped and placed elsewhere at once.
    #[graphql(default)]
    pub force: bool,
}

#[derive(SimpleObject)]
pub struct RemoveNodePayload {
    node: ClusterNode,
    cursor: Cursor,
}

#[derive(Default)]
pub struct ClusterMutation;

fn node(ctx: &Context<'_>, view: NodeView) -> Result<ClusterNode> {
    Ok(ClusterNode { view: Arc::new(view), cluster: Arc::new(door(ctx)?.cluster()), asked: Asked::default() })
}

#[Object]
impl ClusterMutation {
    /// A token for one node to join with. Repeating it makes another.
    async fn create_join_token(&self, ctx: &Context<'_>, input: CreateJoinTokenInput) -> Result<CreateJoinTokenPayload> {
        let ttl = parse::optional_natural("ttlMs", input.ttl_ms)?.map_or(TOKEN_TTL, Duration::from_millis);
        let done = door(ctx)?.create_join_token(op(ctx, input.operation_id.as_ref())?, ttl).await?;
        Ok(CreateJoinTokenPayload { token: done.value, cursor: done.cursor.into() })
    }

    /// Moves or finishes what the node holds; watch `drain`. It ends within the time given, or when it is cancelled.
    async fn drain_node(&self, ctx: &Context<'_>, input: DrainNodeInput) -> Result<DrainNodePayload> {
        let (id, op) = (parse::id("node", &input.node)?, op(ctx, input.operation_id.as_ref())?);
        let within = parse::optional_natural("withinMs", input.within_ms)?.map_or(DRAIN_WITHIN, Duration::from_millis);
        let control = door(ctx)?;
        let done = if input.cancel { control.cancel_drain(op, id).await } else { control.drain_node(op, id, within).await }?;
        Ok(DrainNodePayload { node: node(ctx, done.value)?, cursor: done.cursor.into() })
    }

    /// Takes a drained or lost node out for good, and voids its certificate.
    async fn remove_node(&self, ctx: &Context<'_>, input: RemoveNodeInput) -> Result<RemoveNodePayload> {
        let (id, op) = (parse::id("node", &input.node)?, op(ctx, input.operation_id.as_ref())?);
        let done = door(ctx)?.remove_node(op, id, input.force).await?;
        Ok(RemoveNodePayload { node: node(ctx, done.value)?, cursor: done.cursor.into() })
    }
}
