//! Says what a strategy decides. Pure.

use hiveward_kernel::id::{HostId, VmId};

use super::{
    Decision, Engine, Hosts, Need, Reject, Strategy, Wish,
    rebalance::{self, Cluster, Rebalance, Rules},
};

/// A VM that is to leave its host.
#[derive(Clone, Copy, Debug)]
pub struct Leaving<'a> {
    pub vm: VmId,
    pub wish: Wish<'a>,
    /// Whether it goes only where the same disks are.
    pub keeps_disks: bool,
}

/// A strategy answers three questions: where one VM goes, where all of a host go, and which moves make hosts more even.
pub trait PlacementStrategy {
    /// Returns a VM's wish as this strategy reads it.
    fn reads<'a>(&self, wish: &Wish<'a>) -> Wish<'a>;

    /// Returns the best host's position and the decision to be kept, or the sentence that says why there is none. The engine
    /// keeps the whole trace.
    fn select(&self, engine: &mut Engine, hosts: &Hosts, wish: &Wish<'_>) -> Result<(usize, Decision), String> {
        engine.decide(hosts, &self.reads(wish))
    }

    /// Says where each of `leaving`, all on `from`, goes when they leave one after another, the largest first; or why nowhere.
    fn evacuate(&self, hosts: &Hosts, from: HostId, leaving: &[Leaving<'_>]) -> Vec<(VmId, Result<Decision, String>)> {
        let mut after = hosts.clone();
        let here = after.position(from);
        if let Some(here) = here {
            after.close(here, Reject::Own);
        }
        let mut order: Vec<_> = leaving.iter().collect();
        order.sort_unstable_by_key(|leaving| {
            let Need { cpu_milli, memory_mib } = leaving.wish.need;
            (std::cmp::Reverse(memory_mib), std::cmp::Reverse(cpu_milli), leaving.vm)
        });
        let mut engine = Engine::default();
        let place = |leaving: &Leaving<'_>| {
            // As the roster asks it: what it has on its host does not count against it.
            let wish = Wish { pin: None, ..leaving.wish };
            let other_disks = here.filter(|_| leaving.keeps_disks).map(|here| {
                let elsewhere: Vec<_> =
                    (0..after.len()).filter(|at| after.is_open(*at) && !after.share_disks(here, *at)).collect();
                for at in &elsewhere {
                    after.close(*at, Reject::Disks);
                }
                elsewhere
            });
            if let Some(here) = here {
                after.give_back(here, wish.need, wish.groups());
            }
            let placed = self.select(&mut engine, &after, &wish);
            for at in other_disks.into_iter().flatten() {
                after.close(at, Reject::None);
            }
            let placed = match placed {
                Ok((at, decision)) => {
                    after.take(at, wish.need, wish.groups());
                    Ok(decision)
                }
                Err(why) => {
                    if let Some(here) = here {
                        after.take(here, wish.need, wish.groups());
                    }
                    Err(why)
                }
            };
            (leaving.vm, placed)
        };
        order.into_iter().map(place).collect()
    }

    /// Returns how full a host is, by the shares of its CPU and its memory that are taken; 1 is full.
    fn load(&self, cpu: f32, memory: f32) -> f32;

    /// Returns the moves that make hosts more even, what each is worth and costs, and how full every host is after them.
    fn rebalance(&self, cluster: &Cluster<'_>, rules: &Rules) -> Rebalance {
        rebalance::plan(cluster, rules, &|cpu, memory| self.load(cpu, memory))
    }
}

/// The strategy that reads every VM's wish in the same way, whatever the VM was made with.
impl PlacementStrategy for Strategy {
    fn reads<'a>(&self, wish: &Wish<'a>) -> Wish<'a> {
        Wish { strategy: *self, ..*wish }
    }

    fn load(&self, cpu: f32, memory: f32) -> f32 {
        match self {
            // What is scarcer is what a host is full by, whether that is wanted or not.
            Self::Spread | Self::Pack => cpu.max(memory),
            Self::Weighted => {
                let weights = super::Weights::default();
                weights.cpu * cpu + weights.memory * memory + weights.balance * (cpu - memory).abs()
            }
        }
    }

    fn rebalance(&self, cluster: &Cluster<'_>, rules: &Rules) -> Rebalance {
        match self {
            Self::Spread | Self::Weighted => rebalance::plan(cluster, rules, &|cpu, memory| self.load(cpu, memory)),
            // What is packed is uneven on purpose.
            Self::Pack => rebalance::plan(cluster, &Rules { moves_max: 0, ..*rules }, &|cpu, memory| self.load(cpu, memory)),
        }
    }
}

/// The strategy by which each VM goes as it was made to go.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsWished;

impl PlacementStrategy for AsWished {
    fn reads<'a>(&self, wish: &Wish<'a>) -> Wish<'a> {
        *wish
    }

    fn load(&self, cpu: f32, memory: f32) -> f32 {
        Strategy::Spread.load(cpu, memory)
    }
}
