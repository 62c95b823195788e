//! A host's messages as they travel between nodes. Variants and fields have names: add, never rename.

use hiveward_kernel::id::VmId;
use hiveward_runtime::{
    clock::WallMs,
    cluster::router::{Inbound, NotDelivered},
    ledger::Cursor,
};
use serde::{Deserialize, Serialize};

use super::message::HostMsg;
use crate::vm::console::From;

#[derive(Serialize, Deserialize)]
pub enum HostWire {
    Usage { vms: Vec<VmId> },
    Guest { vm: VmId },
    Peek { vm: VmId },
    Prepare { vm: VmId },
    Clear { vm: VmId },
    Job { vm: VmId },
    ReadConsole { vm: VmId, from: From, wait_ms: u64 },
    TypeConsole { vm: VmId, bytes: serde_bytes::ByteBuf },
    GuestCommand { vm: VmId, command: String },
    Samples { vm: Option<VmId>, since: WallMs, until: WallMs, points: u32 },
    Loads { since: WallMs, window_ms: u64 },
    Leave { seen: Cursor },
}

/// Reads what came in as the message that it is. Errors: it is none, and is not delivered.
pub fn read(inbound: &Inbound<'_>) -> Result<HostMsg, NotDelivered> {
    Ok(match inbound.read()? {
        HostWire::Peek { vm } => HostMsg::Peek { vm, reply: inbound.reply()? },
        HostWire::Prepare { vm } => HostMsg::Prepare { vm, reply: inbound.reply()? },
        HostWire::Clear { vm } => HostMsg::Clear { vm, reply: inbound.reply()? },
        HostWire::ReadConsole { vm, from, wait_ms } => HostMsg::ReadConsole { vm, from, wait_ms, reply: inbound.reply()? },
        HostWire::TypeConsole { vm, bytes } => HostMsg::TypeConsole { vm, bytes: bytes.into_vec(), reply: inbound.reply()? },
        HostWire::GuestCommand { vm, command } => HostMsg::GuestCommand { vm, command, reply: inbound.reply()? },
        HostWire::Samples { vm, since, until, points } => HostMsg::Samples { vm, since, until, points, reply: inbound.reply()? },
        HostWire::Loads { since, window_ms } => HostMsg::Loads { since, window_ms, reply: inbound.reply()? },
        HostWire::Job { vm } => HostMsg::Job { vm, reply: inbound.reply()? },
        HostWire::Guest { vm } => HostMsg::Guest { vm, reply: inbound.reply()? },
        HostWire::Leave { seen } => HostMsg::Leave { seen, reply: inbound.reply()? },
        HostWire::Usage { vms } => HostMsg::Usage { vms, reply: inbound.reply()? },
    })
}
