//! Brings what this node used into the ledger, and what the cluster spent into this node's meter.
//!
//! Owns this node's usage stream: claims it, and again after an append that failed. Asks the books for what is to be
//! written. Lives as long as its node, from before the first agent is adopted until after the last is let go.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hiveward_kernel::commit::{Batch, Committer};
use hiveward_runtime::{
    clock::Deadline,
    ledger::{AppendError, Cursor, Life, StreamSnapshot},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    event::{self, UsageEvent},
    models::Models,
};
use crate::services::ModelServices;

/// The time within which calls that end are written together.
const LINGER: Duration = Duration::from_millis(20);
const EVENTS_PER_BATCH: usize = 1_024;
/// The number of events after which a snapshot is written: a claim reads at most about so many, and older events can be taken
/// out by the ledger's retention.
const EVENTS_PER_SNAPSHOT: usize = 10_000;
const CLAIM_RETRY: Duration = Duration::from_millis(500);
/// The shortest time between two looks at what the cluster spent.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const WAIT_PER_TURN: Duration = Duration::from_secs(3600);
/// The time for calls to be settled that were cut because the node stops.
const SETTLED_WITHIN: Duration = Duration::from_secs(1);
/// The least time for what waits to be written, however late it is.
const WRITTEN_WITHIN_MIN: Duration = Duration::from_secs(2);

/// The tasks that keep a node's usage up to date. Dropping it leaves what waits unwritten.
pub struct UsageKeeper {
    models: Models,
    stopping: CancellationToken,
    writing: JoinHandle<()>,
    following: JoinHandle<()>,
}

impl UsageKeeper {
    /// Starts the keeper; `None` on a node without a way to models.
    pub fn start(services: &ModelServices) -> Option<Self> {
        let models = services.models()?;
        models.books().open(services.usage.clone(), UsageEvent::stream(services.me.node));
        let stopping = CancellationToken::new();
        let writing = tokio::spawn(write(services.clone(), models.clone(), stopping.clone()));
        let following = tokio::spawn(follow(services.clone(), models.clone()));
        Some(Self { models, stopping, writing, following })
    }

    /// Lets no call in any more, lets those under way end for half the time and cuts them then, and writes what was used.
    /// What could not be written in time is lost, and logged.
    pub async fn stop(mut self, deadline: Deadline) {
        self.models.close_all(deadline.remaining() / 2, SETTLED_WITHIN).await;
        self.stopping.cancel();
        // Whatever the tree took of the time: this is what would be lost.
        let written = deadline.remaining().max(WRITTEN_WITHIN_MIN);
        if tokio::time::timeout(written, &mut self.writing).await.is_err() {
            let calls = self.models.books().waiting();
            tracing::error!(calls, "what some calls of models used was not recorded in time; it is not counted");
        }
    }
}

impl Drop for UsageKeeper {
    fn drop(&mut self) {
        self.writing.abort();
        self.following.abort();
    }
}

async fn write(services: ModelServices, models: Models, stopping: CancellationToken) {
    let stream = UsageEvent::stream(services.me.node);
    loop {
        match services.ledger.claim(&stream).await {
            Ok(life) => {
                models.books().claimed(life.version);
                if write_in_one_life(&services, &models, &stopping, life).await {
                    return;
                }
            }
            Err(error) => tracing::debug!(%error, "what models used waits to be recorded"),
        }
        tokio::time::sleep(CLAIM_RETRY).await;
    }
}

/// Writes until an append fails; returns true when everything is written and nothing more comes.
async fn write_in_one_life(services: &ModelServices, models: &Models, stopping: &CancellationToken, life: Life) -> bool {
    let stream = UsageEvent::stream(services.me.node);
    let broken = Arc::new(AtomicBool::new(false));
    let failed = {
        let broken = broken.clone();
        move |error: AppendError| {
            tracing::warn!(%error, "what models used may not have been recorded; it is looked up and tried again");
            broken.store(true, Ordering::Relaxed);
        }
    };
    let (committer, committing) = Committer::new(services.ledger.clone(), stream, life.incarnation, life.version, failed);
    let feeding = async move {
        let mut since_snapshot = life.events.len();
        loop {
            // Looked at first: what is added until then is taken.
            let last = stopping.is_cancelled();
            let bodies = models.books().take(EVENTS_PER_BATCH);
            if bodies.is_empty() {
                if last {
                    return true;
                }
                tokio::select! {
                    () = models.books().rung() => {}
                    () = stopping.cancelled() => continue,
                }
                tokio::select! {
                    () = tokio::time::sleep(LINGER) => {}
                    () = stopping.cancelled() => {}
                }
                continue;
            }
            let mut batch = Batch::default();
            since_snapshot += bodies.len();
            for body in bodies {
                batch.push("ModelUsed", event::FORMAT, body);
            }
            if since_snapshot >= EVENTS_PER_SNAPSHOT {
                // Nothing is replayed: totals are the view's.
                batch.snapshot = Some(StreamSnapshot { format: event::FORMAT, body: bytes::Bytes::new() });
                since_snapshot = 0;
            }
            if committer.hand_over(batch).await.is_err() {
                return false;
            }
        }
    };
    // The committer ends when the feeding has let go of it, or when an append failed.
    let mut committing = std::pin::pin!(committing);
    tokio::select! {
        () = &mut committing => false,
        fed = feeding => {
            committing.await;
            fed && !broken.load(Ordering::Relaxed)
        }
    }
}

async fn follow(services: ModelServices, models: Models) {
    let began = services.ledger.head();
    while let Err(lagging) = services.views.at_least(began, Deadline::after(WAIT_PER_TURN)).await {
        tracing::debug!(%lagging, "what was spent is not known yet");
    }
    let directory = services.directory.clone();
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || directory.catch_up()).await {
        tracing::warn!(%error, "budgets are not known yet");
    }
    services.know_budgets();
    models.books().caught_up();
    let mut budgets = services.directory.follow();
    loop {
        let at = services.views.cursor();
        budgets.mark_unchanged();
        match models.books().take_landed() {
            // The view was so far when they were looked up, or farther.
            Ok(landed) => models.counter().landed(&landed, services.views.cursor().0),
            Err(refused) => {
                tracing::warn!(why = refused.message, "what was recorded cannot be read; it stays set aside until it can");
            }
        }
        services.know_budgets();
        tokio::select! {
            _ = services.views.at_least(Cursor(at.0 + 1), Deadline::after(WAIT_PER_TURN)) => {}
            Ok(()) = budgets.changed() => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
