//! The model gateway of a node, which agents call instead of a language model's provider.
//!
//! It is a listener on loopback that takes an agent's own token for the provider's key, passes requests and streams through,
//! meters them, tries again where that helps, and cuts what goes on under a pass that was closed. It asks
//! `hiveward_models::Models` whose a token is. Keys are read when a call needs one and kept nowhere.

pub mod api;
mod call;
pub mod config;
mod hide;
mod key;
mod listen;
mod relay;
mod request;
mod retry;
pub mod scripted;
mod tap;
mod upstream;

pub use config::ModelsSection;
pub use listen::{ModelGateway, ModelGatewayError};
