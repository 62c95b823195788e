//! Images: what the disks of VMs begin as. Named in the fleet, kept as a blob by the hash of their bytes, and copied to a
//! host's pool when the first VM there is made of them.
//!
//! A name means one image for ever; a VM keeps the image that its name meant when it was made. One that a VM is made of is
//! not removed. A host's copy is removed when the image is and no disk is left that was made of it.

pub mod import;
