//! What a connector is given, what it says, and what it is held to.

use std::{sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt, ready};
use hiveward_catalogue::agent::coding::Permission;
use hiveward_kernel::{
    body::Label,
    id::{ApprovalId, TaskId},
    lease::Lease,
};
use hiveward_runtime::clock::WallMs;
use hiveward_work::task::{gate::GateSpec, record::Artifact, spec::CommandSpec};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// What a dependency (or, for an aggregate, a subtask) returned: handed to the job as input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    pub task: TaskId,
    pub title: String,
    pub status: hiveward_work::task::status::TaskStatus,
    pub result: Option<bytes::Bytes>,
}

/// Everything a connector needs to run one attempt; bodies are already fetched.
#[derive(Clone, Debug)]
pub struct Job {
    pub lease: Lease,
    pub title: String,
    pub what: What,
    pub inputs: Vec<Input>,
    pub run_timeout: Option<Duration>,
    pub gate: Option<GateSpec>,
    /// What a program is given of its part of a scatter.
    pub item: Option<hiveward_work::task::scatter::Item>,
    pub labels: Vec<Label>,
    /// Why the attempt before did not do, if there was one.
    pub earlier: Option<String>,
}

#[derive(Clone, Debug)]
pub enum What {
    Command { command: CommandSpec, stdin: Option<bytes::Bytes> },
    Kind { kind: Arc<str>, payload: Option<bytes::Bytes> },
}

/// What a connector says while a job runs. For one lease: `Started` once, at most one `Ended`, which is last.
#[derive(Clone, Debug)]
pub enum Report {
    Started {
        lease: Lease,
    },
    Progress {
        lease: Lease,
        percent: Option<f32>,
        message: Option<String>,
    },
    Verifying {
        lease: Lease,
    },
    Ended {
        lease: Lease,
        outcome: Outcome,
    },
    /// Its program waits until a person answers. Said again after a restart while it is open.
    Asks {
        ask: Box<Ask>,
    },
    /// It does not wait for this answer any more.
    Withdrawn {
        approval: ApprovalId,
    },
    /// The agent's own long-lived process ended by itself; jobs it held have been reported as ended before.
    AgentDied {
        message: String,
    },
}

/// What a program wants to do and a person has to decide.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    pub approval: ApprovalId,
    pub lease: Lease,
    pub tool: String,
    /// The tool's arguments; long texts in it are cut, and say so.
    pub input: serde_json::Value,
    /// That it names.
    pub files: Vec<String>,
    /// When nobody has answered by then, `otherwise` is the answer.
    pub until: WallMs,
    pub otherwise: Permission,
}

/// Reports that wait for the agent; a connector's task waits while it is full.
const REPORTS_MAX: usize = 256;

/// Where a connector's reports go, in order.
#[derive(Clone)]
pub struct Reports(mpsc::Sender<Box<Report>>);

impl Reports {
    /// Boxed, because a channel keeps room for 32: an idle agent need not hold 6 KB for them.
    pub fn channel() -> (Self, mpsc::Receiver<Box<Report>>) {
        let (reports, said) = mpsc::channel(REPORTS_MAX);
        (Self(reports), said)
    }

    /// Dropped if nobody listens any more: the agent's life is over, and its next one is told the same again.
    pub async fn send(&self, report: Report) {
        let _ = self.0.send(Box::new(report)).await;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    Succeeded,
    Failed,
    TimedOut,
    Cancelled,
    Lost,
}

/// How an attempt ended. `result` is what dependants get; absent is absent, never an empty stand-in.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub end: End,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub result: Option<bytes::Bytes>,
    pub artifacts: Vec<Artifact>,
    /// For every end but success: what happened, in words a user can act on.
    pub error: Option<String>,
    /// Whether another attempt may mend it.
    pub retriable: bool,
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct StartFailure {
    pub message: String,
    /// The last output of the process, for the user; at most 4 KiB, never a secret that we injected.
    pub output_tail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopHow {
    /// Interrupt, grace, SIGTERM, grace, SIGKILL over the whole group.
    Gracefully {
        grace: Duration,
    },
    AtOnce,
}

/// Why an attempt is stopped before its end. Only who asked for its end cancels it: whatever else stops it has lost it, and
/// another attempt follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopWhy {
    /// Its coordinator took the lease back: a person, a client or a rule ended the task.
    Withdrawn,
    /// A person stops, restarts or removes its agent.
    AgentStopped,
    /// Its agent may not run here any more: the node's lease is over, or the agent was placed elsewhere.
    NotHere,
    /// Its workspace took more room than it may; the attempt fails for that.
    TooLarge,
}

impl StopWhy {
    pub fn end(self) -> End {
        match self {
            Self::Withdrawn => End::Cancelled,
            Self::AgentStopped | Self::NotHere | Self::TooLarge => End::Lost,
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Withdrawn => "cancelled",
            Self::AgentStopped => "its agent was stopped while it ran",
            Self::NotHere => "its agent may not run on that node any more, so it was stopped there",
            Self::TooLarge => "its workspace took more room than it may",
        }
    }
}

/// One agent's connector for one life. Reports go to the bounded channel it was made with; when that is full it waits.
pub trait Connector: Send + Sync + 'static {
    /// Ready to take jobs on return. For a process per agent: launched (or adopted) and it said so.
    fn start(&self) -> BoxFuture<'_, Result<(), StartFailure>>;
    /// Takes the job on; adopts the lease's session if there is one. Everything after is told by reports.
    fn run(&self, job: Job) -> BoxFuture<'_, ()>;
    /// Ends one job because its coordinator took it back; its `Ended` report follows unless it had ended already.
    fn cancel(&self, lease: Lease, how: StopHow) -> BoxFuture<'_, ()>;
    /// Says something to a running attempt. Errors: why it cannot be said; nothing happened.
    fn tell(&self, lease: Lease, what: Told) -> BoxFuture<'_, Result<(), String>> {
        let _ = (lease, what);
        ready(Err("its agent runs programs that nothing can be said to; this is for coding agents".to_owned())).boxed()
    }
    /// Freezes (or thaws) every process now.
    fn freeze(&self, frozen: bool) -> BoxFuture<'_, Result<(), String>>;
    /// Ends every session, whole process group and cgroup, and forgets them; nothing is left running on return.
    fn stop(&self, how: StopHow, why: StopWhy) -> BoxFuture<'_, ()>;
    /// Lets go without ending anything: the sessions live on to be adopted by the next life.
    fn release(&self) -> BoxFuture<'_, ()>;
}

/// What a person, or what decides for one, has to say to a running attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// The answer to a question of its program.
    Answer { approval: ApprovalId, decision: Permission, by: String, message: Option<String> },
    /// A message to the program; `id` makes it heard once.
    Message { id: String, text: String, by: String },
    /// Its turn ends; it waits for a message.
    Interrupt { id: String, by: String },
    /// Its program ends, and a person goes on with the conversation at a terminal.
    TakeOver { id: String, by: String },
    /// The terminal ends, and the agent goes on; with a message if there is one.
    GiveBack { id: String, by: String, message: Option<String> },
}
