//! The roster's actor: names are unique because it alone gives them.
//!
//! Owns the roster's stream. After a commit it starts (or stops) the entity's actor under the node's supervisors. After a
//! restart it replays and starts whatever is not running yet; what runs is left alone.

use std::{collections::HashMap, sync::Arc, time::Duration};

use hiveward_runtime::{
    call::{Door, Reply},
    clock::Deadline,
    error::{Code, Refused},
    id::Key,
    ledger::Cursor,
    supervise::{
        Backoff, Behaviour, ChildSpec, Context, Failure, Intensity, Restart, Shutdown, StartError, Supervisor, TimerHandle,
    },
};

use super::event::{self, RosterEvent};
use crate::{
    agent::{AgentSpec, actor::Agent},
    commit::{Batch, Committer},
    house::House,
    id::{AgentId, SwarmId},
    swarm::{
        SwarmSpec,
        actor::Coordinator,
        event::Operation,
        message::Committed,
        state::{OPERATIONS_KEPT_MAX, Recent},
    },
};

/// How long an entity's actor may take to start before the start is left to its supervisor.
const START_WITHIN: Duration = Duration::from_secs(30);
/// An entity that fails more often than this is given up until someone starts it again.
const CRASH_LOOP: Intensity = Intensity { restarts_max: 10, period: Duration::from_secs(60) };
/// How often the roster looks whether everyone is there.
const ENSURE_EVERY: Duration = Duration::from_secs(5);
const MAILBOX_COORDINATOR: usize = 65_536;
const MAILBOX_AGENT: usize = 1_024;

pub struct Roster {
    house: House,
    agents: Supervisor,
    swarms: Supervisor,
}

pub enum RosterMsg {
    AddSwarm {
        spec: Arc<SwarmSpec>,
        operation: Option<Operation>,
        reply: Answer<Key>,
    },
    RemoveSwarm {
        swarm: SwarmId,
        operation: Option<Operation>,
        reply: Answer<Key>,
    },
    /// Answers when the agent's actor has been started; it may not be ready yet.
    AddAgent {
        spec: Arc<AgentSpec>,
        operation: Option<Operation>,
        reply: Answer<Key>,
    },
    RemoveAgent {
        agent: AgentId,
        operation: Option<Operation>,
        reply: Answer<Key>,
    },
    FindSwarm {
        name: Option<Arc<str>>,
        id: Option<SwarmId>,
        reply: Reply<Option<Arc<SwarmSpec>>>,
    },
    FindAgent {
        id: AgentId,
        reply: Reply<Option<Arc<AgentSpec>>>,
    },
    CommitFailed {
        message: String,
    },
    /// Sees that everyone is under a supervisor: one that was itself restarted has forgotten its children.
    Ensure,
}

pub type Answer<T> = Reply<Result<Committed<T>, Refused>>;

pub struct State {
    swarms: HashMap<SwarmId, Arc<SwarmSpec>>,
    agents: HashMap<AgentId, Arc<AgentSpec>>,
    swarm_names: HashMap<String, SwarmId>,
    agent_names: HashMap<(SwarmId, String), AgentId>,
    operations: Recent<Arc<str>, ([u8; 16], Key)>,
    committer: Committer,
    _ensure: TimerHandle,
}

impl Roster {
    pub fn new(house: House, agents: Supervisor, swarms: Supervisor) -> Self {
        Self { house, agents, swarms }
    }
}

impl Behaviour for Roster {
    type Msg = RosterMsg;
    type State = State;

    async fn start(&self, ctx: &Context<RosterMsg>) -> Result<State, Failure> {
        let stream = RosterEvent::stream();
        let life = self.house.ledger.claim(&stream).await?;
        let me = ctx.addr().clone();
        let (committer, committing) =
            Committer::new(self.house.ledger.clone(), stream, life.incarnation, life.version, move |error| {
                let _ = me.tell(RosterMsg::CommitFailed { message: error.to_string() });
            });
        ctx.task(committing);
        let mut state = State {
            swarms: HashMap::new(),
            agents: HashMap::new(),
            swarm_names: HashMap::new(),
            agent_names: HashMap::new(),
            operations: Recent::new(OPERATIONS_KEPT_MAX),
            committer,
            _ensure: ctx.every(ENSURE_EVERY, || RosterMsg::Ensure),
        };
        for event in &life.events {
            state.apply(&RosterEvent::decode(&event.kind, event.format, &event.body)?);
        }
        self.ensure(&state).await?;
        Ok(state)
    }

    async fn handle(&self, _: &Context<RosterMsg>, msg: RosterMsg, state: &mut State) -> Result<(), Failure> {
        match msg {
            RosterMsg::AddSwarm { spec, operation, reply } => {
                if let Some(reply) = state.repeat(operation.as_ref(), reply).await? {
                    if state.swarm_names.contains_key(&spec.name) {
                        reply.answer(Err(conflict("name", format!("there is a swarm named {:?} already", spec.name))));
                        return Ok(());
                    }
                    let cursor = state.commit(RosterEvent::SwarmAdded { spec: spec.clone(), operation }).await?;
                    self.start_swarm(spec.clone()).await?;
                    reply.answer(Ok(Committed { value: spec.id.key(), cursor }));
                }
                Ok(())
            }
            RosterMsg::RemoveSwarm { swarm, operation, reply } => {
                if let Some(reply) = state.repeat(operation.as_ref(), reply).await? {
                    if !state.swarms.contains_key(&swarm) {
                        reply.answer(Err(Refused::not_found(swarm)));
                        return Ok(());
                    }
                    let agents = state.agents.values().filter(|spec| spec.swarm == swarm).count();
                    if agents > 0 {
                        reply.answer(Err(Refused::new(
                            Code::Refused,
                            format!("{agents} agents belong to the swarm; remove them first"),
                        )));
                        return Ok(());
                    }
                    let cursor = state.commit(RosterEvent::SwarmRemoved { swarm, operation }).await?;
                    self.house.doors.remove_swarm(swarm);
                    self.stopped(self.swarms.stop_child(&swarm.to_string(), Deadline::after(START_WITHIN)).await);
                    reply.answer(Ok(Committed { value: swarm.key(), cursor }));
                }
                Ok(())
            }
            RosterMsg::AddAgent { spec, operation, reply } => {
                if let Some(reply) = state.repeat(operation.as_ref(), reply).await? {
                    if !state.swarms.contains_key(&spec.swarm) {
                        reply.answer(Err(Refused::not_found(spec.swarm)));
                        return Ok(());
                    }
                    if state.agent_names.contains_key(&(spec.swarm, spec.name.clone())) {
                        reply.answer(Err(conflict("name", format!("the swarm has an agent named {:?} already", spec.name))));
                        return Ok(());
                    }
                    let cursor = state.commit(RosterEvent::AgentAdded { spec: spec.clone(), operation }).await?;
                    self.start_agent(spec.clone()).await?;
                    reply.answer(Ok(Committed { value: spec.id.key(), cursor }));
                }
                Ok(())
            }
            RosterMsg::RemoveAgent { agent, operation, reply } => {
                if let Some(reply) = state.repeat(operation.as_ref(), reply).await? {
                    let Some(spec) = state.agents.get(&agent).cloned() else {
                        reply.answer(Err(Refused::not_found(agent)));
                        return Ok(());
                    };
                    let cursor = state.commit(RosterEvent::AgentRemoved { agent, swarm: spec.swarm, operation }).await?;
                    self.house.doors.remove_agent(agent);
                    self.stopped(self.agents.stop_child(&agent.to_string(), Deadline::after(START_WITHIN)).await);
                    reply.answer(Ok(Committed { value: agent.key(), cursor }));
                }
                Ok(())
            }
            RosterMsg::FindSwarm { name, id, reply } => {
                let id = id.or_else(|| state.swarm_names.get(&*name?).copied());
                reply.answer(id.and_then(|id| state.swarms.get(&id).cloned()));
                Ok(())
            }
            RosterMsg::FindAgent { id, reply } => {
                reply.answer(state.agents.get(&id).cloned());
                Ok(())
            }
            RosterMsg::CommitFailed { message } => Err(Failure::new(message)),
            RosterMsg::Ensure => self.ensure(state).await,
        }
    }

    fn observe(&self, state: &State) -> serde_json::Value {
        serde_json::json!({"swarms": state.swarms.len(), "agents": state.agents.len()})
    }
}

fn conflict(field: &str, message: String) -> Refused {
    Refused { code: Code::Conflict, message, field: Some(field.into()) }
}

impl Roster {
    /// Starts whoever has no life. One that is between two lives, or was given up, is known to its supervisor and left to it.
    async fn ensure(&self, state: &State) -> Result<(), Failure> {
        for spec in state.swarms.values() {
            if self.house.doors.swarm(spec.id).is_none_or(|door| door.current().is_none()) {
                self.start_swarm(spec.clone()).await?;
            }
        }
        for spec in state.agents.values() {
            if self.house.doors.agent(spec.id).is_none_or(|door| door.current().is_none()) {
                self.start_agent(spec.clone()).await?;
            }
        }
        Ok(())
    }

    async fn start_swarm(&self, spec: Arc<SwarmSpec>) -> Result<(), Failure> {
        let (id, house) = (spec.id, self.house.clone());
        let name = id.to_string();
        let (child, door) = ChildSpec::actor(name, "coordinator", move || Coordinator::new(house.clone(), spec.clone()))
            .key(id.key())
            .backoff(Backoff::default())
            .crash_loop(CRASH_LOOP)
            .mailbox(MAILBOX_COORDINATOR)
            .start_timeout(START_WITHIN)
            .build();
        self.enter(&self.swarms, child, || self.house.doors.add_swarm(id, door)).await
    }

    async fn start_agent(&self, spec: Arc<AgentSpec>) -> Result<(), Failure> {
        let (id, swarm, house) = (spec.id, spec.swarm, self.house.clone());
        let name = id.to_string();
        let (child, door) = ChildSpec::actor(name, "agent", move || Agent::new(house.clone(), spec.clone()))
            .key(id.key())
            .restart(Restart::Transient)
            .backoff(Backoff::default())
            .crash_loop(CRASH_LOOP)
            .shutdown(Shutdown::Grace(Duration::from_secs(5)))
            .mailbox(MAILBOX_AGENT)
            .build();
        self.enter(&self.agents, child, || self.house.doors.add_agent(id, swarm, door)).await
    }

    /// Starts a child unless it runs already, as after a restart of this actor alone.
    async fn enter(&self, under: &Supervisor, child: ChildSpec, add_door: impl FnOnce()) -> Result<(), Failure> {
        match under.enlist_child(child, Deadline::after(START_WITHIN)).await {
            Ok(()) => {
                add_door();
                Ok(())
            }
            Err(StartError::Duplicate(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn stopped(&self, result: Result<(), hiveward_runtime::supervise::StopError>) {
        if let Err(error) = result {
            tracing::warn!(%error, "an entity's actor did not stop in order");
        }
    }
}

impl State {
    fn apply(&mut self, event: &RosterEvent) {
        let key = match event {
            RosterEvent::SwarmAdded { spec, .. } => {
                self.swarm_names.insert(spec.name.clone(), spec.id);
                self.swarms.insert(spec.id, spec.clone());
                spec.id.key()
            }
            RosterEvent::SwarmRemoved { swarm, .. } => {
                if let Some(spec) = self.swarms.remove(swarm) {
                    self.swarm_names.remove(&spec.name);
                }
                swarm.key()
            }
            RosterEvent::AgentAdded { spec, .. } => {
                self.agent_names.insert((spec.swarm, spec.name.clone()), spec.id);
                self.agents.insert(spec.id, spec.clone());
                spec.id.key()
            }
            RosterEvent::AgentRemoved { agent, .. } => {
                if let Some(spec) = self.agents.remove(agent) {
                    self.agent_names.remove(&(spec.swarm, spec.name.clone()));
                }
                agent.key()
            }
        };
        if let Some(operation) = event.operation() {
            self.operations.insert(operation.id.clone(), (operation.input, key));
        }
    }

    /// Answers a repeated operation as before; otherwise gives the reply back.
    async fn repeat(&self, operation: Option<&Operation>, reply: Answer<Key>) -> Result<Option<Answer<Key>>, Failure> {
        let Some(operation) = operation else { return Ok(Some(reply)) };
        match self.operations.get(&operation.id) {
            None => return Ok(Some(reply)),
            Some((input, key)) if *input == operation.input => {
                let key = key.clone();
                let mut batch = Batch::default();
                batch.then(move |cursor| reply.answer(Ok(Committed { value: key, cursor })));
                self.committer.hand_over(batch).await?;
            }
            Some(_) => reply.answer(Err(conflict(
                "operationId",
                format!("operation id {:?} was used before with another input; choose a new one", operation.id),
            ))),
        }
        Ok(None)
    }

    /// Waits for the disk: the roster changes seldom, and what follows needs the commit.
    async fn commit(&mut self, event: RosterEvent) -> Result<Cursor, Failure> {
        let mut batch = Batch::default();
        batch.push(event.kind(), event::FORMAT, event.encode()?);
        let (done, wait) = tokio::sync::oneshot::channel();
        batch.then(move |cursor| {
            // The roster waits, unless it was killed.
            let _ = done.send(cursor);
        });
        self.committer.hand_over(batch).await?;
        let cursor = wait.await?;
        self.apply(&event);
        Ok(cursor)
    }
}

/// What others hold to speak to it.
pub type RosterDoor = Door<RosterMsg>;
