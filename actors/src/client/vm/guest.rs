//! What clients ask of the system inside a VM: programs to run, file systems to stand still.

use std::time::Duration;

use hiveward_access::verb::Verb;
use hiveward_kernel::id::VmId;
use hiveward_machines::{
    guest::{
        agent::{self, Exec, WRITE_BYTES_MAX},
        ask::ask,
        wire::Said,
    },
    vm::record::VmStatus,
};
use hiveward_runtime::{
    error::{Code, Refused},
    op::Op,
};
use serde_json::Value;

use super::ControlPlane;

const ARGS_MAX: usize = 1_024;
const ARGS_BYTES_MAX: usize = 64 << 10;
const LOOK_FIRST: Duration = Duration::from_millis(10);
const LOOK_LONGEST: Duration = Duration::from_millis(500);
const MARGIN: Duration = Duration::from_millis(250);

/// A program to run in a guest, as the agent's user, which is root as a rule.
#[derive(Clone, Debug, Default)]
pub struct NewGuestExec {
    /// The program, found where the guest looks for programs, and its arguments.
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub input: Option<String>,
}

/// How a program in a guest ended.
pub type GuestExec = agent::Ended;

impl ControlPlane {
    /// Runs a program in a guest to its end and answers with what it said. It is no operation of the VM: nothing is kept of it,
    /// and asked twice it runs twice. Errors: `UnknownOutcome` at the deadline, while the program runs on.
    pub async fn exec_in_vm(&self, op: Op, vm: VmId, new: NewGuestExec) -> Result<GuestExec, Refused> {
        let op = self.may(op, Verb::ExecInVm, vm).await?;
        let [program, args @ ..] = &new.argv[..] else { return Err(Refused::invalid("argv", "which program is not said")) };
        if new.argv.len() > ARGS_MAX || new.argv.iter().map(String::len).sum::<usize>() > ARGS_BYTES_MAX {
            return Err(Refused::invalid("argv", format!("at most {ARGS_MAX} arguments of {ARGS_BYTES_MAX} bytes together")));
        }
        if program.is_empty() || new.argv.iter().any(|arg| arg.contains('\0')) {
            return Err(Refused::invalid("argv", "a program has a name, and no argument a zero byte"));
        }
        if new.input.as_ref().is_some_and(|input| input.len() > WRITE_BYTES_MAX) {
            return Err(Refused::invalid("input", format!("at most {WRITE_BYTES_MAX} bytes")));
        }
        if new.env.iter().any(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')) {
            return Err(Refused::invalid("env", "a variable has a name without `=`, and neither has a zero byte"));
        }
        let env_bytes: usize = new.env.iter().map(|(name, value)| name.len() + value.len()).sum();
        if new.env.len() > ARGS_MAX || env_bytes > ARGS_BYTES_MAX {
            return Err(Refused::invalid("env", format!("at most {ARGS_MAX} variables of {ARGS_BYTES_MAX} bytes together")));
        }
        let input = new.input.as_deref().map(str::as_bytes);
        let exec = Exec { path: program, args, env: &new.env, input, capture: true };
        let begun = self.ask_guest(&op, vm, &exec.command()).await?;
        let pid = agent::pid(&begun).map_err(odd)?;
        let mut wait = LOOK_FIRST;
        loop {
            match self.ask_guest(&op, vm, &agent::status_of(pid)).await.and_then(|said| agent::ended(&said).map_err(odd)) {
                Ok(Some(ended)) => return Ok(ended),
                Ok(None) => {}
                Err(refused) if refused.code == Code::Unavailable && op.deadline.remaining() > MARGIN => {}
                Err(refused) => {
                    let message = format!("process {pid} was started in the guest, and then: {}", refused.message);
                    return Err(Refused::new(Code::UnknownOutcome, message));
                }
            }
            if op.deadline.remaining() < MARGIN + wait {
                let message = format!("process {pid} runs on in the guest; it did not end in time");
                return Err(Refused::new(Code::UnknownOutcome, message));
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LOOK_LONGEST);
        }
    }

    /// Keeps a guest's file systems from taking writes until they are thawed, or lets them; returns how many. Frozen twice is an
    /// error of the guest's, which changes nothing; thawed twice is none.
    pub async fn freeze_vm_file_systems(&self, op: Op, vm: VmId, frozen: bool) -> Result<u64, Refused> {
        let op = self.may(op, Verb::FreezeVmFileSystems, vm).await?;
        let command = if frozen { agent::freeze() } else { agent::thaw() };
        let said = self.ask_guest(&op, vm, &command).await?;
        said.as_u64().ok_or_else(|| odd(agent::Odd("guest-fsfreeze")))
    }

    async fn ask_guest(&self, op: &Op, vm: VmId, command: &Value) -> Result<Value, Refused> {
        let record = self.known_vm(op, vm).await?;
        let name = &record.spec.name;
        if !matches!(record.status, VmStatus::Running | VmStatus::Migrating | VmStatus::Starting) {
            let status = format!("{:?}", record.status).to_uppercase();
            return Err(Refused::new(Code::Refused, format!("{name} is {status}: nobody in it can be asked")));
        }
        match ask(&self.house.machines, vm, command.to_string(), op.deadline).await {
            Said::Answer(text) => serde_json::from_str(&text).map_err(|_| odd(agent::Odd("a command"))),
            Said::Refused(why) => Err(Refused::new(Code::Refused, format!("the agent in {name}: {why}"))),
            Said::Silent(why) => Err(Refused::new(Code::Unavailable, format!("the guest of {name} does not answer: {why}"))),
            Said::Gone(why) => Err(Refused::new(Code::Refused, why)),
        }
    }
}

fn odd(odd: agent::Odd) -> Refused {
    Refused::new(Code::Unavailable, odd.to_string())
}
