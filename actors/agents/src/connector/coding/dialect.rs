//! What every coding agent's protocol comes to: lines that are said to it, and what its lines mean. Pure.

use std::path::PathBuf;

use hiveward_catalogue::agent::coding::Permission;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::activity::{Tokens, TurnEnd};

/// One line for the program's standard input. Under the same tag nothing is said to a process twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub tag: String,
    pub bytes: Vec<u8>,
}

impl Line {
    pub(super) fn json(tag: impl Into<String>, value: &Value) -> Self {
        let mut bytes = value.to_string().into_bytes();
        bytes.push(b'\n');
        Self { tag: tag.into(), bytes }
    }
}

/// What one line of the program means.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Heard {
    Greeted {
        session: String,
        program: Option<String>,
        model: Option<String>,
    },
    /// The prompt with this id is being worked on.
    Prompt {
        id: String,
    },
    Said {
        text: String,
    },
    Thought {
        text: String,
    },
    ToolCalled {
        id: String,
        tool: String,
        input: Value,
    },
    ToolEnded {
        id: String,
        failed: bool,
        output: String,
    },
    /// The program asks whether it may do something. It waits for the answer under `request`.
    Asks {
        request: String,
        call: Option<String>,
        tool: String,
        input: Value,
        choices: Vec<Choice>,
    },
    Withdrawn {
        request: String,
    },
    TurnEnded {
        end: TurnEnd,
        text: Option<String>,
        usage: Option<Tokens>,
    },
    Noted {
        text: String,
    },
    /// The protocol wants this said next.
    Tell(Line),
    /// The program wants something done in its workspace, and an answer.
    Wants {
        id: Value,
        want: Want,
    },
    /// The process cannot go on with the conversation; another one begins anew.
    Lost {
        why: String,
    },
    /// The program cannot go on, for this reason; another attempt would fare no better.
    Unfit {
        why: String,
    },
}

/// An answer that the program offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Choice {
    pub id: String,
    pub decision: Permission,
}

/// What an agent asks of whoever runs it, in its workspace.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Want {
    ReadFile { path: String, line: Option<u64>, limit: Option<u64> },
    WriteFile { path: String, content: String },
}

/// What a process of an attempt is started with.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    /// Conversation to go on with; a new one if absent.
    pub resume: Option<String>,
    pub model: Option<String>,
    pub instructions: Option<String>,
    pub workspace: PathBuf,
    /// Directory of the program's own files, such as conversations; the agent's, and kept between attempts.
    pub home: PathBuf,
    /// Way to models; absent for a program that has its own.
    pub models: Option<Way>,
    /// Method by which it is told to log in.
    pub authenticate: Option<String>,
    /// Number of the attempt's process.
    pub run: u32,
    /// Whether it has named its conversation already: an earlier life of ours began it.
    pub greeted: bool,
}

/// Address and token of the model gateway.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub url: String,
    pub token: String,
}

pub(super) struct Program {
    /// Arguments after what the client named.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
}

/// The program as a person uses it, at a terminal, on the same conversation.
pub(super) struct TerminalProgram {
    /// Arguments after what the client named.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// File of the program's own that these settings are added to first, so that it does not ask what only its first user is
    /// asked.
    pub settings: Option<(PathBuf, Value)>,
}

/// One protocol. What it keeps in memory between lines it must be able to do without after [`Dialect::is_settled`].
pub(super) trait Dialect: Send + Sync {
    fn program(&self, opening: &Opening) -> Program;
    /// Returns the program at a terminal; `None` for one that cannot go on with a conversation there.
    fn terminal(&self, opening: &Opening) -> Option<TerminalProgram>;
    /// Returns what is said to a new process before any prompt.
    fn opening(&mut self, opening: &Opening) -> Vec<Line>;
    /// Returns what a line of the program means. Errors: how it breaks the protocol.
    fn hear(&mut self, line: &[u8]) -> Result<Vec<Heard>, String>;
    /// Tells whether a prompt can be said now; else it is said when the program is ready. `busy`: it has not taken up everything
    /// that was said to it.
    fn takes_prompts(&self, session: Option<&str>, busy: bool) -> bool;
    fn prompt(&mut self, session: Option<&str>, id: &str, text: &str) -> Line;
    /// Takes in that a prompt was said by an earlier life of ours, and is not known to be taken up.
    fn was_prompted(&mut self, id: &str);
    fn answer(&self, request: &str, decision: Permission, message: Option<&str>, asked: &Asked) -> Line;
    fn interrupt(&self, session: Option<&str>, id: &str) -> Line;
    /// Returns what an open question is answered with when its turn is interrupted, where the protocol wants that.
    fn forget(&self, request: &str) -> Option<Line>;
    /// Returns the answer to something that the program wanted.
    fn done(&self, id: &Value, result: Result<Value, String>) -> Line;
    /// Tells whether nothing is held back for a later line.
    fn is_settled(&self) -> bool;
}

/// A question of the program that is open.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub input: Value,
    pub choices: Vec<Choice>,
}
