//! What looks after all that is stored.

use std::time::{Duration, Instant};

use hiveward_agents::session::{scrub as transcripts, scrub::TranscriptsScrubbed};
use hiveward_runtime::{
    error::{Code, Refused},
    ledger::scrub::{self as rows, Damage, RowPlace, RowsScrubbed},
    store::{
        blob::BlobHash,
        scrub::{self, Scrubbed},
    },
};

use super::ControlPlane;

/// How long one turn looks; it looks at one step of rows or one blob at least. It is shorter than a request may take.
const SCRUB_TURN: Duration = Duration::from_secs(8);

impl ControlPlane {
    /// Looks at this node's ledger, views, blobs and transcripts after a place, for some seconds, and mends what another node
    /// has. The answer says where the next turn goes on.
    pub async fn scrub(&self, after: Option<&str>) -> Result<Looked, Refused> {
        let wrong = || Refused::invalid("after", "`after` is the `next` of the turn before");
        // A bare hash is a place among the blobs, which come after the rows; transcripts come last.
        let from = match after {
            None => Place::Rows(None),
            Some(BLOBS) => Place::Blobs(None),
            Some(TRANSCRIPTS) => Place::Transcripts(None),
            Some(text) => match (text.strip_prefix(AFTER_TRANSCRIPT), text.parse::<RowPlace>()) {
                (Some(name), _) => Place::Transcripts(Some(name.to_owned())),
                (None, Ok(place)) => Place::Rows(Some(place)),
                (None, Err(())) => Place::Blobs(Some(text.parse().map_err(|_| wrong())?)),
            },
        };
        let sessions = self.house.data_dir.join("sessions");
        let (blobs, ledger, views) = (self.house.blobs.clone(), self.house.ledger.clone(), self.house.views.clone());
        let began = Instant::now();
        let enough = move || began.elapsed() > SCRUB_TURN;
        let turn = move || -> Result<Looked, Refused> {
            let unavailable = |what: &str| format!("{what} cannot be looked at");
            let mut looked = Looked::default();
            let mut at = from;
            loop {
                at = match at {
                    Place::Rows(from) => {
                        let found = rows::scrub(&ledger, Some(&views), from, |_| Ok(()), enough);
                        looked.rows = found.map_err(|error| {
                            Refused::new(Code::Unavailable, format!("{}: {error}", unavailable("ledger and views")))
                        })?;
                        looked.next = looked.rows.next.as_ref().map(ToString::to_string);
                        Place::Blobs(None)
                    }
                    Place::Blobs(from) => {
                        let found = scrub::scrub(&blobs, from, |_| Ok(()), enough);
                        looked.blobs = found
                            .map_err(|error| Refused::new(Code::Unavailable, format!("{}: {error}", unavailable("the blobs"))))?;
                        looked.next = looked.blobs.next.map(|next| next.to_string());
                        Place::Transcripts(None)
                    }
                    Place::Transcripts(from) => {
                        let found = transcripts::scrub(&sessions, from.as_deref(), |_| Ok(()), enough);
                        looked.transcripts = found.map_err(|error| {
                            Refused::new(Code::Unavailable, format!("{}: {error}", unavailable("the transcripts")))
                        })?;
                        looked.next = looked.transcripts.next.as_ref().map(|name| format!("{AFTER_TRANSCRIPT}{name}"));
                        return Ok(looked);
                    }
                };
                if looked.next.is_none() && enough() {
                    looked.next = Some(if matches!(at, Place::Blobs(_)) { BLOBS } else { TRANSCRIPTS }.to_owned());
                }
                if looked.next.is_some() {
                    return Ok(looked);
                }
            }
        };
        tokio::task::spawn_blocking(turn).await.map_err(|error| Refused::new(Code::Internal, error.to_string()))?
    }

    /// Lists what is known to be damaged in this node's ledger and views, and is not served.
    pub fn damaged_rows(&self) -> Vec<Damage> {
        self.house.ledger.damages().list()
    }
}

/// The places of turns that begin with the first blob, or with the first transcript, and what stands before a transcript's name.
const BLOBS: &str = "blobs";
const TRANSCRIPTS: &str = "transcripts";
const AFTER_TRANSCRIPT: &str = "transcript ";

/// Where a turn begins: with the first of its kind, or after one of them.
enum Place {
    Rows(Option<RowPlace>),
    Blobs(Option<BlobHash>),
    Transcripts(Option<String>),
}

/// What one turn found.
#[derive(Debug, Default)]
pub struct Looked {
    pub rows: RowsScrubbed,
    pub blobs: Scrubbed,
    pub transcripts: TranscriptsScrubbed,
    /// The place that the next turn goes on after; absent when all was looked at.
    pub next: Option<String>,
}
