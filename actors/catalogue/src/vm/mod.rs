//! Holds what a VM is declared as.

pub mod machine;
pub mod spec;
#[doc(hidden)]
pub mod testing;
pub mod warm;

pub use spec::{DiskSpec, Shape, VmSpec};
