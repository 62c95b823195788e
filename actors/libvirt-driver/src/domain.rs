//! Domains: what is there, and each step, as the node's contract of drivers has it.

use std::{
    collections::HashSet,
    ops::Deref,
    sync::{Mutex, PoisonError},
};

use virt::{
    connect::Connect,
    domain::Domain,
    enumutil::Enum,
    error::{Error, ErrorNumber},
};

use crate::{
    backup,
    connections::{Connections, Lent},
    console::Consoles,
    place::Place,
    protocol::{DriverAnswer, Card, Definition, Power, Problem, Seen, Step},
    shape, snapshot,
    store::{ROOT, Store},
    sys::{self, Record},
};

/// What is known of one host once and for all.
pub struct Site {
    /// On which events come. Nothing is asked of it.
    _events: Connect,
    connections: Connections,
    pub owner: String,
    pub store: Store,
    pub consoles: Consoles,
    /// Where its devices are, if that is on this machine; else why they cannot be made.
    pub place: Result<Place, String>,
    /// Domains that were made on other hosts and are this one's now, by their UUIDs.
    adopted: Mutex<HashSet<String>>,
    /// Networks are made and swept one at a time.
    pub networks: Mutex<()>,
    /// `test`, or how its guests run: `kvm`, or `qemu` without the processor's help.
    kind: &'static str,
}

impl Site {
    /// `events` is the connection that they come on.
    pub fn new(events: Connect, uri: &str, owner: String, store: Store) -> Result<Self, Problem> {
        let driver = events.driver_type().map_err(|error| problem(&error))?;
        let kind = if driver.eq_ignore_ascii_case("test") {
            "test"
        } else {
            let has_kvm = events.capabilities().map_err(|error| problem(&error))?.contains("<domain type='kvm'");
            if has_kvm { "kvm" } else { "qemu" }
        };
        let connections = if kind == "test" { Connections::local(events.clone()) } else { Connections::new(uri) };
        let (consoles, place, networks) = (Consoles::new(uri), Place::of(uri), Mutex::default());
        Ok(Self { _events: events, connections, owner, store, consoles, place, adopted: Mutex::default(), networks, kind })
    }

    /// For one call.
    pub fn host(&'static self) -> Result<Host, Problem> {
        Ok(Host { connection: self.connections.lend()?, site: self })
    }

    /// Whether its domains are made of images.
    pub fn has_disks(&self) -> bool {
        self.kind != "test"
    }

    /// What the domain of this VM is called here.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", mark(&self.owner))
    }

    fn is_own(&self, vm: &str, name: &str) -> bool {
        name.starts_with(&mark(&self.owner)) || self.adopted.lock().unwrap_or_else(PoisonError::into_inner).contains(vm)
    }

    /// These, and no others, are its own though they carry another host's mark.
    pub fn adopt(&self, vms: Vec<String>) {
        *self.adopted.lock().unwrap_or_else(PoisonError::into_inner) = vms.into_iter().collect();
    }
}

/// A host, for one call.
pub struct Host {
    pub connection: Lent<'static>,
    pub site: &'static Site,
}

impl Host {
    /// The domain of a VM, if it is there and this host's own.
    pub fn own(&self, vm: &str) -> Result<Option<Domain>, Problem> {
        let Some(domain) = find(&self.connection, vm)? else { return Ok(None) };
        Ok(self.is_own(vm, &domain.name().map_err(|error| problem(&error))?).then_some(domain))
    }
}

impl Deref for Host {
    type Target = Site;

    fn deref(&self) -> &Site {
        self.site
    }
}

/// What names of our domains begin with. The name is in the answer to one call for all domains; a mark anywhere else would
/// cost a call for each.
pub fn mark(owner: &str) -> String {
    // The part of the owner's id that is by chance.
    format!("hw-{}-", owner.get(20..).unwrap_or(owner))
}

/// Whether a domain of this name was made by a host of ours, whichever.
fn is_marked(name: &str) -> bool {
    let digits = name.strip_prefix("hw-").and_then(|rest| rest.split_once('-'));
    digits.is_some_and(|(digits, _)| digits.len() == 12 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

pub fn problem(error: &Error) -> Problem {
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

pub fn capacity(connection: &Connect) -> Result<DriverAnswer, Problem> {
    let node = connection.node_info().map_err(|error| problem(&error))?;
    let (kind, library) = (connection.driver_type().unwrap_or_default(), connection.lib_version().unwrap_or_default());
    let version = format!("{kind}, libvirt {}.{}.{}", library / 1_000_000, library / 1_000 % 1_000, library % 1_000);
    Ok(DriverAnswer::Capacity { cpus: node.cpus, memory_bytes: node.memory << 10, version })
}

pub fn list(host: &Host, figures: bool) -> Result<DriverAnswer, Problem> {
    let records = sys::stats(&host.connection, host.has_disks(), figures).map_err(|error| problem(&error))?;
    let (own, foreign): (Vec<Record>, Vec<Record>) =
        records.into_iter().partition(|record| host.is_own(&record.vm, &record.name));
    let count = u32::try_from(foreign.len()).unwrap_or(u32::MAX);
    let others = foreign.into_iter().filter(|record| is_marked(&record.name)).map(seen).collect();
    Ok(DriverAnswer::Listing { domains: own.into_iter().map(seen).collect(), foreign: count, others })
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
        name: Some(record.name),
        vm: record.vm,
        lag: None,
    }
}

/// By libvirt's numbers of states, and of the reasons why a domain is off.
const fn power(state: i32, reason: i32) -> Power {
    match (state, reason) {
        // Running, blocked, on its way down.
        (1 | 2 | 4, _) => Power::On,
        (3, 2) => Power::Moving,
        (3 | 7, _) => Power::Paused,
        (5, 4) => Power::OffByMove,
        (5, 1) => Power::OffByGuest,
        (5, 2) => Power::OffByForce,
        // Crashed, failed to start, or libvirtd found it gone.
        (5, 3 | 6 | 8) | (6, _) => Power::Crashed,
        _ => Power::Off,
    }
}

pub fn look(domain: &Domain, vm: &str) -> Result<Seen, Error> {
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
        name: None,
        lag: None,
    })
}

pub fn find(connection: &Connect, vm: &str) -> Result<Option<Domain>, Problem> {
    match connection.lookup_domain_by_uuid_string(vm) {
        Ok(domain) => Ok(Some(domain)),
        Err(error) if error.code() == Enum::Known(ErrorNumber::NoDomain) => Ok(None),
        Err(error) => Err(problem(&error)),
    }
}

const fn is_on_as(power: Power) -> bool {
    matches!(power, Power::On | Power::Paused | Power::Moving)
}

pub fn is_on(domain: &Domain) -> Result<bool, Problem> {
    let (state, reason) = sys::state(domain).map_err(|error| problem(&error))?;
    Ok(is_on_as(power(state, reason)))
}

pub fn act(host: &Host, vm: &str, step: Step<Definition>) -> Result<Option<Seen>, Problem> {
    let refused = |message: &str| Err(Problem::Refused(message.into()));
    let found = find(&host.connection, vm)?;
    let ours = match &found {
        Some(domain) => host.is_own(vm, &domain.name().map_err(|error| problem(&error))?),
        None => false,
    };
    if let Step::Define(definition) | Step::Prepare(definition) = &step {
        if definition.owner != host.owner || (found.is_some() && !ours) {
            return refused("a domain of another owner has this UUID");
        }
        if host.has_disks() {
            host.store.make(&host.connection, vm, definition)?;
        }
        if matches!(step, Step::Prepare(_)) {
            return found.map(|domain| look(&domain, vm)).transpose().map_err(|error| problem(&error));
        }
        let domain = define(host, vm, definition)?;
        return look(&domain, vm).map(Some).map_err(|error| problem(&error));
    }
    let anothers = found.is_some() && !ours;
    let Some(domain) = found.filter(|_| ours) else {
        return match step {
            // What a step made that never came to a definition is gone as well.
            Step::Undefine | Step::Discard if host.has_disks() && !anothers => {
                host.store.remove(&host.connection, vm).map(|()| None)
            }
            Step::EndBackup if !anothers => backup::end(host, vm).map(|()| None),
            Step::DropDisk { name } if !anothers => shape::drop_disk(host, vm, &name).map(|()| None),
            Step::Undefine | Step::Destroy | Step::Dismiss | Step::Discard | Step::RemoveSnapshot { .. } => Ok(None),
            _ => refused("there is no such domain"),
        };
    };
    let on = is_on_as;
    let now = look(&domain, vm).map_err(|error| problem(&error))?.power;
    let seen_now = || look(&domain, vm).map(Some).map_err(|error| problem(&error));
    let done = match (step, now) {
        (Step::Define(_) | Step::Prepare(_) | Step::Discard, _)
        | (Step::Start | Step::Resume, Power::On)
        | (Step::Suspend | Step::Shutdown, Power::Paused | Power::Moving) => Ok(()),
        (Step::Destroy | Step::Shutdown, now) if !on(now) => Ok(()),
        (Step::Start, Power::Paused | Power::Moving) => return refused("it is paused; resume it"),
        (Step::Start, _) => domain.create(),
        (Step::Shutdown, _) => domain.shutdown(),
        (Step::Destroy, _) => domain.destroy(),
        (Step::Suspend, Power::On) => domain.suspend(),
        (Step::Resume, Power::Paused | Power::Moving) => domain.resume(),
        (Step::Reboot, Power::On) => domain.reboot(0),
        (Step::Suspend | Step::Resume | Step::Reboot, _) => return refused("it does not run"),
        (Step::Snapshot { .. } | Step::Revert { .. }, Power::Moving | Power::OffByMove) => {
            return refused("it is on its way to another host");
        }
        (Step::Snapshot { name }, _) => return snapshot::take(&domain, &name).and_then(|()| seen_now()),
        (Step::Revert { name }, _) => return snapshot::revert(&domain, &name).and_then(|()| seen_now()),
        (Step::EndBackup, _) => return backup::end(host, vm).and_then(|()| seen_now()),
        (Step::Reshape { .. }, Power::Moving | Power::OffByMove) => return refused("it is on its way to another host"),
        (Step::Reshape { definition, live }, _) => {
            let lag = shape::reshape(host, vm, &definition, live)?;
            return seen_now().map(|seen| seen.map(|seen| Seen { lag, ..seen }));
        }
        (Step::DropDisk { name }, _) => return shape::drop_disk(host, vm, &name).and_then(|()| seen_now()),
        (Step::RemoveSnapshot { name }, _) => return snapshot::remove(&domain, &name).and_then(|()| seen_now()),
        (Step::Undefine | Step::Dismiss, now) if on(now) => return refused("it runs; stop it first"),
        (Step::Dismiss, _) => return undefine(host, &domain).map(|()| None),
        (Step::Undefine, _) => {
            // Its disks first: a definition that is left says that there may be disks.
            if host.has_disks() {
                host.store.remove(&host.connection, vm)?;
            }
            return undefine(host, &domain).map(|()| None);
        }
    };
    done.map_err(|error| problem(&error))?;
    seen_now()
}

fn undefine(host: &Host, domain: &Domain) -> Result<(), Problem> {
    let everything = virt::sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | virt::sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | virt::sys::VIR_DOMAIN_UNDEFINE_NVRAM
        | virt::sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA;
    let done = if host.has_disks() { domain.undefine_flags(everything) } else { domain.undefine() };
    done.map_err(|error| problem(&error))
}

pub fn define(host: &Host, vm: &str, definition: &Definition) -> Result<Domain, Problem> {
    // One that was adopted keeps the name that it has.
    let known = host.own(vm)?.map(|domain| domain.name()).transpose().map_err(|error| problem(&error))?;
    let name = escaped(&known.unwrap_or_else(|| host.name(&definition.name)));
    let (memory, cpus) = (definition.memory_bytes, definition.cpus);
    let xml = if host.has_disks() {
        format!(
            "<domain type='{kind}'><name>{name}</name><uuid>{vm}</uuid><memory unit='b'>{memory}</memory><vcpu>{cpus}</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os><features><acpi/><apic/>{features}</features>\
             {cpu}<clock offset='utc'/><on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot>\
             <on_crash>destroy</on_crash><devices>{disks}<controller type='usb' model='none'/>{ports}{networks}\
             <serial type='pty'><target port='0'/></serial><console type='pty'><target type='serial' port='0'/></console>\
             <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
             <memballoon model='virtio'><stats period='5'/></memballoon>\
             <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng></devices></domain>",
            kind = host.kind,
            // Without KVM the guest runs in code that is translated as it goes; what that takes is bounded.
            features = if host.kind == "qemu" { "<tcg><tb-cache unit='MiB'>128</tb-cache></tcg>" } else { "" },
            cpu = if host.kind == "kvm" { "<cpu mode='host-model'/>" } else { "" },
            disks = disks(host, vm, definition),
            ports = ports(definition),
            networks = networks(host, definition)?,
        )
    } else {
        format!(
            "<domain type='test'><name>{name}</name><uuid>{vm}</uuid><memory unit='b'>{memory}</memory><vcpu>{cpus}</vcpu>\
             <os><type>hvm</type></os></domain>"
        )
    };
    host.connection.define_domain_xml(&xml).map_err(|error| problem(&error))
}

/// What disks are called in a guest's machine, in their order.
pub fn targets() -> impl Iterator<Item = String> {
    (b'a'..=b'z').map(|letter| format!("vd{}", char::from(letter))).chain(
        // Twenty-six are not enough for all that a VM may have.
        (b'a'..=b'z').map(|letter| format!("vda{}", char::from(letter))),
    )
}

/// The root disk first, then the others as they were named, the seed last.
fn disks(host: &Host, vm: &str, definition: &Definition) -> String {
    let others = definition.disks.iter().map(|(name, _)| name.as_str()).filter(|name| *name != ROOT);
    let (mut xml, mut targets) = (String::new(), targets());
    for name in std::iter::once(ROOT).chain(others) {
        xml.push_str(&disk(host, vm, name, &targets.next().unwrap_or_default()));
    }
    let target = targets.next().unwrap_or_default();
    xml.push_str(&format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
         <target dev='{target}' bus='virtio'/><readonly/></disk>",
        escaped(&host.store.seed(vm))
    ));
    xml
}

pub fn disk(host: &Host, vm: &str, name: &str, target: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/><source file='{}'/>\
         <target dev='{target}' bus='virtio'/><serial>{}</serial></disk>",
        escaped(&host.store.disk(vm, name)),
        // What a guest finds it by; QEMU takes no more.
        escaped(&name.chars().take(20).collect::<String>())
    )
}

/// Places for devices that are attached while the guest runs, beside one for each that it is defined with.
const FREE_PORTS: usize = 8;
/// Of its other devices: the balloon, the random numbers, the agent's channel and the seed.
const OTHER_PORTS: usize = 4;

fn ports(definition: &Definition) -> String {
    let all = definition.disks.len().max(1) + definition.networks.len().max(1) + OTHER_PORTS + FREE_PORTS;
    let root = "<controller type='pci' index='0' model='pcie-root'/>";
    format!("{root}{}", "<controller type='pci' model='pcie-root-port'/>".repeat(all))
}

/// A card that a guest is to have: kind and name of what it is put on, and what is said of it beyond that.
pub struct Wired<'a> {
    pub kind: &'static str,
    pub name: &'a str,
    /// As people call it.
    pub words: &'a str,
    pub card: Option<&'a Card>,
}

/// `bridge:NAME` is a bridge of the host, another name one of libvirt's networks, unless it is one of the cluster's. Without
/// any it is libvirt's `default`, if that is up.
pub fn wired<'a>(host: &Host, definition: &'a Definition) -> Result<Vec<Wired<'a>>, Problem> {
    let mut all = Vec::new();
    if definition.isolated {
        return Ok(all);
    }
    if definition.networks.is_empty()
        && let Ok(network) = host.connection.lookup_network_by_name("default")
        && network.is_active().map_err(|error| problem(&error))?
    {
        all.push(Wired { kind: "network", name: "default", words: "default", card: None });
    }
    all.extend(definition.networks.iter().map(|network| {
        let card = definition.cards.iter().find(|card| card.network == *network);
        let source = card.map_or(network.as_str(), |card| &card.source);
        let (kind, name) = source.strip_prefix("bridge:").map_or(("network", source), |bridge| ("bridge", bridge));
        Wired { kind, name, words: network, card }
    }));
    Ok(all)
}

fn networks(host: &Host, definition: &Definition) -> Result<String, Problem> {
    Ok(wired(host, definition)?.iter().map(|wired| interface(wired, None)).collect())
}

/// With the address that the cluster gave it, else with one of its own, else with one that libvirt makes up.
pub fn interface(wired: &Wired<'_>, address: Option<&str>) -> String {
    let address = wired.card.map(|card| &*card.mac).or(address);
    let address = address.map_or_else(String::new, |address| format!("<mac address='{}'/>", escaped(address)));
    let mtu = wired.card.and_then(|card| card.mtu).map_or_else(String::new, |mtu| format!("<mtu size='{mtu}'/>"));
    format!(
        "<interface type='{kind}'>{address}<source {kind}='{}'/>{mtu}<model type='virtio'/><rom enabled='no'/></interface>",
        escaped(wired.name),
        kind = wired.kind,
    )
}

pub fn escaped(text: &str) -> String {
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
