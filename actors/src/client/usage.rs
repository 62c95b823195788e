//! What calls of models used, and what they cost.

use hiveward_access::verb::Verb;
use hiveward_catalogue::{
    budget::{Amount, Budget, Scope},
    part::budget::BudgetEntry,
    roster::message::asks as roster,
};
use hiveward_kernel::{id::BudgetId, lease::Lease, page::Page};
use hiveward_models::{
    price::CURRENCY_DEFAULT,
    table::{Total, UsageBy},
};
use hiveward_runtime::{
    error::{Code, Refused},
    op::Op,
};

use super::{ControlPlane, Done, command::operation};
use crate::client::access::Sought;

/// The most bytes of a label with both of its parts.
const LABEL_BYTES_MAX: usize = 1_024;

#[derive(Clone, Debug)]
pub struct BudgetView {
    pub scope: Scope,
    pub budget: Budget,
    /// What was spent since it was first set, in the whole cluster as far as this node has heard.
    pub spent: Amount,
    /// What calls that are under way on this node have reserved; absent where no models can be called.
    pub reserved: Option<Amount>,
    /// Whether it has come to what it warns at.
    pub warned: bool,
}

fn check_scope(scope: &Scope) -> Result<(), Refused> {
    match scope {
        Scope::Label(label) if label.len() > LABEL_BYTES_MAX || label.starts_with('=') || !label.contains('=') => {
            Err(Refused::invalid("label", format!("a key and a value, together at most {LABEL_BYTES_MAX} bytes")))
        }
        _ => Ok(()),
    }
}

impl ControlPlane {
    /// Returns what calls of models used for these agents, swarms and labels, in the same order; `None` for one without a call.
    pub fn usage_of(&self, scopes: &[Scope]) -> Result<Vec<Option<Total>>, Refused> {
        let totals = self.house.models.usage.of(scopes)?;
        let seen = scopes.iter().zip(totals).map(|(scope, total)| total.filter(|_| self.sees(Sought::Budget(scope))));
        Ok(seen.collect())
    }

    /// Returns what calls of models used for one attempt, by model.
    pub fn usage_of_attempt(&self, lease: Lease) -> Result<Vec<(String, Total)>, Refused> {
        if !self.sees(lease.agent) {
            return Ok(Vec::new());
        }
        self.house.models.usage.of_attempt(lease)
    }

    /// Lists totals of the whole cluster, as far as this node has heard. A page goes on after the last key before it.
    pub fn usage(&self, by: UsageBy, after: Option<&str>, first: usize) -> Result<Page<Total>, Refused> {
        self.house.models.usage.page(by, after, first)
    }

    /// Sets what calls of models for an agent, a swarm (its head) or a label may use, from here on. One that is set already is
    /// changed, and goes on from what was spent of it. When this answers, this node goes by it, and others soon do.
    pub async fn set_budget(&self, op: Op, scope: Scope, budget: Budget) -> Result<Done<BudgetView>, Refused> {
        let op = self.may(op, Verb::SetBudget, Sought::Budget(&scope)).await?;
        if budget.tokens.is_none() && budget.nanos.is_none() {
            return Err(Refused::invalid("tokens", "a budget limits `tokens` or `money`, or both"));
        }
        if budget.warn_percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
            return Err(Refused::invalid("warnPercent", "1 to 100"));
        }
        check_scope(&scope)?;
        let operation = operation(&op, &("set-budget", &scope, budget));
        let done = self.declare(&op, roster::SetBudget { scope: scope.clone(), budget, operation }).await?;
        self.known_at(&op, done.cursor).await?;
        self.seen(&op, done.cursor).await?;
        self.house.models.know_budgets();
        let entry = self.house.directory.read(|known| known.parts.budgets.all.get(&scope).copied());
        let entry = entry.unwrap_or(BudgetEntry { budget, warned: false });
        let value = self.budget_views(vec![(scope, entry)])?.pop();
        let value = value.ok_or_else(|| Refused::new(Code::Internal, "the budget that was set cannot be shown"))?;
        Ok(Done { value, cursor: done.cursor })
    }

    /// Removes a budget. What was spent of it stays in the totals; a budget that is set later counts from then.
    pub async fn remove_budget(&self, op: Op, scope: Scope) -> Result<Done<BudgetId>, Refused> {
        let op = self.may(op, Verb::RemoveBudget, Sought::Budget(&scope)).await?;
        check_scope(&scope)?;
        let operation = operation(&op, &("remove-budget", &scope));
        let done = self.declare(&op, roster::RemoveBudget { scope: scope.clone(), operation }).await?;
        self.known_at(&op, done.cursor).await?;
        self.seen(&op, done.cursor).await?;
        self.house.models.know_budgets();
        Ok(Done { value: scope.budget_id(), cursor: done.cursor })
    }

    /// Lists the budgets in the order of their scopes.
    pub fn budgets(&self, after: Option<BudgetId>, first: usize) -> Result<Page<BudgetView>, Refused> {
        let all: Vec<_> = self.house.directory.read(|known| {
            let all = known.parts.budgets.all.iter();
            all.map(|(scope, entry)| (scope.clone(), *entry)).collect()
        });
        let from = match after {
            Some(after) => all.iter().position(|(scope, _)| scope.budget_id() == after).map_or(all.len(), |at| at + 1),
            None => 0,
        };
        let some: Vec<_> = all.iter().skip(from).take(first).cloned().collect();
        let has_next = from + some.len() < all.len();
        let items: Vec<_> = self.budget_views(some)?.into_iter().map(|view| (view.scope.budget_id().to_string(), view)).collect();
        let last_seen = items.last().map(|(key, _)| key.clone());
        Ok(Page { items, has_next, last_seen })
    }

    fn budget_views(&self, of: Vec<(Scope, BudgetEntry)>) -> Result<Vec<BudgetView>, Refused> {
        let scopes: Vec<_> = of.iter().map(|(scope, _)| scope.clone()).collect();
        let spent = self.house.models.usage.spent(&scopes)?;
        let counter = self.house.models.models().map(|_| self.house.models.counter());
        let views = of.into_iter().zip(spent).map(|((scope, entry), spent)| {
            let reserved = counter.map(|counter| counter.reserved(&scope));
            BudgetView { scope, budget: entry.budget, spent, reserved, warned: entry.warned }
        });
        Ok(views.collect())
    }

    /// Returns the currency of this node's price table.
    pub fn currency(&self) -> String {
        self.house.models.models().map_or_else(|| CURRENCY_DEFAULT.to_owned(), |models| models.currency().to_owned())
    }
}
