//! The lock of a data directory, by which one process at a time has it.

use std::{fs::File, path::Path, time::Duration};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tokio::time::{Instant, sleep};

use super::StartError;

/// How long the lock is waited for. Programs that the node before began look whether it lives by this lock, and have it for a
/// moment once it does not; so has a program that was being begun when the node was killed.
const WAITED_FOR: Duration = Duration::from_secs(2);
const TRIED_EVERY: Duration = Duration::from_millis(10);

/// Takes the lock, and makes its file if there is none. Errors: `InUse` if another process has it and keeps it.
pub(super) async fn take(dir: &Path) -> Result<Flock<File>, StartError> {
    let unusable = |source| StartError::DataDir { dir: dir.to_owned(), source };
    let mut file = File::options().create(true).write(true).truncate(false).open(dir.join("lock")).map_err(unusable)?;
    let until = Instant::now() + WAITED_FOR;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, Errno::EWOULDBLOCK)) if Instant::now() >= until => return Err(StartError::InUse { dir: dir.to_owned() }),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, error)) => return Err(unusable(error.into())),
        };
        sleep(TRIED_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at the lock as a program does that the node before began.
    fn look(dir: &Path) -> Flock<File> {
        Flock::lock(File::open(dir.join("lock")).unwrap(), FlockArg::LockSharedNonblock).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_looks_at_the_lock_for_a_moment_keeps_no_node_from_starting_and_who_has_it_does() {
        let dir = tempfile::tempdir().unwrap();
        drop(take(dir.path()).await.unwrap());
        let looking = look(dir.path());
        let (taken, _) = tokio::join!(take(dir.path()), async {
            sleep(WAITED_FOR / 2).await;
            drop(looking);
        });
        let taken = taken.unwrap();
        let refused = take(dir.path()).await.err();
        assert!(matches!(refused, Some(StartError::InUse { .. })), "{refused:?}");
        drop(taken);
    }
}
