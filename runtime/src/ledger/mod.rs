//! The ledger: the ordered, durable, replicated log of events, with a stream per entity.
//!
//! `ledger` is the door. `append` gathers what waits into one entry; `raft` agrees on the order of entries (openraft);
//! `machine` says what a committed entry means; `writer` is the one thread that writes the file; `read` replays and tails,
//! from the `ring` of newest events or from disk; `sweep` takes out what is no longer kept; `snapshot` is what another
//! node begins from; `open` checks the file; `record` and `head` are the bytes in it; `view` builds query tables. `types`,
//! `error` and `config` are its words.
//!
//! An append is answered after its entry is committed: on one node, after one fsync. A restart replays from disk; after
//! an error of the disk the store is reopened and checked, and until then it takes no writes.

mod append;
mod config;
mod core;
mod damage;
mod error;
mod file;
mod head;
pub mod holes;
mod intake;
#[allow(clippy::module_inception)]
mod ledger;
mod machine;
mod open;
mod pieces;
pub mod prune;
mod raft;
mod read;
mod record;
mod ring;
pub mod row;
pub mod scrub;
mod snapshot;
mod sweep;
mod tables;
mod types;
mod undecided;
pub mod view;
pub mod view_share;
mod writer;

pub use append::APPEND_BYTES_MAX;
pub use config::{DiskState, LedgerConfig, LedgerStatus};
pub use error::{AppendError, OpenError, ReadError};
pub use file::Backend;
pub use ledger::Ledger;
pub use raft::{Change, ChangeError, FOUNDER, Leadership, LedgerLanes, Member, RaftSetup, RaftTiming, member_id};
pub use read::Tail;
pub use types::{Append, Appended, Cursor, Event, Life, NewEvent, SnapshotPart, SnapshotParts, StreamSnapshot};
pub use undecided::{Undecided, UndecidedEvent};
