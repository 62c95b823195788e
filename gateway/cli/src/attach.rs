//! `hiveward agent attach`: this terminal becomes the agent's, until Ctrl-].
//!
//! Owns the terminal's mode for as long as it runs, and gives it back on every way out, signals included. What is
//! typed waits in a bounded channel while the node does not take it.

use std::{
    io::{IsTerminal, Read, Write},
    time::Duration,
};

use futures_util::{SinkExt, Stream, StreamExt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_tungstenite::tungstenite::{self, Message};

use super::{
    client::Client,
    fail::{ApiError, ApiErrorExtensions, Exit, Failed, Outcome},
};

/// The byte of Ctrl-].
const DETACH: u8 = 0x1d;
const INTERRUPT: u8 = 0x03;
/// The most pieces of what was typed, each of at most `PIECE_BYTES`, that wait for the node.
const PIECES_MAX: usize = 16;
const PIECE_BYTES: usize = 4096;
/// How long the close frame may take, when we leave.
const GOODBYE: Duration = Duration::from_secs(1);
/// The codes that end what a full-screen program may have left on: other screen, mouse, bracketed paste, colours, no cursor.
const SETTLE: &[u8] = b"\x1b[?1049l\x1b[?1000l\x1b[?1002l\x1b[?1006l\x1b[?2004l\x1b[0m\x1b[?25h";

/// The terminal as it was before. Dropping it puts that back.
pub(super) struct Raw(Termios);

impl Raw {
    pub(super) fn enter() -> Outcome<Self> {
        let unusable = |error: rustix::io::Errno| Failed::local(format!("the terminal cannot be set: {error}"));
        let before = tcgetattr(std::io::stdin()).map_err(unusable)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).map_err(unusable)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing better can be done if either fails: the terminal has gone.
        let mut out = std::io::stdout();
        if out.is_terminal() {
            let _ = out.write_all(SETTLE).and_then(|()| out.flush());
        }
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

enum Left {
    Detached,
    Ended(String),
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Told {
    Attached { task: String, attempt: u32 },
    Ended { how: String },
    Error { code: String, message: String, field: Option<String> },
}

/// Connects this terminal with that of what an agent runs, until it ends or the user detaches.
pub async fn run(client: &Client, agent: &str, task: Option<&str>, read_only: bool) -> Outcome {
    let mut query = vec![("agent", agent), ("readOnly", if read_only { "true" } else { "false" })];
    query.extend(task.map(|task| ("task", task)));
    let (mut sink, mut source) = client.web_socket("/attach/ws", &query).await?.split();
    match tokio::time::timeout(ANSWER_WITHIN, source.next()).await {
        Ok(Some(Ok(Message::Text(text)))) => match told(&text)? {
            Told::Attached { task, attempt } => {
                let how = if read_only { " to watch" } else { "" };
                eprintln!("attached{how} to {task}, attempt {attempt}; Ctrl-] detaches and leaves it running");
            }
            Told::Ended { how } => return Err(Failed::new(Exit::Conflict, format!("it has just ended: {how}"), LOOK)),
            Told::Error { code, message, field } => {
                return Err(ApiError { message, extensions: ApiErrorExtensions { code, field } }.failed("AgentAttach"));
            }
        },
        _ => return Err(lost("the node did not answer")),
    }
    let lost_signals = |error: std::io::Error| Failed::local(format!("cannot watch for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(lost_signals)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(lost_signals)?;
    let mut resized = signal(SignalKind::window_change()).map_err(lost_signals)?;
    let at_terminal = std::io::stdin().is_terminal();
    let raw = at_terminal.then(Raw::enter).transpose()?;
    let mut typed = keyboard();
    let typing = async {
        if !read_only && let Some(size) = size() {
            sink.send(size).await.map_err(|error| lost(&error.to_string()))?;
        }
        let mut open = true;
        loop {
            let message = tokio::select! {
                piece = typed.recv(), if open => match piece {
                    Some(piece) => {
                        let end = at_terminal.then(|| leaves(&piece, read_only)).flatten();
                        let bytes = &piece[..end.unwrap_or(piece.len())];
                        if !bytes.is_empty() && !read_only {
                            let sent = sink.send(Message::binary(bytes.to_vec())).await;
                            sent.map_err(|error| lost(&error.to_string()))?;
                        }
                        if end.is_some() {
                            let _gone = tokio::time::timeout(GOODBYE, sink.send(Message::Close(None))).await;
                            return Ok(Left::Detached);
                        }
                        continue;
                    }
                    None => {
                        // A pipe that is over types no more, but what it started is still worth seeing.
                        open = false;
                        continue;
                    }
                },
                _ = resized.recv() => match size() {
                    Some(size) if !read_only => size,
                    _ => continue,
                },
            };
            sink.send(message).await.map_err(|error| lost(&error.to_string()))?;
        }
    };
    let left = tokio::select! {
        left = typing => left,
        left = show(&mut source) => left,
        _ = terminate.recv() => Err(interrupted()),
        _ = hang_up.recv() => Err(interrupted()),
    };
    // The terminal is put back before anything is said, so that it is said on the user's own screen.
    drop(raw);
    match left? {
        Left::Detached => eprintln!("\ndetached; it runs on, and `hiveward agent attach` comes back to it"),
        Left::Ended(how) => eprintln!("\nthe process has ended: {how}"),
    }
    Ok(())
}

/// How long the node's first word may take after the connection is there.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
const LOOK: &str = "look with `hiveward task list --status running`, and at the agent with `hiveward agent show`";

fn told(text: &str) -> Outcome<Told> {
    super::client::typed(serde_json::from_str(text).unwrap_or_default())
}

fn lost(why: &str) -> Failed {
    Failed::new(Exit::Unreachable, format!("the connection is lost: {why}"), "the process lives on; attach again")
}

fn interrupted() -> Failed {
    Failed::new(Exit::Interrupted, "interrupted", "the process lives on; attach again")
}

/// Returns where in `piece` the user leaves. Who only watches leaves with Ctrl-C too.
pub(super) fn leaves(piece: &[u8], read_only: bool) -> Option<usize> {
    piece.iter().position(|byte| *byte == DETACH || (read_only && *byte == INTERRUPT))
}

fn size() -> Option<Message> {
    let size = tcgetwinsize(std::io::stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0)?;
    Some(Message::text(json!({ "type": "resize", "cols": size.ws_col, "rows": size.ws_row }).to_string()))
}

/// Reads what is typed, on a thread of its own: reading a terminal blocks and nothing can wake it, so it ends with the process.
pub(super) fn keyboard() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut piece = [0; PIECE_BYTES];
        while let Ok(n) = stdin.read(&mut piece) {
            if n == 0 || sender.blocking_send(piece[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

async fn show(source: &mut (impl Stream<Item = tungstenite::Result<Message>> + Unpin)) -> Outcome<Left> {
    let mut out = std::io::stdout();
    while let Some(message) = source.next().await {
        match message.map_err(|error| lost(&error.to_string()))? {
            Message::Binary(bytes) => {
                let shown = out.write_all(&bytes).and_then(|()| out.flush());
                shown.map_err(|error| Failed::local(format!("cannot write to standard output: {error}")))?;
            }
            Message::Text(text) => match told(&text)? {
                Told::Ended { how } => return Ok(Left::Ended(how)),
                Told::Error { code, message, field } => {
                    return Err(ApiError { message, extensions: ApiErrorExtensions { code, field } }.failed("AgentAttach"));
                }
                Told::Attached { .. } => {}
            },
            Message::Close(frame) => {
                return Err(lost(&frame.map_or_else(|| "closed".to_owned(), |frame| frame.reason.to_string())));
            }
            _ => {}
        }
    }
    Err(lost("the node is gone"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_escape_key_detaches_who_types_and_ctrl_c_too_who_watches() {
        assert_eq!(leaves(b"ls\x03\n", false), None);
        assert_eq!(leaves(b"ls\x1dx", false), Some(2));
        assert_eq!(leaves(b"a\x03", true), Some(1));
    }
}
