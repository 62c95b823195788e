//! Projects: what belongs to some people and programs and to nobody else, and who they are.
//!
//! What is declared in a project is noted here by its key. Tasks and agents belong to the project of their swarm, and the VM of an
//! attempt to that of its agent. What is noted nowhere belongs to the project `default`, as all that is older than projects.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hiveward_access::role::{Grant, Role};
use hiveward_kernel::{
    event::PublicEvent,
    id::{ProjectId, SwarmId},
    operation::Operation,
};
use hiveward_runtime::{
    clock::WallMs,
    error::{Code, Refused},
    id::Key,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Part, When};
use crate::directory::Known;

/// The most projects; more are refused.
pub const PROJECTS_MAX: usize = 10_000;
/// The most members of one project, and of the cluster; more are refused.
pub const MEMBERS_MAX: usize = 10_000;
/// The name of the project of all that was declared without naming one.
pub const DEFAULT_NAME: &str = "default";

/// How much a project may have. What is absent is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quotas {
    pub agents: Option<u32>,
    pub swarms: Option<u32>,
    pub vms: Option<u32>,
    /// Tasks that have not ended.
    pub tasks_queued: Option<u32>,
    /// What calls of models may cost in a day, in billionths of the currency.
    pub spend_day_nanos: Option<u64>,
}

/// One who may be a member: a principal by its name, or all of a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Member {
    Principal(String),
    Group(String),
}

impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Principal(name) => f.write_str(name),
            Self::Group(name) => write!(f, "group:{name}"),
        }
    }
}

impl Member {
    /// Reads a member as clients write it: a name, or `group:NAME`.
    pub fn read(text: &str) -> Self {
        match text.strip_prefix("group:") {
            Some(group) => Self::Group(group.to_owned()),
            None => Self::Principal(text.to_owned()),
        }
    }
}

/// Who has which roles.
pub type Members = BTreeMap<Member, BTreeSet<Role>>;

/// A project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Project {
    /// The name, unique in the cluster, which never changes.
    pub name: String,
    pub quotas: Quotas,
    pub members: Members,
    pub created_at: WallMs,
}

/// All projects, and what belongs to which.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Projects {
    /// The projects by id. `default` is here only once something was said of it.
    pub all: BTreeMap<ProjectId, Project>,
    /// Those who have a role in the whole cluster.
    pub everywhere: Members,
    /// The project of each thing that is not in `default`.
    of: HashMap<Key, ProjectId>,
}

/// What is asked of projects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ProjectChange {
    Create {
        id: ProjectId,
        name: String,
        quotas: Quotas,
    },
    Update {
        id: ProjectId,
        quotas: Quotas,
    },
    Remove {
        id: ProjectId,
    },
    /// Gives a role in a project, or in the whole cluster.
    AddMember {
        project: Option<ProjectId>,
        member: Member,
        role: Role,
    },
    /// Takes a role, or all that the member has there.
    RemoveMember {
        project: Option<ProjectId>,
        member: Member,
        role: Option<Role>,
    },
}

/// What happened to projects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProjectEvent {
    ProjectCreated {
        id: ProjectId,
        name: String,
        quotas: Quotas,
        operation: Option<Operation>,
    },
    ProjectUpdated {
        id: ProjectId,
        quotas: Quotas,
        operation: Option<Operation>,
    },
    ProjectRemoved {
        id: ProjectId,
        operation: Option<Operation>,
    },
    MemberAdded {
        project: Option<ProjectId>,
        member: Member,
        role: Role,
        operation: Option<Operation>,
    },
    MemberRemoved {
        project: Option<ProjectId>,
        member: Member,
        role: Option<Role>,
        operation: Option<Operation>,
    },
    /// A thing that is declared with the next event belongs to the project from here on.
    TakenIn {
        project: ProjectId,
        key: Key,
    },
}

/// The key that answers about members of the whole cluster name.
fn key_of(project: Option<ProjectId>) -> Key {
    project.unwrap_or(ProjectId::DEFAULT).key()
}

impl Projects {
    /// Returns the project that a thing belongs to by its own key; `default` for what is noted nowhere.
    pub fn of(&self, key: &Key) -> ProjectId {
        self.of.get(key).copied().unwrap_or(ProjectId::DEFAULT)
    }

    /// Decides that a thing which is about to be declared belongs to a project. Errors: there is no such project, or it may have
    /// no more of these.
    pub fn take_in(&self, project: ProjectId, key: Key) -> Result<ProjectEvent, Refused> {
        let found = self.get(project).ok_or_else(|| Refused::not_found(project))?;
        let most = match key.noun() {
            SwarmId::NOUN => found.quotas.swarms,
            _ => None,
        };
        let has = || self.of.iter().filter(|(other, of)| **of == project && other.noun() == key.noun()).count();
        if let Some(most) = most.filter(|most| has() >= *most as usize) {
            let message = format!("project {:?} may have {most} {}s, and has them; nothing happened", found.name, key.noun());
            return Err(Refused::new(Code::Limit, message));
        }
        Ok(ProjectEvent::TakenIn { project, key })
    }

    /// Forgets a thing that was removed.
    pub fn left(&mut self, key: &Key) {
        self.of.remove(key);
    }

    /// Tells whether there is such a project.
    pub fn has(&self, id: ProjectId) -> bool {
        id == ProjectId::DEFAULT || self.all.contains_key(&id)
    }

    /// Returns the project with this name.
    pub fn named(&self, name: &str) -> Option<ProjectId> {
        let found = self.all.iter().find(|(_, project)| project.name == name).map(|(id, _)| *id);
        found.or_else(|| (name == DEFAULT_NAME).then_some(ProjectId::DEFAULT))
    }

    /// Returns the name of a project.
    pub fn name(&self, id: ProjectId) -> Option<&str> {
        let named = self.all.get(&id).map(|project| project.name.as_str());
        named.or_else(|| (id == ProjectId::DEFAULT).then_some(DEFAULT_NAME))
    }

    /// Returns a project; `default` as it is when nothing was said of it.
    pub fn get(&self, id: ProjectId) -> Option<Project> {
        let untouched = || Project { name: DEFAULT_NAME.to_owned(), ..Project::default() };
        self.all.get(&id).cloned().or_else(|| (id == ProjectId::DEFAULT).then(untouched))
    }

    /// Iterates over the ids of all projects, `default` first.
    pub fn ids(&self) -> impl Iterator<Item = ProjectId> {
        let others = self.all.keys().copied().filter(|id| *id != ProjectId::DEFAULT);
        std::iter::once(ProjectId::DEFAULT).chain(others)
    }

    /// Returns the roles that a principal with these groups is given as a member: in a project, or everywhere.
    pub fn grants(&self, name: &str, groups: &[std::sync::Arc<str>], project: Option<ProjectId>) -> Vec<Grant> {
        let mut grants = Vec::new();
        let groups = groups.iter().map(|group| Member::Group(group.to_string()));
        let own: Vec<_> = std::iter::once(Member::Principal(name.to_owned())).chain(groups).collect();
        let here = project.and_then(|id| self.all.get(&id));
        for (members, project) in [(Some(&self.everywhere), None), (here.map(|here| &here.members), project)] {
            let Some(members) = members.filter(|members| !members.is_empty()) else { continue };
            let roles = own.iter().filter_map(|member| members.get(member)).flatten();
            grants.extend(roles.map(|role| Grant { role: *role, project }));
        }
        grants
    }

    fn members(&mut self, project: Option<ProjectId>) -> Option<&mut Members> {
        match project {
            None => Some(&mut self.everywhere),
            Some(ProjectId::DEFAULT) => {
                let untouched = || Project { name: DEFAULT_NAME.to_owned(), ..Project::default() };
                Some(&mut self.all.entry(ProjectId::DEFAULT).or_insert_with(untouched).members)
            }
            Some(id) => self.all.get_mut(&id).map(|project| &mut project.members),
        }
    }

    fn members_of(&self, project: Option<ProjectId>) -> Option<&Members> {
        match project {
            None => Some(&self.everywhere),
            Some(id) => self.all.get(&id).map(|project| &project.members),
        }
    }
}

impl Part for Projects {
    const NOUN: &'static str = "project";
    const KINDS: &'static [&'static str] =
        &["ProjectCreated", "ProjectUpdated", "ProjectRemoved", "MemberAdded", "MemberRemoved", "TakenIn"];
    type Change = ProjectChange;
    type Event = ProjectEvent;

    fn key(change: &ProjectChange) -> Key {
        match change {
            ProjectChange::Create { id, .. } | ProjectChange::Update { id, .. } | ProjectChange::Remove { id } => id.key(),
            ProjectChange::AddMember { project, .. } | ProjectChange::RemoveMember { project, .. } => key_of(*project),
        }
    }

    fn decide(known: &Known, change: &ProjectChange, operation: Option<&Operation>) -> Result<Vec<ProjectEvent>, Refused> {
        let (projects, operation) = (&known.parts.projects, operation.cloned());
        let there = |id: ProjectId| if projects.has(id) { Ok(()) } else { Err(Refused::not_found(id)) };
        Ok(vec![match change.clone() {
            ProjectChange::Create { id, name, quotas } => {
                if projects.named(&name).is_some() {
                    let message = format!("there is a project named {name:?} already; nothing happened");
                    return Err(Refused { code: Code::Conflict, message, field: Some("name".into()) });
                }
                if projects.all.len() >= PROJECTS_MAX {
                    return Err(Refused::new(Code::Limit, format!("there are {PROJECTS_MAX} projects; remove one first")));
                }
                ProjectEvent::ProjectCreated { id, name, quotas, operation }
            }
            ProjectChange::Update { id, quotas } => {
                there(id)?;
                ProjectEvent::ProjectUpdated { id, quotas, operation }
            }
            ProjectChange::Remove { id } => {
                there(id)?;
                may_be_removed(known, id)?;
                ProjectEvent::ProjectRemoved { id, operation }
            }
            ProjectChange::AddMember { project, member, role } => {
                project.map_or(Ok(()), there)?;
                let members = projects.members_of(project);
                if members.is_some_and(|members| members.len() >= MEMBERS_MAX && !members.contains_key(&member)) {
                    return Err(Refused::new(Code::Limit, format!("there are {MEMBERS_MAX} members; name a group instead")));
                }
                ProjectEvent::MemberAdded { project, member, role, operation }
            }
            ProjectChange::RemoveMember { project, member, role } => {
                project.map_or(Ok(()), there)?;
                let roles = projects.members_of(project).and_then(|members| members.get(&member));
                if roles.is_none_or(|roles| role.is_some_and(|role| !roles.contains(&role))) {
                    let what = role.map_or_else(|| "a member".to_owned(), |role| role.to_string());
                    return Err(Refused::new(Code::NotFound, format!("{member} is not {what} there; nothing happened")));
                }
                ProjectEvent::MemberRemoved { project, member, role, operation }
            }
        }])
    }

    fn apply(&mut self, event: &ProjectEvent, when: When) {
        match event {
            ProjectEvent::ProjectCreated { id, name, quotas, .. } => {
                let project = Project { name: name.clone(), quotas: *quotas, members: Members::new(), created_at: when.at };
                self.all.insert(*id, project);
            }
            ProjectEvent::ProjectUpdated { id, quotas, .. } => {
                if *id == ProjectId::DEFAULT {
                    self.members(Some(*id));
                }
                if let Some(project) = self.all.get_mut(id) {
                    project.quotas = *quotas;
                }
            }
            ProjectEvent::ProjectRemoved { id, .. } => drop(self.all.remove(id)),
            ProjectEvent::MemberAdded { project, member, role, .. } => {
                if let Some(members) = self.members(*project) {
                    members.entry(member.clone()).or_default().insert(*role);
                }
            }
            ProjectEvent::MemberRemoved { project, member, role, .. } => {
                let Some(members) = self.members(*project) else { return };
                match (role, members.get_mut(member)) {
                    (Some(role), Some(roles)) if roles.len() > 1 => drop(roles.remove(role)),
                    _ => drop(members.remove(member)),
                }
            }
            ProjectEvent::TakenIn { project, key } => drop(self.of.insert(key.clone(), *project)),
        }
    }

    fn kind(event: &ProjectEvent) -> &'static str {
        match event {
            ProjectEvent::ProjectCreated { .. } => "ProjectCreated",
            ProjectEvent::ProjectUpdated { .. } => "ProjectUpdated",
            ProjectEvent::ProjectRemoved { .. } => "ProjectRemoved",
            ProjectEvent::MemberAdded { .. } => "MemberAdded",
            ProjectEvent::MemberRemoved { .. } => "MemberRemoved",
            ProjectEvent::TakenIn { .. } => "TakenIn",
        }
    }

    fn operation(event: &ProjectEvent) -> Option<(&Operation, Key)> {
        let (operation, key) = match event {
            ProjectEvent::ProjectCreated { id, operation, .. }
            | ProjectEvent::ProjectUpdated { id, operation, .. }
            | ProjectEvent::ProjectRemoved { id, operation } => (operation, id.key()),
            ProjectEvent::MemberAdded { project, operation, .. } | ProjectEvent::MemberRemoved { project, operation, .. } => {
                (operation, key_of(*project))
            }
            ProjectEvent::TakenIn { .. } => return None,
        };
        Some((operation.as_ref()?, key))
    }

    fn public(event: &ProjectEvent) -> PublicEvent {
        let data = match event {
            ProjectEvent::ProjectCreated { id, name, quotas, .. } => json!({"project": id, "name": name, "quotas": quotas}),
            ProjectEvent::ProjectUpdated { id, quotas, .. } => json!({"project": id, "quotas": quotas}),
            ProjectEvent::ProjectRemoved { id, .. } => json!({"project": id}),
            ProjectEvent::MemberAdded { project, member, role, .. } => {
                json!({"project": project, "member": member.to_string(), "role": role.name()})
            }
            ProjectEvent::MemberRemoved { project, member, role, .. } => {
                json!({"project": project, "member": member.to_string(), "role": role.map(Role::name)})
            }
            ProjectEvent::TakenIn { project, key } => json!({"project": project, "key": key.as_str()}),
        };
        PublicEvent { task: None, agent: None, data }
    }
}

/// Refuses to remove `default`, and a project that has something still.
fn may_be_removed(known: &Known, id: ProjectId) -> Result<(), Refused> {
    if id == ProjectId::DEFAULT {
        return Err(Refused::new(Code::Refused, "the project `default` is always there; nothing happened"));
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let fleet = &known.fleet;
    let vms = fleet.vms.values().filter(|entry| entry.spec.project == id).count();
    let images = fleet.images.values().filter(|entry| entry.spec.project == id).count();
    let networks = fleet.networks.all.values().filter(|entry| entry.spec.project == id).count();
    for (noun, count) in [("vm", vms), ("image", images), ("network", networks)] {
        if count > 0 {
            counts.insert(noun, count);
        }
    }
    for key in known.parts.projects.of.iter().filter(|(_, of)| **of == id).map(|(key, _)| key) {
        *counts.entry(key.noun()).or_default() += 1;
    }
    let keys = known.parts.api_keys.all.values().filter(|key| key.grant.project == Some(id)).count();
    if keys > 0 {
        counts.insert("apikey", keys);
    }
    if counts.is_empty() {
        return Ok(());
    }
    let has: Vec<_> = counts.into_iter().map(|(noun, count)| format!("{count} of {noun}")).collect();
    let message = format!("the project still has {}; remove them first; nothing happened", has.join(", "));
    Err(Refused::new(Code::Refused, message))
}
