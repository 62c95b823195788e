//! Names the states of a task and of one attempt at it. Names are public; numbers are the format on disk: add, never renumber.

use serde::{Deserialize, Serialize};

/// The state of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TaskStatus {
    /// The task waits for dependencies.
    Pending,
    /// The task waits for an agent (or for its delay).
    Queued,
    /// The task is leased to an agent that has not begun.
    Assigned,
    Running,
    /// The work is done; its gate runs.
    Verifying,
    /// The task waits for the next attempt's time.
    Retrying,
    Succeeded,
    /// The task ended by a failure that another attempt would not mend.
    Failed,
    /// The attempts are used up; the task is listed as a dead letter until redriven.
    Dead,
    Cancelled,
}

impl TaskStatus {
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Queued,
        Self::Assigned,
        Self::Running,
        Self::Verifying,
        Self::Retrying,
        Self::Succeeded,
        Self::Failed,
        Self::Dead,
        Self::Cancelled,
    ];

    /// Tells whether no further change comes by itself.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Dead | Self::Cancelled)
    }

    /// Tells whether an agent holds a lease on it.
    pub const fn is_leased(self) -> bool {
        matches!(self, Self::Assigned | Self::Running | Self::Verifying)
    }

    /// Returns the status as clients read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Queued => "QUEUED",
            Self::Assigned => "ASSIGNED",
            Self::Running => "RUNNING",
            Self::Verifying => "VERIFYING",
            Self::Retrying => "RETRYING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Dead => "DEAD",
            Self::Cancelled => "CANCELLED",
        }
    }
}

/// The priority of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Priority {
    Critical,
    High,
    #[default]
    Normal,
    Low,
}

impl Priority {
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Normal, Self::Low];

    /// Returns the place of the priority in [`Self::ALL`], 0 for the most urgent.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The state of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AttemptStatus {
    Assigned,
    Running,
    Verifying,
    Succeeded,
    Failed,
    TimedOut,
    Cancelled,
    /// The agent or its host was lost while it held the lease.
    Lost,
}
