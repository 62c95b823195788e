//! Builds small things for this crate's own tests.

use hiveward_catalogue::{
    placement::{Strategy, Weights},
    swarm::SwarmSpec,
};
use hiveward_kernel::id::{SwarmId, TaskId};

use super::{
    snapshot::{Pieces, Restoring, Snapshot},
    state::{Now, Swarm},
};
use crate::task::{
    retry::RetryPolicy,
    spec::{TaskSpec, Work},
    status::Priority,
};

/// Makes a task with every default, and lets `change` have its way with it.
pub fn spec(change: impl FnOnce(&mut TaskSpec)) -> TaskSpec {
    let mut spec = TaskSpec {
        id: TaskId::new(),
        swarm: SwarmId::from_u128(1),
        title: "a task".into(),
        work: Work::Kind { kind: "probe".into(), payload: None },
        agent: None,
        priority: Priority::Normal,
        depends_on: Vec::new(),
        skills: Vec::new(),
        strategy: None,
        labels: Vec::new(),
        delay_ms: 0,
        queue_timeout_ms: None,
        run_timeout_ms: None,
        total_timeout_ms: None,
        retry: RetryPolicy::default(),
        gate: None,
        plan: None,
        parent: None,
        role: None,
    };
    change(&mut spec);
    spec
}

/// Makes a swarm with so many shards, as its head has it.
pub fn swarm(shards: u16) -> SwarmSpec {
    SwarmSpec {
        id: SwarmId::from_u128(0x100),
        name: "sim".into(),
        topology: Default::default(),
        strategy: Strategy::Skill,
        weights: Weights::default(),
        queued_max: 10_000,
        running_max: None,
        node_labels: Default::default(),
        node: None,
        shards,
        shard: 0,
    }
}

/// Returns the state as a new life finds it: from a snapshot that is one record, or from one in pieces.
pub fn written_down(swarm: &Swarm, in_pieces: bool, now: Now) -> Swarm {
    if !in_pieces {
        let bytes = rmp_serde::to_vec(&Snapshot::of(swarm)).unwrap();
        return rmp_serde::from_slice::<Snapshot>(&bytes).unwrap().restore(swarm.spec.clone(), now);
    }
    let (mut pieces, mut restoring) = (Pieces::of(swarm), Restoring::new(swarm.spec.clone()));
    while let Some((bytes, _)) = pieces.take_next().unwrap() {
        restoring.take(rmp_serde::from_slice(&bytes).unwrap());
    }
    restoring.done(now)
}
