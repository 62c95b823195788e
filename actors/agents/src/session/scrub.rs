//! Goes over what sessions wrote, so that a damaged transcript is known before somebody needs it.
//!
//! Owns nothing and never touches what it looks at: a transcript is on one node only, so a damaged one is named, and not
//! served.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use hiveward_runtime::rounds::{Pace, Rounds};

use super::transcript;

const PACE: Pace = Pace { bytes_per_second: 8 << 20, first_rest: Duration::from_secs(120), rest: Duration::from_secs(3600) };
/// Number of names that an answer lists; the count says how many there are.
const LISTED_MAX: usize = 100;

/// The figures of one look at the transcripts of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TranscriptsScrubbed {
    pub transcripts: u64,
    pub bytes: u64,
    pub damaged: u64,
    /// Names of the first hundred that are damaged, as their directories are called.
    pub names: Vec<String>,
    /// Name to go on after, unless all was looked at.
    pub next: Option<String>,
}

/// Looks at the sessions in a directory after a name until `enough` says so, as far as that goes. Blocks.
///
/// `each` hears of every part that was read and may end it with an error.
pub fn scrub(
    sessions: &Path,
    after: Option<&str>,
    mut each: impl FnMut(u64) -> io::Result<()>,
    enough: impl Fn() -> bool,
) -> io::Result<TranscriptsScrubbed> {
    let mut found = TranscriptsScrubbed::default();
    let all = match fs::read_dir(sessions) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        all => all?,
    };
    let names: BTreeSet<String> = all.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    for name in names.into_iter().filter(|name| after.is_none_or(|after| name.as_str() > after)) {
        let looked = transcript::verify(sessions.join(&name), |bytes| {
            found.bytes += bytes;
            each(bytes)
        });
        match looked {
            // It has not begun, or was let go of meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Ok(()) => {}
            // A sector that cannot be read is damage, too.
            Err(error) => {
                tracing::error!(%error, session = name, "a transcript is damaged; what is damaged of it is not served");
                found.damaged += 1;
                if found.names.len() < LISTED_MAX {
                    found.names.push(name.clone());
                }
            }
        }
        found.transcripts += 1;
        if enough() {
            found.next = Some(name);
            return Ok(found);
        }
    }
    Ok(found)
}

/// Looks at all of a node again and again, until the answer is dropped. What was found damaged is handed over after each.
pub fn in_rounds(sessions: PathBuf, found_damaged: impl Fn(Vec<String>) + Send + Sync + 'static) -> Rounds {
    Rounds::start("what sessions wrote", PACE, move |each| {
        let found = scrub(&sessions, None, each, || false)?;
        tracing::debug!(
            transcripts = found.transcripts,
            damaged = found.damaged,
            bytes = found.bytes,
            "transcripts were looked at"
        );
        found_damaged(found.names);
        Ok(())
    })
}
