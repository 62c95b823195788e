//! The shape of real guests changes while they run, as they see it themselves.

use serde_json::{Value, json};

use crate::lab::Scene;

/// How many disks of the test's there are in the guest.
const ATTACHED: &str = "for disk in /sys/block/vd*; do cat $disk/serial; echo; done | grep -Ec '^(data|more.)$'";
const BOOT_ID: [&str; 2] = ["/bin/cat", "/proc/sys/kernel/random/boot_id"];

impl Scene {
    /// What a line of shell prints in the guest, once it is that.
    async fn sees(&self, name: &str, line: &str, wanted: &str) {
        let what = format!("{name} to say {wanted:?} to {line:?}");
        self.until(&what, async || (self.lab.in_guest(1, name, &["/bin/sh", "-c", line])? == wanted).then_some(())).await;
    }

    /// Of the memory that its kernel has, in MiB.
    async fn memory(&self, name: &str, fits: impl Fn(u64) -> bool) -> u64 {
        let line = ["/bin/sh", "-c", "sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo"];
        let total = async || {
            let kib: u64 = self.lab.in_guest(1, name, &line)?.parse().ok()?;
            Some(kib >> 10).filter(|mib| fits(*mib))
        };
        self.until(&format!("{name} to have another memory"), total).await
    }

    async fn reserved_mib(&self) -> u64 {
        let host = self.json(&["host", "show", "h1"]).await;
        host["reserved"]["memoryBytes"].as_u64().unwrap() >> 20
    }

    async fn last(&self, name: &str, kind: &str, count: usize) -> Value {
        self.until(&format!("the end of {kind}"), async || {
            let vm = self.vm(name).await;
            let all: Vec<_> = vm["operations"].as_array()?.iter().filter(|one| one["kind"] == kind).cloned().collect();
            all.get(count - 1).filter(|one| one["status"] != "RUNNING").cloned()
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_gives_memory_back_while_it_runs_and_grows_when_it_is_started_again() {
    let scene = Scene::set(1, |_, _| Vec::new()).await;
    scene.create("web", &[]).await;
    scene.answers("web").await;
    let boot = scene.lab.in_guest(1, "web", &BOOT_ID).expect("the guest's boot id");
    let whole = scene.memory("web", |_| true).await;
    let shrunk = scene.run(&["vm", "resize", "web", "--memory", "112MiB"]).await;
    assert_eq!((shrunk.code, &*shrunk.err), (0, ""), "nothing of it waits: {}", shrunk.out);
    scene.memory("web", |mib| mib + 12 < whole).await;
    assert_eq!(scene.reserved_mib().await, 112);
    scene.ok(&["vm", "resize", "web", "--memory", "128MiB"]).await;
    scene.memory("web", |mib| mib == whole).await;
    assert_eq!(scene.lab.in_guest(1, "web", &BOOT_ID).as_deref(), Some(boot.as_str()), "it booted anew");

    // More than it was started with is said to come later, and does.
    let grown = scene.run(&["vm", "resize", "web", "--cpus", "2", "--memory", "192MiB"]).await;
    assert!(grown.code == 0 && grown.err.contains("runs with 1 CPU and 128 MiB until"), "{}{}", grown.out, grown.err);
    assert_eq!(scene.vm("web").await["pendingRestart"]["cpus"], 1);
    scene.sees("web", "grep -c ^processor /proc/cpuinfo", "1").await;
    assert_eq!(scene.reserved_mib().await, 192);
    scene.ok(&["vm", "stop", "web", "--force"]).await;
    scene.ok(&["vm", "start", "web"]).await;
    scene.answers("web").await;
    scene.sees("web", "grep -c ^processor /proc/cpuinfo", "2").await;
    scene.memory("web", |mib| mib > whole + 48).await;
    assert_eq!(scene.vm("web").await["pendingRestart"], Value::Null);
    // What its host has not it does not get, and nothing of it changes.
    let refused = scene.run(&["vm", "resize", "web", "--memory", "4096GiB"]).await;
    assert!(refused.code != 0 && refused.err.contains("nothing was changed"), "{}", refused.err);
    assert_eq!((scene.reserved_mib().await, &scene.vm("web").await["cpus"]), (192, &json!(2)));
    scene.ok(&["vm", "remove", "web", "--force"]).await;
    scene.nothing_left(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_and_networks_come_and_go_in_a_guest_that_runs_also_when_its_node_is_killed_amid_it() {
    let mut scene = Scene::set(1, |_, _| Vec::new()).await;
    let blue = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(blue.path(), "<network><name>blue</name></network>").unwrap();
    scene.lab.virsh(1, &["net-create", blue.path().to_str().unwrap()]);
    scene.create("web", &[]).await;
    scene.answers("web").await;
    let boot = scene.lab.in_guest(1, "web", &BOOT_ID).expect("the guest's boot id");
    let cards = "ls -d /sys/class/net/*/device | wc -l";
    scene.sees("web", cards, "1").await;

    scene.ok(&["vm", "attach-disk", "web", "--name", "data", "--size", "32MiB"]).await;
    let data = "for disk in /sys/block/vd*; do [ \"$(cat $disk/serial)\" = data ] && cat $disk/size; done";
    scene.sees("web", data, "65536").await;
    scene.ok(&["vm", "attach-network", "web", "blue"]).await;
    scene.sees("web", cards, "2").await;
    let unknown = scene.run(&["vm", "attach-network", "web", "bridge:nowhere"]).await;
    assert!(unknown.code != 0 && unknown.err.contains("cannot be attached"), "{}", unknown.err);
    scene.sees("web", cards, "2").await;

    // The node dies before and after the hypervisor did it: it comes about once.
    let mut disks = 1;
    for (round, point) in ["vm.reshape", "vm.reshape.done", "vm.enact.done"].into_iter().enumerate() {
        scene.ok(&["fault", "inject", point, "abort"]).await;
        let name = format!("more{round}");
        scene.run(&["vm", "attach-disk", "web", "--name", &name, "--size", "8MiB", "--no-wait"]).await;
        scene.hive.wait();
        scene.hive.start_again().await;
        assert_eq!(scene.last("web", "attach disk", round + 2).await["status"], "SUCCEEDED", "at {point}");
        disks += 1;
        scene.sees("web", ATTACHED, &disks.to_string()).await;
    }
    // A backup has what was attached, and a snapshot keeps the shape.
    let dir = tempfile::tempdir().unwrap();
    scene.ok(&["vm", "backup", "web", "--to", dir.path().to_str().unwrap()]).await;
    let kept = scene.json(&["vm", "backups", "web"]).await[0]["path"].as_str().unwrap().to_owned();
    assert!(std::path::Path::new(&kept).join("data.qcow2").exists());
    scene.ok(&["vm", "snapshot", "web", "--name", "one"]).await;
    let refused = scene.run(&["vm", "detach-disk", "web", "data", "--delete"]).await;
    assert!(refused.code != 0 && refused.err.contains("has snapshots"), "{}", refused.err);
    scene.ok(&["vm", "snapshot-remove", "web", "one"]).await;

    let refused = scene.run(&["vm", "detach-disk", "web", "data"]).await;
    assert!(refused.code != 0 && refused.err.contains("may be deleted"), "{}", refused.err);
    scene.ok(&["vm", "detach-disk", "web", "data", "--delete"]).await;
    scene.sees("web", data, "").await;
    assert!(!scene.lab.disks().iter().any(|path| path.ends_with("-data.qcow2")), "{:?}", scene.lab.disks());
    scene.ok(&["vm", "detach-network", "web", "blue"]).await;
    scene.sees("web", cards, "1").await;
    assert_eq!(scene.lab.in_guest(1, "web", &BOOT_ID).as_deref(), Some(boot.as_str()), "it booted anew");
    // As it is defined it is after a stop and a start as well.
    scene.ok(&["vm", "stop", "web", "--force"]).await;
    scene.ok(&["vm", "start", "web"]).await;
    scene.answers("web").await;
    scene.sees("web", ATTACHED, "3").await;
    scene.sees("web", cards, "1").await;
    scene.ok(&["vm", "remove", "web", "--force"]).await;
    scene.nothing_left(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_and_an_image_of_a_guest_boot_by_themselves_wherever_they_are_and_outlive_it() {
    let mut scene = Scene::set(2, |_, _| Vec::new()).await;
    scene.create("web", &["--on", "h1", "--disk", "data=16MiB"]).await;
    scene.answers("web").await;
    let mark = "echo kept > /data/mark; sync; cat /data/mark";
    scene.sees("web", mark, "kept").await;
    let boot = scene.lab.in_guest(1, "web", &BOOT_ID).expect("the guest's boot id");
    let card = ["/bin/cat", "/sys/class/net/eth0/address"];
    let address = scene.lab.in_guest(1, "web", &card);

    // While it runs, and from one host to another; its node dies when it was copied.
    scene.ok(&["fault", "inject", "vm.copy.done", "abort"]).await;
    scene.run(&["vm", "clone", "web", "--name", "twin", "--on", "h2", "--no-wait"]).await;
    scene.hive.wait();
    scene.hive.start_again().await;
    assert_eq!(scene.last("web", "clone", 1).await["status"], "SUCCEEDED");
    scene.answers("twin").await;
    let of_twin = |argv: &[&str]| scene.lab.in_guest(2, "twin", argv);
    assert_eq!(of_twin(&["/bin/cat", "/data/mark"]).as_deref(), Some("kept"));
    assert_eq!(of_twin(&["/bin/hostname"]).as_deref(), Some("twin"), "its first boot is its own");
    assert_ne!(of_twin(&card), address);
    assert_eq!(scene.lab.in_guest(1, "web", &BOOT_ID).as_deref(), Some(boot.as_str()), "it booted anew");
    let shown = scene.ok(&["vm", "clone", "web", "--name", "off", "--no-start"]).await;
    assert!(shown.contains("off") && shown.contains("DEFINED"), "{shown}");
    scene.ok(&["vm", "remove", "off"]).await;

    let made = scene.ok(&["image", "create", "--from-vm", "web", "--name", "golden"]).await;
    assert!(made.contains("golden"), "{made}");
    let again = scene.run(&["image", "create", "--from-vm", "web", "--name", "golden"]).await;
    assert!(again.code != 0 && again.err.contains("already"), "{}", again.err);
    scene.ok(&["vm", "remove", "web", "--force"]).await;
    scene.ok(&["vm", "create", "new", "--image", "golden", "--memory", "128MiB", "--network", "bridge:br0", "--on", "h1"]).await;
    scene.answers("new").await;
    scene.sees("new", "cat /data/mark; hostname", "kept\nnew").await;
    assert!(!scene.lab.disks().iter().any(|path| path.contains("-backup-")), "{:?}", scene.lab.disks());
    // What it came from is gone, and it starts.
    scene.ok(&["vm", "stop", "twin", "--force"]).await;
    scene.ok(&["vm", "start", "twin"]).await;
    for name in ["twin", "new"] {
        scene.ok(&["vm", "remove", name, "--force"]).await;
    }
    scene.ok(&["image", "remove", "golden"]).await;
    scene.nothing_left(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_attached_moves_with_its_vm_to_a_host_with_other_disks_and_so_does_a_clone() {
    let scene = Scene::set(2, |lab, host| vec!["--peer-uri".into(), lab.peer(host)]).await;
    scene.create("web", &["--on", "h1"]).await;
    scene.answers("web").await;
    scene.ok(&["vm", "attach-disk", "web", "--name", "data", "--size", "16MiB"]).await;
    let data = "disk=$(grep -l '^data' /sys/block/vd*/serial | cut -d/ -f4)";
    let write = format!("{data}; printf kept | dd of=/dev/$disk conv=fsync 2>/dev/null; head -c 4 /dev/$disk");
    scene.sees("web", &write, "kept").await;
    // What its run holds goes with it.
    scene.ok(&["vm", "resize", "web", "--memory", "112MiB", "--offline"]).await;
    scene.ok(&["vm", "migrate", "web", "--to", "h2"]).await;
    let moved = scene.vm("web").await;
    assert_eq!((&moved["host"]["name"], &moved["pendingRestart"]["memoryBytes"]), (&json!("h2"), &json!(128 << 20)));
    let read = format!("{data}; head -c 4 /dev/$disk");
    let there = |name| scene.lab.in_guest(2, name, &["/bin/sh", "-c", &read]);
    assert_eq!(there("web").as_deref(), Some("kept"));
    assert!(scene.lab.disks().iter().all(|path| path.contains("/2/")), "disks are left: {:?}", scene.lab.disks());

    scene.ok(&["vm", "clone", "web", "--name", "twin", "--on", "h1"]).await;
    scene.answers("twin").await;
    scene.ok(&["vm", "migrate", "twin", "--to", "h2"]).await;
    assert_eq!(there("twin").as_deref(), Some("kept"));
    // As it is defined there it starts there.
    for name in ["web", "twin"] {
        scene.ok(&["vm", "stop", name, "--force"]).await;
        scene.ok(&["vm", "start", name]).await;
        scene.answers(name).await;
        assert_eq!((there(name).as_deref(), &scene.vm(name).await["pendingRestart"]), (Some("kept"), &Value::Null), "{name}");
        scene.ok(&["vm", "remove", name, "--force"]).await;
    }
    scene.nothing_left(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_is_made_of_any_more_goes_from_its_host_and_from_a_shared_store_and_nothing_else_does() {
    // One has a store of its own, two share theirs.
    let scene = Scene::set(3, |lab, host| match host {
        1 => Vec::new(),
        _ => vec!["--pool".into(), lab.shared(), "--pool-shared".into()],
    })
    .await;
    let all = || {
        let shared = std::fs::read_dir(scene.lab.shared()).unwrap().flatten();
        let shared = shared.filter_map(|file| file.file_name().into_string().ok()).filter(|name| name.starts_with("image-"));
        (scene.lab.images_of(1).len(), shared.count())
    };
    let kept = async |what: &str, wanted: (usize, usize)| {
        let what = format!("{what}: {wanted:?} copies of images, not {:?}", all());
        scene.until(&what, async || (all() == wanted).then_some(())).await;
    };
    for (name, host) in [("own", "h1"), ("two", "h2"), ("three", "h3")] {
        scene.create(name, &["--on", host]).await;
    }
    scene.answers("own").await;
    kept("each host has its own copy", (1, 2)).await;
    scene.ok(&["vm", "remove", "three", "--force"]).await;

    // What it is made of is its alone, and the image is nobody's then.
    scene.ok(&["vm", "clone", "own", "--name", "twin", "--on", "h1"]).await;
    scene.ok(&["vm", "clone", "own", "--name", "triplet", "--on", "h2"]).await;
    let refused = scene.run(&["image", "remove", "guest"]).await;
    assert!(refused.code == 5 && refused.err.contains("made of"), "{}", refused.err);
    scene.ok(&["vm", "remove", "own", "two", "--force"]).await;
    scene.ok(&["image", "remove", "guest"]).await;
    kept("those of clones are left", (1, 1)).await;
    scene.ok(&["vm", "stop", "twin", "--force"]).await;
    scene.ok(&["vm", "start", "twin"]).await;
    scene.answers("twin").await;
    assert_eq!(all(), (1, 1), "what a clone is made of was swept");
    scene.ok(&["vm", "remove", "triplet", "--force"]).await;
    kept("a clone's goes with it", (1, 0)).await;
    scene.ok(&["vm", "remove", "twin", "--force"]).await;
    kept("nothing is left", (0, 0)).await;
    scene.nothing_left(3).await;
}
