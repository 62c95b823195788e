//! The VM that each attempt of an agent gets.

use std::sync::Arc;

use async_graphql::{ID, InputObject, SimpleObject};
use hiveward_catalogue::{agent::spec::SessionSpec, vm::machine::MachineSpec};
use hiveward_runtime::error::Refused;

use super::{
    enums::SessionKind,
    parse::{self, join},
    scalars::BigInt,
    task::Label,
    task_input::LabelInput,
    vm::DiskInput,
};

/// Where the agent's processes run.
#[derive(SimpleObject)]
pub struct Session {
    kind: SessionKind,
    cols: Option<u16>,
    rows: Option<u16>,
    vm: Option<Machine>,
}

/// The VM that each attempt gets.
#[derive(SimpleObject)]
pub struct Machine {
    image: String,
    cpus: u32,
    memory_bytes: BigInt,
    networks: Vec<String>,
    zone: Option<String>,
    host: Option<ID>,
    host_labels: Vec<Label>,
    boot_within_ms: u64,
    /// How many wait booted for the next attempts.
    warm: u32,
}

impl From<&SessionSpec> for Session {
    fn from(session: &SessionSpec) -> Self {
        let plain = |kind| Self { kind, cols: None, rows: None, vm: None };
        match session {
            SessionSpec::Pipes => plain(SessionKind::Pipes),
            SessionSpec::Pty { cols, rows } => Self { cols: Some(*cols), rows: Some(*rows), ..plain(SessionKind::Pty) },
            SessionSpec::Vm(machine) => Self { vm: Some(Machine::from(&**machine)), ..plain(SessionKind::Vm) },
        }
    }
}

impl From<&MachineSpec> for Machine {
    fn from(machine: &MachineSpec) -> Self {
        let labels = machine.host_labels.iter();
        Self {
            image: machine.image.clone(),
            cpus: machine.cpus,
            memory_bytes: BigInt(machine.memory_bytes),
            networks: machine.networks.clone(),
            zone: machine.zone.clone(),
            host: machine.host.map(|host| ID(host.to_string())),
            host_labels: labels.map(|(key, value)| Label { key: key.clone(), value: value.clone() }).collect(),
            boot_within_ms: machine.boot_within_ms,
            warm: machine.warm,
        }
    }
}

#[derive(InputObject)]
pub struct SessionInput {
    /// `VM` if `vm` is given, else `PIPES`.
    kind: Option<SessionKind>,
    #[graphql(default = 120)]
    cols: i32,
    #[graphql(default = 40)]
    rows: i32,
    /// A VM of its own for each attempt, which is gone after it. Of agents that run commands, Claude Code or a program that
    /// speaks the Agent Client Protocol.
    vm: Option<MachineInput>,
}

#[derive(InputObject)]
pub struct MachineInput {
    /// It has QEMU's guest agent, `sh`, `tar` and what the agent's programs need.
    image: String,
    #[graphql(default = 1)]
    cpus: i32,
    memory_bytes: BigInt,
    disks: Option<Vec<DiskInput>>,
    networks: Option<Vec<String>>,
    /// Only hosts of this zone.
    zone: Option<String>,
    /// By key; the best one if absent.
    host: Option<ID>,
    /// Only hosts with all of these labels.
    host_labels: Option<Vec<LabelInput>>,
    /// For the guest's agent to answer.
    #[graphql(default = 300_000)]
    boot_within_ms: i32,
    /// How many such VMs are made ahead and wait booted, so that an attempt need not wait; 0 to 64. One that was taken is
    /// replaced.
    #[graphql(default)]
    warm: i32,
}

pub(super) fn session(at: &str, input: Option<SessionInput>) -> Result<SessionSpec, Refused> {
    let Some(SessionInput { kind, cols, rows, vm }) = input else { return Ok(SessionSpec::Pipes) };
    let (cols, rows) = (parse::sixteen_bits(&join(at, "cols"), cols)?, parse::sixteen_bits(&join(at, "rows"), rows)?);
    match (kind, vm) {
        (None | Some(SessionKind::Vm), Some(vm)) => Ok(SessionSpec::Vm(Arc::new(vm.parse(&join(at, "vm"))?))),
        (Some(SessionKind::Vm), None) => Err(Refused::invalid(join(at, "vm"), "say what VM each attempt gets")),
        (Some(_), Some(_)) => Err(Refused::invalid(join(at, "kind"), "with `vm` it is VM")),
        (Some(SessionKind::Pty), None) => Ok(SessionSpec::Pty { cols, rows }),
        (None | Some(SessionKind::Pipes), None) => Ok(SessionSpec::Pipes),
    }
}

impl MachineInput {
    fn parse(self, at: &str) -> Result<MachineSpec, Refused> {
        let field = |name: &str| join(at, name);
        let disks = self.disks.unwrap_or_default().into_iter();
        Ok(MachineSpec {
            image: self.image,
            cpus: parse::natural(&field("cpus"), self.cpus)?,
            memory_bytes: self.memory_bytes.0,
            disks: disks
                .map(|disk| hiveward_catalogue::vm::DiskSpec { name: disk.name, size_bytes: disk.size_bytes.0 })
                .collect(),
            networks: self.networks.unwrap_or_default(),
            zone: self.zone,
            host: parse::optional(&field("host"), self.host.as_ref())?,
            host_labels: self.host_labels.unwrap_or_default().into_iter().map(|label| (label.key, label.value)).collect(),
            boot_within_ms: parse::natural(&field("bootWithinMs"), self.boot_within_ms)?,
            warm: parse::natural(&field("warm"), self.warm)?,
        })
    }
}
