//! Holds what every noun shares: ids, fences, commits, operations, doors. Knows no noun beyond its id.

pub mod ask;
pub mod body;
pub mod commit;
pub mod desks;
#[doc(hidden)]
pub mod doors;
pub mod entity;
pub mod event;
pub mod id;
pub mod keep;
pub mod lease;
#[doc(hidden)]
pub mod loss;
pub mod operation;
pub mod page;
pub mod recent;
pub mod series;
pub mod shim;
pub mod snapshot;
pub mod view;
