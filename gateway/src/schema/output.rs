//! The output of a task's attempts: a transcript, resumable by byte offset.

use async_graphql::{Context, ID, SimpleObject, Subscription};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use futures_util::{Stream, stream};
use hiveward_actors::client::{self, OutputReader};
use hiveward_runtime::error::Refused;

use super::{Result, door, enums::OutputStream, op, parse, scalars::BigInt};
use crate::engine::Position;

/// A piece of output. `nextByte` is what to resume after.
#[derive(SimpleObject)]
pub struct OutputChunk {
    after_byte: BigInt,
    next_byte: BigInt,
    stream: OutputStream,
    /// Bytes that are not UTF-8 are replaced.
    text: String,
    /// The bytes as they are.
    base64: String,
    /// The attempt has ended and this is the last of it.
    at_end: bool,
}

/// The bytes up to the last whole character, unless the rest could not be one.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => error.valid_up_to(),
        _ => bytes.len(),
    }
}

impl From<client::OutputChunk> for OutputChunk {
    fn from(chunk: client::OutputChunk) -> Self {
        // A character cut by the chunk's end is left for the next one.
        let whole = if chunk.at_end { chunk.bytes.len() } else { whole_characters(&chunk.bytes) };
        let bytes = &chunk.bytes[..whole];
        let left = (chunk.bytes.len() - whole) as u64;
        Self {
            after_byte: BigInt(chunk.after_byte),
            next_byte: BigInt(chunk.next_byte - left),
            stream: chunk.stream.into(),
            text: String::from_utf8_lossy(bytes).into_owned(),
            base64: BASE64.encode(bytes),
            at_end: chunk.at_end,
        }
    }
}

#[derive(Default)]
pub struct OutputFeed;

struct Reading {
    reader: OutputReader,
    after: u64,
    ended: bool,
    position: Position,
}

#[Subscription]
impl OutputFeed {
    /// What the task's attempt (the latest, unless named) writes, from after a byte to its end.
    async fn task_output(
        &self,
        ctx: &Context<'_>,
        task: ID,
        #[graphql(default)] after_byte: u64,
        attempt: Option<u32>,
    ) -> Result<impl Stream<Item = Result<OutputChunk>>> {
        let position: Position = ctx.data::<Position>()?.clone();
        let after = match position.resume_after() {
            Some(text) => text.parse().map_err(|_| Refused::invalid("afterByte", "resume with the id of an earlier event"))?,
            None => after_byte,
        };
        let reader = door(ctx)?.output(&op(ctx, None)?, parse::id("task", &task)?, attempt).await?;
        let reading = Reading { reader, after, ended: false, position };
        Ok(stream::unfold(reading, |mut reading| async move {
            if reading.ended {
                return None;
            }
            match reading.reader.next(reading.after).await {
                Ok(chunk) => {
                    let chunk = OutputChunk::from(chunk);
                    reading.after = chunk.next_byte.0;
                    reading.ended = chunk.at_end;
                    reading.position.reach(reading.after);
                    Some((Ok(chunk), reading))
                }
                Err(refused) => {
                    reading.ended = true;
                    Some((Err(refused.into()), reading))
                }
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_cut_by_a_chunk_waits_for_its_rest_and_garbage_does_not() {
        assert_eq!(whole_characters("aé".as_bytes()), 3);
        assert_eq!(whole_characters(&"aé".as_bytes()[..2]), 1);
        assert_eq!(whole_characters(b"a\xff\xfe"), 3);
        // Alone it cannot be left for later, or reading would never go on.
        assert_eq!(whole_characters(&"é".as_bytes()[..1]), 1);
    }
}
