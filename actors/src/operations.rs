//! Which events tell of an operation that a client named, and of what it was answered with.

use hiveward_catalogue::roster::event::RosterEvent;
use hiveward_kernel::{
    id::{SwarmId, VmId},
    operation::{Answered, OPERATIONS_KEPT_MAX, Operation, recall::too_many},
};
use hiveward_machines::vm::event::VmEvent;
use hiveward_runtime::{
    error::Refused,
    id::Key,
    ledger::{Event, view::ViewError},
};
use hiveward_work::swarm::event::SwarmEvent;

use crate::house::House;

fn answered(operation: &Operation, event: &Event) -> Answered {
    Answered { input: operation.input, at: event.at, tasks: Vec::new(), about: None, number: None }
}

/// Reads the operation that an event tells of, if it tells of one.
pub fn named(event: &Event) -> Result<Option<(Operation, Answered)>, ViewError> {
    let noun = event.stream.noun();
    if noun == SwarmId::NOUN {
        if !matches!(&*event.kind, "TaskSubmitted" | "TaskCancelled" | "TaskRedriven") {
            return Ok(None);
        }
        let what = SwarmEvent::decode(&event.kind, event.format, &event.body)?;
        let tasks = what.tasks();
        let (SwarmEvent::Submitted { operation, .. }
        | SwarmEvent::Cancelled { operation, .. }
        | SwarmEvent::Redriven { operation, .. }) = what
        else {
            return Ok(None);
        };
        return Ok(operation.map(|operation| (operation.clone(), Answered { tasks, ..answered(&operation, event) })));
    }
    if noun == RosterEvent::NOUN {
        let what = RosterEvent::decode(&event.kind, event.format, &event.body)?;
        let named = what.operation();
        return Ok(named.map(|(operation, about)| {
            (operation.clone(), Answered { about: Some(about.to_string()), ..answered(operation, event) })
        }));
    }
    if noun == VmId::NOUN
        && let VmEvent::Asked(asked) = VmEvent::decode(&event.kind, event.format, &event.body)?
    {
        let number = Some(asked.number);
        return Ok(asked.operation.map(|operation| (operation.clone(), Answered { number, ..answered(&operation, event) })));
    }
    Ok(None)
}

impl House {
    /// Looks up an operation that changed what is declared: returns what it asked for, and the key it was answered with.
    pub fn declared_before(&self, operation: &Operation) -> Result<Option<([u8; 16], Key)>, Refused> {
        if let Some(before) = self.directory.read(|known| known.operation(operation).cloned()) {
            return Ok(Some(before));
        }
        // The directory has forgotten none that is newer than so many events, or than the snapshot it began from.
        let remembers_after = self.directory.read(|known| known.remembers_after);
        if self.views.lag() >= OPERATIONS_KEPT_MAX as u64 || self.views.cursor() < remembers_after {
            return Err(too_many());
        }
        let answered = self.machines.operations.get(&RosterEvent::stream(), &operation.id)?;
        Ok(answered.and_then(|answered| Some((answered.input, answered.about?.parse().ok()?))))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hiveward_kernel::id::TaskId;
    use hiveward_runtime::{clock::WallMs, ledger::Cursor};
    use hiveward_work::swarm::event::FORMAT;

    use super::*;

    #[test]
    fn an_event_without_an_operation_names_none_and_others_are_not_even_decoded() {
        let cancelled = |operation| {
            let what = SwarmEvent::Cancelled { task: TaskId::new(), reason: "test".into(), lease: None, operation };
            Event {
                cursor: Cursor(1),
                stream: SwarmId::new().key(),
                version: 1,
                incarnation: 1,
                at: WallMs(1),
                kind: what.kind().into(),
                format: FORMAT,
                body: what.encode().unwrap(),
            }
        };
        let bare = cancelled(None);
        assert!(named(&bare).unwrap().is_none());
        let other = Event { kind: "TaskStarted".into(), body: Bytes::from_static(b"not looked at"), ..bare };
        assert!(named(&other).unwrap().is_none());
        let (operation, answered) = named(&cancelled(Some(Operation { id: "x".into(), input: [7; 16] }))).unwrap().unwrap();
        assert_eq!((&*operation.id, answered.input, answered.tasks.len()), ("x", [7; 16], 1));
    }
}
