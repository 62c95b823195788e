//! A coordinator's events as clients see them.

use hiveward_kernel::{event::PublicEvent, id::TaskId};
use serde_json::json;

use super::event::SwarmEvent;

impl SwarmEvent {
    /// Returns what happened, as clients see it: ids, titles and reasons, and no body of a task.
    pub fn public(&self) -> PublicEvent {
        let tasks = self.tasks();
        let ids: Vec<_> = tasks.iter().map(ToString::to_string).collect();
        let data = match self {
            Self::Submitted { tasks, principal, .. } => {
                let titles: Vec<_> = tasks.iter().map(|spec| spec.title.as_str()).collect();
                json!({"tasks": ids, "titles": titles, "principal": principal})
            }
            Self::Assigned { lease, decision, .. } => json!({
                "attempt": lease.attempt, "agent": lease.agent.to_string(), "strategy": decision.strategy, "eligible": decision.eligible,
                "score": decision.scores.first().map(|best| best.total),
            }),
            Self::Started { lease } | Self::Verifying { lease } => json!({"attempt": lease.attempt}),
            Self::AttemptEnded { lease, ended, next } => json!({
                "attempt": lease.attempt, "status": ended.status, "exitCode": ended.exit_code, "signal": ended.signal,
                "error": ended.error, "next": next,
            }),
            Self::Planned { .. } => json!({"tasks": ids}),
            Self::Hedged { twin, .. } => json!({"tasks": ids, "twin": twin.id.to_string(), "why": match &twin.role {
                Some(crate::task::scatter::Role::Twin { why, .. }) => Some(why),
                _ => None,
            }}),
            Self::Gathered { arrived, failed, late, why, .. } => {
                let named = |tasks: &[TaskId]| tasks.iter().map(ToString::to_string).collect::<Vec<_>>();
                json!({"tasks": ids, "in": named(arrived), "failed": named(failed), "late": named(late), "why": why})
            }
            Self::Aggregated { error, .. } => json!({"error": error}),
            Self::Failed { error, .. } => json!({"error": error}),
            Self::Cancelled { reason, .. } => json!({"reason": reason}),
            Self::Redriven { attempts, principal, .. } => json!({"attempts": attempts, "principal": principal}),
            Self::StaleRefused { lease, said } => json!({"attempt": lease.attempt, "said": said}),
            Self::TasksGiven { to, transfer, why, .. } => {
                json!({"tasks": ids, "to": to.to_string(), "transfer": transfer.to_string(), "why": why})
            }
            Self::TasksTaken { from, transfer, .. } => {
                json!({"tasks": ids, "from": from.to_string(), "transfer": transfer.to_string()})
            }
            Self::TransferRefused { from, transfer } => json!({"from": from.to_string(), "transfer": transfer.to_string()}),
            Self::TransferSettled { to, transfer, returned } => {
                json!({"to": to.to_string(), "transfer": transfer.to_string(), "returned": returned})
            }
        };
        PublicEvent { task: tasks.first().copied(), agent: self.agent(), data }
    }
}
