//! Hypervisor hosts: their type, queries and mutations.

use std::sync::Arc;

use async_graphql::{Context, ID, InputObject, Object, SimpleObject};
use hiveward_actors::client::{self, Done, NewHost};
use hiveward_machines::host::record::HostRecord;
use hiveward_runtime::error::Refused;

use super::{
    Result, caught_up, door,
    enums::HostStatus,
    op,
    page::{self, Pages},
    parse,
    scalars::{BigInt, Cursor, DateTime},
    task::Label,
    task_input::LabelInput,
    vm::{self, Vm, VmFilter},
};

/// A machine that runs VMs, reached through a driver.
#[derive(Clone)]
pub struct Host(pub Arc<HostRecord>);

impl From<HostRecord> for Host {
    fn from(record: HostRecord) -> Self {
        Self(Arc::new(record))
    }
}

#[Object]
impl Host {
    pub(super) async fn id(&self) -> ID {
        self.0.spec.id.to_string().into()
    }
    /// Unique in the cluster.
    async fn name(&self) -> &str {
        &self.0.spec.name
    }
    async fn uri(&self) -> &str {
        &self.0.spec.uri
    }
    async fn status(&self) -> HostStatus {
        self.0.status.into()
    }
    /// Why it cannot be used, if it cannot.
    async fn why(&self) -> Option<&str> {
        self.0.why.as_deref()
    }
    /// The node that holds its connection.
    async fn node_id(&self) -> Option<ID> {
        self.0.node.map(|node| node.to_string().into())
    }
    async fn labels(&self) -> Vec<Label> {
        self.0.spec.labels.iter().map(|(key, value)| Label { key: key.clone(), value: value.clone() }).collect()
    }
    async fn zone(&self) -> Option<&str> {
        Some(self.0.spec.zone.as_str()).filter(|zone| !zone.is_empty())
    }
    /// What it has, as its hypervisor says; absent until it was reached.
    async fn capacity(&self) -> Option<HostCapacity> {
        let capacity = self.0.capacity.as_ref()?;
        Some(HostCapacity { cpus: capacity.cpus, memory_bytes: BigInt(capacity.memory_bytes), version: capacity.version.clone() })
    }
    /// What its VMs may use, by what they were made with, and how much of that it takes.
    async fn reserved(&self) -> HostReserved {
        HostReserved {
            cpus: self.0.reserved_cpus,
            memory_bytes: BigInt(self.0.reserved_memory_bytes),
            cpus_max: self.0.reservable_cpus,
            memory_bytes_max: BigInt(self.0.reservable_memory_bytes),
        }
    }
    /// CPUs that may be promised for each that is there.
    async fn cpu_overcommit(&self) -> f64 {
        f64::from(self.0.spec.cpu_overcommit_milli) / 1e3
    }
    async fn memory_overcommit(&self) -> f64 {
        f64::from(self.0.spec.memory_overcommit_milli) / 1e3
    }
    /// The directory for disks and images; absent if it is the usual one.
    async fn pool(&self) -> Option<&str> {
        self.0.spec.pool.path.as_deref()
    }
    /// Whether other hosts have the same directory.
    async fn pool_shared(&self) -> bool {
        self.0.spec.pool.shared
    }
    async fn peer_uri(&self) -> Option<&str> {
        self.0.spec.peer_uri.as_deref()
    }
    /// Where other hosts reach it with what overlay networks carry.
    async fn underlay(&self) -> Option<String> {
        self.0.spec.underlay.map(|address| address.to_string())
    }
    async fn vm_count(&self) -> u32 {
        self.0.vms
    }
    /// What a drain would come to now, for each VM that runs on it: evacuating it is draining it.
    async fn drain_plan(&self, ctx: &Context<'_>) -> Result<Vec<DrainStep>> {
        let plan = door(ctx)?.host_drain_plan(self.0.spec.id);
        Ok(plan.into_iter().map(|(vm, to)| DrainStep { vm, to: to.clone().ok(), why_stopped: to.err() }).collect())
    }
    async fn added_at(&self) -> DateTime {
        self.0.added_at.into()
    }
    async fn vms(
        &self,
        ctx: &Context<'_>,
        filter: Option<VmFilter>,
        first: Option<i32>,
        after: Option<String>,
    ) -> Result<Pages<Vm>> {
        let host = self.0.spec.id;
        vm::list(ctx, filter.unwrap_or_default(), |filter| filter.host = Some(host), first, after.as_deref())
    }
}

/// What becomes of one VM when its host is drained.
#[derive(SimpleObject)]
pub struct DrainStep {
    /// Its name.
    vm: String,
    /// The name of the host that it goes to.
    to: Option<String>,
    /// Why it goes nowhere, and is stopped.
    why_stopped: Option<String>,
}

#[derive(SimpleObject)]
pub struct HostCapacity {
    cpus: u32,
    memory_bytes: BigInt,
    /// Of the hypervisor.
    version: String,
}

#[derive(SimpleObject)]
pub struct HostReserved {
    cpus: u32,
    memory_bytes: BigInt,
    /// With overcommit.
    cpus_max: f64,
    memory_bytes_max: BigInt,
}

#[derive(InputObject)]
pub struct RegisterHostInput {
    operation_id: Option<ID>,
    /// Unique in the cluster.
    name: String,
    /// `simulated://NAME`, `test:///default`, `qemu:///system` and libvirt's others. It is shown, so it holds no password.
    uri: String,
    labels: Option<Vec<LabelInput>>,
    zone: Option<String>,
    /// The node that opens the connection; for a local libvirt the one that is asked, if absent.
    node: Option<ID>,
    /// CPUs that may be promised for each that is there; 4 if absent.
    cpu_overcommit: Option<f64>,
    /// 1 if absent.
    memory_overcommit: Option<f64>,
    /// The directory on the host for disks and images, of libvirt hosts; libvirt's own images' one if absent.
    pool: Option<String>,
    /// Other hosts have the same directory under the same path, so that a VM can move without its disks.
    #[graphql(default)]
    pool_shared: bool,
    /// How other hosts' libvirtd reach this one, such as `qemu+tls://HOST/system`: then two such hosts migrate between
    /// themselves. Without it the node does it over its connections to both.
    peer_uri: Option<String>,
    /// The IP address at which other hosts reach it with what overlay networks carry; without it none is on it. Only of a
    /// hypervisor on the node's own machine, as `qemu:///system`.
    underlay: Option<String>,
}

#[derive(InputObject)]
pub struct DrainHostInput {
    operation_id: Option<ID>,
    /// By key or name.
    host: ID,
}

#[derive(InputObject)]
pub struct CancelHostDrainInput {
    operation_id: Option<ID>,
    /// By key or name.
    host: ID,
}

#[derive(InputObject)]
pub struct DeclareHostLostInput {
    operation_id: Option<ID>,
    /// By key or name.
    host: ID,
    /// Its name: that the right one is meant.
    confirm: String,
}

#[derive(InputObject)]
pub struct RemoveHostInput {
    operation_id: Option<ID>,
    /// By key or name.
    host: ID,
    /// Even with VMs: they are forgotten with it, and what runs on its hypervisor is left alone.
    #[graphql(default)]
    force: bool,
}

#[derive(InputObject, Default)]
pub struct HostFilter {
    status: Option<Vec<HostStatus>>,
}

/// A host by id or by name.
pub(super) fn host_id(ctx: &Context<'_>, field: &str, given: &ID) -> Result<hiveward_kernel::id::HostId, Refused> {
    parse::reference(field, given)?;
    if given.starts_with("host_") {
        return parse::id(field, given);
    }
    let control = door(ctx).map_err(|error| Refused::new(hiveward_runtime::error::Code::Internal, error.message))?;
    let found = control.host_named(given);
    found.ok_or_else(|| Refused { field: Some(field.into()), ..Refused::not_found(format!("host named {:?}", given.as_str())) })
}

#[derive(Default)]
pub struct HostQuery;

#[Object]
impl HostQuery {
    async fn hosts(
        &self,
        ctx: &Context<'_>,
        filter: Option<HostFilter>,
        first: Option<i32>,
        after: Option<String>,
        at_least: Option<Cursor>,
    ) -> Result<Pages<Host>> {
        caught_up(ctx, at_least).await?;
        let status: Vec<_> = filter.unwrap_or_default().status.unwrap_or_default().into_iter().map(Into::into).collect();
        let after = after.as_deref();
        Ok(page::connection(door(ctx)?.hosts(&status, after, page::first(first)?)?, after))
    }
}

/// The payloads of all host mutations have the same shape and each its own name.
macro_rules! payloads {
    ($($name:ident),+) => {$(
        #[derive(SimpleObject)]
        pub struct $name {
            host: Host,
            cursor: Cursor,
        }

        impl From<Done<HostRecord>> for $name {
            fn from(done: Done<HostRecord>) -> Self {
                Self { host: done.value.into(), cursor: done.cursor.into() }
            }
        }
    )+};
}

payloads!(RegisterHostPayload, DrainHostPayload, CancelHostDrainPayload, DeclareHostLostPayload);

#[derive(SimpleObject)]
pub struct RemoveHostPayload {
    /// As it was; absent where the same operation has removed it before.
    host: Option<Host>,
    cursor: Cursor,
}

impl From<Done<Option<HostRecord>>> for RemoveHostPayload {
    fn from(done: Done<Option<HostRecord>>) -> Self {
        Self { host: done.value.map(Host::from), cursor: done.cursor.into() }
    }
}

#[derive(Default)]
pub struct HostMutation;

#[Object]
impl HostMutation {
    /// Answers when it is known; its status says how connecting to it goes.
    async fn register_host(&self, ctx: &Context<'_>, input: RegisterHostInput) -> Result<RegisterHostPayload> {
        let new = NewHost {
            name: parse::name("name", input.name)?,
            uri: input.uri,
            labels: input.labels.unwrap_or_default().into_iter().map(|label| (label.key, label.value)).collect(),
            zone: input.zone,
            node: parse::optional("node", input.node.as_ref())?,
            cpu_overcommit: input.cpu_overcommit,
            memory_overcommit: input.memory_overcommit,
            pool: input.pool,
            pool_shared: input.pool_shared,
            peer_uri: input.peer_uri,
            underlay: input.underlay,
        };
        Ok(door(ctx)?.register_host(op(ctx, input.operation_id.as_ref())?, new).await?.into())
    }
    /// It takes no more VMs, and what runs on it goes to other hosts, or is stopped where that cannot be. Answers when that
    /// has begun.
    async fn drain_host(&self, ctx: &Context<'_>, input: DrainHostInput) -> Result<DrainHostPayload> {
        let host = host_id(ctx, "host", &input.host)?;
        Ok(door(ctx)?.drain_host(op(ctx, input.operation_id.as_ref())?, host).await?.into())
    }
    /// It takes VMs again; what was stopped stays so.
    async fn cancel_host_drain(&self, ctx: &Context<'_>, input: CancelHostDrainInput) -> Result<CancelHostDrainPayload> {
        let host = host_id(ctx, "host", &input.host)?;
        Ok(door(ctx)?.cancel_host_drain(op(ctx, input.operation_id.as_ref())?, host).await?.into())
    }
    /// Your word that nothing runs on a host any more, for one that is lost and that its node cannot end: its VMs with `ha`
    /// come back elsewhere. If it does run, a VM may run twice where its disks have no lock.
    async fn declare_host_lost(&self, ctx: &Context<'_>, input: DeclareHostLostInput) -> Result<DeclareHostLostPayload> {
        let host = host_id(ctx, "host", &input.host)?;
        let op = op(ctx, input.operation_id.as_ref())?;
        Ok(door(ctx)?.declare_host_lost(op, host, input.confirm).await?.into())
    }
    async fn remove_host(&self, ctx: &Context<'_>, input: RemoveHostInput) -> Result<RemoveHostPayload> {
        let (control, op) = (door(ctx)?, op(ctx, input.operation_id.as_ref())?);
        let host = host_id(ctx, "host", &input.host).or_else(|unknown| control.was_about(&op).ok_or(unknown))?;
        Ok(control.remove_host(op, host, input.force).await?.into())
    }
}

pub(super) fn find(control: &client::ControlPlane, id: &ID) -> Result<Option<Host>, Refused> {
    Ok(control.host(parse::id("id", id)?).map(Host::from))
}
