//! Networks of VMs, as the cluster has them.
//!
//! Which there are, and which card, address and number belongs to whom, is in the roster's stream: `spec` is what a client
//! said, `book` gives out and takes back (pure, simulated). A host makes real what its VMs use, just before they use it, and
//! sweeps what they do not use any more: `making` says what that is (pure), `tending` does it.

pub mod making;
#[cfg(test)]
mod simulation;
pub mod tending;
