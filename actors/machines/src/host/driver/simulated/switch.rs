//! Networks of simulated hypervisors, as a little model of switches: who can reach whom.
//!
//! A bridge of a host is taken to lead to one wire for all hosts that have one of the name. An overlay leads to those
//! hosts that it names as peers and that have the same number at the address it names.

use std::collections::BTreeMap;

use hiveward_catalogue::host::protocol::{Make, Network};
use hiveward_kernel::id::{HostId, VmId};

use super::{Hypervisor, Inner, MISSING};
use crate::host::driver::DriverError;

/// What is made on one hypervisor, and for whom.
#[derive(Default)]
pub(super) struct Switch(BTreeMap<u32, (HostId, Network)>);

fn refused<T>(message: String) -> Result<T, DriverError> {
    Err(DriverError::Refused { message })
}

impl Switch {
    /// Makes these networks for a host. Errors: one cannot be made, or another host has made one of its number.
    pub fn ensure(&mut self, owner: HostId, networks: Vec<Network>) -> Result<(), DriverError> {
        for network in networks {
            if network.name.starts_with(MISSING) {
                return refused(format!("network {} cannot be made on the host", network.name));
            }
            match self.0.get(&network.number) {
                Some((other, _)) if *other != owner => {
                    return refused(format!("the host has a device of number {} of another registration of it", network.number));
                }
                _ => drop(self.0.insert(network.number, (owner, network))),
            }
        }
        Ok(())
    }

    /// Returns the cluster's network that a card of this source is put on, if that is one; an error if there is no such network
    /// of the cluster.
    pub fn plug(&self, source: &str) -> Result<Option<&Network>, DriverError> {
        let found = self.0.values().find(|(_, network)| network.source() == source).map(|(_, network)| network);
        let made = source.strip_prefix("bridge:hwb").or_else(|| source.strip_prefix("hwn"));
        if found.is_none() && made.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
            return refused(format!("there is no network {source} on the host"));
        }
        Ok(found)
    }
}

impl Inner {
    /// Removes the networks of a host that may go: those that no machine is on and that are not in `keep`.
    pub(super) fn sweep_networks(&mut self, owner: HostId, keep: &[u32]) {
        let used: Vec<&str> =
            self.machines.values().flat_map(|machine| machine.spec.cards.iter().map(|card| &*card.source)).collect();
        let stays = |number: &u32, (theirs, network): &mut (HostId, Network)| {
            *theirs != owner || keep.contains(number) || used.contains(&&*network.source())
        };
        self.switch.0.retain(stays);
    }

    /// Returns where the cards of a machine that runs are put: the owner's networks, by their sources.
    fn plugged(&self, vm: VmId) -> Vec<(String, Option<Network>)> {
        let Some(machine) = self.machines.get(&vm).filter(|machine| machine.run.is_on()) else { return Vec::new() };
        let networks = machine.spec.networks.iter();
        let source = |name: &String| {
            let card = machine.spec.cards.iter().find(|card| card.network == *name);
            card.map_or_else(|| name.clone(), |card| card.source.clone())
        };
        networks.map(source).filter_map(|source| Some((source.clone(), self.switch.plug(&source).ok()?.cloned()))).collect()
    }
}

impl Hypervisor {
    /// Returns the numbers of the cluster's networks that are made here.
    pub fn networks(&self) -> Vec<u32> {
        self.0.inner.lock().switch.0.keys().copied().collect()
    }

    /// Returns one of these networks as it is.
    pub fn network(&self, number: u32) -> Option<Network> {
        self.0.inner.lock().switch.0.get(&number).map(|(_, network)| network.clone())
    }

    /// Tells whether what `from` sends here comes to `to` there.
    pub fn reaches(&self, from: VmId, there: &Self, to: VmId) -> bool {
        let ours = self.0.inner.lock().plugged(from);
        let theirs = there.0.inner.lock().plugged(to);
        let same = std::sync::Arc::ptr_eq(&self.0, &there.0);
        ours.iter().any(|(source, network)| {
            let leads = |(other, their): &(String, Option<Network>)| match (network, their) {
                (None, None) if source.starts_with("bridge:") => source == other,
                (None, None) => same && source == other,
                (Some(network), Some(their)) => match (&network.make, &their.make) {
                    (Make::Bridge { bridge }, Make::Bridge { bridge: other }) => bridge == other,
                    (Make::Overlay { peers, .. }, Make::Overlay { local, .. }) => {
                        network.number == their.number && (same || peers.contains(local))
                    }
                    _ => same && network.number == their.number,
                },
                (Some(Network { make: Make::Bridge { bridge }, .. }), None) => *other == format!("bridge:{bridge}"),
                (None, Some(Network { make: Make::Bridge { bridge }, .. })) => *source == format!("bridge:{bridge}"),
                _ => false,
            };
            theirs.iter().any(leads)
        })
    }
}
