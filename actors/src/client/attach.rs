//! A person at the terminal of what an agent runs now.
//!
//! Owns the count of who is attached to which session, nothing else. Reads the transcript and writes to the shim beside
//! the connector, which never notices; letting go leaves the process as it is.

use std::{collections::HashMap, path::Path, sync::LazyLock};

use bytes::Bytes;
use hiveward_access::verb::Verb;
use hiveward_agents::{
    connector::last_terminal_dir,
    record::AgentRecord,
    session::{self, Attached, SessionError, Writer},
};
use hiveward_catalogue::agent::spec::{ConnectorSpec, SessionSpec};
use hiveward_kernel::{
    id::{AgentId, TaskId},
    lease::Lease,
};
use hiveward_runtime::{
    error::{Code, Refused},
    op::Op,
};
use hiveward_work::task::{
    search::{TaskFilter, TaskOrder},
    status::TaskStatus,
};
use parking_lot::Mutex;

use super::ControlPlane;
use crate::terminals::Distant;

/// The most clients at one session. Each takes up to two of the shim's connections, and the connector needs some for itself.
const ATTACHED_MAX: u32 = 5;
/// How many bytes of what was on the screen before are shown first, so that it is not empty.
const HISTORY_BYTES: u64 = 8 << 10;
/// The most attempts of an agent that are looked at for one that runs.
const RUNNING_MAX: usize = 1024;

static ATTACHED: LazyLock<Mutex<HashMap<Lease, u32>>> = LazyLock::new(Mutex::default);

/// One client's place at a session. Dropping it lets go of the session, whose process stays as it is.
pub struct Terminal {
    pub task: TaskId,
    pub attempt: u32,
    at: At,
    read_only: bool,
}

enum At {
    Here(Attached, #[allow(dead_code)] Place),
    There(Distant),
}

/// The keyboard of a terminal on this node.
pub struct Keys {
    writer: Writer,
    read_only: bool,
}

impl Keys {
    /// Types the bytes. Errors: `Refused` if it is attached read-only; that the process has ended is told by its output.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), Refused> {
        may_type(self.read_only)?;
        told(self.writer.write(bytes).await)
    }

    /// Tells the terminal its new size in columns and rows. Errors: as [`Self::write`].
    pub async fn resize(&self, cols: u16, rows: u16) -> Result<(), Refused> {
        may_type(self.read_only)?;
        told(self.writer.resize(cols, rows).await)
    }
}

/// What a terminal says next.
#[derive(Debug)]
pub enum Said {
    Output(Bytes),
    /// The process has ended, and how; nothing follows.
    Ended(String),
}

struct Place(Lease);

impl Place {
    fn take(lease: Lease) -> Result<Self, Refused> {
        let mut attached = ATTACHED.lock();
        let count = attached.entry(lease).or_default();
        if *count >= ATTACHED_MAX {
            return Err(Refused::new(
                Code::Limit,
                format!("{ATTACHED_MAX} clients are attached to this session; detach one first"),
            ));
        }
        *count += 1;
        Ok(Self(lease))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut attached = ATTACHED.lock();
        if let Some(count) = attached.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                attached.remove(&self.0);
            }
        }
    }
}

impl Terminal {
    /// Attaches to a session of this node.
    pub(crate) async fn open(data_dir: &Path, lease: Lease, read_only: bool) -> Result<Self, Refused> {
        let place = Place::take(lease)?;
        let attached = session::attach(last_terminal_dir(data_dir, lease), HISTORY_BYTES).await.map_err(|error| match error {
            session::AttachError::NotRunning => {
                let hint = "; a coding agent has one while a person has taken its task over (`hiveward task take-over`)";
                Refused::new(Code::Refused, format!("{} has no terminal session running now{hint}", lease.agent))
            }
            session::AttachError::Io(error) => {
                Refused::new(Code::Unavailable, format!("the session of {} cannot be reached: {error}", lease.task))
            }
        })?;
        Ok(Self { task: lease.task, attempt: lease.attempt, at: At::Here(attached, place), read_only })
    }

    /// Returns its keyboard, for whoever types while another waits for output.
    pub(crate) fn keys(&self) -> Result<Keys, Refused> {
        match &self.at {
            At::Here(attached, _) => Ok(Keys { writer: attached.writer.clone(), read_only: self.read_only }),
            At::There(_) => Err(Refused::new(Code::Internal, "a terminal of another node is not lent on")),
        }
    }

    /// Waits for the next output. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Said, Refused> {
        match &mut self.at {
            At::There(distant) => distant.next().await,
            At::Here(attached, _) => match attached.reader.next().await {
                Ok(Some(bytes)) => Ok(Said::Output(bytes)),
                Ok(None) => Ok(Said::Ended(attached.writer.end().await)),
                Err(error) => Err(Refused::new(Code::Unavailable, format!("the terminal's output cannot be read: {error}"))),
            },
        }
    }

    /// Types the bytes; waits while the process reads slowly. Who types takes the keyboard over from whoever had it.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), Refused> {
        may_type(self.read_only)?;
        match &self.at {
            At::Here(attached, _) => told(attached.writer.write(bytes).await),
            At::There(distant) => distant.write(bytes).await,
        }
    }

    /// Tells the terminal its new size in columns and rows. Errors: `Refused` if it is attached read-only.
    pub async fn resize(&self, cols: u16, rows: u16) -> Result<(), Refused> {
        may_type(self.read_only)?;
        match &self.at {
            At::Here(attached, _) => told(attached.writer.resize(cols, rows).await),
            At::There(distant) => distant.resize(cols, rows).await,
        }
    }
}

fn may_type(read_only: bool) -> Result<(), Refused> {
    if read_only { Err(Refused::new(Code::Refused, "attached read-only: nothing is typed")) } else { Ok(()) }
}

fn told(done: Result<(), SessionError>) -> Result<(), Refused> {
    match done {
        // `next` tells that it has ended, and how, after its last output.
        Ok(()) | Err(SessionError::Ended) => Ok(()),
        Err(error) => Err(Refused::new(Code::Refused, error.to_string())),
    }
}

impl ControlPlane {
    /// Attaches to the terminal of what `agent` runs: of `task`, or of the only task that it runs now.
    pub async fn attach(&self, op: &Op, agent: AgentId, task: Option<TaskId>, read_only: bool) -> Result<Terminal, Refused> {
        // Whatever was acknowledged before is seen: an attach right after a submit must not miss it.
        self.settled(op).await?;
        self.may(op.clone(), Verb::AttachTerminal, agent).await?;
        let record = self.agent(agent)?.ok_or_else(|| Refused::not_found(agent))?;
        has_terminals(&record)?;
        let lease = self.running(&record, task)?;
        let on = self.whereabouts(&agent.key()).filter(|node| *node != self.house.me.node);
        match (on, &self.terminals) {
            (Some(node), Some(terminals)) => {
                let distant = terminals.attach(node, lease, read_only).await?;
                Ok(Terminal { task: lease.task, attempt: lease.attempt, at: At::There(distant), read_only })
            }
            _ => Terminal::open(&self.house.data_dir, lease, read_only).await,
        }
    }

    fn running(&self, agent: &AgentRecord, task: Option<TaskId>) -> Result<Lease, Refused> {
        let id = agent.spec.id;
        let candidates = match task {
            Some(task) => vec![self.task(task)?.ok_or_else(|| Refused::not_found(task))?],
            None => {
                let status = vec![TaskStatus::Assigned, TaskStatus::Running, TaskStatus::Verifying];
                let filter = TaskFilter { agent: Some(id), status, ..TaskFilter::default() };
                self.tasks(&filter, TaskOrder::default(), None, RUNNING_MAX)?
                    .items
                    .into_iter()
                    .map(|(_, record)| record)
                    .collect()
            }
        };
        let leases: Vec<Lease> = candidates
            .iter()
            .filter_map(|record| {
                let last = record.attempts.last().filter(|last| last.agent == id && last.ended_at.is_none())?;
                Some(Lease { task: record.id(), attempt: last.number, agent: id })
            })
            .collect();
        match leases[..] {
            [lease] => Ok(lease),
            [] => Err(match task {
                Some(task) => Refused::new(Code::Refused, format!("agent {} does not run {task} now", agent.spec.name)),
                None => idle(agent),
            }),
            _ => {
                let names: Vec<_> = leases.iter().map(|lease| lease.task.to_string()).collect();
                let message = format!("agent {} runs {} tasks; choose one of {}", agent.spec.name, names.len(), names.join(", "));
                Err(Refused::invalid("task", message))
            }
        }
    }
}

fn idle(agent: &AgentRecord) -> Refused {
    Refused::new(Code::Refused, format!("agent {} has no terminal session running now", agent.spec.name))
}

fn has_terminals(agent: &AgentRecord) -> Result<(), Refused> {
    let name = &agent.spec.name;
    match (&agent.spec.connector, &agent.spec.session) {
        (ConnectorSpec::Command, SessionSpec::Pty { .. }) => Ok(()),
        (ConnectorSpec::ClaudeCode(_), SessionSpec::Pipes | SessionSpec::Pty { .. }) => Ok(()),
        (ConnectorSpec::Command, SessionSpec::Pipes) => Err(Refused::new(
            Code::Refused,
            format!("the processes of agent {name} have no terminal: its session is PIPES; create an agent with session PTY"),
        )),
        (_, SessionSpec::Vm(_)) => Err(Refused::new(
            Code::Refused,
            format!("the processes of agent {name} run in VMs and have no terminal; `hiveward vm console` shows those of a VM"),
        )),
        (connector, _) => Err(Refused::new(
            Code::Refused,
            format!("agent {name} is a {} agent, whose standard input is a protocol and no keyboard", connector.name()),
        )),
    }
}
