//! Lists the branches that attempts left in a repository, and removes those that nobody misses.

use std::{collections::HashSet, fs, path::Path};

use serde::{Deserialize, Serialize};

use super::git::Git;

/// Number of branches that one call looks at; a repository with more is cleaned by calling again.
const BRANCHES_MAX: usize = 1_000;

/// A branch of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    pub name: String,
    pub commit: String,
    /// Whether everything on it is in what it would be merged into.
    pub merged: bool,
    /// Whether an attempt, or somebody else, works on it now.
    pub in_use: bool,
}

/// Branches that were removed, or would be, and those that stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleaned {
    pub removed: Vec<Branch>,
    pub kept: Vec<Branch>,
}

/// Removes merged branches of attempts; with `force` also those that hold work that is nowhere else. Never one that is in
/// use, and never a branch of somebody else. Repeating it removes nothing more. With `dry_run` nothing changes.
///
/// `into`: what they must be merged into; the repository's HEAD if absent.
pub async fn clean(repository: &Path, into: Option<&str>, force: bool, dry_run: bool) -> Result<Cleaned, String> {
    let repository = fs::canonicalize(repository).map_err(|error| format!("workspace {}: {error}", repository.display()))?;
    let git = Git::at(&repository).await?;
    let into = into.unwrap_or("HEAD");
    let Some(into) = git.commit_at(into).await else { return Err(format!("the repository has no {into}")) };
    let in_use: HashSet<String> = git.checked_out().await?.into_iter().collect();
    let mut cleaned = Cleaned::default();
    for (name, commit) in git.branches_below("hiveward/").await?.into_iter().take(BRANCHES_MAX) {
        let merged = git.is_ancestor(&commit, &into).await?;
        let branch = Branch { in_use: in_use.contains(&name), name, commit, merged };
        if branch.in_use || !(branch.merged || force) {
            cleaned.kept.push(branch);
            continue;
        }
        if !dry_run {
            git.delete_branch(&branch.name, &branch.commit).await?;
        }
        cleaned.removed.push(branch);
    }
    Ok(cleaned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::tests::{Place, git};

    fn names(branches: &[Branch]) -> Vec<&str> {
        branches.iter().map(|branch| branch.name.as_str()).collect()
    }

    #[tokio::test]
    async fn merged_branches_go_and_unmerged_work_goes_by_force_alone() {
        let place = Place::new(false);
        let repository = place.root.path().join("repo");
        for name in ["merged", "unmerged", "busy"] {
            let tree = place.open(name, &[]).await;
            fs::write(tree.dir.join(name), "x").unwrap();
            tree.keep(name, "coder", true).await.unwrap();
            if name != "busy" {
                tree.let_go().await.unwrap();
            }
        }
        git(&repository, &["merge", "-q", "--no-ff", "-m", "take it", "hiveward/merged"]);
        git(&repository, &["branch", "people/own"]);
        let planned = clean(&repository, None, false, true).await.unwrap();
        assert_eq!(names(&planned.removed), ["hiveward/merged"]);
        let all = "hiveward/busy\nhiveward/merged\nhiveward/unmerged\nmain\npeople/own";
        assert_eq!(place.branches(), all, "a plan changes nothing");

        let cleaned = clean(&repository, None, false, false).await.unwrap();
        assert_eq!(cleaned, planned);
        assert_eq!(names(&cleaned.kept), ["hiveward/busy", "hiveward/unmerged"]);
        assert_eq!(clean(&repository, None, false, false).await.unwrap().removed, []);
        assert_eq!(place.branches(), "hiveward/busy\nhiveward/unmerged\nmain\npeople/own");

        let forced = clean(&repository, None, true, false).await.unwrap();
        assert_eq!(names(&forced.removed), ["hiveward/unmerged"]);
        assert_eq!(place.branches(), "hiveward/busy\nmain\npeople/own", "who works there is not disturbed");
        let bases = git(&repository, &["for-each-ref", "--format=%(refname)", "refs/hiveward"]);
        assert_eq!(bases, "refs/hiveward/base/hiveward/busy", "nothing of the others is left");
    }
}
