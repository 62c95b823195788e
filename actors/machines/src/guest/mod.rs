//! Guests: the systems inside VMs, as far as an agent in them lets itself be asked.
//!
//! `agent` is what is said to it (pure). `ask` brings a word to it, wherever its host is. `desk` does so for processes of this
//! node that are not the node: `session`, which is one program in a guest, held by a shim as any other program is. `askers`
//! knows these, and `allowed` what they may say.

pub mod agent;
mod allowed;
pub mod ask;
mod askers;
mod desk;
pub mod session;
pub mod wire;

pub use askers::Askers;
pub use desk::GuestDesk;
pub use desk::socket_of;
