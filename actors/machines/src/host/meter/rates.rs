//! Turns counters into figures of what was used in a stretch of time. Pure.

use std::time::Duration;

use hiveward_kernel::series;
use hiveward_runtime::clock::WallMs;
use serde::{Deserialize, Serialize};

use super::{MINUTE, VmSample};
use crate::host::driver::Usage;

/// Number of counters: those figures that only grow while a guest runs.
pub(super) const COUNTERS: usize = 5;

/// What was used; what was not measured is absent. Figures have seven digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// CPUs that were busy; 0.5 is half of one.
    pub cpus: Option<f32>,
    /// Bytes of memory that are resident on the host.
    pub memory_bytes: Option<u64>,
    /// Bytes a second.
    pub disk_read: Option<f32>,
    pub disk_written: Option<f32>,
    pub network_received: Option<f32>,
    pub network_sent: Option<f32>,
}

impl Figures {
    /// Returns the figures of a first look, which says nothing but the memory.
    pub(super) fn of_memory(usage: &Usage) -> Self {
        Self { memory_bytes: usage.memory_bytes, ..Self::default() }
    }

    /// Returns the figures of where nothing runs: nothing is used.
    pub(super) fn none_used() -> Self {
        let nothing = Some(0.0);
        Self {
            cpus: nothing,
            memory_bytes: Some(0),
            disk_read: nothing,
            disk_written: nothing,
            network_received: nothing,
            network_sent: nothing,
        }
    }

    /// Adds the figures of another, which may be the first to have any.
    pub(super) fn add(&mut self, other: &Self) {
        let sum = |one: Option<f32>, other: Option<f32>| match (one, other) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
        self.cpus = sum(self.cpus, other.cpus);
        self.disk_read = sum(self.disk_read, other.disk_read);
        self.disk_written = sum(self.disk_written, other.disk_written);
        self.network_received = sum(self.network_received, other.network_received);
        self.network_sent = sum(self.network_sent, other.network_sent);
        self.memory_bytes = match (self.memory_bytes, other.memory_bytes) {
            (Some(one), Some(other)) => Some(one.saturating_add(other)),
            (one, other) => one.or(other),
        };
    }

    const fn row(&self) -> [Option<f32>; COUNTERS] {
        [self.cpus, self.disk_read, self.disk_written, self.network_received, self.network_sent]
    }

    const fn of_row(row: [Option<f32>; COUNTERS], memory_bytes: Option<u64>) -> Self {
        let [cpus, disk_read, disk_written, network_received, network_sent] = row;
        Self { cpus, memory_bytes, disk_read, disk_written, network_received, network_sent }
    }
}

/// A look at one VM.
#[derive(Clone, Copy)]
pub(super) struct Look {
    /// Milliseconds on a clock that never jumps.
    pub mono_ms: u64,
    pub usage: Usage,
}

impl Look {
    const fn counters(&self) -> [Option<u64>; COUNTERS] {
        let Usage { cpu_time_ns, disk_read_bytes, disk_written_bytes, network_received_bytes, network_sent_bytes, .. } =
            self.usage;
        [cpu_time_ns, disk_read_bytes, disk_written_bytes, network_received_bytes, network_sent_bytes]
    }
}

/// What two looks say of the time between them.
pub(super) struct Between {
    pub over_ms: u32,
    pub figures: Figures,
    pub counted: [Option<u64>; COUNTERS],
}

impl Between {
    /// Compares two looks; `None` if they are too far apart, or at once.
    pub(super) fn of(before: &Look, now: &Look, gap_max: Duration) -> Option<Self> {
        let over_ms = u32::try_from(now.mono_ms.checked_sub(before.mono_ms)?).ok().filter(|over_ms| *over_ms > 0)?;
        if Duration::from_millis(over_ms.into()) > gap_max {
            return None;
        }
        let (was, is) = (before.counters(), now.counters());
        // One that went backwards began anew: nothing is known of that stretch.
        let counted: [Option<u64>; COUNTERS] = std::array::from_fn(|at| is[at]?.checked_sub(was[at]?));
        // The first counts billionths of a second.
        let a_second = |at: usize| if at == 0 { 1e9 } else { 1.0 };
        let row = std::array::from_fn(|at| Some((counted[at]? as f64 * 1e3 / f64::from(over_ms) / a_second(at)) as f32));
        Some(Self { over_ms, figures: Figures::of_row(row, now.usage.memory_bytes), counted })
    }
}

/// A sample as it is kept: absent is not a number, so that it takes no more room than what is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub at: WallMs,
    pub over_ms: u32,
    row: [f32; COUNTERS],
    /// Bytes of memory; `u64::MAX` is absent.
    memory_bytes: u64,
}

impl Kept {
    pub(super) fn new(at: WallMs, over_ms: u32, figures: &Figures) -> Self {
        let row = figures.row().map(|figure| figure.unwrap_or(f32::NAN));
        Self { at, over_ms, row, memory_bytes: figures.memory_bytes.unwrap_or(u64::MAX) }
    }

    pub(super) fn figures(&self) -> Figures {
        let row = self.row.map(|figure| Some(figure).filter(|figure| !figure.is_nan()));
        Figures::of_row(row, Some(self.memory_bytes).filter(|bytes| *bytes != u64::MAX))
    }

    pub(super) fn sample(&self) -> VmSample {
        VmSample { at: self.at, over_ms: self.over_ms, used: self.figures() }
    }
}

impl series::Sample for Kept {
    fn at(&self) -> WallMs {
        self.at
    }
}

/// What goes together into the sample of one minute.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Minute {
    number: i64,
    looks: u32,
    over_ms: u32,
    sums: [f64; COUNTERS],
    /// Milliseconds over which each is known.
    covered_ms: [u32; COUNTERS],
    memory_bytes: u128,
    memory_looks: u32,
}

impl Minute {
    /// Adds what ended at this moment; returns the minute before, once another has begun.
    pub(super) fn take(&mut self, at: WallMs, over_ms: u32, figures: &Figures) -> Option<Kept> {
        let minute_ms = i64::try_from(MINUTE.as_millis()).unwrap_or(i64::MAX);
        let number = at.0.div_euclid(minute_ms);
        let before = (number != self.number).then(|| std::mem::replace(self, Self { number, ..Self::default() }).end(minute_ms));
        (self.looks, self.over_ms) = (self.looks + 1, self.over_ms.saturating_add(over_ms));
        for (place, figure) in figures.row().into_iter().enumerate() {
            if let Some(figure) = figure {
                self.sums[place] += f64::from(figure) * f64::from(over_ms);
                self.covered_ms[place] = self.covered_ms[place].saturating_add(over_ms);
            }
        }
        if let Some(bytes) = figures.memory_bytes {
            (self.memory_bytes, self.memory_looks) = (self.memory_bytes + u128::from(bytes), self.memory_looks + 1);
        }
        before.flatten()
    }

    fn end(self, minute_ms: i64) -> Option<Kept> {
        // The one before the first.
        (self.looks > 0).then_some(())?;
        let mean = |at: usize| Some((self.sums[at] / f64::from(self.covered_ms[at])) as f32).filter(|_| self.covered_ms[at] > 0);
        let memory = self.memory_bytes.checked_div(self.memory_looks.into()).and_then(|bytes| u64::try_from(bytes).ok());
        let figures = Figures::of_row(std::array::from_fn(mean), memory);
        let at = WallMs(self.number.saturating_add(1).saturating_mul(minute_ms).saturating_sub(1));
        Some(Kept::new(at, self.over_ms, &figures))
    }
}

/// Returns CPUs and memory on average over these samples; `None` where either was never measured.
pub(super) fn mean<'a>(samples: impl Iterator<Item = &'a Kept>) -> Option<(f32, u64)> {
    let (mut cpu, mut ms, mut memory, mut looks) = (0.0_f64, 0.0_f64, 0.0_f64, 0_u32);
    for sample in samples {
        let figures = sample.figures();
        if let Some(cpus) = figures.cpus {
            (cpu, ms) = (cpu + f64::from(cpus) * f64::from(sample.over_ms), ms + f64::from(sample.over_ms));
        }
        if let Some(bytes) = figures.memory_bytes {
            (memory, looks) = (memory + bytes as f64, looks + 1);
        }
    }
    (ms > 0.0 && looks > 0).then(|| ((cpu / ms) as f32, (memory / f64::from(looks)) as u64))
}
