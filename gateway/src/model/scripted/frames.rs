//! The pieces of an answer that go out one by one, and where they go wrong.

use std::time::Duration;

use bytes::Bytes;

use super::{book::Usage, script::Fault};

/// One server-sent event, or one whole body.
#[derive(Clone, Debug)]
pub struct Frame {
    pub bytes: Bytes,
    /// What this piece says of the call's usage.
    pub usage: Option<Usage>,
}

impl Frame {
    /// Returns a piece that says nothing of the usage.
    pub fn of(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), usage: None }
    }
}

/// An answer in the words of an API.
pub struct Worded {
    pub frames: Vec<Frame>,
    /// The place where another piece of the text fits in.
    pub text_at: usize,
    /// The function that makes such a piece.
    pub piece: Box<dyn Fn(&str) -> Bytes + Send>,
    /// A piece of a block that never began.
    pub stray: Bytes,
    /// An event that is no JSON.
    pub garbage: Bytes,
}

/// What comes after the frames.
#[derive(Clone, Debug)]
pub enum Then {
    End,
    /// The connection breaks.
    Cut,
    /// The same comes again, for ever.
    Again(Bytes),
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub first: Duration,
    pub every: Duration,
    pub frames: Vec<Frame>,
    pub then: Then,
}

impl Plan {
    /// Plans how a streamed answer goes out, with the fault that is wanted.
    pub fn of(worded: Worded, fault: Option<&Fault>) -> Self {
        let Worded { mut frames, text_at, piece, stray, garbage } = worded;
        let text_at = text_at.min(frames.len());
        let (mut first, mut every, mut then) = (Duration::ZERO, Duration::ZERO, Then::End);
        match fault {
            None | Some(Fault::RateLimited { .. } | Fault::Overloaded { .. }) => {}
            Some(Fault::Cut { after_events }) => {
                frames.truncate(*after_events);
                then = Then::Cut;
            }
            Some(Fault::Slow { first_ms, every_ms }) => {
                (first, every) = (Duration::from_millis(*first_ms), Duration::from_millis(*every_ms));
            }
            Some(Fault::Malformed) => frames.insert(text_at, Frame::of(garbage)),
            Some(Fault::HugeLine { bytes }) => {
                frames.insert(text_at, Frame::of(piece(&"x".repeat(usize::try_from(*bytes).unwrap_or(usize::MAX)))));
            }
            Some(Fault::Endless) => {
                frames.truncate(text_at);
                then = Then::Again(piece(&"x".repeat(ENDLESS_BYTES)));
            }
            Some(Fault::WrongIds) => frames.insert(text_at, Frame::of(stray)),
            Some(Fault::HalfEvent) => {
                frames.truncate(text_at + 1);
                if let Some(last) = frames.last_mut() {
                    let half = last.bytes.len() / 2;
                    last.bytes.truncate(half);
                    last.usage = None;
                }
            }
        }
        Self { first, every, frames, then }
    }

    /// Plans how an answer goes out that is one JSON document, with the fault that is wanted.
    pub fn of_document(document: Bytes, usage: Usage, fault: Option<&Fault>) -> Self {
        let half = document.slice(..document.len() / 2);
        let whole = Frame { bytes: document, usage: Some(usage) };
        let (mut first, mut frames, mut then) = (Duration::ZERO, vec![whole], Then::End);
        match fault {
            Some(Fault::Slow { first_ms, .. }) => first = Duration::from_millis(*first_ms),
            Some(Fault::Malformed) => frames = vec![Frame::of("{\"id\": not json")],
            Some(Fault::Cut { .. }) => (frames, then) = (vec![Frame::of(half)], Then::Cut),
            Some(Fault::HalfEvent) => frames = vec![Frame::of(half)],
            Some(Fault::Endless) => {
                let more = Bytes::from("x".repeat(ENDLESS_BYTES));
                (frames, then) = (vec![Frame::of("{\"id\":\"")], Then::Again(more));
            }
            _ => {}
        }
        Self { first, every: Duration::ZERO, frames, then }
    }
}

const ENDLESS_BYTES: usize = 1024;
