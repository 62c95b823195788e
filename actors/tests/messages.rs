//! Promise: nodes of this version and of the one before understand each other's messages.
//!
//! The bytes were written by version 0.1.0. Never make them anew: nodes that write such bytes are in use.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use hiveward_agents::message::AgentWire;
use hiveward_catalogue::roster::message::RosterWire;
use hiveward_kernel::{
    id::{AgentId, ApprovalId, SwarmId, TaskId, VmId},
    lease::Lease,
    operation::Operation,
};
use hiveward_machines::{host::message::HostWire, vm::message::VmWire};
use hiveward_runtime::{clock::WallMs, ledger::Cursor, op::NodeId};
use hiveward_work::swarm::wire::SwarmWire;
use serde::{Serialize, de::DeserializeOwned};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns what is wrong with a message, whose bytes are known: it is written otherwise, or does not read as itself.
fn wrong<T: Serialize + DeserializeOwned>(name: &str, message: &T, known: &str) -> Option<String> {
    let written = rmp_serde::to_vec(message).unwrap();
    let read = rmp_serde::from_slice::<T>(&written).map(|read| rmp_serde::to_vec(&read).unwrap());
    (hex(&written) != known || read.as_ref().ok() != Some(&written)).then(|| format!("{name}: {}", hex(&written)))
}

#[test]
fn messages_between_nodes_are_the_bytes_that_the_version_before_writes_and_reads() {
    let (task, agent, node) = (TaskId::from_u128(1), AgentId::from_u128(2), NodeId::from_u128(3));
    let (swarm, vm, approval) = (SwarmId::from_u128(4), VmId::from_u128(5), ApprovalId::from_u128(6));
    let operation = Some(Operation { id: "op".into(), input: [9; 16] });
    let reason: Arc<str> = "why".into();
    let lease = Lease { task, attempt: 7, agent };
    let wrong: Vec<String> = [
        wrong(
            "cancel",
            &SwarmWire::Cancel { task, reason: reason.clone(), operation: operation.clone() },
            "81a643616e63656c93c41000000000000000000000000000000001a377687992a26f70c41009090909090909090909090909090909",
        ),
        wrong("explain", &SwarmWire::Explain { task }, "81a74578706c61696e91c41000000000000000000000000000000001"),
        wrong("reopen", &SwarmWire::Reopen, "a652656f70656e"),
        wrong("close", &SwarmWire::Close { force: true }, "81a5436c6f736591c3"),
        wrong(
            "depart",
            &SwarmWire::Depart { agent, incarnation: 8, lost: Some("x".into()) },
            "81a644657061727493c4100000000000000000000000000000000208a178",
        ),
        wrong(
            "started",
            &SwarmWire::Started { lease },
            "81a7537461727465649193c4100000000000000000000000000000000107c41000000000000000000000000000000002",
        ),
        wrong("start", &AgentWire::Start, "a55374617274"),
        wrong(
            "stop",
            &AgentWire::Stop { mode: hiveward_agents::message::StopMode::Graceful },
            "81a453746f7091a8477261636566756c",
        ),
        wrong(
            "keep",
            &AgentWire::Keep { leases: Some(vec![lease]), seated: 1, by: 2 },
            "81a44b656570939193c4100000000000000000000000000000000107c410000000000000000000000000000000020102",
        ),
        wrong("clean", &AgentWire::Clean { force: false, dry_run: true }, "81a5436c65616e92c2c3"),
        wrong("alive", &AgentWire::Alive, "a5416c697665"),
        wrong(
            "approval",
            &AgentWire::AnswerApproval {
                approval,
                verdict: hiveward_agents::approval::Verdict {
                    decision: hiveward_catalogue::agent::coding::Permission::Allow,
                    by: "me".into(),
                    message: None,
                },
            },
            "81ae416e73776572417070726f76616c92c4100000000000000000000000000000000693a5414c4c4f57a26d65c0",
        ),
        wrong("migration", &VmWire::CancelMigration { principal: "me".into() }, "81af43616e63656c4d6967726174696f6e91a26d65"),
        wrong("schedule", &VmWire::Schedule { schedule: None }, "81a85363686564756c6591c0"),
        wrong("usage", &HostWire::Usage { vms: vec![vm] }, "81a555736167659191c41000000000000000000000000000000005"),
        wrong(
            "samples",
            &HostWire::Samples { vm: None, since: WallMs(1), until: WallMs(2), points: 3 },
            "81a753616d706c657394c0010203",
        ),
        wrong(
            "type",
            &HostWire::TypeConsole { vm, bytes: vec![1, 2].into() },
            "81ab54797065436f6e736f6c6592c41000000000000000000000000000000005c4020102",
        ),
        wrong("leave", &HostWire::Leave { seen: Cursor(5) }, "81a54c656176659105"),
        wrong("head", &RosterWire::Head, "a448656164"),
        wrong(
            "token",
            &RosterWire::IssueToken { token: "hwj".into(), expires_at: WallMs(9) },
            "81aa4973737565546f6b656e92a368776a09",
        ),
        wrong(
            "drain",
            &RosterWire::DrainNode { node, within_ms: 70_000, operation: operation.clone() },
            "81a9447261696e4e6f646593c41000000000000000000000000000000003ce0001117092a26f70c41009090909090909090909090909090909",
        ),
        wrong(
            "remove",
            &RosterWire::RemoveNode { node, force: true, operation: operation.clone() },
            "81aa52656d6f76654e6f646593c41000000000000000000000000000000003c392a26f70c41009090909090909090909090909090909",
        ),
        wrong(
            "movable",
            &RosterWire::Movable { agents: vec![(agent, 4)] },
            "81a74d6f7661626c65919192c4100000000000000000000000000000000204",
        ),
        wrong(
            "given up",
            &RosterWire::GivenUp { swarm, node, placement: 2, why: "x".into() },
            "81a7476976656e557094c41000000000000000000000000000000004c4100000000000000000000000000000000302a178",
        ),
        wrong(
            "swarm",
            &RosterWire::RemoveSwarm { swarm, operation: None },
            "81ab52656d6f7665537761726d92c41000000000000000000000000000000004c0",
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
