//! What is said of projects, members, keys and policies when they are changed, and what is answered.

use async_graphql::{ID, InputObject, SimpleObject};
use hiveward_catalogue::part::project::Quotas;
use hiveward_models::price::nanos_from_decimal;
use hiveward_runtime::error::Refused;

use super::{
    Result,
    access::{ApiKey, Project},
    parse,
    scalars::{BigInt, Cursor},
};

#[derive(InputObject, Default)]
pub struct QuotasInput {
    pub(super) agents: Option<i32>,
    pub(super) swarms: Option<i32>,
    pub(super) vms: Option<i32>,
    /// Tasks that have not ended.
    pub(super) tasks_queued: Option<i32>,
    /// A decimal in the currency of the price table.
    pub(super) spend_day: Option<String>,
}

impl QuotasInput {
    /// Returns the quotas. Errors: an amount cannot be one.
    pub(super) fn parse(self) -> Result<Quotas, Refused> {
        let money = |text: String| {
            nanos_from_decimal(&text)
                .ok_or_else(|| Refused::invalid("quotas.spendDay", format!("{text:?} is no sum; write it as `20`")))
        };
        Ok(Quotas {
            agents: parse::optional_natural("quotas.agents", self.agents)?,
            swarms: parse::optional_natural("quotas.swarms", self.swarms)?,
            vms: parse::optional_natural("quotas.vms", self.vms)?,
            tasks_queued: parse::optional_natural("quotas.tasksQueued", self.tasks_queued)?,
            spend_day_nanos: self.spend_day.map(money).transpose()?,
        })
    }
}

#[derive(InputObject)]
pub struct CreateProjectInput {
    pub(super) operation_id: Option<ID>,
    /// Unique.
    pub(super) name: String,
    pub(super) quotas: Option<QuotasInput>,
}

#[derive(InputObject)]
pub struct UpdateProjectInput {
    pub(super) operation_id: Option<ID>,
    /// By key or name.
    pub(super) project: ID,
    /// In place of those before; what is absent is not limited.
    pub(super) quotas: QuotasInput,
}

#[derive(InputObject)]
pub struct RemoveProjectInput {
    pub(super) operation_id: Option<ID>,
    /// By key or name.
    pub(super) project: ID,
}

#[derive(SimpleObject)]
pub struct ProjectPayload {
    /// Null if the same operation has removed it before.
    pub(super) project: Option<Project>,
    pub(super) cursor: Cursor,
}

#[derive(InputObject)]
pub struct MemberInput {
    pub(super) operation_id: Option<ID>,
    /// By key or name; the whole cluster if absent.
    pub(super) project: Option<ID>,
    /// A principal's name, or `group:` and a group's.
    pub(super) member: String,
    /// One of `viewer`, `task-creator`, `agent-manager`, `operator`, `admin`.
    pub(super) role: String,
}

#[derive(InputObject)]
pub struct RemoveMemberInput {
    pub(super) operation_id: Option<ID>,
    /// By key or name; the whole cluster if absent.
    pub(super) project: Option<ID>,
    pub(super) member: String,
    /// All that the member has there if absent.
    pub(super) role: Option<String>,
}

#[derive(InputObject)]
pub struct CreateApiKeyInput {
    pub(super) operation_id: Option<ID>,
    /// Unique among keys.
    pub(super) name: String,
    /// One of `viewer`, `task-creator`, `agent-manager`, `operator`, `admin`.
    pub(super) role: String,
    /// By key or name: where it has its role. If absent it is the caller's only project, and for others the whole cluster.
    pub(super) project: Option<ID>,
    /// It does not expire if absent.
    pub(super) expires_in_ms: Option<BigInt>,
}

#[derive(SimpleObject)]
pub struct CreateApiKeyPayload {
    pub(super) api_key: ApiKey,
    /// The key itself, which is shown this once. Null if the same operation has made it before.
    pub(super) secret: Option<String>,
    pub(super) cursor: Cursor,
}

#[derive(InputObject)]
pub struct RevokeApiKeyInput {
    pub(super) operation_id: Option<ID>,
    /// By id or name.
    pub(super) id: ID,
}

#[derive(SimpleObject)]
pub struct RevokeApiKeyPayload {
    /// The key that is worth nothing any more; null if the same operation has revoked it before.
    pub(super) api_key: Option<ApiKey>,
    pub(super) cursor: Cursor,
}

#[derive(InputObject)]
pub struct ApplyPolicyInput {
    pub(super) operation_id: Option<ID>,
    /// The text with this name is replaced.
    pub(super) name: String,
    /// In Cedar's language.
    pub(super) text: String,
    /// Only checks whether it fits.
    #[graphql(default)]
    pub(super) dry_run: bool,
}

#[derive(InputObject)]
pub struct RemovePolicyInput {
    pub(super) operation_id: Option<ID>,
    pub(super) name: String,
}

#[derive(SimpleObject)]
pub struct PolicyPayload {
    pub(super) name: String,
    pub(super) cursor: Cursor,
}
