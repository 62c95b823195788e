//! What an agent is told to be and what it is. Decides and applies; no I/O.

use hiveward_catalogue::agent::spec::AgentSpec;
use hiveward_runtime::error::{Code, Refused};
use serde::{Deserialize, Serialize};

use super::{approval::Approvals, event::AgentEvent};

/// Format of the state as a snapshot of its stream has it.
pub const SNAPSHOT_FORMAT: u16 = 1;

/// What the user wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    Stopped,
    Running,
    Paused { frozen: bool },
}

/// What its present life is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    Down,
    Starting,
    Up,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentState {
    pub wanted: Wanted,
    pub phase: Phase,
    pub removed: bool,
    /// Number of events so far; 0 for an agent that is quite new.
    pub events: u64,
    pub approvals: Approvals,
}

impl AgentState {
    /// Returns the state of an agent that was just made; whether it is to run, its spec says.
    pub fn new(spec: &AgentSpec) -> Self {
        let wanted = if spec.auto_start { Wanted::Running } else { Wanted::Stopped };
        Self { wanted, phase: Phase::Down, removed: false, events: 0, approvals: Approvals::default() }
    }

    /// Applies an event of its stream.
    pub fn apply(&mut self, event: &AgentEvent) {
        self.events += 1;
        match event {
            AgentEvent::StartAsked | AgentEvent::ResumeAsked => self.wanted = Wanted::Running,
            AgentEvent::Starting { .. } => self.phase = Phase::Starting,
            AgentEvent::Ready { .. } => self.phase = Phase::Up,
            AgentEvent::Failed { .. } => self.phase = Phase::Failed,
            AgentEvent::PauseAsked { frozen } => self.wanted = Wanted::Paused { frozen: *frozen },
            AgentEvent::StopAsked => self.wanted = Wanted::Stopped,
            AgentEvent::Stopped => self.phase = Phase::Down,
            // Nobody asks for an answer of its questions any more.
            AgentEvent::Removed => (self.removed, self.approvals) = (true, Approvals::default()),
            AgentEvent::ApprovalAsked { .. } | AgentEvent::ApprovalAnswered { .. } | AgentEvent::ApprovalWithdrawn { .. } => {
                self.approvals.apply(event);
            }
        }
    }

    /// Begins a new life of the actor, with nothing running that it knows of.
    pub fn begin_life(&mut self) {
        self.phase = Phase::Down;
    }

    /// Tells whether it takes work now: it is wanted running, is up and was not removed.
    pub fn takes_work(&self) -> bool {
        self.wanted == Wanted::Running && self.phase == Phase::Up && !self.removed
    }

    /// Returns the event of a pause; `None` if it is paused so already. Errors: it is not up.
    pub fn pause(&self, frozen: bool) -> Result<Option<AgentEvent>, Refused> {
        match (self.wanted, self.phase) {
            (Wanted::Paused { frozen: already }, _) if already == frozen => Ok(None),
            (Wanted::Running | Wanted::Paused { .. }, Phase::Up) => Ok(Some(AgentEvent::PauseAsked { frozen })),
            _ => Err(Refused::new(Code::Refused, "only an agent that is up can be paused; start it first")),
        }
    }

    /// Returns the event of a resumption; `None` if it is to run already. Errors: it is stopped.
    pub fn resume(&self) -> Result<Option<AgentEvent>, Refused> {
        match self.wanted {
            Wanted::Running => Ok(None),
            Wanted::Paused { .. } => Ok(Some(AgentEvent::ResumeAsked)),
            Wanted::Stopped => Err(Refused::new(Code::Refused, "it is stopped; start it")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_snapshot_has_of_an_agent_is_what_was_lived() {
        let mut state =
            AgentState { wanted: Wanted::Running, phase: Phase::Up, removed: false, events: 0, approvals: Approvals::default() };
        let again =
            |state: &AgentState| -> AgentState { rmp_serde::from_slice(&rmp_serde::to_vec_named(state).unwrap()).unwrap() };
        for event in [AgentEvent::PauseAsked { frozen: true }, AgentEvent::StopAsked, AgentEvent::Stopped, AgentEvent::Removed] {
            state.apply(&event);
            assert_eq!(again(&state), state);
        }
        assert_eq!((state.wanted, state.removed, state.events), (Wanted::Stopped, true, 4));
    }
}
