//! Hosts: registering, draining, removing and listing them.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    ops::Bound,
    time::Duration,
};

use hiveward_access::{resource::ResourceKind, verb::Verb};
use hiveward_catalogue::{
    host::{
        event::FleetChange,
        placing,
        protocol::Pool,
        spec::{HostSpec, HostUri, Scheme},
    },
    roster::message::asks as roster,
};
use hiveward_kernel::{
    commit::Committed,
    id::{HostId, VmId},
    page::Page,
};
use hiveward_machines::{
    host::{
        message::asks as host,
        record::{HostRecord, HostStatus},
    },
    vm::record::VmRecord,
};
use hiveward_runtime::{
    clock::Deadline,
    error::{Code, Refused},
    id::Key,
    ledger::Cursor,
    op::{NodeId, Op},
};

use super::{ControlPlane, Done, check, command::operation, query::page_key};
use crate::client::access::Sought;

/// How long a host that is removed may take to remove what was made on it.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);
/// What is left of a deadline for the removal itself.
const MARGIN: Duration = Duration::from_secs(2);

/// A host that a client registers.
#[derive(Clone, Debug, Default)]
pub struct NewHost {
    pub name: String,
    pub uri: String,
    pub labels: BTreeMap<String, String>,
    pub zone: Option<String>,
    /// The node that opens the connection. For a local libvirt it is this node unless another is named.
    pub node: Option<NodeId>,
    /// The number of CPUs that may be promised for each that is there.
    pub cpu_overcommit: Option<f64>,
    pub memory_overcommit: Option<f64>,
    /// A directory on the host for disks and images; the usual one if absent.
    pub pool: Option<String>,
    /// Whether other hosts have the same directory, under the same path.
    pub pool_shared: bool,
    /// The address at which other hosts' libvirtd reach this one.
    pub peer_uri: Option<String>,
    /// The IP address at which other hosts reach it with what networks between hosts carry.
    pub underlay: Option<String>,
}

fn milli(field: &str, given: Option<f64>, default: u32) -> Result<u32, Refused> {
    let most = f64::from(HostSpec::OVERCOMMIT_MILLI_MAX) / 1e3;
    match given {
        None => Ok(default),
        // It is in range, so it fits.
        Some(ratio) if (0.1..=most).contains(&ratio) => Ok((ratio * 1e3).round() as u32),
        Some(_) => Err(Refused::invalid(field, format!("0.1 to {most}"))),
    }
}

fn underlay(uri: &HostUri, given: Option<&str>) -> Result<Option<IpAddr>, Refused> {
    let Some(given) = given else { return Ok(None) };
    let bad = |why: &str| Refused::invalid("underlay", why);
    let address: IpAddr = given.parse().map_err(|_| bad("an IP address of the host, such as 192.168.1.11"))?;
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return Err(bad("an address at which other hosts reach it"));
    }
    let here = uri.is_local() && (uri.has_disks() || uri.scheme == Scheme::Simulated);
    if !here {
        return Err(bad(
            "networks between hosts are made by a node on the host itself: run one there, and register the host with it as \
             qemu:///system",
        ));
    }
    Ok(Some(address))
}

impl ControlPlane {
    /// Adds a host. It answers when the host is known; its connection is opened after that, and `status` says how that goes.
    pub async fn register_host(&self, op: Op, new: NewHost) -> Result<Done<HostRecord>, Refused> {
        let op = self.may(op, Verb::RegisterHost, Sought::Cluster(ResourceKind::Host)).await?;
        let operation = operation(&op, &new);
        check::name("name", &new.name)?;
        let uri = HostUri::parse(&new.uri)?;
        check::labels("labels", &new.labels)?;
        check::zone("zone", new.zone.as_deref())?;
        if let Some(path) = &new.pool {
            let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
            if !path.starts_with('/')
                || path.len() > 1_024
                || path.contains("..")
                || path.ends_with('/')
                || !path.chars().all(fine)
            {
                return Err(Refused::invalid("pool", "an absolute path of letters, digits, `.`, `_`, `-` and `/`"));
            }
        }
        if new.pool_shared && new.pool.is_none() {
            return Err(Refused::invalid("poolShared", "say with `pool` which directory the hosts share"));
        }
        if let Some(peer) = &new.peer_uri
            && HostUri::parse(peer).map_err(|refused| Refused { field: Some("peerUri".into()), ..refused })?.is_local()
        {
            return Err(Refused::invalid(
                "peerUri",
                "other hosts reach it by a name or an address, as in qemu+tls://HOST/system",
            ));
        }
        let here = uri.scheme == Scheme::Libvirt && uri.is_local();
        let spec = std::sync::Arc::new(HostSpec {
            id: HostId::new(),
            name: new.name,
            uri: new.uri,
            labels: new.labels,
            zone: new.zone.unwrap_or_default(),
            node: new.node.or(here.then_some(self.node)),
            cpu_overcommit_milli: milli("cpuOvercommit", new.cpu_overcommit, HostSpec::CPU_OVERCOMMIT_MILLI_DEFAULT)?,
            memory_overcommit_milli: milli("memoryOvercommit", new.memory_overcommit, HostSpec::MEMORY_OVERCOMMIT_MILLI_DEFAULT)?,
            pool: Pool { path: new.pool, shared: new.pool_shared },
            peer_uri: new.peer_uri,
            underlay: underlay(&uri, new.underlay.as_deref())?,
        });
        let done = self.change_fleet(&op, FleetChange::AddHost { spec }, operation).await?;
        self.host_done(&op, &done.value, done.cursor).await
    }

    /// Lets a host take no more VMs; what runs on it goes to other hosts, or is stopped where that cannot be.
    ///
    /// It answers when that has begun; the host's status says when it is drained. Its VMs stay defined on it, and start again
    /// there when the drain is cancelled and somebody starts them.
    pub async fn drain_host(&self, op: Op, host: HostId) -> Result<Done<HostRecord>, Refused> {
        let op = self.may(op, Verb::DrainHost, host).await?;
        let operation = operation(&op, &("drain-host", host));
        let done = self.change_fleet(&op, FleetChange::DrainHost { host }, operation).await?;
        self.host_done(&op, &done.value, done.cursor).await
    }

    /// Shows what a drain would do now, for each VM that runs there: the host that it would go to, or why it would be stopped.
    pub fn host_drain_plan(&self, host: HostId) -> Vec<(String, Result<String, String>)> {
        let known: HashMap<VmId, VmRecord> = self.vms_on(host).into_iter().map(|record| (record.spec.id, record)).collect();
        let stays = |vm| {
            let state = &known.get(&vm).filter(|record| record.state.is_on())?.state;
            let moves = state.snapshots.is_empty().then_some(());
            Some(moves.ok_or_else(|| "it has snapshots, which do not move".to_owned()))
        };
        self.house.directory.read(|directory| {
            let name = |host: HostId| {
                let entry = directory.fleet.hosts.get(&host);
                entry.map_or_else(|| host.to_string(), |entry| entry.spec.name.clone())
            };
            let plan = placing::evacuate(&directory.fleet, host, stays).into_iter();
            let named = plan.filter_map(|(vm, to)| Some((known.get(&vm)?.spec.name.clone(), to.map(|to| name(to.chosen)))));
            named.collect()
        })
    }

    fn vms_on(&self, host: HostId) -> Vec<VmRecord> {
        let on: Vec<VmId> = self
            .house
            .directory
            .read(|known| known.fleet.hosts.get(&host).map(|entry| entry.vms.iter().copied().collect()).unwrap_or_default());
        // A VM that cannot be read is not planned for, like one that nothing is known of.
        self.house.machines.vms.get_many(&on).unwrap_or_default().into_iter().flatten().collect()
    }

    /// Lets a draining or drained host take VMs again.
    pub async fn cancel_host_drain(&self, op: Op, host: HostId) -> Result<Done<HostRecord>, Refused> {
        let op = self.may(op, Verb::CancelHostDrain, host).await?;
        let operation = operation(&op, &("cancel-host-drain", host));
        let done = self.change_fleet(&op, FleetChange::CancelDrain { host }, operation).await?;
        self.host_done(&op, &done.value, done.cursor).await
    }

    /// Takes a person's word that nothing runs on a host, so that those of its VMs that are to come back elsewhere do. It is for
    /// hosts that nobody else could be sure of, and is refused for one that is not lost as far as is known. `confirm` is its
    /// name. A wrong word can have a VM run twice, where its disks have no lock.
    pub async fn declare_host_lost(&self, op: Op, host: HostId, confirm: String) -> Result<Done<HostRecord>, Refused> {
        let op = self.may(op, Verb::DeclareHostLost, host).await?;
        let operation = operation(&op, &("declare-host-lost", host, &confirm));
        let change = FleetChange::DeclareLost { host, confirm, by: op.principal.clone() };
        let done = self.change_fleet(&op, change, operation).await?;
        self.host_done(&op, &done.value, done.cursor).await
    }

    /// Removes a host; refused while it has VMs. With `force` they are forgotten with it, and what runs on its hypervisor is left
    /// alone. The value is absent where the same operation has removed it before.
    pub async fn remove_host(&self, op: Op, host: HostId, force: bool) -> Result<Done<Option<HostRecord>>, Refused> {
        let op = self.may(op, Verb::RemoveHost, host).await?;
        let operation = operation(&op, &("remove-host", host, force));
        let record = self.surely(&op, |directory| directory.read(|known| known.fleet.hosts.get(&host).map(HostRecord::from)));
        let record = record.await?;
        if let Some(record) = record.as_ref().filter(|record| record.status == HostStatus::Up) {
            self.leave(&op, record).await;
        }
        let done = self.change_fleet(&op, FleetChange::RemoveHost { host, force }, operation).await?;
        self.known_at(&op, done.cursor).await?;
        self.seen(&op, done.cursor).await?;
        Ok(Done { value: record, cursor: done.cursor })
    }

    /// Removes what the host has for VMs that are no more, while somebody can still do it. If that fails the host is removed all
    /// the same.
    async fn leave(&self, op: &Op, record: &HostRecord) {
        let (host, seen) = (record.spec.id, self.head());
        let deadline = Deadline::after(LEAVE_WITHIN.min(op.deadline.remaining().saturating_sub(MARGIN)));
        let left = self.house.ask(deadline, host, host::Leave { seen }).await.map_err(|refused| refused.message);
        if let Some(why) = left.map(|left| left.err().map(|error| error.to_string())).unwrap_or_else(Some) {
            tracing::warn!(host = %record.spec.name, why, "networks and images that were made on it may be left there");
        }
    }

    /// Returns a host as this node's directory has it.
    pub fn host(&self, host: HostId) -> Option<HostRecord> {
        if !self.sees(host) {
            return None;
        }
        self.house.directory.read(|known| known.fleet.hosts.get(&host).map(HostRecord::from))
    }

    /// Returns the hosts of these ids in the same order; `None` for each that is not there.
    pub fn hosts_by_id(&self, hosts: &[HostId]) -> Vec<Option<HostRecord>> {
        hosts.iter().map(|host| self.host(*host)).collect()
    }

    /// Returns the host with this name.
    pub fn host_named(&self, name: &str) -> Option<HostId> {
        self.house.directory.read(|known| known.fleet.host_named(name)).filter(|host| self.sees(*host))
    }

    /// Lists the hosts in one of these states, or all if none is named, in the order of their registration.
    pub fn hosts(&self, status: &[HostStatus], after: Option<&str>, first: usize) -> Result<Page<HostRecord>, Refused> {
        if !self.sees(Sought::Cluster(ResourceKind::Host)) {
            return Ok(Page::default());
        }
        let from = after.map(page_key::<HostId>).transpose()?.map_or(Bound::Unbounded, Bound::Excluded);
        Ok(self.house.directory.read(|known| {
            let mut page = Page::default();
            for (host, entry) in known.fleet.hosts.range((from, Bound::Unbounded)) {
                if !status.is_empty() && !status.contains(&HostStatus::of(entry)) {
                    continue;
                }
                if page.items.len() == first {
                    page.has_next = true;
                    break;
                }
                page.last_seen = Some(host.to_string());
                page.items.push((host.to_string(), HostRecord::from(entry)));
            }
            page
        }))
    }

    pub(super) async fn change_fleet(
        &self,
        op: &Op,
        change: FleetChange,
        operation: Option<hiveward_kernel::operation::Operation>,
    ) -> Result<Committed<Key>, Refused> {
        self.declare(op, roster::Fleet { change, operation }).await
    }

    async fn host_done(&self, op: &Op, host: &Key, cursor: Cursor) -> Result<Done<HostRecord>, Refused> {
        self.known_at(op, cursor).await?;
        let host = HostId::try_from(host).map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        let value = self.host(host).ok_or_else(|| Refused::not_found(host))?;
        Ok(Done { value, cursor })
    }
}
