//! The way from a command to the entity that owns its answer: a door where it lives here, else the router.
//!
//! Local stays local: nothing is encoded. Waits while an entity is between two lives or two places, but never asks twice
//! what may have been heard.

use std::time::Duration;

use hiveward_runtime::{
    call::{CallError, Door, Reply},
    clock::Deadline,
    cluster::router::{Location, RouteError, Unreachable},
    error::{Code, Refused},
    id::Key,
    op::Op,
};
use serde::{Serialize, de::DeserializeOwned};

use super::ControlPlane;
use crate::{
    agent::{message::AgentMsg, wire::AgentWire},
    directory::{Entity, roster_key},
    house::House,
    id::{AgentId, SwarmId},
    roster::{RosterMsg, wire::RosterWire},
    swarm::{message::SwarmMsg, wire::SwarmWire},
};

/// How long between tries while an entity has no door at all, such as while it starts or moves.
const DOOR_RETRY: Duration = Duration::from_millis(2);
/// How long between tries of a distant one.
const ROUTE_RETRY: Duration = Duration::from_millis(20);
/// A door tells of its next life; it is looked up again nevertheless, because another may have taken its place.
const DOOR_LOOKED_UP_EVERY: Duration = Duration::from_millis(50);

/// Whether the roster acts on this node.
pub fn leads_here(house: &House) -> bool {
    house.peers.leader().borrow().is_me
}

enum Way<M: Send + 'static> {
    Here(Door<M>),
    There(Location),
    /// Placed here and not started yet, or nowhere, or it is not known where.
    Nowhere,
}

/// Whether nothing happened, and another try may find it elsewhere.
fn may_be_elsewhere(error: &RouteError) -> bool {
    matches!(
        error,
        RouteError::NoSuchActor { .. }
            | RouteError::StaleIncarnation { .. }
            | RouteError::Unplaced { .. }
            | RouteError::Directory { .. }
            | RouteError::Unreachable { how: Unreachable::NotSent, .. }
    )
}

impl ControlPlane {
    async fn route<M: Send + 'static, T: DeserializeOwned + Send + 'static, W: Serialize + Sync>(
        &self,
        key: &Key,
        deadline: Deadline,
        way: impl Fn() -> Way<M>,
        mut make: impl FnMut(Reply<T>) -> M,
        wire: impl Fn() -> W,
    ) -> Result<T, Refused> {
        loop {
            let (refused, wait) = match way() {
                Way::Here(door) => {
                    let changed = door.changed();
                    match door.ask(deadline, &mut make).await {
                        Err(CallError::Gone) => {
                            // The same door, or another under the same name: it is looked up again now and then.
                            let _ = tokio::time::timeout_at(deadline.at_most(DOOR_LOOKED_UP_EVERY).instant(), changed).await;
                            (Refused::from(CallError::Gone), Duration::ZERO)
                        }
                        asked => return asked.map_err(Refused::from),
                    }
                }
                Way::There(at) => {
                    self.house.router.learn(key, at);
                    match Box::pin(self.house.router.ask(deadline, key, &wire())).await {
                        Err(error) if may_be_elsewhere(&error) => (Refused::from(error), ROUTE_RETRY),
                        asked => return asked.map_err(Refused::from),
                    }
                }
                Way::Nowhere => {
                    let message = format!("{key} is not running anywhere now; nothing happened");
                    (Refused::new(Code::Unavailable, message), DOOR_RETRY)
                }
            };
            if deadline.passed() {
                return Err(refused);
            }
            tokio::time::sleep(wait).await;
        }
    }

    fn way<M: Send + 'static>(&self, entity: Entity, door: Option<Door<M>>) -> Way<M> {
        match door {
            Some(door) => Way::Here(door),
            None => match self.house.directory.location(entity) {
                Some(at) if at.node != self.house.me.node => Way::There(at),
                _ => Way::Nowhere,
            },
        }
    }

    pub(super) async fn route_swarm<T: DeserializeOwned + Send + 'static>(
        &self,
        deadline: Deadline,
        swarm: SwarmId,
        make: impl FnMut(Reply<T>) -> SwarmMsg,
        wire: impl Fn() -> SwarmWire,
    ) -> Result<T, Refused> {
        let way = || self.way(Entity::Swarm(swarm), self.house.doors.swarm(swarm));
        self.route(&swarm.key(), deadline, way, make, wire).await
    }

    pub(super) async fn route_agent<T: DeserializeOwned + Send + 'static>(
        &self,
        deadline: Deadline,
        agent: AgentId,
        make: impl FnMut(Reply<T>) -> AgentMsg,
        wire: impl Fn() -> AgentWire,
    ) -> Result<T, Refused> {
        let way = || self.way(Entity::Agent(agent), self.house.doors.agent(agent));
        self.route(&agent.key(), deadline, way, make, wire).await
    }

    /// Where the roster does not act (any more) it says that nothing happened, and the next leader is asked.
    pub(super) async fn route_roster<T: DeserializeOwned + Send + 'static>(
        &self,
        op: &Op,
        mut make: impl FnMut(Reply<Result<T, Refused>>) -> RosterMsg,
        wire: impl Fn() -> RosterWire,
    ) -> Result<T, Refused> {
        loop {
            let way = || match self.house.directory.roster() {
                Some(at) if at.node == self.house.me.node => Way::Here(self.roster.clone()),
                Some(at) => Way::There(at),
                None => Way::Nowhere,
            };
            let asked = self.route(&roster_key(), op.deadline, way, &mut make, &wire).await.flatten();
            match asked {
                Err(refused) if refused.code == Code::Unavailable && !op.deadline.passed() => {
                    tokio::time::sleep(ROUTE_RETRY).await;
                }
                answered => return answered,
            }
        }
    }
}
