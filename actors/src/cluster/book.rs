//! What membership reads of the directory and tells the roster, the decision who may join, and the one which nodes may go.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use hiveward_catalogue::{
    directory::{DirectoryError, NodeStatus},
    roster::event::{NodeRecord, RosterEvent},
};
use hiveward_runtime::{
    call::Door,
    clock::{Deadline, WallMs},
    cluster::{
        credentials::Admission,
        membership::{KnownNode, Membership, NodeBook, NodeState},
    },
    error::{Code, Refused},
    ledger::{Cursor, Undecided, member_id},
    net::{
        identity::{KeyPin, RedeemRefused},
        link::{JoinRefused, JoinRequest, Member},
    },
    op::NodeId,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    house::House,
    roster::{NodeChanges, RosterMsg},
};

/// How long the roster may take to write a word about a node.
const WRITE_WITHIN: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub struct Book {
    house: House,
    roster: Door<RosterMsg>,
    removed_perhaps: Arc<RemovedPerhaps>,
}

/// Nodes whose removal is in this node's log and was not applied when it started.
struct RemovedPerhaps {
    nodes: BTreeSet<NodeId>,
    undecided: Undecided,
}

impl RemovedPerhaps {
    fn read(house: &House) -> Result<Self, DirectoryError> {
        let undecided = house.ledger.undecided(&RosterEvent::stream())?;
        let mut nodes = BTreeSet::new();
        for event in &undecided.events {
            match RosterEvent::decode(&event.kind, event.format, &event.body)? {
                RosterEvent::NodeRemoved { node, .. } => drop(nodes.insert(node)),
                RosterEvent::NodeJoined { record } => drop(nodes.remove(&record.node)),
                _ => {}
            }
        }
        Ok(Self { nodes, undecided })
    }
}

/// Tells whether a node counts as removed because the log says so: until a leader has decided what becomes of that part of it.
fn removed_in_the_log(nodes: &BTreeSet<NodeId>, node: &NodeId, decided: bool) -> bool {
    nodes.contains(node) && !decided
}

impl Book {
    /// Reads what is in this node's log first: a member that it calls removed is none, until a leader says otherwise.
    pub fn new(house: House, roster: Door<RosterMsg>) -> Result<Self, DirectoryError> {
        let removed_perhaps = Arc::new(RemovedPerhaps::read(&house)?);
        Ok(Self { house, roster, removed_perhaps })
    }
}

impl NodeBook for Book {
    fn nodes(&self) -> Vec<KnownNode> {
        let perhaps = &*self.removed_perhaps;
        let decided = self.house.ledger.has_decided(&perhaps.undecided);
        let removed_perhaps = |node: &NodeId| removed_in_the_log(&perhaps.nodes, node, decided);
        self.house.directory.read(|known| {
            let known = known.nodes.values().map(|entry| KnownNode {
                node: entry.record.node,
                raft_id: entry.record.raft_id,
                address: entry.record.address.clone(),
                state: match entry.status {
                    _ if removed_perhaps(&entry.record.node) => NodeState::Removed,
                    NodeStatus::Up => NodeState::Up,
                    NodeStatus::Draining => NodeState::Draining,
                    NodeStatus::Drained => NodeState::Drained,
                    NodeStatus::Lost => NodeState::Lost,
                    NodeStatus::Removed => NodeState::Removed,
                },
                generation: entry.generation,
                key: entry.record.key,
            });
            let mut all: Vec<KnownNode> = known.collect();
            // All that is known of it may be in the log alone; others may still name it.
            let unknown =
                perhaps.nodes.iter().filter(|node| removed_perhaps(node) && !all.iter().any(|known| known.node == **node));
            let removed: Vec<KnownNode> = unknown
                .map(|node| KnownNode {
                    node: *node,
                    raft_id: member_id(*node),
                    address: String::new(),
                    state: NodeState::Removed,
                    generation: 0,
                    key: None,
                })
                .collect();
            all.extend(removed);
            all
        })
    }

    fn cursor(&self) -> watch::Receiver<Cursor> {
        self.house.directory.follow()
    }

    fn holds_nothing(&self) -> bool {
        self.house.doors.all().is_empty() && self.house.machines.fence.holds_nothing()
    }

    fn lost(&self, node: NodeId, why: String) -> BoxFuture<'static, Result<(), Refused>> {
        let roster = self.roster.clone();
        async move {
            let mut why = Some(why);
            let told = roster.ask(Deadline::after(WRITE_WITHIN), |reply| RosterMsg::NodeLost {
                node,
                why: why.take().unwrap_or_default(),
                reply,
            });
            told.await??;
            Ok(())
        }
        .boxed()
    }

    fn down(&self, node: NodeId) -> BoxFuture<'static, Result<(), Refused>> {
        let roster = self.roster.clone();
        async move {
            roster.ask(Deadline::after(WRITE_WITHIN), |reply| RosterMsg::NodeDown { node, reply }).await??;
            Ok(())
        }
        .boxed()
    }

    fn back(&self, node: NodeId, generation: u64) -> BoxFuture<'static, Result<(), Refused>> {
        let roster = self.roster.clone();
        async move {
            roster.ask(Deadline::after(WRITE_WITHIN), |reply| RosterMsg::NodeBack { node, generation, reply }).await??;
            Ok(())
        }
        .boxed()
    }
}

impl Admission for Book {
    fn admit(&self, request: &JoinRequest, key: KeyPin) -> BoxFuture<'_, Result<Vec<Member>, JoinRefused>> {
        let request = request.clone();
        async move {
            let unavailable = |refused: Refused| JoinRefused::Unavailable { why: refused.message };
            let outcome: Told = Arc::default();
            let (told, mut request) = (outcome.clone(), Some(request));
            let decided = self.roster.ask(Deadline::after(WRITE_WITHIN), move |reply| {
                let (told, request) = (told.clone(), request.take());
                RosterMsg::Admit {
                    decide: Box::new(move |tokens, members, removed| {
                        let decided = decide(request?, key, tokens, members, removed);
                        let (answer, record) = match decided {
                            Ok((members, record)) => (Ok(members), record),
                            Err(refused) => (Err(refused), None),
                        };
                        *told.lock() = Some(answer);
                        record
                    }),
                    reply,
                }
            });
            decided.await.map_err(|error| unavailable(error.into()))?.map_err(unavailable)?;
            let decided = outcome.lock().take();
            decided.unwrap_or_else(|| Err(JoinRefused::Unavailable { why: "the roster did not decide".into() }))
        }
        .boxed()
    }
}

/// The decision, on its way out of the roster's actor.
type Told = Arc<Mutex<Option<Result<Vec<Member>, JoinRefused>>>>;

type Decided = (Vec<Member>, Option<NodeRecord>);

fn decide(
    request: JoinRequest,
    key: KeyPin,
    tokens: &mut hiveward_runtime::net::identity::TokenBook,
    members: &[NodeRecord],
    removed: &BTreeSet<NodeId>,
) -> Result<Decided, JoinRefused> {
    // A removed node is refused also with the token it came in with, which it may repeat, and with a new one: its name is over.
    if removed.contains(&request.node) {
        let why = format!("{} was removed from this cluster: join with an empty data directory, and so a new id", request.node);
        return Err(JoinRefused::Invalid { why });
    }
    let known = members.iter().any(|member| member.node == request.node);
    let token = |error: RedeemRefused| JoinRefused::Token { why: error.to_string() };
    let repeated = tokens.was_redeemed_by(request.secret(), request.node);
    if known && !repeated {
        return Err(JoinRefused::NodeIdTaken { node: request.node });
    }
    tokens.redeem(request.secret(), request.node, WallMs::now()).map_err(token)?;
    let others = members.iter().filter(|member| !member.address.is_empty() && member.node != request.node);
    let others = others.map(|member| Member { node: member.node, address: member.address.clone(), key: member.key }).collect();
    // The node says itself what else there is to know of it, once it is in.
    let of_this_host = NodeRecord::of_this_host(request.node, member_id(request.node), request.address);
    let record = NodeRecord { key: Some(key), reads_snapshots: false, ..of_this_host };
    Ok((others, Some(record)))
}

/// What membership says about removals; known once membership has started.
#[derive(Default)]
pub struct Removals(OnceLock<Weak<Membership>>);

impl Removals {
    /// Asks this membership from now on. Only the first call counts.
    pub fn ask(&self, membership: &Arc<Membership>) {
        let _ = self.0.set(Arc::downgrade(membership));
    }
}

impl NodeChanges for Removals {
    fn removable(&self, node: NodeId) -> Result<(), Refused> {
        let membership = self.0.get().and_then(Weak::upgrade);
        let membership =
            membership.ok_or_else(|| Refused::new(Code::Unavailable, "this node is starting or stopping; try again"))?;
        membership.removable(node).map_err(|why| {
            Refused::new(Code::Refused, format!("without {node} the cluster would lose its quorum: {why}; add a node first"))
        })
    }

    /// Does nothing: links and votes follow the directory by themselves.
    fn removed(&self, _: NodeId) {}
}

#[cfg(test)]
mod tests {
    use hiveward_runtime::net::identity::{Identity, JoinToken, NodeKey, TokenBook};

    use super::*;

    fn request(token: &JoinToken, node: NodeId) -> JoinRequest {
        JoinRequest::new(token, node, &NodeKey::create().unwrap(), "h9:7701").unwrap()
    }

    #[test]
    fn a_removal_that_is_in_the_log_alone_counts_until_a_leader_has_decided() {
        let (gone, here) = (NodeId::new(), NodeId::new());
        let nodes = BTreeSet::from([gone]);
        assert!(removed_in_the_log(&nodes, &gone, false), "before anybody leads it is let in by nobody");
        assert!(!removed_in_the_log(&nodes, &gone, true), "then the directory says what it is");
        assert!(!removed_in_the_log(&nodes, &here, false));
    }

    #[test]
    fn a_removed_node_does_not_come_back_with_the_token_it_came_with_nor_with_a_new_one() {
        let home = tempfile::tempdir().unwrap();
        let founder = Identity::open_or_found(home.path(), NodeId::new(), WallMs::now()).unwrap();
        let (first, second) = (founder.token().unwrap(), founder.token().unwrap());
        let mut tokens = TokenBook::default();
        for token in [&first, &second] {
            tokens.issue(token, WallMs::now(), WallMs::now().plus(Duration::from_secs(60))).unwrap();
        }
        let (node, key) = (NodeId::new(), founder.certificate().key);
        let (_, record) = decide(request(&first, node), key, &mut tokens, &[], &BTreeSet::new()).unwrap();
        assert_eq!(record.and_then(|record| record.key), Some(key), "it is known by the key that it was granted");
        // It has been removed, and is no member any more.
        for token in [&first, &second] {
            let refused = decide(request(token, node), key, &mut tokens, &[], &[node].into()).unwrap_err();
            assert!(refused.to_string().contains("was removed"), "{refused}");
        }
        // Its host may come, as another.
        decide(request(&second, NodeId::new()), key, &mut tokens, &[], &[node].into()).unwrap();
    }
}
