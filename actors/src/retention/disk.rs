//! What measures a node's disk: how much is free, what takes the rest under the data directory, and when it will be full.
//!
//! Owns nothing but what it measured. Reads sizes, never contents, and with rests, so that nobody feels it.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hiveward_runtime::{
    clock::WallMs,
    supervise::{Behaviour, Context, Failure, TimerHandle},
};
use serde::{Deserialize, Serialize};

use crate::house::House;

/// How often the free space is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The number of looks of which one goes through all files.
const LOOKS_PER_WALK: u32 = 10;
/// The number of looks, an hour's, from which it is told how fast the disk fills.
const LOOKS_KEPT: usize = 60;
/// The number of files after which a walk rests.
const FILES_PER_REST: u64 = 256;
const REST: Duration = Duration::from_millis(5);

/// A folder or file of the data directory with all that is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folder {
    pub name: String,
    pub bytes: u64,
    pub files: u64,
}

/// Figures of the disk as of the last looks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFigures {
    /// The size of the file system that the data directory is on.
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// The folders, the largest first; empty before the first walk.
    pub folders: Vec<Folder>,
    pub walked_at: Option<WallMs>,
    /// The time when the reserve will be reached if it goes on as in the last hour; absent if the disk does not fill.
    pub full_at: Option<WallMs>,
}

pub struct DiskGauge {
    house: House,
    reserve_bytes: u64,
}

pub struct State {
    looks: u32,
    free: VecDeque<(u64, u64)>,
    over: Over,
    _timer: TimerHandle,
}

/// What ends a walk that is under way when its owner goes.
#[derive(Default)]
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl DiskGauge {
    /// Returns the behaviour of the actor that measures the disk; writes are refused when only the reserve is left.
    pub fn new(house: House, reserve_bytes: u64) -> Self {
        Self { house, reserve_bytes }
    }
}

impl Behaviour for DiskGauge {
    type Msg = ();
    type State = State;

    async fn start(&self, ctx: &Context<()>) -> Result<State, Failure> {
        // The first look is soon, so that who asks finds something.
        if ctx.addr().tell(()).is_err() {
            tracing::debug!("the disk is looked at in a minute");
        }
        Ok(State { looks: 0, free: VecDeque::new(), over: Over::default(), _timer: ctx.every(LOOK_EVERY, || ()) })
    }

    async fn handle(&self, ctx: &Context<()>, (): (), state: &mut State) -> Result<(), Failure> {
        let (dir, over) = (self.house.data_dir.clone(), state.over.0.clone());
        let walks = state.looks.is_multiple_of(LOOKS_PER_WALK);
        state.looks = state.looks.wrapping_add(1);
        let look = tokio::task::spawn_blocking(move || {
            let space = nix::sys::statvfs::statvfs(&dir).map_err(io::Error::from)?;
            let unit = space.fragment_size();
            let folders = if walks { Some(walk(&dir, &over)?) } else { None };
            Ok::<_, io::Error>((space.blocks() * unit, space.blocks_available() * unit, folders))
        });
        match look.await {
            Ok(Ok((total_bytes, free_bytes, folders))) => {
                state.free.push_back((self.house.mono_ms(), free_bytes));
                if state.free.len() > LOOKS_KEPT {
                    state.free.pop_front();
                }
                let now = self.house.clock.now();
                let full_at = full_in(state.free.iter().copied(), self.reserve_bytes).map(|within| now.plus(within));
                let mut figures = self.house.figures.lock();
                let (total, free) = (total_bytes, free_bytes);
                figures.disk = DiskFigures { total_bytes, free_bytes, full_at, ..std::mem::take(&mut figures.disk) };
                if let Some(folders) = folders {
                    (figures.disk.folders, figures.disk.walked_at) = (folders, Some(now));
                }
                drop(figures);
                metrics::gauge!("hiveward_disk_free_bytes").set(free as f64);
                ctx.set_note(&format!("{free} of {total} bytes are free"));
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => tracing::warn!(%error, "the disk cannot be looked at; it is tried again"),
            Err(panic) => return Err(Failure::new(format!("looking at the disk: {panic}"))),
        }
        Ok(())
    }
}

/// Returns the time until only the reserve is left, by the first and the last look. `None` if the disk does not fill.
fn full_in(mut looks: impl Iterator<Item = (u64, u64)> + Clone, reserve_bytes: u64) -> Option<Duration> {
    let (first, last) = (looks.clone().next()?, looks.by_ref().last()?);
    let (ms, grown) = (last.0.checked_sub(first.0)?, first.1.checked_sub(last.1)?);
    if ms == 0 || grown == 0 {
        return None;
    }
    let left = last.1.saturating_sub(reserve_bytes);
    let within = u128::from(left) * u128::from(ms) / u128::from(grown);
    // A hundred years are never.
    const NEVER_MS: u128 = 100 * 365 * 24 * 3_600_000;
    (within < NEVER_MS).then(|| Duration::from_millis(within as u64))
}

/// Measures the sizes of what is in a folder, each entry with all that is below it.
fn walk(dir: &Path, over: &AtomicBool) -> io::Result<Vec<Folder>> {
    let (mut found, mut seen): (BTreeMap<String, Folder>, u64) = (BTreeMap::new(), 0);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let folder = found.entry(name.clone()).or_insert(Folder { name, ..Folder::default() });
        let mut open = vec![entry.path()];
        while let Some(path) = open.pop() {
            if over.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            seen += 1;
            if seen.is_multiple_of(FILES_PER_REST) {
                std::thread::sleep(REST);
            }
            // What vanishes meanwhile takes no room.
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            folder.bytes += meta.blocks() * 512;
            if meta.is_dir() {
                open.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
            } else {
                folder.files += 1;
            }
        }
    }
    let mut folders: Vec<_> = found.into_values().collect();
    folders.sort_by(|a, b| (b.bytes, &a.name).cmp(&(a.bytes, &b.name)));
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fills_is_full_when_its_reserve_is_reached_and_one_that_does_not_never_is() {
        let full = |looks: &[(u64, u64)], reserve| full_in(looks.iter().copied(), reserve).map(|within| within.as_secs());
        assert_eq!(full(&[(0, 10_000), (30_000, 9_500), (60_000, 9_000)], 0), Some(540));
        assert_eq!(full(&[(0, 10_000), (60_000, 9_000)], 8_000), Some(60));
        assert_eq!(full(&[(0, 10_000), (60_000, 9_000)], 9_500), Some(0));
        assert_eq!(full(&[(0, 10_000), (60_000, 10_000)], 0), None);
        assert_eq!(full(&[(0, 9_000), (60_000, 10_000)], 0), None);
        assert_eq!(full(&[(0, 9_000)], 0), None);
        assert_eq!(full(&[], 0), None);
        assert_eq!(full(&[(0, u64::MAX), (60_000, u64::MAX - 1)], 0), None);
    }

    #[test]
    fn what_is_below_a_folder_counts_for_it_holes_take_no_room_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("blobs/00")).unwrap();
        fs::write(dir.path().join("blobs/00/one"), vec![1; 100_000]).unwrap();
        fs::File::create(dir.path().join("blobs/hole")).unwrap().set_len(1 << 40).unwrap();
        fs::write(dir.path().join("views.redb"), vec![1; 10_000]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
        let found = walk(dir.path(), &AtomicBool::new(false)).unwrap();
        let of = |name: &str| found.iter().find(|folder| folder.name == name).unwrap();
        assert!((100_000..200_000).contains(&of("blobs").bytes) && of("blobs").files == 2, "{found:?}");
        assert!((10_000..20_000).contains(&of("views.redb").bytes), "{found:?}");
        assert!(of("link").bytes < 10_000 && of("link").files == 1);
        assert_eq!(found[0].name, "blobs", "the largest first");
        let over = walk(dir.path(), &AtomicBool::new(true)).unwrap_err();
        assert_eq!(over.kind(), io::ErrorKind::Interrupted);
    }
}
