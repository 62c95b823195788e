//! Agents whose attempts run in VMs of their own: real programs in real guests, brought there and back by the guest's agent.

use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use tokio::io::AsyncReadExt;

use crate::lab::{PATIENCE, Scene};

const VM: [&str; 6] = ["--vm", "guest", "--vm-memory", "128MiB", "--vm-boot-within", "2m"];

impl Scene {
    async fn agent(&self, name: &str) {
        self.ok(&["swarm", "create", "vms"]).await;
        let mut args = vec!["agent", "create", name, "--swarm", "vms"];
        args.extend(VM);
        self.ok(&args).await;
    }

    /// The id of a task that runs `script` in a guest.
    async fn task(&self, script: &str, more: Value) -> String {
        let mut input = json!({ "title": "in a guest", "swarm": "vms", "command": { "argv": ["sh", "-c", script] } });
        for (name, value) in more.as_object().into_iter().flatten() {
            input[name] = value.clone();
        }
        if let Some(stdin) = input["stdin"].as_str().map(str::to_owned) {
            input.as_object_mut().unwrap().remove("stdin");
            input["command"]["stdin"] = stdin.into();
        }
        self.hive.client().submit(input).await
    }

    async fn shown(&self, task: &str) -> Value {
        self.json(&["task", "show", task]).await
    }

    async fn outcome(&self, task: &str) -> Value {
        self.until(&format!("{task} to end"), async || {
            let shown = self.shown(task).await;
            matches!(shown["status"].as_str(), Some("SUCCEEDED" | "FAILED" | "DEAD" | "CANCELLED" | "TIMED_OUT")).then_some(shown)
        })
        .await
    }

    /// Follows what a task says until that is in it; all of it up to there.
    async fn said(&self, task: &str, what: &str) -> String {
        let mut following = self.hive.cli_piped(&["task", "output", task]);
        let (mut said, mut piece) = (String::new(), [0; 4096]);
        let mut stdout = following.stdout.take().unwrap();
        let heard = async {
            while !said.contains(what) {
                let count = stdout.read(&mut piece).await.unwrap();
                assert!(count > 0, "it ended without {what:?}: {said}");
                said.push_str(&String::from_utf8_lossy(&piece[..count]));
            }
        };
        let heard = tokio::time::timeout(PATIENCE, heard).await;
        following.kill().await.unwrap();
        assert!(heard.is_ok(), "{task} never said {what:?}: {said}; {}", self.shown(task).await);
        said
    }

    async fn vms(&self) -> Vec<Value> {
        self.json(&["vm", "list"]).await.as_array().cloned().unwrap_or_default()
    }

    async fn no_vms(&self) {
        self.until("the VM of the attempt to go", async || self.vms().await.is_empty().then_some(())).await;
        self.nothing_left(1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_in_a_vm_of_its_own_and_what_it_made_is_brought_out() {
    let scene = Scene::set(1, |_, _| Vec::new()).await;
    scene.agent("inside").await;
    // What is not this machine: the guest's kernel has its own boot id.
    let script = "cat /proc/sys/kernel/random/boot_id; read line; echo got $line >made; ln -s made link; \
                  mkdir -p deep/down && echo x >deep/down/file; echo oops >&2; \
                  echo '{\"hiveward\":\"artifact\",\"name\":\"made\",\"path\":\"made\"}'";
    let task = scene.task(script, json!({
        "stdin": "hello\n", "gate": { "name": "there", "command": { "argv": ["sh", "-c", "test -L link && test -f deep/down/file"] } },
    })).await;
    let shown = scene.outcome(&task).await;
    assert_eq!(shown["status"], "SUCCEEDED", "{shown}");
    let output = scene.run(&["task", "output", &task]).await;
    let (said, here) = (output.out, std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap());
    assert!(said.lines().next().unwrap().len() == here.trim().len() && !said.contains(here.trim()), "it ran here: {said}");
    assert_eq!(output.err, "oops\n");
    let artifacts = shown["artifacts"].as_array().unwrap();
    assert_eq!(artifacts.len(), 1, "{shown}");
    assert_eq!(artifacts[0]["bytes"], json!("got hello\n".len()), "{shown}");
    scene.no_vms().await;

    // A program that fails fails as it did, with its own words.
    let failed = scene.task("echo broken >&2; exit 7", json!({ "retry": { "maxAttempts": 1 } })).await;
    let shown = scene.outcome(&failed).await;
    assert!(shown["error"].as_str().unwrap().contains("exit status 7: broken"), "{shown}");
    scene.no_vms().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_node_leaves_a_program_in_a_guest_running_and_it_ends_once() {
    let mut scene = Scene::set(1, |_, _| Vec::new()).await;
    scene.agent("inside").await;
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo line $i; sleep 1; done; date +%s >done";
    let task = scene.task(script, json!({})).await;
    scene.said(&task, "line 3").await;
    scene.hive.kill();
    scene.hive.start_again().await;
    let shown = scene.outcome(&task).await;
    assert_eq!((&shown["status"], shown["attempts"].as_array().unwrap().len()), (&json!("SUCCEEDED"), 1), "{shown}");
    let said = scene.run(&["task", "output", &task]).await.out;
    let lines: Vec<_> = said.lines().map(str::to_owned).collect();
    let wanted: Vec<_> = (1..=12).map(|i| format!("line {i}")).collect();
    assert_eq!(lines, wanted, "each line once");
    scene.no_vms().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_dies_is_the_attempt_lost_and_the_next_one_has_another_vm() {
    let scene = Scene::set(1, |_, _| Vec::new()).await;
    scene.agent("inside").await;
    let script = "echo begun in attempt $HIVEWARD_ATTEMPT; [ $HIVEWARD_ATTEMPT = 2 ] || sleep 600";
    let task = scene.task(script, json!({ "retry": { "maxAttempts": 3, "firstMs": 100 } })).await;
    scene.said(&task, "begun in attempt 1").await;
    let vm = scene.vms().await[0].clone();
    let name = vm["name"].as_str().unwrap();
    let shown = scene.vm(name).await;
    assert_eq!((&shown["lease"]["task"], &shown["lease"]["attempt"]), (&json!(task), &json!(1)), "{shown}");
    scene.lab.kill_qemu(name);
    let shown = scene.outcome(&task).await;
    let attempts = shown["attempts"].as_array().unwrap();
    assert_eq!(shown["status"], "SUCCEEDED", "{shown}");
    assert_eq!((&attempts[0]["status"], &attempts[1]["status"]), (&json!("LOST"), &json!("SUCCEEDED")), "{shown}");
    assert!(attempts[0]["error"].as_str().unwrap().contains("VM was lost"), "{shown}");
    scene.no_vms().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_takes_its_vm_with_it_and_a_paused_agent_s_guest_stands_still() {
    let scene = Scene::set(1, |_, _| Vec::new()).await;
    scene.agent("inside").await;
    let task = scene.task("i=0; while :; do i=$((i+1)); echo tick $i; sleep 1; done", json!({})).await;
    scene.said(&task, "tick 2").await;
    scene.ok(&["agent", "pause", "inside", "--freeze"]).await;
    let name = scene.vms().await[0]["name"].as_str().unwrap().to_owned();
    scene.status(&name, "PAUSED").await;
    scene.ok(&["agent", "resume", "inside"]).await;
    scene.status(&name, "RUNNING").await;
    let so_far = scene.said(&task, "tick 2").await.lines().count();
    scene.said(&task, &format!("tick {}", so_far + 5)).await;
    scene.ok(&["task", "cancel", &task]).await;
    assert_eq!(scene.outcome(&task).await["status"], "CANCELLED");
    scene.no_vms().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_runs_in_a_guest_is_answered_and_its_file_systems_stand_still_when_told() {
    let scene = Scene::set(1, |_, _| Vec::new()).await;
    scene.create("web", &["--disk", "data=16MiB"]).await;
    scene.answers("web").await;
    let ran = scene.run(&["vm", "exec", "web", "--", "sh", "-c", "echo hi; echo no >&2; exit 4"]).await;
    assert_eq!((ran.out.as_str(), ran.code), ("hi\n", 8), "{}", ran.err);
    assert!(ran.err.contains("no") && ran.err.contains("exit status 4"), "{}", ran.err);
    let said = scene.json(&["vm", "exec", "web", "--env", "A=b c", "--", "/bin/sh", "-c", "printf %s \"$A\""]).await;
    assert_eq!((&said["stdout"], &said["exitCode"]), (&json!("b c"), &json!(0)));
    let missing = scene.run(&["vm", "exec", "web", "--", "/no/such"]).await;
    assert!(missing.code != 0 && missing.err.contains("the agent in web"), "{}", missing.err);
    assert!(scene.ok(&["vm", "freeze", "web"]).await.contains("take no writes"));
    assert!(scene.ok(&["vm", "freeze", "web", "--thaw"]).await.contains("take writes again"));
    scene.ok(&["vm", "stop", "web", "--force"]).await;
    let off = scene.run(&["vm", "exec", "web", "--", "true"]).await;
    assert!(off.code != 0 && off.err.contains("STOPPED"), "{}", off.err);
    // A libvirtd that stands still is an answer in words, and none that hangs.
    scene.ok(&["vm", "start", "web"]).await;
    scene.answers("web").await;
    scene.lab.signal_daemon(1, Signal::SIGSTOP);
    let mute = scene.run(&["vm", "exec", "web", "--", "true"]).await;
    scene.lab.signal_daemon(1, Signal::SIGCONT);
    assert!(mute.code != 0, "{}{}", mute.out, mute.err);
    scene.answers("web").await;
    scene.ok(&["vm", "remove", "web", "--force"]).await;
    scene.nothing_left(1).await;
}

/// Speaks the Agent Client Protocol in the few words that one turn takes.
const TALKER: &str = r#"
while read -r line; do
  id=$(printf %s "$line" | sed -n 's/.*"id":"\([^"]*\)".*/\1/p')
  case $line in
  *'"initialize"'*) result='{"protocolVersion":1,"agentCapabilities":{}}' ;;
  *'"session/new"'*) result='{"sessionId":"one"}' ;;
  *'"session/prompt"'*)
    cat /proc/sys/kernel/random/boot_id >where
    rm old
    echo '{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"one","update":{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":"done in there"}}}}'
    result='{"stopReason":"end_turn"}' ;;
  *) continue ;;
  esac
  printf '{"jsonrpc":"2.0","id":"%s","result":%s}\n' "$id" "$result"
done
"#;

fn git(dir: &std::path::Path, args: &[&str]) -> String {
    let identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"];
    let ran = std::process::Command::new("git").current_dir(dir).args(identity).args(args).output().unwrap();
    assert!(ran.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8_lossy(&ran.stdout).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coding_agent_in_a_vm_is_spoken_to_there_and_its_work_is_committed_here() {
    let scene = Scene::set(1, |_, _| Vec::new()).await;
    let repository = tempfile::tempdir().unwrap();
    std::fs::write(repository.path().join("old"), "old\n").unwrap();
    git(repository.path(), &["init", "-q", "-b", "main"]);
    git(repository.path(), &["add", "."]);
    git(repository.path(), &["commit", "-qm", "first"]);
    let client = scene.hive.client();
    client.swarm("vms").await;
    let worktree = json!({ "worktree": { "repository": repository.path(), "mustChange": true } });
    let agent = json!({
        "name": "coder", "swarm": "vms",
        "connector": { "acp": { "argv": ["sh", "-c", TALKER], "ownAccount": true, "workspace": worktree } },
        "session": { "vm": { "image": "guest", "memoryBytes": (128 << 20).to_string(), "bootWithinMs": 120_000 } },
    });
    client.agent(agent).await;
    let task = client.submit(json!({ "swarm": "vms", "kind": "prompt", "payload": "do it", "title": "work" })).await;
    let shown = scene.outcome(&task).await;
    assert_eq!(shown["status"], "SUCCEEDED", "{shown}");
    let branch = format!("hiveward/{task}-1");
    assert_eq!(git(repository.path(), &["diff", "--name-status", "main", &branch]), "D\told\nA\twhere", "{shown}");
    let here = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_ne!(git(repository.path(), &["show", &format!("{branch}:where")]), here.trim(), "it ran here");
    scene.no_vms().await;
    // Calls of models are metered at an address of the node: one that no guest can reach is refused in words.
    let metered = json!({
        "name": "metered", "swarm": "vms", "skills": [{ "name": "metered" }],
        "connector": { "acp": { "argv": ["sh", "-c", TALKER] } },
        "session": { "vm": { "image": "guest", "memoryBytes": (128 << 20).to_string() } },
    });
    client.agent(metered).await;
    let task = client.submit(json!({ "swarm": "vms", "kind": "prompt", "payload": "x", "skills": ["metered"] })).await;
    let shown = scene.outcome(&task).await;
    assert!(shown["error"].as_str().unwrap().contains("models"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_takes_a_vm_that_waits_for_it_does_not_wait_for_a_boot() {
    let scene = Scene::set(1, |_, _| Vec::new()).await;
    scene.agent("cold").await;
    let begun = Instant::now();
    let task = scene.task("hostname", json!({})).await;
    assert_eq!(scene.outcome(&task).await["status"], "SUCCEEDED");
    let cold = begun.elapsed();
    scene.no_vms().await;
    scene.ok(&["agent", "remove", "cold", "--force"]).await;

    let mut args = vec!["agent", "create", "warm", "--swarm", "vms", "--vm-warm", "1"];
    args.extend(VM);
    scene.ok(&args).await;
    let name = scene
        .until("a VM to wait", async || {
            let vms = scene.vms().await;
            let waits = vms.iter().find(|vm| vm["status"] == "RUNNING" && vm["name"].as_str().unwrap().starts_with("warm-"))?;
            Some(waits["name"].as_str().unwrap().to_owned())
        })
        .await;
    scene.until("its guest to be up", async || (!scene.vm(&name).await["guest"].is_null()).then_some(())).await;
    let begun = Instant::now();
    let task = scene.task("hostname", json!({})).await;
    assert_eq!(scene.outcome(&task).await["status"], "SUCCEEDED");
    let warm = begun.elapsed();
    // As a host may be called.
    let host = name.replace('_', "-");
    assert_eq!(scene.run(&["task", "output", &task]).await.out.trim(), host, "it ran in another VM");
    eprintln!(
        "a task in a VM of its own, no KVM, from its submission to its end\n  booted for it: {cold:.2?}\n  taken as it waits: {warm:.2?}"
    );
    // Another takes its place, and none is left without its agent.
    scene
        .until("its VM to go, and another to wait", async || {
            let vms = scene.vms().await;
            let names: Vec<_> = vms.iter().filter_map(|vm| vm["name"].as_str()).collect();
            (names.len() == 1 && names[0].starts_with("warm-") && names[0] != name).then_some(())
        })
        .await;
    scene.ok(&["agent", "remove", "warm", "--force"]).await;
    scene.no_vms().await;
}
