//! Openraft with this node as one of its members: proposals find the leader, wherever it is.
//!
//! A command is brought to the leader until it is applied here or its time is over. That is safe: an append names the version of
//! its stream that it follows; so a second copy is refused, and the first told whoever waits. `elect` alone begins elections.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use openraft::{
    ChangeMembers, Config, Raft, SnapshotPolicy,
    error::{ClientWriteError, RaftError},
};
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinHandle, time::timeout_at};

use super::{
    Applied, Change, ChangeError, Consensus, ConsensusStatus, Leadership, Member, Node, ProposeError, RaftSetup, TypeConfig,
    apply::{MachineStore, Outcomes},
    candidacy::Candidacy,
    elect,
    log::LogStore,
    network::{Heard, Peers, member_of, member_text},
    serve::Incoming,
    wire::{self, Kind, SERVICE},
};
use crate::{
    clock::{BootClock, BootTime, Deadline},
    id::Key,
    ledger::{
        OpenError,
        append::Claims,
        damage::checked,
        file::Witness,
        record::Command,
        writer::{Disk, Jobs},
    },
    net::rpc::RpcError,
    op::NodeId,
};

/// The number of entries after which the log's older part is dropped; the tables have what they meant.
const ENTRIES_PER_SNAPSHOT: u64 = 5_000;
/// The same limit in bytes, for large entries.
const BYTES_PER_SNAPSHOT: u64 = 32 << 20;
/// The number of entries kept for nodes that lag a little.
const ENTRIES_KEPT: u64 = 1_024;
const ENTRIES_PER_PURGE: u64 = 1;
/// The time for which a command is brought to leaders; then its outcome is unknown, or it was refused.
pub const PROPOSE_WITHIN: Duration = Duration::from_secs(10);
/// The pause between looks for a leader, when nothing tells of one.
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(super) struct Shared {
    pub raft: Raft<TypeConfig>,
    pub log: LogStore,
    pub disk: Arc<Disk>,
    pub setup: RaftSetup,
    pub heard: Arc<Heard>,
    pub leadership: Arc<watch::Sender<Leadership>>,
    pub claims: Claims,
    /// A lock that a proposal of another node reads from the look at the claims until it is on its way into the log.
    pub letting_in: tokio::sync::RwLock<()>,
    /// The moment at which a leader last wrote to us, in microseconds on the boot clock.
    last_heard_us: AtomicU64,
    /// True while this node leads and lets the others elect another.
    pub aside: AtomicBool,
    pub candidacy: Mutex<Candidacy>,
    /// The bytes since the log was last shortened for its size.
    bytes: AtomicU64,
    pub incoming: tokio::sync::Mutex<Option<Incoming>>,
}

pub struct Group {
    pub(super) shared: Arc<Shared>,
    steward: JoinHandle<()>,
}

impl Drop for Group {
    fn drop(&mut self) {
        self.steward.abort();
    }
}

fn now() -> BootTime {
    // Linux has had it since 2.6.39; without it nothing is ever fresh, and the node acts for nobody.
    BootClock.now().unwrap_or_default()
}

impl Group {
    /// Starts the member. A node that is the only voter leads at once; others find their leader in their own time.
    #[allow(clippy::too_many_arguments)]
    pub async fn start(
        disk: Arc<Disk>,
        jobs: Jobs,
        outcomes: Arc<Outcomes>,
        witness: Witness,
        within: Duration,
        setup: RaftSetup,
        leadership: Arc<watch::Sender<Leadership>>,
        claims: Claims,
    ) -> Result<Self, OpenError> {
        let storage = |what: String| OpenError::Storage { path: "ledger.redb".into(), what };
        let timing = setup.timing;
        let config = Config {
            cluster_name: "hiveward".into(),
            // How long an append may be on its way: nearly as long as followers wait for a leader. `elect` beats.
            heartbeat_interval: millis(timing.lease) * 8 / 10,
            enable_heartbeat: false,
            election_timeout_min: millis(timing.lease) * 9 / 10,
            election_timeout_max: millis(timing.lease),
            // `elect` asks the others before it begins an election.
            enable_elect: false,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(ENTRIES_PER_SNAPSHOT),
            max_in_snapshot_log_to_keep: ENTRIES_KEPT,
            purge_batch_size: ENTRIES_PER_PURGE,
            max_payload_entries: 64,
            ..Config::default()
        };
        let config = Arc::new(config.validate().map_err(|error| storage(error.to_string()))?);
        let log = LogStore::load(disk.clone(), jobs.clone()).map_err(|error| storage(error.to_string()))?;
        let machine = MachineStore::new(disk.clone(), jobs, outcomes, Some(witness));
        let heard = Arc::new(Heard::default());
        let peers = Peers { lanes: setup.lanes.clone(), heard: heard.clone() };
        let raft = Raft::new(setup.id, config, peers, log.clone(), machine).await.map_err(|error| storage(error.to_string()))?;
        let shared = Arc::new(Shared {
            raft,
            log,
            disk,
            setup,
            heard,
            leadership,
            claims,
            letting_in: tokio::sync::RwLock::default(),
            last_heard_us: AtomicU64::new(micros(now())),
            aside: AtomicBool::new(false),
            candidacy: Mutex::default(),
            bytes: AtomicU64::new(0),
            incoming: tokio::sync::Mutex::default(),
        });
        let started = begin(&shared, within).await;
        let epoch = match started {
            Ok(epoch) => epoch,
            Err(error) => {
                // What matters is the error we have.
                let _ = shared.raft.shutdown().await;
                return Err(error);
            }
        };
        let (stewarding, beating) = (elect::steward(shared.clone(), epoch), elect::beat(shared.clone()));
        let steward = tokio::spawn(async move {
            tokio::select! {
                () = stewarding => {}
                () = beating => {}
            }
        });
        Ok(Self { shared, steward })
    }
}

/// Makes a lone node its own leader without waiting for an election's timeout; answers its term and epoch.
async fn begin(shared: &Shared, within: Duration) -> Result<Option<(u64, u64)>, OpenError> {
    let storage = |what: String| OpenError::Storage { path: "ledger.redb".into(), what };
    let (raft, setup) = (&shared.raft, &shared.setup);
    let ready = async {
        if !raft.is_initialized().await.map_err(|error| storage(error.to_string()))? {
            if !setup.founds {
                return Ok(None);
            }
            let me = Node::new(member_text(setup.node, &setup.address));
            raft.initialize(BTreeMap::from([(setup.id, me)])).await.map_err(|error| storage(error.to_string()))?;
        }
        // Metrics may be older than what was just initialized.
        let voters = raft.with_raft_state(|state| state.membership_state.effective().voter_ids().collect::<Vec<_>>());
        if voters.await.map_err(|error| storage(error.to_string()))? != [setup.id] {
            return Ok(None);
        }
        raft.trigger().elect().await.map_err(|error| storage(error.to_string()))?;
        let mut metrics = raft.server_metrics();
        loop {
            match raft.client_write(Command::NextEpoch).await {
                Ok(written) => match written.data {
                    Applied::Epoch(epoch) => {
                        let term = written.log_id.leader_id.term;
                        shared.leadership.send_replace(Leadership { term, leader: Some(setup.node), is_me: true, epoch });
                        return Ok(Some((term, epoch)));
                    }
                    other => return Err(storage(format!("unexpected answer {other:?}"))),
                },
                Err(RaftError::Fatal(fatal)) => return Err(storage(fatal.to_string())),
                // Not the leader yet: its state will change.
                Err(RaftError::APIError(_)) => metrics.changed().await.map_err(|error| storage(error.to_string()))?,
            }
        }
    };
    let waited_ms = millis(within);
    tokio::time::timeout(within, ready).await.unwrap_or(Err(OpenError::NotReady { waited_ms }))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(time: BootTime) -> u64 {
    u64::try_from(time.0.as_micros()).unwrap_or(u64::MAX)
}

impl Shared {
    pub fn voters(&self) -> Vec<u64> {
        self.raft.server_metrics().borrow().membership_config.membership().voter_ids().collect()
    }

    pub fn leader(&self) -> Option<u64> {
        self.raft.server_metrics().borrow().current_leader
    }

    /// Returns the node of a member; `None` if there is no such member, or it was written before there were clusters.
    pub fn node_of(&self, id: u64) -> Option<NodeId> {
        if id == self.setup.id {
            return Some(self.setup.node);
        }
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        member_of(&metrics.membership_config.membership().get_node(&id)?.addr).map(|(node, _)| node)
    }

    pub fn hear(&self) {
        self.last_heard_us.store(micros(now()), Ordering::Release);
    }

    /// Notes a vote: half of the silence that a candidate waits for is over, so that the one just voted for gets its chance.
    pub fn hear_candidate(&self) {
        let half = self.setup.timing.lease / 2;
        self.last_heard_us.fetch_max(micros(now()).saturating_sub(half.as_micros() as u64), Ordering::AcqRel);
    }

    /// Returns how long no leader has been heard.
    pub fn quiet(&self) -> Duration {
        Duration::from_micros(micros(now()).saturating_sub(self.last_heard_us.load(Ordering::Acquire)))
    }

    /// Returns the term and the moment at which a quorum last followed us; `None` unless we lead.
    pub fn confirmed(&self) -> Option<(u64, BootTime)> {
        let leadership = self.leadership.borrow().clone();
        if !leadership.is_me {
            return None;
        }
        self.heard.quorum(self.setup.id, leadership.term, &self.voters(), now()).map(|at| (leadership.term, at))
    }

    /// Tells why no write can be agreed on now, if none can.
    pub fn quorum(&self) -> Result<(), String> {
        let patience = self.setup.timing.lease * 2;
        let voters = self.voters();
        match self.leader() {
            None => Err("no leader is elected".into()),
            Some(leader) if leader == self.setup.id => {
                if voters == [leader] {
                    return Ok(());
                }
                let term = self.leadership.borrow().term;
                match self.heard.quorum(leader, term, &voters, now()) {
                    Some(at) if now().since(at) <= patience => Ok(()),
                    // Just elected: the election itself was won by a quorum.
                    None if !self.leadership.borrow().is_me => Ok(()),
                    Some(at) => Err(format!(
                        "this node leads, and heard no quorum of its {} voters for {} ms",
                        voters.len(),
                        millis(now().since(at))
                    )),
                    None => Err(format!("this node leads, and has not heard a quorum of its {} voters yet", voters.len())),
                }
            }
            Some(_) if self.quiet() > patience => Err(format!("the leader has not been heard for {} ms", millis(self.quiet()))),
            Some(_) => Ok(()),
        }
    }

    /// Returns how far a reader must have applied. Only a leader that a quorum followed within the last lease knows: voters keep
    /// to it that long. It is the end of its log: another node may have acknowledged what is not applied here yet.
    pub fn read_index(&self) -> wire::ReadIndex {
        let fresh = self.confirmed().is_some_and(|(_, at)| now().since(at) < self.setup.timing.lease.mul_f64(0.9));
        if !fresh || self.aside.load(Ordering::Acquire) {
            return wire::ReadIndex::NotLeading;
        }
        wire::ReadIndex::UpTo { index: self.log.last().map_or(0, |last| last.index) }
    }

    /// Waits until this node has all that was acknowledged before, on whichever node.
    async fn linearize(&self, deadline: Deadline) -> Result<(), String> {
        loop {
            let asked = match self.leader() {
                Some(me) if me == self.setup.id => Ok(self.read_index()),
                Some(leader) => match self.ask(leader, &[Kind::ReadIndex as u8], deadline).await {
                    Ok(answer) => wire::read(&answer),
                    Err(error) => Err(error.to_string()),
                },
                None => Err("no leader is elected".to_owned()),
            };
            let why = match asked {
                Ok(wire::ReadIndex::UpTo { index }) if self.applied(index, deadline).await => return Ok(()),
                Ok(wire::ReadIndex::UpTo { .. }) => "this node lags behind the leader".to_owned(),
                Ok(wire::ReadIndex::NotLeading) => "the leader has not heard a quorum lately".to_owned(),
                Err(why) => why,
            };
            if deadline.passed() {
                return Err(why);
            }
            tokio::time::sleep(LOOK_EVERY.min(deadline.remaining())).await;
        }
    }

    /// Waits until entries up to `index` are applied here; false if they are not by `deadline`.
    pub async fn applied(&self, index: u64, deadline: Deadline) -> bool {
        let mut metrics = self.raft.data_metrics();
        let reached = metrics.wait_for(|metrics| metrics.last_applied.is_some_and(|applied| applied.index >= index));
        timeout_at(deadline.instant(), reached).await.is_ok_and(|found| found.is_ok())
    }

    async fn propose(&self, command: Command, deadline: Deadline) -> Result<Applied, ProposeError> {
        let bytes = if let Command::Batch(batch) = &command { batch.bodies.len() as u64 } else { 0 };
        let mut encoded: Option<Vec<u8>> = None;
        // Whether it may be in a log already.
        let mut maybe = None;
        loop {
            let tried: Result<Applied, String> = match self.leader() {
                Some(leader) if leader == self.setup.id && !self.aside.load(Ordering::Acquire) => {
                    if self.bytes.fetch_add(bytes, Ordering::Relaxed) > BYTES_PER_SNAPSHOT {
                        self.bytes.store(0, Ordering::Relaxed);
                        self.raft.trigger().snapshot().await.map_err(|error| ProposeError::Lost(error.to_string()))?;
                    }
                    match timeout_at(deadline.instant(), self.raft.client_write(command.clone())).await {
                        Ok(Ok(written)) => return Ok(written.data),
                        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                            // Also said of what was in the log when this node ceased to lead.
                            maybe = Some("the leader changed".to_owned());
                            Err("the leader changed".into())
                        }
                        Ok(Err(error)) => return Err(ProposeError::Lost(error.to_string())),
                        Err(_) => {
                            maybe = Some("no quorum confirmed it in time".to_owned());
                            Err("no quorum confirmed it in time".into())
                        }
                    }
                }
                Some(leader) if leader != self.setup.id => {
                    let body = encoded.get_or_insert_with(|| {
                        let mut bytes = vec![Kind::Propose as u8];
                        command.write(&mut bytes);
                        bytes
                    });
                    match self.forward(leader, body, deadline).await {
                        Ok(wire::Proposed::At { index, applied }) => {
                            if self.applied(index, deadline).await {
                                return Ok(applied);
                            }
                            maybe = Some("it is committed, and this node lags behind".to_owned());
                            Err("this node lags behind".into())
                        }
                        Ok(wire::Proposed::NotLeading { .. }) => Err("the leader changes".into()),
                        Ok(wire::Proposed::Fenced { appends }) => return Err(ProposeError::Fenced(appends)),
                        Ok(wire::Proposed::Lost { why }) => {
                            maybe = Some(why.clone());
                            Err(why)
                        }
                        Err(error @ (RpcError::NotSent { .. } | RpcError::Refused { .. })) => Err(error.to_string()),
                        Err(error) => {
                            maybe = Some(error.to_string());
                            Err(error.to_string())
                        }
                    }
                }
                _ => Err("no leader is elected".into()),
            };
            match tried {
                Ok(applied) => return Ok(applied),
                Err(why) if deadline.passed() => {
                    return Err(match maybe {
                        Some(why) => ProposeError::Unknown(why),
                        None => ProposeError::NotLeading(why),
                    });
                }
                Err(_) => tokio::time::sleep(LOOK_EVERY.min(deadline.remaining())).await,
            }
        }
    }

    async fn forward(&self, leader: u64, body: &[u8], deadline: Deadline) -> Result<wire::Proposed, RpcError> {
        let answer = self.ask(leader, body, deadline).await?;
        let node = self.node_of(leader).unwrap_or(self.setup.node);
        // It was heard, and what it said cannot be read.
        wire::read(&answer).map_err(|_| RpcError::Lost { node })
    }

    /// Asks another member and waits until `deadline`. Errors: `NotSent` if it has no address or there are no lanes.
    pub async fn ask(&self, id: u64, body: &[u8], deadline: Deadline) -> Result<Bytes, RpcError> {
        let node = self.node_of(id);
        let (Some(node), Some(lanes)) = (node, &self.setup.lanes) else {
            return Err(RpcError::NotSent { node: self.setup.node, why: format!("member {id} has no address") });
        };
        lanes.raft.ask(node, SERVICE, body, deadline).await
    }

    async fn change(&self, change: Change) -> Result<(), ChangeError> {
        let changed = match change {
            Change::AddLearner { id, node, address } => {
                self.raft.add_learner(id, Node::new(member_text(node, &address)), false).await
            }
            Change::Promote { ids } => {
                self.raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::from_iter(ids)), true).await
            }
            Change::Demote { ids } => {
                self.raft.change_membership(ChangeMembers::RemoveVoters(BTreeSet::from_iter(ids)), true).await
            }
            Change::Remove { ids } => {
                let ids = BTreeSet::from_iter(ids);
                let voters = self.voters();
                if ids.iter().any(|id| voters.contains(id)) {
                    let voters: BTreeSet<_> = voters.into_iter().filter(|id| ids.contains(id)).collect();
                    let removed = self.raft.change_membership(ChangeMembers::RemoveVoters(voters), true).await;
                    removed.map_err(change_error)?;
                }
                self.raft.change_membership(ChangeMembers::RemoveNodes(ids), true).await
            }
            Change::Address { id, node, address } => {
                let nodes = BTreeMap::from([(id, Node::new(member_text(node, &address)))]);
                self.raft.change_membership(ChangeMembers::SetNodes(nodes), true).await
            }
        };
        changed.map(|_| ()).map_err(change_error)
    }
}

fn change_error(error: RaftError<u64, ClientWriteError<u64, Node>>) -> ChangeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => ChangeError::NotLeading,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => ChangeError::Refused(error.to_string()),
        RaftError::Fatal(error) => ChangeError::Refused(error.to_string()),
    }
}

impl Consensus for Group {
    fn propose(&self, command: Command) -> BoxFuture<'static, Result<Applied, ProposeError>> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.propose(command, Deadline::after(PROPOSE_WITHIN)).await })
    }

    fn status(&self) -> ConsensusStatus {
        let metrics = self.shared.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let matched = |id: u64| {
            let matched = metrics.replication.as_ref()?.get(&id)?.as_ref()?;
            Some(matched.index)
        };
        let members = membership.nodes().map(|(id, node)| {
            let (node, address) = member_of(&node.addr).map_or((None, ""), |(node, address)| (Some(node), address));
            Member {
                id: *id,
                node: node.or_else(|| (*id == self.shared.setup.id).then_some(self.shared.setup.node)),
                address: address.to_owned(),
                voter: voters.contains(id),
                matched: matched(*id),
                answered: self.shared.heard.of(*id),
            }
        });
        ConsensusStatus {
            term: metrics.current_term,
            leader: metrics.current_leader.and_then(|id| self.shared.node_of(id)),
            members: members.collect(),
            changing: membership.get_joint_config().len() > 1,
            log_last: metrics.last_log_index.unwrap_or(0),
            log_purged: metrics.purged.map_or(0, |log_id| log_id.index),
        }
    }

    fn quorum(&self) -> Result<(), String> {
        self.shared.quorum()
    }

    fn confirmed(&self) -> Option<(u64, BootTime)> {
        self.shared.confirmed()
    }

    fn is_alone(&self) -> bool {
        self.shared.voters() == [self.shared.setup.id]
    }

    fn let_in(&self) -> BoxFuture<'static, Result<u64, String>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            // Fair: those that were before us are through, and those behind us have seen the claim.
            drop(shared.letting_in.write().await);
            // Answered after what was sent to it before was brought to the log.
            let log = shared.log.clone();
            let last = shared.raft.with_raft_state(move |_| log.last().map_or(0, |last| last.index));
            last.await.map_err(|error| error.to_string())
        })
    }

    fn applied(&self, index: u64, deadline: Deadline) -> BoxFuture<'static, bool> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.applied(index, deadline).await })
    }

    fn linearize(&self, deadline: Deadline) -> BoxFuture<'static, Result<(), String>> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.linearize(deadline).await })
    }

    fn ask_claim(&self, stream: &Key, deadline: Deadline) -> BoxFuture<'static, Result<wire::Claimed, String>> {
        let (shared, stream) = (self.shared.clone(), stream.clone());
        Box::pin(async move {
            let leader = shared.leader().filter(|leader| *leader != shared.setup.id).ok_or("no leader is elected")?;
            let body = wire::write(Kind::Claim, &wire::AskClaim { stream })?;
            let answer = shared.ask(leader, &body, deadline).await.map_err(|error| error.to_string())?;
            wire::read(&answer)
        })
    }

    fn events_of_others(&self, from: u64, deadline: Deadline) -> BoxFuture<'static, Option<Vec<u8>>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let members: Vec<u64> = {
                let metrics = shared.raft.server_metrics();
                let metrics = metrics.borrow();
                metrics.membership_config.membership().nodes().map(|(id, _)| *id).collect()
            };
            let body = wire::write(Kind::Events, &wire::AskEvents { from }).ok()?;
            for member in members.into_iter().filter(|member| *member != shared.setup.id) {
                // One that cannot be asked, or is of a version that knows no such question, has none.
                let Ok(answer) = shared.ask(member, &body, deadline).await else { continue };
                let Ok(Some(value)) = wire::read::<wire::EventsAt>(&answer) else { continue };
                if checked(from, &value).is_ok() {
                    return Some(value.into_vec());
                }
            }
            None
        })
    }

    fn serve(&self, peer: NodeId, kind: Kind, body: Bytes) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.serve(peer, kind, body).await })
    }

    fn change(&self, change: Change) -> BoxFuture<'static, Result<(), ChangeError>> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.change(change).await })
    }

    fn step_aside(&self, within: Duration) -> BoxFuture<'static, bool> {
        let shared = self.shared.clone();
        Box::pin(async move { elect::step_aside(&shared, within).await })
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.steward.abort();
            if let Err(error) = self.shared.raft.shutdown().await {
                tracing::warn!(%error, "raft did not stop in order");
            }
        })
    }
}
