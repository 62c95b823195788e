//! What happens to a cluster of real nodes when hosts, networks, disks and clocks fail. One file per family.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod field;
mod oracle;
