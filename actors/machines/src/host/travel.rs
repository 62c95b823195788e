//! A host's part in migrations, of VMs that leave and of VMs that come.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hiveward_catalogue::host::protocol::Progress;
use hiveward_kernel::id::VmId;
use hiveward_runtime::{call::Reply, clock::Deadline, supervise::Context};

use super::{
    actor::{Host, State, deliver},
    driver::{Action, Domain, Driver, DriverError, Listing, Migration, Run},
    ha,
    message::{HostMsg, Peeked},
    network::tending::make_ready,
};
use crate::vm::ask::definition;

/// Number of migrations away from a host at the same time: they share its network, and each holds one of its driver's threads.
pub(super) const TRIPS_AT_ONCE: usize = 4;
/// Time beyond twice a migration's limit, by when its driver has ended it.
const MARGIN: Duration = Duration::from_secs(30);

fn unreachable<T>() -> Result<T, DriverError> {
    Err(DriverError::Unreachable { message: "there is no connection to it now".into() })
}

fn not_now<T>(why: &str) -> Result<T, DriverError> {
    Err(DriverError::Failed { message: why.into() })
}

async fn look(driver: &dyn Driver, vm: VmId, deadline: Deadline) -> Result<Option<Domain>, DriverError> {
    Ok(driver.glance(deadline).await?.domains.into_iter().find(|domain| domain.vm == vm))
}

impl Host {
    pub(super) fn peek(&self, ctx: &Context<HostMsg>, state: &State, vm: VmId, reply: Reply<Result<Peeked, DriverError>>) {
        let Some(driver) = self.reachable(state) else { return reply.answer(unreachable()) };
        let (looks, leaving, deadline) = (state.looks.clone(), state.migrating.contains(&vm), reply.deadline());
        ctx.task(async move {
            let peeked = async {
                // First whether it may still change, then what it is.
                let under_way = leaving || driver.job(vm, deadline).await?.is_some();
                let at = looks.fetch_add(1, Ordering::AcqRel) + 1;
                let Listing { domains, others, .. } = driver.glance(deadline).await?;
                let of_it = |all: Vec<Domain>| all.into_iter().find(|domain| domain.vm == vm);
                Ok(Peeked { domain: of_it(domains), under_way, at, other: of_it(others) })
            };
            let peeked = peeked.await;
            reply.answer(peeked);
        });
    }

    /// Tells whether the fleet, as it is known here, says that this VM is on its way here.
    fn expects(&self, vm: VmId) -> bool {
        let me = self.spec.id;
        self.services.directory.read(|known| known.fleet.vms.get(&vm).is_some_and(|entry| entry.moving == Some(me)))
    }

    /// Tells whether its disks are copied from the host that it belongs to, because that has other ones.
    fn copies(&self, vm: VmId) -> bool {
        let shares = self.services.directory.read(|known| {
            let from = known.fleet.vms.get(&vm).and_then(|entry| known.fleet.hosts.get(&entry.host));
            from.is_none_or(|from| from.spec.shares_with(&self.spec))
        });
        !shares
    }

    pub(super) fn prepare(&self, ctx: &Context<HostMsg>, state: &State, vm: VmId, reply: Reply<Result<(), DriverError>>) {
        let Some(driver) = self.reachable(state) else { return reply.answer(unreachable()) };
        let spec = self.services.directory.read(|known| known.fleet.vms.get(&vm).map(|entry| entry.spec.clone()));
        let Some(spec) = spec.filter(|_| self.expects(vm)) else {
            // What nobody expects would be taken for a stray and ended.
            return reply.answer(not_now("the other host does not know yet that it is to come"));
        };
        let copies = self.copies(vm);
        let (services, host, me, deadline) = (self.services.clone(), self.spec.clone(), self.spec.id, reply.deadline());
        let turn = state.tended.turn();
        ctx.task(async move {
            let prepared = async {
                ha::may_run(&services, &host, vm).await.map_err(|message| DriverError::Failed { message })?;
                // From here on the fleet has it as one that is coming, and its networks stay.
                make_ready(&services, me, &*driver, turn, vm, deadline).await?;
                if !copies {
                    return Ok(());
                }
                let definition = definition(&services, &spec, me).await;
                let definition = definition.map_err(|refused| DriverError::Failed { message: refused.message })?;
                driver.act(vm, Action::Prepare(Box::new(definition)), deadline).await.map(drop)
            };
            let prepared = prepared.await;
            reply.answer(prepared);
        });
    }

    pub(super) fn clear(&self, ctx: &Context<HostMsg>, state: &State, vm: VmId, reply: Reply<Result<(), DriverError>>) {
        let Some(driver) = self.reachable(state) else { return reply.answer(unreachable()) };
        if !self.expects(vm) {
            return reply.answer(not_now("the other host does not know it as one that is to come"));
        }
        let (copies, deadline) = (self.copies(vm), reply.deadline());
        ctx.task(async move {
            let cleared = async {
                match look(&*driver, vm, deadline).await?.map(|domain| domain.run) {
                    Some(Run::Running | Run::Paused) => return not_now("it runs on the other host"),
                    Some(_) => {
                        driver.act(vm, Action::Destroy, deadline).await?;
                        driver.act(vm, Action::Dismiss, deadline).await?;
                    }
                    None => {}
                }
                if copies {
                    driver.act(vm, Action::Discard, deadline).await?;
                }
                Ok(())
            };
            let cleared = cleared.await;
            reply.answer(cleared);
        });
    }

    pub(super) fn migrate(
        &self,
        ctx: &Context<HostMsg>,
        state: &mut State,
        vm: VmId,
        migration: Migration,
        reply: Reply<Result<Progress, DriverError>>,
    ) {
        let Some(driver) = self.reachable(state) else { return reply.answer(unreachable()) };
        if !state.migrating.insert(vm) {
            return reply.answer(not_now("a migration of it is under way already"));
        }
        let (me, turns) = (ctx.addr().clone(), state.trips.clone());
        ctx.task(async move {
            let ended = match turns.acquire().await {
                Ok(_turn) if !reply.is_abandoned() => {
                    let within = Duration::from_millis(migration.limit_ms.saturating_mul(2)) + MARGIN;
                    driver.migrate(vm, migration, Deadline::after(within)).await
                }
                _ => not_now("nobody waits for it any more, and it was not begun"),
            };
            deliver(&me, HostMsg::MigrationEnded { vm }).await;
            reply.answer(ended);
        });
    }

    pub(super) fn abort(&self, ctx: &Context<HostMsg>, state: &State, vm: VmId, reply: Reply<Result<(), DriverError>>) {
        let Some(driver) = self.reachable(state) else { return reply.answer(unreachable()) };
        let deadline = reply.deadline();
        ctx.task(async move {
            let aborted = driver.abort(vm, deadline).await;
            reply.answer(aborted);
        });
    }

    pub(super) fn job(&self, ctx: &Context<HostMsg>, state: &State, vm: VmId, reply: Reply<Option<Progress>>) {
        let driver: Option<Arc<dyn Driver>> = self.reachable(state);
        let Some(driver) = driver else { return reply.answer(None) };
        let deadline = reply.deadline();
        ctx.task(async move {
            let job = driver.job(vm, deadline).await;
            reply.answer(job.unwrap_or_default());
        });
    }
}
