//! What the node does with a repository, by git's own command line. Git sees a view of the repository with a configuration
//! of ours (`view`), runs in a process of bounded size and time (`child`), and is given of a worktree only what was looked
//! over before (`survey`): nothing that an agent wrote is run (decision 21).

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use tokio::sync::Mutex;

use super::{
    child,
    survey::{self, Bounds, LeftOut, Why},
    view::View,
};

/// Bytes of an index; a longer one is made anew.
const INDEX_BYTES_MAX: u64 = 1 << 30;
/// Lock under which worktrees are added and removed one at a time: git's own locks refuse instead of waiting.
static TREES: Mutex<()> = Mutex::const_new(());

/// A repository for the time of one operation. What it may not keep longer is the view: agents run meanwhile.
#[derive(Debug)]
pub(super) struct Git {
    view: View,
}

/// Result of committing a worktree.
#[derive(Debug)]
pub(super) struct Committed {
    /// Last commit of the branch.
    pub commit: String,
    /// Places that are there and were not committed, though nothing says that they are to be ignored.
    pub left_out: Vec<LeftOut>,
}

impl Git {
    pub(super) async fn at(repository: &Path) -> Result<Self, String> {
        Ok(Self { view: View::of(repository).await? })
    }

    async fn here(&self, args: &[&str]) -> Result<String, String> {
        let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
        told(args[0], self.view.git(&args, &[], &[]).await?)
    }

    async fn put(&self, tree: &Tree<'_>, args: &[&str], input: &[u8]) -> Result<String, String> {
        let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
        told(args[0], self.view.git_in(tree.dir, &tree.admin, &args, &[], input).await?)
    }

    pub(super) async fn commit_at(&self, name: &str) -> Option<String> {
        self.here(&["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{name}^{{commit}}")]).await.ok()
    }

    /// Returns where our branch began: that is kept beside it, because what is under it may have moved on.
    pub(super) async fn began_at(&self, branch: &str) -> Result<String, String> {
        self.here(&["rev-parse", "--verify", &base_ref(branch)]).await
    }

    /// Adds a worktree with a branch that goes on from `before`, or begins at the first of `wanted` that there is, or at
    /// HEAD. Gives the commit that its work is measured by.
    pub(super) async fn add_worktree(
        &self,
        dir: &Path,
        branch: &str,
        before: Option<&str>,
        wanted: &[String],
    ) -> Result<String, String> {
        let _one = TREES.lock().await;
        let (mut begin, mut base) = (None, None);
        if let Some(before) = before
            && let Some(commit) = self.commit_at(&format!("refs/heads/{before}")).await
        {
            base = self.began_at(before).await.ok();
            begin = Some(commit);
        }
        for name in wanted {
            begin = begin.or(self.commit_at(name).await);
        }
        let begin = match begin {
            Some(begin) => begin,
            None if wanted.is_empty() => self.commit_at("HEAD").await.ok_or("the repository has no commit yet; make one")?,
            None => return Err(format!("the repository has none of {}", wanted.join(", "))),
        };
        let base = base.unwrap_or_else(|| begin.clone());
        let dir_text = dir.to_str().ok_or_else(|| format!("{} is no text", dir.display()))?.to_owned();
        // There may be a record of a worktree whose directory somebody removed by hand.
        self.here(&["worktree", "prune"]).await?;
        if self.commit_at(&format!("refs/heads/{branch}")).await.is_some() {
            // Made before, by a life of ours that died just then.
            let base = self.began_at(branch).await.unwrap_or(base);
            self.here(&["worktree", "add", "--quiet", "--no-checkout", &dir_text, branch]).await?;
            self.fill(dir).await?;
            return Ok(base);
        }
        self.here(&["update-ref", &base_ref(branch), &base]).await?;
        self.here(&["worktree", "add", "--quiet", "--no-checkout", "-b", branch, &dir_text, &begin]).await?;
        self.fill(dir).await?;
        Ok(base)
    }

    /// Puts the files of its commit into a new worktree, which first is told where its repository is: git took our view of
    /// it for that.
    async fn fill(&self, dir: &Path) -> Result<(), String> {
        let tree = Tree { dir, admin: self.view.admin_of(dir)? };
        let unwritten = |error: io::Error| format!("{} cannot be made: {error}", dir.display());
        fs::write(dir.join(".git"), format!("gitdir: {}\n", tree.admin.display())).map_err(unwritten)?;
        self.put(&tree, &["read-tree", "--reset", "-u", "HEAD"], &[]).await?;
        self.give_index_back(&tree).map_err(unwritten)
    }

    /// Commits everything in the worktree that may be, as one commit if there is anything.
    ///
    /// What is a repository of its own, too large or no file at all stays where it is, and is named.
    pub(super) async fn commit_all(&self, dir: &Path, message: &str, author: &str) -> Result<Committed, String> {
        let tree = Tree { dir, admin: self.view.admin_of(dir)? };
        let looked_at = dir.to_owned();
        let surveyed = tokio::task::spawn_blocking(move || survey::survey(&looked_at, Bounds::default())).await;
        let left_out = surveyed.map_err(|error| format!("the workspace could not be looked over: {error}"))??;
        let taken = self.take_index(&tree).map_err(|error| format!("the index of {} cannot be read: {error}", dir.display()))?;
        let staged = if taken { self.stage(&tree, &left_out).await } else { Err(String::new()) };
        let left_out = match staged {
            Ok(left_out) => left_out,
            Err(_) => {
                // There is none, or it is broken: all is looked at as if for the first time.
                let _ = fs::remove_file(self.view.index());
                self.put(&tree, &["read-tree", "HEAD"], &[]).await?;
                self.stage(&tree, &left_out).await?
            }
        };
        let (head, now) = (
            self.put(&tree, &["rev-parse", "--verify", "HEAD^{commit}"], &[]).await?,
            self.put(&tree, &["write-tree"], &[]).await?,
        );
        let before = self.put(&tree, &["rev-parse", "--verify", "HEAD^{tree}"], &[]).await?;
        let mut commit = head.clone();
        if now != before {
            commit = self.commit_tree(&tree, &now, &head, message, author).await?;
            self.put(&tree, &["update-ref", "-m", "commit of an attempt's work", "HEAD", &commit, &head], &[]).await?;
        }
        self.give_index_back(&tree).map_err(|error| format!("the index of {} cannot be written: {error}", dir.display()))?;
        Ok(Committed { commit, left_out })
    }

    async fn commit_tree(
        &self,
        tree: &Tree<'_>,
        files: &str,
        parent: &str,
        message: &str,
        author: &str,
    ) -> Result<String, String> {
        let mut who: Vec<(&'static str, OsString)> = Vec::new();
        for (name, email) in [("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL"), ("GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")] {
            who.extend([(name, OsString::from(author)), (email, OsString::from("hiveward@localhost"))]);
        }
        let args = ["commit-tree", "-p", parent, "-F", "-", files].map(OsStr::new);
        told(args[0], self.view.git_in(tree.dir, &tree.admin, &args, &who, message.as_bytes()).await?)
    }

    /// Takes a copy of the worktree's index to work on, so that neither a lock that a killed program left nor a pipe in its place
    /// stops us. Returns whether there is one.
    fn take_index(&self, tree: &Tree<'_>) -> io::Result<bool> {
        let index = tree.admin.join("index");
        match fs::symlink_metadata(&index) {
            Ok(meta) if meta.is_file() && meta.len() <= INDEX_BYTES_MAX => copy_index(&index, &self.view.index()).map(|()| true),
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn give_index_back(&self, tree: &Tree<'_>) -> io::Result<()> {
        let new = tree.admin.join("index.hiveward");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        copy_index(&self.view.index(), &new)?;
        fs::rename(new, tree.admin.join("index"))
    }

    /// Puts everything into the index but what is left out. Gives those of it that a user has to hear of: not what is ignored,
    /// no submodule of the repository's own, no stray socket.
    async fn stage(&self, tree: &Tree<'_>, left_out: &[LeftOut]) -> Result<Vec<LeftOut>, String> {
        let ignored = self.ignored(tree, left_out).await?;
        let mut excluded = left_out.to_vec();
        // Git does not look into it, and refuses to be told that it should not.
        excluded.retain(|left| !ignored.contains(left.path.as_os_str().as_bytes()));
        let add = ["add", "--all", "--pathspec-from-file=-", "--pathspec-file-nul"];
        self.put(tree, &add, &survey::pathspecs(&excluded)).await?;
        let mut concern = Vec::new();
        for left in excluded {
            let args = ["--literal-pathspecs", "ls-tree", "HEAD", "--"].map(OsStr::new);
            let args = [args[0], args[1], args[2], args[3], left.path.as_os_str()];
            let known = told(args[1], self.view.git_in(tree.dir, &tree.admin, &args, &[], &[]).await?)?;
            let concerns = match left.why {
                Why::Repository => !known.starts_with("160000 "),
                // What git would not have looked at in any case, unless it stands where a file was.
                Why::Special => !known.is_empty(),
                Why::TooLarge => true,
            };
            if concerns {
                concern.push(left);
            }
        }
        Ok(concern)
    }

    async fn ignored(&self, tree: &Tree<'_>, left_out: &[LeftOut]) -> Result<HashSet<Vec<u8>>, String> {
        if left_out.is_empty() {
            return Ok(HashSet::new());
        }
        let asked: Vec<u8> = left_out.iter().flat_map(|left| [left.path.as_os_str().as_bytes(), b"\0"].concat()).collect();
        let args = ["check-ignore", "--stdin", "-z"].map(OsStr::new);
        let said = self.view.git_in(tree.dir, &tree.admin, &args, &[], &asked).await?;
        // 1 says that none is.
        if !matches!(said.code, Some(0 | 1)) {
            return told(args[0], said).map(|_| HashSet::new());
        }
        Ok(said.stdout.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect())
    }

    pub(super) async fn changed(&self, base: &str, commit: &str) -> Result<Vec<String>, String> {
        let args = ["diff-tree", "-r", "-z", "--name-only", "--no-renames", "--no-ext-diff", "--no-textconv", base, commit];
        let names = self.here(&args).await?;
        Ok(names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    /// Removes a worktree with everything in it, however it is nested; a process of its own does it, for no stack of ours is deep
    /// enough.
    pub(super) async fn remove_worktree(&self, dir: &Path) -> Result<(), String> {
        let _one = TREES.lock().await;
        let args = ["-rf", "--one-file-system", "--"].map(OsStr::new);
        let args = [args[0], args[1], args[2], dir.as_os_str()];
        let env = child::environment(Path::new("/nonexistent"));
        told(OsStr::new("rm"), child::run("rm", &args, Path::new("/"), &env, &[]).await?)?;
        self.here(&["worktree", "prune"]).await.map(drop)
    }

    /// Returns the names and commits of the branches whose names begin with `prefix`.
    pub(super) async fn branches_below(&self, prefix: &str) -> Result<Vec<(String, String)>, String> {
        let wanted = format!("refs/heads/{prefix}");
        let found = self.here(&["for-each-ref", "--format=%(refname:short) %(objectname)", &wanted]).await?;
        Ok(found.lines().filter_map(|line| line.rsplit_once(' ')).map(|(name, at)| (name.into(), at.into())).collect())
    }

    /// Returns the branches that a worktree is on.
    pub(super) async fn checked_out(&self) -> Result<Vec<String>, String> {
        let found = self.here(&["worktree", "list", "--porcelain"]).await?;
        Ok(found.lines().filter_map(|line| line.strip_prefix("branch refs/heads/")).map(str::to_owned).collect())
    }

    pub(super) async fn is_ancestor(&self, commit: &str, of: &str) -> Result<bool, String> {
        // What is new on it, at most one line.
        Ok(self.here(&["rev-list", "--max-count=1", commit, &format!("^{of}")]).await?.is_empty())
    }

    /// Removes a branch if it is still at this commit; nothing happens if somebody has moved it meanwhile.
    pub(super) async fn delete_branch(&self, branch: &str, commit: &str) -> Result<(), String> {
        let _one = TREES.lock().await;
        self.here(&["update-ref", "-d", &format!("refs/heads/{branch}"), commit]).await?;
        self.here(&["update-ref", "-d", &base_ref(branch)]).await.map(drop)
    }

    /// Removes a branch that added nothing. One with work of its own is kept.
    pub(super) async fn delete_if_merged_into(&self, branch: &str, base: &str) -> Result<(), String> {
        if self.commit_at(&format!("refs/heads/{branch}")).await.as_deref() == Some(base) {
            self.here(&["update-ref", "-d", &format!("refs/heads/{branch}"), base]).await?;
            self.here(&["update-ref", "-d", &base_ref(branch)]).await?;
        }
        Ok(())
    }
}

/// A worktree and its own directory in the repository.
struct Tree<'a> {
    dir: &'a Path,
    admin: PathBuf,
}

/// Returns what a call answered, or why it failed.
fn told(command: &OsStr, said: child::Said) -> Result<String, String> {
    match said.code {
        Some(0) => Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned()),
        _ if command == OsStr::new("rm") => Err(said.stderr),
        None => Err(format!("git {} was ended by a signal: {}", command.display(), said.stderr)),
        Some(_) => Err(format!("git {}: {}", command.display(), said.stderr)),
    }
}

/// Copies an index with the time at which git wrote it: a file that is no older than its index may have changed in the second in
/// which it was entered, so git reads such a file again. A copy that looks newer would hide the change, and the work would be
/// lost.
fn copy_index(from: &Path, to: &Path) -> io::Result<()> {
    let written = fs::metadata(from)?.modified()?;
    fs::copy(from, to)?;
    fs::File::options().write(true).open(to)?.set_modified(written)
}

fn base_ref(branch: &str) -> String {
    format!("refs/hiveward/base/{branch}")
}
