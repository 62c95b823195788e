//! A question to an actor, from one declaration: what is asked is a type, and the actor's message, its form between nodes and
//! the reader of that form follow from it.
//!
//! A new question is one line in its actor's [`asks!`](crate::asks) and one arm where the actor handles its messages.

use hiveward_runtime::call::Reply;
use serde::{Serialize, de::DeserializeOwned};

/// A question to an actor: what is asked, and what answers it. The same question may be asked again where nothing happened.
pub trait Ask: Clone + Send + Sync + 'static {
    /// The message of the actor that is asked.
    type Message: Send + 'static;
    /// The form of the question between nodes.
    type Wire: Serialize + Send + Sync;
    type Answer: Serialize + DeserializeOwned + Send + 'static;

    /// Makes the actor's message of the question and the way back to who asks.
    fn message(self, reply: Reply<Self::Answer>) -> Self::Message;

    /// Makes the form in which the question travels.
    fn wire(self) -> Self::Wire;
}

/// Declares what an actor is asked and told.
///
/// - Each line of `asks` is a question with its answer. It becomes a type of module `asks`, a variant of the message with a
///   `reply`, and a variant of the form between nodes. That form is written by names: add variants, and fields at the end with
///   a default; never rename.
/// - `wire` holds further variants of the form between nodes, which have no answer or are not what the actor takes as it is.
/// - `own` holds further variants of the message, which stay on the node.
///
/// The form between nodes gets `read(inbound, other)`, which makes the actor's message of what came in; `other` does so for the
/// variants of `wire`.
#[macro_export]
macro_rules! asks {
    (
        $(#[$of_message:meta])* pub enum $Message:ident;
        $(#[$of_wire:meta])* pub enum $Wire:ident;
        asks { $($(#[$doc:meta])* $Ask:ident $({ $($field:ident: $of:ty),* $(,)? })? -> $Answer:ty;)* }
        wire { $($wire:tt)* }
        own { $($own:tt)* }
    ) => {
        $(#[$of_message])*
        pub enum $Message {
            $($(#[$doc])* $Ask { $($($field: $of,)*)? reply: hiveward_runtime::call::Reply<$Answer> },)*
            $($own)*
        }

        $(#[$of_wire])*
        #[derive(serde::Serialize, serde::Deserialize)]
        pub enum $Wire {
            $($Ask $({ $($field: $of),* })?,)*
            $($wire)*
        }

        /// The questions, each as a type.
        pub mod asks {
            #[allow(unused_imports)] // What the fields and answers are named by.
            use super::*;

            $($(#[$doc])*
            #[derive(Clone)]
            pub struct $Ask { $($(pub $field: $of,)*)? }

            impl $crate::ask::Ask for $Ask {
                type Message = super::$Message;
                type Wire = super::$Wire;
                type Answer = $Answer;

                fn message(self, reply: hiveward_runtime::call::Reply<$Answer>) -> super::$Message {
                    let Self { $($($field,)*)? } = self;
                    super::$Message::$Ask { $($($field,)*)? reply }
                }

                fn wire(self) -> super::$Wire {
                    let Self { $($($field,)*)? } = self;
                    super::$Wire::$Ask $({ $($field),* })?
                }
            })*
        }

        impl $Wire {
            /// Reads what came in as the message that it is. Errors: it cannot be read, has no way back for its answer, or is
            /// one of those that `other` makes nothing of.
            #[allow(unreachable_patterns)] // Where there is nothing but questions.
            pub fn read(
                inbound: &hiveward_runtime::cluster::router::Inbound<'_>,
                other: impl FnOnce(Self) -> Option<$Message>,
            ) -> Result<$Message, hiveward_runtime::cluster::router::NotDelivered> {
                Ok(match inbound.read()? {
                    $(Self::$Ask $({ $($field),* })? => $Message::$Ask { $($($field,)*)? reply: inbound.reply()? },)*
                    told => other(told).ok_or(hiveward_runtime::cluster::router::NotDelivered::BadBody)?,
                })
            }
        }
    };
}
