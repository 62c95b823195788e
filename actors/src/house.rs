//! What every actor of this node shares: the ledger, the views, blobs, clocks, and the doors to each other.

use std::{path::PathBuf, sync::Arc, time::Instant};

use bytes::Bytes;
use hiveward_runtime::{
    clock::Clock,
    error::{Code, Refused},
    ledger::{Ledger, view::Views},
    store::blob::Blobs,
};

use crate::{
    agent::table::AgentTable,
    doors::Doors,
    swarm::table::SwarmTable,
    task::{
        spec::{Body, INLINE_BYTES_MAX},
        table::TaskTable,
    },
};

/// Cheap to clone; holds no state of its own.
#[derive(Clone)]
pub struct House {
    pub ledger: Ledger,
    pub views: Views,
    pub blobs: Blobs,
    pub doors: Doors,
    pub tasks: TaskTable,
    pub agents: AgentTable,
    pub swarms: SwarmTable,
    pub clock: Clock,
    pub data_dir: Arc<PathBuf>,
    started: Instant,
}

impl House {
    pub fn new(ledger: Ledger, views: Views, blobs: Blobs, clock: Clock, data_dir: PathBuf) -> Self {
        Self {
            tasks: TaskTable::new(views.clone()),
            agents: AgentTable::new(views.clone()),
            swarms: SwarmTable::new(views.clone()),
            ledger,
            views,
            blobs,
            doors: Doors::default(),
            clock,
            data_dir: Arc::new(data_dir),
            started: Instant::now(),
        }
    }

    /// Milliseconds of this process, for what is due; never jumps.
    pub fn mono_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The bytes behind a body. Reads a file if it is in the blob store.
    pub fn body(&self, body: &Body) -> Result<Bytes, Refused> {
        match body {
            Body::Inline(bytes) => Ok(Bytes::copy_from_slice(bytes)),
            Body::Blob { hash, .. } => {
                let parsed = hash.parse().map_err(|_| Refused::new(Code::Internal, format!("{hash:?} is no blob hash")))?;
                match self.blobs.get(&parsed) {
                    Ok(Some(bytes)) => Ok(bytes),
                    Ok(None) => Err(Refused::new(Code::NotFound, format!("blob {hash} is not in this node's store"))),
                    Err(error) => Err(Refused::new(Code::Unavailable, format!("blob {hash} cannot be read: {error}"))),
                }
            }
        }
    }

    /// Keeps bytes where a body of this size belongs. Durable on return if it is a blob.
    pub fn store_body(&self, bytes: &[u8]) -> Result<Body, Refused> {
        if bytes.len() <= INLINE_BYTES_MAX {
            return Ok(Body::Inline(bytes.to_vec()));
        }
        let hash = self.blobs.put(bytes).map_err(|error| Refused::new(Code::Unavailable, format!("a body of {} bytes cannot be stored: {error}", bytes.len())))?;
        Ok(Body::Blob { hash: hash.to_string().into(), bytes: bytes.len() as u64 })
    }
}
