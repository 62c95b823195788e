//! Seats the agents of a swarm as its coordinator sees them: what they can do, what they hold, how they have done.
//!
//! Who is present is not in the ledger: agents say so when they or the coordinator start. How they have done is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use hiveward_catalogue::placement::{Candidate, LeftOut, Weights};
use hiveward_kernel::id::{AgentId, TaskId};
use hiveward_runtime::op::NodeId;

use super::{queue::Needs, steal::Places};

/// The most candidates that one decision weighs; those that waited longest for work come first.
pub const CANDIDATES_MAX: usize = 64;

/// The words by which an agent takes its seat.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Arrival {
    pub agent: AgentId,
    pub incarnation: u64,
    /// The number of the agent's placement on its node: a lease that it was given in an older one is lost.
    pub placement: u64,
    pub skills: Arc<[hiveward_catalogue::agent::spec::Skill]>,
    /// The most attempts at once; with 0 it only finishes what it holds.
    pub capacity: u32,
    pub weight: u32,
    /// The node that it is on; of the coordinator's own knowledge, never said.
    #[serde(skip)]
    pub node: Option<NodeId>,
}

struct Seat {
    arrival: Arrival,
    running: HashSet<TaskId>,
    chosen_at: u64,
}

/// Attempts that ended well and otherwise, by agent; rebuilt from the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    pub succeeded: u64,
    pub failed: u64,
}

/// The seats of a swarm's agents.
#[derive(Default)]
pub struct Seats {
    seats: HashMap<AgentId, Seat>,
    /// The agents below the load limit, longest idle first.
    free: BTreeSet<(u64, AgentId)>,
    pub tallies: HashMap<AgentId, Tally>,
    turns: u64,
    /// The number of attempts that hold a place, over all seats.
    running: usize,
}

impl Seats {
    /// Counts the seated agents.
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// Tells whether no agent is seated.
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// Counts the attempts that hold a place, over all seats.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Returns the number of a seated agent's placement.
    pub fn placement(&self, agent: AgentId) -> Option<u64> {
        self.seats.get(&agent).map(|seat| seat.arrival.placement)
    }

    /// Returns the incarnation in which an agent is seated.
    pub fn incarnation(&self, agent: AgentId) -> Option<u64> {
        self.seats.get(&agent).map(|seat| seat.arrival.incarnation)
    }

    /// Seats an agent that holds these tasks; returns whether it did. A newer life of the same agent takes over the seat and what
    /// it holds; an older one is refused.
    pub fn arrive(&mut self, arrival: Arrival, holds: impl IntoIterator<Item = TaskId>, weights: &Weights) -> bool {
        let agent = arrival.agent;
        if self.incarnation(agent).is_some_and(|seated| seated > arrival.incarnation) {
            return false;
        }
        let chosen_at = self.leave(agent).map_or(0, |seat| seat.chosen_at);
        let running: HashSet<_> = holds.into_iter().collect();
        self.running += running.len();
        self.seats.insert(agent, Seat { arrival, running, chosen_at });
        self.refresh(agent, weights);
        true
    }

    fn leave(&mut self, agent: AgentId) -> Option<Seat> {
        let seat = self.seats.remove(&agent)?;
        self.free.remove(&(seat.chosen_at, agent));
        self.running -= seat.running.len();
        Some(seat)
    }

    /// Unseats an agent that is gone (this life of it, or any older); returns whether it was seated so.
    pub fn depart(&mut self, agent: AgentId, incarnation: u64) -> bool {
        if self.incarnation(agent).is_none_or(|seated| seated > incarnation) {
            return false;
        }
        self.leave(agent).is_some()
    }

    fn refresh(&mut self, agent: AgentId, weights: &Weights) {
        let Some(seat) = self.seats.get(&agent) else { return };
        let load = f64::from(seat.running.len() as u32) / f64::from(seat.arrival.capacity.max(1));
        let place = (seat.chosen_at, agent);
        if seat.arrival.capacity > 0 && load < weights.load_max {
            self.free.insert(place);
        } else {
            self.free.remove(&place);
        }
    }

    /// Gives a task a place at an agent; its next turn then comes after that of all others.
    pub fn hold(&mut self, agent: AgentId, task: TaskId, weights: &Weights) {
        self.turns += 1;
        let turn = self.turns;
        if let Some(seat) = self.seats.get_mut(&agent) {
            self.free.remove(&(seat.chosen_at, agent));
            seat.chosen_at = turn;
            if seat.running.insert(task) {
                self.running += 1;
            }
            self.refresh(agent, weights);
        }
    }

    /// Frees the place of a task at an agent; returns whether it had one.
    pub fn release(&mut self, agent: AgentId, task: TaskId, weights: &Weights) -> bool {
        let released = self.seats.get_mut(&agent).is_some_and(|seat| seat.running.remove(&task));
        if released {
            self.running -= 1;
            self.refresh(agent, weights);
        }
        released
    }

    /// Iterates over the skills of an agent; none if it is not seated.
    pub fn skills(&self, agent: AgentId) -> impl Iterator<Item = &Arc<str>> {
        self.seats.get(&agent).into_iter().flat_map(|seat| seat.arrival.skills.iter().map(|skill| &skill.name))
    }

    /// Tells whether a seated agent could ever take a task with these needs, busy or not.
    pub fn can(&self, agent: AgentId, needs: &Needs) -> bool {
        self.seats.get(&agent).is_some_and(|seat| fit(seat, needs).is_some())
    }

    /// Returns who could take a task with these needs now, and how many could not and why.
    pub fn candidates(&self, needs: &Needs) -> (Vec<Candidate>, Vec<LeftOut>) {
        let near = needs.apart_from.and_then(|agent| self.seats.get(&agent)).and_then(|seat| seat.arrival.node);
        let (mut found, mut unskilled) = self.fitting(needs, near);
        let mut too_near = 0;
        if let Some(near) = near {
            if found.is_empty() {
                (found, unskilled) = self.fitting(needs, None);
            } else {
                too_near = self.free.iter().filter(|(_, agent)| self.node(*agent) == Some(near)).count();
                unskilled = unskilled.saturating_sub(too_near);
            }
        }
        let mut left_out = Vec::new();
        let mut note = |agents: usize, reason: &str| {
            if agents > 0 {
                left_out.push(LeftOut { reason: reason.into(), agents: u32::try_from(agents).unwrap_or(u32::MAX) });
            }
        };
        note(unskilled, if needs.apart_from.is_some() { "lacks a skill or runs its twin" } else { "lacks a skill" });
        note(too_near, "is on the node of its twin");
        if needs.agent.is_none() {
            note(self.seats.len() - self.free.len(), "has no free place");
        }
        (found, left_out)
    }

    /// Tells whether any agent is below its load limit.
    pub fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Returns the places that are free, by the skills of their agents: at most `places_max` of at most `kinds_max` kinds.
    pub fn free_places(&self, weights: &Weights, places_max: usize, kinds_max: usize) -> Vec<Places> {
        let mut kinds: BTreeMap<Vec<Arc<str>>, u32> = BTreeMap::new();
        let mut left = u32::try_from(places_max).unwrap_or(u32::MAX);
        for (_, agent) in &self.free {
            let Some(seat) = self.seats.get(agent) else { continue };
            // As many as it may hold before it is at its load limit.
            let may_hold = (f64::from(seat.arrival.capacity) * weights.load_max).ceil() as u32;
            let free = may_hold.saturating_sub(seat.running.len() as u32).min(left);
            let mut skills: Vec<Arc<str>> = seat.arrival.skills.iter().map(|skill| skill.name.clone()).collect();
            skills.sort_unstable();
            skills.dedup();
            if free == 0 || (kinds.len() == kinds_max && !kinds.contains_key(&skills)) {
                continue;
            }
            *kinds.entry(skills).or_default() += free;
            left -= free;
        }
        kinds.into_iter().map(|(skills, places)| Places { skills, places }).collect()
    }

    fn node(&self, agent: AgentId) -> Option<NodeId> {
        self.seats.get(&agent).and_then(|seat| seat.arrival.node)
    }

    /// Returns those with a free place that fit, and how many do not. Leaves out those on the node `near`.
    fn fitting(&self, needs: &Needs, near: Option<NodeId>) -> (Vec<Candidate>, usize) {
        let mut found = Vec::new();
        let mut unfit = 0;
        let pinned = needs.agent.into_iter();
        let free = self.free.iter().map(|(_, agent)| *agent).filter(|_| needs.agent.is_none());
        for agent in pinned.chain(free) {
            let Some(seat) = self.seats.get(&agent) else { continue };
            match fit(seat, needs).filter(|_| near.is_none() || seat.arrival.node != near) {
                Some(specialisation) => found.push(self.candidate(agent, seat, specialisation)),
                None => unfit += 1,
            }
            if found.len() == CANDIDATES_MAX {
                break;
            }
        }
        (found, unfit)
    }

    fn candidate(&self, agent: AgentId, seat: &Seat, specialisation: f64) -> Candidate {
        let tally = self.tallies.get(&agent).copied().unwrap_or_default();
        Candidate {
            agent,
            specialisation,
            succeeded: tally.succeeded,
            failed: tally.failed,
            running: u32::try_from(seat.running.len()).unwrap_or(u32::MAX),
            capacity: seat.arrival.capacity,
            weight: seat.arrival.weight,
            chosen_at: seat.chosen_at,
        }
    }

    /// Tells whether any seated agent could ever take a task with these needs, busy or not.
    pub fn anyone_fits(&self, needs: &Needs) -> bool {
        match needs.agent {
            Some(agent) => self.can(agent, needs),
            None => self.seats.values().any(|seat| fit(seat, needs).is_some()),
        }
    }
}

/// Returns how well the seat's skills match: the mean proficiency over what is needed, or `None` if one is lacking.
fn fit(seat: &Seat, needs: &Needs) -> Option<f64> {
    if needs.agent.is_some_and(|agent| agent != seat.arrival.agent) || needs.apart_from == Some(seat.arrival.agent) {
        return None;
    }
    if needs.skills.is_empty() {
        return Some(1.0);
    }
    let mut sum = 0.0;
    for wanted in &needs.skills {
        sum += f64::from(seat.arrival.skills.iter().find(|skill| skill.name == *wanted)?.proficiency);
    }
    Some((sum / needs.skills.len() as f64).clamp(0.0, 1.0))
}
