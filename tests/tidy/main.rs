//! Holds the shape of the house: the arrows between crates, the door of the gateway, the links of the docs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod functions;
mod how_to;
mod imports;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The packages of actors, each after those that it may stand on.
const ACTORS: [(&str, &[&str]); 8] = [
    ("kernel", &[]),
    ("access", &["kernel"]),
    ("catalogue", &["kernel", "access"]),
    ("models", &["kernel", "catalogue"]),
    ("machines", &["kernel", "catalogue"]),
    ("work", &["kernel", "catalogue"]),
    ("agents", &["kernel", "catalogue", "models", "machines", "work"]),
    ("actors", &["kernel", "access", "catalogue", "models", "machines", "work", "agents"]),
];
/// The other packages of the product, each with where it lies, those of ours that it may stand on, and what it may not name.
const OTHERS: [(&str, &str, &[&str], &[&str]); 4] = [
    ("contract", "contract", &[], &["tokio", "reqwest", "axum"]),
    ("runtime", "runtime", &["contract"], &["axum", "async_graphql"]),
    ("cli", "gateway/cli", &["contract"], &["axum", "async_graphql", "redb", "ractor"]),
    (
        "gateway",
        "gateway",
        &["contract", "runtime", "kernel", "access", "catalogue", "models", "machines", "work", "agents", "actors"],
        &["clap", "comfy_table", "AgentMsg", "SwarmMsg", "RosterMsg", "HostMsg", "VmMsg", "ractor::"],
    ),
];
/// The package of the program, which joins the gateway and the command line.
const PROGRAM: &str = "hiveward";
/// Files of one package that import each other in a loop, at most. It only shrinks.
const LOOP_MAX: usize = 11;
/// Lines of a file of the product, at most.
const LINES_MAX: usize = 500;
/// Files that are longer, from before there was a bound; each with what it may have. None is added, and none grows.
const LONGER: &str = include_str!("longer.txt");

/// Lines of a function, at most, and those that are longer; likewise.
const FUNCTION_LINES_MAX: usize = 70;
const LONGER_FUNCTIONS: &str = include_str!("longer_functions.txt");
/// Of a hundred public functions, so many at least have documentation, and of those that have it so many at most do not begin
/// with a verb in the third person. The first only grows, the second only shrinks.
const DOCUMENTED_MIN: usize = 95;
const NO_VERB_MAX: usize = 2;

fn package_dir(name: &str) -> String {
    if name == "actors" { "actors".to_owned() } else { format!("actors/{name}") }
}

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

/// The sources of the product in Rust.
fn product() -> Vec<(PathBuf, String)> {
    let actors = ACTORS.iter().map(|(name, _)| package_dir(name)).map(|dir| format!("{dir}/src"));
    let others = OTHERS.iter().map(|(_, dir, ..)| *dir).chain([PROGRAM]).map(|dir| format!("{dir}/src"));
    actors.chain(others).flat_map(|dir| sources(&dir)).collect()
}

fn nowhere(of: &str, forbidden: &[&str], because: &str) {
    for (path, text) in sources(of) {
        for word in forbidden {
            let line = text.lines().position(|line| line.contains(word) && !line.trim_start().starts_with("//"));
            assert!(line.is_none(), "{}:{} has {word:?}: {because}", path.display(), line.unwrap_or(0) + 1);
        }
    }
}

/// Fails if the manifest in `dir` names a package of ours that is not below it.
fn stands_on(name: &str, dir: &str, below: &[&str]) {
    let manifest = std::fs::read_to_string(root().join(dir).join("Cargo.toml")).unwrap();
    let ours = manifest.lines().filter_map(|line| line.strip_prefix("hiveward-")?.split(['.', ' ']).next());
    for one in ours {
        assert!(below.contains(&one), "{name} stands on {one}, which is not below it");
    }
}

#[test]
fn arrows_go_one_way() {
    for (name, below) in ACTORS {
        let dir = package_dir(name);
        nowhere(&format!("{dir}/src"), &["axum", "async_graphql"], "actors serve no HTTP");
        stands_on(name, &dir, &[below, &["contract", "runtime"]].concat());
    }
    for (name, dir, below, forbidden) in OTHERS {
        nowhere(&format!("{dir}/src"), forbidden, "the gateway's only door is actors::client, and a client is none of a node");
        stands_on(name, dir, below);
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
    for (path, text) in product() {
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
fn no_more_files_import_each_other_in_a_loop_than_did_before() {
    let mut largest = 0;
    let others = OTHERS.iter().map(|(_, dir, ..)| (*dir).to_owned());
    for name in ACTORS.iter().map(|(name, _)| package_dir(name)).chain(others) {
        let package = imports::Package::read(&root().join(&name).join("src/lib.rs"));
        let loops = package.loops();
        let sizes: Vec<_> = loops.iter().map(Vec::len).collect();
        println!("{name}: {} files; loops of imports: {sizes:?}", package.files());
        let first = loops.first().map_or(&[][..], Vec::as_slice);
        if name != "gateway" {
            assert!(first.len() <= LOOP_MAX, "{} files of {name} import each other in a loop: {first:#?}", first.len());
            largest = largest.max(first.len());
        }
    }
    assert_eq!(largest, LOOP_MAX, "the largest loop is smaller now: so must the bound be");
}

/// The rooms of the runtime by floor, the lowest first: each stands on those before it only.
const RUNTIME_FLOORS: &[&[&str]] = &[
    &["clock", "id"],
    &["fault", "resilience"],
    &["file"],
    &["op"],
    &["call"],
    &["supervise"],
    &["net", "rounds"],
    &["ledger"],
    &["store"],
    &["cluster"],
];

#[test]
fn the_rooms_of_the_runtime_stand_on_floors() {
    let package = imports::Package::read(&root().join("runtime/src/lib.rs"));
    let floor_of = |room: &str| {
        let floor = RUNTIME_FLOORS.iter().position(|floor| floor.contains(&room));
        floor.unwrap_or_else(|| panic!("runtime/src/{room} stands on no floor: name it in RUNTIME_FLOORS"))
    };
    for (room, below) in package.rooms() {
        for other in below {
            assert!(floor_of(other) < floor_of(room), "runtime/src/{room} imports from {other}, which is not below it");
        }
    }
}

#[test]
fn no_file_of_the_product_is_longer_than_the_bound_but_those_that_were_and_they_only_shrink() {
    let longer: Vec<(&str, usize)> =
        LONGER.lines().filter_map(|line| line.split_once(' ')).map(|(file, lines)| (file, lines.parse().unwrap())).collect();
    let mut seen = Vec::new();
    for (path, text) in product() {
        let short = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let lines = text.lines().count();
        match longer.iter().find(|(file, _)| *file == short) {
            Some((_, bound)) => {
                assert!(lines <= *bound, "{short} has {lines} lines, and may have {bound}");
                assert!(lines > LINES_MAX, "{short} has {lines} lines: it is not among the longer ones any more");
                assert!(lines + 25 > *bound, "{short} has {lines} lines: let tests/tidy/longer.txt say so");
                seen.push(short);
            }
            None => assert!(lines <= LINES_MAX, "{short} has {lines} lines: give a part of it a room of its own"),
        }
    }
    assert_eq!(seen.len(), longer.len(), "tests/tidy/longer.txt names files that are not there");
}

#[test]
fn no_function_is_longer_than_the_bound_but_those_that_were_and_they_only_shrink() {
    let longer: Vec<Vec<&str>> = LONGER_FUNCTIONS.lines().map(|line| line.split(' ').collect()).collect();
    let mut seen = 0;
    for (path, text) in product() {
        let short = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        for function in functions::of(&path, &text).iter().filter(|function| function.lines > FUNCTION_LINES_MAX) {
            let (name, lines) = (&function.name, function.lines);
            let known = longer.iter().find(|known| known[0] == short && known[1] == name);
            let bound = known.map_or(FUNCTION_LINES_MAX, |known| known[2].parse().unwrap());
            assert!(lines <= bound, "{short}: {name} has {lines} lines, and may have {bound}: give a part of it a name");
            seen += 1;
        }
    }
    assert_eq!(seen, longer.len(), "tests/tidy/longer_functions.txt names functions that are short now, or gone");
}

#[test]
fn public_functions_say_what_they_do() {
    let all: Vec<_> =
        product().iter().flat_map(|(path, text)| functions::of(path, text)).filter(|function| function.public).collect();
    let said: Vec<_> = all.iter().filter_map(|function| Some((function, function.begins.as_deref()?))).collect();
    let no_verb = said.iter().filter(|(_, begins)| !functions::is_verb(begins)).count();
    let (documented, no_verb) = (said.len() * 100 / all.len(), no_verb * 100 / said.len().max(1));
    println!(
        "{} public functions, {documented} % with documentation, {no_verb} % of it without a verb at its beginning",
        all.len()
    );
    assert!(documented >= DOCUMENTED_MIN, "{documented} % of the public functions have documentation");
    assert!(no_verb <= NO_VERB_MAX, "{no_verb} % of it begins with no verb in the third person");
    if let Some(function) = all.iter().find(|function| function.name.is_empty()) {
        panic!("{} has a function without a name", function.file.display());
    }
}

#[test]
fn every_path_that_the_docs_name_is_there() {
    let mut pages = Vec::new();
    files(&root().join("docs"), ".md", &mut pages);
    pages.extend(["README.md", "CONTRIBUTING.md"].map(|page| root().join(page)));
    let mut looked_at = 0;
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        let places = [
            "contract/",
            "actors/",
            "runtime/",
            "gateway/",
            "hiveward/src/",
            "hiveward/tests/",
            "tests/",
            "dashboard/",
            "deploy/",
            "benches/",
        ];
        for path in text.split('`').skip(1).step_by(2).filter(|path| places.iter().any(|place| path.starts_with(place))) {
            // A place for a name, a pattern, or a command.
            if path.contains(['<', '*', ' ', '…']) || path.contains("NAME") {
                continue;
            }
            let all = match path.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
                Some((before, (names, after))) => {
                    names.split(',').map(|name| format!("{before}{}{after}", name.trim())).collect()
                }
                None => vec![path.to_owned()],
            };
            for path in all {
                assert!(root().join(&path).exists(), "{} names {path}, which is not there", page.display());
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 100, "only {looked_at} paths were looked at");
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
    let allowed =
        ["actors/agents/src/session/shim/spawn.rs", "actors/machines/src/host/fence/watchdog.rs", "gateway/src/trim.rs"];
    for (path, text) in product() {
        let short = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let has = text.lines().any(|line| line.contains("unsafe ") && !line.trim_start().starts_with("//"));
        assert!(!has || allowed.contains(&short.as_str()), "{short} has unsafe code");
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
    for of in ["contract", "runtime", "actors", "gateway", PROGRAM, "tests"] {
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
    for of in ["contract", "runtime", "actors", "gateway", PROGRAM, "tests"] {
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
        assert!(package.starts_with(PROGRAM) && tests.contains(&format!("fn {test}(")), "{name}: there is no {package} {test}");
        // Whether it is red beside the bug is what `make test-planted` looks at.
        let applies = Command::new("git").current_dir(root()).args(["apply", "--check"]).arg(&patch).output().unwrap();
        assert!(applies.status.success(), "{name}: make it anew: {}", String::from_utf8_lossy(&applies.stderr));
    }
}
