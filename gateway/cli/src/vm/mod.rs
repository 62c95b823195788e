//! `hiveward vm …`

mod backup;
mod console;
pub(super) mod copy;
mod create;
mod guest;
mod shape;
mod snapshot;

use std::{io::IsTerminal, time::Duration};

use clap::{Args, Subcommand};
use hiveward_contract::error::Code;
use serde_json::{Value, json};
use snapshot::About;

pub use create::Wishes;

use super::{
    args::{self, Input},
    balance::{self, StatsArgs},
    client::{Client, VM},
    fail::{Exit, Failed, Outcome},
    hint,
    host::size,
    lookup,
    show::{Show, text},
    task::partly,
};
use crate::pages::{pages, watching};

#[derive(Subcommand)]
pub enum VmCommand {
    /// Create a VM; answers when it runs
    Create(Box<create::CreateArgs>),
    /// List VMs
    List {
        #[arg(long, value_delimiter = ',')]
        status: Vec<String>,
        /// On this host, by id or name
        #[arg(long)]
        host: Option<String>,
        /// Part of the name
        #[arg(long)]
        name: Option<String>,
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Show again every second
        #[arg(short, long)]
        watch: bool,
    },
    /// Show all of one VM: its operations, why it is on its host, what it uses
    Show { vm: String },
    /// Start VMs that are off
    Start(Which),
    /// Press the power button, and pull the plug after a grace; with --force at once
    Stop {
        #[command(flatten)]
        which: Which,
        /// Pull the plug at once
        #[arg(long)]
        force: bool,
        /// Between the power button and the plug
        #[arg(long, value_name = "D", value_parser = args::duration)]
        grace: Option<Duration>,
    },
    /// Have guests shut down and begin anew
    Reboot(Which),
    /// Freeze VMs where they are
    Pause(Which),
    /// Let paused VMs run on
    Resume(Which),
    /// Bring a VM to another host while it runs; if that fails, or is cancelled, it runs on where it was
    Migrate {
        vm: String,
        /// By id or name; else the best host
        #[arg(long, value_name = "HOST", conflicts_with = "cancel")]
        to: Option<String>,
        /// Instead, end a migration that is under way
        #[arg(long)]
        cancel: bool,
        /// Freeze it until it is there
        #[arg(long)]
        offline: bool,
        /// MiB each second
        #[arg(long, value_name = "MIB")]
        bandwidth: Option<u32>,
        /// Of a migration that does not end by itself
        #[arg(long, value_name = "D", default_value = "5m", value_parser = args::duration)]
        limit: Duration,
        /// What then becomes of it: it stays, is frozen until it is there, or is slowed from the start and frozen longer
        #[arg(long, value_parser = ["abort", "pause", "converge"], default_value = "abort")]
        at_limit: String,
        #[arg(long)]
        operation_id: Option<String>,
        /// Return when it has begun
        #[arg(long)]
        no_wait: bool,
    },
    /// Keep a VM's disks as they are now and, while it is on, its memory: it stands still until that is written
    Snapshot {
        vm: String,
        /// Else one is made up of the time
        #[arg(long)]
        name: Option<String>,
        #[arg(long)]
        operation_id: Option<String>,
        /// Return when it has begun
        #[arg(long)]
        no_wait: bool,
    },
    /// List a VM's snapshots, oldest first
    Snapshots { vm: String },
    /// Make a VM what it was when a snapshot was taken; what it did since is gone
    Revert {
        vm: String,
        /// Of the snapshot
        name: String,
        #[arg(long)]
        operation_id: Option<String>,
        /// Return when it has begun
        #[arg(long)]
        no_wait: bool,
    },
    /// Remove a snapshot; the VM stays as it is
    SnapshotRemove {
        vm: String,
        /// Of the snapshot
        name: String,
        #[arg(long)]
        operation_id: Option<String>,
        /// Return when it has begun
        #[arg(long)]
        no_wait: bool,
    },
    /// Sit at a VM's serial console; Ctrl-] leaves it as it is
    Console {
        vm: String,
        /// Only watch
        #[arg(long)]
        read_only: bool,
        /// Begin after this byte of what is kept; else with the last few lines
        #[arg(long, value_name = "N")]
        after_byte: Option<u64>,
    },
    /// Copy a VM's disks, as they are at one moment, into a directory of the node that holds its host or into an object store;
    /// the VM runs on
    Backup {
        vm: String,
        /// A directory that is there, or s3://BUCKET/PREFIX
        #[arg(long, value_name = "PLACE", required_unless_present = "cancel")]
        to: Option<String>,
        /// Only what was written since its last backup there; where that is not known a full one, which says why
        #[arg(long, conflicts_with = "cancel")]
        incremental: bool,
        /// All that is on the disks, as without --incremental
        #[arg(long, conflicts_with_all = ["cancel", "incremental"])]
        full: bool,
        /// Instead, end a backup that is under way
        #[arg(long, conflicts_with = "to")]
        cancel: bool,
        #[arg(long)]
        operation_id: Option<String>,
        /// Return when it has begun
        #[arg(long)]
        no_wait: bool,
    },
    /// Have a VM make backups by itself, and keep the newest of them
    BackupSchedule {
        vm: String,
        /// Minute, hour, day, month, weekday, and perhaps a time zone; UTC without: "0 3 * * * Europe/Berlin"
        #[arg(long, value_name = "TIMES", required_unless_present = "off", requires = "to")]
        cron: Option<String>,
        /// A directory that is there on each node that may hold the VM's host, or s3://BUCKET/PREFIX
        #[arg(long, value_name = "PLACE")]
        to: Option<String>,
        /// How many of them; older ones are removed when none is based on them
        #[arg(long, value_name = "N", default_value_t = 7)]
        keep: u32,
        /// Make one in N a full one, and the others of what was written since the one before
        #[arg(long, value_name = "N", default_value_t = 1)]
        full_every: u32,
        /// Instead, make none any more; those that it has made stay
        #[arg(long, conflicts_with_all = ["cron", "to", "keep", "full_every"])]
        off: bool,
    },
    /// List the backups that a VM knows of, or all in a directory
    Backups {
        #[arg(required_unless_present = "within")]
        vm: Option<String>,
        /// All backups there, also of VMs that are gone, and those that are damaged
        #[arg(long = "in", value_name = "PLACE", conflicts_with = "vm")]
        within: Option<String>,
    },
    /// Read every file of a backup and of those that it is based on, and say which is not what was written
    BackupVerify {
        /// The backup's directory, or where it is in an object store
        from: String,
    },
    /// Make a VM of a backup
    Restore {
        /// The backup's directory, or where it is in an object store
        from: String,
        /// The new VM's name
        #[arg(long = "as", value_name = "NAME")]
        name: String,
        /// On this host, by id or name; else on the best one
        #[arg(long, value_name = "HOST")]
        on: Option<String>,
        #[arg(long)]
        no_start: bool,
        /// Return when it is placed
        #[arg(long)]
        no_wait: bool,
    },
    /// Start a VM of a backup without any network, see whether its guest answers, and remove it
    Drill {
        /// The backup's directory, or where it is in an object store
        from: String,
        /// On this host, by id or name; else on the best one
        #[arg(long, value_name = "HOST")]
        on: Option<String>,
        /// Return when it has begun
        #[arg(long)]
        no_wait: bool,
    },
    /// Run a program in a guest to its end, by the agent in it and as that agent's user
    Exec {
        vm: String,
        /// Instead of the variables that the guest's agent has
        #[arg(long = "env", value_name = "NAME=VALUE", value_parser = args::pair)]
        env: Vec<(String, String)>,
        /// Give it this command's standard input
        #[arg(short = 'i', long)]
        stdin: bool,
        /// The program and its arguments
        #[arg(last = true, required = true)]
        argv: Vec<String>,
    },
    /// Have a guest's file systems take no writes, so that what is on its disks is whole for any other copy
    Freeze {
        vm: String,
        /// Instead, let them take writes again
        #[arg(long)]
        thaw: bool,
    },
    /// Show what a VM used lately
    Stats(StatsArgs),
    #[command(flatten)]
    Shape(shape::ShapeCommand),
    /// Make a VM like another one, of its disks as they are at one moment; that one runs on
    Clone {
        vm: String,
        /// The new VM's name
        #[arg(long)]
        name: String,
        /// On this host, by id or name; else on the best one
        #[arg(long, value_name = "HOST")]
        on: Option<String>,
        #[arg(long)]
        no_start: bool,
        #[arg(long)]
        operation_id: Option<String>,
        /// Return when it has begun
        #[arg(long)]
        no_wait: bool,
    },
    /// Remove VMs with their disks
    Remove {
        #[command(flatten)]
        which: Which,
        /// Even while they run
        #[arg(long)]
        force: bool,
    },
}

#[derive(Args)]
pub struct Which {
    #[arg(required = true)]
    vms: Vec<String>,
    /// Return when it has begun
    #[arg(long)]
    no_wait: bool,
}

/// The time between looks at an operation.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Runs `hiveward vm …`.
pub async fn run(client: &Client, show: Show, command: VmCommand) -> Outcome {
    match command {
        VmCommand::Create(args) => create::run(client, show, *args).await,
        VmCommand::List { status, host, name, limit, watch } => {
            let filter = Input::default()
                .list("status", status.iter().map(|status| args::constant(status)))
                .set("host", lookup::optional(client, &lookup::HOST, host).await?)
                .set("nameContains", name.map(Value::from))
                .done();
            watching(watch, || list(client, show, filter.clone(), limit)).await
        }
        VmCommand::Show { vm } => {
            let id = resolve(client, &vm).await?;
            show.one(&client.get(VM, "VmShow", json!({ "id": id }), "/node").await?)
        }
        VmCommand::Start(which) => each(client, show, which, "VmStart", "startVm", json!({})).await,
        VmCommand::Stop { which, force, grace } => {
            let mut extra = json!({ "force": force });
            if let Some(grace) = grace {
                extra["graceMs"] = args::millis(grace);
            }
            each(client, show, which, "VmStop", "stopVm", extra).await
        }
        VmCommand::Reboot(which) => each(client, show, which, "VmReboot", "rebootVm", json!({})).await,
        VmCommand::Pause(which) => each(client, show, which, "VmPause", "pauseVm", json!({})).await,
        VmCommand::Resume(which) => each(client, show, which, "VmResume", "resumeVm", json!({})).await,
        VmCommand::Migrate { vm, to, cancel, offline, bandwidth, limit, at_limit, operation_id, no_wait } => {
            let vm = resolve(client, &vm).await?;
            if cancel {
                let input = json!({ "vm": vm });
                let told = client.get(VM, "VmCancelMigration", json!({ "input": input }), "/cancelVmMigration/vm").await?;
                return match if no_wait { Ok(told) } else { ended(client, told).await } {
                    // That it did not succeed is what was wanted.
                    Err(failed) if failed.what.contains("cancelled") => {
                        show.done(&client.get(VM, "VmOperation", json!({ "id": vm }), "/node").await?)
                    }
                    done => show.done(&done?),
                };
            }
            let input = Input::default()
                .set("operationId", operation_id.map(Value::from))
                .set("vm", Value::from(vm.as_str()))
                .set("to", lookup::optional(client, &lookup::HOST, to).await?)
                .set("live", offline.then_some(Value::Bool(false)))
                .set("bandwidthMib", bandwidth.map(Value::from))
                .set("limitMs", args::millis(limit))
                .set("atLimit", Value::from(args::constant(&at_limit)))
                .done();
            let begun = client.get(VM, "VmMigrate", json!({ "input": input }), "/migrateVm/vm").await?;
            if no_wait {
                return show.done(&begun);
            }
            let number = begun["operation"]["number"].clone();
            ended_showing(client, begun, progress).await?;
            let vm: Value = client.get(VM, "VmShow", json!({ "id": vm }), "/node").await?;
            let operation = vm["operations"].as_array().into_iter().flatten().find(|operation| operation["number"] == number);
            let downtime = operation.map(|operation| text(&operation["measured"], "downtimeMs")).unwrap_or_default();
            if !downtime.is_empty() {
                eprintln!("{} is on {}; it stood still for {downtime} ms", text(&vm, "name"), text(&vm["host"], "name"));
            }
            show.done(&vm)
        }
        VmCommand::Snapshot { vm, name, operation_id, no_wait } => {
            let name = name.unwrap_or_else(|| jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string());
            let about = About { vm, name, operation_id, no_wait };
            snapshot::ask(client, show, about, "VmSnapshot", "snapshotVm").await
        }
        VmCommand::Snapshots { vm } => snapshot::list(client, show, &vm).await,
        VmCommand::Revert { vm, name, operation_id, no_wait } => {
            snapshot::ask(client, show, About { vm, name, operation_id, no_wait }, "VmRevert", "revertVm").await
        }
        VmCommand::SnapshotRemove { vm, name, operation_id, no_wait } => {
            let about = About { vm, name, operation_id, no_wait };
            snapshot::ask(client, show, about, "VmRemoveSnapshot", "removeVmSnapshot").await
        }
        VmCommand::Console { vm, read_only, after_byte } => {
            console::run(client, &vm, console::Options { read_only, after_byte }).await
        }
        VmCommand::Backup { vm, to, incremental, full: _, cancel, operation_id, no_wait } => match to {
            Some(to) if !cancel => {
                let new = backup::Take { vm, to, incremental, operation_id, no_wait };
                backup::backup(client, show, new).await
            }
            _ => backup::cancel(client, show, &vm).await,
        },
        VmCommand::BackupSchedule { vm, cron, to, keep, full_every, off: _ } => {
            backup::schedule(client, show, &vm, cron.zip(to), keep, full_every).await
        }
        VmCommand::Backups { vm, within } => match (vm, within) {
            (Some(vm), _) => backup::of(client, show, &vm).await,
            (None, within) => backup::within(client, show, within.as_deref().unwrap_or(".")).await,
        },
        VmCommand::BackupVerify { from } => backup::verify(client, show, &from).await,
        VmCommand::Restore { from, name, on, no_start, no_wait } => {
            backup::restore(client, show, backup::New { from, name, host: on, no_start, no_wait }).await
        }
        VmCommand::Drill { from, on, no_wait } => backup::drill(client, show, &from, on, no_wait).await,
        VmCommand::Exec { vm, env, stdin, argv } => guest::exec(client, show, &vm, &env, stdin, argv).await,
        VmCommand::Freeze { vm, thaw } => guest::freeze(client, show, &vm, thaw).await,
        VmCommand::Stats(args) => balance::vm_stats(client, show, args).await,
        VmCommand::Shape(command) => shape::run(client, show, command).await,
        VmCommand::Clone { vm, name, on, no_start, operation_id, no_wait } => {
            show.done(&copy::clone(client, copy::Clone { vm, name, on, no_start, operation_id, no_wait }).await?)
        }
        VmCommand::Remove { which, force } => each(client, show, which, "VmRemove", "removeVm", json!({ "force": force })).await,
    }
}

async fn list(client: &Client, show: Show, filter: Value, limit: usize) -> Outcome {
    let vms = pages(client, VM, "VmList", json!({ "filter": filter }), "vms", limit).await?;
    show.list(&["id", "name", "status", "host", "image", "cpus", "memory", "doing"], &vms, |vm| {
        let operation = &vm["operation"];
        let doing = if operation["status"] == "RUNNING" { text(operation, "kind") } else { String::new() };
        vec![
            text(vm, "id"),
            text(vm, "name"),
            text(vm, "status"),
            text(&vm["host"], "name"),
            text(vm, "image"),
            text(vm, "cpus"),
            size(&vm["memoryBytes"]),
            doing,
        ]
    })
}

/// Returns a VM's id, from what was written for it.
pub(super) async fn resolve(client: &Client, given: &str) -> Outcome<String> {
    lookup::id(client, &lookup::VM, given).await
}

pub(super) async fn named(client: &Client, name: &str) -> Outcome<Option<String>> {
    let found = pages(client, VM, "VmList", json!({ "filter": { "nameContains": name } }), "vms", 500).await?;
    Ok(found.iter().find(|vm| vm["name"] == name).map(|vm| text(vm, "id")))
}

async fn each(client: &Client, show: Show, which: Which, operation: &str, field: &str, extra: Value) -> Outcome {
    let all = which.vms.len();
    let mut failures = Vec::new();
    for vm in which.vms {
        let one = async {
            let mut input = extra.clone();
            input["vm"] = resolve(client, &vm).await?.into();
            let begun = client.get(VM, operation, json!({ "input": input }), &format!("/{field}/vm")).await?;
            if which.no_wait { Ok(begun) } else { ended(client, begun).await }
        };
        match one.await {
            Ok(vm) => show.done(&vm)?,
            Err(failed) => failures.push(failed),
        }
    }
    partly(all, failures)
}

/// Waits for the end of the operation that a mutation began; a VM that was removed by it is shown as it was.
pub(super) async fn ended(client: &Client, begun: Value) -> Outcome<Value> {
    ended_showing(client, begun, |_| ()).await
}

/// Shows how a migration goes in a line on a terminal's standard error.
fn progress(vm: &Value) {
    let migration = &vm["migration"];
    if migration.is_null() || !std::io::stderr().is_terminal() {
        return;
    }
    let forecast = match (migration["forecastMs"].as_u64(), migration["isOutrun"].as_bool()) {
        (Some(ms), _) => format!("about {} s more", ms.div_ceil(1_000)),
        (None, Some(true)) => "the guest writes faster than that is sent".into(),
        _ => String::new(),
    };
    let (done, all) = (size(&migration["processedBytes"]), size(&migration["totalBytes"]));
    let slowed = migration["throttlePercent"].as_u64().filter(|percent| *percent > 0);
    let slowed = slowed.map_or_else(String::new, |percent| format!(", its CPUs slowed by {percent} %"));
    eprint!("\r\x1b[K{}: {done} of {all}, pass {} {forecast}{slowed}", text(vm, "name"), text(migration, "iteration"));
}

async fn ended_showing(client: &Client, begun: Value, progress: impl Fn(&Value)) -> Outcome<Value> {
    let (id, number) = (text(&begun, "id"), begun["operation"]["number"].clone());
    if begun["operation"]["status"] != "RUNNING" {
        return Ok(begun);
    }
    loop {
        let vm: Value = client.get(VM, "VmOperation", json!({ "id": id }), "/node").await?;
        let operation = vm["operations"].as_array().into_iter().flatten().find(|operation| operation["number"] == number);
        match operation.map(|operation| (text(operation, "status"), text(operation, "kind"), text(operation, "error"))) {
            Some((status, ..)) if status == "RUNNING" => progress(&vm),
            Some((status, kind, error)) if status != "SUCCEEDED" => {
                let name = text(&vm, "name");
                let next = hint::of_reason(Code::Refused, &error).map_or_else(
                    || format!("`hiveward vm show {name}` says how it is; mend what is named above, and ask again"),
                    str::to_owned,
                );
                return Err(Failed::new(Exit::Failed, format!("{kind} of {name} is {status}: {error}"), next));
            }
            Some(_) => return Ok(vm),
            None => return Ok(begun),
        }
        if client.deadline.is_some_and(|deadline| deadline <= tokio::time::Instant::now()) {
            return Err(Failed::new(
                Exit::TimedOut,
                format!("{} is still {}", text(&vm, "name"), text(&vm, "status")),
                "it goes on; look with `hiveward vm show`",
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
