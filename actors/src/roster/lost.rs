//! What brings back what ran on lost hosts, on the node that leads: once their nodes have surely ended it, and again whenever the
//! roster has changed while something still waits for room.
//!
//! Owns when each lost host's margin is over, counted anew by each leader: never too early. What was decided is in the
//! roster's stream.

use std::collections::HashMap;

use hiveward_catalogue::{
    host::lost::{self, FENCE_MARGIN},
    roster::event::RosterEvent,
};
use hiveward_kernel::id::HostId;
use hiveward_runtime::supervise::Failure;
use tokio::time::Instant;

use super::actor::{Acting, Roster};

#[derive(Default)]
pub(super) struct Losing {
    fenced_at: HashMap<HostId, Instant>,
    /// The version of the roster when all that waited was tried last.
    tried: u64,
}

impl Roster {
    pub(super) async fn bring_back(&self, acting: &mut Acting) -> Result<(), Failure> {
        let now = Instant::now();
        let losing = &mut acting.lost;
        let due: Vec<HostId> = self.house.directory.read(|known| {
            let waiting: Vec<HostId> = lost::being_fenced(&known.fleet).map(|(host, _)| host).collect();
            losing.fenced_at.retain(|host, _| waiting.contains(host));
            let due = waiting.into_iter().filter(|host| *losing.fenced_at.entry(*host).or_insert(now + FENCE_MARGIN) <= now);
            due.collect()
        });
        for host in due {
            let events = self.house.directory.read(|known| lost::fenced(&known.fleet, host));
            let back = events.iter().filter(|event| event.kind() == "VmComesBack").count();
            tracing::warn!(%host, back, "what ran on a lost host has been ended there, and comes back elsewhere");
            self.commit(acting, events.into_iter().map(RosterEvent::Fleet).collect()).await?;
        }
        let tried = acting.lost.tried;
        let (version, events) = self.house.directory.read(|known| {
            let events = if known.version == tried { Vec::new() } else { lost::bring_all_back(&known.fleet) };
            (known.version, events)
        });
        acting.lost.tried = version;
        self.commit(acting, events.into_iter().map(RosterEvent::Fleet).collect()).await?;
        Ok(())
    }
}
