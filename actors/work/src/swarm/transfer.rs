//! Lets the coordinators of one swarm's shards give each other work that has not begun.
//!
//! A part of the coordinator's actor. A shard with free places asks a sibling, one at a time; the sibling commits what it gives
//! before it sends it, and sends it again until it hears what became of it. Everything that is told may be lost, doubled or late:
//! `steal` decides what it then means. After a restart asking begins anew, and so does repeating.

use std::time::Duration;

use hiveward_kernel::{commit::Batch, entity::Entity, id::SwarmId, loss};
use hiveward_runtime::supervise::{Context, Failure, TimerHandle};
use serde::{Deserialize, Serialize};

use super::{
    actor::{Coordinator, State},
    event::SwarmEvent,
    message::SwarmMsg,
    steal::{Moving, Places, Taking},
    wire::SwarmWire,
};
use crate::{swarm::services::WorkServices, task::status::TaskStatus};

/// The pause after which a shard with free places looks for work elsewhere; half of it to half as much again, by chance, so
/// that shards that became idle together do not ask together.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The pause after it was given some, if it has places free already.
const LOOK_SOON: Duration = Duration::from_millis(20);
/// How often at most the wait is doubled: each sibling in a row that has nothing to give though tasks wait there doubles it.
const MISSES_MAX: u32 = 3;
/// The milliseconds after which an ask that was not answered is forgotten, and the next sibling is asked.
const ASK_WITHIN_MS: u64 = 1_000;
/// The number of looks of which one asks a sibling although the views show none with waiting tasks.
const LOOKS_PER_BLIND_ASK: u32 = 20;

/// A message between coordinators of one swarm. Variants and fields have names: add, never rename.
#[derive(Debug, Serialize, Deserialize)]
pub enum Sibling {
    /// Asks for work: these places are free at `by`, and nothing there can use them.
    Ask { by: SwarmId, places: Vec<Places> },
    /// Answers that there is nothing to give.
    Nothing { by: SwarmId },
    /// Hands tasks over. It is in the ledger of the one that gives; said again until `Took` is heard.
    Hand { by: SwarmId, transfer: u64, tasks: Vec<Moving> },
    /// Answers a transfer. It is in the ledger of the one that takes; if `refused`, it never will be there.
    Took { by: SwarmId, transfer: u64, refused: bool },
}

/// The state of a coordinator's search for work; not in the ledger.
#[derive(Default)]
pub struct Search {
    timer: Option<TimerHandle>,
    /// The sibling that it asked last, and when.
    asked: Option<(SwarmId, u64)>,
    /// The number of the sibling whose turn it is to be asked.
    turn: u16,
    looks: u32,
    soon: bool,
    /// The number of siblings in a row that had tasks waiting and none to give.
    misses: u32,
}

fn tell(services: &WorkServices, to: SwarmId, said: Sibling) {
    if let Some(door) = services.doors.of::<SwarmMsg>(to) {
        // Not heard: an ask is made again, a transfer is repeated, and an answer follows each repetition.
        let _ = door.tell(SwarmMsg::Sibling(said));
        return;
    }
    let Some(at) = services.directory.location(Entity::Swarm(to)).filter(|at| at.node != services.me.node) else { return };
    if !loss::strikes() {
        let _ = services.router.tell_at(at, &to.key(), &SwarmWire::Sibling(said));
    }
}

impl Coordinator {
    pub(super) async fn hear_sibling(&self, ctx: &Context<SwarmMsg>, state: &mut State, said: Sibling) -> Result<(), Failure> {
        match said {
            Sibling::Ask { by, places } => self.give(ctx, state, by, &places).await,
            Sibling::Nothing { by } => {
                if state.search.asked.take_if(|(asked, _)| *asked == by).is_some() {
                    state.search.misses = (state.search.misses + 1).min(MISSES_MAX);
                }
                Ok(())
            }
            Sibling::Hand { by, transfer, tasks } => self.take(ctx, state, by, transfer, &tasks).await,
            Sibling::Took { by, transfer, refused } => self.settle_transfer(ctx, state, by, transfer, refused).await,
        }
    }

    async fn give(&self, ctx: &Context<SwarmMsg>, state: &mut State, to: SwarmId, places: &[Places]) -> Result<(), Failure> {
        if !self.spec.is_sibling(to) {
            return Ok(());
        }
        let mut batch = Batch::default();
        let given = if state.closing { None } else { state.swarm.give(to, places) };
        match given {
            Some(event) => {
                self.record(state, &mut batch, &event)?;
                self.send(state, &mut batch, Some(to));
            }
            // A transfer to it may be under way: it has not heard of that one, or will hear of it twice.
            None if state.swarm.transfers.under_way().any(|(other, _)| other == to) => self.send(state, &mut batch, Some(to)),
            None => tell(&self.services, to, Sibling::Nothing { by: self.spec.id }),
        }
        self.settle(ctx, state, batch).await
    }

    /// Sends what is under way, to one sibling or to all, once it is durable.
    fn send(&self, state: &State, batch: &mut Batch, only: Option<SwarmId>) {
        for (to, given) in state.swarm.transfers.under_way().filter(|(to, _)| only.is_none_or(|only| only == *to)) {
            let (services, tasks) = (self.services.clone(), given.tasks.clone());
            let (by, transfer) = (self.spec.id, given.transfer);
            batch.then(move |_| tell(&services, to, Sibling::Hand { by, transfer, tasks }));
        }
    }

    /// Says again what no sibling has said to have taken. Called with the sweep, so in a new life of this coordinator too.
    pub(super) async fn repeat_transfers(&self, ctx: &Context<SwarmMsg>, state: &mut State) -> Result<(), Failure> {
        if state.swarm.transfers.tasks_under_way() == 0 {
            return Ok(());
        }
        let mut batch = Batch::default();
        self.send(state, &mut batch, None);
        self.settle(ctx, state, batch).await
    }

    async fn take(
        &self,
        ctx: &Context<SwarmMsg>,
        state: &mut State,
        from: SwarmId,
        transfer: u64,
        tasks: &[Moving],
    ) -> Result<(), Failure> {
        let Some(taking) = state.swarm.take(from, transfer, tasks, state.closing) else { return Ok(()) };
        let mut batch = Batch::default();
        let refused = match taking {
            Taking::New(event) => {
                self.record(state, &mut batch, &event)?;
                (state.search.soon, state.search.misses) = (true, 0);
                matches!(event, SwarmEvent::TransferRefused { .. })
            }
            Taking::Repeated { refused } => refused,
        };
        state.search.asked.take_if(|(asked, _)| *asked == from);
        let (services, by) = (self.services.clone(), self.spec.id);
        // Also a repetition waits: what it repeats may still be on its way to disk.
        batch.then(move |_| tell(&services, from, Sibling::Took { by, transfer, refused }));
        self.settle(ctx, state, batch).await
    }

    async fn settle_transfer(
        &self,
        ctx: &Context<SwarmMsg>,
        state: &mut State,
        to: SwarmId,
        transfer: u64,
        refused: bool,
    ) -> Result<(), Failure> {
        let Some(event) = state.swarm.settled(to, transfer, refused) else { return Ok(()) };
        let back: Vec<_> = match state.swarm.transfers.under_way().find(|(other, _)| *other == to) {
            Some((_, given)) if refused && state.closing => given.tasks.iter().map(|moving| moving.spec.id).collect(),
            _ => Vec::new(),
        };
        let cancel = |task| SwarmEvent::Cancelled { task, reason: "its swarm was removed".into(), lease: None, operation: None };
        self.record_all(ctx, state, std::iter::once(event).chain(back.into_iter().map(cancel))).await
    }

    /// Looks for work elsewhere as long as places are free here.
    pub(super) fn arm_search(&self, ctx: &Context<SwarmMsg>, state: &mut State) {
        if !self.spec.is_sharded() || state.closing || state.search.timer.is_some() || !state.swarm.has_free_place() {
            return;
        }
        let wait = match std::mem::take(&mut state.search.soon) {
            true => LOOK_SOON,
            false => (LOOK_EVERY * (1 << state.search.misses)).mul_f64(0.5 + state.dice.f64()),
        };
        state.search.timer = Some(ctx.after(wait, SwarmMsg::LookForWork));
    }

    pub(super) fn look_for_work(&self, ctx: &Context<SwarmMsg>, state: &mut State) {
        state.search.timer = None;
        let now = self.services.mono_ms();
        let waits = state.search.asked.is_some_and(|(_, at)| now.saturating_sub(at) < ASK_WITHIN_MS);
        if !waits && !state.closing {
            let places = state.swarm.free_places();
            let sibling = if places.is_empty() { None } else { self.whom_to_ask(state) };
            match sibling {
                Some(sibling) => {
                    state.search.asked = Some((sibling, now));
                    tell(&self.services, sibling, Sibling::Ask { by: self.spec.id, places });
                }
                // Nothing waits anywhere; what comes next is looked for soon.
                None => state.search.misses = 0,
            }
        }
        self.arm_search(ctx, state);
    }

    /// Returns the next sibling that has waiting tasks as far as this node's views know; now and then the next one whatever they
    /// say, because they may be behind.
    fn whom_to_ask(&self, state: &mut State) -> Option<SwarmId> {
        state.search.looks = state.search.looks.wrapping_add(1);
        let (shards, turn) = (self.spec.shards, state.search.turn % self.spec.shards);
        let head = self.spec.head();
        let counts = self.services.tasks.counts_by_shard(head).unwrap_or_default();
        let blind = state.search.looks.is_multiple_of(LOOKS_PER_BLIND_ASK);
        let waiting = |shard: SwarmId| counts.get(&shard).is_some_and(|counts| counts[TaskStatus::Queued as usize] > 0);
        let in_turn = (0..shards).map(|n| (turn + n) % shards).filter(|number| *number != self.spec.shard);
        let number = in_turn.clone().find(|number| waiting(head.shard(*number))).or_else(|| in_turn.clone().find(|_| blind))?;
        state.search.turn = number + 1;
        Some(head.shard(number))
    }
}
