//! Bytes by their hash: payloads, results and artifacts that are too large for the ledger.
//!
//! A blob is a file named by its BLAKE3 hash, written whole and synced before it gets its name, never changed after. Disks
//! forget: so every read is checked against that name, a piece by the tree of hashes beside it (`outline`). Bytes that fail are
//! never served. They are set aside under `damaged/`, fetched again from another node where there is one, and counted.

mod incoming;
mod unused;

use std::{
    collections::VecDeque,
    fmt,
    fs::{self, File},
    io::{self, Read, Seek},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::outline::{GROUP_BYTES, Outline, Outliner};
use crate::file::{make_dir, sync_dir, sync_name};

pub use incoming::Incoming;
pub use unused::Stored;

/// The bytes of outlines that are kept in memory; the one that was used first goes first.
const OUTLINES_BYTES_MAX: usize = 16 << 20;
/// The time for which a blob that was read whole and right is taken for whole without another look. Its bytes are checked again
/// when they are read, all the same.
const WHOLE_FOR: Duration = Duration::from_secs(3600);
/// The number of blobs for which that is remembered.
const WHOLE_MAX: usize = 4_096;
/// The folder of damaged blobs that were set aside, under the store's own folder.
const DAMAGED: &str = "damaged";

/// The hash of a blob: BLAKE3, printed as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlobHash(blake3::Hash);

impl BlobHash {
    /// Returns the 32 bytes of the hash.
    pub fn bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Returns the number of the folder that the blob is in.
    pub(super) fn first_byte(&self) -> u8 {
        self.0.as_bytes()[0]
    }
}

impl PartialOrd for BlobHash {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for BlobHash {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_bytes().cmp(other.0.as_bytes())
    }
}

impl fmt::Display for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_hex().as_str())
    }
}

impl fmt::Debug for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BlobHash {
    type Err = blake3::HexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        blake3::Hash::from_hex(text).map(Self)
    }
}

/// Returns 128 bits of BLAKE3: enough to tell two inputs apart.
pub fn fingerprint(bytes: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    short
}

/// The blobs of the other nodes. Every method blocks.
pub trait Elsewhere: Send + Sync {
    /// Waits until the blob, which is here, is on enough other nodes.
    fn keep(&self, hash: &BlobHash) -> io::Result<()>;
    /// Brings a blob here; false if nobody has it.
    fn fetch(&self, hash: &BlobHash) -> io::Result<bool>;
}

#[derive(Default)]
struct Remembered {
    /// The outlines that merged into their blob's hash.
    outlines: VecDeque<(BlobHash, Arc<Outline>)>,
    whole: VecDeque<(BlobHash, Instant)>,
}

/// The blobs of this node. Cheap to clone. Every method blocks on the disk, and, in a cluster, on other nodes.
#[derive(Clone)]
pub struct Blobs {
    dir: Arc<PathBuf>,
    elsewhere: Arc<RwLock<Option<Arc<dyn Elsewhere>>>>,
    remembered: Arc<Mutex<Remembered>>,
    /// A lock that is held while a blob is looked at once more and set aside, and while one gets its name, so that nobody sets
    /// the successor of a damaged one aside.
    setting_aside: Arc<Mutex<()>>,
}

/// The finding of a look at a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The bytes of the blob have its hash.
    Whole {
        bytes: u64,
    },
    Missing,
    /// The bytes had another hash and were set aside.
    Damaged,
}

impl Blobs {
    /// Opens the store in `dir`, or makes it, and removes what a crash left half written.
    pub fn open(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        make_dir(&dir.join("new"))?;
        make_dir(&dir.join(DAMAGED))?;
        // What a crash left half written has no name that anyone knows.
        for left in fs::read_dir(dir.join("new"))? {
            fs::remove_file(left?.path())?;
        }
        Ok(Self { dir: Arc::new(dir), elsewhere: Arc::default(), remembered: Arc::default(), setting_aside: Arc::default() })
    }

    fn path(&self, hash: &BlobHash) -> PathBuf {
        let name = hash.to_string();
        self.dir.join(&name[..2]).join(name)
    }

    /// Sets where blobs are besides here; nowhere, until this is called.
    pub fn elsewhere(&self, elsewhere: Option<Arc<dyn Elsewhere>>) {
        *self.elsewhere.write() = elsewhere;
    }

    fn others(&self) -> Option<Arc<dyn Elsewhere>> {
        self.elsewhere.read().clone()
    }

    /// Keeps `bytes`; durable on return, in a cluster on a majority of its voters. The same bytes twice are kept once.
    pub fn put(&self, bytes: &[u8]) -> io::Result<BlobHash> {
        let mut outliner = Outliner::default();
        outliner.update(bytes);
        let (hash, outline) = outliner.finish();
        let hash = BlobHash(hash);
        match fs::read(self.path(&hash)) {
            // It may have got its name a moment ago, or in a life that died before this was durable.
            Ok(there) if there == bytes && self.renew(&hash)? => self.sync_folder(&hash)?,
            _ => {
                let new = self.new_path();
                fs::write(&new, bytes)?;
                self.name(&new, &hash, outline)?;
            }
        }
        self.kept(hash)
    }

    fn kept(&self, hash: BlobHash) -> io::Result<BlobHash> {
        if let Some(others) = self.others() {
            others.keep(&hash)?;
        }
        Ok(hash)
    }

    /// Tells whether something has its name here. Its bytes may be damaged: callers that count on them ask [`Blobs::whole`].
    pub fn has(&self, hash: &BlobHash) -> bool {
        self.path(hash).exists()
    }

    /// Tells whether it is here with all its bytes.
    pub fn whole(&self, hash: &BlobHash) -> io::Result<bool> {
        let lately = self.remembered.lock().whole.iter().any(|(known, at)| known == hash && at.elapsed() < WHOLE_FOR);
        Ok((lately && self.has(hash)) || matches!(self.look(hash, |_| Ok(()))?, Look::Whole { .. }))
    }

    /// Reads all of a blob that is here and sets it aside if it is damaged. `each` hears of every part that was
    /// read, and may end it with an error.
    pub fn look(&self, hash: &BlobHash, each: impl FnMut(u64) -> io::Result<()>) -> io::Result<Look> {
        let mut file = match File::open(self.path(hash)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Look::Missing),
            Err(error) => return Err(error),
        };
        let outliner = Outliner::of(&mut file, each)?;
        let (found, outline) = outliner.finish();
        if found != hash.0 {
            self.set_aside(hash)?;
            return Ok(Look::Damaged);
        }
        if let Some(outline) = outline {
            self.remember_outline(hash, outline, true);
        }
        self.remember_whole(hash);
        Ok(Look::Whole { bytes: outliner.bytes() })
    }

    /// Returns up to `bytes_max` of a blob from `from`, and its whole length, from wherever it is; `None` if it is nowhere. Bytes
    /// that are not its own are an error, not data.
    pub fn piece(&self, hash: &BlobHash, from: u64, bytes_max: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
        self.checked(hash, || self.piece_of(hash, from, bytes_max))
    }

    /// Returns a piece as [`Blobs::piece`] does, of what is here: a damaged blob is set aside and then as missing as any other.
    pub fn piece_here(&self, hash: &BlobHash, from: u64, bytes_max: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
        match self.piece_of(hash, from, bytes_max)? {
            Found::Right(piece) => Ok(Some(piece)),
            Found::Missing => Ok(None),
            Found::Damaged => self.set_aside(hash).map(|()| None),
        }
    }

    fn piece_of(&self, hash: &BlobHash, from: u64, bytes_max: u64) -> io::Result<Found<(u64, Vec<u8>)>> {
        let mut file = match File::open(self.path(hash)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
            Err(error) => return Err(error),
        };
        let total = file.metadata()?.len();
        let to = from.saturating_add(bytes_max).min(total);
        if total <= GROUP_BYTES {
            let mut all = Vec::new();
            file.take(GROUP_BYTES + 1).read_to_end(&mut all)?;
            if blake3::hash(&all) != hash.0 {
                return Ok(Found::Damaged);
            }
            return Ok(Found::Right((total, part(&all, from, to))));
        }
        let Some(outline) = self.outline(hash, &mut file, total)? else { return Ok(Found::Damaged) };
        if from >= to {
            return Ok(Found::Right((total, Vec::new())));
        }
        let mut bytes = Vec::new();
        for group in from / GROUP_BYTES..to.div_ceil(GROUP_BYTES) {
            let begins = group * GROUP_BYTES;
            let Some(read) = read_group(&mut file, &outline, group)? else { return Ok(Found::Damaged) };
            bytes.extend_from_slice(&part(&read, from.saturating_sub(begins), to - begins));
        }
        Ok(Found::Right((total, bytes)))
    }

    /// Returns the outline of a blob of several groups; `None` if its bytes are damaged.
    fn outline(&self, hash: &BlobHash, file: &mut File, total: u64) -> io::Result<Option<Arc<Outline>>> {
        let known = self.remembered.lock().outlines.iter().find(|(known, _)| known == hash).map(|(_, outline)| outline.clone());
        if let Some(outline) = known {
            return Ok((outline.length() == total).then_some(outline));
        }
        let beside = fs::read(tree_path(&self.path(hash))).unwrap_or_default();
        if let Some(outline) = Outline::read(&beside, total, &hash.0) {
            let last = (total - 1) / GROUP_BYTES;
            let right = read_group(file, &outline, last)?.is_some();
            return Ok(right.then(|| self.remember_outline(hash, outline, false)));
        }
        // An old blob, or its outline is lost or damaged: it is made of the bytes, if these are right.
        file.rewind()?;
        let (found, outline) = Outliner::of(file, |_| Ok(()))?.finish();
        match outline {
            Some(outline) if found == hash.0 => {
                self.remember_whole(hash);
                Ok(Some(self.remember_outline(hash, outline, true)))
            }
            _ => Ok(None),
        }
    }

    /// Keeps an outline in memory, and beside the blob if it is not there yet.
    fn remember_outline(&self, hash: &BlobHash, outline: Outline, write: bool) -> Arc<Outline> {
        if write && let Err(error) = self.write_outline(&self.path(hash), &outline) {
            tracing::debug!(%error, "the outline of blob {hash} is not kept; it is made again when it is needed");
        }
        let outline = Arc::new(outline);
        let mut remembered = self.remembered.lock();
        let outlines = &mut remembered.outlines;
        outlines.retain(|(known, _)| known != hash);
        outlines.push_back((*hash, outline.clone()));
        while outlines.len() > 1 && outlines.iter().map(|(_, outline)| outline.bytes()).sum::<usize>() > OUTLINES_BYTES_MAX {
            outlines.pop_front();
        }
        outline
    }

    fn write_outline(&self, blob: &Path, outline: &Outline) -> io::Result<()> {
        let new = self.new_path();
        fs::write(&new, outline.to_file())?;
        fs::rename(&new, tree_path(blob))
    }

    fn remember_whole(&self, hash: &BlobHash) {
        let whole = &mut self.remembered.lock().whole;
        whole.retain(|(known, _)| known != hash);
        whole.push_back((*hash, Instant::now()));
        if whole.len() > WHOLE_MAX {
            whole.pop_front();
        }
    }

    /// Begins a blob that is written part by part. It has no name until it is whole.
    pub fn incoming(&self) -> io::Result<Incoming> {
        let path = self.new_path();
        let file = File::create_new(&path)?;
        Ok(Incoming { blobs: self.clone(), path, file, outliner: Outliner::default() })
    }

    /// Sees that a blob is here and whole, from wherever it is; false if it is nowhere.
    pub fn bring(&self, hash: &BlobHash) -> io::Result<bool> {
        let looked = || Ok(if self.whole(hash)? { Found::Right(()) } else { Found::Missing });
        self.checked(hash, looked).map(|found| found.is_some())
    }

    /// Keeps a copy of a file, and tells its length.
    pub fn put_file(&self, path: &Path) -> io::Result<(BlobHash, u64)> {
        let new = self.new_path();
        let bytes = fs::copy(path, &new)?;
        // Hashed from the copy: the original may change meanwhile.
        let (hash, outline) = Outliner::of(&mut File::open(&new)?, |_| Ok(()))?.finish();
        let hash = BlobHash(hash);
        self.name(&new, &hash, outline)?;
        Ok((self.kept(hash)?, bytes))
    }

    fn new_path(&self) -> PathBuf {
        self.dir.join("new").join(format!("{:032x}", crate::id::new_v7()))
    }

    /// Gives bytes that were just hashed their name. Whatever has it already is the same or damaged, so it may go.
    fn name(&self, new: &Path, hash: &BlobHash, outline: Option<Outline>) -> io::Result<()> {
        File::open(new)?.sync_all()?;
        let path = self.path(hash);
        let folder = path.parent().unwrap_or(&self.dir);
        if !folder.exists() {
            make_dir(folder)?;
        }
        let _not_set_aside_now = self.setting_aside.lock();
        fs::rename(new, &path)?;
        if let Some(outline) = outline {
            self.remember_outline(hash, outline, true);
        }
        self.sync_folder(hash)?;
        if fs::remove_file(self.aside(hash)).is_ok() {
            metrics::counter!("hiveward_blobs_repaired_total").increment(1);
            tracing::warn!("blob {hash} was damaged and is whole again");
        }
        Ok(())
    }

    fn sync_folder(&self, hash: &BlobHash) -> io::Result<()> {
        sync_name(&self.path(hash))?;
        sync_dir(&self.dir)
    }

    fn aside(&self, hash: &BlobHash) -> PathBuf {
        self.dir.join(DAMAGED).join(hash.to_string())
    }

    /// Takes a damaged blob's name away, after another look: it may have been mended meanwhile.
    fn set_aside(&self, hash: &BlobHash) -> io::Result<()> {
        let _one_at_a_time = self.setting_aside.lock();
        let path = self.path(hash);
        let still = match File::open(&path) {
            Ok(mut file) => Outliner::of(&mut file, |_| Ok(()))?.finish().0 != hash.0,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if !still {
            return Ok(());
        }
        fs::rename(&path, self.aside(hash))?;
        let _none = fs::remove_file(tree_path(&path));
        let mut remembered = self.remembered.lock();
        remembered.outlines.retain(|(known, _)| known != hash);
        remembered.whole.retain(|(known, _)| known != hash);
        metrics::counter!("hiveward_blobs_damaged_total").increment(1);
        tracing::error!("blob {hash} is damaged: its bytes have another hash; they are set aside in {DAMAGED}/");
        Ok(())
    }

    /// Lists the blobs that are damaged, and that no other node could mend so far.
    pub fn damaged(&self) -> io::Result<Vec<BlobHash>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.dir.join(DAMAGED))? {
            found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<BlobHash>().ok()));
        }
        Ok(found)
    }

    /// Lists the names in one of the store's 256 folders, in order.
    pub fn folder(&self, number: u8) -> io::Result<Vec<BlobHash>> {
        let entries = match fs::read_dir(self.dir.join(format!("{number:02x}"))) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<BlobHash>().ok()));
        }
        found.sort();
        Ok(found)
    }

    /// Returns the bytes, or `None` if there is no such blob. Bytes that no longer have this hash are an error, not data.
    pub fn get(&self, hash: &BlobHash) -> io::Result<Option<Bytes>> {
        self.checked(hash, || match fs::read(self.path(hash)) {
            Ok(bytes) if blake3::hash(&bytes) == hash.0 => Ok(Found::Right(Bytes::from(bytes))),
            Ok(_) => Ok(Found::Damaged),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Missing),
            Err(error) => Err(error),
        })
    }

    /// Brings a blob that is not here, or damaged, from another node; false if nobody has it.
    pub fn mend(&self, hash: &BlobHash) -> io::Result<bool> {
        self.others().map_or(Ok(false), |others| others.fetch(hash))
    }

    /// Reads a blob: one that is damaged is set aside, one that is not here is fetched, and then it is read once more.
    fn checked<T>(&self, hash: &BlobHash, read: impl Fn() -> io::Result<Found<T>>) -> io::Result<Option<T>> {
        for last in [false, true] {
            match read()? {
                Found::Right(right) => return Ok(Some(right)),
                Found::Damaged => self.set_aside(hash)?,
                Found::Missing => {}
            }
            if last || !self.mend(hash)? {
                break;
            }
        }
        if self.aside(hash).exists() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("blob {hash} is damaged: its bytes have another hash, and no node that can be asked has them"),
            ));
        }
        Ok(None)
    }

    /// Returns the path of a blob that is here ([`Blobs::bring`]), to be read without holding it in memory.
    pub fn file(&self, hash: &BlobHash) -> PathBuf {
        self.path(hash)
    }
}

/// The finding of a read of a blob here.
enum Found<T> {
    Right(T),
    Missing,
    Damaged,
}

/// Reads the bytes of one group; `None` if they are not right.
fn read_group(file: &mut File, outline: &Outline, group: u64) -> io::Result<Option<Vec<u8>>> {
    let begins = group * GROUP_BYTES;
    let mut bytes = vec![0; usize::try_from(outline.length().saturating_sub(begins).min(GROUP_BYTES)).unwrap_or(0)];
    file.seek(io::SeekFrom::Start(begins))?;
    match file.read_exact(&mut bytes) {
        Ok(()) => Ok(outline.has(group, &bytes).then_some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the path of the outline of a blob.
fn tree_path(blob: &Path) -> PathBuf {
    blob.with_added_extension("tree")
}

fn part(bytes: &[u8], from: u64, to: u64) -> Vec<u8> {
    let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(bytes.len());
    bytes.get(at(from)..at(to)).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests;
