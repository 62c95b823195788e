//! What a connector is given of its node.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use hiveward_kernel::shim::ShimProgram;
use hiveward_machines::{guest::Askers, vm::attempt::Machines};
use hiveward_models::access::ModelAccess;
use hiveward_runtime::{clock::Clock, store::blob::Blobs};

use super::{contract::Reports, secrets::SecretSource};

/// Where files that an attempt leaves are kept, by content.
pub trait ArtifactStore: Send + Sync + 'static {
    /// Takes a copy; durable on return. Gives the hash in hexadecimal and the length. May block.
    fn put_file(&self, path: &Path) -> io::Result<(Arc<str>, u64)>;
}

impl ArtifactStore for Blobs {
    fn put_file(&self, path: &Path) -> io::Result<(Arc<str>, u64)> {
        let (hash, bytes) = Self::put_file(self, path)?;
        Ok((hash.to_string().into(), bytes))
    }
}

#[derive(Clone)]
pub struct ConnectorEnv {
    pub data_dir: PathBuf,
    pub secrets: Arc<dyn SecretSource>,
    pub artifacts: Arc<dyn ArtifactStore>,
    pub reports: Reports,
    pub shim: ShimProgram,
    pub models: Arc<dyn ModelAccess>,
    pub machines: Arc<dyn Machines>,
    /// Where sessions in VMs are entered.
    pub askers: Askers,
    /// The agent's life that it is for.
    pub incarnation: u64,
    pub clock: Clock,
}
