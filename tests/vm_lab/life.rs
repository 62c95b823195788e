//! A VM's life on a real host, as a user leads it from the command line.

use std::time::Instant;

use crate::lab::{Scene, guest};

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_boots_answers_keeps_its_disk_and_leaves_nothing_behind() {
    let scene = Scene::set(1, |_, _| Vec::new()).await;
    let twice = scene.run(&["image", "import", guest(), "--name", "guest"]).await;
    assert_eq!(twice.code, 5, "{}{}", twice.out, twice.err);
    let nobody = scene.run(&["vm", "create", "x", "--image", "nobody", "--on", "h1"]).await;
    assert!(nobody.code == 5 && nobody.err.contains("image import"), "{}{}", nobody.out, nobody.err);
    scene.ok(&["vm", "remove", "x"]).await;

    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), "ssh-ed25519 AAAAC3Nza me@here\n").unwrap();
    scene.create("web", &["--disk", "data=16MiB", "--disk", "192MiB", "--ssh-key", keys.path().to_str().unwrap()]).await;
    let said = scene.answers("web").await;
    assert_eq!(said["hostName"], "web", "the seed was not read: {said}");
    assert!(said["os"].as_str().unwrap().contains("lab"), "{said}");
    let vm = scene.vm("web").await;
    assert!(vm["usage"]["memoryBytes"].as_str().is_some() || vm["usage"]["memoryBytes"].is_u64(), "{vm}");
    let in_use = scene.run(&["image", "remove", "guest"]).await;
    assert!(in_use.code == 5 && in_use.err.contains("made of"), "{}{}", in_use.out, in_use.err);

    assert!(scene.ok(&["vm", "pause", "web"]).await.contains("PAUSED"));
    assert_eq!(scene.vm("web").await["guest"], serde_json::Value::Null, "a guest that stands still says nothing");
    assert!(scene.ok(&["vm", "resume", "web"]).await.contains("RUNNING"));
    scene.answers("web").await;
    assert!(scene.ok(&["vm", "reboot", "web"]).await.contains("RUNNING"));
    scene.until("the second boot", async || (scene.lab.boots("web") == Some(2)).then_some(())).await;
    scene.answers("web").await;
    // The power button, and the guest heeds it: nothing was pulled.
    assert!(scene.ok(&["vm", "stop", "web"]).await.contains("STOPPED"));
    assert!(scene.lab.virsh(1, &["domstate", "--reason", &scene.lab.domains(1)[0].0]).contains("shutdown"));
    assert!(scene.ok(&["vm", "start", "web"]).await.contains("RUNNING"));
    scene.until("the third boot", async || (scene.lab.boots("web") == Some(3)).then_some(())).await;
    assert!(scene.ok(&["vm", "stop", "web", "--force"]).await.contains("STOPPED"));
    scene.ok(&["vm", "remove", "web"]).await;
    scene.nothing_left(1).await;
    scene.ok(&["image", "remove", "guest"]).await;
    scene
        .until("the host's copy of the image to go", async || {
            (std::fs::read_dir(scene.lab.images(1)).unwrap().count() == 0).then_some(())
        })
        .await;
}

/// Milliseconds of each, the middle one of several.
fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn without(xml: &str, element: &str) -> String {
    let (begin, end) = (xml.find(&format!("<{element}")).unwrap(), xml.find(&format!("</{element}>")).unwrap());
    format!("{}{}", &xml[..begin], &xml[end + element.len() + 3..])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_starting_and_stopping_costs_is_printed_beside_virsh_with_the_same_machine() {
    const ROUNDS: usize = 5;
    let scene = Scene::set(1, |_, _| Vec::new()).await;
    scene.create("web", &["--no-start"]).await;
    let (domain, _) = scene.lab.domains(1)[0].clone();
    // The same machine with a disk of its own, and nothing that says it is ours.
    let xml = scene.lab.virsh(1, &["dumpxml", "--inactive", &domain]);
    let root = xml.lines().find_map(|line| line.split_once("<source file='")).unwrap().1.split_once('\'').unwrap().0.to_owned();
    let copy = scene.lab.images(1).with_file_name("bare.qcow2");
    std::fs::copy(scene.lab.images(1).join(root.rsplit('/').next().unwrap()), &copy).unwrap();
    let xml = without(&xml, "uuid").replace(&root, "/var/lib/libvirt/images/bare.qcow2");
    let xml = xml.replace(&domain, "bare").lines().filter(|line| !line.contains("<mac address")).collect::<Vec<_>>().join("\n");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), xml).unwrap();
    let defined = scene.lab.virsh(1, &["define", file.path().to_str().unwrap()]);
    assert_eq!(defined, "", "not defined");

    let (mut ours, mut theirs) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let took = |begun: Instant| begun.elapsed().as_secs_f64() * 1e3;
    for _ in 0..ROUNDS {
        for (step, args) in [&["vm", "start", "web"][..], &["vm", "stop", "web", "--force"]].into_iter().enumerate() {
            let begun = Instant::now();
            scene.ok(args).await;
            ours[step].push(took(begun));
        }
        for (step, action) in ["start", "destroy"].into_iter().enumerate() {
            let begun = Instant::now();
            let said = scene.lab.virsh(1, &[action, "bare"]);
            theirs[step].push(took(begun));
            assert_eq!(said, "", "{action}");
        }
    }
    let [start, stop] = ours.map(median);
    let [bare_start, bare_stop] = theirs.map(median);
    eprintln!(
        "one VM of 128 MiB, no KVM, the middle of {ROUNDS}, each as a command of its own\n  start: hiveward {start:.0} ms, virsh {bare_start:.0} ms, \
         {:.2} times\n  stop:  hiveward {stop:.0} ms, virsh {bare_stop:.0} ms, {:.2} times",
        start / bare_start,
        stop / bare_stop
    );
    scene.lab.virsh(1, &["undefine", "bare"]);
    std::fs::remove_file(copy).unwrap();
    scene.ok(&["vm", "remove", "web"]).await;
    scene.nothing_left(1).await;
}
