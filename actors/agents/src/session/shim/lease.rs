//! Ends the program with the lease of its node, also when the node is dead or stands still: by then another node may have begun
//! the same work anew.
//!
//! Owns the reading of the node's lease and the moment of the next look. A lease is looked at when the one that was read
//! before would be over, so an idle session is woken a few times in a minute.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use hiveward_runtime::{clock::BootClock, cluster::lease::LeasePage};

use super::kill::SWEEP;

/// Time between looks at a lease without an end: a node that was alone has none until others join it, and then one within a
/// lease's length.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Time between looks at a page that cannot be read.
const AGAIN: Duration = Duration::from_millis(50);

pub(super) struct NodeLease {
    dir: PathBuf,
    /// End of the lease as it was read last. A page that cannot be read now says nothing new.
    until: Option<Duration>,
    pub(super) next_look: Instant,
}

impl NodeLease {
    pub(super) fn new(dir: PathBuf, now: Instant) -> Self {
        Self { dir, until: None, next_look: now }
    }

    /// Says whether it is over, and looks only when it may be.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        if now < self.next_look {
            return false;
        }
        let page = LeasePage::read(&self.dir);
        self.until = page.or(self.until);
        // A kernel without that clock gives no lease, and nothing is launched there.
        let (Some(until), Some(clock)) = (self.until, BootClock.now()) else {
            self.next_look = now + AGAIN;
            return false;
        };
        let left = until.saturating_sub(clock.0);
        self.next_look = now + if page.is_some() { left.min(LOOK_EVERY) } else { left.min(AGAIN) }.max(SWEEP);
        left.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_was_read_is_over_at_its_end_though_its_page_is_gone_and_goes_on_when_it_is_renewed() {
        let dir = tempfile::tempdir().unwrap();
        let (boot, begun) = (BootClock.now().unwrap().0, Instant::now());
        let mut lease = NodeLease::new(dir.path().into(), begun);
        assert!(!lease.is_over(begun), "nothing is known yet");
        LeasePage::write(dir.path(), boot + Duration::from_secs(60)).unwrap();
        assert!(!lease.is_over(begun + AGAIN));
        // Lowered, as when others join a node that was alone.
        LeasePage::write(dir.path(), boot).unwrap();
        assert!(!lease.is_over(begun + AGAIN * 2), "it is not read at each turn");
        assert!(lease.is_over(begun + AGAIN + LOOK_EVERY));
        LeasePage::write(dir.path(), Duration::MAX).unwrap();
        assert!(!lease.is_over(begun + AGAIN * 2 + LOOK_EVERY));
        LeasePage::write(dir.path(), boot).unwrap();
        assert!(lease.is_over(begun + LOOK_EVERY * 3));
        std::fs::remove_file(dir.path().join("lease")).unwrap();
        assert!(lease.is_over(begun + LOOK_EVERY * 4));
    }
}
