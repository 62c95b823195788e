//! Making hosts more even: the plan, and the mutation that begins it.

use std::time::Duration;

use async_graphql::{Context, ID, InputObject, Object, SimpleObject};
use hiveward_actors::client::{self, BalanceRules};
use hiveward_catalogue::placement::vm::rebalance::{self, Rules};
use hiveward_kernel::id::HostId;
use hiveward_runtime::error::Refused;

use super::{
    Result, door,
    enums::{BalanceBasis, VmPlacementStrategy},
    op, parse,
    scalars::{BigInt, Cursor, DateTime},
};

/// When it is worth to move VMs, and how much at once. Shares are of a whole host: 0.1 is ten percent.
#[derive(InputObject)]
pub struct BalanceRulesInput {
    /// How a host's load is made of its shares of CPU and memory: `SPREAD` takes the scarcer, `WEIGHTED` the weighted sum.
    #[graphql(default_with = "VmPlacementStrategy::Spread")]
    strategy: VmPlacementStrategy,
    #[graphql(default_with = "BalanceBasis::Reserved")]
    basis: BalanceBasis,
    /// The fullest host may be so much above the mean.
    #[graphql(default = 0.1)]
    threshold: f64,
    /// For so long it must have been more, in whole minutes as far as is known; at most six hours. 0 is now.
    #[graphql(default = 300_000)]
    hold_ms: i32,
    /// So much a move must gain beyond its cost.
    #[graphql(default = 0.01)]
    margin: f64,
    /// Within which the copy must have paid: the shorter, the dearer a large VM is.
    #[graphql(default = 3_600_000)]
    pays_within_ms: i32,
    /// How fast memory and disks are thought to be copied, MiB each second.
    #[graphql(default = 100)]
    bandwidth_mib: i32,
    /// A VM that moved stays so long.
    #[graphql(default = 1_800_000)]
    cool_down_ms: i32,
    #[graphql(default = 16)]
    moves_max: i32,
}

impl BalanceRulesInput {
    fn parse(self, at: &str) -> Result<BalanceRules, Refused> {
        let field = |name: &str| parse::join(at, name);
        let time = |name: &str, ms: i32| Ok::<_, Refused>(Duration::from_millis(parse::natural(&field(name), ms)?));
        let bandwidth: u64 = parse::natural(&field("bandwidthMib"), self.bandwidth_mib)?;
        Ok(BalanceRules {
            strategy: self.strategy.into(),
            basis: self.basis.into(),
            hold: time("holdMs", self.hold_ms)?,
            cool_down: time("coolDownMs", self.cool_down_ms)?,
            rules: Rules {
                threshold: self.threshold as f32,
                margin: self.margin as f32,
                pays_within: time("paysWithinMs", self.pays_within_ms)?,
                copy_bytes_per_s: bandwidth << 20,
                moves_max: parse::natural(&field("movesMax"), self.moves_max)?,
            },
        })
    }
}

/// What is at fault in the rules is named within where they were given.
fn within(at: &'static str) -> impl Fn(Refused) -> Refused {
    move |refused| match &refused.field {
        Some(field) if field != "operationId" => Refused { field: Some(parse::join(at, field)), ..refused },
        _ => refused,
    }
}

/// Which moves would make hosts more even, and what would come of them.
pub struct RebalancePlan(client::BalanceView);

#[Object]
impl RebalancePlan {
    async fn at(&self) -> DateTime {
        self.0.at.into()
    }
    async fn basis(&self) -> BalanceBasis {
        self.0.rules.basis.into()
    }
    /// How far the fullest host is above the mean.
    async fn imbalance(&self) -> f32 {
        self.0.plan.imbalance
    }
    /// After all moves.
    async fn imbalance_after(&self) -> f32 {
        self.0.plan.imbalance_after
    }
    /// The load of all hosts as if they were one.
    async fn mean(&self) -> f32 {
        self.0.plan.mean
    }
    /// For how long the imbalance has been over the threshold: whole minutes, as far back as was asked and is known.
    async fn held_ms(&self) -> u64 {
        u64::try_from(self.0.held.as_millis()).unwrap_or(u64::MAX)
    }
    /// The moves may begin now.
    async fn due(&self) -> bool {
        self.0.due
    }
    /// Why they may not, or why there are none.
    async fn why(&self) -> Option<&str> {
        self.0.why.as_deref()
    }
    /// In the order in which they are to be begun.
    async fn moves(&self) -> Vec<RebalanceMove> {
        self.0.moves.iter().map(Into::into).collect()
    }
    /// How full each host is that takes part, and would be after all moves.
    async fn forecast(&self) -> Vec<HostForecast> {
        let all = self.0.plan.forecast.iter();
        all.map(|host| HostForecast {
            host: host.host.to_string().into(),
            name: self.0.names.get(&host.host).cloned().unwrap_or_default(),
            before: host.before.into(),
            after: host.after.into(),
        })
        .collect()
    }
    /// Why VMs stay on hosts that would be too full still.
    async fn stay(&self) -> Vec<VmsStay> {
        self.0.plan.stay.iter().map(|(stays, vms)| VmsStay { reason: stays.words().into(), vms: *vms }).collect()
    }
    /// Hosts that take no part, and why.
    async fn apart(&self) -> Vec<HostApart> {
        let name = |host: &HostId| self.0.names.get(host).cloned().unwrap_or_default();
        let all = self.0.apart.iter();
        all.map(|(host, reject)| HostApart { host: host.to_string().into(), name: name(host), reason: reject.words().into() })
            .collect()
    }
}

#[derive(SimpleObject)]
pub struct RebalanceMove {
    vm: ID,
    vm_name: String,
    from: ID,
    from_name: String,
    to: ID,
    to_name: String,
    /// In words.
    reason: String,
    /// How much less full the fuller of the two hosts is afterwards.
    gain: f32,
    /// How much of a host its copy takes, spread over the time in which it is to pay.
    cost: f32,
    copy_bytes: BigInt,
    copy_ms: u64,
    /// It needs room that a move before it frees, and is not begun together with that.
    waits: bool,
    from_before: HostLevel,
    from_after: HostLevel,
    to_before: HostLevel,
    to_after: HostLevel,
}

impl From<&client::PlannedMove> for RebalanceMove {
    fn from(planned: &client::PlannedMove) -> Self {
        let step = &planned.step;
        let percent = |share: f32| f64::from(share) * 100.0;
        let reason = format!(
            "{} goes from {:.1} % to {:.1} %, {} from {:.1} % to {:.1} %: a gain of {:.1} points for a copy that is worth {:.2}",
            planned.from_name,
            percent(step.from_before.load),
            percent(step.from_after.load),
            planned.to_name,
            percent(step.to_before.load),
            percent(step.to_after.load),
            percent(step.gain),
            percent(step.cost),
        );
        Self {
            vm: step.vm.to_string().into(),
            vm_name: planned.vm_name.clone(),
            from: step.from.to_string().into(),
            from_name: planned.from_name.clone(),
            to: step.to.to_string().into(),
            to_name: planned.to_name.clone(),
            reason,
            gain: step.gain,
            cost: step.cost,
            copy_bytes: BigInt(step.copy_bytes),
            copy_ms: u64::try_from(step.copy.as_millis()).unwrap_or(u64::MAX),
            waits: step.waits,
            from_before: step.from_before.into(),
            from_after: step.from_after.into(),
            to_before: step.to_before.into(),
            to_after: step.to_after.into(),
        }
    }
}

/// How full a host is; 1 is full.
#[derive(SimpleObject)]
pub struct HostLevel {
    cpu: f32,
    memory: f32,
    /// Of both, by the strategy.
    load: f32,
}

impl From<rebalance::Level> for HostLevel {
    fn from(level: rebalance::Level) -> Self {
        Self { cpu: level.share.cpu, memory: level.share.memory, load: level.load }
    }
}

#[derive(SimpleObject)]
pub struct HostForecast {
    host: ID,
    name: String,
    before: HostLevel,
    after: HostLevel,
}

#[derive(SimpleObject)]
pub struct VmsStay {
    /// "it …".
    reason: String,
    vms: u32,
}

#[derive(SimpleObject)]
pub struct HostApart {
    host: ID,
    name: String,
    /// "it …".
    reason: String,
}

/// A migration that was asked for.
#[derive(SimpleObject)]
pub struct RebalanceBegun {
    vm: ID,
    vm_name: String,
    from: ID,
    to: ID,
    /// The number of the VM's operation.
    operation: Option<BigInt>,
    /// Why it would not.
    refused: Option<String>,
}

impl From<client::Begun> for RebalanceBegun {
    fn from(begun: client::Begun) -> Self {
        let (operation, refused) = match begun.operation {
            Ok(number) => (Some(BigInt(number)), None),
            Err(refused) => (None, Some(refused.message)),
        };
        Self {
            vm: begun.vm.to_string().into(),
            vm_name: begun.vm_name,
            from: begun.from.to_string().into(),
            to: begun.to.to_string().into(),
            operation,
            refused,
        }
    }
}

#[derive(InputObject)]
pub struct RebalanceInput {
    /// Under one that was used before, what was begun under it is answered, and nothing more begins.
    operation_id: Option<ID>,
    /// The usual ones if absent.
    rules: Option<BalanceRulesInput>,
}

#[derive(SimpleObject)]
pub struct RebalancePayload {
    /// Absent when the operation id was used before.
    plan: Option<RebalancePlan>,
    /// Empty if nothing is due.
    begun: Vec<RebalanceBegun>,
    cursor: Cursor,
}

fn rules(at: &str, given: Option<BalanceRulesInput>) -> Result<BalanceRules, Refused> {
    given.map_or_else(|| Ok(BalanceRules::default()), |given| given.parse(at))
}

#[derive(Default)]
pub struct BalanceQuery;

#[Object]
impl BalanceQuery {
    /// Which moves would make hosts more even now, each with its reason, gain, cost and forecast. Changes nothing.
    async fn rebalance_plan(&self, ctx: &Context<'_>, rules: Option<BalanceRulesInput>) -> Result<RebalancePlan> {
        let rules = self::rules("rules", rules)?;
        Ok(RebalancePlan(door(ctx)?.rebalance_plan(rules).await.map_err(within("rules"))?))
    }
}

#[derive(Default)]
pub struct BalanceMutation;

#[Object]
impl BalanceMutation {
    /// Begins the moves of the plan as it is now, if they are due: ordinary live migrations, of which a host sends only a few
    /// at a time. Answers when they were asked for.
    async fn rebalance(&self, ctx: &Context<'_>, input: RebalanceInput) -> Result<RebalancePayload> {
        let rules = self::rules("rules", input.rules)?;
        let op = op(ctx, input.operation_id.as_ref())?;
        let done = door(ctx)?.rebalance(op, rules).await.map_err(within("rules"))?;
        Ok(RebalancePayload {
            plan: done.plan.map(|plan| RebalancePlan(*plan)),
            begun: done.begun.into_iter().map(Into::into).collect(),
            cursor: done.cursor.into(),
        })
    }
}
