//! `hiveward vm console`: this terminal becomes the VM's serial console, until Ctrl-].

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    super::{
        attach::{Raw, keyboard, leaves},
        client::{Client, VM},
        fail::{Exit, Failed, Outcome},
        show::text,
    },
    resolve,
};

/// The time until a stream that ended is asked for again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

pub struct Options {
    pub read_only: bool,
    pub after_byte: Option<u64>,
}

/// Connects this terminal with a VM's serial console, until the user leaves.
pub async fn run(client: &Client, vm: &str, options: Options) -> Outcome {
    let id = resolve(client, vm).await?;
    let how = if options.read_only { " to watch" } else { "" };
    eprintln!("at the console of {vm}{how}; Ctrl-] leaves it as it is");
    let lost_signals = |error: std::io::Error| Failed::local(format!("cannot watch for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(lost_signals)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(lost_signals)?;
    let at_terminal = std::io::stdin().is_terminal();
    let raw = at_terminal.then(Raw::enter).transpose()?;
    let interrupted = || Err(Failed::new(Exit::Interrupted, "interrupted", "the VM lives on; come back"));
    let left = tokio::select! {
        left = typing(client, &id, options.read_only, at_terminal) => left,
        left = show(client, &id, options.after_byte) => left,
        _ = terminate.recv() => interrupted(),
        _ = hang_up.recv() => interrupted(),
    };
    // The terminal is put back before anything is said, so that it is said on the user's own screen.
    drop(raw);
    left?;
    eprintln!("\nleft the console; `hiveward vm console` comes back to it");
    Ok(())
}

/// Sends what is typed until the user leaves. What is typed while a piece is on its way goes with the next.
async fn typing(client: &Client, id: &str, read_only: bool, at_terminal: bool) -> Outcome {
    let mut typed = keyboard();
    while let Some(mut piece) = typed.recv().await {
        while let Ok(more) = typed.try_recv() {
            piece.extend(more);
        }
        let end = at_terminal.then(|| leaves(&piece, read_only)).flatten();
        let bytes = piece.get(..end.unwrap_or(piece.len())).unwrap_or_default();
        if !bytes.is_empty() && !read_only {
            let input = json!({ "vm": id, "base64": BASE64.encode(bytes) });
            client.call(VM, "VmType", json!({ "input": input })).await?;
        }
        if end.is_some() {
            return Ok(());
        }
    }
    // A pipe that is over types no more, but what it began is still worth seeing.
    std::future::pending().await
}

async fn show(client: &Client, id: &str, after_byte: Option<u64>) -> Outcome {
    let mut after = after_byte;
    loop {
        let mut chunks = client.subscribe(VM, "VmConsole", json!({ "vm": id, "afterByte": after }));
        while let Some(data) = chunks.next().await? {
            let chunk: &Value = &data["vmConsole"];
            let bytes = BASE64.decode(text(chunk, "base64")).unwrap_or_default();
            let mut out = std::io::stdout().lock();
            match out.write_all(&bytes).and_then(|()| out.flush()) {
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
                Err(error) => return Err(Failed::local(format!("cannot write the output: {error}"))),
                Ok(()) => {}
            }
            if let Some(why) = chunk["closed"].as_str() {
                eprint!("\r\n[{why}]\r\n");
            }
            after = text(chunk, "nextByte").parse().ok().or(after);
        }
        // A node that stops completes its streams; the rest is there when it is back.
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}
