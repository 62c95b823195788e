//! `hiveward vm resize`, `attach-disk`, `detach-disk`, `attach-network` and `detach-network`.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    super::{
        args::{self, Input},
        client::{Client, VM},
        fail::Outcome,
        show::{Show, text},
    },
    ended, resolve,
};

#[derive(Subcommand)]
pub enum ShapeCommand {
    /// Give a VM other CPUs or memory: at once as far as its guest can, the rest when it is started next
    Resize {
        vm: String,
        /// How many it is to have
        #[arg(long, required_unless_present = "memory")]
        cpus: Option<u32>,
        /// How much it is to have
        #[arg(long, value_name = "SIZE", value_parser = args::bytes)]
        memory: Option<u64>,
        /// Leave what runs alone: the change comes with the next start
        #[arg(long)]
        offline: bool,
        #[arg(long)]
        operation_id: Option<String>,
        /// Return when it has begun
        #[arg(long)]
        no_wait: bool,
    },
    /// Give a VM an empty disk, also while it runs
    AttachDisk {
        vm: String,
        /// The guest finds it by this
        #[arg(long)]
        name: String,
        /// Such as 10GiB
        #[arg(long, value_parser = args::bytes)]
        size: u64,
        #[arg(long)]
        operation_id: Option<String>,
        /// Return when it has begun
        #[arg(long)]
        no_wait: bool,
    },
    /// Take a disk from a VM, also while it runs, with its data
    DetachDisk {
        vm: String,
        /// Of the disk
        name: String,
        /// Its data goes with it, and that must be said
        #[arg(long)]
        delete: bool,
        #[arg(long)]
        operation_id: Option<String>,
        /// Return when it has begun
        #[arg(long)]
        no_wait: bool,
    },
    /// Put a VM on another network as well, also while it runs
    AttachNetwork {
        vm: String,
        /// One of the cluster's, bridge:NAME, or one of the hypervisor's
        network: String,
        #[arg(long)]
        operation_id: Option<String>,
        /// Return when it has begun
        #[arg(long)]
        no_wait: bool,
    },
    /// Take a VM from one of its networks, also while it runs
    DetachNetwork {
        vm: String,
        network: String,
        #[arg(long)]
        operation_id: Option<String>,
        /// Return when it has begun
        #[arg(long)]
        no_wait: bool,
    },
}

/// Runs the commands that change the shape of a VM.
pub async fn run(client: &Client, show: Show, command: ShapeCommand) -> Outcome {
    let input = Input::default();
    let (vm, input, operation_id, no_wait, operation, field) = match command {
        ShapeCommand::Resize { vm, cpus, memory, offline, operation_id, no_wait } => {
            let input = input
                .set("cpus", cpus.map(Value::from))
                .set("memoryBytes", memory.map(Value::from))
                .set("offline", offline.then_some(Value::Bool(true)));
            (vm, input, operation_id, no_wait, "VmResize", "resizeVm")
        }
        ShapeCommand::AttachDisk { vm, name, size, operation_id, no_wait } => {
            let input = input.set("name", Value::from(name)).set("sizeBytes", Value::from(size));
            (vm, input, operation_id, no_wait, "VmAttachDisk", "attachVmDisk")
        }
        ShapeCommand::DetachDisk { vm, name, delete, operation_id, no_wait } => {
            let input = input.set("name", Value::from(name)).set("delete", Value::Bool(delete));
            (vm, input, operation_id, no_wait, "VmDetachDisk", "detachVmDisk")
        }
        ShapeCommand::AttachNetwork { vm, network, operation_id, no_wait } => {
            (vm, input.set("network", Value::from(network)), operation_id, no_wait, "VmAttachNetwork", "attachVmNetwork")
        }
        ShapeCommand::DetachNetwork { vm, network, operation_id, no_wait } => {
            (vm, input.set("network", Value::from(network)), operation_id, no_wait, "VmDetachNetwork", "detachVmNetwork")
        }
    };
    let vm = resolve(client, &vm).await?;
    let input = input.set("vm", Value::from(vm.as_str())).set("operationId", operation_id.map(Value::from)).done();
    let begun = client.get(VM, operation, json!({ "input": input }), &format!("/{field}/vm")).await?;
    if no_wait {
        return show.done(&begun);
    }
    ended(client, begun).await?;
    let vm: Value = client.get(VM, "VmShow", json!({ "id": vm }), "/node").await?;
    let pending = text(&vm["pendingRestart"], "reason");
    if !pending.is_empty() {
        eprintln!("{}: {pending}", text(&vm, "name"));
    }
    show.done(&vm)
}
