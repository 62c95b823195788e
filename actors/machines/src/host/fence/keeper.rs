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

use hiveward_runtime::{clock::BootClock, cluster::lease::LeasePage};
use nix::fcntl::{Flock, FlockArg};

use super::{
    ARMED, LOOK_EVERY, WATCHDOG_SAID, qemu, read_kept, read_watchdog,
    watchdog::{self, Wall, Watchdog},
};

/// Time for which it stays after the end of a lease, with nothing left to end.
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

/// Tells whether a keeper runs.
pub fn is_kept(dir: &Path) -> std::io::Result<bool> {
    lock(dir).map(|lock| lock.is_none())
}

/// A keeper's look at its list and at the lease.
#[derive(Clone, Copy)]
struct Look {
    now: Duration,
    /// Time at which the node's lease is over, if it was ever granted one.
    until: Option<Duration>,
    holds: bool,
    orphaned: bool,
}

impl Look {
    fn is_over(self) -> bool {
        self.until.is_some_and(|until| self.now >= until)
    }

    /// Tells whether nothing needs a keeper while `left` of the listed VMs run still.
    fn is_idle(self, left: usize) -> bool {
        // A node that was alone has no lease that could end.
        let never = self.until.is_none_or(|until| until > self.now + Duration::from_secs(86_400));
        !self.holds || (self.is_over() && left == 0) || (never && self.orphaned)
    }
}

/// Runs the process itself: `fence DIRECTORY`.
pub fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(2).map(PathBuf::from) else { return ExitCode::FAILURE };
    keep(&dir, LINGER, watchdog::open)
}

/// Keeps what is listed in `dir` until there has been nothing to keep for as long as `linger`.
pub(super) fn keep(dir: &Path, linger: Duration, mut open: impl FnMut(&Path) -> std::io::Result<Box<dyn Watchdog>>) -> ExitCode {
    // Whoever asks whether one runs holds the lock for a moment.
    let taken = (0..50).find_map(|_| {
        let taken = lock(dir).ok().flatten();
        if taken.is_none() {
            thread::sleep(Duration::from_millis(10));
        }
        taken
    });
    let Some(_held) = taken else { return ExitCode::FAILURE };
    let node = nix::unistd::getppid();
    let mut idle = Duration::ZERO;
    // The next life of the node may have been told of another.
    let mut wall = Wall::new(|| match read_watchdog(dir) {
        Some(device) => open(&device),
        None => Err(std::io::ErrorKind::NotFound.into()),
    });
    let mut said = None;
    loop {
        thread::sleep(LOOK_EVERY);
        let (Some(now), Some(machines)) = (BootClock.now().map(|now| now.0), read_kept(dir)) else {
            if !dir.exists() {
                // With its list gone nobody knows of anything that must be ended.
                return ended(wall.look(false, false, 0));
            }
            continue;
        };
        let orphaned = nix::unistd::getppid() != node;
        let look = Look { now, until: LeasePage::read(dir), holds: !machines.is_empty(), orphaned };
        let left = if look.is_over() { qemu::end(&machines) } else { 0 };
        if wall.is_armed() || read_watchdog(dir).is_some() {
            let looked = wall.look(look.holds, look.is_over(), left);
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
        idle = if look.is_idle(left) { idle + LOOK_EVERY } else { Duration::ZERO };
        if idle >= linger {
            return ended(wall.look(false, false, 0));
        }
    }
}

/// Returns how the process ends. A watchdog that could not be disarmed resets the machine, and nobody is left to be told.
fn ended(disarmed: std::io::Result<()>) -> ExitCode {
    if disarmed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keeper_that_could_not_disarm_the_watchdog_does_not_end_well() {
        assert_eq!(ended(Ok(())), ExitCode::SUCCESS);
        assert_eq!(ended(Err(std::io::ErrorKind::Other.into())), ExitCode::FAILURE);
    }

    #[test]
    fn a_keeper_stays_for_as_long_as_something_may_have_to_be_ended() {
        let at = Duration::from_secs(1000);
        let day = Duration::from_secs(86_400);
        let look = |until, holds, orphaned| Look { now: at, until, holds, orphaned };
        let second = Duration::from_secs(1);
        let (running, at_its_end, past) = (Some(at + second), Some(at), Some(at - second));
        assert_eq!([running, at_its_end, past, None].map(|until| look(until, true, false).is_over()), [false, true, true, false]);
        for orphaned in [false, true] {
            assert!(!look(running, true, orphaned).is_idle(0), "the lease runs on");
            assert!(look(running, false, orphaned).is_idle(0), "nothing is listed");
            assert!(look(past, true, orphaned).is_idle(0), "all has ended");
            assert!(!look(past, true, orphaned).is_idle(1), "one that could not be ended runs still");
            // A lease of a day is one that ends; a longer one is that of a node that is alone.
            assert!(!look(Some(at + day), true, orphaned).is_idle(0));
            for never in [None, Some(at + day + second)] {
                assert_eq!(look(never, true, orphaned).is_idle(0), orphaned, "the node itself ends it, unless it is dead");
            }
        }
    }
}
