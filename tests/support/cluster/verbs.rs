//! A cluster of a test, and what can be done to it.

use std::{
    path::{Path, PathBuf},
    process::{ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        LazyLock, Mutex, Once, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Mode, Net, Node, Owner, Shape, sweep};
use crate::{Client, binary, hive::Ran, skip, until, until_within};

/// Nodes on one network; the first is the one that others join.
pub struct Cluster {
    // Dropped in this order: processes and their mounts, then where they lived.
    nodes: Vec<Node>,
    pub net: Net,
    dir: Dir,
    token: String,
}

/// What one node says of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Said {
    pub leader: Option<String>,
    pub term: u64,
    pub voters: Vec<String>,
    pub nodes: Vec<String>,
}

struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let kept = std::thread::panicking() && std::env::var_os("HIVEWARD_KEEP").is_some();
        if kept {
            let at = std::env::temp_dir().join(format!("hiveward-kept-{}", std::process::id()));
            let _ = std::fs::rename(&self.0, &at);
            eprintln!("its data is kept in {}", at.display());
        }
        let _ = std::fs::remove_dir_all(&self.0);
        // The owner's own, once its last cluster is gone.
        let _ = self.0.parent().map(std::fs::remove_dir);
    }
}

/// Whether `hiveward up` takes the flag.
pub fn knows_flag(flag: &str) -> bool {
    static HELP: LazyLock<String> = LazyLock::new(|| {
        let ran = Command::new(binary::hiveward()).args(["up", "--help"]).output().unwrap();
        String::from_utf8_lossy(&ran.stdout).into_owned()
    });
    HELP.contains(flag)
}

/// Whether nodes can join each other.
pub fn joins() -> bool {
    static TOKENS: LazyLock<bool> =
        LazyLock::new(|| Command::new(binary::hiveward()).args(["token", "create", "--help"]).output().unwrap().status.success());
    knows_flag("--join") && *TOKENS
}

/// Sweeps after the dead, and has somebody who will sweep after this process. Once a process.
fn sweep_and_be_swept() {
    static SWEEP: Once = Once::new();
    static REAPER: OnceLock<Mutex<Option<ChildStdin>>> = OnceLock::new();
    SWEEP.call_once(sweep::dead_owners);
    REAPER.get_or_init(|| {
        let reaper = super::net::helper("hiveward-tests-reaper");
        let mut command = Command::new(&reaper);
        // A group of its own: what ends the test's group must not end it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.arg(Owner::me().label()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // This process does not wait for it: it ends last.
        let started = command.spawn();
        match started {
            Ok(mut child) => Mutex::new(child.stdin.take()),
            Err(error) => {
                eprintln!("{} does not start ({error}): a kill of this test leaves its nodes to the next run", reaper.display());
                Mutex::new(None)
            }
        }
    });
}

impl Cluster {
    /// Everything but the processes.
    pub fn prepare(shape: &Shape) -> Result<Self, String> {
        static CLUSTERS: AtomicU32 = AtomicU32::new(0);
        if shape.needs_root() && !nix::unistd::geteuid().is_root() {
            return Err("only root may make network namespaces and mounts".into());
        }
        sweep_and_be_swept();
        let (owner, number) = (Owner::me(), CLUSTERS.fetch_add(1, Ordering::Relaxed));
        let dir = Dir(owner.dir().join(format!("c{number}")));
        std::fs::create_dir_all(&dir.0).map_err(|error| error.to_string())?;
        let token = format!("hw_field_{:032x}", fastrand::u128(..));
        // Other addresses than loopback need a credential before the node starts.
        let config = format!("auth:\n  tokens:\n    - name: field\n      administrator: true\n      token: {token}\n");
        // The bridge is the test's own; nobody else listens there.
        let insecure = if matches!(shape.mode, Mode::Namespaces) { "gateway:\n  insecure: true\n" } else { "" };
        std::fs::write(dir.0.join("config.yaml"), config + insecure).map_err(|error| error.to_string())?;
        let net = match shape.mode {
            Mode::Loopback => Net::loopback(owner, number),
            Mode::Namespaces => Net::bridged(owner, number)?,
        };
        let mut cluster = Self { nodes: Vec::new(), net, dir, token };
        for _ in 0..shape.nodes {
            cluster.add(shape)?;
        }
        Ok(cluster)
    }

    /// A place for one node more; its number.
    pub fn add(&mut self, shape: &Shape) -> Result<usize, String> {
        let number = self.nodes.len();
        self.net.add()?;
        let chosen = shape.binaries.iter().find(|(node, _)| *node == number).map(|(_, binary)| binary.clone());
        let binary = chosen.unwrap_or_else(|| binary::hiveward().to_owned());
        let dir = self.dir.0.join(format!("n{number}"));
        let mut node = Node::new(dir, self.net.address(number), binary, self.token.clone());
        node.env.clone_from(&shape.env);
        if let Some((_, megabytes)) = shape.disks.iter().find(|(node, _)| *node == number) {
            node.put_on_disk(*megabytes)?;
        }
        if shape.clocks {
            node.with_clock()?;
        }
        self.nodes.push(node);
        Ok(number)
    }

    /// All nodes up, each a cluster of its own.
    pub async fn apart(shape: &Shape) -> Result<Self, String> {
        let mut cluster = Self::prepare(shape)?;
        for node in 0..shape.nodes {
            cluster.spawn(node);
        }
        for node in 0..shape.nodes {
            cluster.ready(node).await;
        }
        Ok(cluster)
    }

    /// All nodes up and joined, with a leader that all of them name. None, said aloud, where this cannot be had here.
    pub async fn joined(shape: &Shape) -> Option<Self> {
        if !joins() {
            skip("this `hiveward` has no `up --join` and `token create`");
            return None;
        }
        let mut cluster = match Self::prepare(shape) {
            Ok(cluster) => cluster,
            Err(problem) => {
                skip(&problem);
                return None;
            }
        };
        cluster.spawn(0);
        cluster.ready(0).await;
        for node in 1..shape.nodes {
            cluster.join(node, 0).await;
        }
        cluster.settled().await;
        Some(cluster)
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub fn node(&self, node: usize) -> &Node {
        &self.nodes[node]
    }

    pub fn node_mut(&mut self, node: usize) -> &mut Node {
        &mut self.nodes[node]
    }

    /// The number of the node with this id.
    pub fn number(&self, id: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.id() == id)
    }

    pub fn client(&self, node: usize) -> Client {
        self.nodes[node].client()
    }

    /// A client for each node.
    pub fn clients(&self) -> Vec<Client> {
        self.nodes.iter().map(Node::client).collect()
    }

    /// Files of the test's own, on an ordinary disk.
    pub fn own_dir(&self) -> &Path {
        &self.dir.0
    }

    /// Starts the process, and does not wait for it.
    pub fn spawn(&mut self, node: usize) {
        self.spawn_with(node, &[]);
    }

    fn spawn_with(&mut self, number: usize, more: &[&str]) {
        let node = &mut self.nodes[number];
        let mut command = self.net.command(number, &node.binary);
        command.arg("up").arg("--config").arg(self.dir.0.join("config.yaml")).arg("--data-dir").arg(node.data_dir());
        command.args(["--listen", &format!("{}:{}", node.address, super::node::GATEWAY_PORT)]);
        if knows_flag("--cluster-listen") {
            command.args(["--cluster-listen", &node.cluster_address().to_string()]);
        }
        node.spawn(command_with(command, more));
    }

    /// A token for one node to join by, made on node `by`.
    pub async fn join_token(&self, by: usize) -> String {
        let ran = self.cli(by, &["token", "create", "--quiet"]).await;
        assert_eq!(ran.code, 0, "no token: {ran:?}");
        ran.out.lines().last().unwrap_or_default().trim().to_owned()
    }

    /// Starts a node for the first time, as a member of the cluster that `by` belongs to, and waits until it is ready.
    pub async fn join(&mut self, node: usize, by: usize) {
        let token = self.join_token(by).await;
        self.spawn_joining(node, by, &token);
        self.ready(node).await;
    }

    /// Starts a node with a token, and does not wait for it.
    pub fn spawn_joining(&mut self, node: usize, by: usize, token: &str) {
        let to = self.nodes[by].cluster_address().to_string();
        self.spawn_with(node, &["--join", &to, "--token", token]);
    }

    /// Waits until the node is ready; panics if it ends instead.
    pub async fn ready(&mut self, number: usize) {
        let client = self.client(number);
        let (url, node) = (format!("{}/readyz", client.url), &mut self.nodes[number]);
        until(&format!("node {number} is ready"), async || {
            if let Some(status) = node.ended() {
                panic!("node {number} ended while starting: {status}\n{}", node.log_tail(20));
            }
            let asked = client.http.get(&url).bearer_auth(&client.token).timeout(Duration::from_secs(2)).send().await;
            asked.is_ok_and(|answer| answer.status().is_success()).then_some(())
        })
        .await;
    }

    pub fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// All at once, not one after the other.
    pub fn kill_all(&mut self) {
        for node in &self.nodes {
            node.signal(Signal::SIGKILL);
        }
        self.nodes.iter_mut().for_each(Node::kill);
    }

    pub fn freeze(&mut self, node: usize) {
        self.nodes[node].freeze();
    }

    pub fn thaw(&mut self, node: usize) {
        self.nodes[node].thaw();
    }

    /// SIGTERM, and the exit status.
    pub async fn stop(&mut self, number: usize) -> ExitStatus {
        let node = &mut self.nodes[number];
        node.signal(Signal::SIGTERM);
        until(&format!("node {number} stops"), async || node.ended()).await
    }

    /// Starts it over the same data and waits until it is ready.
    pub async fn start_again(&mut self, node: usize) {
        self.spawn(node);
        self.ready(node).await;
    }

    /// SIGTERM, then start.
    pub async fn restart(&mut self, node: usize) {
        self.stop(node).await;
        self.start_again(node).await;
    }

    /// What a node says of the cluster; none if it does not answer.
    pub async fn said(&self, node: usize) -> Option<Said> {
        said(&self.client(node)).await
    }

    /// Waits until all `nodes` name the same leader, which is one of them; its number.
    pub async fn leader_among(&self, nodes: &[usize], patience: Duration) -> usize {
        until_within(patience, &format!("nodes {nodes:?} agree on a leader among them"), async || {
            let mut named = Vec::new();
            for node in nodes {
                named.push(self.said(*node).await?.leader?);
            }
            named.dedup();
            let leader = self.number(&named[0])?;
            (named.len() == 1 && nodes.contains(&leader)).then_some(leader)
        })
        .await
    }

    pub async fn leader(&self) -> usize {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.leader_among(&all, crate::PATIENCE).await
    }

    /// Waits until all nodes run, know each other, agree on a leader, and as many vote as should.
    pub async fn settled(&mut self) {
        let voters = match self.nodes.len() {
            0..3 => 1,
            _ => 3,
        };
        for node in 0..self.nodes.len() {
            self.ready(node).await;
        }
        self.leader().await;
        until(&format!("all {} nodes know and hear each other and {voters} vote", self.nodes.len()), async || {
            for node in 0..self.nodes.len() {
                let said = self.said(node).await?;
                if said.nodes.len() < self.nodes.len() || said.voters.len() < voters {
                    return None;
                }
            }
            // All three lanes to each of the others.
            (fewest_links(&self.client(0)).await? >= 3 * (self.nodes.len() - 1)).then_some(())
        })
        .await;
    }

    /// Runs the command line against a node, in the version that the node has.
    pub async fn cli(&self, node: usize, args: &[&str]) -> Ran {
        let client = self.client(node);
        crate::hive::command_line(&self.nodes[node].binary, &client.url, &client.token, args, &[]).await
    }
}

/// What a node says of the cluster; none if it does not answer within seconds.
pub async fn said(client: &Client) -> Option<Said> {
    let query = "{cluster{leader{id} term voters{id} nodes{id}}}";
    let asked = tokio::time::timeout(Duration::from_secs(3), client.call(query, json!({}))).await;
    let cluster = asked.ok()?.ok()?["cluster"].take();
    let id = |node: &Value| node["id"].as_str().map(str::to_owned);
    let ids = |nodes: &Value| nodes.as_array().into_iter().flatten().filter_map(id).collect();
    let term = cluster["term"].as_u64().or_else(|| cluster["term"].as_str()?.parse().ok()).unwrap_or_default();
    Some(Said { leader: id(&cluster["leader"]), term, voters: ids(&cluster["voters"]), nodes: ids(&cluster["nodes"]) })
}

/// Of all nodes the one with the fewest has so many, by its own word.
async fn fewest_links(client: &Client) -> Option<usize> {
    let query = "{cluster{nodes{links{up}}}}";
    let mut asked = tokio::time::timeout(Duration::from_secs(3), client.call(query, json!({}))).await.ok()?.ok()?;
    let up = |node: &Value| node["links"].as_array().into_iter().flatten().filter(|link| link["up"] == true).count();
    asked["cluster"]["nodes"].take().as_array()?.iter().map(up).min()
}

fn command_with(mut command: Command, more: &[&str]) -> Command {
    command.args(more);
    command
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (number, node) in self.nodes.iter().enumerate() {
                eprintln!("the last lines of node {number} ({}):\n{}", node.id(), node.log_tail(25));
            }
        }
        self.kill_all();
    }
}
