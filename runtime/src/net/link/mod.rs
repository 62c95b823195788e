//! Authenticated connections between nodes: one per peer and lane, each end knowing exactly who the other is.
//!
//! Owns the cluster port, the dialling and the table of live links. Asks `identity` who is who. Never looks into what it
//! carries: a lane's handler does. After a restart everything is dialled again; what was queued is lost, and its senders
//! heard so when the link went down.
//!
//! Bounds, per link: `window_bytes` sent and not yet taken by the receiver's handler (credit), `outbound_bytes_max` queued
//! behind it (one more frame is refused with `Busy`), one read buffer of at most a frame and 64 KiB.

mod accept;
mod config;
mod conn;
mod dial;
mod down;
mod frame;
mod gate;
mod hello;
mod join;
mod lane;
#[allow(clippy::module_inception)]
mod link;
mod manager;
mod outbound;
mod run;
mod table;

pub use config::LinkConfig;
pub use down::{Down, LinkRefused, SendError};
pub use frame::FRAME_BYTES_MAX;
pub use hello::{WIRE_NEWEST, WIRE_OLDEST};
pub use join::{JoinDoor, JoinError, JoinGrant, JoinRefused, JoinRequest, Member, decide_join, join, sign_join};
pub use lane::{Inbox, InboxFrame, Lane, LaneHandler, Lanes, Taken};
pub use link::Link;
pub use manager::{LinkManager, LinkSetup, Links, PeerSpec, StartError};
pub use table::{LinkSnapshot, LinkState, LinksSnapshot, PEERS_MAX};
