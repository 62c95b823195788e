//! `hiveward host select`, `host rebalance`, and `stats` of hosts and VMs.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::{
    args::{self, Input},
    client::{BALANCE, Client},
    fail::{Exit, Failed, Outcome},
    host::size,
    lookup,
    show::{Format, Show, text},
    task::partly,
    vm::{self, Wishes},
};

/// The most hosts that a decision shows.
const SHOWN_MAX: usize = 500;

#[derive(Args)]
pub struct SelectArgs {
    /// Of such a VM
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Of such a VM
    #[arg(long, default_value = "1GiB", value_parser = args::bytes)]
    memory: u64,
    /// On this host, by id or name
    #[arg(long, value_name = "HOST")]
    on: Option<String>,
    #[command(flatten)]
    wishes: Wishes,
}

#[derive(Args)]
pub struct RebalanceArgs {
    /// Only show what would be moved and why
    #[arg(long)]
    plan: bool,
    /// The fullest host may be so much above the mean
    #[arg(long, value_name = "SHARE", default_value = "10%", value_parser = share)]
    threshold: f64,
    /// For so long it must have been more; 0 is now
    #[arg(long, value_name = "D", default_value = "5m", value_parser = args::duration)]
    hold: Duration,
    /// So much a move must gain beyond what its copy costs
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = share)]
    margin: f64,
    /// Within which the copy must have paid
    #[arg(long, value_name = "D", default_value = "1h", value_parser = args::duration)]
    pays_within: Duration,
    /// A VM that moved stays so long
    #[arg(long, value_name = "D", default_value = "30m", value_parser = args::duration)]
    cool_down: Duration,
    /// By what VMs were made with, or by what they were measured to use
    #[arg(long, value_parser = ["reserved", "used"], default_value = "reserved")]
    by: String,
    /// How full a host is: by what is scarcer, or by the weighted sum
    #[arg(long, value_parser = ["spread", "weighted"], default_value = "spread")]
    strategy: String,
    /// How fast memory is thought to be copied
    #[arg(long, value_name = "MIB", default_value_t = 100)]
    bandwidth: u32,
    /// Of one plan
    #[arg(long, value_name = "N", default_value_t = 16)]
    max_moves: u32,
    #[arg(long, conflicts_with = "plan")]
    operation_id: Option<String>,
    /// Return when the moves have begun
    #[arg(long)]
    no_wait: bool,
}

#[derive(Args)]
pub struct PlanArgs {
    /// How it is made; exact is for ten VMs at most
    #[arg(long, value_parser = ["annealing", "first-fit", "exact"], default_value = "annealing")]
    solver: String,
    /// Instead, print the problem as a quadratic unconstrained binary one (JSON)
    #[arg(long)]
    qubo: bool,
}

#[derive(Args)]
pub struct StatsArgs {
    /// By id or name
    of: String,
    /// No more than this far back
    #[arg(long, value_name = "D", value_parser = args::duration)]
    since: Option<Duration>,
    /// So many at most, evenly thinned
    #[arg(long, value_name = "N", default_value_t = 60)]
    points: u32,
}

/// Reads a share such as `10%` or `0.1`.
fn share(text: &str) -> Result<f64, String> {
    let (number, of) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    let share = number.trim().parse::<f64>().ok().map(|number| number / of);
    share.filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| format!("{text:?} is no share; write 10% or 0.1"))
}

fn percent(value: &Value) -> String {
    value.as_f64().map_or_else(String::new, |share| format!("{:.1}%", share * 100.0))
}

fn rows(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// Shows where a VM would go. Fails as making it would, after showing why.
pub async fn select(client: &Client, show: Show, args: SelectArgs) -> Outcome {
    let input = Input::default()
        .set("host", lookup::optional(client, &lookup::HOST, args.on).await?)
        .set("cpus", Value::from(args.cpus))
        .set("memoryBytes", Value::from(args.memory));
    let input = json!({ "input": args.wishes.put(input).done(), "first": SHOWN_MAX });
    let chosen: Value = client.get(BALANCE, "HostSelect", input, "/selectHost").await?;
    if show.quiet {
        if !chosen["host"].is_null() {
            show.one(&chosen["host"])?;
        }
    } else if show.format == Format::Table {
        let hosts = rows(&chosen["hosts"]);
        show.list(&["host", "name", "score", "is left out, since it"], &hosts, |host| {
            let score = host["score"].as_f64().map_or_else(String::new, |score| format!("{score:.3}"));
            vec![text(host, "host"), text(host, "name"), score, text(host, "leftOut")]
        })?;
        let (shown, all) = (hosts.len(), chosen["hostCount"].as_u64().unwrap_or(0));
        if all > shown as u64 {
            eprintln!("{shown} of {all} hosts are shown");
        }
        if !chosen["host"].is_null() {
            eprintln!("it would go to {}", text(&chosen["host"], "name"));
        }
    } else {
        show.value(&chosen)?;
    }
    match text(&chosen, "refused") {
        refused if refused.is_empty() => Ok(()),
        refused => Err(Failed::new(Exit::Conflict, refused, "ask for less, or see what is free with `hiveward host list`")),
    }
}

/// Moves VMs so that hosts are more even and waits for the moves, or shows the plan alone.
pub async fn rebalance(client: &Client, show: Show, args: RebalanceArgs) -> Outcome {
    let rules = json!({
        "strategy": args::constant(&args.strategy),
        "basis": args::constant(&args.by),
        "threshold": args.threshold,
        "holdMs": args::millis(args.hold),
        "margin": args.margin,
        "paysWithinMs": args::millis(args.pays_within),
        "bandwidthMib": args.bandwidth,
        "coolDownMs": args::millis(args.cool_down),
        "movesMax": args.max_moves,
    });
    if args.plan {
        let plan: Value = client.get(BALANCE, "RebalancePlan", json!({ "rules": rules }), "/rebalancePlan").await?;
        return plan_shown(show, &plan);
    }
    let input = Input::default().set("operationId", args.operation_id.map(Value::from)).set("rules", rules).done();
    let done: Value = client.get(BALANCE, "Rebalance", json!({ "input": input }), "/rebalance").await?;
    if show.format == Format::Table && !show.quiet {
        if !done["plan"].is_null() {
            plan_shown(show, &done["plan"])?;
        }
    } else {
        show.value(&done)?;
    }
    let begun = rows(&done["begun"]);
    let mut failures = Vec::new();
    for one in &begun {
        let refused = text(one, "refused");
        if !refused.is_empty() {
            failures.push(Failed::new(Exit::Conflict, refused, "look with `hiveward vm show`"));
        } else if !args.no_wait {
            let operation = json!({ "number": one["operation"], "status": "RUNNING" });
            match vm::ended(client, json!({ "id": one["vm"], "name": one["vmName"], "operation": operation })).await {
                Ok(_) => eprintln!("{} has moved", text(one, "vmName")),
                Err(failed) => failures.push(failed),
            }
        }
    }
    partly(begun.len(), failures)
}

fn plan_shown(show: Show, plan: &Value) -> Outcome {
    if show.format != Format::Table || show.quiet {
        return show.value(plan);
    }
    let moves = rows(&plan["moves"]);
    if !moves.is_empty() {
        show.list(&["vm", "from", "to", "gain", "cost", "copy", "why"], &moves, |step| {
            let waits = if step["waits"] == true { "; after another has made room" } else { "" };
            vec![
                text(step, "vmName"),
                text(step, "fromName"),
                text(step, "toName"),
                percent(&step["gain"]),
                percent(&step["cost"]),
                size(&step["copyBytes"]),
                text(step, "reason") + waits,
            ]
        })?;
    }
    show.list(&["host", "load", "after", "cpu", "after", "memory", "after"], &rows(&plan["forecast"]), |host| {
        let (before, after) = (&host["before"], &host["after"]);
        let mut row = vec![text(host, "name")];
        row.extend(["load", "cpu", "memory"].into_iter().flat_map(|field| [percent(&before[field]), percent(&after[field])]));
        row
    })?;
    for host in rows(&plan["apart"]) {
        eprintln!("{} takes no part: it {}", text(&host, "name"), text(&host, "reason"));
    }
    for stay in rows(&plan["stay"]) {
        eprintln!(
            "stay: {}, {} {}",
            text(&stay, "vms"),
            if stay["vms"] == 1 { "which" } else { "each of which" },
            text(&stay, "reason")
        );
    }
    match text(plan, "why") {
        why if why.is_empty() => Ok(()),
        why => {
            eprintln!("nothing is due: {why}");
            Ok(())
        }
    }
}

/// Shows on how few hosts all VMs could be.
pub async fn packing(client: &Client, show: Show, args: PlanArgs) -> Outcome {
    let input = json!({ "solver": args::constant(&args.solver), "withQubo": args.qubo, "first": SHOWN_MAX });
    let plan: Value = client.get(BALANCE, "PackingPlan", input, "/packingPlan").await?;
    if args.qubo {
        if plan["qubo"].is_null() {
            let what = "the problem has too many variables to be exported";
            return Err(Failed::new(Exit::Conflict, what, "only a small cluster is worth it; plan it with annealing"));
        }
        return show.value(&plan["qubo"]);
    }
    if show.format != Format::Table || show.quiet {
        return show.value(&plan);
    }
    show.list(&["host", "name", "vms"], &rows(&plan["packed"]), |host| {
        let vms: Vec<_> = rows(&host["vms"]).iter().filter_map(|vm| vm.as_str().map(str::to_owned)).collect();
        vec![text(host, "host"), text(host, "name"), vms.join(" ")]
    })?;
    let best = match text(&plan, "hostsBest") {
        best if best.is_empty() => String::new(),
        best => format!("; the best there is: {best}"),
    };
    eprintln!(
        "hosts for {} VMs: {} by {}, now {}; no plan needs fewer than {}{best}; {} without a place",
        text(&plan, "vms"),
        text(&plan, "hostsPlanned"),
        text(&plan, "solver"),
        text(&plan, "hostsUsed"),
        text(&plan, "hostsLeast"),
        text(&plan, "unplaced"),
    );
    eprintln!("by CPU, memory and the first anti-affinity group of each VM alone; nothing is moved");
    Ok(())
}

fn rate(value: &Value) -> String {
    // Whole bytes are enough to look at.
    value.as_f64().map_or_else(String::new, |rate| size(&json!(rate.max(0.0).round() as u64)) + "/s")
}

fn used(sample: &Value) -> Vec<String> {
    let used = &sample["used"];
    let cpus = used["cpus"].as_f64().map_or_else(String::new, |cpus| format!("{cpus:.2}"));
    let mut row = vec![text(sample, "at"), cpus, size(&used["memoryBytes"])];
    let rates =
        ["diskReadBytesPerSecond", "diskWrittenBytesPerSecond", "networkReceivedBytesPerSecond", "networkSentBytesPerSecond"];
    row.extend(rates.map(|field| rate(&used[field])));
    row
}

const USED: [&str; 7] = ["at", "cpus", "memory", "read", "written", "received", "sent"];

fn variables(id: &str, args: &StatsArgs) -> Value {
    let since = args.since.map(|back| (jiff::Timestamp::now() - back).to_string());
    json!({ "id": id, "since": since, "points": args.points })
}

/// Shows what a VM used.
pub async fn vm_stats(client: &Client, show: Show, args: StatsArgs) -> Outcome {
    let id = vm::resolve(client, &args.of).await?;
    let samples: Value = client.get(BALANCE, "VmStats", variables(&id, &args), "/vmUsage").await?;
    show.list(&USED, &rows(&samples), used)
}

/// Shows what the VMs of a host used together.
pub async fn host_stats(client: &Client, show: Show, args: StatsArgs) -> Outcome {
    let id = super::host::resolve(client, &args.of).await?;
    let samples: Value = client.get(BALANCE, "HostStats", variables(&id, &args), "/hostUsage").await?;
    let mut columns = USED.to_vec();
    columns.extend(["vms", "measured", "reserved"]);
    show.list(&columns, &rows(&samples), |sample| {
        let mut row = used(sample);
        let reserved = format!("{} CPUs, {}", text(sample, "reservedCpus"), size(&sample["reservedMemoryBytes"]));
        row.extend([text(sample, "vmsRunning"), text(sample, "vmsMeasured"), reserved]);
        row
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_rates_read_as_people_write_them() {
        assert_eq!((share("10%"), share("0.25"), share("0")), (Ok(0.1), Ok(0.25), Ok(0.0)));
        for bad in ["", "%", "110%", "-1", "ten"] {
            assert!(share(bad).is_err(), "{bad}");
        }
        assert_eq!((rate(&json!(1536.0)), rate(&json!(null))), ("1.5KiB/s".into(), String::new()));
    }
}
