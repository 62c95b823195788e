//! A place where tests lose tells between nodes: seeded, so that a failure comes back.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use parking_lot::Mutex;

/// The number of tells, of a thousand, that are lost; 0 costs one relaxed load.
static PER_MILLE: AtomicU32 = AtomicU32::new(0);
static LOST: AtomicUsize = AtomicUsize::new(0);
static DICE: Mutex<Option<fastrand::Rng>> = Mutex::new(None);

/// Makes so many of a thousand tells that leave a node get lost on the way from now on. For tests only.
#[doc(hidden)]
pub fn lose(per_mille: u32, seed: u64) {
    *DICE.lock() = Some(fastrand::Rng::with_seed(seed));
    LOST.store(0, Ordering::Relaxed);
    PER_MILLE.store(per_mille, Ordering::Relaxed);
}

/// Returns how many tells were lost since [`lose`] was called last.
#[doc(hidden)]
pub fn lost() -> usize {
    LOST.load(Ordering::Relaxed)
}

/// Decides whether the next tell is lost, and counts it if so.
pub fn strikes() -> bool {
    let per_mille = PER_MILLE.load(Ordering::Relaxed);
    if per_mille == 0 {
        return false;
    }
    let strikes = DICE.lock().as_mut().is_some_and(|dice| dice.u32(0..1000) < per_mille);
    if strikes {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
    strikes
}
