//! What our way costs beside bare libvirt calls that make the same machines: printed, both in turns in one run.

use std::{collections::BTreeMap, path::Path, process::Command, time::Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use hiveward_tests::client::{CallFailed, Client};
use serde_json::{Value, json};

use crate::lab::{Lab, Scene, driver};

/// So that a run of all tests takes no longer; `HIVEWARD_LAB_VMS=50` for the figures that are quoted.
const VMS: usize = 8;
const ROUNDS: usize = 3;
/// Of more than [`VMS`] one round takes a quarter of an hour.
const ROUNDS_OF_MANY: usize = 1;
/// More guests that boot in software on a few CPUs keep libvirtd from answering anybody.
const AT_ONCE_MAX: usize = 8;
const STEPS: [&str; 4] = ["create", "stop", "start", "remove"];
const INPUTS: [&str; 4] = [
    "mutation($i:CreateVmInput!){createVm(input:$i){vm{id}}}",
    "mutation($i:StopVmInput!){stopVm(input:$i){vm{id}}}",
    "mutation($i:StartVmInput!){startVm(input:$i){vm{id}}}",
    "mutation($i:RemoveVmInput!){removeVm(input:$i){cursor}}",
];

/// Milliseconds of each step, of all VMs together.
type Times = BTreeMap<String, f64>;

/// The middle one of several.
fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn without(xml: &str, element: &str) -> String {
    let (begin, end) = (xml.find(&format!("<{element}")).unwrap(), xml.find(&format!("</{element}>")).unwrap());
    format!("{}{}", &xml[..begin], &xml[end + element.len() + 3..])
}

/// The machine that libvirt has of one of ours, for another that is nobody's.
fn described(lab: &Lab, domain: &str) -> (String, Vec<String>) {
    let xml = lab.virsh(1, &["dumpxml", "--inactive", domain]);
    let files: Vec<String> =
        xml.split("<source file='").skip(1).filter_map(|rest| Some(rest.split_once('\'')?.0.to_owned())).collect();
    let [root, seed] = files.as_slice() else { panic!("{xml}") };
    let xml = without(&xml, "uuid").replace(root, "@ROOT@").replace(seed, "@SEED@");
    let xml = xml.replace(domain, "@NAME@");
    (xml.lines().filter(|line| !line.contains("<mac address")).collect::<Vec<_>>().join("\n"), files)
}

fn bare(lab: &Lab, (count, at_once): (usize, usize), domain: &Path, base: &str, seed: &Path) -> Times {
    let program = driver().with_file_name("examples").join("bare");
    let mut bare = Command::new(program);
    bare.args([&lab.uri(1), &count.to_string(), &at_once.to_string()])
        .arg(domain)
        .args(["/var/lib/libvirt/images/bare", base])
        .arg(seed);
    let ran = bare.output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let micros: Times = serde_json::from_slice(&ran.stdout).unwrap();
    micros.into_iter().map(|(step, micros)| (step, micros / 1e3)).collect()
}

/// As a client would that has so many to do: at once, or one after the other; each is answered when it is durable and done.
async fn ours(client: &Client, names: &[String], at_once: usize) -> Times {
    let all = async |step: usize, inputs: Vec<Value>| -> (f64, Vec<Value>) {
        let begun = Instant::now();
        let calls = stream::iter(inputs).map(|input| async move { client.call(INPUTS[step], json!({ "i": input })).await });
        let done: Result<Vec<Value>, CallFailed> = calls.buffer_unordered(at_once).try_collect().await;
        (begun.elapsed().as_secs_f64() * 1e3, done.unwrap())
    };
    let new = |name: &String| json!({ "name": name, "image": "guest", "cpus": 1, "memoryBytes": (128 << 20).to_string(), "networks": ["bridge:br0"] });
    let (create, made) = all(0, names.iter().map(new).collect()).await;
    let ids: Vec<_> = made.iter().map(|made| made["createVm"]["vm"]["id"].clone()).collect();
    let (stop, _) = all(1, ids.iter().map(|id| json!({ "vm": id, "force": true })).collect()).await;
    let (start, _) = all(2, ids.iter().map(|id| json!({ "vm": id })).collect()).await;
    all(1, ids.iter().map(|id| json!({ "vm": id, "force": true })).collect()).await;
    let (remove, _) = all(3, ids.iter().map(|id| json!({ "vm": id })).collect()).await;
    STEPS.into_iter().map(str::to_owned).zip([create, stop, start, remove]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vms_life_costs_is_printed_beside_bare_libvirt_calls_with_the_same_machine() {
    let count = std::env::var("HIVEWARD_LAB_VMS").map_or(VMS, |count| count.parse().unwrap());
    let more = |_: &Lab, _| vec!["--cpu-overcommit".to_owned(), "64".to_owned()];
    let scene = Scene::set(1, more).await;
    scene.create("web", &["--no-start"]).await;
    let (domain, _) = scene.lab.domains(1)[0].clone();
    let (xml, files) = described(&scene.lab, &domain);
    let own = scene.hive.own_dir();
    let (description, seed) = (own.join("bare.xml"), own.join("bare.img"));
    std::fs::write(&description, xml).unwrap();
    let file = |path: &str| scene.lab.images(1).join(path.rsplit('/').next().unwrap());
    std::fs::copy(file(&files[1]), &seed).unwrap();
    let image = std::fs::read_dir(scene.lab.images(1)).unwrap().flatten().map(|entry| entry.file_name());
    let image = image.map(|name| name.into_string().unwrap()).find(|name| name.starts_with("image-")).unwrap();
    let base = format!("{}/{image}", Path::new(&files[0]).parent().unwrap().display());
    scene.ok(&["vm", "remove", "web"]).await;

    let client = Client { patience: std::time::Duration::from_secs(300), ..scene.hive.client() };
    let names = |round: usize| (0..count).map(|n| format!("vm-{round}-{n}")).collect::<Vec<_>>();
    let mut all: [Vec<Times>; 4] = Default::default();
    let rounds = if count > VMS { ROUNDS_OF_MANY } else { ROUNDS };
    let at_once = count.min(AT_ONCE_MAX);
    for round in 0..rounds {
        all[0].push(bare(&scene.lab, (count, 1), &description, &base, &seed));
        all[1].push(ours(&client, &names(2 * round), 1).await);
        all[2].push(bare(&scene.lab, (count, at_once), &description, &base, &seed));
        all[3].push(ours(&client, &names(2 * round + 1), at_once).await);
    }
    eprintln!("{count} VMs of 128 MiB, no KVM, ms for each VM, the middle of {rounds} round(s)");
    for step in STEPS {
        let middle = |rounds: &Vec<Times>| median(rounds.iter().map(|times| times[step]).collect()) / count as f64;
        let [bare, ours, bare_at_once, ours_at_once] = all.each_ref().map(middle);
        eprintln!(
            "  {step:7} one by one: bare {bare:6.1}, hiveward {ours:6.1}, {:.2} times; \
             {at_once} at once: bare {bare_at_once:6.1}, hiveward {ours_at_once:6.1}, {:.2} times",
            ours / bare,
            ours_at_once / bare_at_once
        );
    }
    scene.nothing_left(1).await;
}
