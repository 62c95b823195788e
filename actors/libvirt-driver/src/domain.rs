//! Domains: what is there, and each step, as the node's contract of drivers has it.

use virt::{
    connect::Connect,
    domain::Domain,
    enumutil::Enum,
    error::{Error, ErrorNumber},
};

use crate::{
    protocol::{Answer, Definition, Power, Problem, Seen, Step},
    sys::{self, Record},
};

/// What names of our domains begin with. The name is in the answer to one call for all domains; a mark anywhere else would
/// cost a call for each.
fn mark(owner: &str) -> String {
    // The part of the owner's id that is by chance.
    format!("hw-{}-", owner.get(20..).unwrap_or(owner))
}

fn problem(error: &Error) -> Problem {
    let message = error.message().to_owned();
    match error.code() {
        Enum::Known(
            ErrorNumber::XmlError
            | ErrorNumber::XmlDetail
            | ErrorNumber::InvalidArg
            | ErrorNumber::NoSupport
            | ErrorNumber::ConfigUnsupported
            | ErrorNumber::OperationDenied
            | ErrorNumber::DomExist
            | ErrorNumber::NoDomain,
        ) => Problem::Refused(message),
        Enum::Known(ErrorNumber::NoConnect | ErrorNumber::InvalidConn | ErrorNumber::Rpc) => Problem::Unreachable(message),
        _ => Problem::Failed(message),
    }
}

pub fn capacity(connection: &Connect) -> Result<Answer, Problem> {
    let node = connection.node_info().map_err(|error| problem(&error))?;
    let (kind, library) = (connection.driver_type().unwrap_or_default(), connection.lib_version().unwrap_or_default());
    let version = format!("{kind}, libvirt {}.{}.{}", library / 1_000_000, library / 1_000 % 1_000, library % 1_000);
    Ok(Answer::Capacity { cpus: node.cpus, memory_bytes: node.memory << 10, version })
}

pub fn list(connection: &Connect, owner: &str) -> Result<Answer, Problem> {
    let records = sys::stats(connection).map_err(|error| problem(&error))?;
    let (all, mark) = (records.len(), mark(owner));
    let domains: Vec<Seen> = records.into_iter().filter(|record| record.name.starts_with(&mark)).map(seen).collect();
    Ok(Answer::Listing { foreign: u32::try_from(all - domains.len()).unwrap_or(u32::MAX), domains })
}

fn seen(record: Record) -> Seen {
    let value = |name: &str| record.values.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
    // Of all disks or interfaces; absent if there is none.
    let sum = |start: &str, end: &str| {
        let of = record.values.iter().filter(|(name, _)| name.starts_with(start) && name.ends_with(end));
        of.map(|(_, value)| *value).reduce(|a, b| a.saturating_add(b))
    };
    let number = |name: &str| value(name).and_then(|value| i32::try_from(value).ok()).unwrap_or(0);
    Seen {
        power: power(number("state.state"), number("state.reason")),
        cpu_time_ns: value("cpu.time"),
        memory_bytes: value("balloon.rss").map(|kib| kib << 10),
        disk_read_bytes: sum("block.", ".rd.bytes"),
        disk_written_bytes: sum("block.", ".wr.bytes"),
        network_received_bytes: sum("net.", ".rx.bytes"),
        network_sent_bytes: sum("net.", ".tx.bytes"),
        vm: record.vm,
    }
}

/// By libvirt's numbers of states, and of the reasons why a domain is off.
const fn power(state: i32, reason: i32) -> Power {
    match (state, reason) {
        // Running, blocked, on its way down.
        (1 | 2 | 4, _) => Power::On,
        (3 | 7, _) => Power::Paused,
        (5, 1) => Power::OffByGuest,
        (5, 2) => Power::OffByForce,
        // Crashed, failed to start, or libvirtd found it gone.
        (5, 3 | 6 | 8) | (6, _) => Power::Crashed,
        _ => Power::Off,
    }
}

fn look(domain: &Domain, vm: &str) -> Result<Seen, Error> {
    let (state, reason) = sys::state(domain)?;
    Ok(Seen {
        vm: vm.to_owned(),
        power: power(state, reason),
        cpu_time_ns: None,
        memory_bytes: None,
        disk_read_bytes: None,
        disk_written_bytes: None,
        network_received_bytes: None,
        network_sent_bytes: None,
    })
}

fn find(connection: &Connect, vm: &str) -> Result<Option<Domain>, Problem> {
    match connection.lookup_domain_by_uuid_string(vm) {
        Ok(domain) => Ok(Some(domain)),
        Err(error) if error.code() == Enum::Known(ErrorNumber::NoDomain) => Ok(None),
        Err(error) => Err(problem(&error)),
    }
}

pub fn act(connection: &Connect, owner: &str, vm: &str, step: Step) -> Result<Option<Seen>, Problem> {
    let refused = |message: &str| Err(Problem::Refused(message.into()));
    let found = find(connection, vm)?;
    let ours = match &found {
        Some(domain) => domain.name().map_err(|error| problem(&error))?.starts_with(&mark(owner)),
        None => false,
    };
    if let Step::Define(definition) = &step {
        if definition.owner != owner || (found.is_some() && !ours) {
            return refused("a domain of another owner has this UUID");
        }
        let domain = define(connection, owner, vm, definition)?;
        return look(&domain, vm).map(Some).map_err(|error| problem(&error));
    }
    let Some(domain) = found.filter(|_| ours) else {
        return match step {
            Step::Undefine | Step::Destroy => Ok(None),
            _ => refused("there is no such domain"),
        };
    };
    let on = |power| matches!(power, Power::On | Power::Paused);
    let now = look(&domain, vm).map_err(|error| problem(&error))?.power;
    let done = match (step, now) {
        (Step::Define(_), _) | (Step::Start | Step::Resume, Power::On) | (Step::Suspend | Step::Shutdown, Power::Paused) => {
            Ok(())
        }
        (Step::Destroy | Step::Shutdown, now) if !on(now) => Ok(()),
        (Step::Start, Power::Paused) => return refused("it is paused; resume it"),
        (Step::Start, _) => domain.create(),
        (Step::Shutdown, _) => domain.shutdown(),
        (Step::Destroy, _) => domain.destroy(),
        (Step::Suspend, Power::On) => domain.suspend(),
        (Step::Resume, Power::Paused) => domain.resume(),
        (Step::Reboot, Power::On) => domain.reboot(0),
        (Step::Suspend | Step::Resume | Step::Reboot, _) => return refused("it does not run"),
        (Step::Undefine, now) if on(now) => return refused("it runs; stop it first"),
        (Step::Undefine, _) => {
            domain.undefine().map_err(|error| problem(&error))?;
            return Ok(None);
        }
    };
    done.map_err(|error| problem(&error))?;
    look(&domain, vm).map(Some).map_err(|error| problem(&error))
}

fn define(connection: &Connect, owner: &str, vm: &str, definition: &Definition) -> Result<Domain, Problem> {
    let kind = connection.driver_type().map_err(|error| problem(&error))?;
    if !kind.eq_ignore_ascii_case("test") {
        // Its disks are made of images, and those are not kept yet.
        return Err(Problem::Refused(format!("domains are not made on {kind} hosts yet; test:///default takes them")));
    }
    let name = escaped(&format!("{}{}", mark(owner), definition.name));
    let xml = format!(
        "<domain type='test'><name>{name}</name><uuid>{vm}</uuid><memory unit='b'>{}</memory><vcpu>{}</vcpu>\
         <os><type>hvm</type></os></domain>",
        definition.memory_bytes, definition.cpus
    );
    connection.define_domain_xml(&xml).map_err(|error| problem(&error))
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '\'' => safe.push_str("&apos;"),
            '"' => safe.push_str("&quot;"),
            c => safe.push(c),
        }
    }
    safe
}
