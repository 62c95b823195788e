//! Promise: a power cut under load loses nothing that was acknowledged, though all that was not in sync is really gone.

use std::time::Duration;

use hiveward_tests::{
    Hive, Setup, dice, long,
    mount::{self, Mount},
    rounds, skip, until,
};

use crate::load::{Load, SWARM};

/// Acknowledged tasks that the long form wants to have put at risk.
const ACKS_LONG: usize = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_under_load_loses_no_acknowledged_task() {
    if !mount::may_mount() {
        return skip("only root may mount the file system whose power is cut");
    }
    let mut disk = match Mount::ext4(512) {
        Ok(disk) => disk,
        Err(problem) => return skip(&format!("no loop mount here: {problem}")),
    };
    let mut dice = dice();
    let mut hive = Hive::start(Setup { data_dir: Some(disk.path().join("data")), ..Setup::default() }).await;
    hive.client().noop_swarm(SWARM, 4).await;
    let mut load = Load::new(&mut dice, None);
    let cuts = rounds(3, 50);
    for cut in 1..=cuts {
        let before = load.acknowledged().await;
        let client = hive.client();
        let working = load.work(&client);
        let wanted = if long() { ACKS_LONG / cuts } else { 50 };
        until("some tasks are acknowledged", async || (load.acknowledged().await >= before + wanted).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(dice.u64(..300))).await;
        disk.cut_power().unwrap();
        let at_the_cut = load.acknowledged().await;
        // The node lives on for a moment on a dead disk: it must not acknowledge a thing.
        tokio::time::sleep(Duration::from_millis(dice.u64(..200))).await;
        hive.kill();
        hive.sweep();
        working.stop().await;
        let after = load.acknowledged().await;
        // One answer of each client may have been on its way when the power went.
        assert!(after <= at_the_cut + 4 * 3, "{} were acknowledged on a dead disk", after - at_the_cut);
        until("the file system is free", async || disk.unmount().ok()).await;
        disk.mount().unwrap();
        hive.start_again().await;
        let client = hive.client();
        load.resolve(&client).await;
        load.check(&client).await;
        if cut % 10 == 0 || cut == cuts {
            eprintln!("cut {cut}: {} tasks acknowledged so far", load.acknowledged().await);
        }
    }
    load.finish(&hive.client()).await;
    hive.client().remove_agents().await;
    drop(hive);
}
