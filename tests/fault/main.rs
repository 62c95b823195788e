//! What happens to a real node under kill -9, power cuts and full disks. One file per promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod load;

mod adoption;
mod clock;
mod disk_full;
mod kill_under_load;
mod power_cut;
mod resume;
