//! Notices credentials that are worth nothing any more, so that what is open with them is closed.
//!
//! One task of a gateway looks whether keys were made or revoked, and wakes those who hold something open. It ends with it.

use std::time::Duration;

use hiveward_actors::client::ControlPlane;
use hiveward_runtime::clock::WallMs;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::Principal;

/// How often it is looked whether credentials were made or revoked: what is open with one that was is closed this soon.
const CREDENTIALS_LOOKED_AT_EVERY: Duration = Duration::from_millis(200);

/// The longest time without a look at a credential that has an end.
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(3600);

/// The one look at credentials that all open connections share.
pub struct Credentials {
    node: ControlPlane,
    changed: watch::Receiver<u64>,
    _looking: AbortOnDropHandle<()>,
}

impl Credentials {
    /// Looks at the credentials that a node knows, until it is dropped.
    pub fn watch(node: ControlPlane) -> Self {
        let (sender, changed) = watch::channel(node.credential_changes());
        let of = node.clone();
        let looking = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(CREDENTIALS_LOOKED_AT_EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                let now = of.credential_changes();
                sender.send_if_modified(|before| std::mem::replace(before, now) != now);
            }
        });
        Self { node, changed, _looking: AbortOnDropHandle::new(looking) }
    }
}

/// Waits until what somebody asks with is worth nothing any more: it was revoked, or its time is over. For good where neither can
/// be.
pub fn over(credentials: Option<&Credentials>, who: &Principal) -> impl Future<Output = ()> + Send + use<> {
    let watched = credentials.filter(|_| who.credential.is_some() || who.until.is_some());
    let watched = watched.map(|watched| (watched.node.clone(), watched.changed.clone(), who.clone()));
    async move {
        let Some((node, mut changed, who)) = watched else { return std::future::pending().await };
        while node.is_valid(&who) {
            let left = who.until.map_or(LOOK_AGAIN_MAX, |until| until.since(WallMs::now()));
            // It is looked again when its time is over, and now and then before that: the clock may have been set meanwhile.
            let wait = left.clamp(Duration::from_millis(1), LOOK_AGAIN_MAX);
            if matches!(tokio::time::timeout(wait, changed.changed()).await, Ok(Err(_))) {
                return;
            }
        }
    }
}
