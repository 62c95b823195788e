//! Chooses by chance in proportion to the weights: each candidate draws `u^(1/weight)` and the highest draw wins
//! (Efraimidis and Spirakis, 2006).

use super::choose::Candidate;

/// Scores a candidate by its draw. The same dice and candidate give the same draw; a weight of 0 draws 0.
pub(super) fn score(candidate: &Candidate, dice: f64) -> f64 {
    if candidate.weight == 0 {
        return 0.0;
    }
    // One throw of the dice serves all: each candidate's own draw is mixed from it and its id.
    let agent = candidate.agent.as_u128();
    let mixed = mix(mix(dice.to_bits()) ^ mix(agent as u64) ^ mix((agent >> 64) as u64).rotate_left(17));
    // The upper 53 bits make a number in 0..1.
    let draw = (mixed >> 11) as f64 / (1_u64 << 53) as f64;
    draw.powf(1.0 / f64::from(candidate.weight))
}

/// Spreads every bit over all (the finaliser of SplitMix64).
const fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
