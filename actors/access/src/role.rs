//! The roles that somebody can have: in one project, or in the whole cluster.

use std::{fmt, str::FromStr};

use hiveward_kernel::id::ProjectId;
use serde::{Deserialize, Serialize};

/// A role. What each may do is said by the policies in `policy/roles.cedar`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Sees what there is.
    Viewer,
    /// Submits tasks, and tends its own.
    TaskCreator,
    /// Manages swarms, agents, VMs and every task of its projects.
    AgentManager,
    /// Runs the cluster: its nodes and hosts, and what all projects share.
    Operator,
    /// May do everything, and says who may do what.
    Admin,
}

impl Role {
    /// All roles, the least first.
    pub const ALL: [Self; 5] = [Self::Viewer, Self::TaskCreator, Self::AgentManager, Self::Operator, Self::Admin];

    /// Returns the role's name, as clients and policies write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::TaskCreator => "task-creator",
            Self::AgentManager => "agent-manager",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The error for a text that names no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role; the roles are viewer, task-creator, agent-manager, operator and admin")]
pub struct UnknownRole(String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        let found = Self::ALL.into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| UnknownRole(text.chars().take(40).collect()))
    }
}

/// A role that somebody has, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Grant {
    pub role: Role,
    /// The project in which it counts; none is the whole cluster with all its projects.
    pub project: Option<ProjectId>,
}

impl Grant {
    /// Makes the grant of a role in the whole cluster.
    pub const fn everywhere(role: Role) -> Self {
        Self { role, project: None }
    }

    /// Makes the grant of a role in one project.
    pub const fn within(role: Role, project: ProjectId) -> Self {
        Self { role, project: Some(project) }
    }
}

/// A set of roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Roles(u8);

impl Roles {
    /// Returns this set with one more role.
    #[must_use]
    pub const fn with(self, role: Role) -> Self {
        Self(self.0 | role.bit())
    }

    /// Tells whether a role is in the set.
    pub const fn has(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }

    /// Tells whether the set has no role.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Iterates over the roles, the least first.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.has(*role))
    }

    /// Returns the roles of these grants that count for something in `project`, or for what is the cluster's own.
    pub fn among<'a>(grants: impl IntoIterator<Item = &'a Grant>, project: Option<ProjectId>) -> Self {
        let counts = grants.into_iter().filter(|grant| grant.project.is_none() || grant.project == project);
        counts.fold(Self::default(), |roles, grant| roles.with(grant.role))
    }
}

impl Extend<Role> for Roles {
    fn extend<T: IntoIterator<Item = Role>>(&mut self, roles: T) {
        for role in roles {
            *self = self.with(role);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_in_a_project_counts_in_no_other_and_not_in_the_cluster() {
        let (web, shop) = (ProjectId::from_u128(1), ProjectId::from_u128(2));
        let grants = [Grant::within(Role::AgentManager, web), Grant::everywhere(Role::Viewer)];
        let names = |project| Roles::among(&grants, project).iter().map(Role::name).collect::<Vec<_>>();
        assert_eq!(names(Some(web)), ["viewer", "agent-manager"]);
        assert_eq!(names(Some(shop)), ["viewer"]);
        assert_eq!(names(None), ["viewer"]);
    }

    #[test]
    fn every_role_is_read_by_its_name_and_nothing_else_is() {
        for role in Role::ALL {
            assert_eq!(role.name().parse(), Ok(role));
        }
        for bad in ["", "Admin", "admin ", "root"] {
            assert!(bad.parse::<Role>().is_err());
        }
    }
}
