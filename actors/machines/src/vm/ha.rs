//! What becomes of a VM when its host is lost, as it is known now. Pure.

use std::sync::Arc;

use hiveward_catalogue::{directory::Known, host::lost, placement::vm::Decision};
use hiveward_kernel::id::{HostId, VmId};
use hiveward_runtime::clock::WallMs;
use serde::{Deserialize, Serialize};

/// Number of comings back that are remembered of a VM.
pub const COME_BACKS_KEPT_MAX: usize = 8;

/// One coming back of a VM, as the views keep it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComeBack {
    pub at: WallMs,
    pub from: HostId,
    pub to: HostId,
    pub epoch: u64,
    pub decision: Arc<Decision>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HaState {
    /// The VM was not made to come back.
    Off,
    /// The VM comes back by itself.
    Protected,
    /// The VM comes back when somebody says that its host is off: nobody else could be sure of that.
    ByWord,
    /// The VM's host is lost, and is given the time to end it.
    Fencing,
    /// The VM's host is off; it comes back as soon as another has room.
    Waiting,
    /// The VM's host is lost or cannot be reached, and may still run it.
    NeedsWord,
}

/// Returns how it stands with a VM's coming back, why, and the VM's epoch; `None` if the VM or its host is not known.
pub fn state(known: &Known, vm: VmId) -> Option<(HaState, Option<String>, u64)> {
    let entry = known.fleet.vms.get(&vm)?;
    let host = known.fleet.hosts.get(&entry.host)?;
    let name = &host.spec.name;
    let word = |why: &str| {
        let how = format!("if it is surely off, say so: `hiveward host declare-lost {name} --i-know-it-is-off`");
        (HaState::NeedsWord, Some(format!("{why}, so it may still run there and is not started elsewhere; {how}")))
    };
    let (state, why) = match (&host.lost, &host.unreachable) {
        _ if !entry.spec.ha => (HaState::Off, None),
        (Some(lost), _) if lost.off => {
            let why = entry.waits.as_deref().unwrap_or("it is about to come back");
            (HaState::Waiting, Some(format!("{name} is off: {}; {why}", lost.why)))
        }
        (Some(lost), _) if lost.fences => (HaState::Fencing, Some(format!("{}; it is given the time to end it", lost.why))),
        (Some(lost), _) => word(&format!("{}, and nothing ends what runs on {name}", lost.why)),
        (None, Some(why)) => word(&format!("the hypervisor of {name} cannot be reached: {why}")),
        (None, None) if host.place.node.is_none() => word(&format!("no node holds the connection to {name}: {}", host.place.why)),
        (None, None) => {
            let record = host.place.node.and_then(|node| known.nodes.get(&node)).map(|entry| &entry.record);
            if lost::is_fenced(&host.spec, record) {
                (HaState::Protected, None)
            } else {
                let why = format!("{name} is not ended by its node: its VMs come back when somebody says that it is off");
                (HaState::ByWord, Some(why))
            }
        }
    };
    Some((state, why, entry.epoch))
}
