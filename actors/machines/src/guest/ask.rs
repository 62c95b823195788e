//! Brings a command to the agent in a guest, on whatever node its host is.

use std::time::Duration;

use hiveward_runtime::clock::Deadline;

pub(crate) use super::wire::Said;
use hiveward_kernel::id::VmId;

use crate::{
    host::{driver::DriverError, message::asks as host, services::MachineServices},
    vm::record::VmStatus,
};

/// Time for one answer of an agent.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Asks the agent in a guest once, on whatever node its host is.
pub async fn ask(services: &MachineServices, vm: VmId, command: String, deadline: Deadline) -> Said {
    let Some(host) = services.directory.read(|known| known.fleet.vms.get(&vm).map(|entry| entry.host)) else {
        return Said::Gone(format!("{vm} is no more"));
    };
    if let Some(why) = why_gone(services, vm) {
        return Said::Gone(why);
    }
    let deadline = deadline.at_most(ANSWER_WITHIN);
    let asked = services.ask(deadline, host, host::GuestCommand { vm, command }).await;
    match asked {
        Ok(Ok(Some(said))) => Said::Answer(said),
        Ok(Ok(None)) => Said::Silent("no agent answers in it; its image must have QEMU's guest agent".into()),
        Ok(Err(DriverError::Refused { message })) => Said::Refused(message),
        Ok(Err(error)) => Said::Silent(error.to_string()),
        Err(refused) => Said::Silent(refused.message),
    }
}

/// Returns why nobody will answer any more, if that is so.
fn why_gone(services: &MachineServices, vm: VmId) -> Option<String> {
    // One that is not in the view yet is on its way.
    let record = services.vms.get(vm).ok().flatten()?;
    let ended = matches!(record.status, VmStatus::Stopped | VmStatus::Failed | VmStatus::Stopping | VmStatus::Removed);
    ended.then(|| {
        let why = record.state.failed.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        format!("VM {} is {}{why}", record.spec.name, format!("{:?}", record.status).to_lowercase())
    })
}
