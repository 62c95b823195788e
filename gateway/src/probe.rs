//! Liveness, readiness and figures, for machines that watch.
//!
//! `/healthz` is open to all and says nothing. `/readyz` and `/metrics` are open to programs of this machine that ask for it
//! by a loopback name; all others need a token, and so does what a proxy of this machine passes on.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};

use crate::{
    negotiate::Media,
    places::{forwarded, meant_for_loopback},
    serve::{Gateway, Peer},
};

/// The questions that the probes ask of the node.
pub trait Probe: Send + Sync + 'static {
    /// Tells whether the node serves. The error says in words what it waits for.
    fn ready(&self) -> Result<(), String>;
    /// Returns the figures in Prometheus' text format.
    fn metrics(&self) -> String;
}

/// Answers `/healthz`: the process lives.
pub async fn healthz() -> &'static str {
    "ok\n"
}

fn allowed(gateway: &Gateway, request: &Parts) -> Result<(), Box<Response>> {
    // Called in process there is no peer: that is as local as it gets.
    let local = request.extensions.get::<Peer>().is_none_or(|Peer(ip)| ip.is_loopback());
    if local && !forwarded(&request.headers) && meant_for_loopback(&request.headers) {
        return Ok(());
    }
    gateway.known(request).map(|_| ()).map_err(|refusal| Box::new(refusal.answer(Media::Json)))
}

/// Answers `/readyz`: 200 if the node serves, else 503 with the reason.
pub async fn readyz(State(gateway): State<Arc<Gateway>>, request: Parts) -> Response {
    if let Err(refused) = allowed(&gateway, &request) {
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

/// Answers `/metrics` with the figures in Prometheus' text format.
pub async fn metrics(State(gateway): State<Arc<Gateway>>, request: Parts) -> Response {
    if let Err(refused) = allowed(&gateway, &request) {
        return *refused;
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], gateway.probe.metrics()).into_response()
}
