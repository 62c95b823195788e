//! What a session may say to the agent in its guest: one table, and everything else is refused. Pure.
//!
//! A session brings files there and back, starts its program and looks after it. It freezes no file systems, sets no passwords
//! and shuts nothing down: that is for persons, by the API.

use serde_json::{Map, Value};

use super::session::scripts;

/// A command that a session may say, and the arguments that it may have. What is not named is refused.
struct Allowed {
    command: &'static str,
    arguments: &'static [&'static str],
    /// Check of what the names of these arguments do not say.
    check: fn(&Map<String, Value>) -> Result<(), String>,
}

const TABLE: [Allowed; 8] = [
    Allowed { command: "guest-ping", arguments: &[], check: any },
    Allowed { command: "guest-exec", arguments: &["path", "arg", "env", "input-data", "capture-output"], check: own_script },
    Allowed { command: "guest-exec-status", arguments: &["pid"], check: any },
    Allowed { command: "guest-file-open", arguments: &["path", "mode"], check: read_or_written },
    Allowed { command: "guest-file-seek", arguments: &["handle", "offset", "whence"], check: any },
    Allowed { command: "guest-file-read", arguments: &["handle", "count"], check: any },
    Allowed { command: "guest-file-write", arguments: &["handle", "buf-b64"], check: any },
    Allowed { command: "guest-file-close", arguments: &["handle"], check: any },
];

fn any(_: &Map<String, Value>) -> Result<(), String> {
    Ok(())
}

/// Checks that a shell is run with one of the scripts that sessions have. The program itself is an argument of one of them.
fn own_script(arguments: &Map<String, Value>) -> Result<(), String> {
    let path = arguments.get("path").and_then(Value::as_str).unwrap_or_default();
    if path != "/bin/sh" {
        return Err(format!("a session starts nothing in its guest but its own scripts, and {path:?} is none"));
    }
    let args: Option<Vec<&str>> =
        arguments.get("arg").and_then(Value::as_array).and_then(|args| args.iter().map(Value::as_str).collect());
    match args.as_deref() {
        Some(["-c", script, ..]) if scripts::is_own(script) => Ok(()),
        _ => Err("a session starts nothing in its guest but its own scripts, and this is none of them".to_owned()),
    }
}

fn read_or_written(arguments: &Map<String, Value>) -> Result<(), String> {
    match arguments.get("mode").and_then(Value::as_str) {
        Some("r" | "w") => Ok(()),
        mode => Err(format!("a session opens files to read or to write, and not as {mode:?}")),
    }
}

/// Returns the command as it may be passed on. It is written anew from what was checked: a text that two readers understand
/// differently does not get through. Errors: the words for who asked.
pub fn checked(command: &str) -> Result<String, String> {
    let refused = |why: String| format!("refused before it reached the guest: {why}");
    let Ok(Value::Object(command)) = serde_json::from_str(command) else {
        return Err(refused("it is no command".to_owned()));
    };
    if let Some(unknown) = command.keys().find(|key| !matches!(key.as_str(), "execute" | "arguments")) {
        return Err(refused(format!("a command has no {unknown:?}")));
    }
    let name = command.get("execute").and_then(Value::as_str).unwrap_or_default();
    let Some(allowed) = TABLE.iter().find(|allowed| allowed.command == name) else {
        let all: Vec<_> = TABLE.iter().map(|allowed| allowed.command).collect();
        return Err(refused(format!("sessions need no {name:?}; they may say {}", all.join(", "))));
    };
    let none = Map::new();
    let arguments = match command.get("arguments") {
        None => &none,
        Some(Value::Object(arguments)) => arguments,
        Some(_) => return Err(refused("its arguments have no names".to_owned())),
    };
    if let Some(unknown) = arguments.keys().find(|key| !allowed.arguments.contains(&key.as_str())) {
        return Err(refused(format!("{name} of a session has no {unknown:?}")));
    }
    (allowed.check)(arguments).map_err(refused)?;
    Ok(Value::Object(command).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::agent, *};

    #[test]
    fn a_session_says_what_it_needs_and_nothing_else_gets_to_its_guest() {
        let args = |script: &str| ["-c", script, "hiveward", "/w"].map(str::to_owned).to_vec();
        let env = [("A".to_owned(), "b".to_owned())];
        let exec = |path, args: &[String]| agent::Exec { path, args, env: &env, input: Some(b"in"), capture: true }.command();
        let mut may = vec![
            agent::ping(),
            agent::status_of(7),
            agent::open_file("/w/out", "r"),
            agent::open_file("/w/in", "w"),
            agent::seek_file(1, 5),
            agent::read_file(1),
            agent::write_file(1, b"bytes"),
            agent::close_file(1),
        ];
        may.extend(scripts::ALL.iter().map(|script| exec("/bin/sh", &args(script))));
        may.push(exec("/bin/sh", &args(&scripts::into_input("/d/attempts/task_1-1/guest-0a"))));
        for command in &may {
            let passed = checked(&command.to_string()).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&passed).unwrap(), *command);
        }
        let mut longer = args(scripts::ALL[0]);
        longer[1].push_str("; reboot");
        let may_not = [
            json!({ "execute": "guest-shutdown" }),
            json!({ "execute": "guest-set-user-password", "arguments": { "username": "root" } }),
            json!({ "execute": "guest-ssh-add-authorized-keys" }),
            agent::freeze(),
            agent::thaw(),
            exec("/usr/bin/id", &[]),
            exec("/bin/sh", &args("id")),
            exec("/bin/sh", &longer),
            exec("/bin/sh", &["-ec".to_owned(), scripts::ALL[0].to_owned()]),
            exec("/bin/sh", &[]),
            exec("/bin/sh", &args("cat >/w/$(reboot)/in")),
            exec("/bin/sh", &args("cat >/w/a b/in")),
            agent::open_file("/w/out", "a+"),
            json!({ "execute": "guest-ping", "arguments": { "more": 1 } }),
            json!({ "execute": "guest-ping", "id": 1 }),
            json!({ "execute": ["guest-ping"] }),
            json!("guest-ping"),
        ];
        for command in &may_not {
            let why = checked(&command.to_string()).unwrap_err();
            assert!(why.starts_with("refused before it reached the guest"), "{command}: {why}");
        }
        assert!(checked("{").is_err());
    }

    #[test]
    fn what_two_readers_would_understand_differently_is_passed_on_as_it_was_checked() {
        let twice = r#"{"execute":"guest-shutdown","execute":"guest-ping"}"#;
        assert_eq!(checked(twice).unwrap(), r#"{"execute":"guest-ping"}"#);
    }
}
