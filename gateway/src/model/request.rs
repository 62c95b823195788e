//! An agent's request body: what the gateway must know of it, and the few changes it makes to it.

use std::fmt;

use bytes::Bytes;
use hiveward_models::Estimate;
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
    ser::{SerializeMap, Serializer},
};
use serde_json::value::RawValue;

use super::api::Api;

/// The most characters of a model's name.
const MODEL_CHARS_MAX: usize = 200;

/// The fields of a JSON object as they were written, in their order.
///
/// What is within them is passed on untouched. A field that is there twice is refused: two readers might each take
/// another of the two, and what is metered must be what is asked.
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                const FIELDS_MAX: usize = 200;
                let mut fields: Vec<(String, Box<RawValue>)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    if fields.iter().any(|(other, _)| *other == name) {
                        return Err(A::Error::custom(format!("the field {name:?} is there twice")));
                    }
                    if fields.len() == FIELDS_MAX {
                        return Err(A::Error::custom(format!("there are more than {FIELDS_MAX} fields")));
                    }
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl Fields {
    fn get<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Result<Option<T>, String> {
        let Some((_, value)) = self.0.iter().find(|(field, _)| field == name) else { return Ok(None) };
        serde_json::from_str(value.get()).map_err(|error| format!("`{name}`: {error}"))
    }

    fn with(&self, name: &str, value: Box<RawValue>) -> Result<Bytes, serde_json::Error> {
        let mut bytes = Vec::new();
        let mut writer = serde_json::Serializer::new(&mut bytes);
        let mut map = (&mut writer).serialize_map(None)?;
        let mut value = Some(value);
        for (field, old) in &self.0 {
            match value.take_if(|_| field == name) {
                Some(new) => map.serialize_entry(field, &new)?,
                None => map.serialize_entry(field, old)?,
            }
        }
        if let Some(new) = value {
            map.serialize_entry(name, &new)?;
        }
        map.end()?;
        Ok(bytes.into())
    }
}

/// A request for a model that was read.
#[derive(Clone)]
pub struct Asked {
    pub model: String,
    pub stream: bool,
    /// Whether a client of the OpenAI-compatible API wants the stream to end with its usage.
    pub usage_wanted: bool,
    /// The most that it may use.
    pub estimate: Estimate,
    /// The body as it goes to the provider.
    pub body: Bytes,
}

/// The tokens of an answer whose request sets no bound, as the OpenAI-compatible API allows.
const OUTPUT_UNSAID: u64 = 32 * 1024;

/// The bytes of a body for which a token is set aside, at least.
///
/// A token of ordinary text, code or JSON is three to four bytes; the densest that is common, characters of three bytes
/// that take one or two tokens each, comes to two. A body has its field names, quotes and escapes besides. What lies
/// outside, such as a picture that is named by its address, makes the estimate too low: the call is settled at what it
/// used, and a budget is passed by that one call and no other, for nothing more is granted then.
const BYTES_PER_TOKEN: u64 = 2;

#[derive(Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

impl Asked {
    /// Reads a body; has the OpenAI-compatible API say its usage. Errors say what is wrong with it.
    pub fn read(api: Api, body: Bytes) -> Result<Self, String> {
        let fields: Fields = serde_json::from_slice(&body).map_err(|error| format!("the body is not understood: {error}"))?;
        let model: String = fields.get("model")?.ok_or("`model` is missing")?;
        if model.is_empty() || model.chars().count() > MODEL_CHARS_MAX || model.chars().any(char::is_control) {
            return Err(format!("`model` is no name of 1 to {MODEL_CHARS_MAX} characters"));
        }
        let stream = fields.get::<Option<bool>>("stream")?.flatten().unwrap_or(false);
        let number = |name: &str| fields.get::<Option<u64>>(name).map(Option::flatten);
        let output = number("max_completion_tokens")?.or(number("max_tokens")?).unwrap_or(OUTPUT_UNSAID);
        let answers = if api == Api::OpenAi { number("n")?.unwrap_or(1).max(1) } else { 1 };
        let estimate = Estimate { input: (body.len() as u64).div_ceil(BYTES_PER_TOKEN), output: output.saturating_mul(answers) };
        let mut asked = Self { model, stream, usage_wanted: false, estimate, body };
        if api == Api::OpenAi && stream {
            let options = fields.get::<Option<serde_json::Map<String, serde_json::Value>>>("stream_options")?.flatten();
            let mut options = options.unwrap_or_default();
            let read: StreamOptions = serde_json::from_value(serde_json::Value::Object(options.clone()))
                .map_err(|error| format!("`stream_options`: {error}"))?;
            asked.usage_wanted = read.include_usage == Some(true);
            if !asked.usage_wanted {
                options.insert("include_usage".to_owned(), serde_json::Value::Bool(true));
                asked.body = serde_json::value::to_raw_value(&options)
                    .and_then(|options| fields.with("stream_options", options))
                    .map_err(|error| format!("the body cannot be written: {error}"))?;
            }
        }
        Ok(asked)
    }

    /// Returns the same request for another model.
    pub fn for_model(&self, model: &str) -> Result<Self, String> {
        if model == self.model {
            return Ok(self.clone());
        }
        let fields: Fields = serde_json::from_slice(&self.body).map_err(|error| error.to_string())?;
        let name = serde_json::value::to_raw_value(model).map_err(|error| error.to_string())?;
        let body = fields.with("model", name).map_err(|error| error.to_string())?;
        Ok(Self { model: model.to_owned(), body, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(api: Api, body: &'static str) -> Result<Asked, String> {
        Asked::read(api, Bytes::from_static(body.as_bytes()))
    }

    fn text(asked: &Asked) -> &str {
        std::str::from_utf8(&asked.body).unwrap()
    }

    #[test]
    fn a_body_goes_on_as_it_was_written() {
        let body = r#"{ "model":"m", "stream": true, "tools":[{"z":1,"a":1e2}] }"#;
        let asked = read(Api::Anthropic, body).unwrap();
        assert_eq!((text(&asked), asked.stream, asked.model.as_str()), (body, true, "m"));
        let other = asked.for_model("n").unwrap();
        assert_eq!(text(&other), r#"{"model":"n","stream":true,"tools":[{"z":1,"a":1e2}]}"#);
    }

    #[test]
    fn what_a_call_may_use_is_bounded_before_it_is_made() {
        let body = r#"{"model":"m","max_tokens":100}"#;
        let estimate = Estimate { input: body.len() as u64 / 2, output: 100 };
        assert_eq!(read(Api::Anthropic, body).unwrap().estimate, estimate);
        assert_eq!(read(Api::OpenAi, r#"{"model":"m","n":3,"max_completion_tokens":10}"#).unwrap().estimate.output, 30);
        assert_eq!(read(Api::OpenAi, r#"{"model":"m"}"#).unwrap().estimate.output, OUTPUT_UNSAID);
    }

    #[test]
    fn usage_is_asked_for_where_the_client_did_not() {
        let asked = read(Api::OpenAi, r#"{"model":"m","stream":true,"stream_options":{"x":1}}"#).unwrap();
        assert!(!asked.usage_wanted);
        assert_eq!(text(&asked), r#"{"model":"m","stream":true,"stream_options":{"x":1,"include_usage":true}}"#);
        let body = r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#;
        let asked = read(Api::OpenAi, body).unwrap();
        assert!(asked.usage_wanted && text(&asked) == body);
        assert!(text(&read(Api::OpenAi, r#"{"model":"m","stream":true}"#).unwrap()).contains("include_usage"));
        assert!(!text(&read(Api::OpenAi, r#"{"model":"m"}"#).unwrap()).contains("include_usage"));
    }

    #[test]
    fn a_body_that_two_could_read_differently_is_refused() {
        for (body, part) in [
            (r#"{"model":"cheap","model":"dear"}"#, "twice"),
            (r#"{"model":3}"#, "`model`"),
            (r#"{}"#, "missing"),
            (r#"[]"#, "not understood"),
            (r#"{"model":"m","stream":"yes"}"#, "`stream`"),
            (r#"{"model":"m","max_tokens":-1}"#, "`max_tokens`"),
            ("", "not understood"),
        ] {
            let message = read(Api::OpenAi, body).err().unwrap();
            assert!(message.contains(part), "{body}: {message}");
        }
    }
}
