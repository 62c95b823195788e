//! Programs that speak the Agent Client Protocol, as data: how each is started, and whose account its calls of models go to.

/// A known program. A client can say all of it by itself; a preset only knows it already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    pub name: &'static str,
    /// Name that people know it by.
    pub title: &'static str,
    pub argv: &'static [&'static str],
    /// Words on how it comes onto a host.
    pub install: &'static str,
    /// Way of logging in that is chosen, of those that it offers; absent where it needs no word.
    pub authenticate: Option<&'static str>,
    /// Whether it cannot be led through the model gateway: it calls its provider with the account of whoever runs it, so nothing
    /// is metered and no budget holds it.
    pub own_account: bool,
    /// Version of the program that was seen here, and up to what. Nothing is known of others.
    pub seen: Option<Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub version: &'static str,
    pub extent: Extent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Whole tasks, with tools, questions, interruptions and deaths.
    Tasks,
    /// The program began a conversation; without an account nobody could give it work.
    Conversation,
    /// The program began, and wanted to be logged in.
    Handshake,
}

const fn seen(version: &'static str, extent: Extent) -> Option<Seen> {
    Some(Seen { version, extent })
}

pub const PRESETS: [Preset; 5] = [
    Preset {
        name: "claude",
        title: "Claude Code",
        argv: &["claude-agent-acp"],
        install: "npm install -g @agentclientprotocol/claude-agent-acp",
        authenticate: None,
        own_account: false,
        seen: seen("0.49.0", Extent::Tasks),
    },
    Preset {
        name: "gemini",
        title: "Gemini CLI",
        argv: &["gemini", "--acp"],
        install: "npm install -g @google/gemini-cli, then `gemini` once to log in, or GEMINI_API_KEY in the agent's env",
        authenticate: None,
        own_account: true,
        seen: seen("0.61.0", Extent::Conversation),
    },
    Preset {
        name: "codex",
        title: "Codex",
        argv: &["codex-acp"],
        install: "npm install -g @zed-industries/codex-acp, and OPENAI_API_KEY in the agent's env",
        authenticate: Some("openai-api-key"),
        own_account: true,
        seen: seen("0.16.0", Extent::Conversation),
    },
    Preset {
        name: "copilot",
        title: "GitHub Copilot CLI",
        argv: &["copilot", "--acp"],
        install: "npm install -g @github/copilot, then `copilot login`",
        authenticate: None,
        own_account: true,
        seen: seen("1.0.102", Extent::Handshake),
    },
    Preset {
        name: "cursor",
        title: "Cursor",
        argv: &["cursor-agent", "acp"],
        install: "the command line program that comes with Cursor, then `cursor-agent login`",
        authenticate: None,
        own_account: true,
        seen: None,
    },
];

/// Returns the preset of this name; `None` if there is none.
pub fn find(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

/// Returns how the program of an agent comes onto its host, if it is a known one.
pub(super) fn install_of(program: &str) -> Option<&'static str> {
    PRESETS.iter().find(|preset| preset.argv[0] == program).map(|preset| preset.install)
}
