//! Holds what is declared: swarms, agents, hosts, VMs, images, networks and budgets, and where each of them is placed.
//!
//! The roster's stream holds it; [`directory`] is that stream, folded on every node. [`placement`] says who goes where and why.
//! Nothing here runs an entity: that is what the packages above do.

pub mod agent;
pub mod budget;
pub mod directory;
pub mod host;
mod name;
pub mod part;
pub mod placement;
pub mod platform;
pub mod roster;
pub mod swarm;
pub mod vm;
