//! Names what happened to the roster: swarms, agents and nodes, and who is placed where.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use hiveward_kernel::{
    event::DecodeError,
    id::{AgentId, SwarmId},
    operation::Operation,
};
use hiveward_runtime::{
    id::Key,
    net::identity::{KeyPin, TokenBook},
    op::NodeId,
};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};

use crate::{
    agent::spec::AgentSpec,
    host::event::FleetEvent,
    part::{PartEvent, Parts},
    swarm::SwarmSpec,
};

/// The format of the roster's events in the ledger.
pub const FORMAT: u16 = 1;

/// A node as it joined, or as it last said it is. It is written by the names of its fields, so that an older node reads what it
/// knows of it; earlier ones wrote the first fields in their order.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NodeRecord {
    pub node: NodeId,
    pub raft_id: u64,
    /// The `host:port` where its peers reach it; empty while it has none.
    pub address: String,
    pub labels: BTreeMap<String, String>,
    pub zone: String,
    pub cores: u32,
    /// The digests of the API tokens it was started with, by which others know its clients.
    #[serde(default)]
    pub token_digests: Vec<String>,
    /// Whether it asks the node that leads before each call of a model that a budget concerns. Older versions do not.
    #[serde(default)]
    pub asks_before_calls: bool,
    /// The address at which browsers reach its gateway, such as `http://10.0.0.1:7700`; none if it has not said.
    #[serde(default)]
    pub gateway: Option<String>,
    /// Whether it ends VMs on its own hypervisors that come back elsewhere before its lease is over, whatever becomes of its
    /// process. Older versions do not.
    #[serde(default)]
    pub fences: bool,
    /// Whether its machine is reset if what it must end in time is not ended.
    #[serde(default)]
    pub watchdog: bool,
    /// Whether it reads snapshots of the streams of agents, VMs and the roster. Older versions pass over them.
    #[serde(default)]
    pub reads_snapshots: bool,
    /// The nouns of the parts of the catalogue that it knows. None are said by versions before there were parts.
    #[serde(default)]
    pub parts: Vec<String>,
    /// The key that its certificates are for: it is let in with no other. None for one that an older version wrote.
    #[serde(default)]
    pub key: Option<KeyPin>,
}

impl Serialize for NodeRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            node,
            raft_id,
            address,
            labels,
            zone,
            cores,
            token_digests,
            asks_before_calls,
            gateway,
            fences,
            watchdog,
            reads_snapshots,
            parts,
            key,
        } = self;
        let mut fields = serializer.serialize_map(Some(14))?;
        fields.serialize_entry("node", node)?;
        fields.serialize_entry("raft_id", raft_id)?;
        fields.serialize_entry("address", address)?;
        fields.serialize_entry("labels", labels)?;
        fields.serialize_entry("zone", zone)?;
        fields.serialize_entry("cores", cores)?;
        fields.serialize_entry("token_digests", token_digests)?;
        fields.serialize_entry("asks_before_calls", asks_before_calls)?;
        fields.serialize_entry("gateway", gateway)?;
        fields.serialize_entry("fences", fences)?;
        fields.serialize_entry("watchdog", watchdog)?;
        fields.serialize_entry("reads_snapshots", reads_snapshots)?;
        fields.serialize_entry("parts", parts)?;
        fields.serialize_entry("key", key)?;
        fields.end()
    }
}

impl NodeRecord {
    /// Returns the record of a node on this machine, with its cores, without labels, and in no zone in particular.
    pub fn of_this_host(node: NodeId, raft_id: u64, address: String) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
        Self {
            node,
            raft_id,
            address,
            labels: BTreeMap::new(),
            zone: String::new(),
            cores,
            token_digests: Vec::new(),
            asks_before_calls: true,
            gateway: None,
            fences: false,
            watchdog: false,
            reads_snapshots: true,
            parts: Parts::NOUNS.iter().map(|noun| (*noun).to_owned()).collect(),
            key: None,
        }
    }
}

/// A fact about the roster, as its stream holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RosterEvent {
    SwarmAdded {
        spec: Arc<SwarmSpec>,
        operation: Option<Operation>,
    },
    SwarmRemoved {
        swarm: SwarmId,
        operation: Option<Operation>,
    },
    AgentAdded {
        spec: Arc<AgentSpec>,
        operation: Option<Operation>,
    },
    AgentRemoved {
        agent: AgentId,
        swarm: SwarmId,
        operation: Option<Operation>,
    },
    /// A node was taken in, or changed what it says of itself.
    NodeJoined {
        record: NodeRecord,
    },
    /// The node's lease is over: nothing that it held runs there any more.
    NodeLost {
        node: NodeId,
        why: String,
    },
    /// The node may hold entities (again), in this start of it.
    NodeBack {
        node: NodeId,
        generation: u64,
    },
    /// The node takes nothing new, and what it holds goes elsewhere; what has not gone after `within_ms` is stopped.
    NodeDraining {
        node: NodeId,
        within_ms: u64,
        operation: Option<Operation>,
    },
    NodeDrainCancelled {
        node: NodeId,
        operation: Option<Operation>,
    },
    /// The node holds nothing any more.
    NodeDrained {
        node: NodeId,
    },
    NodeRemoved {
        node: NodeId,
        operation: Option<Operation>,
    },
    /// The open join tokens changed because one was issued. Only hashes are kept.
    TokenIssued {
        book: TokenBook,
    },
    /// The open join tokens changed because one was used.
    TokenUsed {
        node: NodeId,
        book: TokenBook,
    },
    /// An entity is placed on a node. `placement` grows by one for each key; messages to an older one are refused.
    Placed {
        key: Key,
        node: NodeId,
        placement: u64,
        why: String,
    },
    /// Something happened to hosts or VMs.
    Fleet(FleetEvent),
    /// No node is eligible for the entity; it is placed as soon as one is.
    Unplaced {
        key: Key,
        why: String,
    },
    /// Something happened to a part, which reads and writes it by its kind.
    #[serde(skip)]
    Part(PartEvent),
}

impl RosterEvent {
    pub const NOUN: &'static str = "roster";

    /// Returns the key of the roster's one stream.
    pub fn stream() -> Key {
        Key::trusted(format!("{}_{:032x}", Self::NOUN, 1))
    }

    /// Returns the event's kind, as it is stored in the ledger.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::SwarmAdded { .. } => "SwarmAdded",
            Self::SwarmRemoved { .. } => "SwarmRemoved",
            Self::AgentAdded { .. } => "AgentAdded",
            Self::AgentRemoved { .. } => "AgentRemoved",
            Self::NodeJoined { .. } => "NodeJoined",
            Self::NodeLost { .. } => "NodeLost",
            Self::NodeBack { .. } => "NodeBack",
            Self::NodeDraining { .. } => "NodeDraining",
            Self::NodeDrainCancelled { .. } => "NodeDrainCancelled",
            Self::NodeDrained { .. } => "NodeDrained",
            Self::NodeRemoved { .. } => "NodeRemoved",
            Self::TokenIssued { .. } => "TokenIssued",
            Self::TokenUsed { .. } => "TokenUsed",
            Self::Placed { .. } => "Placed",
            Self::Fleet(event) => event.kind(),
            Self::Unplaced { .. } => "Unplaced",
            Self::Part(event) => event.kind(),
        }
    }

    /// Encodes the event for the ledger.
    pub fn encode(&self) -> Result<Bytes, rmp_serde::encode::Error> {
        match self {
            Self::Part(event) => event.encode(),
            event => hiveward_kernel::event::encoded(event),
        }
    }

    /// Decodes an event of the ledger. Errors: a format that this version does not read, or bytes that are no such event.
    pub fn decode(kind: &str, format: u16, body: &[u8]) -> Result<Self, DecodeError> {
        if format != FORMAT {
            return Err(DecodeError::Format { kind: kind.to_owned(), format });
        }
        if let Some(part) = PartEvent::decode(kind, body) {
            return part.map(Self::Part);
        }
        rmp_serde::from_slice(body).map_err(|source| DecodeError::Body { kind: kind.to_owned(), source })
    }

    /// Returns the client's operation that led to the event, and the key that its answer names.
    pub fn operation(&self) -> Option<(&Operation, Key)> {
        let (operation, key) = match self {
            Self::SwarmAdded { spec, operation } => (operation, spec.id.key()),
            Self::SwarmRemoved { swarm, operation } => (operation, swarm.key()),
            Self::AgentAdded { spec, operation } => (operation, spec.id.key()),
            Self::AgentRemoved { agent, operation, .. } => (operation, agent.key()),
            Self::NodeDraining { node, operation, .. }
            | Self::NodeDrainCancelled { node, operation }
            | Self::NodeRemoved { node, operation } => (operation, node.key()),
            Self::Fleet(event) => return event.operation(),
            Self::Part(event) => return event.operation(),
            _ => return None,
        };
        Some((operation.as_ref()?, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node as a version before this one has it.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Before {
        node: NodeId,
        raft_id: u64,
        address: String,
        labels: BTreeMap<String, String>,
        zone: String,
        cores: u32,
        #[serde(default)]
        token_digests: Vec<String>,
    }

    #[test]
    fn a_node_of_another_version_reads_what_it_knows_of_a_record() {
        let gateway = Some("http://10.0.0.1:7700".to_owned());
        let now = NodeRecord { gateway, ..NodeRecord::of_this_host(NodeId::new(), 7, "10.0.0.1:7701".into()) };
        let read: Before = rmp_serde::from_slice(&rmp_serde::to_vec(&now).unwrap()).unwrap();
        assert_eq!((read.node, read.raft_id, &read.address, read.cores), (now.node, 7, &now.address, now.cores));
        let back: NodeRecord = rmp_serde::from_slice(&rmp_serde::to_vec(&read).unwrap()).unwrap();
        assert_eq!(
            back,
            NodeRecord { asks_before_calls: false, gateway: None, reads_snapshots: false, parts: Vec::new(), ..now.clone() }
        );
        let same: NodeRecord = rmp_serde::from_slice(&rmp_serde::to_vec(&now).unwrap()).unwrap();
        assert_eq!(same, now);
    }
}
