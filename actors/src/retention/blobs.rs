//! What removes blobs that nothing names any more: those of tasks that were let go of, of images and VMs that were removed, and
//! of requests that were refused after their bodies had come.
//!
//! Owns the removal of what is in the blob store, and no more. A blob stays for a while after it came, or came again: what
//! is to name it may be on its way. Nothing is removed while the views are behind, or lack an event: then nobody can tell.

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use hiveward_kernel::body::Body;
use hiveward_runtime::{
    clock::Deadline,
    error::Refused,
    store::blob::{BlobHash, Blobs, Stored},
    supervise::{Behaviour, Context, Failure, TimerHandle},
};

use crate::house::House;

/// The rule for how long a blob stays that nothing names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobRetention {
    /// How long it stays after it came, or after somebody brought the same bytes.
    pub unnamed: Duration,
    pub look_every: Duration,
}

impl Default for BlobRetention {
    fn default() -> Self {
        Self { unnamed: Duration::from_secs(3600), look_every: Duration::from_secs(600) }
    }
}

/// How long the views are waited for when a look begins, if they are behind.
const VIEWS_WITHIN: Duration = Duration::from_secs(10);
/// The pause between two of the store's 256 folders, so that a look is not felt.
const REST: Duration = Duration::from_millis(10);

/// Figures of the blobs that are there, as of the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlobFigures {
    pub blobs: u64,
    pub bytes: u64,
    /// The number of those that nothing names; they go when they have been there for long enough.
    pub unnamed: u64,
    pub unnamed_bytes: u64,
    /// The number that was removed since the node started.
    pub removed: u64,
}

pub struct BlobKeeper {
    house: House,
    keep: BlobRetention,
}

pub struct State {
    figures: BlobFigures,
    /// What ends a look that is under way when its owner goes.
    over: Over,
    _timer: TimerHandle,
}

#[derive(Default)]
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl BlobKeeper {
    /// Returns the behaviour of the actor that removes blobs by this rule.
    pub fn new(house: House, keep: BlobRetention) -> Self {
        Self { house, keep }
    }
}

impl Behaviour for BlobKeeper {
    type Msg = ();
    type State = State;

    async fn start(&self, ctx: &Context<()>) -> Result<State, Failure> {
        Ok(State { figures: BlobFigures::default(), over: Over::default(), _timer: ctx.every(self.keep.look_every, || ()) })
    }

    async fn handle(&self, ctx: &Context<()>, (): (), state: &mut State) -> Result<(), Failure> {
        let views = &self.house.views;
        let may_remove = views.at_least(self.house.ledger.head(), Deadline::after(VIEWS_WITHIN)).await.is_ok()
            && views.failure().is_none()
            && views.set_aside() == 0;
        let (house, unnamed, over) = (self.house.clone(), self.keep.unnamed, state.over.0.clone());
        let look = tokio::task::spawn_blocking(move || look(&house, unnamed, may_remove, &over));
        match look.await {
            Ok(Ok(found)) => {
                state.figures = BlobFigures { removed: state.figures.removed + found.removed, ..found };
            }
            // The store is looked at again next time.
            Ok(Err(LookError::Over)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the blobs could not be looked at"),
            Err(panic) => return Err(Failure::new(format!("looking at the blobs: {panic}"))),
        }
        let BlobFigures { blobs, bytes, unnamed, .. } = state.figures;
        self.house.figures.lock().blobs = state.figures;
        metrics::gauge!("hiveward_blobs").set(blobs as f64);
        metrics::gauge!("hiveward_blobs_bytes").set(bytes as f64);
        let why = if may_remove { "" } else { "; none is removed while the views lack something" };
        ctx.set_note(&format!("{blobs} blobs, {bytes} bytes, {unnamed} that nothing names{why}"));
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error("it is over")]
    Over,
    #[error(transparent)]
    Disk(#[from] io::Error),
    #[error("{}", .0.message)]
    Views(Refused),
}

fn look(house: &House, unnamed: Duration, may_remove: bool, over: &AtomicBool) -> Result<BlobFigures, LookError> {
    let before = SystemTime::now() - unnamed;
    let kept_elsewhere = named_elsewhere(house).map_err(LookError::Views)?;
    let mut found = BlobFigures::default();
    for folder in 0..=u8::MAX {
        if over.load(Ordering::Relaxed) {
            return Err(LookError::Over);
        }
        let stored = house.blobs.stored(folder)?;
        let hashes: Vec<BlobHash> = stored.iter().map(|blob| blob.hash).collect();
        // Until every row is known nobody can tell what is whose.
        let owned = house.work.tasks.owned(&hashes).map_err(LookError::Views)?;
        for (at, blob) in stored.iter().enumerate() {
            let named = owned.as_ref().is_none_or(|owned| owned[at]) || kept_elsewhere.contains(&blob.hash);
            count(&mut found, &house.blobs, blob, named, may_remove.then_some(before))?;
        }
        std::thread::sleep(REST);
    }
    Ok(found)
}

fn count(
    found: &mut BlobFigures,
    blobs: &Blobs,
    blob: &Stored,
    named: bool,
    remove_before: Option<SystemTime>,
) -> Result<(), LookError> {
    if let Some(before) = remove_before.filter(|before| !named && blob.renewed < *before)
        && blobs.remove_unused(&blob.hash, before)?
    {
        found.removed += 1;
        metrics::counter!("hiveward_blobs_removed_total").increment(1);
        return Ok(());
    }
    found.blobs += 1;
    found.bytes += blob.bytes;
    if !named {
        found.unnamed += 1;
        found.unnamed_bytes += blob.bytes;
    }
    Ok(())
}

/// Collects the blobs of images, and what VMs were given or are being copied to.
fn named_elsewhere(house: &House) -> Result<HashSet<BlobHash>, Refused> {
    let (mut named, vms) = house.directory.read(|known| {
        let fleet = &known.fleet;
        let images = fleet.images.values().map(|image| image.spec.hash.as_str());
        let data = fleet.vms.values().filter_map(|vm| match vm.spec.user_data.as_ref()? {
            Body::Blob { hash, .. } => Some(&**hash),
            Body::Inline(_) => None,
        });
        let named: HashSet<BlobHash> = images.chain(data).filter_map(|hash| hash.parse().ok()).collect();
        (named, fleet.vms.keys().copied().collect::<Vec<_>>())
    });
    for some in vms.chunks(1_000) {
        for record in house.machines.vms.get_many(some)?.into_iter().flatten() {
            let copied = record.state.operations.iter().flat_map(|operation| &operation.copied);
            named.extend(copied.filter_map(|disk| disk.hash.parse::<BlobHash>().ok()));
        }
    }
    Ok(named)
}
