//! What is there: looks at the hypervisor, and what follows from what was seen. Its VMs are told what is news to them, what
//! nobody knows is ended, what another host made and somebody brought here is taken over, and what is used is measured.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering,
    time::Duration,
};

use hiveward_runtime::{clock::Deadline, fault, supervise::Context};
use tokio::time::Instant;

use super::{
    actor::{Host, Known, LIST_WITHIN, STEP_WITHIN, State, deliver},
    driver::{Action, Domain, DriverError, Listing, Off, Run, Usage},
    fleet::VmEntry,
    message::HostMsg,
    spec::HostUri,
};
use crate::{directory::Entity, id::VmId, vm::message::VmMsg};

/// What is measured is asked for as often as that, and not after every change: it costs a question to each guest's QEMU. A
/// little shorter, so that no refresh is without.
const FIGURES_EVERY: Duration = Duration::from_millis(4_500);
/// Changes that come together are looked at together.
pub(super) const LIST_AFTER: Duration = Duration::from_millis(20);
const SWEEP_EVERY: Duration = Duration::from_secs(300);

impl Host {
    pub(super) fn list_soon(&self, ctx: &Context<HostMsg>, state: &mut State) {
        if state.listing {
            state.list_again = true;
        } else if state.list_soon.is_none() {
            state.list_soon = Some(ctx.after(LIST_AFTER, HostMsg::List));
        }
    }

    pub(super) fn list(&self, ctx: &Context<HostMsg>, state: &mut State) {
        if !state.breaker.allows(Instant::now()) {
            return;
        }
        let Some(link) = &state.link else { return self.connect(ctx, state) };
        if std::mem::replace(&mut state.listing, true) {
            state.list_again = true;
            return;
        }
        let (driver, me) = (link.driver.clone(), ctx.addr().clone());
        let begun = state.looks.fetch_add(1, Ordering::AcqRel) + 1;
        let key = self.spec.id.key();
        let figures = state.figured.is_none_or(|at| at.elapsed() >= FIGURES_EVERY);
        if figures {
            state.figured = Some(Instant::now());
        }
        ctx.task(async move {
            let deadline = Deadline::after(LIST_WITHIN);
            let result = if figures { driver.list(deadline).await } else { driver.glance(deadline).await };
            let late = fault::point("host.listed", Some(&key)).await;
            let result = late.map_err(|error| DriverError::Failed { message: error.to_string() }).and(result);
            deliver(&me, HostMsg::Listed { begun, figures, result }).await;
        });
    }

    pub(super) fn listed(&self, ctx: &Context<HostMsg>, state: &mut State, begun: u64, figures: bool, listing: Listing) {
        ctx.set_note("connected");
        state.listed = true;
        state.foreign = listing.foreign;
        let awaited = self.adopt(ctx, state, &listing.others);
        let mut found: HashMap<VmId, Domain> = listing.domains.into_iter().map(|domain| (domain.vm, domain)).collect();
        let stale = self.stale(&found);
        // Not absent either: they are here, and soon its own.
        for vm in state.children.keys().filter(|vm| !stale.contains(vm) && !awaited.contains(vm)) {
            let domain = found.remove(vm);
            let known = state.known.entry(*vm).or_insert(Known { at: 0, domain: None, told: false });
            if known.at > begun {
                continue;
            }
            let as_before = |known: &Domain, now: &Domain| (known.run, known.boots) == (now.run, now.boots);
            let same = match (&known.domain, &domain) {
                (None, None) => true,
                (Some(known), Some(now)) => as_before(known, now),
                _ => false,
            };
            let told = known.told && same;
            let domain = domain.map(|now| if figures { now } else { measured_before(known.domain.as_ref(), now) });
            *known = Known { at: begun, domain, told };
            if !told && let Some(door) = self.house.doors.vm_on(*vm, self.spec.id) {
                // Not heard: said again after the next look.
                known.told = door.tell(VmMsg::Observed { domain: known.domain.clone(), at: begun }).is_ok();
            }
        }
        let on: HashSet<VmId> = state
            .known
            .iter()
            .filter(|(_, known)| known.domain.as_ref().is_some_and(|domain| domain.run.is_on()))
            .map(|(vm, _)| *vm)
            .chain(found.keys().copied())
            .collect();
        self.let_go(&on);
        if figures {
            self.measure(state);
        }
        // What is left is nobody's here, unless it was still here when the look began.
        let left = found.into_iter().filter(|(vm, _)| state.gone.get(vm).is_none_or(|since| *since < begun));
        let left: Vec<(VmId, Run)> = left.map(|(vm, domain)| (vm, domain.run)).collect();
        state.gone.retain(|_, since| *since >= begun);
        self.end_strays(ctx, state, &stale, left.into_iter());
        self.look_at_consoles(ctx, state);
        self.answers(ctx, state);
    }

    /// What another host made and somebody brought here is this host's from the moment that the fleet says so. Answers with
    /// those that its driver did not have for its own at this look.
    fn adopt(&self, ctx: &Context<HostMsg>, state: &mut State, others: &[Domain]) -> HashSet<VmId> {
        let host = self.spec.id;
        let (new, wanted): (HashSet<VmId>, HashSet<VmId>) = self.house.directory.read(|known| {
            let belongs = |vm: &VmId| known.fleet.vms.get(vm).filter(|entry| entry.host == host).map(|entry| entry.epoch);
            let new = others.iter().filter(|domain| belongs(&domain.vm) == Some(domain.epoch)).map(|domain| domain.vm);
            let new: HashSet<VmId> = new.collect();
            let kept = state.adopted.iter().copied().filter(|vm| belongs(vm).is_some());
            let wanted = new.iter().copied().chain(kept).collect();
            (new, wanted)
        });
        let Some(link) = state.link.as_ref().filter(|_| wanted != state.adopted) else { return new };
        state.adopted = wanted.clone();
        let (driver, me) = (link.driver.clone(), ctx.addr().clone());
        ctx.task(async move {
            let done = driver.adopt(wanted.into_iter().collect(), Deadline::after(STEP_WITHIN)).await;
            deliver(&me, HostMsg::Adopted(done)).await;
        });
        new
    }

    /// What its VMs used up to this look.
    fn measure(&self, state: &State) {
        let host = self.spec.id;
        let on = |known: &Known| known.domain.as_ref().filter(|domain| domain.run.is_on()).map(|domain| domain.usage);
        let running: Vec<(VmId, Usage)> = state.known.iter().filter_map(|(vm, known)| Some((*vm, on(known)?))).collect();
        let used = self.house.directory.read(|known| known.fleet.hosts.get(&host).map(|entry| entry.used)).unwrap_or_default();
        let reserved = (used.cpu_milli as f32 / 1e3, u64::try_from(used.memory_mib).unwrap_or(0) << 20);
        let now = (self.house.clock.now(), self.house.mono_ms());
        self.house.meters.take(host, now, running.iter().map(|(vm, usage)| (*vm, usage)), reserved);
    }

    /// Away with copies of images that were removed: soon after that, and now and then for what was in use by then.
    pub(super) fn sweep(&self, ctx: &Context<HostMsg>, state: &mut State) {
        if !HostUri::parse(&self.spec.uri).is_ok_and(|uri| uri.has_disks()) {
            return;
        }
        let keep: Vec<String> =
            self.house.directory.read(|known| known.fleet.images.values().map(|entry| entry.spec.hash.clone()).collect());
        let due = state.swept.as_ref().is_none_or(|(at, kept)| *kept != keep || at.elapsed() >= SWEEP_EVERY);
        if !due {
            return;
        }
        let Some(driver) = self.reachable(state) else { return };
        state.swept = Some((Instant::now(), keep.clone()));
        let host = self.spec.name.clone();
        ctx.task(async move {
            if let Err(error) = driver.sweep(keep, Deadline::after(STEP_WITHIN)).await {
                tracing::info!(%host, %error, "images that are not needed stay until the next look");
            }
        });
    }

    /// Domains with this host's mark that are no VM of it: of a VM that was removed while it could not be reached. The
    /// directory knew of every VM before its domain was made, so what it does not know is gone.
    fn end_strays(
        &self,
        ctx: &Context<HostMsg>,
        state: &mut State,
        stale: &HashSet<VmId>,
        found: impl Iterator<Item = (VmId, Run)>,
    ) {
        let host = self.spec.id;
        let strays: Vec<(VmId, bool)> = self.house.directory.read(|known| {
            if known.place(Entity::Host(host)).is_none_or(|place| place.placement != self.placement) {
                return Vec::new();
            }
            // One that is on its way here belongs to the other host still, and is left alone. So is one that is on: it may be
            // what there is of its VM, which somebody brought here and the other host looks for.
            let others = |entry: &VmEntry, run: Run| entry.host != host && entry.moving != Some(host) && !run.is_on();
            let stray =
                |vm: &VmId, run: Run| stale.contains(vm) || known.fleet.vms.get(vm).is_none_or(|entry| others(entry, run));
            // The disks of one that is on another host may be that one's, too.
            let elsewhere = |vm: &VmId| {
                let other = known.fleet.vms.get(vm).and_then(|entry| known.fleet.hosts.get(&entry.host));
                other.is_some_and(|other| other.spec.shares_with(&self.spec))
            };
            // What was handed over was copied by who did that, or is the same disk.
            let handed_over = |run: Run| run == Run::Off(Off::Moved);
            found.filter(|(vm, run)| stray(vm, *run)).map(|(vm, run)| (vm, handed_over(run) || elsewhere(&vm))).collect()
        });
        let Some(link) = &state.link else { return };
        for (vm, shared) in strays {
            if !state.strays.insert(vm) {
                continue;
            }
            tracing::warn!(%vm, host = %self.spec.name, "removes a domain of a VM that is not here any more");
            let (driver, me) = (link.driver.clone(), ctx.addr().clone());
            ctx.task(async move {
                for action in [Action::Destroy, if shared { Action::Dismiss } else { Action::Undefine }] {
                    if let Err(error) = driver.act(vm, action, Deadline::after(STEP_WITHIN)).await {
                        tracing::warn!(%vm, %error, "it stays until the next look");
                        break;
                    }
                }
                deliver(&me, HostMsg::StrayGone { vm }).await;
            });
        }
    }
}

/// A domain that was looked at without figures has those of the look before, while it is the same run.
pub(super) fn measured_before(before: Option<&Domain>, now: Domain) -> Domain {
    let same = before.filter(|before| before.boots == now.boots && before.run.is_on() && now.run.is_on());
    match same {
        Some(before) if now.usage == Usage::default() => Domain { usage: before.usage, ..now },
        _ => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::HostId;

    #[test]
    fn what_was_measured_is_kept_by_looks_without_figures_while_the_run_is_the_same() {
        let usage = Usage { cpu_time_ns: Some(7), ..Usage::default() };
        let domain = |run, boots, usage| Domain {
            vm: VmId::from_u128(1),
            owner: HostId::from_u128(1),
            run,
            boots: Some(boots),
            usage,
            epoch: 0,
            lag: None,
        };
        let before = domain(Run::Running, 1, usage);
        let kept = |now: Domain| measured_before(Some(&before), now).usage;
        assert_eq!(kept(domain(Run::Running, 1, Usage::default())), usage);
        assert_eq!(kept(domain(Run::Paused, 1, Usage::default())), usage);
        let newer = Usage { cpu_time_ns: Some(9), ..Usage::default() };
        assert_eq!(kept(domain(Run::Running, 1, newer)), newer);
        assert_eq!(kept(domain(Run::Running, 2, Usage::default())), Usage::default(), "another run used nothing yet");
        assert_eq!(kept(domain(Run::Off(Off::Shutdown), 1, Usage::default())), Usage::default(), "what is off uses nothing");
    }
}
