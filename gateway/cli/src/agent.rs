//! `hiveward agent …`

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    args::{self, Input},
    attach,
    client::{AGENT, Client},
    fail::{Failed, Outcome},
    lookup,
    show::{Show, text},
    task::partly,
};
use crate::pages::{pages, watching};

#[derive(Subcommand)]
pub enum AgentCommand {
    /// Create an agent; answers when it is ready
    Create(Box<CreateArgs>),
    /// List agents
    List {
        #[arg(long, value_delimiter = ',')]
        status: Vec<String>,
        #[arg(long)]
        swarm: Option<String>,
        /// Only with this skill
        #[arg(long)]
        skill: Option<String>,
        /// Part of the name
        #[arg(long)]
        name: Option<String>,
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Show again every second
        #[arg(short, long)]
        watch: bool,
    },
    /// Show all of one agent
    Show { agent: String },
    /// Start agents that were stopped
    Start(Which),
    /// Stop agents: gracefully, or at once with --now
    Stop {
        #[command(flatten)]
        which: Which,
        /// Kill what runs; its tasks go to others
        #[arg(long)]
        now: bool,
    },
    /// Pause agents at their next step, or freeze their processes with --freeze
    Pause {
        #[command(flatten)]
        which: Which,
        /// In the middle of what they do
        #[arg(long)]
        freeze: bool,
    },
    /// Let paused or frozen agents go on
    Resume(Which),
    /// A new life; what the old one says is refused
    Restart(Which),
    /// Remove agents and all their processes
    Remove {
        #[command(flatten)]
        which: Which,
        /// Even while they hold tasks
        #[arg(long)]
        force: bool,
    },
    /// Remove the merged branches that attempts left in the repository of an agent
    Clean {
        agent: String,
        /// Also branches that are not merged; their work is lost
        #[arg(long)]
        force: bool,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Programs that speak the Agent Client Protocol and are known by name
    Presets,
    /// Sit at the terminal of what an agent runs (an agent created with --pty); Ctrl-] detaches
    Attach {
        agent: String,
        /// Which of its tasks, when it runs several
        #[arg(long, value_name = "ID")]
        task: Option<String>,
        /// Watch without typing
        #[arg(long)]
        read_only: bool,
    },
}

#[derive(Args)]
pub struct Which {
    #[arg(required = true)]
    agents: Vec<String>,
}

/// A VM of its own for each attempt.
#[derive(Args)]
pub struct MachineArgs {
    /// Run each attempt in a VM of its own, made of this image and gone afterwards. The image has QEMU's guest agent, sh, tar
    /// and what the agent's programs need
    #[arg(long, value_name = "IMAGE")]
    vm: Option<String>,
    /// Of such a VM
    #[arg(long, value_name = "N", default_value_t = 1, requires = "vm")]
    vm_cpus: u32,
    /// Of such a VM
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = args::bytes, requires = "vm")]
    vm_memory: u64,
    /// One of the cluster's, bridge:NAME, or one of the hypervisor's; may be given often
    #[arg(long = "vm-network", value_name = "N", requires = "vm")]
    vm_networks: Vec<String>,
    /// Only hosts of this zone
    #[arg(long, value_name = "ZONE", requires = "vm")]
    vm_zone: Option<String>,
    /// Only hosts with all of these labels
    #[arg(long = "vm-host-label", value_name = "KEY=VALUE", value_parser = args::pair, requires = "vm")]
    vm_host_labels: Vec<(String, String)>,
    /// For the guest's agent to answer; five minutes if absent
    #[arg(long, value_name = "D", value_parser = args::duration, requires = "vm")]
    vm_boot_within: Option<Duration>,
    /// How many such VMs wait booted for the next attempts
    #[arg(long, value_name = "N", default_value_t = 0, requires = "vm")]
    vm_warm: u32,
}

impl MachineArgs {
    fn input(&self) -> Option<Value> {
        let image = self.vm.clone()?;
        let labels = self.vm_host_labels.iter().map(|(key, value)| json!({ "key": key, "value": value }));
        let machine = Input::default()
            .set("image", Some(image.into()))
            .set("cpus", Some(self.vm_cpus.into()))
            .set("memoryBytes", Some(self.vm_memory.into()))
            .list("networks", self.vm_networks.iter().map(|network| Value::from(network.clone())))
            .set("zone", self.vm_zone.clone().map(Value::from))
            .list("hostLabels", labels)
            .set("bootWithinMs", self.vm_boot_within.map(args::millis))
            .set("warm", Some(self.vm_warm.into()));
        Some(json!({ "vm": machine.done() }))
    }
}

#[derive(Args)]
pub struct CreateArgs {
    /// Unique in its swarm
    name: String,
    /// By id or name; `default` if absent
    #[arg(long)]
    swarm: Option<String>,
    /// What it runs its tasks by
    #[arg(long, default_value = "command", value_parser = ["command", "worker", "noop", "claude-code", "acp", "model"])]
    connector: String,
    /// What it can do, and how well: 1 if absent; may be given more than once
    #[arg(long = "skill", value_name = "NAME[=0..1]", value_parser = args::skill)]
    skills: Vec<(String, f64)>,
    /// Its share where its swarm chooses by weight
    #[arg(long)]
    weight: Option<u32>,
    /// How many it runs at a time
    #[arg(long, value_name = "N")]
    max_concurrent_tasks: Option<u32>,
    /// What an attempt may use; it is killed beyond
    #[arg(long, value_name = "BYTES", value_parser = args::bytes)]
    memory: Option<u64>,
    /// Thousandths of one core
    #[arg(long, value_name = "N")]
    cpu_millis: Option<u32>,
    /// How long an attempt may take
    #[arg(long, value_name = "D", value_parser = args::duration)]
    wall: Option<Duration>,
    /// A variable of its programs; VALUE may be secret:NAME or file:PATH
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = args::pair)]
    env: Vec<(String, String)>,
    /// Give its processes a terminal
    #[arg(long, conflicts_with = "vm")]
    pty: bool,
    #[command(flatten)]
    machine: MachineArgs,
    /// For its program to say that it is ready
    #[arg(long, value_name = "D", value_parser = args::duration)]
    start_timeout: Option<Duration>,
    /// Create it without starting it
    #[arg(long)]
    no_start: bool,
    /// The directory that its programs begin in
    #[arg(long)]
    cwd: Option<String>,
    /// Only this node holds it
    #[arg(long, value_name = "ID")]
    node: Option<String>,
    /// Only nodes with all of these labels hold it
    #[arg(long = "node-label", value_name = "KEY=VALUE", value_parser = args::pair)]
    node_labels: Vec<(String, String)>,
    #[arg(long)]
    operation_id: Option<String>,
    /// For a coding agent: the directory that it works in; a fresh one per attempt if absent
    #[arg(long, value_name = "PATH")]
    workspace: Option<PathBuf>,
    /// For a coding agent
    #[arg(long)]
    model: Option<String>,
    /// For a coding agent: its role, in words
    #[arg(long, value_name = "TEXT")]
    instructions: Option<String>,
    /// What a coding agent may do without being asked: TOOL, TOOL:PATH or Bash:WORDS, such as `Edit|Write:src/**` or
    /// `Bash:git *`. Rules are tried in the order --deny, --ask, --allow; what none fits is asked
    #[arg(long = "allow", value_name = "RULE")]
    allow: Vec<String>,
    /// What it may not do
    #[arg(long = "deny", value_name = "RULE")]
    deny: Vec<String>,
    /// What a person is asked about
    #[arg(long = "ask", value_name = "RULE")]
    ask: Vec<String>,
    /// How long a person is waited for; then it is denied
    #[arg(long, value_name = "D", value_parser = args::duration)]
    ask_within: Option<Duration>,
    /// For acp: a known program, see `hiveward agent presets`
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// For a coding agent: it calls models with the login of the node's user, not through the model gateway; nothing is
    /// metered and no budget holds it
    #[arg(long)]
    own_account: bool,
    /// For a worker or a coding agent: its program and arguments
    #[arg(last = true)]
    argv: Vec<String>,
}

/// Runs `hiveward agent …`.
pub async fn run(client: &Client, show: Show, command: AgentCommand) -> Outcome {
    match command {
        AgentCommand::Create(args) => create(client, show, *args).await,
        AgentCommand::List { status, swarm, skill, name, limit, watch } => {
            let filter = Input::default()
                .list("status", status.iter().map(|status| args::constant(status)))
                .set("swarm", lookup::optional(client, &lookup::SWARM, swarm).await?)
                .set("skill", skill.map(Value::from))
                .set("nameContains", name.map(Value::from))
                .done();
            watching(watch, || list(client, show, filter.clone(), limit)).await
        }
        AgentCommand::Show { agent } => {
            let id = lookup::id(client, &lookup::AGENT, &agent).await?;
            show.one(&client.get(AGENT, "AgentShow", json!({ "id": id }), "/node").await?)
        }
        AgentCommand::Start(which) => each(client, show, which, "AgentStart", "startAgent", json!({})).await,
        AgentCommand::Stop { which, now } => {
            each(client, show, which, "AgentStop", "stopAgent", json!({ "mode": if now { "NOW" } else { "GRACEFUL" } })).await
        }
        AgentCommand::Pause { which, freeze } => {
            each(client, show, which, "AgentPause", "pauseAgent", json!({ "mode": if freeze { "FREEZE" } else { "NEXT_STEP" } }))
                .await
        }
        AgentCommand::Resume(which) => each(client, show, which, "AgentResume", "resumeAgent", json!({})).await,
        AgentCommand::Restart(which) => each(client, show, which, "AgentRestart", "restartAgent", json!({})).await,
        AgentCommand::Remove { which, force } => {
            each(client, show, which, "AgentRemove", "removeAgent", json!({ "force": force })).await
        }
        AgentCommand::Clean { agent, force, dry_run } => {
            let agent = lookup::id(client, &lookup::AGENT, &agent).await?;
            let input = json!({ "agent": agent, "force": force, "dryRun": dry_run });
            let cleaned = client.get(AGENT, "AgentClean", json!({ "input": input }), "/cleanWorkspace").await?;
            clean(show, &cleaned, dry_run)
        }
        AgentCommand::Presets => presets(client, show).await,
        AgentCommand::Attach { agent, task, read_only } => {
            let id = lookup::id(client, &lookup::AGENT, &agent).await?;
            let task = match task {
                Some(task) => Some(lookup::id(client, &lookup::TASK, &task).await?),
                None => None,
            };
            Box::pin(attach::run(client, &id, task.as_deref(), read_only)).await
        }
    }
}

fn clean(show: Show, cleaned: &Value, dry_run: bool) -> Outcome {
    let with_outcome = |part: &str| {
        let branches = cleaned[part].as_array().cloned().unwrap_or_default();
        let removed = part == "removed";
        branches.into_iter().map(move |mut branch| {
            branch["outcome"] = match (removed, branch["inUse"] == true) {
                (true, _) if dry_run => "would be removed",
                (true, _) => "removed",
                (false, true) => "kept: in use",
                (false, false) => "kept: not merged; --force removes it",
            }
            .into();
            branch
        })
    };
    let branches: Vec<Value> = with_outcome("removed").chain(with_outcome("kept")).collect();
    show.list(&["name", "commit", "outcome"], &branches, |branch| {
        vec![text(branch, "name"), text(branch, "commit"), text(branch, "outcome")]
    })
}

async fn presets(client: &Client, show: Show) -> Outcome {
    let found: Value = client.get(AGENT, "AgentPresets", json!({}), "/codingPresets").await?;
    let presets = found.as_array().cloned().unwrap_or_default();
    show.list(&["name", "program", "models", "tried", "install"], &presets, |preset| {
        let argv = preset["argv"].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(" ");
        let models = if preset["ownAccount"] == true { "its own account: not metered" } else { "the model gateway" };
        let tried = match (preset["seenVersion"].as_str(), preset["seenExtent"].as_str()) {
            (Some(version), Some(extent)) => format!("{version}: {}", extent.to_lowercase()),
            _ => "no".to_owned(),
        };
        vec![text(preset, "name"), argv, models.to_owned(), tried, text(preset, "install")]
    })
}

async fn list(client: &Client, show: Show, filter: Value, limit: usize) -> Outcome {
    let agents = pages(client, AGENT, "AgentList", json!({ "filter": filter }), "agents", limit).await?;
    show.list(&["id", "name", "swarm", "connector", "status", "running", "succeeded", "failed"], &agents, |agent| {
        let running = format!("{}/{}", text(agent, "running"), text(agent, "maxConcurrentTasks"));
        vec![
            text(agent, "id"),
            text(agent, "name"),
            text(&agent["swarm"], "name"),
            text(&agent["connector"], "kind"),
            text(agent, "status"),
            running,
            text(agent, "succeeded"),
            text(agent, "failed"),
        ]
    })
}

async fn each(client: &Client, show: Show, which: Which, operation: &str, field: &str, extra: Value) -> Outcome {
    let all = which.agents.len();
    let mut failures = Vec::new();
    for agent in which.agents {
        let one = async {
            let mut input = extra.clone();
            input["agent"] = lookup::id(client, &lookup::AGENT, &agent).await?.into();
            client.get::<Value>(AGENT, operation, json!({ "input": input }), &format!("/{field}/agent")).await
        };
        match one.await {
            Ok(agent) => show.done(&agent)?,
            Err(failed) => failures.push(failed),
        }
    }
    partly(all, failures)
}

async fn create(client: &Client, show: Show, args: CreateArgs) -> Outcome {
    let connector = match args.connector.as_str() {
        "worker" if args.argv.is_empty() => {
            return Err(Failed::usage(
                "a worker needs its program",
                "give it after `--`, such as: hiveward agent create w1 --connector worker -- python3 worker.py",
            ));
        }
        "acp" if args.argv.is_empty() && args.preset.is_none() => {
            return Err(Failed::usage(
                "an agent that speaks the Agent Client Protocol needs its program",
                "give it after `--`, such as: hiveward agent create a1 --connector acp -- claude-agent-acp; or name a known one \
                 with --preset, see `hiveward agent presets`",
            ));
        }
        "claude-code" => json!({ "claudeCode": coding(&args)? }),
        "acp" => json!({ "acp": coding(&args)? }),
        "model" => {
            let model = args.model.clone().ok_or_else(|| Failed::usage("which model?", "name it with --model"))?;
            json!({ "model": { "model": model, "instructions": args.instructions } })
        }
        "worker" => json!({ "worker": { "argv": args.argv, "cwd": args.cwd } }),
        other => json!({ other: true }),
    };
    let limits = Input::default()
        .set("memoryBytes", args.memory.map(Value::from))
        .set("cpuMillis", args.cpu_millis.map(Value::from))
        .set("wallMs", args.wall.map(args::millis));
    let input = Input::default()
        .set("operationId", args.operation_id.map(Value::from))
        .set("name", Value::from(args.name))
        .set("swarm", lookup::optional(client, &lookup::SWARM, args.swarm).await?)
        .set("connector", connector)
        .list("skills", args.skills.iter().map(|(name, proficiency)| json!({ "name": name, "proficiency": proficiency })))
        .set("weight", args.weight.map(Value::from))
        .set("maxConcurrentTasks", args.max_concurrent_tasks.map(Value::from))
        .set("limits", limits.unless_empty())
        .list("env", args.env.iter().map(|(name, value)| json!({ "name": name, "value": value })))
        .set("session", args.machine.input().or_else(|| args.pty.then(|| json!({ "kind": "PTY" }))))
        .set("startTimeoutMs", args.start_timeout.map(args::millis))
        .set("autoStart", args.no_start.then_some(Value::Bool(false)))
        .set("node", lookup::optional(client, &lookup::NODE, args.node).await?)
        .list("nodeLabels", args.node_labels.iter().map(|(key, value)| json!({ "key": key, "value": value })))
        .done();
    show.done(&client.get(AGENT, "AgentCreate", json!({ "input": input }), "/createAgent/agent").await?)
}

fn coding(args: &CreateArgs) -> Outcome<Value> {
    let rules = [("DENY", &args.deny), ("ASK", &args.ask), ("ALLOW", &args.allow)];
    let rules = rules.into_iter().flat_map(|(decision, rules)| rules.iter().map(move |text| rule(decision, text)));
    let policy = Input::default().list("rules", rules).set("withinMs", args.ask_within.map(args::millis));
    // The node may run elsewhere in the file system: it is given the whole path.
    let whole = |path: &PathBuf| std::path::absolute(path).map_err(|error| Failed::local(format!("{}: {error}", path.display())));
    let workspace = args.workspace.as_ref().map(whole).transpose()?;
    Ok(Input::default()
        .list("argv", args.argv.iter().map(String::as_str))
        .set("model", args.model.clone().map(Value::from))
        .set("instructions", args.instructions.clone().map(Value::from))
        .set("workspace", workspace.map(|path| json!({ "directory": path.display().to_string() })))
        .set("policy", policy.unless_empty())
        .set("preset", args.preset.clone().map(Value::from))
        .set("ownAccount", args.own_account.then_some(Value::Bool(true)))
        .done())
}

/// Reads a rule: `TOOL`, `TOOL:PATH`, or `Bash:WORDS`.
fn rule(decision: &str, text: &str) -> Value {
    let (tool, about) = text.split_once(':').map_or((text, None), |(tool, about)| (tool, Some(about)));
    let field = if tool == "Bash" { "command" } else { "path" };
    Input::default()
        .set("tool", Value::from(tool))
        .set(field, about.map(Value::from))
        .set("decision", Value::from(decision))
        .done()
}
