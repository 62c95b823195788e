//! Promise: a VM that is to come back does so when its host's node is killed, frozen or cut off, and never runs twice (F22, I7).
//!
//! Hosts are simulated: a part of their node's process. Each writes down when a guest began and ended, on the clock of the
//! machine, which is what is judged here.

use std::time::{Duration, Instant};

use hiveward_runtime::clock::BootClock;
use hiveward_tests::{
    cluster::{Cluster, Shape},
    until_within,
};
use serde_json::Value;

use crate::scene::{ELSEWHERE, LONGER_THAN_THE_LEASE, WATCHED};

/// A lease of 8 s, the margin, and what a busy machine takes.
const BACK: Duration = Duration::from_secs(40);

#[derive(Clone, Debug, PartialEq)]
struct Line {
    at: u128,
    vm: String,
    on: bool,
}

fn now() -> u128 {
    BootClock.now().unwrap().0.as_micros()
}

struct Scene {
    cluster: Cluster,
    /// When a node's process stood still, or was gone, from and to.
    still: Vec<(usize, u128, Option<u128>)>,
}

impl Scene {
    async fn begin() -> Option<Self> {
        let cluster = Cluster::joined(&Shape::of(3)).await?;
        let scene = Self { cluster, still: Vec::new() };
        for node in 0..3 {
            let uri = format!("simulated://h{node}?journal={}", scene.journal_of(node));
            let (name, id) = (format!("h{node}"), scene.cluster.node(node).id());
            scene.ok(node, &["host", "add", &uri, "--name", &name, "--node", &id]).await;
        }
        Some(scene)
    }

    fn journal_of(&self, node: usize) -> String {
        self.cluster.own_dir().join(format!("journal-{node}")).display().to_string()
    }

    fn journal(&self, node: usize) -> Vec<Line> {
        let text = std::fs::read_to_string(self.journal_of(node)).unwrap_or_default();
        let line = |line: &str| {
            let mut words = line.split(' ');
            let (at, vm, what) = (words.next()?.parse().ok()?, words.next()?.to_owned(), words.next()?);
            Some(Line { at, vm, on: what == "on" })
        };
        text.lines().filter_map(line).collect()
    }

    async fn ok(&self, by: usize, args: &[&str]) -> String {
        let ran = self.cluster.cli(by, args).await;
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        ran.out
    }

    async fn json(&self, by: usize, args: &[&str]) -> Option<Value> {
        let mut all = vec!["-o", "json"];
        all.extend(args);
        let ran = tokio::time::timeout(Duration::from_secs(20), self.cluster.cli(by, &all)).await.ok()?;
        serde_json::from_str(&ran.out).ok()
    }

    async fn create(&self, name: &str, host: usize) {
        let host = format!("h{host}");
        let create = ["vm", "create", name, "--image", "any", "--cpus", "1", "--memory", "128MiB", "--ha", "--on", &host];
        self.ok(0, &create).await;
    }

    /// Waits until all of these run on another host than `lost`, as the node `by` has it; where, and how long it took.
    async fn come_back(&self, by: usize, names: &[&str], lost: usize) -> Vec<usize> {
        let begun = Instant::now();
        let mut at = Vec::new();
        for name in names {
            let host = until_within(BACK, &format!("{name} comes back"), async || {
                let vm = self.json(by, &["vm", "show", name]).await?;
                let host: usize = vm["host"]["name"].as_str()?.strip_prefix('h')?.parse().ok()?;
                (host != lost && vm["status"] == "RUNNING").then_some((host, vm))
            })
            .await;
            let ha = &host.1["haStatus"];
            assert_eq!((&ha["epoch"], ha["comeBacks"].as_array().map(Vec::len)), (&1.into(), Some(1)), "{ha}");
            at.push(host.0);
        }
        eprintln!("{} VMs of a lost node came back after {:?}", names.len(), begun.elapsed());
        at
    }

    /// From all journals: whether one ran in two places at any instant.
    fn never_twice(&self, vms: &[&str]) {
        let mut runs: Vec<(usize, String, u128, u128)> = Vec::new();
        for node in 0..3 {
            let lines = self.journal(node);
            for vm in vms {
                let its: Vec<&Line> = lines.iter().filter(|line| line.vm == *vm).collect();
                for (place, line) in its.iter().enumerate().filter(|(_, line)| line.on) {
                    let next = its.get(place + 1).map_or(u128::MAX, |next| next.at);
                    // What is frozen does not run; what was killed never does again.
                    let still = self.still.iter().filter(|(of, from, _)| *of == node && *from >= line.at && *from < next);
                    let until = still.map(|(_, from, _)| *from).min().unwrap_or(next);
                    runs.push((node, (*vm).to_owned(), line.at, until));
                }
            }
        }
        for one in &runs {
            let twice = runs.iter().find(|two| two.1 == one.1 && two.0 != one.0 && two.2 < one.3 && one.2 < two.3);
            assert!(twice.is_none(), "it ran twice: {one:?} and {twice:?}");
        }
    }

    async fn ids(&self, names: &[&str]) -> Vec<String> {
        let mut ids = Vec::new();
        for name in names {
            let vm = self.json(0, &["vm", "show", name]).await.unwrap();
            ids.push(vm["id"].as_str().unwrap().to_owned());
        }
        ids
    }

    fn others(&self, node: usize) -> Vec<usize> {
        (0..3).filter(|other| *other != node).collect()
    }

    /// All is well again: each runs where it came to, and nowhere else.
    async fn end(mut self, ids: &[String], at: &[usize]) {
        self.cluster.settled().await;
        let by = self.cluster.leader().await;
        let vms: Vec<&str> = ids.iter().map(String::as_str).collect();
        hiveward_tests::throughout(WATCHED, "nothing runs where it was", async || {
            self.never_twice(&vms);
            for (vm, at) in vms.iter().zip(at) {
                let shown = self.json(by, &["vm", "show", vm]).await.unwrap();
                if shown["host"]["name"] != format!("h{at}") || shown["status"] != "RUNNING" {
                    return false;
                }
                // Its last word, on each host.
                for node in 0..3 {
                    let killed = self.still.iter().any(|(of, _, to)| *of == node && to.is_none());
                    let last = self.journal(node).into_iter().rfind(|line| line.vm == *vm);
                    if last.is_some_and(|last| last.on) != (node == *at) && !(killed && node != *at) {
                        return false;
                    }
                }
            }
            true
        })
        .await;
    }
}

const NAMES: [&str; 2] = ["web", "db"];

#[tokio::test(flavor = "multi_thread")]
async fn vms_of_a_node_that_is_killed_come_back_elsewhere_and_stay_there_when_it_returns() {
    let Some(mut scene) = Scene::begin().await else { return };
    let node = scene.others(scene.cluster.leader().await)[0];
    for name in NAMES {
        scene.create(name, node).await;
    }
    let ids = scene.ids(&NAMES).await;
    scene.still.push((node, now(), None));
    scene.cluster.kill(node);
    let by = scene.others(node)[0];
    let at = scene.come_back(by, &NAMES, node).await;
    scene.cluster.start_again(node).await;
    scene.end(&ids, &at).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_of_a_node_that_is_frozen_come_back_and_it_ends_its_own_before_anything_else_when_it_goes_on() {
    let Some(mut scene) = Scene::begin().await else { return };
    // Also of the one that leads.
    let node = scene.cluster.leader().await;
    for name in NAMES {
        scene.create(name, node).await;
    }
    let ids = scene.ids(&NAMES).await;
    let (frozen, begun) = (now(), Instant::now());
    scene.cluster.freeze(node);
    let others = scene.others(node);
    scene.cluster.leader_among(&others, ELSEWHERE).await;
    let at = scene.come_back(others[0], &NAMES, node).await;
    tokio::time::sleep(LONGER_THAN_THE_LEASE.saturating_sub(begun.elapsed())).await;
    let before = scene.journal(node).len();
    let thawed = now();
    scene.still.push((node, frozen, Some(thawed)));
    scene.cluster.thaw(node);
    let first = until_within(ELSEWHERE, "the thawed node to end what it had", async || {
        let lines = scene.journal(node).split_off(before);
        (lines.len() >= NAMES.len()).then_some(lines)
    })
    .await;
    assert!(first.iter().take(NAMES.len()).all(|line| !line.on && ids.contains(&line.vm)), "{first:?}");
    eprintln!("a thawed node ended its copies {} ms after it went on", (first[1].at - thawed) / 1_000);
    scene.end(&ids, &at).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_of_a_node_that_is_cut_off_are_ended_there_before_they_come_back_elsewhere() {
    let Some(scene) = Scene::begin().await else { return };
    if !hiveward_tests::cluster::may_partition() {
        return hiveward_tests::skip("only root can cut a node off");
    }
    let node = scene.others(scene.cluster.leader().await)[0];
    for name in NAMES {
        scene.create(name, node).await;
    }
    let ids = scene.ids(&NAMES).await;
    let cut = now();
    scene.cluster.net.isolate(node);
    let at = scene.come_back(scene.others(node)[0], &NAMES, node).await;
    for (vm, at) in ids.iter().zip(&at) {
        let ended = scene.journal(node).into_iter().rfind(|line| line.vm == *vm).unwrap();
        let began = scene.journal(*at).into_iter().find(|line| line.vm == *vm).unwrap();
        assert!(!ended.on && ended.at < began.at, "{ended:?} {began:?}");
        eprintln!(
            "cut off; ended there after {} ms, runs elsewhere after {} ms",
            (ended.at - cut) / 1_000,
            (began.at - cut) / 1_000
        );
    }
    scene.cluster.net.heal();
    scene.end(&ids, &at).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_host_that_nobody_can_be_sure_of_waits_for_a_persons_word() {
    let Some(mut scene) = Scene::begin().await else { return };
    let said = scene.cluster.cli(0, &["host", "declare-lost", "h1", "--i-know-it-is-off"]).await;
    assert!(said.code != 0 && said.err.contains("not known to be lost"), "{said:?}");
    let without = scene.cluster.cli(0, &["host", "declare-lost", "h1"]).await;
    assert!(without.code != 0 && without.err.contains("--i-know-it-is-off"), "{without:?}");
    // Removed by force while it lives: its lease says nothing.
    let node = scene.others(scene.cluster.leader().await)[0];
    scene.create("web", node).await;
    let id = scene.cluster.node(node).id();
    let ids = scene.ids(&["web"]).await;
    scene.still.push((node, now(), None));
    scene.cluster.kill(node);
    let by = scene.others(node)[0];
    scene.ok(by, &["node", "remove", &id, "--force"]).await;
    let waits = until_within(BACK, "it waits for a word", async || {
        let vm = scene.json(by, &["vm", "show", "web"]).await?;
        (vm["haStatus"]["state"] == "NEEDS_WORD").then_some(vm)
    })
    .await;
    assert!(waits["haStatus"]["reason"].as_str().unwrap().contains("declare-lost"), "{waits}");
    hiveward_tests::throughout(WATCHED, "it is not started elsewhere", async || {
        scene.others(node).into_iter().all(|other| scene.journal(other).is_empty())
    })
    .await;
    let host = format!("h{node}");
    scene.ok(by, &["host", "declare-lost", &host, "--i-know-it-is-off"]).await;
    let at = scene.come_back(by, &["web"], node).await;
    scene.never_twice(&[&ids[0]]);
    assert_ne!(at, [node]);
}
