//! What a node tells the owner of budgets, and hears of it.

use hiveward_catalogue::budget::{Amount, Scope};
use hiveward_kernel::id::AgentId;
use serde::{Deserialize, Serialize};

use crate::meter::RateLimit;

/// How far a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// For the owner's word.
    Waits,
    Granted,
    /// It has ended; what it used is not in the ledger yet, as far as its node has heard.
    Used(Amount),
    /// What it used is in the ledger, at or before this cursor.
    Landed(Amount, u64),
    /// What it used is written nowhere: the owner keeps the sum.
    Settled(Amount),
}

/// A call as it is now. Telling it again changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallState {
    /// Of its node's life.
    pub number: u64,
    pub agent: AgentId,
    /// Agent, swarm and labels.
    pub scopes: Vec<Scope>,
    pub estimate: Amount,
    pub provider: String,
    pub rate: Option<RateLimit>,
    pub stage: Stage,
}

/// What is new on a node since its last post; or everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Post {
    /// Of the owner it is for.
    pub term: u64,
    /// Of the node's life.
    pub generation: u64,
    /// One more with each post of this life.
    pub seq: u64,
    /// These are all its calls that concern the owner; what is not among them is over. Otherwise those that changed.
    pub whole: bool,
    pub calls: Vec<CallState>,
    /// Over, with nothing used, since the post before.
    pub gone: Vec<u64>,
    /// How far its directory is: the owner's must know the same budgets.
    pub directory: u64,
    /// Up to which of the owner's words it has heard, since it last told everything.
    pub heard: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    Granted,
    /// For good: why.
    Refused(String),
    /// Not now: why.
    Busy(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Counted from 1, since the node last told everything.
    pub at: u64,
    pub number: u64,
    pub word: Word,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// `session`: the post by which the node told everything. What was said since, and it had not heard.
    Heard { term: u64, session: u64, said: Vec<Said> },
    /// The owner does not know this node's calls, or missed some: tell everything.
    TellAll { term: u64 },
    /// No owner here.
    NotLeading,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Question {
    Post(Post),
    /// Answered when something is said, or after a while.
    Hear {
        term: u64,
        session: u64,
        heard: u64,
    },
}
