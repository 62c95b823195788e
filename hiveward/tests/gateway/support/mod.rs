//! A gateway over a small schema of its own, so that transports are tested apart from the node.

pub mod node;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_graphql::{Context, Object, Schema, Subscription};
use futures_util::{Stream, StreamExt, stream};
use hiveward_gateway::{
    auth::Auth,
    bound::Bounds,
    engine::Position,
    probe::Probe,
    serve::{Gateway, HttpConfig, Server},
};

pub const TOKEN: &str = "hw_test";
/// The token of a client who is no administrator.
pub const CLIENT_TOKEN: &str = "hw_client";

pub struct Query;

#[Object]
impl Query {
    async fn hello(&self) -> &str {
        "world"
    }
    async fn hang(&self) -> bool {
        std::future::pending().await
    }
    async fn boom(&self) -> async_graphql::Result<i32> {
        Err(std::io::Error::other("secret detail").into())
    }
    async fn again(&self) -> Self {
        Query
    }
    /// As many of the same.
    async fn many(&self, count: usize) -> Vec<Self> {
        (0..count).map(|_| Query).collect()
    }
    /// A text of so many bytes.
    async fn text(&self, bytes: usize) -> String {
        TEXTS_MADE.fetch_add(1, Ordering::Relaxed);
        "x".repeat(bytes)
    }
    /// Keeps a thread at work.
    async fn work(&self, ms: u64) -> bool {
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(ms) {
            std::hint::spin_loop();
        }
        true
    }
    /// The name of the thread that resolves this.
    async fn thread(&self) -> String {
        thread_name()
    }
}

/// Texts that were made, by all gateways of this process.
pub static TEXTS_MADE: AtomicUsize = AtomicUsize::new(0);

/// Items of floods that were made, by all gateways of this process.
pub static FLOODS_MADE: AtomicUsize = AtomicUsize::new(0);

fn thread_name() -> String {
    std::thread::current().name().unwrap_or_default().to_owned()
}

pub struct Mutation;

#[Object]
impl Mutation {
    async fn change(&self) -> bool {
        true
    }
    async fn thread(&self) -> String {
        thread_name()
    }
    async fn query(&self) -> Query {
        Query
    }
}

pub struct Feeds;

#[Subscription]
impl Feeds {
    /// Counts from after `after`, a number at a time, with its position.
    async fn count(&self, ctx: &Context<'_>, #[graphql(default = 0)] after: u32, to: u32) -> impl Stream<Item = u32> {
        let position = ctx.data_opt::<Position>().cloned().unwrap_or_default();
        let after = position.resume_after().and_then(|text| text.parse().ok()).unwrap_or(after);
        stream::iter(after + 1..=to).inspect(move |n| position.reach(n))
    }
    /// An item that says which thread resolved it.
    async fn asked(&self) -> impl Stream<Item = Query> {
        stream::iter([Query])
    }
    /// Says nothing, for ever.
    async fn silence(&self) -> impl Stream<Item = u32> {
        stream::pending()
    }
    /// As much as anybody will take, 256 KiB at a time.
    async fn flood(&self) -> impl Stream<Item = String> {
        stream::repeat_with(|| {
            FLOODS_MADE.fetch_add(1, Ordering::Relaxed);
            "x".repeat(256 << 10)
        })
    }
}

pub struct AlwaysReady;

impl Probe for AlwaysReady {
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
    fn metrics(&self) -> String {
        "up 1\n".into()
    }
}

pub fn config() -> HttpConfig {
    HttpConfig { listen: ([127, 0, 0, 1], 0).into(), ..HttpConfig::default() }
}

pub fn gateway(config: HttpConfig) -> Arc<Gateway> {
    let schema = Schema::build(Query, Mutation, Feeds).extension(Bounds).finish();
    let auth = Auth::new([("tester".to_owned(), Auth::digest(TOKEN), hiveward_access::role::Role::Admin)]);
    Gateway::new(Arc::new(schema), auth, config, Arc::new(AlwaysReady)).unwrap()
}

pub async fn server(change: impl FnOnce(&mut HttpConfig)) -> Server {
    let mut config = config();
    change(&mut config);
    Server::start(gateway(config), false).await.unwrap()
}

/// Fails the test when the condition does not come true in reasonable time.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    soon_within(Duration::from_secs(10), what, future).await
}

/// For what has a pace of its own.
pub async fn soon_within<T>(time: Duration, what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(time, future).await.unwrap_or_else(|_| panic!("not in {time:?}: {what}"))
}
