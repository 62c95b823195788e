//! The serial console of a VM.

use async_graphql::{Context, ID, InputObject, Object, SimpleObject, Subscription};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use futures_util::{Stream, stream};
use hiveward_actors::client::ConsoleReader;
use hiveward_machines::vm::console::From as Place;
use hiveward_runtime::error::Refused;

use super::{
    super::{Result, door, may_open, op, scalars::BigInt},
    input::vm_id,
};
use crate::engine::Position;

/// A piece of what a console said. `nextByte` is what to resume after.
#[derive(SimpleObject)]
pub struct ConsoleChunk {
    /// More than was asked for if what lies between is not kept any more.
    after_byte: BigInt,
    next_byte: BigInt,
    /// Bytes that are not UTF-8 are replaced.
    text: String,
    /// The bytes as they are.
    base64: String,
    /// Why it is not listened to now, if it is not: the VM does not run, or another is at its console. It goes on when it
    /// is listened to again.
    closed: Option<String>,
}

#[derive(Default)]
pub struct ConsoleFeed;

struct Reading {
    reader: ConsoleReader,
    from: Place,
    ended: bool,
    position: Position,
}

#[Subscription]
impl ConsoleFeed {
    /// What the serial console of a VM says, from after a byte on, or else with the last `lastBytes` that are kept: a
    /// MiB of each VM is. Ends when the VM is gone. Administrators only.
    async fn vm_console(
        &self,
        ctx: &Context<'_>,
        vm: ID,
        after_byte: Option<u64>,
        #[graphql(default = 8192)] last_bytes: u64,
    ) -> Result<impl Stream<Item = Result<ConsoleChunk>>> {
        may_open(ctx, "vmConsole")?;
        let position: Position = ctx.data::<Position>()?.clone();
        let from = match (position.resume_after(), after_byte) {
            (Some(text), _) => {
                Place::Byte(text.parse().map_err(|_| Refused::invalid("afterByte", "resume with the id of an earlier event"))?)
            }
            (None, Some(after)) => Place::Byte(after),
            (None, None) => Place::Last(last_bytes),
        };
        let reader = door(ctx)?.vm_console(&op(ctx, None)?, vm_id(ctx, &vm)?).await?;
        let reading = Reading { reader, from, ended: false, position };
        Ok(stream::unfold(reading, |mut reading| async move {
            if reading.ended {
                return None;
            }
            match reading.reader.next(reading.from).await {
                Ok(piece) => {
                    if !piece.bytes.is_empty() {
                        reading.from = Place::Byte(piece.next_byte());
                        reading.position.reach(piece.next_byte());
                    }
                    let chunk = ConsoleChunk {
                        after_byte: BigInt(piece.after_byte),
                        next_byte: BigInt(piece.next_byte()),
                        text: String::from_utf8_lossy(&piece.bytes).into_owned(),
                        base64: BASE64.encode(&piece.bytes),
                        closed: piece.closed,
                    };
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

#[derive(InputObject)]
pub struct TypeVmConsoleInput {
    /// By key or name.
    vm: ID,
    /// The bytes that are typed, 64 KiB at most.
    base64: String,
}

#[derive(SimpleObject)]
pub struct TypeVmConsolePayload {
    /// How many bytes went to the console; what the guest made of them its console says.
    typed_bytes: u32,
}

#[derive(Default)]
pub struct ConsoleMutation;

#[Object]
impl ConsoleMutation {
    /// As if typed at a VM's serial console. No operation of the VM, and not idempotent: repeated, it is typed twice.
    /// Administrators only.
    async fn type_vm_console(&self, ctx: &Context<'_>, input: TypeVmConsoleInput) -> Result<TypeVmConsolePayload> {
        let bytes = BASE64.decode(&input.base64).map_err(|_| Refused::invalid("base64", "this is not base64"))?;
        let typed_bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        door(ctx)?.type_vm_console(&op(ctx, None)?, vm_id(ctx, &input.vm)?, bytes).await?;
        Ok(TypeVmConsolePayload { typed_bytes })
    }
}
