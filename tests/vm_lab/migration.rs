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
    let ours = vm["operations"].as_array().unwrap().last().unwrap()["measured"]["downtimeMs"].clone();
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
    // An operator who moves one away on the host is believed: it is not started here a second time.
    scene.until("what virsh did to be seen", async || (scene.vm("other").await["status"] == "STOPPED").then_some(())).await;
    assert_eq!(running(&scene, 2).iter().filter(|(_, name)| name.ends_with("-other")).count(), 1);
    scene.lab.virsh(2, &["destroy", &domain]);
    scene.lab.virsh(2, &["undefine", &domain]);
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
    assert_eq!(scene.vm("web").await["host"]["name"], "h2");
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
