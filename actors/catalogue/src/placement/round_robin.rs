//! Whoever was chosen longest ago.

use super::choose::Candidate;

pub(super) fn score(candidate: &Candidate) -> f64 {
    -(candidate.chosen_at as f64)
}
