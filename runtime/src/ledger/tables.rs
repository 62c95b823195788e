//! The tables of the ledger's file, and how what is wrong with them is named.

use redb::{ReadableDatabase, TableDefinition, WriteTransaction};

use super::{ReadError, record::unframe};

/// Index → a Raft entry.
pub const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("raft_log");
pub const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Cursor of an entry's first event → its accepted appends.
pub const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
/// Stream → its head.
pub const STREAMS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("streams");
/// (stream, version before its first append) → a full chunk of positions.
pub const CHUNKS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("stream_positions");
/// Stream → its newest snapshot.
pub const SNAPSHOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("stream_snapshots");

pub const META_VOTE: &str = "vote";
pub const META_PURGED: &str = "purged";
pub const META_MACHINE: &str = "machine";

pub fn storage(error: impl std::fmt::Display) -> ReadError {
    ReadError::Storage(error.to_string())
}

pub fn corrupt(table: &'static str, position: impl Into<String>, what: impl Into<String>) -> ReadError {
    ReadError::Corrupt { table, position: position.into(), what: what.into() }
}

pub fn create(txn: &WriteTransaction) -> Result<(), redb::TableError> {
    txn.open_table(LOG)?;
    txn.open_table(META)?;
    txn.open_table(EVENTS)?;
    txn.open_table(STREAMS)?;
    txn.open_table(CHUNKS)?;
    txn.open_table(SNAPSHOTS)?;
    Ok(())
}

pub fn meta<T: serde::de::DeserializeOwned>(db: &impl ReadableDatabase, key: &'static str) -> Result<Option<T>, ReadError> {
    let txn = db.begin_read().map_err(storage)?;
    let table = txn.open_table(META).map_err(storage)?;
    let Some(row) = table.get(key).map_err(storage)? else { return Ok(None) };
    unframe(row.value()).map(Some).map_err(|what| corrupt("meta", key, what))
}
