//! What watches the ledger and the views, which are no actors themselves, and keeps the ledger's retention.
//!
//! Owns nothing. Asks the ledger to compact. After a restart it just looks again.

use std::time::Duration;

use hiveward_runtime::{
    clock::WallMs,
    ledger::{Cursor, DiskState, ReadError},
    supervise::{Behaviour, Context, Failure, TimerHandle},
};
use tokio::time::Instant;

use crate::house::House;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The part of what is kept, one in so many, that may gather before it is compacted.
const OVER: u64 = 11;

/// How much of the ledger is kept beyond what replays need, so that clients can resume from older cursors. Whichever bound is
/// met first counts; the leader's hold for all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerRetention {
    pub events_max: u64,
    /// The most bytes of the events, about.
    pub bytes_max: u64,
    pub keep: Duration,
    /// How often age and bytes are checked.
    pub look_every: Duration,
}

impl LedgerRetention {
    pub const EVENTS_MAX_DEFAULT: u64 = 5_000_000;
    pub const BYTES_MAX_DEFAULT: u64 = 32 << 30;
    pub const KEEP_DEFAULT: Duration = Duration::from_secs(365 * 86_400);
    pub const LOOK_EVERY_DEFAULT: Duration = Duration::from_secs(60);
}

impl Default for LedgerRetention {
    fn default() -> Self {
        Self {
            events_max: Self::EVENTS_MAX_DEFAULT,
            bytes_max: Self::BYTES_MAX_DEFAULT,
            keep: Self::KEEP_DEFAULT,
            look_every: Self::LOOK_EVERY_DEFAULT,
        }
    }
}

pub struct LedgerWatch {
    house: House,
    limits: LedgerRetention,
}

pub struct State {
    _timer: TimerHandle,
    /// When age and bytes were checked, and the last event that either lets go of.
    looked: Option<(Instant, Cursor)>,
}

impl LedgerWatch {
    /// Returns the behaviour of the actor that watches the ledger and compacts it to these limits.
    pub fn new(house: House, limits: LedgerRetention) -> Self {
        Self { house, limits }
    }

    /// Returns the last event that need not be kept for its age, or for the bytes of those behind it.
    fn too_old_or_large(&self, head: Cursor) -> Result<Cursor, ReadError> {
        let ledger = &self.house.ledger;
        let now = self.house.clock.now();
        let keep_ms = i64::try_from(self.limits.keep.as_millis()).unwrap_or(i64::MAX);
        let too_old = ledger.older_than(WallMs(now.0.saturating_sub(keep_ms)))?;
        let too_large = ledger.bytes_per_event()?.map_or(0, |each| {
            let fit = self.limits.bytes_max as f64 / each.max(1.0);
            head.0.saturating_sub(fit as u64)
        });
        Ok(too_old.max(Cursor(too_large)))
    }
}

impl Behaviour for LedgerWatch {
    type Msg = ();
    type State = State;

    async fn start(&self, ctx: &Context<()>) -> Result<State, Failure> {
        Ok(State { _timer: ctx.every(LOOK_EVERY.min(self.limits.look_every), || ()), looked: None })
    }

    async fn handle(&self, ctx: &Context<()>, (): (), state: &mut State) -> Result<(), Failure> {
        let status = self.house.ledger.status();
        match (&status.disk, self.house.views.failure()) {
            (DiskState::Ok, None) => match self.house.views.set_aside() {
                0 => ctx.set_note("ok"),
                aside => ctx.set_note(&format!("{aside} events could not be shown and were set aside")),
            },
            (DiskState::Full { free_bytes }, _) => {
                ctx.set_note(&format!("disk full ({free_bytes} bytes free): writes are refused"))
            }
            (DiskState::Failed { why }, _) => ctx.set_note(&format!("store failed: {why}")),
            (DiskState::Ok, Some(why)) => ctx.set_note(&format!("views stopped: {why}")),
        }
        let let_go = match state.looked {
            Some((at, let_go)) if at.elapsed() < self.limits.look_every => let_go,
            _ => {
                let let_go = self.too_old_or_large(status.head)?;
                state.looked = Some((Instant::now(), let_go));
                let_go
            }
        };
        let keep_after = status.head.0.saturating_sub(self.limits.events_max).max(let_go.0);
        // Views that are behind must still be able to read.
        let keep_after = keep_after.min(self.house.views.cursor().0);
        let over = (status.head.0 - status.oldest.0) / OVER;
        if status.disk == DiskState::Ok && keep_after > status.oldest.0 + over && self.house.ledger.leadership().borrow().is_me {
            let oldest = self.house.ledger.compact(Cursor(keep_after)).await?;
            let removed = oldest.0.saturating_sub(status.oldest.0);
            metrics::counter!("hiveward_ledger_events_removed_total").increment(removed);
            tracing::info!(%oldest, removed, "compacted the ledger: see the settings of node.ledger");
        }
        Ok(())
    }
}
