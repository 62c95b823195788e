//! Blobs of several nodes, each with a store of its own, some of whose bits change.

use std::{fs, io, time::Duration};

use hiveward_runtime::store::{
    blob::{BlobHash, Blobs},
    replicas::Replicas,
    scrub::scrub,
};
use tempfile::TempDir;

use crate::ledgers::Group;

struct Stores {
    _group: Group,
    blobs: Vec<Blobs>,
    replicas: Vec<Replicas>,
    _dirs: Vec<TempDir>,
}

impl Stores {
    async fn start() -> Self {
        let group = Group::start(3).await;
        let dirs: Vec<TempDir> = (0..3).map(|_| TempDir::new().unwrap()).collect();
        let blobs: Vec<Blobs> = dirs.iter().map(|dir| Blobs::open(dir.path()).unwrap()).collect();
        let open = |(replica, blobs): (&crate::ledgers::Replica, &Blobs)| {
            Replicas::open(blobs, replica.lanes.bulk.clone(), replica.ledger().clone(), replica.node())
        };
        let replicas = group.replicas.iter().zip(&blobs).map(open).collect();
        Self { _group: group, blobs, replicas, _dirs: dirs }
    }

    async fn on<T: Send + 'static>(&self, at: usize, work: impl FnOnce(Blobs) -> T + Send + 'static) -> T {
        let blobs = self.blobs[at].clone();
        let working = tokio::task::spawn_blocking(move || work(blobs));
        tokio::time::timeout(Duration::from_secs(60), working).await.expect("in time").unwrap()
    }

    fn flip(&self, at: usize, hash: &BlobHash, byte: usize) {
        let path = self.blobs[at].file(hash);
        let Ok(mut bytes) = fs::read(&path) else { return };
        bytes[byte] ^= 4;
        fs::write(path, bytes).unwrap();
    }

    fn right(&self, hash: &BlobHash, body: &[u8]) -> usize {
        self.blobs.iter().filter(|blobs| fs::read(blobs.file(hash)).is_ok_and(|bytes| bytes == body)).count()
    }
}

fn body() -> Vec<u8> {
    (0..2_500_000_u32).map(|n| (n % 253) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_replicas_are_not_counted_not_served_and_mended_from_one_that_is_whole() {
    let stores = Stores::start().await;
    let body = body();
    let put = |body: Vec<u8>| stores.on(0, move |blobs| blobs.put(&body).unwrap());
    let hash = put(body.clone()).await;
    assert!(stores.right(&hash, &body) >= 2, "a majority has it");

    // Bits change on every other node: what they have does not count, and they take the bytes again.
    stores.flip(1, &hash, 2_000_000);
    stores.flip(2, &hash, 0);
    assert_eq!(put(body.clone()).await, hash);
    assert!(stores.right(&hash, &body) >= 2, "a majority has it whole");

    // Read where it is damaged, by piece and whole.
    for byte in [0, 65_536, 1_234_567, 2_499_999] {
        stores.flip(0, &hash, byte);
        let piece = stores.on(0, move |blobs| blobs.piece(&hash, byte as u64, 1)).await;
        assert_eq!(piece.unwrap(), Some((body.len() as u64, vec![body[byte]])), "byte {byte}");
    }
    stores.flip(0, &hash, 5);
    assert_eq!(stores.on(0, move |blobs| blobs.get(&hash)).await.unwrap().unwrap(), body);

    // Found by a scrub before anybody reads it.
    stores.flip(0, &hash, 77);
    let found = stores.on(0, |blobs| scrub(&blobs, None, |_| Ok(()), || false)).await.unwrap();
    assert_eq!((found.damaged, found.repaired, found.lost.len()), (1, 1, 0));
    assert!(stores.on(0, |blobs| blobs.damaged()).await.unwrap().is_empty());

    // Damaged everywhere it is an error in words and no data, whoever asks whom.
    (0..3).for_each(|at| stores.flip(at, &hash, 100));
    for at in 0..3 {
        let read = stores.on(at, move |blobs| blobs.piece(&hash, 100, 10)).await;
        assert!(!matches!(read, Ok(Some(_))), "node {at}: {read:?}");
        if let Err(error) = read {
            assert!(error.kind() == io::ErrorKind::InvalidData && error.to_string().contains("damaged"), "node {at}: {error}");
        }
    }
    for replicas in &stores.replicas {
        replicas.close();
    }
}
