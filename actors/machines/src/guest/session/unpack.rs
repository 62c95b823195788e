//! Unpacks on the node what came out of a guest, by rules of ours: the archive is whatever a program in the guest made of it.
//!
//! Everything is within bounds, nothing leads out of the directory or is written through a link, and nothing has more rights
//! than files of its owner have. What is neither a file, a directory nor a link stays behind, and so does what would make a
//! repository in it run something. An archive that breaks a rule is refused in words.

use std::{
    cell::Cell,
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
    rc::Rc,
};

use tar::{Archive, Entry, EntryType};

use super::copy::COPY_BYTES_MAX;

/// Number of files, directories and links that come back of one program.
pub(super) const ENTRIES_MAX: u64 = 1_000_000;
/// Depth of directories in directories.
pub(super) const DEPTH_MAX: usize = 256;
/// Bytes of what says of one entry what it is: its name, a link's target, the list of a file's holes.
const HEADER_BYTES_MAX: u64 = 1 << 20;
/// Bytes of one entry beyond what it says it has: what fills it up to whole blocks.
const PADDING_BYTES: u64 = 1 << 10;

#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes of all files together, holes included.
    pub bytes: u64,
    pub entries: u64,
    pub depth: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { bytes: COPY_BYTES_MAX, entries: ENTRIES_MAX, depth: DEPTH_MAX }
    }
}

/// A reader that reads no more than it may just now: the library keeps names in memory however long they are.
struct Metered<R> {
    from: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left.get()).unwrap_or(usize::MAX).min(into.len());
        if most == 0 && !into.is_empty() {
            return Err(io::Error::other("an entry has more than it says, or a name that is too long"));
        }
        let count = self.from.read(&mut into[..most])?;
        self.left.set(self.left.get() - count as u64);
        Ok(count)
    }
}

/// Unpacks an archive into `to`, which is there and empty. Errors: it breaks a rule, and says which.
pub(super) fn unpack(from: impl Read, to: &Path, bounds: Bounds) -> io::Result<()> {
    let left = Rc::new(Cell::new(HEADER_BYTES_MAX));
    let mut archive = Archive::new(Metered { from, left: left.clone() });
    let (mut entries, mut bytes) = (0, 0_u64);
    for entry in archive.entries()? {
        let mut entry = entry?;
        entries += 1;
        if entries > bounds.entries {
            return Err(io::Error::other(format!("it has more than {} files and directories", bounds.entries)));
        }
        bytes = bytes.saturating_add(entry.size());
        if bytes > bounds.bytes {
            return Err(io::Error::other(format!("its files have more than {} bytes", bounds.bytes)));
        }
        left.set(entry.size().saturating_add(PADDING_BYTES));
        let name = inside(&entry.path()?)?;
        if name.components().count() > bounds.depth {
            return Err(io::Error::other(format!("it has directories in more than {} others", bounds.depth)));
        }
        if !name.as_os_str().is_empty() && !may_run(&name, entry.header().entry_type()) {
            put(&mut entry, to, &name).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", name.display())))?;
        }
        io::copy(&mut entry, &mut io::sink())?;
        left.set(HEADER_BYTES_MAX);
    }
    Ok(())
}

/// Returns a path of an archive without `.`. Errors: it leads out of its directory.
fn inside(path: &Path) -> io::Result<PathBuf> {
    let part = |part: Component<'_>| match part {
        Component::CurDir => Ok(PathBuf::new()),
        Component::Normal(name) => Ok(name.into()),
        _ => Err(io::Error::other(format!("{} leads out of its directory", path.display()))),
    };
    path.components().map(part).collect()
}

/// Tells whether an entry would make a repository run something, or be one that is elsewhere.
fn may_run(name: &Path, kind: EntryType) -> bool {
    let is =
        |part: &Component<'_>, names: &[&str]| names.iter().any(|name| part.as_os_str().eq_ignore_ascii_case(OsStr::new(name)));
    let mut parts = name.components().skip_while(|part| !is(part, &[".git", "git~1"]));
    match (parts.next(), parts.next()) {
        (None, _) => false,
        (Some(_), None) => !kind.is_dir(),
        (Some(_), Some(first)) => {
            is(&first, &["config", "config.worktree", "hooks", "modules", "worktrees", "commondir", "gitdir"])
        }
    }
}

/// Makes one entry. Everything above it is a directory of ours, or becomes one.
fn put<R: Read>(entry: &mut Entry<'_, R>, to: &Path, name: &Path) -> io::Result<()> {
    let path = below(to, name, true)?;
    let mode = entry.header().mode()? & 0o777;
    let kind = entry.header().entry_type();
    if kind.is_dir() {
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_dir(&path) => {}
            made => made?,
        }
        // We must be able to remove what is in it.
        return fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o700));
    }
    if !(kind.is_file() || kind.is_gnu_sparse() || kind.is_contiguous() || kind.is_symlink() || kind.is_hard_link()) {
        return Ok(());
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let target = entry.link_name()?.map(|target| target.into_owned());
    let target = || target.filter(|target| !target.as_os_str().is_empty()).ok_or_else(|| io::Error::other("a link to nothing"));
    if kind.is_symlink() {
        return symlink(target()?, path);
    }
    if kind.is_hard_link() {
        let first = below(to, &inside(&target()?)?, false)?;
        if !fs::symlink_metadata(&first)?.is_file() {
            return Err(io::Error::other("a second name of what is no file"));
        }
        return fs::hard_link(first, path);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    io::copy(entry, &mut file)?;
    dated(&file, entry.header().mtime()?);
    file.set_permissions(fs::Permissions::from_mode(mode | 0o600))
}

fn dated(file: &File, seconds: u64) {
    if let Some(at) = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds)) {
        // When it was written matters to tools that build; a date that this file system cannot hold does not.
        let _ = file.set_modified(at);
    }
}

fn is_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

/// Returns where an entry is, by directories that are all ours: no link is on the way. With `make` it makes those that are
/// missing.
fn below(to: &Path, name: &Path, make: bool) -> io::Result<PathBuf> {
    let mut at = to.to_owned();
    for part in name.parent().into_iter().flat_map(Path::components) {
        at.push(part);
        if !is_dir(&at) {
            if !make || fs::symlink_metadata(&at).is_ok() {
                return Err(io::Error::other(format!("{} is no directory", at.display())));
            }
            fs::create_dir(&at)?;
        }
    }
    Ok(at.join(name.file_name().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::{ffi::OsStrExt, fs::MetadataExt};

    use tar::{Builder, Header};

    use super::*;

    type Packed = Builder<Vec<u8>>;

    const SMALL: Bounds = Bounds { bytes: 1 << 20, entries: 100, depth: 8 };

    /// Adds an entry as a hostile program writes it: nothing of it is checked.
    fn add(archive: &mut Packed, kind: EntryType, name: &[u8], link: &[u8], mode: u32, said: u64, data: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(said);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
        header.set_cksum();
        archive.append(&header, data).unwrap();
    }

    fn file(archive: &mut Packed, name: &str, text: &str) {
        add(archive, EntryType::Regular, name.as_bytes(), b"", 0o644, text.len() as u64, text.as_bytes());
    }

    fn link(archive: &mut Packed, name: &str, to: &str) {
        add(archive, EntryType::Symlink, name.as_bytes(), to.as_bytes(), 0o777, 0, b"");
    }

    type Kind = (&'static str, fn(&mut Packed), Result<&'static [&'static str], &'static str>);

    /// Kinds of archives, with what is made of each, or the words of the refusal.
    const KINDS: [Kind; 20] = [
        ("what honest programs leave", |a| file(a, "./a/b", "x"), Ok(&["a", "a/b"])),
        ("a path that leads up", |a| file(a, "a/../../out", "x"), Err("leads out")),
        ("a path from the root", |a| file(a, "/out", "x"), Err("leads out")),
        (
            "a file through a link",
            |a| {
                link(a, "d", "..");
                file(a, "d/out", "x");
            },
            Err("is no directory"),
        ),
        (
            "a file in the place of a link",
            |a| {
                link(a, "f", "../out");
                file(a, "f", "x");
            },
            Ok(&["f"]),
        ),
        (
            "a directory in the place of a link",
            |a| {
                link(a, "d", "..");
                add(a, EntryType::Directory, b"d", b"", 0o777, 0, b"");
            },
            Err("File exists"),
        ),
        ("a second name of a file outside", |a| add(a, EntryType::Link, b"n", b"../out", 0o644, 0, b""), Err("leads out")),
        (
            "a second name of a file of the host",
            |a| add(a, EntryType::Link, b"n", b"/etc/passwd", 0o644, 0, b""),
            Err("leads out"),
        ),
        (
            "a second name through a link",
            |a| {
                link(a, "d", "/etc");
                add(a, EntryType::Link, b"n", b"d/passwd", 0o644, 0, b"");
            },
            Err("is no directory"),
        ),
        (
            "a second name of a link",
            |a| {
                link(a, "l", "/etc/passwd");
                add(a, EntryType::Link, b"n", b"l", 0o644, 0, b"");
            },
            Err("what is no file"),
        ),
        (
            "devices and pipes",
            |a| {
                add(a, EntryType::Char, b"c", b"", 0o666, 0, b"");
                add(a, EntryType::Block, b"b", b"", 0o666, 0, b"");
                add(a, EntryType::Fifo, b"p", b"", 0o666, 0, b"");
            },
            Ok(&[]),
        ),
        ("rights of others", |a| add(a, EntryType::Regular, b"s", b"", 0o6755, 1, b"x"), Ok(&["s"])),
        (
            "a directory that nobody may enter",
            |a| {
                add(a, EntryType::Directory, b"d", b"", 0, 0, b"");
                file(a, "d/f", "x");
            },
            Ok(&["d", "d/f"]),
        ),
        ("more files than may be", |a| (0..=SMALL.entries).for_each(|n| file(a, &n.to_string(), "")), Err("more than 100 files")),
        ("more bytes than may be", |a| file(a, "f", &"x".repeat((1 << 20) + 1)), Err("more than 1048576 bytes")),
        (
            "a file that is one hole",
            |a| {
                let mut header = Header::new_gnu();
                header.set_entry_type(EntryType::GNUSparse);
                header.set_path("hole").unwrap();
                header.set_size(0);
                let gnu = header.as_gnu_mut().unwrap();
                gnu.realsize.copy_from_slice(b"20000000000\0");
                gnu.sparse[0].offset.copy_from_slice(b"20000000000\0");
                gnu.sparse[0].numbytes.copy_from_slice(b"00000000000\0");
                header.set_cksum();
                a.append(&header, &b""[..]).unwrap();
            },
            Err("bytes"),
        ),
        ("directories in directories", |a| file(a, "1/2/3/4/5/6/7/8/9", ""), Err("more than 8 others")),
        (
            "a name of megabytes",
            |a| add(a, EntryType::GNULongName, b"././@LongLink", b"", 0, 2 << 20, &vec![b'n'; 2 << 20]),
            Err("a name that is too long"),
        ),
        ("a name that is no text", |a| add(a, EntryType::Regular, b"\xff\n", b"", 0o644, 0, b""), Ok(&["\u{fffd}\n"])),
        (
            "repositories that would run something",
            |a| {
                for name in ["x/.git/config", "x/.git/hooks/pre-commit", "y/.GIT/config", "z/.git", "x/.git/commondir"] {
                    file(a, name, "[core]");
                }
                link(a, "w/.git", "../x");
                file(a, "x/.git/HEAD", "ref: refs/heads/main");
                file(a, "x/config", "kept");
            },
            Ok(&["x", "x/.git", "x/.git/HEAD", "x/config"]),
        ),
    ];

    fn all(dir: &Path, below: &Path, found: &mut Vec<String>) {
        let mut entries: Vec<_> = fs::read_dir(dir.join(below)).unwrap().map(|entry| entry.unwrap()).collect();
        entries.sort_by_key(|entry| entry.file_name());
        for entry in entries {
            let name = below.join(entry.file_name());
            found.push(String::from_utf8_lossy(name.as_os_str().as_bytes()).into_owned());
            let meta = fs::symlink_metadata(entry.path()).unwrap();
            assert!(meta.is_dir() || meta.is_file() || meta.is_symlink(), "{name:?}");
            assert_eq!(meta.mode() & 0o7000, 0, "{name:?} has rights that files of others have");
            if meta.is_dir() {
                all(dir, &name, found);
            }
        }
    }

    #[test]
    fn nothing_of_an_archive_from_a_guest_leads_out_or_is_more_than_it_may_be() {
        for (kind, plant, end) in KINDS {
            let root = tempfile::tempdir().unwrap();
            let to = root.path().join("in");
            fs::create_dir(&to).unwrap();
            fs::write(root.path().join("out"), "untouched").unwrap();
            let mut archive = Builder::new(Vec::new());
            plant(&mut archive);
            let archive = archive.into_inner().unwrap();
            let made = unpack(&archive[..], &to, SMALL);
            match end {
                Err(words) => {
                    let said = made.expect_err(kind).to_string();
                    assert!(said.contains(words), "{kind}: {said}");
                }
                Ok(names) => {
                    made.unwrap_or_else(|error| panic!("{kind}: {error}"));
                    let mut found = Vec::new();
                    all(&to, Path::new(""), &mut found);
                    assert_eq!(found, names, "{kind}");
                }
            }
            assert_eq!(fs::read_to_string(root.path().join("out")).unwrap(), "untouched", "{kind}");
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2, "{kind}: there is something beside it");
        }
    }
}
