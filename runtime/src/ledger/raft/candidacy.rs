//! The rule for which of several nodes that miss a leader at the same moment stands for election. Pure.
//!
//! Two that begin elections within one round trip undo each other: the later term ends the lead that the earlier one has
//! just won, and loses by it too. So a yes to a pre-vote is also a promise not to stand for a while, and of two
//! that ask each other at once the one that ranks lower withdraws. A promise that came to nothing runs out.

use std::time::Duration;

use openraft::LogId;
use tokio::time::Instant;

use crate::op::NodeId;

/// The time for which a node that said yes leaves the field to the candidate: a pre-vote, a vote, and their writes to disk.
pub const PROMISE: Duration = Duration::from_millis(300);

/// The rank of a candidate: the newer log ranks higher, and of two alike the lower id.
type Rank = (Option<LogId<u64>>, std::cmp::Reverse<NodeId>);

#[derive(Debug)]
enum Field {
    /// Pre-votes are being asked for.
    Ours(Rank),
    /// Votes are being asked for.
    Begun,
    Of(NodeId),
}

/// The view that one node has of who stands.
#[derive(Debug, Default)]
pub struct Candidacy(Option<(Field, Instant)>);

impl Candidacy {
    fn field(&self, now: Instant) -> Option<&Field> {
        self.0.as_ref().filter(|(_, until)| now < *until).map(|(field, _)| field)
    }

    /// Tells whether this node may ask for pre-votes now; then it stands until it withdraws, or for as long as a promise lasts.
    pub fn stand(&mut self, me: NodeId, last: Option<LogId<u64>>, now: Instant) -> bool {
        if matches!(self.field(now), Some(Field::Of(_))) {
            return false;
        }
        self.0 = Some((Field::Ours((last, std::cmp::Reverse(me))), now + PROMISE));
        true
    }

    /// Tells whether it has not made room for another since it stood, and so begins an election: now nobody ranks higher.
    pub fn begin(&mut self, now: Instant) -> bool {
        let stands = matches!(self.field(now), Some(Field::Ours(_)));
        if stands {
            self.0 = Some((Field::Begun, now + PROMISE));
        }
        stands
    }

    /// Withdraws this node, which did not find enough votes: others may try.
    pub fn withdraw(&mut self) {
        if matches!(self.0, Some((Field::Ours(_), _))) {
            self.0 = None;
        }
    }

    /// Tells whether a candidate that asks for a pre-vote may stand; then this node does not.
    pub fn yields(&mut self, candidate: NodeId, last: Option<LogId<u64>>, now: Instant) -> bool {
        match self.field(now) {
            Some(Field::Begun) => false,
            Some(Field::Of(other)) if *other != candidate => false,
            Some(Field::Ours(rank)) if *rank > (last, std::cmp::Reverse(candidate)) => false,
            // Not prolonged by asking again: one that never finds enough votes must not keep the field.
            Some(Field::Of(_)) => true,
            Some(Field::Ours(_)) | None => {
                self.0 = Some((Field::Of(candidate), now + PROMISE));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: NodeId = NodeId::from_u128(1);
    const HIGH: NodeId = NodeId::from_u128(2);

    #[test]
    fn of_two_that_ask_each_other_at_once_one_stands() {
        let now = Instant::now();
        let (mut low, mut high) = (Candidacy::default(), Candidacy::default());
        assert!(low.stand(LOW, None, now) && high.stand(HIGH, None, now));
        assert!(!low.yields(HIGH, None, now));
        assert!(high.yields(LOW, None, now));
        assert!(low.begin(now) && !high.begin(now));
        assert!(!low.yields(NodeId::from_u128(0), None, now), "it is being voted for");
    }

    #[test]
    fn who_said_yes_does_not_stand_until_that_has_run_out_and_asking_again_does_not_prolong_it() {
        let now = Instant::now();
        let mut other = Candidacy::default();
        assert!(other.yields(LOW, None, now));
        assert!(!other.stand(HIGH, None, now));
        assert!(!other.yields(NodeId::from_u128(3), None, now), "it is promised");
        assert!(other.yields(LOW, None, now + PROMISE / 2));
        assert!(other.stand(HIGH, None, now + PROMISE));
    }

    #[test]
    fn who_withdraws_leaves_the_field_and_who_stood_too_long_stands_no_more() {
        let now = Instant::now();
        let mut one = Candidacy::default();
        assert!(one.stand(LOW, None, now));
        assert!(!one.begin(now + PROMISE));
        assert!(one.stand(LOW, None, now));
        one.withdraw();
        assert!(one.yields(HIGH, None, now));
    }
}
