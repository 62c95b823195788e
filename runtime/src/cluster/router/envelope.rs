//! The format of what travels between routers. The link's version names the format: this is version 1.
//!
//! A tell: kind, incarnation, destination, source, then the body (MessagePack). An ask: kind, correlation id, microseconds
//! left, then as a tell. An answer: kind, correlation id, body. A refusal: kind, correlation id, code, detail, destination.
//! Integers are big-endian; a key is one byte of length and its text. The destination of a message is two bytes: a slot
//! of the link, and in the highest bit whether its text follows, which then names the slot for all later messages.

use crate::net::link::FRAME_BYTES_MAX;

/// The largest body; anything larger goes through the blob store.
pub const BODY_BYTES_MAX: usize = FRAME_BYTES_MAX - 1024;
/// The value for a message without a deadline.
pub(super) const NO_DEADLINE: u64 = u64::MAX;

/// The number of destinations that a link knows by number at a time. One more takes the slot of another, which is named anew when
/// it is used again.
pub(super) const SLOTS: u16 = 1024;
const NAMED: u16 = 0x8000;

/// The way in which a message says where it goes: by the slot's number, and by its text too unless the link has heard it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) number: u16,
    pub(super) named: bool,
}

const TELL: u8 = 1;
const ASK: u8 = 2;
const ANSWER: u8 = 3;
const REFUSED: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) ask: bool,
    /// The number of the ask; zero in a tell.
    pub(super) correlation: u64,
    /// The time that is left, in microseconds; [`NO_DEADLINE`] in a tell.
    pub(super) left_us: u64,
    pub(super) incarnation: u64,
    /// The destination as read: empty unless the slot is named.
    pub(super) dst: &'a str,
    /// The key of the sender; empty if nobody in particular sent it.
    pub(super) src: &'a str,
    pub(super) body: &'a [u8],
}

/// The reason why a message was not handed on. The numbers are the wire format: add, never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NoSuchActor,
    Busy,
    /// The deadline had passed before it was handed on.
    Expired,
    StaleIncarnation {
        current: u64,
    },
    /// The message was handed on, and dropped without an answer.
    Dropped,
    BadBody,
    AnswerTooLarge,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Envelope<'a> {
    Message(Message<'a>, Slot),
    Answer { correlation: u64, body: &'a [u8] },
    Refused { correlation: u64, why: Refusal, dst: &'a str },
}

fn put_key(buffer: &mut Vec<u8>, key: &str) {
    // A key is shorter than 255 bytes by its type; what is cut here finds nobody.
    let key = &key.as_bytes()[..key.len().min(255)];
    buffer.push(u8::try_from(key.len()).unwrap_or(u8::MAX));
    buffer.extend_from_slice(key);
}

/// Writes everything of a message but its body, which follows.
#[inline]
pub(super) fn put_head(buffer: &mut Vec<u8>, message: &Message<'_>, slot: Slot) {
    let number = if slot.named { slot.number | NAMED } else { slot.number };
    if message.ask {
        let mut fixed = [0; 27];
        fixed[0] = ASK;
        fixed[1..9].copy_from_slice(&message.correlation.to_be_bytes());
        fixed[9..17].copy_from_slice(&message.left_us.to_be_bytes());
        fixed[17..25].copy_from_slice(&message.incarnation.to_be_bytes());
        fixed[25..].copy_from_slice(&number.to_be_bytes());
        buffer.extend_from_slice(&fixed);
    } else {
        let mut fixed = [0; 11];
        fixed[0] = TELL;
        fixed[1..9].copy_from_slice(&message.incarnation.to_be_bytes());
        fixed[9..].copy_from_slice(&number.to_be_bytes());
        buffer.extend_from_slice(&fixed);
    }
    if slot.named {
        put_key(buffer, message.dst);
    }
    put_key(buffer, message.src);
}

/// Writes everything of an answer but its body, which follows.
pub(super) fn put_answer(buffer: &mut Vec<u8>, correlation: u64) {
    buffer.push(ANSWER);
    buffer.extend_from_slice(&correlation.to_be_bytes());
}

pub(super) fn put_refused(buffer: &mut Vec<u8>, correlation: u64, why: Refusal, dst: &str) {
    let (code, detail) = match why {
        Refusal::NoSuchActor => (1, 0),
        Refusal::Busy => (2, 0),
        Refusal::Expired => (3, 0),
        Refusal::StaleIncarnation { current } => (4, current),
        Refusal::Dropped => (5, 0),
        Refusal::BadBody => (6, 0),
        Refusal::AnswerTooLarge => (7, 0),
    };
    buffer.push(REFUSED);
    buffer.extend_from_slice(&correlation.to_be_bytes());
    buffer.push(code);
    buffer.extend_from_slice(&u64::to_be_bytes(detail));
    put_key(buffer, dst);
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*first))
    }

    fn slot(&mut self) -> Option<Slot> {
        let (first, rest) = self.0.split_first_chunk::<2>()?;
        self.0 = rest;
        let number = u16::from_be_bytes(*first);
        let slot = Slot { number: number & !NAMED, named: number & NAMED != 0 };
        (slot.number < SLOTS).then_some(slot)
    }

    fn key(&mut self) -> Option<&'a str> {
        let length = usize::from(self.byte()?);
        let (key, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(key).ok()
    }
}

/// Reads one envelope. `None` means a peer that does not speak this version: the link is closed with that reason.
#[inline]
pub(super) fn read(payload: &[u8]) -> Option<Envelope<'_>> {
    let mut at = Cursor(payload);
    Some(match at.byte()? {
        kind @ (TELL | ASK) => {
            let ask = kind == ASK;
            let (correlation, left_us) = if ask { (at.number()?, at.number()?) } else { (0, NO_DEADLINE) };
            let (incarnation, slot) = (at.number()?, at.slot()?);
            let dst = if slot.named { at.key()? } else { "" };
            let src = at.key()?;
            Envelope::Message(Message { ask, correlation, left_us, incarnation, dst, src, body: at.0 }, slot)
        }
        ANSWER => Envelope::Answer { correlation: at.number()?, body: at.0 },
        REFUSED => {
            let (correlation, code, detail) = (at.number()?, at.byte()?, at.number()?);
            let why = match code {
                1 => Refusal::NoSuchActor,
                2 => Refusal::Busy,
                3 => Refusal::Expired,
                4 => Refusal::StaleIncarnation { current: detail },
                5 => Refusal::Dropped,
                6 => Refusal::BadBody,
                7 => Refusal::AnswerTooLarge,
                _ => return None,
            };
            Envelope::Refused { correlation, why, dst: at.key()? }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_and_refusals_read_back(
            ask: bool, correlation: u64, left_us: u64, incarnation: u64, dst in "[a-z]{1,16}_[0-9a-f]{32}", src in "[a-z_]{0,40}",
            body in prop::collection::vec(any::<u8>(), 0..300), number in 0..SLOTS, named: bool,
        ) {
            let (correlation, left_us) = if ask { (correlation, left_us) } else { (0, NO_DEADLINE) };
            let message = Message { ask, correlation, left_us, incarnation, dst: &dst, src: &src, body: &body };
            let (mut buffer, slot) = (Vec::new(), Slot { number, named });
            put_head(&mut buffer, &message, slot);
            buffer.extend_from_slice(&body);
            let heard = Message { dst: if named { &dst } else { "" }, ..message };
            prop_assert_eq!(read(&buffer), Some(Envelope::Message(heard, slot)));
            for cut in 0..buffer.len() - body.len() {
                prop_assert_eq!(read(&buffer[..cut]), None);
            }
            let why = Refusal::StaleIncarnation { current: incarnation };
            let mut buffer = Vec::new();
            put_refused(&mut buffer, correlation, why, &dst);
            prop_assert_eq!(read(&buffer), Some(Envelope::Refused { correlation, why, dst: &dst }));
        }

        #[test]
        fn garbage_is_read_or_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = read(&bytes);
        }
    }
}
