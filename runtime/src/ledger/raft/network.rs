//! Raft's own messages on their way to other nodes, and when each was last heard.
//!
//! Entries and votes go over the Raft lane, snapshots over the bulk lane, so that neither waits behind the other.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use openraft::{
    OptionalSend, Snapshot, Vote,
    error::{Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory},
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse},
};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Node, TypeConfig,
    wire::{self, Kind, SERVICE},
};
use crate::{
    clock::{BootClock, BootTime, Deadline},
    net::rpc::{LaneRpc, RpcError},
    op::NodeId,
};

/// The pause between tries to reach a node that is away.
const RETRY_EVERY: Duration = Duration::from_millis(100);
/// The time that one part of a snapshot may take.
const PART_WITHIN: Duration = Duration::from_secs(20);
/// The time that writing a whole snapshot to the receiver's disk may take.
const INSTALL_WITHIN: Duration = Duration::from_secs(110);

/// The lanes that nodes of one cluster reach each other by.
#[derive(Clone)]
pub struct LedgerLanes {
    pub raft: LaneRpc,
    pub bulk: LaneRpc,
}

/// Writes a member's text in the membership: which node it is, and where it listens.
pub fn member_text(node: NodeId, address: &str) -> String {
    format!("{node}@{address}")
}

/// Reads a member's text; `None` for what was written before there were clusters.
pub fn member_of(text: &str) -> Option<(NodeId, &str)> {
    let (node, address) = text.split_once('@')?;
    Some((node.parse().ok()?, address))
}

/// The moments of answers: when the question was sent that each node last answered this one as its leader, and in which term.
#[derive(Default)]
pub struct Heard(Mutex<HashMap<u64, (u64, BootTime)>>);

impl Heard {
    fn answered(&self, node: u64, term: u64, sent: BootTime) {
        let mut heard = self.0.lock();
        let entry = heard.entry(node).or_insert((term, sent));
        *entry = (*entry).max((term, sent));
    }

    /// Returns the latest moment at which a quorum of `voters` still followed `me` in `term`.
    pub fn quorum(&self, me: u64, term: u64, voters: &[u64], now: BootTime) -> Option<BootTime> {
        let heard = self.0.lock();
        let mut sent: Vec<BootTime> = voters
            .iter()
            .filter_map(|voter| {
                if *voter == me {
                    return Some(now);
                }
                heard.get(voter).filter(|(in_term, _)| *in_term == term).map(|(_, sent)| *sent)
            })
            .collect();
        sent.sort_unstable_by(|a, b| b.cmp(a));
        sent.get(voters.len() / 2).copied()
    }

    /// Returns when the last question that `node` answered was sent; `None` if it has answered none.
    pub fn of(&self, node: u64) -> Option<BootTime> {
        self.0.lock().get(&node).map(|(_, sent)| *sent)
    }
}

#[derive(Clone)]
pub struct Peers {
    pub lanes: Option<LedgerLanes>,
    pub heard: Arc<Heard>,
}

pub struct Peer {
    id: u64,
    node: Option<NodeId>,
    lanes: Option<LedgerLanes>,
    heard: Arc<Heard>,
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Node) -> Peer {
        let node = member_of(&node.addr).map(|(node, _)| node);
        Peer { id: target, node, lanes: self.lanes.clone(), heard: self.heard.clone() }
    }
}

/// The failure of a call of ours, as openraft sorts failures.
enum Failed {
    Unreachable(Unreachable),
    Network(NetworkError),
}

impl Failed {
    fn unreachable(what: impl std::fmt::Display) -> Self {
        Self::Unreachable(Unreachable::new(&io::Error::other(what.to_string())))
    }

    fn network(what: impl std::fmt::Display) -> Self {
        Self::Network(NetworkError::new(&io::Error::other(what.to_string())))
    }
}

impl<E: std::error::Error> From<Failed> for RPCError<u64, Node, E> {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Unreachable(error) => Self::Unreachable(error),
            Failed::Network(error) => Self::Network(error),
        }
    }
}

impl From<Failed> for StreamingError<TypeConfig, Fatal<u64>> {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Unreachable(error) => Self::Unreachable(error),
            Failed::Network(error) => Self::Network(error),
        }
    }
}

impl Peer {
    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        bulk: bool,
        kind: Kind,
        question: &Q,
        within: Duration,
    ) -> Result<A, Failed> {
        let (Some(node), Some(lanes)) = (self.node, &self.lanes) else {
            return Err(Failed::unreachable(format!("node {} has no address", self.id)));
        };
        let body = wire::write(kind, question).map_err(Failed::network)?;
        let lane = if bulk { &lanes.bulk } else { &lanes.raft };
        let answer = lane.ask(node, SERVICE, &body, Deadline::after(within)).await.map_err(|error| match error {
            RpcError::NotSent { .. } => Failed::unreachable(error),
            error => Failed::network(error),
        })?;
        wire::read(&answer).map_err(Failed::network)
    }
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, Node, RaftError<u64>>> {
        let sent = BootClock.now();
        let question = wire::Append::of(&request).map_err(Failed::network)?;
        let answer = self.ask(false, Kind::Append, &question, option.hard_ttl()).await?;
        if let (AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_), Some(sent)) = (&answer, sent) {
            self.heard.answered(self.id, request.vote.leader_id().term, sent);
        }
        Ok(answer)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, Node, RaftError<u64>>> {
        Ok(self.ask(false, Kind::Vote, &request, option.hard_ttl()).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        let send = async {
            let transfer = fastrand::u64(..);
            let machine = snapshot.snapshot.machine().map_err(Failed::network)?;
            let begin = wire::SnapshotBegin { transfer, vote, meta: snapshot.meta.clone(), machine: machine.into() };
            () = self.ask(true, Kind::SnapshotBegin, &begin, PART_WITHIN).await?;
            let mut number = 0;
            let mut parts = snapshot.snapshot.parts();
            while let Some(rows) = parts.next().await.map_err(Failed::network)? {
                () = self.ask(true, Kind::SnapshotPart, &wire::SnapshotPart { transfer, number, rows }, PART_WITHIN).await?;
                number += 1;
            }
            let end = wire::SnapshotEnd { transfer, parts: number };
            self.ask::<_, SnapshotResponse<u64>>(true, Kind::SnapshotEnd, &end, INSTALL_WITHIN).await
        };
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = send => Ok(sent?),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY_EVERY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_is_as_fresh_as_its_slowest_needed_voter() {
        let (heard, at) = (Heard::default(), |s| BootTime(Duration::from_secs(s)));
        assert_eq!(heard.quorum(1, 7, &[1], at(9)), Some(at(9)));
        assert_eq!(heard.quorum(1, 7, &[1, 2, 3], at(9)), None);
        heard.answered(2, 7, at(5));
        assert_eq!(heard.quorum(1, 7, &[1, 2, 3], at(9)), Some(at(5)));
        heard.answered(3, 7, at(8));
        heard.answered(2, 7, at(4));
        assert_eq!(heard.quorum(1, 7, &[1, 2, 3], at(9)), Some(at(8)));
        assert_eq!(heard.quorum(1, 7, &[1, 2], at(9)), Some(at(5)));
        assert_eq!(heard.quorum(1, 8, &[1, 2, 3], at(9)), None, "answers of another term do not count");
    }
}
