//! Promise: no agent ever has a provider's key, and it is found in nothing that Hiveward writes or shows.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::scene::{BOTH, CANARY, Scene};

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

fn has_canary(bytes: &[u8]) -> bool {
    bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes())
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
