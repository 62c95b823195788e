//! The steward: when an election is begun, and what follows from its outcome.
//!
//! A node that hears no leader asks the others first whether they hear none either, and whether its log is as new as theirs
//! (a pre-vote): one that was away, or hears worse than others, disturbs nobody. A new leader takes an epoch before it
//! says that it leads: incarnations it gives are above all before.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use openraft::ServerState;
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::{
    Applied, Leadership,
    candidacy::PROMISE,
    group::Shared,
    wire::{self, Kind},
};
use crate::{clock::Deadline, ledger::record::Command, op::NodeId};

/// The pause between two looks at the silence.
const TICK: Duration = Duration::from_millis(20);
const PRE_VOTE_WITHIN: Duration = Duration::from_millis(300);
/// The time that a new leader's first entry may take before it is tried again.
const EPOCH_WITHIN: Duration = Duration::from_secs(2);

/// Watches this node's part in the group until Raft stops: tells who leads, takes an epoch when this node does, and begins an
/// election when no leader is heard. `epoch` is the term and the epoch that are taken already.
pub async fn steward(shared: Arc<Shared>, mut epoch: Option<(u64, u64)>) {
    let mut metrics = shared.raft.server_metrics();
    let mut next_try = Instant::now();
    let mut patience = delay(&shared);
    loop {
        if let Ok(Err(_)) = timeout(TICK, metrics.changed()).await {
            // It has stopped.
            return;
        }
        let (state, term, leader) = {
            let metrics = metrics.borrow_and_update();
            (metrics.state, metrics.vote.leader_id().term, metrics.current_leader)
        };
        let me = shared.setup.id;
        let leads = state == ServerState::Leader && leader == Some(me);
        if leads && epoch.is_none_or(|(of, _)| of != term) {
            let written = timeout(EPOCH_WITHIN, shared.raft.client_write(Command::NextEpoch)).await;
            if let Ok(Ok(written)) = written
                && let Applied::Epoch(taken) = written.data
            {
                epoch = Some((written.log_id.leader_id.term, taken));
            }
        }
        let taken = epoch.filter(|(of, _)| leads && *of == term).map(|(_, epoch)| epoch);
        let now = Leadership {
            term,
            leader: leader.and_then(|leader| shared.node_of(leader)),
            is_me: taken.is_some(),
            epoch: taken.unwrap_or(0),
        };
        shared.leadership.send_if_modified(|before| {
            let changed = *before != now;
            if changed {
                tracing::info!(term, leader = ?now.leader, is_me = now.is_me, "leadership");
                *before = now.clone();
            }
            changed
        });
        if leads || matches!(state, ServerState::Learner | ServerState::Shutdown) {
            continue;
        }
        if shared.voters() == [me] {
            // Nobody else is to be asked. Not twice for one outcome: a second election would end the lead of the first.
            if Instant::now() >= next_try {
                let _ = shared.raft.trigger().elect().await;
                next_try = Instant::now() + shared.setup.timing.lease / 4;
            }
            continue;
        }
        if shared.quiet() < shared.setup.timing.lease + patience || Instant::now() < next_try {
            continue;
        }
        if !shared.candidacy.lock().stand(shared.setup.node, shared.log.last(), Instant::now()) {
            continue;
        }
        if would_win(&shared).await && shared.candidacy.lock().begin(Instant::now()) {
            tracing::info!(term, quiet_ms = shared.quiet().as_millis() as u64, "no leader is heard: an election begins");
            // An error is a stopped raft: the loop ends.
            let _ = shared.raft.trigger().elect().await;
            next_try = Instant::now() + shared.setup.timing.lease / 4 + delay(&shared);
        } else {
            shared.candidacy.lock().withdraw();
            next_try = Instant::now() + TICK + PROMISE.mul_f64(fastrand::f64());
        }
        patience = delay(&shared);
    }
}

/// Says to the others that this node leads, while it does. Openraft's own beat is off, because its length is also how long an
/// append may be on its way, and a round trip may be longer than a beat.
pub async fn beat(shared: Arc<Shared>) {
    let mut beats = tokio::time::interval(shared.setup.timing.heartbeat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        let leads = shared.leader() == Some(shared.setup.id) && !shared.aside.load(Ordering::Acquire);
        // An error is a stopped raft.
        if leads && shared.raft.trigger().heartbeat().await.is_err() {
            return;
        }
    }
}

/// Returns a random wait, so that not all begin at the same moment.
fn delay(shared: &Shared) -> Duration {
    shared.setup.timing.lease.mul_f64(fastrand::f64() * 0.2)
}

async fn would_win(shared: &Shared) -> bool {
    let last = shared.log.last();
    let Ok(body) = wire::write(Kind::PreVote, &wire::PreVote { last }) else { return false };
    let voters = shared.voters();
    let needed = voters.len() / 2 + 1;
    let deadline = Deadline::after(PRE_VOTE_WITHIN);
    let others = voters.iter().filter(|voter| **voter != shared.setup.id);
    let mut asked: FuturesUnordered<_> = others.map(|voter| shared.ask(*voter, &body, deadline)).collect();
    let mut yes = 1;
    while yes < needed
        && let Some(answer) = asked.next().await
    {
        yes += usize::from(answer.is_ok_and(|answer| wire::read::<bool>(&answer).unwrap_or(false)));
    }
    yes >= needed
}

/// Tells whether we would vote for a candidate with such a log.
pub(super) fn pre_vote(shared: &Shared, candidate: NodeId, asked: &wire::PreVote) -> bool {
    if shared.leader() == Some(shared.setup.id) && !shared.aside.load(Ordering::Acquire) && shared.quorum().is_ok() {
        return false;
    }
    // Openraft itself refuses votes for one lease after the leader was heard.
    let would = asked.last >= shared.log.last() && shared.quiet() >= shared.setup.timing.lease;
    would && shared.candidacy.lock().yields(candidate, asked.last, Instant::now())
}

/// Lets another be elected: no writes and no heartbeats until one is, or `within` is over. Tells whether one was.
pub(super) async fn step_aside(shared: &Shared, within: Duration) -> bool {
    let me = shared.setup.id;
    if shared.leader() != Some(me) {
        return true;
    }
    shared.aside.store(true, Ordering::Release);
    let mut metrics = shared.raft.server_metrics();
    let other = metrics.wait_for(|metrics| metrics.current_leader.is_some_and(|leader| leader != me));
    let gone = timeout(within, other).await.is_ok_and(|found| found.is_ok());
    shared.aside.store(false, Ordering::Release);
    gone
}
