//! Prefers whoever has the smallest share of its places taken.

use super::choose::Candidate;

/// Scores a candidate by the share of its places that are free.
pub(super) fn score(candidate: &Candidate) -> f64 {
    1.0 - candidate.load()
}
