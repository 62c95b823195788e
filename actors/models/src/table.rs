//! Keeps the view of what models were used: totals by attempt and model, agent, swarm, label and model. Owns its tables; built
//! from the streams of all nodes, so it knows what the cluster spent as far as this node has heard.

use std::collections::BTreeMap;

use hiveward_catalogue::{
    budget::{Amount, Scope},
    part::{PartEvent, budget::BudgetEvent},
    roster::event::RosterEvent,
};
use hiveward_kernel::{lease::Lease, page::Page, view::unreadable};
use hiveward_runtime::{
    error::Refused,
    id::Key,
    ledger::{
        Event,
        row::{pack, unpack},
        view::{TableWalk, View, ViewError, Views, copy_table},
    },
    op::NodeId,
};
use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::{
    event::{self, ModelUsed, UsageEvent},
    usage::Usage,
};

/// The totals by kind and key, see [`row_of`].
const TOTALS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("usage_totals");
/// The version up to which each node's stream was taken in.
const STREAMS: TableDefinition<'_, &str, u64> = TableDefinition::new("usage_streams");

/// The amount that had been spent of a scope when it was given its budget: from there on it counts.
const BEFORE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("usage_before_budget");

/// The most models of one attempt that are added up by name, and below of all. Names of models come from agents: beyond these
/// they are added up as one.
const MODELS_PER_ATTEMPT_MAX: usize = 64;
const MODELS_MAX: usize = 2_000;
const NAME_BYTES_MAX: usize = 256;
pub(super) const OTHER_MODELS: &str = "other models";

/// The sum of what was used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    pub usage: Usage,
    pub calls: u64,
    /// The calls among them that were cut before they had said all they used.
    pub incomplete: u64,
    /// The cost of those calls whose cost is known, in billionths of the currency.
    pub nanos: u64,
    /// The calls whose cost is not known.
    pub unpriced: u64,
    /// The amount that counts in budgets of money, in billionths of the currency.
    pub counted_nanos: u64,
    pub currency: Option<String>,
}

impl Total {
    fn of(used: &ModelUsed) -> Self {
        Self {
            usage: used.usage,
            calls: 1,
            incomplete: used.incomplete.into(),
            nanos: used.nanos.unwrap_or(0),
            unpriced: used.nanos.is_none().into(),
            counted_nanos: used.counted_nanos,
            currency: used.nanos.is_some().then(|| used.currency.clone()),
        }
    }

    fn add(&mut self, other: &Self) {
        let mixed = self.currency.is_some() && other.currency.is_some() && self.currency != other.currency;
        self.usage.add(other.usage);
        self.calls += other.calls;
        self.incomplete += other.incomplete;
        // Sums of two currencies are no sums.
        self.nanos = if mixed { self.nanos } else { self.nanos.saturating_add(other.nanos) };
        self.unpriced += if mixed { other.calls } else { other.unpriced };
        self.counted_nanos = self.counted_nanos.saturating_add(other.counted_nanos);
        if self.currency.is_none() {
            self.currency.clone_from(&other.currency);
        }
    }

    /// Returns the billionths and the currency, if the cost of every call is known.
    pub fn money(&self) -> Option<(u64, &str)> {
        self.currency.as_deref().filter(|_| self.unpriced == 0).map(|currency| (self.nanos, currency))
    }

    pub(super) fn amount(&self) -> Amount {
        Amount { tokens: self.usage.tokens(), nanos: Some(self.counted_nanos) }
    }
}

/// The kind of thing that totals are listed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageBy {
    Agent,
    Swarm,
    Label,
    Model,
}

impl UsageBy {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Agent => "a/",
            Self::Swarm => "s/",
            Self::Label => "l/",
            Self::Model => "m/",
        }
    }
}

/// Returns the row of a scope's total; for an attempt, what the rows of its models begin with.
fn row_of(scope: &Scope) -> String {
    match scope {
        Scope::Attempt(lease) => format!("t/{}/{:010}/", lease.task, lease.attempt),
        Scope::Agent(agent) => format!("a/{agent}"),
        Scope::Swarm(swarm) => format!("s/{swarm}"),
        Scope::Label(label) => format!("l/{label}"),
    }
}

/// Returns the first text after all that begin with a prefix, which ends with `/`.
fn after(prefix: &str) -> String {
    format!("{}0", &prefix[..prefix.len() - 1])
}

/// The view that adds up usage.
pub struct UsageView;

impl View for UsageView {
    fn name(&self) -> &'static str {
        "usage"
    }

    fn format(&self) -> u32 {
        2
    }

    fn prepare(&self, txn: &WriteTransaction) -> Result<(), ViewError> {
        txn.open_table(TOTALS)?;
        txn.open_table(STREAMS)?;
        txn.open_table(BEFORE)?;
        Ok(())
    }

    fn copy(&self, from: &ReadTransaction, to: &WriteTransaction) -> Result<(), ViewError> {
        copy_table(TOTALS, from, to)?;
        copy_table(STREAMS, from, to)?;
        copy_table(BEFORE, from, to)
    }

    fn check(&self, txn: &ReadTransaction, walk: &mut TableWalk) -> Result<(), ViewError> {
        walk.table(TOTALS, txn, |row, kept| unpack::<Total>(row, kept).map(drop))?;
        walk.keys(STREAMS, txn)?;
        walk.table(BEFORE, txn, |row, kept| unpack::<Amount>(row, kept).map(drop))?;
        Ok(())
    }

    fn apply(&self, txn: &WriteTransaction, events: &[Event]) -> Result<(), ViewError> {
        let mut gathered = Gathered::default();
        for event in events {
            match (event.stream.noun(), &*event.kind) {
                (event::NOUN, _) => {
                    let UsageEvent::ModelUsed(used) = UsageEvent::decode(&event.kind, event.format, &event.body)?;
                    gathered.take(&event.stream, event.version, &used);
                }
                (RosterEvent::NOUN, "BudgetSet" | "BudgetRemoved") => {
                    std::mem::take(&mut gathered).write(txn)?;
                    if let RosterEvent::Part(PartEvent::Budget(event)) =
                        RosterEvent::decode(&event.kind, event.format, &event.body)?
                    {
                        budget(txn, &event)?;
                    }
                }
                _ => {}
            }
        }
        gathered.write(txn)
    }
}

/// Notes where a budget begins, or forgets that. A budget that is changed goes on from where it began.
fn budget(txn: &WriteTransaction, what: &BudgetEvent) -> Result<(), ViewError> {
    let mut before = txn.open_table(BEFORE)?;
    match what {
        BudgetEvent::BudgetSet { scope, .. } => {
            let row = row_of(scope);
            if before.get(row.as_str())?.is_none() {
                let total = match txn.open_table(TOTALS)?.get(row.as_str())? {
                    Some(kept) => unpack(row.as_str(), kept.value())?,
                    None => Total::default(),
                };
                before.insert(row.as_str(), pack(row.as_str(), &total.amount())?.as_slice())?;
            }
        }
        BudgetEvent::BudgetRemoved { scope, .. } => drop(before.remove(row_of(scope).as_str())?),
        BudgetEvent::BudgetWarned { .. } => {}
    }
    Ok(())
}

/// The sums of some events, so that each row is written once.
#[derive(Default)]
struct Gathered {
    rows: BTreeMap<String, Total>,
    streams: BTreeMap<Key, u64>,
}

impl Gathered {
    fn take(&mut self, stream: &Key, version: u64, used: &ModelUsed) {
        self.streams.insert(stream.clone(), version);
        let end = used.model.floor_char_boundary(NAME_BYTES_MAX);
        let (model, total) = (&used.model[..end], Total::of(used));
        for scope in used.scopes() {
            let mut row = row_of(&scope);
            if matches!(scope, Scope::Attempt(_)) {
                row.push_str(model);
            }
            self.rows.entry(row).or_default().add(&total);
        }
        self.rows.entry(format!("{}{model}", UsageBy::Model.prefix())).or_default().add(&total);
    }

    fn write(self, txn: &WriteTransaction) -> Result<(), ViewError> {
        if self.streams.is_empty() {
            return Ok(());
        }
        let mut totals = txn.open_table(TOTALS)?;
        for (mut row, more) in self.rows {
            let mut total = match totals.get(row.as_str())? {
                Some(kept) => unpack(row.as_str(), kept.value())?,
                None => Total::default(),
            };
            if total.calls == 0
                && let Some((prefix, max)) = bound(&row)
                && totals.range(prefix..after(prefix).as_str())?.take(max).count() >= max
            {
                row = format!("{prefix}{OTHER_MODELS}");
                if let Some(kept) = totals.get(row.as_str())? {
                    total = unpack(row.as_str(), kept.value())?;
                }
            }
            total.add(&more);
            totals.insert(row.as_str(), pack(row.as_str(), &total)?.as_slice())?;
        }
        let mut streams = txn.open_table(STREAMS)?;
        for (stream, version) in self.streams {
            streams.insert(stream.as_str(), version)?;
        }
        Ok(())
    }
}

/// Returns the beginning of the rows that are bounded together with this one, and how many there may be.
fn bound(row: &str) -> Option<(&str, usize)> {
    match row.get(..2)? {
        "m/" => Some(("m/", MODELS_MAX)),
        "t/" => row.match_indices('/').nth(2).map(|(end, _)| (&row[..=end], MODELS_PER_ATTEMPT_MAX)),
        _ => None,
    }
}

/// The facts that the view has heard, read in one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// The version of the own stream that is in it.
    pub applied: u64,
    /// The amounts spent, in the order of the scopes that were asked for.
    pub spent: Vec<Amount>,
}

/// The reader of the tables.
#[derive(Clone)]
pub struct UsageTable {
    views: Views,
}

impl UsageTable {
    /// Makes a reader of these views.
    pub fn new(views: Views) -> Self {
        Self { views }
    }

    /// Returns the totals of an attempt by model, in their order.
    pub fn of_attempt(&self, lease: Lease) -> Result<Vec<(String, Total)>, Refused> {
        self.look(|totals| rows(totals, &row_of(&Scope::Attempt(lease)), None).collect())
    }

    /// Returns the totals of agents, swarms and labels; `None` for one for which no model was called.
    pub fn of(&self, scopes: &[Scope]) -> Result<Vec<Option<Total>>, Refused> {
        self.look(|totals| scopes.iter().map(|scope| read(totals, &row_of(scope))).collect())
    }

    /// Returns a page of totals in the order of their keys, at most `first`, which begins after the key `after`.
    pub fn page(&self, by: UsageBy, after: Option<&str>, first: usize) -> Result<Page<Total>, Refused> {
        self.look(|totals| {
            let mut items = rows(totals, by.prefix(), after).take(first.saturating_add(1)).collect::<Result<Vec<_>, _>>()?;
            let has_next = items.len() > first;
            items.truncate(first);
            let last_seen = items.last().map(|(key, _)| key.clone());
            Ok(Page { items, has_next, last_seen })
        })
    }

    pub(super) fn heard(&self, stream: &Key, scopes: &[Scope]) -> Result<Heard, Refused> {
        let read = || -> Result<Heard, ViewError> {
            let txn = self.views.read()?;
            let (totals, streams) = (txn.open_table(TOTALS)?, txn.open_table(STREAMS)?);
            let applied = streams.get(stream.as_str())?.map_or(0, |version| version.value());
            let before = txn.open_table(BEFORE)?;
            let spent = scopes.iter().map(|scope| spent(&totals, &before, scope)).collect::<Result<_, _>>()?;
            Ok(Heard { applied, spent })
        };
        read().map_err(unreadable)
    }

    /// Returns what was spent since each scope was given its budget; for an attempt, all it ever spent.
    pub fn spent(&self, scopes: &[Scope]) -> Result<Vec<Amount>, Refused> {
        Ok(self.heard(&UsageEvent::stream(NodeId::from_u128(0)), scopes)?.spent)
    }

    fn look<T>(&self, look: impl FnOnce(&Totals) -> Result<T, ViewError>) -> Result<T, Refused> {
        let read = || -> Result<T, ViewError> { look(&self.views.read()?.open_table(TOTALS)?) };
        read().map_err(unreadable)
    }
}

type Totals = redb::ReadOnlyTable<&'static str, &'static [u8]>;

fn read(totals: &Totals, row: &str) -> Result<Option<Total>, ViewError> {
    Ok(totals.get(row)?.map(|kept| unpack(row, kept.value())).transpose()?)
}

/// Reads all rows that begin with a prefix, which it cuts off, after the one that `from` names.
fn rows(totals: &Totals, prefix: &str, from: Option<&str>) -> Box<dyn Iterator<Item = Result<(String, Total), ViewError>>> {
    use std::ops::Bound::{Excluded, Included};

    let cut = prefix.len();
    let begin = from.map(|from| format!("{prefix}{from}"));
    let begin = begin.as_deref().map_or(Included(prefix), Excluded);
    match totals.range::<&str>((begin, Excluded(after(prefix).as_str()))) {
        Err(error) => Box::new(std::iter::once(Err(error.into()))),
        Ok(range) => Box::new(range.map(move |row| {
            let (key, kept) = row?;
            Ok((key.value().get(cut..).unwrap_or_default().to_owned(), unpack(key.value(), kept.value())?))
        })),
    }
}

fn spent(totals: &Totals, before: &Totals, scope: &Scope) -> Result<Amount, ViewError> {
    let row = row_of(scope);
    if let Scope::Attempt(_) = scope {
        let mut sum = Total::default();
        for line in rows(totals, &row, None) {
            sum.add(&line?.1);
        }
        return Ok(sum.amount());
    }
    // The view has not come to where the budget was set: all it has was before that.
    let Some(before) = before.get(row.as_str())? else { return Ok(Amount { tokens: 0, nanos: Some(0) }) };
    let before: Amount = unpack(row.as_str(), before.value())?;
    let now = read(totals, &row)?.unwrap_or_default().amount();
    let nanos = now.nanos.unwrap_or(0).saturating_sub(before.nanos.unwrap_or(0));
    Ok(Amount { tokens: now.tokens.saturating_sub(before.tokens), nanos: Some(nanos) })
}
