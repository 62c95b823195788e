//! A swarm is brought to a number of agents, asked on any node.

use std::collections::BTreeSet;

use hiveward_actors::client::{NewAgent, SwarmRef};
use hiveward_agents::table::AgentFilter;
use hiveward_catalogue::agent::spec::ConnectorSpec;
use hiveward_kernel::id::SwarmId;
use hiveward_runtime::error::Code;

use crate::rig::{Rig, op, sh};

fn template(name: &str) -> NewAgent {
    NewAgent { stop_grace_ms: 100, ..NewAgent::command(name) }
}

fn names(rig: &Rig, swarm: SwarmId) -> BTreeSet<String> {
    let filter = AgentFilter { swarm: Some(swarm), ..AgentFilter::default() };
    let agents = rig.control(0).agents(&filter, None, 10_000).unwrap().items;
    agents.into_iter().map(|(_, agent)| agent.spec.name.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_agents_than_one_commit_takes_are_there_and_ready_and_asking_again_adds_none() {
    const AGENTS: usize = 300;
    let rig = Rig::start(2).await;
    let swarm = rig.swarm_on("wide", Some(0)).await;
    // A name that counting would give again.
    let taken = NewAgent { swarm: Some(SwarmRef::Id(swarm)), ..template("w-3") };
    rig.control(0).create_agent(op(), taken).await.unwrap();
    let noop = NewAgent { connector: ConnectorSpec::Noop, ..template("w") };
    for _ in 0..2 {
        // Asked where the roster does not act.
        rig.control(1).scale_swarm(op(), swarm, AGENTS as u32, Some(noop.clone())).await.unwrap();
        let there = names(&rig, swarm);
        assert_eq!(there.len(), AGENTS, "{there:?}");
        assert!(there.iter().all(|name| name.starts_with("w-")));
    }
    let added = rig.kinds().iter().filter(|kind| *kind == "AgentAdded").count();
    assert_eq!(added, AGENTS, "nothing was added and taken away again");
    let spread: BTreeSet<_> = rig.hosts.iter().map(|host| host.house.doors.all().len() > AGENTS / 3).collect();
    assert_eq!(spread, BTreeSet::from([true]), "both nodes hold some");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fewer_agents_means_idle_ones_go_and_busy_ones_stay() {
    let rig = Rig::start(2).await;
    let swarm = rig.control(0).swarm_named("default").unwrap().unwrap().spec.id;
    rig.control(0).scale_swarm(op(), swarm, 5, Some(template("w"))).await.unwrap();
    rig.control(1).scale_swarm(op(), swarm, 3, None).await.unwrap();
    assert_eq!(names(&rig, swarm), BTreeSet::from(["w-1", "w-2", "w-3"].map(str::to_owned)), "the newest went");
    let task = rig.submit(0, sh("sleep 600")).await;
    rig.running(task).await;
    let refused = rig.control(1).scale_swarm(op(), swarm, 0, None).await.unwrap_err();
    assert_eq!(refused.code, Code::Refused, "{refused:?}");
    assert!(refused.message.starts_with("1 agents too many are busy"), "{refused:?}");
    let left = names(&rig, swarm);
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(rig.running(task).await.attempts.len() == 1, "it was left alone");
    rig.control(0).cancel_task(op(), task).await.unwrap();
    rig.stop().await;
}
