//! What happens to a cluster of real nodes when hosts, networks, disks and clocks fail. One file per family.
//!
//! Each test runs a load under the oracle's eyes, does harm, heals it, and lets the oracle judge the whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod scene;

mod beside_etcd;
mod disks_and_clocks;
mod drain;
mod field;
mod flips;
mod freezes;
mod given_up;
mod hostile;
mod kills;
mod oracle;
mod partitions;
mod stops;
mod versions;
mod vms;
