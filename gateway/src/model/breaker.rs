//! A breaker: after failures in a row a provider is left alone for a while, then tried with one call. It has no clock.

use std::time::{Duration, Instant};

/// The number of failures in a row that open it.
pub const FAILURES: u32 = 10;
const OPEN_FIRST: Duration = Duration::from_secs(5);
const OPEN_MAX: Duration = Duration::from_secs(60);
/// How long a call that is to find out may say nothing; then it has failed to, and another one may.
const PROBE_MAX: Duration = Duration::from_secs(30);

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

#[derive(Clone, Copy, Debug)]
pub struct Breaker(State);

impl Default for Breaker {
    fn default() -> Self {
        Self(State::Closed { failures: 0 })
    }
}

impl Breaker {
    /// Tells whether a call may be made now; the error says after how long to ask again.
    pub fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        match self.0 {
            State::Closed { .. } => Ok(()),
            State::Open { until, .. } if now < until => Err(until - now),
            State::Half { since, .. } if now < since + PROBE_MAX => Err(Duration::from_secs(1)),
            State::Open { times, .. } | State::Half { times, .. } => {
                self.0 = State::Half { since: now, times };
                Ok(())
            }
        }
    }

    /// Notes that a call succeeded, which closes it.
    pub fn succeeded(&mut self) {
        self.0 = State::Closed { failures: 0 };
    }

    /// Notes that a call failed; too many in a row open it, for longer each time.
    pub fn failed(&mut self, now: Instant) {
        let open = |times: u32| {
            let pause = OPEN_FIRST.saturating_mul(1 << times.min(8)).min(OPEN_MAX);
            State::Open { until: now + pause, times: times.saturating_add(1) }
        };
        self.0 = match self.0 {
            State::Closed { failures } if failures + 1 < FAILURES => State::Closed { failures: failures + 1 },
            State::Closed { .. } => open(0),
            State::Half { times, .. } => open(times),
            // The call began before it opened.
            still @ State::Open { .. } => still,
        };
    }

    /// Tells whether no call may be made now because of failures.
    pub fn is_open(&self, now: Instant) -> bool {
        matches!(self.0, State::Open { until, .. } if now < until)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            let (mut breaker, mut now) = (Breaker::default(), Instant::now());
            // A model in plain words: failures in a row while closed, and when the last call that may find out went in.
            let (mut in_a_row, mut closed, mut probe) = (0, true, None::<Instant>);
            for step in steps {
                match step {
                    Step::Pass(millis) => now += Duration::from_millis(millis),
                    Step::Succeed => { breaker.succeeded(); (in_a_row, closed, probe) = (0, true, None); }
                    Step::Fail => {
                        breaker.failed(now);
                        in_a_row += 1;
                        if in_a_row >= FAILURES { closed = false; }
                        if breaker.is_open(now) { probe = None; }
                    }
                    Step::Ask => {
                        let open = breaker.is_open(now);
                        let let_in = breaker.admit(now).is_ok();
                        prop_assert!(!closed || let_in, "closed lets all in");
                        prop_assert!(!(open && let_in), "open lets none in");
                        if !closed && let_in {
                            prop_assert!(probe.is_none_or(|at| now >= at + PROBE_MAX), "one at a time finds out");
                            probe = Some(now);
                        }
                    }
                }
            }
        }

        #[test]
        fn it_never_stays_open_for_ever(fails in 0_u32..200) {
            let (mut breaker, mut now) = (Breaker::default(), Instant::now());
            for _ in 0..fails {
                breaker.failed(now);
                now += Duration::from_millis(1);
                let _ = breaker.admit(now);
            }
            prop_assert!(breaker.admit(now + OPEN_MAX).is_ok());
        }
    }
}
