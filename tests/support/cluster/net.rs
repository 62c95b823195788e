//! The network between the nodes of one cluster: a namespace each, joined by a bridge; or just loopback addresses.
//!
//! Faults are set inside the namespaces only: the machine's own firewall is never touched.

use std::{
    io::Read,
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use super::owner::{Owner, Subnet};
use crate::mount::run;

/// The bridge's own address, from which the test's clients come.
const CLIENTS: u8 = 254;

/// On connections that a relay makes: they are not redirected to it again.
pub const RELAY_MARK: u32 = 0x4857;
const RELAY_PORT: &str = "7702";

/// A program of this package, beside the test.
pub(super) fn helper(name: &str) -> std::path::PathBuf {
    let test = std::env::current_exe().unwrap();
    // target/PROFILE/deps/this → target/PROFILE/name
    test.parent().and_then(std::path::Path::parent).expect("a test lives in target/PROFILE/deps").join(name)
}

/// Whether nodes can have a namespace each, and be cut from each other.
pub fn may_partition() -> bool {
    let found = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|ran| ran.status.success());
    nix::unistd::geteuid().is_root()
        && Command::new("ip").arg("-V").output().is_ok_and(|ran| ran.status.success())
        && found("iptables")
        && found("nsenter")
}

pub struct Net {
    owner: Owner,
    cluster: u32,
    subnet: Subnet,
    /// None: loopback addresses, which cannot be cut.
    bridge: Option<String>,
    nodes: usize,
    relays: Mutex<Vec<Child>>,
}

impl Net {
    pub(super) fn loopback(owner: Owner, cluster: u32) -> Self {
        Self { owner, cluster, subnet: Subnet::take(), bridge: None, nodes: 0, relays: Mutex::default() }
    }

    pub(super) fn bridged(owner: Owner, cluster: u32) -> Result<Self, String> {
        let bridge = owner.link(&format!("b{cluster}"));
        // Made before its name is used: what fails halfway is removed by the drop.
        let net =
            Self { owner, cluster, subnet: Subnet::take(), bridge: Some(bridge.clone()), nodes: 0, relays: Mutex::default() };
        run("ip", &["link", "add", &bridge, "type", "bridge"])?;
        run("ip", &["link", "set", &bridge, "alias", &owner.alias()])?;
        run("ip", &["address", "add", &format!("{}/24", net.clients_address()), "dev", &bridge])?;
        run("ip", &["link", "set", &bridge, "up"])?;
        Ok(net)
    }

    pub fn is_bridged(&self) -> bool {
        self.bridge.is_some()
    }

    fn clients_address(&self) -> Ipv4Addr {
        self.subnet.address(false, CLIENTS)
    }

    /// Node `n` counts from 0.
    pub fn address(&self, node: usize) -> Ipv4Addr {
        self.subnet.address(!self.is_bridged(), u8::try_from(node + 1).expect("at most 253 nodes"))
    }

    fn namespace(&self, node: usize) -> String {
        self.owner.namespace(self.cluster, node)
    }

    fn veth(&self, node: usize) -> String {
        self.owner.link(&format!("{}n{node}", self.cluster))
    }

    /// Makes the next node's place.
    pub(super) fn add(&mut self) -> Result<(), String> {
        let node = self.nodes;
        self.nodes += 1;
        let Some(bridge) = &self.bridge else { return Ok(()) };
        let (namespace, veth) = (self.namespace(node), self.veth(node));
        run("ip", &["netns", "add", &namespace])?;
        run("ip", &["link", "add", &veth, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
        run("ip", &["link", "set", &veth, "alias", &self.owner.alias()])?;
        run("ip", &["link", "set", &veth, "master", bridge, "up"])?;
        let inside = |args: &[&str]| run("ip", &[&["-n", namespace.as_str()], args].concat());
        inside(&["link", "set", "lo", "up"])?;
        inside(&["address", "add", &format!("{}/24", self.address(node)), "dev", "eth0"])?;
        inside(&["link", "set", "eth0", "up"])
    }

    /// A command that runs where the node runs. It becomes the program: same process id, same mounts and cgroups.
    pub fn command(&self, node: usize, program: &std::path::Path) -> Command {
        if !self.is_bridged() {
            return Command::new(program);
        }
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace(node))).arg("--").arg(program);
        command
    }

    fn inside(&self, node: usize, program: &str, args: &[&str]) {
        assert!(self.is_bridged(), "only nodes in namespaces can be cut or slowed");
        let namespace = format!("--net=/run/netns/{}", self.namespace(node));
        run("nsenter", &[&[namespace.as_str(), "--", program], args].concat()).unwrap();
    }

    fn firewall(&self, node: usize, args: &[&str]) {
        self.inside(node, "iptables", &[&["-w", "10"], args].concat());
    }

    /// `to` no longer hears `from`; what `to` says still arrives.
    pub fn cut_one_way(&self, from: usize, to: usize) {
        self.firewall(to, &["-A", "INPUT", "-s", &self.address(from).to_string(), "-j", "DROP"]);
    }

    /// Neither hears the other; both still hear everybody else.
    pub fn cut(&self, one: usize, other: usize) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// No node of one side hears any of the other.
    pub fn split(&self, side: &[usize], others: &[usize]) {
        for one in side {
            for other in others {
                self.cut(*one, *other);
            }
        }
    }

    /// Cut from all other nodes; clients still reach it.
    pub fn isolate(&self, node: usize) {
        let others: Vec<usize> = (0..self.nodes).filter(|other| *other != node).collect();
        self.split(&[node], &others);
    }

    /// The test's clients no longer reach it.
    pub fn cut_clients(&self, node: usize) {
        self.firewall(node, &["-A", "INPUT", "-s", &self.clients_address().to_string(), "-j", "DROP"]);
    }

    /// Of all packets that reach the node from other nodes, `percent` get lost.
    pub fn lose(&self, node: usize, percent: u8) {
        let probability = format!("{:.2}", f64::from(percent) / 100.0);
        let clients = self.clients_address().to_string();
        let matching = ["-m", "statistic", "--mode", "random", "--probability", &probability];
        self.firewall(node, &[&["-A", "INPUT", "!", "-s", &clients], &matching[..], &["-j", "DROP"]].concat());
    }

    /// What the node sends takes at most `kilobits` a second.
    pub fn throttle(&self, node: usize, kilobits: u32) {
        let rate = format!("{kilobits}kbit");
        self.inside(
            node,
            "tc",
            &["qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", &rate, "burst", "32kb", "latency", "400ms"],
        );
    }

    /// What connections of nodes to cluster ports carry takes `ms` longer each way. Only for connections made from now on.
    pub fn delay(&self, ms: u32) {
        let mark = RELAY_MARK.to_string();
        for node in 0..self.nodes {
            let mut command = self.command(node, &helper("hiveward-tests-relay"));
            command.args([RELAY_PORT, &ms.to_string()]).env("FIELD_OWNER", self.owner.label());
            let mut relay = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
            relay.stdout.take().unwrap().read_exact(&mut [0; 5]).expect("the relay gets ready");
            self.relays.lock().unwrap().push(relay);
            let to_cluster_ports = ["-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "7701"];
            let of_others = ["-m", "mark", "!", "--mark", &mark, "-j", "REDIRECT", "--to-ports", RELAY_PORT];
            self.firewall(node, &[&to_cluster_ports[..], &of_others].concat());
        }
    }

    /// Ends the delay, and with it the connections that had it.
    fn end_delay(&self) {
        let mut relays = self.relays.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for mut relay in relays.drain(..) {
            let _ = relay.kill();
            let _ = relay.wait();
        }
    }

    /// The cable is pulled.
    pub fn unplug(&self, node: usize) {
        run("ip", &["link", "set", &self.veth(node), "down"]).unwrap();
    }

    pub fn plug(&self, node: usize) {
        run("ip", &["link", "set", &self.veth(node), "up"]).unwrap();
    }

    /// Everybody hears everybody again, at full speed.
    pub fn heal(&self) {
        let delayed = !self.relays.lock().unwrap().is_empty();
        self.end_delay();
        for node in 0..self.nodes {
            if delayed {
                self.firewall(node, &["-t", "nat", "-F", "OUTPUT"]);
            }
            self.firewall(node, &["-F", "INPUT"]);
            self.plug(node);
            let namespace = format!("--net=/run/netns/{}", self.namespace(node));
            // There is nothing to remove where nothing was throttled.
            let _ = run("nsenter", &[&namespace, "--", "tc", "qdisc", "del", "dev", "eth0", "root"]);
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.end_delay();
        let Some(bridge) = &self.bridge else { return };
        for node in 0..self.nodes {
            // Its end of the pair first: a namespace goes only after its last process and socket.
            let _ = run("ip", &["link", "del", &self.veth(node)]);
            let _ = run("ip", &["netns", "del", &self.namespace(node)]);
        }
        let _ = run("ip", &["link", "del", bridge]);
    }
}
