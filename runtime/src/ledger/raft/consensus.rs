//! The door of the group that keeps the ledger: who leads, who its members are, and what may be asked of it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{types::Applied, wire};
use crate::{
    clock::{BootTime, Deadline},
    id::Key,
    ledger::record::Command,
    op::NodeId,
};

/// The leadership as this node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    pub leader: Option<NodeId>,
    /// True if this node leads, and has taken its epoch.
    pub is_me: bool,
    /// The number that the incarnations a leader gives begin with; 0 on a node that does not lead.
    pub epoch: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The command was not taken: nothing was written.
    #[error("there is no leader: {0}")]
    NotLeading(String),
    /// The command may have been taken, or may yet be.
    #[error("{0}")]
    Unknown(String),
    /// Nothing was written: these appends of the batch, by place, are of older lives than the newest, named with each.
    #[error("older lives")]
    Fenced(Vec<(u32, u64)>),
    /// The store failed. The command may have been taken.
    #[error("{0}")]
    Lost(String),
}

/// One member of the group that keeps the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: u64,
    /// The node of the member; absent for one that was written before there were clusters.
    pub node: Option<NodeId>,
    pub address: String,
    pub voter: bool,
    /// The last entry it is known to have; on the leader only.
    pub matched: Option<u64>,
    /// The moment at which the last question that it answered was sent; on the leader only.
    pub answered: Option<BootTime>,
}

#[derive(Clone, Debug, Default)]
pub struct ConsensusStatus {
    pub term: u64,
    pub leader: Option<NodeId>,
    pub members: Vec<Member>,
    pub changing: bool,
    pub log_last: u64,
    pub log_purged: u64,
}

/// A change of who keeps the ledger, and who votes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    AddLearner {
        id: u64,
        node: NodeId,
        address: String,
    },
    Promote {
        ids: Vec<u64>,
    },
    /// The members stay as learners.
    Demote {
        ids: Vec<u64>,
    },
    Remove {
        ids: Vec<u64>,
    },
    Address {
        id: u64,
        node: NodeId,
        address: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("this node does not lead")]
    NotLeading,
    #[error("{0}")]
    Refused(String),
}

/// The agreement of one partition on the order of commands.
pub trait Consensus: Send + Sync {
    /// Proposes a command. Answers when it has been applied here.
    fn propose(&self, command: Command) -> BoxFuture<'static, Result<Applied, ProposeError>>;
    fn status(&self) -> ConsensusStatus;
    /// Tells why no command can be agreed on now, if none can.
    fn quorum(&self) -> Result<(), String>;
    /// Returns, on a leader, its term and the latest moment at which a quorum is known to have followed it.
    fn confirmed(&self) -> Option<(u64, BootTime)>;
    /// Tells whether this node is the only voter.
    fn is_alone(&self) -> bool;
    /// Waits, on a leader, until all proposals that looked at the claims before this call are in its log, and gives the index of
    /// the last entry then.
    fn let_in(&self) -> BoxFuture<'static, Result<u64, String>>;
    /// Waits until entries up to `index` are applied here; false if they are not by the deadline.
    fn applied(&self, index: u64, deadline: Deadline) -> BoxFuture<'static, bool>;
    /// Waits until this node has applied all that was acknowledged before, on whichever node; the error says why it has not.
    fn linearize(&self, deadline: Deadline) -> BoxFuture<'static, Result<(), String>>;
    /// Asks the leader, elsewhere, to begin a new life of a stream.
    fn ask_claim(&self, stream: &Key, deadline: Deadline) -> BoxFuture<'static, Result<wire::Claimed, String>>;
    /// Fetches the value of the events' table that begins with a cursor, from the first other member that has it whole.
    fn events_of_others(&self, from: u64, deadline: Deadline) -> BoxFuture<'static, Option<Vec<u8>>>;
    /// Answers another member.
    fn serve(&self, peer: NodeId, kind: wire::Kind, body: Bytes) -> BoxFuture<'static, Result<Vec<u8>, String>>;
    fn change(&self, change: Change) -> BoxFuture<'static, Result<(), ChangeError>>;
    /// Lets another lead; tells whether one does. True on a node that does not lead.
    fn step_aside(&self, within: Duration) -> BoxFuture<'static, bool>;
    fn stop(&self) -> BoxFuture<'_, ()>;
}
