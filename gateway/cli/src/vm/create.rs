//! `hiveward vm create`

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde_json::{Value, json};

use super::{
    super::{
        args::{self, Input},
        client::{Client, VM},
        fail::{Exit, Failed, Outcome},
        lookup,
        show::Show,
    },
    ended,
};

/// What is asked of the host that a VM goes to.
#[derive(Args)]
pub struct Wishes {
    /// Never with another VM of this group on a host
    #[arg(long = "anti-affinity", value_name = "GROUP")]
    anti_affinity: Vec<String>,
    /// On a host with another VM of this group
    #[arg(long = "affinity", value_name = "GROUP")]
    affinity: Vec<String>,
    /// Only hosts of this zone
    #[arg(long)]
    zone: Option<String>,
    /// Only hosts with all of these labels
    #[arg(long = "host-label", value_name = "KEY=VALUE", value_parser = args::pair)]
    host_labels: Vec<(String, String)>,
    /// How the host is chosen
    #[arg(long, value_parser = ["spread", "pack", "weighted"])]
    strategy: Option<String>,
    /// It comes back elsewhere when its host is lost; refused unless it could if one of the sixteen fullest hosts were
    #[arg(long)]
    ha: bool,
}

impl Wishes {
    /// Adds the wishes that were given to an input.
    pub fn put(self, input: Input) -> Input {
        let labels = self.host_labels.iter().map(|(key, value)| json!({ "key": key, "value": value }));
        input
            .list("antiAffinity", self.anti_affinity)
            .list("affinity", self.affinity)
            .set("zone", self.zone.map(Value::from))
            .list("hostLabels", labels)
            .set("strategy", self.strategy.map(|strategy| Value::from(args::constant(&strategy))))
            .set("ha", self.ha.then_some(Value::Bool(true)))
    }
}

#[derive(Args)]
pub struct CreateArgs {
    /// Else one is made up
    name: Option<String>,
    /// What its system disk begins as, by id or name
    #[arg(long)]
    image: String,
    /// Of the VM
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Such as 2GiB
    #[arg(long, default_value = "1GiB", value_parser = args::bytes)]
    memory: u64,
    /// NAME=SIZE, or SIZE for one named `root`
    #[arg(long = "disk", value_name = "[NAME=]SIZE", value_parser = disk)]
    disks: Vec<(String, u64)>,
    /// On this host, by id or name; else on the best one
    #[arg(long, value_name = "HOST")]
    on: Option<String>,
    /// One of the cluster's, bridge:NAME, or one of the hypervisor's; may be given often
    #[arg(long = "network", value_name = "N")]
    networks: Vec<String>,
    /// A file with public keys, one a line
    #[arg(long = "ssh-key", value_name = "FILE")]
    ssh_keys: Vec<PathBuf>,
    /// What the guest's first boot is told
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    #[command(flatten)]
    wishes: Wishes,
    /// Define it without starting it
    #[arg(long)]
    no_start: bool,
    /// When it is stopped, between the power button and the plug
    #[arg(long, value_name = "D", value_parser = args::duration)]
    stop_grace: Option<Duration>,
    #[arg(long)]
    operation_id: Option<String>,
    /// Return when it is placed
    #[arg(long)]
    no_wait: bool,
}

/// Reads a disk such as `10GiB` or `data=10GiB`.
fn disk(text: &str) -> Result<(String, u64), String> {
    let (name, size) = text.split_once('=').unwrap_or(("root", text));
    Ok((name.into(), args::bytes(size)?))
}

/// Runs `hiveward vm create`.
pub async fn run(client: &Client, show: Show, args: CreateArgs) -> Outcome {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path)
            .map_err(|error| Failed::new(Exit::NotFound, format!("cannot read {}: {error}", path.display()), "check the path"))
    };
    let mut ssh_keys = Vec::new();
    for file in &args.ssh_keys {
        let text = read(file)?;
        ssh_keys.extend(text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned));
    }
    let name = args.name.unwrap_or_else(|| format!("vm-{:08x}", fastrand::u32(..)));
    let input = Input::default()
        .set("operationId", args.operation_id.map(Value::from))
        .set("name", Value::from(name))
        .set("host", lookup::optional(client, &lookup::HOST, args.on).await?)
        .set("image", Value::from(args.image))
        .set("cpus", Value::from(args.cpus))
        .set("memoryBytes", Value::from(args.memory))
        .list("disks", args.disks.iter().map(|(name, size)| json!({ "name": name, "sizeBytes": size })))
        .list("networks", args.networks)
        .list("sshKeys", ssh_keys)
        .set("userData", args.user_data.as_ref().map(read).transpose()?.map(Value::from))
        .set("start", args.no_start.then_some(Value::Bool(false)))
        .set("stopGraceMs", args.stop_grace.map(args::millis));
    let input = args.wishes.put(input).done();
    let made = client.get(VM, "VmCreate", json!({ "input": input }), "/createVm/vm").await?;
    show.done(&if args.no_wait { made } else { ended(client, made).await? })
}
