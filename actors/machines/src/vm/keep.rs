//! The steps of backups and drills: what [`backup`](super::backup) wants done, asked of the VM's host.

use std::{sync::Arc, time::Duration};

use hiveward_catalogue::{host::protocol::Marks, vm::spec::VmSpec};
use hiveward_kernel::id::HostId;
use hiveward_runtime::clock::{Deadline, WallMs};

use super::{
    backup::{self, BACKUP_WITHIN, Backup, Drilled},
    chain,
    console::From,
    event::Subject,
    message::Stepped,
    reconcile::Step,
    schedule,
    state::VmState,
};
use crate::host::{
    backup::{self as store, NewBackup, targets},
    driver::DriverError,
    message::HostMsg,
    message::STEP_WITHIN,
    services::MachineServices,
};

const GUEST_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of what a console said last that are read: enough for a prompt.
const PROMPT_BYTES: u64 = 64;

/// What the operation under way is about.
#[derive(Clone)]
pub(super) struct Errand {
    new: Option<(u64, NewBackup)>,
    /// Names, numbers and depths of the backups that it may be based on.
    known: Vec<(String, u64, u32)>,
    drilled: Option<Drilled>,
    /// Number and path of a backup that is old.
    old: Option<(u64, String)>,
}

impl Errand {
    /// Collects from the VM's state what the steps of the operation under way have to know.
    pub fn of(state: &VmState, spec: &Arc<VmSpec>, host: HostId, now: WallMs) -> Self {
        let active = state.active();
        let new = active.and_then(|active| match &active.subject {
            Some(Subject::Backup { to, incremental }) => {
                let basis = incremental.then(|| chain::basis(state, to, host));
                let since = basis.as_ref().and_then(|basis| basis.as_ref().ok()).copied();
                let marks = Marks {
                    new: Some(chain::checkpoint(spec, active.number)),
                    since: since.map(|basis| chain::checkpoint(spec, basis.number)),
                    keep: chain::marked(state, host, since).into_iter().map(|number| chain::checkpoint(spec, number)).collect(),
                };
                let new = NewBackup {
                    name: backup::name(spec, active.number),
                    to: to.to_string(),
                    spec: spec.clone(),
                    running: state.is_on(),
                    at: now,
                    basis: basis.map(|basis| basis.map(|basis| backup::name(spec, basis.number))),
                    marks,
                };
                Some((active.number, new))
            }
            _ => None,
        });
        let failure = active.and_then(|active| active.abandoned.clone());
        let old = schedule::too_many(state).map(|backup| (backup.number, backup.path.clone()));
        let known = state.backups.iter().map(|known| (backup::name(spec, known.number), known.number, known.depth)).collect();
        Self { new, known, old, drilled: active.map(|_| Drilled { vm: spec.id.to_string(), at_ms: now.0, failure }) }
    }
}

fn failed<T>(message: impl Into<String>) -> Result<T, DriverError> {
    Err(DriverError::Failed { message: message.into() })
}

/// Asks the VM's host to do a step of a backup or a drill; `None` if the step is none of these.
pub(super) async fn step(
    services: &MachineServices,
    spec: &Arc<VmSpec>,
    host: HostId,
    errand: Errand,
    step: Step,
) -> Option<Result<Stepped, DriverError>> {
    let wanted = matches!(step, Step::Backup | Step::EndBackup | Step::Check | Step::Report | Step::Prune);
    wanted.then_some(())?;
    let Some(door) = services.doors.of::<HostMsg>(host) else { return Some(failed("its host has no actor now")) };
    let vm = spec.id;
    let done = match (step, errand.new) {
        (Step::Backup, Some((number, new))) => {
            let deadline = Deadline::after(BACKUP_WITHIN);
            let asked = door.ask(deadline, |reply| HostMsg::Backup { vm, new: Box::new(new.clone()), reply }).await;
            match asked {
                Ok(Ok((path, manifest))) => {
                    // As it was written, perhaps by an earlier life.
                    let basis = errand.known.iter().find(|(name, ..)| manifest.basis.as_ref() == Some(name));
                    Ok(Stepped::BackedUp(Backup {
                        number,
                        path,
                        taken_at: WallMs(manifest.taken_at_ms),
                        bytes: manifest.bytes(),
                        scheduled: false,
                        basis: basis.map(|(_, number, _)| *number),
                        depth: basis.map_or(0, |(.., depth)| depth + 1),
                        whole_because: manifest.whole_because,
                        marked_on: manifest.marked.then_some(host),
                    }))
                }
                Ok(Err(error)) => Err(error),
                Err(error) => failed(format!("its host's actor: {error}")),
            }
        }
        (Step::EndBackup, Some((_, new))) => {
            let deadline = Deadline::after(STEP_WITHIN * 2);
            match door.ask(deadline, |reply| HostMsg::EndBackup { vm, new: Box::new(new.clone()), reply }).await {
                Ok(ended) => ended.map(Stepped::Seen),
                Err(error) => failed(format!("its host's actor: {error}")),
            }
        }
        (Step::Prune, _) => {
            let Some((number, path)) = errand.old else { return Some(Ok(Stepped::Told)) };
            match prune(services, &path, &backup::name(spec, number)).await {
                Ok(()) => Ok(Stepped::Pruned(number)),
                Err(error) => failed(format!("the old backup {path} cannot be removed: {error}")),
            }
        }
        (Step::Check, _) => {
            let said = door.ask(Deadline::after(GUEST_WITHIN), |reply| HostMsg::Guest { vm, reply }).await;
            let from = From::Last(PROMPT_BYTES);
            let make = |reply| HostMsg::ReadConsole { vm, from, wait_ms: 0, reply };
            let answers = matches!(said, Ok(Some(_)))
                || match door.ask(Deadline::after(GUEST_WITHIN), make).await {
                    Ok(Ok(piece)) => is_prompt(&String::from_utf8_lossy(&piece.bytes)),
                    _ => false,
                };
            if answers { Ok(Stepped::Told) } else { failed("neither an agent in the guest nor its console answers yet") }
        }
        (Step::Report, _) => match (&spec.restored, errand.drilled) {
            (Some(restored), Some(drilled)) => match report(services, &restored.path, &drilled).await {
                Ok(()) => Ok(Stepped::Told),
                Err(error) => failed(format!("it cannot be written beside the backup: {error}")),
            },
            _ => Ok(Stepped::Told),
        },
        _ => Err(DriverError::Refused { message: "where to is not known".into() }),
    };
    Some(done)
}

/// Removes a backup from its place. A path that does not end in `name` is left alone, and is an error.
async fn prune(services: &MachineServices, path: &str, name: &str) -> std::io::Result<()> {
    let (place, is) = targets::split(path)?;
    if is != name {
        return Err(std::io::Error::other(format!("{path} is not where {name} is")));
    }
    targets::open(place, &store::scratch(services))?.remove(name).await
}

async fn report(services: &MachineServices, path: &str, drilled: &Drilled) -> std::io::Result<()> {
    let (place, name) = targets::split(path)?;
    targets::open(place, &store::scratch(services))?.write_drilled(name, drilled).await
}

/// Tells whether a console ends with a prompt, so that somebody could log in there, or type.
fn is_prompt(said: &str) -> bool {
    let last = said.trim_end();
    last.ends_with("login:") || last.ends_with(['#', '$'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_answers_when_somebody_could_type_there() {
        for (said, answers) in [
            ("web login: ", true),
            ("/ # ", true),
            ("user@web:~$ ", true),
            ("[    0.51] Run /init as init process\r\n", false),
            ("", false),
            ("This machine is simulated: it has no guest, and its console echoes what is typed.\r\n", false),
        ] {
            assert_eq!(is_prompt(said), answers, "{said:?}");
        }
    }
}
