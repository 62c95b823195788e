//! The reader of what a response says of its usage while its bytes go by. It is bounded whatever the provider sends.

use hiveward_models::Usage;
use serde::Deserialize;

use super::api::Api;

/// The most bytes of one line of a stream. A longer one ends the stream.
pub const LINE_BYTES_MAX: usize = 1024 * 1024;
/// The most bytes of an answer that is one document: it must be held as a whole to be read.
pub const DOCUMENT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The most bytes of a whole answer.
pub const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A bound that the provider does not keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    #[error("the provider sent a line of more than {LINE_BYTES_MAX} bytes")]
    Line,
    #[error("the provider sent a document of more than {DOCUMENT_BYTES_MAX} bytes")]
    Document,
    #[error("the provider sent an answer of more than {ANSWER_BYTES_MAX} bytes")]
    Answer,
}

pub struct Tap {
    api: Api,
    stream: bool,
    /// The line that is not over yet, or the whole document.
    held: Vec<u8>,
    taken: u64,
    usage: Usage,
    said: bool,
    ended: bool,
}

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "type")]
    kind: Option<String>,
    message: Option<Inner>,
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct Inner {
    usage: Option<WireUsage>,
}

/// The usage as both APIs write it; each says only its own fields.
#[derive(Deserialize)]
struct WireUsage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

impl Tap {
    /// Begins with an answer of this API, which is a `stream` or one document.
    pub fn new(api: Api, stream: bool) -> Self {
        Self { api, stream, held: Vec::new(), taken: 0, usage: Usage::default(), said: false, ended: false }
    }

    /// Takes the next bytes. Errors: a bound is passed, and nothing more must be let by.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), TooMuch> {
        self.taken += bytes.len() as u64;
        if self.taken > ANSWER_BYTES_MAX {
            return Err(TooMuch::Answer);
        }
        if !self.stream {
            if self.held.len() + bytes.len() > DOCUMENT_BYTES_MAX {
                return Err(TooMuch::Document);
            }
            self.held.extend_from_slice(bytes);
            return Ok(());
        }
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            if self.held.len() + line.len() > LINE_BYTES_MAX {
                return Err(TooMuch::Line);
            }
            if self.held.is_empty() {
                self.line(line);
            } else {
                let mut held = std::mem::take(&mut self.held);
                held.extend_from_slice(line);
                self.line(&held);
                held.clear();
                self.held = held;
            }
        }
        if self.held.len() + bytes.len() > LINE_BYTES_MAX {
            return Err(TooMuch::Line);
        }
        self.held.extend_from_slice(bytes);
        Ok(())
    }

    /// Notes that the provider has closed the body in order, and reads a document that is whole now.
    pub fn close(&mut self) {
        if self.stream {
            return;
        }
        let document = std::mem::take(&mut self.held);
        if let Ok(message) = serde_json::from_slice::<Message>(&document) {
            self.ended = true;
            if let Some(usage) = message.usage {
                self.note(usage);
            }
        }
    }

    fn line(&mut self, line: &[u8]) {
        let Some(data) = line.strip_prefix(b"data:") else { return };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            self.ended = true;
            return;
        }
        // Most events say nothing of usage, and need not be read.
        let has = |word: &[u8]| data.windows(word.len()).any(|window| window == word);
        if !has(b"\"usage\"") && !has(b"\"message_stop\"") {
            return;
        }
        let Ok(message) = serde_json::from_slice::<Message>(data) else { return };
        if message.kind.as_deref() == Some("message_stop") {
            self.ended = true;
        }
        for usage in message.message.and_then(|message| message.usage).into_iter().chain(message.usage) {
            self.note(usage);
        }
    }

    /// Notes what was said. The newest word on each kind counts: a stream tells its sums so far, not what was added.
    fn note(&mut self, said: WireUsage) {
        self.said = true;
        let usage = &mut self.usage;
        match self.api {
            Api::Anthropic => {
                for (kind, tokens) in [
                    (&mut usage.input, said.input_tokens),
                    (&mut usage.output, said.output_tokens),
                    (&mut usage.cache_read, said.cache_read_input_tokens),
                    (&mut usage.cache_write, said.cache_creation_input_tokens),
                ] {
                    *kind = tokens.unwrap_or(*kind);
                }
            }
            Api::OpenAi => {
                let cached = said.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0);
                if let Some(prompt) = said.prompt_tokens {
                    // Here what was read from the cache is a part of the prompt.
                    usage.cache_read = cached.min(prompt);
                    usage.input = prompt - usage.cache_read;
                }
                usage.output = said.completion_tokens.unwrap_or(usage.output);
            }
        }
    }

    /// Returns what the call used, as far as it was said.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Tells whether the answer came to its own end, and said what it used.
    pub fn is_complete(&self) -> bool {
        self.ended && self.said
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = "event: message_start\r\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":7,\"cache_creation_input_tokens\":2,\"output_tokens\":1}}}\r\n\r\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"the \\\"usage\\\" of it\"}}\n\ndata:{\"type\":\"message_delta\",\"usage\":{\"output_tokens\":40}}\n\ndata: {\"type\":\"message_stop\"}\n\n";

    proptest! {
        #[test]
        fn the_same_is_read_however_the_bytes_are_cut(cuts in proptest::collection::vec(0..STREAM.len(), 0..20)) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let mut tap = Tap::new(Api::Anthropic, true);
            let mut from = 0;
            for cut in cuts.into_iter().chain([STREAM.len()]) {
                tap.take(&STREAM.as_bytes()[from..cut]).unwrap();
                from = cut;
            }
            prop_assert_eq!(tap.usage(), Usage { input: 5, output: 40, cache_read: 7, cache_write: 2 });
            prop_assert!(tap.is_complete());
        }

        #[test]
        fn no_bytes_make_it_fail_or_grow(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20)) {
            for (api, stream) in [(Api::Anthropic, true), (Api::OpenAi, true), (Api::OpenAi, false)] {
                let mut tap = Tap::new(api, stream);
                for chunk in &chunks {
                    tap.take(chunk).unwrap();
                }
                tap.close();
            }
        }
    }

    #[test]
    fn a_cut_stream_has_said_what_it_had_said() {
        let mut tap = Tap::new(Api::Anthropic, true);
        tap.take(&STREAM.as_bytes()[..300]).unwrap();
        tap.close();
        assert_eq!((tap.usage().input, tap.usage().output, tap.is_complete()), (5, 1, false));
    }

    #[test]
    fn the_openai_api_counts_what_was_cached_within_the_prompt() {
        let usage = "{\"prompt_tokens\":14,\"completion_tokens\":3,\"prompt_tokens_details\":{\"cached_tokens\":4}}";
        let mut tap = Tap::new(Api::OpenAi, true);
        tap.take(format!("data: {{\"choices\":[],\"usage\":{usage}}}\n\ndata: [DONE]\n\n").as_bytes()).unwrap();
        assert_eq!(tap.usage(), Usage { input: 10, output: 3, cache_read: 4, cache_write: 0 });
        let mut document = Tap::new(Api::OpenAi, false);
        document.take(format!("{{\"choices\":[],\"usage\":{usage}}}").as_bytes()).unwrap();
        assert!(!document.is_complete());
        document.close();
        assert!(document.is_complete() && document.usage() == tap.usage());
    }

    #[test]
    fn lines_documents_and_answers_are_bounded() {
        let mut tap = Tap::new(Api::Anthropic, true);
        assert_eq!(tap.take(&vec![b'x'; LINE_BYTES_MAX + 1]), Err(TooMuch::Line));
        let mut tap = Tap::new(Api::Anthropic, false);
        assert_eq!(tap.take(&vec![b'x'; DOCUMENT_BYTES_MAX + 1]), Err(TooMuch::Document));
        let mut tap = Tap::new(Api::Anthropic, true);
        let lines = "data: x\n".repeat(128 * 1024).into_bytes();
        let end = (0..100).find_map(|_| tap.take(&lines).err());
        assert_eq!(end, Some(TooMuch::Answer));
    }
}
