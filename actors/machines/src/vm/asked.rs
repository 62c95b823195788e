//! What clients ask a VM: operations, to give one up, and backups by a schedule.
//!
//! A part of the VM's actor. An operation that may be a repetition is looked up in the views first.

use std::time::Duration;

use hiveward_kernel::{
    commit::CommitReply,
    operation::{recall, table::Answered, used_otherwise},
};
use hiveward_runtime::{
    clock::Deadline,
    error::{Code, Refused},
    supervise::{Context, Failure},
};

use super::{
    actor::{State, Vm, deliver},
    event::{OperationKind, VmEvent},
    message::VmMsg,
    reconcile::Step,
    schedule::{self, Schedule},
    state::{Ask, Decided, VmOperation},
};
use crate::host::message::{HostMsg, STEP_WITHIN};

/// Tries to abort a migration that was just begun, and may not have anything to abort yet.
const ABORTS_MAX: u32 = 60;
const ABORT_EVERY: Duration = Duration::from_millis(500);

impl Vm {
    pub(super) async fn ask(
        &self,
        state: &mut State,
        ctx: &Context<VmMsg>,
        ask: Ask,
        reply: CommitReply<u64>,
    ) -> Result<(), Failure> {
        if let Some(operation) = &ask.operation
            && state.vm.may_have_forgotten(operation)
        {
            return self.recall(ctx, ask, reply).await;
        }
        self.decide(state, ctx, ask, reply).await
    }

    /// Asks the views, once they have all that was done, for an operation that the memory may have lost.
    async fn recall(&self, ctx: &Context<VmMsg>, ask: Ask, reply: CommitReply<u64>) -> Result<(), Failure> {
        let (services, me, stream) = (self.services.clone(), ctx.addr().clone(), self.spec.id.key());
        let head = services.ledger.head();
        ctx.task(async move {
            let looked = recall::views_at(services.views.clone(), head).await;
            let before = looked.and_then(|()| match &ask.operation {
                Some(operation) => services.operations.get(&stream, &operation.id),
                None => Ok(None),
            });
            match before {
                // Many who ask at once fill the mailbox; each has its turn.
                Ok(before) => deliver(&me, VmMsg::Recalled { ask, before, reply }).await,
                Err(refused) => reply.answer(Err(refused)),
            }
        });
        Ok(())
    }

    pub(super) async fn recalled(
        &self,
        state: &mut State,
        ctx: &Context<VmMsg>,
        ask: Ask,
        before: Option<Answered>,
        reply: CommitReply<u64>,
    ) -> Result<(), Failure> {
        match (before, &ask.operation) {
            (Some(Answered { input, number: Some(number), .. }), Some(operation)) if input == operation.input => {
                self.record(ctx, state, Vec::new(), Some((number, reply))).await
            }
            (Some(_), Some(operation)) => {
                reply.answer(Err(used_otherwise(operation)));
                Ok(())
            }
            _ => self.decide(state, ctx, ask, reply).await,
        }
    }

    async fn decide(&self, state: &mut State, ctx: &Context<VmMsg>, ask: Ask, reply: CommitReply<u64>) -> Result<(), Failure> {
        match state.vm.decide(&self.spec_now(), ask, state.doing.boots) {
            Err(refused) => {
                reply.answer(Err(refused));
                Ok(())
            }
            Ok(Decided::Already(number)) => self.record(ctx, state, Vec::new(), Some((number, reply))).await,
            Ok(Decided::New(number, events)) => {
                self.begin_operation(state);
                self.record(ctx, state, events, Some((number, reply))).await
            }
        }
    }

    /// Gives up a migration, backup or copy, also while it is on its way: then the hypervisor is asked to end it.
    pub(super) async fn cancel(
        &self,
        ctx: &Context<VmMsg>,
        state: &mut State,
        principal: &str,
        reply: CommitReply<u64>,
    ) -> Result<(), Failure> {
        let can_be = |active: &&VmOperation| {
            matches!(active.kind, OperationKind::Migrate | OperationKind::Backup) || active.kind.is_copy()
        };
        let active = state.vm.active().filter(can_be);
        let Some((number, known)) = active.map(|active| (active.number, active.abandoned.is_some())) else {
            let message = format!(
                "neither a migration nor a backup or another copy of {} is under way: there is nothing to cancel",
                self.spec.name
            );
            reply.answer(Err(Refused::new(Code::Refused, message)));
            return Ok(());
        };
        let why = format!("it was cancelled by {principal}");
        let events = if known { Vec::new() } else { vec![VmEvent::Abandoned { number, why }] };
        self.record(ctx, state, events, Some((number, reply))).await?;
        if matches!(state.in_flight, Some(Step::Migrate | Step::Backup | Step::Copy)) {
            let (services, host, vm) = (self.services.clone(), self.host, self.spec.id);
            // What the node itself does for a backup is over soon.
            let tries = if state.in_flight == Some(Step::Migrate) { ABORTS_MAX } else { 1 };
            ctx.task(async move {
                // Before the memory goes there is nothing to abort yet.
                for _ in 0..tries {
                    let aborted = match services.doors.of::<HostMsg>(host) {
                        Some(door) => door.ask(Deadline::after(STEP_WITHIN), |reply| HostMsg::Abort { vm, reply }).await,
                        None => return,
                    };
                    if matches!(aborted, Ok(Ok(()))) {
                        return;
                    }
                    tokio::time::sleep(ABORT_EVERY).await;
                }
            });
        }
        Ok(())
    }

    /// Sets or removes the schedule of backups. Asked for the same again, it changes nothing.
    pub(super) async fn schedule(
        &self,
        ctx: &Context<VmMsg>,
        state: &mut State,
        schedule: Option<Schedule>,
        reply: CommitReply<u64>,
    ) -> Result<(), Failure> {
        if state.vm.removed {
            reply.answer(Err(Refused::not_found(self.spec.id)));
            return Ok(());
        }
        if let Err(refused) = schedule::may_set(&state.vm) {
            reply.answer(Err(refused));
            return Ok(());
        }
        let same = match (&state.vm.schedule, &schedule) {
            (Some(is), Some(wanted)) => is.is_like(wanted),
            (None, None) => true,
            _ => false,
        };
        let schedule = schedule.map(Box::new);
        let events = if same { Vec::new() } else { vec![VmEvent::BackupScheduled { schedule }] };
        self.record(ctx, state, events, Some((state.vm.last_number(), reply))).await
    }
}
