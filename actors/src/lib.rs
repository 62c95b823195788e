//! The domain: agents, swarms, tasks and their supervised actors. Serves no HTTP; the gateway's only door is [`client`].

pub mod client;
pub mod cluster;
pub mod event;
pub mod house;
pub mod node;
mod operations;
pub mod report;
mod residents;
pub mod retention;
pub mod roster;
pub mod terminals;
pub mod transcripts;
pub mod tree;
pub mod views;
