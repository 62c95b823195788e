//! What mutations of VMs are given.

use async_graphql::{Context, ID, InputObject};
use hiveward_actors::client::NewVm;
use hiveward_runtime::error::Refused;

use super::super::{
    Result, door,
    enums::{VmMigrationLimit, VmPlacementStrategy},
    host::host_id,
    parse::{self, join},
    scalars::BigInt,
    task_input::LabelInput,
};

#[derive(InputObject)]
pub struct CreateVmInput {
    pub(super) operation_id: Option<ID>,
    /// Unique in its project.
    pub(super) name: String,
    /// By key or name; the caller's own if absent, or else `default`.
    pub(super) project: Option<ID>,
    /// By key or name; the best one if absent.
    pub(super) host: Option<ID>,
    pub(super) image: String,
    pub(super) cpus: i32,
    pub(super) memory_bytes: BigInt,
    pub(super) disks: Option<Vec<DiskInput>>,
    pub(super) networks: Option<Vec<String>>,
    pub(super) ssh_keys: Option<Vec<String>>,
    /// What the guest's first boot is told, 192 KiB at most; never shown again.
    pub(super) user_data: Option<String>,
    /// Never with another VM of one of these groups on a host, and apart by zones where that can be.
    pub(super) anti_affinity: Option<Vec<String>>,
    /// On a host that has one of each of these groups, once there is one.
    pub(super) affinity: Option<Vec<String>>,
    /// Only hosts of this zone.
    pub(super) zone: Option<String>,
    /// Only hosts with all of these labels.
    pub(super) host_labels: Option<Vec<LabelInput>>,
    #[graphql(default_with = "VmPlacementStrategy::Spread")]
    pub(super) strategy: VmPlacementStrategy,
    /// Refused if it could not come back elsewhere when one of the sixteen fullest hosts is lost.
    #[graphql(default)]
    pub(super) ha: bool,
    /// Answers when it runs.
    #[graphql(default = true)]
    pub(super) start: bool,
    /// Between the power button and the plug.
    #[graphql(default = 60_000)]
    pub(super) stop_grace_ms: i32,
}

#[derive(InputObject)]
pub struct DiskInput {
    pub(in crate::schema) name: String,
    pub(in crate::schema) size_bytes: BigInt,
}

/// The inputs of commands that say no more than which VM.
macro_rules! inputs {
    ($($name:ident),+) => {$(
        #[derive(InputObject)]
        pub struct $name {
            pub(super) operation_id: Option<ID>,
            /// By key or name.
            pub(super) vm: ID,
        }
    )+};
}
pub(super) use inputs;

/// The inputs of commands about one snapshot.
macro_rules! snapshot_inputs {
    ($($name:ident),+) => {$(
        #[derive(InputObject)]
        pub struct $name {
            pub(super) operation_id: Option<ID>,
            /// By key or name.
            pub(super) vm: ID,
            /// Of the snapshot: unique among those of its VM.
            pub(super) name: String,
        }
    )+};
}

snapshot_inputs!(SnapshotVmInput, RevertVmInput, RemoveVmSnapshotInput);
inputs!(StartVmInput, RebootVmInput, PauseVmInput, ResumeVmInput, CancelVmMigrationInput);

#[derive(InputObject)]
pub struct StopVmInput {
    pub(super) operation_id: Option<ID>,
    /// By key or name.
    pub(super) vm: ID,
    /// Pulls the plug at once.
    #[graphql(default)]
    pub(super) force: bool,
    /// Between the power button and the plug; as it was made with if absent.
    pub(super) grace_ms: Option<i32>,
}

#[derive(InputObject)]
pub struct MigrateVmInput {
    pub(super) operation_id: Option<ID>,
    /// By key or name.
    pub(super) vm: ID,
    /// By key or name; the best host if absent.
    pub(super) to: Option<ID>,
    /// The guest runs meanwhile; else it stands still until it is there.
    #[graphql(default = true)]
    pub(super) live: bool,
    /// MiB each second; as much as there is if absent.
    pub(super) bandwidth_mib: Option<i32>,
    /// Of a migration that does not end by itself.
    #[graphql(default = 300_000)]
    pub(super) limit_ms: i32,
    #[graphql(default_with = "VmMigrationLimit::Abort")]
    pub(super) at_limit: VmMigrationLimit,
}

#[derive(InputObject)]
pub struct RemoveVmInput {
    pub(super) operation_id: Option<ID>,
    /// By key or name.
    pub(super) vm: ID,
    /// Even while it runs.
    #[graphql(default)]
    pub(super) force: bool,
}

pub(in super::super) fn vm_id(ctx: &Context<'_>, given: &ID) -> Result<hiveward_kernel::id::VmId> {
    parse::reference("vm", given)?;
    if given.starts_with("vm_") {
        return Ok(parse::id("vm", given)?);
    }
    let found = door(ctx)?.vm_named(given);
    Ok(found
        .ok_or_else(|| Refused { field: Some("vm".into()), ..Refused::not_found(format!("VM named {:?}", given.as_str())) })?)
}

impl CreateVmInput {
    pub(super) fn parse(self, ctx: &Context<'_>) -> Result<NewVm> {
        let disks = self.disks.unwrap_or_default().into_iter().enumerate().map(|(n, disk)| {
            let name = parse::name(&join(&format!("disks.{n}"), "name"), disk.name)?;
            Ok(hiveward_catalogue::vm::DiskSpec { name, size_bytes: disk.size_bytes.0 })
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
