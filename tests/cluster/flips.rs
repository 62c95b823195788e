//! Promise: damage to what nodes store is found while they run, never served, and mended from another node where one has it
//! (F11).

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use hiveward_tests::{
    Client,
    cluster::{Cluster, Shape},
    dice,
    oracle::looks::{contents, output},
    until_within,
};
use serde_json::{Value, json};

const TASKS: usize = 24;
const SWARM: &str = "flips";
const SCRUB: &str = "mutation($i:ScrubInput!){scrub(input:$i){damaged repaired lost damagedTranscripts lostTranscripts next}}";
const WITHIN: Duration = Duration::from_secs(60);

/// What was found by looking at everything on a node.
#[derive(Debug, Default)]
struct Scrubbed {
    damaged: u64,
    repaired: u64,
    transcripts: Vec<String>,
}

async fn scrub(client: &Client) -> Scrubbed {
    let (mut found, mut after) = (Scrubbed::default(), Value::Null);
    loop {
        let turn = client.ok(SCRUB, json!({ "i": { "after": after } })).await["scrub"].take();
        found.damaged += turn["damaged"].as_u64().unwrap();
        found.repaired += turn["repaired"].as_u64().unwrap();
        found
            .transcripts
            .extend(turn["lostTranscripts"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()));
        after = turn["next"].clone();
        if after.is_null() {
            return found;
        }
    }
}

/// All files below whose names will do.
fn files(below: &Path, will_do: &impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(below).into_iter().flatten().flatten();
    let found = entries.flat_map(|entry| {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        match path.is_dir() {
            true if name == "damaged" => Vec::new(),
            true => files(&path, will_do),
            false if will_do(&name) && entry.metadata().is_ok_and(|meta| meta.len() > 0) => vec![path],
            false => Vec::new(),
        }
    });
    found.collect()
}

fn flip(path: &Path, dice: &mut fastrand::Rng) -> Vec<u8> {
    let right = fs::read(path).unwrap();
    let mut wrong = right.clone();
    wrong[dice.usize(..right.len())] ^= 1 << dice.u8(..8);
    fs::write(path, wrong).unwrap();
    right
}

/// `HIVEWARD_FLIPS=1000` for as many.
#[tokio::test(flavor = "multi_thread")]
async fn any_bit_that_flips_in_blobs_or_transcripts_of_running_nodes_is_found_never_served_and_mended_where_it_can_be() {
    let Some(cluster) = Cluster::joined(&Shape::of(3)).await else { return };
    let mut dice = dice();
    let flips = std::env::var("HIVEWARD_FLIPS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let client = cluster.client(0);
    client.swarm(SWARM).await;
    for n in 0..3 {
        client.agent(json!({ "name": format!("sh-{n}"), "swarm": SWARM, "connector": { "command": true } })).await;
    }
    // Of a few bytes to some hundred thousand, on both streams, and an artifact.
    let mut tasks = Vec::new();
    for n in 0..TASKS {
        let lines = [1, 40, 3_000, 12_000][n % 4];
        let script = format!(
            "i=0; while [ $i -lt {lines} ]; do echo \"wörk {n} line $i\"; i=$((i+1)); done | tee made; head -c 70000 made >&2; \
             echo '{{\"hiveward\":\"artifact\",\"name\":\"made\",\"path\":\"made\"}}'"
        );
        tasks.push(client.submit(json!({ "swarm": SWARM, "command": { "argv": ["sh", "-c", script] } })).await);
    }
    let mut right = BTreeMap::new();
    for task in &tasks {
        assert_eq!(client.ended(task).await["status"], "SUCCEEDED");
        let (artifacts, said) = (contents(&client, task).await.unwrap(), output(&client, task).await.unwrap());
        assert!(!artifacts.is_empty());
        right.insert(task.clone(), (artifacts, said));
    }
    let query = "query($id:ID!){node(id:$id){...on Task{artifacts{hash}}}}";
    let mut hashes: BTreeMap<String, Vec<&String>> = BTreeMap::new();
    for task in &tasks {
        let found = client.ok(query, json!({ "id": task })).await;
        for artifact in found["node"]["artifacts"].as_array().unwrap() {
            hashes.entry(artifact["hash"].as_str().unwrap().to_owned()).or_default().push(task);
        }
    }
    let is_blob = |name: &str| hashes.contains_key(name);
    let is_transcript = |name: &str| ["stdout", "stderr", "index", "exit.json", "stdout.sums", "stderr.sums"].contains(&name);
    let (mut blobs, mut transcripts, mut refused) = (0, 0, 0);
    for n in 0..flips {
        let node = dice.usize(..3);
        let (data, asked) = (cluster.node(node).data_dir().to_owned(), cluster.client(node));
        let of_blobs = n % 2 == 0;
        let all = if of_blobs { files(&data.join("blobs"), &is_blob) } else { files(&data.join("sessions"), &is_transcript) };
        let Some(path) = dice.choice(&all) else { continue };
        let (bytes, began) = (flip(path, &mut dice), Instant::now());
        let shown = path.display();
        if of_blobs {
            let hash = path.file_name().unwrap().to_str().unwrap();
            let task = *dice.choice(&hashes[hash]).unwrap();
            // Half of them are found by who reads, the others by the scrub.
            if dice.bool() {
                match contents(&asked, task).await {
                    Ok(read) => assert!(read == right[task].0, "{shown}: other bytes were served"),
                    Err(why) => {
                        assert!(why.contains("damaged") || why.contains("UNAVAILABLE"), "{shown}: {why}");
                        refused += 1;
                    }
                }
            }
            until_within(WITHIN, "the blob is whole again", async || {
                let found = scrub(&asked).await;
                assert_eq!(found.transcripts, [] as [String; 0], "{shown}");
                (fs::read(path).is_ok_and(|read| read == bytes)).then_some(())
            })
            .await;
            assert!(contents(&asked, task).await.unwrap() == right[task].0, "{shown}");
            blobs += 1;
        } else {
            let session = path.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
            let (task, _) = session.rsplit_once('-').unwrap();
            match output(&asked, task).await {
                Ok(read) => assert!(read == right[task].1, "{shown}: other bytes were served"),
                Err(why) => {
                    assert!(why.contains("damaged"), "{shown}: {why}");
                    refused += 1;
                }
            }
            assert_eq!(scrub(&asked).await.transcripts, [session.as_str()], "{shown}");
            fs::write(path, bytes).unwrap();
            assert!(output(&asked, task).await.unwrap() == right[task].1, "{shown}");
            transcripts += 1;
        }
        eprintln!("{shown}: dealt with after {:?}", began.elapsed());
    }
    let last = scrub(&client).await;
    assert_eq!((last.damaged, last.transcripts.len()), (last.repaired, 0), "{last:?}");
    eprintln!("{blobs} bits of blobs and {transcripts} of transcripts were flipped; {refused} readings were refused");
    assert!(blobs > 0 && transcripts > 0 && refused > 0);
}
