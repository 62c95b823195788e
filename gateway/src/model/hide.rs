//! The filter that takes the event with the usage out of a stream whose client did not ask for it. It has no I/O.

use bytes::Bytes;
use serde::Deserialize;

use super::tap::{LINE_BYTES_MAX, TooMuch};

#[derive(Default)]
pub struct Hide {
    /// The line that is not over yet.
    held: Vec<u8>,
    /// Whether the empty line that ended the event goes with it.
    end_too: bool,
}

#[derive(Deserialize)]
struct Chunk {
    choices: Vec<serde::de::IgnoredAny>,
    usage: Option<serde::de::IgnoredAny>,
}

impl Hide {
    /// Returns what may go on of these bytes and those that were held back. Errors: a line is too long.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Bytes, TooMuch> {
        let mut out = Vec::with_capacity(bytes.len() + self.held.len());
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.held.len() + piece.len() > LINE_BYTES_MAX + 1 {
                return Err(TooMuch::Line);
            }
            self.held.extend_from_slice(piece);
            if !piece.ends_with(b"\n") {
                break;
            }
            let line = std::mem::take(&mut self.held);
            if std::mem::take(&mut self.end_too) && line.trim_ascii().is_empty() {
                continue;
            }
            if is_usage_alone(&line) {
                self.end_too = true;
                continue;
            }
            out.extend_from_slice(&line);
        }
        Ok(out.into())
    }

    /// Returns what is left when the stream has ended within a line.
    pub fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.held).into()
    }
}

fn is_usage_alone(line: &[u8]) -> bool {
    let Some(data) = line.strip_prefix(b"data:") else { return false };
    serde_json::from_slice::<Chunk>(data.trim_ascii()).is_ok_and(|chunk| chunk.choices.is_empty() && chunk.usage.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_is_taken_out_however_the_bytes_are_cut() {
        let stream = b"data: {\"choices\":[{}],\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{\"a\":1}}\n\ndata: [DONE]\n\n";
        for size in 1..stream.len() {
            let mut hide = Hide::default();
            let mut out: Vec<u8> = stream.chunks(size).flat_map(|chunk| hide.take(chunk).unwrap()).collect();
            out.extend(hide.rest());
            assert_eq!(out, b"data: {\"choices\":[{}],\"usage\":null}\n\ndata: [DONE]\n\n", "{size}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_not_held() {
        assert_eq!(Hide::default().take(&vec![b'x'; LINE_BYTES_MAX + 2]), Err(TooMuch::Line));
    }
}
