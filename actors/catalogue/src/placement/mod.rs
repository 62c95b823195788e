//! Chooses an agent for a task and says why. Pure: one file per strategy, no clock, no I/O, dice passed in.

mod choose;
pub mod entity;
mod least_busy;
mod round_robin;
mod skill;
pub mod vm;
mod weighted;

use std::sync::Arc;

pub use choose::{Candidate, choose};
use hiveward_kernel::id::AgentId;
use serde::{Deserialize, Serialize};

/// The way in which an agent is chosen for a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Strategy {
    /// The weighted sum of specialisation, success rate and free capacity.
    #[default]
    Skill,
    RoundRobin,
    LeastBusy,
    /// A choice by chance, in proportion to each agent's weight.
    Weighted,
}

/// Returns the subject of a reason for which so many were left out.
fn each(of: u32) -> String {
    if of == 1 { "one".into() } else { format!("each of {of}") }
}

/// The weights of the skill formula and the load from which an agent is left out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    pub specialisation: f64,
    pub success: f64,
    pub free: f64,
    /// An agent at this load or above is left out; 0 to 1.
    pub load_max: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { specialisation: 0.5, success: 0.3, free: 0.2, load_max: 0.8 }
    }
}

/// The parts of one candidate's score, each normalised to 0..1, and their weighted sum.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    pub agent: AgentId,
    pub total: f32,
    pub specialisation: f32,
    pub success: f32,
    pub load: f32,
}

/// The reason why a number of agents was not considered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    pub reason: Arc<str>,
    pub agents: u32,
}

/// A decision with all that it was made from, kept with the attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub strategy: Strategy,
    pub chosen: AgentId,
    /// The best candidates, best first; at most [`SHOWN_MAX`].
    pub scores: Vec<Scored>,
    /// The number of candidates that were eligible, shown or not.
    pub eligible: u32,
    pub left_out: Vec<LeftOut>,
}

/// The most candidates that a decision shows.
pub const SHOWN_MAX: usize = 8;
