//! What an agent does with its attempts: takes them, carries them to its connector, and says how they end until that is heard.

use std::{sync::Arc, time::Duration};

use hiveward_kernel::{entity::Entity, lease::Lease, loss};
use hiveward_runtime::{
    error::Refused,
    supervise::{Context, Failure},
};
use hiveward_work::{
    swarm::{
        event::Ended,
        message::SwarmMsg,
        reference::{AgentRef, Assignment},
        wire::{From, SwarmWire},
    },
    task::status::AttemptStatus,
};

use super::{
    actor::{Agent, Held, State},
    connector::{End, Input, Job, Outcome, Report},
    event::AgentEvent,
    hearer::Life,
    job::{failed, fetch, is_inline, limited, make_job},
    message::{AgentMsg, StopMode},
    state::Phase,
};

/// Interval at which an end is said again until it is settled, and a seat is asked for again.
const RESEND_EVERY: Duration = Duration::from_millis(500);

impl Agent {
    pub(super) async fn run(&self, ctx: &Context<AgentMsg>, state: &mut State, assignment: Assignment) -> Result<(), Failure> {
        let lease = assignment.lease;
        if !state.heeds(assignment.by) {
            return Ok(());
        }
        match state.held.get(&lease) {
            // Said before and perhaps not heard.
            Some(Held::Running { started: true }) => {
                self.tell_swarm(SwarmMsg::Started { lease });
                return Ok(());
            }
            Some(_) => {
                self.say_ends(ctx, state);
                return Ok(());
            }
            None if state.agent.phase != Phase::Up => return Ok(()),
            // Its node may be lost to the others by now; if it is not, this is said again.
            None if !self.services.peers.may_act() => return Ok(()),
            None => {}
        }
        state.held.insert(lease, Held::Running { started: false });
        if lease.attempt == 1 && assignment.spec.depends_on.is_empty() && is_inline(&assignment.spec) {
            let job = self.job(&assignment, Vec::new());
            return self.begin(ctx, state, lease, job).await;
        }
        // Fetching may wait for the views or read files: not on the actor's time.
        let (services, connector, me, spec) =
            (self.services.clone(), state.connector.clone(), ctx.addr().clone(), self.spec.clone());
        ctx.task(async move {
            match fetch(&services, &assignment).await {
                Ok(job) => connector.run(limited(&spec, job)).await,
                Err(refused) => {
                    let outcome = failed(format!("its inputs could not be fetched: {refused}"), true);
                    me.deliver(AgentMsg::Report(Report::Ended { lease, outcome })).await;
                }
            }
        });
        Ok(())
    }

    fn job(&self, assignment: &Assignment, inputs: Vec<Input>) -> Result<Job, Refused> {
        make_job(&self.services, assignment, inputs).map(|job| limited(&self.spec, job))
    }

    async fn begin(
        &self,
        ctx: &Context<AgentMsg>,
        state: &mut State,
        lease: Lease,
        job: Result<Job, Refused>,
    ) -> Result<(), Failure> {
        match job {
            Ok(job) => state.connector.run(job).await,
            Err(refused) => {
                let outcome = failed(refused.message, true);
                self.report(ctx, state, Report::Ended { lease, outcome }).await?;
            }
        }
        Ok(())
    }

    pub(super) fn cancel(&self, ctx: &Context<AgentMsg>, state: &State, lease: Lease) {
        let (connector, how) = (state.connector.clone(), self.grace(StopMode::Graceful));
        ctx.task(async move { connector.cancel(lease, how).await });
    }

    pub(super) async fn report(&self, ctx: &Context<AgentMsg>, state: &mut State, report: Report) -> Result<(), Failure> {
        match report {
            Report::Started { lease } => {
                if let Some(Held::Running { started }) = state.held.get_mut(&lease) {
                    *started = true;
                }
                self.tell_swarm(SwarmMsg::Started { lease });
            }
            Report::Verifying { lease } => drop(self.tell_swarm(SwarmMsg::Verifying { lease })),
            Report::Progress { lease, percent, message } => {
                tracing::debug!(task = %lease.task, attempt = lease.attempt, percent, message, "progress");
            }
            Report::Ended { lease, outcome } => {
                if !matches!(state.held.get(&lease), Some(Held::Running { .. })) {
                    return Ok(());
                }
                let ended = self.ended(outcome);
                state.held.insert(lease, Held::Ended(Box::new(ended)));
                self.void_questions(state).await?;
                self.say_end(ctx, state, lease);
                self.arm_resend(ctx, state);
            }
            Report::Asks { ask } => return self.asked(ctx, state, *ask).await,
            Report::Withdrawn { approval } => return self.withdrawn(state, approval).await,
            Report::AgentDied { message } => {
                let incarnation = state.incarnation;
                self.record(state, AgentEvent::Failed { incarnation, message: message.clone() }, None).await?;
                self.leave_seat(state, Some(&message));
                // The supervisor decides whether and when there is another life.
                return Err(Failure::new(message));
            }
        }
        Ok(())
    }

    fn ended(&self, outcome: Outcome) -> Ended {
        let status = match outcome.end {
            End::Succeeded => AttemptStatus::Succeeded,
            End::Failed => AttemptStatus::Failed,
            End::TimedOut => AttemptStatus::TimedOut,
            End::Cancelled => AttemptStatus::Cancelled,
            End::Lost => AttemptStatus::Lost,
        };
        let mut ended = Ended {
            status,
            exit_code: outcome.exit_code,
            signal: outcome.signal,
            result: None,
            artifacts: outcome.artifacts,
            error: outcome.error,
            retriable: outcome.retriable,
        };
        match outcome.result.map(|bytes| self.services.store_body(&bytes)).transpose() {
            Ok(result) => ended.result = result,
            Err(refused) => {
                ended.status = AttemptStatus::Failed;
                ended.error = Some(format!("its result could not be stored: {refused}"));
                ended.retriable = true;
            }
        }
        ended
    }

    /// Tells the coordinator, and returns how far that went. A start that is not heard is only not shown; arrivals and ends are
    /// repeated.
    pub(super) fn tell_swarm(&self, msg: SwarmMsg) -> Told {
        let swarm = self.spec.swarm;
        if let Some(door) = self.services.doors.of::<SwarmMsg>(swarm) {
            return if door.tell(msg).is_ok() { Told::Here } else { Told::Nobody };
        }
        let Some(at) = self.services.directory.location(Entity::Swarm(swarm)).filter(|at| at.node != self.services.me.node)
        else {
            return Told::Nobody;
        };
        let from = From { node: self.services.me.node, placement: self.placement };
        let Some(wire) = SwarmWire::told(msg, from) else { return Told::Nobody };
        // Lost by a test: as if it were on its way.
        let sent = loss::strikes() || self.services.router.tell_at(at, &swarm.key(), &wire).is_ok();
        if sent { Told::There } else { Told::Nobody }
    }

    fn say_end(&self, ctx: &Context<AgentMsg>, state: &State, lease: Lease) {
        if let Some(Held::Ended(ended)) = state.held.get(&lease) {
            let agent = AgentRef::Here(Arc::new(Life(ctx.addr().clone())));
            self.tell_swarm(SwarmMsg::Ended { lease, ended: (**ended).clone(), agent });
        }
    }

    pub(super) fn say_ends(&self, ctx: &Context<AgentMsg>, state: &State) {
        for lease in state.held.keys() {
            self.say_end(ctx, state, *lease);
        }
    }

    /// Sets a timer while something may have to be said again, and none otherwise.
    pub(super) fn arm_resend(&self, ctx: &Context<AgentMsg>, state: &mut State) {
        let unsaid =
            state.held.values().any(|held| matches!(held, Held::Ended(_))) || (!state.seated && state.agent.takes_work());
        if !unsaid {
            state.resend = None;
        } else if state.resend.is_none() {
            state.resend = Some(ctx.after(RESEND_EVERY, AgentMsg::Resend));
        }
    }
}

/// How far a message to the coordinator went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Here,
    /// The message is on its way to another node; it may be lost.
    There,
    Nobody,
}
