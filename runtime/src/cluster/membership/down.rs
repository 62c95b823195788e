//! Finds nodes whose process has ended before their lease has: the host answers for it, and refuses connections.
//!
//! Proves nothing about a host that is silent, and what was proven can be wrong where a firewall refuses in a host's name.
//! So only what is fenced by the ledger alone may move on this word (decision 8); everything else waits for the lease.

use std::{collections::HashMap, io::ErrorKind, sync::Arc, time::Duration};

use futures_util::StreamExt;
use tokio::net::{TcpStream, lookup_host};

use super::{KnownNode, NodeState, leases::Leases};
use crate::{net::link::Lane, op::NodeId};

/// The pause between two looks of a leader at nodes without a link.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const CONNECT_WITHIN: Duration = Duration::from_millis(500);
const CONNECTING_AT_ONCE: usize = 32;
/// The number of refusals in a row that count: one alone may be a process that starts.
const REFUSALS: u32 = 2;

/// Tells the node book, while this node leads, of each unlinked node whose process does not run. Ends when the ledger is gone.
pub async fn tell(leases: Arc<Leases>) {
    let setup = &leases.setup;
    let mut leadership = setup.ledger.leadership();
    let mut refusals: HashMap<NodeId, u32> = HashMap::new();
    loop {
        if !leadership.borrow_and_update().is_me {
            refusals.clear();
            if leadership.changed().await.is_err() {
                return;
            }
            continue;
        }
        let unlinked: Vec<KnownNode> = setup.book.nodes().into_iter().filter(|known| is_unlinked(&leases, known)).collect();
        refusals.retain(|node, _| unlinked.iter().any(|known| known.node == *node));
        let looked = futures_util::stream::iter(unlinked)
            .map(|known| async move { (known.node, refuses(&known.address).await, known.address) });
        let looked: Vec<_> = looked.buffer_unordered(CONNECTING_AT_ONCE).collect().await;
        for (node, refuses, address) in looked {
            if !refuses {
                refusals.remove(&node);
                continue;
            }
            let count = refusals.entry(node).or_default();
            *count += 1;
            if *count < REFUSALS {
                continue;
            }
            if *count == REFUSALS {
                tracing::warn!(%node, address, "nothing listens where this node was: its process has ended");
            }
            if let Err(refused) = setup.book.down(node).await {
                tracing::warn!(%node, why = refused.message, "what a node that does not run coordinated could not be moved yet");
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn is_unlinked(leases: &Leases, known: &KnownNode) -> bool {
    let linked = |lane| leases.setup.links.link(known.node, lane).is_some_and(|link| link.is_up());
    let there = matches!(known.state, NodeState::Up | NodeState::Draining);
    there && known.node != leases.setup.node && !known.address.is_empty() && !linked(Lane::Router) && !linked(Lane::Raft)
}

/// Tells whether every address of `address` refuses. Silence, and whatever else goes wrong, is no refusal.
async fn refuses(address: &str) -> bool {
    let asked = async {
        let mut some = false;
        for address in lookup_host(address).await? {
            match TcpStream::connect(address).await {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => some = true,
                Err(error) => return Err(error),
                Ok(_) => return Ok(false),
            }
        }
        Ok(some)
    };
    matches!(tokio::time::timeout(CONNECT_WITHIN, asked).await, Ok(Ok(true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_refusal_is_one() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert!(!refuses(&address).await, "somebody listens");
        drop(listener);
        assert!(refuses(&address).await, "nobody does");
        assert!(!refuses("no.such.host.invalid:1").await, "a name that is not known says nothing");
    }
}
