//! What lives on this node: what the directory places here, and nothing else.

pub mod actor;
mod coordinators;
mod leftover;
