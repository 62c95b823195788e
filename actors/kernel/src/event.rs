//! How what happened is written to the ledger, and what cannot be read there.

use bytes::Bytes;
use hiveward_runtime::op::Asker;
use serde::{Deserialize, Serialize, de::IgnoredAny};

use crate::id::{AgentId, TaskId};

/// The newest format of an event that this version reads.
const FORMAT: u16 = 1;

/// Encodes an event's body for the ledger. The newest bodies stay in memory, so this one takes no more room than its bytes;
/// a large text would otherwise leave as much room again behind it.
pub fn encoded(event: &impl Serialize) -> Result<Bytes, rmp_serde::encode::Error> {
    rmp_serde::to_vec(event).map(|body| Bytes::from(body.into_boxed_slice()))
}

/// An event as clients see it: without secrets, and without what only the house needs.
#[derive(Clone, Debug, PartialEq)]
pub struct PublicEvent {
    /// The task that it is about; of several submitted together, the first.
    pub task: Option<TaskId>,
    pub agent: Option<AgentId>,
    pub data: serde_json::Value,
}

impl PublicEvent {
    /// Makes an event that is about no task and no agent in particular.
    pub fn of(data: serde_json::Value) -> Self {
        Self { task: None, agent: None, data }
    }
}

/// Writes behind an event's body who asked for what it tells of. Whoever decodes a body does not look behind it, so versions
/// that do not know of this read the same event.
pub fn signed(body: &[u8], asker: &Asker) -> Result<Bytes, rmp_serde::encode::Error> {
    let mut signed = Vec::with_capacity(body.len() + ASKER_BYTES);
    signed.extend_from_slice(body);
    rmp_serde::encode::write_named(&mut signed, asker)?;
    Ok(Bytes::from(signed.into_boxed_slice()))
}

/// Returns who asked for what an event tells of; `None` if the house did of itself, or a version before that was written down.
/// Errors: the body, or what is behind it, cannot be read.
pub fn asker_of(body: &[u8]) -> Result<Option<Asker>, rmp_serde::decode::Error> {
    let mut behind = body;
    IgnoredAny::deserialize(&mut rmp_serde::Deserializer::new(&mut behind))?;
    if behind.is_empty() { Ok(None) } else { rmp_serde::from_slice(behind).map(Some) }
}

/// About how many bytes an asker takes.
const ASKER_BYTES: usize = 64;

/// The reason why an event in the ledger cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("{kind} has format {format}, newer than the {FORMAT} this version reads")]
    Format { kind: String, format: u16 },
    #[error("{kind} cannot be decoded")]
    Body {
        kind: String,
        #[source]
        source: rmp_serde::decode::Error,
    },
}

#[cfg(test)]
mod tests {
    use hiveward_runtime::op::TraceId;

    use super::*;

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    enum Happened {
        Cancelled { task: String, why: Option<String> },
        Nothing,
    }

    #[test]
    fn an_event_tells_who_asked_and_whoever_does_not_know_of_that_reads_it_as_before() {
        let asker = Asker { principal: "åsa".into(), trace: TraceId::from_u128(7) };
        for event in [Happened::Cancelled { task: "t".repeat(70_000), why: None }, Happened::Nothing] {
            let body = encoded(&event).unwrap();
            assert_eq!(asker_of(&body).unwrap(), None);
            let signed = signed(&body, &asker).unwrap();
            assert_eq!(rmp_serde::from_slice::<Happened>(&signed).unwrap(), event);
            assert_eq!(asker_of(&signed).unwrap(), Some(asker.clone()));
            // What is cut off behind the body is noticed, and not taken for nobody.
            assert!((body.len() + 1..signed.len()).all(|cut| asker_of(&signed[..cut]).is_err()));
        }
    }
}
