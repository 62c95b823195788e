//! The threads on which GraphQL is executed, apart from those that leases, Raft and coordinators need.
//!
//! Reading views and making answers is work that never waits, so a thread that does it does nothing else meanwhile. Two
//! small runtimes: queries and subscriptions, which give way to everything else (`nice`), and mutations, which no query
//! may hold up. What was asked for by a request ends with it (decision 24).

use std::{future::Future, io, time::Duration};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::{AbortHandle, JoinSet},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::Instrument;

use crate::bound::Memory;

/// The number of threads that execute queries and the items of subscriptions.
pub const QUERY_THREADS: usize = 2;
/// The number of threads that execute mutations.
pub const MUTATION_THREADS: usize = 2;
/// The most threads of each runtime for what waits for a disk, such as a piece of an artifact: so many are read at once.
const BLOCKING_THREADS_MAX: usize = 16;
/// How far queries stand back behind the node's other threads, as `nice` counts it.
const QUERY_NICE: i32 = 5;
/// The name of the threads for queries.
pub const QUERY_THREAD_NAME: &str = "hw-query";
/// The name of the threads for mutations.
pub const MUTATION_THREAD_NAME: &str = "hw-mutation";

struct Threads {
    /// The runtime; `None` only while it is dropped.
    runtime: Option<Runtime>,
    tasks: TaskTracker,
}

impl Threads {
    fn start(name: &str, threads: usize, nice: Option<i32>) -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(threads).max_blocking_threads(BLOCKING_THREADS_MAX).thread_name(name).enable_all();
        if let Some(nice) = nice {
            builder.on_thread_start(move || {
                // On Linux this sets the priority of the calling thread alone.
                if let Err(error) = rustix::process::setpriority_process(None, nice) {
                    tracing::debug!(%error, "a thread for queries has the priority of all others");
                }
            });
        }
        Ok(Self { runtime: Some(builder.build()?), tasks: TaskTracker::new() })
    }

    fn handle(&self) -> Option<&Handle> {
        self.runtime.as_ref().map(Runtime::handle)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // This never waits: the threads may be dropped where waiting is not allowed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The threads of one gateway. Dropping it ends what runs on them.
pub struct Pools {
    queries: Threads,
    mutations: Threads,
    /// The count of what answers take while they are made and sent.
    pub memory: Memory,
}

impl Pools {
    /// Starts the threads. Errors: none can be had.
    pub fn start() -> io::Result<Self> {
        Ok(Self {
            queries: Threads::start(QUERY_THREAD_NAME, QUERY_THREADS, Some(QUERY_NICE))?,
            mutations: Threads::start(MUTATION_THREAD_NAME, MUTATION_THREADS, None)?,
            memory: Memory::default(),
        })
    }

    /// Runs something to its end on the threads for it. Dropping the future ends it; a panic goes on in the caller.
    pub async fn run<T: Send + 'static>(&self, mutation: bool, work: impl Future<Output = T> + Send + 'static) -> T {
        let task = self.spawn(mutation, work);
        match task.await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The gateway is going away, and whoever asked with it.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Starts something on the threads for it. Dropping the handle ends it.
    pub fn spawn<T: Send + 'static>(
        &self,
        mutation: bool,
        work: impl Future<Output = T> + Send + 'static,
    ) -> AbortOnDropHandle<T> {
        let threads = if mutation { &self.mutations } else { &self.queries };
        let work = threads.tasks.track_future(work.in_current_span());
        AbortOnDropHandle::new(match threads.handle() {
            Some(handle) => handle.spawn(work),
            None => tokio::spawn(work),
        })
    }

    /// Starts something as [`Pools::spawn`] does, as one of a set, which ends it when it is dropped.
    pub fn spawn_in(
        &self,
        set: &mut JoinSet<()>,
        mutation: bool,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        let threads = if mutation { &self.mutations } else { &self.queries };
        let work = threads.tasks.track_future(work.in_current_span());
        match threads.handle() {
            Some(handle) => set.spawn_on(work, handle),
            None => set.spawn(work),
        }
    }

    /// Waits until nothing runs any more, at most for `within`. Nobody may ask for anything new meanwhile.
    pub async fn idle(&self, within: Duration) {
        let all = async {
            for threads in [&self.queries, &self.mutations] {
                threads.tasks.close();
                threads.tasks.wait().await;
            }
        };
        if tokio::time::timeout(within, all).await.is_err() {
            tracing::warn!("queries are still at work after {within:?}; they are left behind");
        }
    }
}
