//! Makes one result out of the results of a plan's subtasks.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{spec::Aggregate, status::TaskStatus};

/// One subtask, with what came of it.
pub struct Part {
    pub name: String,
    pub status: TaskStatus,
    /// The result as the subtask returned it; text that is no JSON counts as a JSON string.
    pub result: Option<Vec<u8>>,
}

impl Part {
    fn value(&self) -> Value {
        match &self.result {
            None => Value::Null,
            Some(bytes) => {
                serde_json::from_slice(bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()))
            }
        }
    }
}

/// Makes the result, or returns why there is none. Except for `Majority`, every subtask must have succeeded.
pub fn aggregate(how: Aggregate, parts: &[Part]) -> Result<Vec<u8>, String> {
    if how != Aggregate::Majority {
        let failed: Vec<_> = parts.iter().filter(|part| part.status != TaskStatus::Succeeded).collect();
        if let Some(first) = failed.first() {
            return Err(format!(
                "{} of {} subtasks did not succeed, first {:?} ({})",
                failed.len(),
                parts.len(),
                first.name,
                first.status.name()
            ));
        }
    }
    let value = match how {
        Aggregate::Collect => Value::Array(
            parts.iter().map(|part| json!({"name": part.name, "status": part.status.name(), "result": part.value()})).collect(),
        ),
        Aggregate::Merge => {
            let mut merged = Value::Object(Map::new());
            for part in parts {
                let value = part.value();
                if !value.is_object() {
                    return Err(format!("MERGE wants JSON objects, and subtask {:?} returned none", part.name));
                }
                merge(&mut merged, value);
            }
            merged
        }
        Aggregate::Concat => {
            let mut text = String::new();
            for part in parts {
                match part.value() {
                    Value::String(more) => text.push_str(&more),
                    Value::Null => {}
                    other => text.push_str(&other.to_string()),
                }
                if !text.is_empty() && !text.ends_with('\n') {
                    text.push('\n');
                }
            }
            Value::String(text)
        }
        Aggregate::Majority => {
            let mut votes: HashMap<String, usize> = HashMap::new();
            for part in parts.iter().filter(|part| part.status == TaskStatus::Succeeded) {
                *votes.entry(part.value().to_string()).or_default() += 1;
            }
            match votes.into_iter().max_by_key(|(_, votes)| *votes) {
                Some((winner, count)) if count * 2 > parts.len() => return Ok(winner.into_bytes()),
                Some((_, count)) => {
                    return Err(format!("no majority: the most frequent result has {count} of {} votes", parts.len()));
                }
                None => return Err("no subtask succeeded".into()),
            }
        }
    };
    Ok(value.to_string().into_bytes())
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                match into.get_mut(&key) {
                    Some(there) => merge(there, value),
                    None => {
                        into.insert(key, value);
                    }
                }
            }
        }
        (Value::Array(into), Value::Array(from)) => into.extend(from),
        (into @ Value::Number(_), Value::Number(from)) => {
            let sum = match (into.as_i64(), from.as_i64()) {
                (Some(a), Some(b)) => a.checked_add(b).map(Value::from),
                _ => None,
            };
            *into = sum.unwrap_or_else(|| json!(into.as_f64().unwrap_or(0.0) + from.as_f64().unwrap_or(0.0)));
        }
        (into, from) => *into = from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, result: &str) -> Part {
        Part { name: name.into(), status: TaskStatus::Succeeded, result: Some(result.into()) }
    }

    fn text(how: Aggregate, parts: &[Part]) -> Result<String, String> {
        aggregate(how, parts).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn each_strategy_keeps_the_plans_order() {
        let parts = [part("a", r#"{"n":1,"files":["x"]}"#), part("b", r#"{"n":2,"files":["y"]}"#)];
        assert_eq!(text(Aggregate::Merge, &parts).unwrap(), r#"{"n":3,"files":["x","y"]}"#);
        assert!(text(Aggregate::Collect, &parts).unwrap().starts_with(r#"[{"name":"a""#));
        assert_eq!(text(Aggregate::Concat, &[part("a", "one"), part("b", "two\n")]).unwrap(), r#""one\ntwo\n""#);
    }

    #[test]
    fn a_majority_needs_more_than_half() {
        assert_eq!(text(Aggregate::Majority, &[part("a", "1"), part("b", "2"), part("c", "1")]).unwrap(), "1");
        assert!(text(Aggregate::Majority, &[part("a", "1"), part("b", "2")]).unwrap_err().contains("no majority"));
    }

    #[test]
    fn a_failed_subtask_fails_the_rest_by_name() {
        let mut parts = [part("a", "1"), part("b", "2")];
        parts[1].status = TaskStatus::Dead;
        assert!(text(Aggregate::Collect, &parts).unwrap_err().contains("\"b\" (DEAD)"));
    }
}
