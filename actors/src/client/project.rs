//! Projects, and who has which role in them or in the whole cluster.

use hiveward_access::{
    policy::Action,
    resource::ResourceKind,
    role::{Grant, Role},
    verb::Verb,
};
use hiveward_catalogue::part::{
    PartChange,
    project::{Member, Project, ProjectChange, Quotas},
};
use hiveward_kernel::{entity::Entity, id::ProjectId, page::Page};
use hiveward_runtime::{
    error::{Code, Refused},
    op::Op,
};
use hiveward_work::task::bounds::NAME_BYTES_MAX;

use super::{ControlPlane, Done, access::Sought, check, query::page_key};

/// A project with its id.
#[derive(Clone, Debug)]
pub struct ProjectView {
    pub id: ProjectId,
    pub project: Project,
}

/// What policies say of a question that somebody asks about himself.
#[derive(Clone, Debug)]
pub struct Decision {
    pub allowed: bool,
    /// The policies that say so; empty if none permits it.
    pub because: Vec<String>,
}

impl ControlPlane {
    /// Adds a project. Errors: `Conflict` if another has its name.
    pub async fn create_project(&self, op: Op, name: String, quotas: Quotas) -> Result<Done<ProjectView>, Refused> {
        let op = self.may(op, Verb::CreateProject, Sought::Cluster(ResourceKind::Project)).await?;
        check::name("name", &name)?;
        let asked = ("create-project", name.clone(), quotas);
        let change = ProjectChange::Create { id: ProjectId::new(), name, quotas };
        self.change_project(&op, &asked, change).await
    }

    /// Sets how much a project may have, in place of what was set before. What it has already stays.
    pub async fn update_project(&self, op: Op, id: ProjectId, quotas: Quotas) -> Result<Done<ProjectView>, Refused> {
        let op = self.may(op, Verb::UpdateProject, id).await?;
        self.change_project(&op, &("update-project", id, quotas), ProjectChange::Update { id, quotas }).await
    }

    /// Removes a project; refused while anything belongs to it. The value is absent where the same operation has removed it
    /// before.
    pub async fn remove_project(&self, op: Op, id: ProjectId) -> Result<Done<Option<ProjectView>>, Refused> {
        let op = self.may(op, Verb::RemoveProject, id).await?;
        let before = self.project_view(id);
        let change = PartChange::Project(ProjectChange::Remove { id });
        let done = self.change_part(&op, &("remove-project", id), change).await?;
        Ok(Done { value: before, cursor: done.cursor })
    }

    /// Gives somebody a role in a project, or in the whole cluster if none is named. One that he has already changes nothing.
    pub async fn add_member(
        &self,
        op: Op,
        project: Option<ProjectId>,
        member: String,
        role: Role,
    ) -> Result<Done<Option<ProjectView>>, Refused> {
        let op = self.may(op, Verb::AddMember, whose(project)).await?;
        check_member(&member)?;
        let asked = ("add-member", project, member.clone(), role);
        let change = ProjectChange::AddMember { project, member: Member::read(&member), role };
        let done = self.change_part(&op, &asked, PartChange::Project(change)).await?;
        Ok(Done { value: project.and_then(|id| self.project_view(id)), cursor: done.cursor })
    }

    /// Takes a role from a member, or all that he has there. What he does from then on is refused on every node as soon as it
    /// has heard of it, also over what is open already.
    pub async fn remove_member(
        &self,
        op: Op,
        project: Option<ProjectId>,
        member: String,
        role: Option<Role>,
    ) -> Result<Done<Option<ProjectView>>, Refused> {
        let op = self.may(op, Verb::RemoveMember, whose(project)).await?;
        check_member(&member)?;
        let asked = ("remove-member", project, member.clone(), role);
        let change = ProjectChange::RemoveMember { project, member: Member::read(&member), role };
        let done = self.change_part(&op, &asked, PartChange::Project(change)).await?;
        Ok(Done { value: project.and_then(|id| self.project_view(id)), cursor: done.cursor })
    }

    /// Returns a project, if he sees it.
    pub fn project_view(&self, id: ProjectId) -> Option<ProjectView> {
        let found = self.house.directory.read(|known| known.parts.projects.get(id));
        found.filter(|_| self.sees(id)).map(|project| ProjectView { id, project })
    }

    /// Returns the project that an entity belongs to, if he sees that.
    pub fn project_of(&self, entity: Entity) -> Option<ProjectView> {
        self.project_view(self.house.directory.project_of(entity)?)
    }

    /// Returns the project with this name, if he sees it.
    pub fn project_named(&self, name: &str) -> Option<ProjectId> {
        self.house.directory.read(|known| known.parts.projects.named(name)).filter(|id| self.sees(*id))
    }

    /// Lists the projects that he sees, `default` first and the others in the order of their making.
    pub fn projects(&self, after: Option<&str>, first: usize) -> Result<Page<ProjectView>, Refused> {
        let after: Option<ProjectId> = after.map(page_key).transpose()?;
        let all: Vec<_> = self.house.directory.read(|known| {
            let ids = known.parts.projects.ids().filter(|id| after.is_none_or(|after| *id > after));
            ids.filter_map(|id| Some(ProjectView { id, project: known.parts.projects.get(id)? })).collect()
        });
        let mut page = Page::default();
        for view in all.into_iter().filter(|view| self.sees(view.id)) {
            if page.items.len() == first {
                page.has_next = true;
                break;
            }
            page.last_seen = Some(view.id.to_string());
            page.items.push((view.id.to_string(), view));
        }
        Ok(page)
    }

    /// Returns the roles of the one who asks, by his credential and as a member, and where he has them.
    pub fn my_grants(&self) -> Vec<Grant> {
        let who = self.who();
        let mut grants: Vec<Grant> = self.house.directory.read(|known| {
            let projects = &known.parts.projects;
            let member = projects.ids().flat_map(|id| projects.grants(&who.name, &who.groups, Some(id)));
            who.grants.iter().copied().chain(member).collect()
        });
        grants.sort_unstable();
        grants.dedup();
        grants
    }

    /// Tells whether the one who asks may do something: with a thing, or in his project (the cluster, for what is the cluster's)
    /// if none is named. Errors: `NotFound` for a thing that he cannot see.
    pub fn can_i(&self, verb: Verb, id: Option<&str>) -> Result<Decision, Refused> {
        let unknown = |id: &str| Refused { field: Some("id".into()), ..Refused::not_found(id) };
        let ruling = match id {
            None if verb.is_about_the_cluster() => self.ruling(Action::Do(verb), Sought::Cluster(verb.kind())),
            None => self.ruling(Action::Do(verb), Sought::New(verb.kind(), self.project())),
            Some(id) if id.starts_with("task_") => {
                let task = id.parse().map_err(|_| unknown(id))?;
                let record = self.task(task)?.ok_or_else(|| unknown(id))?;
                self.ruling(Action::Do(verb), &record)
            }
            Some(id) => {
                let key = id.parse().map_err(|_| unknown(id))?;
                let sought = super::access::sought_of(&key).filter(|sought| self.is_there(&key) && self.sees(*sought));
                self.ruling(Action::Do(verb), sought.ok_or_else(|| unknown(id))?)
            }
        };
        Ok(Decision { allowed: ruling.allowed, because: ruling.because.iter().map(ToString::to_string).collect() })
    }

    async fn change_project(
        &self,
        op: &Op,
        asked: &impl std::fmt::Debug,
        change: ProjectChange,
    ) -> Result<Done<ProjectView>, Refused> {
        let done = self.change_part(op, asked, PartChange::Project(change)).await?;
        let id = ProjectId::try_from(&done.value).map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        let value = self.project_view(id).ok_or_else(|| Refused::not_found(id))?;
        Ok(Done { value, cursor: done.cursor })
    }
}

fn whose(project: Option<ProjectId>) -> Sought<'static> {
    project.map_or(Sought::Cluster(ResourceKind::Project), Sought::Project)
}

fn check_member(member: &str) -> Result<(), Refused> {
    let name = member.strip_prefix("group:").unwrap_or(member);
    if name.is_empty() || member.len() > NAME_BYTES_MAX || member.chars().any(char::is_control) {
        return Err(Refused::invalid("member", format!("a name, or `group:` and a name, of 1 to {NAME_BYTES_MAX} bytes")));
    }
    Ok(())
}
