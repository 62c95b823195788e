//! Rounds: a task that looks at what is stored, again and again, at a bounded rate, until its owner drops it.
//!
//! It owns nothing of what it looks at. After a restart it begins again.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

/// The speed of rounds, and how often they are made.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The most bytes that are read in a second.
    pub bytes_per_second: u64,
    /// The time from the start of a node to its first round.
    pub first_rest: Duration,
    /// The time from the end of one round to the beginning of the next.
    pub rest: Duration,
}

/// The function that a round tells of each part that it has read; an error ends the round.
pub type Each<'a> = &'a mut dyn FnMut(u64) -> io::Result<()>;

/// The task. Dropping it ends it, also in the midst of a round.
pub struct Rounds {
    task: JoinHandle<()>,
    over: Arc<AtomicBool>,
}

impl Rounds {
    /// Starts the task. `round` blocks, and reports its own findings. `what` names, in the log, what a failed round could not
    /// look at.
    pub fn start(what: &'static str, pace: Pace, round: impl Fn(Each<'_>) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let (over, round) = (Arc::new(AtomicBool::new(false)), Arc::new(round));
        let ended = over.clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep(pace.first_rest).await;
            loop {
                let (round, over) = (round.clone(), ended.clone());
                let looked = tokio::task::spawn_blocking(move || {
                    round(&mut paced(pace.bytes_per_second, move || over.load(Ordering::Relaxed)))
                });
                match looked.await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => return,
                    Ok(Err(error)) => tracing::error!(%error, "{what} cannot be looked at; it is tried again later"),
                    Err(error) => tracing::error!(%error, "a look at {what} broke off; it is tried again later"),
                }
                tokio::time::sleep(pace.rest).await;
            }
        });
        Self { task, over }
    }

    #[cfg(test)]
    pub(crate) fn over(&self) -> Arc<AtomicBool> {
        self.over.clone()
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.task.abort();
    }
}

/// Makes the function that waits after each part for as long as it must have taken; it gives an error when it is over.
pub(crate) fn paced(bytes_per_second: u64, over: impl Fn() -> bool) -> impl FnMut(u64) -> io::Result<()> {
    let (began, mut read) = (Instant::now(), 0_u64);
    move |bytes| {
        read += bytes;
        let due = Duration::from_secs_f64(read as f64 / bytes_per_second as f64);
        while !over() && began.elapsed() < due {
            // In short steps, so that an end is not waited for.
            std::thread::sleep((due - began.elapsed().min(due)).min(Duration::from_millis(100)));
        }
        if over() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }
}
