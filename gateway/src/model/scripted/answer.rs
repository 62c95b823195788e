//! The answer that a step of the script makes, before it is put in the words of an API.

use serde_json::Value;

use super::{
    asked::{Asked, tokens},
    book::Usage,
    script::{Fault, Step},
};

/// The mark before all that is said, so that nobody takes it for a model's words.
const MARK: &str = "[scripted] ";

pub struct ScriptedAnswer {
    /// The id without the prefix of the API.
    pub id: String,
    pub model: String,
    pub think: Option<String>,
    /// The text; empty if the step only calls tools.
    pub text: String,
    pub tools: Vec<Tool>,
    pub usage: Usage,
}

pub struct Tool {
    pub id: String,
    pub name: String,
    pub input: Value,
}

impl ScriptedAnswer {
    /// Answers a request by a step. `number` is the call's, so that ids differ between calls and are the same in each run.
    pub fn to(asked: &Asked, step: &Step, number: u64) -> Self {
        let mark = |text: String| if step.plain { text } else { format!("{MARK}{text}") };
        let wrong_ids = matches!(step.fault, Some(Fault::WrongIds));
        let say = step.say.as_ref().map(|say| say.fill(asked).repeat(step.repeat.unwrap_or(1) as usize));
        // These misbehave within a text, so there must be one.
        let in_text = matches!(step.fault, Some(Fault::HugeLine { .. } | Fault::Endless | Fault::WrongIds));
        let text = say.or_else(|| in_text.then(String::new)).map(mark).unwrap_or_default();
        let think = step.think.as_ref().map(|think| mark(think.fill(asked)));
        let tools: Vec<Tool> = step
            .tools
            .iter()
            .enumerate()
            .map(|(place, tool)| Tool {
                id: format!("scripted_{number}_{}", if wrong_ids { 0 } else { place }),
                name: tool.name.clone(),
                input: tool.input.fill(asked),
            })
            .collect();
        let tool_bytes: usize = tools.iter().map(|tool| tool.name.len() + tool.input.to_string().len()).sum();
        let said = text.len() + think.as_ref().map_or(0, String::len) + tool_bytes;
        let usage = Usage {
            input: step.usage.input.unwrap_or(asked.input_tokens),
            output: step.usage.output.unwrap_or_else(|| tokens(said)),
            cache_read: step.usage.cache_read.unwrap_or(0),
            cache_write: step.usage.cache_write.unwrap_or(0),
        };
        Self { id: format!("scripted_{number}"), model: format!("scripted-{}", asked.model), think, text, tools, usage }
    }
}

/// Cuts a text into pieces of some bytes each, never within a character.
pub fn pieces(text: &str) -> impl Iterator<Item = &str> {
    const BYTES: usize = 24;
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = (BYTES.min(rest.len())..=rest.len()).find(|end| rest.is_char_boundary(*end))?;
        let (piece, after) = rest.split_at(end);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_up_the_text_again() {
        for text in ["", "short", "a longer text with ünïcödé in it, äöüäöüäöüäöüäöüäöüäöü and an end"] {
            assert_eq!(pieces(text).collect::<String>(), text);
        }
    }
}
