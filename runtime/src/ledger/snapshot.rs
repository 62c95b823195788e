//! The state of the whole ledger as another node takes it over: everything but the Raft log.
//!
//! The tables are the snapshot; its rows are gathered only when a node asks. Each row keeps its own checksum.

use std::sync::Arc;

use redb::{ReadableDatabase, ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::{
    ReadError,
    machine::{Meta, decode_head},
    record::{Events, body, frame},
    tables::{CHUNKS, EVENTS, META, META_MACHINE, SNAPSHOTS, STREAMS, corrupt, meta, storage},
    writer::Disk,
};

type Rows<K> = Vec<(K, Vec<u8>)>;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Image {
    pub meta: Meta,
    events: Rows<u64>,
    streams: Rows<String>,
    chunks: Rows<(String, u64)>,
    snapshots: Rows<String>,
}

impl Image {
    /// Without the rows.
    pub fn only(meta: Meta) -> Self {
        Self { meta, ..Self::default() }
    }

    /// What the tables hold; the writer must have flushed all heads before.
    pub fn of(disk: &Arc<Disk>) -> Result<Self, ReadError> {
        let mut image = Self { meta: meta(&disk.db, META_MACHINE)?.unwrap_or_default(), ..Self::default() };
        let txn = disk.db.begin_read().map_err(storage)?;
        for row in txn.open_table(EVENTS).map_err(storage)?.iter().map_err(storage)? {
            let (key, value) = row.map_err(storage)?;
            image.events.push((key.value(), value.value().to_vec()));
        }
        for (table, rows) in [(STREAMS, &mut image.streams), (SNAPSHOTS, &mut image.snapshots)] {
            for row in txn.open_table(table).map_err(storage)?.iter().map_err(storage)? {
                let (key, value) = row.map_err(storage)?;
                rows.push((key.value().to_owned(), value.value().to_vec()));
            }
        }
        for row in txn.open_table(CHUNKS).map_err(storage)?.iter().map_err(storage)? {
            let (key, value) = row.map_err(storage)?;
            let (stream, after) = key.value();
            image.chunks.push(((stream.to_owned(), after), value.value().to_vec()));
        }
        Ok(image)
    }

    /// Checks every row.
    pub fn check(&self) -> Result<(), ReadError> {
        for (key, value) in &self.events {
            Events::read(*key, value).map_err(|what| corrupt("events", format!("cursor {key}"), what))?;
        }
        for (stream, value) in &self.streams {
            decode_head(stream, value)?;
        }
        for ((stream, after), value) in &self.chunks {
            body(value).map_err(|what| corrupt("stream_positions", format!("{stream} after version {after}"), what))?;
        }
        for (stream, value) in &self.snapshots {
            body(value).map_err(|what| corrupt("stream_snapshots", stream, what))?;
        }
        Ok(())
    }

    /// Replaces what the tables hold.
    pub fn write(&self, txn: &WriteTransaction) -> Result<(), Box<dyn std::error::Error>> {
        let mut events = txn.open_table(EVENTS)?;
        events.retain(|_, _| false)?;
        for (key, value) in &self.events {
            events.insert(key, value.as_slice())?;
        }
        for (table, rows) in [(STREAMS, &self.streams), (SNAPSHOTS, &self.snapshots)] {
            let mut table = txn.open_table(table)?;
            table.retain(|_, _| false)?;
            for (key, value) in rows {
                table.insert(key.as_str(), value.as_slice())?;
            }
        }
        let mut chunks = txn.open_table(CHUNKS)?;
        chunks.retain(|_, _| false)?;
        for ((stream, after), value) in &self.chunks {
            chunks.insert((stream.as_str(), *after), value.as_slice())?;
        }
        txn.open_table(META)?.insert(META_MACHINE, frame(&self.meta)?.as_slice())?;
        Ok(())
    }
}
