//! Says again what a coordinator said, and gives up what is lost: the repair of what was lost on its way, or with a node.
//!
//! Owns nothing: a part of the coordinator's actor.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::StreamExt;
use hiveward_kernel::{commit::Batch, entity::Entity, id::AgentId, lease::Lease};
use hiveward_runtime::{
    cluster::router::Location,
    supervise::{Context, Failure},
};

use super::{
    actor::{ABSENT_MS, Coordinator, State},
    event::SwarmEvent,
    message::SwarmMsg,
    reference::ToAgent,
};
use crate::{
    swarm::reference::{AgentRef, Assignment, Life},
    task::status::TaskStatus,
};

/// The time after which a lease that a distant agent does not say it has begun is sent to it again.
const DISTANT_UNHEARD: Duration = Duration::from_secs(1);
/// The time that a distant agent has to say that it is there.
const ALIVE_WITHIN: Duration = Duration::from_secs(2);
/// The most agents that are asked at the same time.
const ALIVE_AT_ONCE: usize = 64;

impl Coordinator {
    /// Sends leases again that distant agents do not seem to have heard of.
    pub(super) async fn repeat_unheard(&self, ctx: &Context<SwarmMsg>, state: &mut State) -> Result<(), Failure> {
        if !state.agents.values().any(AgentRef::is_distant) {
            return Ok(());
        }
        let (now, by) = (self.now(), state.incarnation);
        let mut batch = Batch::default();
        for live in state.swarm.live_tasks().filter(|live| live.status == TaskStatus::Assigned) {
            if let Some(lease) = live.lease()
                && now.wall.since(live.since) > DISTANT_UNHEARD
                && let Some(agent) = state.agents.get(&lease.agent).filter(|agent| agent.is_distant())
            {
                let (agent, spec) = (agent.clone(), live.spec.clone());
                batch.then(move |cursor| {
                    agent.tell(ToAgent::Run(Assignment { lease, spec, cursor, by }));
                });
            }
        }
        self.settle(ctx, state, batch).await
    }

    /// Loses the leases of agents that stay away, and repeats leases that an agent does not seem to have heard of.
    pub(super) async fn sweep(&self, ctx: &Context<SwarmMsg>, state: &mut State) -> Result<(), Failure> {
        let (now, by) = (self.now(), state.incarnation);
        let mut away = HashSet::new();
        let mut batch = Batch::default();
        let held: HashSet<AgentId> = state.swarm.live_tasks().filter_map(|live| live.holder).collect();
        for event in self.moved(state, held) {
            self.record(state, &mut batch, &event)?;
        }
        self.repair_distant(ctx, state, &mut batch);
        self.call_agents(state);
        let mut repeated = Vec::new();
        for live in state.swarm.live_tasks() {
            let Some(lease) = live.lease() else { continue };
            let unheard = now.wall.since(live.since);
            match state.agents.get(&lease.agent).filter(|agent| agent.is_alive()) {
                None => {
                    away.insert(lease.agent);
                }
                Some(agent)
                    if live.status == TaskStatus::Assigned
                        && unheard > if agent.is_distant() { DISTANT_UNHEARD } else { Duration::from_millis(ABSENT_MS) } =>
                {
                    repeated.push((agent.clone(), lease, live.spec.clone()));
                }
                Some(_) => {}
            }
        }
        for (agent, lease, spec) in repeated {
            batch.then(move |cursor| {
                agent.tell(ToAgent::Run(Assignment { lease, spec, cursor, by }));
            });
        }
        state.absent.retain(|agent, _| away.contains(agent));
        for agent in away {
            let since = *state.absent.entry(agent).or_insert(now.mono_ms);
            if now.mono_ms.saturating_sub(since) >= ABSENT_MS {
                for event in state.swarm.lose(agent, "its agent stayed away", |_| false) {
                    self.record(state, &mut batch, &event)?;
                }
            }
        }
        self.settle(ctx, state, batch).await
    }

    /// Decides what is lost because these agents were given it in an older placement than the directory says they are in now.
    pub(super) fn moved(&self, state: &mut State, agents: impl IntoIterator<Item = AgentId>) -> Vec<SwarmEvent> {
        let mut events = Vec::new();
        for agent in agents {
            let (placement, why) = self.services.directory.read(|known| {
                known.place(Entity::Agent(agent)).map_or((0, Arc::from("")), |place| (place.placement, place.why.clone()))
            });
            if state.swarm.seats_before(agent, placement) {
                state.agents.remove(&agent);
            }
            events.extend(state.swarm.lose_moved(agent, placement, &format!("its agent was placed elsewhere: {why}")));
        }
        events
    }

    /// Tells agents that the directory lists and that have no seat that there is a coordinator.
    pub(super) fn call_agents(&self, state: &State) {
        let (by, me) = (state.incarnation, self.services.me.node);
        let places: Vec<(AgentId, Location)> = self.services.directory.read(|known| {
            let Some(entry) = known.swarms.get(&self.spec.id) else { return Vec::new() };
            let unseated = entry.agents.iter().filter(|agent| !state.agents.contains_key(agent));
            let place = |agent: &AgentId| {
                let place = &known.agents.get(agent)?.place;
                Some((*agent, Location { node: place.node?, incarnation: place.placement }))
            };
            unseated.filter_map(place).collect()
        });
        for (agent, at) in places {
            if at.node == me {
                // A busy agent arrives by itself at its next resend.
                if let Some(agent) = self.services.hearers.here(agent) {
                    agent.tell(ToAgent::CoordinatorStarted { by });
                }
            } else {
                AgentRef::there(agent.key(), at, self.services.router.clone()).tell(ToAgent::CoordinatorStarted { by });
            }
        }
    }

    /// Says again to distant agents what they should hold, and asks those that hold something whether they are there.
    fn repair_distant(&self, ctx: &Context<SwarmMsg>, state: &State, batch: &mut Batch) {
        let by = state.incarnation;
        let mut leases: HashMap<AgentId, Vec<Lease>> = HashMap::new();
        for lease in state.swarm.live_tasks().filter_map(|live| live.lease()) {
            leases.entry(lease.agent).or_default().push(lease);
        }
        let mut ask = Vec::new();
        for (agent, to) in &state.agents {
            let (AgentRef::There(distant), Some(seated)) = (to, state.swarm.seated(*agent)) else { continue };
            let held = leases.remove(agent).unwrap_or_default();
            if !held.is_empty() {
                ask.push((*agent, seated, distant.clone()));
            }
            let to = to.clone();
            batch.then(move |_| {
                to.tell(ToAgent::Keep { leases: Some(held), seated, by });
            });
        }
        // The last round goes on: a link is slow.
        if ask.is_empty() || state.asking.swap(true, Ordering::AcqRel) {
            return;
        }
        let (me, asking) = (ctx.addr().clone(), state.asking.clone());
        ctx.task(async move {
            let asked = futures_util::stream::iter(ask)
                .map(|(agent, seated, distant)| async move { (agent, seated, distant.life(ALIVE_WITHIN).await) });
            let mut answers = asked.buffer_unordered(ALIVE_AT_ONCE);
            while let Some((agent, incarnation, life)) = answers.next().await {
                let away = match life {
                    Life::Incarnation(now) => now != incarnation,
                    Life::Away => true,
                    // Whether its node is lost is not for us to say.
                    Life::Unknown => false,
                };
                if away {
                    // Not heard: asked again at the next sweep.
                    let _ = me.tell(SwarmMsg::Away { agent, incarnation });
                }
            }
            asking.store(false, Ordering::Release);
        });
    }
}
