//! Rows of views as bytes: MessagePack, and behind it a checksum over the row and the key that it is filed under.
//!
//! A row that does not check is an error with a name, never data. Rows of versions that wrote no checksum are still read, and
//! those versions read ours: they do not look at what is behind a row.

use serde::{Serialize, de::DeserializeOwned};

/// The byte before the checksum, which no MessagePack has.
const MARK: u8 = 0xc1;
const TAIL: usize = 5;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the row of {key} in a view is damaged: {what}")]
pub struct RowDamaged {
    pub key: String,
    pub what: String,
}

/// The key that a row is filed under.
pub trait RowKey: Copy {
    fn with_bytes<T>(self, run: impl FnOnce(&[u8]) -> T) -> T;
    fn named(self) -> String;
}

impl RowKey for u128 {
    fn with_bytes<T>(self, run: impl FnOnce(&[u8]) -> T) -> T {
        run(&self.to_le_bytes())
    }
    fn named(self) -> String {
        format!("{self:032x}")
    }
}

impl RowKey for &str {
    fn with_bytes<T>(self, run: impl FnOnce(&[u8]) -> T) -> T {
        run(self.as_bytes())
    }
    fn named(self) -> String {
        self.to_owned()
    }
}

fn checksum(key: impl RowKey, row: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    key.with_bytes(|key| crc.update(key));
    crc.update(row);
    crc.finalize()
}

/// Writes a row with its checksum, for the key that it is filed under.
pub fn pack<T: Serialize>(key: impl RowKey, value: &T) -> Result<Vec<u8>, rmp_serde::encode::Error> {
    let mut bytes = rmp_serde::to_vec(value)?;
    let crc = checksum(key, &bytes);
    bytes.push(MARK);
    bytes.extend_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// Reads a row that [`pack`] wrote, or an older version without a checksum. Errors: it is damaged, or of another key.
pub fn unpack<T: DeserializeOwned>(key: impl RowKey, bytes: &[u8]) -> Result<T, RowDamaged> {
    let damaged = |what: String| RowDamaged { key: key.named(), what };
    if let Some((row, [MARK, crc @ ..])) = bytes.split_last_chunk::<TAIL>()
        && checksum(key, row).to_le_bytes() == *crc
    {
        return rmp_serde::from_slice(row).map_err(|error| damaged(error.to_string()));
    }
    // One without a checksum ends where its value does; of one that has it, a tail would be left.
    let mut rest = bytes;
    let value = T::deserialize(&mut rmp_serde::Deserializer::new(&mut rest)).map_err(|error| damaged(error.to_string()))?;
    match rest.len() {
        0 => Ok(value),
        left => Err(damaged(format!("its checksum is another, or {left} bytes are behind it"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (String, Vec<u64>, Option<String>);

    fn row() -> Row {
        ("a task".into(), vec![1, 300, u64::MAX], Some("ü".repeat(40)))
    }

    #[test]
    fn any_flipped_bit_or_cut_of_a_row_is_noticed_and_so_is_a_row_under_another_key() {
        let whole = pack(7_u128, &row()).unwrap();
        assert_eq!(unpack::<Row>(7_u128, &whole).unwrap(), row());
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(unpack::<Row>(7_u128, &bytes).is_err(), "bit {bit}");
        }
        for cut in 0..whole.len() {
            // Without all of its tail it is a row of a version that wrote none.
            let read = unpack::<Row>(7_u128, &whole[..cut]);
            assert!(read.is_err() || (cut == whole.len() - TAIL && read == Ok(row())), "cut at {cut}");
        }
        assert!(unpack::<Row>(8_u128, &whole).unwrap_err().to_string().contains("00000008"));
    }

    #[test]
    fn rows_of_versions_without_checksums_are_read_and_they_read_ours() {
        let older = rmp_serde::to_vec(&row()).unwrap();
        assert_eq!(unpack::<Row>("x", &older).unwrap(), row());
        assert_eq!(rmp_serde::from_slice::<Row>(&pack("x", &row()).unwrap()).unwrap(), row());
        // A value that looks as if a checksum were behind it.
        let bytes = serde_bytes::ByteBuf::from(vec![MARK; 9]);
        assert_eq!(unpack::<serde_bytes::ByteBuf>("x", &rmp_serde::to_vec(&bytes).unwrap()).unwrap(), bytes);
    }
}
