//! `hiveward whoami`, `can-i`, `project …`, `policy …`, and the keys of `hiveward token …`: who may do what.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    args::{self, Input},
    client::{ACCESS, Client},
    fail::{Exit, Failed, Outcome},
    show::{Format, Show, plain, print, text},
    usage::money,
};
use crate::pages::pages;

#[derive(Args)]
pub struct CanIArgs {
    /// What is to be done: the name of a mutation, query or subscription, such as cancelTask
    verb: String,
    /// The thing that it is to be done with, by its whole id; else anything of the project
    id: Option<String>,
}

#[derive(Subcommand)]
pub enum ProjectCommand {
    /// Add a project
    Create {
        /// Its name, which stays: letters, digits, dots, dashes and underscores
        name: String,
        #[command(flatten)]
        quotas: Quotas,
        /// Repeating the same with this id changes nothing more
        #[arg(long)]
        operation_id: Option<String>,
    },
    /// List projects with who is in them and how much they may have
    List {
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Set how much a project may have, in place of what was set before
    Update {
        /// Its name or its id
        project: String,
        #[command(flatten)]
        quotas: Quotas,
    },
    /// Remove a project to which nothing belongs any more
    Remove {
        /// Its name or its id
        project: String,
    },
    /// Give somebody a role, in a project or in the whole cluster
    AddMember {
        #[command(flatten)]
        member: Member,
        /// viewer, task-creator, agent-manager, operator or admin
        #[arg(long)]
        role: String,
    },
    /// Take a role from somebody, or all that he has there
    RemoveMember {
        #[command(flatten)]
        member: Member,
        /// Only this role
        #[arg(long)]
        role: Option<String>,
    },
}

/// Who is given or loses a role, and where.
#[derive(Args)]
pub struct Member {
    /// A principal's name as `hiveward whoami` shows it, or group:NAME
    member: String,
    /// In the whole cluster, and not in the project that --project names
    #[arg(long)]
    everywhere: bool,
}

/// How much a project may have.
#[derive(Args)]
pub struct Quotas {
    /// What it may have at most, such as agents=50,tasks-queued=100000,spend-day=20; also swarms and vms
    #[arg(long, value_name = "NAME=AMOUNT,…", value_delimiter = ',', value_parser = args::pair)]
    quota: Vec<(String, String)>,
}

#[derive(Subcommand)]
pub enum PolicyCommand {
    /// Put the policies of a file into effect on every node, beside the roles
    Apply {
        /// The file, in Cedar's language
        file: PathBuf,
        /// What they are called; else as the file without its ending
        #[arg(long)]
        name: Option<String>,
    },
    /// Say whether the policies of a file would fit, and change nothing
    Check {
        /// The file, in Cedar's language
        file: PathBuf,
    },
    /// Show the policies beside the roles
    List,
    /// Take policies out of effect
    Remove {
        /// As `hiveward policy list` shows it
        name: String,
    },
    /// Say which policies decide whether you may do something
    Explain(CanIArgs),
}

/// A key that is made.
#[derive(Args)]
pub struct KeyArgs {
    /// Make a key for programs, with this role in the project of --project, else in the whole cluster: viewer, task-creator, agent-manager, operator or admin
    #[arg(long)]
    pub role: Option<String>,
    /// What the key is called: events name its holder key:NAME
    #[arg(long, requires = "role")]
    pub name: Option<String>,
    /// After how long the key is worth nothing, such as 30d; else never
    #[arg(long, requires = "role", value_parser = args::duration)]
    pub expires: Option<Duration>,
}

/// Runs `hiveward whoami`.
pub async fn who_am_i(client: &Client, show: Show) -> Outcome {
    let me: Value = client.get(ACCESS, "WhoAmI", json!({}), "/me").await?;
    if show.format != Format::Table || show.quiet {
        return if show.quiet { print(&format!("{}\n", text(&me, "name"))) } else { show.value(&me) };
    }
    let mut said = format!("{} ({})\n", text(&me, "name"), text(&me, "kind"));
    for grant in me["grants"].as_array().into_iter().flatten() {
        let place = match text(&grant["project"], "name") {
            name if name.is_empty() => "in the whole cluster".to_owned(),
            name => format!("in project {name}"),
        };
        said.push_str(&format!("{} {place}\n", role_of(&grant["role"])));
    }
    let project = text(&me["project"], "name");
    if !project.is_empty() {
        said.push_str(&format!("Names are looked up in project {project}.\n"));
    }
    print(&said)
}

/// Runs `hiveward can-i …` and `hiveward policy explain …`. It fails if the answer is no.
pub async fn can_i(client: &Client, show: Show, args: CanIArgs) -> Outcome {
    let variables = json!({ "verb": args.verb, "id": args.id });
    let decision: Value = client.get(ACCESS, "CanI", variables, "/canI").await?;
    let because: Vec<_> = decision["because"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let allowed = decision["allowed"] == true;
    if show.format == Format::Table {
        let why = match (allowed, because.is_empty()) {
            (true, _) => format!("yes, by {}", because.join(", ")),
            (false, true) => "no: no policy allows it".to_owned(),
            (false, false) => format!("no, because of {}", because.join(", ")),
        };
        print(&format!("{why}\n"))?;
    } else {
        show.value(&decision)?;
    }
    if allowed {
        return Ok(());
    }
    Err(Failed::new(
        Exit::Denied,
        format!("you may not {}", args.verb),
        "ask who administers it for a role; `hiveward whoami` shows those that you have",
    ))
}

impl Quotas {
    fn input(self) -> Outcome<Value> {
        let mut input = serde_json::Map::new();
        for (name, amount) in self.quota {
            let number = || {
                amount.parse::<i32>().map(Value::from).map_err(|_| {
                    Failed::usage(format!("--quota {name}={amount}: that is no number"), "give a whole number, such as agents=50")
                })
            };
            let (name, value) = match name.as_str() {
                "agents" => ("agents", number()?),
                "swarms" => ("swarms", number()?),
                "vms" => ("vms", number()?),
                "tasks-queued" => ("tasksQueued", number()?),
                "spend-day" => ("spendDay", Value::from(amount.clone())),
                other => {
                    let what = format!("--quota {other}: there is no such quota");
                    return Err(Failed::usage(what, "the quotas are agents, swarms, vms, tasks-queued and spend-day"));
                }
            };
            input.insert(name.to_owned(), value);
        }
        Ok(Value::Object(input))
    }
}

impl Member {
    fn input(self, client: &Client, role: Option<String>) -> Outcome<Value> {
        let project =
            if self.everywhere {
                None
            } else {
                Some(client.project().ok_or_else(|| {
                    Failed::usage("in which project is not said", "name it with --project, or say --everywhere")
                })?)
            };
        let input = Input::default().set("member", Some(Value::from(self.member)));
        Ok(input.set("project", project.map(Value::from)).set("role", role.map(Value::from)).done())
    }
}

/// Runs `hiveward project …`.
pub async fn project(client: &Client, show: Show, command: ProjectCommand) -> Outcome {
    let changed = async |operation: &str, input: Value, path: &str| -> Outcome {
        let project: Value = client.get(ACCESS, operation, json!({ "input": input }), path).await?;
        if project.is_null() { Ok(()) } else { projects(show, &[project]) }
    };
    match command {
        ProjectCommand::Create { name, quotas, operation_id } => {
            let input = Input::default().set("name", Some(Value::from(name))).set("quotas", Some(quotas.input()?));
            changed("ProjectCreate", input.set("operationId", operation_id.map(Value::from)).done(), "/createProject/project")
                .await
        }
        ProjectCommand::List { limit } => {
            projects(show, &pages(client, ACCESS, "ProjectList", json!({}), "projects", limit).await?)
        }
        ProjectCommand::Update { project, quotas } => {
            changed("ProjectUpdate", json!({ "project": project, "quotas": quotas.input()? }), "/updateProject/project").await
        }
        ProjectCommand::Remove { project } => {
            changed("ProjectRemove", json!({ "project": project }), "/removeProject/project").await
        }
        ProjectCommand::AddMember { member, role } => {
            changed("MemberAdd", member.input(client, Some(role))?, "/addMember/project").await
        }
        ProjectCommand::RemoveMember { member, role } => {
            changed("MemberRemove", member.input(client, role)?, "/removeMember/project").await
        }
    }
}

fn projects(show: Show, projects: &[Value]) -> Outcome {
    show.list(&["name", "id", "may have", "members"], projects, |project| {
        let quotas = &project["quotas"];
        let counted = [("agents", "agents"), ("swarms", "swarms"), ("vms", "VMs"), ("tasksQueued", "tasks queued")];
        let counted = counted.into_iter().filter(|(field, _)| !quotas[*field].is_null());
        let spend = money(&quotas["spendDay"]);
        let spend = if spend.is_empty() { None } else { Some(format!("{spend} a day")) };
        let quotas: Vec<_> = counted.map(|(field, word)| format!("{} {word}", plain(&quotas[field]))).chain(spend).collect();
        let members = project["members"].as_array().into_iter().flatten().map(|member| {
            let roles: Vec<_> = member["roles"].as_array().into_iter().flatten().map(role_of).collect();
            format!("{} ({})", text(member, "member"), roles.join(", "))
        });
        vec![text(project, "name"), text(project, "id"), quotas.join(", "), members.collect::<Vec<_>>().join(", ")]
    })
}

/// Writes a role as people and policies write it.
fn role_of(role: &Value) -> String {
    role.as_str().unwrap_or_default().to_lowercase().replace('_', "-")
}

/// Makes a key for programs.
pub async fn create_key(client: &Client, show: Show, args: KeyArgs) -> Outcome {
    let role = args.role.unwrap_or_default();
    let name = args.name.unwrap_or_else(|| role.clone());
    let expires = args.expires.map(|expires| Value::from(expires.as_millis().to_string()));
    let input = Input::default().set("name", Some(Value::from(name))).set("role", Some(Value::from(role)));
    let input = input.set("project", client.project().map(Value::from)).set("expiresInMs", expires).done();
    let made: Value = client.get(ACCESS, "KeyCreate", json!({ "input": input }), "/createApiKey").await?;
    if show.format != Format::Table {
        return show.value(&made);
    }
    if !show.quiet {
        let key = &made["apiKey"];
        eprintln!("Key {} is made. It is not shown again:", text(key, "name"));
    }
    print(&format!("{}\n", text(&made, "secret")))
}

/// Lists the keys of programs.
pub async fn list_keys(client: &Client, show: Show, limit: usize) -> Outcome {
    let keys: Vec<Value> = pages(client, ACCESS, "KeyList", json!({}), "apiKeys", limit).await?;
    show.list(&["name", "id", "begins", "role", "in", "made by", "made", "until"], &keys, |key| {
        let place = text(&key["project"], "name");
        vec![
            text(key, "name"),
            text(key, "id"),
            text(key, "prefix"),
            role_of(&key["role"]),
            if place.is_empty() { "the whole cluster".into() } else { place },
            text(key, "createdBy"),
            text(key, "createdAt"),
            text(key, "expiresAt"),
        ]
    })
}

/// Revokes a key, by name or id.
pub async fn revoke_key(client: &Client, show: Show, key: &str) -> Outcome {
    let revoked = client.get::<Value>(ACCESS, "KeyRevoke", json!({ "input": { "id": key } }), "/revokeApiKey").await?;
    show.done(&revoked)
}

fn read(file: &PathBuf) -> Outcome<String> {
    std::fs::read_to_string(file).map_err(|error| Failed::local(format!("{} cannot be read: {error}", file.display())))
}

/// Runs `hiveward policy …`.
pub async fn policy(client: &Client, show: Show, command: PolicyCommand) -> Outcome {
    let apply = async |name: String, text: String, dry_run: bool| -> Outcome<Value> {
        let input = json!({ "name": name, "text": text, "dryRun": dry_run });
        client.get(ACCESS, "PolicyApply", json!({ "input": input }), "/applyPolicy").await
    };
    let stem = |file: &PathBuf| file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    match command {
        PolicyCommand::Apply { file, name } => {
            let name = name.unwrap_or_else(|| stem(&file));
            show.done(&apply(name, read(&file)?, false).await?)
        }
        PolicyCommand::Check { file } => {
            apply(stem(&file), read(&file)?, true).await?;
            if show.quiet { Ok(()) } else { print("it fits; nothing was changed\n") }
        }
        PolicyCommand::List => {
            let policies: Value = client.get(ACCESS, "PolicyList", json!({}), "/policies").await?;
            let policies = policies.as_array().cloned().unwrap_or_default();
            show.list(&["name", "applied", "text"], &policies, |policy| {
                vec![text(policy, "name"), text(policy, "appliedAt"), text(policy, "text")]
            })
        }
        PolicyCommand::Remove { name } => {
            let removed = client.get::<Value>(ACCESS, "PolicyRemove", json!({ "input": { "name": name } }), "/removePolicy");
            show.done(&removed.await?)
        }
        PolicyCommand::Explain(args) => can_i(client, show, args).await,
    }
}
