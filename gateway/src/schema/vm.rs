//! VMs: their type, queries and mutations.

use std::sync::Arc;

use async_graphql::{Context, ID, InputObject, Object, SimpleObject, dataloader::DataLoader};
use hiveward_actors::{
    client::{self, Done, NewMove, NewVm},
    host::driver::Progress,
    placement,
    vm::{self, VmRecord, event::Outcome, state::VmOperation as Operation},
};
use hiveward_runtime::error::Refused;

use super::{
    Result, caught_up, door,
    enums::{VmMigrationLimit, VmOperationStatus, VmPlacementStrategy, VmStatus, VmWanted},
    host::{Host, host_id},
    load::{Measured, Views},
    op,
    page::{self, Pages},
    parse::{self, join},
    scalars::{BigInt, Cursor, DateTime},
    task::Label,
    task_input::LabelInput,
    vm_ha::VmHaStatus,
};

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
    /// Unique in the cluster.
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
        self.0.state.failed.as_deref()
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
    async fn networks(&self) -> &[String] {
        &self.0.spec.networks
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

/// Bytes and times of a migration; what is not known is absent.
#[derive(SimpleObject)]
pub struct VmMigration {
    elapsed_ms: Option<BigInt>,
    total_bytes: Option<BigInt>,
    processed_bytes: Option<BigInt>,
    remaining_bytes: Option<BigInt>,
    /// Written by the guest, each second.
    dirty_bytes_per_second: Option<BigInt>,
    /// Sent, each second.
    sent_bytes_per_second: Option<BigInt>,
    /// Passes over the memory.
    iteration: Option<BigInt>,
    /// How long it still takes if it goes on as now; absent if it is not known, or would never end.
    forecast_ms: Option<BigInt>,
    /// Whether the guest writes faster than its memory is sent, so that it does not end by itself; absent if not known.
    is_outrun: Option<bool>,
    /// Of one that has ended: how long the guest stood still, as the hypervisor measured it.
    downtime_ms: Option<BigInt>,
}

impl From<Progress> for VmMigration {
    fn from(progress: Progress) -> Self {
        Self {
            forecast_ms: progress.forecast_ms().map(BigInt),
            is_outrun: progress.is_outrun(),
            elapsed_ms: progress.elapsed_ms.map(BigInt),
            total_bytes: progress.total_bytes.map(BigInt),
            processed_bytes: progress.processed_bytes.map(BigInt),
            remaining_bytes: progress.remaining_bytes.map(BigInt),
            dirty_bytes_per_second: progress.dirty_bytes.map(BigInt),
            sent_bytes_per_second: progress.sent_bytes.map(BigInt),
            iteration: progress.iteration.map(BigInt),
            downtime_ms: progress.downtime_ms.map(BigInt),
        }
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

/// One thing that was asked of a VM.
#[derive(SimpleObject)]
pub struct VmOperation {
    /// Counts this VM's operations from 1.
    number: BigInt,
    /// `create`, `start`, `stop`, `reboot`, `pause`, `resume`, `remove`, `migrate`, or `recover`, which the house asks by itself.
    kind: String,
    status: VmOperationStatus,
    asked_by: Option<String>,
    started_at: DateTime,
    ended_at: Option<DateTime>,
    error: Option<String>,
    /// Of a migration that succeeded.
    measured: Option<VmMigration>,
}

impl From<&Operation> for VmOperation {
    fn from(operation: &Operation) -> Self {
        let (status, error) = match operation.ended.as_ref().map(|(_, outcome)| outcome) {
            None => (VmOperationStatus::Running, None),
            Some(Outcome::Done) => (VmOperationStatus::Succeeded, None),
            Some(Outcome::Failed { message }) => (VmOperationStatus::Failed, Some(message.clone())),
            Some(Outcome::Superseded { by }) => (VmOperationStatus::Superseded, Some(format!("operation {by} was asked"))),
        };
        Self {
            number: BigInt(operation.number),
            kind: operation.kind.name().into(),
            status,
            asked_by: Some(operation.principal.to_string()).filter(|by| !by.is_empty()),
            started_at: operation.asked_at.into(),
            ended_at: operation.ended.as_ref().map(|(at, _)| (*at).into()),
            error,
            measured: operation.measured.clone().map(VmMigration::from),
        }
    }
}

pub struct VmPlacement(pub(super) Arc<placement::vm::Decision>);

/// A placement with what it was made from.
#[Object]
impl VmPlacement {
    async fn strategy(&self) -> VmPlacementStrategy {
        self.0.strategy.into()
    }
    /// How many hosts were eligible.
    async fn eligible(&self) -> u32 {
        self.0.eligible
    }
    /// The best, best first.
    async fn scores(&self) -> Vec<HostScore> {
        self.0.scores.iter().map(|scored| HostScore { host: scored.host.to_string().into(), score: scored.total }).collect()
    }
    async fn left_out(&self) -> Vec<HostsLeftOut> {
        let all = self.0.left_out.iter();
        all.map(|left| HostsLeftOut { reason: left.reason.to_string(), hosts: left.hosts }).collect()
    }
}

#[derive(SimpleObject)]
pub struct HostScore {
    host: ID,
    /// The higher, the better; of one strategy only.
    score: f32,
}

/// Why a number of hosts was not considered.
#[derive(SimpleObject)]
pub struct HostsLeftOut {
    reason: String,
    hosts: u32,
}

#[derive(InputObject)]
pub struct CreateVmInput {
    operation_id: Option<ID>,
    /// Unique in the cluster.
    name: String,
    /// By key or name; the best one if absent.
    host: Option<ID>,
    image: String,
    cpus: i32,
    memory_bytes: BigInt,
    disks: Option<Vec<DiskInput>>,
    networks: Option<Vec<String>>,
    ssh_keys: Option<Vec<String>>,
    /// What the guest's first boot is told; never shown again.
    user_data: Option<String>,
    /// Never with another VM of one of these groups on a host, and apart by zones where that can be.
    anti_affinity: Option<Vec<String>>,
    /// On a host that has one of each of these groups, once there is one.
    affinity: Option<Vec<String>>,
    /// Only hosts of this zone.
    zone: Option<String>,
    /// Only hosts with all of these labels.
    host_labels: Option<Vec<LabelInput>>,
    #[graphql(default_with = "VmPlacementStrategy::Spread")]
    strategy: VmPlacementStrategy,
    /// Refused if it could not come back elsewhere when the fullest host is lost.
    #[graphql(default)]
    ha: bool,
    /// Answers when it runs.
    #[graphql(default = true)]
    start: bool,
    /// Between the power button and the plug.
    #[graphql(default = 60_000)]
    stop_grace_ms: i32,
}

#[derive(InputObject)]
pub struct DiskInput {
    name: String,
    size_bytes: BigInt,
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

/// The payloads of all VM mutations have the same shape and each its own name.
macro_rules! payloads {
    ($($name:ident),+) => {$(
        #[derive(SimpleObject)]
        pub struct $name {
            vm: Vm,
            cursor: Cursor,
        }

        impl From<Done<VmRecord>> for $name {
            fn from(done: Done<VmRecord>) -> Self {
                Self { vm: done.value.into(), cursor: done.cursor.into() }
            }
        }
    )+};
}

payloads!(MigrateVmPayload, CancelVmMigrationPayload);
payloads!(CreateVmPayload, StartVmPayload, StopVmPayload, RebootVmPayload, PauseVmPayload, ResumeVmPayload, RemoveVmPayload);

/// The inputs of commands that say no more than which VM.
macro_rules! inputs {
    ($($name:ident),+) => {$(
        #[derive(InputObject)]
        pub struct $name {
            operation_id: Option<ID>,
            /// By key or name.
            vm: ID,
        }
    )+};
}

inputs!(StartVmInput, RebootVmInput, PauseVmInput, ResumeVmInput, CancelVmMigrationInput);

#[derive(InputObject)]
pub struct StopVmInput {
    operation_id: Option<ID>,
    /// By key or name.
    vm: ID,
    /// Pulls the plug at once.
    #[graphql(default)]
    force: bool,
    /// Between the power button and the plug; as it was made with if absent.
    grace_ms: Option<i32>,
}

#[derive(InputObject)]
pub struct MigrateVmInput {
    operation_id: Option<ID>,
    /// By key or name.
    vm: ID,
    /// By key or name; the best host if absent.
    to: Option<ID>,
    /// The guest runs meanwhile; else it stands still until it is there.
    #[graphql(default = true)]
    live: bool,
    /// MiB each second; as much as there is if absent.
    bandwidth_mib: Option<i32>,
    /// Of a migration that does not end by itself.
    #[graphql(default = 300_000)]
    limit_ms: i32,
    #[graphql(default_with = "VmMigrationLimit::Abort")]
    at_limit: VmMigrationLimit,
}

#[derive(InputObject)]
pub struct RemoveVmInput {
    operation_id: Option<ID>,
    /// By key or name.
    vm: ID,
    /// Even while it runs.
    #[graphql(default)]
    force: bool,
}

fn vm_id(ctx: &Context<'_>, given: &ID) -> Result<hiveward_actors::id::VmId> {
    if given.starts_with("vm_") {
        return Ok(parse::id("vm", given)?);
    }
    let found = door(ctx)?.vm_named(given);
    Ok(found
        .ok_or_else(|| Refused { field: Some("vm".into()), ..Refused::not_found(format!("VM named {:?}", given.as_str())) })?)
}

impl CreateVmInput {
    fn parse(self, ctx: &Context<'_>) -> Result<NewVm> {
        let disks = self.disks.unwrap_or_default().into_iter().enumerate().map(|(n, disk)| {
            let name = parse::name(&join(&format!("disks.{n}"), "name"), disk.name)?;
            Ok(vm::DiskSpec { name, size_bytes: disk.size_bytes.0 })
        });
        Ok(NewVm {
            name: parse::name("name", self.name)?,
            host: self.host.map(|host| host_id(ctx, "host", &host)).transpose()?,
            image: self.image,
            cpus: parse::natural("cpus", self.cpus)?,
            memory_bytes: self.memory_bytes.0,
            disks: disks.collect::<Result<_, Refused>>()?,
            networks: self.networks.unwrap_or_default(),
            ssh_keys: self.ssh_keys.unwrap_or_default(),
            user_data: self.user_data,
            anti_affinity: self.anti_affinity.unwrap_or_default(),
            affinity: self.affinity.unwrap_or_default(),
            zone: self.zone,
            host_labels: self.host_labels.unwrap_or_default().into_iter().map(|label| (label.key, label.value)).collect(),
            strategy: self.strategy.into(),
            ha: self.ha,
            start: self.start,
            stop_grace_ms: parse::natural("stopGraceMs", self.stop_grace_ms)?,
        })
    }
}

#[derive(Default)]
pub struct VmMutation;

/// Each waits for the end of its operation as long as the request's deadline lets it; the operation goes on without it.
#[Object]
impl VmMutation {
    /// Placed, reserved and, with `start`, running when it answers.
    async fn create_vm(&self, ctx: &Context<'_>, input: CreateVmInput) -> Result<CreateVmPayload> {
        let op = op(ctx, input.operation_id.as_ref())?;
        let new = input.parse(ctx)?;
        Ok(door(ctx)?.create_vm(op, new).await?.into())
    }
    async fn start_vm(&self, ctx: &Context<'_>, input: StartVmInput) -> Result<StartVmPayload> {
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.start_vm(op(ctx, input.operation_id.as_ref())?, id).await?.into())
    }
    /// Presses the power button, and pulls the plug after the grace.
    async fn stop_vm(&self, ctx: &Context<'_>, input: StopVmInput) -> Result<StopVmPayload> {
        let (id, grace) = (vm_id(ctx, &input.vm)?, parse::optional_natural("graceMs", input.grace_ms)?);
        Ok(door(ctx)?.stop_vm(op(ctx, input.operation_id.as_ref())?, id, input.force, grace).await?.into())
    }
    async fn reboot_vm(&self, ctx: &Context<'_>, input: RebootVmInput) -> Result<RebootVmPayload> {
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.reboot_vm(op(ctx, input.operation_id.as_ref())?, id).await?.into())
    }
    async fn pause_vm(&self, ctx: &Context<'_>, input: PauseVmInput) -> Result<PauseVmPayload> {
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.pause_vm(op(ctx, input.operation_id.as_ref())?, id).await?.into())
    }
    async fn resume_vm(&self, ctx: &Context<'_>, input: ResumeVmInput) -> Result<ResumeVmPayload> {
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.resume_vm(op(ctx, input.operation_id.as_ref())?, id).await?.into())
    }
    /// Brings it to another host. A migration that fails or is cancelled leaves it running where it was. What takes
    /// longer than a moment goes on, and `operation` says how it is.
    async fn migrate_vm(&self, ctx: &Context<'_>, input: MigrateVmInput) -> Result<MigrateVmPayload> {
        let id = vm_id(ctx, &input.vm)?;
        let to = NewMove {
            host: input.to.map(|host| host_id(ctx, "to", &host)).transpose()?,
            live: input.live,
            bandwidth_mib: parse::optional_natural("bandwidthMib", input.bandwidth_mib)?,
            limit_ms: parse::natural("limitMs", input.limit_ms)?,
            at_limit: input.at_limit.into(),
        };
        Ok(door(ctx)?.migrate_vm(op(ctx, input.operation_id.as_ref())?, id, to).await?.into())
    }
    /// Answers when that is known. The operation ends when it is certain where the VM runs: where it was, unless it had
    /// gone by then.
    async fn cancel_vm_migration(&self, ctx: &Context<'_>, input: CancelVmMigrationInput) -> Result<CancelVmMigrationPayload> {
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.cancel_vm_migration(op(ctx, input.operation_id.as_ref())?, id).await?.into())
    }
    /// Its domain, its disks and its reservation are gone when it answers.
    async fn remove_vm(&self, ctx: &Context<'_>, input: RemoveVmInput) -> Result<RemoveVmPayload> {
        let id = vm_id(ctx, &input.vm)?;
        Ok(door(ctx)?.remove_vm(op(ctx, input.operation_id.as_ref())?, id, input.force).await?.into())
    }
}
