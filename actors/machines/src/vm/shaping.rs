//! The steps of a change of shape: what [`reshape`](super::reshape) wants done, asked of the roster and of the VM's host.

use std::{sync::Arc, time::Duration};

use hiveward_catalogue::{
    host::{event::FleetChange, fleet::VmEntry, protocol::Lag, reshape::Size},
    vm::spec::{Shape, VmSpec},
};
use hiveward_kernel::id::HostId;
use hiveward_runtime::clock::Deadline;

use super::{
    ask::{ask_host, definition, error},
    event::{OperationKind, Subject},
    message::Stepped,
    reconcile::Step,
    reshape::{self, Claim},
    state::VmState,
};
use crate::host::{
    ask_roster,
    driver::{Action, DriverError},
    services::MachineServices,
};

const ROSTER_WITHIN: Duration = Duration::from_secs(10);
/// Between looks whether this node knows what the roster has kept.
const KNOWN_EVERY: Duration = Duration::from_millis(5);

/// The change that is under way, or what is left of the last one.
#[derive(Clone, Default)]
pub(super) struct Shaping {
    wanted: Option<(u64, OperationKind, Option<Subject>)>,
    lag: Option<Lag>,
}

impl Shaping {
    pub fn of(state: &VmState) -> Self {
        let active = state.active().filter(|active| active.kind.is_of_shape());
        let wanted = active.map(|active| (active.number, active.kind, active.subject.clone()));
        Self { wanted, lag: state.lag.clone() }
    }

    /// What its present run may use beyond its shape.
    fn held(&self) -> Option<Size> {
        self.lag.as_ref().map(|lag| Size { cpus: lag.cpus, memory_bytes: lag.memory_bytes })
    }
}

/// What the roster has of it, as far as is known on this node; and whether it holds what no run uses any more.
pub(super) fn claim(services: &MachineServices, spec: &VmSpec, host: HostId, state: &VmState) -> (Claim, bool) {
    let number = state.active().filter(|active| active.kind.is_of_shape()).map(|active| active.number);
    services.directory.read(|known| {
        let Some(entry) = known.fleet.vms.get(&spec.id).filter(|entry| entry.host == host) else { return (Claim::Free, false) };
        (number.map_or(Claim::Free, |number| of(entry, number)), entry.held.is_some() && state.lag.is_none())
    })
}

fn of(entry: &VmEntry, number: u64) -> Claim {
    match &entry.reshaping {
        _ if entry.shaped >= number => Claim::Enacted,
        Some((held, _)) if *held == number => Claim::Held,
        _ => Claim::Free,
    }
}

type StepResult = Result<Stepped, DriverError>;

fn refused<T>(message: &str) -> Result<T, DriverError> {
    Err(DriverError::Refused { message: message.into() })
}

/// `None` if it is another's step.
pub(super) async fn step(
    services: &MachineServices,
    spec: &Arc<VmSpec>,
    host: HostId,
    shaping: Shaping,
    step: Step,
) -> Option<StepResult> {
    let known = |look: &dyn Fn(&VmEntry) -> bool| {
        services.directory.read(|known| known.fleet.vms.get(&spec.id).is_none_or(|entry| entry.host != host || look(entry)))
    };
    if step == Step::LetGo {
        let held = services.directory.read(|known| known.fleet.vms.get(&spec.id)?.held);
        let Some((number, _)) = held else { return Some(Ok(Stepped::Told)) };
        let change = FleetChange::LetGo { vm: spec.id, number };
        return Some(tell(services, change, || known(&|entry| entry.held.is_none_or(|(since, _)| since != number))).await);
    }
    let wanted = matches!(step, Step::Claim | Step::Reshape | Step::Unshape | Step::Enact | Step::GiveBack | Step::DropDisk);
    wanted.then_some(())?;
    let held = shaping.held();
    let Some((number, kind, subject)) = shaping.wanted else { return Some(refused("what is to change is not known")) };
    let vm = spec.id;
    let end = |reshaped| FleetChange::EndReshape { vm, host, number, reshaped, held };
    Some(match step {
        Step::Claim => match reshape::target(spec, kind, subject.as_ref()) {
            Ok(shape) => {
                let change = FleetChange::BeginReshape { vm, host, number, shape };
                tell(services, change, || known(&|entry| of(entry, number) != Claim::Free)).await
            }
            Err(refused) => Err(error(refused)),
        },
        Step::Enact => tell(services, end(true), || known(&|entry| of(entry, number) != Claim::Held)).await,
        Step::GiveBack => tell(services, end(false), || known(&|entry| of(entry, number) != Claim::Held)).await,
        Step::Reshape => {
            let live = !matches!(subject, Some(Subject::Resize { offline: true, .. }));
            let shape = services.directory.read(|known| known.fleet.vms.get(&vm)?.reshaping.clone());
            match shape {
                Some((of, shape)) if of == number => make(services, spec, host, &shape, live).await,
                _ => Err(DriverError::Failed { message: "nothing is reserved for it any more".into() }),
            }
        }
        Step::Unshape => make(services, spec, host, &spec.shape(), true).await,
        _ => match subject {
            Some(Subject::Disk { name, .. }) => {
                ask_host(services, host, spec, Action::DropDisk { name: name.to_string() }).await.map(Stepped::Seen)
            }
            _ => Ok(Stepped::Told),
        },
    })
}

/// Until this node knows of it: what is done next depends on it.
async fn tell(services: &MachineServices, change: FleetChange, known: impl Fn() -> bool) -> StepResult {
    let deadline = Deadline::after(ROSTER_WITHIN);
    ask_roster(services, change, deadline).await.map_err(error)?;
    while !known() {
        if deadline.passed() {
            return Err(DriverError::Failed { message: "this node does not know yet what the roster has kept".into() });
        }
        tokio::time::sleep(KNOWN_EVERY).await;
    }
    Ok(Stepped::Told)
}

async fn make(services: &MachineServices, spec: &Arc<VmSpec>, host: HostId, shape: &Shape, live: bool) -> StepResult {
    let shaped = Arc::new(spec.shaped(shape));
    let definition = definition(services, &shaped, host).await;
    let definition = definition.map_err(|refused| DriverError::Failed { message: refused.message })?;
    ask_host(services, host, &shaped, Action::Reshape { definition: Box::new(definition), live }).await.map(Stepped::Seen)
}
