//! A plan of the whole cluster that puts all VMs on as few hosts as can be. It is only looked at; its problem is shown for other
//! solvers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use hiveward_catalogue::{
    host::fleet::need,
    placement::vm::{
        EXACT_VMS_MAX, Exact, Qubo,
        plan::{Annealing, FirstFit, Gap, Problem, Solver},
    },
};
use hiveward_kernel::id::HostId;
use hiveward_runtime::error::{Code, Refused};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::client::ControlPlane;

/// The most moves that are tried after the first packing: they take a second or two of one core.
const MOVES_MAX: u64 = 2_000_000;
/// The number of plans of the whole cluster that are made at once in this process: each takes a core.
static PLANS_AT_ONCE: Semaphore = Semaphore::const_new(1);
const TURN_WITHIN: Duration = Duration::from_secs(5);

/// Waits for the turn to make a plan. Errors: `Busy` if others take too long.
pub(super) async fn turn() -> Result<SemaphorePermit<'static>, Refused> {
    let turn = tokio::time::timeout(TURN_WITHIN, PLANS_AT_ONCE.acquire()).await;
    turn.ok().and_then(Result::ok).ok_or_else(|| {
        let message = "this node is making other plans; try again when they are done";
        Refused::new(Code::Busy, message)
    })
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PackingSolver {
    #[default]
    Annealing,
    FirstFit,
    /// The exact solver, which is for a few VMs alone.
    Exact,
}

impl PackingSolver {
    fn solver(self) -> &'static dyn Solver {
        match self {
            Self::Annealing => &Annealing,
            Self::FirstFit => &FirstFit,
            Self::Exact => &Exact,
        }
    }
}

/// A host with all that a plan puts on it.
#[derive(Clone, Debug)]
pub struct PackedHost {
    pub host: HostId,
    pub name: String,
    /// The VMs by name.
    pub vms: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct PackingPlan {
    pub solver: &'static str,
    pub vms: usize,
    pub hosts: usize,
    /// The number of hosts with a VM on them now.
    pub hosts_used: usize,
    /// The number of hosts below which no plan can go: the scarcer resource alone needs that many.
    pub hosts_least: usize,
    pub hosts_planned: usize,
    /// The number of VMs that the plan has no place for.
    pub unplaced: usize,
    /// The distance to the best plan there is, where that can be worked out.
    pub gap: Option<Gap>,
    pub packed: Vec<PackedHost>,
    /// The problem as a quadratic one, with what each variable stands for; absent if it is too large, or was not asked for.
    pub qubo: Option<(Qubo, Vec<String>)>,
}

impl ControlPlane {
    /// Plans how to pack the VMs of all hosts that take any onto as few of those as can be, by what the VMs were made with and by
    /// the first of the groups that each is kept apart from. Nothing else is considered, and nothing is changed. Errors:
    /// `Invalid` if there is too much for the solver, and `Busy` while other plans are made here.
    pub async fn packing_plan(&self, solver: PackingSolver, with_qubo: bool) -> Result<PackingPlan, Refused> {
        let (problem, names, hosts, hosts_used) = self.house.directory.read(|known| {
            let open = known.fleet.hosts.iter().filter(|(_, entry)| entry.closed().is_none());
            let hosts: Vec<_> = open.map(|(host, entry)| (*host, entry.spec.name.clone(), entry.total())).collect();
            let on: BTreeSet<HostId> = hosts.iter().map(|(host, ..)| *host).collect();
            let mut vms: Vec<_> = known.fleet.vms.iter().filter(|(_, entry)| on.contains(&entry.host)).collect();
            vms.sort_unstable_by_key(|(vm, _)| **vm);
            let mut groups: HashMap<&str, u32> = HashMap::new();
            let mut apart = Vec::with_capacity(vms.len());
            for (_, entry) in &vms {
                let next = u32::try_from(groups.len() + 1).unwrap_or(u32::MAX);
                let group = entry.spec.anti_affinity.first();
                apart.push(group.map_or(0, |group| *groups.entry(group.as_str()).or_insert(next)));
            }
            let problem = Problem {
                vms: vms.iter().map(|(_, entry)| need(&entry.spec)).collect(),
                hosts: hosts.iter().map(|(.., total)| *total).collect(),
                apart,
            };
            let names: Vec<String> = vms.iter().map(|(_, entry)| entry.spec.name.clone()).collect();
            let used: BTreeSet<HostId> = vms.iter().map(|(_, entry)| entry.host).collect();
            (problem, names, hosts, used.len())
        });
        if solver == PackingSolver::Exact && problem.vms.len() > EXACT_VMS_MAX {
            return Err(Refused::invalid(
                "solver",
                format!("EXACT is for {EXACT_VMS_MAX} VMs at most, and there are {}", names.len()),
            ));
        }
        let turn = turn().await?;
        let solved = tokio::task::spawn_blocking(move || {
            // The turn is held also when nobody waits for the plan any more.
            let _turn = turn;
            let way = solver.solver();
            let plan = way.solve(&problem, MOVES_MAX, 0);
            let gap = way.gap(&problem, MOVES_MAX, 0);
            let qubo = with_qubo.then(|| way.qubo(&problem)).flatten();
            (plan, gap, qubo, problem)
        });
        let solved = solved.await.map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        let (Some(plan), gap, qubo, problem) = solved else {
            return Err(Refused::invalid("solver", "there is too much for this one; choose ANNEALING"));
        };
        let host_of = |place: u32| hosts.get(place as usize).map(|(host, name, _)| (*host, name.clone()));
        let mut packed: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for (name, place) in names.iter().zip(&plan.host_of) {
            if let Some(place) = place {
                packed.entry(*place).or_default().push(name.clone());
            }
        }
        let packed = packed.into_iter().filter_map(|(place, vms)| {
            let (host, name) = host_of(place)?;
            Some(PackedHost { host, name, vms })
        });
        Ok(PackingPlan {
            solver: solver.solver().name(),
            vms: names.len(),
            hosts: hosts.len(),
            hosts_used,
            hosts_least: problem.least_hosts(),
            hosts_planned: plan.hosts_used(),
            unplaced: plan.unplaced(),
            gap,
            packed: packed.collect(),
            qubo: qubo.map(|qubo| {
                let hosts: Vec<_> = hosts.iter().map(|(_, name, _)| name.as_str()).collect();
                let names = variables(&qubo, &names, &hosts);
                (qubo, names)
            }),
        })
    }
}

/// Names what each variable stands for: a VM on a host, a host that is used, and what is left on hosts, bit by bit.
fn variables(qubo: &Qubo, vms: &[String], hosts: &[&str]) -> Vec<String> {
    let on = vms.iter().flat_map(|vm| hosts.iter().map(move |host| format!("{vm} on {host}")));
    let mut names: Vec<String> = on.chain(hosts.iter().map(|host| format!("{host} is used"))).collect();
    let rest = qubo.variables.saturating_sub(names.len());
    names.extend((0..rest).map(|bit| format!("rest {bit}")));
    names
}
