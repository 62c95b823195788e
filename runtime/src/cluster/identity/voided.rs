//! Certificates that are no longer accepted, though they have not expired.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use super::{IdentityError, NodeCertificate};
use crate::{clock::WallMs, op::NodeId};

/// How many may be voided and unexpired at a time; one more is refused. 16 bytes each, so this is small.
pub const VOIDED_MAX: usize = 65_536;

/// What is voided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum VoidedEntry {
    /// Every certificate of a removed node.
    Node(NodeId),
    /// One certificate, while the node stays.
    Serial(u128),
}

/// The list, read at each handshake. Kept durable and the same on all nodes by the caller.
#[derive(Default)]
pub struct Voided(ArcSwap<BTreeMap<VoidedEntry, WallMs>>);

impl Voided {
    /// Replaces the list, as the ledger tells it. `until` is when the last certificate it touches has expired by itself.
    pub fn set(&self, entries: impl IntoIterator<Item = (VoidedEntry, WallMs)>) -> Result<(), IdentityError> {
        let entries: BTreeMap<_, _> = entries.into_iter().take(VOIDED_MAX + 1).collect();
        if entries.len() > VOIDED_MAX {
            return Err(IdentityError::VoidedFull { max: VOIDED_MAX });
        }
        self.0.store(Arc::new(entries));
        Ok(())
    }

    /// Adds one; forgets those that have expired meanwhile.
    pub fn add(&self, entry: VoidedEntry, until: WallMs, now: WallMs) -> Result<(), IdentityError> {
        let mut entries = BTreeMap::clone(&self.0.load());
        entries.retain(|_, until| *until > now);
        entries.insert(entry, until);
        self.set(entries)
    }

    /// Whether every certificate of `node` is voided.
    pub fn check_node(&self, node: NodeId) -> Result<(), IdentityError> {
        if self.0.load().contains_key(&VoidedEntry::Node(node)) { Err(IdentityError::Voided { node }) } else { Ok(()) }
    }

    pub fn check(&self, certificate: &NodeCertificate) -> Result<(), IdentityError> {
        let entries = self.0.load();
        let voided = [VoidedEntry::Node(certificate.node), VoidedEntry::Serial(certificate.serial)]
            .iter()
            .any(|e| entries.contains_key(e));
        if voided { Err(IdentityError::Voided { node: certificate.node }) } else { Ok(()) }
    }
}
