//! What agents call instead of a language model's provider, and a stand-in for a provider that follows a script.

pub mod scripted;
