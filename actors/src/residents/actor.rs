//! Makes what runs on this node what the directory says runs here.
//!
//! Owns the children of the supervisors `swarms` and `agents`, and the doors to them. Asks the directory what is placed
//! here and the lease whether this node may act: without one everything here stops, processes too. Never decides where
//! anything lives. After a restart it finds what runs by its doors, and goes on.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::StreamExt;
use hiveward_agents as agent;
use hiveward_agents::{actor::Agent, message::AgentMsg};
use hiveward_catalogue::{
    agent::spec::AgentSpec,
    directory::{NodeStatus, roster_key},
    host::spec::HostSpec,
    roster::message::RosterWire,
    swarm::SwarmSpec,
};
use hiveward_kernel::{
    entity::Entity,
    id::{AgentId, HostId, SwarmId},
    loss,
};
use hiveward_machines::host::{self, actor::Host, message::HostMsg};
use hiveward_runtime::{
    call::{Door, TellError},
    clock::Deadline,
    cluster::{
        lease::Phase,
        router::{ActorDoor, Inbound},
    },
    op::NodeId,
    supervise::{
        Backoff, Behaviour, ChildSpec, Context, Failure, Intensity, Restart, Shutdown, StartError, Strategy, Supervisor,
        SupervisorSpec, TimerHandle,
    },
};
use hiveward_work::swarm::{actor::Coordinator, message::SwarmMsg, wire};

use super::leftover;
use crate::{client::route, house::House, roster::RosterMsg};

/// How long an entity's actor may take to start before the start is left to its supervisor.
const START_WITHIN: Duration = Duration::from_secs(30);
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(30);
/// An entity that fails more often than this is given up for a while.
const CRASH_LOOP: Intensity = Intensity { restarts_max: 10, period: Duration::from_secs(60) };
/// What was given up is tried again, each time later: by then a damaged disk may be replaced, or a bad request gone.
const TRIED_AGAIN: Backoff = Backoff {
    first: Duration::from_secs(10),
    max: Duration::from_secs(600),
    factor: 2.0,
    jitter: 0.2,
    reset_after: Duration::from_secs(60),
};
/// How often it is checked whether everyone is there.
pub(super) const ENSURE_EVERY: Duration = Duration::from_secs(5);
/// How long a coordinator may take to replay its stream.
const COORDINATOR_START_WITHIN: Duration = Duration::from_secs(600);
/// How often sessions of agents that live elsewhere are looked for.
const LEFTOVERS_EVERY: u32 = 12;
/// How long an agent may take to end its processes before they are ended without it.
const EVICT_WITHIN: Duration = Duration::from_secs(2);
/// While this node drains, how often its agents are asked whether they have finished.
const DRAIN_EVERY: Duration = Duration::from_millis(200);
const DRAIN_ASK_WITHIN: Duration = Duration::from_secs(1);
const DRAIN_ASKED_AT_ONCE: usize = 64;
const MOVABLE_PER_MESSAGE: usize = 1_000;
const MAILBOX_COORDINATOR: usize = 65_536;
const MAILBOX_AGENT: usize = 1_024;
const MAILBOX_HOST: usize = 16_384;

pub struct Residents {
    pub(super) house: House,
    agents: Supervisor,
    pub(super) swarms: Supervisor,
    hosts: Supervisor,
    roster: Door<RosterMsg>,
}

pub enum ResidentsMsg {
    /// The directory or the lease has changed.
    Look,
    /// Makes sure that everyone is under a supervisor: one that was itself restarted has forgotten its children.
    Ensure,
    /// Nothing of this life of the entity runs here any more.
    Stopped(Entity),
    /// One round of asking the agents of a draining node is over: these hold nothing. Twice in a row counts.
    Asked { idle: Vec<AgentId> },
}

pub(super) struct Life {
    pub(super) placement: u64,
    pub(super) stopping: bool,
    /// Whether an agent on a node that drains held nothing when it was asked last.
    idle: bool,
}

pub struct State {
    pub(super) lives: HashMap<Entity, Life>,
    held: bool,
    draining: bool,
    /// Whether agents may still believe that the node drains.
    undrain: bool,
    /// Coordinators that had begun so many messages when somebody waited, with the number of looks since that is so.
    pub(super) waiting: HashMap<SwarmId, (usize, u32)>,
    /// Coordinators that were found given up, with the number of looks in a row.
    pub(super) given_up: HashMap<SwarmId, u32>,
    asking: Option<TimerHandle>,
    turns: u32,
    _ensure: TimerHandle,
}

impl Residents {
    /// Returns the behaviour of the residents' actor over the three supervisors whose children it starts.
    pub fn new(house: House, agents: Supervisor, swarms: Supervisor, hosts: Supervisor, roster: Door<RosterMsg>) -> Self {
        Self { house, agents, swarms, hosts, roster }
    }

    pub(super) fn me(&self) -> NodeId {
        self.house.me.node
    }
}

impl Behaviour for Residents {
    type Msg = ResidentsMsg;
    type State = State;

    async fn start(&self, ctx: &Context<ResidentsMsg>) -> Result<State, Failure> {
        let there = self.house.doors.all().into_iter();
        let mut state = State {
            lives: there.map(|(entity, placement)| (entity, Life { placement, stopping: false, idle: false })).collect(),
            held: false,
            draining: false,
            undrain: true,
            waiting: HashMap::new(),
            given_up: HashMap::new(),
            asking: None,
            turns: 0,
            _ensure: ctx.every(ENSURE_EVERY, || ResidentsMsg::Ensure),
        };
        // A restart of this actor has not seen what changed meanwhile.
        self.house.directory.take_changes();
        self.follow(ctx, &mut state).await?;
        self.look_at_all(ctx, &mut state).await?;
        let (me, directory, mut lease) = (ctx.addr().clone(), self.house.directory.clone(), self.house.peers.lease());
        ctx.task(async move {
            let mut driven = true;
            loop {
                tokio::select! {
                    () = directory.changed() => {}
                    changed = lease.changed(), if driven => driven = changed.is_ok(),
                }
                me.deliver(ResidentsMsg::Look).await;
            }
        });
        Ok(state)
    }

    async fn handle(&self, ctx: &Context<ResidentsMsg>, msg: ResidentsMsg, state: &mut State) -> Result<(), Failure> {
        match msg {
            ResidentsMsg::Look => self.look(ctx, state).await,
            ResidentsMsg::Ensure => self.ensure(ctx, state).await,
            ResidentsMsg::Stopped(entity) => {
                state.lives.remove(&entity);
                self.settle(ctx, state, entity).await
            }
            ResidentsMsg::Asked { idle } => {
                state.asking = None;
                self.report_idle(state, &idle);
                self.drain(ctx, state);
                Ok(())
            }
        }
    }

    fn observe(&self, state: &State) -> serde_json::Value {
        let stopping = state.lives.values().filter(|life| life.stopping).count();
        serde_json::json!({
            "entities": state.lives.len(), "stopping": stopping, "leaseHeld": state.held, "draining": state.draining,
        })
    }
}

impl Residents {
    async fn look(&self, ctx: &Context<ResidentsMsg>, state: &mut State) -> Result<(), Failure> {
        if self.follow(ctx, state).await? {
            self.house.directory.take_changes();
            return self.look_at_all(ctx, state).await;
        }
        let changes = self.house.directory.take_changes();
        if changes.all {
            return self.look_at_all(ctx, state).await;
        }
        if changes.nodes.contains(&self.me()) {
            self.follow_drain(ctx, state);
        }
        self.tell_coordinators(changes.entities.iter().copied());
        self.tell_hosts(changes.entities.iter().copied());
        for entity in changes.entities {
            self.settle(ctx, state, entity).await?;
        }
        Ok(())
    }

    /// Tells whether the lease was taken or lost since the last look.
    async fn follow(&self, ctx: &Context<ResidentsMsg>, state: &mut State) -> Result<bool, Failure> {
        let held = *self.house.peers.lease().borrow() == Phase::Held;
        if held == state.held {
            return Ok(false);
        }
        state.held = held;
        ctx.set_note(if held { "may act" } else { "has no lease: nothing runs here" });
        if held {
            self.end_leftovers(ctx);
        } else {
            tracing::warn!(entities = state.lives.len(), "the node's lease ends: everything on it stops");
        }
        Ok(true)
    }

    async fn look_at_all(&self, ctx: &Context<ResidentsMsg>, state: &mut State) -> Result<(), Failure> {
        self.follow_drain(ctx, state);
        let mut entities: Vec<Entity> = self.house.directory.read(|known| known.held(self.me()));
        entities.extend(state.lives.keys().copied());
        entities.sort_unstable();
        entities.dedup();
        for entity in entities {
            self.settle(ctx, state, entity).await?;
        }
        Ok(())
    }

    /// Starts or stops one entity, whichever is right.
    async fn settle(&self, ctx: &Context<ResidentsMsg>, state: &mut State, entity: Entity) -> Result<(), Failure> {
        let at = self.house.directory.location(entity).filter(|at| state.held && at.node == self.me());
        let wanted = at.map(|at| at.incarnation);
        match (state.lives.get_mut(&entity), wanted) {
            (None, Some(placement)) => self.begin(ctx, state, entity, placement).await,
            (Some(life), wanted) if !life.stopping && wanted != Some(life.placement) => {
                life.stopping = true;
                let placement = life.placement;
                self.end(ctx, entity, placement);
                Ok(())
            }
            // What is stopping is looked at again when it has stopped.
            _ => Ok(()),
        }
    }

    async fn ensure(&self, ctx: &Context<ResidentsMsg>, state: &mut State) -> Result<(), Failure> {
        state.turns = state.turns.wrapping_add(1);
        if state.turns.is_multiple_of(LEFTOVERS_EVERY) && state.held {
            self.end_leftovers(ctx);
        }
        self.look_at_all(ctx, state).await?;
        if state.undrain && !state.draining {
            self.undrain(state);
        }
        let away: Vec<_> = state
            .lives
            .iter()
            .filter(|(entity, life)| !life.stopping && self.house.doors.is_living(**entity) != Some(true))
            .map(|(entity, life)| (*entity, life.placement))
            .collect();
        for (entity, placement) in away {
            self.begin(ctx, state, entity, placement).await?;
        }
        self.end_hung(ctx, state);
        self.report_given_up(ctx, state);
        Ok(())
    }

    fn end_leftovers(&self, ctx: &Context<ResidentsMsg>) {
        let house = self.house.clone();
        ctx.task(async move { leftover::end_all(&house).await });
    }

    async fn begin(&self, ctx: &Context<ResidentsMsg>, state: &mut State, entity: Entity, placement: u64) -> Result<(), Failure> {
        let started = match entity {
            Entity::Swarm(id) => match self.house.directory.swarm(id) {
                Some(spec) => self.start_swarm(spec, placement).await,
                None => return Ok(()),
            },
            Entity::Agent(id) => match self.house.directory.agent(id) {
                Some(spec) => self.start_agent(spec, placement).await,
                None => return Ok(()),
            },
            Entity::Host(id) => {
                match self.house.directory.read(|known| known.fleet.hosts.get(&id).map(|entry| entry.spec.clone())) {
                    Some(spec) => self.start_host(spec, placement).await,
                    None => return Ok(()),
                }
            }
            // A VM is started by its host.
            Entity::Vm(_) => return Ok(()),
        };
        match started {
            Ok(()) => drop(state.lives.insert(entity, Life { placement, stopping: false, idle: false })),
            // It is between two lives, or given up: it is known to its supervisor and left to it.
            Err(StartError::Duplicate(_)) if state.lives.contains_key(&entity) => {}
            // It is of a life of this actor before: nobody has its door any more.
            Err(StartError::Duplicate(_)) => {
                state.lives.insert(entity, Life { placement, stopping: true, idle: false });
                self.end(ctx, entity, placement);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn start_swarm(&self, spec: Arc<SwarmSpec>, placement: u64) -> Result<(), StartError> {
        let (id, house) = (spec.id, self.house.clone());
        let name = id.to_string();
        let (child, door) = ChildSpec::actor(name, "coordinator", move || Coordinator::new(house.work.clone(), spec.clone()))
            .key(id.key())
            .backoff(Backoff::default())
            .crash_loop(CRASH_LOOP)
            .tried_again(TRIED_AGAIN)
            .mailbox(MAILBOX_COORDINATOR)
            .start_timeout(COORDINATOR_START_WITHIN)
            .build();
        self.swarms.enlist_child(child, Deadline::after(START_WITHIN)).await?;
        self.house.doors.add(id, placement, door.clone());
        let back = self.house.router.clone();
        let read = move |inbound: &Inbound<'_>| wire::read(inbound, &back);
        self.house.router.open(&id.key(), placement, Arc::new(ActorDoor::new(door, read)));
        Ok(())
    }

    async fn start_agent(&self, spec: Arc<AgentSpec>, placement: u64) -> Result<(), StartError> {
        let (id, house) = (spec.id, self.house.clone());
        let name = id.to_string();
        let (child, door) = ChildSpec::actor(name, "agent", move || Agent::new(house.agents.clone(), spec.clone(), placement))
            .key(id.key())
            .restart(Restart::Transient)
            .backoff(Backoff::default())
            .crash_loop(CRASH_LOOP)
            .tried_again(TRIED_AGAIN)
            .shutdown(Shutdown::Grace(Duration::from_secs(5)))
            .mailbox(MAILBOX_AGENT)
            .build();
        self.agents.enlist_child(child, Deadline::after(START_WITHIN)).await?;
        self.house.doors.add(id, placement, door.clone());
        self.house.router.open(&id.key(), placement, Arc::new(ActorDoor::new(door, agent::message::AgentWire::message)));
        Ok(())
    }

    async fn start_host(&self, spec: Arc<HostSpec>, placement: u64) -> Result<(), StartError> {
        let (id, house, beside) = (spec.id, self.house.clone(), Arc::new(OnceLock::new()));
        let (name, its) = (id.to_string(), beside.clone());
        let (actor, door) =
            ChildSpec::actor("host", "host", move || Host::new(house.machines.clone(), spec.clone(), placement, its.clone()))
                .key(id.key())
                .mailbox(MAILBOX_HOST)
                .essential()
                .build();
        let whole = SupervisorSpec::new(name, Strategy::OneForOne, vec![actor]).intensity(CRASH_LOOP);
        let (whole, handle) = ChildSpec::supervisor(whole);
        // This comes before it lives: its first message needs it.
        let _ = beside.set(handle);
        self.hosts.enlist_child(whole.essential(), Deadline::after(START_WITHIN)).await?;
        self.house.doors.add(id, placement, door.clone());
        self.house.router.open(&id.key(), placement, Arc::new(ActorDoor::new(door, host::message::HostWire::message)));
        Ok(())
    }

    /// Ends an entity. Nobody reaches it from now on, and nothing of it is left when it is said to have stopped.
    fn end(&self, ctx: &Context<ResidentsMsg>, entity: Entity, placement: u64) {
        let door = match entity {
            Entity::Agent(id) => self.house.doors.of::<AgentMsg>(id),
            Entity::Swarm(_) | Entity::Host(_) | Entity::Vm(_) => None,
        };
        // What runs on a host runs on; only the connection and its VMs' actors end.
        if let Entity::Host(host) = entity {
            for vm in self.house.doors.vms_of(host) {
                self.house.router.close(&vm.key(), placement);
                self.house.doors.remove(Entity::Vm(vm));
            }
        }
        self.house.router.close(&entity.key(), placement);
        self.house.doors.remove(entity);
        let under = match entity {
            Entity::Agent(_) => self.agents.clone(),
            Entity::Swarm(_) => self.swarms.clone(),
            Entity::Host(_) | Entity::Vm(_) => self.hosts.clone(),
        };
        let (house, me) = (self.house.clone(), ctx.addr().clone());
        ctx.task(async move {
            let name = entity.key();
            let mut evicted = false;
            if let Some(door) = door {
                evicted = door.ask(Deadline::after(EVICT_WITHIN), |reply| AgentMsg::Evict { reply }).await.is_ok();
            }
            if let Err(error) = under.stop_child(name.as_str(), Deadline::after(STOP_WITHIN)).await {
                tracing::warn!(%error, entity = %name, "an entity's actor did not stop in order");
            }
            if let Entity::Agent(agent) = entity
                && !evicted
            {
                leftover::end(&house, agent).await;
            }
            me.deliver(ResidentsMsg::Stopped(entity)).await;
        });
    }

    /// Tells hosts here at once what changed of them, their VMs and networks. If that is lost they see it by themselves later.
    fn tell_hosts(&self, entities: impl Iterator<Item = Entity>) {
        let changed: HashSet<HostId> =
            entities.filter_map(|entity| if let Entity::Host(host) = entity { Some(host) } else { None }).collect();
        if changed.is_empty() {
            return;
        }
        let beside = self.house.directory.read(|known| known.fleet.networks.beside(&changed));
        for host in changed.union(&beside) {
            if let Some(door) = self.house.doors.of::<HostMsg>(*host) {
                let _ = door.tell(HostMsg::Look);
            }
        }
    }

    /// Tells coordinators here which of their agents were placed anew. If that is lost their sweep sees it.
    fn tell_coordinators(&self, entities: impl Iterator<Item = Entity>) {
        let mut moved: HashMap<SwarmId, Vec<AgentId>> = HashMap::new();
        self.house.directory.read(|known| {
            for entity in entities {
                // A first placement voids nothing.
                if let Entity::Agent(id) = entity
                    && let Some(entry) = known.agents.get(&id).filter(|entry| entry.place.placement > 1)
                {
                    moved.entry(entry.spec.swarm).or_default().push(id);
                }
            }
        });
        for (swarm, agents) in moved {
            if let Some(door) = self.house.doors.of::<SwarmMsg>(swarm) {
                let _ = door.tell(SwarmMsg::Moved { agents });
            }
        }
    }
}

// Draining.
impl Residents {
    fn follow_drain(&self, ctx: &Context<ResidentsMsg>, state: &mut State) {
        let status = self.house.directory.read(|known| known.nodes.get(&self.me()).map(|entry| entry.status));
        let draining = status == Some(NodeStatus::Draining);
        if draining == state.draining {
            return;
        }
        state.draining = draining;
        if draining {
            self.drain(ctx, state);
        } else {
            state.asking = None;
            self.undrain(state);
        }
    }

    fn agents_here(state: &State) -> impl Iterator<Item = AgentId> {
        state.lives.iter().filter(|(_, life)| !life.stopping).filter_map(|(entity, _)| match entity {
            Entity::Agent(id) => Some(*id),
            Entity::Swarm(_) | Entity::Host(_) | Entity::Vm(_) => None,
        })
    }

    /// Tells every agent here to finish, and asks what it still holds.
    fn drain(&self, ctx: &Context<ResidentsMsg>, state: &mut State) {
        if !state.draining || state.asking.is_some() {
            return;
        }
        state.undrain = true;
        let doors: Vec<_> = Self::agents_here(state).filter_map(|id| Some((id, self.house.doors.of::<AgentMsg>(id)?))).collect();
        let me = ctx.addr().clone();
        // The timer is for the next round, should this one never report.
        state.asking = Some(ctx.after(STOP_WITHIN, ResidentsMsg::Asked { idle: Vec::new() }));
        ctx.task(async move {
            let asked = futures_util::stream::iter(doors).map(|(id, door)| async move {
                let held = door.ask(Deadline::after(DRAIN_ASK_WITHIN), |reply| AgentMsg::Drain { reply }).await;
                // One without a life holds nothing that it could finish.
                let nothing = match held {
                    Ok(held) => held == 0,
                    Err(hiveward_runtime::call::CallError::Gone) => true,
                    Err(_) => false,
                };
                (id, nothing)
            });
            let idle: Vec<_> = asked
                .buffer_unordered(DRAIN_ASKED_AT_ONCE)
                .filter_map(|(id, nothing)| std::future::ready(nothing.then_some(id)))
                .collect()
                .await;
            tokio::time::sleep(DRAIN_EVERY).await;
            me.deliver(ResidentsMsg::Asked { idle }).await;
        });
    }

    /// Reports agents that were idle twice in a row: what was on its way to them when they were asked first has come by then.
    fn report_idle(&self, state: &mut State, idle: &[AgentId]) {
        if !state.draining {
            return;
        }
        let idle: std::collections::HashSet<_> = idle.iter().collect();
        let mut movable = Vec::new();
        for (entity, life) in &mut state.lives {
            let Entity::Agent(id) = entity else { continue };
            let now = idle.contains(id);
            if std::mem::replace(&mut life.idle, now) && now && !life.stopping {
                movable.push((*id, life.placement));
            }
        }
        for agents in movable.chunks(MOVABLE_PER_MESSAGE) {
            let agents = agents.to_vec();
            self.tell_roster(RosterMsg::Movable { agents: agents.clone() }, &RosterWire::Movable { agents });
        }
    }

    /// Tells the roster something, here or on the node that leads. If that is lost it is said again in the next round.
    pub(super) fn tell_roster(&self, here: RosterMsg, there: &RosterWire) {
        if route::leads_here(&self.house) {
            let _ = self.roster.tell(here);
        } else if let Some(at) = self.house.directory.roster()
            && !loss::strikes()
        {
            let _ = self.house.router.tell_at(at, &roster_key(), there);
        }
    }

    fn undrain(&self, state: &mut State) {
        let mut all = true;
        for id in Self::agents_here(state) {
            if let Some(door) = self.house.doors.of::<AgentMsg>(id) {
                all &= !matches!(door.tell(AgentMsg::Undrain), Err(TellError::Busy(_)));
            }
        }
        state.undrain = !all;
        for life in state.lives.values_mut() {
            life.idle = false;
        }
    }
}
