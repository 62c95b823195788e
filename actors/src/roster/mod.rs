//! The swarms, agents and nodes that there are, and their places: one stream, decided on the node that leads.
//!
//! `event` is the stream, `decide` the placement of what changes, `actor` decides and commits. What it has decided is read from the directory, on every node.

pub mod actor;
mod decide;
mod fleet;
mod given_up;
mod lost;
#[cfg(test)]
mod lost_simulation;
mod parts;
#[cfg(test)]
mod simulation;
mod writing_down;

pub use hiveward_catalogue::roster::message::{RosterMsg, RosterWire};

use hiveward_runtime::{error::Refused, op::NodeId};

/// What else a removal of a node touches: votes and certificates.
pub trait NodeChanges: Send + Sync + 'static {
    /// Refuses if the cluster cannot do without the node now. It is called on the roster's actor: it must not block.
    fn removable(&self, node: NodeId) -> Result<(), Refused>;

    /// Follows the removal of a node, which is in the ledger. It must not block.
    fn removed(&self, node: NodeId);
}

/// The changes of a single node, which has neither votes nor certificates.
pub struct NoNodeChanges;

impl NodeChanges for NoNodeChanges {
    fn removable(&self, _: NodeId) -> Result<(), Refused> {
        Ok(())
    }

    fn removed(&self, _: NodeId) {}
}
