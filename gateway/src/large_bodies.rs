//! Turns of requests with large bodies: only so many bytes of them are made into values at once.
//!
//! A body that waits takes its bytes. The values that are made of it, the executor's copies included, take up to thirty times
//! as much, and hundreds of those at once were gigabytes. A body of the usual size never waits. Who gets no turn in time is told
//! that nothing happened.

use std::{sync::Arc, time::Duration};

use async_graphql::parser::types::OperationType;
use hiveward_runtime::{
    clock::Deadline,
    error::{Code, Refused},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bytes of large bodies that are executed at once. A larger one waits until it is alone.
pub const BYTES_MAX: usize = 8 << 20;
/// The size up to which a body does not wait.
pub const SMALL_BYTES: usize = 16 << 10;
/// The unit in which the bytes are counted.
const BYTES_PER_PERMIT: usize = 1 << 10;
/// How long a body waits for its turn at most.
pub const TURN_WITHIN: Duration = Duration::from_secs(10);
/// The part of a deadline that is left for the execution.
const LEFT_TO_DO_IT: Duration = Duration::from_secs(5);

/// The turns of one gateway. It is cheap to clone; all clones are one.
#[derive(Clone)]
pub struct LargeBodies(Arc<Semaphore>);

/// The turn of a body, or the leave of a small one. Dropping it lets the next have its turn.
#[derive(Debug)]
pub struct Turn {
    permit: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// Returns the leave of what is small.
    pub fn small() -> Self {
        Self { permit: None }
    }

    /// Returns what is kept of it while the operation runs: a subscription, which may last for ever, gives it up.
    pub fn of(self, operation: Option<OperationType>) -> Self {
        if operation == Some(OperationType::Subscription) { Self::small() } else { self }
    }

    /// Tells whether it is that of a large body.
    pub fn is_large(&self) -> bool {
        self.permit.is_some()
    }
}

impl Default for LargeBodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BYTES_MAX / BYTES_PER_PERMIT)))
    }
}

impl LargeBodies {
    /// Waits for the turn of a body of so many bytes; those that came before have theirs first. Errors: `Busy` if it does not come
    /// in time.
    pub async fn turn(&self, bytes: usize, deadline: Deadline) -> Result<Turn, Refused> {
        if bytes <= SMALL_BYTES {
            return Ok(Turn::small());
        }
        let permits = bytes.div_ceil(BYTES_PER_PERMIT).min(BYTES_MAX / BYTES_PER_PERMIT);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let within = deadline.remaining().saturating_sub(LEFT_TO_DO_IT).min(TURN_WITHIN);
        let permit = tokio::time::timeout(within, self.0.clone().acquire_many_owned(permits)).await;
        let permit = permit.ok().and_then(Result::ok).ok_or_else(|| {
            metrics::counter!("hiveward_http_busy_total").increment(1);
            Refused::new(
                Code::Busy,
                format!(
                    "other large requests are executed, and the turn of this one did not come in {} s; nothing happened: try \
                     again in a moment",
                    within.as_secs()
                ),
            )
        })?;
        Ok(Turn { permit: Some(permit) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn large_bodies_have_their_turn_one_after_the_other_and_small_ones_never_wait() {
        let (bodies, deadline) = (LargeBodies::default(), Deadline::after(Duration::from_secs(30)));
        let half = BYTES_MAX / 2 + 1;
        let first = bodies.turn(half, deadline).await.unwrap();
        let second = tokio::spawn({
            let bodies = bodies.clone();
            async move { bodies.turn(half, deadline).await }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished() && !bodies.turn(SMALL_BYTES, deadline).await.unwrap().is_large());
        drop(first);
        let second = second.await.unwrap().unwrap();
        let began = tokio::time::Instant::now();
        assert_eq!(bodies.turn(half, deadline).await.unwrap_err().code, Code::Busy);
        assert_eq!(began.elapsed(), TURN_WITHIN);
        drop(second);
        // What is larger than all that may be in hand has its turn when it is alone.
        drop(bodies.turn(3 * BYTES_MAX, deadline).await.unwrap());
    }
}
