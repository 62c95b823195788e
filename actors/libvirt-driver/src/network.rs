//! Networks of the cluster on this host: libvirt's own for those of one host, the kernel's devices for those over many.
//!
//! What it made carries its host's mark; what does not is neither changed nor removed.

use std::{net::IpAddr, sync::PoisonError};

use virt::{enumutil::Enum, error::ErrorNumber, network::Network as Made, sys as raw};

use crate::{
    domain::{Host, escaped, problem},
    overlay::{self, Overlay},
    protocol::{Make, Network, Problem},
};

/// What names of libvirt's networks and their bridges begin with.
const NAME: &str = "hwn";

fn mark(owner: &str) -> String {
    format!("hiveward {owner}")
}

/// Each in its turn, until one cannot be made.
pub fn ensure(host: &Host, networks: &[Network]) -> Result<(), Problem> {
    let _one_at_a_time = host.networks.lock().unwrap_or_else(PoisonError::into_inner);
    let mut overlays = Vec::new();
    for network in networks {
        match &network.make {
            // The host's own: libvirt says so if it is not there.
            Make::Bridge { .. } => {}
            Make::Isolated | Make::Nat { .. } => libvirts(host, network)?,
            Make::Overlay { local, peers, mtu } => overlays.push(overlay(network, local, peers, *mtu)?),
        }
    }
    if overlays.is_empty() {
        return Ok(());
    }
    let named = |number: u32| networks.iter().find(|network| network.number == number).map_or("", |network| &*network.name);
    let place = host.place.as_ref().map_err(|why| Problem::Refused(format!("the host can have no overlay network: {why}")))?;
    let cannot = |number: u32, why: String| format!("network {} cannot be made on the host: {why}", named(number));
    place.inside(|| {
        overlay::ensure(&host.owner, &overlays).map_err(|(number, problem)| match problem {
            Problem::Refused(why) => Problem::Refused(cannot(number, why)),
            Problem::Failed(why) => Problem::Failed(cannot(number, why)),
            Problem::Unreachable(why) => Problem::Unreachable(cannot(number, why)),
        })
    })
}

fn overlay(network: &Network, local: &str, peers: &[String], mtu: u32) -> Result<Overlay, Problem> {
    let address = |text: &str| {
        text.parse::<IpAddr>().map_err(|_| Problem::Refused(format!("network {}: {text:?} is no IP address", network.name)))
    };
    let peers = peers.iter().map(|peer| address(peer)).collect::<Result<_, _>>()?;
    Ok(Overlay { number: network.number, local: address(local)?, peers, mtu })
}

fn found(host: &Host, name: &str) -> Result<Option<Made>, Problem> {
    match host.connection.lookup_network_by_name(name) {
        Ok(network) => Ok(Some(network)),
        Err(error) if error.code() == Enum::Known(ErrorNumber::NoNetwork) => Ok(None),
        Err(error) => Err(problem(&error)),
    }
}

fn is_ours(host: &Host, network: &Made) -> Result<bool, Problem> {
    let xml = network.xml_desc(0).map_err(|error| problem(&error))?;
    Ok(xml.contains(&format!(">{}<", mark(&host.owner))))
}

fn libvirts(host: &Host, network: &Network) -> Result<(), Problem> {
    let name = network.source();
    let made = match found(host, &name)? {
        Some(there) if !is_ours(host, &there)? => {
            return Err(Problem::Refused(format!("the host has a libvirt network {name} of another; remove it there")));
        }
        Some(there) => there,
        None => host.connection.define_network_xml(&xml(&host.owner, network)).map_err(|error| problem(&error))?,
    };
    if made.is_active().map_err(|error| problem(&error))? {
        return Ok(());
    }
    made.create().map_err(|error| match problem(&error) {
        Problem::Failed(why) => Problem::Failed(format!("network {} cannot be started on the host: {why}", network.name)),
        problem => problem,
    })
}

fn xml(owner: &str, network: &Network) -> String {
    let (forward, address) = match &network.make {
        Make::Nat { gateway, prefix, first, last } => (
            "<forward mode='nat'/>",
            format!(
                "<ip address='{}' prefix='{prefix}'><dhcp><range start='{}' end='{}'/></dhcp></ip>",
                escaped(gateway),
                escaped(first),
                escaped(last)
            ),
        ),
        // Without an address of its own the host is not on it.
        Make::Isolated | Make::Bridge { .. } | Make::Overlay { .. } => ("", String::new()),
    };
    format!(
        "<network><name>{}</name><metadata><hiveward:owner xmlns:hiveward='urn:hiveward'>{}</hiveward:owner></metadata>\
         {forward}<bridge name='{NAME}{}' stp='off' delay='0'/>{address}</network>",
        escaped(&network.source()),
        escaped(&mark(owner)),
        network.number,
    )
}

/// What a guest still uses stays, and goes another time.
pub fn sweep(host: &Host, keep: &[u32]) -> Result<(), Problem> {
    let _one_at_a_time = host.networks.lock().unwrap_or_else(PoisonError::into_inner);
    let mut used: Option<Vec<String>> = None;
    for network in host.connection.list_all_networks(0).map_err(|error| problem(&error))? {
        let name = network.name().map_err(|error| problem(&error))?;
        let number = name.strip_prefix(NAME).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if number.is_none_or(|number| keep.contains(&number)) || !is_ours(host, &network)? {
            continue;
        }
        let used = match &used {
            Some(used) => used,
            None => used.insert(domains(host)?),
        };
        let mention = format!("<source network='{}'", escaped(&name));
        if used.iter().any(|xml| xml.contains(&mention)) {
            continue;
        }
        if network.is_active().map_err(|error| problem(&error))? {
            network.destroy().map_err(|error| problem(&error))?;
        }
        network.undefine().map_err(|error| problem(&error))?;
    }
    // Where devices could not be made there are none.
    let Ok(place) = &host.place else { return Ok(()) };
    place.inside(|| overlay::sweep(&host.owner, keep))
}

fn domains(host: &Host) -> Result<Vec<String>, Problem> {
    let all = host.connection.list_all_domains(0).map_err(|error| problem(&error))?;
    let mut described = Vec::with_capacity(all.len());
    for domain in all {
        // One that ends meanwhile uses nothing.
        described.extend(domain.xml_desc(0));
        described.extend(domain.xml_desc(raw::VIR_DOMAIN_XML_INACTIVE));
    }
    Ok(described)
}
