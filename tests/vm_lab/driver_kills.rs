//! kill -9 of a host's driver alone, at the steps of a VM's life: neither the node nor libvirtd nor a guest ends with it.
//! Each operation ends in a stated state, other hosts do not wait, and nothing is left.

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::{
    lab::{Lab, Scene},
    operations::console,
};

const BOOT_ID: [&str; 2] = ["/bin/cat", "/proc/sys/kernel/random/boot_id"];

/// At which moment of an operation the driver dies.
#[derive(Clone, Copy)]
enum When {
    /// It has not read what it is asked.
    Unread,
    /// libvirtd has not read it, and does it, perhaps, for nobody.
    Unanswered,
    /// As soon as this is so on the host.
    Once(&'static str, fn(&Lab) -> bool),
}

fn has_image(lab: &Lab) -> bool {
    std::fs::read_dir(lab.images(1)).is_ok_and(|mut files| files.any(|file| file.is_ok()))
}

fn qemus(lab: &Lab, name: &str) -> usize {
    lab.qemus().iter().filter(|(_, line)| line.contains(&format!("-{name},"))).count()
}

fn runs(lab: &Lab) -> bool {
    (0..4).any(|round| qemus(lab, &format!("k{round}")) > 0)
}

fn is_copied(lab: &Lab) -> bool {
    lab.disks().iter().any(|path| path.contains("-backup-"))
}

fn stands_still(lab: &Lab) -> bool {
    lab.domains(1).iter().any(|(name, state)| name.ends_with("-web") && state == "paused")
}

fn is_on_its_way(lab: &Lab) -> bool {
    let web = lab.domains(1).into_iter().find(|(name, _)| name.ends_with("-web"));
    web.is_some_and(|(name, _)| lab.virsh(1, &["domjobinfo", &name]).contains("Unbounded"))
}

impl Scene {
    /// Asks for something without waiting for it, and kills the driver of h1 at that moment of it.
    async fn amid(&self, when: When, args: &[&str]) {
        let driver = self.driver(1).await;
        match when {
            When::Unread => kill(driver, Signal::SIGSTOP).unwrap(),
            When::Unanswered => self.lab.signal_daemon(1, Signal::SIGSTOP),
            When::Once(..) => {}
        }
        // It answers when the host has done it, or cannot: that is not waited for.
        let mut asking = self.hive.cli_piped(&[args, &["--no-wait"]].concat());
        match when {
            When::Unread | When::Unanswered => {
                self.until("it to be under way", async || {
                    let all = self.json(&["vm", "list"]).await;
                    all.as_array()?.iter().any(|vm| vm["operation"]["status"] == "RUNNING").then_some(())
                })
                .await;
                // A host whose driver hangs keeps no other one waiting.
                self.ok(&["vm", "pause", "other"]).await;
                self.ok(&["vm", "resume", "other"]).await;
            }
            When::Once(what, so) => self.until(what, async || so(&self.lab).then_some(())).await,
        }
        kill(driver, Signal::SIGKILL).unwrap();
        if matches!(when, When::Unanswered) {
            self.lab.signal_daemon(1, Signal::SIGCONT);
        }
        self.until("another driver", async || (self.driver(1).await != driver).then_some(())).await;
        let _ = asking.kill().await;
    }

    async fn unharmed(&self, boot: &str, word: &str) {
        self.status("web", "RUNNING").await;
        assert_eq!(self.lab.in_guest(1, "web", &BOOT_ID).as_deref(), Some(boot), "{word}: it booted anew");
        let line = format!("echo {word} > /dev/ttyS0");
        self.lab.in_guest(1, "web", &["/bin/sh", "-c", &line]).expect("the guest's agent");
        console(self, &["web", "--after-byte", "0"], "", word).await;
    }

    /// Nobody holds a lock of libvirt's: it does at once what is asked.
    async fn is_free(&self, name: &str) {
        self.ok(&["vm", "pause", name]).await;
        self.ok(&["vm", "resume", name]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_a_hosts_driver_alone_ends_every_operation_in_words_and_leaves_nothing() {
    let scene = Scene::set(2, |_, _| Vec::new()).await;
    scene.create("other", &["--on", "h2"]).await;

    // The first brings the image as well.
    let image = When::Once("the image to come", has_image);
    let on = When::Once("it to run", runs);
    for (round, when) in [image, When::Unread, When::Unanswered, on].into_iter().enumerate() {
        let name = format!("k{round}");
        let create = ["vm", "create", &name, "--image", "guest", "--memory", "128MiB", "--network", "bridge:br0", "--on", "h1"];
        scene.amid(when, &create).await;
        assert_eq!(scene.ended(&name, "create", 0).await["status"], "SUCCEEDED", "round {round}");
        scene.status(&name, "RUNNING").await;
        assert_eq!(qemus(&scene.lab, &name), 1, "round {round}");

        scene.ok(&["vm", "stop", &name, "--force"]).await;
        scene.amid([on, When::Unread, When::Unanswered, on][round], &["vm", "start", &name]).await;
        assert_eq!(scene.ended(&name, "start", 0).await["status"], "SUCCEEDED", "round {round}");
        scene.status(&name, "RUNNING").await;

        let off = When::Once("it to end", |lab| !runs(lab));
        scene.amid([off, When::Unread, When::Unanswered, off][round], &["vm", "remove", &name, "--force"]).await;
        scene.until("its removal", async || (scene.run(&["vm", "show", &name]).await.code == 3).then_some(())).await;
        assert_eq!(scene.lab.domains(1), Vec::new(), "round {round}");
        scene.until("its disks to go", async || (scene.lab.disks().len() == 2).then_some(())).await;
        let host = scene.json(&["host", "show", "h1"]).await;
        assert_eq!((&host["vmCount"], &host["reserved"]["cpus"]), (&json!(0), &json!(0)), "round {round}");
    }
    scene.ok(&["vm", "remove", "other", "--force"]).await;
    scene.nothing_left(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_does_not_notice_that_its_driver_dies_amid_a_snapshot_or_a_backup() {
    let scene = Scene::set(2, |_, _| Vec::new()).await;
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().to_str().unwrap();
    scene.create("other", &["--on", "h2"]).await;
    scene.create("web", &["--on", "h1"]).await;
    scene.answers("web").await;
    let boot = scene.lab.in_guest(1, "web", &BOOT_ID).expect("the guest's boot id");

    let still = When::Once("its memory to be written", stands_still);
    for (round, when) in [When::Unread, When::Unanswered, still].into_iter().enumerate() {
        let name = format!("s{round}");
        scene.amid(when, &["vm", "snapshot", "web", "--name", &name]).await;
        let ended = scene.ended("web", "snapshot", round).await;
        scene.unharmed(&boot, &format!("after-snapshot-{round}")).await;
        scene.is_free("web").await;
        // Those that came about, and no other.
        let known = scene.json(&["vm", "snapshots", "web"]).await.as_array().unwrap().len();
        let domain = scene.lab.domains(1).into_iter().find(|(name, _)| name.ends_with("-web")).unwrap().0;
        let listed = scene.lab.virsh(1, &["snapshot-list", &domain, "--name"]);
        assert_eq!(listed.lines().filter(|line| !line.trim().is_empty()).count(), known, "{ended}: {listed}");
    }
    for name in ["s0", "s1", "s2"] {
        scene.run(&["vm", "snapshot-remove", "web", name]).await;
    }

    let mut whole = 0;
    let copied = When::Once("its disks to be copied", is_copied);
    for (round, when) in [When::Unread, When::Unanswered, copied].into_iter().enumerate() {
        scene.amid(when, &["vm", "backup", "web", "--to", to]).await;
        let ended = scene.ended("web", "backup", round).await;
        whole += usize::from(ended["status"] == "SUCCEEDED");
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let names: Vec<_> = names.collect();
        assert!(names.len() == whole && !names.iter().any(|name| name.starts_with('.')), "{ended}: {names:?}");
        assert!(!is_copied(&scene.lab), "{ended}: {:?}", scene.lab.disks());
        scene.unharmed(&boot, &format!("after-backup-{round}")).await;
        scene.is_free("web").await;
    }
    assert!(whole > 0, "none came about");
    for name in ["web", "other"] {
        scene.ok(&["vm", "remove", name, "--force"]).await;
    }
    scene.nothing_left(2).await;
}

/// Whichever host has it after that, it runs there once and no room is held elsewhere.
async fn moves_once(peers: bool) {
    let scene = Scene::set(2, |lab, host| {
        let peer = if peers { vec!["--peer-uri".into(), lab.peer(host)] } else { Vec::new() };
        [vec!["--pool".into(), lab.shared(), "--pool-shared".into()], peer].concat()
    })
    .await;
    scene.create("other", &["--on", "h2"]).await;
    scene.create("web", &["--on", "h1"]).await;
    scene.answers("web").await;
    let boot = scene.lab.in_guest(1, "web", &BOOT_ID).expect("the guest's boot id");
    let mut moves = 0;
    let way = When::Once("it to be on its way", is_on_its_way);
    for (round, when) in [When::Unread, When::Unanswered, way].into_iter().enumerate() {
        scene.amid(when, &["vm", "migrate", "web", "--to", "h2", "--bandwidth", "8"]).await;
        let ended = scene.ended("web", "migrate", moves).await;
        moves += 1;
        let vm = scene.status("web", "RUNNING").await;
        let host = if vm["host"]["name"] == "h1" { 1 } else { 2 };
        eprintln!("round {round}: {} on h{host}, {}", ended["status"], ended["error"]);
        assert_eq!(ended["status"] == "SUCCEEDED", host == 2, "{ended}");
        let of = |host| scene.lab.domains(host).into_iter().filter(|(name, _)| name.ends_with("-web")).collect::<Vec<_>>();
        scene.until("one of it", async || (of(host).len() == 1 && of(3 - host).is_empty()).then_some(())).await;
        assert_eq!(qemus(&scene.lab, "web"), 1);
        let reserved = |host: &Value| host["reserved"]["cpus"].as_u64().unwrap();
        let on = [scene.json(&["host", "show", "h1"]).await, scene.json(&["host", "show", "h2"]).await];
        let wanted = if host == 1 { (1, 1) } else { (0, 2) };
        assert_eq!((reserved(&on[0]), reserved(&on[1])), wanted, "{on:?}");
        assert_eq!(scene.lab.in_guest(host, "web", &BOOT_ID).as_deref(), Some(&*boot), "it booted anew");
        scene.is_free("web").await;
        if host == 2 {
            scene.ok(&["vm", "migrate", "web", "--to", "h1"]).await;
            scene.status("web", "RUNNING").await;
            moves += 1;
        }
        scene.unharmed(&boot, &format!("after-move-{round}")).await;
    }
    for name in ["web", "other"] {
        scene.ok(&["vm", "remove", name, "--force"]).await;
    }
    scene.nothing_left(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_moves_runs_once_though_the_driver_that_moves_it_dies() {
    moves_once(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_hosts_move_between_themselves_runs_once_though_the_driver_that_asked_dies() {
    moves_once(true).await;
}
