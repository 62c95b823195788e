//! Commands: each is checked, sent to the entity that owns the answer, and answered with what it left in the ledger.

use std::{sync::Arc, time::Duration};

use hiveward_access::{resource::ResourceKind, verb::Verb};
use hiveward_agents::{
    message::{AgentMsg, PauseMode, StopMode, asks as agent},
    record::{AgentRecord, AgentStatus},
};
use hiveward_catalogue::roster::message::asks as roster;
use hiveward_kernel::{
    ask::Ask,
    body::Body,
    commit::Committed,
    entity::Entity,
    id::{AgentId, ProjectId, SwarmId, TaskId},
    operation::Operation,
};
use hiveward_runtime::{
    cluster::router::BODY_BYTES_MAX,
    error::{Code, Refused},
    fault,
    ledger::Cursor,
    op::Op,
};
use hiveward_work::{
    swarm::{
        message::{SwarmMsg, asks as coordinator},
        record::SwarmRecord,
        wire::SwarmWire,
    },
    task::{
        bounds::{NAME_BYTES_MAX, PATH_BYTES_MAX},
        record::TaskRecord,
        spec::TaskSpec,
    },
};

use super::{ControlPlane, Done, NewAgent, NewSwarm, NewTask, SwarmRef, TaskEdit, Text, check, shard::Binds};
use crate::client::access::Sought;

/// The time between looks whether a removed agent's actor has gone.
const GONE_LOOKED_FOR_EVERY: Duration = Duration::from_millis(2);

/// Returns the client's operation id with a fingerprint of what was asked: the same id with another input is a conflict.
pub(super) fn operation(op: &Op, input: &impl std::fmt::Debug) -> Option<Operation> {
    let id = op.operation.clone()?;
    let hash = hiveward_runtime::store::blob::fingerprint(format!("{input:?}").as_bytes());
    Some(Operation { id, input: hash })
}

impl ControlPlane {
    /// Submits all of the tasks or none, to one swarm. Field names in errors are `tasks.N.…`. Under an operation id that was used
    /// before it answers with the tasks of the first time.
    pub async fn submit_tasks(&self, op: Op, new: Vec<NewTask>) -> Result<Done<Vec<TaskRecord>>, Refused> {
        // This is checked before large bodies go to the same disk.
        self.takes_writes()?;
        let operation = operation(&op, &new);
        let wanted = new.first().and_then(|task| task.swarm.clone());
        for (place, task) in new.iter().enumerate() {
            let same = match (&wanted, &task.swarm) {
                (None, None) => true,
                (Some(SwarmRef::Id(a)), Some(SwarmRef::Id(b))) => a == b,
                (Some(SwarmRef::Name(a)), Some(SwarmRef::Name(b))) => a == b,
                _ => false,
            };
            if !same {
                return Err(Refused::invalid(format!("tasks.{place}.swarm"), "all tasks of one submission go to the same swarm"));
            }
        }
        for (place, task) in new.iter().enumerate() {
            if let Some(agent) = task.agent
                && !self.has_agent(&op, agent).await?
            {
                let message = format!("there is no agent {agent}");
                return Err(Refused { code: Code::NotFound, message, field: Some(format!("tasks.{place}.agent")) });
            }
        }
        let swarm = self.resolve_swarm(&op, wanted.as_ref()).await?;
        let op = self.may(op, Verb::SubmitTasks, self.new_in(ResourceKind::Task, swarm.id)).await?;
        let binds = Binds::of(&new);
        let shard = self.shard_for(&op, &swarm, &binds, operation.as_ref()).await?;
        let house = self.house.clone();
        let large = new.iter().any(|task| {
            matches!(&task.work, super::NewWork::Command { stdin: Some(_), .. } | super::NewWork::Kind { payload: Some(_), .. })
        });
        let specs = if large {
            // Large bodies are written to the blob store first.
            tokio::task::spawn_blocking(move || check::tasks(&house, shard, new)).await.map_err(internal)??
        } else {
            check::tasks(&house, shard, new)?
        };
        self.submit_following(&op, &swarm, shard, specs, &binds, operation).await
    }

    /// Submits all of them or none; answers with those of the first time if the operation is repeated.
    pub(super) async fn submit_specs(
        &self,
        op: &Op,
        swarm: SwarmId,
        specs: Vec<Arc<TaskSpec>>,
        operation: Option<Operation>,
    ) -> Result<Done<Vec<TaskRecord>>, Refused> {
        let principal: Text = op.principal.clone();
        let stored = self.stored_if_too_large(swarm, || SwarmWire::Submit {
            tasks: specs.clone(),
            operation: operation.clone(),
            principal: principal.clone(),
        });
        let stored = stored.await?;
        let Committed { value: ids, cursor } = match stored {
            Some(stored) => self.change(op, swarm, coordinator::SubmitStored { stored }).await?,
            None => self.change(op, swarm, coordinator::Submit { tasks: specs.clone(), operation, principal }).await?,
        };
        let records = if ids.first() == specs.first().map(|spec| &spec.id) {
            let at = self.house.clock.now();
            specs
                .into_iter()
                .map(|spec| hiveward_work::swarm::actor::fresh_record(spec, op.principal.clone(), at, cursor.0))
                .collect()
        } else {
            // A repeated operation: the tasks are those of the first time.
            self.seen(op, cursor).await?;
            let known = self.house.work.tasks.get_many(&ids)?.into_iter().zip(&ids);
            known.map(|(record, id)| record.ok_or_else(|| let_go_of(*id))).collect::<Result<_, _>>()?
        };
        Ok(Done { value: records, cursor })
    }

    /// Cancels a task; follows it to another shard if it moves meanwhile.
    pub async fn cancel_task(&self, op: Op, task: TaskId) -> Result<Done<TaskRecord>, Refused> {
        let record = self.swarm_of(&op, task).await?;
        let op = self.may(op, Verb::CancelTask, &record).await?;
        let operation = operation(&op, &("cancel", task));
        let reason: Text = format!("cancelled by {}", op.principal).into();
        let committed = loop {
            let swarm = self.swarm_of(&op, task).await?.spec.swarm;
            let cancel = coordinator::Cancel { task, reason: reason.clone(), operation: operation.clone() };
            match self.change(&op, swarm, cancel).await {
                Err(refused) if self.may_have_moved(&op, swarm, &refused) => self.look_again(&op).await?,
                asked => break asked?,
            }
        };
        self.task_done(&op, task, committed.cursor).await
    }

    /// Sends an ended task on its way again, as it was or edited; also redrives a dead one.
    pub async fn retry_task(&self, op: Op, task: TaskId, edit: TaskEdit) -> Result<Done<TaskRecord>, Refused> {
        let before = self.swarm_of(&op, task).await?;
        let op = self.may(op, Verb::RetryTask, &before).await?;
        // Its end may be in the ledger and not in the views yet.
        self.settled(&op).await?;
        let before = self.house.work.tasks.get(task)?.unwrap_or(before);
        let operation = operation(&op, &("retry", task, &edit));
        let mut spec = TaskSpec::clone(&before.spec);
        if let Some(work) = edit.work {
            let house = self.house.clone();
            spec.work = tokio::task::spawn_blocking(move || check::work(&house, "work", work)).await.map_err(internal)??;
        }
        if let Some(run_timeout_ms) = edit.run_timeout_ms {
            spec.run_timeout_ms = Some(run_timeout_ms);
        }
        if let Some(retry) = edit.retry {
            check::check_retry("retry", &retry)?;
            spec.retry = retry;
        }
        check::within_bounds("work", &spec)?;
        let (spec, principal, swarm) = (Arc::new(spec), op.principal.clone(), before.spec.swarm);
        // Only how it ended and how often it was tried counts: what it left, and why it was placed where, stays here.
        let before = Box::new(before.bare());
        let committed = self.change(&op, swarm, coordinator::Redrive { before, spec, operation, principal }).await?;
        self.task_done(&op, task, committed.cursor).await
    }

    /// Adds an agent. With `auto_start` it answers when the agent is ready; if it does not get ready, the agent is there and
    /// shows why.
    pub async fn create_agent(&self, op: Op, new: NewAgent) -> Result<Done<AgentRecord>, Refused> {
        let operation = operation(&op, &new);
        let swarm = self.resolve_swarm(&op, new.swarm.as_ref()).await?;
        let op = self.may(op, Verb::CreateAgent, self.new_in(ResourceKind::Agent, swarm.id)).await?;
        let auto_start = new.auto_start;
        let spec = Arc::new(check::agent(swarm.id, new)?);
        let _turn = self.turns.declare(op.deadline, &spec).await?;
        let added = self.declare(&op, roster::AddAgents { specs: vec![spec], operation }).await?;
        self.known_at(&op, added.cursor).await?;
        let agent = AgentId::try_from(&added.value).map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        if !auto_start || self.was_stopped_since(&op, agent).await? {
            return self.agent_done(&op, agent, added.cursor).await;
        }
        self.tell_admitted(op, agent, agent::Start {}).await
    }

    /// Tells whether the agent was made before, by the same operation, and somebody has paused or stopped it since: who repeats
    /// the request does not undo that.
    async fn was_stopped_since(&self, op: &Op, agent: AgentId) -> Result<bool, Refused> {
        if op.operation.is_none() {
            return Ok(false);
        }
        self.settled(op).await?;
        let status = self.house.agent_table.get(agent)?.map(|record| record.status);
        Ok(matches!(status, Some(AgentStatus::Paused | AgentStatus::Stopping | AgentStatus::Stopped)))
    }

    /// Starts an agent, and answers when the agent itself is ready.
    pub async fn start_agent(&self, op: Op, agent: AgentId) -> Result<Done<AgentRecord>, Refused> {
        self.tell_agent(op, Verb::StartAgent, agent, agent::Start {}).await
    }

    /// Stops an agent and what it runs, with time to end or at once, as `mode` says.
    pub async fn stop_agent(&self, op: Op, agent: AgentId, mode: StopMode) -> Result<Done<AgentRecord>, Refused> {
        self.tell_agent(op, Verb::StopAgent, agent, agent::Stop { mode }).await
    }

    /// Keeps an agent from new tasks; what runs goes on, or is frozen, as `mode` says.
    pub async fn pause_agent(&self, op: Op, agent: AgentId, mode: PauseMode) -> Result<Done<AgentRecord>, Refused> {
        self.tell_agent(op, Verb::PauseAgent, agent, agent::Pause { mode }).await
    }

    /// Lets a paused agent go on.
    pub async fn resume_agent(&self, op: Op, agent: AgentId) -> Result<Done<AgentRecord>, Refused> {
        self.tell_agent(op, Verb::ResumeAgent, agent, agent::Resume {}).await
    }

    /// Stops what an agent runs, with time to end, and starts the agent again.
    pub async fn restart_agent(&self, op: Op, agent: AgentId) -> Result<Done<AgentRecord>, Refused> {
        self.tell_agent(op, Verb::RestartAgent, agent, agent::Restart { mode: StopMode::Graceful }).await
    }

    /// Removes an agent; every process of it has ended when this answers. Without `force` a busy agent is refused.
    pub async fn remove_agent(&self, op: Op, agent: AgentId, force: bool) -> Result<Done<AgentRecord>, Refused> {
        let op = self.may(op, Verb::RemoveAgent, agent).await?;
        self.settled(&op).await?;
        let record = self.house.agent_table.get(agent)?.ok_or_else(|| Refused::not_found(agent))?;
        if record.running > 0 && !force {
            return Err(Refused::new(
                Code::Refused,
                format!("{} runs {} attempts; wait, stop it, or use force", record.spec.name, record.running),
            ));
        }
        // An agent that is nowhere has nothing to end, and one that no node may hold would be waited for in vain.
        if self.surely(&op, |directory| directory.location(Entity::Agent(agent))).await?.is_some() {
            let mode = if force { StopMode::Now } else { StopMode::Graceful };
            let ending = Op { deadline: op.deadline.at_most(op.deadline.remaining() * 7 / 8), ..op.clone() };
            match self.change(&ending, agent, agent::Remove { mode }).await {
                Ok(_) => {}
                // A crash loop left it without a life; its processes are ended by the roster's removal, in the time that is left.
                Err(refused) if refused.code == Code::Unavailable => {}
                // It went while it was asked, as when another removes it: the roster says whether it is still known.
                Err(refused) if refused.code == Code::UnknownOutcome && !ending.deadline.passed() => {}
                Err(refused) => return Err(refused),
            }
        }
        let operation = operation(&op, &("remove", agent));
        let done = self.declare(&op, roster::RemoveAgent { agent, operation }).await?;
        // Its actor stops where it lives, with whatever it could not end itself. If that is here it is waited for.
        while self.house.doors.is_living(Entity::Agent(agent)).is_some() && !op.deadline.passed() {
            tokio::time::sleep(GONE_LOOKED_FOR_EVERY).await;
        }
        self.seen(&op, done.cursor).await?;
        Ok(Done { value: record, cursor: done.cursor })
    }

    /// Adds a swarm with its coordinators. Errors: `Conflict` if another has its name.
    pub async fn create_swarm(&self, op: Op, new: NewSwarm) -> Result<Done<SwarmRecord>, Refused> {
        let project = self.project();
        let op = self.may(op, Verb::CreateSwarm, Sought::New(ResourceKind::Swarm, project)).await?;
        let operation = operation(&op, &new);
        let spec = Arc::new(check::swarm(new)?);
        let added = match project {
            // As versions before projects know it.
            ProjectId::DEFAULT => self.declare(&op, roster::AddSwarm { spec, operation }).await?,
            project => self.declare(&op, roster::AddSwarmIn { project, spec, operation }).await?,
        };
        self.known_at(&op, added.cursor).await?;
        let swarm = SwarmId::try_from(&added.value).map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        self.swarm_done(&op, swarm, added.cursor).await
    }

    /// Removes a swarm. With `force` its tasks are cancelled and its agents removed first. If one of them or the
    /// swarm itself cannot be removed, the swarm is opened again, unless nobody knows whether it was removed.
    pub async fn remove_swarm(&self, op: Op, swarm: SwarmId, force: bool) -> Result<Done<SwarmRecord>, Refused> {
        let op = self.may(op, Verb::RemoveSwarm, swarm).await?;
        self.settled(&op).await?;
        let record = self.house.swarm_table.get(swarm)?.ok_or_else(|| Refused::not_found(swarm))?;
        let swarm = record.spec.id;
        self.close_swarm(&op, swarm, force).await?;
        if force && let Err(refused) = self.remove_agents_of(&op, swarm).await {
            self.reopen_swarm(swarm).await;
            return Err(refused);
        }
        let operation = operation(&op, &("remove", swarm));
        let done = match self.declare(&op, roster::RemoveSwarm { swarm, operation }).await {
            Ok(done) => done,
            Err(refused) => {
                if refused.code != Code::UnknownOutcome {
                    self.reopen_swarm(swarm).await;
                }
                return Err(refused);
            }
        };
        self.seen(&op, done.cursor).await?;
        Ok(Done { value: record, cursor: done.cursor })
    }

    async fn remove_agents_of(&self, op: &Op, swarm: SwarmId) -> Result<(), Refused> {
        let filter = hiveward_agents::table::AgentFilter { swarm: Some(swarm), ..Default::default() };
        for (_, agent) in self.house.agent_table.page(&filter, None, usize::MAX)?.items {
            self.remove_agent(Op { operation: None, ..op.clone() }, agent.spec.id, true).await?;
        }
        Ok(())
    }

    /// Arms a fault on this node. Errors: `Refused` if its configuration allows none, `Limit` if too many are armed.
    pub async fn inject_fault(&self, op: Op, armed: fault::Armed) -> Result<(), Refused> {
        let _op = self.may(op, Verb::InjectFault, Sought::Cluster(ResourceKind::Cluster)).await?;
        check::text("point", Some(&armed.point), NAME_BYTES_MAX)?;
        check::text("key", armed.key.as_deref(), PATH_BYTES_MAX)?;
        if let fault::Fault::Error(message) = &armed.fault {
            check::text("message", Some(message), PATH_BYTES_MAX)?;
        }
        if !self.faults_allowed {
            return Err(Refused::new(Code::Refused, "faults are not allowed on this node (faults.allowed in its configuration)"));
        }
        if fault::arm(armed) { Ok(()) } else { Err(Refused::new(Code::Limit, "too many faults are armed")) }
    }

    /// Lists the faults that are armed on this node, and those that are spent.
    pub fn faults(&self) -> Vec<fault::PointStatus> {
        fault::list()
    }

    // Helpers.

    /// Stores a submission to another node that does not fit into a message among the blobs; `None` if it fits.
    async fn stored_if_too_large(&self, swarm: SwarmId, wire: impl Fn() -> SwarmWire) -> Result<Option<Body>, Refused> {
        if self.house.doors.of::<SwarmMsg>(swarm).is_some() {
            return Ok(None);
        }
        let encoded = rmp_serde::to_vec(&wire()).map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        if encoded.len() <= BODY_BYTES_MAX {
            return Ok(None);
        }
        let house = self.house.clone();
        tokio::task::spawn_blocking(move || house.store_body(&encoded)).await.map_err(internal)?.map(Some)
    }

    /// Waits until this node's views have all that was acknowledged before, on whichever node.
    pub async fn settled(&self, op: &Op) -> Result<(), Refused> {
        self.house.ledger.linearize(op.deadline).await.map_err(|error| Refused::new(Code::Unavailable, error.to_string()))?;
        self.seen(op, self.house.ledger.head()).await
    }

    pub(super) async fn seen(&self, op: &Op, cursor: Cursor) -> Result<(), Refused> {
        self.at_least(op, cursor).await
    }

    /// Refuses the command aloud before any entity decides what could not be written.
    pub(super) fn takes_writes(&self) -> Result<(), Refused> {
        Ok(self.house.ledger.takes_writes()?)
    }

    async fn tell_agent<A: Ask<Message = AgentMsg, Answer = Result<Committed<()>, Refused>>>(
        &self,
        op: Op,
        verb: Verb,
        agent: AgentId,
        ask: A,
    ) -> Result<Done<AgentRecord>, Refused> {
        let op = self.may(op, verb, agent).await?;
        self.tell_admitted(op, agent, ask).await
    }

    async fn tell_admitted<A: Ask<Message = AgentMsg, Answer = Result<Committed<()>, Refused>>>(
        &self,
        op: Op,
        agent: AgentId,
        ask: A,
    ) -> Result<Done<AgentRecord>, Refused> {
        if self.house.doors.of::<AgentMsg>(agent).is_none() && !self.has_agent(&op, agent).await? {
            return Err(Refused::not_found(agent));
        }
        let done = self.change(&op, agent, ask).await?;
        self.agent_done(&op, agent, done.cursor).await
    }

    /// Returns the task as the views have it; waits for it if it is quite new.
    pub(super) async fn swarm_of(&self, op: &Op, task: TaskId) -> Result<TaskRecord, Refused> {
        if let Some(record) = self.task(task)? {
            return Ok(record);
        }
        self.settled(op).await?;
        self.task(task)?.ok_or_else(|| Refused::not_found(task))
    }

    async fn task_done(&self, op: &Op, task: TaskId, cursor: Cursor) -> Result<Done<TaskRecord>, Refused> {
        self.seen(op, cursor).await?;
        let value = self.house.work.tasks.get(task)?.ok_or_else(|| Refused::not_found(task))?;
        Ok(Done { value, cursor })
    }

    async fn agent_done(&self, op: &Op, agent: AgentId, cursor: Cursor) -> Result<Done<AgentRecord>, Refused> {
        self.seen(op, cursor).await?;
        let value = self.house.agent_table.get(agent)?.ok_or_else(|| Refused::not_found(agent))?;
        Ok(Done { value, cursor })
    }

    pub(super) async fn swarm_done(&self, op: &Op, swarm: SwarmId, cursor: Cursor) -> Result<Done<SwarmRecord>, Refused> {
        self.seen(op, cursor).await?;
        let value = self.house.swarm_table.get(swarm)?.ok_or_else(|| Refused::not_found(swarm))?;
        Ok(Done { value, cursor })
    }
}

/// Refuses a repetition of an operation that is remembered for longer than what it made.
fn let_go_of(task: TaskId) -> Refused {
    let message = format!(
        "this operation was done before and is not done again; its {task} has ended and was removed since, as `retention.tasks` says"
    );
    Refused::new(Code::NotFound, message)
}

fn internal(error: tokio::task::JoinError) -> Refused {
    Refused::new(Code::Internal, error.to_string())
}
