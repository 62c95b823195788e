//! Promise: what is stopped is not cancelled. A node that stands still and ends what it holds because its lease is over has
//! lost it, and the tasks go on elsewhere, none of them in two places at once.

use std::time::Duration;

use hiveward_tests::{
    Client,
    client::INJECT,
    cluster::{Cluster, Shape},
    dice,
    leftovers::Sessions,
    long,
    programs::Programs,
    rounds, until_within,
};
use serde_json::json;

/// Just long enough for a node to end what it holds, and too short for the others to have declared it lost.
const UNTIL_ITS_LEASE_IS_OVER: Duration = Duration::from_millis(7_300);
/// In which each try of a task is still running when its node goes on.
const TASK_SECONDS: u32 = 12;
const AGENTS: usize = 6;
const SWARM: &str = "stops";
/// Two hundred processes begin and end on two cores.
const ALL_RUN_WITHIN: Duration = Duration::from_secs(120);
/// A try that is lost late begins anew, up to twice.
const ALL_END_WITHIN: Duration = Duration::from_secs(300);

/// What happens to nodes for a while.
#[derive(Debug)]
enum Stands {
    /// The whole process.
    Frozen(Vec<usize>),
    /// Threads that everything else needs as well.
    Blocked(usize),
}

impl Stands {
    fn by_chance(dice: &mut fastrand::Rng) -> Self {
        let node = dice.usize(..3);
        match dice.u8(..10) {
            0..2 => Self::Blocked(node),
            2..4 => Self::Frozen(vec![node, (node + 1) % 3]),
            _ => Self::Frozen(vec![node]),
        }
    }

    async fn still(&self, cluster: &mut Cluster, how_long: Duration) {
        match self {
            Self::Frozen(nodes) => {
                nodes.iter().for_each(|node| cluster.freeze(*node));
                tokio::time::sleep(how_long).await;
                nodes.iter().for_each(|node| cluster.thaw(*node));
            }
            Self::Blocked(node) => {
                let (ms, client) = (u64::try_from(how_long.as_millis()).unwrap(), cluster.client(*node));
                // Whoever reads the ledger next sleeps on its thread, and others wait for it on theirs.
                let block = json!({ "point": "directory.fold", "fault": "DELAY", "delayMs": ms, "times": 2 });
                client.ok(INJECT, json!({ "i": block })).await;
                client.try_create_swarm(&format!("blocks-{ms}")).await;
                tokio::time::sleep(how_long).await;
            }
        }
    }

    fn but(&self, cluster: &Cluster) -> Client {
        let stands = |node: &usize| match self {
            Self::Frozen(nodes) => nodes.contains(node),
            Self::Blocked(blocked) => blocked == node,
        };
        cluster.client((0..3).find(|node| !stands(node)).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_a_node_that_stood_still_are_tried_again_and_none_is_failed_or_cancelled() {
    let Some(mut cluster) = Cluster::joined(&Shape::of(3)).await else { return };
    let (mut dice, at_once) = (dice(), if long() { 200 } else { AGENTS });
    let client = cluster.client(0);
    client.swarm(SWARM).await;
    for n in 0..AGENTS {
        let agent = json!({ "name": format!("sh-{n}"), "swarm": SWARM, "connector": { "command": true },
            "maxConcurrentTasks": at_once.div_ceil(AGENTS) });
        client.agent(agent).await;
    }
    let programs = Programs::watch();
    for round in 0..rounds(1, 100) {
        // First who leads; then anybody, also for so long that the others take over.
        let (stands, how_long) = match round {
            0 => (Stands::Frozen(vec![cluster.leader().await]), UNTIL_ITS_LEASE_IS_OVER),
            _ => (Stands::by_chance(&mut dice), Duration::from_millis(dice.u64(1_000..30_000))),
        };
        let by = stands.but(&cluster);
        let mut tasks = Vec::new();
        for n in 0..at_once {
            let line = format!("sleep {TASK_SECONDS}; echo done");
            let input = json!({ "swarm": SWARM, "title": format!("{round}-{n}"), "retry": { "maxAttempts": 3 },
                "command": { "argv": ["sh", "-c", line] } });
            tasks.push(by.submit(input).await);
        }
        for task in &tasks {
            until_within(ALL_RUN_WITHIN, "each task runs", async || (by.task(task).await["status"] == "RUNNING").then_some(()))
                .await;
        }
        stands.still(&mut cluster, how_long).await;
        for task in &tasks {
            let ended = until_within(ALL_END_WITHIN, "each task ends", async || {
                let task = by.task(task).await;
                hiveward_tests::client::terminal(task["status"].as_str().unwrap_or_default()).then_some(task)
            });
            let ended = ended.await;
            assert_eq!(ended["status"], "SUCCEEDED", "{stands:?} for {how_long:?}: {ended}");
            let tries: Vec<_> = ended["attempts"].as_array().unwrap().iter().map(|of| of["status"].as_str().unwrap()).collect();
            let (last, before) = tries.split_last().unwrap();
            assert!(
                *last == "SUCCEEDED" && before.iter().all(|status| *status == "LOST"),
                "{stands:?} for {how_long:?}: {ended}"
            );
        }
        programs.assert_none_ran_twice_at_once();
        cluster.settled().await;
        eprintln!("round {round}: {stands:?} for {how_long:?}, {} tasks succeeded", tasks.len());
    }
}

/// For a try that is made elsewhere, after the lease of the first one's node.
const ELSEWHERE_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_program_of_a_node_that_is_dead_or_stands_still_ends_before_its_task_is_tried_elsewhere() {
    let Some(mut cluster) = Cluster::joined(&Shape::of(3)).await else { return };
    let programs = Programs::watch();
    let client = cluster.client(0);
    client.swarm(SWARM).await;
    for n in 0..3 {
        client.agent(json!({ "name": format!("sh-{n}"), "swarm": SWARM, "connector": { "command": true } })).await;
    }
    let mut tasks = Vec::new();
    for dies in [true, false] {
        // The first try runs on until it is ended; children that leave its group and its session do as well.
        let line = "[ $HIVEWARD_ATTEMPT = 1 ] && { sleep 1000 & setsid sleep 1000 & sleep 1000; }; sleep 3";
        let input = json!({ "swarm": SWARM, "retry": { "maxAttempts": 3 }, "command": { "argv": ["sh", "-c", line] } });
        let task = cluster.client(0).submit(input).await;
        let node = until_within(ELSEWHERE_WITHIN, "its first try runs", async || {
            (0..3).find(|node| {
                let data_dir = cluster.node(*node).data_dir();
                Sessions::of(data_dir).processes(data_dir).iter().any(|(_, command)| command.starts_with("sleep 1000"))
            })
        })
        .await;
        if dies {
            cluster.kill(node);
        } else {
            cluster.freeze(node);
        }
        let asked = cluster.client((node + 1) % 3);
        until_within(ELSEWHERE_WITHIN, "its second try runs elsewhere", async || Programs::lives(&task, 2).then_some(())).await;
        assert!(!Programs::lives(&task, 1), "what a node began runs on beside it");
        until_within(ELSEWHERE_WITHIN, "it is done", async || (asked.task(&task).await["status"] == "SUCCEEDED").then_some(()))
            .await;
        let attempts = asked.task(&task).await["attempts"].take();
        assert_eq!(attempts[0]["status"], "LOST", "{attempts}");
        if dies {
            cluster.start_again(node).await;
        } else {
            cluster.thaw(node);
        }
        cluster.settled().await;
        tasks.push(task);
    }
    assert!(programs.seen(&tasks) >= 4, "both tries of both tasks were seen");
    programs.assert_none_ran_twice_at_once();
}
