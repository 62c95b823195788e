//! Three members of etcd at default settings, in the places of a cluster's nodes: what others do under the same fault.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{cluster::Cluster, until};

/// As our own load: a member that does not answer for so long is asked no more, this time.
const CALL_PATIENCE: Duration = Duration::from_secs(3);
pub const PROBE_EVERY: Duration = Duration::from_millis(25);

pub struct Etcd {
    members: Vec<Option<Child>>,
    urls: Vec<String>,
    http: reqwest::Client,
}

/// Whether the Debian package etcd-server is here.
pub fn installed() -> bool {
    Command::new("etcd").arg("--version").output().is_ok_and(|ran| ran.status.success())
}

impl Etcd {
    /// Where `places` has its nodes, which do not run.
    pub async fn start(places: &Cluster) -> Self {
        let http = reqwest::Client::builder().no_proxy().connect_timeout(CALL_PATIENCE).timeout(CALL_PATIENCE).build().unwrap();
        let urls = (0..places.len()).map(|member| format!("http://{}:2379", places.node(member).address())).collect();
        let members = (0..places.len()).map(|_| None).collect();
        let mut etcd = Self { members, urls, http };
        for member in 0..places.len() {
            etcd.spawn(places, member);
        }
        etcd.leader().await;
        etcd
    }

    pub fn spawn(&mut self, places: &Cluster, member: usize) {
        let peer = |member: usize| format!("http://{}:2380", places.node(member).address());
        let all: Vec<String> = (0..places.len()).map(|member| format!("m{member}={}", peer(member))).collect();
        let mut command = places.net.command(member, "etcd".as_ref());
        command.args(["--name", &format!("m{member}"), "--initial-cluster", &all.join(",")]);
        command.arg("--data-dir").arg(places.own_dir().join(format!("etcd{member}")));
        command.args(["--listen-peer-urls", &peer(member), "--initial-advertise-peer-urls", &peer(member)]);
        command.args(["--listen-client-urls", &self.urls[member], "--advertise-client-urls", &self.urls[member]]);
        let log = fs::File::create(places.own_dir().join(format!("etcd{member}.log"))).unwrap();
        command.env("FIELD_OWNER", crate::cluster::Owner::me().label()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.members[member] = Some(command.spawn().unwrap());
    }

    async fn ask(http: &reqwest::Client, url: &str, path: &str, body: Value) -> Option<Value> {
        let answer = http.post(format!("{url}/v3/{path}")).json(&body).send().await.ok()?;
        if !answer.status().is_success() {
            return None;
        }
        answer.json().await.ok()
    }

    /// The member that every running one names.
    pub async fn leader(&self) -> usize {
        until("etcd has a leader", async || {
            let mut named = None;
            let mut own = Vec::new();
            for (member, url) in self.urls.iter().enumerate().filter(|(member, _)| self.members[*member].is_some()) {
                let status = Self::ask(&self.http, url, "maintenance/status", json!({})).await?;
                let leader = status["leader"].as_str().filter(|leader| *leader != "0")?.to_owned();
                own.push((status["header"]["member_id"].as_str()?.to_owned(), member));
                if named.get_or_insert(leader.clone()) != &leader {
                    return None;
                }
            }
            own.into_iter().find(|(id, _)| Some(id) == named.as_ref()).map(|(_, member)| member)
        })
        .await
    }

    pub fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// How long after `fault` the first put was acknowledged. One more is sent every so often, whatever became of the others.
    pub async fn accepted_again(&self, fault: Instant) -> Duration {
        let mut probes = JoinSet::new();
        for at in 0_usize.. {
            let (http, url) = (self.http.clone(), self.urls[at % self.urls.len()].clone());
            probes.spawn(async move {
                // "key" and "value" in base64.
                let put = json!({ "key": "a2V5", "value": "dmFsdWU=" });
                Self::ask(&http, &url, "kv/put", put).await.map(|_| Instant::now())
            });
            tokio::time::sleep(PROBE_EVERY).await;
            while let Some(ended) = probes.try_join_next() {
                if let Ok(Some(answered)) = ended {
                    return answered - fault;
                }
            }
            assert!(fault.elapsed() < crate::PATIENCE, "etcd accepts no puts again");
        }
        unreachable!("it counts forever")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in 0..self.members.len() {
            self.kill(member);
        }
    }
}
