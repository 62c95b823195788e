//! What a VM's serial console said, as it is kept: a ring of files in the data directory of the node that holds its host.
//!
//! Every byte has its number from the first on, and each file is named by that of its first byte: nothing else has to be
//! written for a reader to go on where it was. The oldest file goes when the newest is full.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use hiveward_kernel::id::VmId;
use serde::{Deserialize, Serialize};

/// Bytes that are kept of a VM's console at most; what is older is gone.
pub const KEPT_BYTES_MAX: u64 = 1 << 20;
const FILES_MAX: usize = 4;
const FILE_BYTES: u64 = KEPT_BYTES_MAX / FILES_MAX as u64;
/// Bytes of one answer to a reader at most.
pub const PIECE_BYTES_MAX: usize = 64 << 10;
const DIR: &str = "consoles";

/// A stretch of a console.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsolePiece {
    /// Number of its first byte. It is more than was asked for if what lies between is not kept any more, and less if another
    /// recording was begun since, on another node.
    pub after_byte: u64,
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
    /// Reason why the console is not listened to now; absent if it is.
    pub closed: Option<String>,
}

impl ConsolePiece {
    /// Returns the number to ask after for what follows this piece.
    pub fn next_byte(&self) -> u64 {
        self.after_byte + self.bytes.len() as u64
    }
}

fn dir(data_dir: &Path, vm: VmId) -> PathBuf {
    data_dir.join(DIR).join(vm.to_string())
}

/// Returns the files of a recording, oldest first: the number of each one's first byte, and its length in bytes.
fn files(dir: &Path) -> io::Result<Vec<(u64, u64)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Some(begin) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.push((begin, entry.metadata()?.len()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn path(dir: &Path, begin: u64) -> PathBuf {
    dir.join(format!("{begin:020}"))
}

/// Writer of a recording. There is one of each VM on a node.
pub struct Recorder {
    dir: PathBuf,
    file: Option<(File, u64)>,
    begins: Vec<u64>,
    end: u64,
}

impl Recorder {
    /// Opens the recording of this VM, to go on where it ended; makes its directory if there is none.
    pub fn open(data_dir: &Path, vm: VmId) -> io::Result<Self> {
        let dir = dir(data_dir, vm);
        // What a guest says is its administrator's.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let files = files(&dir)?;
        let end = files.last().map_or(0, |(begin, bytes)| begin + bytes);
        Ok(Self { dir, file: None, begins: files.into_iter().map(|(begin, _)| begin).collect(), end })
    }

    /// Returns the number of the byte that comes next.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Writes these bytes behind the last ones, and removes the oldest file when there are too many. After an error a part of
    /// them may have been written.
    pub fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.begins.last().map_or(0, |begin| FILE_BYTES.saturating_sub(self.end - begin));
            if room == 0 {
                self.begins.push(self.end);
                self.file = None;
                while self.begins.len() > FILES_MAX {
                    fs::remove_file(path(&self.dir, self.begins.remove(0)))?;
                }
            }
            let begin = self.begins.last().copied().unwrap_or(self.end);
            if self.file.as_ref().is_none_or(|(_, of)| *of != begin) {
                let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path(&self.dir, begin))?;
                self.file = Some((file, begin));
            }
            let Some((file, _)) = &mut self.file else { continue };
            let room = usize::try_from(FILE_BYTES - (self.end - begin)).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            file.write_all(now)?;
            self.end += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }
}

/// Place where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum From {
    /// After this byte.
    Byte(u64),
    /// At the last so many bytes that are kept.
    Last(u64),
}

/// Returns what follows that place, up to `PIECE_BYTES_MAX` and as far as it is kept; an empty piece at the end.
pub fn read(data_dir: &Path, vm: VmId, from: From) -> io::Result<ConsolePiece> {
    let dir = dir(data_dir, vm);
    let files = files(&dir)?;
    let Some((last, bytes)) = files.last().copied() else { return Ok(ConsolePiece::default()) };
    let (oldest, end) = (files.first().map_or(0, |(begin, _)| *begin), last + bytes);
    let after = match from {
        From::Byte(after) if after > end => oldest,
        From::Byte(after) => after.max(oldest),
        From::Last(bytes) => end.saturating_sub(bytes).max(oldest),
    };
    let Some((begin, length)) = files.iter().rev().find(|(begin, _)| *begin <= after).copied() else {
        return Ok(ConsolePiece { after_byte: after, ..Default::default() });
    };
    let (begin, length) = if after == begin + length && after < end {
        // The end of one file is the beginning of the next.
        files.iter().find(|(next, _)| *next == after).copied().unwrap_or((begin, length))
    } else {
        (begin, length)
    };
    let left = usize::try_from(begin + length - after).unwrap_or(usize::MAX);
    let mut piece = vec![0; left.min(PIECE_BYTES_MAX)];
    let got = match File::open(path(&dir, begin)) {
        // It went meanwhile: the next question finds what is left.
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        file => file?.read_at(&mut piece, after - begin)?,
    };
    piece.truncate(got);
    Ok(ConsolePiece { after_byte: after, bytes: piece, closed: None })
}

/// Removes what is kept of VMs that are not among those that `known` says.
pub fn sweep(data_dir: &Path, known: impl Fn(VmId) -> bool) -> io::Result<()> {
    let entries = match fs::read_dir(data_dir.join(DIR)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let vm = entry.file_name().to_str().and_then(|name| name.parse::<VmId>().ok());
        if vm.is_some_and(|vm| !known(vm)) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_goes_on_where_it_was_and_a_recording_never_grows_beyond_its_bound() {
        let home = tempfile::tempdir().unwrap();
        let vm = VmId::new();
        let byte = |n: u64| (n % 251) as u8;
        let (mut written, mut after) = (0, 0);
        let mut dice = fastrand::Rng::with_seed(7);
        let mut recorder = Recorder::open(home.path(), vm).unwrap();
        while written < 4 * KEPT_BYTES_MAX {
            let more = dice.u64(1..200_000);
            let bytes: Vec<u8> = (written..written + more).map(byte).collect();
            recorder.append(&bytes).unwrap();
            written += more;
            if dice.bool() {
                // Another life of the node.
                recorder = Recorder::open(home.path(), vm).unwrap();
                assert_eq!(recorder.end(), written);
            }
            if dice.u32(0..4) > 0 {
                continue;
            }
            loop {
                let piece = read(home.path(), vm, From::Byte(after)).unwrap();
                assert!(piece.after_byte >= after && piece.bytes.len() <= PIECE_BYTES_MAX);
                if piece.bytes.is_empty() {
                    break;
                }
                let same = piece.bytes.iter().zip(piece.after_byte..).all(|(got, n)| *got == byte(n));
                assert!(same, "what was read at {} is not what was written there", piece.after_byte);
                after = piece.next_byte();
            }
            assert_eq!(after, written, "the end was not reached");
        }
        let kept: u64 = files(&dir(home.path(), vm)).unwrap().iter().map(|(_, bytes)| bytes).sum();
        assert!(kept <= KEPT_BYTES_MAX && kept > KEPT_BYTES_MAX / 2, "{kept}");
        // Another recording was begun: its reader begins with it.
        assert_eq!(read(home.path(), vm, From::Byte(written + 1)).unwrap().after_byte, written - kept);
        assert_eq!(read(home.path(), vm, From::Last(10)).unwrap().after_byte, written - 10);
        sweep(home.path(), |known| known == vm).unwrap();
        assert!(dir(home.path(), vm).exists());
        sweep(home.path(), |_| false).unwrap();
        assert!(!dir(home.path(), vm).exists());
    }
}
