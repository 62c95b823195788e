//! Makes a VM for tests.

use hiveward_kernel::id::{ProjectId, VmId};

use super::spec::VmSpec;

/// Makes a VM of one CPU and a GiB.
pub fn spec() -> VmSpec {
    VmSpec {
        id: VmId::from_u128(1),
        name: "vm".into(),
        image: "i".into(),
        cpus: 1,
        memory_bytes: 1 << 30,
        disks: Vec::new(),
        networks: Vec::new(),
        ssh_keys: Vec::new(),
        user_data: None,
        anti_affinity: Vec::new(),
        affinity: Vec::new(),
        zone: None,
        host_labels: Default::default(),
        strategy: Default::default(),
        ha: false,
        start: true,
        stop_grace_ms: 5_000,
        base: None,
        restored: None,
        lease: None,
        warm: None,
        project: ProjectId::DEFAULT,
        bases: Vec::new(),
    }
}
