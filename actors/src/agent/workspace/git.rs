//! Git's own command line, with a deadline, and without anybody's configuration of hooks or prompts.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, sync::Mutex};

const WITHIN: Duration = Duration::from_secs(120);
/// Of what git says, in an error.
const SAID_BYTES_MAX: usize = 2048;

/// Worktrees are added and removed one at a time: git's own locks refuse instead of waiting.
static TREES: Mutex<()> = Mutex::const_new(());

#[derive(Clone, Debug)]
pub(super) struct Git {
    repository: PathBuf,
}

impl Git {
    pub(super) fn at(repository: PathBuf) -> Self {
        Self { repository }
    }

    async fn run(&self, dir: &Path, args: &[&str], who: Option<&str>) -> Result<String, String> {
        let mut git = Command::new("git");
        git.current_dir(dir).args(["-c", "core.hooksPath=/dev/null", "-c", "commit.gpgSign=false"]).args(args);
        git.env("GIT_TERMINAL_PROMPT", "0").env_remove("GIT_DIR").env_remove("GIT_WORK_TREE").env_remove("GIT_INDEX_FILE");
        if let Some(who) = who {
            for role in ["AUTHOR", "COMMITTER"] {
                git.env(format!("GIT_{role}_NAME"), who).env(format!("GIT_{role}_EMAIL"), "hiveward@localhost");
            }
        }
        let output = git.stdin(Stdio::null()).kill_on_drop(true).output();
        let said = match tokio::time::timeout(WITHIN, output).await {
            Err(_) => return Err(format!("git {} did not end within {} s", args[0], WITHIN.as_secs())),
            Ok(Err(error)) => return Err(format!("git cannot be run: {error}; install git on the agent's host")),
            Ok(Ok(output)) => output,
        };
        if said.status.success() {
            return Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned());
        }
        let why = String::from_utf8_lossy(&said.stderr).trim().to_owned();
        Err(format!("git {}: {}", args[0], crate::agent::activity::head(&why, SAID_BYTES_MAX)))
    }

    async fn here(&self, args: &[&str]) -> Result<String, String> {
        self.run(&self.repository, args, None).await
    }

    pub(super) async fn is_repository(&self) -> Result<(), String> {
        let found = self.here(&["rev-parse", "--git-common-dir"]).await;
        found.map(drop).map_err(|why| format!("{} is no git repository ({why})", self.repository.display()))
    }

    pub(super) async fn commit_at(&self, name: &str) -> Option<String> {
        self.here(&["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{name}^{{commit}}")]).await.ok()
    }

    /// Where our branch began: kept beside it, because what is under it may have moved on.
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
        let dir = dir.display().to_string();
        // Of a worktree whose directory somebody removed by hand.
        self.here(&["worktree", "prune"]).await?;
        if self.commit_at(&format!("refs/heads/{branch}")).await.is_some() {
            // Made before, by a life of ours that died just then.
            let base = self.began_at(branch).await.unwrap_or(base);
            self.here(&["worktree", "add", "--quiet", &dir, branch]).await?;
            return Ok(base);
        }
        self.here(&["update-ref", &base_ref(branch), &base]).await?;
        self.here(&["worktree", "add", "--quiet", "-b", branch, &dir, &begin]).await?;
        Ok(base)
    }

    /// Everything in the worktree, as one commit if there is anything. Gives the branch's last commit.
    pub(super) async fn commit_all(&self, dir: &Path, message: &str, author: &str) -> Result<String, String> {
        self.run(dir, &["add", "--all"], None).await?;
        if !self.run(dir, &["status", "--porcelain"], None).await?.is_empty() {
            self.run(dir, &["commit", "--quiet", "--no-verify", "-m", message], Some(author)).await?;
        }
        self.run(dir, &["rev-parse", "HEAD"], None).await
    }

    pub(super) async fn changed(&self, base: &str, commit: &str) -> Result<Vec<String>, String> {
        let names = self.here(&["diff", "--name-only", "-z", base, commit]).await?;
        Ok(names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    pub(super) async fn remove_worktree(&self, dir: &Path) -> Result<(), String> {
        let _one = TREES.lock().await;
        self.here(&["worktree", "remove", "--force", &dir.display().to_string()]).await.map(drop)
    }

    /// Names and commits of the branches whose names begin so.
    pub(super) async fn branches_below(&self, prefix: &str) -> Result<Vec<(String, String)>, String> {
        let wanted = format!("refs/heads/{prefix}");
        let found = self.here(&["for-each-ref", "--format=%(refname:short) %(objectname)", &wanted]).await?;
        Ok(found.lines().filter_map(|line| line.rsplit_once(' ')).map(|(name, at)| (name.into(), at.into())).collect())
    }

    /// Branches that a worktree is on.
    pub(super) async fn checked_out(&self) -> Result<Vec<String>, String> {
        let found = self.here(&["worktree", "list", "--porcelain"]).await?;
        Ok(found.lines().filter_map(|line| line.strip_prefix("branch refs/heads/")).map(str::to_owned).collect())
    }

    pub(super) async fn is_ancestor(&self, commit: &str, of: &str) -> Result<bool, String> {
        // What is new on it, at most one line.
        Ok(self.here(&["rev-list", "--max-count=1", commit, &format!("^{of}")]).await?.is_empty())
    }

    /// If it is still there; nothing happens if somebody has moved it meanwhile.
    pub(super) async fn delete_branch(&self, branch: &str, commit: &str) -> Result<(), String> {
        let _one = TREES.lock().await;
        self.here(&["update-ref", "-d", &format!("refs/heads/{branch}"), commit]).await?;
        self.here(&["update-ref", "-d", &base_ref(branch)]).await.map(drop)
    }

    /// A branch that added nothing is not kept. One with work of its own is.
    pub(super) async fn delete_if_merged_into(&self, branch: &str, base: &str) -> Result<(), String> {
        if self.commit_at(&format!("refs/heads/{branch}")).await.as_deref() == Some(base) {
            self.here(&["branch", "--quiet", "-D", branch]).await?;
            self.here(&["update-ref", "-d", &base_ref(branch)]).await?;
        }
        Ok(())
    }
}

fn base_ref(branch: &str) -> String {
    format!("refs/hiveward/base/{branch}")
}
