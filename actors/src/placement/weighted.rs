//! By chance in proportion to the weights: each candidate draws `u^(1/weight)` and the highest draw wins
//! (Efraimidis and Spirakis, 2006).

use super::choose::Candidate;

pub(super) fn score(candidate: &Candidate, dice: f64) -> f64 {
    if candidate.weight == 0 {
        return 0.0;
    }
    // One throw of the dice serves all: each candidate's own draw is mixed from it and its id.
    let mut draw = fastrand::Rng::with_seed(dice.to_bits() ^ candidate.agent.as_u128() as u64 ^ (candidate.agent.as_u128() >> 64) as u64);
    draw.f64().powf(1.0 / f64::from(candidate.weight))
}
