use std::{path::Path, sync::Arc, time::Duration};

use super::*;
use crate::{
    id::Key,
    ledger::{Append, Ledger, LedgerConfig, NewEvent, core::open_for_test, file::Reserve, open, tables::meta},
};

fn config(dir: &Path) -> LedgerConfig {
    LedgerConfig { reserve_bytes: 0, ..LedgerConfig::new(dir) }
}

/// Makes a ledger that was stopped after so many events.
async fn made(dir: &Path, events: u64) {
    let ledger = Ledger::open(config(dir)).await.unwrap();
    let stream = Key::trusted("probe_00000000000000000000000000000001");
    let life = ledger.claim(&stream).await.unwrap();
    for version in 0..events {
        let event = NewEvent { kind: "Probed", format: 1, body: vec![7; 100].into() };
        let stream = stream.clone();
        let append = Append {
            stream,
            incarnation: life.incarnation,
            expected_version: version,
            events: vec![event],
            snapshot: None,
            part: None,
        };
        ledger.append(append).await.unwrap();
    }
    ledger.stop().await;
}

/// Waits until nobody else has the file.
async fn closed(disk: Arc<Disk>) {
    let mut disk = disk;
    tokio::time::timeout(Duration::from_secs(20), async {
        while let Err(shared) = Arc::try_unwrap(disk) {
            disk = shared;
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the writer ends when nobody brings jobs");
}

#[tokio::test]
async fn what_is_committed_right_behind_an_installed_snapshot_leaves_its_record_on_disk() {
    let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    made(there.path(), 50).await;
    made(here.path(), 3).await;
    let (from, _jobs) = open_for_test(&config(there.path()));
    let image = Image::of(&from).unwrap();
    let head = image.meta.head;
    assert_eq!(head, 50);
    let (disk, jobs) = open_for_test(&config(here.path()));
    let vote = frame(&openraft::Vote::<u64>::new(9, 1)).unwrap();
    // Both are in the queue before either is done; whoever asked for the snapshot is told after both.
    let installed = jobs.done(|done| Job::Install { image: Box::new(image), done });
    let voted = jobs.done(|done| Job::Vote { frame: vote.clone(), done });
    let (installed, voted) = tokio::join!(installed, voted);
    installed.and(voted).unwrap();
    // And those that are commits of their own for sure, of the log and of the tables.
    jobs.done(|done| Job::Vote { frame: vote, done }).await.unwrap();
    jobs.done(|done| Job::Flush { all_heads: false, done }).await.unwrap();
    drop(jobs);
    closed(disk).await;
    let path = config(here.path()).file();
    let reserve = Arc::new(Reserve::new(here.path().join("reserve"), 0));
    let opened = open::open(&path, &config(here.path()).backend, &reserve, u64::MAX);
    let files = opened.unwrap_or_else(|error| panic!("every value is there and right: {error}"));
    let found: Meta = meta(&files.tables, META_MACHINE).unwrap().unwrap();
    assert_eq!(found.head, head);
}

#[tokio::test]
async fn what_left_the_log_is_in_the_tables_after_a_crash() {
    let (here, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    made(here.path(), 50).await;
    let (disk, jobs) = open_for_test(&config(here.path()));
    let upto = openraft::LogId::new(openraft::CommittedLeaderId::new(1, 1), 1_000);
    // As if entries had been taken in that changed no table.
    disk.machine.lock().meta.applied = Some(upto);
    let record = frame(&upto).unwrap();
    jobs.done(|done| Job::Purge { up_to: upto.index, frame: record, done }).await.unwrap();
    // Whatever syncs the log next makes that durable.
    let vote = frame(&openraft::Vote::<u64>::new(9, 1)).unwrap();
    jobs.done(|done| Job::Vote { frame: vote, done }).await.unwrap();
    for file in [config(here.path()).file(), open::log_path(&config(here.path()).file())] {
        std::fs::copy(&file, copy.path().join(file.file_name().unwrap())).unwrap();
    }
    let reserve = Arc::new(Reserve::new(copy.path().join("reserve"), 0));
    let opened = open::open(&config(copy.path()).file(), &config(copy.path()).backend, &reserve, u64::MAX);
    let files = opened.unwrap_or_else(|error| panic!("nothing is missing: {error}"));
    let found: Meta = meta(&files.tables, META_MACHINE).unwrap().unwrap();
    assert_eq!(found.applied, Some(upto));
    drop(jobs);
    closed(disk).await;
}
