//! Leases, votes and links of several nodes in one process, over one book.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use hiveward_runtime::{
    cluster::{
        lease::{LeaseTerms, Phase},
        membership::{KnownNode, Membership, MembershipSetup, NodeBook, NodeState, voters::VoterPolicy},
    },
    error::Refused,
    ledger::Cursor,
    op::NodeId,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    ledgers::Replica,
    support::{Hive, until},
};

/// What the ledger's directory is in the whole: here one list that all nodes see.
struct Book {
    nodes: Arc<Mutex<Vec<KnownNode>>>,
    lost: Arc<Mutex<Vec<NodeId>>>,
    down: Arc<Mutex<Vec<NodeId>>>,
    cursor: watch::Sender<Cursor>,
}

impl Book {
    fn set(&self, node: NodeId, state: NodeState) {
        for known in self.nodes.lock().iter_mut().filter(|known| known.node == node) {
            known.state = state;
        }
    }
}

struct Page(Arc<Book>);

impl NodeBook for Page {
    fn nodes(&self) -> Vec<KnownNode> {
        self.0.nodes.lock().clone()
    }

    fn cursor(&self) -> watch::Receiver<Cursor> {
        self.0.cursor.subscribe()
    }

    fn holds_nothing(&self) -> bool {
        true
    }

    fn lost(&self, node: NodeId, _: String) -> BoxFuture<'static, Result<(), Refused>> {
        self.0.set(node, NodeState::Lost);
        self.0.lost.lock().push(node);
        async { Ok(()) }.boxed()
    }

    fn down(&self, node: NodeId) -> BoxFuture<'static, Result<(), Refused>> {
        self.0.down.lock().push(node);
        async { Ok(()) }.boxed()
    }

    fn back(&self, node: NodeId, _: u64) -> BoxFuture<'static, Result<(), Refused>> {
        self.0.set(node, NodeState::Up);
        async { Ok(()) }.boxed()
    }
}

fn terms() -> LeaseTerms {
    LeaseTerms { length: Duration::from_millis(1_500), stop_within: Duration::from_millis(300) }
}

struct Member {
    replica: Replica,
    membership: Option<Membership>,
    lease: watch::Receiver<Phase>,
}

impl Member {
    fn start(replica: Replica, book: &Arc<Book>) -> Self {
        let (lease, phase) = watch::channel(Phase::Over);
        let setup = MembershipSetup {
            node: replica.node(),
            generation: 1,
            terms: terms(),
            voters: VoterPolicy::default(),
            ledger: replica.ledger().clone(),
            links: replica.manager.as_ref().unwrap().links().clone(),
            lane: replica.lanes.raft.clone(),
            book: Arc::new(Page(book.clone())),
            first_peers: Vec::new(),
            lease,
        };
        Self { replica, membership: Some(Membership::start(setup)), lease: phase }
    }

    fn holds(&self) -> bool {
        *self.lease.borrow() == Phase::Held
    }
}

async fn three() -> (Hive, Arc<Book>, Vec<Member>) {
    let mut hive = Hive::found();
    let book = Arc::new(Book {
        nodes: Arc::default(),
        lost: Arc::default(),
        down: Arc::default(),
        cursor: watch::Sender::new(Cursor(u64::MAX)),
    });
    let mut members = Vec::new();
    for n in 0..3 {
        let identity = if n == 0 { hive.founder.clone() } else { hive.member() };
        let mut replica = Replica::prepare(&identity, n == 0).await;
        replica.open().await;
        book.nodes.lock().push(KnownNode {
            node: replica.node(),
            raft_id: replica.id(),
            address: replica.address.clone(),
            state: NodeState::Up,
            generation: 1,
            key: Some(identity.certificate().key),
        });
        members.push(Member::start(replica, &book));
    }
    (hive, book, members)
}

/// Waits until all three vote, on every node, and no change of that is under way.
async fn settled(members: &[Member]) {
    for member in members {
        until("everyone votes", || {
            let status = member.replica.ledger().status();
            (!status.changing && status.members.iter().filter(|member| member.voter).count() == 3).then_some(())
        })
        .await;
        until("everyone's lease is held", || member.holds().then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_the_book_come_to_vote_and_hold_leases_by_themselves() {
    let (_hive, _book, members) = three().await;
    settled(&members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_falls_silent_is_lost_and_only_that_one_also_when_it_led() {
    let (_hive, book, mut members) = three().await;
    settled(&members).await;
    let leader = members.iter().position(|member| member.replica.leads()).unwrap();
    let mut gone = members.remove(leader);
    gone.membership.take().unwrap().stop().await;
    gone.replica.die().await;
    until("its host says that it does not run", || book.down.lock().first().copied()).await;
    until("the silent one is lost", || book.lost.lock().contains(&gone.replica.node()).then_some(())).await;
    assert_eq!(*book.lost.lock(), [gone.replica.node()]);
    assert!(book.down.lock().iter().all(|node| *node == gone.replica.node()), "the others listen");
    for member in &members {
        assert!(member.holds() && member.replica.ledger().takes_writes().is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_minority_holds_runs_out_and_it_calls_nobody_lost() {
    let (_hive, book, mut members) = three().await;
    settled(&members).await;
    let leader = members.iter().position(|member| member.replica.leads()).unwrap();
    let left = members.remove(leader);
    for mut gone in members {
        gone.membership.take().unwrap().stop().await;
        gone.replica.die().await;
    }
    until("its own lease is over", || (*left.lease.borrow() == Phase::Over).then_some(())).await;
    assert!(left.replica.ledger().takes_writes().is_err());
    assert!(book.lost.lock().is_empty(), "it may not decide that");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_book_is_old_lets_the_leader_in_on_the_word_of_another_member() {
    let (mut hive, book, members) = three().await;
    settled(&members).await;
    let leader = members.iter().position(|member| member.replica.leads()).unwrap();
    let vouches = members[(leader + 1) % 3].replica.node();
    let mut replica = Replica::prepare(&hive.member(), false).await;
    replica.open().await;
    let me = KnownNode {
        node: replica.node(),
        raft_id: replica.id(),
        address: replica.address.clone(),
        state: NodeState::Up,
        generation: 1,
        key: Some(replica.identity.certificate().key),
    };
    // It was away while all but one of those it knew went and others came; the one that leads is among these.
    let known: Vec<_> = book.nodes.lock().iter().filter(|known| known.node == vouches).cloned().chain([me.clone()]).collect();
    let old = Arc::new(Book {
        nodes: Arc::new(Mutex::new(known)),
        lost: Arc::default(),
        down: Arc::default(),
        cursor: watch::Sender::new(Cursor(1)),
    });
    book.nodes.lock().push(me);
    let away = Member::start(replica, &old);
    until("it is heard by the leader, and its lease is granted", || away.holds().then_some(())).await;
    assert!(old.nodes.lock().len() == 2, "and not because its own book was told");
}
