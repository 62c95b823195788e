//! The listener, the router and the guard in front of every handler.
//!
//! Owns the counts of what is open at once; [`crate::accept`] has the sockets. Requests over `requests_max` get 503 with
//! `Retry-After`; those with large bodies wait for their turn ([`crate::large_bodies`]).
//! Stopping: no new connection, idle ones are closed, running requests finish until the drain's deadline.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{any, get},
};
use futures_util::future::BoxFuture;
use hiveward_actors::{client::ControlPlane, node::GatewayAt};
use hiveward_runtime::error::{Code, Refused};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_http::{catch_panic::CatchPanicLayer, set_header::SetResponseHeaderLayer};

use crate::{
    accept::{Accepting, accept},
    auth::{
        Auth, Principal,
        credentials::{self, Credentials},
    },
    engine::Engine,
    large_bodies::LargeBodies,
    limit::DocumentLimits,
    negotiate::Media,
    origin::{Origins, cross_origin, is_origin},
    over_http::{self, HttpRefusal},
    places::{Strangers, WrongTokens, asker},
    pool::Pools,
    probe::{self, Probe},
    stream::{attach, shared::Shares, sse, ws},
    tls::{Tls, TlsConfig, TlsError},
    ui,
};

/// The gateway's own part of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Where to listen; another address than loopback needs tokens in `auth`, and TLS or `insecure`.
    pub listen: SocketAddr,
    /// Whether it may listen without TLS on another address than loopback: for where something in front of it speaks TLS.
    pub insecure: bool,
    /// Origins besides those of the cluster's own gateways whose pages may ask and open WebSockets.
    pub allowed_origins: Vec<String>,
    /// Where browsers reach this gateway, such as `https://hive.example`: a page of another node goes on from here when
    /// that node is gone. Found out if absent.
    pub public_url: Option<String>,
    /// Bytes of a request's body, and of one WebSocket message.
    pub body_bytes_max: usize,
    /// For a connection's first request's header, and for the body of each.
    pub read_timeout_ms: u64,
    /// For the whole of one query or mutation.
    pub request_timeout_ms: u64,
    /// Queries and mutations that run at once.
    pub requests_max: usize,
    pub connections_max: usize,
    /// Connections of one address that are open at once; a proxy in front of the gateway is one address.
    pub connections_per_address_max: usize,
    /// WebSockets whose clients have not shown a token yet; each has `init_timeout_ms` for that.
    pub strangers_max: usize,
    /// The same, of one address.
    pub strangers_per_address_max: usize,
    /// Subscriptions over SSE, and WebSocket connections, that are open at once.
    pub streams_max: usize,
    /// Operations open at once on one WebSocket connection.
    pub operations_per_connection_max: usize,
    /// From the WebSocket's opening to its `connection_init`.
    pub init_timeout_ms: u64,
    /// Messages that wait for one WebSocket client; its subscriptions pause while the queue is full.
    pub send_queue_max: usize,
    /// Bytes of those messages; one message may be larger when it waits alone.
    pub send_queue_bytes_max: usize,
    /// A client that takes nothing for this long is closed.
    pub stall_timeout_ms: u64,
    pub ping_every_ms: u64,
    pub limits: DocumentLimits,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7700)),
            insecure: false,
            allowed_origins: Vec::new(),
            public_url: None,
            body_bytes_max: 1024 * 1024,
            read_timeout_ms: 10_000,
            request_timeout_ms: 30_000,
            requests_max: 512,
            connections_max: 4_096,
            connections_per_address_max: 2_048,
            strangers_max: 512,
            strangers_per_address_max: 128,
            streams_max: 4_096,
            operations_per_connection_max: 32,
            init_timeout_ms: 3_000,
            send_queue_max: 256,
            send_queue_bytes_max: 1024 * 1024,
            stall_timeout_ms: 10_000,
            ping_every_ms: 20_000,
            limits: DocumentLimits::default(),
        }
    }
}

impl HttpConfig {
    /// Returns what other nodes are told of where browsers reach this gateway; nothing if that cannot be known.
    pub fn reached_at(&self) -> Option<GatewayAt> {
        match (&self.public_url, self.listen) {
            (Some(url), _) => Some(GatewayAt::Url(url.clone())),
            (None, listen) if listen.port() == 0 => None,
            (None, listen) if listen.ip().is_unspecified() => Some(GatewayAt::Port(listen.port())),
            (None, listen) => Some(GatewayAt::Url(format!("http://{listen}"))),
        }
    }

    /// Refuses what cannot be. The error names the field.
    pub fn check(&self) -> Result<(), String> {
        match self.public_url.as_deref().filter(|url| !is_origin(url)) {
            Some(url) => {
                Err(format!("gateway.public_url: {url:?} is no origin, such as https://hive.example or http://10.0.0.1:7700"))
            }
            None => Ok(()),
        }
    }

    /// Returns how long a request's header may take, and again its body.
    pub fn read_timeout(&self) -> Duration {
        Duration::from_millis(self.read_timeout_ms)
    }
    /// Returns how long one query or mutation may take.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }
    /// Returns after how long a client that takes nothing is closed.
    pub fn stall_timeout(&self) -> Duration {
        Duration::from_millis(self.stall_timeout_ms)
    }
}

/// What the handlers stand on.
pub struct Gateway {
    pub engine: Arc<dyn Engine>,
    /// The threads on which requests are executed.
    pub pools: Arc<Pools>,
    pub shares: Shares,
    pub auth: Auth,
    pub config: HttpConfig,
    pub probe: Arc<dyn Probe>,
    pub origins: Origins,
    pub requests: Semaphore,
    /// Turns of requests whose bodies are large.
    pub large_bodies: LargeBodies,
    /// Places for streams of clients that are known.
    pub streams: Arc<Semaphore>,
    /// Places for sockets of clients that are not known yet.
    pub strangers: Strangers,
    pub wrong_tokens: WrongTokens,
    /// The node whose agents' terminals are served; none in a gateway without a node behind it.
    pub terminals: Option<ControlPlane>,
    /// Rings when credentials were made or revoked.
    credentials: Option<Credentials>,
    /// A token that is cancelled when the gateway begins to stop: subscriptions end and tell their clients.
    pub stopping: CancellationToken,
}

/// The address a connection came from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

impl Gateway {
    /// Makes a gateway without a node's terminals. Errors: no threads can be had.
    pub fn new(engine: Arc<dyn Engine>, auth: Auth, config: HttpConfig, probe: Arc<dyn Probe>) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self::made(engine, auth, config, probe, None)?))
    }

    /// Makes a gateway as [`Self::new`] does, which also serves the terminals of a node's agents.
    pub fn of_node(
        engine: Arc<dyn Engine>,
        auth: Auth,
        config: HttpConfig,
        probe: Arc<dyn Probe>,
        node: ControlPlane,
    ) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self::made(engine, auth, config, probe, Some(node))?))
    }

    fn made(
        engine: Arc<dyn Engine>,
        auth: Auth,
        config: HttpConfig,
        probe: Arc<dyn Probe>,
        terminals: Option<ControlPlane>,
    ) -> std::io::Result<Self> {
        let origins = Origins::new(config.allowed_origins.clone());
        let origins = match terminals.clone() {
            Some(node) => origins.with_members(move || node.gateways()),
            None => origins,
        };
        Ok(Self {
            credentials: terminals.clone().map(Credentials::watch),
            engine,
            pools: Arc::new(Pools::start()?),
            shares: Shares::default(),
            auth,
            probe,
            origins,
            requests: Semaphore::new(config.requests_max),
            large_bodies: LargeBodies::default(),
            streams: Arc::new(Semaphore::new(config.streams_max)),
            strangers: Strangers::new(config.strangers_max, config.strangers_per_address_max),
            wrong_tokens: WrongTokens::default(),
            terminals,
            stopping: CancellationToken::new(),
            config,
        })
    }

    /// Returns who asks, by the `Authorization` of a request. Wrong tokens of one address are bounded.
    pub fn known(&self, request: &axum::http::request::Parts) -> Result<Arc<Principal>, HttpRefusal> {
        self.check(asker_of(request), request.headers.contains_key(header::AUTHORIZATION), || self.auth.headers(&request.headers))
            .map_err(|refused| match refused.code {
                Code::Busy => HttpRefusal { status: StatusCode::TOO_MANY_REQUESTS, refused },
                _ => HttpRefusal::unauthenticated(refused),
            })
    }

    /// Waits until what somebody asks with is worth nothing any more, for good where that cannot be.
    pub fn revoked(&self, who: &Principal) -> impl Future<Output = ()> + Send + use<> {
        credentials::over(self.credentials.as_ref(), who)
    }

    /// Checks a credential of an address; one that was shown and is wrong is counted. A call within the process has no address.
    pub fn check(
        &self,
        address: Option<IpAddr>,
        shown: bool,
        check: impl FnOnce() -> Result<Arc<Principal>, Refused>,
    ) -> Result<Arc<Principal>, Refused> {
        if let Some(address) = address.filter(|_| shown) {
            self.wrong_tokens.allowed(address)?;
        }
        let checked = check();
        if let (Some(address), true, Err(_)) = (address, shown, &checked) {
            self.wrong_tokens.count(address);
        }
        checked
    }

    /// Returns the whole HTTP surface, for a listener or for a test that calls it in process.
    pub fn router(self: &Arc<Self>) -> Router {
        let origins = self.origins.clone();
        let cross = middleware::from_fn(move |request, next| cross_origin(origins.clone(), request, next));
        Router::new()
            .route("/", get(ui::app))
            .route("/ui", get(ui::app))
            .route("/ui/", get(ui::app))
            .route("/ui/{*screen}", get(ui::app))
            .route("/ui/assets/{*path}", get(ui::app_asset))
            .route("/graphql", any(graphql).layer(cross))
            .route("/graphql/ws", any(ws::upgrade))
            .route("/attach/ws", get(attach::upgrade))
            .route("/graphql/stream", any(sse::handle))
            .route("/ui/graphiql/{*path}", get(ui::graphiql_asset))
            .route("/healthz", get(probe::healthz))
            .route("/readyz", get(probe::readyz))
            .route("/metrics", get(probe::metrics))
            .fallback(not_found)
            .with_state(self.clone())
            .layer(CatchPanicLayer::custom(panicked))
            .layer(fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .layer(fixed(header::REFERRER_POLICY, "no-referrer"))
            .layer(fixed(header::X_FRAME_OPTIONS, "DENY"))
    }
}

/// Returns whom a request came from; `None` if it was made within this process.
pub fn asker_of(request: &axum::http::request::Parts) -> Option<IpAddr> {
    request.extensions.get::<Peer>().map(|Peer(peer)| asker(*peer, &request.headers))
}

fn fixed(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
}

async fn graphql(state: axum::extract::State<Arc<Gateway>>, request: Request) -> Response {
    if ui::is_page_request(&request) { ui::graphiql(request.headers()) } else { over_http::handle(state, request).await }
}

async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "nothing is served here; the API is at /graphql\n").into_response()
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let message = panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
    tracing::error!(message = message.as_deref().unwrap_or("no message"), "a request handler panicked");
    HttpRefusal::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, "internal error; the log has the cause")
        .answer(Media::Json)
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(
        "{listen} is not a loopback address and no credentials are configured; add a token under `auth.tokens` or listen on 127.0.0.1"
    )]
    NoCredentials { listen: SocketAddr },
    #[error(
        "{listen} is not a loopback address, and tokens would go over the network as they are; give a certificate under `tls`, or say `insecure: true` under `gateway` where something in front of it speaks TLS"
    )]
    Insecure { listen: SocketAddr },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot listen on {listen}; another process may use it: choose another with --listen")]
    Bind {
        listen: SocketAddr,
        #[source]
        source: std::io::Error,
    },
}

/// How long the end waits for threads that are at work for a request that is gone: for a field of it, at most.
const AT_WORK_MAX: Duration = Duration::from_secs(5);

/// A listening gateway. Dropping it stops accepting and cuts the connections.
pub struct Server {
    address: SocketAddr,
    gateway: Arc<Gateway>,
    accepting: JoinHandle<()>,
    connections: TaskTracker,
    closing: CancellationToken,
    cut: CancellationToken,
    /// Looks at the files of the certificate.
    _tls: Option<Tls>,
}

impl Server {
    /// Binds and serves. `credentials_configured` says that somebody chose tokens; the administrator's own does not count.
    pub fn start(gateway: Arc<Gateway>, credentials_configured: bool) -> BoxFuture<'static, Result<Self, ServeError>> {
        Self::start_with(gateway, credentials_configured, TlsConfig::default())
    }

    /// Binds and serves as [`Self::start`] does, over TLS if that is configured.
    pub fn start_with(
        gateway: Arc<Gateway>,
        credentials_configured: bool,
        tls: TlsConfig,
    ) -> BoxFuture<'static, Result<Self, ServeError>> {
        // What serves connections is compiled here, and not again in each program that starts one.
        Box::pin(Self::bind(gateway, credentials_configured, tls))
    }

    async fn bind(gateway: Arc<Gateway>, credentials_configured: bool, tls: TlsConfig) -> Result<Self, ServeError> {
        let listen = gateway.config.listen;
        if !listen.ip().is_loopback() && !credentials_configured {
            return Err(ServeError::NoCredentials { listen });
        }
        if !listen.ip().is_loopback() && !tls.is_on() && !gateway.config.insecure {
            return Err(ServeError::Insecure { listen });
        }
        let tls = Tls::start(&tls)?;
        let bound = async {
            let listener = TcpListener::bind(listen).await?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = bound.await.map_err(|source| ServeError::Bind { listen, source })?;
        let (closing, cut) = (CancellationToken::new(), CancellationToken::new());
        let connections = TaskTracker::new();
        let limits = Accepting {
            connections_max: gateway.config.connections_max,
            per_address_max: gateway.config.connections_per_address_max,
            read_timeout: gateway.config.read_timeout(),
            stall: gateway.config.stall_timeout(),
            gauge: "hiveward_http_connections",
            tls: tls.as_ref().map(Tls::acceptor),
        };
        let accepting =
            tokio::spawn(accept(listener, gateway.router(), limits, connections.clone(), closing.clone(), cut.clone()));
        Ok(Self { address, gateway, accepting, connections, closing, cut, _tls: tls })
    }

    /// Returns the address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns what its handlers stand on.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Stops accepting, ends subscriptions, lets running requests finish for up to `grace`, then cuts what is left.
    pub async fn stop(self, grace: Duration) {
        self.gateway.stopping.cancel();
        self.closing.cancel();
        self.connections.close();
        if tokio::time::timeout(grace, self.connections.wait()).await.is_err() {
            self.cut.cancel();
            self.connections.wait().await;
        }
        self.gateway.pools.idle(AT_WORK_MAX).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.gateway.stopping.cancel();
        self.accepting.abort();
        self.cut.cancel();
    }
}
