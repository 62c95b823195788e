//! What is asked of the system inside a VM.

use std::collections::BTreeMap;

use async_graphql::{Context, ID, InputObject, Object, SimpleObject};
use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use hiveward_actors::client::{GuestExec, NewGuestExec};
use hiveward_runtime::error::Refused;

use super::{
    super::{Result, door, op},
    input::vm_id,
};

#[derive(InputObject)]
pub struct ExecInVmInput {
    /// By key or name.
    vm: ID,
    /// The program, found where the guest looks for programs, and its arguments: 1,024 of 64 KiB together at most.
    argv: Vec<String>,
    /// All of its variables, 1,024 of 64 KiB together at most; those of the guest's agent if absent.
    env: Option<Vec<GuestVariableInput>>,
    /// Its standard input, 256 KiB at most.
    input: Option<String>,
}

/// As it is: no reference is resolved.
#[derive(InputObject)]
pub struct GuestVariableInput {
    name: String,
    value: String,
}

/// How a program in a guest ended.
#[derive(SimpleObject)]
pub struct ExecInVmPayload {
    exit_code: Option<i32>,
    signal: Option<i32>,
    /// What is not UTF-8 in it is replaced.
    stdout: String,
    stderr: String,
    stdout_base64: String,
    stderr_base64: String,
    /// There was more than the guest's agent keeps.
    truncated: bool,
}

impl From<GuestExec> for ExecInVmPayload {
    fn from(ended: GuestExec) -> Self {
        Self {
            exit_code: ended.code,
            signal: ended.signal,
            stdout: String::from_utf8_lossy(&ended.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&ended.stderr).into_owned(),
            stdout_base64: BASE64.encode(&ended.stdout),
            stderr_base64: BASE64.encode(&ended.stderr),
            truncated: ended.truncated,
        }
    }
}

#[derive(InputObject)]
pub struct FreezeVmFileSystemsInput {
    /// By key or name.
    vm: ID,
    /// `false` lets them go on.
    #[graphql(default = true)]
    frozen: bool,
}

#[derive(SimpleObject)]
pub struct FreezeVmFileSystemsPayload {
    /// How many file systems stand still now, or go on.
    file_systems: u32,
}

#[derive(Default)]
pub struct GuestMutation;

#[Object]
impl GuestMutation {
    /// Runs a program in a guest to its end, by the guest's agent and as its user. No operation of the VM, and not idempotent:
    /// repeated, it runs twice. One that does not end by the request's deadline is `UNKNOWN_OUTCOME` and runs on.
    /// Administrators only.
    async fn exec_in_vm(&self, ctx: &Context<'_>, input: ExecInVmInput) -> Result<ExecInVmPayload> {
        let vm = vm_id(ctx, &input.vm)?;
        let mut env = BTreeMap::new();
        for (place, variable) in input.env.unwrap_or_default().into_iter().enumerate() {
            if env.insert(variable.name, variable.value).is_some() {
                return Err(Refused::invalid(format!("env.{place}.name"), "this variable is given twice").into());
            }
        }
        let new = NewGuestExec { argv: input.argv, env: env.into_iter().collect(), input: input.input };
        Ok(door(ctx)?.exec_in_vm(op(ctx, None)?, vm, new).await?.into())
    }

    /// Has the file systems of a guest take no writes until they are thawed, or lets them go on: what is on its disks then is
    /// whole for any other copy. Administrators only.
    async fn freeze_vm_file_systems(
        &self,
        ctx: &Context<'_>,
        input: FreezeVmFileSystemsInput,
    ) -> Result<FreezeVmFileSystemsPayload> {
        let vm = vm_id(ctx, &input.vm)?;
        let count = door(ctx)?.freeze_vm_file_systems(op(ctx, None)?, vm, input.frozen).await?;
        Ok(FreezeVmFileSystemsPayload { file_systems: u32::try_from(count).unwrap_or(u32::MAX) })
    }
}
