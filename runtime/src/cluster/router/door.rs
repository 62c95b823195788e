//! Local doors: the receivers behind the keys of this node.

use serde::{Serialize, de::DeserializeOwned};

use super::reply::Question;
use crate::{
    call::{Door, Reply, TellError},
    clock::Deadline,
};

/// A message at its door. It is borrowed from the link's buffer: decode it, do not keep it.
pub struct Inbound<'a> {
    /// The key of the sender, if anybody in particular sent it.
    pub src: Option<&'a str>,
    /// The body as MessagePack.
    pub body: &'a [u8],
    pub deadline: Option<Deadline>,
    pub(super) question: Option<Question>,
}

impl Inbound<'_> {
    /// Reads the body; `BadBody` answers a sender whose version we do not understand.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, NotDelivered> {
        rmp_serde::from_slice(self.body).map_err(|_| NotDelivered::BadBody)
    }

    /// Tells whether the sender waits for an answer.
    pub fn is_ask(&self) -> bool {
        self.question.is_some()
    }

    /// Returns the way back; `BadBody` for a tell, which has none. Call it once, for the message's `Reply`.
    pub fn reply<T: Serialize + Send + 'static>(&self) -> Result<Reply<T>, NotDelivered> {
        let question = self.question.as_ref().ok_or(NotDelivered::BadBody)?;
        let deadline = self.deadline.ok_or(NotDelivered::BadBody)?;
        Ok(question.reply(deadline))
    }
}

/// The reason why a message was not handed on; nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotDelivered {
    Busy,
    Gone,
    BadBody,
}

/// A receiver that hands messages on to something bounded. It is called on a link's task: it must not block and not panic.
pub trait LocalDoor: Send + Sync + 'static {
    fn deliver(&self, inbound: &Inbound<'_>) -> Result<(), NotDelivered>;
}

/// A door to a supervised actor that follows it through restarts; `read` turns what came into the actor's message.
pub struct ActorDoor<M: Send + 'static, F> {
    door: Door<M>,
    read: F,
}

impl<M: Send + 'static, F> ActorDoor<M, F>
where
    F: Fn(&Inbound<'_>) -> Result<M, NotDelivered> + Send + Sync + 'static,
{
    /// Makes a door to this actor.
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
