//! `hiveward host …`

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    args::{self, Input},
    balance::{self, PlanArgs, RebalanceArgs, SelectArgs, StatsArgs},
    client::{Client, VM},
    fail::{Exit, Failed, Outcome},
    lookup,
    show::{Show, text},
};
use crate::pages::{pages, watching};

#[derive(Args)]
pub struct AddArgs {
    /// simulated://NAME, test:///default, qemu:///system or another of libvirt's
    uri: String,
    /// Else made of the URI
    #[arg(long)]
    name: Option<String>,
    /// To choose hosts by; may be given more than once
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = args::pair)]
    labels: Vec<(String, String)>,
    /// What fails as one: VMs that are to be apart are in several
    #[arg(long)]
    zone: Option<String>,
    /// The node that opens the connection
    #[arg(long, value_name = "ID")]
    node: Option<String>,
    /// CPUs that may be promised for each that is there
    #[arg(long, value_name = "RATIO")]
    cpu_overcommit: Option<f64>,
    /// Memory that may be promised for each byte that is there
    #[arg(long, value_name = "RATIO")]
    memory_overcommit: Option<f64>,
    /// The directory on the host for disks and images
    #[arg(long, value_name = "DIR")]
    pool: Option<String>,
    /// Other hosts have that directory too, under the same path
    #[arg(long, requires = "pool")]
    pool_shared: bool,
    /// How other hosts' libvirtd reach this one, such as qemu+tls://HOST/system
    #[arg(long, value_name = "URI")]
    peer_uri: Option<String>,
    /// The address at which other hosts reach it with what overlay networks carry
    #[arg(long, value_name = "IP")]
    underlay: Option<String>,
    #[arg(long)]
    operation_id: Option<String>,
    /// Return when it is registered
    #[arg(long)]
    no_wait: bool,
}

#[derive(Subcommand)]
pub enum HostCommand {
    /// Register a hypervisor host; answers when it was reached
    Add(Box<AddArgs>),
    /// List hosts with what they have and what is reserved of it
    List {
        #[arg(long, value_delimiter = ',')]
        status: Vec<String>,
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Show again every second
        #[arg(short, long)]
        watch: bool,
    },
    /// Show all of one host
    Show { host: String },
    /// Show where a VM would be placed, and why nowhere else; nothing is made
    Select(Box<SelectArgs>),
    /// Move VMs so that hosts are more evenly full, if that pays
    Rebalance(Box<RebalanceArgs>),
    /// Show on how few hosts all VMs could be, beside the least that any plan needs; nothing is moved
    Plan(PlanArgs),
    /// Show what a host's VMs used together, lately
    Stats(StatsArgs),
    /// Take nothing new and move what runs elsewhere, or stop it, so that the host can be serviced
    #[command(visible_alias = "evacuate")]
    Drain {
        host: String,
        /// Instead, show what would become of each VM, and do nothing
        #[arg(long, conflicts_with = "cancel")]
        plan: bool,
        /// Instead, let a draining or drained host take VMs again
        #[arg(long)]
        cancel: bool,
        /// Return when it has begun
        #[arg(long)]
        no_wait: bool,
    },
    /// Give your word that nothing runs on a lost host: its VMs with --ha come back elsewhere
    ///
    /// For a host that nobody else can be sure of: a remote one, or one whose node cannot end what runs on it. If it still
    /// runs, a VM may run twice where its disks have no lock.
    DeclareLost {
        host: String,
        /// It is switched off, or cut off from its disks, and stays so
        #[arg(long, required = true)]
        i_know_it_is_off: bool,
        #[arg(long)]
        operation_id: Option<String>,
    },
    /// Forget a host; what runs on it is left alone
    Remove {
        host: String,
        /// Even with VMs, which are forgotten with it
        #[arg(long)]
        force: bool,
    },
}

/// The time between looks at a host's status.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a new host is waited for, unless --timeout says otherwise.
const REACHED_WITHIN: Duration = Duration::from_secs(15);

/// Runs `hiveward host …`.
pub async fn run(client: &Client, show: Show, command: HostCommand) -> Outcome {
    match command {
        HostCommand::Add(args) => add(client, show, *args).await,
        HostCommand::List { status, limit, watch } => {
            let filter = Input::default().list("status", status.iter().map(|status| args::constant(status))).done();
            watching(watch, || list(client, show, filter.clone(), limit)).await
        }
        HostCommand::Show { host } => {
            let id = resolve(client, &host).await?;
            show.one(&client.get(VM, "HostShow", json!({ "id": id }), "/node").await?)
        }
        HostCommand::Select(args) => balance::select(client, show, *args).await,
        HostCommand::Rebalance(args) => balance::rebalance(client, show, *args).await,
        HostCommand::Plan(args) => balance::packing(client, show, args).await,
        HostCommand::Stats(args) => balance::host_stats(client, show, args).await,
        HostCommand::Drain { host, plan, cancel, no_wait } => {
            let id = resolve(client, &host).await?;
            if plan {
                let steps: Value = client.get(VM, "HostDrainPlan", json!({ "id": id }), "/node/drainPlan").await?;
                let steps = steps.as_array().cloned().unwrap_or_default();
                return show.list(&["vm", "to", "why stopped"], &steps, |step| {
                    ["vm", "to", "whyStopped"].map(|field| text(step, field)).into()
                });
            }
            let (operation, at) =
                if cancel { ("HostCancelDrain", "/cancelHostDrain/host") } else { ("HostDrain", "/drainHost/host") };
            let mut host: Value = client.get(VM, operation, json!({ "input": { "host": id } }), at).await?;
            if !cancel && !no_wait {
                host = until(client, &id, Duration::MAX, |status| status != "DRAINING").await?;
            }
            show.done(&host)
        }
        HostCommand::DeclareLost { host, i_know_it_is_off: _, operation_id } => {
            let id = resolve(client, &host).await?;
            let known: Value = client.get(VM, "HostShow", json!({ "id": id }), "/node").await?;
            // However it was named here, its name is what is confirmed.
            let input = Input::default()
                .set("operationId", operation_id.map(Value::from))
                .set("host", Value::from(id))
                .set("confirm", known["name"].clone())
                .done();
            show.done(&client.get::<Value>(VM, "HostDeclareLost", json!({ "input": input }), "/declareHostLost/host").await?)
        }
        HostCommand::Remove { host, force } => {
            let id = resolve(client, &host).await?;
            let input = json!({ "host": id, "force": force });
            show.done(&client.get::<Value>(VM, "HostRemove", json!({ "input": input }), "/removeHost/host").await?)
        }
    }
}

async fn add(client: &Client, show: Show, args: AddArgs) -> Outcome {
    let AddArgs {
        uri,
        name,
        labels,
        zone,
        node,
        cpu_overcommit,
        memory_overcommit,
        pool,
        pool_shared,
        peer_uri,
        underlay,
        operation_id,
        no_wait,
    } = args;

    let input = Input::default()
        .set("operationId", operation_id.map(Value::from))
        .set("name", Value::from(name.unwrap_or_else(|| name_of(&uri))))
        .set("uri", Value::from(uri))
        .list("labels", labels.iter().map(|(key, value)| json!({ "key": key, "value": value })))
        .set("zone", zone.map(Value::from))
        .set("node", lookup::optional(client, &lookup::NODE, node).await?)
        .set("cpuOvercommit", cpu_overcommit.map(Value::from))
        .set("memoryOvercommit", memory_overcommit.map(Value::from))
        .set("pool", pool.map(Value::from))
        .set("poolShared", pool_shared.then_some(Value::Bool(true)))
        .set("peerUri", peer_uri.map(Value::from))
        .set("underlay", underlay.map(Value::from))
        .done();
    let mut host: Value = client.get(VM, "HostRegister", json!({ "input": input }), "/registerHost/host").await?;
    if !no_wait {
        let id = text(&host, "id");
        host = reached(client, &id).await?;
        if host["status"] != "UP" {
            show.done(&host)?;
            return Err(Failed::new(
                Exit::Failed,
                format!("the host is registered and is {}: {}", text(&host, "status"), text(&host, "why")),
                "it is tried again and again; look with `hiveward host show`, or remove it",
            ));
        }
    }
    show.done(&host)
}

/// Makes a name of a URI: `simulated://a` becomes `a`, `qemu+ssh://root@kvm1/system` `kvm1`, `qemu:///system` `qemu-system`.
fn name_of(uri: &str) -> String {
    let (scheme, rest) = uri.split_once("://").unwrap_or(("host", uri));
    let place = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = place.split_once('/').unwrap_or((place, ""));
    let host = authority.rsplit('@').next().unwrap_or_default();
    let name = if host.is_empty() { format!("{scheme}-{path}") } else { host.to_owned() };
    name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' }).collect()
}

/// Waits until a host that was just registered was reached, or could not be.
pub(super) async fn reached(client: &Client, id: &str) -> Outcome<Value> {
    until(client, id, REACHED_WITHIN, |status| status != "CONNECTING").await
}

/// Waits until the host's status is as wanted; returns how it is when there is no more time.
async fn until(client: &Client, id: &str, within: Duration, wanted: impl Fn(&str) -> bool) -> Outcome<Value> {
    let begun = tokio::time::Instant::now();
    loop {
        let host: Value = client.get(VM, "HostShow", json!({ "id": id }), "/node").await?;
        if wanted(&text(&host, "status")) || begun.elapsed() >= within {
            return Ok(host);
        }
        if client.deadline.is_some_and(|deadline| deadline <= tokio::time::Instant::now()) {
            return Err(Failed::new(
                Exit::TimedOut,
                format!("the host is still {}", text(&host, "status")),
                "it goes on; look with `hiveward host show`",
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn list(client: &Client, show: Show, filter: Value, limit: usize) -> Outcome {
    let hosts = pages(client, VM, "HostList", json!({ "filter": filter }), "hosts", limit).await?;
    let columns = ["id", "name", "status", "zone", "vms", "cpus", "memory", "uri", "why"];
    show.list(&columns, &hosts, |host| {
        let (capacity, reserved) = (&host["capacity"], &host["reserved"]);
        let cpus = format!("{}/{} of {}", text(reserved, "cpus"), whole(&reserved["cpusMax"]), text(capacity, "cpus"));
        let memory = [&reserved["memoryBytes"], &reserved["memoryBytesMax"], &capacity["memoryBytes"]].map(size);
        let known = !capacity.is_null();
        vec![
            text(host, "id"),
            text(host, "name"),
            text(host, "status"),
            text(host, "zone"),
            text(host, "vmCount"),
            if known { cpus } else { String::new() },
            if known { format!("{}/{} of {}", memory[0], memory[1], memory[2]) } else { String::new() },
            text(host, "uri"),
            text(host, "why"),
        ]
    })
}

fn whole(value: &Value) -> String {
    value.as_f64().map_or_else(String::new, |value| format!("{value:.0}"))
}

/// Writes a number of bytes such as `2.5GiB`.
pub(super) fn size(bytes: &Value) -> String {
    let Some(bytes) = bytes.as_u64() else { return String::new() };
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.into_iter().find(|(_, shift)| bytes >> shift > 0);
    unit.map_or_else(
        || format!("{bytes}B"),
        |(unit, shift)| {
            let value = bytes as f64 / (1_u64 << shift) as f64;
            if value.fract() == 0.0 { format!("{value:.0}{unit}") } else { format!("{value:.1}{unit}") }
        },
    )
}

/// Returns a host's id, from what was written for it.
pub(super) async fn resolve(client: &Client, given: &str) -> Outcome<String> {
    lookup::id(client, &lookup::HOST, given).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_named_after_its_uri_and_sizes_read_well() {
        for (uri, name) in [
            ("simulated://a?cpus=4", "a"),
            ("qemu+ssh://root@kvm1.lan/system", "kvm1.lan"),
            ("qemu:///system", "qemu-system"),
            ("test:///default", "test-default"),
        ] {
            assert_eq!(name_of(uri), name);
        }
        assert_eq!([512_u64, 1 << 20, 5 << 29, 1 << 41].map(|bytes| size(&bytes.into())), ["512B", "1MiB", "2.5GiB", "2TiB"]);
    }
}
