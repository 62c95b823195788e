//! Promise of the test cluster itself: its faults are real, they end with `heal`, and nothing of it is left behind.

use std::{
    io::Read,
    process::{Command, Stdio},
    time::Duration,
};

use hiveward_tests::{
    Client,
    cluster::{Cluster, Mode, Owner, Shape, may_partition, sweep::Left},
    skip, until,
};
use serde_json::json;

/// Set in the process that is to leave a mess.
const ROLE: &str = "FIELD_ROLE";

fn namespaces() -> Option<Shape> {
    if may_partition() {
        return Some(Shape::of(2).disk(1, 192));
    }
    skip("nodes in namespaces need root, iproute2 and iptables");
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_start_are_killed_frozen_stopped_and_started_again_in_both_modes() {
    for mode in [Mode::Loopback, Mode::Namespaces] {
        if mode == Mode::Namespaces && !may_partition() {
            skip("nodes in namespaces need root, iproute2 and iptables");
            continue;
        }
        let mut cluster = Cluster::apart(&Shape::of(2).mode(mode)).await.unwrap();
        assert_ne!(cluster.node(0).id(), cluster.node(1).id());
        for node in 0..2 {
            let said = cluster.said(node).await.unwrap();
            assert_eq!(said.leader, Some(cluster.node(node).id()), "{mode:?}");
            assert_eq!(cluster.number(&said.nodes[0]), Some(node));
        }
        assert!(cluster.node(0).resident_bytes().unwrap() > 1 << 20);
        assert!(cluster.node(0).descriptors().unwrap() > 3);
        let id = cluster.node(0).id();
        cluster.kill(0);
        assert!(cluster.said(0).await.is_none());
        cluster.start_again(0).await;
        assert_eq!(cluster.node(0).id(), id, "the same node over the same data");
        cluster.freeze(1);
        assert!(cluster.said(1).await.is_none(), "it stands still");
        cluster.thaw(1);
        assert!(cluster.said(1).await.is_some());
        assert!(cluster.stop(1).await.success());
        cluster.start_again(1).await;
    }
}

/// Whether a connection from one node's place to another's gateway comes about.
async fn hears(cluster: &Cluster, from: usize, to: usize) -> bool {
    let script = format!("exec 3<>/dev/tcp/{}/7700", cluster.node(to).address());
    let mut command = cluster.net.command(from, "timeout".as_ref());
    command.args(["0.5", "bash", "-c", &script]).stdout(Stdio::null()).stderr(Stdio::null());
    tokio::task::spawn_blocking(move || command.status().unwrap().success()).await.unwrap()
}

/// Whether a datagram from one arrives at the other. Unlike a connection, it needs one direction only.
async fn reaches(cluster: &Cluster, from: usize, to: usize) -> bool {
    let address = cluster.node(to).address();
    let listen = format!(
        "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.bind(('{address}',7999))\nprint('ready',flush=True)\ns.settimeout(1)\ntry:\n s.recv(9);print('heard')\nexcept TimeoutError:\n print('nothing')"
    );
    let mut command = cluster.net.command(to, "python3".as_ref());
    let mut listener = command.args(["-c", &listen]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = listener.stdout.take().unwrap();
    let mut first = [0; 6];
    out.read_exact(&mut first).unwrap();
    let send = format!("import socket\nsocket.socket(socket.AF_INET,socket.SOCK_DGRAM).sendto(b'x',('{address}',7999))");
    assert!(cluster.net.command(from, "python3".as_ref()).args(["-c", &send]).status().unwrap().success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    listener.wait().unwrap();
    rest.contains("heard")
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_are_symmetric_one_way_or_partial_as_asked_and_heal() {
    if !may_partition() {
        return skip("cuts need root, iproute2 and iptables");
    }
    let cluster = Cluster::apart(&Shape::of(3).mode(Mode::Namespaces)).await.unwrap();
    assert!(hears(&cluster, 0, 1).await && hears(&cluster, 1, 2).await && hears(&cluster, 2, 0).await);
    // Partial: two that do not hear each other, and a third that both hear.
    cluster.net.cut(0, 1);
    assert!(!hears(&cluster, 0, 1).await && !hears(&cluster, 1, 0).await);
    assert!(hears(&cluster, 0, 2).await && hears(&cluster, 2, 1).await);
    cluster.net.heal();
    assert!(hears(&cluster, 0, 1).await);
    // One way.
    cluster.net.cut_one_way(0, 1);
    assert!(!reaches(&cluster, 0, 1).await, "0 does not reach 1");
    assert!(reaches(&cluster, 1, 0).await, "1 reaches 0");
    cluster.net.heal();
    assert!(reaches(&cluster, 0, 1).await);
    // Alone, and yet its clients reach it.
    cluster.net.isolate(2);
    assert!(!hears(&cluster, 2, 0).await && !hears(&cluster, 1, 2).await && hears(&cluster, 0, 1).await);
    assert!(cluster.said(2).await.is_some());
    cluster.net.cut_clients(2);
    assert!(cluster.said(2).await.is_none());
    cluster.net.heal();
    assert!(cluster.said(2).await.is_some() && hears(&cluster, 1, 2).await);
    cluster.net.unplug(1);
    assert!(!hears(&cluster, 0, 1).await);
    cluster.net.plug(1);
    until("the cable is back", async || hears(&cluster, 0, 1).await.then_some(())).await;
    cluster.net.lose(1, 100);
    assert!(!hears(&cluster, 0, 1).await);
    cluster.net.heal();
    cluster.net.throttle(1, 1000);
    assert!(hears(&cluster, 0, 1).await);
    cluster.net.heal();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_between_nodes_is_as_long_as_asked_and_ends() {
    if !may_partition() {
        return skip("delays need root, iproute2 and iptables");
    }
    let cluster = Cluster::prepare(&Shape::of(2).mode(Mode::Namespaces)).unwrap();
    let address = cluster.node(1).address();
    let echo = format!(
        "import socket\ns=socket.socket();s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)\ns.bind(('{address}',7701));s.listen();print('ready',flush=True)\nwhile True:\n c,a=s.accept();print(a[0],flush=True);c.sendall(c.recv(9));c.close()"
    );
    let mut listener = cluster.net.command(1, "python3".as_ref());
    let mut listener = listener.args(["-c", &echo]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = std::io::BufRead::lines(std::io::BufReader::new(listener.stdout.take().unwrap()));
    assert_eq!(said.next().unwrap().unwrap(), "ready");
    let ask = format!(
        "import socket,time\nt=time.time();s=socket.create_connection(('{address}',7701));s.sendall(b'x');assert s.recv(9)==b'x';print(time.time()-t)"
    );
    let round_trip = || {
        let ran = cluster.net.command(0, "python3".as_ref()).args(["-c", &ask]).output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8_lossy(&ran.stdout).trim().parse::<f64>().unwrap()
    };
    assert!(round_trip() < 0.1);
    cluster.net.delay(150);
    let delayed = round_trip();
    assert!((0.3..0.5).contains(&delayed), "{delayed} s");
    cluster.net.heal();
    assert!(round_trip() < 0.1);
    for _ in 0..3 {
        assert_eq!(said.next().unwrap().unwrap(), cluster.node(0).address().to_string(), "still from its own address");
    }
    listener.kill().unwrap();
    listener.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_fill_and_clocks_move_for_one_node_only() {
    let Some(shape) = namespaces() else { return };
    let shape = shape.clocks();
    let cluster = match Cluster::apart(&shape).await {
        Ok(cluster) => cluster,
        Err(problem) => return skip(&problem),
    };
    let made_at = async |client: &Client| {
        let id = client.submit(json!({ "command": { "argv": ["true"] } })).await;
        let task = client.ended(&id).await;
        assert_eq!(task["status"], "SUCCEEDED");
        let query = "query($id:ID!){node(id:$id){...on Task{createdAt}}}";
        client.ok(query, json!({ "id": id })).await["node"]["createdAt"].as_str().unwrap().to_owned()
    };
    let (one, other) = (cluster.client(0), cluster.client(1));
    cluster.node(0).set_clock(48 * 3600);
    let (ahead, now) = (made_at(&one).await, made_at(&other).await);
    assert!(ahead[..10] > now[..10], "{ahead} is two days after {now}");
    cluster.node(1).fill_disk();
    let submit = json!({ "i": { "command": { "argv": ["true"] } } });
    until("a write is refused on the full disk", async || other.call(hiveward_tests::client::SUBMIT, submit.clone()).await.err())
        .await;
    made_at(&one).await;
    cluster.node(1).empty_disk();
    until("there is room again", async || other.call(hiveward_tests::client::SUBMIT, submit.clone()).await.ok()).await;
}

/// Not a test: what the next ones start in a process of its own, as FIELD_ROLE says.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "leaves a mess on purpose; started by the tests of what is left"]
async fn leaves_a_mess() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let cluster = Cluster::apart(&Shape::of(2).mode(Mode::Namespaces).disk(1, 192)).await.unwrap();
    // An agent with a program that outlives its node.
    let task = json!({ "command": { "argv": ["sh", "-c", "setsid sleep 1000 & sleep 1000"] } });
    for client in cluster.clients() {
        let id = client.submit(task.clone()).await;
        until("it runs", async || (client.task(&id).await["status"] == "RUNNING").then_some(())).await;
    }
    cluster.net.isolate(1);
    let left = Left::of(Owner::me());
    assert!(left.processes.len() >= 2 && left.namespaces.len() == 2 && left.links.len() >= 3, "{left:?}");
    assert!(left.mounts.len() == 1 && left.dir.is_some(), "{left:?}");
    println!("MESS {}", Owner::me().label());
    match role.as_str() {
        "panic" => panic!("as asked"),
        "wait" => std::future::pending().await,
        role => panic!("{role}?"),
    }
}

/// Starts the mess in a process of its own; its owner once all of it is there.
fn mess(role: &str) -> (std::process::Child, Owner) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["field::leaves_a_mess", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    let mut child = command.env(ROLE, role).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let label = lines.find_map(|line| Some(line.ok()?.split_once("MESS ")?.1.to_owned())).expect("it makes its mess");
    std::thread::spawn(move || lines.for_each(drop));
    (child, Owner::parse(&label).unwrap())
}

async fn nothing_is_left_of(owner: Owner) {
    hiveward_tests::until_within(Duration::from_secs(20), "nothing is left", async || {
        let left = Left::of(owner);
        if !left.is_empty() {
            eprintln!("{left:?}");
        }
        left.is_empty().then_some(())
    })
    .await;
    let sleeping = Command::new("sh").arg("-c").arg("cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'").output().unwrap();
    let path = owner.dir().to_str().unwrap().to_owned();
    let text = String::from_utf8_lossy(&sleeping.stdout).into_owned();
    assert!(!text.contains(&path), "a process of an agent is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_that_panics_leaves_no_process_namespace_link_mount_or_file() {
    if !may_partition() {
        return skip("namespaces need root, iproute2 and iptables");
    }
    let (mut child, owner) = mess("panic");
    assert!(!child.wait().unwrap().success(), "it panics");
    // The process itself has removed all of it, before it ended.
    assert_eq!(Left::of(owner), Left::default());
    nothing_is_left_of(owner).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_that_is_killed_leaves_nothing_for_long() {
    if !may_partition() {
        return skip("namespaces need root, iproute2 and iptables");
    }
    let (mut child, owner) = mess("wait");
    assert!(!Left::of(owner).is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    nothing_is_left_of(owner).await;
}
