//! What clients ask a coordinator: to submit, cancel and retry tasks, and to close the swarm.
//!
//! A part of the coordinator's actor.

use std::sync::Arc;

use hiveward_kernel::{
    body::Body,
    commit::{Batch, CommitReply, Committed, fits},
    id::TaskId,
    operation::Operation,
};
use hiveward_runtime::{
    error::{Code, Refused},
    supervise::{Context, Failure},
};

use super::{
    actor::{Coordinator, State, mark},
    decide::Decided,
    event::SwarmEvent,
    message::SwarmMsg,
    wire,
};
use crate::task::{spec::TaskSpec, status::TaskStatus};

impl Coordinator {
    /// Returns an ended task's status, from the views.
    pub(super) fn known(&self, task: TaskId) -> Option<TaskStatus> {
        self.services.tasks.get(task).ok().flatten().map(|record| record.status)
    }

    pub(super) async fn submit(
        &self,
        ctx: &Context<SwarmMsg>,
        state: &mut State,
        (tasks, operation, principal): (Vec<Arc<TaskSpec>>, Option<Operation>, Arc<str>),
        reply: CommitReply<Vec<TaskId>>,
    ) -> Result<(), Failure> {
        if state.closing {
            reply.answer(Err(Refused::new(Code::Refused, format!("swarm {} is being removed", self.spec.name))));
            return Ok(());
        }
        let mut batch = Batch::default();
        match state.swarm.submit(tasks, operation, principal, |task| self.known(task)) {
            Err(refused) => reply.answer(Err(refused)),
            // Its first answer may still be on its way to disk: this one waits behind it.
            Ok(Decided::Repeated(tasks)) => batch.then(move |cursor| reply.answer(Ok(Committed { value: tasks, cursor }))),
            Ok(Decided::New(event)) => {
                let body = event.encode()?;
                match fits("tasks", body.len()) {
                    Err(refused) => reply.answer(Err(refused)),
                    Ok(()) => {
                        let tasks = event.tasks();
                        batch.on_behalf_of(reply.asker());
                        self.record_encoded(state, &mut batch, &event, body);
                        mark(state, &mut batch);
                        batch.then(move |cursor| reply.answer(Ok(Committed { value: tasks, cursor })));
                    }
                }
            }
        }
        self.settle(ctx, state, batch).await
    }

    pub(super) async fn answer_one(
        &self,
        ctx: &Context<SwarmMsg>,
        state: &mut State,
        task: TaskId,
        decided: Result<Decided<SwarmEvent>, Refused>,
        reply: CommitReply<TaskId>,
    ) -> Result<(), Failure> {
        let mut batch = Batch::default();
        match decided {
            Err(refused) => reply.answer(Err(refused)),
            Ok(decided) => {
                if let Decided::New(event) = decided {
                    batch.on_behalf_of(reply.asker());
                    self.record(state, &mut batch, &event)?;
                    mark(state, &mut batch);
                }
                batch.then(move |cursor| reply.answer(Ok(Committed { value: task, cursor })));
            }
        }
        self.settle(ctx, state, batch).await
    }

    /// Reads a submission that was stored because it is large; it comes again as the message that it is.
    pub(super) fn unpack(&self, ctx: &Context<SwarmMsg>, stored: Body, reply: CommitReply<Vec<TaskId>>) -> Result<(), Failure> {
        let (services, me) = (self.services.clone(), ctx.addr().clone());
        ctx.task(async move { wire::unpack(services, &me, stored, reply).await });
        Ok(())
    }

    pub(super) async fn close(
        &self,
        ctx: &Context<SwarmMsg>,
        state: &mut State,
        force: bool,
        reply: CommitReply<u32>,
    ) -> Result<(), Failure> {
        let live: Vec<_> = state.swarm.live_tasks().map(|live| live.spec.id).collect();
        let moving = state.swarm.transfers.tasks_under_way();
        if live.len() + moving > 0 && !force {
            let count = live.len() + moving;
            reply.answer(Err(Refused::new(
                Code::Refused,
                format!("{count} tasks have not ended; wait, cancel them, or use force"),
            )));
            return Ok(());
        }
        state.closing = true;
        let mut batch = Batch::asked_by(reply.asker());
        for task in &live {
            // One cancellation may have ended others with it.
            if let Some(lease) = state.swarm.live(*task).map(|live| live.lease()) {
                let event = SwarmEvent::Cancelled { task: *task, reason: "its swarm was removed".into(), lease, operation: None };
                self.record(state, &mut batch, &event)?;
            }
        }
        let count = live.len() as u32;
        batch.then(move |cursor| {
            reply.answer(match moving {
                0 => Ok(Committed { value: count, cursor }),
                // The other shard has them, or this one has them back, before this is asked again.
                _ => Err(Refused::new(Code::Unavailable, format!("{moving} tasks are on their way to other shards; try again"))),
            });
        });
        self.settle(ctx, state, batch).await
    }
}
