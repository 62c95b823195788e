//! The leader of a history: its looks, and the leases that nodes ask it for by messages that are late or lost.

use std::{collections::BTreeMap, time::Duration};

use hiveward_catalogue::{
    directory::NodeStatus,
    host::{
        event::FleetChange,
        lost::{self, FENCE_MARGIN},
    },
    roster::event::RosterEvent,
};
use hiveward_kernel::id::HostId;
use hiveward_runtime::cluster::lease::{Grantor, NotGranted};

use super::{Flaw, Leader, Message, NODES, World, host_id, node_id, terms};
use crate::roster::decide;

impl World {
    pub(super) fn lead(&mut self, on: usize) {
        let lost = self.known.nodes.iter().filter(|(_, entry)| entry.status == NodeStatus::Lost).map(|(node, _)| *node);
        let grantor = Grantor::elected(terms(), self.now(on), (0..NODES).map(node_id), lost);
        self.leader = Leader { on, grantor, fenced_at: BTreeMap::new(), tried: 0, silent: 0 };
    }

    /// Does what the leader does at each look.
    pub(super) fn roster(&mut self) {
        let on = self.leader.on;
        if !self.is_there(on) {
            self.leader.silent += 1;
            let next = (0..NODES).find(|node| self.is_there(*node));
            if let Some(next) = next.filter(|_| self.leader.silent > 15) {
                self.lead(next);
            }
            return;
        }
        let now = self.now(on);
        (self.leader.silent, _) = (0, self.leader.grantor.confirmed(now));
        for node in self.leader.grantor.overdue(now) {
            self.leader.grantor.declared_lost(node);
            let hosts = decide::lose_hosts(&self.known, node, true, "its node is lost");
            let moved = decide::empty(&self.known, node, "is lost", "its node is lost");
            let lost = RosterEvent::NodeLost { node, why: "tested".into() };
            self.commit(std::iter::once(lost).chain(hosts).chain(moved).collect());
        }
        let margin = if self.flaw == Some(Flaw::NoMargin) { Duration::ZERO } else { FENCE_MARGIN };
        let waiting: Vec<HostId> = lost::being_fenced(&self.known.fleet).map(|(host, _)| host).collect();
        self.leader.fenced_at.retain(|host, _| waiting.contains(host));
        for host in waiting {
            if *self.leader.fenced_at.entry(host).or_insert(now.plus(margin)) <= now {
                let events = lost::fenced(&self.known.fleet, host);
                self.commit(events.into_iter().map(RosterEvent::Fleet).collect());
            }
        }
        if self.leader.tried != self.log.len() {
            let events = lost::bring_all_back(&self.known.fleet);
            self.commit(events.into_iter().map(RosterEvent::Fleet).collect());
            self.leader.tried = self.log.len();
        }
        // The remote host is looked at by whoever has it; a person gives his word, sometimes wrongly.
        let remote = host_id(NODES);
        let entry = &self.known.fleet.hosts[&remote];
        let cut = self.remote_cut_until > self.step || !self.machines[NODES].lives(self.step);
        let placement = entry.place.placement;
        if entry.place.node.is_some_and(|node| (0..NODES).any(|n| node_id(n) == node && self.is_there(n))) {
            let capacity = entry.capacity.clone().unwrap();
            let change = if cut {
                FleetChange::Unreachable { host: remote, placement, why: "tested".into() }
            } else if entry.lost.is_some() || entry.unreachable.is_some() {
                FleetChange::Reached { host: remote, placement, capacity }
            } else {
                return;
            };
            let events = decide::fleet(&self.known, &change, None).unwrap();
            self.commit(events);
            if cut && (self.locks || self.flaw == Some(Flaw::NoLock)) && self.dice.f64() < 0.01 {
                let change = FleetChange::DeclareLost { host: remote, confirm: format!("h{NODES}"), by: "operator".into() };
                let events = decide::fleet(&self.known, &change, None).unwrap();
                self.commit(events);
            }
        }
    }

    fn late(&mut self) -> u32 {
        if self.quiet || self.dice.f64() < 0.9 { self.step + self.dice.u32(0..4) } else { self.step + self.dice.u32(0..60) }
    }

    pub(super) fn messages(&mut self) {
        for node in 0..NODES {
            let now = if self.quiet { (self.step as usize + node).is_multiple_of(8) } else { self.dice.f64() < 0.12 };
            if self.is_there(node) && now {
                let ask = self.nodes[node].holder.ask(self.now(node));
                let empty = self.nodes[node].actors.is_empty() && self.holds_nothing(node);
                let at = self.late();
                self.flying.push((at, Message::Ask { node, ask, empty }));
            }
        }
        let (due, later): (Vec<_>, Vec<_>) = self.flying.drain(..).partition(|(at, _)| *at <= self.step);
        self.flying = later;
        for (_, message) in due {
            match message {
                Message::Ask { node, ask, empty } => {
                    // What was cut off on the way is lost.
                    if !self.is_there(self.leader.on) || self.nodes[node].cut_until > self.step {
                        continue;
                    }
                    let now = self.now(self.leader.on);
                    let answer = self.leader.grantor.grant(node_id(node), ask, now);
                    if matches!(answer, Err(NotGranted::Lost { .. })) && empty {
                        let id = node_id(node);
                        let placed = decide::place_the_unplaced(&self.known, Some(&self.known.nodes[&id].record));
                        let back = RosterEvent::NodeBack { node: id, generation: self.nodes[node].generation };
                        self.commit(std::iter::once(back).chain(placed).collect());
                        self.leader.grantor.taken_in(id, now);
                    }
                    let (at, generation) = (self.late(), self.nodes[node].generation);
                    self.flying.push((at, Message::Grant { node, generation, answer }));
                }
                Message::Grant { node, generation, answer } => {
                    let frozen = !self.nodes[node].runs(self.step) || !self.machines[node].lives(self.step);
                    if generation != self.nodes[node].generation || self.nodes[node].cut_until > self.step {
                        continue;
                    }
                    if frozen {
                        self.flying.push((self.step + 1, Message::Grant { node, generation, answer }));
                        continue;
                    }
                    let now = self.now(node);
                    match answer {
                        Ok(grant) => self.nodes[node].holder.granted(&grant, now),
                        Err(NotGranted::Lost { .. }) => self.nodes[node].holder.lost(),
                        Err(NotGranted::Unconfirmed) => {}
                    }
                }
            }
        }
    }
}
