//! Watches what is no actor itself: the ledger and the views. Keeps the ledger's retention.
//!
//! Owns nothing. Asks the ledger to compact. After a restart it just looks again.

use std::time::Duration;

use hiveward_runtime::{
    ledger::{Cursor, DiskState},
    supervise::{Behaviour, Context, Failure, TimerHandle},
};

use crate::house::House;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Events kept beyond what replays need, so that clients can resume from older cursors.
const EVENTS_KEPT: u64 = 5_000_000;
/// Compacted when so many more have gathered.
const EVENTS_OVER: u64 = 500_000;

pub struct LedgerWatch {
    house: House,
}

pub struct State {
    _timer: TimerHandle,
}

impl LedgerWatch {
    pub fn new(house: House) -> Self {
        Self { house }
    }
}

impl Behaviour for LedgerWatch {
    type Msg = ();
    type State = State;

    async fn start(&self, ctx: &Context<()>) -> Result<State, Failure> {
        Ok(State { _timer: ctx.every(LOOK_EVERY, || ()) })
    }

    async fn handle(&self, ctx: &Context<()>, (): (), _: &mut State) -> Result<(), Failure> {
        let status = self.house.ledger.status();
        match (&status.disk, self.house.views.failure()) {
            (DiskState::Ok, None) => ctx.set_note("ok"),
            (DiskState::Full { free_bytes }, _) => {
                ctx.set_note(&format!("disk full ({free_bytes} bytes free): writes are refused"))
            }
            (DiskState::Failed { why }, _) => ctx.set_note(&format!("store failed: {why}")),
            (DiskState::Ok, Some(why)) => ctx.set_note(&format!("views stopped: {why}")),
        }
        let keep_after = status.head.0.saturating_sub(EVENTS_KEPT);
        // Views that are behind must still be able to read.
        let keep_after = keep_after.min(self.house.views.cursor().0);
        if status.disk == DiskState::Ok && keep_after > status.oldest.0 + EVENTS_OVER {
            let oldest = self.house.ledger.compact(Cursor(keep_after)).await?;
            tracing::info!(%oldest, "compacted the ledger");
        }
        Ok(())
    }
}
