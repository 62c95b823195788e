//! Tells how long what has ended is kept: by age, by count and by bytes; whichever is met first counts.

use std::time::Duration;

use hiveward_runtime::clock::WallMs;

/// Bounds on how much of one kind is kept. What is still needed is kept besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// The longest time that a thing is kept after its end.
    pub age: Duration,
    pub count_max: u64,
    /// The bytes of the rows or of the files, as the kind says.
    pub bytes_max: u64,
}

/// Bounds for tasks that have ended, with their attempts, their results and their artifacts, in rows and in blobs together.
/// What came of one task goes with it, and a task stays while something that has not ended waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskRetention(pub Keep);

impl Default for TaskRetention {
    fn default() -> Self {
        Self(Keep { age: Duration::from_secs(30 * 24 * 3600), count_max: 1_000_000, bytes_max: 50 << 30 })
    }
}

/// Bounds for operation ids that clients gave, with their answers: while one is kept, repeating it gets the same answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationRetention(pub Keep);

impl Default for OperationRetention {
    fn default() -> Self {
        Self(Keep { age: Duration::from_secs(24 * 3600), count_max: 50_000_000, bytes_max: 8 << 30 })
    }
}

impl Keep {
    /// Tells whether the oldest thing, which ended at `ended_at`, is to go; `count` and `bytes` are of all that are kept.
    pub fn lets_go(&self, ended_at: WallMs, now: WallMs, count: u64, bytes: u64) -> bool {
        now.since(ended_at) > self.age || count > self.count_max || bytes > self.bytes_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_goes_by_age_count_and_bytes_whichever_is_met_first() {
        let keep = Keep { age: Duration::from_millis(100), count_max: 3, bytes_max: 50 };
        let goes = |ended, count, bytes| keep.lets_go(WallMs(ended), WallMs(1_000), count, bytes);
        assert!(!goes(900, 3, 50) && goes(899, 1, 1) && goes(1_000, 4, 1) && goes(1_000, 1, 51));
        assert!(!goes(5_000, 1, 1), "a clock that went back makes nothing old");
    }
}
