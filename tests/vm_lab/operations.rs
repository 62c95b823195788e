//! Snapshots and the serial console of real guests, and what is left of either when something dies amid it.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::lab::Scene;

impl Scene {
    async fn snapshots(&self, name: &str) -> Vec<String> {
        let all = self.json(&["vm", "snapshots", name]).await;
        all.as_array().unwrap().iter().map(|snapshot| snapshot["name"].as_str().unwrap().to_owned()).collect()
    }

    fn domain(&self, name: &str) -> String {
        let all = self.lab.domains(1).into_iter().map(|(domain, _)| domain);
        all.into_iter().find(|domain| domain.ends_with(&format!("-{name}"))).expect("a domain of that name")
    }

    /// As the host itself has them.
    fn kept(&self, name: &str) -> usize {
        let listed = self.lab.virsh(1, &["snapshot-list", &self.domain(name), "--name"]);
        listed.lines().filter(|line| !line.trim().is_empty()).count()
    }

    async fn guest_says(&self, name: &str, argv: &[&str], wanted: &str) {
        let what = format!("{name} to say {wanted:?} to {argv:?}");
        self.until(&what, async || (self.lab.in_guest(1, name, argv)? == wanted).then_some(())).await;
    }
}

const BOOT_ID: [&str; 2] = ["/bin/cat", "/proc/sys/kernel/random/boot_id"];
const MARK: [&str; 3] = ["/bin/sh", "-c", "cat /data/mark 2>/dev/null || echo none"];

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_goes_back_to_the_moment_of_its_snapshot_with_its_memory_and_its_disk() {
    let scene = Scene::set(1, |_, _| Vec::new()).await;
    scene.create("web", &["--disk", "data=16MiB"]).await;
    scene.answers("web").await;
    let boot = scene.lab.in_guest(1, "web", &BOOT_ID).expect("the guest's boot id");
    scene.guest_says("web", &["/bin/sh", "-c", "echo before > /data/mark; sync; cat /data/mark"], "before").await;
    assert!(scene.ok(&["vm", "snapshot", "web", "--name", "one"]).await.contains("RUNNING"));
    scene.guest_says("web", &["/bin/sh", "-c", "echo after > /data/mark; sync; cat /data/mark"], "after").await;
    let shown = scene.ok(&["vm", "snapshots", "web"]).await;
    assert!(shown.contains("one") && shown.contains("disks and memory"), "{shown}");

    assert!(scene.ok(&["vm", "revert", "web", "one"]).await.contains("RUNNING"));
    scene.guest_says("web", &MARK, "before").await;
    assert_eq!(scene.lab.in_guest(1, "web", &BOOT_ID).as_deref(), Some(boot.as_str()), "it booted anew");
    // A guest that was killed meanwhile comes back from it as well, without a boot.
    scene.ok(&["vm", "stop", "web", "--force"]).await;
    assert!(scene.ok(&["vm", "snapshot", "web", "--name", "off"]).await.contains("STOPPED"));
    assert!(scene.ok(&["vm", "revert", "web", "one"]).await.contains("RUNNING"));
    scene.guest_says("web", &BOOT_ID, &boot).await;
    assert!(scene.ok(&["vm", "revert", "web", "off"]).await.contains("STOPPED"));
    assert!(scene.ok(&["vm", "start", "web"]).await.contains("RUNNING"));
    scene.guest_says("web", &MARK, "before").await;
    assert_eq!(scene.lab.boots("web"), Some(2));

    scene.ok(&["vm", "snapshot-remove", "web", "one"]).await;
    assert_eq!((scene.snapshots("web").await, scene.kept("web")), (vec!["off".to_owned()], 1));
    let gone = scene.ok(&["vm", "remove", "web", "--force"]).await;
    assert!(gone.contains("REMOVED"), "{gone}");
    scene.nothing_left(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_whose_node_or_guest_is_killed_amid_it_ends_and_the_host_has_what_is_known() {
    let mut scene = Scene::set(1, |_, _| Vec::new()).await;
    scene.create("web", &[]).await;
    scene.answers("web").await;
    for (round, point) in ["vm.snapshot", "vm.snapshot.done"].into_iter().enumerate() {
        scene.ok(&["fault", "inject", point, "abort"]).await;
        let name = format!("s{round}");
        scene.run(&["vm", "snapshot", "web", "--name", &name, "--no-wait"]).await;
        scene.hive.wait();
        scene.hive.start_again().await;
        let ended = scene.ended("web", "snapshot", round).await;
        assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
        assert_eq!(scene.kept("web"), round + 1, "at {point}");
    }
    // The node dies while the hypervisor writes the memory, and its driver with it.
    scene.run(&["vm", "snapshot", "web", "--name", "s2", "--no-wait"]).await;
    scene.hive.kill();
    scene.hive.start_again().await;
    scene.ended("web", "snapshot", 2).await;
    assert_eq!(scene.snapshots("web").await.len(), scene.kept("web"));

    // The guest dies: whatever became of the snapshot, it is said, and the guest is started again.
    scene.run(&["vm", "snapshot", "web", "--name", "s3", "--no-wait"]).await;
    scene.lab.kill_qemu("web");
    scene.ended("web", "snapshot", 3).await;
    scene.status("web", "RUNNING").await;
    assert_eq!(scene.snapshots("web").await.len(), scene.kept("web"));

    scene.ok(&["fault", "inject", "vm.revert.done", "abort"]).await;
    scene.run(&["vm", "revert", "web", "s0", "--no-wait"]).await;
    scene.hive.wait();
    scene.hive.start_again().await;
    assert_eq!(scene.ended("web", "revert", 0).await["status"], "SUCCEEDED");
    scene.status("web", "RUNNING").await;
    scene.ok(&["vm", "remove", "web", "--force"]).await;
    scene.nothing_left(1).await;
}

/// What the console says until `wanted` has been said.
pub async fn console(scene: &Scene, args: &[&str], typed: &str, wanted: &str) -> String {
    let mut child = scene.hive.cli_piped(&[&["vm", "console"], args].concat());
    let mut out = child.stdout.take().unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let mut all = Vec::new();
    let reading = async {
        let mut piece = [0; 4096];
        keyboard.write_all(typed.as_bytes()).await.unwrap();
        keyboard.flush().await.unwrap();
        while !String::from_utf8_lossy(&all).contains(wanted) {
            let got = out.read(&mut piece).await.unwrap();
            assert!(got > 0, "the console ended: {}", String::from_utf8_lossy(&all));
            all.extend_from_slice(&piece[..got]);
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(120), reading).await;
    let _ = child.kill().await;
    let all = String::from_utf8_lossy(&all).into_owned();
    assert!(read.is_ok(), "the console never said {wanted:?}, but {all}");
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guests_console_is_recorded_from_its_boot_and_what_is_typed_there_is_run() {
    let mut scene = Scene::set(1, |_, _| Vec::new()).await;
    scene.create("web", &[]).await;
    // Nobody was at it when it booted.
    scene.answers("web").await;
    console(&scene, &["web", "--after-byte", "0"], "", "READY boots=1 name=web").await;
    let said = console(&scene, &["web"], "\necho from the console $((40 + 2))\n", "from the console 42").await;
    assert!(said.contains("echo from"), "{said}");

    // Another life of the node goes on with the recording, and the guest never notices.
    scene.hive.kill();
    scene.hive.start_again().await;
    scene.status("web", "RUNNING").await;
    let all = console(&scene, &["web", "--after-byte", "0"], "\necho again $((6 * 7))\n", "again 42").await;
    assert!(all.contains("READY boots=1 name=web") && all.contains("from the console 42"), "{all}");
    let bad = scene.run(&["vm", "console", "nobody"]).await;
    assert_eq!(bad.code, 3, "{}", bad.err);
    // After a stop it goes on with the next boot.
    scene.ok(&["vm", "stop", "web", "--force"]).await;
    scene.ok(&["vm", "start", "web"]).await;
    console(&scene, &["web", "--after-byte", "0"], "", "READY boots=2 name=web").await;
    scene.ok(&["vm", "remove", "web", "--force"]).await;
    scene.nothing_left(1).await;
}
