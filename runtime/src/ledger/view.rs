//! Views: tables for queries, built by tailing the ledger; they may lag, and say by how much.
//!
//! All views of a node share one file and one cursor. A crash loses only what the ledger can give again. A new view catches up
//! from the oldest kept event; the others stay. A damaged file, or one of another format, is made anew from the ledger; if that
//! lacks events, the old one is kept beside it. An event that a view cannot take in is set aside for it alone, and named.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableHandle, WriteTransaction};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Cursor, Event, Ledger, ReadError,
    damage::{Damage, NOT_FOUND},
    holes::Holes,
    intake::Intake,
    open::guard,
    prune::{self, PRUNE_EVERY, Pruned},
    row::RowDamaged,
};
use crate::{
    clock::Deadline,
    file::{make_file, rename},
};

pub type ViewError = Box<dyn std::error::Error + Send + Sync>;

/// A view builds some tables. Nothing else writes them.
pub trait View: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// Returns the format of its tables. Another number makes all views anew, which a ledger that was compacted cannot do without
    /// another node: rather add a view.
    fn format(&self) -> u32;

    /// Makes its tables, so that reading them never fails for want of them.
    fn prepare(&self, txn: &WriteTransaction) -> Result<(), ViewError>;

    /// Copies all rows of its tables, for another node that cannot make them from the ledger any more. [`copy_table`] does it.
    fn copy(&self, from: &ReadTransaction, to: &WriteTransaction) -> Result<(), ViewError>;

    /// Looks whether the rows of its tables can be read, as far as the walk goes. [`TableWalk::table`] does it.
    fn check(&self, _txn: &ReadTransaction, _walk: &mut TableWalk) -> Result<(), ViewError> {
        Ok(())
    }

    /// Takes in the events that follow. An error that is not the file's sets the event aside for this view: say what is wrong
    /// with it. The same events may come again in smaller numbers, after all that was done with them was undone.
    fn apply(&self, txn: &WriteTransaction, events: &[Event]) -> Result<(), ViewError>;

    /// Removes what need not be kept any more, at most about `rows_max` rows; it is asked again after a while, or at once if
    /// there is more. An error undoes the turn. A view that keeps everything lets it be.
    fn prune(&self, _txn: &WriteTransaction, _rows_max: usize) -> Result<Pruned, ViewError> {
        Ok(Pruned::default())
    }
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

/// A look at the tables of views, table after table, that goes so far and tells where it went.
pub struct TableWalk {
    /// The table and key after which to begin; at the first table if absent.
    from: Option<(String, Vec<u8>)>,
    bytes_max: u64,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) damaged: Vec<Damage>,
    reached: Option<(String, Vec<u8>)>,
}

impl TableWalk {
    /// Looks at a table of which any value is right.
    pub fn keys<K: redb::Key + 'static, V: redb::Value + 'static>(
        &mut self,
        table: TableDefinition<'_, K, V>,
        txn: &ReadTransaction,
    ) -> Result<(), ViewError> {
        self.table(table, txn, |_, _| Ok::<(), std::convert::Infallible>(()))
    }

    /// Looks at the rows of one table, in their order. `check` decodes one.
    pub fn table<K: redb::Key + 'static, V: redb::Value + 'static, E: std::fmt::Display>(
        &mut self,
        table: TableDefinition<'_, K, V>,
        txn: &ReadTransaction,
        check: impl for<'a> Fn(K::SelfType<'a>, V::SelfType<'a>) -> Result<(), E>,
    ) -> Result<(), ViewError> {
        use std::ops::Bound::{Excluded, Unbounded};
        let name = table.name().to_owned();
        let after = match &self.from {
            Some((from, _)) if *from != name => return Ok(()),
            Some((_, after)) => Some(after.clone()),
            None => None,
        };
        if self.reached.is_some() {
            return Ok(());
        }
        // The tables that follow are looked at from their beginning.
        self.from = None;
        let table = txn.open_table(table)?;
        let mut before = after.clone();
        let begin = after.as_deref().map_or(Unbounded, |after| Excluded(K::from_bytes(after)));
        for row in table.range::<K::SelfType<'_>>((begin, Unbounded))? {
            let (key, value) = row?;
            let bytes = K::as_bytes(&key.value()).as_ref().to_vec();
            let shown = || hex(&bytes);
            if before.as_ref().is_some_and(|before| K::compare(before, &bytes).is_ge()) {
                self.damaged.push(Damage::new(&*name, shown(), "it stands at a wrong place"));
            } else if table.get(key.value())?.is_none() {
                self.damaged.push(Damage::new(&*name, shown(), NOT_FOUND));
            } else if let Err(error) = check(key.value(), value.value()) {
                self.damaged.push(Damage::new(&*name, shown(), error.to_string()));
            }
            self.rows += 1;
            self.bytes += (bytes.len() + V::as_bytes(&value.value()).as_ref().len()) as u64;
            if self.bytes >= self.bytes_max {
                self.reached = Some((name, bytes));
                return Ok(());
            }
            before = Some(bytes);
        }
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("views_meta");
pub(super) const CURSOR: &str = "cursor";
/// The prefix of the name of a view that is behind the others; its value is the last event that the view has taken in.
const BEHIND: &str = "behind/";

/// The prefix of the name of a table that there is.
const TABLE: &str = "table/";

/// The number of events taken in with one transaction.
const EVENTS_PER_COMMIT: usize = 8_192;
/// The prefix of the name of a view and a cursor: an event that it could not take in.
pub(super) const ASIDE: &str = "aside/";
/// The number of events after which the file is synced: a crash makes at most these again.
const EVENTS_PER_SYNC: u64 = 100_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the views are at cursor {at}, not yet at {wanted}")]
pub struct Lagging {
    pub at: Cursor,
    pub wanted: Cursor,
}

/// The views of a node. Cheap to clone.
#[derive(Clone)]
pub struct Views {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    db: Arc<ArcSwap<Database>>,
    views: Arc<[Box<dyn View>]>,
    source: Arc<OnceLock<Arc<dyn ViewSource>>>,
    ledger: Ledger,
    cursor: watch::Sender<Cursor>,
    failed: Arc<Mutex<Option<String>>>,
    aside: Arc<AtomicU64>,
    /// The queue of those who ask the follower to make the views again.
    again: mpsc::Sender<oneshot::Sender<bool>>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    task: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Views {
    /// Opens the file, or makes it anew, and begins to follow the ledger.
    pub async fn start(ledger: &Ledger, path: &Path, views: Vec<Box<dyn View>>) -> Result<Self, ViewError> {
        Self::start_pruned(ledger, path, views, PRUNE_EVERY).await
    }

    /// Starts as [`Views::start`] does; `prune_every` is the pause after which the views are asked again what may go.
    pub async fn start_pruned(
        ledger: &Ledger,
        path: &Path,
        views: Vec<Box<dyn View>>,
        prune_every: Duration,
    ) -> Result<Self, ViewError> {
        let views: Arc<[Box<dyn View>]> = views.into();
        let (opening, kept, head, oldest) = (path.to_owned(), views.clone(), ledger.may_reach(), ledger.status().oldest);
        let opened = tokio::task::spawn_blocking(move || open(&opening, &kept, head, oldest)).await??;
        let (cursor, at) = (opened.least(), opened.at);
        let db = Arc::new(ArcSwap::from_pointee(opened.db));
        let source: Arc<OnceLock<Arc<dyn ViewSource>>> = Arc::default();
        let (stop, stopped) = oneshot::channel();
        let (again, wanted) = mpsc::channel(1);
        let inner = Arc::new(Inner {
            again,
            path: path.to_owned(),
            db: db.clone(),
            views: views.clone(),
            source: source.clone(),
            ledger: ledger.clone(),
            cursor: watch::Sender::new(cursor),
            failed: Arc::default(),
            aside: Arc::new(AtomicU64::new(opened.aside)),
            stop: Mutex::new(Some(stop)),
            task: Mutex::new(None),
        });
        let (followed, failed) = (inner.cursor.clone(), inner.failed.clone());
        let (behind, aside) = (opened.behind, inner.aside.clone());
        let follower = Follower {
            ledger: ledger.clone(),
            path: path.to_owned(),
            db,
            views,
            source,
            cursor: followed,
            at,
            behind,
            aside,
            prune_every,
            wanted,
        };
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

    /// Begins a consistent look at all tables.
    pub fn read(&self) -> Result<ReadTransaction, ViewError> {
        Ok(self.inner.db.load().begin_read()?)
    }

    /// Sets where to get views from if the ledger no longer has what they would be made from. A second call changes nothing.
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
            // Which there are is noted by who opens it; here there may have been more.
            txn.open_table(META)?.retain_in(TABLE.."table0", |_, _| false)?;
            for view in views.iter() {
                view.prepare(&txn)?;
                view.copy(&from, &txn)?;
            }
            txn.commit()?;
            Ok(())
        })
        .await?
    }

    /// Returns the last event that all views have taken in.
    pub fn cursor(&self) -> Cursor {
        *self.inner.cursor.borrow()
    }

    /// Returns how many events the ledger has and the views have not.
    pub fn lag(&self) -> u64 {
        self.inner.ledger.head().0.saturating_sub(self.cursor().0)
    }

    /// Returns why the views have stopped, if they have.
    pub fn failure(&self) -> Option<String> {
        self.inner.failed.lock().clone()
    }

    /// Looks at about so many bytes of rows after a place; gives what was found, and the place of the next look.
    pub(super) fn check_step(&self, from: Option<(String, Vec<u8>)>, bytes_max: u64) -> (TableWalk, Option<(String, Vec<u8>)>) {
        let mut walk = TableWalk { from, bytes_max, rows: 0, bytes: 0, damaged: Vec::new(), reached: None };
        let db = self.inner.db.load_full();
        let walked = guard(|| -> Result<(), ViewError> {
            let txn = db.begin_read()?;
            self.inner.views.iter().try_for_each(|view| view.check(&txn, &mut walk))
        });
        let what = match walked {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panic) => Some(panic),
        };
        if let Some(what) = what {
            walk.damaged.push(Damage::new("views", "tree", what));
        }
        let reached = walk.reached.take();
        (walk, reached)
    }

    /// Notes how many bytes all rows in the file have together, as the scrubber found it.
    pub(super) fn holds(&self, live_bytes: u64) {
        match Holes::default().note(&self.inner.path, live_bytes) {
            Ok(false) => {}
            Ok(true) => tracing::info!(live_bytes, "the views' file is mostly holes; the next start makes it smaller"),
            Err(error) => tracing::warn!(%error, "it cannot be noted that the views' file is mostly holes"),
        }
    }

    /// Makes damaged views again while what is whole is served; blocks until that is done. False if there is no source.
    pub(super) fn make_again(&self) -> bool {
        let (made, done) = oneshot::channel();
        if self.inner.again.blocking_send(made).is_err() {
            return false;
        }
        done.blocking_recv().unwrap_or(false)
    }

    /// Returns how many events some view could not take in: what is shown lacks them.
    pub fn set_aside(&self) -> u64 {
        self.inner.aside.load(Ordering::Relaxed)
    }

    /// Waits until the views have taken in `cursor`. Errors: `Lagging` if they have not by `deadline`.
    pub async fn at_least(&self, cursor: Cursor, deadline: Deadline) -> Result<(), Lagging> {
        let mut at = self.inner.cursor.subscribe();
        match tokio::time::timeout_at(deadline.instant(), at.wait_for(|at| *at >= cursor)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Lagging { at: self.cursor(), wanted: cursor }),
        }
    }

    /// Stops following the ledger, syncs the file and releases it. A second call does no harm.
    pub async fn stop(&self) {
        self.inner.stop.lock().take();
        let task = self.inner.task.lock().take();
        if let Some(task) = task
            && task.await.is_err()
        {
            tracing::warn!("the views did not stop in order");
        }
        let db = self.inner.db.clone();
        let closed = tokio::task::spawn_blocking(move || -> Result<(), redb::Error> {
            // What was taken in since the last sync need not be taken in again.
            let mut txn = db.load().begin_write()?;
            txn.set_quick_repair(true);
            txn.commit()?;
            // The file is closed once nobody reads it any more, whoever still holds these views: the next start finds it free.
            let nothing = Database::builder().create_with_backend(redb::backends::InMemoryBackend::new())?;
            drop(db.swap(Arc::new(nothing)));
            Ok(())
        });
        let closed = closed.await;
        if !matches!(closed, Ok(Ok(()))) {
            tracing::warn!(?closed, "the views could not be synced; a start takes in again what was not");
        }
    }
}

struct Opened {
    db: Database,
    /// The last event that all but those behind have taken in.
    at: Cursor,
    /// The views that are behind, by their place among the views.
    behind: BTreeMap<usize, Cursor>,
    /// The number of events that some view could not take in.
    aside: u64,
}

impl Opened {
    fn least(&self) -> Cursor {
        self.behind.values().copied().fold(self.at, Cursor::min)
    }
}

fn open(path: &PathBuf, views: &[Box<dyn View>], head: Cursor, oldest: Cursor) -> Result<Opened, ViewError> {
    let began = std::time::Instant::now();
    let opened = loop {
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| open_as_is(path, views)));
        match opened {
            // Who had it before has not let go of it yet: what it holds is not to be removed.
            Ok(Err(error)) if matches!(error.downcast_ref(), Some(redb::DatabaseError::DatabaseAlreadyOpen)) => {
                if began.elapsed() > IN_USE_MAX {
                    return Err(format!("{} is in use by another", path.display()).into());
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => break opened,
        }
    };
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
        rename(path, &kept)?;
    } else if path.exists() {
        std::fs::remove_file(path)?;
    }
    open_as_is(path, views)?.ok_or_else(|| "views that were just made have another format".into())
}

/// The time for which views that are in use by a node that is stopping are waited for.
const IN_USE_MAX: Duration = Duration::from_secs(10);

fn tables_of(txn: &WriteTransaction) -> Result<BTreeSet<String>, ViewError> {
    Ok(txn.list_tables()?.map(|table| table.name().to_owned()).collect())
}

/// Opens the file as it is; `None` if the tables have another format.
fn open_as_is(path: &Path, views: &[Box<dyn View>]) -> Result<Option<Opened>, ViewError> {
    let mut db = Database::builder().set_cache_size(64 << 20).create_file(make_file(path)?)?;
    Holes::default().close_up(path, &mut db);
    let mut txn = db.begin_write()?;
    // Each commit that is synced, so that no start looks through the whole file.
    txn.set_quick_repair(true);
    let (mut behind, mut new) = (BTreeMap::new(), Vec::new());
    let (cursor, aside);
    let before = tables_of(&txn)?;
    {
        let mut meta = txn.open_table(META)?;
        let fresh = meta.get(CURSOR)?.is_none();
        // Where names are damaged, tables are made anew beside those that are there, and rows that were told would be gone.
        if fresh && !before.is_empty() {
            return Err("it has tables, and nothing says how far they are".into());
        }
        for row in meta.range(TABLE.."table0")? {
            let (name, _) = row?;
            if let Some(name) = name.value().strip_prefix(TABLE)
                && !before.contains(name)
            {
                return Err(format!("its table {name} is missing").into());
            }
        }
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
                        new.push(place);
                    }
                }
            }
            if let Some(at) = meta.get(&*key)? {
                behind.insert(place, Cursor(at.value()));
            }
        }
        meta.insert(CURSOR, cursor)?;
        // `0` comes after `/`.
        aside = meta.range(ASIDE.."aside0")?.count() as u64;
    }
    for (place, view) in views.iter().enumerate() {
        let count = txn.list_tables()?.count();
        view.prepare(&txn)?;
        if new.contains(&place) && txn.list_tables()?.count() == count {
            return Err(format!("the tables of {} are there, and nothing says how far they are", view.name()).into());
        }
    }
    {
        let mut meta = txn.open_table(META)?;
        for name in tables_of(&txn)? {
            meta.insert(&*format!("{TABLE}{name}"), 0)?;
        }
    }
    txn.commit()?;
    Ok(Some(Opened { db, at: Cursor(cursor), behind, aside }))
}

pub(super) fn behind_key(view: &dyn View) -> String {
    format!("{BEHIND}{}", view.name())
}

/// The time for which views that cannot be made from the ledger wait to be told where to get them from.
const SOURCE_WITHIN: Duration = Duration::from_secs(30);
const SOURCE_RETRY: Duration = Duration::from_secs(1);

struct Follower {
    ledger: Ledger,
    path: PathBuf,
    db: Arc<ArcSwap<Database>>,
    views: Arc<[Box<dyn View>]>,
    source: Arc<OnceLock<Arc<dyn ViewSource>>>,
    /// The last event that every view has taken in.
    cursor: watch::Sender<Cursor>,
    at: Cursor,
    behind: BTreeMap<usize, Cursor>,
    aside: Arc<AtomicU64>,
    prune_every: Duration,
    /// The queue of those who want the views made again, and wait for whether they are.
    wanted: mpsc::Receiver<oneshot::Sender<bool>>,
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
                // It was read while events were taken in.
                _ if ended.is::<RowDamaged>() => {
                    tracing::error!(error = %ended, "the views are damaged and are made again");
                    match self.made_again().await {
                        Ok(()) => continue,
                        Err(error) => {
                            let hint = "start a node that has them whole, or remove views.redb and start this node again";
                            return format!("{ended}; they cannot be made again: {error}; {hint}").into();
                        }
                    }
                }
                _ => return ended,
            };
            if let Err(error) = self.take_over(oldest).await {
                return error;
            }
        }
    }

    /// Lets new views take in what the others have, as far as it is kept; until then nobody hears that the views are there.
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
                let aside = self.aside.clone();
                tokio::task::spawn_blocking(move || {
                    let into = Intake { db: &db, views: &views[place..=place], late: true, sync: true, aside: &aside };
                    into.take_in(&events)
                })
                .await??;
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

    /// Follows the ledger until something is wrong, and returns that.
    async fn follow(&mut self) -> ViewError {
        let mut tail = self.ledger.tail(self.at);
        let mut unsynced = 0;
        let mut pruning = tokio::time::interval(self.prune_every.max(Duration::from_millis(1)));
        pruning.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let events = tokio::select! {
                // Dropping this loses nothing.
                events = tail.next() => match events {
                    Ok(events) => events,
                    Err(error) => return error.into(),
                },
                _ = pruning.tick() => {
                    let (db, views) = (self.db.load_full(), self.views.clone());
                    match tokio::task::spawn_blocking(move || prune::turn(&db, &views)).await {
                        Ok(Ok(true)) => pruning.reset_immediately(),
                        Ok(Ok(false)) => {}
                        Ok(Err(error)) => return error,
                        Err(error) => return error.into(),
                    }
                    continue;
                }
                Some(made) = self.wanted.recv() => {
                    let again = self.made_again().await;
                    if let Err(error) = &again {
                        tracing::error!(%error, "damaged views cannot be made again; what is whole of them is served");
                    } else {
                        tail = self.ledger.tail(self.at);
                    }
                    // Who asked may be gone.
                    let _ = made.send(again.is_ok());
                    continue;
                }
            };
            let Some(last) = events.last().map(|event| event.cursor) else { continue };
            unsynced += events.len() as u64;
            let sync = unsynced >= EVENTS_PER_SYNC;
            if sync {
                unsynced = 0;
            }
            let (into, with) = (self.db.load_full(), self.views.clone());
            let aside = self.aside.clone();
            let taken_in = tokio::task::spawn_blocking(move || {
                let into = Intake { db: &into, views: &with, late: false, sync, aside: &aside };
                events.chunks(EVENTS_PER_COMMIT).try_for_each(|some| into.take_in(some))
            });
            match taken_in.await {
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

    /// Makes the views again beside these, from the ledger if it has all events, else from another node, and then takes those.
    async fn made_again(&mut self) -> Result<(), ViewError> {
        let new = self.path.with_extension("incoming");
        let oldest = self.ledger.status().oldest;
        if oldest > Cursor(0) {
            let source = self
                .source
                .get()
                .cloned()
                .ok_or("the ledger begins after what they are made from, and there is no other node")?;
            self.replaced(&source, &new, oldest).await?;
        } else {
            remove(&new)?;
            let (at, with, aside) = (new.clone(), self.views.clone(), AtomicU64::new(0));
            let ledger = self.ledger.clone();
            let made = move || -> Result<Opened, ViewError> {
                let mut opened = open_as_is(&at, &with)?.ok_or("views that were just made have another format")?;
                loop {
                    let events = ledger.read(opened.at, EVENTS_PER_COMMIT)?;
                    let Some(last) = events.last().map(|event| event.cursor) else { break };
                    Intake { db: &opened.db, views: &with, late: false, sync: true, aside: &aside }.take_in(&events)?;
                    opened.at = last;
                }
                opened.aside = aside.load(Ordering::Relaxed);
                Ok(opened)
            };
            let opened = tokio::task::spawn_blocking(made).await??;
            self.take(opened, &new)?;
        }
        tracing::warn!(at = %self.at, "the views were made again");
        Ok(())
    }

    fn take(&mut self, opened: Opened, new: &Path) -> Result<(), ViewError> {
        rename(new, &self.path)?;
        // Who reads now goes on with the old ones.
        self.db.store(Arc::new(opened.db));
        (self.at, self.behind) = (opened.at, opened.behind);
        self.aside.store(opened.aside, Ordering::Relaxed);
        self.tell();
        Ok(())
    }

    async fn replaced(&mut self, source: &Arc<dyn ViewSource>, new: &Path, oldest: Cursor) -> Result<(), ViewError> {
        remove(new)?;
        source.fetch(new.to_owned()).await?;
        let (from, with) = (new.to_owned(), self.views.clone());
        let opened = tokio::task::spawn_blocking(move || open_as_is(&from, &with)).await??;
        let opened = opened.ok_or("they have another format: bring both nodes to one version")?;
        if opened.at < oldest {
            return Err(format!("they are at {}, and the ledger begins after {oldest}", opened.at).into());
        }
        self.take(opened, new)
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn caught_up(db: &Database, view: &dyn View) -> Result<(), ViewError> {
    let mut txn = db.begin_write()?;
    txn.set_quick_repair(true);
    txn.open_table(META)?.remove(&*behind_key(view))?;
    Ok(txn.commit()?)
}

/// The time for which a reader of its own writes waits by default.
pub const AT_LEAST_TIMEOUT: Duration = Duration::from_secs(10);
