//! Several nodes in one process: trees, routers and links of their own, over one ledger and its views, which on real
//! nodes are replicas. The test says who leads and whose lease is over.
#![allow(dead_code)]

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use hiveward_actors::{
    client::{ControlPlane, NewAgent, NewSwarm, NewTask, NewWork, NodeView, SwarmRef},
    house::{Clustered, House},
    retention::{Retention, ledger::LedgerRetention},
    roster::{NoNodeChanges, RosterMsg},
    tree,
};
use hiveward_agents::connector::SecretFiles;
use hiveward_catalogue::{
    directory::{Directory, NodeStatus},
    roster::event::NodeRecord,
};
use hiveward_kernel::{
    commit::Committed,
    entity::Entity,
    id::{AgentId, SwarmId, TaskId},
};
use hiveward_models::{
    Models, PassKey, UsageKeeper,
    bank::{self, BankDesk, Following},
    price::Prices,
};
use hiveward_runtime::{
    call::Reply,
    clock::{Clock, Deadline, WallMs},
    cluster::{
        lease::Phase,
        peers::{Leadership, Peers, PeersDriver},
        router::Router,
    },
    error::{Code, Refused},
    id::Key,
    ledger::{Ledger, LedgerConfig, view::Views},
    net::{
        identity::{Identity, NodeKey},
        link::{Lane, Lanes, LinkConfig, LinkManager, LinkSetup, PeerSpec},
        rpc::LaneRpc,
    },
    op::{NodeId, Op},
    store::blob::Blobs,
};
use hiveward_work::task::{record::TaskRecord, status::TaskStatus};

const LIFE: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(60);

pub fn op() -> Op {
    Op::internal(Duration::from_secs(30))
}

pub fn op_named(name: &str) -> Op {
    Op { operation: Some(name.into()), ..op() }
}

/// Waits until `seen` answers.
pub async fn until<T>(what: &str, mut seen: impl FnMut() -> Option<T>) -> T {
    let look = async {
        loop {
            if let Some(seen) = seen() {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("never saw: {what}"))
}

pub fn sh(script: &str) -> NewTask {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    NewTask::new(NewWork::Command { argv, env: Vec::new(), cwd: None, stdin: None })
}

pub struct Host {
    pub id: NodeId,
    pub house: House,
    pub running: tree::Running,
    pub control: ControlPlane,
    pub driver: PeersDriver,
    pub models: Models,
    _budgets: (Following, BankDesk),
    _usage: Option<UsageKeeper>,
    /// None once its power was cut.
    manager: Option<LinkManager>,
    pub address: SocketAddr,
    pub dir: tempfile::TempDir,
}

impl Host {
    async fn start(ledger: &Ledger, views: &Views, blobs: &Blobs, identity: Identity, leader: NodeId, zone: &str) -> Self {
        let id = identity.node();
        let (peers, driver) = Peers::alone(id);
        let first = Leadership { term: 1, leader: Some(leader), is_me: leader == id, epoch: 1 };
        driver.leadership.send_replace(first);
        let directory = Directory::new(ledger.clone(), peers.clone());
        let router = Router::new(id, Arc::new(directory.clone()));
        let raft = LaneRpc::new(Lane::Raft);
        let lanes = Lanes { router: Some(Arc::new(router.clone())), raft: Some(Arc::new(raft.clone())), bulk: None };
        let setup = LinkSetup { config: quick(), identity: identity.clone(), generation: 1, lanes, join: None };
        let manager = LinkManager::start(setup).await.unwrap();
        router.attach(manager.links().clone());
        raft.attach(manager.links().clone());
        let address = manager.address();
        let me = NodeRecord {
            zone: zone.into(),
            cores: 2,
            ..NodeRecord::of_this_host(id, hiveward_runtime::ledger::member_id(id), address.to_string())
        };
        let node_changes = Arc::new(NoNodeChanges);
        let clustered = Clustered { me, generation: 1, peers, router, directory, identity: Some(identity), node_changes };
        let dir = tempfile::tempdir().unwrap();
        let secrets = Arc::new(SecretFiles { dir: dir.path().join("secrets") });
        let url = "http://127.0.0.1:1".to_owned();
        let models = Models::new(PassKey::random().unwrap(), url, vec!["p".into()], Prices::default());
        let house = House::new(
            clustered,
            ledger.clone(),
            views.clone(),
            blobs.clone(),
            Clock::System,
            dir.path().to_owned(),
            secrets,
            crate::support::shim(),
            Arc::new(models.clone()),
        );
        let budgets =
            (bank::follow(&house.models, house.models.counter()), BankDesk::open(&house.models, house.models.counter(), raft));
        let usage = UsageKeeper::start(&house.models);
        let running = tree::start(house.clone(), Retention::default(), LedgerRetention::default(), 0).await.unwrap();
        let control = ControlPlane::new(house.clone(), running.tree.clone(), running.roster.clone(), id, true, Vec::new());
        let control = control.unwrap();
        Self {
            id,
            house,
            running,
            control,
            driver,
            models,
            _budgets: budgets,
            _usage: usage,
            manager: Some(manager),
            address,
            dir,
        }
    }

    fn links(&self) -> &hiveward_runtime::net::link::Links {
        self.manager.as_ref().unwrap().links()
    }

    pub fn data(&self) -> &Path {
        self.dir.path()
    }

    /// Processes of agents, and their shims, that run out of this node's directory.
    pub fn processes(&self) -> Vec<i32> {
        crate::support::processes_under(self.dir.path())
    }
}

fn quick() -> LinkConfig {
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut config = LinkConfig::new(address);
    config.ping_every = Duration::from_millis(50);
    config.backoff.max = Duration::from_millis(200);
    config.backoff.first = Duration::from_millis(10);
    config
}

pub struct Rig {
    pub hosts: Vec<Host>,
    pub ledger: Ledger,
    pub views: Views,
    leader: usize,
    term: u64,
    _dir: tempfile::TempDir,
    _keys: Vec<tempfile::TempDir>,
}

impl Rig {
    /// The first leads. Each is in a zone of its own.
    pub async fn start(nodes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ledger = LedgerConfig { reserve_bytes: 0, ..LedgerConfig::new(dir.path().join("ledger")) };
        let ledger = Ledger::open(ledger).await.unwrap();
        let views = hiveward_actors::views::of_a_node(&Retention::default(), &Clock::System);
        let views = Views::start(&ledger, &dir.path().join("views.redb"), views).await.unwrap();
        let blobs = Blobs::open(dir.path().join("blobs")).unwrap();
        let key_dir = tempfile::tempdir().unwrap();
        let founder = Identity::open_or_found(key_dir.path(), NodeId::new(), WallMs::now()).unwrap();
        let mut keys = vec![key_dir];
        let mut identities = vec![founder];
        for _ in 1..nodes {
            let (key_dir, node, key) = (tempfile::tempdir().unwrap(), NodeId::new(), NodeKey::create().unwrap());
            let authority = identities[0].authority().unwrap();
            let certificate = authority.sign_key(&key, node, WallMs::now(), LIFE).unwrap();
            identities.push(Identity::joined(key_dir.path(), node, key, &certificate, authority.certificate()).unwrap());
            keys.push(key_dir);
        }
        let leader = identities[0].node();
        let mut hosts = Vec::new();
        for (at, identity) in identities.into_iter().enumerate() {
            hosts.push(Host::start(&ledger, &views, &blobs, identity, leader, &format!("z{at}")).await);
        }
        let rig = Self { hosts, ledger, views, leader: 0, term: 1, _dir: dir, _keys: keys };
        rig.link_all().await;
        for host in &rig.hosts[1..] {
            let record = (*host.house.me).clone();
            rig.roster(|reply| RosterMsg::NodeJoined { record: record.clone(), reply }).await.unwrap();
        }
        let new = NewSwarm { name: "default".into(), node: Some(leader), ..NewSwarm::default() };
        rig.hosts[0].control.create_swarm(op(), new).await.unwrap();
        rig
    }

    /// Nobody hears this node, and it hears nobody, until [`Self::link_all`].
    pub fn unlink(&self, at: usize) {
        for host in &self.hosts {
            let stay = self.hosts.iter().enumerate().filter(|(other, _)| *other != at && self.hosts[at].id != host.id);
            let stay = stay.filter(|(_, other)| other.id != host.id);
            let stay = stay.map(|(_, other)| (other.id, PeerSpec::new(other.address.to_string(), [Lane::Router, Lane::Raft])));
            host.links().set_peers(stay.collect());
        }
    }

    pub async fn link_all(&self) {
        for host in &self.hosts {
            let peers: BTreeMap<_, _> = self
                .hosts
                .iter()
                .filter(|other| other.id != host.id)
                .map(|other| (other.id, PeerSpec::new(other.address.to_string(), [Lane::Router, Lane::Raft])))
                .collect();
            host.links().set_peers(peers);
        }
        for host in &self.hosts {
            for other in self.hosts.iter().filter(|other| other.id != host.id) {
                for lane in [Lane::Router, Lane::Raft] {
                    until("a link", || host.links().link(other.id, lane)).await;
                }
            }
        }
    }

    pub fn control(&self, at: usize) -> &ControlPlane {
        &self.hosts[at].control
    }

    /// Asks the roster where it leads, as that node's membership does.
    pub async fn roster(
        &self,
        make: impl FnOnce(Reply<Result<Committed<Key>, Refused>>) -> RosterMsg,
    ) -> Result<Committed<Key>, Refused> {
        self.hosts[self.leader].running.roster.ask(Deadline::after(PATIENCE), make).await.unwrap()
    }

    pub fn lead(&mut self, at: usize) {
        (self.leader, self.term) = (at, self.term + 1);
        let leader = self.hosts[at].id;
        for host in &self.hosts {
            let is_me = host.id == leader;
            let now = Leadership { term: self.term, leader: Some(leader), is_me, epoch: u64::from(is_me) * self.term };
            host.driver.leadership.send_replace(now);
        }
    }

    pub fn lease(&self, at: usize, phase: Phase) {
        self.hosts[at].driver.lease.send_replace(phase);
    }

    pub async fn declare_lost(&self, at: usize) {
        let node = self.hosts[at].id;
        self.roster(|reply| RosterMsg::NodeLost { node, why: "its lease is over".into(), reply }).await.unwrap();
    }

    pub async fn declare_down(&self, at: usize) {
        let node = self.hosts[at].id;
        self.roster(|reply| RosterMsg::NodeDown { node, reply }).await.unwrap();
    }

    pub async fn back(&self, at: usize, generation: u64) {
        let node = self.hosts[at].id;
        self.roster(|reply| RosterMsg::NodeBack { node, generation, reply }).await.unwrap();
    }

    /// As if the host had lost its power: its links and its tree are gone at once. Processes are left, as a kill leaves them.
    pub async fn cut_power(&mut self, at: usize) {
        self.hosts[at].links().set_peers(BTreeMap::new());
        for other in self.hosts.iter().enumerate().filter(|(other, _)| *other != at) {
            let rest = self.hosts.iter().filter(|host| host.id != other.1.id && host.id != self.hosts[at].id);
            let rest = rest.map(|host| (host.id, PeerSpec::new(host.address.to_string(), [Lane::Router, Lane::Raft])));
            other.1.links().set_peers(rest.collect());
        }
        if let Some(manager) = self.hosts[at].manager.take() {
            manager.stop().await;
        }
        self.hosts[at].running.root.shutdown(Duration::from_secs(10)).await;
    }

    /// An agent of the command connector that lives on that node only.
    pub async fn agent_on(&self, name: &str, on: usize) -> AgentId {
        let new = NewAgent {
            swarm: Some(SwarmRef::Name("default".into())),
            node: Some(self.hosts[on].id),
            stop_grace_ms: 100,
            ..NewAgent::command(name)
        };
        self.control(0).create_agent(op(), new).await.unwrap().value.spec.id
    }

    /// An agent that is placed where placement wants it.
    pub async fn agent(&self, name: &str) -> AgentId {
        let new = NewAgent { swarm: Some(SwarmRef::Name("default".into())), stop_grace_ms: 100, ..NewAgent::command(name) };
        self.control(0).create_agent(op(), new).await.unwrap().value.spec.id
    }

    pub async fn swarm_on(&self, name: &str, on: Option<usize>) -> SwarmId {
        let new = NewSwarm { name: name.into(), node: on.map(|on| self.hosts[on].id), ..NewSwarm::default() };
        self.control(0).create_swarm(op(), new).await.unwrap().value.spec.id
    }

    pub async fn submit(&self, at: usize, task: NewTask) -> TaskId {
        self.control(at).submit_tasks(op(), vec![task]).await.unwrap().value[0].id()
    }

    /// As a careful client: under an operation id, and once more while nobody can say whether it happened.
    pub async fn submit_surely(&self, at: usize, id: &str, task: NewTask) -> TaskId {
        for _ in 0..10 {
            match self.control(at).submit_tasks(op_named(id), vec![task.clone()]).await {
                Ok(done) => return done.value[0].id(),
                // Asked again, it is waited for until the swarm has a coordinator.
                Err(refused) if refused.code == Code::UnknownOutcome => {}
                Err(refused) => panic!("{id}: {refused}"),
            }
        }
        panic!("{id} is never answered");
    }

    pub async fn task_until(&self, task: TaskId, what: &str, holds: impl Fn(&TaskRecord) -> bool) -> TaskRecord {
        let last = || self.control(0).task(task).unwrap();
        let look = async {
            loop {
                if let Some(record) = last().filter(&holds) {
                    return record;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("never {what}: {:#?}", last()))
    }

    pub async fn ended(&self, task: TaskId) -> TaskRecord {
        self.task_until(task, "ended", |record| record.status.is_terminal()).await
    }

    pub async fn succeeded(&self, task: TaskId) -> TaskRecord {
        let record = self.ended(task).await;
        assert_eq!(record.status, TaskStatus::Succeeded, "{record:#?}");
        record
    }

    pub async fn running(&self, task: TaskId) -> TaskRecord {
        self.task_until(task, "running", |record| record.status == TaskStatus::Running).await
    }

    pub fn result(&self, record: &TaskRecord) -> String {
        String::from_utf8(self.control(0).body(record.result.as_ref().unwrap()).unwrap().to_vec()).unwrap()
    }

    /// On which host an entity is placed.
    pub fn place(&self, entity: Entity) -> Option<usize> {
        let at = self.hosts[0].house.directory.location(entity)?;
        self.hosts.iter().position(|host| host.id == at.node)
    }

    pub fn node(&self, at: usize) -> NodeView {
        self.control(0).nodes().into_iter().find(|view| view.node == self.hosts[at].id).unwrap()
    }

    pub async fn status_until(&self, at: usize, status: NodeStatus) {
        until(status.name(), || (self.node(at).status == status).then_some(())).await;
    }

    /// Of all events so far, as kinds.
    pub fn kinds(&self) -> Vec<String> {
        let events = self.control(0).events(Default::default(), &Default::default(), usize::MAX).unwrap();
        events.into_iter().map(|event| event.kind.to_string()).collect()
    }

    pub async fn stop(mut self) {
        for host in &self.hosts {
            host.running.root.shutdown(Duration::from_secs(10)).await;
        }
        for host in &mut self.hosts {
            if let Some(manager) = host.manager.take() {
                manager.stop().await;
            }
            for pid in host.processes() {
                crate::support::kill_9(pid);
            }
        }
        self.views.stop().await;
        self.ledger.stop().await;
    }
}
