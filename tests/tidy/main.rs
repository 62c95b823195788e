//! Holds the shape of the house: the arrows between crates, the door of the gateway, the links of the docs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn files(dir: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !matches!(name.as_str(), "target" | "node_modules" | "dist") && !name.starts_with('.') {
            files(&path, ending, found);
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
}

fn sources(of: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    files(&root().join(of), ".rs", &mut found);
    assert!(!found.is_empty(), "{of} has no sources");
    found.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

fn nowhere(of: &str, forbidden: &[&str], because: &str) {
    for (path, text) in sources(of) {
        for word in forbidden {
            let line = text.lines().position(|line| line.contains(word) && !line.trim_start().starts_with("//"));
            assert!(line.is_none(), "{}:{} has {word:?}: {because}", path.display(), line.unwrap_or(0) + 1);
        }
    }
}

#[test]
fn arrows_go_one_way() {
    nowhere("runtime/src", &["hiveward_actors", "hiveward_gateway"], "runtime stands on nothing of ours");
    nowhere("actors/src", &["hiveward_gateway", "axum", "async_graphql"], "actors serve no HTTP");
    nowhere("gateway/src", &["AgentMsg", "SwarmMsg", "RosterMsg", "ractor::"], "the gateway's only door is actors::client");
    for (of, forbidden) in [("runtime", "hiveward-actors"), ("runtime", "hiveward-gateway"), ("actors", "hiveward-gateway")] {
        let manifest = std::fs::read_to_string(root().join(of).join("Cargo.toml")).unwrap();
        assert!(!manifest.contains(forbidden), "{of}/Cargo.toml has {forbidden}");
    }
}

#[test]
fn every_fault_point_of_the_code_is_in_the_list_that_clients_choose_from() {
    let quoted = |text: &str| -> Vec<String> {
        let parts = text.split('"').skip(1).step_by(2).filter(|part| {
            let known = ["actor.", "ledger.", "driver.", "vm."].iter().any(|noun| part.starts_with(noun));
            known && part.bytes().all(|byte| byte.is_ascii_lowercase() || b"._".contains(&byte))
        });
        parts.map(str::to_owned).collect()
    };
    let list = "actors/src/client/fault_points.rs";
    let listed = quoted(&std::fs::read_to_string(root().join(list)).unwrap());
    let mut passed = Vec::new();
    for (path, text) in sources("runtime/src").into_iter().chain(sources("actors/src")) {
        // A point stands where it is passed, or beside the step that passes it.
        let lines = text.lines().filter(|line| line.contains("point") || line.contains("=> (\""));
        if !path.ends_with("client/fault_points.rs") && !path.ends_with("src/fault.rs") {
            passed.extend(lines.flat_map(quoted));
        }
    }
    for point in &passed {
        assert!(listed.contains(point), "{list} lacks {point}");
    }
    for point in &listed {
        assert!(passed.contains(point), "{list} has {point}, and no code passes it");
    }
}

#[test]
fn the_runtime_holds_no_domain_noun() {
    nowhere("runtime/src", &["AgentId", "TaskId", "SwarmId", "VmId"], "a domain noun");
}

#[test]
fn openraft_is_named_behind_the_ledgers_own_door_only() {
    for (path, text) in sources("runtime/src") {
        let inside = path.components().any(|part| part.as_os_str() == "ledger");
        assert!(inside || !text.contains("openraft"), "{} names openraft", path.display());
    }
}

#[test]
fn unsafe_code_is_allowed_in_named_modules_only() {
    let allowed = ["actors/src/agent/session/shim/spawn.rs", "actors/src/host/fence/watchdog.rs", "gateway/src/trim.rs"];
    for of in ["runtime/src", "actors/src", "gateway/src"] {
        for (path, text) in sources(of) {
            let short = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            let has = text.lines().any(|line| line.contains("unsafe ") && !line.trim_start().starts_with("//"));
            assert!(!has || allowed.contains(&short.as_str()), "{short} has unsafe code");
        }
    }
}

#[test]
fn every_link_of_the_docs_leads_somewhere_and_every_promise_to_a_test() {
    let mut pages = Vec::new();
    files(&root().join("docs"), ".md", &mut pages);
    pages.push(root().join("README.md"));
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(page.parent().unwrap().join(target).exists(), "{}: {link} leads nowhere", page.display());
        }
    }
    let mut tests = String::new();
    for of in ["runtime", "actors", "gateway", "tests"] {
        for (_, text) in sources(of) {
            tests.push_str(&text);
        }
    }
    let promises = std::fs::read_to_string(root().join("docs/promises.md")).unwrap();
    let mut named = 0;
    for name in promises.split('`').skip(1).step_by(2).filter(|word| word.contains('_') && !word.contains(['/', '.', ' ', '='])) {
        assert!(tests.contains(&format!("fn {name}(")), "docs/promises.md names {name}, and no test has that name");
        named += 1;
    }
    assert!(named > 10, "docs/promises.md names {named} tests");
}

#[test]
fn every_planted_bug_breaks_a_promise_of_the_page_names_a_test_and_can_be_planted() {
    let promises = std::fs::read_to_string(root().join("docs/promises.md")).unwrap();
    let mut tests = String::new();
    for of in ["runtime", "actors", "gateway", "tests"] {
        sources(of).into_iter().for_each(|(_, text)| tests.push_str(&text));
    }
    let mut patches = Vec::new();
    files(&root().join("tests/planted"), ".patch", &mut patches);
    assert!(patches.len() >= 40, "only {} bugs are planted", patches.len());
    for patch in patches {
        let text = std::fs::read_to_string(&patch).unwrap();
        let name = patch.file_name().unwrap().to_string_lossy().into_owned();
        let said = |of: &str| text.lines().find_map(|line| line.strip_prefix(of)).unwrap_or_else(|| panic!("{name} lacks {of}"));
        let promise = said("Promise: ");
        assert!(promises.contains(promise), "{name}: docs/promises.md does not promise {promise:?}");
        let (package, test) = said("Test: ").split_once(' ').unwrap();
        assert!(
            package.starts_with("hiveward-") && tests.contains(&format!("fn {test}(")),
            "{name}: there is no {package} {test}"
        );
        // Whether it is red beside the bug is what `make test-planted` looks at.
        let applies = Command::new("git").current_dir(root()).args(["apply", "--check"]).arg(&patch).output().unwrap();
        assert!(applies.status.success(), "{name}: make it anew: {}", String::from_utf8_lossy(&applies.stderr));
    }
}
