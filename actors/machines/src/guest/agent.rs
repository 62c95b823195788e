//! What is said to the agent in a guest, in the protocol of QEMU's guest agent, and how its answers read. Pure.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

/// Bytes of a file in one read: what the hypervisor passes on in one answer is bounded.
pub const READ_BYTES_MAX: usize = 32 << 10;
/// Bytes of a file, or of a program's input, in one command.
pub const WRITE_BYTES_MAX: usize = 256 << 10;

/// Answer of an agent that is not what the protocol says it would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the agent in the guest answered {0} oddly")]
pub struct Odd(pub &'static str);

/// A program to run in a guest. Without `capture`, its output goes nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exec<'a> {
    pub path: &'a str,
    pub args: &'a [String],
    /// Environment of the program; what the agent itself has if empty.
    pub env: &'a [(String, String)],
    pub input: Option<&'a [u8]>,
    pub capture: bool,
}

impl Exec<'_> {
    /// Returns the command that starts the program.
    pub fn command(&self) -> Value {
        let mut arguments = json!({ "path": self.path, "arg": self.args, "capture-output": self.capture });
        if !self.env.is_empty() {
            arguments["env"] = self.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        }
        if let Some(input) = self.input {
            arguments["input-data"] = BASE64_STANDARD.encode(input).into();
        }
        json!({ "execute": "guest-exec", "arguments": arguments })
    }
}

/// Reads the number of the process from the answer to [`Exec::command`].
pub fn pid(answer: &Value) -> Result<i64, Odd> {
    answer["pid"].as_i64().ok_or(Odd("guest-exec"))
}

/// Returns the command that asks how a program is.
pub fn status_of(pid: i64) -> Value {
    json!({ "execute": "guest-exec-status", "arguments": { "pid": pid } })
}

/// How a program in a guest ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Whether there was more of one of them.
    pub truncated: bool,
}

/// Reads how a program ended from the answer to [`status_of`]; `None` while it runs.
pub fn ended(answer: &Value) -> Result<Option<Ended>, Odd> {
    let odd = Odd("guest-exec-status");
    if !answer["exited"].as_bool().ok_or(odd.clone())? {
        return Ok(None);
    }
    let bytes = |name: &str| match answer[name].as_str() {
        Some(text) => BASE64_STANDARD.decode(text).map_err(|_| odd.clone()),
        None => Ok(Vec::new()),
    };
    let number = |name: &str| answer[name].as_i64().and_then(|number| i32::try_from(number).ok());
    Ok(Some(Ended {
        code: number("exitcode"),
        signal: number("signal"),
        stdout: bytes("out-data")?,
        stderr: bytes("err-data")?,
        truncated: answer["out-truncated"] == true || answer["err-truncated"] == true,
    }))
}

/// Returns the command that opens a file; `mode` is as that of `fopen`.
pub fn open_file(path: &str, mode: &str) -> Value {
    json!({ "execute": "guest-file-open", "arguments": { "path": path, "mode": mode } })
}

/// Reads the handle of a file from the answer to [`open_file`].
pub fn handle(answer: &Value) -> Result<i64, Odd> {
    answer.as_i64().ok_or(Odd("guest-file-open"))
}

/// Returns the command that goes to this byte of a file, counted from its beginning.
pub fn seek_file(handle: i64, offset: u64) -> Value {
    json!({ "execute": "guest-file-seek", "arguments": { "handle": handle, "offset": offset, "whence": 0 } })
}

/// Returns the command that reads what follows in the file, at most [`READ_BYTES_MAX`]; after its end, what has been added since.
pub fn read_file(handle: i64) -> Value {
    json!({ "execute": "guest-file-read", "arguments": { "handle": handle, "count": READ_BYTES_MAX } })
}

/// Reads the bytes of a file from the answer to [`read_file`].
pub fn bytes(answer: &Value) -> Result<Vec<u8>, Odd> {
    let text = answer["buf-b64"].as_str().ok_or(Odd("guest-file-read"))?;
    BASE64_STANDARD.decode(text).map_err(|_| Odd("guest-file-read"))
}

/// Returns the command that writes these bytes, at most [`WRITE_BYTES_MAX`]; the guest may write them whole or in part.
pub fn write_file(handle: i64, bytes: &[u8]) -> Value {
    json!({ "execute": "guest-file-write", "arguments": { "handle": handle, "buf-b64": BASE64_STANDARD.encode(bytes) } })
}

/// Reads from the answer to [`write_file`] how many bytes were written.
pub fn written(answer: &Value) -> Result<usize, Odd> {
    answer["count"].as_u64().and_then(|count| usize::try_from(count).ok()).ok_or(Odd("guest-file-write"))
}

/// Returns the command that closes a file.
pub fn close_file(handle: i64) -> Value {
    json!({ "execute": "guest-file-close", "arguments": { "handle": handle } })
}

/// Returns the command that asks whether the agent is there.
pub fn ping() -> Value {
    json!({ "execute": "guest-ping" })
}

/// Returns the command after which the guest's file systems take no writes until [`thaw`]; many guests end that by themselves
/// after a while.
pub fn freeze() -> Value {
    json!({ "execute": "guest-fsfreeze-freeze" })
}

/// Returns the command that lets the guest's file systems take writes again.
pub fn thaw() -> Value {
    json!({ "execute": "guest-fsfreeze-thaw" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_in_a_guest_left_reads_as_it_was() {
        let answer = json!({ "exited": true, "exitcode": 3, "out-data": "aGkK", "err-truncated": true });
        let wanted = Ended { code: Some(3), stdout: b"hi\n".to_vec(), truncated: true, ..Ended::default() };
        assert_eq!(ended(&answer), Ok(Some(wanted)));
        let killed = json!({ "exited": true, "signal": 9 });
        assert_eq!(ended(&killed).unwrap().unwrap().signal, Some(9));
        assert_eq!(ended(&json!({ "exited": false })), Ok(None));
        assert_eq!(ended(&json!({})), Err(Odd("guest-exec-status")));
        assert_eq!(ended(&json!({ "exited": true, "out-data": "?" })), Err(Odd("guest-exec-status")));
    }

    #[test]
    fn a_program_gets_its_variables_and_its_input_and_no_others() {
        let (args, env) = (vec!["-c".to_owned(), "true".to_owned()], vec![("A".to_owned(), "b=c".to_owned())]);
        let command = Exec { path: "/bin/sh", args: &args, env: &env, input: Some(b"in"), capture: true }.command();
        let wanted =
            json!({ "path": "/bin/sh", "arg": ["-c", "true"], "env": ["A=b=c"], "input-data": "aW4=", "capture-output": true });
        assert_eq!(command["arguments"], wanted);
        assert!(Exec { path: "/bin/true", ..Exec::default() }.command()["arguments"].get("env").is_none());
    }
}
