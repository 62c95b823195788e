//! The listening side: caps come first, then a deadline, then the proof of who it is.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rustls::{ServerConfig, server::Acceptor as ClientHelloReader};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{
    Down, Lane, LinkRefused,
    conn::{Conn, tune},
    dial::{Admitted, live},
    down::millis,
    frame::{HELLO_BYTES_MAX, Kind},
    gate::Place,
    hello::Hello,
    join::serve_join,
    manager::Shared,
};
use crate::net::identity::{Identity, IdentityError, NodeCertificate, join_server_config, member_server_config};

/// The pause after the machine ran out of file descriptors: asking again at once would only burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The TLS configuration of each lane.
pub(super) struct Acceptor(Vec<(Lane, Arc<ServerConfig>)>);

impl Acceptor {
    pub(super) fn new(identity: &Identity) -> Result<Self, IdentityError> {
        let config = |lane: Lane| {
            let protocols = vec![lane.protocol().to_vec()];
            let config = match lane {
                Lane::Join => join_server_config(identity, protocols),
                _ => member_server_config(identity, protocols),
            };
            config.map(|config| (lane, Arc::new(config)))
        };
        Lane::ALL.into_iter().map(config).collect::<Result<_, _>>().map(Self)
    }

    /// Picks the lane before the handshake goes on, so that only the join lane ever talks to a client without a certificate.
    async fn handshake(&self, tcp: TcpStream) -> Result<(Lane, TlsStream<TcpStream>), Down> {
        let start = LazyConfigAcceptor::new(ClientHelloReader::default(), tcp).await.map_err(|error| Down::of(&error))?;
        let lane = start.client_hello().alpn().and_then(|mut wanted| wanted.find_map(Lane::of));
        let picked = lane.and_then(|lane| self.0.iter().find(|(served, _)| *served == lane));
        let Some((lane, config)) = picked else { return Err(Down::WeRefused(LinkRefused::NoSuchLane)) };
        let stream = start.into_stream(config.clone()).await.map_err(|error| Down::of(&error))?;
        Ok((*lane, stream))
    }
}

/// Accepts until told to stop; then waits for the links it accepted, which say goodbye by themselves.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener, acceptor: Acceptor) {
    let acceptor = Arc::new(acceptor);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection's task panicked");
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((tcp, from)) => match shared.gate.enter(from.ip()) {
                    Some(place) => {
                        connections.spawn(Box::pin(serve(shared.clone(), acceptor.clone(), tcp, from, place)));
                    }
                    // Closed by the drop: whoever it is may come again.
                    None => shared.reject(from, "too many have not proven who they are"),
                },
                Err(error) if is_about_the_peer(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept; pausing");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

fn is_about_the_peer(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted)
}

/// A connection once it has proven what it is.
enum Proven {
    Link(Conn<TlsStream<TcpStream>>, Admitted),
    Joiner(Conn<TlsStream<TcpStream>>),
}

async fn serve(shared: Arc<Shared>, acceptor: Arc<Acceptor>, tcp: TcpStream, from: SocketAddr, place: Place) {
    let within = shared.config.handshake_within;
    let proven = tokio::select! {
        () = shared.stop.cancelled() => return,
        proven = timeout(within, prove(&shared, &acceptor, tcp)) => {
            proven.unwrap_or_else(|_| Err(Down::HandshakeTimeout { within_ms: millis(within) }))
        }
    };
    match proven {
        Ok(Proven::Link(conn, admitted)) => {
            // From here on it is a link, and counted as such.
            drop(place);
            if let Some(handler) = shared.lanes.handler(admitted.link.lane()) {
                live(conn, admitted, handler).await;
            }
        }
        Ok(Proven::Joiner(conn)) => {
            // A joiner keeps its place: until it is granted, it has proven nothing.
            tokio::select! {
                () = shared.stop.cancelled() => {}
                served = serve_join(shared.join.as_ref(), conn) => {
                    if let Err(why) = served {
                        shared.reject(from, &why);
                    }
                }
            }
            drop(place);
        }
        Err(why) => shared.reject(from, &why.to_string()),
    }
}

async fn prove(shared: &Arc<Shared>, acceptor: &Acceptor, tcp: TcpStream) -> Result<Proven, Down> {
    tune(&tcp, shared.config.write_stall).map_err(|error| Down::of(&error))?;
    let (lane, stream) = acceptor.handshake(tcp).await?;
    if lane == Lane::Join {
        return Ok(Proven::Joiner(Conn::new(stream)));
    }
    let certificate = match stream.get_ref().1.peer_certificates() {
        Some([first, ..]) => NodeCertificate::read(first).map_err(|error| Down::Failed { why: error.to_string() })?,
        _ => return Err(Down::WeRefused(LinkRefused::OtherNode)),
    };
    let mut conn = Conn::new(stream);
    let admitted = match admit(shared, &mut conn, lane, &certificate).await? {
        Ok(link) => link,
        Err(why) => {
            conn.refuse(&why).await;
            return Err(Down::WeRefused(why));
        }
    };
    // The answer is the last step: a dialler that reads it knows that it is admitted.
    match conn.send(Kind::Hello, &shared.hello).await {
        Ok(()) => Ok(Proven::Link(conn, admitted)),
        Err(why) => {
            admitted.link.close(why.clone());
            Err(why)
        }
    }
}

/// Decides on a proven peer. The outer `Err` says that the connection failed, the inner one that it is refused and hears why.
async fn admit(
    shared: &Arc<Shared>,
    conn: &mut Conn<TlsStream<TcpStream>>,
    lane: Lane,
    certificate: &NodeCertificate,
) -> Result<Result<Admitted, LinkRefused>, Down> {
    if let Err(why) = shared.allows(certificate) {
        return Ok(Err(why));
    }
    let hello: Hello = match conn.expect(Kind::Hello, HELLO_BYTES_MAX).await {
        Err(Down::WeRefused(why)) => return Ok(Err(why)),
        read => read?,
    };
    if shared.lanes.handler(lane).is_none() {
        return Ok(Err(LinkRefused::NoSuchLane));
    }
    Ok(hello.agree(&shared.hello, certificate).and_then(|version| {
        if hello.node > shared.hello.node {
            return Err(LinkRefused::WrongDirection);
        }
        Shared::admit(shared, &hello, lane, version, certificate)
    }))
}

impl Shared {
    fn reject(&self, from: SocketAddr, why: &str) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("hiveward_cluster_connections_rejected_total").increment(1);
        tracing::debug!(%from, why, "connection rejected");
    }
}
