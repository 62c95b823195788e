//! `hiveward network …`

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{
    args::Input,
    client::{Client, NETWORK},
    fail::Outcome,
    lookup,
    show::{Show, text},
};
use crate::pages::pages;

#[derive(Subcommand)]
pub enum NetworkCommand {
    /// Create a network that VMs can be put on with --network NAME
    Create {
        /// Unique in the cluster
        name: String,
        /// What it connects
        #[arg(long, value_enum)]
        kind: Kind,
        /// Its addresses, such as 10.7.0.0/24: of a NAT, and of an overlay whose VMs get theirs by the cluster
        #[arg(long, value_name = "RANGE")]
        cidr: Option<String>,
        /// Of --kind bridge: its name on every host
        #[arg(long, value_name = "NAME")]
        bridge: Option<String>,
        /// Of an overlay; 1450 if absent
        #[arg(long)]
        mtu: Option<u32>,
        #[arg(long)]
        operation_id: Option<String>,
    },
    /// List networks with how many VMs and hosts are on each
    List {
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Show all of one network
    Show { network: String },
    /// Remove a network that no VM is on
    Remove { network: String },
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Kind {
    /// The VMs of each host among themselves
    Isolated,
    /// As that, with DHCP and a way out by the host's address
    Nat,
    /// A bridge that every host has
    Bridge,
    /// One network over all hosts, apart from every other
    Overlay,
}

impl Kind {
    const fn constant(self) -> &'static str {
        match self {
            Self::Isolated => "ISOLATED",
            Self::Nat => "NAT",
            Self::Bridge => "BRIDGE",
            Self::Overlay => "OVERLAY",
        }
    }
}

/// Runs `hiveward network …`.
pub async fn run(client: &Client, show: Show, command: NetworkCommand) -> Outcome {
    match command {
        NetworkCommand::Create { name, kind, cidr, bridge, mtu, operation_id } => {
            let input = Input::default()
                .set("operationId", operation_id.map(Value::from))
                .set("name", Value::from(name))
                .set("kind", Value::from(kind.constant()))
                .set("cidr", cidr.map(Value::from))
                .set("bridge", bridge.map(Value::from))
                .set("mtu", mtu.map(Value::from))
                .done();
            let place = "/createNetwork/network";
            show.done(&client.get::<Value>(NETWORK, "NetworkCreate", json!({ "input": input }), place).await?)
        }
        NetworkCommand::List { limit } => {
            let networks = pages(client, NETWORK, "NetworkList", json!({}), "networks", limit).await?;
            show.list(&["id", "name", "kind", "cidr", "vni", "vms", "hosts"], &networks, |network| {
                ["id", "name", "kind", "cidr", "vni", "vmCount", "hostCount"].map(|field| text(network, field)).into()
            })
        }
        NetworkCommand::Show { network } => {
            let id = lookup::id(client, &lookup::NETWORK, &network).await?;
            show.one(&named(client, &id).await?.unwrap_or_default())
        }
        NetworkCommand::Remove { network } => {
            let input = json!({ "network": lookup::reference(client, &lookup::NETWORK, &network).await? });
            let place = "/removeNetwork/network";
            show.done(&client.get::<Value>(NETWORK, "NetworkRemove", json!({ "input": input }), place).await?)
        }
    }
}

/// Finds a network by id or name.
pub(super) async fn named(client: &Client, given: &str) -> Outcome<Option<Value>> {
    let found = pages(client, NETWORK, "NetworkList", json!({}), "networks", 10_000).await?;
    Ok(found.into_iter().find(|one| one["name"] == *given || one["id"] == *given))
}
