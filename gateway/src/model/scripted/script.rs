//! The script: which prompt is answered by what, and where the server misbehaves.

use hiveward_contract::yaml::{self, YamlError};
use serde::Deserialize;

use super::{
    asked::Asked,
    template::{Pattern, Shape, Template},
};

/// Conversations in order; the first that fits answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Script {
    pub conversations: Vec<Conversation>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Conversation {
    /// In the last prompt: a piece of its text, or an expression between slashes. Everything fits if absent.
    #[serde(default)]
    pub when: Option<Pattern>,
    /// The same for the system prompt.
    #[serde(default)]
    pub system: Option<Pattern>,
    /// Step n answers the n-th request since the prompt; the last one repeats.
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    #[serde(default)]
    pub say: Option<Template>,
    /// How often the text is said, one after the other: for very long answers.
    #[serde(default)]
    pub repeat: Option<u32>,
    #[serde(default)]
    pub think: Option<Template>,
    #[serde(default)]
    pub tools: Vec<ToolCall>,
    #[serde(default)]
    pub usage: StepUsage,
    #[serde(default)]
    pub fault: Option<Fault>,
    /// An HTTP error instead of an answer.
    #[serde(default)]
    pub status: Option<u16>,
    /// Without the `[scripted]` before the text: where a program reads it. The model's name still says it.
    #[serde(default)]
    pub plain: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ToolCall {
    pub name: String,
    #[serde(default)]
    pub input: Shape,
}

/// What is absent is counted from the lengths of the texts.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StepUsage {
    pub input: Option<u64>,
    pub output: Option<u64>,
    pub cache_read: Option<u64>,
    pub cache_write: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Fault {
    /// 429 to the first `times` requests of this step, then the answer.
    RateLimited {
        #[serde(default)]
        retry_after_ms: Option<u64>,
        #[serde(default = "once")]
        times: u32,
    },
    /// 529 (503 in the OpenAI-compatible API) to the first `times` requests of this step, then the answer.
    Overloaded {
        #[serde(default = "once")]
        times: u32,
    },
    /// The connection breaks after so many events.
    Cut { after_events: usize },
    /// Waits before the first event, and before each of the others.
    Slow {
        #[serde(default)]
        first_ms: u64,
        #[serde(default)]
        every_ms: u64,
    },
    /// An event that is no JSON, then on as if nothing had been.
    Malformed,
    /// One event on one line of at least so many bytes.
    HugeLine { bytes: u64 },
    /// Text without an end, as fast as it is taken.
    Endless,
    /// A delta of a block that never began, and two tool calls with one id.
    WrongIds,
    /// The body ends, as if complete, in the middle of an event.
    HalfEvent,
}

fn once() -> u32 {
    1
}

impl Script {
    /// Reads a script. Errors have the line of what is wrong.
    pub fn read(name: &str, text: &str) -> Result<Self, YamlError> {
        let script: Self = yaml::read(name, text)?;
        if script.conversations.is_empty() {
            return Err(YamlError::new(name, "there is no conversation; write at least one, with `steps`"));
        }
        for (index, conversation) in script.conversations.iter().enumerate() {
            let wrong = |problem: &str| YamlError::new(name, format!("conversations.{index}: {problem}"));
            if conversation.steps.is_empty() {
                return Err(wrong("there are no steps; write at least one"));
            }
            for step in &conversation.steps {
                if step.status.is_some_and(|status| !(400..600).contains(&status)) {
                    return Err(wrong("`status` is for errors, 400 to 599"));
                }
                if matches!(step.fault, Some(Fault::HugeLine { bytes }) if bytes > HUGE_LINE_BYTES_MAX) {
                    return Err(wrong("`hugeLine` is at most 256 MiB"));
                }
                if step.repeat.is_some_and(|times| times > REPEAT_MAX) {
                    return Err(wrong("`repeat` is at most 100000; use the fault `endless` for more"));
                }
            }
        }
        Ok(script)
    }

    /// Returns the conversation and the step that answer, by their places; `None` if no conversation fits.
    pub fn step(&self, asked: &Asked) -> Option<(usize, usize, &Step)> {
        let fits = |conversation: &Conversation| {
            let when = conversation.when.as_ref().is_none_or(|pattern| pattern.is_in(&asked.prompt));
            when && conversation.system.as_ref().is_none_or(|pattern| pattern.is_in(&asked.system))
        };
        let (place, conversation) = self.conversations.iter().enumerate().find(|(_, conversation)| fits(conversation))?;
        let step = asked.answers.min(conversation.steps.len().checked_sub(1)?);
        Some((place, step, conversation.steps.get(step)?))
    }
}

/// The most repetitions of a text: this bounds what one answer may hold in memory.
const REPEAT_MAX: u32 = 100_000;
const HUGE_LINE_BYTES_MAX: u64 = 256 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_with_an_unknown_field_is_refused_with_its_line() {
        let message = Script::read("s.yaml", "conversations:\n- steps:\n  - say: hi\n    shout: true\n").unwrap_err().to_string();
        assert!(message.contains("line 4") && message.contains("shout"), "{message}");
        let message = Script::read("s.yaml", "conversations:\n- steps:\n  - fault: {cut: {after: 3}}\n").unwrap_err().to_string();
        assert!(message.contains("line 3"), "{message}");
        let message = Script::read("s.yaml", "conversations:\n- steps:\n  - say: ${nobody}\n").unwrap_err().to_string();
        assert!(message.contains("line 3") && message.contains("nobody"), "{message}");
        assert!(Script::read("s.yaml", "").is_err());
    }

    #[test]
    fn the_first_conversation_that_fits_answers_and_its_last_step_repeats() {
        let text = "conversations:\n- when: /^write (\\S+)/\n  steps: [{say: a}, {say: b}]\n- system: planner\n  steps: [{say: p}]\n- steps: [{fault: endless}]\n";
        let script = Script::read("s.yaml", text).unwrap();
        let at = |prompt: &str, system: &str, answers| {
            let asked = Asked { prompt: prompt.into(), system: system.into(), answers, ..Asked::default() };
            script.step(&asked).map(|(conversation, step, _)| (conversation, step))
        };
        assert_eq!(at("write it", "", 0), Some((0, 0)));
        assert_eq!(at("write it", "", 7), Some((0, 1)));
        assert_eq!(at("do write it", "you are a planner", 0), Some((1, 0)));
        assert_eq!(at("else", "", 3), Some((2, 0)));
    }

    #[test]
    fn the_script_that_comes_along_is_read() {
        Script::read("default.yaml", super::super::DEFAULT_SCRIPT).unwrap();
    }
}
