//! A cluster too large for this machine, extrapolated: a seeded simulation of the leader and of one follower, fed with the
//! costs that the `cluster` bench measured here (its JSON, or the figures of `docs/scale.md` where there is none).
//!
//! Simulated is what grows with the nodes: lease requests, heartbeats and copies of commits at the leader, pings at all,
//! and the handshakes when all start at once. Assumed is one core per node, and a network that is never full.

use std::{collections::BinaryHeap, path::PathBuf, time::Duration};

use hiveward_benches::{Figures, ms, percentile};

const SEED: u64 = 20_261_121;
const SECONDS: u64 = 60;
/// As in the ledger's timing, the lease terms and the links.
const HEARTBEAT_US: u64 = 200_000;
const LEASE_ASK_US: u64 = 1_000_000;
const LEASE_US: u64 = 8_000_000;
const STOP_WITHIN_US: u64 = 2_000_000;
const LANES: usize = 3;
/// A follower that hears nothing for so long asks for an election.
const ELECTION_US: u64 = 1_000_000;

/// Processor time, in microseconds.
#[derive(Clone, Copy)]
struct Costs {
    /// Of a follower and second: whatever the peers, and for each.
    base: f64,
    peer: f64,
    /// Of the leader per second and follower: pings, leases, heartbeats.
    led: f64,
    /// Of the leader, to give one commit's entries to one follower. Assumed, not measured.
    copy: f64,
    /// Of one end of one handshake: at most, since a restart's whole processor time is shared out over its handshakes.
    handshake: f64,
    /// Resident, in kB.
    base_memory: f64,
    peer_memory: f64,
}

fn measured() -> Costs {
    let mut costs = Costs {
        base: 6_350.0,
        peer: 237.3,
        led: 587.5,
        copy: 40.0,
        handshake: 1_310.0,
        base_memory: 36_640.0,
        peer_memory: 126.7,
    };
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let Some(rows) = std::fs::read(target.join("bench/cluster.json")).ok().and_then(|text| serde_json::from_slice(&text).ok())
    else {
        println!("no figures of the `cluster` bench: those of docs/scale.md");
        return costs;
    };
    let rows: Vec<serde_json::Value> = rows;
    let set = |cost: &mut f64, what: &str, factor: f64| {
        if let Some(value) =
            rows.iter().find(|row| row["what"] == what).and_then(|row| row["value"].as_f64()).filter(|value| *value > 0.0)
        {
            *cost = value * factor;
        }
    };
    set(&mut costs.base, "processor of a follower, whatever the peers", 1.0);
    set(&mut costs.peer, "processor of a follower per peer", 1.0);
    set(&mut costs.led, "processor of the leader per peer", 1.0);
    set(&mut costs.base_memory, "resident memory, whatever the peers", 1024.0);
    set(&mut costs.peer_memory, "resident memory per peer", 1.0);
    costs
}

/// The leader's one core: what comes in waits for what came before.
fn leader(nodes: usize, commits_per_second: u64, costs: &Costs) -> (f64, Vec<Duration>, Vec<Duration>) {
    let mut random = fastrand::Rng::with_seed(SEED);
    // A heartbeat is about what a lease request is: one small message each way. A second has five and one, and pings.
    let per_message = (costs.led - costs.peer).max(1.0) / 6.0;
    let mut work: BinaryHeap<std::cmp::Reverse<(u64, u8, u64)>> = BinaryHeap::new();
    for _ in 1..nodes {
        let offset = random.u64(0..LEASE_ASK_US);
        for second in 0..SECONDS {
            // Each node's own clock: a little early or late.
            let at = second * LEASE_ASK_US + offset + random.u64(0..20_000);
            work.push(std::cmp::Reverse((at, 0, per_message as u64)));
        }
    }
    for beat in 0..SECONDS * 1_000_000 / HEARTBEAT_US {
        work.push(std::cmp::Reverse((beat * HEARTBEAT_US, 1, (per_message * (nodes - 1) as f64) as u64)));
    }
    for _ in 0..commits_per_second * SECONDS {
        let at = random.u64(0..SECONDS * 1_000_000);
        work.push(std::cmp::Reverse((at, 2, (costs.copy * (nodes - 1) as f64) as u64)));
    }
    let pings = costs.peer * (nodes - 1) as f64 / 1e6 + costs.base / 1e6;
    let (mut free, mut busy) = (0_u64, 0_u64);
    let (mut leases, mut beats) = (Vec::new(), Vec::new());
    while let Some(std::cmp::Reverse((at, kind, cost))) = work.pop() {
        // Pings and housekeeping take their share of the core all along.
        let cost = (cost as f64 / (1.0 - pings).max(0.01)) as u64;
        free = free.max(at) + cost;
        busy += cost;
        let waited = Duration::from_micros(free - at);
        match kind {
            0 => leases.push(waited),
            1 => beats.push(waited),
            _ => {}
        }
    }
    (busy as f64 / (SECONDS * 1_000_000) as f64 * (1.0 - pings) + pings, leases, beats)
}

fn main() -> std::io::Result<()> {
    let (costs, mut figures) = (measured(), Figures::new("scale"));
    println!("seed {SEED}");
    for nodes in [50, 100, 200, 500, 1_000, 2_000] {
        let follower = costs.base + costs.peer * (nodes - 1) as f64;
        let name = format!("{nodes} nodes");
        figures.row(&format!("{name}: links, both ends counted once"), (nodes * (nodes - 1) / 2 * LANES) as f64, "", "");
        figures.row(&format!("{name}: idle processor of a follower"), follower / 1e4, "% core", "");
        figures.row(
            &format!("{name}: memory of a node for links"),
            costs.peer_memory * (nodes - 1) as f64 / 1024.0,
            "MB",
            &format!("beside {:.0}", costs.base_memory / 1024.0),
        );
        for commits in [0, 20, 200] {
            let (busy, mut leases, mut beats) = leader(nodes, commits, &costs);
            let name = format!("{name}, {commits} commits/s");
            figures.row(&format!("{name}: the leader's core"), busy * 100.0, "%", "over 100: it falls behind");
            let within = (LEASE_US - STOP_WITHIN_US) / 1000;
            figures.row(
                &format!("{name}: a lease request's wait, p99"),
                ms(percentile(&mut leases, 0.99)),
                "ms",
                &format!("{within} and the node stops its entities"),
            );
            figures.row(
                &format!("{name}: the last heartbeat of a round, p99"),
                ms(percentile(&mut beats, 0.99)),
                "ms",
                &format!("{} and it asks for an election", ELECTION_US / 1000),
            );
        }
        let handshakes = (nodes - 1) as f64 * LANES as f64 * costs.handshake / 1e6;
        figures.row(&format!("{name}: full mesh after all start at once"), handshakes, "s", "one core each, handshakes alone");
    }
    figures.write()
}
