//! Data on standard output: tables for people, JSON and YAML for programs.

use std::io::{IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use super::{
    fail::{Failed, Outcome},
    short::Short,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
    Yaml,
}

/// The fields that people look for first.
const FIRST: [&str; 10] = ["id", "name", "title", "status", "why", "error", "kind", "priority", "swarm", "resultText"];

/// The way in which answers are shown.
#[derive(Clone, Copy, Debug)]
pub struct Show {
    pub format: Format,
    /// Whether only what identifies the result is shown.
    pub quiet: bool,
}

impl Show {
    /// Prints a list: rows of `columns`, names first and ids short, or the whole objects.
    pub fn list(self, columns: &[&str], values: &[Value], row: impl Fn(&Value) -> Vec<String>) -> Outcome {
        if self.quiet {
            let ids = values.iter().map(|value| text(value, "id"));
            return print(&ids.fold(String::new(), |all, id| all + &id + "\n"));
        }
        match self.format {
            Format::Table if values.is_empty() => {
                eprintln!("none");
                Ok(())
            }
            Format::Table => {
                let mut rows: Vec<Vec<String>> = values.iter().map(row).collect();
                let short = Short::of(rows.iter().flatten().map(String::as_str));
                rows.iter_mut().flatten().for_each(|cell| *cell = short.text(cell));
                let mut columns = columns.to_vec();
                // A thing that has a name is known by it.
                let named = matches!(columns.as_slice(), ["id" | "host", "name", ..]);
                if named && rows.iter().all(|row| row.get(1).is_some_and(|name| !name.is_empty())) {
                    columns.swap(0, 1);
                    rows.iter_mut().for_each(|row| row.swap(0, 1));
                }
                let mut table = Table::new();
                table.load_style(presets::NOTHING).set_header(columns.iter().map(|name| name.to_uppercase()));
                if std::io::stdout().is_terminal() {
                    table.set_content_arrangement(ContentArrangement::Dynamic);
                }
                table.add_rows(rows);
                for column in table.column_iter_mut() {
                    column.set_padding((0, 2));
                }
                print(&format!("{}\n", table.trim_fmt()))
            }
            _ => self.value(&Value::Array(values.to_vec())),
        }
    }

    /// Prints one object, as `name: value` lines in table format.
    pub fn one(self, value: &Value) -> Outcome {
        match self.format {
            _ if self.quiet => print(&format!("{}\n", text(value, "id"))),
            Format::Table => {
                let mut lines = String::new();
                let fields = value.as_object().into_iter().flatten();
                let (mut first, rest): (Vec<_>, Vec<_>) = fields.partition(|(name, _)| FIRST.contains(&name.as_str()));
                first.sort_by_key(|(name, _)| FIRST.iter().position(|known| known == name));
                for (name, value) in first.into_iter().chain(rest) {
                    describe(&mut lines, name, value, 0);
                }
                print(&lines)
            }
            _ => self.value(value),
        }
    }

    /// Prints the result of a mutation: its object's id, name and status.
    pub fn done(self, object: &Value) -> Outcome {
        match self.format {
            _ if self.quiet => print(&format!("{}\n", text(object, "id"))),
            Format::Table => {
                let state = [text(object, "name"), text(object, "status")].join(" ");
                print(&format!("{} {}\n", text(object, "id"), state.trim()))
            }
            _ => self.value(object),
        }
    }

    /// Prints a whole value, as YAML if that is chosen, else as JSON.
    pub fn value(self, value: &Value) -> Outcome {
        match self.format {
            Format::Yaml => print(&yaml(value)?),
            _ => {
                let json = serde_json::to_string_pretty(value).map_err(|error| Failed::local(error.to_string()))?;
                print(&format!("{json}\n"))
            }
        }
    }
}

/// Writes a value as YAML.
pub fn yaml(value: &impl serde::Serialize) -> Outcome<String> {
    serde_saphyr::to_string(value).map_err(|error| Failed::local(format!("cannot write YAML: {error}")))
}

fn describe(lines: &mut String, name: &str, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Null => {}
        Value::Array(items) if items.is_empty() => {}
        Value::Array(items) if items.iter().all(|item| !item.is_object()) => {
            let all: Vec<_> = items.iter().map(plain).collect();
            lines.push_str(&format!("{indent}{name}: {}\n", all.join(" ")));
        }
        Value::Array(items) => {
            lines.push_str(&format!("{indent}{name}:\n"));
            for item in items {
                let fields: Vec<_> = item
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter(|(_, value)| !value.is_null())
                    .map(|(name, value)| format!("{name}={}", plain(value)))
                    .collect();
                lines.push_str(&format!("{indent}  {}\n", fields.join("  ")));
            }
        }
        Value::Object(fields) => {
            lines.push_str(&format!("{indent}{name}:\n"));
            for (name, value) in fields {
                describe(lines, name, value, depth + 1);
            }
        }
        Value::String(text) if text.contains('\n') => {
            lines.push_str(&format!("{indent}{name}: |\n"));
            for line in text.lines() {
                lines.push_str(&format!("{indent}  {line}\n"));
            }
        }
        other => lines.push_str(&format!("{indent}{name}: {}\n", plain(other))),
    }
}

/// Writes a value as text, without quotes; `-` for null.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Returns the value at a field, as text; it is empty if the field is absent.
pub fn text(value: &Value, field: &str) -> String {
    match &value[field] {
        Value::Null => String::new(),
        other => plain(other),
    }
}

/// Returns how long ago an RFC 3339 time was, in the largest unit that fits; it is empty if there is no such time.
pub fn age(value: &Value, field: &str) -> String {
    let Ok(then) = text(value, field).parse::<jiff::Timestamp>() else { return String::new() };
    let seconds = jiff::Timestamp::now().duration_since(then).as_secs().max(0);
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Writes to standard output. A reader that has gone away (`| head`) ends the program quietly.
pub fn print(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failed::local(format!("cannot write to standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}
