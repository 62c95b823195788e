//! Chains of backups on one node: what is restored of them, when a full one is made instead, and what is kept.

use std::collections::BTreeMap;

use hiveward_machines::vm::backup::Backup;

use super::*;

fn last(record: &VmRecord) -> Backup {
    record.state.backups.back().unwrap().clone()
}

impl Here {
    /// Made to its end, whatever it came to.
    async fn backed_up(&self, vm: VmId, to: &str, incremental: bool) -> VmRecord {
        self.control().backup_vm(op(), vm, to.to_owned(), incremental).await.unwrap();
        support::until("the end of a backup", || idle(&self.control(), vm)).await
    }

    /// What the disk of a VM holds that is made of that backup.
    async fn restored(&self, from: &str, name: &str) -> BTreeMap<u64, u64> {
        let new = Restore { from: from.into(), name: name.into(), host: None, start: false };
        let made = self.control().restore_vm(op(), new).await.unwrap().value;
        support::until("a VM of a backup", || idle(&self.control(), made.spec.id)).await;
        let content = self.hypervisor.content(made.spec.id, "root");
        self.control().remove_vm(op(), made.spec.id, true).await.unwrap();
        content
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_of_backups_comes_back_as_the_disk_was_at_each_of_them_and_says_which_file_is_damaged() {
    let mut here = Here::start().await;
    let (vm, dir) = (here.vm("web").await, tempfile::tempdir().unwrap());
    let to = dir.path().to_str().unwrap().to_owned();
    let mut was = Vec::new();
    let mut wrote = BTreeMap::new();
    // The first is a full one and says why; the others go through whatever breaks them off.
    for (at, point) in
        [(1, None), (2, Some("vm.backup.done")), (3, Some("driver.backup.done")), (1, None)].into_iter().enumerate()
    {
        let (block, point) = point;
        here.hypervisor.write(vm, "root", block, at as u64 + 10);
        wrote.insert(block, at as u64 + 10);
        if let Some(point) = point {
            arm(point, vm, if point.starts_with("vm.") { Fault::Panic } else { error() });
        }
        let backup = last(&here.backed_up(vm, &to, true).await);
        if let Some(point) = point {
            assert!(struck(point), "{point}");
            fault::disarm(point);
        }
        assert_eq!((backup.depth as usize, backup.basis.is_some()), (at, at > 0), "{backup:?}");
        assert_eq!(backup.whole_because.is_some(), at == 0, "{backup:?}");
        was.push((backup.path, wrote.clone()));
    }
    assert!(here.hypervisor.checkpoints(vm) <= 4);
    for (at, (path, then)) in was.iter().enumerate() {
        assert_eq!(&here.restored(path, &format!("back{at}")).await, then, "{path}");
        let check = here.control().check_backup(&op(), path).await.unwrap().unwrap();
        assert_eq!((check.damage, check.bytes > 0), (Vec::new(), true));
    }
    assert!(!here.dir.path().join("restores").read_dir().is_ok_and(|mut left| left.next().is_some()), "what was made is left");
    // The node dies amid one, and the next life goes on with the same.
    here.hypervisor.write(vm, "root", 4, 44);
    wrote.insert(4, 44);
    arm("driver.backup.done", vm, Fault::Hang);
    here.control().backup_vm(short(), vm, to.clone(), true).await.unwrap();
    support::until("the step", || struck("driver.backup.done").then_some(())).await;
    here.restart().await;
    fault::disarm("driver.backup.done");
    let record = support::until("its end", || idle(&here.control(), vm)).await;
    assert_eq!(last(&record).depth, 4, "{record:?}");
    assert_eq!(here.restored(&last(&record).path, "on").await, wrote);

    // A file of the middle is another: all that is based on it is refused, with its name.
    let control = here.control();
    let (middle, newest) = (was[1].0.clone(), was[3].0.clone());
    let file = std::path::Path::new(&middle).join("root.simulated");
    let whole = std::fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &damaged).unwrap();
    let name = middle.rsplit('/').next().unwrap();
    let check = control.check_backup(&op(), &newest).await.unwrap().unwrap();
    assert!(check.damage.len() == 1 && check.damage[0].contains(name), "{check:?}");
    let new = |from: &str| Restore { from: from.into(), name: "bad".into(), host: None, start: true };
    let refused = control.restore_vm(op(), new(&newest)).await.unwrap_err();
    assert!(refused.message.contains(name) && refused.message.contains("damaged"), "{refused:?}");
    std::fs::write(&file, &whole).unwrap();
    std::fs::remove_file(std::path::Path::new(&middle).join("manifest.json")).unwrap();
    let missing = control.restore_vm(op(), Restore { name: "bad2".into(), ..new(&newest) }).await.unwrap_err();
    assert!(missing.code == Code::NotFound && missing.message.contains(name), "{missing:?}");
    let listed = control.backups_in(&to).await.unwrap();
    let of = |path: &str| listed.iter().find(|one| one.path == path).map(|one| one.manifest.clone());
    assert!(of(&middle).is_none() && of(&was[0].0).unwrap().is_ok());
    assert!(of(&newest).unwrap().unwrap_err().contains(name));
    // The next one is not based on what is not there.
    let record = here.backed_up(vm, &to, true).await;
    assert!(last(&record).whole_because.unwrap().contains("not whole"), "{record:?}");
    control.remove_vm(op(), vm, true).await.unwrap();
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_what_was_written_is_not_known_a_full_backup_is_made_and_says_why() {
    let here = Here::start().await;
    let (vm, dir) = (here.vm("web").await, tempfile::tempdir().unwrap());
    let to = dir.path().to_str().unwrap().to_owned();
    let control = here.control();
    here.backed_up(vm, &to, false).await;
    let expect = async |why: Option<&str>, what: &str| {
        here.hypervisor.write(vm, "root", 7, fastrand::u64(..));
        let record = here.backed_up(vm, &to, true).await;
        let backup = last(&record);
        assert_eq!(backup.basis.is_none(), why.is_some(), "{what}: {backup:?}");
        let said = backup.whole_because.clone().unwrap_or_default();
        assert!(why.is_none_or(|why| said.contains(why)), "{what}: {said}");
        let content = here.hypervisor.content(vm, "root");
        let name = format!("r{}", backup.number);
        assert_eq!(here.restored(&backup.path, &name).await, content, "{what}");
    };
    expect(None, "after a full one").await;
    // Its QEMU is killed, and it is started again.
    here.hypervisor.lose_power(here.host, vm);
    support::until("it to be started again", || {
        idle(&control, vm).filter(|record| record.status == VmStatus::Running && here.hypervisor.boots(vm) > 1)
    })
    .await;
    expect(Some("no checkpoint of its last backup any more"), "a kill").await;
    expect(None, "after that").await;
    control.snapshot_vm(op(), vm, "s".into()).await.unwrap();
    control.revert_vm(op(), vm, "s".into()).await.unwrap();
    support::until("the revert", || idle(&control, vm)).await;
    expect(Some("reverted"), "a revert").await;
    control.stop_vm(op(), vm, true, None).await.unwrap();
    support::until("it to be off", || idle(&control, vm).filter(|record| record.status == VmStatus::Stopped)).await;
    expect(Some("it is off"), "one that is off").await;
    control.start_vm(op(), vm).await.unwrap();
    support::until("it to run", || idle(&control, vm).filter(|record| record.status == VmStatus::Running)).await;
    // What was marked before it was off is still known.
    expect(None, "a start").await;
    // What another place has is no basis.
    let other = tempfile::tempdir().unwrap();
    let record = here.backed_up(vm, other.path().to_str().unwrap(), true).await;
    assert!(last(&record).whole_because.unwrap().contains("no earlier backup"));
    expect(None, "beside another place").await;
    assert!(here.hypervisor.checkpoints(vm) <= 4);
    control.remove_vm(op(), vm, true).await.unwrap();
    here.nothing_left().await;
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_cancelled_leaves_nothing_and_its_vm_runs_on() {
    let here = Here::start().await;
    let (vm, dir) = (here.vm("web").await, tempfile::tempdir().unwrap());
    let to = dir.path().to_str().unwrap().to_owned();
    let control = here.control();
    here.backed_up(vm, &to, true).await;
    for point in ["driver.backup", "driver.backup.done"] {
        arm(point, vm, Fault::Delay(Duration::from_secs(1)));
        control.backup_vm(short(), vm, to.clone(), true).await.unwrap();
        support::until("the step", || struck(point).then_some(())).await;
        control.cancel_vm_migration(op(), vm).await.unwrap();
        let record = support::until("its end", || idle(&control, vm)).await;
        let ended = record.state.operations.back().unwrap().ended.clone();
        assert!(matches!(&ended, Some((_, Outcome::Failed { message })) if message.contains("cancelled")), "{ended:?}");
        assert_eq!((record.status, kept(dir.path())), (VmStatus::Running, (1, Vec::new())), "{point}");
        fault::disarm(point);
    }
    // The next is of what was written since the one that is whole.
    here.hypervisor.write(vm, "root", 1, 5);
    let record = here.backed_up(vm, &to, true).await;
    assert_eq!(last(&record).depth, 1);
    assert_eq!(here.restored(&last(&record).path, "again").await, BTreeMap::from([(1, 5)]));
    control.remove_vm(op(), vm, true).await.unwrap();
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_backups_that_a_kept_one_is_based_on_are_kept_with_it() {
    const DAY_MS: i64 = 86_400_000;
    let mut here = Here::start().await;
    let clock = Arc::new(AtomicI64::new(WallMs::now().0));
    here.by_clock(&clock).await;
    let (vm, dir) = (here.vm("web").await, tempfile::tempdir().unwrap());
    let to = || dir.path().to_str().unwrap().to_owned();
    let daily = || Some(NewSchedule { cron: "0 3 * * *".into(), to: to(), keep: 2, full_every: 3 });
    let control = here.control();
    control.schedule_vm_backups(op(), vm, daily()).await.unwrap();
    let made = |record: &VmRecord| record.state.operations.iter().filter(|past| &*past.principal == "hiveward").count();
    for (day, (depth, left)) in [(0, 1), (1, 2), (2, 3), (0, 4), (1, 2), (2, 3)].into_iter().enumerate() {
        here.hypervisor.write(vm, "root", day as u64, 1);
        let before = made(&control.vm(vm).unwrap().unwrap());
        clock.fetch_add(DAY_MS, Ordering::Relaxed);
        control.schedule_vm_backups(op(), vm, daily()).await.unwrap();
        let record = support::until("the day's backup", || {
            idle(&control, vm).filter(|record| made(record) > before && record.state.backups.len() == left)
        })
        .await;
        assert_eq!((last(&record).depth, last(&record).whole_because), (depth, None), "day {day}");
        support::until("old ones to be gone", || (kept(dir.path()) == (left, Vec::new())).then_some(())).await;
        for backup in &record.state.backups {
            assert_eq!(
                control.check_backup(&op(), &backup.path).await.unwrap().unwrap().damage,
                Vec::<String>::new(),
                "day {day}"
            );
        }
        let content = here.hypervisor.content(vm, "root");
        assert_eq!(here.restored(&last(&record).path, &format!("day{day}")).await, content, "day {day}");
    }
    control.remove_vm(op(), vm, true).await.unwrap();
    here.stop().await;
}
