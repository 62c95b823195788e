//! Finds the `hiveward` under test: `HIVEWARD_BIN`, else the one beside this test, built if it is missing or stale.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::SystemTime,
};

static BINARY: LazyLock<PathBuf> = LazyLock::new(find);

pub fn hiveward() -> &'static Path {
    &BINARY
}

fn find() -> PathBuf {
    if let Some(given) = std::env::var_os("HIVEWARD_BIN") {
        return given.into();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let test = std::env::current_exe().unwrap();
    // target/PROFILE/deps/this → target/PROFILE/hiveward
    let profile = test.parent().and_then(Path::parent).expect("a test lives in target/PROFILE/deps");
    let binary = profile.join("hiveward");
    let lock = std::fs::File::create(profile.join("hiveward-tests.lock")).unwrap();
    let _lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
    let built = std::fs::metadata(&binary).and_then(|meta| meta.modified()).ok();
    if built.is_some_and(|built| newest(root) <= built) {
        return binary;
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).args(["build", "--quiet", "--bin", "hiveward", "--target-dir"]).arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success(), "hiveward does not build");
    // Cargo leaves the file's time alone when nothing had to be done; the next test need not ask again.
    if let Ok(file) = std::fs::File::options().append(true).open(&binary) {
        let _ = file.set_modified(SystemTime::now());
    }
    binary
}

fn newest(root: &Path) -> SystemTime {
    let packages = ["contract", "runtime", "actors", "gateway", "gateway/cli", "hiveward"].map(|dir| root.join(dir));
    let nouns = std::fs::read_dir(root.join("actors")).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut waiting: Vec<PathBuf> = packages.into_iter().chain(nouns).map(|dir| dir.join("src")).collect();
    waiting.retain(|dir| dir.exists());
    waiting.push(root.join("Cargo.lock"));
    let mut newest = SystemTime::UNIX_EPOCH;
    while let Some(path) = waiting.pop() {
        match std::fs::read_dir(&path) {
            Ok(entries) => waiting.extend(entries.flatten().map(|entry| entry.path())),
            Err(_) => newest = newest.max(std::fs::metadata(&path).and_then(|meta| meta.modified()).unwrap_or(newest)),
        }
    }
    newest
}
