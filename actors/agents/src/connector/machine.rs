//! Attempts that have a VM of their own: what their connector would run here runs there.
//!
//! Owns nothing: the VM goes when the attempt is over, by itself (`vm/attempt.rs`). What is held by a shim here brings the
//! program there (`guest/session`), so it is adopted, stopped and read like any other.

use std::{fs, sync::Arc, time::Duration};

use hiveward_catalogue::{
    agent::spec::{Limits, SessionSpec},
    vm::machine::MachineSpec,
};
use hiveward_kernel::{id::VmId, lease::Lease};
use hiveward_machines::guest::{
    self,
    session::{Given, LOST_CODE},
};

use super::{
    Outcome,
    attempt::{Attempt, Control, Shared, attempt_dir, stopped},
};
use crate::session::{Exit, Launch, Session};

/// Name of the file with the attempt's VM, for the next life of its agent.
const VM: &str = "vm";
/// Name of the file that says why the program was lost with its guest.
const LOST: &str = "lost-guest";

/// Returns the VM that each attempt gets, if each gets one.
pub(super) fn of(shared: &Shared) -> Option<Arc<MachineSpec>> {
    match &shared.agent.session {
        SessionSpec::Vm(machine) => Some(machine.clone()),
        SessionSpec::Pipes | SessionSpec::Pty { .. } => None,
    }
}

/// Returns the same program in the attempt's VM if it has one, which is made first if it must be. Dropping the future leaves a VM
/// that goes when the attempt is over.
pub(super) async fn enter(attempt: &Attempt, control: &Control, launch: Launch) -> Result<Launch, Outcome> {
    let (shared, Some(machine)) = (&attempt.shared, of(&attempt.shared)) else { return Ok(launch) };
    let mut stop = control.stop.subscribe();
    let vm = tokio::select! {
        biased;
        why = stopped(&mut stop) => return Err(Outcome::stopped(why)),
        made = shared.env.machines.of(attempt.lease, &machine) => made.map_err(|why| Outcome::failed(why, true))?,
    };
    let local = |error: std::io::Error| Outcome::failed(format!("the attempt's files cannot be written: {error}"), true);
    attempt.write(VM, vm.to_string().as_bytes()).map_err(local)?;
    let lost = std::path::absolute(attempt.path(LOST)).map_err(local)?;
    match fs::remove_file(&lost) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(local(error)),
        _ => {}
    }
    let dir = std::path::absolute(attempt_dir(&shared.env.data_dir, attempt.lease)).map_err(local)?;
    let given = Given {
        socket: std::path::absolute(guest::socket_of(&shared.env.data_dir)).map_err(local)?,
        vm,
        ready_within: Duration::from_millis(machine.boot_within_ms),
        work: std::path::absolute(attempt.workdir()).map_err(local)?,
        with: dir.clone(),
        lost,
        cwd: std::path::absolute(&launch.cwd).map_err(local)?,
        argv: launch.argv,
    };
    let argv = std::iter::once(launch.shim.program.display().to_string()).chain(given.args()).collect();
    // What bounds the program is the size of its VM.
    Ok(Launch { argv, cwd: dir, limits: Limits::default(), mode: SessionSpec::Pipes, ..launch })
}

/// Returns why no program of this agent could reach this address of the node, if that is so.
pub(super) fn cannot_reach(shared: &Shared, url: &str) -> Option<String> {
    of(shared)?;
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let own = ["127.", "localhost", "[::1]"].iter().any(|own| host.starts_with(own));
    own.then(|| {
        format!(
            "the model gateway listens at {host}, where no guest can reach it: have `models.listen` in the node's configuration              name an address of the network that its VMs are on"
        )
    })
}

/// Returns the VM of an attempt that has one already.
fn vm_of(shared: &Shared, lease: Lease) -> Option<VmId> {
    of(shared)?;
    fs::read_to_string(attempt_dir(&shared.env.data_dir, lease).join(VM)).ok()?.parse().ok()
}

/// Lets what runs in this session ask the attempt's VM, if it has one: nothing else on this node may.
pub(super) fn introduce(attempt: &Attempt, session: &Session) {
    if let (Some(pid), Some(vm)) = (session.pid(), vm_of(&attempt.shared, attempt.lease)) {
        attempt.shared.env.askers.enter(pid, vm);
    }
}

/// Stops the programs of an attempt's VM in their tracks, or lets them go on. Nothing is to be done where there is none.
pub(super) async fn pause(shared: &Shared, lease: Lease, paused: bool) -> Result<(), String> {
    let Some(vm) = vm_of(shared, lease) else { return Ok(()) };
    shared.env.machines.pause(vm, paused).await
}

/// Returns the outcome of a program that was lost with its guest, if it was.
pub(super) fn lost(attempt: &Attempt, exit: &Exit) -> Option<Outcome> {
    let ended_so = exit.code == Some(i32::from(LOST_CODE)) && !exit.stopped && !exit.timed_out;
    let why = attempt.read(LOST).filter(|_| ended_so)?;
    let error = format!("its VM was lost: {}", String::from_utf8_lossy(&why));
    Some(Outcome::lost(error))
}
