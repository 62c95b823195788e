//! Events as clients see them: public JSON, decoded from the ledger, without what only the house needs.

use std::sync::Arc;

use hiveward_agents::event::AgentEvent;
use hiveward_catalogue::roster::event::RosterEvent;
use hiveward_kernel::{
    event::{DecodeError, PublicEvent, asker_of},
    id::{AgentId, SwarmId, TaskId, VmId},
};
use hiveward_machines::vm::event::VmEvent;
use hiveward_models::{event as usage, event::UsageEvent};
use hiveward_runtime::{
    clock::WallMs,
    error::{Code, Refused},
    id::Key,
    ledger::{Cursor, Event, Ledger, ReadError, Tail},
    op::TraceId,
};
use hiveward_work::swarm::event::SwarmEvent;
use serde_json::Value;

#[derive(Clone, Debug)]
pub struct EventRecord {
    pub cursor: Cursor,
    pub at: WallMs,
    pub stream: Key,
    pub kind: Arc<str>,
    /// The task that it is about; of several submitted together, the first.
    pub task: Option<TaskId>,
    pub agent: Option<AgentId>,
    /// The principal that asked for it; none for what the house decided of itself.
    pub by: Option<Arc<str>>,
    /// The request that led to it, as log lines name it.
    pub trace: Option<TraceId>,
    pub data: Value,
}

/// What a client wants of the events. An empty filter wants all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    pub stream: Vec<Key>,
    pub noun: Vec<String>,
    pub kind: Vec<String>,
    pub task: Option<TaskId>,
    pub agent: Option<AgentId>,
    /// The principal that asked for it.
    pub by: Option<String>,
}

impl EventFilter {
    /// Tells whether the stream is wanted. A swarm's stream is that of all its shards.
    fn wants_stream(&self, stream: &Key) -> bool {
        self.stream.is_empty()
            || self.stream.contains(stream)
            || SwarmId::try_from(stream).is_ok_and(|shard| self.stream.contains(&shard.head().key()))
    }

    /// Tells whether an event may be wanted, as far as that is known without decoding it.
    fn may_want(&self, event: &Event) -> bool {
        self.wants_stream(&event.stream)
            && (self.noun.is_empty() || self.noun.iter().any(|noun| noun == event.stream.noun()))
            && (self.kind.is_empty() || self.kind.iter().any(|kind| **kind == *event.kind))
            && (self.task.is_none() || matches!(event.stream.noun(), SwarmId::NOUN | usage::NOUN))
            && (self.agent.is_none() || event.stream.noun() != VmId::NOUN)
    }

    /// Tells whether a record that was made for nobody in particular is wanted.
    pub fn wants(&self, record: &EventRecord) -> bool {
        self.wants_stream(&record.stream)
            && (self.noun.is_empty() || self.noun.iter().any(|noun| noun == record.stream.noun()))
            && (self.kind.is_empty() || self.kind.iter().any(|kind| **kind == *record.kind))
            && self.agent.is_none_or(|agent| record.agent == Some(agent))
            && self.by.as_deref().is_none_or(|by| record.by.as_deref() == Some(by))
            && self.task.is_none_or(|task| record.task == Some(task) || names_task(&record.data, task))
    }
}

fn names_task(data: &Value, task: TaskId) -> bool {
    let task = task.to_string();
    data.get("tasks").and_then(Value::as_array).is_some_and(|tasks| tasks.iter().any(|its| its.as_str() == Some(&task)))
}

/// Decodes an event as its noun shows it to clients. A new kind of stream has a line here.
fn public(event: &Event) -> Result<PublicEvent, DecodeError> {
    let Event { stream, kind, format, body, .. } = event;
    Ok(match stream.noun() {
        SwarmId::NOUN => SwarmEvent::decode(kind, *format, body)?.public(),
        AgentId::NOUN => AgentEvent::decode(kind, *format, body)?.public(AgentId::try_from(stream).ok()),
        VmId::NOUN => PublicEvent::of(VmEvent::decode(kind, *format, body)?.data()),
        usage::NOUN => UsageEvent::decode(kind, *format, body)?.public(),
        _ => RosterEvent::decode(kind, *format, body)?.public(),
    })
}

/// Decodes an event into what clients see of it. Errors: `Internal` if this version cannot decode it.
pub fn record(event: &Event) -> Result<EventRecord, Refused> {
    let broken = |error: &dyn std::fmt::Display| {
        tracing::error!(cursor = %event.cursor, %error, "an event cannot be shown");
        Refused::new(Code::Internal, format!("event {} cannot be decoded", event.cursor))
    };
    let PublicEvent { task, agent, data } = public(event).map_err(|error| broken(&error))?;
    let asker = asker_of(&event.body).map_err(|error| broken(&error))?;
    Ok(EventRecord {
        cursor: event.cursor,
        at: event.at,
        stream: event.stream.clone(),
        kind: event.kind.clone(),
        task,
        agent,
        by: asker.as_ref().map(|asker| asker.principal.clone()),
        trace: asker.map(|asker| asker.trace),
        data,
    })
}

/// Returns up to `first` wanted events after a cursor. It looks at a bounded number: fewer may come than there are.
pub fn read(
    ledger: &Ledger,
    after: Cursor,
    filter: &EventFilter,
    first: usize,
    sees: impl Fn(&EventRecord) -> bool,
) -> Result<Vec<EventRecord>, Refused> {
    /// The most events that are looked through for one page.
    const EVENTS_PER_PAGE_MAX: usize = 100_000;
    let mut found = Vec::new();
    let (mut at, mut looked) = (after, 0);
    while found.len() < first && looked < EVENTS_PER_PAGE_MAX {
        let events = ledger.read(at, 4096).map_err(unreadable)?;
        let Some(last) = events.last() else { break };
        at = last.cursor;
        looked += events.len();
        for event in events.iter().filter(|event| filter.may_want(event)) {
            let record = record(event)?;
            if filter.wants(&record) && sees(&record) {
                found.push(record);
                if found.len() == first {
                    break;
                }
            }
        }
    }
    Ok(found)
}

/// Returns the last wanted events before a cursor, oldest first, and the cursor to go on before if there may be older ones.
pub fn read_back(
    ledger: &Ledger,
    before: Cursor,
    not_before: Cursor,
    filter: &EventFilter,
    last: usize,
    sees: impl Fn(&EventRecord) -> bool,
) -> Result<(Vec<EventRecord>, Option<Cursor>), Refused> {
    /// The most events that are looked through for one page.
    const EVENTS_PER_PAGE_MAX: u64 = 100_000;
    const WINDOW_MAX: u64 = 4096;
    let mut window = WINDOW_MAX;
    let mut floor = not_before.0;
    // The newest event that is looked at next.
    let mut to = before.0.saturating_sub(1).min(ledger.head().0);
    let lowest = to.saturating_sub(EVENTS_PER_PAGE_MAX);
    let mut found: Vec<EventRecord> = Vec::new();
    while to > floor && to > lowest && found.len() < last {
        let from = floor.max(to.saturating_sub(window));
        let events = match ledger.read(Cursor(from), usize::try_from(to - from).unwrap_or(usize::MAX)) {
            Err(ReadError::Compacted { oldest }) if oldest.0 < to && oldest.0 > floor => {
                floor = oldest.0;
                continue;
            }
            Err(ReadError::Compacted { .. }) => break,
            read => read.map_err(unreadable)?,
        };
        let reached = events.last().map_or(to, |event| event.cursor.0);
        if reached < to && window > 1 {
            // They are so large that fewer were read than lie there: the newest of them are wanted first.
            window = ((reached - from) / 2).max(1);
            continue;
        }
        for event in events.iter().rev().filter(|event| event.cursor.0 <= to && filter.may_want(event)) {
            let record = record(event)?;
            if filter.wants(&record) && sees(&record) {
                found.push(record);
                if found.len() == last {
                    to = event.cursor.0 - 1;
                    break;
                }
            }
        }
        if found.len() < last {
            to = from;
        }
    }
    found.reverse();
    Ok((found, (to > floor).then_some(Cursor(to + 1))))
}

/// Returns the last cursor whose event happened before a moment, by the clock of the node that led then.
pub fn cursor_before(ledger: &Ledger, moment: WallMs) -> Result<Cursor, Refused> {
    let (mut from, mut to) = (0, ledger.head().0);
    // The events up to `from` happened before it, those after `to` did not.
    while from < to {
        let middle = from + (to - from) / 2;
        match ledger.read(Cursor(middle), 1) {
            Ok(events) => match events.first() {
                Some(event) if event.at.0 < moment.0 => from = event.cursor.0,
                _ => to = middle,
            },
            Err(ReadError::Compacted { oldest }) if oldest.0 > middle => from = oldest.0.min(to),
            Err(error) => return Err(unreadable(error)),
        }
    }
    Ok(Cursor(from))
}

/// Turns a failed read of the ledger into an answer: `Refused` if the events were compacted, else `Unavailable`.
pub fn unreadable(error: ReadError) -> Refused {
    match error {
        ReadError::Compacted { .. } => Refused::new(Code::Refused, error.to_string()),
        other => Refused::new(Code::Unavailable, other.to_string()),
    }
}

/// The events after a cursor as they come: none is missed, none comes twice.
pub struct EventTail {
    tail: Tail,
    filter: EventFilter,
}

impl EventTail {
    /// Begins after a cursor.
    pub fn new(ledger: &Ledger, after: Cursor, filter: EventFilter) -> Self {
        Self { tail: ledger.tail(after), filter }
    }

    /// Waits for the next events that are wanted. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Vec<EventRecord>, Refused> {
        loop {
            let events = self.tail.next().await.map_err(unreadable)?;
            let mut found = Vec::new();
            for event in events.iter().filter(|event| self.filter.may_want(event)) {
                let record = record(event)?;
                if self.filter.wants(&record) {
                    found.push(record);
                }
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
}
