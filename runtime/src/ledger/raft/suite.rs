//! Openraft's own conformance suite over our log and machine.

use std::sync::Arc;

use openraft::{
    StorageError,
    testing::{StoreBuilder, Suite},
};
use tokio::sync::watch;

use super::{
    TypeConfig,
    apply::{MachineStore, Outcomes},
    log::LogStore,
};
use crate::ledger::{Cursor, LedgerConfig, core};

struct Builder;

/// The directory of one run, removed when the suite is done with it.
struct Guard(#[allow(dead_code)] tempfile::TempDir);

impl StoreBuilder<TypeConfig, LogStore, MachineStore, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, MachineStore), StorageError<u64>> {
        let dir = tempfile::tempdir().unwrap();
        let (disk, jobs) = core::open_for_test(&LedgerConfig::new(dir.path()));
        let outcomes = Arc::new(Outcomes::new(Arc::new(watch::Sender::new(Cursor(0)))));
        let log = LogStore::load(disk.clone(), jobs.clone()).unwrap();
        Ok((Guard(dir), log, MachineStore::new(disk, jobs, outcomes, None)))
    }
}

#[test]
fn openrafts_own_suite_passes_over_our_store() {
    Suite::test_all(Builder).unwrap();
}
