//! Names that are unique in a project: under which key they are kept among those of all projects.

use std::borrow::Cow;

use hiveward_kernel::id::ProjectId;

/// Returns the key under which a name of a project is kept: of `default` the name itself, as before there were projects. No
/// name has a zero in it.
pub fn in_project(project: ProjectId, name: &str) -> Cow<'_, str> {
    if project == ProjectId::DEFAULT { Cow::Borrowed(name) } else { Cow::Owned(format!("{project}\0{name}")) }
}

/// Tells whether something is of the project `default`, which is not written down: older versions read it as they always did.
pub fn is_default(project: &ProjectId) -> bool {
    *project == ProjectId::DEFAULT
}

/// Returns the project of what says of none.
pub const fn default_project() -> ProjectId {
    ProjectId::DEFAULT
}
