//! The two clocks: wall time for people and records, monotonic time for every deadline and lease.
//!
//! Wall time may jump in either direction; nothing that decides who may act is computed from it.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01 UTC, as shown to people and stored in records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallMs(pub i64);

impl WallMs {
    pub fn now() -> Self {
        Self(jiff::Timestamp::now().as_millisecond())
    }

    /// How long after `earlier` this is; zero if the clock went backwards in between.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl std::fmt::Display for WallMs {
    /// RFC 3339 in UTC, with milliseconds.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

/// Where an actor reads wall time from, so that a test can set it.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    #[default]
    System,
    /// A hand-set clock for tests.
    Manual(Arc<std::sync::atomic::AtomicI64>),
}

impl Clock {
    pub fn now(&self) -> WallMs {
        match self {
            Self::System => WallMs::now(),
            Self::Manual(ms) => WallMs(ms.load(std::sync::atomic::Ordering::Relaxed)),
        }
    }
}

/// The monotonic instant by which an answer is wanted. It shrinks along the way: pass it on, never a fresh timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(tokio::time::Instant);

impl Deadline {
    pub fn after(duration: Duration) -> Self {
        Self(tokio::time::Instant::now() + duration)
    }

    /// Zero once it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(tokio::time::Instant::now())
    }

    pub fn passed(self) -> bool {
        self.remaining().is_zero()
    }

    pub fn instant(self) -> tokio::time::Instant {
        self.0
    }

    /// The earlier of this and `duration` from now.
    pub fn at_most(self, duration: Duration) -> Self {
        Self(self.0.min(tokio::time::Instant::now() + duration))
    }
}
