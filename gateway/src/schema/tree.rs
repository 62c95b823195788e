//! The living supervision tree.

use std::borrow::Cow;

use async_graphql::{Context, Enum, ID, Object, SimpleObject, Subscription, dataloader::DataLoader};
use futures_util::{Stream, stream};
use hiveward_kernel::id::{AgentId, HostId, SwarmId, VmId};
use hiveward_runtime::{
    error::Refused,
    id::Key,
    op::NodeId,
    supervise::{Change, TreeChange, TreeNode, tree::Missed},
};

use super::{
    Result, door,
    enums::ActorStatus,
    load::Views,
    op,
    scalars::{BigInt, DateTime},
};

#[derive(SimpleObject)]
pub struct LastFailure {
    pub message: String,
    pub at: DateTime,
    /// From the failure to answering again; none: not yet.
    pub recovered_in_ms: Option<f64>,
}

/// One actor or supervisor that lives (or waits to live again).
pub struct SupervisionNode<'a>(Cow<'a, TreeNode>, NodeId);

#[Object]
impl SupervisionNode<'_> {
    /// Its place: the names from the root, with slashes.
    async fn path(&self) -> &str {
        &self.0.path
    }
    async fn name(&self) -> &str {
        &self.0.name
    }
    async fn kind(&self) -> &str {
        &self.0.kind
    }
    /// The key of the entity it is, if it is one.
    async fn key(&self) -> Option<ID> {
        self.0.key.as_ref().map(|key| key.as_str().into())
    }
    /// The name of the entity it is, if it is one that has a name and this node knows it.
    async fn entity_name(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        let Some(key) = &self.0.key else { return Ok(None) };
        let views: &DataLoader<Views> = ctx.data()?;
        Ok(match key.noun() {
            AgentId::NOUN => match AgentId::try_from(key) {
                Ok(id) => views.load_one(id).await?.map(|record| record.spec.name.clone()),
                Err(_) => None,
            },
            SwarmId::NOUN => match SwarmId::try_from(key) {
                Ok(id) => views.load_one(id.head()).await?.map(|record| record.spec.name.clone()),
                Err(_) => None,
            },
            HostId::NOUN => match HostId::try_from(key) {
                Ok(id) => views.load_one(id).await?.map(|record| record.spec.name.clone()),
                Err(_) => None,
            },
            VmId::NOUN => match VmId::try_from(key) {
                Ok(id) => door(ctx)?.vm(id)?.map(|record| record.spec.name.clone()),
                Err(_) => None,
            },
            _ => None,
        })
    }
    /// The node (process) it lives on.
    async fn node(&self) -> ID {
        self.1.to_string().into()
    }
    async fn status(&self) -> ActorStatus {
        self.0.status.into()
    }
    async fn note(&self) -> Option<String> {
        self.0.note.as_ref().map(ToString::to_string)
    }
    async fn restarts(&self) -> BigInt {
        BigInt(self.0.restarts)
    }
    async fn last_failure(&self) -> Option<LastFailure> {
        let failure = self.0.last_failure.as_ref()?;
        Some(LastFailure {
            message: failure.message.clone(),
            at: failure.at.into(),
            recovered_in_ms: failure.recovered_in.map(|took| took.as_secs_f64() * 1e3),
        })
    }
    /// Messages that wait.
    async fn mailbox(&self) -> usize {
        self.0.mailbox
    }
    async fn mailbox_bound(&self) -> usize {
        self.0.mailbox_bound
    }
    async fn started_at(&self) -> DateTime {
        self.0.started_at.into()
    }
    async fn age_ms(&self) -> BigInt {
        BigInt(u64::try_from(self.0.age.as_millis()).unwrap_or(u64::MAX))
    }
    /// Children in all, also where `depth` cut them off.
    async fn child_count(&self) -> usize {
        self.0.children_total
    }
    async fn children(&self) -> Vec<SupervisionNode<'_>> {
        self.0.children.iter().map(|child| SupervisionNode(Cow::Borrowed(child), self.1)).collect()
    }
}

#[derive(Default)]
pub struct TreeQuery;

const DEPTH_DEFAULT: i32 = 8;

#[Object]
impl TreeQuery {
    /// The tree below `root`, `depth` levels of children. `root` is an entity's key, wherever it lives; a node's id; or a path
    /// on `node`, which is the asked one if absent.
    async fn supervision_tree(
        &self,
        ctx: &Context<'_>,
        root: Option<ID>,
        depth: Option<i32>,
        node: Option<ID>,
    ) -> Result<SupervisionNode<'static>> {
        let depth = super::parse::natural("depth", depth.unwrap_or(DEPTH_DEFAULT))?;
        let (control, op) = (door(ctx)?, op(ctx, None)?);
        let own = control.cluster().node;
        let mut on = super::parse::optional("node", node.as_ref())?;
        let mut below = root.as_ref().map(|root| root.as_str());
        if let Some(id) = below.and_then(|root| root.parse::<NodeId>().ok()) {
            (on, below) = (Some(id), None);
        } else if on.is_none()
            && let Some(key) = below.and_then(|root| root.parse::<Key>().ok())
        {
            on = control.whereabouts(&key);
        }
        let on = on.unwrap_or(own);
        let found = control.tree_of(&op, on, below, depth).await?;
        let missing = || Refused::not_found(format!("actor {:?}", root.as_ref().map_or("root", |root| root.as_str())));
        Ok(SupervisionNode(Cow::Owned(found.ok_or_else(missing)?), on))
    }
}

#[derive(Enum, Clone, Copy, PartialEq, Eq)]
pub enum SupervisionChangeKind {
    Started,
    Stopped,
    Failed,
    Restarted,
    GaveUp,
    Removed,
    /// Changes were missed because this client was slow: read the tree again.
    Lagged,
}

#[derive(SimpleObject)]
pub struct SupervisionChange {
    pub at: DateTime,
    pub path: String,
    pub key: Option<ID>,
    pub kind: String,
    pub change: SupervisionChangeKind,
    /// Of a failure, or how many changes were missed.
    pub message: Option<String>,
    /// Of a restart: from the failure to answering again.
    pub took_ms: Option<f64>,
}

impl From<TreeChange> for SupervisionChange {
    fn from(change: TreeChange) -> Self {
        use SupervisionChangeKind as Kind;
        let (kind, message, took) = match change.what {
            Change::Started => (Kind::Started, None, None),
            Change::Stopped => (Kind::Stopped, None, None),
            Change::Failed { message } => (Kind::Failed, Some(message), None),
            Change::Restarted { took } => (Kind::Restarted, None, Some(took)),
            Change::GaveUp { message } => (Kind::GaveUp, Some(message), None),
            Change::Removed => (Kind::Removed, None, None),
        };
        Self {
            at: change.at.into(),
            path: change.path,
            key: change.key.map(|key| key.as_str().into()),
            kind: change.kind.into(),
            change: kind,
            message,
            took_ms: took.map(|took| took.as_secs_f64() * 1e3),
        }
    }
}

impl SupervisionChange {
    fn lagged(missed: u64) -> Self {
        Self {
            at: hiveward_runtime::clock::WallMs::now().into(),
            path: String::new(),
            key: None,
            kind: String::new(),
            change: SupervisionChangeKind::Lagged,
            message: Some(format!("{missed} changes were missed; read the tree again")),
            took_ms: None,
        }
    }
}

#[derive(Default)]
pub struct TreeFeed;

#[Subscription]
impl TreeFeed {
    /// Starts, stops, failures and restarts below `root` (a path or a key), as they happen.
    async fn supervision(&self, ctx: &Context<'_>, root: Option<ID>) -> Result<impl Stream<Item = SupervisionChange>> {
        let tree = door(ctx)?.tree();
        let below = match &root {
            Some(root) => {
                let found = tree
                    .snapshot(Some(root.as_str()), 0)
                    .ok_or_else(|| Refused::not_found(format!("actor {:?}", root.as_str())))?;
                Some(found.path)
            }
            None => None,
        };
        Ok(stream::unfold((tree.changes(), below), |(mut changes, below)| async move {
            loop {
                match changes.next().await {
                    Ok(change) if below.as_deref().is_none_or(|root| is_below(&change.path, root)) => {
                        return Some((change.into(), (changes, below)));
                    }
                    Ok(_) => {}
                    Err(Missed::Lagged(missed)) => return Some((SupervisionChange::lagged(missed), (changes, below))),
                    Err(Missed::Closed) => return None,
                }
            }
        }))
    }
}

fn is_below(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || root.ends_with('/'))
}
