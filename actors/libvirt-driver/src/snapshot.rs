//! Internal snapshots: in a domain's own disks, with its memory while it is on.

use virt::{
    domain::Domain,
    domain_snapshot::DomainSnapshot,
    enumutil::Enum,
    error::{Error, ErrorNumber},
};

use crate::{
    checkpoint,
    domain::{escaped, is_on, problem},
    protocol::Problem,
};

fn find(domain: &Domain, name: &str) -> Result<Option<DomainSnapshot>, Problem> {
    match Domain::lookup_snapshot_by_name(domain, name, 0) {
        Ok(snapshot) => Ok(Some(snapshot)),
        Err(error) if is_none(&error) => Ok(None),
        Err(error) => Err(problem(&error)),
    }
}

fn is_none(error: &Error) -> bool {
    error.code() == Enum::Known(ErrorNumber::NoDomainSnapshot)
}

pub fn take(domain: &Domain, name: &str) -> Result<(), Problem> {
    if find(domain, name)?.is_some() {
        return Ok(());
    }
    if !is_on(domain)? {
        checkpoint::give_way(domain)?;
    }
    let xml = format!("<domainsnapshot><name>{}</name></domainsnapshot>", escaped(name));
    domain.create_snapshot_xml(&xml, 0).map(drop).map_err(|error| problem(&error))
}

pub fn revert(domain: &Domain, name: &str) -> Result<(), Problem> {
    let Some(snapshot) = find(domain, name)? else {
        return Err(Problem::Refused("its host has no such snapshot of it any more".into()));
    };
    checkpoint::give_way(domain)?;
    let first = match snapshot.revert(0) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    // Marks that libvirt does not know of, such as of a host before this one, end the QEMU that was to have it.
    if is_on(domain)? {
        return Err(problem(&first));
    }
    checkpoint::void(domain)?;
    snapshot.revert(0).map_err(|error| problem(&error))
}

pub fn remove(domain: &Domain, name: &str) -> Result<(), Problem> {
    let Some(snapshot) = find(domain, name)? else { return Ok(()) };
    if !is_on(domain)? {
        checkpoint::give_way(domain)?;
    }
    match snapshot.delete(0) {
        Err(error) if !is_none(&error) => Err(problem(&error)),
        _ => Ok(()),
    }
}
