//! What calls of models used, and what they cost.

use hiveward_runtime::error::Refused;

use super::{ControlPlane, Page};
use crate::{
    agent::connector::Lease,
    model::{
        meter::Scope,
        price::CURRENCY_DEFAULT,
        table::{Total, UsageBy},
    },
};

impl ControlPlane {
    /// Of agents, swarms and labels, in the same order; none of one for which no model was called.
    pub fn usage_of(&self, scopes: &[Scope]) -> Result<Vec<Option<Total>>, Refused> {
        self.house.usage.of(scopes)
    }

    /// By model.
    pub fn usage_of_attempt(&self, lease: Lease) -> Result<Vec<(String, Total)>, Refused> {
        self.house.usage.of_attempt(lease)
    }

    /// Totals of the whole cluster, as far as this node has heard. A page goes on after the last key before it.
    pub fn usage(&self, by: UsageBy, after: Option<&str>, first: usize) -> Result<Page<Total>, Refused> {
        self.house.usage.page(by, after, first)
    }

    /// Of this node's price table.
    pub fn currency(&self) -> String {
        self.house.models().map_or_else(|| CURRENCY_DEFAULT.to_owned(), |models| models.currency().to_owned())
    }
}
