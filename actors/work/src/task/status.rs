//! The states of a task and of one attempt at it. Names are public; numbers are the format on disk: add, never renumber.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TaskStatus {
    /// Waits for dependencies.
    Pending,
    /// Waits for an agent (or for its delay).
    Queued,
    /// Leased to an agent that has not begun.
    Assigned,
    Running,
    /// The work is done; its gate runs.
    Verifying,
    /// Waits for the next attempt's time.
    Retrying,
    Succeeded,
    /// Ended by a failure that another attempt would not mend.
    Failed,
    /// Attempts are used up; listed as a dead letter until redriven.
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

    /// No further change comes by itself.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Dead | Self::Cancelled)
    }

    /// An agent holds a lease on it.
    pub const fn is_leased(self) -> bool {
        matches!(self, Self::Assigned | Self::Running | Self::Verifying)
    }

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

    pub const fn index(self) -> usize {
        self as usize
    }
}

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
