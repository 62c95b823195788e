//! Networks of real guests: who answers whose ping, on one host and over two.

use serde_json::{Value, json};

use crate::lab::Scene;

/// More than either tenant's guests are given: one that a guest takes for itself, so that no other tenant's has it.
const OWN: &str = "10.77.0.50";

impl Scene {
    async fn on(&self, name: &str, host: &str, network: &str) {
        let args = ["vm", "create", name, "--image", "guest", "--memory", "128MiB", "--network", network, "--on", host];
        self.ok(&args).await;
    }

    async fn at(&self, name: &str) -> usize {
        let host = self.vm(name).await["host"]["name"].take();
        host.as_str().and_then(|name| name.strip_prefix('h')).unwrap().parse().unwrap()
    }

    async fn shell(&self, name: &str, line: &str) -> String {
        let host = self.at(name).await;
        self.until(&format!("{name} to run {line:?}"), async || self.lab.in_guest(host, name, &["/bin/sh", "-c", line])).await
    }

    /// Whether one of three pings is answered.
    async fn pings(&self, name: &str, address: &str) -> bool {
        let said = self.shell(name, &format!("ping -c 3 -W 1 {address} >/dev/null 2>&1 && echo answered || echo silent")).await;
        assert!(["answered", "silent"].contains(&&*said), "{name}: {said:?}");
        said == "answered"
    }

    /// The address that the cluster gave it, which its guest has taken.
    async fn given(&self, name: &str) -> String {
        let vm = self.vm(name).await;
        let address = vm["networkAddresses"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
        let has = self.shell(name, &format!("ip addr | grep -c '{address}/24'")).await;
        assert_eq!(has, "1", "{name} was given {address} and has not taken it: {vm}");
        address
    }

    /// Until a host has just these devices of ours.
    async fn devices(&self, host: usize, wanted: &[String]) {
        let what = format!("h{host} to have the devices {wanted:?}, not {:?}", self.lab.devices(host));
        self.until(&what, async || (self.lab.devices(host) == wanted).then_some(())).await;
    }
}

/// Names of the devices of overlays with these numbers.
fn made(numbers: &[&Value]) -> Vec<String> {
    let mut all: Vec<_> = numbers.iter().flat_map(|n| [format!("hwb{n}"), format!("hwx{n}")]).collect();
    all.sort();
    all
}

#[tokio::test]
async fn a_tenants_guests_reach_each_other_over_hosts_and_never_another_tenants() {
    let scene = Scene::set(2, |lab, host| {
        vec!["--pool".into(), lab.shared(), "--pool-shared".into(), "--underlay".into(), lab.underlay(host)]
    })
    .await;
    for tenant in ["red", "blue"] {
        scene.ok(&["network", "create", tenant, "--kind", "overlay", "--cidr", "10.77.0.0/24"]).await;
    }
    let red = scene.json(&["network", "show", "red"]).await["vni"].take();
    let blue = scene.json(&["network", "show", "blue"]).await["vni"].take();
    for (name, host, network) in [("red1", "h1", "red"), ("blue1", "h1", "blue"), ("red2", "h2", "red"), ("blue2", "h2", "blue")]
    {
        scene.on(name, host, network).await;
    }
    for name in ["red1", "blue1", "red2", "blue2"] {
        scene.answers(name).await;
    }
    // The same addresses in both, as each tenant has them for itself.
    assert_eq!(scene.given("red1").await, scene.given("blue1").await);
    assert_eq!(scene.given("red2").await, scene.given("blue2").await);
    scene.shell("red1", &format!("ip addr add {OWN}/24 dev eth0")).await;

    scene.until("red's guests to reach each other over two hosts", async || scene.pings("red2", OWN).await.then_some(())).await;
    let first = scene.given("blue1").await;
    scene.until("blue's guests to reach each other", async || scene.pings("blue2", &first).await.then_some(())).await;
    for other in ["blue1", "blue2"] {
        assert!(!scene.pings(other, OWN).await, "{other} reaches a guest of another tenant");
    }
    for host in [1, 2] {
        assert_eq!(scene.lab.devices(host), made(&[&red, &blue]));
        // What is broadcast goes to the other host and nowhere else.
        let entries = scene.lab.on_host(host, &["bridge", "fdb", "show", "dev", &format!("hwx{red}")]);
        let peers: Vec<_> = entries.lines().filter(|line| line.starts_with("00:00:00:00:00:00")).collect();
        assert!(peers.len() == 1 && peers[0].contains(&scene.lab.underlay(3 - host)), "{entries}");
    }
    let refused = scene.run(&["network", "remove", "red"]).await;
    assert!(refused.code != 0 && refused.err.contains("detach or remove them first"), "{}", refused.err);

    // It takes its place on the network along.
    scene.ok(&["vm", "migrate", "red1", "--to", "h2"]).await;
    assert!(scene.pings("red2", OWN).await, "who moved is not found on the same host");
    scene.devices(1, &made(&[&blue])).await;
    scene.ok(&["vm", "migrate", "red2", "--to", "h1"]).await;
    assert!(scene.pings("red2", OWN).await, "who moved is not found over two hosts");
    for other in ["blue1", "blue2"] {
        assert!(!scene.pings(other, OWN).await, "{other} reaches a guest of another tenant after it moved");
    }

    for name in ["red1", "red2", "blue1", "blue2"] {
        scene.ok(&["vm", "remove", name, "--force"]).await;
    }
    for tenant in ["red", "blue"] {
        scene.ok(&["network", "remove", tenant]).await;
    }
    for host in [1, 2] {
        scene.devices(host, &[]).await;
    }
    assert_eq!(scene.json(&["network", "list"]).await, json!([]));
    scene.nothing_left(2).await;
}

#[tokio::test]
async fn a_guest_is_on_the_network_of_its_kind_and_what_is_not_ours_is_left_alone() {
    let scene = Scene::set(1, |lab, host| vec!["--underlay".into(), lab.underlay(host)]).await;
    // Somebody else's, under names that ours could have.
    scene.lab.on_host(1, &["ip", "link", "add", "hwb4096", "type", "bridge"]);
    scene.ok(&["network", "create", "lan", "--kind", "bridge", "--bridge", "br0"]).await;
    scene.ok(&["network", "create", "out", "--kind", "nat", "--cidr", "10.99.0.0/24"]).await;
    scene.ok(&["network", "create", "den", "--kind", "isolated"]).await;
    let vni = scene.json(&["network", "create", "red", "--kind", "overlay", "--cidr", "10.77.0.0/24"]).await["vni"].take();
    let later = vni.as_u64().unwrap() + 1;
    scene.ok(&["network", "create", "taken", "--kind", "overlay"]).await;
    scene.lab.on_host(1, &["ip", "link", "add", &format!("hwb{later}"), "type", "bridge"]);

    // By the lab's DHCP, by libvirt's.
    scene.on("on-lan", "h1", "lan").await;
    scene.on("on-nat", "h1", "out").await;
    for name in ["on-lan", "on-nat"] {
        scene.answers(name).await;
    }
    let leased = scene.shell("on-nat", "ip addr show eth0 | sed -n 's/.*inet \\([0-9.]*\\).*/\\1/p'").await;
    assert!(leased.starts_with("10.99.0."), "{leased}");
    assert!(scene.pings("on-nat", "10.99.0.1").await, "its way out does not answer");
    // Alone with another, by addresses that they take themselves.
    for (name, address) in [("on-lan", "10.55.0.1"), ("on-nat", "10.55.0.2")] {
        scene.ok(&["vm", "attach-network", name, "den"]).await;
        let take = format!(
            "for n in 1 2 3 4 5 6 7 8; do [ -e /sys/class/net/eth1 ] && break; sleep 1; done; ip addr add {address}/24 dev eth1 && ip link set eth1 up && echo taken"
        );
        assert_eq!(scene.shell(name, &take).await, "taken");
    }
    scene.until("guests of one host to meet", async || scene.pings("on-lan", "10.55.0.2").await.then_some(())).await;

    // Begun by a driver that was killed amid it.
    scene.lab.on_host(1, &["ip", "link", "add", &format!("hwb{vni}"), "group", "26743", "type", "bridge"]);
    // An overlay that is attached while the guest runs has a card and an address that is told, and goes again.
    scene.ok(&["vm", "attach-network", "on-lan", "red"]).await;
    let vm = scene.vm("on-lan").await;
    let red = vm["networkAddresses"].as_array().unwrap().iter().find(|one| one["network"] == "red").unwrap();
    assert_eq!(red["address"], "10.77.0.2/24");
    let mac = red["mac"].as_str().unwrap();
    let seen = format!("cat /sys/class/net/eth*/address | grep -c {mac}; cat /sys/class/net/eth2/mtu");
    scene.until("the guest to see its card", async || (scene.shell("on-lan", &seen).await == "1\n1450").then_some(())).await;
    let quiet = scene.lab.on_host(1, &["ip", "-o", "addr", "show", "dev", &format!("hwb{vni}")]);
    assert_eq!(quiet, "", "the host has an address on a tenant's network");
    scene.ok(&["vm", "detach-network", "on-lan", "red"]).await;

    // What stands where a network is to be is not touched, and said.
    let refused = scene.run(&["vm", "attach-network", "on-lan", "taken"]).await;
    assert!(refused.code != 0 && refused.err.contains("that is not Hiveward's"), "{}{}", refused.out, refused.err);

    for name in ["on-lan", "on-nat"] {
        scene.ok(&["vm", "remove", name, "--force"]).await;
    }
    scene.devices(1, &["hwb4096".into(), format!("hwb{later}")]).await;
    for network in ["lan", "out", "den", "red", "taken"] {
        scene.ok(&["network", "remove", network]).await;
    }
    scene.nothing_left(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_removed_right_after_its_last_vm_keeps_nothing_that_was_made_on_it() {
    let scene = Scene::set(1, |lab, host| vec!["--underlay".into(), lab.underlay(host)]).await;
    scene.ok(&["network", "create", "red", "--kind", "overlay", "--cidr", "10.77.0.0/24"]).await;
    scene.ok(&["network", "create", "out", "--kind", "nat", "--cidr", "10.99.0.0/24"]).await;
    let (uri, underlay) = (scene.lab.uri(1), scene.lab.underlay(1));
    for round in 0..3 {
        scene.on("web", "h1", "red").await;
        scene.ok(&["vm", "attach-network", "web", "out"]).await;
        assert!(scene.lab.devices(1).len() >= 3, "{:?}", scene.lab.devices(1));
        scene.ok(&["vm", "remove", "web", "--force"]).await;
        scene.ok(&["host", "remove", "h1"]).await;
        // Now, and not at some later look: nobody looks there any more.
        assert_eq!(scene.lab.devices(1), Vec::<String>::new(), "round {round}");
        assert_eq!(scene.lab.images_of(1), Vec::<String>::new(), "round {round}");
        scene.ok(&["host", "add", &uri, "--name", "h1", "--underlay", &underlay]).await;
    }
    scene.nothing_left(1).await;
}
