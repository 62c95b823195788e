//! The harm that comes to the machines, nodes and keepers of a history, and how it is mended.

use hiveward_runtime::cluster::lease::Holder;

use super::{Flaw, NODES, World, terms};

impl World {
    pub(super) fn harm(&mut self) {
        let (step, node) = (self.step, self.dice.usize(0..NODES));
        let until = |dice: &mut fastrand::Rng, most: u32| step + dice.u32(1..most);
        match self.dice.u32(0..130) {
            0 => self.nodes[node].frozen_until = until(&mut self.dice, 300),
            1 => self.nodes[node].cut_until = until(&mut self.dice, 300),
            2 => {
                let again = until(&mut self.dice, 300);
                self.die(node, again);
            }
            3 => {
                let again = until(&mut self.dice, 400);
                self.power_off(node, again);
            }
            // Its node starts another at once, if it can.
            4 if self.nodes[node].runs(step) => self.machines[node].keeper = false,
            5 => self.nodes[node].behind_until = until(&mut self.dice, 60),
            6 => self.remote_cut_until = until(&mut self.dice, 200),
            7 if self.is_there(node) => self.lead(node),
            8 if self.locks || self.flaw == Some(Flaw::NoLock) => {
                let again = until(&mut self.dice, 300);
                self.machines[node].keeper = false;
                self.die(node, again);
            }
            9 if self.locks || self.flaw == Some(Flaw::NoLock) => {
                let machine = self.dice.usize(0..=NODES);
                let again = until(&mut self.dice, 300);
                if self.machines[machine].lives(step) {
                    self.machines[machine].paused_since = step;
                    self.machines[machine].paused_until = again;
                }
            }
            _ => {}
        }
    }

    fn die(&mut self, node: usize, again: u32) {
        let node = &mut self.nodes[node];
        (node.up, node.up_at) = (false, again);
        node.actors.clear();
        node.generation += 1;
        node.holder = Holder::new(terms(), node.generation);
    }

    fn power_off(&mut self, node: usize, again: u32) {
        self.die(node, again);
        let machine = &mut self.machines[node];
        (machine.up, machine.off_until, machine.keeper) = (false, again, false);
        machine.domains.clear();
        machine.starting.clear();
        // It is of another start of the machine.
        (machine.page, machine.kill_at) = (None, None);
    }

    pub(super) fn come_up(&mut self) {
        for node in 0..NODES {
            let machine = &mut self.machines[node];
            if !machine.up && machine.off_until <= self.step {
                machine.up = true;
            }
            let one = &mut self.nodes[node];
            if !one.up && one.up_at <= self.step && machine.lives(self.step) {
                one.up = true;
            }
        }
    }

    /// Mends everything but for one machine, whose plug is pulled for good.
    pub(super) fn mend(&mut self) {
        self.quiet = true;
        let dead = self.dice.usize(0..NODES);
        for node in &mut self.nodes {
            (node.frozen_until, node.cut_until, node.behind_until) = (0, 0, 0);
            node.up_at = node.up_at.min(self.step);
        }
        for machine in &mut self.machines {
            (machine.paused_until, machine.off_until) = (0, 0);
        }
        self.remote_cut_until = 0;
        self.power_off(dead, u32::MAX);
    }
}
