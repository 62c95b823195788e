//! What every place promises, over a directory and over a server that speaks S3.

use std::{
    io,
    path::Path as FilePath,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hiveward_catalogue::vm::testing::spec;
use hiveward_runtime::clock::Deadline;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use object_store::aws::AmazonS3Builder;
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};

use super::{bucket::Bucket, chain, *};
use crate::{host::driver::simulated::SIMULATED_DISK, vm::backup::MANIFEST_FORMAT};

const KEY: &str = "AKIATESTKEY";
const SECRET: &str = "very-secret-of-a-test";
/// Bytes that S3 takes at least of a part that is not the last.
const PART: u64 = 5 << 20;

/// An object store on loopback. It answers so many requests, and then no more until it may again.
struct Server {
    dir: tempfile::TempDir,
    port: u16,
    left: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("kept")).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(dir.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = builder.build();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let left = Arc::new(AtomicUsize::new(usize::MAX));
        let may = left.clone();
        let task = tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { return };
                let (service, may) = (service.clone(), may.clone());
                let each = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let (service, may) = (service.clone(), may.clone());
                    async move {
                        let one = may.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| match left {
                            usize::MAX => Some(left),
                            left => left.checked_sub(1),
                        });
                        one.map_err(|_| io::Error::other("dead"))?;
                        service.call(request.map(s3s::Body::from)).await.map_err(|error| io::Error::other(format!("{error:?}")))
                    }
                });
                tokio::spawn(async move {
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), each).await;
                });
            }
        });
        Self { dir, port, left, task }
    }

    fn open(&self, secret: &str, scratch: &FilePath) -> Bucket {
        let builder = AmazonS3Builder::new()
            .with_endpoint(format!("http://127.0.0.1:{}", self.port))
            .with_allow_http(true)
            .with_region("test-1")
            .with_access_key_id(KEY)
            .with_secret_access_key(secret);
        let within = super::bucket::within("s3://kept/hive").unwrap().unwrap();
        Bucket::with(builder, within, scratch, PART).unwrap()
    }

    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut dirs = vec![self.dir.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    dirs.push(entry.path());
                } else {
                    found.push(entry.path().strip_prefix(self.dir.path()).unwrap().display().to_string());
                }
            }
        }
        // What this server remembers of objects beside them.
        found.retain(|path| !path.starts_with(".bucket-") || path.contains("upload"));
        found.sort();
        found
    }
}

fn disk(name: &str, body: &[u8]) -> DiskCopy {
    DiskCopy {
        disk: name.into(),
        file: format!("{name}.simulated"),
        bytes: body.len() as u64,
        virtual_bytes: 0,
        format: SIMULATED_DISK.into(),
        hash: blake3::hash(body).to_hex().to_string(),
    }
}

/// Returns a manifest with a root disk of several parts, and one that is empty.
fn manifest(name: &str, basis: Option<&str>, body: &[u8]) -> Manifest {
    Manifest {
        format: if basis.is_some() { MANIFEST_FORMAT_BASED } else { MANIFEST_FORMAT },
        name: name.into(),
        taken_at_ms: 1,
        running: true,
        spec: spec(),
        disks: vec![disk("root", body), disk("data", b"")],
        basis: basis.map(str::to_owned),
        whole_because: None,
        marked: true,
    }
}

async fn stage(target: &dyn Target, manifest: &Manifest, body: &[u8]) -> io::Result<()> {
    let dir = target.begin(&manifest.name).await?;
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "what an earlier try left is there");
    std::fs::write(dir.join("root.simulated"), body).unwrap();
    std::fs::write(dir.join("data.simulated"), b"").unwrap();
    Ok(())
}

async fn put(target: &dyn Target, manifest: &Manifest, body: &[u8]) -> io::Result<()> {
    stage(target, manifest, body).await?;
    target.keep(manifest).await
}

fn body(seed: u64) -> Vec<u8> {
    let mut dice = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| dice.u8(..)).take(2 * PART as usize + 12_345).collect()
}

/// Checks what every place promises. `touch` does to a file of a backup what disks do: `None` takes it away.
async fn keeps(target: &dyn Target, touch: impl Fn(&str, &str, Option<&[u8]>)) {
    let (full, delta) = (body(1), b"delta".to_vec());
    let (one, two) = (manifest("web-1", None, &full), manifest("web-2", Some("web-1"), &delta));
    assert!(target.find("web-1").await.unwrap().is_none() && target.list().await.unwrap().is_empty());
    // Begun and not kept it is none; begun anew nothing is left of that.
    stage(target, &one, b"other").await.unwrap();
    assert!(target.find("web-1").await.unwrap().is_none() && target.list().await.unwrap().is_empty());
    // What is not what was copied is not kept.
    let wrong = target.keep(&one).await.unwrap_err();
    assert!(wrong.to_string().contains("root.simulated"), "{wrong}");
    assert!(target.find("web-1").await.unwrap().is_none());
    put(target, &one, &full).await.unwrap();
    put(target, &two, &delta).await.unwrap();
    assert_eq!(target.find("web-1").await.unwrap().unwrap(), one);
    let names = |chain: Vec<Manifest>| chain.into_iter().map(|one| one.name).collect::<Vec<_>>();
    assert_eq!(names(chain(target, "web-2").await.unwrap()), ["web-1", "web-2"]);

    let dir = tempfile::tempdir().unwrap();
    let file = target.bring("web-1", &one.disks[0], dir.path()).await.unwrap();
    assert!(std::fs::read(file).unwrap() == full, "what is brought is not what was kept");
    let drilled = Drilled { vm: "v".into(), at_ms: 2, failure: None };
    target.write_drilled("web-2", &drilled).await.unwrap();
    let listed = target.list().await.unwrap();
    let seen: Vec<_> = listed.iter().map(|one| (&*one.name, one.manifest.is_ok(), one.drilled.is_some())).collect();
    assert_eq!(seen, [("web-1", true, false), ("web-2", true, true)]);

    // A byte that is another, then one that is missing, then the file.
    let mut damaged = full.clone();
    damaged[PART as usize + 7] ^= 1;
    touch("web-1", "root.simulated", Some(&damaged));
    let error = target.bring("web-1", &one.disks[0], dir.path()).await.unwrap_err();
    assert!(error.kind() == io::ErrorKind::InvalidData && error.to_string().contains("web-1"), "{error}");
    touch("web-1", "root.simulated", Some(&full[1..]));
    let why = async |name: &str| {
        let listed = target.list().await.unwrap();
        listed.into_iter().find(|one| one.name == name).unwrap().manifest.unwrap_err()
    };
    assert!(why("web-1").await.contains("root.simulated"));
    assert!(why("web-2").await.contains("based on web-1"), "what is based on one that is damaged is damaged");
    touch("web-1", "root.simulated", None);
    assert!(why("web-1").await.contains("not there"));
    let error = target.bring("web-1", &one.disks[0], dir.path()).await.unwrap_err();
    assert!(error.to_string().contains("root.simulated is not there"), "{error}");
    // A manifest that is not understood is shown by its name.
    touch("web-1", MANIFEST, Some(b"{}"));
    assert!(why("web-1").await.contains("not understood"));
    assert!(chain(target, "web-2").await.is_err());

    // Gone twice is gone; the other stays, and says what it misses.
    for _ in 0..2 {
        target.remove("web-1").await.unwrap();
    }
    let error = chain(target, "web-2").await.unwrap_err().to_string();
    assert!(error.contains("web-2 is based on web-1, which is not there"), "{error}");
    put(target, &one, &full).await.unwrap();
    assert!(target.list().await.unwrap().iter().all(|one| one.manifest.is_ok()));
    // Begun and discarded.
    stage(target, &manifest("web-3", None, b"x"), b"x").await.unwrap();
    for name in ["web-1", "web-2", "web-3"] {
        target.remove(name).await.unwrap();
    }
    assert!(target.list().await.unwrap().is_empty());
}

fn touch(root: &FilePath) -> impl Fn(&str, &str, Option<&[u8]>) {
    move |name, file, body| {
        let path = root.join(name).join(file);
        match body {
            Some(body) => std::fs::write(path, body).unwrap(),
            None => std::fs::remove_file(path).unwrap(),
        }
    }
}

#[tokio::test]
async fn a_directory_keeps_backups_whole_and_shows_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let target = open(dir.path().to_str().unwrap(), dir.path()).unwrap();
    keeps(&*target, touch(dir.path())).await;
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something is left");
    let nowhere = open("/nowhere/at/all", dir.path()).unwrap();
    for error in
        [nowhere.begin("x").await.unwrap_err(), nowhere.remove("x").await.unwrap_err(), nowhere.list().await.unwrap_err()]
    {
        assert!(is_final(&error), "{error}");
    }
}

#[tokio::test]
async fn an_object_store_keeps_backups_whole_and_shows_what_is_damaged() {
    let (server, scratch) = (Server::start().await, tempfile::tempdir().unwrap());
    let target = server.open(SECRET, scratch.path());
    keeps(&target, touch(&server.dir.path().join("kept/hive"))).await;
    assert_eq!(server.files(), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "something is left on the node");
}

#[tokio::test]
async fn an_object_store_that_dies_amid_an_upload_leaves_no_backup_and_the_next_try_is_whole() {
    let (server, scratch) = (Server::start().await, tempfile::tempdir().unwrap());
    let target = server.open(SECRET, scratch.path());
    let full = body(2);
    let one = manifest("web-1", None, &full);
    // Requests of a whole backup: after so many it dies.
    let mut died = 0;
    for requests in 1.. {
        stage(&target, &one, &full).await.unwrap();
        server.left.store(requests, Ordering::Release);
        let kept = tokio::time::timeout(Deadline::after(std::time::Duration::from_secs(60)).remaining(), target.keep(&one)).await;
        server.left.store(usize::MAX, Ordering::Release);
        // What is there afterwards is nothing or all of it, whatever was said.
        let whole = target.find("web-1").await.unwrap().is_some();
        match kept.expect("it ends by itself") {
            Ok(()) => {
                assert!(whole);
                break;
            }
            Err(error) => {
                died += 1;
                assert!(!is_final(&error), "after {requests}: {error}");
                let said = format!("{error} {error:?}");
                assert!(!said.contains(SECRET) && !said.contains(KEY), "{said}");
            }
        }
        put(&target, &one, &full).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        target.bring("web-1", &one.disks[0], dir.path()).await.unwrap();
        target.remove("web-1").await.unwrap();
        assert_eq!(server.files(), Vec::<String>::new(), "after {requests}: an upload that was broken off is left");
    }
    assert!(died > 3, "it never died amid it: {died}");
}

#[tokio::test]
async fn an_object_store_that_does_not_let_the_node_in_says_so_at_once_and_without_its_secrets() {
    let (server, scratch) = (Server::start().await, tempfile::tempdir().unwrap());
    let target = server.open("another-secret", scratch.path());
    let error = target.list().await.unwrap_err();
    assert!(is_final(&error), "{error:?}");
    let said = format!("{error} {error:?}");
    assert!(!said.contains("another-secret") && !said.contains(SECRET), "{said}");
}
