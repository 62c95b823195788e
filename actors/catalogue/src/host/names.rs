//! What hosts, images and VMs are called: hosts in the cluster, the others each in their project.

use hiveward_kernel::id::{HostId, ImageId, ProjectId, VmId};

use super::fleet::Fleet;
use crate::name::in_project;

impl Fleet {
    /// Returns the host with this name.
    pub fn host_named(&self, name: &str) -> Option<HostId> {
        self.host_names.get(name).copied()
    }

    /// Returns the image with this name in a project.
    pub fn image_named(&self, project: ProjectId, name: &str) -> Option<ImageId> {
        self.image_names.get(&*in_project(project, name)).copied()
    }

    /// Returns the VM with this name in a project.
    pub fn vm_named(&self, project: ProjectId, name: &str) -> Option<VmId> {
        self.vm_names.get(&*in_project(project, name)).copied()
    }
}
