//! The first frame from either side: who I am, in which life, and which wire versions I speak.

use serde::{Deserialize, Serialize};

use super::down::LinkRefused;
use crate::{
    net::{ClusterId, LifeId, identity::NodeCertificate},
    op::NodeId,
};

/// The newest and the oldest wire version that this program speaks: its own and the version before it.
pub const WIRE_NEWEST: u16 = 1;
pub const WIRE_OLDEST: u16 = 1;

/// The first frame of either side. It is encoded with field names, so that a later version may add some.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) wire_oldest: u16,
    pub(super) wire_newest: u16,
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    /// The number of this start of the node; it grows at each.
    pub(super) generation: u64,
    pub(super) life: LifeId,
    /// The number of bytes that the other end may send before it is told that more may come.
    pub(super) window_bytes: u32,
}

impl Hello {
    /// Returns the version to speak, if this hello is of the node that the certificate names and of our cluster.
    pub(super) fn agree(&self, ours: &Self, certificate: &NodeCertificate) -> Result<u16, LinkRefused> {
        if self.cluster != ours.cluster || certificate.cluster != ours.cluster {
            return Err(LinkRefused::OtherCluster);
        }
        if self.node != certificate.node {
            return Err(LinkRefused::OtherNode);
        }
        let version = self.wire_newest.min(ours.wire_newest);
        if version < self.wire_oldest.max(ours.wire_oldest) {
            return Err(LinkRefused::Version { oldest: ours.wire_oldest, newest: ours.wire_newest });
        }
        if self.node == ours.node { Err(LinkRefused::NodeIdTaken) } else { Ok(version) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::WallMs, net::identity::KeyPin};

    #[test]
    fn adjacent_versions_agree_on_the_older_and_others_are_refused_aloud() {
        let cluster = ClusterId::new();
        let hello = |wire_oldest, wire_newest| Hello {
            wire_oldest,
            wire_newest,
            cluster,
            node: NodeId::new(),
            generation: 1,
            life: LifeId::new(),
            window_bytes: 1,
        };
        let agree = |theirs: Hello, ours: Hello| {
            let (node, at) = (theirs.node, WallMs(0));
            theirs
                .agree(&ours, &NodeCertificate { node, cluster, serial: 1, key: KeyPin::of(b""), not_before: at, not_after: at })
        };
        assert_eq!(agree(hello(3, 4), hello(4, 5)), Ok(4));
        assert_eq!(agree(hello(5, 6), hello(4, 5)), Ok(5));
        assert_eq!(agree(hello(6, 7), hello(4, 5)), Err(LinkRefused::Version { oldest: 4, newest: 5 }));
        assert_eq!(agree(hello(2, 3), hello(4, 5)), Err(LinkRefused::Version { oldest: 4, newest: 5 }));
        assert_eq!(agree(Hello { cluster: ClusterId::new(), ..hello(4, 5) }, hello(4, 5)), Err(LinkRefused::OtherCluster));
    }
}
