//! Where backups are kept: a directory of the node that holds the host, or an object store. Another place is another
//! [`Target`] and a line in [`open`].
//!
//! A backup is its files and, written last, a manifest that says all of them: what has no manifest is no backup. What a try
//! that was broken off left is removed by the next of the same name, or when it is discarded.

pub mod bucket;
#[cfg(test)]
mod contract;
pub mod directory;

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use hiveward_catalogue::host::protocol::DiskCopy;
use hiveward_runtime::error::Refused;

use crate::vm::{
    backup::{Drilled, MANIFEST_FORMAT, MANIFEST_FORMAT_BASED, Manifest},
    chain,
};

const MANIFEST: &str = "manifest.json";
const DRILLED: &str = "drill.json";
/// Bytes of a manifest at most: what has more is none.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
const PIECE_BYTES: usize = 256 << 10;
/// Number of backups that are listed at once; of more the first, by their names.
pub const LISTED_MAX: usize = 1_000;
const PATH_BYTES_MAX: usize = 1_024;

type Done<'a, T> = BoxFuture<'a, io::Result<T>>;

/// A backup, or what is under the name of one.
#[derive(Clone, Debug)]
pub struct Listed {
    pub name: String,
    /// Its manifest, or else what is wrong with it, in words.
    pub manifest: Result<Manifest, String>,
    pub drilled: Option<Drilled>,
}

/// One place where backups are kept. Errors say what is wrong with what; whether the same may pass later is in their kind: see
/// [`is_final`].
pub trait Target: Send + Sync + 'static {
    /// Returns the manifest of a backup that is whole by it; `None` if there is none of this name.
    fn find<'a>(&'a self, name: &'a str) -> Done<'a, Option<Manifest>>;

    /// Makes an empty directory of this node to write its disks into. What an earlier try left is gone.
    fn begin<'a>(&'a self, name: &'a str) -> Done<'a, PathBuf>;

    /// Keeps what was written there. It is whole from now on, and was read again from where it is kept.
    fn keep<'a>(&'a self, manifest: &'a Manifest) -> Done<'a, ()>;

    /// Removes a backup, whole or begun. That it is gone already is fine; that the place is not there is not.
    fn remove<'a>(&'a self, name: &'a str) -> Done<'a, ()>;

    /// Lists the backups by their names; of more than [`LISTED_MAX`] the first.
    fn list(&self) -> Done<'_, Vec<Listed>>;

    /// Returns a file of this node with these bytes of this backup, checked: where it is kept, or else written into `dir`.
    fn bring<'a>(&'a self, name: &'a str, disk: &'a DiskCopy, dir: &'a Path) -> Done<'a, PathBuf>;

    fn write_drilled<'a>(&'a self, name: &'a str, drilled: &'a Drilled) -> Done<'a, ()>;
}

/// Checks where a place is, as a client names it. Errors: neither a path nor a place in an object store.
pub fn check(field: &str, given: &str) -> Result<(), Refused> {
    if given.len() > PATH_BYTES_MAX || given.chars().any(char::is_control) {
        return Err(Refused::invalid(field, format!("at most {PATH_BYTES_MAX} bytes, and no control characters")));
    }
    if let Some(place) = bucket::within(given) {
        return place.map(drop).map_err(|why| Refused::invalid(field, why));
    }
    let path = Path::new(given);
    if !path.is_absolute() || path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(Refused::invalid(
            field,
            "an absolute path on the node that holds the VM's host, or s3://BUCKET/PREFIX of an object store",
        ));
    }
    Ok(())
}

/// Opens the place that `to` names. What is on its way to an object store is in `scratch` of this node first.
pub fn open(to: &str, scratch: &Path) -> io::Result<Arc<dyn Target>> {
    match bucket::within(to) {
        Some(place) => {
            let place = place.map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
            Ok(Arc::new(bucket::Bucket::open(place, scratch)?))
        }
        None => Ok(Arc::new(directory::Directory { path: to.into() })),
    }
}

/// Splits the path of a backup into its place and its name there. Errors: no backup can be there.
pub fn split(path: &str) -> io::Result<(&str, &str)> {
    let path = path.trim_end_matches('/');
    match path.rsplit_once('/') {
        Some((_, name)) if is_name(name) => Ok((chain::place(path), name)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path} is not where a backup can be"))),
    }
}

/// Returns the whole path of a backup in `to`.
pub fn join(to: &str, name: &str) -> String {
    format!("{}/{name}", to.trim_end_matches('/'))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && !name.starts_with('.')
}

/// Tells whether the same would fail in the same way once more.
pub fn is_final(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};

    matches!(error.kind(), InvalidInput | NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem)
}

/// Reads a manifest as it was written. Errors: its format or its name is another, or it names what cannot be beside it.
fn understand(name: &str, text: &[u8]) -> io::Result<Manifest> {
    let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("the manifest of {name} {why}"));
    let manifest: Manifest = serde_json::from_slice(text).map_err(|error| bad(format!("is not understood: {error}")))?;
    let wanted = if manifest.basis.is_some() { MANIFEST_FORMAT_BASED } else { MANIFEST_FORMAT };
    if manifest.format != wanted {
        return Err(bad(format!("has format {}, and {wanted} is understood", manifest.format)));
    }
    if manifest.name != name {
        return Err(bad(format!("is that of {}", manifest.name)));
    }
    // What it names is beside it, whatever it says.
    if let Some(disk) = manifest.disks.iter().find(|disk| !is_name(&disk.file)) {
        return Err(bad(format!("names a file {:?}", disk.file)));
    }
    match manifest.basis.as_ref().filter(|basis| !is_name(basis)) {
        Some(basis) => Err(bad(format!("names a basis {basis:?}"))),
        None => Ok(manifest),
    }
}

/// Returns the chain of a backup, the full one first and itself last. Errors: one of them is not there, or the chain is too long.
pub async fn chain(target: &dyn Target, name: &str) -> io::Result<Vec<Manifest>> {
    let gone = |name: &str| io::Error::new(io::ErrorKind::NotFound, format!("there is no backup {name}"));
    let mut chain = vec![target.find(name).await?.ok_or_else(|| gone(name))?];
    while let Some((of, basis)) = chain.last().and_then(|last| Some((last.name.clone(), last.basis.clone()?))) {
        if chain.len() >= chain::CHAIN_MAX as usize {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the chain of {name} is longer than any")));
        }
        let below = target.find(&basis).await?;
        let gone = || io::Error::new(io::ErrorKind::NotFound, format!("{of} is based on {basis}, which is not there"));
        chain.push(below.ok_or_else(gone)?);
    }
    chain.reverse();
    Ok(chain)
}

/// Marks those of a list as damaged whose chain is broken.
fn link(listed: &mut [Listed]) {
    let bases: std::collections::HashMap<String, Option<String>> =
        listed.iter().filter_map(|one| Some((one.name.clone(), one.manifest.as_ref().ok()?.basis.clone()))).collect();
    for one in listed {
        let (mut of, mut left) = (one.name.clone(), chain::CHAIN_MAX);
        while let Some(Some(basis)) = bases.get(&of) {
            left = left.saturating_sub(1);
            if left == 0 || !bases.contains_key(basis) {
                one.manifest = Err(format!("{of} is based on {basis}, which is not there or damaged"));
                break;
            }
            of = basis.clone();
        }
    }
}

fn other(name: &str, disk: &DiskCopy) -> io::Error {
    let message = format!("{name} is damaged: its file {} is not what was written: its hash is another", disk.file);
    io::Error::new(io::ErrorKind::InvalidData, message)
}

fn missing(name: &str, disk: &DiskCopy) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{name} is damaged: its file {} is not there", disk.file))
}

/// Checks that a file has the bytes that it was written with.
fn verify(name: &str, path: &Path, disk: &DiskCopy) -> io::Result<()> {
    let mut file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => missing(name, disk),
        _ => error,
    })?;
    let (mut hash, mut piece) = (blake3::Hasher::new(), vec![0; PIECE_BYTES]);
    loop {
        match file.read(&mut piece)? {
            0 => break,
            read => hash.update(piece.get(..read).unwrap_or_default()),
        };
    }
    if hash.finalize().to_hex().as_str() == disk.hash { Ok(()) } else { Err(other(name, disk)) }
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten()
}

fn short(name: &str, disk: &DiskCopy, bytes: u64) -> io::Error {
    let message = format!("{name} is damaged: its file {} has {bytes} bytes, and {} were written", disk.file, disk.bytes);
    io::Error::new(io::ErrorKind::InvalidData, message)
}
