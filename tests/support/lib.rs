//! A real `hiveward` process per test, or several of them: its own data directory, port and clients; and what a test asks of it.
//!
//! Owns every process, mount and cgroup that a test leads to; dropping a [`Hive`] ends and removes them, also when the
//! test panics. Never looks inside the process: everything is asked over GraphQL, as a user would.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod binary;
pub mod client;
pub mod cluster;
pub mod etcd;
pub mod events;
pub mod hive;
pub mod intruder;
pub mod leftovers;
pub mod mount;
pub mod oracle;
pub mod programs;
pub mod stream;

pub use client::{CallFailed, Client};
pub use hive::{Hive, Setup};

use std::time::{Duration, Instant};

/// How long a test waits for what must come; generous, because the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the long form of the tests was asked for.
pub fn long() -> bool {
    std::env::var("HIVEWARD_LONG").is_ok_and(|value| !value.is_empty() && value != "0")
}

/// The short form's number, or the long one's; `HIVEWARD_ROUNDS` overrides both.
pub fn rounds(short: usize, many: usize) -> usize {
    let asked = std::env::var("HIVEWARD_ROUNDS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(if long() { many } else { short })
}

/// The test's dice. The seed is printed, and `HIVEWARD_SEED` gives it again.
pub fn dice() -> fastrand::Rng {
    let asked = std::env::var("HIVEWARD_SEED").ok().and_then(|text| text.parse().ok());
    let seed = asked.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("seed: HIVEWARD_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// Between two looks at a condition, not a wait for something to have happened.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// Waits until `check` gives something; panics with `what` when it takes too long.
pub async fn until<T>(what: &str, check: impl AsyncFnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, check).await
}

/// Looks all through `window` that `holds` does.
pub async fn throughout(window: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while began.elapsed() < window {
        assert!(holds().await, "no longer after {:?}: {what}", began.elapsed());
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

pub async fn until_within<T>(patience: Duration, what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    match tokio::time::timeout(patience, looking).await {
        Ok(found) => found,
        Err(_) => panic!("waited {patience:?} in vain until {what}"),
    }
}

/// Says loudly why a test does not run here, and has it counted where `deploy/count-skipped.sh` runs the tests.
pub fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
    if let Some(list) = std::env::var_os("HIVEWARD_SKIPPED") {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let mut list = std::fs::File::options().append(true).open(list).unwrap();
        std::io::Write::write_all(&mut list, format!("{test}: {why}\n").as_bytes()).unwrap();
    }
}
