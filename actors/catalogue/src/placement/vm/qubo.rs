//! Turns a plan's problem into one for solvers of another kind: quadratic, unconstrained, binary.
//!
//! The rules are penalties: every VM is on one host, and what a host has equals what is on it and what is left, where the rest is
//! counted in powers of two.

use super::{Need, plan::Problem};

/// A plan's problem as a quadratic unconstrained binary one, for solvers of that kind: a variable for each VM on each host,
/// then one for each host that is used. Only what is small is worth it.
#[derive(Clone, Debug, PartialEq)]
pub struct Qubo {
    pub variables: usize,
    /// The terms `(i, j, weight)` with `i <= j`.
    pub terms: Vec<(usize, usize, f64)>,
}

/// A resource, and the unit that it is counted in.
type Column = (fn(&Need) -> i32, i32);

/// The most variables; problems with more are not exported.
pub const QUBO_VARIABLES_MAX: usize = 4_096;

impl Problem {
    /// Returns the problem with its rules as weights: every VM once, no host over its CPU or memory (as slack in powers of two),
    /// as few hosts as can be. `None` if it has too many variables.
    pub fn qubo(&self) -> Option<Qubo> {
        let (vms, hosts) = (self.vms.len(), self.hosts.len());
        let bits = |capacity: i32| (u32::BITS - u32::try_from(capacity.max(0)).unwrap_or(0).leading_zeros()) as usize;
        let slack: usize = self.hosts.iter().map(|host| bits(host.cpu_milli / 1000) + bits(host.memory_mib / 256)).sum();
        let variables = vms * hosts + hosts + slack;
        if variables > QUBO_VARIABLES_MAX {
            return None;
        }
        let mut weights: std::collections::BTreeMap<(usize, usize), f64> = std::collections::BTreeMap::new();
        let mut add = |i: usize, j: usize, weight: f64| *weights.entry((i.min(j), i.max(j))).or_default() += weight;
        let at = |vm: usize, host: usize| vm * hosts + host;
        // More than what any number of hosts saved is worth.
        let penalty = hosts as f64 + 1.0;
        for host in 0..hosts {
            add(vms * hosts + host, vms * hosts + host, 1.0);
        }
        for vm in 0..vms {
            for host in 0..hosts {
                add(at(vm, host), at(vm, host), -penalty);
                for other in host + 1..hosts {
                    add(at(vm, host), at(vm, other), 2.0 * penalty);
                }
            }
        }
        for vm in 0..vms {
            let apart = |other: &usize| self.group(vm) != 0 && self.group(vm) == self.group(*other);
            for other in (vm + 1..vms).filter(apart) {
                (0..hosts).for_each(|host| add(at(vm, host), at(other, host), penalty));
            }
        }
        let mut next = vms * hosts + hosts;
        for host in 0..hosts {
            let columns: [Column; 2] = [(|need| need.cpu_milli, 1000), (|need| need.memory_mib, 256)];
            for (of, unit) in columns {
                let capacity = of(&self.hosts[host]) / unit;
                // Sum of needs + slack - capacity * used = 0, squared.
                let mut row: Vec<(usize, f64)> =
                    (0..vms).map(|vm| (at(vm, host), f64::from((of(&self.vms[vm]) + unit - 1) / unit))).collect();
                for bit in 0..bits(capacity) {
                    row.push((next, f64::from(1_u32 << bit)));
                    next += 1;
                }
                row.push((vms * hosts + host, -f64::from(capacity)));
                for (place, (i, a)) in row.iter().enumerate() {
                    add(*i, *i, penalty * a * a);
                    for (j, b) in &row[place + 1..] {
                        add(*i, *j, 2.0 * penalty * a * b);
                    }
                }
            }
        }
        let terms = weights.into_iter().filter(|(_, weight)| *weight != 0.0).map(|((i, j), weight)| (i, j, weight)).collect();
        Some(Qubo { variables: next, terms })
    }
}
