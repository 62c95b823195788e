//! Backups of real guests, VMs that are made of them, and what is left when something dies amid one.

use std::path::Path;

use serde_json::Value;

use crate::lab::Scene;

const MARK: [&str; 3] = ["/bin/sh", "-c", "cat /data/mark 2>/dev/null || echo none"];

impl Scene {
    async fn back_up(&self, name: &str, to: &Path) -> String {
        self.ok(&["vm", "backup", name, "--to", to.to_str().unwrap()]).await;
        let all = self.json(&["vm", "backups", name]).await;
        all.as_array().unwrap().last().unwrap()["path"].as_str().unwrap().to_owned()
    }

    async fn end_of_backup(&self, name: &str, before: usize) -> Value {
        self.until("the end of the backup", async || {
            let vm = self.vm(name).await;
            let all: Vec<_> = vm["operations"].as_array()?.iter().filter(|one| one["kind"] == "backup").cloned().collect();
            all.get(before).filter(|one| one["status"] != "RUNNING").cloned()
        })
        .await
    }

    /// Whole backups, and what else there is.
    fn in_store(&self, dir: &Path) -> (usize, Vec<String>) {
        let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let (odd, whole): (Vec<_>, Vec<_>) = names.partition(|name| name.starts_with('.'));
        let scratch = self.lab.disks().into_iter().filter(|path| path.contains("-backup-"));
        (whole.len(), odd.into_iter().chain(scratch).collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_guest_comes_back_as_another_vm_and_its_drill_says_so() {
    let scene = Scene::set(1, |_, _| Vec::new()).await;
    let dir = tempfile::tempdir().unwrap();
    scene.create("web", &["--disk", "data=16MiB"]).await;
    scene.answers("web").await;
    let marked = ["/bin/sh", "-c", "echo kept > /data/mark; sync; cat /data/mark"];
    assert_eq!(scene.lab.in_guest(1, "web", &marked).as_deref(), Some("kept"));
    let qemus = scene.lab.qemus();
    let path = scene.back_up("web", dir.path()).await;
    assert_eq!(scene.lab.qemus(), qemus, "the guest runs on");
    assert_eq!(scene.in_store(dir.path()), (1, Vec::new()));

    // It boots by itself, without a network, and nothing of that is left.
    let drilled = scene.ok(&["vm", "drill", &path]).await;
    assert!(drilled.contains("passed"), "{drilled}");
    let listed = scene.ok(&["vm", "backups", "--in", dir.path().to_str().unwrap()]).await;
    assert!(listed.contains("web") && listed.contains("passed"), "{listed}");
    scene.until("the VM of the drill to be gone", async || (scene.lab.domains(1).len() == 1).then_some(())).await;

    scene.ok(&["vm", "restore", &path, "--as", "again"]).await;
    scene.answers("again").await;
    assert_eq!(scene.lab.in_guest(1, "again", &MARK).as_deref(), Some("kept"));
    // What is done in one is not done in the other.
    let other = ["/bin/sh", "-c", "echo other > /data/mark; sync; cat /data/mark"];
    assert_eq!(scene.lab.in_guest(1, "again", &other).as_deref(), Some("other"));
    assert_eq!(scene.lab.in_guest(1, "web", &MARK).as_deref(), Some("kept"));

    // One that is off as well; and a copy that is not what was written is refused.
    scene.ok(&["vm", "stop", "again", "--force"]).await;
    let off = scene.back_up("again", dir.path()).await;
    let root = Path::new(&off).join("root.qcow2");
    let mut bytes = std::fs::read(&root).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&root, &bytes).unwrap();
    let damaged = scene.run(&["vm", "restore", &off, "--as", "third"]).await;
    assert!(damaged.code != 0 && damaged.err.contains("damaged"), "{}{}", damaged.out, damaged.err);
    bytes[middle] ^= 1;
    std::fs::write(&root, &bytes).unwrap();
    scene.ok(&["vm", "remove", "third"]).await;
    scene.ok(&["vm", "restore", &off, "--as", "third"]).await;
    scene.answers("third").await;
    assert_eq!(scene.lab.in_guest(1, "third", &MARK).as_deref(), Some("other"));
    for name in ["web", "again", "third"] {
        scene.ok(&["vm", "remove", name, "--force"]).await;
    }
    assert_eq!(scene.in_store(dir.path()), (2, Vec::new()), "backups outlive their VMs");
    scene.nothing_left(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_node_or_guest_is_killed_amid_it_ends_and_leaves_nothing_that_is_not_whole() {
    let mut scene = Scene::set(1, |_, _| Vec::new()).await;
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().to_str().unwrap().to_owned();
    scene.create("web", &[]).await;
    scene.answers("web").await;
    let mut whole = 0;
    for (round, point) in ["vm.backup", "vm.backup.done"].into_iter().enumerate() {
        scene.ok(&["fault", "inject", point, "abort"]).await;
        scene.run(&["vm", "backup", "web", "--to", &to, "--no-wait"]).await;
        scene.hive.wait();
        scene.hive.start_again().await;
        let ended = scene.end_of_backup("web", round).await;
        assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
        whole += 1;
        assert_eq!(scene.in_store(dir.path()), (whole, Vec::new()), "at {point}");
    }
    // The node dies while the hypervisor copies, and its driver with it: the next life begins anew.
    scene.run(&["vm", "backup", "web", "--to", &to, "--no-wait"]).await;
    scene.hive.kill();
    scene.hive.start_again().await;
    assert_eq!(scene.end_of_backup("web", 2).await["status"], "SUCCEEDED");
    whole += 1;
    assert_eq!(scene.in_store(dir.path()), (whole, Vec::new()));
    // The guest dies: it is started again, and whatever the backup came to is whole or gone.
    scene.run(&["vm", "backup", "web", "--to", &to, "--no-wait"]).await;
    scene.lab.kill_qemu("web");
    let ended = scene.end_of_backup("web", 3).await;
    whole += usize::from(ended["status"] == "SUCCEEDED");
    assert_eq!(scene.in_store(dir.path()), (whole, Vec::new()), "{ended}");
    scene.status("web", "RUNNING").await;
    // Where there is no directory nothing is made, and that is said.
    let nowhere = scene.run(&["vm", "backup", "web", "--to", "/nowhere/at/all"]).await;
    assert!(nowhere.code != 0 && nowhere.err.contains("written"), "{}", nowhere.err);
    scene.ok(&["vm", "remove", "web", "--force"]).await;
    scene.nothing_left(1).await;
}
