//! A circuit breaker for one host's connection: when the hypervisor does not answer, nobody waits for it. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row after which it opens.
const FAILURES_MAX: u32 = 3;
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, Default)]
pub struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
}

impl Breaker {
    /// Tells whether a call may be made now. When the time is over, a call in doubt may be.
    pub fn allows(&self, now: Instant) -> bool {
        self.open_until.is_none_or(|until| now >= until)
    }

    /// Tells whether it is open, also when its time is over and no call has succeeded since.
    pub fn is_open(&self) -> bool {
        self.open_until.is_some()
    }

    /// Returns until when it is open; `None` if it is closed.
    pub fn open_until(&self) -> Option<Instant> {
        self.open_until
    }

    /// Notes that a call succeeded, and tells whether that closed it.
    pub fn succeeded(&mut self) -> bool {
        self.failures = 0;
        self.open_until.take().is_some()
    }

    /// Notes that a call failed, and tells whether that opened it. Each further failure keeps it open longer.
    pub fn failed(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.failures < FAILURES_MAX {
            return false;
        }
        let doublings = (self.failures - FAILURES_MAX).min(16);
        let was_open = self.open_until.replace(now + (FIRST * (1 << doublings)).min(LONGEST)).is_some();
        !was_open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_three_failures_in_a_row_longer_each_time_and_closes_with_one_success() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        assert!(!breaker.failed(now) && !breaker.failed(now) && breaker.allows(now));
        assert!(breaker.failed(now) && !breaker.allows(now) && breaker.allows(now + FIRST));
        assert!(!breaker.failed(now) && !breaker.allows(now + FIRST) && breaker.allows(now + FIRST * 2));
        assert!(breaker.succeeded() && breaker.allows(now) && !breaker.is_open() && !breaker.succeeded());
        for _ in 0..100 {
            breaker.failed(now);
        }
        assert!(breaker.allows(now + LONGEST));
    }
}
