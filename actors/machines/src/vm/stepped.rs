//! Takes in the result of a step: decides what is recorded of it, and whether it is tried again.

use std::time::Duration;

use hiveward_runtime::{
    fault,
    supervise::{Context, Failure},
};
use tokio::time::Instant;

use super::{
    actor::{State, Vm},
    event::{OperationKind, VmEvent},
    message::{Stepped, VmMsg},
    reconcile::{self, Sought, Step},
    reshape::Claim,
    state::VmOperation,
    steps::points,
};
use crate::host::{driver::DriverError, message::Done};

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);
const BACKUP_TRIES_MAX: u32 = 4;

/// Tells whether another try would be too much, because each try of this step reads all of the VM's disks.
fn gives_up(active: &VmOperation, step: Step, is_restored: bool, tries: u32) -> bool {
    // Each is counted when it failed and when it is begun again.
    let reads_all = active.kind == OperationKind::Backup
        || (active.kind.is_copy() && active.copied.is_empty())
        || (is_restored && active.kind == OperationKind::Create && step == Step::Define);
    reads_all && active.abandoned.is_none() && tries / 2 + 1 >= BACKUP_TRIES_MAX
}

impl Vm {
    pub(super) async fn stepped(
        &self,
        ctx: &Context<VmMsg>,
        state: &mut State,
        step: Step,
        result: Result<Stepped, DriverError>,
    ) -> Result<(), Failure> {
        state.in_flight = None;
        let meanwhile = state.meanwhile.take();
        match result {
            Ok(done) => {
                fault::point(points(step).1, ctx.key()).await?;
                state.last_error = None;
                // What was compared before it is not news any more.
                (state.doing.done, state.doing.compared) = (Some(step), None);
                let mut lag = None;
                let done = match done {
                    Stepped::Seen(done) => {
                        lag = done.domain.as_ref().and_then(|domain| domain.lag.clone());
                        Some(done)
                    }
                    Stepped::Compared(compared, done) => {
                        state.doing.compared = Some(compared);
                        state.doing.looked_at = Some(self.services.clock.now());
                        // It may be looked at again and again, and each time something else came of it.
                        (state.last_step, state.tries) = (None, 0);
                        Some(done)
                    }
                    Stepped::Moved(measured) => {
                        if let Some(number) = state.vm.active().map(|active| active.number) {
                            self.record(ctx, state, vec![VmEvent::Moved { number, measured }], None).await?;
                        }
                        None
                    }
                    Stepped::BackedUp(backup) => {
                        self.record(ctx, state, vec![VmEvent::BackedUp { backup: Box::new(backup) }], None).await?;
                        None
                    }
                    Stepped::Pruned(number) => {
                        // Another may be old as well.
                        (state.last_step, state.tries) = (None, 0);
                        self.record(ctx, state, vec![VmEvent::BackupForgotten { number }], None).await?;
                        None
                    }
                    Stepped::Copied { number, disks } => {
                        self.record(ctx, state, vec![VmEvent::Copied { number, disks }], None).await?;
                        None
                    }
                    Stepped::Sought(Ok(sought)) => {
                        state.doing.sought = Some(sought);
                        None
                    }
                    // Its run on the host that was lost was ended, and it ran nowhere since: there is nothing to wait for.
                    Stepped::Sought(Err(_)) if state.doing.comes_back => {
                        state.doing.sought = Some(Sought::Nowhere);
                        None
                    }
                    // It is asked again, less and less often.
                    Stepped::Sought(Err(why)) => {
                        if state.vm.withheld.as_ref() != Some(&why) {
                            tracing::warn!(vm = %self.spec.name, %why, "nothing is done with a VM");
                            self.record(ctx, state, vec![VmEvent::Withheld { why }], None).await?;
                        }
                        None
                    }
                    Stepped::Told => None,
                };
                match (meanwhile, done) {
                    (Some((newer, seen_at)), Some(Done { at, .. })) if seen_at > at && step != Step::Compare => {
                        self.see(ctx, state, newer, seen_at).await
                    }
                    (_, Some(Done { domain, at })) => self.see(ctx, state, domain, at).await,
                    (Some((newer, seen_at)), None) if seen_at > state.seen_at => self.see(ctx, state, newer, seen_at).await,
                    _ => Ok(()),
                }?;
                // After it is known whether it runs: what is off lags behind nothing.
                match state.vm.active().map(|active| active.number) {
                    Some(number) if matches!(step, Step::Reshape | Step::Unshape) => {
                        self.record(ctx, state, vec![VmEvent::Reshaped { number, lag }], None).await
                    }
                    _ => Ok(()),
                }
            }
            Err(error) => {
                if let Some((domain, at)) = meanwhile.filter(|(_, at)| *at > state.seen_at) {
                    self.see(ctx, state, domain, at).await?;
                }
                // It may have happened all the same: a look will tell.
                self.ask_for_a_look();
                state.last_error = Some(error.to_string());
                // What was found may be elsewhere by now.
                state.doing.sought = None;
                match state.vm.active() {
                    // Where it is now a look at both hosts says.
                    Some(active) if active.kind == OperationKind::Migrate => {
                        let ends = step == Step::Migrate || (!error.may_pass() && matches!(step, Step::Reserve | Step::Prepare));
                        let number = active.number;
                        if step == Step::Migrate {
                            (state.doing.done, state.doing.compared) = (Some(step), None);
                        }
                        if !ends {
                            state.not_before = Some(Instant::now() + self.again_after(state));
                            return Ok(());
                        }
                        self.record(ctx, state, vec![VmEvent::Abandoned { number, why: error.to_string() }], None).await
                    }
                    Some(active)
                        if !error.may_pass()
                            || (gives_up(active, step, state.vm.is_restored, state.tries) && error.is_of_try()) =>
                    {
                        let events = reconcile::refused(&state.vm, error.to_string()).into_iter().collect();
                        if matches!(step, Step::Unshape | Step::DropDisk) && state.doing.claim == Claim::Held {
                            // It would be refused again, and what is reserved is not kept for that.
                            state.doing.done = Some(step);
                        }
                        self.record(ctx, state, events, None).await
                    }
                    _ => {
                        state.not_before = Some(Instant::now() + self.again_after(state));
                        Ok(())
                    }
                }
            }
        }
    }

    pub(super) fn again_after(&self, state: &mut State) -> Duration {
        state.tries = state.tries.saturating_add(1);
        (RETRY_FIRST * (1 << state.tries.min(10))).min(RETRY_LONGEST)
    }
}
