//! Says when a failed attempt is tried again: exponential backoff with jitter, up to a number of attempts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The rules on when a task is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// The attempts in all, the first included; at least 1.
    pub attempts_max: u32,
    pub first_ms: u64,
    pub max_ms: u64,
    pub factor: f64,
    /// The share of each wait that is random, 0 to 1.
    pub jitter: f64,
}

impl Eq for RetryPolicy {}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts_max: 3, first_ms: 1_000, max_ms: 60_000, factor: 2.0, jitter: 0.2 }
    }
}

impl RetryPolicy {
    /// The policy of a task that is tried once.
    pub const NEVER: Self = Self { attempts_max: 1, first_ms: 0, max_ms: 0, factor: 1.0, jitter: 0.0 };

    /// Returns the wait after the `failed`-th failure (1 for the first). `dice` is uniform in 0..1.
    pub fn wait(&self, failed: u32, dice: f64) -> Duration {
        let exponent = f64::from(failed.saturating_sub(1).min(64));
        let whole = (self.first_ms as f64 * self.factor.max(1.0).powf(exponent)).min(self.max_ms as f64);
        let jitter = self.jitter.clamp(0.0, 1.0);
        let waited = whole * (1.0 - jitter) + whole * jitter * dice.clamp(0.0, 1.0);
        Duration::from_millis(waited as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_maximum_and_jitter_only_shortens() {
        let policy = RetryPolicy { attempts_max: 9, first_ms: 100, max_ms: 1_000, factor: 2.0, jitter: 0.5 };
        let whole: Vec<_> = (1..=6).map(|n| policy.wait(n, 1.0).as_millis()).collect();
        assert_eq!(whole, [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(policy.wait(1, 0.0).as_millis(), 50);
        assert_eq!(policy.wait(u32::MAX, 1.0).as_millis(), 1_000);
    }
}
