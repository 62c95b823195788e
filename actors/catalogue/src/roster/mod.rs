//! Holds the roster's words: its stream, and what it is asked from other nodes.

pub mod event;
pub mod message;
mod public;
