//! `hiveward vm backup`, `backups`, `restore` and `drill`.

use serde_json::{Value, json};

use super::{
    super::{
        args::Input,
        client::{Client, VM},
        fail::{Exit, Failed, Outcome},
        host::size,
        lookup,
        show::{Show, text},
    },
    LOOK_EVERY, ended, resolve,
};

/// Returns a place as the node is to be given it: a relative path begins in the working directory of this command.
fn absolute(path: &str) -> Outcome<String> {
    if path.contains("://") {
        return Ok(path.to_owned());
    }
    let absolute = std::path::absolute(path).map_err(|error| Failed::local(format!("{path} is no path: {error}")))?;
    Ok(absolute.display().to_string())
}

pub struct Take {
    pub vm: String,
    pub to: String,
    pub incremental: bool,
    pub operation_id: Option<String>,
    pub no_wait: bool,
}

/// Makes a backup of a VM, and waits for its end unless told not to.
pub async fn backup(client: &Client, show: Show, new: Take) -> Outcome {
    let Take { vm, to, incremental, operation_id, no_wait } = new;
    let id = resolve(client, &vm).await?;
    let input = Input::default()
        .set("operationId", operation_id.map(Value::from))
        .set("vm", Value::from(id.as_str()))
        .set("to", Value::from(absolute(&to)?))
        .set("incremental", incremental.then_some(Value::Bool(true)))
        .done();
    let begun = client.get(VM, "VmBackup", json!({ "input": input }), "/backupVm/vm").await?;
    if no_wait {
        return show.done(&begun);
    }
    ended(client, begun).await?;
    let vm: Value = client.get(VM, "VmBackups", json!({ "id": id }), "/node").await?;
    if let Some(last) = vm["backups"].as_array().and_then(|all| all.last()) {
        eprintln!("{}, {} in {}", described(last), size(&last["bytes"]), text(last, "path"));
    }
    show.done(&vm)
}

/// Writes whether it is full or incremental, and why it is full where less was asked for.
fn described(backup: &Value) -> String {
    let kind = text(backup, "kind").to_lowercase();
    match backup["fullBecause"].as_str() {
        Some(why) => format!("{kind}: {why}"),
        None => kind,
    }
}

/// Ends a backup that is under way.
pub async fn cancel(client: &Client, show: Show, vm: &str) -> Outcome {
    let input = json!({ "vm": resolve(client, vm).await? });
    show.done(&client.get(VM, "VmCancelBackup", json!({ "input": input }), "/cancelVmBackup/vm").await?)
}

/// Sets at which times a VM makes backups and where to; it makes none any more if `when` is absent.
pub async fn schedule(
    client: &Client,
    show: Show,
    vm: &str,
    when: Option<(String, String)>,
    keep: u32,
    full_every: u32,
) -> Outcome {
    let id = resolve(client, vm).await?;
    let Some((cron, to)) = when else {
        let input = json!({ "vm": id });
        return show.done(&client.get(VM, "VmUnscheduleBackups", json!({ "input": input }), "/unscheduleVmBackups/vm").await?);
    };
    let input = json!({ "vm": id, "cron": cron, "to": absolute(&to)?, "keep": keep, "fullEvery": full_every });
    let vm: Value = client.get(VM, "VmScheduleBackups", json!({ "input": input }), "/scheduleVmBackups/vm").await?;
    eprintln!("the next one is due at {}", text(&vm["backupSchedule"], "nextAt"));
    show.done(&vm)
}

/// Lists the backups that a VM knows of.
pub async fn of(client: &Client, show: Show, vm: &str) -> Outcome {
    let id = resolve(client, vm).await?;
    let vm: Value = client.get(VM, "VmBackups", json!({ "id": id }), "/node").await?;
    let all = vm["backups"].as_array().cloned().unwrap_or_default();
    show.list(&["taken at", "kind", "size", "path"], &all, |backup| {
        vec![text(backup, "takenAt"), described(backup), size(&backup["bytes"]), text(backup, "path")]
    })
}

async fn stored(client: &Client, dir: &str) -> Outcome<Vec<Value>> {
    let found: Value = client.get(VM, "VmBackupsIn", json!({ "in": dir }), "/vmBackups").await?;
    Ok(found.as_array().cloned().unwrap_or_default())
}

/// Lists the backups in a directory or an object store, including damaged ones.
pub async fn within(client: &Client, show: Show, dir: &str) -> Outcome {
    let all = stored(client, &absolute(dir)?).await?;
    show.list(&["vm", "taken at", "kind", "size", "drill", "path"], &all, |backup| {
        if let Some(why) = backup["damage"].as_str() {
            let none = String::new;
            return vec![none(), none(), format!("damaged: {why}"), none(), none(), text(backup, "path")];
        }
        let drill = match backup["drill"]["passed"].as_bool() {
            Some(true) => format!("passed {}", text(&backup["drill"], "at")),
            Some(false) => format!("failed {}", text(&backup["drill"], "at")),
            None => String::new(),
        };
        let kind = described(backup);
        vec![text(backup, "vmName"), text(backup, "takenAt"), kind, size(&backup["bytes"]), drill, text(backup, "path")]
    })
}

/// Has every file of a backup read, and fails if one is not what was written.
pub async fn verify(client: &Client, show: Show, from: &str) -> Outcome {
    let from = absolute(from)?;
    let check: Value = loop {
        let check: Value = client.get(VM, "VmBackupCheck", json!({ "from": from }), "/vmBackupCheck").await?;
        if check["done"] == true {
            break check;
        }
        if client.deadline.is_some_and(|deadline| deadline <= tokio::time::Instant::now()) {
            return Err(Failed::new(Exit::TimedOut, "the backup is not read to its end yet", "ask again: it reads on"));
        }
    };
    let damage: Vec<_> = check["damage"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if damage.is_empty() {
        return show.one(&json!({ "path": from, "whole": true, "bytes": check["bytes"] }));
    }
    Err(Failed::new(
        Exit::Failed,
        format!("the backup in {from} is damaged: {}", damage.join("; ")),
        "restore an older one, and make a new one",
    ))
}

pub struct New {
    pub from: String,
    pub name: String,
    pub host: Option<String>,
    pub no_start: bool,
    pub no_wait: bool,
}

/// Makes a VM of a backup, and waits for its end unless told not to.
pub async fn restore(client: &Client, show: Show, new: New) -> Outcome {
    let input = Input::default()
        .set("from", Value::from(absolute(&new.from)?))
        .set("name", Value::from(new.name))
        .set("host", lookup::optional(client, &lookup::HOST, new.host).await?)
        .set("start", new.no_start.then_some(Value::Bool(false)))
        .done();
    let made = client.get(VM, "VmRestore", json!({ "input": input }), "/restoreVm/vm").await?;
    show.done(&if new.no_wait { made } else { ended(client, made).await? })
}

/// Begins a drill, and waits until its outcome is written beside the backup unless told not to.
pub async fn drill(client: &Client, show: Show, from: &str, host: Option<String>, no_wait: bool) -> Outcome {
    let from = absolute(from)?;
    let input = Input::default()
        .set("from", Value::from(from.as_str()))
        .set("host", lookup::optional(client, &lookup::HOST, host).await?)
        .done();
    let begun: Value = client.get(VM, "VmDrill", json!({ "input": input }), "/drillVmBackup/vm").await?;
    if no_wait {
        return show.done(&begun);
    }
    let (dir, vm) = (from.rsplit_once('/').map_or("/", |(dir, _)| dir).to_owned(), text(&begun, "id"));
    loop {
        let all = stored(client, &dir).await?;
        let backup = all.into_iter().find(|backup| text(backup, "path") == from);
        let drill = backup.as_ref().map(|backup| backup["drill"].clone()).unwrap_or_default();
        if text(&drill, "vm") == vm {
            return match drill["failure"].as_str() {
                Some(why) => Err(Failed::new(
                    Exit::Failed,
                    format!("the backup in {from} did not come up: {why}"),
                    "look at it with `hiveward vm restore`, and at its console",
                )),
                None => show.one(&json!({ "path": from, "passed": true, "at": drill["at"], "vm": vm })),
            };
        }
        if client.deadline.is_some_and(|deadline| deadline <= tokio::time::Instant::now()) {
            return Err(Failed::new(
                Exit::TimedOut,
                "the drill has not ended",
                "it goes on; look with `hiveward vm backups --in`",
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
