//! Which host a VM would be placed on: a question that changes nothing.

use std::sync::Arc;

use async_graphql::{Context, ID, InputObject, Object, SimpleObject};
use hiveward_actors::client::{self, NewVm};

use super::{
    Result, door,
    enums::VmPlacementStrategy,
    host::{Host, host_id},
    load::{Loaders, Views},
    page, parse,
    scalars::BigInt,
    task_input::LabelInput,
    vm::VmPlacement,
};

/// What decides where a VM goes, as `CreateVmInput` has it.
#[derive(InputObject)]
pub struct SelectHostInput {
    /// By key or name; the best one if absent.
    host: Option<ID>,
    cpus: i32,
    memory_bytes: BigInt,
    anti_affinity: Option<Vec<String>>,
    affinity: Option<Vec<String>>,
    zone: Option<String>,
    host_labels: Option<Vec<LabelInput>>,
    #[graphql(default_with = "VmPlacementStrategy::Spread")]
    strategy: VmPlacementStrategy,
    /// Whether it could come back elsewhere is asked as well.
    #[graphql(default)]
    ha: bool,
}

/// Where a VM would be placed if it were made now, with all that this was decided from.
pub struct HostSelection(client::HostSelection);

#[Object]
impl HostSelection {
    /// Absent if it would be refused. Of equal hosts the one that is taken depends on the id that the VM will have.
    async fn host(&self, ctx: &Context<'_>) -> Result<Option<Host>> {
        let Ok(decision) = &self.0.decision else { return Ok(None) };
        let views: &Loaders = ctx.data::<async_graphql::dataloader::DataLoader<Views>>()?;
        Ok(views.load_one(decision.chosen).await?.map(Host))
    }
    /// Why it would be refused.
    async fn refused(&self) -> Option<&str> {
        self.0.decision.as_ref().err().map(|refused| refused.message.as_str())
    }
    /// What would be kept with the VM.
    async fn placement(&self) -> Option<VmPlacement> {
        self.0.decision.as_ref().ok().map(|decision| VmPlacement(Arc::new(decision.clone())))
    }
    /// What was said of each host: the chosen one, then the others, the best first, then those that are left out.
    async fn hosts(&self, first: Option<i32>) -> Result<Vec<HostVerdict>> {
        let verdict = |verdict: &client::Verdict| HostVerdict {
            host: verdict.host.to_string().into(),
            name: verdict.name.clone(),
            score: verdict.score.ok(),
            left_out: verdict.score.err().map(|reject| reject.words().to_owned()),
        };
        Ok(self.0.verdicts.iter().take(page::first(first)?).map(verdict).collect())
    }
    /// How many there are, shown or not.
    async fn host_count(&self) -> usize {
        self.0.verdicts.len()
    }
}

/// What was said of one host.
#[derive(SimpleObject)]
pub struct HostVerdict {
    host: ID,
    name: String,
    /// The higher, the better; of one strategy only. Absent if it is left out.
    score: Option<f32>,
    /// Why it is left out, if it is: "it …".
    left_out: Option<String>,
}

#[derive(Default)]
pub struct SelectQuery;

#[Object]
impl SelectQuery {
    /// Where a VM would be placed if it were made now, by the same decision. Reserves nothing and changes nothing.
    async fn select_host(&self, ctx: &Context<'_>, input: SelectHostInput) -> Result<HostSelection> {
        let new = NewVm {
            host: input.host.map(|host| host_id(ctx, "host", &host)).transpose()?,
            anti_affinity: input.anti_affinity.unwrap_or_default(),
            affinity: input.affinity.unwrap_or_default(),
            zone: input.zone,
            host_labels: input.host_labels.unwrap_or_default().into_iter().map(|label| (label.key, label.value)).collect(),
            strategy: input.strategy.into(),
            ha: input.ha,
            // Neither has a say in it.
            ..NewVm::new("select", "any", parse::natural("cpus", input.cpus)?, input.memory_bytes.0)
        };
        Ok(HostSelection(door(ctx)?.select_host(&new)?))
    }
}
