//! One disk of a chain of qcow2 files: reads what each has, and writes a file that stands alone.
//!
//! Only what a backup of ours can be is understood: no compression, no encryption, no snapshots, no feature that a reader must
//! know. Of anything else it is said what it is, and nothing is guessed.

use std::{
    fs::File,
    io::{self, BufWriter, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::Path,
};

const MAGIC: &[u8; 4] = b"QFI\xfb";
const HEADER_BYTES: usize = 104;
/// Bits of an entry that say where its cluster is.
const PLACE: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
/// Bit of an entry whose cluster is in use once, so it may be written in place.
const OWN: u64 = 1 << 63;
const ZERO: u64 = 1;
/// Features that a reader must know and that say nothing about where data is: a file that was not closed.
const DIRTY: u64 = 1;
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Entries of a table of tables that is read at once, at most: enough for disks of 64 TiB.
const L1_ENTRIES_MAX: u32 = 1 << 20;

fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|part| part.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|part| part.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// What a layer has of a cluster of the disk.
enum Has {
    /// The layer has nothing of it; the layer below knows.
    Nothing,
    Zeros,
    At(u64),
}

struct Layer {
    file: File,
    cluster_bits: u32,
    bytes: u64,
    l1: Vec<u64>,
    /// Table that was read last: the number of its entry, and its entries.
    l2: Option<(usize, Vec<u64>)>,
}

impl Layer {
    fn open(path: &Path, is_lowest: bool) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut header = [0; HEADER_BYTES];
        let read = file.read_at(&mut header, 0)?;
        let version = be32(&header, 4);
        if read < 72 || header.get(..4) != Some(MAGIC) || !(2..=3).contains(&version) {
            return Err(bad(format!("{} is no qcow2", path.display())));
        }
        let features = if version == 3 { be64(&header, 72) } else { 0 };
        if be32(&header, 32) != 0 || features & !DIRTY != 0 {
            return Err(bad(format!("{} is encrypted or has features {features:#x} that are not understood", path.display())));
        }
        if is_lowest && be64(&header, 8) != 0 {
            return Err(bad(format!("{} does not stand alone", path.display())));
        }
        let (cluster_bits, bytes, entries) = (be32(&header, 20), be64(&header, 24), be32(&header, 36));
        if !CLUSTER_BITS.contains(&cluster_bits) || entries > L1_ENTRIES_MAX {
            return Err(bad(format!("{} has clusters of 2^{cluster_bits} bytes and {entries} tables", path.display())));
        }
        let mut layer = Self { file, cluster_bits, bytes, l1: Vec::new(), l2: None };
        layer.l1 = layer.table(be64(&header, 40), entries as usize)?;
        Ok(layer)
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn table(&self, at: u64, entries: usize) -> io::Result<Vec<u64>> {
        let mut bytes = vec![0; entries * 8];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes.chunks_exact(8).map(|entry| be64(entry, 0)).collect())
    }

    fn has(&mut self, cluster: u64) -> io::Result<Has> {
        let each = self.cluster() / 8;
        let (table, entry) =
            (usize::try_from(cluster / each).unwrap_or(usize::MAX), usize::try_from(cluster % each).unwrap_or(0));
        let place = self.l1.get(table).copied().unwrap_or(0) & PLACE;
        if place == 0 {
            return Ok(Has::Nothing);
        }
        if self.l2.as_ref().is_none_or(|(known, _)| *known != table) {
            self.l2 = Some((table, self.table(place, usize::try_from(each).unwrap_or(0))?));
        }
        let entry = self.l2.as_ref().and_then(|(_, entries)| entries.get(entry)).copied().unwrap_or(0);
        if entry & COMPRESSED != 0 {
            return Err(bad("it has a compressed cluster, which no backup has"));
        }
        Ok(match (entry & ZERO != 0, entry & PLACE) {
            (true, _) => Has::Zeros,
            (false, 0) => Has::Nothing,
            (false, place) => Has::At(place),
        })
    }

    /// Reads at a place of the file. The last cluster of a file may end before it does: what is missing is zeros. Errors: nothing
    /// is there.
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, at + done as u64)? {
                0 => break,
                read => done += read,
            }
        }
        if let Some(rest) = into.get_mut(done..) {
            rest.fill(0);
        }
        if done == 0 { Err(bad("it ends before its data does")) } else { Ok(()) }
    }
}

/// Writes the disk that the layers make together, the full one first, as a file that stands alone.
pub fn flatten(layers: &[std::path::PathBuf], to: &Path) -> io::Result<()> {
    let mut open = Vec::new();
    for path in layers {
        open.push(Layer::open(path, open.is_empty())?);
    }
    let Some((bits, bytes)) = open.last().map(|newest| (newest.cluster_bits, newest.bytes)) else {
        return Err(bad("there is no layer"));
    };
    if let Some(other) = open.iter().find(|layer| (layer.cluster_bits, layer.bytes) != (bits, bytes)) {
        return Err(bad(format!(
            "a disk of {bytes} bytes in clusters of 2^{bits} is based on one of {} in 2^{}",
            other.bytes, other.cluster_bits
        )));
    }
    let cluster = 1_u64 << bits;
    let size = usize::try_from(cluster).unwrap_or(0);
    let each = cluster / 8;
    let clusters = bytes.div_ceil(cluster);
    let entries = clusters.div_ceil(each).max(1);
    let l1_at = cluster;
    let mut next = l1_at + (entries * 8).div_ceil(cluster) * cluster;
    let mut file = BufWriter::with_capacity(size, File::create(to)?);
    file.seek(SeekFrom::Start(next))?;
    let (mut l1, mut piece) = (Vec::new(), vec![0; size]);
    for table in 0..entries {
        let mut l2 = Vec::new();
        for number in table * each..((table + 1) * each).min(clusters) {
            let mut entry = 0;
            for layer in open.iter_mut().rev() {
                match layer.has(number)? {
                    Has::Nothing => continue,
                    Has::Zeros => {}
                    Has::At(at) => {
                        layer.read(at, &mut piece)?;
                        if piece.iter().any(|byte| *byte != 0) {
                            file.write_all(&piece)?;
                            entry = next | OWN;
                            next += cluster;
                        }
                    }
                }
                break;
            }
            l2.push(entry);
        }
        if l2.iter().any(|entry| *entry != 0) {
            l1.push(next | OWN);
            l2.resize(size / 8, 0);
            for entry in &l2 {
                file.write_all(&entry.to_be_bytes())?;
            }
            next += cluster;
        } else {
            l1.push(0);
        }
    }
    // What counts who uses each cluster: it counts itself, too.
    let (counted, used) = (cluster / 2, next / cluster);
    let (mut blocks, mut tables) = (1, 1);
    loop {
        let all = used + blocks + tables;
        let (needed, needed_tables) = (all.div_ceil(counted), (all.div_ceil(counted) * 8).div_ceil(cluster));
        if (needed, needed_tables) == (blocks, tables) {
            break;
        }
        (blocks, tables) = (needed, needed_tables);
    }
    let all = used + blocks + tables;
    let counts_at = next + tables * cluster;
    for block in 0..tables * each {
        let place = if block < blocks { counts_at + block * cluster } else { 0 };
        file.write_all(&place.to_be_bytes())?;
    }
    for number in 0..blocks * counted {
        file.write_all(&u16::from(number < all).to_be_bytes())?;
    }
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&header(bits, bytes, &l1, l1_at, next, tables))?;
    file.seek(SeekFrom::Start(l1_at))?;
    for entry in &l1 {
        file.write_all(&entry.to_be_bytes())?;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

fn header(bits: u32, bytes: u64, l1: &[u64], l1_at: u64, counts_at: u64, tables: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES + 8);
    header.extend_from_slice(MAGIC);
    let long = |header: &mut Vec<u8>, value: u64| header.extend_from_slice(&value.to_be_bytes());
    let short = |header: &mut Vec<u8>, value: u64| header.extend_from_slice(&u32::try_from(value).unwrap_or(0).to_be_bytes());
    short(&mut header, 3);
    // No file below it.
    long(&mut header, 0);
    short(&mut header, 0);
    short(&mut header, u64::from(bits));
    long(&mut header, bytes);
    short(&mut header, 0);
    short(&mut header, l1.len() as u64);
    long(&mut header, l1_at);
    long(&mut header, counts_at);
    short(&mut header, tables);
    // No snapshots.
    short(&mut header, 0);
    long(&mut header, 0);
    // No features of any kind.
    for _ in 0..3 {
        long(&mut header, 0);
    }
    // Counts of 2^4 bits.
    short(&mut header, 4);
    short(&mut header, HEADER_BYTES as u64);
    // No extensions.
    long(&mut header, 0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    const BITS: u32 = 9;
    const SIZE: usize = 1 << BITS;
    /// Bytes of a disk that has more than one table has entries for, and a last cluster that is not whole.
    const BYTES: u64 = 200 * SIZE as u64 - 100;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Cell {
        Nothing,
        Zeros,
        Data(u8),
    }

    /// Writes a file of a chain as a hypervisor writes one.
    fn write(path: &Path, cells: &[Cell], basis: bool) {
        let each = SIZE / 8;
        let tables = cells.len().div_ceil(each);
        let mut next = (1 + (tables * 8).div_ceil(SIZE)) * SIZE;
        let (mut l1, mut rest) = (Vec::new(), Vec::new());
        for table in cells.chunks(each) {
            let mut l2 = Vec::new();
            for cell in table {
                l2.push(match cell {
                    Cell::Nothing => 0,
                    Cell::Zeros => ZERO,
                    Cell::Data(byte) => {
                        rest.extend(std::iter::repeat_n(*byte, SIZE));
                        next += SIZE;
                        (next - SIZE) as u64 | OWN
                    }
                });
            }
            l2.resize(each, 0);
            rest.extend(l2.iter().flat_map(|entry: &u64| entry.to_be_bytes()));
            l1.push(next as u64 | OWN);
            next += SIZE;
        }
        let mut file = header(BITS, BYTES, &l1, SIZE as u64, 0, 0);
        if basis {
            file[8..16].copy_from_slice(&300_u64.to_be_bytes());
        }
        file.resize(SIZE, 0);
        file.extend(l1.iter().flat_map(|entry| entry.to_be_bytes()));
        file.resize((1 + (tables * 8).div_ceil(SIZE)) * SIZE, 0);
        file.extend(rest);
        std::fs::write(path, file).unwrap();
    }

    fn read(path: &Path) -> Vec<u8> {
        let mut layer = Layer::open(path, true).unwrap();
        let mut bytes = Vec::new();
        for number in 0..BYTES.div_ceil(SIZE as u64) {
            let mut piece = vec![0; SIZE];
            if let Has::At(at) = layer.has(number).unwrap() {
                layer.read(at, &mut piece).unwrap();
            }
            bytes.extend(piece);
        }
        bytes
    }

    #[test]
    fn a_chain_is_put_together_to_what_its_newest_layers_say() {
        let dir = tempfile::tempdir().unwrap();
        for seed in 0..40 {
            let mut dice = fastrand::Rng::with_seed(seed);
            let layers = dice.usize(1..6);
            let (mut paths, mut wanted) = (Vec::new(), vec![0_u8; 200]);
            for layer in 0..layers {
                let cells: Vec<Cell> = (0..200)
                    .map(|_| match dice.u32(0..6) {
                        0 => Cell::Zeros,
                        1 | 2 => Cell::Data(dice.u8(..)),
                        _ => Cell::Nothing,
                    })
                    .collect();
                for (byte, cell) in wanted.iter_mut().zip(&cells) {
                    match cell {
                        Cell::Nothing => {}
                        Cell::Zeros => *byte = 0,
                        Cell::Data(value) => *byte = *value,
                    }
                }
                let path = dir.path().join(layer.to_string());
                write(&path, &cells, layer > 0);
                paths.push(path);
            }
            let to = dir.path().join("whole");
            flatten(&paths, &to).unwrap();
            let wanted: Vec<u8> = wanted.iter().flat_map(|byte| std::iter::repeat_n(*byte, SIZE)).collect();
            assert!(read(&to) == wanted, "seed {seed}: the disk is another");
        }
    }

    #[test]
    fn what_is_no_chain_of_ours_is_not_guessed_at() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two, to) = (dir.path().join("1"), dir.path().join("2"), dir.path().join("to"));
        write(&one, &[Cell::Data(1); 200], false);
        write(&two, &[Cell::Data(2); 200], true);
        flatten(&[one.clone(), two.clone()], &to).unwrap();
        let why = |layers: &[std::path::PathBuf]| flatten(layers, &to).unwrap_err().to_string();
        assert!(why(std::slice::from_ref(&two)).contains("does not stand alone"));
        let edit = |at: usize, byte: u8| {
            let mut bytes = std::fs::read(&two).unwrap();
            bytes[at] = byte;
            std::fs::write(dir.path().join("3"), bytes).unwrap();
            why(&[one.clone(), dir.path().join("3")])
        };
        assert!(edit(0, 0).contains("no qcow2"));
        assert!(edit(35, 1).contains("encrypted"));
        assert!(edit(79, 16).contains("features 0x10"));
        assert!(edit(23, 40).contains("clusters of 2^40"));
        assert!(edit(30, 9).contains("is based on one of"));
        let data = SIZE * 2 + 64 * SIZE;
        assert!(edit(data, 0x40).contains("compressed"));
    }
}
