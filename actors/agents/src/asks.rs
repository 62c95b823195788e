//! What the agent's actor does with questions of its programs, and with what persons say to what it runs.

use std::time::Duration;

use hiveward_kernel::{
    commit::Batch,
    id::{ApprovalId, TaskId},
    lease::Lease,
};
use hiveward_runtime::{
    call::Reply,
    error::{Code, Refused},
    supervise::{Context, Failure},
};
use tokio::sync::oneshot;

use super::{
    actor::{Agent, Held, State},
    approval::{Next, Verdict},
    connector::{Ask, Told},
    event::AgentEvent,
    message::{AgentMsg, AgentReply},
};

impl Agent {
    pub(super) async fn asked(&self, ctx: &Context<AgentMsg>, state: &mut State, ask: Ask) -> Result<(), Failure> {
        match state.agent.approvals.asked(&ask) {
            Next::Record(event) => {
                self.record(state, event, None).await?;
                self.arm_due(ctx, state, ask.approval);
            }
            Next::Tell(lease, verdict) => self.pass_on(ctx, state, lease, ask.approval, verdict).await?,
            Next::Wait(_) => self.arm_due(ctx, state, ask.approval),
        }
        Ok(())
    }

    pub(super) async fn answer_approval(
        &self,
        ctx: &Context<AgentMsg>,
        state: &mut State,
        approval: ApprovalId,
        verdict: Verdict,
        reply: AgentReply,
    ) -> Result<(), Failure> {
        match state.agent.approvals.answered(approval, verdict) {
            Err(refused) => reply.answer(Err(refused)),
            Ok(Next::Record(event)) => {
                self.record(state, event, Some(reply)).await?;
                self.pass_on_known(ctx, state, approval).await?;
            }
            Ok(Next::Tell(lease, verdict)) => {
                self.pass_on(ctx, state, lease, approval, verdict).await?;
                self.answer_now(state, Some(reply)).await?;
            }
            Ok(Next::Wait(_)) => self.answer_now(state, Some(reply)).await?,
        }
        Ok(())
    }

    pub(super) async fn approval_due(
        &self,
        ctx: &Context<AgentMsg>,
        state: &mut State,
        approval: ApprovalId,
    ) -> Result<(), Failure> {
        state.due.remove(&approval);
        if let Some(event) = state.agent.approvals.due(approval) {
            self.record(state, event, None).await?;
            self.pass_on_known(ctx, state, approval).await?;
        }
        Ok(())
    }

    pub(super) async fn withdrawn(&self, state: &mut State, approval: ApprovalId) -> Result<(), Failure> {
        state.due.remove(&approval);
        match state.agent.approvals.withdrawn(approval, "its program does not wait for it any more") {
            Some(event) => self.record(state, event, None).await,
            None => Ok(()),
        }
    }

    /// Ends the questions of attempts that it does not hold any more.
    pub(super) async fn void_questions(&self, state: &mut State) -> Result<(), Failure> {
        let held = &state.held;
        let running = |lease| matches!(held.get(&lease), Some(Held::Running { .. }));
        let void = state.agent.approvals.void(|lease| !running(lease), "its attempt is over");
        for event in void {
            if let AgentEvent::ApprovalWithdrawn { approval, .. } = &event {
                state.due.remove(approval);
            }
            self.record(state, event, None).await?;
        }
        Ok(())
    }

    fn arm_due(&self, ctx: &Context<AgentMsg>, state: &mut State, approval: ApprovalId) {
        let Some((_, until)) = state.agent.approvals.open().find(|(open, _)| *open == approval) else { return };
        let left = u64::try_from(until.0.saturating_sub(self.services.clock.now().0)).unwrap_or(0);
        let due = ctx.after(Duration::from_millis(left), AgentMsg::ApprovalDue { approval });
        state.due.insert(approval, due);
    }

    async fn pass_on_known(&self, ctx: &Context<AgentMsg>, state: &mut State, approval: ApprovalId) -> Result<(), Failure> {
        let known = state.agent.approvals.get(approval).and_then(|(ask, verdict)| Some((ask.lease, verdict.clone()?)));
        match known {
            Some((lease, verdict)) => self.pass_on(ctx, state, lease, approval, verdict).await,
            None => Ok(()),
        }
    }

    /// Tells the attempt an answer, not before that is durable. One that is not heard is asked for again when the attempt is
    /// taken up.
    async fn pass_on(
        &self,
        ctx: &Context<AgentMsg>,
        state: &mut State,
        lease: Lease,
        approval: ApprovalId,
        said: Verdict,
    ) -> Result<(), Failure> {
        let told = Told::Answer { approval, decision: said.decision, by: said.by, message: said.message };
        let connector = state.connector.clone();
        let (durable, is_durable) = oneshot::channel();
        let mut batch = Batch::default();
        // Nobody listens any more: this life is over.
        batch.then(move |_| {
            let _ = durable.send(());
        });
        state.committer.hand_over(batch).await?;
        ctx.task(async move {
            if is_durable.await.is_ok()
                && let Err(why) = connector.tell(lease, told).await
            {
                tracing::debug!(%approval, why, "an answer was not waited for any more");
            }
        });
        Ok(())
    }

    /// Tells the attempt at `task` that the agent runs. Errors: it runs none, or that does not take it.
    pub(super) fn tell_attempt(
        &self,
        ctx: &Context<AgentMsg>,
        state: &State,
        task: TaskId,
        told: Told,
        reply: Reply<Result<(), Refused>>,
    ) {
        let running = state.held.iter().find(|(lease, held)| lease.task == task && matches!(held, Held::Running { .. }));
        let Some((lease, _)) = running else {
            let message = format!("agent {} does not run {task} now; nothing happened", self.spec.name);
            return reply.answer(Err(Refused::new(Code::Refused, message)));
        };
        let (connector, lease) = (state.connector.clone(), *lease);
        ctx.task(async move {
            let said = connector.tell(lease, told).await;
            reply.answer(said.map_err(|why| Refused::new(Code::Refused, why)));
        });
    }
}
