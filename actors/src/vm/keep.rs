//! The steps of backups and drills: what [`backup`](super::backup) wants done, asked of the VM's host.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hiveward_runtime::clock::{Deadline, WallMs};

use super::{
    backup::{self, BACKUP_WITHIN, Backup, Drilled, Restored},
    console::From,
    event::Subject,
    message::Stepped,
    reconcile::Step,
    schedule,
    spec::VmSpec,
    state::VmState,
};
use crate::{
    host::{
        actor::STEP_WITHIN,
        backup::NewBackup,
        backup_target,
        driver::{DiskCopy, DriverError},
        message::HostMsg,
    },
    house::House,
    id::HostId,
};

const GUEST_WITHIN: Duration = Duration::from_secs(10);
/// Of what a console said last: enough for a prompt.
const PROMPT_BYTES: u64 = 64;

/// What the operation under way is about.
#[derive(Clone)]
pub(super) struct Errand {
    new: Option<(u64, NewBackup)>,
    drilled: Option<Drilled>,
    /// The number and the directory of a backup that is old.
    old: Option<(u64, PathBuf)>,
}

impl Errand {
    pub fn of(state: &VmState, spec: &Arc<VmSpec>, now: WallMs) -> Self {
        let active = state.active();
        let new = active.and_then(|active| match &active.subject {
            Some(Subject::Backup { to }) => Some((
                active.number,
                NewBackup {
                    name: backup::name(spec, active.number),
                    to: to.to_string(),
                    spec: spec.clone(),
                    running: state.is_on(),
                    at: now,
                },
            )),
            _ => None,
        });
        let failure = active.and_then(|active| active.abandoned.clone());
        let old = schedule::too_many(state).map(|backup| (backup.number, PathBuf::from(&backup.path)));
        Self { new, old, drilled: active.map(|_| Drilled { vm: spec.id.to_string(), at_ms: now.0, failure }) }
    }
}

fn failed<T>(message: impl Into<String>) -> Result<T, DriverError> {
    Err(DriverError::Failed { message: message.into() })
}

/// `None` if it is another's step.
pub(super) async fn step(
    house: &House,
    spec: &Arc<VmSpec>,
    host: HostId,
    errand: Errand,
    step: Step,
) -> Option<Result<Stepped, DriverError>> {
    let wanted = matches!(step, Step::Backup | Step::EndBackup | Step::Check | Step::Report | Step::Prune);
    wanted.then_some(())?;
    let Some(door) = house.doors.host(host) else { return Some(failed("its host has no actor now")) };
    let vm = spec.id;
    let done = match (step, errand.new) {
        (Step::Backup, Some((number, new))) => {
            let deadline = Deadline::after(BACKUP_WITHIN);
            let asked = door.ask(deadline, |reply| HostMsg::Backup { vm, new: Box::new(new.clone()), reply }).await;
            match asked {
                Ok(Ok((path, manifest))) => {
                    let bytes = manifest.disks.iter().map(|disk| disk.bytes).sum();
                    Ok(Stepped::BackedUp(Backup {
                        number,
                        path,
                        taken_at: WallMs(manifest.taken_at_ms),
                        bytes,
                        scheduled: false,
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
            let (of, shown) = (backup::name(spec, number), path.display().to_string());
            let removed = tokio::task::spawn_blocking(move || backup_target::remove(&path, &of)).await;
            match removed.map_err(std::io::Error::other).flatten() {
                Ok(()) => Ok(Stepped::Pruned(number)),
                Err(error) => failed(format!("the old backup {shown} cannot be removed: {error}")),
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
            (Some(restored), Some(drilled)) => {
                let path = PathBuf::from(&restored.path);
                let wrote = tokio::task::spawn_blocking(move || backup_target::write_drilled(&path, &drilled)).await;
                match wrote.map_err(std::io::Error::other).flatten() {
                    Ok(()) => Ok(Stepped::Told),
                    Err(error) => failed(format!("it cannot be written beside the backup: {error}")),
                }
            }
            _ => Ok(Stepped::Told),
        },
        _ => Err(DriverError::Refused { message: "where to is not known".into() }),
    };
    Some(done)
}

/// Whether somebody could log in there, or type.
fn is_prompt(said: &str) -> bool {
    let last = said.trim_end();
    last.ends_with("login:") || last.ends_with(['#', '$'])
}

impl Restored {
    /// What a disk begins as: a file on the node.
    pub(super) fn base(&self, disk: &DiskCopy) -> crate::host::driver::Base {
        crate::host::driver::Base {
            hash: disk.hash.clone(),
            path: format!("{}/{}", self.path, disk.file),
            bytes: disk.bytes,
            virtual_bytes: disk.virtual_bytes,
            format: disk.format.clone(),
            verify: true,
        }
    }
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
