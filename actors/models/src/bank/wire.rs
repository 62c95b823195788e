//! Holds what a node tells the owner of budgets, and hears of it.

use hiveward_catalogue::budget::{Amount, Scope};
use hiveward_kernel::id::AgentId;
use serde::{Deserialize, Serialize};

use crate::meter::RateLimit;

/// The stage that a call has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// The call waits for the owner's word.
    Waits,
    Granted,
    /// The call has ended; what it used is not in the ledger yet, as far as its node has heard.
    Used(Amount),
    /// The call has ended, and what it used is in the ledger, at or before this cursor.
    Landed(Amount, u64),
    /// The call has ended, and what it used is written nowhere: the owner keeps the sum.
    Settled(Amount),
}

/// A call as it is now. Telling it again changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallState {
    /// The number of the call in its node's life.
    pub number: u64,
    pub agent: AgentId,
    /// The scopes that it counts against: agent, swarm and labels.
    pub scopes: Vec<Scope>,
    pub estimate: Amount,
    pub provider: String,
    pub rate: Option<RateLimit>,
    pub stage: Stage,
}

/// A message of a node to the owner: what is new since its last post, or everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Post {
    /// The term of the owner it is for.
    pub term: u64,
    /// The number of the node's life.
    pub generation: u64,
    /// The number of the post, one more with each of this life.
    pub seq: u64,
    /// Whether these are all its calls that concern the owner, so that what is not among them is over. Otherwise those that
    /// changed.
    pub whole: bool,
    pub calls: Vec<CallState>,
    /// The calls that are over, with nothing used, since the post before.
    pub gone: Vec<u64>,
    /// The cursor that its directory has reached: the owner's must know the same budgets.
    pub directory: u64,
    /// The number of the last of the owner's words that it has heard, since it last told everything.
    pub heard: u64,
}

/// The owner's decision on a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    Granted,
    /// The call is refused for good, and why.
    Refused(String),
    /// The call cannot be made now, and why.
    Busy(String),
}

/// A word that the owner said to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The number of the word, counted from 1 since the node last told everything.
    pub at: u64,
    pub number: u64,
    pub word: Word,
}

/// The owner's answer to a post or a question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum BankAnswer {
    /// The owner has heard the node: `said` is what it said since the post `session`, by which the node told everything, and the
    /// node had not heard.
    Heard { term: u64, session: u64, said: Vec<Said> },
    /// The owner does not know this node's calls, or missed some: the node is to tell everything.
    TellAll { term: u64 },
    /// There is no owner here.
    NotLeading,
}

/// A question to the owner, as it travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Question {
    Post(Post),
    /// A node waits for words; it is answered when something is said, or after a while.
    Hear {
        term: u64,
        session: u64,
        heard: u64,
    },
}
