//! The things that verbs are about, as policies see them.

use std::fmt::Display;

use hiveward_kernel::id::ProjectId;

/// The kind of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKind {
    Task,
    Agent,
    Swarm,
    Vm,
    Network,
    Image,
    Budget,
    Project,
    ApiKey,
    Host,
    Node,
    Policy,
    /// The cluster itself, for what is about no single thing.
    Cluster,
}

impl ResourceKind {
    /// All kinds.
    pub const ALL: [Self; 13] = [
        Self::Task,
        Self::Agent,
        Self::Swarm,
        Self::Vm,
        Self::Network,
        Self::Image,
        Self::Budget,
        Self::Project,
        Self::ApiKey,
        Self::Host,
        Self::Node,
        Self::Policy,
        Self::Cluster,
    ];

    /// Returns the name of the kind's entity type in policies.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Task => "Task",
            Self::Agent => "Agent",
            Self::Swarm => "Swarm",
            Self::Vm => "Vm",
            Self::Network => "Network",
            Self::Image => "Image",
            Self::Budget => "Budget",
            Self::Project => "Project",
            Self::ApiKey => "ApiKey",
            Self::Host => "Host",
            Self::Node => "Node",
            Self::Policy => "Policy",
            Self::Cluster => "Cluster",
        }
    }

    /// Returns the kind with this name, in whatever case.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }

    /// Tells whether things of the kind belong to a project; the others are the cluster's own.
    pub const fn in_projects(self) -> bool {
        !matches!(self, Self::Host | Self::Node | Self::Policy | Self::Cluster)
    }
}

/// A thing that somebody asks for.
#[derive(Clone, Copy)]
pub struct Resource<'a> {
    pub kind: ResourceKind,
    /// The key of the thing; empty for one that is only about to be. It is written out only where a policy looks at it.
    pub id: &'a (dyn Display + Sync),
    /// The project that it belongs to; none for what is the cluster's own.
    pub project: Option<ProjectId>,
    /// The name of the principal that asked for it first, where that is kept.
    pub owner: Option<&'a str>,
}

impl Resource<'static> {
    /// Returns the cluster itself.
    pub const CLUSTER: Self = Self { kind: ResourceKind::Cluster, id: &"cluster", project: None, owner: None };

    /// Returns what is about to be made in a project.
    pub const fn new(kind: ResourceKind, project: ProjectId) -> Self {
        Self { kind, id: &"", project: Some(project), owner: None }
    }
}

impl<'a> Resource<'a> {
    /// Returns a thing of the cluster's own.
    pub const fn of_the_cluster(kind: ResourceKind, id: &'a (dyn Display + Sync)) -> Self {
        Self { kind, id, project: None, owner: None }
    }

    /// Returns a thing of a project that nobody in particular owns.
    pub const fn within(kind: ResourceKind, id: &'a (dyn Display + Sync), project: ProjectId) -> Self {
        Self { kind, id, project: Some(project), owner: None }
    }
}
