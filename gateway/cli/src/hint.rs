//! The hints what to do after a refusal: a sentence that fits its code, the reason that it gives, and the noun that it is about.
//!
//! They have no state and no I/O. A reason is known by words of the message, which another version may say otherwise: then the
//! hint is the general one of the code.

use hiveward_contract::error::Code;

/// A refusal of the API, and the operation of the document that was refused.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    pub code: Option<Code>,
    pub message: &'a str,
    pub field: Option<&'a str>,
    /// The operation, such as `VmCreate`; empty where nothing of a document was asked.
    pub operation: &'a str,
}

/// A noun of the command line, and how one looks at what it names.
struct Noun {
    word: &'static str,
    list: &'static str,
    show: &'static str,
}

const fn noun(word: &'static str, list: &'static str, show: &'static str) -> Noun {
    Noun { word, list, show }
}

const NOUNS: [Noun; 10] = [
    noun("task", "hiveward task list", "hiveward task show ID"),
    noun("agent", "hiveward agent list", "hiveward agent show NAME"),
    noun("swarm", "hiveward swarm list", "hiveward swarm show NAME"),
    noun("vm", "hiveward vm list", "hiveward vm show NAME"),
    noun("host", "hiveward host list", "hiveward host show NAME"),
    noun("image", "hiveward image list", "hiveward image show NAME"),
    noun("network", "hiveward network list", "hiveward network show NAME"),
    noun("node", "hiveward node list", "hiveward status"),
    noun("approval", "hiveward approval list --all", "hiveward approval show ID"),
    noun("budget", "hiveward budget list", "hiveward budget list"),
];

/// The hints for known reasons: the code, words of its message, and what to do. The first that fits counts.
const REASONS: &[(Code, &str, &str)] = &[
    (
        Code::Refused,
        "no host is eligible: there are none",
        "no host is registered: register one with `hiveward host add URI`, such as qemu:///system",
    ),
    (
        Code::Refused,
        "no host is eligible",
        "`hiveward host list` shows what each host has left, and `hiveward host select` with the same options why each is left out",
    ),
    (
        Code::Refused,
        "no node is eligible",
        "`hiveward node list` shows which nodes are up; cancel a drain, add a node, or ask for other labels",
    ),
    (Code::Refused, "or use force", "do first what the message says, or repeat the command with --force"),
    (
        Code::Refused,
        "agents belong to the swarm",
        "`hiveward agent list --swarm NAME` lists them, `hiveward agent remove NAME` removes one",
    ),
    (
        Code::Refused,
        "has no cluster identity",
        "start the node with --cluster-listen, or with `cluster.listen` in its configuration",
    ),
    (Code::Refused, "start it", "start it with `hiveward agent start NAME`, then ask again"),
    (
        Code::Refused,
        "has already ended",
        "`hiveward task show ID` says what came of it; `hiveward task retry ID` sends it on its way again",
    ),
    (
        Code::Refused,
        "retry it first",
        "`hiveward task show ID` says why that one ended, and `hiveward task retry ID` sends it on its way again",
    ),
    (Code::Refused, "is under way for", "`hiveward vm show NAME` says how far it is; ask again when it has ended"),
    (
        Code::Refused,
        "faults are not allowed",
        "start the node with `node.allow_faults: true` in its configuration, or try it on a `hiveward dev`",
    ),
    (
        Code::Refused,
        "add a node first",
        "make a token with `hiveward token create`, and start a node with `hiveward up --join HOST:7701`",
    ),
    (
        Code::Refused,
        "is the only node that takes anything",
        "make a token with `hiveward token create`, and start a node with `hiveward up --join HOST:7701`",
    ),
    (Code::Refused, "VMs are made of", "`hiveward vm list` shows the image of each; remove those first"),
    (
        Code::Refused,
        "has snapshots",
        "`hiveward vm snapshots NAME` lists them, `hiveward vm snapshot-remove NAME SNAPSHOT` removes one",
    ),
    (
        Code::Refused,
        "no terminal session",
        "`hiveward task list --agent NAME --status running` shows what it runs; only what was created with --pty has a terminal",
    ),
    (
        Code::Limit,
        "maxQueued",
        "wait until tasks have ended, see `hiveward swarm show NAME`, or create a swarm with a larger --max-queued",
    ),
    (Code::Unavailable, "quorum", "`hiveward status` shows which voters are away and why; writes are taken when they are back"),
    (
        Code::Unavailable,
        "no leader is",
        "`hiveward status` shows which voters are away and why; writes are taken when they are back",
    ),
    (
        Code::Unavailable,
        "less than the reserve",
        "make room on that disk; `hiveward storage` shows what uses it, and writes are taken again by themselves",
    ),
    (Code::Busy, "wrong tokens came", "wait for that time, then give the right token with --token, HIVEWARD_TOKEN or --data-dir"),
];

/// Returns what to do after a refusal, in one sentence.
pub fn next(refusal: Refusal<'_>) -> String {
    let Some(code) = refusal.code else { return "the node's log has the cause under the trace that is named".into() };
    if let Some(known) = of_reason(code, refusal.message) {
        return known.into();
    }
    let about = about(refusal);
    match code {
        Code::Invalid => "mend what is named above; `--help` shows what a command takes".into(),
        Code::NotFound => match about {
            Some(Noun { list, .. }) => format!("`{list}` shows what there is; it may have been removed"),
            None => "it may have been removed, or let go of by retention; `hiveward explain NOT_FOUND` says more".into(),
        },
        Code::Conflict => match (refusal.field.and_then(|field| field.rsplit('.').next()), about) {
            (Some("operationId"), _) => "use a new --operation-id, or repeat the very request of the first time".into(),
            (Some("name"), Some(Noun { list, .. })) => {
                format!("choose another name, or use what has it: `{list}` shows it")
            }
            (_, Some(Noun { show, .. })) => format!("look at what is there with `{show}`, then change the request"),
            _ => "change the request, or what is there; `hiveward explain CONFLICT` says more".into(),
        },
        Code::Refused => match about {
            Some(Noun { show, .. }) => {
                format!("`{show}` says how it is; when that has changed, ask again (`hiveward explain REFUSED` says more)")
            }
            None => "what the message names must change first; `hiveward explain REFUSED` says more".into(),
        },
        Code::Limit => match about {
            Some(Noun { list, .. }) if refusal.message.contains("remove one first") => {
                format!("`{list}` shows which there are; remove one that is not needed")
            }
            _ => "ask for less at once, or raise the limit that is named; `hiveward explain LIMIT` says more".into(),
        },
        Code::Unauthenticated => {
            "give the token with --token or HIVEWARD_TOKEN; the node keeps it in <data-dir>/admin.token".into()
        }
        Code::Forbidden => "give an administrator's token with --token or HIVEWARD_TOKEN, or name the node's --data-dir".into(),
        Code::Busy | Code::Unavailable => {
            format!(
                "nothing was changed; try again in a moment, and see `hiveward status` (`hiveward explain {}` says more)",
                code.name()
            )
        }
        Code::UnknownOutcome => "it may have happened: look before you try again, or try again with the same --operation-id; \
             `hiveward explain UNKNOWN_OUTCOME` says more"
            .into(),
        Code::Internal => {
            "the node's log has the cause under the trace that is named; `hiveward explain INTERNAL` says more".into()
        }
    }
}

/// Returns what to do about a reason, if its words are known.
pub fn of_reason(code: Code, message: &str) -> Option<&'static str> {
    REASONS.iter().find(|(of, words, _)| *of == code && message.contains(words)).map(|(.., next)| *next)
}

/// Returns every hint that there is. Whoever has the whole command line can tell whether the commands exist that they name.
pub fn all() -> Vec<String> {
    let mut all: Vec<String> = REASONS.iter().map(|(.., next)| (*next).to_owned()).collect();
    all.extend(NOUNS.iter().map(|noun| format!("`{}` `{}`", noun.list, noun.show)));
    for code in Code::ALL {
        all.extend(["TaskShow", ""].map(|operation| next(Refusal { code: Some(code), message: "no", field: None, operation })));
    }
    all
}

/// Finds the noun that a refusal is about: the one that is missing, else the one of its field, else that of its operation.
fn about(refusal: Refusal<'_>) -> Option<&'static Noun> {
    let missing = refusal.message.split_once("there is no ").and_then(|(_, rest)| {
        let word = rest.split([' ', '_']).next().unwrap_or_default();
        NOUNS.iter().find(|noun| noun.word.eq_ignore_ascii_case(word))
    });
    let field = || {
        let parts = refusal.field?.rsplit('.').map(|part| if part == "dependsOn" { "task" } else { part.trim_end_matches('s') });
        let named: Vec<&str> = parts.collect();
        NOUNS.iter().find(|noun| named.contains(&noun.word))
    };
    let operation = || {
        let word: String =
            refusal.operation.chars().enumerate().take_while(|(at, c)| *at == 0 || c.is_lowercase()).map(|(_, c)| c).collect();
        let word = if word == "Token" { "node".to_owned() } else { word.to_lowercase() };
        NOUNS.iter().find(|noun| noun.word == word)
    };
    missing.or_else(|| field().filter(|_| refusal.code == Some(Code::NotFound))).or_else(operation)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn after(code: Code, message: &str, field: Option<&str>, operation: &str) -> String {
        next(Refusal { code: Some(code), message, field, operation })
    }

    #[test]
    fn a_hint_fits_the_reason_of_the_refusal() {
        for (message, part) in [
            ("no host is eligible: there are none", "hiveward host add"),
            ("no host is eligible: 3 have too little memory", "hiveward host select"),
            ("no node is eligible: 1 is drained", "hiveward node list"),
            ("web runs; stop it, or use force", "--force"),
            ("it is stopped; start it", "hiveward agent start"),
            ("task_01 has already ended SUCCEEDED", "hiveward task retry"),
        ] {
            let next = after(Code::Refused, message, None, "VmCreate");
            assert!(next.contains(part), "{message}: {next}");
            assert!(!next.contains("the noun's"), "{next}");
        }
        let full = "the disk of /d has 5 bytes free, less than the reserve of 9: make room";
        assert!(after(Code::Unavailable, full, None, "TaskSubmit").contains("hiveward storage"));
        let alone = "there is no quorum to take the append: no leader is elected";
        assert!(after(Code::Unavailable, alone, None, "TaskSubmit").contains("voters"));
    }

    #[test]
    fn a_hint_names_the_noun_that_the_refusal_is_about() {
        for (code, message, field, operation, part) in [
            (Code::NotFound, "there is no swarm wide", Some("swarm"), "TaskSubmit", "`hiveward swarm list`"),
            (Code::NotFound, "there is no task_01a1", None, "TaskCancel", "`hiveward task list`"),
            (Code::NotFound, "web is on no network named red", Some("network"), "VmDetachNetwork", "`hiveward network list`"),
            (Code::NotFound, "blob ab is not in this node's store", None, "TaskShow", "`hiveward task list`"),
            (Code::Conflict, "there is a VM named \"a\" already", Some("name"), "VmCreate", "`hiveward vm list`"),
            (Code::Conflict, "used before", Some("operationId"), "VmCreate", "--operation-id"),
            (Code::Refused, "web is PAUSED", None, "VmStart", "`hiveward vm show NAME`"),
            (Code::Refused, "it is LOST", None, "TokenCreate", "`hiveward status`"),
            (Code::Limit, "there are 64 hosts; remove one first", None, "HostRegister", "`hiveward host list`"),
        ] {
            let next = after(code, message, field, operation);
            assert!(next.contains(part), "{message}: {next}");
        }
        assert!(after(Code::Refused, "no", None, "Rebalance").contains("hiveward explain REFUSED"));
        assert!(next(Refusal { code: None, message: "", field: None, operation: "" }).contains("log"));
    }

    /// Adds the source files below `dir` to one text.
    fn sources(dir: &Path, all: &mut String) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" {
                sources(&path, all);
            } else if name.ends_with(".rs") && !path.ends_with("cli/src/hint.rs") {
                all.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }

    #[test]
    fn the_words_that_a_reason_is_known_by_are_said_somewhere() {
        let mut all = String::new();
        for part in ["runtime", "actors", "gateway"] {
            sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(part), &mut all);
        }
        for (_, words, _) in REASONS {
            // What is made of two parts is said in two.
            let parts: Vec<&str> = words.split(": ").collect();
            assert!(parts.iter().all(|part| all.contains(part)), "nothing says {words:?} any more");
        }
    }
}
