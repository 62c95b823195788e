//! Gives every actor of a node what it stands on: ledger, views, blobs, clocks, other nodes, and the doors to each other.
//!
//! Knows no noun but through the directory. What an actor needs besides it is given by its own package's services.

use std::{path::PathBuf, sync::Arc, time::Instant};

use bytes::Bytes;
use hiveward_kernel::{
    ask::Ask,
    body::{Body, INLINE_BYTES_MAX},
    doors::{Addressed, Doors},
};
use hiveward_runtime::{
    clock::Clock,
    cluster::{peers::Peers, router::Router},
    error::{Code, Refused},
    ledger::{Ledger, view::Views},
    op::Terms,
    store::blob::Blobs,
};

use crate::{directory::Directory, roster::event::NodeRecord};

/// The platform of a node. It is cheap to clone and holds no state of its own.
#[derive(Clone)]
pub struct Platform(Arc<Foundations>);

impl std::ops::Deref for Platform {
    type Target = Foundations;

    fn deref(&self) -> &Foundations {
        &self.0
    }
}

/// The parts of a [`Platform`].
pub struct Foundations {
    /// The record of this node, as it tells it to others.
    pub me: Arc<NodeRecord>,
    /// The number of this start of the node, which grows at each.
    pub generation: u64,
    pub peers: Peers,
    pub router: Router,
    pub directory: Directory,
    pub ledger: Ledger,
    pub views: Views,
    pub blobs: Blobs,
    #[doc(hidden)]
    pub doors: Doors,
    pub clock: Clock,
    pub data_dir: PathBuf,
    pub started: Instant,
}

impl Platform {
    /// Puts the parts together, once in the life of a node.
    pub fn new(parts: Foundations) -> Self {
        Self(Arc::new(parts))
    }

    /// Returns the milliseconds since this process started, for what is due; they never jump.
    pub fn mono_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Asks an entity where it is now, once: by its door if it lives here, else over the router. A refusal says whether it was
    /// asked.
    pub async fn ask<A: Ask<Message: Addressed>>(
        &self,
        terms: impl Into<Terms>,
        id: <A::Message as Addressed>::Id,
        ask: A,
    ) -> Result<A::Answer, Refused> {
        let (terms, entity) = (terms.into(), A::Message::entity(id));
        if let Some(door) = self.doors.of::<A::Message>(id) {
            return door.ask(terms, |reply| ask.message(reply)).await.map_err(Refused::from);
        }
        let key = entity.key();
        let at = self.directory.location(entity);
        let at = at.ok_or_else(|| Refused::new(Code::Unavailable, format!("no node holds {key} now; nothing happened")))?;
        self.router.learn(&key, at);
        self.router.ask(terms, &key, &ask.wire()).await.map_err(Refused::from)
    }

    /// Returns the bytes behind a body. Reads a file if it is in the blob store.
    /// Errors: `NOT_FOUND` if the blob is not in this node's store, `UNAVAILABLE` if it cannot be read.
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

    /// Keeps bytes where a body of this size belongs: in the value itself, or as a blob, which is durable on return.
    /// Errors: `UNAVAILABLE` if the blob cannot be stored.
    pub fn store_body(&self, bytes: &[u8]) -> Result<Body, Refused> {
        if bytes.len() <= INLINE_BYTES_MAX {
            return Ok(Body::Inline(bytes.to_vec()));
        }
        let hash = self.blobs.put(bytes).map_err(|error| {
            Refused::new(Code::Unavailable, format!("a body of {} bytes cannot be stored: {error}", bytes.len()))
        })?;
        Ok(Body::Blob { hash: hash.to_string().into(), bytes: bytes.len() as u64 })
    }
}
