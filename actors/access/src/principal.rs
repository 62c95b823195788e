//! The one who asks: a person, a program, a node, an agent.

use std::sync::Arc;

use hiveward_runtime::{clock::WallMs, id::Key};

use crate::role::Grant;

/// The kind of a principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PrincipalKind {
    /// A person who signed in.
    User,
    /// A program with an API key or a token of the configuration.
    Service,
    /// A node of the cluster, which asks for itself.
    Node,
    /// An agent that works on a task.
    Agent,
}

impl PrincipalKind {
    /// Returns the kind's name, as policies write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Service => "service",
            Self::Node => "node",
            Self::Agent => "agent",
        }
    }
}

/// The one who asks, as records, logs and policies know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The name, unique among all principals: what events call `by`.
    pub name: Arc<str>,
    pub kind: PrincipalKind,
    /// The groups that its provider says it is in.
    pub groups: Arc<[Arc<str>]>,
    /// The roles that its credential brings along. Those that projects give it are looked up when something is decided.
    pub grants: Arc<[Grant]>,
    /// The key of what it asks with, if that can be revoked.
    pub credential: Option<Key>,
    /// The moment from which what it asks with is worth nothing.
    pub until: Option<WallMs>,
}

impl Principal {
    /// Makes a service with these roles.
    pub fn service(name: impl Into<Arc<str>>, grants: impl Into<Arc<[Grant]>>) -> Self {
        Self { name: name.into(), grants: grants.into(), ..Self::nobody(PrincipalKind::Service) }
    }

    /// Returns what a node is when it asks for itself: no policy is asked about it.
    pub fn node() -> Self {
        Self { name: "node".into(), ..Self::nobody(PrincipalKind::Node) }
    }

    /// Returns a principal of this kind without a name and without a role.
    pub fn nobody(kind: PrincipalKind) -> Self {
        Self { name: Arc::from(""), kind, groups: Arc::default(), grants: Arc::default(), credential: None, until: None }
    }
}
