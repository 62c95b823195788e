//! Why a VM is on its host.

use std::sync::Arc;

use async_graphql::{ID, Object, SimpleObject};
use hiveward_catalogue::placement;

use super::super::enums::VmPlacementStrategy;

pub struct VmPlacement(pub Arc<placement::vm::Decision>);

/// A placement with what it was made from.
#[Object]
impl VmPlacement {
    async fn strategy(&self) -> VmPlacementStrategy {
        self.0.strategy.into()
    }
    /// How many hosts were eligible.
    async fn eligible(&self) -> u32 {
        self.0.eligible
    }
    /// The best, best first.
    async fn scores(&self) -> Vec<HostScore> {
        self.0.scores.iter().map(|scored| HostScore { host: scored.host.to_string().into(), score: scored.total }).collect()
    }
    async fn left_out(&self) -> Vec<HostsLeftOut> {
        let all = self.0.left_out.iter();
        all.map(|left| HostsLeftOut { reason: left.reason.to_string(), hosts: left.hosts }).collect()
    }
}

#[derive(SimpleObject)]
pub struct HostScore {
    host: ID,
    /// The higher, the better; of one strategy only.
    score: f32,
}

/// Why a number of hosts was not considered.
#[derive(SimpleObject)]
pub struct HostsLeftOut {
    reason: String,
    hosts: u32,
}
