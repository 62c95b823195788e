//! Promise: every event says who asked for it, on whichever node that was asked.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hiveward_actors::client::{EventFilter, NewAgent, NewSwarm, SwarmRef};
use hiveward_agents::message::{PauseMode, StopMode};
use hiveward_catalogue::budget::{Budget, Scope};
use hiveward_runtime::{ledger::Cursor, op::Op};

use crate::rig::{Rig, op, sh};

fn op_of(principal: &str) -> Op {
    Op { principal: principal.into(), ..op() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_says_who_asked_wherever_that_was_and_what_followed_of_itself_names_nobody() {
    let rig = Rig::start(2).await;
    let swarm = rig.swarm_on("far", Some(1)).await;
    let new = NewAgent { swarm: Some(SwarmRef::Id(swarm)), node: Some(rig.hosts[1].id), ..NewAgent::command("worker") };
    // The first node asks: the roster acts there, the coordinator and the agent live on the other.
    let (near, far) = (rig.control(0), rig.control(1));
    let agent = near.create_agent(op_of("åsa"), new.clone()).await.unwrap().value.spec.id;
    near.pause_agent(op_of("bo"), agent, PauseMode::NextStep).await.unwrap();
    let mut held = sh("true");
    held.swarm = Some(SwarmRef::Id(swarm));
    let held = near.submit_tasks(op_of("cem"), vec![held]).await.unwrap().value[0].id();
    near.cancel_task(op_of("dia"), held).await.unwrap();
    near.resume_agent(op_of("eve"), agent).await.unwrap();
    near.stop_agent(op_of("fay"), agent, StopMode::Now).await.unwrap();
    near.start_agent(op_of("gil"), agent).await.unwrap();
    // The other asks what the first decides.
    let budget = Budget { tokens: Some(5), ..Budget::default() };
    far.set_budget(op_of("hal"), Scope::Agent(agent), budget).await.unwrap();
    far.remove_budget(op_of("ida"), Scope::Agent(agent)).await.unwrap();
    far.drain_node(op_of("jan"), rig.hosts[1].id, Duration::from_secs(60)).await.unwrap();
    far.cancel_drain(op_of("kai"), rig.hosts[1].id).await.unwrap();
    let new = NewSwarm { name: "other".into(), ..NewSwarm::default() };
    let other = far.create_swarm(op_of("lea"), new).await.unwrap().value.spec.id;
    far.remove_swarm(op_of("mia"), other, false).await.unwrap();
    near.settled(&op()).await.unwrap();

    let mut askers: BTreeMap<Arc<str>, Vec<String>> = BTreeMap::new();
    for event in near.events(Cursor(0), &EventFilter::default(), 10_000).unwrap() {
        assert_eq!(event.by.is_some(), event.trace.is_some(), "{event:?}");
        match event.by {
            Some(by) => askers.entry(by).or_default().push(event.kind.to_string()),
            // What nobody asked for follows from what somebody did.
            None => assert!(
                ["NodeJoined", "Placed", "AgentStarting", "AgentReady", "TaskAssigned"].contains(&&*event.kind),
                "nobody asked for {event:?}"
            ),
        }
    }
    for (by, kind) in [
        ("åsa", "AgentAdded"),
        ("bo", "AgentPauseAsked"),
        ("cem", "TaskSubmitted"),
        ("dia", "TaskCancelled"),
        ("eve", "AgentResumeAsked"),
        ("fay", "AgentStopAsked"),
        ("gil", "AgentStartAsked"),
        ("hal", "BudgetSet"),
        ("ida", "BudgetRemoved"),
        ("jan", "NodeDraining"),
        ("kai", "NodeDrainCancelled"),
        ("lea", "SwarmAdded"),
        ("mia", "SwarmRemoved"),
    ] {
        assert!(askers.get(by).is_some_and(|kinds| kinds.iter().any(|its| its == kind)), "{by} asked for {kind}: {askers:?}");
    }
    let only = EventFilter { by: Some("dia".into()), ..EventFilter::default() };
    let kinds: Vec<_> = near.events(Cursor(0), &only, 100).unwrap().into_iter().map(|event| event.kind.to_string()).collect();
    assert_eq!(kinds, ["TaskCancelled"]);
    rig.stop().await;
}
