//! A directory of the node that holds the host: a backup is a directory in it, which gets its name when it is whole.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use hiveward_catalogue::host::protocol::DiskCopy;

use super::{
    DRILLED, Done, LISTED_MAX, Listed, MANIFEST, MANIFEST_BYTES_MAX, Target, blocking, is_name, link, missing, understand, verify,
};
use crate::vm::backup::{Drilled, Manifest};

pub struct Directory {
    pub path: PathBuf,
}

fn staging(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!(".{name}.part"))
}

/// Syncs a directory, so that what was renamed in it is there after a power cut as well.
fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Checks that a directory is there. One that is not is a mistake, or not mounted: nobody knows what is in it, and it is not
/// made.
fn there(dir: &Path) -> io::Result<()> {
    let is_dir = fs::metadata(dir).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", dir.display())))?.is_dir();
    let none = || io::Error::new(io::ErrorKind::NotADirectory, format!("{} is no directory", dir.display()));
    is_dir.then_some(()).ok_or_else(none)
}

fn write(path: &Path, what: &impl serde::Serialize) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(what).map_err(io::Error::other)?;
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(&text)?;
    file.sync_all()
}

/// Reads a file, up to the bytes that a manifest may have; `None` if there is none.
fn text(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(MANIFEST_BYTES_MAX).read_to_end(&mut text).map(|_| Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn find(dir: &Path, name: &str) -> io::Result<Option<Manifest>> {
    text(&dir.join(name).join(MANIFEST))?.map(|text| understand(name, &text)).transpose()
}

/// Returns the manifest of a backup that is whole as far as can be seen without reading it; `None` if there is none.
fn look(dir: &Path, name: &str) -> io::Result<Option<Manifest>> {
    let Some(manifest) = find(dir, name)? else { return Ok(None) };
    for disk in &manifest.disks {
        let bytes = fs::metadata(dir.join(name).join(&disk.file)).map_err(|_| missing(name, disk))?.len();
        if bytes != disk.bytes {
            return Err(super::short(name, disk, bytes));
        }
    }
    Ok(Some(manifest))
}

fn list(dir: &Path) -> io::Result<Vec<Listed>> {
    there(dir)?;
    let entries: Vec<_> = fs::read_dir(dir)?.collect::<io::Result<_>>()?;
    let mut names: Vec<String> = entries.iter().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| is_name(name));
    names.sort();
    let all = names.into_iter().filter_map(|name| {
        let manifest = look(dir, &name).transpose()?.map_err(|error| error.to_string());
        let drilled = text(&dir.join(&name).join(DRILLED)).ok().flatten().and_then(|text| serde_json::from_slice(&text).ok());
        Some(Listed { name, manifest, drilled })
    });
    let mut all: Vec<_> = all.take(LISTED_MAX).collect();
    link(&mut all);
    Ok(all)
}

impl Directory {
    fn on<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&Path, &str) -> io::Result<T> + Send + 'static,
    ) -> Done<'static, T> {
        let (dir, name) = (self.path.clone(), name.to_owned());
        Box::pin(blocking(move || work(&dir, &name)))
    }
}

impl Target for Directory {
    fn find<'a>(&'a self, name: &'a str) -> Done<'a, Option<Manifest>> {
        self.on(name, find)
    }

    fn begin<'a>(&'a self, name: &'a str) -> Done<'a, PathBuf> {
        self.on(name, |dir, name| {
            there(dir)?;
            let staging = staging(dir, name);
            gone(fs::remove_dir_all(&staging))?;
            fs::DirBuilder::new().mode(0o700).create(&staging)?;
            Ok(staging)
        })
    }

    fn keep<'a>(&'a self, manifest: &'a Manifest) -> Done<'a, ()> {
        let manifest = manifest.clone();
        self.on(&manifest.name.clone(), move |dir, name| {
            let staging = staging(dir, name);
            for disk in &manifest.disks {
                verify(name, &staging.join(&disk.file), disk)?;
            }
            write(&staging.join(MANIFEST), &manifest)?;
            sync(&staging)?;
            fs::rename(&staging, dir.join(name))?;
            sync(dir)
        })
    }

    fn remove<'a>(&'a self, name: &'a str) -> Done<'a, ()> {
        self.on(name, |dir, name| {
            there(dir)?;
            gone(fs::remove_dir_all(staging(dir, name)))?;
            // Broken off, it has no manifest and so is no backup any more.
            gone(fs::remove_file(dir.join(name).join(MANIFEST)))?;
            gone(fs::remove_dir_all(dir.join(name)))
        })
    }

    fn list(&self) -> Done<'_, Vec<Listed>> {
        self.on("", |dir, _| list(dir))
    }

    fn bring<'a>(&'a self, name: &'a str, disk: &'a DiskCopy, _: &'a Path) -> Done<'a, PathBuf> {
        let disk = disk.clone();
        self.on(name, move |dir, name| {
            let path = dir.join(name).join(&disk.file);
            verify(name, &path, &disk)?;
            Ok(path)
        })
    }

    fn write_drilled<'a>(&'a self, name: &'a str, drilled: &'a Drilled) -> Done<'a, ()> {
        let drilled = drilled.clone();
        self.on(name, move |dir, name| write(&dir.join(name).join(DRILLED), &drilled))
    }
}
