//! Swarms with several shards, seen from a client: which shard a submission goes to, commands that go to all of them, and
//! those that follow a task from one to the next.

use std::{sync::Arc, time::Duration};

use hiveward_catalogue::swarm::SwarmSpec;
use hiveward_kernel::{
    commit::Committed,
    entity::Entity,
    id::{AgentId, SwarmId, TaskId},
    operation::Operation,
};
use hiveward_runtime::{
    clock::Deadline,
    error::{Code, Refused},
    op::{NodeId, Op},
};
use hiveward_work::{
    swarm::message::asks as coordinator,
    task::{record::TaskRecord, spec::TaskSpec, status::TaskStatus},
};

use super::{ControlPlane, DependsOn, Done, NewTask};

/// The time between two looks for a task that is on its way from one shard to another.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// For a swarm to be opened again that was not removed.
const REOPENED_WITHIN: Duration = Duration::from_secs(5);

/// One coordinator of a swarm, as this node knows it.
#[derive(Clone, Debug)]
pub struct ShardView {
    pub number: u16,
    /// The node that it is on; none while it is placed nowhere.
    pub node: Option<NodeId>,
    pub agents: u32,
    /// The number of tasks that wait, for an agent or before that for a dependency or a time.
    pub queued: u64,
    /// The number of tasks that are leased to an agent.
    pub running: u64,
}

/// What binds a submission to a shard: agents that were named, and tasks outside of it that it waits for, each with the field
/// that names it.
#[derive(Clone, Debug, Default)]
pub(super) struct Binds {
    pub agents: Vec<(String, AgentId)>,
    pub depends_on: Vec<(String, TaskId)>,
}

impl Binds {
    /// Collects what the tasks of one submission name.
    pub fn of(tasks: &[NewTask]) -> Self {
        let mut binds = Self::default();
        for (place, task) in tasks.iter().enumerate() {
            binds.agents.extend(task.agent.map(|agent| (format!("tasks.{place}.agent"), agent)));
            for on in &task.depends_on {
                if let DependsOn::Task(on) = on {
                    binds.depends_on.push((format!("tasks.{place}.dependsOn"), *on));
                }
            }
        }
        binds
    }
}

fn elsewhere(field: &str, what: impl std::fmt::Display, is_in: SwarmId, not_in: SwarmId) -> Refused {
    let (is_in, not_in) = (is_in.as_u128() & 0xff, not_in.as_u128() & 0xff);
    let message = format!(
        "{what} is in shard {is_in} of the swarm and the submission goes to shard {not_in}: what it waits for, and agents that \
         it names, must be in one"
    );
    Refused { code: Code::Refused, message, field: Some(field.into()) }
}

impl ControlPlane {
    /// Returns the shard for a submission to this swarm. One that repeats an operation must reach the shard that knows it, so
    /// nothing that changes has a say where there is an operation: agents stay in their shard, and so does what others depend on.
    /// Only without an operation is the shard with the shortest queue taken, as far as this node's views know.
    pub(super) async fn shard_for(
        &self,
        op: &Op,
        swarm: &SwarmSpec,
        binds: &Binds,
        operation: Option<&Operation>,
    ) -> Result<SwarmId, Refused> {
        if !swarm.is_sharded() {
            return Ok(swarm.id);
        }
        let ours = |shard: &SwarmId| *shard == swarm.id || swarm.is_sibling(*shard);
        // Who names a shard gets it; the head's id is that of the whole swarm.
        let mut shard = (swarm.shard != 0).then_some(swarm.id);
        for (field, agent) in &binds.agents {
            // This node's directory may be behind: a repetition must not take another way only because of that.
            self.has_agent(op, *agent).await?;
            let Some(of) = self.house.directory.agent(*agent).map(|spec| spec.swarm).filter(ours) else { continue };
            let shard = *shard.get_or_insert(of);
            if shard != of {
                return Err(elsewhere(field, agent, of, shard));
            }
        }
        if !binds.depends_on.is_empty() {
            // What was committed before on any node is seen: a task that something depends on has moved for the last time.
            self.settled(op).await?;
            let ids: Vec<TaskId> = binds.depends_on.iter().map(|(_, on)| *on).collect();
            let there = self.house.work.tasks.get_many(&ids)?;
            let there: Vec<(&String, TaskRecord)> =
                binds.depends_on.iter().map(|(field, _)| field).zip(there).filter_map(|(field, on)| Some((field, on?))).collect();
            let newest = there.iter().map(|(_, on)| on).filter(|on| ours(&on.spec.swarm)).max_by_key(|on| on.id());
            if let Some(newest) = newest {
                let shard = *shard.get_or_insert(newest.spec.swarm);
                let mut open = there.iter().filter(|(_, on)| !on.status.is_terminal() && ours(&on.spec.swarm));
                if let Some((field, on)) = open.find(|(_, on)| on.spec.swarm != shard) {
                    return Err(elsewhere(field, on.id(), on.spec.swarm, shard));
                }
            }
            if let Some((field, on)) = there.iter().find(|(_, on)| !on.status.is_terminal() && !ours(&on.spec.swarm)) {
                let message = format!("{} belongs to another swarm and is {}", on.id(), on.status.name());
                return Err(Refused { code: Code::Refused, message, field: Some((*field).clone()) });
            }
        }
        match (shard, operation) {
            (Some(shard), _) => Ok(shard),
            (None, Some(operation)) => Ok(shard_of_operation(swarm, operation)),
            (None, None) => self.shortest_queue(swarm),
        }
    }

    fn shortest_queue(&self, swarm: &SwarmSpec) -> Result<SwarmId, Refused> {
        let views = self.shards(swarm.head())?;
        // Equal ones take turns by chance.
        let first = fastrand::u16(0..swarm.shards);
        let load = |view: &&ShardView| {
            let running = view.running * 1000 / u64::from(view.agents.max(1));
            (view.node.is_none(), view.agents == 0, view.queued, running, (view.number + first) % swarm.shards)
        };
        let number = views.iter().min_by_key(load).map_or(0, |view| view.number);
        Ok(swarm.head().shard(number))
    }

    /// Lists the coordinators of a swarm: one for a swarm that has no shards, none for one that is not there.
    pub fn shards(&self, swarm: SwarmId) -> Result<Vec<ShardView>, Refused> {
        let placed: Vec<(SwarmId, u16, Option<NodeId>, u32)> = self.house.directory.read(|known| {
            let ids = known.shards_of(swarm).into_iter().filter_map(|id| Some((id, known.swarms.get(&id)?)));
            let seen = |(id, entry): (SwarmId, &hiveward_catalogue::directory::SwarmEntry)| {
                let node = known.place(Entity::Swarm(id)).and_then(|place| place.node);
                (id, entry.spec.shard, node, u32::try_from(entry.agents.len()).unwrap_or(u32::MAX))
            };
            ids.map(seen).collect()
        });
        let Some(head) = placed.first().map(|(id, ..)| *id) else { return Ok(Vec::new()) };
        let counts = self.house.work.tasks.counts_by_shard(head)?;
        let view = |(id, number, node, agents)| {
            let of = |wanted: fn(TaskStatus) -> bool| {
                let counts = counts.get(&id).copied().unwrap_or_default();
                TaskStatus::ALL.into_iter().zip(counts).filter(|(status, _)| wanted(*status)).map(|(_, count)| count).sum()
            };
            let queued = |status| matches!(status, TaskStatus::Pending | TaskStatus::Queued | TaskStatus::Retrying);
            ShardView { number, node, agents, queued: of(queued), running: of(TaskStatus::is_leased) }
        };
        Ok(placed.into_iter().map(view).collect())
    }

    /// Submits to `shard`, and again to where the tasks have gone that these depend on, if they went meanwhile.
    pub(super) async fn submit_following(
        &self,
        op: &Op,
        swarm: &SwarmSpec,
        mut shard: SwarmId,
        mut specs: Vec<Arc<TaskSpec>>,
        binds: &Binds,
        operation: Option<Operation>,
    ) -> Result<Done<Vec<TaskRecord>>, Refused> {
        if !swarm.is_sharded() || binds.depends_on.is_empty() {
            return self.submit_specs(op, shard, specs, operation).await;
        }
        loop {
            match self.submit_specs(op, shard, specs.clone(), operation.clone()).await {
                Err(refused) if self.may_have_moved(op, shard, &refused) => tokio::time::sleep(LOOK_AGAIN_AFTER).await,
                answered => return answered,
            }
            shard = self.shard_for(op, swarm, binds, operation.as_ref()).await?;
            let here = |spec: Arc<TaskSpec>| Arc::new(TaskSpec { swarm: shard, ..TaskSpec::clone(&spec) });
            specs = specs.into_iter().map(here).collect();
        }
    }

    /// Tells whether a coordinator may have refused only because the task is between it and another shard.
    pub(super) fn may_have_moved(&self, op: &Op, asked: SwarmId, refused: &Refused) -> bool {
        let sharded = || self.house.directory.swarm(asked).is_some_and(|spec| spec.is_sharded());
        refused.code == Code::Unavailable && !op.deadline.passed() && sharded()
    }

    /// Waits before a task is looked for once more: by then it may have arrived, and this node's views know.
    pub(super) async fn look_again(&self, op: &Op) -> Result<(), Refused> {
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        self.settled(op).await
    }

    /// Closes all shards of a swarm, or none of them.
    pub(super) async fn close_swarm(&self, op: &Op, swarm: SwarmId, force: bool) -> Result<(), Refused> {
        let shards = self.house.directory.read(|known| known.shards_of(swarm));
        for shard in shards {
            loop {
                let closed: Result<Committed<u32>, Refused> = self.change(op, shard, coordinator::Close { force }).await;
                match closed {
                    Ok(_) => break,
                    // Its tasks are on their way to a shard that is closed next, or back.
                    Err(refused) if self.may_have_moved(op, shard, &refused) => tokio::time::sleep(LOOK_AGAIN_AFTER).await,
                    Err(refused) => {
                        self.reopen_swarm(swarm).await;
                        return Err(refused);
                    }
                }
            }
        }
        Ok(())
    }

    /// Opens the swarm again, which stays. A shard that does not hear of it in time is open again in its next life.
    pub(super) async fn reopen_swarm(&self, swarm: SwarmId) {
        // The deadline of who wanted to remove it may be over.
        let deadline = Deadline::after(REOPENED_WITHIN);
        for shard in self.house.directory.read(|known| known.shards_of(swarm)) {
            let _: Result<(), Refused> = self.ask(deadline, shard, coordinator::Reopen {}).await;
        }
    }
}

/// Returns the shard for every repetition of an operation: it depends on the operation's id alone.
fn shard_of_operation(swarm: &SwarmSpec, operation: &Operation) -> SwarmId {
    let hash = hiveward_runtime::store::blob::fingerprint(operation.id.as_bytes());
    let turn = u16::from_be_bytes([hash[0], hash[1]]) % swarm.shards;
    swarm.head().shard(turn)
}
