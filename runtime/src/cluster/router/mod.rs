//! The router: messages to keys, wherever they live. `ask` and `tell` read the same for this node and another.
//!
//! Owns the location cache, the local doors and the asks that wait for an answer. Asks the caller's `Directory` where a key
//! is, and `link` for the way there. Never starts or stops what it speaks to. Nothing survives a restart: an ask that
//! waits hears that it may have happened.
//!
//! Bounds: a link's outbound queue and window (see `link`), [`PENDING_ASKS_MAX`], [`LOCATIONS_MAX`]; a door is as bounded
//! as the mailbox behind it, and what it refuses is answered, not kept.

mod door;
mod envelope;
mod error;
mod location;
mod pending;
mod receive;
mod reply;
#[allow(clippy::module_inception)]
mod router;

pub use door::{ActorDoor, Inbound, LocalDoor, NotDelivered};
pub use envelope::BODY_BYTES_MAX;
pub use error::{RouteError, Unreachable};
pub use location::{Directory, LOCATIONS_MAX, Location};
pub use pending::PENDING_ASKS_MAX;
pub use router::{Router, RouterSnapshot};
