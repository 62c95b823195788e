//! The intensity: how many restarts within a period are recovery, and from when on they are a crash loop.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intensity {
    pub restarts_max: u32,
    pub period: Duration,
}

impl Default for Intensity {
    fn default() -> Self {
        Self { restarts_max: 5, period: Duration::from_secs(10) }
    }
}

/// The restarts of late.
#[derive(Debug, Default)]
pub(super) struct Window(VecDeque<Instant>);

impl Window {
    /// Counts one more restart; false if that is one too many.
    pub(super) fn admit(&mut self, intensity: &Intensity, now: Instant) -> bool {
        while self.0.front().is_some_and(|first| now.duration_since(*first) > intensity.period) {
            self.0.pop_front();
        }
        if self.0.len() >= intensity.restarts_max as usize {
            return false;
        }
        self.0.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_up_to_the_maximum_within_the_period_are_admitted_and_old_ones_forgotten() {
        let (mut window, start) = (Window::default(), Instant::now());
        let two = Intensity { restarts_max: 2, period: Duration::from_secs(10) };
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(window.admit(&two, at(0)) && window.admit(&two, at(5)));
        assert!(!window.admit(&two, at(9)));
        assert!(window.admit(&two, at(11)), "the first is out of the period by then");
        assert!(!window.admit(&two, at(12)));
    }
}
