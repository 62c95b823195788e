//! How a simulated host behaves, as the query of its URI says.

use std::{collections::BTreeMap, time::Duration};

/// How it behaves; each may be given in the URI's query.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    pub cpus: u32,
    pub memory_bytes: u64,
    /// Of each action.
    pub action: Duration,
    /// Of a start, in addition.
    pub start: Duration,
    /// Until the guest has heeded the power button.
    pub shutdown: Duration,
    /// Whether it ever does.
    pub heeds: bool,
    /// Of a migration.
    pub migrate: Duration,
    /// How busy guests are that there are not: what is counted of them goes by it. Nothing is counted without it.
    pub busy_percent: Option<u64>,
}

impl Manners {
    pub fn of(query: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut manners = Self {
            cpus: 64,
            memory_bytes: 256 << 30,
            action: Duration::from_millis(1),
            start: Duration::from_millis(20),
            shutdown: Duration::from_millis(50),
            heeds: true,
            migrate: Duration::from_millis(50),
            busy_percent: None,
        };
        for (key, value) in query {
            let bad = || {
                let known =
                    "cpus, memoryGiB, actionMs, startMs, shutdownMs, migrateMs, busyPercent (numbers) and heeds (true or false)";
                format!("{key}={value} is nothing that a simulated host knows; there are {known}")
            };
            let number = || value.parse::<u64>().map_err(|_| bad());
            match key.as_str() {
                "cpus" => manners.cpus = value.parse().map_err(|_| bad())?,
                "memoryGiB" => manners.memory_bytes = number()? << 30,
                "actionMs" => manners.action = Duration::from_millis(number()?),
                "startMs" => manners.start = Duration::from_millis(number()?),
                "shutdownMs" => manners.shutdown = Duration::from_millis(number()?),
                "migrateMs" => manners.migrate = Duration::from_millis(number()?),
                "busyPercent" => manners.busy_percent = Some(number()?.min(100)),
                "journal" => {}
                "heeds" => manners.heeds = value.parse().map_err(|_| bad())?,
                _ => return Err(bad()),
            }
        }
        Ok(manners)
    }
}

/// Whether a simulated host can be as this query of its URI says; else why not.
pub fn check(query: &BTreeMap<String, String>) -> Result<(), String> {
    Manners::of(query).map(drop)
}
