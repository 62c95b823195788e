//! Where each entity of this node is reached: key → the door that follows it through its restarts.

use std::{collections::HashMap, sync::Arc};

use hiveward_runtime::call::Door;
use parking_lot::RwLock;

use crate::{
    agent::message::AgentMsg,
    id::{AgentId, SwarmId},
    swarm::message::SwarmMsg,
};

/// Cheap to clone; all clones are one table.
#[derive(Clone, Default)]
pub struct Doors {
    inner: Arc<RwLock<Inner>>,
}

#[derive(Default)]
struct Inner {
    agents: HashMap<AgentId, (SwarmId, Door<AgentMsg>)>,
    swarms: HashMap<SwarmId, Door<SwarmMsg>>,
}

impl Doors {
    pub fn agent(&self, agent: AgentId) -> Option<Door<AgentMsg>> {
        self.inner.read().agents.get(&agent).map(|(_, door)| door.clone())
    }

    pub fn swarm(&self, swarm: SwarmId) -> Option<Door<SwarmMsg>> {
        self.inner.read().swarms.get(&swarm).cloned()
    }

    pub fn agents_of(&self, swarm: SwarmId) -> Vec<Door<AgentMsg>> {
        self.inner.read().agents.values().filter(|(of, _)| *of == swarm).map(|(_, door)| door.clone()).collect()
    }

    pub fn add_agent(&self, agent: AgentId, swarm: SwarmId, door: Door<AgentMsg>) {
        self.inner.write().agents.insert(agent, (swarm, door));
    }

    pub fn add_swarm(&self, swarm: SwarmId, door: Door<SwarmMsg>) {
        self.inner.write().swarms.insert(swarm, door);
    }

    pub fn has_swarms(&self) -> bool {
        !self.inner.read().swarms.is_empty()
    }

    pub fn remove_agent(&self, agent: AgentId) {
        self.inner.write().agents.remove(&agent);
    }

    pub fn remove_swarm(&self, swarm: SwarmId) {
        self.inner.write().swarms.remove(&swarm);
    }
}
