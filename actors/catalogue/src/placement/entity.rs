//! Chooses the node for an agent or a coordinator and says why. Pure: no clock, no I/O, no dice.

use std::collections::BTreeMap;

use hiveward_runtime::op::NodeId;

/// A node as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    pub node: NodeId,
    /// The reason why it takes nothing, if it does not.
    pub closed: Option<&'static str>,
    pub labels: BTreeMap<String, String>,
    pub zone: String,
    pub cores: u32,
    /// The number of agents and coordinators that are placed on it.
    pub entities: u32,
    /// The number of those that are of the same swarm.
    pub of_swarm: u32,
}

/// The wishes of an entity for its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// The labels of which the node must have all.
    pub labels: BTreeMap<String, String>,
    pub pin: Option<NodeId>,
    /// A number from the entity's id that turns the order in which equal nodes are taken.
    pub turn: u64,
}

/// The chosen node, and the sentence that says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub node: NodeId,
    pub why: String,
}

/// Returns the best node, or why there is none: the fewest of the swarm in the zone first, then the fewest entities per core,
/// then whose turn it is.
pub fn choose(wish: &Wish, nodes: &[NodeFacts]) -> Result<Choice, String> {
    let mut left_out: BTreeMap<&'static str, u32> = BTreeMap::new();
    let mut leave_out = |why| *left_out.entry(why).or_default() += 1;
    let mut eligible: Vec<&NodeFacts> = Vec::new();
    for facts in nodes {
        if wish.pin.is_some_and(|pin| pin != facts.node) {
            leave_out("is not the node it is pinned to");
        } else if let Some(closed) = facts.closed {
            leave_out(closed);
        } else if wish.labels.iter().any(|(name, value)| facts.labels.get(name) != Some(value)) {
            leave_out("lacks a label");
        } else {
            eligible.push(facts);
        }
    }
    let left_out: Vec<String> = left_out.into_iter().map(|(why, nodes)| format!("{} {why}", super::each(nodes))).collect();
    if eligible.is_empty() {
        let out = if left_out.is_empty() { "there are none".into() } else { left_out.join(", ") };
        return Err(format!("no node is eligible: {out}"));
    }
    let mut zones: BTreeMap<&str, u32> = BTreeMap::new();
    // Also those that take nothing: what they hold is in the zone.
    for facts in nodes {
        *zones.entry(&facts.zone).or_default() += facts.of_swarm;
    }
    eligible.sort_unstable_by_key(|facts| facts.node);
    let turn = usize::try_from(wish.turn % eligible.len() as u64).unwrap_or(0);
    eligible.rotate_left(turn);
    let score = |facts: &NodeFacts| {
        let in_zone = zones.get(facts.zone.as_str()).copied().unwrap_or(0);
        // In thousandths of an entity per core, so that it is ordered.
        (in_zone, u64::from(facts.entities) * 1000 / u64::from(facts.cores.max(1)))
    };
    let Some(best) = eligible.iter().min_by_key(|facts| score(facts)) else {
        return Err("no node is eligible: there are none".into());
    };
    let others = if left_out.is_empty() { String::new() } else { format!("; left out: {}", left_out.join(", ")) };
    let why = match eligible.len() {
        1 if nodes.len() == 1 => "it is the only node".into(),
        1 => format!("it is the only eligible node{others}"),
        many => {
            let (in_zone, load) = score(best);
            let zone = if zones.len() > 1 { format!("{in_zone} of the swarm in zone {:?}, ", best.zone) } else { String::new() };
            let (whole, part) = (load / 1000, load % 1000 / 10);
            format!("best of {many}: {zone}{whole}.{part:02} entities per core{others}")
        }
    };
    Ok(Choice { node: best.node, why })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_nodes() -> impl Strategy<Value = Vec<NodeFacts>> {
        let node = (prop::option::weighted(0.3, Just("is lost")), 0u8..3, 0u8..3, 0u32..9, 0u32..50, 0u32..10);
        prop::collection::vec(node, 0..8).prop_map(|nodes| {
            let facts = |(at, (closed, label, zone, cores, entities, of_swarm)): (usize, (_, u8, u8, u32, u32, u32))| NodeFacts {
                node: NodeId::from_u128(at as u128 + 1),
                closed,
                labels: BTreeMap::from([("disk".into(), label.to_string())]),
                zone: format!("z{zone}"),
                cores,
                entities,
                of_swarm,
            };
            nodes.into_iter().enumerate().map(facts).collect()
        })
    }

    fn any_wish() -> impl Strategy<Value = Wish> {
        (prop::option::of(0u8..3), prop::option::weighted(0.2, 1u128..9), any::<u64>()).prop_map(|(label, pin, turn)| Wish {
            labels: label.map(|label| ("disk".into(), label.to_string())).into_iter().collect(),
            pin: pin.map(NodeId::from_u128),
            turn,
        })
    }

    fn fits(wish: &Wish, facts: &NodeFacts) -> bool {
        facts.closed.is_none()
            && wish.pin.is_none_or(|pin| pin == facts.node)
            && wish.labels.iter().all(|(name, value)| facts.labels.get(name) == Some(value))
    }

    proptest! {
        #[test]
        fn the_choice_is_eligible_and_there_is_one_whenever_any_node_is(wish in any_wish(), nodes in any_nodes()) {
            match choose(&wish, &nodes) {
                Ok(choice) => {
                    let facts = nodes.iter().find(|facts| facts.node == choice.node).unwrap();
                    prop_assert!(fits(&wish, facts), "{choice:?}");
                    prop_assert!(!choice.why.is_empty());
                }
                Err(why) => {
                    prop_assert!(!nodes.iter().any(|facts| fits(&wish, facts)));
                    prop_assert!(why.starts_with("no node is eligible"));
                }
            }
        }

        #[test]
        fn the_order_in_which_nodes_are_listed_changes_nothing(wish in any_wish(), nodes in any_nodes()) {
            let mut turned = nodes.clone();
            turned.reverse();
            prop_assert_eq!(choose(&wish, &nodes), choose(&wish, &turned));
        }

        #[test]
        fn nobody_eligible_in_a_zone_with_fewer_of_the_swarm_or_with_less_load_is_passed_over(
            wish in any_wish(), nodes in any_nodes(),
        ) {
            if let Ok(choice) = choose(&wish, &nodes) {
                let in_zone = |zone: &str| nodes.iter().filter(|facts| facts.zone == zone).map(|facts| facts.of_swarm).sum::<u32>();
                let score = |facts: &NodeFacts| {
                    (in_zone(&facts.zone), u64::from(facts.entities) * 1000 / u64::from(facts.cores.max(1)))
                };
                let chosen = nodes.iter().find(|facts| facts.node == choice.node).unwrap();
                for other in nodes.iter().filter(|facts| fits(&wish, facts)) {
                    prop_assert!(score(chosen) <= score(other));
                }
            }
        }

        #[test]
        fn agents_of_one_swarm_spread_over_equal_nodes_evenly(nodes in 1usize..6, agents in 1u32..60) {
            let fresh = |at: usize| NodeFacts {
                node: NodeId::from_u128(at as u128 + 1), closed: None, labels: BTreeMap::new(), zone: format!("z{at}"),
                cores: 2, entities: 0, of_swarm: 0,
            };
            let mut nodes: Vec<_> = (0..nodes).map(fresh).collect();
            for turn in 0..agents {
                let choice = choose(&Wish { turn: u64::from(turn), ..Wish::default() }, &nodes).unwrap();
                let facts = nodes.iter_mut().find(|facts| facts.node == choice.node).unwrap();
                facts.entities += 1;
                facts.of_swarm += 1;
            }
            let held: Vec<_> = nodes.iter().map(|facts| facts.of_swarm).collect();
            prop_assert!(held.iter().max().unwrap() - held.iter().min().unwrap() <= 1, "{held:?}");
        }
    }
}
