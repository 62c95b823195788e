//! What a change of the roster means for what is placed where. It has no I/O, clock or state of its own.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use hiveward_catalogue::{
    agent::spec::AgentSpec,
    directory::{Known, NodeEntry, NodeStatus, size_of},
    host::{
        self,
        event::{FleetChange, FleetEvent, pinned},
        fleet::Fleet,
        spec::HostSpec,
    },
    part::{Part, PartEvent, budget::Budgets, project::Projects},
    placement::entity::{Choice, NodeFacts, Wish, choose},
    roster::event::{NodeRecord, RosterEvent},
    swarm::SwarmSpec,
};
use hiveward_kernel::{
    entity::Entity,
    id::{AgentId, ProjectId, SwarmId},
    operation::Operation,
};
use hiveward_runtime::{
    error::{Code, Refused},
    op::NodeId,
};

pub(super) fn conflict(field: &str, message: String) -> Refused {
    Refused { code: Code::Conflict, message, field: Some(field.into()) }
}

/// A plan that places entities one after another: each choice weighs those before it.
pub struct Planner<'a> {
    known: &'a Known,
    nodes: Vec<NodeFacts>,
    /// The change in each swarm's agents on each node that this planner made and that is not in `known` yet.
    of_swarm: HashMap<(SwarmId, NodeId), i64>,
    /// The nodes on which this planner put what.
    placed: HashMap<Entity, NodeId>,
    /// Shards of one swarm that are not in `known` yet.
    adding: Vec<SwarmId>,
}

impl<'a> Planner<'a> {
    /// Begins with what is known.
    pub fn new(known: &'a Known) -> Self {
        let facts = |entry: &hiveward_catalogue::directory::NodeEntry| NodeFacts {
            closed: entry.status.closed(),
            entities: entry.entities,
            ..facts_of(&entry.record)
        };
        Self {
            known,
            nodes: known.nodes.values().map(facts).collect(),
            of_swarm: HashMap::new(),
            placed: HashMap::new(),
            adding: Vec::new(),
        }
    }

    /// Counts a node as if it were open already, with what this record says of it.
    pub fn open(&mut self, record: &NodeRecord) {
        match self.nodes.iter_mut().find(|facts| facts.node == record.node) {
            Some(facts) => *facts = NodeFacts { entities: facts.entities, ..facts_of(record) },
            None => self.nodes.push(facts_of(record)),
        }
    }

    /// Counts a node as if it were closed already, for this reason.
    pub fn close(&mut self, node: NodeId, why: &'static str) {
        if let Some(facts) = self.nodes.iter_mut().find(|facts| facts.node == node) {
            facts.closed = Some(why);
        }
    }

    fn put(&mut self, entity: Entity, wish: &Wish, swarm: Option<SwarmId>, reason: Option<&str>) -> Result<RosterEvent, String> {
        let on = swarm.and_then(|swarm| self.known.swarms.get(&swarm)).map(|entry| &entry.on);
        for facts in &mut self.nodes {
            let known = on.and_then(|on| on.get(&facts.node)).copied().unwrap_or(0);
            let added = swarm.and_then(|swarm| self.of_swarm.get(&(swarm, facts.node))).copied().unwrap_or(0);
            facts.of_swarm = u32::try_from(i64::from(known) + added).unwrap_or(0);
        }
        let choice = self.choose(entity, wish)?;
        let before = self.known.place(entity);
        if let Some(from) = before.and_then(|place| place.node) {
            self.move_one(from, swarm, -1);
        }
        self.move_one(choice.node, swarm, 1);
        self.placed.insert(entity, choice.node);
        let why = reason.map_or_else(|| choice.why.clone(), |reason| format!("{reason}; {}", choice.why));
        let placement = before.map_or(0, |place| place.placement) + 1;
        Ok(RosterEvent::Placed { key: entity.key(), node: choice.node, placement, why })
    }

    /// Chooses a node. A shard goes where the fewest of its siblings are, so that the loss of a node stops few of them.
    fn choose(&self, entity: Entity, wish: &Wish) -> Result<Choice, String> {
        let siblings = match entity {
            Entity::Swarm(id) => self.known.shards_of(id).into_iter().filter(move |shard| *shard != id),
            Entity::Agent(_) | Entity::Host(_) | Entity::Vm(_) => return choose(wish, &self.nodes),
        };
        let mut held: BTreeMap<NodeId, usize> = BTreeMap::new();
        for shard in siblings.chain(self.adding.iter().copied().filter(|shard| Entity::Swarm(*shard) != entity)) {
            let shard = Entity::Swarm(shard);
            let known = || self.known.place(shard).and_then(|place| place.node);
            if let Some(node) = self.placed.get(&shard).copied().or_else(known) {
                *held.entry(node).or_default() += 1;
            }
        }
        if held.is_empty() {
            return choose(wish, &self.nodes);
        }
        let count = |node: &NodeId| held.get(node).copied().unwrap_or(0);
        let levels: BTreeSet<usize> = self.nodes.iter().map(|facts| count(&facts.node)).collect();
        for level in levels {
            let mut nodes = self.nodes.clone();
            for facts in nodes.iter_mut().filter(|facts| facts.closed.is_none() && count(&facts.node) > level) {
                facts.closed = Some("holds more shards of the swarm");
            }
            if let Ok(choice) = choose(wish, &nodes) {
                return Ok(choice);
            }
        }
        choose(wish, &self.nodes)
    }

    fn move_one(&mut self, node: NodeId, swarm: Option<SwarmId>, change: i32) {
        if let Some(facts) = self.nodes.iter_mut().find(|facts| facts.node == node) {
            facts.entities = facts.entities.saturating_add_signed(change);
        }
        if let Some(swarm) = swarm {
            *self.of_swarm.entry((swarm, node)).or_default() += i64::from(change);
        }
    }

    /// Places a coordinator. `reason` is why it moves. Errors: why no node can have it, in words.
    pub fn swarm(&mut self, spec: &SwarmSpec, reason: Option<&str>) -> Result<RosterEvent, String> {
        let entity = Entity::Swarm(spec.id);
        let wish = Wish { labels: spec.node_labels.clone(), pin: spec.node, turn: entity.turn() };
        self.put(entity, &wish, None, reason)
    }

    /// Places an agent, weighing how many of its swarm each node has. Errors: why no node can have it, in words.
    pub fn agent(&mut self, spec: &AgentSpec, reason: Option<&str>) -> Result<RosterEvent, String> {
        let entity = Entity::Agent(spec.id);
        let wish = Wish { labels: spec.node_labels.clone(), pin: spec.node, turn: entity.turn() };
        self.put(entity, &wish, Some(spec.swarm), reason)
    }

    /// Places an entity that the roster knows already. Errors: why that cannot be, in words.
    pub fn known(&mut self, entity: Entity, reason: Option<&str>) -> Result<RosterEvent, String> {
        match entity {
            Entity::Swarm(id) => match self.known.swarms.get(&id) {
                Some(entry) => self.swarm(&entry.spec.clone(), reason),
                None => Err("it was removed".into()),
            },
            Entity::Agent(id) => match self.known.agents.get(&id) {
                Some(entry) => self.agent(&entry.spec.clone(), reason),
                None => Err("it was removed".into()),
            },
            Entity::Host(id) => match self.known.fleet.hosts.get(&id) {
                Some(entry) => self.host(&entry.spec.clone(), pinned(&entry.spec, entry.home), reason),
                None => Err("it was removed".into()),
            },
            Entity::Vm(_) => Err("it is where its host is".into()),
        }
    }

    /// Places the connection to a hypervisor on a node, on `pin` if that is given. Errors: why no node can have it.
    pub fn host(&mut self, spec: &HostSpec, pin: Option<NodeId>, reason: Option<&str>) -> Result<RosterEvent, String> {
        let entity = Entity::Host(spec.id);
        let wish = Wish { labels: BTreeMap::new(), pin, turn: entity.turn() };
        self.put(entity, &wish, None, reason)
    }
}

fn facts_of(record: &NodeRecord) -> NodeFacts {
    NodeFacts {
        node: record.node,
        closed: None,
        labels: record.labels.clone(),
        zone: record.zone.clone(),
        cores: record.cores,
        entities: 0,
        of_swarm: 0,
    }
}

/// Returns the event that an entity was placed, or that it cannot be and why.
fn settled(entity: Entity, placed: Result<RosterEvent, String>) -> RosterEvent {
    placed.unwrap_or_else(|why| RosterEvent::Unplaced { key: entity.key(), why })
}

/// Adds a swarm to a project, if there is one and it may have another. Errors: `NotFound`, `Conflict`, or `Limit` with the quota.
pub fn add_swarm_in(
    known: &Known,
    project: ProjectId,
    spec: &SwarmSpec,
    operation: Option<&Operation>,
) -> Result<Vec<RosterEvent>, Refused> {
    if known.swarm_named(project, &spec.name).is_some() {
        return Err(conflict("name", format!("there is a swarm named {:?} already", spec.name)));
    }
    if project == ProjectId::DEFAULT {
        return Ok(add_swarm(known, spec, operation));
    }
    all_know(known, Projects::NOUN)?;
    let taken_in = known.parts.projects.take_in(project, spec.id.key())?;
    let added = add_swarm(known, spec, operation);
    Ok(std::iter::once(RosterEvent::Part(PartEvent::Project(taken_in))).chain(added).collect())
}

/// Adds a swarm with all its shards, each placed apart from those before it where that can be.
pub fn add_swarm(known: &Known, spec: &SwarmSpec, operation: Option<&Operation>) -> Vec<RosterEvent> {
    let mut planner = Planner::new(known);
    let mut events = Vec::with_capacity(2 * usize::from(spec.shards));
    for number in 0..spec.shards {
        let spec = Arc::new(spec.of_shard(number));
        let operation = operation.filter(|_| number == 0).cloned();
        let placed = settled(Entity::Swarm(spec.id), planner.swarm(&spec, None));
        planner.adding.push(spec.id);
        events.extend([RosterEvent::SwarmAdded { spec, operation }, placed]);
    }
    events
}

/// Adds and places each agent, weighing those before it. If one is refused, all are.
pub fn add_agents(known: &Known, specs: &[Arc<AgentSpec>], operation: Option<&Operation>) -> Result<Vec<RosterEvent>, Refused> {
    let mut planner = Planner::new(known);
    let (mut events, mut names) = (Vec::with_capacity(2 * specs.len()), HashSet::new());
    let mut added: HashMap<SwarmId, usize> = HashMap::new();
    for (place, spec) in specs.iter().enumerate() {
        if !known.swarms.contains_key(&spec.swarm) {
            return Err(Refused::not_found(spec.swarm));
        }
        let there = known.shards_of(spec.swarm).into_iter().any(|shard| known.agent_named(shard, &spec.name).is_some());
        if there || !names.insert((known.head_of(spec.swarm), spec.name.clone())) {
            return Err(conflict("name", format!("the swarm has an agent named {:?} already", spec.name)));
        }
        let shard = known.shard_for_agent(spec.swarm, |shard| added.get(&shard).copied().unwrap_or(0));
        *added.entry(shard).or_default() += 1;
        let spec =
            if shard == spec.swarm { spec.clone() } else { Arc::new(AgentSpec { swarm: shard, ..AgentSpec::clone(spec) }) };
        let placed = settled(Entity::Agent(spec.id), planner.agent(&spec, None));
        // The operation is that of all; it is kept once.
        let operation = operation.filter(|_| place == 0).cloned();
        events.extend([RosterEvent::AgentAdded { spec, operation }, placed]);
    }
    let bytes = specs.iter().map(|spec| size_of(&**spec)).sum();
    has_room(known.declared_bytes(), bytes, DECLARED_BYTES_MAX)?;
    Ok(events)
}

/// The most bytes that the specs of all swarms and agents take together: every node holds them in memory.
const DECLARED_BYTES_MAX: u64 = 512 << 20;

/// Refuses specs that would take more room than there is for all of them.
fn has_room(declared: u64, more: u64, max: u64) -> Result<(), Refused> {
    if declared.saturating_add(more) <= max {
        return Ok(());
    }
    let message = format!(
        "the agents and swarms that are declared take {declared} bytes, these {more} more, and there may be {max} in all; nothing \
         happened: remove agents, or give less in their profiles"
    );
    Err(Refused { code: Code::Limit, message, field: Some("agents".into()) })
}

/// Refuses something new of a project of which not all nodes can know, that is not there, or that may have no more of it. `fleet`
/// is what there will be.
pub fn may_belong(known: &Known, fleet: &Fleet, change: &FleetChange) -> Result<(), Refused> {
    let (project, is_vm) = match change {
        FleetChange::AddVm { spec, .. } | FleetChange::CloneVm { spec, .. } => (spec.project, true),
        FleetChange::AddImage { spec } => (spec.project, false),
        FleetChange::AddNetwork { spec } => (spec.project, false),
        _ => return Ok(()),
    };
    let Some(found) = known.parts.projects.get(project) else { return Err(Refused::not_found(project)) };
    if project != ProjectId::DEFAULT {
        all_know(known, Projects::NOUN)?;
    }
    let has = || fleet.vms.values().filter(|entry| entry.spec.project == project).count();
    match found.quotas.vms {
        Some(most) if is_vm && has() >= most as usize => {
            let message = format!("project {:?} may have {most} VMs, and has them; nothing happened", found.name);
            Err(Refused::new(Code::Limit, message))
        }
        _ => Ok(()),
    }
}

/// Decides what changes of hosts and VMs; a new host is placed on a node at once.
pub fn fleet(known: &Known, change: &FleetChange, operation: Option<&Operation>) -> Result<Vec<RosterEvent>, Refused> {
    may_belong(known, &known.fleet, change)?;
    let mut events = Vec::new();
    for event in host::decide::decide(&known.fleet, change, operation)? {
        let placed = match &event {
            FleetEvent::HostAdded { spec, .. } => {
                let mut planner = Planner::new(known);
                let put = planner.host(spec, pinned(spec, None), None);
                Some(settled(Entity::Host(spec.id), put))
            }
            _ => None,
        };
        events.push(RosterEvent::Fleet(event));
        events.extend(placed);
    }
    Ok(events)
}

/// Moves everything that was on `node` elsewhere, or nowhere.
pub fn empty(known: &Known, node: NodeId, closed: &'static str, reason: &str) -> Vec<RosterEvent> {
    let mut planner = Planner::new(known);
    planner.close(node, closed);
    known.held(node).into_iter().map(|entity| settled(entity, planner.known(entity, Some(reason)))).collect()
}

/// Declares lost the hosts that are a part of `node`. One whose lease is not over says nothing of what runs there.
pub fn lose_hosts(known: &Known, node: NodeId, lease_is_over: bool, why: &str) -> Vec<RosterEvent> {
    let record = known.nodes.get(&node).map(|entry| &entry.record);
    let lost = host::lost::with_node(&known.fleet, node, record, why).into_iter();
    let lost = lost.map(|event| match event {
        FleetEvent::HostLost { host, node, fences, why } => {
            FleetEvent::HostLost { host, node, fences: fences && lease_is_over, why }
        }
        event => event,
    });
    lost.map(RosterEvent::Fleet).collect()
}

/// Moves coordinators on `node` that can be elsewhere: what they write is fenced by their claim, so they need not wait until its
/// lease is over. Agents have hands outside the ledger, and wait.
pub fn coordinate_elsewhere(known: &Known, node: NodeId) -> Vec<RosterEvent> {
    let mut planner = Planner::new(known);
    planner.close(node, "does not run");
    let swarms = known.held(node).into_iter().filter(|entity| matches!(entity, Entity::Swarm(_)));
    swarms.filter_map(|swarm| planner.known(swarm, Some(&format!("{node} does not run"))).ok()).collect()
}

/// Moves a coordinator that fails on `node` again and again, if it can be elsewhere: its stream is the same, the disk is another.
pub fn try_elsewhere(known: &Known, swarm: SwarmId, node: NodeId, why: &str) -> Option<RosterEvent> {
    let mut planner = Planner::new(known);
    planner.close(node, "could not run it");
    planner.known(Entity::Swarm(swarm), Some(why)).ok()
}

/// Places those that are placed nowhere and now can be. `opened` counts as open.
pub fn place_the_unplaced(known: &Known, opened: Option<&NodeRecord>) -> Vec<RosterEvent> {
    let mut planner = Planner::new(known);
    if let Some(record) = opened {
        planner.open(record);
    }
    known.unplaced.iter().filter_map(|entity| planner.known(*entity, None).ok()).collect()
}

/// Makes the next moves off a node that drains: coordinators, and those agents that are ready; at most `max`, and only what has
/// somewhere to go.
pub fn drain_step(known: &Known, node: NodeId, movable: &[(AgentId, u64)], max: usize) -> Vec<RosterEvent> {
    let mut planner = Planner::new(known);
    let reason = "its node drains";
    let swarms = known.swarms.iter().filter(|(_, entry)| entry.place.node == Some(node)).map(|(id, _)| Entity::Swarm(*id));
    let agents = movable.iter().filter(|(agent, placement)| {
        let place = known.place(Entity::Agent(*agent));
        place.is_some_and(|place| place.node == Some(node) && place.placement == *placement)
    });
    // Connections to hypervisors that any node can hold: what runs on them does not notice.
    let hosts = known.fleet.hosts.iter().filter(|(_, entry)| entry.place.node == Some(node)).map(|(id, _)| Entity::Host(*id));
    let mut entities: Vec<_> = swarms.chain(agents.map(|(agent, _)| Entity::Agent(*agent))).chain(hosts).collect();
    entities.sort_unstable();
    entities.dedup();
    entities.into_iter().filter_map(|entity| planner.known(entity, Some(reason)).ok()).take(max).collect()
}

/// Refuses a change of a part that a node does not know which may come back: it could not read what follows.
pub fn all_know(known: &Known, noun: &str) -> Result<(), Refused> {
    let lacks = |entry: &&NodeEntry| entry.status != NodeStatus::Removed && !entry.record.parts.iter().any(|part| part == noun);
    // Budgets are older than that nodes say which parts they know.
    match known.nodes.values().find(lacks) {
        Some(entry) if noun != Budgets::NOUN => Err(Refused::new(
            Code::Refused,
            format!(
                "{} is of a version that knows nothing called {noun:?}; nothing happened: upgrade or remove it",
                entry.record.node
            ),
        )),
        _ => Ok(()),
    }
}

/// Refuses to drain a node that is not there, that is lost, or that is the only one that takes anything.
pub fn may_drain(known: &Known, node: NodeId) -> Result<(), Refused> {
    let entry = known.nodes.get(&node).filter(|entry| entry.status != NodeStatus::Removed);
    let entry = entry.ok_or_else(|| Refused::not_found(node))?;
    if entry.status == NodeStatus::Lost {
        return Err(Refused::new(Code::Refused, format!("{node} is lost: it holds nothing that could be drained; remove it")));
    }
    let others = known.nodes.values().any(|other| other.record.node != node && other.status == NodeStatus::Up);
    if entry.status == NodeStatus::Up && !others {
        let message = format!("{node} is the only node that takes anything: what it holds could go nowhere");
        return Err(Refused::new(Code::Refused, message));
    }
    Ok(())
}

/// Returns the nodes that are gone for good.
pub fn removed(known: &Known) -> BTreeSet<NodeId> {
    let gone = known.nodes.values().filter(|entry| entry.status == NodeStatus::Removed);
    gone.map(|entry| entry.record.node).collect()
}

/// Refuses to remove a node that is neither lost nor drained, unless forced.
pub fn may_remove(known: &Known, node: NodeId, force: bool) -> Result<(), Refused> {
    let entry = known.nodes.get(&node).filter(|entry| entry.status != NodeStatus::Removed);
    let entry = entry.ok_or_else(|| Refused::not_found(node))?;
    match entry.status {
        NodeStatus::Lost | NodeStatus::Drained => Ok(()),
        _ if force => Ok(()),
        status => Err(Refused::new(
            Code::Refused,
            format!("{node} is {}: drain it first, or stop it and wait until it is lost, or use force", status.name()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_declared_is_bounded_by_its_bytes_and_refused_beyond_with_what_to_do() {
        assert!(has_room(100, 23, 123).is_ok());
        for (declared, more) in [(100, 24), (124, 0), (0, 123_000), (u64::MAX, 1)] {
            let refused = has_room(declared, more, 123).unwrap_err();
            assert_eq!((refused.code, refused.field.as_deref()), (Code::Limit, Some("agents")));
            assert!(refused.message.contains("nothing happened: remove agents"), "{}", refused.message);
        }
    }
}
