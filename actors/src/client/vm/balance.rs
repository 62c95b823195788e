//! Making hosts more even: a plan that is only looked at, and the same plan begun.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use hiveward_access::{resource::ResourceKind, verb::Verb};
use hiveward_catalogue::{
    host::{
        fleet::Fleet,
        placing::{self, About, Basis},
    },
    placement::vm::{
        PlacementStrategy, Reject, Strategy,
        rebalance::{self, Amount, Cluster, Fill, Moment, Rebalance, Rules, Stays},
    },
};
use hiveward_kernel::{
    id::{HostId, VmId},
    operation::Operation,
};
use hiveward_machines::{
    host::{
        message::asks as host,
        meter::{HostSample, Loads, MINUTE},
    },
    vm::{
        event::{OperationKind, Outcome},
        migrate::{LIMIT_MS_DEFAULT, Limit, Move},
        record::VmRecord,
        state::Ask,
        table::VmFilter,
    },
};
use hiveward_runtime::{
    clock::{Deadline, WallMs},
    error::{Code, Refused},
    ledger::Cursor,
    op::Op,
};

use super::pack;
use crate::client::access::Sought;
use crate::client::{ControlPlane, command::operation};

/// The longest time that an imbalance may have to last: hosts' minutes are kept no longer.
pub const HOLD_MAX: Duration = Duration::from_secs(6 * 3_600);
const COOL_DOWN_MAX: Duration = Duration::from_secs(7 * 86_400);
const PAYS_WITHIN_MAX: Duration = Duration::from_secs(30 * 86_400);
/// The most moves of one plan.
pub const MOVES_MAX: usize = 256;
/// The time over which what is used is averaged, so that a moment's work moves nothing.
const USED_OVER: Duration = Duration::from_secs(300);
const LOADS_WITHIN: Duration = Duration::from_secs(2);
/// The time after the end of a minute until every host has looked once more.
const SETTLES_WITHIN: Duration = Duration::from_secs(15);

/// The rules that say when hosts are made more even, and by what.
#[derive(Clone, Debug, PartialEq)]
pub struct BalanceRules {
    pub strategy: Strategy,
    pub basis: Basis,
    pub rules: Rules,
    /// How long the imbalance must have lasted.
    pub hold: Duration,
    /// How long a VM that moved stays where it is.
    pub cool_down: Duration,
}

impl Default for BalanceRules {
    fn default() -> Self {
        Self {
            strategy: Strategy::Spread,
            basis: Basis::Reserved,
            rules: Rules::default(),
            hold: Duration::from_secs(300),
            cool_down: Duration::from_secs(1_800),
        }
    }
}

/// A move with the names of what it moves.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedMove {
    pub step: rebalance::Move,
    pub vm_name: String,
    pub from_name: String,
    pub to_name: String,
}

/// A plan with all that it was made of.
#[derive(Clone, Debug)]
pub struct BalanceView {
    pub at: WallMs,
    pub rules: BalanceRules,
    pub plan: Rebalance,
    pub moves: Vec<PlannedMove>,
    pub names: BTreeMap<HostId, String>,
    /// Hosts that take no part, and the reasons.
    pub apart: Vec<(HostId, Reject)>,
    /// How long the imbalance has been over the threshold, in whole minutes and as far as is kept.
    pub held: Duration,
    /// Whether the moves may begin now.
    pub due: bool,
    /// The reason why they may not, or why there are none.
    pub why: Option<String>,
}

/// A migration that was asked for.
#[derive(Clone, Debug)]
pub struct Begun {
    pub vm: VmId,
    pub vm_name: String,
    pub from: HostId,
    pub to: HostId,
    /// The number of the VM's operation, or the reason why it would not.
    pub operation: Result<u64, Refused>,
}

/// The outcome of asking for a rebalancing.
#[derive(Clone, Debug)]
pub struct Rebalanced {
    /// The plan that was begun. It is absent when this operation id was used before: then `begun` is what was begun under it.
    pub plan: Option<Box<BalanceView>>,
    pub begun: Vec<Begun>,
    pub cursor: Cursor,
}

fn check(rules: &BalanceRules) -> Result<(), Refused> {
    let share = |field: &str, given: f32, least: f32| {
        let fine = (least..=1.0).contains(&given);
        if fine { Ok(()) } else { Err(Refused::invalid(field, format!("{least} to 1, where 1 is a whole host"))) }
    };
    let within = |field: &str, given: Duration, least: Duration, most: Duration| {
        let fine = (least..=most).contains(&given);
        let (least, most) = (least.as_millis(), most.as_millis());
        if fine { Ok(()) } else { Err(Refused::invalid(field, format!("{least} to {most} milliseconds"))) }
    };
    if rules.strategy == Strategy::Pack {
        return Err(Refused::invalid("strategy", "packed hosts are uneven on purpose: choose SPREAD or WEIGHTED"));
    }
    share("threshold", rules.rules.threshold, 0.0)?;
    share("margin", rules.rules.margin, 0.001)?;
    within("holdMs", rules.hold, Duration::ZERO, HOLD_MAX)?;
    within("coolDownMs", rules.cool_down, Duration::ZERO, COOL_DOWN_MAX)?;
    within("paysWithinMs", rules.rules.pays_within, Duration::from_secs(1), PAYS_WITHIN_MAX)?;
    if rules.rules.copy_bytes_per_s == 0 {
        return Err(Refused::invalid("bandwidthMib", "at least 1"));
    }
    if !(1..=MOVES_MAX).contains(&rules.rules.moves_max) {
        return Err(Refused::invalid("movesMax", format!("1 to {MOVES_MAX}")));
    }
    Ok(())
}

/// Returns what the VM itself says of being moved.
fn about(record: &VmRecord) -> About {
    let state = &record.state;
    let stays = if !state.is_on() {
        Some(Stays::Off)
    } else if state.active().is_some() {
        Some(Stays::Busy)
    } else if !state.snapshots.is_empty() {
        Some(Stays::Snapshots)
    } else {
        None
    };
    let dirty_bytes_per_s = state.operations.iter().rev().find_map(|operation| operation.measured.as_ref()?.dirty_bytes);
    About { stays, dirty_bytes_per_s, used: None }
}

/// Returns how full a host was then, measured against what it has now.
fn fill(sample: &HostSample, basis: Basis, now: Fill) -> Option<Fill> {
    let mib = |bytes: u64| bytes as f32 / 1_048_576.0;
    let (cpus, bytes) = match basis {
        Basis::Reserved => (sample.reserved_cpus, sample.reserved_memory_bytes),
        Basis::Used => (sample.used.cpus?, sample.used.memory_bytes?),
    };
    Some(Fill { taken: Amount { cpu_milli: cpus * 1e3, memory_mib: mib(bytes) }, of: now.of })
}

impl ControlPlane {
    /// Plans which moves would make hosts more even now, with what each gains and costs, how full every host would be after them,
    /// and whether they are due. Changes nothing. Errors: `Invalid` with the field, and `Busy` while other plans are made here.
    pub async fn rebalance_plan(&self, rules: BalanceRules) -> Result<BalanceView, Refused> {
        check(&rules)?;
        let now = self.house.clock.now();
        let loads = self.loads(now, rules.hold).await;
        let mut known: HashMap<VmId, About> = HashMap::new();
        for (_, record) in self.house.machines.vms.page(&VmFilter::default(), None, usize::MAX, |_| ())?.items {
            known.insert(record.spec.id, about(&record));
        }
        for (vm, used) in loads.values().flat_map(|loads| &loads.vms) {
            if let Some(about) = known.get_mut(vm) {
                about.used = Some(*used);
            }
        }
        // The directory is not held meanwhile, nor is a thread that others wait for.
        let (fleet, turn) = (self.house.directory.read(|known| known.fleet.clone()), pack::turn().await?);
        let drawn = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            draw(&fleet, now, rules, &loads, &known)
        });
        drawn.await.map_err(|error| Refused::new(Code::Internal, error.to_string()))
    }

    /// Begins the moves as planned now, by ordinary live migrations, if that is due. Each VM says itself whether it goes, and a
    /// host sends only a few at a time. Repeating it under the same operation id begins nothing more.
    pub async fn rebalance(&self, op: Op, rules: BalanceRules) -> Result<Rebalanced, Refused> {
        let op = self.may(op, Verb::Rebalance, Sought::Cluster(ResourceKind::Cluster)).await?;
        self.takes_writes()?;
        check(&rules)?;
        // After this, what was begun under the operation id is in the views.
        self.settled(&op).await?;
        if let Some(begun) = self.begun_before(&op, &rules)? {
            return Ok(Rebalanced { plan: None, begun, cursor: self.head() });
        }
        let plan = self.rebalance_plan(rules).await?;
        let (mut begun, mut cursor) = (Vec::new(), self.head());
        let now = plan.moves.iter().filter(|planned| plan.due && !planned.step.waits);
        for PlannedMove { step, vm_name, .. } in now {
            let asked = Move {
                from: step.from,
                to: Some(step.to),
                live: true,
                bandwidth_mib: None,
                limit_ms: LIMIT_MS_DEFAULT,
                at_limit: Limit::Abort,
            };
            let ask = Ask {
                migration: Some(Box::new(asked)),
                ..Ask::new(OperationKind::Migrate, op.principal.clone(), of_one(&op, &plan.rules, step.vm))
            };
            // A VM that will not go keeps no other from going.
            let operation = self.ask_vm(&op, step.vm, ask).await;
            if let Ok(asked) = &operation {
                cursor = cursor.max(asked.cursor);
            }
            let operation = operation.map(|asked| asked.value);
            begun.push(Begun { vm: step.vm, vm_name: vm_name.clone(), from: step.from, to: step.to, operation });
        }
        self.seen(&op, cursor).await?;
        Ok(Rebalanced { plan: Some(Box::new(plan)), begun, cursor })
    }

    /// Returns what was begun under this operation id; `None` if it was not used yet.
    fn begun_before(&self, op: &Op, rules: &BalanceRules) -> Result<Option<Vec<Begun>>, Refused> {
        if op.operation.is_none() {
            return Ok(None);
        }
        let mut begun = Vec::new();
        for (_, record) in self.house.machines.vms.page(&VmFilter::default(), None, usize::MAX, |_| ())?.items {
            let vm = record.spec.id;
            let Some(mine) = of_one(op, rules, vm) else { continue };
            let same = |operation: &&hiveward_machines::vm::state::VmOperation| {
                operation.operation.as_ref().is_some_and(|operation| operation.id == mine.id)
            };
            let Some(found) = record.state.operations.iter().find(same) else { continue };
            if found.operation.as_ref() != Some(&mine) {
                return Err(Refused {
                    code: Code::Conflict,
                    message: "this operation id was used before with other rules; choose a new one".into(),
                    field: Some("operationId".into()),
                });
            }
            let Some(asked) = &found.migration else { continue };
            let failed = match &found.ended {
                Some((_, Outcome::Failed { message })) => Err(Refused::new(Code::Refused, message.clone())),
                _ => Ok(found.number),
            };
            let to = asked.to.unwrap_or(record.host);
            begun.push(Begun { vm, vm_name: record.spec.name.clone(), from: asked.from, to, operation: failed });
        }
        Ok(Some(begun).filter(|begun| !begun.is_empty()))
    }

    /// Asks every host for its load; a host that does not answer soon counts as one of which nothing is known.
    async fn loads(&self, now: WallMs, hold: Duration) -> HashMap<HostId, Loads> {
        let back = hold + 3 * MINUTE;
        let since = WallMs(now.0.saturating_sub(i64::try_from(back.as_millis()).unwrap_or(i64::MAX)));
        let window_ms = u64::try_from(USED_OVER.as_millis()).unwrap_or(u64::MAX);
        let open: Vec<HostId> = self.house.directory.read(|known| {
            known.fleet.hosts.iter().filter(|(_, entry)| entry.closed().is_none()).map(|(host, _)| *host).collect()
        });
        let deadline = Deadline::after(LOADS_WITHIN);
        let asked = open.into_iter().map(|host| async move {
            let loads = self.ask(deadline, host, host::Loads { since, window_ms }).await;
            // Nothing is known of it: no past, and nothing measured.
            (host, loads.unwrap_or_default())
        });
        futures_util::future::join_all(asked).await.into_iter().collect()
    }
}

/// Returns the operation of one VM within a client's.
fn of_one(op: &Op, rules: &BalanceRules, vm: VmId) -> Option<Operation> {
    let id = format!("{}:{vm}", op.operation.as_deref()?);
    operation(&Op { operation: Some(id.as_str().into()), ..op.clone() }, &("rebalance", rules))
}

fn draw(
    fleet: &Fleet,
    now: WallMs,
    rules: BalanceRules,
    loads: &HashMap<HostId, Loads>,
    about: &HashMap<VmId, About>,
) -> BalanceView {
    // Nothing is known of a VM that the views do not have yet.
    let unknown = About { stays: Some(Stays::Busy), ..About::default() };
    let about = |vm: VmId| about.get(&vm).copied().unwrap_or(unknown);
    let scene = placing::scene(fleet, rules.basis, now, rules.cool_down, about);
    let bars = |from: HostId, to: HostId| placing::bars(fleet.hosts.get(&from)?, fleet.hosts.get(&to)?);
    let cluster = Cluster { hosts: &scene.hosts, fills: &scene.fills, tenants: &scene.tenants, bars: &bars };
    let plan = rules.strategy.rebalance(&cluster, &rules.rules);
    let load_of = |cpu: f32, memory: f32| rules.strategy.load(cpu, memory);
    let moments = moments(fleet, &scene.fills, now, &rules, loads);
    let held = rebalance::held(&moments, MINUTE, rules.rules.threshold, &load_of);
    let names: BTreeMap<HostId, String> = fleet.hosts.iter().map(|(host, entry)| (*host, entry.spec.name.clone())).collect();
    let name = |host: HostId| names.get(&host).cloned().unwrap_or_else(|| host.to_string());
    let moves = plan.moves.iter().map(|step| PlannedMove {
        step: *step,
        vm_name: fleet.vms.get(&step.vm).map_or_else(|| step.vm.to_string(), |entry| entry.spec.name.clone()),
        from_name: name(step.from),
        to_name: name(step.to),
    });
    let moves: Vec<_> = moves.collect();
    let points = |share: f32| format!("{:.1} %", f64::from(share) * 100.0);
    let over = format!("the fullest host is {} above the mean of {}", points(plan.imbalance), points(plan.mean));
    let limit = points(rules.rules.threshold);
    let why = if plan.imbalance <= rules.rules.threshold {
        Some(format!("{over}, which the threshold of {limit} allows"))
    } else if plan.moves.is_empty() {
        let reasons: Vec<_> = plan.stay.iter().map(|(stays, vms)| format!("{vms} {}", stays.words())).collect();
        let reasons = if reasons.is_empty() { "nothing is on it that could move".into() } else { reasons.join(", ") };
        Some(format!("{over}, and no move helps: of the VMs there {reasons}"))
    } else if held < rules.hold {
        let minutes = |time: Duration| time.as_secs_f64() / 60.0;
        Some(format!("{over}, for {:.0} minutes as far as is known: it must last for {:.0}", minutes(held), minutes(rules.hold)))
    } else {
        None
    };
    BalanceView { at: now, due: why.is_none(), moves, names, apart: scene.apart, held, why, plan, rules }
}

/// Returns how full hosts were in each of the whole minutes that are over, the newest first.
fn moments(
    fleet: &Fleet,
    fills: &[Option<Fill>],
    now: WallMs,
    rules: &BalanceRules,
    loads: &HashMap<HostId, Loads>,
) -> Vec<Moment> {
    let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let minute = |at: WallMs| at.0.div_euclid(ms(MINUTE));
    let newest = minute(WallMs(now.0.saturating_sub(ms(SETTLES_WITHIN)))) - 1;
    let count = usize::try_from(rules.hold.as_millis().div_ceil(MINUTE.as_millis())).unwrap_or(0) + 1;
    let mut moments = vec![Moment::new(); count];
    for (host, now) in fleet.hosts.keys().zip(fills).filter_map(|(host, fill)| Some((host, (*fill)?))) {
        let Some(loads) = loads.get(host) else { continue };
        for sample in &loads.minutes {
            let place = usize::try_from(newest - minute(sample.at)).ok().and_then(|ago| moments.get_mut(ago));
            let (Some(moment), Some(fill)) = (place, fill(sample, rules.basis, now)) else { continue };
            moment.insert(*host, fill);
        }
    }
    moments
}
