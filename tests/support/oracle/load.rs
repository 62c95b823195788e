//! Clients at work on all nodes at once. A client that gets no answer, or is told to try again, repeats the same operation
//! at another node until it knows.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

use super::{
    Broken, check,
    history::{Answer, Event, History, NodeEnd, Outcome, OwnRead},
    looks::{Carried, LookedAt, look_at_all},
    ops::{Maker, Sent, cursor, ids},
    subscriber::Subscriber,
};
use crate::{CallFailed, Client, client::SUBMIT, cluster::Cluster, etcd::PROBE_EVERY, until, until_within};

pub const SWARM: &str = "rate";
const CLIENTS: usize = 4;
const SUBSCRIBERS: usize = 2;
/// A node that does not answer for so long is asked no more, this time.
const CALL_PATIENCE: Duration = Duration::from_secs(3);
/// Before the same operation is sent to the next node.
const NEXT_NODE_AFTER: Duration = Duration::from_millis(20);
/// Between two operations of one client: what is tested is faults, not speed.
const PACE: Duration = Duration::from_millis(20);
/// How long the last tasks may take once nothing fails any more.
const LAST_TASKS: Duration = Duration::from_secs(120);
const REPEATED: usize = 20;
/// Operations that are looked at on every node when a node is back.
const LOOKED_AT_EACH_TIME: usize = 4;
/// Operations whose bodies are looked at on every node at the end; those of the others on one.
const LOOKED_AT_EVERYWHERE: usize = 25;

pub(super) struct Shared {
    pub(super) clients: Vec<Client>,
    history: Mutex<History>,
}

impl Shared {
    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

pub struct Load {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
    subscribers: JoinSet<Subscriber>,
    stop: watch::Sender<bool>,
    marks: PathBuf,
    dice: fastrand::Rng,
    /// Where the clients go.
    nodes: Vec<usize>,
    probes: AtomicU64,
    probing: tokio::sync::Mutex<JoinSet<()>>,
}

/// What came of it, for the test to print and to judge.
#[derive(Debug)]
pub struct Verdict {
    pub operations: usize,
    pub events: usize,
    pub moves: u32,
    pub tried_again: usize,
    pub looked_at: LookedAt,
}

impl Load {
    /// Makes the swarm and lets the clients begin.
    pub async fn begin(cluster: &Cluster, dice: &mut fastrand::Rng) -> Self {
        let numbers: Vec<usize> = (0..cluster.len()).collect();
        Self::begin_at(cluster, dice, &numbers).await
    }

    /// As [`Self::begin`], at some of the nodes only; the others are asked at the end.
    pub async fn begin_at(cluster: &Cluster, dice: &mut fastrand::Rng, nodes: &[usize]) -> Self {
        let mut clients = cluster.clients();
        clients[nodes[0]].noop_swarm(SWARM, 4).await;
        clients.iter_mut().for_each(|client| client.patience = CALL_PATIENCE);
        let shared = Arc::new(Shared { clients, history: Mutex::default() });
        let (stop, stopped) = watch::channel(false);
        let marks = cluster.own_dir().join("marks");
        let (mut workers, mut subscribers) = (JoinSet::new(), JoinSet::new());
        for number in 0..CLIENTS {
            let maker = Maker { dice: dice.fork(), swarm: SWARM, marks: Some(marks.clone().into()), own: Vec::new() };
            let worker = Worker { number, nodes: nodes.to_vec(), shared: shared.clone(), maker, stopped: stopped.clone() };
            workers.spawn(worker.run());
        }
        for number in 0..SUBSCRIBERS {
            let websocket = number % 2 == 1;
            let subscriber = Subscriber::new(shared.clone(), nodes.to_vec(), dice.fork(), websocket);
            subscribers.spawn(subscriber.run(stopped.clone()));
        }
        Self {
            shared,
            workers,
            subscribers,
            stop,
            marks,
            dice: dice.fork(),
            nodes: nodes.to_vec(),
            probes: AtomicU64::new(0),
            probing: tokio::sync::Mutex::default(),
        }
    }

    pub fn acknowledged(&self) -> usize {
        self.shared.history().acks.len()
    }

    /// Waits until so many more operations are acknowledged.
    pub async fn goes_on(&self, more: usize, patience: Duration) {
        let before = self.acknowledged();
        let what = format!("{more} more operations are acknowledged");
        until_within(patience, &what, async || (self.acknowledged() >= before + more).then_some(())).await;
    }

    /// How long after `fault` the first operation was acknowledged that had been sent after it; waits for it. One more is
    /// sent every so often, whatever became of the others: a client that waits for an answer sees it later.
    pub async fn accepted_again(&self, fault: Instant) -> Duration {
        for at in 0_usize.. {
            let (shared, number) = (self.shared.clone(), self.probes.fetch_add(1, Ordering::Relaxed));
            let node = self.nodes[at % self.nodes.len()];
            // Ends within the call's patience. What it leaves open is resolved with the rest.
            let probe = async move {
                let operation = format!("probe-{number}");
                let input = json!({ "operationId": operation, "swarm": SWARM, "kind": "noop" });
                let (sent, began) = (Sent::plain(SUBMIT, input), Instant::now());
                shared.history().open.insert(operation.clone(), sent.clone());
                let answer = shared.clients[node].call(sent.query, sent.variables()).await;
                shared.note(&operation, &sent, node, began, &answer);
            };
            self.probing.lock().await.spawn(probe);
            tokio::time::sleep(PROBE_EVERY).await;
            let first = {
                let history = self.shared.history();
                let after = history.acks.iter().filter(|(sent, ..)| *sent >= fault).map(|(_, answered, _)| *answered - fault);
                after.min()
            };
            if let Some(first) = first {
                return first;
            }
            assert!(fault.elapsed() < crate::PATIENCE, "writes are not accepted again");
        }
        unreachable!("it counts forever")
    }

    /// A task that the test submitted by itself belongs to the history as well.
    pub fn adopt(&self, task: &str) {
        let outcome = Outcome::Acked { tasks: vec![task.to_owned()] };
        let answer = Answer { operation: format!("test-{task}"), cancel: false, node: 0, outcome };
        self.shared.history().answers.push(answer);
    }

    /// Whether a node has acknowledged anything that was sent after `since`.
    pub fn acknowledged_by(&self, node: usize, since: Instant) -> bool {
        self.shared.history().acks.iter().any(|(sent, _, by)| *by == node && *sent >= since)
    }

    /// Stops the clients, finds out what became of each operation, waits for the last tasks, and compares everything.
    /// All nodes must be up and able to hear each other.
    pub async fn finish(self) -> Verdict {
        let all: Vec<usize> = (0..self.shared.clients.len()).collect();
        self.finish_at(&all).await
    }

    /// As [`Self::finish`], when only these nodes are left of the cluster.
    pub async fn finish_at(mut self, left: &[usize]) -> Verdict {
        let _ = self.stop.send(true);
        let mut probing = std::mem::take(self.probing.get_mut());
        for clients in [&mut self.workers, &mut probing] {
            while let Some(ended) = clients.join_next().await {
                resume(ended);
            }
        }
        self.resolve(left).await;
        self.repeat_some(left).await;
        let clients: Vec<Client> = left.iter().map(|node| self.shared.clients[*node].clone()).collect();
        let mut log = Vec::new();
        let give_up = Instant::now() + LAST_TASKS;
        // A task that is stuck is named by the checker, with everything else that is wrong.
        while {
            read_on(&clients[0], &mut log).await;
            !check::open(&log).is_empty()
        } && Instant::now() < give_up
        {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let head = log.last().map_or("0".to_owned(), |event| event.cursor.clone());
        let mut streams = Vec::new();
        while let Some(ended) = self.subscribers.join_next().await {
            streams.push(resume(ended).read_to(&head, left).await);
        }
        let mut nodes = Vec::new();
        for client in &clients {
            let mut log = Vec::new();
            read_on(client, &mut log).await;
            if let Some(end) = log.iter().position(|event| event.cursor == head) {
                log.truncate(end + 1);
            }
            nodes.push(NodeEnd { log, tasks: view(client, &head).await });
        }
        let verdict = {
            let mut history = self.shared.history();
            history.streams = streams;
            let marks = std::fs::read_to_string(&self.marks).unwrap_or_default();
            history.marks = marks.lines().map(str::to_owned).collect();
            let broken = check::check(&history, &nodes);
            let first: Vec<String> = broken.iter().take(20).map(ToString::to_string).collect();
            assert!(broken.is_empty(), "{} promises are broken:\n{}", broken.len(), first.join("\n"));
            Verdict {
                operations: history.acks.len(),
                events: log.len(),
                moves: history.streams.iter().map(|stream| stream.moves).sum(),
                tried_again: check::tried_again(&log),
                looked_at: LookedAt::default(),
            }
        };
        let looked_at = self.look_at_bodies(left).await;
        let verdict = Verdict { looked_at, ..verdict };
        eprintln!("{verdict:?}");
        verdict
    }

    /// Some of what was sent with something in it is looked at on every node, as far as its tasks have come.
    pub async fn look_at_some(&mut self) {
        let mut carried = self.carried();
        carried.truncate(LOOKED_AT_EACH_TIME);
        let all: Vec<usize> = (0..self.shared.clients.len()).collect();
        self.look_at(&all, |_, _| true, &carried).await;
    }

    /// What each operation carried is looked at on one node, and what some did on all.
    async fn look_at_bodies(&mut self, left: &[usize]) -> LookedAt {
        let carried = self.carried();
        let here = |turn: usize, n: usize| n < LOOKED_AT_EVERYWHERE || n % left.len() == turn;
        self.look_at(left, here, &carried).await
    }

    /// Operations that are acknowledged and carry something, in any order.
    fn carried(&mut self) -> Vec<Carried> {
        let mut carried: Vec<Carried> = {
            let history = self.shared.history();
            let acked: HashMap<&str, &[String]> =
                history.acked().map(|(answer, tasks)| (answer.operation.as_str(), tasks)).collect();
            let sent = history.sent.iter().filter(|(_, sent)| sent.carries());
            sent.map(|(operation, sent)| (operation.clone(), sent.clone(), acked[operation.as_str()].to_vec())).collect()
        };
        carried.sort_by(|a, b| a.0.cmp(&b.0));
        self.dice.shuffle(&mut carried);
        carried
    }

    /// `here` says of the place of a node and that of an operation whether the one is asked for the other.
    async fn look_at(&self, nodes: &[usize], here: impl Fn(usize, usize) -> bool, carried: &[Carried]) -> LookedAt {
        // A program's transcript is where it ran, and that node may be gone for good.
        let transcripts = nodes.len() == self.shared.clients.len();
        let (mut broken, mut looked_at) = (Vec::new(), LookedAt::default());
        for (turn, node) in nodes.iter().enumerate() {
            let some = carried.iter().enumerate().filter(|(n, _)| here(turn, *n)).map(|(_, carried)| carried.clone()).collect();
            let (more, looked) = look_at_all(&self.shared.clients[*node], *node, some, transcripts).await;
            broken.extend(more);
            looked_at.add(looked);
        }
        let said: Vec<String> = broken.iter().map(Broken::to_string).collect();
        assert!(broken.is_empty(), "what tasks carry is not what it was:\n{}", said.join("\n"));
        looked_at
    }

    /// Sends each operation without an answer again, until it has one.
    async fn resolve(&mut self, nodes: &[usize]) {
        let open: Vec<_> = self.shared.history().open.iter().map(|(id, sent)| (id.clone(), sent.clone())).collect();
        for (operation, sent) in open {
            self.surely(&operation, sent, nodes).await;
        }
    }

    /// A repeated operation has the answer that it had, at every node.
    async fn repeat_some(&mut self, nodes: &[usize]) {
        let mut sent: Vec<_> = self.shared.history().sent.iter().map(|(id, sent)| (id.clone(), sent.clone())).collect();
        sent.sort_by(|a, b| a.0.cmp(&b.0));
        self.dice.shuffle(&mut sent);
        for (operation, sent) in sent.into_iter().take(REPEATED) {
            self.surely(&operation, sent, nodes).await;
        }
    }

    async fn surely(&mut self, operation: &str, sent: Sent, nodes: &[usize]) {
        let mut at = self.dice.usize(..nodes.len());
        until(&format!("{operation} is answered"), async || {
            let (node, began) = (nodes[at], Instant::now());
            let answer = self.shared.clients[node].call(sent.query, sent.variables()).await;
            let known = self.shared.note(operation, &sent, node, began, &answer);
            at = (at + 1) % nodes.len();
            known.then_some(())
        })
        .await;
    }
}

fn resume<T>(ended: Result<T, tokio::task::JoinError>) -> T {
    match ended {
        Ok(value) => value,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => panic!("a client was cancelled: {error}"),
    }
}

impl Shared {
    /// Notes an answer; whether it leaves no doubt.
    fn note(&self, operation: &str, sent: &Sent, node: usize, began: Instant, answer: &Result<Value, CallFailed>) -> bool {
        let mut history = self.history();
        let outcome = match answer {
            Ok(data) => {
                history.acks.push((began, Instant::now(), node));
                history.sent.insert(operation.to_owned(), sent.clone());
                Outcome::Acked { tasks: ids(data) }
            }
            Err(CallFailed::Refused { retryable: false, code, .. }) => Outcome::Refused { code: code.clone() },
            Err(_) => return false,
        };
        history.open.remove(operation);
        history.answers.push(Answer { operation: operation.to_owned(), cancel: sent.is_cancel(), node, outcome });
        true
    }
}

struct Worker {
    number: usize,
    nodes: Vec<usize>,
    shared: Arc<Shared>,
    maker: Maker,
    stopped: watch::Receiver<bool>,
}

impl Worker {
    async fn run(mut self) {
        let mut stopped = self.stopped.clone();
        // What was on its way then stays open, and is resolved at the end.
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => {}
            () = self.work() => {}
        }
    }

    async fn work(&mut self) {
        for count in 0_u64.. {
            let operation = format!("op-{}-{count}", self.number);
            let sent = self.maker.next(&operation);
            self.shared.history().open.insert(operation.clone(), sent.clone());
            self.until_known(&operation, &sent).await;
            tokio::time::sleep(PACE).await;
        }
    }

    async fn until_known(&mut self, operation: &str, sent: &Sent) {
        let mut at = self.maker.dice.usize(..self.nodes.len());
        loop {
            let (node, began) = (self.nodes[at], Instant::now());
            let answer = self.shared.clients[node].call(sent.query, sent.variables()).await;
            if self.shared.note(operation, sent, node, began, &answer) {
                if let Ok(data) = answer {
                    self.answered(sent, &data).await;
                }
                return;
            }
            at = (at + 1) % self.nodes.len();
            tokio::time::sleep(NEXT_NODE_AFTER).await;
        }
    }

    async fn answered(&mut self, sent: &Sent, data: &Value) {
        if sent.is_cancel() {
            return;
        }
        let tasks = ids(data);
        if let (0..4, Some(cursor)) = (self.maker.dice.u8(..16), cursor(data)) {
            self.reads_its_own(&tasks[0], cursor).await;
        }
        if sent.is_alone() {
            self.maker.own.extend(tasks);
        }
    }

    /// At any node: first a question that names the cursor, then the task itself.
    async fn reads_its_own(&mut self, task: &str, cursor: &str) {
        let node = *self.maker.dice.choice(&self.nodes).unwrap();
        let client = &self.shared.clients[node];
        let at_least = "query($c:Cursor){tasks(first:1,atLeast:$c){nodes{id}}}";
        if client.call(at_least, json!({ "c": cursor })).await.is_err() {
            return;
        }
        if let Ok(data) = client.call("query($t:ID!){node(id:$t){id}}", json!({ "t": task })).await {
            let found = data["node"]["id"] == task;
            self.shared.history().reads.push(OwnRead { node, task: task.to_owned(), found });
        }
    }
}

/// Reads a node's events to its head.
async fn read_on(client: &Client, log: &mut Vec<Event>) {
    let query = format!("query($a:Cursor){{events(after:$a,first:500){{nodes{{{}}} pageInfo{{hasNextPage}}}}}}", Event::FIELDS);
    loop {
        let after = log.last().map_or("0", |event| &event.cursor).to_owned();
        let data = until("a node gives its events", async || client.call(&query, json!({ "a": after })).await.ok()).await;
        log.extend(data["events"]["nodes"].as_array().unwrap().iter().map(Event::read));
        if data["events"]["pageInfo"]["hasNextPage"] != true {
            return;
        }
    }
}

/// A node's view of all tasks, once it has taken in `head`.
async fn view(client: &Client, head: &str) -> HashMap<String, String> {
    let query = "query($after:String,$l:Cursor){tasks(first:500,after:$after,atLeast:$l){nodes{id status} pageInfo{endCursor hasNextPage}}}";
    let rows = client.all("tasks", query, json!({ "l": head })).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    rows.iter().map(|row| (text(&row["id"]), text(&row["status"]))).collect()
}
