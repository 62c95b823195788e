//! Prefers whoever was chosen longest ago.

use super::choose::Candidate;

/// Scores a candidate the higher, the longer ago it was chosen.
pub(super) fn score(candidate: &Candidate) -> f64 {
    -(candidate.chosen_at as f64)
}
