//! Membership: who is in the cluster, and who may act. It drives leases, votes and links by what the node book says.
//!
//! Owns this node's lease and, while it leads, everyone's. Asks the node book (the ledger's directory, in the end) who the
//! nodes are, and tells it who is lost and who is back. Decides nothing about what runs where. After a restart it holds no
//! lease until a leader grants one.

mod admitted;
mod down;
mod drive;
mod introduce;
mod leases;
pub mod voters;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::JoinHandle};

use super::lease::{LeaseTerms, Phase};
use crate::net::{
    identity::KeyPin,
    link::{Links, Member},
    rpc::LaneRpc,
};
use crate::{
    error::Refused,
    ledger::{Cursor, Ledger},
    op::NodeId,
};
use introduce::Introductions;
pub use leases::LeaseView;
use leases::Leases;
use voters::VoterPolicy;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    Up,
    /// The node is being emptied.
    Draining,
    /// The node is empty, and takes nothing new.
    Drained,
    /// The node's lease ran out; it may come back.
    Lost,
    /// The node is out for good.
    Removed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownNode {
    pub node: NodeId,
    /// The node's number among those that keep the ledger.
    pub raft_id: u64,
    /// The address at which its peers reach it.
    pub address: String,
    pub state: NodeState,
    /// The generation of its newest start that is in the ledger.
    pub generation: u64,
    /// The key that its certificates are for; none until it has said so.
    pub key: Option<KeyPin>,
}

/// The book of what the ledger says about nodes, and the way to change it.
pub trait NodeBook: Send + Sync + 'static {
    fn nodes(&self) -> Vec<KnownNode>;
    /// Returns the event up to which `nodes` is.
    fn cursor(&self) -> watch::Receiver<Cursor>;
    /// Tells of this node whether nothing that was placed here before runs any more.
    fn holds_nothing(&self) -> bool;
    /// Writes, on the leader, that the lease of a node ran out.
    fn lost(&self, node: NodeId, why: String) -> BoxFuture<'static, Result<(), Refused>>;
    /// Writes, on the leader, that nothing listens where the node was, though its lease is not over. Called again while that is
    /// so.
    fn down(&self, node: NodeId) -> BoxFuture<'static, Result<(), Refused>>;
    /// Writes, on the leader, that a lost node asks again and holds nothing.
    fn back(&self, node: NodeId, generation: u64) -> BoxFuture<'static, Result<(), Refused>>;
}

#[derive(Clone)]
pub struct MembershipSetup {
    pub node: NodeId,
    /// The generation of this start.
    pub generation: u64,
    pub terms: LeaseTerms,
    pub voters: VoterPolicy,
    pub ledger: Ledger,
    pub links: Links,
    /// The Raft lane: leases must not wait behind other things either.
    pub lane: LaneRpc,
    pub book: Arc<dyn NodeBook>,
    /// The members that a joiner was told of; used until its own book names it, and so is at least as new.
    pub first_peers: Vec<Member>,
    /// The channel that is told what phase this node's lease is in.
    pub lease: watch::Sender<Phase>,
}

/// The tasks of membership. They end with [`Membership::stop`], or when this is dropped.
pub struct Membership {
    leases: Arc<Leases>,
    introductions: Arc<Introductions>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Membership {
    /// Starts the tasks and answers other nodes from now on. This node holds no lease until a leader grants one.
    pub fn start(setup: MembershipSetup) -> Self {
        let leases = Arc::new(Leases::new(setup));
        leases.open();
        let introductions = Arc::new(Introductions::open(&leases));
        let tasks = vec![
            tokio::spawn(leases::hold(leases.clone())),
            tokio::spawn(leases::grant(leases.clone())),
            tokio::spawn(drive::links(leases.clone(), introductions.clone())),
            tokio::spawn(introduce::ask_around(leases.clone(), introductions.clone())),
            tokio::spawn(drive::voters(leases.clone())),
            tokio::spawn(down::tell(leases.clone())),
        ];
        Self { leases, introductions, tasks: Mutex::new(tasks) }
    }

    /// Returns how each node's lease stands, on the leader; empty elsewhere.
    pub fn leases(&self) -> Vec<LeaseView> {
        self.leases.view()
    }

    /// Returns the phase of this node's own lease, by the clock.
    pub fn phase(&self) -> Phase {
        self.leases.phase()
    }

    /// Returns how long until this node begins to stop what it holds: none if it holds no lease, the greatest if it needs none.
    pub fn stops_in(&self) -> Option<Duration> {
        self.leases.stops_in()
    }

    /// Tells, on the leader, why a node may not be removed now.
    pub fn removable(&self, node: NodeId) -> Result<(), String> {
        drive::removable(&self.leases, node)
    }

    /// Stops answering and ends all tasks; waits until they are over. A second call changes nothing.
    pub async fn stop(&self) {
        self.leases.close();
        self.introductions.close();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in &tasks {
            task.abort();
        }
        for task in tasks {
            // Aborted, as asked.
            let _ = task.await;
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        for task in self.tasks.lock().iter() {
            task.abort();
        }
    }
}

/// Returns the pause between asks for a lease: there are several within its length.
fn ask_every(terms: &LeaseTerms) -> Duration {
    (terms.length / 8).max(Duration::from_millis(20))
}
