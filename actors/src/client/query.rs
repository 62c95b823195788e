//! Queries: they read the views, the tree, transcripts and what was measured, and change nothing.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use hiveward_agents::{
    connector::{activity_dir, session_dir},
    session::{Stream, transcript::Reader},
};
use hiveward_catalogue::{agent::spec::ConnectorSpec, placement::Decision};
use hiveward_kernel::{body::Body, id::TaskId, lease::Lease, series::Sample};
use hiveward_runtime::{
    clock::{Deadline, WallMs},
    error::{Code, Refused},
    ledger::{Cursor, DiskState, Member},
    net::rpc::RpcError,
    op::{NodeId, Op},
    store::blob::BlobHash,
};
use hiveward_work::{
    swarm::{message::asks as coordinator, table::SwarmFilter},
    task::{
        record::{AttemptRecord, TaskRecord},
        scatter::Role,
        status::TaskStatus,
    },
};

use super::{ControlPlane, EventFilter, EventRecord, EventTail};
use crate::{event, retention::TranscriptRetention};

/// Why a task is where it is.
#[derive(Clone, Debug)]
pub struct Why {
    pub text: String,
    /// Dependencies that have not succeeded.
    pub blocked_by: Vec<TaskId>,
    /// The decision that placed the last attempt.
    pub decision: Option<Arc<Decision>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    Stdout,
    Stderr,
}

/// A stretch of an attempt's output.
#[derive(Clone, Debug)]
pub struct OutputChunk {
    pub after_byte: u64,
    pub next_byte: u64,
    pub stream: OutputStream,
    pub bytes: Bytes,
    /// The attempt has ended and nothing follows.
    pub at_end: bool,
}

/// A place in an attempt's transcript, from which it is read on while the attempt goes on.
pub struct OutputReader {
    control: ControlPlane,
    task: TaskId,
    /// The attempt that is read: the one that the client named, otherwise the newest when reading begins.
    attempt: Option<u32>,
    /// Whether a coding agent's activity is read, not its output.
    activity: bool,
    open: Option<Source>,
}

enum Source {
    Here(Reader),
    There(NodeId, Lease),
}

/// How long a coordinator is waited for that has no life now.
const EXPLAIN_WITHIN: Duration = Duration::from_secs(1);
const CHUNK_BYTES_MAX: usize = 64 << 10;
const WAIT_PER_TURN: Duration = Duration::from_secs(1);
/// The time between looks for a transcript that is not there yet.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LOOK_ELSEWHERE_EVERY: Duration = Duration::from_millis(250);

struct Piece {
    next_byte: u64,
    stream: Stream,
    bytes: Bytes,
    at_end: bool,
}

impl OutputReader {
    /// Returns what follows `after_byte`; waits until there is more, or the attempt has ended. Dropping it loses nothing.
    pub async fn next(&mut self, after_byte: u64) -> Result<OutputChunk, Refused> {
        loop {
            if self.open.is_none() {
                self.open = self.find().await?;
            }
            let Some(source) = &mut self.open else {
                if self.control.known_task(self.task)?.is_some_and(|record| record.status.is_terminal()) {
                    return Ok(OutputChunk {
                        after_byte,
                        next_byte: after_byte,
                        stream: OutputStream::Stdout,
                        bytes: Bytes::new(),
                        at_end: true,
                    });
                }
                let elsewhere = self.control.transcripts.is_some();
                tokio::time::sleep(if elsewhere { LOOK_ELSEWHERE_EVERY } else { LOOK_EVERY }).await;
                continue;
            };
            let chunk = match source {
                Source::Here(reader) => {
                    let wait = Deadline::after(WAIT_PER_TURN);
                    let chunk = reader.next(after_byte, CHUNK_BYTES_MAX, wait).await.map_err(unreadable)?;
                    Piece { next_byte: chunk.next_byte, stream: chunk.stream, bytes: chunk.bytes, at_end: chunk.at_end }
                }
                Source::There(node, lease) => {
                    let (node, lease) = (*node, *lease);
                    let Some(distant) = &self.control.transcripts else {
                        return Err(Refused::new(Code::Internal, "this node has no peers to read a transcript from"));
                    };
                    let read = distant.read(node, lease, self.activity, after_byte, CHUNK_BYTES_MAX, WAIT_PER_TURN).await;
                    match read.map_err(unreadable_there)? {
                        Some(chunk) => {
                            Piece { next_byte: chunk.next_byte, stream: chunk.stream, bytes: chunk.bytes, at_end: chunk.at_end }
                        }
                        None => return Err(removed(lease)),
                    }
                }
            };
            let ended = chunk.at_end || (chunk.bytes.is_empty() && self.attempt_ended()?);
            if !chunk.bytes.is_empty() || chunk.next_byte > after_byte || ended {
                let stream = match chunk.stream {
                    Stream::Stdout => OutputStream::Stdout,
                    Stream::Stderr => OutputStream::Stderr,
                };
                return Ok(OutputChunk { after_byte, next_byte: chunk.next_byte, stream, bytes: chunk.bytes, at_end: ended });
            }
        }
    }

    async fn find(&mut self) -> Result<Option<Source>, Refused> {
        let Some(record) = self.control.known_task(self.task)? else { return Ok(None) };
        let attempt = match self.attempt {
            Some(wanted) => record.attempts.iter().find(|attempt| attempt.number == wanted),
            None => record.attempts.last(),
        };
        let Some(attempt) = attempt else {
            return match self.attempt {
                Some(wanted) if record.status.is_terminal() => {
                    Err(Refused::not_found(format!("attempt {wanted} of {}", self.task)))
                }
                _ => Ok(None),
            };
        };
        let lease = Lease { task: self.task, attempt: attempt.number, agent: attempt.agent };
        self.attempt = Some(attempt.number);
        let place = if self.activity { activity_dir } else { session_dir };
        let dir: PathBuf = place(&self.control.house.data_dir, lease);
        match Reader::open(&dir) {
            Ok(reader) => Ok(Some(Source::Here(reader))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let unsure = match &self.control.transcripts {
                    Some(distant) => match distant.find(lease, self.activity).await {
                        Ok(Some(node)) => return Ok(Some(Source::There(node, lease))),
                        Ok(None) => None,
                        Err(why) => Some(why),
                    },
                    None => None,
                };
                match (self.was_removed(attempt)?, unsure) {
                    (false, _) => Ok(None),
                    (true, None) => Err(removed(lease)),
                    (true, Some(why)) => {
                        let message =
                            format!("the transcript of attempt {} is on a node that cannot be asked: {why}", lease.attempt);
                        Err(Refused::new(Code::Unavailable, message))
                    }
                }
            }
            Err(error) => Err(unreadable(error)),
        }
    }

    /// Tells whether retention took the transcript: a command that was started and has ended had one.
    fn was_removed(&self, attempt: &AttemptRecord) -> Result<bool, Refused> {
        let ran = attempt.started_at.is_some() && attempt.ended_at.is_some();
        let agent = self.control.agent(attempt.agent)?;
        Ok(ran && agent.is_none_or(|agent| matches!(agent.spec.connector, ConnectorSpec::Command)))
    }

    fn attempt_ended(&self) -> Result<bool, Refused> {
        let record = self.control.task(self.task)?.ok_or_else(|| Refused::not_found(self.task))?;
        let attempt = self.attempt.and_then(|wanted| record.attempts.iter().find(|attempt| attempt.number == wanted));
        Ok(attempt.is_none_or(|attempt| attempt.ended_at.is_some()))
    }
}

fn removed(lease: Lease) -> Refused {
    let message = format!(
        "the transcript of attempt {} of {} was removed by retention; the setting `{}` says how long transcripts are kept",
        lease.attempt,
        lease.task,
        TranscriptRetention::SETTING
    );
    Refused::new(Code::NotFound, message)
}

/// Turns a failed read into an answer. A damaged transcript stays so, since no other node has it; else the disk may recover.
fn unreadable(error: io::Error) -> Refused {
    match error.kind() {
        io::ErrorKind::InvalidData => Refused::new(
            Code::Refused,
            format!("the transcript cannot be read, and no other node has it: {error}; what stands before that is still served"),
        ),
        _ => Refused::new(Code::Unavailable, format!("the transcript cannot be read: {error}")),
    }
}

/// Tells a node that looked and could not give it from a link that is down, which says nothing about the transcript.
fn unreadable_there(error: RpcError) -> Refused {
    let code = if matches!(error, RpcError::Refused { .. }) { Code::Refused } else { Code::Unavailable };
    Refused::new(code, format!("the transcript cannot be read: {error}"))
}

#[derive(Clone, Debug)]
pub struct ClusterView {
    pub node: NodeId,
    pub generation: u64,
    pub leader: Option<NodeId>,
    pub voters: Vec<NodeId>,
    pub term: u64,
    pub cursor: Cursor,
    /// The number of events that the ledger has and the views have not.
    pub view_lag: u64,
    /// `ok`, or what is wrong and what it means.
    pub disk: String,
    /// The reason why no write can be agreed on now.
    pub no_quorum: Option<String>,
    /// Whether the set of voters is being changed.
    pub changing: bool,
    /// The nodes that keep the ledger; each says whether it votes.
    pub members: Vec<Member>,
}

/// Figures of this node and the cluster at one moment. What could not be measured is absent.
#[derive(Clone, Debug)]
pub struct MetricsSample {
    pub at: WallMs,
    pub tasks_running: u64,
    pub tasks_queued: u64,
    pub tasks_ended_total: u64,
    pub agents_running: u64,
    pub cpu_seconds_total: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub events_total: u64,
}

impl Sample for MetricsSample {
    fn at(&self) -> WallMs {
        self.at
    }
}

impl ControlPlane {
    /// Waits until the views, and the directory with hosts, networks, images and nodes, have reached `cursor`.
    pub async fn at_least(&self, op: &Op, cursor: Cursor) -> Result<(), Refused> {
        let alone = self.house.directory.read(|known| known.nodes.len() <= 1);
        if cursor > self.house.ledger.head() && alone {
            return Err(Refused::invalid(
                "atLeast",
                format!("the ledger is at cursor {}, before {cursor}", self.house.ledger.head()),
            ));
        }
        let lagging = |why: String| Refused::new(Code::Unavailable, why);
        self.house.views.at_least(cursor, op.deadline).await.map_err(|error| lagging(error.to_string()))?;
        if !self.house.directory.at_least(cursor, op.deadline).await {
            return Err(lagging(format!("the directory is at cursor {}, before {cursor}", self.house.directory.cursor())));
        }
        Ok(())
    }

    /// Tells why the task is not running, or where it was placed and why. Asks the coordinator only for what waits for an agent.
    pub async fn why(&self, record: &TaskRecord, deadline: Deadline) -> Result<Why, Refused> {
        let decision = record.attempts.last().map(|attempt| attempt.decision.clone());
        let mut blocked_by = Vec::new();
        let text = match record.status {
            TaskStatus::Pending => {
                let on = self.house.work.tasks.get_many(&record.spec.depends_on)?;
                let mut waits = Vec::new();
                for (id, on) in record.spec.depends_on.iter().zip(on) {
                    let status = on.map(|on| on.status);
                    if status != Some(TaskStatus::Succeeded) {
                        blocked_by.push(*id);
                        waits.push(format!("{id} ({})", status.map_or("unknown", TaskStatus::name)));
                    }
                }
                format!("waits for {}", waits.join(", "))
            }
            TaskStatus::Queued | TaskStatus::Retrying | TaskStatus::Running
                if record.subtasks.is_empty() || record.status != TaskStatus::Running =>
            {
                let later = record.not_before.filter(|at| *at > self.house.clock.now());
                let last = record
                    .attempts
                    .last()
                    .and_then(|attempt| Some(format!("attempt {} failed: {}; ", attempt.number, attempt.error.clone()?)));
                match (record.status, later) {
                    (TaskStatus::Running, _) => chosen(record),
                    (_, Some(at)) => format!("{}waits until {at}", last.unwrap_or_default()),
                    (_, None) => self.explain(record, deadline).await?,
                }
            }
            TaskStatus::Running => self.explain(record, deadline).await?,
            TaskStatus::Queued | TaskStatus::Retrying => self.explain(record, deadline).await?,
            TaskStatus::Assigned | TaskStatus::Verifying | TaskStatus::Succeeded => chosen(record),
            TaskStatus::Failed | TaskStatus::Dead | TaskStatus::Cancelled => {
                record.error.clone().unwrap_or_else(|| format!("it ended {}", record.status.name()))
            }
        };
        let text = match &record.spec.role {
            Some(Role::Twin { why, .. }) => format!("a twin, because {why}; {text}"),
            _ => text,
        };
        let text = match record.moves.iter().rfind(|moved| moved.taken_at.is_some()) {
            Some(moved) => {
                let (from, to) = moved.shards();
                format!("{text}; it moved from shard {from} to shard {to}: {}", moved.why)
            }
            None => text,
        };
        Ok(Why { text, blocked_by, decision })
    }

    async fn explain(&self, record: &TaskRecord, deadline: Deadline) -> Result<String, Refused> {
        let task = record.id();
        let deadline = deadline.at_most(EXPLAIN_WITHIN);
        let asked = self.ask(deadline, record.spec.swarm, coordinator::Explain { task }).await;
        let said: Option<String> = match asked {
            Err(refused) if refused.code == Code::Unavailable => return Ok("its swarm's coordinator is not running".into()),
            asked => asked?,
        };
        Ok(said.unwrap_or_else(|| "it is on its way to an agent".into()))
    }

    pub fn body(&self, body: &Body) -> Result<Bytes, Refused> {
        self.house.body(body)
    }

    /// Returns up to `first` events after a cursor that the filter wants; fewer may come than there are.
    pub fn events(&self, after: Cursor, filter: &EventFilter, first: usize) -> Result<Vec<EventRecord>, Refused> {
        event::read(&self.house.ledger, after, filter, first, |event| self.sees_event(event))
    }

    /// Returns the last events before a cursor and after `not_before`, oldest first, and what to go on before if there are more.
    pub fn events_back(
        &self,
        before: Cursor,
        not_before: Cursor,
        filter: &EventFilter,
        last: usize,
    ) -> Result<(Vec<EventRecord>, Option<Cursor>), Refused> {
        event::read_back(&self.house.ledger, before, not_before, filter, last, |event| self.sees_event(event))
    }

    /// Returns the cursor of the last event before a moment, by the clock of the node that led then.
    pub fn cursor_before(&self, moment: WallMs) -> Result<Cursor, Refused> {
        event::cursor_before(&self.house.ledger, moment)
    }

    /// Returns up to `bytes_max` of a stored blob from `from`, and its whole length; another node may have to send it first.
    pub async fn blob_piece(&self, hash: &str, from: u64, bytes_max: u64) -> Result<(u64, Vec<u8>), Refused> {
        let hash: BlobHash = hash.parse().map_err(|_| Refused::new(Code::Internal, format!("{hash:?} is no blob hash")))?;
        let blobs = self.house.blobs.clone();
        let read = tokio::task::spawn_blocking(move || blobs.piece(&hash, from, bytes_max)).await;
        let read = read.map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        match read {
            Ok(Some(piece)) => Ok(piece),
            Ok(None) => Err(Refused::new(Code::NotFound, format!("blob {hash} is on no node that can be asked"))),
            Err(error) => Err(Refused::new(Code::Unavailable, format!("blob {hash} cannot be read: {error}"))),
        }
    }

    /// Follows the events after a cursor that are wanted.
    pub fn event_tail(&self, after: Cursor, filter: EventFilter) -> EventTail {
        EventTail::new(&self.house.ledger, after, filter)
    }

    /// Opens the output of an attempt, or of the newest if none is named. Errors: `NotFound` if there is no such task.
    pub async fn output(&self, op: &Op, task: TaskId, attempt: Option<u32>) -> Result<OutputReader, Refused> {
        if self.task(task)?.is_none() {
            self.settled(op).await?;
            self.task(task)?.ok_or_else(|| Refused::not_found(task))?;
        }
        Ok(OutputReader { control: self.clone(), task, attempt, activity: false, open: None })
    }

    /// Opens what a coding agent does in an attempt, as JSON lines; it is read like its output.
    pub async fn activity(&self, op: &Op, task: TaskId, attempt: Option<u32>) -> Result<OutputReader, Refused> {
        Ok(OutputReader { activity: true, ..self.output(op, task, attempt).await? })
    }

    /// Returns what this node knows of the cluster, its ledger and its disk.
    pub fn cluster(&self) -> ClusterView {
        let status = self.house.ledger.status();
        ClusterView {
            node: self.node,
            generation: self.house.generation,
            leader: status.leader,
            voters: status.members.iter().filter(|member| member.voter).filter_map(|member| member.node).collect(),
            term: status.term,
            no_quorum: status.no_quorum,
            changing: status.changing,
            members: status.members,
            cursor: status.head,
            view_lag: self.house.views.lag(),
            disk: match status.disk {
                DiskState::Ok => "ok".into(),
                DiskState::Full { free_bytes } => {
                    format!("full: {free_bytes} bytes are free, writes are refused until there is room")
                }
                DiskState::Failed { why } => format!("failed: {why}; writes are refused until the node is restarted"),
            },
        }
    }

    /// Counts tasks and agents by the views, and measures this process.
    pub fn metrics_sample(&self) -> Result<MetricsSample, Refused> {
        let (mut running, mut queued, mut ended, mut agents) = (0, 0, 0, 0);
        for (_, swarm) in self.house.swarm_table.page(&SwarmFilter::default(), None, usize::MAX)?.items {
            agents += u64::from(swarm.agents);
            for (status, count) in TaskStatus::ALL.iter().zip(swarm.tasks) {
                match status {
                    status if status.is_terminal() => ended += count,
                    status if status.is_leased() => running += count,
                    _ => queued += count,
                }
            }
        }
        Ok(MetricsSample {
            at: WallMs::now(),
            tasks_running: running,
            tasks_queued: queued,
            tasks_ended_total: ended,
            agents_running: agents,
            cpu_seconds_total: cpu_seconds(),
            resident_bytes: resident_bytes(),
            events_total: self.house.ledger.head().0,
        })
    }

    /// Tells whether the node serves: the ledger takes writes and the views are not far behind. The error says why not.
    pub fn ready(&self) -> Result<(), String> {
        const LAG_MAX: u64 = 100_000;
        if let Some(why) = self.house.views.failure() {
            return Err(format!("the views have stopped: {why}"));
        }
        let view = self.cluster();
        if view.disk != "ok" {
            return Err(view.disk);
        }
        if let Some(why) = view.no_quorum {
            return Err(format!("no write can be agreed on: {why}"));
        }
        if view.view_lag > LAG_MAX {
            return Err(format!("the views are {} events behind", view.view_lag));
        }
        Ok(())
    }
}

fn chosen(record: &TaskRecord) -> String {
    let Some(attempt) = record.attempts.last() else { return "it was not placed".into() };
    let decision = &attempt.decision;
    match decision.scores.first() {
        Some(best) => format!(
            "attempt {} went to {} by {:?}: score {:.3} (specialisation {:.2}, success {:.2}, load {:.2}), best of {}",
            attempt.number,
            attempt.agent,
            decision.strategy,
            best.total,
            best.specialisation,
            best.success,
            best.load,
            decision.eligible
        ),
        None => format!("attempt {} went to {}", attempt.number, attempt.agent),
    }
}

pub(super) fn page_key<T: std::str::FromStr>(text: &str) -> Result<T, Refused> {
    text.parse().map_err(|_| Refused::invalid("after", "this is no cursor of this list"))
}

/// Returns the seconds of CPU that this process has used, user and system.
fn cpu_seconds() -> Option<f64> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).ok()?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Some(seconds(usage.user_time()) + seconds(usage.system_time()))
}

pub(crate) fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let page = u64::try_from(nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??).ok()?;
    Some(pages * page)
}
