//! Reads from the query of its URI how a simulated host behaves.

use std::{collections::BTreeMap, time::Duration};

/// The behaviour of a simulated host; each field may be given in the URI's query.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    pub cpus: u32,
    pub memory_bytes: u64,
    /// The time that each action takes.
    pub action: Duration,
    /// The time that a start takes in addition.
    pub start: Duration,
    /// The time until the guest has heeded the power button.
    pub shutdown: Duration,
    /// Whether the guest ever heeds it.
    pub heeds: bool,
    /// The time that a migration takes.
    pub migrate: Duration,
    /// How busy the guests, which are not really there, pretend to be: what is counted of them goes by it. Nothing is counted
    /// without it.
    pub busy_percent: Option<u64>,
}

impl Manners {
    /// Parses the query of a URI. Errors: a key or a value that a simulated host does not know, in words.
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

/// Checks whether a simulated host can be as this query of its URI says; else the error says why not.
pub fn check(query: &BTreeMap<String, String>) -> Result<(), String> {
    Manners::of(query).map(drop)
}
