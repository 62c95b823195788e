//! What the agent inside a guest says. A guest without one is a state, not an error.

use serde_json::Value;
use virt::{
    domain::Domain,
    enumutil::Enum,
    error::{Error, ErrorNumber},
};

use crate::{
    domain::{Host, problem},
    protocol::{GuestInfo, Problem},
};

const WITHIN_S: i32 = 3;

pub fn ask(host: &Host, vm: &str) -> Result<Option<GuestInfo>, Problem> {
    let Some(domain) = host.own(vm)? else { return Ok(None) };
    if !host.has_disks() {
        return Ok(None);
    }
    let Some(os) = command(&domain, "guest-get-osinfo")? else { return Ok(None) };
    let text = |value: &Value, name: &str| value[name].as_str().map(str::to_owned);
    let mut info = GuestInfo {
        os: text(&os, "pretty-name").or_else(|| text(&os, "name")),
        kernel: text(&os, "kernel-release"),
        ..GuestInfo::default()
    };
    info.host_name = command(&domain, "guest-get-host-name")?.and_then(|name| text(&name, "host-name"));
    if let Some(interfaces) = command(&domain, "guest-network-get-interfaces")? {
        let of_all = interfaces.as_array().into_iter().flatten().filter(|interface| interface["name"] != "lo");
        let addresses = of_all.flat_map(|interface| interface["ip-addresses"].as_array().into_iter().flatten());
        info.addresses = addresses.filter_map(|address| text(address, "ip-address")).collect();
    }
    Ok(Some(info))
}

/// `None` if no agent answers, or this one does not know the command.
fn command(domain: &Domain, name: &str) -> Result<Option<Value>, Problem> {
    let asked = serde_json::json!({ "execute": name }).to_string();
    match domain.qemu_agent_command(&asked, WITHIN_S, 0) {
        Ok(answer) => {
            let answer: Value = serde_json::from_str(&answer)
                .map_err(|error| Problem::Failed(format!("the guest's agent speaks oddly: {error}")))?;
            Ok(Some(answer["return"].clone()))
        }
        Err(error) if silent(&error) => Ok(None),
        Err(error) => Err(problem(&error)),
    }
}

/// Longer than an agent takes for anything that it answers at once.
const COMMAND_WITHIN_S: i32 = 8;

/// One command as it is; `None` if no agent answers.
pub fn say(host: &Host, vm: &str, text: &str) -> Result<Option<String>, Problem> {
    // One that is about to be made has nobody in it yet.
    let Some(domain) = host.own(vm)? else { return Ok(None) };
    if !host.has_disks() {
        return Ok(None);
    }
    match domain.qemu_agent_command(text, COMMAND_WITHIN_S, 0) {
        Ok(answer) => {
            let answer: Value = serde_json::from_str(&answer)
                .map_err(|error| Problem::Failed(format!("the guest's agent speaks oddly: {error}")))?;
            Ok(Some(answer["return"].to_string()))
        }
        // libvirt has one code for its own errors and for those of the agent.
        Err(error) => match error.message().split_once("unable to execute QEMU agent command ") {
            Some((_, why)) => Err(Problem::Refused(why.to_owned())),
            None if silent(&error) => Ok(None),
            None => Err(problem(&error)),
        },
    }
}

fn silent(error: &Error) -> bool {
    matches!(
        error.code(),
        Enum::Known(
            ErrorNumber::AgentUnresponsive
                | ErrorNumber::AgentUnsynced
                | ErrorNumber::AgentCommandTimeout
                | ErrorNumber::AgentCommandFailed
                | ErrorNumber::OperationInvalid
                | ErrorNumber::ArgumentUnsupported
                | ErrorNumber::InternalError
        )
    )
}
