//! Folds what the roster's stream says. Pure: applying the same events gives the same state, on every node.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use hiveward_kernel::{
    entity::{Entity, Place},
    id::{AgentId, HostId, ProjectId, SwarmId},
    operation::{OPERATIONS_KEPT_MAX, Operation},
    recent::Recent,
};
use hiveward_runtime::{clock::WallMs, id::Key, ledger::Cursor, net::identity::TokenBook, op::NodeId};
use serde::{Deserialize, Serialize};

use super::{
    node::{Drain, NodeEntry, NodeStatus},
    size,
};
use crate::{
    agent::spec::AgentSpec,
    budget::Scope,
    host::{
        event::FleetEvent,
        fleet::{Fleet, HostEntry},
    },
    name::in_project,
    part::{Parts, When, budget::BudgetEntry},
    roster::event::RosterEvent,
    swarm::SwarmSpec,
};

#[derive(Clone, Serialize, Deserialize)]
pub struct SwarmEntry {
    pub spec: Arc<SwarmSpec>,
    pub place: Place,
    pub agents: HashSet<AgentId>,
    /// The number of its agents on each node.
    pub on: BTreeMap<NodeId, u32>,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct AgentEntry {
    pub spec: Arc<AgentSpec>,
    pub place: Place,
}

/// The thing that an event touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    Entity(Entity),
    Hosts(HostId, HostId),
    Node(NodeId),
    Nothing,
}

/// The most reasons that are kept once for all who have them; a few suffice, since most are alike.
const WHYS_MAX: usize = 16;

/// The folded state. It is written down whole as the snapshot of the stream, so a field that is new has a default.
#[derive(Clone, Serialize, Deserialize)]
pub struct Known {
    /// The version of the stream.
    pub version: u64,
    /// The cursor of the last event that it has.
    pub cursor: Cursor,
    /// The cursor up to which operations are not remembered, because a snapshot stands for their events.
    #[serde(skip)]
    pub remembers_after: Cursor,
    pub nodes: BTreeMap<NodeId, NodeEntry>,
    pub swarms: HashMap<SwarmId, SwarmEntry>,
    pub agents: HashMap<AgentId, AgentEntry>,
    /// The heads of swarms by name; by project as well, where that is not `default`.
    swarm_names: HashMap<String, SwarmId>,
    /// The agents by swarm and a hash of the name: each is looked up again in the spec, so that a name is not kept twice.
    agent_names: HashMap<(SwarmId, u64), Vec<AgentId>>,
    /// The entities that are placed nowhere, because no node was eligible or none was there yet.
    pub unplaced: BTreeSet<Entity>,
    pub tokens: TokenBook,
    /// All else that is declared.
    #[serde(default)]
    pub parts: Parts,
    /// The budgets where snapshots of versions before parts have them; empty but while one is written or read.
    #[serde(rename = "budgets")]
    pub(super) budgets_written: BTreeMap<Scope, BudgetEntry>,
    #[serde(rename = "budgets_changed")]
    pub(super) budgets_changed_written: Cursor,
    pub fleet: Fleet,
    #[serde(skip, default = "no_operations")]
    operations: Recent<Arc<str>, ([u8; 16], Key)>,
    #[serde(skip)]
    whys: Vec<Arc<str>>,
    /// The bytes of the specs of all swarms and agents.
    #[serde(skip)]
    declared_bytes: u64,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            version: 0,
            cursor: Cursor::default(),
            remembers_after: Cursor::default(),
            nodes: BTreeMap::new(),
            swarms: HashMap::new(),
            agents: HashMap::new(),
            swarm_names: HashMap::new(),
            agent_names: HashMap::new(),
            unplaced: BTreeSet::new(),
            tokens: TokenBook::default(),
            parts: Parts::default(),
            budgets_written: BTreeMap::new(),
            budgets_changed_written: Cursor::default(),
            fleet: Fleet::default(),
            operations: no_operations(),
            whys: Vec::new(),
            declared_bytes: 0,
        }
    }
}

fn no_operations() -> Recent<Arc<str>, ([u8; 16], Key)> {
    Recent::new(OPERATIONS_KEPT_MAX)
}

fn name_hash(name: &str) -> u64 {
    u64::from_be_bytes(hiveward_runtime::store::blob::fingerprint(name.as_bytes())[..8].try_into().unwrap_or_default())
}

impl Known {
    /// Tells whether every node that may come back can read snapshots of the streams of agents, VMs and the roster.
    pub fn all_read_snapshots(&self) -> bool {
        self.nodes.values().all(|entry| entry.status == NodeStatus::Removed || entry.record.reads_snapshots)
    }

    /// Returns the bytes that the specs of all swarms and agents take: every node holds them in memory.
    pub fn declared_bytes(&self) -> u64 {
        self.declared_bytes
    }

    /// Counts anew what is declared, in a state that was read.
    pub(super) fn count_declared(&mut self) {
        let agents = self.agents.values().map(|entry| size::of(&*entry.spec));
        self.declared_bytes = agents.chain(self.swarms.values().map(|entry| size::of(&*entry.spec))).sum();
    }

    /// Returns about how many entries it has, which is what a snapshot of it costs.
    pub fn entries(&self) -> usize {
        let fleet = &self.fleet;
        self.nodes.len()
            + self.swarms.len()
            + self.agents.len()
            + self.parts.budgets.all.len()
            + fleet.hosts.len()
            + fleet.vms.len()
            + fleet.images.len()
            + fleet.networks.all.len()
    }

    /// Returns where an entity is; `None` for one that is unknown.
    pub fn place(&self, entity: Entity) -> Option<&Place> {
        match entity {
            Entity::Swarm(id) => self.swarms.get(&id).map(|entry| &entry.place),
            Entity::Agent(id) => self.agents.get(&id).map(|entry| &entry.place),
            Entity::Host(id) => self.fleet.hosts.get(&id).map(|entry| &entry.place),
            Entity::Vm(id) => self.fleet.hosts.get(&self.fleet.vms.get(&id)?.host).map(|entry| &entry.place),
        }
    }

    /// Returns the head of the swarm with this name in a project.
    pub fn swarm_named(&self, project: ProjectId, name: &str) -> Option<SwarmId> {
        self.swarm_names.get(&*in_project(project, name)).copied()
    }

    /// Returns the project that an entity belongs to; `None` for one that is the cluster's own, or is not known any more. An agent is where its swarm
    /// is; hosts are in none.
    pub fn project_of(&self, entity: Entity) -> Option<ProjectId> {
        let projects = &self.parts.projects;
        match entity {
            Entity::Swarm(id) => Some(projects.of(&self.swarms.get(&id)?.spec.head().key())),
            Entity::Agent(id) => self.project_of(Entity::Swarm(self.agents.get(&id)?.spec.swarm)),
            Entity::Host(_) => None,
            Entity::Vm(id) => Some(self.fleet.vms.get(&id)?.spec.project),
        }
    }

    /// Returns the coordinators of the swarm that `swarm` is one of, in order; `swarm` alone if it is unknown.
    pub fn shards_of(&self, swarm: SwarmId) -> Vec<SwarmId> {
        self.swarms.get(&swarm).map_or_else(|| vec![swarm], |entry| entry.spec.shard_ids().collect())
    }

    /// Returns the head of the swarm that `swarm` is a coordinator of; `swarm` itself if it is unknown.
    pub fn head_of(&self, swarm: SwarmId) -> SwarmId {
        self.swarms.get(&swarm).map_or(swarm, |entry| entry.spec.head())
    }

    /// Returns the shard for a new agent; of a whole swarm the one with the fewest agents, those to be `added` counted in.
    pub fn shard_for_agent(&self, swarm: SwarmId, added: impl Fn(SwarmId) -> usize) -> SwarmId {
        let agents = |shard: &SwarmId| self.swarms.get(shard).map_or(usize::MAX, |entry| entry.agents.len() + added(*shard));
        match self.swarms.get(&swarm) {
            Some(entry) if entry.spec.shard == 0 => entry.spec.shard_ids().min_by_key(agents).unwrap_or(swarm),
            _ => swarm,
        }
    }

    /// Returns the agent of this name at one coordinator.
    pub fn agent_named(&self, swarm: SwarmId, name: &str) -> Option<AgentId> {
        let ids = self.agent_names.get(&(swarm, name_hash(name)))?;
        ids.iter().copied().find(|id| self.agents.get(id).is_some_and(|entry| entry.spec.name == name))
    }

    /// Returns what this operation asked for when it came first, and what was answered.
    pub fn operation(&self, operation: &Operation) -> Option<&([u8; 16], Key)> {
        self.operations.get(&operation.id)
    }

    /// Returns everything that is placed on `node`, in order.
    pub fn held(&self, node: NodeId) -> Vec<Entity> {
        let swarms = self.swarms.iter().filter(|(_, entry)| entry.place.node == Some(node)).map(|(id, _)| Entity::Swarm(*id));
        let agents = self.agents.iter().filter(|(_, entry)| entry.place.node == Some(node)).map(|(id, _)| Entity::Agent(*id));
        let hosts = self.fleet.hosts.iter().filter(|(_, entry)| entry.place.node == Some(node)).map(|(id, _)| Entity::Host(*id));
        let mut held: Vec<_> = swarms.chain(agents).chain(hosts).collect();
        held.sort_unstable();
        held
    }

    fn why(&mut self, why: &str) -> Arc<str> {
        if let Some(kept) = self.whys.iter().find(|kept| ***kept == *why) {
            return kept.clone();
        }
        if self.whys.len() >= WHYS_MAX {
            self.whys.remove(0);
        }
        let kept: Arc<str> = why.into();
        self.whys.push(kept.clone());
        kept
    }

    fn set_place(&mut self, entity: Entity, node: Option<NodeId>, placement: Option<u64>, why: &str) {
        let why = self.why(why);
        let (place, agents_on) = match entity {
            Entity::Swarm(id) => match self.swarms.get_mut(&id) {
                Some(entry) => (&mut entry.place, None),
                None => return,
            },
            Entity::Agent(id) => match self.agents.get_mut(&id) {
                Some(entry) => {
                    let swarm = self.swarms.get_mut(&entry.spec.swarm);
                    (&mut entry.place, swarm.map(|swarm| &mut swarm.on))
                }
                None => return,
            },
            Entity::Host(id) => match self.host_to_place(id, node.is_some()) {
                Some(entry) => {
                    entry.home = entry.home.or(node);
                    (&mut entry.place, None)
                }
                None => return,
            },
            Entity::Vm(_) => return,
        };
        let before = std::mem::replace(&mut place.node, node);
        place.placement = placement.unwrap_or(place.placement);
        place.why = why;
        if let Some(on) = agents_on {
            if let Some(before) = before
                && let Some(count) = on.get_mut(&before)
            {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    on.remove(&before);
                }
            }
            if let Some(node) = node {
                *on.entry(node).or_default() += 1;
            }
        }
        self.count(before, -1);
        self.count(node, 1);
        if node.is_some() {
            self.unplaced.remove(&entity);
        } else {
            self.unplaced.insert(entity);
        }
    }

    /// Returns the entry of a host that is about to be placed; one that goes somewhere is not lost any more.
    fn host_to_place(&mut self, host: HostId, somewhere: bool) -> Option<&mut HostEntry> {
        if somewhere {
            self.fleet.found(host);
        }
        self.fleet.hosts.get_mut(&host)
    }

    fn count(&mut self, node: Option<NodeId>, change: i32) {
        if let Some(entry) = node.and_then(|node| self.nodes.get_mut(&node)) {
            entry.entities = entry.entities.saturating_add_signed(change);
        }
    }

    /// Makes an event, which happened at `at`, part of the state, and returns what it touched. The cursor is set by who reads
    /// the stream, before.
    pub fn apply(&mut self, event: &RosterEvent, at: WallMs) -> Touched {
        if let Some((operation, key)) = event.operation() {
            self.operations.insert(operation.id.clone(), (operation.input, key));
        }
        match event {
            RosterEvent::SwarmAdded { spec, .. } => {
                if spec.shard == 0 {
                    let project = self.parts.projects.of(&spec.id.key());
                    self.swarm_names.insert(in_project(project, &spec.name).into_owned(), spec.id);
                }
                let entry =
                    SwarmEntry { spec: spec.clone(), place: Place::default(), agents: HashSet::new(), on: BTreeMap::new() };
                self.declared_bytes += size::of(&**spec);
                self.swarms.insert(spec.id, entry);
                self.unplaced.insert(Entity::Swarm(spec.id));
                Touched::Entity(Entity::Swarm(spec.id))
            }
            RosterEvent::SwarmRemoved { swarm, .. } => {
                let entity = Entity::Swarm(*swarm);
                self.unplaced.remove(&entity);
                if let Some(entry) = self.swarms.remove(swarm) {
                    if entry.spec.shard == 0 {
                        let project = self.parts.projects.of(&swarm.key());
                        self.swarm_names.remove(&*in_project(project, &entry.spec.name));
                        self.parts.projects.left(&swarm.key());
                    }
                    self.declared_bytes = self.declared_bytes.saturating_sub(size::of(&*entry.spec));
                    self.count(entry.place.node, -1);
                }
                Touched::Entity(entity)
            }
            RosterEvent::AgentAdded { spec, .. } => {
                self.agent_names.entry((spec.swarm, name_hash(&spec.name))).or_default().push(spec.id);
                if let Some(swarm) = self.swarms.get_mut(&spec.swarm) {
                    swarm.agents.insert(spec.id);
                }
                self.declared_bytes += size::of(&**spec);
                self.agents.insert(spec.id, AgentEntry { spec: spec.clone(), place: Place::default() });
                self.unplaced.insert(Entity::Agent(spec.id));
                Touched::Entity(Entity::Agent(spec.id))
            }
            RosterEvent::AgentRemoved { agent, .. } => {
                let entity = Entity::Agent(*agent);
                self.set_place(entity, None, None, "it was removed");
                self.unplaced.remove(&entity);
                if let Some(entry) = self.agents.remove(agent) {
                    self.declared_bytes = self.declared_bytes.saturating_sub(size::of(&*entry.spec));
                    let name = (entry.spec.swarm, name_hash(&entry.spec.name));
                    if let Some(ids) = self.agent_names.get_mut(&name) {
                        ids.retain(|id| id != agent);
                        if ids.is_empty() {
                            self.agent_names.remove(&name);
                        }
                    }
                    if let Some(swarm) = self.swarms.get_mut(&entry.spec.swarm) {
                        swarm.agents.remove(agent);
                    }
                }
                Touched::Entity(entity)
            }
            RosterEvent::NodeJoined { record } => {
                let entry = self.nodes.entry(record.node).or_insert_with(|| NodeEntry {
                    record: record.clone(),
                    status: NodeStatus::Up,
                    why: None,
                    generation: 0,
                    entities: 0,
                    drain: None,
                });
                if entry.status == NodeStatus::Removed {
                    (entry.status, entry.why) = (NodeStatus::Up, None);
                }
                entry.record = record.clone();
                Touched::Node(record.node)
            }
            RosterEvent::NodeLost { node, why } => {
                self.set_status(*node, NodeStatus::Lost, Some(why.clone()), None);
                Touched::Node(*node)
            }
            RosterEvent::NodeBack { node, generation } => {
                if let Some(entry) = self.nodes.get_mut(node) {
                    entry.generation = *generation;
                    if entry.status == NodeStatus::Lost {
                        (entry.status, entry.why) = (NodeStatus::Up, None);
                    }
                }
                Touched::Node(*node)
            }
            RosterEvent::NodeDraining { node, within_ms, .. } => {
                let entities = self.nodes.get(node).map_or(0, |entry| entry.entities);
                let drain = Drain { since: at, within_ms: *within_ms, entities };
                self.set_status(*node, NodeStatus::Draining, None, Some(drain));
                Touched::Node(*node)
            }
            RosterEvent::NodeDrainCancelled { node, .. } => {
                self.set_status(*node, NodeStatus::Up, None, None);
                Touched::Node(*node)
            }
            RosterEvent::NodeDrained { node } => {
                let drain = self.nodes.get(node).and_then(|entry| entry.drain);
                self.set_status(*node, NodeStatus::Drained, None, drain);
                Touched::Node(*node)
            }
            RosterEvent::NodeRemoved { node, .. } => {
                self.set_status(*node, NodeStatus::Removed, None, None);
                Touched::Node(*node)
            }
            RosterEvent::TokenIssued { book } | RosterEvent::TokenUsed { book, .. } => {
                self.tokens = book.clone();
                Touched::Nothing
            }
            RosterEvent::Part(event) => {
                self.parts.apply(event, When { at, cursor: self.cursor });
                Touched::Nothing
            }
            RosterEvent::Fleet(event) => {
                let Some(host) = event.host() else {
                    self.fleet.apply(event, at);
                    return Touched::Nothing;
                };
                let removed = matches!(event, FleetEvent::HostRemoved { .. });
                if removed {
                    self.set_place(Entity::Host(host), None, None, "it was removed");
                    self.unplaced.remove(&Entity::Host(host));
                }
                self.fleet.apply(event, at);
                if matches!(event, FleetEvent::HostAdded { .. }) {
                    self.unplaced.insert(Entity::Host(host));
                }
                match event.other_host() {
                    Some(other) => Touched::Hosts(host, other),
                    None => Touched::Entity(Entity::Host(host)),
                }
            }
            RosterEvent::Placed { key, node, placement, why } => match Entity::of(key) {
                Some(entity) => {
                    self.set_place(entity, Some(*node), Some(*placement), why);
                    Touched::Entity(entity)
                }
                None => Touched::Nothing,
            },
            RosterEvent::Unplaced { key, why } => match Entity::of(key) {
                Some(entity) => {
                    // To be nowhere is a placement of its own: what it held where it was is void.
                    let left = self.place(entity).filter(|place| place.node.is_some()).map(|place| place.placement + 1);
                    self.set_place(entity, None, left, why);
                    Touched::Entity(entity)
                }
                None => Touched::Nothing,
            },
        }
    }

    fn set_status(&mut self, node: NodeId, status: NodeStatus, why: Option<String>, drain: Option<Drain>) {
        if let Some(entry) = self.nodes.get_mut(&node) {
            entry.status = status;
            entry.why = why;
            entry.drain = drain;
        }
    }
}

#[cfg(test)]
mod tests {
    use hiveward_kernel::id::VmId;

    use super::*;

    #[test]
    fn both_hosts_of_a_vm_that_moved_hear_of_it_at_once() {
        let (from, to) = (HostId::new(), HostId::new());
        let moved = |event| Known::default().apply(&RosterEvent::Fleet(event), WallMs(0));
        let vm = VmId::new();
        assert_eq!(moved(FleetEvent::VmMoved { vm, from, to }), Touched::Hosts(from, to));
        assert_eq!(moved(FleetEvent::VmStayed { vm, from, to }), Touched::Entity(Entity::Host(from)));
    }
}
