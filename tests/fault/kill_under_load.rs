//! Promise: kill -9 at any instant, under load, loses no acknowledged task, lets none succeed twice and leaves none stuck.

use std::time::Duration;

use hiveward_tests::{Hive, Setup, client::INJECT, dice, rounds, until};
use serde_json::json;

use crate::load::{Load, SWARM};

/// Where a process dies by its own hand, instead of at a random instant.
const POINTS: [&str; 6] = [
    "ledger.before_append",
    "ledger.before_fsync",
    "ledger.after_fsync",
    "ledger.before_apply",
    "ledger.after_apply",
    "ledger.before_reply",
];

const ROUNDS_OF_ONE_NODE: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_instants_under_load_it_loses_no_acknowledged_task_and_none_succeeds_twice() {
    let mut dice = dice();
    let rounds = rounds(20, 500);
    // A node's start reads its whole ledger: a fresh one now and then lets more kills fit into the time.
    let mut done = 0;
    while done < rounds {
        let now = ROUNDS_OF_ONE_NODE.min(rounds - done);
        one_node(&mut dice, done, now).await;
        done += now;
    }
}

async fn one_node(dice: &mut fastrand::Rng, done: usize, rounds: usize) {
    let mut hive = Hive::start(Setup::default()).await;
    hive.client().noop_swarm(SWARM, 4).await;
    let mut load = Load::new(dice, Some(hive.own_dir().join("marks")));
    for round in 1..=rounds {
        let client = hive.client();
        let working = load.work(&client);
        match dice.u8(..10) {
            // At a named place of the write path.
            0..3 => {
                let point = dice.choice(POINTS).unwrap();
                tokio::time::sleep(Duration::from_millis(dice.u64(20..200))).await;
                // The process may be gone before it has answered.
                let input = json!({ "i": { "point": point, "fault": "ABORT" } });
                let _ = client.call(INJECT, input).await;
                until(&format!("{point} ends the process"), async || hive.ended()).await;
            }
            // Frozen for a while first, with requests in its sockets.
            3 => {
                tokio::time::sleep(Duration::from_millis(dice.u64(20..200))).await;
                hive.signal(nix::sys::signal::Signal::SIGSTOP);
                tokio::time::sleep(Duration::from_millis(dice.u64(1..100))).await;
                hive.kill();
            }
            _ => {
                tokio::time::sleep(Duration::from_millis(dice.u64(1..400))).await;
                hive.kill();
            }
        }
        // Killed again while it starts: at a random instant, or at the first write of the new life.
        for _ in 0..dice.u8(..3) {
            if dice.bool() {
                hive.spawn();
                tokio::time::sleep(Duration::from_millis(dice.u64(1..300))).await;
                hive.kill();
            } else {
                hive.spawn_with(&[("HIVEWARD_FAULTS", &format!("{}=abort", dice.choice(POINTS).unwrap()))]);
                until("the first write of a life ends it", async || hive.ended()).await;
            }
        }
        hive.start_again().await;
        working.stop().await;
        let client = hive.client();
        load.resolve(&client).await;
        load.check(&client).await;
        load.look_at_some(&client).await;
        if round % 10 == 0 || round == rounds {
            eprintln!("round {}: {} tasks acknowledged so far by this node", done + round, load.acknowledged().await);
        }
    }
    load.finish(&hive.client()).await;
    hive.client().remove_agents().await;
}
