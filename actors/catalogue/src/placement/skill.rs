//! Prefers specialisation, success rate and free capacity, weighted.

use super::{Weights, choose::Candidate};

/// Scores a candidate by the weighted sum of its specialisation, its success rate and its free capacity.
pub(super) fn score(weights: &Weights, candidate: &Candidate) -> f64 {
    weights.specialisation * candidate.specialisation
        + weights.success * candidate.success()
        + weights.free * (1.0 - candidate.load())
}
