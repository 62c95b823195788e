//! What a host makes of the networks that its VMs are on. Pure here; its actor does it.

use std::net::IpAddr;

use hiveward_catalogue::host::{
    fleet::{Fleet, VmEntry},
    network::{book::NetworkEntry, spec::Kind},
    protocol::{self, Make, Network},
};
use hiveward_kernel::id::{HostId, ProjectId, VmId};

/// Returns a network as it is to be on a host, or why it cannot be there.
fn making(fleet: &Fleet, host: HostId, entry: &NetworkEntry) -> Result<Network, String> {
    let make = match &entry.spec.kind {
        Kind::Isolated => Make::Isolated,
        Kind::Nat { cidr } => Make::Nat {
            gateway: cidr.gateway().to_string(),
            prefix: cidr.prefix(),
            first: cidr.first().to_string(),
            last: cidr.last().to_string(),
        },
        Kind::Bridge { bridge } => Make::Bridge { bridge: bridge.clone() },
        Kind::Overlay { mtu, .. } => {
            let underlay = |host: &HostId| fleet.hosts.get(host).and_then(|host| host.spec.underlay);
            let Some(local) = underlay(&host) else {
                let name = fleet.hosts.get(&host).map_or_else(|| host.to_string(), |host| host.spec.name.clone());
                return Err(format!(
                    "network {} is between hosts, and {name} was registered without the address that others reach it at; \
                     register it again with --underlay",
                    entry.spec.name
                ));
            };
            // What is sent to a lost host is lost; it is sent to again when the host is found.
            let is_there = |host: &&HostId| fleet.hosts.get(host).is_some_and(|host| host.lost.is_none());
            let others = entry.carriers.keys().filter(|other| **other != host).filter(is_there);
            let peers = others.filter_map(underlay).map(|peer: IpAddr| peer.to_string()).collect();
            Make::Overlay { local: local.to_string(), peers, mtu: *mtu }
        }
    };
    Ok(Network { number: entry.number, name: entry.spec.name.clone(), make })
}

/// Returns all networks that are to be on a host; what cannot be there is left out, and said where somebody asks for it.
pub fn wanted(fleet: &Fleet, host: HostId) -> Vec<Network> {
    let carried = fleet.networks.all.values().filter(|entry| entry.carriers.contains_key(&host));
    carried.filter_map(|entry| making(fleet, host, entry).ok()).collect()
}

/// Returns the numbers of all networks that VMs of a host are on.
pub fn numbers(fleet: &Fleet, host: HostId) -> Vec<u32> {
    let carried = fleet.networks.all.values().filter(|entry| entry.carriers.contains_key(&host));
    carried.map(|entry| entry.number).collect()
}

/// Returns the networks that one VM needs of a host. Errors: why one cannot be there.
pub fn needed(fleet: &Fleet, host: HostId, vm: &VmEntry) -> Result<Vec<Network>, String> {
    let entries = vm.all_cards().filter_map(|card| fleet.networks.all.get(&card.network));
    entries.map(|entry| making(fleet, host, entry)).collect()
}

/// Returns a VM's cards on those of `networks` that are the cluster's, for its definition on a host. Errors: why one cannot be
/// there.
pub fn cards(fleet: &Fleet, host: HostId, vm: VmId, networks: &[String]) -> Result<Vec<protocol::Card>, String> {
    let project = fleet.vms.get(&vm).map_or(ProjectId::DEFAULT, |entry| entry.spec.project);
    let found = networks.iter().filter_map(|name| fleet.networks.card(project, vm, name));
    found
        .map(|(entry, card)| {
            let network = making(fleet, host, entry)?;
            let prefix = entry.spec.kind.cidr().map(|range| range.prefix());
            Ok(protocol::Card {
                network: entry.spec.name.clone(),
                source: network.source(),
                mac: card.mac.clone(),
                mtu: network.mtu(),
                address: card.address.zip(prefix).map(|(address, prefix)| format!("{address}/{prefix}")),
            })
        })
        .collect()
}
