//! Promise: every input of every mutation has a bound, and who passes it is told which input it was; nothing restarts for it.
//!
//! Made from the schema, so that a new mutation is held to it as well: each text is grown until it is refused, each list and
//! each number likewise, and what was just taken is then sent a thousand times at once, or a hundred in the short form. The
//! node's memory is at most half as much again after that. What is in an input is held to be named if the refusal names all
//! of it, such as `env` for one variable.
//!
//! `HIVEWARD_MUTATIONS`, names of mutations with commas between them, confines it to those.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use hiveward_tests::{Client, Hive, Setup, client::CallFailed, long};
use serde_json::{Map, Value, json};

/// The largest text that is tried; a request of a megabyte is refused as such.
const TEXT_BYTES_MAX: usize = 900_000;
const ITEMS_MAX: usize = 20_000;
/// For memory that was let go of.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(30);
/// In the long form; otherwise a tenth.
const AT_ONCE: usize = 1_000;

/// Inputs that may be as large as a request: they are stored beside the ledger, or are documents of the client's own.
const AS_LARGE_AS_A_REQUEST: [&str; 4] = ["payload", "stdin", "items", "input"];

const TYPES: &str = "{__schema{mutationType{fields{name args{type{...T}}}}
  types{name kind isOneOf inputFields{name type{...T}} enumValues{name}}}}
  fragment T on __Type{kind name ofType{kind name ofType{kind name ofType{kind name}}}}";

#[derive(Clone, Debug)]
enum Type {
    Named(String),
    List(Box<Type>),
}

/// A type and whether it must be given.
fn read(of: &Value) -> (Type, bool) {
    match of["kind"].as_str() {
        Some("NON_NULL") => (read(&of["ofType"]).0, true),
        Some("LIST") => (Type::List(Box::new(read(&of["ofType"]).0)), false),
        _ => (Type::Named(of["name"].as_str().unwrap_or_default().to_owned()), false),
    }
}

struct Input {
    one_of: bool,
    fields: Vec<(String, Type, bool)>,
    values: Vec<String>,
}

struct Schema {
    mutations: BTreeMap<String, String>,
    types: BTreeMap<String, Input>,
}

impl Schema {
    async fn of(client: &Client) -> Self {
        let only = std::env::var("HIVEWARD_MUTATIONS").ok().filter(|only| !only.is_empty());
        let chosen = |name: &str| only.as_deref().is_none_or(|only| only.split(',').any(|chosen| chosen.trim() == name));
        let all = client.ok(TYPES, json!({})).await["__schema"].take();
        let mutations = all["mutationType"]["fields"].as_array().unwrap().iter().map(|field| {
            let Type::Named(input) = read(&field["args"][0]["type"]).0 else { panic!("{field} takes a list") };
            (field["name"].as_str().unwrap().to_owned(), input)
        });
        let types = all["types"].as_array().unwrap().iter().map(|of| {
            let fields = of["inputFields"].as_array().into_iter().flatten().map(|field| {
                let (of, must) = read(&field["type"]);
                (field["name"].as_str().unwrap().to_owned(), of, must)
            });
            let values =
                of["enumValues"].as_array().into_iter().flatten().map(|value| value["name"].as_str().unwrap().to_owned());
            let input = Input { one_of: of["isOneOf"] == true, fields: fields.collect(), values: values.collect() };
            (of["name"].as_str().unwrap().to_owned(), input)
        });
        let mutations: BTreeMap<_, _> = mutations.filter(|(name, _)| chosen(name)).collect();
        assert!(!mutations.is_empty(), "HIVEWARD_MUTATIONS names no mutation");
        Self { mutations, types: types.collect() }
    }
}

/// What is there to be named.
struct Scene {
    hive: Hive,
    schema: Schema,
    ids: BTreeMap<&'static str, String>,
    count: AtomicU64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    First,
}

impl Step {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Field(name) => Some(name),
            Self::First => None,
        }
    }
}

type Place = Vec<Step>;

fn shown(place: &Place) -> String {
    let steps = place.iter().map(|step| match step {
        Step::Field(name) => format!(".{name}"),
        Step::First => "[]".to_owned(),
    });
    steps.collect::<String>().trim_start_matches('.').to_owned()
}

/// What came of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Came {
    /// Or refused for something else.
    Taken,
    /// For this input.
    Refused,
    /// For how many of its kind there are already, and for no input.
    Full(String),
    /// Not in words that name it, or not at all.
    Wrong(String),
}

impl Scene {
    async fn start() -> Self {
        let hive = Hive::start(Setup::default()).await;
        let client = hive.client();
        let schema = Schema::of(&client).await;
        let mut ids = BTreeMap::from([("node", "node_0192f0c1a2b37c4d8e9fa0b1c2d3e4f5".to_owned())]);
        let approval = "approval_0192f0c1a2b37c4d8e9fa0b1c2d3e4f5".to_owned();
        ids.insert("approval", approval);
        ids.insert("swarm", client.swarm("nobodys").await);
        let agent = json!({ "name": "idle", "swarm": "nobodys", "autoStart": false });
        ids.insert("agent", client.agent(agent).await);
        ids.insert("agents", ids["agent"].clone());
        ids.insert("task", client.submit(json!({ "kind": "nobodys", "skills": ["nobody"], "swarm": "nobodys" })).await);
        let host = "mutation($i:RegisterHostInput!){registerHost(input:$i){host{id}}}";
        let host = client.ok(host, json!({ "i": { "name": "roomy", "uri": "simulated://roomy?cpus=64" } })).await;
        ids.insert("host", host["registerHost"]["host"]["id"].as_str().unwrap().to_owned());
        let vm = "mutation($i:CreateVmInput!){createVm(input:$i){vm{id}}}";
        let new = json!({ "name": "kept", "image": "debian-12", "cpus": 1, "memoryBytes": 1 << 28 });
        let vm = loop {
            // The host may not have said yet what it has.
            match client.call(vm, json!({ "i": new })).await {
                Ok(vm) => break vm,
                Err(CallFailed::Refused { message, .. }) if message.contains("was not reached yet") => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(failed) => panic!("{failed:?}"),
            }
        };
        ids.insert("vm", vm["createVm"]["vm"]["id"].as_str().unwrap().to_owned());
        let network = "mutation($i:CreateNetworkInput!){createNetwork(input:$i){network{id}}}";
        let network = client.ok(network, json!({ "i": { "name": "kept", "kind": "BRIDGE", "bridge": "br0" } })).await;
        ids.insert("network", network["createNetwork"]["network"]["id"].as_str().unwrap().to_owned());
        Self { hive, schema, ids, count: AtomicU64::new(0) }
    }

    /// What would do for a field.
    fn sample(&self, of: &Type, parent: &str, name: &str) -> Value {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        let scalar = match of {
            Type::List(of) => return json!([self.sample(of, parent, name)]),
            Type::Named(scalar) => scalar.as_str(),
        };
        if let Some(id) = self.ids.get(name).filter(|_| matches!(scalar, "ID" | "String")) {
            return json!(id);
        }
        match (name, scalar) {
            ("to", "ID") => json!(self.ids["host"]),
            ("image", _) => json!("debian-12"),
            ("uri" | "peerUri", _) => json!(format!("simulated://h{n}")),
            ("cron", _) => json!("0 3 * * *"),
            ("role", _) => json!("viewer"),
            ("project", _) => json!("default"),
            ("text", _) if parent == "ApplyPolicyInput" => json!("// nothing is said"),
            ("repository" | "source", _) => json!("/nowhere"),
            ("argv", _) => json!("true"),
            ("to" | "from", _) => json!("/nowhere"),
            ("base64", _) => json!("YQ=="),
            ("money", _) => json!("1.50"),
            ("memoryBytes" | "sizeBytes", _) => json!(1_u64 << 28),
            ("point", _) => json!("nobody.passes.here"),
            (_, "ID" | "String") => json!(format!("{}{n}", &name[..1])),
            (_, "Int" | "BigInt") => json!(1),
            (_, "Float") => json!(0.5),
            (_, "Boolean") => json!(false),
            (_, "JSON") => json!("x"),
            (_, of) => match self.schema.types.get(of) {
                Some(of) if !of.values.is_empty() => json!(of.values[0]),
                Some(_) => self.least(of),
                None => panic!("{parent}.{name} is a {of}, for which there is no sample"),
            },
        }
    }

    /// No more than must be given.
    fn least(&self, of: &str) -> Value {
        let input = &self.schema.types[of];
        let mut made: Map<String, Value> = match of {
            "SubmitTaskInput" | "BatchedTaskInput" | "TaskFields" | "WorkInput" => {
                let swarm = (of == "SubmitTaskInput").then(|| ("swarm".to_owned(), json!("nobodys")));
                [("kind".to_owned(), json!("x"))].into_iter().chain(swarm).collect()
            }
            "SubmitTasksInput" => [("swarm".to_owned(), json!("nobodys"))].into_iter().collect(),
            "ScatterInput" => [("swarm".to_owned(), json!("nobodys")), ("items".to_owned(), json!([1]))].into_iter().collect(),
            "CreateAgentInput" => {
                [("swarm".to_owned(), json!("nobodys")), ("autoStart".to_owned(), json!(false))].into_iter().collect()
            }
            "ScaleSwarmInput" => [("agents".to_owned(), json!(1))].into_iter().collect(),
            "CreateVmInput" => [("start".to_owned(), json!(false))].into_iter().collect(),
            "CreateNetworkInput" => {
                [("kind".to_owned(), json!("BRIDGE")), ("bridge".to_owned(), json!("br0"))].into_iter().collect()
            }
            "CodingInput" => [("argv".to_owned(), json!(["true"]))].into_iter().collect(),
            "HedgeInput" => [("afterMs".to_owned(), json!(1_000))].into_iter().collect(),
            "SetBudgetInput" => {
                [("swarm".to_owned(), json!(self.ids["swarm"])), ("tokens".to_owned(), json!(7))].into_iter().collect()
            }
            "RemoveBudgetInput" => [("swarm".to_owned(), json!(self.ids["swarm"]))].into_iter().collect(),
            "ResizeVmInput" => [("cpus".to_owned(), json!(1))].into_iter().collect(),
            "InjectFaultInput" => [("fault".to_owned(), json!("ERROR"))].into_iter().collect(),
            _ => Map::new(),
        };
        if input.one_of && made.is_empty() {
            let (name, of_field, _) = &input.fields[0];
            made.insert(name.clone(), self.sample(of_field, of, name));
        }
        for (name, of_field, must) in &input.fields {
            if *must && !input.one_of && !made.contains_key(name) && !has_default(of, name) {
                made.insert(name.clone(), self.sample(of_field, of, name));
            }
        }
        Value::Object(made)
    }

    /// The least input with `value` at one place of it.
    fn with(&self, input: &str, place: &Place, value: Value) -> Value {
        let mut whole = self.least(input);
        let (mut at, mut of) = (&mut whole, Type::Named(input.to_owned()));
        for (n, step) in place.iter().enumerate() {
            match (step, of) {
                (Step::Field(name), Type::Named(input)) => {
                    let fields = &self.schema.types[&input];
                    let (_, of_field, _) = fields.fields.iter().find(|(field, ..)| field == name).unwrap();
                    if fields.one_of && at.get(name).is_none() {
                        *at = json!({});
                    }
                    for other in instead_of(&input, name) {
                        at.as_object_mut().map(|at| at.remove(*other));
                    }
                    let last = n + 1 == place.len();
                    if !last && at.get(name).is_none_or(|there| !there.is_object() && !there.is_array()) {
                        at[name] = self.sample(of_field, &input, name);
                    }
                    (of, at) = (of_field.clone(), &mut at[name]);
                }
                (Step::First, Type::List(inner)) => {
                    if !at.is_array() {
                        *at = json!([null]);
                    }
                    (of, at) = (*inner, &mut at[0]);
                }
                other => panic!("{place:?} does not lead through {input}: {other:?}"),
            }
        }
        *at = value;
        whole
    }

    fn body(&self, mutation: &str, input: Value) -> Vec<u8> {
        let of = &self.schema.mutations[mutation];
        Client::body(&format!("mutation($i:{of}!){{{mutation}(input:$i){{__typename}}}}"), json!({ "i": input }))
    }

    async fn came(&self, client: &Client, mutation: &str, place: &Place, input: Value) -> Came {
        Self::sent(client, place, self.body(mutation, input)).await
    }

    async fn sent(client: &Client, place: &Place, body: Vec<u8>) -> Came {
        match client.send(body).await {
            Ok(_) => Came::Taken,
            Err(CallFailed::Unknown(why)) => Came::Wrong(format!("nobody knows whether it was done: {why}")),
            Err(CallFailed::Refused { code, field, message, .. }) => {
                let names: Vec<&str> = place.iter().filter_map(Step::name).collect();
                let field = field.unwrap_or_default();
                let named: Vec<&str> = field.split('.').filter(|part| part.parse::<usize>().is_err()).collect();
                // It, or what it is a part of, such as all variables for one of them.
                let said = names.starts_with(&named) || names.last().is_some_and(|name| message.contains(name));
                match code.as_str() {
                    "INTERNAL" | "" => Came::Wrong(format!("{code}: {message}")),
                    "INVALID" | "LIMIT" if said => Came::Refused,
                    "LIMIT" if field.is_empty() => Came::Full(message),
                    "INVALID" | "LIMIT" => Came::Wrong(format!("{code} names {field:?} instead: {message}")),
                    _ => Came::Taken,
                }
            }
        }
    }
}

/// What an input cannot stand beside.
fn instead_of(input: &str, name: &str) -> &'static [&'static str] {
    match (input, name) {
        (_, "command") => &["kind"],
        (_, "overAgents") => &["items"],
        ("HedgeInput", "factor") => &["afterMs"],
        ("SetBudgetInput" | "RemoveBudgetInput", "agent" | "label") => &["swarm"],
        _ => &[],
    }
}

/// Given by the schema where it is left out, though it may not be null.
fn has_default(of: &str, name: &str) -> bool {
    !matches!(
        (of, name),
        (
            _,
            "name"
                | "argv"
                | "value"
                | "key"
                | "vm"
                | "host"
                | "agent"
                | "task"
                | "swarm"
                | "node"
                | "approval"
                | "network"
                | "image"
        ) | (_, "decision" | "text" | "uri" | "to" | "from" | "cron" | "confirm" | "point" | "fault" | "source" | "sizeBytes")
            | (_, "memoryBytes" | "tool" | "command" | "repository" | "base64" | "tasks" | "part" | "kind" | "model")
            | ("CreateVmInput" | "SelectHostInput", "cpus")
            | ("MemberInput" | "RemoveMemberInput", "member")
            | ("MemberInput" | "CreateApiKeyInput", "role")
            | ("UpdateProjectInput" | "RemoveProjectInput", "project" | "quotas")
            | ("RevokeApiKeyInput", "id")
    )
}

/// Everything in an input that can be made larger: texts, numbers, lists.
fn places(schema: &Schema, of: &Type, at: &mut Place, found: &mut Vec<(Place, Type)>) {
    match of {
        Type::List(inner) => {
            found.push((at.clone(), of.clone()));
            at.push(Step::First);
            places(schema, inner, at, found);
            at.pop();
        }
        Type::Named(name) => match schema.types.get(name) {
            Some(input) if !input.fields.is_empty() => {
                for (field, of, _) in &input.fields {
                    at.push(Step::Field(field.clone()));
                    places(schema, of, at, found);
                    at.pop();
                }
            }
            Some(input) if !input.values.is_empty() => {}
            _ if name == "Boolean" => {}
            _ => found.push((at.clone(), of.clone())),
        },
    }
}

/// What an input is called wherever it stands: its type's name and its own.
fn called(schema: &Schema, input: &str, place: &Place) -> String {
    let (mut of, mut called) = (Type::Named(input.to_owned()), String::new());
    for step in place {
        of = match (step, of) {
            (Step::Field(name), Type::Named(input)) => {
                called = format!("{input}.{name}");
                schema.types[&input].fields.iter().find(|(field, ..)| field == name).unwrap().1.clone()
            }
            (Step::First, Type::List(inner)) => {
                called.push_str("[]");
                *inner
            }
            other => panic!("{place:?} does not lead through {input}: {other:?}"),
        };
    }
    called
}

/// The largest that is taken and the smallest that is refused, which is one more, if any is.
///
/// Where the same input stands elsewhere, its bound is `known`, and only looked at again.
async fn bound(
    most: usize,
    known: Option<&(usize, Option<usize>)>,
    mut came: impl AsyncFnMut(usize) -> Came,
) -> Result<(usize, Option<usize>), String> {
    if let Some(&(taken, refused)) = known
        && (taken == 0 || came(taken).await == Came::Taken)
        && (refused.is_none() || came(refused.unwrap_or(most)).await == Came::Refused)
    {
        return Ok((taken, refused));
    }
    let (mut taken, mut next) = (0, 1);
    let refused = loop {
        match came(next).await {
            Came::Wrong(why) | Came::Full(why) => return Err(format!("at {next}: {why}")),
            Came::Taken if next == most => return Ok((most, None)),
            Came::Taken => (taken, next) = (next, (next * 2).min(most)),
            Came::Refused if next == 1 => return Ok((0, Some(1))),
            Came::Refused => break next,
        }
    };
    let mut refused = refused;
    while refused - taken > 1 {
        let middle = taken + (refused - taken) / 2;
        match came(middle).await {
            Came::Wrong(why) | Came::Full(why) => return Err(format!("at {middle}: {why}")),
            Came::Taken => taken = middle,
            Came::Refused => refused = middle,
        }
    }
    Ok((taken, Some(refused)))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_input_of_every_mutation_is_bounded_by_name_and_nothing_restarts_for_it() {
    let scene = Scene::start().await;
    let client = scene.hive.client();
    let (mut wrong, mut largest, mut bounds) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    // What is removed is missing from then on.
    let (last, first): (Vec<_>, Vec<_>) = scene.schema.mutations.iter().partition(|(name, _)| name.starts_with("remove"));
    let in_order: Vec<_> = first.into_iter().chain(last).collect();
    for &(mutation, input) in &in_order {
        let (mut found, began) = (Vec::new(), Instant::now());
        places(&scene.schema, &Type::Named(input.clone()), &mut Vec::new(), &mut found);
        for (place, of) in found {
            let name = format!("{mutation}({})", shown(&place));
            let numbers = matches!(&of, Type::Named(of) if matches!(of.as_str(), "Int" | "BigInt" | "Float"));
            if numbers {
                for value in
                    [json!(0), json!(-1), json!(i32::MAX), json!(1_u64 << 31), json!(u64::MAX), json!(-1e300), json!(1e300)]
                {
                    let whole = scene.with(input, &place, value.clone());
                    if let Came::Wrong(why) | Came::Full(why) = scene.came(&client, mutation, &place, whole).await {
                        wrong.push(format!("{name} = {value}: {why}"));
                    }
                }
                continue;
            }
            let many = matches!(of, Type::List(_));
            let last = place.iter().rev().find_map(Step::name);
            let value = |n: usize| match &of {
                Type::List(inner) => Value::Array((0..n).map(|_| scene.sample(inner, input, last.unwrap())).collect()),
                Type::Named(_) => json!("a".repeat(n)),
            };
            let most = if many { ITEMS_MAX } else { TEXT_BYTES_MAX };
            let called = called(&scene.schema, input, &place);
            let found = bound(most, bounds.get(&called), async |n| {
                let whole = scene.with(input, &place, value(n));
                if whole.to_string().len() > TEXT_BYTES_MAX + 50_000 {
                    return Came::Refused;
                }
                scene.came(&client, mutation, &place, whole).await
            });
            let found = found.await;
            if let Ok(found) = &found {
                bounds.insert(called, *found);
            }
            match found {
                Err(why) => wrong.push(format!("{name} {why}")),
                Ok((_, None)) if last.is_some_and(|last| AS_LARGE_AS_A_REQUEST.contains(&last)) => {
                    largest.insert(mutation.clone(), (place.clone(), value(most / 4)));
                }
                Ok((_, None)) => wrong.push(format!("{name} has no bound")),
                Ok((taken, Some(refused))) => {
                    println!("{name}: {taken} taken, {refused} refused");
                    let (given, size) = (value(taken), |given: &Value| given.to_string().len());
                    if taken > 0 && largest.get(mutation).is_none_or(|(_, before)| size(before) < size(&given)) {
                        largest.insert(mutation.clone(), (place.clone(), given));
                    }
                }
            }
        }
        println!("{mutation}: {:.1} s, resident {} MB", began.elapsed().as_secs_f64(), resident(&scene.hive) >> 20);
    }
    // What is at its limit, so many times at once.
    let (before, at_once) = (resident(&scene.hive), if long() { AT_ONCE } else { AT_ONCE / 10 });
    for &(mutation, input) in &in_order {
        let Some((place, value)) = largest.get(mutation) else { continue };
        // All are made before the first is sent: making one takes as long as serving it, and they would not come at once.
        let bodies: Vec<_> = (0..at_once).map(|_| scene.body(mutation, scene.with(input, place, value.clone()))).collect();
        let began = Instant::now();
        let asked = bodies.into_iter().map(|body| Scene::sent(&client, place, body));
        let came: Vec<_> = stream::iter(asked).buffer_unordered(at_once).collect().await;
        println!(
            "{mutation}, {at_once} at once: {:.1} s, resident {} MB",
            began.elapsed().as_secs_f64(),
            resident(&scene.hive) >> 20
        );
        let bad: Vec<_> = came.iter().filter(|came| matches!(came, Came::Wrong(_))).collect();
        if let Some(first) = bad.first() {
            wrong.push(format!("{mutation}, {at_once} at once: {} of them, {first:?}", bad.len()));
        }
    }
    // What is declared or waits is in memory for as long as it does, and a thousand at their limit are as much as they say.
    let holding = resident(&scene.hive);
    client.remove_agents().await;
    client.remove_vms().await;
    client.remove_swarm("nobodys").await;
    // What was let go of goes back to the machine within seconds.
    let (mut after, until) = (resident(&scene.hive), Instant::now() + GIVEN_BACK_WITHIN);
    while after > before * 3 / 2 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
        after = resident(&scene.hive);
    }
    println!("resident: {before} bytes before, {holding} with all that was taken, {after} after that went");
    if after > before * 3 / 2 {
        wrong.push(format!("the node's memory was {before} bytes and became {after}"));
    }
    assert!(wrong.is_empty(), "{} inputs:\n{}", wrong.len(), wrong.join("\n"));
    let tree = client
        .ok("{supervisionTree{restarts children{restarts path children{restarts path children{restarts path}}}}}", json!({}))
        .await;
    let restarted: Vec<_> =
        flat(&tree["supervisionTree"]).into_iter().filter(|node| node["restarts"].as_u64() > Some(0)).collect();
    assert!(restarted.is_empty(), "{restarted:?}");
}

fn flat(node: &Value) -> Vec<Value> {
    let below = node["children"].as_array().into_iter().flatten().flat_map(flat);
    std::iter::once(node.clone()).chain(below).collect()
}

fn resident(hive: &Hive) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", hive.pid().unwrap())).unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}
