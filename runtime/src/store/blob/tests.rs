use super::*;

fn some(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8).collect()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn is_damaged<T: fmt::Debug>(read: io::Result<T>) -> bool {
    matches!(&read, Err(error) if error.kind() == io::ErrorKind::InvalidData)
}

/// Another node, which has some bytes and nothing else.
struct Another {
    here: Blobs,
    has: Vec<u8>,
}

impl Elsewhere for Another {
    fn keep(&self, _: &BlobHash) -> io::Result<()> {
        Ok(())
    }

    fn fetch(&self, hash: &BlobHash) -> io::Result<bool> {
        let mut incoming = self.here.incoming()?;
        incoming.write(&self.has)?;
        if incoming.hash() != *hash {
            return Ok(false);
        }
        incoming.finish(hash).map(|()| true)
    }
}

#[test]
fn a_damaged_blob_is_an_error_and_a_missing_one_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path()).unwrap();
    let hash = blobs.put(b"some bytes").unwrap();
    assert_eq!(blobs.put(b"some bytes").unwrap(), hash);
    assert_eq!(blobs.get(&hash).unwrap().unwrap(), &b"some bytes"[..]);
    fs::write(blobs.file(&hash), b"some bytez").unwrap();
    assert!(is_damaged(blobs.get(&hash)) && is_damaged(blobs.get(&hash)), "also when it is asked for again");
    assert_eq!(blobs.damaged().unwrap(), [hash]);
    let other = blobs.put(b"other bytes").unwrap();
    fs::remove_file(blobs.file(&other)).unwrap();
    assert_eq!(blobs.get(&other).unwrap(), None);
    assert_eq!(blobs.piece(&other, 0, 10).unwrap(), None);
    assert!(!blobs.bring(&other).unwrap());
}

#[test]
fn no_piece_of_a_damaged_blob_is_served_wherever_the_damage_is() {
    let dir = tempfile::tempdir().unwrap();
    let group = GROUP_BYTES as usize;
    for length in [1, 1000, group, group + 1, 3 * group + 17] {
        let bytes = some(length);
        for at in [0, 1, length / 3, length / 2, length.saturating_sub(group), length - 1] {
            let at = at.min(length - 1);
            let blobs = Blobs::open(dir.path()).unwrap();
            let hash = blobs.put(&bytes).unwrap();
            flip(&blobs.file(&hash), at);
            // The piece around the damage; one that is elsewhere may be served, and then it is right.
            assert!(is_damaged(blobs.piece(&hash, at as u64, 1)), "{length} bytes, damaged at {at}");
            assert!(!blobs.has(&hash) && is_damaged(blobs.piece(&hash, 0, 10)));
            for from in (0..length).step_by(group / 2 + 1) {
                blobs.put(&bytes).unwrap();
                flip(&blobs.file(&hash), at);
                match blobs.piece(&hash, from as u64, 100) {
                    Ok(Some((total, piece))) => {
                        assert_eq!((total as usize, &piece[..]), (length, &bytes[from..length.min(from + 100)]));
                    }
                    damaged => assert!(is_damaged(damaged)),
                }
            }
            // Shorter and longer files are no better.
            for cut in [0, at, length + 1] {
                blobs.put(&bytes).unwrap();
                let mut bent = bytes.clone();
                bent.resize(cut, 0);
                fs::write(blobs.file(&hash), bent).unwrap();
                assert!(is_damaged(blobs.piece(&hash, 0, length as u64 + 10)), "{length} bytes as {cut}");
            }
        }
    }
}

#[test]
fn pieces_are_the_bytes_with_an_outline_without_one_and_with_a_damaged_one() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = some(5 * GROUP_BYTES as usize + 333);
    let hash = Blobs::open(dir.path()).unwrap().put(&bytes).unwrap();
    for outline in ["there", "damaged", "missing", "there again"] {
        let blobs = Blobs::open(dir.path()).unwrap();
        let tree = tree_path(&blobs.file(&hash));
        match outline {
            "damaged" => flip(&tree, 40),
            "missing" => fs::remove_file(&tree).unwrap(),
            _ => {}
        }
        for (from, max) in [(0, 1), (0, 1 << 20), (GROUP_BYTES - 1, 2), (GROUP_BYTES, 77), (300_000, 70_000)] {
            let (total, piece) = blobs.piece(&hash, from, max).unwrap().unwrap();
            let to = (from + max).min(bytes.len() as u64);
            assert_eq!((total, &piece[..]), (bytes.len() as u64, &bytes[from as usize..to as usize]), "{outline}");
        }
        assert_eq!(blobs.piece(&hash, 1 << 30, 10).unwrap().unwrap(), (bytes.len() as u64, Vec::new()));
        assert!(tree.exists(), "{outline}: it is made again");
    }
}

#[test]
fn a_damaged_blob_is_brought_again_from_another_node_and_one_that_is_whole_is_not_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path()).unwrap();
    let bytes = some(200_000);
    let hash = blobs.put(&bytes).unwrap();
    blobs.elsewhere(Some(Arc::new(Another { here: blobs.clone(), has: bytes.clone() })));
    for at in [0, 100_000, 199_999] {
        flip(&blobs.file(&hash), at);
        assert_eq!(blobs.piece(&hash, at as u64, 1).unwrap().unwrap().1, bytes[at..=at]);
        flip(&blobs.file(&hash), at);
        assert_eq!(blobs.get(&hash).unwrap().unwrap(), bytes);
        assert_eq!(blobs.damaged().unwrap(), [], "what was set aside is not needed any more");
    }
    // What other nodes read here is not fetched from them.
    flip(&blobs.file(&hash), 70_000);
    assert_eq!(blobs.piece_here(&hash, 70_000, 1).unwrap(), None);
    assert!(!blobs.has(&hash) && blobs.bring(&hash).unwrap());
    blobs.set_aside(&hash).unwrap();
    assert!(blobs.has(&hash), "whoever was too late finds it whole");
}

#[test]
fn a_replica_counts_only_when_it_is_whole_and_a_put_mends_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path()).unwrap();
    let bytes = some(100_000);
    let hash = blobs.put(&bytes).unwrap();
    assert!(blobs.whole(&hash).unwrap());
    flip(&blobs.file(&hash), 99_999);
    assert_eq!(blobs.put(&bytes).unwrap(), hash);
    assert_eq!(fs::read(blobs.file(&hash)).unwrap(), bytes, "put looked at what is there");
    let again = Blobs::open(dir.path()).unwrap();
    flip(&blobs.file(&hash), 1);
    assert!(!again.whole(&hash).unwrap() && !again.whole(&hash).unwrap());
    assert_eq!(again.damaged().unwrap(), [hash]);
    let mut incoming = again.incoming().unwrap();
    incoming.write(&bytes).unwrap();
    incoming.finish(&hash).unwrap();
    assert!(again.whole(&hash).unwrap() && again.damaged().unwrap().is_empty());
    let file = dir.path().join("file");
    fs::write(&file, &bytes).unwrap();
    flip(&again.file(&hash), 5);
    assert_eq!(again.put_file(&file).unwrap(), (hash, 100_000));
    assert_eq!(again.get(&hash).unwrap().unwrap(), bytes);
}
