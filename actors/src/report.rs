//! What each node measures of itself, and its tree, told to whichever node was asked.
//!
//! Nothing is kept: a question goes to every node, and who does not answer in time is shown as not answering. So what is
//! shown is never older than the question.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use hiveward_agents::gauge::{Gauges, ResourcesSample};
use hiveward_kernel::{desks, id::AgentId};
use hiveward_runtime::{
    clock::{Deadline, WallMs},
    cluster::membership::LeaseView,
    ledger::scrub::Damages,
    net::{
        desk::Desk,
        link::{Lane, LinkState, Links},
        rpc::LaneRpc,
    },
    op::NodeId,
    supervise::{Tree, TreeNode},
};
use serde::{Deserialize, Serialize};

use crate::{
    house::House,
    retention::report::{self as storage, StorageReport},
};

const OTHER: &str = "it answered something else";

/// One node's own figures. A value that was not measured is absent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeReport {
    pub node: NodeId,
    /// The version of the program.
    pub version: String,
    pub generation: u64,
    pub wall: WallMs,
    pub cores: u32,
    /// The load of the whole system, averaged over one minute.
    pub load_average: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub agents: u64,
    pub swarms: u64,
    /// The ledger's last event on this node.
    pub cursor: u64,
    /// The number of events that its views have not taken in yet.
    pub view_lag: u64,
    pub term: u64,
    pub leader: Option<NodeId>,
    /// The phase of its lease, which says whether it may act.
    pub lease: String,
    pub disk: String,
    pub links: Vec<LinkReport>,
    /// The leases of all nodes, if it leads: the milliseconds before each is called lost.
    pub leases: Vec<(NodeId, Option<u64>)>,
    pub certificate_until: Option<WallMs>,
    /// Actors that do not do what they are there for, at most [`TROUBLED_MAX`]. Last, and absent where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubled: Vec<Troubled>,
}

/// The most entries of a node's report that name an actor in trouble.
pub const TROUBLED_MAX: usize = 16;

/// An actor that was given up, or that takes none of its messages.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Troubled {
    /// Names from the root, joined by `/`.
    pub path: String,
    pub key: Option<String>,
    /// The text that says what is wrong, and what happens next or is to be done.
    pub why: String,
}

/// Lists what is wrong on this node, the damaged first, at most [`TROUBLED_MAX`] entries. `set_aside` counts events that a view
/// could not take in; `damages` are values of the ledger and the views; `transcripts` are those that are damaged.
pub fn troubled(tree: &Tree, set_aside: u64, damages: &Damages, transcripts: &[String]) -> Vec<Troubled> {
    let damaged = damages.list().into_iter().next().map(|first| Troubled {
        path: "node/platform/ledger".to_owned(),
        key: None,
        why: format!(
            "{} values of the ledger or the views are damaged and not served, the first is {first}; run `hiveward scrub`: it \
             takes them from other nodes and says what to do about the rest",
            damages.count()
        ),
    });
    let transcripts = transcripts.first().map(|first| Troubled {
        path: "node/platform/transcripts".to_owned(),
        key: None,
        why: format!(
            "{} transcripts are damaged, the first is {first}; what is damaged of them is not served, and no other node has them",
            transcripts.len()
        ),
    });
    let views = (set_aside > 0).then(|| Troubled {
        path: "node/platform/ledger".to_owned(),
        key: None,
        why: format!(
            "{set_aside} events could not be shown and were set aside; what they changed is in the ledger: the log names them; \
             a version that can read them shows them"
        ),
    });
    let all = tree.troubled(TROUBLED_MAX).into_iter();
    let all = all.map(|(node, why)| Troubled { path: node.path, key: node.key.map(|key| key.to_string()), why: why.to_string() });
    damaged.into_iter().chain(transcripts).chain(views).chain(all).take(TROUBLED_MAX).collect()
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LinkReport {
    pub peer: NodeId,
    pub lane: String,
    pub up: bool,
    pub since: WallMs,
    pub round_trip_us: Option<u64>,
    pub clock_offset_ms: Option<i64>,
    pub queued_bytes: u64,
    /// The reason why it is down.
    pub why_down: Option<String>,
}

/// Describes every link to another node, as it is now.
pub fn links(links: &Links) -> Vec<LinkReport> {
    let lane = |lane: Lane| match lane {
        Lane::Router => "router",
        Lane::Raft => "raft",
        Lane::Bulk => "bulk",
        Lane::Join => "join",
    };
    let all = links.snapshot().links.into_iter().map(|link| LinkReport {
        peer: link.peer,
        lane: lane(link.lane).to_owned(),
        up: link.state == LinkState::Up,
        since: link.since,
        round_trip_us: link.round_trip_us,
        clock_offset_ms: link.clock_offset_ms,
        queued_bytes: link.queued_bytes as u64,
        why_down: link.why_down,
    });
    all.collect()
}

/// Returns for each node the milliseconds that are left of its lease, where they are known.
pub fn leases(views: Vec<LeaseView>) -> Vec<(NodeId, Option<u64>)> {
    let ms = |left: Duration| u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    views.into_iter().map(|view| (view.node, view.left.map(ms))).collect()
}

#[derive(Serialize, Deserialize)]
enum Question {
    Report,
    Tree { root: Option<String>, depth: u32 },
    Resources { agent: AgentId, since: WallMs, until: WallMs, points: u32 },
    Storage,
}

#[derive(Serialize, Deserialize)]
enum ReportAnswer {
    Report(Box<NodeReport>),
    Tree(Option<Box<TreeNode>>),
    Resources(Vec<ResourcesSample>),
    Storage(Result<Box<StorageReport>, String>),
}

type Own = dyn Fn() -> NodeReport + Send + Sync;

struct Inner {
    own: Box<Own>,
    tree: Tree,
    gauges: Gauges,
    house: House,
    me: NodeId,
    desk: Option<Desk<Question, ReportAnswer>>,
}

/// The desk at which nodes ask each other for their reports. It is cheap to clone.
#[derive(Clone)]
pub struct Reports(Arc<Inner>);

impl Reports {
    /// Answers other nodes' questions from now on. `own` makes this node's report and must not wait. Without a lane there is only
    /// this node.
    pub fn open(
        house: &House,
        own: impl Fn() -> NodeReport + Send + Sync + 'static,
        tree: Tree,
        gauges: Gauges,
        lane: Option<LaneRpc>,
    ) -> Self {
        let desk = lane.map(|lane| Desk::new(lane, desks::REPORTS));
        let reports = Self(Arc::new(Inner { own: Box::new(own), tree, gauges, house: house.clone(), me: house.me.node, desk }));
        if let Some(desk) = &reports.0.desk {
            let answering = reports.clone();
            desk.open(move |_, question| std::future::ready(Ok(answering.answer(question))));
        }
        reports
    }

    /// Stops answering other nodes' questions.
    pub fn close(&self) {
        if let Some(desk) = &self.0.desk {
            desk.close();
        }
    }

    /// Makes this node's report now.
    pub fn own(&self) -> NodeReport {
        (self.0.own)()
    }

    /// Asks all of `nodes` at once for their reports; an error says why there is none.
    pub async fn of(
        &self,
        nodes: impl IntoIterator<Item = NodeId>,
        within: Duration,
    ) -> BTreeMap<NodeId, Result<NodeReport, String>> {
        let deadline = Deadline::after(within);
        let asked = nodes.into_iter().map(|node| async move {
            if node == self.0.me {
                return (node, Ok(self.own()));
            }
            let answer = self.ask(node, &Question::Report, deadline).await;
            let report = answer.and_then(|answer| match answer {
                ReportAnswer::Report(report) => Ok(*report),
                _ => Err(OTHER.into()),
            });
            (node, report)
        });
        join_all(asked).await.into_iter().collect()
    }

    fn own_storage(&self) -> Result<Box<StorageReport>, String> {
        storage::of(&self.0.house).map(Box::new).map_err(|refused| refused.message)
    }

    /// Asks all of `nodes` at once what they keep on their disks; an error says why one does not tell.
    pub async fn storage(
        &self,
        nodes: impl IntoIterator<Item = NodeId>,
        within: Duration,
    ) -> BTreeMap<NodeId, Result<Box<StorageReport>, String>> {
        let deadline = Deadline::after(within);
        let asked = nodes.into_iter().map(|node| async move {
            if node == self.0.me {
                return (node, self.own_storage());
            }
            let answer = self.ask(node, &Question::Storage, deadline).await;
            (node, answer.and_then(|answer| if let ReportAnswer::Storage(report) = answer { report } else { Err(OTHER.into()) }))
        });
        join_all(asked).await.into_iter().collect()
    }

    /// Returns the supervision tree of a node below `root` (a path or a key); `None` if nothing is there.
    pub async fn tree(
        &self,
        node: NodeId,
        root: Option<&str>,
        depth: usize,
        deadline: Deadline,
    ) -> Result<Option<TreeNode>, String> {
        if node == self.0.me {
            return Ok(self.0.tree.snapshot(root, depth));
        }
        let question = Question::Tree { root: root.map(str::to_owned), depth: u32::try_from(depth).unwrap_or(u32::MAX) };
        match self.ask(node, &question, deadline).await? {
            ReportAnswer::Tree(tree) => Ok(tree.map(|tree| *tree)),
            _ => Err(OTHER.into()),
        }
    }

    /// Returns what an agent's processes used, as the node that has it measured, in at most `points` samples.
    pub async fn resources(
        &self,
        node: NodeId,
        agent: AgentId,
        (since, until): (WallMs, WallMs),
        points: u32,
        deadline: Deadline,
    ) -> Result<Vec<ResourcesSample>, String> {
        if node == self.0.me {
            return Ok(self.0.gauges.between(agent, since, until, points as usize));
        }
        match self.ask(node, &Question::Resources { agent, since, until, points }, deadline).await? {
            ReportAnswer::Resources(samples) => Ok(samples),
            _ => Err(OTHER.into()),
        }
    }

    async fn ask(&self, node: NodeId, question: &Question, deadline: Deadline) -> Result<ReportAnswer, String> {
        let desk = self.0.desk.as_ref().ok_or("this node has no peers")?;
        desk.ask(node, question, deadline).await.map_err(|error| error.to_string())
    }

    fn answer(&self, question: Question) -> ReportAnswer {
        match question {
            Question::Report => ReportAnswer::Report(Box::new(self.own())),
            Question::Storage => ReportAnswer::Storage(self.own_storage()),
            Question::Resources { agent, since, until, points } => {
                ReportAnswer::Resources(self.0.gauges.between(agent, since, until, points as usize))
            }
            Question::Tree { root, depth } => {
                ReportAnswer::Tree(self.0.tree.snapshot(root.as_deref(), depth as usize).map(Box::new))
            }
        }
    }
}

/// Reads the load of the whole system, averaged over one minute; `None` if the kernel does not tell.
pub fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}
