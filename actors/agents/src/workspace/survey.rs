//! Looks over a tree that an agent wrote, before git does: what in it is not to be given to git, and why. Opens nothing in it
//! but directories, and follows no link.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Number of files, directories and the rest in one worktree, what git ignores among them.
pub(super) const ENTRIES_MAX: usize = 4_000_000;
/// Depth of directories in directories. A path of that depth would be too long for most programs.
pub(super) const DEPTH_MAX: usize = 256;
/// Bytes of one file that is committed, as its length reads: a file with holes counts whole.
pub(super) const FILE_BYTES_MAX: u64 = 2 << 30;
/// Number of places that are left out of one commit; a tree with more is not committed at all.
pub(super) const LEFT_OUT_MAX: usize = 1_000;

#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub entries: usize,
    pub depth: usize,
    pub file_bytes: u64,
    pub left_out: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { entries: ENTRIES_MAX, depth: DEPTH_MAX, file_bytes: FILE_BYTES_MAX, left_out: LEFT_OUT_MAX }
    }
}

/// Reason why something is not given to git.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The directory has a `.git` of its own, of whatever kind.
    Repository,
    TooLarge,
    /// A pipe, a socket or a device.
    Special,
}

impl Why {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Repository => "is a git repository of its own: remove its .git, or name it in .gitignore",
            Self::TooLarge => "is larger than a file of a commit may be: remove it, or name it in .gitignore",
            Self::Special => "is a pipe, a socket or a device: remove it",
        }
    }
}

/// Place that is left out, relative to the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub path: PathBuf,
    pub why: Why,
}

/// Tells whether git, or a file system that knows no case, would take a directory with this in it for a repository.
fn is_git(name: &OsStr) -> bool {
    name.eq_ignore_ascii_case(".git") || name.eq_ignore_ascii_case("git~1")
}

/// Tells whether it is one of the files that git reads in each directory.
fn is_read_by_git(name: &OsStr) -> bool {
    [".gitignore", ".gitattributes", ".gitmodules"].iter().any(|read| name == OsStr::new(read))
}

/// Returns what of the tree in `dir` is to be left out. Errors: it is not to be given to git at all.
pub(super) fn survey(dir: &Path, bounds: Bounds) -> Result<Vec<LeftOut>, String> {
    let (mut entries, mut left_out, mut left) = (0, Vec::new(), vec![(PathBuf::new(), 0)]);
    while let Some((below, depth)) = left.pop() {
        let unread = |error| format!("{} cannot be looked at: {error}", dir.join(&below).display());
        let mut inside: Vec<(OsString, fs::FileType)> = Vec::new();
        let mut repository = false;
        for entry in fs::read_dir(dir.join(&below)).map_err(unread)? {
            let entry = entry.map_err(unread)?;
            entries += 1;
            if entries > bounds.entries {
                return Err(format!("the workspace has more than {} files and directories", bounds.entries));
            }
            let name = entry.file_name();
            if is_git(&name) {
                // The worktree's own points to its repository.
                repository |= depth > 0 || name != OsStr::new(".git");
                continue;
            }
            inside.push((name, entry.file_type().map_err(unread)?));
        }
        if repository {
            if depth == 0 {
                return Err("the workspace has a second .git at its top; remove it".to_owned());
            }
            left_out.push(LeftOut { path: below, why: Why::Repository });
        } else {
            for (name, kind) in inside {
                let path = below.join(&name);
                if kind.is_dir() {
                    if depth >= bounds.depth {
                        return Err(format!("the workspace has directories in more than {} others", bounds.depth));
                    }
                    left.push((path, depth + 1));
                } else if kind.is_file() {
                    let meta = fs::symlink_metadata(dir.join(&path)).map_err(unread)?;
                    if meta.len() > bounds.file_bytes {
                        left_out.push(LeftOut { path, why: Why::TooLarge });
                    }
                } else if !kind.is_symlink() {
                    if is_read_by_git(&name) {
                        // Git would open it, and wait for ever.
                        return Err(format!("{} {}", path.display(), Why::Special.words()));
                    }
                    left_out.push(LeftOut { path, why: Why::Special });
                }
            }
        }
        if left_out.len() > bounds.left_out {
            return Err(format!("the workspace has more than {} places that cannot be committed", bounds.left_out));
        }
    }
    left_out.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(left_out)
}

/// Returns git's words for "all but these", one after the other with a zero between.
pub(super) fn pathspecs(left_out: &[LeftOut]) -> Vec<u8> {
    let mut specs = b".\0".to_vec();
    for left in left_out {
        specs.extend_from_slice(b":(exclude,top,literal)");
        specs.extend_from_slice(left.path.as_os_str().as_bytes());
        specs.push(0);
    }
    specs
}
