//! The scrub of a node's blobs, again and again, so that damage is found and mended while another node still has the bytes.
//!
//! It owns one task, which reads at a bounded rate and keeps nothing: after a restart it begins again. It ends when it is
//! dropped, and never touches what is whole.

use std::{io, time::Duration};

use super::blob::{BlobHash, Blobs, Look};
use crate::rounds::{Pace, Rounds};

/// The most bytes that are read in a second: a hundredth of what a disk of today can.
pub const SCRUB_BYTES_PER_SECOND: u64 = 16 << 20;
/// The time from the end of one round to the beginning of the next.
const REST: Duration = Duration::from_secs(3600);
/// The time from the start of a node to its first round.
const FIRST_REST: Duration = Duration::from_secs(60);
/// The number of names that an answer lists; the count says how many there are.
const LISTED_MAX: usize = 100;

/// The findings of a scrub, and what it did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    pub blobs: u64,
    pub bytes: u64,
    /// The number of blobs found damaged now, or before and not mended since.
    pub damaged: u64,
    /// The number of those that were fetched again from another node.
    pub repaired: u64,
    /// The first hundred of those that no node that can be asked has.
    pub lost: Vec<BlobHash>,
    /// The place to go on from, unless all was looked at.
    pub next: Option<Place>,
}

/// A place in the order of blobs: everything up to it was looked at.
pub type Place = BlobHash;

/// Looks at blobs after a place until `until` says that it is enough, as far as that goes. Blocks.
///
/// `each` hears of every part that was read and may end it with an error.
pub fn scrub(
    blobs: &Blobs,
    after: Option<Place>,
    mut each: impl FnMut(u64) -> io::Result<()>,
    enough: impl Fn() -> bool,
) -> io::Result<Scrubbed> {
    let mut found = Scrubbed::default();
    if after.is_none() {
        for hash in blobs.damaged()? {
            mend(blobs, hash, &mut found);
        }
    }
    for folder in after.map_or(0, |after| after.first_byte())..=u8::MAX {
        for hash in blobs.folder(folder)? {
            if after.is_some_and(|after| hash <= after) {
                continue;
            }
            match blobs.look(&hash, &mut each) {
                Ok(Look::Whole { bytes }) => {
                    found.blobs += 1;
                    found.bytes += bytes;
                }
                Ok(Look::Missing) => {}
                Ok(Look::Damaged) => {
                    found.blobs += 1;
                    mend(blobs, hash, &mut found);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                // A sector that cannot be read is damage, too; its blob is fetched over it.
                Err(error) => {
                    tracing::error!(%error, "blob {hash} cannot be read");
                    found.blobs += 1;
                    mend(blobs, hash, &mut found);
                }
            }
            if enough() {
                found.next = Some(hash);
                return Ok(found);
            }
        }
    }
    Ok(found)
}

fn mend(blobs: &Blobs, hash: BlobHash, found: &mut Scrubbed) {
    found.damaged += 1;
    match blobs.mend(&hash) {
        Ok(true) => found.repaired += 1,
        not => {
            if let Err(error) = not {
                tracing::warn!(%error, "blob {hash} is damaged, and other nodes cannot be asked for it now");
            }
            if found.lost.len() < LISTED_MAX {
                found.lost.push(hash);
            }
        }
    }
}

/// Looks at all blobs of a node again and again, until the answer is dropped.
pub fn in_rounds(blobs: Blobs) -> Rounds {
    at_pace(blobs, Pace { bytes_per_second: SCRUB_BYTES_PER_SECOND, first_rest: FIRST_REST, rest: REST })
}

fn at_pace(blobs: Blobs, pace: Pace) -> Rounds {
    Rounds::start("what is in the blob store", pace, move |each| {
        let found = scrub(&blobs, None, each, || false)?;
        let (count, damaged, repaired) = (found.blobs, found.damaged, found.repaired);
        if damaged > 0 {
            tracing::warn!(blobs = count, damaged, repaired, "blobs were damaged");
        } else {
            tracing::debug!(blobs = count, bytes = found.bytes, "all blobs are whole");
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::{Arc, atomic::Ordering},
    };

    use super::*;
    use crate::{rounds::paced, store::blob::Elsewhere};

    /// Another node, which has all but one of the blobs.
    struct Another {
        here: Blobs,
        bodies: Vec<Vec<u8>>,
    }

    impl Elsewhere for Another {
        fn keep(&self, _: &BlobHash) -> io::Result<()> {
            Ok(())
        }

        fn fetch(&self, hash: &BlobHash) -> io::Result<bool> {
            for body in &self.bodies {
                let mut incoming = self.here.incoming()?;
                incoming.write(body)?;
                if incoming.hash() == *hash {
                    return incoming.finish(hash).map(|()| true);
                }
            }
            Ok(false)
        }
    }

    struct Scene {
        blobs: Blobs,
        bodies: Vec<(BlobHash, Vec<u8>)>,
        _dir: tempfile::TempDir,
    }

    fn scene(count: usize) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let bodies = (0..count).map(|n| {
            let body = vec![n as u8; 1 + n * 7_000];
            (blobs.put(&body).unwrap(), body)
        });
        let bodies = bodies.collect();
        Scene { blobs, bodies, _dir: dir }
    }

    impl Scene {
        fn damage(&self, at: usize) {
            let path = self.blobs.file(&self.bodies[at].0);
            let mut bytes = fs::read(&path).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            fs::write(path, bytes).unwrap();
        }

        fn another(&self, without: usize) {
            let bodies = self.bodies.iter().enumerate().filter(|(at, _)| *at != without).map(|(_, (_, body))| body.clone());
            let another = Another { here: self.blobs.clone(), bodies: bodies.collect() };
            self.blobs.elsewhere(Some(Arc::new(another)));
        }
    }

    #[test]
    fn a_scrub_finds_every_damaged_blob_mends_what_another_node_has_and_names_the_rest() {
        let scene = scene(20);
        let all = |after| scrub(&scene.blobs, after, |_| Ok(()), || false).unwrap();
        let bytes = scene.bodies.iter().map(|(_, body)| body.len() as u64).sum();
        assert_eq!(all(None), Scrubbed { blobs: 20, bytes, ..Scrubbed::default() });
        (0..20).step_by(3).for_each(|at| scene.damage(at));
        let alone = all(None);
        assert_eq!((alone.damaged, alone.repaired, alone.lost.len()), (7, 0, 7));
        scene.another(6);
        let mended = all(None);
        assert_eq!((mended.damaged, mended.repaired, &mended.lost[..]), (7, 6, &[scene.bodies[6].0][..]));
        for (at, (hash, body)) in scene.bodies.iter().enumerate() {
            match scene.blobs.get(hash) {
                Ok(Some(found)) => assert_eq!(&found[..], &body[..]),
                damaged => assert!(at == 6 && damaged.is_err(), "{at}: {damaged:?}"),
            }
        }
        // In parts it looks at each once.
        let (mut after, mut blobs, mut turns) = (None, 0, 0);
        loop {
            let part = scrub(&scene.blobs, after, |_| Ok(()), || true).unwrap();
            (blobs, turns) = (blobs + part.blobs, turns + 1);
            match part.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!((blobs, turns), (19, 20));
    }

    #[tokio::test]
    async fn damage_is_mended_in_the_background_without_anybody_reading_and_the_task_ends_with_its_owner() {
        let scene = scene(6);
        scene.another(usize::MAX);
        scene.damage(2);
        scene.damage(5);
        let pace = Pace { bytes_per_second: u64::MAX, first_rest: Duration::ZERO, rest: Duration::from_millis(1) };
        let rounds = at_pace(scene.blobs.clone(), pace);
        let whole = |at: usize| fs::read(scene.blobs.file(&scene.bodies[at].0)).is_ok_and(|bytes| bytes == scene.bodies[at].1);
        tokio::time::timeout(Duration::from_secs(30), async {
            while !(whole(2) && whole(5)) {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("both are mended");
        let over = rounds.over();
        drop(rounds);
        assert!(over.load(Ordering::Relaxed));
        // A round that is under way ends at its next part, however slow it was to be.
        let mut slow = paced(1, || true);
        assert_eq!(slow(1 << 30).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
