//! A VM's messages as they travel between nodes. Variants and fields have names: add, never rename.

use hiveward_runtime::cluster::router::{Inbound, NotDelivered};
use serde::{Deserialize, Serialize};

use super::{message::VmMsg, schedule::Schedule, state::Ask};

#[derive(Serialize, Deserialize)]
pub enum VmWire {
    Ask { ask: Ask },
    CancelMigration { principal: String },
    Schedule { schedule: Option<Schedule> },
}

/// Reads what came in as the message that it is. Errors: it is none, and is not delivered.
pub fn read(inbound: &Inbound<'_>) -> Result<VmMsg, NotDelivered> {
    Ok(match inbound.read()? {
        VmWire::CancelMigration { principal } => VmMsg::CancelMigration { principal: principal.into(), reply: inbound.reply()? },
        VmWire::Schedule { schedule } => VmMsg::Schedule { schedule, reply: inbound.reply()? },
        VmWire::Ask { ask } => VmMsg::Ask { ask, reply: inbound.reply()? },
    })
}
