//! Splits output into lines with a bound on memory, and knows what a `command` may say in them.

use serde::Deserialize;
use serde_json::Value;

pub(super) const LINE_BYTES_MAX: usize = 1 << 20;

pub(super) enum Line<'a> {
    Whole(&'a [u8]),
    /// A line is longer than the bound; said once per line, its bytes are gone.
    TooLong,
}

pub(super) struct Lines {
    bytes_max: usize,
    partial: Vec<u8>,
    skipping: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Self::bounded(LINE_BYTES_MAX)
    }
}

impl Lines {
    /// Returns a splitter of lines of at most this many bytes.
    pub(super) fn bounded(bytes_max: usize) -> Self {
        Self { bytes_max, partial: Vec::new(), skipping: false }
    }

    /// Returns how many bytes are not in a finished line yet.
    pub(super) fn pending(&self) -> usize {
        self.partial.len()
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Line<'_>)) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.skipping {
                self.skipping = false;
            } else if self.partial.is_empty() {
                each(if line.len() > self.bytes_max { Line::TooLong } else { Line::Whole(line) });
            } else if self.partial.len() + line.len() > self.bytes_max {
                self.partial = Vec::new();
                each(Line::TooLong);
            } else {
                self.partial.extend_from_slice(line);
                each(Line::Whole(&self.partial));
                self.partial.clear();
            }
            bytes = rest;
        }
        if self.skipping {
            return;
        }
        if self.partial.len() + bytes.len() > self.bytes_max {
            self.partial = Vec::new();
            self.skipping = true;
            each(Line::TooLong);
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }

    /// Gives the last line, if it had no end.
    pub(super) fn finish(&mut self, mut each: impl FnMut(Line<'_>)) {
        if !self.partial.is_empty() {
            each(Line::Whole(&std::mem::take(&mut self.partial)));
        }
    }
}

/// A line of the progress protocol: a JSON object with the key `hiveward`.
#[derive(Debug, Deserialize)]
#[serde(tag = "hiveward", rename_all = "lowercase")]
pub(super) enum Said {
    Progress { percent: Option<f32>, message: Option<String> },
    Result { value: Value },
    Artifact { name: String, path: String },
    Fail { retriable: Option<bool>, message: Option<String> },
}

impl Said {
    /// Reads a line of the protocol; `None` for ordinary output.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let line = line.trim_ascii();
        let maybe = line.starts_with(b"{") && line.windows(10).any(|window| window == b"\"hiveward\"");
        maybe.then(|| serde_json::from_slice(line).ok()).flatten()
    }
}

/// Returns a percentage from 0 to 100, or none.
pub(super) fn percent(value: Option<f32>) -> Option<f32> {
    value.filter(|percent| percent.is_finite()).map(|percent| percent.clamp(0.0, 100.0))
}

/// Returns at most `bytes_max` bytes of `text`, from its end.
pub(super) fn tail_of(text: &str, bytes_max: usize) -> &str {
    let from = text.len().saturating_sub(bytes_max);
    (from..=text.len()).find_map(|at| text.get(at..)).unwrap_or("")
}

/// Returns at most `bytes_max` bytes of `text`, from its start.
pub(super) fn head_of(text: &str, bytes_max: usize) -> &str {
    (0..=bytes_max.min(text.len())).rev().find_map(|at| text.get(..at)).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pieces: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.feed(piece, |line| out.push(if let Line::Whole(line) = line { Some(line.to_vec()) } else { None }));
        }
        lines.finish(|line| out.push(if let Line::Whole(line) = line { Some(line.to_vec()) } else { None }));
        out
    }

    #[test]
    fn lines_are_the_same_however_the_bytes_arrive() {
        let whole = split(&[b"a\n\nbc\nd"]);
        assert_eq!(whole, [Some(b"a".to_vec()), Some(vec![]), Some(b"bc".to_vec()), Some(b"d".to_vec())]);
        assert_eq!(split(&[b"a", b"\n\nb", b"c", b"\nd"]), whole);
    }

    #[test]
    fn an_endless_line_is_said_once_and_takes_no_memory() {
        let piece = vec![b'x'; 300_000];
        let mut pieces: Vec<&[u8]> = vec![&piece; 20];
        pieces.push(b"\nnext\n");
        assert_eq!(split(&pieces), [None, Some(b"next".to_vec())]);
    }
}
