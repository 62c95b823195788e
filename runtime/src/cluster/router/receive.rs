//! The receiving half: messages that come in over links go to local doors, and every refusal goes back.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{
    Inbound, LocalDoor, NotDelivered, Router,
    envelope::{Envelope, Message, NO_DEADLINE, Refusal, put_refused, read},
    pending::Outcome,
    reply::Question,
};
use crate::{
    clock::Deadline,
    net::link::{Down, LaneHandler, Link, LinkRefused, Taken},
};

/// The shortest pause, in microseconds, after which a door that refuses tells says so again: the word is about the door, not
/// about each message.
const TELL_REFUSALS_EVERY_US: u64 = 1000;

/// A key's door on this node.
pub(super) struct DoorEntry {
    pub(super) incarnation: u64,
    pub(super) door: std::sync::Arc<dyn LocalDoor>,
    /// The moment when a sender of tells was last told that the door refuses.
    pub(super) told_us: AtomicU64,
}

impl LaneHandler for Router {
    fn up(&self, _: &Link) {}

    fn frame(&self, link: &Link, payload: &[u8], _: usize) -> Taken {
        match read(payload) {
            Some(Envelope::Message(message, slot)) => {
                let (mut heard, number) = (link.heard(), usize::from(slot.number));
                if slot.named {
                    if heard.len() <= number {
                        heard.resize(number + 1, None);
                    }
                    heard[number] = Some(message.dst.into());
                }
                match heard.get(number).and_then(Option::as_deref) {
                    Some(dst) => self.message(link, &Message { dst, ..message }),
                    None => Self::unreadable(link),
                }
            }
            Some(Envelope::Answer { correlation, body }) => {
                self.0.pending.settle(link.id(), correlation, Outcome::Answer(body.to_vec()));
            }
            Some(Envelope::Refused { correlation: 0, why, dst }) => self.tell_refused(dst, why),
            Some(Envelope::Refused { correlation, why, .. }) => {
                self.0.pending.settle(link.id(), correlation, Outcome::Refused(why));
            }
            None => Self::unreadable(link),
        }
        Taken::Now
    }

    fn takes_at_once(&self) -> bool {
        true
    }

    fn down(&self, link: &Link, _: &Down) {
        self.0.pending.link_lost(link.id());
    }
}

impl Router {
    fn unreadable(link: &Link) {
        let what = "an envelope of a kind or version that is unknown here".into();
        link.close(Down::WeRefused(LinkRefused::Protocol { what }));
    }

    #[inline]
    fn message(&self, link: &Link, message: &Message<'_>) {
        let question = message.ask.then(|| Question::over(link, message.correlation));
        let deadline = (message.left_us != NO_DEADLINE).then(|| Deadline::after(Duration::from_micros(message.left_us)));
        let refused = self.hand_on(message, question.as_ref(), deadline);
        match (refused, &question) {
            (Ok(()), None) => {}
            (Ok(()), Some(question)) => question.delivered(),
            (Err((why, _)), Some(question)) => question.refuse(why),
            (Err((why, tell)), None) => {
                self.0.tells_refused.fetch_add(1, Ordering::Relaxed);
                if tell {
                    // Dropped if the way back is full: the next refusal says the same.
                    let _ = link.send_with(|buffer| {
                        put_refused(buffer, 0, why, message.dst);
                        true
                    });
                }
            }
        }
    }

    /// Hands a message to its door. The error is the refusal, and whether a sender of tells is to hear of it.
    #[inline]
    pub(super) fn hand_on(
        &self,
        message: &Message<'_>,
        question: Option<&Question>,
        deadline: Option<Deadline>,
    ) -> Result<(), (Refusal, bool)> {
        if message.left_us == 0 {
            return Err((Refusal::Expired, false));
        }
        let doors = self.0.doors.read();
        let entry = doors.get(message.dst).ok_or((Refusal::NoSuchActor, true))?;
        if entry.incarnation != message.incarnation {
            // A newer life is meant than the one here: it is on its way, and not here yet.
            let newer = message.incarnation > entry.incarnation;
            let stale = Refusal::StaleIncarnation { current: entry.incarnation };
            return Err((if newer { Refusal::NoSuchActor } else { stale }, true));
        }
        let src = Some(message.src).filter(|src| !src.is_empty());
        let inbound = Inbound { src, body: message.body, deadline, question: question.cloned(), behind: Cell::new(None) };
        entry.door.deliver(&inbound).map_err(|refused| match refused {
            NotDelivered::Busy => (Refusal::Busy, self.may_tell(entry)),
            NotDelivered::Gone => (Refusal::NoSuchActor, self.may_tell(entry)),
            NotDelivered::BadBody => (Refusal::BadBody, false),
        })
    }

    fn may_tell(&self, entry: &DoorEntry) -> bool {
        let now = self.now_us();
        let told = entry.told_us.load(Ordering::Relaxed);
        let due = told == 0 || now.saturating_sub(told) >= TELL_REFUSALS_EVERY_US;
        if due {
            entry.told_us.store(now.max(1), Ordering::Relaxed);
        }
        due
    }
}
