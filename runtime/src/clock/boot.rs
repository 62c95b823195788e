//! The clock that leases are counted on.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A moment on one host's own clock since it booted; never compared with another host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(pub Duration);

impl BootTime {
    /// Returns how long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the moment `duration` later.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// The clock CLOCK_BOOTTIME: it is monotonic, and unlike `Instant` it goes on while the host or the VM is suspended.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl BootClock {
    /// Returns the moment now; `None` on a kernel without this clock: then there is no lease, and the node must not act in a
    /// cluster.
    pub fn now(self) -> Option<BootTime> {
        clock_gettime(ClockId::CLOCK_BOOTTIME).ok().map(|time| BootTime(Duration::from(time)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_back() {
        let first = BootClock.now().unwrap();
        assert!(BootClock.now().unwrap() >= first);
    }
}
