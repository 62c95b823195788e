//! Waits until the test process that started it is gone, then removes what that left. Also sweeps by hand:
//! `hiveward-tests-reaper </dev/null`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::Read,
    time::{Duration, Instant},
};

use hiveward_tests::cluster::{Owner, sweep};

fn main() {
    // The owner holds the other end for as long as it lives.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let owner = std::env::args().nth(1).and_then(|label| Owner::parse(&label));
    let give_up = Instant::now() + Duration::from_secs(10);
    while owner.is_some_and(Owner::is_alive) && Instant::now() < give_up {
        std::thread::sleep(Duration::from_millis(10));
    }
    sweep::dead_owners();
}
