//! Chains of backups of real guests: what they weigh, what comes back of each, and what is made where a chain is lost.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::{
    lab::Scene,
    objects::{Objects, SECRET},
};

const FILES: [&str; 3] =
    ["/bin/sh", "-c", "cd /data; for f in A B C; do test -f $f && echo -n $f$(md5sum < $f | cut -c1-4); done; true"];

impl Scene {
    /// Writes a file of so many blocks of 64 KiB; what the guest has then.
    fn write(&self, name: &str, file: &str, blocks: u32) -> String {
        let line = format!("dd if=/dev/urandom of=/data/{file} bs=65536 count={blocks} 2>/dev/null; sync; echo done");
        assert_eq!(self.lab.in_guest(1, name, &["/bin/sh", "-c", &line]).as_deref(), Some("done"));
        self.files(name)
    }

    fn files(&self, name: &str) -> String {
        self.lab.in_guest(1, name, &FILES).unwrap_or_default()
    }

    /// The newest backup, and what was said of it.
    async fn back_up_as(&self, name: &str, to: &str, kind: &str) -> (Value, String) {
        let ran = self.run(&["vm", "backup", name, "--to", to, kind]).await;
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
        let all = self.json(&["vm", "backups", name]).await;
        (all.as_array().unwrap().last().unwrap().clone(), ran.err)
    }

    async fn restored(&self, from: &Value, name: &str) -> String {
        self.ok(&["vm", "restore", from["path"].as_str().unwrap(), "--as", name]).await;
        self.answers(name).await;
        let files = self.files(name);
        self.ok(&["vm", "remove", name, "--force"]).await;
        files
    }
}

fn qemu_img(args: &[&str]) {
    let ran = Command::new("qemu-img").args(args).output().unwrap();
    let said = || format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{args:?}: {}", said());
}

impl Scene {
    /// That the disk which a chain is put together to is the one that QEMU's own tools make of the same files.
    async fn is_what_qemu_says(&self, chain: &[&Value]) {
        let dir = tempfile::tempdir().unwrap();
        let mut below: Option<String> = None;
        for (at, backup) in chain.iter().enumerate() {
            let layer = dir.path().join(at.to_string()).display().to_string();
            std::fs::copy(Path::new(backup["path"].as_str().unwrap()).join("root.qcow2"), &layer).unwrap();
            if let Some(below) = &below {
                qemu_img(&["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", below, &layer]);
            }
            below = Some(layer);
        }
        let images = || -> Vec<_> { std::fs::read_dir(self.lab.images(1)).unwrap().map(|entry| entry.unwrap().path()).collect() };
        let disks = |name: &str| images().into_iter().filter(|path| path.to_str().unwrap().ends_with(name)).collect::<Vec<_>>();
        let before = disks("-root.qcow2");
        self.ok(&["vm", "restore", chain.last().unwrap()["path"].as_str().unwrap(), "--as", "compared", "--no-start"]).await;
        let new = disks("-root.qcow2").into_iter().find(|path| !before.contains(path)).unwrap();
        let backing = Command::new("qemu-img").args(["info", "--output", "json", new.to_str().unwrap()]).output().unwrap();
        let backing: Value = serde_json::from_slice(&backing.stdout).unwrap();
        let image = backing["backing-filename"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        let image = self.lab.images(1).join(image).display().to_string();
        qemu_img(&["check", &image]);
        qemu_img(&["compare", "-f", "qcow2", "-F", "qcow2", &image, &below.unwrap()]);
        self.ok(&["vm", "remove", "compared", "--force"]).await;
    }
}

fn bytes(backup: &Value) -> u64 {
    let bytes = &backup["bytes"];
    bytes.as_u64().or_else(|| bytes.as_str()?.parse().ok()).unwrap_or_else(|| panic!("{backup}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incremental_backup_has_what_was_written_and_comes_back_with_all_before_it_until_its_chain_is_lost() {
    let mut scene = Scene::set(1, |_, _| Vec::new()).await;
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().to_str().unwrap().to_owned();
    scene.create("web", &["--disk", "data=16MiB"]).await;
    scene.answers("web").await;
    let with_a = scene.write("web", "A", 8);
    let (full, said) = scene.back_up_as("web", &to, "--full").await;
    assert!(full["kind"] == "FULL" && said.contains("full"), "{full} {said}");
    let with_b = scene.write("web", "B", 4);
    let (first, said) = scene.back_up_as("web", &to, "--incremental").await;
    assert_eq!((&first["kind"], &first["basis"]), (&"INCREMENTAL".into(), &full["path"]), "{first} {said}");
    let with_c = scene.write("web", "C", 2);
    let (second, _) = scene.back_up_as("web", &to, "--incremental").await;
    eprintln!("bytes: full {}, then {} and {}", bytes(&full), bytes(&first), bytes(&second));
    assert!(bytes(&first) * 4 < bytes(&full) && bytes(&second) * 4 < bytes(&full), "{first} {second}");
    assert_eq!(second["basis"], first["path"]);

    // Each as it was then.
    assert!(with_a.len() < with_b.len() && with_b.len() < with_c.len(), "{with_a} {with_b} {with_c}");
    assert_eq!(scene.restored(&second, "last").await, with_c);
    assert_eq!(scene.restored(&first, "middle").await, with_b);
    assert_eq!(scene.restored(&full, "oldest").await, with_a);
    scene.is_what_qemu_says(&[&full, &first, &second]).await;
    let drilled = scene.ok(&["vm", "drill", second["path"].as_str().unwrap()]).await;
    assert!(drilled.contains("passed"), "{drilled}");
    let verified = scene.ok(&["vm", "backup-verify", second["path"].as_str().unwrap()]).await;
    assert!(verified.contains("true"), "{verified}");
    // One file of the middle is another: it is named, and nothing is made of it.
    let path = first["path"].as_str().unwrap();
    let file = Path::new(path).join("root.qcow2");
    let whole = std::fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &damaged).unwrap();
    let name = path.rsplit('/').next().unwrap();
    for args in [vec!["vm", "backup-verify"], vec!["vm", "restore", "--as", "bad"]] {
        let args: Vec<_> = args.into_iter().chain([second["path"].as_str().unwrap()]).collect();
        let ran = scene.run(&args).await;
        assert!(ran.code != 0 && ran.err.contains(name) && ran.err.contains("damaged"), "{args:?}: {}{}", ran.out, ran.err);
    }
    scene.ok(&["vm", "remove", "bad"]).await;
    std::fs::write(&file, &whole).unwrap();

    // Off and on again by itself the marks are still there: QEMU wrote them down.
    scene.ok(&["vm", "stop", "web"]).await;
    scene.ok(&["vm", "start", "web"]).await;
    scene.answers("web").await;
    let (third, said) = scene.back_up_as("web", &to, "--incremental").await;
    assert_eq!(third["kind"], "INCREMENTAL", "{third} {said}");
    // The node dies amid one, before and after the copy.
    for point in ["vm.backup", "vm.backup.done"] {
        scene.ok(&["fault", "inject", point, "abort"]).await;
        scene.run(&["vm", "backup", "web", "--to", &to, "--incremental", "--no-wait"]).await;
        scene.hive.wait();
        scene.hive.start_again().await;
        scene
            .until("the end of the backup", async || {
                let vm = scene.vm("web").await;
                let last = vm["operations"].as_array()?.iter().rev().find(|one| one["kind"] == "backup")?.clone();
                (last["status"] == "SUCCEEDED").then_some(())
            })
            .await;
        let all = scene.json(&["vm", "backups", "web"]).await;
        let last = all.as_array().unwrap().last().unwrap().clone();
        assert_eq!(last["kind"], "INCREMENTAL", "at {point}: {last}");
    }
    let all = scene.json(&["vm", "backups", "web"]).await;
    assert_eq!(scene.restored(all.as_array().unwrap().last().unwrap(), "after").await, with_c);
    // Snapshots come back although there are checkpoints, and the chain ends there.
    scene.ok(&["vm", "snapshot", "web", "--name", "here"]).await;
    scene.ok(&["vm", "revert", "web", "here"]).await;
    scene.ok(&["vm", "snapshot-remove", "web", "here"]).await;
    let (reverted, said) = scene.back_up_as("web", &to, "--incremental").await;
    assert!(reverted["kind"] == "FULL" && said.contains("reverted"), "{reverted} {said}");
    // QEMU is killed: what was written since is not known.
    scene.back_up_as("web", &to, "--incremental").await;
    let boots = scene.lab.boots("web");
    scene.lab.kill_qemu("web");
    scene.until("it to be started again", async || (scene.lab.boots("web")? > boots?).then_some(())).await;
    scene.answers("web").await;
    let (killed, said) = scene.back_up_as("web", &to, "--incremental").await;
    assert!(killed["kind"] == "FULL" && said.contains("not known"), "{killed} {said}");
    eprintln!("after a kill: {said}");
    let (next, _) = scene.back_up_as("web", &to, "--incremental").await;
    assert_eq!(next["basis"], killed["path"]);
    let domain = &scene.lab.domains(1)[0].0;
    let marks = scene.lab.virsh(1, &["checkpoint-list", domain, "--name"]);
    assert!(marks.lines().filter(|name| !name.trim().is_empty()).count() <= 4, "{marks}");

    // Ended while it is made: nothing of it is left.
    scene.write("web", "D", 64);
    let before = std::fs::read_dir(dir.path()).unwrap().count();
    scene.ok(&["fault", "inject", "vm.backup", "delay", "--delay", "2s"]).await;
    scene.run(&["vm", "backup", "web", "--to", &to, "--incremental", "--no-wait"]).await;
    scene.ok(&["vm", "backup", "web", "--cancel"]).await;
    scene
        .until("the end of the one that was cancelled", async || {
            let vm = scene.vm("web").await;
            let last = vm["operations"].as_array()?.iter().rev().find(|one| one["kind"] == "backup")?.clone();
            (last["status"] == "FAILED").then_some(())
        })
        .await;
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), before);
    scene.ok(&["vm", "remove", "web", "--force"]).await;
    scene.nothing_left(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_in_an_object_store_come_back_and_nobody_reads_its_secret() {
    let objects = Objects::start().await;
    let scene = Scene::set_with(objects.setup(), 1, |_, _| Vec::new()).await;
    let to = "s3://kept/lab";
    scene.create("web", &[]).await;
    scene.answers("web").await;
    let with_a = scene.write("web", "A", 8);
    let (full, _) = scene.back_up_as("web", to, "--full").await;
    let with_b = scene.write("web", "B", 4);
    let (next, _) = scene.back_up_as("web", to, "--incremental").await;
    eprintln!("bytes in the object store: full {}, then {}", bytes(&full), bytes(&next));
    assert_eq!((&next["kind"], bytes(&next) * 4 < bytes(&full)), (&"INCREMENTAL".into(), true), "{next}");
    assert_eq!(scene.restored(&full, "one").await, with_a);
    assert_eq!(scene.restored(&next, "two").await, with_b);
    let path = next["path"].as_str().unwrap();
    let drilled = scene.ok(&["vm", "drill", path]).await;
    assert!(drilled.contains("passed"), "{drilled}");
    let listed = scene.ok(&["vm", "backups", "--in", to]).await;
    assert!(listed.contains("incremental") && listed.contains("passed"), "{listed}");
    let nowhere = scene.run(&["vm", "backup", "web", "--to", "s3://nothing-of-ours/x"]).await;
    assert!(nowhere.code != 0, "{}", nowhere.out);
    let name = full["path"].as_str().unwrap().rsplit('/').next().unwrap();
    std::fs::remove_file(objects.bucket().join("lab").join(name).join("root.qcow2")).unwrap();
    let damaged = scene.ok(&["vm", "backups", "--in", to]).await;
    assert!(damaged.contains("damaged") && damaged.contains(name), "{damaged}");
    let refused = scene.run(&["vm", "restore", path, "--as", "three"]).await;
    assert!(refused.code != 0 && refused.err.contains(name), "{}", refused.err);
    let said = format!("{}{}{}{}", nowhere.err, refused.err, damaged, scene.hive.log_tail());
    assert!(!said.contains(SECRET), "{said}");
    scene.ok(&["vm", "remove", "three"]).await;
    scene.ok(&["vm", "remove", "web", "--force"]).await;
    scene.nothing_left(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_moves_although_it_has_checkpoints_and_its_next_backup_is_a_full_one_there() {
    let scene = Scene::set(2, |lab, _| vec!["--pool".into(), lab.shared(), "--pool-shared".into()]).await;
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().to_str().unwrap().to_owned();
    scene.create("web", &["--on", "h1"]).await;
    scene.answers("web").await;
    scene.back_up_as("web", &to, "--full").await;
    scene.back_up_as("web", &to, "--incremental").await;
    scene.ok(&["vm", "migrate", "web", "--to", "h2"]).await;
    assert_eq!(scene.lab.domains(2).len(), 1);
    let (there, said) = scene.back_up_as("web", &to, "--incremental").await;
    assert!(there["kind"] == "FULL" && said.contains("another host"), "{there} {said}");
    // What marked its disks on the other host is gone with it: only what is made here marks them.
    let domain = &scene.lab.domains(2)[0].0;
    let nodes = scene.lab.virsh(2, &["qemu-monitor-command", domain, r#"{"execute":"query-named-block-nodes"}"#]);
    let nodes: Value = serde_json::from_str(&nodes).unwrap();
    let marks = |node: &Value| node["dirty-bitmaps"].as_array().map_or(0, Vec::len);
    let most = nodes["return"].as_array().unwrap().iter().map(marks).max();
    assert_eq!(most, Some(1), "{nodes}");
    let (next, _) = scene.back_up_as("web", &to, "--incremental").await;
    assert_eq!(next["basis"], there["path"]);
    scene.ok(&["vm", "migrate", "web", "--to", "h1"]).await;
    let (back, said) = scene.back_up_as("web", &to, "--incremental").await;
    assert!(back["kind"] == "FULL", "{back} {said}");
    scene.ok(&["vm", "remove", "web", "--force"]).await;
    scene.nothing_left(2).await;
}
