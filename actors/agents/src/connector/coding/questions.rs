//! Questions of the program, and their answers: by rule at once, by a person when one answers.

use hiveward_catalogue::agent::coding::Permission;
use hiveward_kernel::id::ApprovalId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    dialect::{Asked, Choice, Want},
    engine::{Engine, Fault, STDIN_BYTES_MAX, Talk, machine, tag_of},
};
use crate::{
    activity::{What, bounded},
    connector::{Ask, Report},
    policy::{Verdict, paths},
};

/// Number of questions that are open at once; more are denied.
const OPEN_MAX: usize = 32;

impl Engine<'_> {
    /// Returns what a question comes to: an answer by rule, or one that a person has to give.
    pub(super) fn asked(
        &mut self,
        request: String,
        call: Option<String>,
        tool: String,
        input: Value,
        choices: Vec<Choice>,
    ) -> Result<Vec<What>, Fault> {
        if self.log.story.asked.contains_key(&request) {
            return Ok(Vec::new());
        }
        let mut verdict = self.rules.decide(&tool, &input, &self.workspace);
        if matches!(verdict, Verdict::Ask { .. }) && self.log.story.open.len() >= OPEN_MAX {
            verdict = Verdict::Deny { why: format!("{OPEN_MAX} questions are open already") };
        }
        let approval = ApprovalId::new();
        let question = Question { input: input.clone(), choices };
        self.keep_question(&request, &question)?;
        Ok(match verdict {
            Verdict::Allow { by } => {
                vec![What::Answered { request, decision: Permission::Allow, by, message: None }]
            }
            Verdict::Deny { why } => {
                vec![What::Answered { request, decision: Permission::Deny, by: "the policy".to_owned(), message: Some(why) }]
            }
            Verdict::Ask { why } => {
                let within_ms = self.spec.policy.within_ms;
                vec![What::Asked { approval, request, call, tool, input: bounded(input), why, within_ms }]
            }
        })
    }

    /// Does what the program wants in its workspace, unless a rule denies it; the rest it has asked for before, or it is in its
    /// workspace.
    pub(super) fn do_it(&self, want: &Want) -> (Result<Value, String>, Option<String>) {
        let (tool, path) = match want {
            Want::ReadFile { path, .. } => ("Read", path),
            Want::WriteFile { path, .. } => ("Write", path),
        };
        match self.rules.decide(tool, &serde_json::json!({"file_path": path}), &self.workspace) {
            Verdict::Deny { why } => (Err(why), None),
            Verdict::Allow { .. } | Verdict::Ask { .. } => super::files::do_it(&self.workspace, want),
        }
    }

    /// Keeps the whole of a question, for the answer that must repeat it.
    fn keep_question(&self, request: &str, question: &Question) -> Result<(), Fault> {
        let name = question_name(request);
        let bytes = serde_json::to_vec(question).map_err(|error| machine("a question cannot be kept", &error.into()))?;
        self.attempt.write(&name, &bytes).map_err(|error| machine("a question cannot be kept", &error))?;
        Ok(())
    }

    fn question(&self, request: &str) -> Asked {
        let kept = self.attempt.read(&question_name(request)).and_then(|bytes| serde_json::from_slice::<Question>(&bytes).ok());
        kept.map_or(Asked { input: Value::Null, choices: Vec::new() }, |kept| Asked { input: kept.input, choices: kept.choices })
    }

    pub(super) async fn repeat_questions(&self) {
        for request in self.log.story.open.keys() {
            self.report_question(request).await;
        }
    }

    pub(super) async fn report_question(&self, request: &str) {
        let Some(open) = self.log.story.open.get(request) else { return };
        let asked = self.question(request);
        let ask = Ask {
            approval: open.approval,
            lease: self.job.lease,
            tool: open.tool.clone(),
            files: paths(&asked.input),
            input: bounded(asked.input),
            until: open.until,
            otherwise: self.spec.policy.otherwise,
        };
        self.attempt.shared.report(Report::Asks { ask: Box::new(ask) }).await;
    }

    /// Repeats the answers that the process may not have got yet.
    pub(super) async fn repeat_answers(&mut self, talk: &mut Talk<'_>) -> Result<(), Fault> {
        let answers: Vec<_> = self.log.story.answered.iter().map(|(request, answer)| (request.clone(), answer.clone())).collect();
        for (request, (decision, message)) in answers {
            if talk.told.contains(&tag_of(&format!("answer-{request}"))) {
                continue;
            }
            let asked = self.question(&request);
            let mut line = self.dialect.answer(&request, decision, message.as_deref(), &asked);
            if line.bytes.len() > STDIN_BYTES_MAX {
                let why = "its arguments are larger than what can be answered here";
                line = self.dialect.answer(&request, Permission::Deny, Some(why), &asked);
            }
            line.tag = format!("answer-{request}");
            self.tell(talk, line).await?;
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Question {
    input: Value,
    choices: Vec<Choice>,
}

/// Returns the name of a question's file. Requests are named by the program; files are named by us.
fn question_name(request: &str) -> String {
    format!("question-{}.json", tag_of(request))
}
