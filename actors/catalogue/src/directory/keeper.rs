//! Keeps the directory up with the local ledger.
//!
//! Owns nothing: the fold is the directory's. After a restart it goes on where the fold is.

use std::time::Duration;

use hiveward_runtime::{
    clock::Deadline,
    ledger::{Cursor, ReadError},
    supervise::{Behaviour, Context, Failure},
};

use super::{Directory, DirectoryError};

/// How long one wait for the ledger to move lasts at most; then the keeper waits again.
const WAIT_PER_TURN: Duration = Duration::from_secs(3600);
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// The actor that keeps a node's directory up to date.
pub struct DirectoryKeeper {
    directory: Directory,
}

/// The message of the keeper's own task: the directory can no longer follow, and why.
pub enum Said {
    Broken(String),
}

impl DirectoryKeeper {
    /// Makes the keeper of this directory.
    pub fn new(directory: Directory) -> Self {
        Self { directory }
    }
}

impl Behaviour for DirectoryKeeper {
    type Msg = Said;
    type State = ();

    async fn start(&self, ctx: &Context<Said>) -> Result<(), Failure> {
        let directory = self.directory.clone();
        tokio::task::spawn_blocking(move || directory.catch_up()).await??;
        let (directory, me) = (self.directory.clone(), ctx.addr().clone());
        ctx.task(async move {
            loop {
                let next = Cursor(directory.cursor().0 + 1);
                if !directory.0.ledger.reached(next, Deadline::after(WAIT_PER_TURN)).await {
                    // At once only if the ledger is gone.
                    tokio::time::sleep(RETRY_EVERY).await;
                    continue;
                }
                match directory.catch_up() {
                    Ok(()) => {}
                    // The store is being reopened, or the node stops.
                    Err(DirectoryError::Read(ReadError::Storage(_) | ReadError::Stopped)) => {
                        tokio::time::sleep(RETRY_EVERY).await;
                    }
                    Err(error) => {
                        let _ = me.tell(Said::Broken(error.to_string()));
                        return;
                    }
                }
            }
        });
        Ok(())
    }

    async fn handle(&self, _: &Context<Said>, Said::Broken(why): Said, (): &mut ()) -> Result<(), Failure> {
        Err(Failure::new(why))
    }
}
