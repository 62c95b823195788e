//! The way from a command to the entity that owns its answer: a door where it lives here, else the router.
//!
//! Local stays local: nothing is encoded. Waits while an entity is between two lives or two places, but never asks twice
//! what may have been heard.

use std::{sync::Arc, time::Duration};

use hiveward_catalogue::{
    directory::{Directory, roster_key},
    roster::message::{RosterMsg, asks},
    swarm::SwarmSpec,
};
use hiveward_kernel::{ask::Ask, commit::Committed, doors::Addressed, entity::Entity, id::AgentId};
use hiveward_runtime::{
    call::{CallError, Door},
    cluster::router::{Location, RouteError, Unreachable},
    error::{Code, Refused},
    id::Key,
    ledger::Cursor,
    op::{Op, Terms},
};

use super::{ControlPlane, SwarmRef};
use crate::house::House;

/// The time between tries while an entity has no door at all, such as while it starts or moves.
const DOOR_RETRY: Duration = Duration::from_millis(2);
/// The time between tries of a distant entity.
const ROUTE_RETRY: Duration = Duration::from_millis(20);
/// How often a door is looked up again though it tells of its next life: another may have taken its place.
const DOOR_LOOKED_UP_EVERY: Duration = Duration::from_millis(50);

/// Tells whether the roster acts on this node.
pub fn leads_here(house: &House) -> bool {
    house.peers.leader().borrow().is_me
}

enum Way<M: Send + 'static> {
    Here(Door<M>),
    There(Location),
    /// It is placed here and not started yet, or placed nowhere, or it is not known where.
    Nowhere,
}

/// Tells whether nothing happened and another try may find it elsewhere.
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
    async fn route<A: Ask>(
        &self,
        key: &Key,
        terms: &Terms,
        way: impl Fn() -> Way<A::Message>,
        ask: &A,
    ) -> Result<A::Answer, Refused> {
        let deadline = terms.deadline;
        loop {
            let (refused, wait) = match way() {
                Way::Here(door) => {
                    let changed = door.changed();
                    match door.ask(terms.clone(), |reply| ask.clone().message(reply)).await {
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
                    match Box::pin(self.house.router.ask(terms.clone(), key, &ask.clone().wire())).await {
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

    /// Asks an entity, wherever it lives. What the answer says is the entity's; a refusal here says whether it was asked.
    pub(super) async fn ask<A: Ask<Message: Addressed>>(
        &self,
        terms: impl Into<Terms>,
        id: <A::Message as Addressed>::Id,
        ask: A,
    ) -> Result<A::Answer, Refused> {
        let entity = A::Message::entity(id);
        let way = || self.way(entity, self.house.doors.of::<A::Message>(id));
        self.route(&entity.key(), &terms.into(), way, &ask).await
    }

    /// Asks an entity to change something, unless this node cannot write now.
    pub(super) async fn change<T, A: Ask<Message: Addressed, Answer = Result<T, Refused>>>(
        &self,
        op: &Op,
        id: <A::Message as Addressed>::Id,
        ask: A,
    ) -> Result<T, Refused> {
        self.admitted(op)?;
        self.takes_writes()?;
        self.ask(op, id, ask).await?
    }

    /// Refuses to change anything about which no policy was asked: a defect of this program, which changes nothing.
    pub(super) fn admitted(&self, op: &Op) -> Result<(), Refused> {
        if op.admitted || self.is_node() {
            return Ok(());
        }
        Err(Refused::new(Code::Internal, "no policy was asked about this; nothing was done"))
    }

    /// Asks the roster. Where it does not act (any more) it says that nothing happened, and the next leader is asked.
    pub(super) async fn ask_roster<T, A: Ask<Message = RosterMsg, Answer = Result<T, Refused>>>(
        &self,
        op: &Op,
        ask: A,
    ) -> Result<T, Refused> {
        let terms = Terms::from(op);
        loop {
            let way = || match self.house.directory.roster() {
                Some(at) if at.node == self.house.me.node => Way::Here(self.roster.clone()),
                Some(at) => Way::There(at),
                None => Way::Nowhere,
            };
            let asked = self.route(&roster_key(), &terms, way, &ask).await.flatten();
            match asked {
                Err(refused) if refused.code == Code::Unavailable && !op.deadline.passed() => {
                    tokio::time::sleep(ROUTE_RETRY).await;
                }
                answered => return answered,
            }
        }
    }

    /// Asks the roster to change what is declared, unless this node cannot write now.
    pub(super) async fn declare<A: Ask<Message = RosterMsg, Answer = Result<Committed<Key>, Refused>>>(
        &self,
        op: &Op,
        ask: A,
    ) -> Result<Committed<Key>, Refused> {
        self.admitted(op)?;
        self.takes_writes()?;
        self.ask_roster(op, ask).await
    }

    /// Waits until this node's directory knows what was committed at `cursor`.
    pub(super) async fn known_at(&self, op: &Op, cursor: Cursor) -> Result<(), Refused> {
        if self.house.directory.at_least(cursor, op.deadline).await {
            return Ok(());
        }
        // It is done; only the answer could not be made.
        Err(Refused::new(Code::UnknownOutcome, format!("it is done, at cursor {cursor}; this node has not come so far yet")))
    }

    /// Looks in this node's directory, and if it is not there again when that knows all that was answered before anywhere.
    pub(super) async fn surely<T>(&self, op: &Op, look: impl Fn(&Directory) -> Option<T>) -> Result<Option<T>, Refused> {
        if let Some(found) = look(&self.house.directory) {
            return Ok(Some(found));
        }
        let head = self.ask_roster(op, asks::Head {}).await?;
        if !self.house.directory.at_least(head, op.deadline).await {
            return Err(Refused::new(Code::Unavailable, format!("this node is behind cursor {head}; nothing happened")));
        }
        Ok(look(&self.house.directory))
    }

    pub(super) async fn has_agent(&self, op: &Op, agent: AgentId) -> Result<bool, Refused> {
        Ok(self.surely(op, |directory| directory.agent(agent)).await?.is_some() && self.sees(agent))
    }

    pub(super) async fn resolve_swarm(&self, op: &Op, swarm: Option<&SwarmRef>) -> Result<Arc<SwarmSpec>, Refused> {
        let project = self.project();
        let find = |directory: &Directory| match swarm {
            None => directory.swarm_named(project, "default"),
            Some(SwarmRef::Name(name)) => directory.swarm_named(project, name),
            Some(SwarmRef::Id(id)) => directory.swarm(*id),
        };
        let seen = |found: Arc<SwarmSpec>| Some(found).filter(|spec| self.sees(spec.id));
        self.surely(op, find).await?.and_then(seen).ok_or_else(|| {
            let shown = match swarm {
                None => format!("{:?}", "default"),
                Some(SwarmRef::Name(name)) => format!("{name:?}"),
                Some(SwarmRef::Id(id)) => id.to_string(),
            };
            Refused { code: Code::NotFound, message: format!("there is no swarm {shown}"), field: Some("swarm".into()) }
        })
    }
}
