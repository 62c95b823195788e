//! A host's part in networks: makes what its VMs are about to use, follows who else carries an overlay, and removes what
//! nothing here uses any more.
//!
//! What is about to be used is never swept: a sweep waits for the steps that made a network ready and have not ended, and
//! begins with what the fleet says then. After a restart everything is made and swept anew.

use std::{sync::Arc, time::Duration};

use hiveward_catalogue::host::{protocol::Network, spec::HostUri};
use hiveward_kernel::{
    entity::Entity,
    id::{HostId, VmId},
};
use hiveward_runtime::{call::Reply, clock::Deadline, ledger::Cursor, supervise::Context};
use tokio::{
    sync::{OwnedRwLockReadGuard, RwLock},
    time::Instant,
};

use super::making;
use crate::host::{
    actor::{Host, State, deliver},
    driver::{Action, Driver, DriverError},
    message::HostMsg,
    message::STEP_WITHIN,
    services::MachineServices,
};

/// Interval at which what others have changed on the host is made good again.
const TEND_EVERY: Duration = Duration::from_secs(60);

/// What a host's actor knows of its networks.
#[derive(Default)]
pub struct Tended {
    busy: bool,
    /// Networks as they were made last, and when.
    made: Option<(Instant, Vec<Network>)>,
    /// Reason why they are not all as they are to be, if they are not.
    why: Option<String>,
    /// Lock that steps read and sweeps write.
    turn: Arc<RwLock<()>>,
}

impl Tended {
    /// Tells how many there are, and what is wrong with them: for the living tree.
    pub fn observe(&self) -> serde_json::Value {
        serde_json::json!({ "made": self.made.as_ref().map(|(_, made)| made.len()), "why": self.why })
    }

    /// Has what was made last looked at again, soon.
    pub fn anew(&mut self) {
        self.made = None;
    }

    /// Returns the lock that steps read and sweeps write.
    pub fn turn(&self) -> Arc<RwLock<()>> {
        self.turn.clone()
    }
}

/// Tells whether a step needs the networks of its VM.
pub fn needs_networks(action: &Action) -> bool {
    matches!(action, Action::Define(_) | Action::Start | Action::Resume | Action::Revert { .. } | Action::Reshape { .. })
}

/// Makes the networks that a VM needs on its host. Nothing is swept while the answer is held; `None` if the VM needs none.
/// Errors: a sweep took until `deadline`, or a network cannot be there.
pub async fn make_ready(
    services: &MachineServices,
    host: HostId,
    driver: &dyn Driver,
    turn: Arc<RwLock<()>>,
    vm: VmId,
    deadline: Deadline,
) -> Result<Option<OwnedRwLockReadGuard<()>>, DriverError> {
    let needed =
        || services.directory.read(|known| known.fleet.vms.get(&vm).map(|entry| making::needed(&known.fleet, host, entry)));
    // Most VMs are on none of the cluster's networks.
    if needed().is_none_or(|networks| networks.is_ok_and(|networks| networks.is_empty())) {
        return Ok(None);
    }
    let waited_ms = u64::try_from(deadline.remaining().as_millis()).unwrap_or(u64::MAX);
    let held = tokio::time::timeout_at(deadline.instant(), turn.read_owned()).await;
    // This says only that it was not this step's turn: nothing was asked of the hypervisor.
    let late = |_| DriverError::Failed { message: format!("the host's networks were being swept for {waited_ms} ms") };
    let held = held.map_err(late)?;
    if let Some(networks) = needed() {
        driver.ensure_networks(networks.map_err(|message| DriverError::Refused { message })?, deadline).await?;
    }
    Ok(Some(held))
}

impl Host {
    /// Makes its networks what they are to be, if that has changed or was long ago.
    pub(in crate::host) fn tend(&self, ctx: &Context<HostMsg>, state: &mut State) {
        let (services, host, placement) = (self.services.clone(), self.spec.id, self.placement);
        let wanted = move || {
            services.directory.read(|known| {
                // An actor that is not placed here does not know what the host needs.
                let here = known.place(Entity::Host(host)).is_some_and(|place| place.placement == placement);
                here.then(|| (making::wanted(&known.fleet, host), making::numbers(&known.fleet, host)))
            })
        };
        let Some((now, _)) = wanted() else { return };
        let due = state.tended.made.as_ref().is_none_or(|(at, made)| *made != now || at.elapsed() >= TEND_EVERY);
        if state.tended.busy || !due {
            return;
        }
        let Some(driver) = self.reachable(state) else { return };
        state.tended.busy = true;
        let (turn, me) = (state.tended.turn(), ctx.addr().clone());
        ctx.task(async move {
            let deadline = Deadline::after(STEP_WITHIN);
            let tended = async {
                let mut all = Ok(());
                for network in now.clone() {
                    // Not while all is swept, and not what is not wanted any more after that.
                    let _making = turn.read().await;
                    if !wanted().is_some_and(|(now, _)| now.contains(&network)) {
                        continue;
                    }
                    // A network that cannot be made does not keep the others from being made.
                    all = all.and(driver.ensure_networks(vec![network], deadline).await);
                }
                let _alone = turn.write().await;
                match wanted() {
                    Some((_, keep)) => all.and(driver.sweep_networks(keep, deadline).await),
                    None => all,
                }
            };
            let tended = tokio::time::timeout_at(deadline.instant(), tended).await;
            let expired = || DriverError::Expired { waited_ms: u64::try_from(STEP_WITHIN.as_millis()).unwrap_or(u64::MAX) };
            let tended = tended.unwrap_or_else(|_| Err(expired()));
            deliver(&me, HostMsg::Tended(tended.map(|()| now))).await;
        });
    }

    /// Removes the networks that no VM here is on, as the fleet is at `seen`, and copies of images that nothing is made of.
    pub(in crate::host) fn leave(
        &self,
        ctx: &Context<HostMsg>,
        state: &State,
        seen: Cursor,
        reply: Reply<Result<(), DriverError>>,
    ) {
        let Some(driver) = self.reachable(state) else {
            return reply.answer(Err(DriverError::Unreachable { message: "there is no connection to it now".into() }));
        };
        let (services, host, turn, deadline) = (self.services.clone(), self.spec.id, state.tended.turn(), reply.deadline());
        let has_disks = HostUri::parse(&self.spec.uri).is_ok_and(|uri| uri.has_disks());
        ctx.task(async move {
            let left = async {
                if !services.directory.at_least(seen, deadline).await {
                    return Err(DriverError::Failed { message: "its node does not know yet which VMs it has".into() });
                }
                let _alone = turn.write().await;
                let keep = services.directory.read(|known| making::numbers(&known.fleet, host));
                driver.sweep_networks(keep, deadline).await?;
                if has_disks { driver.sweep(Vec::new(), deadline).await } else { Ok(()) }
            };
            let left = tokio::time::timeout_at(deadline.instant(), left).await;
            let expired = || DriverError::Failed { message: "what it is about to use was not made or swept in time".into() };
            reply.answer(left.unwrap_or_else(|_| Err(expired())));
        });
    }

    /// Takes in what came of that. What was not done is done at the next look.
    pub(in crate::host) fn tended(&self, ctx: &Context<HostMsg>, state: &mut State, tended: Result<Vec<Network>, DriverError>) {
        state.tended.busy = false;
        match tended {
            Ok(made) => {
                (state.tended.made, state.tended.why) = (Some((Instant::now(), made)), None);
                // It may have changed meanwhile.
                self.tend(ctx, state);
            }
            Err(error) => {
                let news = state.tended.why.replace(error.to_string()) != Some(error.to_string());
                state.tended.made = None;
                if !news {
                    return;
                }
                tracing::warn!(host = %self.spec.name, %error, "its networks are not all as they are to be");
            }
        }
    }
}
