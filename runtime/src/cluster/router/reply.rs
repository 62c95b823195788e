//! The way back from an actor to whoever asked, on this node or another.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::oneshot;

use super::{
    envelope::{Refusal, put_answer, put_refused},
    pending::Outcome,
};
use crate::{
    call::Reply,
    net::link::{Link, SendError},
    op::Terms,
};

/// The phase in which the question is handed to its door: a drop now means that the door did not take it, and the door says why.
const DELIVERING: u8 = 0;
const DELIVERED: u8 = 1;
const DROPPED: u8 = 2;
const SETTLED: u8 = 3;

enum Back {
    Link { link: Link, correlation: u64 },
    Here(Mutex<Option<oneshot::Sender<Outcome>>>),
}

/// One ask on the answering side. Exactly one answer or refusal goes back.
#[derive(Clone)]
pub(super) struct Question(Arc<(AtomicU8, Back)>);

impl Question {
    pub(super) fn over(link: &Link, correlation: u64) -> Self {
        Self(Arc::new((AtomicU8::new(DELIVERING), Back::Link { link: link.clone(), correlation })))
    }

    pub(super) fn here() -> (Self, oneshot::Receiver<Outcome>) {
        let (to, outcome) = oneshot::channel();
        (Self(Arc::new((AtomicU8::new(DELIVERING), Back::Here(Mutex::new(Some(to)))))), outcome)
    }

    pub(super) fn reply<T: Serialize + Send + 'static>(&self, terms: Terms) -> Reply<T> {
        let question = self.clone();
        Reply::elsewhere(
            terms,
            Box::new(move |value: Option<T>| match value {
                Some(value) => question.answer(&value),
                None => question.dropped(),
            }),
        )
    }

    fn answer<T: Serialize>(&self, value: &T) {
        if self.0.0.swap(SETTLED, Ordering::AcqRel) == SETTLED {
            return;
        }
        match &self.0.1 {
            Back::Link { link, correlation } => {
                let sent = link.send_reserved(|buffer| {
                    put_answer(buffer, *correlation);
                    rmp_serde::encode::write(buffer, value).is_ok()
                });
                if matches!(sent, Err(SendError::TooLarge { .. } | SendError::Unencodable)) {
                    refuse(link, *correlation, Refusal::AnswerTooLarge);
                }
                // A link that is down, or full twice over, loses it: the asker hears of the loss, or of its deadline.
            }
            Back::Here(to) => {
                let outcome = rmp_serde::to_vec(value).map_or(Outcome::Refused(Refusal::AnswerTooLarge), Outcome::Answer);
                if let Some(to) = to.lock().take() {
                    let _ = to.send(outcome);
                }
            }
        }
    }

    pub(super) fn refuse(&self, why: Refusal) {
        if self.0.0.swap(SETTLED, Ordering::AcqRel) == SETTLED {
            return;
        }
        match &self.0.1 {
            Back::Link { link, correlation } => refuse(link, *correlation, why),
            Back::Here(to) => {
                if let Some(to) = to.lock().take() {
                    let _ = to.send(Outcome::Refused(why));
                }
            }
        }
    }

    fn dropped(&self) {
        let phase = &self.0.0;
        let in_delivery = phase.compare_exchange(DELIVERING, DROPPED, Ordering::AcqRel, Ordering::Acquire);
        if in_delivery == Err(DELIVERED) {
            self.refuse(Refusal::Dropped);
        }
    }

    /// Notes that the door took it.
    pub(super) fn delivered(&self) {
        let phase = &self.0.0;
        if phase.compare_exchange(DELIVERING, DELIVERED, Ordering::AcqRel, Ordering::Acquire) == Err(DROPPED) {
            self.refuse(Refusal::Dropped);
        }
    }
}

fn refuse(link: &Link, correlation: u64, why: Refusal) {
    // If even this does not fit, the asker's deadline answers.
    let _ = link.send_reserved(|buffer| {
        put_refused(buffer, correlation, why, "");
        true
    });
}
