//! The workspace of an attempt of a coding agent, from making it to letting it go.
//!
//! Owns worktrees below the node's data directory and the branches it made for them, never a repository. Work is never
//! thrown away: whatever an attempt leaves is committed to its branch before its worktree goes.

pub mod branches;
mod child;
mod git;
#[cfg(test)]
mod hostile;
mod ports;
mod survey;
mod view;

use std::{fs, io, path::PathBuf};

pub use self::ports::{PORTS_EACH, Ports};

use hiveward_catalogue::agent::coding::{WorkspaceSpec, WorktreeSpec};

use self::git::Git;

/// Plan of an attempt's workspace: what it is made from.
pub struct Plan<'a> {
    pub spec: &'a WorkspaceSpec,
    /// Fresh directory, for those who want no other.
    pub scratch: PathBuf,
    /// Directory of all worktrees of the node.
    pub worktrees: PathBuf,
    /// Name of the attempt, unique: also the end of its branch's name.
    pub name: String,
    /// Name of the attempt whose work this one goes on with; both are measured by what that one began at.
    pub before: Option<String>,
    /// Branches to begin at, the first that there is; then the spec's own base.
    pub begin_at: Vec<String>,
}

/// A place to work in.
#[derive(Debug)]
pub struct Workspace {
    pub dir: PathBuf,
    tree: Option<Tree>,
}

#[derive(Debug)]
struct Tree {
    repository: PathBuf,
    spec: WorktreeSpec,
    branch: String,
    /// Commit that the branch began at.
    base: String,
}

/// Result of an attempt in a worktree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    pub branch: String,
    pub commit: String,
    pub base: String,
    /// Files that differ from the base.
    pub files: Vec<String>,
}

/// Returns the branch of an attempt's worktree.
fn branch_of(name: &str) -> String {
    format!("hiveward/{name}")
}

impl Workspace {
    /// Makes it, or finds it as an earlier life of the node made it. Errors say what to do, and nothing is left behind.
    pub async fn open(plan: Plan<'_>) -> Result<Self, String> {
        let canonical = |path: &PathBuf| fs::canonicalize(path).map_err(|error| format!("workspace {}: {error}", path.display()));
        match plan.spec {
            WorkspaceSpec::Scratch => Ok(Self { dir: canonical(&plan.scratch)?, tree: None }),
            WorkspaceSpec::Directory { path } => {
                let dir = canonical(path)?;
                if dir.is_dir() {
                    Ok(Self { dir, tree: None })
                } else {
                    Err(format!("workspace {} is no directory", dir.display()))
                }
            }
            WorkspaceSpec::Worktree(spec) => {
                let made = |error: io::Error| format!("the directory of worktrees cannot be made: {error}");
                fs::create_dir_all(&plan.worktrees).map_err(made)?;
                let dir = canonical(&plan.worktrees)?.join(&plan.name);
                let repository = canonical(&spec.repository)?;
                let git = Git::at(&repository).await?;
                let branch = branch_of(&plan.name);
                let base = if dir.exists() {
                    git.began_at(&branch).await?
                } else {
                    let mut wanted = plan.begin_at.clone();
                    wanted.extend(spec.base.clone());
                    git.add_worktree(&dir, &branch, plan.before.as_deref().map(branch_of).as_deref(), &wanted).await?
                };
                Ok(Self { dir, tree: Some(Tree { repository, spec: spec.clone(), branch, base }) })
            }
        }
    }

    /// Commits what is there. With `done`, an attempt that should have changed something must have, and all that it left
    /// must be in the commit but what is ignored; the rest of its work is committed all the same.
    pub async fn keep(&self, title: &str, author: &str, done: bool) -> Result<Option<Work>, String> {
        let Some(tree) = &self.tree else { return Ok(None) };
        let message = if done { title.to_owned() } else { format!("unfinished: {title}") };
        let git = Git::at(&tree.repository).await?;
        let kept = git.commit_all(&self.dir, &message, author).await?;
        if let Some(left) = kept.left_out.first() {
            let more = match kept.left_out.len() - 1 {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            let why = format!("{} {}{more}", left.path.display(), left.why.words());
            if done {
                return Err(format!("not all of its work could be committed: {why}"));
            }
            tracing::warn!(branch = tree.branch, why, "not all that an attempt left could be committed");
        }
        let commit = kept.commit;
        let files = git.changed(&tree.base, &commit).await?;
        if done && tree.spec.must_change && files.is_empty() {
            return Err(format!("it says that it is done, but nothing differs from {}", &tree.base[..12.min(tree.base.len())]));
        }
        Ok(Some(Work { branch: tree.branch.clone(), commit, base: tree.base.clone(), files }))
    }

    /// Removes the worktree; what was committed stays on its branch, and a branch without a commit of its own goes too.
    pub async fn let_go(self) -> Result<(), String> {
        let Some(tree) = &self.tree else { return Ok(()) };
        let git = Git::at(&tree.repository).await?;
        git.remove_worktree(&self.dir).await?;
        git.delete_if_merged_into(&tree.branch, &tree.base).await
    }

    /// Returns how many bytes the worktree may take; `None` without a bound or a worktree.
    pub fn bytes_max(&self) -> Option<u64> {
        self.tree.as_ref()?.spec.bytes_max
    }

    /// Returns the spec of the worktree, if it is one.
    pub fn worktree(&self) -> Option<&WorktreeSpec> {
        self.tree.as_ref().map(|tree| &tree.spec)
    }

    /// Returns how many bytes everything in a directory takes on disk; links are not followed.
    pub fn bytes(dir: &std::path::Path) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let of = |entry: fs::DirEntry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => Self::bytes(&entry.path()),
            _ => entry.metadata().map_or(0, |meta| meta.blocks() * 512),
        };
        entries.map(of).sum()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::process::Command;

    use super::*;

    /// Runs git in `dir` and returns what it answered; panics if it failed.
    pub fn git(dir: &std::path::Path, args: &[&str]) -> String {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"];
        let output = Command::new("git").current_dir(dir).args(identity).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub struct Place {
        pub root: tempfile::TempDir,
        pub spec: WorkspaceSpec,
    }

    impl Place {
        /// Makes a repository with one commit, and a spec of worktrees of it.
        pub fn new(must_change: bool) -> Self {
            let root = tempfile::tempdir().unwrap();
            let repository = root.path().join("repo");
            fs::create_dir(&repository).unwrap();
            git(&repository, &["init", "-q", "-b", "main"]);
            fs::write(repository.join("a"), "1\n").unwrap();
            git(&repository, &["add", "."]);
            git(&repository, &["commit", "-qm", "first"]);
            let spec = WorktreeSpec { repository, base: None, must_change, set_up: None, tear_down: None, bytes_max: None };
            Self { root, spec: WorkspaceSpec::Worktree(spec) }
        }

        /// Opens the workspace of the attempt of this name, which begins at the first of these branches that there is.
        pub async fn open(&self, name: &str, begin_at: &[&str]) -> Workspace {
            let begin_at = begin_at.iter().map(|branch| (*branch).to_owned()).collect();
            let worktrees = self.root.path().join("worktrees");
            let plan =
                Plan { spec: &self.spec, scratch: PathBuf::new(), worktrees, name: name.to_owned(), before: None, begin_at };
            Workspace::open(plan).await.unwrap()
        }

        /// Returns the names of the repository's branches, one a line.
        pub fn branches(&self) -> String {
            git(&self.root.path().join("repo"), &["branch", "--format=%(refname:short)"])
        }
    }

    #[tokio::test]
    async fn work_stays_on_its_branch_and_a_branch_without_work_goes_with_its_worktree() {
        let place = Place::new(true);
        let (one, two) = (place.open("one", &[]).await, place.open("two", &[]).await);
        fs::write(one.dir.join("a"), "2\n").unwrap();
        fs::write(one.dir.join("b"), "new\n").unwrap();
        let lying = two.keep("nothing", "coder", true).await.unwrap_err();
        assert!(lying.contains("nothing differs"), "{lying}");
        // Found again as after a restart.
        let one = {
            drop(one);
            place.open("one", &[]).await
        };
        let work = one.keep("do it", "coder", true).await.unwrap().unwrap();
        assert_eq!((work.branch.as_str(), work.files), ("hiveward/one", vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(one.keep("again", "coder", true).await.unwrap().unwrap().commit, work.commit, "nothing new, no new commit");
        let gone = one.dir.clone();
        one.let_go().await.unwrap();
        two.let_go().await.unwrap();
        assert!(!gone.exists());
        assert_eq!(place.branches(), "hiveward/one\nmain", "unmerged work is never removed");
        let next = place.open("next", &["hiveward/no-such", "hiveward/one"]).await;
        assert_eq!(fs::read_to_string(next.dir.join("b")).unwrap(), "new\n", "it begins where the other ended");
        next.let_go().await.unwrap();
    }

    /// Checks such a change, because git enters a file with its size and the second of its time.
    #[tokio::test]
    async fn a_change_of_the_same_size_in_the_second_of_the_checkout_is_work_too() {
        use std::os::unix::fs::MetadataExt;

        let second =
            || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map(|since| since.as_secs() as i64).unwrap();
        for round in 0.. {
            let place = Place::new(true);
            let tree = place.open("quick", &[]).await;
            let file = tree.dir.join("a");
            let entered = fs::metadata(&file).unwrap();
            fs::write(&file, "2\n").unwrap();
            let changed = fs::metadata(&file).unwrap();
            if (entered.mtime(), entered.ctime()) != (changed.mtime(), changed.ctime()) {
                assert!(round < 20, "no checkout and change fall into one second");
                continue;
            }
            while second() <= changed.mtime() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            assert_eq!(tree.keep("do it", "coder", true).await.unwrap().unwrap().files, ["a"]);
            break;
        }
    }

    #[tokio::test]
    async fn what_an_attempt_that_failed_left_is_kept_too() {
        let place = Place::new(true);
        let tree = place.open("one", &[]).await;
        fs::write(tree.dir.join("half"), "x").unwrap();
        tree.keep("do it", "coder", false).await.unwrap();
        tree.let_go().await.unwrap();
        let log = git(&place.root.path().join("repo"), &["log", "-1", "--format=%s by %an", "hiveward/one"]);
        assert_eq!(log, "unfinished: do it by coder");
    }

    #[tokio::test]
    async fn an_attempt_goes_on_with_the_work_of_the_one_before_and_is_measured_by_the_same_beginning() {
        let place = Place::new(true);
        let first = place.open("t-1", &[]).await;
        fs::write(first.dir.join("half"), "x").unwrap();
        first.keep("do it", "coder", false).await.unwrap();
        first.let_go().await.unwrap();
        let worktrees = place.root.path().join("worktrees");
        let (name, before) = ("t-2".to_owned(), Some("t-1".to_owned()));
        let plan = Plan { spec: &place.spec, scratch: PathBuf::new(), worktrees, name, before, begin_at: Vec::new() };
        let second = Workspace::open(plan).await.unwrap();
        assert_eq!(fs::read_to_string(second.dir.join("half")).unwrap(), "x");
        // It found that nothing more was to be done.
        assert_eq!(second.keep("do it", "coder", true).await.unwrap().unwrap().files, ["half"]);
        second.let_go().await.unwrap();
        assert_eq!(place.branches(), "hiveward/t-1\nhiveward/t-2\nmain");
    }

    #[tokio::test]
    async fn a_repository_that_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().to_owned();
        let spec = WorktreeSpec { repository, base: None, must_change: false, set_up: None, tear_down: None, bytes_max: None };
        let spec = WorkspaceSpec::Worktree(spec);
        let worktrees = dir.path().join("worktrees");
        let plan = Plan { spec: &spec, scratch: PathBuf::new(), worktrees, name: "n".into(), before: None, begin_at: Vec::new() };
        let error = Workspace::open(plan).await.unwrap_err();
        assert!(error.contains("is no git repository"), "{error}");
    }
}
