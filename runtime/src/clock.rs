//! The two clocks: wall time for people and records, monotonic time for every deadline and lease.
//!
//! Wall time may jump in either direction; nothing that decides who may act is computed from it.

mod boot;

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

pub use boot::{BootClock, BootTime};

/// Milliseconds since 1970-01-01 UTC, as shown to people and stored in records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallMs(pub i64);

impl WallMs {
    /// Returns the machine's wall time now.
    pub fn now() -> Self {
        Self(jiff::Timestamp::now().as_millisecond())
    }

    /// Returns how long after `earlier` this is; zero if the clock went backwards in between.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Returns the time `duration` later; it stops at the largest time there is.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl std::fmt::Display for WallMs {
    /// Writes RFC 3339 in UTC, with milliseconds.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

/// The place where an actor reads wall time, so that a test can set it.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    #[default]
    System,
    /// A hand-set clock for tests.
    Manual(Arc<std::sync::atomic::AtomicI64>),
}

impl Clock {
    /// Returns the wall time by this clock.
    pub fn now(&self) -> WallMs {
        match self {
            Self::System => WallMs::now(),
            Self::Manual(ms) => WallMs(ms.load(std::sync::atomic::Ordering::Relaxed)),
        }
    }
}

/// A wall clock by which things grow old: it never runs faster than the monotonic clock, however the machine's clock is set while
/// the process lives. So nothing is let go before its time, and somewhat later if the clock was set back.
#[derive(Debug, Clone)]
pub struct AgeClock {
    clock: Clock,
    began: (WallMs, std::time::Instant),
}

impl Default for AgeClock {
    fn default() -> Self {
        Self::of(Clock::default())
    }
}

impl AgeClock {
    /// Makes one that begins now. A hand-set clock is taken as it is.
    pub fn of(clock: Clock) -> Self {
        let began = (clock.now(), std::time::Instant::now());
        Self { clock, began }
    }

    /// Returns the wall time, which is never ahead of what the monotonic clock has counted since this began.
    pub fn now(&self) -> WallMs {
        match &self.clock {
            Clock::System => self.at(WallMs::now(), self.began.1.elapsed()),
            Clock::Manual(_) => self.clock.now(),
        }
    }

    fn at(&self, wall: WallMs, passed: Duration) -> WallMs {
        wall.min(self.began.0.plus(passed))
    }
}

/// The monotonic instant by which an answer is wanted. It shrinks along the way: pass it on, never a fresh timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(tokio::time::Instant);

impl Deadline {
    /// Returns the deadline `duration` from now.
    pub fn after(duration: Duration) -> Self {
        Self(tokio::time::Instant::now() + duration)
    }

    /// Returns the time that is left; zero once the deadline has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(tokio::time::Instant::now())
    }

    /// Tells whether the deadline is over.
    pub fn passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// Returns the monotonic instant of the deadline, for timers.
    pub fn instant(self) -> tokio::time::Instant {
        self.0
    }

    /// Returns the earlier of this deadline and `duration` from now.
    pub fn at_most(self, duration: Duration) -> Self {
        Self(self.0.min(tokio::time::Instant::now() + duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_forward_makes_nothing_old() {
        let clock = AgeClock { clock: Clock::System, began: (WallMs(1_000), std::time::Instant::now()) };
        let a_day = Duration::from_secs(86_400);
        assert_eq!(clock.at(WallMs(1_000).plus(a_day), Duration::from_millis(5)), WallMs(1_005));
        assert_eq!(clock.at(WallMs(500), Duration::from_millis(5)), WallMs(500), "set back, it is followed");
        assert_eq!(clock.at(WallMs(1_000).plus(a_day), a_day), WallMs(1_000).plus(a_day), "a day that passed has passed");
    }
}
