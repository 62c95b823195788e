//! Changes of the parts of the catalogue, and what follows from one of them: the warnings of budgets.
//!
//! A part of the roster's actor.

use hiveward_catalogue::{
    budget::{Budget, Scope},
    part::{PartChange, PartEvent, budget::BudgetEvent},
    roster::event::RosterEvent,
};
use hiveward_kernel::{commit::CommitReply, operation::Operation};
use hiveward_runtime::{error::Refused, id::Key, supervise::Failure};

use super::{
    actor::{Acting, Roster},
    decide,
};

impl Roster {
    /// Changes a part of the catalogue, once every node that may come back knows that part.
    pub(super) async fn declare(
        &self,
        acting: &mut Acting,
        change: Result<PartChange, Refused>,
        operation: Option<Operation>,
        reply: CommitReply<Key>,
    ) -> Result<(), Failure> {
        let change = match change {
            Ok(change) => change,
            Err(refused) => {
                reply.answer(Err(refused));
                return Ok(());
            }
        };
        let events = self.house.directory.read(|known| {
            decide::all_know(known, change.noun())?;
            let events = change.decide(known, operation.as_ref())?;
            Ok(events.into_iter().map(RosterEvent::Part).collect())
        });
        self.answer(acting, operation, reply, change.key(), events).await
    }

    /// Writes of each budget that has come to what it warns at that it has: here alone, so once.
    pub(super) async fn warn(&self, acting: &mut Acting) -> Result<(), Failure> {
        let watched: Vec<(Scope, Budget)> = self.house.directory.read(|known| {
            let open = known.parts.budgets.all.iter().filter(|(_, entry)| !entry.warned && entry.budget.warn_percent.is_some());
            open.map(|(scope, entry)| (scope.clone(), entry.budget)).collect()
        });
        // For budgets that were just set, the view may still count what was spent of those before them.
        if watched.is_empty() || self.house.views.cursor() < self.house.directory.read(|known| known.parts.budgets.changed) {
            return Ok(());
        }
        let scopes: Vec<_> = watched.iter().map(|(scope, _)| scope.clone()).collect();
        let spent = match self.house.models.usage.spent(&scopes) {
            Ok(spent) => spent,
            Err(refused) => {
                tracing::warn!(why = refused.message, "what was spent of budgets cannot be read; it is looked at again");
                return Ok(());
            }
        };
        let passed = watched.into_iter().zip(spent).filter(|((_, budget), spent)| budget.is_warned_at(*spent));
        let events = passed
            .map(|((scope, _), spent)| RosterEvent::Part(PartEvent::Budget(BudgetEvent::BudgetWarned { scope, spent })))
            .collect();
        self.commit(acting, events).await?;
        Ok(())
    }
}
