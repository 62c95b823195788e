//! Where a hypervisor's network devices are: the network namespace of the libvirtd that its socket leads to.
//!
//! Usually it is this process's own. Asked of the kernel, so it holds for a libvirtd in a container or a namespace as well.

use std::{fs::File, os::unix::net::UnixStream, thread};

use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{getsockopt, sockopt::PeerCredentials},
};

use crate::protocol::Problem;

/// Of system daemons, the monolithic one first.
const SOCKETS: [&str; 4] = [
    "/run/libvirt/libvirt-sock",
    "/run/libvirt/virtqemud-sock",
    "/var/run/libvirt/libvirt-sock",
    "/var/run/libvirt/virtqemud-sock",
];

pub struct Place {
    /// Absent: this process is there.
    namespace: Option<File>,
}

impl Place {
    /// Of the hypervisor at a URI; else why its devices cannot be made from here.
    pub fn of(uri: &str) -> Result<Self, String> {
        let sockets = sockets(uri)?;
        let connected = sockets.iter().find_map(|path| UnixStream::connect(path).ok());
        let Some(socket) = connected else {
            return Err(format!("libvirtd's socket is at none of {}", sockets.join(", ")));
        };
        let asked = |what: &str, error: &dyn std::fmt::Display| {
            format!("{what} of libvirtd cannot be seen: {error}; run the node as root")
        };
        let peer = getsockopt(&socket, PeerCredentials).map_err(|error| asked("the process", &error))?;
        // Of another PID namespace that is not below ours.
        if peer.pid() <= 0 {
            return Err("libvirtd is in a container that this process does not see into; run the node beside it".into());
        }
        let of = |process: &str| format!("/proc/{process}/ns/net");
        let theirs = of(&peer.pid().to_string());
        let namespace = |path: &str| std::fs::read_link(path).map_err(|error| asked("the network namespace", &error));
        if namespace(&theirs)? == namespace(&of("self"))? {
            return Ok(Self { namespace: None });
        }
        let namespace = File::open(theirs).map_err(|error| asked("the network namespace", &error))?;
        Ok(Self { namespace: Some(namespace) })
    }

    /// Does something in a thread that is there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T, Problem> + Send) -> Result<T, Problem> {
        let enter = || match &self.namespace {
            Some(namespace) => setns(namespace, CloneFlags::CLONE_NEWNET)
                .map_err(|error| Problem::Refused(format!("libvirtd's network namespace cannot be entered: {error}"))),
            None => Ok(()),
        };
        thread::scope(|scope| {
            // A thread of its own: it never comes back to this namespace.
            let done = scope.spawn(|| enter().and_then(|()| work())).join();
            done.unwrap_or_else(|_| Err(Problem::Failed("the network devices could not be looked at".into())))
        })
    }
}

/// Where the daemon's socket may be.
fn sockets(uri: &str) -> Result<Vec<String>, String> {
    let (scheme, rest) = uri.split_once("://").unwrap_or((uri, ""));
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !matches!(scheme, "qemu" | "qemu+unix") || !place.starts_with('/') {
        return Err("it is reached over a network; run a node on it, and register it there as qemu:///system".into());
    }
    if place != "/system" {
        return Err("its guests are those of one user; use qemu:///system".into());
    }
    let given = query.split('&').find_map(|part| part.strip_prefix("socket="));
    Ok(given.map_or_else(|| SOCKETS.map(str::to_owned).into(), |path| vec![decoded(path)]))
}

/// Without its `%2F`s.
fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let hex = part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (hex, part.get(2..)) {
            (Some(byte), Some(rest)) => {
                bytes.push(byte);
                bytes.extend_from_slice(rest.as_bytes());
            }
            _ => {
                bytes.push(b'%');
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_a_hypervisor_on_this_machine_has_a_socket_here() {
        assert_eq!(sockets("qemu:///system").unwrap(), SOCKETS);
        assert_eq!(sockets("qemu+unix:///system?socket=/run/a%2Fb").unwrap(), ["/run/a/b"]);
        for far in ["qemu+ssh://root@kvm1/system", "qemu+tcp://kvm1/system", "qemu://kvm1/system", "test:///default"] {
            assert!(sockets(far).unwrap_err().contains("run a node on it"), "{far}");
        }
        assert!(sockets("qemu:///session").unwrap_err().contains("qemu:///system"));
    }
}
