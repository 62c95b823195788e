//! What the model gateway adds to a call: to the first event, and in CPU for each event.
//!
//! Calls go straight to a scripted model server and through the gateway, in turn, in this same process. The difference is
//! what the gateway adds; on a busy machine that is mostly waiting for a core.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use hiveward_benches::{Figures, load, ms, percentile};
use hiveward_catalogue::budget::CallRules;
use hiveward_gateway::model::{
    ModelGateway, ModelsSection,
    scripted::{Script, Scripted},
};
use hiveward_kernel::{
    id::{AgentId, SwarmId, TaskId},
    lease::Lease,
};
use hiveward_models::access::{Holder, ModelAccess};
use serde_json::json;

const CALLS: usize = 300;
const LONG_CALLS: usize = 20;
const AT_ONCE: usize = 50;

struct Took {
    first: Duration,
    events: usize,
}

async fn call(client: &reqwest::Client, url: &str, key: &str, prompt: &str) -> anyhow::Result<Took> {
    let body = json!({ "model": "m", "max_tokens": 100, "stream": true, "messages": [{ "role": "user", "content": prompt }] });
    let began = Instant::now();
    let response = client.post(url).header("x-api-key", key).json(&body).send().await?.error_for_status()?;
    let mut stream = response.bytes_stream();
    let (mut first, mut events) = (None, 0);
    while let Some(bytes) = stream.next().await {
        events += bytes?.windows(2).filter(|pair| pair == b"\n\n").count();
        first.get_or_insert_with(|| began.elapsed());
    }
    Ok(Took { first: first.unwrap_or_default(), events })
}

/// Of this process so far, all threads together.
fn cpu() -> anyhow::Result<Duration> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)?;
    let [user, system] = [usage.user_time(), usage.system_time()];
    let micros = (user.tv_sec() + system.tv_sec()) * 1_000_000 + user.tv_usec() + system.tv_usec();
    Ok(Duration::from_micros(u64::try_from(micros)?))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let script =
        "conversations:\n- when: long\n  steps: [{say: 'twenty-four bytes of text', repeat: 2000}]\n- steps: [{say: hello}]\n";
    let server = Scripted::start(([127, 0, 0, 1], 0).into(), Script::read("bench", script)?).await?;
    let dir = tempfile::tempdir()?;
    let mut section = ModelsSection::default();
    section.use_scripted(server.address());
    let gateway = ModelGateway::start(&section, dir.path()).await?;
    let lease = Lease { task: TaskId::new(), attempt: 1, agent: AgentId::new() };
    let holder = Holder { lease, swarm: SwarmId::new_head(), incarnation: 1, labels: Vec::new(), rules: CallRules::default() };
    let pass = gateway.models().open(holder).map_err(anyhow::Error::msg)?;
    let direct = (format!("http://{}/v1/messages", server.address()), "k".to_owned());
    let through = (format!("{}/anthropic/v1/messages", pass.url), pass.token);

    let mut figures = Figures::new("model");
    figures.row("load of this machine, over a minute", load()?, "", "");
    let client = reqwest::Client::new();
    for (url, key) in [&direct, &through] {
        call(&client, url, key, "warm").await?;
    }
    let (mut firsts, mut cpus) = ([Vec::new(), Vec::new()], [(Duration::ZERO, 0_usize); 2]);
    // In turn, so that what else runs on this machine slows both alike.
    for _ in 0..CALLS {
        for (way, (url, key)) in [&direct, &through].into_iter().enumerate() {
            firsts[way].push(call(&client, url, key, "hi").await?.first);
        }
    }
    for _ in 0..LONG_CALLS {
        for (way, (url, key)) in [&direct, &through].into_iter().enumerate() {
            let before = cpu()?;
            let events = call(&client, url, key, "long").await?.events;
            cpus[way] = (cpus[way].0 + (cpu()? - before), cpus[way].1 + events);
        }
    }
    let [direct_firsts, through_firsts] = &mut firsts;
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let (straight, passed) = (ms(percentile(direct_firsts, share)), ms(percentile(through_firsts, share)));
        figures.row(&format!("first event, straight, {name}"), straight, "ms", "");
        figures.row(&format!("first event, through the gateway, {name}"), passed, "ms", "");
        let goal = if share == 0.5 { "goal: under 2 ms" } else { "" };
        figures.row(&format!("added to the first event, {name}"), passed - straight, "ms", goal);
    }
    let each = |(time, events): (Duration, usize)| time.as_secs_f64() * 1e6 / events.max(1) as f64;
    figures.row("CPU per event, straight (client and server)", each(cpus[0]), "µs", "");
    figures.row("CPU per event, added by the gateway", each(cpus[1]) - each(cpus[0]), "µs", "");

    for (name, (url, key)) in [("straight", &direct), ("through the gateway", &through)] {
        let began = Instant::now();
        let calls = (0..AT_ONCE).map(|_| call(&client, url, key, "long"));
        let took = futures_util::future::try_join_all(calls).await?;
        let events: usize = took.iter().map(|took| took.events).sum();
        figures.row(&format!("{AT_ONCE} streams at once, {name}"), events as f64 / began.elapsed().as_secs_f64(), "events/s", "");
    }
    gateway.stop(Duration::from_secs(1)).await;
    figures.write()?;
    Ok(())
}
