//! An object store that speaks S3: a backup is the objects under its name, and is one from its manifest on, which is last.
//!
//! Where it is and who asks is in the node's environment (`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID` and so on), and
//! nowhere else: no message of here has any of that. Disks are written on the node first, then sent in parts, of which so many
//! are on their way at once, and read again. Which uploads are under way is written beside the disks: what is broken off is
//! ended by the next try, or when it is discarded.

use std::{
    collections::BTreeMap,
    io,
    path::{Path as FilePath, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use hiveward_catalogue::host::protocol::DiskCopy;
use hiveward_runtime::fault;
use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    multipart::MultipartStore,
    path::Path,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{DRILLED, Done, LISTED_MAX, Listed, MANIFEST, MANIFEST_BYTES_MAX, Target, is_name, link, missing, other, understand};
use crate::vm::backup::{Drilled, Manifest};

const SCHEME: &str = "s3://";
/// Bytes of one part, at least; each part is in memory while it is on its way.
const PART_BYTES: u64 = 8 << 20;
/// Number of parts of an object at most: S3 takes ten thousand.
const PARTS_MAX: u64 = 9_000;
const PARTS_AT_ONCE: usize = 4;
const MANIFESTS_AT_ONCE: usize = 8;
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Time for one request, with its part.
const REQUEST_WITHIN: Duration = Duration::from_secs(120);
const TRIES_MAX: usize = 4;
const TRY_WITHIN: Duration = Duration::from_secs(60);
/// Name under which, beside the disks, the uploads are kept that are under way.
const UPLOADS: &str = ".uploads";
/// Variables of the environment whose values are said to nobody.
const SECRETS: [&str; 4] =
    ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_CONTAINER_AUTHORIZATION_TOKEN"];
/// Bytes of a secret at least: what is shorter is a word, and no secret.
const SECRET_BYTES_MIN: usize = 4;

/// A bucket and what names in it begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Within {
    pub bucket: String,
    pub prefix: Path,
}

/// Reads a place in an object store: its bucket and prefix, or what is wrong with them. `None` if it names no object store.
pub fn within(to: &str) -> Option<Result<Within, String>> {
    let rest = to.strip_prefix(SCHEME)?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_bucket = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
        && bucket.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !is_bucket {
        return Some(Err(format!("{bucket:?} is no bucket's name: lower letters, digits, - and .")));
    }
    Some(match Path::parse(prefix.trim_end_matches('/')) {
        Ok(prefix) => Ok(Within { bucket: bucket.to_owned(), prefix }),
        Err(error) => Err(format!("{prefix:?} cannot be in an object store: {error}")),
    })
}

pub struct Bucket {
    store: AmazonS3,
    within: Within,
    scratch: PathBuf,
    part_bytes: u64,
}

/// Returns the text without these secrets, which are nobody's to know.
fn discreet(mut text: String, secrets: impl Iterator<Item = String>) -> String {
    for secret in secrets.filter(|secret| secret.len() >= SECRET_BYTES_MIN) {
        text = text.replace(&secret, "…");
    }
    text
}

fn error(error: object_store::Error) -> io::Error {
    use object_store::Error;

    let text = error.to_string();
    let kind = match &error {
        Error::NotFound { .. } => io::ErrorKind::NotFound,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => io::ErrorKind::PermissionDenied,
        Error::InvalidPath { .. } | Error::UnknownConfigurationKey { .. } => io::ErrorKind::InvalidInput,
        // A list that is refused has no variant of its own, and its status is in its text alone.
        _ if ["status code: 401", "status code: 403"].iter().any(|status| text.contains(status)) => {
            io::ErrorKind::PermissionDenied
        }
        _ if text.contains("status code: 404") => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    let text = format!("the object store: {text}");
    io::Error::new(kind, discreet(text, SECRETS.iter().filter_map(|name| std::env::var(name).ok())))
}

impl Bucket {
    /// Opens a bucket as the node's environment says where it is and who asks. Errors: the environment is not enough.
    pub fn open(within: Within, scratch: &FilePath) -> io::Result<Self> {
        let mut builder = AmazonS3Builder::from_env();
        if ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
            .iter()
            .find_map(|name| std::env::var(name).ok())
            .is_some_and(|url| url.starts_with("http://"))
        {
            // Who writes that means it.
            builder = builder.with_allow_http(true);
        }
        Self::with(builder, within, scratch, PART_BYTES)
    }

    pub(super) fn with(builder: AmazonS3Builder, within: Within, scratch: &FilePath, part_bytes: u64) -> io::Result<Self> {
        let backoff = BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(2), base: 2.0 };
        let mut options = ClientOptions::new().with_timeout(REQUEST_WITHIN).with_connect_timeout(CONNECT_WITHIN);
        if builder.get_config_value(&object_store::aws::AmazonS3ConfigKey::Client(object_store::ClientConfigKey::AllowHttp))
            == Some("true".into())
        {
            options = options.with_allow_http(true);
        }
        let store = builder
            .with_bucket_name(&within.bucket)
            .with_retry(RetryConfig { backoff, max_retries: TRIES_MAX, retry_timeout: TRY_WITHIN })
            .with_client_options(options)
            .build()
            .map_err(error)?;
        Ok(Self { store, within, scratch: scratch.to_owned(), part_bytes })
    }

    fn staging(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    fn of(&self, name: &str) -> Path {
        self.within.prefix.clone().join(name)
    }

    fn object(&self, name: &str, file: &str) -> Path {
        self.of(name).join(file)
    }

    async fn text(&self, name: &str, file: &str) -> io::Result<Option<Bytes>> {
        let path = self.object(name, file);
        match self.store.get_range(&path, 0..MANIFEST_BYTES_MAX).await {
            Ok(text) => Ok(Some(text)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(why) => Err(error(why)),
        }
    }

    async fn put(&self, name: &str, file: &str, what: &impl serde::Serialize) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(what).map_err(io::Error::other)?;
        self.store.put(&self.object(name, file), PutPayload::from(text)).await.map(drop).map_err(error)
    }

    /// Ends the uploads that an earlier try began from this node.
    async fn end_uploads(&self, name: &str) -> io::Result<()> {
        let dir = self.staging(name).join(UPLOADS);
        let mut entries = match tokio::fs::read_dir(&dir).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        while let Some(entry) = entries.next_entry().await? {
            let id = tokio::fs::read_to_string(entry.path()).await?;
            let Ok(file) = entry.file_name().into_string() else { continue };
            match self.store.abort_multipart(&self.object(name, &file), &id).await {
                // It is over, or was ended by the store itself.
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                // Some say so of what is over as well. If not, the store's own rules end it.
                Err(object_store::Error::PermissionDenied { .. }) => {
                    tracing::warn!(
                        backup = name,
                        file,
                        "an upload that was broken off is not ended: the store does not allow it"
                    );
                }
                Err(why) => return Err(error(why)),
            }
            tokio::fs::remove_file(entry.path()).await?;
        }
        Ok(())
    }

    /// Removes every object of a backup, its manifest first: without it the others are no backup.
    async fn clear(&self, name: &str) -> io::Result<()> {
        let gone = |done: object_store::Result<()>| match done {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(why) => Err(error(why)),
        };
        let of = self.of(name);
        let objects: Vec<_> = self.store.list(Some(&of)).map_ok(|object| object.location).try_collect().await.map_err(error)?;
        gone(self.store.delete(&self.object(name, MANIFEST)).await)?;
        for object in objects {
            gone(self.store.delete(&object).await)?;
        }
        Ok(())
    }

    async fn upload(&self, name: &str, disk: &DiskCopy) -> io::Result<()> {
        let (path, from) = (self.object(name, &disk.file), self.staging(name).join(&disk.file));
        let part_bytes = self.part_bytes.max(disk.bytes.div_ceil(PARTS_MAX));
        let mut file = tokio::fs::File::open(&from).await?;
        let id = self.store.create_multipart(&path).await.map_err(error)?;
        let uploads = self.staging(name).join(UPLOADS);
        tokio::fs::create_dir_all(&uploads).await?;
        tokio::fs::write(uploads.join(&disk.file), &id).await?;
        let mut hash = blake3::Hasher::new();
        let sent = async {
            let mut pieces = Vec::new();
            let mut sending = stream::FuturesOrdered::<BoxFuture<'_, io::Result<object_store::multipart::PartId>>>::new();
            for part in 0.. {
                let mut piece = Vec::with_capacity(usize::try_from(part_bytes).unwrap_or(0));
                (&mut file).take(part_bytes).read_to_end(&mut piece).await?;
                // An empty file is one part, too.
                if piece.is_empty() && part > 0 {
                    break;
                }
                hash.update(&piece);
                while sending.len() >= PARTS_AT_ONCE {
                    pieces.extend(sending.try_next().await?);
                }
                let (path, id) = (&path, &id);
                sending.push_back(Box::pin(async move {
                    let sent = self.store.put_part(path, id, part, PutPayload::from(piece)).await.map_err(error)?;
                    fault::point("backup.part", None).await.map_err(io::Error::other)?;
                    Ok(sent)
                }));
            }
            while let Some(piece) = sending.try_next().await? {
                pieces.push(piece);
            }
            if hash.finalize().to_hex().as_str() != disk.hash {
                return Err(other(name, disk));
            }
            self.store.complete_multipart(&path, &id, pieces).await.map_err(error)
        };
        match sent.await {
            Ok(_) => tokio::fs::remove_file(uploads.join(&disk.file)).await,
            Err(why) => {
                // Else the next try ends it, or whoever discards it.
                let _ = self.end_uploads(name).await;
                Err(why)
            }
        }
    }

    /// Reads an object from its beginning to its end, and says whether it is what was written.
    async fn read(&self, name: &str, disk: &DiskCopy, mut to: Option<&mut tokio::fs::File>) -> io::Result<()> {
        let path = self.object(name, &disk.file);
        let bytes = match self.store.head(&path).await {
            Ok(meta) => meta.size,
            Err(object_store::Error::NotFound { .. }) => return Err(missing(name, disk)),
            Err(why) => return Err(error(why)),
        };
        if bytes != disk.bytes {
            return Err(super::short(name, disk, bytes));
        }
        let step = usize::try_from(self.part_bytes).unwrap_or(usize::MAX);
        let ranges = (0..bytes).step_by(step).map(|from| from..bytes.min(from + self.part_bytes));
        let mut parts = stream::iter(ranges.map(|range| self.store.get_range(&path, range))).buffered(PARTS_AT_ONCE);
        let mut hash = blake3::Hasher::new();
        while let Some(part) = parts.try_next().await.map_err(error)? {
            hash.update(&part);
            if let Some(to) = &mut to {
                to.write_all(&part).await?;
            }
        }
        if let Some(to) = &mut to {
            to.sync_all().await?;
        }
        if hash.finalize().to_hex().as_str() == disk.hash { Ok(()) } else { Err(other(name, disk)) }
    }

    async fn away(&self, name: &str) -> io::Result<()> {
        self.end_uploads(name).await?;
        match tokio::fs::remove_dir_all(self.staging(name)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.clear(name).await
    }

    async fn look(&self, name: &str, files: &BTreeMap<String, u64>) -> io::Result<Option<Manifest>> {
        let Some(manifest) = self.find(name).await? else { return Ok(None) };
        for disk in &manifest.disks {
            match files.get(&disk.file) {
                Some(bytes) if *bytes == disk.bytes => {}
                Some(bytes) => return Err(super::short(name, disk, *bytes)),
                None => return Err(missing(name, disk)),
            }
        }
        Ok(Some(manifest))
    }

    /// Returns the names under which there is a manifest, with the lengths of the files beside it.
    async fn names(&self) -> io::Result<BTreeMap<String, BTreeMap<String, u64>>> {
        let mut found: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        let mut objects = self.store.list(Some(&self.within.prefix));
        while let Some(object) = objects.try_next().await.map_err(error)? {
            let Some(parts) = object.location.prefix_match(&self.within.prefix) else { continue };
            let parts: Vec<_> = parts.map(|part| part.as_ref().to_owned()).collect();
            // What is deeper or not in any backup is another's.
            if let [name, file] = parts.as_slice()
                && is_name(name)
            {
                // They come by their names, so those that are there are whole.
                if found.len() > LISTED_MAX {
                    break;
                }
                found.entry(name.clone()).or_default().insert(file.clone(), object.size);
            }
        }
        found.retain(|_, files| files.contains_key(MANIFEST));
        Ok(found)
    }
}

impl Target for Bucket {
    fn find<'a>(&'a self, name: &'a str) -> Done<'a, Option<Manifest>> {
        Box::pin(async move { self.text(name, MANIFEST).await?.map(|text| understand(name, &text)).transpose() })
    }

    fn begin<'a>(&'a self, name: &'a str) -> Done<'a, PathBuf> {
        Box::pin(async move {
            self.away(name).await?;
            let staging = self.staging(name);
            tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(&staging).await?;
            Ok(staging)
        })
    }

    fn keep<'a>(&'a self, manifest: &'a Manifest) -> Done<'a, ()> {
        Box::pin(async move {
            let name = &manifest.name;
            for disk in &manifest.disks {
                self.upload(name, disk).await?;
                self.read(name, disk, None).await?;
            }
            fault::point("backup.manifest", None).await.map_err(io::Error::other)?;
            self.put(name, MANIFEST, manifest).await?;
            // It is whole; what is left here the next backup of this VM does not need.
            let _ = tokio::fs::remove_dir_all(self.staging(name)).await;
            Ok(())
        })
    }

    fn remove<'a>(&'a self, name: &'a str) -> Done<'a, ()> {
        Box::pin(self.away(name))
    }

    fn list(&self) -> Done<'_, Vec<Listed>> {
        Box::pin(async move {
            let names = self.names().await?;
            let looks = names.into_iter().take(LISTED_MAX).map(|(name, files)| async move {
                // Unless the place itself cannot be read, what is wrong is wrong with this one.
                let manifest = match self.look(&name, &files).await {
                    Ok(None) => return Ok(None),
                    Ok(Some(manifest)) => Ok(manifest),
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error.to_string()),
                    Err(error) => return Err(error),
                };
                let drilled = if files.contains_key(DRILLED) { self.text(&name, DRILLED).await? } else { None };
                let drilled = drilled.and_then(|text| serde_json::from_slice(&text).ok());
                Ok(Some(Listed { name, manifest, drilled }))
            });
            let all: Vec<Option<Listed>> = stream::iter(looks).buffered(MANIFESTS_AT_ONCE).try_collect().await?;
            let mut all: Vec<_> = all.into_iter().flatten().collect();
            link(&mut all);
            Ok(all)
        })
    }

    fn bring<'a>(&'a self, name: &'a str, disk: &'a DiskCopy, dir: &'a FilePath) -> Done<'a, PathBuf> {
        Box::pin(async move {
            let path = dir.join(format!("{name}-{}", disk.file));
            let mut file = tokio::fs::File::create(&path).await?;
            self.read(name, disk, Some(&mut file)).await?;
            Ok(path)
        })
    }

    fn write_drilled<'a>(&'a self, name: &'a str, drilled: &'a Drilled) -> Done<'a, ()> {
        Box::pin(self.put(name, DRILLED, drilled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_an_object_store_is_a_bucket_and_a_prefix_and_nothing_else() {
        let place = |to: &str| within(to).map(|found| found.map(|found| (found.bucket, found.prefix.to_string())));
        assert_eq!(place("/backups"), None);
        assert_eq!(place("s3://backups"), Some(Ok(("backups".into(), String::new()))));
        assert_eq!(place("s3://backups/hive/one/"), Some(Ok(("backups".into(), "hive/one".into()))));
        for bad in ["s3://", "s3://key:secret@backups/x", "s3://Backups", "s3://backups/a//b", "s3://backups/../b"] {
            assert!(place(bad).unwrap().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_message_has_a_secret_in_it() {
        let said = discreet("key AKIA7 and hush-hush, no".into(), ["AKIA7".into(), "hush-hush".into(), "no".into()].into_iter());
        assert_eq!(said, "key … and …, no");
    }
}
