//! The acts of nodes, keepers and hypervisors of a history, by what they know.

use hiveward_catalogue::directory::Known;
use hiveward_kernel::{
    entity::Entity,
    id::{HostId, VmId},
};
use hiveward_runtime::cluster::lease::Phase;

use super::{Domain, Flaw, KILL_STEPS_MAX, NODES, Node, STORAGE_STEPS, World, host_id, node_id, terms};

impl World {
    fn is_over(&self, machine: usize) -> bool {
        self.machines[machine].page.is_some_and(|until| self.now(machine) >= until)
    }

    pub(super) fn holds_nothing(&self, node: usize) -> bool {
        let machine = &self.machines[node];
        !self.is_over(node) || !machine.list.iter().any(|vm| machine.domains.contains_key(vm))
    }

    /// Does what each node's own thread and its keeper do.
    pub(super) fn fence(&mut self) {
        for n in 0..NODES {
            if !self.machines[n].lives(self.step) {
                continue;
            }
            let (now, runs) = (self.now(n), self.nodes[n].runs(self.step));
            if runs {
                let holder = &self.nodes[n].holder;
                if holder.holds() {
                    let left = holder.left(now).saturating_sub(terms().stop_within);
                    self.machines[n].page = Some(now.plus(left));
                }
                self.machines[n].keeper = true;
            }
            let watched = runs || (self.machines[n].keeper && self.flaw != Some(Flaw::NoKeeper));
            if !watched || self.flaw == Some(Flaw::NoFence) {
                continue;
            }
            if !self.is_over(n) {
                self.machines[n].kill_at = None;
                continue;
            }
            let some = self.machines[n].list.iter().any(|vm| self.machines[n].domains.contains_key(vm));
            let (step, takes) = (self.step, self.dice.u32(0..KILL_STEPS_MAX));
            let machine = &mut self.machines[n];
            if some && *machine.kill_at.get_or_insert(step + takes) <= step {
                let list = machine.list.clone();
                machine.domains.retain(|vm, _| !list.contains(vm));
                machine.kill_at = None;
            }
        }
    }

    /// Does what a node does by what it knows.
    pub(super) fn act(&mut self, n: usize) {
        if !self.machines[n].lives(self.step) || !self.nodes[n].runs(self.step) {
            return;
        }
        if self.is_there(n) && self.nodes[n].behind_until <= self.step && self.is_there(self.leader.on) {
            self.catch_up(n);
        }
        let held = self.nodes[n].holder.phase(self.now(n)) == Phase::Held;
        if !held {
            self.nodes[n].actors.clear();
            return;
        }
        // They end with their host's actor.
        let Node { view, actors, .. } = &mut self.nodes[n];
        actors.retain(|_, (host, _)| view.place(Entity::Host(*host)).is_some_and(|place| place.node == Some(node_id(n))));
        for h in 0..=NODES {
            let at = if h == NODES { NODES } else { n };
            let reached = self.machines[at].lives(self.step) && (h < NODES || self.remote_cut_until <= self.step);
            let host = host_id(h);
            let here = |view: &Known| view.place(Entity::Host(host)).is_some_and(|place| place.node == Some(node_id(n)));
            if !reached || (h < NODES && h != n) || !here(&self.nodes[n].view) {
                continue;
            }
            // Actors begin with a claim, and know what was committed before it.
            let its: Vec<VmId> = self.nodes[n].view.fleet.hosts[&host].vms.iter().copied().collect();
            for vm in its {
                if self.nodes[n].actors.contains_key(&vm) {
                    continue;
                }
                if self.flaw != Some(Flaw::EpochIgnored) {
                    if !self.is_there(n) || !self.is_there(self.leader.on) {
                        continue;
                    }
                    self.catch_up(n);
                }
                let entry = &self.nodes[n].view.fleet.vms[&vm];
                if entry.host == host && here(&self.nodes[n].view) {
                    let epoch = entry.epoch;
                    self.nodes[n].actors.insert(vm, (host, epoch));
                }
            }
            let fleet = &self.nodes[n].view.fleet;
            let is_stray = |(vm, domain): &(&VmId, &Domain)| {
                let entry = &fleet.vms[*vm];
                entry.host != host || domain.epoch < entry.epoch
            };
            let strays: Vec<VmId> = self.machines[at].domains.iter().filter(is_stray).map(|(vm, _)| *vm).collect();
            let mine = |(vm, of): (&VmId, &(HostId, u64))| {
                let entry = &fleet.vms[vm];
                (of.0 == host).then_some((*vm, of.1, (entry.host, entry.epoch) == *of))
            };
            let mine: Vec<(VmId, u64, bool)> = self.nodes[n].actors.iter().filter_map(mine).collect();
            for vm in strays {
                self.machines[at].domains.remove(&vm);
            }
            for (vm, epoch, still) in mine {
                if !still {
                    self.nodes[n].actors.remove(&vm);
                    continue;
                }
                let takes = self.step + self.dice.u32(0..4);
                let machine = &mut self.machines[at];
                if !machine.domains.contains_key(&vm) && !machine.starting.iter().any(|(_, starting, _)| *starting == vm) {
                    machine.list.insert(vm);
                    machine.starting.push((takes, vm, epoch));
                }
            }
        }
    }

    pub(super) fn hypervisors(&mut self) {
        for m in 0..=NODES {
            // Storage takes a silent machine's locks away.
            let machine = &mut self.machines[m];
            if machine.up && machine.paused_until > self.step && self.step - machine.paused_since > STORAGE_STEPS {
                machine.domains.values_mut().for_each(|domain| domain.lock = false);
            }
            if !machine.lives(self.step) {
                continue;
            }
            // A guest whose disk refuses what it writes ends.
            machine.domains.retain(|_, domain| domain.lock);
            let (due, later): (Vec<_>, Vec<_>) = machine.starting.drain(..).partition(|(at, _, _)| *at <= self.step);
            machine.starting = later;
            for (_, vm, epoch) in due {
                let locked = self.machines.iter().any(|other| other.domains.get(&vm).is_some_and(|domain| domain.lock));
                if !(self.locks && locked) {
                    self.machines[m].domains.entry(vm).or_insert(Domain { epoch, lock: true });
                }
            }
        }
    }
}
