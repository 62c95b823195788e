//! Holds networks of VMs as the cluster has them: `spec` is what a client said, `book` gives out and takes back.

pub mod book;
pub mod spec;

pub use book::{Card, NetworkEntry, Networks};
pub use spec::{Cidr, Kind, NetworkSpec};
