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

use hiveward_runtime::cluster::lease::BootClock;
use nix::fcntl::{Flock, FlockArg};

use super::{LOOK_EVERY, page::LeasePage, qemu, read_kept};

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
    loop {
        thread::sleep(LOOK_EVERY);
        let (Some(now), Some(machines)) = (BootClock.now().map(|now| now.0), read_kept(&dir)) else {
            if !dir.exists() {
                return ExitCode::SUCCESS;
            }
            continue;
        };
        let until = LeasePage::read(&dir);
        let over = until.is_some_and(|until| now >= until);
        let left = if over { qemu::end(&machines) } else { 0 };
        // A node that was alone has no lease that could end.
        let never = until.is_none_or(|until| until > now + Duration::from_secs(86_400));
        let orphaned = nix::unistd::getppid() != node;
        let nothing = machines.is_empty() || (over && left == 0) || (never && orphaned);
        idle = if nothing { idle + LOOK_EVERY } else { Duration::ZERO };
        if idle >= LINGER {
            return ExitCode::SUCCESS;
        }
    }
}
