//! The tables of the ledger's file, and the names for what is wrong with them.

use redb::{ReadableDatabase, TableDefinition, WriteTransaction};

use super::{ReadError, record::unframe};

/// The Raft entries, by index.
pub const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("raft_log");
pub const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// The accepted appends of each entry, by the cursor of its first event.
pub const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
/// The heads, by stream.
pub const STREAMS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("streams");
/// The full chunks of positions, by stream and the version before the first append.
pub const CHUNKS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("stream_positions");
/// The newest snapshots, by stream.
pub const SNAPSHOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("stream_snapshots");

pub const META_VOTE: &str = "vote";
pub const META_PURGED: &str = "purged";
pub const META_MACHINE: &str = "machine";

/// Makes the error of a store that failed.
pub fn storage(error: impl std::fmt::Display) -> ReadError {
    ReadError::Storage(error.to_string())
}

/// Makes the error of a damaged value at a place of a table.
pub fn corrupt(table: &'static str, position: impl Into<String>, what: impl Into<String>) -> ReadError {
    ReadError::Corrupt { table, position: position.into(), what: what.into() }
}

/// Makes all tables that are not there yet.
pub fn create(txn: &WriteTransaction) -> Result<(), redb::TableError> {
    txn.open_table(LOG)?;
    txn.open_table(META)?;
    txn.open_table(EVENTS)?;
    txn.open_table(STREAMS)?;
    txn.open_table(CHUNKS)?;
    txn.open_table(SNAPSHOTS)?;
    Ok(())
}

/// Reads a record of the meta table; `None` if it is not there. Errors: `Corrupt` if it is damaged.
pub fn meta<T: serde::de::DeserializeOwned>(db: &impl ReadableDatabase, key: &'static str) -> Result<Option<T>, ReadError> {
    let txn = db.begin_read().map_err(storage)?;
    let table = txn.open_table(META).map_err(storage)?;
    let Some(row) = table.get(key).map_err(storage)? else { return Ok(None) };
    unframe(row.value()).map(Some).map_err(|what| corrupt("meta", key, what))
}
