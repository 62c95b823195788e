//! Hypervisor hosts, the virtual machines on them, and what is asked of their guests.

pub mod guest;
pub mod host;
pub mod vm;
