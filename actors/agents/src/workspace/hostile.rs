//! Promise: whatever an agent leaves in its worktree, or in the repository beside it, nothing of it runs on the node, and the
//! attempt ends in words or is kept harmlessly. One small function plants each kind.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use nix::{sys::stat::Mode, unistd::mkfifo};

use super::{
    Plan, Workspace, branches,
    child::{self, environment},
    tests::{Place, git},
};

/// Place that an agent plants in, and the program that it would have run.
struct Field {
    place: Place,
    tree: PathBuf,
    /// Path of a program that writes its environment to `ran`.
    program: String,
    ran: PathBuf,
}

#[derive(Clone, Copy)]
enum End {
    Kept,
    /// It says so, and the rest of the work is on its branch.
    LeftOut(&'static str),
    /// It says so.
    Refused(&'static str),
}

use End::{Kept, LeftOut, Refused};

impl Field {
    fn repository(&self) -> PathBuf {
        self.place.root.path().join("repo")
    }

    fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn set(&self, name: &str, value: &str) {
        git(&self.repository(), &["config", name, value]);
    }

    fn set_program(&self, name: &str) {
        self.set(name, &self.program);
    }

    fn executable(&self, path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(&self.program, path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Makes a repository with one commit and everything in its configuration that runs something.
    fn hostile_repository(&self, at: &Path) {
        fs::create_dir_all(at).unwrap();
        git(at, &["init", "-q", "-b", "main"]);
        fs::write(at.join("f"), "1").unwrap();
        fs::write(at.join(".gitattributes"), "* filter=evil diff=evil\n").unwrap();
        git(at, &["add", "."]);
        git(at, &["commit", "-qm", "x"]);
        fs::write(at.join("f"), "22").unwrap();
        self.hostile_config(at);
    }

    fn hostile_config(&self, at: &Path) {
        for name in [
            "core.fsmonitor",
            "filter.evil.clean",
            "filter.evil.smudge",
            "filter.evil.process",
            "diff.evil.command",
            "diff.evil.textconv",
            "diff.external",
            "core.sshCommand",
            "core.pager",
            "core.editor",
            "gpg.program",
        ] {
            git(at, &["config", name, &self.program]);
        }
    }
}

type Plant = fn(&Field) -> End;

fn hooks(field: &Field, dir: &Path) {
    for hook in ["pre-commit", "post-commit", "commit-msg", "prepare-commit-msg", "post-index-change"] {
        field.executable(&dir.join(hook));
    }
    for hook in ["post-checkout", "reference-transaction", "pre-auto-gc", "fsmonitor-watchman", "post-rewrite"] {
        field.executable(&dir.join(hook));
    }
}

const REPOSITORY: &str = "is a git repository of its own";

const NESTED: [(&str, Plant); 10] = [
    ("a repository with a monitor", |field| {
        let dir = field.tree.join("x");
        field.hostile_repository(&dir);
        LeftOut(REPOSITORY)
    }),
    ("a repository deep below", |field| {
        field.hostile_repository(&field.tree.join("a1/b/c/d/e"));
        LeftOut(REPOSITORY)
    }),
    ("a repository with hooks", |field| {
        let dir = field.tree.join("x");
        field.hostile_repository(&dir);
        hooks(field, &dir.join(".git/hooks"));
        LeftOut(REPOSITORY)
    }),
    ("a repository without a commit", |field| {
        let dir = field.tree.join("x");
        fs::create_dir(&dir).unwrap();
        git(&dir, &["init", "-q"]);
        field.hostile_config(&dir);
        LeftOut(REPOSITORY)
    }),
    ("a .git that is a file and points elsewhere", |field| {
        let elsewhere = field.place.root.path().join("elsewhere");
        field.hostile_repository(&elsewhere);
        field.write("x/f", "1");
        field.write("x/.git", &format!("gitdir: {}/.git\n", elsewhere.display()));
        LeftOut(REPOSITORY)
    }),
    ("a .git that is a link", |field| {
        let elsewhere = field.place.root.path().join("elsewhere");
        field.hostile_repository(&elsewhere);
        field.write("x/f", "1");
        symlink(elsewhere.join(".git"), field.tree.join("x/.git")).unwrap();
        LeftOut(REPOSITORY)
    }),
    ("a .git in capitals", |field| {
        let dir = field.tree.join("x");
        field.hostile_repository(&dir);
        fs::rename(dir.join(".git"), dir.join(".GIT")).unwrap();
        LeftOut(REPOSITORY)
    }),
    ("a submodule that was made hostile", |field| {
        let dir = field.tree.join("sub");
        field.hostile_repository(&dir);
        field.write(".gitmodules", "[submodule \"sub\"]\n\tpath = sub\n\turl = ./sub\n\tignore = none\n");
        // As an agent commits it by itself.
        git(&dir, &["config", "--unset", "core.fsmonitor"]);
        let commit = git(&dir, &["-c", "core.pager=cat", "rev-parse", "HEAD"]);
        git(&field.tree, &["update-index", "--add", "--cacheinfo", &format!("160000,{commit},sub")]);
        git(&field.tree, &["add", ".gitmodules"]);
        git(&field.tree, &["commit", "-qm", "submodule"]);
        git(&dir, &["config", "core.fsmonitor", &field.program]);
        Kept
    }),
    ("a repository that is ignored", |field| {
        field.hostile_repository(&field.tree.join("node_modules/x"));
        field.write(".gitignore", "node_modules\n");
        Kept
    }),
    ("a bare repository in disguise", |field| {
        let dir = field.tree.join("x");
        fs::create_dir(&dir).unwrap();
        git(&dir, &["init", "-q", "--bare"]);
        field.hostile_config(&dir);
        git(&dir, &["config", "core.worktree", ".."]);
        Kept
    }),
];

const CONFIGURED: [(&str, Plant); 16] = [
    ("a monitor of the repository", |field| {
        field.set_program("core.fsmonitor");
        Kept
    }),
    ("filters of the repository", |field| {
        field.write(".gitattributes", "* filter=evil\n");
        for name in ["filter.evil.clean", "filter.evil.smudge", "filter.evil.process"] {
            field.set_program(name);
        }
        field.set("filter.evil.required", "true");
        Kept
    }),
    ("a configuration that includes another", |field| {
        let other = field.place.root.path().join("other");
        fs::write(&other, format!("[core]\n\tfsmonitor = {}\n", field.program)).unwrap();
        field.set("include.path", &other.display().to_string());
        field.set("includeIf.gitdir:/.path", &other.display().to_string());
        Kept
    }),
    ("hooks of the repository", |field| {
        hooks(field, &field.repository().join(".git/hooks"));
        Kept
    }),
    ("hooks elsewhere", |field| {
        let dir = field.place.root.path().join("hooks");
        hooks(field, &dir);
        field.set("core.hooksPath", &dir.display().to_string());
        Kept
    }),
    ("a worktree that is elsewhere", |field| {
        let other = field.place.root.path().join("other-tree");
        field.hostile_repository(&other);
        field.set("core.worktree", &other.display().to_string());
        Kept
    }),
    ("programs that show differences", |field| {
        field.write(".gitattributes", "* diff=evil\n");
        for name in ["diff.external", "diff.evil.command", "diff.evil.textconv", "interactive.diffFilter"] {
            field.set_program(name);
        }
        Kept
    }),
    ("programs that connect", |field| {
        for name in ["core.sshCommand", "core.gitProxy", "credential.helper", "core.askPass", "remote.o.uploadpack"] {
            field.set_program(name);
        }
        field.set("remote.o.url", &format!("ext::{}", field.program));
        field.set("protocol.ext.allow", "always");
        field.set("core.repositoryformatversion", "1");
        field.set("extensions.partialClone", "o");
        field.set("remote.o.promisor", "true");
        Kept
    }),
    ("editors and pagers", |field| {
        for name in ["core.editor", "sequence.editor", "core.pager", "pager.add", "pager.diff-tree", "pager.config"] {
            field.set_program(name);
        }
        field.set("commit.verbose", "true");
        Kept
    }),
    ("merge drivers", |field| {
        field.write(".gitattributes", "* merge=evil\n");
        field.set_program("merge.evil.driver");
        Kept
    }),
    ("signatures", |field| {
        for name in ["gpg.program", "gpg.ssh.program", "gpg.x509.program", "gpg.ssh.defaultKeyCommand"] {
            field.set_program(name);
        }
        field.set("commit.gpgSign", "true");
        Kept
    }),
    ("attributes beside the tree", |field| {
        let attributes = field.place.root.path().join("attributes");
        fs::write(&attributes, "* filter=evil\n").unwrap();
        field.set("core.attributesFile", &attributes.display().to_string());
        fs::create_dir_all(field.repository().join(".git/info")).unwrap();
        fs::write(field.repository().join(".git/info/attributes"), "* filter=evil\n").unwrap();
        field.set_program("filter.evil.clean");
        Kept
    }),
    ("a configuration of the worktree", |field| {
        field.set("core.repositoryformatversion", "1");
        field.set("extensions.worktreeConfig", "true");
        git(&field.tree, &["config", "--worktree", "core.fsmonitor", &field.program]);
        Kept
    }),
    ("objects of another repository", |field| {
        let other = field.place.root.path().join("other");
        field.hostile_repository(&other);
        let alternates = field.repository().join(".git/objects/info/alternates");
        fs::write(alternates, format!("{}\n", other.join(".git/objects").display())).unwrap();
        field.set_program("core.alternateRefsCommand");
        Kept
    }),
    ("a commit that stands for another", |field| {
        let head = git(&field.tree, &["rev-parse", "HEAD"]);
        let empty = git(&field.tree, &["hash-object", "-t", "tree", "-w", "/dev/null"]);
        let other = git(&field.tree, &["commit-tree", "-m", "other", &empty]);
        git(&field.tree, &["replace", &head, &other]);
        Kept
    }),
    ("a collection of garbage", |field| {
        field.set("gc.auto", "1");
        field.set("gc.autoDetach", "false");
        field.executable(&field.repository().join(".git/hooks/pre-auto-gc"));
        field.set_program("gc.recentObjectsHook");
        Kept
    }),
];

const TREES: [(&str, Plant); 15] = [
    ("a worktree that says it is of another repository", |field| {
        let other = field.place.root.path().join("other");
        field.hostile_repository(&other);
        fs::write(field.tree.join(".git"), format!("gitdir: {}/.git\n", other.display())).unwrap();
        Kept
    }),
    ("a worktree that was made a repository", |field| {
        fs::remove_file(field.tree.join(".git")).unwrap();
        field.hostile_repository(&field.tree);
        fs::remove_file(field.tree.join(".gitattributes")).unwrap();
        Kept
    }),
    ("a worktree that a link stands for", |field| {
        let other = field.place.root.path().join("other");
        field.hostile_repository(&other);
        fs::remove_file(field.tree.join(".git")).unwrap();
        symlink(other.join(".git"), field.tree.join(".git")).unwrap();
        Kept
    }),
    ("a pipe", |field| {
        mkfifo(&field.tree.join("pipe"), Mode::S_IRWXU).unwrap();
        Kept
    }),
    ("a pipe that git would read", |field| {
        fs::create_dir(field.tree.join("d")).unwrap();
        mkfifo(&field.tree.join("d/.gitignore"), Mode::S_IRWXU).unwrap();
        Refused("d/.gitignore is a pipe")
    }),
    ("a pipe where a file was", |field| {
        fs::remove_file(field.tree.join("a")).unwrap();
        mkfifo(&field.tree.join("a"), Mode::S_IRWXU).unwrap();
        LeftOut("a is a pipe")
    }),
    ("a socket", |field| {
        drop(UnixListener::bind(field.tree.join("s")).unwrap());
        Kept
    }),
    ("a lock that nobody lets go of", |field| {
        fs::write(admin(field).join("index.lock"), "").unwrap();
        Kept
    }),
    ("an index that is a pipe", |field| {
        fs::remove_file(admin(field).join("index")).unwrap();
        mkfifo(&admin(field).join("index"), Mode::S_IRWXU).unwrap();
        Kept
    }),
    ("an index that is none", |field| {
        fs::write(admin(field).join("index"), "DIRC garbage").unwrap();
        Kept
    }),
    ("a file with a hole of a terabyte", |field| {
        fs::File::create(field.tree.join("huge")).unwrap().set_len(1 << 40).unwrap();
        LeftOut("huge is larger")
    }),
    ("directories in directories", |field| {
        let mut deep = field.tree.clone();
        deep.extend(std::iter::repeat_n("d", super::survey::DEPTH_MAX + 2));
        fs::create_dir_all(deep).unwrap();
        Refused("directories in more than")
    }),
    ("names that are no text", |field| {
        for name in [&b"\xff\xfe"[..], b"with\nline", b"-rf", b":(exclude)a", &[b'n'; 255]] {
            fs::write(field.tree.join(OsStr::from_bytes(name)), "x").unwrap();
        }
        Kept
    }),
    ("a repository whose name is no text", |field| {
        let dir = field.tree.join(OsStr::from_bytes(b"\xff\n*"));
        field.hostile_repository(&dir);
        LeftOut(REPOSITORY)
    }),
    ("links that go elsewhere", |field| {
        for (to, name) in [("/etc/passwd", "one"), (".", "loop"), ("../../../..", "up"), ("/dev/zero", "zero")] {
            symlink(to, field.tree.join(name)).unwrap();
        }
        symlink("/proc/self/environ", field.tree.join(".gitattributes")).unwrap();
        Kept
    }),
];

/// Returns the worktree's own directory in its repository.
fn admin(field: &Field) -> PathBuf {
    field.repository().join(".git/worktrees/one")
}

async fn nothing_runs(kind: &str, plant: Plant) {
    let place = Place::new(true);
    let tree = fs::canonicalize(place.open("one", &[]).await.dir).unwrap();
    let (program, ran) = (place.root.path().join("program"), place.root.path().join("ran"));
    fs::write(&program, format!("#!/bin/sh\nenv >>{}\ncat 2>/dev/null\n", ran.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let field = Field { program: program.display().to_string(), ran, place, tree };
    field.write("work", "done\n");
    let end = plant(&field);
    // What planting runs is the agent's own doing.
    let _ = fs::remove_file(&field.ran);

    // As the next life of a node finds it.
    let workspace = field.place.open("one", &[]).await;
    let kept = workspace.keep("do it", "coder", true).await;
    let said = kept.as_ref().err().cloned().unwrap_or_default();
    match end {
        Kept => assert!(kept.is_ok(), "{kind}: {said}"),
        LeftOut(words) | Refused(words) => assert!(said.contains(words), "{kind}: {kept:?}"),
    }
    let again = workspace.keep("do it", "coder", false).await;
    assert!(again.is_ok() != matches!(end, Refused(_)), "{kind}: {again:?}");
    workspace.let_go().await.unwrap_or_else(|why| panic!("{kind}: {why}"));
    assert!(!field.tree.exists(), "{kind}: its worktree is still there");

    let Place { root, spec } = &field.place;
    let (worktrees, begin_at) = (root.path().join("worktrees"), Vec::new());
    let (name, before) = ("two".to_owned(), Some("one".to_owned()));
    let plan = Plan { spec, scratch: PathBuf::new(), worktrees, name, before, begin_at };
    let next = Workspace::open(plan).await.unwrap_or_else(|why| panic!("{kind}: {why}"));
    if !matches!(end, Refused(_)) {
        assert_eq!(fs::read_to_string(next.dir.join("work")).unwrap(), "done\n", "{kind}: the work is on its branch");
    }
    next.keep("more", "coder", false).await.unwrap_or_else(|why| panic!("{kind}: {why}"));
    next.let_go().await.unwrap_or_else(|why| panic!("{kind}: {why}"));
    branches::clean(&field.repository(), None, false, false).await.unwrap_or_else(|why| panic!("{kind}: {why}"));

    let environment = fs::read_to_string(&field.ran).unwrap_or_default();
    assert!(!field.ran.exists(), "{kind}: it ran on the node, and read there: {environment}");
}

#[tokio::test]
async fn nothing_that_an_agent_left_in_a_worktree_runs_on_the_node() {
    for (kind, plant) in NESTED.into_iter().chain(TREES) {
        Box::pin(nothing_runs(kind, plant)).await;
    }
}

#[tokio::test]
async fn nothing_that_an_agent_wrote_into_its_repository_runs_on_the_node() {
    for (kind, plant) in CONFIGURED {
        Box::pin(nothing_runs(kind, plant)).await;
    }
}

#[tokio::test]
async fn a_program_of_the_node_has_nothing_of_its_environment() {
    let said = child::run("env", &[], Path::new("/"), &environment(Path::new("/home")), &[]).await.unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    let mut names: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.sort_unstable();
    assert_eq!(names, ["HOME", "LC_ALL", "PATH"]);
}
