//! Hypervisor hosts: each a supervised actor that owns one connection through a driver, with its VMs beside it under a
//! supervisor of its own.
//!
//! Which hosts there are, what they have and what is reserved of it is in the roster's stream (`event`, `fleet`, `decide`, `placing`).
//! What runs on a host its hypervisor says; the host's actor asks it and tells its VMs.

pub mod actor;
pub mod backup;
mod children;
mod console;
pub mod driver;
pub mod fence;
mod ha;
pub mod image;
mod looks;
pub mod message;
pub mod meter;
pub mod network;
pub mod record;
pub mod services;
mod travel;

pub use record::{HostRecord, HostStatus};

use hiveward_catalogue::{directory::roster_key, roster::message::RosterWire};
use hiveward_kernel::commit::Committed;
use hiveward_runtime::{clock::Deadline, error::Refused, id::Key};

use crate::host::services::MachineServices;

/// Asks the roster, wherever it acts, for a change of the fleet that Hiveward itself wants.
pub(crate) async fn ask_roster(
    services: &MachineServices,
    change: hiveward_catalogue::host::event::FleetChange,
    deadline: Deadline,
) -> Result<Committed<Key>, Refused> {
    if let Some(at) = services.directory.roster() {
        services.router.learn(&roster_key(), at);
    }
    let wire = RosterWire::Fleet { change, operation: None };
    services.router.ask::<_, Result<Committed<Key>, Refused>>(deadline, &roster_key(), &wire).await.map_err(Refused::from)?
}
