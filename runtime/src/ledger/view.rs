//! Views: tables for queries, built by tailing the ledger; they may lag, and say by how much.
//!
//! All views of a node share one file and one cursor. A crash loses at most what the ledger can give again. A view that is
//! new catches up from the oldest event that is kept, and the others stay as they are. A file of another format, or one
//! that is damaged, is made anew from the ledger; if the ledger no longer has all events, the old file is kept beside it.

use std::{
    collections::BTreeMap,
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

    /// Of its tables; another number makes all views anew, which a ledger that was compacted cannot do without another node:
    /// rather add a view.
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
/// Before the name of a view that is behind the others: the last event that it has taken in.
const BEHIND: &str = "behind/";

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
        let (opening, kept, head, oldest) = (path.to_owned(), views.clone(), ledger.head(), ledger.status().oldest);
        let opened = tokio::task::spawn_blocking(move || open(&opening, &kept, head, oldest)).await??;
        let (cursor, at) = (opened.least(), opened.at);
        let db = Arc::new(ArcSwap::from_pointee(opened.db));
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
        let behind = opened.behind;
        let follower =
            Follower { ledger: ledger.clone(), path: path.to_owned(), db, views, source, cursor: followed, at, behind };
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

struct Opened {
    db: Database,
    /// What all but those behind have taken in.
    at: Cursor,
    /// By their place among the views.
    behind: BTreeMap<usize, Cursor>,
}

impl Opened {
    fn least(&self) -> Cursor {
        self.behind.values().copied().fold(self.at, Cursor::min)
    }
}

fn open(path: &PathBuf, views: &[Box<dyn View>], head: Cursor, oldest: Cursor) -> Result<Opened, ViewError> {
    let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| open_as_is(path, views)));
    let shown = path.display();
    match opened {
        Ok(Ok(Some(found))) if found.at <= head => return Ok(found),
        Ok(Ok(Some(Opened { at, .. }))) => {
            tracing::warn!(path = %shown, %at, %head, "the views are ahead of the ledger, so of another one, and are made anew")
        }
        Ok(Ok(None)) => tracing::info!(path = %shown, "the views have another format and are made anew"),
        Ok(Err(error)) => tracing::warn!(path = %shown, %error, "the views cannot be read and are made anew"),
        Err(_) => tracing::warn!(path = %shown, "the views are damaged and are made anew"),
    }
    if path.exists() && oldest > Cursor(0) {
        let kept = path.with_extension("replaced");
        tracing::warn!(path = %shown, kept = %kept.display(), %oldest, "the ledger no longer has all that the views are made from: they come from another node; the old ones are kept");
        std::fs::rename(path, kept)?;
    } else if path.exists() {
        std::fs::remove_file(path)?;
    }
    open_as_is(path, views)?.ok_or_else(|| "views that were just made have another format".into())
}

/// `None` if the tables have another format.
fn open_as_is(path: &PathBuf, views: &[Box<dyn View>]) -> Result<Option<Opened>, ViewError> {
    let db = Database::builder().set_cache_size(64 << 20).create(path)?;
    let txn = db.begin_write()?;
    let mut behind = BTreeMap::new();
    let cursor;
    {
        let mut meta = txn.open_table(META)?;
        let fresh = meta.get(CURSOR)?.is_none();
        cursor = meta.get(CURSOR)?.map_or(0, |cursor| cursor.value());
        for (place, view) in views.iter().enumerate() {
            let format = u64::from(view.format());
            let same = meta.get(view.name())?.map(|found| found.value() == format);
            let key = behind_key(&**view);
            match same {
                Some(true) => {}
                Some(false) => return Ok(None),
                None => {
                    meta.insert(view.name(), format)?;
                    if !fresh && cursor > 0 {
                        meta.insert(&*key, 0)?;
                    }
                }
            }
            if let Some(at) = meta.get(&*key)? {
                behind.insert(place, Cursor(at.value()));
            }
        }
        meta.insert(CURSOR, cursor)?;
    }
    for view in views {
        view.prepare(&txn)?;
    }
    txn.commit()?;
    Ok(Some(Opened { db, at: Cursor(cursor), behind }))
}

fn behind_key(view: &dyn View) -> String {
    format!("{BEHIND}{}", view.name())
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
    /// What every view has taken in.
    cursor: watch::Sender<Cursor>,
    at: Cursor,
    behind: BTreeMap<usize, Cursor>,
}

impl Follower {
    async fn run(mut self) -> ViewError {
        loop {
            let ended = match self.catch_up().await {
                Ok(()) => self.follow().await,
                Err(error) => error,
            };
            let oldest = match ended.downcast_ref() {
                Some(ReadError::Stopped) => std::future::pending().await,
                Some(ReadError::Compacted { oldest }) => *oldest,
                _ => return ended,
            };
            if let Err(error) = self.take_over(oldest).await {
                return error;
            }
        }
    }

    /// Views that are new take in what the others have, as far as the ledger still has it. Until then nobody is told that
    /// the views are where the others are.
    async fn catch_up(&mut self) -> Result<(), ViewError> {
        while let Some((&place, &from)) = self.behind.first_key_value() {
            let name = self.views[place].name();
            tracing::info!(view = name, %from, to = %self.at, "a view is new here and catches up");
            let (mut from, to) = (from, self.at);
            while from < to {
                let events = match self.ledger.read(from, EVENTS_PER_COMMIT) {
                    Err(ReadError::Compacted { oldest }) if oldest < to => {
                        tracing::info!(view = name, %oldest, "it begins after what the ledger no longer has");
                        from = oldest;
                        continue;
                    }
                    Err(ReadError::Compacted { .. }) => break,
                    read => read?,
                };
                let events: Vec<_> = events.into_iter().take_while(|event| event.cursor <= to).collect();
                let Some(last) = events.last().map(|event| event.cursor) else { break };
                let (db, views) = (self.db.load_full(), self.views.clone());
                tokio::task::spawn_blocking(move || take_in_late(&db, &*views[place], &events)).await??;
                self.behind.insert(place, last);
                self.tell();
                from = last;
            }
            let (db, views) = (self.db.load_full(), self.views.clone());
            tokio::task::spawn_blocking(move || caught_up(&db, &*views[place])).await??;
            self.behind.remove(&place);
            self.tell();
        }
        Ok(())
    }

    fn tell(&self) {
        self.cursor.send_replace(self.behind.values().copied().fold(self.at, Cursor::min));
    }

    /// Until something is wrong.
    async fn follow(&mut self) -> ViewError {
        let mut tail = self.ledger.tail(self.at);
        let mut unsynced = 0;
        loop {
            let events = match tail.next().await {
                Ok(events) => events,
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
                Ok(Ok(())) => {
                    self.at = last;
                    self.tell();
                }
                Ok(Err(error)) => return error,
                Err(error) => return error.into(),
            }
        }
    }

    /// Replaces these views by another node's: the events in between are no longer kept.
    async fn take_over(&mut self, oldest: Cursor) -> Result<(), ViewError> {
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
                Ok(()) => {
                    tracing::info!(at = %self.at, "the views were taken over from another node: the ledger begins after what they are made from");
                    return Ok(());
                }
                Err(error) => tracing::warn!(%error, "the views of another node could not be taken over yet"),
            }
            tokio::time::sleep(SOURCE_RETRY).await;
        }
    }

    async fn replaced(&mut self, source: &Arc<dyn ViewSource>, new: &Path, oldest: Cursor) -> Result<(), ViewError> {
        remove(new)?;
        source.fetch(new.to_owned()).await?;
        let (from, with) = (new.to_owned(), self.views.clone());
        let opened = tokio::task::spawn_blocking(move || open_as_is(&from, &with)).await??;
        let Opened { db, at, behind } = opened.ok_or("they have another format: bring both nodes to one version")?;
        if at < oldest {
            return Err(format!("they are at {at}, and the ledger begins after {oldest}").into());
        }
        std::fs::rename(new, &self.path)?;
        // Who reads now goes on with the old ones.
        self.db.store(Arc::new(db));
        (self.at, self.behind) = (at, behind);
        self.tell();
        Ok(())
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

/// One view takes in what the others have.
fn take_in_late(db: &Database, view: &dyn View, events: &[Event]) -> Result<(), ViewError> {
    let txn = db.begin_write()?;
    view.apply(&txn, events).map_err(|error| format!("view {} up to cursor {:?}: {error}", view.name(), last(events)))?;
    if let Some(last) = last(events) {
        txn.open_table(META)?.insert(&*behind_key(view), last.0)?;
    }
    Ok(txn.commit()?)
}

fn last(events: &[Event]) -> Option<Cursor> {
    events.last().map(|event| event.cursor)
}

fn caught_up(db: &Database, view: &dyn View) -> Result<(), ViewError> {
    let txn = db.begin_write()?;
    txn.open_table(META)?.remove(&*behind_key(view))?;
    Ok(txn.commit()?)
}

/// How long a reader of its own writes waits by default.
pub const AT_LEAST_TIMEOUT: Duration = Duration::from_secs(10);
