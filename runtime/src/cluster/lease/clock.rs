//! The clock that leases are counted on.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::BootTime;

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
