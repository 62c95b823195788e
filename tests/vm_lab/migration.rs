//! Live migration between two real hosts: the guest's own counter goes on, a cancelled one stays, and never two run.

use std::{
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::lab::{Lab, Scene};

/// What a guest says of itself fifty times a second: who it is since when, a number that only grows, its own clock.
#[derive(Clone, Debug)]
struct Beat {
    name: String,
    boot: String,
    number: u64,
    uptime_ms: u64,
    heard: Instant,
}

/// Hears what guests say.
struct Ear {
    beats: Arc<Mutex<Vec<Beat>>>,
    over: Arc<AtomicBool>,
}

impl Ear {
    fn open(lab: &Lab) -> Self {
        let listener = TcpListener::bind((lab.address().as_str(), 7999)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let ear = Self { beats: Arc::default(), over: Arc::default() };
        let (beats, over) = (ear.beats.clone(), ear.over.clone());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (beats, over) = (beats.clone(), over.clone());
                        std::thread::spawn(move || hear(stream, &beats, &over));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(20)),
                }
            }
        });
        ear
    }

    fn of(&self, name: &str) -> Vec<Beat> {
        self.beats.lock().unwrap().iter().filter(|beat| beat.name == name).cloned().collect()
    }

    /// Forgets what was said so far and waits until the guest has said much more.
    async fn fresh(&self, scene: &Scene, name: &str) {
        self.beats.lock().unwrap().clear();
        scene.until("the guest to count", async || (self.of(name).len() > 50).then_some(())).await;
    }
}

fn hear(stream: TcpStream, beats: &Mutex<Vec<Beat>>, over: &AtomicBool) {
    stream.set_nonblocking(false).unwrap();
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let words: Vec<_> = line.split(' ').collect();
        let [name, boot, number, uptime] = words[..] else { continue };
        let (Ok(number), Ok(uptime)) = (number.parse(), uptime.parse::<f64>()) else { continue };
        let (uptime_ms, heard) = ((uptime * 1e3) as u64, Instant::now());
        beats.lock().unwrap().push(Beat { name: name.into(), boot: boot.into(), number, uptime_ms, heard });
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// One guest, never started anew, that never said a number twice; the longest silence.
fn unbroken(beats: &[Beat], what: &str) -> Duration {
    assert!(beats.len() > 100, "{what}: {} beats", beats.len());
    let mut longest = Duration::ZERO;
    for pair in beats.windows(2) {
        assert_eq!(pair[0].boot, pair[1].boot, "{what}: the guest was started anew");
        assert!(pair[1].number > pair[0].number, "{what}: {} after {}: two of it run", pair[1].number, pair[0].number);
        assert!(pair[1].uptime_ms >= pair[0].uptime_ms, "{what}: its clock went back");
        longest = longest.max(pair[1].heard - pair[0].heard);
    }
    longest
}

fn running(scene: &Scene, hosts: usize) -> Vec<(usize, String)> {
    let all = (1..=hosts).flat_map(|host| scene.lab.domains(host).into_iter().map(move |domain| (host, domain)));
    all.filter(|(_, (_, state))| state == "running").map(|(host, (name, _))| (host, name)).collect()
}

fn shared(lab: &Lab, host: usize) -> Vec<String> {
    let _ = host;
    vec!["--pool".into(), lab.shared(), "--pool-shared".into()]
}

/// Of its last operation: for how many milliseconds it stood still, which is shown however it went.
fn downtime(vm: &Value) -> u64 {
    let last = vm["operations"].as_array().unwrap().last().unwrap();
    last["measured"]["downtimeMs"].as_u64().unwrap_or_else(|| panic!("nothing was measured of {last}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_moves_between_hosts_while_it_runs_and_a_cancelled_move_leaves_it_where_it_was() {
    let scene = Scene::set(2, shared).await;
    let ear = Ear::open(&scene.lab);
    scene.create("web", &["--on", "h1"]).await;
    scene.answers("web").await;
    ear.fresh(&scene, "web").await;

    // As a user does it.
    let begun = Instant::now();
    let said = scene.run(&["vm", "migrate", "web", "--to", "h2"]).await;
    let ours_total = begun.elapsed();
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert_eq!(running(&scene, 2).iter().map(|(host, _)| *host).collect::<Vec<_>>(), [2]);
    let vm = scene.vm("web").await;
    assert_eq!((&vm["host"]["name"], &vm["status"]), (&"h2".into(), &"RUNNING".into()));
    assert_eq!(scene.lab.domains(1), Vec::new(), "something is left where it was");
    let ours = downtime(&vm);
    scene.until("it to count on", async || (ear.of("web").len() > 200).then_some(())).await;
    let ours_silence = unbroken(&ear.of("web"), "our migration");

    // Cancelled half-way: slow enough to be caught.
    ear.fresh(&scene, "web").await;
    scene.ok(&["vm", "migrate", "web", "--to", "h1", "--bandwidth", "2", "--no-wait"]).await;
    scene
        .until("it to be on its way", async || {
            (scene.lab.virsh(2, &["domjobinfo", &scene.lab.domains(2)[0].0]).contains("Unbounded")).then_some(())
        })
        .await;
    assert_eq!(scene.vm("web").await["status"], "MIGRATING");
    let stop = scene.run(&["vm", "stop", "web"]).await;
    assert!(stop.code == 5 && stop.err.contains("migrate is under way"), "{}{}", stop.out, stop.err);
    let cancelled = scene.run(&["vm", "migrate", "web", "--cancel"]).await;
    assert_eq!(cancelled.code, 0, "{}{}", cancelled.out, cancelled.err);
    let vm = scene.vm("web").await;
    assert_eq!((&vm["host"]["name"], &vm["status"]), (&"h2".into(), &"RUNNING".into()), "{vm}");
    assert_eq!(running(&scene, 2).iter().map(|(host, _)| *host).collect::<Vec<_>>(), [2]);
    assert_eq!(scene.lab.domains(1), Vec::new());
    let back = scene.json(&["host", "show", "h1"]).await;
    assert_eq!(back["reserved"]["cpus"], 0, "room is still reserved: {back}");
    scene.until("it to count on", async || (ear.of("web").len() > 200).then_some(())).await;
    unbroken(&ear.of("web"), "a cancelled migration");

    // Beyond its limit it is ended.
    let late = scene.run(&["vm", "migrate", "web", "--to", "h1", "--bandwidth", "1", "--limit", "2s"]).await;
    assert!(late.code != 0 && late.err.contains("within its limit"), "{}{}", late.out, late.err);
    assert_eq!(scene.vm("web").await["host"]["name"], "h2");
    // Or frozen until it is there.
    scene.ok(&["vm", "migrate", "web", "--to", "h1", "--bandwidth", "12", "--limit", "7s", "--at-limit", "pause"]).await;
    assert_eq!(running(&scene, 2).iter().map(|(host, _)| *host).collect::<Vec<_>>(), [1]);

    // The same by libvirt's own tool, with a guest of its own, in the same run.
    scene.create("other", &["--on", "h1"]).await;
    scene.answers("other").await;
    ear.fresh(&scene, "other").await;
    let domain = scene.lab.domains(1).into_iter().find(|(name, _)| name.ends_with("-other")).unwrap().0;
    let begun = Instant::now();
    let moved = scene.lab.virsh(1, &["migrate", &domain, "--live", "--unsafe", "--persistent", &scene.lab.uri(2)]);
    let virsh_total = begun.elapsed();
    let theirs = scene.lab.virsh(2, &["domjobinfo", &domain, "--completed"]);
    scene.until("it to count on", async || (ear.of("other").len() > 200).then_some(())).await;
    let virsh_silence = unbroken(&ear.of("other"), "virsh migrate");
    let downtime = theirs.lines().find(|line| line.contains("Total downtime")).unwrap_or(&moved).trim();
    eprintln!(
        "live migration of a 128 MiB guest, shared disk, no KVM\n  hiveward: {ours_total:.2?} in all, QEMU's downtime {ours} ms, \
         longest silence of the guest's counter {ours_silence:.0?}\n  virsh:    {virsh_total:.2?} in all, QEMU's {downtime}, \
         longest silence {virsh_silence:.0?}"
    );
    // An operator who moves one away on the host is believed: it is not started here a second time, and what says here that
    // it was moved goes.
    scene
        .until("what virsh did to be seen", async || {
            let vm = scene.vm("other").await;
            (vm["host"]["name"] == "h2" && vm["status"] == "RUNNING").then_some(())
        })
        .await;
    assert_eq!(running(&scene, 2).iter().filter(|(_, name)| name.ends_with("-other")).count(), 1);
    let left = || scene.lab.domains(1).into_iter().filter(|(name, _)| name.ends_with("-other")).count();
    scene.until("what is left of it to go", async || (left() == 0).then_some(())).await;
    assert!(scene.lab.in_guest(2, "other", &["/bin/cat", "/data/boots"]).is_some(), "its disk went with that");
    scene.ok(&["vm", "remove", "web", "other", "--force"]).await;
    scene.nothing_left(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_that_are_not_shared_are_copied_and_the_hosts_can_do_it_between_themselves() {
    let scene = Scene::set(2, |lab, host| vec!["--peer-uri".into(), lab.peer(host)]).await;
    scene.create("web", &["--on", "h1", "--disk", "data=8MiB"]).await;
    scene.answers("web").await;
    scene.lab.in_guest(1, "web", &["/bin/sh", "-c", "echo kept > /data/word; sync"]).unwrap();
    scene.ok(&["vm", "migrate", "web"]).await;
    let vm = scene.vm("web").await;
    assert_eq!(vm["host"]["name"], "h2");
    eprintln!("between the hosts themselves, with its disks: QEMU's downtime {} ms", downtime(&vm));
    assert_eq!(scene.lab.in_guest(2, "web", &["/bin/cat", "/data/word"]).as_deref(), Some("kept"));
    assert!(scene.lab.disks().iter().all(|path| path.contains("/2/")), "disks are left: {:?}", scene.lab.disks());
    // What was written is on the other host's disk, not only in the guest's memory.
    scene.ok(&["vm", "stop", "web"]).await;
    scene.ok(&["vm", "start", "web"]).await;
    scene.answers("web").await;
    assert_eq!(scene.lab.in_guest(2, "web", &["/bin/cat", "/data/word"]).as_deref(), Some("kept"));
    scene.ok(&["vm", "remove", "web", "--force"]).await;
    scene.nothing_left(2).await;
}

/// Writes over a part of the guest's memory again and again, faster than it is sent.
const WRITES: &str = "mkdir -p /tmp/m; mount -t tmpfs -o size=32m none /tmp/m; (while :; do dd if=/dev/urandom of=/tmp/m/a bs=1M \
                      count=1 2>/dev/null; for n in $(seq 20); do cat /tmp/m/a; done > /tmp/m/b; done) > /dev/null 2>&1 < /dev/null &";

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_writes_faster_than_it_is_copied_is_slowed_and_arrives_or_stays_where_it_was() {
    let scene = Scene::set(2, shared).await;
    scene.create("web", &["--on", "h1"]).await;
    scene.answers("web").await;
    let boot_id = ["/bin/cat", "/proc/sys/kernel/random/boot_id"];
    let boot = scene.lab.in_guest(1, "web", &boot_id).expect("the guest's boot id");
    scene.lab.in_guest(1, "web", &["/bin/sh", "-c", WRITES]).expect("the guest's agent");

    // It is busy, and answers late.
    let same = async |host: usize| {
        let now = scene.until("the guest to answer", async || scene.lab.in_guest(host, "web", &boot_id)).await;
        assert_eq!(now, boot, "it was started anew");
    };

    // It would never come to an end: at its limit it is ended, and stays.
    let outrun = ["vm", "migrate", "web", "--to", "h2", "--bandwidth", "16"];
    let late = scene.run(&[&outrun[..], &["--limit", "25s"]].concat()).await;
    assert!(late.code != 0 && late.err.contains("within its limit"), "{}{}", late.out, late.err);
    assert_eq!(running(&scene, 2).iter().map(|(host, _)| *host).collect::<Vec<_>>(), [1]);

    // Slowed more and more; where even that does not help by twice its limit, it is ended in the same words.
    scene.ok(&[&outrun[..], &["--limit", "60s", "--at-limit", "converge", "--no-wait"]].concat()).await;
    let (mut most, mut passes) = (0, 0);
    let ended = scene
        .until("its end", async || {
            let vm = scene.vm("web").await;
            most = most.max(vm["migration"]["throttlePercent"].as_u64().unwrap_or(0));
            passes = passes.max(vm["migration"]["iteration"].as_u64().unwrap_or(0));
            let last = vm["operations"].as_array()?.last()?.clone();
            (last["status"] != "RUNNING").then_some(last)
        })
        .await;
    eprintln!("converge: {}, its CPUs slowed by up to {most} %, {passes} passes, {}", ended["status"], ended["measured"]);
    assert!(most > 0, "it was never seen to be slowed: {ended}");
    let host = if ended["status"] == "SUCCEEDED" { 2 } else { 1 };
    assert!(host == 2 || ended["error"].as_str().unwrap().contains("within its limit"), "{ended}");
    scene.status("web", "RUNNING").await;
    assert_eq!(running(&scene, 2).iter().map(|(host, _)| *host).collect::<Vec<_>>(), [host]);
    same(host).await;

    // Frozen at its limit it arrives, and goes on there.
    let to = format!("h{}", 3 - host);
    let freeze = ["vm", "migrate", "web", "--to", &to, "--bandwidth", "16", "--limit", "15s", "--at-limit", "pause"];
    let frozen = scene.run(&freeze).await;
    assert_eq!(frozen.code, 0, "{}{}", frozen.out, frozen.err);
    assert_eq!(running(&scene, 2).iter().map(|(host, _)| *host).collect::<Vec<_>>(), [3 - host]);
    same(3 - host).await;
    scene.ok(&["vm", "remove", "web", "--force"]).await;
    scene.nothing_left(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_an_operator_moves_with_virsh_is_found_on_the_other_host_and_runs_once() {
    let scene = Scene::set(2, shared).await;
    let ear = Ear::open(&scene.lab);
    scene.create("web", &["--on", "h1"]).await;
    scene.answers("web").await;
    ear.fresh(&scene, "web").await;
    let domain = scene.lab.domains(1)[0].0.clone();
    let by_hand = |from: usize, more: &[&str]| {
        let uri = scene.lab.uri(3 - from);
        let said =
            scene.lab.virsh(from, &[&["migrate", &domain, "--live", "--unsafe", "--undefinesource"], more, &[&uri]].concat());
        assert!(!said.contains("error"), "{said}");
    };
    let found = async |host: usize| {
        scene
            .until("it to be found", async || {
                let vm = scene.vm("web").await;
                (vm["host"]["name"] == format!("h{host}") && vm["status"] == "RUNNING").then_some(())
            })
            .await;
        assert_eq!(running(&scene, 2).iter().map(|(host, _)| *host).collect::<Vec<_>>(), [host]);
        let reserved = async |host| scene.json(&["host", "show", host]).await["reserved"]["cpus"].take();
        let on = [reserved("h1").await, reserved("h2").await];
        assert_eq!(on, if host == 1 { [1, 0] } else { [0, 1] }, "room is held where it is");
    };
    // There until it stops, and there for good; and back to where it was made.
    by_hand(1, &[]);
    found(2).await;
    assert!(scene.ok(&["event", "list", "--limit", "500"]).await.contains("VmFound"), "nobody said so");
    by_hand(2, &["--persistent"]);
    found(1).await;
    by_hand(1, &["--persistent"]);
    found(2).await;
    let count = ear.of("web").len();
    scene.until("it to count on", async || (ear.of("web").len() > count + 100).then_some(())).await;
    unbroken(&ear.of("web"), "moved by an operator");

    // From there it is led as any other, under the name that it has.
    scene.ok(&["vm", "pause", "web"]).await;
    scene.ok(&["vm", "resume", "web"]).await;
    scene.ok(&["vm", "stop", "web", "--force"]).await;
    scene.ok(&["vm", "start", "web"]).await;
    scene.answers("web").await;
    assert_eq!(running(&scene, 2).iter().map(|(host, _)| *host).collect::<Vec<_>>(), [2]);
    scene.ok(&["vm", "migrate", "web", "--to", "h1"]).await;
    found(1).await;
    scene.ok(&["vm", "remove", "web", "--force"]).await;
    scene.nothing_left(2).await;
}
