//! A scripted model server and the requests of an agent.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use hiveward_actors::{
    client::{EventFilter, EventRecord},
    node::{Node, NodeConfig},
};
use hiveward_catalogue::budget::CallRules;
use hiveward_contract::yaml;
use hiveward_gateway::model::{
    ModelGateway, ModelsSection,
    scripted::{Script, Scripted},
};
use hiveward_kernel::{
    id::{AgentId, SwarmId, TaskId},
    lease::Lease,
};
use hiveward_models::{
    Models, Used,
    access::{Holder, ModelAccess, Pass},
    table::{Total, UsageBy},
};
use hiveward_runtime::ledger::Cursor;
use serde_json::{Value, json};

pub async fn model(script: &str) -> Scripted {
    Scripted::start(([127, 0, 0, 1], 0).into(), Script::read("test", script).unwrap()).await.unwrap()
}

/// What came of a request, and whether its body was whole.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Vec<u8>,
    pub whole: bool,
}

impl Got {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The data of each event.
    pub fn events(&self) -> Vec<Value> {
        let text = self.text();
        text.lines().filter_map(|line| line.strip_prefix("data: ")).filter_map(|data| serde_json::from_str(data).ok()).collect()
    }

    /// The text deltas of a stream of the Anthropic API, in one.
    pub fn said(&self) -> String {
        self.events().iter().filter_map(|event| event["delta"]["text"].as_str().map(str::to_owned)).collect()
    }
}

pub async fn read(response: reqwest::Response) -> Got {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let mut stream = response.bytes_stream();
    let (mut body, mut whole) = (Vec::new(), true);
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => body.extend_from_slice(&chunk),
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    Got { status, headers, body, whole }
}

pub fn post(url: &str, key: &str, body: &Value) -> reqwest::RequestBuilder {
    reqwest::Client::new().post(url).header("x-api-key", key).header("anthropic-version", "2023-06-01").json(body)
}

pub async fn ask(url: &str, key: &str, body: &Value) -> Got {
    soon("an answer", async { read(post(url, key, body).send().await.unwrap()).await }).await
}

pub fn prompt(text: &str) -> Value {
    json!({ "model": "m-1", "max_tokens": 100, "stream": true, "messages": [{ "role": "user", "content": text }] })
}

/// Fails the test when it does not come true in reasonable time.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("not in 20 s: {what}"))
}

/// A key that must be seen by the provider alone.
pub const CANARY: &str = "sk-canary-8f1b2c";

/// A model gateway before scripted providers, in a data directory of its own.
pub struct Front {
    pub gateway: ModelGateway,
    pub models: Models,
    dir: Arc<tempfile::TempDir>,
    section: ModelsSection,
}

impl Front {
    /// `providers` are entries of the configuration's `models.providers`, as YAML.
    pub async fn start(providers: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("secrets")).unwrap();
        let secret = dir.path().join("secrets/canary");
        std::fs::write(&secret, format!("{CANARY}\n")).unwrap();
        std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let section: ModelsSection = yaml::read("test", &format!("providers: {providers}\n")).unwrap();
        section.check().unwrap();
        Self::of(Arc::new(dir), section).await
    }

    /// Before one server that speaks both APIs.
    pub async fn before(server: &Scripted) -> Self {
        let at = server.address();
        Self::start(&format!(
            "{{a: {{api: anthropic, url: 'http://{at}', key: 'secret:canary'}}, o: {{api: openai, url: 'http://{at}/v1', key: 'secret:canary'}}}}"
        ))
        .await
    }

    /// Before one Anthropic server, with prices.
    pub async fn priced(server: &Scripted, prices: &str) -> Self {
        let front = Self::before(server).await;
        let mut section = front.section;
        section.prices = yaml::read::<ModelsSection>("test", &format!("prices: {prices}\n")).unwrap().prices;
        section.check().unwrap();
        drop(front.gateway);
        Self::of(front.dir, section).await
    }

    async fn of(dir: Arc<tempfile::TempDir>, section: ModelsSection) -> Self {
        let gateway = ModelGateway::start(&section, dir.path()).await.unwrap();
        gateway.keep_port().unwrap();
        Self { models: gateway.models(), gateway, dir, section }
    }

    /// The same node, started again.
    pub async fn restart(self) -> Self {
        self.gateway.stop(Duration::from_millis(100)).await;
        Self::of(self.dir, self.section).await
    }

    pub fn pass(&self, rules: CallRules) -> (Lease, Pass) {
        let holder = holder(rules);
        (holder.lease, self.models.open(holder).unwrap())
    }

    /// Once the call is settled: the agent may have its last byte a moment before.
    pub async fn usage(&self, lease: Lease, calls: u64) -> Vec<(String, Used)> {
        soon("the calls are settled", async {
            loop {
                let used = self.models.usage(lease);
                if used.iter().map(|(_, used)| used.calls).sum::<u64>() >= calls {
                    return used;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
    }
}

pub fn holder(rules: CallRules) -> Holder {
    let lease = Lease { task: TaskId::new(), attempt: 1, agent: AgentId::new() };
    Holder { lease, swarm: SwarmId::new(), incarnation: 1, labels: Vec::new(), rules }
}

pub fn messages_of(pass: &Pass) -> String {
    format!("{}/anthropic/v1/messages?beta=true", pass.url)
}

pub fn completions_of(pass: &Pass) -> String {
    format!("{}/openai/v1/chat/completions", pass.url)
}

/// A whole node with its model gateway, before one scripted server.
pub struct House {
    pub front: Front,
    pub node: Node,
}

impl House {
    /// `prices` as in the configuration, as YAML.
    pub async fn start(server: &Scripted, prices: &str) -> Self {
        Self::of(Front::priced(server, prices).await).await
    }

    async fn of(front: Front) -> Self {
        let mut config = NodeConfig::new(front.dir.path());
        config.default_agents = 0;
        config.models = Arc::new(front.models.clone());
        let node = Node::start(config).await.unwrap();
        Self { front, node }
    }

    pub fn models(&self) -> &Models {
        &self.front.models
    }

    /// In the order of `hiveward up`.
    pub async fn restart(self) -> Self {
        self.node.stop(Duration::from_secs(1)).await;
        Self::of(self.front.restart().await).await
    }

    pub async fn stop(self) {
        self.node.stop(Duration::from_secs(1)).await;
        self.front.gateway.stop(Duration::from_millis(100)).await;
    }

    pub fn warnings(&self) -> Vec<EventRecord> {
        let filter = EventFilter { kind: vec!["BudgetWarned".into()], ..EventFilter::default() };
        self.node.control().events(Cursor(0), &filter, 10).unwrap()
    }

    /// What the view has, once it has so many calls.
    pub async fn used(&self, by: UsageBy, calls: u64) -> Vec<(String, Total)> {
        soon("the calls are in the ledger", async {
            loop {
                let lines = self.node.control().usage(by, None, 500).unwrap().items;
                if lines.iter().map(|(_, total)| total.calls).sum::<u64>() >= calls {
                    return lines;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }
}
