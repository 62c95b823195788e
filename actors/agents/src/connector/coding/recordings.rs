//! Recordings of what real programs said, per version, and of what it is taken for. Recorded against a model that answers by
//! script; lists of commands and models were emptied.

use hiveward_catalogue::agent::coding::Permission;
use serde_json::json;

use super::{
    acp::Acp,
    claude::Claude,
    dialect::{Asked, Choice, Dialect, Heard, Opening, Way},
};
use crate::{
    activity::{Tokens, TurnEnd},
    presets,
};

fn opening(resume: Option<&str>) -> Opening {
    Opening {
        resume: resume.map(str::to_owned),
        model: None,
        instructions: None,
        workspace: "/project".into(),
        home: "/home".into(),
        models: Some(Way { url: "http://127.0.0.1:1".into(), token: "t".into() }),
        authenticate: None,
        run: 0,
        greeted: false,
    }
}

fn heard(dialect: &mut dyn Dialect, lines: &str) -> Vec<Heard> {
    lines.lines().flat_map(|line| dialect.hear(line.as_bytes()).unwrap_or_else(|why| panic!("{why}: {line}"))).collect()
}

fn words(heard: &[Heard]) -> Vec<String> {
    let word = |one: &Heard| match one {
        Heard::Greeted { program, .. } => format!("greeted {}", program.as_deref().unwrap_or_default()),
        Heard::Prompt { .. } => "prompt".to_owned(),
        Heard::Said { text } => format!("said {text}"),
        Heard::ToolCalled { tool, input, .. } => {
            format!("called {tool} {}", input["command"].as_str().or(input["file_path"].as_str()).unwrap_or_default())
        }
        Heard::ToolEnded { failed, output, .. } => format!("ended {failed} {}", output.split(':').next().unwrap_or_default()),
        Heard::Asks { tool, .. } => format!("asks {tool}"),
        Heard::TurnEnded { end: TurnEnd::Done, text, .. } => format!("done {}", text.as_deref().unwrap_or_default()),
        Heard::TurnEnded { end, .. } => format!("{end:?}"),
        Heard::Tell(line) => format!("tell {}", line.tag),
        other => format!("{other:?}"),
    };
    heard.iter().map(word).collect()
}

#[test]
fn claude_2_1_197_greets_works_asks_and_is_interrupted() {
    let heard = heard(&mut Claude, include_str!("recorded/claude-2.1.197.jsonl"));
    let expected = [
        "greeted Claude Code 2.1.197",
        "prompt",
        "said all done n=0",
        "done all done n=0",
        "greeted Claude Code 2.1.197",
        "prompt",
        "said bashing",
        "called Bash touch b.txt && echo done",
        "asks Bash",
        "ended false done",
        "said all done n=2",
        "done all done n=2",
        "greeted Claude Code 2.1.197",
        "prompt",
        "said slow start",
        "Interrupted",
        "greeted Claude Code 2.1.197",
        "prompt",
        "said all done n=4",
        "done all done n=4",
    ];
    assert_eq!(words(&heard), expected);
    let Some(Heard::Asks { request, input, .. }) = heard.iter().find(|one| matches!(one, Heard::Asks { .. })) else { panic!() };
    let asked = Asked { input: input.clone(), choices: Vec::new() };
    let line = Claude.answer(request, Permission::Allow, None, &asked);
    let said: serde_json::Value = serde_json::from_slice(&line.bytes).unwrap();
    // Without the whole input it is refused by this version.
    assert_eq!(said["response"]["response"], json!({"behavior": "allow", "updatedInput": input}));
    let Some(Heard::TurnEnded { usage, .. }) = heard.get(3) else { panic!() };
    assert_eq!(*usage, Some(Tokens { input: 100, output: 20, cache_read: 7, cache_write: 3 }));
}

#[test]
fn claude_agent_acp_0_49_greets_works_asks_is_interrupted_and_loads_its_conversation() {
    let recorded = include_str!("recorded/claude-agent-acp-0.49.0.jsonl");
    let (first, second) = recorded.split_once("{\"process\":2}\n").unwrap();
    let mut acp = Acp::default();
    let initialize = acp.opening(&opening(None));
    assert_eq!(initialize.iter().map(|line| line.tag.as_str()).collect::<Vec<_>>(), ["initialize"]);
    // The recording's names of requests, as we would have named them.
    let heard_first = heard(&mut acp, &first.replace("\"id\":\"new\"", "\"id\":\"session\""));
    let expected = [
        "tell session",
        "greeted @agentclientprotocol/claude-agent-acp 0.49.0",
        "said all done n=0",
        "prompt",
        "done all done n=0",
        "said writing",
        "called Write /project/a.txt",
        "asks Write",
        "ended false File created successfully at",
        "said all done n=2",
        "prompt",
        "done all done n=2",
        "said slow start",
        "prompt",
        "Interrupted",
    ];
    assert_eq!(words(&heard_first), expected);
    let asks = heard_first.iter().find_map(|one| match one {
        Heard::Asks { request, input, choices, .. } => Some((request, Asked { input: input.clone(), choices: choices.clone() })),
        _ => None,
    });
    let (request, asked) = asks.unwrap();
    let chosen = |permission| {
        let line = acp.answer(request, permission, None, &asked);
        serde_json::from_slice::<serde_json::Value>(&line.bytes).unwrap()
    };
    assert_eq!(chosen(Permission::Allow)["result"]["outcome"]["optionId"], "allow", "this once, not for ever");
    assert_eq!(chosen(Permission::Deny)["result"]["outcome"]["optionId"], "reject");
    assert_eq!(chosen(Permission::Deny)["id"], 0, "a number stays one");
    assert!(asked.choices.contains(&Choice { id: "allow_always".into(), decision: Permission::Allow }));

    let mut again = Acp::default();
    again.opening(&opening(Some("3c2adc2f")));
    let heard_again = heard(&mut again, &second.replace("\"id\":\"load\"", "\"id\":\"session\""));
    let expected = [
        "tell session",
        "greeted @agentclientprotocol/claude-agent-acp 0.49.0",
        "said all done n=5",
        "prompt",
        "done all done n=5",
    ];
    assert_eq!(words(&heard_again), expected, "what it tells of the old conversation is not new");
}

#[test]
fn the_programs_of_presets_begin_as_they_were_seen_to_and_say_what_keeps_them() {
    let began = |preset: &str, recorded: &str| {
        let preset = presets::find(preset).unwrap();
        let mut acp = Acp::default();
        let authenticate = preset.authenticate.map(str::to_owned);
        acp.opening(&Opening { models: None, authenticate, ..opening(None) });
        heard(&mut acp, recorded)
    };
    let gemini = began("gemini", include_str!("recorded/gemini-cli-0.61.0.jsonl"));
    assert_eq!(words(&gemini), ["tell session", "greeted gemini-cli 0.61.0"]);
    let codex = include_str!("recorded/codex-acp-0.16.0.jsonl");
    assert_eq!(words(&began("codex", codex)), ["tell authenticate", "tell session", "greeted codex-acp 0.16.0"]);
    let copilot = began("copilot", include_str!("recorded/copilot-1.0.102.jsonl"));
    assert_eq!(words(&copilot[..1]), ["tell session"]);
    let Some(Heard::Unfit { why }) = copilot.get(1) else { panic!("{copilot:?}") };
    assert!(why.contains("(authentication is required)"), "{why}");
    // A way to log in that it does not have.
    let mut acp = Acp::default();
    acp.opening(&Opening { authenticate: Some("smart-card".into()), ..opening(None) });
    let refused = acp.hear(codex.lines().next().unwrap().as_bytes()).unwrap();
    let [Heard::Unfit { why }] = refused.as_slice() else { panic!("{refused:?}") };
    assert_eq!(why, "its program offers no login \"smart-card\", only chatgpt, codex-api-key, openai-api-key");
}
