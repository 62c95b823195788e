//! Chooses a host for a VM and says why. Pure: no clock, no I/O, no dice.
//!
//! `hosts` is what is known of the hosts, laid out for scanning; `choose` is one decision with its trace; `survive` asks whether
//! the loss of the fullest host could be made good; `strategy` is what a strategy decides: where one VM goes, where all of a host
//! go, and, in `rebalance`, which moves make hosts more even; `plan` places many at once, `exact` as well as can be where that is
//! little, and `qubo` gives that problem to solvers of another kind.

mod choose;
mod exact;
mod hosts;
pub mod plan;
mod qubo;
pub mod rebalance;
mod strategy;
mod survive;

use std::sync::Arc;

pub use choose::{Engine, Reject, Trace, Wish};
pub use exact::{EXACT_VMS_MAX, Exact};
pub use hosts::{HostFacts, Hosts, Need};
pub use qubo::Qubo;
use serde::{Deserialize, Serialize};

pub use strategy::{AsWished, Leaving, PlacementStrategy};
pub use survive::{Guest, come_back, survives_largest};

use hiveward_kernel::id::HostId;

/// The way in which a host is chosen for a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Strategy {
    /// The host that is emptiest afterwards, by its scarcer resource.
    #[default]
    Spread,
    /// The host that is fullest afterwards, so that others stay empty.
    Pack,
    /// The weighted sum of free CPU, free memory and how evenly both are used.
    Weighted,
}

/// The weights of the [`Strategy::Weighted`] score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    pub cpu: f32,
    pub memory: f32,
    pub balance: f32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { cpu: 0.4, memory: 0.4, balance: 0.2 }
    }
}

/// The score of one host; the higher, the better.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    pub host: HostId,
    pub total: f32,
}

/// The reason why a number of hosts was not considered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    pub reason: Arc<str>,
    pub hosts: u32,
}

/// A decision with what it was made from, kept with the VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub strategy: Strategy,
    pub chosen: HostId,
    /// The best hosts, best first; at most [`SHOWN_MAX`].
    pub scores: Vec<Scored>,
    /// The number of hosts that were eligible, shown or not.
    pub eligible: u32,
    pub left_out: Vec<LeftOut>,
}

/// The most hosts that a decision shows.
pub const SHOWN_MAX: usize = 8;

#[cfg(test)]
mod rebalance_simulation;
#[cfg(test)]
mod tests;
