//! `hiveward apply -f FILE`: swarms, agents, hosts, images, networks, VMs and tasks as one YAML file.
//!
//! Operation ids are derived from the content, so applying the same file again changes nothing: what is there is left as
//! it is. The file may declare `parameters`, which `--set` overrides and `${name}` in its texts stands for.

mod coding;
mod file;
mod vm;
mod wanted;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use self::wanted::{Wanted, operation};
use super::{
    args,
    client::{AGENT, Client, NETWORK, SWARM, TASK, VM},
    fail::{Exit, Failed, Outcome},
    host, image, lookup, network,
    show::{Format, Show, print, text},
    swarm,
    wait::{self, Follow},
};

#[derive(Args)]
pub struct ApplyArgs {
    /// The file (`-` for standard input)
    #[arg(short, long)]
    file: PathBuf,
    /// A value for one of the file's parameters
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = args::pair)]
    set: Vec<(String, String)>,
    /// Apply it once more even so: this text is part of every operation id
    #[arg(long, value_name = "TEXT", default_value = "")]
    run: String,
    /// Wait for the end of its tasks; exit status 8 if one fails
    #[arg(long)]
    wait: bool,
    /// Only say what the file asks for
    #[arg(long)]
    dry_run: bool,
}

/// Runs `hiveward apply`.
pub async fn run(client: &Client, show: Show, args: ApplyArgs) -> Outcome {
    let name = args.file.display().to_string();
    let read = if name == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(&args.file) };
    let content = read
        .map_err(|error| Failed::new(Exit::NotFound, format!("cannot read {name}: {error}"), "check the path given with -f"))?;
    let wanted = Wanted::read(&name, &content, &args.set)
        .map_err(|problem| Failed::usage(problem, "mend the file and apply it again; nothing was changed"))?;
    if args.dry_run {
        return Show { format: if show.format == Format::Table { Format::Yaml } else { show.format }, ..show }.value(&json!({
            "swarms": wanted.swarms, "agents": wanted.agents, "hosts": wanted.hosts, "images": wanted.images,
            "networks": wanted.networks,
            "vms": wanted.vms, "tasks": wanted.tasks,
        }));
    }
    let mut applied = Vec::new();
    for swarm in wanted.swarms {
        applied.push(entity(client, &args.run, "swarm", swarm).await?);
    }
    for agent in wanted.agents {
        applied.push(entity(client, &args.run, "agent", agent).await?);
    }
    for host in wanted.hosts {
        let host = entity(client, &args.run, "host", host).await?;
        // VMs that follow are placed on what was reached.
        host::reached(client, &text(&host, "id")).await?;
        applied.push(host);
    }
    for mut image in wanted.images {
        image["source"] = image::absolute(text(&image, "source"))?.into();
        applied.push(entity(client, &args.run, "image", image).await?);
    }
    for network in wanted.networks {
        applied.push(entity(client, &args.run, "network", network).await?);
    }
    for vm in wanted.vms {
        applied.push(entity(client, &args.run, "vm", vm).await?);
    }
    let mut tasks = Vec::new();
    for (swarm, batch) in wanted.tasks {
        let mut input = Map::from_iter([("tasks".to_owned(), Value::Array(batch))]);
        if !swarm.is_empty() {
            input.insert("swarm".into(), swarm.into());
        }
        let mut input = Value::Object(input);
        input["operationId"] = operation("tasks", &args.run, &input).into();
        let submitted: Vec<Value> = client.get(TASK, "TasksSubmit", json!({ "input": input }), "/submitTasks/tasks").await?;
        for task in submitted {
            tasks.push(text(&task, "id"));
            applied.push(json!({ "id": task["id"], "noun": "task", "name": task["title"], "what": task["status"] }));
        }
    }
    match show.format {
        Format::Table if show.quiet => applied.iter().try_for_each(|item| print(&format!("{}\n", text(item, "id"))))?,
        Format::Table => show.list(&["noun", "id", "name", "what"], &applied, |item| {
            ["noun", "id", "name", "what"].map(|field| text(item, field)).into()
        })?,
        _ => show.value(&Value::Array(applied))?,
    }
    if args.wait {
        wait_for(client, tasks).await?;
    }
    Ok(())
}

async fn wait_for(client: &Client, tasks: Vec<String>) -> Outcome {
    let mut failures = Vec::new();
    let all = tasks.len();
    for task in tasks {
        match wait::end(client, &task, Follow { print_changes: false, output: false }).await {
            Ok(_) => {}
            Err(failed) if failed.exit == Exit::TaskFailed => failures.push(failed),
            Err(failed) => return Err(failed),
        }
    }
    match failures.first() {
        None => Ok(()),
        Some(first) => Err(Failed::new(
            Exit::TaskFailed,
            format!("{} of {all} tasks failed; the first: {}", failures.len(), first.what),
            first.next.clone(),
        )),
    }
}

/// Creates one thing unless one with its name is there.
async fn entity(client: &Client, run: &str, noun: &str, mut input: Value) -> Outcome<Value> {
    input["operationId"] = operation(noun, run, &input).into();
    let name = text(&input, "name");
    let (document, mutation, place) = match noun {
        "swarm" => (SWARM, "SwarmCreate", "/createSwarm/swarm"),
        "host" => (VM, "HostRegister", "/registerHost/host"),
        "vm" => (VM, "VmCreate", "/createVm/vm"),
        "image" => (VM, "ImageImport", "/importImage/image"),
        "network" => (NETWORK, "NetworkCreate", "/createNetwork/network"),
        _ => (AGENT, "AgentCreate", "/createAgent/agent"),
    };
    let swarm = text(&input, "swarm");
    let made = match noun {
        "image" => image::import(client, &input).await,
        _ => client.get::<Value>(document, mutation, json!({ "input": input }), place).await,
    };
    match made {
        Ok(made) => Ok(json!({ "id": made["id"], "noun": noun, "name": name, "what": "applied" })),
        Err(failed) if failed.exit == Exit::Conflict => {
            let there = match noun {
                "swarm" => swarm::named(client, &name).await?,
                // A host with its URI under another name is no reason to be content.
                "host" => lookup::id(client, &lookup::HOST, &name).await.ok(),
                "vm" => super::vm::named(client, &name).await?,
                "image" => image::named(client, &name).await?.map(|image| text(&image, "id")),
                "network" => network::named(client, &name).await?.map(|network| text(&network, "id")),
                _ => agent_named(client, &swarm, &name).await?,
            };
            let id = there.ok_or(failed)?;
            Ok(json!({ "id": id, "noun": noun, "name": name, "what": "already there, left as it is" }))
        }
        Err(failed) => Err(failed),
    }
}

async fn agent_named(client: &Client, swarm: &str, name: &str) -> Outcome<Option<String>> {
    let mut filter = json!({ "nameContains": name });
    filter["swarm"] = if swarm.is_empty() { "default".into() } else { swarm.into() };
    let found = crate::pages::pages(client, AGENT, "AgentList", json!({ "filter": filter }), "agents", 500).await?;
    Ok(found.iter().find(|agent| agent["name"] == *name).map(|agent| text(agent, "id")))
}
