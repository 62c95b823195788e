//! Keeps one link to one peer up, for ever: dial, run, wait longer after each failure, dial again.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Down, Lane, LaneHandler, Link, LinkRefused,
    conn::{Conn, Stream, tune},
    down::millis,
    frame::{HELLO_BYTES_MAX, Kind},
    hello::Hello,
    manager::Shared,
    run::run,
};
use crate::{
    net::identity::{NodeCertificate, NotAllowed, client_config, node_name},
    op::NodeId,
};

pub(super) async fn dial(shared: Arc<Shared>, peer: NodeId, lane: Lane, address: String) {
    let mut failures: u32 = 0;
    loop {
        let wait = shared.config.backoff.wait(failures, fastrand::f64());
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = sleep(wait) => {}
        }
        let started = Instant::now();
        // Boxed: the handshake's state is large, and rarely alive.
        let attempt = Box::pin(timeout(shared.config.handshake_within, connect(&shared, peer, lane, &address)));
        let connected = tokio::select! {
            () = shared.stop.cancelled() => return,
            connected = attempt => connected
                .unwrap_or_else(|_| Err(Down::HandshakeTimeout { within_ms: millis(shared.config.handshake_within) })),
        };
        match connected {
            Ok((conn, admitted)) => {
                let Some(handler) = shared.lanes.handler(lane) else { return };
                live(conn, admitted, handler).await;
                // One that held for a while makes the next failure the first again.
                failures = if started.elapsed() >= shared.config.backoff.reset_after { 1 } else { failures + 1 };
            }
            Err(why) => {
                tracing::debug!(%peer, ?lane, %why, "dial failed");
                shared.table.dial_failed(peer, lane, &why);
                failures = failures.saturating_add(1);
            }
        }
    }
}

/// An admitted link, which is on the table until this is dropped: at its end, at a timeout, at an abort.
pub(super) struct Admitted {
    pub(super) link: Link,
    shared: Arc<Shared>,
    /// The handler, set once it has heard that the link is up.
    handler: Option<Arc<dyn LaneHandler>>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.link.close(Down::Stopped);
        let why = self.link.why().unwrap_or(Down::Stopped);
        self.shared.table.ended(&self.link, &why);
        if let Some(handler) = &self.handler {
            handler.down(&self.link, &why);
        }
        tracing::info!(peer = %self.link.peer(), lane = ?self.link.lane(), %why, "link down");
    }
}

/// Runs an admitted link to its end, for both directions.
pub(super) async fn live<S: Stream>(conn: Conn<S>, mut admitted: Admitted, handler: &Arc<dyn LaneHandler>) {
    let link = admitted.link.clone();
    tracing::info!(peer = %link.peer(), lane = ?link.lane(), generation = link.generation(), "link up");
    admitted.handler = Some(handler.clone());
    handler.up(&link);
    // Whoever stops closes what is on the table; this one may have come after.
    if admitted.shared.stop.is_cancelled() {
        link.close(Down::Stopped);
    }
    run(conn, &link, handler, &admitted.shared.config).await;
}

async fn connect(
    shared: &Arc<Shared>,
    peer: NodeId,
    lane: Lane,
    address: &str,
) -> Result<(Conn<TlsStream<TcpStream>>, Admitted), Down> {
    let unreachable = |error: std::io::Error| Down::Unreachable { address: address.to_owned(), why: error.to_string() };
    let failed = |why: String| Down::Failed { why };
    if shared.lanes.handler(lane).is_none() {
        return Err(Down::WeRefused(LinkRefused::NoSuchLane));
    }
    let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
    tune(&tcp, shared.config.write_stall).map_err(unreachable)?;
    let config = client_config(&shared.identity, lane.protocol().to_vec()).map_err(|error| failed(error.to_string()))?;
    let name = ServerName::try_from(node_name(peer)).map_err(|error| failed(error.to_string()))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|error| Down::of(&error))?;
    let certificate = match stream.get_ref().1.peer_certificates() {
        Some([first, ..]) => NodeCertificate::read(first).map_err(|error| failed(error.to_string()))?,
        _ => return Err(Down::WeRefused(LinkRefused::OtherNode)),
    };
    let mut conn = Conn::new(stream);
    if let Err(why) = shared.allows(&certificate) {
        conn.refuse(&why).await;
        return Err(Down::WeRefused(why));
    }
    conn.send(Kind::Hello, &shared.hello).await?;
    let hello: Hello = conn.expect(Kind::Hello, HELLO_BYTES_MAX).await?;
    let admitted =
        hello.agree(&shared.hello, &certificate).and_then(|version| Shared::admit(shared, &hello, lane, version, &certificate));
    match admitted {
        Ok(admitted) => Ok((conn, admitted)),
        Err(why) => {
            conn.refuse(&why).await;
            Err(Down::WeRefused(why))
        }
    }
}

impl Shared {
    /// Checks whether the book lets in the holder of this certificate.
    pub(super) fn allows(&self, certificate: &NodeCertificate) -> Result<(), LinkRefused> {
        let node = certificate.node;
        // Never linked with itself: it hears that the id is taken, which is what whoever copied a data directory must know.
        if node == self.hello.node {
            return Ok(());
        }
        match self.identity.allowed().check(certificate) {
            Ok(()) => Ok(()),
            Err(NotAllowed::Removed) => Err(LinkRefused::Voided { node }),
            Err(NotAllowed::Unknown) => {
                self.strangers.notify_one();
                Err(LinkRefused::Unknown { node })
            }
            Err(NotAllowed::OtherKey) => Err(LinkRefused::OtherKey { node }),
        }
    }

    pub(super) fn admit(
        shared: &Arc<Self>,
        hello: &Hello,
        lane: Lane,
        version: u16,
        certificate: &NodeCertificate,
    ) -> Result<Admitted, LinkRefused> {
        let config = &shared.config;
        let make = || Link::new(lane, hello, certificate.key, version, config.outbound_bytes_max, config.window_bytes);
        let link = shared.table.admit(hello, lane, make)?;
        let admitted = Admitted { link, shared: shared.clone(), handler: None };
        // Once more: the book may have changed before the link was there to be closed for it.
        shared.allows(certificate)?;
        Ok(admitted)
    }
}
