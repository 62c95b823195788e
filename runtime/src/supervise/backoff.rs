//! The waits before restarts.

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The wait before the second restart in a row; the first is at once.
    pub first: Duration,
    pub max: Duration,
    pub factor: f64,
    /// The share of the wait that is random, 0 to 1.
    pub jitter: f64,
    /// The length of a life that makes the next failure the first again.
    pub reset_after: Duration,
}

impl Backoff {
    /// Makes every restart happen at once: for children whose crash loop the intensity stops.
    pub const fn none() -> Self {
        Self { first: Duration::ZERO, max: Duration::ZERO, factor: 1.0, jitter: 0.0, reset_after: Duration::ZERO }
    }

    /// Returns the wait before the restart that follows `in_a_row` failures (1 for the first). `dice` is uniform in 0..1.
    pub fn wait(&self, in_a_row: u32, dice: f64) -> Duration {
        if in_a_row <= 1 || self.first.is_zero() {
            return Duration::ZERO;
        }
        let whole = self.first.as_secs_f64() * self.factor.max(1.0).powi(i32::try_from(in_a_row - 2).unwrap_or(i32::MAX).min(64));
        let whole = whole.min(self.max.as_secs_f64());
        let jitter = self.jitter.clamp(0.0, 1.0);
        Duration::try_from_secs_f64(whole * (1.0 - jitter) + whole * jitter * dice).unwrap_or(self.max)
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            max: Duration::from_secs(5),
            factor: 2.0,
            jitter: 0.3,
            reset_after: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_none_to_the_maximum_and_jitter_only_shortens_them() {
        let backoff = Backoff {
            first: Duration::from_millis(100),
            max: Duration::from_secs(1),
            factor: 2.0,
            jitter: 0.5,
            reset_after: Duration::ZERO,
        };
        let longest: Vec<u128> = (1..=7).map(|in_a_row| backoff.wait(in_a_row, 1.0).as_millis()).collect();
        assert_eq!(longest, [0, 100, 200, 400, 800, 1000, 1000]);
        let shortest: Vec<u128> = (1..=7).map(|in_a_row| backoff.wait(in_a_row, 0.0).as_millis()).collect();
        assert_eq!(shortest, [0, 50, 100, 200, 400, 500, 500]);
    }

    #[test]
    fn absurd_numbers_wait_at_most_the_maximum() {
        let backoff = Backoff {
            first: Duration::MAX,
            max: Duration::MAX,
            factor: f64::INFINITY,
            jitter: f64::NAN,
            reset_after: Duration::ZERO,
        };
        assert!(backoff.wait(u32::MAX, 0.5) <= Duration::MAX);
        assert_eq!(Backoff::none().wait(u32::MAX, 1.0), Duration::ZERO);
    }
}
