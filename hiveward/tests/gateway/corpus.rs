//! Generated queries that are as expensive as the limits let them be, against a whole node.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_graphql::{Variables, parser::parse_query};
use fastrand::Rng;
use hiveward_gateway::limit::{self, ANSWER_BYTES_MAX, DocumentLimits};
use serde_json::{Value, json};

use crate::support::{node::TestNode, soon_within};

const SCHEMA: &str = "{__schema{types{kind name fields(includeDeprecated:true){name args{name defaultValue type{...R}}type{...R}}
    possibleTypes{name}}}} fragment R on __Type{kind name ofType{kind name ofType{kind name ofType{kind name}}}}";

struct FieldOf {
    name: String,
    /// Those that must be given, and `first`, `last` and the like.
    args: Vec<(String, String, bool)>,
    of: String,
    leaf: bool,
}

/// What there is to ask: the fields of each type, and ids that exist.
struct World {
    types: HashMap<String, Vec<FieldOf>>,
    possible: HashMap<String, Vec<String>>,
    ids: Vec<String>,
}

fn named(mut of: &Value) -> (String, String, bool) {
    let required = of["kind"] == "NON_NULL";
    while !of["ofType"].is_null() {
        of = &of["ofType"];
    }
    (of["name"].as_str().unwrap().to_owned(), of["kind"].as_str().unwrap().to_owned(), required)
}

impl World {
    fn of(schema: &Value, ids: Vec<String>) -> Self {
        let (mut types, mut possible) = (HashMap::new(), HashMap::new());
        for kind in schema["__schema"]["types"].as_array().unwrap() {
            let name = kind["name"].as_str().unwrap().to_owned();
            let fields = kind["fields"].as_array().into_iter().flatten().map(|field| {
                let (of, kind, _) = named(&field["type"]);
                let args = field["args"].as_array().unwrap().iter().map(|arg| {
                    let (of, _, required) = named(&arg["type"]);
                    (arg["name"].as_str().unwrap().to_owned(), of, required && arg["defaultValue"].is_null())
                });
                let leaf = matches!(kind.as_str(), "SCALAR" | "ENUM");
                FieldOf { name: field["name"].as_str().unwrap().to_owned(), args: args.collect(), of, leaf }
            });
            types.insert(name.clone(), fields.collect());
            let names = kind["possibleTypes"].as_array().into_iter().flatten();
            possible.insert(name, names.map(|of| of["name"].as_str().unwrap().to_owned()).collect());
        }
        Self { types, possible, ids }
    }

    /// The arguments of a field, or `None` if one must be given that nobody knows.
    fn arguments(&self, field: &FieldOf, dice: &mut Rng, page: i32) -> Option<String> {
        let mut given = Vec::new();
        for (name, of, required) in &field.args {
            let value = match (name.as_str(), of.as_str()) {
                ("first" | "last", _) => page.to_string(),
                ("points" | "bytesMax", "Int") => "600".into(),
                (_, "ID") if *required => format!("\"{}\"", self.ids[dice.usize(..self.ids.len())]),
                (_, "Int") if *required => "1".into(),
                (_, "String") if *required => "\"a\"".into(),
                (_, "BigInt") if *required => "\"0\"".into(),
                _ if *required => return None,
                _ => continue,
            };
            // Both ends of a page at once are refused.
            if name != "last" || *required {
                given.push(format!("{name}:{value}"));
            }
        }
        Some(if given.is_empty() { String::new() } else { format!("({})", given.join(",")) })
    }

    fn selection(&self, of: &str, depth: usize, wide: usize, page: i32, dice: &mut Rng, aliases: &mut usize) -> String {
        let mut parts = vec!["__typename".to_owned()];
        let fields = &self.types[of];
        let deep: Vec<&FieldOf> = fields.iter().filter(|field| !field.leaf).collect();
        for possible in self.possible.get(of).into_iter().flatten().take(wide) {
            parts.push(format!("...on {possible}{{{}}}", self.selection(possible, depth - 1, wide, page, dice, aliases)));
            if depth <= 1 {
                break;
            }
        }
        if depth > 1 {
            for _ in 0..wide.min(deep.len()) {
                let field = deep[dice.usize(..deep.len())];
                let Some(arguments) = self.arguments(field, dice, page) else { continue };
                let below = self.selection(&field.of, depth - 1, wide, page, dice, aliases);
                let alias = if *aliases < 15 {
                    *aliases += 1;
                    format!("a{}:", *aliases)
                } else if parts.iter().any(|part| part.starts_with(&field.name)) {
                    continue;
                } else {
                    String::new()
                };
                let part = format!("{alias}{}{arguments}{{{below}}}", field.name);
                // Behind a fragment now and then, where the weighing must find it all the same.
                parts.push(if dice.u8(..) < 64 { format!("...on {of}{{{part}}}") } else { part });
            }
        }
        let leaves: Vec<&FieldOf> = fields.iter().filter(|field| field.leaf).collect();
        for field in leaves.iter().take(wide * 4) {
            if let Some(arguments) = self.arguments(field, dice, page) {
                parts.push(format!("{}{arguments}", field.name));
            }
        }
        parts.join(" ")
    }

    /// The largest of some tries that the limits let through, and what it weighs.
    fn query(&self, dice: &mut Rng) -> String {
        let limits = DocumentLimits::default();
        let mut best = String::from("{__typename}");
        for _ in 0..40 {
            let (root, introspection) = if dice.u8(..) < 32 { ("__schema", true) } else { ("Query", false) };
            let (depth, wide) = (dice.usize(2..9), dice.usize(1..6));
            let page = [1, 5, 20, 50, 200, 500][dice.usize(..6)];
            let query = if introspection {
                format!("{{__schema{{{}}}}}", self.selection("__Schema", depth, wide, page, dice, &mut 0))
            } else {
                format!("{{{}}}", self.selection(root, depth, wide, page, dice, &mut 0))
            };
            let fits = limit::scan(&query, &limits).is_ok()
                && parse_query(&query).is_ok_and(|parsed| limit::check(&parsed, None, &Variables::default(), &limits).is_ok());
            if fits && query.len() > best.len() {
                best = query;
            }
        }
        best
    }
}

fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// Beats on the runtime of leases, and keeps the longest time between two beats.
fn heart() -> (Arc<AtomicU64>, Arc<AtomicBool>, tokio::task::JoinHandle<()>) {
    let (longest, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (slowest, ended) = (longest.clone(), over.clone());
    let beating = tokio::spawn(async move {
        let mut last = Instant::now();
        while !ended.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            slowest.fetch_max(u64::try_from(last.elapsed().as_millis()).unwrap(), Ordering::Relaxed);
            last = Instant::now();
        }
    });
    (longest, over, beating)
}

/// `HIVEWARD_QUERIES=10000` for as many, `HIVEWARD_SEED` for the same again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_query_within_the_limits_has_an_answer_over_its_bytes_or_fails_within() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (queries, seed) = (number("HIVEWARD_QUERIES").unwrap_or(300), number("HIVEWARD_SEED").unwrap_or(fastrand::u64(..)));
    println!("seed {seed}");
    let mut dice = Rng::with_seed(seed);
    let node = TestNode::start().await;
    let submit = "mutation($i:SubmitTasksInput!){submitTasks(input:$i){tasks{id}}}";
    let task =
        json!({ "title": "t".repeat(100), "command": { "argv": ["true", "x".repeat(2_000)] }, "skills": ["nobody-has-it"] });
    let tasks = node.ok(submit, json!({ "i": { "tasks": vec![task; 200] } })).await;
    let mut ids: Vec<String> =
        tasks["submitTasks"]["tasks"].as_array().unwrap().iter().take(5).map(|task| id(&task["id"])).collect();
    let known = node.ok("{agents(first:5){nodes{id}} swarms(first:5){nodes{id}}}", json!({})).await;
    for noun in ["agents", "swarms"] {
        ids.extend(known[noun]["nodes"].as_array().unwrap().iter().map(|of| id(&of["id"])));
    }
    let world = World::of(&node.ok(SCHEMA, json!({})).await, ids);
    let (rss, (longest, over, beating)) = (memory("VmRSS"), heart());
    let (mut largest, mut slowest, mut refused) = (0, Duration::ZERO, HashMap::<String, u32>::new());
    for _ in 0..queries {
        let query = world.query(&mut dice);
        let began = Instant::now();
        let text = soon_within(Duration::from_secs(60), &query, node.text(&query)).await;
        slowest = slowest.max(began.elapsed());
        largest = largest.max(text.len());
        assert!(text.len() <= ANSWER_BYTES_MAX, "{} bytes for {query}", text.len());
        let answer: Value = serde_json::from_str(&text).unwrap();
        for error in answer["errors"].as_array().into_iter().flatten() {
            let code = error["extensions"]["code"].as_str().unwrap().to_owned();
            assert_ne!(code, "INTERNAL", "{query}: {error}");
            *refused.entry(code).or_default() += 1;
        }
    }
    over.store(true, Ordering::Relaxed);
    beating.await.unwrap();
    println!(
        "{queries} queries: the largest answer {largest} bytes, the slowest {slowest:?}, longest between two beats of 5 ms {} ms; \
         memory {rss} MiB before, {} now, {} at its peak; errors {refused:?}",
        longest.load(Ordering::Relaxed),
        memory("VmRSS"),
        memory("VmHWM"),
    );
    node.stop().await;
}

fn id(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
