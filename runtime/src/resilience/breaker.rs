//! A breaker: after failures in a row what failed is left alone for a while, longer each time, and then tried once. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct BreakerLimits {
    /// Failures in a row that open it.
    pub failures_max: u32,
    /// For how long it is open at first; twice as long after each try that fails, up to the longest.
    pub first: Duration,
    pub longest: Duration,
    /// A call that is to find out and says nothing for so long has failed to: another one may.
    pub probe_within: Duration,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
        times: u32,
    },
    /// One call is under way to find out.
    Half {
        since: Instant,
        times: u32,
    },
}

/// A breaker before one thing that may fail: a provider, a hypervisor.
#[derive(Clone, Copy, Debug)]
pub struct Breaker {
    limits: BreakerLimits,
    state: State,
}

impl Breaker {
    /// Makes one that is closed.
    pub const fn new(limits: BreakerLimits) -> Self {
        Self { limits, state: State::Closed { failures: 0 } }
    }

    /// Admits a call, or says after how long to ask again. When its pause is over it admits one, which is to find out.
    pub fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        match self.state {
            State::Closed { .. } => Ok(()),
            State::Open { until, .. } if now < until => Err(until - now),
            State::Half { since, .. } if now < since + self.limits.probe_within => Err(Duration::from_secs(1)),
            State::Open { times, .. } | State::Half { times, .. } => {
                self.state = State::Half { since: now, times };
                Ok(())
            }
        }
    }

    /// Closes it; returns whether it was not closed before.
    pub fn succeeded(&mut self) -> bool {
        let was_closed = matches!(self.state, State::Closed { .. });
        self.state = State::Closed { failures: 0 };
        !was_closed
    }

    /// Counts a failure; returns whether that opened it. A try that fails when its pause is over opens it for longer.
    pub fn failed(&mut self, now: Instant) -> bool {
        let limits = self.limits;
        let open = |times: u32| {
            let pause = limits.first.saturating_mul(1 << times.min(16)).min(limits.longest);
            State::Open { until: now + pause, times: times.saturating_add(1) }
        };
        let (state, opened) = match self.state {
            State::Closed { failures } if failures + 1 < limits.failures_max => (State::Closed { failures: failures + 1 }, false),
            State::Closed { .. } => (open(0), true),
            State::Half { times, .. } => (open(times), false),
            State::Open { until, times } if now >= until => (open(times), false),
            // Of a call that began before it opened.
            still @ State::Open { .. } => (still, false),
        };
        self.state = state;
        opened
    }

    /// Tells whether nothing may be called now.
    pub fn is_open(&self, now: Instant) -> bool {
        matches!(self.state, State::Open { until, .. } if now < until)
    }

    /// Tells whether it has opened and not closed since.
    pub const fn is_broken(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    /// Returns until when it is open, if it is.
    pub const fn open_until(&self) -> Option<Instant> {
        if let State::Open { until, .. } = self.state { Some(until) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: BreakerLimits = BreakerLimits {
        failures_max: 10,
        first: Duration::from_secs(5),
        longest: Duration::from_secs(60),
        probe_within: Duration::from_secs(30),
    };

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Ask,
        Succeed,
        Fail,
        Pass(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![Just(Step::Ask), Just(Step::Succeed), Just(Step::Fail), (0_u64..40_000).prop_map(Step::Pass)];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn it_opens_only_after_failures_in_a_row_and_lets_one_call_find_out(steps in steps()) {
            let (mut breaker, mut now) = (Breaker::new(LIMITS), Instant::now());
            // A model in plain words: failures in a row while closed, and when the last call that may find out went in.
            let (mut in_a_row, mut closed, mut probe) = (0, true, None::<Instant>);
            for step in steps {
                match step {
                    Step::Pass(millis) => now += Duration::from_millis(millis),
                    Step::Succeed => { breaker.succeeded(); (in_a_row, closed, probe) = (0, true, None); }
                    Step::Fail => {
                        breaker.failed(now);
                        in_a_row += 1;
                        if in_a_row >= LIMITS.failures_max { closed = false; }
                        if breaker.is_open(now) { probe = None; }
                    }
                    Step::Ask => {
                        let open = breaker.is_open(now);
                        let let_in = breaker.admit(now).is_ok();
                        prop_assert!(!closed || let_in, "closed lets all in");
                        prop_assert!(!(open && let_in), "open lets none in");
                        if !closed && let_in {
                            prop_assert!(probe.is_none_or(|at| now >= at + LIMITS.probe_within), "one at a time finds out");
                            probe = Some(now);
                        }
                    }
                }
            }
        }

        #[test]
        fn it_never_stays_open_for_ever(fails in 0_u32..200) {
            let (mut breaker, mut now) = (Breaker::new(LIMITS), Instant::now());
            for _ in 0..fails {
                breaker.failed(now);
                now += Duration::from_millis(1);
                let _ = breaker.admit(now);
            }
            prop_assert!(breaker.admit(now + LIMITS.longest).is_ok());
        }
    }

    #[test]
    fn it_opens_after_failures_in_a_row_longer_each_time_and_closes_with_one_success() {
        let (mut breaker, mut now) = (Breaker::new(BreakerLimits { failures_max: 3, ..LIMITS }), Instant::now());
        assert!(!breaker.failed(now) && !breaker.failed(now) && !breaker.is_open(now));
        assert!(breaker.failed(now) && breaker.is_open(now) && !breaker.is_open(now + LIMITS.first));
        now += LIMITS.first;
        assert!(!breaker.failed(now) && breaker.is_open(now + LIMITS.first) && !breaker.is_open(now + LIMITS.first * 2));
        assert!(breaker.is_broken() && breaker.succeeded() && !breaker.is_broken() && !breaker.succeeded());
        for _ in 0..100 {
            breaker.failed(now);
            now = breaker.open_until().unwrap_or(now);
        }
        breaker.failed(now);
        assert!(!breaker.is_open(now + LIMITS.longest));
    }
}
