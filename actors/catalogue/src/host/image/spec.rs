//! Holds an image as the fleet knows it.

use hiveward_kernel::id::{ImageId, ProjectId, VmId};
use serde::{Deserialize, Serialize};

use super::Format;

/// An image as the fleet knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpec {
    pub id: ImageId,
    /// The name, unique in its project.
    pub name: String,
    /// The BLAKE3 of its bytes, in hexadecimal digits.
    pub hash: String,
    /// The bytes of its file.
    pub bytes: u64,
    /// The bytes of the disk that it is.
    pub virtual_bytes: u64,
    pub format: Format,
    /// The place that it came from, without what may be secret of that.
    pub source: String,
    /// The only VM whose disks begin as this image: nobody else sees it, and it goes with the VM.
    #[serde(default)]
    pub only_for: Option<VmId>,
    /// The project that it belongs to. The last field, and absent from what is stored for `default`.
    #[serde(default = "crate::name::default_project", skip_serializing_if = "crate::name::is_default")]
    pub project: ProjectId,
}
