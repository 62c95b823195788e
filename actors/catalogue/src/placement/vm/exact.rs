//! Finds the best plan there is, by trying everything that could be better: what other solvers are held against.

use super::{
    Need,
    plan::{Plan, Problem, Solver},
};

/// The most VMs of a problem; more are too many to try everything.
pub const EXACT_VMS_MAX: usize = 10;
/// The most steps of a search, so that no odd case takes for ever.
const STEPS_MAX: u64 = 20_000_000;

/// A solver that tries everything, the largest VM first, and leaves out what cannot be better than what was found. It wants as
/// few VMs without a place as can be, and then as few hosts.
pub struct Exact;

impl Solver for Exact {
    fn name(&self) -> &'static str {
        "exact"
    }

    fn solve(&self, problem: &Problem, _: u64, _: u64) -> Option<Plan> {
        if problem.vms.len() > EXACT_VMS_MAX {
            return None;
        }
        let mut order: Vec<usize> = (0..problem.vms.len()).collect();
        order.sort_by_key(|vm| {
            let Need { cpu_milli, memory_mib } = problem.vms[*vm];
            std::cmp::Reverse(i64::from(cpu_milli) * i64::from(memory_mib))
        });
        let mut search = Search {
            problem,
            order,
            free: problem.hosts.clone(),
            on: vec![Vec::new(); problem.hosts.len()],
            host_of: vec![None; problem.vms.len()],
            best: None,
            steps: 0,
        };
        search.go(0, 0, 0);
        (search.steps < STEPS_MAX).then_some(())?;
        search.best.map(|(_, host_of)| Plan { host_of })
    }
}

type HostOf = Vec<Option<u32>>;

struct Search<'a> {
    problem: &'a Problem,
    order: Vec<usize>,
    free: Vec<Need>,
    on: Vec<Vec<usize>>,
    host_of: HostOf,
    /// The number of VMs without a place and of hosts in use, with the plan.
    best: Option<((usize, usize), HostOf)>,
    steps: u64,
}

impl Search<'_> {
    fn go(&mut self, next: usize, unplaced: usize, used: usize) {
        self.steps += 1;
        // Neither number ever falls.
        let no_better = self.best.as_ref().is_some_and(|(best, _)| (unplaced, used) >= *best);
        if no_better || self.steps >= STEPS_MAX {
            return;
        }
        let Some(vm) = self.order.get(next).copied() else {
            self.best = Some(((unplaced, used), self.host_of.clone()));
            return;
        };
        let (need, group) = (self.problem.vms[vm], self.problem.group(vm));
        let mut empty_tried: Vec<Need> = Vec::new();
        for host in 0..self.free.len() {
            let free = self.free[host];
            let apart = group == 0 || !self.on[host].iter().any(|other| self.problem.group(*other) == group);
            if need.cpu_milli > free.cpu_milli || need.memory_mib > free.memory_mib || !apart {
                continue;
            }
            let is_empty = self.on[host].is_empty();
            // Of empty hosts that are alike one stands for all.
            if is_empty && empty_tried.contains(&free) {
                continue;
            }
            if is_empty {
                empty_tried.push(free);
            }
            self.free[host] = Need { cpu_milli: free.cpu_milli - need.cpu_milli, memory_mib: free.memory_mib - need.memory_mib };
            self.on[host].push(vm);
            self.host_of[vm] = u32::try_from(host).ok();
            self.go(next + 1, unplaced, used + usize::from(is_empty));
            self.host_of[vm] = None;
            self.on[host].pop();
            self.free[host] = free;
        }
        self.go(next + 1, unplaced + 1, used);
    }
}
