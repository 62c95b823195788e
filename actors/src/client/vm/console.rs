//! A person at a VM's serial console: reads what it said, from any byte that is kept, and types.

use std::time::Duration;

use hiveward_access::verb::Verb;
use hiveward_kernel::id::VmId;
use hiveward_machines::{
    host::{driver::DriverError, message::asks as host},
    vm::console::{ConsolePiece, From},
};
use hiveward_runtime::{
    clock::Deadline,
    error::{Code, Refused},
    op::Op,
};

use super::super::ControlPlane;

/// How long one question waits while there is nothing to say.
const WAIT: Duration = Duration::from_secs(5);
/// How long the answer may take beyond that.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The time between questions about a console that is not listened to.
const CLOSED_EVERY: Duration = Duration::from_secs(1);
/// The most bytes that are typed at once.
const TYPED_BYTES_MAX: usize = 64 << 10;

/// One client's place in what a console says. It holds nothing anywhere.
pub struct ConsoleReader {
    control: ControlPlane,
    vm: VmId,
    closed: Option<String>,
}

fn refused(error: DriverError) -> Refused {
    let code = match &error {
        DriverError::Refused { .. } => Code::Refused,
        DriverError::Failed { .. } | DriverError::Unreachable { .. } => Code::Unavailable,
        DriverError::Expired { .. } => Code::UnknownOutcome,
    };
    Refused::new(code, error.to_string())
}

impl ConsoleReader {
    /// Returns what follows there. Waits until there is something, or until the console is listened to no more, or again: that is
    /// told once, with no bytes. Errors: `NotFound` when the VM is gone. Dropping the future loses nothing.
    pub async fn next(&mut self, from: From) -> Result<ConsolePiece, Refused> {
        let mut from = from;
        loop {
            let record = self.control.vm(self.vm)?.ok_or_else(|| Refused::not_found(self.vm))?;
            let (vm, wait_ms) = (self.vm, u64::try_from(WAIT.as_millis()).unwrap_or(u64::MAX));
            let read = host::ReadConsole { vm, from, wait_ms };
            let asked = self.control.ask(Deadline::after(WAIT + ANSWER_WITHIN), record.host, read).await;
            let piece = match asked {
                Ok(Ok(piece)) => piece,
                // Its host may have an actor again soon.
                Ok(Err(error)) => ConsolePiece { closed: Some(error.to_string()), ..place(from) },
                Err(error) => ConsolePiece { closed: Some(error.message), ..place(from) },
            };
            // A place counted from the end is one from the beginning as soon as there is anything.
            if !piece.bytes.is_empty() || piece.closed != self.closed {
                self.closed.clone_from(&piece.closed);
                return Ok(piece);
            }
            if piece.closed.is_some() {
                tokio::time::sleep(CLOSED_EVERY).await;
            } else {
                from = From::Byte(piece.after_byte);
            }
        }
    }
}

fn place(from: From) -> ConsolePiece {
    let after_byte = if let From::Byte(after) = from { after } else { 0 };
    ConsolePiece { after_byte, ..ConsolePiece::default() }
}

impl ControlPlane {
    /// Opens the serial console of a VM for reading.
    pub async fn vm_console(&self, op: &Op, vm: VmId) -> Result<ConsoleReader, Refused> {
        self.may(op.clone(), Verb::VmConsole, vm).await?;
        self.known_vm(op, vm).await?;
        Ok(ConsoleReader { control: self.clone(), vm, closed: None })
    }

    /// Types the bytes at the VM's serial console. If it is repeated, they are typed twice.
    pub async fn type_vm_console(&self, op: &Op, vm: VmId, bytes: Vec<u8>) -> Result<(), Refused> {
        let op = &self.may(op.clone(), Verb::TypeVmConsole, vm).await?;
        if bytes.is_empty() || bytes.len() > TYPED_BYTES_MAX {
            return Err(Refused::invalid("base64", format!("1 to {TYPED_BYTES_MAX} bytes")));
        }
        let record = self.known_vm(op, vm).await?;
        self.ask(op, record.host, host::TypeConsole { vm, bytes: bytes.into() }).await?.map_err(refused)
    }
}
