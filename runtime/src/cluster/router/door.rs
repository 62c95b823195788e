//! Local doors: the receivers behind the keys of this node.

use std::{cell::Cell, sync::Arc};

use serde::{
    Serialize,
    de::{DeserializeOwned, IgnoredAny},
};

use super::reply::Question;
use crate::{
    call::{Door, Reply, TellError},
    clock::Deadline,
    op::{Asker, Terms},
};

/// A message at its door. It is borrowed from the link's buffer: decode it, do not keep it.
pub struct Inbound<'a> {
    /// The key of the sender, if anybody in particular sent it.
    pub src: Option<&'a str>,
    /// The body as MessagePack, and behind it who asks, if somebody does.
    pub body: &'a [u8],
    pub deadline: Option<Deadline>,
    pub(super) question: Option<Question>,
    /// What is behind the body, once that was read.
    pub(super) behind: Cell<Option<&'a [u8]>>,
}

impl<'a> Inbound<'a> {
    /// Reads the body; `BadBody` answers a sender whose version we do not understand.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, NotDelivered> {
        if self.question.is_none() {
            // Behind a tell there is nothing.
            return rmp_serde::from_slice(self.body).map_err(|_| NotDelivered::BadBody);
        }
        let (value, behind) = first_value(self.body).map_err(|_| NotDelivered::BadBody)?;
        self.behind.set(Some(behind));
        Ok(value)
    }

    /// Returns who asks, as the sender's node says it; `None` if that itself asks, or is of a version that does not say.
    fn asker(&self) -> Option<Arc<Asker>> {
        let behind = match self.behind.get() {
            Some(behind) => behind,
            None => first_value::<IgnoredAny>(self.body).ok()?.1,
        };
        // A later version's word that this one does not know is no reason to refuse the question.
        if behind.is_empty() { None } else { rmp_serde::from_slice(behind).ok() }
    }

    /// Tells whether the sender waits for an answer.
    pub fn is_ask(&self) -> bool {
        self.question.is_some()
    }

    /// Returns the way back; `BadBody` for a tell, which has none. Call it once, for the message's `Reply`.
    pub fn reply<T: Serialize + Send + 'static>(&self) -> Result<Reply<T>, NotDelivered> {
        let question = self.question.as_ref().ok_or(NotDelivered::BadBody)?;
        let deadline = self.deadline.ok_or(NotDelivered::BadBody)?;
        Ok(question.reply(Terms { deadline, asker: self.asker() }))
    }
}

/// Reads the first value of these bytes, and returns it with what is behind it.
fn first_value<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), rmp_serde::decode::Error> {
    let mut rest = bytes;
    let value = T::deserialize(&mut rmp_serde::Deserializer::new(&mut rest))?;
    Ok((value, rest))
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
