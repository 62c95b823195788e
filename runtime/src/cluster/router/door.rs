//! Local doors: what a key on this node leads to.

use serde::{Serialize, de::DeserializeOwned};

use super::reply::Question;
use crate::{
    call::{Door, Reply, TellError},
    clock::Deadline,
};

/// A message at its door. Borrowed from the link's buffer: decode it, do not keep it.
pub struct Inbound<'a> {
    /// The key of who sent it, if anybody in particular did.
    pub src: Option<&'a str>,
    /// MessagePack.
    pub body: &'a [u8],
    pub deadline: Option<Deadline>,
    pub(super) question: Option<Question>,
}

impl Inbound<'_> {
    /// Reads the body; `BadBody` answers a sender whose version we do not understand.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, NotDelivered> {
        rmp_serde::from_slice(self.body).map_err(|_| NotDelivered::BadBody)
    }

    pub fn is_ask(&self) -> bool {
        self.question.is_some()
    }

    /// The way back; `BadBody` for a tell, which has none. Call it once, for the message's `Reply`.
    pub fn reply<T: Serialize + Send + 'static>(&self) -> Result<Reply<T>, NotDelivered> {
        let question = self.question.as_ref().ok_or(NotDelivered::BadBody)?;
        let deadline = self.deadline.ok_or(NotDelivered::BadBody)?;
        Ok(question.reply(deadline))
    }
}

/// The message was not handed on, and nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotDelivered {
    Busy,
    Gone,
    BadBody,
}

/// Hands messages on to something bounded. Called on a link's task: it must not block and not panic.
pub trait LocalDoor: Send + Sync + 'static {
    fn deliver(&self, inbound: &Inbound<'_>) -> Result<(), NotDelivered>;
}

/// Leads to a supervised actor through its restarts; `read` turns what came into its message.
pub struct ActorDoor<M: Send + 'static, F> {
    door: Door<M>,
    read: F,
}

impl<M: Send + 'static, F> ActorDoor<M, F>
where
    F: Fn(&Inbound<'_>) -> Result<M, NotDelivered> + Send + Sync + 'static,
{
    pub fn new(door: Door<M>, read: F) -> Self {
        Self { door, read }
    }
}

impl<M: Send + 'static, F> LocalDoor for ActorDoor<M, F>
where
    F: Fn(&Inbound<'_>) -> Result<M, NotDelivered> + Send + Sync + 'static,
{
    fn deliver(&self, inbound: &Inbound<'_>) -> Result<(), NotDelivered> {
        self.door.tell((self.read)(inbound)?).map_err(|refused| match refused {
            TellError::Busy(_) => NotDelivered::Busy,
            TellError::Gone(_) => NotDelivered::Gone,
        })
    }
}
