//! Whoever has the smallest share of its places taken.

use super::choose::Candidate;

pub(super) fn score(candidate: &Candidate) -> f64 {
    1.0 - candidate.load()
}
