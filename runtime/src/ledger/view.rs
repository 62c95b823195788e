//! Views: tables for queries, built by tailing the ledger; they may lag, and say by how much.
//!
//! All views of a node share one file and one cursor. A crash loses at most what the ledger can give again. A file of
//! another format, or one that is damaged, is made anew from the ledger.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use redb::{Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use tokio::sync::{oneshot, watch};

use super::{Cursor, Event, Ledger, ReadError};
use crate::clock::Deadline;

pub type ViewError = Box<dyn std::error::Error + Send + Sync>;

/// Builds some tables. Nothing else writes them.
pub trait View: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// Of its tables; another number makes all views anew.
    fn format(&self) -> u32;

    /// Makes its tables, so that reading them never fails for want of them.
    fn prepare(&self, txn: &WriteTransaction) -> Result<(), ViewError>;

    /// Copies all rows of its tables, for another node that cannot make them from the ledger any more. [`copy_table`] does it.
    fn copy(&self, from: &ReadTransaction, to: &WriteTransaction) -> Result<(), ViewError>;

    /// Takes in the events that follow. An error stops the views: say what is wrong with which event.
    fn apply(&self, txn: &WriteTransaction, events: &[Event]) -> Result<(), ViewError>;
}

/// Another node's views, for a node whose ledger no longer has the events that its own would be made from.
pub trait ViewSource: Send + Sync + 'static {
    /// Writes them to a file.
    fn fetch(&self, into: PathBuf) -> BoxFuture<'static, Result<(), ViewError>>;
}

/// Copies one table.
pub fn copy_table<K: redb::Key + 'static, V: redb::Value + 'static>(
    table: TableDefinition<'_, K, V>,
    from: &ReadTransaction,
    to: &WriteTransaction,
) -> Result<(), ViewError> {
    let (from, mut to) = (from.open_table(table)?, to.open_table(table)?);
    for row in from.iter()? {
        let (key, value) = row?;
        to.insert(key.value(), value.value())?;
    }
    Ok(())
}

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("views_meta");
const CURSOR: &str = "cursor";

/// Events taken in with one transaction.
const EVENTS_PER_COMMIT: usize = 8_192;
/// After so many events the file is synced: a crash makes at most these again.
const EVENTS_PER_SYNC: u64 = 100_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the views are at cursor {at}, not yet at {wanted}")]
pub struct Lagging {
    pub at: Cursor,
    pub wanted: Cursor,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Views {
    inner: Arc<Inner>,
}

struct Inner {
    db: Arc<ArcSwap<Database>>,
    views: Arc<[Box<dyn View>]>,
    source: Arc<OnceLock<Arc<dyn ViewSource>>>,
    ledger: Ledger,
    cursor: watch::Sender<Cursor>,
    failed: Arc<Mutex<Option<String>>>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    task: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Views {
    /// Opens the file, or makes it anew, and begins to follow the ledger.
    pub async fn start(ledger: &Ledger, path: &Path, views: Vec<Box<dyn View>>) -> Result<Self, ViewError> {
        let views: Arc<[Box<dyn View>]> = views.into();
        let (opening, kept, head) = (path.to_owned(), views.clone(), ledger.head());
        let (db, cursor) = tokio::task::spawn_blocking(move || open(&opening, &kept, head)).await??;
        let db = Arc::new(ArcSwap::from_pointee(db));
        let source: Arc<OnceLock<Arc<dyn ViewSource>>> = Arc::default();
        let (stop, stopped) = oneshot::channel();
        let inner = Arc::new(Inner {
            db: db.clone(),
            views: views.clone(),
            source: source.clone(),
            ledger: ledger.clone(),
            cursor: watch::Sender::new(cursor),
            failed: Arc::default(),
            stop: Mutex::new(Some(stop)),
            task: Mutex::new(None),
        });
        let (followed, failed) = (inner.cursor.clone(), inner.failed.clone());
        let follower = Follower { ledger: ledger.clone(), path: path.to_owned(), db, views, source, cursor: followed };
        let task = tokio::spawn(async move {
            tokio::select! {
                _ = stopped => {}
                error = follower.run() => {
                    tracing::error!(%error, "the views have stopped");
                    *failed.lock() = Some(error.to_string());
                }
            }
        });
        *inner.task.lock() = Some(task);
        Ok(Self { inner })
    }

    /// A consistent look at all tables.
    pub fn read(&self) -> Result<ReadTransaction, ViewError> {
        Ok(self.inner.db.load().begin_read()?)
    }

    /// Where to get views from if the ledger no longer has what they would be made from. A second call changes nothing.
    pub fn source(&self, source: Arc<dyn ViewSource>) {
        let _ = self.inner.source.set(source);
    }

    /// Writes a copy of everything, as of one moment, to a new file.
    pub async fn export(&self, into: PathBuf) -> Result<(), ViewError> {
        let (from, views) = (self.inner.db.load_full(), self.inner.views.clone());
        tokio::task::spawn_blocking(move || {
            let from = from.begin_read()?;
            let db = Database::builder().set_cache_size(32 << 20).create(&into)?;
            let txn = db.begin_write()?;
            copy_table(META, &from, &txn)?;
            for view in views.iter() {
                view.prepare(&txn)?;
                view.copy(&from, &txn)?;
            }
            txn.commit()?;
            Ok(())
        })
        .await?
    }

    pub fn cursor(&self) -> Cursor {
        *self.inner.cursor.borrow()
    }

    /// Events that the ledger has and the views have not.
    pub fn lag(&self) -> u64 {
        self.inner.ledger.head().0.saturating_sub(self.cursor().0)
    }

    /// Why the views have stopped, if they have.
    pub fn failure(&self) -> Option<String> {
        self.inner.failed.lock().clone()
    }

    pub async fn at_least(&self, cursor: Cursor, deadline: Deadline) -> Result<(), Lagging> {
        let mut at = self.inner.cursor.subscribe();
        match tokio::time::timeout_at(deadline.instant(), at.wait_for(|at| *at >= cursor)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Lagging { at: self.cursor(), wanted: cursor }),
        }
    }

    pub async fn stop(&self) {
        self.inner.stop.lock().take();
        let task = self.inner.task.lock().take();
        if let Some(task) = task
            && task.await.is_err()
        {
            tracing::warn!("the views did not stop in order");
        }
        // What was taken in since the last sync need not be taken in again.
        let db = self.inner.db.load_full();
        let synced = tokio::task::spawn_blocking(move || -> Result<(), redb::Error> { Ok(db.begin_write()?.commit()?) }).await;
        if !matches!(synced, Ok(Ok(()))) {
            tracing::warn!(?synced, "the views could not be synced; a start takes in again what was not");
        }
    }
}

fn open(path: &PathBuf, views: &[Box<dyn View>], head: Cursor) -> Result<(Database, Cursor), ViewError> {
    let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| open_as_is(path, views)));
    match opened {
        Ok(Ok(Some(found))) if found.1 <= head => return Ok(found),
        Ok(Ok(Some((_, at)))) => {
            tracing::warn!(path = %path.display(), %at, %head, "the views are ahead of the ledger, so of another one, and are made anew")
        }
        Ok(Ok(None)) => tracing::info!(path = %path.display(), "the views have another format and are made anew"),
        Ok(Err(error)) => tracing::warn!(path = %path.display(), %error, "the views cannot be read and are made anew"),
        Err(_) => tracing::warn!(path = %path.display(), "the views are damaged and are made anew"),
    }
    if path.exists() {
        std::fs::remove_file(path)?;
    }
    open_as_is(path, views)?.ok_or_else(|| "views that were just made have another format".into())
}

/// `None` if the tables have another format.
fn open_as_is(path: &PathBuf, views: &[Box<dyn View>]) -> Result<Option<(Database, Cursor)>, ViewError> {
    let db = Database::builder().set_cache_size(64 << 20).create(path)?;
    let txn = db.begin_write()?;
    let cursor;
    {
        let mut meta = txn.open_table(META)?;
        let fresh = meta.get(CURSOR)?.is_none();
        cursor = meta.get(CURSOR)?.map_or(0, |cursor| cursor.value());
        for view in views {
            let format = u64::from(view.format());
            let same = meta.get(view.name())?.map(|found| found.value() == format);
            match same {
                Some(true) => {}
                None if fresh => drop(meta.insert(view.name(), format)?),
                _ => return Ok(None),
            }
        }
        meta.insert(CURSOR, cursor)?;
    }
    for view in views {
        view.prepare(&txn)?;
    }
    txn.commit()?;
    Ok(Some((db, Cursor(cursor))))
}

/// How long views that cannot be made from the ledger wait to be told where to get them from.
const SOURCE_WITHIN: Duration = Duration::from_secs(30);
const SOURCE_RETRY: Duration = Duration::from_secs(1);

struct Follower {
    ledger: Ledger,
    path: PathBuf,
    db: Arc<ArcSwap<Database>>,
    views: Arc<[Box<dyn View>]>,
    source: Arc<OnceLock<Arc<dyn ViewSource>>>,
    cursor: watch::Sender<Cursor>,
}

impl Follower {
    async fn run(self) -> ViewError {
        let mut tail = self.ledger.tail(*self.cursor.borrow());
        let mut unsynced = 0;
        loop {
            let events = match tail.next().await {
                Ok(events) => events,
                Err(ReadError::Stopped) => std::future::pending().await,
                Err(ReadError::Compacted { oldest }) => match self.take_over(oldest).await {
                    Ok(cursor) => {
                        self.cursor.send_replace(cursor);
                        tail = self.ledger.tail(cursor);
                        continue;
                    }
                    Err(error) => return error,
                },
                Err(error) => return error.into(),
            };
            let Some(last) = events.last().map(|event| event.cursor) else { continue };
            unsynced += events.len() as u64;
            let sync = unsynced >= EVENTS_PER_SYNC;
            if sync {
                unsynced = 0;
            }
            let (into, with) = (self.db.load_full(), self.views.clone());
            match tokio::task::spawn_blocking(move || take_in(&into, &with, &events, sync)).await {
                Ok(Ok(())) => drop(self.cursor.send_replace(last)),
                Ok(Err(error)) => return error,
                Err(error) => return error.into(),
            }
        }
    }

    /// Replaces these views by another node's: the events in between are no longer kept.
    async fn take_over(&self, oldest: Cursor) -> Result<Cursor, ViewError> {
        let until = tokio::time::Instant::now() + SOURCE_WITHIN;
        let source = loop {
            match self.source.get() {
                Some(source) => break source.clone(),
                None if tokio::time::Instant::now() > until => return Err(ReadError::Compacted { oldest }.into()),
                None => tokio::time::sleep(SOURCE_RETRY / 10).await,
            }
        };
        let new = self.path.with_extension("incoming");
        loop {
            match self.replaced(&source, &new, oldest).await {
                Ok(cursor) => {
                    tracing::info!(%cursor, "the views were taken over from another node: the ledger begins after what they are made from");
                    return Ok(cursor);
                }
                Err(error) => tracing::warn!(%error, "the views of another node could not be taken over yet"),
            }
            tokio::time::sleep(SOURCE_RETRY).await;
        }
    }

    async fn replaced(&self, source: &Arc<dyn ViewSource>, new: &Path, oldest: Cursor) -> Result<Cursor, ViewError> {
        remove(new)?;
        source.fetch(new.to_owned()).await?;
        let (from, with) = (new.to_owned(), self.views.clone());
        let opened = tokio::task::spawn_blocking(move || open_as_is(&from, &with)).await??;
        let (db, cursor) = opened.ok_or("they have another format: bring both nodes to one version")?;
        if cursor < oldest {
            return Err(format!("they are at {cursor}, and the ledger begins after {oldest}").into());
        }
        std::fs::rename(new, &self.path)?;
        // Who reads now goes on with the old ones.
        self.db.store(Arc::new(db));
        Ok(cursor)
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn take_in(db: &Database, views: &[Box<dyn View>], events: &[Event], sync: bool) -> Result<(), ViewError> {
    for some in events.chunks(EVENTS_PER_COMMIT) {
        let mut txn = db.begin_write()?;
        txn.set_durability(if sync { Durability::Immediate } else { Durability::None })?;
        for view in views {
            view.apply(&txn, some).map_err(|error| format!("view {} at cursor {}: {error}", view.name(), some[0].cursor))?;
        }
        if let Some(last) = some.last() {
            txn.open_table(META)?.insert(CURSOR, last.cursor.0)?;
        }
        txn.commit()?;
    }
    Ok(())
}

/// How long a reader of its own writes waits by default.
pub const AT_LEAST_TIMEOUT: Duration = Duration::from_secs(10);
