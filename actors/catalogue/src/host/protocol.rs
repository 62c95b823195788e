//! What a node and its libvirt driver say to each other: frames of MessagePack, each after its length in four bytes, little
//! end first. This file is part of both programs. Variants and fields have names: add, never rename; who understands less
//! says so by its version.
#![allow(dead_code)] // Each of the two programs uses its own half.

use serde::{Deserialize, Serialize};

pub const VERSION: u32 = 8;
/// A longer frame ends the connection.
pub const FRAME_BYTES_MAX: usize = 32 << 20;

/// Asked by the node. `within_ms` is how long it waits; later nobody hears the answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub id: u64,
    pub within_ms: u64,
    pub call: Call,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Call {
    /// First, and once. `owner` marks this host's domains: 32 hexadecimal digits, as every id here.
    Open {
        version: u32,
        uri: String,
        owner: String,
        pool: Pool,
    },
    Capacity,
    List,
    Act {
        vm: String,
        step: Step<Definition>,
    },
    /// What the agent in a guest says, if there is one.
    Guest {
        vm: String,
    },
    /// Answered when it has ended, however it did; what there is then a look says.
    Migrate {
        vm: String,
        move_: Box<Move>,
    },
    /// How a migration that is under way goes.
    Job {
        vm: String,
    },
    /// Ends a migration that is under way; the domain stays where it was.
    Abort {
        vm: String,
    },
    /// Listens to a domain's serial console, until it ends. What is heard of it carries this number: an older one's end is not
    /// taken for its.
    Console {
        vm: String,
        turn: u64,
    },
    /// Types at one that is listened to.
    Type {
        vm: String,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// Copies a domain's disks as they are now into files of a directory on the node, which is empty.
    Backup {
        vm: String,
        dir: String,
        /// All of them if absent.
        #[serde(default)]
        only: Option<String>,
        #[serde(default)]
        marks: Marks,
    },
    /// From now on these domains are this host's own, and of those that carry another's mark no others. They run on under it.
    Adopt {
        vms: Vec<String>,
    },
    /// Removes images that nobody here is made of, but for these.
    Sweep {
        keep: Vec<String>,
    },
    /// Says one command to the agent in a guest, as JSON.
    GuestCommand {
        vm: String,
        command: String,
    },
    /// Makes these networks what they are to be here; others are left alone.
    EnsureNetworks {
        networks: Vec<Network>,
    },
    /// Removes networks of ours that nothing uses, but for those of these numbers.
    SweepNetworks {
        keep: Vec<u32>,
    },
    /// As `List`, without statistics.
    Glance,
}

/// A network of the cluster as it is to be on one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// No other network of the cluster ever has it: what is made of it on a host is named after it.
    pub number: u32,
    pub name: String,
    pub make: Make,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Make {
    /// The guests of one host among themselves.
    Isolated,
    /// With libvirt's own DHCP, and out through the host's address.
    Nat { gateway: String, prefix: u8, first: String, last: String },
    /// A bridge that the host has.
    Bridge { bridge: String },
    /// One network over many hosts: this host's address between them, and those of the others that carry it.
    Overlay { local: String, peers: Vec<String>, mtu: u32 },
}

impl Network {
    /// What a guest's card is put on, as networks of a definition are written.
    pub fn source(&self) -> String {
        match &self.make {
            Make::Isolated | Make::Nat { .. } => format!("hwn{}-{}", self.number, self.name),
            Make::Bridge { bridge } => format!("bridge:{bridge}"),
            Make::Overlay { .. } => format!("bridge:hwb{}", self.number),
        }
    }

    /// What its frames may hold, where that is not the usual.
    pub const fn mtu(&self) -> Option<u32> {
        match self.make {
            Make::Overlay { mtu, .. } => Some(mtu),
            _ => None,
        }
    }
}

/// A guest's card on a network of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// As it stands among the networks of the definition.
    pub network: String,
    /// What it is put on in its stead.
    pub source: String,
    pub mac: String,
    #[serde(default)]
    pub mtu: Option<u32>,
    /// With its prefix, such as `10.7.0.2/24`; else it is for the guest to find one.
    #[serde(default)]
    pub address: Option<String>,
}

/// The directory on the host that disks and images are in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The usual one if absent.
    pub path: Option<String>,
    /// Other hosts have the same directory under the same path.
    pub shared: bool,
}

/// Bytes that a disk begins as, in a file on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Of its bytes; its name on the host is made of it.
    pub hash: String,
    pub path: String,
    pub bytes: u64,
    /// Of the disk that it is.
    pub virtual_bytes: u64,
    /// `qcow2` or `raw`.
    pub format: String,
    /// Nobody has seen since it was written whether it still is what its hash says.
    #[serde(default)]
    pub verify: bool,
}

/// What a checkpoint of ours is called begins so; others' are left alone.
pub const CHECKPOINT_MARK: &str = "hiveward-";
/// Of a domain, that are ours: each costs memory and a little of every write.
pub const CHECKPOINTS_MAX: usize = 4;

/// From where on a copy of disks counts, and where a later one may begin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// What is written from this moment on is marked under this name, where that can be.
    pub new: Option<String>,
    /// Nothing but what was written since this checkpoint. Where that cannot be it is everything, and the answer says why.
    pub since: Option<String>,
    /// Checkpoints that a later copy may begin at; others of ours are removed.
    pub keep: Vec<String>,
}

/// The disks of a domain as they were at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskCopies {
    pub disks: Vec<DiskCopy>,
    /// They are what was written since this checkpoint; absent if each stands alone.
    pub since: Option<String>,
    /// The checkpoint that was made at that moment, if one was.
    pub mark: Option<String>,
    /// Why they are everything though less was asked for, and why nothing was marked.
    pub why: Option<String>,
}

/// A disk as it was at one moment, or what of it was written since another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskCopy {
    /// As its VM was made with it.
    pub disk: String,
    /// In the directory that it was to be written to.
    pub file: String,
    pub bytes: u64,
    /// Of the disk that it is.
    pub virtual_bytes: u64,
    pub format: String,
    /// BLAKE3, of the file.
    pub hash: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Move {
    /// Opened by the driver, or, with `peer`, by the host's own libvirtd.
    pub to_uri: String,
    pub peer: bool,
    /// The mark that it carries there.
    pub to_owner: String,
    pub to_pool: Pool,
    pub name: String,
    pub live: bool,
    /// MiB/s; as much as there is if absent.
    pub bandwidth_mib: Option<u64>,
    /// Of one that has not ended by itself.
    pub limit_ms: u64,
    pub at_limit: AtLimit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AtLimit {
    /// It stays where it was.
    Abort,
    /// It is paused until it is there.
    Pause,
    /// Its CPUs are slowed from the start, and a longer pause at the end is put up with.
    Converge,
}

/// Bytes and times of a migration; what is not known is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub elapsed_ms: Option<u64>,
    pub total_bytes: Option<u64>,
    pub processed_bytes: Option<u64>,
    pub remaining_bytes: Option<u64>,
    /// Written by the guest, each second.
    pub dirty_bytes: Option<u64>,
    /// Sent, each second.
    pub sent_bytes: Option<u64>,
    /// Passes over the memory.
    pub iteration: Option<u64>,
    /// Of one that slows its guest: by how much of its time, in percent.
    #[serde(default)]
    pub throttle_percent: Option<u64>,
    /// Of one that has ended: how long the guest stood still, as the hypervisor measured it.
    pub downtime_ms: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestInfo {
    pub os: Option<String>,
    pub kernel: Option<String>,
    pub host_name: Option<String>,
    /// Of its interfaces, without those of its own loopback.
    pub addresses: Vec<String>,
}

/// One thing to do about a domain, which `D` defines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step<D> {
    /// Its disks and its definition.
    Define(Box<D>),
    Start,
    /// Presses the power button; the guest may take its time, or not heed it.
    Shutdown,
    /// Pulls the plug.
    Destroy,
    Suspend,
    Resume,
    Reboot,
    /// Its definition and its disks, also those that were made for a definition that never came. Refused while it runs.
    Undefine,
    /// Its definition alone: its disks are another host's now. Refused while it runs.
    Dismiss,
    /// Its disks alone, for a domain that is about to come here.
    Prepare(Box<D>),
    /// Takes away what [`Prepare`](Self::Prepare) made; what has a definition is left alone.
    Discard,
    /// Keeps its disks as they are now under this name, and while it is on its memory as well: it stands still until that
    /// is written. What is there under the name is that.
    Snapshot {
        name: String,
    },
    /// Makes it what it was then, running or not. What it did since is gone.
    Revert {
        name: String,
    },
    /// What was kept under this name.
    RemoveSnapshot {
        name: String,
    },
    /// Ends a backup that is under way, and removes what it wrote on the host.
    EndBackup,
    /// Makes its disks, networks, CPUs and memory those of the definition, in what is defined and, with `live`, as far as
    /// the guest can also in what runs. Says what runs otherwise until it is started again. A disk that is no more
    /// keeps its data. Refused where the guest does not let go of a device.
    Reshape {
        definition: Box<D>,
        live: bool,
    },
    /// The data of a disk that it does not have any more.
    DropDisk {
        name: String,
    },
}

impl<D> Step<D> {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Define(_) => "define",
            Self::Start => "start",
            Self::Shutdown => "shutdown",
            Self::Destroy => "destroy",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Reboot => "reboot",
            Self::Undefine => "undefine",
            Self::Dismiss => "dismiss",
            Self::Prepare(_) => "prepare",
            Self::Discard => "discard",
            Self::Snapshot { .. } => "snapshot",
            Self::Revert { .. } => "revert",
            Self::RemoveSnapshot { .. } => "remove snapshot",
            Self::EndBackup => "end backup",
            Self::Reshape { .. } => "reshape",
            Self::DropDisk { .. } => "drop disk",
        }
    }

    /// The same of a domain that another type defines.
    pub fn map<E>(self, define: impl FnOnce(D) -> E) -> Step<E> {
        match self {
            Self::Define(definition) => Step::Define(Box::new(define(*definition))),
            Self::Prepare(definition) => Step::Prepare(Box::new(define(*definition))),
            Self::Start => Step::Start,
            Self::Shutdown => Step::Shutdown,
            Self::Destroy => Step::Destroy,
            Self::Suspend => Step::Suspend,
            Self::Resume => Step::Resume,
            Self::Reboot => Step::Reboot,
            Self::Undefine => Step::Undefine,
            Self::Dismiss => Step::Dismiss,
            Self::Discard => Step::Discard,
            Self::Snapshot { name } => Step::Snapshot { name },
            Self::Revert { name } => Step::Revert { name },
            Self::RemoveSnapshot { name } => Step::RemoveSnapshot { name },
            Self::EndBackup => Step::EndBackup,
            Self::Reshape { definition, live } => Step::Reshape { definition: Box::new(define(*definition)), live },
            Self::DropDisk { name } => Step::DropDisk { name },
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Definition {
    /// Of the host that it is for.
    pub owner: String,
    pub name: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub image: String,
    /// Absent where nothing is started from it.
    pub base: Option<Base>,
    /// What other disks begin as, by their names.
    #[serde(default)]
    pub bases: Vec<(String, Base)>,
    /// It gets no network at all.
    #[serde(default)]
    pub isolated: bool,
    /// Names and sizes in bytes.
    pub disks: Vec<(String, u64)>,
    pub networks: Vec<String>,
    pub ssh_keys: Vec<String>,
    #[serde(with = "serde_bytes")]
    pub user_data: Vec<u8>,
    /// Of those of its networks that are the cluster's.
    #[serde(default)]
    pub cards: Vec<Card>,
}

/// Said by the driver.
#[derive(Debug, Serialize, Deserialize)]
pub enum Said {
    Answer {
        id: u64,
        result: Result<DriverAnswer, Problem>,
    },
    /// One domain of ours, or nobody knows which.
    Changed {
        vm: Option<String>,
    },
    /// By a serial console that is listened to.
    Console {
        vm: String,
        turn: u64,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// Nothing more is heard of a console.
    ConsoleEnded {
        vm: String,
        turn: u64,
    },
    /// The connection is over, and this process soon is.
    Closed {
        why: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub enum DriverAnswer {
    Opened,
    Capacity {
        cpus: u32,
        memory_bytes: u64,
        version: String,
    },
    Listing {
        domains: Vec<Seen>,
        foreign: u32,
        /// Those of the foreign that carry a mark of ours, but another host's.
        #[serde(default)]
        others: Vec<Seen>,
    },
    Domain(Option<Seen>),
    /// Absent: no agent answers.
    Guest(Option<GuestInfo>),
    GuestCommand(Option<String>),
    BackedUp(DiskCopies),
    /// Of one that has ended well.
    Migrated(Progress),
    /// Absent: none is under way.
    Job(Option<Progress>),
    Done,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Problem {
    Refused(String),
    Failed(String),
    Unreachable(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Power {
    Off,
    OffByGuest,
    OffByForce,
    /// Another host has it now.
    OffByMove,
    Crashed,
    On,
    Paused,
    /// It stands still because a migration says so: on its way in, or handed over and not heard of yet.
    Moving,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Seen {
    pub vm: String,
    pub power: Power,
    pub cpu_time_ns: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub disk_read_bytes: Option<u64>,
    pub disk_written_bytes: Option<u64>,
    pub network_received_bytes: Option<u64>,
    pub network_sent_bytes: Option<u64>,
    /// Its whole name, in a listing.
    #[serde(default)]
    pub name: Option<String>,
    /// In the answer to a reshape.
    #[serde(default)]
    pub lag: Option<Lag>,
}

/// What a domain runs with where that is not what it is defined with: until it is started again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lag {
    pub cpus: u32,
    pub memory_bytes: u64,
    /// Disks and networks that it is defined with and does not have yet, in words.
    #[serde(default)]
    pub devices: Vec<String>,
}
