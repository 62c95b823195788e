//! What speaks to a hypervisor. One connection per host; a driver is a file here and a line in [`open`].
//!
//! A driver holds no wishes: it does one action at a time and tells what it sees. Every call ends by its deadline. Every
//! action may be repeated: on a domain that already is as the action would make it, it answers as if it had done it.
//! [`contract`] is what each driver is held to.

#[doc(hidden)]
pub mod contract;
pub mod libvirt;
pub mod simulated;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use hiveward_catalogue::{
    host::{
        protocol::{AtLimit, Base, Card, DiskCopies, GuestInfo, Lag, Marks, Network, Pool, Progress},
        spec::{Capacity, HostUri, Scheme},
    },
    vm::spec::DiskSpec,
};
use hiveward_kernel::id::{HostId, VmId};
use hiveward_runtime::{clock::Deadline, resilience::BreakerLimits};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// Number of changes that wait to be looked at; when more come, one [`Change::Everything`] stands for all.
pub const CHANGES_MAX: usize = 1_024;

/// After failures in a row nothing is asked of the hypervisor for a while.
pub(super) const BREAKER: BreakerLimits = BreakerLimits {
    failures_max: 3,
    first: Duration::from_millis(500),
    longest: Duration::from_secs(30),
    probe_within: Duration::from_secs(30),
};

/// All that a hypervisor needs to make a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainSpec {
    /// Host that made it: what carries another mark is not touched.
    pub owner: HostId,
    pub name: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub image: String,
    /// Image itself, where domains are made of images.
    pub base: Option<Base>,
    /// What other disks begin as, by their names.
    pub bases: Vec<(String, Base)>,
    /// Whether it gets no network at all.
    pub isolated: bool,
    pub disks: Vec<DiskSpec>,
    pub networks: Vec<String>,
    pub ssh_keys: Vec<String>,
    #[serde(with = "serde_bytes")]
    pub user_data: Vec<u8>,
    /// Cards on those of its networks that are the cluster's.
    #[serde(default)]
    pub cards: Vec<Card>,
}

/// What can be done about a domain: the same list that goes to the drivers that are programs.
pub type Action = hiveward_catalogue::host::protocol::Step<DomainSpec>;

/// Why a domain is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Off {
    /// The domain was never started since it was defined, or nobody knows any more.
    Unknown,
    /// The guest shut itself down.
    Shutdown,
    /// Somebody pulled the plug.
    Destroyed,
    /// The guest ended without anybody's will.
    Crashed,
    /// Another host has it: it runs there, and would run twice if it were started.
    Moved,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Run {
    Off(Off),
    Running,
    Paused,
    /// The guest stands still because a migration says so: on its way in, or handed over and not confirmed.
    Moving,
}

impl Run {
    /// Tells whether the domain is on, also while it stands still.
    pub const fn is_on(self) -> bool {
        !matches!(self, Self::Off(_))
    }
}

/// Usage of a domain, as it was measured; what was not is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub cpu_time_ns: Option<u64>,
    /// Bytes of memory that are resident on the host.
    pub memory_bytes: Option<u64>,
    pub disk_read_bytes: Option<u64>,
    pub disk_written_bytes: Option<u64>,
    pub network_received_bytes: Option<u64>,
    pub network_sent_bytes: Option<u64>,
}

/// A domain of ours as the hypervisor has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    pub vm: VmId,
    pub owner: HostId,
    pub run: Run,
    /// Number of times that it began to run, if the driver counts that.
    pub boots: Option<u64>,
    pub usage: Usage,
    /// Epoch of its VM that it was made for, by its name.
    #[serde(default)]
    pub epoch: u64,
    /// What of its definition it does not run with; said when it was reshaped, and not otherwise.
    #[serde(default)]
    pub lag: Option<Lag>,
}

/// Returns what the domain of a VM is called in this epoch. No VM's own name has a `+`.
pub fn domain_name(vm: &str, epoch: u64) -> String {
    if epoch == 0 { vm.to_owned() } else { format!("{vm}+{epoch}") }
}

/// Returns the epoch in a domain's name; 0 if it has none.
pub fn epoch_of(name: &str) -> u64 {
    name.rsplit_once('+').and_then(|(_, epoch)| epoch.parse().ok()).unwrap_or(0)
}

/// Everything on a host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    pub domains: Vec<Domain>,
    /// Number of domains that do not carry this host's mark.
    pub foreign: u32,
    /// Those of them that carry another host's mark: they were made there. Their owner is not said.
    #[serde(default)]
    pub others: Vec<Domain>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum DriverError {
    /// The hypervisor says no, and would again.
    #[error("{message}")]
    Refused { message: String },
    /// It could not be done this time; the same action goes on from what was done before the failure.
    #[error("{message}")]
    Failed { message: String },
    /// There is no connection. It may have happened.
    #[error("the hypervisor cannot be reached: {message}")]
    Unreachable { message: String },
    /// No answer came in time. It may have happened, or still happen.
    #[error("no answer from the hypervisor within {waited_ms} ms")]
    Expired { waited_ms: u64 },
}

impl DriverError {
    /// Tells whether the same again may succeed.
    pub const fn may_pass(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }

    /// Tells whether the error says something about this try alone.
    pub const fn is_of_try(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }

    /// Tells whether the error says something about the connection rather than about one domain.
    pub const fn is_of_host(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Expired { .. })
    }
}

/// What a driver says unasked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// This domain is not what it was.
    Domain(VmId),
    /// Too many domains have changed to name them.
    Everything,
    /// The connection is over; open another.
    Closed { why: String },
}

/// Number of pieces of a console's output that wait to be recorded; of more than that it is said how much was left out.
pub const CONSOLE_PIECES_MAX: usize = 256;

/// What a serial console said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleBytes {
    /// Number of bytes before these that came too fast.
    pub missed: u64,
    pub bytes: bytes::Bytes,
}

/// A domain's way from one host to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    pub to: HostId,
    /// Address of the other host, as this one's node or, with `peer`, the host itself reaches it.
    pub uri: String,
    pub peer: bool,
    pub pool: Pool,
    pub name: String,
    /// Whether the guest runs meanwhile.
    pub live: bool,
    /// Bandwidth that it may use; as much as there is if absent.
    pub bandwidth_mib: Option<u64>,
    pub limit_ms: u64,
    pub at_limit: AtLimit,
}

/// A connection to a hypervisor. It is cheap to share; dropping the last clone closes it.
pub trait Driver: Send + Sync + 'static {
    fn capacity(&self, deadline: Deadline) -> BoxFuture<'_, Result<Capacity, DriverError>>;

    /// Lists all domains with their statistics, in one call to the hypervisor.
    fn list(&self, deadline: Deadline) -> BoxFuture<'_, Result<Listing, DriverError>>;

    /// Lists all domains as [`list`](Self::list) does, perhaps without statistics: cheap enough for after every change.
    fn glance(&self, deadline: Deadline) -> BoxFuture<'_, Result<Listing, DriverError>> {
        self.list(deadline)
    }

    /// Makes these domains this host's own from now on, and of those that were made on other hosts no others. They run on as they
    /// do, and keep what they are called.
    fn adopt(&self, vms: Vec<VmId>, deadline: Deadline) -> BoxFuture<'_, Result<(), DriverError>>;

    /// Does one action about a domain, and answers with it as it is afterwards; `None` if there is none.
    fn act(&self, vm: VmId, action: Action, deadline: Deadline) -> BoxFuture<'_, Result<Option<Domain>, DriverError>>;

    /// Returns what the agent in a guest says; `None` if none answers.
    fn guest(&self, vm: VmId, deadline: Deadline) -> BoxFuture<'_, Result<Option<GuestInfo>, DriverError>>;

    /// Says one command to the agent in a guest, in the agent's own protocol, and answers with what it returned, both as JSON.
    /// `None` if no agent answers: it may have heard it. Refused is the agent's own word.
    fn guest_command(&self, vm: VmId, command: String, deadline: Deadline) -> BoxFuture<'_, Result<Option<String>, DriverError>>;

    /// Makes these networks what they are to be on this host, each in its turn; others are left alone. Refused where the
    /// hypervisor cannot have one, and where something that is not ours is in its place.
    fn ensure_networks(&self, networks: Vec<Network>, deadline: Deadline) -> BoxFuture<'_, Result<(), DriverError>>;

    /// Removes networks of this host's that no domain is on, but for those of these numbers.
    fn sweep_networks(&self, keep: Vec<u32>, deadline: Deadline) -> BoxFuture<'_, Result<(), DriverError>>;

    /// Removes images that no disk is made of, but for those of these hashes.
    fn sweep(&self, keep: Vec<String>, deadline: Deadline) -> BoxFuture<'_, Result<(), DriverError>>;

    /// Tells whether each console is listened to for as long as its domain runs; else it is when somebody asks for it.
    fn records_consoles(&self) -> bool;

    /// Returns what a domain's serial console says from now on, until the domain or the connection ends. Refused while another
    /// listens, and where there is none.
    fn console(&self, vm: VmId, deadline: Deadline) -> BoxFuture<'_, Result<mpsc::Receiver<ConsoleBytes>, DriverError>>;

    /// Types at a console that is listened to.
    fn type_console(&self, vm: VmId, bytes: Vec<u8>, deadline: Deadline) -> BoxFuture<'_, Result<(), DriverError>>;

    /// Copies a domain's disks, all as they are at one moment, into files of `dir`, an empty directory of this node. The guest
    /// runs on. Each copy stands alone, unless `marks` asks for what was written since a checkpoint and that is known.
    /// Repeated, it begins anew. With `only` that disk alone.
    fn backup<'a>(
        &'a self,
        vm: VmId,
        dir: &'a std::path::Path,
        only: Option<&'a str>,
        marks: Marks,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<DiskCopies, DriverError>>;

    /// Ends when the migration has: well, and it is there, or not, and only a look at both hosts says where it is. What
    /// of it was measured is in the answer. Dropping it leaves the migration to its limit.
    fn migrate(&self, vm: VmId, migration: Migration, deadline: Deadline) -> BoxFuture<'_, Result<Progress, DriverError>>;

    /// Tells how the migration of a domain goes; `None` if none is under way.
    fn job(&self, vm: VmId, deadline: Deadline) -> BoxFuture<'_, Result<Option<Progress>, DriverError>>;

    /// Ends the migration of a domain, which stays where it was. An error if there was none to end.
    fn abort(&self, vm: VmId, deadline: Deadline) -> BoxFuture<'_, Result<(), DriverError>>;
}

/// A connection, and what its owner must do with it: listen, and run the pump for as long as it is held.
pub struct Connection {
    pub driver: Arc<dyn Driver>,
    pub changes: mpsc::Receiver<Change>,
    pub pump: BoxFuture<'static, ()>,
}

/// Opens a connection to the hypervisor at `uri` for `host`.
pub async fn open(uri: &HostUri, host: HostId, pool: &Pool, deadline: Deadline) -> Result<Connection, DriverError> {
    match uri.scheme {
        Scheme::Simulated => simulated::open(uri, host),
        Scheme::Libvirt => libvirt::open(uri, host, pool, deadline).await,
    }
}
