//! The authorisation matrix, made from the table of verbs: each role, in one project and in the whole cluster, with each verb, on a
//! thing of its own project, of another, and on one that is not there, owned by the asker or not.
//!
//! What is expected is written down here a second time, by duty. A refused change is really asked for; one that is allowed is
//! asked about with `canI`, since a thousand of them would leave nothing to ask about.

use std::collections::BTreeMap;

use hiveward_access::{
    resource::ResourceKind,
    verb::{Duty, Effect, Verb},
};
use serde_json::{Value, json};

use crate::support::node::TestNode;

/// How many of the cells that are wrong are shown.
const SHOWN: usize = 40;

const ROLES: [&str; 5] = ["viewer", "task-creator", "agent-manager", "operator", "admin"];

/// The things of one project, by the words that documents below have for them.
type Things = BTreeMap<&'static str, String>;

/// What an asker may do with a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Allowed,
    Forbidden,
    /// He cannot tell it from one that is not there.
    Hidden,
}

/// Who asks: a key with a role, in one project or in the whole cluster.
struct Asker {
    role: &'static str,
    everywhere: bool,
    secret: String,
}

/// What a role may do, by duty, written down a second time.
fn may(role: &str, duty: Duty, own: bool) -> bool {
    match (role, duty) {
        ("admin", _) | (_, Duty::Ask) => true,
        (_, Duty::View) => true,
        ("task-creator", Duty::CreateTasks) => true,
        ("task-creator", Duty::TendTasks) => own,
        ("agent-manager" | "operator", Duty::CreateTasks | Duty::TendTasks | Duty::ManageAgents) => true,
        ("operator", Duty::Operate) => true,
        _ => false,
    }
}

fn expected(asker: &Asker, verb: Verb, at_home: bool, own: bool) -> Expected {
    let of_cluster = verb.is_about_the_cluster() || is_made_by_the_cluster(verb);
    if of_cluster {
        // A role in a project says nothing about the cluster.
        let duty = verb.duty();
        return if duty == Duty::Ask || (asker.everywhere && may(asker.role, duty, own)) {
            Expected::Allowed
        } else {
            Expected::Forbidden
        };
    }
    if !asker.everywhere && !at_home {
        return Expected::Hidden;
    }
    if may(asker.role, verb.duty(), own) { Expected::Allowed } else { Expected::Forbidden }
}

/// Verbs about kinds that belong to projects, which are yet decided for the cluster: there is no project yet that it could be in.
fn is_made_by_the_cluster(verb: Verb) -> bool {
    verb == Verb::CreateProject
}

/// The document that asks for a verb about a thing, with the thing's words in braces; none where another test asks.
fn document(verb: Verb) -> Option<&'static str> {
    Some(match verb {
        Verb::SubmitTask => r#"mutation{submitTask(input:{swarm:"{swarm}",command:{argv:["true"]}}){cursor}}"#,
        Verb::SubmitTasks => r#"mutation{submitTasks(input:{swarm:"{swarm}",tasks:[{command:{argv:["true"]}}]}){cursor}}"#,
        Verb::Scatter => r#"mutation{scatter(input:{swarm:"{swarm}",items:[1],part:{command:{argv:["true"]}}}){cursor}}"#,
        Verb::CancelTask => r#"mutation{cancelTask(input:{task:"{task}"}){cursor}}"#,
        Verb::RetryTask => r#"mutation{retryTask(input:{task:"{task}"}){cursor}}"#,
        Verb::MessageTask => r#"mutation{messageTask(input:{task:"{task}",text:"hi"}){__typename}}"#,
        Verb::InterruptTask => r#"mutation{interruptTask(input:{task:"{task}"}){__typename}}"#,
        Verb::TakeOverTask => r#"mutation{takeOverTask(input:{task:"{task}"}){__typename}}"#,
        Verb::GiveBackTask => r#"mutation{giveBackTask(input:{task:"{task}"}){__typename}}"#,
        Verb::ScaleSwarm => r#"mutation{scaleSwarm(input:{swarm:"{swarm}",agents:1}){cursor}}"#,
        Verb::RemoveSwarm => r#"mutation{removeSwarm(input:{swarm:"{swarm}",force:true}){cursor}}"#,
        Verb::CreateSwarm => r#"mutation{createSwarm(input:{name:"new",project:"{project}"}){cursor}}"#,
        Verb::CreateAgent => r#"mutation{createAgent(input:{name:"new",swarm:"{swarm}",connector:{command:true}}){cursor}}"#,
        Verb::StartAgent => r#"mutation{startAgent(input:{agent:"{agent}"}){cursor}}"#,
        Verb::StopAgent => r#"mutation{stopAgent(input:{agent:"{agent}"}){cursor}}"#,
        Verb::PauseAgent => r#"mutation{pauseAgent(input:{agent:"{agent}"}){cursor}}"#,
        Verb::ResumeAgent => r#"mutation{resumeAgent(input:{agent:"{agent}"}){cursor}}"#,
        Verb::RestartAgent => r#"mutation{restartAgent(input:{agent:"{agent}"}){cursor}}"#,
        Verb::RemoveAgent => r#"mutation{removeAgent(input:{agent:"{agent}",force:true}){cursor}}"#,
        Verb::CleanWorkspace => r#"mutation{cleanWorkspace(input:{agent:"{agent}"}){__typename}}"#,
        Verb::CreateVm => {
            r#"mutation{createVm(input:{name:"new",project:"{project}",image:"i",cpus:1,memoryBytes:"1048576"}){cursor}}"#
        }
        Verb::CloneVm => r#"mutation{cloneVm(input:{vm:"{vm}",name:"twin"}){cursor}}"#,
        Verb::StartVm => r#"mutation{startVm(input:{vm:"{vm}"}){cursor}}"#,
        Verb::StopVm => r#"mutation{stopVm(input:{vm:"{vm}"}){cursor}}"#,
        Verb::RebootVm => r#"mutation{rebootVm(input:{vm:"{vm}"}){cursor}}"#,
        Verb::PauseVm => r#"mutation{pauseVm(input:{vm:"{vm}"}){cursor}}"#,
        Verb::ResumeVm => r#"mutation{resumeVm(input:{vm:"{vm}"}){cursor}}"#,
        Verb::ResizeVm => r#"mutation{resizeVm(input:{vm:"{vm}",cpus:1}){cursor}}"#,
        Verb::AttachVmDisk => r#"mutation{attachVmDisk(input:{vm:"{vm}",name:"d",sizeBytes:"1048576"}){cursor}}"#,
        Verb::DetachVmDisk => r#"mutation{detachVmDisk(input:{vm:"{vm}",name:"d",delete:true}){cursor}}"#,
        Verb::AttachVmNetwork => r#"mutation{attachVmNetwork(input:{vm:"{vm}",network:"n"}){cursor}}"#,
        Verb::DetachVmNetwork => r#"mutation{detachVmNetwork(input:{vm:"{vm}",network:"n"}){cursor}}"#,
        Verb::SnapshotVm => r#"mutation{snapshotVm(input:{vm:"{vm}",name:"s"}){cursor}}"#,
        Verb::RevertVm => r#"mutation{revertVm(input:{vm:"{vm}",name:"s"}){cursor}}"#,
        Verb::RemoveVmSnapshot => r#"mutation{removeVmSnapshot(input:{vm:"{vm}",name:"s"}){cursor}}"#,
        Verb::RemoveVm => r#"mutation{removeVm(input:{vm:"{vm}",force:true}){cursor}}"#,
        Verb::ExecInVm => r#"mutation{execInVm(input:{vm:"{vm}",argv:["true"]}){__typename}}"#,
        Verb::FreezeVmFileSystems => r#"mutation{freezeVmFileSystems(input:{vm:"{vm}"}){__typename}}"#,
        Verb::TypeVmConsole => r#"mutation{typeVmConsole(input:{vm:"{vm}",base64:"YQ=="}){__typename}}"#,
        Verb::BackupVm => r#"mutation{backupVm(input:{vm:"{vm}",to:"/nowhere"}){cursor}}"#,
        Verb::CancelVmBackup => r#"mutation{cancelVmBackup(input:{vm:"{vm}"}){cursor}}"#,
        Verb::ScheduleVmBackups => r#"mutation{scheduleVmBackups(input:{vm:"{vm}",cron:"0 3 * * *",to:"/nowhere"}){cursor}}"#,
        Verb::UnscheduleVmBackups => r#"mutation{unscheduleVmBackups(input:{vm:"{vm}"}){cursor}}"#,
        Verb::MigrateVm => r#"mutation{migrateVm(input:{vm:"{vm}"}){cursor}}"#,
        Verb::CancelVmMigration => r#"mutation{cancelVmMigration(input:{vm:"{vm}"}){cursor}}"#,
        Verb::RestoreVm => r#"mutation{restoreVm(input:{from:"/nowhere/b",name:"new"}){cursor}}"#,
        Verb::DrillVmBackup => r#"mutation{drillVmBackup(input:{from:"/nowhere/b"}){cursor}}"#,
        Verb::Rebalance => "mutation{rebalance(input:{}){__typename}}",
        Verb::RegisterHost => r#"mutation{registerHost(input:{name:"new",uri:"simulated://matrix-new"}){cursor}}"#,
        Verb::DrainHost => r#"mutation{drainHost(input:{host:"{host}"}){cursor}}"#,
        Verb::CancelHostDrain => r#"mutation{cancelHostDrain(input:{host:"{host}"}){cursor}}"#,
        Verb::DeclareHostLost => r#"mutation{declareHostLost(input:{host:"{host}",confirm:"h"}){cursor}}"#,
        Verb::RemoveHost => r#"mutation{removeHost(input:{host:"{host}",force:true}){cursor}}"#,
        Verb::CreateImageFromVm => r#"mutation{createImageFromVm(input:{vm:"{vm}",name:"new"}){cursor}}"#,
        Verb::ImportImage => r#"mutation{importImage(input:{name:"new",source:"/nowhere",project:"{home}"}){cursor}}"#,
        Verb::RemoveImage => r#"mutation{removeImage(input:{image:"{image}"}){cursor}}"#,
        Verb::CreateNetwork => r#"mutation{createNetwork(input:{name:"new",kind:ISOLATED,project:"{home}"}){cursor}}"#,
        Verb::RemoveNetwork => r#"mutation{removeNetwork(input:{network:"{network}"}){cursor}}"#,
        Verb::CreateJoinToken => "mutation{createJoinToken(input:{}){__typename}}",
        Verb::DrainNode => r#"mutation{drainNode(input:{node:"{node}"}){cursor}}"#,
        Verb::RemoveNode => r#"mutation{removeNode(input:{node:"{node}"}){cursor}}"#,
        Verb::InjectFault => r#"mutation{injectFault(input:{point:"agent.start",fault:PANIC}){__typename}}"#,
        Verb::Scrub => "mutation{scrub(input:{}){__typename}}",
        Verb::SetBudget => r#"mutation{setBudget(input:{swarm:"{swarm}",tokens:"5"}){cursor}}"#,
        Verb::RemoveBudget => r#"mutation{removeBudget(input:{swarm:"{swarm}"}){cursor}}"#,
        Verb::CreateProject => r#"mutation{createProject(input:{name:"new"}){cursor}}"#,
        Verb::UpdateProject => r#"mutation{updateProject(input:{project:"{project}",quotas:{vms:9}}){cursor}}"#,
        Verb::RemoveProject => r#"mutation{removeProject(input:{project:"{project}"}){cursor}}"#,
        Verb::AddMember => r#"mutation{addMember(input:{project:"{project}",member:"eve",role:"admin"}){cursor}}"#,
        Verb::RemoveMember => r#"mutation{removeMember(input:{project:"{project}",member:"bob"}){cursor}}"#,
        Verb::CreateApiKey => r#"mutation{createApiKey(input:{project:"{project}",name:"new",role:"admin"}){cursor}}"#,
        Verb::RevokeApiKey => r#"mutation{revokeApiKey(input:{id:"{key}"}){cursor}}"#,
        Verb::ApplyPolicy => r#"mutation{applyPolicy(input:{name:"new",text:""}){cursor}}"#,
        Verb::RemovePolicy => r#"mutation{removePolicy(input:{name:"new"}){cursor}}"#,
        Verb::AgentResources => r#"{agentResources(id:"{agent}"){at}}"#,
        Verb::VmUsage => r#"{vmUsage(id:"{vm}"){at}}"#,
        Verb::HostUsage => r#"{hostUsage(id:"{host}"){at}}"#,
        Verb::MetricsHistory => "{metricsHistory{at}}",
        Verb::SupervisionTree => "{supervisionTree{__typename}}",
        Verb::Storage => "{storage{__typename}}",
        Verb::SelectHost => r#"{selectHost(input:{cpus:1,memoryBytes:"1048576"}){__typename}}"#,
        Verb::PackingPlan => "{packingPlan{__typename}}",
        Verb::RebalancePlan => "{rebalancePlan{__typename}}",
        Verb::FaultPlaces => "{faultPlaces{__typename}}",
        Verb::Faults => "{faults{__typename}}",
        Verb::VmBackups => r#"{vmBackups(in:"/nowhere"){__typename}}"#,
        Verb::VmBackupCheck => r#"{vmBackupCheck(from:"/nowhere/b"){__typename}}"#,
        Verb::Policies => "{policies{name}}",
        Verb::Hosts => "{hosts{nodes{id}}}",
        Verb::Nodes => "{nodes{nodes{id}}}",
        Verb::Me => "{me{name}}",
        Verb::CanI => r#"{canI(verb:"me"){allowed}}"#,
        Verb::CodingPresets => "{codingPresets{__typename}}",
        Verb::Cluster => "{cluster{__typename}}",
        // What these show is compared with what may be seen, below; an approval needs an agent that asks.
        Verb::Tasks
        | Verb::Approvals
        | Verb::Swarms
        | Verb::Agents
        | Verb::Vms
        | Verb::Networks
        | Verb::Images
        | Verb::Budgets
        | Verb::Usage
        | Verb::Projects
        | Verb::ApiKeys
        | Verb::Node
        | Verb::Events
        | Verb::AnswerApproval => return None,
        // Subscriptions, and the terminal's own socket.
        Verb::TaskOutput | Verb::TaskActivity | Verb::VmConsole | Verb::Metrics | Verb::Supervision | Verb::AttachTerminal => {
            return None;
        }
    })
}

/// The thing that a verb is about, by its word.
fn word(verb: Verb) -> Option<&'static str> {
    Some(match verb.kind() {
        ResourceKind::Task if verb.duty() == Duty::CreateTasks => "project",
        ResourceKind::Task => "task",
        ResourceKind::Agent if verb == Verb::CreateAgent => return None,
        ResourceKind::Agent => "agent",
        ResourceKind::Swarm if verb == Verb::CreateSwarm => return None,
        ResourceKind::Swarm => "swarm",
        ResourceKind::Vm if verb == Verb::CreateVm => return None,
        ResourceKind::Vm => "vm",
        ResourceKind::Network => "network",
        ResourceKind::Image => "image",
        ResourceKind::Project if verb != Verb::CreateProject => "project",
        _ => return None,
    })
}

fn filled(document: &str, things: &Things) -> String {
    things.iter().fold(document.to_owned(), |text, (word, id)| text.replace(&format!("{{{word}}}"), id))
}

fn code(answer: &Value) -> &str {
    answer["errors"][0]["extensions"]["code"].as_str().unwrap_or("OK")
}

struct Scene {
    node: TestNode,
    home: Things,
    other: Things,
    absent: Things,
    askers: Vec<Asker>,
}

async fn made(node: &TestNode, query: &str, variables: Value, path: &str) -> String {
    let data = node.ok(query, variables).await;
    data.pointer(path).and_then(Value::as_str).unwrap_or_else(|| panic!("{query}: {data}")).to_owned()
}

/// Makes a project with one of each thing.
async fn things(node: &TestNode, project: &str, host: &str) -> Things {
    let mut things = Things::new();
    let name = json!({ "n": project });
    let id =
        made(node, "mutation($n:String!){createProject(input:{name:$n}){project{id}}}", name, "/createProject/project/id").await;
    let of = json!({ "p": id });
    let swarm = "mutation($p:ID!){createSwarm(input:{name:\"s\",project:$p}){swarm{id}}}";
    let swarm = made(node, swarm, of.clone(), "/createSwarm/swarm/id").await;
    let agent = "mutation($s:ID!){createAgent(input:{name:\"a\",swarm:$s,connector:{command:true},autoStart:false}){agent{id}}}";
    let agent = made(node, agent, json!({ "s": swarm }), "/createAgent/agent/id").await;
    let network = "mutation($p:ID!){createNetwork(input:{name:\"n\",kind:ISOLATED,project:$p}){network{id}}}";
    let network = made(node, network, of.clone(), "/createNetwork/network/id").await;
    let file = node.data_dir().join("matrix.raw");
    std::fs::write(&file, vec![0; 1 << 20]).unwrap();
    let image = "mutation($p:ID!,$f:String!){importImage(input:{name:\"i\",source:$f,project:$p}){image{id}}}";
    let image = made(node, image, json!({ "p": id, "f": file.display().to_string() }), "/importImage/image/id").await;
    let vm = "mutation($p:ID!){createVm(input:{name:\"v\",project:$p,image:\"i\",cpus:1,memoryBytes:\"1048576\",start:false}){vm{id}}}";
    let vm = made(node, vm, of.clone(), "/createVm/vm/id").await;
    let key = "mutation($p:ID!,$n:String!){createApiKey(input:{project:$p,name:$n,role:\"viewer\"}){apiKey{id}}}";
    let key = made(node, key, json!({ "p": id, "n": format!("spare-{project}") }), "/createApiKey/apiKey/id").await;
    node.ok("mutation($p:ID!){addMember(input:{project:$p,member:\"bob\",role:\"viewer\"}){cursor}}", of).await;
    things.extend([("project", id), ("swarm", swarm), ("agent", agent), ("network", network), ("image", image), ("vm", vm)]);
    things.extend([("key", key), ("host", host.to_owned())]);
    things
}

async fn submitted(node: &TestNode, secret: &str, swarm: &str) -> String {
    let submit = "mutation($s:ID!){submitTask(input:{swarm:$s,command:{argv:[\"true\"]}}){task{id}}}";
    let answer = node.asked_with(secret, None, submit, json!({ "s": swarm })).await;
    answer["data"]["submitTask"]["task"]["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

async fn scene() -> Scene {
    let node = TestNode::start().await;
    let host = "mutation{registerHost(input:{name:\"h\",uri:\"simulated://matrix\"}){host{id}}}";
    let host = made(&node, host, json!({}), "/registerHost/host/id").await;
    while node.ok("{hosts(filter:{status:[UP]}){nodes{id}}}", json!({})).await["hosts"]["nodes"][0]["id"] != host.as_str() {
        tokio::task::yield_now().await;
    }
    let (mut home, mut other) = (things(&node, "home", &host).await, things(&node, "other", &host).await);
    let member = made(&node, "{nodes{nodes{id}}}", json!({}), "/nodes/nodes/0/id").await;
    for of in [&mut home, &mut other] {
        let task = submitted(&node, crate::support::TOKEN, &of["swarm"]).await;
        of.extend([("task", task), ("node", member.clone())]);
    }
    let id = home["project"].clone();
    home.insert("home", id.clone());
    other.insert("home", id);
    let absent = home.iter().map(|(word, id)| {
        let (noun, digits) = id.split_once('_').unwrap();
        let nothing = format!("{noun}_{}7", &"0".repeat(digits.len() - 1));
        (*word, if matches!(*word, "home" | "host" | "node") { id.clone() } else { nothing })
    });
    let absent = absent.collect();
    let mut askers = Vec::new();
    for role in ROLES {
        for everywhere in [false, true] {
            let input =
                json!({ "name": format!("{role}-{everywhere}"), "role": role, "project": (!everywhere).then_some("home") });
            let query = "mutation($i:CreateApiKeyInput!){createApiKey(input:$i){secret}}";
            let secret = made(&node, query, json!({ "i": input }), "/createApiKey/secret").await;
            askers.push(Asker { role, everywhere, secret });
        }
    }
    Scene { node, home, other, absent, askers }
}

/// What the real question is answered with, if it is asked: a change that is allowed is not.
fn fits(expected: Expected, code: &str, there: bool) -> bool {
    match expected {
        Expected::Forbidden => code == "FORBIDDEN",
        Expected::Hidden => code == "NOT_FOUND",
        // What it does then is another test's affair; of what is not there nobody is told otherwise.
        Expected::Allowed => code != "FORBIDDEN" && code != "UNAUTHENTICATED" && (there || code != "OK"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_does_with_every_verb_what_the_table_says_in_its_project_and_nothing_elsewhere() {
    let scene = scene().await;
    let node = &scene.node;
    let (mut cells, mut wrong) = (0, Vec::new());
    for asker in &scene.askers {
        // Its own task, beside the one of somebody else that each project has.
        let mut owned = scene.home.clone();
        if asker.role != "viewer" {
            owned.insert("task", submitted(node, &asker.secret, &scene.home["swarm"]).await);
        }
        let own_task = asker.role != "viewer";
        let targets = [
            ("its own", &owned, true, own_task, true),
            ("of its project", &scene.home, true, false, true),
            ("of another", &scene.other, false, false, true),
            ("not there", &scene.absent, false, false, false),
        ];
        for verb in Verb::ALL {
            for (whose, things, at_home, own, there) in targets {
                let own = own && verb.kind() == ResourceKind::Task;
                let wanted = expected(asker, *verb, at_home, own);
                // First the question whether he may.
                let id = word(*verb).and_then(|word| things.get(word));
                if (id.is_some() || verb.is_about_the_cluster()) && (there || id.is_none()) {
                    let ask = "query($v:String!,$id:ID){canI(verb:$v,id:$id){allowed}}";
                    let answer = node.asked_with(&asker.secret, None, ask, json!({ "v": verb.name(), "id": id })).await;
                    let said = match code(&answer) {
                        "OK" if answer["data"]["canI"]["allowed"] == true => Expected::Allowed,
                        "OK" => Expected::Forbidden,
                        _ => Expected::Hidden,
                    };
                    cells += 1;
                    if said != wanted {
                        wrong.push(format!(
                            "canI {} {} {whose} ({}): {said:?}, not {wanted:?}",
                            asker.role,
                            verb.name(),
                            asker.everywhere
                        ));
                    }
                }
                // Then the deed itself.
                let Some(document) = document(*verb) else { continue };
                let wanted = match wanted {
                    Expected::Allowed if verb.effect() == Effect::Change && (there || verb.is_about_the_cluster()) => continue,
                    // It would be made.
                    Expected::Allowed if verb == &Verb::CreateProject => continue,
                    wanted => wanted,
                };
                let answer = node.asked_with(&asker.secret, None, &filled(document, things), json!({})).await;
                cells += 1;
                let code = code(&answer);
                let is_list = matches!(verb, Verb::Hosts | Verb::Nodes);
                let fine = if there { fits(wanted, code, there || is_list) } else { fits_absent(asker, *verb, code) };
                if !fine {
                    wrong.push(format!(
                        "{} {} {whose} ({}): {code}, not {wanted:?}: {answer}",
                        asker.role,
                        verb.name(),
                        asker.everywhere
                    ));
                }
            }
        }
    }
    eprintln!("{cells} cells, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{} of {cells} cells are wrong:\n{}", wrong.len(), wrong[..wrong.len().min(SHOWN)].join("\n"));
    assert!(cells >= 5_000, "{cells} cells");
    scene.node.stop().await;
}

/// Of what is not there, an asker hears that it is not there, or that he may not: as he would of what he cannot see.
fn fits_absent(asker: &Asker, verb: Verb, code: &str) -> bool {
    if verb.is_about_the_cluster() || is_made_by_the_cluster(verb) {
        let allowed = expected(asker, verb, true, false) == Expected::Allowed;
        return allowed == (code != "FORBIDDEN");
    }
    code == "NOT_FOUND" || (asker.everywhere && code != "OK") || verb.effect() != Effect::Change
}
