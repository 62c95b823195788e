//! A model server that follows a script: for tests, and to try a team of agents without a key.
//!
//! It speaks the Anthropic Messages API and the OpenAI-compatible one, streaming or not, and can misbehave on demand. All it
//! says is marked as scripted: the text, the model's name, the ids and a header. It keeps what it was asked and what it
//! sent, at `GET /scripted/calls`, up to a bound. It asks nobody for anything; its state is gone when it stops.

mod answer;
mod anthropic;
mod asked;
mod book;
mod frames;
mod openai;
pub mod script;
mod serve;
mod template;

pub use book::{Call, CallsTotal, Usage};
pub use script::Script;
pub use serve::Scripted;

/// The script of `hiveward dev --scripted-model` without a file.
pub const DEFAULT_SCRIPT: &str = include_str!("../../../../deploy/scripted/default.yaml");
