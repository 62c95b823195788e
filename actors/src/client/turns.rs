//! What a node takes in hand at once of requests that are large or take long; who does not get a turn in time is told that
//! nothing happened, long before his request would end without an answer.

use std::{sync::Arc, time::Duration};

use hiveward_runtime::{
    clock::Deadline,
    error::{Code, Refused},
};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of declarations that wait for the roster, or for what they declared to start; a further one waits for its turn. A
/// larger one waits until it is alone.
const DECLARED_BYTES_MAX: usize = 8 << 20;
/// The unit in which they are counted: small ones never wait.
const BYTES_PER_PERMIT: usize = 1 << 10;
/// Scalings at once: each reads every agent of its swarm.
const SCALINGS_MAX: usize = 2;
/// How long one waits for its turn, and the part of its deadline that is left for doing it.
const TURN_WITHIN: Duration = Duration::from_secs(10);
const LEFT_TO_DO_IT: Duration = Duration::from_secs(5);

/// Cheap to clone; all clones are one.
#[derive(Clone)]
pub(super) struct Turns {
    declared: Arc<Semaphore>,
    scalings: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            declared: Arc::new(Semaphore::new(DECLARED_BYTES_MAX / BYTES_PER_PERMIT)),
            scalings: Arc::new(Semaphore::new(SCALINGS_MAX)),
        }
    }
}

impl Turns {
    /// Waits for the turn of a declaration, which it holds until the permit is dropped. Refused with `BUSY` if it does not come
    /// in time; nothing has happened then.
    pub async fn declare(&self, deadline: Deadline, declared: &impl Serialize) -> Result<OwnedSemaphorePermit, Refused> {
        let bytes = rmp_serde::to_vec(declared).map_err(|error| Refused::new(Code::Internal, error.to_string()))?.len();
        let permits = bytes.div_ceil(BYTES_PER_PERMIT).clamp(1, DECLARED_BYTES_MAX / BYTES_PER_PERMIT);
        let what = "more is declared at once than this node takes in hand";
        take(&self.declared, u32::try_from(permits).unwrap_or(u32::MAX), deadline, what).await
    }

    /// Waits for the turn of a scaling in the same way.
    pub async fn scale(&self, deadline: Deadline) -> Result<OwnedSemaphorePermit, Refused> {
        take(&self.scalings, 1, deadline, "other swarms are being scaled on this node").await
    }
}

async fn take(of: &Arc<Semaphore>, permits: u32, deadline: Deadline, what: &str) -> Result<OwnedSemaphorePermit, Refused> {
    let within = deadline.remaining().saturating_sub(LEFT_TO_DO_IT).min(TURN_WITHIN);
    let turn = tokio::time::timeout(within, of.clone().acquire_many_owned(permits)).await;
    turn.ok().and_then(Result::ok).ok_or_else(|| {
        let message =
            format!("{what}, and its turn did not come in {} s; nothing happened: try again in a moment", within.as_secs());
        Refused::new(Code::Busy, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn large_declarations_wait_for_each_other_small_ones_pass_and_who_waits_too_long_hears_that_nothing_happened() {
        let (turns, deadline) = (Turns::default(), Deadline::after(Duration::from_secs(30)));
        let large = vec![0_u8; DECLARED_BYTES_MAX / 2 + 1];
        let first = turns.declare(deadline, &large).await.unwrap();
        let _small = turns.declare(deadline, &"small").await.unwrap();
        let began = tokio::time::Instant::now();
        let refused = turns.declare(deadline, &large).await.unwrap_err();
        assert_eq!((refused.code, began.elapsed()), (Code::Busy, TURN_WITHIN));
        // What is larger than all that may be in hand comes when it is alone.
        let largest = vec![0_u8; 3 * DECLARED_BYTES_MAX];
        let waiting = turns.declare(deadline, &largest);
        drop((first, _small));
        drop(waiting.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_would_come_too_late_to_do_anything_is_not_waited_for() {
        let (turns, soon) = (Turns::default(), Deadline::after(Duration::from_secs(7)));
        let _held = (turns.scale(soon).await.unwrap(), turns.scale(soon).await.unwrap());
        let began = tokio::time::Instant::now();
        assert_eq!(turns.scale(soon).await.unwrap_err().code, Code::Busy);
        assert_eq!(began.elapsed(), Duration::from_secs(2));
    }
}
