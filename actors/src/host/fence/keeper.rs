//! A node's keeper: a small process that ends the node's VMs when its lease is over, also when the node is dead or frozen.
//!
//! Owns the lock beside the list; there is one for each data directory. Reads the list and the lease, which the node
//! writes, and nothing else. Ends when there has been nothing to end for a while, or its directory is gone. What its death
//! leaves undone the next one does; a disk's own lock and a machine's watchdog are the walls behind it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use hiveward_runtime::cluster::lease::{BootClock, LeasePage};
use nix::fcntl::{Flock, FlockArg};

use super::{
    ARMED, LOOK_EVERY, WATCHDOG_SAID, qemu, read_kept, read_watchdog,
    watchdog::{self, Wall},
};

/// How long after the end of a lease it stays, with nothing left to end.
const LINGER: Duration = Duration::from_secs(30);

fn lock(dir: &Path) -> std::io::Result<Option<Flock<fs::File>>> {
    fs::create_dir_all(dir)?;
    let file = fs::File::options().create(true).write(true).truncate(false).open(dir.join("keeper.lock"))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Whether one runs.
pub fn is_kept(dir: &Path) -> std::io::Result<bool> {
    lock(dir).map(|lock| lock.is_none())
}

/// The process itself: `fence DIRECTORY`.
pub fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(2).map(PathBuf::from) else { return ExitCode::FAILURE };
    // Whoever asks whether one runs holds the lock for a moment.
    let taken = (0..50).find_map(|_| {
        let taken = lock(&dir).ok().flatten();
        if taken.is_none() {
            thread::sleep(Duration::from_millis(10));
        }
        taken
    });
    let Some(_held) = taken else { return ExitCode::FAILURE };
    let node = nix::unistd::getppid();
    let mut idle = Duration::ZERO;
    // The next life of the node may have been told of another.
    let mut wall = Wall::new(|| match read_watchdog(&dir) {
        Some(device) => watchdog::open(&device),
        None => Err(std::io::ErrorKind::NotFound.into()),
    });
    let mut said = None;
    loop {
        thread::sleep(LOOK_EVERY);
        let (Some(now), Some(machines)) = (BootClock.now().map(|now| now.0), read_kept(&dir)) else {
            if !dir.exists() {
                // With its list gone nobody knows of anything that must be ended.
                return ended(wall.look(false, false, 0));
            }
            continue;
        };
        let until = LeasePage::read(&dir);
        let over = until.is_some_and(|until| now >= until);
        let left = if over { qemu::end(&machines) } else { 0 };
        // A node that was alone has no lease that could end.
        let never = until.is_none_or(|until| until > now + Duration::from_secs(86_400));
        let orphaned = nix::unistd::getppid() != node;
        if wall.is_armed() || read_watchdog(&dir).is_some() {
            let looked = wall.look(!machines.is_empty(), over, left);
            let words = match looked {
                Ok(()) if wall.is_armed() => ARMED.to_owned(),
                Ok(()) => String::new(),
                Err(error) => error.to_string(),
            };
            // What cannot be said is taken by the node for not armed.
            if said.as_ref() != Some(&words) && fs::write(dir.join(WATCHDOG_SAID), &words).is_ok() {
                said = Some(words);
            }
        }
        let nothing = machines.is_empty() || (over && left == 0) || (never && orphaned);
        idle = if nothing { idle + LOOK_EVERY } else { Duration::ZERO };
        if idle >= LINGER {
            return ended(wall.look(false, false, 0));
        }
    }
}

/// A watchdog that could not be disarmed resets the machine, and nobody is left to be told.
fn ended(disarmed: std::io::Result<()>) -> ExitCode {
    if disarmed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
