//! Brings a swarm to a number of agents. It is not one act: when it is asked again it goes on from what is there.

use std::{collections::HashSet, sync::Arc};

use futures_util::{StreamExt, TryStreamExt, stream};
use hiveward_access::verb::Verb;
use hiveward_agents::table::AgentFilter;
use hiveward_catalogue::{agent::spec::AgentSpec, roster::message::asks as roster};
use hiveward_kernel::id::{AgentId, SwarmId};
use hiveward_runtime::{
    cluster::router::BODY_BYTES_MAX,
    error::{Code, Refused},
    op::Op,
};
use hiveward_work::swarm::record::SwarmRecord;

use super::{ControlPlane, Done, NewAgent, SwarmRef, check};

/// The most agents of one swarm.
pub const AGENTS_MAX: u32 = 100_000;
/// The most agents that one request adds: each is made before the first is added.
pub const ADDED_MAX: usize = 10_000;
/// The most agents that one commit adds, if they fit into one message.
const ADDED_AT_ONCE: usize = 256;
/// How many agents are started, or removed, at the same time: their commits share disk writes.
const IN_HAND: usize = 64;

/// An agent that is there, without most of its description: that may be large, and a swarm has many.
struct There {
    agent: AgentId,
    name: String,
    busy: bool,
}

impl ControlPlane {
    /// Adds copies of the template (or of its last agent), or removes idle ones, the newest first. Answers when the new ones
    /// are ready.
    pub async fn scale_swarm(
        &self,
        op: Op,
        swarm: SwarmId,
        agents: u32,
        template: Option<NewAgent>,
    ) -> Result<Done<SwarmRecord>, Refused> {
        let op = self.may(op, Verb::ScaleSwarm, swarm).await?;
        if agents > AGENTS_MAX {
            return Err(Refused::invalid("agents", format!("a swarm has at most {AGENTS_MAX} agents; nothing was done")));
        }
        if let Some(template) = &template {
            // It is checked also where nobody is to be added: what is wrong with it is said now.
            check::agent(swarm, template.clone())
                .map_err(|refused| Refused { field: refused.field.map(|field| format!("template.{field}")), ..refused })?;
        }
        let _turn = self.turns.scale(op.deadline).await?;
        self.settled(&op).await?;
        let filter = AgentFilter { swarm: Some(swarm), ..Default::default() };
        let (mut there, mut last) = (Vec::new(), None);
        self.house.agent_table.each(&filter, |record| {
            there.push(There { agent: record.spec.id, name: record.spec.name.clone(), busy: record.running > 0 });
            last = Some(record.spec);
        })?;
        if self.house.swarm_table.get(swarm)?.is_none() {
            return Err(Refused::not_found(swarm));
        }
        // The operation is of the whole, which repeats well by itself.
        let each = Op { operation: None, ..op.clone() };
        match (agents as usize).checked_sub(there.len()) {
            Some(missing) if missing > ADDED_MAX => {
                let most = there.len() + ADDED_MAX;
                let message =
                    format!("one request adds at most {ADDED_MAX} agents; nothing was done: ask for {most}, then for more");
                return Err(Refused::invalid("agents", message));
            }
            Some(missing) => {
                let template = match (template, &last) {
                    (Some(template), _) => template,
                    (None, Some(last)) => copy_of(last),
                    (None, None) => {
                        return Err(Refused::invalid("template", "the swarm has no agent to copy; give a template"));
                    }
                };
                self.add_copies(&each, swarm, &there, &template, missing).await?;
            }
            None => self.remove_idle(&each, &there, there.len() - agents as usize).await?,
        }
        let cursor = self.house.ledger.head();
        self.swarm_done(&op, swarm, cursor).await
    }

    async fn add_copies(
        &self,
        op: &Op,
        swarm: SwarmId,
        there: &[There],
        template: &NewAgent,
        missing: usize,
    ) -> Result<(), Refused> {
        let taken: HashSet<&str> = there.iter().map(|agent| &*agent.name).collect();
        let stem = template.name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('-');
        let names = (there.len() + 1..).map(|n| format!("{stem}-{n}")).filter(|name| !taken.contains(&**name));
        let specs = names.take(missing).map(|name| {
            let new = NewAgent { name, swarm: Some(SwarmRef::Id(swarm)), ..template.clone() };
            check::agent(swarm, new).map(Arc::new)
        });
        let specs = specs.collect::<Result<Vec<_>, _>>()?;
        let Some(first) = specs.first() else { return Ok(()) };
        let encoded = rmp_serde::to_vec_named(first).map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        // They differ in little but their names.
        let fit = (BODY_BYTES_MAX / 2 / encoded.len().max(1)).clamp(1, ADDED_AT_ONCE);
        for specs in specs.chunks(fit) {
            let added = self.declare(op, roster::AddAgents { specs: specs.to_vec(), operation: None }).await?;
            self.known_at(op, added.cursor).await?;
        }
        if !template.auto_start {
            return Ok(());
        }
        let added: Vec<AgentId> = specs.iter().map(|spec| spec.id).collect();
        let started = stream::iter(added).map(|agent| self.start_agent(op.clone(), agent));
        started.buffer_unordered(IN_HAND).try_for_each(|_| std::future::ready(Ok(()))).await
    }

    async fn remove_idle(&self, op: &Op, there: &[There], surplus: usize) -> Result<(), Refused> {
        let idle = there.iter().rev().filter(|there| !there.busy).map(|there| there.agent);
        let idle: Vec<AgentId> = idle.take(surplus).collect();
        let busy = surplus - idle.len();
        let removed = stream::iter(idle).map(async |agent| match self.remove_agent(op.clone(), agent, false).await {
            // Another request removed it meanwhile, which is as good.
            Err(refused) if refused.code == Code::NotFound => Ok(()),
            removed => removed.map(drop),
        });
        removed.buffer_unordered(IN_HAND).try_for_each(|_| std::future::ready(Ok(()))).await?;
        if busy > 0 {
            let message = format!("{busy} agents too many are busy; the idle ones were removed; retry later");
            return Err(Refused::new(Code::Refused, message));
        }
        Ok(())
    }
}

/// Returns a new agent like this one, with a name to be numbered.
fn copy_of(spec: &AgentSpec) -> NewAgent {
    NewAgent {
        name: spec.name.clone(),
        swarm: Some(SwarmRef::Id(spec.swarm)),
        connector: spec.connector.clone(),
        skills: spec.skills.clone(),
        weight: spec.weight,
        max_concurrent_tasks: spec.max_concurrent_tasks,
        limits: spec.limits.clone(),
        env: spec.env.clone(),
        session: spec.session.clone(),
        auto_start: true,
        start_timeout_ms: spec.start_timeout_ms,
        stop_grace_ms: spec.stop_grace_ms,
        node_labels: spec.node_labels.clone(),
        node: spec.node,
    }
}
