//! Looking after what is stored beside the ledger.

use std::time::{Duration, Instant};

use hiveward_runtime::{
    error::{Code, Refused},
    ledger::scrub::{self as rows, Damage, RowPlace, RowsScrubbed},
    store::scrub::{self, Scrubbed},
};

use super::ControlPlane;

/// One turn looks for so long, and at one step of rows or one blob at least. Shorter than a request may take.
const SCRUB_TURN: Duration = Duration::from_secs(8);

impl ControlPlane {
    /// Looks at this node's ledger, views and blobs after a place, for some seconds, and mends what another node has.
    pub async fn scrub(&self, after: Option<&str>) -> Result<Looked, Refused> {
        let wrong = || Refused::invalid("after", "`after` is the `next` of the turn before");
        // A bare hash is a place among the blobs, which come last.
        let (of_rows, of_blobs) = match after {
            None => (Some(None), None),
            Some(BLOBS) => (None, None),
            Some(text) => match text.parse::<RowPlace>() {
                Ok(place) => (Some(Some(place)), None),
                Err(()) => (None, Some(text.parse().map_err(|_| wrong())?)),
            },
        };
        let (blobs, ledger, views) = (self.house.blobs.clone(), self.house.ledger.clone(), self.house.views.clone());
        let began = Instant::now();
        let enough = move || began.elapsed() > SCRUB_TURN;
        let turn = move || -> Result<Looked, Refused> {
            let unavailable = |what: &str| format!("{what} cannot be looked at");
            let mut looked = Looked::default();
            if let Some(from) = of_rows {
                let found = rows::scrub(&ledger, Some(&views), from, |_| Ok(()), enough);
                looked.rows = found
                    .map_err(|error| Refused::new(Code::Unavailable, format!("{}: {error}", unavailable("ledger and views"))))?;
                if let Some(next) = &looked.rows.next {
                    looked.next = Some(next.to_string());
                    return Ok(looked);
                }
                if enough() {
                    looked.next = Some(BLOBS.to_owned());
                    return Ok(looked);
                }
            }
            let found = scrub::scrub(&blobs, of_blobs, |_| Ok(()), enough);
            looked.blobs =
                found.map_err(|error| Refused::new(Code::Unavailable, format!("{}: {error}", unavailable("the blobs"))))?;
            looked.next = looked.blobs.next.map(|next| next.to_string());
            Ok(looked)
        };
        tokio::task::spawn_blocking(turn).await.map_err(|error| Refused::new(Code::Internal, error.to_string()))?
    }

    /// What is known to be damaged in this node's ledger and views, and is not served.
    pub fn damaged_rows(&self) -> Vec<Damage> {
        self.house.ledger.damages().list()
    }
}

/// The place of a turn that begins with the first blob.
const BLOBS: &str = "blobs";

/// What one turn found.
#[derive(Debug, Default)]
pub struct Looked {
    pub rows: RowsScrubbed,
    pub blobs: Scrubbed,
    /// What to go on after; absent when all was looked at.
    pub next: Option<String>,
}
