//! A repository as the node's git sees it: the objects and refs of the real one, and a configuration of ours alone.
//!
//! Whoever may write a repository's `config` may have git run programs, and an agent in a worktree may. So git is never shown
//! that file, nor the repository's hooks and attributes: it gets a directory made for one operation, in which what is data is
//! a link to the real thing (decision 21). Of the real configuration only a few values that change how data are read are
//! taken over, each checked.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read},
    os::unix::{
        ffi::OsStringExt,
        fs::{DirBuilderExt, symlink},
    },
    path::{Path, PathBuf},
};

use super::child::{self, Said};

/// Bytes of a repository's configuration, of `HEAD` and of files that say where a directory is.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
const POINTER_BYTES_MAX: u64 = 8 << 10;

/// Settings against everything by which git could be made to run something, or to ask or tell somebody, or to work where nobody
/// waits for it. They are given to each call, so that they hold for whatever that calls too.
const SETTINGS: [&str; 29] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "core.editor=false",
    "core.pager=cat",
    "core.askPass=false",
    "core.sshCommand=false",
    "core.gitProxy=false",
    "core.alternateRefsCommand=true",
    "core.packedGitWindowSize=32m",
    "core.packedGitLimit=512m",
    "core.bigFileThreshold=16m",
    "core.splitIndex=false",
    "commit.gpgSign=false",
    "tag.gpgSign=false",
    "gpg.program=false",
    "credential.helper=",
    "diff.ignoreSubmodules=all",
    "submodule.recurse=false",
    "status.submoduleSummary=false",
    "protocol.allow=never",
    "fetch.recurseSubmodules=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "safe.bareRepository=explicit",
    "pack.threads=1",
    "advice.addEmbeddedRepo=false",
];

/// Settings that are taken over from the real configuration: how files and objects are written, never what is run.
const CARRIED: [&str; 7] = [
    "core.filemode",
    "core.ignorecase",
    "core.symlinks",
    "core.autocrlf",
    "core.eol",
    "extensions.objectformat",
    "extensions.refstorage",
];
/// Extensions of a repository that need nothing of us; others are refused.
const EXTENSIONS_BORNE: [&str; 5] = [
    "extensions.worktreeconfig",
    "extensions.partialclone",
    "extensions.noop",
    "extensions.preciousobjects",
    "extensions.relativeworktrees",
];

/// View of a repository's data. Dropped with what was made for the operation.
#[derive(Debug)]
pub(super) struct View {
    dir: PathBuf,
    /// Directory of the real repository itself, whichever of its worktrees was named.
    common: PathBuf,
}

impl Drop for View {
    fn drop(&mut self) {
        // Links and a few small files; what stays is in the directory for temporary files.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Reads the bytes of a small ordinary file; a link, a pipe or a large one is an error.
fn small(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let odd = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{} is {what}", path.display()));
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(odd("no ordinary file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max { Err(odd("too long")) } else { Ok(bytes) }
}

/// Returns where a file points to that holds a path, as git writes it.
fn pointed(file: &Path, prefix: &str, from: &Path) -> Option<PathBuf> {
    let bytes = small(file, POINTER_BYTES_MAX).ok()?;
    let bytes = bytes.strip_prefix(prefix.as_bytes())?;
    let path = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    (!path.is_empty()).then(|| from.join(OsString::from_vec(path.to_vec())))
}

fn is_git_dir(dir: &Path) -> bool {
    let common = pointed(&dir.join("commondir"), "", dir).unwrap_or_else(|| dir.to_owned());
    dir.join("HEAD").is_file() && common.join("objects").is_dir() && (common.join("refs").exists())
}

/// Returns the directory of git's of the repository in which `path` is. No program is asked.
fn git_dir_of(path: &Path) -> Option<PathBuf> {
    path.ancestors().find_map(|dir| {
        let inside = dir.join(".git");
        let named = pointed(&inside, "gitdir: ", dir).unwrap_or(inside);
        [named, dir.to_owned()].into_iter().find(|dir| is_git_dir(dir))
    })
}

impl View {
    /// Makes a view of the repository that `path` is in. Errors say what is wrong with it.
    pub(super) async fn of(path: &Path) -> Result<Self, String> {
        let unusable = |why: String| format!("the repository {} cannot be used: {why}", path.display());
        let git_dir = git_dir_of(path).ok_or_else(|| format!("{} is no git repository", path.display()))?;
        let common = pointed(&git_dir.join("commondir"), "", &git_dir).unwrap_or_else(|| git_dir.clone());
        let common = fs::canonicalize(common).map_err(|error| unusable(error.to_string()))?;
        let dir = std::env::temp_dir().join(format!("hiveward-git-{:032x}", hiveward_runtime::id::new_v7()));
        let made = fs::DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(|error| unusable(format!("{} cannot be made: {error}", dir.display())))?;
        let view = Self { dir, common };
        let config = view.config().await.map_err(unusable)?;
        view.lay_out(&git_dir, &config).map_err(|error| unusable(error.to_string()))?;
        Ok(view)
    }

    fn lay_out(&self, git_dir: &Path, config: &str) -> io::Result<()> {
        for made in ["home", "info"] {
            fs::create_dir(self.dir.join(made))?;
        }
        fs::write(self.dir.join("config"), config)?;
        fs::write(self.dir.join("HEAD"), small(&git_dir.join("HEAD"), POINTER_BYTES_MAX)?)?;
        fs::create_dir_all(self.common.join("worktrees"))?;
        for name in ["objects", "refs", "reftable", "packed-refs", "shallow", "logs", "worktrees"] {
            let real = self.common.join(name);
            if fs::symlink_metadata(&real).is_ok() {
                symlink(real, self.dir.join(name))?;
            }
        }
        let exclude = self.common.join("info/exclude");
        if fs::symlink_metadata(&exclude).is_ok_and(|meta| meta.is_file()) {
            symlink(exclude, self.dir.join("info/exclude"))?;
        }
        Ok(())
    }

    /// Returns our configuration of it. Errors: the real one cannot be read, or has what is not supported here.
    async fn config(&self) -> Result<String, String> {
        let real = match small(&self.common.join("config"), CONFIG_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.to_string()),
        };
        // Read as text alone: files that it includes are not, and nothing that it names is run.
        let args = ["config", "--file", "-", "--no-includes", "--null", "--list"].map(OsStr::new);
        let mut env = self.quiet();
        env.push(("GIT_DIR", "/dev/null".into()));
        let said = child::run("git", &args, Path::new("/"), &env, &real).await?;
        if said.code != Some(0) {
            return Err(format!("its configuration cannot be read: {}", said.stderr));
        }
        let (mut core, mut extensions) = (String::from("\tbare = false\n"), String::new());
        for entry in said.stdout.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
            let entry = String::from_utf8_lossy(entry);
            // A name without a value means true.
            let (name, value) = entry.split_once('\n').unwrap_or((&entry, "true"));
            if !CARRIED.contains(&name) {
                if name.starts_with("extensions.") && !EXTENSIONS_BORNE.contains(&name) {
                    return Err(format!("it has {name}, which is not supported here"));
                }
                continue;
            }
            if value.is_empty() || value.len() > 16 || !value.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(format!("its {name} has a value that is not supported here"));
            }
            let (section, key) = name.split_once('.').unwrap_or((name, ""));
            let to = if section == "core" { &mut core } else { &mut extensions };
            to.push_str(&format!("\t{key} = {value}\n"));
        }
        let version = u8::from(!extensions.is_empty());
        Ok(format!("[core]\n\trepositoryformatversion = {version}\n{core}[extensions]\n{extensions}"))
    }

    /// Returns the environment of every call.
    fn quiet(&self) -> Vec<(&'static str, OsString)> {
        let home = self.dir.join("home");
        let mut env = child::environment(&home);
        let fixed = [
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_SYSTEM", "/dev/null"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "false"),
            ("SSH_ASKPASS", "false"),
            ("GIT_SSH_COMMAND", "false"),
            ("GIT_EDITOR", "false"),
            ("GIT_PAGER", "cat"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("GIT_ALLOW_PROTOCOL", ""),
        ];
        env.extend(fixed.map(|(name, value)| (name, OsString::from(value))));
        env
    }

    /// Returns the path of the worktree's index while it is worked on; nobody else's git has it.
    pub(super) fn index(&self) -> PathBuf {
        self.dir.join("index")
    }

    /// Runs git on the repository itself.
    pub(super) async fn git(&self, args: &[&OsStr], more: &[(&'static str, OsString)], input: &[u8]) -> Result<Said, String> {
        let env = [("GIT_DIR", self.dir.clone().into()), ("GIT_COMMON_DIR", self.dir.clone().into())];
        self.call(&self.dir, args, env.iter().chain(more), input).await
    }

    /// Runs git on the worktree in `dir`, whose own directory in the repository is `admin`.
    pub(super) async fn git_in(
        &self,
        dir: &Path,
        admin: &Path,
        args: &[&OsStr],
        more: &[(&'static str, OsString)],
        input: &[u8],
    ) -> Result<Said, String> {
        let env = [
            ("GIT_DIR", admin.into()),
            ("GIT_COMMON_DIR", self.dir.clone().into()),
            ("GIT_WORK_TREE", dir.into()),
            ("GIT_INDEX_FILE", self.index().into()),
        ];
        self.call(dir, args, env.iter().chain(more), input).await
    }

    async fn call(
        &self,
        dir: &Path,
        args: &[&OsStr],
        more: impl Iterator<Item = &(&'static str, OsString)>,
        input: &[u8],
    ) -> Result<Said, String> {
        let mut env = self.quiet();
        env.extend(more.cloned());
        // Rather in the environment than before the command's name: the errors name the command then.
        env.push(("GIT_CONFIG_COUNT", SETTINGS.len().to_string().into()));
        let (mut names, mut values) = (Vec::new(), Vec::new());
        for (number, setting) in SETTINGS.iter().enumerate() {
            let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
            names.push((format!("GIT_CONFIG_KEY_{number}"), name));
            values.push((format!("GIT_CONFIG_VALUE_{number}"), value));
        }
        let settings = names.iter().chain(&values).map(|(name, value)| (name.as_str(), OsString::from(*value)));
        let env: Vec<(&str, OsString)> = env.into_iter().chain(settings).collect();
        child::run("git", args, dir, &env, input).await
    }

    /// Returns the worktree's own directory in the repository, by what the repository says. What `.git` in the worktree says does
    /// not count: who works there can write it.
    pub(super) fn admin_of(&self, dir: &Path) -> Result<PathBuf, String> {
        let wanted = dir.join(".git");
        let all = fs::read_dir(self.common.join("worktrees")).into_iter().flatten().flatten().map(|entry| entry.path());
        let named = self.common.join("worktrees").join(dir.file_name().unwrap_or_default());
        std::iter::once(named)
            .chain(all)
            .find(|admin| pointed(&admin.join("gitdir"), "", admin).is_some_and(|path| path == wanted))
            .ok_or_else(|| format!("{} is no worktree of {} any more", dir.display(), self.common.display()))
    }
}
