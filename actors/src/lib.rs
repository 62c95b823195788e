//! The domain: agents, swarms, tasks and their supervised actors. Serves no HTTP; the gateway's only door is [`client`].

pub mod agent;
pub mod client;
pub mod cluster;
pub mod event;
pub mod guest;
pub mod host;
pub mod house;
pub mod model;
pub mod node;
mod operations;
pub mod report;
mod residents;
pub mod retention;
pub mod roster;
pub mod swarm;
pub mod task;
pub mod terminals;
pub mod transcripts;
pub mod tree;
pub mod views;
pub mod vm;
