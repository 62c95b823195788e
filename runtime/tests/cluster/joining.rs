//! A host with a token becomes a member; without one, or with a used one, it does not.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use hiveward_runtime::{
    clock::WallMs,
    net::{
        identity::{Identity, NodeKey, TokenBook},
        link::{JoinDoor, JoinError, JoinGrant, JoinRefused, JoinRequest, Lanes, LinkManager, LinkSetup, decide_join, join},
    },
    op::NodeId,
};
use parking_lot::Mutex;

use crate::support::{Hive, LIFE, Node, quick};

struct Door {
    identity: Identity,
    book: Mutex<TokenBook>,
    members: Mutex<Vec<NodeId>>,
}

impl JoinDoor for Door {
    fn join(&self, request: JoinRequest) -> BoxFuture<'_, Result<JoinGrant, JoinRefused>> {
        Box::pin(async move {
            let is_member = self.members.lock().contains(&request.node);
            decide_join(&self.identity, &mut self.book.lock(), &request, is_member, &[], WallMs::now(), LIFE)
        })
    }
}

const WITHIN: Duration = Duration::from_secs(10);

async fn open_door(hive: &Hive) -> (Arc<Door>, LinkManager) {
    let door = Arc::new(Door { identity: hive.founder.clone(), book: Mutex::default(), members: Mutex::default() });
    let identity = hive.founder.clone();
    let setup = LinkSetup { config: quick(), identity, generation: 1, lanes: Lanes::default(), join: Some(door.clone()) };
    (door, LinkManager::start(setup).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_joins_with_its_token_once_and_its_certificate_links() {
    let hive = Hive::found();
    let (door, manager) = open_door(&hive).await;
    let address = manager.address().to_string();
    let token = hive.founder.token().unwrap();
    door.book.lock().issue(&token, WallMs::now(), WallMs::now().plus(LIFE)).unwrap();
    let (node, key, home) = (NodeId::new(), NodeKey::create().unwrap(), tempfile::tempdir().unwrap());
    let grant = join(&address, &token, node, &key, "127.0.0.1:7701", WITHIN).await.unwrap();
    let identity = grant.keep(home.path(), node, key).unwrap();
    assert_eq!((identity.cluster(), identity.node()), (hive.founder.cluster(), node));

    // The same token again, from another host.
    let key = NodeKey::create().unwrap();
    let replayed = join(&address, &token, NodeId::new(), &key, "127.0.0.1:7702", WITHIN).await.unwrap_err();
    assert!(replayed.to_string().contains("used already"), "{replayed}");

    let b = Node::start(&identity, 1, quick()).await;
    let a = Node::start(&hive.founder, 2, quick()).await;
    a.knows(b.node(), b.manager.address());
    b.knows(a.node(), a.manager.address());
    a.linked(node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_another_cluster_or_time_and_a_taken_id_are_refused_in_words() {
    let (hive, other) = (Hive::found(), Hive::found());
    let (door, manager) = open_door(&hive).await;
    let address = manager.address().to_string();
    let key = NodeKey::create().unwrap();
    let ask = async |token, node| join(&address, token, node, &key, "127.0.0.1:7701", WITHIN).await.unwrap_err();

    // The joiner is the first to notice, before it shows its secret.
    let elsewhere = other.founder.token().unwrap();
    let foreign = ask(&elsewhere, NodeId::new()).await;
    assert!(matches!(foreign, JoinError::Link { .. }) && foreign.to_string().contains("another"), "{foreign}");
    let token = hive.founder.token().unwrap();
    assert!(ask(&token, NodeId::new()).await.to_string().contains("did not issue"));
    door.book.lock().issue(&token, WallMs(1), WallMs(2)).unwrap();
    assert!(ask(&token, NodeId::new()).await.to_string().contains("expired"));
    let taken = NodeId::new();
    door.members.lock().push(taken);
    assert_eq!(ask(&token, taken).await, JoinError::Refused(JoinRefused::NodeIdTaken { node: taken }));
}
