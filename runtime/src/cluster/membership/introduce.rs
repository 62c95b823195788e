//! The newer books of other members, for a node that was away while the cluster changed: it would refuse nodes that came since.
//!
//! Asks members that it is linked with, and believes what is newer than its own book until its own is as new. Keeps a few
//! answers, and nothing after a restart.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{KnownNode, NodeState, leases::Leases};
use crate::{
    clock::Deadline,
    ledger::Cursor,
    net::{
        desk::{Desk, number},
        link::{Lane, PEERS_MAX},
    },
    op::NodeId,
};

/// The pause between rounds. Strangers can knock as often as they like: that costs one round a second.
const ASK_EVERY: Duration = Duration::from_secs(1);
const ASK_WITHIN: Duration = Duration::from_secs(3);
/// The number of members asked in one round, and of answers kept.
const ASKED_MAX: usize = 3;

#[derive(Serialize, Deserialize)]
enum Question {
    /// A request for the nodes that the asked one knows.
    Book,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    /// The nodes that are not removed, as of `cursor`.
    Book { cursor: Cursor, nodes: Vec<KnownNode> },
}

struct Told {
    by: NodeId,
    cursor: Cursor,
    nodes: Vec<KnownNode>,
}

pub struct Introductions {
    desk: Desk<Question, Answer>,
    told: Mutex<Vec<Told>>,
}

impl Introductions {
    /// Opens the desk and answers members that ask, until [`Self::close`].
    pub fn open(leases: &Arc<Leases>) -> Self {
        let desk = Desk::new(leases.setup.lane.clone(), number::BOOKS);
        let answering = Arc::downgrade(leases);
        desk.open(move |_, Question::Book| {
            let leases = answering.upgrade();
            async move {
                let leases = leases.ok_or("this node is stopping")?;
                // Looked at first: the nodes are then at least as new.
                let cursor = *leases.setup.book.cursor().borrow();
                let nodes = leases.setup.book.nodes().into_iter().filter(|known| known.state != NodeState::Removed);
                Ok(Answer::Book { cursor, nodes: nodes.take(PEERS_MAX).collect() })
            }
        });
        Self { desk, told: Mutex::default() }
    }

    /// Stops answering members that ask.
    pub fn close(&self) {
        self.desk.close();
    }

    /// Returns the books that are newer than one as of `own`; the others are forgotten.
    pub fn newer_than(&self, own: Cursor) -> Vec<(NodeId, Vec<KnownNode>)> {
        let mut told = self.told.lock();
        told.retain(|one| one.cursor > own);
        told.iter().map(|one| (one.by, one.nodes.clone())).collect()
    }

    async fn ask(&self, leases: &Leases) {
        let setup = &leases.setup;
        let mut linked: Vec<NodeId> = setup.links.peers_up(Lane::Raft);
        fastrand::shuffle(&mut linked);
        for by in linked.into_iter().take(ASKED_MAX) {
            match self.desk.ask(by, &Question::Book, Deadline::after(ASK_WITHIN)).await {
                Ok(Answer::Book { cursor, nodes }) if cursor > *setup.book.cursor().borrow() => {
                    tracing::debug!(%by, nodes = nodes.len(), "a member's book is newer than this node's");
                    let mut told = self.told.lock();
                    told.retain(|one| one.by != by);
                    if told.len() >= ASKED_MAX {
                        told.remove(0);
                    }
                    told.push(Told { by, cursor, nodes: nodes.into_iter().take(PEERS_MAX).collect() });
                }
                Ok(_) => {}
                // An older version does not answer; another member may.
                Err(error) => tracing::debug!(%by, %error, "a member did not show its book"),
            }
        }
    }
}

/// Asks members when a node came that is not in the book, and while nobody leads: the leader may be one that is not in it.
pub async fn ask_around(leases: Arc<Leases>, introductions: Arc<Introductions>) {
    let setup = &leases.setup;
    loop {
        let came = tokio::time::timeout(ASK_EVERY, setup.links.stranger()).await.is_ok();
        if came || setup.ledger.takes_writes().is_err() {
            introductions.ask(&leases).await;
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}
