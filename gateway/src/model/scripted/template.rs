//! The texts of a script with places for what was asked: `${cwd}`, `${prompt}`, `${toolResult}`, `${prompt:/regex/}`.

use regex::Regex;
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::Value;

use super::asked::Asked;

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Cwd,
    Prompt,
    /// The first group of the expression, or the whole match if it has none; empty where nothing matches.
    PromptMatch(Regex),
    ToolResult,
}

/// A string of the script. `$${` stands for a plain `${`.
#[derive(Clone, Debug, Default)]
pub struct Template(Vec<Part>);

impl Template {
    fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let (before, from) = rest.split_at(start);
            if let Some(before) = before.strip_suffix('$') {
                plain.push_str(before);
                plain.push_str("${");
                rest = &from[2..];
                continue;
            }
            plain.push_str(before);
            parts.push(Part::Text(std::mem::take(&mut plain)));
            let inside = &from[2..];
            let (part, after) = Self::placeholder(inside)?;
            parts.push(part);
            rest = after;
        }
        plain.push_str(rest);
        parts.push(Part::Text(plain));
        parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
        Ok(Self(parts))
    }

    /// Reads what begins behind `${`, and returns the text behind its `}`. An expression may hold braces: it ends at `/}`.
    fn placeholder(inside: &str) -> Result<(Part, &str), String> {
        if let Some(expression) = inside.strip_prefix("prompt:/") {
            let (expression, after) =
                expression.split_once("/}").ok_or_else(|| format!("`${{{inside}` does not end with `/}}`"))?;
            let expression = Regex::new(expression).map_err(|error| format!("/{expression}/ is no expression: {error}"))?;
            return Ok((Part::PromptMatch(expression), after));
        }
        let (name, after) = inside.split_once('}').ok_or_else(|| format!("`${{{inside}` has no `}}`"))?;
        let part = match name {
            "cwd" => Part::Cwd,
            "prompt" => Part::Prompt,
            "toolResult" => Part::ToolResult,
            _ => {
                return Err(format!(
                    "`${{{name}}}` stands for nothing; use ${{cwd}}, ${{prompt}}, ${{toolResult}} or ${{prompt:/regex/}}"
                ));
            }
        };
        Ok((part, after))
    }

    /// Fills the places with what was asked.
    pub fn fill(&self, asked: &Asked) -> String {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Cwd => out.push_str(&asked.cwd),
                Part::Prompt => out.push_str(&asked.prompt),
                Part::ToolResult => out.push_str(&asked.tool_result),
                Part::PromptMatch(expression) => {
                    let found = expression.captures(&asked.prompt);
                    out.push_str(found.and_then(|found| found.get(1).or(found.get(0))).map_or("", |group| group.as_str()));
                }
            }
        }
        out
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A tool's input: JSON whose strings are templates.
#[derive(Clone, Debug)]
pub enum Shape {
    Text(Template),
    List(Vec<Shape>),
    Map(Vec<(String, Shape)>),
    Other(Value),
}

impl Default for Shape {
    fn default() -> Self {
        Self::Map(Vec::new())
    }
}

impl Shape {
    fn of(value: Value) -> Result<Self, String> {
        Ok(match value {
            Value::String(text) => Self::Text(Template::parse(&text)?),
            Value::Array(items) => Self::List(items.into_iter().map(Self::of).collect::<Result<_, _>>()?),
            Value::Object(fields) => {
                let fields = fields.into_iter().map(|(name, value)| Ok((name, Self::of(value)?)));
                Self::Map(fields.collect::<Result<_, String>>()?)
            }
            other => Self::Other(other),
        })
    }

    /// Fills every template in it with what was asked.
    pub fn fill(&self, asked: &Asked) -> Value {
        match self {
            Self::Text(template) => Value::String(template.fill(asked)),
            Self::List(items) => items.iter().map(|item| item.fill(asked)).collect(),
            Self::Map(fields) => fields.iter().map(|(name, shape)| (name.clone(), shape.fill(asked))).collect(),
            Self::Other(value) => value.clone(),
        }
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::of(Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A piece of text to look for, or, between slashes, an expression.
#[derive(Clone, Debug)]
pub enum Pattern {
    Piece(String),
    Expression(Regex),
}

impl Pattern {
    /// Tells whether the text has the piece or matches the expression.
    pub fn is_in(&self, text: &str) -> bool {
        match self {
            Self::Piece(piece) => text.contains(piece),
            Self::Expression(expression) => expression.is_match(text),
        }
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.strip_prefix('/').and_then(|text| text.strip_suffix('/')) {
            Some(expression) => Regex::new(expression)
                .map(Self::Expression)
                .map_err(|error| D::Error::custom(format!("/{expression}/ is no expression: {error}"))),
            None => Ok(Self::Piece(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        Asked { prompt: "write a{1}.txt now".into(), cwd: "/w".into(), tool_result: "ok".into(), ..Asked::default() }
    }

    #[test]
    fn placeholders_are_filled_from_what_was_asked() {
        let filled = |text: &str| Template::parse(text).unwrap().fill(&asked());
        assert_eq!(filled("${cwd}/${prompt:/write (\\S{3,}) /}"), "/w/a{1}.txt");
        assert_eq!(filled("$${cwd} ${toolResult}: ${prompt:/nothing like it/}."), "${cwd} ok: .");
        assert_eq!(filled("${prompt:/n.w/}"), "now");
    }

    #[test]
    fn a_placeholder_that_stands_for_nothing_is_refused() {
        assert!(Template::parse("${CWD}").unwrap_err().contains("${prompt}"));
        assert!(Template::parse("${prompt:/(/}").unwrap_err().contains("no expression"));
        assert!(Template::parse("${prompt:/a").is_err());
        assert!(Template::parse("${").is_err());
    }
}
