//! A lab of hosts for one test, and a node that drives them from the command line.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use hiveward_tests::{Hive, Setup, hive::Ran};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

/// A guest starts in three to ten seconds without KVM; the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vm_lab")
}

fn base64(text: &str) -> String {
    let digit = |c: u8| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".iter().position(|known| *known == c);
    let mut bytes = Vec::new();
    for four in text.as_bytes().chunks(4) {
        let digits: Vec<usize> = four.iter().filter_map(|c| digit(*c)).collect();
        let bits = digits.iter().fold(0_usize, |bits, digit| bits << 6 | digit) << (6 * (4 - digits.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[5..4 + digits.len()]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn script(name: &str, args: &[&str]) -> String {
    let ran = Command::new(here().join(name)).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(ran.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap().trim().to_owned()
}

/// The guest's image; built once.
pub fn guest() -> &'static str {
    static GUEST: LazyLock<String> = LazyLock::new(|| {
        let target = std::env::current_exe().unwrap();
        let dir = target.parent().and_then(Path::parent).unwrap().join("vm-lab-guest");
        script("build-guest.sh", &[dir.to_str().unwrap()])
    });
    &GUEST
}

/// The program that speaks to libvirt; built beside the workspace.
pub fn driver() -> PathBuf {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
        let test = std::env::current_exe().unwrap();
        let target = test.parent().and_then(Path::parent).and_then(Path::parent).unwrap().join("libvirt-driver");
        let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("../actors/libvirt-driver");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(package).args(["build", "--quiet", "--bins", "--examples", "--target-dir"]).arg(&target);
        assert!(cargo.status().unwrap().success(), "the libvirt driver does not build");
        target.join("debug/hiveward-libvirt-driver")
    });
    BUILT.clone()
}

/// The numbers of the sockets that a process has open.
fn sockets(pid: i32) -> HashSet<String> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    targets.filter_map(|to| Some(to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect()
}

/// Hosts in namespaces, on a bridge. Dropping it ends them with everything on them.
pub struct Lab {
    dir: PathBuf,
    tag: String,
    net: String,
}

impl Lab {
    pub fn start(hosts: usize) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "the VM lab makes namespaces and bridges: run it as root");
        guest();
        // Free by the bridge's name, which the kernel gives to one only.
        let (third, dir) = loop {
            let third = fastrand::u8(2..250);
            let dir = PathBuf::from(format!("/run/hwlab{third}"));
            if !Path::new(&format!("/sys/class/net/hwl{third}")).exists() && std::fs::create_dir(&dir).is_ok() {
                break (third, dir);
            }
        };
        let lab = Self { dir, tag: format!("hwl{third}"), net: format!("10.94.{third}") };
        script("lab.sh", &["up", lab.dir.to_str().unwrap(), &lab.tag, &lab.net, &hosts.to_string()]);
        lab
    }

    /// Of this machine on the hosts' network.
    pub fn address(&self) -> String {
        format!("{}.1", self.net)
    }

    pub fn uri(&self, host: usize) -> String {
        format!("qemu+unix:///system?socket={}/{host}/run/libvirt/libvirt-sock", self.dir.display())
    }

    /// As the hosts reach each other.
    pub fn peer(&self, host: usize) -> String {
        format!("qemu+tcp://{}.{}/system", self.net, 10 + host)
    }

    /// A host's address among the hosts.
    pub fn underlay(&self, host: usize) -> String {
        format!("{}.{}", self.net, 10 + host)
    }

    /// What a program prints in a host's network.
    pub fn on_host(&self, host: usize, argv: &[&str]) -> String {
        let pid = std::fs::read_to_string(self.dir.join(host.to_string()).join("pid")).unwrap();
        let ran = Command::new("nsenter").args(["-t", pid.trim(), "-n", "--"]).args(argv).output().unwrap();
        assert!(ran.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    /// Network devices of a host that were made for networks of the cluster, and libvirt's networks of those.
    pub fn devices(&self, host: usize) -> Vec<String> {
        let links = self.on_host(host, &["ip", "-o", "link"]);
        let links = links.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next().map(str::to_owned));
        let networks = self.virsh(host, &["net-list", "--all", "--name"]);
        let all = links.chain(networks.lines().map(|name| name.trim().to_owned()));
        let mut ours: Vec<_> = all.filter(|name| name.starts_with("hw")).collect();
        ours.sort();
        ours
    }

    /// The directory that all hosts have under the same path.
    pub fn shared(&self) -> String {
        self.dir.join("shared").display().to_string()
    }

    /// A host's own directory for disks, seen from this machine, where it is given no other.
    pub fn images(&self, host: usize) -> PathBuf {
        self.dir.join(host.to_string()).join("var/lib/libvirt/images/hiveward")
    }

    pub fn virsh(&self, host: usize, args: &[&str]) -> String {
        let ran = Command::new("virsh").args(["-q", "-c", &self.uri(host)]).args(args).stdin(Stdio::null()).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr)).trim().to_owned()
    }

    /// Names and states of the domains on a host.
    pub fn domains(&self, host: usize) -> Vec<(String, String)> {
        let listed = self.virsh(host, &["list", "--all"]);
        let row = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            Some((words.next()?.to_owned(), words.collect::<Vec<_>>().join(" ")))
        };
        listed.lines().filter_map(row).collect()
    }

    /// What a program in a guest prints, asked through its agent; `None` if it does not answer.
    pub fn in_guest(&self, host: usize, vm: &str, argv: &[&str]) -> Option<String> {
        let (domain, _) = self.domains(host).into_iter().find(|(name, _)| name.ends_with(&format!("-{vm}")))?;
        let ask = |what: Value| {
            let answer = self.virsh(host, &["qemu-agent-command", &domain, &what.to_string(), "--timeout", "5"]);
            Some(serde_json::from_str::<Value>(&answer).ok()?["return"].take())
        };
        let arguments = json!({ "path": argv.first()?, "arg": argv.get(1..)?, "capture-output": true });
        let pid = ask(json!({ "execute": "guest-exec", "arguments": arguments }))?["pid"].take();
        for _ in 0..100 {
            let status = ask(json!({ "execute": "guest-exec-status", "arguments": { "pid": pid } }))?;
            if status["exited"] == true {
                let text = base64(status["out-data"].as_str().unwrap_or_default());
                return Some(text.trim().to_owned());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }

    /// How often a guest on the first host has begun, by what it keeps on its disk.
    pub fn boots(&self, vm: &str) -> Option<u32> {
        self.in_guest(1, vm, &["/bin/cat", "/data/boots"])?.parse().ok()
    }

    /// Every QEMU of the lab's hosts, by the command line of each.
    pub fn qemus(&self) -> Vec<(i32, String)> {
        let inside = self.pids();
        let all = inside.into_iter().filter_map(|pid| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?.replace('\0', " ");
            line.contains("qemu-system").then_some((pid, line))
        });
        all.collect()
    }

    fn namespace(pid: i32) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
    }

    fn pids(&self) -> Vec<i32> {
        let first = |host: &Path| std::fs::read_to_string(host.join("pid")).ok()?.trim().parse::<i32>().ok();
        let hosts = std::fs::read_dir(&self.dir).unwrap().flatten().filter_map(|entry| first(&entry.path()));
        let spaces: Vec<_> = hosts.filter_map(Self::namespace).collect();
        let all = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        all.filter(|pid| Self::namespace(*pid).is_some_and(|space| spaces.contains(&space))).collect()
    }

    /// kill -9 of the QEMU of a domain.
    pub fn kill_qemu(&self, name: &str) {
        self.signal_qemu(name, Signal::SIGKILL);
    }

    pub fn signal_qemu(&self, name: &str, signal: Signal) {
        let all = self.qemus();
        let (pid, _) = all.iter().find(|(_, line)| line.contains(&format!("-{name},"))).expect("a QEMU of that name");
        kill(Pid::from_raw(*pid), signal).unwrap();
    }

    fn daemon(&self, host: usize) -> i32 {
        let first: i32 = std::fs::read_to_string(self.dir.join(host.to_string()).join("pid")).unwrap().trim().parse().unwrap();
        let space = Self::namespace(first);
        let is = |pid: &i32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "libvirtd")
                && Self::namespace(*pid) == space
        };
        self.pids().into_iter().find(is).expect("a libvirtd")
    }

    /// kill -9 of a host's libvirtd; its guests run on.
    pub fn kill_daemon(&self, host: usize) {
        kill(Pid::from_raw(self.daemon(host)), Signal::SIGKILL).unwrap();
    }

    pub fn start_daemon(&self, host: usize) {
        script("lab.sh", &["daemon", self.dir.to_str().unwrap(), &host.to_string()]);
    }

    pub fn signal_daemon(&self, host: usize, signal: Signal) {
        kill(Pid::from_raw(self.daemon(host)), signal).unwrap();
    }

    /// The program of a node, by the node's process, that speaks to a host's libvirtd; while there is one.
    pub fn driver_of(&self, node: i32, host: usize) -> Option<i32> {
        let daemon = sockets(self.daemon(host));
        let listed = Command::new("ss").arg("-xnH").output().unwrap();
        // What libvirtd serves, and who is at the other end.
        let listed = String::from_utf8_lossy(&listed.stdout);
        let peers = listed.lines().filter_map(|line| {
            let [.., path, served, _, peer] = line.split_whitespace().collect::<Vec<_>>()[..] else { return None };
            (path.ends_with("libvirt-sock") && daemon.contains(served)).then(|| peer.to_owned())
        });
        let peers: HashSet<String> = peers.collect();
        let tasks = std::fs::read_dir(format!("/proc/{node}/task")).ok()?.flatten();
        let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        let children: Vec<i32> =
            children.flat_map(|all| all.split_whitespace().flat_map(str::parse).collect::<Vec<_>>()).collect();
        children.into_iter().find(|pid| !sockets(*pid).is_disjoint(&peers))
    }

    /// Copies of images on a host.
    pub fn images_of(&self, host: usize) -> Vec<String> {
        let files = std::fs::read_dir(self.images(host)).into_iter().flatten().flatten();
        let mut names: Vec<_> = files.filter_map(|file| file.file_name().into_string().ok()).collect();
        names.retain(|name| name.starts_with("image-"));
        names.sort();
        names
    }

    /// Files of disks and seeds, by their directory; images are kept on purpose.
    pub fn disks(&self) -> Vec<String> {
        let mut dirs = vec![self.dir.join("shared")];
        dirs.extend((1..10).map(|host| self.images(host)));
        let files = dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
        let names = files.map(|file| file.path().display().to_string());
        names.filter(|path| !path.rsplit('/').next().unwrap().starts_with("image-")).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let ended = Command::new(here().join("lab.sh")).args(["down", self.dir.to_str().unwrap(), &self.tag]).status();
        if !std::thread::panicking() {
            assert!(ended.unwrap().success(), "the lab did not end");
        }
    }
}

/// A node with the lab's hosts registered as `h1`, `h2` and so on, and the guest's image as `guest`.
pub struct Scene {
    pub hive: Hive,
    pub lab: Lab,
}

impl Scene {
    pub async fn set(hosts: usize, more: impl Fn(&Lab, usize) -> Vec<String>) -> Self {
        Self::set_with(Setup::default(), hosts, more).await
    }

    pub async fn set_with(setup: Setup, hosts: usize, more: impl Fn(&Lab, usize) -> Vec<String>) -> Self {
        let lab = Lab::start(hosts);
        let setup = setup.env("HIVEWARD_LIBVIRT_DRIVER", driver().to_str().unwrap());
        let scene = Self { hive: Hive::start(setup).await, lab };
        for host in 1..=hosts {
            let (uri, name) = (scene.lab.uri(host), format!("h{host}"));
            let more = more(&scene.lab, host);
            let mut args = vec!["host", "add", &uri, "--name", &name];
            args.extend(more.iter().map(String::as_str));
            scene.ok(&args).await;
        }
        let said = scene.ok(&["image", "import", guest(), "--name", "guest"]).await;
        assert!(said.contains("guest"), "{said}");
        scene
    }

    pub async fn run(&self, args: &[&str]) -> Ran {
        self.hive.cli(args).await
    }

    pub async fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args).await;
        assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.out, ran.err);
        ran.out
    }

    pub async fn json(&self, args: &[&str]) -> Value {
        let mut all = vec!["-o", "json"];
        all.extend(args);
        serde_json::from_str(&self.ok(&all).await).unwrap()
    }

    pub async fn vm(&self, name: &str) -> Value {
        self.json(&["vm", "show", name]).await
    }

    pub async fn create(&self, name: &str, more: &[&str]) {
        let mut args = vec!["vm", "create", name, "--image", "guest", "--memory", "128MiB", "--network", "bridge:br0"];
        args.extend(more);
        self.ok(&args).await;
    }

    /// Waits until the agent in the guest answers and it has an address; what it says.
    pub async fn answers(&self, name: &str) -> Value {
        self.until(&format!("{name} to answer"), async || {
            let guest = self.vm(name).await["guest"].take();
            let v4 = |address: &Value| address.as_str().is_some_and(|address| address.starts_with("10."));
            guest["addresses"].as_array().is_some_and(|all| all.iter().any(v4)).then_some(guest)
        })
        .await
    }

    pub async fn status(&self, name: &str, wanted: &str) -> Value {
        self.until(&format!("{name} to be {wanted}"), async || {
            let vm = self.vm(name).await;
            (vm["status"] == wanted).then_some(vm)
        })
        .await
    }

    pub async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = look().await {
                return found;
            }
            if begun.elapsed() > PATIENCE {
                let vms = self.run(&["-o", "json", "vm", "list"]).await.out;
                panic!("waited in vain for {what}; {vms}; {:?}; {}", self.lab.domains(1), self.hive.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The driver of a host, once it has one that is connected.
    pub async fn driver(&self, host: usize) -> Pid {
        let node = self.hive.pid().expect("the node runs");
        let what = format!("h{host} to have a driver");
        Pid::from_raw(self.until(&what, async || self.lab.driver_of(node, host)).await)
    }

    /// The operation of this kind with so many of them before it, once it has ended.
    pub async fn ended(&self, name: &str, kind: &str, before: usize) -> Value {
        self.until(&format!("the end of {kind}"), async || {
            let vm = self.vm(name).await;
            let all: Vec<_> = vm["operations"].as_array()?.iter().filter(|one| one["kind"] == kind).cloned().collect();
            all.get(before).filter(|one| one["status"] != "RUNNING").cloned()
        })
        .await
    }

    /// No VM, no domain, no disk, no QEMU and no reservation is left; a process that was ended takes a moment to go.
    pub async fn nothing_left(&self, hosts: usize) {
        for host in 1..=hosts {
            let shown = self.json(&["host", "show", &format!("h{host}")]).await;
            assert_eq!((&shown["vmCount"], &shown["reserved"]["cpus"]), (&json!(0), &json!(0)), "{shown}");
        }
        let left = || {
            let domains: Vec<_> = (1..=hosts).flat_map(|host| self.lab.domains(host)).collect();
            (domains, self.lab.disks(), self.lab.qemus())
        };
        let nothing = (Vec::new(), Vec::new(), Vec::new());
        let begun = Instant::now();
        while left() != nothing {
            assert!(begun.elapsed() < Duration::from_secs(10), "something is left: {:?}", left());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
