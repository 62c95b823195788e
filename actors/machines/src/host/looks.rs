//! Looks at what is on the hypervisor, and does what follows from that. VMs are told what is news to them, domains that nobody
//! knows are ended, those that another host made and somebody brought here are taken over, and what is used is measured.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering,
    time::Duration,
};

use hiveward_catalogue::host::{fleet::VmEntry, spec::HostUri};
use hiveward_kernel::{entity::Entity, id::VmId};
use hiveward_runtime::{clock::Deadline, fault, supervise::Context};
use tokio::time::Instant;

use super::{
    actor::{Host, Known, LIST_WITHIN, State, deliver},
    driver::{Action, Domain, DriverError, Listing, Off, Run, Usage},
    message::HostMsg,
    message::STEP_WITHIN,
};
use crate::vm::message::VmMsg;

/// Time for the figures of all of a host: of each guest its QEMU is asked, which answers late where guests take all of the
/// processor. States are looked at meanwhile, and steps done.
const FIGURES_WITHIN: Duration = Duration::from_secs(60);
/// Time within which changes are looked at together.
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
        if state.breaker.is_open(Instant::now()) {
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
        ctx.task(async move {
            let result = driver.glance(Deadline::after(LIST_WITHIN)).await;
            let late = fault::point("host.listed", Some(&key)).await;
            let result = late.map_err(|error| DriverError::Failed { message: error.to_string() }).and(result);
            deliver(&me, HostMsg::Listed { begun, result }).await;
        });
    }

    /// Asks what its VMs used, unless that is asked or was asked so recently that it would be a burden.
    pub(super) fn figure(&self, ctx: &Context<HostMsg>, state: &mut State) {
        let Some(driver) = self.reachable(state).filter(|_| state.figures.may_begin(Instant::now())) else { return };
        let me = ctx.addr().clone();
        let begun = state.looks.fetch_add(1, Ordering::AcqRel) + 1;
        let key = self.spec.id.key();
        ctx.task(async move {
            let result = driver.list(Deadline::after(FIGURES_WITHIN)).await;
            let late = fault::point("host.figured", Some(&key)).await;
            let result = late.map_err(|error| DriverError::Failed { message: error.to_string() }).and(result);
            deliver(&me, HostMsg::Figured { begun, result }).await;
        });
    }

    /// Takes in what was measured, and nothing else: of what is there a look after it may have said more. What was not measured
    /// is absent from then on.
    pub(super) fn figured(&self, state: &mut State, begun: u64, result: Result<Listing, DriverError>) {
        state.figures.ended(Instant::now());
        let domains = result.map(|listing| listing.domains).unwrap_or_else(|error| {
            tracing::info!(host = %self.spec.name, %error, "what its VMs use is not known now");
            Vec::new()
        });
        let seen: HashMap<VmId, &Domain> = domains.iter().map(|domain| (domain.vm, domain)).collect();
        for (vm, known) in &mut state.known {
            known.usage = Usage::default();
            if let Some(seen) = seen.get(vm) {
                known.used(begun, seen);
            }
        }
        self.measure(state);
    }

    pub(super) fn listed(&self, ctx: &Context<HostMsg>, state: &mut State, begun: u64, listing: Listing) {
        ctx.set_note("connected");
        state.listed = true;
        state.foreign = listing.foreign;
        let awaited = self.adopt(ctx, state, &listing.others);
        let mut found: HashMap<VmId, Domain> = listing.domains.into_iter().map(|domain| (domain.vm, domain)).collect();
        let stale = self.stale(&found);
        // Not absent either: they are here, and soon its own.
        for vm in state.children.keys().filter(|vm| !stale.contains(vm) && !awaited.contains(vm)) {
            let domain = found.remove(vm);
            let known = state.known.entry(*vm).or_default();
            if known.at > begun {
                continue;
            }
            let as_before = |known: &Domain, now: &Domain| (known.run, known.boots) == (now.run, now.boots);
            let same = match (&known.domain, &domain) {
                (None, None) => true,
                (Some(known), Some(now)) => as_before(known, now),
                _ => false,
            };
            known.told &= same;
            known.see(begun, domain);
            if !known.told
                && let Some(door) = self.services.doors.of_vm_on::<VmMsg>(*vm, self.spec.id)
            {
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
        // What is left is nobody's here, unless it was still here when the look began.
        let left = found.into_iter().filter(|(vm, _)| state.gone.get(vm).is_none_or(|since| *since < begun));
        let left: Vec<(VmId, Run)> = left.map(|(vm, domain)| (vm, domain.run)).collect();
        state.gone.retain(|_, since| *since >= begun);
        self.end_strays(ctx, state, &stale, left.into_iter());
        self.look_at_consoles(ctx, state);
        self.answers(ctx, state);
    }

    /// Takes over what another host made and somebody brought here: it is this host's from the moment that the fleet says so.
    /// Returns those that its driver did not have for its own at this look.
    fn adopt(&self, ctx: &Context<HostMsg>, state: &mut State, others: &[Domain]) -> HashSet<VmId> {
        let host = self.spec.id;
        let (new, wanted): (HashSet<VmId>, HashSet<VmId>) = self.services.directory.read(|known| {
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

    /// Adds up what its VMs used.
    fn measure(&self, state: &State) {
        let host = self.spec.id;
        let on = |known: &Known| known.domain.as_ref().filter(|domain| domain.run.is_on()).map(|_| known.usage);
        let running: Vec<(VmId, Usage)> = state.known.iter().filter_map(|(vm, known)| Some((*vm, on(known)?))).collect();
        let used = self.services.directory.read(|known| known.fleet.hosts.get(&host).map(|entry| entry.used)).unwrap_or_default();
        let reserved = (used.cpu_milli as f32 / 1e3, u64::try_from(used.memory_mib).unwrap_or(0) << 20);
        let now = (self.services.clock.now(), self.services.mono_ms());
        self.services.meters.take(host, now, running.iter().map(|(vm, usage)| (*vm, usage)), reserved);
    }

    /// Removes copies of images that were removed: soon after that, and now and then for what was in use by then.
    pub(super) fn sweep(&self, ctx: &Context<HostMsg>, state: &mut State) {
        if !HostUri::parse(&self.spec.uri).is_ok_and(|uri| uri.has_disks()) {
            return;
        }
        let keep: Vec<String> =
            self.services.directory.read(|known| known.fleet.images.values().map(|entry| entry.spec.hash.clone()).collect());
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

    /// Ends domains with this host's mark that are no VM of it: of a VM that was removed while it could not be reached. The
    /// directory knew of every VM before its domain was made, so what it does not know is gone.
    fn end_strays(
        &self,
        ctx: &Context<HostMsg>,
        state: &mut State,
        stale: &HashSet<VmId>,
        found: impl Iterator<Item = (VmId, Run)>,
    ) {
        let host = self.spec.id;
        let strays: Vec<(VmId, bool)> = self.services.directory.read(|known| {
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

/// When a host's VMs are measured: at most once at a time, and after that not for half as long as it took.
#[derive(Default)]
pub struct Figures {
    /// Time since which a measurement is under way, if one is.
    begun: Option<Instant>,
    not_before: Option<Instant>,
}

impl Figures {
    /// Tells whether a measurement may begin now; if it may, it has begun.
    fn may_begin(&mut self, now: Instant) -> bool {
        let may = self.begun.is_none() && self.not_before.is_none_or(|at| now >= at);
        if may {
            self.begun = Some(now);
        }
        may
    }

    fn ended(&mut self, now: Instant) {
        let took = self.begun.take().map(|begun| now.saturating_duration_since(begun));
        self.not_before = took.map(|took| now + took / 2);
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.begun.is_some()
    }
}

#[cfg(test)]
mod tests {
    use hiveward_kernel::id::HostId;

    use super::*;

    fn domain(run: Run, boots: u64, cpu_time_ns: Option<u64>) -> Domain {
        Domain {
            vm: VmId::from_u128(1),
            owner: HostId::from_u128(1),
            run,
            boots: Some(boots),
            usage: Usage { cpu_time_ns, ..Usage::default() },
            epoch: 0,
            lag: None,
        }
    }

    #[test]
    fn what_was_measured_is_of_the_run_that_it_was_measured_in_and_of_no_other() {
        let off = || domain(Run::Off(Off::Shutdown), 1, None);
        let used = |known: &Known| known.usage.cpu_time_ns;
        let mut known = Known::default();
        known.see(1, Some(domain(Run::Running, 1, Some(3))));
        assert_eq!(used(&known), None, "a look measures nothing");
        known.used(2, &domain(Run::Running, 1, Some(7)));
        known.see(3, Some(domain(Run::Paused, 1, None)));
        assert_eq!(used(&known), Some(7), "looks keep what was measured of the run");
        known.used(4, &domain(Run::Running, 1, Some(9)));
        assert_eq!(used(&known), Some(9));
        known.see(6, Some(domain(Run::Running, 2, None)));
        assert_eq!(used(&known), None, "another run used nothing yet");
        known.used(5, &domain(Run::Running, 2, Some(11)));
        known.used(7, &domain(Run::Running, 1, Some(11)));
        assert_eq!(used(&known), None, "measured before this run began, or of the one before");
        known.used(7, &domain(Run::Running, 2, Some(1)));
        known.see(8, Some(off()));
        known.used(9, &domain(Run::Running, 2, Some(2)));
        assert_eq!(used(&known), None, "what is off uses nothing");
        // Where runs are not counted.
        let uncounted = |run, cpu| Domain { boots: None, ..domain(run, 0, cpu) };
        let mut known = Known::default();
        known.see(1, Some(uncounted(Run::Running, None)));
        known.see(3, Some(uncounted(Run::Off(Off::Shutdown), None)));
        known.see(4, Some(uncounted(Run::Running, None)));
        known.used(2, &uncounted(Run::Running, Some(5)));
        assert_eq!(used(&known), None, "it was stopped and started since");
    }

    #[test]
    fn a_host_is_measured_once_at_a_time_and_rests_for_half_as_long_as_that_took() {
        let (mut figures, now, s) = (Figures::default(), Instant::now(), Duration::from_secs);
        assert!(figures.may_begin(now) && !figures.may_begin(now + s(100)) && figures.is_under_way());
        figures.ended(now + s(100));
        assert!(!figures.is_under_way() && !figures.may_begin(now + s(149)) && figures.may_begin(now + s(150)));
    }
}
