//! `hiveward vm exec` and `vm freeze`: what is asked of the system inside a VM.

use std::io::{self, Read, Write};

use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use serde_json::{Value, json};

use super::{
    super::{
        args::Input,
        client::{Client, VM},
        fail::{Exit, Failed, Outcome},
        show::{Format, Show},
    },
    resolve,
};

/// The most bytes that may be given to a program as its input.
const INPUT_BYTES_MAX: u64 = 256 << 10;

/// Runs a program to its end and ends as it did: its output is this command's.
pub async fn exec(client: &Client, show: Show, vm: &str, env: &[(String, String)], stdin: bool, argv: Vec<String>) -> Outcome {
    let input = stdin.then(read).transpose()?;
    let input = Input::default()
        .set("vm", Some(resolve(client, vm).await?.into()))
        .list("argv", argv.into_iter().map(Value::from))
        .list("env", env.iter().map(|(name, value)| json!({ "name": name, "value": value })))
        .set("input", input.map(Value::from))
        .done();
    let ended: Value = client.get(VM, "VmExec", json!({ "input": input }), "/execInVm").await?;
    if show.format != Format::Table {
        show.done(&ended)?;
    } else {
        let bytes = |name: &str| BASE64.decode(ended[name].as_str().unwrap_or_default()).unwrap_or_default();
        let written = io::stdout().write_all(&bytes("stdoutBase64")).and_then(|()| io::stdout().flush());
        written
            .and_then(|()| io::stderr().write_all(&bytes("stderrBase64")))
            .map_err(|error| Failed::local(error.to_string()))?;
    }
    match (ended["exitCode"].as_i64(), ended["signal"].as_i64()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => {
            Err(Failed::new(Exit::TaskFailed, format!("it ended with exit status {code}"), "its own words are above"))
        }
        (None, Some(signal)) => {
            Err(Failed::new(Exit::TaskFailed, format!("signal {signal} ended it"), "its own words are above"))
        }
        (None, None) => Err(Failed::new(Exit::TaskFailed, "how it ended is not known", "its own words are above")),
    }
}

fn read() -> Outcome<String> {
    let mut text = String::new();
    let read = io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| Failed::local(format!("standard input cannot be read: {error}")))?;
    if text.len() as u64 > INPUT_BYTES_MAX {
        let next = "copy a file into the guest by its network instead";
        return Err(Failed::usage(format!("standard input has more than {INPUT_BYTES_MAX} bytes"), next));
    }
    Ok(text)
}

/// Keeps a guest's file systems from taking writes, or with `thaw` lets them again.
pub async fn freeze(client: &Client, show: Show, vm: &str, thaw: bool) -> Outcome {
    let input = json!({ "vm": resolve(client, vm).await?, "frozen": !thaw });
    let done: Value = client.get(VM, "VmFreeze", json!({ "input": input }), "/freezeVmFileSystems").await?;
    if show.format != Format::Table {
        return show.done(&done);
    }
    println!("{} file systems {}", done["fileSystems"], if thaw { "take writes again" } else { "take no writes" });
    Ok(())
}
