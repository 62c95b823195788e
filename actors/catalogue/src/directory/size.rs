//! Counts the bytes that declared things take, without writing them anywhere.

use std::io::Write;

use serde::Serialize;

/// A writer that counts.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Returns the bytes that a value takes as the ledger writes it; 0 for one that cannot be written at all.
pub fn of(value: &impl Serialize) -> u64 {
    let mut counter = Counter(0);
    rmp_serde::encode::write(&mut counter, value).map_or(0, |()| counter.0)
}
