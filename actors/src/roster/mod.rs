//! The roster: which swarms and agents there are, by name, and what each is; starts and stops their actors on this node.

pub mod actor;
pub mod event;
