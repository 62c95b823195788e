//! Brings an image's bytes in: from a file of the node or over HTTP, checked against a checksum and for what they are.
//!
//! Owns the imports that are under way on this node. A client that is gone, or whose request has run out, leaves its import
//! under way; who asks for the same again waits for the same one. With the node they end, and nothing of them is kept.

use std::{
    collections::HashMap,
    io::Read,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use hiveward_catalogue::host::image::header::{self, Format, HEADER_BYTES};
use hiveward_runtime::{
    clock::Deadline,
    error::{Code, Refused},
    store::blob::{Blobs, Incoming},
};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;

/// Number of imports at the same time, on one node; one more is refused.
const RUNNING_MAX: usize = 8;
const PIECE_BYTES: usize = 1 << 20;
/// Bytes of one image at most.
const IMAGE_BYTES_MAX: u64 = 1 << 40;
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// Time without a byte after which the other side is given up.
const SILENT_WITHIN: Duration = Duration::from_secs(60);

/// Bytes that a server which sends, but hardly, sends at least in each [`PACE_WITHIN`], or it is given up.
const PACE_BYTES: u64 = 512 << 10;
const PACE_WITHIN: Duration = Duration::from_secs(30);

/// Check that bytes come fast enough to come to an end. Pure.
struct Pace {
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn begin(now: Instant) -> Self {
        Self { since: now, bytes: 0 }
    }

    /// Tells whether it goes on, when this many more bytes have come by now.
    fn keeps(&mut self, now: Instant, bytes: usize) -> bool {
        self.bytes += bytes as u64;
        if now.duration_since(self.since) < PACE_WITHIN {
            return true;
        }
        let keeps = self.bytes >= PACE_BYTES;
        *self = Self::begin(now);
        keeps
    }
}

/// Source of bytes, and what they must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    pub from: From,
    pub checksum: Option<Checksum>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum From {
    File(PathBuf),
    Url(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Checksum {
    Sha256(String),
    Blake3(String),
}

/// Bytes that are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub hash: String,
    pub bytes: u64,
    pub virtual_bytes: u64,
    pub format: Format,
}

impl Wanted {
    /// Reads what a client asks for. `source` is an absolute path on the node, or an `http` or `https` URL. `checksum` is
    /// `sha256:…` or `blake3:…`, or 64 hexadecimal digits of the former. Errors: which of them is neither.
    pub fn parse(source: &str, checksum: Option<&str>) -> Result<Self, Refused> {
        let from = if source.starts_with("http://") || source.starts_with("https://") {
            From::Url(source.into())
        } else if source.starts_with('/') {
            From::File(source.into())
        } else {
            return Err(Refused::invalid("source", "an absolute path on the node, or an http or https URL"));
        };
        let checksum = checksum
            .map(|text| {
                let (kind, digits) = text.split_once(':').unwrap_or(("sha256", text));
                let digits = digits.to_ascii_lowercase();
                let fine = digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                match kind {
                    "sha256" if fine => Ok(Checksum::Sha256(digits)),
                    "blake3" if fine => Ok(Checksum::Blake3(digits)),
                    _ => Err(Refused::invalid("checksum", "sha256:… or blake3:… with 64 hexadecimal digits")),
                }
            })
            .transpose()?;
        Ok(Self { from, checksum })
    }

    /// Returns the source for people: without a user, a password or a query, which may be secrets.
    pub fn shown(&self) -> String {
        match &self.from {
            From::File(path) => path.display().to_string(),
            From::Url(url) => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
                let rest = rest.split(['?', '#']).next().unwrap_or_default();
                let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
                let host = authority.rsplit('@').next().unwrap_or_default();
                format!("{scheme}://{host}/{path}")
            }
        }
    }
}

type Ended = Option<Result<Kept, Refused>>;

struct Running {
    ended: watch::Receiver<Ended>,
    read: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
pub struct Imports {
    running: Mutex<HashMap<Wanted, Running>>,
}

impl Imports {
    /// Waits for the bytes until `deadline`; after that the import goes on, and the same call again waits for it.
    pub async fn bring(&self, blobs: &Blobs, wanted: &Wanted, deadline: Deadline) -> Result<Kept, Refused> {
        let (mut ended, read) = self.join(blobs, wanted)?;
        let waited = tokio::time::timeout_at(deadline.instant(), ended.wait_for(Option::is_some)).await;
        let result = match waited {
            Ok(Ok(ended)) => ended.clone(),
            Ok(Err(_)) => Some(Err(Refused::new(Code::Unavailable, "the import ended with its node; nothing is kept"))),
            Err(_) => None,
        };
        let Some(result) = result else {
            let mib = read.load(Ordering::Relaxed) >> 20;
            let message = format!("it is still under way, {mib} MiB so far; ask the same again to wait for it");
            return Err(Refused::new(Code::Busy, message));
        };
        self.running.lock().remove(wanted);
        result
    }

    fn join(&self, blobs: &Blobs, wanted: &Wanted) -> Result<(watch::Receiver<Ended>, Arc<AtomicU64>), Refused> {
        let mut running = self.running.lock();
        if let Some(one) = running.get(wanted) {
            return Ok((one.ended.clone(), one.read.clone()));
        }
        // Those that ended and that nobody asked for again make room.
        if running.len() >= RUNNING_MAX {
            running.retain(|_, one| one.ended.borrow().is_none());
        }
        if running.len() >= RUNNING_MAX {
            let message = format!("{RUNNING_MAX} imports are under way on this node; try again when one has ended");
            return Err(Refused::new(Code::Busy, message));
        }
        let (say, ended) = watch::channel(None);
        let read = Arc::new(AtomicU64::new(0));
        let (blobs, asked, counted) = (blobs.clone(), wanted.clone(), read.clone());
        let task = tokio::spawn(async move {
            let result = fetch(blobs, asked, counted).await;
            let _ = say.send(Some(result));
        });
        running.insert(wanted.clone(), Running { ended: ended.clone(), read: read.clone(), _task: AbortOnDropHandle::new(task) });
        Ok((ended, read))
    }
}

fn cannot(what: &str, error: &dyn std::fmt::Display) -> Refused {
    Refused { field: Some("source".into()), ..Refused::new(Code::Refused, format!("{what}: {error}; nothing is kept")) }
}

/// Returns an error in words with what lies behind it, and without the address, which may have secrets in it.
fn because(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(deeper) = cause {
        words.push_str(&format!(": {deeper}"));
        cause = deeper.source();
    }
    words
}

fn internal(error: &dyn std::fmt::Display) -> Refused {
    Refused::new(Code::Internal, error.to_string())
}

async fn fetch(blobs: Blobs, wanted: Wanted, read: Arc<AtomicU64>) -> Result<Kept, Refused> {
    match wanted.from.clone() {
        From::File(path) => {
            let done = tokio::task::spawn_blocking(move || {
                let mut sink = Sink::new(&blobs, read)?;
                sink.read_file(&path)?;
                sink.end(wanted.checksum.as_ref())
            });
            done.await.map_err(|error| internal(&error))?
        }
        From::Url(url) => {
            let mut sink = Sink::new(&blobs, read.clone())?;
            let client = reqwest::Client::builder().connect_timeout(CONNECT_WITHIN).read_timeout(SILENT_WITHIN).build();
            let client = client.map_err(|error| internal(&error))?;
            let unreachable = |error: reqwest::Error| cannot("it cannot be fetched", &because(error));
            let answer = client.get(&url).send().await.and_then(reqwest::Response::error_for_status).map_err(unreachable)?;
            let delimited = answer.content_length().is_some()
                || answer.headers().contains_key(reqwest::header::TRANSFER_ENCODING)
                || answer.version() >= reqwest::Version::HTTP_2;
            if !delimited && wanted.checksum.is_none() {
                let message = "the server does not say how long it is, so half of it would look like all of it: give a \
                               checksum; nothing is kept";
                return Err(Refused { field: Some("checksum".into()), ..Refused::new(Code::Refused, message) });
            }
            let mut body = answer.bytes_stream();
            let mut pace = Pace::begin(Instant::now());
            while let Some(piece) = body.next().await {
                let piece = piece.map_err(|error| {
                    let mib = read.load(Ordering::Relaxed) as f64 / f64::from(1 << 20);
                    cannot(&format!("it broke off after {mib:.1} MiB"), &because(error))
                })?;
                if !pace.keeps(Instant::now(), piece.len()) {
                    let slow = format!("less than {} KiB came within {} s", PACE_BYTES >> 10, PACE_WITHIN.as_secs());
                    return Err(cannot("it cannot be fetched", &slow));
                }
                sink =
                    tokio::task::spawn_blocking(move || sink.take(&piece).map(|()| sink)).await.map_err(|e| internal(&e))??;
            }
            tokio::task::spawn_blocking(move || sink.end(wanted.checksum.as_ref())).await.map_err(|error| internal(&error))?
        }
    }
}

/// Bytes on their way into the store. Dropped, nothing of them is kept.
struct Sink {
    into: Incoming,
    sha256: Sha256,
    header: Vec<u8>,
    read: Arc<AtomicU64>,
}

impl Sink {
    fn new(blobs: &Blobs, read: Arc<AtomicU64>) -> Result<Self, Refused> {
        let into = blobs.incoming().map_err(|error| cannot("the node cannot keep it", &error))?;
        Ok(Self { into, sha256: Sha256::new(), header: Vec::with_capacity(HEADER_BYTES), read })
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), Refused> {
        if self.into.bytes() + piece.len() as u64 > IMAGE_BYTES_MAX {
            return Err(Refused::new(Code::Limit, format!("an image has at most {IMAGE_BYTES_MAX} bytes; nothing is kept")));
        }
        let missing = HEADER_BYTES.saturating_sub(self.header.len()).min(piece.len());
        self.header.extend_from_slice(&piece[..missing]);
        self.sha256.update(piece);
        self.into.write(piece).map_err(|error| cannot("the node cannot keep it", &error))?;
        self.read.store(self.into.bytes(), Ordering::Relaxed);
        Ok(())
    }

    fn read_file(&mut self, path: &Path) -> Result<(), Refused> {
        let unreadable = |error: std::io::Error| cannot("the node cannot read it", &error);
        if !path.metadata().map_err(unreadable)?.is_file() {
            return Err(cannot("the node cannot read it", &"it is no regular file"));
        }
        let mut file = std::fs::File::open(path).map_err(unreadable)?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match file.read(&mut piece).map_err(unreadable)? {
                0 => return Ok(()),
                bytes => self.take(piece.get(..bytes).unwrap_or_default())?,
            }
        }
    }

    fn end(self, checksum: Option<&Checksum>) -> Result<Kept, Refused> {
        let (format, virtual_bytes) = header::read(&self.header, self.into.bytes()).map_err(|why| Refused {
            field: Some("source".into()),
            ..Refused::new(Code::Refused, format!("{why}; nothing is kept"))
        })?;
        let other = |kind: &str, found: &str, wanted: &str| {
            let message = format!("its {kind} is {found} and not {wanted}; nothing is kept");
            Err(Refused { field: Some("checksum".into()), ..Refused::new(Code::Refused, message) })
        };
        if let Some(Checksum::Sha256(wanted)) = checksum {
            let found: String = self.sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            if found != *wanted {
                return other("SHA-256", &found, wanted);
            }
        }
        if let Some(Checksum::Blake3(wanted)) = checksum {
            let found = self.into.hash().to_string();
            if found != *wanted {
                return other("BLAKE3", &found, wanted);
            }
        }
        let (hash, bytes) = self.into.keep().map_err(|error| cannot("the node cannot keep it", &error))?;
        Ok(Kept { hash: hash.to_string(), bytes, virtual_bytes, format })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_sends_hardly_anything_is_given_up_and_a_slow_one_is_not() {
        let begun = Instant::now();
        let mut pace = Pace::begin(begun);
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        for second in 1..300 {
            assert!(pace.keeps(at(second), 20 << 10), "at {second} s");
        }
        let mut trickles = Pace::begin(begun);
        assert!((1..30).all(|second| trickles.keeps(at(second), 1)) && !trickles.keeps(at(30), 1));
    }

    #[tokio::test]
    async fn an_image_is_kept_under_the_hash_of_its_bytes_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let (blobs, imports) = (Blobs::open(dir.path().join("blobs")).unwrap(), Imports::default());
        let path = dir.path().join("disk.raw");
        std::fs::write(&path, vec![7_u8; 4_096]).unwrap();
        let source = path.to_str().unwrap();
        let soon = || Deadline::after(Duration::from_secs(10));
        let sha256: String = Sha256::digest(vec![7_u8; 4_096]).iter().map(|byte| format!("{byte:02x}")).collect();
        let kept = imports.bring(&blobs, &Wanted::parse(source, Some(&sha256)).unwrap(), soon()).await.unwrap();
        let hash = blake3::hash(&[7_u8; 4_096]).to_string();
        assert_eq!(kept, Kept { hash: hash.clone(), bytes: 4_096, virtual_bytes: 4_096, format: Format::Raw });
        assert!(blobs.has(&hash.parse().unwrap()));
        let wrong = format!("blake3:{}", "0".repeat(64));
        let refused = imports.bring(&blobs, &Wanted::parse(source, Some(&wrong)).unwrap(), soon()).await.unwrap_err();
        assert_eq!((refused.field.as_deref(), refused.message.contains(&hash)), (Some("checksum"), true));
        std::fs::write(&path, b"QFI\xfb").unwrap();
        let refused = imports.bring(&blobs, &Wanted::parse(source, None).unwrap(), soon()).await.unwrap_err();
        assert!(refused.message.contains("ends within its header"), "{}", refused.message);
        assert_eq!(std::fs::read_dir(dir.path().join("blobs/new")).unwrap().count(), 0, "what was refused left bytes");
        for source in ["relative", "ftp://x/y", ""] {
            assert_eq!(Wanted::parse(source, None).unwrap_err().field.as_deref(), Some("source"));
        }
        let url = Wanted::parse("https://me:secret@host/a/b.qcow2?token=t", None).unwrap();
        assert_eq!(url.shown(), "https://host/a/b.qcow2");
    }
}
