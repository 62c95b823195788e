//! Takes candidates that could run the task and returns one with the reasons.
//!
//! Ties go to the agent that was chosen longest ago, so equals take turns.

use hiveward_kernel::id::AgentId;

use super::{Decision, LeftOut, SHOWN_MAX, Scored, Strategy, Weights, least_busy, round_robin, skill, weighted};

/// An agent that has the skills and a free place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub agent: AgentId,
    /// Mean proficiency over the wanted skills; 1 when none is wanted.
    pub specialisation: f64,
    pub succeeded: u64,
    pub failed: u64,
    pub running: u32,
    pub capacity: u32,
    pub weight: u32,
    /// The moment at which it was last chosen, as a number that only grows; 0 for never.
    pub chosen_at: u64,
}

impl Candidate {
    /// Returns the share of its places that are taken, 0 to 1; an agent without any place is full.
    pub fn load(&self) -> f64 {
        if self.capacity == 0 { 1.0 } else { (f64::from(self.running) / f64::from(self.capacity)).min(1.0) }
    }

    /// Returns the share of its attempts that succeeded; an agent without history counts as one success.
    pub fn success(&self) -> f64 {
        let (succeeded, failed) = (self.succeeded as f64, self.failed as f64);
        (succeeded + 1.0) / (succeeded + failed + 1.0)
    }
}

/// The score that a strategy gives a candidate: the higher, the better.
pub(super) type Score = f64;

/// Chooses among `candidates`; returns `None` if there is none below the load limit. `dice` is uniform in 0..1.
pub fn choose(
    strategy: Strategy,
    weights: &Weights,
    candidates: &[Candidate],
    mut left_out: Vec<LeftOut>,
    dice: f64,
) -> Option<Decision> {
    let mut scored: Vec<(Score, &Candidate)> = Vec::with_capacity(candidates.len());
    let mut overloaded = 0;
    for candidate in candidates {
        if candidate.load() >= weights.load_max {
            overloaded += 1;
            continue;
        }
        let score = match strategy {
            Strategy::Skill => skill::score(weights, candidate),
            Strategy::RoundRobin => round_robin::score(candidate),
            Strategy::LeastBusy => least_busy::score(candidate),
            Strategy::Weighted => weighted::score(candidate, dice),
        };
        scored.push((score, candidate));
    }
    if overloaded > 0 {
        left_out.push(LeftOut { reason: format!("load is at {} or above", weights.load_max).into(), agents: overloaded });
    }
    let better = |a: &(Score, &Candidate), b: &(Score, &Candidate)| {
        b.0.total_cmp(&a.0).then(a.1.chosen_at.cmp(&b.1.chosen_at)).then(a.1.agent.cmp(&b.1.agent))
    };
    if scored.len() > SHOWN_MAX {
        scored.select_nth_unstable_by(SHOWN_MAX - 1, better);
    }
    let eligible = u32::try_from(scored.len()).unwrap_or(u32::MAX);
    scored.truncate(SHOWN_MAX);
    scored.sort_unstable_by(better);
    let chosen = scored.first()?.1.agent;
    let scores = scored
        .into_iter()
        .map(|(total, candidate)| Scored {
            agent: candidate.agent,
            total: total as f32,
            specialisation: candidate.specialisation as f32,
            success: candidate.success() as f32,
            load: candidate.load() as f32,
        })
        .collect();
    Some(Decision { strategy, chosen, scores, eligible, left_out })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(n: u128) -> Candidate {
        Candidate {
            agent: AgentId::from_u128(n),
            specialisation: 1.0,
            succeeded: 0,
            failed: 0,
            running: 0,
            capacity: 10,
            weight: 1,
            chosen_at: 0,
        }
    }

    fn pick(strategy: Strategy, candidates: &[Candidate], dice: f64) -> Option<AgentId> {
        choose(strategy, &Weights::default(), candidates, Vec::new(), dice).map(|d| d.chosen)
    }

    #[test]
    fn the_skill_formula_is_a_half_three_tenths_two_tenths_of_normalised_parts() {
        let one = Candidate { specialisation: 0.8, succeeded: 2, failed: 3, running: 5, ..candidate(1) };
        let decision = choose(Strategy::Skill, &Weights::default(), &[one], Vec::new(), 0.0).unwrap();
        // 0.5 × 0.8 + 0.3 × (3 / 6) + 0.2 × (1 − 0.5)
        assert!((f64::from(decision.scores[0].total) - 0.65).abs() < 1e-6, "{decision:?}");
    }

    #[test]
    fn an_agent_at_eight_tenths_load_is_left_out_and_the_decision_says_so() {
        let full = Candidate { running: 8, ..candidate(1) };
        assert_eq!(pick(Strategy::Skill, &[full], 0.0), None);
        let decision = choose(Strategy::Skill, &Weights::default(), &[full, candidate(2)], Vec::new(), 0.0).unwrap();
        assert_eq!((decision.chosen, decision.eligible), (AgentId::from_u128(2), 1));
        assert_eq!(decision.left_out[0].agents, 1);
    }

    #[test]
    fn equals_take_turns() {
        for strategy in [Strategy::Skill, Strategy::RoundRobin, Strategy::LeastBusy] {
            let mut agents: Vec<_> = (1..=5).map(candidate).collect();
            let mut taken = [0_u32; 5];
            for turn in 1..=50 {
                let chosen = pick(strategy, &agents, 0.3).unwrap();
                let at = agents.iter().position(|c| c.agent == chosen).unwrap();
                agents[at].chosen_at = turn;
                taken[at] += 1;
            }
            assert_eq!(taken, [10; 5], "{strategy:?}");
        }
    }

    #[test]
    fn weighted_follows_the_weights() {
        let agents = [Candidate { weight: 3, ..candidate(1) }, Candidate { weight: 1, ..candidate(2) }];
        let mut dice = fastrand::Rng::with_seed(7);
        let heavy = (0..4_000).filter(|_| pick(Strategy::Weighted, &agents, dice.f64()) == Some(AgentId::from_u128(1))).count();
        assert!((2_800..3_200).contains(&heavy), "{heavy}");
    }
}
