//! Which test process made a namespace, a link, a mount or a directory, and whether it still lives.

use std::{
    fs,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::PathBuf,
};

/// A process, told apart from a later one with the same id by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    pub pid: u32,
    /// In clock ticks since the machine's start.
    start: u64,
}

const DIR_PREFIX: &str = "hiveward-field-";

impl Owner {
    pub fn me() -> Self {
        Self::of(std::process::id()).expect("a process knows itself")
    }

    /// None if there is no such process, or only its exit status is left.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; what follows it does not.
        let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
        let state = fields.next()?;
        let start = fields.nth(18)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Self { pid, start })
    }

    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// `PID-START`: part of the name of all it makes.
    pub fn label(self) -> String {
        format!("{}-{}", self.pid, self.start)
    }

    pub fn parse(label: &str) -> Option<Self> {
        let (pid, start) = label.split_once('-')?;
        Some(Self { pid: pid.parse().ok()?, start: start.parse().ok()? })
    }

    pub fn dir(self) -> PathBuf {
        std::env::temp_dir().join(format!("{DIR_PREFIX}{}", self.label()))
    }

    pub(super) fn of_dir(name: &str) -> Option<Self> {
        Self::parse(name.strip_prefix(DIR_PREFIX)?)
    }

    pub(super) fn namespace(self, cluster: u32, node: usize) -> String {
        format!("{DIR_PREFIX}{}-c{cluster}n{node}", self.label())
    }

    pub(super) fn of_namespace(name: &str) -> Option<Self> {
        let (label, _) = name.strip_prefix(DIR_PREFIX)?.rsplit_once("-c")?;
        Self::parse(label)
    }

    /// Names of links have 15 bytes: a digest stands for the owner there, and the link's alias says it in full.
    pub(super) fn link(self, rest: &str) -> String {
        let mixed = (u64::from(self.pid) << 32 ^ self.start).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        format!("hw{:07x}{rest}", mixed >> 36)
    }

    pub(super) fn alias(self) -> String {
        format!("{DIR_PREFIX}{}", self.label())
    }

    pub(super) fn of_alias(alias: &str) -> Option<Self> {
        Self::of_dir(alias.trim())
    }
}

/// A subnet's number that no other living test process has.
pub struct Subnet {
    pub number: u16,
    /// An abstract socket as a lock: it goes with the process.
    _lock: UnixListener,
}

impl Subnet {
    pub(super) fn take() -> Self {
        loop {
            let number = fastrand::u16(..512);
            let name = SocketAddr::from_abstract_name(format!("{DIR_PREFIX}subnet-{number}")).unwrap();
            if let Ok(lock) = UnixListener::bind_addr(&name) {
                return Self { number, _lock: lock };
            }
        }
    }

    /// In 198.18.0.0/15, which is kept for benches and leads nowhere; or the loopback's own.
    pub(super) fn address(&self, loopback: bool, host: u8) -> std::net::Ipv4Addr {
        let [high, low] = self.number.to_be_bytes();
        std::net::Ipv4Addr::new(if loopback { 127 } else { 198 }, 18 + high, low, host)
    }
}
