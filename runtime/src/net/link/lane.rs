//! Lanes: separate connections to the same peer, so that none waits behind another.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{Down, Link, frame::CHARGE_MIN};

/// The lane that a connection is for. It is chosen by ALPN on the one cluster port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Lane {
    /// The lane of messages between keys.
    Router,
    Raft,
    /// The lane of snapshots, blobs and images.
    Bulk,
    /// The only lane whose client has no certificate yet. It is never dialled as a link.
    Join,
}

impl Lane {
    pub const ALL: [Self; 4] = [Self::Router, Self::Raft, Self::Bulk, Self::Join];

    pub(super) const fn protocol(self) -> &'static [u8] {
        match self {
            Self::Router => b"hw-link/1",
            Self::Raft => b"hw-raft/1",
            Self::Bulk => b"hw-bulk/1",
            Self::Join => b"hw-join/1",
        }
    }

    pub(super) fn of(protocol: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.protocol() == protocol)
    }
}

/// The answer of a handler: whether it is done with a frame, so that the sender may send as much again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Now,
    /// The handler calls [`Link::grant`] with the charge once it is done.
    Later,
}

/// The receiver of a lane's frames. It is called on the link's own task, so it must not block and not panic.
pub trait LaneHandler: Send + Sync + 'static {
    fn up(&self, link: &Link);
    /// Takes one frame. `charge` is what the frame costs of the window.
    fn frame(&self, link: &Link, payload: &[u8], charge: usize) -> Taken;
    /// Tells whether every answer of this handler is [`Taken::Now`]: its frames are then not counted one by one.
    fn takes_at_once(&self) -> bool {
        false
    }
    /// Hears that this link is down, after its last frame. A replacing link may be up already: tell them apart by [`Link::id`].
    fn down(&self, link: &Link, why: &Down);
}

/// The lanes that a node serves.
#[derive(Clone, Default)]
pub struct Lanes {
    pub router: Option<Arc<dyn LaneHandler>>,
    pub raft: Option<Arc<dyn LaneHandler>>,
    pub bulk: Option<Arc<dyn LaneHandler>>,
}

impl Lanes {
    pub(super) fn handler(&self, lane: Lane) -> Option<&Arc<dyn LaneHandler>> {
        match lane {
            Lane::Router => self.router.as_ref(),
            Lane::Raft => self.raft.as_ref(),
            Lane::Bulk => self.bulk.as_ref(),
            Lane::Join => None,
        }
    }
}

/// A frame in an [`Inbox`]. Dropping it lets the sender send as much again.
pub struct InboxFrame {
    pub payload: Bytes,
    link: Link,
    charge: usize,
}

impl InboxFrame {
    /// Returns the link that the frame came from, which is also where to answer.
    pub fn link(&self) -> &Link {
        &self.link
    }
}

impl Drop for InboxFrame {
    fn drop(&mut self) {
        self.link.grant(self.charge);
    }
}

/// A handler that hands frames on through a queue, for lanes whose receiver awaits. Each link's window bounds it; when the queue
/// of all windows together is full, the link that found it so is closed.
pub struct Inbox(mpsc::Sender<InboxFrame>);

/// The number of links that may have a full window of smallest frames in one inbox.
const INBOX_LINKS: usize = 4;

impl Inbox {
    /// Makes an inbox for links with this window, and the end from which its frames are received.
    pub fn create(window_bytes: u32) -> (Arc<Self>, mpsc::Receiver<InboxFrame>) {
        let (to, from) = mpsc::channel(window_bytes as usize / CHARGE_MIN * INBOX_LINKS);
        (Arc::new(Self(to)), from)
    }
}

impl LaneHandler for Inbox {
    fn up(&self, _: &Link) {}

    fn frame(&self, link: &Link, payload: &[u8], charge: usize) -> Taken {
        let frame = InboxFrame { payload: Bytes::copy_from_slice(payload), link: link.clone(), charge };
        if self.0.try_send(frame).is_err() {
            link.close(Down::Failed { why: "this node's inbox for the lane is full or gone".into() });
        }
        Taken::Later
    }

    fn down(&self, _: &Link, _: &Down) {}
}
