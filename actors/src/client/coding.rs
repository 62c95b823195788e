//! What people do with running coding agents: they answer questions, interrupt, and say something.

use hiveward_access::verb::Verb;
use hiveward_agents::{
    approval::{ApprovalRecord, Verdict},
    approvals_table::ApprovalFilter,
    connector::Told,
    message::asks as agent,
    workspace::branches::Cleaned,
};
use hiveward_catalogue::agent::coding::Permission;
use hiveward_kernel::{
    id::{AgentId, ApprovalId, TaskId},
    page::Page,
};
use hiveward_runtime::{
    error::{Code, Refused},
    op::Op,
};

use super::query::page_key;
use super::{ControlPlane, Done};

/// The most bytes of one message to an attempt.
const MESSAGE_BYTES_MAX: usize = 256 << 10;
/// The most bytes of the words that go with an answer.
const REASON_BYTES_MAX: usize = 4 << 10;

impl ControlPlane {
    /// Returns an approval as this node's views have it.
    pub fn approval(&self, approval: ApprovalId) -> Result<Option<ApprovalRecord>, Refused> {
        Ok(self.house.approvals.get(approval)?.filter(|record| self.sees(record.agent)))
    }

    /// Lists approvals, the newest first.
    pub fn approvals(
        &self,
        filter: &ApprovalFilter,
        after: Option<ApprovalId>,
        first: usize,
    ) -> Result<Page<ApprovalRecord>, Refused> {
        let read =
            |after: Option<&str>, first| self.house.approvals.page(filter, after.map(page_key::<ApprovalId>).transpose()?, first);
        self.seen_page(after.map(|after| after.to_string()).as_deref(), first, read, |record| self.sees(record.agent))
    }

    /// Answers what a program waits for. The first answer counts: the same again changes nothing, another is a conflict.
    pub async fn answer_approval(
        &self,
        op: Op,
        approval: ApprovalId,
        decision: Permission,
        message: Option<String>,
    ) -> Result<Done<ApprovalRecord>, Refused> {
        if message.as_ref().is_some_and(|message| message.len() > REASON_BYTES_MAX) {
            return Err(Refused::invalid("message", format!("at most {REASON_BYTES_MAX} bytes")));
        }
        if self.house.approvals.get(approval)?.is_none() {
            // It may be quite new.
            self.settled(&op).await?;
        }
        let record = self.house.approvals.get(approval)?.ok_or_else(|| Refused::not_found(approval))?;
        let op = self.may_tend(op, Verb::AnswerApproval, record.ask.lease.task).await?;
        let verdict = Verdict { decision, by: op.principal.to_string(), message };
        let committed = self.change(&op, record.agent, agent::AnswerApproval { approval, verdict }).await?;
        self.seen(&op, committed.cursor).await?;
        let value = self.house.approvals.get(approval)?.ok_or_else(|| Refused::not_found(approval))?;
        Ok(Done { value, cursor: committed.cursor })
    }

    /// Ends the turn of what runs at `task`, which then waits for a message. Errors: `Refused` if it does not run now.
    pub async fn interrupt_task(&self, op: Op, task: TaskId) -> Result<(), Refused> {
        let op = self.may_tend(op, Verb::InterruptTask, task).await?;
        let by = op.principal.to_string();
        self.tell_task(&op, task, |id| Told::Interrupt { id, by: by.clone() }).await
    }

    /// Says something to what runs at `task`, which takes it up when it comes to it, or at once if it was interrupted.
    pub async fn message_task(&self, op: Op, task: TaskId, text: String) -> Result<(), Refused> {
        if text.trim().is_empty() || text.len() > MESSAGE_BYTES_MAX {
            return Err(Refused::invalid("text", format!("between 1 and {MESSAGE_BYTES_MAX} bytes")));
        }
        let op = self.may_tend(op, Verb::MessageTask, task).await?;
        let by = op.principal.to_string();
        self.tell_task(&op, task, |id| Told::Message { id, text: text.clone(), by: by.clone() }).await
    }

    /// Ends the program of the coding agent that runs `task`, and begins the program's own terminal on the same conversation,
    /// for a person to attach to. The agent goes on when that terminal ends, or by [`Self::give_back_task`].
    pub async fn take_over_task(&self, op: Op, task: TaskId) -> Result<(), Refused> {
        let op = self.may_tend(op, Verb::TakeOverTask, task).await?;
        let by = op.principal.to_string();
        self.tell_task(&op, task, |id| Told::TakeOver { id, by: by.clone() }).await
    }

    /// Ends the terminal of a task that was taken over; the agent goes on, and is told `message` if there is one.
    pub async fn give_back_task(&self, op: Op, task: TaskId, message: Option<String>) -> Result<(), Refused> {
        if message.as_ref().is_some_and(|text| text.trim().is_empty() || text.len() > MESSAGE_BYTES_MAX) {
            return Err(Refused::invalid("message", format!("between 1 and {MESSAGE_BYTES_MAX} bytes, or none")));
        }
        let op = self.may_tend(op, Verb::GiveBackTask, task).await?;
        let by = op.principal.to_string();
        self.tell_task(&op, task, |id| Told::GiveBack { id, by: by.clone(), message: message.clone() }).await
    }

    /// Removes merged branches that attempts left in the agent's repository; with `force` also unmerged ones. The whole
    /// repository is looked at: agents that share it leave branches of one kind.
    pub async fn clean_workspace(&self, op: Op, agent: AgentId, force: bool, dry_run: bool) -> Result<Cleaned, Refused> {
        let op = self.may(op, Verb::CleanWorkspace, agent).await?;
        self.admitted(&op)?;
        // One that is nowhere would be waited for in vain.
        if !self.has_agent(&op, agent).await? {
            return Err(Refused::not_found(agent));
        }
        self.ask(&op, agent, agent::Clean { force, dry_run }).await?
    }

    /// Returns the request as one that may be made about a task, which is looked up first.
    async fn may_tend(&self, op: Op, verb: Verb, task: TaskId) -> Result<Op, Refused> {
        let record = self.swarm_of(&op, task).await?;
        self.may(op, verb, &record).await
    }

    async fn tell_task(&self, op: &Op, task: TaskId, told: impl Fn(String) -> Told) -> Result<(), Refused> {
        self.admitted(op)?;
        let agent = self.agent_at(op, task).await?;
        // The same operation is the same thing said, which is heard once.
        let id = match &op.operation {
            Some(operation) => id_of(operation.as_ref()),
            None => uuid(hiveward_runtime::id::new_v7()),
        };
        let told = told(id);
        self.ask(op, agent, agent::Tell { task, told }).await?
    }

    /// Returns the agent that runs the task now.
    async fn agent_at(&self, op: &Op, task: TaskId) -> Result<AgentId, Refused> {
        self.settled(op).await?;
        let record = self.house.work.tasks.get(task)?.ok_or_else(|| Refused::not_found(task))?;
        let running = record.attempts.last().filter(|attempt| attempt.ended_at.is_none());
        running.map(|attempt| attempt.agent).ok_or_else(|| {
            Refused::new(Code::Refused, format!("{task} does not run now: it is {}; nothing happened", record.status.name()))
        })
    }
}

fn id_of(operation: &str) -> String {
    uuid(u128::from_be_bytes(hiveward_runtime::store::blob::fingerprint(operation.as_bytes())))
}

/// Writes an id in the form that programs like.
fn uuid(bits: u128) -> String {
    let digits = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
}
