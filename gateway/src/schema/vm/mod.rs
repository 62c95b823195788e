//! VMs: their type and queries here, and a file for each other part of them.

mod backup;
mod console;
mod copy;
mod guest;
mod ha;
mod input;
mod mutation;
mod operation;
mod placement;
mod shape;

use std::sync::Arc;

use async_graphql::{Context, ID, InputObject, Object, SimpleObject, dataloader::DataLoader};

pub use backup::{BackupMutation, BackupQuery};
use backup::{VmBackup, VmBackupSchedule};

pub use console::{ConsoleFeed, ConsoleMutation};
pub use copy::CopyMutation;
pub use guest::GuestMutation;
use hiveward_actors::client;
use hiveward_machines::vm::{self, record::VmRecord, snapshot::Snapshot};

use ha::VmHaStatus;

use super::{
    Result, caught_up, door,
    enums::{VmStatus, VmWanted},
    host::{Host, host_id},
    load::{Measured, Views},
    network::VmAddress,
    page::{self, Pages},
    scalars::{BigInt, Cursor, DateTime},
    task::Label,
};
use crate::schema::access::Project;
pub use input::DiskInput;
pub(super) use input::vm_id;
pub use mutation::VmMutation;
use operation::{VmMigration, VmOperation};

pub(super) use placement::VmPlacement;
pub use shape::ShapeMutation;
use shape::VmPendingRestart;

/// A virtual machine.
#[derive(Clone)]
pub struct Vm(pub Arc<VmRecord>);

impl From<VmRecord> for Vm {
    fn from(record: VmRecord) -> Self {
        Self(Arc::new(record))
    }
}

#[Object]
impl Vm {
    pub(super) async fn id(&self) -> ID {
        self.0.spec.id.to_string().into()
    }
    /// The project that it belongs to.
    async fn project(&self, ctx: &Context<'_>) -> Result<Option<Project>> {
        Project::find(ctx, self.0.spec.project)
    }
    /// Unique in its project.
    async fn name(&self) -> &str {
        &self.0.spec.name
    }
    async fn status(&self) -> VmStatus {
        self.0.status.into()
    }
    /// What it shall be, by what was last asked of it.
    async fn wanted(&self) -> VmWanted {
        self.0.state.wanted.into()
    }
    /// What its hypervisor last said it is, such as `running`, `shut down`, `crashed`, or `absent` while it knows nothing of it.
    async fn observed(&self) -> &str {
        self.0.state.seen.words()
    }
    /// Why it is not as it was wanted.
    async fn failure(&self) -> Option<&str> {
        self.0.state.withheld.as_deref().or(self.0.state.failed.as_deref())
    }
    async fn host(&self, ctx: &Context<'_>) -> Result<Option<Host>> {
        let views: &DataLoader<Views> = ctx.data()?;
        Ok(views.load_one(self.0.host).await?.map(Host))
    }
    async fn image(&self) -> &str {
        &self.0.spec.image
    }
    async fn cpus(&self) -> u32 {
        self.0.spec.cpus
    }
    async fn memory_bytes(&self) -> BigInt {
        BigInt(self.0.spec.memory_bytes)
    }
    async fn disks(&self) -> Vec<Disk> {
        self.0.spec.disks.iter().map(|disk| Disk { name: disk.name.clone(), size_bytes: BigInt(disk.size_bytes) }).collect()
    }
    /// Each one of the cluster's by its name, or `bridge:NAME` of its host's, or one of its hypervisor's own.
    async fn networks(&self) -> &[String] {
        &self.0.spec.networks
    }
    /// What it has on those of its networks that are the cluster's.
    async fn network_addresses(&self, ctx: &Context<'_>) -> Result<Vec<VmAddress>> {
        Ok(door(ctx)?.vm_cards(self.0.spec.id).into_iter().map(VmAddress::from).collect())
    }
    /// What its present run does not have of its CPUs, memory, disks and networks, or has beyond them.
    async fn pending_restart(&self) -> Option<VmPendingRestart> {
        self.0.state.lag.as_ref().map(VmPendingRestart::from)
    }
    async fn ssh_keys(&self) -> &[String] {
        &self.0.spec.ssh_keys
    }
    async fn anti_affinity(&self) -> &[String] {
        &self.0.spec.anti_affinity
    }
    async fn affinity(&self) -> &[String] {
        &self.0.spec.affinity
    }
    async fn zone(&self) -> Option<&str> {
        self.0.spec.zone.as_deref()
    }
    async fn host_labels(&self) -> Vec<Label> {
        self.0.spec.host_labels.iter().map(|(key, value)| Label { key: key.clone(), value: value.clone() }).collect()
    }
    /// It is to come back on another host when its own is lost.
    async fn ha(&self) -> bool {
        self.0.spec.ha
    }
    /// How it stands with that.
    async fn ha_status(&self, ctx: &Context<'_>) -> Result<VmHaStatus> {
        let known = door(ctx)?.vm_ha(self.0.spec.id);
        Ok(VmHaStatus { record: self.0.clone(), known })
    }
    async fn stop_grace_ms(&self) -> u64 {
        self.0.spec.stop_grace_ms
    }
    /// The agent whose next attempt it waits for, booted ahead and not taken yet.
    async fn warm_for(&self) -> Option<ID> {
        Some(self.0.spec.warm?.agent.to_string().into())
    }

    /// The attempt that it lives for, and is gone with; absent of those that live for themselves.
    async fn lease(&self) -> Option<VmLease> {
        let lease = self.0.spec.lease?;
        let attempt = i32::try_from(lease.attempt).unwrap_or(i32::MAX);
        Some(VmLease { task: lease.task.to_string().into(), attempt, agent: lease.agent.to_string().into() })
    }
    /// Why it is on its host.
    async fn placement(&self) -> VmPlacement {
        VmPlacement(self.0.decision.clone())
    }
    /// The last one, under way or ended.
    async fn operation(&self) -> Option<VmOperation> {
        self.0.state.operations.back().map(VmOperation::from)
    }
    /// The newest ones, oldest first.
    async fn operations(&self) -> Vec<VmOperation> {
        self.0.state.operations.iter().map(VmOperation::from).collect()
    }
    /// Oldest first. They are in its disks, and go with them.
    async fn snapshots(&self) -> Vec<VmSnapshot> {
        self.0.state.snapshots.iter().map(VmSnapshot::from).collect()
    }
    /// The newest, oldest first; each is where it was written, also when its VM is gone.
    async fn backups(&self) -> Vec<VmBackup> {
        let all = &self.0.state.backups;
        all.iter().map(|backup| VmBackup::of(backup, all)).collect()
    }
    /// Backups that it makes by itself, if it does.
    async fn backup_schedule(&self) -> Option<VmBackupSchedule> {
        self.0.state.schedule.as_ref().map(VmBackupSchedule::from)
    }
    /// What its hypervisor measured at its last look; what was not measured is absent.
    async fn usage(&self, ctx: &Context<'_>) -> Result<Option<VmUsage>> {
        let views: &DataLoader<Views> = ctx.data()?;
        let measured = views.load_one(Measured(self.0.spec.id, self.0.host)).await?;
        Ok(measured.map(|usage| VmUsage {
            cpu_time_ns: usage.cpu_time_ns.map(BigInt),
            memory_bytes: usage.memory_bytes.map(BigInt),
            disk_read_bytes: usage.disk_read_bytes.map(BigInt),
            disk_written_bytes: usage.disk_written_bytes.map(BigInt),
            network_received_bytes: usage.network_received_bytes.map(BigInt),
            network_sent_bytes: usage.network_sent_bytes.map(BigInt),
        }))
    }
    /// How a migration that is under way goes; absent if none is, or nothing is known of it.
    async fn migration(&self, ctx: &Context<'_>) -> Result<Option<VmMigration>> {
        let active = self.0.state.active().is_some_and(|active| active.kind == vm::event::OperationKind::Migrate);
        if !active {
            return Ok(None);
        }
        Ok(door(ctx)?.vm_migration(self.0.spec.id, self.0.host).await.map(VmMigration::from))
    }
    /// What the agent in the guest says, asked now; absent if none answers.
    async fn guest(&self, ctx: &Context<'_>) -> Result<Option<Guest>> {
        let said = door(ctx)?.vm_guest(self.0.spec.id, self.0.host).await;
        Ok(said.map(|info| Guest { os: info.os, kernel: info.kernel, host_name: info.host_name, addresses: info.addresses }))
    }
    async fn created_at(&self) -> DateTime {
        self.0.created_at.into()
    }
    /// Of its present run.
    async fn started_at(&self) -> Option<DateTime> {
        self.0.started_at.map(Into::into)
    }
    async fn cursor(&self) -> Cursor {
        hiveward_runtime::ledger::Cursor(self.0.cursor).into()
    }
}

/// Whose VM it is.
#[derive(SimpleObject)]
pub struct VmLease {
    task: ID,
    attempt: i32,
    agent: ID,
}

#[derive(SimpleObject)]
pub struct VmSnapshot {
    /// Unique among those of its VM.
    name: String,
    taken_at: DateTime,
    /// The guest ran and goes on from there; else it was off, and its disks alone were kept.
    with_memory: bool,
}

impl From<&Snapshot> for VmSnapshot {
    fn from(snapshot: &Snapshot) -> Self {
        Self { name: snapshot.name.to_string(), taken_at: snapshot.taken_at.into(), with_memory: snapshot.with_memory }
    }
}

/// What a guest says of itself.
#[derive(SimpleObject)]
pub struct Guest {
    os: Option<String>,
    kernel: Option<String>,
    host_name: Option<String>,
    addresses: Vec<String>,
}

#[derive(SimpleObject)]
pub struct Disk {
    name: String,
    size_bytes: BigInt,
}

#[derive(SimpleObject)]
pub struct VmUsage {
    cpu_time_ns: Option<BigInt>,
    /// Resident on the host.
    memory_bytes: Option<BigInt>,
    disk_read_bytes: Option<BigInt>,
    disk_written_bytes: Option<BigInt>,
    network_received_bytes: Option<BigInt>,
    network_sent_bytes: Option<BigInt>,
}

#[derive(InputObject, Default)]
pub struct VmFilter {
    status: Option<Vec<VmStatus>>,
    /// By key or name.
    host: Option<ID>,
    name_contains: Option<String>,
}

pub(super) fn list(
    ctx: &Context<'_>,
    filter: VmFilter,
    narrow: impl FnOnce(&mut client::VmFilter),
    first: Option<i32>,
    after: Option<&str>,
) -> Result<Pages<Vm>> {
    let mut filter = client::VmFilter {
        status: filter.status.unwrap_or_default().into_iter().map(Into::into).collect(),
        host: filter.host.map(|host| host_id(ctx, "filter.host", &host)).transpose()?,
        name_contains: filter.name_contains,
    };
    narrow(&mut filter);
    Ok(page::connection(door(ctx)?.vms(&filter, after, page::first(first)?)?, after))
}

#[derive(Default)]
pub struct VmQuery;

#[Object]
impl VmQuery {
    async fn vms(
        &self,
        ctx: &Context<'_>,
        filter: Option<VmFilter>,
        first: Option<i32>,
        after: Option<String>,
        at_least: Option<Cursor>,
    ) -> Result<Pages<Vm>> {
        caught_up(ctx, at_least).await?;
        list(ctx, filter.unwrap_or_default(), |_| {}, first, after.as_deref())
    }
}
