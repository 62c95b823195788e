//! Connections of a listener: who gets one, how long it may take, and what those hear who do not get served.
//!
//! Owns the sockets. Connections over the bounds get 503 and are closed; nothing is queued here. A connection on which no
//! whole request comes in time is told so with 408. One that was served may idle for [`IDLE_MAX`] and is then closed without a
//! word, as is the custom of HTTP.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, extract::Request, middleware};
use hiveward_runtime::error::{Code, Refused};
use hyper::rt::{Sleep, Timer};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{engine::EngineAnswer, places::ByAddress, serve::Peer};

/// How long a connection that was served may idle until its next request. Clients keep theirs for 90 seconds, as Go and reqwest
/// do, or shorter: who closes first must be the client, because a request that meets a close is lost, and it does not know
/// whether that was done.
const IDLE_MAX: Duration = Duration::from_secs(120);
/// How long a client that was not served may take to hear why.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);

/// The bounds that a listener sets its connections.
pub(crate) struct Accepting {
    pub connections_max: usize,
    /// The most connections of one address.
    pub per_address_max: usize,
    /// How long a request's header may take.
    pub read_timeout: Duration,
    /// How long a peer may take nothing before it loses its connection.
    pub stall: Duration,
    /// The gauge in which open connections are counted.
    pub gauge: &'static str,
    /// What makes TLS of a connection; none where it stays as it is.
    pub tls: Option<TlsAcceptor>,
}

/// Serves what connects until `closing`; `cut` ends what is still open then. The tracker has every connection.
pub(crate) async fn accept(
    listener: TcpListener,
    router: Router,
    limits: Accepting,
    connections: TaskTracker,
    closing: CancellationToken,
    cut: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let by_address = ByAddress::default();
    let Accepting { read_timeout, stall, gauge, per_address_max, tls, .. } = limits;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: waiting is all that helps.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let place = places.clone().try_acquire_owned().ok();
        let Some(place) = place.zip(by_address.take(peer.ip(), per_address_max)) else {
            connections.spawn(turn_away(stream));
            continue;
        };
        let (service, tls, tracker) = (router.clone(), tls.clone(), connections.clone());
        let (closing, cut) = (closing.clone(), cut.clone());
        connections.spawn(async move {
            metrics::gauge!(gauge).increment(1.0);
            // A peer that takes nothing we send (or is gone) for this long loses its connection, whatever handler serves it.
            let socket = socket2::SockRef::from(&stream);
            if let Err(error) = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_user_timeout(Some(stall))) {
                tracing::debug!(%error, "socket options");
            }
            let served = async move {
                let Some(tls) = tls else { return connection(stream, peer, service, read_timeout, closing).await };
                match tokio::time::timeout(read_timeout, tls.accept(stream)).await {
                    Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(HTTP_2) => {
                        multiplexed(stream, peer, service, read_timeout, closing, tracker).await;
                    }
                    Ok(Ok(stream)) => connection(stream, peer, service, read_timeout, closing).await,
                    Ok(Err(error)) => tracing::debug!(%error, %peer, "no TLS was made of a connection"),
                    Err(_) => tracing::debug!(%peer, "a client did not say in time how it wants to speak"),
                }
            };
            tokio::select! {
                () = served => {}
                () = cut.cancelled() => {}
            }
            metrics::gauge!(gauge).decrement(1.0);
            drop(place);
        });
    }
}

/// The protocol's name, as client and server agree on it.
const HTTP_2: &[u8] = b"h2";
/// The requests that one connection of HTTP/2 may have under way.
const STREAMS_PER_CONNECTION_MAX: u32 = 128;

/// Runs what a connection of HTTP/2 does beside itself among the gateway's connections, which end with it.
#[derive(Clone)]
struct OnTracker(TaskTracker);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for OnTracker {
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// Serves a connection of HTTP/2.
async fn multiplexed<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: SocketAddr,
    router: Router,
    read_timeout: Duration,
    closing: CancellationToken,
    tracker: TaskTracker,
) {
    let router = router.layer(axum::Extension(Peer(peer.ip())));
    let mut builder = hyper::server::conn::http2::Builder::new(OnTracker(tracker));
    builder.timer(TokioTimer::new()).keep_alive_interval(IDLE_MAX).keep_alive_timeout(read_timeout);
    builder.max_concurrent_streams(STREAMS_PER_CONNECTION_MAX).max_header_list_size(64 * 1024);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = closing.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "connection ended");
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: SocketAddr,
    router: Router,
    read_timeout: Duration,
    closing: CancellationToken,
) {
    let served = Served::default();
    let noted = middleware::map_request({
        let served = served.clone();
        move |request: Request| {
            served.note();
            std::future::ready(request)
        }
    });
    let router = router.layer(axum::Extension(Peer(peer.ip()))).layer(noted);
    let mut builder = hyper::server::conn::http1::Builder::new();
    let timer = HeadTimer { served: served.clone(), longer: IDLE_MAX.saturating_sub(read_timeout) };
    builder.timer(timer).header_read_timeout(read_timeout).max_buf_size(64 * 1024);
    let mut serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).with_upgrades();
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = closing.cancelled() => {
            Pin::new(&mut serving).graceful_shutdown();
            (&mut serving).await
        }
    };
    let Err(error) = ended else { return };
    tracing::debug!(%error, %peer, "connection ended");
    let late = error.is_timeout().then(|| serving.into_parts()).flatten();
    if let Some(parts) = late.filter(|parts| !served.ever() || !parts.read_buf.is_empty()) {
        say_too_late(parts.io.into_inner(), read_timeout).await;
    }
}

/// Whether a connection had a request. It is cheap to clone; all clones are one.
#[derive(Clone, Default)]
struct Served(Arc<AtomicBool>);

impl Served {
    fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn ever(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The timer of a connection's heads. hyper has one time for the head of a request and for idling before it; this one gives
/// the first head that time, and those after it `longer`.
struct HeadTimer {
    served: Served,
    longer: Duration,
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        TokioTimer::new().sleep(duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        TokioTimer::new().sleep_until(if self.served.ever() { deadline + self.longer } else { deadline })
    }

    fn now(&self) -> Instant {
        TokioTimer::new().now()
    }
}

/// Says that no whole request came in time, and takes what the client may be sending: answered amid that and cut, it would find
/// its connection reset, and not know whether anything was done.
async fn say_too_late(mut stream: impl AsyncRead + AsyncWrite + Unpin, read_timeout: Duration) {
    metrics::counter!("hiveward_http_too_late_total").increment(1);
    let why = format!("no whole request came within {read_timeout:?} (limit `read_timeout_ms`); nothing happened: send it again");
    let why = EngineAnswer::refused(&Refused::new(Code::Limit, why)).json;
    let head = format!(
        "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        why.len()
    );
    let saying = async {
        stream.write_all(&[head.as_bytes(), &why].concat()).await?;
        stream.shutdown().await?;
        let mut taken = [0; 4_096];
        while stream.read(&mut taken).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    if !matches!(tokio::time::timeout(LAST_WORDS_WITHIN, saying).await, Ok(Ok(()))) {
        tracing::debug!("a client that was too late did not take its answer");
    }
}

/// Says at once why, without reading: the client is over the cap.
async fn turn_away(mut stream: TcpStream) {
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    metrics::counter!("hiveward_http_turned_away_total").increment(1);
    let written = tokio::time::timeout(LAST_WORDS_WITHIN, stream.write_all(ANSWER)).await;
    if !matches!(written, Ok(Ok(()))) {
        tracing::debug!("a turned-away client did not take its answer");
    }
}
