//! The tasks that keep links and votes as the node book says.

use std::{sync::Arc, time::Duration};

use super::{
    NodeState,
    admitted::{Sources, admitted},
    introduce::Introductions,
    leases::Leases,
    voters,
};
use crate::{clock::BootClock, ledger::Cursor, op::NodeId};

/// The pause between two looks at the votes.
const VOTERS_EVERY: Duration = Duration::from_millis(250);
/// The pause after a change that was refused.
const VOTERS_RETRY: Duration = Duration::from_secs(2);
/// The pause before a leader whose disk is still full tries again to be rid of the lead.
const FULL_RETRY: Duration = Duration::from_secs(10);
/// The time that another may take to be elected in place of a leader that is being drained.
const ASIDE_WITHIN: Duration = Duration::from_secs(5);
/// The longest wait for a change of the book: addresses may also change with the group's own members.
const LINKS_EVERY: Duration = Duration::from_millis(500);

/// Keeps links to every node that is in the cluster, and to nobody else. Runs until the book is gone.
pub async fn links(leases: Arc<Leases>, introductions: Arc<Introductions>) {
    let setup = &leases.setup;
    let mut cursor = setup.book.cursor();
    let mut before = None;
    loop {
        let own = *cursor.borrow_and_update();
        // A book that was not read yet names nobody, and the grant of a joiner may name who was removed since.
        if own > Cursor::default() || setup.ledger.head() == Cursor::default() {
            let keepers = setup.ledger.status().members.into_iter();
            let keepers: Vec<_> = keepers.filter_map(|member| Some((member.node?, member.address))).collect();
            let now = admitted(&Sources {
                me: setup.node,
                book: &setup.book.nodes(),
                keepers: &keepers,
                first: &setup.first_peers,
                told: &introductions.newer_than(own),
            });
            if before.as_ref() != Some(&now) {
                setup.links.set_members(now.peers.clone(), now.removed.clone());
                before = Some(now);
            }
        }
        let looked = tokio::time::timeout(LINKS_EVERY, cursor.changed()).await;
        if matches!(looked, Ok(Err(_))) {
            return;
        }
    }
}

fn seen<T>(leases: &Leases, look: impl FnOnce(&voters::Seen<'_>) -> T) -> T {
    let status = leases.setup.ledger.status();
    let nodes = leases.setup.book.nodes();
    let now = BootClock.now();
    let away = status.members.iter().filter_map(|member| Some((member.id, now?.since(member.answered?))));
    let away = away.collect();
    look(&voters::Seen { me: leases.setup.node, nodes: &nodes, members: &status.members, log_last: status.log_last, away })
}

/// Checks whether `node` may be removed for good; the error says why not.
pub fn removable(leases: &Leases, node: NodeId) -> Result<(), String> {
    seen(leases, |seen| voters::removable(seen, node))
}

/// Changes the group that keeps the ledger while this node leads, one change after the other, until all is as it should be.
/// Also hands the lead over if this node's disk is full or it is being drained. Never ends by itself.
pub async fn voters(leases: Arc<Leases>) {
    let setup = &leases.setup;
    loop {
        tokio::time::sleep(VOTERS_EVERY).await;
        let others = || setup.ledger.status().members.iter().any(|member| member.voter && member.node != Some(setup.node));
        if setup.ledger.leadership().borrow().is_me && leases.no_room() && others() {
            let gone = setup.ledger.step_aside(ASIDE_WITHIN).await;
            tracing::warn!(gone, "this leader's disk is full: another is to lead");
            // All disks may be full: not one election after the other.
            tokio::time::sleep(FULL_RETRY).await;
            continue;
        }
        if !setup.ledger.leadership().borrow().is_me || setup.ledger.takes_writes().is_err() {
            continue;
        }
        // Before the book is up to the ledger a change may be one that was made already.
        if *setup.book.cursor().borrow() < setup.ledger.head() && setup.book.nodes().is_empty() {
            continue;
        }
        if let Some((change, why)) = seen(&leases, |seen| voters::next(&setup.voters, seen)) {
            match setup.ledger.change(change.clone()).await {
                Ok(()) => tracing::info!(?change, why, "the group that keeps the ledger was changed"),
                Err(error) => {
                    tracing::warn!(?change, why, %error, "the group that keeps the ledger could not be changed");
                    tokio::time::sleep(VOTERS_RETRY).await;
                }
            }
            continue;
        }
        let leaves = setup.book.nodes().iter().any(|known| {
            known.node == setup.node && matches!(known.state, NodeState::Draining | NodeState::Drained | NodeState::Removed)
        });
        if leaves && others() {
            let gone = setup.ledger.step_aside(ASIDE_WITHIN).await;
            tracing::info!(gone, "this leader is being drained: another is to lead");
            tokio::time::sleep(VOTERS_RETRY).await;
        }
    }
}
