//! Hosts and VMs as users meet them: the command line and the API of one node with simulated hypervisors.

use std::time::Duration;

use hiveward_gateway::metered;
use hiveward_machines::host::driver::{Usage, simulated::Hypervisor};
use serde_json::{Value, json};

use crate::{
    cli::hiveward,
    support::{node::TestNode, soon_within},
};

const FILE: &str = "
parameters:
  image: debian-12
  source:
hosts:
  - {name: alpha, uri: 'simulated://apply-alpha', zone: a, labels: [{key: disk, value: ssd}]}
  - {name: beta, uri: 'simulated://apply-beta', zone: b}
images:
  - {name: debian-12, source: '${source}'}
networks:
  - {name: inside, kind: isolated}
vms:
  - {name: web, count: 2, image: '${image}', cpus: 2, memory: 2GiB, disks: [{name: root, size: 10GiB}], antiAffinity: [web]}
  - {name: db, image: '${image}', cpus: 4, memory: 8GiB, hostLabels: [{key: disk, value: ssd}], start: false}
";

#[tokio::test(flavor = "multi_thread")]
async fn hosts_and_vms_are_made_commanded_and_removed_from_the_command_line() {
    let node = TestNode::start().await;
    for (args, code, shown) in [
        (vec!["host", "list"], 0, ""),
        (vec!["vm", "create", "early", "--image", "debian-12"], 5, "no host is eligible"),
        (vec!["host", "add", "simulated://cli-one", "--zone", "a"], 0, "cli-one UP"),
        (vec!["host", "add", "simulated://cli-one"], 5, "already"),
        (vec!["host", "add", "simulated://cli-two?cpus=2", "--name", "two", "--cpu-overcommit", "1"], 0, "two UP"),
        (vec!["host", "add", "gopher://x"], 2, "gopher"),
        (vec!["host", "list"], 0, "simulated://cli-one"),
        (vec!["host", "show", "two"], 0, "cpuOvercommit: 1.0"),
        (vec!["host", "show", "three"], 3, "there is no host three"),
        (vec!["vm", "create", "a", "--image", "debian-12", "--cpus", "2", "--memory", "2GiB", "--disk", "10GiB"], 0, "a RUNNING"),
        (vec!["vm", "create", "a", "--image", "debian-12"], 5, "already"),
        (vec!["vm", "create", "b", "--image", "debian-12", "--on", "two"], 0, "b RUNNING"),
        (vec!["vm", "create", "c", "--image", "debian-12", "--on", "two", "--cpus", "4"], 5, "one has too little free CPU"),
        (vec!["host", "select", "--on", "two"], 0, "is not the host that was named"),
        (vec!["host", "select", "--cpus", "400"], 5, "2 has too little free CPU"),
        (vec!["host", "select", "--on", "nobody"], 3, "nobody"),
        (vec!["-q", "host", "select", "--zone", "a"], 0, "host_"),
        (vec!["host", "rebalance", "--plan"], 0, "nothing is due: the fullest host is"),
        (vec!["host", "rebalance", "--hold", "0", "--threshold", "1%"], 0, "b has moved"),
        (vec!["host", "rebalance", "--hold", "0", "--margin", "0"], 2, "margin"),
        (vec!["vm", "migrate", "b", "--to", "two"], 0, "b RUNNING"),
        (vec!["host", "evacuate", "two", "--plan"], 0, "cli-one"),
        (vec!["host", "plan"], 0, "hosts for 2 VMs: 1 by annealing, now 2; no plan needs fewer than 1; the best there is: 1"),
        (vec!["host", "plan", "--solver", "exact", "--qubo"], 0, "a on cli-one"),
        (vec!["vm", "stats", "a"], 0, "none"),
        (vec!["host", "stats", "two"], 0, "CPUs"),
        (vec!["vm", "create", "d", "--image", "missing"], 5, "missing"),
        (vec!["vm", "list", "--status", "running"], 0, "2GiB"),
        (vec!["vm", "list", "--host", "two"], 0, "b"),
        (vec!["vm", "show", "d"], 0, "failure: there is no image"),
        (vec!["vm", "show", "nobody"], 3, "there is no VM nobody"),
        (vec!["vm", "pause", "a"], 0, "a PAUSED"),
        (vec!["vm", "resume", "a"], 0, "a RUNNING"),
        (vec!["vm", "reboot", "a"], 0, "a RUNNING"),
        (vec!["vm", "start", "a", "b"], 0, "b RUNNING"),
        (vec!["vm", "stop", "a", "nobody"], 9, "a STOPPED"),
        (vec!["vm", "remove", "b"], 5, "b runs"),
        (vec!["host", "remove", "two"], 5, "has 1 VMs"),
        (vec!["host", "drain", "two"], 0, "two DRAINED"),
        (vec!["vm", "create", "e", "--image", "debian-12", "--on", "two"], 5, "one is drained"),
        (vec!["host", "drain", "two", "--cancel"], 0, "two UP"),
        (vec!["vm", "remove", "a", "d"], 0, "d"),
        (vec!["vm", "remove", "b", "--force"], 0, "b"),
        (vec!["host", "remove", "two"], 0, "two"),
        (vec!["-q", "vm", "list"], 0, ""),
        (vec!["tree"], 0, "hosts"),
        (vec!["event", "list"], 0, "VmAdded"),
    ] {
        let ran = hiveward(&node, &args).await;
        assert_eq!(ran.code, code, "{args:?}: {}{}", ran.out, ran.err);
        assert!(ran.out.contains(shown) || ran.err.contains(shown), "{args:?} does not show {shown:?}: {}{}", ran.out, ran.err);
        assert!(code == 0 || ran.err.contains("next: "), "{args:?} does not say what to do next: {}", ran.err);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn applying_hosts_and_vms_twice_changes_nothing_the_second_time() {
    let node = TestNode::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fleet.yaml");
    std::fs::write(&path, FILE).unwrap();
    let path = path.to_str().unwrap();
    let source = dir.path().join("debian-12.raw");
    std::fs::write(&source, vec![7; 1 << 20]).unwrap();
    let source = format!("source={}", source.display());
    let ran = hiveward(&node, &["apply", "-f", path, "--set", &source]).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let head = node.ok("{cluster{cursor}}", json!({})).await;
    let again = hiveward(&node, &["-o", "json", "apply", "-f", path, "--set", &source]).await;
    assert_eq!(again.code, 0, "{}", again.err);
    let items: Vec<Value> = serde_json::from_str(&again.out).unwrap();
    assert_eq!(items.len(), 7);
    for item in &items {
        let id = item["id"].as_str().unwrap();
        assert!(ran.out.contains(&id[id.len() - 8..]), "{item} is new");
    }
    assert_eq!(node.ok("{cluster{cursor}}", json!({})).await, head);
    let vms = node.ok("{vms{nodes{name status host{name}}}}", json!({})).await["vms"]["nodes"].take();
    let mut apart: Vec<_> = vms.as_array().unwrap()[..2].iter().map(|vm| vm["host"]["name"].to_string()).collect();
    apart.sort_unstable();
    assert_eq!(apart, ["\"alpha\"", "\"beta\""], "{vms}");
    assert_eq!(vms[2], json!({ "name": "db", "status": "DEFINED", "host": { "name": "alpha" } }));
    // A different wish under a name that is taken is left as it is, and said so.
    let other = hiveward(&node, &["apply", "-f", path, "--set", &source, "--set", "image=debian-13"]).await;
    assert!(other.code == 0 && other.out.matches("left as it is").count() == 3, "{}{}", other.out, other.err);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_hosts_and_vms_runs_as_it_is() {
    let node = TestNode::start().await;
    let ran = hiveward(&node, &["apply", "-f", concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/vms.yaml")]).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let vms = node.ok("{vms{nodes{name status host{name}}}}", json!({})).await["vms"]["nodes"].take();
    assert_eq!(vms.as_array().unwrap().iter().filter(|vm| vm["status"] == "RUNNING").count(), 2, "{vms}");
    assert_ne!(vms[0]["host"], vms[1]["host"], "{vms}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_pages_filters_and_reads_its_own_writes_and_shows_no_user_data() {
    let node = TestNode::start().await;
    const HOST: &str = "mutation($input: RegisterHostInput!){registerHost(input:$input){host{id status} cursor}}";
    const VM: &str = "mutation($input: CreateVmInput!){createVm(input:$input){vm{id name status placement{eligible scores{host} leftOut{reason hosts}} usage{cpuTimeNs}} cursor}}";
    let made = node.ok(HOST, json!({ "input": { "name": "h", "uri": "simulated://api-h", "operationId": "h" } })).await;
    let again = node.ok(HOST, json!({ "input": { "name": "h", "uri": "simulated://api-h", "operationId": "h" } })).await;
    let host = made["registerHost"]["host"]["id"].clone();
    assert_eq!(again["registerHost"]["host"]["id"], host);
    crate::support::soon("the host to be reached", async {
        while node.ok("{hosts(filter:{status:[UP]}){nodes{id}}}", json!({})).await["hosts"]["nodes"][0]["id"] != host {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut last = json!(null);
    for n in 0..7 {
        let input = json!({ "name": format!("vm-{n}"), "image": "debian-12", "cpus": 1, "memoryBytes": "1073741824", "userData": "top-secret-canary", "start": n % 2 == 0 });
        last = node.ok(VM, json!({ "input": input })).await["createVm"].take();
        assert_eq!(last["vm"]["status"], if n % 2 == 0 { "RUNNING" } else { "DEFINED" });
        assert_eq!(last["vm"]["placement"], json!({ "eligible": 1, "scores": [{ "host": host }], "leftOut": [] }));
        // A simulated machine has no CPU: nothing is measured, and nothing is made up.
        assert_eq!(last["vm"]["usage"]["cpuTimeNs"], json!(null));
    }
    const LIST: &str = "query($after: String, $atLeast: Cursor){vms(first:3, after:$after, atLeast:$atLeast){nodes{name} pageInfo{hasNextPage endCursor}}}";
    let (mut names, mut after) = (Vec::new(), json!(null));
    loop {
        let page = node.ok(LIST, json!({ "after": after, "atLeast": last["cursor"] })).await["vms"].take();
        names.extend(page["nodes"].as_array().unwrap().iter().map(|vm| vm["name"].as_str().unwrap().to_owned()));
        after = page["pageInfo"]["endCursor"].clone();
        if page["pageInfo"]["hasNextPage"] == false {
            break;
        }
    }
    assert_eq!(names, (0..7).map(|n| format!("vm-{n}")).collect::<Vec<_>>());
    let of_host = node.ok("query($id: ID!){node(id:$id){... on Host{vmCount reserved{cpus} vms(filter:{status:[DEFINED]}){nodes{name operation{kind status askedBy}}}}}}", json!({ "id": host })).await;
    assert_eq!((&of_host["node"]["vmCount"], &of_host["node"]["reserved"]["cpus"]), (&json!(7), &json!(7)));
    assert_eq!(of_host["node"]["vms"]["nodes"].as_array().unwrap().len(), 3);
    let all = node.ok("{events(first:500){nodes{kind data}}}", json!({})).await.to_string();
    assert!(all.contains("VmOperationEnded") && !all.contains("top-secret-canary"));
    for (input, code, field) in [
        (json!({ "name": "x y", "image": "i", "cpus": 1, "memoryBytes": 1073741824 }), "INVALID", "name"),
        (json!({ "name": "x", "image": "i", "cpus": -1, "memoryBytes": 1073741824 }), "INVALID", "cpus"),
        (json!({ "name": "x", "image": "i", "cpus": 1, "memoryBytes": 5 }), "INVALID", "memoryBytes"),
        (json!({ "name": "x", "image": "i", "cpus": 1, "memoryBytes": 1073741824, "host": "nobody" }), "NOT_FOUND", "host"),
        (json!({ "name": "vm-1", "image": "i", "cpus": 1, "memoryBytes": 1073741824 }), "CONFLICT", "name"),
    ] {
        let refused = node.refused(VM, json!({ "input": input })).await;
        assert_eq!((refused.0.as_str(), refused.1.as_deref()), (code, Some(field)), "{input}: {refused:?}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vm_uses_is_a_series_of_rates_and_what_is_not_measured_is_absent() {
    // It is looked at every five seconds.
    const LOOKS: Duration = Duration::from_secs(60);
    let node = TestNode::start().await;
    for args in [
        vec!["host", "add", "simulated://metered", "--name", "h"],
        vec!["vm", "create", "busy", "--image", "debian-12"],
        vec!["vm", "create", "dark", "--image", "debian-12"],
    ] {
        assert_eq!(hiveward(&node, &args).await.code, 0, "{args:?}");
    }
    let hypervisor = Hypervisor::named("metered");
    let busy = node.node.control().vm_named("busy").unwrap();
    let counted = |looks: u64| Usage {
        // Half a CPU, as far as one look after another is five seconds.
        cpu_time_ns: Some(looks * 2_500_000_000),
        memory_bytes: Some(3 << 20),
        disk_read_bytes: Some(looks * 5_000),
        ..Usage::default()
    };
    const VM: &str = "query($p:Int!=600){vmUsage(id:\"busy\",points:$p){at overMs used{cpus memoryBytes diskReadBytesPerSecond networkSentBytesPerSecond}}}";
    let mut looks = 0;
    let samples = soon_within(LOOKS, "it is measured three times", async {
        loop {
            let found = node.ok(VM, json!({})).await["vmUsage"].take();
            let samples = found.as_array().unwrap().clone();
            if samples.len() >= 3 {
                return samples;
            }
            looks = samples.len() as u64;
            hypervisor.count(busy, counted(looks + 1));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!((&samples[0]["overMs"], &samples[0]["used"]["cpus"]), (&json!(0), &json!(null)), "a first look says no rate");
    for sample in &samples[1..] {
        let over = sample["overMs"].as_f64().unwrap() / 1e3;
        let cpus = sample["used"]["cpus"].as_f64().unwrap();
        assert!((cpus - 2.5 / over).abs() < 1e-3, "{sample}");
        assert_eq!(sample["used"]["memoryBytes"].as_u64(), Some(3 << 20), "{sample}");
        assert!(sample["used"]["diskReadBytesPerSecond"].as_f64() > Some(0.0), "{sample}");
        assert_eq!(sample["used"]["networkSentBytesPerSecond"], json!(null), "nothing is made up");
    }
    const REST: &str =
        "{dark:vmUsage(id:\"dark\"){at} hostUsage(id:\"h\",points:1){vmsRunning vmsMeasured reservedCpus used{cpus}}}";
    let rest = node.ok(REST, json!({})).await;
    assert_eq!(rest["dark"], json!([]));
    let host = &rest["hostUsage"][0];
    assert_eq!((&host["vmsRunning"], &host["vmsMeasured"], &host["reservedCpus"]), (&json!(2), &json!(1), &json!(2.0)));
    assert_eq!(node.refused(VM, json!({"p": 0})).await.1.as_deref(), Some("points"));
    let page = metered::page(&node.node.control().metered());
    assert!(page.contains("hiveward_host_vms_running{host=\"h\"} 2"), "{page}");
    assert!(page.contains("hiveward_vm_memory_bytes{vm=\"busy\",host=\"h\"} 3145728") && !page.contains("dark"), "{page}");
    let shown = hiveward(&node, &["vm", "stats", "busy", "--points", "1"]).await;
    assert!(shown.code == 0 && shown.out.contains("3MiB"), "{}{}", shown.out, shown.err);
    node.stop().await;
}
