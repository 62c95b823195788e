//! The scrub of every value of the ledger and every row of the views, to find damage while another node has what was there.
//!
//! It works in steps: each reads about a megabyte under a read transaction of its own, so that none is held for long and the
//! files can reuse room. It keeps only what it found, and begins again after a restart. It never touches what is whole. Events
//! that are damaged here are taken from another node, where one has them; damaged views are made again. The rest is named.

use std::{io, time::Duration};

pub use super::damage::{Damage, Damages};

use openraft::{LogId, Vote};
use redb::{ReadTransaction, ReadableDatabase};

use super::{
    Ledger, ReadError,
    damage::{LISTED_MAX, NOT_FOUND, checked},
    head::HeadRow,
    machine::{Meta, decode_head},
    open::{decode_chunk, guard},
    pieces::row_of,
    record::{read_entry, unframe},
    tables::{CHUNKS, EVENTS, LOG, META_MACHINE, META_PURGED, META_VOTE, SNAPSHOTS, STREAMS, corrupt, meta, storage},
    view::Views,
};
use crate::{
    clock::Deadline,
    rounds::{Pace, Rounds},
};

/// The most bytes of the ledger and the views that are read in a second: 50 GB take less than two hours.
pub const BYTES_PER_SECOND: u64 = 8 << 20;
/// The time from the end of one round to the beginning of the next.
const REST: Duration = Duration::from_secs(3600);
/// The time from the start of a node to its first round.
const FIRST_REST: Duration = Duration::from_secs(90);
/// The bytes that one step reads under one read transaction, about.
const STEP_BYTES: u64 = 1 << 20;
/// The time that other nodes may take to give what is damaged here.
const MEND_WITHIN: Duration = Duration::from_secs(10);

/// The findings of a scrub, and what it did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowsScrubbed {
    pub rows: u64,
    pub bytes: u64,
    pub damaged: u64,
    /// The number of those that are whole again, from another node or made again.
    pub repaired: u64,
    /// The first hundred of those that are not.
    pub lost: Vec<Damage>,
    /// The place to go on from, unless all was looked at.
    pub next: Option<RowPlace>,
}

/// A place in the order of rows; what stands before it was looked at. Its text is what a person is given to go on with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RowPlace {
    #[default]
    Log,
    /// The log, from this index on.
    LogFrom(u64),
    Events(u64),
    /// The streams after this one.
    Streams(String),
    /// The positions after this one, by stream and the version before it.
    Positions(String, u64),
    Snapshots(String),
    /// The views, in this table, after this key.
    Views(String, Vec<u8>),
}

impl std::fmt::Display for RowPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Log => write!(f, "log:0"),
            Self::LogFrom(from) => write!(f, "log:{from}"),
            Self::Events(from) => write!(f, "events:{from}"),
            Self::Streams(after) => write!(f, "streams:{after}"),
            Self::Positions(stream, after) => write!(f, "positions:{after}:{stream}"),
            Self::Snapshots(after) => write!(f, "snapshots:{after}"),
            Self::Views(table, after) => {
                write!(f, "views:{table}:")?;
                after.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl std::str::FromStr for RowPlace {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (kind, rest) = text.split_once(':').ok_or(())?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| ());
        Ok(match kind {
            "log" => Self::LogFrom(number(rest)?),
            "events" => Self::Events(number(rest)?),
            "streams" => Self::Streams(rest.into()),
            "positions" => {
                let (after, stream) = rest.split_once(':').ok_or(())?;
                Self::Positions(stream.into(), number(after)?)
            }
            "snapshots" => Self::Snapshots(rest.into()),
            "views" => {
                let (table, hex) = rest.split_once(':').ok_or(())?;
                let bytes = hex.as_bytes().chunks(2).map(|pair| {
                    let pair = std::str::from_utf8(pair).map_err(|_| ())?;
                    u8::from_str_radix(pair, 16).map_err(|_| ())
                });
                Self::Views(table.into(), bytes.collect::<Result<_, ()>>()?)
            }
            _ => return Err(()),
        })
    }
}

/// The findings of one step.
#[derive(Default)]
struct Step {
    rows: u64,
    bytes: u64,
    damaged: Vec<Damage>,
    /// The keys of the events' table from and to which something is wrong.
    events: Vec<u64>,
}

impl Step {
    fn saw(&mut self, bytes: usize) -> bool {
        self.rows += 1;
        self.bytes += bytes as u64;
        self.bytes >= STEP_BYTES
    }

    fn wrong(&mut self, error: ReadError) {
        self.damaged.push(Damage::of(error));
    }
}

/// Looks at ledger and views from a place on until `enough` says so, as far as that goes. Blocks; needs a runtime. `each` hears
/// of every step and may end it with an error.
pub fn scrub(
    ledger: &Ledger,
    views: Option<&Views>,
    from: Option<RowPlace>,
    mut each: impl FnMut(u64) -> io::Result<()>,
    enough: impl Fn() -> bool,
) -> io::Result<RowsScrubbed> {
    let mut found = RowsScrubbed::default();
    let (damages, whole_round) = (ledger.damages(), from.is_none());
    let before = damages.begin();
    let mut seen = Vec::new();
    let mut views_damaged = 0_u64;
    // What the tables hold, and the views; not the log, which has a file of its own.
    let (mut tables_bytes, mut views_bytes) = (0, 0);
    let mut place = Some(from.unwrap_or_default());
    while let Some(at) = place {
        let of_views = matches!(at, RowPlace::Views(..));
        let of_log = matches!(at, RowPlace::Log | RowPlace::LogFrom(_));
        let (step, next) = if of_views {
            let Some(views) = views else { break };
            view_step(views, &at)
        } else {
            ledger_step(ledger, &at).map_err(|error| io::Error::other(error.to_string()))?
        };
        found.rows += step.rows;
        found.bytes += step.bytes;
        found.damaged += step.damaged.len() as u64;
        for damage in &step.damaged {
            damages.note(damage);
            seen.push((damage.table.clone(), damage.position.clone()));
        }
        if of_views {
            views_damaged += step.damaged.len() as u64;
            views_bytes += step.bytes;
        } else if !of_log {
            tables_bytes += step.bytes;
        }
        let mended = mend_events(ledger, &step);
        for damage in step.damaged {
            if mended.contains(&damage.position) {
                found.repaired += 1;
                metrics::counter!("hiveward_rows_repaired_total").increment(1);
                tracing::warn!(%damage, "it was taken from another node and is whole again");
                seen.retain(|(table, position)| (table, position) != (&damage.table, &damage.position));
                damages.mended(&damage);
            } else if found.lost.len() < LISTED_MAX {
                found.lost.push(damage);
            }
        }
        each(step.bytes)?;
        place = next;
        if enough() && place.is_some() {
            found.next = place;
            return Ok(found);
        }
    }
    if let (true, Some(views)) = (views_damaged > 0, views)
        && views.make_again()
    {
        let of_ledger = |damage: &Damage| {
            ["raft_log", "meta", "events", "streams", "stream_positions", "stream_snapshots", "file"]
                .contains(&damage.table.as_str())
        };
        found.repaired += views_damaged;
        found.lost.retain(of_ledger);
        damages.retain(of_ledger);
        metrics::counter!("hiveward_rows_repaired_total").increment(views_damaged);
    }
    if whole_round {
        damages.end(&before, &seen);
        ledger.holds(tables_bytes);
        if let Some(views) = views {
            views.holds(views_bytes);
        }
    }
    Ok(found)
}

/// Takes events that are damaged here from another node; gives the positions that are whole now.
fn mend_events(ledger: &Ledger, step: &Step) -> Vec<String> {
    let mut mended = Vec::new();
    for key in &step.events {
        let deadline = Deadline::after(MEND_WITHIN);
        match tokio::runtime::Handle::current().block_on(ledger.mend_events(*key, deadline)) {
            Ok(true) => mended.push(format!("cursor {key}")),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, cursor = key, "other nodes could not be asked for events that are damaged here"),
        }
    }
    mended
}

/// Takes the step from a place; returns the place of the next one too. An error is one of the disk, or the ledger is stopped.
fn ledger_step(ledger: &Ledger, at: &RowPlace) -> Result<(Step, Option<RowPlace>), ReadError> {
    let core = ledger.core()?;
    let mut step = Step::default();
    let stepped = guard(|| {
        let txn = core.disk.db.begin_read().map_err(storage)?;
        match at {
            RowPlace::Log => {
                step_meta(&core.disk.db, &core.disk.log, &mut step);
                step_log(&core.disk.log, 0, &mut step)
            }
            RowPlace::LogFrom(from) => step_log(&core.disk.log, *from, &mut step),
            RowPlace::Events(from) => step_events(&txn, *from, &mut step),
            RowPlace::Streams(after) => step_streams(&txn, after, &mut step),
            RowPlace::Positions(stream, after) => step_positions(&txn, stream, *after, &mut step),
            RowPlace::Snapshots(after) => step_snapshots(&txn, after, &mut step),
            RowPlace::Views(..) => Ok(None),
        }
    });
    match stepped {
        Ok(Ok(next)) => Ok((step, next)),
        // The tree itself: nothing behind it can be told apart in this table.
        Ok(Err(ReadError::Storage(what))) | Err(what) => {
            step.damaged.push(Damage::new("file", format!("tree, on the way from {at}"), what));
            Ok((step, after_table(at)))
        }
        Ok(Err(error)) => Err(error),
    }
}

/// Returns the place where the next table begins.
fn after_table(at: &RowPlace) -> Option<RowPlace> {
    match at {
        RowPlace::Log | RowPlace::LogFrom(_) => Some(RowPlace::Events(0)),
        RowPlace::Events(_) => Some(RowPlace::Streams(String::new())),
        RowPlace::Streams(_) => Some(RowPlace::Positions(String::new(), 0)),
        RowPlace::Positions(..) => Some(RowPlace::Snapshots(String::new())),
        RowPlace::Snapshots(_) => Some(RowPlace::Views(String::new(), Vec::new())),
        RowPlace::Views(..) => None,
    }
}

fn step_meta(db: &redb::Database, log: &redb::Database, step: &mut Step) {
    let looks = [
        meta::<Meta>(db, META_MACHINE).map(drop),
        meta::<Vote<u64>>(log, META_VOTE).map(drop),
        meta::<LogId<u64>>(log, META_PURGED).map(drop),
    ];
    for look in looks {
        step.rows += 1;
        if let Err(error) = look {
            step.wrong(error);
        }
    }
}

fn step_log(db: &redb::Database, from: u64, step: &mut Step) -> Result<Option<RowPlace>, ReadError> {
    let txn = db.begin_read().map_err(storage)?;
    let log = txn.open_table(LOG).map_err(storage)?;
    let purged: Option<LogId<u64>> = meta(db, META_PURGED).unwrap_or_default();
    let mut next = from.max(purged.map_or(0, |purged| purged.index + 1));
    for row in log.range(next..).map_err(storage)? {
        let (index, value) = row.map_err(storage)?;
        let index = index.value();
        // Purged since we looked, if it is the first.
        if index != next && step.rows > 0 && from > 0 {
            step.wrong(corrupt("raft_log", format!("index {next}"), format!("it is missing; the next is {index}")));
        }
        if let Err(what) = read_entry(index, value.value()) {
            step.wrong(corrupt("raft_log", format!("index {index}"), what));
        } else if log.get(index).map_err(storage)?.is_none() {
            step.wrong(corrupt("raft_log", format!("index {index}"), NOT_FOUND));
        }
        next = index + 1;
        if step.saw(value.value().len()) {
            return Ok(Some(RowPlace::LogFrom(next)));
        }
    }
    Ok(after_table(&RowPlace::Log))
}

fn step_events(txn: &ReadTransaction, from: u64, step: &mut Step) -> Result<Option<RowPlace>, ReadError> {
    let events = txn.open_table(EVENTS).map_err(storage)?;
    // Of the same transaction as the rows. If it is damaged that was told before, and what is missing cannot be.
    let table = txn.open_table(super::tables::META).map_err(storage)?;
    let found: Option<Meta> = table.get(META_MACHINE).map_err(storage)?.and_then(|row| unframe(row.value()).ok());
    let (swept, head) = found.map_or((u64::MAX - 1, 0), |meta: Meta| (meta.swept, meta.head));
    // Where a damaged row ended is not known; a step ends only where that is.
    let (mut next, mut sure) = (from.max(swept + 1), true);
    for row in events.range(from..).map_err(storage)? {
        let (key, value) = row.map_err(storage)?;
        let key = key.value();
        if sure && key > swept && key != next {
            step.wrong(corrupt("events", format!("cursor {next}"), format!("it is missing; the next is {key}")));
            step.events.push(next);
        }
        let enough = step.saw(value.value().len());
        let whole = checked(key, value.value());
        if let Ok(last) = whole {
            // As who reads one looks for it. No other node mends what leads to it.
            for cursor in [key, last] {
                let found = events.range(..=cursor).map_err(storage)?.next_back().transpose().map_err(storage)?;
                if found.is_none_or(|(found, _)| found.value() != key) {
                    step.wrong(corrupt("events", format!("cursor {cursor}"), NOT_FOUND));
                    break;
                }
            }
        }
        match whole {
            Ok(last) if enough => return Ok(Some(RowPlace::Events(last + 1))),
            Ok(last) => (next, sure) = ((last + 1).max(swept + 1), true),
            Err(what) => {
                step.wrong(corrupt("events", format!("cursor {key}"), what));
                step.events.push(key);
                sure = false;
            }
        }
    }
    if sure && next <= head {
        step.wrong(corrupt("events", format!("cursor {next}"), format!("events up to {head} are missing")));
        step.events.push(next);
    }
    Ok(after_table(&RowPlace::Events(0)))
}

fn step_streams(txn: &ReadTransaction, after: &str, step: &mut Step) -> Result<Option<RowPlace>, ReadError> {
    use std::ops::Bound::{Excluded, Unbounded};
    let streams = txn.open_table(STREAMS).map_err(storage)?;
    let snapshots = txn.open_table(SNAPSHOTS).map_err(storage)?;
    let mut before = after.to_owned();
    for row in streams.range::<&str>((Excluded(after), Unbounded)).map_err(storage)? {
        let (stream, value) = row.map_err(storage)?;
        let stream = stream.value();
        let found =
            if stream <= before.as_str() { Err(corrupt("streams", stream, "it stands at a wrong place")) } else { Ok(()) };
        let found = found.and_then(|()| match streams.get(stream).map_err(storage)? {
            Some(_) => decode_head(stream, value.value()),
            None => Err(corrupt("streams", stream, NOT_FOUND)),
        });
        match found {
            Ok(head) => {
                for row in snapshot_rows(stream, &head) {
                    if snapshots.get(row.as_str()).map_err(storage)?.is_none() {
                        step.wrong(corrupt("stream_snapshots", row, "it is missing"));
                    }
                }
            }
            Err(error) => step.wrong(error),
        }
        before = stream.to_owned();
        if step.saw(value.value().len() + stream.len()) {
            return Ok(Some(RowPlace::Streams(before)));
        }
    }
    Ok(after_table(&RowPlace::Streams(String::new())))
}

fn snapshot_rows(stream: &str, head: &HeadRow) -> Vec<String> {
    let gathered = head.pieces.gathered.into_iter().chain([(head.snapshot_version, head.pieces.whole)]);
    let pieces = gathered.flat_map(|(version, count)| (0..count).map(move |number| row_of(stream, version, number)));
    let whole = (head.snapshot_version > 0 && head.pieces.whole == 0).then(|| stream.to_owned());
    pieces.chain(whole).collect()
}

fn step_positions(txn: &ReadTransaction, stream: &str, after: u64, step: &mut Step) -> Result<Option<RowPlace>, ReadError> {
    let chunks = txn.open_table(CHUNKS).map_err(storage)?;
    let streams = txn.open_table(STREAMS).map_err(storage)?;
    let head_of = |stream: &str| -> Result<Option<HeadRow>, ReadError> {
        let row = streams.get(stream).map_err(storage)?;
        // One that is damaged was told before.
        Ok(row.and_then(|row| decode_head(stream, row.value()).ok()))
    };
    // The row before, which is read again for where it ends: its stream, head and end.
    let mut before: Option<(String, Option<HeadRow>, u64)> = None;
    let missing =
        |stream: &str, after: u64| corrupt("stream_positions", format!("{stream} after version {after}"), "it is missing");
    for row in chunks.range((stream, after)..).map_err(storage)? {
        let (key, value) = row.map_err(storage)?;
        let (name, begins) = key.value();
        let context = (name, begins) == (stream, after) && !stream.is_empty();
        let chunk = match decode_chunk(name, begins, value.value()) {
            Ok(chunk) => chunk,
            Err(_) if context => continue,
            Err(error) => {
                step.wrong(error);
                before = None;
                continue;
            }
        };
        let found = chunks.range((name, 0)..=(name, begins)).map_err(storage)?.next_back().transpose().map_err(storage)?;
        if found.is_none_or(|(found, _)| found.value() != (name, begins)) {
            step.wrong(corrupt("stream_positions", format!("{name} after version {begins}"), NOT_FOUND));
        }
        match &before {
            Some((of, _, end)) if of == name && *end != begins => step.wrong(missing(name, *end)),
            Some((of, Some(head), end)) if of != name && head.chunk.after != *end => step.wrong(missing(of, *end)),
            _ => {}
        }
        let head = match before.take() {
            Some((of, head, _)) if of == name => head,
            _ => head_of(name)?,
        };
        before = Some((name.to_owned(), head, chunk.end_version()));
        if step.saw(value.value().len() + name.len()) && !context {
            return Ok(Some(RowPlace::Positions(name.to_owned(), begins)));
        }
    }
    if let Some((of, Some(head), end)) = before
        && head.chunk.after != end
    {
        step.wrong(missing(&of, end));
    }
    Ok(after_table(&RowPlace::Positions(String::new(), 0)))
}

fn step_snapshots(txn: &ReadTransaction, after: &str, step: &mut Step) -> Result<Option<RowPlace>, ReadError> {
    use std::ops::Bound::{Excluded, Unbounded};
    let snapshots = txn.open_table(SNAPSHOTS).map_err(storage)?;
    for row in snapshots.range::<&str>((Excluded(after), Unbounded)).map_err(storage)? {
        let (name, value) = row.map_err(storage)?;
        if let Err(error) = super::open::read_snapshot(&snapshots, name.value(), 0) {
            step.wrong(error);
        }
        if step.saw(value.value().len()) {
            return Ok(Some(RowPlace::Snapshots(name.value().to_owned())));
        }
    }
    Ok(after_table(&RowPlace::Snapshots(String::new())))
}

fn view_step(views: &Views, at: &RowPlace) -> (Step, Option<RowPlace>) {
    let RowPlace::Views(table, after) = at else { return (Step::default(), None) };
    let place = (!table.is_empty()).then(|| (table.clone(), after.clone()));
    let (walked, next) = views.check_step(place, STEP_BYTES);
    let step = Step { rows: walked.rows, bytes: walked.bytes, damaged: walked.damaged, events: Vec::new() };
    (step, next.map(|(table, after)| RowPlace::Views(table, after)))
}

/// Looks at the ledger and the views of a node again and again, until the answer is dropped.
pub fn in_rounds(ledger: Ledger, views: Views) -> Rounds {
    let pace = Pace { bytes_per_second: BYTES_PER_SECOND, first_rest: FIRST_REST, rest: REST };
    Rounds::start("what is in the ledger and the views", pace, move |each| {
        let found = scrub(&ledger, Some(&views), None, each, || false)?;
        let (rows, damaged, repaired) = (found.rows, found.damaged, found.repaired);
        if damaged > 0 {
            tracing::warn!(rows, damaged, repaired, "values of the ledger or the views were damaged");
        } else {
            tracing::debug!(rows, bytes = found.bytes, "ledger and views are whole");
        }
        Ok(())
    })
}
