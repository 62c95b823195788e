//! Two swarms on one node: one that is struck, and one that must not notice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hiveward_tests::{Client, Hive, Setup, client::SUBMIT, until};
use serde_json::{Value, json};

/// Longer than this, and somebody would have noticed; a busy machine takes its part.
const NOTICED: Duration = Duration::from_secs(5);

pub struct Scene {
    pub hive: Hive,
    pub client: Client,
    pub swarm: String,
    pub agent: String,
}

impl Scene {
    pub async fn set() -> Self {
        let hive = Hive::start(Setup::default()).await;
        let client = hive.client();
        let swarm = client.swarm("struck").await;
        let agent = client.agent(json!({ "name": "victim", "swarm": "struck", "connector": { "noop": true } })).await;
        client.noop_swarm("bystanders", 2).await;
        Self { hive, client, swarm, agent }
    }

    /// A task for the swarm that is struck; sent until it is surely submitted.
    pub async fn task(&self) -> String {
        static SENT: AtomicU64 = AtomicU64::new(0);
        let operation = format!("struck-{}", SENT.fetch_add(1, Ordering::Relaxed));
        let data = self.client.surely(SUBMIT, json!({ "operationId": operation, "swarm": "struck", "kind": "noop" })).await;
        data["submitTask"]["task"]["id"].as_str().unwrap().to_owned()
    }

    /// The actor in the tree with this key or name.
    pub async fn actor(&self, of: &str) -> Value {
        let fields = "path name key status restarts mailbox note lastFailure{message recoveredInMs}";
        let query =
            format!("{{supervisionTree(depth:4){{{fields} children{{{fields} children{{{fields} children{{{fields}}}}}}}}}}}");
        let mut data = self.client.ok(&query, json!({})).await;
        let mut waiting = vec![data["supervisionTree"].take()];
        while let Some(mut node) = waiting.pop() {
            if let Value::Array(children) = node["children"].take() {
                waiting.extend(children);
            }
            if node["key"] == of || node["path"] == of {
                return node;
            }
        }
        panic!("{of} is not in the tree")
    }

    pub async fn restarts(&self, of: &str) -> u64 {
        let restarts = self.actor(of).await["restarts"].take();
        restarts.as_u64().or_else(|| restarts.as_str()?.parse().ok()).unwrap()
    }

    /// Waits until it has been restarted more often than `before`, and runs; what the tree says of it.
    pub async fn comes_back(&self, of: &str, before: u64) -> Value {
        until(&format!("{of} is back"), async || {
            let actor = self.actor(of).await;
            (actor["status"] == "RUNNING" && self.restarts(of).await > before && !actor["lastFailure"]["recoveredInMs"].is_null())
                .then_some(actor)
        })
        .await
    }

    /// Whether the struck swarm works again: a task is submitted and done.
    pub async fn works(&self) {
        let task = self.task().await;
        assert_eq!(self.client.ended(&task).await["status"], "SUCCEEDED");
    }

    pub async fn end(self) {
        self.client.remove_agents().await;
    }
}

/// Submits to the other swarm without pause, and fails if it ever hears anything but success, in good time.
pub struct Bystander {
    over: Arc<AtomicBool>,
    watching: tokio::task::JoinHandle<(u64, Duration)>,
}

impl Bystander {
    pub fn of(client: &Client) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (client, done) = (client.clone(), over.clone());
        let watching = tokio::spawn(async move {
            let (mut tasks, mut slowest) = (0, Duration::ZERO);
            while !done.load(Ordering::Relaxed) || tasks == 0 {
                let began = Instant::now();
                let task = client.submit(json!({ "swarm": "bystanders", "kind": "noop" })).await;
                assert_eq!(client.ended(&task).await["status"], "SUCCEEDED");
                slowest = slowest.max(began.elapsed());
                tasks += 1;
            }
            (tasks, slowest)
        });
        Self { over, watching }
    }

    pub async fn noticed_nothing(self) {
        self.over.store(true, Ordering::Relaxed);
        let (tasks, slowest) = self.watching.await.expect("a bystander was harmed");
        eprintln!("{tasks} tasks of bystanders, the slowest in {slowest:?}");
        assert!(slowest < NOTICED, "a bystander waited {slowest:?}");
    }
}
