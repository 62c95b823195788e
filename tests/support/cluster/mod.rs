//! Several real `hiveward` processes on one machine, each with its own data directory and address.
//!
//! Owns their processes, network namespaces, links and mounts. What it makes carries the id of the test process that made
//! it: dropping a [`Cluster`] removes its own, the reaper removes it when the test process is killed, and the first cluster
//! of a process sweeps what dead owners left. Nothing of a living owner is touched.

mod net;
mod node;
mod owner;
mod shape;
pub mod sweep;
mod verbs;

pub use net::{Net, RELAY_MARK, may_partition};
pub use node::Node;
pub use owner::Owner;
pub use shape::{Mode, Shape, faketime};
pub use verbs::{Cluster, joins};
