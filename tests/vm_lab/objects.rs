//! An object store that speaks S3, on loopback, in this process.

use std::path::PathBuf;

use hiveward_tests::Setup;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};

const KEY: &str = "AKIALABKEY";
pub const SECRET: &str = "nobody-may-read-this";

/// Has one bucket, `kept`.
pub struct Objects {
    dir: tempfile::TempDir,
    port: u16,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Objects {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Objects {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("kept")).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(dir.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = builder.build();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self { dir, port, task }
    }

    /// A node that is let in.
    pub fn setup(&self) -> Setup {
        Setup::default()
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port))
            .env("AWS_REGION", "lab-1")
            .env("AWS_ACCESS_KEY_ID", KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
    }

    pub fn bucket(&self) -> PathBuf {
        self.dir.path().join("kept")
    }
}
