//! The parts of the catalogue: each kind of thing that is declared is a file here and a line in `parts!` below.
//!
//! A part says what may be asked of it, what that makes happen, and how that changes it; all of it is pure. The roster's actor
//! and the directory know parts only as parts: they carry changes to the node that leads, commit the events, and fold them on
//! every node. See `docs/how_to/add_a_noun.md`.

mod declare;

pub mod api_key;
pub mod budget;
pub mod policy;
pub mod project;

use std::fmt::Debug;

use bytes::Bytes;
use hiveward_kernel::{
    event::{DecodeError, PublicEvent},
    operation::Operation,
};
use hiveward_runtime::{
    clock::WallMs,
    error::{Code, Refused},
    id::Key,
    ledger::Cursor,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::directory::Known;

/// A kind of thing that is declared, with all that is declared of it.
pub trait Part: Clone + Default + Send + Sync + 'static {
    /// The name under which nodes say that they know it. Never changed.
    const NOUN: &'static str;
    /// The kinds of its events, as the ledger keeps them. No other part has one of them.
    const KINDS: &'static [&'static str];
    /// What is asked of it. It travels by the names of its fields: add variants, and fields with a default.
    type Change: Clone + Debug + Serialize + DeserializeOwned + Send + Sync;
    /// What happened to it. It is stored by the names of its fields: add variants, and fields with a default.
    type Event: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync;

    /// Returns the key of the thing that a change is about, which answers name.
    fn key(change: &Self::Change) -> Key;

    /// Decides what a change makes happen. Errors: it is refused, and nothing happens.
    fn decide(known: &Known, change: &Self::Change, operation: Option<&Operation>) -> Result<Vec<Self::Event>, Refused>;

    /// Makes an event part of the state.
    fn apply(&mut self, event: &Self::Event, when: When);

    /// Returns the event's kind, one of [`Self::KINDS`].
    fn kind(event: &Self::Event) -> &'static str;

    /// Returns the client's operation that led to the event, and the key that its answer names.
    fn operation(event: &Self::Event) -> Option<(&Operation, Key)>;

    /// Returns what happened, as clients see it.
    fn public(event: &Self::Event) -> PublicEvent;

    /// Encodes an event for the ledger.
    fn encode(event: &Self::Event) -> Result<Bytes, rmp_serde::encode::Error> {
        rmp_serde::to_vec_named(event).map(|body| Bytes::from(body.into_boxed_slice()))
    }
}

/// When an event happened, and where it is in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    pub at: WallMs,
    pub cursor: Cursor,
}

/// A change of a part as it travels: its noun says which part reads the rest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Declaration {
    noun: String,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
}

impl Declaration {
    /// Packs a change. Errors: it cannot be encoded.
    pub fn of(change: &PartChange) -> Result<Self, Refused> {
        let body = change.body().map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        Ok(Self { noun: change.noun().to_owned(), body })
    }

    /// Unpacks the change. Errors: this version has no such part, or cannot read what is asked of it.
    pub fn change(&self) -> Result<PartChange, Refused> {
        let unknown = || {
            let message = format!("the node that leads is of a version that knows nothing called {:?}", self.noun);
            Refused::new(Code::Refused, format!("{message}; nothing happened: upgrade it first"))
        };
        let read = PartChange::read(&self.noun, &self.body).ok_or_else(unknown)?;
        read.map_err(|error| {
            let message = format!("the node that leads cannot read this change of a {}: {error}; nothing happened", self.noun);
            Refused::new(Code::Refused, message)
        })
    }
}

/// Reads an event of one part.
fn decode<P: Part>(kind: &str, body: &[u8]) -> Result<P::Event, DecodeError> {
    rmp_serde::from_slice(body).map_err(|source| DecodeError::Body { kind: kind.to_owned(), source })
}

declare::parts! {
    /// Budgets. Versions before parts keep them beside the parts, where snapshots write them for those.
    #[serde(skip)]
    budgets: Budget(budget::Budgets),
    projects: Project(project::Projects),
    api_keys: ApiKey(api_key::ApiKeys),
    policies: Policy(policy::Policies),
}
