//! What all benches share: one line per figure with its unit, and a JSON file beside it.

pub mod nodes;
pub mod remote;
#[cfg(feature = "node")]
pub mod served;
pub mod wire;

use std::{
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

/// A bench's figures: printed as they come, kept in `target/bench/NAME.json` at the end.
pub struct Figures {
    name: &'static str,
    rows: Vec<serde_json::Value>,
}

impl Figures {
    pub fn new(name: &'static str) -> Self {
        Self { name, rows: Vec::new() }
    }

    /// `compare` says what it is to be held against: a goal, or another program in this same run.
    pub fn row(&mut self, what: &str, value: f64, unit: &str, compare: &str) {
        println!("{what:<58} {value:>14.3} {unit:<12} {compare}");
        self.rows.push(serde_json::json!({"what": what, "value": value, "unit": unit, "compare": compare}));
    }

    /// Writes the file; says where.
    pub fn write(self) -> std::io::Result<()> {
        let dir = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from)
            .join("bench");
        std::fs::create_dir_all(&dir)?;
        let path = dir.join(format!("{}.json", self.name));
        std::fs::write(&path, serde_json::to_vec_pretty(&self.rows)?)?;
        println!("figures are in {}", path.display());
        Ok(())
    }
}

/// The value below which `share` of the sorted times lie.
pub fn percentile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    times.get(((last as f64) * share).round() as usize).copied().unwrap_or_default()
}

/// How many `fdatasync` of 4 KiB appends a second this disk does now: what every durable figure is held against.
pub fn fdatasync_per_second(dir: &std::path::Path, during: Duration) -> std::io::Result<f64> {
    let path = dir.join("fdatasync-probe");
    let mut file = std::fs::File::create(&path)?;
    let block = [7_u8; 4096];
    let (begun, mut count) = (Instant::now(), 0_u32);
    while begun.elapsed() < during {
        file.write_all(&block)?;
        file.sync_data()?;
        count += 1;
    }
    let rate = f64::from(count) / begun.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}

/// What this process holds in memory now.
pub fn resident_mb() -> std::io::Result<f64> {
    resident_mb_of("self")
}

/// What a process holds in memory now; `self` is this one.
pub fn resident_mb_of(pid: &str) -> std::io::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| std::io::Error::other("no VmRSS in its status"))
}

/// Of the machine, over one minute: other work slows what is measured.
pub fn load() -> std::io::Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    text.split(' ').next().and_then(|load| load.parse().ok()).ok_or_else(|| std::io::Error::other("/proc/loadavg reads oddly"))
}

pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
