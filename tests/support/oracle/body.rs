//! The bytes that a load sends: made again from their seed whenever they are wanted, so that nobody keeps them.

use std::fmt;

/// Below this a body is in the event itself, above it is a blob.
const INLINE_BYTES_MAX: usize = 4096;
/// What fits into one request of a MiB, whatever of it has to be escaped.
const LARGEST_OF_ASCII: usize = 1_047_000;
const LARGEST_OF_OTHERS: usize = 750_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Letters {
    Ascii,
    /// Characters of one to four bytes, so that every limit cuts one somewhere now and then; quotes and zero bytes too.
    Text,
    /// Not UTF-8, unless there are none at all.
    Bytes,
}

#[derive(Clone, Copy, Debug)]
pub struct SentBody {
    letters: Letters,
    bytes: usize,
    lines: bool,
    seed: u64,
}

/// What is kept of a body, and printed of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BodySum {
    pub bytes: usize,
    pub hash: blake3::Hash,
}

impl BodySum {
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self { bytes: bytes.as_ref().len(), hash: blake3::hash(bytes.as_ref()) }
    }
}

impl fmt::Display for BodySum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes with hash {}…", self.bytes, &self.hash.to_hex()[..12])
    }
}

impl fmt::Debug for BodySum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl SentBody {
    /// Of any size up to `bytes_max`: mostly around what is a limit somewhere, and now and then as large as one may be.
    pub fn draw(dice: &mut fastrand::Rng, letters: Letters, bytes_max: usize) -> Self {
        let largest = if letters == Letters::Ascii { LARGEST_OF_ASCII } else { LARGEST_OF_OTHERS };
        let bytes = match dice.u8(..100) {
            0..10 => 0,
            10..20 => 1,
            20..40 => dice.usize(2..300),
            // As it is, and with the two quotes that it has as JSON.
            40..60 => dice.usize(INLINE_BYTES_MAX - 4..INLINE_BYTES_MAX + 4),
            60..75 => dice.usize(INLINE_BYTES_MAX - 300..INLINE_BYTES_MAX + 100),
            75..97 => dice.usize(10 << 10..70 << 10),
            97 => (64 << 10) + dice.usize(..4) - 2,
            98 => (256 << 10) + dice.usize(..4) - 2,
            _ => largest,
        };
        // The largest of ASCII has no room for an escape.
        let lines = bytes < largest && dice.bool() || bytes == LARGEST_OF_OTHERS;
        Self { letters, bytes: bytes.min(bytes_max).min(largest), lines, seed: dice.u64(..) }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn make(&self) -> Vec<u8> {
        match self.letters {
            Letters::Bytes => self.garbage(),
            _ => self.text().into_bytes(),
        }
    }

    /// Of a body that is text.
    pub fn text(&self) -> String {
        const WIDE: [char; 16] =
            ['a', 'Z', '0', 'é', 'ß', 'я', '\u{301}', '語', '€', '\u{feff}', '\u{2028}', '🐝', '🦀', '"', '\\', '\0'];
        const NARROW: &[u8] = b"abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 .,:;-+*/=?!<>()";
        let mut dice = fastrand::Rng::with_seed(self.seed);
        let mut text = String::with_capacity(self.bytes);
        while text.len() < self.bytes {
            let letter = match (self.letters, self.lines && dice.u8(..100) == 0) {
                (_, true) => '\n',
                (Letters::Ascii, _) => char::from(NARROW[dice.usize(..NARROW.len())]),
                _ => WIDE[dice.usize(..WIDE.len())],
            };
            text.push(if text.len() + letter.len_utf8() <= self.bytes { letter } else { 'x' });
        }
        text
    }

    fn garbage(&self) -> Vec<u8> {
        let mut dice = fastrand::Rng::with_seed(self.seed);
        let mut bytes: Vec<u8> = (0..self.bytes).map(|_| dice.u8(..)).collect();
        if !bytes.is_empty() {
            let at = dice.usize(..bytes.len());
            bytes[at] = 0xff;
        }
        bytes
    }
}

/// What POSIX's `cksum` prints of these bytes: for gates, which have no other tool that is everywhere.
pub fn cksum(bytes: &[u8]) -> String {
    let step = |sum: u32, byte: u8| {
        (0..8).rev().fold(sum, |sum, bit| {
            let out = (sum >> 31) ^ u32::from(byte >> bit & 1);
            (sum << 1) ^ if out == 1 { 0x04c1_1db7 } else { 0 }
        })
    };
    let length = bytes.len().to_le_bytes();
    let significant = length.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let sum = bytes.iter().chain(&length[..significant]).fold(0, |sum, byte| step(sum, *byte));
    format!("{} {}", !sum, bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_the_same_whenever_it_is_made_and_of_every_kind_and_size() {
        let mut dice = fastrand::Rng::with_seed(7);
        let mut edges = std::collections::HashSet::new();
        for letters in [Letters::Ascii, Letters::Text, Letters::Bytes] {
            for _ in 0..400 {
                let body = SentBody::draw(&mut dice, letters, usize::MAX);
                let made = body.make();
                assert_eq!((made.len(), BodySum::of(&made)), (body.bytes(), BodySum::of(body.make())), "{body:?}");
                let is_text = std::str::from_utf8(&made).is_ok();
                assert_eq!(is_text, letters != Letters::Bytes || made.is_empty(), "{body:?}");
                let as_json = serde_json::to_vec(&String::from_utf8_lossy(&made)).unwrap().len();
                assert!(letters == Letters::Bytes || as_json < 1_047_500, "{body:?} is {as_json} bytes as JSON");
                edges.extend([0, 1, 4095, 4096, 4097, LARGEST_OF_ASCII].into_iter().filter(|edge| *edge == made.len()));
            }
        }
        assert_eq!(edges.len(), 6, "of what matters most there is everything: {edges:?}");
    }

    #[test]
    fn a_checksum_is_what_the_program_prints() {
        // As printed by coreutils.
        assert_eq!(cksum(b""), "4294967295 0");
        assert_eq!(cksum(b"123456789"), "930766865 9");
    }
}
