//! Thousands of seeded histories of nodes that join, are lost, come back, drain and go, and of entities that are added and
//! removed. After each event the fold must be what it is counted anew. Prints the seed that fails.

use std::{collections::BTreeMap, sync::Arc};

use hiveward_catalogue::{
    agent::spec::{AgentSpec, ConnectorSpec, Limits, SessionSpec},
    directory::{Known, NodeStatus, snapshot},
    roster::event::{NodeRecord, RosterEvent},
    swarm::SwarmSpec,
};
use hiveward_kernel::{
    entity::Entity,
    id::{AgentId, SwarmId},
};
use hiveward_runtime::{clock::WallMs, error::Code, op::NodeId};

use super::decide;

const SEEDS: u64 = 100;
const STEPS: u32 = 250;
const NODES: u128 = 6;

fn record(node: u128, dice: &mut fastrand::Rng) -> NodeRecord {
    let labels = BTreeMap::from([("disk".to_owned(), dice.u8(0..2).to_string())]);
    let zone = format!("z{}", dice.u8(0..3));
    NodeRecord { labels, zone, cores: dice.u32(1..5), ..NodeRecord::of_this_host(NodeId::from_u128(node), 1, String::new()) }
}

fn wish(dice: &mut fastrand::Rng) -> (BTreeMap<String, String>, Option<NodeId>) {
    let label = (dice.f64() < 0.2).then(|| ("disk".to_owned(), dice.u8(0..2).to_string()));
    (label.into_iter().collect(), (dice.f64() < 0.1).then(|| NodeId::from_u128(dice.u128(1..=NODES))))
}

fn swarm(id: u128, dice: &mut fastrand::Rng) -> SwarmSpec {
    let (node_labels, node) = wish(dice);
    SwarmSpec {
        id: SwarmId::from_u128(id << 8),
        name: format!("swarm-{id}"),
        topology: Default::default(),
        strategy: Default::default(),
        weights: Default::default(),
        queued_max: 1,
        running_max: None,
        node_labels,
        node,
        shards: dice.u16(1..4),
        shard: 0,
    }
}

fn agent(id: u128, swarm: SwarmId, dice: &mut fastrand::Rng) -> AgentSpec {
    let (node_labels, node) = wish(dice);
    AgentSpec {
        id: AgentId::from_u128(id),
        swarm,
        name: format!("agent-{id}"),
        connector: ConnectorSpec::Noop,
        skills: Vec::new(),
        weight: 1,
        max_concurrent_tasks: 1,
        limits: Limits::default(),
        env: Vec::new(),
        session: SessionSpec::Pipes,
        auto_start: true,
        start_timeout_ms: 1,
        stop_grace_ms: 1,
        node_labels,
        node,
    }
}

/// Returns what the actor would append for one command by chance.
fn command(known: &Known, next: &mut u128, dice: &mut fastrand::Rng) -> Vec<RosterEvent> {
    let node = NodeId::from_u128(dice.u128(1..=NODES));
    let status = known.nodes.get(&node).map(|entry| entry.status);
    let of_node = |status: NodeStatus| known.nodes.get(&node).filter(|entry| entry.status == status);
    let first = |event: RosterEvent, rest: Vec<RosterEvent>| std::iter::once(event).chain(rest).collect::<Vec<_>>();
    *next += 1;
    match dice.u32(0..21) {
        0..=1 if matches!(status, None | Some(NodeStatus::Removed)) => {
            let record = record(node.as_u128(), dice);
            let placed = decide::place_the_unplaced(known, Some(&record));
            first(RosterEvent::NodeJoined { record }, placed)
        }
        2..=3 if matches!(status, Some(NodeStatus::Up | NodeStatus::Draining | NodeStatus::Drained)) => {
            let moved = decide::empty(known, node, "is lost", "its node is lost");
            first(RosterEvent::NodeLost { node, why: "tested".into() }, moved)
        }
        4..=5 => match of_node(NodeStatus::Lost) {
            Some(entry) => {
                let placed = decide::place_the_unplaced(known, Some(&entry.record));
                first(RosterEvent::NodeBack { node, generation: u64::try_from(*next).unwrap() }, placed)
            }
            None => Vec::new(),
        },
        6 if of_node(NodeStatus::Up).is_some() && decide::may_drain(known, node).is_ok() => {
            vec![RosterEvent::NodeDraining { node, within_ms: 1, operation: None }]
        }
        7 => match of_node(NodeStatus::Draining).or(of_node(NodeStatus::Drained)) {
            Some(entry) => {
                let placed = decide::place_the_unplaced(known, Some(&entry.record));
                first(RosterEvent::NodeDrainCancelled { node, operation: None }, placed)
            }
            None => Vec::new(),
        },
        8..=9 => match of_node(NodeStatus::Draining) {
            Some(entry) if entry.entities == 0 => vec![RosterEvent::NodeDrained { node }],
            Some(_) if dice.f64() < 0.2 => decide::empty(known, node, "is drained", "the deadline"),
            Some(_) => {
                let idle: Vec<_> = known
                    .agents
                    .iter()
                    // Some by an old placement, as a late word has it.
                    .map(|(id, entry)| (*id, entry.place.placement.saturating_sub(u64::from(dice.u8(0..2)))))
                    .collect();
                decide::drain_step(known, node, &idle, 3)
            }
            None => Vec::new(),
        },
        10 if status.is_some() && decide::may_remove(known, node, false).is_ok() => {
            let moved = decide::empty(known, node, "was removed", "its node was removed");
            first(RosterEvent::NodeRemoved { node, operation: None }, moved)
        }
        11 => {
            let spec = Arc::new(swarm(*next, dice));
            decide::add_swarm(known, &spec, None)
        }
        12..=16 => {
            let mut swarms: Vec<_> = known.swarms.keys().copied().collect();
            swarms.sort_unstable();
            let Some(swarm) = dice.choice(swarms) else { return Vec::new() };
            let specs: Vec<_> = (0..dice.u128(1..4)).map(|n| Arc::new(agent(*next + n, swarm, dice))).collect();
            *next += specs.len() as u128;
            decide::add_agents(known, &specs, None).expect("their names are new")
        }
        17..=18 => {
            let mut agents: Vec<_> = known.agents.iter().map(|(id, entry)| (*id, entry.spec.swarm)).collect();
            agents.sort_unstable();
            let Some((agent, swarm)) = dice.choice(agents) else { return Vec::new() };
            vec![RosterEvent::AgentRemoved { agent, swarm, operation: None }]
        }
        19 => {
            let empty = |id: &SwarmId| known.shards_of(*id).iter().all(|shard| known.swarms[shard].agents.is_empty());
            let heads = known.swarms.iter().filter(|(_, entry)| entry.spec.shard == 0).map(|(id, _)| *id);
            let mut empty: Vec<_> = heads.filter(empty).collect();
            empty.sort_unstable();
            let removed = dice.choice(empty).map_or_else(Vec::new, |swarm| known.shards_of(swarm));
            removed.into_iter().map(|swarm| RosterEvent::SwarmRemoved { swarm, operation: None }).collect()
        }
        20 if status.is_some() => {
            let moved = decide::coordinate_elsewhere(known, node);
            assert!(moved.iter().all(|event| matches!(event, RosterEvent::Placed { node: to, .. } if *to != node)), "{moved:?}");
            moved
        }
        _ => Vec::new(),
    }
}

fn entities(known: &Known) -> impl Iterator<Item = Entity> {
    let swarms = known.swarms.keys().map(|id| Entity::Swarm(*id));
    swarms.chain(known.agents.keys().map(|id| Entity::Agent(*id)))
}

fn suits(known: &Known, entity: Entity, node: NodeId) -> bool {
    let (labels, pin) = match entity {
        Entity::Swarm(id) => (&known.swarms[&id].spec.node_labels, known.swarms[&id].spec.node),
        Entity::Agent(id) => (&known.agents[&id].spec.node_labels, known.agents[&id].spec.node),
        Entity::Host(_) | Entity::Vm(_) => unreachable!("there are none here"),
    };
    let record = &known.nodes[&node].record;
    pin.is_none_or(|pin| pin == node) && labels.iter().all(|(name, value)| record.labels.get(name) == Some(value))
}

/// Checks what must hold between two commands.
fn check(known: &Known) {
    for entity in entities(known) {
        let place = known.place(entity).unwrap();
        match place.node {
            Some(node) => {
                let status = known.nodes[&node].status;
                assert!(matches!(status, NodeStatus::Up | NodeStatus::Draining), "{entity:?} is on a node that is {status:?}");
                assert!(place.placement > 0);
                assert!(!known.unplaced.contains(&entity));
            }
            None => {
                assert!(known.unplaced.contains(&entity));
                let up = known.nodes.values().filter(|entry| entry.status == NodeStatus::Up);
                let fits: Vec<_> = up.filter(|entry| suits(known, entity, entry.record.node)).collect();
                assert!(fits.is_empty(), "{entity:?} is nowhere, though {fits:?} would do");
            }
        }
    }
    assert!(known.unplaced.iter().all(|entity| known.place(*entity).is_some()));
    for (node, entry) in &known.nodes {
        assert_eq!(entry.entities as usize, known.held(*node).len(), "of {node}");
    }
    for entry in known.swarms.values() {
        let mut on: BTreeMap<NodeId, u32> = BTreeMap::new();
        for node in entry.agents.iter().filter_map(|agent| known.agents[agent].place.node) {
            *on.entry(node).or_default() += 1;
        }
        assert_eq!(on, entry.on);
    }
}

fn run(seed: u64) -> u32 {
    let mut dice = fastrand::Rng::with_seed(seed);
    let (mut known, mut next, mut moves) = (Known::default(), 100, 0);
    for _ in 0..STEPS {
        for event in command(&known, &mut next, &mut dice) {
            // What is written reads back as it is.
            let event =
                RosterEvent::decode(event.kind(), hiveward_catalogue::roster::event::FORMAT, &event.encode().unwrap()).unwrap();
            if let RosterEvent::Placed { key, node, placement, .. } = &event {
                let entity = Entity::of(key).unwrap();
                assert!(suits(&known, entity, *node));
                assert!(*placement > known.place(entity).unwrap().placement, "a placement is used once only");
                moves += u32::from(*placement > 1);
            }
            known.apply(&event, WallMs(0));
        }
        if dice.f64() < 0.05 {
            let before = known.declared_bytes();
            known = snapshot::written_and_read(&known);
            assert_eq!(known.declared_bytes(), before, "what is declared is counted as it is");
        }
        check(&known);
    }
    moves
}

#[test]
fn nothing_is_placed_twice_or_on_a_closed_node_and_nothing_waits_for_a_node_that_is_there() {
    let mut moves = 0;
    for seed in 0..SEEDS {
        let ran = std::panic::catch_unwind(|| run(seed));
        moves += ran.unwrap_or_else(|_| panic!("seed {seed} failed"));
    }
    assert!(moves > 500, "the histories must hold moves: {moves}");
}

#[test]
fn agents_added_together_with_one_name_twice_are_refused_whole() {
    let mut dice = fastrand::Rng::with_seed(1);
    let mut known = Known::default();
    let spec = SwarmSpec { node: None, ..swarm(1, &mut dice) };
    for event in decide::add_swarm(&known, &spec, None) {
        known.apply(&event, WallMs(1));
    }
    let named = |id: u128, name: &str| {
        let mut dice = fastrand::Rng::with_seed(1);
        Arc::new(AgentSpec { name: name.to_owned(), ..agent(id, spec.id, &mut dice) })
    };
    let twice = [named(1, "one"), named(2, "two"), named(3, "one")];
    let refused = decide::add_agents(&known, &twice, None).unwrap_err();
    assert_eq!(refused.code, Code::Conflict, "{refused:?}");
    let once = decide::add_agents(&known, &twice[..2], None).unwrap();
    let added = once.iter().filter(|event| matches!(event, RosterEvent::AgentAdded { .. })).count();
    assert_eq!(added, 2, "{once:?}");
}
