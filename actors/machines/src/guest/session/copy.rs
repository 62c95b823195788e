//! Brings a directory into a guest, under the same path, and what became of it back.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use super::{
    scripts,
    talk::{Guest, Trouble},
    unpack::{self, Bounds},
};
use crate::guest::agent::{self, WRITE_BYTES_MAX};

/// Bytes that are brought there or back at most.
pub const COPY_BYTES_MAX: u64 = 4 << 30;
/// Number of tries when a guest did not answer amid it.
const TRIES_MAX: u32 = 3;
/// Name of what in a worktree points to a repository, which the guest does not have.
const REPOSITORY: &str = ".git";

fn again<T>(guest: &mut Guest, mut work: impl FnMut(&mut Guest) -> Result<T, Trouble>) -> Result<T, Trouble> {
    for _ in 1..TRIES_MAX {
        match work(guest) {
            Err(trouble) if guest.waits(&trouble) => {}
            done => return done,
        }
    }
    work(guest)
}

fn text(path: &Path) -> Result<&str, Trouble> {
    path.to_str().ok_or_else(|| Trouble::Local(format!("{} is no text, so a guest cannot be told it", path.display())))
}

/// Brings everything of `dir` into the guest, with its modes and its links as they are. Repeated, it begins anew.
pub fn bring(guest: &mut Guest, dir: &Path) -> Result<(), Trouble> {
    let (path, archive) = (text(dir)?, format!("{}.tar", text(dir)?));
    again(guest, |guest| {
        guest.must("making a directory", scripts::DIRECTORY, &[path])?;
        let handle = agent::handle(&guest.say(&agent::open_file(&archive, "w"))?)?;
        let mut file = Writing { guest, handle, held: Vec::new(), bytes: 0, trouble: None };
        let packed = pack(&mut file, dir);
        let (trouble, held) = (file.trouble.take(), std::mem::take(&mut file.held));
        let written = match (trouble, packed) {
            (Some(trouble), _) => Err(trouble),
            (None, Err(error)) => Err(Trouble::Local(format!("{path} cannot be read: {error}"))),
            (None, Ok(())) => file.put(&held),
        };
        // A guest that is silent closes it when it ends.
        let closed = guest.say(&agent::close_file(handle));
        written?;
        closed?;
        guest.must("unpacking what was brought", scripts::UNPACK, &[path, &archive])
    })
}

fn pack(to: &mut Writing<'_>, dir: &Path) -> io::Result<()> {
    let mut archive = tar::Builder::new(to);
    archive.follow_symlinks(false);
    let mut left = vec![PathBuf::new()];
    while let Some(below) = left.pop() {
        for entry in fs::read_dir(dir.join(&below))? {
            let entry = entry?;
            let (name, kind) = (below.join(entry.file_name()), entry.file_type()?);
            if entry.file_name() == OsStr::new(REPOSITORY) && below.as_os_str().is_empty() && kind.is_file() {
                continue;
            }
            // Sockets and the like mean nothing elsewhere.
            if kind.is_dir() || kind.is_file() || kind.is_symlink() {
                archive.append_path_with_name(entry.path(), &name)?;
            }
            if kind.is_dir() {
                left.push(name);
            }
        }
    }
    archive.finish()
}

/// A file of the guest that is written from its beginning to its end.
struct Writing<'a> {
    guest: &'a mut Guest,
    handle: i64,
    held: Vec<u8>,
    bytes: u64,
    trouble: Option<Trouble>,
}

impl Writing<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        let written = agent::written(&self.guest.say(&agent::write_file(self.handle, bytes))?)?;
        if written < bytes.len() {
            return Err(Trouble::Refused("its disk is full".to_owned()));
        }
        Ok(())
    }
}

impl Write for Writing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len() as u64;
        if self.bytes > COPY_BYTES_MAX {
            return Err(io::Error::other(format!("it has more than {COPY_BYTES_MAX} bytes")));
        }
        self.held.extend_from_slice(bytes);
        while self.held.len() >= WRITE_BYTES_MAX {
            let rest = self.held.split_off(WRITE_BYTES_MAX);
            let full = std::mem::replace(&mut self.held, rest);
            if let Err(trouble) = self.put(&full) {
                self.trouble = Some(trouble);
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes `dir` what it is in the guest. What is a repository here stays.
pub fn fetch(guest: &mut Guest, dir: &Path) -> Result<(), Trouble> {
    let (path, archive) = (text(dir)?, format!("{}.tar", text(dir)?));
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let incoming = dir.with_file_name(format!(".{name}.incoming"));
    again(guest, |guest| {
        guest.must("packing what the program left", scripts::PACK, &[path, &archive])?;
        let handle = agent::handle(&guest.say(&agent::open_file(&archive, "r"))?)?;
        let mut file = Reading { guest, handle, held: Vec::new(), at: 0, bytes: 0, trouble: None };
        let unpacked = unpack(&mut file, &incoming);
        let trouble = file.trouble.take();
        // It goes with its guest in any case.
        let _ = guest.say(&agent::close_file(handle));
        match (trouble, unpacked) {
            (Some(trouble), _) => Err(trouble),
            (None, Err(error)) => Err(Trouble::Local(format!("what the program left cannot be kept: {error}"))),
            (None, Ok(())) => Ok(()),
        }
    })?;
    replace(dir, &incoming).map_err(Trouble::local("keep what the program left"))
}

fn unpack(from: &mut Reading<'_>, to: &Path) -> io::Result<()> {
    match fs::remove_dir_all(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::create_dir_all(to)?,
    }
    unpack::unpack(from, to, Bounds::default())
}

fn replace(dir: &Path, with: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == OsStr::new(REPOSITORY) {
            continue;
        }
        let path = entry.path();
        if entry.file_type()?.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
    }
    for entry in fs::read_dir(with)? {
        let entry = entry?;
        // One that the guest made is its own matter.
        if entry.file_name() != OsStr::new(REPOSITORY) || !dir.join(REPOSITORY).exists() {
            fs::rename(entry.path(), dir.join(entry.file_name()))?;
        }
    }
    fs::remove_dir_all(with)
}

/// A file of the guest that is read from its beginning to its end.
struct Reading<'a> {
    guest: &'a mut Guest,
    handle: i64,
    held: Vec<u8>,
    at: usize,
    bytes: u64,
    trouble: Option<Trouble>,
}

impl Read for Reading<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.held.len() {
            let said = self.guest.say(&agent::read_file(self.handle)).and_then(|answer| Ok(agent::bytes(&answer)?));
            match said {
                Ok(bytes) => (self.held, self.at) = (bytes, 0),
                Err(trouble) => {
                    self.trouble = Some(trouble);
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
            self.bytes += self.held.len() as u64;
            if self.bytes > COPY_BYTES_MAX {
                return Err(io::Error::other(format!("it has more than {COPY_BYTES_MAX} bytes")));
            }
        }
        let count = into.len().min(self.held.len() - self.at);
        into[..count].copy_from_slice(&self.held[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_takes_the_place_of_what_was_there_and_a_worktree_stays_one() {
        let root = tempfile::tempdir().unwrap();
        let (dir, with) = (root.path().join("work"), root.path().join("incoming"));
        for (path, text) in [
            ("work/.git", "gitdir: x"),
            ("work/gone", ""),
            ("work/sub/old", ""),
            ("incoming/new", "n"),
            ("incoming/sub/kept", ""),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::write(with.join(".git"), "the guest's").unwrap();
        replace(&dir, &with).unwrap();
        assert_eq!(fs::read_to_string(dir.join(".git")).unwrap(), "gitdir: x");
        assert_eq!(fs::read_to_string(dir.join("new")).unwrap(), "n");
        assert!(!dir.join("gone").exists() && !dir.join("sub/old").exists() && dir.join("sub/kept").exists());
        assert!(!with.exists());
    }
}
