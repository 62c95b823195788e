//! A domain's disks, networks, CPUs and memory, made those of a definition: in what is defined, and in what runs.
//!
//! By comparison, so that it may be repeated and goes on from wherever it was. What comes is first in what runs, and then
//! defined; so is what goes, because a guest may not let go of it. Nothing of a domain's other devices is touched, and each
//! of them keeps its address.

use std::{
    thread,
    time::{Duration, Instant},
};

use virt::{domain::Domain, sys as raw};

use crate::{
    domain::{Host, disk, escaped, interface, is_on, problem},
    protocol::{Definition, Lag, Problem},
    store::ROOT,
};

/// For a guest to let go of a device.
const LET_GO_WITHIN: Duration = Duration::from_secs(20);
/// For a guest to give memory back, or to take it.
const BALLOON_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The guest's own pages are larger than what is asked for.
const BALLOON_SLACK_KIB: u64 = 1_024;
const LIVE: u32 = raw::VIR_DOMAIN_AFFECT_LIVE;
const DEFINED: u32 = raw::VIR_DOMAIN_AFFECT_CONFIG;

/// A disk or an interface as libvirt describes it.
struct Device {
    /// What it is made of: a disk's file, or a network's kind and name.
    of: String,
    /// Of a disk, such as `vda`.
    target: String,
    xml: String,
}

fn within<'a>(text: &'a str, begin: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    Some(rest.split_once('\'')?.0)
}

/// The devices of one kind in a domain's description.
fn devices(domain: &Domain, element: &str, of: u32) -> Result<Vec<Device>, Problem> {
    let flags = if of == DEFINED { raw::VIR_DOMAIN_XML_INACTIVE } else { 0 };
    let xml = domain.xml_desc(flags).map_err(|error| problem(&error))?;
    Ok(found(&xml, element))
}

fn found(xml: &str, element: &str) -> Vec<Device> {
    let (begin, end) = (format!("<{element} "), format!("</{element}>"));
    let blocks = xml.split(&begin).skip(1).filter_map(|rest| rest.split_once(&end)).map(|(block, _)| block);
    blocks
        .filter_map(|block| {
            let source = ["file", "network", "bridge"].iter();
            let of = source.filter_map(|kind| Some((kind, within(block, &format!("<source {kind}='"))?))).next();
            let (kind, name) = of?;
            Some(Device {
                of: format!("{kind} {name}"),
                target: within(block, "<target dev='").unwrap_or_default().to_owned(),
                xml: format!("{begin}{block}{end}"),
            })
        })
        .collect()
}

/// One that is wanted: what it is made of, what it is called for people, and how it is described at a free place.
struct Wanted<'a> {
    of: String,
    words: String,
    xml: Box<dyn Fn(&str) -> String + 'a>,
}

pub fn reshape(host: &Host, vm: &str, definition: &Definition, live: bool) -> Result<Option<Lag>, Problem> {
    let refused = |message: &str| Err(Problem::Refused(message.into()));
    let Some(domain) = host.own(vm)? else { return refused("there is no such domain") };
    if definition.owner != host.owner {
        return refused("it is another host's definition");
    }
    if !host.has_disks() {
        crate::domain::define(host, vm, definition)?;
        return lag(&domain, definition, Vec::new());
    }
    host.store.make(&host.connection, vm, definition)?;
    let mut missing = Vec::new();
    let names = definition.disks.iter().map(|(name, _)| name.as_str()).filter(|name| *name != ROOT);
    let disks: Vec<_> = std::iter::once(ROOT)
        .chain(names)
        .map(|name| Wanted {
            of: format!("file {}", escaped(&host.store.disk(vm, name))),
            words: format!("disk {name}"),
            xml: Box::new(move |target| disk(host, vm, name, target)),
        })
        .collect();
    // Its seed, and what others put there by hand, are left alone.
    let own = |device: &Device| {
        let begins = format!("file {}/{vm}-", escaped(host.store.path()));
        device.of.strip_prefix(&begins).is_some_and(|rest| rest.ends_with(".qcow2"))
    };
    change(&domain, live, "disk", &disks, own, &mut missing)?;
    let networks: Vec<_> = crate::domain::wired(host, definition)?
        .into_iter()
        .map(|wired| Wanted {
            of: format!("{} {}", wired.kind, escaped(wired.name)),
            words: format!("network {}", wired.words),
            xml: Box::new(move |_| interface(&wired, Some(&address(vm, wired.kind, wired.name)))),
        })
        .collect();
    change(&domain, live, "interface", &networks, |_| true, &mut missing)?;
    memory(&domain, definition.memory_bytes >> 10, live)?;
    cpus(&domain, definition.cpus, live)?;
    lag(&domain, definition, missing)
}

/// What a network card that is added later is known by: the same when it is added again.
fn address(vm: &str, kind: &str, network: &str) -> String {
    let hash = blake3::hash(format!("{vm} {kind} {network}").as_bytes());
    let [a, b, c, ..] = hash.as_bytes();
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}

/// First what runs, then what is defined.
fn change(
    domain: &Domain,
    live: bool,
    element: &str,
    wanted: &[Wanted<'_>],
    own: impl Fn(&Device) -> bool,
    missing: &mut Vec<String>,
) -> Result<(), Problem> {
    for of in [LIVE, DEFINED] {
        if of == LIVE && !is_on(domain)? {
            continue;
        }
        // Each has its counterpart; one name may be wanted twice.
        let mut there: Vec<_> = devices(domain, element, of)?.into_iter().map(Some).collect();
        let mut absent = Vec::new();
        for one in wanted {
            match there.iter_mut().find(|device| device.as_ref().is_some_and(|device| device.of == one.of)) {
                Some(device) => drop(device.take()),
                None => absent.push(one),
            }
        }
        for device in there.into_iter().flatten().filter(&own) {
            if of == DEFINED || live {
                detach(domain, element, &device, of)?;
            }
        }
        for one in absent {
            if of == LIVE && !live {
                missing.push(one.words.clone());
                continue;
            }
            let target = free_target(domain, element)?;
            match domain.attach_device_flags(&(one.xml)(&target), of) {
                Ok(()) => {}
                // It was made without a place for more; at its next start it has one.
                Err(error) if of == LIVE && error.message().contains("No more available PCI slots") => {
                    missing.push(one.words.clone());
                }
                Err(error) => {
                    return Err(match problem(&error) {
                        // It would again.
                        Problem::Failed(message) => Problem::Refused(format!("{} cannot be attached: {message}", one.words)),
                        problem => problem,
                    });
                }
            }
        }
    }
    Ok(())
}

/// A name for a disk that is neither in what runs nor in what is defined.
fn free_target(domain: &Domain, element: &str) -> Result<String, Problem> {
    let mut taken: Vec<String> = devices(domain, element, DEFINED)?.into_iter().map(|device| device.target).collect();
    if is_on(domain)? {
        taken.extend(devices(domain, element, LIVE)?.into_iter().map(|device| device.target));
    }
    Ok(crate::domain::targets().find(|target| !taken.contains(target)).unwrap_or_default())
}

fn detach(domain: &Domain, element: &str, device: &Device, of: u32) -> Result<(), Problem> {
    domain.detach_device_flags(&device.xml, of).map_err(|error| problem(&error))?;
    let begun = Instant::now();
    // The guest has its say, and libvirt does not wait for it for long.
    while of == LIVE && is_on(domain)? && devices(domain, element, LIVE)?.iter().any(|other| other.xml_is(device)) {
        if begun.elapsed() > LET_GO_WITHIN {
            let message = format!("the guest does not let go of {}; stop it, and detach it then", device.of);
            return Err(Problem::Refused(message));
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

impl Device {
    fn xml_is(&self, other: &Self) -> bool {
        let mac = |device: &Self| within(&device.xml, "<mac address='").map(str::to_owned);
        self.of == other.of && mac(self) == mac(other)
    }
}

fn memory(domain: &Domain, wanted: u64, live: bool) -> Result<(), Problem> {
    let set = |kib: u64, flags: u32| domain.set_memory_flags(kib, flags).map_err(|error| problem(&error));
    set(wanted, DEFINED | raw::VIR_DOMAIN_MEM_MAXIMUM)?;
    set(wanted, DEFINED)?;
    if !live || !is_on(domain)? {
        return Ok(());
    }
    let info = || domain.info().map_err(|error| problem(&error));
    // No more than it was started with; the rest comes when it is started again.
    let wanted = wanted.min(info()?.max_mem);
    if info()?.memory == wanted {
        return Ok(());
    }
    set(wanted, LIVE)?;
    let begun = Instant::now();
    while info()?.memory.abs_diff(wanted) > BALLOON_SLACK_KIB && begun.elapsed() < BALLOON_WITHIN && is_on(domain)? {
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

fn cpus(domain: &Domain, wanted: u32, live: bool) -> Result<(), Problem> {
    let set = |flags: u32| domain.set_vcpus_flags(wanted, flags).map_err(|error| problem(&error));
    let has = |flags: u32| domain.vcpus_flags(flags).map_err(|error| problem(&error));
    let most = raw::VIR_DOMAIN_VCPU_MAXIMUM;
    if has(DEFINED | most)? < wanted {
        set(DEFINED | most)?;
    }
    if has(DEFINED)? != wanted {
        set(DEFINED)?;
    }
    if has(DEFINED | most)? > wanted {
        set(DEFINED | most)?;
    }
    // A guest is given CPUs while it runs where it was started with room for them; none is taken from it, because a guest
    // that does not let go of one cannot be told from one that still does.
    if live && is_on(domain)? && has(LIVE)? < wanted && has(LIVE | most)? >= wanted {
        set(LIVE)?;
    }
    Ok(())
}

/// What it runs with, where that is not what it is defined with.
fn lag(domain: &Domain, definition: &Definition, devices: Vec<String>) -> Result<Option<Lag>, Problem> {
    if !is_on(domain)? {
        return Ok(None);
    }
    let info = domain.info().map_err(|error| problem(&error))?;
    let wanted = definition.memory_bytes >> 10;
    let memory_bytes = if info.memory.abs_diff(wanted) <= BALLOON_SLACK_KIB { wanted << 10 } else { info.memory << 10 };
    let same = info.nr_virt_cpu == definition.cpus && memory_bytes == wanted << 10 && devices.is_empty();
    Ok((!same).then_some(Lag { cpus: info.nr_virt_cpu, memory_bytes, devices }))
}

/// The data of a disk that it has no more.
pub fn drop_disk(host: &Host, vm: &str, name: &str) -> Result<(), Problem> {
    if !host.has_disks() {
        return Ok(());
    }
    if name == ROOT {
        return Err(Problem::Refused("it boots from that disk".into()));
    }
    if let Some(domain) = host.own(vm)? {
        let file = format!("file {}", escaped(&host.store.disk(vm, name)));
        let mut has = devices(&domain, "disk", DEFINED)?;
        if is_on(&domain)? {
            has.extend(devices(&domain, "disk", LIVE)?);
        }
        if has.iter().any(|device| device.of == file) {
            return Err(Problem::Refused("it has that disk".into()));
        }
    }
    host.store.remove_disk(&host.connection, vm, name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_from_what_libvirt_says_of_a_domain() {
        let xml = "<devices><disk type='file' device='disk'>\n<source file='/p/ff-data.qcow2' index='2'/>\n\
                   <target dev='vdb' bus='virtio'/></disk><interface type='bridge'><mac address='52:54:00:00:00:01'/>\
                   <source bridge='br0'/><target dev='vnet0'/></interface><interface type='network'>\
                   <source network='default' portid='x' bridge='virbr0'/></interface></devices>";
        let disks = found(xml, "disk");
        assert_eq!((disks.len(), &*disks[0].of, &*disks[0].target), (1, "file /p/ff-data.qcow2", "vdb"));
        assert!(disks[0].xml.starts_with("<disk type='file'") && disks[0].xml.ends_with("</disk>"));
        let cards: Vec<_> = found(xml, "interface").into_iter().map(|card| card.of).collect();
        assert_eq!(cards, ["bridge br0", "network default"]);
        assert_eq!(address("ff", "bridge", "br0"), address("ff", "bridge", "br0"));
        assert_ne!(address("ff", "bridge", "br0"), address("fe", "bridge", "br0"));
    }
}
