//! Frames: four bytes of length (of what follows), one of kind, then the payload.

use super::down::LinkRefused;

/// The largest frame, kind and payload together. What is larger is cut by its sender, or refused.
pub const FRAME_BYTES_MAX: usize = 256 * 1024;
/// The largest frame that is read before a peer has said hello.
pub(super) const HELLO_BYTES_MAX: usize = 4 * 1024;
pub(super) const HEADER_BYTES: usize = 5;
/// The least that a frame costs of the window, so that empty ones cannot pile up under a window of bytes.
pub(super) const CHARGE_MIN: usize = 64;

/// The kind of a frame. The numbers are the wire format: add, never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Hello = 1,
    Refused = 2,
    Ping = 3,
    Pong = 4,
    /// A grant of four bytes: how many more bytes may be sent.
    Credit = 5,
    Data = 6,
    JoinRequest = 7,
    JoinAnswer = 8,
}

impl Kind {
    fn read(byte: u8) -> Option<Self> {
        use Kind::{Credit, Data, Hello, JoinAnswer, JoinRequest, Ping, Pong, Refused};
        [Hello, Refused, Ping, Pong, Credit, Data, JoinRequest, JoinAnswer].into_iter().find(|kind| *kind as u8 == byte)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) payload: &'a [u8],
    /// The size of the whole frame, header included.
    pub(super) bytes: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed<'a> {
    Frame(Frame<'a>),
    /// The number of bytes in all that are needed before the next look.
    Needs(usize),
}

/// Reads the first frame in `buffer`. Announced sizes are checked before a byte is reserved for them.
pub(super) fn parse(buffer: &[u8], bytes_max: usize) -> Result<Parsed<'_>, LinkRefused> {
    let protocol = |what: String| LinkRefused::Protocol { what };
    let Some((header, rest)) = buffer.split_at_checked(HEADER_BYTES) else { return Ok(Parsed::Needs(HEADER_BYTES)) };
    let announced = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
    if announced == 0 || announced > bytes_max {
        return Err(protocol(format!("a frame of {announced} bytes, and at most {bytes_max} are allowed")));
    }
    let kind = Kind::read(header[4]).ok_or_else(|| protocol(format!("a frame of the unknown kind {}", header[4])))?;
    match rest.get(..announced - 1) {
        Some(payload) => Ok(Parsed::Frame(Frame { kind, payload, bytes: HEADER_BYTES + announced - 1 })),
        None => Ok(Parsed::Needs(HEADER_BYTES + announced - 1)),
    }
}

/// Appends a frame whose payload `fill` writes; nothing is appended if it grows too large. Answers the frame's bytes.
pub(super) fn append(buffer: &mut Vec<u8>, kind: Kind, fill: impl FnOnce(&mut Vec<u8>)) -> Result<usize, usize> {
    let start = buffer.len();
    buffer.extend_from_slice(&[0, 0, 0, 0, kind as u8]);
    fill(buffer);
    let announced = buffer.len() - start - 4;
    match u32::try_from(announced) {
        Ok(length) if announced <= FRAME_BYTES_MAX => {
            buffer[start..start + 4].copy_from_slice(&length.to_be_bytes());
            Ok(buffer.len() - start)
        }
        _ => {
            buffer.truncate(start);
            Err(announced)
        }
    }
}

pub(super) fn charge(frame_bytes: usize) -> usize {
    frame_bytes.max(CHARGE_MIN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_read_back_however_the_stream_is_cut(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..20), cut in 1usize..400,
        ) {
            let mut stream = Vec::new();
            for payload in &payloads {
                append(&mut stream, Kind::Data, |buffer| buffer.extend_from_slice(payload)).unwrap();
            }
            let (mut buffer, mut read) = (Vec::new(), Vec::new());
            for piece in stream.chunks(cut) {
                buffer.extend_from_slice(piece);
                loop {
                    let bytes = match parse(&buffer, FRAME_BYTES_MAX).unwrap() {
                        Parsed::Frame(frame) => {
                            read.push(frame.payload.to_vec());
                            frame.bytes
                        }
                        Parsed::Needs(bytes) => {
                            prop_assert!(bytes > buffer.len());
                            break;
                        }
                    };
                    buffer.drain(..bytes);
                }
            }
            prop_assert_eq!(read, payloads);
        }

        #[test]
        fn garbage_is_read_or_refused_and_never_asks_for_more_than_a_frame(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Parsed::Needs(needs)) = parse(&bytes, FRAME_BYTES_MAX) {
                prop_assert!(needs <= HEADER_BYTES + FRAME_BYTES_MAX);
            }
        }
    }

    #[test]
    fn a_frame_that_grows_too_large_leaves_the_buffer_as_it_was() {
        let mut buffer = b"before".to_vec();
        let refused = append(&mut buffer, Kind::Data, |buffer| buffer.resize(buffer.len() + FRAME_BYTES_MAX, 0));
        assert_eq!(refused, Err(FRAME_BYTES_MAX + 1));
        assert_eq!(buffer, b"before");
    }
}
