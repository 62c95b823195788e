//! The ledger kept by several nodes: each in this process, with links of its own over loopback.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use hiveward_runtime::{
    clock::Deadline,
    fault,
    id::Key,
    ledger::{
        Append, AppendError, Appended, Change, Cursor, Event, Ledger, LedgerConfig, LedgerLanes, NewEvent, RaftSetup, RaftTiming,
        member_id,
        scrub::scrub,
        view::{View, ViewError, Views, copy_table},
        view_share::ViewShare,
    },
    net::{
        identity::Identity,
        link::{Lane, Lanes, LinkManager, LinkSetup, PeerSpec},
        rpc::LaneRpc,
    },
    op::NodeId,
};
use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use tempfile::TempDir;

use crate::support::{Hive, quick};

pub struct Replica {
    pub identity: Identity,
    pub manager: Option<LinkManager>,
    pub lanes: LedgerLanes,
    pub ledger: Option<Ledger>,
    pub address: String,
    dir: TempDir,
    founder: bool,
}

impl Replica {
    /// With links, and no ledger yet.
    pub async fn prepare(identity: &Identity, founder: bool) -> Self {
        let lanes = LedgerLanes { raft: LaneRpc::new(Lane::Raft), bulk: LaneRpc::new(Lane::Bulk) };
        let handlers = Lanes {
            router: None,
            raft: Some(std::sync::Arc::new(lanes.raft.clone())),
            bulk: Some(std::sync::Arc::new(lanes.bulk.clone())),
        };
        let setup = LinkSetup { config: quick(), identity: identity.clone(), generation: 1, lanes: handlers, join: None };
        let manager = LinkManager::start(setup).await.unwrap();
        lanes.raft.attach(manager.links().clone());
        lanes.bulk.attach(manager.links().clone());
        let address = manager.address().to_string();
        let dir = TempDir::new().unwrap();
        Self { identity: identity.clone(), manager: Some(manager), lanes, ledger: None, address, dir, founder }
    }

    pub fn node(&self) -> NodeId {
        self.identity.node()
    }

    pub fn id(&self) -> u64 {
        if self.founder { 1 } else { member_id(self.node()) }
    }

    pub async fn open(&mut self) {
        let mut config = LedgerConfig::new(self.dir.path().join("ledger"));
        config.reserve_bytes = 0;
        // What is damaged is to be found by who looks for it, not at start.
        config.verify_bytes_max = 0;
        config.raft = RaftSetup {
            id: self.id(),
            node: self.node(),
            address: self.address.clone(),
            founds: self.founder,
            lanes: Some(self.lanes.clone()),
            timing: RaftTiming { heartbeat: Duration::from_millis(150), lease: Duration::from_millis(600) },
            dir: config.dir.clone(),
        };
        self.ledger = Some(Ledger::open(config).await.unwrap());
    }

    pub fn ledger(&self) -> &Ledger {
        self.ledger.as_ref().unwrap()
    }

    pub fn leads(&self) -> bool {
        self.ledger.as_ref().is_some_and(|ledger| ledger.leadership().borrow().is_me)
    }

    /// All at once, as a process that was killed: its peers see the links end.
    pub async fn die(&mut self) {
        self.manager.take().unwrap().stop().await;
        self.ledger.take().unwrap().stop().await;
    }
}

pub struct Group {
    _hive: Hive,
    pub replicas: Vec<Replica>,
}

impl Group {
    /// All voters.
    pub async fn start(nodes: usize) -> Self {
        let mut hive = Hive::found();
        let mut replicas = vec![Replica::prepare(&hive.founder.clone(), true).await];
        for _ in 1..nodes {
            replicas.push(Replica::prepare(&hive.member(), false).await);
        }
        let mut group = Self { _hive: hive, replicas };
        group.introduce();
        for replica in &mut group.replicas {
            replica.open().await;
        }
        for at in 1..nodes {
            group.take_in(at, true).await;
        }
        group
    }

    fn introduce(&self) {
        let lanes = [Lane::Raft, Lane::Bulk];
        let peers: BTreeMap<_, _> =
            self.replicas.iter().map(|replica| (replica.node(), PeerSpec::new(&replica.address, lanes))).collect();
        for replica in &self.replicas {
            if let Some(manager) = &replica.manager {
                manager.links().set_peers(peers.clone());
            }
        }
    }

    async fn take_in(&self, at: usize, votes: bool) {
        let leader = self.leader().await;
        let new = &self.replicas[at];
        let (id, node, address) = (new.id(), new.node(), new.address.clone());
        self.replicas[leader].ledger().change(Change::AddLearner { id, node, address }).await.unwrap();
        self.caught_up(at).await;
        if votes {
            self.replicas[leader].ledger().change(Change::Promote { ids: vec![id] }).await.unwrap();
        }
    }

    async fn leader(&self) -> usize {
        until("a leader", || self.replicas.iter().position(Replica::leads)).await
    }

    /// Waits until a replica has what the leader has now.
    async fn caught_up(&self, at: usize) {
        let head = self.replicas[self.leader().await].ledger().head();
        let reached = self.replicas[at].ledger().reached(head, Deadline::after(Duration::from_secs(20))).await;
        assert!(reached, "it never caught up: {:?}", self.replicas[at].ledger().status());
    }
}

async fn until<T>(what: &str, seen: impl FnMut() -> Option<T>) -> T {
    crate::support::until(what, seen).await
}

fn stream(n: u32) -> Key {
    Key::trusted(format!("probe_{n:032x}"))
}

fn event(text: &str) -> NewEvent {
    NewEvent { kind: "Probed", format: 1, body: Bytes::copy_from_slice(text.as_bytes()) }
}

async fn append(ledger: &Ledger, stream: &Key, incarnation: u64, version: u64, text: &str) -> Result<Appended, AppendError> {
    let append = Append {
        stream: stream.clone(),
        incarnation,
        expected_version: version,
        events: vec![event(text)],
        snapshot: None,
        part: None,
    };
    ledger.append(append).await
}

fn texts(ledger: &Ledger, stream: &Key) -> Vec<String> {
    let events = ledger.read_stream(stream, 0, 10_000).unwrap();
    events.iter().map(|event| String::from_utf8_lossy(&event.body).into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_appends_every_node_reads() {
    let group = Group::start(3).await;
    for (n, replica) in group.replicas.iter().enumerate() {
        let stream = stream(n as u32);
        let life = replica.ledger().claim(&stream).await.unwrap();
        let appended = append(replica.ledger(), &stream, life.incarnation, 0, "here").await.unwrap();
        // On this node it can be read at once.
        assert!(replica.ledger().head() >= appended.cursor);
        assert_eq!(texts(replica.ledger(), &stream), ["here"]);
        for other in &group.replicas {
            assert!(other.ledger().reached(appended.cursor, Deadline::after(Duration::from_secs(10))).await);
            assert_eq!(texts(other.ledger(), &stream), ["here"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_claimed_on_another_node_fences_the_one_before() {
    let group = Group::start(3).await;
    let (one, two) = (group.replicas[1].ledger(), group.replicas[2].ledger());
    let stream = stream(7);
    let older = one.claim(&stream).await.unwrap();
    append(one, &stream, older.incarnation, 0, "older").await.unwrap();
    let newer = two.claim(&stream).await.unwrap();
    assert!(newer.incarnation > older.incarnation);
    assert_eq!(newer.version, 1, "it has what the older life wrote");
    let refused = append(one, &stream, older.incarnation, 1, "late").await.unwrap_err();
    assert_eq!(refused, AppendError::Fenced { newest: newer.incarnation });
    append(two, &stream, newer.incarnation, 1, "newer").await.unwrap();
    assert_eq!(texts(two, &stream), ["older", "newer"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_must_not_be_old_has_all_that_was_acknowledged_on_any_node_before() {
    let group = Group::start(3).await;
    let stream = stream(1);
    let leader = group.leader().await;
    let (writes, reads) = ((leader + 1) % 3, (leader + 2) % 3);
    let (writes, reads) = (group.replicas[writes].ledger(), group.replicas[reads].ledger());
    let life = writes.claim(&stream).await.unwrap();
    let mut acknowledged = Vec::new();
    for n in 0..30_u64 {
        // One of the three takes in late what was agreed on: the leader, too, when its turn comes.
        fault::arm_from_text("ledger.before_apply=delay:150").unwrap();
        let text = n.to_string();
        append(writes, &stream, life.incarnation, life.version + n, &text).await.unwrap();
        acknowledged.push(text);
        reads.linearize(Deadline::after(Duration::from_secs(10))).await.unwrap();
        assert_eq!(texts(reads, &stream), acknowledged, "of event {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_life_is_told_was_written_is_in_what_the_next_life_begins_from() {
    let group = Group::start(3).await;
    let leader = group.leader().await;
    let (leads, follows) = (group.replicas[leader].ledger(), group.replicas[(leader + 1) % 3].ledger());
    const POINT: &str = "ledger.before_let_in";
    let struck = || fault::list().iter().filter(|place| place.armed.point == POINT).map(|place| place.struck).sum::<u32>();
    let mut older = follows.claim(&stream(1)).await.unwrap();
    for n in 1..=10 {
        // Its append has passed the look at the claims, and is not on its way into the log yet.
        fault::arm_from_text(&format!("{POINT}=delay:150")).unwrap();
        let (ledger, incarnation, version) = (follows.clone(), older.incarnation, older.version);
        let late = tokio::spawn(async move { append(&ledger, &stream(1), incarnation, version, "late").await });
        until("the append is let in", || (struck() == n).then_some(())).await;
        let newer = leads.claim(&stream(1)).await.unwrap();
        match late.await.unwrap() {
            Ok(appended) => assert!(newer.version >= appended.version, "{} at {}", appended.version, newer.version),
            Err(error) => assert!(matches!(error, AppendError::Fenced { .. }), "{error}"),
        }
        older = follows.claim(&stream(1)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let mut group = Group::start(3).await;
    let stream = stream(1);
    let (mut acknowledged, mut last) = (Vec::new(), Cursor(0));
    for round in 0..2 {
        let leader = group.leader().await;
        let other = (0..3).find(|n| *n != leader && group.replicas[*n].ledger.is_some()).unwrap();
        let life = group.replicas[other].ledger().claim(&stream).await.unwrap();
        for n in 0..20_u64 {
            let text = format!("{round}-{n}");
            let appended =
                append(group.replicas[other].ledger(), &stream, life.incarnation, life.version + n, &text).await.unwrap();
            last = appended.cursor;
            acknowledged.push(text);
        }
        if round == 0 {
            group.replicas[leader].die().await;
        }
    }
    // It is acknowledged when it is committed and read where it was asked: others read it soon, the leader too.
    for ledger in group.replicas.iter().filter_map(|replica| replica.ledger.as_ref()) {
        assert!(ledger.reached(last, Deadline::after(Duration::from_secs(10))).await, "{:?}", ledger.status());
        assert_eq!(texts(ledger, &stream), acknowledged);
    }
    let left = group.leader().await;
    // With one of three left no write is taken, and that is said at once.
    group.replicas[left].die().await;
    let alone = group.replicas.iter().find_map(|replica| replica.ledger.as_ref()).unwrap();
    let refused = until("writes are refused", || alone.takes_writes().err()).await;
    assert!(matches!(refused, AppendError::NoQuorum { .. }), "{refused}");
    assert_eq!(texts(alone, &stream), acknowledged, "reads go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_damaged_or_missing_on_one_node_are_taken_from_another_and_are_whole_again() {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let stream = stream(1);
    let life = group.replicas[leader].ledger().claim(&stream).await.unwrap();
    let mut wanted = Vec::new();
    for n in 0..60 {
        wanted.push(n.to_string());
        append(group.replicas[leader].ledger(), &stream, life.incarnation, n, &n.to_string()).await.unwrap();
    }
    let at = (leader + 1) % 3;
    group.caught_up(at).await;
    group.replicas[at].ledger.take().unwrap().stop().await;
    {
        let db = redb::Database::open(group.replicas[at].dir.path().join("ledger/ledger.redb")).unwrap();
        let txn = db.begin_write().unwrap();
        {
            let mut rows = txn.open_table(TableDefinition::<u64, &[u8]>::new("events")).unwrap();
            for cursor in [3, 17, 40] {
                let mut value = rows.get(cursor).unwrap().unwrap().value().to_vec();
                let last = value.len() - 1;
                value[last] ^= 4;
                rows.insert(cursor, value.as_slice()).unwrap();
            }
            for cursor in 20..30 {
                rows.remove(cursor).unwrap();
            }
        }
        txn.commit().unwrap();
    }
    group.replicas[at].open().await;
    let ledger = group.replicas[at].ledger().clone();
    assert!(ledger.read_stream(&stream, 0, 10_000).is_err(), "what is damaged is not served");
    // Until the others can be asked it is named.
    until("all of it is whole", || {
        let ledger = ledger.clone();
        let found = tokio::task::block_in_place(|| scrub(&ledger, None, None, |_| Ok(()), || false)).unwrap();
        if found.damaged == 0 {
            return Some(());
        }
        assert_eq!((found.damaged, found.damaged - found.repaired), (4, found.lost.len() as u64), "{found:?}");
        assert_eq!(ledger.damages().count(), found.lost.len());
        None
    })
    .await;
    assert_eq!((texts(&ledger, &stream), ledger.damages().count()), (wanted, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn views_of_a_killed_follower_go_on_where_they_were_though_its_ledger_takes_in_its_tail_anew() {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let stream = stream(1);
    let life = group.replicas[leader].ledger().claim(&stream).await.unwrap();
    for n in 0..40 {
        append(group.replicas[leader].ledger(), &stream, life.incarnation, n, &n.to_string()).await.unwrap();
    }
    let at = (leader + 1) % 3;
    group.caught_up(at).await;
    let (dir, ledger) = (group.replicas[at].dir.path().to_owned(), group.replicas[at].ledger().clone());
    let path = dir.join("views.redb");
    let views = Views::start(&ledger, &path, vec![Box::new(SeenView)]).await.unwrap();
    let reached = views.at_least(ledger.head(), Deadline::after(Duration::from_secs(20))).await;
    reached.unwrap();
    views.stop().await;
    let seen = views.cursor();
    drop(views);
    // What a process leaves that is killed now.
    let names = ["ledger.witness", "ledger-log.redb", "ledger.redb"];
    let left = names.map(|name| std::fs::read(dir.join("ledger").join(name)).unwrap());
    group.replicas[at].ledger.take().unwrap().stop().await;
    drop(ledger);
    for (name, bytes) in names.iter().zip(&left) {
        std::fs::write(dir.join("ledger").join(name), bytes).unwrap();
    }
    group.replicas[at].open().await;
    let ledger = group.replicas[at].ledger().clone();
    let views = Views::start(&ledger, &path, vec![Box::new(SeenView)]).await.unwrap();
    assert_eq!(views.cursor(), seen, "they are not made anew");
    let appended = append(group.replicas[leader].ledger(), &stream, life.incarnation, 40, "one more").await.unwrap();
    views.at_least(appended.cursor, Deadline::after(Duration::from_secs(20))).await.unwrap();
    assert_eq!((views.failure(), texts(&ledger, &stream).len()), (None, 41));
    views.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_late_takes_over_a_snapshot() {
    let mut hive = Hive::found();
    let mut founder = Replica::prepare(&hive.founder.clone(), true).await;
    founder.open().await;
    let ledger = founder.ledger().clone();
    let streams = 40;
    for n in 0..streams {
        let stream = stream(n);
        let life = ledger.claim(&stream).await.unwrap();
        for version in 0..50 {
            append(&ledger, &stream, life.incarnation, version, &format!("{n}-{version}-{}", "x".repeat(20_000))).await.unwrap();
        }
    }
    // So much that the log no longer begins at its first entry.
    until("the log is shortened", || {
        let status = ledger.status();
        (status.log_entries < 2_000).then_some(())
    })
    .await;
    let mut late = Replica::prepare(&hive.member(), false).await;
    late.open().await;
    let mut group = Group { _hive: hive, replicas: vec![founder, late] };
    group.introduce();
    group.take_in(1, true).await;
    let late = group.replicas[1].ledger().clone();
    for n in 0..streams {
        assert_eq!(texts(&late, &stream(n)), texts(&ledger, &stream(n)));
    }
    assert_eq!(late.read(Cursor(0), 10).unwrap().len(), 10);
    // And from its own file, after a restart.
    let life = late.claim(&stream(0)).await.unwrap();
    append(&late, &stream(0), life.incarnation, 50, "after").await.unwrap();
    group.replicas[1].ledger.take().unwrap().stop().await;
    drop(late);
    group.replicas[1].open().await;
    group.caught_up(1).await;
    assert_eq!(texts(group.replicas[1].ledger(), &stream(0)).last().unwrap(), "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_steps_aside_is_followed_by_another() {
    let group = Group::start(3).await;
    let before = group.leader().await;
    assert!(group.replicas[before].ledger().step_aside(Duration::from_secs(10)).await);
    let after = until("another leader", || group.replicas.iter().position(Replica::leads).filter(|leads| *leads != before)).await;
    let stream = stream(3);
    let life = group.replicas[before].ledger().claim(&stream).await.unwrap();
    append(group.replicas[before].ledger(), &stream, life.incarnation, 0, "led by another").await.unwrap();
    assert_ne!(before, after);
}

const SEEN: TableDefinition<'_, u64, &str> = TableDefinition::new("seen");

/// Every event's text by its cursor.
struct SeenView;

impl View for SeenView {
    fn name(&self) -> &'static str {
        "seen"
    }

    fn format(&self) -> u32 {
        1
    }

    fn prepare(&self, txn: &WriteTransaction) -> Result<(), ViewError> {
        txn.open_table(SEEN)?;
        Ok(())
    }

    fn copy(&self, from: &ReadTransaction, to: &WriteTransaction) -> Result<(), ViewError> {
        copy_table(SEEN, from, to)
    }

    fn apply(&self, txn: &WriteTransaction, events: &[Event]) -> Result<(), ViewError> {
        let mut seen = txn.open_table(SEEN)?;
        for event in events {
            seen.insert(event.cursor.0, &*String::from_utf8_lossy(&event.body))?;
        }
        Ok(())
    }
}

async fn views(replica: &Replica) -> (Views, ViewShare) {
    let views = Views::start(replica.ledger(), &replica.dir.path().join("views.redb"), vec![Box::new(SeenView)]).await.unwrap();
    let copies = replica.dir.path().join("copies");
    let share = ViewShare::open(&views, replica.lanes.bulk.clone(), replica.ledger().clone(), replica.node(), copies).unwrap();
    (views, share)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_after_a_compaction_takes_over_what_its_views_cannot_be_made_from() {
    let mut hive = Hive::found();
    let mut founder = Replica::prepare(&hive.founder.clone(), true).await;
    founder.open().await;
    let (kept, _share) = views(&founder).await;
    let ledger = founder.ledger().clone();
    let stream = stream(1);
    let life = ledger.claim(&stream).await.unwrap();
    for version in 0..50 {
        append(&ledger, &stream, life.incarnation, version, &format!("event {version}")).await.unwrap();
    }
    kept.at_least(ledger.head(), Deadline::after(Duration::from_secs(10))).await.unwrap();
    assert_eq!(ledger.compact(Cursor(40)).await.unwrap(), Cursor(40));

    let mut late = Replica::prepare(&hive.member(), false).await;
    late.open().await;
    let (taken, _late_share) = views(&late).await;
    let group = Group { _hive: hive, replicas: vec![founder, late] };
    group.introduce();
    group.take_in(1, false).await;
    append(&ledger, &stream, life.incarnation, 50, "after").await.unwrap();
    taken.at_least(ledger.head(), Deadline::after(Duration::from_secs(20))).await.unwrap();
    let txn = taken.read().unwrap();
    let table = txn.open_table(SEEN).unwrap();
    let seen: Vec<String> = table.iter().unwrap().map(|row| row.unwrap().1.value().to_owned()).collect();
    assert_eq!((seen.len(), seen.first().unwrap().as_str(), seen.last().unwrap().as_str()), (51, "event 0", "after"));
}
