//! Small builders for this crate's own tests.

use crate::{
    id::{SwarmId, TaskId},
    task::{
        retry::RetryPolicy,
        spec::{TaskSpec, Work},
        status::Priority,
    },
};

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
