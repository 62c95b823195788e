//! Liveness, readiness and figures, for machines that watch.
//!
//! `/healthz` is open to all and says nothing. `/readyz` and `/metrics` are open on loopback, elsewhere they need a token.

use std::sync::Arc;

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{
    negotiate::Media,
    over_http::HttpRefusal,
    serve::{Gateway, Peer},
};

/// What the probes ask of the node.
pub trait Probe: Send + Sync + 'static {
    /// `Err` says in words what it waits for.
    fn ready(&self) -> Result<(), String>;
    /// The figures in Prometheus' text format.
    fn metrics(&self) -> String;
}

pub async fn healthz() -> &'static str {
    "ok\n"
}

fn allowed(gateway: &Gateway, peer: Option<Extension<Peer>>, headers: &HeaderMap) -> Result<(), Box<Response>> {
    // Called in process there is no peer: that is as local as it gets.
    if peer.is_none_or(|Extension(Peer(ip))| ip.is_loopback()) {
        return Ok(());
    }
    gateway
        .auth
        .headers(headers)
        .map(|_| ())
        .map_err(|refused| Box::new(HttpRefusal::unauthenticated(refused).answer(Media::Json)))
}

pub async fn readyz(State(gateway): State<Arc<Gateway>>, peer: Option<Extension<Peer>>, headers: HeaderMap) -> Response {
    if let Err(refused) = allowed(&gateway, peer, &headers) {
        return *refused;
    }
    if gateway.stopping.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    }
    match gateway.probe.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], format!("{why}\n")).into_response(),
    }
}

pub async fn metrics(State(gateway): State<Arc<Gateway>>, peer: Option<Extension<Peer>>, headers: HeaderMap) -> Response {
    if let Err(refused) = allowed(&gateway, peer, &headers) {
        return *refused;
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], gateway.probe.metrics()).into_response()
}
