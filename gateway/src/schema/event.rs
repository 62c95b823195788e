//! Events of the ledger: a page of them, and all that follow.

use std::sync::Arc;

use async_graphql::{Context, ID, InputObject, Object, Subscription};
use futures_util::{Stream, StreamExt};
use hiveward_actors::client::{self, EventRecord};
use hiveward_kernel::page::Page;
use hiveward_runtime::{error::Refused, ledger};

use super::{
    Result, door, may_open,
    page::{self, Pages},
    parse,
    scalars::{Cursor, DateTime},
};
use crate::{engine::Position, stream::tail::SharedTail};

/// Something that happened, in the order in which it was committed.
#[derive(Clone)]
pub struct Event(pub Arc<EventRecord>);

impl From<EventRecord> for Event {
    fn from(record: EventRecord) -> Self {
        Self(Arc::new(record))
    }
}

#[Object]
impl Event {
    async fn cursor(&self) -> Cursor {
        self.0.cursor.into()
    }
    async fn at(&self) -> DateTime {
        self.0.at.into()
    }
    /// The key of the entity whose stream it is in.
    async fn stream(&self) -> ID {
        self.0.stream.as_str().into()
    }
    /// In the past tense, such as `TaskSubmitted`.
    async fn kind(&self) -> &str {
        &self.0.kind
    }
    async fn task(&self) -> Option<ID> {
        self.0.task.map(|task| task.to_string().into())
    }
    async fn agent(&self) -> Option<ID> {
        self.0.agent.map(|agent| agent.to_string().into())
    }
    /// Who asked for it: the name of a token, or `node` for a node's own doing. Null for what followed of itself, and for events
    /// of versions that did not write it down.
    async fn by(&self) -> Option<&str> {
        self.0.by.as_deref()
    }
    /// The request that led to it, by the id under which log lines name it.
    async fn trace(&self) -> Option<ID> {
        self.0.trace.map(|trace| trace.to_string().into())
    }
    /// What it says, without secrets.
    async fn data(&self) -> &serde_json::Value {
        &self.0.data
    }
}

#[derive(InputObject, Default)]
pub struct EventFilter {
    /// Only these entities' streams.
    stream: Option<Vec<ID>>,
    /// Only streams of these nouns, such as `swarm`.
    noun: Option<Vec<String>>,
    /// Only these kinds, such as `TaskSubmitted`.
    kind: Option<Vec<String>>,
    /// Only about this task.
    task: Option<ID>,
    /// Only about this agent.
    agent: Option<ID>,
    /// Only what this principal asked for.
    by: Option<String>,
}

impl EventFilter {
    fn parse(self) -> Result<client::EventFilter, Refused> {
        let streams = self.stream.unwrap_or_default();
        Ok(client::EventFilter {
            stream: streams.iter().map(|id| parse::key("filter.stream", id)).collect::<Result<_, _>>()?,
            noun: self.noun.unwrap_or_default(),
            kind: self.kind.unwrap_or_default(),
            task: parse::optional("filter.task", self.task.as_ref())?,
            agent: parse::optional("filter.agent", self.agent.as_ref())?,
            by: self.by,
        })
    }
}

fn after_text(after: &str) -> Result<ledger::Cursor, Refused> {
    after.parse().map_err(|_| Refused::invalid("after", "a cursor is text that this API gave out before, or \"0\""))
}

#[derive(Default)]
pub struct EventQuery;

#[Object]
impl EventQuery {
    /// Events after and before cursors, and moments, oldest first; an edge's cursor is the event's. `first` counts from the
    /// oldest of them; `last` instead from the newest, and is gone on with by `before: startCursor`. `since` and `until` go by
    /// the clock of the node that led when it happened.
    #[allow(clippy::too_many_arguments)] // It is how GraphQL takes arguments.
    async fn events(
        &self,
        ctx: &Context<'_>,
        after: Option<Cursor>,
        before: Option<Cursor>,
        since: Option<DateTime>,
        until: Option<DateTime>,
        filter: Option<EventFilter>,
        first: Option<i32>,
        last: Option<i32>,
    ) -> Result<Pages<Event>> {
        let control = door(ctx)?;
        let filter = filter.unwrap_or_default().parse()?;
        let mut from = after.map_or(ledger::Cursor(0), |cursor| cursor.0);
        if let Some(since) = since {
            from = from.max(control.cursor_before(since.0)?);
        }
        let mut to = before.map(|cursor| cursor.0);
        if let Some(until) = until {
            let end = ledger::Cursor(control.cursor_before(until.0)?.0.saturating_add(1));
            to = Some(to.map_or(end, |to| to.min(end)));
        }
        if let Some(last) = last {
            if first.is_some() {
                return Err(Refused::invalid("last", "give `first` or `last`, not both").into());
            }
            let end = to.unwrap_or(ledger::Cursor(u64::MAX));
            let (events, older) = control.events_back(end, from, &filter, page::last(last)?)?;
            let items = events.into_iter().map(|record| (record.cursor.to_string(), record)).collect();
            return Ok(page::backwards(items, older.map(|cursor| cursor.to_string()), to.is_some()));
        }
        let first = page::first(first)?;
        let mut events = control.events(from, &filter, first + 1)?;
        events.retain(|event| to.is_none_or(|to| event.cursor < to));
        let has_next = events.len() > first;
        events.truncate(first);
        let items = events.into_iter().map(|record| (record.cursor.to_string(), record)).collect();
        let after = after.map(|cursor| cursor.0.to_string()).filter(|after| after != "0");
        Ok(page::connection(Page { items, has_next, last_seen: None }, after.as_deref()))
    }
}

#[derive(Default)]
pub struct EventFeed;

#[Subscription]
impl EventFeed {
    /// Every event after the cursor (only new ones if absent), in order, each once. Resume with the last one's cursor.
    async fn events(
        &self,
        ctx: &Context<'_>,
        after: Option<Cursor>,
        filter: Option<EventFilter>,
    ) -> Result<impl Stream<Item = Result<Event>>> {
        may_open(ctx, "events")?;
        let position: Position = ctx.data::<Position>()?.clone();
        let after = match position.resume_after() {
            Some(text) => Some(after_text(&text)?),
            None => after.map(|cursor| cursor.0),
        };
        let tail: &Arc<SharedTail> = ctx.data()?;
        let after = after.unwrap_or_else(|| tail.head());
        // Known before the first event, so that a subscriber that has caught up can share the answers of others.
        position.reach(after);
        let events = tail.follow(door(ctx)?.clone(), after, filter.unwrap_or_default().parse()?);
        Ok(events.map(move |event| {
            let event = event?;
            position.reach(event.cursor);
            Ok(Event(event))
        }))
    }
}
