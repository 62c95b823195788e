//! An agent's actor: keeps the agent as its user wants it, and carries leases to its connector and ends back.
//!
//! Owns the agent's stream and its connector, and through it every process the agent runs. Asks its coordinator for
//! nothing: it takes a seat and is sent work. After a restart it replays its stream, adopts what still runs, and takes
//! its seat again under a new incarnation. An end of an attempt is repeated until the coordinator says it is settled.

use std::{collections::HashMap, sync::Arc, time::Duration};

use hiveward_catalogue::agent::spec::{AgentSpec, ConnectorSpec, SessionSpec};
use hiveward_kernel::{
    commit::{Batch, Committed, Committer},
    id::ApprovalId,
    lease::Lease,
    snapshot::{self, SinceSnapshot},
};
use hiveward_machines::vm::warm;
use hiveward_runtime::{
    call::Reply,
    error::{Code, Refused},
    op::Asker,
    supervise::{Behaviour, Context, Failure, TimerHandle},
};
use hiveward_work::swarm::{
    event::Ended,
    message::SwarmMsg,
    reference::{AgentRef, ToAgent},
    seat::Arrival,
};

use super::{
    attempts::Told,
    connector::{self, Connector, StartFailure, StopHow, StopWhy},
    event::{self, AgentEvent},
    hearer::Life,
    message::{AgentMsg, AgentReply, PauseMode, StopMode},
    state::{AgentState, Phase, SNAPSHOT_FORMAT, Wanted},
};
use crate::services::AgentServices;

pub struct Agent {
    pub(super) services: AgentServices,
    pub(super) spec: Arc<AgentSpec>,
    skills: Arc<[hiveward_catalogue::agent::spec::Skill]>,
    /// Number of the placement of it that this is.
    pub(super) placement: u64,
}

pub struct State {
    pub(super) agent: AgentState,
    since_snapshot: SinceSnapshot,
    pub(super) incarnation: u64,
    pub(super) committer: Committer,
    pub(super) connector: Arc<dyn Connector>,
    /// Leases that it holds; one whose end is not settled yet stays here.
    pub(super) held: HashMap<Lease, Held>,
    /// Answers to those who asked it to start.
    starters: Vec<AgentReply>,
    /// Whether the coordinator is known to have heard of this life.
    pub(super) seated: bool,
    pub(super) resend: Option<TimerHandle>,
    /// Whether its node drains: then it finishes what it holds.
    draining: bool,
    /// Open questions of its programs, and the clock of each.
    pub(super) due: HashMap<ApprovalId, TimerHandle>,
    /// Newest life of the coordinator that was heard of; what an older one says is not done.
    coordinator: u64,
}

pub(super) enum Held {
    Running { started: bool },
    Ended(Box<Ended>),
}

impl Agent {
    /// Returns the actor of an agent in this placement; it does nothing before it is started.
    pub fn new(services: AgentServices, spec: Arc<AgentSpec>, placement: u64) -> Self {
        let skills = spec.skills.clone().into();
        Self { services, spec, skills, placement }
    }

    pub(super) fn grace(&self, mode: StopMode) -> StopHow {
        match mode {
            StopMode::Graceful => StopHow::Gracefully { grace: Duration::from_millis(self.spec.stop_grace_ms) },
            StopMode::Now => StopHow::AtOnce,
        }
    }
}

/// An agent takes what starting and handling need only while they run: there may be ten thousand of us, and most are idle.
impl Agent {
    async fn come_alive(&self, ctx: &Context<AgentMsg>) -> Result<State, Failure> {
        let stream = self.spec.id.key();
        let life = self.services.ledger.claim(&stream).await?;
        let mut agent = snapshot::restored(&life, SNAPSHOT_FORMAT)?.unwrap_or_else(|| AgentState::new(&self.spec));
        for event in &life.events {
            agent.apply(&AgentEvent::decode(&event.kind, event.format, &event.body)?);
        }
        agent.begin_life();
        let me = ctx.addr().clone();
        let (committer, committing) =
            Committer::new(self.services.ledger.clone(), stream, life.incarnation, life.version, move |error| {
                let _ = me.tell(AgentMsg::CommitFailed { message: error.to_string() });
            });
        ctx.task(committing);
        let (reports, mut said) = connector::Reports::channel();
        let me = ctx.addr().clone();
        ctx.task(async move {
            while let Some(report) = said.recv().await {
                if !Box::pin(me.deliver(AgentMsg::Report(*report))).await {
                    return;
                }
            }
        });
        if let SessionSpec::Vm(machine) = &self.spec.session
            && machine.warm > 0
        {
            ctx.task(warm::keep(self.services.machines.clone(), self.spec.id, machine.clone()));
        }
        let connector = connector::build(&self.spec, self.services.connector_env(reports, life.incarnation));
        let mut state = State {
            agent,
            since_snapshot: SinceSnapshot::of(&life),
            incarnation: life.incarnation,
            committer,
            connector,
            held: HashMap::new(),
            starters: Vec::new(),
            seated: false,
            resend: None,
            draining: false,
            due: HashMap::new(),
            coordinator: 0,
        };
        if state.agent.wanted != Wanted::Stopped && !state.agent.removed {
            self.begin_start(ctx, &mut state).await?;
        }
        Ok(state)
    }

    async fn take(&self, ctx: &Context<AgentMsg>, msg: AgentMsg, state: &mut State) -> Result<(), Failure> {
        match msg {
            AgentMsg::Start { reply } => self.ask_start(ctx, state, reply).await,
            AgentMsg::Stop { mode, reply } => {
                self.stop_all(state, mode, vec![AgentEvent::StopAsked, AgentEvent::Stopped], reply).await
            }
            AgentMsg::Remove { mode, reply } => {
                self.stop_all(state, mode, vec![AgentEvent::StopAsked, AgentEvent::Removed], reply).await
            }
            AgentMsg::Restart { mode, reply } => {
                self.leave_seat(state, Some("its agent was restarted"));
                state.connector.stop(self.grace(mode), StopWhy::AgentStopped).await;
                state.held.clear();
                self.void_questions(state).await?;
                state.agent.phase = Phase::Down;
                self.record_for(state, AgentEvent::StartAsked, reply.asker(), None).await?;
                state.starters.push(reply);
                self.begin_start(ctx, state).await
            }
            AgentMsg::Pause { mode, reply } => self.pause(state, mode, reply).await,
            AgentMsg::Resume { reply } => self.resume(ctx, state, reply).await,
            AgentMsg::Said(ToAgent::Run(assignment)) => self.run(ctx, state, assignment).await,
            AgentMsg::Said(ToAgent::Cancel { lease, by }) => {
                if state.heeds(by) && matches!(state.held.get(&lease), Some(Held::Running { .. })) {
                    self.cancel(ctx, state, lease);
                }
                Ok(())
            }
            AgentMsg::Said(ToAgent::Keep { leases, seated, by }) => {
                if !state.heeds(by) {
                    return Ok(());
                }
                if seated == state.incarnation {
                    state.seated = true;
                    self.arm_resend(ctx, state);
                }
                let Some(leases) = leases else { return Ok(()) };
                let extra: Vec<_> = state.held.keys().filter(|lease| !leases.contains(lease)).copied().collect();
                for lease in extra {
                    match state.held.get(&lease) {
                        Some(Held::Running { .. }) => self.cancel(ctx, state, lease),
                        _ => drop(state.held.remove(&lease)),
                    }
                }
                // What is to be run is in `held` or comes again; questions of anything else are nobody's.
                let over = |lease| !leases.contains(&lease);
                for event in state.agent.approvals.void(over, "its attempt is over") {
                    self.record(state, event, None).await?;
                }
                Ok(())
            }
            AgentMsg::Said(ToAgent::Settled { lease }) => {
                if matches!(state.held.get(&lease), Some(Held::Ended(_))) {
                    state.held.remove(&lease);
                }
                self.arm_resend(ctx, state);
                Ok(())
            }
            AgentMsg::Said(ToAgent::CoordinatorStarted { by }) => {
                if state.heeds(by) {
                    state.seated = false;
                    self.take_seat(ctx, state);
                }
                Ok(())
            }
            AgentMsg::Alive { reply } => {
                reply.answer(state.incarnation);
                Ok(())
            }
            AgentMsg::Drain { reply } => {
                if !state.draining {
                    state.draining = true;
                    state.seated = false;
                    self.take_seat(ctx, state);
                }
                reply.answer(state.held.len());
                Ok(())
            }
            AgentMsg::Undrain => {
                if std::mem::take(&mut state.draining) {
                    state.seated = false;
                    self.take_seat(ctx, state);
                }
                Ok(())
            }
            AgentMsg::Evict { reply } => {
                // Another life of it may have begun elsewhere: nothing is written or said from here.
                state.agent.phase = Phase::Down;
                state.connector.stop(StopHow::AtOnce, StopWhy::NotHere).await;
                state.held.clear();
                state.resend = None;
                reply.answer(());
                Ok(())
            }
            AgentMsg::AnswerApproval { approval, verdict, reply } => {
                self.answer_approval(ctx, state, approval, verdict, reply).await
            }
            AgentMsg::Tell { task, told, reply } => {
                self.tell_attempt(ctx, state, task, told, reply);
                Ok(())
            }
            AgentMsg::Clean { force, dry_run, reply } => {
                self.clean(ctx, force, dry_run, reply);
                Ok(())
            }
            AgentMsg::ApprovalDue { approval } => self.approval_due(ctx, state, approval).await,
            AgentMsg::Report(report) => self.report(ctx, state, report).await,
            AgentMsg::Ready { result } => self.ready(ctx, state, result).await,
            AgentMsg::Resend => {
                state.resend = None;
                self.take_seat(ctx, state);
                self.say_ends(ctx, state);
                self.arm_resend(ctx, state);
                Ok(())
            }
            AgentMsg::CommitFailed { message } => Err(Failure::new(message)),
        }
    }
}

impl Behaviour for Agent {
    type Msg = AgentMsg;
    type State = State;

    async fn start(&self, ctx: &Context<AgentMsg>) -> Result<State, Failure> {
        Box::pin(self.come_alive(ctx)).await
    }

    async fn handle(&self, ctx: &Context<AgentMsg>, msg: AgentMsg, state: &mut State) -> Result<(), Failure> {
        Box::pin(self.take(ctx, msg, state)).await
    }

    async fn stop(&self, _: &Context<AgentMsg>, state: &mut State) {
        // The node stops or this life ends; the processes live on and are adopted by the next.
        self.leave_seat(state, None);
        state.connector.release().await;
    }

    fn observe(&self, state: &State) -> serde_json::Value {
        serde_json::json!({
            "wanted": format!("{:?}", state.agent.wanted), "phase": format!("{:?}", state.agent.phase),
            "incarnation": state.incarnation, "held": state.held.len(), "seated": state.seated,
            "placement": self.placement, "draining": state.draining, "eventsSinceSnapshot": state.since_snapshot.events(),
        })
    }
}

impl Agent {
    pub(super) async fn record(&self, state: &mut State, event: AgentEvent, reply: Option<AgentReply>) -> Result<(), Failure> {
        let asker = reply.as_ref().and_then(Reply::asker).cloned();
        self.record_for(state, event, asker.as_ref(), reply).await
    }

    /// Records an event that somebody asked for; `reply` is answered when it is durable.
    async fn record_for(
        &self,
        state: &mut State,
        event: AgentEvent,
        asker: Option<&Arc<Asker>>,
        reply: Option<AgentReply>,
    ) -> Result<(), Failure> {
        let mut batch = Batch::asked_by(asker);
        batch.push(event.kind(), event::FORMAT, event.encode()?);
        state.agent.apply(&event);
        if let Some(reply) = reply {
            batch.then(move |cursor| reply.answer(Ok(Committed { value: (), cursor })));
        }
        self.hand_over(state, batch).await
    }

    async fn hand_over(&self, state: &mut State, mut batch: Batch) -> Result<(), Failure> {
        let (agent, directory) = (&state.agent, &self.services.directory);
        state.since_snapshot.go_with(
            &mut batch,
            SNAPSHOT_FORMAT,
            agent,
            agent.removed,
            directory.read(hiveward_catalogue::directory::Known::all_read_snapshots),
        )?;
        Ok(state.committer.hand_over(batch).await?)
    }

    async fn ask_start(&self, ctx: &Context<AgentMsg>, state: &mut State, reply: AgentReply) -> Result<(), Failure> {
        if state.agent.wanted == Wanted::Running && state.agent.phase == Phase::Up {
            return self.answer_now(state, Some(reply)).await;
        }
        if state.agent.wanted != Wanted::Running {
            self.record_for(state, AgentEvent::StartAsked, reply.asker(), None).await?;
        }
        state.starters.push(reply);
        match state.agent.phase {
            Phase::Starting => Ok(()),
            Phase::Up => self.now_up(ctx, state).await,
            Phase::Down | Phase::Failed => self.begin_start(ctx, state).await,
        }
    }

    pub(super) async fn answer_now(&self, state: &mut State, reply: Option<AgentReply>) -> Result<(), Failure> {
        let mut batch = Batch::default();
        if let Some(reply) = reply {
            batch.then(move |cursor| reply.answer(Ok(Committed { value: (), cursor })));
        }
        Ok(state.committer.hand_over(batch).await?)
    }

    async fn begin_start(&self, ctx: &Context<AgentMsg>, state: &mut State) -> Result<(), Failure> {
        // A connector without a process of its own is ready at once; one event says it all.
        if matches!(self.spec.connector, ConnectorSpec::Worker { .. }) {
            let incarnation = state.incarnation;
            self.record(state, AgentEvent::Starting { incarnation }, None).await?;
        }
        state.agent.phase = Phase::Starting;
        let (connector, me) = (state.connector.clone(), ctx.addr().clone());
        let timeout = Duration::from_millis(self.spec.start_timeout_ms);
        ctx.task(async move {
            let result = match tokio::time::timeout(timeout, connector.start()).await {
                Ok(result) => result,
                Err(_) => {
                    connector.stop(StopHow::AtOnce, StopWhy::AgentStopped).await;
                    let message = format!("it was not ready within {} ms", timeout.as_millis());
                    Err(StartFailure { message, output_tail: String::new() })
                }
            };
            me.deliver(AgentMsg::Ready { result }).await;
        });
        Ok(())
    }

    async fn ready(&self, ctx: &Context<AgentMsg>, state: &mut State, result: Result<(), StartFailure>) -> Result<(), Failure> {
        if state.agent.phase != Phase::Starting {
            return Ok(());
        }
        let incarnation = state.incarnation;
        match result {
            Ok(()) => {
                self.record(state, AgentEvent::Ready { incarnation }, None).await?;
                self.now_up(ctx, state).await
            }
            Err(failure) => {
                let tail = failure.output_tail.trim();
                let message =
                    if tail.is_empty() { failure.message } else { format!("{}; its last output: {tail}", failure.message) };
                self.record(state, AgentEvent::Failed { incarnation, message: message.clone() }, None).await?;
                ctx.set_note("failed to start");
                for reply in state.starters.drain(..) {
                    reply.answer(Err(Refused::new(Code::Refused, format!("agent {} did not start: {message}", self.spec.name))));
                }
                Ok(())
            }
        }
    }

    async fn now_up(&self, ctx: &Context<AgentMsg>, state: &mut State) -> Result<(), Failure> {
        ctx.set_note("up");
        let mut batch = Batch::default();
        for reply in state.starters.drain(..) {
            batch.then(move |cursor| reply.answer(Ok(Committed { value: (), cursor })));
        }
        state.committer.hand_over(batch).await?;
        self.take_seat(ctx, state);
        Ok(())
    }

    /// Tells the coordinator that this life takes work. Repeated until it was delivered.
    fn take_seat(&self, ctx: &Context<AgentMsg>, state: &mut State) {
        if state.seated || !(state.agent.takes_work()) {
            return;
        }
        let arrival = Arrival {
            agent: self.spec.id,
            incarnation: state.incarnation,
            placement: self.placement,
            skills: self.skills.clone(),
            capacity: if state.draining { 0 } else { self.spec.max_concurrent_tasks },
            weight: self.spec.weight,
            node: None,
        };
        let agent = AgentRef::Here(Arc::new(Life(ctx.addr().clone())));
        // A distant coordinator has heard it when it says so.
        state.seated = self.tell_swarm(SwarmMsg::Arrive { arrival, agent }) == Told::Here;
        self.arm_resend(ctx, state);
    }

    pub(super) fn leave_seat(&self, state: &mut State, lost: Option<&str>) {
        state.seated = false;
        // Not heard: the coordinator's sweep notices that this life is gone.
        self.tell_swarm(SwarmMsg::Depart { agent: self.spec.id, incarnation: state.incarnation, lost: lost.map(str::to_owned) });
    }

    async fn stop_all(
        &self,
        state: &mut State,
        mode: StopMode,
        events: Vec<AgentEvent>,
        reply: AgentReply,
    ) -> Result<(), Failure> {
        self.leave_seat(state, Some("its agent was stopped"));
        state.connector.stop(self.grace(mode), StopWhy::AgentStopped).await;
        state.held.clear();
        self.void_questions(state).await?;
        for waiting in state.starters.drain(..) {
            waiting.answer(Err(Refused::new(Code::Refused, "it was stopped before it was ready")));
        }
        let mut batch = Batch::asked_by(reply.asker());
        for event in events {
            batch.push(event.kind(), event::FORMAT, event.encode()?);
            state.agent.apply(&event);
        }
        state.agent.phase = Phase::Down;
        batch.then(move |cursor| reply.answer(Ok(Committed { value: (), cursor })));
        self.hand_over(state, batch).await
    }

    async fn pause(&self, state: &mut State, mode: PauseMode, reply: AgentReply) -> Result<(), Failure> {
        let frozen = mode == PauseMode::Freeze;
        match state.agent.pause(frozen) {
            Err(refused) => {
                reply.answer(Err(refused));
                Ok(())
            }
            Ok(None) => self.answer_now(state, Some(reply)).await,
            Ok(Some(event)) => {
                if let Err(error) = state.connector.freeze(frozen).await {
                    reply.answer(Err(Refused::new(Code::Refused, format!("its processes cannot be frozen: {error}"))));
                    return Ok(());
                }
                self.leave_seat(state, None);
                self.record(state, event, Some(reply)).await
            }
        }
    }

    async fn resume(&self, ctx: &Context<AgentMsg>, state: &mut State, reply: AgentReply) -> Result<(), Failure> {
        match state.agent.resume() {
            Err(refused) => {
                reply.answer(Err(refused));
                Ok(())
            }
            Ok(None) => self.answer_now(state, Some(reply)).await,
            Ok(Some(event)) => {
                if let Err(error) = state.connector.freeze(false).await {
                    reply.answer(Err(Refused::new(Code::Refused, format!("its processes cannot be thawed: {error}"))));
                    return Ok(());
                }
                self.record(state, event, Some(reply)).await?;
                self.take_seat(ctx, state);
                Ok(())
            }
        }
    }
}

impl State {
    /// Tells whether `by` is the newest life of the coordinator that was heard of.
    pub(super) fn heeds(&mut self, by: u64) -> bool {
        self.coordinator = self.coordinator.max(by);
        by == self.coordinator
    }
}
