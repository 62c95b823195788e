//! Promise: no agent ever has a provider's key, and it is found in nothing that Hiveward writes or shows.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Command,
};

use hiveward_tests::{skip, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use crate::scene::{BOTH, CANARY, Real, Scene};

const SCRIPT: &str = r#"
conversations:
  - when: look around
    steps:
      - tools: [{name: Bash, input: {command: "env; cat /proc/self/environ; ps aux", description: "Look"}}]
      - say: "I saw: ${toolResult}"
"#;

fn files_under(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            files_under(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}

fn has(bytes: &[u8], text: &str) -> bool {
    memchr::memmem::find(bytes, text.as_bytes()).is_some()
}

fn has_canary(bytes: &[u8]) -> bool {
    has(bytes, CANARY)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_key_reaches_the_provider_and_nothing_else() {
    for real in BOTH {
        let scene = Scene::begin(real, SCRIPT, json!({})).await;
        let task = scene.prompt("look around").await;
        let question = scene.question(&task).await;
        // While they run: environments and arguments of every process of theirs, and of the node's.
        let agents = scene.processes();
        assert!(!agents.is_empty());
        for pid in &agents {
            for part in ["environ", "cmdline"] {
                let bytes = fs::read(format!("/proc/{pid}/{part}")).unwrap_or_default();
                assert!(!has_canary(&bytes), "{real:?}: /proc/{pid}/{part}");
            }
        }
        scene.answer(&question, "ALLOW").await;
        let said = scene.succeeded(&task).await;
        assert!(said.contains("hwm_"), "it saw its own token, so it did look: {said}");
        let calls = scene.calls().await;
        let presented: Vec<_> = calls["calls"].as_array().unwrap().iter().map(|call| call["key"].clone()).collect();
        assert!(!presented.is_empty() && presented.iter().all(|key| *key == json!(CANARY)), "{presented:?}");
        // Everything that was written: data directory (ledger, views, transcripts, conversations), logs, project.
        let mut files = Vec::new();
        files_under(scene.hive.data_dir(), &mut files);
        files_under(scene.hive.own_dir(), &mut files);
        files_under(&scene.project, &mut files);
        assert!(files.len() > 10, "{files:?}");
        for file in files {
            assert!(!has_canary(&fs::read(&file).unwrap_or_default()), "{real:?}: {}", file.display());
        }
        for shown in [
            vec!["event", "list", "--limit", "500", "-o", "json"],
            vec!["task", "show", &task],
            vec!["task", "output", &task],
            vec!["task", "activity", &task],
            vec!["agent", "show", &scene.agent],
            vec!["approval", "list", "--all", "-o", "json"],
        ] {
            let ran = scene.hive.cli(&shown).await;
            assert!(ran.code == 0 && !ran.out.is_empty(), "{shown:?}: {ran:?}");
            assert!(!ran.out.contains(CANARY) && !ran.err.contains(CANARY), "{real:?}: {shown:?}");
        }
        scene.end().await;
    }
}

/// Whether this machine writes cores into the working directory of what crashes.
fn cores_are_files() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let crash = "ulimit -c unlimited && kill -ABRT $$";
    let _ = Command::new("sh").args(["-c", crash]).current_dir(&dir).status().unwrap();
    !cores_in(dir.path()).is_empty()
}

fn cores_in(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    files_under(dir, &mut files);
    files.retain(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("core")));
    files
}

fn crash(pid: i32) {
    let limited = Command::new("prlimit").args(["--core=unlimited:unlimited", "--pid", &pid.to_string()]).status().unwrap();
    assert!(limited.success());
    kill(Pid::from_raw(pid), Signal::SIGABRT).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_core_dump_holds_the_key_neither_of_the_node_nor_of_an_agent() {
    if !cores_are_files() {
        return skip("crashes leave no core file here");
    }
    let mut scene = Scene::begin(Real::ClaudeCode, SCRIPT, json!({})).await;
    let task = scene.prompt("look around").await;
    scene.question(&task).await;
    let agent = scene.processes()[0];
    let cwd = fs::read_link(format!("/proc/{agent}/cwd")).unwrap();
    crash(agent);
    let core = until("the agent's core is written", async || {
        let ended = !Path::new(&format!("/proc/{agent}")).exists();
        cores_in(&cwd).pop().filter(|_| ended)
    })
    .await;
    let bytes = fs::read(&core).unwrap();
    fs::remove_file(&core).unwrap();
    assert!(has(&bytes, "hwm_"), "a core of an agent holds its token, so this one can be searched");
    assert!(!has_canary(&bytes), "the agent's core holds the key");
    drop(bytes);
    let node = scene.hive.pid().unwrap();
    let cwd = fs::read_link(format!("/proc/{node}/cwd")).unwrap();
    let before = cores_in(&cwd).len();
    crash(node);
    let status = scene.hive.wait();
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32));
    assert!(!status.core_dumped() && cores_in(&cwd).len() == before, "the node left a core: {status}");
    scene.hive.start_again().await;
    scene.end().await;
}
