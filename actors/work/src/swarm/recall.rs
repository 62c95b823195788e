//! Recalls operations that a coordinator no longer has in memory: the views have them.
//!
//! A part of the coordinator's actor.

use hiveward_kernel::operation::recall;
use hiveward_runtime::supervise::Context;

use super::{
    actor::{Coordinator, State},
    message::SwarmMsg,
    state::Remembered,
};

impl Coordinator {
    /// Looks up what the views know of a message's operation if memory does not. Gives the message back unless it must wait for
    /// the views, in which case it comes again, or was refused.
    pub(super) fn recall(&self, ctx: &Context<SwarmMsg>, state: &mut State, msg: SwarmMsg) -> Option<SwarmMsg> {
        let Some(operation) = msg.operation() else { return Some(msg) };
        state.swarm.recalled = None;
        if state.swarm.operations.get(&operation.id).is_some() {
            return Some(msg);
        }
        let views = self.services.views.clone();
        if views.cursor() < state.found_at {
            let (at, me) = (state.found_at, ctx.addr().clone());
            ctx.task(async move {
                match recall::views_at(views, at).await {
                    // Who asked hears that it is unknown whether it was done if the mailbox has no room.
                    Ok(()) => drop(me.tell(msg)),
                    Err(refused) => msg.refuse(refused),
                }
            });
            return None;
        }
        match self.services.operations.get(&self.spec.id.key(), &operation.id) {
            Ok(Some(answered)) => {
                let remembered = Remembered { input: answered.input, tasks: answered.tasks };
                state.swarm.recalled = Some((operation.id.clone(), remembered.into()));
            }
            Ok(None) => {
                if state.swarm.operations_are_full() {
                    self.forget_operations(state);
                }
                if state.swarm.operations_are_full() {
                    msg.refuse(recall::too_many());
                    return None;
                }
            }
            Err(refused) => {
                msg.refuse(refused);
                return None;
            }
        }
        Some(msg)
    }

    /// Lets go of the operations that the views have taken in.
    pub(super) fn forget_operations(&self, state: &mut State) {
        let taken_in = state.marks.taken_in(self.services.views.cursor());
        state.swarm.operations.forget_up_to(taken_in);
    }
}
