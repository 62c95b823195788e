//! The domain: agents, swarms, tasks and their supervised actors. Serves no HTTP; the gateway's only door is [`client`].

pub mod agent;
pub mod client;
pub mod id;
pub mod placement;
pub mod swarm;
pub mod task;
