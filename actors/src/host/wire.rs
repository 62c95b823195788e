//! A host's messages as they travel between nodes. Variants and fields have names: add, never rename.

use hiveward_runtime::cluster::router::{Inbound, NotDelivered};
use serde::{Deserialize, Serialize};

use super::message::HostMsg;
use crate::id::VmId;

#[derive(Serialize, Deserialize)]
pub enum HostWire {
    Usage { vms: Vec<VmId> },
}

/// What came in, as the message it is.
pub fn read(inbound: &Inbound<'_>) -> Result<HostMsg, NotDelivered> {
    Ok(match inbound.read()? {
        HostWire::Usage { vms } => HostMsg::Usage { vms, reply: inbound.reply()? },
    })
}
