//! The values as people write them on the command line.

use std::time::Duration;

use serde_json::{Map, Value, json};

/// Reads a duration such as `500ms`, `30s`, `5m` or `1h`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is no duration; write 500ms, 30s, 5m or 1h"))?;
    let seconds = match unit {
        "ms" => number / 1_000.0,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3_600.0,
        "d" => number * 86_400.0,
        _ => return Err(format!("{unit:?} is no unit of time; use ms, s, m, h or d")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text:?} is too long"))
}

/// Returns milliseconds as the API takes them, at most what it can take.
pub fn millis(duration: Duration) -> Value {
    json!(i32::try_from(duration.as_millis()).unwrap_or(i32::MAX))
}

/// Reads `NAME=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} has no `=`; write NAME=VALUE"))?;
    if name.is_empty() { Err(format!("{text:?} has no name before `=`")) } else { Ok((name.into(), value.into())) }
}

/// Reads `NAME` or `NAME=PROFICIENCY`, which is 0 to 1 and 1 if absent.
pub fn skill(text: &str) -> Result<(String, f64), String> {
    let Some((name, proficiency)) = text.split_once('=') else { return Ok((text.into(), 1.0)) };
    let proficiency =
        proficiency.parse().ok().filter(|p| (0.0..=1.0).contains(p)).ok_or_else(|| format!("{proficiency:?} is not 0 to 1"))?;
    Ok((name.into(), proficiency))
}

/// Writes an enumeration's name as the API has it: `least-busy` becomes `LEAST_BUSY`.
pub fn constant(text: &str) -> String {
    text.to_ascii_uppercase().replace('-', "_")
}

/// Reads a size such as `512M`, `2G` or plain bytes; units are powers of 1024.
pub fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no size; write bytes, 512M or 2G"))?;
    let factor = match unit.trim_end_matches("iB").trim_end_matches('B') {
        "" => 1,
        "K" | "k" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return Err(format!("{unit:?} is no unit of size; use K, M or G")),
    };
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} is too large"))
}

/// An input object with the fields that were given.
#[derive(Default)]
pub struct Input(Map<String, Value>);

impl Input {
    /// Adds a field, unless it is absent or null.
    pub fn set(mut self, name: &str, value: impl Into<Option<Value>>) -> Self {
        if let Some(value) = value.into().filter(|value| !value.is_null()) {
            self.0.insert(name.into(), value);
        }
        self
    }

    /// Adds a list, unless it is empty.
    pub fn list<T: Into<Value>>(self, name: &str, values: impl IntoIterator<Item = T>) -> Self {
        let values: Vec<Value> = values.into_iter().map(Into::into).collect();
        if values.is_empty() { self } else { self.set(name, Value::Array(values)) }
    }

    /// Returns the object.
    pub fn done(self) -> Value {
        Value::Object(self.0)
    }

    /// Returns the object; `None` if nothing was added.
    pub fn unless_empty(self) -> Option<Value> {
        (!self.0.is_empty()).then(|| self.done())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_as_people_write_them() {
        assert_eq!(duration("500ms").unwrap().as_millis(), 500);
        assert_eq!(duration("1.5m").unwrap().as_secs(), 90);
        assert_eq!(duration("7").unwrap().as_secs(), 7);
        assert_eq!(bytes("512M").unwrap(), 512 << 20);
        assert_eq!(bytes("2GiB").unwrap(), 2 << 30);
        for bad in ["", "s", "5y", "-1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(bytes("99999999999999G").is_err());
    }
}
