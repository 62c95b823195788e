//! Who may do what: who asks, projects and their members, API keys, policies.

use std::time::Duration;

use async_graphql::{Context, Enum, ID, Object, SimpleObject};
use hiveward_access::{
    role::{Grant, Role as AccessRole, UnknownRole},
    verb::Verb,
};
use hiveward_actors::client::{Decision as Ruled, ProjectView};
use hiveward_catalogue::part::{api_key::ApiKey as ApiKeyRecord, policy::PolicyText, project::Member as MemberOf};
use hiveward_kernel::{
    entity::Entity,
    id::{ApiKeyId, ProjectId},
};
use hiveward_runtime::error::Refused;

use super::{
    Result,
    access_input::{
        ApplyPolicyInput, CreateApiKeyInput, CreateApiKeyPayload, CreateProjectInput, MemberInput, PolicyPayload, ProjectPayload,
        RemoveMemberInput, RemovePolicyInput, RemoveProjectInput, RevokeApiKeyInput, RevokeApiKeyPayload, UpdateProjectInput,
    },
    door, op,
    page::{self, Pages},
    parse,
    scalars::DateTime,
    usage::Money,
};

/// What belongs to some people and programs, and to nobody else.
pub struct Project(ProjectView);

impl From<ProjectView> for Project {
    fn from(view: ProjectView) -> Self {
        Self(view)
    }
}

impl Project {
    /// Returns the project with this id, if the caller sees it.
    pub fn find(ctx: &Context<'_>, id: ProjectId) -> Result<Option<Self>> {
        Ok(door(ctx)?.project_view(id).map(Self))
    }

    /// Returns the project that an entity belongs to, if it is in one that the caller sees.
    pub fn of(ctx: &Context<'_>, entity: Entity) -> Result<Option<Self>> {
        Ok(door(ctx)?.project_of(entity).map(Self))
    }
}

#[Object]
impl Project {
    async fn id(&self) -> ID {
        self.0.id.to_string().into()
    }
    /// Unique, and never changed.
    async fn name(&self) -> &str {
        &self.0.project.name
    }
    /// How much it may have.
    async fn quotas(&self, ctx: &Context<'_>) -> Result<ProjectQuotas> {
        let (quotas, currency) = (self.0.project.quotas, door(ctx)?.currency());
        Ok(ProjectQuotas {
            agents: quotas.agents,
            swarms: quotas.swarms,
            vms: quotas.vms,
            tasks_queued: quotas.tasks_queued,
            spend_day: quotas.spend_day_nanos.map(|nanos| Money::of(nanos, &currency)),
        })
    }
    /// Who has a role in it, beside those who have one in the whole cluster.
    async fn members(&self) -> Vec<ProjectMember> {
        members(&self.0.project.members)
    }
    async fn created_at(&self) -> Option<DateTime> {
        Some(self.0.project.created_at).filter(|at| at.0 > 0).map(Into::into)
    }
}

fn members(of: &hiveward_catalogue::part::project::Members) -> Vec<ProjectMember> {
    let member = |(member, roles): (&MemberOf, &std::collections::BTreeSet<AccessRole>)| ProjectMember {
        member: member.to_string(),
        roles: roles.iter().map(|role| Role::from(*role)).collect(),
    };
    of.iter().map(member).collect()
}

/// How much a project may have; what is null is not limited.
#[derive(SimpleObject)]
pub struct ProjectQuotas {
    agents: Option<u32>,
    swarms: Option<u32>,
    vms: Option<u32>,
    /// Tasks that have not ended.
    tasks_queued: Option<u32>,
    /// What calls of models may cost in a day.
    spend_day: Option<Money>,
}

#[derive(SimpleObject)]
pub struct ProjectMember {
    /// A principal's name, or `group:` and a group's.
    member: String,
    roles: Vec<Role>,
}

/// What somebody may do, in a project or in the whole cluster.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "hiveward_access::role::Role")]
pub enum Role {
    /// Sees what there is.
    Viewer,
    /// Submits tasks, and tends its own.
    TaskCreator,
    /// Manages swarms, agents, VMs and every task.
    AgentManager,
    /// Runs the cluster: its nodes and hosts, and what all share.
    Operator,
    /// May do everything.
    Admin,
}

/// A program's key, without what is secret of it.
pub struct ApiKey(ApiKeyRecord);

impl From<ApiKeyRecord> for ApiKey {
    fn from(record: ApiKeyRecord) -> Self {
        Self(record)
    }
}

#[Object]
impl ApiKey {
    async fn id(&self) -> ID {
        self.0.id.to_string().into()
    }
    /// Events name its holder `key:` and this.
    async fn name(&self) -> &str {
        &self.0.name
    }
    /// The beginning of the key, by which its owner tells it from others.
    async fn prefix(&self) -> &str {
        &self.0.prefix
    }
    async fn role(&self) -> Role {
        self.0.grant.role.into()
    }
    /// Where it has its role; null is the whole cluster.
    async fn project(&self, ctx: &Context<'_>) -> Result<Option<Project>> {
        self.0.grant.project.map_or(Ok(None), |id| Project::find(ctx, id))
    }
    async fn created_at(&self) -> DateTime {
        self.0.created_at.into()
    }
    async fn created_by(&self) -> &str {
        &self.0.created_by
    }
    /// From when on it is worth nothing; null is never.
    async fn expires_at(&self) -> Option<DateTime> {
        self.0.expires_at.map(Into::into)
    }
}

/// The one who asks.
pub struct Me;

#[Object]
impl Me {
    async fn name<'a>(&self, ctx: &Context<'a>) -> Result<&'a str> {
        Ok(&door(ctx)?.who().name)
    }
    /// `user`, `service`, `node` or `agent`.
    async fn kind(&self, ctx: &Context<'_>) -> Result<&'static str> {
        Ok(door(ctx)?.who().kind.name())
    }
    async fn groups(&self, ctx: &Context<'_>) -> Result<Vec<String>> {
        Ok(door(ctx)?.who().groups.iter().map(ToString::to_string).collect())
    }
    async fn grants(&self, ctx: &Context<'_>) -> Result<Vec<MyGrant>> {
        Ok(door(ctx)?.my_grants().into_iter().map(MyGrant).collect())
    }
    /// The project in which names are looked up and new things are made, unless a request names another.
    async fn project(&self, ctx: &Context<'_>) -> Result<Option<Project>> {
        Project::find(ctx, door(ctx)?.project())
    }
}

/// A role that the asker has, and where.
pub struct MyGrant(Grant);

#[Object]
impl MyGrant {
    async fn role(&self) -> Role {
        self.0.role.into()
    }
    /// Null is the whole cluster.
    async fn project(&self, ctx: &Context<'_>) -> Result<Option<Project>> {
        self.0.project.map_or(Ok(None), |id| Project::find(ctx, id))
    }
}

/// Whether something is allowed, and which policies say so.
#[derive(SimpleObject)]
pub struct Ruling {
    allowed: bool,
    /// The policies that permit it, or that forbid it. Empty if it is refused because none permits it.
    because: Vec<String>,
}

impl From<Ruled> for Ruling {
    fn from(ruled: Ruled) -> Self {
        Self { allowed: ruled.allowed, because: ruled.because }
    }
}

/// Policies beside the roles, as they were applied.
#[derive(SimpleObject)]
pub struct Policy {
    name: String,
    /// In Cedar's language.
    text: String,
    applied_at: DateTime,
}

impl From<(String, PolicyText)> for Policy {
    fn from((name, policy): (String, PolicyText)) -> Self {
        Self { name, text: policy.text, applied_at: policy.applied_at.into() }
    }
}

fn role(field: &str, given: &str) -> Result<AccessRole, Refused> {
    given.parse().map_err(|error: UnknownRole| Refused::invalid(field, error.to_string()))
}

fn project_id(ctx: &Context<'_>, given: &ID) -> Result<ProjectId> {
    parse::reference("project", given)?;
    let control = door(ctx)?;
    Ok(control.project_for(control.who(), Some(given.as_str()))?)
}

#[derive(Default)]
pub struct AccessQuery;

#[Object]
impl AccessQuery {
    /// Who asks, and what roles he has.
    async fn me(&self) -> Me {
        Me
    }

    /// Whether the asker may do something, and which policy decides: with a thing, or else in his project.
    async fn can_i(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The name of a mutation, query or subscription.")] verb: String,
        id: Option<ID>,
    ) -> Result<Ruling> {
        let verb = Verb::named(&verb).ok_or_else(|| {
            let shown: String = verb.chars().take(64).collect();
            Refused::invalid("verb", format!("{shown:?} is no verb: give the name of a mutation, such as `cancelTask`"))
        })?;
        if let Some(id) = &id {
            parse::reference("id", id)?;
        }
        Ok(door(ctx)?.can_i(verb, id.as_ref().map(|id| id.as_str()))?.into())
    }

    /// The projects that the asker sees.
    async fn projects(&self, ctx: &Context<'_>, first: Option<i32>, after: Option<String>) -> Result<Pages<Project>> {
        Ok(page::connection(door(ctx)?.projects(after.as_deref(), page::first(first)?)?, after.as_deref()))
    }

    /// The keys that the asker may revoke.
    async fn api_keys(&self, ctx: &Context<'_>, first: Option<i32>, after: Option<String>) -> Result<Pages<ApiKey>> {
        Ok(page::connection(door(ctx)?.api_keys(after.as_deref(), page::first(first)?)?, after.as_deref()))
    }

    /// Policies beside the roles.
    async fn policies(&self, ctx: &Context<'_>) -> Result<Vec<Policy>> {
        Ok(door(ctx)?.policies().into_iter().map(Into::into).collect())
    }
}

#[derive(Default)]
pub struct AccessMutation;

#[Object]
impl AccessMutation {
    async fn create_project(&self, ctx: &Context<'_>, input: CreateProjectInput) -> Result<ProjectPayload> {
        let op = op(ctx, input.operation_id.as_ref())?;
        let quotas = input.quotas.unwrap_or_default().parse()?;
        let done = door(ctx)?.create_project(op, parse::name("name", input.name)?, quotas).await?;
        Ok(ProjectPayload { project: Some(done.value.into()), cursor: done.cursor.into() })
    }

    async fn update_project(&self, ctx: &Context<'_>, input: UpdateProjectInput) -> Result<ProjectPayload> {
        let op = op(ctx, input.operation_id.as_ref())?;
        let project = project_id(ctx, &input.project)?;
        let done = door(ctx)?.update_project(op, project, input.quotas.parse()?).await?;
        Ok(ProjectPayload { project: Some(done.value.into()), cursor: done.cursor.into() })
    }

    /// Refused while anything belongs to the project.
    async fn remove_project(&self, ctx: &Context<'_>, input: RemoveProjectInput) -> Result<ProjectPayload> {
        let op = op(ctx, input.operation_id.as_ref())?;
        let project = project_id(ctx, &input.project)?;
        let done = door(ctx)?.remove_project(op, project).await?;
        Ok(ProjectPayload { project: done.value.map(Into::into), cursor: done.cursor.into() })
    }

    /// Gives somebody a role.
    async fn add_member(&self, ctx: &Context<'_>, input: MemberInput) -> Result<ProjectPayload> {
        let op = op(ctx, input.operation_id.as_ref())?;
        let project = input.project.map(|project| project_id(ctx, &project)).transpose()?;
        let done = door(ctx)?.add_member(op, project, input.member, role("role", &input.role)?).await?;
        Ok(ProjectPayload { project: done.value.map(Into::into), cursor: done.cursor.into() })
    }

    /// Takes a role from somebody, at once also for what he has open.
    async fn remove_member(&self, ctx: &Context<'_>, input: RemoveMemberInput) -> Result<ProjectPayload> {
        let op = op(ctx, input.operation_id.as_ref())?;
        let project = input.project.map(|project| project_id(ctx, &project)).transpose()?;
        let role = input.role.map(|given| role("role", &given)).transpose()?;
        let done = door(ctx)?.remove_member(op, project, input.member, role).await?;
        Ok(ProjectPayload { project: done.value.map(Into::into), cursor: done.cursor.into() })
    }

    async fn create_api_key(&self, ctx: &Context<'_>, input: CreateApiKeyInput) -> Result<CreateApiKeyPayload> {
        let op = op(ctx, input.operation_id.as_ref())?;
        let project = input.project.map(|project| project_id(ctx, &project)).transpose()?;
        let own = Some(door(ctx)?.project()).filter(|own| *own != ProjectId::DEFAULT);
        let project = project.or(own);
        let ttl = input.expires_in_ms.map(|ms| Duration::from_millis(ms.0));
        let role = role("role", &input.role)?;
        let done = door(ctx)?.create_api_key(op, parse::name("name", input.name)?, role, project, ttl).await?;
        Ok(CreateApiKeyPayload { api_key: done.value.key.into(), secret: done.value.secret, cursor: done.cursor.into() })
    }

    /// What is asked with the key from then on is refused, and what is open with it is closed.
    async fn revoke_api_key(&self, ctx: &Context<'_>, input: RevokeApiKeyInput) -> Result<RevokeApiKeyPayload> {
        let op = op(ctx, input.operation_id.as_ref())?;
        parse::reference("id", &input.id)?;
        let control = door(ctx)?;
        let id = match input.id.parse::<ApiKeyId>() {
            Ok(id) => id,
            Err(_) => {
                let name = input.id.as_str();
                control.api_key_named(name)?.ok_or_else(|| Refused::not_found(format!("API key named {name:?}")))?
            }
        };
        let done = control.revoke_api_key(op, id).await?;
        Ok(RevokeApiKeyPayload { api_key: done.value.map(Into::into), cursor: done.cursor.into() })
    }

    /// Puts policies into effect on every node, beside the roles.
    async fn apply_policy(&self, ctx: &Context<'_>, input: ApplyPolicyInput) -> Result<PolicyPayload> {
        let op = op(ctx, input.operation_id.as_ref())?;
        let (control, name) = (door(ctx)?, parse::name("name", input.name)?);
        if input.dry_run {
            control.try_policy(op, &name, &input.text).await?;
            return Ok(PolicyPayload { name, cursor: control.head().into() });
        }
        let done = control.apply_policy(op, name, input.text).await?;
        Ok(PolicyPayload { name: done.value, cursor: done.cursor.into() })
    }

    async fn remove_policy(&self, ctx: &Context<'_>, input: RemovePolicyInput) -> Result<PolicyPayload> {
        let op = op(ctx, input.operation_id.as_ref())?;
        parse::reference("name", &input.name.as_str().into())?;
        let done = door(ctx)?.remove_policy(op, input.name).await?;
        Ok(PolicyPayload { name: done.value, cursor: done.cursor.into() })
    }
}
