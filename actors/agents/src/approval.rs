//! Questions of coding agents that a person decides: kept in the agent's stream, so that they wait through restarts.
//!
//! The agent's actor alone says how one ended: answered, answered by the clock, or not waited for any more.

use std::collections::BTreeMap;

use hiveward_catalogue::agent::coding::Permission;
use hiveward_kernel::{
    id::{AgentId, ApprovalId},
    lease::Lease,
};
use hiveward_runtime::{
    clock::WallMs,
    error::{Code, Refused},
};
use serde::{Deserialize, Serialize};

use super::{connector::Ask, event::AgentEvent};

/// Number of ended questions that are kept, for an answer that has to be said again.
const ENDED_KEPT: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ApprovalStatus {
    Open,
    Allowed,
    Denied,
    /// The attempt does not wait for an answer any more.
    Withdrawn,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub decision: Permission,
    /// Who decided: a principal, or `nobody` when its time was over.
    pub by: String,
    /// Words for the program.
    pub message: Option<String>,
}

/// One question, as the views keep it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApprovalRecord {
    pub ask: Ask,
    pub agent: AgentId,
    pub status: ApprovalStatus,
    pub verdict: Option<Verdict>,
    pub asked_at: WallMs,
    pub ended_at: Option<WallMs>,
    pub cursor: u64,
}

/// Questions of one agent, folded from its stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Approvals {
    known: BTreeMap<ApprovalId, (Ask, Option<Verdict>)>,
}

/// What a new word about a question calls for.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    Record(AgentEvent),
    /// The question is decided: the attempt is told.
    Tell(Lease, Verdict),
    Wait(Lease),
}

impl Approvals {
    /// Applies an event of the agent; what is not about a question changes nothing.
    pub fn apply(&mut self, event: &AgentEvent) {
        match event {
            AgentEvent::ApprovalAsked { ask } => {
                self.known.insert(ask.approval, ((**ask).clone(), None));
            }
            AgentEvent::ApprovalAnswered { approval, verdict } => {
                if let Some((_, answer)) = self.known.get_mut(approval) {
                    *answer = Some(verdict.clone());
                }
                let ended: Vec<_> = self.known.iter().filter(|(_, (_, answer))| answer.is_some()).map(|(id, _)| *id).collect();
                for old in ended.iter().take(ended.len().saturating_sub(ENDED_KEPT)) {
                    self.known.remove(old);
                }
            }
            AgentEvent::ApprovalWithdrawn { approval, .. } => {
                self.known.remove(approval);
            }
            _ => {}
        }
    }

    /// Returns what it calls for that the program asks, perhaps again.
    pub fn asked(&self, ask: &Ask) -> Next {
        match self.known.get(&ask.approval) {
            None => Next::Record(AgentEvent::ApprovalAsked { ask: Box::new(ask.clone()) }),
            Some((ask, Some(verdict))) => Next::Tell(ask.lease, verdict.clone()),
            Some((ask, None)) => Next::Wait(ask.lease),
        }
    }

    /// Returns what an answer calls for. The same answer again is fine. Errors: it is not waited for, or was answered otherwise.
    pub fn answered(&self, approval: ApprovalId, verdict: Verdict) -> Result<Next, Refused> {
        match self.known.get(&approval) {
            None => Err(Refused::new(Code::Refused, format!("{approval} is not waited for any more; nothing happened"))),
            Some((ask, Some(before))) if before.decision == verdict.decision => Ok(Next::Tell(ask.lease, before.clone())),
            Some((_, Some(before))) => {
                let word = if before.decision == Permission::Allow { "allowed" } else { "denied" };
                Err(Refused::new(Code::Conflict, format!("{approval} was {word} by {} already; nothing happened", before.by)))
            }
            Some((_, None)) => Ok(Next::Record(AgentEvent::ApprovalAnswered { approval, verdict })),
        }
    }

    /// Returns the event for a question that nobody answered in time; `None` if it is not open.
    pub fn due(&self, approval: ApprovalId) -> Option<AgentEvent> {
        let (ask, None) = self.known.get(&approval)? else { return None };
        let message = Some("nobody answered in time".to_owned());
        let verdict = Verdict { decision: ask.otherwise, by: "nobody".to_owned(), message };
        Some(AgentEvent::ApprovalAnswered { approval, verdict })
    }

    /// Returns the event for a question that is not waited for any more; `None` if it is not open.
    pub fn withdrawn(&self, approval: ApprovalId, why: &str) -> Option<AgentEvent> {
        let (_, None) = self.known.get(&approval)? else { return None };
        Some(AgentEvent::ApprovalWithdrawn { approval, why: why.to_owned() })
    }

    /// Returns the events that withdraw the open questions of attempts that are `over`.
    pub fn void(&self, over: impl Fn(Lease) -> bool, why: &str) -> Vec<AgentEvent> {
        let void = self.known.iter().filter(|(_, (ask, answer))| answer.is_none() && over(ask.lease));
        void.map(|(approval, _)| AgentEvent::ApprovalWithdrawn { approval: *approval, why: why.to_owned() }).collect()
    }

    /// Returns a question and its answer, if it is known here.
    pub fn get(&self, approval: ApprovalId) -> Option<&(Ask, Option<Verdict>)> {
        self.known.get(&approval)
    }

    /// Returns the open questions, and until when each waits.
    pub fn open(&self) -> impl Iterator<Item = (ApprovalId, WallMs)> {
        self.known.iter().filter(|(_, (_, answer))| answer.is_none()).map(|(id, (ask, _))| (*id, ask.until))
    }
}

#[cfg(test)]
mod tests {
    use hiveward_kernel::id::TaskId;

    use super::*;

    fn ask() -> Ask {
        let lease = Lease { task: TaskId::new(), attempt: 1, agent: AgentId::new() };
        Ask {
            approval: ApprovalId::new(),
            lease,
            tool: "Bash".into(),
            input: serde_json::json!({"command": "rm x"}),
            files: Vec::new(),
            until: WallMs(10),
            otherwise: Permission::Deny,
        }
    }

    fn verdict(decision: Permission) -> Verdict {
        Verdict { decision, by: "ann".into(), message: None }
    }

    #[test]
    fn the_first_answer_counts_and_the_same_again_is_fine() {
        let (mut approvals, ask) = (Approvals::default(), ask());
        let Next::Record(event) = approvals.asked(&ask) else { panic!("it is new") };
        approvals.apply(&event);
        assert_eq!(approvals.asked(&ask), Next::Wait(ask.lease));
        let Next::Record(event) = approvals.answered(ask.approval, verdict(Permission::Allow)).unwrap() else { panic!("first") };
        approvals.apply(&event);
        assert_eq!(approvals.due(ask.approval), None, "the clock is too late");
        let again = approvals.answered(ask.approval, verdict(Permission::Allow)).unwrap();
        assert_eq!(again, Next::Tell(ask.lease, verdict(Permission::Allow)));
        assert_eq!(approvals.answered(ask.approval, verdict(Permission::Deny)).unwrap_err().code, Code::Conflict);
        assert_eq!(approvals.asked(&ask), Next::Tell(ask.lease, verdict(Permission::Allow)), "its program asks after a restart");
    }

    #[test]
    fn what_nobody_answers_is_answered_as_the_policy_says_and_what_is_over_is_withdrawn() {
        let (mut approvals, first, second) = (Approvals::default(), ask(), ask());
        for ask in [&first, &second] {
            approvals.apply(&AgentEvent::ApprovalAsked { ask: Box::new(ask.clone()) });
        }
        let Some(AgentEvent::ApprovalAnswered { verdict, .. }) = approvals.due(first.approval) else { panic!("it was open") };
        assert_eq!((verdict.decision, &*verdict.by), (Permission::Deny, "nobody"));
        let void = approvals.void(|lease| lease == second.lease, "over");
        assert_eq!(void.len(), 1);
        void.iter().for_each(|event| approvals.apply(event));
        assert!(approvals.answered(second.approval, verdict).is_err());
        assert_eq!(approvals.open().map(|(id, _)| id).collect::<Vec<_>>(), [first.approval]);
    }

    #[test]
    fn an_ask_goes_through_the_ledger_unchanged() {
        let event = AgentEvent::ApprovalAsked { ask: Box::new(ask()) };
        let bytes = event.encode().unwrap();
        assert_eq!(AgentEvent::decode(event.kind(), crate::event::FORMAT, &bytes).unwrap(), event);
    }
}
