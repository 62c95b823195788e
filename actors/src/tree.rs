//! The whole supervision tree of a node, in the order in which it starts; it stops in the reverse. Read this first.
//!
//! ```text
//! node        one_for_one   gives up on nothing below it
//! ├─ platform one_for_one   ledger (watches the ledger and the views, keeps its retention)
//! │                         transcripts (keeps theirs), blobs (takes away what nothing names),
//! │                         disk (measures it), directory (keeps up with the ledger),
//! │                         guests (the desk at which programs of this node ask those of VMs)
//! ├─ swarms   one_for_one   coordinator* (permanent; a crash loop of one is stopped alone)
//! ├─ agents   one_for_one   agent* (transient; likewise) → sessions in shims of their own
//! ├─ hosts    one_for_one   host* → its actor (permanent) and, beside it, vm* (transient; a crash loop is stopped alone)
//! ├─ roster   essential     names and places; acts where the node leads
//! └─ residents essential    makes what runs in the three above what the directory places here
//! ```
//!
//! The gateway is started by the binary after the tree answers, and stopped before it.

use std::{sync::Arc, time::Duration};

use hiveward_catalogue::directory::{DirectoryKeeper, ROSTER_INCARNATION, roster_key};
use hiveward_machines::guest::GuestDesk;
use hiveward_runtime::{
    call::Door,
    cluster::router::ActorDoor,
    supervise::{ChildSpec, Intensity, StartError, Strategy, Supervisor, SupervisorSpec, Tree},
};

use crate::{
    house::House,
    residents::actor::Residents,
    retention::{
        Retention, TranscriptKeeper,
        blobs::BlobKeeper,
        disk::DiskGauge,
        ledger::{LedgerRetention, LedgerWatch},
    },
    roster::{RosterMsg, RosterWire, actor::Roster},
};

/// How often children of supervisors that count them one by one may fail: what escalates here is rare, and never fatal.
const INTENSITY: Intensity = Intensity { restarts_max: 20, period: Duration::from_secs(10) };

/// A tree that has started, with the doors through which the rest of the node speaks to it.
pub struct Running {
    pub root: Supervisor,
    pub tree: Tree,
    pub roster: Door<RosterMsg>,
}

/// Starts the whole tree and returns when every part of it is ready. Errors: the first part that does not start.
pub async fn start(
    house: House,
    retention: Retention,
    ledger: LedgerRetention,
    reserve_bytes: u64,
) -> Result<Running, StartError> {
    let tree = Tree::default();
    let watched = house.clone();
    let (watch, _) = ChildSpec::actor("ledger", "ledger", move || LedgerWatch::new(watched.clone(), ledger)).build();
    let kept = house.clone();
    let (keeper, _) =
        ChildSpec::actor("transcripts", "transcripts", move || TranscriptKeeper::new(kept.clone(), retention.transcripts))
            .build();
    let named = house.clone();
    let (blobs, _) = ChildSpec::actor("blobs", "blobs", move || BlobKeeper::new(named.clone(), retention.blobs)).build();
    let measured = house.clone();
    let (disk, _) = ChildSpec::actor("disk", "disk", move || DiskGauge::new(measured.clone(), reserve_bytes)).build();
    let followed = house.directory.clone();
    let (directory, _) = ChildSpec::actor("directory", "directory", move || DirectoryKeeper::new(followed.clone()))
        .start_timeout(Duration::from_secs(60))
        .build();
    let asked = house.clone();
    let (guests, _) = ChildSpec::actor("guests", "guests", move || GuestDesk::new(asked.machines.clone())).build();
    let platform = SupervisorSpec::new("platform", Strategy::OneForOne, vec![watch, keeper, blobs, disk, directory, guests])
        .intensity(INTENSITY);
    let (platform, _) = ChildSpec::supervisor(platform);
    let (swarms, swarms_handle) =
        ChildSpec::supervisor(SupervisorSpec::new("swarms", Strategy::OneForOne, vec![]).intensity(INTENSITY));
    let (agents, agents_handle) =
        ChildSpec::supervisor(SupervisorSpec::new("agents", Strategy::OneForOne, vec![]).intensity(INTENSITY));
    let (hosts, hosts_handle) =
        ChildSpec::supervisor(SupervisorSpec::new("hosts", Strategy::OneForOne, vec![]).intensity(INTENSITY));
    let named = house.clone();
    let (roster, roster_door) = ChildSpec::actor("roster", "roster", move || Roster::new(named.clone()))
        .start_timeout(Duration::from_secs(60))
        .mailbox(65_536)
        .essential()
        .build();
    house.router.open(&roster_key(), ROSTER_INCARNATION, Arc::new(ActorDoor::new(roster_door.clone(), RosterWire::message)));
    let idle = roster_door.clone();
    let (residents, _) = ChildSpec::actor("residents", "residents", move || {
        Residents::new(house.clone(), agents_handle.clone(), swarms_handle.clone(), hosts_handle.clone(), idle.clone())
    })
    .start_timeout(Duration::from_secs(60))
    .essential()
    .build();
    // The roster before the residents: on a single node what it places is started with the tree.
    let children = vec![platform.essential(), swarms.essential(), agents.essential(), hosts.essential(), roster, residents];
    let root = SupervisorSpec::new("node", Strategy::OneForOne, children).intensity(INTENSITY);
    let root = Supervisor::root(root, tree.clone()).await?;
    Ok(Running { root, tree, roster: roster_door })
}
