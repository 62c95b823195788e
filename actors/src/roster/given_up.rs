//! What becomes of coordinators that fail again and again where they are: another node is tried, where there is one.
//!
//! A part of the roster's actor. What is remembered goes with this leadership: then each may move once more.

use std::{collections::HashMap, time::Duration};

use hiveward_kernel::{entity::Entity, id::SwarmId};
use hiveward_runtime::{op::NodeId, supervise::Failure};
use tokio::time::Instant;

use super::{
    actor::{Acting, Roster},
    decide,
};

/// The time from the first move of a coordinator to the next one; each further pause is twice as long, up to the longest.
const PAUSE_FIRST: Duration = Duration::from_secs(120);
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// The time after which nothing is remembered of one that has not failed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(6 * 3600);

/// How often each coordinator was moved, and when it was last.
#[derive(Default)]
pub struct Tried(HashMap<SwarmId, (u32, Instant)>);

impl Tried {
    /// Tells whether it may move now: one that fails wherever it is goes round the nodes more and more seldom.
    fn may_move(&mut self, swarm: SwarmId, now: Instant) -> bool {
        self.0.retain(|_, (_, last)| now.duration_since(*last) < FORGOTTEN_AFTER);
        let Some((moves, last)) = self.0.get(&swarm) else { return true };
        let pause = PAUSE_FIRST.saturating_mul(1 << (moves - 1).min(16)).min(PAUSE_MAX);
        now.duration_since(*last) >= pause
    }

    fn moved(&mut self, swarm: SwarmId, now: Instant) {
        let (moves, last) = self.0.entry(swarm).or_insert((0, now));
        (*moves, *last) = (moves.saturating_add(1), now);
    }
}

impl Roster {
    /// Moves a coordinator that was given up to another node. The report names where it was, since it may have gone meanwhile.
    pub(super) async fn try_elsewhere(
        &self,
        acting: &mut Acting,
        swarm: SwarmId,
        at: (NodeId, u64),
        why: &str,
    ) -> Result<(), Failure> {
        let now = Instant::now();
        if !acting.tried.may_move(swarm, now) {
            return Ok(());
        }
        let placed = self.house.directory.read(|known| {
            let place = known.place(Entity::Swarm(swarm))?;
            let there = (place.node, place.placement) == (Some(at.0), at.1);
            there.then(|| decide::try_elsewhere(known, swarm, at.0, &format!("it was given up on {}: {why}", at.0)))?
        });
        let Some(placed) = placed else { return Ok(()) };
        tracing::warn!(%swarm, from = %at.0, why, "a coordinator that was given up is tried on another node");
        self.commit(acting, vec![placed]).await?;
        acting.tried.moved(swarm, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_fails_everywhere_is_moved_more_and_more_seldom_and_forgotten_when_it_is_well() {
        let (mut tried, swarm, mut now) = (Tried::default(), SwarmId::from_u128(1), Instant::now());
        for pause in [120, 240, 480, 960, 1920, 3600, 3600] {
            assert!(tried.may_move(swarm, now));
            tried.moved(swarm, now);
            assert!(tried.may_move(SwarmId::from_u128(2), now), "another one is not held up");
            assert!(!tried.may_move(swarm, now + Duration::from_secs(pause - 1)), "{pause}");
            now += Duration::from_secs(pause);
        }
        now += FORGOTTEN_AFTER;
        assert!(tried.may_move(swarm, now));
        tried.moved(swarm, now);
        assert!(tried.may_move(swarm, now + PAUSE_FIRST));
    }
}
