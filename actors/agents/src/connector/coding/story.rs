//! What an attempt has come to, folded from its activity: all that is needed to go on with it after a restart. Pure.

use std::collections::{BTreeMap, BTreeSet};

use hiveward_catalogue::agent::coding::Permission;
use hiveward_kernel::id::ApprovalId;
use hiveward_runtime::clock::WallMs;

use crate::activity::{Activity, Prompter, TurnEnd, What};

#[derive(Debug, Default)]
pub(super) struct Story {
    /// Number of the last event.
    pub seq: u64,
    pub began_at: Option<WallMs>,
    pub run: u32,
    /// Place up to which the output of that process was dealt with.
    pub heard: u64,
    /// Conversation, once the program has named it.
    pub session: Option<String>,
    /// Whether the present process has named it.
    pub greeted: bool,
    /// Everything said to the present process, in order.
    pub prompts: Vec<Prompt>,
    /// Questions that the present process asked and that are not answered.
    pub open: BTreeMap<String, Open>,
    /// Questions that are answered; kept until the process ends, because it may not have heard it yet.
    pub answered: BTreeMap<String, (Permission, Option<String>)>,
    pub asked: BTreeMap<String, ApprovalId>,
    /// Tools that have not ended.
    pub calls: BTreeSet<String>,
    /// End of the turn since the last prompt was taken up.
    pub ended: Option<(TurnEnd, Option<String>)>,
    pub nudges: u32,
    /// Number of processes that ended when they should not have.
    pub deaths: u32,
    /// Who has taken it over, while somebody has.
    pub taken: Option<String>,
    pub takeovers: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Prompt {
    pub id: String,
    pub text: String,
    pub by: Prompter,
    pub heard: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Open {
    pub approval: ApprovalId,
    pub tool: String,
    pub until: WallMs,
}

impl Story {
    pub(super) fn apply(&mut self, activity: &Activity) {
        self.seq = activity.seq;
        self.run = activity.run;
        self.heard = activity.heard;
        match &activity.what {
            What::Began { session, .. } => {
                self.began_at.get_or_insert(activity.at);
                self.session.clone_from(session);
                self.greeted = false;
                self.prompts.clear();
                self.open.clear();
                self.answered.clear();
                self.asked.clear();
                self.calls.clear();
                self.ended = None;
            }
            What::Greeted { session, .. } => {
                self.session = Some(session.clone());
                self.greeted = true;
            }
            What::Prompted { id, text, by } => {
                self.prompts.push(Prompt { id: id.clone(), text: text.clone(), by: by.clone(), heard: false });
            }
            What::Heard { id } => {
                self.ended = None;
                if let Some(at) = self.prompts.iter().position(|prompt| prompt.id == *id) {
                    // Prompts are taken up in order: what came before was, too.
                    self.prompts[..=at].iter_mut().for_each(|prompt| prompt.heard = true);
                }
            }
            What::Asked { approval, request, tool, within_ms, .. } => {
                let until = WallMs(activity.at.0.saturating_add(i64::try_from(*within_ms).unwrap_or(i64::MAX)));
                self.asked.insert(request.clone(), *approval);
                self.open.insert(request.clone(), Open { approval: *approval, tool: tool.clone(), until });
            }
            What::Answered { request, decision, message, .. } => {
                self.open.remove(request);
                self.answered.insert(request.clone(), (*decision, message.clone()));
            }
            What::Withdrawn { request } => {
                self.open.remove(request);
            }
            What::ToolCalled { id, .. } => {
                self.calls.insert(id.clone());
            }
            What::ToolEnded { id, .. } => {
                self.calls.remove(id);
            }
            What::TurnEnded { end, text, .. } => {
                self.calls.clear();
                self.ended = Some((end.clone(), text.clone()));
            }
            What::Nudged { .. } => self.nudges += 1,
            What::Died { .. } => self.deaths += 1,
            What::TakenOver { by } => {
                self.open.clear();
                self.taken = Some(by.clone());
                self.takeovers += 1;
            }
            What::GivenBack { .. } => self.taken = None,
            What::Said { .. } | What::Thought { .. } | What::Touched { .. } | What::Interrupted { .. } | What::Noted { .. } => {}
        }
    }

    /// Returns how its last turn ended, if nothing that was said to it is still to be dealt with.
    pub(super) fn rests(&self) -> Option<&(TurnEnd, Option<String>)> {
        self.ended.as_ref().filter(|_| self.prompts.iter().all(|prompt| prompt.heard))
    }

    /// Returns the question of an approval, if it is open.
    pub(super) fn request_of(&self, approval: ApprovalId) -> Option<&str> {
        self.open.iter().find(|(_, open)| open.approval == approval).map(|(request, _)| request.as_str())
    }
}
