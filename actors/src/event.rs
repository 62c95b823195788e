//! Events as clients see them: public JSON, decoded from the ledger, without what only the house needs.

use std::sync::Arc;

use hiveward_agents::event::AgentEvent;
use hiveward_catalogue::roster::event::RosterEvent;
use hiveward_kernel::id::{AgentId, SwarmId, TaskId, VmId};
use hiveward_machines::vm::event::VmEvent;
use hiveward_models::{event as usage, event::UsageEvent, price::decimal_from_nanos};
use hiveward_runtime::{
    clock::WallMs,
    error::{Code, Refused},
    id::Key,
    ledger::{Cursor, Event, Ledger, ReadError, Tail},
};
use hiveward_work::swarm::event::SwarmEvent;
use serde_json::{Value, json};

#[derive(Clone, Debug)]
pub struct EventRecord {
    pub cursor: Cursor,
    pub at: WallMs,
    pub stream: Key,
    pub kind: Arc<str>,
    /// The task that it is about; of several submitted together, the first.
    pub task: Option<TaskId>,
    pub agent: Option<AgentId>,
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
            && self.task.is_none_or(|task| record.task == Some(task) || names_task(&record.data, task))
    }
}

fn names_task(data: &Value, task: TaskId) -> bool {
    let task = task.to_string();
    data.get("tasks").and_then(Value::as_array).is_some_and(|tasks| tasks.iter().any(|its| its.as_str() == Some(&task)))
}

/// Decodes an event into what clients see of it. Errors: `Internal` if this version cannot decode it.
pub fn record(event: &Event) -> Result<EventRecord, Refused> {
    let broken = |error: hiveward_kernel::event::DecodeError| {
        tracing::error!(cursor = %event.cursor, %error, "an event cannot be shown");
        Refused::new(Code::Internal, format!("event {} cannot be decoded", event.cursor))
    };
    let (task, agent, data) = match event.stream.noun() {
        SwarmId::NOUN => {
            let what = SwarmEvent::decode(&event.kind, event.format, &event.body).map_err(broken)?;
            let tasks = what.tasks();
            (tasks.first().copied(), what.agent(), swarm_data(&what, &tasks))
        }
        AgentId::NOUN => {
            let what = AgentEvent::decode(&event.kind, event.format, &event.body).map_err(broken)?;
            let data = match &what {
                AgentEvent::Starting { incarnation } | AgentEvent::Ready { incarnation } => {
                    json!({"incarnation": incarnation.to_string()})
                }
                AgentEvent::Failed { incarnation, message } => {
                    json!({"incarnation": incarnation.to_string(), "message": message})
                }
                AgentEvent::PauseAsked { frozen } => json!({"frozen": frozen}),
                AgentEvent::ApprovalAsked { ask } => json!({
                    "approval": ask.approval.to_string(), "attempt": ask.lease.attempt, "tool": ask.tool, "input": ask.input,
                    "files": ask.files,
                }),
                AgentEvent::ApprovalAnswered { approval, verdict } => json!({
                    "approval": approval.to_string(), "decision": verdict.decision, "by": verdict.by, "message": verdict.message,
                }),
                AgentEvent::ApprovalWithdrawn { approval, why } => json!({"approval": approval.to_string(), "why": why}),
                _ => json!({}),
            };
            let task = if let AgentEvent::ApprovalAsked { ask } = &what { Some(ask.lease.task) } else { None };
            (task, AgentId::try_from(&event.stream).ok(), data)
        }
        usage::NOUN => {
            let UsageEvent::ModelUsed(used) = UsageEvent::decode(&event.kind, event.format, &event.body).map_err(broken)?;
            let data = json!({
                "attempt": used.lease.attempt, "swarm": used.swarm.to_string(), "provider": used.provider, "model": used.model,
                "input": used.usage.input, "output": used.usage.output, "cacheRead": used.usage.cache_read,
                "cacheWrite": used.usage.cache_write, "incomplete": used.incomplete, "fallbackFrom": used.fallback_from,
                "money": used.nanos.map(|nanos| json!({"amount": decimal_from_nanos(nanos), "currency": used.currency})),
            });
            (Some(used.lease.task), Some(used.lease.agent), data)
        }
        VmId::NOUN => (None, None, VmEvent::decode(&event.kind, event.format, &event.body).map_err(broken)?.data()),
        _ => match RosterEvent::decode(&event.kind, event.format, &event.body).map_err(broken)? {
            RosterEvent::SwarmAdded { spec, .. } => (None, None, json!({"swarm": spec.id.to_string(), "name": spec.name})),
            RosterEvent::SwarmRemoved { swarm, .. } => (None, None, json!({"swarm": swarm.to_string()})),
            RosterEvent::AgentAdded { spec, .. } => {
                let data = json!({"agent": spec.id.to_string(), "swarm": spec.swarm.to_string(), "name": spec.name, "connector": spec.connector.name()});
                (None, Some(spec.id), data)
            }
            RosterEvent::AgentRemoved { agent, swarm, .. } => {
                (None, Some(agent), json!({"agent": agent.to_string(), "swarm": swarm.to_string()}))
            }
            RosterEvent::NodeJoined { record } => (
                None,
                None,
                json!({"node": record.node.to_string(), "address": record.address, "zone": record.zone, "labels": record.labels}),
            ),
            RosterEvent::NodeLost { node, why } => (None, None, json!({"node": node.to_string(), "why": why})),
            RosterEvent::NodeBack { node, generation } => {
                (None, None, json!({"node": node.to_string(), "generation": generation.to_string()}))
            }
            RosterEvent::NodeDraining { node, within_ms, .. } => {
                (None, None, json!({"node": node.to_string(), "withinMs": within_ms}))
            }
            RosterEvent::NodeDrainCancelled { node, .. }
            | RosterEvent::NodeDrained { node }
            | RosterEvent::NodeRemoved { node, .. }
            | RosterEvent::TokenUsed { node, .. } => (None, None, json!({"node": node.to_string()})),
            RosterEvent::TokenIssued { .. } => (None, None, json!({})),
            RosterEvent::BudgetSet { scope, budget, .. } => {
                let data = json!({
                    "scope": scope.key(), "tokens": budget.tokens, "money": budget.nanos.map(decimal_from_nanos),
                    "warnPercent": budget.warn_percent,
                });
                (None, scope.agent(), data)
            }
            RosterEvent::BudgetRemoved { scope, .. } => (None, scope.agent(), json!({"scope": scope.key()})),
            RosterEvent::BudgetWarned { scope, spent } => {
                let money = spent.nanos.map(decimal_from_nanos);
                (None, scope.agent(), json!({"scope": scope.key(), "tokens": spent.tokens, "money": money}))
            }
            RosterEvent::Fleet(event) => (None, None, event.data()),
            RosterEvent::Placed { key, node, placement, why } => {
                let agent = AgentId::try_from(&key).ok();
                let data = json!({"key": key.as_str(), "node": node.to_string(), "placement": placement, "why": why});
                (None, agent, data)
            }
            RosterEvent::Unplaced { key, why } => (None, AgentId::try_from(&key).ok(), json!({"key": key.as_str(), "why": why})),
        },
    };
    Ok(EventRecord {
        cursor: event.cursor,
        at: event.at,
        stream: event.stream.clone(),
        kind: event.kind.clone(),
        task,
        agent,
        data,
    })
}

fn swarm_data(what: &SwarmEvent, tasks: &[TaskId]) -> Value {
    let ids: Vec<_> = tasks.iter().map(ToString::to_string).collect();
    match what {
        SwarmEvent::Submitted { tasks, principal, .. } => {
            let titles: Vec<_> = tasks.iter().map(|spec| spec.title.as_str()).collect();
            json!({"tasks": ids, "titles": titles, "principal": principal})
        }
        SwarmEvent::Assigned { lease, decision, .. } => json!({
            "attempt": lease.attempt, "agent": lease.agent.to_string(), "strategy": decision.strategy, "eligible": decision.eligible,
            "score": decision.scores.first().map(|best| best.total),
        }),
        SwarmEvent::Started { lease } | SwarmEvent::Verifying { lease } => json!({"attempt": lease.attempt}),
        SwarmEvent::AttemptEnded { lease, ended, next } => json!({
            "attempt": lease.attempt, "status": ended.status, "exitCode": ended.exit_code, "signal": ended.signal,
            "error": ended.error, "next": next,
        }),
        SwarmEvent::Planned { .. } => json!({"tasks": ids}),
        SwarmEvent::Hedged { twin, .. } => json!({"tasks": ids, "twin": twin.id.to_string(), "why": match &twin.role {
            Some(hiveward_work::task::scatter::Role::Twin { why, .. }) => Some(why),
            _ => None,
        }}),
        SwarmEvent::Gathered { arrived, failed, late, why, .. } => {
            let named = |tasks: &[TaskId]| tasks.iter().map(ToString::to_string).collect::<Vec<_>>();
            json!({"tasks": ids, "in": named(arrived), "failed": named(failed), "late": named(late), "why": why})
        }
        SwarmEvent::Aggregated { error, .. } => json!({"error": error}),
        SwarmEvent::Failed { error, .. } => json!({"error": error}),
        SwarmEvent::Cancelled { reason, .. } => json!({"reason": reason}),
        SwarmEvent::Redriven { attempts, principal, .. } => json!({"attempts": attempts, "principal": principal}),
        SwarmEvent::StaleRefused { lease, said } => json!({"attempt": lease.attempt, "said": said}),
        SwarmEvent::TasksGiven { to, transfer, why, .. } => {
            json!({"tasks": ids, "to": to.to_string(), "transfer": transfer.to_string(), "why": why})
        }
        SwarmEvent::TasksTaken { from, transfer, .. } => {
            json!({"tasks": ids, "from": from.to_string(), "transfer": transfer.to_string()})
        }
        SwarmEvent::TransferRefused { from, transfer } => json!({"from": from.to_string(), "transfer": transfer.to_string()}),
        SwarmEvent::TransferSettled { to, transfer, returned } => {
            json!({"to": to.to_string(), "transfer": transfer.to_string(), "returned": returned})
        }
    }
}

/// Returns up to `first` wanted events after a cursor. It looks at a bounded number: fewer may come than there are.
pub fn read(ledger: &Ledger, after: Cursor, filter: &EventFilter, first: usize) -> Result<Vec<EventRecord>, Refused> {
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
            if filter.wants(&record) {
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
            if filter.wants(&record) {
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
