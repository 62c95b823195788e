//! Runs a swarm's coordinator: the one writer of its stream, the one that grants leases.
//!
//! Owns the swarm's live tasks. Asks the ledger to commit, agents to work, the views for what has ended. Never runs a task. After
//! a restart it claims its stream, replays it, and asks its agents to take their seats again; until an agent has, its leases stay
//! as they are, and after [`ABSENT_MS`] they are lost.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hiveward_catalogue::swarm::SwarmSpec;
use hiveward_kernel::{
    body::Body,
    commit::{Batch, Committer},
    entity::Entity,
    id::{AgentId, TaskId},
    lease::Lease,
    operation::recall::Marks,
    recent::Recent,
};
use hiveward_runtime::{
    clock::WallMs,
    ledger::{Cursor, StreamSnapshot},
    supervise::{Behaviour, Context, Failure, TimerHandle},
};

use super::{
    aggregate,
    event::{self, Ended, SwarmEvent},
    message::SwarmMsg,
    pieces::{self, Replayed, WritingDown},
    reference::ToAgent,
    seat::Arrival,
    snapshot::{self, Pieces, Snapshot},
    state::{Now, Swarm},
    transfer::Search,
};
use crate::{
    swarm::{
        reference::{AgentRef, Assignment},
        services::WorkServices,
    },
    task::{
        plan,
        record::TaskRecord,
        spec::TaskSpec,
        status::{AttemptStatus, TaskStatus},
    },
};

/// How long a lease outlives the absence of its agent, after the agent left or the coordinator started.
pub const ABSENT_MS: u64 = 30_000;
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// The number of sweeps of which one is thorough; the others repeat only what distant agents have not heard.
const SWEEPS_PER_THOROUGH: u32 = 5;
const SETTLED_KEPT_MAX: usize = 4096;
/// The number of events after which a snapshot is taken, or four times the live tasks if that is more.
const EVENTS_PER_SNAPSHOT: u64 = 50_000;
/// The bytes of events after which a snapshot is taken too, or twice what the state takes if that is more.
const BYTES_PER_SNAPSHOT: usize = 64 << 20;
/// The most events that a replay holds at a time; fewer where they are large.
pub(super) const EVENTS_PER_PAGE: usize = 4_096;

pub struct Coordinator {
    pub(super) services: WorkServices,
    pub(super) spec: Arc<SwarmSpec>,
}

pub struct State {
    pub(super) swarm: Swarm,
    committer: Committer,
    /// The way to each seated agent's present life.
    pub(super) agents: HashMap<AgentId, AgentRef>,
    /// The number of this life of the coordinator, as agents know it.
    pub(super) incarnation: u64,
    /// The ends of distant agents that were settled lately: what says so may have been lost on its way.
    settled: Recent<Lease, ()>,
    /// Whether distant agents are being asked if they are there.
    pub(super) asking: Arc<AtomicBool>,
    /// The time since when leases have had no seated holder, by agent.
    pub(super) absent: HashMap<AgentId, u64>,
    /// The version of its stream, after what is on its way to disk.
    version: u64,
    events_since_snapshot: u64,
    bytes_since_snapshot: usize,
    /// Whether a snapshot is being taken in pieces.
    writing_down: Arc<AtomicBool>,
    /// The marks of where the operations in memory are in the ledger.
    pub(super) marks: Marks,
    /// The cursor up to which this life found the ledger; operations up to here may be known to the views alone.
    pub(super) found_at: Cursor,
    timer: Option<(u64, TimerHandle)>,
    pub(super) closing: bool,
    /// The search for work of other shards.
    pub(super) search: Search,
    sweeps: u32,
    pub(super) dice: fastrand::Rng,
    _sweep: TimerHandle,
}

impl Coordinator {
    pub fn new(services: WorkServices, spec: Arc<SwarmSpec>) -> Self {
        Self { services, spec }
    }

    pub(super) fn now(&self) -> Now {
        Now { wall: self.services.clock.now(), mono_ms: self.services.mono_ms() }
    }
}

impl Behaviour for Coordinator {
    type Msg = SwarmMsg;
    type State = State;

    async fn start(&self, ctx: &Context<SwarmMsg>) -> Result<State, Failure> {
        let stream = self.spec.id.key();
        let life = self.services.ledger.claim_page(&stream, EVENTS_PER_PAGE).await?;
        let found_at = self.services.ledger.head();
        let Replayed { swarm, events, bytes } = self.replay(&stream, &life).await?;
        let marks = Marks::default();
        marks.note(swarm.operations.turns(), found_at);
        let me = ctx.addr().clone();
        let (committer, committing) =
            Committer::new(self.services.ledger.clone(), stream, life.incarnation, life.version, move |error| {
                // If the mailbox is full, the next message finds the committer closed.
                let _ = me.tell(SwarmMsg::CommitFailed { message: error.to_string() });
            });
        ctx.task(committing);
        let mut state = State {
            swarm,
            committer,
            agents: Default::default(),
            incarnation: life.incarnation,
            settled: Recent::new(SETTLED_KEPT_MAX),
            asking: Arc::default(),
            absent: Default::default(),
            version: life.version,
            events_since_snapshot: events,
            bytes_since_snapshot: bytes,
            writing_down: Arc::default(),
            marks,
            found_at,
            timer: None,
            closing: false,
            search: Search::default(),
            sweeps: 0,
            dice: fastrand::Rng::new(),
            _sweep: ctx.every(SWEEP_EVERY, || SwarmMsg::Sweep),
        };
        self.call_agents(&state);
        // What an agent was given in an older placement than it is in now, it does not hold any more.
        let held: HashSet<AgentId> = state.swarm.live_tasks().filter_map(|live| live.holder).collect();
        let events = self.moved(&mut state, held);
        self.record_all(ctx, &mut state, events).await?;
        Ok(state)
    }

    async fn handle(&self, ctx: &Context<SwarmMsg>, msg: SwarmMsg, state: &mut State) -> Result<(), Failure> {
        let Some(msg) = self.recall(ctx, state, msg) else { return Ok(()) };
        match msg {
            SwarmMsg::Submit { tasks, operation, principal, reply } => {
                self.submit(ctx, state, (tasks, operation, principal), reply).await
            }
            SwarmMsg::SubmitStored { stored, reply } => self.unpack(ctx, stored, reply),
            SwarmMsg::Cancel { task, reason, operation, reply } => {
                let decided = state.swarm.cancel(task, reason, operation, |task| self.known(task));
                self.answer_one(ctx, state, task, decided, reply).await
            }
            SwarmMsg::Redrive { before, spec, operation, principal, reply } => {
                let (task, attempts) = (spec.id, before.attempts_made());
                let decided = state.swarm.redrive(spec, attempts, before.status, operation, principal, |task| self.known(task));
                self.answer_one(ctx, state, task, decided, reply).await
            }
            SwarmMsg::Arrive { arrival, agent } => self.arrive(ctx, state, arrival, agent).await,
            SwarmMsg::Depart { agent, incarnation, lost } => self.depart(ctx, state, agent, incarnation, lost).await,
            SwarmMsg::Started { lease } => {
                let event = state.swarm.started(lease);
                self.record_all(ctx, state, event).await
            }
            SwarmMsg::Verifying { lease } => {
                let event = state.swarm.verifying(lease);
                self.record_all(ctx, state, event).await
            }
            SwarmMsg::Ended { lease, ended, agent } => self.ended(ctx, state, lease, ended, agent).await,
            SwarmMsg::Explain { task, reply } => {
                reply.answer(state.swarm.explain_in_shard(task));
                Ok(())
            }
            SwarmMsg::Sibling(said) => self.hear_sibling(ctx, state, said).await,
            SwarmMsg::LookForWork => {
                self.look_for_work(ctx, state);
                Ok(())
            }
            SwarmMsg::Reopen { reply } => {
                state.closing = false;
                reply.answer(());
                Ok(())
            }
            SwarmMsg::Close { force, reply } => self.close(ctx, state, force, reply).await,
            SwarmMsg::Due => {
                state.timer = None;
                let now = self.now();
                let events = state.swarm.take_due(now);
                self.record_all(ctx, state, events).await
            }
            SwarmMsg::Sweep => {
                state.sweeps = state.sweeps.wrapping_add(1);
                self.repeat_transfers(ctx, state).await?;
                if state.sweeps.is_multiple_of(SWEEPS_PER_THOROUGH) {
                    self.forget_operations(state);
                    self.sweep(ctx, state).await
                } else {
                    self.repeat_unheard(ctx, state).await
                }
            }
            SwarmMsg::Aggregated { task, result, error } => {
                // If a subtask was sent on its way again meanwhile, its end leads here once more.
                let is_over = state.swarm.is_to_be_aggregated(task);
                self.record_all(ctx, state, is_over.then_some(SwarmEvent::Aggregated { task, result, error })).await
            }
            SwarmMsg::Moved { agents } => {
                let events = self.moved(state, agents);
                self.record_all(ctx, state, events).await
            }
            SwarmMsg::Away { agent, incarnation } => {
                // Its leases are lost if it stays away.
                if state.swarm.unseat(agent, incarnation) {
                    state.agents.remove(&agent);
                }
                Ok(())
            }
            SwarmMsg::CommitFailed { message } => Err(Failure::new(message)),
        }
    }

    fn observe(&self, state: &State) -> serde_json::Value {
        let (live, ready, running, agents) = state.swarm.counts();
        let mut seen =
            serde_json::json!({"liveTasks": live, "readyTasks": ready, "runningAttempts": running, "seatedAgents": agents});
        seen["bytes"] = snapshot::bytes_of(&state.swarm).into();
        seen["rememberedOperations"] = state.swarm.operations.len().into();
        seen["eventsSinceSnapshot"] = state.events_since_snapshot.into();
        seen["writingDown"] = state.writing_down.load(Ordering::Acquire).into();
        if self.spec.is_sharded() {
            seen["shard"] = self.spec.shard.into();
            seen["movingTasks"] = state.swarm.transfers.tasks_under_way().into();
        }
        seen
    }
}

impl Coordinator {
    async fn arrive(&self, ctx: &Context<SwarmMsg>, state: &mut State, arrival: Arrival, agent: AgentRef) -> Result<(), Failure> {
        let (id, seated, by) = (arrival.agent, arrival.incarnation, state.incarnation);
        let mut batch = Batch::default();
        let mut arrival = arrival;
        arrival.node = Some(agent.node().unwrap_or(self.services.me.node));
        // It speaks from where the directory may not have placed it yet, as far as this node knows.
        let placement = self.services.directory.placement(Entity::Agent(id)).max(arrival.placement);
        if arrival.placement < placement {
            return Ok(());
        }
        for event in state.swarm.lose_moved(id, placement, "its agent was placed elsewhere") {
            self.record(state, &mut batch, &event)?;
        }
        let leases: Vec<(Lease, Arc<TaskSpec>)> = state
            .swarm
            .live_tasks()
            .filter_map(|live| live.lease().filter(|lease| lease.agent == id).map(|lease| (lease, live.spec.clone())))
            .collect();
        if !state.swarm.seat(arrival, leases.iter().map(|(lease, _)| lease.task)) {
            return self.settle(ctx, state, batch).await;
        }
        state.absent.remove(&id);
        state.agents.insert(id, agent.clone());
        // Behind the commits on their way, so that a lease that is not durable yet is not sent early.
        batch.then(move |cursor| {
            agent.tell(ToAgent::Keep { leases: Some(leases.iter().map(|(lease, _)| *lease).collect()), seated, by });
            for (lease, spec) in leases {
                agent.tell(ToAgent::Run(Assignment { lease, spec, cursor, by }));
            }
        });
        self.settle(ctx, state, batch).await
    }

    async fn depart(
        &self,
        ctx: &Context<SwarmMsg>,
        state: &mut State,
        agent: AgentId,
        incarnation: u64,
        lost: Option<String>,
    ) -> Result<(), Failure> {
        if !state.swarm.unseat(agent, incarnation) && lost.is_none() {
            return Ok(());
        }
        state.agents.remove(&agent);
        match lost {
            Some(why) => {
                let events = state.swarm.lose(agent, &why, |_| false);
                self.record_all(ctx, state, events).await
            }
            None => Ok(()),
        }
    }

    async fn ended(
        &self,
        ctx: &Context<SwarmMsg>,
        state: &mut State,
        lease: Lease,
        mut ended: Ended,
        agent: AgentRef,
    ) -> Result<(), Failure> {
        if agent.is_distant() {
            if state.settled.get(&lease).is_some() {
                let mut batch = Batch::default();
                batch.then(move |_| {
                    agent.tell(ToAgent::Settled { lease });
                });
                return self.settle(ctx, state, batch).await;
            }
            state.settled.insert(lease, ());
        }
        ended.bound();
        let mut subtasks = None;
        if ended.status == AttemptStatus::Succeeded
            && let Some(live) = state.swarm.live(lease.task).filter(|live| live.lease() == Some(lease))
            && let Some(asked) = live.spec.plan.clone()
        {
            match self.read_plan(&live.spec.clone(), &asked, ended.result.as_ref()) {
                Ok(specs) => subtasks = Some(specs),
                Err(error) => {
                    ended.status = AttemptStatus::Failed;
                    ended.error = Some(error);
                    ended.retriable = true;
                }
            }
        }
        let mut batch = Batch::default();
        let events = state.swarm.attempt_end(lease, ended, subtasks, state.dice.f64());
        for event in &events {
            self.record(state, &mut batch, event)?;
        }
        // Also an attempt that lost its lease frees its place when it ends.
        state.swarm.free_place(lease);
        batch.then(move |_| {
            // If this is not heard the agent repeats the end, and hears it then.
            agent.tell(ToAgent::Settled { lease });
        });
        self.settle(ctx, state, batch).await
    }

    fn read_plan(
        &self,
        planner: &TaskSpec,
        asked: &crate::task::spec::PlanSpec,
        result: Option<&Body>,
    ) -> Result<Vec<Arc<TaskSpec>>, String> {
        let result = result.ok_or("it returned no result, and its result must be a plan")?;
        let json = self.services.body(result).map_err(|refused| refused.message)?;
        plan::read(&json, planner, asked, &|bytes| self.services.store_body(&bytes).map_err(|refused| refused.message))
    }

    pub(super) async fn record_all(
        &self,
        ctx: &Context<SwarmMsg>,
        state: &mut State,
        events: impl IntoIterator<Item = SwarmEvent>,
    ) -> Result<(), Failure> {
        let mut batch = Batch::default();
        for event in events {
            self.record(state, &mut batch, &event)?;
        }
        self.settle(ctx, state, batch).await
    }

    /// Adds one event to the batch and applies it. What it means for agents follows once it is durable.
    pub(super) fn record(&self, state: &mut State, batch: &mut Batch, event: &SwarmEvent) -> Result<(), Failure> {
        self.record_encoded(state, batch, event, event.encode()?);
        Ok(())
    }

    pub(super) fn record_encoded(&self, state: &mut State, batch: &mut Batch, event: &SwarmEvent, body: Bytes) {
        let ended_without_report = match event {
            SwarmEvent::Cancelled { lease, .. } | SwarmEvent::Failed { lease, .. } => *lease,
            SwarmEvent::AttemptEnded { lease, ended, .. } if ended.status == AttemptStatus::Lost => Some(*lease),
            _ => None,
        };
        // A plan belongs to the end of the attempt that brought it. All else a replay makes of what came before it.
        if !matches!(event, SwarmEvent::Planned { .. }) {
            batch.may_cut_here();
        }
        state.version += 1;
        state.events_since_snapshot += 1;
        state.bytes_since_snapshot += body.len();
        batch.push(event.kind(), event::FORMAT, body);
        let (now, by) = (self.now(), state.incarnation);
        state.swarm.apply(event, now.wall, now);
        if let Some(lease) = ended_without_report
            && let Some(agent) = state.agents.get(&lease.agent).cloned()
        {
            batch.then(move |_| {
                agent.tell(ToAgent::Cancel { lease, by });
            });
        }
        if let SwarmEvent::Assigned { lease, .. } = event
            && let (Some(agent), Some(live)) = (state.agents.get(&lease.agent).cloned(), state.swarm.live(lease.task))
        {
            let (lease, spec) = (*lease, live.spec.clone());
            batch.then(move |cursor| {
                // A refusal is repaired by the sweep, or by the agent's next arrival.
                agent.tell(ToAgent::Run(Assignment { lease, spec, cursor, by }));
            });
        }
    }

    /// Follows up on what was recorded until nothing more follows, grants leases, and hands all of it over as one batch.
    pub(super) async fn settle(&self, ctx: &Context<SwarmMsg>, state: &mut State, mut batch: Batch) -> Result<(), Failure> {
        batch.on_behalf_of(None);
        loop {
            let consequences = state.swarm.take_consequences(self.now());
            if consequences.is_empty() {
                break;
            }
            for event in &consequences {
                self.record(state, &mut batch, event)?;
            }
        }
        while let Some(event) = state.swarm.next_assignment(state.dice.f64()) {
            self.record(state, &mut batch, &event)?;
        }
        for task in state.swarm.take_plans_to_aggregate() {
            self.aggregate(ctx, state, &mut batch, task);
        }
        let pieces = self.write_down(state, &mut batch)?;
        self.arm_timer(ctx, state);
        self.arm_search(ctx, state);
        state.committer.hand_over(batch).await?;
        if let Some(pieces) = pieces {
            let (committer, version) = (state.committer.another(), state.version);
            let taking = WritingDown(state.writing_down.clone());
            ctx.task(async move { pieces::write_down(taking, pieces, version, committer).await });
        }
        Ok(())
    }

    /// Takes a snapshot if one is due: of a small state right here; of a large one it returns what its pieces are made of.
    fn write_down(&self, state: &mut State, batch: &mut Batch) -> Result<Option<Pieces>, Failure> {
        let live = state.swarm.live_tasks().len() as u64;
        let bytes = snapshot::bytes_of(&state.swarm);
        let due = state.events_since_snapshot > EVENTS_PER_SNAPSHOT.max(4 * live)
            || state.bytes_since_snapshot > BYTES_PER_SNAPSHOT.max(2 * bytes);
        if !due || state.writing_down.load(Ordering::Acquire) {
            return Ok(None);
        }
        (state.events_since_snapshot, state.bytes_since_snapshot) = (0, 0);
        self.forget_operations(state);
        if bytes <= snapshot::AT_ONCE_BYTES_MAX {
            let body = rmp_serde::to_vec(&Snapshot::of(&state.swarm))?.into();
            batch.snapshot = Some(StreamSnapshot { format: snapshot::FORMAT, body });
            return Ok(None);
        }
        state.writing_down.store(true, Ordering::Release);
        Ok(Some(Pieces::of(&state.swarm)))
    }

    fn aggregate(&self, ctx: &Context<SwarmMsg>, state: &State, batch: &mut Batch, task: TaskId) {
        let Some(live) = state.swarm.live(task) else { return };
        let Some(made_of) = aggregate::MadeOf::of(live) else { return };
        let (services, me) = (self.services.clone(), ctx.addr().clone());
        let (send, wait) = tokio::sync::oneshot::channel();
        batch.then(move |cursor| {
            // The waiting side is gone only if this coordinator is.
            let _ = send.send(cursor);
        });
        ctx.task(async move {
            if let Ok(cursor) = wait.await {
                aggregate::run(services, me, task, made_of, cursor).await;
            }
        });
    }

    fn arm_timer(&self, ctx: &Context<SwarmMsg>, state: &mut State) {
        let Some(due) = state.swarm.next_due() else {
            state.timer = None;
            return;
        };
        if state.timer.as_ref().is_none_or(|(armed, _)| *armed > due) {
            let wait = Duration::from_millis(due.saturating_sub(self.services.mono_ms()).max(1));
            state.timer = Some((due, ctx.after(wait, SwarmMsg::Due)));
        }
    }
}

/// Notes where the operations that came to memory so far are in the ledger, once they are.
pub(super) fn mark(state: &State, batch: &mut Batch) {
    let (marks, turn) = (state.marks.clone(), state.swarm.operations.turns());
    batch.then(move |cursor| marks.note(turn, cursor));
}

/// Returns a record of a task as it was just submitted, for the answer: the views may not have it yet.
pub fn fresh_record(spec: Arc<TaskSpec>, principal: Arc<str>, at: WallMs, cursor: u64) -> TaskRecord {
    let scatter = spec.role.as_ref().is_some_and(|role| role.scatter().is_some());
    let status = match spec.depends_on.is_empty() {
        _ if scatter => TaskStatus::Running,
        true => TaskStatus::Queued,
        false => TaskStatus::Pending,
    };
    TaskRecord {
        not_before: (spec.delay_ms > 0).then(|| at.plus(Duration::from_millis(spec.delay_ms))),
        spec,
        status,
        waits_for: 0,
        attempts: Vec::new(),
        result: None,
        artifacts: Vec::new(),
        subtasks: Vec::new(),
        created_at: at,
        started_at: scatter.then_some(at),
        ended_at: None,
        error: None,
        cursor,
        principal,
        moves: Vec::new(),
    }
}
