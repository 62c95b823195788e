//! A swarm's state at one version, so that a replay need not begin at the first event.

use std::sync::Arc;

use hiveward_runtime::op::OperationId;
use serde::{Deserialize, Serialize};

use super::{
    seat::Tally,
    spec::SwarmSpec,
    state::{Due, Live, Now, Plan, Remembered, Swarm},
    steal::TransfersKept,
};
use crate::{
    id::{AgentId, TaskId},
    task::status::TaskStatus,
};

pub const FORMAT: u16 = 1;

#[derive(Serialize, Deserialize)]
pub struct Snapshot {
    live: Vec<Live>,
    ended: Vec<(TaskId, TaskStatus)>,
    operations: Vec<(OperationId, Remembered)>,
    tallies: Vec<(AgentId, Tally)>,
    /// Last, and absent from what is stored where there is one shard.
    #[serde(default, skip_serializing_if = "TransfersKept::is_none")]
    transfers: TransfersKept,
}

impl Snapshot {
    /// Of a swarm in which everything that follows from what happened has happened: what is still to follow is not kept.
    pub fn of(swarm: &Swarm) -> Self {
        debug_assert!(swarm.is_settled(), "what follows from what happened has not happened");
        let mut live: Vec<_> = swarm.live.values().cloned().collect();
        // The order in which they wait; a restored queue is as fair as the one it was taken from.
        live.sort_by_key(|task| (task.ticket.unwrap_or(u64::MAX), task.spec.id));
        Self {
            live,
            ended: swarm.ended.iter().map(|(task, status)| (*task, *status)).collect(),
            operations: swarm.operations.iter().map(|(id, remembered)| (id.clone(), remembered.clone())).collect(),
            tallies: swarm.seats.tallies.iter().map(|(agent, tally)| (*agent, *tally)).collect(),
            transfers: TransfersKept::of(&swarm.transfers),
        }
    }

    pub fn restore(self, spec: Arc<SwarmSpec>, now: Now) -> Swarm {
        let mut swarm = Swarm::new(spec);
        for (task, status) in self.ended {
            swarm.ended.insert(task, status);
        }
        for (id, remembered) in self.operations {
            swarm.operations.insert(id, remembered);
        }
        swarm.seats.tallies = self.tallies.into_iter().collect();
        swarm.transfers = self.transfers.restore();
        let ids: Vec<_> = self.live.iter().map(|task| task.spec.id).collect();
        swarm.live = self.live.into_iter().map(|task| (task.spec.id, task)).collect();
        for id in ids {
            let Some(task) = swarm.live.get(&id) else { continue };
            let spec = task.spec.clone();
            for on in spec.depends_on.iter().filter(|_| task.waits_for > 0) {
                if swarm.live.contains_key(on) {
                    swarm.dependents.entry(*on).or_default().push(id);
                }
            }
            let (status, wait_ms, delayed) = (task.status, task.wait_ms, task.delayed);
            let all_ended = task.plan.as_ref().is_some_and(Plan::is_over);
            swarm.set_timer(id, Due::TotalTimeout, now);
            match status {
                TaskStatus::Retrying | TaskStatus::Queued if delayed => swarm.set_timer(id, Due::Ready, now),
                TaskStatus::Queued => {
                    if let Some(task) = swarm.live.get_mut(&id) {
                        task.ticket = Some(swarm.ready.push(&spec));
                        task.wait_ms = wait_ms;
                    }
                    swarm.set_timer(id, Due::QueueTimeout, now);
                }
                TaskStatus::Running => swarm.set_timer(id, Due::RunOverdue, now),
                _ => {}
            }
            if spec.role.as_ref().is_some_and(|role| role.scatter().is_some()) {
                swarm.set_timer(id, Due::Gather, now);
                swarm.to_gather.push((id, false));
            }
            swarm.set_timer(id, Due::Hedge, now);
            if all_ended {
                swarm.to_aggregate.push(id);
            }
        }
        swarm
    }
}

#[cfg(test)]
mod tests {
    use hiveward_runtime::clock::WallMs;

    use super::*;
    use crate::swarm::{event::SwarmEvent, testing};

    #[test]
    fn a_snapshot_from_before_there_were_shards_is_read_and_that_of_a_single_shard_is_stored_like_it() {
        // Four empty lists, as they were written.
        let before = [0x94, 0x90, 0x90, 0x90, 0x90];
        let snapshot: Snapshot = rmp_serde::from_slice(&before).unwrap();
        assert_eq!(rmp_serde::to_vec(&snapshot).unwrap(), before);
        // A task that another depends on is a list of fifteen, as it was.
        let mut swarm = snapshot.restore(Arc::new(testing::swarm(1)), Now::default());
        let first = Arc::new(testing::spec(|_| {}));
        let second = Arc::new(testing::spec(|task| task.depends_on = vec![first.id]));
        let submitted = SwarmEvent::Submitted { tasks: vec![first, second], operation: None, principal: "test".into() };
        swarm.apply(&submitted, WallMs(1), Now::default());
        let bytes = rmp_serde::to_vec(&Snapshot::of(&swarm)).unwrap();
        assert_eq!(bytes[..3], [0x94, 0x92, 0x9f]);
    }
}
