//! Coordinators here that do not do what they are there for. Those that hang are ended and started again; those that were given
//! up are told to the roster, which may try another node.
//!
//! A part of the residents' actor.

use hiveward_catalogue::roster::message::RosterWire;
use hiveward_kernel::entity::Entity;
use hiveward_runtime::{
    clock::Deadline,
    supervise::{ActorStatus, Context},
};

use super::actor::{ENSURE_EVERY, Residents, ResidentsMsg, STOP_WITHIN, State};
use crate::roster::RosterMsg;

/// The number of looks after which a coordinator that has begun no message though some wait hangs: it is ended and started again.
/// Its sweeps come each second.
const HUNG_LOOKS: u32 = 3;
/// The number of looks in a row after which one that is found given up has been tried again here, in vain.
const GIVEN_UP_LOOKS: u32 = 4;
/// The most characters of a failure that the roster is told, which keeps it with the placement.
const WHY_CHARS_MAX: usize = 300;

impl Residents {
    /// Ends coordinators that hang, so that they are started again. Those that wait for the disk or for a quorum do not.
    pub(super) fn end_hung(&self, ctx: &Context<ResidentsMsg>, state: &mut State) {
        let before = std::mem::take(&mut state.waiting);
        if self.house.ledger.takes_writes().is_err() {
            return;
        }
        for (entity, life) in &state.lives {
            let Entity::Swarm(id) = *entity else { continue };
            let key = id.key();
            let Some((begun, waiting)) = ctx.tree().progress(&key).filter(|(_, waiting)| *waiting > 0 && !life.stopping) else {
                continue;
            };
            let looks = before.get(&id).filter(|(then, _)| *then == begun).map_or(0, |(_, looks)| looks + 1);
            state.waiting.insert(id, (begun, looks));
            if looks == 0 || self.house.doors.is_living(*entity) != Some(true) {
                continue;
            }
            let secs = u64::from(looks) * ENSURE_EVERY.as_secs();
            let said =
                format!("it has taken none of {waiting} messages for {secs} s; it is ended and started again if it goes on");
            ctx.tree().set_trouble(&key, Some(&said));
            if looks >= HUNG_LOOKS {
                tracing::error!(%key, waiting, "a coordinator hangs; it is ended and started again");
                state.waiting.remove(&id);
                let swarms = self.swarms.clone();
                ctx.task(async move {
                    // If something is wrong with its next life, that is seen then.
                    let _ = swarms.restart_child(&id.to_string(), Deadline::after(STOP_WITHIN)).await;
                });
            }
        }
        for id in before.keys().filter(|id| !state.waiting.contains_key(id)) {
            ctx.tree().set_trouble(&id.key(), None);
        }
    }

    /// Tells the roster at each look which coordinators were given up; it decides when another node is tried.
    pub(super) fn report_given_up(&self, ctx: &Context<ResidentsMsg>, state: &mut State) {
        let before = std::mem::take(&mut state.given_up);
        // What fails because nothing can be written fails on any node.
        if self.house.ledger.takes_writes().is_err() {
            return;
        }
        for (entity, life) in state.lives.iter().filter(|(_, life)| !life.stopping) {
            let Entity::Swarm(swarm) = *entity else { continue };
            let key = swarm.key();
            let Some(seen) = ctx.tree().snapshot(Some(key.as_str()), 0).filter(|seen| seen.status == ActorStatus::Failed) else {
                continue;
            };
            let looks = before.get(&swarm).map_or(1, |looks| looks + 1);
            state.given_up.insert(swarm, looks);
            if looks >= GIVEN_UP_LOOKS {
                let why = seen.last_failure.map_or_else(String::new, |failure| failure.message);
                let why: String = why.chars().take(WHY_CHARS_MAX).collect();
                let (node, placement) = (self.me(), life.placement);
                let there = RosterWire::GivenUp { swarm, node, placement, why: why.clone() };
                self.tell_roster(RosterMsg::GivenUp { swarm, node, placement, why }, &there);
            }
        }
    }
}
