//! Places many VMs at once on as few hosts as can be.
