//! YAML as this product reads it: typed, unknown fields refused, errors with line, column and the text around them.

use serde::{Deserialize, Deserializer, de::DeserializeOwned};

/// What is wrong with a file, and where.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {problem}")]
pub struct YamlError {
    name: String,
    problem: String,
}

impl YamlError {
    /// Returns the error that the file of this name has this problem.
    pub fn new(name: &str, problem: impl Into<String>) -> Self {
        Self { name: name.to_owned(), problem: problem.into() }
    }
}

/// Reads one document into a type. An empty document is an empty mapping.
pub fn read<T: DeserializeOwned>(name: &str, text: &str) -> Result<T, YamlError> {
    let blank = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    let text = if blank { "{}" } else { text };
    serde_saphyr::from_str(text).map_err(|error| {
        let place = error.location().map(|at| format!("line {}, column {}: ", at.line(), at.column())).unwrap_or_default();
        YamlError::new(name, format!("{place}{error}"))
    })
}

/// Text in which `${VAR}` and `${VAR:-default}` stand for the environment's values; `$${` is a plain `${`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Expanded(pub String);

impl std::fmt::Debug for Expanded {
    /// Shows nothing of the text, which may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Expanded(…)")
    }
}

impl<'de> Deserialize<'de> for Expanded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let value = expand(&text, |name| std::env::var(name).ok(), true).map_err(serde::de::Error::custom)?;
        Ok(Self(value))
    }
}

/// Replaces `${NAME}` and `${NAME:-default}`. A name without either is an error if `strict`, else it stays as it is.
pub fn expand(text: &str, value: impl Fn(&str) -> Option<String>, strict: bool) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, from) = rest.split_at(start);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &from[2..];
            continue;
        }
        out.push_str(before);
        let Some(end) = from.find('}') else {
            if strict {
                return Err(format!("`${{` without `}}` in {text:?}"));
            }
            out.push_str(from);
            return Ok(out);
        };
        let inside = &from[2..end];
        let (name, default) = inside.split_once(":-").map_or((inside, None), |(name, default)| (name, Some(default)));
        match value(name).or_else(|| default.filter(|_| strict).map(str::to_owned)) {
            Some(value) => out.push_str(&value),
            None if strict => {
                return Err(format!("${{{name}}} is not set in the environment and has no default (${{{name}:-…}})"));
            }
            None => out.push_str(&from[..=end]),
        }
        rest = &from[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_expand_and_a_missing_one_is_named() {
        let value = |name: &str| (name == "A").then(|| "1".to_owned());
        assert_eq!(expand("x${A}y${B:-2}$${C}", value, true).unwrap(), "x1y2${C}");
        assert!(expand("${B}", value, true).unwrap_err().contains("${B}"));
        assert_eq!(expand("${B} ${A}", value, false).unwrap(), "${B} 1");
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_place() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code)]
        struct Small {
            port: u16,
        }
        let message = read::<Small>("f.yaml", "port: 1\nprot: 2\n").unwrap_err().to_string();
        assert!(message.contains("line 2") && message.contains("prot"), "{message}");
        let message = read::<Small>("f.yaml", "port: many\n").unwrap_err().to_string();
        assert!(message.contains("line 1, column 7"), "{message}");
    }
}
