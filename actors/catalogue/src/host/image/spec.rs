//! An image as the fleet knows it.

use hiveward_kernel::id::{ImageId, VmId};
use serde::{Deserialize, Serialize};

use super::Format;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpec {
    pub id: ImageId,
    /// Unique in the cluster.
    pub name: String,
    /// BLAKE3 of its bytes, in hexadecimal digits.
    pub hash: String,
    /// Of its file.
    pub bytes: u64,
    /// Of the disk that it is.
    pub virtual_bytes: u64,
    pub format: Format,
    /// Where it came from, without what may be secret of that.
    pub source: String,
    /// What the disks of this VM alone begin as: nobody else sees it, and it goes with the VM.
    #[serde(default)]
    pub only_for: Option<VmId>,
}
