//! What VMs use of this node's hosts: CPU, memory, disk and network, each VM for itself and all of a host together, now and
//! in the last hour (a VM) or six hours (a host).
//!
//! Owns the series, in memory alone: a host's actor has it take in every look, and after a restart of the node it begins
//! empty, as what was not measured is absent. A hypervisor counts; what is kept is how fast it counted between two looks. A
//! counter that went backwards began anew, so nothing is known of that stretch; one that was not looked at for a while is
//! not spread over the time between. Nothing of it goes through the ledger.

mod rates;

use std::{collections::HashMap, sync::Arc, time::Duration};

use hiveward_kernel::{
    id::{HostId, VmId},
    series::{self, Series},
};
use hiveward_runtime::clock::WallMs;
use parking_lot::Mutex;

pub use rates::Figures;
use serde::{Deserialize, Serialize};

use super::driver::Usage;
use rates::{Between, Kept, Look, Minute};

/// Time between two looks at least; two that are closer are one.
const EVERY_LEAST: Duration = Duration::from_secs(4);
/// Time between two looks at most; two that are further apart say nothing of the time between.
const GAP_MAX: Duration = Duration::from_secs(30);
/// Number of looks that are kept with what each found: the last minute.
const LOOKS_MAX: usize = 12;
/// Number of samples of a VM, one a minute: the last hour.
const VM_MINUTES_MAX: usize = 60;
/// Number of samples of a host, one a minute: the last six hours.
const HOST_MINUTES_MAX: usize = 360;
pub const MINUTE: Duration = Duration::from_secs(60);

/// What one VM used, on average over the stretch that ends `at`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmSample {
    pub at: WallMs,
    pub over_ms: u32,
    pub used: Figures,
}

/// What all VMs of a host used together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostSample {
    pub at: WallMs,
    pub over_ms: u32,
    pub vms_running: u32,
    /// Number of those VMs that `used` is of.
    pub vms_measured: u32,
    /// What they used; absent where some run and none was measured.
    pub used: Figures,
    pub reserved_cpus: f32,
    pub reserved_memory_bytes: u64,
}

/// What a host has of one series, or of its own.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Samples {
    pub vm: Vec<VmSample>,
    pub host: Vec<HostSample>,
}

/// How a host's load was, for a plan.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Loads {
    /// A sample of each minute, oldest first.
    pub minutes: Vec<HostSample>,
    /// CPUs and bytes of memory of each VM that was measured, on average over the last minutes.
    pub vms: HashMap<VmId, (f32, u64)>,
}

/// The newest figures of a host, for machines that watch.
#[derive(Clone, Debug)]
pub struct HostNow {
    pub host: HostId,
    pub last: HostSample,
    /// What its VMs counted since this node looks; absent if nothing of it was measured ever.
    pub cpu_ns: Option<u64>,
    pub disk_read_bytes: Option<u64>,
    pub disk_written_bytes: Option<u64>,
    pub network_received_bytes: Option<u64>,
    pub network_sent_bytes: Option<u64>,
    /// Usage of each VM as the hypervisor counts it.
    pub vms: Vec<(VmId, Usage)>,
}

#[derive(Default)]
struct VmMeter {
    last: Option<Look>,
    looks: Series<Kept, LOOKS_MAX>,
    minutes: Series<Kept, VM_MINUTES_MAX>,
    minute: Minute,
}

impl VmMeter {
    /// Takes in a look, and returns what was used since the look before; `None` if there was none, or too long ago.
    fn take(&mut self, at: WallMs, mono_ms: u64, usage: &Usage) -> Option<Between> {
        let look = Look { mono_ms, usage: *usage };
        let between = self.last.replace(look).and_then(|last| Between::of(&last, &look, GAP_MAX));
        let figures = between.as_ref().map_or_else(|| Figures::of_memory(usage), |between| between.figures);
        let over_ms = between.as_ref().map_or(0, |between| between.over_ms);
        self.looks.push(Kept::new(at, over_ms, &figures));
        if let Some(minute) = self.minute.take(at, over_ms, &figures) {
            self.minutes.push(minute);
        }
        between
    }

    fn heap_bytes(&self) -> usize {
        self.looks.heap_bytes() + self.minutes.heap_bytes()
    }
}

/// Joins two series without an overlap: minutes until the looks begin, then those.
fn joined<'a, T: series::Sample, const A: usize, const B: usize>(
    minutes: &'a Series<T, A>,
    looks: &'a Series<T, B>,
) -> impl Iterator<Item = &'a T> {
    let begin = looks.iter().next().map_or(WallMs(i64::MAX), series::Sample::at);
    minutes.iter().filter(move |minute| minute.at() < begin).chain(looks.iter())
}

#[derive(Default)]
struct HostMeter {
    taken_ms: Option<u64>,
    vms: HashMap<VmId, VmMeter>,
    looks: Series<HostSample, LOOKS_MAX>,
    minutes: Series<HostSample, HOST_MINUTES_MAX>,
    minute: Minute,
    totals: [Option<u64>; rates::COUNTERS],
}

impl series::Sample for HostSample {
    fn at(&self) -> WallMs {
        self.at
    }
}

/// Meters of a node's hosts. Cheap to clone.
#[derive(Clone, Default)]
pub struct Meters(Arc<Mutex<HashMap<HostId, HostMeter>>>);

impl Meters {
    /// Takes in one look at a host: what runs there, and what is reserved (CPUs, bytes). `mono_ms` never jumps. A look that
    /// follows too soon on another is passed over.
    pub fn take<'a>(
        &self,
        host: HostId,
        (at, mono_ms): (WallMs, u64),
        running: impl Iterator<Item = (VmId, &'a Usage)>,
        (reserved_cpus, reserved_memory_bytes): (f32, u64),
    ) {
        let mut all = self.0.lock();
        let meter = all.entry(host).or_default();
        let least_ms = u64::try_from(EVERY_LEAST.as_millis()).unwrap_or(u64::MAX);
        let since = meter.taken_ms.map(|taken| mono_ms.saturating_sub(taken));
        if since.is_some_and(|since| since < least_ms) {
            return;
        }
        meter.taken_ms = Some(mono_ms);
        let (mut used, mut vms_running, mut vms_measured, mut over_ms) = (Figures::default(), 0, 0, 0);
        let mut seen = HashMap::new();
        for (vm, usage) in running {
            vms_running += 1;
            let one = meter.vms.remove(&vm);
            if *usage == Usage::default() {
                // It was not measured this time, as when its QEMU is busy: what was measured before stays.
                seen.extend(one.map(|one| (vm, one)));
                continue;
            }
            let mut one = one.unwrap_or_default();
            let between = one.take(at, mono_ms, usage);
            if let Some(between) = &between {
                over_ms = over_ms.max(between.over_ms);
                for (total, counted) in meter.totals.iter_mut().zip(between.counted) {
                    *total = counted.map(|counted| total.unwrap_or(0).saturating_add(counted)).or(*total);
                }
            }
            let figures = between.map_or_else(|| Figures::of_memory(usage), |between| between.figures);
            used.add(&figures);
            vms_measured += u32::from(figures.cpus.is_some());
            seen.insert(vm, one);
        }
        // VMs that went, or do not run, are begun anew if they come again.
        meter.vms = seen;
        if vms_running == 0 {
            used = Figures::none_used();
        }
        let sample = HostSample { at, over_ms, vms_running, vms_measured, used, reserved_cpus, reserved_memory_bytes };
        meter.looks.push(sample);
        let span = since.and_then(|since| u32::try_from(since).ok()).unwrap_or(0);
        if let Some(minute) = meter.minute.take(at, span, &used) {
            meter.minutes.push(HostSample { at: minute.at, over_ms: minute.over_ms, used: minute.figures(), ..sample });
        }
    }

    /// Forgets hosts that are not of this node any more.
    pub fn keep(&self, is_here: impl Fn(HostId) -> bool) {
        self.0.lock().retain(|host, _| is_here(*host));
    }

    /// Returns the samples of a VM, or of all VMs of a host together, oldest first and thinned to `points`: the last minute by
    /// looks, what is older by minutes.
    pub fn samples(&self, host: HostId, vm: Option<VmId>, window: (WallMs, WallMs), points: usize) -> Samples {
        let all = self.0.lock();
        let Some(meter) = all.get(&host) else { return Samples::default() };
        match vm {
            Some(vm) => {
                let Some(one) = meter.vms.get(&vm) else { return Samples::default() };
                let kept = series::between(joined(&one.minutes, &one.looks), window, points);
                Samples { vm: kept.into_iter().map(Kept::sample).collect(), host: Vec::new() }
            }
            None => {
                let kept = series::between(joined(&meter.minutes, &meter.looks), window, points);
                Samples { vm: Vec::new(), host: kept.into_iter().copied().collect() }
            }
        }
    }

    /// Returns the samples of the minutes since then, with the present one, and what each VM used on average in the last
    /// `window`.
    pub fn loads(&self, host: HostId, since: WallMs, now: WallMs, window: Duration) -> Loads {
        let all = self.0.lock();
        let Some(meter) = all.get(&host) else { return Loads::default() };
        let minutes = meter.minutes.iter().chain(meter.looks.last()).filter(|sample| sample.at >= since).copied().collect();
        let begin = WallMs(now.0.saturating_sub(i64::try_from(window.as_millis()).unwrap_or(i64::MAX)));
        let mean = |one: &VmMeter| rates::mean(joined(&one.minutes, &one.looks).filter(|kept| kept.at >= begin));
        let vms = meter.vms.iter().filter_map(|(vm, one)| Some((*vm, mean(one)?))).collect();
        Loads { minutes, vms }
    }

    /// Returns the newest figures of each host for which `is_here` says yes and that was looked at.
    pub fn now(&self, is_here: impl Fn(HostId) -> bool) -> Vec<HostNow> {
        let all = self.0.lock();
        let of = |(host, meter): (&HostId, &HostMeter)| {
            let [cpu_ns, disk_read_bytes, disk_written_bytes, network_received_bytes, network_sent_bytes] = meter.totals;
            let vms = meter.vms.iter().filter_map(|(vm, one)| Some((*vm, one.last.as_ref()?.usage))).collect();
            Some(HostNow {
                host: *host,
                last: *meter.looks.last()?,
                cpu_ns,
                disk_read_bytes,
                disk_written_bytes,
                network_received_bytes,
                network_sent_bytes,
                vms,
            })
        };
        all.iter().filter(|(host, _)| is_here(**host)).filter_map(of).collect()
    }

    /// Returns the bytes of memory that all takes that is kept here.
    pub fn bytes(&self) -> usize {
        let all = self.0.lock();
        let one = |vm: &VmMeter| size_of::<(VmId, VmMeter)>() + vm.heap_bytes();
        let of = |meter: &HostMeter| {
            let vms: usize = meter.vms.values().map(one).sum();
            size_of::<HostMeter>() + meter.looks.heap_bytes() + meter.minutes.heap_bytes() + vms
        };
        all.values().map(of).sum()
    }
}

#[cfg(test)]
mod tests;
