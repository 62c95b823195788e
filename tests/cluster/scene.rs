//! What the families share: three joined nodes under load, and who holds what.

use std::time::{Duration, Instant};

use hiveward_tests::{
    CallFailed, Client,
    client::SUBMIT,
    cluster::{Cluster, Shape},
    dice,
    oracle::{Load, SWARM},
    until_within,
};
use serde_json::{Value, json};

/// A silent node's entities answer elsewhere within this, at default settings.
pub const ELSEWHERE: Duration = Duration::from_secs(15);
/// Longer than the lease of a node at default settings, which is 8 s.
pub const LONGER_THAN_THE_LEASE: Duration = Duration::from_secs(10);
/// How long it is watched that something does not happen: several elections' worth.
pub const WATCHED: Duration = Duration::from_secs(6);
/// Elections, on a busy machine and a debug build; the goal for the long form is under 2 s p99.
pub const WRITES_AGAIN: Duration = Duration::from_secs(10);

/// How long after a node's death a write was accepted.
#[derive(Clone, Copy, Debug)]
pub struct Again {
    pub took: Duration,
    pub led: bool,
    /// The load's coordinator died with it, and its swarm's writes waited for another one.
    pub coordinated: bool,
}

/// The median and the 99th percentile; none where there were none.
pub fn quantiles<'a>(all: impl IntoIterator<Item = &'a Again>) -> Option<(Duration, Duration)> {
    let mut all: Vec<Duration> = all.into_iter().map(|again| again.took).collect();
    all.sort();
    let at = |percent: usize| all.get((all.len() * percent).div_ceil(100).checked_sub(1)?).copied();
    Some((at(50)?, at(99)?))
}

/// Of elections alone, of new coordinators alone, and of both.
pub fn print_quantiles(all: &[Again]) {
    for (led, coordinated, what) in
        [(true, false, "leaders"), (false, true, "coordinators"), (true, true, "leaders that coordinated")]
    {
        let those = || all.iter().filter(|again| (again.led, again.coordinated) == (led, coordinated));
        if let Some((half, most)) = quantiles(those()) {
            eprintln!("writes accepted again: p50 {half:?}, p99 {most:?} over {} killed {what}", those().count());
        }
    }
}

pub struct Scene {
    pub cluster: Cluster,
    pub load: Load,
    pub dice: fastrand::Rng,
}

impl Scene {
    /// Three nodes that vote, with a load at all of them. None where there is no joining, or no right to what is needed.
    pub async fn begin(shape: Shape) -> Option<Self> {
        let mut dice = dice();
        let cluster = Cluster::joined(&shape).await?;
        let load = Load::begin(&cluster, &mut dice).await;
        load.goes_on(30, Duration::from_secs(30)).await;
        Some(Self { cluster, load, dice })
    }

    /// Everybody is back and hears everybody: the oracle judges.
    pub async fn end(mut self) {
        self.cluster.settled().await;
        self.load.goes_on(30, ELSEWHERE).await;
        self.load.finish().await;
    }

    pub fn others(&self, node: usize) -> Vec<usize> {
        (0..self.cluster.len()).filter(|other| *other != node).collect()
    }

    /// The node on which the load's coordinator lives.
    pub async fn coordinators_node(&self) -> usize {
        let all: Vec<usize> = (0..self.cluster.len()).collect();
        self.holder_among(&all, &self.swarm().await, ELSEWHERE).await
    }

    /// Kills a node between two writes of the load, waits until writes are accepted again, and has it back.
    pub async fn kill_and_wait(&mut self, node: usize) -> Again {
        let led = self.cluster.leader().await == node;
        let coordinated = self.coordinators_node().await == node;
        self.load.goes_on(self.dice.usize(1..30), ELSEWHERE).await;
        let killed = Instant::now();
        self.cluster.kill(node);
        let took = self.load.accepted_again(killed).await;
        let again = Again { took, led, coordinated };
        eprintln!("node {node} was killed: {again:?}");
        self.cluster.leader_among(&self.others(node), WRITES_AGAIN).await;
        self.cluster.start_again(node).await;
        self.cluster.settled().await;
        self.load.goes_on(20, ELSEWHERE).await;
        self.load.look_at_some().await;
        again
    }

    /// A node that holds an agent of the load; not `but`, if another does.
    pub async fn agents_node(&self, but: usize) -> usize {
        let mut found = but;
        for agent in agents(&self.cluster.client(0)).await {
            let all: Vec<usize> = (0..self.cluster.len()).collect();
            found = self.holder_among(&all, &agent, ELSEWHERE).await;
            if found != but {
                break;
            }
        }
        found
    }

    pub async fn swarm(&self) -> String {
        let data = self.cluster.client(0).ok("{swarms(first:100){nodes{id name}}}", json!({})).await;
        let swarms = data["swarms"]["nodes"].as_array().unwrap();
        let swarm = swarms.iter().find(|swarm| swarm["name"] == SWARM).expect("the load has a swarm");
        swarm["id"].as_str().unwrap().to_owned()
    }

    /// Waits until one of `nodes` has the entity in its tree.
    pub async fn holder_among(&self, nodes: &[usize], key: &str, patience: Duration) -> usize {
        until_within(patience, &format!("one of nodes {nodes:?} holds {key}"), async || {
            for node in nodes {
                if holds(&self.cluster, *node, key).await {
                    return Some(*node);
                }
            }
            None
        })
        .await
    }
}

/// Whether the entity lives in this node's process. Another node may answer for it: the answer says which.
pub async fn holds(cluster: &Cluster, node: usize, key: &str) -> bool {
    let query = "query($k:ID!){supervisionTree(root:$k,depth:1){key node}}";
    let client = cluster.client(node);
    let asked = tokio::time::timeout(Duration::from_secs(2), client.call(query, json!({ "k": key }))).await;
    let Ok(Ok(data)) = asked else { return false };
    data["supervisionTree"]["key"] == key && data["supervisionTree"]["node"] == cluster.node(node).id()
}

async fn agents(client: &Client) -> Vec<String> {
    let query = "query($s:ID!){agents(first:100,filter:{swarm:$s}){nodes{id}}}";
    let data = client.ok(query, json!({ "s": SWARM })).await;
    data["agents"]["nodes"].as_array().unwrap().iter().map(|agent| agent["id"].as_str().unwrap().to_owned()).collect()
}

/// Waits until the node refuses writes as a minority must: at once, with `UNAVAILABLE`, and to be tried again elsewhere.
pub async fn refuses_writes(client: &Client, patience: Duration) {
    let mut client = client.clone();
    client.patience = Duration::from_secs(30);
    let input: Value = json!({ "i": { "swarm": SWARM, "kind": "noop" } });
    until_within(patience, "a minority refuses writes", async || {
        let began = Instant::now();
        match client.call(SUBMIT, input.clone()).await {
            Err(CallFailed::Refused { code, retryable, .. }) if code == "UNAVAILABLE" && retryable => {
                (began.elapsed() < Duration::from_secs(1)).then_some(())
            }
            Ok(_) => panic!("a minority acknowledged a write"),
            Err(_) => None,
        }
    })
    .await;
}
