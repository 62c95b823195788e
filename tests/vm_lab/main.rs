//! VMs on real libvirt hosts with real QEMU guests, all on this machine: `lab.sh` makes the hosts, `build-guest.sh` the guest.
//! Without KVM; as root. Run with `make test-vms`, which installs what it needs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agents;
mod backups;
mod contract;
mod driver_kills;
mod increments;
mod kills;
mod lab;
mod life;
mod lost;
mod migration;
mod networks;
mod objects;
mod operations;
mod overhead;
mod shape;
