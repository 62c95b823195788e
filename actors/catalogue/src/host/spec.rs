//! Holds what a client said a host is; parsed once.

use std::{collections::BTreeMap, net::IpAddr};

use hiveward_kernel::id::HostId;
use hiveward_runtime::{error::Refused, op::NodeId};
use serde::{Deserialize, Serialize};

use super::simulated;
use crate::host::protocol::Pool;

/// A host as a client declared it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSpec {
    pub id: HostId,
    /// The name, unique in the cluster.
    pub name: String,
    pub uri: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub zone: String,
    /// The only node that may hold the connection, if one is named.
    #[serde(default)]
    pub node: Option<NodeId>,
    /// The CPUs that may be promised for each that is there, in thousandths.
    pub cpu_overcommit_milli: u32,
    /// The memory that may be promised for each byte that is there, in thousandths.
    pub memory_overcommit_milli: u32,
    /// The place of its disks and images.
    #[serde(default)]
    pub pool: Pool,
    /// The URI by which the other hosts' own libvirtd reaches it: then two hosts migrate between themselves. Without it the node
    /// does it, over its connections to both.
    #[serde(default)]
    pub peer_uri: Option<String>,
    /// The address at which other hosts reach it with what networks between hosts carry; without it there are none on it.
    #[serde(default)]
    pub underlay: Option<IpAddr>,
}

impl HostSpec {
    /// Returns a host that promises what it has and no more, has its disks to itself where they are by default, and no labels.
    pub fn new(id: HostId, name: impl Into<String>, uri: impl Into<String>) -> Self {
        Self {
            id,
            name: name.into(),
            uri: uri.into(),
            labels: BTreeMap::new(),
            zone: String::new(),
            node: None,
            cpu_overcommit_milli: 1_000,
            memory_overcommit_milli: 1_000,
            pool: Pool::default(),
            peer_uri: None,
            underlay: None,
        }
    }

    /// Returns the kind of hypervisor that its URI names: the part before `+` or `://`.
    pub fn scheme(&self) -> &str {
        self.uri.split(['+', ':']).next().unwrap_or_default()
    }

    /// Tells whether both have the same disks under the same paths.
    pub fn shares_with(&self, other: &Self) -> bool {
        self.pool.shared && other.pool.shared && self.pool.path == other.pool.path
    }

    /// Returns the name of its set of disks: hosts with the same one have the disks of its VMs. `None` where no other has.
    pub fn disks_of(&self) -> Option<String> {
        let uri = HostUri::parse(&self.uri).ok()?;
        match (uri.has_disks(), self.pool.shared) {
            (false, _) => Some(self.scheme().to_owned()),
            (true, true) => Some(format!("{} {}", self.scheme(), self.pool.path.as_deref().unwrap_or_default())),
            (true, false) => None,
        }
    }

    pub const CPU_OVERCOMMIT_MILLI_DEFAULT: u32 = 4_000;
    pub const MEMORY_OVERCOMMIT_MILLI_DEFAULT: u32 = 1_000;
    pub const OVERCOMMIT_MILLI_MAX: u32 = 64_000;
}

/// The capacity of a host, as its hypervisor says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    pub cpus: u32,
    pub memory_bytes: u64,
    /// The version of the hypervisor, for people.
    pub version: String,
}

/// The kind of driver that a URI names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Simulated,
    Libvirt,
}

/// A host's URI in its parts: `SCHEME://AUTHORITY/PATH?KEY=VALUE&…`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostUri {
    pub scheme: Scheme,
    pub authority: String,
    pub path: String,
    pub query: BTreeMap<String, String>,
    /// The URI as it was given.
    pub text: String,
}

const URI_BYTES_MAX: usize = 512;
/// The ways to a hypervisor that run no program of the asker's. libvirt's `ext` is nothing else.
const TRANSPORTS: [&str; 6] = ["unix", "ssh", "libssh", "libssh2", "tls", "tcp"];
/// The parameters that may be given for the way there. Not `command` and `netcat`, which name programs, and not `no_verify`:
/// then anybody could be the host.
const PARAMETERS: [&str; 10] =
    ["keyfile", "socket", "mode", "known_hosts", "known_hosts_verify", "no_tty", "sshauth", "pkipath", "tls_priority", "proxy"];

impl HostUri {
    /// Parses a host's URI and checks that it reaches a hypervisor and nothing else. Errors: `uri` is invalid, and why.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let bad = |why: String| Refused::invalid("uri", why);
        if text.len() > URI_BYTES_MAX || text.chars().any(char::is_whitespace) {
            return Err(bad(format!("a host's URI has at most {URI_BYTES_MAX} bytes and no spaces")));
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| bad(format!("{text:?} is no URI; write simulated://NAME, test:///default or qemu:///system")))?;
        let kind = match scheme.split('+').next() {
            Some("simulated") => Scheme::Simulated,
            Some("test" | "qemu") => Scheme::Libvirt,
            _ => return Err(bad(format!("{scheme:?} is no driver; there are simulated, test and qemu"))),
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        if authority.split_once('@').is_some_and(|(user, _)| user.contains(':')) {
            return Err(bad("a URI is shown to everybody: it holds no password; use a key or a certificate".into()));
        }
        if kind == Scheme::Simulated && (authority.is_empty() || !path.is_empty()) {
            return Err(bad("a simulated host is simulated://NAME, where all that name the same share one".into()));
        }
        let query = query.split('&').filter(|part| !part.is_empty());
        let query = query.map(|part| part.split_once('=').unwrap_or((part, ""))).map(|(key, value)| (key.into(), value.into()));
        let query: BTreeMap<String, String> = query.collect();
        match kind {
            Scheme::Simulated => simulated::check(&query).map_err(bad)?,
            Scheme::Libvirt => check_way(scheme, authority, path, &query).map_err(bad)?,
        }
        Ok(Self { scheme: kind, authority: authority.into(), path: path.into(), query, text: text.into() })
    }

    /// Tells whether its VMs are made of images that must be kept.
    pub fn has_disks(&self) -> bool {
        self.scheme == Scheme::Libvirt && !self.text.starts_with("test")
    }

    /// Tells whether somebody may move a VM from one such host to another by the hypervisor's own tool.
    pub fn can_move(&self) -> bool {
        self.scheme == Scheme::Simulated || self.has_disks()
    }

    /// Tells whether the URI means another hypervisor on every node that opens it.
    pub fn is_local(&self) -> bool {
        self.scheme == Scheme::Simulated || self.authority.is_empty()
    }
}

/// Checks that what is handed to libvirt reaches a hypervisor, and nothing else: no program of the asker's, no file of the
/// node's.
fn check_way(scheme: &str, authority: &str, path: &str, query: &BTreeMap<String, String>) -> Result<(), String> {
    let (driver, transport) = scheme.split_once('+').unwrap_or((scheme, ""));
    if !transport.is_empty() && !TRANSPORTS.contains(&transport) {
        return Err(format!("{transport:?} is no way to a host; there are {}", TRANSPORTS.join(", ")));
    }
    if driver == "test" && (path, transport) != ("default", "") {
        return Err("the test driver's host is test:///default".into());
    }
    // The ssh program would take them for options.
    if authority.split('@').any(|part| part.starts_with('-')) {
        return Err("neither a user's name nor a host's begins with a dash".into());
    }
    for (name, value) in query {
        if !PARAMETERS.contains(&name.as_str()) {
            return Err(format!("the parameter {name:?} is not known or not allowed; there are {}", PARAMETERS.join(", ")));
        }
        if name == "known_hosts_verify" && value == "ignore" {
            return Err("`known_hosts_verify=ignore` would let anybody be the host; leave it out".into());
        }
        if name == "socket" && !value.replace("%2F", "/").replace("%2f", "/").starts_with('/') {
            return Err("`socket` is an absolute path".into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_runs_no_program_reads_no_file_and_lets_nobody_pose_as_the_host() {
        let refused = [
            "qemu+ext:///system?command=/bin/sh",
            "qemu+ext://host/system",
            "qemu+ssh://host/system?command=/tmp/mine",
            "qemu+ssh://host/system?netcat=/tmp/mine",
            "qemu+ssh://-oProxyCommand=id/system",
            "qemu+ssh://root@-oProxyCommand=id/system",
            "qemu+tls://host/system?no_verify=1",
            "qemu+libssh2://host/system?known_hosts_verify=ignore",
            "qemu+unix:///system?socket=relative",
            "qemu:///system?COMMAND=/bin/sh",
            "test:///etc/shadow",
            "test+ssh://host/default",
            "qemu+:///system?x",
        ];
        for uri in refused {
            assert_eq!(HostUri::parse(uri).unwrap_err().field.as_deref(), Some("uri"), "{uri}");
        }
        let taken = [
            "qemu:///system",
            "qemu:///session",
            "test:///default",
            "qemu+unix:///system?socket=/run/libvirt/libvirt-sock",
            "qemu+unix:///system?socket=%2Frun%2Flibvirt%2Flibvirt-sock",
            "qemu+ssh://root@kvm1.lan/system?keyfile=/k&no_tty=1",
            "qemu+tls://kvm1/system?pkipath=/etc/pki/mine",
            "qemu+tcp://10.0.0.2/system",
            "qemu+libssh2://kvm1/system?known_hosts_verify=auto&sshauth=privkey",
        ];
        for uri in taken {
            assert!(HostUri::parse(uri).is_ok(), "{uri}");
        }
    }

    #[test]
    fn uris_read_as_libvirt_writes_them_and_say_what_is_wrong_with_them() {
        let uri = HostUri::parse("qemu+ssh://root@kvm1/system?keyfile=/k").unwrap();
        assert_eq!((uri.scheme, uri.is_local(), &*uri.path), (Scheme::Libvirt, false, "system"));
        assert_eq!(uri.query["keyfile"], "/k");
        assert!(HostUri::parse("qemu:///system").unwrap().is_local());
        assert!(HostUri::parse("simulated://a?cpus=4").unwrap().is_local());
        let odd = ["simulated://a?cpu=4", "simulated://a?cpus=many", "simulated://a?startMs"];
        for bad in ["", "qemu", "xen:///", "simulated://", "qemu+tcp://a:b@c/system", "simulated://a b"].into_iter().chain(odd) {
            assert_eq!(HostUri::parse(bad).unwrap_err().field.as_deref(), Some("uri"), "{bad}");
        }
    }
}
