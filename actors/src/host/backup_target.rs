//! Where backups are kept: a directory of the node that holds the host. Another place is another [`Target`] and a line in
//! [`open`].

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::driver::DiskCopy;
use crate::vm::backup::{Drilled, MANIFEST_FORMAT, Manifest};

const MANIFEST: &str = "manifest.json";
const DRILLED: &str = "drill.json";
/// Of what is not a manifest.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
const PIECE_BYTES: usize = 256 << 10;
/// Listed at once; of more the first, by their names.
pub const LISTED_MAX: usize = 1_000;

/// Calls block.
pub trait Target: Send + Sync {
    /// One that is whole, and its path.
    fn find(&self, name: &str) -> io::Result<Option<(String, Manifest)>>;

    /// An empty directory of this node to write its disks into. What an earlier try left is gone.
    fn begin(&self, name: &str) -> io::Result<PathBuf>;

    /// What was written there is whole from now on; its path.
    fn keep(&self, manifest: &Manifest) -> io::Result<String>;

    /// Away with what was begun, however far it has come.
    fn discard(&self, name: &str) -> io::Result<()>;
}

/// The place that `to` names.
pub fn open(to: &str) -> io::Result<Box<dyn Target>> {
    Ok(Box::new(Directory { path: to.into() }))
}

struct Directory {
    path: PathBuf,
}

impl Directory {
    fn staging(&self, name: &str) -> PathBuf {
        self.path.join(format!(".{name}.part"))
    }
}

/// What was renamed is there after a power cut as well.
fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

impl Target for Directory {
    fn find(&self, name: &str) -> io::Result<Option<(String, Manifest)>> {
        let path = self.path.join(name);
        match read(&path) {
            Ok(manifest) => Ok(Some((path.display().to_string(), manifest))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn begin(&self, name: &str) -> io::Result<PathBuf> {
        // A directory that is not there is a mistake, or not mounted: it is not made.
        if !fs::metadata(&self.path)?.is_dir() {
            return Err(io::Error::other(format!("{} is no directory", self.path.display())));
        }
        let staging = self.staging(name);
        gone(fs::remove_dir_all(&staging))?;
        fs::DirBuilder::new().mode(0o700).create(&staging)?;
        Ok(staging)
    }

    fn keep(&self, manifest: &Manifest) -> io::Result<String> {
        let (staging, path) = (self.staging(&manifest.name), self.path.join(&manifest.name));
        write(&staging.join(MANIFEST), manifest)?;
        sync(&staging)?;
        fs::rename(&staging, &path)?;
        sync(&self.path)?;
        Ok(path.display().to_string())
    }

    fn discard(&self, name: &str) -> io::Result<()> {
        gone(fs::remove_dir_all(self.staging(name)))?;
        gone(fs::remove_dir_all(self.path.join(name)))
    }
}

/// Away with the backup of this name in its directory, or with what an earlier try left of it. What has another name is not
/// touched.
pub fn remove(path: &Path, name: &str) -> io::Result<()> {
    let Some(dir) = path.parent().filter(|_| path.file_name().is_some_and(|is| is == name)) else {
        return Err(io::Error::other(format!("{} is not the directory of {name}", path.display())));
    };
    // Where the whole place is not there, perhaps not mounted, nobody knows what is in it.
    fs::metadata(dir)?;
    gone(fs::remove_dir_all(path))
}

fn write(path: &Path, what: &impl serde::Serialize) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(what).map_err(io::Error::other)?;
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(&text)?;
    file.sync_all()
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<T> {
    let mut text = Vec::new();
    File::open(path)?.take(MANIFEST_BYTES_MAX).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map_err(|error| io::Error::other(format!("{} is not understood: {error}", path.display())))
}

/// The backup in that directory.
pub fn read(path: &Path) -> io::Result<Manifest> {
    let manifest: Manifest = parse(&path.join(MANIFEST))?;
    if manifest.format != MANIFEST_FORMAT {
        return Err(io::Error::other(format!(
            "its manifest has format {}, and {MANIFEST_FORMAT} is understood",
            manifest.format
        )));
    }
    // What it names is beside it, whatever it says.
    let odd = |disk: &&DiskCopy| disk.file.contains('/') || disk.file.starts_with('.');
    match manifest.disks.iter().find(odd) {
        Some(disk) => Err(io::Error::other(format!("its manifest names a file {:?}", disk.file))),
        None => Ok(manifest),
    }
}

/// Whole backups in a directory with their paths, by their names.
pub fn list(dir: &Path) -> io::Result<Vec<(PathBuf, Manifest)>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    paths.sort();
    let whole = paths.into_iter().filter_map(|path| Some((path.clone(), read(&path).ok()?)));
    Ok(whole.take(LISTED_MAX).collect())
}

/// That a file has the bytes that it was written with.
pub fn verify(dir: &Path, disk: &DiskCopy) -> io::Result<()> {
    let (mut file, mut hash, mut piece) = (File::open(dir.join(&disk.file))?, blake3::Hasher::new(), vec![0; PIECE_BYTES]);
    loop {
        match file.read(&mut piece)? {
            0 => break,
            read => hash.update(piece.get(..read).unwrap_or_default()),
        };
    }
    if hash.finalize().to_hex().as_str() == disk.hash {
        return Ok(());
    }
    Err(io::Error::other(format!("disk {} is not what was written: its hash is another", disk.disk)))
}

/// What came of the last drill of the backup in that directory, if there was one.
pub fn drilled(path: &Path) -> Option<Drilled> {
    parse(&path.join(DRILLED)).ok()
}

pub fn write_drilled(path: &Path, drilled: &Drilled) -> io::Result<()> {
    write(&path.join(DRILLED), drilled)
}
